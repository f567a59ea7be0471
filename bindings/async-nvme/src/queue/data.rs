//! Data pointers: from runs of this process's memory to PRP entries or SGL descriptors
//! (Base 2.1, 4.3).

use std::ptr::NonNull;

use penstock_nvme::pcie::SqeWords;
use penstock_nvme::sgl::{SGL_DATA_BLOCK, SGL_LAST_SEGMENT};

use super::Limits;
use crate::dma::{Region, Regions};
use crate::io::{Buffers, Io, IoError};

/// Bytes of the list that every command has to itself.
pub(crate) const LIST_BYTES: usize = 4096;
/// PRP entries in it.
const PRP_ENTRIES: usize = LIST_BYTES / 8;
/// SGL descriptors in it.
const SGL_ENTRIES: usize = LIST_BYTES / 16;

/// How far a request's memory has been described.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cursor {
    segment: usize,
    offset: usize,
}

impl Cursor {
    /// What lies here: start and length of the rest of the segment. Skips what is used up or empty.
    #[inline]
    fn rest<R: Buffers>(&mut self, request: &R) -> Option<(*mut u8, usize)> {
        loop {
            let (start, len) = request.segment(self.segment)?;
            if self.offset < len {
                return Some((start.wrapping_add(self.offset), len - self.offset));
            }
            self.segment += 1;
            self.offset = 0;
        }
    }
}

/// A command's list: where it is here and for the device.
#[derive(Clone, Copy)]
pub(crate) struct List {
    pub(crate) at: NonNull<u64>,
    pub(crate) device_address: u64,
}

impl List {
    fn put(&self, index: usize, words: &[u64]) {
        for (offset, word) in words.iter().enumerate() {
            // SAFETY: callers keep index + words within the list; the device reads it only while its
            // command is outstanding, which is after this.
            unsafe {
                self.at
                    .as_ptr()
                    .add(index + offset)
                    .write_volatile(word.to_le());
            }
        }
    }

    /// Puts the one range of a Dataset Management command; its data pointer.
    pub(crate) fn put_range(&self, slba: u64, blocks: u32) -> (u64, u64) {
        self.put(0, &[u64::from(blocks) << 32, slba]);
        (self.device_address, 0)
    }
}

/// Where the device sees memory, with the region found last.
pub(crate) struct Lookup {
    pub(crate) regions: std::sync::Arc<Regions>,
    pub(crate) last: Region,
}

impl Lookup {
    #[inline]
    fn device_address(&mut self, start: *const u8, len: usize) -> Result<u64, IoError> {
        if let Some(address) = self.last.device_address_of(start, len) {
            return Ok(address);
        }
        self.last = self.regions.find(start, len).ok_or(IoError::Unmapped)?;
        self.last
            .device_address_of(start, len)
            .ok_or(IoError::Unmapped)
    }
}

/// The one command that does all of a request whose memory is one run that takes no list to describe:
/// most requests, done in a few steps. `None` for all others, which are cut and described with care.
#[inline]
pub(crate) fn whole<R: Buffers>(
    io: &Io,
    memory: &R,
    lookup: &mut Lookup,
    limits: &Limits,
) -> Option<SqeWords> {
    // The count of a command, 0's based, has 16 bits.
    let blocks = u32::try_from(io.blocks).ok()?;
    let bytes = u32::try_from(io.blocks << io.block_shift).ok()?;
    let boundary = u64::from(io.boundary_blocks);
    let crosses = boundary > 0 && io.slba.0 % boundary + io.blocks > boundary;
    if !io.verb.moves_data() || crosses || blocks > 1 << 16 || bytes > limits.transfer_bytes_max {
        return None;
    }
    let (start, len) = memory.segment(0)?;
    let length = usize::try_from(bytes).ok()?;
    if length == 0 || len < length {
        return None;
    }
    let address = lookup.device_address(start, length).ok()?;
    let page = 1_u64 << limits.page_shift;
    let in_page = address & (page - 1);
    if !address.is_multiple_of(4) {
        return None;
    }
    let sqe = io.command(io.slba, blocks);
    let end = in_page + u64::from(bytes);
    if end <= page {
        Some(sqe.with_prps(address, 0))
    } else if end <= 2 * page {
        Some(sqe.with_prps(address, address - in_page + page))
    } else if limits.sgl {
        Some(sqe.with_sgl(address, bytes, SGL_DATA_BLOCK))
    } else {
        None
    }
}

