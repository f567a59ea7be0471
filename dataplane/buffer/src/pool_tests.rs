use super::*;
use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};

fn pool(size_bytes: usize, lease_max_bytes: usize) -> Pool {
    let config = PoolConfig {
        size_bytes,
        lease_max_bytes,
        hugepages: false,
        ..PoolConfig::default()
    };
    Pool::new(&config).unwrap()
}

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

type Boxed = Pin<Box<dyn Future<Output = Lease>>>;

fn poll(future: &mut Boxed) -> Option<Lease> {
    match future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(lease) => Some(lease),
        Poll::Pending => None,
    }
}

#[test]
fn leases_are_aligned_writable_and_as_long_as_asked() {
    let pool = pool(2 << 20, 1 << 20);
    for len in [0, 1, 512, 4096, 4097, 131_072, 1 << 20] {
        let lease = pool.try_lease(len).unwrap();
        assert_eq!(lease.len(), len);
        assert_eq!(lease.as_ptr() as usize % 4096, 0);
        lease.fill(0xa5);
        assert!(lease.bytes().iter().all(|b| *b == 0xa5));
        assert_eq!(lease.kind(), MemoryKind::Pool);
        assert!(lease.is_private());
    }
    assert!(pool.try_lease((1 << 20) + 1).is_none());
    assert!(pool.try_lease(usize::MAX).is_none());
    assert_eq!(pool.stats().leased_bytes, 0);
}

#[test]
fn memory_returns_with_the_last_holder_only() {
    let pool = pool(2 << 20, 2 << 20);
    let whole = pool.try_lease(2 << 20).unwrap();
    let slice = whole.slice(4096, 8192).unwrap();
    let copy = slice.clone();
    drop(whole);
    drop(slice);
    assert!(pool.try_lease(1).is_none());
    assert_eq!(pool.stats().leased_bytes, 2 << 20);
    drop(copy);
    assert_eq!(pool.stats().leased_bytes, 0);
    assert!(pool.try_lease(2 << 20).is_some());
}

#[test]
fn leases_outlive_the_pool_handle() {
    let lease = pool(2 << 20, 4096).try_lease(4096).unwrap();
    lease.fill(7);
    assert_eq!(lease.bytes()[4095], 7);
}

#[test]
fn the_line_is_served_first_come_first_served() {
    let pool = pool(2 << 20, 2 << 20);
    let all = pool.try_lease(2 << 20).unwrap();
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut large: Boxed = Box::pin(pool.lease(2 << 20));
    let mut small: Boxed = Box::pin(pool.lease(4096));
    assert!(
        large
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_pending()
    );
    assert!(poll(&mut small).is_none());
    assert_eq!((pool.stats().waits, pool.stats().waiting), (2, 2));

    drop(all);
    assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    assert!(pool.try_lease(4096).is_none(), "nobody overtakes the line");
    assert!(poll(&mut small).is_none(), "the small one came second");
    let got = poll(&mut large).unwrap();
    drop(got);
    assert_eq!(poll(&mut small).unwrap().len(), 4096);
    assert_eq!(pool.stats().waiting, 0);
}

#[test]
fn leaving_the_line_lets_the_next_through() {
    let pool = pool(2 << 20, 2 << 20);
    let half = pool.try_lease(1 << 20).unwrap();
    let mut large: Boxed = Box::pin(pool.lease(2 << 20));
    let mut small: Boxed = Box::pin(pool.lease(4096));
    assert!(poll(&mut large).is_none());
    assert!(poll(&mut small).is_none());
    drop(large);
    assert!(poll(&mut small).is_some(), "half of the pool is free");
    drop(half);
    assert_eq!(pool.stats().leased_bytes, 0);
}

#[test]
fn a_block_granted_to_a_dropped_future_returns() {
    let pool = pool(2 << 20, 2 << 20);
    let all = pool.try_lease(2 << 20).unwrap();
    let mut first: Boxed = Box::pin(pool.lease(2 << 20));
    let mut second: Boxed = Box::pin(pool.lease(2 << 20));
    assert!(poll(&mut first).is_none());
    assert!(poll(&mut second).is_none());
    drop(all);
    drop(first);
    let lease = poll(&mut second).unwrap();
    assert_eq!(pool.stats().leased_bytes, 2 << 20);
    drop(lease);
    assert_eq!(pool.stats().leased_bytes, 0);
}

#[test]
fn a_lease_longer_than_the_longest_never_joins_the_line() {
    let pool = pool(2 << 20, 4096);
    let mut future: Boxed = Box::pin(pool.lease(8192));
    assert!(poll(&mut future).is_none());
    assert_eq!(pool.stats().waiting, 0);
    assert!(pool.try_lease(4096).is_some());
}

#[test]
fn impossible_shapes_are_refused() {
    for (size_bytes, lease_max_bytes) in [
        (1 << 20, 3000),
        (1 << 20, 2048),
        (4096, 8192),
        (1 << 50, 1 << 20),
        (usize::MAX, 1 << 20),
    ] {
        let config = PoolConfig {
            size_bytes,
            lease_max_bytes,
            ..PoolConfig::default()
        };
        let error = Pool::new(&config).unwrap_err();
        assert!(matches!(error, PoolError::Config { .. }), "{error}");
    }
}

