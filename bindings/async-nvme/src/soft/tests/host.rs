//! A host that is nothing but rings: one command at a time, everything spelled out.

use std::collections::VecDeque;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use penstock_nvme::command::BlockRange;
use penstock_nvme::pcie::{self, Aqa, CreateQueue};
use penstock_nvme::register::{self, Cap, Cc, Csts};
use penstock_nvme::{Cqe, FromBytes, IoOpcode, Sqe, Status};
use penstock_units::{Lba, Nsid, QueueId};

use super::super::memory::Memory;
use super::super::{SoftConfig, SoftController};
use crate::bar::Bar;
use crate::dma::Mapper;

/// Memory that the controller may reach.
pub(crate) struct Shared {
    pub(crate) memory: Arc<Memory>,
    pub(crate) address: u64,
    mapper: Arc<dyn Mapper>,
}

impl Shared {
    pub(crate) fn new(controller: &SoftController, len: usize) -> Shared {
        let memory = Arc::new(Memory::new(len));
        let mapper = controller.mapper();
        // SAFETY: the memory lives until it is unmapped, and is reached by raw copies only.
        let address = unsafe { mapper.map(memory.base(), memory.len()) }.unwrap();
        Shared {
            memory,
            address,
            mapper,
        }
    }

    pub(crate) fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.memory.len());
        // SAFETY: inside the memory, as just checked.
        unsafe {
            let to = self.memory.base().as_ptr().add(offset);
            ptr::copy(bytes.as_ptr(), to, bytes.len());
        }
    }

    pub(crate) fn read(&self, offset: usize, len: usize) -> Vec<u8> {
        assert!(offset + len <= self.memory.len());
        let mut bytes = vec![0; len];
        // SAFETY: inside the memory, as just checked.
        unsafe {
            let from = self.memory.base().as_ptr().add(offset);
            ptr::copy(from, bytes.as_mut_ptr(), len);
        }
        bytes
    }

    pub(crate) fn word(&self, offset: usize) -> &AtomicU32 {
        self.memory.word(offset)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.mapper.unmap(self.address, self.memory.len());
    }
}

/// A queue pair, submission and completion queue of the same number.
pub(crate) struct Pair {
    pub(crate) entries: u32,
    pub(crate) sq: Shared,
    pub(crate) cq: Shared,
    pub(crate) tail: u32,
    pub(crate) head: u32,
    phase: bool,
}

impl Pair {
    pub(crate) fn new(controller: &SoftController, entries: u32) -> Pair {
        Pair {
            entries,
            sq: Shared::new(controller, entries as usize * 64),
            cq: Shared::new(controller, entries as usize * 16),
            tail: 0,
            head: 0,
            phase: true,
        }
    }

    pub(crate) fn poll(&mut self) -> Option<Cqe> {
        let offset = self.head as usize * 16;
        let last = self.cq.word(offset + 12).load(Ordering::Acquire);
        if (last >> 16 & 1 != 0) != self.phase {
            return None;
        }
        let cqe = Cqe::read_from_bytes(&self.cq.read(offset, 16)).unwrap();
        self.head += 1;
        if self.head == self.entries {
            self.head = 0;
            self.phase = !self.phase;
        }
        Some(cqe)
    }
}

pub(crate) struct Host {
    pub(crate) controller: SoftController,
    pub(crate) bar: Bar,
    pub(crate) now: u64,
    pub(crate) pairs: Vec<Pair>,
    /// Sixteen pages for data.
    pub(crate) data: Shared,
    pub(crate) cid: u16,
    /// Completions nobody waited for, with their queue.
    pub(crate) others: VecDeque<(u16, Cqe)>,
}

pub(crate) const ENTRIES: u32 = 8;

impl Host {
    /// A host whose controller is not enabled.
    pub(crate) fn cold(config: SoftConfig) -> Host {
        let controller = SoftController::new(config);
        let data = Shared::new(&controller, 16 * 4096);
        Host {
            bar: controller.bar(),
            now: 0,
            pairs: vec![Pair::new(&controller, ENTRIES)],
            data,
            cid: 0,
            others: VecDeque::new(),
            controller,
        }
    }

    /// A host with a ready controller.
    pub(crate) fn ready(config: SoftConfig) -> Host {
        let mut host = Host::cold(config);
        host.enable();
        host
    }

    /// A host with a ready controller and I/O queue 1.
    pub(crate) fn with_queue(config: SoftConfig) -> Host {
        let mut host = Host::ready(config);
        host.create_pair(1).unwrap();
        host
    }

    pub(crate) fn cap(&self) -> Cap {
        Cap(self.bar.read64(register::OFFSET_CAP))
    }

    pub(crate) fn csts(&self) -> Csts {
        Csts(self.bar.read32(register::OFFSET_CSTS))
    }

    pub(crate) fn configuration(&self) -> Cc {
        Cc::default().with_iosqes(6).with_iocqes(4)
    }

    pub(crate) fn step(&mut self) {
        self.controller.step(self.now);
    }

