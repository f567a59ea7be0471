//! What the node tells about itself, through nvme-cli's eyes.

use crate::bench::{Bench, CONTROLLER, expect_number, expect_text, number};
use crate::error::{Result, check};
use crate::node::Namespace;

pub(super) fn steps(bench: &mut Bench) -> Result<()> {
    bench.connect("")?;
    queues(bench)?;
    controller(bench)?;
    namespaces(bench)?;
    list(bench)?;
    smart_log(bench)?;
    error_log(bench)?;
    other_logs(bench)?;
    bench.disconnect()
}

fn queues(bench: &mut Bench) -> Result<()> {
    let count = bench.guest.run("cat /sys/class/nvme/nvme0/queue_count")?;
    check(count.trim() == "3", || {
        format!(
            "the host made {} queues, expected an admin and two I/O queues",
            count.trim()
        )
    })?;
    let state = bench.guest.run("cat /sys/class/nvme/nvme0/state")?;
    check(state.trim() == "live", || {
        format!("the controller is {}", state.trim())
    })
}

fn controller(bench: &mut Bench) -> Result<()> {
    let id = bench.json(&format!("id-ctrl {CONTROLLER}"))?;
    let nqn = bench.nqn().to_owned();
    expect_text(&id, "subnqn", &nqn)?;
    expect_number(&id, "cntrltype", 1)?;
    check(number(&id, "ver")? >= 0x1_0300, || {
        "the version is older than 1.3".into()
    })?;
    check(number(&id, "ioccsz")? >= 4, || {
        "an I/O capsule is under 64 bytes".into()
    })?;
    check(number(&id, "iorcsz")? == 1, || {
        "an I/O response is not 16 bytes".into()
    })?;
    check(number(&id, "kas")? > 0, || {
        "no keep alive granularity".into()
    })?;
    check(number(&id, "sgls")? & 1 == 1, || {
        "no SGL support, which fabrics demand".into()
    })?;
    check(number(&id, "nn")? >= 2, || {
        "fewer than two namespaces possible".into()
    })?;
    check(number(&id, "sqes")? == 0x66, || {
        "submission entries are not 64 bytes".into()
    })?;
    check(number(&id, "cqes")? == 0x44, || {
        "completion entries are not 16 bytes".into()
    })?;
    if let Ok((_, subsystem)) = bench.own() {
        let serial = subsystem.serial.clone();
        expect_text(&id, "sn", &serial)?;
        // Compare, dataset management, write zeroes, verify.
        let optional = number(&id, "oncs")?;
        check(optional & 0b1000_1101 == 0b1000_1101, || {
            format!("ONCS is {optional:#x}; compare, deallocate, write zeroes or verify is missing")
        })?;
        check(number(&id, "vwc")? & 1 == 1, || {
            "no volatile write cache for a file backend".into()
        })?;
        check(number(&id, "mdts")? == 8, || {
            "MDTS is not the default of 1 MiB".into()
        })?;
        check(number(&id, "ioccsz")? == (64 + 8192) / 16, || {
            "in-capsule data is not the default of 8 KiB".into()
        })?;
    }
    Ok(())
}

fn namespaces(bench: &mut Bench) -> Result<()> {
    let Ok((_, subsystem)) = bench.own() else {
        let device = bench.disk(1)?;
        bench.json(&format!("id-ns {device}"))?;
        return Ok(());
    };
    let expected: Vec<Namespace> = subsystem.namespaces.clone();
    let mut identities = Vec::new();
    for namespace in expected {
        let device = bench.disk(namespace.nsid)?;
        let id = bench.json(&format!("id-ns {device}"))?;
        let blocks = namespace.size_bytes() / u64::from(namespace.block_size_bytes);
        expect_number(&id, "nsze", blocks)?;
        expect_number(&id, "ncap", blocks)?;
        let format = usize::try_from(number(&id, "flbas")? & 0xf).unwrap_or(usize::MAX);
        let shift = number(&id["lbafs"][format], "ds")?;
        check(1 << shift == u64::from(namespace.block_size_bytes), || {
            format!(
                "{device}: blocks of 2^{shift} bytes, expected {}",
                namespace.block_size_bytes
            )
        })?;
        let size = bench.guest.run(&format!("blockdev --getsize64 {device}"))?;
        check(size.trim() == namespace.size_bytes().to_string(), || {
            format!(
                "{device} has {} bytes, expected {}",
                size.trim(),
                namespace.size_bytes()
            )
        })?;
        let unique = bench
            .guest
            .run(&format!("cat /sys/block/{}/wwid", &device[5..]))?;
        check(!identities.contains(&unique), || {
            format!("{device} shares its id {unique}")
        })?;
        identities.push(unique);
    }
    Ok(())
}

