//! What a namespace can do, in one place: what Identify and the log of commands tell of it, and which commands it takes,
//! derive from the same set.

use std::ops::BitOr;

use nvme_spec::IoOpcode;
use nvme_spec::identify::{FusedOperations, OptionalNvmCommands};
use nvme_spec::opcode::DataTransfer;

/// What a namespace can do beside Read and Write: a set of bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IoSupport(u16);

impl IoSupport {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Compare.
    pub const COMPARE: Self = Self(1);
    /// Write Zeroes.
    pub const WRITE_ZEROES: Self = Self(1 << 1);
    /// Dataset Management is a command of this controller. Without it the opcode is invalid.
    pub const DATASET_MANAGEMENT: Self = Self(1 << 2);
    /// Dataset Management deallocates. Without it, but with [`IoSupport::DATASET_MANAGEMENT`], the command succeeds and
    /// does nothing, as it may: a controller says in one place for all its namespaces that it has the command.
    pub const DEALLOCATE: Self = Self(1 << 3);
    /// There is something to flush: a volatile write cache. Without it Flush succeeds and does nothing.
    pub const FLUSH: Self = Self(1 << 4);
    /// Compare and Write as a fused operation.
    pub const COMPARE_AND_WRITE: Self = Self(1 << 5);
    /// Write Uncorrectable, which the backend is given as it is.
    pub const WRITE_UNCORRECTABLE: Self = Self(1 << 6);
    /// Verify, likewise.
    pub const VERIFY: Self = Self(1 << 7);
    /// Vendor specific commands, likewise.
    pub const VENDOR_SPECIFIC: Self = Self(1 << 8);
    /// Blocks that were deallocated are read as zeroes, and Write Zeroes may deallocate.
    pub(crate) const DEALLOCATED_ARE_ZEROES: Self = Self(1 << 9);
    /// It tells of a volatile write cache, which Flush empties.
    pub const VOLATILE_WRITE_CACHE: Self = Self(1 << 10);
    /// All of them.
    pub const ALL: Self = Self((1 << 11) - 1);

    /// Returns those of `all` whose condition holds.
    #[must_use]
    pub fn of(all: &[(bool, Self)]) -> Self {
        all.iter().filter(|(has, _)| *has).fold(Self::NONE, |set, (_, one)| set | *one)
    }

    /// Returns what a controller with namespaces of `sets` tells of itself: what any of them can do. Dataset Management
    /// is told of only where it has an effect.
    #[must_use]
    pub(crate) fn of_controller(sets: impl Iterator<Item = Self>) -> Self {
        let any = sets.fold(Self::NONE, Self::bitor);
        let without = Self(any.0 & !Self::DATASET_MANAGEMENT.0);
        if any.contains(Self::DEALLOCATE) { without | Self::DATASET_MANAGEMENT } else { without }
    }

    /// Returns whether all of `other` are in the set.
    #[must_use]
    #[inline]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Returns whether an opcode is that of a command. Read, Write and Flush always are; vendor specific ones with data
    /// in both directions never, since no backend can do that.
    #[must_use]
    pub(crate) fn has_command(self, opcode: IoOpcode) -> bool {
        let needed = match opcode {
            IoOpcode::READ | IoOpcode::WRITE | IoOpcode::FLUSH => Self::NONE,
            IoOpcode::COMPARE => Self::COMPARE,
            IoOpcode::WRITE_ZEROES => Self::WRITE_ZEROES,
            IoOpcode::DATASET_MANAGEMENT => Self::DATASET_MANAGEMENT,
            IoOpcode::WRITE_UNCORRECTABLE => Self::WRITE_UNCORRECTABLE,
            IoOpcode::VERIFY => Self::VERIFY,
            vendor if vendor.is_vendor_specific() && DataTransfer::of(vendor.0) != DataTransfer::BOTH => {
                Self::VENDOR_SPECIFIC
            }
            _ => return false,
        };
        self.contains(needed)
    }

    /// Returns the optional commands, as Identify Controller tells them (ONCS).
    #[must_use]
    pub(crate) fn oncs(self) -> OptionalNvmCommands {
        OptionalNvmCommands::new()
            .with_nvmcmps(self.has_command(IoOpcode::COMPARE))
            .with_nvmwusv(self.has_command(IoOpcode::WRITE_UNCORRECTABLE))
            .with_nvmvfys(self.has_command(IoOpcode::VERIFY))
            .with_nvmdsmsv(self.has_command(IoOpcode::DATASET_MANAGEMENT))
            .with_nvmwzsv(self.has_command(IoOpcode::WRITE_ZEROES))
    }

    /// Returns the fused operations, as Identify Controller tells them (FUSES).
    #[must_use]
    pub(crate) fn fuses(self) -> FusedOperations {
        FusedOperations::new().with_fcws(self.contains(Self::COMPARE_AND_WRITE))
    }
}

impl BitOr for IoSupport {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

#[cfg(test)]
mod tests {
    use nvme_spec::{Sqe, Status};
    use zerocopy::FromZeros as _;

    use super::super::{NsGeometry, decode};
    use super::*;

    #[test]
    fn what_a_controller_tells_of_commands_is_what_its_namespaces_take() {
        for bits in 0..=IoSupport::ALL.0 {
            let alone = IoSupport(bits);
            let told = IoSupport::of_controller([alone].into_iter());
            let mut namespace = NsGeometry::new(1 << 20, 12).expect("a geometry");
            namespace.supports = told;
            for opcode in 0..=u8::MAX {
                let taken = decode(&Sqe { opcode, ..Sqe::new_zeroed() }, &namespace, 1 << 20);
                let is_taken = taken != Err(Status::INVALID_OPCODE);
                assert_eq!(told.has_command(IoOpcode(opcode)), is_taken, "{opcode:#x} of {told:?}");
            }
            assert_eq!(told.oncs().nvmdsmsv(), alone.contains(IoSupport::DEALLOCATE), "{alone:?}");
        }
    }

    #[test]
    fn a_controller_can_what_any_of_its_namespaces_can() {
        let sets = [IoSupport::COMPARE, IoSupport::DATASET_MANAGEMENT, IoSupport::VERIFY | IoSupport::COMPARE];
        assert_eq!(IoSupport::of_controller(sets.into_iter()), IoSupport::COMPARE | IoSupport::VERIFY);
        assert_eq!(IoSupport::of_controller([].into_iter()), IoSupport::NONE);
    }
}
