//! The real program against a control server of memory.

#![allow(clippy::expect_used, reason = "a test that cannot be set up must fail")]

mod fake;

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use fake::{Fake, penstock, refusal, told};
use penstock_api::v1::{
    Host, HostSpec, Layout, Node, NodeStatus, Orphan, OrphanObject, Volume, VolumeSpec,
    VolumeStatus, WatchEvent, WatchEventType,
};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

fn run(fake: &Fake, line: &str) -> (i32, String, String) {
    let address = fake.serve(None).to_string();
    let words = line.split_whitespace();
    told(
        &penstock(&address)
            .args(words)
            .output()
            .expect("run penstock"),
    )
}

#[test]
fn a_volume_is_made_seen_and_deleted() {
    let fake = Fake::default();
    let (code, out, err) = run(
        &fake,
        "volume create v1 --size 100GiB --node n1 --label tier=fast",
    );
    assert_eq!(code, 0, "{err}");
    assert_eq!(
        out,
        "volumes/v1 is being created (the node clears it): penstock operation wait 1\n"
    );
    let (_, out, _) = run(&fake, "volume list");
    assert!(out.starts_with("NAME  STATE     SIZE  NODE"), "{out}");
    assert!(out.contains("v1    new    100 GiB"), "{out}");
    let (_, out, _) = run(&fake, "volume get volumes/v1 -o json");
    let json: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(json["spec"]["size_bytes"], "107374182400");
    assert_eq!(json["spec"]["placement"]["node"], "nodes/n1");
    let (_, out, _) = run(&fake, "volume get v1 -o yaml");
    assert!(out.starts_with("name: volumes/v1\n"), "{out}");
    let (_, out, _) = run(&fake, "volume describe v1");
    assert!(
        out.contains("size: 100 GiB") && out.contains("create began") || out.contains("events"),
        "{out}"
    );
    let (code, out, _) = run(&fake, "volume delete v1 --wait");
    assert_eq!((code, out.as_str()), (0, "volumes/v1 deleted\n"));
    assert!(fake.state().volumes.is_empty());
}

#[test]
fn waiting_tells_what_it_waits_for_and_gives_up_in_time() {
    let fake = Fake::default();
    fake.state().waits = 2;
    let (code, out, err) = run(&fake, "volume create v1 --size 1GiB --wait");
    assert_eq!((code, out.as_str()), (0, "volumes/v1 created\n"), "{err}");
    assert!(err.contains("volumes/v1: create: 2 more to clear"), "{err}");
    fake.state().waits = 1_000_000;
    let (code, _, err) = run(&fake, "volume create v2 --size 1GiB --wait --timeout 300ms");
    assert_eq!(code, 5, "{err}");
    assert!(
        err.contains("it goes on") && err.contains("penstock operation wait 2"),
        "{err}"
    );
}

#[test]
fn lists_have_all_pages() {
    let fake = Fake::default();
    for n in 0..5 {
        let name = format!("hosts/h{n}");
        fake.state().hosts.insert(
            name.clone(),
            Host {
                name,
                ..Host::default()
            },
        );
    }
    let (_, out, _) = run(&fake, "host list -o name");
    assert_eq!(out.lines().count(), 5, "{out}");
    let (_, out, err) = run(&fake, "volume list");
    assert_eq!((out.as_str(), err.as_str()), ("", "no volumes\n"));
}

#[test]
fn failures_have_their_codes_and_remedies() {
    let fake = Fake::default();
    let (code, _, err) = run(&fake, "volume get v9");
    assert_eq!(code, 3);
    assert!(
        err.starts_with("penstock: volumes/v9 does not exist"),
        "{err}"
    );
    let mut details = ErrorDetails::with_error_info("INVALID", "penstock", []);
    details.add_bad_request_violation("volume.spec.size_bytes", "is no multiple of 1 MiB");
    let refused = Status::with_error_details(Code::InvalidArgument, "correct the fields", details);
    fake.state().mishaps.push_back(refused);
    let (code, _, err) = run(&fake, "volume create v1 --size 1000");
    assert_eq!(code, 1);
    assert!(
        err.contains("volume.spec.size_bytes: is no multiple of 1 MiB"),
        "{err}"
    );
    for (line, part) in [
        ("volume create v1 --size 10parsecs", "like 100GiB"),
        ("volume create v1 --size -5", "it is negative"),
        ("volume create v1", "--size"),
        ("volume create a/b --size 1GiB", "v1 or volumes/v1"),
        ("volume list --endpoint nowhere", "scheme, host, port"),
        ("host update h1", "nothing to change"),
        ("watch --kind disk", "no kind"),
    ] {
        let (code, _, err) = run(&fake, line);
        assert_eq!(code, 2, "{line}: {err}");
        assert!(err.contains(part), "{line}: {err}");
    }
    let output = penstock("127.0.0.1:1")
        .args(["node", "list"])
        .output()
        .expect("run penstock");
    let (code, _, err) = told(&output);
    assert_eq!(code, 4);
    assert!(
        err.contains("http://127.0.0.1:1") && err.contains("penstock up"),
        "{err}"
    );
}

