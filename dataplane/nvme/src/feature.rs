//! Features: identifiers and values (Base 2.1, 5.1.25; NVM 1.1, 4.1.3).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

wire_enum! {
    /// Feature identifier (Base 2.1, 5.1.25.1; NVM 1.1, 4.1.3).
    pub enum FeatureId: u8 = "feature identifier" {
        Arbitration = 0x01 "Arbitration",
        PowerManagement = 0x02 "Power Management",
        LbaRangeType = 0x03 "LBA Range Type",
        TemperatureThreshold = 0x04 "Temperature Threshold",
        ErrorRecovery = 0x05 "Error Recovery",
        VolatileWriteCache = 0x06 "Volatile Write Cache",
        NumberOfQueues = 0x07 "Number of Queues",
        InterruptCoalescing = 0x08 "Interrupt Coalescing",
        InterruptVector = 0x09 "Interrupt Vector Configuration",
        WriteAtomicity = 0x0a "Write Atomicity Normal",
        AsyncEvents = 0x0b "Asynchronous Event Configuration",
        AutonomousPower = 0x0c "Autonomous Power State Transition",
        HostMemoryBuffer = 0x0d "Host Memory Buffer",
        Timestamp = 0x0e "Timestamp",
        KeepAliveTimer = 0x0f "Keep Alive Timer",
        ThermalManagement = 0x10 "Host Controlled Thermal Management",
        NonOperationalPower = 0x11 "Non-Operational Power State Config",
        ReadRecoveryLevel = 0x12 "Read Recovery Level Config",
        PredictableLatencyMode = 0x13 "Predictable Latency Mode Config",
        PredictableLatencyWindow = 0x14 "Predictable Latency Mode Window",
        LbaStatusAttributes = 0x15 "LBA Status Information Report Interval",
        HostBehavior = 0x16 "Host Behavior Support",
        SanitizeConfig = 0x17 "Sanitize Config",
        EnduranceGroupEvents = 0x18 "Endurance Group Event Configuration",
        CommandSetProfile = 0x19 "I/O Command Set Profile",
        SpinupControl = 0x1a "Spinup Control",
        PowerLossSignaling = 0x1b "Power Loss Signaling Config",
        PerformanceCharacteristics = 0x1c "Performance Characteristics",
        FlexibleDataPlacement = 0x1d "Flexible Data Placement",
        FlexibleDataPlacementEvents = 0x1e "Flexible Data Placement Events",
        NamespaceAdminLabel = 0x1f "Namespace Admin Label",
        KeyValueConfig = 0x20 "Key Value Configuration",
        ControllerDataQueue = 0x21 "Controller Data Queue",
        EmbeddedManagement = 0x78 "Embedded Management Controller Address",
        HostManagementAgent = 0x79 "Host Management Agent Address",
        EnhancedControllerMetadata = 0x7d "Enhanced Controller Metadata",
        ControllerMetadata = 0x7e "Controller Metadata",
        NamespaceMetadata = 0x7f "Namespace Metadata",
        SoftwareProgress = 0x80 "Software Progress Marker",
        HostIdentifier = 0x81 "Host Identifier",
        ReservationNotificationMask = 0x82 "Reservation Notification Mask",
        ReservationPersistence = 0x83 "Reservation Persistence",
        WriteProtection = 0x84 "Namespace Write Protection Config",
        BootWriteProtection = 0x85 "Boot Partition Write Protection Config",
    }
}

wire_enum! {
    /// Which value Get Features asks for (Base 2.1, 5.1.11, SEL).
    pub enum Select: u8 = "feature select" {
        Current = 0 "Current",
        Default = 1 "Default",
        Saved = 2 "Saved",
        Capabilities = 3 "Supported Capabilities",
    }
}

/// Supported capabilities bit: saveable (Base 2.1, 5.1.11, dword 0 for SEL 011b).
pub const CAPABILITY_SAVEABLE: u32 = 1 << 0;
/// Supported capabilities bit: namespace specific.
pub const CAPABILITY_NAMESPACE: u32 = 1 << 1;
/// Supported capabilities bit: changeable.
pub const CAPABILITY_CHANGEABLE: u32 = 1 << 2;

