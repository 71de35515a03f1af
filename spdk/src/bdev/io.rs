//! An I/O of the bdev layer's, and how it travels as an NVMe command.

use std::ffi::c_void;
use std::marker::PhantomData;
use std::num::NonZeroU8;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use libc::iovec;
use nvme_spec::admin::AbortResult;
use nvme_spec::nvm::{BlockDw12, DsmDw11, DsmRange};
use nvme_spec::{CommandFlags, Cqe, FusedOperation, IoOpcode, Sqe, Status, StatusCode};
use spdk_sys as sys;

use super::confine::confined_to;
use super::{Carrier, Device, IoType};
use crate::Errno;
use crate::io_device::context;
use crate::nvme::entry::sqe_at;
use crate::nvme::{Command, CtrlrRef, Payload, QueuePair, Rejected};
use crate::thread::NotSend;
use crate::urgency;

/// How an I/O ended, apart from NVMe's own status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IoStatus {
    /// It did what it was asked.
    Success,
    /// It failed.
    Failed,
    /// It was aborted.
    Aborted,
}

/// What travels with an I/O in the bdev layer's own memory.
pub(super) struct Context {
    first: Payload,
    second: Payload,
    /// The data of a Dataset Management command, and how it is described.
    range: DsmRange,
    range_iov: iovec,
    pair: FusedPair,
    retry: RetryState,
    /// Whatever the module notes.
    mark: Option<NonZeroU8>,
    /// How often it was sent in vain.
    failures: u32,
    /// When it was for the first time, if it ever was.
    first_failure: Instant,
}

/// What has happened to a command since its I/O came from the bdev layer.
#[derive(Clone, Copy)]
struct RetryState {
    /// Somebody asked for it to be aborted.
    aborted: bool,
    /// It was lost with its queue, and not sent again since.
    lost: bool,
    /// It is not to be sent again.
    last: bool,
    /// How often it was on a connection that ended by itself.
    losses: u8,
    /// When it was to be aborted first because it has to end, in milliseconds modulo 2^32; 0 if it never was.
    must_end: u32,
}

impl RetryState {
    /// The I/O has to end at that time, in ticks. Returns for how long it has had to.
    fn note_must_end(&mut self, ticks: u64, ticks_hz: u64) -> Duration {
        let now = u32::try_from((ticks / (ticks_hz / 1000).max(1)) & u64::from(u32::MAX)).unwrap_or_default();
        if self.must_end == 0 {
            self.must_end = now.max(1);
        }
        Duration::from_millis(now.max(1).wrapping_sub(self.must_end).into())
    }
}

/// How far a fused pair has come.
#[derive(Clone, Copy)]
struct FusedPair {
    outstanding: u8,
    failure: Option<Cqe>,
}

/// An I/O that must be completed once. One that is dropped fails.
pub struct BdevIo<D: Device> {
    raw: NonNull<sys::spdk_bdev_io>,
    _device: PhantomData<*const D>,
    _stays: NotSend,
}

impl<D: Device> BdevIo<D> {
    /// # Safety
    /// `raw` must be an I/O that was submitted to a device of `D`'s, or taken from a `BdevIo`, on this thread.
    #[inline]
    pub(super) unsafe fn from_raw(raw: NonNull<sys::spdk_bdev_io>) -> Self {
        Self { raw, _device: PhantomData, _stays: PhantomData }
    }

    /// Returns an I/O that has just been submitted, whose context is not initialised yet.
    ///
    /// # Safety
    /// As for [`from_raw`](Self::from_raw).
    #[inline]
    pub(super) unsafe fn arrived(raw: NonNull<sys::spdk_bdev_io>) -> Self {
        // SAFETY: the caller vouches for the I/O, whose context is the module's.
        unsafe {
            let io = Self::from_raw(raw);
            let retry = RetryState { aborted: false, lost: false, last: false, losses: 0, must_end: 0 };
            (&raw mut (*io.context()).retry).write(retry);
            (&raw mut (*io.context()).failures).write(0);
            (&raw mut (*io.context()).mark).write(None);
            (&raw mut (*io.context()).pair).write(FusedPair { outstanding: 0, failure: None });
            io
        }
    }

    /// Gives up the duty to complete it.
    #[inline]
    pub(super) fn take(self) -> NonNull<sys::spdk_bdev_io> {
        std::mem::ManuallyDrop::new(self).raw
    }

    #[inline]
    fn as_ptr(&self) -> *mut sys::spdk_bdev_io {
        self.raw.as_ptr()
    }

    /// Returns the part of SPDK's I/O that is the module's. The payloads in it are initialised when it is sent.
    #[inline]
    fn context(&self) -> *mut Context {
        // SAFETY: the structure is followed by as many bytes as the module asked for, aligned to a cache line.
        unsafe { (&raw mut (*self.as_ptr()).driver_ctx).cast() }
    }

