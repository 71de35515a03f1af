//! Data of a client's memory that came without a file, asked for in parts: what belongs to which transfer, and when
//! that is over.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::queue::{DmaOperation, Transfer};
use guest_memory::GuestMemory;

/// What was cancelled ends after this, whatever the client does: a reset waits for it.
const CANCEL_LIMIT: Duration = Duration::from_millis(500);

/// The transfers of one client, each for some `G` that hears of its end.
#[derive(Debug)]
pub struct Transfers<G> {
    /// By the number of the first part. A transfer has a part for each of its pieces, numbered one after the other.
    jobs: BTreeMap<u64, Job<G>>,
    next_part: u64,
}

#[derive(Debug)]
struct Job<G> {
    id: u64,
    group: G,
    /// Held, so that the client does not get it back meanwhile.
    memory: Arc<GuestMemory>,
    /// Which parts have not ended, and what was read of each.
    parts: Vec<PartState>,
    errno: Option<i32>,
    cancelled: Option<Instant>,
}

#[derive(Debug)]
enum PartState {
    Asked,
    Ended(Vec<u8>),
}

/// What the client is to be asked for.
#[derive(Debug, PartialEq, Eq)]
pub enum Ask {
    /// So many bytes of its memory.
    Read {
        /// The number of the part.
        part: u64,
        /// Where they are.
        gpa: u64,
        /// How many.
        len: u32,
    },
    /// That it puts these bytes into its memory.
    Write {
        /// The number of the part.
        part: u64,
        /// Where to.
        gpa: u64,
        /// What.
        bytes: Vec<u8>,
    },
}

/// A transfer that is over.
#[derive(Debug, PartialEq, Eq)]
pub struct Ended<G> {
    /// Who is to hear of it.
    pub group: G,
    /// Its number there.
    pub id: u64,
    /// What was read of each piece, or the error.
    pub result: Result<Vec<Vec<u8>>, i32>,
}

/// A transfer that is over before all of its parts have ended.
#[derive(Debug, PartialEq, Eq)]
pub struct GivenUp<G> {
    /// The parts that the client is not to be asked for any more.
    pub parts: Range<u64>,
    /// The transfer.
    pub ended: Ended<G>,
}

impl<G> Default for Transfers<G> {
    fn default() -> Self {
        Self { jobs: BTreeMap::new(), next_part: 0 }
    }
}

impl<G> Job<G> {
    fn end(self) -> Ended<G> {
        let data = self.parts.into_iter().map(|part| match part {
            PartState::Asked => Vec::new(),
            PartState::Ended(data) => data,
        });
        Ended { group: self.group, id: self.id, result: self.errno.map_or_else(|| Ok(data.collect()), Err) }
    }

    fn parts(&self, first: u64) -> Range<u64> {
        first..first.saturating_add(self.parts.len() as u64)
    }
}

impl<G> Transfers<G> {
    /// Begins a transfer of at least one piece. Returns what the client is to be asked for.
    pub fn begin(&mut self, group: G, transfer: Transfer) -> Vec<Ask> {
        let Transfer { id, memory, operation } = transfer;
        let first = self.next_part;
        let numbers = first..;
        let asks: Vec<Ask> = match operation {
            DmaOperation::Read(pieces) => {
                numbers.zip(pieces).map(|(part, (gpa, len))| Ask::Read { part, gpa, len }).collect()
            }
            DmaOperation::Write(pieces) => {
                numbers.zip(pieces).map(|(part, (gpa, bytes))| Ask::Write { part, gpa, bytes }).collect()
            }
        };
        self.next_part = first.saturating_add(asks.len() as u64);
        let parts = asks.iter().map(|_| PartState::Asked).collect();
        self.jobs.insert(first, Job { id, group, memory, parts, errno: None, cancelled: None });
        asks
    }

