//! `cargo xtask demo`: control and a node here (`penstock up`), volumes made through the API, a
//! training-like data set through them over NVMe/TCP, the figures.

mod figures;
mod setting;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process::{self, Owned, tied};
use crate::{build, packages, say};
use figures::Phase;
use setting::Setting;

/// How long control and the node may take until they are ready.
const START_LIMIT: Duration = Duration::from_secs(120);

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
    /// Where the demonstration keeps its files, in a folder `demo` that each one makes anew.
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
    let programs = build::release(&[
        "penstock-node",
        "penstock-client",
        "penstock-cli",
        "penstock-control",
    ])?;
    let setting = Setting::prepare(options)?;
    say(&format!(
        "starting control and a node (penstock up --directory {})",
        setting.folder.display()
    ));
    let demo = Demo {
        options,
        setting,
        programs,
        interrupted,
    };
    let mut up = demo.start()?;
    let node = demo.node_id()?;
    demo.make_volumes()?;
    let write = demo.phase("write", &mut up, node)?;
    let read = demo.phase("read", &mut up, node)?;
    let status = up.stop()?;
    if !status.success() {
        bail!("`penstock up` ended with {status}:\n{}", demo.last_words());
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
    /// Starts control and the node, and waits until both are ready.
    fn start(&self) -> Result<Owned> {
        let make = |path: &Path| {
            File::create(path).with_context(|| format!("cannot make {}", path.display()))
        };
        let setting = &self.setting;
        let mut command = tied(&self.programs.join("penstock"));
        command.args(["up", "--output", "json"]);
        command.arg("--directory").arg(&setting.folder);
        command.args(["--listen", &setting.listen.to_string()]);
        command.args(["--control-listen", &setting.control.to_string()]);
        command.args(["--device-size", &format!("{}MiB", setting.device_mib())]);
        command
            .stdout(make(&setting.ready)?)
            .stderr(make(&setting.log)?);
        let mut up = Owned::spawn(command)?;
        let deadline = Instant::now() + START_LIMIT;
        while self.node_id().is_err() {
            if let Some(status) = up.ended()? {
                bail!("`penstock up` ended with {status}:\n{}", self.last_words());
            }
            if Instant::now() > deadline {
                bail!("`penstock up` is not ready:\n{}", self.last_words());
            }
            self.go_on()?;
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(up)
    }

    /// The node's process, once `penstock up` has said that all is ready.
    fn node_id(&self) -> Result<u32> {
        let path = &self.setting.ready;
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let told: serde_json::Value = serde_json::from_str(&text)
            .with_context(|| format!("{} is no JSON", path.display()))?;
        let id = told["processes"]["penstock-node"].as_u64();
        id.and_then(|id| u32::try_from(id).ok())
            .with_context(|| format!("{} names no node", path.display()))
    }

    /// Makes two volumes and serves them as namespaces 1 and 2, as a person would.
    fn make_volumes(&self) -> Result<()> {
        let size = format!("{}MiB", self.setting.volume_mib);
        self.penstock(&[
            "subsystem",
            "create",
            "demo",
            "--allow-any-host",
            "--nqn",
            setting::NQN,
        ])?;
        for nsid in 1..=setting::VOLUMES {
            let (volume, namespace) = (format!("demo-{nsid}"), format!("demo/ns{nsid}"));
            let nsid = nsid.to_string();
            self.penstock(&["volume", "create", &volume, "--size", &size, "--wait"])?;
            self.penstock(&[
                "namespace",
                "create",
                &namespace,
                "--volume",
                &volume,
                "--nsid",
                &nsid,
                "--wait",
            ])?;
        }
        Ok(())
    }

    /// Runs the command line, and shows the command.
    fn penstock(&self, words: &[&str]) -> Result<()> {
        self.go_on()?;
        say(&format!("penstock {}", words.join(" ")));
        let mut command = tied(&self.programs.join("penstock"));
        command.args(["--endpoint", &format!("http://{}", self.setting.control)]);
        let output = command.args(words).stdin(Stdio::null()).output();
        let output = output.context("cannot run penstock")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("`penstock {}` failed: {}", words.join(" "), said.trim());
        }
        Ok(())
    }

    /// Has our client write or read the data set, and measures the node meanwhile.
    fn phase(&self, name: &'static str, up: &mut Owned, node: u32) -> Result<Phase> {
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
        let before = process::cpu_seconds_of(node)?;
        let mut client = Owned::spawn(command)?;
        let status = loop {
            self.go_on()?;
            if let Some(status) = client.ended()? {
                break status;
            }
            if let Some(status) = up.ended()? {
                bail!("`penstock up` ended with {status}:\n{}", self.last_words());
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        if !status.success() {
            bail!(
                "the {name} failed ({status}); the node's log is {}",
                self.setting.folder.join("node.log").display()
            );
        }
        Phase::read(&result, process::cpu_seconds_of(node)? - before)
    }

    /// Fails once the person has had enough; what runs is stopped on the way out.
    fn go_on(&self) -> Result<()> {
        if self.interrupted.load(Ordering::Relaxed) {
            bail!("interrupted; everything is stopped");
        }
        Ok(())
    }

    /// The ends of all logs.
    fn last_words(&self) -> String {
        let folder = &self.setting.folder;
        let logs = [
            self.setting.log.clone(),
            folder.join("control.log"),
            folder.join("node.log"),
        ];
        let ends: Vec<String> = logs.iter().map(|log| last_lines(log)).collect();
        ends.join("\n")
    }

    fn tell_how_to_connect(&self) {
        let penstock = self.programs.join("penstock");
        say(&format!(
            "Control and the node are stopped; their data stay in {0}. To serve them to a Linux \
             host:\n\n  {1} up --directory {0}\n\nand on the host, as root:\n\n  \
             modprobe nvme-tcp\n  {2}\n",
            self.setting.folder.display(),
            penstock.display(),
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
