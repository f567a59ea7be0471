//! The discovery subsystem as `nvme discover` and a persistent discovery controller see it.

use crate::bench::{Bench, EVENT_LIMIT, expect_text, number};
use crate::error::{LabError, Result, check};
use crate::node::{Namespace, Subsystem};
use serde_json::Value;

/// Listed by discovery as the subsystem's own NQN.
const DISCOVERY_NQN: &str = "nqn.2014-08.org.nvmexpress.discovery";

pub(super) fn discover(bench: &mut Bench) -> Result<()> {
    let address = bench.address();
    let log = bench.json(&format!("discover {address}"))?;
    let record = record(&log, bench.nqn())?;
    expect_text(record, "trtype", "tcp")?;
    expect_text(record, "adrfam", "ipv4")?;
    expect_text(record, "subtype", "nvme subsystem")?;
    // A peer may be behind a forwarded port.
    if bench.own().is_ok() {
        expect_text(record, "trsvcid", &bench.port().to_string())?;
    }
    check(number(record, "portid").is_ok(), || {
        format!("no port id in {record}")
    })?;
    let generation = number(&log, "genctr")?;
    let again = bench.json(&format!("discover {address}"))?;
    check(number(&again, "genctr")? == generation, || {
        "the generation counter moved although nothing changed".into()
    })?;
    if bench.own().is_err() {
        return Ok(());
    }
    bench.note("a second subsystem");
    add_subsystem(bench)?;
    let condition = format!("nvme discover {address} | grep -q :second");
    bench
        .guest
        .wait_until("the new subsystem in the log page", &condition, EVENT_LIMIT)?;
    let grown = bench.json(&format!("discover {address}"))?;
    check(number(&grown, "genctr")? != generation, || {
        format!("the generation counter is still {generation} after a change")
    })?;
    self::record(&grown, bench.nqn()).map(drop)
}

pub(super) fn events(bench: &mut Bench) -> Result<()> {
    bench.own()?;
    let address = bench.address();
    // Each event runs the shell text with the event's variables set.
    bench
        .guest
        .run("uevent sh -c 'env | grep ^NVME_ >>/run/nvme-events' >/dev/null 2>&1 & sleep 0.5")?;
    bench.guest.run(&format!(
        "nvme discover {address} --persistent --keep-alive-tmo=10"
    ))?;
    let controllers = bench.guest.run("cat /sys/class/nvme/nvme*/subsysnqn")?;
    check(controllers.contains(DISCOVERY_NQN), || {
        format!("no persistent discovery controller, only {controllers:?}")
    })?;
    add_subsystem(bench)?;
    // Discovery log page change: type notice, information F0h, log page 70h.
    let heard = "grep -q NVME_AEN=0x70f002 /run/nvme-events 2>/dev/null";
    bench
        .guest
        .wait_until("the discovery change event", heard, EVENT_LIMIT)?;
    let listed = "nvme discover -d nvme0 | grep -q :second";
    bench.guest.wait_until(
        "the new subsystem over the same controller",
        listed,
        EVENT_LIMIT,
    )?;
    bench.note("the event comes again once the host has let go of it");
    // This nvme-cli's `discover` reads with Retain Asynchronous Event and so does not.
    bench
        .guest
        .run("nvme get-log /dev/nvme0 --log-id=0x70 --log-len=16 && rm /run/nvme-events")?;
    let (node, subsystem) = bench.own()?;
    node.reconfigure(std::slice::from_ref(subsystem))?;
    bench
        .guest
        .wait_until("the second change event", heard, EVENT_LIMIT)
}

/// Serves one more subsystem, named `second`.
fn add_subsystem(bench: &mut Bench) -> Result<()> {
    let (node, subsystem) = bench.own()?;
    let second = Subsystem::open("second", &[Namespace::memory(1, 16, 512)]);
    node.reconfigure(&[subsystem.clone(), second])
}

fn record<'a>(log: &'a Value, nqn: &str) -> Result<&'a Value> {
    let records = log["records"].as_array();
    let found = records.and_then(|all| all.iter().find(|record| record["subnqn"] == nqn));
    found.ok_or_else(|| LabError::Check(format!("no record of {nqn} in the discovery log: {log}")))
}
