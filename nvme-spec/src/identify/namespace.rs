//! Identify Namespace (CNS 00h and 05h; NVM command set, section 4.1.5; CNS 08h; base specification, section 5.17.2.8).

use zerocopy::little_endian::U128;

use crate::reservation::ReservationCapabilities;

bit_fields! {
    /// Namespace Features (NSFEAT).
    NamespaceFeatures(u8) {
        /// Thin Provisioning.
        pub thinp: bool,
        /// Namespace Supported Atomic Boundary & Power: the namespace's own atomic units count.
        pub nsabp: bool,
        /// Deallocated or Unwritten Logical Block error.
        pub dae: bool,
        /// NGUID and EUI64 are never used again.
        pub uidreuse: bool,
        /// Optimal Performance: the preferred granularities mean something.
        pub optperf: bool,
        #[bits(3)]
        __: u8,
    }

    /// Formatted LBA Size (FLBAS).
    FormattedLbaSize(u8) {
        /// Format Index Lower: bits 3:0.
        #[bits(4)]
        pub fidxl: u8,
        /// Metadata follows the data of each block.
        pub mdtela: bool,
        /// Format Index Upper: bits 5:4, where there are more than 16 formats.
        #[bits(2)]
        pub fidxu: u8,
        __: bool,
    }

    /// Metadata Capabilities (MC).
    MetadataCapabilities(u8) {
        /// Metadata that follows the data of each block.
        pub extended: bool,
        /// Metadata in a buffer of its own.
        pub separate: bool,
        #[bits(6)]
        __: u8,
    }

    /// End-to-end Data Protection Capabilities (DPC).
    ProtectionCapabilities(u8) {
        /// Protection Information Type 1.
        pub pit1s: bool,
        /// Protection Information Type 2.
        pub pit2s: bool,
        /// Protection Information Type 3.
        pub pit3s: bool,
        /// Protection information in the first bytes of the metadata.
        pub first: bool,
        /// Protection information in the last bytes of the metadata.
        pub last: bool,
        #[bits(3)]
        __: u8,
    }

    /// End-to-end Data Protection Type Settings (DPS).
    ProtectionSettings(u8) {
        /// Protection Information Type; 0 for none.
        #[bits(3)]
        pub pit: u8,
        /// Protection Information Position: in the first bytes of the metadata.
        pub pip: bool,
        #[bits(4)]
        __: u8,
    }

    /// Namespace Multi-path I/O and Namespace Sharing Capabilities (NMIC).
    NamespaceSharing(u8) {
        /// Shared Namespace: more than one controller may have it.
        pub shrns: bool,
        #[bits(7)]
        __: u8,
    }

    /// Deallocate Logical Block Features (DLFEAT).
    DeallocateFeatures(u8) {
        /// What is read of a deallocated block: 0 not reported, 1 zeroes, 2 ones.
        #[bits(3)]
        pub read: u8,
        /// Write Zeroes may deallocate.
        pub write_zeroes: bool,
        /// The guard of deallocated blocks is a CRC of what is read.
        pub guard: bool,
        #[bits(3)]
        __: u8,
    }

    /// Namespace Attributes (NSATTR).
    NamespaceAttributes(u8) {
        /// Currently Write Protected.
        pub cwp: bool,
        #[bits(7)]
        __: u8,
    }

    /// LBA Format (LBAF).
    LbaFormat(u32) {
        /// Metadata Size, in bytes.
        pub ms: u16,
        /// LBA Data Size, as a power of two of bytes.
        pub lbads: u8,
        /// Relative Performance: 0 best, 3 degraded.
        #[bits(2)]
        pub rp: u8,
        #[bits(6)]
        __: u8,
    }

    /// Extended LBA Format (ELBAF).
    ExtendedLbaFormat(u32) {
        /// Storage Tag Size, in bits.
        #[bits(7)]
        pub sts: u8,
        /// Protection Information Format: 0 a guard of 16 bits, 1 of 32 bits, 2 of 64 bits.
        #[bits(2)]
        pub pif: u8,
        #[bits(23)]
        __: u32,
    }

    /// Common Namespace Features (NSFEAT) of the structure that is independent of command sets.
    IndependentFeatures(u8) {
        #[bits(3)]
        __: u8,
        /// NGUID and EUI64 are never used again.
        pub uidreuse: bool,
        /// Rotational Media.
        pub rmedia: bool,
        /// Volatile Write Cache Not Present.
        pub vwcnp: bool,
        #[bits(2)]
        __: u8,
    }

    /// Namespace Status (NSTAT).
    NamespaceStatus(u8) {
        /// Namespace Ready.
        pub nrdy: bool,
        #[bits(7)]
        __: u8,
    }
}

