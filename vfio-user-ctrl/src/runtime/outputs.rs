//! What a controller's admin worker puts out, carried out: registers, completions, messages to poll groups.

use std::rc::Rc;
use std::sync::Arc;

use super::admin_runner::{AdminRunner, AttachedSession};
use super::log_budget::warn_ratelimited;
use super::messages::{AnswerTo, ControlMessage, GroupMessage, QueueMessage};
use super::session_queues::SessionQueues;
use guest_memory::copy::{read_data, write_data};
use guest_memory::dptr::DptrError;
use nvme_device::admin_worker::{
    Answer, GroupRequest, Input, Output, QueuePlace, Report, Request, Ticket, UnusableMemory,
};
use nvme_device::model::admin::QueueId;
use nvme_device::queue::{AdminQueue, CommandFault, Settings};
use nvme_spec::{Sqe, Status};

impl AdminRunner {
    /// Gives the admin worker an input, carries out what comes of it, and goes on with what the client has asked for.
    pub(super) fn drive(&self, attached: Option<&Rc<AttachedSession>>, input: Input) {
        let mut next = Some(input);
        while let Some(input) = next.take() {
            self.worker.borrow_mut().handle(input, self.began.elapsed());
            loop {
                let output = self.worker.borrow_mut().next_output();
                let Some(output) = output else { break };
                let Some(attached) = attached else {
                    self.carry_out_alone(&output);
                    continue;
                };
                if let Some(input) = self.carry_out(attached, output) {
                    self.worker.borrow_mut().handle(input, self.began.elapsed());
                }
            }
            if let Some(attached) = attached.filter(|_| self.worker.borrow().wants_request()) {
                next = attached.session.next_request().map(Input::Request);
            }
        }
    }

    /// Takes what the client has asked for.
    pub(super) fn take_requests(&self, attached: &Rc<AttachedSession>) {
        if self.worker.borrow().wants_request()
            && let Some(request) = attached.session.next_request()
        {
            self.drive(Some(attached), Input::Request(request));
        }
    }

    /// Carries out an output. Returns what the admin worker is to be told at once.
    fn carry_out(&self, attached: &Rc<AttachedSession>, output: Output) -> Option<Input> {
        let registers = &attached.session.registers;
        match output {
            Output::SetReady => registers.set_ready(),
            Output::SetFatal => registers.set_fatal(),
            Output::SetShutdownComplete => registers.set_shutdown_complete(),
            Output::ResetDone => {
                registers.reset_done();
                return registers.shutdown_is_occurring().then_some(Input::Request(Request::Shutdown));
            }
            Output::ResetOver { number } => {
                let session = attached.session.id;
                self.routes.control.send(ControlMessage::ResetDone { session, number });
            }
            Output::KeepAliveExpired => {
                log::warn!("controller '{}': the host sent no keep-alive in time", self.ctrl.name);
                registers.set_fatal();
                // Whatever has been asked for is taken when this has been carried out.
                let _ = attached.session.ask(Request::Fail);
            }
            output => return self.carry_out_on_queues(attached, output),
        }
        None
    }

