//! When I/Os are aborted that are to end: those of queues and namespaces that are gone, and those in memory that a
//! client wants back.
//!
//! Nearly all of them end by themselves within the time that any I/O takes, so they are given some. To abort one costs
//! the bdev layer a walk over all that are in flight, and there may be thousands: that is done in portions, which take
//! no more than a part of the reactor's time.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use spdk::poller::{Poll, Poller};

use super::bdevs::Bdevs;
use super::group::Group;
use crate::queue::Queues;

/// How long an I/O may take to end by itself.
const GRACE: Duration = Duration::from_millis(100);
/// How long those that have been aborted may take before they are aborted again, if their aborts have ended.
const PERIOD: Duration = Duration::from_millis(250);
/// How long a portion of aborts takes, or one abort, if that is longer.
const PORTION: Duration = Duration::from_micros(20);
/// So many times as long as a portion is the time until the next one.
const PAUSES: u32 = 4;

/// When the I/Os of one session that are to end are aborted.
#[derive(Debug, Default)]
pub(super) struct Patience(Cell<Option<Instant>>);

impl Patience {
    /// There is none that is to end.
    pub(super) fn rest(&self) {
        self.0.set(None);
    }

    /// Has I/Os of `queues` aborted, of which some are to end, as many as `more` allows, if it is time at `now`.
    pub(super) fn abort_some(&self, queues: &Queues<Bdevs>, now: Instant, more: impl FnMut() -> bool) {
        // A client that wants memory back has waited already.
        let grace = if queues.has_unmapped() { Duration::ZERO } else { GRACE };
        let due = self.0.get().unwrap_or(now + grace);
        let is_over = now >= due && queues.abort_some(more);
        self.0.set(Some(if is_over { now + PERIOD } else { due }));
    }
}

/// Aborts on a poll group.
#[derive(Debug, Default)]
pub(super) struct Aborter {
    poller: RefCell<Option<Poller>>,
    next: Cell<Option<Instant>>,
}

impl Aborter {
    /// Looks whether there is something to abort; it is then looked after in every round.
    pub(super) fn look(&self, group: &Rc<Group>) {
        if self.poller.borrow().is_some() || !group.abort_some(|| false) {
            return;
        }
        let me = Rc::downgrade(group);
        let poll = move || me.upgrade().map_or(Poll::Idle, |group| group.aborter().poll(&group));
        match Poller::register("courier_aborts", Duration::ZERO, poll) {
            Ok(poller) => drop(self.poller.replace(Some(poller))),
            Err(error) => {
                log::error!("nothing is aborted on core {}: there is no poller: {error}", group.handle().core);
            }
        }
    }

    fn poll(&self, group: &Rc<Group>) -> Poll {
        let began = Instant::now();
        if self.next.get().is_some_and(|next| began < next) {
            return Poll::Idle;
        }
        if !group.abort_some(|| began.elapsed() < PORTION) {
            self.end();
            return Poll::Idle;
        }
        let took = began.elapsed();
        self.next.set(Some(began + took + took * PAUSES));
        Poll::Busy
    }

    /// Stops looking.
    pub(super) fn end(&self) {
        self.poller.take();
    }
}
