//! A drive of the guest's own in the hands of SPDK, through the same program and the same node.
//! Skipped where no SPDK is installed that they could be built with.

use super::data::verified;
use super::drive::{DEVICE, SLOT_LIMIT, appears, refused};
use super::drive_node::{NQN, address_of, start_node, stop_node};
use crate::bench::Bench;
use crate::error::{Result, check};
use crate::guest::Guest;
use crate::machine::{Drive, Program};
use std::time::Duration;

const ID: &str = "one";

/// The drive under test.
pub(super) const DRIVES: &[Drive] = &[Drive {
    id: ID,
    size_mib: 128,
    cmb_mib: 64,
    legacy_cmb: false,
}];

/// What handles it, and what serves it.
pub(super) const PROGRAMS: &[Program] = &[
    Program {
        name: "penstock-device",
        variable: "PENSTOCK_DEVICE_SPDK",
        package: "penstock-node --bin penstock-device --features spdk",
        spdk: true,
    },
    Program {
        name: "penstock-node",
        variable: "PENSTOCK_NODE_SPDK",
        package: "penstock-node --bin penstock-node --features spdk",
        spdk: true,
    },
];

/// What SPDK gets, and hugepages of 2 MiB that it takes.
const MEMORY_MIB: u32 = 64;
const HUGEPAGES: u32 = 40;

const CHECK_LIMIT: Duration = Duration::from_secs(180);
const FIO_LIMIT: Duration = Duration::from_secs(180);

/// Steps of `penstock-device check --driver spdk --write` that pass here.
const PASSED: [&str; 9] = [
    "controller:",
    "health:",
    "controller memory: 67108864 bytes",
    "queue pair:",
    "data:",
    "data in controller memory:",
    "unregistered memory: refused",
    "reset under load:",
    "data in controller memory after it:",
];

pub(super) fn steps(bench: &mut Bench) -> Result<()> {
    let guest = &mut bench.guest;
    guest.run("load nvme vfio_pci vfio_iommu_type1")?;
    appears(guest)?;
    let address = address_of(guest, ID)?;
    let spdk = format!("check {address} --driver spdk --spdk-memory-mib {MEMORY_MIB}");

    // What a system has, and SPDK's OpenSSL and DPDK want.
    guest.run("mkdir -p /usr/lib/ssl /var/run /var/tmp && : >/usr/lib/ssl/openssl.cnf")?;

    guest.note("what SPDK lacks is told");
    refused(guest, &spdk, "bound to the kernel driver nvme")?;
    guest.run(&format!("{DEVICE} bind {address}"))?;
    refused(guest, &spdk, "of free hugepages, 0 are free")?;
    guest.run(&format!("echo {HUGEPAGES} >/proc/sys/vm/nr_hugepages"))?;
    refused(guest, &spdk, "mount -t hugetlbfs none /dev/hugepages")?;
    guest.run("mkdir -p /dev/hugepages && mount -t hugetlbfs none /dev/hugepages")?;

    guest.note("everything on hugepages, and again on small ones");
    passes(guest, &format!("{spdk} --write"), "shutdown:")?;
    passes(
        guest,
        &format!("{spdk} --write --spdk-small-pages"),
        "shutdown:",
    )?;

    guest.note("our own driver takes over, and the kernel's after it");
    let said = guest.run_within(&format!("{DEVICE} check {address} --write"), CHECK_LIMIT)?;
    check(!said.contains("FAILED"), || {
        format!("our own driver says {said}")
    })?;
    guest.run(&format!("{DEVICE} unbind {address}"))?;
    appears(guest)?;

    guest.run(&format!("{DEVICE} bind {address} --force"))?;
    serves(bench, &address)?;
    removal(&mut bench.guest, &spdk)
}

/// A run of the check with all steps passed, the last one too.
fn passes(guest: &mut Guest, arguments: &str, last: &str) -> Result<()> {
    let said = guest.run_within(&format!("{DEVICE} {arguments}"), CHECK_LIMIT)?;
    for step in PASSED.iter().chain([&last]) {
        let line = format!("passed   {step}");
        check(said.contains(&line), || format!("no \"{line}\" in {said}"))?;
    }
    Ok(())
}

/// A node serves the drive through SPDK to the guest's own initiator.
fn serves(bench: &mut Bench, address: &str) -> Result<()> {
    let guest = &mut bench.guest;
    guest.note("a node serves the drive");
    let nvme = format!("driver = \"spdk\"\nspdk_memory_mib = {MEMORY_MIB}");
    start_node(guest, &[address], &nvme)?;
    let connect = format!("nvme connect -t tcp -a 127.0.0.1 -s 4420 -n {NQN}");
    guest.run(&connect)?;
    let disk = bench.disk(1)?;
    let guest = &mut bench.guest;
    guest.run_within(&verified(&disk, "512", "24m", ""), FIO_LIMIT)?;
    guest.run(&format!("nvme disconnect -n {NQN}"))?;
    stop_node(guest)
}

/// Pulled out under load: no request fails, and SPDK lets go.
fn removal(guest: &mut Guest, spdk: &str) -> Result<()> {
    guest.note("pulled out under load");
    let script = format!("{DEVICE} {spdk} --write --until-removed-s 90 >/tmp/removal 2>&1");
    let job = guest.start(&script, CHECK_LIMIT)?;
    let under_load = "grep -q 'passed   data in controller memory after it' /tmp/removal";
    guest.wait_until("reads to begin", under_load, CHECK_LIMIT)?;
    let mut monitor = guest.begin_unplug(ID)?;
    let ended = job.answer()?;
    let said = guest.run("cat /tmp/removal")?;
    let well = ended.status == 0 && said.contains("passed   removal: asked to let go after");
    check(well, || format!("ended with {} and {said}", ended.status))?;
    guest.is_unplugged(&mut monitor, ID, SLOT_LIMIT);
    Ok(())
}
