//! Command dwords and data of I/O commands (NVM command set, section 3.2).

bit_fields! {
    /// Command Dword 12 of the commands on blocks: Read, Write, Compare, Write Zeroes, Verify, Write Uncorrectable, and
    /// Zone Append.
    BlockDw12(u32) {
        /// Number of Logical Blocks, less one.
        pub nlb: u16,
        #[bits(4)]
        __: u8,
        /// Directive Type, of commands that write.
        #[bits(4)]
        pub dtype: u8,
        /// Storage Tag Check.
        pub stc: bool,
        /// Deallocate, of Write Zeroes; Protection Information Remap, of Zone Append.
        pub deac: bool,
        /// Protection Information Check: Reference Tag.
        pub prchk_reference: bool,
        /// Protection Information Check: Application Tag.
        pub prchk_application: bool,
        /// Protection Information Check: Guard.
        pub prchk_guard: bool,
        /// Protection Information Action: it is inserted or stripped by the controller.
        pub pract: bool,
        /// Force Unit Access.
        pub fua: bool,
        /// Limited Retry.
        pub lr: bool,
    }

    /// Command Dword 10 of Dataset Management (section 3.2.3).
    DsmDw10(u32) {
        /// Number of Ranges, less one.
        pub nr: u8,
        #[bits(24)]
        __: u32,
    }

    /// Command Dword 11 of Dataset Management (section 3.2.3).
    DsmDw11(u32) {
        /// Attribute - Integral Dataset for Read.
        pub idr: bool,
        /// Attribute - Integral Dataset for Write.
        pub idw: bool,
        /// Attribute - Deallocate.
        pub ad: bool,
        #[bits(29)]
        __: u32,
    }

    /// Command Dword 10 of Format NVM (base specification, section 5.14).
    FormatDw10(u32) {
        /// LBA Format Lower: bits 3:0.
        #[bits(4)]
        pub lbafl: u8,
        /// Metadata Settings: metadata follows the data of each block.
        pub mset: bool,
        /// Protection Information type; 0 for none.
        #[bits(3)]
        pub pi: u8,
        /// Protection Information Location: in the first bytes of the metadata.
        pub pil: bool,
        /// Secure Erase Settings.
        #[bits(3)]
        pub ses: u8,
        /// LBA Format Upper: bits 5:4.
        #[bits(2)]
        pub lbafu: u8,
        #[bits(18)]
        __: u32,
    }
}

impl BlockDw12 {
    /// Returns a dword that only counts blocks: `nlb` and one more.
    #[must_use]
    #[inline]
    pub const fn of(nlb: u16) -> Self {
        Self::new().with_nlb(nlb)
    }
}

/// The most blocks of a command: as many as [`BlockDw12::nlb`] can tell.
pub const MAX_BLOCKS: u32 = 1 << 16;

/// The most ranges of a Dataset Management command.
pub const MAX_DSM_RANGES: usize = 256;

layouts! {
    /// A range of Dataset Management (section 3.2.3).
    #[derive(Default)]
    DsmRange[16] {
        /// Context Attributes: hints about the accesses to come.
        pub context_attributes: u32,
        /// Length in logical blocks, of which 0 are none.
        pub nlb: u32,
        /// Starting LBA.
        pub slba: u64,
    }
}

impl DsmRange {
    /// Bytes of a range.
    pub const LEN: u32 = 16;
}

const _: () = assert!(size_of::<DsmRange>() == DsmRange::LEN as usize);

#[cfg(test)]
mod tests {
    use core::mem::offset_of;

    use super::*;

    #[test]
    fn a_command_on_blocks_has_its_count_below_and_its_flags_above() {
        assert_eq!(BlockDw12::new().with_nlb(7).with_fua(true).into_bits(), 1 << 30 | 7);
        let flags = BlockDw12::new().with_deac(true).with_pract(true).with_lr(true);
        assert_eq!(flags.into_bits(), 1 << 25 | 1 << 29 | 1 << 31);
        let checks = BlockDw12::new().with_prchk_guard(true).with_prchk_application(true).with_prchk_reference(true);
        assert_eq!(checks.into_bits(), 0b111 << 26);
    }

    #[test]
    fn dataset_management_counts_ranges_from_zero() {
        assert_eq!(DsmDw10::from_bits(0xffff_ff07).nr(), 7);
        assert_eq!(DsmDw11::new().with_ad(true).into_bits(), 1 << 2);
        assert_eq!((offset_of!(DsmRange, nlb), offset_of!(DsmRange, slba)), (4, 8));
    }
}
