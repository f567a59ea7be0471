//! One writer: locks on files, and who holds one.

use std::fs::{File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::OpenError;

/// How long the kernel may take to clean up after a process that was killed with I/O in flight: its
/// files stay open, and locked, that long.
const CLEAN_UP_MAX: Duration = Duration::from_secs(3);
const CLEAN_UP_STEP: Duration = Duration::from_millis(10);

/// Calls `attempt` until it answers something else than `None`, or the time to clean up is over.
pub(super) fn patiently<T>(mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
    let give_up = Instant::now() + CLEAN_UP_MAX;
    loop {
        let answer = attempt();
        if answer.is_some() || Instant::now() >= give_up {
            return answer;
        }
        std::thread::sleep(CLEAN_UP_STEP);
    }
}

/// Locks the whole file for as long as it (or a duplicate) is open: against everybody, or only
/// against writers where `shared`. Waits a little where the holder is dead already.
pub(super) fn lock(file: &File, path: &Path, shared: bool) -> Result<(), OpenError> {
    let locked = |pid| OpenError::Locked {
        path: path.to_owned(),
        pid,
    };
    let attempt = || {
        let result = if shared {
            file.try_lock_shared()
        } else {
            file.try_lock()
        };
        match result {
            Ok(()) => Some(Ok(())),
            Err(TryLockError::WouldBlock) => match holder(file) {
                Some(pid) if is_alive(pid) => Some(Err(locked(Some(pid)))),
                _ => None,
            },
            Err(TryLockError::Error(source)) => Some(Err(OpenError::Io {
                path: path.to_owned(),
                what: "lock it",
                source,
            })),
        }
    };
    patiently(attempt).unwrap_or_else(|| Err(locked(holder(file))))
}

/// Whether the process runs; one that is being cleaned up (a zombie) does not.
fn is_alive(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return false;
    };
    // The name, in parentheses, may itself hold any of them.
    let state = stat
        .rsplit(')')
        .next()
        .and_then(|rest| rest.split_whitespace().next());
    !matches!(state, Some("Z" | "X"))
}

fn holder(file: &File) -> Option<u32> {
    let metadata = file.metadata().ok()?;
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    find_holder(&locks, metadata.dev(), metadata.ino())
}

/// The process of the first whole-file lock on the file, in the format of proc_locks(5):
/// `1: FLOCK  ADVISORY  WRITE 712 08:01:917506 0 EOF`.
fn find_holder(locks: &str, device: u64, inode: u64) -> Option<u32> {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let file = format!("{major:02x}:{minor:02x}:{inode}");
    locks.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        // A request that waits has an arrow before its kind.
        let held = fields.next()? == "FLOCK";
        let (_mode, _access) = (fields.next()?, fields.next()?);
        let pid = fields.next()?.parse().ok()?;
        // A process of another pid namespace shows as 0.
        (held && fields.next()? == file && pid > 0).then_some(pid)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_living_are_told_from_the_dead() {
        assert!(is_alive(std::process::id()));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let ended = patiently(|| (!is_alive(child.id())).then_some(()));
        assert_eq!(ended, Some(()), "a zombie is not alive");
        child.wait().unwrap();
        assert!(!is_alive(child.id()));
    }

    #[test]
    fn the_holder_is_found_by_device_and_inode() {
        let locks = "\
1: POSIX  ADVISORY  WRITE 11 fe:00:77 0 EOF
2: OFDLCK ADVISORY  WRITE -1 fe:00:77 0 EOF
3: FLOCK  ADVISORY  WRITE 12 fe:01:77 0 EOF
4: FLOCK  ADVISORY  WRITE 13 fe:00:78 0 EOF
5: -> FLOCK  ADVISORY  WRITE 14 fe:00:77 0 EOF
garbage
6: FLOCK  ADVISORY  READ 15 fe:00:77 0 EOF
";
        let device = rustix::fs::makedev(0xfe, 0);
        assert_eq!(find_holder(locks, device, 77), Some(15));
        assert_eq!(find_holder(locks, device, 79), None);
        assert_eq!(
            find_holder("7: FLOCK ADVISORY WRITE 0 fe:00:77 0 EOF", device, 77),
            None
        );
    }
}
