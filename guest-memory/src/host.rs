//! Addresses of this process' memory.
#![expect(unsafe_code, reason = "addresses go from thread to thread")]

use std::ptr::NonNull;

/// What the addresses and lengths of regions are multiples of, in bytes.
pub(super) const PAGE: u64 = 4096;

/// Returns a length or an offset in memory: addresses have 64 bits where this crate is built.
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
