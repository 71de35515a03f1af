//! How many I/Os each session of a poll group may have under way.
//!
//! Each takes an I/O of the bdev layer's, of which there is a number for all. A client of a slow or silent disk would
//! take all of them, and others could do nothing. So half of them are shared out to the poll groups; what remains is
//! for what an I/O may take beyond its one (its parts, where a bdev splits it), for aborts, and for whoever else uses
//! bdevs.
//!
//! A session may have as many under way as are free then: alone it has half of its group's share; where I/Os end, n
//! sessions that want all come to an n+1th part each, and as much remains for one that comes. Where none ends, each
//! that comes has half of what is left, or what is guaranteed. That takes no more than a subtraction in each round.

use std::cell::Cell;

/// So many any session may have, however many others there are.
const GUARANTEED: usize = 128;

/// The I/Os of one poll group.
#[derive(Debug)]
pub(super) struct Budget {
    share: usize,
    used: Cell<usize>,
}

impl Budget {
    /// Returns the share of each of `groups` poll groups if the bdev layer has `total` I/Os.
    pub(super) fn share(total: usize, groups: usize) -> usize {
        total / 2 / groups.max(1)
    }

    /// A budget of `share` I/Os.
    pub(super) fn new(share: usize) -> Self {
        Self { share, used: Cell::new(0) }
    }

    /// Returns how many more a session may begin that has `own` under way.
    #[inline]
    pub(super) fn room(&self, own: usize) -> usize {
        let free = self.share.saturating_sub(self.used.get());
        // Each that it takes makes the free ones one less: the two meet in the middle.
        let fair = free.saturating_sub(own).div_ceil(2);
        fair.max(GUARANTEED.saturating_sub(own))
    }

    /// A session that had `before` under way has `now`.
    #[inline]
    pub(super) fn note(&self, before: usize, now: usize) {
        self.used.set((self.used.get() + now).saturating_sub(before));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sessions that take what they may, round after round, in which one of so many of their I/Os ends.
    fn greedy(budget: &Budget, sessions: &mut [usize], one_of: usize) {
        for _ in 0..1000 {
            for own in &mut *sessions {
                let left = *own - own.checked_div(one_of).unwrap_or(0);
                budget.note(*own, left);
                let more = budget.room(left);
                budget.note(left, left + more);
                *own = left + more;
            }
        }
    }

    #[test]
    fn whoever_is_alone_has_half_and_many_leave_as_much_as_each_of_them_has() {
        for count in [1, 2, 3, 10] {
            let budget = Budget::new(16_000);
            let mut sessions = vec![0; count];
            greedy(&budget, &mut sessions, 50);
            let fair = 16_000 / (count + 1);
            assert!(sessions.iter().all(|own| own.abs_diff(fair) <= fair / 10), "{count} sessions: {sessions:?}");
            let late = budget.room(0);
            assert!(late >= fair / 3, "one that comes has room for {late}");
        }
    }

    #[test]
    fn each_has_what_is_guaranteed_however_many_there_are() {
        let budget = Budget::new(1_000);
        let mut sessions = [0; 40];
        greedy(&budget, &mut sessions, 0);
        assert!(sessions.iter().all(|own| *own >= GUARANTEED), "{sessions:?}");
        assert_eq!(budget.room(0), GUARANTEED);
        for own in &mut sessions {
            budget.note(*own, 0);
        }
        assert_eq!(budget.used.get(), 0);
    }

    #[test]
    fn half_of_all_is_shared_out() {
        assert_eq!((Budget::share(65_535, 2), Budget::share(8_191, 1), Budget::share(10, 0)), (16_383, 4_095, 5));
    }
}
