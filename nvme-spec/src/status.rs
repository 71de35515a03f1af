//! How a command ended (base specification, section 3.3.3.2.1).

use core::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

named_values! {
    /// Status Code Type (SCT): which of the lists of codes a code is from.
    StatusCodeType(u8) {
        GENERIC = 0, "Generic Command Status";
        COMMAND_SPECIFIC = 1, "Command Specific Status";
        MEDIA = 2, "Media and Data Integrity Errors";
        PATH = 3, "Path Related Status";
        VENDOR_SPECIFIC = 7, "Vendor Specific";
    }
}

/// Status Code Type and Status Code, which together say what happened: the type in bits 10:8, the code in bits 7:0.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct StatusCode(pub u16);

impl StatusCode {
    /// Returns the code `sc` of the type `sct`, of which the three low bits count.
    #[must_use]
    #[inline]
    pub const fn new(sct: StatusCodeType, sc: u8) -> Self {
        Self(u16::from_be_bytes([sct.0 & 0b111, sc]))
    }

    /// Returns the Status Code Type.
    #[must_use]
    #[inline]
    pub const fn sct(self) -> StatusCodeType {
        let [sct, _] = self.0.to_be_bytes();
        StatusCodeType(sct)
    }

    /// Returns the Status Code.
    #[must_use]
    #[inline]
    pub const fn sc(self) -> u8 {
        let [_, sc] = self.0.to_be_bytes();
        sc
    }

    /// Returns the value of these bits: for use as a bit field.
    #[must_use]
    #[inline]
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// Returns the bits of the value: for use as a bit field.
    #[must_use]
    #[inline]
    pub const fn into_bits(self) -> u16 {
        self.0
    }
}

impl fmt::Display for StatusCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}h/{:02x}h", self.sct().0, self.sc())?;
        self.name().map_or(Ok(()), |name| write!(f, " ({name})"))
    }
}

impl fmt::Debug for StatusCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The Status field of a completion queue entry with the phase tag, which stands in its lowest bit.
///
/// The constants are the statuses as a controller gives them: Do Not Retry is set where the same command would fail
/// again. What came from elsewhere is compared by its [`code`](Self::code), since that bit is the sender's choice.
#[bitfield_struct::bitfield(u16, new = false, debug = false)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Status {
    /// Phase Tag: which time round the queue the entry is of. It is no part of the status.
    pub phase: bool,
    /// Status Code Type and Status Code.
    #[bits(11)]
    pub code: StatusCode,
    /// Command Retry Delay: which of the controller's delays (CRDT) is to pass before the command is sent again,
    /// counted from 1; 0 for none.
    #[bits(2)]
    pub crd: u8,
    /// More: the Error Information log tells more.
    pub more: bool,
    /// Do Not Retry: the same command would fail again.
    pub dnr: bool,
}

impl Status {
    /// Returns the status with this type and code, without Do Not Retry.
    #[must_use]
    pub const fn new(sct: StatusCodeType, sc: u8) -> Self {
        Self::of(StatusCode::new(sct, sc))
    }

    /// Returns the status with this code, without Do Not Retry.
    #[must_use]
    pub const fn of(code: StatusCode) -> Self {
        Self::from_bits(0).with_code(code)
    }

    /// Returns the Status Code Type.
    #[must_use]
    #[inline]
    pub const fn sct(self) -> StatusCodeType {
        self.code().sct()
    }

    /// Returns the Status Code.
    #[must_use]
    #[inline]
    pub const fn sc(self) -> u8 {
        self.code().sc()
    }

    /// Returns whether the command did what it was asked.
    #[must_use]
    #[inline]
    pub const fn is_success(self) -> bool {
        self.code().0 == StatusCode::SUCCESS.0
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.code(), if self.dnr() { ", do not retry" } else { "" })
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The lists of codes. `dnr` marks those that a controller gives with Do Not Retry.
macro_rules! statuses {
    ($($sct:ident { $($name:ident = $sc:literal, $text:literal $(, $dnr:ident)?;)* })*) => {
        impl StatusCode {
            $($(
                #[doc = concat!($text, ".")]
                pub const $name: Self = Self::new(StatusCodeType::$sct, $sc);
            )*)*

            /// Every code that has a name here, in ascending order.
            pub const NAMED: &'static [Self] = &[$($(Self::$name),*),*];

            /// Returns the specification's name of the code, or `None` for one that has no name here.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self {
                    $($(Self::$name => Some($text),)*)*
                    _ => None,
                }
            }
        }

