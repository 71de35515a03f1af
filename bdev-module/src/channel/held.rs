//! The I/O of a channel that its queue pair does not have.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ffi::c_void;
use std::ptr::NonNull;
use std::time::Instant;

use spdk::bdev::{BdevIo, Device};

/// An I/O, as far as it matters here.
pub(super) trait HeldIo {
    /// Returns whether `owner` names it.
    fn is(&self, owner: NonNull<c_void>) -> bool;

    /// Returns whether something that was sent of it may still be carried out.
    fn may_be_in_flight(&self) -> bool;
}

impl<D: Device> HeldIo for BdevIo<D> {
    fn is(&self, owner: NonNull<c_void>) -> bool {
        Self::is(self, owner)
    }

    fn may_be_in_flight(&self) -> bool {
        self.was_lost()
    }
}

/// Lists of I/O, each in the order in which it came.
#[derive(Debug)]
pub(super) struct HeldIos<I> {
    /// What found no connection, or may not be sent for now.
    waiting: RefCell<VecDeque<I>>,
    /// What the pool did not carry out for now, and when it is sent again.
    delayed: RefCell<Vec<(Instant, I)>>,
    /// What is sent one after another, with nothing beside it.
    alone: RefCell<VecDeque<I>>,
    /// What found no free request, and what came after that. There is some only while the queue pair takes commands.
    overflow: RefCell<VecDeque<I>>,
    /// There is such I/O, or it is just being sent: what comes now is to stand behind it.
    has_overflow: Cell<bool>,
}

impl<I> Default for HeldIos<I> {
    fn default() -> Self {
        Self {
            waiting: RefCell::default(),
            delayed: RefCell::default(),
            alone: RefCell::default(),
            overflow: RefCell::default(),
            has_overflow: Cell::new(false),
        }
    }
}

impl<I: HeldIo> HeldIos<I> {
    /// Returns how many there are in all lists.
    pub(super) fn count(&self) -> usize {
        self.waiting.borrow().len()
            + self.delayed.borrow().len()
            + self.alone.borrow().len()
            + self.overflow.borrow().len()
    }

    /// Calls `f` with the first of each list.
    pub(super) fn for_each_first(&self, mut f: impl FnMut(&I)) {
        self.delayed.borrow().first().iter().for_each(|(_, io)| f(io));
        for list in [&self.waiting, &self.alone, &self.overflow] {
            list.borrow().front().into_iter().for_each(&mut f);
        }
    }

    /// Holds an I/O until the channel is asked for all that waits.
    pub(super) fn wait(&self, io: I) {
        self.waiting.borrow_mut().push_back(io);
    }

    /// Holds an I/O until `due`.
    pub(super) fn delay(&self, due: Instant, io: I) {
        self.delayed.borrow_mut().push((due, io));
    }

    /// Holds an I/O until it is its turn to be alone.
    pub(super) fn set_apart(&self, io: I) {
        self.alone.borrow_mut().push_back(io);
    }

    /// Holds an I/O until a request is free and nothing else stands before it. Returns whether it is the first.
    pub(super) fn join_overflow(&self, io: I) -> bool {
        self.overflow.borrow_mut().push_back(io);
        !self.has_overflow.replace(true)
    }

    /// Returns whether an I/O that comes now has to stand behind others.
    #[inline]
    pub(super) fn has_overflow(&self) -> bool {
        self.has_overflow.get()
    }

    /// Gives the overflow that is there to `send`, one I/O after another, until that gives one back, which stays the
    /// first. Returns whether nothing is left.
    pub(super) fn send_overflow(&self, mut send: impl FnMut(I) -> Option<I>) -> bool {
        // What comes meanwhile has its turn with the next call: there may be no end of it.
        let count = self.overflow.borrow().len();
        for _ in 0..count {
            let next = self.overflow.borrow_mut().pop_front();
            let Some(io) = next else { break };
            if let Some(io) = send(io) {
                self.overflow.borrow_mut().push_front(io);
                return false;
            }
        }
        self.has_overflow.set(!self.overflow.borrow().is_empty());
        !self.has_overflow.get()
    }

    /// The queue pair takes no commands: the overflow waits as well, and so does what was to be alone. Returns how many
    /// were in the overflow.
    pub(super) fn all_wait(&self) -> usize {
        self.waiting.borrow_mut().append(&mut self.alone.borrow_mut());
        self.overflow_waits()
    }

    /// The overflow waits. Returns how many these are.
    pub(super) fn overflow_waits(&self) -> usize {
        let mut overflow = self.overflow.borrow_mut();
        let count = overflow.len();
        self.waiting.borrow_mut().append(&mut overflow);
        self.has_overflow.set(false);
        count
    }

    /// What was put off waits instead.
    pub(super) fn end_delays(&self) {
        self.waiting.borrow_mut().extend(self.delayed.take().into_iter().map(|(_, io)| io));
    }

    /// Takes all that waits.
    pub(super) fn take_waiting(&self) -> VecDeque<I> {
        self.waiting.take()
    }

    /// Takes what was put off until now, or until before.
    pub(super) fn take_due(&self, now: Instant) -> Vec<I> {
        self.delayed.borrow_mut().extract_if(.., |(due, _)| *due <= now).map(|(_, io)| io).collect()
    }

    /// Returns whether anything is put off.
    pub(super) fn has_delayed(&self) -> bool {
        !self.delayed.borrow().is_empty()
    }

    /// Takes the next one that is to be alone.
    pub(super) fn next_alone(&self) -> Option<I> {
        self.alone.borrow_mut().pop_front()
    }

    /// Returns whether anything is to be alone.
    pub(super) fn has_alone(&self) -> bool {
        !self.alone.borrow().is_empty()
    }

