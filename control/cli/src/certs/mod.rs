//! `penstock certs`: a private authority for a lab, and certificates from it.
//!
//! A certificate says who its holder is: organisation `penstock:ROLE`, common name NAME. Whoever
//! has `ca.key` can be anybody: it is needed to issue certificates only, not on the machines that
//! use them.

mod authority;
pub use authority::refuse_expired;
mod files;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};

use crate::failure::{Failure, Outcome};
use crate::output::{line, note};
use crate::view::{Column, Table};
use authority::{Authority, Subject};

/// Names that control answers to on its own machine.
const LOCAL_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// What can be done with certificates.
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Make a private authority, with certificates for control, an administrator and nodes
    Init(Init),
    /// Issue one more certificate from it
    Issue(Issue),
    /// Print whose certificates these are and how long they hold
    Show(Show),
}

/// Who a certificate is for.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// All but what nodes do
    Admin,
    /// Volumes, subsystems, namespaces, hosts and listeners
    Operator,
    /// Only reading
    Viewer,
    /// The agent of the node with this name
    Node,
    /// A control server
    Control,
}

impl Role {
    /// As in certificates.
    pub fn word(self) -> &'static str {
        match self {
            Role::Admin => "admin",
            Role::Operator => "operator",
            Role::Viewer => "viewer",
            Role::Node => "node",
            Role::Control => "control",
        }
    }
}

/// `certs init`.
#[derive(Args, Debug)]
pub struct Init {
    /// Folder for the files, made where it is missing
    #[arg(long, value_name = "DIR")]
    directory: PathBuf,
    /// Name of a node to issue a certificate for; may be repeated
    #[arg(long, value_name = "NODE")]
    node: Vec<String>,
    /// Name or IP address that control is reached at, besides localhost; may be repeated
    #[arg(long, value_name = "NAME")]
    san: Vec<String>,
    /// How many days the certificates hold; the authority's holds ten times that
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
}

/// `certs issue`.
#[derive(Args, Debug)]
pub struct Issue {
    /// Folder of the authority, where the new files go too
    #[arg(long, value_name = "DIR")]
    directory: PathBuf,
    /// What its holder may do
    #[arg(long, value_enum)]
    role: Role,
    /// Who its holder is; for role node the node's name
    #[arg(long)]
    name: String,
    /// Role control: name or IP address it is reached at, besides localhost; may be repeated
    #[arg(long, value_name = "NAME")]
    san: Vec<String>,
    /// How many days it holds
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
}

/// `certs show`.
#[derive(Args, Debug)]
pub struct Show {
    /// PEM files
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

impl Verb {
    /// Does it.
    pub fn run(self) -> Outcome {
        match self {
            Verb::Init(args) => args.run(),
            Verb::Issue(args) => args.run(),
            Verb::Show(args) => args.run(),
        }
    }
}

impl Init {
    fn run(self) -> Outcome {
        let mut wanted = vec![
            (
                "control".to_owned(),
                subject(Role::Control, "control", &self.san, self.days)?,
            ),
            (
                "admin".to_owned(),
                subject(Role::Admin, "admin", &[], self.days)?,
            ),
        ];
        for node in &self.node {
            wanted.push((
                format!("node-{node}"),
                subject(Role::Node, node, &[], self.days)?,
            ));
        }
        let stems: Vec<&str> = wanted.iter().map(|(stem, _)| stem.as_str()).collect();
        files::refuse_overwriting(&self.directory, &[&["ca"], stems.as_slice()].concat())?;
        files::make_folder(&self.directory)?;
        let (authority, pair) = Authority::new(self.days.saturating_mul(10))?;
        files::write_pair(&self.directory, "ca", &pair)?;
        for (stem, subject) in &wanted {
            files::write_pair(&self.directory, stem, &authority.issue(subject)?)?;
        }
        let config = "endpoint = \"https://127.0.0.1:7600\"\nca = \"ca.pem\"\ncert = \"admin.pem\"\n\
                      key = \"admin.key\"\n";
        files::write_if_missing(&self.directory.join("cli.toml"), config)?;
        next_steps(&self.directory, &stems)
    }
}

fn next_steps(directory: &Path, stems: &[&str]) -> Outcome {
    let at = directory.display();
    for stem in [&["ca"], stems].concat() {
        line(&format!("{at}/{stem}.pem  {at}/{stem}.key"))?;
    }
    line(&format!("{at}/cli.toml"))?;
    note(&format!(
        "keep {at}/ca.key to yourself: whoever has it can be anybody. Then:\n  \
         control    its certificate is control.pem with control.key, its authority ca.pem\n  \
         a node     its certificate is node-NAME.pem with node-NAME.key, its authority ca.pem\n  \
         you        penstock --config {at}/cli.toml node list\n  \
         others     penstock certs issue --directory {at} --role operator --name NAME"
    ));
    Ok(())
}

impl Issue {
    fn run(self) -> Outcome {
        if self.role != Role::Control && !self.san.is_empty() {
            let told = "--san goes with --role control: only servers are reached by a name";
            return Err(Failure::usage(told));
        }
        let stem = format!("{}-{}", self.role.word(), self.name);
        let subject = subject(self.role, &self.name, &self.san, self.days)?;
        files::refuse_overwriting(&self.directory, &[&stem])?;
        let authority = Authority::load(&self.directory)?;
        files::write_pair(&self.directory, &stem, &authority.issue(&subject)?)?;
        let at = self.directory.display();
        line(&format!("{at}/{stem}.pem  {at}/{stem}.key"))
    }
}

fn subject(role: Role, name: &str, san: &[String], days: u32) -> Outcome<Subject> {
    let sound = !name.is_empty()
        && name.len() <= 63
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-._@".contains(c))
        && !name.starts_with('.');
    if !sound {
        let told = format!(
            "\"{name}\" cannot be in a certificate: write 1 to 63 letters, digits, -, ., _ or @"
        );
        return Err(Failure::usage(told));
    }
    let local = LOCAL_NAMES.iter().map(ToString::to_string);
    let names = match role {
        Role::Control => local.chain(san.iter().cloned()).collect(),
        _ => Vec::new(),
    };
    Ok(Subject {
        role,
        name: name.to_owned(),
        names,
        days,
    })
}

impl Show {
    fn run(self) -> Outcome {
        let titles = ["FILE", "ROLE", "NAME", "UNTIL", "HOLDS", "REACHED AS"].map(Column::left);
        let mut table = Table::new(&titles);
        for path in &self.files {
            let told = authority::read(path)?;
            table.push(vec![
                path.display().to_string(),
                told.role,
                told.name,
                told.until,
                told.holds,
                told.names.join(","),
            ]);
        }
        line(&table.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_file_or_certificate_should_have_are_refused() {
        for name in ["", "a/b", "../x", ".hidden", "a b", &"x".repeat(64)] {
            assert!(subject(Role::Node, name, &[], 1).is_err(), "{name}");
        }
        assert!(subject(Role::Operator, "alice@example.org", &[], 1).is_ok());
    }
}
