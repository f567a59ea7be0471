//! NVMe controllers driven from user space: registers, queues and memory of a drive in this
//! process, with no kernel on the way of a command.
mod bar;
pub mod check;
mod cmb;
mod controller;
mod dma;
mod io;
mod io_queue;
mod memory;
pub mod pci;
mod queue;
#[cfg(feature = "soft")]
pub mod soft;
pub mod vfio;

pub use bar::Bar;
pub use cmb::{
    CmbAbilities, CmbError, CmbLayout, ControllerMapping, ControllerMemory, ControllerMemoryPool,
};
pub use controller::{
    Controller, ControllerConfig, ControllerError, Format, Identity, Namespace, Notice, Pace,
    PmrLayout, Sleeping,
};
pub use dma::{DmaError, Keeper, Mapper, Region, Regions};
pub use io::{Buffers, Done, Io, IoError, Verb};
pub use io_queue::{Answer, IoQueue};
pub use memory::DeviceMemory;
pub use queue::{
    Limits, Link, Queue, QueueParts, QueueStats, Stage, completion_bytes, memory_bytes,
    submission_bytes,
};
