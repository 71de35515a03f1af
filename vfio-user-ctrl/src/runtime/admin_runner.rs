//! Runs a controller's admin worker on one poll group.
//!
//! What is decided is decided by the [`AdminWorker`], which knows no thread and no clock. Here it gets its inputs; what
//! it puts out is carried out by the module `outputs`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::messages::{ControlMessage, NamespaceSpec, QueueMessage, Routes};
use super::session::{Ctrl, Session};
use super::session_queues::SessionQueues;
use nvme_device::admin_worker::{AdminCommand, AdminWorker, Input, Placement, Request};
use nvme_device::model::admin::{Controller, IoTotals, Namespace};
use nvme_device::queue::{AdminQueue, FenceGuard, QueueErrorEvent};

/// The most admin commands that are taken in a row: to make a queue takes a while, in which other guests wait.
const BURST: usize = 4;

/// A client's session, as the admin worker has it.
#[derive(Debug)]
pub(super) struct AttachedSession {
    pub(super) session: Arc<Session>,
    pub(super) session_queues: Rc<SessionQueues>,
    pub(super) admin: RefCell<Option<AdminQueue>>,
}

/// A controller's admin worker on its poll group.
#[derive(Debug)]
pub(super) struct AdminRunner {
    pub(super) ctrl: Arc<Ctrl>,
    pub(super) routes: Arc<Routes>,
    pub(super) worker: RefCell<AdminWorker>,
    /// The namespaces that can be used.
    pub(super) namespaces: RefCell<BTreeMap<u32, NamespaceSpec>>,
    /// Those that the admin worker has not added yet.
    pub(super) coming: RefCell<BTreeMap<u32, NamespaceSpec>>,
    attached: RefCell<Option<Rc<AttachedSession>>>,
    pub(super) began: Instant,
}

impl AdminRunner {
    /// Returns a controller without a client.
    #[must_use]
    pub(super) fn new(routes: Arc<Routes>, model: Controller) -> Rc<Self> {
        let own = routes.groups.iter().position(|group| Arc::ptr_eq(group, &routes.admin_group)).unwrap_or(0);
        let placement =
            Placement { groups: routes.groups.len(), own, ticks_per_us: spdk::time::ticks_hz() / 1_000_000 };
        Rc::new(Self {
            ctrl: Arc::clone(&routes.ctrl),
            routes,
            worker: RefCell::new(AdminWorker::new(model, placement)),
            namespaces: RefCell::default(),
            coming: RefCell::default(),
            attached: RefCell::default(),
            began: Instant::now(),
        })
    }

    /// Returns the controller.
    #[must_use]
    pub(crate) fn ctrl(&self) -> &Arc<Ctrl> {
        &self.ctrl
    }

    pub(super) fn attached(&self) -> Option<Rc<AttachedSession>> {
        self.attached.borrow().clone()
    }

    pub(super) fn attached_to(&self, session: u64) -> Option<Rc<AttachedSession>> {
        self.attached().filter(|attached| attached.session.id == session)
    }

    pub(super) fn namespace_specs(&self) -> Vec<NamespaceSpec> {
        self.namespaces.borrow().values().cloned().collect()
    }

    /// A client has come, for which `begin` makes queues on this group when those of the client before it are told to
    /// go: the fences of its bdevs have to be up by then.
    pub(super) fn attach<F>(&self, session: Arc<Session>, begin: F)
    where
        F: FnOnce(&Arc<Routes>, &Arc<Session>, &[NamespaceSpec]) -> Rc<SessionQueues>,
    {
        self.detach();
        self.drive(None, Input::Attached);
        let session_queues = begin(&self.routes, &session, &self.namespace_specs());
        let admin = RefCell::default();
        self.attached.replace(Some(Rc::new(AttachedSession { session, session_queues, admin })));
    }

    /// The client of that session has gone, if it is still there.
    pub(crate) fn detach_session(&self, session: u64) {
        if self.attached_to(session).is_some() {
            self.detach();
        }
    }

