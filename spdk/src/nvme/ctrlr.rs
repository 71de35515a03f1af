//! A connected controller and its namespaces.

use std::cell::Cell;
use std::ffi::c_void;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::time::Duration;

use nvme_spec::admin::AsyncEvent;
use nvme_spec::identify::IdentifyController;
use nvme_spec::register::{Cap, MPS_SHIFT};
use nvme_spec::{Cqe, Sqe, Status};
use spdk_sys as sys;

use super::buffer_pool::{BufferPool, PooledBuffer};
use super::entry::{as_cmd, cqe_at};
use super::quiet;
use super::users::{Use, Users};
use crate::Errno;
use crate::thread::NotSend;

/// The part of a controller that other threads may use: it makes queue pairs and takes admin commands.
#[derive(Clone, Debug)]
pub struct CtrlrRef(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    raw: NonNull<sys::spdk_nvme_ctrlr>,
    users: Users,
}

// SAFETY: SPDK guards what is done through a `CtrlrRef` with the controller's own lock; the controller lives until
// the last reference is gone, see `Ctrlr::detach`.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl CtrlrRef {
    #[cfg(test)]
    pub(super) fn dangling() -> Self {
        Self(Arc::new(Shared { raw: NonNull::dangling(), users: Users::default() }))
    }

    pub(super) fn as_ptr(&self) -> *mut sys::spdk_nvme_ctrlr {
        self.0.raw.as_ptr()
    }

    /// Begins to use the controller on whatever thread.
    ///
    /// # Errors
    /// `BUSY` while it is being connected again.
    pub(super) fn enter(&self) -> Result<Use, Errno> {
        self.0.users.enter()
    }

    /// Returns whether a connection that ended for this reason, and that nobody here ended, was ended by the other
    /// side. Over TCP, SPDK knows one reason when it could not read from a socket and none when it could not write to
    /// it; both are the other side's doing unless the time-out for unacknowledged data is set.
    pub(super) fn is_peers_doing(&self, reason: sys::spdk_nvme_qp_failure_reason::Type) -> bool {
        use sys::spdk_nvme_qp_failure_reason as r;
        // SAFETY: the controller is live; its address and options are as long-lived.
        let (trtype, ack_timeout) = unsafe {
            let ctrlr = self.as_ptr();
            (
                (*sys::spdk_nvme_ctrlr_get_transport_id(ctrlr)).trtype,
                (*sys::spdk_nvme_ctrlr_get_opts(ctrlr)).transport_ack_timeout,
            )
        };
        let tcp = trtype == sys::spdk_nvme_transport_type::SPDK_NVME_TRANSPORT_TCP;
        reason == r::SPDK_NVME_QPAIR_FAILURE_REMOTE
            || (tcp
                && ack_timeout == 0
                && [r::SPDK_NVME_QPAIR_FAILURE_UNKNOWN, r::SPDK_NVME_QPAIR_FAILURE_NONE].contains(&reason))
    }

    /// Sends an admin command. `done` is called on the thread that owns the controller.
    ///
    /// # Errors
    /// `NOMEM` when no request is free, `NXIO` when the controller is not connected, `BUSY` while it is being connected
    /// again; `done` is dropped here then.
    ///
    /// # Safety
    /// `buffer` must be valid for `len` bytes until `done` is called, or null with `len` 0.
    pub(crate) unsafe fn admin<F>(&self, sqe: &Sqe, buffer: *mut c_void, len: u32, done: F) -> Result<(), Errno>
    where
        F: FnOnce(Cqe) + Send + 'static,
    {
        let _use = self.enter()?;
        with_callback(done, |call, ctx| {
            // SAFETY: the caller vouches for the buffer; SPDK copies the command and calls back once.
            unsafe { sys::spdk_nvme_ctrlr_cmd_admin_raw(self.as_ptr(), as_cmd(sqe), buffer, len, call, ctx) }
        })
    }

    /// Asks the controller to abort every command of `owner` on `qpair`, on whose thread this is called. `done` is
    /// called on the thread that owns the controller, or at once if none of them was sent yet.
    ///
    /// # Errors
    /// `NOENT` when the queue pair has no such command, otherwise as for [`admin`](Self::admin).
    pub(super) fn abort<F>(
        &self,
        qpair: *mut sys::spdk_nvme_qpair,
        owner: NonNull<c_void>,
        done: F,
    ) -> Result<(), Errno>
    where
        F: FnOnce(Cqe) + Send + 'static,
    {
        let _use = self.enter()?;
        with_callback(done, |call, ctx| {
            // SAFETY: `qpair` is the controller's; `owner` is compared, not followed.
            unsafe { sys::spdk_nvme_ctrlr_cmd_abort_ext(self.as_ptr(), qpair, owner.as_ptr(), call, ctx) }
        })
    }
}

