//! The memory of commands, and the vectors of system calls that are made of it.
#![expect(unsafe_code, reason = "memory that others may write at any time is known by its addresses only")]

use std::cell::Cell;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::BorrowedFd;
use std::{ptr, slice};

use libc::iovec;
use rustix::io::readv;
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};

/// The most elements of a vector; the kernel takes 1,024.
const MAX_VECTOR: usize = 512;

/// How much is copied at a time to have its digest.
const DIGEST_BLOCK: usize = 1024;

/// The memory of a command's data, with whatever else its owner keeps of the command.
///
/// # Safety
/// From when the value is given to a [`Queue`](crate::Queue) until it comes back or is dropped,
/// [`pieces`](Self::pieces) must always tell the same; all of the memory must be mapped, readable, and for a command
/// that reads also writable; and no Rust reference into it may exist. Others may read and write it at any time.
pub unsafe trait CommandMemory {
    /// Returns where the data is, in order. A command without data has no pieces.
    fn pieces(&self) -> &[iovec];
}

/// Where in a command's data it was looked last: data goes in order, so that the next is not far.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cursor {
    piece: usize,
    /// The offset of the piece in the data.
    begin: usize,
}

/// A vector of a system call, which is filled anew for each.
#[derive(Debug)]
pub(crate) struct Vector(Vec<iovec>);

impl Vector {
    pub(crate) fn new() -> Self {
        Self(Vec::with_capacity(MAX_VECTOR))
    }
}

/// Returns how many bytes there are; nothing, if they are more than a command can have.
pub(crate) fn total(pieces: &[iovec]) -> Option<u32> {
    let bytes = pieces.iter().try_fold(0_usize, |sum, piece| sum.checked_add(piece.iov_len))?;
    u32::try_from(bytes).ok()
}

/// Calls `take` with each range of memory that the bytes from `offset` on lie in, in order, until that says false.
#[inline]
fn walk(pieces: &[iovec], at: &Cell<Cursor>, offset: u32, len: u32, mut take: impl FnMut(*mut u8, usize) -> bool) {
    let (mut offset, mut left) = (offset as usize, len as usize);
    let mut cursor = at.get();
    if offset < cursor.begin {
        cursor = Cursor::default();
    }
    while left > 0
        && let Some(piece) = pieces.get(cursor.piece)
    {
        let within = offset - cursor.begin;
        if within >= piece.iov_len {
            cursor.begin += piece.iov_len;
            cursor.piece += 1;
            continue;
        }
        let count = left.min(piece.iov_len - within);
        if !take(piece.iov_base.cast::<u8>().wrapping_add(within), count) {
            break;
        }
        offset += count;
        left -= count;
    }
    at.set(cursor);
}

/// Copies to where data belongs.
#[inline]
pub(crate) fn copy_in(memory: &impl CommandMemory, at: &Cell<Cursor>, offset: u32, bytes: &[u8]) {
    let mut rest = bytes;
    // Data of a command is no longer than a u32 tells.
    let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    walk(memory.pieces(), at, offset, len, |to, count| {
        let Some((now, later)) = rest.split_at_checked(count) else { return false };
        // SAFETY: `to` and the bytes behind it lie in a piece of the memory, which its owner keeps mapped and writable
        // (contract of `CommandMemory`). They do not overlap with `now`, since no reference leads into that memory.
        unsafe { ptr::copy_nonoverlapping(now.as_ptr(), to, count) };
        rest = later;
        true
    });
}

/// Returns the digest of what had the digest `before`, and of this data behind it.
pub(crate) fn digest(memory: &impl CommandMemory, at: &Cell<Cursor>, offset: u32, len: u32, before: u32) -> u32 {
    let mut crc = before;
    let mut block = [0; DIGEST_BLOCK];
    walk(memory.pieces(), at, offset, len, |from, count| {
        let mut done = 0;
        while done < count {
            let part = &mut block[..DIGEST_BLOCK.min(count - done)];
            // SAFETY: the bytes lie in a piece of the memory, which its owner keeps mapped (contract of
            // `CommandMemory`), and not in the block, which is on the stack.
            unsafe { ptr::copy_nonoverlapping(from.wrapping_add(done), part.as_mut_ptr(), part.len()) };
            crc = crc32c::crc32c_append(crc, part);
            done += part.len();
        }
        true
    });
    crc
}