    #[inline]
    fn block(&self) -> &sys::spdk_bdev_io_block_params {
        // SAFETY: every variant of the union is plain data of the same memory, which SPDK zeroes or fills in.
        unsafe { &(*self.as_ptr()).u.bdev }
    }

    #[inline]
    fn passthru(&self) -> &sys::spdk_bdev_io_nvme_passthru_params {
        // SAFETY: as above.
        unsafe { &(*self.as_ptr()).u.nvme_passthru }
    }

    /// Returns its kind.
    #[must_use]
    #[inline]
    pub fn io_type(&self) -> IoType {
        // SAFETY: the I/O is live.
        IoType::from_raw(u32::from(unsafe { (*self.as_ptr()).type_ }))
    }

    /// Returns the device that it was sent to.
    #[must_use]
    #[inline]
    pub fn device(&self) -> &D {
        // SAFETY: a bdev outlives its I/Os, and this one's is of `D`'s.
        unsafe { super::device::device_of(self.as_ptr()) }
    }

    /// Returns the channel that it was sent on.
    #[must_use]
    #[inline]
    pub fn channel(&self) -> &D::Channel {
        // SAFETY: a channel outlives its I/Os; it is one that the device gave.
        unsafe { &**context::<D::Channel>(sys::spdk_bdev_io_get_io_channel(self.as_ptr())) }
    }

    /// Returns the first block.
    #[must_use]
    #[inline]
    pub fn offset_blocks(&self) -> u64 {
        self.block().offset_blocks
    }

    /// Returns the number of blocks.
    #[must_use]
    #[inline]
    pub fn num_blocks(&self) -> u64 {
        self.block().num_blocks
    }

    /// Returns whether it is a read that wants a buffer from the bdev layer.
    #[must_use]
    #[inline]
    pub fn wants_buffer(&self) -> bool {
        let block = self.block();
        // SAFETY: SPDK gives a read `iovcnt` elements at `iovs`, or null.
        let given = || block.iovs.is_null() || block.iovcnt < 1 || unsafe { (*block.iovs).iov_base.is_null() };
        self.io_type() == IoType::Read && given()
    }

    /// Has the bdev layer give it a buffer of `len` bytes; then it is submitted again. What is no read fails.
    pub fn get_buffer(self, len: u64) {
        unsafe extern "C" fn got<D: Device>(ch: *mut sys::spdk_io_channel, io: *mut sys::spdk_bdev_io, success: bool) {
            let Some(raw) = NonNull::new(io) else { return };
            // SAFETY: the I/O that was given up below comes back once, with its channel.
            unsafe {
                let io = BdevIo::<D>::from_raw(raw);
                if success {
                    let device = super::device::device_of::<D>(raw.as_ptr());
                    device.submit(&**context::<D::Channel>(ch), io);
                } else {
                    io.complete(IoStatus::Failed);
                }
            }
        }
        if self.io_type() != IoType::Read {
            return self.complete(IoStatus::Failed);
        }
        let raw = self.take();
        // SAFETY: the I/O is live, and comes back to `got`.
        unsafe { sys::spdk_bdev_io_get_buf(raw.as_ptr(), Some(got::<D>), len) };
    }

    /// Completes it.
    #[inline]
    pub fn complete(self, status: IoStatus) {
        use sys::spdk_bdev_io_status as s;
        let status = match status {
            IoStatus::Success => s::SPDK_BDEV_IO_STATUS_SUCCESS,
            IoStatus::Failed => s::SPDK_BDEV_IO_STATUS_FAILED,
            IoStatus::Aborted => s::SPDK_BDEV_IO_STATUS_ABORTED,
        };
        // SAFETY: the I/O is live, completed once, on its thread.
        unsafe { sys::spdk_bdev_io_complete(self.take().as_ptr(), status) };
    }

    /// Completes it with an NVMe status, and dword 0 of a completion.
    #[inline]
    pub fn complete_nvme(self, dw0: u32, status: Status) {
        let (sct, sc) = (i32::from(status.sct().0), i32::from(status.sc()));
        // SAFETY: as above.
        unsafe { sys::spdk_bdev_io_complete_nvme_status(self.take().as_ptr(), dw0, sct, sc) };
    }

    /// Gives it to its device once more; see [`Device::resubmit`].
    pub fn resubmit(self) {
        self.with_device(D::resubmit);
    }

    /// Calls `f` with the device and the channel that it was sent to, and the I/O.
    pub fn with_device<R>(self, f: impl FnOnce(&D, &D::Channel, Self) -> R) -> R {
        // SAFETY: the bdev and the channel outlive the I/O, and the call: the caller is in the middle of using either.
        let (device, channel) = unsafe {
            let raw = self.as_ptr();
            let channel = &**context::<D::Channel>(sys::spdk_bdev_io_get_io_channel(raw));
            (super::device::device_of::<D>(raw), channel)
        };
        f(device, channel, self)
    }

