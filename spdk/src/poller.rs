//! Pollers: functions that an SPDK thread calls again and again.

use std::cell::RefCell;
use std::ffi::{CString, c_int, c_void};
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::rc::Rc;
use std::time::Duration;

use spdk_sys as sys;

use crate::Errno;
use crate::thread::{NotSend, OwnerThread};

/// What a poller's call did, by which SPDK tells a busy core from an idle one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Poll {
    /// There was nothing to do.
    Idle,
    /// Work was done.
    Busy,
}

struct Body(RefCell<Box<dyn FnMut() -> Poll>>);

/// A poller on the SPDK thread that registered it. Dropping it, which it may do from within its own call, ends it.
pub struct Poller {
    raw: NonNull<sys::spdk_poller>,
    body: NonNull<Body>,
    owner: OwnerThread,
    _stays: NotSend,
}

impl Poller {
    /// Calls `f` on this thread every `period`, or on every round of the reactor for a period of zero.
    ///
    /// # Errors
    /// `PERM` off any SPDK thread, `INVAL` for a name with a NUL, `NOMEM` when SPDK cannot register it.
    pub fn register(name: &str, period: Duration, f: impl FnMut() -> Poll + 'static) -> Result<Self, Errno> {
        unsafe extern "C" fn call(ctx: *mut c_void) -> c_int {
            let body = ctx.cast::<Body>().cast_const();
            // SAFETY: `ctx` came from `Rc::into_raw` below, and the poller's own count is held while it is registered.
            // Another is taken for this call, so that a body that drops its poller outlives the call.
            let body = unsafe {
                Rc::increment_strong_count(body);
                Rc::from_raw(body)
            };
            // A body that runs the reactor from within itself would come here twice; the inner call does nothing.
            let result = body.0.try_borrow_mut().map_or(Poll::Idle, |mut f| f());
            let busy = match result {
                Poll::Idle => sys::spdk_thread_poller_rc::SPDK_POLLER_IDLE,
                Poll::Busy => sys::spdk_thread_poller_rc::SPDK_POLLER_BUSY,
            };
            c_int::try_from(busy).unwrap_or_default()
        }
        let owner = OwnerThread::current()?;
        let name = CString::new(name).map_err(|_| Errno::INVAL)?;
        let micros = u64::try_from(period.as_micros()).unwrap_or(u64::MAX);
        let body = Rc::into_raw(Rc::new(Body(RefCell::new(Box::new(f))))).cast_mut();
        // SAFETY: `call` gets the pointer that it expects; SPDK copies the name.
        let raw = unsafe { sys::spdk_poller_register_named(Some(call), body.cast(), micros, name.as_ptr()) };
        if let (Some(raw), Some(body)) = (NonNull::new(raw), NonNull::new(body)) {
            return Ok(Self { raw, body, owner, _stays: PhantomData });
        }
        // SAFETY: SPDK did not take the pointer, so the count is still ours.
        drop(unsafe { Rc::from_raw(body) });
        Err(Errno::NOMEM)
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        if !self.owner.lets_go_of("a poller") {
            return;
        }
        let mut raw = self.raw.as_ptr();
        // SAFETY: the poller was registered on this thread, which it belongs to, and is unregistered once. SPDK
        // does not call it again, even where it only marks it because it is running.
        unsafe {
            sys::spdk_poller_unregister(&raw mut raw);
            drop(Rc::from_raw(self.body.as_ptr().cast_const()));
        }
    }
}

impl std::fmt::Debug for Poller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Poller").field(&self.raw).finish()
    }
}
