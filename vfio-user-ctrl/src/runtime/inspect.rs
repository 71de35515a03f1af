//! What the queues of controllers hold, for `courier_controller_get`: the poll groups are asked by messages, one
//! controller after another. One that does not answer in time keeps nobody waiting: the answer names its core.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Value, json};
use spdk::Errno;
use spdk::poller::{Poll, Poller};
use spdk::rpc::{Request, RpcError};
use spdk::thread::AppCell;

use super::endpoint::Endpoint;
use super::messages::{GroupMessage, QueueStates};
use super::params::failed;
use nvme_device::queue::{CompletionState, LeftoverState, SubmissionState};

/// How long a poll group has to answer.
const LIMIT: Duration = Duration::from_secs(1);
/// How often it is looked whether one has not.
const PERIOD: Duration = Duration::from_millis(20);
/// The most queues that one answer tells of.
const MAX_QUEUES: usize = 2048;
/// The most answers that are in the making at once.
const MAX_INSPECTIONS: usize = 64;

/// A submission queue, where it is and how old its oldest command is.
#[derive(Debug, Serialize)]
struct Submission {
    core: u32,
    #[serde(flatten)]
    state: SubmissionState,
    oldest_age_ms: Option<u64>,
}

/// A completion queue, and where it is.
#[derive(Debug, Serialize)]
struct Completion {
    core: u32,
    #[serde(flatten)]
    state: CompletionState,
}

/// Commands of queues and sessions that are gone.
#[derive(Debug, Serialize)]
struct LeftoverCommands {
    core: u32,
    commands_in_flight: usize,
    oldest_age_ms: Option<u64>,
}

/// What the poll groups tell of a controller.
#[derive(Debug, Default, Serialize)]
pub(super) struct ControllerQueues {
    submission_queues: Vec<Submission>,
    completion_queues: Vec<Completion>,
    /// How many queues there are besides, for which there is no room.
    queues_left_out: usize,
    commands_left: Vec<LeftoverCommands>,
    unanswered_cores: BTreeSet<u32>,
}

impl ControllerQueues {
    fn count(&self) -> usize {
        self.submission_queues.len() + self.completion_queues.len()
    }

    /// Adds what a poll group tells, of no more than `room` queues.
    fn add(&mut self, states: QueueStates, room: usize) {
        let QueueStates { ctrl: _, core, now, submission, completion, left } = states;
        let queues = submission.len() + completion.len();
        let age = |oldest: Option<u64>| oldest.map(|oldest| millis(now.saturating_sub(oldest), spdk::time::ticks_hz()));
        let before = self.count();
        let submission = submission.into_iter().take(room);
        self.submission_queues.extend(submission.map(|state| Submission {
            core,
            state,
            oldest_age_ms: age(state.oldest),
        }));
        let room = room.saturating_sub(self.count() - before);
        self.completion_queues.extend(completion.into_iter().take(room).map(|state| Completion { core, state }));
        self.queues_left_out += queues.saturating_sub(self.count() - before);
        let LeftoverState { commands_in_flight, oldest } = left;
        if commands_in_flight > 0 {
            self.commands_left.push(LeftoverCommands { core, commands_in_flight, oldest_age_ms: age(oldest) });
        }
    }

    fn sort(&mut self) {
        self.submission_queues.sort_by_key(|queue| queue.state.qid);
        self.completion_queues.sort_by_key(|queue| queue.state.qid);
        self.commands_left.sort_by_key(|left| left.core);
    }
}

/// Ticks as milliseconds.
fn millis(ticks: u64, per_second: u64) -> u64 {
    let millis = u128::from(ticks) * 1000 / u128::from(per_second.max(1));
    u64::try_from(millis).unwrap_or(u64::MAX)
}

/// Whose answer is waited for.
#[derive(Debug)]
struct PendingReplies {
    /// Cores that were asked.
    asked: BTreeSet<u32>,
    /// Cores that did not answer in time, and are not asked again.
    silent: BTreeSet<u32>,
    due: Instant,
}

