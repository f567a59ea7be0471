//! `penstock-perf memory`: resident size of the idle node, and what connections add.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::case::{Case, Workload};
use crate::child::{self, Owned};
use crate::client::{Client, Span};
use crate::node::{Namespace, Node, Poll, Setup, program};
use crate::procfs::{Resident, resident};
use crate::{Programs, say};

/// Anonymous mappings from this size on are configured pools: the smallest one, the receive
/// buffers, has 16 MiB by default.
const POOL_MIN_BYTES: u64 = 16 << 20;

/// Seconds that a client holds its connections; it is stopped before.
const HOLD_SECONDS: u32 = 60;

/// Options of `penstock-perf memory`.
#[derive(clap::Args)]
pub struct Options {
    #[command(flatten)]
    programs: Programs,
    /// I/O connections to add.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=128))]
    connections: u16,
}

/// Measures and prints a table.
///
/// # Errors
/// The node or a client fails.
pub fn run(options: &Options) -> Result<()> {
    let folder = tempfile::tempdir().context("no temporary folder")?;
    let place = options.programs.programs.as_deref();
    let setup = Setup {
        poll: Poll::Adaptive,
        namespace: Namespace::Null,
        core: options.programs.target_core,
        // Hugepages are not counted as resident: without them nothing hides.
        hugepages: false,
    };
    let node = Node::start(
        &program(place, "penstock-node")?,
        setup,
        None,
        folder.path(),
    )?;
    let client = Client::Penstock {
        program: program(place, "penstock-initiator")?,
    };
    let look = || resident(node.process.pid(), POOL_MIN_BYTES);
    child::pause(Duration::from_millis(500))?;
    let idle = look()?;
    say("| state of the node | resident KiB | besides pools KiB | added per connection KiB |");
    say("|---|---:|---:|---:|");
    show("idle, no connection yet", idle, None);
    for depth in [1, 8, 128] {
        let case = Case {
            name: "held",
            title: "connections held",
            io_bytes: 4096,
            workload: Workload::RandomWrite,
            connections: options.connections,
            depth,
            digests: false,
            usual: false,
        };
        let span = Span {
            seconds: HOLD_SECONDS,
            warm_up_seconds: 0,
        };
        let command = client.command(&case, &node.target, span, options.programs.client_core);
        let log = folder.path().join("client.txt");
        let mut load = Owned::spawn(command, client.name(), &log)?;
        child::pause(Duration::from_millis(1500))?;
        if load.ended()?.is_some() {
            anyhow::bail!("the client ended early:\n{}", child::tail(&log));
        }
        // One more for the admin queue.
        let added = Some((idle, u64::from(options.connections) + 1));
        let name = format!("{} I/O connections at depth {depth}", options.connections);
        show(&format!("{name}, busy"), look()?, added);
        load.freeze()?;
        child::pause(Duration::from_millis(300))?;
        show(&format!("{name}, idle"), look()?, added);
        load.stop()?;
        child::pause(Duration::from_millis(500))?;
    }
    show("idle again, no connection", look()?, None);
    say(
        "\nPools (payload and receive buffers) are anonymous mappings of 16 MiB and more; leased \
         buffers lie in them. The kernel's socket buffers belong to no process.",
    );
    Ok(())
}

fn show(state: &str, found: Resident, added: Option<(Resident, u64)>) {
    let kib = |bytes: u64| bytes / 1024;
    let besides = found.besides_pools_bytes();
    let each = added.map_or_else(String::new, |(idle, connections)| {
        let more = besides.saturating_sub(idle.besides_pools_bytes());
        format!("{:.1}", more as f64 / 1024.0 / connections as f64)
    });
    say(&format!(
        "| {state} | {} | {} | {each} |",
        kib(found.total_bytes),
        kib(besides)
    ));
}
