//! Zones (Zoned Namespace Command Set specification, sections 3.4 and 4.1.5).

bit_fields! {
    /// Command Dword 13 of Zone Management Send (section 3.4.3).
    ZoneSendDw13(u32) {
        /// Zone Send Action.
        #[bits(8)]
        pub zsa: ZoneSendAction,
        /// Select All.
        pub select_all: bool,
        /// Zone Send Action Specific Option.
        pub zsaso: bool,
        #[bits(22)]
        __: u32,
    }

    /// Command Dword 13 of Zone Management Receive (section 3.4.2). Command Dword 12 is the number of dwords, less one.
    ZoneReceiveDw13(u32) {
        /// Zone Receive Action.
        #[bits(8)]
        pub zra: ZoneReceiveAction,
        /// Zone Receive Action Specific Field: for a report, the states of the zones that are told of.
        #[bits(8)]
        pub zrasf: ZoneReportOption,
        /// Partial Report: the number of zones is that of the descriptors in the data.
        pub partial: bool,
        #[bits(15)]
        __: u16,
    }

    /// The second byte of a zone descriptor.
    ZoneStateField(u8) {
        #[bits(4)]
        __: u8,
        /// Zone State.
        #[bits(4)]
        pub zs: ZoneState,
    }

    /// The first byte of a zone descriptor.
    ZoneTypeField(u8) {
        /// Zone Type.
        #[bits(4)]
        pub zt: ZoneType,
        #[bits(4)]
        __: u8,
    }

    /// Zone Attributes (section 3.4.2.2.3).
    ZoneAttributes(u8) {
        /// Zone Finished by Controller.
        pub zfc: bool,
        /// Finish Zone Recommended.
        pub fzr: bool,
        /// Reset Zone Recommended.
        pub rzr: bool,
        #[bits(4)]
        __: u8,
        /// Zone Descriptor Extension Valid.
        pub zdev: bool,
    }
}

named_values! {
    /// Zone Send Action (ZSA).
    ZoneSendAction(u8) {
        CLOSE = 0x01, "Close Zone";
        FINISH = 0x02, "Finish Zone";
        OPEN = 0x03, "Open Zone";
        RESET = 0x04, "Reset Zone";
        OFFLINE = 0x05, "Offline Zone";
        SET_DESCRIPTOR_EXTENSION = 0x10, "Set Zone Descriptor Extension";
    }
}

named_values! {
    /// Zone Receive Action (ZRA).
    ZoneReceiveAction(u8) {
        REPORT = 0x00, "Report Zones";
        EXTENDED_REPORT = 0x01, "Extended Report Zones";
    }
}

named_values! {
    /// Reporting Options of a report: which zones it has.
    ZoneReportOption(u8) {
        ALL = 0x0, "All zones";
        EMPTY = 0x1, "Zones in the state Empty";
        IMPLICITLY_OPENED = 0x2, "Zones in the state Implicitly Opened";
        EXPLICITLY_OPENED = 0x3, "Zones in the state Explicitly Opened";
        CLOSED = 0x4, "Zones in the state Closed";
        FULL = 0x5, "Zones in the state Full";
        READ_ONLY = 0x6, "Zones in the state Read Only";
        OFFLINE = 0x7, "Zones in the state Offline";
    }
}

named_values! {
    /// Zone Type (ZT).
    ZoneType(u8) {
        SEQUENTIAL_WRITE_REQUIRED = 0x2, "Sequential Write Required";
    }
}

named_values! {
    /// Zone State (ZS).
    ZoneState(u8) {
        EMPTY = 0x1, "Empty";
        IMPLICITLY_OPENED = 0x2, "Implicitly Opened";
        EXPLICITLY_OPENED = 0x3, "Explicitly Opened";
        CLOSED = 0x4, "Closed";
        READ_ONLY = 0xd, "Read Only";
        FULL = 0xe, "Full";
        OFFLINE = 0xf, "Offline";
    }
}

