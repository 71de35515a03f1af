//! What becomes of a command that a pool has answered with a failure: one table for all.

use std::time::Duration;

use spdk::nvme::Status;

/// The first delay where the pool gives none; each further one is twice as long.
const FIRST: Duration = Duration::from_millis(20);
/// The longest delay where the pool gives none.
const LONGEST: Duration = Duration::from_secs(1);
/// The longest delay that a pool can ask for.
const LONGEST_ASKED: Duration = Duration::from_secs(10);
/// The longest time that a pool can take for a change of ANA state, whatever its ANATT.
const LONGEST_CHANGE: Duration = Duration::from_secs(60);

/// The unit of Command Retry Delay Times.
const CRDT_UNIT: Duration = Duration::from_millis(100);

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Whoever sent it is told.
    Tell,
    /// It is held, and sent again after a delay. The pool has not begun to carry it out.
    Again,
    /// It is held, and sent again after a delay if it may be carried out twice: how far it came is not known.
    AgainIfHarmless,
    /// It is held until the namespace is proved to be the one that it was sent to.
    Prove,
}

/// The table.
pub(crate) fn action(status: Status) -> Action {
    match (status.sct, status.sc) {
        // Invalid Namespace or Format: the pool may have taken the namespace away and may bring it back, whatever it says of
        // a retry.
        (0, 0x0b) => Action::Prove,
        _ if status.dnr => Action::Tell,
        // Namespace Not Ready; Asymmetric Access Persistent Loss, Inaccessible and Transition.
        (0, 0x82) | (3, 0x01..=0x03) => Action::Again,
        // Command Interrupted, Transient Transport Error; other path related statuses. Data Transfer Error, Aborted due to Power Loss,
        // Internal Error, Aborted due to SQ Deletion; Write Fault, Unrecovered Read Error; vendor specific statuses: the pool says
        // that it may be otherwise the next time.
        (0, 0x21 | 0x22 | 0x04..=0x06 | 0x08) | (2, 0x80 | 0x81) | (3 | 7, _) => Action::AgainIfHarmless,
        _ => Action::Tell,
    }
}

/// How often a command that failed so is sent again. `None` for as often as time allows.
pub(crate) fn most_retries(status: Status) -> Option<u32> {
    match (status.sct, status.sc) {
        // A digest that never fits would otherwise be tried for ever.
        (0, 0x22) => Some(8),
        // Of Invalid Namespace the namespace was proved each time; what is wrong is the command. The others may pass, or be
        // errors of the medium, which nobody is to wait for.
        (0, 0x04..=0x06 | 0x08 | 0x0b) | (2 | 7, _) => Some(3),
        _ => None,
    }
}

/// Whether a command is given up that has failed for `since` now. `limit` is what the operator has set, for as long as the pool does not say
/// that the access is just changing: that takes as long as its ANATT, in seconds, and is not the time to give up before.
pub(crate) fn is_given_up(status: Status, since: Duration, limit: Option<Duration>, anatt: u8) -> bool {
    let is_changing = (status.sct, status.sc) == (3, 0x03);
    let change = if is_changing { Duration::from_secs(anatt.into()).min(LONGEST_CHANGE) } else { Duration::ZERO };
    limit.is_some_and(|limit| since >= limit.max(change))
}

