//! What control does with a node at run time, against a node in this process and our initiator.
#![forbid(unsafe_code)]
#![allow(clippy::expect_used, reason = "a test that cannot go on fails")]

#[path = "managed/conflicts.rs"]
mod conflicts;
#[path = "managed/discovery.rs"]
mod discovery;
#[path = "managed/rig.rs"]
mod rig;
#[path = "managed/volumes.rs"]
mod volumes;
