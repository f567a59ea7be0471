//! Admin commands (Base 2.1, 5.1).

use crate::opcode::AdminOpcode;
use crate::sqe::Sqe;
use crate::wire::{Le16, Le32};

/// Identify (Base 2.1, 5.1.13).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Identify {
    /// What is asked for: a [`crate::identify::Cns`].
    pub cns: u8,
    /// Namespace identifier as on the wire; its meaning depends on `cns`.
    pub nsid: u32,
    /// Controller identifier, for the lists that start at one.
    pub cntid: u16,
    /// CNS specific identifier (NVM set, format index...).
    pub cns_specific: u16,
    /// Command set identifier.
    pub csi: u8,
    /// UUID index, seven bits.
    pub uuid_index: u8,
}

impl Identify {
    /// For a CNS value and namespace identifier, all else 0.
    pub fn new(cns: impl Into<u8>, nsid: u32) -> Identify {
        Identify {
            cns: cns.into(),
            nsid,
            ..Identify::default()
        }
    }

    /// Reads the command.
    pub fn decode(sqe: &Sqe) -> Identify {
        let [cns, _, c0, c1] = sqe.cdw10.to_bytes();
        let [s0, s1, _, csi] = sqe.cdw11.to_bytes();
        let [uuid_index, ..] = sqe.cdw14.to_bytes();
        Identify {
            cns,
            nsid: sqe.nsid.get(),
            cntid: u16::from_le_bytes([c0, c1]),
            cns_specific: u16::from_le_bytes([s0, s1]),
            csi,
            uuid_index: uuid_index & 0x7f,
        }
    }

    /// Builds the command; the data pointer is the caller's to set.
    pub fn encode(&self) -> Sqe {
        let mut sqe = Sqe::new(AdminOpcode::Identify.into());
        sqe.nsid = Le32::new(self.nsid);
        let [c0, c1] = self.cntid.to_le_bytes();
        let [s0, s1] = self.cns_specific.to_le_bytes();
        sqe.cdw10 = Le32::from_bytes([self.cns, 0, c0, c1]);
        sqe.cdw11 = Le32::from_bytes([s0, s1, 0, self.csi]);
        sqe.cdw14 = Le32::new(u32::from(self.uuid_index & 0x7f));
        sqe
    }
}

/// Get Log Page (Base 2.1, 5.1.12).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct GetLogPage {
    /// Log page identifier: a [`crate::log::LogPage`].
    pub lid: u8,
    /// Namespace identifier as on the wire.
    pub nsid: u32,
    /// Log specific parameter, seven bits.
    pub lsp: u8,
    /// Retain asynchronous event: reading does not clear it.
    pub rae: bool,
    /// Dwords to return, counted from one (NUMDU and NUMDL together: 1 to 2^32).
    pub dwords: u64,
    /// Log specific identifier.
    pub lsi: u16,
    /// Log page offset: bytes, or an index where `index_offset`.
    pub offset: u64,
    /// Offset type: the offset is an index into the page's list.
    pub index_offset: bool,
    /// Command set identifier.
    pub csi: u8,
    /// UUID index, seven bits.
    pub uuid_index: u8,
}

impl GetLogPage {
    /// `bytes` (rounded down to dwords, at least one) of a page from byte `offset`.
    pub fn new(lid: impl Into<u8>, nsid: u32, offset: u64, bytes: u64) -> GetLogPage {
        let dwords = (bytes / 4).clamp(1, 1 << 32);
        GetLogPage {
            lid: lid.into(),
            nsid,
            offset,
            dwords,
            ..GetLogPage::default()
        }
    }

    /// Bytes to return.
    pub fn bytes(&self) -> u64 {
        self.dwords * 4
    }

    /// Reads the command.
    pub fn decode(sqe: &Sqe) -> GetLogPage {
        let [lid, specific, l0, l1] = sqe.cdw10.to_bytes();
        let [u0, u1, i0, i1] = sqe.cdw11.to_bytes();
        let [uuid_index, _, more, csi] = sqe.cdw14.to_bytes();
        let numd = u32::from_le_bytes([l0, l1, u0, u1]);
        GetLogPage {
            lid,
            nsid: sqe.nsid.get(),
            lsp: specific & 0x7f,
            rae: specific & 0x80 != 0,
            dwords: u64::from(numd) + 1,
            lsi: u16::from_le_bytes([i0, i1]),
            offset: u64::from(sqe.cdw12.get()) | u64::from(sqe.cdw13.get()) << 32,
            index_offset: more & 0x80 != 0,
            csi,
            uuid_index: uuid_index & 0x7f,
        }
    }

    /// Builds the command; `None` where `dwords` is not 1 to 2^32. The data pointer is the
    /// caller's to set.
    pub fn encode(&self) -> Option<Sqe> {
        let numd = u32::try_from(self.dwords.checked_sub(1)?).ok()?;
        let mut sqe = Sqe::new(AdminOpcode::GetLogPage.into());
        sqe.nsid = Le32::new(self.nsid);
        let [l0, l1, u0, u1] = numd.to_le_bytes();
        let [i0, i1] = self.lsi.to_le_bytes();
        let specific = (self.lsp & 0x7f) | u8::from(self.rae) << 7;
        sqe.cdw10 = Le32::from_bytes([self.lid, specific, l0, l1]);
        sqe.cdw11 = Le32::from_bytes([u0, u1, i0, i1]);
        let [a, b, c, d, e, f, g, h] = self.offset.to_le_bytes();
        sqe.cdw12 = Le32::from_bytes([a, b, c, d]);
        sqe.cdw13 = Le32::from_bytes([e, f, g, h]);
        let more = u8::from(self.index_offset) << 7;
        sqe.cdw14 = Le32::from_bytes([self.uuid_index & 0x7f, 0, more, self.csi]);
        Some(sqe)
    }
}

