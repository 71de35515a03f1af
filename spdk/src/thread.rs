//! SPDK threads and messages between them.
//!
//! An SPDK thread is a unit of scheduling that a reactor runs; it may move from one core to another, so
//! `thread_local!` does not follow it. State of the application's thread lives in an [`AppCell`].

use std::cell::{OnceCell, RefCell};
use std::ffi::{CString, c_void};
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::sync::{PoisonError, RwLock};

use spdk_sys as sys;

use crate::{Errno, os_thread, placement, running};

/// A marker for what must stay on the SPDK thread that made it: neither `Send` nor `Sync`.
pub(crate) type NotSend = PhantomData<*mut ()>;

/// The SPDK thread that a value belongs to.
///
/// Threads of one reactor share an operating-system thread, so that what is neither `Send` nor `Sync` can still come
/// from one to the other, through a `thread_local!`. SPDK refuses to let go of what is not the current thread's: a
/// value that is dropped elsewhere looks first, and leaves everything as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OwnerThread(u64);

impl OwnerThread {
    /// Returns the current thread.
    ///
    /// # Errors
    /// `PERM` off any SPDK thread.
    pub(crate) fn current() -> Result<Self, Errno> {
        // SAFETY: reads a thread-local variable of SPDK's, and the number of the thread that is running.
        let thread = unsafe { sys::spdk_get_thread() };
        if thread.is_null() {
            return Err(Errno::PERM);
        }
        // SAFETY: the current thread is alive. Its number is never another's.
        Ok(Self(unsafe { sys::spdk_thread_get_id(thread) }))
    }

    /// Returns whether this is the current thread, which is an error that the log tells of if it is not.
    pub(crate) fn lets_go_of(self, what: &str) -> bool {
        let here = Self::current() == Ok(self);
        if !here {
            log::error!("{what} was dropped on another thread than its own, and stays");
        }
        here
    }
}

/// Returns whether the caller runs on the application's thread, where RPC methods run and bdevs are registered.
#[must_use]
pub fn on_app_thread() -> bool {
    // SAFETY: a null thread asks about the current one. Where there is none, SPDK would say yes if there is no
    // application either.
    on_spdk_thread() && unsafe { sys::spdk_thread_is_app_thread(ptr::null_mut()) }
}

/// Returns whether the caller runs on any SPDK thread.
#[must_use]
pub fn on_spdk_thread() -> bool {
    // SAFETY: reads a thread-local variable of SPDK's.
    unsafe { !sys::spdk_get_thread().is_null() }
}

/// Returns the core that the caller runs on; none off the reactors.
#[must_use]
pub fn current_core() -> Option<u32> {
    // SAFETY: reads a thread-local variable.
    Some(unsafe { sys::spdk_env_get_current_core() }).filter(|core| *core != u32::MAX)
}

/// Returns the cores that the application's reactors run on, in order.
#[must_use]
pub fn cores() -> Vec<u32> {
    // SAFETY: reads SPDK's core mask; the last core is followed by `u32::MAX`.
    let next = |core: u32| match unsafe { sys::spdk_env_get_next_core(core) } {
        u32::MAX => None,
        core => Some(core),
    };
    // SAFETY: as above.
    let first = Some(unsafe { sys::spdk_env_get_first_core() }).filter(|core| *core != u32::MAX);
    std::iter::successors(first, |core| next(*core)).collect()
}

/// Starts an operating-system thread that may run on any core of the machine but the reactors', or on those, too, if it
/// has no others.
///
/// # Errors
/// What the operating system says.
pub fn spawn_unpinned<F: FnOnce() + Send + 'static>(name: &str, f: F) -> std::io::Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        // SAFETY: changes the affinity of the calling thread, which is new and this function's own.
        unsafe { sys::spdk_unaffinitize_thread() };
        os_thread::leave(&cores());
        f();
    })
}