#[test]
fn a_deletion_by_force_says_what_is_lost() {
    let fake = Fake::default();
    for (id, node) in [("v1", "n1"), ("v2", "n2"), ("v3", "n1")] {
        let name = format!("volumes/{id}");
        let layout = Layout {
            node: format!("nodes/{node}"),
            ..Layout::default()
        };
        let volume = Volume {
            name: name.clone(),
            spec: Some(VolumeSpec {
                size_bytes: 3 << 30,
                ..VolumeSpec::default()
            }),
            status: Some(VolumeStatus {
                layout: Some(layout),
                namespace: format!("subsystems/s1/namespaces/{id}"),
                ..VolumeStatus::default()
            }),
            ..Volume::default()
        };
        fake.state().volumes.insert(name, volume);
    }
    let lost = "with nodes/n1:\n\
         \x20 volumes/v1 (3 GiB of data), and subsystems/s1/namespaces/v1\n\
         \x20 volumes/v3 (3 GiB of data), and subsystems/s1/namespaces/v3\n\
         \x20 nodes/n1/listeners/l1\n\
         should the node come back";
    let (code, out, err) = run(&fake, "node delete n1 --force --dry-run");
    assert_eq!(code, 0, "{err}");
    assert_eq!(out, "nodes/n1 could be deleted; nothing is changed\n");
    assert!(err.starts_with("warning: this would be lost"), "{err}");
    assert!(err.contains(lost), "{err}");
    let (_, out, err) = run(&fake, "node delete n1 --force");
    assert_eq!(out, "nodes/n1 deleted\n");
    assert!(err.starts_with("warning: this is lost"), "{err}");
    let (_, _, err) = run(&fake, "node delete n1");
    assert_eq!(err, "");
    let asked: Vec<_> = fake.state().changes.clone();
    let asked: Vec<_> = asked.iter().map(|c| (c.1.as_str(), c.3)).collect();
    let (with, without) = ("nodes/n1 force true", "nodes/n1 force false");
    let wanted = [
        (with, true),
        (with, true),
        (with, true),
        (with, false),
        (without, false),
    ];
    assert_eq!(asked, wanted, "each is checked first");
    // What is refused loses nothing, and nothing is said of that.
    let refused = refusal(
        Code::FailedPrecondition,
        "nodes/n1 is connected",
        "NODE_ONLINE",
    );
    fake.state().mishaps.push_back(refused);
    let (code, _, err) = run(&fake, "node delete n1 --force");
    assert_eq!(code, 1);
    assert!(err.starts_with("penstock: nodes/n1 is connected"), "{err}");
    let (code, _, err) = run(&fake, "host delete h1 --force");
    assert_eq!(code, 2, "{err}");
}

#[test]
fn a_repetition_after_a_broken_call_is_the_same_request() {
    let fake = Fake::default();
    fake.state()
        .mishaps
        .push_back(refusal(Code::Unavailable, "no leader", "STORE"));
    let (code, _, err) = run(&fake, "host create h1 --nqn nqn.2014-08.org.example:h");
    assert_eq!(code, 0, "{err}");
    let state = fake.state();
    assert_eq!(state.changes.len(), 2);
    assert_eq!(state.changes[0], state.changes[1]);
    assert_eq!(state.changes[0].2.len(), 36, "{:?}", state.changes);
}

