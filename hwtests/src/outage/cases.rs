//! The cases.

use super::late::stale_write;
use super::stack::{MEMORY, NODE, SUBSYSTEM, Stack, expect_condition};
use super::{Case, Times};
use crate::cluster::{Api, Identity, Options, Refusal, until};
use crate::error::{LabError, Result, check};
use penstock_api::v1;
use std::time::Duration;
use tonic::Code;

/// How long something stays broken.
const BROKEN: Duration = Duration::from_secs(3);
pub(super) const LIMIT: Duration = Duration::from_secs(60);
/// etcd's smallest quota that its own state and ours fit in.
const SMALL_QUOTA_BYTES: u64 = 16 << 20;
/// What fills it.
const FILLER_BYTES: usize = 1 << 20;

const ONE: Options = Options::members(1);

/// All cases.
pub const ALL: &[Case] = &[
    Case {
        name: "kill-control",
        about: "control is killed and started again",
        etcd: ONE,
        controls: 1,
        load_seconds: 15,
        steps: kill_control,
    },
    Case {
        name: "kill-etcd",
        about: "the only member of etcd is killed and started again",
        etcd: ONE,
        controls: 1,
        load_seconds: 25,
        steps: kill_etcd,
    },
    Case {
        name: "kill-majority",
        about: "two of three members of etcd are killed and started again",
        etcd: Options::members(3),
        controls: 1,
        load_seconds: 30,
        steps: kill_majority,
    },
    Case {
        name: "stale-leader",
        about: "the leader is stopped past its lease and resumed; it knows that it leads no more",
        etcd: ONE,
        controls: 2,
        load_seconds: 45,
        steps: stale_leader,
    },
    Case {
        name: "stale-write",
        about: "a leader's write lingers on its way to etcd until others may lead; it is refused",
        etcd: ONE,
        controls: 1,
        load_seconds: 35,
        steps: stale_write,
    },
    Case {
        name: "compact",
        about: "etcd forgets history that a watcher and a stopped control still want",
        etcd: ONE,
        controls: 1,
        load_seconds: 25,
        steps: compact,
    },
    Case {
        name: "restore",
        about: "etcd is restored from an older snapshot; nothing is deleted without a word",
        etcd: ONE,
        controls: 1,
        load_seconds: 50,
        steps: |stack, times| restore(stack, times, Identity::Other),
    },
    Case {
        name: "restore-same",
        about: "the same, and the older store calls itself what the younger did",
        etcd: ONE,
        controls: 1,
        load_seconds: 50,
        steps: |stack, times| restore(stack, times, Identity::Same),
    },
    Case {
        name: "full",
        about: "etcd runs into its quota and is given room again",
        etcd: Options {
            members: 1,
            quota_bytes: Some(SMALL_QUOTA_BYTES),
        },
        controls: 1,
        load_seconds: 35,
        steps: full,
    },
    Case {
        name: "cut-stream",
        about: "the agent's stream breaks, and later hangs as in a partition",
        etcd: ONE,
        controls: 1,
        load_seconds: 60,
        steps: cut_stream,
    },
    Case {
        name: "node-alone",
        about: "the node starts again with everything else dead and serves its data",
        etcd: ONE,
        controls: 1,
        load_seconds: 0,
        steps: node_alone,
    },
];

fn broken() {
    std::thread::sleep(BROKEN);
}

/// Fails unless the answer is a refusal that says the store is away.
fn expect_unavailable<T>(answer: std::result::Result<T, Refusal>) -> Result<()> {
    match answer {
        Err(refusal) if refusal.code == Code::Unavailable => Ok(()),
        Err(refusal) => Err(LabError::Check(format!(
            "with the store away control says {refusal:?}, not UNAVAILABLE"
        ))),
        Ok(_) => Err(LabError::Check(
            "with the store away a change was taken".into(),
        )),
    }
}

fn kill_control(stack: &mut Stack, times: &mut Times) -> Result<()> {
    stack.controls[0].service.kill()?;
    broken();
    stack.controls[0].launch()?;
    times.add("in sync after", stack.wait_synced(LIMIT)?);
    Ok(())
}

