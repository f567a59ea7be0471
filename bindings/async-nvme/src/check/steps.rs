//! The steps.

use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock_nvme::register::{Cap, OFFSET_CAP, OFFSET_VS};

use super::worker::{Memory, Worker};
use super::{CheckOptions, Steps, Stop};
use crate::cmb::CmbLayout;
use crate::controller::{
    Controller, ControllerConfig, Namespace, Notice, QueueInterrupt, Sleeping,
};
use crate::dma::Regions;
use crate::driver::{Driver, PairParts};
use crate::io::{IoError, Verb};
use crate::memory::DeviceMemory;
use crate::pci::PciAddress;
use crate::vfio::{Device, DeviceError};

/// Payload of a request: more than a command carries on most drives.
pub(super) const PAYLOAD_BYTES: usize = 1 << 20;
/// Payload in controller memory, which the processor reads slowly.
const CONTROLLER_PAYLOAD_BYTES: usize = 64 << 10;
const WRITE: Verb = Verb::Write { fua: false };

pub(super) fn all(address: &PciAddress, options: &CheckOptions, steps: &mut Steps<'_>) {
    let Some(device) = steps.take("open", open(address, options)) else {
        return;
    };
    steps.tell("registers", registers(&device));
    steps.tell("interrupts", interrupts(&device));
    let regions = Arc::new(Regions::new(device.mapper()));
    steps.tell("dma", dma(&regions));
    let Some((mut controller, namespace)) = steps.take("controller", start(&device, &regions))
    else {
        return;
    };
    steps.tell("health", health(&mut controller));
    steps.tell("error log", error_log(&mut controller));
    let layout = controller.controller_memory_layout();
    let mapped = steps.take(
        "controller memory",
        map_memory(&device, &mut controller, layout),
    );
    steps.tell("dma-buf", dma_buf(&controller));
    let lent = mapped.is_some();
    if !options.write {
        return;
    }
    let Some(namespace) = namespace else {
        steps.tell(
            "data",
            Err(Stop::Failed(
                "the drive has no namespace to write to".into(),
            )),
        );
        return;
    };
    // The queue was made when controller memory was in use already.
    let queue = controller.create_queue().map_err(Stop::from);
    let queue = queue.and_then(|parts| {
        let place = if parts.submission.is_some() {
            "submission queue in controller memory"
        } else {
            "submission queue in host memory"
        };
        Ok((Worker::start(PairParts::Own(parts))?, place.to_owned()))
    });
    let Some(worker) = steps.take("queue pair", queue) else {
        return;
    };
    let mut bench = Bench {
        regions,
        controller: Box::new(controller),
        worker,
        namespace,
    };
    steps.tell("data", bench.data());
    steps.tell(
        "data in controller memory",
        if lent {
            bench.data_in_controller()
        } else {
            none()
        },
    );
    steps.tell("data by interrupt", bench.data_by_interrupt(&device));
    steps.tell("reset under load", bench.reset());
    if let Some(limit) = options.until_removed
        && steps.take("removal", bench.until_removed(&device, limit)) == Some(true)
    {
        // Nobody is there to be shut down.
        return;
    }
    steps.tell("shutdown", bench.shut_down());
    if options.until_removed.is_none() {
        steps.tell("function reset", function_reset(&device));
    }
}

fn none() -> Result<String, Stop> {
    Err(Stop::Skipped("no controller memory in use".into()))
}

fn open(address: &PciAddress, options: &CheckOptions) -> Result<(Device, String), Stop> {
    let device = Device::open(address, &options.open)?;
    let way = format!("{address} through {:?}", device.iommu());
    Ok((device, way))
}

fn registers(device: &Device) -> Result<String, Stop> {
    let bar = device.bar0();
    let (cap, version) = (Cap(bar.read64(OFFSET_CAP)), bar.read32(OFFSET_VS));
    if cap.0 == u64::MAX || version == 0 {
        return Err(Stop::Failed(format!("CAP {:#x}, VS {version:#x}", cap.0)));
    }
    Ok(format!(
        "CAP {:#018x}, version {}.{}, {} queue entries, controller memory {}, BAR 0 of {} bytes",
        cap.0,
        version >> 16,
        version >> 8 & 0xff,
        cap.queue_entries_max(),
        if cap.cmbs() {
            "by CMBMSC"
        } else {
            "not by CMBMSC"
        },
        bar.len()
    ))
}

