//! What only memory-based (PCIe) controllers have: queues in memory, doorbells, controller memory
//! (Base 2.1, 3.1.4 and 5.1.2 to 5.1.6; PCIe 1.1, 3.1).

use penstock_units::{Nsid, QueueId};

use crate::opcode::{AdminOpcode, IoOpcode};
use crate::sqe::Sqe;
use crate::wire::Le32;

/// Interrupt Mask Set, 4 bytes.
pub const OFFSET_INTMS: u32 = 0x0c;
/// Interrupt Mask Clear, 4 bytes.
pub const OFFSET_INTMC: u32 = 0x10;
/// Admin Queue Attributes, 4 bytes.
pub const OFFSET_AQA: u32 = 0x24;
/// Admin Submission Queue Base Address, 8 bytes.
pub const OFFSET_ASQ: u32 = 0x28;
/// Admin Completion Queue Base Address, 8 bytes.
pub const OFFSET_ACQ: u32 = 0x30;
/// Controller Memory Buffer Location, 4 bytes.
pub const OFFSET_CMBLOC: u32 = 0x38;
/// Controller Memory Buffer Size, 4 bytes.
pub const OFFSET_CMBSZ: u32 = 0x3c;
/// Controller Memory Buffer Memory Space Control, 8 bytes.
pub const OFFSET_CMBMSC: u32 = 0x50;
/// Controller Memory Buffer Status, 4 bytes.
pub const OFFSET_CMBSTS: u32 = 0x58;
/// Persistent Memory Region Capabilities, 4 bytes.
pub const OFFSET_PMRCAP: u32 = 0xe00;
/// Persistent Memory Region Control, 4 bytes.
pub const OFFSET_PMRCTL: u32 = 0xe04;
/// Persistent Memory Region Status, 4 bytes.
pub const OFFSET_PMRSTS: u32 = 0xe08;
/// Persistent Memory Region Controller Memory Space Control, lower half, 4 bytes.
pub const OFFSET_PMRMSCL: u32 = 0xe14;
/// Persistent Memory Region Controller Memory Space Control, upper half, 4 bytes.
pub const OFFSET_PMRMSCU: u32 = 0xe18;
/// First doorbell (PCIe 1.1, 3.1.2).
pub const OFFSET_DOORBELLS: u32 = 0x1000;

/// Offset of the submission queue tail doorbell of `queue` with CAP.DSTRD `dstrd`
/// (PCIe 1.1, 3.1.2.1).
pub const fn sq_doorbell(queue: QueueId, dstrd: u8) -> u32 {
    OFFSET_DOORBELLS + 2 * queue.0 as u32 * (4 << dstrd)
}

/// Offset of the completion queue head doorbell of `queue` (PCIe 1.1, 3.1.2.2).
pub const fn cq_doorbell(queue: QueueId, dstrd: u8) -> u32 {
    OFFSET_DOORBELLS + (2 * queue.0 as u32 + 1) * (4 << dstrd)
}

/// Admin Queue Attributes (Base 2.1, 3.1.4.8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Aqa(pub u32);

fields! { Aqa: u32 {
    /// Entries of the admin submission queue, 0's based.
    asqs, with_asqs: u16 = 0, 12;
    /// Entries of the admin completion queue, 0's based.
    acqs, with_acqs: u16 = 16, 12;
} }

/// Controller Memory Buffer Location (Base 2.1, 3.1.4.11).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cmbloc(pub u32);

fields! { Cmbloc: u32 {
    /// Base indicator register: which BAR holds the buffer; 0 (BAR0) or 2 to 5.
    bir, with_bir: u8 = 0, 3;
    /// Offset of the buffer in its BAR, in units of [`Cmbsz::unit_bytes`].
    ofst, with_ofst: u32 = 12, 20;
} }

flags! { Cmbloc: u32 {
    /// Queues in the buffer need not be physically contiguous with others.
    cqmms, with_cqmms = 3;
    /// Queues in the buffer may be discontiguous.
    cqpds, with_cqpds = 4;
    /// PRP and SGL lists may mix places.
    cdpmls, with_cdpmls = 5;
    /// Data pointer and command independent locations supported.
    cdpcils, with_cdpcils = 6;
    /// Data may mix places.
    cdmmms, with_cdmmms = 7;
    /// Queue dword alignment.
    cqda, with_cqda = 8;
} }

