//! A controller's home: its admin queue and admin model, on one poll group.
//!
//! What changes the state of the whole controller (enable, disable, reset) is an [`Op`]. They are carried out one after another, each
//! when the one before is over, since the queues of other poll groups take a moment to go.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::control::complaint::complain;
use super::group::{Group, GroupHandle};
use super::local::{Local, PortSpec};
use super::session::{After, Ctrl, Op, Session, Settings};
use crate::memory::Fault;
use crate::model::admin::{self, Controller, DoorbellError, ErrorEntry, Namespace};
use crate::model::regs::Enable;
use crate::queue::{AdminQueue, FenceGuard, Trouble};

/// The most bytes of one command's data: MDTS as the admin model tells it.
pub const MAX_TRANSFER: u32 = 4096 << MDTS;

/// The same as the admin model has it: a power of two of pages.
pub const MDTS: u8 = 5;

/// How long a controller that is being enabled waits for the memory of its admin queues.
const MAPPING_TIME: Duration = Duration::from_secs(1);

/// How long a shutdown may take: less than a host waits for it, by RTD3E of Identify Controller.
const FLUSH_TIME: Duration = Duration::from_secs(4);

/// How long a namespace waits for the guest to learn that another one of its identifier is gone.
const LEARNING_TIME: Duration = Duration::from_secs(5);

/// The queues of so many poll groups are not quiet yet.
#[derive(Debug)]
struct Stopping {
    left: usize,
    then: Stopped,
}

/// What follows when all queues are gone.
#[derive(Debug)]
enum Stopped {
    /// The registers tell that the controller is reset.
    Reset(Option<Box<dyn After>>),
    /// They tell that it has failed, until the host resets it.
    Failed,
}

/// A client's session at home.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) session: Arc<Session>,
    pub(super) local: Rc<Local>,
    pub(super) admin: RefCell<Option<AdminQueue>>,
    /// The poll groups of the completion queues, and of the submission queues.
    pub(super) completion: RefCell<BTreeMap<u16, Arc<GroupHandle>>>,
    pub(super) submission: RefCell<BTreeMap<u16, Arc<GroupHandle>>>,
    /// The host has enabled the controller, then, and the memory of the admin queues is not mapped yet.
    enabling: Cell<Option<(Enable, Instant)>>,
    /// Completions of held commands that found no room yet.
    pub(super) events: RefCell<VecDeque<admin::Completion>>,
    /// An admin command waits for its data to go by messages.
    pub(super) transferring: Cell<bool>,
    /// Counts resets: an answer to what was asked before one is dropped.
    pub(super) generation: Cell<u64>,
}

/// A controller on its home poll group.
#[derive(Debug)]
pub struct Home {
    pub(super) ctrl: Arc<Ctrl>,
    pub(super) model: RefCell<Controller>,
    ports: RefCell<BTreeMap<u32, PortSpec>>,
    /// Namespaces that the guest would take for others, which it does not know to be gone, and since when they wait.
    delayed: RefCell<BTreeMap<u32, (Namespace, PortSpec, Instant)>>,
    attached: RefCell<Option<Rc<Attached>>>,
    /// The queues are being stopped: the next op waits for that.
    stopping: RefCell<Option<Stopping>>,
    pub(super) began: Instant,
}

impl Home {
    /// A controller without a client.
    #[must_use]
    pub fn new(ctrl: Arc<Ctrl>, model: Controller) -> Rc<Self> {
        Rc::new(Self {
            ctrl,
            model: RefCell::new(model),
            ports: RefCell::default(),
            delayed: RefCell::default(),
            attached: RefCell::default(),
            stopping: RefCell::default(),
            began: Instant::now(),
        })
    }

    /// The controller.
    #[must_use]
    pub fn ctrl(&self) -> &Arc<Ctrl> {
        &self.ctrl
    }

    pub(super) fn attached(&self) -> Option<Rc<Attached>> {
        self.attached.borrow().clone()
    }

