//! The storage node: joins reactors, buffer pools, backends, the subsystem and the TCP transport
//! under one configuration file, and serves metrics and health beside them.
#![forbid(unsafe_code)]

pub mod config;
pub mod logging;
pub mod metrics;
pub mod notify;
pub mod signals;
