//! I/O by requests that have a buffer of their own, for tests of bdevs.

use std::cell::RefCell;
use std::ffi::{c_int, c_void};
use std::ops::Range;
use std::rc::Rc;

use libc::iovec;
use nvme_spec::Status;
use spdk_sys as sys;

use super::{BdevChannel, Channel, IoCallback, submit};
use crate::Errno;
use crate::dma::DmaBuf;

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Read into the request's pieces.
    Read,
    /// Write from them.
    Write,
    /// Compare with them.
    Compare,
    /// Compare with the first half of the pieces, then write from the second.
    CompareAndWrite,
    /// Deallocate.
    Unmap,
    /// Write zeroes.
    WriteZeroes,
    /// Flush.
    Flush,
    /// Reset the bdev.
    Reset,
}

type Done = Box<dyn Fn(&Rc<BdevRequest>, Result<(), Status>)>;

/// An I/O that can be sent again and again: its buffer, how that is cut into pieces, and who hears of its end.
pub struct BdevRequest {
    buffer: RefCell<DmaBuf>,
    pieces: Box<[iovec]>,
    /// Bytes of the first half of the pieces, and of the second.
    halves: (usize, usize),
    done: Done,
    /// While it is in flight: what must stay until its end.
    channel: RefCell<Option<Rc<Channel>>>,
}

impl BdevRequest {
    /// Returns a request whose data lies in `buffer`, in pieces at the given ranges of bytes, one after another.
    ///
    /// # Errors
    /// `INVAL` when a piece goes past the buffer's end.
    pub fn new(
        buffer: DmaBuf,
        pieces: &[Range<usize>],
        done: impl Fn(&Rc<Self>, Result<(), Status>) + 'static,
    ) -> Result<Rc<Self>, Errno> {
        let base = buffer.as_ptr();
        let piece = |range: &Range<usize>| {
            let iov_base = base.wrapping_add(range.start).cast_mut().cast();
            buffer.get(range.clone()).map(|bytes| iovec { iov_base, iov_len: bytes.len() }).ok_or(Errno::INVAL)
        };
        let pieces: Box<[iovec]> = pieces.iter().map(piece).collect::<Result<_, _>>()?;
        let (first, second) = pieces.split_at(pieces.len() / 2);
        let bytes = |half: &[iovec]| half.iter().map(|piece| piece.iov_len).sum();
        let halves = (bytes(first), bytes(second));
        Ok(Rc::new(Self {
            buffer: RefCell::new(buffer),
            pieces,
            halves,
            done: Box::new(done),
            channel: RefCell::new(None),
        }))
    }

    /// Returns whether the pieces are of the length that `op` needs for `len` bytes.
    fn fits(&self, op: Op, len: Option<usize>) -> bool {
        let (first, second) = self.halves;
        match op {
            Op::Read | Op::Write | Op::Compare => first.checked_add(second) == len,
            Op::CompareAndWrite => Some(first) == len && Some(second) == len,
            Op::Unmap | Op::WriteZeroes | Op::Flush | Op::Reset => true,
        }
    }

    fn is_busy(&self) -> bool {
        self.channel.borrow().is_some()
    }

    /// Notes that it is in flight on `channel`, and gives the count that `done` takes back.
    fn begin(self: &Rc<Self>, channel: &Rc<Channel>) -> Result<*mut c_void, Errno> {
        if self.is_busy() {
            return Err(Errno::BUSY);
        }
        self.channel.replace(Some(Rc::clone(channel)));
        Ok(Rc::into_raw(Rc::clone(self)).cast_mut().cast())
    }

    /// # Safety
    /// `ctx` must come from `begin`, and is taken back once.
    unsafe fn end(ctx: *mut c_void) -> (Rc<Self>, Option<Rc<Channel>>) {
        // SAFETY: the caller vouches for the count.
        let request = unsafe { Rc::from_raw(ctx.cast::<Self>().cast_const()) };
        let channel = request.channel.take();
        (request, channel)
    }

    /// Calls `f` with the buffer.
    ///
    /// # Errors
    /// `BUSY` while the request is in flight.
    pub fn with_buffer<R>(&self, f: impl FnOnce(&mut [u8]) -> R) -> Result<R, Errno> {
        if self.is_busy() {
            return Err(Errno::BUSY);
        }
        self.buffer.try_borrow_mut().map(|mut buffer| f(&mut buffer)).map_err(|_| Errno::BUSY)
    }
}