/// What one system call sends. All in it is borrowed for as long as it lives.
pub(crate) struct Gather<'a> {
    list: &'a mut Vec<iovec>,
    bytes: usize,
}

impl<'a> Gather<'a> {
    pub(crate) fn new(vector: &'a mut Vector) -> Self {
        vector.0.clear();
        Self { list: &mut vector.0, bytes: 0 }
    }

    /// Returns how many bytes there are to send.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds bytes. False, if there is no room for them.
    #[inline]
    pub(crate) fn add(&mut self, bytes: &'a [u8]) -> bool {
        self.push(bytes.as_ptr().cast_mut(), bytes.len())
    }

    /// Adds some of a command's data. False, if there is no room for all of it.
    #[inline]
    pub(crate) fn add_data(
        &mut self,
        memory: &'a impl CommandMemory,
        at: &Cell<Cursor>,
        offset: u32,
        len: u32,
    ) -> bool {
        let mut fits = true;
        walk(memory.pieces(), at, offset, len, |start, count| {
            fits = self.push(start, count);
            fits
        });
        fits
    }

    #[inline]
    fn push(&mut self, start: *mut u8, len: usize) -> bool {
        let fits = self.list.len() < MAX_VECTOR;
        if fits {
            self.list.push(iovec { iov_base: start.cast(), iov_len: len });
            self.bytes += len;
        }
        fits
    }

    /// Sends, and returns how many bytes went.
    pub(crate) fn send(self, socket: BorrowedFd<'_>) -> rustix::io::Result<usize> {
        // SAFETY: `IoSlice` has the layout of `iovec`, as the standard library promises. Each element is of a slice or
        // of a piece of memory, whose owner is borrowed for `'a` and so is there until the call returns. The call hands
        // them to the kernel, and reads none of them here.
        let vector = unsafe { slice::from_raw_parts(self.list.as_ptr().cast::<IoSlice<'_>>(), self.list.len()) };
        sendmsg(socket, vector, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
    }
}

/// Receives `len` bytes of a command's data where they belong, from `offset` on, and then into `rest` what comes behind
/// them. Returns how many bytes of data and of the rest came; none of either is the end of the stream. The socket must
/// be one that does not wait.
pub(crate) fn receive_data(
    socket: BorrowedFd<'_>,
    vector: &mut Vector,
    (memory, at): (&impl CommandMemory, &Cell<Cursor>),
    (offset, len): (u32, u32),
    rest: &mut [u8],
) -> rustix::io::Result<(usize, usize)> {
    let list = &mut vector.0;
    list.clear();
    let mut places = 0;
    walk(memory.pieces(), at, offset, len, |start, count| {
        let fits = list.len() + 1 < MAX_VECTOR;
        if fits {
            list.push(iovec { iov_base: start.cast(), iov_len: count });
            places += count;
        }
        fits
    });
    // What comes behind the data may be received only if there is a place for all of that.
    if places == len as usize {
        list.push(iovec { iov_base: rest.as_mut_ptr().cast(), iov_len: rest.len() });
    }
    // SAFETY: `IoSliceMut` has the layout of `iovec`, as the standard library promises. Each element is of `rest` or of
    // a piece of memory, whose owner is borrowed until the call returns, and which is writable (contract of
    // `CommandMemory`). The call hands them to the kernel, and reads and writes none of them here.
    let places_of = unsafe { slice::from_raw_parts_mut(list.as_mut_ptr().cast::<IoSliceMut<'_>>(), list.len()) };
    let count = readv(socket, places_of)?;
    let data = count.min(places);
    Ok((data, count - data))
}
