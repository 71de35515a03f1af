//! Opcodes (base specification, figures 138 and 386; NVM command set, figure 18; zoned namespaces, figure 17).

named_values! {
    /// What a command of the admin queue asks for.
    AdminOpcode(u8) {
        DELETE_IO_SQ = 0x00, "Delete I/O Submission Queue";
        CREATE_IO_SQ = 0x01, "Create I/O Submission Queue";
        GET_LOG_PAGE = 0x02, "Get Log Page";
        DELETE_IO_CQ = 0x04, "Delete I/O Completion Queue";
        CREATE_IO_CQ = 0x05, "Create I/O Completion Queue";
        IDENTIFY = 0x06, "Identify";
        ABORT = 0x08, "Abort";
        SET_FEATURES = 0x09, "Set Features";
        GET_FEATURES = 0x0a, "Get Features";
        ASYNC_EVENT_REQUEST = 0x0c, "Asynchronous Event Request";
        NAMESPACE_MANAGEMENT = 0x0d, "Namespace Management";
        FIRMWARE_COMMIT = 0x10, "Firmware Commit";
        FIRMWARE_IMAGE_DOWNLOAD = 0x11, "Firmware Image Download";
        DEVICE_SELF_TEST = 0x14, "Device Self-test";
        NAMESPACE_ATTACHMENT = 0x15, "Namespace Attachment";
        KEEP_ALIVE = 0x18, "Keep Alive";
        DIRECTIVE_SEND = 0x19, "Directive Send";
        DIRECTIVE_RECEIVE = 0x1a, "Directive Receive";
        VIRTUALIZATION_MANAGEMENT = 0x1c, "Virtualization Management";
        NVME_MI_SEND = 0x1d, "NVMe-MI Send";
        NVME_MI_RECEIVE = 0x1e, "NVMe-MI Receive";
        CAPACITY_MANAGEMENT = 0x20, "Capacity Management";
        LOCKDOWN = 0x24, "Lockdown";
        DOORBELL_BUFFER_CONFIG = 0x7c, "Doorbell Buffer Config";
        FABRICS = 0x7f, "Fabrics Commands";
        FORMAT_NVM = 0x80, "Format NVM";
        SECURITY_SEND = 0x81, "Security Send";
        SECURITY_RECEIVE = 0x82, "Security Receive";
        SANITIZE = 0x84, "Sanitize";
        GET_LBA_STATUS = 0x86, "Get LBA Status";
    }
}

named_values! {
    /// What a command of an I/O queue asks for.
    IoOpcode(u8) {
        FLUSH = 0x00, "Flush";
        WRITE = 0x01, "Write";
        READ = 0x02, "Read";
        WRITE_UNCORRECTABLE = 0x04, "Write Uncorrectable";
        COMPARE = 0x05, "Compare";
        WRITE_ZEROES = 0x08, "Write Zeroes";
        DATASET_MANAGEMENT = 0x09, "Dataset Management";
        VERIFY = 0x0c, "Verify";
        RESERVATION_REGISTER = 0x0d, "Reservation Register";
        RESERVATION_REPORT = 0x0e, "Reservation Report";
        RESERVATION_ACQUIRE = 0x11, "Reservation Acquire";
        IO_MANAGEMENT_RECEIVE = 0x12, "I/O Management Receive";
        RESERVATION_RELEASE = 0x15, "Reservation Release";
        CANCEL = 0x18, "Cancel";
        COPY = 0x19, "Copy";
        IO_MANAGEMENT_SEND = 0x1d, "I/O Management Send";
        ZONE_MANAGEMENT_SEND = 0x79, "Zone Management Send";
        ZONE_MANAGEMENT_RECEIVE = 0x7a, "Zone Management Receive";
        ZONE_APPEND = 0x7d, "Zone Append";
        FABRICS = 0x7f, "Fabrics Commands";
    }
}

named_values! {
    /// Data Transfer: the two low bits of an opcode, and of the type of a Fabrics command.
    DataTransfer(u8) {
        NONE = 0b00, "No data transfer";
        TO_CONTROLLER = 0b01, "Host to controller";
        TO_HOST = 0b10, "Controller to host";
        BOTH = 0b11, "Bidirectional";
    }
}

impl DataTransfer {
    /// Returns which way the data of a command goes, if it has any.
    #[must_use]
    #[inline]
    pub const fn of(opcode: u8) -> Self {
        Self(opcode & Self::BOTH.0)
    }
}

impl AdminOpcode {
    /// The first of the vendor specific commands, which are all from here on.
    pub const VENDOR_SPECIFIC_START: Self = Self(0xc0);

    /// Returns whether the command is vendor specific.
    #[must_use]
    pub const fn is_vendor_specific(self) -> bool {
        self.0 >= Self::VENDOR_SPECIFIC_START.0
    }
}

impl IoOpcode {
    /// The first of the vendor specific commands, which are all from here on.
    pub const VENDOR_SPECIFIC_START: Self = Self(0x80);

    /// Returns whether the command is vendor specific.
    #[must_use]
    pub const fn is_vendor_specific(self) -> bool {
        self.0 >= Self::VENDOR_SPECIFIC_START.0
    }
}

#[cfg(test)]
mod tests {
    use std::format;

    use super::*;

    #[test]
    fn a_named_opcode_is_shown_with_its_name_and_any_other_with_its_number() {
        assert_eq!(format!("{:?}", AdminOpcode::IDENTIFY), "Identify (06h)");
        assert_eq!(format!("{:?}", IoOpcode(0x81)), "IoOpcode 81h");
    }

    #[test]
    fn vendor_specific_opcodes_have_no_name_and_are_all_from_their_start_on() {
        for opcode in 0..=u8::MAX {
            assert_eq!(IoOpcode(opcode).is_vendor_specific(), opcode >= 0x80);
            assert!(!IoOpcode(opcode).is_vendor_specific() || IoOpcode(opcode).name().is_none());
            assert!(!AdminOpcode(opcode).is_vendor_specific() || AdminOpcode(opcode).name().is_none());
        }
    }

    #[test]
    fn the_low_bits_of_an_opcode_tell_which_way_data_goes() {
        assert_eq!(DataTransfer::of(IoOpcode::READ.0), DataTransfer::TO_HOST);
        assert_eq!(DataTransfer::of(IoOpcode::WRITE.0), DataTransfer::TO_CONTROLLER);
        assert_eq!(DataTransfer::of(AdminOpcode::KEEP_ALIVE.0), DataTransfer::NONE);
        assert_eq!(DataTransfer::of(0xff), DataTransfer::BOTH);
    }
}
