//! Bringing an I/O back to its thread.

use std::marker::PhantomData;
use std::ptr::NonNull;

use spdk_sys as sys;

use super::{BdevIo, Device, IoStatus};
use crate::Errno;
use crate::thread::send_raw;

/// An I/O on its way between threads: it can be used on its own thread only, to which this brings it. One that is
/// dropped on the way fails there.
#[derive(Debug)]
pub struct Carrier<D: Device>(Option<NonNull<sys::spdk_bdev_io>>, PhantomData<fn() -> D>);

// SAFETY: the I/O is not touched but on its own thread, to which `send` brings it.
unsafe impl<D: Device> Send for Carrier<D> {}

impl<D: Device> Carrier<D> {
    /// Takes over the duty to complete `io`.
    pub(super) fn new(io: BdevIo<D>) -> Self {
        Self(Some(io.take()), PhantomData)
    }

    /// Calls `f` with the I/O on the thread that it was submitted on.
    pub fn deliver(mut self, f: impl FnOnce(BdevIo<D>) + Send + 'static) {
        self.send(f);
    }

    fn send(&mut self, f: impl FnOnce(BdevIo<D>) + Send + 'static) {
        struct Arrived<D>(NonNull<sys::spdk_bdev_io>, PhantomData<fn() -> D>);
        // SAFETY: as for `Carrier`.
        unsafe impl<D> Send for Arrived<D> {}
        impl<D: Device> Arrived<D> {
            /// # Safety
            /// To be called on the I/O's thread.
            unsafe fn unpack(self) -> BdevIo<D> {
                // SAFETY: the I/O was given up by `carrier`, and comes back once.
                unsafe { BdevIo::from_raw(self.0) }
            }
        }
        let Some(raw) = self.0.take() else { return };
        let arrived = Arrived::<D>(raw, PhantomData);
        // SAFETY: a thread with an I/O in flight does not exit; the closure runs on it.
        let sent = unsafe {
            let thread = NonNull::new(sys::spdk_bdev_io_get_thread(raw.as_ptr()));
            match thread {
                Some(thread) => send_raw(thread, move || f(arrived.unpack())).map_err(|(errno, _)| errno),
                None => Err(Errno::NXIO),
            }
        };
        if let Err(error) = sent {
            log::error!("an I/O could not be brought back to its thread: {error}");
        }
    }
}

impl<D: Device> Drop for Carrier<D> {
    fn drop(&mut self) {
        self.send(|io| io.complete(IoStatus::Failed));
    }
}
