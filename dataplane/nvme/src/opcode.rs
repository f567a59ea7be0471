//! Opcodes and the direction of data they tell (Base 2.1, 3.1.3.4 and 6; NVM 1.1, 3.2).

/// Opcode of every Fabrics command, on admin and I/O queues (Base 2.1, 6).
pub const FABRICS: u8 = 0x7f;

/// Which way a command moves data: bits 1:0 of its opcode, or of its Fabrics command type
/// (Base 2.1, 3.1.3.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataDirection {
    /// No data.
    None,
    /// From the host to the controller.
    HostToController,
    /// From the controller to the host.
    ControllerToHost,
    /// Both ways: no command this crate knows.
    Bidirectional,
}

impl DataDirection {
    /// From an opcode or Fabrics command type.
    #[inline]
    pub const fn of(code: u8) -> DataDirection {
        match code & 3 {
            0 => DataDirection::None,
            1 => DataDirection::HostToController,
            2 => DataDirection::ControllerToHost,
            _ => DataDirection::Bidirectional,
        }
    }
}

wire_enum! {
    /// Admin command opcodes (Base 2.1, 5, Opcodes for Admin Commands).
    pub enum AdminOpcode: u8 = "admin opcode" {
        DeleteIoSq = 0x00 "Delete I/O Submission Queue",
        CreateIoSq = 0x01 "Create I/O Submission Queue",
        GetLogPage = 0x02 "Get Log Page",
        DeleteIoCq = 0x04 "Delete I/O Completion Queue",
        CreateIoCq = 0x05 "Create I/O Completion Queue",
        Identify = 0x06 "Identify",
        Abort = 0x08 "Abort",
        SetFeatures = 0x09 "Set Features",
        GetFeatures = 0x0a "Get Features",
        AsyncEventRequest = 0x0c "Asynchronous Event Request",
        NamespaceManagement = 0x0d "Namespace Management",
        FirmwareCommit = 0x10 "Firmware Commit",
        FirmwareDownload = 0x11 "Firmware Image Download",
        DeviceSelfTest = 0x14 "Device Self-test",
        NamespaceAttachment = 0x15 "Namespace Attachment",
        KeepAlive = 0x18 "Keep Alive",
        DirectiveSend = 0x19 "Directive Send",
        DirectiveReceive = 0x1a "Directive Receive",
        VirtualizationManagement = 0x1c "Virtualization Management",
        NvmeMiSend = 0x1d "NVMe-MI Send",
        NvmeMiReceive = 0x1e "NVMe-MI Receive",
        CapacityManagement = 0x20 "Capacity Management",
        DiscoveryInformationManagement = 0x21 "Discovery Information Management",
        FabricZoningReceive = 0x22 "Fabric Zoning Receive",
        Lockdown = 0x24 "Lockdown",
        FabricZoningLookup = 0x25 "Fabric Zoning Lookup",
        ClearExportedNvmResource = 0x28 "Clear Exported NVM Resource Configuration",
        FabricZoningSend = 0x29 "Fabric Zoning Send",
        CreateExportedNvmSubsystem = 0x2a "Create Exported NVM Subsystem",
        ManageExportedNvmSubsystem = 0x2d "Manage Exported NVM Subsystem",
        ManageExportedNamespace = 0x31 "Manage Exported Namespace",
        ManageExportedPort = 0x35 "Manage Exported Port",
        SendDiscoveryLogPage = 0x39 "Send Discovery Log Page",
        TrackSend = 0x3d "Track Send",
        TrackReceive = 0x3e "Track Receive",
        MigrationSend = 0x41 "Migration Send",
        MigrationReceive = 0x42 "Migration Receive",
        ControllerDataQueue = 0x45 "Controller Data Queue",
        DoorbellBufferConfig = 0x7c "Doorbell Buffer Config",
        Fabrics = 0x7f "Fabrics Command",
        FormatNvm = 0x80 "Format NVM",
        SecuritySend = 0x81 "Security Send",
        SecurityReceive = 0x82 "Security Receive",
        Sanitize = 0x84 "Sanitize",
        GetLbaStatus = 0x86 "Get LBA Status",
    }
}

wire_enum! {
    /// I/O command opcodes of the NVM command set (Base 2.1, 7; NVM 1.1, 3.2).
    pub enum IoOpcode: u8 = "I/O opcode" {
        Flush = 0x00 "Flush",
        Write = 0x01 "Write",
        Read = 0x02 "Read",
        WriteUncorrectable = 0x04 "Write Uncorrectable",
        Compare = 0x05 "Compare",
        WriteZeroes = 0x08 "Write Zeroes",
        DatasetManagement = 0x09 "Dataset Management",
        Verify = 0x0c "Verify",
        ReservationRegister = 0x0d "Reservation Register",
        ReservationReport = 0x0e "Reservation Report",
        ReservationAcquire = 0x11 "Reservation Acquire",
        IoManagementReceive = 0x12 "I/O Management Receive",
        ReservationRelease = 0x15 "Reservation Release",
        Cancel = 0x18 "Cancel",
        Copy = 0x19 "Copy",
        IoManagementSend = 0x1d "I/O Management Send",
        Fabrics = 0x7f "Fabrics Command",
    }
}

wire_enum! {
    /// Fabrics command types (Base 2.1, 6, FCTYPE).
    pub enum FabricsType: u8 = "Fabrics command type" {
        PropertySet = 0x00 "Property Set",
        Connect = 0x01 "Connect",
        PropertyGet = 0x04 "Property Get",
        AuthenticationSend = 0x05 "Authentication Send",
        AuthenticationReceive = 0x06 "Authentication Receive",
        Disconnect = 0x08 "Disconnect",
    }
}
