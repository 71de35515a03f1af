//! A pool's controller: how it is found again when it is away, and how it goes. All of it runs on the application's
//! thread.
//!
//! ```text
//!   Connected -> ClosingQueues -> Disconnecting -> Reconnecting -> OpeningQueues -> Connected
//!       (lost or reset)               ^    |             | (failed)        | (failed)
//!                                     |    v             v                 v
//!                                     |  Waiting <- Disconnecting    ClosingQueues
//!                                     +----- GivenUp (after ctrlr_loss_timeout_sec)
//! ```
//! A pool that has never answered has no controller yet: its attempts are made in `Connecting`, which stands in the place of
//! `Reconnecting`, and the first one that succeeds gives it its controller.
//!
//! A pool that is being deleted goes on from wherever it is to `Detaching`, and is gone.

mod namespaces;
mod survey;
mod watch;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use spdk::Errno;
use spdk::bdev::Bdev;
use spdk::io_device::IoDevice;
use spdk::nvme::{Connect, Ctrlr, Detach};
use spdk::poller::{Poll, Poller};

use crate::channel::{PoolChannel, PoolDevice, PoolShared};
use crate::disk::Disk;
use crate::params::PoolParams;
use crate::{module, registry, rpc};
use watch::Watch;

pub use namespaces::BdevError;
pub(crate) use namespaces::find_pending;

/// How often the admin queue of a connected pool is polled.
const ADMIN_PERIOD: Duration = Duration::from_millis(10);
/// How often a pool that is on its way to another state is looked after.
const BUSY_PERIOD: Duration = Duration::from_millis(1);

/// Where a pool stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It takes I/O.
    Connected,
    /// Its I/O queues are being disconnected.
    ClosingQueues,
    /// Its admin queue is being disconnected.
    Disconnecting,
    /// The next attempt to connect is due at that time.
    Waiting(Instant),
    /// It has no controller yet, and one is being connected.
    Connecting,
    /// Its controller is being connected and initialised again.
    Reconnecting,
    /// Its I/O queues are being connected again.
    OpeningQueues,
    /// It was away for too long; no further attempt is made.
    GivenUp,
    /// It is being deleted.
    Detaching,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::GivenUp => "failed",
            Self::Detaching => "deleting",
            _ => "reconnecting",
        }
    }

    fn period(self) -> Duration {
        if matches!(self, Self::Connected | Self::GivenUp) { ADMIN_PERIOD } else { BUSY_PERIOD }
    }
}

type ResetDone = Box<dyn FnOnce(bool)>;
type Deleted = Box<dyn FnOnce()>;

/// A storage pool: a subsystem that is reached over NVMe-oF.
pub struct Pool {
    me: Weak<Self>,
    params: PoolParams,
    device: IoDevice<PoolDevice>,
    /// None until it has answered for the first time.
    ctrlr: RefCell<Option<Ctrlr>>,
    /// The attempt to get the controller.
    attempt: RefCell<Option<Connect>>,
    detach: RefCell<Option<Detach>>,
    /// It has answered, or an attempt to connect it has failed.
    tried: Cell<bool>,
    /// Its I/O device is gone.
    unregistered: Cell<bool>,
    state: Cell<State>,
    poller: RefCell<Option<Poller>>,
    disks: RefCell<BTreeMap<u32, Bdev<Disk>>>,
    watch: Watch,
    /// Since when it is away.
    lost_at: Cell<Option<Instant>>,
    /// I/O may be held while it is away.
    holds: Cell<bool>,
    /// An attempt to connect has failed: the next one waits.
    wait: Cell<bool>,
    /// A queue was lost while others were still being connected.
    lost_meanwhile: Cell<bool>,
    resets: RefCell<Vec<(u32, ResetDone)>>,
    deleted: RefCell<Vec<Deleted>>,
}

impl Pool {
    /// A pool whose controller has just been connected; it is put into the registry.
    ///
    /// # Errors
    /// What keeps it from being set up; the controller is then left connected to the process' end.
    pub(crate) fn start(params: PoolParams, ctrlr: Ctrlr) -> Result<Rc<Self>, Errno> {
        let pool = Self::register(params, Some(ctrlr))?;
        pool.begin_watch();
        pool.enter(State::Connected);
        Ok(pool)
    }

    /// A pool that is away as long as it does not answer; it is put into the registry, and connecting it is begun.
    ///
    /// # Errors
    /// What keeps it from being set up.
    pub(crate) fn start_away(params: PoolParams) -> Result<Rc<Self>, Errno> {
        let pool = Self::register(params, None)?;
        pool.lost_at.set(Some(Instant::now()));
        pool.reconnect();
        Ok(pool)
    }

