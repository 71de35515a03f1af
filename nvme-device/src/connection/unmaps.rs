//! Memory that a client unmaps: it is answered when nobody touches the memory any more.

use std::time::{Duration, Instant};

/// I/O that touches memory which is to be unmapped is aborted if it has not ended after this.
const RELEASE_LIMIT: Duration = Duration::from_millis(500);

/// A client that waits for regions of its to be let go.
#[derive(Debug)]
struct Unmap<T, R> {
    token: T,
    regions: Vec<R>,
    /// Since when, or since what still touches it was last aborted.
    since: Instant,
}

/// The regions that a client has unmapped and that are still in use, each request with its token.
#[derive(Debug)]
pub(super) struct Unmaps<T, R>(Vec<Unmap<T, R>>);

/// What has come of a look at the regions.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Released<T> {
    /// The requests that are to be answered.
    pub(super) replies: Vec<T>,
    /// How many regions nobody holds any more.
    pub(super) regions: usize,
    /// Set if I/O that touches what is left is to be aborted.
    pub(super) is_overdue: bool,
}

impl<T, R> Default for Unmaps<T, R> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T, R> Unmaps<T, R> {
    /// The client has unmapped regions.
    pub(super) fn begin(&mut self, token: T, regions: Vec<R>, now: Instant) {
        self.0.push(Unmap { token, regions, since: now });
    }

    /// Returns whether a request waits.
    #[must_use]
    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Looks whether regions are in use: `release` keeps those that are not, and gives the others back.
    pub(super) fn release(&mut self, mut release: impl FnMut(Vec<R>) -> Vec<R>, now: Instant) -> Released<T> {
        let mut released = Released { replies: Vec::new(), regions: 0, is_overdue: false };
        for mut unmap in std::mem::take(&mut self.0) {
            let before = unmap.regions.len();
            unmap.regions = release(unmap.regions);
            released.regions += before.saturating_sub(unmap.regions.len());
            if unmap.regions.is_empty() {
                released.replies.push(unmap.token);
                continue;
            }
            if now.saturating_duration_since(unmap.since) > RELEASE_LIMIT {
                unmap.since = now;
                released.is_overdue = true;
            }
            self.0.push(unmap);
        }
        released
    }

    /// The client has gone. Returns the regions that are still in use.
    pub(super) fn into_regions(self) -> impl Iterator<Item = R> {
        self.0.into_iter().flat_map(|unmap| unmap.regions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Region numbers from `first` on are in use.
    fn in_use(first: u32) -> impl FnMut(Vec<u32>) -> Vec<u32> {
        move |regions| regions.into_iter().filter(|region| *region >= first).collect()
    }

    #[test]
    fn an_unmap_is_answered_when_none_of_its_regions_is_in_use() {
        let (mut unmaps, now) = (Unmaps::default(), Instant::now());
        unmaps.begin('a', vec![1, 2, 3], now);
        unmaps.begin('b', vec![0], now);
        let released = unmaps.release(in_use(2), now);
        assert_eq!(released, Released { replies: vec!['b'], regions: 2, is_overdue: false });
        let released = unmaps.release(in_use(9), now);
        assert_eq!(released, Released { replies: vec!['a'], regions: 2, is_overdue: false });
        assert!(unmaps.is_empty());
    }

    #[test]
    fn io_that_touches_memory_for_too_long_is_aborted_and_again_after_the_same_time() {
        let (mut unmaps, begin) = (Unmaps::default(), Instant::now());
        unmaps.begin('a', vec![1], begin);
        let step = Duration::from_millis(1);
        let mut overdue = Vec::new();
        for millis in 0..1200 {
            let now = begin + millis * step;
            if unmaps.release(in_use(0), now).is_overdue {
                overdue.push(now - begin);
            }
        }
        assert_eq!(overdue, [RELEASE_LIMIT + step, 2 * (RELEASE_LIMIT + step)]);
    }

    #[test]
    fn a_client_that_goes_leaves_the_regions_that_are_in_use() {
        let (mut unmaps, now) = (Unmaps::default(), Instant::now());
        unmaps.begin('a', vec![1, 2], now);
        unmaps.begin('b', vec![3], now);
        unmaps.release(in_use(2), now);
        assert_eq!(unmaps.into_regions().collect::<Vec<_>>(), [2, 3]);
    }
}
