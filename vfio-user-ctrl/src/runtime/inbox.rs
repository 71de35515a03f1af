//! What a poll group does with its messages.

use std::rc::Rc;
use std::sync::Arc;

use spdk::Errno;
use spdk::mailbox::{AppThread, Mailbox};
use spdk::thread::OwnedThread;

use super::admin_runner::AdminRunner;
use super::group::{Group, PendingCheck, on_core};
use super::messages::{
    AdminMessage, AnswerTo, AppMessage, GroupHandle, GroupMessage, NamespaceSpec, QueueMessage, Routes,
};
use super::session::Session;
use nvme_device::admin_worker::{GroupRequest, Ticket};
use nvme_device::queue::FenceGuard;

/// Starts a poll group on a core, whose sessions may have `share` I/Os in flight.
///
/// # Errors
/// `NOMEM` when SPDK cannot make its thread.
pub(super) fn start(
    core: u32,
    share: usize,
    app: &Arc<Mailbox<AppMessage, AppThread>>,
) -> Result<Arc<GroupHandle>, Errno> {
    let thread = Arc::new(OwnedThread::on_core(&format!("courier_{core}"), core)?);
    let mailbox = Mailbox::new(act, Arc::clone(&thread));
    let handle = Arc::new(GroupHandle::new(core, mailbox, Arc::clone(app), Arc::clone(&thread)));
    let me = Arc::clone(&handle);
    thread.send(move || Group::begin(me, share))?;
    Ok(handle)
}

/// On the group's thread. What comes when the group has ended is dropped.
fn act((core, message): (u32, GroupMessage)) {
    if let Some(group) = on_core(core) {
        group.take(message);
    }
}

impl Group {
    fn take(self: &Rc<Self>, message: GroupMessage) {
        match message {
            GroupMessage::AddController { routes, model } => self.add_admin_runner(AdminRunner::new(routes, *model)),
            GroupMessage::RemoveController { routes, guards } => self.remove_controller(&routes, guards),
            GroupMessage::TellWhenClear { ctrl } => self.wait_for(PendingCheck::Clear { ctrl }),
            GroupMessage::DescribeQueues { ctrl, inspection } => {
                let states = self.queue_states_of(ctrl);
                self.handle().send_app(AppMessage::QueueStates { inspection, states });
            }
            GroupMessage::Admin { ctrl, message } => {
                if let Some(runner) = self.admin_runner(ctrl) {
                    runner.take(self, message);
                }
            }
            GroupMessage::Queues { session, message } => self.take_for_queues(session, message),
            GroupMessage::Request { routes, session, specs, ticket, request } => {
                self.carry_out(&routes, &session, &specs, ticket, request);
            }
            GroupMessage::TakeSettings { session, index } => {
                session.clear_settings_pending(index);
                if let Some(session_queues) = self.find(session.id) {
                    session_queues.queues().set(session.settings());
                }
            }
            GroupMessage::Refresh { routes, session, index } => {
                session.clear_pending(index);
                self.refresh(session.id);
                self.quiesce(&routes, &session, index);
            }
            GroupMessage::Stop => self.stop(),
        }
    }

    /// The application ends, and waits for this.
    fn stop(self: &Rc<Self>) {
        self.end();
        match self.handle().exit() {
            Ok(()) => self.handle().send_app(AppMessage::GroupEnded),
            Err(error) => log::error!("the poll group on core {} has ended too late: {error}", self.handle().core),
        }
    }

    /// The client is gone: the admin worker goes, and each poll group tells when nothing is left on it.
    fn remove_controller(&self, routes: &Routes, guards: Vec<FenceGuard>) {
        let ctrl = routes.ctrl.id;
        if let Some(runner) = self.admin_runner(ctrl) {
            runner.detach();
        }
        drop(guards);
        self.remove_admin_runner(ctrl);
        for group in &routes.groups {
            group.send(GroupMessage::TellWhenClear { ctrl });
        }
    }

    /// Does what the admin worker asks for, and answers it, now or later.
    fn carry_out(
        self: &Rc<Self>,
        routes: &Arc<Routes>,
        session: &Arc<Session>,
        specs: &[NamespaceSpec],
        ticket: Ticket,
        request: GroupRequest,
    ) {
        let answer = AnswerTo::new(routes, session.id, ticket);
        let session_queues = if request.begins_session() {
            Some(self.find_or_begin(routes, session, specs))
        } else {
            self.find(session.id)
        };
        let Some(session_queues) = session_queues else { return answer.send(request.answer_without_queues()) };
        let now = answer.clone();
        if let Some((condition, _)) = session_queues.carry_out(request, move |result| now.send(result)) {
            self.wait_for(PendingCheck::Request { session_queues, condition, answer });
        }
    }

    fn take_for_queues(self: &Rc<Self>, session: u64, message: QueueMessage) {
        match message {
            QueueMessage::End { guards } => self.end_session(session, guards),
            QueueMessage::AddNamespace(spec) => self.add_namespace(session, &spec),
            QueueMessage::RemoveNamespace { nsid, guard } => {
                if let Some(session_queues) = self.find(session) {
                    session_queues.queues().remove_namespace(nsid);
                }
                // Until here, for whoever has the disk next.
                drop(guard);
            }
            QueueMessage::SetGeometry { nsid, geometry } => {
                if let Some(session_queues) = self.find(session) {
                    session_queues.queues().set_geometry(nsid, geometry);
                }
            }
            QueueMessage::AbortUnmapped => {
                if let Some(session_queues) = self.find(session) {
                    session_queues.queues().abort_unmapped();
                }
            }
            QueueMessage::Transferred { id, result } => self.transferred(session, id, result),
        }
    }
}

impl AdminRunner {
    fn take(&self, group: &Rc<Group>, message: AdminMessage) {
        match message {
            AdminMessage::Attach { session } => {
                self.attach(session, |routes, session, specs| group.find_or_begin(routes, session, specs));
            }
            AdminMessage::Detach { session } => self.detach_session(session),
            AdminMessage::Requested { session } => self.asked(session),
            AdminMessage::Answer { session, ticket, answer } => self.answered(session, ticket, answer),
            AdminMessage::ErrorEvents { session, error_events } => self.note_error_events(session, error_events),
            AdminMessage::AddNamespace { namespace, spec } => self.add_namespace(namespace, &spec),
            AdminMessage::RemoveNamespace { nsid, desc, guard } => {
                self.remove_namespace(nsid);
                // The bdev stays open until here, so that its channels are put first.
                drop((desc, guard));
            }
            AdminMessage::ResizeNamespace { nsid, blocks } => self.resize_namespace(nsid, blocks),
        }
    }
}
