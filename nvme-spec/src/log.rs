//! Log pages (base specification, section 5.16.1).

use zerocopy::little_endian::{U16, U128};

use crate::status::Status;

named_values! {
    /// Log Page Identifier (figure 196).
    LogId(u8) {
        SUPPORTED_LOG_PAGES = 0x00, "Supported Log Pages";
        ERROR_INFORMATION = 0x01, "Error Information";
        SMART = 0x02, "SMART / Health Information";
        FIRMWARE_SLOT = 0x03, "Firmware Slot Information";
        CHANGED_NAMESPACE_LIST = 0x04, "Changed Namespace List";
        COMMAND_EFFECTS = 0x05, "Commands Supported and Effects";
        SELF_TEST = 0x06, "Device Self-test";
        TELEMETRY_HOST = 0x07, "Telemetry Host-Initiated";
        TELEMETRY_CONTROLLER = 0x08, "Telemetry Controller-Initiated";
        ENDURANCE_GROUP = 0x09, "Endurance Group Information";
        PREDICTABLE_LATENCY = 0x0a, "Predictable Latency Per NVM Set";
        PREDICTABLE_LATENCY_EVENTS = 0x0b, "Predictable Latency Event Aggregate";
        ANA = 0x0c, "Asymmetric Namespace Access";
        PERSISTENT_EVENTS = 0x0d, "Persistent Event Log";
        LBA_STATUS = 0x0e, "LBA Status Information";
        ENDURANCE_GROUP_EVENTS = 0x0f, "Endurance Group Event Aggregate";
        MEDIA_UNIT_STATUS = 0x10, "Media Unit Status";
        SUPPORTED_CAPACITY_CONFIGURATIONS = 0x11, "Supported Capacity Configuration List";
        FEATURE_EFFECTS = 0x12, "Feature Identifiers Supported and Effects";
        MI_COMMAND_EFFECTS = 0x13, "NVMe-MI Commands Supported and Effects";
        LOCKDOWN = 0x14, "Command and Feature Lockdown";
        BOOT_PARTITION = 0x15, "Boot Partition";
        ROTATIONAL_MEDIA = 0x16, "Rotational Media Information";
        DISCOVERY = 0x70, "Discovery";
        RESERVATION_NOTIFICATION = 0x80, "Reservation Notification";
        SANITIZE_STATUS = 0x81, "Sanitize Status";
        CHANGED_ZONE_LIST = 0xbf, "Changed Zone List";
    }
}

bit_fields! {
    /// An entry of Supported Log Pages (section 5.16.1.1), of which there are 256.
    SupportedLogPage(u32) {
        /// LID Supported.
        pub lsupp: bool,
        /// Index Offset Supported.
        pub ios: bool,
        #[bits(14)]
        __: u16,
        /// LID Specific Parameter.
        pub lidsp: u16,
    }

    /// Critical Warning of SMART / Health Information (section 5.16.1.3).
    CriticalWarning(u8) {
        /// Available Spare Capacity Critical.
        pub ascbt: bool,
        /// Temperature Threshold Condition.
        pub ttc: bool,
        /// NVM Subsystem Degraded Reliability.
        pub ndr: bool,
        /// All Media Read-Only.
        pub amro: bool,
        /// Volatile Memory Backup Failed.
        pub vmbf: bool,
        /// Persistent Memory Region Read-Only.
        pub pmrro: bool,
        #[bits(2)]
        __: u8,
    }

    /// Active Firmware Info (section 5.16.1.4).
    ActiveFirmware(u8) {
        /// The slot whose firmware runs.
        #[bits(3)]
        pub active: u8,
        __: bool,
        /// The slot that is activated by the next reset; 0 for none.
        #[bits(3)]
        pub next: u8,
        __: bool,
    }

    /// An entry of Commands Supported and Effects (section 5.16.1.6).
    CommandEffects(u32) {
        /// Command Supported.
        pub csupp: bool,
        /// Logical Block Content Change.
        pub lbcc: bool,
        /// Namespace Capability Change.
        pub ncc: bool,
        /// Namespace Inventory Change.
        pub nic: bool,
        /// Controller Capability Change.
        pub ccc: bool,
        #[bits(9)]
        __: u16,
        /// Command Submission and Execution Relaxations.
        #[bits(2)]
        pub cser: u8,
        /// Command Submission and Execution.
        #[bits(3)]
        pub cse: u8,
        /// UUID Selection Supported.
        pub uss: bool,
        /// Command Scope.
        #[bits(12)]
        pub csp: Scope,
    }

    /// An entry of Feature Identifiers Supported and Effects (section 5.16.1.18), of which there are 256.
    FeatureEffects(u32) {
        /// FID Supported.
        pub fsupp: bool,
        /// User Data Content Change.
        pub udcc: bool,
        /// Namespace Capability Change.
        pub ncc: bool,
        /// Namespace Inventory Change.
        pub nic: bool,
        /// Controller Capability Change.
        pub ccc: bool,
        #[bits(14)]
        __: u16,
        /// UUID Selection Supported.
        pub uss: bool,
        /// FID Scope.
        #[bits(12)]
        pub fsp: Scope,
    }

    /// What a command or a feature is about.
    Scope(u16) {
        /// A namespace.
        pub namespace: bool,
        /// The controller.
        pub controller: bool,
        /// An NVM set.
        pub nvm_set: bool,
        /// An endurance group.
        pub endurance_group: bool,
        /// A domain.
        pub domain: bool,
        /// The NVM subsystem.
        pub subsystem: bool,
        #[bits(10)]
        __: u16,
    }

    /// Log Specific Parameter of Get Log Page for Asymmetric Namespace Access (section 5.16.1.13).
    AnaLogParameter(u8) {
        /// Return Groups Only: without the namespaces of each.
        pub rgo: bool,
        #[bits(7)]
        __: u8,
    }
}

