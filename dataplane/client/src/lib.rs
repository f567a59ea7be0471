//! A user-space NVMe/TCP initiator on Penstock's reactor: what tools, loaders and layers over
//! remote nodes use.
//!
//! [`discover`] asks a target what it offers; [`Controller::connect`] connects a subsystem's admin
//! queue; [`IoQueue::connect`] connects I/O queue pairs, each on the reactor that calls it, from a
//! [`ControllerInfo`] that may be sent to other reactors. Commands are `async` functions:
//!
//! ```no_run
//! # use penstock_client::{ClientError, ConnectOptions, Controller, IoQueue};
//! # use penstock_buffer::Pool;
//! # use penstock_units::{Lba, Nsid, QueueId};
//! # async fn example(options: ConnectOptions, pool: Pool, nsid: Nsid) -> Result<(), ClientError> {
//! let controller = Controller::connect(&options, &pool).await?;
//! controller.request_io_queues(1).await?;
//! let queue = IoQueue::connect(controller.info(), QueueId(1), 32, &pool).await?;
//! let lease = queue.read(nsid, Lba(0), 8, pool.lease(4096).await).await?;
//! println!("first byte: {:#04x}", lease.bytes()[0]);
//! queue.disconnect().await?;
//! controller.shut_down().await
//! # }
//! ```
//!
//! In steady state a command allocates nothing: it takes a slot of its queue (or waits in line for
//! one), its capsule leaves with everything else of this round in one gather send, and received
//! payload goes straight into its lease. Time limits are per command; a command that has timed out
//! keeps its slot and its memory until the controller has answered or the connection is gone.
#![forbid(unsafe_code)]

mod admin;
mod connection;
mod controller;
mod dial;
mod discovery;
mod error;
mod execute;
mod incoming;
mod line;
mod options;
mod outgoing;
mod queue;
mod remedy;
mod slot;
mod time;

pub use admin::{LogPart, NamespaceInfo};
pub use controller::{Controller, ControllerInfo};
pub use discovery::{DiscoveryLog, DiscoveryRecord, discover};
pub use error::{ClientError, CloseReason, CommandName};
pub use options::ConnectOptions;
pub use queue::{IoQueue, Outstanding};