/// Sends a command with a closure that is called with its completion, once, on the thread that owns the controller: a
/// caller on another thread must give one that can be sent there.
pub(super) fn with_callback<F>(
    done: F,
    send: impl FnOnce(sys::spdk_nvme_cmd_cb, *mut c_void) -> i32,
) -> Result<(), Errno>
where
    F: FnOnce(Cqe) + 'static,
{
    unsafe extern "C" fn call<F: FnOnce(Cqe)>(ctx: *mut c_void, cpl: *const sys::spdk_nvme_cpl) {
        // SAFETY: the box that was given to SPDK with the command, which is completed once.
        let done = unsafe { Box::from_raw(ctx.cast::<F>()) };
        // SAFETY: SPDK gives a completion.
        done(unsafe { cqe_at(cpl) });
    }
    let ctx = Box::into_raw(Box::new(done));
    Errno::check(send(Some(call::<F>), ctx.cast())).inspect_err(|_| {
        // SAFETY: SPDK did not take the command, so the box is still ours.
        drop(unsafe { Box::from_raw(ctx) });
    })
}

/// Entries that an I/O queue needs for a fused pair, one of which is never used. In a smaller one the first would wait
/// for the second, and the second for the first one's place.
const PAIR_ENTRIES: u32 = 3;

/// What a controller allows.
#[expect(clippy::struct_excessive_bools, reason = "each is a capability of its own")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most bytes that a command may carry (MDTS).
    pub max_transfer: u32,
    /// The most elements that a command's scatter-gather list may have.
    pub max_sges: u16,
    /// Requests that an I/O queue pair has.
    pub io_queue_requests: u32,
    /// Compare and Write as a fused pair, in queues that have room for one.
    pub compare_and_write: bool,
    /// Compare.
    pub compare: bool,
    /// Dataset Management.
    pub dataset_management: bool,
    /// Write Zeroes.
    pub write_zeroes: bool,
    /// Write Uncorrectable.
    pub write_uncorrectable: bool,
    /// Verify.
    pub verify: bool,
    /// A volatile write cache is present, so that Flush matters.
    pub volatile_write_cache: bool,
    /// Atomic compare and write unit of the controller (ACWU), in blocks.
    pub acwu: u16,
    /// Atomic write unit at power failure (AWUPF), in blocks.
    pub awupf: u16,
    /// Command Retry Delay Times 1 to 3 (CRDT), in units of 100 ms.
    pub retry_delays: [u16; 3],
    /// Asymmetric namespace access is reported.
    pub ana: bool,
    /// How long a change of an ANA state takes at most (ANATT), in seconds.
    pub anatt: u8,
    /// Namespaces may have extended formats (ELBAS), which their Identify data of the NVM command set describes.
    pub extended_formats: bool,
}

/// Returns the most bytes that a command may carry by MDTS, a power of two of the smallest pages (CAP.MPSMIN) or 0 for
/// no limit. SPDK's own calculation shifts by what the controller says, whatever that is, and keeps 32 bits of it.
/// Neither TCP nor RDMA has a limit of its own.
fn max_transfer(mdts: u8, mpsmin: u8) -> u32 {
    if mdts == 0 {
        return u32::MAX;
    }
    let bits = MPS_SHIFT + u32::from(mpsmin) + u32::from(mdts);
    1_u32.checked_shl(bits).unwrap_or(u32::MAX)
}

/// How far an attempt to connect again is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reconnect {
    /// There is none.
    No,
    /// It waits for the controller's users to go.
    Waits,
    /// SPDK carries it out.
    UnderWay,
}

/// A connected controller, on the thread that owns it. One that is dropped and not [detached](Self::detach) stays
/// connected to the process' end.
#[derive(Debug)]
pub struct Ctrlr {
    shared: CtrlrRef,
    reconnect: Cell<Reconnect>,
    /// The admin queue's connection has ended, without having been told to.
    ended: Cell<bool>,
    buffers: BufferPool,
    /// How many I/O queues it is asked for.
    io_queues_asked: u32,
    _stays: NotSend,
}

