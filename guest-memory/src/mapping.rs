//! Files of memory, mapped.
#![expect(unsafe_code, reason = "files are mapped")]

use std::any::Any;
use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use host_memory::HostMemory;

use super::budget::{LimitPermit, LimitShare};
use super::error::MapError;
use super::guard::{self, Watch};
use super::host::{HostPtr, PAGE, to_usize};

/// So many bytes are unmapped at once: in the meantime no thread of the process can map anything.
const UNMAP_STEP: usize = 1 << 30;

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

/// A part of a file where it is mapped.
///
/// The order of the fields is that of their drops: the guard must forget the addresses before they can be another
/// mapping's, and the file's descriptor is the guard's.
struct MappedRange {
    watch: Watch,
    _mapping: Mapping,
    /// The file, unless it can never become shorter: descriptors are few.
    file: Option<OwnedFd>,
    host: HostPtr,
    /// In bytes.
    len: u64,
}

// SAFETY: the `len` bytes from `host` are a part of the mapping, which stays in place until it is dropped with this. It
// is reached by atomics only. One that may not be written to is given to nobody: see `MappedFile::register`.
unsafe impl HostMemory for MappedRange {
    fn start(&self) -> NonNull<u8> {
        self.host.0
    }

    fn len(&self) -> usize {
        to_usize(self.len)
    }
}

/// What devices know of memory: they forget it when this is dropped.
pub type Registration = Box<dyn Any + Send + Sync>;

/// A part of a client's file that is mapped, for one region or for many. It is unmapped when the last of them goes.
pub struct MappedFile {
    /// Holds the range as well, and goes before it.
    registration: OnceLock<Registration>,
    range: Arc<MappedRange>,
    /// Where the part begins in the file.
    offset: u64,
    access: Access,
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
        let range = MappedRange { watch, _mapping: mapping, file: (!sealed).then_some(file), host, len };
        Ok(Arc::new(Self {
            registration: OnceLock::new(),
            range: Arc::new(range),
            offset,
            access,
            needed: AtomicU64::new(0),
            _permit: permit,
        }))
    }

    /// Returns where `len` bytes at `offset` of the file are, if all of them are in the part.
    pub(super) fn at(&self, offset: u64, len: u64) -> Option<HostPtr> {
        let within = offset.checked_sub(self.offset)?;
        within.checked_add(len).filter(|end| *end <= self.range.len)?;
        // SAFETY: the offset is within the mapping.
        Some(HostPtr(unsafe { self.range.host.0.add(to_usize(within)) }))
    }

    /// Returns where the part ends in the file.
    pub(super) fn end(&self) -> u64 {
        self.offset.saturating_add(self.range.len)
    }

    /// A region needs the file up to `end`.
    pub(super) fn note_needed(&self, end: u64) {
        self.needed.fetch_max(end, Ordering::Relaxed);
    }

    /// Has `register` tell devices of the part, if they do not know it. One that may only be read is left out: a device
    /// asks for the right to write, and one that cannot have it for one range would take no others either, when it
    /// comes later.
    pub(super) fn register<E>(
        &self,
        register: impl FnOnce(Arc<dyn HostMemory>) -> Result<Registration, E>,
    ) -> Result<(), E> {
        if self.access == Access::ReadOnly || self.registration.get().is_some() {
            return Ok(());
        }
        let registration = register(Arc::<MappedRange>::clone(&self.range))?;
        // It was not there a moment ago. If two threads register at once, one of them is refused.
        let _ = self.registration.set(registration);
        Ok(())
    }

    /// Returns whether all of these bytes of the file are in the part.
    pub(super) fn has(&self, offset: u64, len: u64) -> bool {
        self.at(offset, len).is_some()
    }

    /// Returns whether the file still holds all regions, but for single pages at most.
    pub(super) fn is_intact(&self) -> bool {
        let needed = self.needed.load(Ordering::Relaxed);
        let is_long_enough = |file| file_size(file).is_ok_and(|size| size >= needed);
        !self.range.watch.is_lost() && self.range.file.as_ref().is_none_or(is_long_enough)
    }
}

impl fmt::Debug for MappedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MappedFile({:#x} bytes at {:#x})", self.range.len, self.offset)
    }
}

/// Returns the size of a regular file, in bytes.
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

/// Returns whether the file's length is sealed against shrinking, as QEMU's memfds are. A file that knows no seals has
/// none.
fn is_sealed(file: &OwnedFd) -> bool {
    // SAFETY: the descriptor is open; no memory is given.
    let seals = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) };
    seals >= 0 && seals & libc::F_SEAL_SHRINK != 0
}

/// Returns the size of the pages of a file of memory, in bytes. A file that another process or a disk serves is
/// refused: who touches its pages would wait, and a client that serves them itself could let a reactor wait for ever.
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

/// Addresses that nothing else gets.
struct AddressRange {
    start: NonNull<u8>,
    /// In bytes.
    len: usize,
}

impl AddressRange {
    /// Returns a place for `len` bytes at `offset` of a file with pages of `page` bytes, a power of two. Where ordinary
    /// memory is in large pages, they have room in it as such: processors and devices then need one entry for 2 MiB.
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