    /// Calls `f` with the channel that it was sent on, and the I/O.
    pub fn with_channel(self, f: impl FnOnce(&D::Channel, Self)) {
        // SAFETY: the channel outlives the I/O, and the call: the caller is in the middle of using either.
        let channel = unsafe { &**context::<D::Channel>(sys::spdk_bdev_io_get_io_channel(self.as_ptr())) };
        f(channel, self);
    }

    /// Makes it ready for a way over other threads, which ends on this one.
    #[must_use]
    pub fn carrier(self) -> Carrier<D> {
        Carrier::new(self)
    }

    /// Sends it, a read, write or compare, whose data is its own scatter-gather list.
    ///
    /// # Errors
    /// See [`Rejected`]; `INVAL` for any other kind of I/O.
    #[inline]
    pub fn send_blocks(self, qpair: &QueuePair, nsid: u32, block_size: u32) -> Result<(), Rejected<Self>> {
        let block = self.block();
        let Some((nlb, len)) = transfer(block.num_blocks, block_size) else {
            return Err(Rejected { errno: Errno::INVAL, command: self });
        };
        let slba = block.offset_blocks;
        // SPDK has the flags at their places in the dword, whose lower half it leaves to the initiator.
        let dw12 = |flags| BlockDw12::from_bits(flags).with_nlb(nlb);
        let sqe = match self.io_type() {
            IoType::Read => Sqe::read(nsid, slba, dw12(block.dif_check_flags)),
            // SAFETY: both words are plain data, zero unless the sender gave them.
            IoType::Write => unsafe {
                let dw12 = dw12(block.dif_check_flags | block.nvme_cdw12.raw);
                Sqe { cdw13: block.nvme_cdw13.raw, ..Sqe::write(nsid, slba, dw12) }
            },
            IoType::Compare => Sqe::compare(nsid, slba, dw12(block.dif_check_flags)),
            // What SPDK gives of it is no list.
            _ => return Err(Rejected { errno: Errno::INVAL, command: self }),
        };
        // SAFETY: the I/O's list and buffers stay until it is completed; the context is the module's.
        unsafe {
            let payload = Payload::new(block.iovs, usize::try_from(block.iovcnt).unwrap_or(0));
            (&raw mut (*self.context()).first).write(payload);
            qpair.submit::<_, false>(&sqe, len, self)
        }
    }

    /// Sends a compare-and-write as a fused pair. [`Device::completed`] hears of each of the two; see
    /// [`fused_done`](Self::fused_done).
    ///
    /// # Errors
    /// See [`Rejected`]; `INVAL` for any other kind of I/O. If the second of the pair is rejected after the first was
    /// taken, the queue pair is disconnected, which completes the first: this is no error here.
    pub fn send_fused(self, qpair: &QueuePair, nsid: u32, block_size: u32) -> Result<(), Rejected<Self>> {
        if self.io_type() != IoType::CompareAndWrite {
            return Err(Rejected { errno: Errno::INVAL, command: self });
        }
        let block = self.block();
        let Some((nlb, len)) = transfer(block.num_blocks, block_size) else {
            return Err(Rejected { errno: Errno::INVAL, command: self });
        };
        // Nothing may come between the two, so both must find a request.
        if qpair.is_live() && qpair.free_requests() < 2 {
            return Err(Rejected { errno: Errno::NOMEM, command: self });
        }
        let (slba, dw12) = (block.offset_blocks, BlockDw12::from_bits(block.dif_check_flags).with_nlb(nlb));
        let compare = Sqe::compare(nsid, slba, dw12).with_flags(CommandFlags::FUSED_FIRST);
        let write = Sqe::write(nsid, slba, dw12).with_flags(CommandFlags::FUSED_SECOND);
        // SAFETY: as for `send_blocks`, for both lists. The second handle is for the second command: two completions
        // come, and `fused_done` lets only the last of them complete the I/O.
        unsafe {
            let context = self.context();
            let count = |n: i32| usize::try_from(n).unwrap_or(0);
            (&raw mut (*context).first).write(Payload::new(block.iovs, count(block.iovcnt)));
            (&raw mut (*context).second).write(Payload::new(block.fused_iovs, count(block.fused_iovcnt)));
            (&raw mut (*context).pair).write(FusedPair { outstanding: 2, failure: None });
            let twin = Self::from_raw(self.raw);
            if let Err(rejected) = qpair.submit::<_, false>(&compare, len, self) {
                std::mem::forget(twin);
                return Err(rejected);
            }
            if let Err(rejected) = qpair.submit::<_, true>(&write, len, twin) {
                rejected.command.second_rejected();
                qpair.disconnect();
            }
        }
        Ok(())
    }

    /// The second of a fused pair has failed before it was sent. The first may have ended meanwhile, or ends later.
    fn second_rejected(self) {
        D::completed(self, Cqe::of(Status::INTERNAL_ERROR), true);
    }

