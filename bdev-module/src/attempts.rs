//! Attempts to connect a controller, which go on by themselves, and controllers that are not wanted any more.

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use spdk::nvme::{Connect, Ctrlr};
use spdk::poller::{Poll, Poller};
use spdk::thread::AppCell;

/// How long a controller that is not wanted may take to say good-bye.
const GOODBYE: Duration = Duration::from_secs(2);

/// The pollers that drive attempts to connect.
static ATTEMPTS: AppCell<Vec<Weak<PollerSlot>>> = AppCell::new(Vec::new);

/// A poller that can be ended from within its own call.
pub(crate) type PollerSlot = RefCell<Option<Poller>>;

/// Puts an entry into a list, from which those that are gone are taken.
pub(crate) fn remember<T>(list: &'static AppCell<Vec<Weak<T>>>, entry: &Rc<T>) {
    list.with(|list| {
        let mut list = list.borrow_mut();
        list.retain(|entry| entry.strong_count() > 0);
        list.push(Rc::downgrade(entry));
    });
}

/// The application ends: what is being connected is dropped.
pub(crate) fn stop() {
    for slot in ATTEMPTS.with(RefCell::take).iter().filter_map(Weak::upgrade) {
        slot.take();
    }
}

/// Returns a place for a poller that drives an attempt to connect.
pub(crate) fn new_slot() -> Rc<PollerSlot> {
    let slot = Rc::new(PollerSlot::new(None));
    remember(&ATTEMPTS, &slot);
    slot
}

pub(crate) fn drive(slot: &PollerSlot, poll: impl FnMut() -> Poll + 'static) {
    match Poller::register("courier_connect", Duration::from_millis(1), poll) {
        Ok(poller) => drop(slot.replace(Some(poller))),
        Err(error) => log::error!("a connection could not be looked after: {error}"),
    }
}

/// Cancels an attempt to connect.
pub(crate) fn cancel(mut connect: Connect) {
    connect.cancel();
    let slot = new_slot();
    let end = Rc::clone(&slot);
    drive(&slot, move || {
        if let Some(outcome) = connect.poll() {
            end.take();
            if let Ok(ctrlr) = outcome {
                detach(ctrlr);
            }
        }
        Poll::Busy
    });
}

/// A controller that came too late goes again.
pub(crate) fn detach(ctrlr: Ctrlr) {
    let Ok(mut detach) = ctrlr.detach() else { return };
    let poller = Rc::new(RefCell::new(None));
    let end = Rc::clone(&poller);
    let due = Instant::now() + GOODBYE;
    let poll = move || {
        if Instant::now() >= due {
            detach.force();
        }
        if detach.poll() {
            end.take();
        }
        Poll::Busy
    };
    if let Ok(registered) = Poller::register("courier_detach", Duration::from_millis(1), poll) {
        poller.replace(Some(registered));
    }
}
