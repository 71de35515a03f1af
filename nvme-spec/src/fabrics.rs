//! Commands of NVMe over Fabrics (base specification, section 6).

use zerocopy::transmute;

use crate::command::{CommandFlags, SglDescriptor, Sqe};

named_values! {
    /// Fabrics Command Type (FCTYPE), whose low bits are a [`DataTransfer`](crate::opcode::DataTransfer).
    FabricsType(u8) {
        PROPERTY_SET = 0x00, "Property Set";
        CONNECT = 0x01, "Connect";
        PROPERTY_GET = 0x04, "Property Get";
        AUTHENTICATION_SEND = 0x05, "Authentication Send";
        AUTHENTICATION_RECEIVE = 0x06, "Authentication Receive";
        DISCONNECT = 0x08, "Disconnect";
    }
}

/// The CNTLID of Connect that asks a controller of the dynamic model for any controller.
pub const ANY_CONTROLLER: u16 = 0xffff;

/// The unit of the sizes of capsules in Identify Controller, in bytes.
pub const CAPSULE_UNIT: u32 = 16;

/// The greatest identifier that a controller has; those above are reserved.
pub const MAX_CNTLID: u16 = 0xffef;

bit_fields! {
    /// Attributes of Property Get and Property Set.
    PropertyAttributes(u8) {
        /// The size of the property: 0 four bytes, 1 eight bytes.
        #[bits(3)]
        pub size: u8,
        #[bits(5)]
        __: u8,
    }

    /// Dword 0 of the completion of Connect that succeeded (figure 376).
    ConnectResult(u32) {
        /// Controller ID.
        pub cntlid: u16,
        /// Authentication and Security Requirements: what is due before other commands are carried out; 0 for nothing.
        pub authreq: u16,
    }

    /// Dword 0 of the completion of Connect that failed with Invalid Parameters (figure 376).
    ConnectFailure(u32) {
        /// Invalid Parameter Offset, in bytes.
        pub ipo: u16,
        /// Invalid Attributes: the parameter is one of the data, not of the entry.
        pub in_data: bool,
        #[bits(15)]
        __: u16,
    }
}

layouts! {
    /// Connect (section 6.3), as it lies in a submission queue entry.
    ConnectCommand[64] {
        /// Opcode: [`AdminOpcode::FABRICS`](crate::AdminOpcode::FABRICS).
        pub opcode: u8,
        /// PRP or SGL for Data Transfer.
        pub flags: CommandFlags,
        /// Command Identifier.
        pub cid: u16,
        /// Fabrics Command Type.
        pub fctype: FabricsType,
        /// Reserved.
        pub reserved_5: [u8; 19],
        /// SGL descriptor of the data.
        pub sgl: SglDescriptor,
        /// Record Format: 0.
        pub recfmt: u16,
        /// Queue ID.
        pub qid: u16,
        /// Submission Queue Size: entries less one.
        pub sqsize: u16,
        /// Connect Attributes: priority in bits 1:0; bit 2, no flow control by SQ heads.
        pub cattr: u8,
        /// Reserved.
        pub reserved_47: u8,
        /// Keep Alive Timeout, in milliseconds.
        pub kato: u32,
        /// Reserved.
        pub reserved_52: [u8; 12],
    }

    /// The data of Connect (figure 374).
    ConnectData[1024] {
        /// Host Identifier.
        pub hostid: [u8; 16],
        /// Controller ID.
        pub cntlid: u16,
        /// Reserved.
        pub reserved_18: [u8; 238],
        /// NVM Subsystem NVMe Qualified Name, ended by a zero.
        pub subnqn: [u8; crate::NQN_FIELD],
        /// Host NVMe Qualified Name, ended by a zero.
        pub hostnqn: [u8; crate::NQN_FIELD],
        /// Reserved.
        pub reserved_768: [u8; 256],
    }

    /// Property Get and Property Set (sections 6.5 and 6.6), as they lie in a submission queue entry.
    PropertyCommand[64] {
        /// Opcode: [`AdminOpcode::FABRICS`](crate::AdminOpcode::FABRICS).
        pub opcode: u8,
        /// Reserved.
        pub reserved_1: u8,
        /// Command Identifier.
        pub cid: u16,
        /// Fabrics Command Type.
        pub fctype: FabricsType,
        /// Reserved.
        pub reserved_5: [u8; 35],
        /// Attributes: the size of the property.
        pub attrib: PropertyAttributes,
        /// Reserved.
        pub reserved_41: [u8; 3],
        /// Offset: a [`Register`](crate::register::Register).
        pub offset: u32,
        /// Value, of Property Set.
        pub value: u64,
        /// Reserved.
        pub reserved_56: [u8; 8],
    }
}

/// The entry that a command of NVMe over Fabrics is, whose own fields lie where other commands have theirs.
impl Sqe {
    /// Returns the Fabrics Command Type.
    #[must_use]
    pub const fn fctype(self) -> FabricsType {
        self.as_property().fctype
    }

    /// Returns the entry as that of a Connect.
    #[must_use]
    pub const fn as_connect(self) -> ConnectCommand {
        transmute!(self)
    }

    /// Returns the entry as that of a Property Get or Property Set.
    #[must_use]
    pub const fn as_property(self) -> PropertyCommand {
        transmute!(self)
    }
}

#[cfg(test)]
mod tests {
    use core::mem::offset_of;

    use super::*;

    #[test]
    fn commands_have_their_fields_where_the_specification_has_them() {
        assert_eq!((offset_of!(ConnectCommand, fctype), offset_of!(ConnectCommand, sgl)), (4, 24));
        assert_eq!((offset_of!(ConnectCommand, qid), offset_of!(ConnectCommand, kato)), (42, 48));
        assert_eq!((offset_of!(ConnectData, cntlid), offset_of!(ConnectData, subnqn)), (16, 256));
        assert_eq!((offset_of!(ConnectData, hostnqn), offset_of!(PropertyCommand, attrib)), (512, 40));
        assert_eq!((offset_of!(PropertyCommand, offset), offset_of!(PropertyCommand, value)), (44, 48));
    }

    #[test]
    fn a_connect_tells_its_controller_and_a_failed_one_the_place_of_what_is_wrong() {
        assert_eq!(ConnectResult::from_bits(0x0004_0007).cntlid(), 7);
        assert_eq!(ConnectResult::from_bits(0x0004_0007).authreq(), 4);
        assert_eq!(ConnectFailure::new().with_ipo(256).with_in_data(true).into_bits(), 1 << 16 | 256);
    }
}
