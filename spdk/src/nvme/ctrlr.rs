//! A connected controller and its namespaces.

use std::cell::Cell;
use std::ffi::c_void;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use spdk_sys as sys;

use super::{Completion, Sqe};
use crate::Errno;
use crate::thread::NotSend;

/// The part of a controller that other threads may use: it makes queue pairs and takes admin commands.
#[derive(Clone, Debug)]
pub struct CtrlrRef(Arc<Shared>);

#[derive(Debug)]
struct Shared(NonNull<sys::spdk_nvme_ctrlr>);

// SAFETY: SPDK guards what is done through a `CtrlrRef` with the controller's own lock; the controller lives until
// the last reference is gone, see `Ctrlr::detach`.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl CtrlrRef {
    #[cfg(test)]
    pub(super) fn dangling() -> Self {
        Self(Arc::new(Shared(NonNull::dangling())))
    }

    pub(super) fn as_ptr(&self) -> *mut sys::spdk_nvme_ctrlr {
        self.0.0.as_ptr()
    }

    /// Sends an admin command. `done` is called on the controller's home thread.
    ///
    /// # Errors
    /// `NOMEM` when no request is free, `NXIO` when the controller is not connected; `done` is dropped here then.
    ///
    /// # Safety
    /// `buffer` must be valid for `len` bytes until `done` is called, or null with `len` 0.
    pub unsafe fn admin<F>(&self, sqe: &Sqe, buffer: *mut c_void, len: u32, done: F) -> Result<(), Errno>
    where
        F: FnOnce(Completion) + Send + 'static,
    {
        let mut cmd = sqe.0;
        with_callback(done, |call, ctx| {
            // SAFETY: the caller vouches for the buffer; SPDK copies the command and calls back once.
            unsafe { sys::spdk_nvme_ctrlr_cmd_admin_raw(self.as_ptr(), &raw mut cmd, buffer, len, call, ctx) }
        })
    }

    /// Asks the controller to abort every command of `owner` on `qpair`, on whose thread this is called. `done` is
    /// called on the controller's home thread, or at once if none of them was sent yet.
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
        F: FnOnce(Completion) + Send + 'static,
    {
        with_callback(done, |call, ctx| {
            // SAFETY: `qpair` is the controller's; `owner` is compared, not followed.
            unsafe { sys::spdk_nvme_ctrlr_cmd_abort_ext(self.as_ptr(), qpair, owner.as_ptr(), call, ctx) }
        })
    }
}

/// Sends a command with a closure that is called with its completion, once.
fn with_callback<F>(done: F, send: impl FnOnce(sys::spdk_nvme_cmd_cb, *mut c_void) -> i32) -> Result<(), Errno>
where
    F: FnOnce(Completion) + Send + 'static,
{
    unsafe extern "C" fn call<F: FnOnce(Completion)>(ctx: *mut c_void, cpl: *const sys::spdk_nvme_cpl) {
        // SAFETY: the box that was given to SPDK with the command, which is completed once.
        let done = unsafe { Box::from_raw(ctx.cast::<F>()) };
        // SAFETY: SPDK gives a completion.
        done(unsafe { Completion::from_raw(cpl) });
    }
    let ctx = Box::into_raw(Box::new(done));
    Errno::check(send(Some(call::<F>), ctx.cast())).inspect_err(|_| {
        // SAFETY: SPDK did not take the command, so the box is still ours.
        drop(unsafe { Box::from_raw(ctx) });
    })
}

/// What came of polling the admin queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdminPoll {
    /// Whether there was anything to do.
    pub busy: bool,
    /// A namespace was added, removed or changed since the last poll.
    pub namespaces_changed: bool,
}

/// Entries that an I/O queue needs for a fused pair, one of which is never used. In a smaller one the first would wait for the second, and
/// the second for the first one's place.
const PAIR_ENTRIES: u32 = 3;