impl Ctrlr {
    /// # Safety
    /// The controller must be attached, and nobody else's.
    pub(super) unsafe fn from_raw(raw: NonNull<sys::spdk_nvme_ctrlr>, io_queues_asked: u32) -> Self {
        // SAFETY: as the caller says.
        unsafe { quiet::let_events_be_asked_for(raw.as_ptr()) };
        let shared = CtrlrRef(Arc::new(Shared { raw, users: Users::default() }));
        let (reconnect, ended) = (Cell::new(Reconnect::No), Cell::new(false));
        Self { shared, reconnect, ended, buffers: BufferPool::new(), io_queues_asked, _stays: PhantomData }
    }

    fn as_ptr(&self) -> *mut sys::spdk_nvme_ctrlr {
        self.shared.as_ptr()
    }

    /// Returns the part that other threads may use.
    #[must_use]
    pub fn shared(&self) -> &CtrlrRef {
        &self.shared
    }

    /// Completes admin commands and sends keep-alives. Returns whether there was anything to do.
    ///
    /// # Errors
    /// `NXIO` or another error when the controller is no longer connected.
    pub fn poll_admin(&self) -> Result<bool, Errno> {
        // SAFETY: the controller is live, and this is the thread that owns it.
        let completions = unsafe { sys::spdk_nvme_ctrlr_process_admin_completions(self.as_ptr()) };
        let outcome = Errno::check(completions);
        if outcome == Err(Errno::NXIO) {
            self.ended.set(true);
        }
        outcome.map(|()| completions > 0)
    }

    /// Sends an admin command that brings up to `len` bytes, or none for 0. `done` is called with its outcome on this
    /// thread: from within [`poll_admin`](Self::poll_admin), or when the controller is disconnected or detached, which
    /// ends what is in flight. What did not come of the data is zeros.
    ///
    /// # Errors
    /// `NOMEM` when there is no request or no memory, `NXIO` when the controller is not connected; `done` is dropped
    /// then.
    pub fn ask<F>(&self, sqe: &Sqe, len: u32, done: F) -> Result<(), Errno>
    where
        F: FnOnce(Result<&[u8], Status>) + 'static,
    {
        let mut buffer = if len == 0 { None } else { Some(self.buffers.take(len as usize)?) };
        let place = buffer.as_mut().map_or(ptr::null_mut(), |buffer| buffer.bytes_mut().as_mut_ptr().cast());
        let ended = move |Cqe { status, .. }: Cqe| {
            let data = buffer.as_ref().map(PooledBuffer::bytes).unwrap_or_default();
            done(if status.is_success() { Ok(data) } else { Err(status) });
        };
        with_callback(ended, |call, ctx| {
            // SAFETY: the buffer goes with the closure, which SPDK keeps until the command has ended; it copies the
            // command.
            unsafe { sys::spdk_nvme_ctrlr_cmd_admin_raw(self.as_ptr(), as_cmd(sqe), place, len, call, ctx) }
        })
    }

    /// Asks for an event. `done` is called with it, as for [`ask`](Self::ask); one request is answered by one event.
    ///
    /// # Errors
    /// As for [`ask`](Self::ask).
    pub fn ask_for_event<F>(&self, done: F) -> Result<(), Errno>
    where
        F: FnOnce(Result<AsyncEvent, Status>) + 'static,
    {
        let sqe = Sqe::async_event_request();
        let ended = move |Cqe { dw0, status, .. }: Cqe| {
            done(if status.is_success() { Ok(AsyncEvent::from_bits(dw0)) } else { Err(status) });
        };
        with_callback(ended, |call, ctx| {
            // SAFETY: there is no data; SPDK copies the command.
            unsafe { sys::spdk_nvme_ctrlr_cmd_admin_raw(self.as_ptr(), as_cmd(&sqe), ptr::null_mut(), 0, call, ctx) }
        })
    }

    /// Sends a command of the fabric's or a keep-alive, neither of which has data. `done` is called on this thread.
    ///
    /// # Errors
    /// As for `CtrlrRef::admin`.
    pub fn admin_without_data<F>(&self, sqe: &Sqe, done: F) -> Result<(), Errno>
    where
        F: FnOnce(Cqe) + Send + 'static,
    {
        // SAFETY: there is no buffer.
        let sent = unsafe { self.shared.admin(sqe, ptr::null_mut(), 0, done) };
        if sent == Err(Errno::NXIO) {
            self.ended.set(true);
        }
        sent
    }

