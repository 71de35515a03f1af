//! Features (base specification, section 5.27.1; NVM command set, section 4.1.3): their identifiers, and the values
//! that Set Features has in Command Dword 11 and Get Features in dword 0 of its completion, or in their data.

use crate::log::CriticalWarning;

named_values! {
    /// Feature Identifier (FID).
    FeatureId(u8) {
        ARBITRATION = 0x01, "Arbitration";
        POWER_MANAGEMENT = 0x02, "Power Management";
        LBA_RANGE_TYPE = 0x03, "LBA Range Type";
        TEMPERATURE_THRESHOLD = 0x04, "Temperature Threshold";
        ERROR_RECOVERY = 0x05, "Error Recovery";
        VOLATILE_WRITE_CACHE = 0x06, "Volatile Write Cache";
        NUMBER_OF_QUEUES = 0x07, "Number of Queues";
        INTERRUPT_COALESCING = 0x08, "Interrupt Coalescing";
        INTERRUPT_VECTOR_CONFIGURATION = 0x09, "Interrupt Vector Configuration";
        WRITE_ATOMICITY = 0x0a, "Write Atomicity Normal";
        ASYNC_EVENT_CONFIGURATION = 0x0b, "Asynchronous Event Configuration";
        AUTONOMOUS_POWER_STATE_TRANSITION = 0x0c, "Autonomous Power State Transition";
        HOST_MEMORY_BUFFER = 0x0d, "Host Memory Buffer";
        TIMESTAMP = 0x0e, "Timestamp";
        KEEP_ALIVE_TIMER = 0x0f, "Keep Alive Timer";
        HOST_CONTROLLED_THERMAL_MANAGEMENT = 0x10, "Host Controlled Thermal Management";
        NON_OPERATIONAL_POWER_STATE = 0x11, "Non-Operational Power State Config";
        READ_RECOVERY_LEVEL = 0x12, "Read Recovery Level Config";
        PREDICTABLE_LATENCY_MODE_CONFIG = 0x13, "Predictable Latency Mode Config";
        PREDICTABLE_LATENCY_MODE_WINDOW = 0x14, "Predictable Latency Mode Window";
        LBA_STATUS_ATTRIBUTES = 0x15, "LBA Status Information Attributes";
        HOST_BEHAVIOR_SUPPORT = 0x16, "Host Behavior Support";
        SANITIZE_CONFIG = 0x17, "Sanitize Config";
        ENDURANCE_GROUP_EVENT = 0x18, "Endurance Group Event Configuration";
        IO_COMMAND_SET_PROFILE = 0x19, "I/O Command Set Profile";
        SPINUP_CONTROL = 0x1a, "Spinup Control";
        ENHANCED_CONTROLLER_METADATA = 0x7d, "Enhanced Controller Metadata";
        CONTROLLER_METADATA = 0x7e, "Controller Metadata";
        NAMESPACE_METADATA = 0x7f, "Namespace Metadata";
        SOFTWARE_PROGRESS_MARKER = 0x80, "Software Progress Marker";
        HOST_IDENTIFIER = 0x81, "Host Identifier";
        RESERVATION_NOTIFICATION_MASK = 0x82, "Reservation Notification Mask";
        RESERVATION_PERSISTENCE = 0x83, "Reservation Persistence";
        NAMESPACE_WRITE_PROTECTION = 0x84, "Namespace Write Protection Config";
    }
}

named_values! {
    /// Select (SEL) of Get Features: which of a feature's values is wanted.
    FeatureSelect(u8) {
        CURRENT = 0b000, "Current";
        DEFAULT = 0b001, "Default";
        SAVED = 0b010, "Saved";
        SUPPORTED = 0b011, "Supported Capabilities";
    }
}