    fn register(params: PoolParams, ctrlr: Option<Ctrlr>) -> Result<Rc<Self>, Errno> {
        let shared = PoolShared::new(&params, module::reactors()?, ctrlr.as_ref().map(|ctrlr| ctrlr.shared().clone()));
        let device = IoDevice::register(&format!("courier_pool_{}", params.name), PoolDevice(Arc::new(shared)))?;
        let pool = Rc::new_cyclic(|me| Self {
            me: me.clone(),
            params,
            device,
            ctrlr: RefCell::new(ctrlr),
            attempt: RefCell::new(None),
            detach: RefCell::new(None),
            tried: Cell::new(false),
            unregistered: Cell::new(false),
            state: Cell::new(State::Connecting),
            poller: RefCell::new(None),
            disks: RefCell::new(BTreeMap::new()),
            watch: Watch::default(),
            lost_at: Cell::new(None),
            wait: Cell::new(false),
            lost_meanwhile: Cell::new(false),
            holds: Cell::new(true),
            resets: RefCell::new(Vec::new()),
            deleted: RefCell::new(Vec::new()),
        });
        registry::insert(Rc::clone(&pool));
        Ok(pool)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.params.name
    }

    /// What it was made with.
    #[must_use]
    pub fn params(&self) -> &PoolParams {
        &self.params
    }

    /// Whether it has answered, or has been found away, since it was made.
    pub(crate) fn was_tried(&self) -> bool {
        self.tried.get() && (self.state.get() != State::Connected || self.is_surveyed())
    }

    fn shared(&self) -> &PoolShared {
        &self.device.shared().0
    }

    fn with_ctrlr<R>(&self, f: impl FnOnce(&Ctrlr) -> R) -> Option<R> {
        self.ctrlr.borrow().as_ref().map(f)
    }

    fn is_deleting(&self) -> bool {
        !self.deleted.borrow().is_empty()
    }

    /// Goes to another state, in which it is polled as often as that needs.
    fn enter(&self, state: State) {
        let before = self.state.replace(state);
        if before.period() == state.period() && self.poller.borrow().is_some() {
            return;
        }
        let me = self.me.clone();
        let tick = move || me.upgrade().map_or(Poll::Idle, |pool| pool.tick());
        match Poller::register("courier_pool", state.period(), tick) {
            Ok(poller) => drop(self.poller.replace(Some(poller))),
            Err(error) => log::error!("pool '{}': no poller could be had: {error}", self.name()),
        }
    }

    fn tick(&self) -> Poll {
        match self.state.get() {
            State::Connected => match self.with_ctrlr(Ctrlr::poll_admin) {
                Some(Ok(busy)) => {
                    self.go_on_watching();
                    return if busy { Poll::Busy } else { Poll::Idle };
                }
                Some(Err(error)) => self.connection_lost(&format!("the admin queue failed ({error})")),
                None => {}
            },
            State::ClosingQueues | State::OpeningQueues => {
                // Keep-alives go on; a failure shows in the queues, or once it is connected.
                let _ = self.with_ctrlr(Ctrlr::poll_admin);
                if self.state.get() == State::OpeningQueues {
                    self.go_on_watching();
                }
            }
            State::Disconnecting => {
                if self.with_ctrlr(Ctrlr::poll_admin).is_none_or(|poll| poll.is_err()) {
                    self.disconnected();
                }
            }
            State::Waiting(due) => {
                if Instant::now() >= due {
                    self.reconnect();
                } else {
                    self.check_timeouts();
                    return Poll::Idle;
                }
            }
            State::Connecting => self.go_on_connecting(),
            State::Reconnecting => self.go_on_reconnecting(),
            State::Detaching => self.go_on_detaching(),
            State::GivenUp => return Poll::Idle,
        }
        Poll::Busy
    }

    /// The connection was lost: I/O is held, and the pool is connected again.
    pub(crate) fn connection_lost(&self, reason: &str) {
        if self.state.get() != State::Connected {
            // In `OpeningQueues` its reactor may have been passed already, and would hold its I/O for ever.
            self.lost_meanwhile.set(true);
            return;
        }
        log::warn!("pool '{}': connection to {} lost: {reason}", self.name(), self.params.target());
        self.lost_at.set(Some(Instant::now()));
        self.fail_created("the connection was lost");
        self.close_queues();
    }

    /// Resets the connection for the sake of namespace `nsid`, whose I/O under way is aborted; that of others is sent
    /// again. `done` is told whether that worked.
    pub(crate) fn reset(&self, nsid: u32, done: impl FnOnce(bool) + 'static) {
        if self.is_deleting() || self.state.get() == State::GivenUp {
            return done(false);
        }
        if let Some(disk) = self.disks.borrow().get(&nsid) {
            disk.device().set_resetting(true);
        }
        self.resets.borrow_mut().push((nsid, Box::new(done)));
        if self.state.get() == State::Connected {
            log::info!("pool '{}': connection reset for namespace {nsid}", self.name());
            self.close_queues();
        }
    }

