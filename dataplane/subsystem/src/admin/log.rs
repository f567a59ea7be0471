//! Get Log Page (Base 2.1, 5.1.12).

use penstock_nvme::command::GetLogPage;
use penstock_nvme::feature::FeatureId;
use penstock_nvme::log::{
    ANA_GROUPS_ONLY, AnaGroup, AnaHeader, AnaState, ChangedNamespaceList, EFFECT_CONTENT,
    EFFECT_CONTROLLER, EFFECT_NAMESPACE, EFFECT_SUPPORTED, EffectsLog, ErrorEntry,
    FEATURE_SCOPE_CONTROLLER, FEATURE_SCOPE_NAMESPACE, FeatureEffectsLog, FirmwareSlotLog,
    HealthLog, LOG_SUPPORTED, LogPage, SupportedLogPages, TRTYPE_TCP, WARNING_READ_ONLY,
    data_units,
};
use penstock_nvme::sqe::NSID_BROADCAST;
use penstock_nvme::{
    AdminOpcode, FromZeros, IntoBytes, IoOpcode, Le16, Le32, Le64, Le128, Status, ascii_field,
};
use penstock_seam::Reply;

use super::identify::ANA_GROUP;
use super::{Admin, feature, supported};
use crate::discovery;
use crate::error_log::{ENTRIES, ErrorRecord};
use crate::metrics::ErrorClass;
use crate::status::{Fail, at};
use crate::subsystem::SubsystemKind;

/// Version of an error log entry in which the opcode counts.
const ERROR_ENTRY_VERSION: u8 = 1;

/// The log pages a controller of this kind has.
fn has_page(kind: SubsystemKind, page: LogPage) -> bool {
    match page {
        LogPage::Discovery => kind == SubsystemKind::Discovery,
        LogPage::Supported
        | LogPage::Error
        | LogPage::Health
        | LogPage::FirmwareSlot
        | LogPage::ChangedNamespaces
        | LogPage::CommandEffects
        | LogPage::Ana
        | LogPage::FeatureEffects => kind == SubsystemKind::Nvm,
        _ => false,
    }
}

