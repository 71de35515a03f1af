//! How many I/Os of the bdev layer's the sessions of a poll group may have in flight.
//!
//! There is a number of them for all. Clients of a slow or silent disk would take all of them, and others could do
//! nothing. So half of them are shared out to the poll groups; what remains is for aborts, for the I/Os that bdevs on
//! top of other bdevs send to these, and for whoever else uses bdevs. An I/O that the bdev layer splits counts with its
//! parts.
//!
//! What is counted is what a session has in flight with a *source*, as the namespaces of one pool are: whatever has its
//! trouble in common. It may be as much as is free to that source then: one that is alone has half; where I/Os end, n
//! that want all come to an n+1th part each, and as much remains for one that comes. Where none ends, each that comes
//! has half of what is left, or what is guaranteed.
//!
//! A source has no more than half of the share for all of its sessions together, and an equal part of the other half:
//! so the others always find something free, however many sessions a pool has that hangs. If several of them hang,
//! there is an eighth of the share and more that is guaranteed: a quarter of it is set aside for the sources, in equal
//! parts, and another one for the sessions. With both a group has one and a half times its share at most.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

/// More than that is not guaranteed to a session, however few there are.
const MAX_GUARANTEED: usize = 128;

/// The I/Os of one poll group.
#[derive(Debug)]
pub(super) struct Budget {
    share: usize,
    used: Cell<usize>,
    sources: RefCell<Vec<Weak<Source>>>,
    meters: Cell<usize>,
    limits: Cell<IoLimits>,
}

/// What follows from how many there are.
#[derive(Debug, Clone, Copy, Default)]
struct IoLimits {
    /// The most that a source may have.
    source: usize,
    /// What is guaranteed to each source, and to each session with each of them.
    for_source: usize,
    for_meter: usize,
}

/// What may hang as a whole.
#[derive(Debug)]
struct Source {
    id: usize,
    used: Cell<usize>,
    budget: Rc<Budget>,
}

/// What one session has in flight with one source.
#[derive(Debug)]
pub(super) struct Meter {
    source: Rc<Source>,
    own: Cell<usize>,
    /// What the source and the budget know of that.
    noted: Cell<usize>,
    /// How much may be begun until it is looked at again.
    credit: Cell<usize>,
    /// What was asked for in vain.
    wanted: Cell<usize>,
}

/// The meters of one session.
#[derive(Debug, Default)]
pub(super) struct Meters(RefCell<Vec<Rc<Meter>>>);

impl Budget {
    /// Returns the share of each of `groups` poll groups if the bdev layer has `total` I/Os.
    pub(super) fn share(total: usize, groups: usize) -> usize {
        total / 2 / groups.max(1)
    }

    /// Returns a budget of `share` I/Os.
    pub(super) fn new(share: usize) -> Rc<Self> {
        Rc::new(Self {
            share,
            used: Cell::new(0),
            sources: RefCell::default(),
            meters: Cell::new(0),
            limits: Cell::default(),
        })
    }

    /// There are more or fewer sources or meters now.
    fn recount(&self) {
        let sources = self.sources.borrow().len().max(1);
        self.limits.set(IoLimits {
            source: self.share / 2 + self.share / 2 / sources,
            for_source: self.share / 4 / sources,
            for_meter: (self.share / 4 / self.meters.get().max(1)).clamp(1, MAX_GUARANTEED),
        });
    }

    fn source(self: &Rc<Self>, id: usize) -> Rc<Source> {
        let known = self.sources.borrow().iter().filter_map(Weak::upgrade).find(|source| source.id == id);
        known.unwrap_or_else(|| {
            let source = Rc::new(Source { id, used: Cell::new(0), budget: Rc::clone(self) });
            self.sources.borrow_mut().push(Rc::downgrade(&source));
            source
        })
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.budget.sources.borrow_mut().retain(|source| source.strong_count() > 0);
        self.budget.recount();
    }
}

impl Meter {
    fn new(source: Rc<Source>) -> Rc<Self> {
        let budget = &source.budget;
        budget.meters.set(budget.meters.get() + 1);
        budget.recount();
        let (own, noted, credit, wanted) = (Cell::new(0), Cell::new(0), Cell::new(0), Cell::new(0));
        Rc::new(Self { source, own, noted, credit, wanted })
    }

    /// Takes as many I/Os, if these may be begun. One that takes more than there is begins when it is the only one.
    #[inline]
    pub(super) fn take(&self, count: usize) -> bool {
        let (own, credit) = (self.own.get(), self.credit.get());
        if count > credit && own > 0 {
            self.wanted.set(count);
            return false;
        }
        self.credit.set(credit.saturating_sub(count));
        self.own.set(own + count);
        true
    }

    /// As many have ended, or did not begin.
    #[inline]
    pub(super) fn release(&self, count: usize) {
        self.own.set(self.own.get().saturating_sub(count));
    }

    /// Returns whether what was asked for last in vain may be begun now.
    pub(super) fn has_wanted(&self) -> bool {
        self.own.get() == 0 || self.wanted.get() <= self.credit.get()
    }

    /// Makes known what has begun and ended.
    #[inline]
    fn note(&self) {
        let (own, noted) = (self.own.get(), self.noted.get());
        if own != noted {
            self.noted.set(own);
            let now = |used: &Cell<usize>| used.set((used.get() + own).saturating_sub(noted));
            now(&self.source.used);
            now(&self.source.budget.used);
        }
    }

