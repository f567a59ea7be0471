//! The storage node: joins reactors, buffer pools, backends, the subsystem and the TCP transport
//! under one configuration file, and serves metrics and health beside them.
//!
//! - [`config`] reads and checks the file; every finding has its line and its remedy.
//! - [`node`] opens and binds everything, then starts it, or undoes what it did; [`reload`] goes
//!   over to a changed file; [`run`] is the daemon around both.
//! - [`reactors`] is what lives on each reactor's thread. A listener accepts on one reactor and hands
//!   each socket to the reactor with the fewest connections, where it stays for life.
//! - [`survey`] finds out where drives, interfaces and cores are, and places the reactors; [`memory`]
//!   checks against the kernel's account that their memory is there too.
//! - [`agent`] does what control wants and remembers it, with or without control.
//! - [`managed`] is what control has on the node beside the file: devices, volumes, what is served.
//! - [`gate`] lets the node finish what it has begun before it goes.
//! - [`metrics`] and [`notify`] tell others how it goes, from ordinary threads.
#![forbid(unsafe_code)]

pub mod agent;
pub mod config;
pub mod device;
pub mod gate;
pub mod logging;
pub mod managed;
pub mod memory;
pub mod metrics;
pub mod node;
pub mod notify;
pub mod reactors;
pub mod reload;
pub mod run;
pub mod signals;
pub mod survey;
pub mod traffic;