bit_fields! {
    /// What Get Features answers to [`FeatureSelect::SUPPORTED`] (section 5.15).
    FeatureCapabilities(u32) {
        /// The value can be saved.
        pub saveable: bool,
        /// Each namespace has a value of its own.
        pub namespace_specific: bool,
        /// The value can be changed.
        pub changeable: bool,
        #[bits(29)]
        __: u32,
    }

    /// Arbitration (section 5.27.1.1).
    Arbitration(u32) {
        /// Arbitration Burst, as a power of two of commands; 7 for no limit.
        #[bits(3)]
        pub ab: u8,
        #[bits(5)]
        __: u8,
        /// Low Priority Weight, less one.
        pub lpw: u8,
        /// Medium Priority Weight, less one.
        pub mpw: u8,
        /// High Priority Weight, less one.
        pub hpw: u8,
    }

    /// Power Management (section 5.27.1.2).
    PowerManagement(u32) {
        /// Power State.
        #[bits(5)]
        pub ps: u8,
        /// Workload Hint.
        #[bits(3)]
        pub wh: u8,
        #[bits(24)]
        __: u32,
    }

    /// Temperature Threshold (section 5.27.1.3).
    TemperatureThreshold(u32) {
        /// Temperature Threshold, in kelvins.
        pub tmpth: u16,
        /// Threshold Temperature Select: 0 the composite temperature, 1 to 8 a sensor, Fh all that there are.
        #[bits(4)]
        pub tmpsel: u8,
        /// Threshold Type Select: 0 over, 1 under.
        #[bits(2)]
        pub thsel: u8,
        #[bits(10)]
        __: u16,
    }

    /// Error Recovery (NVM command set, section 4.1.3.2).
    ErrorRecovery(u32) {
        /// Time Limited Error Recovery, in units of 100 ms; 0 for no limit.
        pub tler: u16,
        /// Deallocated or Unwritten Logical Block Error Enable.
        pub dulbe: bool,
        #[bits(15)]
        __: u16,
    }

    /// Volatile Write Cache (section 5.27.1.4).
    VolatileWriteCache(u32) {
        /// Volatile Write Cache Enable.
        pub wce: bool,
        #[bits(31)]
        __: u32,
    }

    /// Number of Queues (section 5.27.1.5): of those asked for, and of those allocated.
    NumberOfQueues(u32) {
        /// I/O Submission Queues, less one.
        pub nsq: u16,
        /// I/O Completion Queues, less one.
        pub ncq: u16,
    }

    /// Interrupt Coalescing (section 5.27.1.6).
    InterruptCoalescing(u32) {
        /// Aggregation Threshold: entries, less one.
        pub thr: u8,
        /// Aggregation Time, in units of 100 µs; 0 for no delay.
        pub time: u8,
        __: u16,
    }

    /// Interrupt Vector Configuration (section 5.27.1.7).
    InterruptVectorConfiguration(u32) {
        /// Interrupt Vector.
        pub iv: u16,
        /// Coalescing Disable.
        pub cd: bool,
        #[bits(15)]
        __: u16,
    }

    /// Write Atomicity Normal (NVM command set, section 4.1.3.4).
    WriteAtomicity(u32) {
        /// Disable Normal: only what is written at once after a loss of power need be atomic.
        pub dn: bool,
        #[bits(31)]
        __: u32,
    }

    /// Asynchronous Event Configuration (section 5.27.1.8), and from bit 8 on the Optional Asynchronous Events
    /// Supported (OAES) of Identify Controller.
    AsyncEventConfiguration(u32) {
        /// SMART / Health Critical Warnings: those that raise an event.
        #[bits(8)]
        pub smart: CriticalWarning,
        /// Namespace Attribute Notices.
        pub nan: bool,
        /// Firmware Activation Notices.
        pub fan: bool,
        /// Telemetry Log Notices; reserved in OAES.
        pub tln: bool,
        /// Asymmetric Namespace Access Change Notices.
        pub anacn: bool,
        /// Predictable Latency Event Aggregate Log Change Notices.
        pub plealcn: bool,
        /// LBA Status Information Alert Notices.
        pub lsian: bool,
        /// Endurance Group Event Aggregate Log Change Notices.
        pub egealcn: bool,
        /// Normal NVM Subsystem Shutdown.
        pub nnsshdn: bool,
        #[bits(11)]
        __: u16,
        /// Zone Descriptor Changed Notices.
        pub zdcn: bool,
        #[bits(3)]
        __: u8,
        /// Discovery Log Page Change Notification.
        pub dlpcn: bool,
    }

    /// Reservation Notification Mask (section 5.27.1.25): the notifications that are not wanted.
    ReservationNotificationMask(u32) {
        __: bool,
        /// Mask Registration Preempted Notification.
        pub regpre: bool,
        /// Mask Reservation Released Notification.
        pub resrel: bool,
        /// Mask Reservation Preempted Notification.
        pub respre: bool,
        #[bits(28)]
        __: u32,
    }

    /// Reservation Persistence (section 5.27.1.26).
    ReservationPersistence(u32) {
        /// Persist Through Power Loss.
        pub ptpl: bool,
        #[bits(31)]
        __: u32,
    }

    /// The value of Timestamp (section 5.27.1.11).
    Timestamp(u64) {
        /// Milliseconds: since 1970, if the host has set it so, or since the controller was reset.
        #[bits(48)]
        pub milliseconds: u64,
        /// Synch: the clock may have stopped.
        pub synch: bool,
        /// Timestamp Origin.
        #[bits(3)]
        pub origin: TimestampOrigin,
        #[bits(12)]
        __: u16,
    }
}

named_values! {
    /// Timestamp Origin (section 5.27.1.11).
    TimestampOrigin(u8) {
        RESET = 0b000, "Cleared to 0 by a Controller Level Reset";
        SET_FEATURES = 0b001, "Set by Set Features";
    }
}

layouts! {
    /// The data of Host Behavior Support (section 5.27.1.18).
    HostBehaviorSupport[512] {
        /// Advanced Command Retry Enable: 1 for enabled.
        pub acre: u8,
        /// Extended Telemetry Data Area 4 Supported.
        pub etdas: u8,
        /// LBA Format Extension Enable.
        pub lbafee: u8,
        /// Reserved.
        pub reserved_3: [u8; 509],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_stand_above_the_critical_warnings() {
        let events = AsyncEventConfiguration::new()
            .with_smart(CriticalWarning::new().with_ttc(true))
            .with_nan(true)
            .with_anacn(true);
        assert_eq!(events.into_bits(), 1 << 1 | 1 << 8 | 1 << 11);
        assert_eq!(AsyncEventConfiguration::new().with_zdcn(true).with_dlpcn(true).into_bits(), 1 << 27 | 1 << 31);
    }

    #[test]
    fn a_timestamp_has_48_bits_and_says_who_set_it() {
        let timestamp = Timestamp::new().with_milliseconds((1 << 48) - 1).with_origin(TimestampOrigin::SET_FEATURES);
        assert_eq!(timestamp.into_bits(), 0x0002_ffff_ffff_ffff);
    }

    #[test]
    fn values_have_their_parts_where_the_specification_has_them() {
        assert_eq!(TemperatureThreshold::from_bits(0x001f_0157).tmpsel(), 0xf);
        assert_eq!(TemperatureThreshold::from_bits(0x001f_0157).thsel(), 1);
        assert_eq!(InterruptVectorConfiguration::new().with_iv(7).with_cd(true).into_bits(), 1 << 16 | 7);
        assert_eq!(ReservationNotificationMask::new().with_regpre(true).with_respre(true).into_bits(), 0b1010);
        assert_eq!(FeatureCapabilities::new().with_changeable(true).into_bits(), 0b100);
    }
}