    /// Returns whether an I/O waits that can only be taken when nothing of it is in flight any more.
    pub(super) fn is_waiting(&self, owner: NonNull<c_void>) -> bool {
        self.waiting.borrow().iter().any(|io| io.is(owner))
    }

    /// Takes an I/O by the pointer that names it, if nothing of it is in flight any more, which is so of all if
    /// `is_over`.
    pub(super) fn take(&self, owner: NonNull<c_void>, is_over: bool) -> Option<I> {
        let mut delayed = self.delayed.borrow_mut();
        if let Some(at) = delayed.iter().position(|(_, io)| io.is(owner)) {
            return Some(delayed.swap_remove(at).1);
        }
        for list in [&self.waiting, &self.alone, &self.overflow] {
            let mut list = list.borrow_mut();
            if let Some(at) = list.iter().position(|io| io.is(owner)) {
                let over = is_over || !list[at].may_be_in_flight();
                return if over { list.remove(at) } else { None };
            }
        }
        None
    }

    /// Takes all that is put off, waits or is in the overflow and for which `which` holds.
    pub(super) fn take_all(&self, which: impl Fn(&I) -> bool) -> Vec<I> {
        let mut taken: Vec<I> =
            self.delayed.borrow_mut().extract_if(.., |(_, io)| which(io)).map(|(_, io)| io).collect();
        for list in [&self.waiting, &self.overflow] {
            let mut list = list.borrow_mut();
            let (which, rest): (VecDeque<I>, VecDeque<I>) = list.drain(..).partition(&which);
            *list = rest;
            taken.extend(which);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// An I/O of that number, of which something may be in flight.
    #[derive(Debug, PartialEq, Eq)]
    struct Fake(usize, bool);

    fn name(number: usize) -> NonNull<c_void> {
        NonNull::without_provenance(std::num::NonZero::new(number).expect("numbers begin at 1"))
    }

    impl HeldIo for Fake {
        fn is(&self, owner: NonNull<c_void>) -> bool {
            owner == name(self.0)
        }

        fn may_be_in_flight(&self) -> bool {
            self.1
        }
    }

    fn io(number: usize) -> Fake {
        Fake(number, false)
    }

    /// Those of the overflow that are sent if there are requests for so many.
    fn sent(held: &HeldIos<Fake>, mut requests: usize) -> Vec<usize> {
        let mut sent = Vec::new();
        held.send_overflow(|io| {
            if requests == 0 {
                return Some(io);
            }
            requests -= 1;
            sent.push(io.0);
            None
        });
        sent
    }

    #[test]
    fn an_overflow_is_sent_in_the_order_in_which_it_came_and_what_comes_meanwhile_stands_behind_it() {
        let held = HeldIos::default();
        assert!(!held.has_overflow());
        assert!(held.join_overflow(io(1)));
        assert!(!held.join_overflow(io(2)) && !held.join_overflow(io(3)));
        assert_eq!(sent(&held, 1), [1]);
        assert!(held.has_overflow());
        let mut order = Vec::new();
        let all = held.send_overflow(|io| {
            // Each end brings another one while the overflow is sent.
            assert!(held.has_overflow() && !held.join_overflow(Fake(io.0 + 2, false)));
            order.push(io.0);
            None
        });
        assert!(!all && held.has_overflow());
        assert_eq!(order, [2, 3]);
        assert_eq!(sent(&held, 9), [4, 5]);
        assert!(!held.has_overflow());
        assert!(held.join_overflow(io(5)), "the next one is the first again");
    }

    #[test]
    fn an_io_of_the_overflow_is_taken_at_once_and_one_that_may_be_in_flight_only_when_that_is_over() {
        let held = HeldIos::default();
        for number in 1..=3 {
            held.join_overflow(io(number));
        }
        held.wait(Fake(4, true));
        held.delay(Instant::now(), io(5));
        held.set_apart(Fake(6, true));
        assert_eq!(held.take(name(2), false), Some(io(2)));
        assert_eq!(held.take(name(2), false), None);
        assert!(held.is_waiting(name(4)) && !held.is_waiting(name(1)));
        assert_eq!((held.take(name(4), false), held.take(name(6), false)), (None, None));
        assert_eq!((held.take(name(4), true), held.take(name(6), true)), (Some(Fake(4, true)), Some(Fake(6, true))));
        assert_eq!(held.take(name(5), false), Some(io(5)));
        assert_eq!(sent(&held, 9), [1, 3]);
    }

    #[test]
    fn an_overflow_without_a_queue_pair_waits_and_ends_like_all_that_waits() {
        let held = HeldIos::default();
        held.wait(io(1));
        held.set_apart(io(2));
        held.join_overflow(io(3));
        held.join_overflow(io(4));
        assert_eq!(held.take_all(|io| io.0 == 4), [io(4)]);
        assert_eq!(held.all_wait(), 1);
        assert!(!held.has_overflow() && !held.has_alone());
        assert_eq!(held.take_waiting(), [io(1), io(2), io(3)]);
        held.set_apart(io(5));
        held.join_overflow(io(6));
        assert_eq!(held.overflow_waits(), 1);
        assert!(held.has_alone() && !held.has_overflow());
        assert_eq!(held.take_waiting(), [io(6)]);
    }

    #[test]
    fn what_was_put_off_comes_when_it_is_due() {
        let held = HeldIos::default();
        let now = Instant::now();
        held.delay(now + Duration::from_secs(2), io(2));
        held.delay(now + Duration::from_secs(1), io(1));
        assert_eq!(held.take_due(now), []);
        assert_eq!(held.take_due(now + Duration::from_secs(1)), [io(1)]);
        assert!(held.has_delayed());
        held.end_delays();
        assert!(!held.has_delayed());
        assert_eq!(held.take_waiting(), [io(2)]);
    }
}
