//! What a device is like, and the checks that follow from it.

use penstock_units::{BlockSize, ByteCount, Lba};

use crate::{BlockError, Op, Request};

/// Size and abilities of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Logical block size.
    pub block_size: BlockSize,
    /// Number of logical blocks now.
    pub blocks: u64,
    /// Whether a write may sit in a volatile cache until flushed.
    pub volatile_cache: bool,
    /// Whether deallocate does anything.
    pub deallocate: bool,
    /// Whether deallocated blocks read back as zeroes.
    pub deallocated_reads_zero: bool,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Preferred write granularity in blocks (at least 1).
    pub optimal_blocks: u32,
}

/// A checked range of bytes on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    /// First byte, from the device's start.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
}

impl Geometry {
    /// Size in bytes now, or as many as 64 bits hold.
    pub fn size_bytes(&self) -> u64 {
        self.blocks.saturating_mul(self.block_size.bytes_u64())
    }

    /// Where `blocks` blocks from `lba` lie.
    ///
    /// # Errors
    /// [`BlockError::OutOfRange`] where any of them is outside the device.
    pub fn check_range(&self, lba: Lba, blocks: u64) -> Result<ByteRange, BlockError> {
        let end = lba.checked_add(blocks).ok_or(BlockError::OutOfRange)?;
        if end.0 > self.blocks {
            return Err(BlockError::OutOfRange);
        }
        let bytes = |lba: Lba| lba.to_bytes(self.block_size).ok_or(BlockError::OutOfRange);
        let (ByteCount(offset), ByteCount(end)) = (bytes(lba)?, bytes(end)?);
        Ok(ByteRange {
            offset,
            len: end - offset,
        })
    }

    /// Checks a request against the device: its range (for a flush, none), whether it may write,
    /// and that the payload is as long as the range. Where it lies.
    ///
    /// # Errors
    /// [`BlockError::OutOfRange`]; [`BlockError::ReadOnly`]; [`BlockError::Internal`] for a payload
    /// of another length than the range, which is a mistake of the caller.
    pub fn check(&self, request: &Request) -> Result<ByteRange, BlockError> {
        if request.op == Op::Flush {
            return Ok(ByteRange { offset: 0, len: 0 });
        }
        let range = self.check_range(request.lba, request.blocks)?;
        if self.read_only && request.op != Op::Read {
            return Err(BlockError::ReadOnly);
        }
        let moves_data = matches!(request.op, Op::Read | Op::Write { .. });
        if moves_data && request.payload.len() as u64 != range.len {
            return Err(BlockError::Internal);
        }
        Ok(range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_buffer::{Payload, Pool, PoolConfig};

    fn geometry(block_size: BlockSize, blocks: u64) -> Geometry {
        Geometry {
            block_size,
            blocks,
            volatile_cache: false,
            deallocate: false,
            deallocated_reads_zero: false,
            read_only: false,
            optimal_blocks: 1,
        }
    }

    fn request(op: Op, lba: u64, blocks: u64, payload_bytes: usize) -> Request {
        let payload = match payload_bytes {
            0 => Payload::none(),
            n => Pool::new(&PoolConfig {
                size_bytes: 2 << 20,
                ..PoolConfig::default()
            })
            .unwrap()
            .try_lease(n)
            .unwrap()
            .into(),
        };
        Request {
            op,
            lba: Lba(lba),
            blocks,
            payload,
        }
    }

    #[test]
    fn ranges_end_with_the_device() {
        let geometry = geometry(BlockSize::B4096, 10);
        assert_eq!(geometry.size_bytes(), 40_960);
        let at = |lba, blocks| geometry.check_range(Lba(lba), blocks);
        assert_eq!(
            at(0, 10),
            Ok(ByteRange {
                offset: 0,
                len: 40_960
            })
        );
        assert_eq!(
            at(9, 1),
            Ok(ByteRange {
                offset: 36_864,
                len: 4096
            })
        );
        assert_eq!(
            at(10, 0),
            Ok(ByteRange {
                offset: 40_960,
                len: 0
            })
        );
        for (lba, blocks) in [(9, 2), (10, 1), (11, 0), (u64::MAX, 1), (1, u64::MAX)] {
            assert_eq!(
                at(lba, blocks),
                Err(BlockError::OutOfRange),
                "{lba}+{blocks}"
            );
        }
    }

    #[test]
    fn bytes_beyond_64_bits_are_out_of_range() {
        let geometry = geometry(BlockSize::B4096, u64::MAX);
        assert_eq!(
            geometry.check_range(Lba(1 << 60), 1),
            Err(BlockError::OutOfRange)
        );
        assert_eq!(geometry.size_bytes(), u64::MAX);
    }

    #[test]
    fn a_request_is_checked_as_its_operation_needs() {
        let mut geometry = geometry(BlockSize::B512, 16);
        let write = Op::Write { fua: false };
        let zeroes = Op::WriteZeroes {
            fua: false,
            may_deallocate: true,
        };
        let whole = ByteRange {
            offset: 512,
            len: 1024,
        };
        for (op, bytes) in [
            (Op::Read, 1024),
            (write, 1024),
            (zeroes, 0),
            (Op::Deallocate, 0),
        ] {
            assert_eq!(
                geometry.check(&request(op, 1, 2, bytes)),
                Ok(whole),
                "{op:?}"
            );
            assert_eq!(
                geometry.check(&request(op, 15, 2, bytes)),
                Err(BlockError::OutOfRange),
                "{op:?}"
            );
        }
        for op in [Op::Read, write] {
            for bytes in [0, 512, 1025] {
                assert_eq!(
                    geometry.check(&request(op, 1, 2, bytes)),
                    Err(BlockError::Internal)
                );
            }
        }
        assert!(
            geometry
                .check(&request(Op::Flush, u64::MAX, u64::MAX, 0))
                .is_ok()
        );

        geometry.read_only = true;
        for op in [write, zeroes, Op::Deallocate] {
            assert_eq!(
                geometry.check(&request(op, 1, 2, 1024)),
                Err(BlockError::ReadOnly)
            );
        }
        assert_eq!(geometry.check(&request(Op::Read, 1, 2, 1024)), Ok(whole));
        assert!(geometry.check(&request(Op::Flush, 0, 0, 0)).is_ok());
    }
}
