//! One region of a client's memory.
#![expect(unsafe_code, reason = "files are mapped")]

use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::bounce::Pages;
use super::budget::{LimitPermit, LimitShare};
use super::error::MapError;
use super::guard::{self, Watch};

#[cfg(feature = "runtime")]
mod devices;

/// What the addresses and lengths of regions are multiples of, in bytes.
pub const PAGE: u64 = 4096;

/// So many bytes are unmapped at once: in the meantime no thread of the process can map anything.
const UNMAP_STEP: usize = 1 << 30;

/// So many bytes are populated at once: meanwhile the mapping cannot be changed.
const POPULATE_STEP: usize = 64 << 20;

/// The type of ramfs, which libc does not name (`linux/magic.h`).
const RAMFS_MAGIC: u64 = 0x8584_58f6;

/// What the client lets us do with a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read and write.
    ReadWrite,
    /// Only read.
    ReadOnly,
    /// Only write. No processor can be held to that: such memory is mapped as [`Access::ReadWrite`] is.
    WriteOnly,
}

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

/// The part of a file that a region is of, and where the guest has it: not empty, of whole pages, and neither end is beyond 2^64.
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

/// A part of a client's file that is mapped, for one region or for many. It is unmapped when the last of them goes.
///
/// The order of the fields is that of their drops: devices and the guard must forget the addresses before they can be another
/// mapping's.
pub struct MappedFile {
    #[cfg(feature = "runtime")]
    registration: std::sync::OnceLock<spdk::memory::Registration>,
    watch: Watch,
    _mapping: Mapping,
    /// The file, unless it can never become shorter: descriptors are few.
    file: Option<OwnedFd>,
    /// Where the part begins in memory and in the file, and its length in bytes.
    host: HostPtr,
    offset: u64,
    len: u64,
    /// Where the last of its regions ends in the file.
    needed: AtomicU64,
    _permit: LimitPermit,
}

impl MappedFile {
    /// Maps `len` bytes at `offset` of `file`. `budget` is the client's of such mappings.
    ///
    /// # Errors
    /// See [`MapError`]: the file, the operating system, or the budget.
    pub(super) fn new(
        file: OwnedFd,
        offset: u64,
        len: u64,
        access: Access,
        budget: &LimitShare,
    ) -> Result<Arc<Self>, MapError> {
        let end = offset.checked_add(len).ok_or(MapError::OffsetWraps { offset, len })?;
        let size = file_size(&file)?;
        if end > size {
            return Err(MapError::BeyondFile { offset, len, size });
        }
        let page = page_size(&file)?;
        guard::install().map_err(MapError::Guard)?;
        let permit = budget.take().ok_or(MapError::NoMappings)?;
        // Huge pages are mapped whole; a region may begin and end anywhere in them, as QEMU's do below 1 MiB. Nothing
        // here overflows: the file ends below 2^63.
        let before = offset % page;
        let whole = (before + len).next_multiple_of(page);
        let mapping = Mapping::new(&file, page, offset - before, whole, access).map_err(|source| MapError::Mmap {
            offset,
            len,
            source,
        })?;
        // SAFETY: `before` is below the mapping's length.
        let host = HostPtr(unsafe { mapping.start.0.add(to_usize(before)) });
        let sealed = is_sealed(&file);
        let may_shrink = (!sealed).then(|| (file.as_raw_fd(), offset - before));
        let watch = Watch::new(mapping.start.0.addr().get(), mapping.len, to_usize(page), may_shrink);
        Ok(Arc::new(Self {
            #[cfg(feature = "runtime")]
            registration: std::sync::OnceLock::new(),
            watch,
            _mapping: mapping,
            file: (!sealed).then_some(file),
            host,
            offset,
            len,
            needed: AtomicU64::new(0),
            _permit: permit,
        }))
    }

    /// Where `len` bytes at `offset` of the file are, if all of them are in the part.
    fn at(&self, offset: u64, len: u64) -> Option<HostPtr> {
        let within = offset.checked_sub(self.offset)?;
        within.checked_add(len).filter(|end| *end <= self.len)?;
        // SAFETY: the offset is within the mapping.
        Some(HostPtr(unsafe { self.host.0.add(to_usize(within)) }))
    }

