//! The NVMe specifications as types: commands, completions, registers, identify data, log pages,
//! features, Fabrics capsules and NVMe/TCP PDUs. Bytes only: nothing here does I/O, keeps state of
//! a connection or knows what a namespace holds.
//!
//! Revisions: NVM Express Base 2.1 ("Base"), NVM Command Set 1.1 ("NVM"), NVMe/TCP Transport 1.1
//! ("TCP"), NVMe over RDMA Transport 1.1 ("RDMA").
//!
//! Wire structures are made of unaligned little-endian fields, so that one may be laid over any
//! bytes with [`FromBytes::ref_from_bytes`] and written out with [`IntoBytes::as_bytes`]; size and
//! offsets are asserted right beside each. 0's-based counts of the wire are decoded once, in the
//! accessors and in [`command`]: everything these return counts from one.
#![forbid(unsafe_code)]

#[macro_use]
mod wire;
#[macro_use]
pub mod register;

pub mod command;
pub mod event;
pub mod fabrics;
pub mod feature;
pub mod identify;
pub mod log;
pub mod nqn;
pub mod opcode;
pub mod pcie;
pub mod sgl;
pub mod sqe;
pub mod status;
pub mod tcp;

pub use opcode::{AdminOpcode, DataDirection, FabricsType, IoOpcode};
pub use sgl::SglDescriptor;
pub use sqe::{Cqe, Sqe};
pub use status::Status;
pub use wire::{Le16, Le32, Le64, Le128, UnknownValue, ascii_field, nul_terminated};
pub use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};
