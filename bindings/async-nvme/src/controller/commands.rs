//! What is asked of a controller through its admin queue, whoever carries the commands.

use penstock_nvme::command::{GetLogPage, Identify};
use penstock_nvme::event::AsyncEvent;
use penstock_nvme::identify::{
    Cns, IdentifyController, IdentifyNamespace, IdentifyNvmController, NamespaceList,
};
use penstock_nvme::log::{ErrorEntry, HealthLog, LogPage};
use penstock_nvme::{Cqe, FromBytes, FromZeros, IntoBytes, Sqe};
use penstock_units::Nsid;

use super::error::ControllerError;
use super::identity::{Identity, Namespace};

/// The longest data of an admin command of ours.
pub(crate) const DATA_BYTES: usize = 4096;

/// Data of an admin command.
pub(crate) enum Data<'a> {
    None,
    /// From the controller.
    In(&'a mut [u8]),
}

/// An admin queue, on a thread that may wait.
pub(crate) trait Admin {
    /// Sends a command and waits for its answer.
    fn execute(
        &mut self,
        command: &'static str,
        sqe: Sqe,
        data: Data<'_>,
    ) -> Result<Cqe, ControllerError>;

    fn identify(
        &mut self,
        command: &'static str,
        what: Identify,
        into: &mut [u8; DATA_BYTES],
    ) -> Result<(), ControllerError> {
        self.execute(command, what.encode(), Data::In(into))
            .map(|_| ())
    }

    /// What the controller is.
    fn identity(&mut self) -> Result<Identity, ControllerError> {
        let mut data = [0; DATA_BYTES];
        let command = "Identify Controller";
        self.identify(command, Identify::new(Cns::Controller, 0), &mut data)?;
        let identify = IdentifyController::ref_from_bytes(&data).map_err(|_| nonsense(command))?;
        Ok(Identity::of(identify))
    }

    /// WZSL, where the controller has the data structure; `None` for no limit but the encoding's
    /// (NVM 1.1, 4.1.5.2).
    fn write_zeroes_bytes_max(&mut self) -> Option<u64> {
        let mut data = [0; DATA_BYTES];
        let what = Identify::new(Cns::CommandSetController, 0);
        let command = "Identify Controller (NVM command set)";
        self.identify(command, what, &mut data).ok()?;
        let (data, _) = IdentifyNvmController::ref_from_prefix(&data).ok()?;
        // log2 in units of the smallest memory page, which is 4 KiB here.
        match data.wzsl {
            0 => None,
            shift => 4096_u64.checked_shl(u32::from(shift)),
        }
    }

    /// Namespaces attached to the controller (Base 2.1, 5.1.13.2.2; NVM 1.1, 4.1.5.1).
    fn namespaces(&mut self) -> Result<Vec<Namespace>, ControllerError> {
        let (mut found, mut after) = (Vec::new(), 0);
        loop {
            let mut data = [0; DATA_BYTES];
            let command = "Identify (active namespaces)";
            let what = Identify::new(Cns::ActiveNamespaces, after);
            self.identify(command, what, &mut data)?;
            let list = NamespaceList::ref_from_bytes(&data).map_err(|_| nonsense(command))?;
            let mut nsids: Vec<u32> = list.iter().collect();
            nsids.retain(|nsid| *nsid > after);
            let Some(last) = nsids.last().copied() else {
                return Ok(found);
            };
            after = last;
            for nsid in nsids.iter().filter_map(|nsid| Nsid::new(*nsid)) {
                found.extend(self.namespace(nsid)?);
            }
            if nsids.len() < 1024 {
                return Ok(found);
            }
        }
    }

    /// One namespace as it is now; `None` where it is not attached.
    fn namespace(&mut self, nsid: Nsid) -> Result<Option<Namespace>, ControllerError> {
        let mut data = [0; DATA_BYTES];
        let command = "Identify Namespace";
        let what = Identify::new(Cns::Namespace, nsid.get());
        self.identify(command, what, &mut data)?;
        let identify = IdentifyNamespace::ref_from_bytes(&data).map_err(|_| nonsense(command))?;
        if identify.nsze.get() == 0 {
            return Ok(None);
        }
        Namespace::of(nsid, identify)
            .map(Some)
            .ok_or_else(|| nonsense(command))
    }

    /// Health of the drive (Base 2.1, 5.1.12.1.3).
    fn health(&mut self) -> Result<HealthLog, ControllerError> {
        let mut data = [0; 512];
        let command = "Get Log Page (SMART / Health)";
        self.log_page(command, LogPage::Health, &mut data)?;
        HealthLog::read_from_bytes(&data).map_err(|_| nonsense(command))
    }

    /// The drive's error log, the newest entry first, 64 entries at most (Base 2.1, 5.1.12.1.2).
    fn error_log(&mut self, entries_max: u16) -> Result<Vec<ErrorEntry>, ControllerError> {
        let count = usize::from(entries_max).clamp(1, DATA_BYTES / size_of::<ErrorEntry>());
        let mut entries = vec![ErrorEntry::new_zeroed(); count];
        let command = "Get Log Page (Error Information)";
        self.log_page(command, LogPage::Error, entries.as_mut_bytes())?;
        entries.retain(|entry| entry.error_count.get() != 0);
        // That is their order; a drive that keeps to none is believed its numbers.
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.error_count.get()));
        Ok(entries)
    }

    fn log_page(
        &mut self,
        command: &'static str,
        page: LogPage,
        into: &mut [u8],
    ) -> Result<(), ControllerError> {
        let log = GetLogPage::new(page, u32::MAX, 0, into.len() as u64);
        let sqe: Sqe = log.encode().ok_or_else(|| nonsense(command))?;
        self.execute(command, sqe, Data::In(into)).map(|_| ())
    }

    /// Reads the log page that clears an event (Base 2.1, 5.1.2).
    fn clear(&mut self, event: AsyncEvent) -> Result<(), ControllerError> {
        let Ok(page) = LogPage::try_from(event.log_page) else {
            return Ok(());
        };
        let mut data = [0; DATA_BYTES];
        let len = match page {
            LogPage::ChangedNamespaces => DATA_BYTES,
            LogPage::Health | LogPage::FirmwareSlot => 512,
            LogPage::Error => size_of::<ErrorEntry>(),
            _ => return Ok(()),
        };
        match self.log_page("Get Log Page", page, &mut data[..len]) {
            Err(ControllerError::Refused { .. }) | Ok(()) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

pub(super) fn nonsense(command: &'static str) -> ControllerError {
    ControllerError::Nonsense {
        command,
        what: "the data does not fit its format",
    }
}