    pub(super) fn attached_to(&self, session: u64) -> Option<Rc<Attached>> {
        self.attached().filter(|attached| attached.session.id == session)
    }

    pub(super) fn port_specs(&self) -> Vec<PortSpec> {
        self.ports.borrow().values().cloned().collect()
    }

    /// A client has come.
    pub fn attach(&self, group: &Rc<Group>, session: &Arc<Session>) {
        self.detach();
        self.add_delayed();
        let local = group.local(session, &self.port_specs());
        self.attached.replace(Some(Rc::new(Attached {
            session: Arc::clone(session),
            local,
            admin: RefCell::default(),
            completion: RefCell::default(),
            submission: RefCell::default(),
            enabling: Cell::default(),
            events: RefCell::default(),
            transferring: Cell::new(false),
            generation: Cell::new(0),
        })));
    }

    /// The client of that session has gone, if it is still there.
    pub fn detach_session(&self, session: u64) {
        if self.attached_to(session).is_some() {
            self.detach();
        }
    }

    /// The client has gone: nothing that it left is waited for, so that the next one finds the controller at once.
    pub fn detach(&self) {
        let Some(attached) = self.attached.take() else { return };
        self.model.borrow_mut().reset();
        attached.admin.take();
        let session = attached.session.id;
        // The next session may be on one group before this one is over on another.
        let guards: Arc<Vec<FenceGuard>> =
            Arc::new(self.ports.borrow().values().map(|port| port.fence.raise()).collect());
        // By a message to this group too: one that makes a queue may be on its way to it, and would begin the session anew.
        for group in &self.ctrl.groups {
            let guards = Arc::clone(&guards);
            group.send(move |group| group.end_session(session, guards));
        }
        if let Some(Stopping { then: Stopped::Reset(Some(after)), .. }) = self.stopping.take() {
            after();
        }
        while let Some(op) = attached.session.next_asked() {
            if let Op::Reset(after) = op {
                after();
            }
        }
    }

    /// The client of that session has asked for something.
    pub fn asked(&self, session: u64) {
        if self.attached_to(session).is_some() {
            self.work();
        }
    }

    /// Carries out what waits, until something takes a moment.
    fn work(&self) {
        while self.stopping.borrow().is_none() {
            let Some(attached) = self.attached() else { return };
            let Some(op) = attached.session.next_asked() else { return };
            match op {
                Op::Enable(enable) => self.enable(&attached, enable, Instant::now()),
                Op::Shutdown => self.shut_down(&attached),
                Op::Disable => self.stop_queues(&attached, Stopped::Reset(None)),
                Op::Fail => self.stop_queues(&attached, Stopped::Failed),
                Op::Reset(after) => self.stop_queues(&attached, Stopped::Reset(Some(after))),
            }
        }
    }

    /// The host has enabled the controller at `since`. Its admin queues must be in memory that is mapped, with a file. Memory that is
    /// not mapped is waited for: a VMM that rearranges its memory takes regions away for a moment.
    fn enable(&self, attached: &Rc<Attached>, enable: Enable, since: Instant) {
        attached.local.refresh();
        attached.enabling.set(None);
        // A shutdown of the life before is none of this one's.
        attached.generation.set(attached.generation.get() + 1);
        let queues = attached.local.queues();
        let checked = queues.check_submission_queue(enable.asq, enable.asqs).map_err(|fault| (enable.asq, fault));
        let checked = checked
            .and_then(|()| queues.check_completion_queue(enable.acq, enable.acqs).map_err(|fault| (enable.acq, fault)));
        match checked {
            Ok(()) => {}
            Err((_, Fault::Unmapped)) if since.elapsed() < MAPPING_TIME => {
                return attached.enabling.set(Some((enable, since)));
            }
            Err((gpa, fault)) => {
                complain!(
                    self.ctrl,
                    "controller '{}' fails: its admin queue cannot be at {gpa:#x}: {fault}",
                    self.ctrl.name
                );
                return attached.session.registers.set_fatal();
            }
        }
        let mut model = self.model.borrow_mut();
        model.reset();
        model.enable(self.began.elapsed());
        attached.session.doorbells.clear();
        attached.admin.replace(Some(queues.create_admin(enable.asq, enable.asqs, enable.acq, enable.acqs)));
        attached.session.registers.set_ready();
    }

