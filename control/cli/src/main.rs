//! `penstock`: the command line.
//!
//! Nouns and verbs are those of the API of control; `apply` takes files, `up` starts a storage node
//! on a laptop, `certs` makes certificates for a lab.
//!
//! The commands that talk to a storage target (`perf`, `discover`, `identify`) belong to the data
//! plane, which the control plane does not link: they are handed, with every argument as it came,
//! to the program `penstock-initiator` that is installed beside this one. So are those that handle
//! the drives of this machine, to `penstock-device`, and `topology`, to `penstock-topology`.
//!
//! Exit codes: see `EXIT_CODES`; those of the other program for its commands, and 127 where that
//! is not found and 126 where it cannot be run, as shells have it.
#![forbid(unsafe_code)]

mod api;
mod apply;
mod certs;
mod command;
mod failure;
mod name;
mod object;
mod output;
mod quantity;
mod settings;
mod sibling;
mod up;
mod view;
mod wait;
mod watch;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use api::Api;
use command::{Noun, Session};
use failure::{Failure, Outcome};
use settings::{GlobalArgs, Settings};
use sibling::{DEVICE, INITIATOR, Program, TOPOLOGY};

const AFTER_HELP: &str = "\
Names are written short (v1, n1/d0, s1/ns1) or full (volumes/v1, nodes/n1/devices/d0).
Sizes take units: 100GiB, 1.5TiB, 1TB, or plain bytes.

Start with:
  penstock up                                       a storage node on this machine
  penstock volume create v1 --size 10GiB --wait     a volume
  penstock subsystem create s1 --allow-any-host     what hosts connect to
  penstock namespace create s1/ns1 --volume v1 -w   the volume, served

Exit codes: 0 done; 1 failed; 2 wrong usage; 3 not found; 4 no server answers; 5 time is over.

perf, discover and identify are handed, with all their arguments, to `penstock-initiator`, looked
for beside this program and then in PATH (127: not found); `penstock perf --help` shows its help.
So are device bind, unbind, check and list --local, for the drives of this machine, to `penstock-device`,
and topology, for its NUMA nodes and who serves what on them, to `penstock-topology`.";

/// Penstock's command line: volumes, and who may use them over NVMe-oF.
#[derive(Parser, Debug)]
#[command(name = "penstock", version, about, disable_help_subcommand = true)]
#[command(after_help = AFTER_HELP)]
struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    #[command(flatten)]
    Noun(Noun),
    /// Make the server have what files say, showing the difference
    Apply(apply::Apply),
    /// Run control and a node on this machine, until Ctrl-C
    Up(up::Up),
    /// Make certificates for a lab: a private authority, and who may do what
    #[command(subcommand)]
    Certs(certs::Verb),
    /// Print a script that completes this program's commands in a shell
    Completion {
        /// bash, zsh, fish, ...
        shell: Shell,
    },
    /// Measure a namespace: IOPS, throughput and latency percentiles (run by penstock-initiator)
    #[command(disable_help_flag = true)]
    Perf(PassedOn),
    /// List the subsystems that a target offers (run by penstock-initiator)
    #[command(disable_help_flag = true)]
    Discover(PassedOn),
    /// Show a controller's and its namespaces' Identify data (run by penstock-initiator)
    #[command(disable_help_flag = true)]
    Identify(PassedOn),
    /// Show this machine's NUMA nodes, who serves what on them, and what crosses nodes (run by
    /// penstock-topology)
    #[command(disable_help_flag = true)]
    Topology(PassedOn),
    /// Print this program's name and version
    Version,
}

/// Arguments that are not this program's to understand.
#[derive(Args, Debug)]
struct PassedOn {
    /// Arguments for the other program, passed on as they are
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "ARGUMENTS"
    )]
    arguments: Vec<OsString>,
}

impl PassedOn {
    /// Becomes `program`, whose command is `words`. Comes back only where that failed.
    fn to(self, program: Program, words: &[&str]) -> ExitCode {
        let words = words.iter().map(OsString::from);
        pass_on(program, &words.chain(self.arguments).collect::<Vec<_>>())
    }
}

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if let Some((program, rest)) = passed_on(&arguments) {
        return pass_on(program, &rest);
    }
    if let Some(why) = up::become_child(&arguments) {
        output::note(&format!("penstock: {why}"));
        return ExitCode::FAILURE;
    }
    let cli = Cli::parse_from(arguments);
    let done = match cli.command {
        Command::Perf(given) => return given.to(INITIATOR, &["perf"]),
        Command::Discover(given) => return given.to(INITIATOR, &["discover"]),
        Command::Identify(given) => return given.to(INITIATOR, &["identify"]),
        Command::Topology(given) => return given.to(TOPOLOGY, &[]),
        Command::Version => output::line(&format!("penstock {}", env!("CARGO_PKG_VERSION"))),
        Command::Up(up) => runtime().and_then(|runtime| runtime.block_on(up.run(&cli.global))),
        Command::Certs(verb) => verb.run(),
        Command::Completion { shell } => complete(shell),
        Command::Noun(noun) => talk(&cli.global, async |session| noun.run(session).await),
        Command::Apply(files) => talk(&cli.global, async |session| files.run(session).await),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::note(&format!("penstock: {failure}"));
            ExitCode::from(failure.exit as u8)
        }
    }
}

