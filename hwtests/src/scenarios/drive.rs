//! A drive of the guest's own in the hands of our driver: taken from the kernel, tried out, given
//! back, pulled out.

use crate::bench::Bench;
use crate::error::{LabError, Result, check};
use crate::guest::Guest;
use crate::machine::{Drive, Program};
use serde_json::Value;
use std::time::Duration;

const ID: &str = "one";

/// The drive under test.
pub(super) const DRIVES: &[Drive] = &[Drive {
    id: ID,
    size_mib: 128,
    cmb_mib: 64,
    legacy_cmb: false,
}];

/// A drive of before NVMe 1.4.
pub(super) const OLD_DRIVES: &[Drive] = &[Drive {
    legacy_cmb: true,
    ..DRIVES[0]
}];

/// What handles drives.
pub const PROGRAM: Program = Program {
    name: "penstock-device",
    variable: "PENSTOCK_DEVICE",
    package: "penstock-node --bin penstock-device",
    spdk: false,
};

pub(super) const PROGRAMS: &[Program] = &[PROGRAM];

/// The program in the guest.
pub(super) const DEVICE: &str = "/penstock/bin/penstock-device";
const DISK: &str = "/dev/nvme0n1";
const CHECK_LIMIT: Duration = Duration::from_secs(120);
/// How long the slot may take once the program has let go.
pub(super) const SLOT_LIMIT: Duration = Duration::from_secs(20);
/// How long a drive may take to come or go.
pub(super) const UNPLUG_LIMIT: Duration = Duration::from_secs(60);

/// Steps of `penstock-device check --write` that every such machine passes.
const PASSED: [&str; 14] = [
    "open",
    "registers",
    "interrupts",
    "dma",
    "controller",
    "health",
    "error log",
    "controller memory",
    "queue pair",
    "data",
    "data in controller memory",
    "data by interrupt",
    "reset under load",
    "function reset",
];

/// Linux 6.12, which exports no device memory.
pub(super) fn stable(bench: &mut Bench) -> Result<()> {
    steps(
        &mut bench.guest,
        "skipped: dma-buf: this drive's memory cannot be exported",
    )
}

/// The newest kernel, which does.
pub(super) fn newest(bench: &mut Bench) -> Result<()> {
    steps(&mut bench.guest, "passed   dma-buf: 67108864 bytes")
}

/// A drive whose memory is addressed where the bus has it, whatever it is told.
pub(super) fn old(bench: &mut Bench) -> Result<()> {
    let guest = &mut bench.guest;
    guest.run("load nvme vfio_pci vfio_iommu_type1")?;
    appears(guest)?;
    let address = listed(guest)?;
    guest.run(&format!("{DEVICE} bind {address}"))?;
    let said = guest.run_within(&format!("{DEVICE} check {address} --write"), CHECK_LIMIT)?;
    passes(&said)
}

/// Every step passes, with the submission queue in the drive's memory.
fn passes(said: &str) -> Result<()> {
    for step in PASSED {
        let line = format!("passed   {step}:");
        check(said.contains(&line), || format!("no \"{line}\" in {said}"))?;
    }
    check(
        said.contains("submission queue in controller memory"),
        || format!("the submission queue is not in controller memory: {said}"),
    )
}

fn steps(guest: &mut Guest, dma_buf: &str) -> Result<()> {
    guest.run("load nvme ext4")?;
    appears(guest)?;
    let address = listed(guest)?;
    refusals(guest, &address)?;

    guest.note("an empty drive is bound and tried out");
    guest.run(&format!("{DEVICE} bind {address} && {DEVICE} list"))?;
    let drive = only_drive(guest)?;
    check(drive["driver"] == "vfio-pci", || {
        format!("bound, and yet {drive}")
    })?;
    let said = guest.run_within(&format!("{DEVICE} check {address} --write"), CHECK_LIMIT)?;
    passes(&said)?;
    check(said.contains(dma_buf), || {
        format!("no \"{dma_buf}\" in {said}")
    })?;

    guest.note("given back, the kernel's driver works with it again");
    guest.run(&format!("{DEVICE} unbind {address}"))?;
    appears(guest)?;
    guest.run(&format!(
        "mkfs.ext4 -q -F {DISK} && dd if={DISK} of=/dev/null bs=1M"
    ))?;

    removal(guest, &address)
}