#[test]
fn a_change_is_made_to_what_is_there_now() {
    let fake = Fake::default();
    run(&fake, "volume create v1 --size 1GiB --label a=1");
    fake.state().mishaps.push_back(refusal(
        Code::Aborted,
        "somebody was faster",
        "ETAG_MISMATCH",
    ));
    let (code, _, err) = run(&fake, "volume update v1 --label b=2");
    assert_eq!(code, 0, "{err}");
    assert_eq!(fake.state().changes[2].1, "volumes/v1 labels if 1");
    let labels = fake.state().volumes["volumes/v1"].labels.clone();
    assert_eq!(
        labels.into_iter().map(|(k, v)| k + &v).collect::<String>(),
        "a1b2"
    );
    fake.state().mishaps.push_back(refusal(
        Code::Aborted,
        "somebody was faster",
        "ETAG_MISMATCH",
    ));
    let (code, _, err) = run(&fake, "volume update v1 --label b=3 --etag 1");
    assert_eq!(code, 1);
    assert!(err.contains("[ETAG_MISMATCH: a=b]"), "{err}");
    let (code, _, err) = run(&fake, "volume grow v1 --size +1GiB");
    assert_eq!(code, 0, "{err}");
    let size = |fake: &Fake| {
        fake.state().volumes["volumes/v1"]
            .spec
            .as_ref()
            .map(|s| s.size_bytes)
    };
    assert_eq!(size(&fake), Some(2 << 30));
    let (code, _, err) = run(&fake, "volume grow v1 --size 1GiB");
    assert_eq!((code, size(&fake)), (2, Some(2 << 30)));
    assert!(err.contains("only grows"), "{err}");
}

#[test]
fn orphans_are_shown_and_resolved_by_a_persons_word() {
    let fake = Fake::default();
    let orphan = Orphan {
        volume_uid: "u1".into(),
        volume: "volumes/v1".into(),
        reason: "MissingInStore".into(),
        size_bytes: 1 << 30,
        namespaces: vec!["subsystems/s/namespaces/m".into()],
        ..Orphan::default()
    };
    let status = NodeStatus {
        orphans: vec![orphan],
        orphan_objects: vec![OrphanObject {
            name: "subsystems/s/namespaces/n".into(),
            volume: "volumes/v2".into(),
        }],
        ..NodeStatus::default()
    };
    let node = Node {
        name: "nodes/n1".into(),
        status: Some(status),
        ..Node::default()
    };
    fake.state().nodes.insert("nodes/n1".into(), node);
    let (_, out, err) = run(&fake, "node orphans");
    let told = "nodes/n1 serves subsystems/s/namespaces/n without the store's knowledge";
    assert!(err.contains(told) && err.contains("of volumes/v2"), "{err}");
    assert!(
        out.contains("n1    u1          v1      MissingInStore  1 GiB"),
        "{out}"
    );
    let (code, _, err) = run(&fake, "node resolve-orphan n1 u1");
    assert_eq!(code, 2, "{err}");
    let (code, _, err) = run(&fake, "node resolve-orphan n1 u2 --adopt");
    assert_eq!(code, 3, "{err}");
    let (code, out, err) = run(&fake, "node resolve-orphan n1 u1 --adopt");
    assert_eq!(code, 0, "{err}");
    assert_eq!(out, "volumes/v1 (u1) is being adopted\n");
    let told = "served on through subsystems/s/namespaces/m";
    assert!(
        err.contains(told) && err.contains("create them again"),
        "{err}"
    );
    assert_eq!(fake.state().changes[0].1, "nodes/n1 u1 1");
}

fn event(kind: WatchEventType, name: &str, nqn: &str, token: &str) -> Result<WatchEvent, Status> {
    let host = Host {
        name: name.into(),
        spec: Some(HostSpec { nqn: nqn.into() }),
        ..Host::default()
    };
    let bare = kind == WatchEventType::Synced;
    Ok(WatchEvent {
        r#type: kind.into(),
        resume_token: token.into(),
        resource: (!bare).then_some(penstock_api::v1::watch_event::Resource::Host(host)),
    })
}