/// The program and its arguments, where they are another program's. Told apart before anything is
/// understood, so that no flag of this program is taken for one of its own.
fn passed_on(arguments: &[OsString]) -> Option<(Program, Vec<OsString>)> {
    let word = |index: usize| arguments.get(index).and_then(|word| word.to_str());
    let program = match (word(1)?, word(2)) {
        ("perf" | "discover" | "identify", _) => return Some((INITIATOR, arguments[1..].to_vec())),
        ("topology", _) => return Some((TOPOLOGY, arguments[2..].to_vec())),
        ("device", Some("bind" | "unbind" | "check")) => DEVICE,
        ("device", Some("list")) if arguments[3..].iter().any(|word| word == LOCAL) => DEVICE,
        _ => return None,
    };
    let theirs = arguments[2..].iter().filter(|word| *word != LOCAL);
    Some((program, theirs.cloned().collect()))
}

/// Makes `device list` one of the drives of this machine.
const LOCAL: &str = "--local";

fn pass_on(program: Program, arguments: &[OsString]) -> ExitCode {
    let failure = sibling::run(program, arguments);
    output::note(&format!("penstock: {}", failure.error));
    ExitCode::from(failure.exit_code)
}

fn complete(shell: Shell) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "penstock", &mut script);
    output::line(String::from_utf8_lossy(&script).trim_end())
}

/// One thread is enough for a program that asks and waits.
fn runtime() -> Outcome<tokio::runtime::Runtime> {
    let built = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    built.map_err(|error| Failure::other(format!("cannot start the runtime: {error}")))
}

fn talk(global: &GlobalArgs, work: impl AsyncFnOnce(&Session) -> Outcome) -> Outcome {
    let session = Session {
        api: Api::new(Settings::load(global)?),
        format: global.output,
    };
    runtime()?.block_on(work(&session))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn arguments_are_passed_on_untouched() {
        let given = [
            "penstock",
            "perf",
            "--help",
            "-o",
            "json",
            "--timeout",
            "5",
            "--",
            "--json",
        ];
        let given: Vec<OsString> = given.iter().map(OsString::from).collect();
        assert_eq!(passed_on(&given), Some((INITIATOR, given[1..].to_vec())));
        assert_eq!(passed_on(&given[..1]), None);
        let own: Vec<OsString> = ["penstock", "volume", "list"].map(OsString::from).into();
        assert_eq!(passed_on(&own), None);
    }

    #[test]
    fn drives_of_this_machine_are_told_from_devices_of_the_pool() {
        let handed = |line: &str| {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            let (program, rest) = passed_on(&words)?;
            let rest: Vec<_> = rest.iter().map(|word| word.to_string_lossy()).collect();
            Some((program, rest.join(" ")))
        };
        let device = |rest: &str| Some((DEVICE, rest.to_owned()));
        let bind = "bind 0000:3b:00.0 --force";
        assert_eq!(handed(&format!("penstock device {bind}")), device(bind));
        assert_eq!(
            handed("penstock device list --local --json"),
            device("list --json")
        );
        assert_eq!(
            handed("penstock device check --help"),
            device("check --help")
        );
        assert_eq!(
            handed("penstock topology --config node.toml --json"),
            Some((TOPOLOGY, "--config node.toml --json".to_owned()))
        );
        assert_eq!(handed("penstock device list"), None);
        assert_eq!(handed("penstock device"), None);
    }

    /// Methods whose verb is not their own first word, or which stand beside their noun.
    const ELSEWHERE: [(&str, &[&str]); 3] = [
        ("GetLayout", &["volume", "layout"]),
        ("ResolveOrphan", &["node", "resolve-orphan"]),
        ("Watch", &["watch"]),
    ];

    #[test]
    fn every_method_of_the_api_has_its_verb() {
        use prost::Message;
        let set = prost_types::FileDescriptorSet::decode(penstock_api::FILE_DESCRIPTOR_SET);
        let services: Vec<_> = set
            .unwrap()
            .file
            .into_iter()
            .flat_map(|file| file.service)
            .collect();
        let cli = Cli::command();
        let mut seen = 0;
        for service in services
            .iter()
            .filter(|service| service.name() != "AgentService")
        {
            for method in &service.method {
                let path = path_of(service.name(), method.name());
                let found = path
                    .iter()
                    .try_fold(&cli, |at, word| at.find_subcommand(word));
                assert!(
                    found.is_some(),
                    "{}: no `penstock {}`",
                    method.name(),
                    path.join(" ")
                );
                seen += 1;
            }
        }
        assert!(seen > 30, "only {seen} methods: are the descriptors read?");
    }

    fn path_of(service: &str, method: &str) -> Vec<String> {
        let elsewhere = ELSEWHERE.iter().find(|(name, _)| *name == method);
        if let Some((_, path)) = elsewhere {
            return path.iter().map(ToString::to_string).collect();
        }
        let noun = service.trim_end_matches("Service");
        let verb = method.trim_end_matches('s').trim_end_matches(noun);
        vec![noun.to_lowercase(), verb.to_lowercase()]
    }

    #[test]
    fn every_kind_of_the_api_has_its_noun_and_can_be_watched() {
        for kind in name::Kind::ALL {
            let cli = Cli::command();
            let noun = cli.find_subcommand(kind.noun());
            let noun = noun.unwrap_or_else(|| panic!("no `penstock {}`", kind.noun()));
            for verb in ["get", "list", "describe", "watch"] {
                assert!(
                    noun.find_subcommand(verb).is_some(),
                    "{} {verb}",
                    kind.noun()
                );
            }
        }
        // The kinds of a watch's events are all kinds there are.
        let schema = apply::kinds_of_watch();
        assert_eq!(schema.len(), name::Kind::ALL.len(), "{schema:?}");
        assert!(
            schema.iter().all(|noun| name::Kind::called(noun).is_some()),
            "{schema:?}"
        );
    }

    #[test]
    fn help_says_who_runs_the_command() {
        let help = Cli::command().render_long_help().to_string();
        assert!(help.contains("penstock-initiator"), "{help}");
    }
}
