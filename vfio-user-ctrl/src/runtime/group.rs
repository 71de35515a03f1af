//! Poll groups: an SPDK thread per core that polls the queues placed on it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use spdk::Errno;
use spdk::bdev_client::BdevDesc;
use spdk::os_thread::OsThread;
use spdk::poller::{Poll, Poller};
use spdk::thread::OwnedThread;

use super::aborter::{Aborter, Patience};
use super::bdevs::Bdevs;
use super::budget::Budget;
use super::home::Home;
use super::pace::Pace;
use super::post::Post;
use super::remote::ClientMemory;
use super::rota::Rota;
use super::session::Session;
use crate::memory::MemView;
use crate::model::io::NsGeometry;
use crate::queue::{Fence, FenceGuard, Port, Queues};

/// A session that has had no command for so many rounds is looked at when its turn comes.
const IDLE_AFTER: u32 = 4096;
/// Every so many rounds, a power of two, come the admin queues.
const SELDOM: u32 = 64;
/// So many of them at most: a host may have hundreds of controllers, whose admin queues are empty.
const HOME_TURNS: usize = 16;
/// Every so many rounds, a power of two, counters are gathered, and errors told.
const RARELY: u32 = 4096;
/// When a host is reminded of its completions after the function may access memory again.
const REMINDERS: [Duration; 3] = [Duration::from_millis(1), Duration::from_millis(10), Duration::from_millis(100)];

/// Changes of a client's memory keep its queues from being polled for no longer than one second in so many.
const LONGEST_PAUSE: u64 = 200;

thread_local! {
    /// The poll groups of this reactor. A group's SPDK thread is bound, so that it stays with its reactor; but that may serve several
    /// groups, since SPDK begins a thread elsewhere whose core does not poll just then.
    static GROUPS: RefCell<Vec<Rc<Group>>> = const { RefCell::new(Vec::new()) };
}

/// What the poll group of a core is to do.
type Message = (u32, Box<dyn FnOnce(&Rc<Group>) + Send>);

/// On the group's thread. What comes when the group has ended is dropped.
fn act((core, message): Message) {
    let group = GROUPS.with_borrow(|groups| groups.iter().find(|group| group.handle.core == core).cloned());
    if let Some(group) = group {
        message(&group);
    }
}

/// A poll group, for other threads.
#[derive(Debug)]
pub struct GroupHandle {
    /// The core that it is for, which tells it from others.
    pub core: u32,
    post: Arc<Post<Message>>,
    reactor: OnceLock<OsThread>,
    /// While interrupts are raised, which time that is; else 0.
    raising: AtomicU64,
    /// What [`watch`](Self::watch) saw last.
    seen: AtomicU64,
}

impl GroupHandle {
    /// Starts a poll group on a core, whose sessions may have `share` I/Os under way.
    ///
    /// # Errors
    /// `NOMEM` when SPDK cannot make its thread.
    pub fn start(core: u32, share: usize) -> Result<Arc<Self>, Errno> {
        let thread = OwnedThread::on_core(&format!("courier_{core}"), core)?;
        let thread = Arc::new(thread);
        let way = Arc::clone(&thread);
        let post = Post::new(act, move |call| way.send(call));
        let (reactor, raising, seen) = (OnceLock::new(), AtomicU64::new(0), AtomicU64::new(0));
        let handle = Arc::new(Self { core, post, reactor, raising, seen });
        let me = Arc::clone(&handle);
        thread.send(move || {
            me.reactor.get_or_init(OsThread::current);
            GROUPS.with_borrow_mut(|groups| groups.push(Rc::new(Group::new(me, share))));
        })?;
        Ok(handle)
    }

    /// Calls `f` on the group's thread, later. Messages of one thread come in the order in which it sent them.
    pub fn send(&self, f: impl FnOnce(&Rc<Group>) + Send + 'static) {
        self.post.send((self.core, Box::new(f)));
    }

