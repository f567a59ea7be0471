//! `discover` and `identify`.

use clap::Args;
use penstock_client::{
    Controller, ControllerInfo, DiscoveryLog, DiscoveryRecord, NamespaceInfo, discover as ask,
};
use penstock_nvme::identify::{
    FUSES_COMPARE_WRITE, IdentifyController, NamespaceDescriptor, ONCS_COMPARE,
    ONCS_DATASET_MANAGEMENT, ONCS_RESERVATIONS, ONCS_VERIFY, ONCS_WRITE_ZEROES, VWC_PRESENT,
};
use penstock_nvme::nqn::DISCOVERY_NQN;
use penstock_units::Nsid;
use serde::Serialize;
use uuid::Uuid;

use crate::host::Target;
use crate::runtime::{Poll, Reactors, pool_for};
use crate::{size, table};

/// Arguments of `discover`.
#[derive(Args, Debug)]
pub struct DiscoverArguments {
    #[command(flatten)]
    target: Target,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// Arguments of `identify`.
#[derive(Args, Debug)]
pub struct IdentifyArguments {
    #[command(flatten)]
    target: Target,
    /// Subsystem NQN
    #[arg(long)]
    nqn: String,
    /// Only this namespace; all active ones where not given
    #[arg(long, value_parser = crate::host::parse_nsid)]
    nsid: Option<Nsid>,
    /// Print one JSON object instead of tables
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Discovered<'a> {
    generation: u64,
    records: Vec<Record<'a>>,
}

#[derive(Debug, Serialize)]
struct Record<'a> {
    subsystem_nqn: &'a str,
    subsystem_type: &'a str,
    transport: &'a str,
    address_family: &'a str,
    address: &'a str,
    service: &'a str,
    port_id: u16,
    controller_id: u16,
    admin_queue_entries_max: u16,
}

impl<'a> From<&'a DiscoveryRecord> for Record<'a> {
    fn from(record: &'a DiscoveryRecord) -> Record<'a> {
        Record {
            subsystem_nqn: &record.subsystem_nqn,
            subsystem_type: record.subsystem_type,
            transport: record.transport,
            address_family: record.address_family,
            address: &record.address,
            service: &record.service,
            port_id: record.port_id,
            controller_id: record.controller_id,
            admin_queue_entries_max: record.admin_queue_entries_max,
        }
    }
}

/// Runs `discover`.
pub fn discover(arguments: &DiscoverArguments) -> anyhow::Result<()> {
    let options = arguments.target.options(DISCOVERY_NQN)?;
    let reactors = Reactors::start(&[], Poll::Adaptive)?;
    let log = reactors.run_here(
        pool_for(0, 0),
        Box::new(move |pool| Box::pin(async move { Ok(ask(&options, &pool).await?) })),
    )?;
    let text = if arguments.json {
        discovered_json(&log)?
    } else {
        discovered_table(&log)
    };
    table::print(&text);
    Ok(())
}

fn discovered_json(log: &DiscoveryLog) -> anyhow::Result<String> {
    let records = log.records.iter().map(Record::from).collect();
    let discovered = Discovered {
        generation: log.generation,
        records,
    };
    Ok(serde_json::to_string_pretty(&discovered)? + "\n")
}

fn discovered_table(log: &DiscoveryLog) -> String {
    let row = |r: &DiscoveryRecord| {
        vec![
            r.subsystem_nqn.clone(),
            r.subsystem_type.to_owned(),
            r.transport.to_owned(),
            r.address.clone(),
            r.service.clone(),
        ]
    };
    let rows: Vec<Vec<String>> = log.records.iter().map(row).collect();
    let header = ["subsystem NQN", "type", "transport", "address", "port"];
    let count = log.records.len();
    format!(
        "{}{count} records, generation {}\n",
        table::render(&header, &rows),
        log.generation
    )
}

#[derive(Debug, Serialize)]
struct Identified {
    controller: ControllerTold,
    namespaces: Vec<NamespaceTold>,
}