/// Number of Queues (Base 2.1, 5.1.25), counted from one, the admin queue not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NumberOfQueues {
    /// I/O submission queues.
    pub submission: u32,
    /// I/O completion queues.
    pub completion: u32,
}

impl NumberOfQueues {
    /// From the command's dword 11 or the completion's dword 0. A field of FFFFh is invalid in
    /// the command: it gives 65536 here.
    pub const fn from_dword(dword: u32) -> NumberOfQueues {
        NumberOfQueues {
            submission: (dword & 0xffff) + 1,
            completion: (dword >> 16) + 1,
        }
    }

    /// As a dword; counts below 1 or above 65536 are brought to the nearest valid one.
    pub fn dword(self) -> u32 {
        let field = |count: u32| count.clamp(1, 65536) - 1;
        field(self.submission) | field(self.completion) << 16
    }
}

/// Arbitration (Base 2.1, 5.1.25.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arbitration {
    /// Burst, log2 of commands; 7 is no limit.
    pub burst: u8,
    /// Low priority weight, 0's based.
    pub low: u8,
    /// Medium priority weight, 0's based.
    pub medium: u8,
    /// High priority weight, 0's based.
    pub high: u8,
}

impl Arbitration {
    /// From a dword.
    pub const fn from_dword(dword: u32) -> Arbitration {
        let [burst, low, medium, high] = dword.to_le_bytes();
        Arbitration {
            burst: burst & 7,
            low,
            medium,
            high,
        }
    }

    /// As a dword.
    pub const fn dword(self) -> u32 {
        u32::from_le_bytes([self.burst & 7, self.low, self.medium, self.high])
    }
}

/// Power Management (Base 2.1, 5.1.25.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PowerManagement {
    /// Power state, 0 to 31.
    pub state: u8,
    /// Workload hint, 0 to 7.
    pub workload: u8,
}

impl PowerManagement {
    /// From a dword.
    pub const fn from_dword(dword: u32) -> PowerManagement {
        let [byte, ..] = dword.to_le_bytes();
        PowerManagement {
            state: byte & 0x1f,
            workload: byte >> 5,
        }
    }

    /// As a dword.
    pub const fn dword(self) -> u32 {
        (self.state as u32 & 0x1f) | (self.workload as u32 & 7) << 5
    }
}

/// Temperature Threshold (Base 2.1, 5.1.25.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TemperatureThreshold {
    /// Threshold in kelvin.
    pub kelvin: u16,
    /// Sensor: 0 composite, 1 to 8, 15 all (Set Features only).
    pub sensor: u8,
    /// Type: 0 over, 1 under temperature.
    pub under: u8,
    /// Hysteresis in kelvin.
    pub hysteresis: u8,
}

impl TemperatureThreshold {
    /// From a dword.
    pub const fn from_dword(dword: u32) -> TemperatureThreshold {
        let [low, high, select, more] = dword.to_le_bytes();
        TemperatureThreshold {
            kelvin: u16::from_le_bytes([low, high]),
            sensor: select & 0xf,
            under: select >> 4 & 3,
            hysteresis: (select >> 6) | (more & 1) << 2,
        }
    }

    /// As a dword.
    pub const fn dword(self) -> u32 {
        self.kelvin as u32
            | (self.sensor as u32 & 0xf) << 16
            | (self.under as u32 & 3) << 20
            | (self.hysteresis as u32 & 7) << 22
    }
}

/// Error Recovery (NVM 1.1, 4.1.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorRecovery {
    /// Time limited error recovery, in 100 ms; 0 is no limit.
    pub tler: u16,
    /// Deallocated or unwritten blocks error enable.
    pub dulbe: bool,
}

impl ErrorRecovery {
    /// From a dword.
    pub const fn from_dword(dword: u32) -> ErrorRecovery {
        let [low, high, more, _] = dword.to_le_bytes();
        ErrorRecovery {
            tler: u16::from_le_bytes([low, high]),
            dulbe: more & 1 != 0,
        }
    }

    /// As a dword.
    pub const fn dword(self) -> u32 {
        self.tler as u32 | (self.dulbe as u32) << 16
    }
}

