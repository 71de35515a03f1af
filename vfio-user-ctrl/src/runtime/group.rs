//! Poll groups: an SPDK thread per core that polls the queues placed on it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use spdk::poller::{Poll, Poller};

use super::aborter::Aborter;
use super::admin_runner::AdminRunner;
use super::budget::Budget;
use super::idle_polls::IdlePolls;
use super::interrupt_watch::InterruptWatch;
use super::messages::{AnswerTo, AppMessage, ControlMessage, GroupHandle, NamespaceSpec, QueueStates, Routes};
use super::session::Session;
use super::session_queues::SessionQueues;
use nvme_device::admin_worker::{Answer, Condition};
use nvme_device::queue::{FenceGuard, LeftoverState};

/// Every so many rounds, a power of two, come the admin queues.
const ADMIN_INTERVAL: u32 = 64;
/// So many of them at most: a host may have hundreds of controllers, whose admin queues are empty.
const ADMIN_BATCH: usize = 16;
/// Every so many rounds, a power of two, counters are gathered, and errors told.
const HOUSEKEEPING_INTERVAL: u32 = 4096;

thread_local! {
    /// The poll groups of this reactor. A group's SPDK thread is bound, so that it stays with its reactor; but that may
    /// serve several groups, since SPDK begins a thread elsewhere whose core does not poll just then.
    static GROUPS: RefCell<Vec<Rc<Group>>> = const { RefCell::new(Vec::new()) };
}

/// Returns the poll group of a core, if it is this reactor's.
pub(super) fn on_core(core: u32) -> Option<Rc<Group>> {
    GROUPS.with_borrow(|groups| groups.iter().find(|group| group.handle.core == core).cloned())
}

/// What is looked at until it is so.
#[derive(Debug)]
pub(super) enum PendingCheck {
    /// The queues of a session access no guest memory, where they must not; `index` is which poll group of the
    /// controller this is.
    Quiesce { session_queues: Rc<SessionQueues>, index: usize },
    /// What the admin worker has asked for is done; it is answered then.
    Request { session_queues: Rc<SessionQueues>, condition: Condition, answer: AnswerTo },
    /// Nothing of a controller is left here; the application's thread is told then.
    Clear { ctrl: u64 },
}

/// A poll group on its thread.
#[derive(Debug)]
pub(super) struct Group {
    handle: Arc<GroupHandle>,
    sessions: RefCell<Vec<Rc<SessionQueues>>>,
    /// Those of them that are not idle, with room for all: a round that serves one guest does not touch the memory of a
    /// hundred others.
    awake: RefCell<Vec<Rc<SessionQueues>>>,
    /// Sessions that are over, but whose I/Os have not all ended.
    ended: RefCell<Vec<Rc<SessionQueues>>>,
    admin_runners: RefCell<Vec<Rc<AdminRunner>>>,
    next_runner: Cell<usize>,
    waiting: RefCell<Vec<PendingCheck>>,
    round: Cell<u32>,
    /// The clock's count, as it was some rounds ago.
    now: Cell<u64>,
    idle_polls: IdlePolls,
    raising: InterruptWatch,
    aborter: Aborter,
    budget: Rc<Budget>,
    poller: RefCell<Option<Poller>>,
}

impl Group {
    /// Begins a poll group on the calling thread, which is `handle`'s. Its sessions may have `share` I/Os in flight.
    pub(super) fn begin(handle: Arc<GroupHandle>, share: usize) {
        handle.note_reactor();
        let group = Rc::new(Self::new(handle, share));
        GROUPS.with_borrow_mut(|groups| groups.push(group));
    }

    fn new(handle: Arc<GroupHandle>, share: usize) -> Self {
        let raising = InterruptWatch::new(&handle);
        Self {
            handle,
            sessions: RefCell::default(),
            awake: RefCell::default(),
            ended: RefCell::default(),
            admin_runners: RefCell::default(),
            next_runner: Cell::new(0),
            waiting: RefCell::default(),
            round: Cell::new(0),
            now: Cell::new(spdk::time::ticks()),
            idle_polls: IdlePolls::default(),
            raising,
            aborter: Aborter::default(),
            budget: Budget::new(share),
            poller: RefCell::default(),
        }
    }

    /// Returns the group's handle.
    #[must_use]
    pub(crate) fn handle(&self) -> &Arc<GroupHandle> {
        &self.handle
    }