layouts! {
    /// Identify Namespace data structure of the NVM command set (section 4.1.5.1).
    IdentifyNamespace[4096] {
        /// Namespace Size, in logical blocks.
        pub nsze: u64,
        /// Namespace Capacity, in logical blocks.
        pub ncap: u64,
        /// Namespace Utilization, in logical blocks.
        pub nuse: u64,
        /// Namespace Features.
        pub nsfeat: NamespaceFeatures,
        /// Number of LBA Formats, less one.
        pub nlbaf: u8,
        /// Formatted LBA Size.
        pub flbas: FormattedLbaSize,
        /// Metadata Capabilities.
        pub mc: MetadataCapabilities,
        /// End-to-end Data Protection Capabilities.
        pub dpc: ProtectionCapabilities,
        /// End-to-end Data Protection Type Settings.
        pub dps: ProtectionSettings,
        /// Namespace Multi-path I/O and Namespace Sharing Capabilities.
        pub nmic: NamespaceSharing,
        /// Reservation Capabilities.
        pub rescap: ReservationCapabilities,
        /// Format Progress Indicator.
        pub fpi: u8,
        /// Deallocate Logical Block Features.
        pub dlfeat: DeallocateFeatures,
        /// Namespace Atomic Write Unit Normal, in logical blocks less one.
        pub nawun: u16,
        /// Namespace Atomic Write Unit Power Fail, in logical blocks less one.
        pub nawupf: u16,
        /// Namespace Atomic Compare & Write Unit, in logical blocks less one.
        pub nacwu: u16,
        /// Namespace Atomic Boundary Size Normal, in logical blocks less one.
        pub nabsn: u16,
        /// Namespace Atomic Boundary Offset, in logical blocks.
        pub nabo: u16,
        /// Namespace Atomic Boundary Size Power Fail, in logical blocks less one.
        pub nabspf: u16,
        /// Namespace Optimal I/O Boundary, in logical blocks; 0 for none.
        pub noiob: u16,
        /// NVM Capacity, in bytes.
        pub nvmcap: U128,
        /// Namespace Preferred Write Granularity, in logical blocks less one.
        pub npwg: u16,
        /// Namespace Preferred Write Alignment, in logical blocks less one.
        pub npwa: u16,
        /// Namespace Preferred Deallocate Granularity, in logical blocks less one.
        pub npdg: u16,
        /// Namespace Preferred Deallocate Alignment, in logical blocks less one.
        pub npda: u16,
        /// Namespace Optimal Write Size, in logical blocks less one.
        pub nows: u16,
        /// Maximum Single Source Range Length of Copy, in logical blocks.
        pub mssrl: u16,
        /// Maximum Copy Length, in logical blocks.
        pub mcl: u32,
        /// Maximum Source Range Count of Copy, less one.
        pub msrc: u8,
        /// Reserved.
        pub reserved_81: [u8; 11],
        /// ANA Group Identifier; 0 for none.
        pub anagrpid: u32,
        /// Reserved.
        pub reserved_96: [u8; 3],
        /// Namespace Attributes.
        pub nsattr: NamespaceAttributes,
        /// NVM Set Identifier.
        pub nvmsetid: u16,
        /// Endurance Group Identifier.
        pub endgid: u16,
        /// Namespace Globally Unique Identifier; zeroes for none.
        pub nguid: [u8; 16],
        /// IEEE Extended Unique Identifier; zeroes for none.
        pub eui64: [u8; 8],
        /// LBA Formats.
        pub lbaf: [LbaFormat; Self::MAX_LBA_FORMATS as usize],
        /// Vendor Specific.
        pub vendor_specific: [u8; 3712],
    }

    /// I/O Command Set specific Identify Namespace data structure of the NVM command set (CNS 05h; section 4.1.5.3).
    IdentifyNamespaceNvm[4096] {
        /// Logical Block Storage Tag Mask.
        pub lbstm: u64,
        /// Protection Information Capabilities.
        pub pic: u8,
        /// Reserved.
        pub reserved_9: [u8; 3],
        /// Extended LBA Formats.
        pub elbaf: [ExtendedLbaFormat; 64],
        /// Reserved.
        pub reserved_268: [u8; 3828],
    }

    /// I/O Command Set Independent Identify Namespace data structure (CNS 08h).
    IndependentNamespace[4096] {
        /// Common Namespace Features.
        pub nsfeat: IndependentFeatures,
        /// Namespace Multi-path I/O and Namespace Sharing Capabilities.
        pub nmic: NamespaceSharing,
        /// Reservation Capabilities.
        pub rescap: ReservationCapabilities,
        /// Format Progress Indicator.
        pub fpi: u8,
        /// ANA Group Identifier; 0 for none.
        pub anagrpid: u32,
        /// Namespace Attributes.
        pub nsattr: NamespaceAttributes,
        /// Reserved.
        pub reserved_9: u8,
        /// NVM Set Identifier.
        pub nvmsetid: u16,
        /// Endurance Group Identifier.
        pub endgid: u16,
        /// Namespace Status.
        pub nstat: NamespaceStatus,
        /// Reserved.
        pub reserved_15: [u8; 4081],
    }
}