#[test]
fn unaffordable_and_misplaced_pools_name_the_remedy() {
    let config = PoolConfig {
        size_bytes: 1 << 42,
        ..PoolConfig::default()
    };
    let error = Pool::new(&config).unwrap_err();
    assert!(
        error.to_string().contains("buffer_pool_size_bytes"),
        "{error}"
    );

    let config = PoolConfig {
        numa_node: Some(1000),
        ..PoolConfig::default()
    };
    let error = Pool::new(&config).unwrap_err();
    assert!(error.to_string().contains("NUMA node 1000"), "{error}");

    let config = PoolConfig {
        numa_node: Some(0),
        ..PoolConfig::default()
    };
    match Pool::new(&config) {
        Ok(_) => {}
        // A kernel without NUMA has no such call.
        Err(PoolError::Numa { source, .. }) => {
            assert_eq!(source.raw_os_error(), Some(libc::ENOSYS));
        }
        Err(e) => panic!("{e}"),
    }
}

#[test]
fn locking_beyond_the_limit_names_it() {
    let limit = mapping::memlock_limit();
    let size_bytes = 256 << 20;
    let config = PoolConfig {
        size_bytes,
        hugepages: false,
        lock: true,
        ..PoolConfig::default()
    };
    match Pool::new(&config) {
        Ok(_) => println!("skipped: may lock {size_bytes} bytes here (limit {limit:?})"),
        Err(error) => {
            assert!(error.to_string().contains("RLIMIT_MEMLOCK"), "{error}");
        }
    }
}

#[test]
fn an_idle_pool_is_not_resident() {
    let resident = || {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    };
    let before = resident();
    let pool = pool(4 << 30, 1 << 20);
    let lease = pool.try_lease(4096).unwrap();
    lease.fill(1);
    let grown = resident().saturating_sub(before);
    // Other tests run beside this one: leave them some room.
    assert!(
        grown < 256 << 20,
        "{grown} bytes resident of an idle 4-GiB pool"
    );
}

/// One step of the model test.
#[derive(Clone, Debug)]
enum Step {
    Lease(usize),
    Wait(usize),
    Slice(prop::sample::Index, usize, usize),
    Clone(prop::sample::Index),
    Drop(prop::sample::Index),
    Abandon(prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![1_usize..9000, 1_usize..=65_536];
    let index = any::<prop::sample::Index>;
    prop_oneof![
        3 => len.clone().prop_map(Step::Lease),
        2 => len.clone().prop_map(Step::Wait),
        2 => (index(), 0_usize..65_536, len).prop_map(|(i, at, len)| Step::Slice(i, at, len)),
        1 => index().prop_map(Step::Clone),
        5 => index().prop_map(Step::Drop),
        1 => index().prop_map(Step::Abandon),
    ]
}

/// A handle as the model knows it: which run, which bytes of it.
struct Held {
    lease: Lease,
    run: usize,
}

#[derive(Default)]
struct Model {
    held: Vec<Held>,
    waiting: Vec<Boxed>,
    /// Start and length of each run ever leased, and how many handles there are on it.
    runs: Vec<(usize, usize, usize)>,
}

impl Model {
    fn add(&mut self, lease: Lease) -> Result<(), TestCaseError> {
        let (start, len) = (lease.as_ptr() as usize, lease.len());
        for (other, other_len, holders) in &self.runs {
            let apart = start + len <= *other || other + other_len <= start;
            prop_assert!(*holders == 0 || apart, "overlap");
        }
        self.runs.push((start, len, 1));
        self.held.push(Held {
            lease,
            run: self.runs.len() - 1,
        });
        Ok(())
    }

    fn poll_all(&mut self) -> Result<(), TestCaseError> {
        let mut still_waiting = Vec::new();
        for mut future in std::mem::take(&mut self.waiting) {
            match poll(&mut future) {
                Some(lease) => {
                    prop_assert!(still_waiting.is_empty(), "overtaken in line");
                    self.add(lease)?;
                }
                None => still_waiting.push(future),
            }
        }
        self.waiting = still_waiting;
        Ok(())
    }

    fn derive(&mut self, from: usize, lease: Lease) {
        let run = self.held[from].run;
        self.runs[run].2 += 1;
        self.held.push(Held { lease, run });
    }

