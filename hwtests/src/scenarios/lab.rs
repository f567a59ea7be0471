//! The lab's check of itself: if this fails, look at the lab before the node.

use crate::bench::{Bench, CONTROLLER};
use crate::error::LabError;
use crate::error::{Result, check};
use std::time::Duration;

/// Serves a RAM-backed device from the guest's kernel to the guest's kernel.
const LOCAL_TARGET: &str = "
set -e
load nvmet_tcp null_blk
mount -t configfs configfs /sys/kernel/config
cd /sys/kernel/config/nullb
mkdir nullb1
echo 32 >nullb1/size
echo 1 >nullb1/memory_backed
echo 1 >nullb1/power
cd /sys/kernel/config/nvmet
mkdir subsystems/local
echo 1 >subsystems/local/attr_allow_any_host
mkdir subsystems/local/namespaces/1
echo /dev/nullb1 >subsystems/local/namespaces/1/device_path
echo 1 >subsystems/local/namespaces/1/enable
mkdir ports/1
echo tcp >ports/1/addr_trtype
echo ipv4 >ports/1/addr_adrfam
echo 127.0.0.1 >ports/1/addr_traddr
echo 4420 >ports/1/addr_trsvcid
ln -s /sys/kernel/config/nvmet/subsystems/local ports/1/subsystems/local
nvme connect -t tcp -a 127.0.0.1 -s 4420 -n local --nr-io-queues=2
";

pub(super) fn steps(bench: &mut Bench) -> Result<()> {
    let guest = &mut bench.guest;
    let err = guest.run("echo said; exit 7").err();
    let seen = matches!(&err, Some(LabError::Guest { status: 7, output, .. }) if output == "said");
    check(seen, || format!("a failing command came back as {err:?}"))?;
    let slow = guest.ask("sleep 60", Duration::from_secs(1))?;
    check(slow.status == 137, || {
        format!("a slow command came back with {}", slow.status)
    })?;
    guest.run(LOCAL_TARGET)?;
    let device = bench.disk(1)?;
    let guest = &mut bench.guest;
    guest.run(&format!(
        "fio --name=own --filename={device} --direct=1 --rw=write --bs=64k --size=4m --verify=crc32c"
    ))?;
    guest.run(&format!(
        "nvme id-ctrl {CONTROLLER} && nvme disconnect -n local"
    ))?;
    Ok(())
}