    pub(crate) fn wait(&mut self, ns: u64) {
        self.now += ns;
        self.step();
    }

    pub(crate) fn write_cc(&mut self, cc: Cc) {
        self.bar.write32(register::OFFSET_CC, cc.0);
        self.step();
    }

    pub(crate) fn enable(&mut self) {
        let pair = Pair::new(&self.controller, ENTRIES);
        let last = u16::try_from(ENTRIES - 1).unwrap();
        let aqa = Aqa::default().with_asqs(last).with_acqs(last);
        self.bar.write32(pcie::OFFSET_AQA, aqa.0);
        self.bar.write64(pcie::OFFSET_ASQ, pair.sq.address);
        self.bar.write64(pcie::OFFSET_ACQ, pair.cq.address);
        self.pairs = vec![pair];
        self.write_cc(self.configuration().with_en(true));
    }

    /// Makes queue pair `id`, next in number.
    pub(crate) fn create_pair(&mut self, id: u16) -> Result<(), Status> {
        let pair = Pair::new(&self.controller, ENTRIES);
        let queue = |address| CreateQueue {
            queue: QueueId(id),
            entries: ENTRIES,
            address,
        };
        let (sq, cq) = (queue(pair.sq.address), queue(pair.cq.address));
        self.admin(cq.completion(Some(id)).unwrap())?;
        self.admin(sq.submission(QueueId(id)).unwrap())?;
        assert_eq!(usize::from(id), self.pairs.len());
        self.pairs.push(pair);
        Ok(())
    }

    /// Puts a command into the ring with a new identifier, doorbell not written.
    pub(crate) fn put(&mut self, queue: u16, sqe: Sqe) -> u16 {
        self.cid += 1;
        let pair = &mut self.pairs[usize::from(queue)];
        let sqe = sqe.with_cid(self.cid);
        pair.sq.write(pair.tail as usize * 64, &sqe.to_bytes());
        pair.tail = (pair.tail + 1) % pair.entries;
        self.cid
    }

    pub(crate) fn ring(&mut self, queue: u16) {
        let dstrd = self.cap().dstrd();
        let tail = self.pairs[usize::from(queue)].tail;
        let register = pcie::sq_doorbell(QueueId(queue), dstrd);
        self.bar.write32(register, tail);
    }

    pub(crate) fn submit(&mut self, queue: u16, sqe: Sqe) -> u16 {
        let cid = self.put(queue, sqe);
        self.ring(queue);
        cid
    }

    /// Takes a completion off the queue and tells its new head.
    pub(crate) fn poll(&mut self, queue: u16) -> Option<Cqe> {
        let cqe = self.pairs[usize::from(queue)].poll()?;
        let register = pcie::cq_doorbell(QueueId(queue), self.cap().dstrd());
        self.bar
            .write32(register, self.pairs[usize::from(queue)].head);
        Some(cqe)
    }

    /// Waits a few looks for a command's completion; `None` where there is none.
    pub(crate) fn completion(&mut self, queue: u16, cid: u16) -> Option<Cqe> {
        for _ in 0..4 {
            self.step();
            while let Some(cqe) = self.poll(queue) {
                assert_eq!(cqe.sqid.get(), queue);
                if cqe.cid.get() == cid {
                    return Some(cqe);
                }
                self.others.push_back((queue, cqe));
            }
        }
        None
    }

    pub(crate) fn command(&mut self, queue: u16, sqe: Sqe) -> Result<u32, Status> {
        let cid = self.submit(queue, sqe);
        let cqe = self.completion(queue, cid).expect("a completion");
        match cqe.status().is_success() {
            true => Ok(cqe.dw0()),
            false => Err(cqe.status().code()),
        }
    }

    pub(crate) fn admin(&mut self, sqe: Sqe) -> Result<u32, Status> {
        let (prp1, prp2) = sqe.prps();
        self.command(0, sqe.with_prps(prp1, prp2))
    }

    /// An admin command whose data goes to the first data page.
    pub(crate) fn admin_data(&mut self, sqe: Sqe) -> Result<Vec<u8>, Status> {
        self.admin(sqe.with_prps(self.data.address, 0))?;
        Ok(self.data.read(0, 4096))
    }

    /// An I/O command of `blocks` from `lba` on, data in the data pages.
    pub(crate) fn io(&mut self, opcode: IoOpcode, lba: u64, blocks: u32) -> Result<u32, Status> {
        let sqe = self.sqe(opcode, lba, blocks);
        self.command(1, sqe)
    }

    /// Data in the first two data pages.
    pub(crate) fn sqe(&self, opcode: IoOpcode, lba: u64, blocks: u32) -> Sqe {
        let range = BlockRange::new(Lba(lba), blocks);
        let sqe = range.encode(opcode, Nsid::new(1).unwrap()).unwrap();
        sqe.with_prps(self.data.address, self.data.address + 4096)
    }

    #[track_caller]
    pub(crate) fn is_clean(&self) {
        assert_eq!(self.controller.violations(), Vec::<String>::new());
    }
}
