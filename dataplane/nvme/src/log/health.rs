//! Error Information, SMART and Firmware Slot log pages (Base 2.1, 5.1.12.1.2 to 5.1.12.1.4).

use std::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::status::Status;
use crate::wire::{Le16, Le32, Le64, Le128};

/// Error Information log entry (Base 2.1, 5.1.12.1.2).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct ErrorEntry {
    /// Number of this error since the controller was made, from 1; 0 is an empty entry.
    pub error_count: Le64,
    /// Submission queue of the command; FFFFh where none.
    pub sqid: Le16,
    /// Command identifier; FFFFh where none.
    pub cid: Le16,
    /// Status field: in wire form ([`crate::Status::wire`]), bit 0 the phase tag.
    pub status: Le16,
    /// Parameter at fault: byte in bits 7:0, bit in bits 10:8; FFFFh where none.
    pub parameter_location: Le16,
    /// First block with an error.
    pub lba: Le64,
    /// Namespace.
    pub nsid: Le32,
    /// Log page with vendor specific information, 0 where none.
    pub vendor_log: u8,
    /// Transport type: `TRTYPE_*`.
    pub trtype: u8,
    /// Command set indicator.
    pub csi: u8,
    /// Opcode of the command; counts where `LPVER` bit of the entry says so.
    pub opcode: u8,
    /// Command specific information.
    pub command_specific: Le64,
    /// Transport type specific information.
    pub transport_specific: Le16,
    /// Reserved.
    pub reserved42: [u8; 21],
    /// Version of the entry: 1 where opcode and csi count.
    pub version: u8,
}
layout!(ErrorEntry, 64, error_count @ 0, sqid @ 8, cid @ 10, status @ 12, parameter_location @ 14,
    lba @ 16, nsid @ 24, vendor_log @ 28, trtype @ 29, csi @ 30, opcode @ 31,
    command_specific @ 32, transport_specific @ 40, version @ 63);

impl ErrorEntry {
    /// Its status, without the phase tag.
    pub fn status(&self) -> Status {
        Status::from_wire(self.status.get())
    }

    /// The entry in words.
    pub fn told(&self) -> impl fmt::Display + '_ {
        Told(self)
    }
}

/// Of a field: there is none.
const NONE: u16 = u16::MAX;

struct Told<'a>(&'a ErrorEntry);

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entry = self.0;
        write!(f, "error {}: {}", entry.error_count.get(), entry.status())?;
        match entry.sqid.get() {
            NONE => write!(f, ", of no command")?,
            0 => write!(f, ", admin command")?,
            queue => write!(f, ", command of queue {queue}")?,
        }
        if entry.version > 0 && entry.sqid.get() != NONE {
            write!(f, " with opcode {:#04x}", entry.opcode)?;
        }
        if entry.cid.get() != NONE {
            write!(f, ", identifier {}", entry.cid.get())?;
        }
        match entry.nsid.get() {
            0 | u32::MAX => Ok(()),
            nsid => write!(f, ", namespace {nsid}, block {}", entry.lba.get()),
        }
    }
}

/// SMART / Health Information log page (Base 2.1, 5.1.12.1.3).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct HealthLog {
    /// Critical warning: `WARNING_*`.
    pub critical_warning: u8,
    /// Composite temperature in kelvin.
    pub temperature: Le16,
    /// Available spare in percent.
    pub available_spare: u8,
    /// Available spare threshold in percent.
    pub spare_threshold: u8,
    /// Percentage used; may exceed 100.
    pub percentage_used: u8,
    /// Endurance group critical warning summary.
    pub endurance_warning: u8,
    /// Reserved.
    pub reserved7: [u8; 25],
    /// Data units read: thousands of 512 bytes, rounded up.
    pub data_units_read: Le128,
    /// Data units written: thousands of 512 bytes, rounded up.
    pub data_units_written: Le128,
    /// Host read commands.
    pub host_reads: Le128,
    /// Host write commands.
    pub host_writes: Le128,
    /// Controller busy time in minutes.
    pub busy_time: Le128,
    /// Power cycles.
    pub power_cycles: Le128,
    /// Power on hours.
    pub power_on_hours: Le128,
    /// Unexpected power losses.
    pub unsafe_shutdowns: Le128,
    /// Unrecovered data integrity errors.
    pub media_errors: Le128,
    /// Error Information log entries over the controller's life.
    pub error_entries: Le128,
    /// Warning composite temperature time in minutes.
    pub warning_temperature_time: Le32,
    /// Critical composite temperature time in minutes.
    pub critical_temperature_time: Le32,
    /// Temperature sensors in kelvin, 0 where there is none.
    pub sensors: [Le16; 8],
    /// Thermal management transition counts.
    pub thermal_transitions: [Le32; 2],
    /// Thermal management times in seconds.
    pub thermal_times: [Le32; 2],
    /// Reserved.
    pub reserved232: [u8; 280],
}
layout!(HealthLog, 512, critical_warning @ 0, temperature @ 1, available_spare @ 3,
    spare_threshold @ 4, percentage_used @ 5, endurance_warning @ 6, data_units_read @ 32,
    data_units_written @ 48, host_reads @ 64, host_writes @ 80, busy_time @ 96,
    power_cycles @ 112, power_on_hours @ 128, unsafe_shutdowns @ 144, media_errors @ 160,
    error_entries @ 176, warning_temperature_time @ 192, critical_temperature_time @ 196,
    sensors @ 200, thermal_transitions @ 216, thermal_times @ 224, reserved232 @ 232);

/// Critical warning: available spare below its threshold.
pub const WARNING_SPARE: u8 = 1 << 0;
/// Critical warning: temperature beyond a threshold.
pub const WARNING_TEMPERATURE: u8 = 1 << 1;
/// Critical warning: reliability degraded.
pub const WARNING_RELIABILITY: u8 = 1 << 2;
/// Critical warning: all media read only.
pub const WARNING_READ_ONLY: u8 = 1 << 3;

/// Data units of SMART for a count of bytes: thousands of 512-byte units, rounded up
/// (Base 2.1, 5.1.12.1.3).
pub const fn data_units(bytes: u128) -> u128 {
    bytes.div_ceil(512_000)
}

/// Firmware Slot Information log page (Base 2.1, 5.1.12.1.4).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct FirmwareSlotLog {
    /// Active slot in bits 2:0, slot after the next reset in bits 6:4.
    pub afi: u8,
    /// Reserved.
    pub reserved1: [u8; 7],
    /// Revisions of slots 1 to 7, ASCII; zero is an empty slot.
    pub frs: [[u8; 8]; 7],
    /// Reserved.
    pub reserved64: [u8; 448],
}
layout!(FirmwareSlotLog, 512, afi @ 0, frs @ 8, reserved64 @ 64);
