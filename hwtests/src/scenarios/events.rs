//! Changes that the host hears of while it works.

use super::data::verified;
use crate::bench::{Bench, EVENT_LIMIT};
use crate::error::{Result, check};
use crate::node::Namespace;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);

pub(super) fn namespaces(bench: &mut Bench) -> Result<()> {
    bench.own()?;
    bench.connect("")?;
    bench.disk(2)?;
    let load = verified(&bench.disk(1)?, "512", "48m", "--rate=4m");
    let load = bench.guest.start(&load, LIMIT)?;

    bench.note("add");
    bench.change(|subsystem| subsystem.namespaces.push(Namespace::file(3, 32, 4096)))?;
    let device = bench.disk(3)?;
    bench
        .guest
        .run_within(&verified(&device, "4k", "8m", ""), LIMIT)?;

    bench.note("grow");
    bench.change(|subsystem| {
        if let Some(last) = subsystem.namespaces.last_mut() {
            last.size_mib = 48;
        }
    })?;
    let grown = format!("[ \"$(blockdev --getsize64 {device})\" = {} ]", 48u64 << 20);
    bench
        .guest
        .wait_until("the new size", &grown, EVENT_LIMIT)?;
    bench.guest.run(&format!(
        "dd if=/dev/urandom of=/tmp/end bs=1M count=1 2>/dev/null && \
         dd if=/tmp/end of={device} bs=1M seek=47 oflag=direct 2>&1 && \
         dd if={device} bs=1M skip=47 iflag=direct 2>/dev/null | cmp - /tmp/end"
    ))?;

    bench.note("remove");
    bench.change(|subsystem| {
        subsystem.namespaces.pop();
    })?;
    let gone = format!("[ ! -e {device} ]");
    bench
        .guest
        .wait_until("the namespace to disappear", &gone, EVENT_LIMIT)?;

    load.wait()?;
    let kernel = bench
        .guest
        .run("dmesg | grep -iE 'reconnect|failed nvme|I/O error' || true")?;
    check(kernel.is_empty(), || {
        format!("the host reconnected or lost I/O: {kernel}")
    })?;
    let queues = bench.guest.run("nvme list-ns /dev/nvme0")?;
    check(queues.lines().count() == 2, || {
        format!("left after the removal:\n{queues}")
    })?;
    bench.disconnect()
}
