//! SPDK's driver behind the same traits: for sites that run SPDK, and for drives that need it.
//!
//! SPDK brings the controller up, keeps its admin queue, makes, polls and resets the queue pairs, and
//! hears of removal. What a request is, how it is cut into commands, where the drive sees its memory,
//! which commands are late and what is sent again after a reset is this crate's [`Queue`] as ever: it
//! reaches SPDK's queue pair through a [`Wire`](crate::queue::Wire), with commands that are laid out
//! to the last address. So payload memory is registered with SPDK as it is mapped for our own driver,
//! and what is not registered or lies awkwardly is answered in the same way.
//!
//! It needs an IOMMU with 48 address bits, a drive bound to vfio-pci, and SPDK 25.09 or newer.
//! Interrupts and submission queues in controller memory it does not have.
//!
//! [`Queue`]: crate::Queue

mod controller;
mod env;
mod error;
mod mapper;
mod wire;

pub use controller::{SpdkController, SpdkQueueParts};
pub use error::SpdkError;
pub(crate) use wire::Carrier;
