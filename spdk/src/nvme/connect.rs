//! Connecting to a controller without blocking.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::marker::PhantomData;
use std::ptr::{self, NonNull};

use spdk_sys as sys;

use super::quiet::{self, StartedAttempt};
use super::transport::is_available;
use super::{Ctrlr, CtrlrOptions, TransportId, TransportIdError};
use crate::thread::NotSend;

/// Why a controller could not be connected. What SPDK knows beyond that stands in its log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectFailed {
    /// An option is not valid.
    #[error(transparent)]
    Option(#[from] TransportIdError),
    /// SPDK has no such transport, or the machine has no device for it.
    #[error("this SPDK or this machine has no transport of that type")]
    NoTransport,
    /// This process is connected to that controller already: SPDK has one for an address, subsystem and host.
    #[error("this process is connected there already as the same host; give another hostnqn")]
    InUse,
    /// SPDK's record of the attempt is not as in the versions that this was written for.
    #[error("this SPDK initialises controllers in a way that is not known; use version 26.01")]
    UnknownSpdk,
    /// The attempt could not be begun, as over RDMA on a machine without a device.
    #[error("the connection could not be begun; has this machine a device for the transport?")]
    NotBegun,
    /// The controller did not answer, or refused.
    #[error("the controller did not answer, or refused")]
    Refused,
}

/// An attempt to connect, to be polled until it has an outcome. One that is dropped before leaves what it
/// has begun to the process' end, since SPDK cannot call it off.
#[derive(Debug)]
pub struct Connect {
    probe: Option<NonNull<sys::spdk_nvme_probe_ctx>>,
    /// A box that SPDK's callbacks know by its address as long as there is a probe.
    attempt: NonNull<Attempt>,
    begun: StartedAttempt,
    _stays: NotSend,
}

/// What SPDK's callbacks fill in.
struct Attempt {
    opts: sys::spdk_nvme_ctrlr_opts,
    ctrlr: Cell<*mut sys::spdk_nvme_ctrlr>,
}

impl Connect {
    /// Begins to connect. The thread that calls this, and polls, owns the controller.
    ///
    /// # Errors
    /// An option that is not valid, a transport that is not there.
    pub fn start(trid: &TransportId, options: &CtrlrOptions) -> Result<Self, ConnectFailed> {
        let opts = options.to_raw()?;
        if !is_available(trid) {
            return Err(ConnectFailed::NoTransport);
        }
        if trid.is_rdma() {
            crate::memory::expect_rdma();
        }
        let attempt = NonNull::from(Box::leak(Box::new(Attempt { opts, ctrlr: Cell::new(ptr::null_mut()) })));
        let begun = StartedAttempt {
            context: attempt.as_ptr().cast(),
            probe: Some(take_options),
            attach: Some(attached),
            fail: Some(failed),
        };
        // SAFETY: the attempt stays where it is until the probe is over, see `drop`; the callbacks expect it.
        let probe = unsafe {
            let context = attempt.as_ptr().cast();
            sys::spdk_nvme_probe_async_ext(&raw const trid.0, context, begun.probe, begun.attach, begun.fail, None)
        };
        let mut begun = Self { probe: NonNull::new(probe), attempt, begun, _stays: PhantomData };
        if begun.probe.is_none() {
            return Err(ConnectFailed::NotBegun);
        }
        match NonNull::new(begun.attempt().ctrlr.replace(ptr::null_mut())) {
            None => begun.keep_quiet().map(|()| begun),
            // No new one is there before the first poll: this is somebody else's, and only a reference to it is ours.
            Some(other) => {
                // SAFETY: SPDK attached it on this thread and counted this reference; the other's keeps it from being
                // detached.
                unsafe { sys::spdk_nvme_detach(other.as_ptr()) };
                begun.poll();
                Err(ConnectFailed::InUse)
            }
        }
    }

    fn attempt(&self) -> &Attempt {
        // SAFETY: the attempt is dropped with this value only, and the callbacks change nothing but its cell.
        unsafe { self.attempt.as_ref() }
    }