    /// The session on this group, made if it is not there.
    pub(super) fn find_or_begin(
        self: &Rc<Self>,
        routes: &Arc<Routes>,
        session: &Arc<Session>,
        specs: &[NamespaceSpec],
    ) -> Rc<SessionQueues> {
        if let Some(session_queues) = self.find(session.id) {
            return session_queues;
        }
        let session_queues = SessionQueues::new(session, routes, specs, &self.handle, &self.budget);
        let mut sessions = self.sessions.borrow_mut();
        sessions.push(Rc::clone(&session_queues));
        let mut awake = self.awake.borrow_mut();
        let room = sessions.len().saturating_sub(awake.len());
        awake.reserve(room);
        awake.push(Rc::clone(&session_queues));
        drop((sessions, awake));
        self.lead_pollers();
        session_queues
    }

    /// Opens a channel to a namespace's bdev for a session that is here.
    pub(crate) fn add_namespace(self: &Rc<Self>, session: u64, spec: &NamespaceSpec) {
        if let Some(session_queues) = self.find(session) {
            session_queues.add_namespace(spec, &self.budget);
            self.lead_pollers();
        }
    }

    /// Returns the session on this group, if it is there. What is asked of it may leave something to be looked after
    /// (queues that are deleted, I/Os that are to be aborted), so that it is awake from now on.
    #[must_use]
    pub(crate) fn find(&self, session: u64) -> Option<Rc<SessionQueues>> {
        let session_queues =
            self.sessions.borrow().iter().find(|session_queues| session_queues.session().id == session).cloned()?;
        self.wake(&session_queues);
        Some(session_queues)
    }

    /// Has a session looked after in every round, as long as it is not idle again.
    fn wake(&self, session_queues: &Rc<SessionQueues>) {
        if session_queues.wake() {
            let mut awake = self.awake.borrow_mut();
            if !awake.iter().any(|other| Rc::ptr_eq(other, session_queues)) {
                awake.push(Rc::clone(session_queues));
            }
        }
    }

    /// A session is over: its queues go at once, its I/Os when they end. `guards` are of the fences of its namespaces'
    /// disks.
    pub(crate) fn end_session(self: &Rc<Self>, session: u64, guards: Arc<Vec<FenceGuard>>) {
        let mut sessions = self.sessions.borrow_mut();
        let Some(at) = sessions.iter().position(|session_queues| session_queues.session().id == session) else {
            return;
        };
        let session_queues = sessions.swap_remove(at);
        drop(sessions);
        self.awake.borrow_mut().retain(|other| !Rc::ptr_eq(other, &session_queues));
        session_queues.report();
        session_queues.queues().delete_all();
        session_queues.queues().give_up_transfers();
        session_queues.queues().close_namespaces();
        self.ended.borrow_mut().push(session_queues);
        // Until here, for what would come between the sessions.
        drop(guards);
    }

    /// A transfer with the session's client has ended.
    pub(super) fn transferred(&self, session: u64, id: u64, result: Result<Vec<Vec<u8>>, i32>) {
        if let Some(session_queues) = self.find(session) {
            session_queues.queues().transferred(id, result);
        }
    }

    /// The session's guest memory or its eventfds have changed: what is no longer mapped is let go as soon as no I/O
    /// touches it.
    pub(crate) fn refresh(&self, session: u64) {
        if let Some(session_queues) = self.find(session) {
            session_queues.refresh_in_time();
            self.raising.raise(|| {
                session_queues.take_bus();
                session_queues.queues().catch_up();
            });
        }
        for session_queues in self.ended.borrow().iter().filter(|session_queues| session_queues.session().id == session)
        {
            session_queues.refresh();
        }
        self.forget_rings(session);
    }

    /// The session's admin queue is looked for anew.
    fn forget_rings(&self, session: u64) {
        for runner in self.admin_runners.borrow().iter() {
            runner.forget_rings(session);
        }
    }

    /// Calls `f` with what is here of a controller's sessions; the second argument tells whether a session is over.
    fn for_each_session_of(&self, ctrl: u64, mut f: impl FnMut(&SessionQueues, bool)) {
        for (list, is_over) in [(&self.sessions, false), (&self.ended, true)] {
            for session_queues in list.borrow().iter().filter(|session_queues| session_queues.session().ctrl.id == ctrl)
            {
                f(session_queues, is_over);
            }
        }
    }

    /// Returns what the queues of a controller hold here.
    pub(super) fn queue_states_of(&self, ctrl: u64) -> QueueStates {
        let (mut submission, mut completion, mut left) = (Vec::new(), Vec::new(), LeftoverState::default());
        self.for_each_session_of(ctrl, |session_queues, is_over| {
            let queues = session_queues.queues();
            if !is_over {
                submission.append(&mut queues.submission_states());
                completion.append(&mut queues.completion_states());
            }
            left = left.plus(queues.left_state());
        });
        QueueStates { ctrl, core: self.handle.core, now: spdk::time::ticks(), submission, completion, left }
    }

