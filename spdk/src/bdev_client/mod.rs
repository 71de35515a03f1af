//! Opening a bdev and sending it I/O ([`BdevChannel::submit`]). With the feature `bdev-requests` tests of bdevs can send
//! requests that have a buffer of their own.

mod claim;
mod describe;
#[cfg(feature = "bdev-requests")]
mod request;
mod split;
mod submit;

use std::ffi::{CString, c_void};
use std::ptr::{self, NonNull};
use std::rc::Rc;
use std::sync::Arc;

use spdk_sys as sys;

use crate::Errno;
use crate::thread::{OwnerThread, on_app_thread, send_to_app};

pub use claim::ClaimError;
pub use describe::{BdevInfo, io_pool_size};
#[cfg(feature = "bdev-requests")]
pub use request::{BdevRequest, Op};
pub use split::Splits;
pub use submit::{BlockOp, Completer};

/// Something that happened to an open bdev.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BdevEvent {
    /// It is being removed: close it soon.
    Removed,
    /// Its size changed.
    Resized,
}

type BdevEvents = Box<dyn Fn(BdevEvent)>;

/// Returns whether there is a bdev of that name. Always false off the application's thread.
#[must_use]
pub fn exists(name: &str) -> bool {
    let Ok(name) = CString::new(name) else { return false };
    // SAFETY: the bdev layer looks the name up under its lock; the bdev is not followed.
    on_app_thread() && unsafe { !sys::spdk_bdev_get_by_name(name.as_ptr()).is_null() }
}

/// An open bdev. Any thread may get a channel to it; it is closed on the application's thread, wherever it is dropped.
pub struct BdevDesc(Open);

#[derive(Clone, Copy, Debug)]
struct Open {
    raw: NonNull<sys::spdk_bdev_desc>,
    /// A count of an [`Rc`], which SPDK's event callback uses.
    events: *const BdevEvents,
    /// It shares the claim of the bdev.
    is_claimed: bool,
}

// SAFETY: SPDK lets every thread use a descriptor for channels and I/O. It is opened and closed, and its events are
// called and dropped, on the application's thread.
unsafe impl Send for Open {}
// SAFETY: as above.
unsafe impl Sync for Open {}

impl Open {
    /// # Safety
    /// To be called on the application's thread, once.
    unsafe fn close(self) {
        // SAFETY: the bdev was opened on this thread; no event comes after it is closed.
        unsafe {
            if self.is_claimed {
                claim::let_go(sys::spdk_bdev_desc_get_bdev(self.raw.as_ptr()));
            }
            sys::spdk_bdev_close(self.raw.as_ptr());
            drop(Rc::from_raw(self.events));
        }
    }
}

impl BdevDesc {
    /// Opens the bdev of that name for reading and writing. `events` is called, and dropped, on this thread.
    ///
    /// # Errors
    /// `NODEV` when there is none, `PERM` when another module has claimed it or off the application's thread.
    pub fn open(name: &str, events: impl Fn(BdevEvent) + 'static) -> Result<Self, Errno> {
        Self::open_to(name, true, events)
    }

