//! A pool's controller: how it is found again when it is away, and how it goes. All of it runs on the application's
//! thread.
//!
//! ```text
//!   Connected -> ClosingQueues -> Fencing -> Disconnecting -> Reconnecting -> Settling -> OpeningQueues -> Connected
//!       (lost or reset)                         ^    |             |              |             |
//!                                               |    v             v (failed)     v (failed)    v (failed)
//!                                               |  Waiting <- Disconnecting <-----+       ClosingQueues
//!                                               +---- GivenUp (after ctrlr_loss_timeout_sec; used again when it is asked for)
//! ```
//! Every state but `Connected`, `Waiting` and `GivenUp` has a limit: `ClosingQueues` ends when SPDK has let go of the
//! sockets, which takes no answer of the pool's; `Fencing` and `Settling` are described in `pool/fence.rs`; the others
//! end, one way or the other, within `connect_timeout_ms`.
//!
//! What is lost with its queue is held on its reactor. It is sent again, and anything new is sent, when the queues are
//! connected again, and not before the old connections are fenced. What is not to be sent again (it was aborted, its
//! bdev is reset or deleted) has its end as soon as no queue of the pool takes commands: nothing can overtake it then.
//!
//! A pool that has never answered has no controller yet: its attempts are made in `Connecting`, which stands in the
//! place of `Reconnecting`, and the first one that succeeds gives it its controller.
//!
//! A pool that is being deleted goes on from wherever it is to `Detaching`, and is gone.

mod deletion;
pub(crate) mod fence;
mod inbox;
mod namespace_scan;
mod namespaces;
mod recovery;
pub(crate) mod response_timer;
mod watch;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nvme_spec::Sqe;
use spdk::Errno;
use spdk::bdev::Bdev;
use spdk::io_device::IoDevice;
use spdk::nvme::{Connect, Ctrlr, Detach};
use spdk::poller::{Poll, Poller};

use crate::channel::{PoolDevice, PoolShared, Target};
use crate::disk::Disk;
use crate::messages::Receiver;
use crate::params::PoolParams;
use crate::{addresses, registered};
use fence::{Fence, LostWrites};
use response_timer::{ResponseTimer, Verdict};
use watch::NamespaceWatch;

pub(crate) use namespaces::BdevError;
pub(crate) use namespaces::describe_path;

/// How often the admin queue of a connected pool is polled.
const ADMIN_PERIOD: Duration = Duration::from_millis(10);
/// How often a pool that is on its way to another state is looked after.
const BUSY_PERIOD: Duration = Duration::from_millis(1);
/// How long a reset waits for the pool to be back.
const RESET_LIMIT: Duration = Duration::from_secs(2);
/// How long a deletion waits for answers of the pool.
const DELETION_LIMIT: Duration = Duration::from_secs(2);

/// Where a pool stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It takes I/O.
    Connected,
    /// Its I/O queues are being disconnected.
    ClosingQueues,
    /// Its controller is being disabled, so that what was lost cannot be carried out any more.
    Fencing,
    /// Its admin queue is being disconnected.
    Disconnecting,
    /// The next attempt to connect is due at that time.
    Waiting(Instant),
    /// It has no controller yet, and one is being connected.
    Connecting,
    /// Its controller is being connected and initialised again.
    Reconnecting,
    /// It is connected again, but what was lost may still be carried out.
    Settling,
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
pub(crate) struct Pool {
    me: Weak<Self>,
    params: PoolParams,
    device: IoDevice<PoolDevice<Disk>>,
    /// None until it has answered for the first time.
    ctrlr: RefCell<Option<Ctrlr>>,
    /// Why the last attempt to connect failed, until one succeeds.
    last_error: RefCell<Option<String>>,
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
    watch: NamespaceWatch,
    /// Since when it is away.
    lost_at: Cell<Option<Instant>>,
    /// I/O may be held while it is away.
    holds: Cell<bool>,
    /// An attempt to connect has failed: the next one waits.
    wait: Cell<bool>,
    /// A queue was lost while others were still being connected.
    lost_meanwhile: Cell<bool>,
    /// A reset was asked for while queues were being connected.
    reset_again: Cell<bool>,
    /// When it was connected last, if it was away before.
    connected_at: Cell<Option<Instant>>,
    /// Since when it was away before that.
    outage: Cell<Option<Instant>>,
    /// The walk that opens the queues waits for one of them.
    opening: Cell<bool>,
    /// When a deletion waits no more for what is in flight.
    deletion_due: Cell<Option<Instant>>,
    /// When what is in flight for a bdev that is being deleted is waited for no more.
    bdev_deletion_due: Cell<Option<Instant>>,
    /// When resets end, whether the pool is back or not: what they are to end has ended.
    reset_due: Cell<Instant>,
    /// When the state must have changed.
    due: Cell<Instant>,
    /// The silence of the admin queue, how often it has answered, and whether a keep-alive is in progress.
    response_timer: RefCell<ResponseTimer>,
    admin_answers: Cell<u64>,
    fence: RefCell<Option<Fence>>,
    /// How it stands with commands that were lost.
    lost_writes: Cell<LostWrites>,
    /// Until when commands of an earlier connection may still be carried out.
    unfenced_until: Cell<Option<Instant>>,
    resets: RefCell<Vec<(u32, ResetDone)>>,
    deleted: RefCell<Vec<Deleted>>,
    /// What is to be done when it is gone, before those are told.
    gone: RefCell<Option<Deleted>>,
}

