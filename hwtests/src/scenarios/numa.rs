//! A machine of two NUMA nodes with a drive on each: a node whose reactors, and their memory, are
//! where the drives are, and one that was told otherwise and says so.

use super::data::verified;
use super::drive::{DEVICE, UNPLUG_LIMIT};
use crate::bench::{Bench, EVENT_LIMIT};
use crate::error::{LabError, Result, check};
use crate::guest::Guest;
use crate::machine::{Drive, Program};
use serde_json::{Value, json};
use std::time::Duration;

/// The drives, in the order of their nodes.
const SERIALS: [&str; 2] = ["one", "two"];

/// One on each node.
pub(super) const DRIVES: &[Drive] = &[
    Drive {
        id: SERIALS[0],
        size_mib: 64,
        cmb_mib: 0,
        legacy_cmb: false,
    },
    Drive {
        id: SERIALS[1],
        size_mib: 64,
        cmb_mib: 0,
        legacy_cmb: false,
    },
];

/// What handles drives, what serves them, and what shows the machine.
pub(super) const PROGRAMS: &[Program] = &[
    super::drive::PROGRAM,
    Program {
        name: "penstock-node",
        variable: crate::node::NODE_VARIABLE,
        package: "penstock-node",
        spdk: false,
    },
    Program {
        name: "penstock-topology",
        variable: "PENSTOCK_TOPOLOGY",
        package: "penstock-node --bin penstock-topology",
        spdk: false,
    },
];

const TOPOLOGY: &str = "/penstock/bin/penstock-topology";
const NQN: &str = "nqn.2026-01.org.penstock:numa";
const POOL_BYTES: u64 = 16 << 20;
const FIO_LIMIT: Duration = Duration::from_secs(180);
const START_LIMIT: Duration = Duration::from_secs(60);

pub(super) fn steps(bench: &mut Bench) -> Result<()> {
    let guest = &mut bench.guest;
    guest.run("load nvme vfio_pci vfio_iommu_type1")?;
    let both = "[ -b /dev/nvme0n1 ] && [ -b /dev/nvme1n1 ]";
    guest.wait_until("the kernel's disks", both, UNPLUG_LIMIT)?;
    let addresses = drives(guest)?;
    guest.run(&format!("{DEVICE} bind {}", addresses.join(" ")))?;
    the_machine(guest, &addresses)?;

    guest.note("two reactors, placed by the node");
    start_node(guest, &addresses, "count = 2")?;
    guest.run(&format!(
        "nvme connect -t tcp -a 127.0.0.1 -s 4420 -n {NQN}"
    ))?;
    let disks = [bench.disk(1)?, bench.disk(2)?];
    let guest = &mut bench.guest;
    for disk in &disks {
        guest.run_within(&verified(disk, "512", "8m", ""), FIO_LIMIT)?;
    }
    placed(guest)?;
    kernels_account(guest)?;
    guest.run(&format!("nvme disconnect -n {NQN}"))?;
    stop_node(guest)?;

    guest.note("two reactors, both on node 0 because the configuration says so");
    start_node(guest, &addresses, "cores = [0, 1]")?;
    forced(guest)?;
    stop_node(guest)
}

fn parsed(guest: &mut Guest, command: &str) -> Result<Value> {
    let text = guest.run(command)?;
    serde_json::from_str(&text)
        .map_err(|err| LabError::Check(format!("{command}: no JSON: {err}: {text}")))
}

/// Checks one field of a document.
fn is(document: &Value, pointer: &str, expected: &Value) -> Result<()> {
    let found = document.pointer(pointer).unwrap_or(&Value::Null);
    check(found == expected, || {
        format!("{pointer} is {found}, not {expected}, in {document}")
    })
}