fn kill_etcd(stack: &mut Stack, times: &mut Times) -> Result<()> {
    stack.etcd.kill(1)?;
    let api = stack.api()?;
    expect_unavailable(api.create_volume("meanwhile", 1, NODE, MEMORY))?;
    broken();
    stack.etcd.revive()?;
    let taken = until("control to take changes", LIMIT, || {
        // The same request again: what became of the first does not matter.
        api.create_volume("meanwhile", 1, NODE, MEMORY)?;
        Ok(true)
    })?;
    times.add("changes taken after", taken);
    times.add("in sync after", stack.wait_synced(LIMIT)?);
    Ok(())
}

fn kill_majority(stack: &mut Stack, times: &mut Times) -> Result<()> {
    let one_less = stack.etcd.len() - 2;
    check(one_less == 1, || "three members are wanted".into())?;
    stack.etcd.kill(2)?;
    let api = stack.api()?;
    expect_unavailable(api.create_volume("meanwhile", 1, NODE, MEMORY))?;
    broken();
    stack.etcd.revive()?;
    let taken = until("control to take changes", LIMIT, || {
        api.create_volume("meanwhile", 1, NODE, MEMORY)?;
        Ok(true)
    })?;
    times.add("changes taken after", taken);
    times.add("in sync after", stack.wait_synced(LIMIT)?);
    Ok(())
}

/// The index of the only server that says it is the leader.
fn leader(stack: &Stack) -> Result<usize> {
    let mut found = None;
    for (index, control) in stack.controls.iter().enumerate() {
        if control.is_leader()? {
            check(found.is_none(), || "two servers say they lead".into())?;
            found = Some(index);
        }
    }
    found.ok_or_else(|| LabError::Check("no server says it leads".into()))
}

fn stale_leader(stack: &mut Stack, times: &mut Times) -> Result<()> {
    let old = leader(stack)?;
    let new = 1 - old;
    stack.controls[old].service.signal("STOP")?;
    // Wanted before anybody leads: the old leader finds them in its queue when it wakes up.
    let api = stack.controls[new].api()?;
    let mut wanted = Vec::new();
    for index in 0..8 {
        wanted.push(api.create_volume(&format!("stale-{index}"), 1, NODE, MEMORY)?);
    }
    let took = until("the other server to lead", LIMIT, || {
        stack.controls[new].is_leader()
    })?;
    times.add("new leader after", took);
    for operation in &wanted {
        api.finish(operation, LIMIT)?;
    }
    stack.controls[old].service.signal("CONT")?;
    let took = until("the old leader to know", LIMIT, || {
        Ok(!stack.controls[old].is_leader()? && stack.controls[new].is_leader()?)
    })?;
    times.add("old leader knows after", took);
    check(stack.control_said("no longer leads"), || {
        "the old leader does not say that it leads no more".into()
    })?;
    times.add("in sync after", stack.wait_synced(LIMIT)?);
    check_places(&api)
}

/// No two volumes share a place: what a second leader would do.
pub(super) fn check_places(api: &Api) -> Result<()> {
    let mut places = Vec::new();
    for volume in api.volumes()?.volumes {
        let layout = volume.status.unwrap_or_default().layout.unwrap_or_default();
        for extent in layout.extents {
            let end = extent.offset_bytes + extent.length_bytes;
            places.push((extent.device, extent.offset_bytes, end, volume.name.clone()));
        }
    }
    places.sort();
    for pair in places.windows(2) {
        let [(device, _, end, name), (other_device, begin, _, other)] = pair else {
            continue;
        };
        check(device != other_device || end <= begin, || {
            format!("{name} and {other} share a place")
        })?;
    }
    Ok(())
}

