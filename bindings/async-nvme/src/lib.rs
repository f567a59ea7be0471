//! NVMe controllers driven from user space: registers, queues and memory of a drive in this
//! process, with no kernel on the way of a command.
//!
//! A drive comes from the kernel through [`vfio`] ([`pci`] lists drives and binds them). One thread
//! keeps its [`Controller`]: start, events, late commands, resets, shutdown; it may wait. Every
//! reactor has a [`Queue`] of its own, or an [`IoQueue`] with an `async fn` for each command, which
//! never waits; both sides meet in a [`Link`]. What a drive may reach is in its [`Regions`]; memory
//! of the drive itself is given out by a [`ControllerMemoryPool`]. Those that use drives need of this
//! what [`Driver`] and [`QueuePair`] name. [`check`] tries all of it on a
//! drive at hand, and the feature `soft` has a controller in software for tests.
mod bar;
pub mod check;
mod cmb;
mod controller;
mod dma;
mod driver;
mod event;
mod io;
mod io_queue;
mod memory;
pub mod pci;
mod queue;
#[cfg(feature = "soft")]
pub mod soft;
#[cfg(feature = "spdk")]
pub mod spdk;
pub mod vfio;

pub use bar::Bar;
pub use cmb::{
    CmbAbilities, CmbError, CmbLayout, ControllerMapping, ControllerMemory, ControllerMemoryPool,
    DmaBufError, DmaBufExport,
};
pub use controller::{
    Controller, ControllerConfig, ControllerError, Format, Identity, Namespace, Notice, Pace,
    PmrLayout, QueueInterrupt, Sleeping,
};
pub use dma::{DmaError, Keeper, Mapper, Region, Regions};
pub use driver::{AnyQueue, Driver, DriverChoice, PairParts, QueuePair, SpdkOptions};
pub use event::Event;
pub use io::{Buffers, Done, Io, IoError, Verb};
pub use io_queue::{Answer, IoQueue};
pub use memory::DeviceMemory;
pub use queue::{
    Limits, Link, Queue, QueueParts, QueueStats, Stage, completion_bytes, memory_bytes,
    submission_bytes,
};
