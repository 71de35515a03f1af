//! Tells whether an application runs whose threads take messages.
//!
//! SPDK ends the process when a message is sent to a thread that has exited, and frees the application's thread with
//! the rest. It tells nobody beforehand but the application's parts (subsystems and bdev modules), so that the
//! application counts as running from the first part's start to the end of the last one.

use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use spdk_sys as sys;

use crate::Errno;

#[derive(Debug)]
struct RunState {
    open: bool,
    /// The parts that have been started and not ended yet.
    parts: usize,
}

static STATE: RwLock<RunState> = RwLock::new(RunState { open: false, parts: 0 });

/// As long as it is held, the application's threads that have not been told to exit take messages.
pub(crate) struct Guard(#[expect(dead_code, reason = "it is held")] RwLockReadGuard<'static, RunState>);

/// Keeps the application from ending while a message is being sent.
///
/// # Errors
/// `NXIO` when no application runs, or no longer.
pub(crate) fn guard() -> Result<Guard, Errno> {
    let state = STATE.read().unwrap_or_else(PoisonError::into_inner);
    if state.open { Ok(Guard(state)) } else { Err(Errno::NXIO) }
}

/// Set once this process has begun to start SPDK by itself.
static BEGUN: Mutex<bool> = Mutex::new(false);

/// As long as it is held, SPDK's lists of what was registered before it starts may be added to.
///
/// # Panics
/// When SPDK has started: it reads those lists without looking whether they change.
pub(crate) fn registering() -> MutexGuard<'static, bool> {
    let begun = BEGUN.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: tells whether there is a thread already.
    let runs = unsafe { !sys::spdk_thread_get_app_thread().is_null() };
    assert!(!*begun && !runs, "modules, subsystems and RPC methods are registered before SPDK starts");
    begun
}

/// SPDK is about to be started by this process, which it can be once. Returns whether this is that time.
pub(crate) fn begin() -> bool {
    !std::mem::replace(&mut *BEGUN.lock().unwrap_or_else(PoisonError::into_inner), true)
}

fn change(f: impl FnOnce(&mut RunState)) {
    f(&mut STATE.write().unwrap_or_else(PoisonError::into_inner));
}

/// A part of the application is about to start, on the application's thread.
pub(crate) fn part_starts() {
    change(|state| *state = RunState { open: true, parts: state.parts.saturating_add(1) });
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
    change(|state| *state = RunState { open: false, parts: 0 });
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
