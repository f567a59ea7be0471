//! What control and the node's agent decide, as pure functions: where a volume goes, what a node is
//! told, what a report means, and what the agent does next.
//!
//! No I/O, no clock, no randomness: time is an argument, and the same input gives the same answer,
//! so that tables and simulations can test it.
#![forbid(unsafe_code)]

pub mod agent;
pub mod desired;
pub mod observe;
pub mod place;