pub(super) fn appears(guest: &mut Guest) -> Result<()> {
    guest.wait_until("the kernel's disk", &format!("[ -b {DISK} ]"), UNPLUG_LIMIT)
}

fn only_drive(guest: &mut Guest) -> Result<Value> {
    let text = guest.run(&format!("{DEVICE} list --json"))?;
    let list: Value = serde_json::from_str(&text)
        .map_err(|err| LabError::Check(format!("the list is no JSON: {err}: {text}")))?;
    match list.as_array().map(Vec::as_slice) {
        Some([drive]) => Ok(drive.clone()),
        _ => Err(LabError::Check(format!("not one drive is listed: {list}"))),
    }
}

/// The drive as the kernel has it. Its address.
fn listed(guest: &mut Guest) -> Result<String> {
    let drive = only_drive(guest)?;
    let disk = &drive["blocks"][0];
    let as_expected = drive["driver"] == "nvme"
        && drive["serial"] == ID
        && drive["iommu_group"].is_u64()
        && disk["name"] == "nvme0n1"
        && disk["size_bytes"] == 128 << 20;
    check(as_expected, || format!("listed as {drive}"))?;
    let address = drive["address"].as_str();
    address
        .map(str::to_owned)
        .ok_or_else(|| LabError::Check(format!("no address in {drive}")))
}

/// Each command fails and says so.
fn refusals(guest: &mut Guest, address: &str) -> Result<()> {
    refused(
        guest,
        &format!("check {address}"),
        "bound to the kernel driver nvme",
    )?;
    let bind = format!("bind {address}");
    refused(
        guest,
        &bind,
        "vfio-pci is not loaded; run modprobe vfio-pci",
    )?;
    guest.run("load vfio_pci vfio_iommu_type1")?;
    guest.run(&format!(
        "mkfs.ext4 -q {DISK} && mkdir -p /d && mount -t ext4 {DISK} /d"
    ))?;
    refused(guest, &bind, "nvme0n1 is mounted at /d")?;
    refused(
        guest,
        &format!("{bind} --force"),
        "nvme0n1 is mounted at /d",
    )?;
    guest.run("umount /d")?;
    refused(
        guest,
        &bind,
        "holds an ext2, ext3 or ext4 file system at byte 1080",
    )?;
    guest.run(&format!("dd if=/dev/zero of={DISK} bs=64k count=1"))?;
    refused(guest, "bind 0000:00:00.0", "no NVMe controller")?;
    refused(guest, "bind 00ff:00:00.0", "there is no PCI device")
}

pub(super) fn refused(guest: &mut Guest, arguments: &str, says: &str) -> Result<()> {
    let answer = guest.ask(&format!("{DEVICE} {arguments}"), CHECK_LIMIT)?;
    check(answer.status == 1 && answer.output.contains(says), || {
        format!(
            "`{arguments}` ended with {} and {}, not \"{says}\"",
            answer.status, answer.output
        )
    })
}

/// Pulled out under load: no request fails, the program lets go, and the guest lives on.
fn removal(guest: &mut Guest, address: &str) -> Result<()> {
    guest.note("pulled out under load");
    guest.run(&format!("{DEVICE} bind {address} --force"))?;
    let script =
        format!("{DEVICE} check {address} --write --until-removed-s 90 >/tmp/removal 2>&1");
    let job = guest.start(&script, CHECK_LIMIT)?;
    let under_load = "grep -q 'passed   reset under load' /tmp/removal";
    guest.wait_until("reads to begin", under_load, CHECK_LIMIT)?;
    let mut monitor = guest.begin_unplug(ID)?;
    let ended = job.answer()?;
    let said = guest.run("cat /tmp/removal")?;
    let well = ended.status == 0 && said.contains("passed   removal: asked to let go after");
    check(well, || format!("ended with {} and {said}", ended.status))?;
    if !guest.is_unplugged(&mut monitor, ID, SLOT_LIMIT) {
        return Ok(());
    }
    let left = guest.run(&format!("{DEVICE} list --json"))?;
    check(left.trim() == "[]", || {
        format!("after removal there is {left}")
    })
}