impl IdentifyNamespace {
    /// The most LBA formats.
    pub const MAX_LBA_FORMATS: u8 = 64;

    /// Returns how many LBA formats there are: 1 to 64.
    #[must_use]
    pub const fn lba_formats(&self) -> u8 {
        let formats = self.nlbaf.saturating_add(1);
        if formats > Self::MAX_LBA_FORMATS { Self::MAX_LBA_FORMATS } else { formats }
    }

    /// Returns the index of the LBA format that the namespace has, which may be none of those that there are.
    #[must_use]
    pub const fn lba_format_index(&self) -> u8 {
        let upper = if self.lba_formats() > 16 { self.flbas.fidxu() } else { 0 };
        upper << 4 | self.flbas.fidxl()
    }
}

#[cfg(test)]
mod tests {
    use core::mem::offset_of;

    use zerocopy::FromZeros;

    use super::*;

    #[test]
    fn fields_of_a_namespace_lie_where_the_specification_has_them() {
        assert_eq!(offset_of!(IdentifyNamespace, dlfeat), 33);
        assert_eq!(offset_of!(IdentifyNamespace, noiob), 46);
        assert_eq!(offset_of!(IdentifyNamespace, npwg), 64);
        assert_eq!(offset_of!(IdentifyNamespace, anagrpid), 92);
        assert_eq!(offset_of!(IdentifyNamespace, nsattr), 99);
        assert_eq!(offset_of!(IdentifyNamespace, nguid), 104);
        assert_eq!(offset_of!(IdentifyNamespace, lbaf), 128);
        assert_eq!(offset_of!(IdentifyNamespaceNvm, elbaf), 12);
        assert_eq!(offset_of!(IndependentNamespace, anagrpid), 4);
        assert_eq!(offset_of!(IndependentNamespace, nstat), 14);
    }

    #[test]
    fn the_upper_part_of_a_format_index_counts_only_where_there_are_more_than_16() {
        let mut namespace = IdentifyNamespace::new_zeroed();
        namespace.flbas = FormattedLbaSize::new().with_fidxl(2).with_fidxu(3);
        namespace.nlbaf = 15;
        assert_eq!((namespace.lba_formats(), namespace.lba_format_index()), (16, 2));
        namespace.nlbaf = 255;
        assert_eq!((namespace.lba_formats(), namespace.lba_format_index()), (64, 50));
    }

    #[test]
    fn formats_and_settings_have_their_bits_where_the_specification_has_them() {
        assert_eq!(LbaFormat::new().with_ms(8).with_lbads(12).with_rp(2).into_bits(), 2 << 24 | 12 << 16 | 8);
        assert_eq!(ExtendedLbaFormat::new().with_sts(16).with_pif(2).into_bits(), 2 << 7 | 16);
        assert_eq!(FormattedLbaSize::new().with_mdtela(true).into_bits(), 0x10);
        assert_eq!(ProtectionSettings::from_bits(0x0b).pit(), 3);
        assert!(ProtectionSettings::from_bits(0x0b).pip());
        assert_eq!(NamespaceFeatures::new().with_nsabp(true).with_optperf(true).into_bits(), 0x12);
        assert_eq!(IndependentFeatures::new().with_vwcnp(true).into_bits(), 1 << 5);
        assert_eq!(DeallocateFeatures::new().with_read(1).with_write_zeroes(true).into_bits(), 0b1001);
    }
}