    /// Gets the reactor out of raising interrupts if it has been at that since the last call: a client has made an eventfd of its
    /// block. To be called by one thread, every few milliseconds.
    pub fn watch(&self) {
        let raising = self.raising.load(Ordering::Relaxed);
        if raising != 0
            && self.seen.swap(raising, Ordering::Relaxed) == raising
            && let Some(reactor) = self.reactor.get()
        {
            reactor.interrupt();
        }
    }

    /// Ends the group. Its thread exits when the last handle is dropped.
    pub fn stop(&self) {
        self.send(|group| {
            GROUPS.with_borrow_mut(|groups| groups.retain(|other| !Rc::ptr_eq(other, group)));
            group.end();
        });
    }
}

/// What a namespace is on a poll group, before it has a channel.
#[derive(Debug, Clone)]
pub struct PortSpec {
    /// The namespace.
    pub nsid: u32,
    /// Its bdev.
    pub desc: Arc<BdevDesc>,
    /// Its size and abilities.
    pub geometry: NsGeometry,
    /// The fence of its disk.
    pub fence: Arc<Fence>,
}

/// A session on one poll group.
#[derive(Debug)]
pub struct Local {
    session: Arc<Session>,
    queues: Queues<Bdevs>,
    epoch: Cell<u64>,
    /// Of changes of the client's memory.
    pace: Pace,
    /// The memory has changed, and the admin queue may still be where it was.
    took_memory: Cell<bool>,
    idle_rounds: Cell<u32>,
    /// It has had nothing to do for long, and has nothing under way.
    idle: Cell<bool>,
    /// How many I/Os it had under way when that was last counted.
    counted: Cell<usize>,
    patience: Patience,
    /// When it told last what has been gathered.
    reported: Cell<Instant>,
    /// It is waited for its backends to come to rest.
    resting: Cell<bool>,
    /// When it could access guest memory again, and how often the host was reminded of its completions since.
    resumed: Cell<Option<(Instant, usize)>>,
}

impl Local {
    fn new(session: &Arc<Session>, ports: &[PortSpec], group: &Arc<GroupHandle>) -> Rc<Self> {
        // The epoch before the table: a table that is newer than its epoch is looked at twice, never missed.
        let epoch = session.memory.epoch();
        let view = MemView::new(session.memory.newest());
        let queues = Queues::new(
            Arc::clone(&session.doorbells),
            Arc::clone(&session.interrupts),
            Rc::new(view),
            super::home::MAX_TRANSFER,
            spdk::time::ticks,
        );
        queues.set_remote_memory(Box::new(ClientMemory::new(session, group)));
        let (session, epoch) = (Arc::clone(session), Cell::new(epoch));
        let local = Self {
            session,
            queues,
            epoch,
            pace: Pace::new(spdk::time::ticks_hz() / LONGEST_PAUSE),
            took_memory: Cell::new(false),
            idle_rounds: Cell::new(0),
            idle: Cell::new(false),
            counted: Cell::new(0),
            reported: Cell::new(Instant::now()),
            resting: Cell::new(false),
            patience: Patience::default(),
            resumed: Cell::new(None),
        };
        local.take_bus();
        for port in ports {
            local.add_port(port);
        }
        Rc::new(local)
    }

    /// The queues.
    #[must_use]
    pub fn queues(&self) -> &Queues<Bdevs> {
        &self.queues
    }

    fn add_port(&self, spec: &PortSpec) {
        match spec.desc.channel() {
            Ok(channel) => {
                self.queues.add_port(Port::new(spec.nsid, spec.geometry, channel).behind(&spec.fence));
            }
            Err(error) => log::error!(
                "controller '{}': namespace {} has no channel on a core: {error}",
                self.session.ctrl.name,
                spec.nsid
            ),
        }
    }

    /// Takes the newest table of guest memory if it has changed.
    #[inline]
    pub fn refresh(&self) {
        let epoch = self.session.memory.epoch();
        if self.epoch.get() != epoch {
            self.take_memory(epoch);
        }
    }

