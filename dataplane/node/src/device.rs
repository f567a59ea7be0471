//! Devices behind namespaces: opened from settings, resized, shared.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use penstock_async_nvme::pci::PciAddress;
use penstock_backend::{
    FileConfig, FileDevice, FileKind, MemoryConfig, MemoryDevice, NullConfig, NullDevice,
    NvmeDevice, NvmeDrive, NvmeDriveConfig, OpenError,
};
use penstock_block::BlockDevice;
use penstock_units::BlockSize;

use crate::config::{
    BackendSettings, Config, NamespaceSettings, NvmeSettings, ReactorSettings, TcpSettings,
};

/// An open device. Clones share it.
#[derive(Clone)]
pub enum Device {
    /// In memory.
    Memory(Arc<MemoryDevice>),
    /// Nowhere.
    Null(Arc<NullDevice>),
    /// In a file or on a block device.
    File(Arc<FileDevice>),
    /// On a drive of our own.
    Nvme(Arc<NvmeDevice>),
}

/// What a device needs to know of the node.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// `[reactors]`
    pub reactors: &'a ReactorSettings,
    /// `[tcp]`
    pub tcp: &'a TcpSettings,
    /// `[nvme]`
    pub nvme: &'a NvmeSettings,
}

impl<'a> Surroundings<'a> {
    /// Those of a configuration.
    pub fn of(config: &'a Config) -> Surroundings<'a> {
        Surroundings {
            reactors: &config.reactors,
            tcp: &config.tcp,
            nvme: &config.nvme,
        }
    }
}

impl Device {
    /// Opens what `namespace` of the subsystem `nqn` asks for. May block.
    ///
    /// # Errors
    /// [`OpenError`]; nothing stays open, no file is left behind.
    pub fn open(
        nqn: &str,
        namespace: &NamespaceSettings,
        around: Surroundings<'_>,
    ) -> Result<Device, OpenError> {
        let name = format!("{nqn}/{}", namespace.nsid);
        Device::open_backend(name, &namespace.backend, namespace.block_size, around)
    }

    /// Opens `backend` under `name`. May block.
    ///
    /// # Errors
    /// [`OpenError`]; nothing stays open, no file is left behind.
    pub fn open_backend(
        name: String,
        backend: &BackendSettings,
        block_size: BlockSize,
        around: Surroundings<'_>,
    ) -> Result<Device, OpenError> {
        match backend {
            BackendSettings::Memory { size_bytes } => MemoryDevice::new(&MemoryConfig {
                name,
                size_bytes: *size_bytes,
                block_size,
                hugepages: around.reactors.hugepages,
                numa_node: None,
            })
            .map(Device::Memory),
            BackendSettings::Null {
                size_bytes,
                latency_us,
            } => NullDevice::new(&NullConfig {
                name,
                size_bytes: *size_bytes,
                block_size,
                lease_max_bytes: usize::try_from(around.tcp.mdts_bytes).unwrap_or(usize::MAX),
                latency_us: *latency_us,
            })
            .map(Device::Null),
            BackendSettings::File { path, size_bytes } => {
                file(name, path, FileKind::Regular, *size_bytes, block_size)
            }
            BackendSettings::Block { path } => file(name, path, FileKind::Block, None, block_size),
            BackendSettings::Nvme {
                address,
                drive_nsid,
            } => {
                let device = drive(*address, around)?.open(*drive_nsid)?;
                let found = device.geometry().block_size;
                if found != block_size {
                    return Err(OpenError::BlockSize {
                        name: device.name().to_owned(),
                        block_size_bytes: block_size.bytes(),
                        has_bytes: found.bytes(),
                    });
                }
                Ok(Device::Nvme(device))
            }
        }
    }

    /// The device as namespaces hold it.
    pub fn block(&self) -> Arc<dyn BlockDevice> {
        match self {
            Device::Memory(device) => Arc::clone(device) as Arc<dyn BlockDevice>,
            Device::Null(device) => Arc::clone(device) as Arc<dyn BlockDevice>,
            Device::File(device) => Arc::clone(device) as Arc<dyn BlockDevice>,
            Device::Nvme(device) => Arc::clone(device) as Arc<dyn BlockDevice>,
        }
    }

    /// Its size now, in bytes.
    pub fn size_bytes(&self) -> u64 {
        let geometry = self.block().geometry();
        geometry
            .blocks
            .saturating_mul(geometry.block_size.bytes_u64())
    }

    /// Takes the size that the settings ask for now. A null device cannot: it is opened anew.
    ///
    /// # Errors
    /// [`OpenError`]; the size is unchanged then.
    pub fn resize(&self, size_bytes: Option<u64>) -> Result<(), OpenError> {
        match (self, size_bytes) {
            (Device::Memory(device), Some(size_bytes)) => device.resize(size_bytes),
            (Device::File(device), size_bytes) => device.resize(size_bytes),
            (Device::Memory(_), None) | (Device::Null(_) | Device::Nvme(_), _) => Ok(()),
        }
    }
}

/// Drives in use: a process opens each once, whatever the number of its namespaces.
static DRIVES: Mutex<BTreeMap<PciAddress, Weak<NvmeDrive>>> = Mutex::new(BTreeMap::new());

/// The drive at an address, opened where it is not yet. May block.
fn drive(address: PciAddress, around: Surroundings<'_>) -> Result<Arc<NvmeDrive>, OpenError> {
    let mut drives = DRIVES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(drive) = drives.get(&address).and_then(Weak::upgrade) {
        return Ok(drive);
    }
    let config = NvmeDriveConfig {
        driver: around.nvme.driver,
        reactors: u16::try_from(around.reactors.cores.count()).unwrap_or(u16::MAX),
        queue_entries: around.nvme.queue_entries,
        io_timeout_ms: around.nvme.io_timeout_ms,
        submission_in_controller: around.nvme.queues_in_drive_memory,
        payload_in_controller_bytes: around.nvme.payload_in_drive_memory_bytes,
        // A busy reactor looks all the time anyway.
        interrupts: around.nvme.interrupts && around.reactors.adaptive,
    };
    let drive = NvmeDrive::open_pci(address, &config)?;
    drives.insert(address, Arc::downgrade(&drive));
    Ok(drive)
}

/// The drives in use now, by address.
pub(crate) fn drives() -> Vec<Arc<NvmeDrive>> {
    let drives = DRIVES.lock().unwrap_or_else(PoisonError::into_inner);
    drives.values().filter_map(Weak::upgrade).collect()
}

fn file(
    name: String,
    path: &Path,
    kind: FileKind,
    size_bytes: Option<u64>,
    block_size: BlockSize,
) -> Result<Device, OpenError> {
    FileDevice::open_path(&FileConfig {
        name,
        path: path.to_owned(),
        kind,
        size_bytes,
        create: true,
        block_size,
        direct: true,
        read_only: false,
    })
    .map(Device::File)
}
