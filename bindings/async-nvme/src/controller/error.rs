//! What can go wrong with a controller as a whole.

use penstock_nvme::Status;

use crate::cmb::CmbError;
use crate::dma::DmaError;

/// Why a controller cannot be used, or a command to its admin queue failed.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// Reads of its registers give all ones, or zeroes where none can be.
    #[error(
        "the controller does not answer (its registers read as all ones or zeroes): it was pulled out or has lost power; check the slot, or rescan the bus"
    )]
    Gone,
    /// It did not get where it was told to go in time.
    #[error(
        "the controller did not become {what} within {waited_ms} ms (CSTS {csts:#010x}): reset the drive or power cycle it; if it goes on, replace it or its firmware"
    )]
    NeverReady {
        /// What it was to become.
        what: &'static str,
        /// How long it was waited for: CAP.TO or CRTO.
        waited_ms: u64,
        /// Its status register.
        csts: u32,
    },
    /// It says that it failed.
    #[error(
        "the controller reports a fatal error (CSTS.CFS) while {doing}; reset or power cycle the drive"
    )]
    Fatal {
        /// What was being done.
        doing: &'static str,
    },
    /// Something else has reset it.
    #[error(
        "the controller is not ready (CSTS.RDY) while {doing} although it was enabled: something else has reset it; see the kernel's log for what"
    )]
    Forgot {
        /// What was being done.
        doing: &'static str,
    },
    /// It has no pages of 4 KiB.
    #[error(
        "the controller's smallest memory page is {page_min_bytes} bytes; this driver needs 4096: the drive cannot be used from user space on this machine"
    )]
    PageSize {
        /// CAP.MPSMIN in bytes.
        page_min_bytes: u64,
    },
    /// It does not speak the NVM command set.
    #[error("the controller has no NVM command set (CAP.CSS {css:#04x}): it is no block device")]
    CommandSet {
        /// CAP.CSS.
        css: u8,
    },
    /// Its registers do not lie in the memory mapped.
    #[error("the controller's registers take {need_bytes} bytes, only {have_bytes} are mapped")]
    Registers {
        /// Bytes up to the last doorbell needed.
        need_bytes: usize,
        /// Bytes mapped.
        have_bytes: usize,
    },
    /// It grants fewer queue pairs than asked for.
    #[error(
        "the controller grants {granted} I/O queue pairs, {asked} are needed, one for each reactor; use fewer reactors"
    )]
    Queues {
        /// Asked for.
        asked: u16,
        /// Granted.
        granted: u16,
    },
    /// It refused a command.
    #[error("the controller refused {command}: {status}")]
    Refused {
        /// The command's name.
        command: &'static str,
        /// What it answered.
        status: Status,
    },
    /// It did not answer a command in time.
    #[error("the controller did not answer {command} within {waited_ms} ms")]
    TimedOut {
        /// The command's name.
        command: &'static str,
        /// How long it was waited for.
        waited_ms: u64,
    },
    /// An answer makes no sense.
    #[error("the controller answered {command} with something that makes no sense: {what}")]
    Nonsense {
        /// The command's name.
        command: &'static str,
        /// What is wrong.
        what: &'static str,
    },
    /// The library that drives it gave up.
    #[cfg(feature = "spdk")]
    #[error("SPDK failed at {doing}: {source}; what it says of it stands on standard error")]
    Library {
        /// What was being done.
        doing: &'static str,
        /// What it answered.
        source: std::io::Error,
    },
    /// Memory for it could not be had.
    #[error(transparent)]
    Dma(#[from] DmaError),
    /// Its own memory does not do what was asked.
    #[error(transparent)]
    Cmb(#[from] CmbError),
}

impl ControllerError {
    /// Whether a reset may help.
    #[must_use]
    pub fn calls_for_reset(&self) -> bool {
        #[cfg(feature = "spdk")]
        if matches!(self, ControllerError::Library { .. }) {
            return true;
        }
        matches!(
            self,
            ControllerError::Fatal { .. }
                | ControllerError::Forgot { .. }
                | ControllerError::TimedOut { .. }
                | ControllerError::Nonsense { .. }
        )
    }
}