    /// Returns whether the other side ended the admin queue's connection, as far as a poll or a command of ours has
    /// noticed.
    #[must_use]
    pub fn was_ended_by_peer(&self) -> bool {
        // SAFETY: the controller is live.
        let reason = unsafe { sys::spdk_nvme_ctrlr_get_admin_qp_failure_reason(self.as_ptr()) };
        let stands = reason == sys::spdk_nvme_qp_failure_reason::SPDK_NVME_QPAIR_FAILURE_NONE && !self.ended.get();
        !stands && self.shared.is_peers_doing(reason)
    }

    /// The keep-alive time-out that the controller has said to use. Zero if it uses none.
    #[must_use]
    pub fn keep_alive_timeout(&self) -> Duration {
        // SAFETY: the controller is live; its options are as long-lived.
        Duration::from_millis(u64::from(unsafe {
            (*sys::spdk_nvme_ctrlr_get_opts(self.as_ptr())).keep_alive_timeout_ms
        }))
    }

    /// Begins to disconnect the admin queue; [`poll_admin`](Self::poll_admin) fails once that is done. The I/O queue
    /// pairs must be disconnected already.
    ///
    /// # Errors
    /// `BUSY` while it is reconnecting.
    pub fn disconnect(&self) -> Result<(), Errno> {
        // SAFETY: as above.
        Errno::check(unsafe { sys::spdk_nvme_ctrlr_disconnect(self.as_ptr()) })
    }

    /// Begins to connect again after [`disconnect`](Self::disconnect). The attempt itself begins once no other thread
    /// uses the controller any more, and who comes until [`reconnect_poll`](Self::reconnect_poll) has an outcome is
    /// sent away: SPDK holds the controller's lock meanwhile.
    pub fn reconnect(&self) {
        self.reconnect.set(Reconnect::Waits);
        self.begin_to_reconnect();
    }

    fn begin_to_reconnect(&self) {
        if !self.shared.0.users.close() {
            return;
        }
        self.reconnect.set(Reconnect::UnderWay);
        // SAFETY: as above.
        if let Err(error) = unsafe { quiet::hold_events_off(self.as_ptr()) } {
            // Without memory for this the attempt must not go on.
            log::error!("a controller cannot be kept from asking for events: {error}");
            self.fail();
        }
        // SAFETY: as above; the I/O queue pairs are disconnected, and who comes now is sent away.
        unsafe {
            quiet::ask_for_io_queues(self.as_ptr(), self.io_queues_asked);
            sys::spdk_nvme_ctrlr_reconnect_async(self.as_ptr());
        }
    }

    /// Goes on connecting. `None` as long as there is no outcome.
    #[must_use]
    pub fn reconnect_poll(&self) -> Option<Result<(), Errno>> {
        match self.reconnect.get() {
            Reconnect::No => return Some(Err(Errno::NXIO)),
            Reconnect::Waits => {
                self.begin_to_reconnect();
                return None;
            }
            Reconnect::UnderWay => {}
        }
        // SAFETY: as above; the attempt is in progress.
        let rc = unsafe { sys::spdk_nvme_ctrlr_reconnect_poll_async(self.as_ptr()) };
        if rc == -libc::EAGAIN {
            // SAFETY: as above.
            unsafe { quiet::hide_namespaces(self.as_ptr()) };
            return None;
        }
        // SAFETY: as above.
        unsafe { quiet::let_events_be_asked_for(self.as_ptr()) };
        self.reconnect_ends();
        self.ended.set(rc != 0);
        Some(if rc == 0 { Ok(()) } else { Err(Errno::IO) })
    }

    fn reconnect_ends(&self) {
        self.reconnect.set(Reconnect::No);
        self.shared.0.users.open();
    }

    /// Marks the controller as failed, which makes an attempt to connect again end.
    pub fn fail(&self) {
        if self.reconnect.get() == Reconnect::Waits {
            self.reconnect_ends();
        }
        // SAFETY: as above.
        unsafe { sys::spdk_nvme_ctrlr_fail(self.as_ptr()) };
    }