/// After what time a command is sent again that has failed `failures` times. `crd` is its Command Retry Delay, an index into
/// `crdt` from 1.
pub(crate) fn delay(failures: u32, crd: u8, crdt: [u16; 3]) -> Duration {
    let asked = usize::from(crd).checked_sub(1).and_then(|index| crdt.get(index)).copied().unwrap_or(0);
    if asked != 0 {
        return CRDT_UNIT.saturating_mul(asked.into()).min(LONGEST_ASKED);
    }
    let doublings = failures.saturating_sub(1).min(16);
    FIRST.saturating_mul(1 << doublings).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(sct: u8, sc: u8) -> Action {
        action(Status { sct, sc, dnr: false })
    }

    #[test]
    fn what_passes_is_tried_again_and_what_does_not_is_told() {
        for (sct, sc, right) in [
            (0, 0x82, Action::Again),
            (3, 0x01, Action::Again),
            (3, 0x02, Action::Again),
            (3, 0x03, Action::Again),
            (0, 0x21, Action::AgainIfHarmless),
            (0, 0x22, Action::AgainIfHarmless),
            (3, 0x00, Action::AgainIfHarmless),
            (3, 0x60, Action::AgainIfHarmless),
            (3, 0x70, Action::AgainIfHarmless),
            (0, 0x04, Action::AgainIfHarmless),
            (0, 0x05, Action::AgainIfHarmless),
            (0, 0x06, Action::AgainIfHarmless),
            (0, 0x08, Action::AgainIfHarmless),
            (2, 0x80, Action::AgainIfHarmless),
            (2, 0x81, Action::AgainIfHarmless),
            (7, 0x01, Action::AgainIfHarmless),
            (0, 0x0b, Action::Prove),
            // Invalid field, abort requested, LBA out of range, capacity exceeded, reservation conflict, compare failure.
            (0, 0x02, Action::Tell),
            (0, 0x07, Action::Tell),
            (0, 0x80, Action::Tell),
            (0, 0x81, Action::Tell),
            (0, 0x83, Action::Tell),
            (2, 0x85, Action::Tell),
            (1, 0x80, Action::Tell),
        ] {
            assert_eq!(of(sct, sc), right, "type {sct:x}h, code {sc:02x}h");
        }
    }

    #[test]
    fn a_pool_that_says_do_not_retry_is_obeyed_except_about_which_namespace_it_has() {
        for sct in 0..8 {
            for sc in 0..=u8::MAX {
                let right = if (sct, sc) == (0, 0x0b) { Action::Prove } else { Action::Tell };
                assert_eq!(action(Status { sct, sc, dnr: true }), right);
            }
        }
    }

    #[test]
    fn what_may_be_an_error_of_the_medium_is_tried_again_a_few_times_only() {
        for (sct, sc) in [(0, 0x04), (0, 0x06), (0, 0x08), (2, 0x81), (7, 0x01)] {
            assert_eq!(most_retries(Status { sct, sc, dnr: false }), Some(3));
        }
        assert_eq!(most_retries(Status { sct: 3, sc: 2, dnr: false }), None);
    }

    #[test]
    fn while_the_access_changes_nothing_is_given_up_before_anatt_and_then_by_the_limit() {
        let given_up = |sc, seconds, limit: Option<u64>, anatt| {
            let (status, since) = (Status { sct: 3, sc, dnr: false }, Duration::from_secs(seconds));
            is_given_up(status, since, limit.map(Duration::from_secs), anatt)
        };
        assert_eq!([1, 9, 10].map(|seconds| given_up(0x03, seconds, Some(1), 10)), [false, false, true]);
        assert_eq!([9, 10, 19, 20].map(|seconds| given_up(0x03, seconds, Some(20), 10)), [false, false, false, true]);
        assert_eq!([59, 60].map(|seconds| given_up(0x03, seconds, Some(1), u8::MAX)), [false, true]);
        assert!(given_up(0x03, 1, Some(1), 0), "ANATT must not be 0");
        for other in [0x00, 0x01, 0x02] {
            assert!(given_up(other, 1, Some(1), 10), "status code {other:02x}h");
        }
        assert!(!given_up(0x02, 1_000_000, None, 10) && !given_up(0x03, 1_000_000, None, 10));
    }

    #[test]
    fn delays_double_up_to_a_second() {
        let delays: Vec<u128> = (1..10).map(|n| delay(n, 0, [0; 3]).as_millis()).collect();
        assert_eq!(delays, [20, 40, 80, 160, 320, 640, 1000, 1000, 1000]);
        assert_eq!(delay(u32::MAX, 0, [0; 3]), LONGEST);
        assert_eq!(delay(0, 0, [0; 3]), FIRST);
    }

    #[test]
    fn the_delay_that_a_pool_asks_for_is_kept_within_bounds() {
        assert_eq!(delay(1, 2, [1, 5, u16::MAX]), Duration::from_millis(500));
        assert_eq!(delay(1, 3, [1, 5, u16::MAX]), LONGEST_ASKED);
        assert_eq!(delay(1, 2, [1, 0, 1]), FIRST);
        assert_eq!(delay(1, 7, [1, 1, 1]), FIRST);
    }
}