/// Entries of a table with one for each opcode or identifier.
pub const TABLE_ENTRIES: usize = 256;

/// The most namespaces in the Changed Namespace List; more are told of by [`ALL_NAMESPACES`](crate::ALL_NAMESPACES).
pub const MAX_CHANGED_NAMESPACES: usize = 1024;

/// A field of Error Information for which there is nothing: queue, command, place in the command.
pub const NO_ERROR_LOCATION: u16 = 0xffff;

/// The unit of Data Units Read and Data Units Written, in bytes: one thousand times 512.
pub const DATA_UNIT: u64 = 512 * 1000;

layouts! {
    /// An entry of Error Information (section 5.16.1.2).
    ErrorInformation[64] {
        /// Error Count: the number of this error, from 1 on; 0 for no entry.
        pub error_count: u64,
        /// Submission Queue ID.
        pub sqid: u16,
        /// Command ID.
        pub cid: u16,
        /// Status, and the phase tag that it was posted with.
        pub status: Status,
        /// Parameter Error Location: byte in bits 7:0, bit in bits 10:8.
        pub parameter_error_location: u16,
        /// The first logical block that was concerned.
        pub lba: u64,
        /// Namespace.
        pub nsid: u32,
        /// Vendor Specific Information Available.
        pub vendor_specific: u8,
        /// Transport Type.
        pub trtype: u8,
        /// Command Set Indicator.
        pub csi: u8,
        /// Opcode.
        pub opcode: u8,
        /// Command Specific Information.
        pub command_specific: u64,
        /// Transport Type Specific Information.
        pub trtype_specific: u16,
        /// Reserved.
        pub reserved_42: [u8; 22],
    }

    /// SMART / Health Information (section 5.16.1.3).
    Smart[512] {
        /// Critical Warning.
        pub critical_warning: CriticalWarning,
        /// Composite Temperature, in kelvins.
        pub composite_temperature: U16,
        /// Available Spare, in percent.
        pub available_spare: u8,
        /// Available Spare Threshold, in percent.
        pub available_spare_threshold: u8,
        /// Percentage Used: 255 for that and more.
        pub percentage_used: u8,
        /// Endurance Group Critical Warning Summary.
        pub endurance_group_critical_warning: u8,
        /// Reserved.
        pub reserved_7: [u8; 25],
        /// Data Units Read, in [`DATA_UNIT`]s, rounded up.
        pub data_units_read: U128,
        /// Data Units Written, in [`DATA_UNIT`]s, rounded up.
        pub data_units_written: U128,
        /// Host Read Commands: Compare counts.
        pub host_read_commands: U128,
        /// Host Write Commands.
        pub host_write_commands: U128,
        /// Controller Busy Time, in minutes.
        pub controller_busy_time: U128,
        /// Power Cycles.
        pub power_cycles: U128,
        /// Power On Hours.
        pub power_on_hours: U128,
        /// Unsafe Shutdowns.
        pub unsafe_shutdowns: U128,
        /// Media and Data Integrity Errors.
        pub media_errors: U128,
        /// Number of Error Information Log Entries.
        pub error_log_entries: U128,
        /// Warning Composite Temperature Time, in minutes.
        pub warning_temperature_time: u32,
        /// Critical Composite Temperature Time, in minutes.
        pub critical_temperature_time: u32,
        /// Temperature Sensors, in kelvins; 0 for none.
        pub temperature_sensors: [u16; 8],
        /// Thermal Management Temperature 1 and 2 Transition Count.
        pub thermal_management_transitions: [u32; 2],
        /// Total Time For Thermal Management Temperature 1 and 2, in seconds.
        pub thermal_management_time: [u32; 2],
        /// Reserved.
        pub reserved_232: [u8; 280],
    }

    /// Firmware Slot Information (section 5.16.1.4).
    FirmwareSlots[512] {
        /// Active Firmware Info.
        pub afi: ActiveFirmware,
        /// Reserved.
        pub reserved_1: [u8; 7],
        /// Firmware Revision of slots 1 to 7, in ASCII; zeroes for none.
        pub frs: [[u8; 8]; 7],
        /// Reserved.
        pub reserved_64: [u8; 448],
    }

    /// Commands Supported and Effects (section 5.16.1.6).
    CommandEffectsLog[4096] {
        /// Admin commands, by opcode.
        pub acs: [CommandEffects; TABLE_ENTRIES],
        /// I/O commands, by opcode.
        pub iocs: [CommandEffects; TABLE_ENTRIES],
        /// Reserved.
        pub reserved_2048: [u8; 2048],
    }

    /// The head of Asymmetric Namespace Access (section 5.16.1.13), which groups follow.
    AnaHeader[16] {
        /// Change Count.
        pub change_count: u64,
        /// Number of ANA Group Descriptors.
        pub descriptors: u16,
        /// Reserved.
        pub reserved_10: [u8; 6],
    }

    /// An ANA Group Descriptor (section 5.16.1.13), which the identifiers of its namespaces follow.
    AnaGroup[32] {
        /// ANA Group ID; 0 is none.
        pub group: u32,
        /// Number of NSID Values.
        pub namespaces: u32,
        /// Change Count.
        pub change_count: u64,
        /// Asymmetric Namespace Access State, in bits 3:0.
        pub state: AnaState,
        /// Reserved.
        pub reserved_17: [u8; 15],
    }

    /// Reservation Notification (section 5.16.1.24).
    ReservationNotification[64] {
        /// Log Page Count: the number of this notification; 0 for none.
        pub count: u64,
        /// Reservation Notification Log Page Type.
        pub kind: ReservationNotificationType,
        /// Number of Available Log Pages.
        pub available: u8,
        /// Reserved.
        pub reserved_10: [u8; 2],
        /// Namespace ID.
        pub nsid: u32,
        /// Reserved.
        pub reserved_16: [u8; 48],
    }
}

