//! Whether an application runs whose threads take messages.
//!
//! SPDK ends the process when a message is sent to a thread that has exited, and frees the application's thread with the rest. It tells
//! nobody beforehand but the application's parts (subsystems and bdev modules), so that the application counts as running from the
//! first part's start to the end of the last one.

use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use crate::Errno;

#[derive(Debug)]
struct State {
    open: bool,
    /// The parts that have been started and not ended yet.
    parts: usize,
}

static STATE: RwLock<State> = RwLock::new(State { open: false, parts: 0 });

/// As long as it is held, the application's threads that have not been told to exit take messages.
pub(crate) struct Guard(#[expect(dead_code, reason = "it is held")] RwLockReadGuard<'static, State>);

/// Keeps the application from ending while a message is being sent.
///
/// # Errors
/// `NXIO` when no application runs, or no longer.
pub(crate) fn guard() -> Result<Guard, Errno> {
    let state = STATE.read().unwrap_or_else(PoisonError::into_inner);
    if state.open { Ok(Guard(state)) } else { Err(Errno::NXIO) }
}

fn change(f: impl FnOnce(&mut State)) {
    f(&mut STATE.write().unwrap_or_else(PoisonError::into_inner));
}

/// A part of the application is about to start, on the application's thread.
pub(crate) fn part_starts() {
    change(|state| *state = State { open: true, parts: state.parts.saturating_add(1) });
}

/// A part has ended, or could not be started.
pub(crate) fn part_ended() {
    change(|state| {
        state.parts = state.parts.saturating_sub(1);
        state.open &= state.parts > 0;
    });
}

/// The application has started, with or without parts of this process' own.
pub(crate) fn started() {
    change(|state| state.open = true);
}

/// The application is being stopped. Its parts may still need their threads.
pub(crate) fn stops() {
    change(|state| state.open &= state.parts > 0);
}

/// The application has stopped.
pub(crate) fn stopped() {
    change(|state| *state = State { open: false, parts: 0 });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_taken_from_the_first_parts_start_to_the_last_ones_end() {
        let open = || guard().is_ok();
        assert!(!open(), "nothing runs");
        part_starts();
        part_starts();
        assert!(open());
        part_ended();
        stops();
        assert!(open(), "a part still needs its threads");
        part_ended();
        assert!(!open());
        started();
        assert!(open(), "an application without parts");
        stops();
        assert!(!open());
        part_starts();
        stopped();
        assert!(!open());
    }
}
