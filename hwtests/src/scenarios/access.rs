//! Who may connect.

use crate::bench::Bench;
use crate::error::{Result, check};
use crate::initramfs::HOST_NQN;
use std::time::Duration;

pub(super) fn steps(bench: &mut Bench) -> Result<()> {
    bench.change(|subsystem| subsystem.hosts = vec!["nqn.2026-01.org.penstock:other".into()])?;
    let (address, nqn) = (bench.address(), bench.nqn().to_owned());
    // The change is applied soon, not at once; until then the connect may succeed.
    let refused =
        format!("! nvme connect {address} -n {nqn} || {{ nvme disconnect -n {nqn}; false; }}");
    bench
        .guest
        .wait_until("the host to be refused", &refused, Duration::from_secs(20))?;
    let said = bench.guest.ask(
        &format!("nvme connect {address} -n {nqn}"),
        Duration::from_secs(20),
    )?;
    check(said.status != 0, || {
        "a host that is not on the list got in".into()
    })?;
    let kernel = bench.guest.run("dmesg | tail -n 5")?;
    check(kernel.contains("not allow"), || {
        format!(
            "the host was not told that it is not allowed: {} / {kernel}",
            said.output
        )
    })?;
    bench.note("with the host on the list");
    bench.change(|subsystem| subsystem.hosts.push(HOST_NQN.into()))?;
    let let_in = format!("nvme connect {address} -n {nqn} 2>/dev/null");
    bench
        .guest
        .wait_until("the host to be let in", &let_in, Duration::from_secs(20))?;
    let device = bench.disk(1)?;
    bench
        .guest
        .run(&format!("dd if={device} of=/dev/null bs=64k count=16 2>&1"))?;
    bench.disconnect()
}
