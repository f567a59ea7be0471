use penstock_async_nvme::soft::{ControllerFaults, SoftCmb, SoftConfig, SoftNamespace};
use penstock_async_nvme::{ControllerConfig, ControllerError};
use penstock_units::Nsid;

use crate::rig::{Rig, start};

#[test]
fn a_controller_starts_and_tells_what_it_is() {
    let mut soft = SoftConfig::with_namespace(64 << 20, 12);
    soft.namespaces.push(SoftNamespace::new(1 << 20, 9));
    let mut rig = Rig::new(soft, ControllerConfig::default());
    let all = rig.controller.namespaces().unwrap();
    let sizes: Vec<(u32, u64)> = all.iter().map(|ns| (ns.nsid.get(), ns.blocks)).collect();
    assert_eq!(sizes, [(1, 16384), (2, 2048)]);
    assert_eq!(rig.namespace.block_size.unwrap().bytes(), 4096);
    assert_eq!(
        rig.controller
            .namespace(Nsid::new(3).unwrap())
            .ok()
            .flatten(),
        None
    );
    assert!(!rig.controller.identity().model.is_empty());
    assert!(rig.controller.health().unwrap().temperature.get() > 200);
}

#[test]
fn a_controller_left_running_is_taken_over() {
    let (soft, pace, controller) =
        start(SoftConfig::default(), ControllerConfig::default()).unwrap();
    // As after a crash of this process: nobody disables it.
    std::mem::forget(controller);
    let regions = std::sync::Arc::new(penstock_async_nvme::Regions::new(soft.mapper()));
    let again = penstock_async_nvme::Controller::start(
        soft.bar(),
        regions,
        pace,
        ControllerConfig::default(),
    );
    assert!(again.unwrap().namespaces().is_ok());
}

#[test]
fn a_controller_that_never_gets_ready_is_told_of_with_its_time() {
    let soft = SoftConfig {
        timeout: 4,
        ready_after_ns: u64::MAX / 2,
        ..SoftConfig::default()
    };
    let Err(error) = start(soft, ControllerConfig::default()) else {
        panic!("it started");
    };
    let ControllerError::NeverReady { waited_ms, .. } = error else {
        panic!("{error}");
    };
    assert!((2000..2100).contains(&waited_ms), "{waited_ms} ms");
    assert!(error.to_string().contains("power cycle"));
}

#[test]
fn what_cannot_be_driven_is_refused_with_its_reason() {
    let pages = SoftConfig {
        mpsmin: 1,
        mpsmax: 1,
        ..SoftConfig::default()
    };
    let Err(error) = start(pages, ControllerConfig::default()) else {
        panic!("it started");
    };
    assert!(error.to_string().contains("8192 bytes"), "{error}");

    let few = SoftConfig {
        io_queues_max: 2,
        ..SoftConfig::default()
    };
    let many = ControllerConfig {
        io_queues: 3,
        ..ControllerConfig::default()
    };
    let Err(error) = start(few, many) else {
        panic!("it started");
    };
    assert!(matches!(
        error,
        ControllerError::Queues {
            asked: 3,
            granted: 2
        }
    ));
}

#[test]
fn an_ordered_shutdown_leaves_the_controller_off() {
    let mut rig = Rig::new(SoftConfig::default(), ControllerConfig::default());
    rig.controller.shut_down().unwrap();
    let again = rig.controller.shut_down().unwrap_err();
    assert!(matches!(again, ControllerError::Gone));
}

#[test]
fn a_controller_stuck_in_shutdown_is_told_of_and_disabled() {
    let mut rig = Rig::new(SoftConfig::default(), ControllerConfig::default());
    rig.soft.set_controller_faults(ControllerFaults {
        stuck_in_shutdown: true,
        ..ControllerFaults::default()
    });
    let error = rig.controller.shut_down().unwrap_err();
    let ControllerError::NeverReady { what, .. } = error else {
        panic!("{error}");
    };
    assert_eq!(what, "shut down");
}

#[test]
fn controller_memory_is_found_in_the_old_and_the_new_layout() {
    for legacy in [false, true] {
        let mut cmb = SoftCmb::new(1 << 20);
        cmb.legacy = legacy;
        let soft = SoftConfig {
            cmb: Some(cmb),
            ..SoftConfig::default()
        };
        let config = ControllerConfig {
            submission_in_controller: true,
            ..ControllerConfig::default()
        };
        let rig = Rig::new(soft, config);
        let pool = rig.controller.controller_memory().unwrap();
        assert_eq!(pool.len_bytes(), 1 << 20, "legacy {legacy}");
        // The submission queue lies there: 256 entries of 64 bytes.
        assert_eq!(pool.free_bytes(), (1 << 20) - 16384);
        let memory = rig.pattern(4096, 7);
        let (result, _) =
            rig.wait(
                rig.queue
                    .write(&rig.namespace, penstock_units::Lba(0), 1, false, memory),
            );
        result.unwrap();
        assert!(rig.soft.stats().own_fetches > 0);
    }
}

#[test]
fn a_full_controller_memory_is_told_with_its_size() {
    let soft = SoftConfig {
        cmb: Some(SoftCmb::new(8192)),
        ..SoftConfig::default()
    };
    let config = ControllerConfig {
        submission_in_controller: true,
        ..ControllerConfig::default()
    };
    let (_soft, _pace, mut controller) = start(soft, config).unwrap();
    let Err(error) = controller.create_queue() else {
        panic!("the queue fitted");
    };
    assert!(
        error.to_string().contains("8192 of 8192 bytes free"),
        "{error}"
    );
}