layouts! {
    /// The head of a report of zones (section 3.4.2.2.1), which descriptors follow.
    ZoneReport[64] {
        /// Number of Zones.
        pub zones: u64,
        /// Reserved.
        pub reserved_8: [u8; 56],
    }

    /// Zone Descriptor (section 3.4.2.2.3).
    ZoneDescriptor[64] {
        /// Zone Type.
        pub zt: ZoneTypeField,
        /// Zone State.
        pub zs: ZoneStateField,
        /// Zone Attributes.
        pub za: ZoneAttributes,
        /// Zone Attributes Information.
        pub zai: u8,
        /// Reserved.
        pub reserved_4: [u8; 4],
        /// Zone Capacity, in logical blocks.
        pub zcap: u64,
        /// Zone Start Logical Block Address.
        pub zslba: u64,
        /// Write Pointer: the next logical block that is written.
        pub wp: u64,
        /// Reserved.
        pub reserved_32: [u8; 32],
    }

    /// LBA Format Extension (section 4.1.5.1).
    #[derive(Default)]
    ZonedLbaFormat[16] {
        /// Zone Size, in logical blocks.
        pub zsze: u64,
        /// Zone Descriptor Extension Size, in units of 64 bytes.
        pub zdes: u8,
        /// Reserved.
        pub reserved_9: [u8; 7],
    }

    /// Identify Namespace of the Zoned Namespace Command Set (CNS 05h; section 4.1.5.1).
    IdentifyNamespaceZns[4096] {
        /// Zone Operation Characteristics.
        pub zoc: u16,
        /// Optional Zoned Command Support.
        pub ozcs: u16,
        /// Maximum Active Resources, less one; all ones for no limit.
        pub mar: u32,
        /// Maximum Open Resources, less one; all ones for no limit.
        pub mor: u32,
        /// Reset Recommended Limit, in seconds; 0 for none.
        pub rrl: u32,
        /// Finish Recommended Limit, in seconds; 0 for none.
        pub frl: u32,
        /// Reserved.
        pub reserved_20: [u8; 2796],
        /// LBA Format Extensions, by LBA format.
        pub lbafe: [ZonedLbaFormat; 64],
        /// Vendor Specific.
        pub vendor_specific: [u8; 256],
    }

    /// Identify Controller of the Zoned Namespace Command Set (CNS 06h; section 4.1.5.2).
    IdentifyControllerZns[4096] {
        /// Zone Append Size Limit, as a power of two in pages of CAP.MPSMIN; 0 for MDTS.
        pub zasl: u8,
        /// Reserved.
        pub reserved_1: [u8; 4095],
    }
}

#[cfg(test)]
mod tests {
    use core::mem::offset_of;

    use super::*;

    #[test]
    fn a_zones_state_is_in_the_upper_half_of_its_byte() {
        assert_eq!(ZoneStateField::new().with_zs(ZoneState::FULL).into_bits(), 0xe0);
        assert_eq!(ZoneTypeField::new().with_zt(ZoneType::SEQUENTIAL_WRITE_REQUIRED).into_bits(), 0x02);
        let send = ZoneSendDw13::new().with_zsa(ZoneSendAction::RESET).with_select_all(true);
        assert_eq!(send.into_bits(), 0x104);
        let receive = ZoneReceiveDw13::new().with_zrasf(ZoneReportOption::OFFLINE).with_partial(true);
        assert_eq!(receive.into_bits(), 0x1_0700);
    }

    #[test]
    fn fields_lie_where_the_specification_has_them() {
        assert_eq!((offset_of!(ZoneDescriptor, zcap), offset_of!(ZoneDescriptor, wp)), (8, 24));
        assert_eq!((offset_of!(IdentifyNamespaceZns, mar), offset_of!(IdentifyNamespaceZns, lbafe)), (4, 2816));
    }
}
