//! What Identify answers (base specification, section 5.17.2; NVM command set, section 4.1.5).

mod controller;
mod namespace;

pub use controller::{
    AnaCapabilities, CompletionEntrySizes, ControllerAttributes, ControllerType, FabricsAttributes, FirmwareUpdates,
    FormatAttributes, FusedOperations, IdentifyController, LogPageAttributes, Multipath, OptionalAdminCommands,
    OptionalNvmCommands, PowerState, SglSupport, SubmissionEntrySizes, WriteCacheAttributes,
};
pub use namespace::{
    DeallocateFeatures, ExtendedLbaFormat, FormattedLbaSize, IdentifyNamespace, IdentifyNamespaceNvm,
    IndependentFeatures, IndependentNamespace, LbaFormat, MetadataCapabilities, NamespaceAttributes, NamespaceFeatures,
    NamespaceSharing, NamespaceStatus, ProtectionCapabilities, ProtectionSettings,
};

use crate::PAGE;

named_values! {
    /// Controller or Namespace Structure (CNS): what is asked for.
    Cns(u8) {
        NAMESPACE = 0x00, "Identify Namespace data structure";
        CONTROLLER = 0x01, "Identify Controller data structure";
        ACTIVE_NAMESPACES = 0x02, "Active Namespace ID list";
        NAMESPACE_DESCRIPTORS = 0x03, "Namespace Identification Descriptor list";
        NVM_SET_LIST = 0x04, "NVM Set List";
        COMMAND_SET_NAMESPACE = 0x05, "I/O Command Set specific Identify Namespace data structure";
        COMMAND_SET_CONTROLLER = 0x06, "I/O Command Set specific Identify Controller data structure";
        COMMAND_SET_ACTIVE_NAMESPACES = 0x07, "I/O Command Set specific Active Namespace ID list";
        INDEPENDENT_NAMESPACE = 0x08, "I/O Command Set Independent Identify Namespace data structure";
        ALLOCATED_NAMESPACES = 0x10, "Allocated Namespace ID list";
        ALLOCATED_NAMESPACE = 0x11, "Identify Namespace data structure of an allocated namespace";
        ATTACHED_CONTROLLERS = 0x12, "Controller List of those that a namespace is attached to";
        CONTROLLER_LIST = 0x13, "Controller List";
        PRIMARY_CONTROLLER_CAPABILITIES = 0x14, "Primary Controller Capabilities data structure";
        SECONDARY_CONTROLLER_LIST = 0x15, "Secondary Controller List";
        NAMESPACE_GRANULARITY_LIST = 0x16, "Namespace Granularity List";
        UUID_LIST = 0x17, "UUID List";
        DOMAIN_LIST = 0x18, "Domain List";
        ENDURANCE_GROUP_LIST = 0x19, "Endurance Group List";
        COMMAND_SET_ALLOCATED_NAMESPACES = 0x1a, "I/O Command Set specific Allocated Namespace ID list";
        COMMAND_SET_ALLOCATED_NAMESPACE = 0x1b, "I/O Command Set specific structure of an allocated namespace";
        COMMAND_SETS = 0x1c, "I/O Command Set data structure";
    }
}

named_values! {
    /// Command Set Identifier (CSI).
    CommandSet(u8) {
        NVM = 0x00, "NVM Command Set";
        KEY_VALUE = 0x01, "Key Value Command Set";
        ZNS = 0x02, "Zoned Namespace Command Set";
    }
}

named_values! {
    /// Namespace Identifier Type (NIDT) of a Namespace Identification Descriptor.
    NamespaceIdType(u8) {
        EUI64 = 0x01, "IEEE Extended Unique Identifier";
        NGUID = 0x02, "Namespace Globally Unique Identifier";
        UUID = 0x03, "Namespace UUID";
        CSI = 0x04, "Command Set Identifier";
    }
}

impl NamespaceIdType {
    /// Returns the bytes of an identifier of this type, or `None` for a type that has no name here.
    #[must_use]
    pub const fn id_len(self) -> Option<u8> {
        match self {
            Self::EUI64 => Some(8),
            Self::NGUID | Self::UUID => Some(16),
            Self::CSI => Some(1),
            _ => None,
        }
    }
}

/// Identifiers in a list of namespaces, which a 0 ends if there are fewer.
pub const NSID_LIST_ENTRIES: usize = PAGE / size_of::<u32>();

/// The CNTID that stands for the controller that carries out the command.
pub const THIS_CONTROLLER: u16 = 0xffff;

/// The most identifiers in a [`ControllerList`].
pub const MAX_CONTROLLERS: usize = PAGE / size_of::<u16>() - 1;

layouts! {
    /// The head of a Namespace Identification Descriptor (figure 277), which the identifier follows.
    #[derive(Default)]
    NamespaceDescriptor[4] {
        /// Namespace Identifier Type.
        pub nidt: NamespaceIdType,
        /// Namespace Identifier Length in bytes; 0 ends the list.
        pub nidl: u8,
        /// Reserved.
        pub reserved_2: [u8; 2],
    }

    /// Controller List (section 4.4.1).
    ControllerList[4096] {
        /// Number of Identifiers.
        pub count: u16,
        /// Identifiers, ascending.
        pub cntlids: [u16; MAX_CONTROLLERS],
    }

    /// Identify Controller of the NVM command set (CNS 06h; NVM command set, section 4.1.5.4): limits of commands.
    IdentifyControllerNvm[4096] {
        /// Verify Size Limit, as a power of two in pages of CAP.MPSMIN; 0 for no limit.
        pub vsl: u8,
        /// Write Zeroes Size Limit, likewise.
        pub wzsl: u8,
        /// Write Uncorrectable Size Limit, likewise.
        pub wusl: u8,
        /// Dataset Management Ranges Limit; 0 for none.
        pub dmrl: u8,
        /// Dataset Management Range Size Limit, in logical blocks; 0 for none.
        pub dmrsl: u32,
        /// Dataset Management Size Limit, in logical blocks; 0 for none.
        pub dmsl: u64,
        /// Reserved.
        pub reserved_16: [u8; 4080],
    }

    /// I/O Command Set data structure (CNS 1Ch; section 5.17.2.21): the combinations that can be selected.
    IdentifyCommandSets[4096] {
        /// Each combination is a set of bits, one for each [`CommandSet`].
        pub combinations: [u64; 512],
    }
}

#[cfg(test)]
mod tests {
    use core::mem::offset_of;

    use super::*;

    #[test]
    fn lists_have_as_many_entries_as_fit_into_a_page() {
        assert_eq!((NSID_LIST_ENTRIES, MAX_CONTROLLERS), (1024, 2047));
        assert_eq!(offset_of!(IdentifyControllerNvm, dmsl), 8);
    }

    #[test]
    fn the_length_of_a_namespace_identifier_follows_from_its_type() {
        assert_eq!(
            NamespaceIdType::NAMED.iter().map(|kind| kind.id_len()).collect::<std::vec::Vec<_>>(),
            [Some(8), Some(16), Some(16), Some(1)]
        );
        assert_eq!(NamespaceIdType(5).id_len(), None);
    }
}
