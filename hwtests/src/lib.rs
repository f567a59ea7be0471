//! The machine lab: stock Linux hosts, in QEMU, against a Penstock node on this machine.
//!
//! A test is a boot: it starts its own node on free ports of 127.0.0.1 with its files in a temporary
//! directory, boots Debian's kernel with a small initramfs under QEMU's translator (no KVM needed),
//! sends shell text into the guest over a virtio port, and looks at what comes back. From the guest
//! the node is at 10.0.2.2.
//!
//! ```text
//! cargo build -p penstock-node
//! cargo run -p penstock-hwtests -- list
//! cargo run -p penstock-hwtests -- run connect
//! cargo run -p penstock-hwtests -- run-all
//! cargo run -p penstock-hwtests -- shell
//! cargo run -p penstock-hwtests -- outage
//! ```
//!
//! The outages need no guest: see [`outage`].
//!
//! QEMU, the kernel and the guest's tools are Debian packages, fetched from the mirror that the
//! machine's own apt sources name and unpacked (never installed) under `PENSTOCK_LAB_CACHE`, else
//! `XDG_CACHE_HOME/penstock/lab`, else `~/.cache/penstock/lab`; about 700 MB. Neither root nor a
//! change of the machine is needed. The private apt trusts the keys that the machine trusts.
//!
//! Each test leaves one log, `logs/NAME.log` in the cache: the guest's console, every command with
//! its answer, and the node's log, in order of time. A failing test shows its end.
//!
//! - `PENSTOCK_NODE` names the node's program; else the one beside this program is used.
//! - `PENSTOCK_LAB_TARGET=PORT,NQN` tests a target that already runs on this machine.

#![forbid(unsafe_code)]

pub mod apt;
pub mod base64;
pub mod bench;
pub mod cache;
pub mod channel;
pub mod cluster;
pub mod cpio;
pub mod error;
pub mod etcd;
pub mod guest;
pub mod hardware;
pub mod http;
pub mod initramfs;
pub mod kernel;
pub mod lab;
pub mod machine;
pub mod monitor;
pub mod node;
pub mod outage;
pub mod process;
pub mod python;
pub mod root;
pub mod runner;
pub mod scenarios;
pub mod sources;
mod spdk;
pub mod transcript;
