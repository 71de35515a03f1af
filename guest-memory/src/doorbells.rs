//! Doorbells: the page of BAR0 that the client maps, and shadow doorbells in guest memory (NVM Express Base
//! Specification 2.0, sections 3.1.4 and 5.8).
#![expect(unsafe_code, reason = "shared pages are seen as arrays of atomics")]

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use super::error::Fault;
use super::guard;
use super::host::{HostPtr, PAGE, to_usize};
use super::mapping::{Access, Mapping};
use super::memfd;
use super::order::{load_doorbell, store_doorbell};
use super::region::Region;
use super::view::MemView;
use nvme_spec::register::Register;

/// How many doorbells are in a page (CAP.DSTRD = 0).
pub const COUNT: usize = to_usize(PAGE) / size_of::<u32>();

/// Returns the index of a submission queue's tail among the doorbells.
#[must_use]
#[inline]
pub fn tail_index(qid: u16) -> usize {
    usize::from(qid) * 2
}

/// Returns the index of a completion queue's head among the doorbells.
#[must_use]
#[inline]
pub fn head_index(qid: u16) -> usize {
    usize::from(qid) * 2 + 1
}

/// Where the doorbells are in BAR0, and in the file that the client maps.
const OFFSET: u64 = Register::SQ0TDBL.0 as u64;

type Page = [AtomicU32; COUNT];

/// The page of doorbells of one client's session: a file that the client maps, and whose length it cannot change.
/// Doorbell `2 * qid` is the tail of a submission queue, `2 * qid + 1` the head of a completion queue.
pub struct DoorbellPage {
    mapping: Mapping,
    file: Arc<OwnedFd>,
}

impl DoorbellPage {
    /// Returns a page of zeros.
    ///
    /// # Errors
    /// When the operating system has no memory, descriptor or mapping left.
    pub fn new() -> io::Result<Self> {
        let file: File = memfd::create(c"courier-doorbells", OFFSET + PAGE, libc::MFD_ALLOW_SEALING)?;
        // A client that could shrink the file would make an access of ours fault.
        memfd::seal_length(&file)?;
        let mapping = Mapping::new(&file, PAGE, OFFSET, PAGE, Access::ReadWrite)?;
        Ok(Self { mapping, file: Arc::new(file.into()) })
    }

    /// What the client maps: the page lies in the file where it lies in BAR0.
    #[must_use]
    pub fn file(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.file)
    }

    /// Returns the doorbell's value: any value that the client likes. What was written before it is seen after this. 0
    /// for an index that is not in the page.
    #[must_use]
    #[inline]
    pub fn load(&self, index: usize) -> u32 {
        load(self.page(), index)
    }

    /// Sets the doorbell. An index that is not in the page is ignored.
    #[inline]
    pub fn store(&self, index: usize, value: u32) {
        store(self.page(), index, value);
    }

    /// Sets all doorbells to 0, as a controller reset does.
    pub fn clear(&self) {
        for doorbell in self.page() {
            store_doorbell(doorbell, 0);
        }
    }

    /// Reads bytes, for an access that the client did not make through its mapping. What is past the page is 0.
    pub fn read_at(&self, offset: usize, into: &mut [u8]) {
        for (i, byte) in into.iter_mut().enumerate() {
            let at = offset.saturating_add(i);
            let bytes = self.load(at / size_of::<u32>()).to_le_bytes();
            *byte = bytes.get(at % size_of::<u32>()).copied().unwrap_or(0);
        }
    }

    /// Writes bytes, for an access that the client did not make through its mapping. A whole doorbell is written at
    /// once. What is past the page is ignored.
    pub fn write_at(&self, offset: usize, data: &[u8]) {
        let (mut at, mut rest) = (offset, data);
        while !rest.is_empty() {
            let begin = at % size_of::<u32>();
            let (now, later) = rest.split_at(rest.len().min(size_of::<u32>() - begin));
            let Some(doorbell) = self.page().get(at / size_of::<u32>()) else { return };
            // What another writer puts between this load and the store is lost: no two sides write one doorbell.
            let mut bytes = load_doorbell(doorbell).to_le_bytes();
            bytes.iter_mut().skip(begin).zip(now).for_each(|(byte, new)| *byte = *new);
            store_doorbell(doorbell, u32::from_le_bytes(bytes));
            at = at.saturating_add(now.len());
            rest = later;
        }
    }

    #[inline]
    const fn page(&self) -> &Page {
        // SAFETY: the mapping is a page, aligned to pages, that lives as long as `self`; its file cannot shrink. Others
        // access it as integers.
        unsafe { self.mapping.start.0.cast().as_ref() }
    }
}

/// A page of shadow doorbells or of event indices in guest memory (Doorbell Buffer Config). It keeps its region from
/// being unmapped.
///
/// Who stores an event index and then decides by the shadow doorbell whether to wait for a ring needs a sequentially
/// consistent fence in between, as the guest has it between its own two accesses.
pub struct ShadowDoorbells {
    start: HostPtr,
    gpa: u64,
    _region: Arc<Region>,
}

impl ShadowDoorbells {
    /// Returns the page at guest address `gpa`.
    ///
    /// # Errors
    /// When it is not the guest's memory, must not be written, or is unaligned.
    pub fn resolve(view: &MemView, gpa: u64) -> Result<Self, Fault> {
        if !gpa.is_multiple_of(PAGE) {
            return Err(Fault::Unaligned);
        }
        let piece = view.translate(gpa, PAGE, true)?;
        let region = view.region_at(gpa).filter(|_| piece.len() == to_usize(PAGE)).ok_or(Fault::Unmapped)?;
        Ok(Self { start: HostPtr(piece.ptr()), gpa, _region: Arc::clone(region) })
    }

    /// Returns the value at the index of a doorbell: any value that the guest likes. What was written before it is seen
    /// after this. 0 for an index that is not in the page.
    #[must_use]
    #[inline]
    pub fn load(&self, index: usize) -> u32 {
        load(self.page(), index)
    }

    /// Sets the value at the index of a doorbell. An index that is not in the page is ignored.
    #[inline]
    pub fn store(&self, index: usize, value: u32) {
        store(self.page(), index, value);
    }

    /// Returns whether any byte of it is in `range` of guest addresses.
    #[must_use]
    pub const fn intersects(&self, range: &Range<u64>) -> bool {
        // Within a region, which ends below 2^64.
        self.gpa < range.end && range.start < self.gpa + PAGE
    }

    /// Returns whether its page cannot be had: what was read and written is not the guest's.
    #[must_use]
    #[inline]
    pub fn is_poisoned(&self) -> bool {
        guard::is_poisoned(self.start.0.addr().get(), to_usize(PAGE))
    }

    #[inline]
    const fn page(&self) -> &Page {
        // SAFETY: a page, aligned to pages, of a region that `self` holds; reading and writing it is allowed. Others
        // access it as they like, which atomics bear.
        unsafe { self.start.0.cast().as_ref() }
    }
}

#[inline]
fn load(page: &Page, index: usize) -> u32 {
    page.get(index).map_or(0, load_doorbell)
}

#[inline]
fn store(page: &Page, index: usize, value: u32) {
    if let Some(doorbell) = page.get(index) {
        store_doorbell(doorbell, value);
    }
}

impl fmt::Debug for DoorbellPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DoorbellPage").finish_non_exhaustive()
    }
}

impl fmt::Debug for ShadowDoorbells {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ShadowDoorbells({:#x})", self.gpa)
    }
}

#[cfg(test)]
mod tests;
