//! I/O devices and their channels.
//!
//! An I/O device is shared by all threads; each thread that uses it gets a channel of its own, made by
//! [`ChannelFactory::create`] at the first use and dropped on that thread after the last.

use std::ffi::{CString, c_int, c_void};
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use spdk_sys as sys;

use crate::Errno;
use crate::thread::{NotSend, OwnerThread, on_spdk_thread};

/// What all threads share of an I/O device, and how a thread's own part is made.
pub trait ChannelFactory: Send + Sync + 'static {
    /// A thread's own part.
    type Channel: 'static;

    /// Makes the calling thread's part. Must not block: the thread is a reactor's.
    ///
    /// # Errors
    /// What keeps the channel from being made; who asked for it gets the same error or a plain failure.
    fn create(&self) -> Result<Self::Channel, Errno>;
}

/// A registered I/O device.
pub struct IoDevice<F: ChannelFactory>(Arc<Registered<F>>);

/// What SPDK knows a device by: its address, which is no other's since this is larger than nothing, whatever the shared
/// part is.
struct Registered<F> {
    shared: Arc<F>,
    /// It was unregistered.
    gone: AtomicBool,
}

impl<F: ChannelFactory> Clone for IoDevice<F> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<F: ChannelFactory> std::fmt::Debug for IoDevice<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("IoDevice").field(&self.key()).finish()
    }
}

impl<F: ChannelFactory> IoDevice<F> {
    /// Registers `shared` as an I/O device. It stays registered until [`unregister`](Self::unregister).
    ///
    /// # Errors
    /// `PERM` off any SPDK thread, `INVAL` for a name with a NUL.
    pub fn register(name: &str, shared: F) -> Result<Self, Errno> {
        if !on_spdk_thread() {
            return Err(Errno::PERM);
        }
        let name = CString::new(name).map_err(|_| Errno::INVAL)?;
        let device = Arc::new(Registered { shared: Arc::new(shared), gone: AtomicBool::new(false) });
        let context = u32::try_from(size_of::<*mut F::Channel>()).map_err(|_| Errno::INVAL)?;
        // SAFETY: the key is the address of `device`, of which one count is SPDK's until it is unregistered. Both
        // callbacks expect that address and a context that holds one pointer.
        unsafe {
            let key = Arc::into_raw(Arc::clone(&device)).cast_mut().cast();
            sys::spdk_io_device_register(key, Some(create::<F>), Some(destroy::<F>), context, name.as_ptr());
        }
        Ok(Self(device))
    }

    /// Returns what all threads share.
    #[must_use]
    pub fn shared(&self) -> &Arc<F> {
        &self.0.shared
    }

    fn key(&self) -> *mut c_void {
        Arc::as_ptr(&self.0).cast_mut().cast()
    }

    /// The calling thread's channel, made now if this is its first use.
    ///
    /// # Errors
    /// `PERM` off any SPDK thread, `NOMEM` when the factory failed or the device is no longer registered.
    pub fn channel(&self) -> Result<IoChannel<F::Channel>, Errno> {
        let owner = OwnerThread::current()?;
        // SAFETY: an unknown key gives null.
        let raw = NonNull::new(unsafe { sys::spdk_get_io_channel(self.key()) }).ok_or(Errno::NOMEM)?;
        Ok(IoChannel { raw, owner, _channel: PhantomData, _stays: PhantomData })
    }

    /// Calls `each` for every thread's channel, on that thread, one after another, then `done` on this thread with
    /// the first error that an [`Advance`] was given.
    ///
    /// # Errors
    /// `PERM` off any SPDK thread.
    pub fn for_each_channel<E, D>(&self, each: E, done: D) -> Result<(), Errno>
    where
        E: Fn(&F::Channel, Advance) + Send + Sync + 'static,
        D: FnOnce(Result<(), Errno>) + 'static,
    {
        struct Walk<E, D> {
            each: E,
            done: D,
        }
        unsafe extern "C" fn visit<C, E: Fn(&C, Advance), D>(iter: *mut sys::spdk_io_channel_iter) {
            // SAFETY: SPDK passes on the context that it was given below, which lives until `finish`.
            let walk = unsafe { &*sys::spdk_io_channel_iter_get_ctx(iter).cast::<Walk<E, D>>() };
            // SAFETY: the iterator stands at a live channel of this device on the current thread.
            let channel = unsafe { &**context::<C>(sys::spdk_io_channel_iter_get_channel(iter)) };
            if let Some(iter) = NonNull::new(iter) {
                (walk.each)(channel, Advance { iter: Some(iter), _stays: PhantomData });
            }
        }
        unsafe extern "C" fn finish<E, D: FnOnce(Result<(), Errno>)>(
            iter: *mut sys::spdk_io_channel_iter,
            status: c_int,
        ) {
            // SAFETY: the box that was given to SPDK below; this is the last call of the walk.
            let walk = unsafe { Box::from_raw(sys::spdk_io_channel_iter_get_ctx(iter).cast::<Walk<E, D>>()) };
            (walk.done)(Errno::check(status));
        }
        if !on_spdk_thread() {
            return Err(Errno::PERM);
        }
        let walk = Box::into_raw(Box::new(Walk { each, done }));
        // SAFETY: `visit` and `finish` expect this context. `each` is called on other threads, for which it is `Sync`;
        // `done` is called and dropped on this one.
        unsafe {
            sys::spdk_for_each_channel(self.key(), Some(visit::<F::Channel, E, D>), walk.cast(), Some(finish::<E, D>));
        }
        Ok(())
    }