    fn carry_out_on_queues(&self, attached: &Rc<AttachedSession>, output: Output) -> Option<Input> {
        match output {
            Output::Check(ticket, place) => {
                return Some(Input::Answer(ticket, Answer::Checked(check(&attached.session_queues, place))));
            }
            Output::CreateAdminQueues(enable) => {
                attached.session.doorbells.clear();
                let queues = attached.session_queues.queues();
                attached.admin.replace(Some(queues.create_admin(enable.asq, enable.asqs, enable.acq, enable.acqs)));
            }
            Output::DropAdminQueues => drop(attached.admin.take()),
            Output::Complete { cid, dw0, status } => {
                attached.with_admin_queue(|queue| queue.complete(cid, dw0, status));
            }
            Output::Hold => attached.with_admin_queue(AdminQueue::hold),
            Output::CompleteEvents => self.complete_events(attached),
            Output::WriteData { ticket, sqe, data } => return self.write_data(attached, ticket, &sqe, &data),
            Output::ReadData { ticket, sqe, len } => return self.read_data(attached, ticket, &sqe, len),
            Output::ClearDoorbell(queue) => {
                let index = match queue {
                    QueueId::Sq(qid) => usize::from(qid) * 2,
                    QueueId::Cq(qid) => usize::from(qid) * 2 + 1,
                };
                attached.session.doorbells.store(index, 0);
            }
            Output::ForgetQueues => {
                attached.session.doorbells.clear();
                attached.session.set(Settings::default());
            }
            Output::Send { group, ticket, request } => return self.send(attached, group, ticket, request),
            Output::StoreSettings(settings) => attached.session.set(settings),
            Output::PublishSettings(settings) => self.publish(attached, settings),
            output => self.carry_out_alone(&output),
        }
        None
    }

    /// Carries out what needs no client.
    fn carry_out_alone(&self, output: &Output) {
        match *output {
            Output::AddChannels { nsid } => self.add_channels(nsid),
            Output::RemoveChannels { nsid } => self.remove_channels(nsid),
            Output::ResizeNamespace { nsid, blocks } => self.apply_size(nsid, blocks),
            Output::RefuseNamespace { nsid, error } => {
                self.coming.borrow_mut().remove(&nsid);
                log::error!("controller '{}': namespace {nsid} could not be added: {error}", self.ctrl.name);
            }
            Output::Report(report @ Report::SizeRefused(..)) => {
                log::error!("controller '{}': {report}", self.ctrl.name);
            }
            Output::Report(report) => warn_ratelimited!(self.ctrl, "controller '{}': {report}", self.ctrl.name),
            // The rest is for a client, and there is none.
            _ => {}
        }
    }

    fn write_data(&self, attached: &Rc<AttachedSession>, ticket: Ticket, sqe: &Sqe, data: &[u8]) -> Option<Input> {
        let written = match write_data(&attached.session_queues.queues().view(), sqe, data) {
            Ok(()) => Ok(()),
            Err(DptrError::Invalid(status)) => Err(self.misplaced_data(attached, sqe, status)),
            Err(DptrError::NoFile) => {
                let answer = AnswerTo::new(&self.routes, attached.session.id, ticket);
                let sent = move |result: Result<(), Status>| answer.send(Answer::Written(result));
                attached.session_queues.queues().send_data(sqe, data, sent);
                return None;
            }
        };
        Some(Input::Answer(ticket, Answer::Written(written)))
    }

    fn read_data(&self, attached: &Rc<AttachedSession>, ticket: Ticket, sqe: &Sqe, len: usize) -> Option<Input> {
        let mut data = vec![0; len];
        let read = match read_data(&attached.session_queues.queues().view(), sqe, &mut data) {
            Ok(()) => Ok(data),
            Err(DptrError::Invalid(status)) => Err(self.misplaced_data(attached, sqe, status)),
            Err(DptrError::NoFile) => {
                let answer = AnswerTo::new(&self.routes, attached.session.id, ticket);
                let fetched = move |result: Result<Vec<u8>, Status>| answer.send(Answer::Read(result));
                attached.session_queues.queues().fetch_data(sqe, len, fetched);
                return None;
            }
        };
        Some(Input::Answer(ticket, Answer::Read(read)))
    }

    /// The data of a command is where it cannot be. Returns the status, with which the command ends.
    fn misplaced_data(&self, attached: &AttachedSession, sqe: &Sqe, status: Status) -> Status {
        let Sqe { cid, opcode, nsid, .. } = *sqe;
        let fault =
            attached.session_queues.queues().view().take_fault().filter(|_| status == Status::DATA_TRANSFER_ERROR);
        if let Some((gpa, fault)) = fault {
            let fault = CommandFault { sqid: 0, cid, opcode, nsid, gpa, fault };
            warn_ratelimited!(self.ctrl, "controller '{}': {fault}", self.ctrl.name);
        }
        status
    }

