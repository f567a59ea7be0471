//! A virtual machine under QEMU's translator, with a control channel into it.

use crate::channel::{Answer, Channel, Job};
use crate::error::{IoContext, LabError, Result};
use crate::lab::{Choice, Lab};
use crate::machine::{self, Machine};
use crate::monitor::Monitor;
use crate::process::Owned;
use crate::transcript::{Source, Transcript};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Where the guest reaches this machine's 127.0.0.1.
pub const HOST_ADDRESS: &str = "10.0.2.2";

/// Where the guest reaches this machine's ::1.
pub const HOST_ADDRESS_V6: &str = "fec0::2";

const BOOT_LIMIT: Duration = Duration::from_secs(90);
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// Kernel settings: console to the log, stop at an oops, and none of the defences that only slow an
/// emulated machine down.
const KERNEL_LINE: &str = "console=ttyS0 panic=-1 oops=panic mitigations=off random.trust_cpu=on \
                           nokaslr lpj=10000000 rcupdate.rcu_expedited=1 tsc=reliable rdinit=/init";

/// A running guest; dropping it ends QEMU.
pub struct Guest {
    qemu: Owned,
    channel: Channel,
    log: Transcript,
    dir: TempDir,
}

impl Guest {
    /// Boots a guest and waits until it takes commands.
    ///
    /// # Errors
    /// QEMU does not start, or the guest is not ready in time.
    pub fn boot(lab: &Lab, machine: &Machine, log: &Transcript) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("penstock-lab-").tempdir();
        let dir = dir.doing(|| "create a temporary directory".into())?;
        let socket = dir.path().join("control");
        let line = format!("{KERNEL_LINE} loglevel=6 {}", machine.kernel_line());
        let mut command = qemu(lab, machine.kernel, &line)?;
        command.args(machine.size_arguments());
        machine.add_to(&mut command, dir.path())?;
        command.args([
            "-serial",
            "stdio",
            "-device",
            "virtio-serial-pci,bus=pcie.0",
        ]);
        command.arg("-chardev").arg(format!(
            "socket,id=control,path={},server=on,wait=off",
            socket.display()
        ));
        command.args([
            "-device",
            "virtserialport,chardev=control,name=penstock.control",
        ]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        log.say(Source::Lab, "boot a guest");
        let mut qemu = Owned::spawn(&mut command, "QEMU")?;
        if let Some(out) = qemu.child().stdout.take() {
            log.follow(Source::Guest, out);
        }
        if let Some(err) = qemu.child().stderr.take() {
            log.follow(Source::Qemu, err);
        }
        let stream = connect(&socket, &mut qemu)?;
        let mut guest = Self {
            qemu,
            channel: Channel::new(stream)?,
            log: log.clone(),
            dir,
        };
        guest.run_within("uname -r", BOOT_LIMIT)?;
        if !machine.programs.is_empty() {
            guest.run(machine::UNPACK)?;
        }
        Ok(guest)
    }

    /// Begins to take device `id` of the machine away, as a hand that presses the slot's button.
    ///
    /// # Errors
    /// QEMU refuses.
    pub fn begin_unplug(&mut self, id: &str) -> Result<Monitor> {
        self.log.say(Source::Lab, &format!("unplug {id}"));
        let mut monitor = Monitor::connect(&machine::monitor_socket(self.dir.path()))?;
        monitor.begin_unplug(id)?;
        Ok(monitor)
    }

    /// Lets drive `id` do `iops` commands a second; 0 for as many as it can.
    ///
    /// # Errors
    /// QEMU refuses.
    pub fn throttle(&mut self, id: &str, iops: u64) -> Result<()> {
        self.log
            .say(Source::Lab, &format!("throttle {id} to {iops} commands/s"));
        let mut monitor = Monitor::connect(&machine::monitor_socket(self.dir.path()))?;
        monitor.throttle(&format!("blocks-{id}"), iops)
    }

    /// Whether the slot of device `id` is empty within `limit`. Now and then it is not, although the
    /// program has let go of the drive and ended: the emulated slot, or the guest's
    /// kernel, stays in the middle. What is ours has to be checked in the guest.
    pub fn is_unplugged(&mut self, monitor: &mut Monitor, id: &str, limit: Duration) -> bool {
        let outcome = monitor.wait_unplugged(id, limit);
        if let Err(error) = &outcome {
            self.log
                .say(Source::Lab, &format!("skipped: the slot stays: {error}"));
        }
        outcome.is_ok()
    }

    /// Runs shell text in the guest and returns what it printed.
    ///
    /// # Errors
    /// A status other than 0, more than a minute, or a lost guest.
    pub fn run(&mut self, script: &str) -> Result<String> {
        self.run_within(script, COMMAND_LIMIT)
    }

