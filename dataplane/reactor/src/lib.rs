//! One thread a core: executor, timers, mailboxes, io_uring, sockets and files.
//!
//! A reactor is pinned to its core and owns one io_uring (single issuer, deferred task run: NVMe
//! transports and file backends need kernel 6.1 or newer for it). Each round it
//!
//! 1. runs what other threads put into its mailbox,
//! 2. hands out completions (received bytes go straight to the connection that owns them),
//! 3. polls the devices that no completion of the kernel tells of, then the tasks that were woken,
//! 4. calls the round-end hooks, where connections flush everything they have ready in one send,
//! 5. enters the kernel once, only if there is something to submit or the kernel has work for us.
//!
//! With [`PollMode::Adaptive`] a reactor that finds nothing to do for a while sleeps in step 5, also
//! while a device works for it, if the device has an event that wakes the reactor.
//!
//! A pinned reactor's memory comes from its core's NUMA node: the ring because the kernel allocates it
//! on the thread that makes it, all else because a page comes from the node of the core that first
//! touches it; receive buffers are bound there on top ([`ReactorConfig::numa_node`]).
//!
//! Everything but [`ReactorHandle`], [`Socket`] and wakers belongs to one reactor thread and is not
//! `Send`. All memory the kernel works on is owned by the operation until its completion, so the
//! public interface is safe; the `unsafe` of this crate is the ring itself.

mod batch;
mod clock;
mod config;
mod core;
mod executor;
mod file;
mod handle;
mod listener;
mod mailbox;
mod poller;
mod recv_buffers;
mod ring;
mod stall;
mod stats;
mod stream;
mod timer;

pub use batch::SendBatch;
pub use clock::{Ticks, now, ticks_per_second, ticks_to_ns};
pub use config::{PollMode, ReactorConfig, ReactorError, check_kernel};
pub use core::{RoundEnd, at_round_end, current, current_id, receive_memory, run_now, spawn};
pub use executor::{TaskId, cancel};
pub use file::{File, FileOp, FileSink};
pub use handle::ReactorHandle;
pub use listener::{AcceptSink, ListenerGuard, Socket, TcpListener};
pub use mailbox::MailboxFull;
pub use poller::{Polled, Poller, PollerGuard, add_poller, add_poller_with_event};
pub use recv_buffers::RecvChunk;
pub use stats::{ReactorStats, StatsSnapshot};
pub use stream::{Stream, StreamSink};
pub use timer::{Sleep, sleep};
