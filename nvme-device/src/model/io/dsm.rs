//! Dataset Management (NVM Command Set specification 1.0, section 3.2.3): a list of ranges, and what becomes of them.

use nvme_spec::nvm::{DsmDw10, DsmDw11, DsmRange, MAX_DSM_RANGES};
use nvme_spec::{Sqe, Status};

use super::{IoCommand, IoKind, IoSupport, NsGeometry};

/// Blocks that are within the namespace; at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlockRange {
    /// The first block.
    pub slba: u64,
    /// How many.
    pub blocks: u32,
}

/// Returns the number of ranges that the command names: 1..=256.
#[must_use]
pub(crate) fn ranges(sqe: &Sqe) -> u16 {
    u16::from(DsmDw10::from_bits(sqe.cdw10).nr()) + 1
}

/// Returns the command without its ranges, whose size is in [`IoCommand::bytes`]. The integral attributes are hints
/// about later I/O: without Deallocate there is nothing to do.
pub(super) fn decode(sqe: &Sqe, ns: &NsGeometry) -> Result<IoCommand, Status> {
    if !DsmDw11::from_bits(sqe.cdw11).ad() {
        return Ok(IoCommand::without_blocks(IoKind::Nothing, 0));
    }
    ns.check_writable()?;
    if !ns.supports.contains(IoSupport::DEALLOCATE) {
        return Ok(IoCommand::without_blocks(IoKind::Nothing, 0));
    }
    let bytes = u32::from(ranges(sqe)) * DsmRange::LEN;
    Ok(IoCommand::without_blocks(IoKind::Deallocate, bytes))
}

/// Returns the ranges in `data`, which is a copy of what the guest has, as blocks of the namespace. Empty ranges are
/// left out.
///
/// # Errors
/// [`Status::LBA_OUT_OF_RANGE`] when any range is not within the namespace: all are checked before the first is used,
/// so that a command that fails has changed nothing. [`Status::INVALID_FIELD`] when `data` is not a number of ranges
/// that a command can have.
pub(crate) fn block_ranges<'a>(
    data: &'a [u8],
    ns: &NsGeometry,
) -> Result<impl Iterator<Item = BlockRange> + use<'a>, Status> {
    let (ranges, rest) = data.as_chunks::<{ size_of::<DsmRange>() }>();
    if !rest.is_empty() || !(1..=MAX_DSM_RANGES).contains(&ranges.len()) {
        return Err(Status::INVALID_FIELD);
    }
    // Each is copied: the data may begin anywhere.
    let ranges = ranges.iter().map(|range| -> DsmRange { zerocopy::transmute!(*range) });
    for range in ranges.clone() {
        ns.check_range(range.slba, range.nlb)?;
    }
    let block_ranges = ranges.map(|range| BlockRange { slba: range.slba, blocks: range.nlb });
    Ok(block_ranges.filter(|extent| extent.blocks != 0))
}

#[cfg(test)]
mod tests {
    use nvme_spec::IoOpcode;
    use proptest::prelude::*;

    use super::*;

    const AD: u32 = DsmDw11::new().with_ad(true).into_bits();

    fn ns(blocks: u64) -> NsGeometry {
        let mut ns = NsGeometry::new(blocks, 9).expect("a geometry");
        ns.supports = IoSupport::DATASET_MANAGEMENT | IoSupport::DEALLOCATE;
        ns
    }

    fn sqe(cdw10: u32, cdw11: u32) -> Sqe {
        Sqe { opcode: IoOpcode::DATASET_MANAGEMENT.0, cdw10, cdw11, ..Sqe::default() }
    }

