//! A client's session on one poll group: its queues there, and how they are polled.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::aborter::AbortTimer;
use super::bdevs::{Bdevs, Metered};
use super::budget::{Budget, Meters};
use super::client_dma::ClientMemory;
use super::interrupt_watch::InterruptWatch;
use super::log_budget::warn_ratelimited;
use super::messages::{AdminMessage, GroupHandle, NamespaceSpec, Routes};
use super::session::Session;
use super::throttle::Throttle;
use guest_memory::MemView;
use nvme_device::admin_worker::{Answer, Condition, GroupRequest};
use nvme_device::queue::{NamespaceChannel, Queues};

/// A session that has had no command for so many rounds is looked at when its turn comes.
const IDLE_AFTER: u32 = 4096;
/// When a host is reminded of its completions after the function may access memory again.
const REMINDERS: [Duration; 3] = [Duration::from_millis(1), Duration::from_millis(10), Duration::from_millis(100)];

/// Changes of a client's memory keep its queues from being polled for no longer than one second in so many.
const LONGEST_PAUSE: u64 = 200;

/// A session on one poll group.
#[derive(Debug)]
pub(super) struct SessionQueues {
    session: Arc<Session>,
    routes: Arc<Routes>,
    queues: Queues<Bdevs>,
    epoch: Cell<u64>,
    /// Of changes of the client's memory.
    throttle: Throttle,
    /// The memory has changed, and the admin queue may still be where it was.
    took_memory: Cell<bool>,
    idle_rounds: Cell<u32>,
    /// It has had nothing to do for long, and has nothing in flight.
    idle: Cell<bool>,
    /// What it has in flight, by what may hang as a whole.
    meters: Meters,
    abort_timer: AbortTimer,
    /// When it told last what has been gathered.
    reported: Cell<Instant>,
    /// It is waited for its backends to come to rest.
    quiescing: Cell<bool>,
    /// When it could access guest memory again, and how often the host was reminded of its completions since.
    resumed: Cell<Option<(Instant, usize)>>,
}

impl SessionQueues {
    /// Returns what there is of a session on a poll group.
    pub(super) fn new(
        session: &Arc<Session>,
        routes: &Arc<Routes>,
        specs: &[NamespaceSpec],
        group: &Arc<GroupHandle>,
        budget: &Rc<Budget>,
    ) -> Rc<Self> {
        // The epoch before the table: a table that is newer than its epoch is looked at twice, never missed.
        let epoch = session.memory.epoch();
        let view = MemView::new(session.memory.newest());
        let queues = Queues::new(
            Arc::clone(&session.doorbells),
            Arc::clone(&session.interrupts),
            Rc::new(view),
            super::session::MAX_TRANSFER,
            spdk::time::ticks,
        );
        queues.set_trace_owner(session.ctrl.trace_owner.id());
        if let Some(memory) = &session.queue_memory {
            queues.set_queue_memory(Arc::clone(memory));
        }
        queues.set_client_dma(Box::new(ClientMemory::new(session, &routes.control, group)));
        let (session, routes, epoch) = (Arc::clone(session), Arc::clone(routes), Cell::new(epoch));
        let session_queues = Self {
            session,
            routes,
            queues,
            epoch,
            throttle: Throttle::new(spdk::time::ticks_hz() / LONGEST_PAUSE),
            took_memory: Cell::new(false),
            idle_rounds: Cell::new(0),
            idle: Cell::new(false),
            meters: Meters::default(),
            reported: Cell::new(Instant::now()),
            quiescing: Cell::new(false),
            abort_timer: AbortTimer::default(),
            resumed: Cell::new(None),
        };
        session_queues.take_bus();
        for spec in specs {
            session_queues.add_namespace(spec, budget);
        }
        Rc::new(session_queues)
    }

    /// Returns the queues.
    #[must_use]
    #[inline]
    pub(crate) fn queues(&self) -> &Queues<Bdevs> {
        &self.queues
    }

    /// Returns its session.
    #[inline]
    pub(super) fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// Returns the ways to its controller's threads.
    pub(super) fn routes(&self) -> &Routes {
        &self.routes
    }

    /// Returns whether it has had nothing to do for long, and has nothing in flight.
    #[inline]
    pub(super) fn is_idle(&self) -> bool {
        self.idle.get()
    }

    /// It may have something to do. Returns whether it was idle.
    pub(super) fn wake(&self) -> bool {
        self.idle_rounds.set(0);
        self.idle.replace(false)
    }

    /// It is waited for its backends to come to rest, or no longer. Returns whether it was before.
    pub(super) fn set_quiescing(&self, quiescing: bool) -> bool {
        self.quiescing.replace(quiescing)
    }

