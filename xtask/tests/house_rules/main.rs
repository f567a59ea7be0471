//! The house rules, kept by tests: who may use whom, where `unsafe` may stand, how long a file may
//! be, which calls are banned, what lies at the top level.

#![forbid(unsafe_code)]
#![allow(clippy::expect_used, reason = "a test that cannot go on fails")]

mod dependencies;
mod metrics;
mod sources;
mod text;
mod tree;
