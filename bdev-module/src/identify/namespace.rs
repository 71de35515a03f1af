//! The Identify Namespace data structure of the NVM command set (Identify CNS 00h) and its formats (CNS 05h).

use std::ops::RangeInclusive;

use nvme_spec::identify::{IdentifyNamespace, IdentifyNamespaceNvm};

use super::{id, read};

/// Block sizes that can be served, as exponents of two: 512 bytes to 64 KiB.
const LBADS: RangeInclusive<u8> = 9..=16;

/// A namespace as its pool describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Namespace {
    /// Its identifier.
    pub(crate) nsid: u32,
    /// Logical blocks.
    pub(crate) blocks: u64,
    /// Bytes of a logical block, with its metadata.
    pub(crate) block_size: u32,
    /// Bytes of metadata per block, which follow its data in the same buffer.
    pub(crate) metadata_size: u32,
    /// Protection information type, 0 for none, and whether it stands at the metadata's start.
    pub(crate) protection: (u32, bool),
    /// Protection information format: 0 for the 16-bit guard.
    pub(crate) protection_format: u32,
    /// The number of its format.
    format: u8,
    /// A boundary in blocks that a command should not cross, or 0.
    pub(crate) optimal_io_boundary: u32,
    /// NPWG, NPWA, NPDG, NPDA, NOWS in blocks, where the namespace gives them.
    pub(crate) preferred: Option<[u32; 5]>,
    /// NACWU in blocks, where the namespace has one of its own.
    pub(crate) nacwu: Option<u16>,
    /// NAWUPF in blocks, where the namespace has one of its own.
    pub(crate) nawupf: Option<u16>,
    /// The group whose ANA state is its own, or 0.
    pub(crate) ana_group: u32,
    /// NGUID.
    pub(crate) nguid: Option<[u8; 16]>,
    /// EUI64.
    pub(crate) eui64: Option<[u8; 8]>,
}

/// What an Identify Namespace says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Uses {
    /// There is no such namespace: the data is all zeros.
    Inactive,
    /// It can be used.
    Block(Namespace),
}

/// Why a namespace cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UnusableNamespace {
    /// FLBAS names a format that NLBAF does not count.
    #[error("it is in format {format}, of {formats} that it has")]
    Format {
        /// FLBAS.
        format: u8,
        /// NLBAF, counted from 1.
        formats: u8,
    },
    /// LBADS.
    #[error("its logical blocks are of 2^{0} bytes (LBADS); 2^9 to 2^16 can be served")]
    BlockSize(u8),
    /// Metadata in a buffer of its own, which NVMe over Fabrics does not have.
    #[error(
        "its blocks have {0} bytes of metadata in a buffer of their own; over a fabric metadata must follow the data"
    )]
    SeparateMetadata(u16),
    /// DPS.
    #[error(
        "its protection information is of type {kind} with {metadata} bytes of metadata; types are 1 to 3, of 8 bytes"
    )]
    Protection {
        /// The type.
        kind: u8,
        /// Bytes of metadata.
        metadata: u16,
    },
    /// NSZE.
    #[error("its size of {0} logical blocks cannot be counted in bytes")]
    Size(u64),
}

impl Namespace {
    /// Takes apart the data of namespace `nsid`.
    pub(crate) fn parse(nsid: u32, data: &[u8]) -> Result<Uses, UnusableNamespace> {
        let told: IdentifyNamespace = read(data, 0);
        let blocks = told.nsze;
        if blocks == 0 {
            return Ok(Uses::Inactive);
        }
        let (formats, format) = (told.lba_formats(), told.lba_format_index());
        let lbaf = told.lbaf.get(usize::from(format)).filter(|_| format < formats);
        let lbaf = lbaf.ok_or(UnusableNamespace::Format { format, formats })?;
        let (metadata, lbads) = (lbaf.ms(), lbaf.lbads());
        if !LBADS.contains(&lbads) {
            return Err(UnusableNamespace::BlockSize(lbads));
        }
        if metadata != 0 && !told.flbas.mdtela() {
            return Err(UnusableNamespace::SeparateMetadata(metadata));
        }
        let kind = told.dps.pit();
        if kind > 3 || (kind != 0 && metadata < 8) {
            return Err(UnusableNamespace::Protection { kind, metadata });
        }
        let block_size = (1_u32 << lbads) + u32::from(metadata);
        if blocks.checked_mul(u64::from(block_size)).is_none_or(|bytes| bytes > i64::MAX.unsigned_abs()) {
            return Err(UnusableNamespace::Size(blocks));
        }
        let zero_based = |blocks| u32::from(blocks) + 1;
        let preferred = [told.npwg, told.npwa, told.npdg, told.npda, told.nows];
        let own_units = told.nsfeat.nsabp();
        Ok(Uses::Block(Self {
            nsid,
            blocks,
            block_size,
            metadata_size: u32::from(metadata),
            protection: (u32::from(kind), told.dps.pip()),
            protection_format: 0,
            format,
            optimal_io_boundary: u32::from(told.noiob),
            preferred: told.nsfeat.optperf().then(|| preferred.map(zero_based)),
            nacwu: own_units.then(|| told.nacwu.saturating_add(1)),
            nawupf: Some(told.nawupf).filter(|&nawupf| own_units && nawupf != 0).map(|n| n.saturating_add(1)),
            ana_group: told.anagrpid,
            nguid: id(told.nguid),
            eui64: id(told.eui64),
        }))
    }

    /// Takes the protection information's format from the NVM command set's Identify Namespace data.
    pub(crate) fn take_format(&mut self, data: &[u8]) {
        let told: IdentifyNamespaceNvm = read(data, 0);
        let format = told.elbaf.get(usize::from(self.format));
        self.protection_format = format.map_or(0, |format| format.pif().into());
    }

