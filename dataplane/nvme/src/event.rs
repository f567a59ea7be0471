//! Asynchronous events: completion dword 0 (Base 2.1, 5.1.2.1).

wire_enum! {
    /// Asynchronous event type (Base 2.1, 5.1.2.1, AET).
    pub enum EventType: u8 = "asynchronous event type" {
        Error = 0 "Error status",
        Health = 1 "SMART / Health status",
        Notice = 2 "Notice",
        Immediate = 3 "Immediate",
        OneShot = 4 "One-Shot",
        IoCommand = 6 "I/O Command specific status",
        Vendor = 7 "Vendor specific",
    }
}

/// An event (Base 2.1, 5.1.2.1, Asynchronous Event Request - Completion Queue Entry Dword 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AsyncEvent {
    /// Type, three bits: an [`EventType`].
    pub event_type: u8,
    /// Information, whose meaning depends on the type.
    pub info: u8,
    /// Log page to read about it, which also clears it.
    pub log_page: u8,
}

macro_rules! events {
    ($($(#[$meta:meta])* $name:ident = $type:ident, $info:literal, $lid:literal, $text:literal;)*) => {
        impl AsyncEvent {
            $(#[doc = concat!($text, ".")] $(#[$meta])*
              pub const $name: AsyncEvent =
                AsyncEvent { event_type: EventType::$type as u8, info: $info, log_page: $lid };)*
        }
        const KNOWN: &[(AsyncEvent, &str)] = &[$((AsyncEvent::$name, $text),)*];
    };
}

events! {
    INVALID_DOORBELL_REGISTER = Error, 0x00, 0x01, "Write to Invalid Doorbell Register";
    INVALID_DOORBELL_VALUE = Error, 0x01, 0x01, "Invalid Doorbell Write Value";
    DIAGNOSTIC_FAILURE = Error, 0x02, 0x01, "Diagnostic Failure";
    PERSISTENT_INTERNAL_ERROR = Error, 0x03, 0x01, "Persistent Internal Error";
    TRANSIENT_INTERNAL_ERROR = Error, 0x04, 0x01, "Transient Internal Error";
    SUBSYSTEM_RELIABILITY = Health, 0x00, 0x02, "NVM Subsystem Reliability";
    TEMPERATURE_THRESHOLD = Health, 0x01, 0x02, "Temperature Threshold";
    SPARE_BELOW_THRESHOLD = Health, 0x02, 0x02, "Spare Below Threshold";
    NAMESPACE_CHANGED = Notice, 0x00, 0x04, "Attached Namespace Attribute Changed";
    FIRMWARE_ACTIVATION = Notice, 0x01, 0x03, "Firmware Activation Starting";
    TELEMETRY_CHANGED = Notice, 0x02, 0x08, "Telemetry Log Changed";
    ANA_CHANGED = Notice, 0x03, 0x0c, "Asymmetric Namespace Access Change";
    SUBSYSTEM_NORMAL_SHUTDOWN = Immediate, 0x00, 0x00, "NVM Subsystem Normal Shutdown";
    DISCOVERY_CHANGED = Notice, 0xf0, 0x70, "Discovery Log Page Change";
}

impl AsyncEvent {
    /// Completion dword 0.
    pub const fn dword(self) -> u32 {
        (self.event_type as u32 & 7) | (self.info as u32) << 8 | (self.log_page as u32) << 16
    }

    /// From completion dword 0.
    pub const fn from_dword(dword: u32) -> AsyncEvent {
        let [t, info, log_page, _] = dword.to_le_bytes();
        AsyncEvent {
            event_type: t & 7,
            info,
            log_page,
        }
    }

    /// The type, where it is not reserved.
    pub fn kind(self) -> Option<EventType> {
        EventType::try_from(self.event_type).ok()
    }

    /// The specification's name for it, where it has one.
    pub fn name(self) -> Option<&'static str> {
        KNOWN
            .iter()
            .find(|(event, _)| *event == self)
            .map(|(_, name)| *name)
    }
}
