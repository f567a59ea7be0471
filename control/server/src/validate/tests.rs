use penstock_api::v1::volume_spec::Redundancy;
use penstock_api::v1::{
    Host, HostSpec, Listener, ListenerSpec, Namespace, NamespaceSpec, Node, NodeSpec, Placement,
    Stripe, Subsystem, SubsystemSpec, Volume, VolumeSpec,
};
use penstock_api::well_known::FieldMask;

use super::*;

const MIB: i64 = 1 << 20;

fn volume(change: impl FnOnce(&mut VolumeSpec)) -> Volume {
    let mut spec = VolumeSpec {
        size_bytes: MIB,
        ..Default::default()
    };
    change(&mut spec);
    Volume {
        spec: Some(spec),
        ..Default::default()
    }
}

/// The one field that is refused, and why.
fn refused<R: Policy>(found: &R) -> (String, String) {
    let fault = resource(found).unwrap_err();
    assert_eq!(fault.reason, "INVALID_FIELD");
    let violation = &fault.violations[0];
    (violation.field.clone(), violation.description.clone())
}

#[test]
fn sizes_of_volumes() {
    for size in [MIB, 5 * MIB, i64::MAX - MIB + 1] {
        assert_eq!(resource(&volume(|spec| spec.size_bytes = size)), Ok(()));
    }
    for (size, why) in [
        (0, "not above zero"),
        (-MIB, "not above zero"),
        (i64::MIN, "not above zero"),
        (MIB - 1, "no multiple of 1 MiB"),
        (MIB + 1, "for example 2097152"),
        (i64::MAX, "beyond the largest"),
    ] {
        let (field, told) = refused(&volume(|spec| spec.size_bytes = size));
        assert_eq!(field, "volume.spec.size_bytes");
        assert!(told.contains(why), "{told}");
        assert!(told.contains(&size.to_string()), "{told}");
    }
}

#[test]
fn other_fields_of_volumes() {
    let stripe = |width, unit_bytes| {
        volume(|spec| spec.redundancy = Some(Redundancy::Stripe(Stripe { width, unit_bytes })))
    };
    let placed = |change: fn(&mut Placement)| {
        let mut placement = Placement::default();
        change(&mut placement);
        volume(|spec| spec.placement = Some(placement))
    };
    assert_eq!(resource(&stripe(2, 0)), Ok(()));
    assert_eq!(resource(&stripe(32, 16_777_216)), Ok(()));
    for (bad, field) in [
        (stripe(1, 0), "volume.spec.stripe.width"),
        (stripe(33, 0), "volume.spec.stripe.width"),
        (stripe(2, 4_095), "volume.spec.stripe.unit_bytes"),
        (stripe(2, 12_288), "volume.spec.stripe.unit_bytes"),
        (stripe(2, 33_554_432), "volume.spec.stripe.unit_bytes"),
        (volume(|spec| spec.block_size = 9), "volume.spec.block_size"),
        (
            placed(|p| p.node = "n1".into()),
            "volume.spec.placement.node",
        ),
        (
            placed(|p| p.devices = vec!["nodes/n1".into()]),
            "volume.spec.placement.devices",
        ),
        (
            placed(|p| {
                p.devices = vec!["nodes/a/devices/d".into(), "nodes/b/devices/d".into()];
            }),
            "volume.spec.placement.devices",
        ),
        (
            placed(|p| {
                p.node = "nodes/b".into();
                p.devices = vec!["nodes/a/devices/d".into()];
            }),
            "volume.spec.placement.devices",
        ),
        (
            placed(|p| p.devices = vec!["nodes/a/devices/d".into(); 2]),
            "volume.spec.placement.devices",
        ),
        (
            placed(|p| p.anti_affinity_group = "g".repeat(64)),
            "volume.spec.placement.anti_affinity_group",
        ),
        (
            placed(|p| {
                p.node_labels.insert(String::new(), "x".into());
            }),
            "volume.spec.placement.node_labels",
        ),
    ] {
        assert_eq!(refused(&bad).0, field, "{bad:?}");
    }
}