        impl Status {
            $($(
                #[doc = concat!($text, ".")]
                pub const $name: Self = Self::of(StatusCode::$name).with_dnr(statuses!(@dnr $($dnr)?));
            )*)*
        }
    };
    (@dnr) => { false };
    (@dnr dnr) => { true };
}

statuses! {
    GENERIC {
        SUCCESS = 0x00, "Successful Completion";
        INVALID_OPCODE = 0x01, "Invalid Command Opcode", dnr;
        INVALID_FIELD = 0x02, "Invalid Field in Command", dnr;
        CID_CONFLICT = 0x03, "Command ID Conflict", dnr;
        DATA_TRANSFER_ERROR = 0x04, "Data Transfer Error";
        ABORTED_POWER_LOSS = 0x05, "Commands Aborted due to Power Loss Notification";
        INTERNAL_ERROR = 0x06, "Internal Error";
        ABORT_REQUESTED = 0x07, "Command Abort Requested";
        ABORTED_SQ_DELETION = 0x08, "Command Aborted due to SQ Deletion";
        ABORTED_FAILED_FUSED = 0x09, "Command Aborted due to Failed Fused Command";
        ABORTED_MISSING_FUSED = 0x0a, "Command Aborted due to Missing Fused Command", dnr;
        INVALID_NAMESPACE = 0x0b, "Invalid Namespace or Format", dnr;
        COMMAND_SEQUENCE_ERROR = 0x0c, "Command Sequence Error", dnr;
        INVALID_SGL_SEGMENT_DESCRIPTOR = 0x0d, "Invalid SGL Segment Descriptor", dnr;
        INVALID_NUMBER_OF_SGL_DESCRIPTORS = 0x0e, "Invalid Number of SGL Descriptors", dnr;
        DATA_SGL_LENGTH_INVALID = 0x0f, "Data SGL Length Invalid", dnr;
        METADATA_SGL_LENGTH_INVALID = 0x10, "Metadata SGL Length Invalid", dnr;
        SGL_DESCRIPTOR_TYPE_INVALID = 0x11, "SGL Descriptor Type Invalid", dnr;
        INVALID_USE_OF_CMB = 0x12, "Invalid Use of Controller Memory Buffer", dnr;
        INVALID_PRP_OFFSET = 0x13, "PRP Offset Invalid", dnr;
        ATOMIC_WRITE_UNIT_EXCEEDED = 0x14, "Atomic Write Unit Exceeded", dnr;
        OPERATION_DENIED = 0x15, "Operation Denied", dnr;
        SGL_OFFSET_INVALID = 0x16, "SGL Offset Invalid", dnr;
        HOST_IDENTIFIER_INCONSISTENT_FORMAT = 0x18, "Host Identifier Inconsistent Format", dnr;
        KEEP_ALIVE_TIMER_EXPIRED = 0x19, "Keep Alive Timer Expired", dnr;
        KEEP_ALIVE_TIMEOUT_INVALID = 0x1a, "Keep Alive Timeout Invalid", dnr;
        ABORTED_PREEMPT = 0x1b, "Command Aborted due to Preempt and Abort", dnr;
        SANITIZE_FAILED = 0x1c, "Sanitize Failed", dnr;
        SANITIZE_IN_PROGRESS = 0x1d, "Sanitize In Progress";
        SGL_DATA_BLOCK_GRANULARITY_INVALID = 0x1e, "SGL Data Block Granularity Invalid", dnr;
        COMMAND_NOT_SUPPORTED_IN_CMB = 0x1f, "Command Not Supported for Queue in CMB", dnr;
        NAMESPACE_WRITE_PROTECTED = 0x20, "Namespace is Write Protected", dnr;
        COMMAND_INTERRUPTED = 0x21, "Command Interrupted";
        TRANSIENT_TRANSPORT_ERROR = 0x22, "Transient Transport Error";
        PROHIBITED_BY_LOCKDOWN = 0x23, "Command Prohibited by Command and Feature Lockdown", dnr;
        ADMIN_COMMAND_MEDIA_NOT_READY = 0x24, "Admin Command Media Not Ready";
        LBA_OUT_OF_RANGE = 0x80, "LBA Out of Range", dnr;
        CAPACITY_EXCEEDED = 0x81, "Capacity Exceeded", dnr;
        NAMESPACE_NOT_READY = 0x82, "Namespace Not Ready";
        RESERVATION_CONFLICT = 0x83, "Reservation Conflict", dnr;
        FORMAT_IN_PROGRESS = 0x84, "Format In Progress";
    }
    COMMAND_SPECIFIC {
        COMPLETION_QUEUE_INVALID = 0x00, "Completion Queue Invalid", dnr;
        INVALID_QUEUE_IDENTIFIER = 0x01, "Invalid Queue Identifier", dnr;
        INVALID_QUEUE_SIZE = 0x02, "Invalid Queue Size", dnr;
        ABORT_LIMIT_EXCEEDED = 0x03, "Abort Command Limit Exceeded", dnr;
        ASYNC_EVENT_LIMIT_EXCEEDED = 0x05, "Asynchronous Event Request Limit Exceeded", dnr;
        INVALID_FIRMWARE_SLOT = 0x06, "Invalid Firmware Slot", dnr;
        INVALID_FIRMWARE_IMAGE = 0x07, "Invalid Firmware Image", dnr;
        INVALID_INTERRUPT_VECTOR = 0x08, "Invalid Interrupt Vector", dnr;
        INVALID_LOG_PAGE = 0x09, "Invalid Log Page", dnr;
        INVALID_FORMAT = 0x0a, "Invalid Format", dnr;
        FIRMWARE_NEEDS_CONVENTIONAL_RESET = 0x0b, "Firmware Activation Requires Conventional Reset";
        INVALID_QUEUE_DELETION = 0x0c, "Invalid Queue Deletion", dnr;
        FEATURE_NOT_SAVEABLE = 0x0d, "Feature Identifier Not Saveable", dnr;
        FEATURE_NOT_CHANGEABLE = 0x0e, "Feature Not Changeable", dnr;
        FEATURE_NOT_NAMESPACE_SPECIFIC = 0x0f, "Feature Not Namespace Specific", dnr;
        FIRMWARE_NEEDS_SUBSYSTEM_RESET = 0x10, "Firmware Activation Requires NVM Subsystem Reset";
        FIRMWARE_NEEDS_RESET = 0x11, "Firmware Activation Requires Controller Level Reset";
        FIRMWARE_NEEDS_MAXIMUM_TIME = 0x12, "Firmware Activation Requires Maximum Time Violation";
        FIRMWARE_ACTIVATION_PROHIBITED = 0x13, "Firmware Activation Prohibited", dnr;
        OVERLAPPING_RANGE = 0x14, "Overlapping Range", dnr;
        NAMESPACE_INSUFFICIENT_CAPACITY = 0x15, "Namespace Insufficient Capacity", dnr;
        NAMESPACE_IDENTIFIER_UNAVAILABLE = 0x16, "Namespace Identifier Unavailable", dnr;
        NAMESPACE_ALREADY_ATTACHED = 0x18, "Namespace Already Attached", dnr;
        NAMESPACE_IS_PRIVATE = 0x19, "Namespace Is Private", dnr;
        NAMESPACE_NOT_ATTACHED = 0x1a, "Namespace Not Attached", dnr;
        THIN_PROVISIONING_NOT_SUPPORTED = 0x1b, "Thin Provisioning Not Supported", dnr;
        CONTROLLER_LIST_INVALID = 0x1c, "Controller List Invalid", dnr;
        SELF_TEST_IN_PROGRESS = 0x1d, "Device Self-test In Progress";
        BOOT_PARTITION_WRITE_PROHIBITED = 0x1e, "Boot Partition Write Prohibited", dnr;
        INVALID_CONTROLLER_IDENTIFIER = 0x1f, "Invalid Controller Identifier", dnr;
        INVALID_SECONDARY_CONTROLLER_STATE = 0x20, "Invalid Secondary Controller State", dnr;
        INVALID_NUMBER_OF_CONTROLLER_RESOURCES = 0x21, "Invalid Number of Controller Resources", dnr;
        INVALID_RESOURCE_IDENTIFIER = 0x22, "Invalid Resource Identifier", dnr;
        SANITIZE_PROHIBITED = 0x23, "Sanitize Prohibited While Persistent Memory Region is Enabled", dnr;
        ANA_GROUP_IDENTIFIER_INVALID = 0x24, "ANA Group Identifier Invalid", dnr;
        ANA_ATTACH_FAILED = 0x25, "ANA Attach Failed", dnr;
        INSUFFICIENT_CAPACITY = 0x26, "Insufficient Capacity", dnr;
        NAMESPACE_ATTACHMENT_LIMIT_EXCEEDED = 0x27, "Namespace Attachment Limit Exceeded", dnr;
        PROHIBITION_NOT_SUPPORTED = 0x28, "Prohibition of Command Execution Not Supported", dnr;
        IO_COMMAND_SET_NOT_SUPPORTED = 0x29, "I/O Command Set Not Supported", dnr;
        IO_COMMAND_SET_NOT_ENABLED = 0x2a, "I/O Command Set Not Enabled", dnr;
        IO_COMMAND_SET_COMBINATION_REJECTED = 0x2b, "I/O Command Set Combination Rejected", dnr;
        INVALID_IO_COMMAND_SET = 0x2c, "Invalid I/O Command Set", dnr;
        IDENTIFIER_UNAVAILABLE = 0x2d, "Identifier Unavailable", dnr;
        CONFLICTING_ATTRIBUTES = 0x80, "Conflicting Attributes", dnr;
        INVALID_PROTECTION_INFORMATION = 0x81, "Invalid Protection Information", dnr;
        WRITE_TO_READ_ONLY_RANGE = 0x82, "Attempted Write to Read Only Range", dnr;
        COMMAND_SIZE_LIMIT_EXCEEDED = 0x83, "Command Size Limit Exceeded", dnr;
        ZONE_BOUNDARY_ERROR = 0xb8, "Zoned Boundary Error", dnr;
        ZONE_IS_FULL = 0xb9, "Zone Is Full", dnr;
        ZONE_IS_READ_ONLY = 0xba, "Zone Is Read Only", dnr;
        ZONE_IS_OFFLINE = 0xbb, "Zone Is Offline", dnr;
        ZONE_INVALID_WRITE = 0xbc, "Zone Invalid Write", dnr;
        TOO_MANY_ACTIVE_ZONES = 0xbd, "Too Many Active Zones", dnr;
        TOO_MANY_OPEN_ZONES = 0xbe, "Too Many Open Zones", dnr;
        INVALID_ZONE_STATE_TRANSITION = 0xbf, "Invalid Zone State Transition", dnr;
    }
    MEDIA {
        WRITE_FAULT = 0x80, "Write Fault";
        UNRECOVERED_READ_ERROR = 0x81, "Unrecovered Read Error";
        GUARD_CHECK_ERROR = 0x82, "End-to-end Guard Check Error", dnr;
        APPLICATION_TAG_CHECK_ERROR = 0x83, "End-to-end Application Tag Check Error", dnr;
        REFERENCE_TAG_CHECK_ERROR = 0x84, "End-to-end Reference Tag Check Error", dnr;
        COMPARE_FAILURE = 0x85, "Compare Failure", dnr;
        ACCESS_DENIED = 0x86, "Access Denied", dnr;
        DEALLOCATED_OR_UNWRITTEN_BLOCK = 0x87, "Deallocated or Unwritten Logical Block", dnr;
        STORAGE_TAG_CHECK_ERROR = 0x88, "End-to-End Storage Tag Check Error", dnr;
    }
    PATH {
        INTERNAL_PATH_ERROR = 0x00, "Internal Path Error";
        ANA_PERSISTENT_LOSS = 0x01, "Asymmetric Access Persistent Loss";
        ANA_INACCESSIBLE = 0x02, "Asymmetric Access Inaccessible";
        ANA_TRANSITION = 0x03, "Asymmetric Access Transition";
        CONTROLLER_PATHING_ERROR = 0x60, "Controller Pathing Error";
        HOST_PATHING_ERROR = 0x70, "Host Pathing Error";
        ABORTED_BY_HOST = 0x71, "Command Aborted By Host";
    }
}

