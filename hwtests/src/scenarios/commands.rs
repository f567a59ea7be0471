//! Commands beyond read and write.

use crate::bench::{Bench, CONTROLLER, expect_number, number};
use crate::error::{Result, check};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);

/// Fills 12 MiB with a pattern, clears 4 MiB in the middle with `$1`, and compares all 12 MiB.
const CLEAR: &str = "
set -e
device=$DEVICE
yes penstock | head -c 12582912 >/tmp/pattern
dd if=/tmp/pattern of=$device bs=1M oflag=direct 2>/dev/null
$CLEAR
cp /tmp/pattern /tmp/expected
dd if=/dev/zero of=/tmp/expected bs=1M seek=4 count=4 conv=notrunc 2>/dev/null
echo 3 >/proc/sys/vm/drop_caches
dd if=$device of=/tmp/found bs=1M count=12 iflag=direct 2>/dev/null
cmp /tmp/expected /tmp/found
";

pub(super) fn discard(bench: &mut Bench) -> Result<()> {
    bench.connect("")?;
    for nsid in [1, 2] {
        let device = bench.disk(nsid)?;
        for limit in ["discard_max_bytes", "write_zeroes_max_bytes"] {
            let path = format!("/sys/block/{}/queue/{limit}", &device[5..]);
            let value = bench.guest.run(&format!("cat {path}"))?;
            check(value.trim() != "0", || {
                format!("the host found no use for {limit} of {device}")
            })?;
        }
        // Deallocated blocks read as zeroes if the low bits of DLFEAT are 1 (NVM Command Set 1.1,
        // 4.1.5.1); only then can their contents be tested.
        let id = bench.json(&format!("id-ns {device}"))?;
        let zeroes = number(&id, "dlfeat")? & 7 == 1;
        check(zeroes || bench.own().is_err(), || {
            format!("DLFEAT of {device} is not 1")
        })?;
        if zeroes {
            clear(
                bench,
                &device,
                "/lab/bin/blkdiscard --offset 4194304 --length 4194304 $device",
            )?;
        }
        let zeroing = "/lab/bin/blkdiscard --zeroout --offset 4194304 --length 4194304 $device";
        clear(bench, &device, zeroing)?;
    }
    bench.note("the whole device");
    let device = bench.disk(1)?;
    bench
        .guest
        .run_within(&format!("/lab/bin/blkdiscard {device}"), LIMIT)?;
    bench.disconnect()
}

fn clear(bench: &mut Bench, device: &str, how: &str) -> Result<()> {
    let script = CLEAR.replace("$DEVICE", device).replace("$CLEAR", how);
    bench.guest.run_within(&script, LIMIT).map(drop)
}

pub(super) fn commands(bench: &mut Bench) -> Result<()> {
    bench.connect("")?;
    let device = bench.disk(1)?;
    bench.guest.run(&format!(
        "head -c 4096 /dev/urandom >/tmp/data && head -c 4096 /dev/urandom >/tmp/other && \
         nvme write {device} --start-block=8 --block-count=7 --data-size=4096 --data=/tmp/data --force-unit-access"
    ))?;
    let compare = |file: &str| {
        format!(
            "nvme compare {device} --start-block=8 --block-count=7 --data-size=4096 --data={file}"
        )
    };
    bench.guest.run(&compare("/tmp/data"))?;
    let differs = bench.guest.ask(&compare("/tmp/other"), LIMIT)?;
    check(
        differs.status != 0 && differs.output.to_lowercase().contains("compare"),
        || {
            format!(
                "a comparison with other data: {} {}",
                differs.status, differs.output
            )
        },
    )?;
    bench.guest.run(&format!(
        "nvme verify {device} --start-block=0 --block-count=31"
    ))?;
    bench.guest.run(&format!("nvme flush {device}"))?;
    bench.guest.run(&format!(
        "nvme write-zeroes {device} --start-block=8 --block-count=7"
    ))?;
    bench.guest.run("head -c 4096 /dev/zero >/tmp/zero")?;
    bench.guest.run(&compare("/tmp/zero"))?;
    bench
        .guest
        .run(&format!("nvme dsm {device} --ad --slbs=8 --blocks=8"))?;
    refusals(bench)?;
    reset(bench)?;
    bench.disconnect()
}

/// Admin commands to be refused, with their status (type and code; Base 2.1, 4.2.3).
const REFUSED: &[(&str, u16)] = &[
    // No such command.
    ("--opcode=0xc7", 0x001),
    // Identify of a CNS that does not exist.
    ("--opcode=0x06 --cdw10=0xff --data-len=4096 --read", 0x002),
    // Get Log Page of a page that does not exist.
    (
        "--opcode=0x02 --cdw10=0x3ff00ef --data-len=4096 --read",
        0x109,
    ),
];

fn refusals(bench: &mut Bench) -> Result<()> {
    for (arguments, status) in REFUSED {
        let command = format!("nvme admin-passthru {CONTROLLER} {arguments}");
        let said = bench.guest.ask(&command, LIMIT)?;
        let told = status_of(&said.output);
        check(told == Some(*status), || {
            format!(
                "`{command}` should be refused with {status:#x}: {}",
                said.output
            )
        })?;
    }
    Ok(())
}

/// Type and code of the status that nvme-cli prints in brackets, without Do Not Retry and More.
fn status_of(output: &str) -> Option<u16> {
    let digits = output.split("(0x").nth(1)?.split(')').next()?;
    Some(u16::from_str_radix(digits, 16).ok()? & 0x7ff)
}

/// A controller reset amid I/O: the host reconnects and no request fails.
fn reset(bench: &mut Bench) -> Result<()> {
    let device = bench.disk(1)?;
    let job = super::data::verified(&device, "4k", "16m", "--rate=4m");
    let job = bench.guest.start(&job, Duration::from_secs(90))?;
    bench.guest.run("sleep 1; nvme reset /dev/nvme0")?;
    let live = "[ \"$(cat /sys/class/nvme/nvme0/state)\" = live ]";
    bench
        .guest
        .wait_until("the controller after its reset", live, LIMIT)?;
    job.wait()?;
    let id = bench.json(&format!("id-ctrl {CONTROLLER}"))?;
    expect_number(&id, "cntrltype", 1)
}

#[cfg(test)]
mod tests {
    use super::status_of;

    #[test]
    fn the_status_is_read_without_its_flags() {
        let text = "NVMe status: Invalid Log Page: The log page is invalid(0x6109)\n";
        assert_eq!(status_of(text), Some(0x109));
        assert_eq!(status_of("passthru: No such device"), None);
    }
}
