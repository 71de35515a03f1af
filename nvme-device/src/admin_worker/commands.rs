//! Admin commands: from the admin queue to the model, and what the model asks for from there.

use std::time::Duration;

use super::messages::{AdminCommand, Answer, GroupRequest, Output, QueuePlace, Report, Ticket, UnusableMemory};
use super::{AdminWorker, WorkerState};
use crate::model::admin::{CreateCq, CreateSq, Outcome, PendingFeature, QueueId};
use crate::queue::{Coalescing, Settings};
use nvme_spec::{Sqe, Status};

/// An admin command that waits for an answer.
#[derive(Debug)]
pub(super) struct CommandInFlight {
    cid: u16,
    step: CommandStep,
    /// So many answers are missing.
    left: usize,
}

/// What an admin command waits for.
#[derive(Debug)]
enum CommandStep {
    /// The memory of a queue is looked at.
    CheckCq(CreateCq),
    CheckSq(CreateSq),
    /// A poll group makes or deletes a queue.
    Create(QueueId),
    Delete(QueueId),
    /// A poll group aborts a command.
    Abort,
    /// The memory of shadow doorbells is looked at.
    CheckShadows {
        shadow: u64,
        event_idx: u64,
    },
    /// All poll groups take what the host has set.
    Set,
    /// The command's data goes to the host.
    Write {
        dw0: u32,
    },
    /// It comes from the host.
    Read {
        sqe: Sqe,
        pending: PendingFeature,
    },
}

impl AdminWorker {
    pub(super) fn command(&mut self, command: &AdminCommand, now: Duration) {
        if !matches!(self.state, WorkerState::Enabled) {
            return;
        }
        self.model.set_entry_sizes(command.entry_sizes.iosqes, command.entry_sizes.iocqes);
        self.model.set_pin_in_use(command.pin_in_use);
        if let Some(totals) = command.io_totals {
            self.model.count_io(totals);
        }
        let outcome = self.model.admin(&command.sqe, now);
        // A request that this command aborts is completed before it.
        self.put(Output::CompleteEvents);
        self.carry_out(&command.sqe, outcome);
    }

    fn carry_out(&mut self, sqe: &Sqe, outcome: Outcome) {
        let cid = sqe.cid;
        match outcome {
            Outcome::Done { dw0, status } => self.complete(cid, dw0, status),
            Outcome::Data { data, dw0 } => {
                let ticket = self.begin_transfer(cid, CommandStep::Write { dw0 });
                self.put(Output::WriteData { ticket, sqe: *sqe, data });
            }
            Outcome::Need { len, pending } => {
                let ticket = self.begin_transfer(cid, CommandStep::Read { sqe: *sqe, pending });
                self.put(Output::ReadData { ticket, sqe: *sqe, len });
            }
            Outcome::Held => self.put(Output::Hold),
            Outcome::CreateCq(create) => self.check_completion(cid, create),
            Outcome::CreateSq(create) => self.check_submission(cid, create),
            Outcome::DeleteSq { qid } => self.delete_submission(cid, qid),
            Outcome::DeleteCq { qid } => self.delete_completion(cid, qid),
            Outcome::Abort { sqid, cid: target } => self.abort(cid, sqid, target),
            Outcome::WriteCache { on } => {
                let ticket = self.begin(cid, CommandStep::Set, self.placement.groups);
                self.send_to_all(ticket, GroupRequest::SetWriteCache { on });
            }
            Outcome::DoorbellBuffers { shadow, event_idx } => {
                let ticket = self.begin(cid, CommandStep::CheckShadows { shadow, event_idx }, 1);
                self.put(Output::Check(ticket, QueuePlace::ShadowDoorbells { shadow, event_idx }));
            }
        }
    }

    /// A command waits for so many answers.
    fn begin(&mut self, cid: u16, step: CommandStep, left: usize) -> Ticket {
        let ticket = self.ticket();
        self.in_flight.insert(ticket, CommandInFlight { cid, step, left });
        ticket
    }

    /// A command's data is on its way. Until it has come no other command is taken: what waits for a client is bounded.
    fn begin_transfer(&mut self, cid: u16, step: CommandStep) -> Ticket {
        let ticket = self.begin(cid, step, 1);
        self.transfer = Some(ticket);
        ticket
    }

    fn complete(&mut self, cid: u16, dw0: u32, status: Status) {
        self.put(Output::Complete { cid, dw0, status });
    }