/// What a controller allows.
#[expect(clippy::struct_excessive_bools, reason = "each is a capability of its own")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most bytes that a command may carry (MDTS and the transport's own limit).
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
}

/// A namespace as its controller described it last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceInfo {
    /// Its identifier.
    pub nsid: u32,
    /// Logical blocks.
    pub blocks: u64,
    /// Bytes of a logical block, with its metadata where that is interleaved.
    pub block_size: u32,
    /// Bytes of metadata per block.
    pub metadata_size: u32,
    /// Whether metadata follows the data of its block in the same buffer.
    pub metadata_interleaved: bool,
    /// Protection information type (0 for none) and whether it stands at the metadata's start.
    pub protection: (u32, bool),
    /// Protection information format.
    pub protection_format: u32,
    /// A boundary in blocks that a command should not cross, or 0.
    pub optimal_io_boundary: u32,
    /// NPWG, NPWA, NPDG, NPDA, NOWS in blocks, where the namespace gives them.
    pub preferred: Option<[u32; 5]>,
    /// NACWU in blocks, where the namespace has one of its own.
    pub nacwu: Option<u16>,
    /// NAWUPF in blocks, where the namespace has one of its own.
    pub nawupf: Option<u16>,
    /// Whether its command set is the NVM command set.
    pub nvm_command_set: bool,
    /// UUID.
    pub uuid: Option<[u8; 16]>,
    /// NGUID.
    pub nguid: Option<[u8; 16]>,
    /// EUI64.
    pub eui64: Option<[u8; 8]>,
}

/// A connected controller, on its home thread. One that is dropped and not [detached](Self::detach) stays connected
/// to the process' end.
#[derive(Debug)]
pub struct Ctrlr {
    shared: CtrlrRef,
    /// A leaked box, into which SPDK's event callback writes.
    namespaces_changed: NonNull<Cell<bool>>,
    _stays: NotSend,
}

impl Ctrlr {
    /// # Safety
    /// The controller must be attached, and nobody else's.
    pub(super) unsafe fn from_raw(raw: NonNull<sys::spdk_nvme_ctrlr>) -> Self {
        unsafe extern "C" fn event(ctx: *mut c_void, cpl: *const sys::spdk_nvme_cpl) {
            if cpl.is_null() {
                return;
            }
            // SAFETY: `ctx` is the cell below, which lives until the callback is taken off.
            let changed = unsafe { &*ctx.cast::<Cell<bool>>() };
            // SAFETY: SPDK gives a completion. Section 5.2.1: bits 2:0 are the type, 15:8 the information.
            let cdw0 = unsafe { (*cpl).cdw0 };
            let notice = cdw0 & 0x7 == sys::spdk_nvme_async_event_type::SPDK_NVME_ASYNC_EVENT_TYPE_NOTICE;
            if notice
                && (cdw0 >> 8) & 0xff == sys::spdk_nvme_async_event_info_notice::SPDK_NVME_ASYNC_EVENT_NS_ATTR_CHANGED
            {
                changed.set(true);
            }
        }
        let namespaces_changed = NonNull::from(Box::leak(Box::new(Cell::new(false))));
        // SAFETY: the cell lives until `detach` has taken the callback off.
        unsafe {
            sys::spdk_nvme_ctrlr_register_aer_callback(raw.as_ptr(), Some(event), namespaces_changed.as_ptr().cast());
        }
        Self { shared: CtrlrRef(Arc::new(Shared(raw))), namespaces_changed, _stays: PhantomData }
    }

    fn as_ptr(&self) -> *mut sys::spdk_nvme_ctrlr {
        self.shared.as_ptr()
    }

    /// The part that other threads may use.
    #[must_use]
    pub fn shared(&self) -> &CtrlrRef {
        &self.shared
    }

