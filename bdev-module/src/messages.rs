//! What reactors tell a pool: messages to the application's thread, on which it lives.
//!
//! A pool is reached by an address that no other one ever has, and not by its name: what comes late is not for a pool
//! that has the name by then.

use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicU64, Ordering};

use spdk::Errno;
use spdk::bdev::Carrier;
use spdk::thread::{AppCell, send_to_app};

use crate::disk::Disk;

/// What a pool is told.
#[derive(Debug)]
pub(crate) enum PoolMessage {
    /// A reactor has lost its queue pair.
    QueueLost {
        /// Why, as a clause.
        reason: &'static str,
        /// The other side has ended the connection.
        by_peer: bool,
    },
    /// A reactor's queue pair is refused again and again, although the pool is connected.
    QueueRefused,
    /// One that was is there.
    QueueGranted,
    /// The pool says that it has no such namespace, for which there is I/O. Not while such a doubt is on its way.
    NamespaceDoubted {
        /// Its identifier.
        nsid: u32,
    },
    /// A bdev is to be reset. The I/O that asks for it is completed when that is over; dropped, it fails.
    Reset {
        /// Of which namespace it is the bdev.
        nsid: u32,
        /// Who asks.
        io: Carrier<Disk>,
    },
    /// A bdev is gone.
    DiskGone {
        /// Of which namespace it was the bdev.
        nsid: u32,
    },
}

/// Who is told, on the application's thread.
pub(crate) trait Receiver {
    /// Takes a message.
    fn take(&self, message: PoolMessage);
}

/// Those that have an address.
struct Receivers<R: ?Sized>(BTreeMap<u64, Weak<R>>);

impl<R: ?Sized> Receivers<R> {
    const fn new() -> Self {
        Self(BTreeMap::new())
    }

    fn find(&self, address: u64) -> Option<Rc<R>> {
        self.0.get(&address).and_then(Weak::upgrade)
    }
}

static RECEIVERS: AppCell<Receivers<dyn Receiver>> = AppCell::new(Receivers::new);

/// Where a pool can be told something, from any thread.
#[derive(Debug)]
pub(crate) struct Address(u64);

impl Address {
    /// Returns an address that leads to nobody yet.
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// It leads to `receiver`. To be called on the application's thread.
    pub(crate) fn lead_to(&self, receiver: Weak<dyn Receiver>) {
        RECEIVERS.with(|receivers| receivers.borrow_mut().0.insert(self.0, receiver));
    }

    /// It leads to nobody any more: what comes is dropped. To be called on the application's thread.
    pub(crate) fn close(&self) {
        RECEIVERS.with(|receivers| receivers.borrow_mut().0.remove(&self.0));
    }

    /// Sends a message.
    ///
    /// # Errors
    /// `NXIO` when the application is about to end, `NOMEM` when SPDK is out of messages; the message is dropped.
    pub(crate) fn send(&self, message: PoolMessage) -> Result<(), Errno> {
        let address = self.0;
        send_to_app(move || {
            let receiver = RECEIVERS.with(|receivers| receivers.borrow().find(address));
            if let Some(receiver) = receiver {
                receiver.take(message);
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_to_a_pool_that_is_gone_does_not_come_to_the_next_one() {
        let (old, new) = (Address::new(), Address::new());
        let mut receivers = Receivers::<u32>::new();
        let (first, second) = (Rc::new(1), Rc::new(2));
        receivers.0.insert(old.0, Rc::downgrade(&first));
        drop(first);
        receivers.0.insert(new.0, Rc::downgrade(&second));
        assert_eq!((receivers.find(old.0), receivers.find(new.0)), (None, Some(second)));
    }
}