    /// Tells the session, whose poll group of that index this is, when nothing here accesses guest memory that must not
    /// be accessed any more, and the control thread, which looks at that then.
    pub(super) fn quiesce(self: &Rc<Self>, routes: &Routes, session: &Session, index: usize) {
        let Some(session_queues) = self.find(session.id) else {
            session.bus.note_quiesced(index, session.bus.state());
            return routes.control.send(ControlMessage::Released);
        };
        // Who waits already tells of the newest state.
        if !session_queues.set_quiescing(true) {
            self.wait_for(PendingCheck::Quiesce { session_queues, index });
        }
    }

    /// Returns what runs a controller's admin worker, if that is on this group.
    #[must_use]
    pub(crate) fn admin_runner(&self, ctrl: u64) -> Option<Rc<AdminRunner>> {
        self.admin_runners.borrow().iter().find(|runner| runner.ctrl().id == ctrl).cloned()
    }

    /// Has this group run a controller's admin worker.
    pub(crate) fn add_admin_runner(self: &Rc<Self>, runner: Rc<AdminRunner>) {
        self.admin_runners.borrow_mut().push(runner);
        self.need_poller();
    }

    /// A controller is gone.
    pub(crate) fn remove_admin_runner(&self, ctrl: u64) {
        self.admin_runners.borrow_mut().retain(|runner| runner.ctrl().id != ctrl);
    }

    /// Looks at something until it is so.
    pub(super) fn wait_for(self: &Rc<Self>, what: PendingCheck) {
        if let Some(what) = self.check(what) {
            self.waiting.borrow_mut().push(what);
            self.need_poller();
        }
    }

    /// Does what is to be done once it is so; gives it back if it is not yet.
    fn check(&self, what: PendingCheck) -> Option<PendingCheck> {
        match what {
            PendingCheck::Quiesce { session_queues, index } => {
                if session_queues.queues().is_suspended() && !session_queues.queues().is_quiesced() {
                    return Some(PendingCheck::Quiesce { session_queues, index });
                }
                session_queues.set_quiescing(false);
                let session = session_queues.session();
                let state = session.bus.state();
                // What has been allowed, or forbidden again, since: a message tells this group of it, and it comes back
                // here.
                if (state & 1 == 0) == session_queues.queues().is_suspended() {
                    session.bus.note_quiesced(index, state);
                }
                session_queues.routes().control.send(ControlMessage::Released);
            }
            PendingCheck::Request { session_queues, condition, answer } => {
                if !condition.holds(session_queues.queues()) {
                    return Some(PendingCheck::Request { session_queues, condition, answer });
                }
                answer.send(Answer::Done);
            }
            PendingCheck::Clear { ctrl } => {
                if !self.reap_all_of(ctrl) {
                    return Some(PendingCheck::Clear { ctrl });
                }
                self.handle.send_app(AppMessage::Clear { ctrl });
            }
        }
        None
    }

    /// Frees what is left of sessions whose I/Os have ended. Returns whether nothing of a controller is left here.
    #[must_use]
    pub(crate) fn reap_all_of(&self, ctrl: u64) -> bool {
        self.reap();
        let of_ctrl = |session_queues: &Rc<SessionQueues>| session_queues.session().ctrl.id == ctrl;
        !self.sessions.borrow().iter().any(of_ctrl) && !self.ended.borrow().iter().any(of_ctrl)
    }

    fn reap(&self) {
        if self.ended.borrow().is_empty() {
            return;
        }
        self.ended.borrow_mut().retain(|session_queues| {
            session_queues.count();
            !session_queues.queues().reap()
        });
    }

    fn need_poller(self: &Rc<Self>) {
        if self.poller.borrow().is_some() {
            return;
        }
        let me = Rc::downgrade(self);
        let poll = move || me.upgrade().map_or(Poll::Idle, |group| group.poll());
        self.now.set(spdk::time::ticks());
        match Poller::register("courier_queues", Duration::ZERO, poll) {
            Ok(poller) => drop(self.poller.replace(Some(poller))),
            Err(error) => log::error!("the poll group on core {} has no poller: {error}", self.handle.core),
        }
    }

    /// Makes the poller the first of its thread: SPDK calls the one that was registered last first. What it takes from
    /// the guests is then sent, or done, by the bdevs' pollers within the same round.
    fn lead_pollers(self: &Rc<Self>) {
        self.poller.take();
        self.need_poller();
    }