#[test]
fn a_watch_goes_on_through_broken_streams_and_lost_history() {
    use WatchEventType::{Added, Modified, Synced};
    let fake = Fake::default();
    let broken = || Err(Status::unavailable("the server stops"));
    let too_old = refusal(Code::OutOfRange, "relist", "RESUME_TOKEN_TOO_OLD");
    fake.state().watching.extend([
        Ok(vec![
            event(Added, "hosts/a", "1", "t1"),
            event(Synced, "", "", "t2"),
            broken(),
        ]),
        Ok(vec![event(Modified, "hosts/a", "2", "t3"), broken()]),
        Err(too_old),
        Ok(vec![
            event(Added, "hosts/b", "1", "t4"),
            event(Synced, "", "", "t5"),
        ]),
    ]);
    let address = fake.serve(None).to_string();
    let mut watching = penstock(&address)
        .args(["host", "watch", "-o", "name"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("run penstock");
    let lines = BufReader::new(watching.stdout.take().expect("its output")).lines();
    let told: Vec<String> = lines.take(4).map(|line| line.expect("a line")).collect();
    watching.kill().expect("end it");
    watching.wait().expect("its end");
    assert_eq!(
        told,
        [
            "ADDED hosts/a",
            "MODIFIED hosts/a",
            "ADDED hosts/b",
            "DELETED hosts/a"
        ]
    );
    assert_eq!(fake.state().tokens[..4], ["", "t2", "t3", ""]);
}

fn apply(fake: &Fake, text: &str, flags: &[&str]) -> (i32, String, String) {
    let address = fake.serve(None).to_string();
    let mut command = penstock(&address);
    command.args(["apply", "-f", "-"]).args(flags);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("run penstock");
    let mut input = child.stdin.take().expect("its input");
    input.write_all(text.as_bytes()).expect("write");
    drop(input);
    told(&child.wait_with_output().expect("its end"))
}

const FILE: &str = "\
kind: Volume
name: v1
labels: {tier: fast}
spec: {size_bytes: 10GiB}
---
kind: Host
name: h1
spec: {nqn: 'nqn.2014-08.org.example:h'}
";

#[test]
fn files_are_applied_once_and_changes_shown() {
    let fake = Fake::default();
    let (code, out, err) = apply(&fake, FILE, &["--dry-run"]);
    assert_eq!(code, 0, "{err}");
    assert!(
        out.contains("+   size_bytes: 10GiB") && out.contains("not yet"),
        "{out}"
    );
    assert!(
        fake.state().changes.iter().all(|change| change.3),
        "{:?}",
        fake.state().changes
    );
    assert!(fake.state().volumes.is_empty());
    let (code, out, err) = apply(&fake, FILE, &["--wait"]);
    assert_eq!(code, 0, "{err}");
    assert_eq!(
        out,
        "hosts/h1 created\nvolumes/v1 created\n2 created, 0 changed, 0 unchanged\n"
    );
    let before = fake.state().changes.len();
    let (_, out, _) = apply(&fake, FILE, &[]);
    assert!(
        out.ends_with("0 created, 0 changed, 2 unchanged\n"),
        "{out}"
    );
    assert_eq!(fake.state().changes.len(), before);
    let (_, out, _) = apply(&fake, &FILE.replace("10GiB", "20GiB"), &[]);
    assert!(
        out.contains("  -   size_bytes: 10GiB\n  +   size_bytes: 20GiB\n"),
        "{out}"
    );
    let last = fake.state().changes.last().cloned().expect("a change");
    assert!(
        last.1.starts_with("volumes/v1 spec.size_bytes if "),
        "{last:?}"
    );
    let (_, yaml, _) = run(&fake, "volume list -o yaml");
    let (code, out, err) = apply(&fake, &yaml, &["-o", "json"]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("\"unchanged\""), "{out}");
}

#[test]
fn a_wrong_file_changes_nothing() {
    let fake = Fake::default();
    let wrong = FILE.replace("nqn:", "nqm:");
    let (code, _, err) = apply(&fake, &wrong, &[]);
    assert_eq!(code, 2, "{err}");
    for part in ["document 2", "line 8", "did you mean `nqn`?"] {
        assert!(err.contains(part), "{part}: {err}");
    }
    for empty in ["", "# nothing yet\n", "---\n---\n"] {
        let (code, _, err) = apply(&fake, empty, &[]);
        assert_eq!(code, 2, "{err}");
        assert!(err.contains("there is nothing in"), "{empty:?}: {err}");
    }
    assert!(fake.state().changes.is_empty());
    let stale = format!(
        "name: volumes/v1\netag: old\n{}",
        "spec: {size_bytes: 1GiB}\n"
    );
    run(&fake, "volume create v1 --size 512MiB");
    fake.state()
        .mishaps
        .push_back(refusal(Code::Aborted, "read it again", "ETAG_MISMATCH"));
    let (code, _, err) = apply(&fake, &stale, &[]);
    assert_eq!(code, 1);
    assert!(
        err.contains("read it again") && err.contains("stopped here"),
        "{err}"
    );
    assert_eq!(
        fake.state().changes[1].1,
        "volumes/v1 spec.size_bytes if old"
    );
}

#[test]
fn completion_is_written_for_every_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let output = penstock("")
            .args(["completion", shell])
            .output()
            .expect("run penstock");
        let (code, out, _) = told(&output);
        assert_eq!(code, 0);
        assert!(out.contains("resolve-orphan"), "{shell}");
    }
}
