//! Verified data with many sizes in flight.

use crate::bench::Bench;
use crate::error::{LabError, Result, check};
use crate::guest::HOST_ADDRESS_V6;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(180);

/// A `fio` command that writes `size` with checksums in every block and reads all of it back.
///
/// `least` is the device's block size; requests are from that to 1 MiB, at random places.
pub(super) fn verified(device: &str, least: &str, size: &str, more: &str) -> String {
    format!(
        "fio --name=verified --filename={device} --ioengine=libaio --direct=1 --rw=randwrite \
         --bsrange={least}-1m --size={size} --iodepth=16 --verify=crc32c --verify_fatal=1 \
         --do_verify=1 --group_reporting {more} 2>&1"
    )
}

pub(super) fn fio(bench: &mut Bench) -> Result<()> {
    bench.connect("")?;
    let (first, second) = (bench.disk(1)?, bench.disk(2)?);
    bench
        .guest
        .run_within(&verified(&first, "512", "32m", ""), LIMIT)?;
    bench
        .guest
        .run_within(&verified(&second, "4k", "48m", ""), LIMIT)?;
    bench.note("small requests, and both namespaces at once");
    let small = verified(&first, "512", "4m", "--bsrange=512-16k --iodepth=64");
    let large = verified(&second, "4k", "32m", "--bsrange=256k-1m");
    let small = bench.guest.start(&small, LIMIT)?;
    let large = bench.guest.start(&large, LIMIT)?;
    small.wait()?;
    large.wait()?;
    bench.disconnect()
}

pub(super) fn digests(bench: &mut Bench) -> Result<()> {
    let said = bench.connect("--hdr-digest --data-digest -v -v -v")?;
    check(
        said.contains("hdr_digest") && said.contains("data_digest"),
        || format!("nvme-cli did not ask for both digests: {said}"),
    )?;
    let (first, second) = (bench.disk(1)?, bench.disk(2)?);
    bench
        .guest
        .run_within(&verified(&first, "512", "24m", ""), LIMIT)?;
    bench
        .guest
        .run_within(&verified(&second, "4k", "24m", ""), LIMIT)?;
    let complaints = bench.guest.run("dmesg | grep -i digest || true")?;
    check(complaints.is_empty(), || {
        format!("the host complains: {complaints}")
    })?;
    bench.disconnect()
}

pub(super) fn ipv6(bench: &mut Bench) -> Result<()> {
    if !bench.own()?.0.ipv6() {
        return Err(LabError::Skip("this machine has no ::1".into()));
    }
    let address = format!("-t tcp -a {HOST_ADDRESS_V6} -s {}", bench.port());
    // QEMU's network answers over IPv6 only some seconds after the boot.
    let reachable = format!("ping6 -c 1 -W 1 {HOST_ADDRESS_V6} >/dev/null 2>&1");
    bench
        .guest
        .wait_until("this machine over IPv6", &reachable, LIMIT)?;
    let log = bench.json(&format!("discover {address}"))?;
    let records = log["records"].as_array().cloned().unwrap_or_default();
    check(
        records.iter().any(|record| record["adrfam"] == "ipv6"),
        || format!("no IPv6 listener in the discovery log: {log}"),
    )?;
    let nqn = bench.nqn().to_owned();
    bench
        .guest
        .run(&format!("nvme connect {address} -n {nqn} --nr-io-queues=2"))?;
    let device = bench.disk(1)?;
    bench
        .guest
        .run_within(&verified(&device, "512", "16m", ""), LIMIT)?;
    bench.disconnect()
}
