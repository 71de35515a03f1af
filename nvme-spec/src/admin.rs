//! Command dwords of admin commands (base specification, section 5), and what an event tells.

use crate::feature::{FeatureId, FeatureSelect};
use crate::identify::{Cns, CommandSet};
use crate::log::LogId;

bit_fields! {
    /// Command Dword 10 of Create I/O Completion Queue and Create I/O Submission Queue (sections 5.4 and 5.5), and,
    /// without the size, of the commands that delete them (sections 5.6 and 5.7).
    QueueDw10(u32) {
        /// Queue Identifier.
        pub qid: u16,
        /// Queue Size: entries less one.
        pub qsize: u16,
    }

    /// Command Dword 11 of Create I/O Completion Queue (section 5.4).
    CreateCqDw11(u32) {
        /// Physically Contiguous.
        pub pc: bool,
        /// Interrupts Enabled.
        pub ien: bool,
        #[bits(14)]
        __: u16,
        /// Interrupt Vector.
        pub iv: u16,
    }

    /// Command Dword 11 of Create I/O Submission Queue (section 5.5).
    CreateSqDw11(u32) {
        /// Physically Contiguous.
        pub pc: bool,
        /// Queue Priority: 0 urgent to 3 low.
        #[bits(2)]
        pub qprio: u8,
        #[bits(13)]
        __: u16,
        /// Completion Queue Identifier.
        pub cqid: u16,
    }

    /// Command Dword 10 of Abort (section 5.1).
    AbortDw10(u32) {
        /// Submission Queue Identifier of the command to be aborted.
        pub sqid: u16,
        /// Command Identifier of the command to be aborted.
        pub cid: u16,
    }

    /// Dword 0 of the completion of Abort (section 5.1).
    AbortResult(u32) {
        /// The command was not aborted.
        pub not_aborted: bool,
        #[bits(31)]
        __: u32,
    }

    /// Command Dword 10 of Identify (section 5.17).
    IdentifyDw10(u32) {
        /// Controller or Namespace Structure.
        #[bits(8)]
        pub cns: Cns,
        __: u8,
        /// Controller Identifier, for the structures that begin at one.
        pub cntid: u16,
    }

    /// Command Dword 11 of Identify (section 5.17).
    IdentifyDw11(u32) {
        /// CNS Specific Identifier.
        pub cnssid: u16,
        __: u8,
        /// Command Set Identifier.
        #[bits(8)]
        pub csi: CommandSet,
    }

    /// Command Dword 10 of Get Log Page (section 5.16).
    GetLogPageDw10(u32) {
        /// Log Page Identifier.
        #[bits(8)]
        pub lid: LogId,
        /// Log Specific Parameter.
        #[bits(7)]
        pub lsp: u8,
        /// Retain Asynchronous Event.
        pub rae: bool,
        /// Number of Dwords Lower: of the number less one.
        pub numdl: u16,
    }

    /// Command Dword 11 of Get Log Page (section 5.16).
    GetLogPageDw11(u32) {
        /// Number of Dwords Upper: of the number less one.
        pub numdu: u16,
        /// Log Specific Identifier.
        pub lsid: u16,
    }

    /// Command Dword 14 of Get Log Page (section 5.16).
    GetLogPageDw14(u32) {
        /// UUID Index.
        #[bits(7)]
        pub uidx: u8,
        #[bits(16)]
        __: u16,
        /// Offset Type: the offset in Command Dwords 12 and 13 is an index, not bytes.
        pub ot: bool,
        /// Command Set Identifier.
        #[bits(8)]
        pub csi: CommandSet,
    }

    /// Command Dword 10 of Get Features (section 5.15).
    GetFeaturesDw10(u32) {
        /// Feature Identifier.
        #[bits(8)]
        pub fid: FeatureId,
        /// Select: which of the values.
        #[bits(3)]
        pub sel: FeatureSelect,
        #[bits(21)]
        __: u32,
    }

    /// Command Dword 10 of Set Features (section 5.27).
    SetFeaturesDw10(u32) {
        /// Feature Identifier.
        #[bits(8)]
        pub fid: FeatureId,
        #[bits(23)]
        __: u32,
        /// Save: the value is to survive resets and the loss of power.
        pub sv: bool,
    }

    /// Dword 0 of the completion of an Asynchronous Event Request (section 5.2.1).
    AsyncEvent(u32) {
        /// Asynchronous Event Type.
        #[bits(3)]
        pub kind: EventType,
        #[bits(5)]
        __: u8,
        /// Asynchronous Event Information, which has another meaning for each type.
        pub information: u8,
        /// The log page that tells more, and whose reading clears the event.
        #[bits(8)]
        pub lid: LogId,
        __: u8,
    }
}

named_values! {
    /// Asynchronous Event Type (figure 146).
    EventType(u8) {
        ERROR = 0, "Error status";
        SMART = 1, "SMART / Health status";
        NOTICE = 2, "Notice";
        IO_COMMAND_SPECIFIC = 6, "I/O Command specific status";
        VENDOR_SPECIFIC = 7, "Vendor specific";
    }
}

