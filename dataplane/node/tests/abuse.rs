//! A hostile peer suite against a running node: whatever a host sends, or fails to send, the node
//! answers as the specifications say, names the host in its log, keeps serving the others, and is
//! afterwards as small as before.
//!
//! Random parts print their seed; `PENSTOCK_ABUSE_SEED` repeats one.
#![forbid(unsafe_code)]
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]
#![allow(
    clippy::print_stdout,
    reason = "seeds and figures, for who reads a failure"
)]

#[allow(dead_code, reason = "shared with the node's other tests")]
#[path = "node/daemon.rs"]
mod daemon;
#[allow(dead_code, reason = "shared with the node's other tests")]
#[path = "node/host.rs"]
mod host;

#[path = "abuse/arena.rs"]
mod arena;
#[path = "abuse/churn.rs"]
mod churn;
#[path = "abuse/commands.rs"]
mod commands;
#[path = "abuse/drops.rs"]
mod drops;
#[path = "abuse/noise.rs"]
mod noise;
#[path = "abuse/pdus.rs"]
mod pdus;
#[path = "abuse/peer.rs"]
mod peer;