    /// Completes admin commands, sends keep-alives, takes asynchronous events.
    ///
    /// # Errors
    /// `NXIO` or another error when the controller is no longer connected.
    pub fn poll_admin(&self) -> Result<AdminPoll, Errno> {
        // SAFETY: the controller is live, and this is its home thread.
        let completions = unsafe { sys::spdk_nvme_ctrlr_process_admin_completions(self.as_ptr()) };
        Errno::check(completions)?;
        // SAFETY: the cell is freed by `detach` only, and used on this thread only.
        let namespaces_changed = unsafe { self.namespaces_changed.as_ref() }.replace(false);
        Ok(AdminPoll { busy: completions > 0, namespaces_changed })
    }

    /// Begins to disconnect the admin queue; [`poll_admin`](Self::poll_admin) fails once that is done. The I/O queue pairs
    /// must be disconnected already.
    ///
    /// # Errors
    /// `BUSY` while it is reconnecting.
    pub fn disconnect(&self) -> Result<(), Errno> {
        // SAFETY: as above.
        Errno::check(unsafe { sys::spdk_nvme_ctrlr_disconnect(self.as_ptr()) })
    }

    /// Begins to connect again after [`disconnect`](Self::disconnect). Until [`reconnect_poll`](Self::reconnect_poll) has an
    /// outcome, the controller's lock is held: other threads must not ask it for queue pairs.
    pub fn reconnect(&self) {
        // SAFETY: as above.
        unsafe { sys::spdk_nvme_ctrlr_reconnect_async(self.as_ptr()) };
    }

    /// Goes on connecting. `None` as long as there is no outcome.
    #[must_use]
    pub fn reconnect_poll(&self) -> Option<Result<(), Errno>> {
        // SAFETY: as above.
        match unsafe { sys::spdk_nvme_ctrlr_reconnect_poll_async(self.as_ptr()) } {
            rc if rc == -libc::EAGAIN => None,
            0 => Some(Ok(())),
            _ => Some(Err(Errno::IO)),
        }
    }

    /// Marks the controller as failed, which makes an attempt to connect again end.
    pub fn fail(&self) {
        // SAFETY: as above.
        unsafe { sys::spdk_nvme_ctrlr_fail(self.as_ptr()) };
    }

    /// What the controller allows.
    #[must_use]
    pub fn limits(&self) -> Limits {
        use sys::spdk_nvme_ctrlr_flags as flag;
        // SAFETY: the controller is live; its identify data and options are as long-lived.
        unsafe {
            let ctrlr = self.as_ptr();
            let data = &*sys::spdk_nvme_ctrlr_get_data(ctrlr);
            let opts = &*sys::spdk_nvme_ctrlr_get_opts(ctrlr);
            let flags = sys::spdk_nvme_ctrlr_get_flags(ctrlr);
            // Copied: the structure is packed.
            let oncs = data.oncs;
            let commands = oncs.__bindgen_anon_1.__bindgen_anon_1;
            let sges = sys::spdk_nvme_ctrlr_get_max_sges(ctrlr);
            Limits {
                max_transfer: sys::spdk_nvme_ctrlr_get_max_xfer_size(ctrlr),
                max_sges: sges,
                io_queue_requests: opts.io_queue_requests,
                compare_and_write: flags & u64::from(flag::SPDK_NVME_CTRLR_COMPARE_AND_WRITE_SUPPORTED) != 0
                    && opts.io_queue_size >= PAIR_ENTRIES,
                compare: commands.nvmcmps() != 0,
                dataset_management: commands.nvmdsmsv() != 0,
                write_zeroes: commands.nvmwzsv() != 0,
                write_uncorrectable: commands.nvmwusv() != 0,
                verify: commands.nvmvfys() != 0,
                volatile_write_cache: data.vwc.present() != 0,
                acwu: data.acwu.saturating_add(1),
                awupf: data.awupf.saturating_add(1),
            }
        }
    }

