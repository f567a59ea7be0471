//! What a reactor needs to know, and what it needs from the kernel.

use std::io;

/// What a reactor with nothing to do does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PollMode {
    /// Keeps polling: lowest latency, a whole core.
    Busy,
    /// Sleeps in the kernel after `idle_us` microseconds without work.
    Adaptive {
        /// Microseconds without work before the first sleep.
        idle_us: u32,
    },
}

/// How a reactor is made.
#[derive(Clone, Debug)]
pub struct ReactorConfig {
    /// Number of the reactor, unique in the process, below 4096.
    pub id: u32,
    /// CPU to pin to; `None` leaves it to the scheduler.
    pub core: Option<usize>,
    /// What to do when idle.
    pub poll: PollMode,
    /// Submission queue entries, a power of two.
    pub ring_entries: u32,
    /// Number of shared receive buffers, a power of two. Only as many are touched as are needed.
    pub recv_buffers: u16,
    /// Size of a shared receive buffer in bytes.
    pub recv_buffer_bytes: u32,
    /// The NUMA node to take receive buffers from while it has any; `None` leaves it to the kernel,
    /// which takes the node of the core that first touches them.
    pub numa_node: Option<u32>,
    /// A round longer than this is reported with the name of what ran, in milliseconds.
    pub stall_threshold_ms: u32,
}

impl Default for ReactorConfig {
    fn default() -> ReactorConfig {
        ReactorConfig {
            id: 0,
            core: None,
            poll: PollMode::Adaptive { idle_us: 50 },
            ring_entries: 1024,
            recv_buffers: 256,
            recv_buffer_bytes: 64 * 1024,
            numa_node: None,
            stall_threshold_ms: 100,
        }
    }
}

/// Why a reactor did not start.
#[derive(Debug, thiserror::Error)]
pub enum ReactorError {
    /// The kernel is too old.
    #[error(
        "kernel {found} is too old: io_uring with deferred task run needs Linux 6.1 or newer; boot a newer kernel (Debian 12 has 6.1)"
    )]
    KernelTooOld {
        /// What `uname` says.
        found: String,
    },
    /// io_uring is switched off.
    #[error(
        "io_uring is disabled on this machine (kernel.io_uring_disabled = {value}); set it with: sysctl -w kernel.io_uring_disabled=0"
    )]
    IoUringDisabled {
        /// The sysctl's value.
        value: String,
    },
    /// io_uring cannot be set up.
    #[error(
        "io_uring cannot be set up for reactor {id}: {source}; a container's seccomp profile may forbid it, or a memlock limit is too small (ulimit -l)"
    )]
    Ring {
        /// The reactor.
        id: u32,
        /// What the kernel said.
        source: io::Error,
    },
    /// The thread cannot be pinned.
    #[error(
        "reactor {id} cannot be pinned to core {core}: {source}; name a core that is online and allowed (see /proc/self/status, Cpus_allowed_list)"
    )]
    Pin {
        /// The reactor.
        id: u32,
        /// The core asked for.
        core: usize,
        /// What the kernel said.
        source: io::Error,
    },
    /// The thread cannot be made.
    #[error("the thread of reactor {id} cannot be started: {source}")]
    Thread {
        /// The reactor.
        id: u32,
        /// What the system said.
        source: io::Error,
    },
}

/// Whether this kernel can run reactors.
///
/// # Errors
/// [`ReactorError::KernelTooOld`] or [`ReactorError::IoUringDisabled`], each with the remedy.
pub fn check_kernel() -> Result<(), ReactorError> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    check_release(release.trim())?;
    let value = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled")
        .unwrap_or_else(|_| "0".into());
    check_io_uring_sysctl(value.trim(), effective_uid_is_root())
}

fn check_release(release: &str) -> Result<(), ReactorError> {
    let mut parts = release
        .split(|c: char| !c.is_ascii_digit())
        .map_while(|p| p.parse::<u32>().ok());
    match (parts.next(), parts.next()) {
        (Some(major), Some(minor)) if (major, minor) < (6, 1) => Err(ReactorError::KernelTooOld {
            found: release.to_owned(),
        }),
        // What does not parse is left for the ring's own set-up to accept or refuse.
        _ => Ok(()),
    }
}

/// 0 allows everybody, 1 only privileged processes or members of a group, 2 nobody.
fn check_io_uring_sysctl(value: &str, root: bool) -> Result<(), ReactorError> {
    match value {
        "2" => Err(ReactorError::IoUringDisabled {
            value: value.to_owned(),
        }),
        "1" if !root => Err(ReactorError::IoUringDisabled {
            value: value.to_owned(),
        }),
        _ => Ok(()),
    }
}

fn effective_uid_is_root() -> bool {
    // SAFETY: geteuid has no precondition and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_kernels_are_refused_by_name() {
        for old in ["5.10.0-28-amd64", "6.0.12", "4.19.1"] {
            let said = check_release(old).expect_err(old).to_string();
            assert!(said.contains(old) && said.contains("6.1"), "{said}");
        }
        for fine in ["6.1.0-31-amd64", "6.18.44-fc", "7.2.0"] {
            assert!(check_release(fine).is_ok(), "{fine}");
        }
    }

    #[test]
    fn a_disabled_ring_is_refused_with_the_sysctl() {
        assert!(check_io_uring_sysctl("0", false).is_ok());
        assert!(check_io_uring_sysctl("1", true).is_ok());
        for (value, root) in [("1", false), ("2", true)] {
            let said = check_io_uring_sysctl(value, root)
                .expect_err(value)
                .to_string();
            assert!(
                said.contains("sysctl -w kernel.io_uring_disabled=0"),
                "{said}"
            );
        }
    }
}