    /// Something that was asked for is done, if the session is still there for which that was.
    pub(super) fn answered(&self, session: u64, ticket: Ticket, answer: Answer) {
        if let Some(attached) = self.attached_to(session) {
            self.drive(Some(&attached), Input::Answer(ticket, answer));
        }
    }

    /// Has a poll group do something, by a message.
    fn send(
        &self,
        attached: &Rc<AttachedSession>,
        group: usize,
        ticket: Ticket,
        request: GroupRequest,
    ) -> Option<Input> {
        let Some(group) = self.routes.groups.get(group) else {
            return Some(Input::Answer(ticket, request.answer_without_queues()));
        };
        let (routes, session) = (Arc::clone(&self.routes), Arc::clone(&attached.session));
        let specs = if request.begins_session() { self.namespace_specs() } else { Vec::new() };
        group.send(GroupMessage::Request { routes, session, specs, ticket, request });
        None
    }

    /// Has the poll groups take what the host has set.
    fn publish(&self, attached: &Rc<AttachedSession>, settings: Settings) {
        attached.session.set(settings);
        for (index, group) in self.routes.groups.iter().enumerate() {
            if attached.session.set_settings_pending(index) {
                group.send(GroupMessage::TakeSettings { session: Arc::clone(&attached.session), index });
            }
        }
    }

    /// Completes Asynchronous Event Requests for which there is an event, as far as there are completion entries.
    pub(super) fn complete_events(&self, attached: &Rc<AttachedSession>) {
        attached.with_admin_queue(|queue| {
            while self.worker.borrow_mut().prepare_event() && queue.resume() {
                if let Some(event) = self.worker.borrow_mut().take_event() {
                    queue.complete(event.cid, event.dw0, event.status);
                }
            }
        });
    }

    /// A namespace can be used from now on.
    fn add_channels(&self, nsid: u32) {
        let Some(spec) = self.coming.borrow_mut().remove(&nsid) else { return };
        self.namespaces.borrow_mut().insert(nsid, spec.clone());
        self.tell_queues(|| QueueMessage::AddNamespace(spec.clone()));
    }

    fn remove_channels(&self, nsid: u32) {
        self.coming.borrow_mut().remove(&nsid);
        let Some(spec) = self.namespaces.borrow_mut().remove(&nsid) else { return };
        let guard = Arc::new(spec.fence.raise());
        self.tell_queues(|| QueueMessage::RemoveNamespace { nsid, guard: Arc::clone(&guard) });
    }

    fn apply_size(&self, nsid: u32, blocks: u64) {
        if let Some(spec) = self.coming.borrow_mut().get_mut(&nsid) {
            spec.geometry = spec.geometry.resized(blocks).unwrap_or(spec.geometry);
            return;
        }
        let mut namespaces = self.namespaces.borrow_mut();
        let Some(spec) = namespaces.get_mut(&nsid) else { return };
        let Ok(geometry) = spec.geometry.resized(blocks) else { return };
        spec.geometry = geometry;
        self.tell_queues(|| QueueMessage::SetGeometry { nsid, geometry });
    }

    /// Sends what `message` makes to every poll group, for the queues that the client has there.
    fn tell_queues(&self, message: impl Fn() -> QueueMessage) {
        if let Some(attached) = self.attached() {
            self.routes.send_queues(attached.session.id, message);
        }
    }
}

impl AttachedSession {
    fn with_admin_queue(&self, f: impl FnOnce(&AdminQueue)) {
        if let Some(queue) = self.admin.borrow().as_ref() {
            f(queue);
        }
    }
}

/// Looks whether the newest guest memory can be used so.
fn check(session_queues: &SessionQueues, place: QueuePlace) -> Result<(), UnusableMemory> {
    session_queues.refresh();
    place.check(session_queues.queues())
}