fn compact(stack: &mut Stack, times: &mut Times) -> Result<()> {
    let api = stack.api()?;
    let other = stack.api()?;
    let old_token = api.volumes()?.resume_token;
    let mut live = other.watch_volumes(&old_token)?;
    let made = api.create_volume("seen", 1, NODE, MEMORY)?;
    api.finish(&made, LIMIT)?;
    // Stopped, control misses changes that only history could tell it.
    stack.controls[0].service.signal("STOP")?;
    for index in 0..5 {
        stack
            .etcd
            .ctl(&["put", &format!("/elsewhere/{index}"), "x"])?;
    }
    let revision = stack.etcd.revision()?;
    stack.etcd.ctl(&["compact", &revision.to_string()])?;
    broken();
    stack.controls[0].service.signal("CONT")?;
    times.add("in sync after", stack.wait_synced(LIMIT)?);
    let refused = api
        .watch_volumes(&old_token)
        .and_then(|mut watch| watch.next(LIMIT));
    let reason = refused.err().map(|refusal| (refusal.code, refusal.reason));
    let wanted = (Code::OutOfRange, "RESUME_TOKEN_TOO_OLD".to_owned());
    check(reason.as_ref() == Some(&wanted), || {
        format!("a watch from compacted history ended with {reason:?}, not {wanted:?}")
    })?;
    // The live watch goes on, or says that it cannot; it never leaves out what happened.
    let made = api.create_volume("seen-too", 1, NODE, MEMORY)?;
    api.finish(&made, LIMIT)?;
    let seen = until("the watcher to see it", LIMIT, || match live.next(LIMIT) {
        Ok(Some(event)) => Ok(names(&event) == Some("volumes/seen-too")),
        Ok(None) => Ok(false),
        Err(refusal) if refusal.reason == wanted.1 => Ok(true),
        Err(refusal) => Err(refusal.into()),
    })?;
    times.add("watcher told after", seen);
    Ok(())
}

fn names(event: &v1::WatchEvent) -> Option<&str> {
    match &event.resource {
        Some(v1::watch_event::Resource::Volume(volume)) => Some(&volume.name),
        _ => None,
    }
}

fn orphans(api: &Api) -> Result<Vec<v1::Orphan>> {
    Ok(api.node(NODE)?.status.unwrap_or_default().orphans)
}

fn restore(stack: &mut Stack, times: &mut Times, identity: Identity) -> Result<()> {
    const LATE_NSID: u32 = 3;
    let api = stack.api()?;
    let snapshot = stack.dir.join("snapshot");
    stack.etcd.save(&snapshot)?;
    // The snapshot knows nothing of this volume, and a client writes to it all the time.
    stack.serve(&api, "late", MEMORY, LATE_NSID)?;
    let uid = api.volume("late")?.uid;
    let mut late = stack.load(LATE_NSID, 30)?;
    late.wait_begun()?;
    stack.etcd.restore(&snapshot, identity)?;
    let took = until("the orphan to be told", LIMIT, || {
        Ok(orphans(&api)?.iter().any(|orphan| orphan.volume_uid == uid))
    })?;
    times.add("orphan told after", took);
    let gone = api.volume("late").err().map(|refusal| refusal.code);
    check(gone == Some(Code::NotFound), || {
        format!("the restored store was to know nothing of the volume: {gone:?}")
    })?;
    let regressed = until("StoreRegressed", LIMIT, || {
        expect_condition(
            &api.node(NODE)?,
            "StoreRegressed",
            v1::ConditionStatus::True,
        )?;
        Ok(true)
    })?;
    times.add("regression told after", regressed);
    // Nobody says a word; nothing may happen.
    broken();
    check(late.runs_for(Duration::from_secs(1))?, || {
        "the client of the orphan ended early".into()
    })?;
    let told = stack.command(&["node", "orphans", NODE])?;
    check(told.contains(&uid), || {
        format!("`penstock node orphans` does not show {uid}: {told}")
    })?;
    stack.command(&["node", "resolve-orphan", NODE, &uid, "--adopt"])?;
    let took = until("the orphan to be adopted", LIMIT, || {
        let ready = api.volume("late")?.status.unwrap_or_default().state();
        Ok(ready == v1::VolumeState::Ready && orphans(&api)?.is_empty())
    })?;
    times.add("adopted after", took);
    // What served the volume is not known either, and served on: a person creates it again, and
    // its client notices nothing.
    let lost = format!("subsystems/{SUBSYSTEM}/namespaces/ns{LATE_NSID}");
    until("the orphan's namespace to be told", LIMIT, || {
        let told = api.node(NODE)?.status.unwrap_or_default().orphan_objects;
        Ok(told.iter().any(|object| object.name == lost))
    })?;
    let served = api.create_namespace(SUBSYSTEM, LATE_NSID, "late")?;
    api.finish(&served, LIMIT)?;
    let figures = late.finish()?;
    times.add("longest pause of the orphan's client", figures.longest);
    check(api.volume("late")?.uid == uid, || {
        "the adopted volume has another identity".into()
    })
}

