//! Transfers between poll groups and memory of a client's that came without a file.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::memory::GuestMemory;
use crate::queue::{Transfer, Work};
use crate::runtime::group::GroupHandle;

/// What was abandoned ends after this, whatever the client does: a reset waits for it.
const PATIENCE: Duration = Duration::from_millis(500);

/// The transfers of one client.
#[derive(Debug, Default)]
pub(super) struct Transfers {
    /// By the number that the wire knows the first part by. A transfer has a part for each of its pieces, numbered one after the
    /// other.
    jobs: BTreeMap<u64, Job>,
    next_part: u64,
}

#[derive(Debug)]
struct Job {
    id: u64,
    group: Arc<GroupHandle>,
    /// Held, so that the client does not get it back meanwhile.
    memory: Arc<GuestMemory>,
    parts: u64,
    /// Parts that have not ended.
    left: u64,
    /// What was read of each part.
    data: Vec<Vec<u8>>,
    errno: Option<i32>,
    abandoned: Option<Instant>,
}

impl Job {
    fn answer(self, session: u64) {
        let Self { id, data, errno, .. } = self;
        let result = errno.map_or(Ok(data), Err);
        self.group.send(move |group| group.transferred(session, id, result));
    }
}

impl Transfers {
    /// Begins a transfer for a poll group.
    pub(super) fn begin(&mut self, wire: &mut vfio_user::Session, group: Arc<GroupHandle>, transfer: Transfer) {
        let Transfer { id, memory, work } = transfer;
        let first = self.next_part;
        let mut data = Vec::new();
        match work {
            Work::Read(pieces) => {
                for (gpa, len) in pieces {
                    wire.dma_read(self.next_part, gpa, len);
                    self.next_part += 1;
                    data.push(Vec::new());
                }
            }
            Work::Write(pieces) => {
                for (gpa, bytes) in pieces {
                    wire.dma_write(self.next_part, gpa, bytes);
                    self.next_part += 1;
                }
            }
        }
        let parts = self.next_part - first;
        self.jobs.insert(first, Job { id, group, memory, parts, left: parts, data, errno: None, abandoned: None });
    }

    /// A part has ended. One of a transfer that was given up is ignored.
    pub(super) fn ended(&mut self, session: u64, part: u64, result: Result<Vec<u8>, i32>) {
        let Some((&first, job)) = self.jobs.range_mut(..=part).next_back() else { return };
        let index = part - first;
        if index >= job.parts {
            return;
        }
        match result {
            Ok(data) => {
                if let Some(place) = usize::try_from(index).ok().and_then(|index| job.data.get_mut(index)) {
                    *place = data;
                }
            }
            Err(errno) => job.errno = Some(errno),
        }
        job.left = job.left.saturating_sub(1);
        if job.left == 0
            && let Some(job) = self.jobs.remove(&first)
        {
            job.answer(session);
        }
    }

    /// Asks the client for no more of a transfer. It ends when what it was asked for is answered, or soon without.
    pub(super) fn abandon(&mut self, wire: &mut vfio_user::Session, id: u64) {
        let Some((first, job)) = self.jobs.iter_mut().find(|(_, job)| job.id == id) else { return };
        job.abandoned = Some(Instant::now());
        cancel(wire, *first, job);
    }

    /// Whether there are transfers to be given up if they do not end.
    pub(super) fn has_abandoned(&self) -> bool {
        self.jobs.values().any(|job| job.abandoned.is_some())
    }

    /// Gives up what was abandoned and has not ended.
    pub(super) fn give_up_abandoned(&mut self, session: u64, wire: &mut vfio_user::Session) {
        self.give_up(session, wire, |job| job.abandoned.is_some_and(|since| since.elapsed() > PATIENCE));
    }

    /// Gives up what touches memory that is not in `newest`.
    pub(super) fn give_up_strays(&mut self, session: u64, wire: &mut vfio_user::Session, newest: &GuestMemory) {
        self.give_up(session, wire, |job| !job.memory.still_bounces(newest));
    }

    fn give_up(&mut self, session: u64, wire: &mut vfio_user::Session, which: impl Fn(&Job) -> bool) {
        let given_up: Vec<u64> = self.jobs.iter().filter(|(_, job)| which(job)).map(|(first, _)| *first).collect();
        for first in given_up {
            let Some(mut job) = self.jobs.remove(&first) else { continue };
            cancel(wire, first, &job);
            job.errno = Some(libc::ECANCELED);
            job.answer(session);
        }
    }
}

fn cancel(wire: &mut vfio_user::Session, first: u64, job: &Job) {
    for part in first..first + job.parts {
        wire.dma_cancel(part);
    }
}
