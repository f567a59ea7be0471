//! The agent's state machine with a node that is only memory.
#![allow(
    clippy::expect_used,
    reason = "a test ends where it finds something unexpected"
)]

mod node;
mod property;
mod stories;
mod table;
mod unknown;
