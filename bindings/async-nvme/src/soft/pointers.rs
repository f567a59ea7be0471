//! Data pointers: PRPs, PRP lists and SGLs, checked as strictly as a controller may.

use penstock_nvme::sgl::{SGL_DATA_BLOCK, SGL_LAST_SEGMENT, SGL_SEGMENT};
use penstock_nvme::sqe::Psdt;
use penstock_nvme::{IntoBytes, SglDescriptor, Sqe, Status};

use super::bus::{Bus, Kind};
use super::config::SoftSgl;

/// Most descriptors of one command (a limit of the model, far above what a transfer needs).
const DESCRIPTORS_MAX: usize = 65536;

/// Contiguous bytes of a command's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) address: u64,
    pub(super) len: usize,
}

/// What data pointers may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// Bytes of a memory page (CC.MPS).
    pub(super) page: u64,
    pub(super) sgl: SoftSgl,
    /// Controller memory may hold the data of a command of this direction.
    pub(super) cmb_data: bool,
    pub(super) cmb_lists: bool,
    pub(super) mixed: bool,
}

/// A descriptor of the types memory-based controllers know.
enum Descriptor {
    Block(u64, u32),
    Segment(u64, u32),
    LastSegment(u64, u32),
}

impl Descriptor {
    fn of(descriptor: &SglDescriptor) -> Result<Descriptor, Status> {
        let [a, b, c, d, ..] = descriptor.specific;
        let (address, length) = (descriptor.address.get(), u32::from_le_bytes([a, b, c, d]));
        match descriptor.identifier {
            SGL_DATA_BLOCK => Ok(Descriptor::Block(address, length)),
            SGL_SEGMENT => Ok(Descriptor::Segment(address, length)),
            SGL_LAST_SEGMENT => Ok(Descriptor::LastSegment(address, length)),
            _ => Err(Status::SGL_TYPE_INVALID),
        }
    }
}

struct Walk<'a> {
    bus: &'a Bus,
    rules: Rules,
    left: usize,
    found: &'a mut Vec<Segment>,
    first_kind: Option<Kind>,
}

/// Fills `found` with where the `len` bytes of a command's data are. Nothing but lists is read.
pub(super) fn segments(
    bus: &Bus,
    rules: Rules,
    sqe: &Sqe,
    len: usize,
    found: &mut Vec<Segment>,
) -> Result<(), Status> {
    found.clear();
    let mut walk = Walk {
        bus,
        rules,
        left: len,
        found,
        first_kind: None,
    };
    match (sqe.psdt(), rules.sgl) {
        (Psdt::Prp, _) => walk.prps(sqe),
        (Psdt::Sgl, SoftSgl::Byte | SoftSgl::Dword) => walk.sgl(&sqe.sgl1),
        _ => Err(Status::INVALID_FIELD),
    }
}