    /// Returns how many more may be begun.
    #[inline]
    fn room(&self) -> usize {
        let (budget, own, of_source) = (&self.source.budget, self.own.get(), self.source.used.get());
        let limits = budget.limits.get();
        let free = budget.share.saturating_sub(budget.used.get()).min(limits.source.saturating_sub(of_source));
        let free = free.max(limits.for_source.saturating_sub(of_source));
        // Each that it takes makes the free ones one less: the two meet in the middle.
        let fair = free.saturating_sub(own).div_ceil(2);
        fair.max(limits.for_meter.saturating_sub(own))
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.own.set(0);
        self.note();
        let budget = &self.source.budget;
        budget.meters.set(budget.meters.get().saturating_sub(1));
        budget.recount();
    }
}

impl Meters {
    /// Returns the session's meter for a source.
    pub(super) fn of(&self, budget: &Rc<Budget>, source: usize) -> Rc<Meter> {
        let mut meters = self.0.borrow_mut();
        if let Some(meter) = meters.iter().find(|meter| meter.source.id == source) {
            return Rc::clone(meter);
        }
        let meter = Meter::new(budget.source(source));
        meters.push(Rc::clone(&meter));
        meter
    }

    /// Makes known what has begun and ended.
    #[inline]
    pub(super) fn note(&self) {
        self.0.borrow().iter().for_each(|meter| meter.note());
    }

    /// Gives all meters what may be begun until the next call. Returns the most of it.
    #[inline]
    pub(super) fn refresh(&self) -> usize {
        let meters = self.0.borrow();
        let rooms = meters.iter().map(|meter| {
            meter.note();
            let room = meter.room();
            meter.credit.set(room);
            room
        });
        // Without a namespace no command takes any.
        rooms.max().unwrap_or(usize::MAX)
    }

    /// Lets go of those of sources that no namespace is on any more.
    pub(super) fn forget_unused(&self) {
        self.0.borrow_mut().retain(|meter| Rc::strong_count(meter) > 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sessions(budget: &Rc<Budget>, source: usize, count: usize) -> Vec<Rc<Meter>> {
        (0..count).map(|_| Meters::default().of(budget, source)).collect()
    }

    /// Sessions that take what they may, round after round, in which one of so many of their I/Os ends. Returns what
    /// they have.
    fn greedy(sessions: &[Rc<Meter>], one_of: usize) -> Vec<usize> {
        for _ in 0..1000 {
            for meter in sessions {
                meter.release(meter.own.get().checked_div(one_of).unwrap_or(0));
                take_all(meter);
            }
        }
        sessions.iter().map(|meter| meter.own.get()).collect()
    }

    fn take_all(meter: &Meter) -> usize {
        meter.note();
        let room = meter.room();
        meter.credit.set(room);
        assert!(room == 0 || meter.take(room));
        meter.note();
        room
    }

    #[test]
    fn whoever_is_alone_has_half_and_many_leave_as_much_as_each_of_them_has() {
        for count in [1, 2, 3, 10] {
            let budget = Budget::new(16_000);
            let all = sessions(&budget, 1, count);
            let have = greedy(&all, 50);
            let fair = 16_000 / (count + 1);
            assert!(have.iter().all(|own| own.abs_diff(fair) <= fair / 10), "{count} sessions: {have:?}");
            let late = sessions(&budget, 1, 1)[0].room();
            assert!(late >= fair / 3, "one that comes has room for {late}");
        }
    }

    #[test]
    fn sessions_of_a_source_that_hangs_leave_those_of_others_a_part_of_the_share_however_many_they_are() {
        for count in [1, 16, 1_000] {
            let budget = Budget::new(4_000);
            let (dead, live) = (sessions(&budget, 1, count), sessions(&budget, 2, 2));
            let have: usize = greedy(&dead, 0).into_iter().sum();
            assert!(have <= 3_000 + 1_000, "{count} sessions have {have}");
            let have = greedy(&live, 50);
            assert!(have.iter().all(|own| *own >= 500 / 3), "{count} sessions leave {have:?}");
        }
    }

    #[test]
    fn each_source_and_each_session_has_what_is_guaranteed_and_all_have_no_more_than_there_is_for_that() {
        let budget = Budget::new(1_600);
        // All hang but the last.
        let dead: Vec<_> = (0..40).flat_map(|source| sessions(&budget, source, 3)).collect();
        let live = sessions(&budget, 99, 1);
        let have: usize = greedy(&dead, 0).into_iter().sum();
        assert!(have <= 1_600 + 1_600 / 2, "{have}");
        assert!(take_all(&live[0]) >= 1_600 / 4 / 41 / 2);
        assert!(dead.iter().all(|meter| meter.own.get() >= 1_600 / 4 / 121));
        drop(dead);
        assert_eq!((budget.sources.borrow().len(), budget.used.get()), (1, live[0].own.get()));
        drop(live);
        assert_eq!((budget.sources.borrow().len(), budget.meters.get(), budget.used.get()), (0, 0, 0));
    }

    #[test]
    fn an_io_that_takes_more_than_there_is_begins_when_it_is_the_only_one() {
        let budget = Budget::new(16);
        let meter = &sessions(&budget, 1, 1)[0];
        meter.credit.set(5);
        assert!(meter.take(1) && !meter.take(33) && !meter.has_wanted());
        meter.release(1);
        assert!(meter.has_wanted() && meter.take(33) && !meter.take(1));
        meter.release(33);
        assert!(meter.take(1));
    }

    #[test]
    fn half_of_all_is_shared_out() {
        assert_eq!((Budget::share(65_535, 2), Budget::share(8_191, 1), Budget::share(10, 0)), (16_383, 4_095, 5));
    }
}
