//! How old the oldest command of a queue pair is, without a look at the clock for each command.
//!
//! Time is cut into periods. A command counts in the period in which it was sent, until it ends; the first period in
//! which one is left tells the age, to within its length.

use std::cell::Cell;
use std::num::NonZeroU8;
use std::time::{Duration, Instant};

/// So many periods are told from one another. If commands are left in more, the last one lasts longer.
const PERIODS: usize = 16;

/// The period in which a command was sent, and counts until [`Ages::end`] is given this.
#[derive(Debug)]
#[must_use = "the command counts until this is given back"]
pub(super) struct Period(u8);

impl Period {
    /// Returns what a command is marked with.
    #[inline]
    pub(super) fn into_mark(self) -> NonZeroU8 {
        NonZeroU8::MIN.saturating_add(self.0)
    }

    /// Returns the period of a command whose mark was taken from it.
    #[inline]
    pub(super) fn from_mark(mark: NonZeroU8) -> Self {
        Self(mark.get() - 1)
    }
}

#[derive(Debug)]
struct Count {
    since: Cell<Instant>,
    commands: Cell<u32>,
}

/// The commands of a queue pair, by when they were sent.
#[derive(Debug)]
pub(super) struct Ages {
    now: Cell<u8>,
    periods: [Count; PERIODS],
}

impl Ages {
    /// Returns an empty list.
    pub(super) fn new(now: Instant) -> Self {
        let periods = std::array::from_fn(|_| Count { since: Cell::new(now), commands: Cell::new(0) });
        Self { now: Cell::new(0), periods }
    }

    /// A command is sent. Returns what [`end`](Self::end) is to be told.
    #[inline]
    pub(super) fn begin(&self) -> Period {
        let period = self.now.get();
        if let Some(count) = self.periods.get(usize::from(period)) {
            count.commands.set(count.commands.get() + 1);
        }
        Period(period)
    }

    /// A command that was sent in that period has ended.
    #[inline]
    pub(super) fn end(&self, Period(period): Period) {
        if let Some(count) = self.periods.get(usize::from(period)) {
            // The period was made when a command was counted, and given back by that one.
            count.commands.set(count.commands.get() - 1);
        }
    }

    /// Begins another period. To be called from time to time.
    pub(super) fn turn(&self, now: Instant) {
        let is_free = |count: &Count| count.commands.get() == 0;
        let current = self.periods.get(usize::from(self.now.get())).filter(|count| is_free(count));
        let next = current.or_else(|| self.periods.iter().find(|count| is_free(count)));
        let Some(next) = next else { return };
        next.since.set(now);
        let at = self.periods.iter().position(|count| std::ptr::eq(count, next));
        self.now.set(at.and_then(|at| u8::try_from(at).ok()).unwrap_or(0));
    }

    /// Returns how old the oldest command is, or a little less old than that.
    pub(super) fn oldest(&self, now: Instant) -> Option<Duration> {
        let left = self.periods.iter().filter(|count| count.commands.get() > 0);
        left.map(|count| now.saturating_duration_since(count.since.get())).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(50);

    #[test]
    fn one_command_that_hangs_among_many_that_do_not_tells_its_age() {
        let start = Instant::now();
        let ages = Ages::new(start);
        assert_eq!(ages.oldest(start), None);
        let mut now = start;
        let hanging = ages.begin();
        for _ in 0..1000 {
            now += STEP;
            ages.turn(now);
            let others: Vec<Period> = (0..10).map(|_| ages.begin()).collect();
            assert_eq!(ages.oldest(now), Some(now - start));
            for period in others {
                ages.end(period);
            }
        }
        ages.end(hanging);
        assert_eq!(ages.oldest(now), None);
        let next = ages.begin();
        assert_eq!(ages.oldest(now + STEP), Some(STEP), "it is not taken for an old one");
        ages.end(next);
    }

    #[test]
    fn commands_that_are_left_in_very_many_periods_keep_the_age_of_the_oldest() {
        let start = Instant::now();
        let ages = Ages::new(start);
        let (mut now, mut sent) = (start, Vec::new());
        for _ in 0..3 * PERIODS {
            sent.push(ages.begin());
            now += STEP;
            ages.turn(now);
        }
        assert_eq!(ages.oldest(now), Some(now - start));
        for period in sent {
            ages.end(period);
        }
        assert_eq!(ages.oldest(now), None);
    }

    #[test]
    fn a_period_comes_back_whole_from_its_mark() {
        for period in [0, 1, u8::try_from(PERIODS).expect("a few") - 1] {
            assert_eq!(Period::from_mark(Period(period).into_mark()).0, period);
        }
    }
}
