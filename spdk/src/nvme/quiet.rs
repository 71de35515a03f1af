//! What SPDK is kept from doing by itself with a controller.
//!
//! While it initialises a controller, SPDK lists and identifies its namespaces, in structures whose sizes the
//! controller chooses. Afterwards it answers each of the controller's events about namespaces with commands for whose
//! completion it waits synchronously. Neither is bounded if the controller lies or is silent, and neither is needed
//! here: commands name namespaces by number, and whoever uses a [`Ctrlr`](super::Ctrlr) asks for namespaces and events
//! by admin commands of its own. So SPDK is shown a controller without namespaces, and its requests for events end
//! before they are sent.

use std::ffi::c_void;
use std::ptr;

use nvme_spec::{AdminOpcode, StatusCode};
use spdk_sys as sys;

use crate::Errno;

/// The beginning of SPDK's record of an attempt to connect, which its headers do not declare. It is looked at only if
/// all that is known of its content is found in it.
#[repr(C)]
struct ConnectAttempt {
    trid: sys::spdk_nvme_transport_id,
    opts: *const c_void,
    cb_ctx: *const c_void,
    probe_cb: sys::spdk_nvme_probe_cb,
    attach_cb: sys::spdk_nvme_attach_cb,
    attach_fail_cb: sys::spdk_nvme_attach_fail_cb,
    remove_cb: *const c_void,
    /// The first controller that is being initialised.
    first: *mut sys::spdk_nvme_ctrlr,
}

/// What an attempt to connect was begun with.
#[derive(Debug, Clone, Copy)]
pub(super) struct StartedAttempt {
    pub(super) context: *const c_void,
    pub(super) probe: sys::spdk_nvme_probe_cb,
    pub(super) attach: sys::spdk_nvme_attach_cb,
    pub(super) fail: sys::spdk_nvme_attach_fail_cb,
}

/// Returns the controller that an attempt is initialising, or null when there is none any more.
///
/// # Errors
/// `NOTSUP` when SPDK's record of the attempt is not laid out as expected.
///
/// # Safety
/// `probe` must be a live attempt, which was begun with what `begun` says.
pub(super) unsafe fn in_progress(
    probe: *const sys::spdk_nvme_probe_ctx,
    begun: &StartedAttempt,
) -> Result<*mut sys::spdk_nvme_ctrlr, Errno> {
    // SAFETY: the record is larger than this part of it in every SPDK that keeps what it is given to call back and
    // more.
    let record = unsafe { &*probe.cast::<ConnectAttempt>() };
    let address = |function: Option<*const c_void>| function.unwrap_or(ptr::null());
    let as_expected = record.opts.is_null()
        && record.remove_cb.is_null()
        && record.cb_ctx == begun.context
        && address(record.probe_cb.map(|f| f as *const c_void)) == address(begun.probe.map(|f| f as *const c_void))
        && address(record.attach_cb.map(|f| f as *const c_void)) == address(begun.attach.map(|f| f as *const c_void))
        && address(record.attach_fail_cb.map(|f| f as *const c_void))
            == address(begun.fail.map(|f| f as *const c_void));
    if as_expected { Ok(record.first) } else { Err(Errno::NOTSUP) }
}

/// From now on SPDK's requests for events end as if their queue had been deleted, after which SPDK sends no more of
/// them.
///
/// # Safety
/// The controller must be live, and this the thread that owns it.
pub(super) unsafe fn hold_events_off(ctrlr: *mut sys::spdk_nvme_ctrlr) -> Result<(), Errno> {
    // SAFETY: as the caller says; no queue pair stands for the admin queue.
    Errno::check(unsafe {
        sys::spdk_nvme_qpair_add_cmd_error_injection(
            ctrlr,
            ptr::null_mut(),
            AdminOpcode::ASYNC_EVENT_REQUEST.0,
            true,
            0,
            u32::MAX,
            0,
            StatusCode::ABORTED_SQ_DELETION.sc(),
        )
    })
}

/// The controller is initialised: requests for events are sent again, all of which are the user's.
///
/// # Safety
/// As for [`hold_events_off`].
pub(super) unsafe fn let_events_be_asked_for(ctrlr: *mut sys::spdk_nvme_ctrlr) {
    // SAFETY: as the caller says.
    unsafe {
        sys::spdk_nvme_qpair_remove_cmd_error_injection(ctrlr, ptr::null_mut(), AdminOpcode::ASYNC_EVENT_REQUEST.0);
    }
}

/// Takes the number of namespaces from SPDK's copy of the controller's data. To be called after each step of the
/// initialisation: SPDK lists namespaces several steps after the one that reads the data.
///
/// # Safety
/// As for [`hold_events_off`].
pub(super) unsafe fn hide_namespaces(ctrlr: *mut sys::spdk_nvme_ctrlr) {
    // SAFETY: the data is part of SPDK's structure, in memory that may be written; of the threads only this one uses
    // the number, since no command is given with metadata of its own.
    unsafe {
        let data = sys::spdk_nvme_ctrlr_get_data(ctrlr).cast_mut();
        (&raw mut (*data).nn).write_unaligned(0);
    }
}

/// Has SPDK ask for so many I/O queues when it connects the controller again. By itself it asks for as many as it was
/// granted the last time, so that a controller that has offered few once is never asked for more.
///
/// # Safety
/// As for [`hold_events_off`], and no I/O queue pair may be connected.
pub(super) unsafe fn ask_for_io_queues(ctrlr: *mut sys::spdk_nvme_ctrlr, count: u32) {
    // SAFETY: the options are part of SPDK's structure, in memory that may be written; while there is no queue pair,
    // only this thread uses the number.
    unsafe {
        let opts = sys::spdk_nvme_ctrlr_get_opts(ctrlr).cast_mut();
        (&raw mut (*opts).num_io_queues).write_unaligned(count);
    }
}
