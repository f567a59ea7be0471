//! The driver against a controller in software: every command, every way of describing memory,
//! resets, late commands, controller memory.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation
)]

mod io;
mod rig;
mod start;
mod trouble;