/// Controller Memory Buffer Size (Base 2.1, 3.1.4.12).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cmbsz(pub u32);

fields! { Cmbsz: u32 {
    /// Size unit: 4 KiB times 16 to the power of this; above 6 reserved.
    szu, with_szu: u8 = 8, 4;
    /// Size in units; 0 for no buffer.
    sz, with_sz: u32 = 12, 20;
} }

flags! { Cmbsz: u32 {
    /// Submission queues may lie in the buffer.
    sqs, with_sqs = 0;
    /// Completion queues may lie in the buffer.
    cqs, with_cqs = 1;
    /// PRP and SGL lists may lie in the buffer.
    lists, with_lists = 2;
    /// Data of commands that go from the controller to the host may lie in the buffer.
    rds, with_rds = 3;
    /// Data of commands that go from the host to the controller may lie in the buffer.
    wds, with_wds = 4;
} }

impl Cmbsz {
    /// Bytes of a size unit; `None` for the reserved encodings.
    pub const fn unit_bytes(self) -> Option<u64> {
        match self.szu() {
            szu @ 0..=6 => Some(4096 << (4 * szu)),
            _ => None,
        }
    }

    /// Bytes of the buffer; `None` for the reserved units.
    pub const fn size_bytes(self) -> Option<u64> {
        match self.unit_bytes() {
            Some(unit) => Some(unit * self.sz() as u64),
            None => None,
        }
    }
}

/// Controller Memory Buffer Memory Space Control (Base 2.1, 3.1.4.16).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cmbmsc(pub u64);

fields! { Cmbmsc: u64 {
    /// Controller base address: where commands see the buffer, in pages of 4 KiB.
    cba, with_cba: u64 = 12, 52;
} }

flags! { Cmbmsc: u64 {
    /// Capabilities registers enabled: CMBLOC and CMBSZ tell something.
    cre, with_cre = 0;
    /// Memory space enabled: commands may address the buffer.
    cmse, with_cmse = 1;
} }

/// CMBSTS bit: the controller base address is invalid (Base 2.1, 3.1.4.17).
pub const CMBSTS_CBAI: u32 = 1 << 0;

/// Persistent Memory Region Capabilities (Base 2.1, 3.1.4.22).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pmrcap(pub u32);

fields! { Pmrcap: u32 {
    /// Which BAR holds the region.
    bir, with_bir: u8 = 5, 3;
    /// Unit of the timeout: 0 for 500 ms, 1 for minutes.
    pmrtu, with_pmrtu: u8 = 8, 2;
    /// Ways to make writes durable: bit 0 a read of the region, bit 1 a read of PMRSTS.
    pmrwbm, with_pmrwbm: u8 = 10, 4;
    /// Timeout of becoming ready, in units of `pmrtu`.
    pmrto, with_pmrto: u8 = 16, 8;
} }

flags! { Pmrcap: u32 {
    /// Data of commands that go from the controller to the host may lie in the region.
    rds, with_rds = 3;
    /// Data of commands that go from the host to the controller may lie in the region.
    wds, with_wds = 4;
    /// Commands may address the region by PMRMSC.
    cmss, with_cmss = 24;
} }

/// PMRCTL bit: enable (Base 2.1, 3.1.4.23).
pub const PMRCTL_EN: u32 = 1 << 0;
/// PMRSTS bit: not ready (Base 2.1, 3.1.4.24).
pub const PMRSTS_NRDY: u32 = 1 << 8;
/// PMRSTS bit: the controller base address is invalid.
pub const PMRSTS_CBAI: u32 = 1 << 12;
/// PMRMSCL bit: commands may address the region (Base 2.1, 3.1.4.27).
pub const PMRMSCL_CMSE: u32 = 1 << 1;

/// A physically contiguous queue to be made: its number, entries counted from one, and where the
/// controller sees its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreateQueue {
    /// Queue identifier, 1 and up.
    pub queue: QueueId,
    /// Entries, 2 to 65536.
    pub entries: u32,
    /// Memory of the queue, page aligned.
    pub address: u64,
}

