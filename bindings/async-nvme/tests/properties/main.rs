//! Random requests on random drives, compared with a disk that is a list: what is read is what was
//! written, whatever the drive's limits, the memory's layout, the order of completions, faults, and
//! losses of power.

#![allow(clippy::unwrap_used, reason = "for tests only")]

#[path = "../common/mod.rs"]
mod common;
mod disk;

use common::Bench;
use disk::{asks, drives, play};
use penstock_async_nvme::Notice;
use penstock_async_nvme::soft::FaultRates;
use proptest::prelude::*;

const FAULTS: FaultRates = FaultRates {
    delay: 300,
    delay_max_ns: 120_000_000,
    hang: 60,
    lose_completion: 60,
    internal_error: 300,
    interrupted: 100,
    twice: 60,
    wrong_cid: 30,
    wrong_phase: 30,
    fatal: 30,
};

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_read_is_what_was_written((soft, driver) in drives(), asks in asks()) {
        let mut bench = Bench::new(soft, driver);
        let played = play(&mut bench, &asks, None);
        prop_assert!(played.is_ok(), "{}", played.unwrap_err());
        prop_assert_eq!(&bench.notices, &[]);
    }

    #[test]
    fn faults_lose_nothing_that_was_told_to_be_done((soft, driver) in drives(), asks in asks()) {
        let mut bench = Bench::new(soft, driver);
        bench.soft.set_fault_rates(FAULTS);
        let played = play(&mut bench, &asks, None);
        prop_assert!(played.is_ok(), "{}; {:?}", played.unwrap_err(), bench.notices);
        prop_assert!(!bench.notices.contains(&Notice::Gone));
    }

    #[test]
    fn what_was_flushed_outlives_a_loss_of_power(
        (soft, driver) in drives(),
        asks in asks(),
        power in any::<prop::sample::Index>(),
    ) {
        let mut bench = Bench::new(soft, driver);
        let played = play(&mut bench, &asks, Some(power.index(asks.len())));
        prop_assert!(played.is_ok(), "{}; {:?}", played.unwrap_err(), bench.notices);
        prop_assert!(!bench.notices.contains(&Notice::Gone));
    }
}
