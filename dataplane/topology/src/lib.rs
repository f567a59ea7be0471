//! What the machine is made of, who should run where on it, and where memory really is.
//!
//! - [`Topology`] is read once through hwloc: NUMA nodes with their memory and distances, cores, and the
//!   PCI devices that storage is about.
//! - [`place()`] chooses cores for reactors: a pure function of the topology and of what is to be served.
//! - [`Residence`] is the kernel's own account of which node each page of this process lies on.
//!
//! Only control threads come here: hwloc takes milliseconds and reads half of sysfs, and the account
//! makes the kernel walk the page tables. A reactor does neither, which is why this is a crate of its
//! own and no part of `reactor`.
#![forbid(unsafe_code)]

mod machine;
mod place;
mod read;
mod residence;

pub use machine::{Core, NumaNode, PciDevice, PciKind, Topology};
pub use place::{Needs, Placement, Reach, Seat, place};
pub use read::TopologyError;
pub use residence::{Area, Residence};
