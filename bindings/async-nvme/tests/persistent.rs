//! The persistent memory region of a software controller in the driver's hands.

#![allow(clippy::unwrap_used, reason = "for tests only")]

mod common;

use std::rc::Rc;
use std::sync::Arc;

use common::{Bench, Runs, small};
use penstock_async_nvme::soft::SoftConfig;
use penstock_async_nvme::{CmbError, ControllerError, ControllerMapping, ControllerMemory, Verb};

const BYTES: usize = 64 << 10;
const ADDRESS: u64 = 0x60_0000_0000;

fn bench() -> Bench {
    let soft = SoftConfig {
        pmr_bytes: Some(BYTES),
        ..SoftConfig::default()
    };
    Bench::new(soft, small(1, 8))
}

fn mapping(bench: &Bench) -> ControllerMapping {
    let (base, len) = bench.soft.pmr_mapping().unwrap();
    ControllerMapping {
        base,
        len,
        keeper: Arc::new(bench.soft.clone()),
        export: None,
    }
}

/// Writes a page out of the region to the drive.
fn write(bench: &mut Bench, memory: &Rc<ControllerMemory>, slba: u64) -> bool {
    let runs = Runs::in_controller(memory, &[(0, 4096)]);
    let io = bench.io(Verb::Write { fua: false }, slba, 8);
    bench.run(io, runs).result.is_ok()
}

#[test]
fn data_goes_by_the_region_and_outlives_the_power() {
    let mut bench = bench();
    let layout = bench.controller().persistent_memory_layout().unwrap();
    assert!(layout.abilities.read_data && layout.abilities.write_data);
    assert!(!layout.abilities.submission_queues && layout.barrier_by_status);
    let mapping = mapping(&bench);
    let pool = bench
        .controller()
        .use_persistent_memory(mapping, ADDRESS)
        .unwrap();
    assert_eq!(pool.len_bytes(), BYTES);
    let memory = Rc::new(pool.take(4096).unwrap());
    Runs::in_controller(&memory, &[(0, 4096)]).fill(&[0x5a; 4096]);
    assert!(bench.controller().persist());
    assert!(write(&mut bench, &memory, 0));
    assert_eq!(bench.soft.stats().own_bytes, 4096);

    // A power cycle disables the region; the reset that mends it enables it again.
    bench.soft.lose_power();
    assert!(!bench.controller().persist());
    bench.controller().reset().unwrap();
    assert!(bench.controller().persist());
    assert!(write(&mut bench, &memory, 64));
    let mut there = [0; 4096];
    bench.soft.read_media(1, 64, &mut there);
    assert_eq!(there, [0x5a; 4096]);
    bench.is_clean();
}

#[test]
fn what_cannot_be_is_told() {
    let mut bench = bench();
    let mapping = mapping(&bench);
    let beyond = u64::MAX - 0xfff;
    let refused = bench
        .controller()
        .use_persistent_memory(mapping.clone(), beyond);
    let unable = |error| matches!(error, Some(ControllerError::Cmb(CmbError::Unable { .. })));
    assert!(unable(refused.err()));

    let mut without = Bench::new(SoftConfig::default(), small(1, 8));
    assert_eq!(without.controller().persistent_memory_layout(), None);
    let refused = without.controller().use_persistent_memory(mapping, ADDRESS);
    assert!(unable(refused.err()));
}