/// The drives' addresses in the order of their nodes, which the kernel tells.
fn drives(guest: &mut Guest) -> Result<[String; 2]> {
    let list = parsed(guest, &format!("{DEVICE} list --json"))?;
    let find = |serial: &str, node: u64| {
        let mut drives = list.as_array().into_iter().flatten();
        let found = drives.find(|drive| drive["serial"] == serial && drive["numa_node"] == node);
        let address = found.and_then(|drive| drive["address"].as_str());
        let missing = || LabError::Check(format!("no drive {serial} on node {node} in {list}"));
        address.map(str::to_owned).ok_or_else(missing)
    };
    Ok([find(SERIALS[0], 0)?, find(SERIALS[1], 1)?])
}

/// Without a configuration: the machine as QEMU made it.
fn the_machine(guest: &mut Guest, addresses: &[String; 2]) -> Result<()> {
    guest.note("the machine is seen as it is");
    guest.run(TOPOLOGY)?;
    let seen = parsed(guest, &format!("{TOPOLOGY} --json"))?;
    is(&seen, "/numa", &json!(true))?;
    for (node, cores) in [(0, [0, 1]), (1, [2, 3])] {
        is(&seen, &format!("/numa_nodes/{node}/id"), &json!(node))?;
        for (index, core) in cores.iter().enumerate() {
            let at = format!("/numa_nodes/{node}/cores/{index}/id");
            is(&seen, &at, &json!(core))?;
        }
        let other = 1 - node;
        let at = format!("/numa_nodes/{node}/distances/{other}/distance");
        is(&seen, &at, &json!(crate::machine::NUMA_DISTANCE))?;
        let drive = format!("/drives/{node}");
        is(&seen, &format!("{drive}/address"), &json!(addresses[node]))?;
        is(&seen, &format!("{drive}/numa_node"), &json!(node))?;
        is(&seen, &format!("{drive}/driver"), &json!("vfio-pci"))?;
    }
    Ok(())
}

/// A reactor on each drive's node, off CPU 0, and all memory at home.
fn placed(guest: &mut Guest) -> Result<()> {
    guest.run(&format!("{TOPOLOGY} --config /tmp/node.toml"))?;
    let seen = parsed(guest, &format!("{TOPOLOGY} --config /tmp/node.toml --json"))?;
    is(&seen, "/running", &json!(true))?;
    is(&seen, "/misplaced_bytes", &json!(0))?;
    for (node, core) in [(0, 1), (1, 2)] {
        is(&seen, &format!("/reactors/{node}/core"), &json!(core))?;
        is(&seen, &format!("/reactors/{node}/numa_node"), &json!(node))?;
        let drive = format!("/storage/{node}");
        is(&seen, &format!("{drive}/numa_node"), &json!(node))?;
        is(&seen, &format!("{drive}/local_reactors"), &json!([node]))?;
        is(&seen, &format!("{drive}/cross_node"), &json!(false))?;
        // Drives reach the whole of it, so the whole of it is in memory.
        let memory = &seen["reactors"][node]["memory"];
        let at_home = memory.as_array().is_some_and(|places| {
            let bytes = |place: &Value| place["bytes"].as_u64().unwrap_or(0);
            let (home, away): (Vec<_>, Vec<_>) =
                places.iter().partition(|place| place["numa_node"] == node);
            home.into_iter().map(bytes).sum::<u64>() >= POOL_BYTES
                && away.into_iter().map(bytes).sum::<u64>() == 0
        });
        check(at_home, || format!("memory of reactor {node}: {memory}"))?;
    }
    // Every reactor serves every drive: the two that cross are told.
    let crossings = seen["cross_node_paths"].as_array().map_or(0, Vec::len);
    check(crossings == 2, || {
        format!("{crossings} crossings in {seen}")
    })
}

