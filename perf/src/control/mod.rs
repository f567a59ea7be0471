//! `penstock-perf control`: what the control plane does a second, and how long one change takes to
//! reach its node.
//!
//! Real processes: etcd (one member or three) or the embedded store, `penstock-control`, a
//! `penstock-node` with one sparse file for a device. Clients make volumes and namespaces through the
//! API and wait for each; at the end list, pages, watch and the node's own metrics have to agree.

mod check;
mod load;
mod setup;

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::figures::{Spread, show};
use crate::{note, say};
use load::{Clients, Timing};
use setup::{Setup, StoreKind};

/// Options of `penstock-perf control`.
#[derive(clap::Args)]
pub struct Options {
    /// Folder of our programs; default: where this program is.
    #[arg(long, value_name = "FOLDER")]
    programs: Option<std::path::PathBuf>,
    /// Where state is kept: `etcd` (one member), `etcd3` (three on loopback) or `embedded`.
    #[arg(long, value_enum, default_value_t = StoreKind::Etcd)]
    store: StoreKind,
    /// The etcd program; default: PENSTOCK_ETCD, then the one in PATH.
    #[arg(long, value_name = "FILE")]
    etcd: Option<std::path::PathBuf>,
    /// Volumes, and namespaces on them, to make.
    #[arg(long, default_value_t = 1000)]
    volumes: usize,
    /// Clients at once.
    #[arg(long, default_value_t = 16)]
    clients: usize,
    /// Volumes that exist when single changes are timed again.
    #[arg(long, default_value_t = 10_000)]
    existing: usize,
    /// Single changes to time, each time.
    #[arg(long, default_value_t = 50)]
    changes: usize,
}

/// How long one part may take altogether.
const PART_MAX: Duration = Duration::from_secs(1800);

/// Measures and prints a table.
///
/// # Errors
/// A process fails, a change is not carried out, or the views do not agree.
pub fn run(options: &Options) -> Result<()> {
    ensure!(
        options.clients > 0 && options.changes > 0,
        "--clients and --changes have to be at least 1"
    );
    let etcd = options.etcd.as_deref();
    let setup = Setup::start(options.store, etcd, options.programs.as_deref())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("no runtime")?;
    let outcome = runtime.block_on(async {
        tokio::time::timeout(PART_MAX, measure(options, &setup))
            .await
            .context("the measurement takes too long")?
    });
    outcome.map_err(|error| error.context(setup.logs()))
}

async fn measure(options: &Options, setup: &Setup) -> Result<()> {
    let clients = Clients::connect(setup.endpoint(), options.clients).await?;
    clients.wait_for_node().await?;
    say(&format!("store: {}\n", setup.describe()));
    say("| part | done | per second | answer p50 ms | p99 ms | carried out p50 ms | p99 ms |");
    say("|---|---:|---:|---:|---:|---:|---:|");
    let first = options.volumes;
    row("volumes made", &clients.make_volumes(0..first).await?);
    clients.make_subsystems(first).await?;
    row("namespaces made", &clients.make_namespaces(0..first).await?);
    check::agree(&clients, setup, first, first).await?;
    note("list, pages, watch and node agree");
    let few = clients.single_changes(options.changes, "few").await?;
    if options.existing > first {
        note(&format!("making {} volumes in all", options.existing));
        row(
            "more volumes made",
            &clients.make_volumes(first..options.existing).await?,
        );
        check::agree(&clients, setup, options.existing, first).await?;
    }
    let many = clients.single_changes(options.changes, "many").await?;
    changes(&few, &many, first, options.existing.max(first));
    Ok(())
}

/// The part's rates, and its latencies in milliseconds.
fn row(title: &str, timing: &Timing) {
    let done = timing.carried_out_ms.len();
    say(&format!(
        "| {title} | {done} | {} | {} | {} | {} | {} |",
        show(per_second(done, timing.took)),
        show(percentile(&timing.answered_ms, 50)),
        show(percentile(&timing.answered_ms, 99)),
        show(percentile(&timing.carried_out_ms, 50)),
        show(percentile(&timing.carried_out_ms, 99)),
    ));
}

fn per_second(count: usize, took: Duration) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / took.as_secs_f64().max(1e-9)
}

/// The value that so many per cent do not exceed; 0 of none.
fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(0.0)
}

fn changes(few: &[f64], many: &[f64], first: usize, existing: usize) {
    let (Some(before), Some(after)) = (
        Spread::of(few.iter().copied()),
        Spread::of(many.iter().copied()),
    ) else {
        return;
    };
    say("\n| one change, request to carried out | median ms | min | max |");
    say("|---|---:|---:|---:|");
    for (count, spread) in [(first, before), (existing, after)] {
        say(&format!(
            "| with {count} volumes | {} | {} | {} |",
            show(spread.median),
            show(spread.min),
            show(spread.max)
        ));
    }
    say(&format!(
        "\nwith {existing} volumes a change takes {:.2} times as long as with {first}",
        after.median / before.median
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_sorted_values() {
        let values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert!((percentile(&values, 50) - 50.0).abs() < 1e-9);
        assert!((percentile(&values, 99) - 99.0).abs() < 1e-9);
        assert!((percentile(&[7.0], 99) - 7.0).abs() < 1e-9);
        assert!(percentile(&[], 50).abs() < 1e-9);
    }

    #[test]
    fn rates_are_of_the_time_taken() {
        assert!((per_second(100, Duration::from_secs(4)) - 25.0).abs() < 1e-9);
    }
}
