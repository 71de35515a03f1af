//! Lines in the log about I/O that failed: at most one in a while for each disk.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nvme_spec::{Status, StatusCode};
use once_cell::sync::Lazy;

/// The time from one line to the next.
const PERIOD: Duration = Duration::from_secs(10);

/// When the first one was asked about.
static BEGUN: Lazy<Instant> = Lazy::new(Instant::now);

/// Which failures of a disk are written to the log.
#[derive(Debug, Default)]
pub(crate) struct LogLimit {
    /// Before this no line is written, in milliseconds; 0 before the first one.
    next: AtomicU64,
    /// Failures since the last line.
    suppressed: AtomicU64,
}

impl LogLimit {
    /// Returns whether a failure is to be written to the log now, and how many were not since the last one that was.
    pub(crate) fn take(&self, status: Status) -> Option<u64> {
        let now = u64::try_from(BEGUN.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.take_at(status, now)
    }

    fn take_at(&self, status: Status, now: u64) -> Option<u64> {
        if is_no_fault(status) {
            return None;
        }
        let (next, period) = (self.next.load(Ordering::Relaxed), u64::try_from(PERIOD.as_millis()).unwrap_or(u64::MAX));
        let later = now.saturating_add(period);
        let is_due =
            now >= next && self.next.compare_exchange(next, later, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if is_due {
            return Some(self.suppressed.swap(0, Ordering::Relaxed));
        }
        self.suppressed.fetch_add(1, Ordering::Relaxed);
        None
    }
}

/// Returns whether a failure is what may come of such a command, and no fault of anybody's: aborts, fused pairs,
/// reservation conflict, compare failure.
fn is_no_fault(status: Status) -> bool {
    matches!(
        status.code(),
        StatusCode::ABORT_REQUESTED
            | StatusCode::ABORTED_SQ_DELETION
            | StatusCode::ABORTED_FAILED_FUSED
            | StatusCode::ABORTED_MISSING_FUSED
            | StatusCode::RESERVATION_CONFLICT
            | StatusCode::COMPARE_FAILURE
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failure_in_ten_seconds_is_written_and_the_others_are_counted() {
        let log_limit = LogLimit::default();
        assert_eq!(log_limit.take_at(Status::UNRECOVERED_READ_ERROR, 5), Some(0));
        assert_eq!([6, 100, 10_004].map(|now| log_limit.take_at(Status::UNRECOVERED_READ_ERROR, now)), [None; 3]);
        assert_eq!(log_limit.take_at(Status::UNRECOVERED_READ_ERROR, 10_005), Some(3));
        assert_eq!(log_limit.take_at(Status::UNRECOVERED_READ_ERROR, u64::MAX), Some(0));
    }

    #[test]
    fn what_is_no_fault_is_not_written() {
        let log_limit = LogLimit::default();
        for status in [
            Status::COMPARE_FAILURE,
            Status::ABORT_REQUESTED,
            Status::ABORTED_FAILED_FUSED,
            Status::RESERVATION_CONFLICT.with_dnr(false),
        ] {
            assert_eq!(log_limit.take_at(status, 0), None, "{status}");
        }
        assert_eq!(log_limit.take_at(Status::UNRECOVERED_READ_ERROR, 0), Some(0));
    }
}