impl Walk<'_> {
    fn push(&mut self, address: u64, len: usize) -> Result<(), Status> {
        let kind = self.bus.kind(address);
        if kind == Kind::Cmb && !self.rules.cmb_data {
            return Err(Status::INVALID_CMB_USE);
        }
        let first = *self.first_kind.get_or_insert(kind);
        if first != kind && !self.rules.mixed {
            return Err(Status::INVALID_CMB_USE);
        }
        self.found.push(Segment { address, len });
        self.left -= len;
        Ok(())
    }

    fn list_place(&self, address: u64) -> Result<(), Status> {
        match self.bus.kind(address) {
            Kind::Host => Ok(()),
            Kind::Cmb if self.rules.cmb_lists => Ok(()),
            Kind::Cmb | Kind::Pmr => Err(Status::INVALID_CMB_USE),
        }
    }

    fn page(&self) -> usize {
        usize::try_from(self.rules.page).unwrap_or(usize::MAX)
    }

    /// Base 2.1, 4.3.1: PRP1 may begin inside a page, at a dword; PRP2 is the second page, or a
    /// list where two entries do not suffice.
    fn prps(&mut self, sqe: &Sqe) -> Result<(), Status> {
        let (prp1, prp2) = sqe.prps();
        let offset = prp1 % self.rules.page;
        if !offset.is_multiple_of(4) {
            return Err(Status::PRP_OFFSET_INVALID);
        }
        let room = usize::try_from(self.rules.page - offset).unwrap_or(usize::MAX);
        self.push(prp1, room.min(self.left))?;
        if self.left == 0 {
            return Ok(());
        }
        if self.left <= self.page() {
            return self.whole_page(prp2);
        }
        if !prp2.is_multiple_of(8) {
            return Err(Status::PRP_OFFSET_INVALID);
        }
        self.prp_lists(prp2)
    }

    /// An entry other than the first: its offset is 0.
    fn whole_page(&mut self, address: u64) -> Result<(), Status> {
        if !address.is_multiple_of(self.rules.page) {
            return Err(Status::PRP_OFFSET_INVALID);
        }
        self.push(address, self.left.min(self.page()))
    }

    /// Base 2.1, 4.3.1, PRP List: a list goes to the end of its page; where it does not hold all
    /// entries its last is the address of the next list.
    fn prp_lists(&mut self, mut list: u64) -> Result<(), Status> {
        let mut entry = [0; 8];
        loop {
            self.list_place(list)?;
            let room = (self.rules.page - list % self.rules.page) / 8;
            let wanted = self.left.div_ceil(self.page()) as u64;
            let chained = wanted > room;
            let entries = if chained { room - 1 } else { wanted };
            for index in 0..entries {
                self.bus.read(list + index * 8, &mut entry)?;
                self.whole_page(u64::from_le_bytes(entry))?;
            }
            if !chained {
                return Ok(());
            }
            self.bus.read(list + entries * 8, &mut entry)?;
            list = u64::from_le_bytes(entry);
            if !list.is_multiple_of(self.rules.page) {
                return Err(Status::PRP_OFFSET_INVALID);
            }
        }
    }

    /// A data block. It may not hold more than the command moves, as SGLS says.
    fn block(&mut self, address: u64, length: u32) -> Result<(), Status> {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > self.left {
            return Err(Status::DATA_SGL_LENGTH_INVALID);
        }
        let dwords = address.is_multiple_of(4) && length.is_multiple_of(4);
        if self.rules.sgl == SoftSgl::Dword && !dwords {
            return Err(Status::SGL_GRANULARITY_INVALID);
        }
        match length {
            0 => Ok(()),
            _ => self.push(address, length),
        }
    }

    /// Base 2.1, 4.3.2: a data block alone, or segments, each ending in the next's descriptor and
    /// the last told as such.
    fn sgl(&mut self, descriptor: &SglDescriptor) -> Result<(), Status> {
        let mut next = *descriptor;
        let mut descriptors = 0;
        loop {
            let (last, address, bytes) = match Descriptor::of(&next)? {
                Descriptor::Block(address, length) => {
                    self.block(address, length)?;
                    break;
                }
                Descriptor::Segment(address, length) => (false, address, length),
                Descriptor::LastSegment(address, length) => (true, address, length),
            };
            if bytes == 0 || !bytes.is_multiple_of(16) {
                return Err(Status::INVALID_SGL_SEGMENT);
            }
            descriptors += bytes as usize / 16;
            if descriptors > DESCRIPTORS_MAX {
                return Err(Status::INVALID_SGL_COUNT);
            }
            match self.sgl_segment(address, bytes, last)? {
                Some(following) => next = following,
                None => break,
            }
        }
        if self.left > 0 {
            return Err(Status::DATA_SGL_LENGTH_INVALID);
        }
        Ok(())
    }

    /// One segment; its last descriptor where that is of another segment.
    fn sgl_segment(
        &mut self,
        address: u64,
        bytes: u32,
        last: bool,
    ) -> Result<Option<SglDescriptor>, Status> {
        self.list_place(address)?;
        let count = bytes / 16;
        for index in 0..count {
            let mut descriptor = SglDescriptor::none();
            let at = address + u64::from(index) * 16;
            self.bus.read(at, descriptor.as_mut_bytes())?;
            let ends = index + 1 == count;
            match Descriptor::of(&descriptor)? {
                Descriptor::Block(address, length) => {
                    self.block(address, length)?;
                    if ends && !last {
                        return Err(Status::INVALID_SGL_SEGMENT);
                    }
                }
                _ if ends && !last => return Ok(Some(descriptor)),
                _ => return Err(Status::INVALID_SGL_SEGMENT),
            }
        }
        Ok(None)
    }
}

/// Copies `from` to the segments, front to back.
pub(super) fn scatter(bus: &Bus, segments: &[Segment], mut from: &[u8]) -> Result<(), Status> {
    for segment in segments {
        let (part, rest) = from.split_at(segment.len.min(from.len()));
        bus.write(segment.address, part)?;
        bus.count(segment.address, part.len());
        from = rest;
    }
    Ok(())
}

/// Fills `to` from the segments, front to back.
pub(super) fn gather(bus: &Bus, segments: &[Segment], mut to: &mut [u8]) -> Result<(), Status> {
    for segment in segments {
        let (part, rest) = to.split_at_mut(segment.len.min(to.len()));
        bus.read(segment.address, part)?;
        bus.count(segment.address, part.len());
        to = rest;
    }
    Ok(())
}
