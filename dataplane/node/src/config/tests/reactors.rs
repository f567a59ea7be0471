//! `[reactors]`.

use super::*;

#[test]
fn a_count_of_reactors_fits_the_cores_that_are_allowed() {
    for (keys, line, parts) in [
        (
            "count = 0",
            2,
            &[
                "reactors.count",
                "0 reactors on the 3 core(s)",
                "from 1 to 3",
            ],
        ),
        (
            "count = 4",
            2,
            &["4 reactors on the 3 core(s)", "(0-2)", "AllowedCPUs="],
        ),
        (
            "cores = [1]\ncount = 1",
            3,
            &["reactors.count", "cores says already", "remove count"],
        ),
    ] {
        refused(&format!("[reactors]\n{keys}\n{LISTENER}"), line, parts);
    }
    let counted = parse(&format!("[reactors]\ncount = 3\n{LISTENER}")).expect("sound");
    assert_eq!(counted.reactors.cores, Cores::Placed(3));
}

#[test]
fn refuses_reactors_that_the_machine_cannot_carry() {
    for (keys, line, parts) in [
        (
            "cores = []",
            2,
            ["reactors.cores", "no core is named"].as_slice(),
        ),
        (
            "cores = [1, 0, 1]",
            2,
            &["core 1 is named twice", "name every core once"],
        ),
        (
            "cores = [0, 9]",
            2,
            &["core 9 is not online", "use cores among 0-3"],
        ),
        (
            "cores = [3]",
            2,
            &[
                "may not run on core 3",
                "use cores among 0-2",
                "AllowedCPUs=",
            ],
        ),
        (
            "poll = \"lazy\"",
            2,
            &["reactors.poll", "\"lazy\"", "adaptive, busy"],
        ),
        (
            "idle_us = 2000000",
            2,
            &["2000000 is outside its limits", "from 0 to 1000000"],
        ),
        ("ring_entries = 1000", 2, &["1000 is no power of two"]),
        ("receive_buffers = 17", 2, &["17 is no power of two"]),
        (
            "buffer_pool_size_bytes = 2097152",
            2,
            &[
                "fewer than 4 transfers of tcp.mdts_bytes",
                "at least 4194304",
            ],
        ),
        (
            "cores = [0, 1]\nbuffer_pool_size_bytes = 8589934592",
            3,
            &[
                "2 pools of 8589934592 bytes",
                "8589934592 bytes of memory",
                "fewer reactors",
            ],
        ),
        (
            "lock_memory = true\nbuffer_pool_size_bytes = 16777216",
            2,
            &[
                "16777216 bytes of locked memory",
                "is 8388608",
                "LimitMEMLOCK=",
                "ulimit -l 16384",
            ],
        ),
    ] {
        refused(&format!("[reactors]\n{keys}\n{LISTENER}"), line, parts);
    }
}

#[test]
fn refuses_hugepages_that_are_demanded_and_not_there() {
    for (keys, line, parts) in [
        (
            "cores = [0, 1, 2]\nhugepages_required = true\nbuffer_pool_size_bytes = 83886080",
            3,
            &[
                "reactors.hugepages_required",
                "take 120 hugepages of 2 MiB, and the machine has 100",
                "sysctl -w vm.nr_hugepages=120",
            ][..],
        ),
        (
            "hugepages = false\nhugepages_required = true",
            3,
            &["demanded and switched off", "remove hugepages = false"][..],
        ),
    ] {
        refused(&format!("[reactors]\n{keys}\n{LISTENER}"), line, parts);
    }
}

#[test]
fn an_unpinned_reactor_needs_no_particular_core() {
    let text = format!("[reactors]\npin = false\ncores = [40, 41]\n{LISTENER}");
    let cores = parse(&text).expect("sound").reactors.cores;
    assert_eq!(cores, Cores::Named(vec![40, 41]));
}