    /// An answer has come. One that nobody waits for is of an enable cycle that is over.
    pub(super) fn answered(&mut self, ticket: Ticket, answer: Answer, now: Duration) {
        match self.state {
            WorkerState::Stopping { ticket: stop, left, then } if stop == ticket => {
                return self.group_stopped(ticket, left, then);
            }
            WorkerState::Enabling { enable, since, check } if check == Some(ticket) => {
                return self.admin_queues_checked(enable, since, &answer, now);
            }
            _ if self.flush == Some(ticket) => return self.flushed(),
            _ => {}
        }
        let Some(command) = self.in_flight.get_mut(&ticket) else { return };
        if command.left > 1 {
            command.left -= 1;
            return;
        }
        if self.transfer == Some(ticket) {
            self.transfer = None;
        }
        if let Some(command) = self.in_flight.remove(&ticket) {
            self.go_on(command.cid, command.step, answer, now);
        }
    }

    /// What a command waited for is there.
    fn go_on(&mut self, cid: u16, step: CommandStep, answer: Answer, now: Duration) {
        match (step, answer) {
            (CommandStep::CheckCq(create), Answer::Checked(result)) => match result {
                Ok(()) => self.create_completion(cid, create),
                Err(misplaced) => self.refuse_place(cid, QueueId::Cq(create.qid), misplaced),
            },
            (CommandStep::CheckSq(create), Answer::Checked(result)) => match result {
                Ok(()) => self.create_submission(cid, create),
                Err(misplaced) => self.refuse_place(cid, QueueId::Sq(create.qid), misplaced),
            },
            (CommandStep::Create(queue), Answer::Done) => {
                self.model.queue_created(queue);
                self.complete(cid, 0, Status::SUCCESS);
            }
            (CommandStep::Create(queue), _) => {
                self.forget_queue(queue);
                self.refuse_queue(cid, queue, Status::COMPLETION_QUEUE_INVALID);
            }
            (CommandStep::Delete(queue), _) => {
                self.model.queue_deleted(queue);
                self.complete(cid, 0, Status::SUCCESS);
            }
            (CommandStep::Abort, answer) => {
                self.model.abort_ended();
                // Bit 0 tells that the command was not aborted (section 5.1).
                self.complete(cid, u32::from(answer != Answer::Done), Status::SUCCESS);
            }
            (CommandStep::CheckShadows { shadow, event_idx }, Answer::Checked(Ok(()))) => {
                self.use_shadow_doorbells(cid, shadow, event_idx);
            }
            (CommandStep::CheckShadows { .. }, _) => self.complete(cid, 0, Status::INVALID_FIELD),
            (CommandStep::Set, _) => self.complete(cid, 0, Status::SUCCESS),
            (CommandStep::Write { dw0 }, Answer::Written(Ok(()))) => self.complete(cid, dw0, Status::SUCCESS),
            (CommandStep::Read { sqe, pending }, Answer::Read(Ok(data))) => {
                let outcome = self.model.supply(pending, &data, now);
                self.carry_out(&sqe, outcome);
            }
            (_, Answer::Written(Err(status)) | Answer::Read(Err(status))) => self.complete(cid, 0, status),
            (CommandStep::CheckCq(create), _) => {
                self.refuse_queue(cid, QueueId::Cq(create.qid), Status::INTERNAL_ERROR);
            }
            (CommandStep::CheckSq(create), _) => {
                self.refuse_queue(cid, QueueId::Sq(create.qid), Status::INTERNAL_ERROR);
            }
            (CommandStep::Write { .. } | CommandStep::Read { .. }, _) => self.complete(cid, 0, Status::INTERNAL_ERROR),
        }
    }

    fn check_completion(&mut self, cid: u16, create: CreateCq) {
        match u16::try_from(create.entries) {
            Ok(entries) => {
                let ticket = self.begin(cid, CommandStep::CheckCq(create), 1);
                self.put(Output::Check(ticket, QueuePlace::CompletionQueue { base: create.base, entries }));
            }
            Err(_) => self.refuse_queue(cid, QueueId::Cq(create.qid), Status::INVALID_QUEUE_SIZE),
        }
    }

    fn check_submission(&mut self, cid: u16, create: CreateSq) {
        match u16::try_from(create.entries) {
            Ok(entries) => {
                let ticket = self.begin(cid, CommandStep::CheckSq(create), 1);
                self.put(Output::Check(ticket, QueuePlace::SubmissionQueue { base: create.base, entries }));
            }
            Err(_) => self.refuse_queue(cid, QueueId::Sq(create.qid), Status::INVALID_QUEUE_SIZE),
        }
    }

    /// The memory of a completion queue is good: a poll group makes it.
    fn create_completion(&mut self, cid: u16, create: CreateCq) {
        let queue = QueueId::Cq(create.qid);
        let (Some(group), Ok(entries)) = (self.place(create.qid), u16::try_from(create.entries)) else {
            return self.refuse_queue(cid, queue, Status::INVALID_QUEUE_SIZE);
        };
        self.completion.insert(create.qid, group);
        self.put(Output::ClearDoorbell(queue));
        let request = GroupRequest::CreateCq {
            qid: create.qid,
            base: create.base,
            entries,
            vector: create.interrupts.then_some(create.vector),
            write_cache: self.model.volatile_write_cache(),
        };
        self.send(group, cid, CommandStep::Create(queue), request);
    }