/// How many bytes from `cursor` one command can describe, at most `want`, a multiple of
/// `1 << block_shift`.
#[inline]
pub(crate) fn describable<R: Buffers>(
    request: &R,
    mut cursor: Cursor,
    want: usize,
    block_shift: u8,
    limits: &Limits,
) -> Result<usize, IoError> {
    let (start, len) = cursor.rest(request).ok_or(IoError::Invalid)?;
    if len >= want && (!limits.sgl || start.addr().is_multiple_of(4)) {
        return Ok(want);
    }
    let page = 1_usize << limits.page_shift;
    let (mut bytes, mut runs, mut end) = (0, 0, start.addr());
    while bytes < want {
        let Some((start, len)) = cursor.rest(request) else {
            return Err(IoError::Invalid);
        };
        let joins = if limits.sgl {
            runs < SGL_ENTRIES
        } else {
            runs == 0 || (end.is_multiple_of(page) && start.addr().is_multiple_of(page))
        };
        if !joins {
            break;
        }
        let take = len.min(want - bytes);
        cursor.offset += take;
        bytes += take;
        runs += 1;
        end = start.addr() + take;
    }
    match bytes >> block_shift << block_shift {
        0 => Err(IoError::Unaligned),
        bytes => Ok(bytes),
    }
}

/// Describes `bytes` from `cursor` in `sqe`, with `list` for what does not fit there.
#[inline]
pub(crate) fn point<R: Buffers>(
    sqe: SqeWords,
    request: &R,
    cursor: &mut Cursor,
    bytes: usize,
    list: List,
    lookup: &mut Lookup,
    limits: &Limits,
) -> Result<SqeWords, IoError> {
    let (start, len) = cursor.rest(request).ok_or(IoError::Invalid)?;
    let page = 1_usize << limits.page_shift;
    let whole = len >= bytes;
    if whole && limits.sgl && bytes > 2 * page {
        // One descriptor says what a list of pages would.
        let address = lookup.device_address(start, bytes)?;
        let length = u32::try_from(bytes).map_err(|_| IoError::Invalid)?;
        cursor.offset += bytes;
        return aligned(address).map(|()| sqe.with_sgl(address, length, SGL_DATA_BLOCK));
    }
    if whole || !limits.sgl {
        return prps(sqe, request, cursor, bytes, list, lookup, page);
    }
    descriptors(sqe, request, cursor, bytes, list, lookup)
}

fn aligned(address: u64) -> Result<(), IoError> {
    if address.is_multiple_of(4) {
        Ok(())
    } else {
        Err(IoError::Unaligned)
    }
}

/// Page entries (Base 2.1, 4.3.1): all but the first start on a page.
fn prps<R: Buffers>(
    sqe: SqeWords,
    request: &R,
    cursor: &mut Cursor,
    bytes: usize,
    list: List,
    lookup: &mut Lookup,
    page: usize,
) -> Result<SqeWords, IoError> {
    let (mut first, mut second, mut entries, mut left) = (0, 0, 0, bytes);
    while left > 0 {
        let (start, len) = cursor.rest(request).ok_or(IoError::Invalid)?;
        let run = len.min(left);
        let address = lookup.device_address(start, run)?;
        aligned(address)?;
        let mut done = 0;
        while done < run {
            let entry = address + done as u64;
            let in_page = usize::try_from(entry % page as u64).map_err(|_| IoError::Invalid)?;
            match entries {
                0 => first = entry,
                _ if in_page != 0 => return Err(IoError::Unaligned),
                1 => second = entry,
                n if n <= PRP_ENTRIES => list.put(n - 1, &[entry]),
                _ => return Err(IoError::Invalid),
            }
            entries += 1;
            done += (page - in_page).min(run - done);
        }
        cursor.offset += run;
        left -= run;
    }
    if entries > 2 {
        list.put(0, &[second]);
        second = list.device_address;
    }
    Ok(sqe.with_prps(first, second))
}

/// SGL descriptors (Base 2.1, 4.3.2): one for each run, in a last segment.
fn descriptors<R: Buffers>(
    sqe: SqeWords,
    request: &R,
    cursor: &mut Cursor,
    bytes: usize,
    list: List,
    lookup: &mut Lookup,
) -> Result<SqeWords, IoError> {
    let (mut count, mut left) = (0_u32, bytes);
    while left > 0 {
        let (start, len) = cursor.rest(request).ok_or(IoError::Invalid)?;
        let run = len.min(left);
        let address = lookup.device_address(start, run)?;
        aligned(address)?;
        if count as usize == SGL_ENTRIES {
            return Err(IoError::Invalid);
        }
        // A data block descriptor: address, length, identifier 00h in the last byte.
        let length = u32::try_from(run).map_err(|_| IoError::Invalid)?;
        list.put(count as usize * 2, &[address, u64::from(length)]);
        count += 1;
        cursor.offset += run;
        left -= run;
    }
    Ok(sqe.with_sgl(list.device_address, count * 16, SGL_LAST_SEGMENT))
}
