//! The node dies without warning amid writes and comes back; nothing acknowledged is lost.

use super::data::verified;
use crate::bench::Bench;
use crate::error::{LabError, Result, check};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(180);
const RETURN_LIMIT: Duration = Duration::from_secs(60);

/// How the node ends, one round after another.
const ENDS: [End; 3] = [End::Kill, End::Kill, End::Stop];

#[derive(Clone, Copy, Debug)]
enum End {
    /// SIGKILL.
    Kill,
    /// SIGTERM: the orderly way must not lose anything either.
    Stop,
}

pub(super) fn steps(bench: &mut Bench) -> Result<()> {
    bench.own()?;
    bench.connect("--reconnect-delay=1 --ctrl-loss-tmo=120 --keep-alive-tmo=5")?;
    let disks = (bench.disk(1)?, bench.disk(2)?);
    // Slow enough to be still writing at the last kill; the reading back that follows is not.
    let pace = "--rate=,3m";
    let first = bench
        .guest
        .start(&verified(&disks.0, "512", "48m", pace), LIMIT)?;
    let second = bench
        .guest
        .start(&verified(&disks.1, "4k", "48m", pace), LIMIT)?;
    let mut written = 0;
    for end in ENDS {
        bench.note(&format!("{end:?}"));
        written = wait_for_writes(bench, &disks.0, written)?;
        let (node, _) = bench.own()?;
        match end {
            End::Kill => node.kill()?,
            End::Stop => node.stop()?,
        }
        let lost = "[ \"$(cat /sys/class/nvme/nvme0/state)\" != live ]";
        bench
            .guest
            .wait_until("the host to notice", lost, RETURN_LIMIT)?;
        let (node, _) = bench.own()?;
        node.launch()?;
        let live = "[ \"$(cat /sys/class/nvme/nvme0/state)\" = live ]";
        bench
            .guest
            .wait_until("the host to reconnect", live, RETURN_LIMIT)?;
    }
    wait_for_writes(bench, &disks.0, written)?;
    first.wait()?;
    second.wait()?;
    let kernel = bench
        .guest
        .run("dmesg | grep -iE 'I/O error|removing after' || true")?;
    check(kernel.is_empty(), || format!("the host lost I/O: {kernel}"))?;
    bench.disconnect()
}

/// Waits until the host has written some more since `before`, in sectors, so that the kill that
/// follows falls amid writes.
fn wait_for_writes(bench: &mut Bench, device: &str, before: u64) -> Result<u64> {
    let name = device.trim_start_matches("/dev/");
    let sectors = format!("$(awk '{{print $7}}' /sys/block/{name}/stat)");
    let condition = format!("[ {sectors} -gt {} ]", before + 2048);
    bench
        .guest
        .wait_until("more writes", &condition, RETURN_LIMIT)?;
    let text = bench
        .guest
        .run(&format!("pidof fio >/dev/null && echo {sectors}"))?;
    let parsed = text.trim().parse();
    parsed.map_err(|_| LabError::Check(format!("the sectors written read as {text:?}")))
}