impl std::fmt::Debug for BdevRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BdevRequest")
            .field("pieces", &self.pieces.len())
            .field("busy", &self.is_busy())
            .finish_non_exhaustive()
    }
}

impl BdevChannel {
    /// Sends `request` as `op` on `blocks` blocks from `offset`. It is kept, and its end is told to it, on this thread.
    ///
    /// # Errors
    /// `BUSY` when it is in flight already, `NOMEM` when the bdev layer is out of I/Os, `INVAL` for blocks past the
    /// bdev's end or pieces that are not of as many bytes as the blocks.
    pub fn send(&self, op: Op, offset: u64, blocks: u64, request: &Rc<BdevRequest>) -> Result<(), Errno> {
        let len = usize::try_from(blocks).ok().and_then(|blocks| blocks.checked_mul(self.0.desc.block_size() as usize));
        if !request.fits(op, len) {
            return Err(Errno::INVAL);
        }
        let ctx = request.begin(&self.0)?;
        let (desc, ch, call) = (self.0.desc.0.raw.as_ptr(), self.0.raw.as_ptr(), Some(done as IoCallback));
        let pieces = request.pieces.as_ptr().cast_mut();
        let count = c_int::try_from(request.pieces.len()).unwrap_or(0);
        let half = request.pieces.len() / 2;
        let half_count = c_int::try_from(half).unwrap_or(0);
        // SAFETY: the bdev is open, this is the channel's thread, and the request, with its pieces, its buffer and this
        // channel, is kept by the count in `ctx` until `done`.
        let rc = unsafe {
            match op {
                Op::Read => sys::spdk_bdev_readv_blocks(desc, ch, pieces, count, offset, blocks, call, ctx),
                Op::Write => sys::spdk_bdev_writev_blocks(desc, ch, pieces, count, offset, blocks, call, ctx),
                Op::Compare => sys::spdk_bdev_comparev_blocks(desc, ch, pieces, count, offset, blocks, call, ctx),
                Op::CompareAndWrite => sys::spdk_bdev_comparev_and_writev_blocks(
                    desc,
                    ch,
                    pieces,
                    half_count,
                    pieces.add(half),
                    count - half_count,
                    offset,
                    blocks,
                    call,
                    ctx,
                ),
                Op::Unmap => sys::spdk_bdev_unmap_blocks(desc, ch, offset, blocks, call, ctx),
                Op::WriteZeroes => sys::spdk_bdev_write_zeroes_blocks(desc, ch, offset, blocks, call, ctx),
                Op::Flush => sys::spdk_bdev_flush_blocks(desc, ch, offset, blocks, call, ctx),
                Op::Reset => sys::spdk_bdev_reset(desc, ch, call, ctx),
            }
        };
        Errno::check(rc).inspect_err(|_| {
            // SAFETY: SPDK did not take the count.
            drop(unsafe { BdevRequest::end(ctx) });
        })
    }

    /// Asks the bdev to abort what `request` has in flight; `by` is told how that went.
    ///
    /// # Errors
    /// As for [`send`](Self::send); `NOTSUP` when the bdev cannot abort.
    pub fn abort(&self, request: &Rc<BdevRequest>, by: &Rc<BdevRequest>) -> Result<(), Errno> {
        let target = Rc::as_ptr(request).cast_mut().cast();
        let ctx = by.begin(&self.0)?;
        // SAFETY: as for `send`; the target is compared, not followed.
        let rc = unsafe {
            sys::spdk_bdev_abort(self.0.desc.0.raw.as_ptr(), self.0.raw.as_ptr(), target, Some(done as IoCallback), ctx)
        };
        Errno::check(rc).inspect_err(|_| {
            // SAFETY: SPDK did not take the count.
            drop(unsafe { BdevRequest::end(ctx) });
        })
    }
}

unsafe extern "C" fn done(io: *mut sys::spdk_bdev_io, success: bool, ctx: *mut c_void) {
    // SAFETY: the count that was given with the I/O, which ends once.
    let (request, _channel) = unsafe { BdevRequest::end(ctx) };
    // SAFETY: the I/O is live until it is freed here.
    let result = if success { Ok(()) } else { Err(unsafe { submit::failure(io) }) };
    // SAFETY: as above.
    unsafe { sys::spdk_bdev_free_io(io) };
    (request.done)(&request, result);
}