    fn open_to(name: &str, write: bool, events: impl Fn(BdevEvent) + 'static) -> Result<Self, Errno> {
        unsafe extern "C" fn event(kind: u32, _: *mut sys::spdk_bdev, ctx: *mut c_void) {
            let events = ctx.cast::<BdevEvents>().cast_const();
            // SAFETY: `ctx` came from `Rc::into_raw` below, and that count is held until the bdev is closed. Another is
            // taken for this call, which may close it.
            let events = unsafe {
                Rc::increment_strong_count(events);
                Rc::from_raw(events)
            };
            match kind {
                sys::spdk_bdev_event_type::SPDK_BDEV_EVENT_REMOVE => events(BdevEvent::Removed),
                sys::spdk_bdev_event_type::SPDK_BDEV_EVENT_RESIZE => events(BdevEvent::Resized),
                _ => {}
            }
        }
        if !on_app_thread() {
            return Err(Errno::PERM);
        }
        let name = CString::new(name).map_err(|_| Errno::INVAL)?;
        let events = Rc::into_raw(Rc::new(Box::new(events) as BdevEvents));
        let mut raw = ptr::null_mut();
        let ctx = events.cast_mut().cast();
        // SAFETY: the callback expects the count.
        let rc = unsafe { sys::spdk_bdev_open_ext(name.as_ptr(), write, Some(event), ctx, &raw mut raw) };
        match (Errno::check(rc), NonNull::new(raw)) {
            (Ok(()), Some(raw)) => Ok(Self(Open { raw, events, is_claimed: false })),
            (result, _) => {
                // SAFETY: SPDK did not take the count.
                drop(unsafe { Rc::from_raw(events) });
                Err(result.err().unwrap_or(Errno::NODEV))
            }
        }
    }

    fn bdev(&self) -> *mut sys::spdk_bdev {
        // SAFETY: an open bdev stays where it is.
        unsafe { sys::spdk_bdev_desc_get_bdev(self.0.raw.as_ptr()) }
    }

    /// Returns the number of bytes of a block.
    #[must_use]
    pub fn block_size(&self) -> u32 {
        // SAFETY: as above.
        unsafe { sys::spdk_bdev_get_block_size(self.bdev()) }
    }

    /// Returns number of blocks.
    #[must_use]
    pub fn num_blocks(&self) -> u64 {
        // SAFETY: as above.
        unsafe { sys::spdk_bdev_get_num_blocks(self.bdev()) }
    }

    /// Returns the calling thread's channel to the bdev.
    ///
    /// # Errors
    /// `PERM` off any SPDK thread, `NOMEM` when the bdev gives no channel.
    pub fn channel(self: &Arc<Self>) -> Result<BdevChannel, Errno> {
        let owner = OwnerThread::current()?;
        // SAFETY: the bdev is open.
        let raw = NonNull::new(unsafe { sys::spdk_bdev_get_io_channel(self.0.raw.as_ptr()) }).ok_or(Errno::NOMEM)?;
        Ok(BdevChannel(Rc::new(Channel { raw, owner, desc: Arc::clone(self), block_size: self.block_size() })))
    }
}

impl Drop for BdevDesc {
    fn drop(&mut self) {
        let open = self.0;
        if on_app_thread() {
            // SAFETY: this value is gone after this.
            return unsafe { open.close() };
        }
        let close = move || {
            // SAFETY: as above.
            unsafe { open.close() };
        };
        if let Err(error) = send_to_app(close) {
            log::error!("a bdev could not be closed: {error}");
        }
    }
}

/// A thread's way to an open bdev, which stays open as long as there is one. A request that was sent on it keeps
/// it until its end.
pub struct BdevChannel(Rc<Channel>);

struct Channel {
    raw: NonNull<sys::spdk_io_channel>,
    owner: OwnerThread,
    desc: Arc<BdevDesc>,
    /// A bdev's block size does not change.
    block_size: u32,
}

impl Drop for Channel {
    fn drop(&mut self) {
        if self.owner.lets_go_of("a channel of a bdev") {
            // SAFETY: this value is one reference, put back on its thread.
            unsafe { sys::spdk_put_io_channel(self.raw.as_ptr()) };
        } else {
            // The bdev must not be closed before its channel is gone.
            std::mem::forget(Arc::clone(&self.desc));
        }
    }
}

impl std::fmt::Debug for BdevDesc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("BdevDesc").field(&self.0.raw).finish()
    }
}

impl std::fmt::Debug for BdevChannel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("BdevChannel").field(&self.0.raw).finish()
    }
}

type IoCallback = unsafe extern "C" fn(*mut sys::spdk_bdev_io, bool, *mut c_void);
