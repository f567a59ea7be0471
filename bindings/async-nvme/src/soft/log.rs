//! Log pages (Base 2.1, 5.1.12).

use std::collections::{BTreeSet, VecDeque};

use penstock_nvme::command::GetLogPage;
use penstock_nvme::event::AsyncEvent;
use penstock_nvme::feature::AsyncEventConfig;
use penstock_nvme::identify::LPA_EXTENDED;
use penstock_nvme::log::{
    ChangedNamespaceList, ErrorEntry, FirmwareSlotLog, HealthLog, LOG_SUPPORTED, LogPage,
    SupportedLogPages, data_units,
};
use penstock_nvme::{
    FromZeros, IntoBytes, IoOpcode, Le16, Le32, Le64, Le128, Sqe, Status, ascii_field,
};

use super::feature::SPARE_THRESHOLD;
use super::machine::{Answer, Machine};

/// Entries of the error log.
pub(super) const ERROR_ENTRIES: usize = 64;

/// Log page attributes told by Identify.
pub(super) const ATTRIBUTES: u8 = LPA_EXTENDED;

/// Firmware revision.
pub(super) const FIRMWARE: &str = "soft1";

const PAGES: [LogPage; 5] = [
    LogPage::Supported,
    LogPage::Error,
    LogPage::Health,
    LogPage::FirmwareSlot,
    LogPage::ChangedNamespaces,
];

/// The Error Information log: the newest first.
#[derive(Default)]
pub(super) struct ErrorLog {
    count: u64,
    entries: VecDeque<ErrorEntry>,
}

impl ErrorLog {
    pub(super) fn add(&mut self, queue: u16, sqe: &Sqe, status: Status) {
        self.count += 1;
        let mut entry = ErrorEntry::new_zeroed();
        entry.error_count = Le64::new(self.count);
        entry.sqid = Le16::new(queue);
        entry.cid = sqe.cid;
        entry.status = Le16::new(status.wire());
        entry.parameter_location = Le16::new(u16::MAX);
        entry.nsid = sqe.nsid;
        if queue != 0 {
            let slba = u64::from(sqe.cdw10.get()) | u64::from(sqe.cdw11.get()) << 32;
            entry.lba = Le64::new(slba);
        }
        entry.opcode = sqe.opcode;
        entry.version = 1;
        self.entries.truncate(ERROR_ENTRIES - 1);
        self.entries.push_front(entry);
    }
}

/// Namespaces whose identify data changed since the host asked.
pub(super) type Changed = BTreeSet<u32>;

impl Machine {
    /// Base 2.1, 5.1.12: the part of the page that is asked for; beyond its end zeroes.
    pub(super) fn get_log_page(&mut self, sqe: &Sqe) -> Answer {
        let command = GetLogPage::decode(sqe);
        let page = LogPage::try_from(command.lid).map_err(|_| Status::INVALID_LOG_PAGE)?;
        if command.index_offset || !command.offset.is_multiple_of(4) {
            return Err(Status::INVALID_FIELD);
        }
        let content = self.log_content(page, command.nsid)?;
        let bytes = self.within_transfer(command.bytes())?;
        let offset = usize::try_from(command.offset).map_err(|_| Status::INVALID_FIELD)?;
        let from = content.get(offset..).ok_or(Status::INVALID_FIELD)?;
        let mut out = vec![0; bytes];
        let given = from.len().min(bytes);
        out[..given].copy_from_slice(&from[..given]);
        self.reply(sqe, &out)?;
        if !command.rae {
            if page == LogPage::ChangedNamespaces {
                self.changed.clear();
            }
            self.events.clear(command.lid);
        }
        Ok(0)
    }

    fn log_content(&mut self, page: LogPage, nsid: u32) -> Result<Vec<u8>, Status> {
        let whole = matches!(nsid, 0 | u32::MAX);
        Ok(match page {
            LogPage::Supported => {
                let mut pages = SupportedLogPages::new_zeroed();
                for page in PAGES {
                    pages.pages[usize::from(u8::from(page))] = Le32::new(LOG_SUPPORTED);
                }
                pages.as_bytes().to_vec()
            }
            LogPage::Error => {
                let mut out = vec![0; ERROR_ENTRIES * 64];
                for (to, entry) in out.chunks_exact_mut(64).zip(&self.errors.entries) {
                    to.copy_from_slice(entry.as_bytes());
                }
                out
            }
            LogPage::Health if whole => self.health_log().as_bytes().to_vec(),
            // Without LPA bit 0 there is none of a namespace.
            LogPage::Health => return Err(Status::INVALID_FIELD),
            LogPage::FirmwareSlot => {
                let mut slots = FirmwareSlotLog::new_zeroed();
                slots.afi = 1;
                slots.frs[0] = ascii_field(FIRMWARE);
                slots.as_bytes().to_vec()
            }
            LogPage::ChangedNamespaces => {
                let list = ChangedNamespaceList::new(self.changed.iter().copied());
                list.as_bytes().to_vec()
            }
            _ => return Err(Status::INVALID_LOG_PAGE),
        })
    }

    fn health_log(&self) -> HealthLog {
        let mut log = HealthLog::new_zeroed();
        let commands = |opcode: IoOpcode| self.stats.io[usize::from(u8::from(opcode))];
        log.critical_warning = self.warnings();
        log.temperature = Le16::new(self.health.temperature_kelvin);
        log.available_spare = self.health.available_spare;
        log.spare_threshold = SPARE_THRESHOLD;
        log.percentage_used = self.health.percentage_used;
        log.data_units_read = Le128::new(data_units(self.bytes_read.into()));
        log.data_units_written = Le128::new(data_units(self.bytes_written.into()));
        let reads = commands(IoOpcode::Read) + commands(IoOpcode::Compare);
        log.host_reads = Le128::new(reads.into());
        log.host_writes = Le128::new(commands(IoOpcode::Write).into());
        log.power_cycles = Le128::new(self.power_cycles.into());
        log.unsafe_shutdowns = Le128::new((self.power_cycles - 1).into());
        log.media_errors = Le128::new(self.media_errors.into());
        log.error_entries = Le128::new(self.errors.count.into());
        log.sensors[0] = log.temperature;
        log
    }

    /// A namespace came, went or is other than before.
    pub(super) fn namespace_changed(&mut self, nsid: u32) {
        self.changed.insert(nsid);
        if self.features.events().has(AsyncEventConfig::NAMESPACE) {
            self.events.add(AsyncEvent::NAMESPACE_CHANGED);
        }
    }
}