impl Pool {
    /// Returns a pool whose controller has just been connected; it is put into the registry.
    ///
    /// # Errors
    /// What keeps it from being set up; the controller is then left connected to the process' end.
    pub(crate) fn start(params: PoolParams, ctrlr: Ctrlr) -> Result<Rc<Self>, Errno> {
        let unfenced = fence::unfenced_until(&params.subnqn).is_some();
        let pool = Self::register(params, Some(ctrlr), unfenced)?;
        if unfenced {
            log::warn!(
                "pool '{}': a pool of its subsystem was deleted while it held commands; it waits for these",
                pool.name()
            );
            pool.lost_at.set(Some(Instant::now()));
            pool.enter(State::Settling);
        } else {
            pool.begin_watch();
            pool.enter(State::Connected);
        }
        Ok(pool)
    }

    /// Returns a pool that is away as long as it does not answer; connecting it is
    /// begun.
    ///
    /// # Errors
    /// What keeps it from being set up.
    pub(crate) fn start_away(params: PoolParams) -> Result<Rc<Self>, Errno> {
        let pool = Self::register(params, None, true)?;
        pool.lost_at.set(Some(Instant::now()));
        pool.reconnect();
        Ok(pool)
    }

    fn register(params: PoolParams, ctrlr: Option<Ctrlr>, is_away: bool) -> Result<Rc<Self>, Errno> {
        let ctrlr_ref = ctrlr.as_ref().filter(|_| !is_away).map(|ctrlr| ctrlr.shared().clone());
        let unfenced_until = fence::unfenced_until(&params.subnqn);
        let shared = PoolShared::new(addresses::new_address(), &params, registered::reactors()?, ctrlr_ref);
        let (limit, now) = (shared.limits().silence, Instant::now());
        let device = IoDevice::register(&format!("courier_pool_{}", params.name), PoolDevice(Arc::new(shared)))?;
        let pool = Rc::new_cyclic(|me| Self {
            me: me.clone(),
            params,
            device,
            ctrlr: RefCell::new(ctrlr),
            attempt: RefCell::new(None),
            last_error: RefCell::new(None),
            detach: RefCell::new(None),
            tried: Cell::new(false),
            unregistered: Cell::new(false),
            state: Cell::new(State::Connecting),
            poller: RefCell::new(None),
            disks: RefCell::new(BTreeMap::new()),
            watch: NamespaceWatch::default(),
            lost_at: Cell::new(None),
            wait: Cell::new(false),
            lost_meanwhile: Cell::new(false),
            reset_again: Cell::new(false),
            connected_at: Cell::new(None),
            outage: Cell::new(None),
            opening: Cell::new(false),
            deletion_due: Cell::new(None),
            bdev_deletion_due: Cell::new(None),
            reset_due: Cell::new(now),
            due: Cell::new(now),
            response_timer: RefCell::new(ResponseTimer::new(limit, limit / 4, now)),
            admin_answers: Cell::new(0),
            fence: RefCell::new(None),
            lost_writes: Cell::new(LostWrites::None),
            unfenced_until: Cell::new(unfenced_until),
            holds: Cell::new(true),
            resets: RefCell::new(Vec::new()),
            deleted: RefCell::new(Vec::new()),
            gone: RefCell::new(None),
        });
        let receiver: Weak<dyn Receiver<Disk>> = pool.me.clone();
        addresses::lead_to(pool.shared().address(), receiver);
        Ok(pool)
    }

    /// Calls `gone` when it is gone, before those are told who have asked for its deletion.
    pub(crate) fn on_gone(&self, gone: impl FnOnce() + 'static) {
        self.gone.replace(Some(Box::new(gone)));
    }

    /// Returns its name.
    #[must_use]
    pub(crate) fn name(&self) -> &str {
        &self.params.name
    }

    /// Returns what it was made with.
    #[must_use]
    pub(crate) fn params(&self) -> &PoolParams {
        &self.params
    }

    /// Returns whether it has answered, or has been found away, since it was made.
    pub(crate) fn was_tried(&self) -> bool {
        self.tried.get() && (self.state.get() != State::Connected || self.is_scanned())
    }

    fn shared(&self) -> &PoolShared<Disk> {
        &self.device.shared().0
    }

    fn with_ctrlr<R>(&self, f: impl FnOnce(&Ctrlr) -> R) -> Option<R> {
        self.ctrlr.borrow().as_ref().map(f)
    }

