//! Reservations (base specification, sections 7.2 to 7.6 and 8.19).

use zerocopy::little_endian::U16;

bit_fields! {
    /// Command Dword 10 of Reservation Register (section 7.3).
    RegisterDw10(u32) {
        /// Reservation Register Action.
        #[bits(3)]
        pub rrega: RegisterAction,
        /// Ignore Existing Key.
        pub iekey: bool,
        #[bits(26)]
        __: u32,
        /// Change Persist Through Power Loss State: 0 no change, 2 cleared, 3 set.
        #[bits(2)]
        pub cptpl: u8,
    }

    /// Command Dword 10 of Reservation Acquire (section 7.2).
    AcquireDw10(u32) {
        /// Reservation Acquire Action.
        #[bits(3)]
        pub racqa: AcquireAction,
        /// Ignore Existing Key.
        pub iekey: bool,
        #[bits(4)]
        __: u8,
        /// Reservation Type.
        #[bits(8)]
        pub rtype: ReservationType,
        __: u16,
    }

    /// Command Dword 10 of Reservation Release (section 7.4).
    ReleaseDw10(u32) {
        /// Reservation Release Action.
        #[bits(3)]
        pub rrela: ReleaseAction,
        /// Ignore Existing Key.
        pub iekey: bool,
        #[bits(4)]
        __: u8,
        /// Reservation Type.
        #[bits(8)]
        pub rtype: ReservationType,
        __: u16,
    }

    /// Command Dword 11 of Reservation Report (section 7.5). Command Dword 10 is the number of dwords, less one.
    ReportDw11(u32) {
        /// Extended Data Structure: that with host identifiers of 128 bits.
        pub eds: bool,
        #[bits(31)]
        __: u32,
    }

    /// Reservation Status of a registered controller (section 7.5).
    RegistrantStatus(u8) {
        /// The controller holds the reservation.
        pub holder: bool,
        #[bits(7)]
        __: u8,
    }

    /// Reservation Capabilities of a namespace (RESCAP; NVM command set, section 4.1.5.1).
    ReservationCapabilities(u8) {
        /// Persist Through Power Loss.
        pub ptpl: bool,
        /// Write Exclusive.
        pub wrex: bool,
        /// Exclusive Access.
        pub exac: bool,
        /// Write Exclusive - Registrants Only.
        pub wrexro: bool,
        /// Exclusive Access - Registrants Only.
        pub exacro: bool,
        /// Write Exclusive - All Registrants.
        pub wrexar: bool,
        /// Exclusive Access - All Registrants.
        pub exacar: bool,
        /// Ignore Existing Key is used as revision 1.3 has it.
        pub iekr: bool,
    }
}

named_values! {
    /// Reservation Register Action (RREGA).
    RegisterAction(u8) {
        REGISTER = 0, "Register Reservation Key";
        UNREGISTER = 1, "Unregister Reservation Key";
        REPLACE = 2, "Replace Reservation Key";
    }
}

named_values! {
    /// Reservation Acquire Action (RACQA).
    AcquireAction(u8) {
        ACQUIRE = 0, "Acquire";
        PREEMPT = 1, "Preempt";
        PREEMPT_AND_ABORT = 2, "Preempt and Abort";
    }
}

named_values! {
    /// Reservation Release Action (RRELA).
    ReleaseAction(u8) {
        RELEASE = 0, "Release";
        CLEAR = 1, "Clear";
    }
}

named_values! {
    /// Reservation Type (RTYPE).
    ReservationType(u8) {
        NONE = 0, "No reservation";
        WRITE_EXCLUSIVE = 1, "Write Exclusive";
        EXCLUSIVE_ACCESS = 2, "Exclusive Access";
        WRITE_EXCLUSIVE_REGISTRANTS_ONLY = 3, "Write Exclusive - Registrants Only";
        EXCLUSIVE_ACCESS_REGISTRANTS_ONLY = 4, "Exclusive Access - Registrants Only";
        WRITE_EXCLUSIVE_ALL_REGISTRANTS = 5, "Write Exclusive - All Registrants";
        EXCLUSIVE_ACCESS_ALL_REGISTRANTS = 6, "Exclusive Access - All Registrants";
    }
}

