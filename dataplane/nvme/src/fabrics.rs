//! Fabrics commands and their data (Base 2.1, 6). They share the 64 bytes of a submission queue
//! entry, laid out differently from byte 4 on.

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::nqn::nqn_field;
use crate::opcode::{FABRICS, FabricsType};
use crate::sgl::SglDescriptor;
use crate::sqe::{Cqe, Sqe};
use crate::wire::{Le16, Le32, Le64, nul_terminated};

/// Controller identifier by which a host asks the dynamic controller model for a new controller
/// (Base 2.1, 6.3, Connect Data, CNTLID).
pub const CNTLID_DYNAMIC: u16 = 0xffff;
/// Controller identifier by which a host asks for any static controller (Base 2.1, 6.3).
pub const CNTLID_STATIC_ANY: u16 = 0xfffe;

/// Bit of [`ConnectCommand::cattr`]: disable SQ flow control (Base 2.1, 6.3, CATTR).
pub const CATTR_DISABLE_SQ_FLOW_CONTROL: u8 = 1 << 2;
/// Bit of [`ConnectCommand::cattr`]: the host supports individual I/O queue deletion.
pub const CATTR_IO_QUEUE_DELETION: u8 = 1 << 3;

/// Connect command (Base 2.1, 6.3).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct ConnectCommand {
    /// 7Fh.
    pub opcode: u8,
    /// PSDT in bits 7:6.
    pub flags: u8,
    /// Command identifier.
    pub cid: Le16,
    /// Fabrics command type, 01h.
    pub fctype: u8,
    /// Reserved.
    pub reserved5: [u8; 19],
    /// Where the 1024 bytes of [`ConnectData`] are.
    pub sgl1: SglDescriptor,
    /// Record format, 0.
    pub recfmt: Le16,
    /// Queue to make, 0 for the admin queue.
    pub qid: Le16,
    /// Entries of the submission queue, 0's based: see [`ConnectCommand::queue_entries`].
    pub sqsize: Le16,
    /// Connect attributes: priority in bits 1:0, then `CATTR_*`.
    pub cattr: u8,
    /// Reserved.
    pub reserved47: u8,
    /// Keep alive timeout in milliseconds; admin queue only.
    pub kato: Le32,
    /// Reserved.
    pub reserved52: [u8; 12],
}
layout!(ConnectCommand, 64, cid @ 2, fctype @ 4, sgl1 @ 24, recfmt @ 40, qid @ 42, sqsize @ 44,
    cattr @ 46, kato @ 48);

impl ConnectCommand {
    /// A Connect for queue `qid` with `entries` submission queue entries (counted from one; 65536
    /// at most) and in-capsule data.
    pub fn new(qid: u16, entries: u32, kato_ms: u32) -> ConnectCommand {
        let mut command = ConnectCommand::new_zeroed();
        command.opcode = FABRICS;
        command.flags = 0x40;
        command.fctype = FabricsType::Connect.into();
        command.sgl1 = SglDescriptor::in_capsule(0, 1024);
        command.qid = Le16::new(qid);
        let sqsize = entries.saturating_sub(1);
        command.sqsize = Le16::new(u16::try_from(sqsize).unwrap_or(u16::MAX));
        command.kato = Le32::new(kato_ms);
        command
    }

    /// Entries of the submission queue, counted from one.
    pub fn queue_entries(&self) -> u32 {
        u32::from(self.sqsize.get()) + 1
    }

    /// Whether the host disables SQ flow control.
    pub fn flow_control_disabled(&self) -> bool {
        self.cattr & CATTR_DISABLE_SQ_FLOW_CONTROL != 0
    }
}

/// Data of a Connect command, 1024 bytes (Base 2.1, 6.3, Connect Command Data).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct ConnectData {
    /// Host identifier; all zero is none.
    pub hostid: [u8; 16],
    /// Controller identifier asked for, or `CNTLID_*`.
    pub cntlid: Le16,
    /// Reserved.
    pub reserved18: [u8; 238],
    /// Subsystem NQN, NUL terminated.
    pub subnqn: [u8; 256],
    /// Host NQN, NUL terminated.
    pub hostnqn: [u8; 256],
    /// Reserved.
    pub reserved768: [u8; 256],
}
layout!(ConnectData, 1024, cntlid @ 16, subnqn @ 256, hostnqn @ 512);

impl ConnectData {
    /// Connect data; `None` where an NQN is longer than 223 bytes or not valid.
    pub fn new(hostid: [u8; 16], cntlid: u16, subnqn: &str, hostnqn: &str) -> Option<ConnectData> {
        let mut data = ConnectData::new_zeroed();
        data.hostid = hostid;
        data.cntlid = Le16::new(cntlid);
        data.subnqn = nqn_field(subnqn)?;
        data.hostnqn = nqn_field(hostnqn)?;
        Some(data)
    }

