//! What the owner of memory promises to those who hand it to devices, or to code of others.
//!
//! `guest-memory` has memory and I/Os that lie in it, and knows no SPDK; `spdk` gives both to SPDK, and knows no guest.
//! What each of them has to rely on is the contract of a trait here, so that what joins them needs no `unsafe` code.
#![expect(unsafe_code, reason = "the contracts are traits that are unsafe to implement")]

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr::NonNull;

use libc::iovec;

/// A range of this process' memory that is there for as long as the value.
///
/// # Safety
/// The range must be mapped, readable and writable, and stay in place until the value is dropped, however that is
/// moved. No Rust reference into it may exist: devices, and others who have the address, read and write it at any time.
pub unsafe trait HostMemory: Send + Sync {
    /// Returns where the range begins.
    fn start(&self) -> NonNull<u8>;

    /// Returns the length of the range in bytes.
    fn len(&self) -> usize;

    /// Returns whether the range has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// An I/O that is carried by code which knows it as a pointer only.
///
/// # Safety
/// [`from_raw`](Self::from_raw) must undo [`into_raw`](Self::into_raw). From the one until the other, the pieces must
/// stay in place, the memory that they describe must stay mapped, and be of as many bytes as [`pieces`](Self::pieces)
/// says; and nobody but who has the pointer may use the [`carrier`](Self::carrier)'s word.
pub unsafe trait RawIo: Sized + 'static {
    /// Gives up ownership to a raw pointer. Two I/Os in flight have different pointers.
    fn into_raw(self) -> NonNull<c_void>;

    /// Takes ownership back.
    ///
    /// # Safety
    /// `raw` came from `into_raw`, and is taken back once.
    unsafe fn from_raw(raw: NonNull<c_void>) -> Self;

    /// Returns where the data is.
    fn pieces(&self) -> Pieces;

    /// Returns a word for who carries the I/O. It holds what was put there until the I/O is taken back; before, it
    /// holds anything.
    fn carrier(&self) -> &Cell<*const c_void>;
}

/// Where the data of an I/O is.
#[derive(Debug, Clone, Copy)]
pub struct Pieces {
    /// The pieces.
    pub first: *const iovec,
    /// How many there are.
    pub count: usize,
    /// Their bytes, all together.
    pub bytes: u64,
}