    /// Takes note of the completion of one of a fused pair. The I/O and the pair's outcome, once both are there.
    #[must_use]
    pub fn fused_done(self, completion: Cqe) -> Option<(Self, Cqe)> {
        // SAFETY: the pair is initialised when the I/O arrives.
        let pair = unsafe { &mut (*self.context()).pair };
        pair.outstanding = pair.outstanding.saturating_sub(1);
        if !completion.status.is_success() && pair.failure.is_none_or(|earlier| is_failed_fused(earlier.status)) {
            pair.failure = Some(completion);
        }
        if pair.outstanding > 0 {
            std::mem::forget(self);
            return None;
        }
        let outcome = pair.failure.unwrap_or(completion);
        Some((self, outcome))
    }

    /// Sends it, a write zeroes.
    ///
    /// # Errors
    /// See [`Rejected`]; `INVAL` for any other kind of I/O.
    pub fn send_write_zeroes(self, qpair: &QueuePair, nsid: u32) -> Result<(), Rejected<Self>> {
        if self.io_type() != IoType::WriteZeroes {
            return Err(Rejected { errno: Errno::INVAL, command: self });
        }
        let block = self.block();
        let Some((nlb, _)) = transfer(block.num_blocks, 1) else {
            return Err(Rejected { errno: Errno::INVAL, command: self });
        };
        let sqe = Sqe::write_zeroes(nsid, block.offset_blocks, BlockDw12::of(nlb));
        qpair.submit::<_, false>(&sqe, 0, self)
    }

    /// Sends it, a flush.
    ///
    /// # Errors
    /// See [`Rejected`]; `INVAL` for any other kind of I/O.
    pub fn send_flush(self, qpair: &QueuePair, nsid: u32) -> Result<(), Rejected<Self>> {
        if self.io_type() != IoType::Flush {
            return Err(Rejected { errno: Errno::INVAL, command: self });
        }
        qpair.submit::<_, false>(&Sqe::flush(nsid), 0, self)
    }

    /// Sends it, an unmap, as a Dataset Management command with one range, which lies in the I/O itself.
    ///
    /// # Errors
    /// See [`Rejected`]; `INVAL` for any other kind of I/O.
    pub fn send_unmap(self, qpair: &QueuePair, nsid: u32) -> Result<(), Rejected<Self>> {
        if self.io_type() != IoType::Unmap {
            return Err(Rejected { errno: Errno::INVAL, command: self });
        }
        let block = self.block();
        let Ok(nlb) = u32::try_from(block.num_blocks) else {
            return Err(Rejected { errno: Errno::INVAL, command: self });
        };
        let range = DsmRange { context_attributes: 0, nlb, slba: block.offset_blocks };
        let sqe = Sqe::dataset_management(nsid, 0, DsmDw11::new().with_ad(true));
        let context = self.context();
        // SAFETY: the context is the module's and stays until the I/O is completed; so does what points into it.
        unsafe {
            (&raw mut (*context).range).write(range);
            let iov = iovec { iov_base: (&raw mut (*context).range).cast(), iov_len: size_of::<DsmRange>() };
            (&raw mut (*context).range_iov).write(iov);
            (&raw mut (*context).first).write(Payload::new(&raw const (*context).range_iov, 1));
            qpair.submit::<_, false>(&sqe, DsmRange::LEN, self)
        }
    }

    /// Sends an NVMe I/O command that was passed through, for namespace `nsid`.
    ///
    /// # Errors
    /// See [`Rejected`]; `INVAL` for more than `max_transfer` bytes, for metadata in a buffer of its own, or any other
    /// kind of I/O.
    pub fn send_passthru(self, qpair: &QueuePair, nsid: u32, max_transfer: u32) -> Result<(), Rejected<Self>> {
        let params = self.passthru();
        let len = u32::try_from(params.nbytes).ok().filter(|&len| len <= max_transfer && self.is_passthru());
        // The field is there for these two kinds only.
        let has_metadata = self.io_type() != IoType::NvmeIo && !params.md_buf.is_null();
        let len = len.filter(|_| !has_metadata);
        let Some(len) = len else {
            return Err(Rejected { errno: Errno::INVAL, command: self });
        };
        // SAFETY: every I/O that is passed through has a command.
        let sqe = Sqe { nsid, ..unsafe { sqe_at(&raw const params.cmd) } };
        let (list, count, buffer) = (params.iovs, usize::try_from(params.iovcnt).unwrap_or(0), params.buf);
        let by_list = self.io_type() == IoType::NvmeIovMd;
        let context = self.context();
        // SAFETY: as for `send_blocks` and `send_unmap`.
        unsafe {
            let payload = if by_list {
                Payload::new(list, count)
            } else {
                (&raw mut (*context).range_iov).write(iovec { iov_base: buffer, iov_len: params.nbytes });
                Payload::new(&raw const (*context).range_iov, 1)
            };
            (&raw mut (*context).first).write(payload);
            qpair.submit::<_, false>(&sqe, len, self)
        }
    }

    /// Returns whether it is an NVMe I/O command that is passed through.
    fn is_passthru(&self) -> bool {
        matches!(self.io_type(), IoType::NvmeIo | IoType::NvmeIoMd | IoType::NvmeIovMd)
    }

