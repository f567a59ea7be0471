//! Opening: existence, kind, lock, size, direct I/O, abilities. In that order, so that a refusal
//! leaves nothing behind.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use penstock_units::ByteCount;
use rustix::fs::FallocateFlags;

use super::{Abilities, FileConfig, FileDevice, FileKind, lock};
use crate::OpenError;

/// What direct I/O may ask for, the least first.
const ALIGNMENTS: [u32; 4] = [512, 1024, 2048, 4096];

fn io_error(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> OpenError {
    move |source| OpenError::Io {
        path: path.to_owned(),
        what,
        source,
    }
}

/// Opens as [`FileDevice::open_path`] tells.
pub(super) fn open(config: &FileConfig) -> Result<FileDevice, OpenError> {
    let path = &config.path;
    if let Some(size) = config.size_bytes {
        check_size(config, size)?;
    }
    match std::fs::metadata(path) {
        Ok(metadata) => {
            check_kind(config, &metadata)?;
            open_existing(config)
        }
        Err(e) if e.kind() == ErrorKind::NotFound => create(config),
        Err(e) => Err(io_error(path, "look at it")(e)),
    }
}

fn check_size(config: &FileConfig, size_bytes: u64) -> Result<(), OpenError> {
    match config.block_size.blocks_in(ByteCount(size_bytes)) {
        Some(1..) => Ok(()),
        _ => Err(OpenError::Size {
            name: config.path.display().to_string(),
            size_bytes,
            block_size_bytes: config.block_size.bytes(),
        }),
    }
}

fn check_kind(config: &FileConfig, metadata: &std::fs::Metadata) -> Result<(), OpenError> {
    let right = match config.kind {
        FileKind::Regular => metadata.is_file(),
        FileKind::Block => metadata.file_type().is_block_device(),
    };
    if right {
        return Ok(());
    }
    Err(OpenError::Kind {
        path: config.path.clone(),
        wanted: config.kind,
    })
}

fn options(config: &FileConfig, flags: i32) -> OpenOptions {
    // On a block device O_EXCL without O_CREAT means: nobody else exclusively, no mount.
    let exclusive = match config.kind {
        FileKind::Block if !config.read_only => libc::O_EXCL,
        _ => 0,
    };
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(!config.read_only)
        .custom_flags(flags | exclusive);
    options
}

fn create(config: &FileConfig) -> Result<FileDevice, OpenError> {
    let (path, size) = match (config.create, config.kind, config.size_bytes) {
        (true, FileKind::Regular, Some(size)) if !config.read_only => (&config.path, size),
        _ => {
            return Err(OpenError::Missing {
                path: config.path.clone(),
            });
        }
    };
    let file = options(config, 0)
        .create_new(true)
        .open(path)
        .map_err(io_error(path, "create it"))?;
    let made = lock::lock(&file, path, false)
        .and_then(|()| give_size(&file, path, size))
        // The name must survive a crash as well as the data does.
        .and_then(|()| sync_folder(path).map_err(io_error(path, "make its name durable")))
        .and_then(|()| open_locked(config, &file));
    if made.is_err() {
        // Best effort: what went wrong is in `made`.
        let _ = std::fs::remove_file(path);
    }
    made
}

fn give_size(file: &File, path: &Path, size: u64) -> Result<(), OpenError> {
    let done = file.set_len(size).and_then(|()| file.sync_all());
    done.map_err(io_error(path, "give it its size"))
}

fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    File::open(folder)?.sync_all()
}

fn open_existing(config: &FileConfig) -> Result<FileDevice, OpenError> {
    let attempt = || match options(config, 0).open(&config.path) {
        Err(e) if e.raw_os_error() == Some(libc::EBUSY) => None,
        other => Some(other.map_err(io_error(&config.path, "open it"))),
    };
    let busy = || {
        Err(OpenError::Busy {
            path: config.path.clone(),
        })
    };
    let file = lock::patiently(attempt).unwrap_or_else(busy)?;
    if config.kind == FileKind::Regular {
        lock::lock(&file, &config.path, config.read_only)?;
    }
    open_locked(config, &file)
}

/// With `plain` open (and locked): the device on a descriptor of the same open file, with O_DIRECT
/// where that works.
fn open_locked(config: &FileConfig, plain: &File) -> Result<FileDevice, OpenError> {
    let blocks = usable_blocks(plain, config)?;
    let file = plain
        .try_clone()
        .map_err(io_error(&config.path, "duplicate its descriptor"))?;
    let alignment = if config.direct {
        go_direct(config, &file)
    } else {
        1
    };
    let punch = can_punch(&file, config);
    let fd = file
        .try_clone()
        .map_err(io_error(&config.path, "duplicate its descriptor"))?;
    Ok(FileDevice {
        config: config.clone(),
        file,
        fd: Arc::new(OwnedFd::from(fd)),
        alignment,
        blocks: AtomicU64::new(blocks),
        abilities: Abilities {
            punch: AtomicBool::new(punch),
            zero_range: AtomicBool::new(true),
        },
    })
}

