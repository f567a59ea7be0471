//! Lists that Identify gives (Base 2.1, 5.1.13.2).

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::wire::{Le16, Le32, Le64};

/// List of 1024 namespace identifiers in rising order, filled with 0; CNS 02h, 07h, 10h, 1Ah
/// (Base 2.1, 5.1.13.2.2).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct NamespaceList {
    /// Identifiers.
    pub nsid: [Le32; 1024],
}
layout!(NamespaceList, 4096, nsid @ 0);

impl NamespaceList {
    /// The first 1024 of the identifiers above `after`; `nsids` must rise.
    pub fn after(after: u32, nsids: impl IntoIterator<Item = u32>) -> NamespaceList {
        let mut list = NamespaceList::new_zeroed();
        let above = nsids.into_iter().filter(|nsid| *nsid > after);
        for (to, nsid) in list.nsid.iter_mut().zip(above) {
            *to = Le32::new(nsid);
        }
        list
    }

    /// The identifiers up to the first 0.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.nsid
            .iter()
            .map(|nsid| nsid.get())
            .take_while(|nsid| *nsid != 0)
    }
}

/// Controller list, CNS 12h and 13h (Base 2.1, 4.6.1).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct ControllerList {
    /// How many identifiers follow.
    pub count: Le16,
    /// Controller identifiers in rising order.
    pub cntlid: [Le16; 2047],
}
layout!(ControllerList, 4096, count @ 0, cntlid @ 2);

impl ControllerList {
    /// The first 2047 of the identifiers from `from` on; `cntlids` must rise.
    pub fn from(from: u16, cntlids: impl IntoIterator<Item = u16>) -> ControllerList {
        let mut list = ControllerList::new_zeroed();
        let mut count = 0;
        let above = cntlids.into_iter().filter(|cntlid| *cntlid >= from);
        for (to, cntlid) in list.cntlid.iter_mut().zip(above) {
            *to = Le16::new(cntlid);
            count += 1;
        }
        list.count = Le16::new(count);
        list
    }

    /// The identifiers.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        self.cntlid
            .iter()
            .map(|id| id.get())
            .take(usize::from(self.count.get()))
    }
}

/// Namespace Identification Descriptor type: EUI64, 8 bytes (Base 2.1, 5.1.13.2.3).
pub const NIDT_EUI64: u8 = 1;
/// Namespace Identification Descriptor type: NGUID, 16 bytes.
pub const NIDT_NGUID: u8 = 2;
/// Namespace Identification Descriptor type: UUID, 16 bytes, network byte order.
pub const NIDT_UUID: u8 = 3;
/// Namespace Identification Descriptor type: command set identifier, 1 byte.
pub const NIDT_CSI: u8 = 4;

/// A Namespace Identification Descriptor (Base 2.1, 5.1.13.2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamespaceDescriptor {
    /// IEEE extended unique identifier.
    Eui64([u8; 8]),
    /// Namespace globally unique identifier.
    Nguid([u8; 16]),
    /// UUID.
    Uuid([u8; 16]),
    /// Command set identifier.
    Csi(u8),
}

/// Writes a Namespace Identification Descriptor list, CNS 03h: each four bytes of type, length and
/// reserved, then the identifier; the rest stays zero. What does not fit is left out.
pub fn encode_namespace_descriptors(out: &mut [u8; 4096], descriptors: &[NamespaceDescriptor]) {
    out.fill(0);
    let mut rest: &mut [u8] = out;
    for descriptor in descriptors {
        let (nidt, id): (u8, &[u8]) = match descriptor {
            NamespaceDescriptor::Eui64(id) => (NIDT_EUI64, id),
            NamespaceDescriptor::Nguid(id) => (NIDT_NGUID, id),
            NamespaceDescriptor::Uuid(id) => (NIDT_UUID, id),
            NamespaceDescriptor::Csi(csi) => (NIDT_CSI, core::slice::from_ref(csi)),
        };
        let Some((place, after)) = rest.split_at_mut_checked(4 + id.len()) else {
            return;
        };
        place[0] = nidt;
        place[1] = u8::try_from(id.len()).unwrap_or(0);
        place[4..].copy_from_slice(id);
        rest = after;
    }
}

