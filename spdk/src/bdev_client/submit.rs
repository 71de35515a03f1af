//! I/O without a cost per I/O: the owner of an I/O is a pointer, and nothing is allocated, counted or checked twice.

use std::ffi::{c_int, c_void};
use std::ptr::{self, NonNull};
use std::rc::Rc;

use libc::iovec;
use nvme_spec::{IoOpcode, Sqe, Status, StatusCode, StatusCodeType};
use spdk_sys as sys;

use super::{BdevChannel, Channel, IoCallback};
use crate::Errno;
use crate::nvme::Rejected;
use crate::nvme::entry::as_cmd;

/// The owner of an I/O, which the bdev layer keeps while the I/O is in flight and gives back with its end.
///
/// # Safety
/// `from_raw` must undo `into_raw`. The pieces must stay in place, and the memory that they describe mapped, from
/// `into_raw` until `from_raw`, and be of as many bytes as is said. The [`BdevChannel`] that the I/O was given to must
/// stay until `from_raw` as well: the bdev layer does not look whether there are I/Os when a channel goes, and nothing
/// is counted for each of them.
pub unsafe trait IoOwner: Sized + 'static {
    /// Gives up ownership to a raw pointer. Two I/Os in flight have different pointers.
    fn into_raw(self) -> NonNull<c_void>;

    /// Takes ownership back.
    ///
    /// # Safety
    /// `raw` came from `into_raw`, and is taken back once.
    unsafe fn from_raw(raw: NonNull<c_void>) -> Self;

    /// Where the data is.
    fn pieces(&self) -> Pieces;

    /// The I/O has ended, on the thread that sent it.
    fn complete(self, result: Result<(), Status>);

    /// The I/O that was sent by [`BdevChannel::passthru`] has ended, likewise, with `dw0` in dword 0 of its completion.
    fn complete_passthru(self, dw0: u32, result: Result<(), Status>);
}

/// Where the data of an I/O is.
#[derive(Debug, Clone, Copy)]
pub struct Pieces {
    /// The pieces.
    pub first: *const iovec,
    /// How many.
    pub count: usize,
    /// Their bytes, all together.
    pub bytes: u64,
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
    /// Sends `op` on `blocks` blocks from `offset`.
    ///
    /// # Errors
    /// The owner comes back with `NOMEM` when the bdev layer is out of I/Os (try again later), `INVAL` for blocks past the
    /// bdev's end or pieces that are not of as many bytes as the blocks, `NOTSUP` for what the bdev cannot do.
    #[inline]
    pub fn submit<O: IoOwner>(&self, op: BlockOp, offset: u64, blocks: u64, owner: O) -> Result<(), Rejected<O>> {
        let Pieces { first: pieces, count, bytes } = owner.pieces();
        let len = blocks.checked_mul(u64::from(self.0.block_size));
        let fits = match op {
            BlockOp::Read | BlockOp::Write | BlockOp::Compare => len == Some(bytes),
            BlockOp::CompareAndWrite(first) => {
                // SAFETY: the owner vouches for its pieces.
                let half = unsafe { halves(pieces, count, first) };
                half.is_some() && half == len
            }
            BlockOp::Unmap | BlockOp::WriteZeroes | BlockOp::Flush => true,
        };
        let (true, Ok(count)) = (fits, c_int::try_from(count)) else {
            return Err(Rejected { errno: Errno::INVAL, command: owner });
        };
        // SPDK takes mutable pointers, but writes to no piece.
        let pieces = pieces.cast_mut();
        let (desc, ch, call) = (self.0.desc.0.raw.as_ptr(), self.0.raw.as_ptr(), Some(ended::<O> as IoCallback));
        let raw = owner.into_raw();
        let ctx = raw.as_ptr();
        // SAFETY: the bdev is open and this is the channel's thread; the owner's pieces and their memory stay until `ended`.
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
        // SAFETY: SPDK did not take the I/O, so its owner is still ours.
        let command = unsafe { O::from_raw(raw) };
        Err(Rejected { errno: Errno::check(rc).err().unwrap_or(Errno::IO), command })
    }

    /// The bdev's size in blocks, as it is now.
    #[must_use]
    pub fn num_blocks(&self) -> u64 {
        self.0.desc.num_blocks()
    }

