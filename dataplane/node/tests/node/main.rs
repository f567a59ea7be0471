//! The node as a process: started, served from, reloaded, stopped, killed; and refused.
#![forbid(unsafe_code)]
#![allow(clippy::expect_used, reason = "a test that cannot go on fails")]

mod daemon;
mod host;
mod quiet;
mod refusals;
mod reload;
mod serving;
mod stopping;
