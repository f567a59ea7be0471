//! NVMe controllers driven from user space: registers, queues and memory of a drive in this
//! process, with no kernel on the way of a command.
mod bar;
mod dma;

pub use bar::Bar;
pub use dma::{DmaError, Mapper, Regions};
