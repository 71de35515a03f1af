//! The regions of one guest as a sorted table that never changes.
#![expect(unsafe_code, reason = "guest memory is copied")]

use std::cell::Cell;
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;

use super::bytes;
use super::error::{Fault, MapError, UnmapError};
use super::guard;
use super::host::{HostPtr, to_usize};
use super::mapping::Access;
use super::region::Region;

/// Regions in a part of the table, at most: a table that differs in one region shares all other parts with the one
/// before.
const PART: usize = if cfg!(test) { 4 } else { 512 };

/// A contiguous range of host memory that is the guest's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostPiece {
    ptr: NonNull<u8>,
    len: usize,
}

impl HostPiece {
    /// Returns the first address. It may be followed, as memory that others write at any time, while a [`GuestMemory`]
    /// with the region is held; beyond reading only if the piece was translated for writing.
    #[must_use]
    #[inline]
    pub(crate) const fn ptr(self) -> NonNull<u8> {
        self.ptr
    }

    /// Returns the length in bytes: at least 1, unless none was asked for.
    #[must_use]
    #[inline]
    pub(crate) const fn len(self) -> usize {
        self.len
    }

    /// Returns whether a byte of it is not the guest's memory. To be asked after it was accessed.
    #[inline]
    fn is_poisoned(self) -> bool {
        guard::is_poisoned(self.ptr.addr().get(), self.len)
    }
}

/// What a translation needs of a region.
#[derive(Clone, Copy)]
struct RegionRange {
    gpa: u64,
    /// In bytes.
    len: u64,
    /// `None` for a region without a file.
    host: Option<HostPtr>,
    writeable: bool,
}

impl RegionRange {
    const NOWHERE: Self = Self { gpa: 0, len: 0, host: None, writeable: false };

    #[inline]
    const fn has(&self, gpa: u64) -> bool {
        gpa.wrapping_sub(self.gpa) < self.len
    }

    /// Returns the part of `len` bytes at `gpa`, which the region has.
    #[inline]
    fn piece(&self, gpa: u64, len: u64, write: bool) -> Result<HostPiece, Fault> {
        let HostPtr(host) = self.host.ok_or(Fault::NoFile)?;
        if write && !self.writeable {
            return Err(Fault::ReadOnly);
        }
        let offset = gpa.wrapping_sub(self.gpa);
        if offset >= self.len {
            return Err(Fault::Unmapped);
        }
        // SAFETY: the region's `len` bytes from `host` are one mapping, which the table holds; `offset` is within.
        let ptr = unsafe { host.add(to_usize(offset)) };
        let piece = HostPiece { ptr, len: to_usize(len.min(self.len - offset)) };
        if piece.is_poisoned() { Err(Fault::Poisoned) } else { Ok(piece) }
    }
}

/// Where the last address was found in one table: the next look-up in the same region does not depend on how many there
/// are. It may be used with that table only.
#[derive(Clone)]
pub(super) struct Hint(Cell<RegionRange>);

impl Default for Hint {
    fn default() -> Self {
        Self(Cell::new(RegionRange::NOWHERE))
    }
}

impl Hint {
    /// Returns the guest address of the region where the last address was found.
    #[inline]
    pub(super) const fn region(&self) -> u64 {
        self.0.get().gpa
    }
}

impl fmt::Debug for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hint({:#x})", self.region())
    }
}

#[derive(Clone)]
struct TableEntry {
    place: RegionRange,
    region: Arc<Region>,
}

impl TableEntry {
    fn new(region: Arc<Region>) -> Self {
        let writeable = region.access() != Access::ReadOnly;
        Self { place: RegionRange { gpa: region.gpa(), len: region.len(), host: region.host(), writeable }, region }
    }
}

/// Neighbours in the table, at least one.
#[derive(Clone)]
struct Part {
    /// The first address of the first region.
    first: u64,
    slots: Arc<[TableEntry]>,
}

/// The memory of one guest at one moment: regions sorted by address, none over another. A change makes a new table,
/// which shares most of itself with the old one; who still uses an old one holds its regions.
#[derive(Clone, Default)]
pub struct GuestMemory {
    parts: Vec<Part>,
    len: usize,
    bytes: u64,
    /// Pages of ours stand in for some of the regions.
    stands_in: bool,
}

impl GuestMemory {
    /// The most regions that a client may have: what the protocol has a client take for granted. With an IOMMU in the
    /// guest, a region may be a page.
    pub(crate) const MAX_REGIONS: usize = 65535;