named_values! {
    /// Asynchronous Event Information of an error (figure 147).
    ErrorEvent(u8) {
        INVALID_DOORBELL_REGISTER = 0x00, "Write to Invalid Doorbell Register";
        INVALID_DOORBELL_VALUE = 0x01, "Invalid Doorbell Write Value";
        DIAGNOSTIC_FAILURE = 0x02, "Diagnostic Failure";
        PERSISTENT_INTERNAL_ERROR = 0x03, "Persistent Internal Error";
        TRANSIENT_INTERNAL_ERROR = 0x04, "Transient Internal Error";
        FIRMWARE_IMAGE_LOAD_ERROR = 0x05, "Firmware Image Load Error";
    }
}

named_values! {
    /// Asynchronous Event Information of SMART / Health (figure 148).
    SmartEvent(u8) {
        RELIABILITY = 0x00, "NVM subsystem reliability";
        TEMPERATURE_THRESHOLD = 0x01, "Temperature Threshold";
        SPARE_BELOW_THRESHOLD = 0x02, "Spare Below Threshold";
    }
}

named_values! {
    /// Asynchronous Event Information of a notice (figure 149).
    NoticeEvent(u8) {
        NAMESPACE_ATTRIBUTE_CHANGED = 0x00, "Namespace Attribute Changed";
        FIRMWARE_ACTIVATION_STARTING = 0x01, "Firmware Activation Starting";
        TELEMETRY_LOG_CHANGED = 0x02, "Telemetry Log Changed";
        ANA_CHANGE = 0x03, "Asymmetric Namespace Access Change";
        DISCOVERY_LOG_CHANGE = 0xf0, "Discovery Log Page Change";
    }
}

/// Returns a Number of Dwords (NUMD, less one as in the command) in its lower and its upper part (NUMDL, NUMDU).
#[must_use]
pub const fn split_numd(numd: u32) -> (u16, u16) {
    let [a, b, c, d] = numd.to_le_bytes();
    (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]))
}

/// Returns the number of dwords that Command Dwords 10 and 11 of Get Log Page ask for: 1 to 2^32.
#[must_use]
pub const fn log_page_dwords_of(dw10: GetLogPageDw10, dw11: GetLogPageDw11) -> u64 {
    ((dw11.numdu() as u64) << 16 | dw10.numdl() as u64) + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_are_created_with_identifier_and_size_in_one_dword() {
        assert_eq!(QueueDw10::new().with_qid(3).with_qsize(255).into_bits(), 255 << 16 | 3);
        assert_eq!(CreateCqDw11::new().with_pc(true).with_ien(true).with_iv(7).into_bits(), 7 << 16 | 3);
        assert_eq!(CreateSqDw11::new().with_pc(true).with_qprio(2).with_cqid(9).into_bits(), 9 << 16 | 5);
    }

    #[test]
    fn a_log_page_is_asked_for_by_dwords_less_one_in_two_parts() {
        let (lower, upper) = split_numd(0x1_0000);
        let dw10 = GetLogPageDw10::new().with_lid(LogId::ANA).with_lsp(1).with_rae(true).with_numdl(lower);
        let dw11 = GetLogPageDw11::new().with_numdu(upper);
        assert_eq!((dw10.into_bits(), dw11.into_bits()), (0x0000_810c, 1));
        assert_eq!(log_page_dwords_of(dw10, dw11), 0x1_0001);
        let most = (GetLogPageDw10::from_bits(u32::MAX), GetLogPageDw11::from_bits(u32::MAX));
        assert_eq!(log_page_dwords_of(most.0, most.1), 1 << 32);
    }

    #[test]
    fn selectors_stand_beside_their_identifiers() {
        let identify = IdentifyDw10::new().with_cns(Cns::CONTROLLER_LIST).with_cntid(5);
        assert_eq!(identify.into_bits(), 5 << 16 | 0x13);
        assert_eq!(IdentifyDw11::new().with_csi(CommandSet::ZNS).into_bits(), 2 << 24);
        let get = GetFeaturesDw10::new().with_fid(FeatureId::TIMESTAMP).with_sel(FeatureSelect::SUPPORTED);
        assert_eq!(get.into_bits(), 0x30e);
        assert_eq!(SetFeaturesDw10::from_bits(0x8000_0007).fid(), FeatureId::NUMBER_OF_QUEUES);
        assert!(SetFeaturesDw10::from_bits(0x8000_0007).sv());
    }

    #[test]
    fn an_event_tells_its_type_what_happened_and_where_to_read_on() {
        let event = AsyncEvent::new()
            .with_kind(EventType::NOTICE)
            .with_information(NoticeEvent::ANA_CHANGE.0)
            .with_lid(LogId::ANA);
        assert_eq!(event.into_bits(), 0x000c_0302);
    }
}
