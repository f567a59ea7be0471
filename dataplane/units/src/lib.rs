//! Newtypes for the quantities every other crate passes around, with checked conversions.
//!
//! Only [`Lba::to_bytes`] and [`BlockSize::blocks_in`] convert between blocks and bytes, so an
//! address can never be taken for a length or a byte for a block. 0's-based counts of the NVMe
//! specifications are decoded once, at the edge; everything here counts from one.
#![forbid(unsafe_code)]

use std::fmt;
use std::num::NonZeroU32;

/// Logical block address: counts blocks from the start of a namespace or device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lba(pub u64);

/// A count of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteCount(pub u64);

/// Logical block size: a power of two from 512 B to 64 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockSize {
    shift: u8,
}

/// Namespace identifier, 1 to FFFFFFFEh (NVMe Base 2.1, 3.2.1.1); the broadcast value is no [`Nsid`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nsid(NonZeroU32);

/// Queue identifier; 0 is the admin queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueId(pub u16);

/// Command identifier, chosen by the host, unique within a queue while the command is outstanding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandId(pub u16);

/// Controller identifier within a subsystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ControllerId(pub u16);

impl Lba {
    /// Byte offset of this block, or `None` where it would not fit 64 bits.
    pub fn to_bytes(self, block_size: BlockSize) -> Option<ByteCount> {
        self.0.checked_mul(block_size.bytes_u64()).map(ByteCount)
    }

    /// The address `blocks` further on, or `None` on overflow.
    pub fn checked_add(self, blocks: u64) -> Option<Lba> {
        self.0.checked_add(blocks).map(Lba)
    }
}

impl BlockSize {
    /// 512-byte blocks.
    pub const B512: BlockSize = BlockSize { shift: 9 };
    /// 4-KiB blocks.
    pub const B4096: BlockSize = BlockSize { shift: 12 };

    /// From a size in bytes; `None` unless a power of two from 512 to 65536.
    pub fn from_bytes(bytes: u32) -> Option<BlockSize> {
        if !bytes.is_power_of_two() || !(512..=65536).contains(&bytes) {
            return None;
        }
        u8::try_from(bytes.trailing_zeros())
            .ok()
            .map(|shift| BlockSize { shift })
    }

    /// Size of one block in bytes.
    pub fn bytes(self) -> u32 {
        1 << self.shift
    }

    /// Size of one block in bytes, as 64 bits.
    pub fn bytes_u64(self) -> u64 {
        1 << self.shift
    }

    /// log2 of the size, as Identify's LBADS field wants it.
    pub fn shift(self) -> u8 {
        self.shift
    }

    /// How many whole blocks `bytes` make, or `None` where they do not divide evenly.
    pub fn blocks_in(self, bytes: ByteCount) -> Option<u64> {
        (bytes.0 & (self.bytes_u64() - 1) == 0).then_some(bytes.0 >> self.shift)
    }
}

impl Nsid {
    /// From the wire value; `None` for 0 and for the broadcast value FFFFFFFFh.
    pub fn new(value: u32) -> Option<Nsid> {
        if value == u32::MAX {
            return None;
        }
        NonZeroU32::new(value).map(Nsid)
    }

    /// The wire value.
    pub fn get(self) -> u32 {
        self.0.get()
    }
}

impl QueueId {
    /// The admin queue.
    pub const ADMIN: QueueId = QueueId(0);

    /// Whether this is the admin queue.
    pub fn is_admin(self) -> bool {
        self.0 == 0
    }
}

macro_rules! display_inner {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { self.0.fmt(f) }
        }
    )*};
}
display_inner!(Lba, ByteCount, Nsid, QueueId, CommandId, ControllerId);

impl fmt::Display for BlockSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bytes().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lba_to_bytes_refuses_overflow() {
        assert_eq!(Lba(3).to_bytes(BlockSize::B4096), Some(ByteCount(12288)));
        assert_eq!(Lba(u64::MAX / 512 + 1).to_bytes(BlockSize::B512), None);
    }

    #[test]
    fn block_size_accepts_powers_of_two_only() {
        assert_eq!(BlockSize::from_bytes(4096), Some(BlockSize::B4096));
        for bad in [0, 1, 256, 513, 131_072] {
            assert_eq!(BlockSize::from_bytes(bad), None, "{bad}");
        }
        assert_eq!(BlockSize::B512.blocks_in(ByteCount(1024)), Some(2));
        assert_eq!(BlockSize::B512.blocks_in(ByteCount(1000)), None);
    }

    #[test]
    fn nsid_excludes_zero_and_broadcast() {
        assert!(Nsid::new(0).is_none());
        assert!(Nsid::new(u32::MAX).is_none());
        assert_eq!(Nsid::new(7).map(Nsid::get), Some(7));
    }
}
