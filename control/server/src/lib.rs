//! The control server: an API over a store, a leader that decides, and streams to the nodes' agents.
//!
//! Any number of instances serve one store and hold nothing that is not in it. One of them is the
//! leader and decides where things go; each holds the streams of some agents and writes what they
//! see. With all of them dead, nodes serve on.
#![forbid(unsafe_code)]

pub mod agents;
pub mod audit;
pub mod calls;
pub mod config;
pub mod control;
pub mod election;
pub mod ending;
pub mod engine;
pub mod env;
pub mod fault;
pub mod http;
pub mod identity;
pub mod keys;
pub mod lease;
pub mod logging;
pub mod metered;
pub mod metrics;
pub mod mirror;
pub mod ops;
pub mod quota;
pub mod repo;
pub mod schema;
pub mod serve;
pub mod services;
pub mod shared_lease;
pub mod signal;
pub mod tls;
pub mod token;
pub mod validate;
pub mod watch;
