//! Discovery: what a target offers (NVMe Base 2.1, 5.1.12.3.1).

use std::net::SocketAddr;

use penstock_buffer::Pool;
use penstock_nvme::FromBytes;
use penstock_nvme::log::{
    ADRFAM_IPV4, ADRFAM_IPV6, DiscoveryEntry, DiscoveryHeader, LogPage, SUBTYPE_CURRENT_DISCOVERY,
    SUBTYPE_NVM, SUBTYPE_REFERRAL, TRTYPE_FC, TRTYPE_RDMA, TRTYPE_TCP,
};
use penstock_nvme::nqn::{DISCOVERY_NQN, Nqn};

use crate::admin::LogPart;
use crate::controller::Controller;
use crate::error::ClientError;
use crate::options::ConnectOptions;

/// How often the log is read again because it changed while being read.
const ATTEMPTS: u32 = 10;
const HEADER_BYTES: u64 = size_of::<DiscoveryHeader>() as u64;
const ENTRY_BYTES: u64 = size_of::<DiscoveryEntry>() as u64;
/// More records than any target has; a larger number is damage.
const RECORDS_MAX: u64 = 65_536;

/// What a discovery controller told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscoveryLog {
    /// Generation counter: moves with every change.
    pub generation: u64,
    /// What is offered where.
    pub records: Vec<DiscoveryRecord>,
}

/// One way to one subsystem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscoveryRecord {
    /// Subsystem NQN.
    pub subsystem_nqn: String,
    /// Kind of subsystem: `nvm`, `discovery` (a referral) or `current discovery`.
    pub subsystem_type: &'static str,
    /// Transport: `tcp`, `rdma`, `fc` or `other`.
    pub transport: &'static str,
    /// Address family: `ipv4`, `ipv6` or `other`.
    pub address_family: &'static str,
    /// Address, as text.
    pub address: String,
    /// Port, as text.
    pub service: String,
    /// Port identifier.
    pub port_id: u16,
    /// Controller identifier, FFFFh for the dynamic model.
    pub controller_id: u16,
    /// Most entries of the admin queue.
    pub admin_queue_entries_max: u16,
}

impl From<&DiscoveryEntry> for DiscoveryRecord {
    fn from(entry: &DiscoveryEntry) -> DiscoveryRecord {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        DiscoveryRecord {
            subsystem_nqn: text(entry.subnqn_bytes()),
            subsystem_type: match entry.subtype {
                SUBTYPE_REFERRAL => "discovery",
                SUBTYPE_NVM => "nvm",
                SUBTYPE_CURRENT_DISCOVERY => "current discovery",
                _ => "other",
            },
            transport: match entry.trtype {
                TRTYPE_TCP => "tcp",
                TRTYPE_RDMA => "rdma",
                TRTYPE_FC => "fc",
                _ => "other",
            },
            address_family: match entry.adrfam {
                ADRFAM_IPV4 => "ipv4",
                ADRFAM_IPV6 => "ipv6",
                _ => "other",
            },
            address: text(entry.traddr_bytes()),
            service: text(entry.trsvcid_bytes()),
            port_id: entry.portid.get(),
            controller_id: entry.cntlid.get(),
            admin_queue_entries_max: entry.asqsz.get(),
        }
    }
}

/// Connects to the discovery subsystem at `options.address` and reads its log. The subsystem NQN of
/// the options is not used.
///
/// # Errors
/// No connection, a refusal, or a log that does not stand still.
pub async fn discover(options: &ConnectOptions, pool: &Pool) -> Result<DiscoveryLog, ClientError> {
    let mut options = options.clone();
    options.subsystem_nqn = Nqn::new(DISCOVERY_NQN).map_err(|error| nonsense(&options, error))?;
    let controller = Controller::connect(&options, pool).await?;
    let log = controller.discovery_log().await;
    let shut_down = controller.shut_down().await;
    let log = log?;
    shut_down.map(|()| log)
}

fn nonsense(options: &ConnectOptions, what: impl ToString) -> ClientError {
    ClientError::Controller {
        address: options.address,
        what: what.to_string(),
    }
}

impl Controller {
    /// Reads the discovery log of a discovery controller: the header, the records, and the header
    /// again; all over again where the generation moved meanwhile.
    ///
    /// # Errors
    /// As for every command, and a log that does not stand still.
    pub async fn discovery_log(&self) -> Result<DiscoveryLog, ClientError> {
        let address: SocketAddr = self.info().options.address;
        let told = |what: &str| ClientError::Controller {
            address,
            what: what.to_owned(),
        };
        for _ in 0..ATTEMPTS {
            let (generation, count) = self.discovery_header().await?;
            if count > RECORDS_MAX {
                return Err(told(
                    "its discovery log claims more records than there can be",
                ));
            }
            let mut part = LogPart::start(LogPage::Discovery, count * ENTRY_BYTES);
            part.offset = HEADER_BYTES;
            part.retain_event = false;
            let bytes = self.log_page(part).await?;
            let (again, _) = self.discovery_header().await?;
            if again == generation {
                let records = bytes
                    .chunks_exact(size_of::<DiscoveryEntry>())
                    .filter_map(|bytes| DiscoveryEntry::ref_from_bytes(bytes).ok())
                    .map(DiscoveryRecord::from)
                    .collect();
                return Ok(DiscoveryLog {
                    generation,
                    records,
                });
            }
        }
        Err(told(
            "its discovery log changes faster than it can be read; try again",
        ))
    }

    /// Generation and number of records.
    async fn discovery_header(&self) -> Result<(u64, u64), ClientError> {
        let bytes = self
            .log_page(LogPart::start(LogPage::Discovery, HEADER_BYTES))
            .await?;
        let header = DiscoveryHeader::ref_from_bytes(&bytes)
            .map_err(|_| nonsense(&self.info().options, "its discovery log is cut off"))?;
        Ok((header.genctr.get(), header.numrec.get()))
    }
}