    /// Subsystem NQN up to its NUL, not validated.
    pub fn subnqn_bytes(&self) -> &[u8] {
        nul_terminated(&self.subnqn)
    }

    /// Host NQN up to its NUL, not validated.
    pub fn hostnqn_bytes(&self) -> &[u8] {
        nul_terminated(&self.hostnqn)
    }
}

/// Completion dword 0 of a successful Connect (Base 2.1, 6.3, Connect Response).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectResult {
    /// Controller identifier.
    pub cntlid: u16,
    /// Authentication and security requirements: bit 1 in-band authentication (ATR), bit 2 secure
    /// channel (ASCR).
    pub authreq: u16,
}

impl ConnectResult {
    /// Completion dwords 0 and 1.
    pub fn result(self) -> u64 {
        u64::from(self.cntlid) | u64::from(self.authreq) << 16
    }

    /// From a completion.
    pub fn from_cqe(cqe: &Cqe) -> ConnectResult {
        let [a, b, c, d, ..] = cqe.result.to_bytes();
        let (cntlid, authreq) = (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]));
        ConnectResult { cntlid, authreq }
    }
}

/// Completion dword 0 of Connect Invalid Parameters: which parameter (Base 2.1, 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidParameter {
    /// Whether the offset counts in the Connect data (else in the submission queue entry).
    pub in_data: bool,
    /// Byte offset of the parameter.
    pub offset: u16,
}

impl InvalidParameter {
    /// Parameter in the submission queue entry.
    pub const fn in_sqe(offset: u16) -> InvalidParameter {
        InvalidParameter {
            in_data: false,
            offset,
        }
    }

    /// Parameter in the Connect data.
    pub const fn in_data(offset: u16) -> InvalidParameter {
        InvalidParameter {
            in_data: true,
            offset,
        }
    }

    /// Completion dwords 0 and 1.
    pub fn result(self) -> u64 {
        u64::from(self.offset) | u64::from(self.in_data) << 16
    }

    /// From a completion.
    pub fn from_cqe(cqe: &Cqe) -> InvalidParameter {
        let [a, b, iattr, ..] = cqe.result.to_bytes();
        InvalidParameter {
            in_data: iattr & 1 != 0,
            offset: u16::from_le_bytes([a, b]),
        }
    }
}

/// Property Get and Property Set commands (Base 2.1, 6.5 and 6.6).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct PropertyCommand {
    /// 7Fh.
    pub opcode: u8,
    /// PSDT in bits 7:6.
    pub flags: u8,
    /// Command identifier.
    pub cid: Le16,
    /// Fabrics command type: 00h set, 04h get.
    pub fctype: u8,
    /// Reserved.
    pub reserved5: [u8; 35],
    /// Size of the property in bits 2:0: 0 four bytes, 1 eight bytes.
    pub attrib: u8,
    /// Reserved.
    pub reserved41: [u8; 3],
    /// Byte offset of the property ([`crate::register`]).
    pub ofst: Le32,
    /// Value to set; reserved in Property Get.
    pub value: Le64,
    /// Reserved.
    pub reserved56: [u8; 8],
}
layout!(PropertyCommand, 64, fctype @ 4, attrib @ 40, ofst @ 44, value @ 48);

/// Size of a property (Base 2.1, 6.5, ATTRIB).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PropertySize {
    /// Four bytes.
    Four,
    /// Eight bytes.
    Eight,
}

impl PropertyCommand {
    fn new(fctype: FabricsType, offset: u32, size: PropertySize, value: u64) -> PropertyCommand {
        let mut command = PropertyCommand::new_zeroed();
        command.opcode = FABRICS;
        command.flags = 0x40;
        command.fctype = fctype.into();
        command.attrib = u8::from(size == PropertySize::Eight);
        command.ofst = Le32::new(offset);
        command.value = Le64::new(value);
        command
    }

    /// A Property Get.
    pub fn get(offset: u32, size: PropertySize) -> PropertyCommand {
        Self::new(FabricsType::PropertyGet, offset, size, 0)
    }

    /// A Property Set.
    pub fn set(offset: u32, size: PropertySize, value: u64) -> PropertyCommand {
        Self::new(FabricsType::PropertySet, offset, size, value)
    }

    /// Size of the property, `None` for a reserved encoding.
    pub fn size(&self) -> Option<PropertySize> {
        match self.attrib & 7 {
            0 => Some(PropertySize::Four),
            1 => Some(PropertySize::Eight),
            _ => None,
        }
    }
}

