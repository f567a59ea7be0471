//! Status codes (Base 2.1, 4.2.3; NVM 1.1, 3.1; Base 2.1, 6, Fabrics command specific values).

use core::fmt;

/// Status of a completion: SC, SCT, CRD, M and DNR as one number without the phase bit
/// (Base 2.1, 4.2.3, Status Field).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Status(u16);

/// Status code type (Base 2.1, 4.2.3, SCT).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusType {
    /// Generic command status (0h).
    Generic,
    /// Command specific status (1h).
    CommandSpecific,
    /// Media and data integrity errors (2h).
    Media,
    /// Path related status (3h).
    Path,
    /// Reserved (4h to 6h).
    Reserved,
    /// Vendor specific (7h).
    Vendor,
}

const DNR: u16 = 1 << 14;
const MORE: u16 = 1 << 13;

impl Status {
    /// From status code type (3 bits) and status code, all other bits clear.
    pub const fn new(sct: u8, sc: u8) -> Status {
        Status(((sct as u16 & 7) << 8) | sc as u16)
    }

    /// From the status field of a completion (bits 15:1); the phase bit is left out.
    #[inline]
    pub const fn from_wire(field: u16) -> Status {
        Status(field >> 1)
    }

    /// The status field of a completion with the phase bit clear: `(DNR|M|CRD|SCT|SC) << 1`.
    #[inline]
    pub const fn wire(self) -> u16 {
        self.0 << 1
    }

    /// The same with Do Not Retry set: the command would fail again.
    #[must_use]
    pub const fn dnr(self) -> Status {
        Status(self.0 | DNR)
    }

    /// The same with More set: the error log page says more about it.
    #[must_use]
    pub const fn more(self) -> Status {
        Status(self.0 | MORE)
    }

    /// The same with a command retry delay: 0 none, 1 to 3 choose CRDT1 to CRDT3 of Identify.
    #[must_use]
    pub const fn with_crd(self, crd: u8) -> Status {
        Status((self.0 & !(3 << 11)) | ((crd as u16 & 3) << 11))
    }

    /// Whether it is Successful Completion, whatever CRD, M and DNR say.
    #[inline]
    pub const fn is_success(self) -> bool {
        self.0 & 0x7ff == 0
    }

    /// Whether Do Not Retry is set.
    pub const fn is_dnr(self) -> bool {
        self.0 & DNR != 0
    }

    /// Whether More is set.
    pub const fn is_more(self) -> bool {
        self.0 & MORE != 0
    }

    /// Command retry delay, 0 to 3.
    pub const fn crd(self) -> u8 {
        (self.0 >> 11) as u8 & 3
    }

    /// Status code.
    pub const fn sc(self) -> u8 {
        self.0.to_le_bytes()[0]
    }

    /// Status code type, the number.
    pub const fn sct(self) -> u8 {
        (self.0 >> 8) as u8 & 7
    }

    /// Status code type.
    pub const fn status_type(self) -> StatusType {
        match self.sct() {
            0 => StatusType::Generic,
            1 => StatusType::CommandSpecific,
            2 => StatusType::Media,
            3 => StatusType::Path,
            7 => StatusType::Vendor,
            _ => StatusType::Reserved,
        }
    }

    /// Code and code type only, CRD, M and DNR cleared: what to compare the constants with.
    #[must_use]
    pub const fn code(self) -> Status {
        Status(self.0 & 0x7ff)
    }

    /// The specification's name for the code, where it has one. Command specific codes 80h to BFh
    /// mean one thing to an I/O command and another to a Fabrics command: see
    /// [`Status::fabrics_name`].
    pub fn name(self) -> Option<&'static str> {
        lookup(GENERAL, self)
    }

    /// The specification's name for the code in the completion of a Fabrics command.
    pub fn fabrics_name(self) -> Option<&'static str> {
        lookup(FABRICS, self).or_else(|| lookup(GENERAL, self))
    }

    /// Shows the code as the completion of a Fabrics command means it.
    pub fn display_fabrics(self) -> impl fmt::Display {
        Named {
            status: self,
            name: self.fabrics_name(),
        }
    }
}

