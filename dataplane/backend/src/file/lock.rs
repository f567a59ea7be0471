//! One writer: locks on files, and who holds one.

use std::fs::{File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::OpenError;

/// Locks the whole file for as long as it (or a duplicate) is open: against everybody, or only
/// against writers where `shared`.
pub(super) fn lock(file: &File, path: &Path, shared: bool) -> Result<(), OpenError> {
    let result = if shared {
        file.try_lock_shared()
    } else {
        file.try_lock()
    };
    match result {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked {
            path: path.to_owned(),
            pid: holder(file),
        }),
        Err(TryLockError::Error(source)) => Err(OpenError::Io {
            path: path.to_owned(),
            what: "lock it",
            source,
        }),
    }
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
