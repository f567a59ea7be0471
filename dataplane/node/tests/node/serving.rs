//! A node serves, and tells what it did.

use crate::daemon::{Daemon, NQN, file, head, listener, memory, subsystem};
use crate::host::{self, Host};

#[test]
fn hosts_write_and_read_and_the_metrics_tell() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = folder.path().join("a.img");
    let config = head()
        + &listener("127.0.0.1:0")
        + &subsystem(NQN)
        + &memory(1, 16 << 20)
        + &file(2, &image, 16 << 20);
    let daemon = Daemon::start(folder.path(), &config);
    let address = daemon.address();
    let host = Host::new();
    let outcome = host.run(move |pool| async move {
        let (controller, queue) = host::connect(&host::options(address), &pool, 16).await?;
        for ns in [1, 2] {
            for (lba, blocks) in [(0, 1), (7, 16), (100, 256), (4095, 1)] {
                host::write(&queue, &pool, (ns, lba, blocks), false).await?;
                assert!(
                    host::holds(&queue, &pool, (ns, lba, blocks)).await?,
                    "{ns} {lba}"
                );
            }
            queue.flush(host::nsid(ns)).await?;
        }
        let beyond = host::holds(&queue, &pool, (1, 4096, 1)).await;
        assert!(beyond.expect_err("beyond the end").status().is_some());
        queue.disconnect().await?;
        controller.shut_down().await
    });
    outcome.expect("served");

    metrics_tell(&Page(daemon.page("/metrics")));
    assert!(daemon.page("/healthz").ends_with("ok\n"));
    assert!(daemon.page("/readyz").ends_with("ok\n"));
}

/// What the writes and reads above amount to.
fn metrics_tell(page: &Page) {
    let bytes = f64::from((1 + 16 + 256 + 1) * 4096);
    for (ns, path) in [("1", "device"), ("2", "pool")] {
        let direction = |direction| [("nsid", ns), ("direction", direction)];
        assert_eq!(
            page.metric("penstock_io_bytes_total", &direction("read")),
            bytes
        );
        assert_eq!(
            page.metric("penstock_io_bytes_total", &direction("write")),
            bytes
        );
        let through = [("nsid", ns), ("direction", "write"), ("memory", path)];
        assert_eq!(page.metric("penstock_io_path_bytes_total", &through), bytes);
        let reads = [("nsid", ns), ("command", "read")];
        assert_eq!(page.metric("penstock_io_commands_total", &reads), 4.0);
        assert_eq!(
            page.metric("penstock_io_latency_seconds_count", &reads),
            4.0
        );
        assert_eq!(
            page.metric("penstock_namespace_size_bytes", &[("nsid", ns)]),
            16777216.0
        );
    }
    let blamed = [("nsid", "1"), ("class", "host")];
    assert_eq!(page.metric("penstock_io_errors_total", &blamed), 1.0);
    assert_eq!(page.metric("penstock_reactor_up", &[("reactor", "0")]), 1.0);
    assert_eq!(
        page.metric("penstock_buffer_pool_leased_bytes", &[("reactor", "0")]),
        0.0
    );
    assert!(page.metric("penstock_tcp_commands_total", &[("reactor", "0")]) > 18.0);
}

/// A page of metrics.
struct Page(String);

impl Page {
    /// The value of the metric `name` with these labels among others.
    fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let has =
            |line: &str, (key, value): &(&str, &str)| line.contains(&format!("{key}=\"{value}\""));
        let line = self.0.lines().find(|line| {
            line.starts_with(&format!("{name}{{")) && labels.iter().all(|label| has(line, label))
        });
        let line = line.unwrap_or_else(|| panic!("no {name} {labels:?} in\n{}", self.0));
        line.rsplit(' ')
            .next()
            .and_then(|value| value.parse().ok())
            .expect("a number")
    }
}

#[test]
fn connections_are_spread_over_reactors() {
    let folder = tempfile::tempdir().expect("a folder");
    let head = head().replace("pin = false", "pin = false\ncores = [0, 1, 2]");
    let config = head + &listener("127.0.0.1:0") + &subsystem(NQN) + &memory(1, 1 << 20);
    let daemon = Daemon::start(folder.path(), &config);
    let address = daemon.address();
    let host = Host::new();
    let kept = host.run(move |pool| async move {
        let mut kept = Vec::new();
        for _ in 0..3 {
            let options = host::options(address);
            let (controller, queue) = host::connect(&options, &pool, 4).await?;
            host::write(&queue, &pool, (1, 0, 1), false).await?;
            // Leaked on purpose: the connections stay until the host's reactor ends.
            std::mem::forget((controller, queue));
            kept.push(());
        }
        Ok::<_, penstock_client::ClientError>(kept.len())
    });
    assert_eq!(kept.expect("connected"), 3);
    for reactor in 0..3 {
        let name = format!("penstock_reactor_connections{{reactor=\"{reactor}\"");
        assert_eq!(daemon.metric(&name), 2.0, "{}", daemon.page("/metrics"));
    }
}

#[test]
fn logs_can_be_json_and_the_environment_sets_the_level() {
    let folder = tempfile::tempdir().expect("a folder");
    let head = head().replace("level = \"info\"", "format = \"json\"\nlevel = \"error\"");
    let config = head + &listener("127.0.0.1:0") + &subsystem(NQN) + &memory(1, 1 << 20);
    let mut command = crate::daemon::command(folder.path(), &config);
    command
        .env("PENSTOCK_LOG", "info")
        .stderr(std::process::Stdio::piped());
    let mut child = command.spawn().expect("the node starts");
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(
        child.stderr.take().expect("a pipe"),
    ));
    let ready = lines.find_map(|line| {
        let line: serde_json::Value =
            serde_json::from_str(&line.expect("a line")).expect("one JSON object a line");
        (line["message"] == "ready").then_some(line)
    });
    child.kill().expect("killed");
    child.wait().expect("gone");
    let ready = ready.expect("ready");
    assert_eq!(ready["level"], "INFO");
    assert_eq!(ready["node"], "penstock");
}