fn list(bench: &mut Bench) -> Result<()> {
    let disks = (bench.disk(1)?, bench.disk(2)?);
    let text = bench.guest.run("nvme list")?;
    check(text.contains(&disks.0) && text.contains(&disks.1), || {
        format!("`nvme list` lacks a namespace:\n{text}")
    })?;
    let all = bench.json("list")?;
    let devices = all["Devices"].as_array().map_or(0, Vec::len);
    check(devices > 0, || {
        format!("`nvme list -o json` is empty: {all}")
    })?;
    let text = bench.guest.run("nvme list-subsys")?;
    check(
        text.contains(bench.nqn()) && text.contains("tcp") && text.contains("live"),
        || format!("`nvme list-subsys` does not show a live TCP path:\n{text}"),
    )?;
    let active = bench.guest.run(&format!("nvme list-ns {CONTROLLER}"))?;
    check(active.lines().count() == 2, || {
        format!("`nvme list-ns` shows:\n{active}")
    })
}

fn smart_log(bench: &mut Bench) -> Result<()> {
    let before = bench.json(&format!("smart-log {CONTROLLER}"))?;
    expect_number(&before, "critical_warning", 0)?;
    expect_number(&before, "media_errors", 0)?;
    check(number(&before, "avail_spare")? <= 100, || {
        "spare is over 100 %".into()
    })?;
    let device = bench.disk(1)?;
    bench.guest.run(&format!(
        "dd if=/dev/zero of={device} bs=1M count=8 oflag=direct 2>&1 && \
         dd if={device} of=/dev/null bs=1M count=4 iflag=direct 2>&1"
    ))?;
    let after = bench.json(&format!("smart-log {CONTROLLER}"))?;
    // A data unit is a thousand blocks of 512 bytes, so that 8 MiB are 16 of them and a rest.
    for (field, least) in [("host_write_commands", 8), ("host_read_commands", 4)] {
        let (was, is) = (number(&before, field)?, number(&after, field)?);
        check(is >= was + least, || {
            format!("`{field}` went from {was} to {is}")
        })?;
    }
    for (field, least) in [("data_units_written", 16), ("data_units_read", 8)] {
        let (was, is) = (number(&before, field)?, number(&after, field)?);
        check(is >= was + least, || {
            format!("`{field}` went from {was} to {is}")
        })?;
    }
    Ok(())
}

fn error_log(bench: &mut Bench) -> Result<()> {
    let device = bench.disk(1)?;
    let beyond = bench.guest.ask(
        &format!("nvme read {device} --start-block=0x7fffffff --block-count=0 --data-size=512"),
        std::time::Duration::from_secs(20),
    )?;
    check(beyond.status != 0, || {
        "a read beyond the end succeeded".into()
    })?;
    let own = bench.own().is_ok();
    check(!own || beyond.output.contains("LBA"), || {
        format!("a read beyond the end is told as: {}", beyond.output)
    })?;
    let log = bench.json(&format!("error-log {CONTROLLER} --log-entries=8"))?;
    let entries = log["errors"].as_array().cloned().unwrap_or_default();
    check(!entries.is_empty(), || {
        format!("the error log has no entries: {log}")
    })?;
    if own {
        let told = entries.iter().any(|entry| {
            number(entry, "error_count").is_ok_and(|count| count > 0)
                && number(entry, "nsid").is_ok_and(|nsid| nsid == 1)
                && number(entry, "lba").is_ok_and(|lba| lba == 0x7fff_ffff)
        });
        check(told, || {
            format!("the error log does not tell of the read beyond the end: {log}")
        })?;
    }
    Ok(())
}

fn other_logs(bench: &mut Bench) -> Result<()> {
    bench.json(&format!("fw-log {CONTROLLER}"))?;
    bench.guest.run(&format!("nvme effects-log {CONTROLLER}"))?;
    bench
        .guest
        .run(&format!("nvme changed-ns-list-log {CONTROLLER}"))?;
    bench
        .guest
        .run(&format!("nvme get-feature {CONTROLLER} -f 7 -H"))?;
    let status = bench
        .guest
        .run(&format!("nvme get-property {CONTROLLER} --offset=0x1c -H"))?;
    check(status.contains("Ready"), || {
        format!("CSTS reads as {status}")
    })
}
