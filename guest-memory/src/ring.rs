//! Submission and completion queues in guest memory (NVM Express Base Specification 2.0, sections 3.3.1 and 4.2).
//!
//! A queue is contiguous for the guest. It is so for us too if it lies in one region; if not, each entry is looked up
//! by itself: regions are made of whole pages, so that no entry lies in two.
#![expect(unsafe_code, reason = "entries are read and written in guest memory")]

use std::fmt;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::error::Fault;
use super::guard;
use super::host::{HostPtr, PAGE};
use super::order;
use super::region::Region;
use super::view::MemView;
use nvme_spec::{Cqe, Sqe};

/// Entries of `SIZE` bytes, a power of two from 8 to 4096.
struct Ring<const SIZE: usize> {
    base: u64,
    entries: u16,
    place: RingMemory,
}

enum RingMemory {
    /// All in this region, from this address.
    Direct { start: HostPtr, _region: Arc<Region> },
    /// In these regions: only they are held, so that others can be unmapped.
    Scattered(Box<MemView>),
}

impl<const SIZE: usize> Ring<SIZE> {
    fn resolve(view: &MemView, base: u64, entries: u16, write: bool) -> Result<Self, Fault> {
        const { assert!(SIZE.is_power_of_two() && SIZE >= size_of::<u64>() && SIZE as u64 <= PAGE) };
        if !base.is_multiple_of(PAGE) {
            return Err(Fault::Unaligned);
        }
        let len = u64::from(entries) * SIZE as u64;
        let piece = view.translate(base, len, write)?;
        let place = if piece.len() as u64 == len {
            let region = view.region_at(base).ok_or(Fault::Unmapped)?;
            RingMemory::Direct { start: HostPtr(piece.ptr()), _region: Arc::clone(region) }
        } else {
            let view = MemView::new(Arc::new(view.memory().part(base, len)?));
            for region in view.memory().regions() {
                view.translate(region.gpa().max(base), SIZE as u64, write)?;
            }
            RingMemory::Scattered(Box::new(view))
        };
        Ok(Self { base, entries, place })
    }

    /// Returns the address of an entry: aligned to 8, valid for `SIZE` bytes while the ring lives, and for writes if
    /// the ring was resolved so and `write` says it again.
    #[inline]
    fn entry(&self, index: u16, write: bool) -> Result<NonNull<u8>, Fault> {
        if index >= self.entries {
            return Err(Fault::NoSuchEntry);
        }
        match &self.place {
            // SAFETY: all `entries` entries of `SIZE` bytes follow the address, in the region that is held.
            RingMemory::Direct { start: HostPtr(start), .. } => Ok(unsafe { start.add(usize::from(index) * SIZE) }),
            RingMemory::Scattered(view) => self.scattered_entry(view, index, write),
        }
    }

    #[cold]
    fn scattered_entry(&self, view: &MemView, index: u16, write: bool) -> Result<NonNull<u8>, Fault> {
        let gpa = self.base + u64::from(index) * SIZE as u64;
        let piece = view.translate(gpa, SIZE as u64, write)?;
        // Regions begin and end at pages: an entry lies in one.
        if piece.len() == SIZE { Ok(piece.ptr()) } else { Err(Fault::Unmapped) }
    }

    #[inline]
    fn prefetch<const WRITE: bool>(&self, index: u16) {
        if let RingMemory::Direct { start: HostPtr(start), .. } = &self.place
            && index < self.entries
        {
            prefetch::<WRITE>(start.as_ptr().wrapping_add(usize::from(index) * SIZE));
        }
    }

    fn range(&self) -> Range<u64> {
        // Within regions, which end below 2^64.
        self.base..self.base + u64::from(self.entries) * SIZE as u64
    }

