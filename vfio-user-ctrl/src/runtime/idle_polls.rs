//! Which of the sessions that are idle a poll group looks at in a round.
//!
//! To look at one costs little, but there may be hundreds, each with many queues; and an idle guest's first command
//! waits until its turn comes. So it is rounds that count: where the group has found nothing for some time there is
//! nobody to take time from, and sixteen have their turn in each round. A group that is busy gives one in sixteen of
//! them a turn in every fourth round. Either way the work of a round is bounded, and so is the wait: with 128 sessions
//! 8 rounds in a quiet group, which are short, and 64 in a busy one; with 16 or fewer 1 round, and 64; with one only 1,
//! and 4.

use std::cell::Cell;

/// After so many rounds in a row that found nothing a group is quiet.
const QUIET_AFTER: u32 = 32;
/// Turns in each round of a quiet group.
const QUIET_TURNS: usize = 16;
/// In a group that is busy there are turns in every so many rounds, a power of two.
const BUSY_EVERY: u32 = 4;
/// There are then as many turns that all sessions have had theirs after so many such rounds.
const BUSY_ROUNDS: usize = 16;

/// Whose turn it is.
#[derive(Debug, Default)]
pub(super) struct IdlePolls {
    round: Cell<u32>,
    /// Rounds in a row that found nothing.
    quiet: Cell<u32>,
    next: Cell<usize>,
}

impl IdlePolls {
    /// Begins a round, in which these of `count` sessions have their turn if they are idle. Each has it before one has
    /// it again.
    #[inline]
    pub(super) fn turns(&self, count: usize) -> impl Iterator<Item = usize> + use<> {
        let round = self.round.get().wrapping_add(1);
        self.round.set(round);
        let turns = if self.quiet.get() >= QUIET_AFTER {
            QUIET_TURNS.min(count)
        } else if round & (BUSY_EVERY - 1) == 0 {
            count.div_ceil(BUSY_ROUNDS)
        } else {
            0
        };
        // Sessions may have gone since.
        let first = if self.next.get() < count { self.next.get() } else { 0 };
        let end = first + turns;
        self.next.set(if end < count { end } else { end - count });
        (first..end).map(move |at| if at < count { at } else { at - count })
    }

    /// Ends a round that found something or nothing.
    #[inline]
    pub(super) fn found(&self, anything: bool) {
        self.quiet.set(if anything { 0 } else { self.quiet.get().saturating_add(1) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the longest that any of `count` sessions waits for its turn, in rounds, and the most turns of a round.
    fn longest_wait(count: usize, busy: bool) -> (u32, usize) {
        let idle_polls = IdlePolls::default();
        for _ in 0..QUIET_AFTER {
            idle_polls.turns(count).for_each(drop);
            idle_polls.found(busy);
        }
        let (mut since, mut longest, mut most) = (vec![0_u32; count], 0, 0);
        for _ in 0..1000 {
            for wait in &mut since {
                *wait += 1;
                longest = longest.max(*wait);
            }
            let turns: Vec<usize> = idle_polls.turns(count).collect();
            most = most.max(turns.len());
            for at in turns {
                since[at] = 0;
            }
            idle_polls.found(busy);
        }
        (longest, most)
    }

    #[test]
    fn in_a_quiet_group_few_sessions_have_their_turn_in_each_round_and_many_within_a_few() {
        for (count, rounds) in [(1, 1), (16, 1), (17, 2), (128, 8), (256, 16)] {
            let (longest, most) = longest_wait(count, false);
            assert!(longest == rounds && most <= 16, "{count} sessions: {longest} rounds, {most} turns");
        }
    }

    #[test]
    fn in_a_busy_group_a_round_has_few_turns_and_none_waits_for_long() {
        for (count, rounds, turns) in [(1, 4, 1), (2, 8, 1), (16, 64, 1), (17, 36, 2), (128, 64, 8), (256, 64, 16)] {
            assert_eq!(longest_wait(count, true), (rounds, turns), "{count} sessions");
        }
    }

    #[test]
    fn a_group_is_quiet_after_some_rounds_and_busy_at_once() {
        let idle_polls = IdlePolls::default();
        let turns = |found| {
            let turns = idle_polls.turns(128).count();
            idle_polls.found(found);
            turns
        };
        let at_first: usize = (0..QUIET_AFTER).map(|_| turns(false)).sum();
        assert_eq!((at_first, turns(false)), (64, 16), "every fourth round has 8 turns");
        turns(true);
        assert_eq!((0..4).map(|_| turns(false)).sum::<usize>(), 8, "busy again");
    }

    #[test]
    fn sessions_that_go_are_nobodys_turn() {
        let idle_polls = IdlePolls::default();
        for count in [128, 3, 1, 0, 0, 5, 2] {
            for _ in 0..100 {
                let turns: Vec<usize> = idle_polls.turns(count).collect();
                assert!(turns.len() <= count.max(1) && turns.iter().all(|at| *at < count), "{count}: {turns:?}");
                idle_polls.found(false);
            }
        }
    }
}