    /// As [`Guest::run`], with its own limit.
    ///
    /// # Errors
    /// As [`Guest::run`].
    pub fn run_within(&mut self, script: &str, limit: Duration) -> Result<String> {
        let answer = self.ask(script, limit)?;
        if answer.status == 0 {
            return Ok(answer.output);
        }
        Err(LabError::Guest {
            command: script.to_owned(),
            status: answer.status,
            output: crate::error::tail(&answer.output, 4_000).trim().to_owned(),
        })
    }

    /// Runs shell text in the guest, whatever its exit status.
    ///
    /// # Errors
    /// The limit passed, or the guest is lost.
    pub fn ask(&mut self, script: &str, limit: Duration) -> Result<Answer> {
        let begun = Instant::now();
        let answer = self.start(script, limit)?.answer();
        let log = &self.log;
        match &answer {
            Ok(answer) => {
                log.say(Source::Lab, &answer.output);
                let took = begun.elapsed().as_millis();
                log.say(Source::Lab, &format!("= {} after {took} ms", answer.status));
            }
            Err(err) => log.say(Source::Lab, &format!("= {err}")),
        }
        answer
    }

    /// Begins shell text in the guest without waiting for it.
    ///
    /// # Errors
    /// The guest is lost.
    pub fn start(&mut self, script: &str, limit: Duration) -> Result<Job> {
        self.log.say(Source::Lab, &format!("$ {script}"));
        self.channel.start(script, limit)
    }

    /// Waits in the guest until shell text `condition` succeeds.
    ///
    /// # Errors
    /// It did not within `limit`; `what` says what was waited for.
    pub fn wait_until(&mut self, what: &str, condition: &str, limit: Duration) -> Result<()> {
        let script = format!("until {condition}; do sleep 0.05; done");
        let answer = self.ask(&script, limit)?;
        if answer.status == 0 {
            return Ok(());
        }
        Err(LabError::TimedOut {
            what: what.to_owned(),
            after: limit,
        })
    }

    /// Writes a step into the log.
    pub fn note(&self, text: &str) {
        self.log.say(Source::Lab, &format!("# {text}"));
    }

    /// Fails if the guest's kernel has complained of itself.
    ///
    /// # Errors
    /// [`LabError::Check`] with the kind of complaint.
    pub fn check_health(&mut self) -> Result<()> {
        if self.qemu.ended()?.is_some() {
            return Err(LabError::Gone(
                "QEMU ended; its console is in the log".into(),
            ));
        }
        for sign in [
            "BUG:",
            "WARNING: CPU",
            "Oops",
            "Kernel panic",
            "blocked for more than",
        ] {
            if self.log.has(Source::Guest, sign) {
                return Err(LabError::Check(format!(
                    "the guest's kernel reports \"{sign}\" (see the log)"
                )));
            }
        }
        Ok(())
    }
}

/// Boots a guest whose console is this terminal and returns when it powers off.
///
/// # Errors
/// QEMU does not start or fails.
pub fn shell(lab: &Lab) -> Result<()> {
    let line = format!("{KERNEL_LINE} loglevel=4 lab.shell=1");
    let mut command = qemu(lab, Choice::Stable, &line)?;
    command.args(Machine::PLAIN.size_arguments());
    command.args(["-serial", "mon:stdio"]);
    command.stdin(Stdio::inherit());
    let mut qemu = Owned::spawn(&mut command, "QEMU")?;
    let status = qemu.child().wait().doing(|| "wait for QEMU".into())?;
    if status.success() {
        return Ok(());
    }
    Err(LabError::Gone(format!("QEMU ended with {status}")))
}

fn qemu(lab: &Lab, choice: Choice, kernel_line: &str) -> Result<Command> {
    let boot = lab.boot(choice)?;
    let mut command = lab
        .qemu
        .command("qemu-system-x86_64", "qemu-system-x86_64")?;
    for dir in ["usr/share/qemu", "usr/share/seabios"] {
        command.arg("-L").arg(lab.qemu.dir().join(dir));
    }
    command.args([
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
    ]);
    command.args([
        "-machine",
        "q35",
        "-accel",
        "tcg,thread=multi",
        "-cpu",
        "max",
    ]);
    command.arg("-kernel").arg(&boot.kernel);
    command.arg("-initrd").arg(&boot.initramfs);
    command.args(["-append", kernel_line]);
    command.args(["-netdev", "user,id=net0"]);
    command.args(["-device", "virtio-net-pci,netdev=net0,romfile="]);
    Ok(command)
}

fn connect(socket: &Path, qemu: &mut Owned) -> Result<UnixStream> {
    let limit = Duration::from_secs(20);
    let until = Instant::now() + limit;
    loop {
        if let Ok(stream) = UnixStream::connect(socket) {
            return Ok(stream);
        }
        if let Some(status) = qemu.ended()? {
            return Err(LabError::Gone(format!(
                "QEMU ended with {status} before the guest ran; what it said is in the log"
            )));
        }
        if Instant::now() >= until {
            return Err(LabError::TimedOut {
                what: "QEMU's control socket".into(),
                after: limit,
            });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