/// Bit of the Volatile Write Cache value: enabled (Base 2.1, 5.1.25.1.4).
pub const VWC_ENABLE: u32 = 1 << 0;

/// Bit of the Write Atomicity Normal value: AWUN and NAWUN need not be honoured
/// (NVM 1.1, 4.1.3.3).
pub const WRITE_ATOMICITY_DISABLE: u32 = 1 << 0;

/// Asynchronous Event Configuration; the same bits as Identify Controller's OAES
/// (Base 2.1, 5.1.25.1.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AsyncEventConfig(pub u32);

impl AsyncEventConfig {
    /// SMART critical warnings, bits 7:0: `WARNING_*` of [`crate::log`].
    pub const HEALTH: u32 = 0xff;
    /// Attached Namespace Attribute Notices.
    pub const NAMESPACE: u32 = 1 << 8;
    /// Firmware Activation Notices.
    pub const FIRMWARE: u32 = 1 << 9;
    /// Telemetry Log Notices.
    pub const TELEMETRY: u32 = 1 << 10;
    /// Asymmetric Namespace Access Change Notices.
    pub const ANA: u32 = 1 << 11;
    /// Predictable Latency Event Aggregate Log Change Notices.
    pub const PREDICTABLE_LATENCY: u32 = 1 << 12;
    /// LBA Status Information Notices.
    pub const LBA_STATUS: u32 = 1 << 13;
    /// Endurance Group Event Aggregate Log Change Notices.
    pub const ENDURANCE_GROUP: u32 = 1 << 14;
    /// Normal NVM Subsystem Shutdown.
    pub const SUBSYSTEM_SHUTDOWN: u32 = 1 << 15;
    /// Discovery Log Page Change Notification.
    pub const DISCOVERY: u32 = 1 << 31;

    /// Whether all of `bits` are set.
    pub const fn has(self, bits: u32) -> bool {
        self.0 & bits == bits
    }
}

/// Host Behavior Support, the data of the feature, 512 bytes (Base 2.1, 5.1.25.1.14).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct HostBehavior {
    /// Advanced command retry enable: 0 or 1.
    pub acre: u8,
    /// Extended telemetry data area 4 supported: 0 or 1.
    pub etdas: u8,
    /// LBA format extension enable: 0 or 1.
    pub lbafee: u8,
    /// Host dispersed namespace support: 0 or 1.
    pub hdisns: u8,
    /// Copy descriptor formats enabled.
    pub cdfe: [u8; 2],
    /// Reserved.
    pub reserved6: [u8; 506],
}
layout!(HostBehavior, 512, acre @ 0, etdas @ 1, lbafee @ 2, hdisns @ 3, cdfe @ 4, reserved6 @ 6);

/// Timestamp, the data of the feature (Base 2.1, 5.1.25.1.7).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Timestamp {
    /// Milliseconds since 1970-01-01 UTC, 48 bits, little-endian.
    pub milliseconds: [u8; 6],
    /// Get Features: bit 0 the clock may have stopped, bits 3:1 origin (0 reset to zero,
    /// 1 set by Set Features).
    pub attributes: u8,
    /// Reserved.
    pub reserved7: u8,
}
layout!(Timestamp, 8, milliseconds @ 0, attributes @ 6);

impl Timestamp {
    /// Origin bits: set by Set Features.
    pub const ORIGIN_SET: u8 = 1 << 1;

    /// From milliseconds, of which 48 bits are kept, and attributes.
    pub const fn new(milliseconds: u64, attributes: u8) -> Timestamp {
        let [a, b, c, d, e, f, ..] = milliseconds.to_le_bytes();
        Timestamp {
            milliseconds: [a, b, c, d, e, f],
            attributes,
            reserved7: 0,
        }
    }

    /// Milliseconds since 1970-01-01 UTC.
    pub const fn millis(&self) -> u64 {
        let [a, b, c, d, e, f] = self.milliseconds;
        u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
    }
}

/// Bit of the Host Identifier command's dword 11: a 128-bit identifier, which Fabrics requires
/// (Base 2.1, 5.1.25.1.28, EXHID).
pub const HOST_ID_EXTENDED: u32 = 1 << 0;