    fn finish_resets(&self, success: bool) {
        for (nsid, done) in self.resets.take() {
            if let Some(disk) = self.disks.borrow().get(&nsid) {
                disk.device().set_resetting(false);
            }
            done(success);
        }
    }

    fn close_queues(&self) {
        self.shared().losses.fetch_add(1, Ordering::Relaxed);
        self.shared().set_ctrlr(None);
        self.enter(State::ClosingQueues);
        let me = self.me.clone();
        let closed = move |_| {
            let Some(pool) = me.upgrade() else { return };
            if pool.is_deleting() && pool.lost_at.get().is_none() {
                // The controller is there, and is told good-bye.
                pool.begin_detaching();
            } else {
                pool.disconnect();
            }
        };
        if let Err(error) = self.device.for_each_channel(PoolChannel::disconnect, closed) {
            log::error!("pool '{}': its queues could not be closed: {error}", self.name());
        }
    }

    fn disconnect(&self) {
        self.enter(State::Disconnecting);
        if let Some(Err(error)) = self.with_ctrlr(Ctrlr::disconnect) {
            log::warn!("pool '{}': disconnecting: {error}", self.name());
            self.disconnected();
        }
    }

    /// The admin queue is gone: connect at once, or later if this follows a failed attempt.
    fn disconnected(&self) {
        let now = Instant::now();
        if self.is_deleting() {
            self.begin_detaching();
        } else if self.is_given_up(now) {
            self.give_up();
        } else if self.wait.take() {
            self.enter(State::Waiting(now + Duration::from_secs(u64::from(self.params.reconnect_delay_sec))));
        } else {
            self.reconnect();
        }
    }

    fn reconnect(&self) {
        if self.is_deleting() {
            return self.begin_detaching();
        }
        if self.with_ctrlr(Ctrlr::reconnect).is_some() {
            return self.enter(State::Reconnecting);
        }
        match self.params.connect() {
            Ok(attempt) => {
                self.attempt.replace(Some(attempt));
                self.enter(State::Connecting);
            }
            Err(error) => {
                log::warn!("pool '{}' at {}: {error}", self.name(), self.params.target());
                self.attempt_failed();
                self.disconnected();
            }
        }
    }

    fn go_on_connecting(&self) {
        if self.is_deleting() {
            return self.begin_detaching();
        }
        self.check_timeouts();
        let outcome = self.attempt.borrow_mut().as_mut().and_then(Connect::poll);
        let Some(outcome) = outcome else { return };
        self.attempt.take();
        match outcome {
            Ok(ctrlr) => {
                self.ctrlr.replace(Some(ctrlr));
                self.open_queues();
            }
            Err(error) => {
                log::debug!("pool '{}' at {}: {error}", self.name(), self.params.target());
                self.attempt_failed();
                self.disconnected();
            }
        }
    }

    fn go_on_reconnecting(&self) {
        if self.is_deleting() || self.is_given_up(Instant::now()) {
            // The attempt ends, and the next poll says so.
            self.with_ctrlr(Ctrlr::fail);
        }
        self.check_timeouts();
        match self.with_ctrlr(Ctrlr::reconnect_poll).flatten() {
            None => {}
            Some(Ok(())) => self.open_queues(),
            Some(Err(_)) => {
                log::debug!("pool '{}': {} could not be reached", self.name(), self.params.target());
                self.attempt_failed();
                self.disconnect();
            }
        }
    }

    fn attempt_failed(&self) {
        self.lost_at.set(self.lost_at.get().or_else(|| Some(Instant::now())));
        self.wait.set(true);
        self.tried.set(true);
        self.finish_resets(false);
    }

    fn open_queues(&self) {
        self.begin_watch();
        self.lost_meanwhile.set(false);
        self.enter(State::OpeningQueues);
        let Some(ctrlr) = self.with_ctrlr(|ctrlr| ctrlr.shared().clone()) else { return };
        self.shared().set_ctrlr(Some(ctrlr.clone()));
        let me = self.me.clone();
        let opened = move |result: Result<(), Errno>| {
            let Some(pool) = me.upgrade() else { return };
            match result {
                Ok(()) => pool.connected_again(),
                Err(error) => {
                    log::warn!("pool '{}': its queues could not be connected: {error}", pool.name());
                    pool.attempt_failed();
                    pool.close_queues();
                }
            }
        };
        let walked = self.device.for_each_channel(move |channel, walk| channel.connect(&ctrlr, walk), opened);
        if let Err(error) = walked {
            log::error!("pool '{}': its queues could not be opened: {error}", self.name());
        }
    }

