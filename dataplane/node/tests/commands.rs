//! Every command the node promises, end to end: the real process on one side, our own initiator on
//! the other, real sockets between.
#![forbid(unsafe_code)]
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]
#![allow(
    clippy::print_stdout,
    reason = "a test that this machine cannot run says why"
)]

#[allow(dead_code, reason = "shared with the node's other tests")]
#[path = "node/daemon.rs"]
mod daemon;
#[allow(dead_code, reason = "shared with the node's other tests")]
#[path = "node/host.rs"]
mod host;

#[path = "commands/abort.rs"]
mod abort;
#[path = "commands/alive.rs"]
mod alive;
#[path = "commands/blocks.rs"]
mod blocks;
#[path = "commands/discovery.rs"]
mod discovery;
#[path = "commands/features.rs"]
mod features;
#[path = "commands/fused.rs"]
mod fused;
#[path = "commands/identify.rs"]
mod identify;
#[path = "commands/logs.rs"]
mod logs;
#[path = "commands/media.rs"]
mod media;
#[path = "commands/queues.rs"]
mod queues;
#[path = "commands/refused.rs"]
mod refused;
#[path = "commands/rig.rs"]
mod rig;
