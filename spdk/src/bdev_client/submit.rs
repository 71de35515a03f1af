//! I/O without a cost per I/O: the bdev layer has an I/O as a pointer, and nothing is allocated or checked twice. An
//! I/O holds the channel that it was sent on: the bdev layer does not look whether there are I/Os when a channel goes.

use std::ffi::{c_int, c_void};
use std::ptr::{self, NonNull};
use std::rc::Rc;

use host_memory::{Pieces, RawIo};
use libc::iovec;
use nvme_spec::{IoOpcode, Sqe, Status, StatusCode, StatusCodeType};
use spdk_sys as sys;

use super::{BdevChannel, Channel, IoCallback};
use crate::Errno;
use crate::nvme::Rejected;
use crate::nvme::entry::as_cmd;
use crate::urgency;

/// Hears of the ends of I/Os of the type `O`, on the thread that sent them.
pub trait Completer<O: RawIo>: 'static {
    /// The I/O has ended.
    fn complete(io: O, result: Result<(), Status>);

    /// The I/O that was sent by [`BdevChannel::passthru`] has ended, likewise, with `dw0` in dword 0 of its completion.
    fn complete_passthru(io: O, dw0: u32, result: Result<(), Status>);
}

/// What to do with blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockOp {
    /// Read into the owner's pieces.
    Read,
    /// Write from them.
    Write,
    /// Compare with them.
    Compare,
    /// Compare with as many of the first pieces, then write from the others.
    CompareAndWrite(u16),
    /// Deallocate.
    Unmap,
    /// Write zeroes.
    WriteZeroes,
    /// Write back what is cached.
    Flush,
}

impl BdevChannel {
    /// Sends `op` on `blocks` blocks from `offset`, with the data of `io`, whose end `C` hears of.
    ///
    /// # Errors
    /// The I/O comes back with `NOMEM` when the bdev layer is out of I/Os (try again later), `INVAL` for blocks past
    /// the bdev's end or pieces that are not of as many bytes as the blocks, `NOTSUP` for what the bdev cannot do.
    #[inline]
    pub fn submit<C, O>(&self, op: BlockOp, offset: u64, blocks: u64, io: O) -> Result<(), Rejected<O>>
    where
        C: Completer<O>,
        O: RawIo,
    {
        let Pieces { first: pieces, count, bytes } = io.pieces();
        let len = blocks.checked_mul(u64::from(self.0.block_size));
        let fits = match op {
            BlockOp::Read | BlockOp::Write | BlockOp::Compare => len == Some(bytes),
            BlockOp::CompareAndWrite(first) => {
                // SAFETY: the I/O vouches for its pieces.
                let half = unsafe { halves(pieces, count, first) };
                half.is_some() && half == len
            }
            BlockOp::Unmap | BlockOp::WriteZeroes | BlockOp::Flush => true,
        };
        let (true, Ok(count)) = (fits, c_int::try_from(count)) else {
            return Err(Rejected { errno: Errno::INVAL, command: io });
        };
        // SPDK takes mutable pointers, but writes to no piece.
        let pieces = pieces.cast_mut();
        let (desc, ch, call) = (self.0.desc.0.raw.as_ptr(), self.0.raw.as_ptr(), Some(ended::<C, O> as IoCallback));
        let raw = self.give(io);
        let ctx = raw.as_ptr();
        // SAFETY: the bdev is open and this is the channel's thread; the I/O's pieces, their memory and the channel
        // stay until `ended`.
        let rc = unsafe {
            match op {
                BlockOp::Read => sys::spdk_bdev_readv_blocks(desc, ch, pieces, count, offset, blocks, call, ctx),
                BlockOp::Write => sys::spdk_bdev_writev_blocks(desc, ch, pieces, count, offset, blocks, call, ctx),
                BlockOp::Compare => sys::spdk_bdev_comparev_blocks(desc, ch, pieces, count, offset, blocks, call, ctx),
                BlockOp::CompareAndWrite(first) => {
                    let first = c_int::from(first).min(count);
                    let second = pieces.add(usize::try_from(first).unwrap_or(0));
                    sys::spdk_bdev_comparev_and_writev_blocks(
                        desc,
                        ch,
                        pieces,
                        first,
                        second,
                        count - first,
                        offset,
                        blocks,
                        call,
                        ctx,
                    )
                }
                BlockOp::Unmap => sys::spdk_bdev_unmap_blocks(desc, ch, offset, blocks, call, ctx),
                BlockOp::WriteZeroes => sys::spdk_bdev_write_zeroes_blocks(desc, ch, offset, blocks, call, ctx),
                BlockOp::Flush => sys::spdk_bdev_flush_blocks(desc, ch, offset, blocks, call, ctx),
            }
        };
        if rc == 0 {
            return Ok(());
        }
        // SAFETY: SPDK did not take the I/O, which was given up above.
        let (command, _) = unsafe { take_back(raw) };
        Err(Rejected { errno: Errno::check(rc).err().unwrap_or(Errno::IO), command })
    }

