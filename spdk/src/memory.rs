//! Memory of others that SPDK's devices are to reach.

use std::collections::BTreeMap;
use std::fmt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use host_memory::HostMemory;
use spdk_sys as sys;

use crate::Errno;

mod locked;

/// What a registration begins and ends at a multiple of, in bytes.
pub const PAGE: usize = 4096;

/// A range of this process' memory that SPDK has told its devices of: RDMA devices pin it and give it keys, the IOMMU
/// maps it. That ends when this is dropped.
///
/// SPDK keeps registered memory in tables of 2 MiB and, at the ends that are not multiples of it, of 4 KiB. Devices
/// that come later learn of it, too.
///
/// SPDK does not tell what a device makes of it, and a device that comes later and refuses one range is of no use to
/// anybody: none of its connections comes up. So once RDMA is in use, it is made sure before SPDK learns of a range
/// that every RDMA device would take it, and that this process may lock it; and when RDMA comes into use, for all
/// ranges that SPDK knows by then. A range that is refused is left out, or taken out: SPDK then refuses I/O there, for
/// devices that would need it.
pub struct Registration {
    start: usize,
    /// Goes after devices have forgotten it.
    _memory: Arc<dyn HostMemory>,
}

impl Registration {
    /// Registers `memory`, which is held until this is dropped: every device may write to it for the sake of an I/O
    /// that names it. May be called on any thread; it takes as long as the devices need, which for an RDMA device is
    /// the time to allocate and pin every page, and no other memory can be registered meanwhile.
    ///
    /// # Errors
    /// `INVAL` for a range that is empty or no whole [pages](PAGE), `BUSY` when a part of it is registered already,
    /// `NOMEM` without memory for the tables; what an RDMA device says that does not take the memory.
    pub fn new(memory: Arc<dyn HostMemory>) -> Result<Self, Errno> {
        let (start, len) = (memory.start(), memory.len());
        // SPDK takes a range of no bytes, and would not find it again.
        if len == 0 || !len.is_multiple_of(PAGE) || !start.addr().get().is_multiple_of(PAGE) {
            return Err(Errno::INVAL);
        }
        let mut known = known();
        // SPDK knows of those that it has, but a range that RDMA refused is not among them.
        if known.overlaps(start.addr().get(), len) {
            return Err(Errno::BUSY);
        }
        let range = Range { start, len, registered: true };
        // It is set under the lock that is held here.
        if RDMA_IN_USE.load(Ordering::Relaxed) {
            range.probe(0)?;
        }
        range.register()?;
        let start = start.addr().get();
        known.ranges.insert(start, range);
        Ok(Self { start, _memory: memory })
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration").field("start", &self.start).finish_non_exhaustive()
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(range) = known().ranges.remove(&self.start) {
            range.unregister();
        }
    }
}

/// RDMA is about to be used. The first time, devices are asked of all memory that is registered.
pub(crate) fn expect_rdma() {
    // Without the lock: who connects need not wait for memory that is being registered.
    if RDMA_IN_USE.load(Ordering::Acquire) {
        return;
    }
    let mut known = known();
    let mut expected = 0_usize;
    for range in known.ranges.values_mut().filter(|range| range.registered) {
        if let Err(error) = range.probe(expected) {
            log::error!(
                "an RDMA device does not take {:#x} bytes of a client's memory ({error}): I/O there fails on RDMA; is the limit of \
                 locked memory (ulimit -l) high enough?",
                range.len
            );
            range.unregister();
            range.registered = false;
        } else {
            expected = expected.saturating_add(range.len);
        }
    }
    RDMA_IN_USE.store(true, Ordering::Release);
}

/// What this process has registered, by address.
struct RegisteredRanges {
    ranges: BTreeMap<usize, Range>,
}

impl RegisteredRanges {
    /// Returns whether a part of the `len` bytes at `start` is known. No two ranges overlap, so that the last that
    /// begins before the end tells.
    fn overlaps(&self, start: usize, len: usize) -> bool {
        let before = self.ranges.range(..start.saturating_add(len)).next_back();
        before.is_some_and(|(at, range)| at.saturating_add(range.len) > start)
    }
}

static KNOWN: Mutex<RegisteredRanges> = Mutex::new(RegisteredRanges { ranges: BTreeMap::new() });

/// RDMA devices were asked of all that is known, and are asked of all that comes.
static RDMA_IN_USE: AtomicBool = AtomicBool::new(false);

fn known() -> MutexGuard<'static, RegisteredRanges> {
    // Nothing is left half done by a panic: each range is put in after, and taken out before SPDK's part.
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Range {
    start: NonNull<u8>,
    len: usize,
    /// SPDK knows it.
    registered: bool,
}

// SAFETY: only an address, which is not followed here; SPDK's tables and RDMA's libraries have locks of their own.
unsafe impl Send for Range {}

impl Range {
    /// Asks RDMA devices, without having them pin all of it: that takes long. So many bytes more are going to be
    /// pinned.
    fn probe(&self, expected: usize) -> Result<(), Errno> {
        // SAFETY: the range is mapped while its registration holds its memory; devices know it only during the call.
        let count = unsafe { sys::courier_shim_rdma_probe(self.start.as_ptr().cast(), self.len, PAGE) };
        Errno::check(count)?;
        let devices = usize::try_from(count).unwrap_or(0);
        if locked::may_lock(self.len.saturating_add(expected).saturating_mul(devices)) {
            Ok(())
        } else {
            Err(Errno::NOMEM)
        }
    }

    fn register(&self) -> Result<(), Errno> {
        // SAFETY: the registration, which unregisters the range when it is dropped, holds its memory until then.
        Errno::check(unsafe { sys::spdk_mem_register(self.start.as_ptr().cast(), self.len) })
    }

    fn unregister(&self) {
        if !self.registered {
            return;
        }
        // SAFETY: the range is registered, as a whole and by this.
        let result = Errno::check(unsafe { sys::spdk_mem_unregister(self.start.as_ptr().cast(), self.len) });
        if let Err(error) = result {
            log::error!("{:#x} bytes at {:p} could not be taken from devices: {error}", self.len, self.start);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_overlaps_what_is_known_also_where_spdk_does_not_know_it() {
        let start =
            |page: usize| NonNull::without_provenance(std::num::NonZero::new(page * PAGE).expect("not the first"));
        let refused = Range { start: start(4), len: 2 * PAGE, registered: false };
        let known = RegisteredRanges { ranges: BTreeMap::from([(4 * PAGE, refused)]) };
        let overlaps = |page: usize, pages: usize| known.overlaps(page * PAGE, pages * PAGE);
        assert_eq!([overlaps(2, 2), overlaps(6, 1)], [false; 2]);
        assert_eq!([overlaps(4, 2), overlaps(3, 2), overlaps(5, 1), overlaps(1, 9), overlaps(5, 9)], [true; 5]);
    }
}