    /// The same, unless that has taken more than its part of this thread's time lately. Returns whether the newest table is there: no
    /// command may be taken before.
    #[inline]
    fn refresh_in_time(&self) -> bool {
        let epoch = self.session.memory.epoch();
        self.epoch.get() == epoch || self.take_memory_in_time(epoch)
    }

    #[cold]
    fn take_memory_in_time(&self, epoch: u64) -> bool {
        let now = spdk::time::ticks();
        let is_due = self.pace.is_due(now);
        if is_due {
            self.take_memory(epoch);
            self.pace.worked(now, spdk::time::ticks());
        }
        is_due
    }

    #[cold]
    fn take_memory(&self, epoch: u64) {
        self.epoch.set(epoch);
        self.took_memory.set(true);
        self.queues.set_view(&Rc::new(MemView::new(self.session.memory.newest())));
    }

    /// Takes what the host has set.
    pub fn take_settings(&self) {
        let settings = self.session.settings();
        self.queues.set_shadow_doorbells(settings.shadow);
        self.queues.set_coalescing(settings.coalescing, settings.at_once);
    }

    /// Takes whether guest memory may be accessed.
    fn take_bus(&self) {
        match (self.session.bus.is_allowed(), self.queues.is_suspended()) {
            (false, false) => self.queues.suspend(),
            (true, true) => {
                self.queues.resume();
                self.resumed.set(Some((Instant::now(), 0)));
            }
            _ => {}
        }
    }

    /// Reminds the host of its completions a few times after it has let the function access memory again. A VMM may let go of the
    /// interrupts that are raised before it has done its own part of that.
    fn remind(&self) {
        let Some((since, count)) = self.resumed.get() else { return };
        match REMINDERS.get(count) {
            None => self.resumed.set(None),
            Some(after) if since.elapsed() >= *after => {
                self.resumed.set(Some((since, count + 1)));
                self.queues.remind();
            }
            Some(_) => {}
        }
    }

    /// Polls the queues. Whether there was anything to do.
    #[inline]
    fn poll(&self, group: &Group) -> bool {
        self.queues.set_room(group.budget.room(self.counted.get()));
        // No command is taken before the table is there that it may rely on.
        let done = self.refresh_in_time() && self.queues.poll() > 0;
        if self.took_memory.take() {
            group.forget_rings(self.session.id);
        }
        if done || self.counted.get() > 0 {
            self.count(&group.budget);
        }
        if self.queues.has_signals() {
            group.raise(|| self.queues.signal());
        }
        if done {
            self.idle_rounds.set(0);
            self.idle.set(false);
        } else if self.idle_rounds.get() < IDLE_AFTER {
            self.idle_rounds.set(self.idle_rounds.get() + 1);
        } else if !self.idle.get() {
            self.idle.set(self.queues.is_empty_handed());
        }
        done
    }

    /// Counts the I/Os that are under way.
    #[inline]
    fn count(&self, budget: &Budget) {
        let now = self.queues.under_way();
        budget.note(self.counted.replace(now), now);
    }

    /// Tells what has been gathered.
    fn report(&self) {
        let counters = &self.session.ctrl.counters;
        self.queues.take_totals(|sqid, totals| counters.add(sqid, totals));
        counters.add_bounced(self.queues.take_bounced());
        let media_errors = self.queues.take_media_errors();
        if media_errors > 0 {
            counters.add_media_errors(media_errors);
        }
        let now = Instant::now();
        let since = self.reported.replace(now);
        if !self.queues.is_empty_handed() {
            counters.add_busy(since, now);
        }
        self.queues.look_at_heads();
        let troubles = self.queues.take_troubles();
        if troubles.is_empty() {
            return;
        }
        let (ctrl, session) = (self.session.ctrl.id, self.session.id);
        self.session.ctrl.home.send(move |group| {
            if let Some(home) = group.home(ctrl) {
                home.note_troubles(session, &troubles);
            }
        });
    }
}

type Condition = Box<dyn Fn() -> bool>;
type Then = Box<dyn FnOnce()>;