    fn apply(&mut self, pool: &Pool, step: &Step) -> Result<(), TestCaseError> {
        match step {
            Step::Lease(len) => {
                if let Some(lease) = pool.try_lease(*len) {
                    prop_assert!(self.waiting.is_empty());
                    self.add(lease)?;
                }
            }
            Step::Wait(len) => {
                let mut future: Boxed = Box::pin(pool.lease(*len));
                match poll(&mut future) {
                    Some(lease) => self.add(lease)?,
                    None => self.waiting.push(future),
                }
            }
            Step::Slice(index, at, len) if !self.held.is_empty() => {
                let from = index.index(self.held.len());
                let outside = at + len > self.held[from].lease.len();
                let slice = self.held[from].lease.slice(*at, *len);
                prop_assert_eq!(slice.is_none(), outside);
                if let Some(slice) = slice {
                    self.derive(from, slice);
                }
            }
            Step::Clone(index) if !self.held.is_empty() => {
                let from = index.index(self.held.len());
                let clone = self.held[from].lease.clone();
                self.derive(from, clone);
            }
            Step::Drop(index) if !self.held.is_empty() => {
                let gone = self.held.swap_remove(index.index(self.held.len()));
                self.runs[gone.run].2 -= 1;
            }
            Step::Abandon(index) if !self.waiting.is_empty() => {
                drop(self.waiting.remove(index.index(self.waiting.len())));
            }
            _ => {}
        }
        self.poll_all()
    }
}

proptest! {
    #[test]
    fn any_sequence_keeps_runs_apart_and_returns_all(
        steps in prop::collection::vec(step(), 1..300),
    ) {
        let pool = pool(2 << 20, 65_536);
        // Little enough left that waiting happens.
        let reserve: Vec<Lease> = (0..28).filter_map(|_| pool.try_lease(65_536)).collect();
        let mut model = Model::default();
        for step in &steps {
            model.apply(&pool, step)?;
        }
        drop(reserve);
        model.poll_all()?;
        while let Some(gone) = model.held.pop() {
            model.runs[gone.run].2 -= 1;
            drop(gone);
            model.poll_all()?;
        }
        prop_assert!(model.waiting.is_empty(), "starved");
        prop_assert_eq!(pool.stats().leased_bytes, 0);
        let all: Vec<Lease> = std::iter::from_fn(|| pool.try_lease(65_536)).collect();
        prop_assert_eq!(all.len(), 32);
    }
}

#[test]
fn the_memory_of_this_threads_pools_is_told_while_they_live() {
    let pool = Pool::new(&PoolConfig {
        size_bytes: 4 << 20,
        hugepages: false,
        ..PoolConfig::default()
    })
    .unwrap();
    let lease = pool.try_lease(4096).unwrap();
    let inside = |memory: &PoolMemory| {
        let start = memory.start.as_ptr().addr();
        (start..start + memory.len_bytes).contains(&lease.as_ptr().addr())
    };
    let told = pools_of_this_thread();
    assert_eq!(told.iter().filter(|memory| inside(memory)).count(), 1);
    let elsewhere = std::thread::spawn(|| pools_of_this_thread().len());
    assert_eq!(elsewhere.join().unwrap(), 0);
    let before = told.len();
    drop((lease, pool, told));
    assert_eq!(pools_of_this_thread().len(), before - 1);
}

#[test]
fn memory_of_others_is_leased_as_far_as_whole_longest_leases_go() {
    let host = pool(2 << 20, 1 << 20);
    let over = |len_bytes, lease_max_bytes| {
        let memory = PoolMemory {
            len_bytes,
            ..host.inner.memory.clone()
        };
        // SAFETY: a pool's pages, kept by it and leased by nobody else here.
        unsafe { Pool::over(memory, MemoryKind::Controller, lease_max_bytes) }
    };
    let own = over((64 << 10) + 4096 + 100, 16 << 10).unwrap();
    assert_eq!(own.lease_max_bytes(), 16 << 10);
    assert_eq!(own.stats().size_bytes, 64 << 10);
    let leases: Vec<_> = (0..4).map(|_| own.try_lease(16 << 10).unwrap()).collect();
    assert!(own.try_lease(1).is_none());
    assert_eq!(leases[0].kind(), MemoryKind::Controller);
    let base = host.inner.memory.start.as_ptr().addr();
    let mut at: Vec<_> = leases
        .iter()
        .map(|lease| lease.as_ptr().addr() - base)
        .collect();
    at.sort_unstable();
    assert_eq!(at, [0, 16 << 10, 32 << 10, 48 << 10]);
    drop(leases);
    // No memory of the host's: a device has no need to be told of it.
    let count = pools_of_this_thread().len();
    let other = over(12 << 10, 1 << 20).unwrap();
    assert_eq!(pools_of_this_thread().len(), count);
    assert_eq!(
        (other.lease_max_bytes(), other.stats().size_bytes),
        (8 << 10, 8 << 10)
    );
    assert!(matches!(over(4095, 4096), Err(PoolError::Config { .. })));
    assert!(matches!(over(0, 4096), Err(PoolError::Config { .. })));
    assert!(matches!(over(8192, 5000), Err(PoolError::Config { .. })));
}

#[test]
fn hugepages_that_are_demanded_are_had_or_refused_with_the_sysctl() {
    // More than any machine has reserved; only addresses are taken for it.
    let demand = PoolConfig {
        size_bytes: 4 << 40,
        hugepages_required: true,
        ..PoolConfig::default()
    };
    let Err(error) = Pool::new(&demand) else {
        panic!("4 TiB of hugepages were had");
    };
    let said = error.to_string();
    assert!(
        said.contains("2097152 pages of 2 MiB") && said.contains("sysctl vm.nr_hugepages"),
        "{said}"
    );
}
