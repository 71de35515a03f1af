//! Opening a bdev and sending it I/O: what a front end ([`BdevChannel::submit`]) or a test ([`BdevRequest`]) does.

mod claim;
mod describe;
mod split;
mod submit;

use std::cell::RefCell;
use std::ffi::{CString, c_int, c_void};
use std::ops::Range;
use std::ptr::{self, NonNull};
use std::rc::Rc;
use std::sync::Arc;

use libc::iovec;
use nvme_spec::Status;
use spdk_sys as sys;

use crate::Errno;
use crate::dma::DmaBuf;
use crate::thread::{OwnerThread, on_app_thread, send_to_app};

pub use claim::ClaimError;
pub use describe::{BdevInfo, io_pool_size};
pub use split::Splits;
pub use submit::{BlockOp, Completer};

/// Something that happened to an open bdev.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BdevEvent {
    /// It is being removed: close it soon.
    Removed,
    /// Its size changed.
    Resized,
}

type BdevEvents = Box<dyn Fn(BdevEvent)>;

/// Returns whether there is a bdev of that name. Always false off the application's thread.
#[must_use]
pub fn exists(name: &str) -> bool {
    let Ok(name) = CString::new(name) else { return false };
    // SAFETY: the bdev layer looks the name up under its lock; the bdev is not followed.
    on_app_thread() && unsafe { !sys::spdk_bdev_get_by_name(name.as_ptr()).is_null() }
}

/// An open bdev. Any thread may get a channel to it; it is closed on the application's thread, wherever it is dropped.
pub struct BdevDesc(Open);

#[derive(Clone, Copy, Debug)]
struct Open {
    raw: NonNull<sys::spdk_bdev_desc>,
    /// A count of an [`Rc`], which SPDK's event callback uses.
    events: *const BdevEvents,
    /// It shares the claim of the bdev.
    is_claimed: bool,
}

// SAFETY: SPDK lets every thread use a descriptor for channels and I/O. It is opened and closed, and its events are
// called and dropped, on the application's thread.
unsafe impl Send for Open {}
// SAFETY: as above.
unsafe impl Sync for Open {}

impl Open {
    /// # Safety
    /// To be called on the application's thread, once.
    unsafe fn close(self) {
        // SAFETY: the bdev was opened on this thread; no event comes after it is closed.
        unsafe {
            if self.is_claimed {
                claim::let_go(sys::spdk_bdev_desc_get_bdev(self.raw.as_ptr()));
            }
            sys::spdk_bdev_close(self.raw.as_ptr());
            drop(Rc::from_raw(self.events));
        }
    }
}

impl BdevDesc {
    /// Opens the bdev of that name for reading and writing. `events` is called, and dropped, on this thread.
    ///
    /// # Errors
    /// `NODEV` when there is none, `PERM` when another module has claimed it or off the application's thread.
    pub fn open(name: &str, events: impl Fn(BdevEvent) + 'static) -> Result<Self, Errno> {
        Self::open_to(name, true, events)
    }

    fn open_to(name: &str, write: bool, events: impl Fn(BdevEvent) + 'static) -> Result<Self, Errno> {
        unsafe extern "C" fn event(kind: u32, _: *mut sys::spdk_bdev, ctx: *mut c_void) {
            let events = ctx.cast::<BdevEvents>().cast_const();
            // SAFETY: `ctx` came from `Rc::into_raw` below, and that count is held until the bdev is closed. Another is
            // taken for this call, which may close it.
            let events = unsafe {
                Rc::increment_strong_count(events);
                Rc::from_raw(events)
            };
            match kind {
                sys::spdk_bdev_event_type::SPDK_BDEV_EVENT_REMOVE => events(BdevEvent::Removed),
                sys::spdk_bdev_event_type::SPDK_BDEV_EVENT_RESIZE => events(BdevEvent::Resized),
                _ => {}
            }
        }
        if !on_app_thread() {
            return Err(Errno::PERM);
        }
        let name = CString::new(name).map_err(|_| Errno::INVAL)?;
        let events = Rc::into_raw(Rc::new(Box::new(events) as BdevEvents));
        let mut raw = ptr::null_mut();
        let ctx = events.cast_mut().cast();
        // SAFETY: the callback expects the count.
        let rc = unsafe { sys::spdk_bdev_open_ext(name.as_ptr(), write, Some(event), ctx, &raw mut raw) };
        match (Errno::check(rc), NonNull::new(raw)) {
            (Ok(()), Some(raw)) => Ok(Self(Open { raw, events, is_claimed: false })),
            (result, _) => {
                // SAFETY: SPDK did not take the count.
                drop(unsafe { Rc::from_raw(events) });
                Err(result.err().unwrap_or(Errno::NODEV))
            }
        }
    }