#[test]
fn labels_of_any_kind() {
    let labelled = |pairs: Vec<(String, String)>| Node {
        labels: pairs.into_iter().collect(),
        ..Default::default()
    };
    let many = |count: usize| {
        (0..count)
            .map(|i| (format!("k{i}"), String::new()))
            .collect()
    };
    assert_eq!(resource(&labelled(many(64))), Ok(()));
    for bad in [
        many(65),
        vec![(String::new(), "v".into())],
        vec![("k".repeat(64), "v".into())],
        vec![("k".into(), "v".repeat(64))],
        vec![("k".into(), "a\nb".into())],
    ] {
        assert_eq!(refused(&labelled(bad)).0, "node.labels");
    }
}

#[test]
fn fields_of_subsystems() {
    let subsystem = |change: fn(&mut SubsystemSpec)| {
        let mut spec = SubsystemSpec::default();
        change(&mut spec);
        Subsystem {
            spec: Some(spec),
            ..Default::default()
        }
    };
    assert_eq!(resource(&subsystem(|_| ())), Ok(()));
    for (bad, field) in [
        (subsystem(|s| s.nqn = "s".into()), "nqn"),
        (subsystem(|s| s.serial = "s".repeat(21)), "serial"),
        (subsystem(|s| s.serial = "\u{e4}".into()), "serial"),
        (subsystem(|s| s.model = "m".repeat(41)), "model"),
        (subsystem(|s| s.namespaces_max = 4_097), "namespaces_max"),
        (subsystem(|s| s.hosts = vec!["h".into()]), "hosts"),
        (subsystem(|s| s.hosts = vec!["hosts/h".into(); 2]), "hosts"),
        (
            subsystem(|s| s.hosts = vec!["hosts/h".into(); 1_025]),
            "hosts",
        ),
    ] {
        assert_eq!(refused(&bad).0, format!("subsystem.spec.{field}"));
    }
}

#[test]
fn fields_of_hosts_and_nodes() {
    let host = |nqn: &str| Host {
        spec: Some(HostSpec { nqn: nqn.into() }),
        ..Default::default()
    };
    let node = |domain: &str, value: &str| Node {
        spec: Some(NodeSpec {
            failure_domains: [(domain.to_owned(), value.to_owned())].into(),
            cordoned: false,
        }),
        ..Default::default()
    };
    assert_eq!(resource(&host("nqn.2014-08.org.example:h")), Ok(()));
    assert_eq!(resource(&node("rack", "r1")), Ok(()));
    for bad in ["", "h", &"n".repeat(224)] {
        assert_eq!(refused(&host(bad)).0, "host.spec.nqn");
    }
    for (domain, value) in [("Rack", "r1"), ("rack", ""), ("rack", &"r".repeat(64))] {
        assert_eq!(refused(&node(domain, value)).0, "node.spec.failure_domains");
    }
}

#[test]
fn fields_of_namespaces() {
    let namespace = |volume: &str, nsid, uuid: &str| Namespace {
        spec: Some(NamespaceSpec {
            volume: volume.into(),
            nsid,
            uuid: uuid.into(),
        }),
        ..Default::default()
    };
    assert_eq!(resource(&namespace("volumes/v", 0, "")), Ok(()));
    for (bad, field) in [
        (namespace("v", 0, ""), "volume"),
        (namespace("", 0, ""), "volume"),
        (namespace("volumes/v", 4_097, ""), "nsid"),
        (namespace("volumes/v", 1, "x"), "uuid"),
    ] {
        assert_eq!(refused(&bad).0, format!("namespace.spec.{field}"));
    }
}

#[test]
fn fields_of_listeners() {
    let listener = |transport: &str, address: &str, port| Listener {
        spec: Some(ListenerSpec {
            transport: transport.into(),
            address: address.into(),
            port,
        }),
        ..Default::default()
    };
    assert_eq!(resource(&listener("", "::", 0)), Ok(()));
    for (bad, field) in [
        (listener("rdma", "::", 1), "transport"),
        (listener("tcp", "localhost", 1), "address"),
        (listener("tcp", "", 1), "address"),
        (listener("tcp", "224.0.0.1", 1), "address"),
        (listener("tcp", "::", 65_536), "port"),
    ] {
        assert_eq!(refused(&bad).0, format!("listener.spec.{field}"));
    }
}

