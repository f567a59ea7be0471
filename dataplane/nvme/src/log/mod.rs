//! Log pages (Base 2.1, 5.1.12).

mod ana;
mod discovery;
mod health;
mod support;

pub use ana::*;
pub use discovery::*;
pub use health::*;
pub use support::*;

wire_enum! {
    /// Log page identifier (Base 2.1, 5.1.12.1).
    pub enum LogPage: u8 = "log page identifier" {
        Supported = 0x00 "Supported Log Pages",
        Error = 0x01 "Error Information",
        Health = 0x02 "SMART / Health Information",
        FirmwareSlot = 0x03 "Firmware Slot Information",
        ChangedNamespaces = 0x04 "Changed Attached Namespace List",
        CommandEffects = 0x05 "Commands Supported and Effects",
        SelfTest = 0x06 "Device Self-test",
        TelemetryHost = 0x07 "Telemetry Host-Initiated",
        TelemetryController = 0x08 "Telemetry Controller-Initiated",
        EnduranceGroup = 0x09 "Endurance Group Information",
        PredictableLatencySet = 0x0a "Predictable Latency Per NVM Set",
        PredictableLatencyEvents = 0x0b "Predictable Latency Event Aggregate",
        Ana = 0x0c "Asymmetric Namespace Access",
        PersistentEvents = 0x0d "Persistent Event Log",
        LbaStatus = 0x0e "LBA Status Information",
        EnduranceGroupEvents = 0x0f "Endurance Group Event Aggregate",
        MediaUnitStatus = 0x10 "Media Unit Status",
        CapacityConfigurations = 0x11 "Supported Capacity Configuration List",
        FeatureEffects = 0x12 "Feature Identifiers Supported and Effects",
        MiEffects = 0x13 "NVMe-MI Commands Supported and Effects",
        Lockdown = 0x14 "Command and Feature Lockdown",
        BootPartition = 0x15 "Boot Partition",
        RotationalMedia = 0x16 "Rotational Media Information",
        Discovery = 0x70 "Discovery",
        HostDiscovery = 0x71 "Host Discovery",
        AveDiscovery = 0x72 "AVE Discovery",
        Reservation = 0x80 "Reservation Notification",
        Sanitize = 0x81 "Sanitize Status",
    }
}
