//! Memory of others that SPDK's devices are to reach.

use std::ptr::NonNull;

use spdk_sys as sys;

use crate::Errno;

/// What a registration begins and ends at a multiple of, in bytes.
pub const PAGE: usize = 4096;

/// A range of this process' memory that SPDK has told its devices of: RDMA devices pin it and give it keys, the IOMMU maps it. That
/// ends when this is dropped.
///
/// SPDK keeps registered memory in tables of 2 MiB and, at the ends that are not multiples of it, of 4 KiB. Devices that
/// come later learn of it, too. What a device makes of it is not told: if it cannot reach the memory, SPDK says so in its log, and
/// refuses every I/O there.
#[derive(Debug)]
pub struct Registration {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: only an address, which is not followed; SPDK's tables have a lock of their own.
unsafe impl Send for Registration {}
// SAFETY: as above.
unsafe impl Sync for Registration {}

impl Registration {
    /// Registers the `len` bytes at `start`. May be called on any thread; it takes as long as the devices need, which for an RDMA device
    /// is the time to allocate and pin every page, and no other memory can be registered meanwhile.
    ///
    /// # Errors
    /// `INVAL` for a range that is empty or no whole [pages](PAGE), `BUSY` when a part of it is registered already, `NOMEM` without
    /// memory for the tables.
    ///
    /// # Safety
    /// The range must be mapped, and stay so until this is dropped. Every device may write to it for the sake of an I/O that names it.
    pub unsafe fn new(start: NonNull<u8>, len: usize) -> Result<Self, Errno> {
        // SPDK takes a range of no bytes, and would not find it again.
        if len == 0 {
            return Err(Errno::INVAL);
        }
        // SAFETY: the caller vouches for the range.
        Errno::check(unsafe { sys::spdk_mem_register(start.as_ptr().cast(), len) })?;
        Ok(Self { start, len })
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: the range is registered, as a whole and by this.
        let result = Errno::check(unsafe { sys::spdk_mem_unregister(self.start.as_ptr().cast(), self.len) });
        if let Err(error) = result {
            log::error!("{:#x} bytes at {:p} could not be taken from devices: {error}", self.len, self.start);
        }
    }
}
