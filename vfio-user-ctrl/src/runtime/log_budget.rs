//! Lines in the log that clients cause: a hostile one must not fill a disk with them, nor keep a thread busy writing,
//! nor use up the lines of others.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// So many lines of one client are written in a period, and so many of all; the rest is only counted.
const LIMIT: u32 = 50;
const LIMIT_OF_ALL: u32 = 500;
const PERIOD: Duration = Duration::from_secs(10);

/// Lines in a period.
#[derive(Debug, Clone, Copy)]
struct Lines {
    since: Instant,
    count: u32,
}

impl Lines {
    /// Counts a line. Returns whether to write it, and how many were left out in the period before if this is the first
    /// one after it.
    fn count(&mut self, now: Instant, limit: u32) -> (bool, u32) {
        let mut left_out = 0;
        if now.saturating_duration_since(self.since) >= PERIOD {
            left_out = self.count.saturating_sub(limit);
            *self = Self { since: now, count: 0 };
        }
        self.count = self.count.saturating_add(1);
        (self.count <= limit, left_out)
    }
}

/// How many lines may be written for the sake of some client or clients.
#[derive(Debug)]
pub(super) struct LineBudget {
    limit: u32,
    lines: Mutex<Option<Lines>>,
}

static OF_ALL: LineBudget = LineBudget::new(LIMIT_OF_ALL);

impl LineBudget {
    /// Returns the budget of the clients of one controller.
    pub(super) const fn of_one() -> Self {
        Self::new(LIMIT)
    }

    const fn new(limit: u32) -> Self {
        Self { limit, lines: Mutex::new(None) }
    }

    /// Returns whether a line may be written now; `name` is that of the controller, for the line that tells how many
    /// were left out.
    pub(super) fn take(&self, name: &str) -> bool {
        let now = Instant::now();
        // The client's own first: who has used up its own takes none of the others'.
        let (may_write, left_out) = self.count(now);
        if left_out > 0 {
            log::warn!("controller '{name}': {left_out} lines about its client were left out");
        }
        may_write && {
            let (may_write, left_out) = OF_ALL.count(now);
            if left_out > 0 {
                log::warn!("{left_out} lines about vfio-user clients were left out");
            }
            may_write
        }
    }

    fn count(&self, now: Instant) -> (bool, u32) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.get_or_insert(Lines { since: now, count: 0 }).count(now, self.limit)
    }
}

/// Writes a warning about a client of a controller.
macro_rules! warn_ratelimited {
    ($ctrl:expr, $($line:tt)*) => {
        if $ctrl.lines.take(&$ctrl.name) {
            log::warn!($($line)*);
        }
    };
}
pub(super) use warn_ratelimited;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_beyond_the_limit_are_left_out_and_counted() {
        let begin = Instant::now();
        let mut lines = Lines { since: begin, count: 0 };
        for _ in 0..LIMIT {
            assert_eq!(lines.count(begin, LIMIT), (true, 0));
        }
        assert_eq!(lines.count(begin, LIMIT), (false, 0));
        assert_eq!(lines.count(begin + PERIOD / 2, LIMIT), (false, 0));
        assert_eq!(lines.count(begin + PERIOD, LIMIT), (true, 2));
        assert_eq!(lines.count(begin + PERIOD, LIMIT), (true, 0));
    }

    #[test]
    fn a_client_that_complains_of_all_takes_no_lines_of_another() {
        let (loud, quiet) = (LineBudget::of_one(), LineBudget::of_one());
        let written = (0..10_000).filter(|_| loud.take("loud")).count();
        assert!(written <= LIMIT as usize);
        assert!(quiet.take("quiet"));
    }
}