fn interrupts(device: &Device) -> Result<String, Stop> {
    let on = device.interrupts(1)?;
    let removal = device.removal_event().is_some();
    let error = device.error_event().is_some();
    Ok(format!(
        "{} MSI-X vector on; told of removal: {removal}, of errors: {error}",
        on.len()
    ))
}

fn dma(regions: &Regions) -> Result<String, Stop> {
    let memory = DeviceMemory::new(regions, 4 << 20, None)?;
    Ok(format!(
        "{} bytes at device address {:#x}",
        memory.len(),
        memory.device_address()
    ))
}

fn start(
    device: &Device,
    regions: &Arc<Regions>,
) -> Result<((Controller, Option<Namespace>), String), Stop> {
    let config = ControllerConfig {
        // One that is polled, one that interrupts.
        io_queues: 2,
        submission_in_controller: true,
        ..ControllerConfig::default()
    };
    let pace = Arc::new(Sleeping::default());
    let mut controller = Controller::start(device.bar0(), Arc::clone(regions), pace, config)?;
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

/// Whether a namespace can be tried with what is written here.
pub(super) fn is_usable(namespace: &Namespace) -> bool {
    let bytes = namespace
        .blocks
        .saturating_mul(namespace.format.block_bytes);
    namespace.block_size.is_some() && bytes >= 4 * PAYLOAD_BYTES as u64
}

/// A drive whose health is bad can still be tried out: what it says is for people to judge.
fn health(controller: &mut Controller) -> Result<String, Stop> {
    let log = controller.health()?;
    let celsius = i32::from(log.temperature.get()) - 273;
    let warnings = match log.critical_warning {
        0 => "no critical warning".to_owned(),
        bits => format!("CRITICAL WARNINGS {bits:#04x}"),
    };
    Ok(format!(
        "{warnings}, {celsius} °C, {} % used, {} % spare (least {} %), {} media errors, {} entries in \
         the error log, {} power cycles, {} unsafe shutdowns",
        log.percentage_used,
        log.available_spare,
        log.spare_threshold,
        log.media_errors.get(),
        log.error_entries.get(),
        log.power_cycles.get(),
        log.unsafe_shutdowns.get()
    ))
}

fn error_log(controller: &mut Controller) -> Result<String, Stop> {
    let entries = controller.error_log()?;
    let Some(newest) = entries.first() else {
        return Ok("empty".to_owned());
    };
    let told = entries.len();
    Ok(format!("{told} entries, the newest: {}", newest.told()))
}

/// Exports all of the memory in use as a dma-buf.
fn dma_buf(controller: &Controller) -> Result<String, Stop> {
    let none = || Stop::Skipped("the drive's memory is not in use".into());
    let pool = controller.controller_memory().ok_or_else(none)?;
    let memory = pool.take(pool.len_bytes())?;
    if !memory.can_export() {
        // The error tells what a kernel that can do it has.
        return match memory.dma_buf() {
            Err(err) => Err(Stop::Skipped(err.to_string())),
            Ok(_) => Err(Stop::Failed("exported although it is not offered".into())),
        };
    }
    let exported = memory.dma_buf()?;
    // Seeking to the end of a dma-buf tells its length.
    let len = std::io::Seek::seek(
        &mut std::fs::File::from(exported),
        std::io::SeekFrom::End(0),
    )?;
    if len != memory.len() as u64 {
        return Err(Stop::Failed(format!(
            "exported {len} of {} bytes",
            memory.len()
        )));
    }
    Ok(format!("{len} bytes exported"))
}

/// Takes the controller memory into use and tries it from here.
fn map_memory(
    device: &Device,
    controller: &mut Controller,
    layout: Option<CmbLayout>,
) -> Result<((), String), Stop> {
    let Some(layout) = layout else {
        return Err(Stop::Skipped("the drive has no controller memory".into()));
    };
    let (mapping, address) = device.controller_memory(&layout)?;
    let pool = controller.use_controller_memory(mapping, address)?;
    let memory = Memory::Controller(Arc::new(pool.take(CONTROLLER_PAYLOAD_BYTES)?));
    memory.fill(1);
    if let Some(at) = memory.differs(1) {
        return Err(Stop::Failed(format!(
            "controller memory reads back otherwise at {at}"
        )));
    }
    let said = format!(
        "{} bytes in BAR {} at bus address {address:#x}, {:?}",
        layout.len_bytes, layout.bar_index, layout.abilities
    );
    Ok(((), said))
}

fn function_reset(device: &Device) -> Result<String, Stop> {
    device.reset()?;
    let regions = Arc::new(Regions::new(device.mapper()));
    let ((mut controller, _), said) = start(device, &regions)?;
    controller.shut_down()?;
    Ok(format!("started again: {said}"))
}

/// A drive that is up.
pub(super) struct Bench {
    pub(super) regions: Arc<Regions>,
    pub(super) controller: Box<dyn Driver>,
    pub(super) worker: Worker,
    pub(super) namespace: Namespace,
}

impl Bench {
    pub(super) fn host(&self, bytes: usize) -> Result<Memory, Stop> {
        Ok(Memory::Host(Arc::new(DeviceMemory::new(
            &self.regions,
            bytes,
            None,
        )?)))
    }

    fn lent(&self) -> Result<Memory, Stop> {
        let pool = self.controller.controller_memory();
        let pool = pool.ok_or_else(|| Stop::Skipped("no controller memory in use".into()))?;
        Ok(Memory::Controller(Arc::new(
            pool.take(CONTROLLER_PAYLOAD_BYTES)?,
        )))
    }

    pub(super) fn transfer(&self, verb: Verb, slba: u64, memory: &Memory) -> Result<(), Stop> {
        self.worker
            .submit(verb, &self.namespace, slba, memory)
            .wait()
    }

    fn verify(&self, slba: u64, into: &Memory, seed: u64) -> Result<(), Stop> {
        into.fill(!seed);
        self.transfer(Verb::Read, slba, into)?;
        match into.differs(seed) {
            None => Ok(()),
            Some(at) => Err(Stop::Failed(format!(
                "block {slba} reads back otherwise at byte {at}"
            ))),
        }
    }

    pub(super) fn data(&self) -> Result<String, Stop> {
        let (from, into) = (self.host(PAYLOAD_BYTES)?, self.host(PAYLOAD_BYTES)?);
        let blocks = PAYLOAD_BYTES as u64 / self.namespace.format.block_bytes;
        // All are written before the first is read, so that one that hit another is seen.
        for round in 0..3 {
            from.fill(round);
            self.transfer(WRITE, round * blocks, &from)?;
        }
        for round in 0..3 {
            self.verify(round * blocks, &into, round)?;
        }
        self.worker
            .submit(Verb::Flush, &self.namespace, 0, &from)
            .wait()?;
        Ok(format!(
            "3 requests of {PAYLOAD_BYTES} bytes written, read back and flushed"
        ))
    }

    pub(super) fn data_in_controller(&self) -> Result<String, Stop> {
        let abilities = self.controller.controller_memory_abilities();
        if !abilities.read_data || !abilities.write_data {
            return Err(Stop::Skipped(format!(
                "the drive takes no data there: {abilities:?}"
            )));
        }
        let lent = self.lent()?;
        let host = self.host(CONTROLLER_PAYLOAD_BYTES)?;
        lent.fill(11);
        self.transfer(WRITE, 8, &lent)?;
        self.verify(8, &host, 11)?;
        host.fill(12);
        self.transfer(WRITE, 16, &host)?;
        self.verify(16, &lent, 12)?;
        Ok(format!(
            "{CONTROLLER_PAYLOAD_BYTES} bytes from there to the drive, and back"
        ))
    }

    /// Requests on a queue pair whose thread sleeps until the drive interrupts, also after a reset.
    fn data_by_interrupt(&mut self, device: &Device) -> Result<String, Stop> {
        const REQUESTS: u64 = 500;
        // The admin queue's vector and the queue pair's.
        let interrupts = match device.interrupts(2) {
            Err(err @ DeviceError::TooFewInterrupts { .. }) => {
                return Err(Stop::Skipped(err.to_string()));
            }
            other => other?,
        };
        let missing = || Stop::Failed("no event for vector 1".into());
        let interrupt = QueueInterrupt {
            vector: 1,
            event: interrupts.event(1).ok_or_else(missing)?.clone(),
        };
        let parts = self.controller.create_queue_with_interrupt(interrupt)?;
        let worker = Worker::start(parts)?;
        let from = self.host(CONTROLLER_PAYLOAD_BYTES)?;
        from.fill(31);
        for half in 0..2 {
            for number in 0..REQUESTS / 2 {
                worker.submit(WRITE, &self.namespace, 0, &from).wait()?;
                if worker.wake_ups().1 > 0 {
                    return Err(Stop::Failed(format!("no interrupt for request {number}")));
                }
            }
            if half == 0 {
                self.controller.reset()?;
            }
        }
        let into = self.host(CONTROLLER_PAYLOAD_BYTES)?;
        self.verify(0, &into, 31)?;
        let (by_event, _) = worker.wake_ups();
        Ok(format!(
            "{REQUESTS} requests, one at a time, and a reset: woken {by_event} times, never by time"
        ))
    }

    /// Resets the controller while requests are under way: all of them end well.
    pub(super) fn reset(&mut self) -> Result<String, Stop> {
        let (from, into) = (self.host(PAYLOAD_BYTES)?, self.host(PAYLOAD_BYTES)?);
        from.fill(21);
        self.transfer(WRITE, 0, &from)?;
        let pending: Vec<_> = (0..16)
            .map(|_| self.worker.submit(WRITE, &self.namespace, 0, &from))
            .collect();
        self.controller.reset()?;
        let count = pending.len();
        for pending in pending {
            pending.wait()?;
        }
        self.verify(0, &into, 21)?;
        Ok(format!("{count} requests ended well, data verified"))
    }

    /// Reads until the kernel wants the device back, or nothing of it is there any more. Whether it
    /// went without asking.
    fn until_removed(&mut self, device: &Device, limit: Duration) -> Result<(bool, String), Stop> {
        const PENDING: usize = 8;
        let into = self.host(PAYLOAD_BYTES)?;
        let (begun, mut asked, mut gone) = (Instant::now(), false, false);
        let (mut well, mut lost, mut pending) = (0_u64, 0_u64, Vec::new());
        while begun.elapsed() < limit {
            asked |= device.removal_requested();
            if let Some(notice) = self.controller.service() {
                gone |= notice == Notice::Gone;
                tracing::info!(?notice, "while waiting for removal");
            }
            while !asked && !gone && pending.len() < PENDING {
                let read = self.worker.submit(Verb::Read, &self.namespace, 0, &into);
                pending.push(read);
            }
            let mut failed = None;
            pending.retain(|request| {
                match request.ended() {
                    None => return true,
                    Some(Ok(_)) => well += 1,
                    Some(Err(IoError::Gone)) => lost += 1,
                    Some(Err(error)) => failed = Some(error),
                }
                false
            });
            if let Some(error) = failed {
                return Err(error.into());
            }
            match (pending.is_empty(), gone, asked) {
                (true, true, _) => {
                    return Ok((
                        true,
                        format!(
                            "pulled out after {well} requests; {lost} under way failed because it \
                             is gone, none otherwise"
                        ),
                    ));
                }
                (true, false, true) => {
                    let said = format!("asked to let go after {well} requests, none failed");
                    return Ok((false, said));
                }
                _ => std::thread::sleep(Duration::from_micros(100)),
            }
        }
        Err(Stop::Failed(format!(
            "not removed within {limit:?}, {} requests under way",
            pending.len()
        )))
    }

    pub(super) fn shut_down(self) -> Result<String, Stop> {
        let (mut controller, worker) = (self.controller, self.worker);
        controller.shut_down()?;
        drop(worker);
        Ok("the controller says that it is done".into())
    }
}