#[test]
fn request_ids_and_pages() {
    assert_eq!(request_id(""), Ok(()));
    assert_eq!(request_id(&"x".repeat(64)), Ok(()));
    for bad in [
        "x".repeat(65),
        "a b".into(),
        "a/b".into(),
        "ä".into(),
        "\n".into(),
    ] {
        assert_eq!(
            request_id(&bad).unwrap_err().violations[0].field,
            "request_id"
        );
    }
    assert_eq!(page_size(0), Ok(PAGE_SIZE_DEFAULT));
    assert_eq!(page_size(7), Ok(7));
    assert_eq!(page_size(i32::MAX), Ok(PAGE_SIZE_MAX));
    assert_eq!(page_size(-1).unwrap_err().violations[0].field, "page_size");
}

#[test]
fn names_outside_the_grammar() {
    for bad in ["", "V", "1v", "v-", "a b", "a/b", "ü", &"v".repeat(64)] {
        let fault = new_name(Kind::Volume, None, bad).unwrap_err();
        assert_eq!(fault.violations[0].field, "volume_id", "{bad}");
    }
    assert_eq!(
        name(Kind::Volume, "name", "nodes/n1")
            .unwrap_err()
            .violations[0]
            .field,
        "name"
    );
}

fn mask(paths_of: &[&str]) -> Option<FieldMask> {
    Some(FieldMask {
        paths: paths_of.iter().map(ToString::to_string).collect(),
    })
}

#[test]
fn masks_choose_what_changes() {
    let mut existing = volume(|spec| spec.size_bytes = MIB);
    existing.fill("c");
    let mut new = volume(|spec| spec.size_bytes = 2 * MIB);
    new.labels.insert("a".into(), "b".into());
    let grown = paths(&existing, &new, mask(&["spec.size_bytes"]).as_ref()).unwrap();
    assert_eq!(grown.spec.as_ref().unwrap().size_bytes, 2 * MIB);
    assert!(grown.labels.is_empty());
    let all = paths(&existing, &new, mask(&["*"]).as_ref()).unwrap();
    assert_eq!(all.labels.len(), 1);
    assert_eq!(all.spec, grown.spec);
    for (bad, told) in [
        (None, "it is empty"),
        (mask(&[]), "it is empty"),
        (mask(&["spec.colour"]), "labels, spec.size_bytes"),
        (mask(&["spec"]), "labels, spec.size_bytes"),
        (mask(&["status"]), "labels, spec.size_bytes"),
        (mask(&["spec.block_size"]), "cannot be changed"),
        (mask(&["*", "labels"]), "send it alone"),
    ] {
        let fault = paths(&existing, &new, bad.as_ref()).unwrap_err();
        assert_eq!(fault.violations[0].field, "update_mask", "{bad:?}");
        assert!(fault.message.contains(told), "{}", fault.message);
    }
    new.spec.as_mut().unwrap().block_size = 1;
    let fault = paths(&existing, &new, mask(&["*"]).as_ref()).unwrap_err();
    assert_eq!(fault.violations[0].field, "volume.spec.block_size");
}

#[test]
fn unset_fields_are_as_they_were_decided() {
    let mut existing = Subsystem {
        name: "subsystems/s1".into(),
        uid: "01234567-89ab-cdef-0123-456789abcdef".into(),
        ..Default::default()
    };
    existing.fill("lab");
    let spec = existing.spec.clone().unwrap();
    assert_eq!(spec.nqn, "nqn.2026-01.io.penstock:lab:s1");
    assert_eq!(spec.serial, "0123456789abcdef0123");
    assert_eq!(
        (spec.model.as_str(), spec.namespaces_max),
        ("Penstock", 1_024)
    );
    let mut new = Subsystem::default();
    new.inherit(&existing);
    assert_eq!(differences(&new, &existing), []);
    new.spec.as_mut().unwrap().model = "Other".into();
    let told = differences(&new, &existing);
    assert_eq!(told.len(), 1);
    assert_eq!(
        told[0].to_string(),
        "spec.model is \"Other\", not \"Penstock\""
    );
}
