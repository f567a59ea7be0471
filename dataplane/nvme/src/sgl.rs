//! Scatter-gather list descriptors (Base 2.1, 4.3.2).

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::wire::{Le32, Le64};

/// SGL descriptor, 16 bytes (Base 2.1, 4.3.2, SGL Descriptor Format). Its last byte tells which of
/// the views ([`SglDescriptor::decode`]) the others mean.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct SglDescriptor {
    /// Address or offset.
    pub address: Le64,
    /// Bytes 8 to 14; unkeyed descriptors have the length in the first four.
    pub specific: [u8; 7],
    /// Descriptor type in bits 7:4, sub type in bits 3:0.
    pub identifier: u8,
}
layout!(SglDescriptor, 16, address @ 0, specific @ 8, identifier @ 15);

/// Identifier byte: data block, address sub type (00h).
pub const SGL_DATA_BLOCK: u8 = 0x00;
/// Identifier byte: data block, offset sub type (01h): in-capsule data.
pub const SGL_IN_CAPSULE: u8 = 0x01;
/// Identifier byte: segment (20h): the address and length of further descriptors, the last of which
/// leads on.
pub const SGL_SEGMENT: u8 = 0x20;
/// Identifier byte: last segment (30h): the address and length of the last descriptors.
pub const SGL_LAST_SEGMENT: u8 = 0x30;
/// Identifier byte: keyed data block, address sub type (40h): RDMA.
pub const SGL_KEYED: u8 = 0x40;
/// Identifier byte: keyed data block, invalidate key sub type (4Fh): RDMA.
pub const SGL_KEYED_INVALIDATE: u8 = 0x4f;
/// Identifier byte: transport data block, transport sub type (5Ah): TCP, data fetched by R2T or
/// sent as C2HData.
pub const SGL_TRANSPORT: u8 = 0x5a;

/// What a descriptor means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sgl {
    /// Data block at an address (controllers with memory of the host at hand).
    DataBlock {
        /// Address.
        address: u64,
        /// Bytes.
        length: u32,
    },
    /// Data in the capsule, `offset` bytes after the end of the submission queue entry and ICDOFF.
    InCapsule {
        /// Offset in bytes.
        offset: u64,
        /// Bytes.
        length: u32,
    },
    /// Data in the host's memory, moved by the controller through RDMA.
    Keyed {
        /// Remote address.
        address: u64,
        /// Bytes (24-bit field).
        length: u32,
        /// Remote key.
        key: u32,
        /// Whether the host's key is to be invalidated by the response.
        invalidate: bool,
    },
    /// Data moved by the transport's own messages.
    Transport {
        /// Bytes.
        length: u32,
    },
    /// Bit bucket, segment, last segment, vendor or reserved: none is used over Fabrics.
    Other {
        /// The identifier byte.
        identifier: u8,
    },
}

impl SglDescriptor {
    /// A descriptor of no data: a zero-length data block.
    pub fn none() -> SglDescriptor {
        SglDescriptor::new_zeroed()
    }

    fn unkeyed(address: u64, length: u32, identifier: u8) -> SglDescriptor {
        let [a, b, c, d] = length.to_le_bytes();
        SglDescriptor {
            address: Le64::new(address),
            specific: [a, b, c, d, 0, 0, 0],
            identifier,
        }
    }

    /// In-capsule data at `offset` bytes (Base 2.1, 4.3.2, Data Block with Offset sub type).
    pub fn in_capsule(offset: u64, length: u32) -> SglDescriptor {
        Self::unkeyed(offset, length, SGL_IN_CAPSULE)
    }

    /// Data moved by the transport (Base 2.1, 4.3.2, Transport SGL Data Block).
    pub fn transport(length: u32) -> SglDescriptor {
        Self::unkeyed(0, length, SGL_TRANSPORT)
    }

    /// Data block at an address.
    pub fn data_block(address: u64, length: u32) -> SglDescriptor {
        Self::unkeyed(address, length, SGL_DATA_BLOCK)
    }

    /// Keyed data block; `None` where the length does not fit its 24 bits.
    pub fn keyed(address: u64, length: u32, key: u32, invalidate: bool) -> Option<SglDescriptor> {
        let [a, b, c, 0] = length.to_le_bytes() else {
            return None;
        };
        let [k0, k1, k2, k3] = key.to_le_bytes();
        let identifier = if invalidate {
            SGL_KEYED_INVALIDATE
        } else {
            SGL_KEYED
        };
        Some(SglDescriptor {
            address: Le64::new(address),
            specific: [a, b, c, k0, k1, k2, k3],
            identifier,
        })
    }

    /// What it means.
    #[inline]
    pub fn decode(&self) -> Sgl {
        let s = self.specific;
        let address = self.address.get();
        let length = Le32::from_bytes([s[0], s[1], s[2], s[3]]).get();
        match self.identifier {
            SGL_DATA_BLOCK => Sgl::DataBlock { address, length },
            SGL_IN_CAPSULE => Sgl::InCapsule {
                offset: address,
                length,
            },
            SGL_TRANSPORT => Sgl::Transport { length },
            SGL_KEYED | SGL_KEYED_INVALIDATE => Sgl::Keyed {
                address,
                length: length & 0x00ff_ffff,
                key: u32::from_le_bytes([s[3], s[4], s[5], s[6]]),
                invalidate: self.identifier == SGL_KEYED_INVALIDATE,
            },
            identifier => Sgl::Other { identifier },
        }
    }
}
