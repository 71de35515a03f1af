//! A client's share of the control thread's time, and of the threads that map and unmap for it: they may run on a core
//! that polls for others. It goes with the socket: who connects anew has not more of it.

use std::time::{Duration, Instant};

/// In the long run a client has one part in so many.
const PART: u32 = 5;
/// It may be ahead by so much: a VM that starts maps its memory at once.
const AHEAD: Duration = Duration::from_millis(50);
/// More is not held against it, so that it is answered again within a second.
const MOST: Duration = Duration::from_millis(200);
/// What it costs about to unmap a region.
const UNMAP: Duration = Duration::from_micros(10);

/// What one client has had and not yet paid by waiting.
#[derive(Debug, Clone, Copy)]
pub(super) struct TimeShare {
    debt: Duration,
    since: Instant,
}

impl TimeShare {
    /// Returns a share of which nothing is used yet.
    pub(super) const fn new(now: Instant) -> Self {
        Self { debt: Duration::ZERO, since: now }
    }

    /// Time was spent for the client.
    pub(super) fn charge(&mut self, now: Instant, cost: Duration) {
        self.pay(now);
        self.debt = self.debt.saturating_add(cost).min(MOST);
    }

    /// Takes over what another one has not paid.
    pub(super) fn take_over(&mut self, now: Instant, mut other: Self) {
        other.pay(now);
        self.charge(now, other.debt);
    }

    /// Regions of the client's are unmapped.
    pub(super) fn charge_unmapped(&mut self, now: Instant, regions: usize) {
        self.charge(now, UNMAP.saturating_mul(u32::try_from(regions).unwrap_or(u32::MAX)));
    }

    /// Returns whether the client may be served.
    pub(super) fn may_be_served(&self, now: Instant) -> bool {
        self.debt_at(now) < AHEAD
    }

    fn debt_at(&self, now: Instant) -> Duration {
        self.debt.saturating_sub(now.saturating_duration_since(self.since) / PART)
    }

    fn pay(&mut self, now: Instant) {
        self.debt = self.debt_at(now);
        self.since = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_asks_without_end_gets_its_part_of_the_time() {
        let begin = Instant::now();
        let (mut share, mut now, mut had) = (TimeShare::new(begin), begin, Duration::ZERO);
        let step = Duration::from_millis(1);
        while now < begin + Duration::from_secs(10) {
            if share.may_be_served(now) {
                share.charge(now, step);
                had += step;
            }
            now += step;
        }
        assert!((Duration::from_secs(2)..Duration::from_millis(2200)).contains(&had), "{had:?}");
    }

    #[test]
    fn a_client_that_connects_anew_has_no_more_than_one_that_stays() {
        let begin = Instant::now();
        let (mut socket, mut now, mut had) = (TimeShare::new(begin), begin, Duration::ZERO);
        let step = Duration::from_millis(1);
        while now < begin + Duration::from_secs(10) {
            if socket.may_be_served(now) {
                let mut client = std::mem::replace(&mut socket, TimeShare::new(now));
                client.charge(now, step);
                had += step;
                socket.take_over(now, client);
            }
            now += step;
        }
        assert!((Duration::from_secs(2)..Duration::from_millis(2200)).contains(&had), "{had:?}");
    }

    #[test]
    fn a_client_that_took_very_long_is_served_again_within_a_second() {
        let begin = Instant::now();
        let mut share = TimeShare::new(begin);
        share.charge(begin, Duration::from_secs(100));
        assert!(!share.may_be_served(begin));
        assert!(share.may_be_served(begin + Duration::from_secs(1)));
    }

    #[test]
    fn a_client_that_begins_is_not_kept_waiting() {
        let begin = Instant::now();
        let mut share = TimeShare::new(begin);
        for _ in 0..1000 {
            assert!(share.may_be_served(begin));
            share.charge(begin, Duration::from_micros(40));
        }
        share.charge_unmapped(begin, 1000);
        assert!(!share.may_be_served(begin));
    }
}
