//! Copying into memory that is not read soon.

/// Shortest copy that streams, in bytes: below it the start-up costs more than it saves.
const STREAM_MIN_BYTES: usize = 2048;

/// Copies past the cache. Written blocks of a device are rarely read soon; ordinary stores would
/// first fetch each of their lines from memory and push out what the core works with.
///
/// # Safety
/// `from..from+len` must be valid for reads, `to..to+len` for writes, and they must not overlap.
pub(crate) unsafe fn copy_past_cache(from: *const u8, to: *mut u8, len: usize) {
    #[cfg(target_arch = "x86_64")]
    if len >= STREAM_MIN_BYTES {
        // SAFETY: the caller's promise.
        unsafe { stream(from, to, len) };
        return;
    }
    // SAFETY: the caller's promise.
    unsafe { std::ptr::copy_nonoverlapping(from, to, len) };
}

/// # Safety
/// As [`copy_past_cache`]; `len` is at least a cache line.
#[cfg(target_arch = "x86_64")]
unsafe fn stream(from: *const u8, to: *mut u8, len: usize) {
    use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_sfence, _mm_stream_si128};
    const LINE: usize = 64;
    let head = to.align_offset(LINE).min(len);
    let lines = (len - head) / LINE;
    let tail = head + lines * LINE;
    // SAFETY: head and tail are within len; streaming stores start at a line boundary and cover
    // whole lines below tail. SSE2 is part of every x86-64.
    unsafe {
        std::ptr::copy_nonoverlapping(from, to, head);
        for line in 0..lines {
            let source = from.add(head + line * LINE).cast::<__m128i>();
            let target = to.add(head + line * LINE).cast::<__m128i>();
            let values = [
                _mm_loadu_si128(source),
                _mm_loadu_si128(source.add(1)),
                _mm_loadu_si128(source.add(2)),
                _mm_loadu_si128(source.add(3)),
            ];
            for (index, value) in values.into_iter().enumerate() {
                _mm_stream_si128(target.add(index), value);
            }
        }
        std::ptr::copy_nonoverlapping(from.add(tail), to.add(tail), len - tail);
        // Streaming stores are weakly ordered: another core must see them before the completion.
        _mm_sfence();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_and_alignment_copies_exactly() {
        let source: Vec<u8> = (0..9000_u32)
            .map(|i| u8::try_from(i % 251).unwrap())
            .collect();
        for len in [0, 1, 63, 64, 2047, 2048, 2049, 4096, 4160, 8191] {
            for (from, to) in [(0, 0), (1, 0), (0, 1), (7, 63), (64, 65)] {
                let mut target = vec![0xee; 9000];
                // SAFETY: from + len and to + len are below 9000 in every case; two allocations.
                unsafe {
                    copy_past_cache(source.as_ptr().add(from), target.as_mut_ptr().add(to), len)
                };
                assert_eq!(
                    target[to..to + len],
                    source[from..from + len],
                    "{len} {from} {to}"
                );
                assert!(
                    target[..to]
                        .iter()
                        .chain(&target[to + len..])
                        .all(|&b| b == 0xee)
                );
            }
        }
    }
}