impl PendingReplies {
    /// Nobody is asked yet, and those that are `late` with an answer to somebody will not be.
    fn new(late: BTreeSet<u32>, now: Instant) -> Self {
        Self { asked: BTreeSet::new(), silent: late, due: now }
    }

    /// Cores are to be asked. Returns those that may answer.
    fn ask(&mut self, cores: impl Iterator<Item = u32>, now: Instant) -> Vec<u32> {
        self.asked = cores.filter(|core| !self.silent.contains(core)).collect();
        self.due = now + LIMIT;
        self.asked.iter().copied().collect()
    }

    /// A core has answered. Returns whether that was waited for.
    fn answer(&mut self, core: u32) -> bool {
        self.asked.remove(&core)
    }

    /// Returns whether nothing is waited for: each has answered, or has had its time. `late` learns of those.
    fn poll_over(&mut self, now: Instant, late: &mut BTreeSet<u32>) -> bool {
        if now >= self.due {
            late.extend(&self.asked);
            self.silent.append(&mut self.asked);
        }
        self.asked.is_empty()
    }
}

/// An answer in the making.
struct Inspection {
    request: Request,
    /// The controllers that have not been asked about, and the one that is being.
    next: VecDeque<Rc<Endpoint>>,
    current: Option<(Rc<Endpoint>, ControllerQueues)>,
    awaited: PendingReplies,
    /// How many queues may still be told of.
    room: usize,
    done: Vec<Value>,
}

#[derive(Default)]
struct Inspections {
    last: u64,
    open: BTreeMap<u64, Inspection>,
    /// Cores whose answer came to nobody yet: a reactor that does not run gets one question, not one for each RPC.
    late: BTreeSet<u32>,
    poller: Option<Poller>,
}

static INSPECTIONS: AppCell<Inspections> = AppCell::new(Inspections::default);

/// Answers with what there is to tell of controllers.
pub(super) fn answer(endpoints: Vec<Rc<Endpoint>>, request: Request) {
    let poller = match Poller::register("courier_inspect", PERIOD, check) {
        Ok(poller) => poller,
        Err(errno) => return request.fail(&failed(errno, format!("the poll groups cannot be asked: {errno}"))),
    };
    let id = INSPECTIONS.with(|inspections| {
        let mut inspections = inspections.borrow_mut();
        if inspections.open.len() >= MAX_INSPECTIONS {
            request
                .fail(&RpcError::failed(Errno::BUSY, format!("{MAX_INSPECTIONS} calls of this method wait already")));
            return None;
        }
        inspections.last += 1;
        let (id, awaited) = (inspections.last, PendingReplies::new(inspections.late.clone(), Instant::now()));
        let (next, done) = (endpoints.into(), Vec::new());
        inspections.open.insert(id, Inspection { request, next, current: None, awaited, room: MAX_QUEUES, done });
        inspections.poller = Some(poller);
        Some(id)
    });
    if let Some(id) = id {
        go_on(id);
    }
}

/// The application ends: who waits is told that there is no answer.
pub(super) fn end() {
    drop(INSPECTIONS.with(RefCell::take));
}

/// Looks whether answers are late.
fn check() -> Poll {
    let ids: Vec<u64> = INSPECTIONS.with(|inspections| inspections.borrow().open.keys().copied().collect());
    for id in ids {
        go_on(id);
    }
    INSPECTIONS.with(|inspections| {
        let mut inspections = inspections.borrow_mut();
        if inspections.open.is_empty() { inspections.poller.take() } else { None }
    });
    Poll::Idle
}

/// Goes on with an answer, if nothing is waited for.
fn go_on(id: u64) {
    let finished = INSPECTIONS.with(|inspections| {
        let inspections = &mut *inspections.borrow_mut();
        let inspection = inspections.open.get_mut(&id)?;
        while inspection.awaited.poll_over(Instant::now(), &mut inspections.late) {
            if let Some((endpoint, mut queues)) = inspection.current.take() {
                queues.sort();
                queues.unanswered_cores =
                    endpoint.cores().filter(|core| inspection.awaited.silent.contains(core)).collect();
                inspection.room = inspection.room.saturating_sub(queues.count());
                inspection.done.push(endpoint.describe_with(&queues));
            }
            let Some(endpoint) = inspection.next.pop_front() else { return inspections.open.remove(&id) };
            let cores = inspection.awaited.ask(endpoint.cores(), Instant::now());
            let ctrl = endpoint.id();
            endpoint.send_to(&cores, || GroupMessage::DescribeQueues { ctrl, inspection: id });
            inspection.current = Some((endpoint, ControllerQueues::default()));
        }
        None
    });
    if let Some(Inspection { request, done, .. }) = finished {
        request.reply(&done);
    }
}

