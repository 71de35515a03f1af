//! The regions of one guest as a sorted table that never changes.
#![expect(unsafe_code, reason = "guest memory is copied")]

use std::cell::Cell;
use std::fmt;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

use super::bytes;
use super::error::{Fault, MapError, UnmapError};
use super::guard;
use super::region::{Access, HostPtr, Region, to_usize};

/// A contiguous range of host memory that is the guest's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostPiece {
    ptr: NonNull<u8>,
    len: usize,
}

impl HostPiece {
    /// The first address. It may be followed, as memory that others write at any time, while a [`GuestMemory`] with the
    /// region is held; beyond reading only if the piece was translated for writing.
    #[must_use]
    #[inline]
    pub const fn ptr(self) -> NonNull<u8> {
        self.ptr
    }

    /// The length in bytes: at least 1, unless none was asked for.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "nobody asks for an empty piece")]
    #[inline]
    pub const fn len(self) -> usize {
        self.len
    }

    /// Whether a byte of it is not the guest's memory. To be asked after it was accessed.
    #[inline]
    fn is_poisoned(self) -> bool {
        guard::is_poisoned(self.ptr.addr().get(), self.len)
    }
}

/// A region with what a translation needs of it in one place.
#[derive(Clone)]
struct Slot {
    gpa: u64,
    /// In bytes.
    len: u64,
    /// `None` for a region without a file.
    host: Option<HostPtr>,
    writeable: bool,
    region: Arc<Region>,
}

impl Slot {
    fn new(region: Arc<Region>) -> Self {
        let writeable = region.access() != Access::ReadOnly;
        Self { gpa: region.gpa(), len: region.len(), host: region.host(), writeable, region }
    }

    #[inline]
    const fn has(&self, gpa: u64) -> bool {
        gpa.wrapping_sub(self.gpa) < self.len
    }

    /// The part of `len` bytes at `gpa`, which the slot has.
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
        // SAFETY: the region's `len` bytes from `host` are one mapping, which `self.region` holds; `offset` is within.
        let ptr = unsafe { host.add(to_usize(offset)) };
        let piece = HostPiece { ptr, len: to_usize(len.min(self.len - offset)) };
        if piece.is_poisoned() { Err(Fault::Poisoned) } else { Ok(piece) }
    }
}

/// The memory of one guest at one moment: regions sorted by address, none over another. A change makes a new table; who
/// still uses an old one holds its regions.
#[derive(Clone, Default)]
pub struct GuestMemory {
    slots: Box<[Slot]>,
}

impl GuestMemory {
    /// The most regions that a client may have. With a huge page as the smallest that is sensible, 8 GiB.
    pub const MAX_REGIONS: usize = 4096;

    /// The most bytes that a client's regions may have together: 16 TiB of the 128 TiB of a process, so that a client
    /// with sparse files does not use up the addresses of all.
    pub const MAX_BYTES: u64 = 1 << 44;

    /// A guest without memory.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// These regions, none of which is over another.
    pub(super) fn of(mut regions: Vec<Arc<Region>>) -> Self {
        regions.sort_unstable_by_key(|region| region.gpa());
        Self { slots: regions.into_iter().map(Slot::new).collect() }
    }

    /// The same memory with one region more. A refused region is dropped, and its notifier called, if nobody else holds
    /// it.
    ///
    /// # Errors
    /// When the region overlaps one that there is (be it the same), or there are too many or too large ones.
    pub fn with(&self, region: Arc<Region>) -> Result<Self, MapError> {
        if self.slots.len() >= Self::MAX_REGIONS {
            return Err(MapError::TooMany { limit: Self::MAX_REGIONS });
        }
        let total = self.bytes().saturating_add(region.len());
        if total > Self::MAX_BYTES {
            return Err(MapError::TooLarge { total, limit: Self::MAX_BYTES });
        }
        let place = self.slots.partition_point(|slot| slot.region.end() <= region.gpa());
        let (before, after) = self.slots.split_at(place);
        if let Some(other) = after.first().filter(|other| other.gpa < region.end()) {
            return Err(MapError::Overlap {
                gpa: region.gpa(),
                end: region.end(),
                other_gpa: other.gpa,
                other_end: other.region.end(),
            });
        }
        let slots = before.iter().cloned().chain([Slot::new(region)]).chain(after.iter().cloned());
        Ok(Self { slots: slots.collect() })
    }

    /// The same memory without the regions in the `len` bytes at `gpa`, and those regions.
    ///
    /// # Errors
    /// When the range reaches 2^64, cuts a region, or has none in it.
    pub fn without(&self, gpa: u64, len: u64) -> Result<(Self, Vec<Arc<Region>>), UnmapError> {
        let end = match gpa.overflowing_add(len) {
            (end, false) => end,
            // All the rest of the addresses, as a guest's IOMMU has it: no region reaches so far.
            (0, true) => u64::MAX,
            _ => return Err(UnmapError::AddressWraps { gpa, len }),
        };
        let first = self.slots.partition_point(|slot| slot.region.end() <= gpa);
        let behind = self.slots.partition_point(|slot| slot.gpa < end).max(first);
        let (before, rest) = self.slots.split_at(first);
        let (taken, after) = rest.split_at(behind - first);
        if let Some(cut) = taken.iter().find(|slot| slot.gpa < gpa || slot.region.end() > end) {
            let (region_gpa, region_end) = (cut.gpa, cut.region.end());
            return Err(UnmapError::Partial { gpa, end, region_gpa, region_end });
        }
        if taken.is_empty() {
            return Err(UnmapError::NotMapped { gpa, len });
        }
        let left = Self { slots: before.iter().chain(after).cloned().collect() };
        Ok((left, taken.iter().map(|slot| Arc::clone(&slot.region)).collect()))
    }