/// A poll group on its thread.
#[derive(Debug)]
pub struct Group {
    handle: Arc<GroupHandle>,
    sessions: RefCell<Vec<Rc<Local>>>,
    /// Those of them that are not idle, with room for all: a round that serves one guest does not touch the memory of a hundred others.
    awake: RefCell<Vec<Rc<Local>>>,
    /// Sessions that are over, but whose I/Os have not all ended.
    ending: RefCell<Vec<Rc<Local>>>,
    homes: RefCell<Vec<Rc<Home>>>,
    next_home: Cell<usize>,
    waiting: RefCell<Waiting>,
    round: Cell<u32>,
    rota: Rota,
    raised: Cell<u64>,
    aborter: Aborter,
    budget: Budget,
    poller: RefCell<Option<Poller>>,
}

#[derive(Default)]
struct Waiting(Vec<(Condition, Then)>);

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Waiting").field(&self.0.len()).finish()
    }
}

impl Group {
    fn new(handle: Arc<GroupHandle>, share: usize) -> Self {
        Self {
            handle,
            sessions: RefCell::default(),
            awake: RefCell::default(),
            ending: RefCell::default(),
            homes: RefCell::default(),
            next_home: Cell::new(0),
            waiting: RefCell::default(),
            round: Cell::new(0),
            rota: Rota::default(),
            raised: Cell::new(0),
            aborter: Aborter::default(),
            budget: Budget::new(share),
            poller: RefCell::default(),
        }
    }

    /// The group's handle.
    #[must_use]
    pub fn handle(&self) -> &Arc<GroupHandle> {
        &self.handle
    }

    /// What aborts I/Os here.
    pub(super) fn aborter(&self) -> &Aborter {
        &self.aborter
    }

    /// The session on this group, made if it is not there.
    pub fn local(self: &Rc<Self>, session: &Arc<Session>, ports: &[PortSpec]) -> Rc<Local> {
        if let Some(local) = self.find(session.id) {
            return local;
        }
        let local = Local::new(session, ports, &self.handle);
        let mut sessions = self.sessions.borrow_mut();
        sessions.push(Rc::clone(&local));
        let mut awake = self.awake.borrow_mut();
        let room = sessions.len().saturating_sub(awake.len());
        awake.reserve(room);
        awake.push(Rc::clone(&local));
        drop((sessions, awake));
        self.lead_pollers();
        local
    }

    /// Opens a channel to a namespace's bdev for a session that is here.
    pub fn add_port(self: &Rc<Self>, session: u64, spec: &PortSpec) {
        if let Some(local) = self.find(session) {
            local.add_port(spec);
            self.lead_pollers();
        }
    }

    /// The session on this group, if it is there. What is asked of it may leave something to be looked after (queues that are
    /// deleted, I/Os that are to be aborted), so that it is awake from now on.
    #[must_use]
    pub fn find(&self, session: u64) -> Option<Rc<Local>> {
        let local = self.sessions.borrow().iter().find(|local| local.session.id == session).cloned()?;
        self.wake(&local);
        Some(local)
    }

    /// Has a session looked after in every round, as long as it is not idle again.
    fn wake(&self, local: &Rc<Local>) {
        local.idle_rounds.set(0);
        if local.idle.replace(false) {
            let mut awake = self.awake.borrow_mut();
            if !awake.iter().any(|other| Rc::ptr_eq(other, local)) {
                awake.push(Rc::clone(local));
            }
        }
    }

    /// A session is over: its queues go at once, its I/Os when they end. `guards` are of the fences of its namespaces' disks.
    pub fn end_session(self: &Rc<Self>, session: u64, guards: Arc<Vec<FenceGuard>>) {
        let mut sessions = self.sessions.borrow_mut();
        let Some(at) = sessions.iter().position(|local| local.session.id == session) else { return };
        let local = sessions.swap_remove(at);
        drop(sessions);
        self.awake.borrow_mut().retain(|other| !Rc::ptr_eq(other, &local));
        local.report();
        local.queues.delete_all();
        local.queues.forget_transfers();
        local.queues.retire_ports();
        self.ending.borrow_mut().push(local);
        // Until here, for what would come between the sessions.
        drop(guards);
    }

