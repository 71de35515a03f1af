//! The channels of a reactor with more I/O than their queue pairs have requests.

use std::cell::RefCell;
use std::rc::{Rc, Weak};

/// A channel that may have more I/O than its queue pair has requests.
pub(super) trait Overflow: std::fmt::Debug {
    /// Sends what found no request, as far as there are requests now. Returns whether nothing is left of it.
    fn send_overflow(&self) -> bool;
}

/// Those of them that have such I/O, each once.
#[derive(Debug, Default)]
pub(super) struct Overflows(RefCell<Vec<Weak<dyn Overflow>>>);

impl Overflows {
    /// Takes up a channel that has such I/O now.
    pub(super) fn add(&self, link: &Rc<dyn Overflow>) {
        let mut links = self.0.borrow_mut();
        if !links.iter().any(|other| std::ptr::addr_eq(other.as_ptr(), Rc::as_ptr(link))) {
            links.push(Rc::downgrade(link));
        }
    }

    /// Sends what there are requests for. To be called when commands may have ended.
    #[inline]
    pub(super) fn send(&self) {
        if !self.0.borrow().is_empty() {
            self.send_some();
        }
    }

    #[cold]
    fn send_some(&self) {
        let mut at = 0;
        loop {
            // What is sent may bring more: the list is not held meanwhile.
            let link = self.0.borrow().get(at).map(Weak::upgrade);
            match link {
                None => break,
                Some(Some(link)) if !link.send_overflow() => at += 1,
                Some(_) => drop(self.0.borrow_mut().swap_remove(at)),
            }
        }
    }
}