layouts! {
    /// The data of Reservation Register (section 7.3).
    #[derive(Default)]
    RegisterData[16] {
        /// Current Reservation Key.
        pub crkey: u64,
        /// New Reservation Key.
        pub nrkey: u64,
    }

    /// The data of Reservation Acquire (section 7.2).
    #[derive(Default)]
    AcquireData[16] {
        /// Current Reservation Key.
        pub crkey: u64,
        /// Preempt Reservation Key.
        pub prkey: u64,
    }

    /// The data of Reservation Release (section 7.4).
    #[derive(Default)]
    ReleaseData[8] {
        /// Current Reservation Key.
        pub crkey: u64,
    }

    /// The head of what Reservation Report answers (section 7.5), which a [`Registrant`] for each controller follows.
    ReservationStatus[24] {
        /// Generation: how often registrations changed.
        pub generation: u32,
        /// Reservation Type.
        pub rtype: ReservationType,
        /// Number of Registered Controllers.
        pub regctl: U16,
        /// Reserved.
        pub reserved_7: [u8; 2],
        /// Persist Through Power Loss State.
        pub ptpls: u8,
        /// Reserved.
        pub reserved_10: [u8; 14],
    }

    /// The head with the extended data structure, which an [`ExtendedRegistrant`] for each controller follows.
    ExtendedReservationStatus[64] {
        /// What the other one has.
        pub status: ReservationStatus,
        /// Reserved.
        pub reserved_24: [u8; 40],
    }

    /// A registered controller, whose host identifier has 64 bits.
    Registrant[24] {
        /// Controller ID.
        pub cntlid: u16,
        /// Reservation Status.
        pub rcsts: RegistrantStatus,
        /// Reserved.
        pub reserved_3: [u8; 5],
        /// Host Identifier.
        pub hostid: u64,
        /// Reservation Key.
        pub rkey: u64,
    }

    /// A registered controller, whose host identifier has 128 bits.
    ExtendedRegistrant[64] {
        /// Controller ID.
        pub cntlid: u16,
        /// Reservation Status.
        pub rcsts: RegistrantStatus,
        /// Reserved.
        pub reserved_3: [u8; 5],
        /// Reservation Key.
        pub rkey: u64,
        /// Host Identifier.
        pub hostid: [u8; 16],
        /// Reserved.
        pub reserved_32: [u8; 32],
    }
}

#[cfg(test)]
mod tests {
    use core::mem::offset_of;

    use super::*;

    #[test]
    fn actions_stand_below_and_types_above() {
        let acquire = AcquireDw10::new()
            .with_racqa(AcquireAction::PREEMPT)
            .with_rtype(ReservationType::EXCLUSIVE_ACCESS_ALL_REGISTRANTS);
        assert_eq!(acquire.into_bits(), 6 << 8 | 1);
        let register = RegisterDw10::new().with_rrega(RegisterAction::REPLACE).with_iekey(true).with_cptpl(3);
        assert_eq!(register.into_bits(), 3 << 30 | 1 << 3 | 2);
        assert_eq!(ReleaseDw10::from_bits(0x0101).rtype(), ReservationType::WRITE_EXCLUSIVE);
    }

    #[test]
    fn a_report_has_its_fields_where_the_specification_has_them() {
        assert_eq!((offset_of!(ReservationStatus, regctl), offset_of!(ReservationStatus, ptpls)), (5, 9));
        assert_eq!((offset_of!(Registrant, hostid), offset_of!(Registrant, rkey)), (8, 16));
        assert_eq!((offset_of!(ExtendedRegistrant, rkey), offset_of!(ExtendedRegistrant, hostid)), (8, 16));
    }
}