    /// A transfer with the session's client has ended.
    pub fn transferred(&self, session: u64, id: u64, result: Result<Vec<Vec<u8>>, i32>) {
        if let Some(local) = self.find(session) {
            local.queues.transferred(id, result);
        }
    }

    /// The session's guest memory or its eventfds have changed: what is no longer mapped is let go as soon as no I/O touches it.
    pub fn refresh(&self, session: u64) {
        if let Some(local) = self.find(session) {
            local.refresh_in_time();
            self.raise(|| {
                local.take_bus();
                local.queues.catch_up();
            });
        }
        for local in self.ending.borrow().iter().filter(|local| local.session.id == session) {
            local.refresh();
        }
        self.forget_rings(session);
    }

    /// The session's admin queue is looked for anew.
    fn forget_rings(&self, session: u64) {
        for home in self.homes.borrow().iter() {
            home.forget_rings(session);
        }
    }

    /// Tells the session, whose poll group of that index this is, when nothing here accesses guest memory that must not be accessed
    /// any more. `told` is called then.
    pub fn rest(self: &Rc<Self>, session: &Arc<Session>, index: usize, told: impl FnOnce() + 'static) {
        let Some(local) = self.find(session.id) else {
            session.bus.rested(index, session.bus.state());
            return told();
        };
        if local.resting.replace(true) {
            // Who waits already tells of the newest state.
            return;
        }
        let (waiting, session) = (Rc::clone(&local), Arc::clone(session));
        let is_at_rest = move || !waiting.queues.is_suspended() || waiting.queues.is_at_rest();
        self.when(is_at_rest, move || {
            local.resting.set(false);
            let state = session.bus.state();
            // What has been allowed, or forbidden again, since: a message tells this group of it, and it comes back here.
            if (state & 1 == 0) == local.queues.is_suspended() {
                session.bus.rested(index, state);
            }
            told();
        });
    }

    /// A controller whose home is this group.
    #[must_use]
    pub fn home(&self, ctrl: u64) -> Option<Rc<Home>> {
        self.homes.borrow().iter().find(|home| home.ctrl().id == ctrl).cloned()
    }

    /// Makes this group the home of a controller.
    pub fn add_home(self: &Rc<Self>, home: Rc<Home>) {
        self.homes.borrow_mut().push(home);
        self.need_poller();
    }

    /// A controller is gone.
    pub fn remove_home(&self, ctrl: u64) {
        self.homes.borrow_mut().retain(|home| home.ctrl().id != ctrl);
    }

    /// Calls `then` once `condition` holds.
    pub fn when(self: &Rc<Self>, condition: impl Fn() -> bool + 'static, then: impl FnOnce() + 'static) {
        if condition() {
            return then();
        }
        self.waiting.borrow_mut().0.push((Box::new(condition), Box::new(then)));
        self.need_poller();
    }

    /// Whether nothing of a controller is left here.
    #[must_use]
    pub fn is_clear_of(&self, ctrl: u64) -> bool {
        self.reap();
        let of_ctrl = |local: &Rc<Local>| local.session.ctrl.id == ctrl;
        !self.sessions.borrow().iter().any(of_ctrl) && !self.ending.borrow().iter().any(of_ctrl)
    }

    /// Raises interrupts, by `f`, so that [`GroupHandle::watch`] knows.
    #[inline]
    fn raise(&self, f: impl FnOnce()) {
        let count = self.raised.get().wrapping_add(1).max(1);
        self.raised.set(count);
        self.handle.raising.store(count, Ordering::Relaxed);
        f();
        self.handle.raising.store(0, Ordering::Relaxed);
    }

    fn reap(&self) {
        if self.ending.borrow().is_empty() {
            return;
        }
        self.ending.borrow_mut().retain(|local| {
            local.count(&self.budget);
            !local.queues.reap()
        });
    }