/// A poll group has answered.
pub(super) fn answered(id: u64, states: QueueStates) {
    INSPECTIONS.with(|inspections| {
        let inspections = &mut *inspections.borrow_mut();
        inspections.late.remove(&states.core);
        let Some(inspection) = inspections.open.get_mut(&id) else { return };
        if let Some((endpoint, queues)) = inspection.current.as_mut()
            && endpoint.id() == states.ctrl
            && inspection.awaited.answer(states.core)
        {
            let room = inspection.room.saturating_sub(queues.count());
            queues.add(states, room);
        }
    });
    go_on(id);
}

impl Endpoint {
    /// Returns what there is to tell of it, with what its queues hold.
    pub(super) fn describe_with(&self, queues: &ControllerQueues) -> Value {
        let mut value = self.describe();
        if let (Some(all), Value::Object(more)) = (value.as_object_mut(), json!(queues)) {
            all.extend(more);
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nvme_device::queue::LeftoverState;

    fn submission(qid: u16, oldest: Option<u64>) -> SubmissionState {
        SubmissionState {
            qid,
            cqid: qid,
            size: 16,
            head: 0,
            tail: Some(1),
            commands_in_flight: 1,
            deferred: 0,
            fenced: 0,
            oldest,
        }
    }

    fn told(core: u32, count: u16) -> QueueStates {
        let submission = (1..=count).rev().map(|qid| submission(qid, None)).collect();
        QueueStates { ctrl: 1, core, now: 0, submission, completion: Vec::new(), left: LeftoverState::default() }
    }

    #[test]
    fn a_core_that_answers_nothing_is_named_when_its_time_is_over_and_not_asked_again() {
        let (start, mut late) = (Instant::now(), BTreeSet::new());
        let mut awaited = PendingReplies::new(late.clone(), start);
        assert_eq!(awaited.ask([0, 1].into_iter(), start), [0, 1]);
        assert!(awaited.answer(0) && !awaited.answer(0), "it answers once");
        assert!(!awaited.poll_over(start + LIMIT / 2, &mut late) && late.is_empty());
        assert!(awaited.poll_over(start + LIMIT, &mut late));
        assert_eq!((late, awaited.silent.clone()), (BTreeSet::from([1]), BTreeSet::from([1])));
        assert_eq!(awaited.ask([0, 1].into_iter(), start + LIMIT), [0], "for the next controller");
        assert!(!awaited.answer(1), "what comes late is of no use");
    }

    #[test]
    fn a_core_that_owes_an_answer_to_somebody_is_not_asked_meanwhile() {
        let start = Instant::now();
        let mut awaited = PendingReplies::new(BTreeSet::from([1]), start);
        assert!(awaited.ask([1].into_iter(), start).is_empty());
        assert!(awaited.poll_over(start, &mut BTreeSet::new()));
        assert_eq!(awaited.silent, BTreeSet::from([1]));
    }

    #[test]
    fn queues_for_which_there_is_no_room_are_counted() {
        let mut queues = ControllerQueues::default();
        queues.add(told(0, 3), 5);
        queues.add(told(1, 3), 2);
        queues.sort();
        assert_eq!((queues.count(), queues.queues_left_out), (5, 1));
        assert_eq!(queues.submission_queues.first().map(|queue| queue.state.qid), Some(1));
    }

    #[test]
    fn ages_are_told_in_milliseconds_whatever_the_clock_counts() {
        assert_eq!(millis(2_500_000_000, 1_000_000_000), 2_500);
        assert_eq!(millis(u64::MAX, 1), u64::MAX);
        assert_eq!(millis(1, 0), 1000);
    }
}