struct Named {
    status: Status,
    name: Option<&'static str>,
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sct, sc) = (self.status.sct(), self.status.sc());
        let dnr = if self.status.is_dnr() { ", DNR" } else { "" };
        let name = self.name.unwrap_or("unknown status");
        write!(f, "{name} (SCT {sct:x}h, SC {sc:02x}h{dnr})")
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Named {
            status: *self,
            name: self.name(),
        }
        .fmt(f)
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn lookup(table: &[(Status, &'static str)], status: Status) -> Option<&'static str> {
    table
        .iter()
        .find(|(code, _)| *code == status.code())
        .map(|(_, name)| *name)
}

macro_rules! statuses {
    ($table:ident: $($name:ident = $sct:literal, $sc:literal, $text:literal;)*) => {
        impl Status {
            $(#[doc = concat!($text, " (SCT ", stringify!($sct), ", SC ", stringify!($sc), ").")]
              pub const $name: Status = Status::new($sct, $sc);)*
        }
        const $table: &[(Status, &str)] = &[$((Status::$name, $text),)*];
    };
}

statuses! { GENERAL:
    SUCCESS = 0, 0x00, "Successful Completion";
    INVALID_OPCODE = 0, 0x01, "Invalid Command Opcode";
    INVALID_FIELD = 0, 0x02, "Invalid Field in Command";
    CID_CONFLICT = 0, 0x03, "Command ID Conflict";
    DATA_TRANSFER_ERROR = 0, 0x04, "Data Transfer Error";
    POWER_LOSS_ABORT = 0, 0x05, "Commands Aborted due to Power Loss Notification";
    INTERNAL_ERROR = 0, 0x06, "Internal Error";
    ABORT_REQUESTED = 0, 0x07, "Command Abort Requested";
    ABORT_SQ_DELETION = 0, 0x08, "Command Aborted due to SQ Deletion";
    ABORT_FAILED_FUSED = 0, 0x09, "Command Aborted due to Failed Fused Command";
    ABORT_MISSING_FUSED = 0, 0x0a, "Command Aborted due to Missing Fused Command";
    INVALID_NAMESPACE = 0, 0x0b, "Invalid Namespace or Format";
    COMMAND_SEQUENCE_ERROR = 0, 0x0c, "Command Sequence Error";
    INVALID_SGL_SEGMENT = 0, 0x0d, "Invalid SGL Segment Descriptor";
    INVALID_SGL_COUNT = 0, 0x0e, "Invalid Number of SGL Descriptors";
    DATA_SGL_LENGTH_INVALID = 0, 0x0f, "Data SGL Length Invalid";
    METADATA_SGL_LENGTH_INVALID = 0, 0x10, "Metadata SGL Length Invalid";
    SGL_TYPE_INVALID = 0, 0x11, "SGL Descriptor Type Invalid";
    INVALID_CMB_USE = 0, 0x12, "Invalid Use of Controller Memory Buffer";
    PRP_OFFSET_INVALID = 0, 0x13, "PRP Offset Invalid";
    ATOMIC_WRITE_UNIT_EXCEEDED = 0, 0x14, "Atomic Write Unit Exceeded";
    OPERATION_DENIED = 0, 0x15, "Operation Denied";
    SGL_OFFSET_INVALID = 0, 0x16, "SGL Offset Invalid";
    HOST_ID_INCONSISTENT = 0, 0x18, "Host Identifier Inconsistent Format";
    KEEP_ALIVE_EXPIRED = 0, 0x19, "Keep Alive Timer Expired";
    KEEP_ALIVE_TIMEOUT_INVALID = 0, 0x1a, "Keep Alive Timeout Invalid";
    ABORT_PREEMPT = 0, 0x1b, "Command Aborted due to Preempt and Abort";
    SANITIZE_FAILED = 0, 0x1c, "Sanitize Failed";
    SANITIZE_IN_PROGRESS = 0, 0x1d, "Sanitize In Progress";
    SGL_GRANULARITY_INVALID = 0, 0x1e, "SGL Data Block Granularity Invalid";
    CMB_COMMAND_UNSUPPORTED = 0, 0x1f, "Command Not Supported for Queue in CMB";
    NAMESPACE_WRITE_PROTECTED = 0, 0x20, "Namespace is Write Protected";
    COMMAND_INTERRUPTED = 0, 0x21, "Command Interrupted";
    TRANSIENT_TRANSPORT_ERROR = 0, 0x22, "Transient Transport Error";
    LOCKDOWN_PROHIBITED = 0, 0x23, "Command Prohibited by Command and Feature Lockdown";
    ADMIN_MEDIA_NOT_READY = 0, 0x24, "Admin Command Media Not Ready";
    INVALID_KEY_TAG = 0, 0x25, "Invalid Key Tag";
    DISPERSED_NS_DISABLED = 0, 0x26, "Host Dispersed Namespace Support Not Enabled";
    HOST_ID_NOT_INITIALIZED = 0, 0x27, "Host Identifier Not Initialized";
    INCORRECT_KEY = 0, 0x28, "Incorrect Key";
    FDP_DISABLED = 0, 0x29, "FDP Disabled";
    INVALID_PLACEMENT_HANDLES = 0, 0x2a, "Invalid Placement Handle List";
    LBA_OUT_OF_RANGE = 0, 0x80, "LBA Out of Range";
    CAPACITY_EXCEEDED = 0, 0x81, "Capacity Exceeded";
    NAMESPACE_NOT_READY = 0, 0x82, "Namespace Not Ready";
    RESERVATION_CONFLICT = 0, 0x83, "Reservation Conflict";
    FORMAT_IN_PROGRESS = 0, 0x84, "Format In Progress";
    CQ_INVALID = 1, 0x00, "Completion Queue Invalid";
    INVALID_QUEUE_ID = 1, 0x01, "Invalid Queue Identifier";
    INVALID_QUEUE_SIZE = 1, 0x02, "Invalid Queue Size";
    ABORT_LIMIT_EXCEEDED = 1, 0x03, "Abort Command Limit Exceeded";
    ASYNC_EVENT_LIMIT_EXCEEDED = 1, 0x05, "Asynchronous Event Request Limit Exceeded";
    INVALID_FIRMWARE_SLOT = 1, 0x06, "Invalid Firmware Slot";
    INVALID_FIRMWARE_IMAGE = 1, 0x07, "Invalid Firmware Image";
    INVALID_INTERRUPT_VECTOR = 1, 0x08, "Invalid Interrupt Vector";
    INVALID_LOG_PAGE = 1, 0x09, "Invalid Log Page";
    INVALID_FORMAT = 1, 0x0a, "Invalid Format";
    FIRMWARE_NEEDS_RESET = 1, 0x0b, "Firmware Activation Requires Conventional Reset";
    INVALID_QUEUE_DELETION = 1, 0x0c, "Invalid Queue Deletion";
    FEATURE_NOT_SAVEABLE = 1, 0x0d, "Feature Identifier Not Saveable";
    FEATURE_NOT_CHANGEABLE = 1, 0x0e, "Feature Not Changeable";
    FEATURE_NOT_NAMESPACE_SPECIFIC = 1, 0x0f, "Feature Not Namespace Specific";
    FIRMWARE_NEEDS_SUBSYSTEM_RESET = 1, 0x10, "Firmware Activation Requires NVM Subsystem Reset";
    FIRMWARE_NEEDS_CONTROLLER_RESET = 1, 0x11,
        "Firmware Activation Requires Controller Level Reset";
    FIRMWARE_NEEDS_MAX_TIME = 1, 0x12, "Firmware Activation Requires Maximum Time Violation";
    FIRMWARE_ACTIVATION_PROHIBITED = 1, 0x13, "Firmware Activation Prohibited";
    OVERLAPPING_RANGE = 1, 0x14, "Overlapping Range";
    NAMESPACE_INSUFFICIENT_CAPACITY = 1, 0x15, "Namespace Insufficient Capacity";
    NAMESPACE_ID_UNAVAILABLE = 1, 0x16, "Namespace Identifier Unavailable";
    NAMESPACE_ALREADY_ATTACHED = 1, 0x18, "Namespace Already Attached";
    NAMESPACE_IS_PRIVATE = 1, 0x19, "Namespace Is Private";
    NAMESPACE_NOT_ATTACHED = 1, 0x1a, "Namespace Not Attached";
    THIN_PROVISIONING_UNSUPPORTED = 1, 0x1b, "Thin Provisioning Not Supported";
    CONTROLLER_LIST_INVALID = 1, 0x1c, "Controller List Invalid";
    SELF_TEST_IN_PROGRESS = 1, 0x1d, "Device Self-test In Progress";
    BOOT_PARTITION_WRITE_PROHIBITED = 1, 0x1e, "Boot Partition Write Prohibited";
    INVALID_CONTROLLER_ID = 1, 0x1f, "Invalid Controller Identifier";
    INVALID_SECONDARY_STATE = 1, 0x20, "Invalid Secondary Controller State";
    INVALID_RESOURCE_COUNT = 1, 0x21, "Invalid Number of Controller Resources";
    INVALID_RESOURCE_ID = 1, 0x22, "Invalid Resource Identifier";
    SANITIZE_PROHIBITED_BY_PMR = 1, 0x23,
        "Sanitize Prohibited While Persistent Memory Region is Enabled";
    INVALID_ANA_GROUP = 1, 0x24, "ANA Group Identifier Invalid";
    ANA_ATTACH_FAILED = 1, 0x25, "ANA Attach Failed";
    INSUFFICIENT_CAPACITY = 1, 0x26, "Insufficient Capacity";
    NAMESPACE_ATTACHMENT_LIMIT = 1, 0x27, "Namespace Attachment Limit Exceeded";
    LOCKDOWN_EXECUTION_PROHIBITED = 1, 0x28, "Prohibition of Command Execution Not Supported";
    IO_COMMAND_SET_UNSUPPORTED = 1, 0x29, "I/O Command Set Not Supported";
    IO_COMMAND_SET_DISABLED = 1, 0x2a, "I/O Command Set Not Enabled";
    IO_COMMAND_SET_COMBINATION = 1, 0x2b, "I/O Command Set Combination Rejected";
    INVALID_IO_COMMAND_SET = 1, 0x2c, "Invalid I/O Command Set";
    IDENTIFIER_UNAVAILABLE = 1, 0x2d, "Identifier Unavailable";
    CONFLICTING_ATTRIBUTES = 1, 0x80, "Conflicting Attributes";
    INVALID_PROTECTION_INFORMATION = 1, 0x81, "Invalid Protection Information";
    WRITE_TO_READ_ONLY_RANGE = 1, 0x82, "Attempted Write to Read Only Range";
    COMMAND_SIZE_LIMIT_EXCEEDED = 1, 0x83, "Command Size Limit Exceeded";
    INVALID_COMMAND_ID = 1, 0x84, "Invalid Command ID";
    INCOMPATIBLE_NAMESPACE = 1, 0x85, "Incompatible Namespace or Format";
    FAST_COPY_IMPOSSIBLE = 1, 0x86, "Fast Copy Not Possible";
    OVERLAPPING_IO_RANGE = 1, 0x87, "Overlapping I/O Range";
    NAMESPACE_NOT_REACHABLE = 1, 0x88, "Namespace Not Reachable";
    INSUFFICIENT_RESOURCES = 1, 0x89, "Insufficient Resources";
    WRITE_FAULT = 2, 0x80, "Write Fault";
    UNRECOVERED_READ_ERROR = 2, 0x81, "Unrecovered Read Error";
    GUARD_CHECK_ERROR = 2, 0x82, "End-to-end Guard Check Error";
    APPLICATION_TAG_ERROR = 2, 0x83, "End-to-end Application Tag Check Error";
    REFERENCE_TAG_ERROR = 2, 0x84, "End-to-end Reference Tag Check Error";
    COMPARE_FAILURE = 2, 0x85, "Compare Failure";
    ACCESS_DENIED = 2, 0x86, "Access Denied";
    DEALLOCATED_BLOCK = 2, 0x87, "Deallocated or Unwritten Logical Block";
    STORAGE_TAG_ERROR = 2, 0x88, "End-to-End Storage Tag Check Error";
    INTERNAL_PATH_ERROR = 3, 0x00, "Internal Path Error";
    ANA_PERSISTENT_LOSS = 3, 0x01, "Asymmetric Access Persistent Loss";
    ANA_INACCESSIBLE = 3, 0x02, "Asymmetric Access Inaccessible";
    ANA_TRANSITION = 3, 0x03, "Asymmetric Access Transition";
    CONTROLLER_PATHING_ERROR = 3, 0x60, "Controller Pathing Error";
    HOST_PATHING_ERROR = 3, 0x70, "Host Pathing Error";
    ABORTED_BY_HOST = 3, 0x71, "Command Aborted By Host";
}

statuses! { FABRICS:
    CONNECT_INCOMPATIBLE_FORMAT = 1, 0x80, "Connect Incompatible Format";
    CONNECT_CONTROLLER_BUSY = 1, 0x81, "Connect Controller Busy";
    CONNECT_INVALID_PARAMETERS = 1, 0x82, "Connect Invalid Parameters";
    CONNECT_RESTART_DISCOVERY = 1, 0x83, "Connect Restart Discovery";
    CONNECT_INVALID_HOST = 1, 0x84, "Connect Invalid Host";
    INVALID_QUEUE_TYPE = 1, 0x85, "Invalid Queue Type";
    DISCOVER_RESTART = 1, 0x90, "Discover Restart";
    AUTHENTICATION_REQUIRED = 1, 0x91, "Authentication Required";
}
