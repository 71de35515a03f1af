//! How it is made sure that commands of a connection that was lost cannot be carried out any more.
//!
//! Commands that were in flight may lie anywhere between here and the pool's namespace: in a socket's buffer, in
//! something that relays the connection, in the pool itself. A connection that ended at this side is no proof that they
//! are gone. What counts as one:
//!
//! - No command was lost that may change what a namespace holds.
//! - The controller that they were sent to has been disabled over its own admin queue: CC.EN was cleared, and CSTS.RDY is 0. Then it has
//!   ended its commands, and takes none from its I/O queues (base specification 2.0, sections 3.5.3 and 3.7.2).
//! - The other side ended the connections of the admin queue and of every I/O queue that held such commands. That is how a pool's process
//!   ends. What is between might do the same, and still deliver; this is not believed of it. Over RDMA, retransmissions that ran out
//!   count as well: neither side of such a connection can use it any more, and the target cannot fetch data over it.
//! - The controller's keep-alive timer has run out twice since the admin queue was given up. A controller ends its association and
//!   all commands when it has heard nothing for the time (section 3.9), but targets look at that once in that time only.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nvme_spec::register::{Cc, Csts, Register};
use nvme_spec::{Cqe, Sqe};
use spdk::nvme::Ctrlr;
use spdk::thread::AppCell;

/// How often it is asked whether the controller has stopped.
const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// How long a controller that answers may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// The keep-alive time-out that counts where there is none.
pub(crate) const DEFAULT_KEEP_ALIVE: Duration = Duration::from_secs(10);

/// How it stands with commands that were lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum LostWrites {
    /// None that may write was.
    None,
    /// The other side ended the connection of each that may write.
    EndedByPeer,
    /// One that may write was on a connection that this side ended.
    Unfenced,
}

impl LostWrites {
    pub(crate) fn from_u8(lost_writes: u8) -> Self {
        match lost_writes {
            0 => Self::None,
            1 => Self::EndedByPeer,
            _ => Self::Unfenced,
        }
    }
}

/// Subsystems whose pools were deleted while what was lost may still be carried out, and until when.
static UNFENCED: AppCell<BTreeMap<String, Instant>> = AppCell::new(BTreeMap::new);

/// Takes note that a pool goes of whose subsystem commands may be carried out until then.
pub(crate) fn remember(subnqn: &str, until: Instant) {
    let now = Instant::now();
    UNFENCED.with(|unfenced| {
        let mut unfenced = unfenced.borrow_mut();
        unfenced.retain(|_, until| *until > now);
        let entry = unfenced.entry(subnqn.to_owned()).or_insert(until);
        *entry = until.max(*entry);
    });
}

/// Until when commands of a pool that is gone may be carried out on a subsystem.
pub(crate) fn unfenced_until(subnqn: &str) -> Option<Instant> {
    let until = UNFENCED.with(|unfenced: &RefCell<BTreeMap<String, Instant>>| unfenced.borrow().get(subnqn).copied());
    until.filter(|until| *until > Instant::now())
}

/// What came of an attempt to disable a controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is not over.
    Pending,
    /// The controller has stopped.
    Fenced,
    /// It cannot be disabled.
    Failed,
}

/// A command of the sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    ReadConfiguration,
    Disable(Cc),
    ReadStatus,
}

/// What follows an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Send(Step),
    Over(Outcome),
}

impl Step {
    fn sqe(self) -> Sqe {
        match self {
            Self::ReadConfiguration => Sqe::property_get(Register::CC),
            Self::Disable(cc) => Sqe::property_set(Register::CC, cc.into_bits()),
            Self::ReadStatus => Sqe::property_get(Register::CSTS),
        }
    }