    /// The client has gone: nothing that it left is waited for, so that the next one finds the controller at once.
    pub(crate) fn detach(&self) {
        let Some(attached) = self.attached.take() else { return };
        self.drive(Some(&attached), Input::Detached);
        let session = attached.session.id;
        // The next session may be on one group before this one is over on another.
        let guards: Arc<Vec<FenceGuard>> =
            Arc::new(self.namespaces.borrow().values().map(|spec| spec.fence.raise()).collect());
        // By a message to this group too: one that makes a queue may be on its way to it, and would begin the session
        // anew.
        self.routes.send_queues(session, || QueueMessage::End { guards: Arc::clone(&guards) });
        while let Some(request) = attached.session.next_request() {
            if let Request::Reset { number } = request {
                self.routes.control.send(ControlMessage::ResetDone { session, number });
            }
        }
    }

    /// The client of that session has asked for something.
    pub(crate) fn asked(&self, session: u64) {
        if let Some(attached) = self.attached_to(session) {
            self.take_requests(&attached);
        }
    }

    /// Takes admin commands. Returns whether there were any.
    pub(super) fn poll(&self) -> bool {
        let Some(attached) = self.attached() else { return false };
        if self.worker.borrow().has_deadline() {
            self.drive(Some(&attached), Input::Poll);
        }
        if attached.admin.borrow().is_none() || attached.session_queues.queues().is_suspended() {
            return false;
        }
        let mut busy = false;
        for _ in 0..BURST {
            if !self.worker.borrow().wants_command() {
                break;
            }
            // In this order: what waits may be in the newest memory.
            let waits = attached.admin.borrow().as_ref().is_some_and(AdminQueue::has_next);
            if !waits || !attached.session_queues.refresh_in_time() {
                break;
            }
            let next = attached.admin.borrow().as_ref().and_then(AdminQueue::next);
            let Some(sqe) = next else { break };
            busy = true;
            let entry_sizes = attached.session.registers.entry_sizes();
            let io_totals = Controller::wants_io_totals(&sqe).then(|| self.io_totals());
            let pin_in_use = attached.session.interrupts.pin().is_in_use();
            let command = AdminCommand { sqe, entry_sizes, pin_in_use, io_totals };
            self.drive(Some(&attached), Input::Command(command));
        }
        if busy {
            self.drive(Some(&attached), Input::CommandsTaken);
        }
        self.complete_events(&attached);
        busy
    }

    fn io_totals(&self) -> IoTotals {
        let totals = self.ctrl.counters.totals();
        IoTotals {
            bytes_read: totals.bytes_read,
            bytes_written: totals.bytes_written,
            read_commands: totals.reads,
            write_commands: totals.writes,
            busy: self.ctrl.counters.busy(),
            media_errors: self.ctrl.counters.media_errors(),
        }
    }

    /// Guest memory has changed: the admin queues are looked for anew.
    pub(super) fn forget_rings(&self, session: u64) {
        if let Some(attached) = self.attached_to(session)
            && let Some(queue) = attached.admin.borrow().as_ref()
        {
            queue.forget_rings();
        }
    }

    /// Adds a namespace, which the guest hears of by an asynchronous event.
    pub(crate) fn add_namespace(&self, namespace: Namespace, spec: &NamespaceSpec) {
        self.coming.borrow_mut().insert(spec.nsid, spec.clone());
        self.drive(self.attached().as_ref(), Input::AddNamespace(namespace));
    }

    /// Takes a namespace away. Its bdev is let go when none of its I/O is in flight.
    pub(crate) fn remove_namespace(&self, nsid: u32) {
        self.drive(self.attached().as_ref(), Input::RemoveNamespace { nsid });
    }

    /// A namespace has another size.
    pub(crate) fn resize_namespace(&self, nsid: u32, blocks: u64) {
        self.drive(self.attached().as_ref(), Input::ResizeNamespace { nsid, blocks });
    }

    /// Commands have failed.
    pub(super) fn note_error_events(&self, session: u64, error_events: Vec<QueueErrorEvent>) {
        if let Some(attached) = self.attached_to(session) {
            self.drive(Some(&attached), Input::ErrorEvents(error_events));
        }
    }

    /// What is looked after from time to time.
    pub(super) fn tick(&self) {
        self.drive(self.attached().as_ref(), Input::Tick);
    }
}
