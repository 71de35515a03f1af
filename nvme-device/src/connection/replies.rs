//! What a client is answered when what it asked for is over: resets, and writes to configuration space that end
//! accesses to memory.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// How long a client waits for its function-level reset at most: QEMU gives a device up after 5 s. Then the function is
/// not ready.
const RESET_TIME: Duration = Duration::from_secs(2);
/// How long it waits for I/O that accesses memory which it forbids to access: a guest's processor stands meanwhile.
const QUIESCE_TIME: Duration = Duration::from_millis(200);
/// So many function-level resets of one client are carried out by themselves at a time.
const MAX_RESETS: usize = 16;

/// A request that is answered when these are over.
#[derive(Debug)]
struct WaitingReply<T> {
    token: T,
    reset: Option<u64>,
    /// The state of the bus in which the poll groups are to come to rest.
    quiesce: Option<u64>,
    /// When it is answered all the same.
    until: Option<Instant>,
}

/// The requests of a client that are answered later, each by its token.
#[derive(Debug)]
pub(super) struct Replies<T> {
    waiting: Vec<WaitingReply<T>>,
    next_reset: u64,
    /// Resets that are in progress.
    resets: BTreeSet<u64>,
    /// The function-level reset that the next write is answered after.
    written: Option<u64>,
    /// Function-level resets that were answered for before they were over.
    overdue: BTreeSet<u64>,
}

impl<T> Default for Replies<T> {
    fn default() -> Self {
        let (resets, overdue) = (BTreeSet::new(), BTreeSet::new());
        Self { waiting: Vec::new(), next_reset: 0, resets, written: None, overdue }
    }
}

impl<T> Replies<T> {
    /// Begins a device reset, which `token` is the answer to. Returns the reset's number.
    pub(super) fn reset(&mut self, token: T) -> u64 {
        let number = self.begin();
        self.waiting.push(WaitingReply { token, reset: Some(number), quiesce: None, until: None });
        number
    }

    /// Begins a function-level reset. Returns its number, unless so many are in progress that this one is told with the
    /// last.
    pub(super) fn function_reset(&mut self) -> Option<u64> {
        if self.resets.len() >= MAX_RESETS {
            self.written = self.resets.last().copied();
            return None;
        }
        let number = self.begin();
        self.written = Some(number);
        Some(number)
    }

    fn begin(&mut self) -> u64 {
        let number = self.next_reset;
        self.next_reset += 1;
        self.resets.insert(number);
        number
    }

    /// A write to configuration space is to be answered when what it began is over: a function-level reset, and, if it
    /// forbids the function to access memory, that poll groups are at rest in the state `rest` of the bus.
    pub(super) fn config_written(&mut self, token: T, quiesce: Option<u64>, now: Instant) {
        let begun = self.written.take();
        let limit = if begun.is_some() { RESET_TIME } else { QUIESCE_TIME };
        self.waiting.push(WaitingReply { token, reset: begun, quiesce, until: now.checked_add(limit) });
    }

    /// A reset is over.
    pub(super) fn reset_done(&mut self, number: u64) {
        self.resets.remove(&number);
        self.overdue.remove(&number);
    }

    /// Returns whether anything is to be answered.
    #[must_use]
    pub(super) const fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Returns whether no function-level reset is in progress that was answered for.
    #[must_use]
    pub(super) fn is_ready(&self) -> bool {
        self.overdue.is_empty()
    }

