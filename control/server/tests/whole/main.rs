//! The whole server in process, over a simulated store and with agents of memory: what users ask for
//! reaches the nodes, what nodes do reaches the users, and leaders come and go.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where it must not go on"
)]

mod agent;
mod agents;
mod force;
mod leaders;
mod lives;
mod quota;
mod scale;
mod world;
