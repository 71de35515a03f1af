//! The aborts that a channel has asked its pool's controller for.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use spdk::bdev::AbortRequest;

use super::target::Target;

/// How long an abort waits for the controller's answer.
const LIMIT: Duration = Duration::from_millis(2_500);
/// How long a live pool may take to end, or to abort, a command that has to end: a reset, a removal or the end of a
/// client waits for it. What only a guest's Abort command names is none of these: it stays.
const MUST_END_LIMIT: Duration = Duration::from_secs(2);

#[derive(Debug)]
struct Abort<D: Target> {
    since: Instant,
    must_end: bool,
    request: AbortRequest<D>,
}

/// The aborts that are not answered yet, and whether something that has to end does not.
#[derive(Debug)]
pub(super) struct Aborts<D: Target> {
    in_flight: RefCell<Vec<Abort<D>>>,
    stuck: Cell<bool>,
}

impl<D: Target> Default for Aborts<D> {
    fn default() -> Self {
        Self { in_flight: RefCell::default(), stuck: Cell::new(false) }
    }
}

impl<D: Target> Aborts<D> {
    /// An abort was asked for of what has had to end for so long, and was aborted in vain before.
    pub(super) fn note_wait(&self, waited: Duration) {
        if waited >= MUST_END_LIMIT {
            self.stuck.set(true);
        }
    }

    /// An abort was sent; `must_end` tells that what it names has to end.
    pub(super) fn add(&self, request: AbortRequest<D>, must_end: bool) {
        self.in_flight.borrow_mut().push(Abort { since: Instant::now(), must_end, request });
    }

    /// Gives up those that were not answered in time.
    pub(super) fn look(&self, now: Instant) {
        self.in_flight.borrow_mut().retain(|abort| {
            if abort.request.is_over() {
                return false;
            }
            let is_late = now.duration_since(abort.since) >= if abort.must_end { MUST_END_LIMIT } else { LIMIT };
            if is_late {
                self.stuck.set(self.stuck.get() || abort.must_end);
                abort.request.clone().give_up();
            }
            !is_late
        });
    }

    /// Returns whether something that has to end does not, and forgets that.
    pub(super) fn take_stuck(&self) -> bool {
        self.stuck.take()
    }

    /// Waits for none any more.
    pub(super) fn give_up(&self) {
        for abort in self.in_flight.take() {
            abort.request.give_up();
        }
    }
}
