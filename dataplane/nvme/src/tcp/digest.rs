//! CRC-32C digests (TCP 1.1, 3.3.1.1).

use crc_fast::{CrcAlgorithm, Digest, checksum};

/// CRC-32C of `bytes`, as a digest field holds it (little-endian on the wire).
#[inline]
#[allow(
    clippy::cast_possible_truncation,
    reason = "a 32-bit CRC in a 64-bit return value"
)]
pub fn crc32c(bytes: &[u8]) -> u32 {
    checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// CRC-32C over pieces.
#[derive(Clone, Debug)]
pub struct Crc32c(Digest);

impl Crc32c {
    /// Of nothing yet.
    #[inline]
    pub fn new() -> Crc32c {
        Crc32c(Digest::new(CrcAlgorithm::Crc32Iscsi))
    }

    /// Takes the next piece.
    #[inline]
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// CRC of all pieces so far.
    #[inline]
    #[allow(
        clippy::cast_possible_truncation,
        reason = "a 32-bit CRC in a 64-bit return value"
    )]
    pub fn value(&self) -> u32 {
        self.0.finalize() as u32
    }

    /// Starts again.
    #[inline]
    pub fn reset(&mut self) {
        self.0.reset();
    }
}

impl Default for Crc32c {
    fn default() -> Self {
        Self::new()
    }
}