    /// A guest without memory, and the regions that this one had.
    #[must_use]
    pub fn without_all(&self) -> (Self, Vec<Arc<Region>>) {
        (Self::default(), self.regions().cloned().collect())
    }

    /// The regions, by address.
    pub fn regions(&self) -> impl Iterator<Item = &Arc<Region>> {
        self.slots.iter().map(|slot| &slot.region)
    }

    /// How many regions there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is no region.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// How many bytes the regions have together.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.slots.iter().fold(0, |bytes, slot| bytes.saturating_add(slot.len))
    }

    /// The region that has `gpa`.
    #[must_use]
    pub fn region_at(&self, gpa: u64) -> Option<&Arc<Region>> {
        self.slot(&Cell::new(0), gpa).ok().map(|slot| &slot.region)
    }

    /// For memory in which pages stand in for regions: whether all that it was made of is still in `newest`.
    #[must_use]
    pub fn still_bounces(&self, newest: &Self) -> bool {
        let mut stands_in = false;
        let mut is_there = |region: &Arc<Region>| {
            let of = region.stands_in_for().inspect(|_| stands_in = true).unwrap_or(region);
            newest.region_at(of.gpa()).is_some_and(|now| now.id() == of.id())
        };
        self.regions().all(&mut is_there) && stands_in
    }

    /// Only the regions that the `len` bytes at `gpa` touch: who holds this does not keep the others.
    ///
    /// # Errors
    /// When there are bytes in the range that no region has.
    pub(super) fn part(&self, gpa: u64, len: u64) -> Result<Self, Fault> {
        let end = gpa.checked_add(len).ok_or(Fault::Unmapped)?;
        let (mut slots, mut at) = (Vec::new(), gpa);
        while at < end {
            let slot = self.slot(&Cell::new(0), at)?;
            slots.push(slot.clone());
            at = slot.region.end();
        }
        Ok(Self { slots: slots.into() })
    }

    /// Where the regions are in host memory.
    pub(super) fn host_ranges(&self) -> HostRanges {
        let range = |slot: &Slot| {
            let start = slot.host?.0.addr().get();
            // A mapping, which does not reach the end of the address space.
            Some(start..start + to_usize(slot.len))
        };
        let mut ranges: Vec<_> = self.slots.iter().filter_map(range).collect();
        ranges.sort_unstable_by_key(|range| range.start);
        ranges.dedup_by(|next, last| {
            let joins = last.end == next.start;
            if joins {
                last.end = next.end;
            }
            joins
        });
        HostRanges(ranges)
    }

    /// The host memory of the longest part of the `len` bytes at `gpa` that begins there and is in one region. `hint`
    /// is any number to begin with; it makes the next look-up in the same region independent of how many there are.
    ///
    /// # Errors
    /// When the first byte is in no region, or in one that cannot be used so.
    #[inline]
    pub fn translate(&self, hint: &Cell<u32>, gpa: u64, len: u64, write: bool) -> Result<HostPiece, Fault> {
        self.slot(hint, gpa)?.piece(gpa, len, write)
    }

    #[inline]
    fn slot(&self, hint: &Cell<u32>, gpa: u64) -> Result<&Slot, Fault> {
        match self.slots.get(hint.get() as usize) {
            Some(slot) if slot.has(gpa) => Ok(slot),
            _ => self.search(hint, gpa),
        }
    }

    fn search(&self, hint: &Cell<u32>, gpa: u64) -> Result<&Slot, Fault> {
        let behind = self.slots.partition_point(|slot| slot.gpa <= gpa);
        let index = behind.checked_sub(1).ok_or(Fault::Unmapped)?;
        let slot = self.slots.get(index).filter(|slot| slot.has(gpa)).ok_or(Fault::Unmapped)?;
        hint.set(u32::try_from(index).unwrap_or(0));
        Ok(slot)
    }

    /// Fills `into` from `gpa`, across regions.
    ///
    /// # Errors
    /// When a byte of the range cannot be read. What is in `into` is then of no use.
    pub fn read(&self, hint: &Cell<u32>, gpa: u64, into: &mut [u8]) -> Result<(), Fault> {
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
    pub fn write(&self, hint: &Cell<u32>, gpa: u64, data: &[u8]) -> Result<(), Fault> {
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

/// The host memory of a table's regions, sorted; those that touch are one, since a piece of data may reach from one into the next.
pub(super) struct HostRanges(Vec<Range<usize>>);

impl HostRanges {
    /// Whether all of a piece is in regions of the table: who holds the table then keeps the piece mapped.
    pub(super) fn hold(&self, piece: &libc::iovec) -> bool {
        let begin = piece.iov_base.addr();
        let behind = self.0.partition_point(|range| range.start <= begin);
        let range = behind.checked_sub(1).and_then(|last| self.0.get(last));
        range.zip(begin.checked_add(piece.iov_len)).is_some_and(|(range, end)| end <= range.end)
    }
}

impl fmt::Debug for GuestMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.regions()).finish()
    }
}