    fn intersects(&self, range: &Range<u64>) -> bool {
        let own = self.range();
        own.start < range.end && range.start < own.end
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn prefetch<const WRITE: bool>(address: *const u8) {
    use std::arch::x86_64::{_MM_HINT_ET0, _MM_HINT_T0, _mm_prefetch};
    // SAFETY: the instructions take any address, and one that a processor does not have does nothing there.
    unsafe {
        if WRITE {
            _mm_prefetch(address.cast(), _MM_HINT_ET0);
        } else {
            _mm_prefetch(address.cast(), _MM_HINT_T0);
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
#[inline]
fn prefetch<const WRITE: bool>(_address: *const u8) {}

/// A submission queue. It keeps its region from being unmapped.
pub struct SubmissionRing(Ring<{ size_of::<Sqe>() }>);

impl SubmissionRing {
    /// Returns the queue of `entries` entries at guest address `base`, which CAP.MPSMIN and CAP.CQR make a multiple of
    /// 4096.
    ///
    /// # Errors
    /// When a part of it is not the guest's memory, or `base` is unaligned.
    pub fn resolve(view: &MemView, base: u64, entries: u16) -> Result<Self, Fault> {
        Ring::resolve(view, base, entries, false).map(Self)
    }

    /// Returns a copy of an entry, each byte of which is read once.
    ///
    /// # Errors
    /// [`Fault::NoSuchEntry`]; and, in a queue that lies in more than one region, [`Fault::Poisoned`].
    #[inline]
    pub fn read(&self, index: u16) -> Result<Sqe, Fault> {
        let at = self.0.entry(index, false)?;
        // SAFETY: the entry is aligned to 8 and valid for reads of its 64 bytes while the ring lives; others access it
        // as they like, which atomics bear.
        let words =
            order::read_entry(unsafe { at.cast::<[AtomicU64; size_of::<Sqe>() / size_of::<u64>()]>().as_ref() });
        Ok(zerocopy::transmute!(words))
    }

    /// Returns whether an entry that was read is not the guest's, since its page could not be had. It was read as
    /// zeros, and is a command of no namespace.
    #[must_use]
    pub fn is_poisoned(&self, index: u16) -> bool {
        guard::any() && self.0.entry(index, false).is_ok_and(|at| guard::touches(at.addr().get(), size_of::<Sqe>()))
    }

    /// Has the processor fetch an entry that is going to be read.
    #[inline]
    pub fn prefetch(&self, index: u16) {
        self.0.prefetch::<false>(index);
    }

    /// Returns how many entries there are.
    #[must_use]
    #[inline]
    pub(crate) const fn entries(&self) -> u16 {
        self.0.entries
    }

    /// Returns whether any byte of it is in `range` of guest addresses.
    #[must_use]
    pub fn intersects(&self, range: &Range<u64>) -> bool {
        self.0.intersects(range)
    }
}

/// A completion queue. It keeps its region from being unmapped.
pub struct CompletionRing(Ring<{ size_of::<Cqe>() }>);

impl CompletionRing {
    /// Returns the queue of `entries` entries at guest address `base`, which CAP.MPSMIN and CAP.CQR make a multiple of
    /// 4096.
    ///
    /// # Errors
    /// When a part of it is not the guest's memory or must not be written, or `base` is unaligned.
    pub fn resolve(view: &MemView, base: u64, entries: u16) -> Result<Self, Fault> {
        Ring::resolve(view, base, entries, true).map(Self)
    }

    /// Posts an entry; the caller sets the phase tag. The half with the phase tag is written last and released: a guest
    /// that sees the new phase sees the whole entry, and the data of the command.
    ///
    /// # Errors
    /// [`Fault::NoSuchEntry`]; and, in a queue that lies in more than one region, [`Fault::Poisoned`].
    #[inline]
    pub fn post(&self, index: u16, cqe: Cqe) -> Result<(), Fault> {
        let at = self.0.entry(index, true)?;
        // SAFETY: the entry is aligned to 8 and valid for writes of its 16 bytes while the ring lives; others access it
        // as they like, which atomics bear.
        order::post_entry(unsafe { at.cast().as_ref() }, zerocopy::transmute!(cqe));
        Ok(())
    }

    /// Has the processor fetch an entry that is going to be written.
    #[inline]
    pub fn prefetch(&self, index: u16) {
        self.0.prefetch::<true>(index);
    }

    /// Returns how many entries there are.
    #[must_use]
    #[inline]
    pub(crate) const fn entries(&self) -> u16 {
        self.0.entries
    }

    /// Returns whether any byte of it is in `range` of guest addresses.
    #[must_use]
    pub fn intersects(&self, range: &Range<u64>) -> bool {
        self.0.intersects(range)
    }
}

impl fmt::Debug for SubmissionRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SubmissionRing({} entries)", self.entries())
    }
}

impl fmt::Debug for CompletionRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CompletionRing({} entries)", self.entries())
    }
}

#[cfg(test)]
mod tests;
