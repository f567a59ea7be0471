//! The node as a process: started, served from, reloaded, stopped, killed; and refused.
#![forbid(unsafe_code)]

mod daemon;
mod host;
mod quiet;
mod refusals;
mod reload;
mod serving;
mod stopping;
