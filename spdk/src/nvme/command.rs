//! What travels with a command: its owner and its payload.

use std::ffi::{c_int, c_void};
use std::ptr::NonNull;

use libc::iovec;
use nvme_spec::Cqe;
use spdk_sys as sys;

use super::entry::cqe_at;
use crate::Errno;

/// The owner of a command, which a queue pair keeps while the command is in flight and gives back with the completion.
///
/// # Safety
/// `from_raw` must undo `into_raw`; `payload` must point to a payload that stays in place, and whose buffers stay valid
/// and unmoved, from `into_raw` until `from_raw`.
pub unsafe trait Command: Sized + 'static {
    /// Gives up ownership to a raw pointer. Two commands in flight have different pointers.
    fn into_raw(self) -> NonNull<c_void>;

    /// Takes ownership back.
    ///
    /// # Safety
    /// `raw` came from `into_raw`, and is taken back once.
    unsafe fn from_raw(raw: NonNull<c_void>) -> Self;

    /// Returns the payload of the command behind `raw`; `second` asks for that of the second command of a fused pair.
    ///
    /// # Safety
    /// `raw` came from `into_raw` and was not taken back yet.
    unsafe fn payload(raw: NonNull<c_void>, second: bool) -> NonNull<Payload>;

    /// The command was completed. `second` tells the second command of a fused pair from any other.
    fn complete(self, completion: Cqe, second: bool);
}

/// A command that was not taken, and why. The owner decides what becomes of it.
#[derive(Debug)]
pub struct Rejected<C> {
    /// `NOMEM`: no request is free, try again after a completion. `NXIO`: the queue pair is not connected.
    pub errno: Errno,
    /// The owner.
    pub command: C,
}

/// The most bytes of a piece: whole pages that 32 bits can count.
const LARGEST: u32 = 0xffff_f000;

/// Where a command's data is: a scatter-gather list of the owner's, with the place that the initiator has come to in
/// it.
#[derive(Debug, Clone, Copy)]
pub struct Payload {
    iovs: *const iovec,
    count: usize,
    index: usize,
    offset: usize,
}

impl Payload {
    /// No data.
    pub const NONE: Self = Self { iovs: std::ptr::null(), count: 0, index: 0, offset: 0 };

    /// # Safety
    /// `iovs` must hold `count` elements, and they and the memory that they describe must stay valid while a command
    /// uses them.
    #[inline]
    #[must_use]
    pub(crate) unsafe fn new(iovs: *const iovec, count: usize) -> Self {
        Self { iovs, count, index: 0, offset: 0 }
    }

    /// Returns the first element, if it is the only one and has `len` bytes.
    #[inline]
    pub(crate) fn single(&self, len: u32) -> Option<*mut c_void> {
        if self.count != 1 {
            return None;
        }
        // SAFETY: `new`'s caller vouched for `count` elements.
        let iov = unsafe { *self.iovs };
        (iov.iov_len >= len as usize).then_some(iov.iov_base)
    }

    /// Goes to the byte at `offset`, at the end if that is past it.
    fn seek(&mut self, offset: usize) {
        self.offset = offset;
        self.index = 0;
        while self.index < self.count {
            // SAFETY: `index` is below `count`.
            let len = unsafe { (*self.iovs.add(self.index)).iov_len };
            if self.offset < len {
                return;
            }
            self.offset -= len;
            self.index += 1;
        }
    }

    /// The next contiguous piece, or none at the end.
    fn next(&mut self) -> Option<(*mut c_void, u32)> {
        if self.index >= self.count {
            return None;
        }
        // SAFETY: `index` is below `count`.
        let iov = unsafe { *self.iovs.add(self.index) };
        // A piece that does not fit 32 bits is given in parts.
        let rest = iov.iov_len.saturating_sub(self.offset);
        let len = u32::try_from(rest).unwrap_or(LARGEST);
        let address = iov.iov_base.wrapping_byte_add(self.offset);
        self.offset += len as usize;
        if self.offset >= iov.iov_len {
            self.index += 1;
            self.offset = 0;
        }
        Some((address, len))
    }
}

pub(super) unsafe extern "C" fn reset_sgl<C: Command, const SECOND: bool>(ctx: *mut c_void, offset: u32) {
    if let Some(raw) = NonNull::new(ctx) {
        // SAFETY: the initiator passes on the pointer that it was given with the command, before it completes it.
        unsafe { C::payload(raw, SECOND).as_mut() }.seek(offset as usize);
    }
}

pub(super) unsafe extern "C" fn next_sge<C: Command, const SECOND: bool>(
    ctx: *mut c_void,
    address: *mut *mut c_void,
    length: *mut u32,
) -> c_int {
    let Some(raw) = NonNull::new(ctx) else { return -libc::EINVAL };
    // SAFETY: as for `reset_sgl`.
    match unsafe { C::payload(raw, SECOND).as_mut() }.next() {
        Some((piece, len)) => {
            // SAFETY: the initiator gives places for both.
            unsafe {
                *address = piece;
                *length = len;
            }
            0
        }
        None => -libc::EINVAL,
    }
}

pub(super) unsafe extern "C" fn done<C: Command, const SECOND: bool>(ctx: *mut c_void, cpl: *const sys::spdk_nvme_cpl) {
    if let Some(raw) = NonNull::new(ctx) {
        // SAFETY: the initiator completes each command once, with the pointer that it was given and a completion.
        unsafe { C::from_raw(raw).complete(cqe_at(cpl), SECOND) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(payload: &mut Payload) -> Vec<(usize, u32)> {
        std::iter::from_fn(|| payload.next()).map(|(address, len)| (address as usize, len)).collect()
    }

    fn iov(base: usize, len: usize) -> iovec {
        iovec { iov_base: std::ptr::without_provenance_mut(base), iov_len: len }
    }

    #[test]
    fn pieces_follow_from_any_offset() {
        let iovs = [iov(0x1000, 10), iov(0x2000, 0), iov(0x3000, 5)];
        // SAFETY: the array outlives the payload, which does not follow the addresses.
        let mut payload = unsafe { Payload::new(iovs.as_ptr(), iovs.len()) };
        payload.seek(0);
        assert_eq!(pieces(&mut payload), [(0x1000, 10), (0x2000, 0), (0x3000, 5)]);
        payload.seek(4);
        assert_eq!(pieces(&mut payload), [(0x1004, 6), (0x2000, 0), (0x3000, 5)]);
        payload.seek(10);
        assert_eq!(pieces(&mut payload), [(0x3000, 5)]);
        payload.seek(12);
        assert_eq!(pieces(&mut payload), [(0x3002, 3)]);
    }

    #[test]
    fn an_offset_past_the_end_gives_nothing() {
        let iovs = [iov(0x1000, 10)];
        // SAFETY: as above.
        let mut payload = unsafe { Payload::new(iovs.as_ptr(), iovs.len()) };
        payload.seek(10);
        assert!(payload.next().is_none());
        payload.seek(4096);
        assert!(payload.next().is_none());
    }

    #[test]
    fn a_buffer_that_is_shorter_than_the_command_is_not_given_as_a_whole() {
        let iovs = [iov(0x1000, 512)];
        // SAFETY: as above.
        let payload = unsafe { Payload::new(iovs.as_ptr(), iovs.len()) };
        assert_eq!(payload.single(512).map(|base| base as usize), Some(0x1000));
        assert!(payload.single(513).is_none());
    }

    #[test]
    fn no_data_gives_nothing() {
        let mut payload = Payload::NONE;
        payload.seek(0);
        assert!(payload.next().is_none());
        assert!(payload.single(0).is_none());
    }
}
