//! Whether an abort is of an I/O that has to end.
//!
//! The bdev layer has no word for that. It gives an abort to the bdev's module within the call that asks for it, so that
//! the word goes around it. An abort that it puts off loses the word; whoever waits for the I/O asks again.

use std::cell::Cell;

thread_local! {
    static MUST_END: Cell<bool> = const { Cell::new(false) };
}

/// Calls `abort`; what is aborted within has to end, or has not.
pub(crate) fn during<R>(must_end: bool, abort: impl FnOnce() -> R) -> R {
    let before = MUST_END.replace(must_end);
    let result = abort();
    MUST_END.set(before);
    result
}

/// Returns whether what is aborted by the call that is being made has to end.
pub(crate) fn must_end() -> bool {
    MUST_END.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_abort_within_another_has_its_own_urgency_and_leaves_that_of_the_other() {
        assert!(!must_end());
        during(true, || {
            assert!(must_end());
            during(false, || assert!(!must_end()));
            assert!(must_end());
        });
        assert!(!must_end());
    }
}
