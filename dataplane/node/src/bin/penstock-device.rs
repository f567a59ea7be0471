//! The NVMe drives of this machine: lists them, binds them to vfio-pci for the node's own driver
//! and back to the kernel's, and tries them out.
//!
//! Exit codes: 0 done, 1 refused or failed (standard error says what and why), 2 wrong usage.

#![forbid(unsafe_code)]

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use penstock_async_nvme::check::{self, CheckOptions, Outcome, Step};
use penstock_async_nvme::pci::{Drive, Host, PciAddress};
use penstock_async_nvme::vfio::{IommuChoice, OpenOptions};
use penstock_async_nvme::{DriverChoice, SpdkOptions};
use serde_json::{Value, json};
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

/// Lists the NVMe drives of this machine, gives them to the node's own driver and back.
#[derive(Parser)]
#[command(name = "penstock-device", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the NVMe drives, who has them, and what uses them
    List {
        /// As JSON, an object a drive
        #[arg(long)]
        json: bool,
    },
    /// Take drives from the kernel and give them to vfio-pci
    Bind {
        /// PCI addresses, such as 0000:3b:00.0
        #[arg(required = true)]
        addresses: Vec<PciAddress>,
        /// Even where a drive holds data; never where it is in use
        #[arg(long)]
        force: bool,
    },
    /// Give drives back to the kernel
    Unbind {
        /// PCI addresses, such as 0000:3b:00.0
        #[arg(required = true)]
        addresses: Vec<PciAddress>,
    },
    /// Try out what a drive bound to vfio-pci, its machine and the driver can do together
    Check {
        /// PCI address, such as 0000:3b:00.0
        address: PciAddress,
        /// Also write: what the drive holds is LOST
        #[arg(long)]
        write: bool,
        /// Whose driver to try
        #[arg(long, value_enum, default_value_t = Driver::Penstock)]
        driver: Driver,
        /// Memory for SPDK's own, in MiB
        #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(16..=65536))]
        spdk_memory_mib: u32,
        /// Give SPDK small pages, not hugepages
        #[arg(long)]
        spdk_small_pages: bool,
        /// Which of the kernel's ways to the IOMMU to take
        #[arg(long, value_enum, default_value_t = Iommu::Newest)]
        iommu: Iommu,
        /// Go on reading until the drive is taken away, at most so many seconds
        #[arg(long, requires = "write")]
        until_removed_s: Option<u64>,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Driver {
    /// This project's own
    Penstock,
    /// SPDK's, in a build with the feature `spdk`
    Spdk,
}

#[derive(Clone, Copy, ValueEnum)]
enum Iommu {
    /// iommufd where the kernel offers it, else type1
    Newest,
    /// The type 1 container
    Type1,
    /// iommufd
    Iommufd,
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    match act(Arguments::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(err) => {
            // A reader that has gone away does not want to know.
            let _ = writeln!(std::io::stderr().lock(), "error: {err:#}");
            ExitCode::FAILURE
        }
    }
}

fn act(command: Command) -> Result<bool> {
    let host = Host::default();
    match command {
        Command::List { json } => list(&host, json).map(|()| true),
        Command::Bind { addresses, force } => {
            each(&addresses, |address| Ok(host.bind(address, force)?))?;
            Ok(true)
        }
        Command::Unbind { addresses } => {
            each(&addresses, |address| Ok(host.unbind(address)?))?;
            Ok(true)
        }
        Command::Check {
            address,
            write,
            driver,
            spdk_memory_mib,
            spdk_small_pages,
            iommu,
            until_removed_s,
        } => {
            let spdk = SpdkOptions {
                memory_mib: spdk_memory_mib,
                hugepages: !spdk_small_pages,
            };
            let options = CheckOptions {
                driver: match driver {
                    Driver::Penstock => DriverChoice::Own,
                    Driver::Spdk => DriverChoice::Spdk(spdk),
                },
                open: OpenOptions {
                    host,
                    iommu: match iommu {
                        Iommu::Newest => IommuChoice::Newest,
                        Iommu::Type1 => IommuChoice::Type1,
                        Iommu::Iommufd => IommuChoice::Iommufd,
                    },
                },
                write,
                until_removed: until_removed_s.map(Duration::from_secs),
            };
            let mut said = Ok(());
            let well = check::run(&address, &options, &mut |step| said = say(&line(step)));
            said?;
            Ok(well)
        }
    }
}

/// Every address is tried; the errors of all are told.
fn each(addresses: &[PciAddress], act: impl Fn(PciAddress) -> Result<()>) -> Result<()> {
    let errors: Vec<_> = addresses
        .iter()
        .filter_map(|address| act(*address).err())
        .map(|err| format!("{err:#}"))
        .collect();
    if errors.is_empty() {
        return Ok(());
    }
    bail!("{}", errors.join("\nerror: "))
}

fn line(step: &Step) -> String {
    let outcome = match step.outcome {
        Outcome::Passed => "passed  ",
        Outcome::Skipped => "skipped:",
        Outcome::Failed => "FAILED  ",
    };
    format!("{outcome} {}: {}", step.name, step.detail)
}

fn list(host: &Host, as_json: bool) -> Result<()> {
    let drives = host.drives()?;
    if as_json {
        let all: Vec<_> = drives.iter().map(document).collect();
        return say(&serde_json::to_string_pretty(&all)?);
    }
    let mut rows = vec![
        [
            "ADDRESS", "DRIVER", "NUMA", "GROUP", "MODEL", "DISKS", "USED BY",
        ]
        .map(str::to_owned),
    ];
    rows.extend(drives.iter().map(row));
    say(&table(&rows))
}

fn row(drive: &Drive) -> [String; 7] {
    let none = || "-".to_owned();
    let number = |number: Option<u32>| number.map_or_else(none, |number| number.to_string());
    let disks: Vec<_> = drive
        .blocks
        .iter()
        .map(|block| block.name.as_str())
        .collect();
    let uses: Vec<_> = drive.blocks.iter().flat_map(|block| &block.uses).collect();
    let uses: Vec<_> = uses.iter().map(ToString::to_string).collect();
    let text = |words: Vec<String>| {
        if words.is_empty() {
            none()
        } else {
            words.join(", ")
        }
    };
    [
        drive.address.to_string(),
        drive.driver.clone().unwrap_or_else(none),
        number(drive.numa_node),
        number(drive.iommu_group),
        drive
            .model
            .clone()
            .unwrap_or_else(|| format!("{:04x}:{:04x}", drive.vendor_id, drive.device_id)),
        text(disks.into_iter().map(str::to_owned).collect()),
        text(uses),
    ]
}

/// Columns as wide as their widest entry.
fn table(rows: &[[String; 7]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let lines = rows.iter().map(|row| {
        let cells = row.iter().enumerate();
        let padded: Vec<_> = cells
            .map(|(column, cell)| format!("{cell:<width$}", width = width(column)))
            .collect();
        padded.join("  ").trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn document(drive: &Drive) -> Value {
    let blocks: Vec<_> = drive
        .blocks
        .iter()
        .map(|block| {
            let uses: Vec<_> = block.uses.iter().map(ToString::to_string).collect();
            json!({
                "name": block.name,
                "size_bytes": block.size_bytes,
                "partitions": block.partitions,
                "uses": uses,
            })
        })
        .collect();
    json!({
        "address": drive.address.to_string(),
        "vendor_id": drive.vendor_id,
        "device_id": drive.device_id,
        "driver": drive.driver,
        "numa_node": drive.numa_node,
        "iommu_group": drive.iommu_group,
        "model": drive.model,
        "serial": drive.serial,
        "blocks": blocks,
    })
}

fn say(text: &str) -> Result<()> {
    writeln!(std::io::stdout().lock(), "{text}").context("cannot write to standard output")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_table_is_as_wide_as_its_entries() {
        let row = |text: &str| std::array::from_fn(|_| text.to_owned());
        let text = table(&[row("A"), row("long")]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "A     A     A     A     A     A     A");
        assert_eq!(lines[1], "long  long  long  long  long  long  long");
    }
}
