//! The NVMe controllers of this machine as the kernel shows them: what they are, what uses them,
//! and which driver has them.

mod address;
mod host;

pub use address::{BadAddress, PciAddress};
pub use host::Host;
pub(crate) use host::{NVME_CLASS, names};
