//! The metrics page: every family, with its help.

use penstock_reactor::StatsSnapshot;
use penstock_subsystem::metrics::{ErrorClass, IoKind, LATENCY_CLASS_NAMES, PATH_NAMES};
use penstock_subsystem::{ControllerSnapshot, NamespaceSnapshot};

use super::NodePages;
use super::drives::of_drive;
use super::memory::of_memory;
use super::text::{Families, cumulative};
use crate::reactors::{Reactor, Report};
use crate::traffic::Traffic;

pub(super) fn page(pages: &NodePages, reports: &[Option<Report>]) -> String {
    let mut families = Families::default();
    let version = env!("CARGO_PKG_VERSION");
    families.gauge(
        "penstock_node_info",
        "The node and its version.",
        &[("node", &pages.node), ("version", version)],
        1.0,
    );
    let snapshot = pages.target.snapshot();
    snapshot
        .namespaces
        .iter()
        .for_each(|namespace| of_namespace(&mut families, namespace));
    snapshot
        .controllers
        .iter()
        .for_each(|controller| of_controller(&mut families, controller));
    families.counter(
        "penstock_connects_refused_total",
        "Connect commands that were refused.",
        &[],
        snapshot.refused_connects,
    );
    for (reactor, report) in pages.fleet.reactors().iter().zip(reports) {
        of_reactor(
            &mut families,
            reactor,
            pages.busy.share(reactor.id()),
            report.is_some(),
        );
        if let Some(report) = report {
            of_pool(&mut families, reactor, report);
            of_traffic(&mut families, reactor, &report.traffic);
        }
    }
    of_memory(&mut families, &pages.fleet);
    for drive in crate::device::drives() {
        of_drive(&mut families, &drive);
    }
    pages.agent.write(&mut families);
    families.text()
}

fn of_namespace(families: &mut Families, namespace: &NamespaceSnapshot) {
    let nsid = namespace.nsid.to_string();
    let base = [
        ("subsystem", namespace.subsystem.as_str()),
        ("nsid", nsid.as_str()),
    ];
    let [subsystem, nsid] = base;
    let totals = &namespace.totals;
    families.gauge(
        "penstock_namespace_size_bytes",
        "Size of the namespace.",
        &base,
        namespace
            .blocks
            .saturating_mul(namespace.block_size.bytes_u64()) as f64,
    );
    for (kind, count) in IoKind::ALL.iter().zip(totals.ops) {
        families.counter(
            "penstock_io_commands_total",
            "I/O commands that succeeded.",
            &[subsystem, nsid, ("command", kind.name())],
            count,
        );
    }
    for (direction, bytes, paths) in [
        ("read", totals.read_bytes, &totals.path_read_bytes),
        ("write", totals.written_bytes, &totals.path_written_bytes),
    ] {
        let direction = ("direction", direction);
        let help = "Payload bytes that hosts read or wrote.";
        families.counter(
            "penstock_io_bytes_total",
            help,
            &[subsystem, nsid, direction],
            bytes,
        );
        for (memory, bytes) in PATH_NAMES.iter().zip(paths) {
            families.counter(
                "penstock_io_path_bytes_total",
                "Payload bytes by the memory they went through on their way to or from the device.",
                &[subsystem, nsid, direction, ("memory", memory)],
                *bytes,
            );
        }
    }
    for (class, count) in ErrorClass::ALL.iter().zip(totals.errors) {
        families.counter(
            "penstock_io_errors_total",
            "I/O commands that failed, by what was to blame.",
            &[subsystem, nsid, ("class", class.name())],
            count,
        );
    }
    for (class, latency) in LATENCY_CLASS_NAMES.iter().zip(&totals.latency) {
        families.histogram(
            "penstock_io_latency_seconds",
            "Time from a command's arrival to its completion.",
            &[subsystem, nsid, ("command", class)],
            &cumulative(&latency.buckets),
            latency.sum_ns as f64 / 1e9,
            latency.count,
        );
    }
}

fn of_controller(families: &mut Families, controller: &ControllerSnapshot) {
    let cntlid = controller.cntlid.to_string();
    let peer = controller.peer.ip().to_string();
    let base = [
        ("subsystem", controller.subsystem.as_str()),
        ("cntlid", cntlid.as_str()),
        ("host", controller.host_nqn.as_str()),
        ("peer", peer.as_str()),
    ];
    let totals = &controller.totals;
    families.gauge(
        "penstock_controller_io_queues",
        "I/O queues connected.",
        &base,
        controller.io_queues as f64,
    );
    for (name, help, value) in [
        (
            "penstock_controller_commands_total",
            "Commands completed.",
            totals.commands,
        ),
        (
            "penstock_controller_errors_total",
            "Commands completed with an error.",
            totals.errors,
        ),
        (
            "penstock_controller_errors_logged_total",
            "Errors noted in the controller's error information log.",
            controller.errors_logged,
        ),
    ] {
        families.counter(name, help, &base, value);
    }
    for (direction, bytes) in [("read", totals.read_bytes), ("write", totals.written_bytes)] {
        let [subsystem, cntlid, host, peer] = base;
        families.counter(
            "penstock_controller_bytes_total",
            "Payload bytes that the host read or wrote.",
            &[subsystem, cntlid, host, peer, ("direction", direction)],
            bytes,
        );
    }
    families.counter_ns(
        "penstock_controller_busy_seconds_total",
        "Time during which I/O was outstanding, of the busiest queue.",
        &base,
        penstock_reactor::ticks_to_ns(totals.busy_ticks),
    );
}