    /// The most bytes that a client's regions may have together: 16 TiB of the 128 TiB of a process, so that a client
    /// with sparse files does not use up the addresses of all.
    pub(crate) const MAX_BYTES: u64 = 1 << 44;

    /// Returns a guest without memory.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// These regions, none of which is over another.
    pub(super) fn of(mut regions: Vec<Arc<Region>>) -> Self {
        regions.sort_unstable_by_key(|region| region.gpa());
        let mut memory = Self::new();
        memory.stands_in = regions.iter().any(|region| region.stands_in_for().is_some());
        memory.len = regions.len();
        memory.bytes = regions.iter().fold(0, |bytes, region| bytes.saturating_add(region.len()));
        let slots: Vec<TableEntry> = regions.into_iter().map(TableEntry::new).collect();
        memory.push(&slots);
        memory
    }

    /// Adds slots behind the last, in parts.
    fn push(&mut self, slots: &[TableEntry]) {
        let parts = slots.len().div_ceil(PART).max(1);
        for slots in slots.chunks(slots.len().div_ceil(parts).max(1)) {
            let first = slots.first().map_or(0, |slot| slot.place.gpa);
            self.parts.push(Part { first, slots: slots.into() });
        }
    }

    /// Returns the index of the last part that begins at or below `gpa`, or of the first one.
    fn part_of(&self, gpa: u64) -> usize {
        self.parts.partition_point(|part| part.first <= gpa).saturating_sub(1)
    }

    /// Returns the same memory with one region more. A refused region is dropped, and its notifier called, if nobody
    /// else holds it.
    ///
    /// # Errors
    /// When the region overlaps one that there is (be it the same), or there are too many or too large ones.
    pub fn with(&self, region: Arc<Region>) -> Result<Self, MapError> {
        if self.len >= Self::MAX_REGIONS {
            return Err(MapError::TooMany { limit: Self::MAX_REGIONS });
        }
        let total = self.bytes.saturating_add(region.len());
        if total > Self::MAX_BYTES {
            return Err(MapError::TooLarge { total, limit: Self::MAX_BYTES });
        }
        let at = self.part_of(region.gpa());
        let slots = self.parts.get(at).map_or(&[][..], |part| &*part.slots);
        let place = slots.partition_point(|slot| slot.region.end() <= region.gpa());
        let behind = slots.get(place).or_else(|| self.parts.get(at + 1)?.slots.first());
        if let Some(other) = behind.filter(|other| other.place.gpa < region.end()) {
            let (other_gpa, other_end) = (other.place.gpa, other.region.end());
            return Err(MapError::Overlap { gpa: region.gpa(), end: region.end(), other_gpa, other_end });
        }
        let mut slots = slots.to_vec();
        slots.insert(place, TableEntry::new(region));
        let mut memory =
            Self { parts: Vec::with_capacity(self.parts.len() + 1), len: self.len + 1, bytes: total, ..*self };
        memory.parts.extend_from_slice(self.parts.get(..at).unwrap_or_default());
        memory.push(&slots);
        memory.parts.extend_from_slice(self.parts.get(at + 1..).unwrap_or_default());
        Ok(memory)
    }

    /// Returns the same memory without the regions in the `len` bytes at `gpa`, and those regions: there may be none.
    ///
    /// # Errors
    /// When the range reaches 2^64, or cuts a region.
    pub fn without(&self, gpa: u64, len: u64) -> Result<(Self, Vec<Arc<Region>>), UnmapError> {
        let end = match gpa.overflowing_add(len) {
            (end, false) => end,
            // All the rest of the addresses, as a guest's IOMMU has it: no region reaches so far.
            (0, true) => u64::MAX,
            _ => return Err(UnmapError::AddressWraps { gpa, len }),
        };
        let first = self.part_of(gpa);
        let behind = self.parts.partition_point(|part| part.first < end).max(first);
        let (before, rest) = self.parts.split_at(first);
        let (touched, after) = rest.split_at(behind - first);
        let is_in = |slot: &&TableEntry| slot.region.end() > gpa && slot.place.gpa < end;
        let slots = || touched.iter().flat_map(|part| &*part.slots);
        let taken: Vec<_> = slots().filter(is_in).collect();
        if let Some(cut) = taken.iter().find(|slot| slot.place.gpa < gpa || slot.region.end() > end) {
            let (region_gpa, region_end) = (cut.place.gpa, cut.region.end());
            return Err(UnmapError::Partial { gpa, end, region_gpa, region_end });
        }
        if taken.is_empty() {
            return Ok((self.clone(), Vec::new()));
        }
        let taken: Vec<_> = taken.into_iter().map(|slot| Arc::clone(&slot.region)).collect();
        let mut left = Self {
            parts: before.to_vec(),
            len: self.len - taken.len(),
            bytes: taken.iter().fold(self.bytes, |bytes, region| bytes.saturating_sub(region.len())),
            ..*self
        };
        let mut kept: Vec<TableEntry> = slots().filter(|slot| !is_in(slot)).cloned().collect();
        // What is left of parts becomes one with the part before, so that there are not ever more of them.
        if let Some(last) = left.parts.pop_if(|part| part.slots.len() + kept.len() <= PART / 2) {
            kept.splice(0..0, last.slots.iter().cloned());
        }
        left.push(&kept);
        left.parts.extend_from_slice(after);
        Ok((left, taken))
    }