    fn list(ranges: &[(u64, u32)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (slba, nlb) in ranges {
            bytes.extend_from_slice(&u32::MAX.to_le_bytes());
            bytes.extend_from_slice(&nlb.to_le_bytes());
            bytes.extend_from_slice(&slba.to_le_bytes());
        }
        bytes
    }

    fn accepted(ranges: &[(u64, u32)], ns: &NsGeometry) -> Result<Vec<(u64, u32)>, Status> {
        Ok(block_ranges(&list(ranges), ns)?.map(|extent| (extent.slba, extent.blocks)).collect())
    }

    #[test]
    fn deallocate_transfers_sixteen_bytes_for_each_range() {
        for (cdw10, bytes) in [(0, 16), (255, 4096), (0xffff_ff00, 16)] {
            let command = super::super::decode(&sqe(cdw10, AD), &ns(8), 1 << 17).expect("accepted");
            assert_eq!((command.kind, command.bytes, command.to_guest()), (IoKind::Deallocate, bytes, false));
        }
        assert_eq!(ranges(&sqe(255, AD)), 256);
    }

    #[test]
    fn without_deallocate_nothing_is_done() {
        let mut ns = ns(8);
        ns.write_protected = true;
        let hints = super::super::decode(&sqe(3, 0b011), &ns, 1 << 17).expect("accepted");
        assert_eq!((hints.kind, hints.bytes), (IoKind::Nothing, 0));
    }

    #[test]
    fn deallocate_on_a_protected_namespace_is_refused() {
        let mut ns = ns(8);
        ns.write_protected = true;
        assert_eq!(super::super::decode(&sqe(0, AD), &ns, 1 << 17), Err(Status::NAMESPACE_WRITE_PROTECTED));
    }

    #[test]
    fn a_namespace_that_cannot_deallocate_does_nothing() {
        let mut ns = ns(8);
        ns.supports = IoSupport::DATASET_MANAGEMENT;
        assert_eq!(super::super::decode(&sqe(0, AD), &ns, 1 << 17).map(|command| command.kind), Ok(IoKind::Nothing));
        ns.supports = IoSupport::DEALLOCATE;
        assert_eq!(super::super::decode(&sqe(0, AD), &ns, 1 << 17), Err(Status::INVALID_OPCODE));
    }

    #[test]
    fn a_range_up_to_the_last_block_is_accepted() {
        assert_eq!(accepted(&[(0, 8), (7, 1)], &ns(8)), Ok(vec![(0, 8), (7, 1)]));
    }

    #[test]
    fn one_range_past_the_end_refuses_all() {
        for bad in [(8, 1), (0, 9), (u64::MAX, 1), (u64::MAX, u32::MAX)] {
            assert_eq!(accepted(&[(0, 1), bad], &ns(8)), Err(Status::LBA_OUT_OF_RANGE), "{bad:?}");
        }
    }

    #[test]
    fn empty_ranges_are_left_out() {
        assert_eq!(accepted(&[(0, 0), (3, 2), (8, 0)], &ns(8)), Ok(vec![(3, 2)]));
    }

    #[test]
    fn data_that_is_no_list_of_ranges_is_refused() {
        for len in [0, 15, 17, 257 * 16] {
            assert_eq!(block_ranges(&vec![0; len], &ns(8)).err(), Some(Status::INVALID_FIELD), "{len} bytes");
        }
        assert!(block_ranges(&[0; 4096], &ns(8)).is_ok());
    }

    proptest! {
        #[test]
        fn no_extent_reaches_past_the_end(
            blocks in prop_oneof![0u64..64, any::<u64>().prop_map(|blocks| blocks >> 9)],
            ranges in proptest::collection::vec((prop_oneof![0u64..70, any::<u64>()], prop_oneof![0u32..70, any::<u32>()]), 1..9),
        ) {
            let within = ranges.iter().all(|(slba, nlb)| u128::from(*slba) + u128::from(*nlb) <= u128::from(blocks));
            match accepted(&ranges, &ns(blocks)) {
                Ok(block_ranges) => {
                    prop_assert!(within);
                    prop_assert_eq!(block_ranges, ranges.into_iter().filter(|(_, nlb)| *nlb != 0).collect::<Vec<_>>());
                }
                Err(status) => prop_assert!(!within && status == Status::LBA_OUT_OF_RANGE),
            }
        }
    }
}
