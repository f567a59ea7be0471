//! Files and block devices through the ring. An operation owns its payload until it is done.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;

use io_uring::{opcode, squeue, types};
use penstock_buffer::Payload;

use crate::core;
use crate::ring::Op;

/// What to do with a file. Offsets and lengths in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileOp {
    /// Reads into the payload.
    Read {
        /// Where to start.
        offset: u64,
    },
    /// Writes the payload.
    Write {
        /// Where to start.
        offset: u64,
        /// Durable on completion (RWF_DSYNC).
        dsync: bool,
    },
    /// Makes completed writes durable.
    Fdatasync,
    /// `fallocate(2)`: punch, zero or reserve.
    Fallocate {
        /// `FALLOC_FL_*`.
        mode: i32,
        /// Where to start.
        offset: u64,
        /// How long.
        len: u64,
    },
}

/// Gets the results of file operations.
pub trait FileSink {
    /// The operation is over: bytes moved or the error, and the payload back.
    fn on_done(&self, token: u64, result: io::Result<u32>, payload: Payload);
}

/// An open file as one reactor sees it.
#[derive(Clone, Debug)]
pub struct File {
    fd: Arc<OwnedFd>,
}

/// What lives until an operation completes.
pub(crate) struct FileState {
    // Held so that the descriptor stays open under the kernel.
    _fd: Arc<OwnedFd>,
    payload: Payload,
    /// Gather list of a payload with several runs.
    pieces: Vec<libc::iovec>,
    sink: Rc<dyn FileSink>,
    token: u64,
}

impl FileState {
    pub(crate) fn finish(self, result: i32) {
        let result = match u32::try_from(result) {
            Ok(count) => Ok(count),
            Err(_) => Err(io::Error::from_raw_os_error(-result)),
        };
        self.sink.on_done(self.token, result, self.payload);
    }
}

impl File {
    /// A reactor's view of an open descriptor.
    pub fn from_fd(fd: Arc<OwnedFd>) -> File {
        File { fd }
    }

    /// Starts an operation; `sink` gets its result with `token`.
    ///
    /// # Panics
    /// Outside a reactor's thread.
    pub fn submit(&self, op: FileOp, payload: Payload, sink: Rc<dyn FileSink>, token: u64) {
        let pieces = match payload.segment_count() {
            0 | 1 => Vec::new(),
            _ => payload
                .segments()
                .map(|lease| libc::iovec {
                    iov_base: lease.as_ptr().cast(),
                    iov_len: lease.len(),
                })
                .collect(),
        };
        let state = FileState {
            _fd: Arc::clone(&self.fd),
            payload,
            pieces,
            sink,
            token,
        };
        core::with(|core| {
            let entry = self.entry(op, &state);
            let id = core.ops.insert(Op::File(state));
            // SAFETY: the slab owns payload, gather list (heap) and descriptor until completion.
            unsafe { core.ring.push(entry.user_data(id.0)) };
        });
    }

    fn entry(&self, op: FileOp, state: &FileState) -> squeue::Entry {
        let fd = types::Fd(self.fd.as_raw_fd());
        let (pointer, len) = state
            .payload
            .single()
            .map_or((std::ptr::null_mut(), 0), |lease| {
                (lease.as_ptr(), lease.len())
            });
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        let pieces = u32::try_from(state.pieces.len()).unwrap_or(u32::MAX);
        let dsync_flag = |dsync: bool| if dsync { libc::RWF_DSYNC } else { 0 };
        match op {
            FileOp::Read { offset } if pieces == 0 => {
                opcode::Read::new(fd, pointer, len).offset(offset).build()
            }
            FileOp::Read { offset } => opcode::Readv::new(fd, state.pieces.as_ptr(), pieces)
                .offset(offset)
                .build(),
            FileOp::Write { offset, dsync } if pieces == 0 => opcode::Write::new(fd, pointer, len)
                .offset(offset)
                .rw_flags(dsync_flag(dsync))
                .build(),
            FileOp::Write { offset, dsync } => {
                let pointer = state.pieces.as_ptr();
                opcode::Writev::new(fd, pointer, pieces)
                    .offset(offset)
                    .rw_flags(dsync_flag(dsync))
                    .build()
            }
            FileOp::Fdatasync => opcode::Fsync::new(fd)
                .flags(types::FsyncFlags::DATASYNC)
                .build(),
            FileOp::Fallocate { mode, offset, len } => opcode::Fallocate::new(fd, len)
                .offset(offset)
                .mode(mode)
                .build(),
        }
    }
}