    /// Keeps SPDK from asking for events while it initialises the controller.
    fn keep_quiet(&self) -> Result<(), ConnectFailed> {
        let Some(probe) = self.probe else { return Ok(()) };
        // SAFETY: the probe is live and was begun with this; a controller in it is live, and this is the thread that
        // owns it.
        unsafe {
            let ctrlr = quiet::in_progress(probe.as_ptr(), &self.begun).map_err(|_| ConnectFailed::UnknownSpdk)?;
            if ctrlr.is_null() {
                return Ok(());
            }
            quiet::hold_events_off(ctrlr).map_err(|_| ConnectFailed::NotBegun)
        }
    }

    /// Keeps SPDK from looking for namespaces.
    fn hide_namespaces(&self, probe: NonNull<sys::spdk_nvme_probe_ctx>) {
        // SAFETY: as for `keep_quiet`.
        unsafe {
            if let Ok(ctrlr) = quiet::in_progress(probe.as_ptr(), &self.begun)
                && !ctrlr.is_null()
            {
                quiet::hide_namespaces(ctrlr);
            }
        }
    }

    /// Goes on connecting. `None` as long as there is no outcome.
    pub fn poll(&mut self) -> Option<Result<Ctrlr, ConnectFailed>> {
        if let Some(probe) = self.probe {
            // SAFETY: the probe is live until this returns something other than -EAGAIN, and frees itself then.
            if unsafe { sys::spdk_nvme_probe_poll_async(probe.as_ptr()) } == -libc::EAGAIN {
                self.hide_namespaces(probe);
                return None;
            }
            self.probe = None;
        }
        let ctrlr = self.attempt().ctrlr.replace(ptr::null_mut());
        Some(NonNull::new(ctrlr).map_or(Err(ConnectFailed::Refused), |raw| {
            // SAFETY: SPDK attached the controller for this attempt, on this thread, and nobody else has it.
            Ok(unsafe { Ctrlr::from_raw(raw, self.attempt().opts.num_io_queues) })
        }))
    }
}

impl Connect {
    /// Calls the attempt off: what it has connected is disconnected, and [`poll`](Self::poll) has an outcome soon.
    pub fn cancel(&self) {
        let Some(probe) = self.probe else { return };
        // SAFETY: as for `keep_quiet`.
        unsafe {
            if let Ok(ctrlr) = quiet::in_progress(probe.as_ptr(), &self.begun)
                && !ctrlr.is_null()
            {
                sys::spdk_nvme_ctrlr_fail(ctrlr);
            }
        }
    }
}

impl Drop for Connect {
    fn drop(&mut self) {
        if self.probe.is_some() {
            // SPDK may still read the options, so they are left where they are.
            log::warn!("an attempt to connect to a controller was dropped before its outcome");
            return;
        }
        // SAFETY: the box was leaked by `start`, and without a probe no callback comes any more.
        drop(unsafe { Box::from_raw(self.attempt.as_ptr()) });
    }
}

unsafe extern "C" fn take_options(
    ctx: *mut c_void,
    _: *const sys::spdk_nvme_transport_id,
    opts: *mut sys::spdk_nvme_ctrlr_opts,
) -> bool {
    // SAFETY: `ctx` is the attempt, and `opts` SPDK's place for the options.
    unsafe { *opts = (*ctx.cast::<Attempt>()).opts };
    true
}

unsafe extern "C" fn attached(
    ctx: *mut c_void,
    _: *const sys::spdk_nvme_transport_id,
    ctrlr: *mut sys::spdk_nvme_ctrlr,
    _: *const sys::spdk_nvme_ctrlr_opts,
) {
    // SAFETY: `ctx` is the attempt.
    unsafe { (*ctx.cast::<Attempt>()).ctrlr.set(ctrlr) };
}

unsafe extern "C" fn failed(_: *mut c_void, _: *const sys::spdk_nvme_transport_id, rc: c_int) {
    log::debug!("SPDK could not attach a controller: {rc}");
}
