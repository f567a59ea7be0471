//! Devices behind namespaces: opened from settings, resized, shared.

use std::path::Path;
use std::sync::Arc;

use penstock_backend::{
    FileConfig, FileDevice, FileKind, MemoryConfig, MemoryDevice, NullConfig, NullDevice, OpenError,
};
use penstock_block::BlockDevice;
use penstock_units::BlockSize;

use crate::config::{BackendSettings, NamespaceSettings, ReactorSettings, TcpSettings};

/// An open device. Clones share it.
#[derive(Clone)]
pub enum Device {
    /// In memory.
    Memory(Arc<MemoryDevice>),
    /// Nowhere.
    Null(Arc<NullDevice>),
    /// In a file or on a block device.
    File(Arc<FileDevice>),
}

impl Device {
    /// Opens what `namespace` of the subsystem `nqn` asks for. May block.
    ///
    /// # Errors
    /// [`OpenError`]; nothing stays open, no file is left behind.
    pub fn open(
        nqn: &str,
        namespace: &NamespaceSettings,
        reactors: &ReactorSettings,
        tcp: &TcpSettings,
    ) -> Result<Device, OpenError> {
        let name = format!("{nqn}/{}", namespace.nsid);
        Device::open_backend(
            name,
            &namespace.backend,
            namespace.block_size,
            reactors,
            tcp,
        )
    }

    /// Opens `backend` under `name`. May block.
    ///
    /// # Errors
    /// [`OpenError`]; nothing stays open, no file is left behind.
    pub fn open_backend(
        name: String,
        backend: &BackendSettings,
        block_size: BlockSize,
        reactors: &ReactorSettings,
        tcp: &TcpSettings,
    ) -> Result<Device, OpenError> {
        match backend {
            BackendSettings::Memory { size_bytes } => MemoryDevice::new(&MemoryConfig {
                name,
                size_bytes: *size_bytes,
                block_size,
                hugepages: reactors.hugepages,
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
                lease_max_bytes: usize::try_from(tcp.mdts_bytes).unwrap_or(usize::MAX),
                latency_us: *latency_us,
            })
            .map(Device::Null),
            BackendSettings::File { path, size_bytes } => {
                file(name, path, FileKind::Regular, *size_bytes, block_size)
            }
            BackendSettings::Block { path } => file(name, path, FileKind::Block, None, block_size),
        }
    }

    /// The device as namespaces hold it.
    pub fn block(&self) -> Arc<dyn BlockDevice> {
        match self {
            Device::Memory(device) => Arc::clone(device) as Arc<dyn BlockDevice>,
            Device::Null(device) => Arc::clone(device) as Arc<dyn BlockDevice>,
            Device::File(device) => Arc::clone(device) as Arc<dyn BlockDevice>,
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
            (Device::Memory(_), None) | (Device::Null(_), _) => Ok(()),
        }
    }
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