/// Values of Connect (base specification, figure 375), whose codes other commands have for other things.
impl StatusCode {
    /// Connect: Incompatible Format.
    pub const CONNECT_INCOMPATIBLE_FORMAT: Self = Self::new(StatusCodeType::COMMAND_SPECIFIC, 0x80);
    /// Connect: Controller Busy.
    pub const CONNECT_CONTROLLER_BUSY: Self = Self::new(StatusCodeType::COMMAND_SPECIFIC, 0x81);
    /// Connect: Invalid Parameters.
    pub const CONNECT_INVALID_PARAMETERS: Self = Self::new(StatusCodeType::COMMAND_SPECIFIC, 0x82);
    /// Connect: Restart Discovery.
    pub const CONNECT_RESTART_DISCOVERY: Self = Self::new(StatusCodeType::COMMAND_SPECIFIC, 0x83);
    /// Connect: Invalid Host.
    pub const CONNECT_INVALID_HOST: Self = Self::new(StatusCodeType::COMMAND_SPECIFIC, 0x84);
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;

    #[test]
    fn a_status_lies_in_the_bits_of_the_completion_entry() {
        assert_eq!(Status::COMPARE_FAILURE.into_bits(), 0x8000 | 2 << 9 | 0x85 << 1);
        assert_eq!((Status::COMPARE_FAILURE.sct(), Status::COMPARE_FAILURE.sc()), (StatusCodeType::MEDIA, 0x85));
        let full = Status::SUCCESS.with_crd(3).with_more(true).with_phase(true);
        assert_eq!(full.into_bits(), 0b0111_0000_0000_0001);
        assert!(full.is_success() && !full.dnr());
    }