    /// Returns whether all of these bytes of the file are in the part.
    pub(super) fn has(&self, offset: u64, len: u64) -> bool {
        self.at(offset, len).is_some()
    }

    /// Returns whether the file still holds all regions, but for single pages at most.
    pub(super) fn is_intact(&self) -> bool {
        let needed = self.needed.load(Ordering::Relaxed);
        let is_long_enough = |file| file_size(file).is_ok_and(|size| size >= needed);
        !self.watch.is_lost() && self.file.as_ref().is_none_or(is_long_enough)
    }
}

impl fmt::Debug for MappedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MappedFile({:#x} bytes at {:#x})", self.len, self.offset)
    }
}

impl Region {
    /// Maps a part of `file` for a region. `on_drop` is called on the thread that drops the region last, and must neither block nor
    /// panic; it is not called when this fails.
    ///
    /// # Errors
    /// See [`MapError`]: the file, or the operating system.
    pub fn map(file: OwnedFd, of: Extent, on_drop: impl FnOnce(RegionId) + Send + 'static) -> Result<Self, MapError> {
        let file = MappedFile::new(file, of.offset, of.len, of.access, &LimitShare::of_nobody())?;
        Self::within(&file, of, on_drop)
    }

    /// The same of a file of which a part is mapped already.
    ///
    /// # Errors
    /// When it is not in that part.
    pub(super) fn within(
        file: &Arc<MappedFile>,
        of: Extent,
        on_drop: impl FnOnce(RegionId) + Send + 'static,
    ) -> Result<Self, MapError> {
        let Extent { offset, gpa, len, access } = of;
        let beyond = MapError::BeyondFile { offset, len, size: file.offset.saturating_add(file.len) };
        let host = file.at(offset, len).ok_or(beyond)?;
        file.needed.fetch_max(offset.saturating_add(len), Ordering::Relaxed);
        let backing = Backing::File { file: Arc::clone(file), host };
        Ok(Self::new(gpa, len, access, backing, Some(Box::new(on_drop))))
    }

    /// A region that came without a file: it is reached by messages to the client only, and never translated but to pages that
    /// [stand in](super::bounce) for it.
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

    /// The pages from `offset` bytes into `pages` on, which stand in for `len` bytes at `gpa` of the region `of`; it is held. `None`
    /// if there are not as many.
    pub(super) fn standing_in(of: &Arc<Self>, gpa: u64, len: u64, pages: &Arc<Pages>, offset: u64) -> Option<Self> {
        let host = pages.at(offset, len)?;
        gpa.checked_add(len)?;
        let backing = Backing::Own { host, _pages: Arc::clone(pages), of: Arc::clone(of) };
        Some(Self::new(gpa, len, Access::ReadWrite, backing, None))
    }

    fn new(gpa: u64, len: u64, access: Access, backing: Backing, on_drop: Option<Notifier>) -> Self {
        Self { id: RegionId::next(), gpa, len, access, backing, on_drop: Mutex::new(on_drop) }
    }

    /// What `on_drop` will be told.
    #[must_use]
    pub const fn id(&self) -> RegionId {
        self.id
    }

    /// The first guest address.
    #[must_use]
    pub const fn gpa(&self) -> u64 {
        self.gpa
    }

