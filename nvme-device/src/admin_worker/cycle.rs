//! Enable cycles: enable, disable, failure, reset, shutdown.

use std::time::Duration;

use super::messages::{Answer, GroupRequest, Output, QueuePlace, Report, Ticket, UnusableMemory};
use super::requests::Request;
use super::{AdminWorker, AfterStop, FLUSH_TIME, MAPPING_TIME, WorkerState};
use crate::model::regs::Enable;
use crate::queue::Settings;
use guest_memory::Fault;

impl AdminWorker {
    /// The client is gone. What it had asked for ends here, so that the next one finds the controller at once.
    pub(super) fn detach(&mut self) {
        if matches!(self.state, WorkerState::Detached) {
            return;
        }
        if let WorkerState::Stopping { then: AfterStop::Reset(Some(number)), .. } = self.state {
            self.put(Output::ResetOver { number });
        }
        self.end_cycle();
        self.settings = Settings::default();
        self.state = WorkerState::Detached;
    }

    pub(super) fn request(&mut self, request: Request, now: Duration) {
        if !self.wants_request() {
            return;
        }
        match request {
            Request::Enable(enable) => self.enable(enable, now),
            Request::Shutdown => self.shut_down(now),
            Request::Disable => self.stop(AfterStop::Reset(None)),
            Request::Fail => self.stop(AfterStop::Failed),
            Request::Reset { number } => self.stop(AfterStop::Reset(Some(number))),
        }
    }

    /// The host has enabled the controller. Its admin queues must be in memory that is mapped, with a file. Memory that
    /// is not mapped is waited for: a VMM that rearranges its memory takes regions away for a moment.
    fn enable(&mut self, enable: Enable, now: Duration) {
        if matches!(self.state, WorkerState::Enabled) {
            // Whoever enables a controller anew has disabled it before.
            return;
        }
        // A shutdown of the cycle before is none of this one's.
        self.flush = None;
        self.shutdown = None;
        self.look_for_admin_queues(enable, now);
    }

    fn look_for_admin_queues(&mut self, enable: Enable, since: Duration) {
        let ticket = self.ticket();
        self.state = WorkerState::Enabling { enable, since, check: Some(ticket) };
        self.put(Output::Check(ticket, QueuePlace::AdminQueues(enable)));
    }

    /// The memory of the admin queues was looked for.
    pub(super) fn admin_queues_checked(&mut self, enable: Enable, since: Duration, answer: &Answer, now: Duration) {
        let result = match *answer {
            Answer::Checked(result) => result,
            _ => Err(UnusableMemory { gpa: enable.asq, fault: Fault::Unmapped }),
        };
        match result {
            Ok(()) => {
                self.model.enable(now);
                self.state = WorkerState::Enabled;
                self.put(Output::CreateAdminQueues(enable));
                self.put(Output::SetReady);
            }
            Err(UnusableMemory { fault: Fault::Unmapped, .. }) if now.saturating_sub(since) < MAPPING_TIME => {
                self.state = WorkerState::Enabling { enable, since, check: None };
            }
            Err(misplaced) => {
                self.state = WorkerState::Disabled;
                self.put(Output::Report(Report::AdminQueues(misplaced)));
                self.put(Output::SetFatal);
            }
        }
    }

    /// The power is to go: what the namespaces have in volatile caches is written back first, within a time that the
    /// host has patience for.
    fn shut_down(&mut self, now: Duration) {
        self.shutdown.get_or_insert(now);
        if self.flush.is_none() {
            let ticket = self.ticket();
            self.flush = Some(ticket);
            self.put(Output::Send { group: self.placement.own, ticket, request: GroupRequest::Flush });
        }
    }

    /// The flush has ended.
    pub(super) fn flushed(&mut self) {
        self.flush = None;
        if self.shutdown.take().is_some() {
            self.put(Output::SetShutdownComplete);
        }
    }

    /// All queues go; `then` comes when no command is in flight in them.
    fn stop(&mut self, then: AfterStop) {
        self.end_cycle();
        let ticket = self.ticket();
        self.state = WorkerState::Stopping { ticket, left: self.placement.groups, then };
        self.send_to_all(ticket, GroupRequest::DeleteAll);
    }

    /// Forgets what belongs to an enable cycle. What was asked for in it and is answered later is nobody's.
    fn end_cycle(&mut self) {
        self.model.reset();
        self.in_flight.clear();
        self.transfer = None;
        self.flush = None;
        self.shutdown = None;
        self.completion.clear();
        self.submission.clear();
        self.event = None;
        self.put(Output::DropAdminQueues);
    }

    /// One poll group has no command in flight any more.
    pub(super) fn group_stopped(&mut self, ticket: Ticket, left: usize, then: AfterStop) {
        if let Some(left) = left.checked_sub(1).filter(|left| *left > 0) {
            self.state = WorkerState::Stopping { ticket, left, then };
            return;
        }
        self.state = WorkerState::Disabled;
        // No poll group has queues any more that would take these.
        self.settings = Settings::default();
        self.put(Output::ForgetQueues);
        if let AfterStop::Reset(number) = then {
            self.put(Output::ResetDone);
            if let Some(number) = number {
                self.put(Output::ResetOver { number });
            }
        }
    }

    /// Looks after what is waited for, for a limited time.
    pub(super) fn poll(&mut self, now: Duration) {
        if let WorkerState::Enabling { enable, since, check: None } = self.state {
            self.look_for_admin_queues(enable, since);
        }
        if self.shutdown.is_some_and(|since| now.saturating_sub(since) >= FLUSH_TIME) {
            self.shutdown = None;
            self.put(Output::Report(Report::FlushTooSlow));
            self.put(Output::SetShutdownComplete);
        }
    }

    /// What is looked after from time to time.
    pub(super) fn tick(&mut self, now: Duration) {
        self.add_delayed(now);
        if matches!(self.state, WorkerState::Enabled) && self.model.keep_alive_expired(now) {
            self.put(Output::KeepAliveExpired);
        }
    }
}
