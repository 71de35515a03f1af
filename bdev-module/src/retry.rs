//! What becomes of a command that a pool has answered with a failure: one table for all.

use std::time::Duration;

use nvme_spec::{Status, StatusCode, StatusCodeType};

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

/// Returns the table.
pub(crate) fn action(status: Status) -> Action {
    match status.code() {
        // The pool may have taken the namespace away and may bring it back, whatever it says of a retry.
        StatusCode::INVALID_NAMESPACE => Action::Prove,
        _ if status.dnr() => Action::Tell,
        StatusCode::NAMESPACE_NOT_READY
        | StatusCode::ANA_PERSISTENT_LOSS
        | StatusCode::ANA_INACCESSIBLE
        | StatusCode::ANA_TRANSITION => Action::Again,
        // The pool says that it may be otherwise the next time.
        StatusCode::COMMAND_INTERRUPTED
        | StatusCode::TRANSIENT_TRANSPORT_ERROR
        | StatusCode::DATA_TRANSFER_ERROR
        | StatusCode::ABORTED_POWER_LOSS
        | StatusCode::INTERNAL_ERROR
        | StatusCode::ABORTED_SQ_DELETION
        | StatusCode::WRITE_FAULT
        | StatusCode::UNRECOVERED_READ_ERROR => Action::AgainIfHarmless,
        code if matches!(code.sct(), StatusCodeType::PATH | StatusCodeType::VENDOR_SPECIFIC) => Action::AgainIfHarmless,
        _ => Action::Tell,
    }
}

/// Returns how often a command that failed so is sent again. `None` for as often as time allows.
pub(crate) fn most_retries(status: Status) -> Option<u32> {
    match status.code() {
        // A digest that never fits would otherwise be tried for ever.
        StatusCode::TRANSIENT_TRANSPORT_ERROR => Some(8),
        // Of Invalid Namespace the namespace was proved each time; what is wrong is the command. The others may pass,
        // or be errors of the medium, which nobody is to wait for.
        StatusCode::INVALID_NAMESPACE
        | StatusCode::DATA_TRANSFER_ERROR
        | StatusCode::ABORTED_POWER_LOSS
        | StatusCode::INTERNAL_ERROR
        | StatusCode::ABORTED_SQ_DELETION => Some(3),
        code if matches!(code.sct(), StatusCodeType::MEDIA | StatusCodeType::VENDOR_SPECIFIC) => Some(3),
        _ => None,
    }
}

/// Returns whether a command is given up that has failed for `since` now. `limit` is what the operator has set, for as
/// long as the pool does not say that the access is just changing: that takes as long as its ANATT, in seconds, and is
/// not the time to give up before.
pub(crate) fn is_given_up(status: Status, since: Duration, limit: Option<Duration>, anatt: u8) -> bool {
    let is_changing = status.code() == StatusCode::ANA_TRANSITION;
    let change = if is_changing { Duration::from_secs(anatt.into()).min(LONGEST_CHANGE) } else { Duration::ZERO };
    limit.is_some_and(|limit| since >= limit.max(change))
}

/// After what time a command is sent again that has failed `failures` times. `crd` is its Command Retry Delay, an index
/// into `crdt` from 1.
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

    /// A status that the specification leaves to vendors.
    const VENDORS: Status = Status::new(StatusCodeType::VENDOR_SPECIFIC, 1);

    #[test]
    fn what_passes_is_tried_again_and_what_does_not_is_told() {
        let again = [
            Status::NAMESPACE_NOT_READY,
            Status::ANA_PERSISTENT_LOSS,
            Status::ANA_INACCESSIBLE,
            Status::ANA_TRANSITION,
        ];
        let again_if_harmless = [
            Status::COMMAND_INTERRUPTED,
            Status::TRANSIENT_TRANSPORT_ERROR,
            Status::INTERNAL_PATH_ERROR,
            Status::CONTROLLER_PATHING_ERROR,
            Status::HOST_PATHING_ERROR,
            Status::DATA_TRANSFER_ERROR,
            Status::ABORTED_POWER_LOSS,
            Status::INTERNAL_ERROR,
            Status::ABORTED_SQ_DELETION,
            Status::WRITE_FAULT,
            Status::UNRECOVERED_READ_ERROR,
            VENDORS,
        ];
        let told = [
            Status::INVALID_FIELD,
            Status::ABORT_REQUESTED,
            Status::LBA_OUT_OF_RANGE,
            Status::CAPACITY_EXCEEDED,
            Status::RESERVATION_CONFLICT,
            Status::COMPARE_FAILURE,
            Status::CONFLICTING_ATTRIBUTES,
        ];
        for (statuses, right) in [
            (&again[..], Action::Again),
            (&again_if_harmless, Action::AgainIfHarmless),
            (&[Status::INVALID_NAMESPACE], Action::Prove),
            (&told, Action::Tell),
        ] {
            for status in statuses {
                assert_eq!(action(status.with_dnr(false)), right, "{status}");
            }
        }
    }

    #[test]
    fn a_pool_that_says_do_not_retry_is_obeyed_except_about_which_namespace_it_has() {
        for code in (0..1 << 11).map(StatusCode::from_bits) {
            let right = if code == StatusCode::INVALID_NAMESPACE { Action::Prove } else { Action::Tell };
            assert_eq!(action(Status::of(code).with_dnr(true)), right, "{code}");
        }
    }

    #[test]
    fn what_may_be_an_error_of_the_medium_is_tried_again_a_few_times_only() {
        let medium = [Status::DATA_TRANSFER_ERROR, Status::INTERNAL_ERROR, Status::ABORTED_SQ_DELETION];
        for status in medium.into_iter().chain([Status::UNRECOVERED_READ_ERROR, VENDORS]) {
            assert_eq!(most_retries(status), Some(3), "{status}");
        }
        assert_eq!(most_retries(Status::ANA_INACCESSIBLE), None);
    }

    #[test]
    fn while_the_access_changes_nothing_is_given_up_before_anatt_and_then_by_the_limit() {
        let given_up = |status, seconds, limit: Option<u64>, anatt| {
            is_given_up(status, Duration::from_secs(seconds), limit.map(Duration::from_secs), anatt)
        };
        let changes = |seconds, limit, anatt| given_up(Status::ANA_TRANSITION, seconds, limit, anatt);
        assert_eq!([1, 9, 10].map(|seconds| changes(seconds, Some(1), 10)), [false, false, true]);
        assert_eq!([9, 10, 19, 20].map(|seconds| changes(seconds, Some(20), 10)), [false, false, false, true]);
        assert_eq!([59, 60].map(|seconds| changes(seconds, Some(1), u8::MAX)), [false, true]);
        assert!(changes(1, Some(1), 0), "ANATT must not be 0");
        for other in [Status::INTERNAL_PATH_ERROR, Status::ANA_PERSISTENT_LOSS, Status::ANA_INACCESSIBLE] {
            assert!(given_up(other, 1, Some(1), 10), "{other}");
        }
        assert!(!given_up(Status::ANA_INACCESSIBLE, 1_000_000, None, 10) && !changes(1_000_000, None, 10));
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