    fn bdev(&self) -> *mut sys::spdk_bdev {
        // SAFETY: an open bdev stays where it is.
        unsafe { sys::spdk_bdev_desc_get_bdev(self.0.raw.as_ptr()) }
    }

    /// Returns the number of bytes of a block.
    #[must_use]
    pub fn block_size(&self) -> u32 {
        // SAFETY: as above.
        unsafe { sys::spdk_bdev_get_block_size(self.bdev()) }
    }

    /// Returns number of blocks.
    #[must_use]
    pub fn num_blocks(&self) -> u64 {
        // SAFETY: as above.
        unsafe { sys::spdk_bdev_get_num_blocks(self.bdev()) }
    }

    /// Returns the calling thread's channel to the bdev.
    ///
    /// # Errors
    /// `PERM` off any SPDK thread, `NOMEM` when the bdev gives no channel.
    pub fn channel(self: &Arc<Self>) -> Result<BdevChannel, Errno> {
        let owner = OwnerThread::current()?;
        // SAFETY: the bdev is open.
        let raw = NonNull::new(unsafe { sys::spdk_bdev_get_io_channel(self.0.raw.as_ptr()) }).ok_or(Errno::NOMEM)?;
        Ok(BdevChannel(Rc::new(Channel { raw, owner, desc: Arc::clone(self), block_size: self.block_size() })))
    }
}

impl Drop for BdevDesc {
    fn drop(&mut self) {
        let open = self.0;
        if on_app_thread() {
            // SAFETY: this value is gone after this.
            return unsafe { open.close() };
        }
        let close = move || {
            // SAFETY: as above.
            unsafe { open.close() };
        };
        if let Err(error) = send_to_app(close) {
            log::error!("a bdev could not be closed: {error}");
        }
    }
}

/// A thread's way to an open bdev, which stays open as long as there is one. A [`BdevRequest`] that was sent on it
/// keeps it until its end.
pub struct BdevChannel(Rc<Channel>);

struct Channel {
    raw: NonNull<sys::spdk_io_channel>,
    owner: OwnerThread,
    desc: Arc<BdevDesc>,
    /// A bdev's block size does not change.
    block_size: u32,
}

impl Drop for Channel {
    fn drop(&mut self) {
        if self.owner.lets_go_of("a channel of a bdev") {
            // SAFETY: this value is one reference, put back on its thread.
            unsafe { sys::spdk_put_io_channel(self.raw.as_ptr()) };
        } else {
            // The bdev must not be closed before its channel is gone.
            std::mem::forget(Arc::clone(&self.desc));
        }
    }
}

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

impl std::fmt::Debug for BdevDesc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("BdevDesc").field(&self.0.raw).finish()
    }
}

impl std::fmt::Debug for BdevChannel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("BdevChannel").field(&self.0.raw).finish()
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

type IoCallback = unsafe extern "C" fn(*mut sys::spdk_bdev_io, bool, *mut c_void);

unsafe extern "C" fn done(io: *mut sys::spdk_bdev_io, success: bool, ctx: *mut c_void) {
    // SAFETY: the count that was given with the I/O, which ends once.
    let (request, _channel) = unsafe { BdevRequest::end(ctx) };
    // SAFETY: the I/O is live until it is freed here.
    let result = if success { Ok(()) } else { Err(unsafe { submit::failure(io) }) };
    // SAFETY: as above.
    unsafe { sys::spdk_bdev_free_io(io) };
    (request.done)(&request, result);
}