    /// The length in bytes: not 0.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a region is never empty")]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// The guest address behind the last: below 2^64.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.gpa + self.len
    }

    /// What the client lets us do.
    #[must_use]
    pub const fn access(&self) -> Access {
        self.access
    }

    /// Whether it came with a file.
    #[must_use]
    pub const fn has_file(&self) -> bool {
        matches!(self.backing, Backing::File { .. })
    }

    /// Has the system provide the region's pages now, which takes long, instead of when they are first used. Ends early when nobody
    /// else holds the region. A page that is not to be had is left to whoever uses it.
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

    /// The region without a file that pages of ours stand in for here.
    #[must_use]
    pub const fn stands_in_for(&self) -> Option<&Arc<Self>> {
        if let Backing::Own { of, .. } = &self.backing { Some(of) } else { None }
    }

    /// Whether the file still holds the region, but for single pages at most. A region without a file is intact.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        if let Backing::File { file, .. } = &self.backing { file.is_intact() } else { true }
    }

    /// Whether an access found that a page of the region cannot be had: the file does not hold it any more, or the memory is
    /// broken. It stays so.
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        let len = to_usize(self.len);
        self.has_file() && self.host().is_some_and(|HostPtr(start)| guard::is_poisoned(start.addr().get(), len))
    }

    /// Where the region begins in memory.
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

/// The size of a regular file, in bytes.
fn file_size(file: &OwnedFd) -> Result<u64, MapError> {
    file_status(file).map(|stat| u64::try_from(stat.st_size).unwrap_or(0))
}

/// What a regular file is known by: its device and its number there, and its size in bytes.
pub(super) fn file_identity(file: &OwnedFd) -> Result<(u64, u64, u64), MapError> {
    file_status(file).map(|stat| (stat.st_dev, stat.st_ino, u64::try_from(stat.st_size).unwrap_or(0)))
}

fn file_status(file: &OwnedFd) -> Result<libc::stat, MapError> {
    let mut stat = MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: the descriptor is open and `stat` has room.
    if unsafe { libc::fstat(file.as_raw_fd(), stat.as_mut_ptr()) } != 0 {
        return Err(MapError::Inspect(io::Error::last_os_error()));
    }
    // SAFETY: fstat has filled it.
    let stat = unsafe { stat.assume_init() };
    let what = match stat.st_mode & libc::S_IFMT {
        libc::S_IFREG => return Ok(stat),
        libc::S_IFDIR => "a directory",
        libc::S_IFIFO => "a pipe",
        libc::S_IFSOCK => "a socket",
        libc::S_IFCHR => "a character device",
        libc::S_IFBLK => "a block device",
        _ => "no file with a name (an eventfd, for example)",
    };
    Err(MapError::NotAFile { what })
}

/// Whether the file's length is sealed against shrinking, as QEMU's memfds are. A file that knows no seals has none.
fn is_sealed(file: &OwnedFd) -> bool {
    // SAFETY: the descriptor is open; no memory is given.
    let seals = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) };
    seals >= 0 && seals & libc::F_SEAL_SHRINK != 0
}

/// The size of the pages of a file of memory, in bytes. A file that another process or a disk serves is refused: who
/// touches its pages would wait, and a client that serves them itself could let a reactor wait for ever.
fn page_size(file: &OwnedFd) -> Result<u64, MapError> {
    let mut stat = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: the descriptor is open and `stat` has room.
    if unsafe { libc::fstatfs(file.as_raw_fd(), stat.as_mut_ptr()) } != 0 {
        return Err(MapError::Inspect(io::Error::last_os_error()));
    }
    // SAFETY: fstatfs has filled it.
    let stat = unsafe { stat.assume_init() };
    match (stat.f_type, u64::try_from(stat.f_bsize)) {
        (libc::TMPFS_MAGIC, _) => Ok(PAGE),
        (libc::HUGETLBFS_MAGIC, Ok(size)) if size.is_power_of_two() && size >= PAGE => Ok(size),
        (magic, _) if magic.cast_unsigned() == RAMFS_MAGIC => Ok(PAGE),
        (magic, _) => Err(MapError::NotMemory { magic: magic.cast_unsigned() }),
    }
}

/// A length or an offset in memory: addresses have 64 bits where this crate is built.
#[expect(clippy::cast_possible_truncation, reason = "asserted")]
#[inline]
pub(super) const fn to_usize(value: u64) -> usize {
    const { assert!(usize::BITS == u64::BITS) };
    value as usize
}

/// An address in a mapping.
#[derive(Clone, Copy)]
pub(super) struct HostPtr(pub(super) NonNull<u8>);

