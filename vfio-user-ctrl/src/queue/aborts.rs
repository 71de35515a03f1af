//! The aborts that are under way with the backends of a session on one thread.
//!
//! An abort may take as long as the command that it is to end, and costs the backend as much. So there is never more
//! than one for an I/O, and only so many at a time that the controller asks for by itself.

use std::cell::RefCell;
use std::rc::Rc;

use crate::memory::IoName;

/// The most aborts at a time that no Abort command of the guest asked for.
const AT_A_TIME: usize = 32;

/// The I/Os that the backends have been told to abort, until these aborts have ended.
#[derive(Debug, Default)]
pub(super) struct Aborts(Rc<RefCell<Vec<IoName>>>);

/// An abort that is under way: the backend drops this when the abort has ended, whatever became of the I/O.
#[derive(Debug)]
pub struct AbortToken {
    name: IoName,
    under_way: Rc<RefCell<Vec<IoName>>>,
}

impl Aborts {
    /// Returns whether there is room for one that the controller asks for.
    pub(super) fn has_room(&self) -> bool {
        self.0.borrow().len() < AT_A_TIME
    }

    /// Begins one, unless there is one of the same I/O.
    pub(super) fn begin(&self, name: IoName) -> Option<AbortToken> {
        let mut under_way = self.0.borrow_mut();
        if under_way.contains(&name) {
            return None;
        }
        under_way.push(name);
        Some(AbortToken { name, under_way: Rc::clone(&self.0) })
    }
}

impl Drop for AbortToken {
    fn drop(&mut self) {
        let mut under_way = self.under_way.borrow_mut();
        if let Some(at) = under_way.iter().position(|name| *name == self.name) {
            under_way.swap_remove(at);
        }
    }
}
