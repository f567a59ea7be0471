//! Payload memory: who holds it, where it lives, who gets it back.
//!
//! A [`Lease`] is a counted, reactor-local handle on a run of memory. Cloning or slicing one adds a
//! holder; the memory goes back to its [`LeaseOwner`] when the last holder is dropped. A command's
//! lease moves from the transport to the block layer and back; it is never copied to move it.
//!
//! The memory may be a pinned pool of this node ([`Pool`]), lent by a device (a memory namespace, or
//! an NVMe controller memory buffer), or a guest's. [`Lease::kind`] says which.

mod buddy;
mod copy;
mod lease;
mod line;
mod mapping;
mod pages;
mod pool;
mod shared;

pub use lease::{Lease, LeaseOwner, MemoryKind, Payload};
pub use pages::Pages;
pub use pool::{Pool, PoolConfig, PoolError, PoolMemory, PoolStats, pools_of_this_thread};
pub use shared::{Lender, SharedMemory, SharedMemoryConfig};