    /// Sends an NVMe I/O command as it is, with its dwords 10 to 15. Its data are the owner's pieces; the bdev puts in the namespace.
    /// What the dwords say of blocks is looked at by nobody on the way.
    ///
    /// # Errors
    /// The owner comes back with `NOMEM` when the bdev layer is out of I/Os (try again later), `NOTSUP` where the bdev takes no NVMe
    /// commands.
    pub fn passthru<O: IoOwner>(&self, opcode: u8, dwords: [u32; 6], owner: O) -> Result<(), Rejected<O>> {
        let Pieces { first: pieces, count, bytes } = owner.pieces();
        let (Ok(count), Ok(len)) = (c_int::try_from(count), usize::try_from(bytes)) else {
            return Err(Rejected { errno: Errno::INVAL, command: owner });
        };
        let sqe = Sqe::io(IoOpcode(opcode), 0).with_dwords(dwords);
        let (desc, ch, call) =
            (self.0.desc.0.raw.as_ptr(), self.0.raw.as_ptr(), Some(ended_passthru::<O> as IoCallback));
        let (pieces, none) = (pieces.cast_mut(), ptr::null_mut());
        let raw = owner.into_raw();
        // SAFETY: as for `submit`; the command is copied.
        let rc = unsafe {
            sys::spdk_bdev_nvme_iov_passthru_md(desc, ch, as_cmd(&sqe), pieces, count, len, none, 0, call, raw.as_ptr())
        };
        Errno::check(rc).map_err(|errno| {
            // SAFETY: SPDK did not take the I/O, so its owner is still ours.
            Rejected { errno, command: unsafe { O::from_raw(raw) } }
        })
    }

    /// Asks the bdev to abort the I/O whose owner is `raw`. That I/O ends as any other does, aborted or not. `done` is called when
    /// the abort itself has ended, which may be before or after, and is told whether it had an effect.
    ///
    /// # Errors
    /// `NOTSUP` when the bdev cannot abort, `NOMEM` when the bdev layer is out of I/Os.
    pub fn abort_owner<F>(&self, raw: NonNull<c_void>, done: F) -> Result<(), Errno>
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
        // SAFETY: the bdev is open and this is the channel's thread; the pointer is compared, not followed. The box keeps the
        // channel until `over`, which frees it.
        let rc = unsafe { sys::spdk_bdev_abort(desc, ch, raw.as_ptr(), Some(over::<F>), kept.cast()) };
        Errno::check(rc).inspect_err(|_| {
            // SAFETY: SPDK did not take the box.
            drop(unsafe { Box::from_raw(kept) });
        })
    }
}

unsafe extern "C" fn ended_passthru<O: IoOwner>(io: *mut sys::spdk_bdev_io, success: bool, ctx: *mut c_void) {
    let Some(raw) = NonNull::new(ctx) else { return };
    let (mut dw0, mut sct, mut sc) = (0, 0, 0);
    // SAFETY: the bdev layer ends each I/O once, with the pointer that it was given; the I/O is live until it is freed, once.
    let (owner, result) = unsafe {
        let owner = O::from_raw(raw);
        sys::spdk_bdev_io_get_nvme_status(io, &raw mut dw0, &raw mut sct, &raw mut sc);
        let result = if success { Ok(()) } else { Err(failure(io)) };
        sys::spdk_bdev_free_io(io);
        (owner, result)
    };
    owner.complete_passthru(dw0, result);
}

unsafe extern "C" fn ended<O: IoOwner>(io: *mut sys::spdk_bdev_io, success: bool, ctx: *mut c_void) {
    let Some(raw) = NonNull::new(ctx) else { return };
    // SAFETY: the bdev layer ends each I/O once, with the pointer that it was given.
    let owner = unsafe { O::from_raw(raw) };
    let result = if success {
        Ok(())
    } else {
        // SAFETY: the I/O is live until it is freed below.
        Err(unsafe { failure(io) })
    };
    // SAFETY: the I/O has ended and is freed once.
    unsafe { sys::spdk_bdev_free_io(io) };
    owner.complete(result);
}

/// The bytes of the pieces before `first`, if those from there on are of as many.
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

/// Whether the data were not what they were compared with. Where the bdev layer compares by itself, only the status of fused
/// commands tells: the other one is an internal error then.
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