    /// Returns the number of bytes of a block's data alone.
    pub(crate) fn data_size(&self) -> u32 {
        self.block_size.saturating_sub(self.metadata_size)
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use nvme_spec::identify::{FormattedLbaSize, LbaFormat, NamespaceFeatures, ProtectionSettings};
    use proptest::prelude::*;
    use zerocopy::{FromZeros, IntoBytes};

    use super::super::LEN;
    use super::*;

    /// A namespace of `blocks` blocks of 512 bytes.
    fn good(blocks: u64) -> IdentifyNamespace {
        let mut data = IdentifyNamespace { nsze: blocks, ..IdentifyNamespace::new_zeroed() };
        data.lbaf[0].set_lbads(9);
        data
    }

    /// The namespace, which is active.
    fn parse(data: &IdentifyNamespace) -> Result<Namespace, UnusableNamespace> {
        match Namespace::parse(1, data.as_bytes())? {
            Uses::Block(namespace) => Ok(namespace),
            Uses::Inactive => Err(UnusableNamespace::Size(0)),
        }
    }

    #[test]
    fn zeros_are_an_inactive_namespace() {
        assert_eq!(Namespace::parse(1, &[0; LEN]), Ok(Uses::Inactive));
        assert_eq!(Namespace::parse(1, &[]), Ok(Uses::Inactive));
    }

    #[test]
    fn the_fields_are_taken_from_their_bytes() {
        let mut data = good(1000);
        data.nsfeat = NamespaceFeatures::new().with_nsabp(true).with_optperf(true);
        (data.nlbaf, data.flbas) = (1, FormattedLbaSize::new().with_fidxl(1));
        data.lbaf[1].set_lbads(12);
        (data.nawupf, data.nacwu, data.noiob, data.npwg) = (7, 3, 64, 15);
        (data.anagrpid, data.nguid[0], data.eui64[0]) = (2, 1, 2);
        let found = parse(&data).expect("it can be used");
        assert_eq!((found.blocks, found.block_size, found.data_size()), (1000, 4096, 4096));
        assert_eq!((found.nawupf, found.nacwu, found.optimal_io_boundary), (Some(8), Some(4), 64));
        assert_eq!(found.preferred, Some([16, 1, 1, 1, 1]));
        assert_eq!((found.ana_group, found.nguid.is_some(), found.eui64.is_some()), (2, true, true));
    }

    #[test]
    fn block_sizes_that_are_not_served_are_refused() {
        for lbads in [0, 8, 17, 31, 32, 255] {
            let mut data = good(1);
            data.lbaf[0].set_lbads(lbads);
            assert_eq!(parse(&data), Err(UnusableNamespace::BlockSize(lbads)));
        }
    }

    #[test]
    fn a_format_that_is_not_there_is_refused() {
        let mut data = good(1);
        data.flbas.set_fidxl(5);
        assert_eq!(parse(&data), Err(UnusableNamespace::Format { format: 5, formats: 1 }));
        data.nlbaf = 255;
        data.flbas = FormattedLbaSize::new().with_fidxl(15).with_fidxu(3);
        assert_eq!(
            parse(&data),
            Err(UnusableNamespace::BlockSize(0)),
            "the upper bits count where there are many formats"
        );
    }

    #[test]
    fn metadata_that_makes_no_sense_is_refused() {
        let mut data = good(1);
        data.lbaf[0].set_ms(8);
        assert_eq!(parse(&data), Err(UnusableNamespace::SeparateMetadata(8)));
        data.flbas.set_mdtela(true);
        assert_eq!(parse(&data).map(|found| (found.block_size, found.metadata_size)), Ok((520, 8)));
        data.dps = ProtectionSettings::new().with_pit(5);
        assert_eq!(parse(&data), Err(UnusableNamespace::Protection { kind: 5, metadata: 8 }));
        data.dps.set_pit(1);
        data.lbaf[0].set_ms(4);
        assert_eq!(parse(&data), Err(UnusableNamespace::Protection { kind: 1, metadata: 4 }));
    }

    #[test]
    fn a_size_that_cannot_be_counted_in_bytes_is_refused() {
        assert_eq!(parse(&good(u64::MAX)), Err(UnusableNamespace::Size(u64::MAX)));
    }

    #[test]
    fn the_guard_format_is_that_of_the_namespaces_own_format() {
        let mut found = parse(&good(1)).expect("it can be used");
        let mut data = IdentifyNamespaceNvm::new_zeroed();
        data.elbaf[0].set_pif(2);
        found.take_format(data.as_bytes());
        assert_eq!(found.protection_format, 2);
    }

    proptest! {
        #[test]
        fn any_data_is_taken_apart_without_panic_and_what_passes_can_be_served(
            mut data in prop::collection::vec(any::<u8>(), 0..600), lbads in 0_u8..20, size: u32,
        ) {
            if data.len() > offset_of!(IdentifyNamespace, lbaf) + size_of::<LbaFormat>() {
                let mut identity: IdentifyNamespace = read(&data, 0);
                (identity.nsze, identity.nlbaf) = (size.into(), 0);
                identity.flbas = FormattedLbaSize::new().with_mdtela(identity.flbas.mdtela());
                identity.lbaf[0].set_lbads(lbads);
                data = identity.as_bytes()[..data.len()].to_vec();
            }
            if let Ok(Uses::Block(found)) = Namespace::parse(1, &data) {
                prop_assert!(found.block_size >= 512 && found.blocks > 0);
                prop_assert!(found.data_size().is_power_of_two());
                prop_assert!(found.blocks.checked_mul(u64::from(found.block_size)).is_some());
            }
        }
    }
}
