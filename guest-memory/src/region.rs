//! One region of a client's memory.
#![expect(unsafe_code, reason = "pages are populated")]

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use host_memory::HostMemory;

use super::budget::LimitShare;
use super::error::MapError;
use super::guard;
use super::host::{HostPtr, PAGE, to_usize};
use super::mapping::{Access, MappedFile, Registration};
use super::pages::Pages;

/// So many bytes are populated at once: meanwhile the mapping cannot be changed.
const POPULATE_STEP: usize = 64 << 20;

/// Tells one region from any other that there was in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegionId(u64);

impl RegionId {
    fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

type Notifier = Box<dyn FnOnce(RegionId) + Send>;

/// The part of a file that a region is of, and where the guest has it: not empty, of whole pages, and neither end is
/// beyond 2^64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub(super) offset: u64,
    pub(super) gpa: u64,
    pub(super) len: u64,
    pub(super) access: Access,
}

impl Extent {
    /// `len` bytes at `offset` of a file, as guest addresses from `gpa`.
    ///
    /// # Errors
    /// See [`MapError`]: the range is empty or unaligned, or wraps.
    pub fn new(offset: u64, gpa: u64, len: u64, access: Access) -> Result<Self, MapError> {
        check_range(gpa, len)?;
        check_aligned("offset in its file", offset)?;
        offset.checked_add(len).ok_or(MapError::OffsetWraps { offset, len })?;
        Ok(Self { offset, gpa, len, access })
    }
}

/// One DMA mapping of a client, shared by all that use it. Dropping it unmaps the memory, closes the file, and then
/// calls `on_drop`: from then on nothing of ours touches the client's memory.
pub struct Region {
    id: RegionId,
    gpa: u64,
    len: u64,
    access: Access,
    backing: Backing,
    /// In a mutex only so that the region can be shared: a notifier need not be `Sync`.
    on_drop: Mutex<Option<Notifier>>,
}

/// Where the bytes of a region are.
enum Backing {
    /// With the client.
    None,
    /// In a file of the client's, from this address.
    File { file: Arc<MappedFile>, host: HostPtr },
    /// In pages of ours, which stand in for a part of a region without a file.
    Own { host: HostPtr, _pages: Arc<Pages>, of: Arc<Region> },
}

impl Region {
    /// Maps a part of `file` for a region. `on_drop` is called on the thread that drops the region last, and must
    /// neither block nor panic; it is not called when this fails.
    ///
    /// # Errors
    /// See [`MapError`]: the file, or the operating system.
    pub fn map(file: OwnedFd, of: Extent, on_drop: impl FnOnce(RegionId) + Send + 'static) -> Result<Self, MapError> {
        let file = MappedFile::new(file, of.offset, of.len, of.access, &LimitShare::of_nobody())?;
        Self::within(&file, of, on_drop)
    }

    /// Returns the same of a file of which a part is mapped already.
    ///
    /// # Errors
    /// When it is not in that part.
    pub(super) fn within(
        file: &Arc<MappedFile>,
        of: Extent,
        on_drop: impl FnOnce(RegionId) + Send + 'static,
    ) -> Result<Self, MapError> {
        let Extent { offset, gpa, len, access } = of;
        let host = file.at(offset, len).ok_or(MapError::BeyondFile { offset, len, size: file.end() })?;
        file.note_needed(offset.saturating_add(len));
        let backing = Backing::File { file: Arc::clone(file), host };
        Ok(Self::new(gpa, len, access, backing, Some(Box::new(on_drop))))
    }

    /// Returns a region that came without a file: it is reached by messages to the client only, and never translated
    /// but to pages that [stand in](super::Bounce) for it.
    ///
    /// # Errors
    /// When the range is empty, unaligned, or reaches 2^64.
    pub fn without_file(
        gpa: u64,
        len: u64,
        access: Access,
        on_drop: impl FnOnce(RegionId) + Send + 'static,
    ) -> Result<Self, MapError> {
        check_range(gpa, len)?;
        Ok(Self::new(gpa, len, access, Backing::None, Some(Box::new(on_drop))))
    }

    /// Returns the pages from `offset` bytes into `pages` on, which stand in for `len` bytes at `gpa` of the region
    /// `of`; it is held. `None` if there are not as many.
    pub(super) fn standing_in(of: &Arc<Self>, gpa: u64, len: u64, pages: &Arc<Pages>, offset: u64) -> Option<Self> {
        let host = pages.at(offset, len)?;
        gpa.checked_add(len)?;
        let backing = Backing::Own { host, _pages: Arc::clone(pages), of: Arc::clone(of) };
        Some(Self::new(gpa, len, Access::ReadWrite, backing, None))
    }

