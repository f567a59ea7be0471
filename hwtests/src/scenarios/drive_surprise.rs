//! Drives that go without asking, under load: the power of their slot is cut. Nobody says a word
//! beforehand; the driver has to find out by what it reads, which QEMU makes zeroes.

use super::data::verified;
use super::drive::{DEVICE, UNPLUG_LIMIT};
use super::drive_node::{FIO_LIMIT, NQN, ONE, TWO, address_of, start_node, stop_node};
use crate::bench::Bench;
use crate::error::{Result, check};
use crate::guest::Guest;
use std::time::Duration;

/// Commands a second while power is cut, so few that there are always some under way.
const SLOW_IOPS: u64 = 20;
/// How soon everyone must know: nothing may wait for a time-out, of which the shortest is 30 s.
const KNOWN_LIMIT: Duration = Duration::from_secs(15);
/// How long the kernel may try to reset a drive that is not there.
const RESET_LIMIT: Duration = Duration::from_secs(150);
const CHECK_LIMIT: Duration = Duration::from_secs(240);
const CHECK_LOG: &str = "/tmp/surprise";

pub(super) fn steps(bench: &mut Bench) -> Result<()> {
    let guest = &mut bench.guest;
    guest.run("load nvme vfio_pci vfio_iommu_type1")?;
    let both = "[ -b /dev/nvme0n1 ] && [ -b /dev/nvme1n1 ]";
    guest.wait_until("the kernel's disks", both, UNPLUG_LIMIT)?;
    let (one, two) = (address_of(guest, ONE)?, address_of(guest, TWO)?);
    guest.run(&format!("{DEVICE} bind {one} {two}"))?;
    from_a_node(bench, &one, &two)?;
    from_the_driver(&mut bench.guest, &two)
}

/// A node loses one of its two drives.
fn from_a_node(bench: &mut Bench, one: &str, two: &str) -> Result<()> {
    // With everything of the drive's that can vanish in use.
    let nvme = "queues_in_drive_memory = true\npayload_in_drive_memory_bytes = 8388608";
    start_node(&mut bench.guest, &[one, two], nvme)?;
    let connect = format!("nvme connect -t tcp -a 127.0.0.1 -s 4420 -n {NQN}");
    bench.guest.run(&connect)?;
    let (first, second) = (bench.disk(1)?, bench.disk(2)?);
    let guest = &mut bench.guest;
    guest.run_within(&verified(&first, "512", "8m", ""), FIO_LIMIT)?;

    guest.note("one loses its power under load, the other goes on");
    guest.throttle(ONE, SLOW_IOPS)?;
    let requests = format!(
        "fio --name=lost --filename={first} --ioengine=libaio --direct=1 --rw=randrw --bs=64k \
         --iodepth=8 --time_based --runtime=60 2>&1"
    );
    let lost = guest.start(&requests, FIO_LIMIT)?;
    let other = guest.start(&verified(&second, "512", "24m", ""), FIO_LIMIT)?;
    guest.run("sleep 2")?;
    cut_power(guest, one)?;
    let known = "grep -q 'the drive is gone; its namespaces fail' /tmp/node.log";
    guest.wait_until("the node to notice", known, KNOWN_LIMIT)?;
    let lost = lost.answer()?;
    guest.note(&lost.output);
    check(lost.status != 0 && lost.output.contains("err="), || {
        format!(
            "requests to a drive that is gone: {} {}",
            lost.status, lost.output
        )
    })?;
    other.wait()?;
    guest.run_within(&verified(&second, "512", "8m", ""), FIO_LIMIT)?;
    let held = "[ $(ls -l /proc/$(cat /tmp/node.pid)/fd | grep -c vfio-device) = 1 ]";
    guest.wait_until("the node to let the drive go", held, UNPLUG_LIMIT)?;
    // The kernel waits long for an answer to its reset; so does the thread that kept the drive.
    let keepers = "[ $(cat /proc/$(cat /tmp/node.pid)/task/*/comm | grep -c nvme-keeper) = 1 ]";
    guest.wait_until("the kernel to give up on the drive", keepers, RESET_LIMIT)?;

    guest.note("the node lives and ends when asked");
    guest.run("wget -qO- http://127.0.0.1:9464/healthz")?;
    guest.run("nvme disconnect-all")?;
    stop_node(guest)
}

/// The driver by itself: it has requests under way, and each of them ends as gone.
fn from_the_driver(guest: &mut Guest, address: &str) -> Result<()> {
    guest.note("the driver's own requests");
    let script = format!("{DEVICE} check {address} --write --until-removed-s 90 >{CHECK_LOG} 2>&1");
    let job = guest.start(&script, CHECK_LIMIT)?;
    let under_load = format!("grep -q 'passed   reset under load' {CHECK_LOG}");
    guest.wait_until("reads to begin", &under_load, CHECK_LIMIT)?;
    guest.throttle(TWO, SLOW_IOPS)?;
    guest.run("sleep 2")?;
    cut_power(guest, address)?;
    let ended = job.answer()?;
    let said = guest.run(&format!("cat {CHECK_LOG}"))?;
    let all_failed = "8 under way failed because it is gone, none otherwise";
    let well = ended.status == 0
        && said.contains("passed   removal: pulled out after")
        && said.contains(all_failed);
    check(well, || format!("ended with {} and {said}", ended.status))
}

/// Cuts the power of the slot that the drive at `address` is in: the root port's Slot Control
/// (PCI Express 5.0, 7.5.3.10) gets Power Controller Control, both indicators off and none of its
/// events on. QEMU takes the drive out at once then. The guest's kernel, which hears of removal by
/// ACPI, does not hear of this. The slot is not looked at afterwards: its configuration space is
/// locked while the kernel tries to reset the drive.
fn cut_power(guest: &mut Guest, address: &str) -> Result<()> {
    let script = format!(
        r#"config=$(dirname $(readlink -f /sys/bus/pci/devices/{address}))/config
byte() {{ od -An -tu1 -j$1 -N1 $config | tr -d ' '; }}
at=$(byte 52)
while [ $(byte $at) != 16 ]; do
    at=$(byte $((at + 1)))
    [ $at != 0 ] || exit 1
done
at=$((at + 24))
printf '\300\007' | dd of=$config bs=2 seek=$((at / 2)) conv=notrunc 2>&1"#
    );
    guest.run(&script).map(drop)
}
