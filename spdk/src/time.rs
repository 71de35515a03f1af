//! SPDK's clock: a counter of ticks, which costs a few cycles to read.

use spdk_sys as sys;

/// Returns the clock's count.
#[must_use]
#[inline]
pub fn ticks() -> u64 {
    // SAFETY: reads a counter.
    unsafe { sys::spdk_get_ticks() }
}

/// Returns how many ticks make a second.
#[must_use]
pub fn ticks_hz() -> u64 {
    // SAFETY: reads a constant.
    unsafe { sys::spdk_get_ticks_hz() }
}
