//! What reactors tell a pool: messages to the application's thread, on which it lives.
//!
//! A pool is reached by an address that no other one ever has, and not by its name: what comes late is not for a pool
//! that has the name by then.

use spdk::Errno;
use spdk::bdev::{Carrier, Device};
use spdk::thread::send_to_app;

/// What a pool is told.
#[derive(Debug)]
pub(crate) enum PoolMessage<D: Device> {
    /// A reactor has lost its queue pair.
    QueueLost {
        /// Why, as a clause.
        reason: &'static str,
        /// The other side has ended the connection.
        by_peer: bool,
    },
    /// A reactor has dropped its queue pair, whose pool answers: it neither carries out nor aborts what has to end.
    QueueStuck,
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
        io: Carrier<D>,
    },
    /// A bdev is gone.
    DiskGone {
        /// Of which namespace it was the bdev.
        nsid: u32,
    },
}

/// Who is told, on the application's thread.
pub(crate) trait Receiver<D: Device> {
    /// Takes a message.
    fn take(&self, message: PoolMessage<D>);
}

/// Where a pool can be told something, from any thread.
#[derive(Debug)]
pub(crate) struct Address<D: Device> {
    number: u64,
    /// What is to be done on the application's thread with a message to the pool of that number.
    act: fn(u64, PoolMessage<D>),
}

impl<D: Device> Address<D> {
    /// Returns the address of that number, whose messages are given to `act`.
    pub(crate) fn new(number: u64, act: fn(u64, PoolMessage<D>)) -> Self {
        Self { number, act }
    }

    /// Returns its number.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Sends a message.
    ///
    /// # Errors
    /// `NXIO` when the application is about to end, `NOMEM` when SPDK is out of messages; the message is dropped.
    pub(crate) fn send(&self, message: PoolMessage<D>) -> Result<(), Errno>
    where
        D: 'static,
    {
        let (number, act) = (self.number, self.act);
        send_to_app(move || act(number, message))
    }
}