    /// Returns the opcode of an NVMe I/O command that is passed through, and whether it is one of a fused pair.
    #[must_use]
    pub fn passthru_opcode(&self) -> Option<(IoOpcode, bool)> {
        self.is_passthru().then(|| {
            // SAFETY: every I/O that is passed through has a command.
            let sqe = unsafe { sqe_at(&raw const self.passthru().cmd) };
            (IoOpcode(sqe.opcode), sqe.fuse() != FusedOperation::NORMAL)
        })
    }

    /// Sends an NVMe admin command that was passed through, and completes the I/O with its outcome. Whatever namespace
    /// it names, it is sent for `nsid`, or not at all if it concerns others. It fails if it
    /// carries more than `max_transfer` bytes or is not taken.
    pub fn send_admin(self, ctrlr: &CtrlrRef, nsid: u32, max_transfer: u32) {
        let params = self.passthru();
        // SAFETY: what is there is plain data, which is used as a command only if it is one.
        let (command, buffer) = (unsafe { sqe_at(&raw const params.cmd) }, params.buf);
        let is_admin = self.io_type() == IoType::NvmeAdmin;
        let Some(len) = u32::try_from(params.nbytes).ok().filter(|&len| len <= max_transfer && is_admin) else {
            return self.complete(IoStatus::Failed);
        };
        let Some(sqe) = confined_to(command, nsid) else {
            return self.complete_nvme(0, Status::INVALID_OPCODE);
        };
        let carrier = self.carrier();
        let done = move |Cqe { dw0, status, .. }: Cqe| {
            carrier.deliver(move |io| io.complete_nvme(dw0, status));
        };
        // SAFETY: the buffer stays until the I/O is completed, which `done` does, or the carrier if it is dropped.
        if let Err(error) = unsafe { ctrlr.admin(&sqe, buffer, len, done) } {
            log::debug!("an admin command was not taken: {error}");
        }
    }

    /// Takes note that it was sent in vain and is to be sent once more. Returns how often that was so, this time
    /// included, and for how long.
    #[must_use]
    pub fn count_failure(&self) -> (u32, Duration) {
        let context = self.context();
        // SAFETY: the count is initialised when the I/O arrives, and the time by the first call of this.
        unsafe {
            let failures = (*context).failures.saturating_add(1);
            if failures == 1 {
                (&raw mut (*context).first_failure).write(Instant::now());
            }
            (*context).failures = failures;
            (*context).retry.aborted = false;
            (failures, (*context).first_failure.elapsed())
        }
    }

    /// Takes what was noted last by [`set_mark`](Self::set_mark), which is gone then.
    #[must_use]
    #[inline]
    pub fn take_mark(&self) -> Option<NonZeroU8> {
        // SAFETY: it is initialised when the I/O arrives, and used on the I/O's thread only.
        unsafe { (*self.context()).mark.take() }
    }

    /// Notes something for the module's own use.
    #[inline]
    pub fn set_mark(&self, mark: NonZeroU8) {
        // SAFETY: as for `take_mark`.
        unsafe { (*self.context()).mark = Some(mark) };
    }

    /// Returns what SPDK's tracepoints know it by.
    #[must_use]
    pub fn name(&self) -> u64 {
        self.raw.addr().get() as u64
    }

    /// When the bdev layer submitted it, in ticks of [`crate::time`].
    #[must_use]
    pub fn submitted_at(&self) -> u64 {
        // SAFETY: the I/O is live.
        unsafe { (*self.as_ptr()).internal.submit_tsc }
    }

    fn retry(&self) -> RetryState {
        // SAFETY: it is initialised when the I/O arrives, and used on the I/O's thread only.
        unsafe { (*self.context()).retry }
    }

    fn change_retry(&self, change: impl FnOnce(&mut RetryState)) {
        let mut retry = self.retry();
        change(&mut retry);
        // SAFETY: as for `retry`.
        unsafe { (*self.context()).retry = retry };
    }

    /// Returns whether it was asked for to be aborted.
    #[must_use]
    pub fn was_aborted(&self) -> bool {
        self.retry().aborted
    }

    /// Returns whether it was lost with its queue and not sent again since.
    #[must_use]
    pub fn was_lost(&self) -> bool {
        self.retry().lost
    }

    /// Returns how often it was on a connection that ended by itself.
    #[must_use]
    pub fn losses(&self) -> u8 {
        self.retry().losses
    }

    /// Takes note that it was lost with its queue; `counted` tells that the connection ended by itself.
    pub fn note_lost(&self, counted: bool) {
        self.change_retry(|retry| {
            retry.lost = true;
            retry.losses = retry.losses.saturating_add(u8::from(counted));
        });
    }

    /// Takes note that it is not to be sent again.
    pub fn note_last(&self) {
        self.change_retry(|retry| retry.last = true);
    }

