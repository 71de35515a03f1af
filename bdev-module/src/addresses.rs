//! Who has which address, on the application's thread.

use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicU64, Ordering};

use spdk::mailbox::AppThread;
use spdk::thread::AppCell;

use crate::disk::Disk;
use crate::messages::{Address, PoolMessage, Receiver};

/// Those that have an address, by its number.
struct Receivers<R: ?Sized>(BTreeMap<u64, Weak<R>>);

impl<R: ?Sized> Receivers<R> {
    const fn new() -> Self {
        Self(BTreeMap::new())
    }

    fn find(&self, number: u64) -> Option<Rc<R>> {
        self.0.get(&number).and_then(Weak::upgrade)
    }
}

static RECEIVERS: AppCell<Receivers<dyn Receiver<Disk>>> = AppCell::new(Receivers::new);

/// Returns an address that leads to nobody yet, and that nobody has had.
pub(crate) fn new_address() -> Address<Disk> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    Address::new(NEXT.fetch_add(1, Ordering::Relaxed), act, AppThread)
}

/// The address leads to `receiver`.
pub(crate) fn lead_to(address: &Address<Disk>, receiver: Weak<dyn Receiver<Disk>>) {
    RECEIVERS.with(|receivers| receivers.borrow_mut().0.insert(address.number(), receiver));
}

/// The address leads to nobody any more: what comes is dropped.
pub(crate) fn close(address: &Address<Disk>) {
    RECEIVERS.with(|receivers| receivers.borrow_mut().0.remove(&address.number()));
}

/// A message has come.
fn act((number, message): (u64, PoolMessage<Disk>)) {
    let receiver = RECEIVERS.with(|receivers| receivers.borrow().find(number));
    if let Some(receiver) = receiver {
        receiver.take(message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_to_a_pool_that_is_gone_does_not_come_to_the_next_one() {
        let (old, new) = (new_address(), new_address());
        let mut receivers = Receivers::<u32>::new();
        let (first, second) = (Rc::new(1), Rc::new(2));
        receivers.0.insert(old.number(), Rc::downgrade(&first));
        drop(first);
        receivers.0.insert(new.number(), Rc::downgrade(&second));
        assert_eq!((receivers.find(old.number()), receivers.find(new.number())), (None, Some(second)));
    }
}