/// Reads a Namespace Identification Descriptor list. Ends at the first descriptor of length 0;
/// unknown types and wrong lengths are passed over.
pub fn decode_namespace_descriptors(
    mut list: &[u8],
) -> impl Iterator<Item = NamespaceDescriptor> + '_ {
    core::iter::from_fn(move || {
        loop {
            let (head, rest) = list.split_first_chunk::<4>()?;
            let [nidt, nidl, ..] = *head;
            if nidl == 0 {
                return None;
            }
            let (id, after) = rest.split_at_checked(usize::from(nidl))?;
            list = after;
            let found = match nidt {
                NIDT_EUI64 => id.try_into().ok().map(NamespaceDescriptor::Eui64),
                NIDT_NGUID => id.try_into().ok().map(NamespaceDescriptor::Nguid),
                NIDT_UUID => id.try_into().ok().map(NamespaceDescriptor::Uuid),
                NIDT_CSI if nidl == 1 => Some(NamespaceDescriptor::Csi(id[0])),
                _ => None,
            };
            if found.is_some() {
                return found;
            }
        }
    })
}

/// Primary Controller Capabilities, CNS 14h, the part this crate names (Base 2.1, 5.1.13).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct PrimaryControllerCapabilities {
    /// Controller identifier.
    pub cntlid: Le16,
    /// Port identifier.
    pub portid: Le16,
    /// Controller resource types: bit 0 VQ, bit 1 VI.
    pub crt: u8,
    /// Reserved, flexible resources (none without virtualization).
    pub rest: [u8; 4091],
}
layout!(PrimaryControllerCapabilities, 4096, cntlid @ 0, portid @ 2, crt @ 4, rest @ 5);

/// NVM Set attributes entry (Base 2.1, 5.1.13.2.4).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct NvmSet {
    /// NVM set identifier.
    pub nvmsetid: Le16,
    /// Endurance group identifier.
    pub endgid: Le16,
    /// Reserved.
    pub reserved4: [u8; 4],
    /// Random 4 KiB read typical time, in 100 ns.
    pub random_read: Le32,
    /// Optimal write size in bytes.
    pub optimal_write: Le32,
    /// Total capacity in bytes.
    pub total_capacity: [u8; 16],
    /// Unallocated capacity in bytes.
    pub unallocated_capacity: [u8; 16],
    /// Reserved.
    pub reserved48: [u8; 80],
}
layout!(NvmSet, 128, nvmsetid @ 0, endgid @ 2, random_read @ 8, optimal_write @ 12,
    total_capacity @ 16, unallocated_capacity @ 32);

/// NVM Set List, CNS 04h: count in the first byte (Base 2.1, 5.1.13.2.4).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct NvmSetList {
    /// How many sets follow.
    pub count: u8,
    /// Reserved.
    pub reserved1: [u8; 127],
    /// Sets in the order of their identifiers.
    pub sets: [NvmSet; 31],
}
layout!(NvmSetList, 4096, count @ 0, sets @ 128);

/// Endurance Group List, CNS 19h (Base 2.1, 5.1.13.2.16).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct EnduranceGroupList {
    /// How many identifiers follow.
    pub count: Le16,
    /// Endurance group identifiers in rising order.
    pub endgid: [Le16; 2047],
}
layout!(EnduranceGroupList, 4096, count @ 0, endgid @ 2);

/// UUID list entry (Base 2.1, 5.1.13.2.14).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct UuidEntry {
    /// Association in bits 1:0: 0 none, 1 vendor identifier, 2 subsystem vendor identifier.
    pub header: u8,
    /// Reserved.
    pub reserved1: [u8; 15],
    /// UUID, network byte order; zero ends the list.
    pub uuid: [u8; 16],
}
layout!(UuidEntry, 32, header @ 0, uuid @ 16);

/// UUID List, CNS 17h (Base 2.1, 5.1.13.2.14).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct UuidList {
    /// Reserved.
    pub reserved0: [u8; 32],
    /// UUIDs 1 to 127.
    pub entries: [UuidEntry; 127],
}
layout!(UuidList, 4096, entries @ 32);

/// I/O Command Set data structure, CNS 1Ch: which command sets can be enabled together
/// (Base 2.1, 5.1.13.2.19).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct CommandSetCombinations {
    /// Each a bit vector indexed by command set identifier; 0 ends the list.
    pub vectors: [Le64; 512],
}
layout!(CommandSetCombinations, 4096, vectors @ 0);

/// Vector bit: NVM command set.
pub const COMMAND_SET_NVM: u64 = 1 << 0;
