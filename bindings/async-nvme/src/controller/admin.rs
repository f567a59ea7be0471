//! The admin queue: one command at a time, on a thread that may wait.

use std::collections::VecDeque;
use std::ptr::NonNull;
use std::sync::Arc;

use penstock_nvme::command::async_event_request;
use penstock_nvme::event::AsyncEvent;
use penstock_nvme::pcie::{cq_doorbell, sq_doorbell};
use penstock_nvme::{Cqe, Sqe};
use penstock_units::QueueId;

use super::commands::{Admin, DATA_BYTES, Data};
use super::error::ControllerError;
use super::pace::Pace;
use crate::bar::Bar;
use crate::dma::{DmaError, Regions};
use crate::memory::DeviceMemory;
use crate::queue::rings::{Completions, Doorbell, Submission};

/// Entries of both admin queues.
pub(super) const ENTRIES: u16 = 32;
/// Most event requests kept outstanding.
const EVENTS_MAX: u8 = 4;
const COMPLETIONS_OFFSET: usize = 4096;
const DATA_OFFSET: usize = 8192;
const MEMORY_BYTES: usize = 12288;

pub(super) struct AdminQueue {
    submission: Submission,
    completions: Completions,
    memory: DeviceMemory,
    next_cid: u16,
    /// Event requests that are out.
    event_requests: Vec<u16>,
    events: VecDeque<AsyncEvent>,
    pace: Arc<dyn Pace>,
    bar: Bar,
    timeout_ns: u64,
}

impl Admin for AdminQueue {
    fn execute(
        &mut self,
        command: &'static str,
        sqe: Sqe,
        data: Data<'_>,
    ) -> Result<Cqe, ControllerError> {
        let sqe = match &data {
            Data::None => sqe,
            Data::In(into) if into.len() <= DATA_BYTES => {
                sqe.with_prps(self.memory.device_address() + DATA_OFFSET as u64, 0)
            }
            Data::In(into) => {
                return Err(ControllerError::Dma(DmaError::NoAddresses {
                    len_bytes: into.len(),
                }));
            }
        };
        let cid = self.send(&sqe);
        let cqe = self.wait(command, cid)?;
        let status = cqe.status();
        if !status.is_success() {
            return Err(ControllerError::Refused { command, status });
        }
        if let Data::In(into) = data {
            self.memory.read(DATA_OFFSET, into);
        }
        Ok(cqe)
    }
}

impl AdminQueue {
    pub(super) fn new(
        bar: &Bar,
        dstrd: u8,
        regions: &Regions,
        numa_node: Option<u32>,
        pace: Arc<dyn Pace>,
        timeout_ns: u64,
    ) -> Result<AdminQueue, ControllerError> {
        let memory = DeviceMemory::new(regions, MEMORY_BYTES, numa_node)?;
        let doorbell = |offset: u32| -> Result<Doorbell, ControllerError> {
            let need_bytes = offset as usize + 4;
            let register = bar.word(offset).ok_or(ControllerError::Registers {
                need_bytes,
                have_bytes: bar.len(),
            })?;
            Ok(Doorbell::new(bar.clone(), register))
        };
        let tail = doorbell(sq_doorbell(QueueId::ADMIN, dstrd))?;
        let head = doorbell(cq_doorbell(QueueId::ADMIN, dstrd))?;
        // SAFETY: both lie inside the memory, which the value holds: 32 entries of 64 and 16 bytes,
        // each on a page.
        let (submission, completions) = unsafe {
            let at: NonNull<u8> = memory.base().add(COMPLETIONS_OFFSET);
            (
                Submission::new(memory.base(), u32::from(ENTRIES), tail),
                Completions::new(at, u32::from(ENTRIES), head),
            )
        };
        Ok(AdminQueue {
            submission,
            completions,
            memory,
            next_cid: 0,
            event_requests: Vec::new(),
            events: VecDeque::new(),
            pace,
            bar: bar.clone(),
            timeout_ns,
        })
    }

    /// Where the controller sees the submission and completion queues.
    pub(super) fn addresses(&self) -> (u64, u64) {
        let base = self.memory.device_address();
        (base, base + COMPLETIONS_OFFSET as u64)
    }

    /// After a reset of the controller.
    pub(super) fn restart(&mut self) {
        self.submission.restart();
        self.completions.restart();
        self.event_requests.clear();
    }

    fn send(&mut self, sqe: &Sqe) -> u16 {
        let mut cid = self.next_cid;
        while self.event_requests.contains(&cid) {
            cid = cid.wrapping_add(1);
        }
        self.next_cid = cid.wrapping_add(1);
        self.submission.push(sqe.with_cid(cid).into());
        self.submission.ring();
        cid
    }

    fn wait(&mut self, command: &'static str, cid: u16) -> Result<Cqe, ControllerError> {
        let start = self.pace.now_ns();
        loop {
            if let Some(cqe) = self.poll(Some(cid))? {
                return Ok(cqe);
            }
            super::ready::check_ready(&self.bar, command)?;
            let waited_ns = self.pace.now_ns().saturating_sub(start);
            if waited_ns > self.timeout_ns {
                return Err(ControllerError::TimedOut {
                    command,
                    waited_ms: waited_ns / 1_000_000,
                });
            }
            self.pace.pause();
        }
    }

    /// Takes what has been posted: events are kept, the answer to `wanted` is returned.
    fn poll(&mut self, wanted: Option<u16>) -> Result<Option<Cqe>, ControllerError> {
        let mut found = None;
        while let Some(cqe) = self.completions.pop() {
            let cid = cqe.command_id().0;
            if let Some(index) = self.event_requests.iter().position(|id| *id == cid) {
                self.event_requests.swap_remove(index);
                if cqe.status().is_success() {
                    self.events.push_back(AsyncEvent::from_dword(cqe.dw0()));
                }
            } else if wanted == Some(cid) && found.is_none() {
                found = Some(cqe);
            } else {
                self.completions.ring();
                return Err(ControllerError::Nonsense {
                    command: "an admin command",
                    what: "a completion for a command that is not outstanding",
                });
            }
        }
        self.completions.ring();
        Ok(found)
    }

    /// Keeps as many event requests outstanding as `limit` (AERL counted from one) allows.
    pub(super) fn request_events(&mut self, limit: u8) {
        while self.event_requests.len() < usize::from(limit.min(EVENTS_MAX)) {
            let cid = self.send(&async_event_request().with_prps(0, 0));
            self.event_requests.push(cid);
        }
    }

    /// The next event the controller has told of.
    pub(super) fn next_event(&mut self) -> Result<Option<AsyncEvent>, ControllerError> {
        if self.events.is_empty() {
            self.poll(None)?;
        }
        Ok(self.events.pop_front())
    }
}