impl Admin<'_> {
    pub(super) async fn get_log_page(&self) -> Result<Reply, Fail> {
        let asked = GetLogPage::decode(self.sqe);
        let subsystem = self.controller.subsystem();
        let page = LogPage::try_from(asked.lid)
            .ok()
            .filter(|page| has_page(subsystem.kind(), *page))
            .ok_or(Fail::field(Status::INVALID_LOG_PAGE.dnr(), at::CDW10))?;
        if asked.index_offset {
            return Err(Fail::invalid_field(at::bit(at::CDW14 + 2, 7)));
        }
        if !asked.offset.is_multiple_of(4) {
            return Err(Fail::invalid_field(at::CDW12));
        }
        let len = asked.bytes();
        if len > u64::from(subsystem.target().mdts_bytes) {
            return Err(Fail::invalid_field(at::CDW10 + 2));
        }
        let bytes = self.page(page, &asked)?;
        let start = usize::try_from(asked.offset)
            .ok()
            .filter(|start| *start <= bytes.len());
        let start = start.ok_or(Fail::invalid_field(at::CDW12))?;
        // What lies behind the page's end reads as zeroes.
        let mut part = bytes[start..].to_vec();
        part.resize(usize::try_from(len).unwrap_or(0), 0);
        let reply = self.data(&part, 0).await?;
        if !asked.rae {
            self.controller
                .with_events(|events| events.clear(asked.lid));
        }
        Ok(reply)
    }

    fn page(&self, page: LogPage, asked: &GetLogPage) -> Result<Vec<u8>, Fail> {
        Ok(match page {
            LogPage::Supported => self.supported_pages(),
            LogPage::Error => self.errors(),
            LogPage::Health => self.health(asked.nsid)?,
            LogPage::FirmwareSlot => self.firmware(),
            LogPage::ChangedNamespaces => self.changed(!asked.rae),
            LogPage::CommandEffects => self.effects(asked)?,
            LogPage::Ana => self.ana(asked.lsp & ANA_GROUPS_ONLY != 0),
            LogPage::FeatureEffects => self.feature_effects(),
            LogPage::Discovery => discovery::log_page(self.session, self.controller),
            _ => return Err(Fail::field(Status::INVALID_LOG_PAGE.dnr(), at::CDW10)),
        })
    }

    fn supported_pages(&self) -> Vec<u8> {
        let kind = self.controller.subsystem().kind();
        let mut log = SupportedLogPages::new_zeroed();
        for page in LogPage::ALL.iter().filter(|page| has_page(kind, **page)) {
            log.pages[usize::from(u8::from(*page))] = Le32::new(LOG_SUPPORTED);
        }
        log.as_bytes().to_vec()
    }

    /// Error Information: 128 entries, the latest first (Base 2.1, 5.1.12.1.2).
    fn errors(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(ENTRIES * size_of::<ErrorEntry>());
        self.controller.with_errors(|log| {
            for record in log.iter() {
                bytes.extend_from_slice(error_entry(record).as_bytes());
            }
        });
        bytes.resize(ENTRIES * size_of::<ErrorEntry>(), 0);
        bytes
    }

    /// SMART: of the subsystem as a whole, since the node was started (Base 2.1, 5.1.12.1.3).
    fn health(&self, nsid: u32) -> Result<Vec<u8>, Fail> {
        if !matches!(nsid, 0 | NSID_BROADCAST) {
            // LPA bit 0 is clear: no health of a single namespace.
            return Err(Fail::invalid_field(at::NSID));
        }
        let subsystem = self.controller.subsystem();
        let totals = subsystem.totals();
        let namespaces = subsystem.namespaces();
        let mut log = HealthLog::new_zeroed();
        if !namespaces.is_empty() && namespaces.values().all(|ns| ns.read_only()) {
            log.critical_warning = WARNING_READ_ONLY;
        }
        // Spare is whole as far as this node can know; temperature and wear stay 0: not known.
        log.available_spare = 100;
        log.data_units_read = Le128::new(data_units(u128::from(totals.read_bytes)));
        log.data_units_written = Le128::new(data_units(u128::from(totals.written_bytes)));
        log.host_reads = Le128::new(u128::from(totals.host_reads()));
        log.host_writes = Le128::new(u128::from(totals.host_writes()));
        let second = subsystem.target().clock.per_second.max(1);
        let busy = self.controller.totals().busy_ticks / second / 60;
        log.busy_time = Le128::new(u128::from(busy));
        log.power_cycles = Le128::new(1);
        let up = self
            .session
            .now()
            .saturating_sub(self.session.target().started_ticks());
        log.power_on_hours = Le128::new(u128::from(up / second / 3600));
        let media = totals.errors[ErrorClass::Media as usize];
        log.media_errors = Le128::new(u128::from(media));
        let errors = self.controller.with_errors(|log| log.count());
        log.error_entries = Le128::new(u128::from(errors));
        Ok(log.as_bytes().to_vec())
    }

    fn firmware(&self) -> Vec<u8> {
        let mut log = FirmwareSlotLog::new_zeroed();
        log.afi = 1;
        log.frs[0] = ascii_field(&self.controller.subsystem().target().firmware);
        log.as_bytes().to_vec()
    }

    /// Changed namespaces; reading them without Retain Asynchronous Event empties the list.
    fn changed(&self, clear: bool) -> Vec<u8> {
        let (nsids, overflow) = self.controller.changed_namespaces(clear);
        let list = if overflow {
            let mut list = ChangedNamespaceList::new_zeroed();
            list.nsid[0] = Le32::new(NSID_BROADCAST);
            list
        } else {
            ChangedNamespaceList::new(nsids.into_iter().map(|nsid| nsid.get()))
        };
        list.as_bytes().to_vec()
    }

    fn effects(&self, asked: &GetLogPage) -> Result<Vec<u8>, Fail> {
        if asked.csi != penstock_nvme::identify::CSI_NVM {
            return Err(Fail::invalid_field(at::CDW14 + 3));
        }
        let kind = self.controller.subsystem().kind();
        let mut log = EffectsLog::new_zeroed();
        for opcode in AdminOpcode::ALL
            .iter()
            .filter(|opcode| supported(kind, **opcode))
        {
            let effects = match opcode {
                AdminOpcode::SetFeatures => EFFECT_SUPPORTED | EFFECT_CONTROLLER,
                _ => EFFECT_SUPPORTED,
            };
            log.admin[usize::from(u8::from(*opcode))] = Le32::new(effects);
        }
        for (opcode, effects) in [
            (IoOpcode::Flush, 0),
            (IoOpcode::Write, EFFECT_CONTENT),
            (IoOpcode::Read, 0),
            (IoOpcode::Compare, 0),
            (IoOpcode::WriteZeroes, EFFECT_CONTENT),
            (IoOpcode::DatasetManagement, EFFECT_CONTENT),
            (IoOpcode::Verify, 0),
            (IoOpcode::Fabrics, 0),
        ] {
            log.io[usize::from(u8::from(opcode))] = Le32::new(EFFECT_SUPPORTED | effects);
        }
        Ok(log.as_bytes().to_vec())
    }

    fn feature_effects(&self) -> Vec<u8> {
        let kind = self.controller.subsystem().kind();
        let mut log = FeatureEffectsLog::new_zeroed();
        for fid in FeatureId::ALL
            .iter()
            .filter(|fid| feature::supported(kind, **fid))
        {
            let effects = match fid {
                FeatureId::ErrorRecovery => FEATURE_SCOPE_NAMESPACE | EFFECT_NAMESPACE,
                FeatureId::HostIdentifier => FEATURE_SCOPE_CONTROLLER,
                _ => FEATURE_SCOPE_CONTROLLER | EFFECT_CONTROLLER,
            };
            log.features[usize::from(u8::from(*fid))] = Le32::new(EFFECT_SUPPORTED | effects);
        }
        log.as_bytes().to_vec()
    }

    /// Asymmetric Namespace Access: one group, always optimised (Base 2.1, 5.1.12.1.13). Its change
    /// count is the version of the namespace table: the only thing in it that changes.
    fn ana(&self, groups_only: bool) -> Vec<u8> {
        let subsystem = self.controller.subsystem();
        let version = Le64::new(subsystem.version());
        let namespaces = subsystem.namespaces();
        let mut header = AnaHeader::new_zeroed();
        header.chgcnt = version;
        header.ngrps = Le16::new(u16::from(!namespaces.is_empty()));
        let mut bytes = header.as_bytes().to_vec();
        if namespaces.is_empty() {
            return bytes;
        }
        let mut group = AnaGroup::new_zeroed();
        group.grpid = Le32::new(ANA_GROUP);
        group.chgcnt = version;
        group.state = AnaState::Optimized.into();
        if !groups_only {
            group.nnsids = Le32::new(u32::try_from(namespaces.len()).unwrap_or(u32::MAX));
        }
        bytes.extend_from_slice(group.as_bytes());
        if !groups_only {
            for nsid in namespaces.keys() {
                bytes.extend_from_slice(Le32::new(nsid.get()).as_bytes());
            }
        }
        bytes
    }
}

fn error_entry(record: &ErrorRecord) -> ErrorEntry {
    let mut entry = ErrorEntry::new_zeroed();
    entry.error_count = Le64::new(record.count);
    entry.sqid = Le16::new(record.queue_id);
    entry.cid = Le16::new(record.command_id);
    entry.status = Le16::new(record.status);
    entry.parameter_location = Le16::new(record.location);
    entry.lba = Le64::new(record.lba);
    entry.nsid = Le32::new(record.nsid);
    entry.trtype = TRTYPE_TCP;
    entry.opcode = record.opcode;
    entry.version = ERROR_ENTRY_VERSION;
    entry
}