    /// Looks again for the memory of the admin queues of a controller that is being enabled.
    pub(super) fn enable_late(&self, attached: &Rc<Attached>) {
        if let Some((enable, since)) = attached.enabling.get() {
            self.enable(attached, enable, since);
        }
    }

    /// The power is to go: what the namespaces have in volatile caches is written back first, within a time that the host has
    /// patience for.
    fn shut_down(&self, attached: &Rc<Attached>) {
        attached.local.queues().flush();
        let ctrl = Arc::clone(&self.ctrl);
        let complete = self.answer(attached, move |_, attached, flushed: bool| {
            if !flushed {
                complain!(ctrl, "controller '{}': the shutdown is over before all caches are written back", ctrl.name);
            }
            attached.session.registers.set_shutdown_complete();
        });
        let session = attached.session.id;
        self.ctrl.home.send(move |group| {
            let Some(local) = group.find(session) else { return };
            let (flushing, since) = (Rc::clone(&local), Instant::now());
            let is_over = move || flushing.queues().is_flushed() || since.elapsed() >= FLUSH_TIME;
            group.when(is_over, move || complete(local.queues().is_flushed()));
        });
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
    pub fn add_namespace(&self, namespace: Namespace, port: &PortSpec) {
        let nsid = port.nsid;
        if self.model.borrow().would_be_mistaken(&namespace) {
            self.delayed.borrow_mut().insert(nsid, (namespace, port.clone(), Instant::now()));
            return;
        }
        if let Err(error) = self.model.borrow_mut().add_namespace(namespace) {
            return log::error!("controller '{}': namespace {nsid} could not be added: {error}", self.ctrl.name);
        }
        self.ports.borrow_mut().insert(nsid, port.clone());
        let Some(attached) = self.attached() else { return };
        let session = attached.session.id;
        for group in &self.ctrl.groups {
            let port = port.clone();
            group.send(move |group| group.add_port(session, &port));
        }
    }

    /// Adds the namespaces of which the guest knows by now that they are others than those before, or has had time to learn it.
    pub(super) fn add_delayed(&self) {
        if self.delayed.borrow().is_empty() {
            return;
        }
        let delayed = std::mem::take(&mut *self.delayed.borrow_mut());
        for (nsid, (namespace, port, since)) in delayed {
            if since.elapsed() >= LEARNING_TIME {
                self.model.borrow_mut().forget_removal(nsid);
            }
            if self.model.borrow().would_be_mistaken(&namespace) {
                self.delayed.borrow_mut().insert(nsid, (namespace, port, since));
            } else {
                self.add_namespace(namespace, &port);
            }
        }
    }

    /// Takes a namespace away. Its bdev is let go when none of its I/O is under way.
    pub fn remove_namespace(&self, nsid: u32) {
        self.delayed.borrow_mut().remove(&nsid);
        self.model.borrow_mut().remove_namespace(nsid);
        let Some(port) = self.ports.borrow_mut().remove(&nsid) else { return };
        let guard = Arc::new(port.fence.raise());
        self.tell_queues(move |local| {
            local.queues().remove_port(nsid);
            // Until here, for whoever has the disk next.
            let _ = &guard;
        });
    }

    /// A namespace has another size.
    pub fn resize_namespace(&self, nsid: u32, blocks: u64) {
        if let Some((namespace, port, _)) = self.delayed.borrow_mut().get_mut(&nsid) {
            namespace.blocks = blocks;
            port.geometry = port.geometry.resized(blocks).unwrap_or(port.geometry);
            return;
        }
        if let Err(error) = self.model.borrow_mut().resize_namespace(nsid, blocks) {
            return log::error!("controller '{}': namespace {nsid} keeps its size: {error}", self.ctrl.name);
        }
        let mut ports = self.ports.borrow_mut();
        let Some(port) = ports.get_mut(&nsid) else { return };
        let Ok(geometry) = port.geometry.resized(blocks) else { return };
        port.geometry = geometry;
        self.tell_queues(move |local| local.queues().set_geometry(nsid, geometry));
    }

    /// Calls `f` on every poll group that has queues of the client.
    fn tell_queues(&self, f: impl Fn(&Local) + Clone + Send + 'static) {
        let Some(attached) = self.attached() else { return };
        let session = attached.session.id;
        for group in &self.ctrl.groups {
            let f = f.clone();
            group.send(move |group| {
                if let Some(local) = group.find(session) {
                    f(&local);
                }
            });
        }
    }

    /// Commands have failed.
    pub(super) fn note_troubles(&self, session: u64, troubles: &[Trouble]) {
        if self.attached_to(session).is_none() {
            return;
        }
        let mut model = self.model.borrow_mut();
        for trouble in troubles {
            match *trouble {
                Trouble::InvalidDoorbell { .. } => model.doorbell_error(DoorbellError::Value),
                Trouble::Failed { sqid, cid, status, slba, nsid } => {
                    model.io_error(&ErrorEntry { sqid, cid, status, lba: slba, nsid });
                }
            }
        }
    }

    /// What is looked after from time to time.
    pub(super) fn tick(&self) {
        self.add_delayed();
        let Some(attached) = self.attached() else { return };
        let expired = self.model.borrow().keep_alive_expired(self.began.elapsed());
        if expired && attached.admin.borrow().is_some() {
            log::warn!("controller '{}': the host sent no keep-alive in time", self.ctrl.name);
            attached.session.registers.set_fatal();
            if attached.session.ask(Op::Fail) {
                self.work();
            }
        }
    }

    /// All queues go; `then` comes when nothing is under way in them.
    fn stop_queues(&self, attached: &Rc<Attached>, then: Stopped) {
        self.model.borrow_mut().reset();
        attached.forget_queues();
        self.stopping.replace(Some(Stopping { left: self.ctrl.groups.len(), then }));
        let (ctrl, session) = (self.ctrl.id, attached.session.id);
        for handle in &self.ctrl.groups {
            let home = Arc::clone(&self.ctrl.home);
            let stopped = move || {
                home.send(move |group| {
                    if let Some(home) = group.home(ctrl) {
                        home.group_stopped(session);
                    }
                });
            };
            handle.send(move |group| {
                let Some(local) = group.find(session) else { return stopped() };
                local.queues().delete_all();
                group.when(move || local.queues().is_quiet(), stopped);
            });
        }
    }

    /// Nothing is under way any more in the queues of one poll group.
    fn group_stopped(&self, session: u64) {
        let Some(attached) = self.attached_to(session) else { return };
        let mut stopping = self.stopping.borrow_mut();
        let Some(state) = stopping.as_mut() else { return };
        state.left = state.left.saturating_sub(1);
        if state.left > 0 {
            return;
        }
        let stopped = stopping.take().map(|state| state.then);
        drop(stopping);
        attached.session.doorbells.clear();
        // No group has queues any more that would take these.
        attached.session.set(Settings::default());
        if let Some(Stopped::Reset(after)) = stopped {
            attached.session.registers.reset_done();
            if attached.session.registers.shutdown_is_occurring() {
                self.shut_down(&attached);
            }
            if let Some(after) = after {
                after();
            }
        }
        self.work();
    }
}

impl Attached {
    fn forget_queues(&self) {
        self.admin.take();
        self.generation.set(self.generation.get() + 1);
        self.completion.take();
        self.submission.take();
        self.enabling.set(None);
        self.events.take();
        self.transferring.set(false);
    }
}
