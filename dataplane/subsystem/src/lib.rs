//! The meaning of commands. (header follows)
#![forbid(unsafe_code)]

mod admin;
mod controller;
mod discovery;
#[cfg(test)]
mod discovery_tests;
mod error_log;
mod event;
mod fabrics;
#[cfg(test)]
mod fakes;
mod fence;
mod io;
mod local;
pub mod metrics;
mod namespace;
#[cfg(test)]
mod random_tests;
mod refusal;
mod session;
mod state;
pub mod status;
mod subsystem;
mod target;
#[cfg(test)]
mod testing;

pub use local::{Job, Runner};
pub use namespace::NamespaceConfig;
pub use session::Session;
pub use state::State;
pub use subsystem::{ConfigError, SubsystemConfig};
pub use target::{
    Clock, ControllerSnapshot, NamespaceSnapshot, SessionContext, Snapshot, Target, TargetConfig,
};