/// How many blocks may be used, from what the file has and the configuration asks for.
fn usable_blocks(file: &File, config: &FileConfig) -> Result<u64, OpenError> {
    let path = &config.path;
    let has = size_now(file, config.kind).map_err(io_error(path, "tell its size"))?;
    let size = config.size_bytes.unwrap_or(has);
    if size > has {
        return Err(OpenError::TooSmall {
            path: path.clone(),
            has_bytes: has,
            needs_bytes: size,
        });
    }
    match config.block_size.blocks_in(ByteCount(size)) {
        Some(blocks @ 1..) => Ok(blocks),
        _ => Err(OpenError::FileSize {
            path: path.clone(),
            has_bytes: has,
            block_size_bytes: config.block_size.bytes(),
        }),
    }
}

/// How many blocks may be used after a resize. A file that we may create we may also enlarge.
pub(super) fn resized_blocks(file: &File, config: &FileConfig) -> Result<u64, OpenError> {
    if let Some(size) = config.size_bytes {
        check_size(config, size)?;
        let has = size_now(file, config.kind).map_err(io_error(&config.path, "tell its size"))?;
        if size > has && config.create && config.kind == FileKind::Regular && !config.read_only {
            give_size(file, &config.path, size)?;
        }
    }
    usable_blocks(file, config)
}

fn size_now(mut file: &File, kind: FileKind) -> io::Result<u64> {
    match kind {
        FileKind::Regular => file.metadata().map(|metadata| metadata.len()),
        // Metadata of a block device says 0. Nobody uses the position.
        FileKind::Block => file.seek(SeekFrom::End(0)),
    }
}

/// Turns O_DIRECT on and finds out what alignment it needs; 1 where the file stays buffered.
fn go_direct(config: &FileConfig, file: &File) -> u32 {
    let set = |flags| rustix::fs::fcntl_setfl(file, flags);
    let refused = |why: String| {
        tracing::warn!(
            path = %config.path.display(),
            why,
            "direct I/O is refused; using the page cache"
        );
        1
    };
    let flags = match rustix::fs::fcntl_getfl(file) {
        Ok(flags) => flags,
        Err(e) => return refused(e.to_string()),
    };
    if let Err(e) = set(flags | rustix::fs::OFlags::DIRECT) {
        return refused(e.to_string());
    }
    let buffered = |why: String| {
        if let Err(e) = set(flags) {
            tracing::warn!(path = %config.path.display(), error = %e, "O_DIRECT stays on");
        }
        refused(why)
    };
    match alignment(file) {
        Ok(needed) if needed <= config.block_size.bytes() => needed,
        Ok(needed) => buffered(format!(
            "it needs {needed}-byte alignment, more than block_size_bytes = {}",
            config.block_size.bytes()
        )),
        Err(e) => buffered(e.to_string()),
    }
}

/// The least alignment with which a direct read works.
fn alignment(file: &File) -> io::Result<u32> {
    let mut memory = vec![0_u8; 16384];
    // Start on a page, so that the address below is aligned to `align` and no more.
    let page = memory.as_ptr().align_offset(4096);
    let mut refusal = io::Error::from_raw_os_error(libc::EINVAL);
    for align in ALIGNMENTS {
        let at = page + align as usize;
        let piece = &mut memory[at..at + align as usize];
        match file.read_at(piece, align.into()) {
            Ok(_) => return Ok(align),
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => refusal = e,
            Err(e) => return Err(e),
        }
    }
    Err(refusal)
}

fn can_punch(file: &File, config: &FileConfig) -> bool {
    if config.read_only {
        return false;
    }
    match config.kind {
        FileKind::Regular => {
            // Behind the file's end there is nothing to lose.
            let Ok(size) = size_now(file, config.kind) else {
                return false;
            };
            let end = size.next_multiple_of(4096);
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(file, flags, end, 4096).is_ok()
        }
        FileKind::Block => {
            let limit = |name| {
                file.metadata()
                    .ok()
                    .and_then(|m| queue_limit(m.rdev(), name))
            };
            limit("write_zeroes_max_bytes") > Some(0) && limit("discard_max_bytes") > Some(0)
        }
    }
}

/// A number from a block device's `queue` folder in sysfs; a partition's is that of its disk.
fn queue_limit(device: u64, name: &str) -> Option<u64> {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let base = format!("/sys/dev/block/{major}:{minor}");
    [
        format!("{base}/queue/{name}"),
        format!("{base}/../queue/{name}"),
    ]
    .iter()
    .find_map(|path| std::fs::read_to_string(path).ok()?.trim().parse().ok())
}