    /// Returns whether it is not to be sent again.
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.retry().last
    }

    /// Takes note that what was sent of it before cannot be carried out any more.
    pub fn note_over(&self) {
        self.change_retry(|retry| retry.lost = false);
    }

    /// Returns whether its command may change what the namespace holds.
    #[must_use]
    pub fn may_write(&self) -> bool {
        !matches!(self.io_type(), IoType::Read | IoType::Compare | IoType::Flush)
    }

    /// Returns whether `other` is an I/O of this one's bdev and channel that was submitted before it. The bdev layer
    /// may have kept an abort back until the I/O that it names had ended, whose place another module's I/O may have by
    /// now.
    fn was_sent_after(&self, other: NonNull<sys::spdk_bdev_io>) -> bool {
        let (own, other) = (self.as_ptr(), other.as_ptr());
        // SAFETY: the bdev layer keeps the places of I/Os as long as it runs. What another thread may be writing there
        // is compared only, a word at a time.
        unsafe {
            let bdev = (&raw const (*other).bdev).read_volatile();
            let channel = (&raw const (*other).internal.ch).read_volatile();
            let submitted = (&raw const (*other).internal.submit_tsc).read_volatile();
            bdev == (*own).bdev && channel == (*own).internal.ch && submitted <= (*own).internal.submit_tsc
        }
    }

    /// Returns whether what this one is to abort has to end: it is waited for without a limit, and its abort is asked
    /// for again. To be asked while this one is being submitted.
    #[must_use]
    pub fn is_of_what_must_end(&self) -> bool {
        self.io_type() == IoType::Abort && urgency::must_end()
    }

    /// Takes note that the I/O that this one is to abort is not to be sent again. Returns for how long that has had to
    /// end, which is zero at first. To be called while this one is being submitted.
    #[must_use]
    pub fn mark_target(&self) -> Duration {
        let Some(target) = self.abort_target() else { return Duration::ZERO };
        if !self.was_sent_after(target.cast()) {
            return Duration::ZERO;
        }
        let target =
            std::mem::ManuallyDrop::new(Self { raw: target.cast(), _device: PhantomData, _stays: PhantomData });
        let mut waited = Duration::ZERO;
        target.change_retry(|retry| {
            retry.aborted = true;
            if self.is_of_what_must_end() {
                waited = retry.note_must_end(self.submitted_at(), crate::time::ticks_hz());
            }
        });
        waited
    }

    /// Asks the controller to abort the I/O that this one names, and completes this one with the outcome, or when the
    /// asker waits for it no more. It fails, and nothing is returned, if the queue pair has no such I/O or the
    /// controller cannot be asked.
    #[must_use]
    pub fn send_abort(self, qpair: &QueuePair) -> Option<AbortRequest<D>> {
        let Some(target) = self.abort_target() else {
            self.complete(IoStatus::Failed);
            return None;
        };
        let request = AbortRequest(Arc::new(Mutex::new(Some(self.carrier()))));
        let asked = request.clone();
        let done = move |Cqe { dw0, status, .. }: Cqe| {
            let aborted = status.is_success() && !AbortResult::from_bits(dw0).not_aborted();
            asked.end(if aborted { IoStatus::Success } else { IoStatus::Failed });
        };
        match qpair.abort(target, done) {
            Ok(()) => Some(request),
            Err(error) => {
                log::debug!("nothing was aborted: {error}");
                request.end(IoStatus::Failed);
                None
            }
        }
    }

    /// Returns the I/O that this one is to abort, by the pointer that its commands carry.
    #[must_use]
    pub fn abort_target(&self) -> Option<NonNull<c_void>> {
        if self.io_type() != IoType::Abort {
            return None;
        }
        // SAFETY: the union is plain data; this is an abort.
        NonNull::new(unsafe { (*self.as_ptr()).u.abort.bio_to_abort }).map(NonNull::cast)
    }

    /// Returns whether `owner` names this I/O.
    #[must_use]
    pub fn is(&self, owner: NonNull<c_void>) -> bool {
        self.raw.cast() == owner
    }
}

/// An abort that the controller was asked for.
pub struct AbortRequest<D: Device>(Arc<Mutex<Option<Carrier<D>>>>);

impl<D: Device> AbortRequest<D> {
    /// Waits for the controller's answer no more.
    pub fn give_up(self) {
        self.end(IoStatus::Failed);
    }

    fn end(&self, status: IoStatus) {
        let carrier = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(carrier) = carrier {
            carrier.deliver(move |io| io.complete(status));
        }
    }

    /// Returns whether it was answered or given up.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }
}

impl<D: Device> Clone for AbortRequest<D> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<D: Device> std::fmt::Debug for AbortRequest<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AbortRequest").field("over", &self.is_over()).finish()
    }
}

/// Returns whether the status is that of a command whose partner failed.
fn is_failed_fused(status: Status) -> bool {
    status.code() == StatusCode::ABORTED_FAILED_FUSED
}