    fn new(gpa: u64, len: u64, access: Access, backing: Backing, on_drop: Option<Notifier>) -> Self {
        Self { id: RegionId::next(), gpa, len, access, backing, on_drop: Mutex::new(on_drop) }
    }

    /// Returns what `on_drop` will be told.
    #[must_use]
    pub(crate) const fn id(&self) -> RegionId {
        self.id
    }

    /// Returns the first guest address.
    #[must_use]
    pub const fn gpa(&self) -> u64 {
        self.gpa
    }

    /// Returns the length in bytes: not 0.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a region is never empty")]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Returns the guest address behind the last: below 2^64.
    #[must_use]
    pub(crate) const fn end(&self) -> u64 {
        self.gpa + self.len
    }

    /// Returns what the client lets us do.
    #[must_use]
    pub(crate) const fn access(&self) -> Access {
        self.access
    }

    /// Returns whether it came with a file.
    #[must_use]
    pub const fn has_file(&self) -> bool {
        matches!(self.backing, Backing::File { .. })
    }

    /// Has `register` tell devices of the region's memory, so that they move data of I/Os themselves: until the region
    /// is unmapped, which drops what `register` returns. Regions of one part of a file are told of together, and once.
    /// Without it, and for a region that may only be read, devices that need it (RDMA) refuse I/O there; all else goes
    /// on as before.
    ///
    /// # Errors
    /// What `register` says.
    pub fn register<E>(&self, register: impl FnOnce(Arc<dyn HostMemory>) -> Result<Registration, E>) -> Result<(), E> {
        if let Backing::File { file, .. } = &self.backing { file.register(register) } else { Ok(()) }
    }

    /// Has the system provide the region's pages now, which takes long, instead of when they are first used. Ends early
    /// when nobody else holds the region. A page that is not to be had is left to whoever uses it.
    pub fn populate(self: &Arc<Self>) {
        let Some(HostPtr(start)) = self.host().filter(|_| self.has_file()) else { return };
        let len = to_usize(self.len);
        let advice = if self.access == Access::ReadOnly { libc::MADV_POPULATE_READ } else { libc::MADV_POPULATE_WRITE };
        for at in (0..len).step_by(POPULATE_STEP) {
            // SAFETY: the range is within the region's mapping, which is held; what is in the file does not change.
            let result = unsafe { libc::madvise(start.as_ptr().add(at).cast(), POPULATE_STEP.min(len - at), advice) };
            if result != 0 || Arc::strong_count(self) == 1 {
                return;
            }
        }
    }

    /// Returns the region without a file that pages of ours stand in for here.
    #[must_use]
    pub(crate) const fn stands_in_for(&self) -> Option<&Arc<Self>> {
        if let Backing::Own { of, .. } = &self.backing { Some(of) } else { None }
    }

    /// Returns whether the file still holds the region, but for single pages at most. A region without a file is
    /// intact.
    #[cfg(test)]
    pub(crate) fn is_intact(&self) -> bool {
        if let Backing::File { file, .. } = &self.backing { file.is_intact() } else { true }
    }

    /// Returns whether an access found that a page of the region cannot be had: the file does not hold it any more, or
    /// the memory is broken. It stays so.
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        let len = to_usize(self.len);
        self.has_file() && self.host().is_some_and(|HostPtr(start)| guard::is_poisoned(start.addr().get(), len))
    }

    /// Returns where the region begins in memory.
    pub(super) fn host(&self) -> Option<HostPtr> {
        match &self.backing {
            Backing::None => None,
            Backing::File { host, .. } | Backing::Own { host, .. } => Some(*host),
        }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        self.backing = Backing::None;
        if let Some(on_drop) = self.on_drop.get_mut().ok().and_then(Option::take) {
            on_drop(self.id);
        }
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.backing {
            Backing::None => "without a file",
            Backing::File { .. } => "with a file",
            Backing::Own { .. } => "standing in",
        };
        write!(f, "Region({:#x}..{:#x}, {:?}, {kind})", self.gpa, self.end(), self.access)
    }
}

fn check_range(gpa: u64, len: u64) -> Result<(), MapError> {
    if len == 0 {
        return Err(MapError::Empty { gpa });
    }
    check_aligned("guest address", gpa)?;
    check_aligned("length", len)?;
    gpa.checked_add(len).map(|_| ()).ok_or(MapError::AddressWraps { gpa, len })
}

fn check_aligned(what: &'static str, value: u64) -> Result<(), MapError> {
    if value.is_multiple_of(PAGE) { Ok(()) } else { Err(MapError::Unaligned { what, value }) }
}

#[cfg(test)]
mod tests;
