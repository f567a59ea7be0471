use super::*;
use crate::{Pool, PoolConfig};

const MIB: usize = 1 << 20;

fn memory(size_bytes: usize, hugepages: bool) -> Arc<SharedMemory> {
    let config = SharedMemoryConfig {
        size_bytes,
        hugepages,
        numa_node: None,
    };
    Arc::new(SharedMemory::new(&config).unwrap())
}

fn lease(len: usize, fill: u8) -> Lease {
    let config = PoolConfig {
        size_bytes: 8 * MIB,
        lease_max_bytes: 4 * MIB,
        ..PoolConfig::default()
    };
    let lease = Pool::new(&config).unwrap().try_lease(len).unwrap();
    lease.fill(fill);
    lease
}

fn all(memory: &Arc<SharedMemory>, offset: usize, len: usize, value: u8) -> bool {
    let lease = Lender::new(Arc::clone(memory)).lend(offset, len).unwrap();
    lease.bytes().iter().all(|b| *b == value)
}

/// Pages of `lease` that are in memory.
fn resident_pages(lease: &Lease) -> usize {
    let mut seen = vec![0_u8; lease.len() / PAGE_BYTES];
    // SAFETY: page-aligned mapped range and one byte of answer for each of its pages.
    let rc = unsafe { libc::mincore(lease.as_ptr().cast(), lease.len(), seen.as_mut_ptr()) };
    assert_eq!(rc, 0);
    seen.iter().filter(|page| **page & 1 == 1).count()
}

#[test]
fn what_is_copied_in_comes_out_and_is_lent() {
    for hugepages in [false, true] {
        let memory = memory(5 * MIB, hugepages);
        for (offset, len) in [(0, 512), (3 * MIB - 512, 1537), (4 * MIB, MIB)] {
            assert!(all(&memory, offset, len, 0));
            assert!(memory.copy_in(offset, &lease(len, 0x5a)));
            assert!(all(&memory, offset, len, 0x5a));
            let out = lease(len, 0);
            assert!(memory.copy_out(offset, &out));
            assert_eq!(out.bytes(), vec![0x5a; len]);
        }
    }
}

#[test]
fn ranges_outside_are_refused() {
    let memory = memory(MIB, false);
    let lender = Lender::new(Arc::clone(&memory));
    for (offset, len) in [(MIB, 1), (MIB - 1, 2), (usize::MAX, 2), (0, MIB + 1)] {
        assert!(lender.lend(offset, len).is_none());
        assert!(!memory.zero(offset, len));
    }
    assert!(!memory.copy_in(MIB - 511, &lease(512, 0)));
    assert!(!memory.copy_out(usize::MAX, &lease(512, 0)));
}

#[test]
fn lent_memory_is_the_memory_itself_and_outlives_the_handle() {
    let memory = memory(MIB, false);
    let lender = Lender::new(Arc::clone(&memory));
    let lent = lender.lend(4096, 4096).unwrap();
    assert!(lender.is_at(&lent, 4096));
    assert!(!lender.is_at(&lent, 0));
    assert_eq!(
        (lent.kind(), lent.is_private()),
        (MemoryKind::Device, false)
    );
    lent.fill(9);
    assert!(all(&memory, 4096, 4096, 9));
    drop(memory);
    drop(lender);
    assert_eq!(lent.bytes()[0], 9);
}

#[test]
fn zeroing_returns_memory_and_spares_the_neighbours() {
    let memory = memory(8 * MIB, false);
    let lent = Lender::new(Arc::clone(&memory)).lend(0, 8 * MIB).unwrap();
    lent.fill(0xff);
    assert_eq!(resident_pages(&lent), 8 * MIB / PAGE_BYTES);
    assert!(memory.zero(512, 6 * MIB));
    assert!(all(&memory, 0, 512, 0xff));
    assert!(all(&memory, 512 + 6 * MIB, 2 * MIB - 512, 0xff));
    assert!(resident_pages(&lent) <= 2 * MIB / PAGE_BYTES + 2);
    assert!(all(&memory, 512, 6 * MIB, 0));
}

#[test]
fn zeroing_hugepages_reads_zero_too() {
    let memory = memory(4 * MIB, true);
    assert!(memory.copy_in(0, &lease(4 * MIB, 0xff)));
    assert!(memory.zero(512, 3 * MIB));
    assert!(all(&memory, 0, 512, 0xff));
    assert!(all(&memory, 512, 3 * MIB, 0));
    assert!(all(&memory, 512 + 3 * MIB, MIB - 512, 0xff));
}

#[test]
fn resize_keeps_what_stays_and_zeroes_what_comes() {
    for hugepages in [false, true] {
        let memory = memory(4 * MIB, hugepages);
        assert!(memory.copy_in(0, &lease(4 * MIB, 1)));
        let old = Lender::new(Arc::clone(&memory)).lend(3 * MIB, MIB).unwrap();
        memory.resize(3 * MIB).unwrap();
        assert_eq!(memory.len_bytes(), 3 * MIB);
        assert!(!memory.zero(3 * MIB, 1));
        // A request that was under way when the memory shrank.
        old.fill(2);
        memory.resize(64 * MIB).unwrap();
        assert!(all(&memory, 0, 3 * MIB, 1));
        assert!(all(&memory, 3 * MIB, 61 * MIB, 0));
        assert!(memory.copy_in(60 * MIB, &lease(4 * MIB, 3)));
    }
}

#[test]
fn growth_ends_where_the_reservation_does() {
    let memory = memory(MIB, false);
    assert!(memory.reserved_bytes() >= 8 * MIB);
    assert!(memory.resize(memory.reserved_bytes() + 1).is_err());
    assert!(memory.resize(usize::MAX).is_err());
    assert_eq!(memory.len_bytes(), MIB);
    memory.resize(2 * MIB).unwrap();
}

#[test]
fn two_threads_share_the_bytes() {
    let memory = memory(MIB, false);
    let there = Arc::clone(&memory);
    std::thread::spawn(move || there.copy_in(8192, &lease(4096, 4)))
        .join()
        .unwrap();
    assert!(all(&memory, 8192, 4096, 4));
}