/// Returns the number of blocks as a command has it, which is less one, and the bytes.
#[inline]
fn transfer(blocks: u64, block_size: u32) -> Option<(u16, u32)> {
    let nlb = u16::try_from(blocks.checked_sub(1)?).ok()?;
    let len = u32::try_from(blocks.checked_mul(u64::from(block_size))?).ok()?;
    Some((nlb, len))
}

// SAFETY: the raw pointer is the I/O's own, the payloads lie in it, and the bdev layer keeps lists and buffers until
// the I/O is completed. Two of a fused pair share a pointer; `fused_done` counts them.
unsafe impl<D: Device> Command for BdevIo<D> {
    #[inline]
    fn into_raw(self) -> NonNull<c_void> {
        self.take().cast()
    }

    #[inline]
    unsafe fn from_raw(raw: NonNull<c_void>) -> Self {
        // SAFETY: the caller gives back what `into_raw` gave.
        unsafe { Self::from_raw(raw.cast()) }
    }

    #[inline]
    unsafe fn payload(raw: NonNull<c_void>, second: bool) -> NonNull<Payload> {
        let io = std::mem::ManuallyDrop::new(Self { raw: raw.cast(), _device: PhantomData, _stays: PhantomData });
        let context = io.context();
        // SAFETY: the context lies in the I/O, which is live.
        unsafe {
            let payload = if second { &raw mut (*context).second } else { &raw mut (*context).first };
            NonNull::new_unchecked(payload)
        }
    }

    #[inline]
    fn complete(self, completion: Cqe, second: bool) {
        D::completed(self, completion, second);
    }
}

impl<D: Device> Drop for BdevIo<D> {
    fn drop(&mut self) {
        log::error!("an I/O was dropped before it was completed; it fails");
        // SAFETY: the I/O is live and was not completed.
        unsafe {
            sys::spdk_bdev_io_complete(self.as_ptr(), sys::spdk_bdev_io_status::SPDK_BDEV_IO_STATUS_FAILED);
        }
    }
}

