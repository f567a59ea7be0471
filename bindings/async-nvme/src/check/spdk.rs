//! The steps where SPDK drives the drive.

use std::ptr::NonNull;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::steps::{Bench, PAYLOAD_BYTES, is_usable};
use super::worker::{Memory, Worker};
use super::{CheckOptions, Steps, Stop};
use crate::controller::{ControllerConfig, Namespace, Notice};
use crate::dma::{DmaError, Mapper, Regions};
use crate::driver::{Driver, SpdkOptions};
use crate::io::{IoError, Verb};
use crate::memory::DeviceMemory;
use crate::pci::PciAddress;
use crate::spdk::SpdkController;

pub(super) fn all(
    address: &PciAddress,
    options: &CheckOptions,
    spdk: SpdkOptions,
    steps: &mut Steps<'_>,
) {
    let Some((mut controller, namespace)) = steps.take("controller", start(address, options, spdk))
    else {
        return;
    };
    steps.tell("health", health(&mut controller));
    steps.tell("controller memory", memory(&controller));
    if !options.write {
        steps.tell("shutdown", shut_down(controller));
        return;
    }
    let Some(namespace) = namespace else {
        let why = "the drive has no namespace to write to";
        steps.tell("data", Err(Stop::Failed(why.into())));
        return;
    };
    let worker = controller.create_queue().map_err(Stop::from);
    let worker = worker.and_then(|parts| Ok((Worker::start(parts)?, "of SPDK's".to_owned())));
    let Some(worker) = steps.take("queue pair", worker) else {
        return;
    };
    let mut bench = Bench {
        regions: Arc::clone(controller.regions()),
        controller: Box::new(controller),
        worker,
        namespace,
    };
    steps.tell("data", bench.data());
    steps.tell("data in controller memory", bench.data_in_controller());
    steps.tell("unregistered memory", unregistered(&bench));
    steps.tell("reset under load", bench.reset());
    steps.tell(
        "data in controller memory after it",
        bench.data_in_controller(),
    );
    match options.until_removed {
        Some(limit) => steps.tell("removal", until_removed(&mut bench, limit)),
        None => steps.tell("shutdown", bench.shut_down()),
    }
}

fn start(
    address: &PciAddress,
    options: &CheckOptions,
    spdk: SpdkOptions,
) -> Result<((SpdkController, Option<Namespace>), String), Stop> {
    let config = ControllerConfig::default();
    let mut controller = SpdkController::start(*address, &options.open.host, spdk, config)?;
    let namespaces = controller.namespaces()?;
    let identity = controller.identity();
    let said = format!(
        "{} {}, {} namespaces, transfers of {:?} bytes",
        identity.model,
        identity.serial,
        namespaces.len(),
        identity.transfer_bytes_max
    );
    Ok(((controller, namespaces.into_iter().find(is_usable)), said))
}

fn health(controller: &mut SpdkController) -> Result<String, Stop> {
    let log = controller.health()?;
    Ok(format!(
        "{} K, {} % used",
        log.temperature, log.percentage_used
    ))
}

fn memory(controller: &SpdkController) -> Result<String, Stop> {
    let pool = controller.controller_memory();
    let pool = pool.ok_or_else(|| Stop::Skipped("the drive has no controller memory".into()))?;
    Ok(format!(
        "{} bytes, {:?}",
        pool.len_bytes(),
        pool.abilities()
    ))
}

/// Tells nobody of memory.
struct Silent;

impl Mapper for Silent {
    unsafe fn map(&self, start: NonNull<u8>, _len: usize) -> Result<u64, DmaError> {
        Ok(start.addr().get() as u64)
    }

    fn unmap(&self, _device_address: u64, _len: usize) {}
}

/// Memory that SPDK was not told of is refused, not taken for something else.
fn unregistered(bench: &Bench) -> Result<String, Stop> {
    let nowhere = Regions::new(Arc::new(Silent));
    let memory = DeviceMemory::new(&nowhere, PAYLOAD_BYTES, None)?;
    let memory = Memory::Host(Arc::new(memory));
    match bench.transfer(Verb::Read, 0, &memory) {
        Err(Stop::Failed(why)) if why == IoError::Unmapped.to_string() => {
            Ok(format!("refused: {why}"))
        }
        Err(stop) => Err(stop),
        Ok(()) => Err(Stop::Failed("the drive was let at it".into())),
    }
}

/// Reads until SPDK lets the device go because the kernel wants it back.
fn until_removed(bench: &mut Bench, limit: Duration) -> Result<String, Stop> {
    let into = bench.host(PAYLOAD_BYTES)?;
    let (begun, mut well) = (Instant::now(), 0_u64);
    while begun.elapsed() < limit {
        match bench.controller.service() {
            Some(Notice::Gone) => {
                return match bench.transfer(Verb::Read, 0, &into) {
                    Err(_) => Ok(format!(
                        "asked to let go after {well} requests, none failed"
                    )),
                    Ok(()) => Err(Stop::Failed("a drive that is gone was read".into())),
                };
            }
            Some(notice) => tracing::info!(?notice, "while waiting for removal"),
            None => {}
        }
        bench.transfer(Verb::Read, 0, &into)?;
        well += 1;
    }
    Err(Stop::Failed(format!("not removed within {limit:?}")))
}

fn shut_down(mut controller: SpdkController) -> Result<String, Stop> {
    controller.shut_down()?;
    Ok("SPDK has let go of the drive".into())
}