impl CreateQueue {
    fn encode(&self, opcode: AdminOpcode, cdw11: u32) -> Option<Sqe> {
        let qsize = u16::try_from(self.entries.checked_sub(1)?).ok()?;
        let mut sqe = Sqe::new(opcode.into()).with_prps(self.address, 0);
        sqe.cdw10 = Le32::new(u32::from(qsize) << 16 | u32::from(self.queue.0));
        // PC: physically contiguous.
        sqe.cdw11 = Le32::new(cdw11 | 1);
        Some(sqe)
    }

    /// Create I/O Completion Queue (Base 2.1, 5.2.1), interrupting by `vector` where given. `None`
    /// where the entries are out of range.
    pub fn completion(&self, vector: Option<u16>) -> Option<Sqe> {
        let interrupts = vector.map_or(0, |vector| u32::from(vector) << 16 | 1 << 1);
        self.encode(AdminOpcode::CreateIoCq, interrupts)
    }

    /// Create I/O Submission Queue (Base 2.1, 5.2.2) that completes to `completion`, urgent
    /// priority. `None` where the entries are out of range.
    pub fn submission(&self, completion: QueueId) -> Option<Sqe> {
        self.encode(AdminOpcode::CreateIoSq, u32::from(completion.0) << 16)
    }
}

/// Delete I/O Submission Queue (Base 2.1, 5.2.4).
pub fn delete_submission_queue(queue: QueueId) -> Sqe {
    delete(AdminOpcode::DeleteIoSq, queue)
}

/// Delete I/O Completion Queue (Base 2.1, 5.2.3).
pub fn delete_completion_queue(queue: QueueId) -> Sqe {
    delete(AdminOpcode::DeleteIoCq, queue)
}

fn delete(opcode: AdminOpcode, queue: QueueId) -> Sqe {
    let mut sqe = Sqe::new(opcode.into()).with_prps(0, 0);
    sqe.cdw10 = Le32::new(u32::from(queue.0));
    sqe
}

/// Doorbell Buffer Config (Base 2.1, 5.2.5): where the shadow doorbells and the event indexes lie,
/// each a page.
pub fn doorbell_buffer_config(shadow: u64, event_index: u64) -> Sqe {
    Sqe::new(AdminOpcode::DoorbellBufferConfig.into()).with_prps(shadow, event_index)
}

/// Format NVM (Base 2.1, 5.1.10) of one namespace or, with the broadcast value, of all: LBA format
/// `format` (0 to 63), secure erase setting `erase` (0 none, 1 user data, 2 cryptographic).
pub fn format_nvm(nsid: u32, format: u8, erase: u8) -> Sqe {
    let mut sqe = Sqe::new(AdminOpcode::FormatNvm.into()).with_prps(0, 0);
    sqe.nsid = Le32::new(nsid);
    let (low, high) = (u32::from(format & 0xf), u32::from(format >> 4 & 3));
    sqe.cdw10 = Le32::new(low | high << 12 | u32::from(erase & 7) << 9);
    sqe
}

/// A submission queue entry as eight words, each in the machine's order until written out: built in
/// registers where an entry of bytes would be put together in memory (Base 2.1, 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SqeWords([u64; 8]);

/// Dword 12 of Read and Write: force unit access (NVM 1.1, 3.3.6).
pub const DWORD12_FUA: u32 = 1 << 30;
/// Dword 12 of Write Zeroes: the blocks may be deallocated (NVM 1.1, 3.3.8).
pub const DWORD12_DEALLOCATE: u32 = 1 << 25;

impl SqeWords {
    /// A command with dwords 10 to 12, all else zero: no data, PRP.
    #[inline]
    pub fn new(opcode: IoOpcode, nsid: Nsid, dwords_10_11: u64, dword12: u32) -> SqeWords {
        let mut words = [0; 8];
        words[0] = u64::from(u8::from(opcode)) | u64::from(nsid.get()) << 32;
        words[5] = dwords_10_11;
        words[6] = u64::from(dword12);
        SqeWords(words)
    }

    /// Sets the command identifier, which must not have been set before.
    #[inline]
    #[must_use]
    pub fn with_cid(mut self, cid: u16) -> SqeWords {
        self.0[0] |= u64::from(cid) << 16;
        self
    }

    /// Sets the data pointer to two PRP entries.
    #[inline]
    #[must_use]
    pub fn with_prps(mut self, prp1: u64, prp2: u64) -> SqeWords {
        (self.0[3], self.0[4]) = (prp1, prp2);
        self
    }

