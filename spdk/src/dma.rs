//! Memory that devices can reach.

use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};
use std::slice;

use host_memory::HostMemory;
use spdk_sys as sys;

use crate::Errno;
use crate::memory::PAGE;

/// A zeroed buffer in SPDK's memory: pinned, and registered with every device that SPDK drives.
pub struct DmaBuf {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the memory belongs to this value alone and SPDK's allocator may be called from any thread.
unsafe impl Send for DmaBuf {}
// SAFETY: a shared reference allows reading only.
unsafe impl Sync for DmaBuf {}

impl DmaBuf {
    /// Returns a buffer of `len` bytes at a multiple of `align` bytes, which is a power of two.
    ///
    /// # Errors
    /// `INVAL` for a length of zero or an alignment that is no power of two, `NOMEM` when SPDK's memory is used up.
    pub fn zeroed(len: usize, align: usize) -> Result<Self, Errno> {
        if len == 0 || !align.is_power_of_two() {
            return Err(Errno::INVAL);
        }
        // SAFETY: no pointer is given; any NUMA node will do.
        let start =
            unsafe { sys::spdk_zmalloc(len, align, ptr::null_mut(), sys::SPDK_ENV_NUMA_ID_ANY, sys::SPDK_MALLOC_DMA) };
        let start = NonNull::new(start.cast()).ok_or(Errno::NOMEM)?;
        Ok(Self { start, len })
    }
}

impl Deref for DmaBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `start` is valid for `len` initialised bytes that only this value owns.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for DmaBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `deref`, and `self` is borrowed mutably.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for DmaBuf {
    fn drop(&mut self) {
        // SAFETY: the memory came from `spdk_zmalloc` and is freed once.
        unsafe { sys::spdk_free(self.start.as_ptr().cast()) };
    }
}

/// A [`DmaBuf`] that is given away by its address: nobody looks into it from here any more.
#[derive(Debug)]
pub struct DmaPages(DmaBuf);

impl DmaPages {
    /// Whole pages of `len` bytes together, of zeros.
    ///
    /// # Errors
    /// See [`DmaBuf::zeroed`].
    pub fn zeroed(len: usize) -> Result<Self, Errno> {
        DmaBuf::zeroed(len, PAGE).map(Self)
    }
}

// SAFETY: SPDK's memory is mapped, readable and writable, until the buffer is dropped. The buffer is looked into by
// nobody, so that no reference into it exists.
unsafe impl HostMemory for DmaPages {
    fn start(&self) -> NonNull<u8> {
        self.0.start
    }

    fn len(&self) -> usize {
        self.0.len
    }
}

impl std::fmt::Debug for DmaBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DmaBuf").field("start", &self.start).field("len", &self.len).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::DmaBuf;
    use crate::Errno;

    #[test]
    fn there_is_no_memory_where_spdk_has_not_started() {
        assert_eq!(DmaBuf::zeroed(64, 64).err(), Some(Errno::NOMEM));
    }
}
