//! What reactors tell a pool: messages to the application's thread, on which it lives.
//!
//! A pool is reached by an address that no other one ever has, and not by its name: what comes late is not for a pool
//! that has the name by then.

use std::sync::Arc;

use spdk::bdev::{Carrier, Device};
use spdk::mailbox::{AppThread, Mailbox, WakeThread};

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

/// Where a pool can be told something, from any thread. What is sent when the application has ended is dropped.
#[derive(Debug)]
pub(crate) struct Address<D: Device, T = AppThread> {
    number: u64,
    mailbox: Arc<Mailbox<(u64, PoolMessage<D>), T>>,
}

impl<D: Device + 'static, T: WakeThread<(u64, PoolMessage<D>)>> Address<D, T> {
    /// Returns the address of that number, whose messages are given to `act` on a thread.
    pub(crate) fn new(number: u64, act: fn((u64, PoolMessage<D>)), thread: T) -> Self {
        Self { number, mailbox: Mailbox::new(act, thread) }
    }

    /// Returns its number.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Sends a message.
    pub(crate) fn send(&self, message: PoolMessage<D>) {
        self.mailbox.send((self.number, message));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::{Sender, channel};
    use std::time::Duration;

    use spdk::Errno;
    use spdk::mailbox::Wakeup;

    use super::*;
    use crate::disk::Disk;

    type Message = (u64, PoolMessage<Disk>);

    /// An application's thread for which there is no room at first.
    struct Full {
        failures: AtomicUsize,
        wakeups: Sender<Wakeup<Message, Self>>,
    }

    impl WakeThread<Message> for Full {
        fn wake(&self, wakeup: Wakeup<Message, Self>) -> Result<(), Errno> {
            let is_full = |left: usize| left.checked_sub(1);
            if self.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, is_full).is_ok() {
                return Err(Errno::NOMEM);
            }
            self.wakeups.send(wakeup).map_err(|_| Errno::NXIO)
        }
    }

    thread_local! {
        static TAKEN: std::cell::RefCell<Vec<String>> = const { std::cell::RefCell::new(Vec::new()) };
    }

    fn take((number, message): Message) {
        TAKEN.with_borrow_mut(|taken| taken.push(format!("{number}: {message:?}")));
    }

    #[test]
    fn what_a_pool_is_told_while_spdk_is_out_of_messages_comes_in_order_when_there_is_room() {
        let (wakeups, at_thread) = channel();
        let address = Address::new(7, take, Full { failures: AtomicUsize::new(3), wakeups });
        address.send(PoolMessage::DiskGone { nsid: 1 });
        address.send(PoolMessage::QueueGranted);
        at_thread.recv_timeout(Duration::from_secs(30)).expect("there is room at last").deliver();
        assert_eq!(TAKEN.take(), ["7: DiskGone { nsid: 1 }", "7: QueueGranted"]);
        address.send(PoolMessage::QueueRefused);
        at_thread.try_recv().expect("the next is told at once").deliver();
        assert_eq!(TAKEN.take(), ["7: QueueRefused"]);
    }
}