    fn connected_again(&self) {
        if self.is_deleting() {
            return self.close_queues();
        }
        self.shared().set_failing(!self.holds.get());
        if let Some(lost) = self.lost_at.take() {
            let away = lost.elapsed();
            log::info!("pool '{}': connected again after {:.1} s", self.name(), away.as_secs_f64());
        }
        self.tried.set(true);
        self.enter(State::Connected);
        self.finish_resets(true);
        if self.lost_meanwhile.take() {
            self.connection_lost("an I/O queue was disconnected while others were being connected");
        }
    }

    fn is_given_up(&self, now: Instant) -> bool {
        let Ok(limit) = u64::try_from(self.params.ctrlr_loss_timeout_sec) else { return false };
        self.lost_at.get().is_some_and(|lost| now.duration_since(lost) >= Duration::from_secs(limit))
    }

    fn give_up(&self) {
        log::error!("pool '{}': given up after {} s", self.name(), self.params.ctrlr_loss_timeout_sec);
        self.enter(State::GivenUp);
        self.fail_io();
    }

    /// Once the pool has been away for longer than I/O is to be held, what is held and what comes fails.
    fn check_timeouts(&self) {
        let limit = Duration::from_secs(u64::from(self.params.fast_io_fail_timeout_sec));
        let Some(lost) = self.lost_at.get() else { return };
        if !limit.is_zero() && lost.elapsed() >= limit && !self.shared().is_failing() {
            log::warn!("pool '{}': away for {} s; its I/O fails now", self.name(), limit.as_secs());
            self.fail_io();
        }
    }

    /// From now on no I/O is held for this pool, whatever becomes of it.
    pub(crate) fn hold_no_more(&self) {
        self.holds.set(false);
        self.fail_io();
    }

    fn fail_io(&self) {
        self.shared().set_failing(true);
        self.finish_resets(false);
        if let Err(error) = self.device.for_each_channel(PoolChannel::fail_waiting, |_| {}) {
            log::error!("pool '{}': what waits could not be failed: {error}", self.name());
        }
    }

    /// Deletes the pool and its bdevs: who uses them is told to let go, what waits fails. `done` is called when the pool
    /// is gone.
    pub fn delete(&self, done: impl FnOnce() + 'static) {
        let first = !self.is_deleting();
        self.deleted.borrow_mut().push(Box::new(done));
        if !first {
            return;
        }
        self.hold_no_more();
        self.end_watch();
        let disks: Vec<_> = self.disks.borrow().values().cloned().collect();
        for disk in disks {
            // One that is being removed already comes to `forget_disk` as well.
            let _ = disk.unregister(|_| {});
        }
        self.delete_when_unused();
    }

    fn delete_when_unused(&self) {
        if !self.disks.borrow().is_empty() {
            return;
        }
        match self.state.get() {
            State::Connected => self.close_queues(),
            State::Waiting(_) | State::Connecting | State::GivenUp => self.begin_detaching(),
            // The others come by here on their way.
            _ => {}
        }
    }

    fn begin_detaching(&self) {
        if self.state.get() == State::Detaching || !self.disks.borrow().is_empty() {
            return;
        }
        self.enter(State::Detaching);
        self.shared().set_ctrlr(None);
        if let Some(attempt) = self.attempt.take() {
            rpc::abandon(attempt);
        }
        let me = self.me.clone();
        let unregistered = move || {
            if let Some(pool) = me.upgrade() {
                pool.unregistered.set(true);
            }
        };
        if let Err(error) = self.device.clone().unregister(unregistered) {
            log::error!("pool '{}': its I/O device could not be unregistered: {error}", self.name());
            self.unregistered.set(true);
        }
    }

    /// Detaches the controller once no queue pair refers to it any more.
    fn go_on_detaching(&self) {
        if let Some(ctrlr) = self.ctrlr.take() {
            match ctrlr.detach() {
                Ok(detach) => drop(self.detach.replace(Some(detach))),
                Err(ctrlr) => {
                    self.ctrlr.replace(Some(ctrlr));
                    return;
                }
            }
        }
        let detached = self.detach.borrow_mut().as_mut().is_none_or(Detach::poll);
        if detached
            && self.unregistered.get()
            && let Some(me) = self.me.upgrade()
        {
            registry::remove(self.name());
            self.poller.take();
            for done in me.deleted.take() {
                done();
            }
        }
    }

    fn state_name(&self) -> &'static str {
        if self.is_deleting() { State::Detaching.as_str() } else { self.state.get().as_str() }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("name", &self.name()).field("state", &self.state.get()).finish_non_exhaustive()
    }
}