    /// Returns whether it is being deleted.
    pub(crate) fn is_deleting(&self) -> bool {
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
        let now = Instant::now();
        self.check_timeouts(now);
        match self.state.get() {
            State::Connected => return self.look_after(now),
            State::ClosingQueues => {
                // Keep-alives go on; a failure shows when the controller is to be disabled.
                let _ = self.poll_admin();
            }
            State::Fencing => self.go_on_fencing(now),
            State::Disconnecting => {
                if self.with_ctrlr(Ctrlr::poll_admin).is_none_or(|poll| poll.is_err()) {
                    self.disconnected();
                }
            }
            State::Waiting(due) => {
                if self.is_given_up(now) {
                    self.give_up();
                } else if now >= due {
                    self.reconnect();
                } else {
                    return Poll::Idle;
                }
            }
            State::Connecting => self.go_on_connecting(now),
            State::Reconnecting => self.go_on_reconnecting(now),
            State::Settling => self.go_on_settling(now),
            State::OpeningQueues => {
                if self.poll_admin_lost(now) || self.is_deleting() || self.is_given_up(now) {
                    self.give_up_opening();
                } else {
                    self.go_on_watching();
                }
            }
            State::Detaching => self.go_on_detaching(now),
            State::GivenUp => return Poll::Idle,
        }
        Poll::Busy
    }

    /// Polls the admin queue of a controller that is connected.
    fn poll_admin(&self) -> Result<bool, Errno> {
        let busy = self.with_ctrlr(Ctrlr::poll_admin).unwrap_or(Err(Errno::NXIO))?;
        self.admin_answers.set(self.admin_answers.get().wrapping_add(u64::from(busy)));
        Ok(busy)
    }

    /// Asks the controller for a sign of life when its admin queue is silent. Returns whether that answers nothing.
    /// SPDK sends keep-alives and waits for no answer; these are the pool's own, since the controller may have changed
    /// the time between those.
    fn probe_admin(&self, now: Instant) -> bool {
        // There is always a command in flight: one that waits for an event.
        match self.response_timer.borrow_mut().look(now, self.admin_answers.get(), 1) {
            Verdict::Fine => false,
            Verdict::Probe => {
                self.with_ctrlr(|ctrlr| ctrlr.admin_without_data(&Sqe::keep_alive(), drop));
                false
            }
            Verdict::Hung => true,
        }
    }

    fn poll_admin_lost(&self, now: Instant) -> bool {
        self.poll_admin().is_err() || self.probe_admin(now)
    }

    fn look_after(&self, now: Instant) -> Poll {
        if self.deletion_due.get().is_some_and(|due| now >= due) {
            log::warn!("pool '{}': it is in use although it is being deleted; its connection is dropped", self.name());
            self.lost_at.set(Some(now));
            self.shared().set_grace(false);
            self.close_queues();
            return Poll::Busy;
        }
        match self.poll_admin() {
            Ok(busy) => {
                self.go_on_watching();
                if self.probe_admin(now) {
                    self.connection_lost("the admin queue does not answer", false);
                } else if !busy {
                    return Poll::Idle;
                }
            }
            Err(error) => {
                let by_peer = self.with_ctrlr(Ctrlr::was_ended_by_peer) == Some(true);
                self.connection_lost(&format!("the admin queue failed ({error})"), by_peer);
            }
        }
        Poll::Busy
    }

    /// Has a pool that is away be tried at once, also one that was given up.
    pub(crate) fn try_now(&self) {
        if self.is_deleting() {
            return;
        }
        match self.state.get() {
            State::GivenUp => {
                self.lost_at.set(Some(Instant::now()));
                self.shared().set_failing(!self.holds.get());
                self.reconnect();
            }
            State::Waiting(_) => self.reconnect(),
            // An attempt is being made, or it is connected.
            _ => {}
        }
    }

    /// Once the pool has been away for longer than I/O is to be held, what is held and what comes fails; resets wait no
    /// longer than they may.
    fn check_timeouts(&self, now: Instant) {
        if now >= self.reset_due.get() && self.shared().is_closed() && !self.resets.borrow().is_empty() {
            self.end_resets(true);
        }
        if self.bdev_deletion_due.get().is_some_and(|due| now >= due) {
            self.bdev_deletion_due.set(None);
            if self.disks.borrow().values().any(|disk| disk.device().is_removing()) {
                self.connection_lost("it does not end the I/O of a bdev that is being deleted", false);
            }
        }
        if !self.holds.get() && !self.is_deleting() && self.shared().has_older(DELETION_LIMIT, now) {
            self.connection_lost("it leaves a command without an answer although the application ends", false);
        }
        let Some(lost) = self.lost_at.get() else { return };
        if self.shared().is_failing() {
            return;
        }
        let limit = Duration::from_secs(u64::from(self.params.fast_io_fail_timeout_sec));
        let away = now.duration_since(lost);
        if (!limit.is_zero() && away >= limit) || self.is_given_up(now) {
            log::warn!("pool '{}': away for {} s; its I/O fails now", self.name(), away.as_secs());
            self.fail_io();
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