    /// Sets the data pointer to an unkeyed SGL descriptor (Base 2.1, 4.3.2), and PSDT to 01b.
    #[inline]
    #[must_use]
    pub fn with_sgl(mut self, address: u64, length: u32, identifier: u8) -> SqeWords {
        self.0[0] |= 0x40 << 8;
        self.0[3] = address;
        self.0[4] = u64::from(length) | u64::from(identifier) << 56;
        self
    }

    /// The words as they lie in memory.
    #[inline]
    pub fn to_wire(self) -> [u64; 8] {
        self.0.map(u64::to_le)
    }
}

impl From<Sqe> for SqeWords {
    fn from(sqe: Sqe) -> SqeWords {
        let words: [u64; 8] = zerocopy::transmute!(sqe);
        SqeWords(words.map(u64::from_le))
    }
}

#[cfg(test)]
mod tests {
    use penstock_units::Lba;

    use super::*;
    use crate::command::BlockRange;
    use crate::sgl::{SGL_DATA_BLOCK, SglDescriptor};

    #[test]
    fn words_are_the_entrys_bytes() {
        let nsid = Nsid::new(7).unwrap();
        let mut range = BlockRange::new(Lba(0x12_3456_789a), 256);
        range.fua = true;
        let sqe = range.encode(IoOpcode::Write, nsid).unwrap();
        let words = SqeWords::new(IoOpcode::Write, nsid, 0x12_3456_789a, 255 | DWORD12_FUA);
        assert_eq!(
            SqeWords::from(sqe.with_cid(0xabcd).with_prps(0x1000, 0x2000)),
            words.with_cid(0xabcd).with_prps(0x1000, 0x2000)
        );
        let sgl = SglDescriptor::data_block(0x5000, 4096);
        assert_eq!(
            SqeWords::from(sqe.with_sgl(sgl)),
            words.with_sgl(0x5000, 4096, SGL_DATA_BLOCK)
        );
        let zeroes = BlockRange {
            deallocate: true,
            ..BlockRange::new(Lba(1), 1)
        };
        let sqe = zeroes.encode(IoOpcode::WriteZeroes, nsid).unwrap();
        let words = SqeWords::new(IoOpcode::WriteZeroes, nsid, 1, DWORD12_DEALLOCATE);
        assert_eq!(SqeWords::from(sqe.with_prps(0, 0)), words);
    }

    #[test]
    fn doorbells_lie_a_stride_apart() {
        assert_eq!(sq_doorbell(QueueId(0), 0), 0x1000);
        assert_eq!(cq_doorbell(QueueId(0), 0), 0x1004);
        assert_eq!(sq_doorbell(QueueId(3), 0), 0x1018);
        assert_eq!(cq_doorbell(QueueId(1), 4), 0x1000 + 3 * 64);
    }

    #[test]
    fn the_buffers_size_is_in_units() {
        let size = Cmbsz::default().with_sz(64).with_szu(2);
        assert_eq!(size.size_bytes(), Some(64 << 20));
        assert_eq!(Cmbsz::default().with_szu(7).size_bytes(), None);
        assert_eq!(Cmbmsc::default().with_cba(0x8_0000).0, 0x8000_0000);
    }

    #[test]
    fn queues_are_asked_for_as_the_specification_says() {
        let queue = CreateQueue {
            queue: QueueId(5),
            entries: 256,
            address: 0x1234_5000,
        };
        let cq = queue.completion(Some(3)).unwrap();
        assert_eq!((cq.opcode, cq.flags), (0x05, 0));
        assert_eq!(cq.prps(), (0x1234_5000, 0));
        assert_eq!((cq.cdw10.get(), cq.cdw11.get()), (0x00ff_0005, 0x0003_0003));
        let sq = queue.submission(QueueId(5)).unwrap();
        assert_eq!((sq.opcode, sq.cdw11.get()), (0x01, 0x0005_0001));
        let too_many = CreateQueue {
            entries: 65537,
            ..queue
        };
        assert_eq!(too_many.completion(None), None);
    }

    #[test]
    fn formats_above_fifteen_use_the_upper_bits() {
        assert_eq!(format_nvm(1, 0x21, 1).cdw10.get(), 0x2201);
    }
}
