//! Controller properties: offsets and fields (Base 2.1, 3.1.4).

/// Controller Capabilities, 8 bytes.
pub const OFFSET_CAP: u32 = 0x00;
/// Version, 4 bytes.
pub const OFFSET_VS: u32 = 0x08;
/// Controller Configuration, 4 bytes.
pub const OFFSET_CC: u32 = 0x14;
/// Controller Status, 4 bytes.
pub const OFFSET_CSTS: u32 = 0x1c;
/// NVM Subsystem Reset, 4 bytes.
pub const OFFSET_NSSR: u32 = 0x20;
/// NVM Subsystem Shutdown, 4 bytes.
pub const OFFSET_NSSD: u32 = 0x64;
/// Controller Ready Timeouts, 4 bytes.
pub const OFFSET_CRTO: u32 = 0x68;

/// Value written to NSSR to reset the subsystem: "NVMe" (Base 2.1, 3.1.4.7).
pub const NSSR_RESET: u32 = 0x4e56_4d65;
/// Value written to NSSD for a normal shutdown of the subsystem: "Nrml" (Base 2.1, 3.1.4.20).
pub const NSSD_NORMAL: u32 = 0x4e72_6d6c;

/// VS value of revision 1.3.
pub const VERSION_1_3: u32 = 0x0001_0300;
/// VS value of revision 1.4.
pub const VERSION_1_4: u32 = 0x0001_0400;
/// VS value of revision 2.0.
pub const VERSION_2_0: u32 = 0x0002_0000;
/// VS value of revision 2.1 (Base 2.1, 3.1.4.2).
pub const VERSION_2_1: u32 = 0x0002_0100;