fn of_reactor(families: &mut Families, reactor: &Reactor, busy: f64, answers: bool) {
    let (id, core) = (reactor.id().to_string(), reactor.core().to_string());
    let base = [("reactor", id.as_str()), ("core", core.as_str())];
    let stats = reactor.stats();
    let up = if answers { 1.0 } else { 0.0 };
    families.gauge(
        "penstock_reactor_up",
        "Whether the reactor answers.",
        &base,
        up,
    );
    let help = "Share of the last second that the reactor worked, 0 to 1.";
    families.gauge("penstock_reactor_busy_ratio", help, &base, busy);
    for (name, help, ns) in [
        (
            "penstock_reactor_busy_seconds_total",
            "Time in rounds with work.",
            stats.busy_ns,
        ),
        (
            "penstock_reactor_idle_seconds_total",
            "Time without work, asleep or not.",
            stats.idle_ns,
        ),
    ] {
        families.counter_ns(name, help, &base, ns);
    }
    of_rounds(families, &base, &stats);
}

fn of_rounds(families: &mut Families, base: &[(&str, &str)], stats: &StatsSnapshot) {
    for (name, help, value) in [
        (
            "penstock_reactor_rounds_total",
            "Rounds of the loop.",
            stats.rounds,
        ),
        (
            "penstock_reactor_sleeps_total",
            "Times it slept in the kernel.",
            stats.sleeps,
        ),
        (
            "penstock_reactor_enters_total",
            "Calls of io_uring_enter.",
            stats.enters,
        ),
        (
            "penstock_reactor_completions_total",
            "Completions handled.",
            stats.completions,
        ),
        (
            "penstock_reactor_tasks_polled_total",
            "Tasks polled.",
            stats.tasks_polled,
        ),
        (
            "penstock_reactor_messages_total",
            "Messages of other threads.",
            stats.messages,
        ),
        (
            "penstock_reactor_stalls_total",
            "Rounds over the stall threshold.",
            stats.stalls,
        ),
        (
            "penstock_reactor_receive_buffer_waits_total",
            "Times a receive found no free receive buffer.",
            stats.recv_starved,
        ),
    ] {
        families.counter(name, help, base, value);
    }
    for (name, help, value) in [
        (
            "penstock_reactor_connections",
            "Connections open.",
            stats.open_streams,
        ),
        (
            "penstock_reactor_receive_buffers_in_use",
            "Receive buffers held.",
            stats.recv_buffers_held,
        ),
    ] {
        families.gauge(name, help, base, value as f64);
    }
}

fn of_pool(families: &mut Families, reactor: &Reactor, report: &Report) {
    let id = reactor.id().to_string();
    let base = [("reactor", id.as_str())];
    let pool = &report.pool;
    for (name, help, value) in [
        (
            "penstock_buffer_pool_size_bytes",
            "Size of the payload memory.",
            pool.size_bytes,
        ),
        (
            "penstock_buffer_pool_leased_bytes",
            "Payload memory in use.",
            pool.leased_bytes,
        ),
        (
            "penstock_buffer_pool_waiting",
            "Commands that wait for payload memory.",
            pool.waiting,
        ),
        (
            "penstock_buffer_pool_hugepages",
            "Whether hugepages back the payload memory.",
            usize::from(pool.hugepages),
        ),
        (
            "penstock_io_commands_in_flight",
            "I/O commands not answered yet.",
            report.in_flight,
        ),
    ] {
        families.gauge(name, help, &base, value as f64);
    }
    let help = "Commands that had to wait for payload memory.";
    families.counter("penstock_buffer_pool_waits_total", help, &base, pool.waits);
}

fn of_traffic(families: &mut Families, reactor: &Reactor, traffic: &Traffic) {
    let id = reactor.id().to_string();
    let base = [("reactor", id.as_str())];
    for (name, help, value) in [
        (
            "penstock_tcp_received_bytes_total",
            "Bytes received, headers included.",
            traffic.received_bytes,
        ),
        (
            "penstock_tcp_sent_bytes_total",
            "Bytes sent, headers included.",
            traffic.sent_bytes,
        ),
        (
            "penstock_tcp_received_pdus_total",
            "PDUs received.",
            traffic.received_pdus,
        ),
        (
            "penstock_tcp_sent_pdus_total",
            "PDUs sent.",
            traffic.sent_pdus,
        ),
        (
            "penstock_tcp_commands_total",
            "Command capsules received.",
            traffic.commands,
        ),
        (
            "penstock_tcp_violations_total",
            "Connections ended because the host broke the protocol.",
            traffic.violations,
        ),
        (
            "penstock_tcp_back_pressure_total",
            "Times receiving stopped to hold a host back.",
            traffic.back_pressure,
        ),
    ] {
        families.counter(name, help, &base, value);
    }
    for (kind, value) in [
        ("header", traffic.header_digest_errors),
        ("data", traffic.data_digest_errors),
    ] {
        let help = "Digests that did not match.";
        let labels = [base[0], ("digest", kind)];
        families.counter("penstock_tcp_digest_errors_total", help, &labels, value);
    }
    for (path, value) in [
        ("in_capsule_copy", traffic.in_capsule_copied_bytes),
        ("chunk_copy", traffic.chunk_copied_bytes),
        ("direct", traffic.direct_bytes),
        ("stash_copy", traffic.stashed_bytes),
    ] {
        families.counter(
            "penstock_tcp_payload_bytes_total",
            "Payload bytes received by how they reached payload memory: copied, or directly.",
            &[base[0], ("path", path)],
            value,
        );
    }
}