    /// Returns what follows the answer, whose value is `None` if it was an error.
    fn answered(self, value: Option<u32>) -> Next {
        match (self, value) {
            (_, None) => Next::Over(Outcome::Failed),
            (Self::ReadConfiguration, Some(cc)) if Cc::from_bits(cc).en() => {
                Next::Send(Self::Disable(Cc::from_bits(cc).with_en(false)))
            }
            (Self::ReadStatus, Some(csts)) if !Csts::from_bits(csts).rdy() => Next::Over(Outcome::Fenced),
            _ => Next::Send(Self::ReadStatus),
        }
    }
}

/// Disables a controller over its admin queue.
#[derive(Debug)]
pub(crate) struct Fence {
    step: Step,
    sent: bool,
    answer: Arc<Mutex<Option<Cqe>>>,
    /// When the next command may be sent.
    next: Instant,
    /// When it is given up unless there is an answer before.
    due: Instant,
    answer_limit: Duration,
    give_up: Instant,
}

impl Fence {
    /// Gives up when the controller answers nothing for `answer_limit`.
    pub(crate) fn new(now: Instant, answer_limit: Duration) -> Self {
        Self {
            step: Step::ReadConfiguration,
            sent: false,
            answer: Arc::default(),
            next: now,
            due: now + answer_limit,
            answer_limit,
            give_up: now + STOP_LIMIT.max(answer_limit),
        }
    }

    /// Goes on. The admin queue has to be polled beside this.
    pub(crate) fn poll(&mut self, ctrlr: &Ctrlr, now: Instant) -> Outcome {
        let answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Cqe { dw0, status, .. }) = answer {
            self.sent = false;
            self.due = now + self.answer_limit;
            match self.step.answered(status.is_success().then_some(dw0)) {
                Next::Over(outcome) => return outcome,
                Next::Send(step) => {
                    self.next = if step == self.step { now + POLL_INTERVAL } else { now };
                    self.step = step;
                }
            }
        }
        if now >= self.due || now >= self.give_up {
            return Outcome::Failed;
        }
        if !self.sent && now >= self.next {
            let answer = Arc::clone(&self.answer);
            let done = move |completion| {
                answer.lock().unwrap_or_else(PoisonError::into_inner).replace(completion);
            };
            if ctrlr.admin_without_data(&self.step.sqe(), done).is_err() {
                return Outcome::Failed;
            }
            self.sent = true;
        }
        Outcome::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a host leaves in CC when it disables a controller.
    const DISABLED: Cc = Cc::new().with_iosqes(Sqe::SIZE_LOG2).with_iocqes(Cqe::SIZE_LOG2);

    #[test]
    fn a_controller_is_fenced_when_it_was_disabled_and_is_not_ready_any_more() {
        let (enabled, ready) = (DISABLED.with_en(true).into_bits(), Csts::new().with_rdy(true).into_bits());
        assert_eq!(Step::ReadConfiguration.answered(Some(enabled)), Next::Send(Step::Disable(DISABLED)));
        assert_eq!(Step::Disable(DISABLED).answered(Some(0)), Next::Send(Step::ReadStatus));
        assert_eq!(Step::ReadStatus.answered(Some(ready)), Next::Send(Step::ReadStatus));
        assert_eq!(Step::ReadStatus.answered(Some(0)), Next::Over(Outcome::Fenced));
    }

    #[test]
    fn a_controller_that_was_disabled_before_is_only_asked_whether_it_has_stopped() {
        assert_eq!(Step::ReadConfiguration.answered(Some(DISABLED.into_bits())), Next::Send(Step::ReadStatus));
    }

    #[test]
    fn an_error_is_no_proof() {
        for step in [Step::ReadConfiguration, Step::Disable(DISABLED), Step::ReadStatus] {
            assert_eq!(step.answered(None), Next::Over(Outcome::Failed));
        }
    }

    #[test]
    fn of_two_states_of_lost_writes_the_worse_counts() {
        assert!(LostWrites::None < LostWrites::EndedByPeer && LostWrites::EndedByPeer < LostWrites::Unfenced);
        assert_eq!(
            [0, 1, 2].map(LostWrites::from_u8),
            [LostWrites::None, LostWrites::EndedByPeer, LostWrites::Unfenced]
        );
    }
}