/// Calls `f` on the application's thread, later. `f` is called and dropped there; what comes too late for that is never
/// called, nor dropped.
///
/// # Errors
/// `NXIO` when no application runs, or it is about to end; `f` is dropped here then.
pub fn send_to_app<F: FnOnce() + Send + 'static>(f: F) -> Result<(), Errno> {
    let sent = {
        let _guard = running::guard()?;
        // SAFETY: returns a pointer to the application's thread, or null.
        let app = NonNull::new(unsafe { sys::spdk_thread_get_app_thread() }).ok_or(Errno::NXIO)?;
        // SAFETY: the application's thread takes messages as long as the guard is held.
        unsafe { send_raw(app, f) }
    };
    // What the message holds may send others when it is dropped: that is not done under the guard.
    sent.map_err(|(errno, _)| errno)
}

/// Calls `f` on this SPDK thread once the current message or poll is over. `f` may hold what must stay on the thread.
///
/// # Errors
/// `NXIO` off any SPDK thread, `NOMEM` when SPDK is out of messages; `f` is dropped here then.
pub fn defer<F: FnOnce() + 'static>(f: F) -> Result<(), Errno> {
    // SAFETY: reads a thread-local variable of SPDK's.
    let current = NonNull::new(unsafe { sys::spdk_get_thread() }).ok_or(Errno::NXIO)?;
    // SAFETY: the current thread is alive; what is sent to it never leaves it.
    unsafe { send_raw(current, f) }.map_err(|(errno, _)| errno)
}

/// Calls `f` on `thread`, or gives it back with what SPDK says.
///
/// # Safety
/// `thread` must take messages, and `f` must be `Send` unless `thread` is the current one.
pub(crate) unsafe fn send_raw<F: FnOnce() + 'static>(
    thread: NonNull<sys::spdk_thread>,
    f: F,
) -> Result<(), (Errno, F)> {
    unsafe extern "C" fn call<F: FnOnce()>(ctx: *mut c_void) {
        // SAFETY: `ctx` is the box that was given to SPDK below, which passes it on exactly once.
        let f = unsafe { Box::from_raw(ctx.cast::<F>()) };
        f();
    }
    let boxed = Box::into_raw(Box::new(f));
    // SAFETY: the caller vouches for the thread; `call` takes the box.
    let rc = unsafe { sys::spdk_thread_send_msg(thread.as_ptr(), Some(call::<F>), boxed.cast()) };
    // SAFETY: if SPDK did not take the message, the box is still ours.
    Errno::check(rc).map_err(|errno| (errno, *unsafe { Box::from_raw(boxed) }))
}

/// An SPDK thread that this value keeps alive. Dropping it makes the thread exit once its pollers and channels
/// are gone.
#[derive(Debug)]
pub struct OwnedThread {
    thread: NonNull<sys::spdk_thread>,
    /// The thread takes messages. It is told to exit once, under the lock.
    open: RwLock<bool>,
}

// SAFETY: messages may be sent to a thread from anywhere, and only this value ends it.
unsafe impl Send for OwnedThread {}
// SAFETY: as above; sending is safe from several threads at once.
unsafe impl Sync for OwnedThread {}

impl OwnedThread {
    /// Makes a thread that runs on core `core` only, whatever schedulers and `thread_set_cpumask` want. SPDK begins it
    /// on another one if that core does not poll just then, and it stays there.
    ///
    /// # Errors
    /// `INVAL` for a name that holds a NUL or a core that no reactor runs on, `NXIO` when no application runs, `NOMEM`
    /// when SPDK cannot make it.
    pub fn on_core(name: &str, core: u32) -> Result<Self, Errno> {
        let name = CString::new(name).map_err(|_| Errno::INVAL)?;
        let _guard = running::guard()?;
        if !cores().contains(&core) {
            return Err(Errno::INVAL);
        }
        let cores = placement::mask(core);
        // SAFETY: `cores` and `name` are valid for the call; SPDK copies both.
        let thread = unsafe { sys::spdk_thread_create(name.as_ptr(), &raw const cores) };
        let thread = NonNull::new(thread).ok_or(Errno::NOMEM)?;
        // SAFETY: the thread was made just now. Schedulers leave one alone that is bound; others move it whatever its
        // cores are.
        unsafe { sys::spdk_thread_bind(thread.as_ptr(), true) };
        // SAFETY: the thread takes messages as long as the guard is held.
        unsafe { send_raw(thread, placement::keep) }.map_err(|(errno, _)| errno)?;
        Ok(Self { thread, open: RwLock::new(true) })
    }