    /// Calls `f`, in which the backends' lines in the log are at the client's expense.
    fn charging_client<R>(&self, f: impl FnOnce() -> R) -> R {
        let ctrl = Arc::clone(&self.session.ctrl);
        spdk::log::charged_to(ctrl, f)
    }

    /// Has the backends abort I/Os that are to end, as many as `more` allows, if it is time at `now`.
    pub(super) fn abort_some(&self, now: Instant, more: impl FnMut() -> bool) {
        if self.queues.has_pending_aborts() {
            self.charging_client(|| self.abort_timer.abort_some(&self.queues, now, more));
        } else {
            self.abort_timer.stop();
        }
    }

    /// Does what the admin worker asks for here. `answer` hears of the end, as by [`GroupRequest::carry_out`].
    pub(super) fn carry_out<A>(&self, request: GroupRequest, answer: A) -> Option<(Condition, A)>
    where
        A: FnOnce(Answer) + 'static,
    {
        if request.needs_newest_memory() {
            self.refresh();
        }
        self.charging_client(|| request.carry_out(&self.queues, self.session.settings(), answer))
    }

    /// Gives the session a namespace here.
    pub(super) fn add_namespace(&self, spec: &NamespaceSpec, budget: &Rc<Budget>) {
        match Metered::new(&spec.desc, &self.meters, budget) {
            Ok(channel) => {
                self.queues.add_namespace(NamespaceChannel::new(spec.nsid, spec.geometry, channel).behind(&spec.fence));
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
    pub(crate) fn refresh(&self) {
        let epoch = self.session.memory.epoch();
        if self.epoch.get() != epoch {
            self.take_memory(epoch);
        }
    }

    /// Returns the same, unless that has taken more than its part of this thread's time lately. Returns whether the
    /// newest table is there: no command may be taken before.
    #[inline]
    pub(super) fn refresh_in_time(&self) -> bool {
        let epoch = self.session.memory.epoch();
        self.epoch.get() == epoch || self.take_memory_in_time(epoch)
    }

    /// Returns whether the newest table is there.
    #[inline]
    fn is_current(&self) -> bool {
        self.epoch.get() == self.session.memory.epoch()
    }

    #[cold]
    fn take_memory_in_time(&self, epoch: u64) -> bool {
        let now = spdk::time::ticks();
        let is_due = self.throttle.is_due(now);
        if is_due {
            self.take_memory(epoch);
            self.throttle.charge(now, spdk::time::ticks());
        }
        is_due
    }

    #[cold]
    fn take_memory(&self, epoch: u64) {
        self.epoch.set(epoch);
        self.took_memory.set(true);
        self.queues.set_view(&Rc::new(MemView::new(self.session.memory.newest())));
    }

    /// Takes whether guest memory may be accessed.
    pub(super) fn take_bus(&self) {
        match (self.session.bus.is_allowed(), self.queues.is_suspended()) {
            (false, false) => self.queues.suspend(),
            (true, true) => {
                self.queues.resume();
                self.resumed.set(Some((Instant::now(), 0)));
            }
            _ => {}
        }
    }

    /// Reminds the host of its completions a few times after it has let the function access memory again. A VMM may let
    /// go of the interrupts that are raised before it has done its own part of that.
    pub(super) fn remind(&self) {
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

    /// Returns whether the memory has changed since this was asked last, so that the admin queue may not be where it
    /// was.
    #[inline]
    pub(super) fn take_changed_memory(&self) -> bool {
        self.took_memory.take()
    }

    /// Polls the queues. Returns whether there was anything to do.
    #[inline]
    pub(super) fn poll(&self, now: u64, raising: &InterruptWatch) -> bool {
        self.queues.set_now(now);
        self.queues.set_room(self.meters.refresh());
        self.queues.send_held();
        // No command is taken before the table is there that it may rely on: one whose doorbell was rung since is taken
        // in the next round.
        let done = self.refresh_in_time() && self.queues.poll_if(|| self.is_current()) > 0;
        if done {
            self.meters.note();
        }
        if self.queues.has_signals() {
            raising.raise(|| self.queues.signal());
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

    /// Counts what it has in flight, which it may have no more than.
    pub(super) fn count(&self) {
        self.meters.note();
    }

    /// Tells what has been gathered.
    pub(super) fn report(&self) {
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
        self.meters.forget_unused();
        for fault in self.queues.take_faults() {
            warn_ratelimited!(self.session.ctrl, "controller '{}': {fault}", self.session.ctrl.name);
        }
        let error_events = self.queues.take_error_events();
        if error_events.is_empty() {
            return;
        }
        self.routes.send_admin(AdminMessage::ErrorEvents { session: self.session.id, error_events });
    }
}