fn full(stack: &mut Stack, times: &mut Times) -> Result<()> {
    let api = stack.api()?;
    let filler = "x".repeat(FILLER_BYTES);
    let file = stack.dir.join("filler");
    std::fs::write(&file, &filler).map_err(|source| LabError::Io {
        what: "write what fills etcd".into(),
        source,
    })?;
    let mut puts = 0;
    loop {
        check(puts < 64, || "etcd took more than its quota".into())?;
        puts += 1;
        if stack.etcd.fill(&format!("/filler/{puts}"), &file).is_err() {
            break;
        }
    }
    let refused = api.create_volume("too-many", 1, NODE, MEMORY).err();
    let fine = refused.as_ref().is_some_and(|refusal| {
        refusal.code == Code::ResourceExhausted && refusal.reason == "STORE_FULL"
    });
    check(fine, || {
        format!("with etcd full control says {refused:?}, not that the store is full")
    })?;
    broken();
    stack.etcd.ctl(&["del", "--prefix", "/filler/"])?;
    let revision = stack.etcd.revision()?;
    stack.etcd.ctl(&["compact", &revision.to_string()])?;
    stack.etcd.ctl(&["defrag"])?;
    stack.etcd.ctl(&["alarm", "disarm"])?;
    let taken = until("control to take changes", LIMIT, || {
        api.create_volume("too-many", 1, NODE, MEMORY)?;
        Ok(true)
    })?;
    times.add("changes taken after", taken);
    times.add("in sync after", stack.wait_synced(LIMIT)?);
    Ok(())
}

fn cut_stream(stack: &mut Stack, times: &mut Times) -> Result<()> {
    stack.proxy.cut();
    // Made while the agent is away or just back.
    let api = stack.api()?;
    let made = api.create_volume("after-cut", 1, NODE, MEMORY)?;
    api.finish(&made, LIMIT)?;
    times.add("in sync after the cut", stack.wait_synced(LIMIT)?);
    stack.proxy.hold(true);
    let made = api.create_volume("in-partition", 1, NODE, MEMORY)?;
    let noticed = until("the partition to be noticed", LIMIT, || {
        let node = api.node(NODE)?;
        Ok(expect_condition(&node, "Online", v1::ConditionStatus::True).is_err())
    })?;
    times.add("partition noticed after", noticed);
    stack.proxy.hold(false);
    times.add("in sync after the partition", stack.wait_synced(LIMIT)?);
    api.finish(&made, LIMIT)
}

fn node_alone(stack: &mut Stack, times: &mut Times) -> Result<()> {
    let members = stack.etcd.len();
    stack.etcd.kill(members)?;
    stack.controls[0].service.kill()?;
    stack.node.service.kill()?;
    let begun = std::time::Instant::now();
    stack.node.launch()?;
    until("the node to serve its volume", LIMIT, || {
        stack.check_dataset().map(|()| true)
    })?;
    times.add("data served and checked after", begun.elapsed());
    let alone = stack.load(super::stack::MEMORY_NSID, 3)?.finish()?;
    times.add("longest pause alone", alone.longest);
    stack.etcd.revive()?;
    stack.controls[0].launch()?;
    times.add("in sync after", stack.wait_synced(LIMIT)?);
    let served = stack.api()?.layout("in-file")?;
    check(
        served
            .paths
            .iter()
            .any(|path| path.nqn == stack.target().nqn),
        || format!("the volume of {SUBSYSTEM} has no path: {served:?}"),
    )
}
