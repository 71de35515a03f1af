//! Threads that stay on the reactor on which they began.
//!
//! Schedulers leave a bound thread where it is. But `thread_set_cpumask` asks for a new place for any thread, and SPDK
//! notes for one that is bound that it is on no core until it has been placed, which it never is: the dynamic scheduler
//! then reads beyond its list of cores and ends the process. So a bound thread notices such a request in the poll in
//! which it comes, before a scheduler can, and has itself placed again where it was.

use std::ffi::{CStr, c_int, c_void};
use std::ptr::{self, NonNull};

use spdk_sys as sys;

/// A core that no reactor has: the last one of SPDK's sets. It is in a thread's set of cores until somebody else gives
/// the thread another, which is made of the reactors' cores only.
const MARK: u32 = sys::SPDK_CPUSET_SIZE - 1;

/// Returns the cores of a thread that is to stay on `core`.
pub(crate) fn mask(core: u32) -> sys::spdk_cpuset {
    let mut mask = sys::spdk_cpuset::default();
    // SAFETY: the set is this function's own, and has room for a reactor's core and the last one.
    unsafe {
        sys::spdk_cpuset_set_cpu(&raw mut mask, core, true);
        sys::spdk_cpuset_set_cpu(&raw mut mask, MARK, true);
    }
    mask
}

/// What the poller of a thread that stays has.
struct Placement {
    thread: NonNull<sys::spdk_thread>,
    cores: NonNull<sys::spdk_cpuset>,
    poller: *mut sys::spdk_poller,
    core: u32,
    /// It is being placed again, and not bound until it is where it was.
    is_moving: bool,
}

/// Keeps the current SPDK thread, whose cores are a [`mask`] and which is bound, on the core that it is on now.
pub(crate) fn keep() {
    // SAFETY: reads thread-local variables of SPDK's.
    let (thread, core) = unsafe { (sys::spdk_get_thread(), sys::spdk_env_get_current_core()) };
    let Some(thread) = NonNull::new(thread) else { return };
    // SAFETY: the current thread is alive; its set of cores is a part of it.
    let Some(cores) = NonNull::new(unsafe { sys::spdk_thread_get_cpumask(thread.as_ptr()) }) else { return };
    let placement = Placement { thread, cores, poller: ptr::null_mut(), core, is_moving: false };
    let placement = Box::into_raw(Box::new(placement));
    // SAFETY: `stay` gets the pointer that it expects, which it frees itself; SPDK copies the name. The poller is not
    // called before this message is over.
    unsafe {
        let poller = sys::spdk_poller_register_named(Some(stay), placement.cast(), 0, c"courier_place".as_ptr());
        if poller.is_null() {
            log::error!("an SPDK thread on core {core} is not kept there: there is no poller");
            return drop(Box::from_raw(placement));
        }
        (*placement).poller = poller;
    }
}

/// The poller of a thread that stays.
unsafe extern "C" fn stay(ctx: *mut c_void) -> c_int {
    let placement = ctx.cast::<Placement>();
    // SAFETY: `ctx` is the box that `keep` made, which nobody else has. SPDK calls a poller on its thread only, which
    // is alive then, and with it its set of cores.
    unsafe {
        let place = &mut *placement;
        if !sys::spdk_thread_is_running(place.thread.as_ptr()) {
            sys::spdk_poller_unregister(&raw mut place.poller);
            drop(Box::from_raw(placement));
        } else if place.is_moving || !sys::spdk_cpuset_get_cpu(place.cores.as_ptr(), MARK) {
            place.settle();
        }
    }
    0
}

impl Placement {
    /// Binds the thread if it is where it is to be and nobody wants it elsewhere, and has it placed there if not.
    ///
    /// # Safety
    /// To be called on the thread.
    #[cold]
    unsafe fn settle(&mut self) {
        let thread = self.thread.as_ptr();
        // SAFETY: the caller runs on the thread, which is alive, and with it its set of cores and its name. SPDK copies
        // the set that it is given.
        unsafe {
            let is_asked_to_move = !sys::spdk_cpuset_get_cpu(self.cores.as_ptr(), MARK);
            if is_asked_to_move {
                let name = CStr::from_ptr(sys::spdk_thread_get_name(thread)).to_string_lossy();
                log::warn!("the SPDK thread '{name}' stays on core {}: its cpumask cannot be changed", self.core);
            } else if sys::spdk_env_get_current_core() == self.core {
                sys::spdk_thread_bind(thread, true);
                self.is_moving = false;
                return;
            }
            // The reactor places a thread that is not bound once this poll is over.
            sys::spdk_thread_bind(thread, false);
            let mut cores = mask(self.core);
            sys::spdk_thread_set_cpumask(&raw mut cores);
        }
        self.is_moving = true;
    }
}
