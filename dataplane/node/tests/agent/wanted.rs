//! What a test's control wants, and the configuration of a node for it.

use std::net::SocketAddr;
use std::path::Path;

use penstock_api::v1::{
    Desired, DesiredNamespace, DesiredSubsystem, DesiredVolume, Extent, Layout,
};

use crate::daemon;

pub const MIB: u64 = 1 << 20;
pub const STORE: &str = "store-1";

/// Identity number `number` of a kind.
pub fn uid(kind: u32, number: u32) -> String {
    format!("{kind:08x}-0000-4000-8000-{number:012x}")
}

pub fn nqn(number: u32) -> String {
    format!("nqn.2026-01.io.penstock:agent{number}")
}

/// A node `n1` with a device of 64 MiB, under the control at `address`.
pub fn config(folder: &Path, address: SocketAddr) -> String {
    config_with(folder, &format!("endpoints = [\"http://{address}\"]\n"))
}

/// The same, with these keys of `[control]` instead of the endpoint.
pub fn config_with(folder: &Path, control: &str) -> String {
    let shown = folder.display();
    format!(
        "[node]\nname = \"n1\"\n{}[control]\nstate_directory = \"{shown}/state\"\n\
         reconnect_backoff_max_ms = 200\n{control}\n{}\
         [[device]]\nname = \"d0\"\nbackend = \"file\"\npath = \"{shown}/d0.img\"\n\
         size_bytes = 67108864\n",
        daemon::head(),
        daemon::listener("127.0.0.1:0")
    )
}

/// Volume `number`: 8 MiB, each behind the one before.
pub fn volume(number: u32, epoch: u64) -> DesiredVolume {
    DesiredVolume {
        uid: uid(1, number),
        name: format!("volumes/v{number}"),
        size_bytes: 8 * MIB,
        block_size_bytes: 4096,
        layout: Some(Layout {
            node: "nodes/n1".to_owned(),
            epoch,
            extents: vec![Extent {
                device: "nodes/n1/devices/d0".to_owned(),
                offset_bytes: 8 * MIB * u64::from(number - 1),
                length_bytes: 8 * MIB,
            }],
            stripe_width: 1,
            ..Layout::default()
        }),
        generation: 1,
        ..DesiredVolume::default()
    }
}

pub fn subsystem(number: u32) -> DesiredSubsystem {
    DesiredSubsystem {
        uid: uid(2, number),
        name: format!("subsystems/s{number}"),
        nqn: nqn(number),
        serial: format!("S{number}"),
        model: "Penstock".to_owned(),
        allow_any_host: true,
        namespaces_max: 16,
        controller_id_min: 1,
        controller_id_max: 1023,
        ..DesiredSubsystem::default()
    }
}

/// Volume `number` as namespace 1 of subsystem `number`.
pub fn namespace(number: u32) -> DesiredNamespace {
    DesiredNamespace {
        uid: uid(3, number),
        name: format!("subsystems/s{number}/namespaces/ns1"),
        subsystem_uid: uid(2, number),
        volume_uid: uid(1, number),
        nsid: 1,
        uuid: uid(3, number),
        generation: 1,
        ..DesiredNamespace::default()
    }
}

pub fn empty(revision: i64) -> Desired {
    Desired {
        revision,
        store_id: STORE.to_owned(),
        complete: true,
        ..Desired::default()
    }
}

/// A complete state with volume 1 served as a namespace.
pub fn one_served(revision: i64) -> Desired {
    Desired {
        volumes: vec![volume(1, 1)],
        subsystems: vec![subsystem(1)],
        namespaces: vec![namespace(1)],
        ..empty(revision)
    }
}

/// The same as changes only.
pub fn changes(desired: Desired) -> Desired {
    Desired {
        complete: false,
        ..desired
    }
}