    /// The identifiers of the active namespaces, ascending.
    #[must_use]
    pub fn namespaces(&self) -> Vec<u32> {
        let mut found = Vec::new();
        // SAFETY: the controller is live.
        let mut nsid = unsafe { sys::spdk_nvme_ctrlr_get_first_active_ns(self.as_ptr()) };
        while nsid != 0 {
            found.push(nsid);
            // SAFETY: as above.
            nsid = unsafe { sys::spdk_nvme_ctrlr_get_next_active_ns(self.as_ptr(), nsid) };
        }
        found
    }

    /// What is known of an active namespace.
    #[must_use]
    pub fn namespace(&self, nsid: u32) -> Option<NamespaceInfo> {
        // SAFETY: the controller is live, and tells of namespaces that it does not have.
        let ns = unsafe {
            if !sys::spdk_nvme_ctrlr_is_active_ns(self.as_ptr(), nsid) {
                return None;
            }
            NonNull::new(sys::spdk_nvme_ctrlr_get_ns(self.as_ptr(), nsid))?
        };
        let ns = ns.as_ptr();
        // SAFETY: the namespace is active, so that its data is there; it is read on the home thread, which alone changes it.
        unsafe {
            let data = &*sys::spdk_nvme_ns_get_data(ns);
            let optperf = data.nsfeat.optperf() != 0;
            let own_units = data.nsfeat.ns_atomic_write_unit() != 0;
            let zero_based = |value: u16| u32::from(value) + 1;
            Some(NamespaceInfo {
                nsid,
                blocks: sys::spdk_nvme_ns_get_num_sectors(ns),
                block_size: sys::spdk_nvme_ns_get_extended_sector_size(ns),
                metadata_size: sys::spdk_nvme_ns_get_md_size(ns),
                metadata_interleaved: data.flbas.extended() != 0,
                protection: (sys::spdk_nvme_ns_get_pi_type(ns), data.dps.md_start() != 0),
                protection_format: sys::spdk_nvme_ns_get_pi_format(ns),
                optimal_io_boundary: sys::spdk_nvme_ns_get_optimal_io_boundary(ns),
                preferred: optperf.then(|| [data.npwg, data.npwa, data.npdg, data.npda, data.nows].map(zero_based)),
                nacwu: own_units.then(|| data.nacwu.saturating_add(1)),
                nawupf: (own_units && data.nawupf != 0).then(|| data.nawupf.saturating_add(1)),
                nvm_command_set: sys::spdk_nvme_ns_get_csi(ns) == sys::spdk_nvme_csi::SPDK_NVME_CSI_NVM,
                uuid: copy(sys::spdk_nvme_ns_get_uuid(ns).cast()),
                nguid: copy(sys::spdk_nvme_ns_get_nguid(ns).cast()),
                eui64: copy((&raw const data.eui64).cast()).filter(|id: &[u8; 8]| id.iter().any(|&byte| byte != 0)),
            })
        }
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
        // SAFETY: nobody else uses the controller, and `self` is gone after this. The event callback is taken off before
        // its cell is freed.
        let rc = unsafe {
            sys::spdk_nvme_ctrlr_register_aer_callback(self.as_ptr(), None, ptr::null_mut());
            drop(Box::from_raw(self.namespaces_changed.as_ptr()));
            sys::spdk_nvme_detach_async(self.as_ptr(), &raw mut ctx)
        };
        let ctx = if rc == 0 { NonNull::new(ctx) } else { None };
        Ok(Detach { ctx, _stays: PhantomData })
    }
}

/// # Safety
/// `from` must be null or point to `N` bytes.
unsafe fn copy<const N: usize>(from: *const u8) -> Option<[u8; N]> {
    // SAFETY: the caller vouches for the bytes.
    (!from.is_null()).then(|| unsafe { *from.cast::<[u8; N]>() })
}

/// A controller that is being detached, to be polled until it is.
#[derive(Debug)]
#[must_use = "a controller is detached by polling this"]
pub struct Detach {
    ctx: Option<NonNull<sys::spdk_nvme_detach_ctx>>,
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
}
