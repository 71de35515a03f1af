//! The channels of a reactor with more I/O than their queue pairs have requests.

use std::cell::RefCell;
use std::rc::{Rc, Weak};

use super::link::Link;

/// Those of them that have such I/O, each once.
#[derive(Debug, Default)]
pub(super) struct Overflows(RefCell<Vec<Weak<Link>>>);

impl Overflows {
    /// Takes up a channel that has such I/O now.
    pub(super) fn add(&self, link: &Rc<Link>) {
        let mut links = self.0.borrow_mut();
        if !links.iter().any(|other| std::ptr::eq(other.as_ptr(), Rc::as_ptr(link))) {
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
