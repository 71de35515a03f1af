//! Lines in the log that clients cause: a hostile one must not fill a disk with them, nor keep this thread busy writing.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// So many lines are written in a period; the rest is only counted.
const LIMIT: u32 = 50;
const PERIOD: Duration = Duration::from_secs(10);

/// Lines in a period.
#[derive(Debug, Clone, Copy)]
struct Lines {
    since: Instant,
    count: u32,
}

impl Lines {
    const fn begin(since: Instant) -> Self {
        Self { since, count: 0 }
    }

    /// Counts a line. Whether to write it, and how many were left out in the period before if this is the first one after it.
    fn count(&mut self, now: Instant) -> (bool, u32) {
        let mut left_out = 0;
        if now.saturating_duration_since(self.since) >= PERIOD {
            left_out = self.count.saturating_sub(LIMIT);
            *self = Self::begin(now);
        }
        self.count = self.count.saturating_add(1);
        (self.count <= LIMIT, left_out)
    }
}

/// Whether a line may be written now. All clients of a thread share the limit.
pub(in crate::runtime) fn may_be_written() -> bool {
    thread_local! {
        static LINES: Cell<Option<Lines>> = const { Cell::new(None) };
    }
    let now = Instant::now();
    let mut lines = LINES.get().unwrap_or(Lines::begin(now));
    let (write, left_out) = lines.count(now);
    LINES.set(Some(lines));
    if left_out > 0 {
        log::warn!("{left_out} lines about vfio-user clients were left out");
    }
    write
}

/// Writes a warning about a client.
macro_rules! complain {
    ($($line:tt)*) => {
        if $crate::runtime::control::complaint::may_be_written() {
            log::warn!($($line)*);
        }
    };
}
pub(in crate::runtime) use complain;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_beyond_the_limit_are_left_out_and_counted() {
        let begin = Instant::now();
        let mut lines = Lines::begin(begin);
        for _ in 0..LIMIT {
            assert_eq!(lines.count(begin), (true, 0));
        }
        assert_eq!(lines.count(begin), (false, 0));
        assert_eq!(lines.count(begin + PERIOD / 2), (false, 0));
        assert_eq!(lines.count(begin + PERIOD), (true, 2));
        assert_eq!(lines.count(begin + PERIOD), (true, 0));
    }
}