named_values! {
    /// Asymmetric Namespace Access State (section 8.1).
    AnaState(u8) {
        OPTIMIZED = 0x1, "ANA Optimized";
        NON_OPTIMIZED = 0x2, "ANA Non-Optimized";
        INACCESSIBLE = 0x3, "ANA Inaccessible";
        PERSISTENT_LOSS = 0x4, "ANA Persistent Loss";
        CHANGE = 0xf, "ANA Change";
    }
}

impl AnaState {
    /// Returns the state in a byte whose upper half is reserved.
    #[must_use]
    pub const fn of_byte(byte: u8) -> Self {
        Self(byte & 0x0f)
    }
}

named_values! {
    /// Reservation Notification Log Page Type (section 5.16.1.24).
    ReservationNotificationType(u8) {
        EMPTY = 0, "Empty Log Page";
        REGISTRATION_PREEMPTED = 1, "Registration Preempted";
        RESERVATION_RELEASED = 2, "Reservation Released";
        RESERVATION_PREEMPTED = 3, "Reservation Preempted";
    }
}

#[cfg(test)]
mod tests {
    use core::mem::offset_of;

    use super::*;

    #[test]
    fn fields_lie_where_the_specification_has_them() {
        assert_eq!((offset_of!(ErrorInformation, lba), offset_of!(ErrorInformation, command_specific)), (16, 32));
        assert_eq!((offset_of!(Smart, composite_temperature), offset_of!(Smart, data_units_read)), (1, 32));
        assert_eq!((offset_of!(Smart, power_on_hours), offset_of!(Smart, error_log_entries)), (128, 176));
        assert_eq!((offset_of!(Smart, temperature_sensors), offset_of!(Smart, reserved_232)), (200, 232));
        assert_eq!((offset_of!(FirmwareSlots, frs), offset_of!(CommandEffectsLog, iocs)), (8, 1024));
        assert_eq!((offset_of!(AnaHeader, descriptors), offset_of!(AnaGroup, state)), (8, 16));
        assert_eq!(offset_of!(ReservationNotification, nsid), 12);
    }

    #[test]
    fn effects_have_their_scope_in_the_upper_bits() {
        let effects = CommandEffects::new().with_csupp(true).with_lbcc(true).with_cse(1).with_uss(true);
        assert_eq!(effects.into_bits(), 1 << 19 | 1 << 16 | 0b11);
        let scope = FeatureEffects::new().with_fsupp(true).with_fsp(Scope::new().with_controller(true));
        assert_eq!(scope.into_bits(), 1 << 21 | 1);
        assert_eq!(FeatureEffects::new().with_fsp(Scope::new().with_subsystem(true)).into_bits(), 1 << 25);
    }

    #[test]
    fn the_upper_half_of_a_groups_state_is_no_part_of_it() {
        assert_eq!(AnaState::of_byte(0xf1), AnaState::OPTIMIZED);
        assert_eq!(AnaState::of_byte(0x05).name(), None);
    }
}