    /// Gives an I/O up to a raw pointer, with a count of the channel.
    #[inline]
    fn give<O: RawIo>(&self, io: O) -> NonNull<c_void> {
        io.carrier().set(Rc::into_raw(Rc::clone(&self.0)).cast());
        io.into_raw()
    }

    /// Returns the bdev's size in blocks, as it is now.
    #[must_use]
    pub fn num_blocks(&self) -> u64 {
        self.0.desc.num_blocks()
    }

    /// Sends an NVMe I/O command as it is, with its dwords 10 to 15. Its data are the pieces of `io`; the bdev puts in
    /// the namespace. What the dwords say of blocks is looked at by nobody on the way.
    ///
    /// # Errors
    /// The I/O comes back with `NOMEM` when the bdev layer is out of I/Os (try again later), `NOTSUP` where the bdev
    /// takes no NVMe commands.
    pub fn passthru<C, O>(&self, opcode: u8, dwords: [u32; 6], io: O) -> Result<(), Rejected<O>>
    where
        C: Completer<O>,
        O: RawIo,
    {
        let Pieces { first: pieces, count, bytes } = io.pieces();
        let (Ok(count), Ok(len)) = (c_int::try_from(count), usize::try_from(bytes)) else {
            return Err(Rejected { errno: Errno::INVAL, command: io });
        };
        let sqe = Sqe::io(IoOpcode(opcode), 0).with_dwords(dwords);
        let (desc, ch, call) =
            (self.0.desc.0.raw.as_ptr(), self.0.raw.as_ptr(), Some(ended_passthru::<C, O> as IoCallback));
        let (pieces, none) = (pieces.cast_mut(), ptr::null_mut());
        let raw = self.give(io);
        // SAFETY: as for `submit`; the command is copied.
        let rc = unsafe {
            sys::spdk_bdev_nvme_iov_passthru_md(desc, ch, as_cmd(&sqe), pieces, count, len, none, 0, call, raw.as_ptr())
        };
        Errno::check(rc).map_err(|errno| {
            // SAFETY: SPDK did not take the I/O, which was given up above.
            Rejected { errno, command: unsafe { take_back(raw) }.0 }
        })
    }

    /// Asks the bdev to abort the I/O that is carried as `raw`. That I/O ends as any other does, aborted or not. `done`
    /// is called when the abort itself has ended, which may be before or after, and is told whether it had an effect.
    /// `must_end` tells a module of this process that somebody waits for the I/O without a limit, and will ask again.
    ///
    /// # Errors
    /// `NOTSUP` when the bdev cannot abort, `NOMEM` when the bdev layer is out of I/Os.
    pub fn abort_owner<F>(&self, raw: NonNull<c_void>, must_end: bool, done: F) -> Result<(), Errno>
    where
        F: FnOnce(bool) + 'static,
    {
        unsafe extern "C" fn over<F: FnOnce(bool)>(io: *mut sys::spdk_bdev_io, success: bool, ctx: *mut c_void) {
            // SAFETY: the abort is over and is this callback's to free.
            unsafe { sys::spdk_bdev_free_io(io) };
            // SAFETY: the box that was given with the abort, which ends once.
            let (channel, done) = *unsafe { Box::from_raw(ctx.cast::<(Rc<Channel>, F)>()) };
            done(success);
            drop(channel);
        }
        // What is to be aborted may end first, and with it the last other use of the channel.
        let kept = Box::into_raw(Box::new((Rc::clone(&self.0), done)));
        let (desc, ch) = (self.0.desc.0.raw.as_ptr(), self.0.raw.as_ptr());
        let rc = urgency::during(must_end, || {
            // SAFETY: the bdev is open and this is the channel's thread; the pointer is compared, not followed. The box
            // keeps the channel until `over`, which frees it.
            unsafe { sys::spdk_bdev_abort(desc, ch, raw.as_ptr(), Some(over::<F>), kept.cast()) }
        });
        Errno::check(rc).inspect_err(|_| {
            // SAFETY: SPDK did not take the box.
            drop(unsafe { Box::from_raw(kept) });
        })
    }
}

