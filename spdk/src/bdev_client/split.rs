//! How many I/Os of the bdev layer's an I/O takes, and what ends together with it.

use spdk_sys as sys;

use super::{BdevChannel, BdevDesc, BlockOp};

/// As many parts of a read or write the bdev layer has in flight at a time.
const MAX_PARTS: u64 = 32;
/// As many of an unmap or write zeroes.
const MAX_WIDE_PARTS: u64 = 8;

/// Where the bdev layer splits the I/Os of a bdev. 0 stands for nowhere.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Splits {
    /// The most blocks of a read or write.
    blocks: u64,
    /// The most pieces of its data, and bytes of each.
    segments: u64,
    segment_bytes: u64,
    /// Blocks between the boundaries that it may not cross.
    boundary: u64,
    /// The most blocks of an unmap and of a write zeroes.
    unmap_blocks: u64,
    write_zeroes_blocks: u64,
}

impl BdevDesc {
    /// Returns where the bdev layer splits the bdev's I/Os.
    #[must_use]
    pub fn splits(&self) -> Splits {
        // SAFETY: an open bdev stays where it is; these of its properties do not change.
        unsafe {
            let bdev = self.bdev();
            let splits = (*bdev).__bindgen_anon_1.split_on_optimal_io_boundary() != 0;
            let boundary = if splits { (*bdev).optimal_io_boundary } else { 0 };
            Splits {
                blocks: (*bdev).max_rw_size.into(),
                segments: (*bdev).max_num_segments.into(),
                segment_bytes: (*bdev).max_segment_size.into(),
                boundary: boundary.into(),
                unmap_blocks: u64::from((*bdev).max_unmap).saturating_mul((*bdev).max_unmap_segments.into()),
                write_zeroes_blocks: (*bdev).max_write_zeroes.into(),
            }
        }
    }
}

impl Splits {
    /// Returns how many I/Os of the bdev layer's an I/O has in flight at most: its own, and one for each part of it if
    /// it is split. Its data are `bytes` in `pieces`.
    #[must_use]
    #[inline]
    pub fn ios(&self, op: BlockOp, offset: u64, blocks: u64, (pieces, bytes): (u16, u32)) -> u16 {
        let (parts, most) = match op {
            BlockOp::Read | BlockOp::Write => (self.parts(offset, blocks, pieces.into(), bytes.into()), MAX_PARTS),
            BlockOp::Unmap => (over(blocks, self.unmap_blocks) + 1, MAX_WIDE_PARTS),
            BlockOp::WriteZeroes => (over(blocks, self.write_zeroes_blocks) + 1, MAX_WIDE_PARTS),
            BlockOp::Compare | BlockOp::CompareAndWrite(_) | BlockOp::Flush => (1, 1),
        };
        if parts <= 1 { 1 } else { 1 + u16::try_from(parts.min(most)).unwrap_or(u16::MAX - 1) }
    }

    /// Returns into how many parts a read or write is split, or more.
    #[inline]
    fn parts(&self, offset: u64, blocks: u64, pieces: u64, bytes: u64) -> u64 {
        let last = offset.saturating_add(blocks.saturating_sub(1));
        let stripe = |block: u64| block.checked_div(self.boundary).unwrap_or(0);
        let crossed = stripe(last) - stripe(offset);
        let cut = over(bytes, self.segment_bytes);
        // A part ends with a block, which may be in the midst of a piece.
        let gathered = over(pieces.saturating_add(cut), self.segments).saturating_mul(2);
        (over(blocks, self.blocks) + crossed + cut.min(1) + gathered + 1).min(blocks.max(1))
    }
}

/// Returns how often `whole` is cut if no part is larger than `most`.
#[inline]
fn over(whole: u64, most: u64) -> u64 {
    if most == 0 || whole <= most { 0 } else { (whole - 1) / most }
}

impl BdevChannel {
    /// Returns by what this thread knows the I/O device that the bdev's module does its I/O on. Bdevs that share one,
    /// as the namespaces of one pool do, have their trouble in common.
    #[must_use]
    pub fn source(&self) -> usize {
        let bdev = self.0.desc.bdev();
        // SAFETY: the bdev is open, and this thread has a channel to it already, so that it may get another one, which
        // is put back. The device is not followed.
        unsafe {
            let get = (*(*bdev).fn_table).get_io_channel;
            let channel = get.map_or(std::ptr::null_mut(), |get| get((*bdev).ctxt));
            if channel.is_null() {
                return bdev.addr();
            }
            let device = sys::spdk_io_channel_get_io_device(channel).addr();
            sys::spdk_put_io_channel(channel);
            device
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: BlockOp = BlockOp::Read;

    #[test]
    fn an_io_of_a_bdev_without_limits_takes_one() {
        let none = Splits::default();
        for op in [READ, BlockOp::Unmap, BlockOp::WriteZeroes, BlockOp::Flush] {
            assert_eq!(none.ios(op, 5, 65_536, (129, 1 << 25)), 1);
        }
    }

    #[test]
    fn an_io_that_is_split_takes_one_more_than_it_has_parts_and_33_at_most() {
        let small = Splits { blocks: 8, ..Splits::default() };
        let ios = |blocks: u32| small.ios(BlockOp::Write, 3, blocks.into(), (1, blocks * 512));
        assert_eq!([8, 9, 16, 17, 256, 4096].map(ios), [1, 3, 3, 4, 33, 33]);
        let wide = Splits { unmap_blocks: 100, write_zeroes_blocks: 100, ..Splits::default() };
        let ios = |blocks| [BlockOp::Unmap, BlockOp::WriteZeroes].map(|op| wide.ios(op, 0, blocks, (0, 0)));
        assert_eq!([100, 200, 100_000].map(ios), [[1; 2], [3; 2], [9; 2]]);
    }

    #[test]
    fn an_io_that_crosses_a_boundary_is_split_however_small_it_is() {
        let striped = Splits { boundary: 8, ..Splits::default() };
        let ios = |offset, blocks: u32| striped.ios(READ, offset, blocks.into(), (1, blocks * 512));
        assert_eq!([ios(0, 8), ios(7, 1), ios(7, 2), ios(4, 16)], [1, 1, 3, 4]);
    }

    #[test]
    fn an_io_with_more_pieces_than_a_part_may_have_is_split() {
        let few = Splits { segments: 16, ..Splits::default() };
        let ios = |pieces, blocks: u32| few.ios(READ, 0, blocks.into(), (pieces, blocks * 512));
        assert_eq!([ios(16, 256), ios(129, 1)], [1, 1]);
        // Two parts at least, and no more than there are blocks.
        assert!((3..=5).contains(&ios(17, 256)), "{}", ios(17, 256));
        assert!((10..=18).contains(&ios(129, 256)), "{}", ios(129, 256));
        assert_eq!(ios(129, 2), 3);
        let short = Splits { segment_bytes: 4096, ..Splits::default() };
        assert_eq!(short.ios(READ, 0, 16, (2, 8192)), 3);
    }
}
