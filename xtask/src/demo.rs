//! `cargo xtask demo`: a node here, a training-like data set through it over NVMe/TCP, the figures.

mod figures;
mod setting;

use std::fs::File;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process::{Owned, tied};
use crate::{build, packages, say};
use figures::Phase;
use setting::Setting;

/// How long the node may take to listen.
const START_LIMIT: Duration = Duration::from_secs(20);

/// Options of `cargo xtask demo`.
#[derive(clap::Args)]
pub struct Options {
    /// Number of samples.
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..))]
    samples: u32,
    /// Mean length of a sample in bytes; lengths spread as in MLPerf Storage's 3D-UNet (47 %).
    #[arg(long, default_value_t = 32 << 20, value_parser = clap::value_parser!(u64).range(4096..))]
    mean_size_bytes: u64,
    /// How many times everything is read, in shuffled order.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    epochs: u32,
    /// Where the node keeps its files.
    #[arg(long, default_value = "penstock-data")]
    data_dir: PathBuf,
    /// Address the node listens on; 0.0.0.0 lets other machines connect.
    #[arg(long, default_value = "127.0.0.1")]
    listen: std::net::IpAddr,
}

/// Runs the demonstration.
///
/// # Errors
/// Any step fails; nothing is left running.
pub fn run(options: &Options) -> Result<bool> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    packages::ensure()?;
    say("building release (the first time takes a few minutes)");
    let programs = build::release(&["penstock-node", "penstock-client", "penstock-cli"])?;
    let setting = Setting::prepare(options)?;
    say(&format!(
        "starting a node: {} and {} (namespaces 1 and 2), log in {}",
        setting.images[0].display(),
        setting.images[1].display(),
        setting.log.display()
    ));
    let demo = Demo {
        options,
        setting,
        programs,
        interrupted,
    };
    let mut node = demo.start_node()?;
    let write = demo.phase("write", &mut node)?;
    let read = demo.phase("read", &mut node)?;
    let status = node.stop()?;
    if !status.success() {
        bail!(
            "the node ended with {status}; see {}",
            demo.setting.log.display()
        );
    }
    say(&figures::table(&[write, read]));
    demo.tell_how_to_connect();
    Ok(true)
}

struct Demo<'o> {
    options: &'o Options,
    setting: Setting,
    programs: PathBuf,
    interrupted: Arc<AtomicBool>,
}

impl Demo<'_> {
    fn start_node(&self) -> Result<Owned> {
        let log = File::create(&self.setting.log)
            .with_context(|| format!("cannot make {}", self.setting.log.display()))?;
        let mut command = tied(&self.programs.join("penstock-node"));
        command.arg("--config").arg(&self.setting.config);
        command.stdout(Stdio::null()).stderr(log);
        let mut node = Owned::spawn(command)?;
        let deadline = Instant::now() + START_LIMIT;
        while TcpStream::connect_timeout(&self.setting.address, Duration::from_secs(1)).is_err() {
            if let Some(status) = node.ended()? {
                bail!(
                    "the node ended with {status}:\n{}",
                    last_lines(&self.setting.log)
                );
            }
            if Instant::now() > deadline {
                bail!(
                    "the node does not listen:\n{}",
                    last_lines(&self.setting.log)
                );
            }
            self.go_on()?;
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(node)
    }

    /// Has our client write or read the data set, and measures the node meanwhile.
    fn phase(&self, name: &'static str, node: &mut Owned) -> Result<Phase> {
        let result = self.setting.folder.join(format!("{name}.json"));
        let mut command = tied(&self.programs.join("penstock-initiator"));
        command.args([
            "dataset",
            name,
            "--address",
            &self.setting.address.to_string(),
        ]);
        command.args(["--nqn", setting::NQN, "--nsid", "1,2"]);
        command.arg("--json-file").arg(&result);
        match name {
            "write" => {
                command.args(["--samples", &self.options.samples.to_string()]);
                command.args([
                    "--sample-mean-bytes",
                    &self.options.mean_size_bytes.to_string(),
                ]);
            }
            _ => {
                command.args(["--epochs", &self.options.epochs.to_string()]);
            }
        }
        if let Some(core) = self.setting.client_core {
            command.args(["--cores", &core.to_string()]);
        }
        // The bar is on standard error; the figures of both phases come together at the end.
        command.stdout(Stdio::null());
        let before = node.cpu_seconds()?;
        let mut client = Owned::spawn(command)?;
        let status = loop {
            self.go_on()?;
            if let Some(status) = client.ended()? {
                break status;
            }
            if let Some(status) = node.ended()? {
                bail!(
                    "the node ended with {status}:\n{}",
                    last_lines(&self.setting.log)
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        if !status.success() {
            bail!(
                "the {name} failed ({status}); the node's log is {}",
                self.setting.log.display()
            );
        }
        Phase::read(&result, node.cpu_seconds()? - before)
    }

    /// Fails once the person has had enough; what runs is stopped on the way out.
    fn go_on(&self) -> Result<()> {
        if self.interrupted.load(Ordering::Relaxed) {
            bail!("interrupted; everything is stopped");
        }
        Ok(())
    }

    fn tell_how_to_connect(&self) {
        let node = self.programs.join("penstock-node");
        say(&format!(
            "The node is stopped; its data stay in {}. To serve them to a Linux host:\n\n  \
             {} --config {}\n\nand on the host, as root:\n\n  modprobe nvme-tcp\n  {}\n",
            self.setting.folder.display(),
            node.display(),
            self.setting.config.display(),
            self.setting.connect_line()
        ));
        if self.options.listen.is_loopback() {
            say("(For hosts other than this machine, run the demo with --listen 0.0.0.0.)");
        }
    }
}

fn last_lines(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