    /// Returns a guest without memory, and the regions that this one had.
    #[must_use]
    pub fn without_all(&self) -> (Self, Vec<Arc<Region>>) {
        (Self::default(), self.regions().cloned().collect())
    }

    /// Returns the regions of this memory that are not in `newer` any more, by address. What both share costs nothing.
    pub(super) fn regions_missing_in(&self, newer: &Self) -> Vec<Arc<Region>> {
        let (mut old, mut new) = (Walk::over(&self.parts), Walk::over(&newer.parts));
        let mut gone = Vec::new();
        loop {
            Walk::skip_shared(&mut old, &mut new);
            let Some(slot) = old.slot() else { return gone };
            let gpa = slot.place.gpa;
            match new.slot() {
                Some(other) if other.place.gpa < gpa => new.step(),
                Some(other) if other.region.id() == slot.region.id() => {
                    old.step();
                    new.step();
                }
                _ => {
                    gone.push(Arc::clone(&slot.region));
                    old.step();
                }
            }
        }
    }

    /// Returns the regions, by address.
    pub fn regions(&self) -> impl Iterator<Item = &Arc<Region>> {
        self.parts.iter().flat_map(|part| &*part.slots).map(|slot| &slot.region)
    }

    /// Returns how many regions there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Returns whether there is no region.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns how many bytes the regions have together.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the region that has `gpa`.
    #[must_use]
    pub fn region_at(&self, gpa: u64) -> Option<&Arc<Region>> {
        self.slot(gpa).map(|slot| &slot.region)
    }

    /// Returns whether pages of ours stand in for some of the regions.
    pub(super) const fn stands_in(&self) -> bool {
        self.stands_in
    }

    /// For memory in which pages stand in for regions: whether all that it was made of is still in `newest`.
    #[must_use]
    pub fn still_bounces(&self, newest: &Self) -> bool {
        let is_there = |region: &Arc<Region>| {
            let of = region.stands_in_for().unwrap_or(region);
            newest.region_at(of.gpa()).is_some_and(|now| now.id() == of.id())
        };
        self.stands_in && self.regions().all(is_there)
    }

    /// Only the regions that the `len` bytes at `gpa` touch: who holds this does not keep the others.
    ///
    /// # Errors
    /// When there are bytes in the range that no region has.
    pub(super) fn part(&self, gpa: u64, len: u64) -> Result<Self, Fault> {
        let end = gpa.checked_add(len).ok_or(Fault::Unmapped)?;
        let (mut regions, mut at) = (Vec::new(), gpa);
        while at < end {
            let region = self.region_at(at).ok_or(Fault::Unmapped)?;
            at = region.end();
            regions.push(Arc::clone(region));
        }
        Ok(Self::of(regions))
    }

    /// The host memory of the longest part of the `len` bytes at `gpa` that begins there and is in one region. `hint`
    /// was used with this memory only.
    ///
    /// # Errors
    /// When the first byte is in no region, or in one that cannot be used so.
    #[inline]
    pub(super) fn translate(&self, hint: &Hint, gpa: u64, len: u64, write: bool) -> Result<HostPiece, Fault> {
        if !hint.0.get().has(gpa) {
            self.search(hint, gpa)?;
        }
        hint.0.get().piece(gpa, len, write)
    }

