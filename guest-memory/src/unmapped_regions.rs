//! What went from one table of a guest's memory to the next.

use std::ops::Range;
use std::sync::Arc;

use super::host::to_usize;
use super::region::Region;
use super::table::GuestMemory;

/// Regions that the client has taken away.
#[derive(Debug)]
pub struct UnmappedRegions {
    regions: Vec<Arc<Region>>,
    /// Where they are in host memory, each with its index, by first address. Some may be over others.
    host: Vec<(Range<usize>, usize)>,
    /// The length of the longest of these ranges.
    longest: usize,
}

impl UnmappedRegions {
    /// Returns what `newer` does not have any more of what `older` had.
    #[must_use]
    pub fn between(older: &GuestMemory, newer: &GuestMemory) -> Self {
        let regions = older.regions_missing_in(newer);
        let place = |(index, region): (usize, &Arc<Region>)| {
            let start = region.host()?.0.addr().get();
            // A mapping, which does not reach the end of the address space.
            Some((start..start + to_usize(region.len()), index))
        };
        let mut host: Vec<_> = regions.iter().enumerate().filter_map(place).collect();
        host.sort_unstable_by_key(|(range, _)| range.start);
        let longest = host.iter().map(|(range, _)| range.len()).max().unwrap_or(0);
        Self { regions, host, longest }
    }

    /// Returns whether nothing went: regions may have come.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.regions.is_empty()
    }

    /// Returns whether `intersects` holds for the guest addresses of any region that went.
    pub fn any(&self, mut intersects: impl FnMut(&Range<u64>) -> bool) -> bool {
        self.regions.iter().any(|region| intersects(&(region.gpa()..region.end())))
    }

    /// Returns the regions that a piece of host memory may lie in.
    pub(super) fn touched_by(&self, piece: &libc::iovec) -> impl Iterator<Item = &Arc<Region>> {
        let start = piece.iov_base.addr();
        let end = start.saturating_add(piece.iov_len);
        let behind = self.host.partition_point(|(range, _)| range.start < end);
        let candidates = self.host.get(..behind).unwrap_or_default().iter().rev();
        candidates
            .take_while(move |(range, _)| range.start.saturating_add(self.longest) > start)
            .filter(move |(range, _)| range.end > start)
            .filter_map(|(_, index)| self.regions.get(*index))
    }
}