    #[test]
    fn every_bit_of_a_status_belongs_to_one_field() {
        for bits in 0..=u16::MAX {
            let status = Status::from_bits(bits);
            let again = Status::new(status.sct(), status.sc())
                .with_phase(status.phase())
                .with_crd(status.crd())
                .with_more(status.more())
                .with_dnr(status.dnr());
            assert_eq!(again, status);
        }
    }

    #[test]
    fn the_phase_tag_is_no_failure_and_the_lowest_bit_of_the_code_is_one() {
        assert!(Status::from_bits(1).is_success());
        assert!(!Status::from_bits(2).is_success());
    }

    #[test]
    fn a_named_status_is_shown_with_its_name_and_any_other_with_its_numbers() {
        assert_eq!(Status::INVALID_FIELD.to_string(), "0h/02h (Invalid Field in Command), do not retry");
        assert_eq!(Status::new(StatusCodeType::VENDOR_SPECIFIC, 0xab).to_string(), "7h/abh");
        assert_eq!(StatusCode::new(StatusCodeType(0xff), 0).sct(), StatusCodeType(7), "three bits");
    }

    #[test]
    fn names_are_in_ascending_order_and_no_two_are_the_same() {
        assert!(StatusCode::NAMED.is_sorted_by(|a, b| a < b));
        for (at, code) in StatusCode::NAMED.iter().enumerate() {
            assert!(StatusCode::NAMED[at + 1..].iter().all(|other| other.name() != code.name()), "{code}");
        }
    }

    #[test]
    fn success_and_what_may_pass_can_be_tried_again() {
        for status in [Status::SUCCESS, Status::NAMESPACE_NOT_READY, Status::ANA_TRANSITION, Status::ABORTED_BY_HOST] {
            assert!(!status.dnr(), "{status}");
        }
        assert!(Status::INVALID_OPCODE.dnr());
    }
}