/// Takes back an I/O, and the channel that it holds. That is dropped last: with it may go the last use of the bdev.
///
/// # Safety
/// `raw` came from [`BdevChannel::give`] and is taken back once.
#[inline]
unsafe fn take_back<O: RawIo>(raw: NonNull<c_void>) -> (O, Rc<Channel>) {
    // SAFETY: the caller vouches for `raw`; the word was set by `give` and by nobody since.
    unsafe {
        let io = O::from_raw(raw);
        let channel = Rc::from_raw(io.carrier().get().cast());
        (io, channel)
    }
}

unsafe extern "C" fn ended_passthru<C, O>(io: *mut sys::spdk_bdev_io, success: bool, ctx: *mut c_void)
where
    C: Completer<O>,
    O: RawIo,
{
    let Some(raw) = NonNull::new(ctx) else { return };
    let (mut dw0, mut sct, mut sc) = (0, 0, 0);
    // SAFETY: the bdev layer ends each I/O once, with the pointer that it was given; the I/O is live until it is freed,
    // once.
    let (command, channel, result) = unsafe {
        let (command, channel) = take_back(raw);
        sys::spdk_bdev_io_get_nvme_status(io, &raw mut dw0, &raw mut sct, &raw mut sc);
        let result = if success { Ok(()) } else { Err(failure(io)) };
        sys::spdk_bdev_free_io(io);
        (command, channel, result)
    };
    C::complete_passthru(command, dw0, result);
    drop(channel);
}

unsafe extern "C" fn ended<C, O>(io: *mut sys::spdk_bdev_io, success: bool, ctx: *mut c_void)
where
    C: Completer<O>,
    O: RawIo,
{
    let Some(raw) = NonNull::new(ctx) else { return };
    // SAFETY: the bdev layer ends each I/O once, with the pointer that it was given.
    let (command, channel) = unsafe { take_back(raw) };
    let result = if success {
        Ok(())
    } else {
        // SAFETY: the I/O is live until it is freed below.
        Err(unsafe { failure(io) })
    };
    // SAFETY: the I/O has ended and is freed once.
    unsafe { sys::spdk_bdev_free_io(io) };
    C::complete(command, result);
    drop(channel);
}

/// Returns the bytes of the pieces before `first`, if those from there on are of as many.
///
/// # Safety
/// There must be `count` pieces.
unsafe fn halves(pieces: *const iovec, count: usize, first: u16) -> Option<u64> {
    // SAFETY: the caller vouches for the pieces.
    let pieces = if count == 0 { &[] } else { unsafe { std::slice::from_raw_parts(pieces, count) } };
    let (compare, write) = pieces.split_at_checked(usize::from(first))?;
    let bytes = |half: &[iovec]| half.iter().try_fold(0_u64, |sum, piece| sum.checked_add(piece.iov_len as u64));
    bytes(compare).filter(|compare| Some(*compare) == bytes(write))
}

/// # Safety
/// `io` must be an I/O that has ended.
#[cold]
pub(super) unsafe fn failure(io: *mut sys::spdk_bdev_io) -> Status {
    let (mut dw0, mut sct, mut sc) = (0, 0, 0);
    // SAFETY: the caller vouches for the I/O.
    unsafe { sys::spdk_bdev_io_get_nvme_status(io, &raw mut dw0, &raw mut sct, &raw mut sc) };
    // SAFETY: as above.
    if unsafe { is_miscompare(io) } {
        return Status::COMPARE_FAILURE;
    }
    let part = |value: c_int| u8::try_from(value).unwrap_or(u8::MAX);
    Status::new(StatusCodeType(part(sct)), part(sc))
}

/// Returns whether the data were not what they were compared with. Where the bdev layer compares by itself, only the
/// status of fused commands tells: the other one is an internal error then.
///
/// # Safety
/// `io` must be an I/O that has ended.
unsafe fn is_miscompare(io: *mut sys::spdk_bdev_io) -> bool {
    let (mut dw0, mut first, mut second) = (0, (0, 0), (0, 0));
    // SAFETY: the caller vouches for the I/O.
    unsafe {
        sys::spdk_bdev_io_get_nvme_fused_status(
            io,
            &raw mut dw0,
            &raw mut first.0,
            &raw mut first.1,
            &raw mut second.0,
            &raw mut second.1,
        );
    }
    let failure = StatusCode::COMPARE_FAILURE;
    first == (c_int::from(failure.sct().0), c_int::from(failure.sc()))
}
