//! Which commands may be sent again when it is not known whether the pool has carried them out.

use nvme_spec::IoOpcode;
use spdk::bdev::IoType;

/// A command that goes to the pool as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Passthru {
    /// Its opcode in the NVM command set.
    pub(crate) opcode: IoOpcode,
    /// It is one of a fused pair.
    pub(crate) fused: bool,
}

/// Opcodes that do the same twice as once: Flush, Write, Read, Write Uncorrectable, Compare, Write Zeroes, Dataset
/// Management, Verify, Reservation Report.
///
/// All others are left out on purpose: reservations that are changed and Zone Append do more the second time, Copy
/// reads what it may have written, Zone Management and I/O Management Send move a state on, and what vendors' commands
/// do is not known.
const REPEATABLE: [IoOpcode; 9] = [
    IoOpcode::FLUSH,
    IoOpcode::WRITE,
    IoOpcode::READ,
    IoOpcode::WRITE_UNCORRECTABLE,
    IoOpcode::COMPARE,
    IoOpcode::WRITE_ZEROES,
    IoOpcode::DATASET_MANAGEMENT,
    IoOpcode::VERIFY,
    IoOpcode::RESERVATION_REPORT,
];

/// Returns whether a command may be sent again after its connection was lost. One that may not is told to have been
/// aborted by the host, and whoever sent it looks what became of it.
pub(crate) fn is_repeatable(io_type: IoType, passthru: Option<Passthru>) -> bool {
    match io_type {
        IoType::Read | IoType::Write | IoType::WriteZeroes | IoType::Unmap | IoType::Flush | IoType::Compare => true,
        // The second time it compares with what it has written itself.
        IoType::CompareAndWrite => false,
        _ => passthru.is_some_and(|passthru| !passthru.fused && REPEATABLE.contains(&passthru.opcode)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repeatable(opcode: IoOpcode, fused: bool) -> bool {
        is_repeatable(IoType::NvmeIo, Some(Passthru { opcode, fused }))
    }

    #[test]
    fn what_does_the_same_twice_is_sent_again() {
        let of_blocks =
            [IoType::Read, IoType::Write, IoType::WriteZeroes, IoType::Unmap, IoType::Flush, IoType::Compare];
        assert!(of_blocks.into_iter().all(|io_type| is_repeatable(io_type, None)));
        assert!(REPEATABLE.into_iter().all(|opcode| repeatable(opcode, false)));
    }

    #[test]
    fn a_compare_and_write_is_sent_once() {
        assert!(!is_repeatable(IoType::CompareAndWrite, None));
        assert!(!repeatable(IoOpcode::COMPARE, true) && !repeatable(IoOpcode::WRITE, true));
    }

    #[test]
    fn what_does_more_the_second_time_or_is_not_known_is_sent_once() {
        for opcode in [
            IoOpcode::RESERVATION_REGISTER,
            IoOpcode::RESERVATION_ACQUIRE,
            IoOpcode::RESERVATION_RELEASE,
            IoOpcode::IO_MANAGEMENT_SEND,
            IoOpcode::COPY,
            IoOpcode::ZONE_MANAGEMENT_SEND,
            IoOpcode::ZONE_APPEND,
            IoOpcode::VENDOR_SPECIFIC_START,
            IoOpcode(u8::MAX),
        ] {
            assert!(!repeatable(opcode, false), "{opcode:?}");
        }
        let others = (0..=u8::MAX).map(IoOpcode).filter(|opcode| !REPEATABLE.contains(opcode));
        assert!(others.into_iter().all(|opcode| !repeatable(opcode, false)));
        assert!(
            [IoType::Reset, IoType::Abort, IoType::NvmeAdmin, IoType::Other(99)]
                .into_iter()
                .all(|io_type| !is_repeatable(io_type, None))
        );
    }
}
