//! How poll groups do what the admin worker has them do.

use crate::model::admin::CreateSq;
use crate::model::regs::Enable;
use crate::queue::{Backend, Queues, Settings};

use super::messages::{Answer, GroupRequest, QueuePlace, UnusableMemory};

impl GroupRequest {
    pub(super) fn create_sq(create: CreateSq, entries: u16) -> Self {
        Self::CreateSq { qid: create.qid, base: create.base, entries, cqid: create.cqid }
    }

    /// Returns whether a poll group that has no queues of the controller gets some by it.
    #[must_use]
    pub const fn begins_session(&self) -> bool {
        matches!(self, Self::CreateCq { .. })
    }

    /// Returns whether it is to be done with the newest guest memory, as the admin worker has seen it.
    #[must_use]
    pub const fn needs_newest_memory(&self) -> bool {
        matches!(self, Self::SetWriteCache { .. } | Self::TakeSettings)
    }

    /// Returns the answer of a poll group that has no queues of the controller.
    #[must_use]
    pub const fn answer_without_queues(&self) -> Answer {
        match self {
            Self::CreateCq { .. } | Self::CreateSq { .. } | Self::Abort { .. } => Answer::Failed,
            _ => Answer::Done,
        }
    }

    /// Does it. `answer` hears of the end, unless it is given back: then it is [`Answer::Done`] once the condition that
    /// comes with it holds.
    pub fn carry_out<B: Backend, A: FnOnce(Answer) + 'static>(
        self,
        queues: &Queues<B>,
        settings: Settings,
        answer: A,
    ) -> Option<(Condition, A)> {
        let condition = match self {
            Self::CreateCq { qid, base, entries, vector, write_cache } => {
                queues.set(settings);
                queues.set_write_cache(write_cache);
                queues.create_completion(qid, base, entries, vector);
                None
            }
            Self::CreateSq { qid, base, entries, cqid } => {
                let is_made = queues.create_submission(qid, base, entries, cqid);
                answer(if is_made { Answer::Done } else { Answer::Failed });
                return None;
            }
            Self::DeleteSq { qid } => {
                queues.delete_submission(qid);
                Some(Condition::Ended { qid })
            }
            Self::DeleteCq { qid } => {
                queues.delete_completion(qid);
                None
            }
            Self::Abort { sqid, cid } => {
                let then = |is_aborted| answer(if is_aborted { Answer::Done } else { Answer::Failed });
                queues.abort(sqid, cid, then);
                return None;
            }
            Self::SetWriteCache { on } => {
                queues.set_write_cache(on);
                None
            }
            Self::TakeSettings => {
                queues.set(settings);
                None
            }
            Self::Flush => {
                queues.flush();
                Some(Condition::Flushed)
            }
            Self::DeleteAll => {
                queues.delete_all();
                Some(Condition::Quiet)
            }
        };
        let Some(condition) = condition else {
            answer(Answer::Done);
            return None;
        };
        Some((condition, answer))
    }
}

/// When something that takes a moment is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// When all commands of a deleted submission queue have ended.
    Ended {
        /// Its identifier.
        qid: u16,
    },
    /// When no command of deleted queues is in flight.
    Quiet,
    /// When the caches are written back.
    Flushed,
}

impl Condition {
    /// Returns whether it is so by now. To be called until it is.
    #[must_use]
    pub fn holds<B: Backend>(self, queues: &Queues<B>) -> bool {
        match self {
            Self::Ended { qid } => queues.is_ended(qid),
            Self::Quiet => queues.is_quiet(),
            Self::Flushed => queues.poll_flushes(),
        }
    }
}

impl QueuePlace {
    /// Returns what is wrong with it, as far as the guest memory that `queues` have.
    ///
    /// # Errors
    /// Where it is, and why it cannot be used.
    pub fn check<B: Backend>(self, queues: &Queues<B>) -> Result<(), UnusableMemory> {
        let misplaced = |gpa| move |fault| UnusableMemory { gpa, fault };
        match self {
            Self::AdminQueues(Enable { asq, acq, asqs, acqs }) => {
                queues.check_submission_queue(asq, asqs).map_err(misplaced(asq))?;
                queues.check_completion_queue(acq, acqs).map_err(misplaced(acq))
            }
            Self::CompletionQueue { base, entries } => {
                queues.check_completion_queue(base, entries).map_err(misplaced(base))
            }
            Self::SubmissionQueue { base, entries } => {
                queues.check_submission_queue(base, entries).map_err(misplaced(base))
            }
            Self::ShadowDoorbells { shadow, event_idx } => {
                queues.check_shadow_doorbells(shadow).map_err(misplaced(shadow))?;
                queues.check_shadow_doorbells(event_idx).map_err(misplaced(event_idx))
            }
        }
    }
}