impl<D: Device> std::fmt::Debug for BdevIo<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BdevIo").field("raw", &self.raw).field("type", &self.io_type()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use nvme_spec::nvm::MAX_BLOCKS;

    use super::*;

    #[test]
    fn transfers_are_counted_as_commands_count_them() {
        assert_eq!(transfer(1, 512), Some((0, 512)));
        assert_eq!(transfer(MAX_BLOCKS.into(), 4096), Some((u16::MAX, 0x1000_0000)));
    }

    #[test]
    fn transfers_that_no_command_can_carry_are_refused() {
        assert_eq!(transfer(0, 512), None);
        assert_eq!(transfer(u64::from(MAX_BLOCKS) + 1, 512), None);
        assert_eq!(transfer(MAX_BLOCKS.into(), u32::MAX), None);
    }

    /// A device whose I/Os are as large as they are said to be, and that takes note of what ends.
    struct Nothing;

    thread_local! {
        static ENDED: std::cell::RefCell<Vec<Status>> = const { std::cell::RefCell::new(Vec::new()) };
    }

    impl Device for Nothing {
        type Channel = ();

        fn channel(&self) -> Result<crate::io_device::IoChannel<()>, Errno> {
            Err(Errno::NOTSUP)
        }

        fn supports(&self, _: IoType) -> bool {
            false
        }

        fn submit(&self, (): &(), io: BdevIo<Self>) {
            std::mem::forget(io);
        }

        fn completed(io: BdevIo<Self>, completion: Cqe, _: bool) {
            if let Some((io, outcome)) = io.fused_done(completion) {
                ENDED.with_borrow_mut(|ended| ended.push(outcome.status));
                std::mem::forget(io);
            }
        }

        fn describe(&self, _: &mut crate::json::JsonWriter) {}

        fn write_config(&self, _: &mut crate::json::JsonWriter) {}
    }

    /// Returns an I/O as the bdev layer submits it: everything beside its kind is zero but its list, which leads
    /// nowhere.
    fn arrived(kind: u32) -> BdevIo<Nothing> {
        let size = size_of::<sys::spdk_bdev_io>() + size_of::<Context>();
        let memory: &mut [u128] = Box::leak(vec![0; size.div_ceil(16)].into_boxed_slice());
        let raw: *mut sys::spdk_bdev_io = memory.as_mut_ptr().cast();
        // SAFETY: the memory is large enough for both, aligned, zeroed and leaked.
        unsafe {
            (*raw).type_ = u8::try_from(kind).expect("a small number");
            (*raw).u.bdev.num_blocks = 1;
            BdevIo::arrived(NonNull::new(raw).expect("not null"))
        }
    }

    #[test]
    fn what_has_to_end_is_waited_for_from_the_first_of_its_aborts_on() {
        let mut retry = RetryState { aborted: false, lost: false, last: false, losses: 0, must_end: 0 };
        let hz = 2_000_000_000;
        // The count of milliseconds passes 2^32 in between, and no first time is taken for none.
        let first = u64::from(u32::MAX) * (hz / 1000);
        let waited = [0, 1, 2_000].map(|millis| retry.note_must_end(first + millis * (hz / 1000), hz).as_millis());
        assert_eq!((waited[0], waited[2]), (0, 2_000));
        let mut retry = RetryState { must_end: 0, ..retry };
        assert_eq!(retry.note_must_end(0, 0), Duration::ZERO);
        assert_ne!(retry.must_end, 0);
    }

    #[test]
    fn an_abort_marks_no_io_that_has_taken_the_place_of_the_one_that_it_names() {
        use sys::spdk_bdev_io_type as t;
        let places: [u8; 2] = [0; 2];
        let place = |at: usize| (&raw const places[at]).cast_mut();
        // The bdev, the channel and the time of submission of what is there now, where the abort's are 0, 0 and 5.
        let marked = |bdev: usize, channel: usize, submitted: u64| {
            let abort = std::mem::ManuallyDrop::new(arrived(t::SPDK_BDEV_IO_TYPE_ABORT));
            let there = std::mem::ManuallyDrop::new(arrived(t::SPDK_BDEV_IO_TYPE_WRITE));
            for (io, bdev, channel, submitted) in [(&abort, 0, 0, 5), (&there, bdev, channel, submitted)] {
                let raw = io.as_ptr();
                // SAFETY: the I/O is the test's own; the pointers are compared only.
                unsafe {
                    (*raw).bdev = place(bdev).cast();
                    (*raw).internal.ch = place(channel).cast();
                    (*raw).internal.submit_tsc = submitted;
                }
            }
            // SAFETY: as above.
            unsafe { (*abort.as_ptr()).u.abort.bio_to_abort = there.as_ptr() };
            let _ = abort.mark_target();
            there.was_aborted()
        };
        assert_eq!([marked(0, 0, 4), marked(0, 0, 5)], [true; 2]);
        assert_eq!([marked(1, 0, 4), marked(0, 1, 4), marked(0, 0, 6)], [false; 3]);
    }

    #[test]
    fn a_fused_pair_whose_second_is_rejected_ends_once_whether_the_first_has_ended_or_not() {
        let failed = Cqe::of(Status::ABORTED_SQ_DELETION);
        for first_ends_before in [true, false] {
            let first = arrived(sys::spdk_bdev_io_type::SPDK_BDEV_IO_TYPE_COMPARE_AND_WRITE);
            // SAFETY: as `send_fused` does it.
            let second = unsafe {
                (*first.context()).pair.outstanding = 2;
                BdevIo::<Nothing>::from_raw(first.raw)
            };
            let steps: [Box<dyn FnOnce()>; 2] = [
                Box::new(move || Nothing::completed(first, failed, false)),
                Box::new(move || second.second_rejected()),
            ];
            let mut steps = Vec::from(steps);
            if !first_ends_before {
                steps.reverse();
            }
            let ended: Vec<usize> = steps
                .into_iter()
                .map(|step| {
                    step();
                    ENDED.with_borrow(Vec::len)
                })
                .collect();
            assert_eq!(ended, [0, 1], "the I/O ends with the last of the two");
            assert!(!ENDED.take()[0].is_success());
        }
    }

    #[test]
    fn an_io_of_another_kind_is_refused_before_anything_of_it_is_taken_for_a_list() {
        use sys::spdk_bdev_io_type as t;
        fn refused(sent: Result<(), Rejected<BdevIo<Nothing>>>) -> bool {
            sent.is_err_and(|Rejected { errno, command }| {
                std::mem::forget(command);
                errno == Errno::INVAL
            })
        }
        let qpair = QueuePair::unconnected();
        for kind in [t::SPDK_BDEV_IO_TYPE_RESET, t::SPDK_BDEV_IO_TYPE_ABORT, t::SPDK_BDEV_IO_TYPE_NVME_ADMIN] {
            assert!(refused(arrived(kind).send_blocks(&qpair, 1, 512)));
            assert!(refused(arrived(kind).send_fused(&qpair, 1, 512)));
            assert!(refused(arrived(kind).send_write_zeroes(&qpair, 1)));
            assert!(refused(arrived(kind).send_flush(&qpair, 1)));
            assert!(refused(arrived(kind).send_unmap(&qpair, 1)));
            assert!(refused(arrived(kind).send_passthru(&qpair, 1, 4096)));
            assert!(!std::mem::ManuallyDrop::new(arrived(kind)).wants_buffer());
        }
        let read = std::mem::ManuallyDrop::new(arrived(t::SPDK_BDEV_IO_TYPE_READ));
        assert!(read.wants_buffer() && read.abort_target().is_none());
        assert!(!read.was_aborted(), "what was never sent was not aborted");
    }

    #[test]
    fn the_failure_of_the_pair_is_told_from_its_echo() {
        assert!(is_failed_fused(Status::ABORTED_FAILED_FUSED));
        assert!(!is_failed_fused(Status::ABORTED_MISSING_FUSED), "that is the half of a pair that never came");
        assert!(!is_failed_fused(Status::COMPARE_FAILURE));
    }
}
