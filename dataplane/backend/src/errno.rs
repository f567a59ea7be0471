//! The one table from what the kernel says to what the block layer says.

use penstock_block::BlockError;

/// What was being done when it went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doing {
    /// Getting data.
    Reading,
    /// Writing, zeroing, flushing.
    Writing,
}

/// What an error number of a file operation means. The block layer of Linux turns a drive's status
/// into these: ENODATA is a medium error, EILSEQ a failed protection check, EREMOTEIO a target
/// failure, ENOLINK a lost path. File systems say EUCLEAN and EBADMSG for damaged structures.
pub(crate) fn block_error(errno: i32, doing: Doing) -> BlockError {
    match errno {
        libc::EIO | libc::ENODATA | libc::EREMOTEIO => match doing {
            Doing::Reading => BlockError::ReadMedia,
            Doing::Writing => BlockError::WriteMedia,
        },
        libc::EUCLEAN | libc::EBADMSG | libc::EILSEQ => BlockError::Integrity,
        libc::ENOSPC | libc::EDQUOT | libc::EFBIG => BlockError::CapacityExceeded,
        libc::EROFS | libc::EPERM | libc::EACCES if doing == Doing::Writing => BlockError::ReadOnly,
        libc::ENODEV | libc::ENXIO | libc::ENOMEDIUM | libc::ESHUTDOWN | libc::ESTALE => {
            BlockError::Gone
        }
        libc::ENOMEM | libc::ENOBUFS | libc::EMFILE | libc::ENFILE => BlockError::NoResources,
        libc::EAGAIN | libc::EINTR | libc::EBUSY | libc::ENOLINK => BlockError::NotReady,
        libc::ETIMEDOUT | libc::ETIME => BlockError::TimedOut,
        libc::ECANCELED => BlockError::Aborted,
        libc::EOPNOTSUPP | libc::ENOSYS | libc::ENOTTY => BlockError::Unsupported,
        _ => BlockError::Internal,
    }
}

/// Whether the same call may well work when made again at once.
pub(crate) fn is_transient(errno: i32) -> bool {
    matches!(errno, libc::EINTR | libc::EAGAIN)
}

/// Whether the file system or device does not know this kind of call at all.
pub(crate) fn is_unsupported(errno: i32) -> bool {
    matches!(errno, libc::EOPNOTSUPP | libc::ENOSYS | libc::ENOTTY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_table() {
        use BlockError as E;
        let table = [
            (libc::EIO, E::ReadMedia, E::WriteMedia),
            (libc::ENODATA, E::ReadMedia, E::WriteMedia),
            (libc::EREMOTEIO, E::ReadMedia, E::WriteMedia),
            (libc::EUCLEAN, E::Integrity, E::Integrity),
            (libc::EBADMSG, E::Integrity, E::Integrity),
            (libc::EILSEQ, E::Integrity, E::Integrity),
            (libc::ENOSPC, E::CapacityExceeded, E::CapacityExceeded),
            (libc::EDQUOT, E::CapacityExceeded, E::CapacityExceeded),
            (libc::EFBIG, E::CapacityExceeded, E::CapacityExceeded),
            (libc::EROFS, E::Internal, E::ReadOnly),
            (libc::EPERM, E::Internal, E::ReadOnly),
            (libc::EACCES, E::Internal, E::ReadOnly),
            (libc::ENODEV, E::Gone, E::Gone),
            (libc::ENXIO, E::Gone, E::Gone),
            (libc::ENOMEDIUM, E::Gone, E::Gone),
            (libc::ESHUTDOWN, E::Gone, E::Gone),
            (libc::ESTALE, E::Gone, E::Gone),
            (libc::ENOMEM, E::NoResources, E::NoResources),
            (libc::ENOBUFS, E::NoResources, E::NoResources),
            (libc::EMFILE, E::NoResources, E::NoResources),
            (libc::ENFILE, E::NoResources, E::NoResources),
            (libc::EAGAIN, E::NotReady, E::NotReady),
            (libc::EINTR, E::NotReady, E::NotReady),
            (libc::EBUSY, E::NotReady, E::NotReady),
            (libc::ENOLINK, E::NotReady, E::NotReady),
            (libc::ETIMEDOUT, E::TimedOut, E::TimedOut),
            (libc::ETIME, E::TimedOut, E::TimedOut),
            (libc::ECANCELED, E::Aborted, E::Aborted),
            (libc::EOPNOTSUPP, E::Unsupported, E::Unsupported),
            (libc::ENOSYS, E::Unsupported, E::Unsupported),
            (libc::ENOTTY, E::Unsupported, E::Unsupported),
            (libc::EINVAL, E::Internal, E::Internal),
            (libc::EFAULT, E::Internal, E::Internal),
            (libc::EBADF, E::Internal, E::Internal),
            (0, E::Internal, E::Internal),
            (-1, E::Internal, E::Internal),
        ];
        for (errno, reading, writing) in table {
            assert_eq!(block_error(errno, Doing::Reading), reading, "errno {errno}");
            assert_eq!(block_error(errno, Doing::Writing), writing, "errno {errno}");
        }
    }
}