/// Disconnect command (Base 2.1, 6.4).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct DisconnectCommand {
    /// 7Fh.
    pub opcode: u8,
    /// PSDT in bits 7:6.
    pub flags: u8,
    /// Command identifier.
    pub cid: Le16,
    /// Fabrics command type, 08h.
    pub fctype: u8,
    /// Reserved.
    pub reserved5: [u8; 19],
    /// SGL descriptor, unused.
    pub sgl1: SglDescriptor,
    /// Record format, 0.
    pub recfmt: Le16,
    /// Reserved.
    pub reserved42: [u8; 22],
}
layout!(DisconnectCommand, 64, fctype @ 4, sgl1 @ 24, recfmt @ 40);

impl DisconnectCommand {
    /// A Disconnect.
    pub fn new() -> DisconnectCommand {
        let mut command = DisconnectCommand::new_zeroed();
        command.opcode = FABRICS;
        command.flags = 0x40;
        command.fctype = FabricsType::Disconnect.into();
        command
    }
}

impl Default for DisconnectCommand {
    fn default() -> Self {
        Self::new()
    }
}

/// Authentication Send and Receive commands (Base 2.1, 6.1 and 6.2).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct AuthenticationCommand {
    /// 7Fh.
    pub opcode: u8,
    /// PSDT in bits 7:6.
    pub flags: u8,
    /// Command identifier.
    pub cid: Le16,
    /// Fabrics command type: 05h send, 06h receive.
    pub fctype: u8,
    /// Reserved.
    pub reserved5: [u8; 19],
    /// Where the message is.
    pub sgl1: SglDescriptor,
    /// Reserved.
    pub reserved40: u8,
    /// Security protocol specific, byte 0.
    pub spsp0: u8,
    /// Security protocol specific, byte 1.
    pub spsp1: u8,
    /// Security protocol, E9h.
    pub secp: u8,
    /// Transfer length (send) or allocation length (receive) in bytes.
    pub length: Le32,
    /// Reserved.
    pub reserved48: [u8; 16],
}
layout!(AuthenticationCommand, 64, fctype @ 4, sgl1 @ 24, spsp0 @ 41, spsp1 @ 42, secp @ 43,
    length @ 44);

/// A Fabrics command, laid over a submission queue entry.
#[derive(Clone, Copy, Debug)]
pub enum FabricsCommand<'a> {
    /// Connect.
    Connect(&'a ConnectCommand),
    /// Property Get.
    PropertyGet(&'a PropertyCommand),
    /// Property Set.
    PropertySet(&'a PropertyCommand),
    /// Disconnect.
    Disconnect(&'a DisconnectCommand),
    /// Authentication Send.
    AuthenticationSend(&'a AuthenticationCommand),
    /// Authentication Receive.
    AuthenticationReceive(&'a AuthenticationCommand),
    /// Any other Fabrics command type, given here.
    Unknown(u8),
}

impl<'a> FabricsCommand<'a> {
    /// Views an entry whose opcode is 7Fh by its Fabrics command type.
    pub fn decode(sqe: &'a Sqe) -> FabricsCommand<'a> {
        let fctype = sqe.fctype();
        match FabricsType::try_from(fctype) {
            Ok(FabricsType::Connect) => FabricsCommand::Connect(zerocopy::transmute_ref!(sqe)),
            Ok(FabricsType::PropertyGet) => {
                FabricsCommand::PropertyGet(zerocopy::transmute_ref!(sqe))
            }
            Ok(FabricsType::PropertySet) => {
                FabricsCommand::PropertySet(zerocopy::transmute_ref!(sqe))
            }
            Ok(FabricsType::Disconnect) => {
                FabricsCommand::Disconnect(zerocopy::transmute_ref!(sqe))
            }
            Ok(FabricsType::AuthenticationSend) => {
                FabricsCommand::AuthenticationSend(zerocopy::transmute_ref!(sqe))
            }
            Ok(FabricsType::AuthenticationReceive) => {
                FabricsCommand::AuthenticationReceive(zerocopy::transmute_ref!(sqe))
            }
            Err(_) => FabricsCommand::Unknown(fctype),
        }
    }
}

macro_rules! into_sqe {
    ($($name:ident),*) => {$(
        impl From<$name> for Sqe {
            fn from(command: $name) -> Sqe { zerocopy::transmute!(command) }
        }
    )*};
}
into_sqe!(
    ConnectCommand,
    PropertyCommand,
    DisconnectCommand,
    AuthenticationCommand
);
