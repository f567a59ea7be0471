//! Metrics of the drives that the node drives itself.

use penstock_backend::{
    DriveHealth, KindSnapshot, LATENCY_BUCKETS, NvmeDrive, RequestKind, bucket_limit_ns,
};

use super::text::Families;

/// Everything about one drive.
pub(super) fn of_drive(families: &mut Families, drive: &NvmeDrive) {
    let base = [("drive", drive.name())];
    let kept = drive.kept();
    let up = if kept.is_gone() { 0.0 } else { 1.0 };
    let help = "Whether the drive answers: 0 once it is gone for good.";
    families.gauge("penstock_drive_up", help, &base, up);
    let stats = kept.stats();
    for (command, kind) in [
        ("read", RequestKind::Read),
        ("write", RequestKind::Write),
        ("other", RequestKind::Other),
    ] {
        let labels = [base[0], ("command", command)];
        of_requests(families, &labels, &stats.snapshot(kind));
    }
    for (name, help, value) in [
        (
            "penstock_drive_resets_total",
            "Times the drive was reset.",
            stats.resets(),
        ),
        (
            "penstock_drive_aborts_total",
            "Commands that were aborted because the drive took too long.",
            stats.aborts(),
        ),
        (
            "penstock_drive_events_total",
            "Asynchronous events that the drive told of.",
            stats.events(),
        ),
        (
            "penstock_drive_error_log_entries_total",
            "Entries that the drive's own error log has got while in use here.",
            stats.error_log_entries(),
        ),
        (
            "penstock_drive_copies_total",
            "Requests whose payload was copied, as the drive does not reach it where it lay.",
            stats.copies(),
        ),
    ] {
        families.counter(name, help, &base, value);
    }
    of_memory(families, &base, drive);
    if let Some(health) = kept.health() {
        of_health(families, &base, &health);
    }
}

fn of_requests(families: &mut Families, labels: &[(&str, &str)], seen: &KindSnapshot) {
    let help = "Requests to the drive that failed.";
    families.counter("penstock_drive_errors_total", help, labels, seen.errors);
    let help = "Payload bytes moved to or from the drive.";
    families.counter("penstock_drive_bytes_total", help, labels, seen.bytes);
    let mut up_to = 0;
    let buckets: Vec<(f64, u64)> = (0..LATENCY_BUCKETS)
        .filter_map(|index| {
            up_to += seen.buckets[index];
            Some((bucket_limit_ns(index)? as f64 / 1e9, up_to))
        })
        .collect();
    families.histogram(
        "penstock_drive_latency_seconds",
        "Time from a request's submission to the drive's answer.",
        labels,
        &buckets,
        seen.latency_ns as f64 / 1e9,
        seen.requests,
    );
}

fn of_memory(families: &mut Families, base: &[(&str, &str)], drive: &NvmeDrive) {
    let memory = drive.memory();
    let taken = memory.queue_bytes + memory.payload_bytes;
    for (used_for, bytes) in [
        ("queues", memory.queue_bytes),
        ("payload", memory.payload_bytes),
        ("nothing", memory.total_bytes.saturating_sub(taken)),
    ] {
        let help = "Bytes of the drive's own memory (CMB), by what they are set aside for.";
        let labels = [base[0], ("for", used_for)];
        families.gauge("penstock_drive_memory_bytes", help, &labels, bytes as f64);
    }
    families.counter(
        "penstock_drive_memory_payload_bytes_total",
        "Payload bytes that the drive took out of its own memory (CMB).",
        base,
        drive.kept().stats().own_bytes(),
    );
}

fn of_health(families: &mut Families, base: &[(&str, &str)], health: &DriveHealth) {
    for (name, help, value) in [
        (
            "penstock_drive_temperature_kelvin",
            "Composite temperature of the drive.",
            f64::from(health.temperature_kelvin),
        ),
        (
            "penstock_drive_used_ratio",
            "Wear of the drive: 1 is what its maker expects it to last.",
            f64::from(health.used_percent) / 100.0,
        ),
        (
            "penstock_drive_spare_ratio",
            "Spare blocks the drive has left, 0 to 1.",
            f64::from(health.spare_percent) / 100.0,
        ),
        (
            "penstock_drive_critical_warnings",
            "Critical warnings of the drive, as bits (SMART / Health log, byte 0).",
            f64::from(health.critical_warning),
        ),
    ] {
        families.gauge(name, help, base, value);
    }
    families.counter(
        "penstock_drive_media_errors_total",
        "Media and data integrity errors that the drive counts.",
        base,
        health.media_errors,
    );
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use penstock_async_nvme::soft::{SoftConfig, SoftController};
    use penstock_async_nvme::{Controller, ControllerConfig, Regions, Sleeping};

    use penstock_backend::NvmeDriveConfig;

    use super::*;

    #[test]
    fn a_drive_is_told_of_with_its_health() {
        let soft = SoftController::new(SoftConfig::with_namespace(1 << 20, 12));
        let _thread = soft.run_thread();
        let controller = Controller::start(
            soft.bar(),
            Arc::new(Regions::new(soft.mapper())),
            Arc::new(Sleeping::default()),
            ControllerConfig::default(),
        )
        .unwrap();
        let drive = NvmeDrive::start(
            "0000:01:00.0".to_owned(),
            controller,
            None,
            Vec::new(),
            &NvmeDriveConfig::default(),
        )
        .unwrap();
        let page = || {
            let mut families = Families::default();
            of_drive(&mut families, &drive);
            families.text()
        };
        let started = Instant::now();
        // The drive's own thread reads its health when it begins.
        while !page().contains("penstock_drive_temperature_kelvin{drive=\"0000:01:00.0\"} 3") {
            assert!(started.elapsed() < Duration::from_secs(20), "{}", page());
            std::thread::sleep(Duration::from_millis(10));
        }
        for line in [
            "penstock_drive_up{drive=\"0000:01:00.0\"} 1\n",
            "penstock_drive_memory_bytes{drive=\"0000:01:00.0\",for=\"payload\"} 0\n",
            "penstock_drive_errors_total{drive=\"0000:01:00.0\",command=\"read\"} 0\n",
            "penstock_drive_error_log_entries_total{drive=\"0000:01:00.0\"} 0\n",
            "penstock_drive_latency_seconds_count{drive=\"0000:01:00.0\",command=\"write\"} 0\n",
        ] {
            assert!(page().contains(line), "{}", page());
        }
        drive.shut_down().unwrap();
        assert!(page().contains("penstock_drive_up{drive=\"0000:01:00.0\"} 0\n"));
    }
}