    /// A part has ended: returns the transfer if that was its last one. A part of a transfer that was given up, or that
    /// has ended before, is ignored.
    pub fn part_ended(&mut self, part: u64, result: Result<Vec<u8>, i32>) -> Option<Ended<G>> {
        let (&first, job) = self.jobs.range_mut(..=part).next_back()?;
        let place = job.parts.get_mut(usize::try_from(part.checked_sub(first)?).ok()?)?;
        if matches!(place, PartState::Ended(_)) {
            return None;
        }
        *place = PartState::Ended(result.unwrap_or_else(|errno| {
            job.errno = Some(errno);
            Vec::new()
        }));
        if job.parts.iter().any(|part| matches!(part, PartState::Asked)) {
            return None;
        }
        self.jobs.remove(&first).map(Job::end)
    }

    /// Nobody waits for a transfer any more. It ends when what the client was asked for is answered, or soon without.
    /// Returns the parts that the client is not to be asked for any more.
    pub fn cancel(&mut self, id: u64, now: Instant) -> Range<u64> {
        let Some((first, job)) = self.jobs.iter_mut().find(|(_, job)| job.id == id) else { return 0..0 };
        job.cancelled.get_or_insert(now);
        job.parts(*first)
    }

    /// Returns whether there are transfers to be given up if they do not end.
    #[must_use]
    pub fn has_cancelled(&self) -> bool {
        self.jobs.values().any(|job| job.cancelled.is_some())
    }

    /// Gives up what was cancelled and has not ended for long.
    pub fn give_up_cancelled(&mut self, now: Instant) -> Vec<GivenUp<G>> {
        let is_late = |since: Instant| now.saturating_duration_since(since) > CANCEL_LIMIT;
        self.give_up(|job| job.cancelled.is_some_and(is_late))
    }

    /// Gives up what touches memory that is not in `newest`.
    pub fn give_up_unmapped(&mut self, newest: &GuestMemory) -> Vec<GivenUp<G>> {
        self.give_up(|job| !job.memory.still_bounces(newest))
    }

