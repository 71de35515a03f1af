//! The aborts that are in progress with the backends of a session on one thread.
//!
//! An abort may take as long as the command that it is to end, and costs the backend as much. So there is never more
//! than one for an I/O, and only so many at a time that the controller asks for by itself.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use guest_memory::IoToken;

/// The most aborts at a time that no Abort command of the guest asked for.
const AT_A_TIME: usize = 32;

/// What answers an Abort command.
type AbortAnswer = Box<dyn FnOnce(bool)>;

/// An Abort command of the guest, which is answered once: when what it names has ended, or cannot be aborted.
#[derive(Clone)]
pub(super) struct AbortWaiter(Rc<Cell<Option<AbortAnswer>>>);

impl AbortWaiter {
    /// Returns a waiter that is answered by `then`, which is told whether the command was aborted.
    pub(super) fn new(then: AbortAnswer) -> Self {
        Self(Rc::new(Cell::new(Some(then))))
    }

    /// Answers it, unless it was.
    pub(super) fn answer(&self, was_aborted: bool) {
        if let Some(then) = self.0.take() {
            then(was_aborted);
        }
    }

    /// Returns whether it was not answered yet.
    pub(super) fn is_waiting(&self) -> bool {
        let then = self.0.take();
        let is_waiting = then.is_some();
        self.0.set(then);
        is_waiting
    }
}

/// The Abort commands that name one I/O.
#[derive(Debug, Default)]
pub(super) struct AbortWaiters(Vec<AbortWaiter>);

impl AbortWaiters {
    /// Takes up another one, and forgets those that were answered.
    pub(super) fn add(&mut self, waiter: Option<&AbortWaiter>) {
        self.0.retain(AbortWaiter::is_waiting);
        self.0.extend(waiter.cloned());
    }

    /// Returns whether any was not answered yet.
    pub(super) fn is_waiting(&self) -> bool {
        self.0.iter().any(AbortWaiter::is_waiting)
    }

    /// Answers all that were not answered yet.
    #[cold]
    pub(super) fn answer(self, was_aborted: bool) {
        for waiter in self.0 {
            waiter.answer(was_aborted);
        }
    }
}

/// An I/O that a backend was told to abort, and the guest's commands that ask for that.
struct Abort {
    name: IoToken,
    waiters: AbortWaiters,
}

/// The I/Os that the backends have been told to abort, until these aborts have ended.
#[derive(Default)]
pub(super) struct Aborts(Rc<RefCell<Vec<Abort>>>);

/// An abort that is in flight: the backend drops this when the abort has ended and the I/O has ended by it, or will.
pub struct AbortToken {
    name: IoToken,
    must_end: bool,
    in_flight: Rc<RefCell<Vec<Abort>>>,
}

impl AbortToken {
    /// Returns whether the I/O has to end, since a reset, a removal or the end of the client waits for it. An Abort
    /// command asks for no more than a try.
    #[must_use]
    pub fn must_end(&self) -> bool {
        self.must_end
    }

    /// The abort has ended without effect: the I/O stays with the backend. Whoever asked for it is told so.
    pub fn failed(self) {
        let waiters = self.end();
        // Whoever is told may ask for another one of the same I/O.
        drop(self);
        waiters.answer(false);
    }

    /// Takes the abort out of the list, and those who asked for it.
    fn end(&self) -> AbortWaiters {
        let mut in_flight = self.in_flight.borrow_mut();
        let at = in_flight.iter().position(|abort| abort.name == self.name);
        at.map(|at| in_flight.swap_remove(at).waiters).unwrap_or_default()
    }
}

impl Aborts {
    /// Returns whether there is room for one that the controller asks for.
    pub(super) fn has_room(&self) -> bool {
        self.0.borrow().len() < AT_A_TIME
    }

    /// Begins one, unless there is one of the same I/O. `waiter` is told if it has no effect.
    pub(super) fn begin(&self, name: IoToken, waiter: Option<&AbortWaiter>) -> Option<AbortToken> {
        let mut in_flight = self.0.borrow_mut();
        if let Some(abort) = in_flight.iter_mut().find(|abort| abort.name == name) {
            abort.waiters.add(waiter);
            return None;
        }
        let mut waiters = AbortWaiters::default();
        waiters.add(waiter);
        in_flight.push(Abort { name, waiters });
        Some(AbortToken { name, must_end: waiter.is_none(), in_flight: Rc::clone(&self.0) })
    }
}

impl Drop for AbortToken {
    fn drop(&mut self) {
        drop(self.end());
    }
}

impl std::fmt::Debug for AbortWaiter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AbortWaiter").field("is_waiting", &self.is_waiting()).finish()
    }
}

impl std::fmt::Debug for Aborts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Aborts").field("in_flight", &self.0.borrow().len()).finish()
    }
}

impl std::fmt::Debug for AbortToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AbortToken").field("name", &self.name).finish_non_exhaustive()
    }
}