#[derive(Debug, Serialize)]
struct ControllerTold {
    address: String,
    nqn: String,
    controller_id: u16,
    model: String,
    serial: String,
    firmware: String,
    /// Version of the specification, such as 2.1.0.
    version: String,
    queue_entries_max: u32,
    commands_max: u16,
    /// Longest data of one command; null is no limit.
    transfer_max_bytes: Option<u64>,
    in_capsule_data_max_bytes: u32,
    keep_alive_granularity_ms: u32,
    header_digest: bool,
    data_digest: bool,
    volatile_write_cache: bool,
    compare: bool,
    compare_and_write: bool,
    dataset_management: bool,
    write_zeroes: bool,
    verify: bool,
    reservations: bool,
}

#[derive(Debug, Serialize)]
struct NamespaceTold {
    nsid: u32,
    size_bytes: u64,
    blocks: u64,
    block_size_bytes: u32,
    read_only: bool,
    uuid: Option<String>,
    nguid: Option<String>,
    eui64: Option<String>,
}

/// Runs `identify`.
pub fn identify(arguments: &IdentifyArguments) -> anyhow::Result<()> {
    let options = arguments.target.options(&arguments.nqn)?;
    let reactors = Reactors::start(&[], Poll::Adaptive)?;
    let only = arguments.nsid;
    let told = reactors.run_here(
        pool_for(0, 0),
        Box::new(move |pool| {
            Box::pin(async move {
                let controller = Controller::connect(&options, &pool).await?;
                let identity = controller.identify_controller().await?;
                let nsids = match only {
                    Some(nsid) => vec![nsid],
                    None => controller.active_namespaces().await?,
                };
                let mut namespaces = Vec::new();
                for nsid in nsids {
                    let found = controller.identify_namespace(nsid).await?;
                    namespaces.push(NamespaceTold::from(&found));
                }
                let told = ControllerTold::new(controller.info(), &identity);
                controller.shut_down().await?;
                Ok(Identified {
                    controller: told,
                    namespaces,
                })
            })
        }),
    )?;
    let text = if arguments.json {
        serde_json::to_string_pretty(&told)? + "\n"
    } else {
        told.tables()
    };
    table::print(&text);
    Ok(())
}

impl ControllerTold {
    fn new(info: &ControllerInfo, identity: &IdentifyController) -> ControllerTold {
        let text = |field: &[u8]| String::from_utf8_lossy(field).trim().to_owned();
        // VS: tertiary, minor, and two bytes of major version (Base 2.1, 3.1.4.2).
        let [tertiary, minor, low, high] = info.version.to_le_bytes();
        let major = u16::from_le_bytes([low, high]);
        let has = |bit: u16| identity.oncs.get() & bit != 0;
        ControllerTold {
            address: info.options.address.to_string(),
            nqn: info.options.subsystem_nqn.to_string(),
            controller_id: info.controller_id.0,
            model: text(&identity.mn),
            serial: text(&identity.sn),
            firmware: text(&identity.fr),
            version: format!("{major}.{minor}.{tertiary}"),
            queue_entries_max: info.cap.queue_entries_max(),
            commands_max: info.commands_max,
            transfer_max_bytes: info.transfer_max_bytes,
            in_capsule_data_max_bytes: info.in_capsule_max_bytes,
            keep_alive_granularity_ms: u32::from(identity.kas.get()) * 100,
            header_digest: info.header_digest,
            data_digest: info.data_digest,
            volatile_write_cache: identity.vwc & VWC_PRESENT != 0,
            compare: has(ONCS_COMPARE),
            compare_and_write: identity.fuses.get() & FUSES_COMPARE_WRITE != 0,
            dataset_management: has(ONCS_DATASET_MANAGEMENT),
            write_zeroes: has(ONCS_WRITE_ZEROES),
            verify: has(ONCS_VERIFY),
            reservations: has(ONCS_RESERVATIONS),
        }
    }

    fn commands(&self) -> String {
        let all = [
            ("compare", self.compare),
            ("compare-and-write", self.compare_and_write),
            ("dataset management", self.dataset_management),
            ("write zeroes", self.write_zeroes),
            ("verify", self.verify),
            ("reservations", self.reservations),
        ];
        all.iter()
            .filter(|(_, there)| *there)
            .map(|(name, _)| *name)
            .collect::<Vec<_>>()
            .join(", ")
    }
}