    /// Calls `f` on this thread, later. `f` is called and dropped there.
    ///
    /// # Errors
    /// `NXIO` when the thread has been told to exit, or the application is about to end, and its threads with it; `f`
    /// is dropped here then.
    pub fn send<F: FnOnce() + Send + 'static>(&self, f: F) -> Result<(), Errno> {
        let sent = {
            let _guard = running::guard()?;
            let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
            if !*open {
                return Err(Errno::NXIO);
            }
            // SAFETY: the thread exits when it is told to, by this value under its lock, or when the application ends,
            // which the guard keeps off.
            unsafe { send_raw(self.thread, f) }
        };
        sent.map_err(|(errno, _)| errno)
    }

    /// Tells the thread to exit once its pollers and channels are gone; it takes no more messages. Called on the thread
    /// itself, it has been told when this returns.
    ///
    /// # Errors
    /// `NXIO` when the application is about to end: SPDK ends its threads itself.
    pub fn exit(&self) -> Result<(), Errno> {
        unsafe fn exit() {
            // SAFETY: the caller runs on the thread that is to exit.
            unsafe { sys::spdk_thread_exit(sys::spdk_get_thread()) };
        }
        let guard = running::guard();
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        if !std::mem::replace(&mut *open, false) {
            return Ok(());
        }
        let _guard = guard?;
        // SAFETY: reads a thread-local variable of SPDK's.
        if unsafe { sys::spdk_get_thread() } == self.thread.as_ptr() {
            // SAFETY: this is the thread.
            unsafe { exit() };
            return Ok(());
        }
        // SAFETY: the thread takes messages as long as the guard is held, and this is the last one; it runs there.
        unsafe { send_raw(self.thread, || exit()) }.map_err(|(errno, _)| errno)
    }
}

impl Drop for OwnedThread {
    fn drop(&mut self) {
        if let Err(error) = self.exit() {
            log::error!("an SPDK thread could not be told to exit: {error}");
        }
    }
}

/// A value that only the application's thread touches: the place for registries of a module. That thread makes it, too,
/// at the first use.
pub struct AppCell<T> {
    value: OnceCell<RefCell<T>>,
    init: fn() -> T,
}

// SAFETY: `with` lets only the application's thread at the value, which was made there of nothing that another thread
// has, and is never moved or dropped, since it is borrowed for ever. SPDK's messages order what that thread does on one
// core before what it does on another.
unsafe impl<T> Sync for AppCell<T> {}

impl<T> AppCell<T> {
    /// Returns a cell for a `static`, whose value `init` makes.
    pub const fn new(init: fn() -> T) -> Self {
        Self { value: OnceCell::new(), init }
    }

    /// Calls `f` with the value.
    ///
    /// # Panics
    /// Off the application's thread.
    pub fn with<R>(&'static self, f: impl FnOnce(&RefCell<T>) -> R) -> R {
        assert!(on_app_thread(), "state of the application's thread was asked for elsewhere");
        f(self.value.get_or_init(|| RefCell::new((self.init)())))
    }
}

impl<T> std::fmt::Debug for AppCell<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AppCell")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_on_the_applications_thread_where_there_is_no_application() {
        static CELL: AppCell<u32> = AppCell::new(|| 0);
        assert!(!on_app_thread() && !on_spdk_thread());
        assert!(std::panic::catch_unwind(|| CELL.with(|cell| *cell.borrow())).is_err());
    }

    #[test]
    fn threads_and_messages_are_refused_where_there_is_no_application() {
        assert_eq!(OwnedThread::on_core("early", 0).err(), Some(Errno::NXIO));
        assert_eq!(defer(|| ()), Err(Errno::NXIO));
    }
}