    #[inline]
    fn poll(self: &Rc<Self>) -> Poll {
        let round = self.round.get().wrapping_add(1);
        self.round.set(round);
        let mut busy = false;
        let mut dozed = false;
        let awake = self.awake.borrow();
        for session_queues in awake.iter() {
            busy |= self.poll_session(session_queues);
            dozed |= session_queues.is_idle();
        }
        drop(awake);
        if dozed {
            self.awake.borrow_mut().retain(|session_queues| !session_queues.is_idle());
        }
        let sessions = self.sessions.borrow();
        for at in self.idle_polls.turns(sessions.len()) {
            if let Some(session_queues) = sessions.get(at).filter(|session_queues| session_queues.is_idle())
                && self.poll_session(session_queues)
            {
                busy = true;
                self.awake.borrow_mut().push(Rc::clone(session_queues));
            }
        }
        drop(sessions);
        self.idle_polls.found(busy);
        if round & (ADMIN_INTERVAL - 1) == 0 {
            busy |= self.poll_seldom(round);
        }
        if busy { Poll::Busy } else { Poll::Idle }
    }

    #[inline]
    fn poll_session(&self, session_queues: &SessionQueues) -> bool {
        let is_busy = session_queues.poll(self.now.get(), &self.raising);
        if session_queues.take_changed_memory() {
            self.forget_rings(session_queues.session().id);
        }
        is_busy
    }

    fn poll_seldom(self: &Rc<Self>, round: u32) -> bool {
        self.now.set(spdk::time::ticks());
        spdk::trace::refresh();
        let rarely = round & (HOUSEKEEPING_INTERVAL - 1) == 0;
        let mut busy = false;
        let admin_runners = self.admin_runners.borrow().len();
        for _ in 0..if rarely { admin_runners } else { admin_runners.min(ADMIN_BATCH) } {
            let Some(runner) = self.runner_in_turn() else { break };
            busy |= runner.poll();
            if rarely {
                runner.tick();
            }
        }
        self.reap();
        self.poll_pending_checks();
        for session_queues in self.awake.borrow().iter() {
            session_queues.queues().send_fenced();
            session_queues.queues().reap();
        }
        // Whoever is polled first is served first where something is short.
        if self.awake.borrow().len() > 1 {
            self.awake.borrow_mut().rotate_left(1);
        }
        self.look_for_aborts();
        if rarely {
            for session_queues in self.sessions.borrow().iter() {
                session_queues.report();
                self.raising.raise(|| session_queues.remind());
            }
        }
        let over = self.admin_runners.borrow().is_empty()
            && self.sessions.borrow().is_empty()
            && self.ended.borrow().is_empty()
            && self.waiting.borrow().is_empty();
        if over {
            // An idle group costs its core nothing.
            self.poller.take();
        }
        busy
    }

    /// Returns the admin worker whose turn it is. It may go while it is polled, so that the list of them is not held.
    fn runner_in_turn(&self) -> Option<Rc<AdminRunner>> {
        let admin_runners = self.admin_runners.borrow();
        let at = if self.next_runner.get() < admin_runners.len() { self.next_runner.get() } else { 0 };
        self.next_runner.set(at + 1);
        admin_runners.get(at).cloned()
    }

    /// Looks whether there is something to abort; it is then looked after in every round.
    fn look_for_aborts(self: &Rc<Self>) {
        if self.aborter.is_looking() || !self.abort_some(|| false) {
            return;
        }
        let me = Rc::downgrade(self);
        self.aborter.begin(self.handle.core, move || {
            me.upgrade().map_or(Poll::Idle, |group| group.aborter.poll(|more| group.abort_some(more)))
        });
    }

    /// Has the backends abort I/Os that are to end and have had their time, as many as `more` allows. Returns whether
    /// there are any.
    fn abort_some(&self, mut more: impl FnMut() -> bool) -> bool {
        let now = Instant::now();
        let mut any = false;
        for session_queues in self.awake.borrow().iter().chain(self.ended.borrow().iter()) {
            any |= session_queues.queues().has_pending_aborts();
            session_queues.abort_some(now, &mut more);
        }
        any
    }

    fn poll_pending_checks(&self) {
        if self.waiting.borrow().is_empty() {
            return;
        }
        for what in self.waiting.take() {
            if let Some(what) = self.check(what) {
                self.waiting.borrow_mut().push(what);
            }
        }
    }

    /// Ends the group: the handle leads to nothing from now on.
    pub(super) fn end(self: &Rc<Self>) {
        GROUPS.with_borrow_mut(|groups| groups.retain(|other| !Rc::ptr_eq(other, self)));
        self.poller.take();
        self.aborter.end();
        self.admin_runners.take();
        self.awake.take();
        for session_queues in self.sessions.take().into_iter().chain(self.ended.take()) {
            session_queues.queues().delete_all();
        }
        self.waiting.take();
    }
}
