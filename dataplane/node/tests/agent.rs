//! The node under control: a real process, a control of the test's own, hosts with I/O.
#![forbid(unsafe_code)]
#![allow(clippy::expect_used, reason = "a test that cannot go on fails")]

#[path = "agent/certificates.rs"]
mod certificates;
#[path = "agent/control.rs"]
mod control;
#[allow(dead_code, reason = "other tests use the rest")]
#[path = "node/daemon.rs"]
mod daemon;
#[allow(dead_code, reason = "other tests use the rest")]
#[path = "node/host.rs"]
mod host;
#[path = "agent/life.rs"]
mod life;
#[path = "agent/memory.rs"]
mod memory;
#[path = "agent/refusals.rs"]
mod refusals;
#[path = "agent/wanted.rs"]
mod wanted;
