//! Checks of `[nvme]` and of what names a drive's namespace.

use penstock_async_nvme::pci::PciAddress;
use penstock_async_nvme::{DriverChoice, SpdkOptions};
use penstock_units::Nsid;

use super::super::schema::{self, Key};
use super::super::{BackendSettings, NvmeSettings};
use super::{Checker, offset};

/// The keys that name a namespace of a drive, of a namespace or a device.
pub(super) struct DriveKeys<'a> {
    /// The table they are in.
    pub(super) prefix: &'static str,
    /// Where the table's backend is named.
    pub(super) at: Option<usize>,
    pub(super) address: &'a Key<String>,
    pub(super) nsid: &'a Key<u64>,
}

impl Checker<'_> {
    pub(super) fn nvme(&mut self, nvme: &schema::Nvme) -> NvmeSettings {
        NvmeSettings {
            driver: self.driver(nvme),
            queue_entries: self.number("nvme.queue_entries", &nvme.queue_entries, 1024, 16..=4096),
            io_timeout_ms: self.number(
                "nvme.io_timeout_ms",
                &nvme.io_timeout_ms,
                30_000,
                100..=600_000,
            ),
            queues_in_drive_memory: nvme
                .queues_in_drive_memory
                .as_ref()
                .is_some_and(|yes| *yes.get_ref()),
            payload_in_drive_memory_bytes: self.number(
                "nvme.payload_in_drive_memory_bytes",
                &nvme.payload_in_drive_memory_bytes,
                0,
                0..=1 << 40,
            ),
            interrupts: nvme.interrupts.as_ref().is_none_or(|yes| *yes.get_ref()),
        }
    }

    /// Whose driver, which must be part of this program and do what else is asked for.
    fn driver(&mut self, nvme: &schema::Nvme) -> DriverChoice {
        let spdk = SpdkOptions {
            memory_mib: self.number(
                "nvme.spdk_memory_mib",
                &nvme.spdk_memory_mib,
                128,
                16..=65_536,
            ),
            hugepages: nvme
                .spdk_hugepages
                .as_ref()
                .is_none_or(|yes| *yes.get_ref()),
        };
        if self.word("nvme.driver", &nvme.driver, &["penstock", "spdk"]) == "penstock" {
            return DriverChoice::Own;
        }
        let driver = DriverChoice::Spdk(spdk);
        let at = nvme.driver.as_ref().and_then(offset);
        if !driver.is_built_in() {
            let what = "this program was built without SPDK".to_owned();
            let remedy = "use driver = \"penstock\", or build it with `--features spdk`";
            self.refuse(at, "nvme.driver", what, remedy);
            return DriverChoice::Own;
        }
        let queues = nvme.queues_in_drive_memory.as_ref();
        let queues = queues.filter(|key| *key.get_ref()).and_then(offset);
        let payload = nvme.payload_in_drive_memory_bytes.as_ref();
        let payload = payload.filter(|key| *key.get_ref() > 0).and_then(offset);
        for (at, key) in [
            (queues, "nvme.queues_in_drive_memory"),
            (payload, "nvme.payload_in_drive_memory_bytes"),
        ] {
            if at.is_some() {
                let what = "a node with SPDK puts nothing into a drive's memory".to_owned();
                self.refuse(at, key, what, "leave it out, or use driver = \"penstock\"");
            }
        }
        driver
    }

    /// The drive's namespace that the keys name.
    pub(super) fn drive(&mut self, keys: &DriveKeys<'_>) -> Option<BackendSettings> {
        let key = format!("{}.pci_address", keys.prefix);
        let Some(text) = keys.address else {
            let what = format!("an nvme {} needs the drive's PCI address", keys.prefix);
            let remedy = "add pci_address = \"0000:3b:00.0\" (`penstock device list` shows them)";
            self.refuse(keys.at, &key, what, remedy);
            return None;
        };
        let address = text.get_ref().parse::<PciAddress>();
        let address = match address {
            Ok(address) => address,
            Err(error) => {
                let message = error.to_string();
                let (what, remedy) = message.split_once("; ").unwrap_or((&message, "correct it"));
                self.refuse(offset(text), &key, what.to_owned(), remedy);
                return None;
            }
        };
        let key = format!("{}.drive_nsid", keys.prefix);
        let nsid: u32 = self.number(&key, keys.nsid, 1, 1..=u64::from(u32::MAX - 1));
        Some(BackendSettings::Nvme {
            address,
            drive_nsid: Nsid::new(nsid)?,
        })
    }
}