/// Get Features (Base 2.1, 5.1.11).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct GetFeatures {
    /// Feature identifier: a [`crate::feature::FeatureId`].
    pub fid: u8,
    /// Which value, three bits: a [`crate::feature::Select`].
    pub select: u8,
    /// Namespace identifier as on the wire.
    pub nsid: u32,
    /// Dword 11, whose meaning depends on the feature.
    pub cdw11: u32,
    /// UUID index, seven bits.
    pub uuid_index: u8,
}

impl GetFeatures {
    /// Reads the command.
    pub fn decode(sqe: &Sqe) -> GetFeatures {
        let [fid, select, ..] = sqe.cdw10.to_bytes();
        let [uuid_index, ..] = sqe.cdw14.to_bytes();
        GetFeatures {
            fid,
            select: select & 7,
            nsid: sqe.nsid.get(),
            cdw11: sqe.cdw11.get(),
            uuid_index: uuid_index & 0x7f,
        }
    }

    /// Builds the command; the data pointer is the caller's to set where the feature has data.
    pub fn encode(&self) -> Sqe {
        let mut sqe = Sqe::new(AdminOpcode::GetFeatures.into());
        sqe.nsid = Le32::new(self.nsid);
        sqe.cdw10 = Le32::from_bytes([self.fid, self.select & 7, 0, 0]);
        sqe.cdw11 = Le32::new(self.cdw11);
        sqe.cdw14 = Le32::new(u32::from(self.uuid_index & 0x7f));
        sqe
    }
}

/// Set Features (Base 2.1, 5.1.25).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SetFeatures {
    /// Feature identifier: a [`crate::feature::FeatureId`].
    pub fid: u8,
    /// Save the value across power cycles and resets.
    pub save: bool,
    /// Namespace identifier as on the wire.
    pub nsid: u32,
    /// Dword 11: the value of most features.
    pub cdw11: u32,
    /// Dword 12.
    pub cdw12: u32,
    /// Dword 13.
    pub cdw13: u32,
    /// UUID index, seven bits.
    pub uuid_index: u8,
    /// Dword 15.
    pub cdw15: u32,
}

impl SetFeatures {
    /// A feature that is one dword, not namespace specific.
    pub fn new(fid: impl Into<u8>, value: u32) -> SetFeatures {
        SetFeatures {
            fid: fid.into(),
            cdw11: value,
            ..SetFeatures::default()
        }
    }

    /// Reads the command.
    pub fn decode(sqe: &Sqe) -> SetFeatures {
        let [fid, _, _, save] = sqe.cdw10.to_bytes();
        let [uuid_index, ..] = sqe.cdw14.to_bytes();
        SetFeatures {
            fid,
            save: save & 0x80 != 0,
            nsid: sqe.nsid.get(),
            cdw11: sqe.cdw11.get(),
            cdw12: sqe.cdw12.get(),
            cdw13: sqe.cdw13.get(),
            uuid_index: uuid_index & 0x7f,
            cdw15: sqe.cdw15.get(),
        }
    }

    /// Builds the command; the data pointer is the caller's to set where the feature has data.
    pub fn encode(&self) -> Sqe {
        let mut sqe = Sqe::new(AdminOpcode::SetFeatures.into());
        sqe.nsid = Le32::new(self.nsid);
        sqe.cdw10 = Le32::from_bytes([self.fid, 0, 0, u8::from(self.save) << 7]);
        sqe.cdw11 = Le32::new(self.cdw11);
        sqe.cdw12 = Le32::new(self.cdw12);
        sqe.cdw13 = Le32::new(self.cdw13);
        sqe.cdw14 = Le32::new(u32::from(self.uuid_index & 0x7f));
        sqe.cdw15 = Le32::new(self.cdw15);
        sqe
    }
}

/// Abort (Base 2.1, 5.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abort {
    /// Submission queue of the command to abort.
    pub sqid: u16,
    /// Its command identifier.
    pub cid: u16,
}

impl Abort {
    /// Completion dword 0 bit: the command was not aborted.
    pub const NOT_ABORTED: u32 = 1 << 0;

    /// Reads the command.
    pub fn decode(sqe: &Sqe) -> Abort {
        let [s0, s1, c0, c1] = sqe.cdw10.to_bytes();
        Abort {
            sqid: u16::from_le_bytes([s0, s1]),
            cid: u16::from_le_bytes([c0, c1]),
        }
    }

    /// Builds the command.
    pub fn encode(&self) -> Sqe {
        let mut sqe = Sqe::new(AdminOpcode::Abort.into());
        let (sqid, cid) = (
            Le16::new(self.sqid).to_bytes(),
            Le16::new(self.cid).to_bytes(),
        );
        sqe.cdw10 = Le32::from_bytes([sqid[0], sqid[1], cid[0], cid[1]]);
        sqe
    }
}

/// A Keep Alive (Base 2.1, 5.1.14).
pub fn keep_alive() -> Sqe {
    Sqe::new(AdminOpcode::KeepAlive.into())
}

/// An Asynchronous Event Request (Base 2.1, 5.1.2).
pub fn async_event_request() -> Sqe {
    Sqe::new(AdminOpcode::AsyncEventRequest.into())
}