/// The same from the kernel's files alone, without a program of ours.
fn kernels_account(guest: &mut Guest) -> Result<()> {
    guest.note("the kernel's own account");
    for node in [0, 1] {
        let other = 1 - node;
        // The reactor is pinned to one core, and the node's list has that core.
        guest.run(&format!(
            "pid=$(cat /tmp/node.pid); for task in /proc/$pid/task/*; do \
             [ \"$(cat $task/comm)\" = reactor-{node} ] || continue; \
             core=$(sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' $task/status); \
             echo reactor {node} on core $core; \
             [ -d /sys/devices/system/node/node{node}/cpu$core ] && exit 0; done; exit 1"
        ))?;
        // Memory meant for the node is there, all of it.
        guest.run(&format!(
            "maps=/proc/$(cat /tmp/node.pid)/numa_maps; grep 'prefer:{node} ' $maps; \
             grep -q 'prefer:{node} .*N{node}=' $maps && ! grep -q 'prefer:{node} .*N{other}=' $maps"
        ))?;
    }
    Ok(())
}

/// Cores that the configuration names are taken, and what that costs is marked.
fn forced(guest: &mut Guest) -> Result<()> {
    let seen = parsed(guest, &format!("{TOPOLOGY} --config /tmp/node.toml --json"))?;
    is(&seen, "/reactors/0/numa_node", &json!(0))?;
    is(&seen, "/reactors/1/numa_node", &json!(0))?;
    is(&seen, "/storage/0/cross_node", &json!(false))?;
    is(&seen, "/storage/1/cross_node", &json!(true))?;
    is(&seen, "/storage/1/cross_node_reactors", &json!([0, 1]))?;
    let text = guest.run(&format!("{TOPOLOGY} --config /tmp/node.toml"))?;
    let mark = format!("{NQN} namespace 2 (nvme ");
    let marked = text.lines().any(|line| {
        line.contains(&mark) && line.contains("CROSS-NODE, no reactor is near; from reactor 0")
    });
    check(marked, || format!("nothing is marked in {text}"))?;
    guest.run("grep 'no reactor is on the NUMA node of nvme' /tmp/node.log")?;
    Ok(())
}

fn start_node(guest: &mut Guest, addresses: &[String; 2], reactors: &str) -> Result<()> {
    let mut text = format!(
        "[node]\nname = \"guest\"\n\n[reactors]\n{reactors}\n\
         buffer_pool_size_bytes = {POOL_BYTES}\n\n[metrics]\nlisten = \"127.0.0.1:9464\"\n\n\
         [nvme]\nqueue_entries = 64\n\n[[listener]]\naddress = \"127.0.0.1:4420\"\n\n\
         [[subsystem]]\nnqn = \"{NQN}\"\nserial = \"NUMA\"\nallow_any_host = true\n"
    );
    for (index, address) in addresses.iter().enumerate() {
        text.push_str(&format!(
            "\n[[subsystem.namespace]]\nnsid = {}\nbackend = \"nvme\"\npci_address = \"{address}\"\n\
             block_size_bytes = 512\n",
            index + 1
        ));
    }
    guest.run(&format!("cat >/tmp/node.toml <<'END'\n{text}END"))?;
    guest.run(
        "rm -f /tmp/node.status; \
         sh -c '/penstock/bin/penstock-node --config /tmp/node.toml >/tmp/node.log 2>&1 & \
         echo $! >/tmp/node.pid; wait $!; echo $? >/tmp/node.status' >/dev/null 2>&1 &",
    )?;
    let ready = "wget -qO- http://127.0.0.1:9464/readyz >/dev/null 2>&1 || [ -f /tmp/node.status ]";
    let waited = guest.wait_until("the node to be ready", ready, START_LIMIT.max(EVENT_LIMIT));
    let ended = guest.run("cat /tmp/node.log; [ ! -f /tmp/node.status ]");
    waited.and(ended.map(drop))
}

fn stop_node(guest: &mut Guest) -> Result<()> {
    guest.run("kill -TERM $(cat /tmp/node.pid)")?;
    let waited = guest.wait_until("the node to end", "[ -f /tmp/node.status ]", START_LIMIT);
    guest.run("cat /tmp/node.log; [ \"$(cat /tmp/node.status)\" = 0 ]")?;
    waited
}