    /// The memory of a submission queue is good: the poll group of its completion queue makes it.
    fn create_submission(&mut self, cid: u16, create: CreateSq) {
        let queue = QueueId::Sq(create.qid);
        let group = self.completion.get(&create.cqid).copied();
        let (Some(group), Ok(entries)) = (group, u16::try_from(create.entries)) else {
            return self.refuse_queue(cid, queue, Status::COMPLETION_QUEUE_INVALID);
        };
        self.submission.insert(create.qid, group);
        self.put(Output::ClearDoorbell(queue));
        self.send(group, cid, CommandStep::Create(queue), GroupRequest::create_sq(create, entries));
    }

    fn send(&mut self, group: usize, cid: u16, step: CommandStep, request: GroupRequest) {
        let ticket = self.begin(cid, step, 1);
        self.put(Output::Send { group, ticket, request });
    }

    /// Returns the poll group for a completion queue: the worker's own for the first, then the next ones around.
    fn place(&self, cqid: u16) -> Option<usize> {
        Some((self.placement.own + usize::from(cqid).checked_sub(1)?) % self.placement.groups)
    }

    fn refuse_place(&mut self, cid: u16, queue: QueueId, misplaced: UnusableMemory) {
        self.put(Output::Report(Report::Queue(queue, misplaced)));
        self.refuse_queue(cid, queue, Status::INVALID_FIELD);
    }

    fn refuse_queue(&mut self, cid: u16, queue: QueueId, status: Status) {
        self.model.queue_creation_failed(queue);
        self.complete(cid, 0, status);
    }

    fn forget_queue(&mut self, queue: QueueId) {
        match queue {
            QueueId::Cq(qid) => self.completion.remove(&qid),
            QueueId::Sq(qid) => self.submission.remove(&qid),
        };
    }

    fn delete_submission(&mut self, cid: u16, qid: u16) {
        match self.submission.remove(&qid) {
            Some(group) => self.send(group, cid, CommandStep::Delete(QueueId::Sq(qid)), GroupRequest::DeleteSq { qid }),
            None => self.complete(cid, 0, Status::INVALID_QUEUE_IDENTIFIER),
        }
    }

    fn delete_completion(&mut self, cid: u16, qid: u16) {
        match self.completion.remove(&qid) {
            Some(group) => self.send(group, cid, CommandStep::Delete(QueueId::Cq(qid)), GroupRequest::DeleteCq { qid }),
            None => self.complete(cid, 0, Status::INVALID_QUEUE_IDENTIFIER),
        }
    }

    fn abort(&mut self, cid: u16, sqid: u16, target: u16) {
        let Some(group) = self.submission.get(&sqid).copied() else {
            self.model.abort_ended();
            return self.complete(cid, 1, Status::SUCCESS);
        };
        self.send(group, cid, CommandStep::Abort, GroupRequest::Abort { sqid, cid: target });
    }

    /// Shadow doorbells begin with what the doorbells hold, so that queues that are there already go on. The command is
    /// completed when every poll group uses them: from then on the host writes them, and nobody else may.
    fn use_shadow_doorbells(&mut self, cid: u16, shadow: u64, event_idx: u64) {
        self.settings.shadow = Some((shadow, event_idx));
        // For poll groups that get queues later, too.
        self.put(Output::StoreSettings(self.settings.clone()));
        let ticket = self.begin(cid, CommandStep::Set, self.placement.groups);
        self.send_to_all(ticket, GroupRequest::TakeSettings);
    }

    /// Tells the poll groups of interrupt coalescing when the guest has changed it.
    pub(super) fn publish_settings(&mut self) {
        if !matches!(self.state, WorkerState::Enabled) {
            return;
        }
        let coalescing = self.model.coalescing();
        let micros = u64::try_from(coalescing.time.as_micros()).unwrap_or(u64::MAX);
        let ticks = micros.saturating_mul(self.placement.ticks_per_us);
        let vectors = self.model.limits().max_queues;
        let at_once = (0..=vectors).filter(|vector| !self.model.coalesces(*vector)).collect();
        let coalescing = Coalescing { entries: coalescing.entries, ticks };
        let settings = Settings { shadow: self.settings.shadow, coalescing, at_once };
        if settings != self.settings {
            self.settings = settings.clone();
            self.put(Output::PublishSettings(settings));
        }
    }
}