// SAFETY: only an address. Who follows it shows by what its memory is still mapped.
unsafe impl Send for HostPtr {}
// SAFETY: as above.
unsafe impl Sync for HostPtr {}

/// Addresses that nothing else gets.
struct AddressRange {
    start: NonNull<u8>,
    /// In bytes.
    len: usize,
}

impl AddressRange {
    /// A place for `len` bytes at `offset` of a file with pages of `page` bytes, a power of two. Where ordinary memory is in large
    /// pages, they have room in it as such: processors and devices then need one entry for 2 MiB.
    fn new(len: usize, offset: libc::off_t, page: usize) -> io::Result<Self> {
        const LARGE: usize = 2 << 20;
        let multiple = if len < LARGE { page } else { LARGE.max(page) };
        let room = multiple - to_usize(PAGE);
        let Some(all) = len.checked_add(room) else { return Err(io::Error::from_raw_os_error(libc::ENOMEM)) };
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: the kernel chooses the place, where nothing is.
        let start = unsafe { libc::mmap(ptr::null_mut(), all, libc::PROT_NONE, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start: NonNull<u8> = NonNull::new(start.cast()).ok_or(io::ErrorKind::AddrInUse)?;
        if room == 0 {
            return Ok(Self { start, len });
        }
        let within = usize::try_from(offset).unwrap_or(0) % multiple;
        // Both are multiples of 4096, and so at most `room`.
        let before = within.wrapping_sub(start.addr().get()) % multiple;
        // SAFETY: `before` and `len` are within what was mapped, of which the rest is given back.
        unsafe {
            let middle = start.add(before);
            let behind = middle.add(len);
            libc::munmap(start.as_ptr().cast(), before);
            libc::munmap(behind.as_ptr().cast(), room - before);
            Ok(Self { start: middle, len })
        }
    }

    /// Something is mapped there now.
    fn taken(self) -> NonNull<u8> {
        let start = self.start;
        std::mem::forget(self);
        start
    }
}

impl Drop for AddressRange {
    fn drop(&mut self) {
        // SAFETY: nothing but the place itself is there.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// A shared mapping of a file.
pub(super) struct Mapping {
    pub(super) start: HostPtr,
    /// In bytes.
    pub(super) len: usize,
}

impl Mapping {
    /// Maps `len` bytes at `offset`, both multiples of the file's pages, of `page` bytes. No page is touched.
    pub(super) fn new(file: &impl AsRawFd, page: u64, offset: u64, len: u64, access: Access) -> io::Result<Self> {
        let (Ok(offset), Ok(len)) = (libc::off_t::try_from(offset), usize::try_from(len)) else {
            return Err(io::Error::from_raw_os_error(libc::EOVERFLOW));
        };
        let protection = match access {
            Access::ReadOnly => libc::PROT_READ,
            Access::ReadWrite | Access::WriteOnly => libc::PROT_READ | libc::PROT_WRITE,
        };
        let place = AddressRange::new(len, offset, to_usize(page))?;
        let flags = libc::MAP_SHARED | libc::MAP_FIXED;
        // SAFETY: the place is this function's own, and nothing is there.
        let start =
            unsafe { libc::mmap(place.start.as_ptr().cast(), len, protection, flags, file.as_raw_fd(), offset) };
        if start == libc::MAP_FAILED {
            // The place is given back.
            return Err(io::Error::last_os_error());
        }
        let start = place.taken();
        for advice in [libc::MADV_DONTFORK, libc::MADV_DONTDUMP] {
            // The memory is as good without; a core dump is then larger.
            // SAFETY: the range is the mapping; neither advice changes what is in it.
            unsafe { libc::madvise(start.as_ptr().cast(), len, advice) };
        }
        Ok(Self { start: HostPtr(start), len })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        for at in (0..self.len).step_by(UNMAP_STEP) {
            // SAFETY: the range is of the mapping. Whoever had an address in it also held this value.
            unsafe { libc::munmap(self.start.0.as_ptr().add(at).cast(), UNMAP_STEP.min(self.len - at)) };
        }
    }
}

#[cfg(test)]
mod tests;