    /// Takes the answers that are due. `quiesced` tells whether the poll groups are at rest in a state of the bus.
    pub(super) fn take_due(&mut self, quiesced: impl Fn(u64) -> bool, now: Instant) -> Vec<T> {
        let mut due = Vec::new();
        for waiting in std::mem::take(&mut self.waiting) {
            let resetting = waiting.reset.filter(|number| self.resets.contains(number));
            let is_quiesced = waiting.quiesce.is_none_or(&quiesced);
            let is_late = waiting.until.is_some_and(|until| until <= now);
            if is_late && let Some(number) = resetting {
                self.overdue.insert(number);
            }
            if is_late || (resetting.is_none() && is_quiesced) {
                due.push(waiting.token);
            } else {
                self.waiting.push(waiting);
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A state of the bus.
    const STATE: u64 = 4;

    fn quiesced(_: u64) -> bool {
        true
    }

    fn busy(_: u64) -> bool {
        false
    }

    #[test]
    fn a_device_reset_is_answered_when_it_is_over_however_long_that_takes() {
        let (mut replies, now) = (Replies::default(), Instant::now());
        let number = replies.reset('r');
        assert!(replies.take_due(quiesced, now + 10 * RESET_TIME).is_empty());
        assert!(replies.is_waiting() && replies.is_ready());
        replies.reset_done(number);
        assert_eq!(replies.take_due(quiesced, now), ['r']);
        assert!(!replies.is_waiting());
    }

    #[test]
    fn a_write_that_forbids_accesses_to_memory_is_answered_when_the_poll_groups_are_at_rest() {
        let (mut replies, now) = (Replies::default(), Instant::now());
        replies.config_written('w', Some(STATE), now);
        assert!(replies.take_due(|state| state != STATE, now).is_empty());
        assert_eq!(replies.take_due(|state| state == STATE, now), ['w']);
    }

    #[test]
    fn a_write_that_forbids_accesses_to_memory_is_answered_in_time_whatever_the_poll_groups_do() {
        let (mut replies, now) = (Replies::default(), Instant::now());
        replies.config_written('w', Some(STATE), now);
        assert!(replies.take_due(busy, now + QUIESCE_TIME / 2).is_empty());
        assert_eq!(replies.take_due(busy, now + QUIESCE_TIME), ['w']);
        assert!(replies.is_ready(), "no reset is in progress");
    }

    #[test]
    fn a_write_that_changes_nothing_is_answered_at_once() {
        let (mut replies, now) = (Replies::default(), Instant::now());
        replies.config_written('w', None, now);
        assert_eq!(replies.take_due(busy, now), ['w']);
    }

    #[test]
    fn a_function_that_is_still_being_reset_when_its_time_is_over_is_not_ready_until_it_is_reset() {
        let (mut replies, now) = (Replies::default(), Instant::now());
        let number = replies.function_reset().expect("none is in progress");
        replies.config_written('f', None, now);
        assert!(replies.take_due(quiesced, now + RESET_TIME / 2).is_empty());
        assert_eq!(replies.take_due(quiesced, now + RESET_TIME), ['f']);
        assert!(!replies.is_ready());
        replies.reset_done(number);
        assert!(replies.is_ready());
    }

    #[test]
    fn the_write_after_a_function_level_reset_does_not_wait_for_it() {
        let (mut replies, now) = (Replies::default(), Instant::now());
        replies.function_reset();
        replies.config_written('f', None, now);
        replies.config_written('w', None, now);
        assert_eq!(replies.take_due(quiesced, now), ['w']);
    }

    #[test]
    fn function_level_resets_without_end_are_told_of_with_the_last_that_is_carried_out() {
        let (mut replies, now) = (Replies::default(), Instant::now());
        let numbers: Vec<u64> = (0..1000).filter_map(|_| replies.function_reset()).collect();
        assert_eq!(numbers.len(), MAX_RESETS);
        replies.config_written('f', None, now);
        for number in numbers {
            assert!(replies.take_due(quiesced, now).is_empty());
            replies.reset_done(number);
        }
        assert_eq!(replies.take_due(quiesced, now), ['f']);
        assert!(replies.function_reset().is_some(), "there is room again");
    }

    #[test]
    fn answers_come_in_the_order_of_the_requests() {
        let (mut replies, now) = (Replies::default(), Instant::now());
        let number = replies.reset('a');
        replies.config_written('b', Some(STATE), now);
        replies.config_written('c', None, now);
        replies.reset_done(number);
        assert_eq!(replies.take_due(quiesced, now), ['a', 'b', 'c']);
    }
}
