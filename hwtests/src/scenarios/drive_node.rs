//! A node in the guest serves drives that it drives itself to the guest's own initiator; one of them
//! is pulled out.

use super::data::verified;
use super::drive::{DEVICE, SLOT_LIMIT, UNPLUG_LIMIT};
use crate::bench::{Bench, EVENT_LIMIT};
use crate::error::{LabError, Result, check};
use crate::guest::Guest;
use crate::machine::{Drive, Program};
use serde_json::Value;
use std::time::Duration;

pub(super) const ONE: &str = "one";
pub(super) const TWO: &str = "two";

/// One that is pulled out, and one that stays.
pub(super) const DRIVES: &[Drive] = &[
    Drive {
        id: ONE,
        size_mib: 128,
        cmb_mib: 64,
        legacy_cmb: false,
    },
    Drive {
        id: TWO,
        size_mib: 128,
        cmb_mib: 0,
        legacy_cmb: false,
    },
];

/// What handles them, and what serves them.
pub(super) const PROGRAMS: &[Program] = &[
    super::drive::PROGRAM,
    Program {
        name: "penstock-node",
        variable: crate::node::NODE_VARIABLE,
        package: "penstock-node",
        spdk: false,
    },
];

pub(super) const NQN: &str = "nqn.2026-01.org.penstock:drives";
/// Commands a second of a drive that is slow, and how long it is read.
const SLOW_IOPS: u64 = 20;
const SLOW_S: u64 = 10;
pub(super) const FIO_LIMIT: Duration = Duration::from_secs(180);
const START_LIMIT: Duration = Duration::from_secs(60);

pub(super) fn steps(bench: &mut Bench) -> Result<()> {
    let guest = &mut bench.guest;
    guest.run("load nvme vfio_pci vfio_iommu_type1")?;
    let both = "[ -b /dev/nvme0n1 ] && [ -b /dev/nvme1n1 ]";
    guest.wait_until("the kernel's disks", both, UNPLUG_LIMIT)?;
    let (one, two) = (address_of(guest, ONE)?, address_of(guest, TWO)?);
    guest.run(&format!("{DEVICE} bind {one} {two}"))?;
    let polled_ms = slow_drive(bench, &[&one, &two], false)?;
    let told_ms = slow_drive(bench, &[&one, &two], true)?;
    // A reactor that polls while a command is under way, as one always is here, takes all there is.
    check(told_ms < polled_ms / 2, || {
        format!(
            "with interrupts the reactor used {told_ms} ms of CPU time in {SLOW_S} s of waiting for a \
             slow drive, without them {polled_ms} ms"
        )
    })?;
    let (first, second) = (bench.disk(1)?, bench.disk(2)?);

    let guest = &mut bench.guest;
    guest.note("both drives at once");
    let jobs = [
        guest.start(&verified(&first, "512", "24m", ""), FIO_LIMIT)?,
        guest.start(&verified(&second, "512", "24m", ""), FIO_LIMIT)?,
    ];
    for job in jobs {
        job.wait()?;
    }

    memory_was_used(guest, &one, &two)?;

    guest.note("one is pulled out under load, the other goes on");
    let reads = format!(
        "fio --name=lost --filename={first} --ioengine=libaio --direct=1 --rw=randread --bs=64k \
         --iodepth=8 --time_based --runtime=20 2>&1"
    );
    // What becomes of these is the host's to decide; they only have to be under way.
    let lost = guest.start(&reads, FIO_LIMIT)?;
    let other = guest.start(&verified(&second, "512", "24m", ""), FIO_LIMIT)?;
    guest.run("sleep 2")?;
    let mut monitor = guest.begin_unplug(ONE)?;
    // The node holds one drive less.
    let held = "[ $(ls -l /proc/$(cat /tmp/node.pid)/fd | grep -c vfio-device) = 1 ]";
    guest.wait_until("the node to let the drive go", held, UNPLUG_LIMIT)?;
    guest.is_unplugged(&mut monitor, ONE, SLOT_LIMIT);
    other.wait()?;
    guest.run_within(&verified(&second, "512", "8m", ""), FIO_LIMIT)?;
    drop(lost);

    guest.note("the node lives and ends when asked");
    guest.run("wget -qO- http://127.0.0.1:9464/healthz")?;
    stop_node(guest)
}

pub(super) fn stop_node(guest: &mut Guest) -> Result<()> {
    guest.run("kill -TERM $(cat /tmp/node.pid)")?;
    let ended = "[ -f /tmp/node.status ]";
    let waited = guest.wait_until("the node to end", ended, START_LIMIT);
    let said = guest.run("cat /tmp/node.log; cat /tmp/node.status 2>/dev/null || true")?;
    waited?;
    let status = said.lines().last().unwrap_or_default();
    check(status == "0", || format!("the node ended with {status}"))
}