    /// Unregisters the device: no new channels are made, and once the last one is gone `done` is called on this
    /// thread.
    ///
    /// # Errors
    /// `PERM` off any SPDK thread, `NODEV` when it was unregistered before; `done` is dropped here then.
    pub fn unregister(self, done: impl FnOnce() + 'static) -> Result<(), Errno> {
        if !on_spdk_thread() {
            return Err(Errno::PERM);
        }
        if self.0.gone.swap(true, Ordering::AcqRel) {
            return Err(Errno::NODEV);
        }
        PENDING_UNREGISTERS.push(self.key() as usize, Box::new(done));
        // SAFETY: the key was registered by `register`, and is unregistered once.
        unsafe { sys::spdk_io_device_unregister(self.key(), Some(unregistered::<F>)) };
        Ok(())
    }
}

/// What waits for devices to be unregistered, by key: SPDK gives the callback no context but that.
struct PendingUnregisters(Mutex<Vec<(usize, Unregistered)>>);

type Unregistered = Box<dyn FnOnce()>;

// SAFETY: an entry is pushed and taken on the thread that unregistered the device, where SPDK calls back; the
// mutex only orders access to the list.
unsafe impl Sync for PendingUnregisters {}
// SAFETY: as above.
unsafe impl Send for PendingUnregisters {}

static PENDING_UNREGISTERS: PendingUnregisters = PendingUnregisters(Mutex::new(Vec::new()));

impl PendingUnregisters {
    fn push(&self, key: usize, done: Unregistered) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((key, done));
    }

    fn take(&self, key: usize) -> Option<Unregistered> {
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = list.iter().position(|(entry, _)| *entry == key)?;
        Some(list.swap_remove(at).1)
    }
}

unsafe extern "C" fn unregistered<F: ChannelFactory>(key: *mut c_void) {
    // SAFETY: SPDK's count of the device, given to it by `register`, comes back here once.
    let device = unsafe { Arc::from_raw(key.cast::<Registered<F>>().cast_const()) };
    if let Some(done) = PENDING_UNREGISTERS.take(key as usize) {
        done();
    }
    drop(device);
}

unsafe extern "C" fn create<F: ChannelFactory>(key: *mut c_void, ctx: *mut c_void) -> c_int {
    // SAFETY: the key is the device, alive while it is registered.
    let device = unsafe { &*key.cast::<Registered<F>>() };
    match device.shared.create() {
        Ok(channel) => {
            // SAFETY: `ctx` has room for one pointer, as `register` asked for.
            unsafe { ctx.cast::<*mut F::Channel>().write(Box::into_raw(Box::new(channel))) };
            0
        }
        Err(error) => error.negated(),
    }
}

unsafe extern "C" fn destroy<F: ChannelFactory>(_: *mut c_void, ctx: *mut c_void) {
    // SAFETY: `create` wrote the box, and SPDK destroys a channel once, on its own thread.
    drop(unsafe { Box::from_raw(*ctx.cast::<*mut F::Channel>()) });
}

/// Returns the place in a channel of SPDK's where `create` put the pointer to our part.
///
/// # Safety
/// `raw` must be a live channel of an [`IoDevice`] whose factory makes `C`.
pub(crate) unsafe fn context<C>(raw: *mut sys::spdk_io_channel) -> *mut *mut C {
    // SAFETY: SPDK lays the context behind its own structure, whose size is part of its interface.
    unsafe { raw.byte_add(sys::SPDK_IO_CHANNEL_STRUCT_SIZE as usize).cast() }
}

/// A counted reference to this thread's channel of a device.
pub struct IoChannel<C> {
    raw: NonNull<sys::spdk_io_channel>,
    owner: OwnerThread,
    _channel: PhantomData<C>,
    _stays: NotSend,
}

impl<C> IoChannel<C> {
    /// Hands the reference to SPDK, which puts it back itself.
    pub(crate) fn into_raw(self) -> *mut sys::spdk_io_channel {
        std::mem::ManuallyDrop::new(self).raw.as_ptr()
    }
}

impl<C> std::ops::Deref for IoChannel<C> {
    type Target = C;

    fn deref(&self) -> &C {
        // SAFETY: the reference keeps the channel alive, whose context holds the box that `create` made.
        unsafe { &**context::<C>(self.raw.as_ptr()) }
    }
}

impl<C> Drop for IoChannel<C> {
    fn drop(&mut self) {
        if self.owner.lets_go_of("a channel of an I/O device") {
            // SAFETY: this value is one reference, put back on the thread that took it.
            unsafe { sys::spdk_put_io_channel(self.raw.as_ptr()) };
        }
    }
}

impl<C> std::fmt::Debug for IoChannel<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("IoChannel").field(&self.raw).finish()
    }
}

/// A walk over channels that waits at one of them. It goes on when this is told to, or dropped.
#[must_use = "the walk over the channels goes on when this is used"]
pub struct Advance {
    iter: Option<NonNull<sys::spdk_io_channel_iter>>,
    _stays: NotSend,
}

impl Advance {
    /// Goes on to the next channel, or ends the walk with an error.
    pub fn go_on(mut self, result: Result<(), Errno>) {
        self.finish(result);
    }

    fn finish(&mut self, result: Result<(), Errno>) {
        if let Some(iter) = self.iter.take() {
            let status = result.err().map_or(0, Errno::negated);
            // SAFETY: the walk stands at this channel, on this thread, and is continued once.
            unsafe { sys::spdk_for_each_channel_continue(iter.as_ptr(), status) };
        }
    }
}

impl Drop for Advance {
    fn drop(&mut self) {
        self.finish(Err(Errno::CANCELED));
    }
}

impl std::fmt::Debug for Advance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Advance").field(&self.iter).finish()
    }
}
