//! The meaning of commands: subsystems, controllers, namespaces, queues, admin and I/O commands,
//! discovery. Nothing here moves a byte over a wire or to a medium, knows a clock or a thread: time,
//! memory and the way to other reactors are handed in.
//!
//! A [`Target`] is shared by all threads and changed at run time. Each connection has a [`Session`]
//! on its own reactor, which the transport drives through the seam (`penstock_seam::Handler`).
//!
//! # Why the seam fits what follows
//!
//! The seam is three things: a capsule and its reply, a payload's lease, and the `Link` of one
//! command. A lease is a counted handle on memory that knows its owner and its kind. Nowhere does
//! this crate look at a payload's bytes on the way of a read or write; it only decides whose memory
//! is used, in this order: the host's own (`Link::host_memory`), the device's (`BlockQueue::lend`),
//! the reactor's pool.
//!
//! ## A payload's way: who owns it, where it may live, who frees it
//!
//! | step | owner | where it may live |
//! |---|---|---|
//! | validated | nobody | - |
//! | memory chosen | the command's future | host (guest), device, NVMe controller, pool |
//! | the host's data comes in | the transport (`Link::receive` takes the lease, gives it back) | same |
//! | the device works | the block request (`Request::payload`) | same |
//! | outcome | the command's future (`Outcome::payload`) | same |
//! | reply | the transport, until the wire or the NIC has taken the bytes | same |
//!
//! There is one owner at each step and the lease moves; a further handle is counted. When a
//! connection dies, the futures of its commands are dropped. What they own goes back to its
//! `LeaseOwner` at once; what the transport or a device still works on is freed when *it* ends: a
//! dropped `Ticket` abandons an outcome, never memory. A write is also followed to its end
//! (`namespace::DeviceOp`): the same host's next controller becomes ready only when the writes of
//! its dead connections are over, so that an old write cannot land on a newer one.
//!
//! ## RDMA
//!
//! Keyed SGLs are decoded in `penstock-nvme`; the transport finds address, length and key in the
//! same 64 bytes this crate reads the command from, and tells `Command::data_len`. `Link::receive`
//! is then an RDMA READ into the lease (or a copy of in-capsule data), a reply's payload an RDMA
//! WRITE before the response capsule: one-sided moves are no different from here. For payloads in
//! controller memory, `BlockQueue::lend` answers with a lease of the drive's CMB
//! (`MemoryKind::Controller`) whose owner knows the memory region; the transport reads the key off
//! the owner of the run. The NIC holds the lease until its completion, so the CMB's run is free no
//! earlier, also when the queue pair was torn down in between. Needing a private payload (digests)
//! does not arise.
//!
//! ## vhost-user-blk
//!
//! There is no capsule on that wire: the front end makes one, as every read, write, flush, discard
//! and write-zeroes request has an NVMe twin, and the reply's status becomes the request's. Payload
//! is `Link::host_memory`: a `Payload` of several runs (descriptor chains are scattered), of kind
//! `Guest`, owned by the mapping of the guest's memory. Neither a pool nor `receive` takes part. The
//! mapping lives until its last lease is dropped, also when the guest is gone: a device that still
//! writes into it writes into memory that is still mapped.
//!
//! ## NVMe queue pairs polled by the reactor, and block layers
//!
//! A backend with a queue pair on each reactor is a `BlockQueue` opened there; `submit` rings the
//! doorbell at the end of the round, its poller resolves tickets. It never leaves the reactor, so a
//! ticket costs no atomic. Layers (stripe, mirror, erasure code, checksum) are block devices over
//! block devices: they split a request by slicing its lease, hold it until every part has ended, and
//! give it back in their outcome; `lend` passes through where a range lies on one device whole and
//! answers `None` where not. A layer that looks at bytes (a checksum) does so on a lease it was
//! given. Errors come up as `BlockError` and become status in one place ([`status`]).
//!
//! ## What keeps it fast
//!
//! A command that succeeds takes no lock, allocates nothing, and executes no atomic read-modify-write:
//! the namespace table is cached for each queue behind one version number, counters have one writer
//! each, and the fused pair's exclusion is paid for by the pair (see `fence`).
#![forbid(unsafe_code)]

mod admin;
mod controller;
#[cfg(test)]
mod cross_thread_tests;
mod discovery;
#[cfg(test)]
mod discovery_tests;
mod error_log;
mod event;
mod fabrics;
#[cfg(test)]
mod fakes;
mod fence;
mod io;
mod local;
pub mod metrics;
mod namespace;
#[cfg(test)]
mod random_tests;
mod refusal;
mod session;
mod state;
pub mod status;
mod subsystem;
mod target;
#[cfg(test)]
mod testing;

pub use local::{Job, Runner};
pub use namespace::{Namespace, NamespaceConfig};
pub use session::Session;
pub use state::State;
pub use subsystem::{ConfigError, SubsystemConfig};
pub use target::{
    Clock, ControllerSnapshot, NamespaceSnapshot, RemotePort, SessionContext, Snapshot, Target,
    TargetConfig,
};
