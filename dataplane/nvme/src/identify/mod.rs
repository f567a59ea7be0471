//! Identify: which structure a CNS value asks for, and the structures (Base 2.1, 5.1.13;
//! NVM 1.1, 4.1.5).

mod controller;
mod lists;
mod namespace;

pub use controller::*;
pub use lists::*;
pub use namespace::*;

/// Every Identify structure has this many bytes.
pub const IDENTIFY_BYTES: usize = 4096;

wire_enum! {
    /// Controller or Namespace Structure: what an Identify command asks for (Base 2.1, 5.1.13.1).
    pub enum Cns: u8 = "CNS value" {
        Namespace = 0x00 "Identify Namespace",
        Controller = 0x01 "Identify Controller",
        ActiveNamespaces = 0x02 "Active Namespace ID list",
        NamespaceDescriptors = 0x03 "Namespace Identification Descriptor list",
        NvmSets = 0x04 "NVM Set List",
        CommandSetNamespace = 0x05 "I/O Command Set specific Identify Namespace",
        CommandSetController = 0x06 "I/O Command Set specific Identify Controller",
        CommandSetActiveNamespaces = 0x07 "I/O Command Set specific Active Namespace ID list",
        IndependentNamespace = 0x08 "I/O Command Set Independent Identify Namespace",
        NamespaceFormat = 0x09 "Identify Namespace for a Format Index",
        CommandSetNamespaceFormat = 0x0a
            "I/O Command Set specific Identify Namespace for a Format Index",
        AllocatedNamespaces = 0x10 "Allocated Namespace ID list",
        AllocatedNamespace = 0x11 "Identify Namespace of an Allocated Namespace ID",
        NamespaceControllers = 0x12 "Controllers attached to a Namespace",
        SubsystemControllers = 0x13 "Controllers of the NVM Subsystem",
        PrimaryControllerCapabilities = 0x14 "Primary Controller Capabilities",
        SecondaryControllers = 0x15 "Secondary Controller list",
        NamespaceGranularity = 0x16 "Namespace Granularity List",
        UuidList = 0x17 "UUID List",
        DomainList = 0x18 "Domain List",
        EnduranceGroups = 0x19 "Endurance Group List",
        CommandSetAllocatedNamespaces = 0x1a
            "I/O Command Set specific Allocated Namespace ID list",
        CommandSetAllocatedNamespace = 0x1b
            "I/O Command Set specific Identify Namespace of an Allocated Namespace ID",
        CommandSetCombinations = 0x1c "I/O Command Set data structure",
        UnderlyingNamespaces = 0x1d "Underlying Namespace List",
        Ports = 0x1e "Ports List",
        IndependentAllocatedNamespace = 0x1f
            "I/O Command Set Independent Identify Namespace of an Allocated Namespace ID",
        SupportedControllerStates = 0x20 "Supported Controller State Formats",
    }
}

/// Command set identifier of the NVM command set (Base 2.1, 7, CSI).
pub const CSI_NVM: u8 = 0x00;
/// Command set identifier of the key value command set.
pub const CSI_KEY_VALUE: u8 = 0x01;
/// Command set identifier of the zoned namespace command set.
pub const CSI_ZONED: u8 = 0x02;