    fn give_up(&mut self, which: impl Fn(&Job<G>) -> bool) -> Vec<GivenUp<G>> {
        let numbers: Vec<u64> = self.jobs.iter().filter(|(_, job)| which(job)).map(|(first, _)| *first).collect();
        let jobs = numbers.into_iter().filter_map(|first| Some((first, self.jobs.remove(&first)?)));
        jobs.map(|(first, mut job)| {
            job.errno = Some(libc::ECANCELED);
            GivenUp { parts: job.parts(first), ended: job.end() }
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use guest_memory::{Access, Bounce, BounceBudget, Region};

    const PAGE: u64 = 4096;

    fn transfer(id: u64, operation: DmaOperation) -> Transfer {
        Transfer { id, memory: Arc::new(GuestMemory::new()), operation }
    }

    fn read(id: u64, pieces: &[(u64, u32)]) -> Transfer {
        transfer(id, DmaOperation::Read(pieces.to_vec()))
    }

    #[test]
    fn a_transfer_is_over_when_all_of_its_parts_are_in_whatever_order_they_come() {
        let mut transfers = Transfers::default();
        let asks = transfers.begin('g', read(7, &[(PAGE, 2), (2 * PAGE, 3)]));
        assert_eq!(asks, [Ask::Read { part: 0, gpa: PAGE, len: 2 }, Ask::Read { part: 1, gpa: 2 * PAGE, len: 3 }]);
        assert_eq!(transfers.part_ended(1, Ok(vec![2; 3])), None);
        let ended = Ended { group: 'g', id: 7, result: Ok(vec![vec![1; 2], vec![2; 3]]) };
        assert_eq!(transfers.part_ended(0, Ok(vec![1; 2])), Some(ended));
        assert_eq!(transfers.part_ended(0, Ok(vec![1; 2])), None, "it is over once");
    }

    #[test]
    fn parts_belong_to_their_transfers() {
        let mut transfers = Transfers::default();
        transfers.begin('a', read(1, &[(0, 1), (PAGE, 1)]));
        let asks = transfers.begin('b', transfer(2, DmaOperation::Write(vec![(PAGE, vec![9])])));
        assert_eq!(asks, [Ask::Write { part: 2, gpa: PAGE, bytes: vec![9] }]);
        let ended = transfers.part_ended(2, Ok(Vec::new())).expect("it was the only part");
        assert_eq!((ended.group, ended.id), ('b', 2));
        for part in [2, 3, u64::MAX] {
            assert_eq!(transfers.part_ended(part, Ok(Vec::new())), None);
        }
    }

    #[test]
    fn a_part_that_is_answered_twice_does_not_stand_for_another() {
        let mut transfers = Transfers::default();
        transfers.begin('a', read(1, &[(0, 1), (PAGE, 1)]));
        assert_eq!(transfers.part_ended(0, Ok(vec![1])), None);
        assert_eq!(transfers.part_ended(0, Ok(vec![2])), None);
        let ended = transfers.part_ended(1, Ok(vec![3])).expect("the last part");
        assert_eq!(ended.result, Ok(vec![vec![1], vec![3]]));
    }

    #[test]
    fn a_transfer_of_which_a_part_failed_has_failed_when_the_others_have_ended() {
        let mut transfers = Transfers::default();
        transfers.begin('a', read(1, &[(0, 1), (PAGE, 1)]));
        assert_eq!(transfers.part_ended(0, Err(libc::EFAULT)), None);
        let ended = transfers.part_ended(1, Ok(vec![3])).expect("the last part");
        assert_eq!(ended.result, Err(libc::EFAULT));
    }

    #[test]
    fn a_cancelled_transfer_ends_by_its_answer_or_soon_without() {
        let (mut transfers, now) = (Transfers::default(), Instant::now());
        for id in 0..2 {
            transfers.begin('a', read(id, &[(0, 1)]));
            assert_eq!(transfers.cancel(id, now), id..id + 1);
        }
        assert_eq!(transfers.cancel(9, now), 0..0, "there is no such transfer");
        assert!(transfers.part_ended(0, Err(libc::ECANCELED)).is_some());
        assert!(transfers.give_up_cancelled(now + CANCEL_LIMIT).is_empty());
        // That it is cancelled again does not put its end off.
        transfers.cancel(1, now + CANCEL_LIMIT);
        let ended = Ended { group: 'a', id: 1, result: Err(libc::ECANCELED) };
        let given_up = transfers.give_up_cancelled(now + CANCEL_LIMIT + Duration::from_millis(1));
        assert_eq!(given_up, [GivenUp { parts: 1..2, ended }]);
        assert!(!transfers.has_cancelled());
        assert_eq!(transfers.part_ended(1, Ok(vec![1])), None, "its answer is ignored");
    }

    #[test]
    fn transfers_with_memory_that_the_client_unmaps_are_given_up_and_others_are_not() {
        let region = |gpa| Arc::new(Region::without_file(gpa, PAGE, Access::ReadWrite, |_| {}).expect("a region"));
        let all = GuestMemory::new().with(region(0)).and_then(|memory| memory.with(region(PAGE))).expect("room");
        let (newest, _) = all.without(0, PAGE).expect("it is there");
        let budget = BounceBudget::new(2 * PAGE);
        let mut transfers = Transfers::default();
        for (id, gpa) in [(1, 0), (2, PAGE)] {
            let memory = Bounce::new(&all, &[(gpa, 1)], false, &budget).expect("room").memory();
            transfers.begin('a', Transfer { id, memory, operation: DmaOperation::Read(vec![(gpa, 1)]) });
        }
        let given_up = transfers.give_up_unmapped(&newest);
        assert_eq!(given_up.iter().map(|given_up| given_up.ended.id).collect::<Vec<_>>(), [1]);
        assert!(!transfers.has_cancelled() && transfers.part_ended(1, Ok(vec![1])).is_some());
    }
}
