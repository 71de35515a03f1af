//! Who is let in to a controller, which serves one client at a time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Connections that wait for the client before them to go.
const MAX_WAITING: usize = 4;
/// How long nobody is let in after a client that held a reactor up.
const BAN_TIME: Duration = Duration::from_secs(10);
/// Sessions of a controller that are over, but of which something is still in flight. Each has memory, files and I/O: a
/// client that goes and comes again and again must not have ever more of them.
const MAX_ENDED: usize = 8;

/// The client that a controller serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occupant {
    /// It has said nothing of use for long.
    Silent,
    /// It is any other.
    Served,
}

/// What it depends on whether a client is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Situation {
    /// The client that is there.
    pub occupant: Option<Occupant>,
    /// So many sessions are over, but something of them is still in flight.
    pub ended: usize,
    /// Clients before have not had more than their share of time.
    pub has_time: bool,
}

/// What is to be done about a client that waits.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict<S> {
    /// Nothing: nobody waits, or it goes on waiting.
    Wait,
    /// The client that is there makes room.
    MakeRoom,
    /// It is let in.
    LetIn(S),
}

/// The connections that wait for a controller.
#[derive(Debug)]
pub struct AcceptQueue<S> {
    waiting: VecDeque<S>,
    banned_until: Option<Instant>,
}

impl<S> Default for AcceptQueue<S> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), banned_until: None }
    }
}

impl<S> AcceptQueue<S> {
    /// A connection has come.
    ///
    /// # Errors
    /// It is turned away: enough others wait.
    pub fn arrive(&mut self, connection: S) -> Result<(), S> {
        if self.waiting.len() >= MAX_WAITING {
            return Err(connection);
        }
        self.waiting.push_back(connection);
        Ok(())
    }

    /// Returns whether a client waits.
    #[must_use]
    pub fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Decides about the client that has waited longest.
    pub fn next(&mut self, situation: Situation, now: Instant) -> Verdict<S> {
        if self.waiting.is_empty() {
            return Verdict::Wait;
        }
        let is_banned = self.banned_until.is_some_and(|until| now < until);
        match situation.occupant {
            Some(Occupant::Silent) => Verdict::MakeRoom,
            Some(Occupant::Served) => Verdict::Wait,
            None if is_banned || situation.ended >= MAX_ENDED || !situation.has_time => Verdict::Wait,
            None => self.waiting.pop_front().map_or(Verdict::Wait, Verdict::LetIn),
        }
    }

    /// Lets nobody in for a while.
    pub fn ban(&mut self, now: Instant) {
        self.banned_until = now.checked_add(BAN_TIME);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FREE: Situation = Situation { occupant: None, ended: 0, has_time: true };

    fn taken(occupant: Occupant) -> Situation {
        Situation { occupant: Some(occupant), ..FREE }
    }

    fn with_waiting(count: u32) -> (AcceptQueue<u32>, Instant) {
        let mut accept_queue = AcceptQueue::default();
        for number in 0..count {
            assert_eq!(accept_queue.arrive(number), Ok(()));
        }
        (accept_queue, Instant::now())
    }

    #[test]
    fn clients_are_let_in_in_the_order_in_which_they_came() {
        let (mut accept_queue, now) = with_waiting(2);
        assert_eq!(accept_queue.next(FREE, now), Verdict::LetIn(0));
        assert_eq!(accept_queue.next(taken(Occupant::Served), now), Verdict::Wait);
        assert_eq!(accept_queue.next(FREE, now), Verdict::LetIn(1));
        assert_eq!(accept_queue.next(FREE, now), Verdict::Wait, "nobody waits");
    }

    #[test]
    fn a_client_that_comes_when_enough_others_wait_is_turned_away() {
        let (mut accept_queue, now) = with_waiting(4);
        assert_eq!(accept_queue.arrive(4), Err(4));
        assert_eq!(accept_queue.next(FREE, now), Verdict::LetIn(0));
        assert_eq!(accept_queue.arrive(5), Ok(()));
    }

    #[test]
    fn a_client_that_says_nothing_makes_room_only_when_another_waits() {
        let (mut accept_queue, now) = with_waiting(0);
        assert_eq!(accept_queue.next(taken(Occupant::Silent), now), Verdict::Wait);
        let (mut accept_queue, now) = with_waiting(1);
        assert_eq!(accept_queue.next(taken(Occupant::Silent), now), Verdict::MakeRoom);
        assert!(accept_queue.has_waiting());
    }

    #[test]
    fn nobody_is_let_in_for_a_while_after_a_client_that_held_a_reactor_up() {
        let (mut accept_queue, now) = with_waiting(1);
        accept_queue.ban(now);
        assert_eq!(accept_queue.next(FREE, now + BAN_TIME / 2), Verdict::Wait);
        assert_eq!(accept_queue.next(FREE, now + BAN_TIME), Verdict::LetIn(0));
    }

    #[test]
    fn a_client_that_comes_and_goes_does_not_have_ever_more_sessions_that_are_not_over() {
        let (mut accept_queue, now) = with_waiting(1);
        assert_eq!(accept_queue.next(Situation { ended: MAX_ENDED, ..FREE }, now), Verdict::Wait);
        assert_eq!(accept_queue.next(Situation { ended: MAX_ENDED - 1, ..FREE }, now), Verdict::LetIn(0));
    }

    #[test]
    fn a_client_waits_while_those_before_it_have_had_more_than_their_share_of_time() {
        let (mut accept_queue, now) = with_waiting(1);
        assert_eq!(accept_queue.next(Situation { has_time: false, ..FREE }, now), Verdict::Wait);
        assert_eq!(accept_queue.next(FREE, now), Verdict::LetIn(0));
    }
}