/// What was written to the drive with memory of its own lay there, and nothing was copied.
fn memory_was_used(guest: &mut Guest, with: &str, without: &str) -> Result<()> {
    let page = guest.run("wget -qO- http://127.0.0.1:9464/metrics")?;
    let value = |name: &str, drive: &str| {
        let start = format!("{name}{{drive=\"{drive}\"}} ");
        let line = page.lines().find_map(|line| line.strip_prefix(&start));
        line.and_then(|value| value.parse::<f64>().ok())
            .ok_or_else(|| LabError::Check(format!("no {start}in {page}")))
    };
    let moved = "penstock_drive_memory_payload_bytes_total";
    let (used, unused) = (value(moved, with)?, value(moved, without)?);
    check(used >= f64::from(16 << 20) && unused == 0.0, || {
        format!("{used} and {unused} bytes went through the drives' own memory")
    })?;
    for drive in [with, without] {
        let copies = value("penstock_drive_copies_total", drive)?;
        check(copies == 0.0, || format!("{copies} payloads were copied"))?;
    }
    Ok(())
}

/// Starts a node and reads from a drive that is slow for a while. CPU time that its reactor used then,
/// in milliseconds. With `interrupts` the node and the host stay as they are, else both leave.
fn slow_drive(bench: &mut Bench, addresses: &[&str], interrupts: bool) -> Result<u64> {
    let nvme = format!(
        "queues_in_drive_memory = true\npayload_in_drive_memory_bytes = 8388608\n\
         interrupts = {interrupts}"
    );
    start_node(&mut bench.guest, addresses, &nvme)?;
    bench.guest.run(&format!(
        "nvme connect -t tcp -a 127.0.0.1 -s 4420 -n {NQN}"
    ))?;
    let disk = bench.disk(2)?;
    let guest = &mut bench.guest;
    guest.note("a slow drive is read for a while");
    guest.throttle(TWO, SLOW_IOPS)?;
    let reads = format!(
        "fio --name=slow --filename={disk} --ioengine=libaio --direct=1 --rw=randread --bs=4k \
         --iodepth=1 --time_based --runtime={SLOW_S} 2>&1"
    );
    let before = cpu_ms(guest)?;
    guest.run_within(&reads, FIO_LIMIT)?;
    let used = cpu_ms(guest)? - before;
    guest.throttle(TWO, 0)?;
    guest.note(&format!(
        "interrupts {interrupts}: the reactor used {used} ms of CPU time in {SLOW_S} s"
    ));
    if !interrupts {
        guest.run("nvme disconnect-all")?;
        stop_node(guest)?;
    }
    Ok(used)
}

/// CPU time that the node's reactors have used, in milliseconds (proc(5): utime and stime in 1/100 s).
fn cpu_ms(guest: &mut Guest) -> Result<u64> {
    let text = guest.run(
        "for task in /proc/$(cat /tmp/node.pid)/task/*; do \
         case $(cat $task/comm) in reactor*) cut -d' ' -f14,15 $task/stat ;; esac; done",
    )?;
    let ticks = text.split_whitespace().map(str::parse::<u64>);
    let ticks: std::result::Result<Vec<u64>, _> = ticks.collect();
    match ticks {
        Ok(ticks) if !ticks.is_empty() => Ok(ticks.iter().sum::<u64>() * 10),
        _ => Err(LabError::Check(format!("no times in {text}"))),
    }
}

/// The drive whose serial number is `serial`, while the kernel's driver has it.
pub(super) fn address_of(guest: &mut Guest, serial: &str) -> Result<String> {
    let text = guest.run(&format!("{DEVICE} list --json"))?;
    let list: Value = serde_json::from_str(&text)
        .map_err(|err| LabError::Check(format!("the list is no JSON: {err}: {text}")))?;
    let drives = list.as_array().into_iter().flatten();
    let mut found = drives.filter(|drive| drive["serial"] == serial);
    let address = found.next().and_then(|drive| drive["address"].as_str());
    let missing = || LabError::Check(format!("no drive {serial} in {list}"));
    address.map(str::to_owned).ok_or_else(missing)
}

pub(super) fn start_node(guest: &mut Guest, addresses: &[&str], nvme: &str) -> Result<()> {
    let mut text = format!(
        "[node]\nname = \"guest\"\n\n[metrics]\nlisten = \"127.0.0.1:9464\"\n\n\
         [nvme]\nqueue_entries = 64\n{nvme}\n\n\
         [[listener]]\naddress = \"127.0.0.1:4420\"\n\n\
         [[subsystem]]\nnqn = \"{NQN}\"\nserial = \"DRIVES\"\nallow_any_host = true\n"
    );
    for (index, address) in addresses.iter().enumerate() {
        text.push_str(&format!(
            "\n[[subsystem.namespace]]\nnsid = {}\nbackend = \"nvme\"\npci_address = \"{address}\"\n\
             block_size_bytes = 512\n",
            index + 1
        ));
    }
    guest.run(&format!("cat >/tmp/node.toml <<'END'\n{text}END"))?;
    // Its status is kept: the shell that starts it is gone by the time it ends.
    guest.run(
        "rm -f /tmp/node.status; sh -c '/penstock/bin/penstock-node --config /tmp/node.toml >/tmp/node.log 2>&1 & \
         echo $! >/tmp/node.pid; wait $!; echo $? >/tmp/node.status' >/dev/null 2>&1 &",
    )?;
    let ready = "wget -qO- http://127.0.0.1:9464/readyz >/dev/null 2>&1 || [ -f /tmp/node.status ]";
    let waited = guest.wait_until("the node to be ready", ready, START_LIMIT.max(EVENT_LIMIT));
    let ended = guest.run("cat /tmp/node.log; [ ! -f /tmp/node.status ]");
    waited.and(ended.map(drop))
}