    /// Returns what the controller allows.
    #[must_use]
    pub fn limits(&self) -> Limits {
        use sys::spdk_nvme_ctrlr_flags as flag;
        let ctrlr = self.as_ptr();
        // SAFETY: the controller is live; its identity and options are as long-lived. The identity is 4 KiB of any
        // bits, which SPDK declares as a packed structure: it need not be aligned.
        let (data, cap, opts, flags, max_sges) = unsafe {
            (
                sys::spdk_nvme_ctrlr_get_data(ctrlr).cast::<IdentifyController>().read_unaligned(),
                Cap::from_bits(sys::spdk_nvme_ctrlr_get_regs_cap(ctrlr).raw),
                &*sys::spdk_nvme_ctrlr_get_opts(ctrlr),
                sys::spdk_nvme_ctrlr_get_flags(ctrlr),
                sys::spdk_nvme_ctrlr_get_max_sges(ctrlr),
            )
        };
        Limits {
            max_transfer: max_transfer(data.mdts, cap.mpsmin()),
            max_sges,
            io_queue_requests: opts.io_queue_requests,
            compare_and_write: flags & u64::from(flag::SPDK_NVME_CTRLR_COMPARE_AND_WRITE_SUPPORTED) != 0
                && opts.io_queue_size >= PAIR_ENTRIES,
            compare: data.oncs.nvmcmps(),
            dataset_management: data.oncs.nvmdsmsv(),
            write_zeroes: data.oncs.nvmwzsv(),
            write_uncorrectable: data.oncs.nvmwusv(),
            verify: data.oncs.nvmvfys(),
            volatile_write_cache: data.vwc.vwcp(),
            acwu: data.acwu.saturating_add(1),
            awupf: data.awupf.saturating_add(1),
            retry_delays: data.crdt,
            ana: data.cmic.anars(),
            anatt: data.anatt,
            extended_formats: data.ctratt.elbas(),
        }
    }

    /// Returns how many I/O queues it has granted, each of which is one thread's.
    #[must_use]
    pub fn io_queues(&self) -> u32 {
        // SAFETY: the controller is live; its options are as long-lived.
        unsafe { (*sys::spdk_nvme_ctrlr_get_opts(self.as_ptr())).num_io_queues }
    }

    /// Begins to detach the controller, or gives it back while others still hold a [`CtrlrRef`].
    ///
    /// # Errors
    /// The controller itself, when it is still in use.
    pub fn detach(self) -> Result<Detach, Self> {
        if Arc::strong_count(&self.shared.0) > 1 {
            return Err(self);
        }
        let mut ctx = ptr::null_mut();
        // SAFETY: nobody else uses the controller, and `self` is gone after this.
        let rc = unsafe { sys::spdk_nvme_detach_async(self.as_ptr(), &raw mut ctx) };
        let ctx = if rc == 0 { NonNull::new(ctx) } else { None };
        Ok(Detach { ctx, ctrlr: self.shared.0.raw, _stays: PhantomData })
    }
}

/// A controller that is being detached, to be polled until it is.
#[derive(Debug)]
#[must_use = "a controller is detached by polling this"]
pub struct Detach {
    ctx: Option<NonNull<sys::spdk_nvme_detach_ctx>>,
    /// Live as long as there is a context.
    ctrlr: NonNull<sys::spdk_nvme_ctrlr>,
    _stays: NotSend,
}

impl Detach {
    /// Goes on detaching; true once it is done.
    pub fn poll(&mut self) -> bool {
        let Some(ctx) = self.ctx else { return true };
        // SAFETY: the context is live until this returns something other than -EAGAIN, and frees itself then.
        if unsafe { sys::spdk_nvme_detach_poll_async(ctx.as_ptr()) } == -libc::EAGAIN {
            return false;
        }
        self.ctx = None;
        true
    }

    /// Waits for no more answers of the controller: its connection is dropped, and the next [`poll`](Self::poll)s end.
    pub fn force(&self) {
        if self.ctx.is_some() {
            // SAFETY: the controller lives until the context is gone.
            unsafe { sys::spdk_nvme_ctrlr_fail(self.ctrlr.as_ptr()) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::max_transfer;

    #[test]
    fn any_mdts_gives_what_a_command_may_carry() {
        assert_eq!([0, 1, 5, 19].map(|mdts| max_transfer(mdts, 0)), [u32::MAX, 8_192, 131_072, 1 << 31]);
        assert_eq!((max_transfer(1, 4), max_transfer(15, 4), max_transfer(1, 15)), (1 << 17, 1 << 31, 1 << 28));
        for mdts in 20..=u8::MAX {
            assert_eq!(max_transfer(mdts, 0), u32::MAX, "MDTS {mdts}: no limit below 4 GiB");
        }
        assert_eq!(max_transfer(u8::MAX, 15), u32::MAX);
    }
}
