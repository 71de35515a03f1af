//! When I/Os are aborted that are to end: those of queues and namespaces that are gone, and those in memory that a
//! client wants back.
//!
//! Nearly all of them end by themselves within the time that any I/O takes, so they are given some. To abort one costs
//! the bdev layer a walk over all that are in flight, and there may be thousands: that is done in portions, which take
//! no more than a part of the reactor's time.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use spdk::poller::{Poll, Poller};

use super::bdevs::Bdevs;
use nvme_device::queue::Queues;

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
pub(super) struct AbortTimer(Cell<Option<Instant>>);

impl AbortTimer {
    /// There is none that is to end.
    pub(super) fn stop(&self) {
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
    /// Returns whether it is looked after what there is to abort.
    pub(super) fn is_looking(&self) -> bool {
        self.poller.borrow().is_some()
    }

    /// There is something to abort on that core: `poll` is called in every round from now on.
    pub(super) fn begin(&self, core: u32, poll: impl FnMut() -> Poll + 'static) {
        match Poller::register("courier_aborts", Duration::ZERO, poll) {
            Ok(poller) => drop(self.poller.replace(Some(poller))),
            Err(error) => log::error!("nothing is aborted on core {core}: there is no poller: {error}"),
        }
    }

    /// Has I/Os aborted if it is time. `abort_some` aborts as many as its argument allows, and returns whether there
    /// are any.
    pub(super) fn poll(&self, abort_some: impl FnOnce(&mut dyn FnMut() -> bool) -> bool) -> Poll {
        let began = Instant::now();
        if self.next.get().is_some_and(|next| began < next) {
            return Poll::Idle;
        }
        if !abort_some(&mut || began.elapsed() < PORTION) {
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