impl Identified {
    fn tables(&self) -> String {
        let c = &self.controller;
        let yes = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
        let limit = c
            .transfer_max_bytes
            .map_or_else(|| "no limit".to_owned(), size::show);
        let queue = match c.commands_max {
            0 => format!("{} entries", c.queue_entries_max),
            most => format!("{} entries, {most} commands", c.queue_entries_max),
        };
        let mut text = table::pairs(&[
            ("subsystem NQN", c.nqn.clone()),
            ("address", c.address.clone()),
            ("controller", c.controller_id.to_string()),
            ("model", c.model.clone()),
            ("serial number", c.serial.clone()),
            ("firmware", c.firmware.clone()),
            ("NVMe version", c.version.clone()),
            ("queue, at most", queue),
            ("data of a command, at most", limit),
            (
                "in-capsule data, at most",
                size::show(c.in_capsule_data_max_bytes.into()),
            ),
            (
                "keep alive granularity",
                format!("{} ms", c.keep_alive_granularity_ms),
            ),
            ("volatile write cache", yes(c.volatile_write_cache)),
            ("optional commands", c.commands()),
        ]);
        let row = |n: &NamespaceTold| {
            vec![
                n.nsid.to_string(),
                size::show(n.size_bytes),
                n.blocks.to_string(),
                size::show(n.block_size_bytes.into()),
                yes(n.read_only),
                n.uuid
                    .clone()
                    .or_else(|| n.nguid.clone())
                    .or_else(|| n.eui64.clone())
                    .unwrap_or_default(),
            ]
        };
        let rows: Vec<Vec<String>> = self.namespaces.iter().map(row).collect();
        text += "\n";
        text += &table::render(
            &[
                "namespace",
                "size",
                "blocks",
                "block size",
                "read-only",
                "identifier",
            ],
            &rows,
        );
        text
    }
}

impl From<&NamespaceInfo> for NamespaceTold {
    fn from(found: &NamespaceInfo) -> NamespaceTold {
        let mut told = NamespaceTold {
            nsid: found.nsid.get(),
            size_bytes: found.blocks.saturating_mul(found.block_size.bytes_u64()),
            blocks: found.blocks,
            block_size_bytes: found.block_size.bytes(),
            read_only: found.read_only,
            uuid: None,
            nguid: None,
            eui64: None,
        };
        for descriptor in &found.descriptors {
            match descriptor {
                NamespaceDescriptor::Uuid(id) => {
                    told.uuid = Some(Uuid::from_bytes(*id).to_string())
                }
                NamespaceDescriptor::Nguid(id) => told.nguid = Some(hex(id)),
                NamespaceDescriptor::Eui64(id) => told.eui64 = Some(hex(id)),
                NamespaceDescriptor::Csi(_) => {}
            }
        }
        told
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> DiscoveryLog {
        let record = DiscoveryRecord {
            subsystem_nqn: "nqn.2024-01.com.example:a".into(),
            subsystem_type: "nvm",
            transport: "tcp",
            address_family: "ipv4",
            address: "192.0.2.1".into(),
            service: "4420".into(),
            port_id: 1,
            controller_id: 0xffff,
            admin_queue_entries_max: 32,
        };
        DiscoveryLog {
            generation: 5,
            records: vec![record],
        }
    }

    #[test]
    fn discovered_json_has_its_documented_keys() {
        let text = discovered_json(&log()).expect("JSON");
        let value: serde_json::Value = serde_json::from_str(&text).expect("valid JSON");
        assert_eq!(value["generation"], 5);
        assert_eq!(value["records"][0]["service"], "4420");
        assert_eq!(
            value["records"][0]["subsystem_nqn"],
            "nqn.2024-01.com.example:a"
        );
    }

    #[test]
    fn discovered_table_names_address_and_generation() {
        let text = discovered_table(&log());
        assert!(
            text.contains("192.0.2.1  4420") && text.contains("generation 5"),
            "{text}"
        );
    }
}