    fn search(&self, hint: &Hint, gpa: u64) -> Result<(), Fault> {
        hint.0.set(self.slot(gpa).ok_or(Fault::Unmapped)?.place);
        Ok(())
    }

    #[inline]
    fn slot(&self, gpa: u64) -> Option<&TableEntry> {
        // A guest without an IOMMU has one part.
        let part = if let [part] = &*self.parts { part } else { self.parts.get(self.part_of(gpa))? };
        let slots = &*part.slots;
        let behind = slots.partition_point(|slot| slot.place.gpa <= gpa);
        slots.get(behind.checked_sub(1)?).filter(|slot| slot.place.has(gpa))
    }

    /// Fills `into` from `gpa`, across regions.
    ///
    /// # Errors
    /// When a byte of the range cannot be read. What is in `into` is then of no use.
    pub(super) fn read(&self, hint: &Hint, gpa: u64, into: &mut [u8]) -> Result<(), Fault> {
        let (mut gpa, mut rest) = (gpa, into);
        while !rest.is_empty() {
            let piece = self.translate(hint, gpa, rest.len() as u64, false)?;
            let (now, later) = rest.split_at_mut_checked(piece.len).ok_or(Fault::Unmapped)?;
            // SAFETY: the piece is `now.len()` bytes of a region that this table holds.
            unsafe { bytes::load(piece.ptr, now) };
            if piece.is_poisoned() {
                return Err(Fault::Poisoned);
            }
            // No region reaches 2^64.
            gpa = gpa.wrapping_add(piece.len as u64);
            rest = later;
        }
        Ok(())
    }

    /// Writes `data` to `gpa`, across regions.
    ///
    /// # Errors
    /// When a byte of the range cannot be written. Those before it may have been.
    pub(super) fn write(&self, hint: &Hint, gpa: u64, data: &[u8]) -> Result<(), Fault> {
        let (mut gpa, mut rest) = (gpa, data);
        while !rest.is_empty() {
            let piece = self.translate(hint, gpa, rest.len() as u64, true)?;
            let (now, later) = rest.split_at_checked(piece.len).ok_or(Fault::Unmapped)?;
            // SAFETY: the piece is `now.len()` bytes of a region that this table holds, and may be written.
            unsafe { bytes::store(piece.ptr, now) };
            if piece.is_poisoned() {
                return Err(Fault::Poisoned);
            }
            gpa = gpa.wrapping_add(piece.len as u64);
            rest = later;
        }
        Ok(())
    }
}

/// A walk over the slots of a table.
#[derive(Clone, Copy)]
struct Walk<'a> {
    parts: &'a [Part],
    slot: usize,
}

impl<'a> Walk<'a> {
    const fn over(parts: &'a [Part]) -> Self {
        Self { parts, slot: 0 }
    }

    fn slot(&self) -> Option<&'a TableEntry> {
        self.parts.first()?.slots.get(self.slot)
    }

    fn step(&mut self) {
        self.slot += 1;
        if self.parts.first().is_some_and(|part| self.slot >= part.slots.len()) {
            self.next_part();
        }
    }

    fn next_part(&mut self) {
        self.parts = self.parts.get(1..).unwrap_or_default();
        self.slot = 0;
    }

    /// Steps over the parts that both tables share from here on.
    fn skip_shared(old: &mut Self, new: &mut Self) {
        while old.slot == 0
            && new.slot == 0
            && let (Some(one), Some(other)) = (old.parts.first(), new.parts.first())
            && Arc::ptr_eq(&one.slots, &other.slots)
        {
            old.next_part();
            new.next_part();
        }
    }
}

impl fmt::Debug for GuestMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.regions()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(gpa: u64) -> Arc<Region> {
        Arc::new(Region::without_file(gpa, 4096, Access::ReadWrite, |_| {}).expect("a region"))
    }

    #[test]
    fn a_change_makes_anew_what_is_near_it_and_shares_the_rest() {
        let memory = GuestMemory::of((0..1000).map(|i| region(2 * i * 4096)).collect());
        let added = memory.with(region(1001 * 4096)).expect("room");
        let (left, _) = added.without(500 * 4096, 4096).expect("a region");
        for (older, newer) in [(&memory, &added), (&added, &left)] {
            let is_shared = |part: &&Part| older.parts.iter().any(|other| Arc::ptr_eq(&other.slots, &part.slots));
            assert!(newer.parts.iter().filter(is_shared).count() >= older.parts.len() - 2);
        }
    }
}
