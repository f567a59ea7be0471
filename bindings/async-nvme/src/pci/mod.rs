//! The NVMe controllers of this machine as the kernel shows them: what they are, what uses them,
//! and which driver has them.

mod address;
mod bind;
mod error;
mod host;
mod list;
pub mod signature;
mod usage;

#[cfg(test)]
mod tests;

pub use address::{BadAddress, PciAddress};
pub use error::BindError;
pub use host::Host;
pub(crate) use host::{NVME_CLASS, names};
pub use list::{Block, Drive};
pub use usage::Objection;
