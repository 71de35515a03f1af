//! How often a thread that serves many does for one client what costs it time.

use std::cell::Cell;

/// Such work takes one part of the thread's time in so many, at most.
const PART: u64 = 8;

/// Limits the time of one client's work on one thread. Times are in ticks.
#[derive(Debug)]
pub(super) struct Throttle {
    /// No pause is longer: what kept the thread busy may not have been the work.
    longest: u64,
    next: Cell<u64>,
}

impl Throttle {
    /// Returns a throttle under which no work was done yet.
    pub(super) const fn new(longest: u64) -> Self {
        Self { longest, next: Cell::new(0) }
    }

    /// Returns whether there may be more work at `now`.
    pub(super) fn is_due(&self, now: u64) -> bool {
        now >= self.next.get()
    }

    /// Work that began at `began` has ended at `now`.
    pub(super) fn charge(&self, began: u64, now: u64) {
        let pause = now.saturating_sub(began).saturating_mul(PART - 1).min(self.longest);
        self.next.set(now.saturating_add(pause));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_has_its_part_of_the_time_and_no_pause_is_too_long() {
        let throttle = Throttle::new(1000);
        assert!(throttle.is_due(0));
        throttle.charge(0, 10);
        assert!(!throttle.is_due(79) && throttle.is_due(80));
        throttle.charge(80, 10_000);
        assert!(!throttle.is_due(10_999) && throttle.is_due(11_000));
        throttle.charge(11_000, 5);
        assert!(throttle.is_due(5), "a clock that goes back costs nothing");
    }
}