macro_rules! fields {
    ($name:ident: $int:ty {
        $($(#[$meta:meta])* $get:ident, $with:ident: $as:ty = $low:literal, $bits:literal;)*
    }) => {
        impl $name {
            $(
                $(#[$meta])*
                #[allow(clippy::cast_possible_truncation, reason = "masked to its width first")]
                pub const fn $get(self) -> $as {
                    ((self.0 >> $low) & ((1 << $bits) - 1)) as $as
                }

                #[doc = concat!("Sets [`", stringify!($name), "::", stringify!($get),
                    "`]; bits beyond its width are dropped.")]
                #[must_use]
                pub const fn $with(self, value: $as) -> $name {
                    const MASK: $int = ((1 << $bits) - 1) << $low;
                    $name((self.0 & !MASK) | (((value as $int) << $low) & MASK))
                }
            )*
        }
    };
}

macro_rules! flags {
    ($name:ident: $int:ty { $($(#[$meta:meta])* $get:ident, $with:ident = $bit:literal;)* }) => {
        impl $name {
            $(
                $(#[$meta])*
                pub const fn $get(self) -> bool {
                    self.0 & (1 << $bit) != 0
                }

                #[doc = concat!("Sets or clears [`", stringify!($name), "::", stringify!($get),
                    "`].")]
                #[must_use]
                pub const fn $with(self, value: bool) -> $name {
                    $name((self.0 & !(1 << $bit)) | ((value as $int) << $bit))
                }
            )*
        }
    };
}

/// Controller Capabilities (Base 2.1, 3.1.4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cap(pub u64);

fields! { Cap: u64 {
    /// Maximum queue entries supported, 0's based as on the wire: see [`Cap::queue_entries_max`].
    mqes, with_mqes: u16 = 0, 16;
    /// Arbitration mechanisms supported: bit 0 weighted round robin.
    ams, with_ams: u8 = 17, 2;
    /// Timeout of becoming ready, in units of 500 ms.
    to, with_to: u8 = 24, 8;
    /// Doorbell stride, log2 in dwords; 0 over Fabrics.
    dstrd, with_dstrd: u8 = 32, 4;
    /// Command sets supported, eight bits: see `CSS_*`.
    css, with_css: u8 = 37, 8;
    /// Controller power scope.
    cps, with_cps: u8 = 46, 2;
    /// Memory page size minimum, log2 less 12.
    mpsmin, with_mpsmin: u8 = 48, 4;
    /// Memory page size maximum, log2 less 12.
    mpsmax, with_mpsmax: u8 = 52, 4;
    /// Controller ready modes supported: bit 0 with media, bit 1 independent of media.
    crms, with_crms: u8 = 59, 2;
} }

flags! { Cap: u64 {
    /// Contiguous queues required; always set over Fabrics.
    cqr, with_cqr = 16;
    /// NVM subsystem reset supported.
    nssrs, with_nssrs = 36;
    /// Boot partitions supported.
    bps, with_bps = 45;
    /// Persistent memory region supported.
    pmrs, with_pmrs = 56;
    /// Controller memory buffer supported.
    cmbs, with_cmbs = 57;
    /// NVM subsystem shutdown supported.
    nsss, with_nsss = 58;
    /// NVM subsystem shutdown enhancements supported.
    nsses, with_nsses = 61;
} }

/// CAP.CSS bit: NVM command set.
pub const CSS_NVM: u8 = 1 << 0;
/// CAP.CSS bit: one or more I/O command sets, chosen by CC.CSS 110b.
pub const CSS_IO_COMMAND_SETS: u8 = 1 << 6;
/// CAP.CSS bit: no I/O command set.
pub const CSS_ADMIN_ONLY: u8 = 1 << 7;

impl Cap {
    /// Entries a queue may have, counted from one.
    pub const fn queue_entries_max(self) -> u32 {
        self.mqes() as u32 + 1
    }
}

/// Controller Configuration (Base 2.1, 3.1.4.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cc(pub u32);

fields! { Cc: u32 {
    /// I/O command set selected: see `CC_CSS_*`.
    css, with_css: u8 = 4, 3;
    /// Memory page size, log2 less 12.
    mps, with_mps: u8 = 7, 4;
    /// Arbitration mechanism selected: 0 round robin.
    ams, with_ams: u8 = 11, 3;
    /// Shutdown notification: see [`Cc::shutdown`].
    shn, with_shn: u8 = 14, 2;
    /// I/O submission queue entry size, log2; 6 for the NVM command set.
    iosqes, with_iosqes: u8 = 16, 4;
    /// I/O completion queue entry size, log2; 4 for the NVM command set.
    iocqes, with_iocqes: u8 = 20, 4;
} }

flags! { Cc: u32 {
    /// Enable.
    en, with_en = 0;
    /// Controller ready independent of media.
    crime, with_crime = 24;
} }

/// CC.CSS: NVM command set.
pub const CC_CSS_NVM: u8 = 0;
/// CC.CSS: all I/O command sets supported.
pub const CC_CSS_ALL: u8 = 6;
/// CC.CSS: admin command set only.
pub const CC_CSS_ADMIN_ONLY: u8 = 7;

/// Shutdown notification (Base 2.1, 3.1.4.5, SHN).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// No notification.
    None,
    /// Normal shutdown.
    Normal,
    /// Abrupt shutdown.
    Abrupt,
    /// The reserved encoding 11b.
    Reserved,
}

impl Cc {
    /// Shutdown notification.
    pub const fn shutdown(self) -> Shutdown {
        match self.shn() {
            0 => Shutdown::None,
            1 => Shutdown::Normal,
            2 => Shutdown::Abrupt,
            _ => Shutdown::Reserved,
        }
    }
}

/// Controller Status (Base 2.1, 3.1.4.6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Csts(pub u32);

fields! { Csts: u32 {
    /// Shutdown status: see `SHST_*`.
    shst, with_shst: u8 = 2, 2;
} }

flags! { Csts: u32 {
    /// Ready.
    rdy, with_rdy = 0;
    /// Controller fatal status.
    cfs, with_cfs = 1;
    /// NVM subsystem reset occurred; write 1 to clear.
    nssro, with_nssro = 4;
    /// Processing paused.
    pp, with_pp = 5;
    /// Shutdown type: set for a shutdown of the subsystem.
    st, with_st = 6;
} }

/// CSTS.SHST: normal operation.
pub const SHST_NORMAL: u8 = 0;
/// CSTS.SHST: shutdown processing occurring.
pub const SHST_OCCURRING: u8 = 1;
/// CSTS.SHST: shutdown processing complete.
pub const SHST_COMPLETE: u8 = 2;

/// Controller Ready Timeouts (Base 2.1, 3.1.4.21).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Crto(pub u32);

fields! { Crto: u32 {
    /// Ready with media timeout, in units of 500 ms.
    crwmt, with_crwmt: u16 = 0, 16;
    /// Ready independent of media timeout, in units of 500 ms.
    crimt, with_crimt: u16 = 16, 16;
} }