    fn need_poller(self: &Rc<Self>) {
        if self.poller.borrow().is_some() {
            return;
        }
        let me = Rc::downgrade(self);
        let poll = move || me.upgrade().map_or(Poll::Idle, |group| group.poll());
        match Poller::register("courier_queues", Duration::ZERO, poll) {
            Ok(poller) => drop(self.poller.replace(Some(poller))),
            Err(error) => log::error!("the poll group on core {} has no poller: {error}", self.handle.core),
        }
    }

    /// Makes the poller the first of its thread: SPDK calls the one that was registered last first. What it takes from the guests
    /// is then sent, or done, by the bdevs' pollers within the same round.
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
        for local in awake.iter() {
            busy |= local.poll(self);
            dozed |= local.idle.get();
        }
        drop(awake);
        if dozed {
            self.awake.borrow_mut().retain(|local| !local.idle.get());
        }
        let sessions = self.sessions.borrow();
        for at in self.rota.turns(sessions.len()) {
            if let Some(local) = sessions.get(at).filter(|local| local.idle.get())
                && local.poll(self)
            {
                busy = true;
                self.awake.borrow_mut().push(Rc::clone(local));
            }
        }
        drop(sessions);
        self.rota.found(busy);
        if round & (SELDOM - 1) == 0 {
            busy |= self.poll_seldom(round);
        }
        if busy { Poll::Busy } else { Poll::Idle }
    }

    fn poll_seldom(self: &Rc<Self>, round: u32) -> bool {
        let rarely = round & (RARELY - 1) == 0;
        let mut busy = false;
        let homes = self.homes.borrow().len();
        for _ in 0..if rarely { homes } else { homes.min(HOME_TURNS) } {
            let Some(home) = self.home_in_turn() else { break };
            busy |= home.poll();
            if rarely {
                home.tick();
            }
        }
        self.reap();
        self.settle();
        for local in self.awake.borrow().iter() {
            local.queues.pass_fences();
            local.queues.reap();
        }
        // Whoever is polled first is served first where something is short.
        if self.awake.borrow().len() > 1 {
            self.awake.borrow_mut().rotate_left(1);
        }
        self.aborter.look(self);
        if rarely {
            for local in self.sessions.borrow().iter() {
                local.report();
                self.raise(|| local.remind());
            }
        }
        let over = self.homes.borrow().is_empty()
            && self.sessions.borrow().is_empty()
            && self.ending.borrow().is_empty()
            && self.waiting.borrow().0.is_empty();
        if over {
            // An idle group costs its core nothing.
            self.poller.take();
        }
        busy
    }

    /// The home whose turn it is. It may go while it is polled, so that the list of homes is not held.
    fn home_in_turn(&self) -> Option<Rc<Home>> {
        let homes = self.homes.borrow();
        let at = if self.next_home.get() < homes.len() { self.next_home.get() } else { 0 };
        self.next_home.set(at + 1);
        homes.get(at).cloned()
    }

    /// Has the backends abort I/Os that are to end and have had their time, as many as `more` allows. Whether there are any.
    pub(super) fn abort_some(&self, mut more: impl FnMut() -> bool) -> bool {
        let now = Instant::now();
        let mut any = false;
        for local in self.awake.borrow().iter().chain(self.ending.borrow().iter()) {
            any |= local.queues.has_doomed();
            local.patience.abort_some(&local.queues, now, &mut more);
        }
        any
    }

    fn settle(&self) {
        if self.waiting.borrow().0.is_empty() {
            return;
        }
        let waiting = std::mem::take(&mut self.waiting.borrow_mut().0);
        for (condition, then) in waiting {
            if condition() {
                then();
            } else {
                self.waiting.borrow_mut().0.push((condition, then));
            }
        }
    }

    fn end(&self) {
        self.poller.take();
        self.aborter.end();
        self.homes.take();
        self.awake.take();
        for local in self.sessions.take().into_iter().chain(self.ending.take()) {
            local.queues.delete_all();
        }
        self.waiting.take();
    }
}
