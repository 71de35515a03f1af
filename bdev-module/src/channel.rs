//! A reactor's way to a pool: its queue pair, and the I/O that waits while there is none.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ffi::c_void;
use std::ptr::NonNull;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use spdk::Errno;
use spdk::bdev::{BdevIo, IoStatus};
use spdk::io_device::{Advance, ChannelFactory, IoChannel, IoDevice};
use spdk::nvme::{CtrlrRef, PollGroup, QpairEvent, QueuePair};
use spdk::poller::{Poll, Poller};
use spdk::thread::send_to_app;

use crate::disk::Disk;
use crate::params::PoolParams;
use crate::registry;

/// A queue pair that was refused on a connected pool is asked for again after this time, at most so often.
const ASK_AGAIN: Duration = Duration::from_millis(20);
const REFUSALS: u32 = 50;
/// How often it is looked whether I/O that was put off is due.
const SEND_LATER_PERIOD: Duration = Duration::from_millis(10);

/// The I/O device whose channels are the reactors' poll groups: one for all pools, so that one system call serves all
/// connections of a reactor.
#[derive(Debug)]
pub struct Reactors;

/// A reactor's poll group and the poller that drives it.
#[derive(Debug)]
pub struct Reactor {
    group: Rc<PollGroup>,
    _poller: Poller,
}

impl ChannelFactory for Reactors {
    type Channel = Reactor;

    fn create(&self) -> Result<Reactor, Errno> {
        let group = Rc::new(PollGroup::new()?);
        let in_use = Rc::clone(&group);
        let poll = move || if in_use.poll() > 0 { Poll::Busy } else { Poll::Idle };
        let poller = Poller::register("courier_io", Duration::ZERO, poll)?;
        Ok(Reactor { group, _poller: poller })
    }
}

/// What all reactors share of a pool.
#[derive(Debug)]
pub struct PoolShared {
    name: String,
    reactors: IoDevice<Reactors>,
    /// The controller, while queue pairs may be asked of it.
    ctrlr: Mutex<Option<CtrlrRef>>,
    /// I/O that finds no connection fails, instead of being held.
    failing: AtomicBool,
    /// For how long an I/O is tried again that the pool does not carry out for now.
    io_limit: Option<Duration>,
    /// It was asked for a proof of a namespace that has not been begun yet.
    doubted: AtomicBool,
    /// How often the connection was lost or reset.
    pub(crate) losses: AtomicU64,
    /// I/Os that were held because there was no connection.
    pub(crate) held: AtomicU64,
    /// I/Os that were sent again because their connection was lost.
    pub(crate) resent: AtomicU64,
}

impl PoolShared {
    pub(crate) fn new(params: &PoolParams, reactors: IoDevice<Reactors>, ctrlr: Option<CtrlrRef>) -> Self {
        Self {
            name: params.name.clone(),
            reactors,
            io_limit: params.io_limit(),
            doubted: AtomicBool::new(false),
            ctrlr: Mutex::new(ctrlr),
            failing: AtomicBool::new(false),
            losses: AtomicU64::new(0),
            held: AtomicU64::new(0),
            resent: AtomicU64::new(0),
        }
    }

    /// The pool's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The controller, if the pool is connected.
    pub(crate) fn ctrlr(&self) -> Option<CtrlrRef> {
        self.ctrlr.lock().ok()?.clone()
    }

    pub(crate) fn set_ctrlr(&self, ctrlr: Option<CtrlrRef>) {
        if let Ok(mut current) = self.ctrlr.lock() {
            *current = ctrlr;
        }
    }

    pub(crate) fn io_limit(&self) -> Option<Duration> {
        self.io_limit
    }

    /// A proof of what was doubted so far is begun.
    pub(crate) fn take_doubt(&self) {
        self.doubted.store(false, Ordering::Release);
    }

    pub(crate) fn set_failing(&self, failing: bool) {
        self.failing.store(failing, Ordering::Release);
    }

    pub(crate) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Acquire)
    }
}

/// The shared part as the factory of its channels.
#[derive(Debug)]
pub struct PoolDevice(pub(crate) Arc<PoolShared>);

impl ChannelFactory for PoolDevice {
    type Channel = PoolChannel;

    fn create(&self) -> Result<PoolChannel, Errno> {
        let link = Rc::new(Link {
            shared: Arc::clone(&self.0),
            reactor: RefCell::new(Some(self.0.reactors.channel()?)),
            qpair: RefCell::new(None),
            waiting: RefCell::new(VecDeque::new()),
            later: RefCell::new(Vec::new()),
            later_poller: RefCell::new(None),
            walk: RefCell::new(None),
            leaving: Cell::new(false),
            refusals: Cell::new(0),
            again: RefCell::new(None),
        });
        if let Some(ctrlr) = self.0.ctrlr() {
            link.connect(&ctrlr)?;
        }
        Ok(PoolChannel(link))
    }
}

/// A reactor's channel to a pool.
#[derive(Debug)]
pub struct PoolChannel(Rc<Link>);

#[derive(Debug)]
struct Link {
    shared: Arc<PoolShared>,
    /// Taken only when the channel goes.
    reactor: RefCell<Option<IoChannel<Reactor>>>,
    qpair: RefCell<Option<QueuePair>>,
    waiting: RefCell<VecDeque<BdevIo<Disk>>>,
    /// I/O that the pool did not carry out for now, and when it is sent again.
    later: RefCell<Vec<(Instant, BdevIo<Disk>)>>,
    /// Sends it; there while there is such I/O.
    later_poller: RefCell<Option<Poller>>,
    /// The pool's walk over its channels, when it waits for the queue pair to come or go.
    walk: RefCell<Option<Advance>>,
    leaving: Cell<bool>,
    /// How often in a row the queue pair was refused.
    refusals: Cell<u32>,
    /// Asks for it again.
    again: RefCell<Option<Poller>>,
}

impl Link {
    fn connect(self: &Rc<Self>, ctrlr: &CtrlrRef) -> Result<(), Errno> {
        let reactor = self.reactor.borrow();
        let group = &reactor.as_ref().ok_or(Errno::NXIO)?.group;
        let link: Weak<Self> = Rc::downgrade(self);
        let events = move |event| {
            if let Some(link) = link.upgrade() {
                link.on_event(event);
            }
        };
        let qpair = group.connect(ctrlr, events)?;
        self.qpair.replace(Some(qpair));
        Ok(())
    }

    fn on_event(self: &Rc<Self>, event: QpairEvent) {
        let walk = self.walk.take();
        match event {
            QpairEvent::Connected => {
                self.refusals.set(0);
                self.drain(BdevIo::resubmit);
                if let Some(walk) = walk {
                    walk.go_on(Ok(()));
                }
            }
            QpairEvent::Refused | QpairEvent::Disconnected => {
                self.qpair.take();
                match walk {
                    // Told to go, it went; told to come, it did not.
                    Some(walk) => walk.go_on(if self.leaving.get() { Ok(()) } else { Err(Errno::NXIO) }),
                    None if event == QpairEvent::Refused && self.ask_again() => {}
                    None => self.report_lost(),
                }
            }
        }
        if self.shared.is_failing() {
            self.drain(|io| io.complete(IoStatus::Failed));
        }
    }

    /// A queue pair was refused although the pool is connected. A target may not have let go yet of the one that was here before and had
    /// the same identifier, as the kernel's does for a moment: that is no reason to connect the whole pool again. Whether it will be asked again.
    fn ask_again(self: &Rc<Self>) -> bool {
        let refusals = self.refusals.get() + 1;
        if refusals > REFUSALS {
            self.refusals.set(0);
            return false;
        }
        self.refusals.set(refusals);
        let link = Rc::downgrade(self);
        let again = move || {
            if let Some(link) = link.upgrade() {
                link.again.take();
                link.connect_again();
            }
            Poll::Busy
        };
        match Poller::register("courier_ask_again", ASK_AGAIN, again) {
            Ok(poller) => {
                self.again.replace(Some(poller));
                true
            }
            Err(_) => false,
        }
    }

    fn connect_again(self: &Rc<Self>) {
        if self.leaving.get() || self.qpair.borrow().is_some() {
            return;
        }
        // A pool that is not connected any more comes by when it is.
        let Some(ctrlr) = self.shared.ctrlr() else { return };
        if self.connect(&ctrlr).is_err() {
            self.report_lost();
        }
    }

    fn report_lost(&self) {
        let name = self.shared.name.clone();
        let report = move || {
            if let Some(pool) = registry::find(&name) {
                pool.connection_lost("an I/O queue was disconnected");
            }
        };
        if let Err(error) = send_to_app(report) {
            log::error!("pool '{}': the loss of a queue could not be reported: {error}", self.shared.name);
        }
    }

    /// Takes out everything that waits and gives it to `f`, which may make some of it wait again.
    fn drain(&self, f: impl Fn(BdevIo<Disk>)) {
        let later = self.later.take();
        let waiting = self.waiting.take();
        for io in waiting.into_iter().chain(later.into_iter().map(|(_, io)| io)) {
            f(io);
        }
    }

    /// Sends what is due.
    fn send_due(&self) -> Poll {
        let now = Instant::now();
        let due: Vec<_> = self.later.borrow_mut().extract_if(.., |(due, _)| *due <= now).collect();
        let sent = !due.is_empty();
        for (_, io) in due {
            io.resubmit();
        }
        if self.later.borrow().is_empty() {
            self.later_poller.take();
        }
        if sent { Poll::Busy } else { Poll::Idle }
    }
}

impl PoolChannel {
    /// Calls `f` with the queue pair. `None` when there is none.
    #[inline]
    pub(crate) fn with_qpair<R>(&self, f: impl FnOnce(&QueuePair) -> R) -> Option<R> {
        self.0.qpair.borrow().as_ref().map(f)
    }

    /// An I/O found no connection: it is held until there is one, or fails if the pool has been given up.
    #[cold]
    pub(crate) fn hold(&self, io: BdevIo<Disk>) {
        if self.0.shared.is_failing() {
            return io.complete(IoStatus::Failed);
        }
        self.0.shared.held.fetch_add(1, Ordering::Relaxed);
        self.0.waiting.borrow_mut().push_back(io);
    }

    /// Holds an I/O that the pool did not carry out, and gives it to its disk again after `delay`.
    #[cold]
    pub(crate) fn send_later(&self, delay: Duration, io: BdevIo<Disk>) {
        let link = &self.0;
        if link.shared.is_failing() {
            return io.complete(IoStatus::Failed);
        }
        link.shared.held.fetch_add(1, Ordering::Relaxed);
        link.later.borrow_mut().push((Instant::now() + delay, io));
        if link.later_poller.borrow().is_some() {
            return;
        }
        let weak = Rc::downgrade(link);
        let send = move || weak.upgrade().map_or(Poll::Idle, |link| link.send_due());
        match Poller::register("courier_later", SEND_LATER_PERIOD, send) {
            Ok(poller) => drop(link.later_poller.replace(Some(poller))),
            // Without it nothing would end what is held.
            Err(error) => {
                log::error!("pool '{}': an I/O cannot be held: {error}", link.shared.name);
                link.later.take().into_iter().for_each(|(_, io)| io.complete(IoStatus::Failed));
            }
        }
    }

    /// The pool says that it has no namespace `nsid` for this I/O: it is held until what the pool has is proved.
    #[cold]
    pub(crate) fn doubt(&self, nsid: u32, io: BdevIo<Disk>) {
        self.hold(io);
        let shared = &self.0.shared;
        if shared.doubted.swap(true, Ordering::AcqRel) {
            return;
        }
        let name = shared.name.clone();
        let report = move || {
            if let Some(pool) = registry::find(&name) {
                pool.doubt(nsid);
            }
        };
        if let Err(error) = send_to_app(report) {
            log::error!("pool '{}': a doubt about namespace {nsid} could not be told: {error}", shared.name);
        }
    }

    /// A step of a walk: what waits is sent as far as it may be, and fails as far as it must.
    pub(crate) fn release(&self, walk: Advance) {
        self.complete_waiting(|io| io.device().is_failing(), IoStatus::Failed);
        if self.with_qpair(QueuePair::is_live) == Some(true) {
            self.0.drain(BdevIo::resubmit);
        }
        walk.go_on(Ok(()));
    }

    /// Takes an I/O that waits, by the pointer that names it.
    pub(crate) fn take_waiting(&self, owner: NonNull<c_void>) -> Option<BdevIo<Disk>> {
        let mut later = self.0.later.borrow_mut();
        if let Some(at) = later.iter().position(|(_, io)| io.is(owner)) {
            return Some(later.swap_remove(at).1);
        }
        let mut waiting = self.0.waiting.borrow_mut();
        let at = waiting.iter().position(|io| io.is(owner))?;
        waiting.remove(at)
    }

    /// A step of a walk: the queue pair goes, then the walk goes on. What waits of a disk that is being reset is aborted.
    pub(crate) fn disconnect(&self, walk: Advance) {
        let link = &self.0;
        self.complete_waiting(|io| io.device().is_resetting(), IoStatus::Aborted);
        link.leaving.set(true);
        let waits = link.qpair.borrow().is_some();
        if waits {
            link.walk.replace(Some(walk));
            self.with_qpair(QueuePair::disconnect);
        } else {
            walk.go_on(Ok(()));
        }
    }

    /// A step of a walk: a queue pair comes, then the walk goes on.
    pub(crate) fn connect(&self, ctrlr: &CtrlrRef, walk: Advance) {
        let link = &self.0;
        link.leaving.set(false);
        let live = self.with_qpair(QueuePair::is_live);
        let result = match live {
            Some(true) => return walk.go_on(Ok(())),
            Some(false) => Ok(()),
            None => link.connect(ctrlr),
        };
        match result {
            Ok(()) => drop(link.walk.replace(Some(walk))),
            Err(error) => walk.go_on(Err(error)),
        }
    }

    /// A step of a walk: everything that waits fails.
    pub(crate) fn fail_waiting(&self, walk: Advance) {
        self.complete_waiting(|_| true, IoStatus::Failed);
        walk.go_on(Ok(()));
    }

    fn complete_waiting(&self, which: impl Fn(&BdevIo<Disk>) -> bool, status: IoStatus) {
        for (due, io) in self.0.later.take() {
            if which(&io) {
                io.complete(status);
            } else {
                self.0.later.borrow_mut().push((due, io));
            }
        }
        for io in self.0.waiting.take() {
            if which(&io) {
                io.complete(status);
            } else {
                self.0.waiting.borrow_mut().push_back(io);
            }
        }
    }
}

impl Drop for PoolChannel {
    fn drop(&mut self) {
        // The bdev layer lets go of a channel when nothing is under way; what still waits is a fault of somebody's.
        self.0.drain(|io| io.complete(IoStatus::Aborted));
        let reactor = self.0.reactor.take();
        if let Some(qpair) = self.0.qpair.take() {
            // The poll group must outlive the queue pair, which takes a moment to go.
            qpair.close(Box::new(reactor));
        }
        if let Some(walk) = self.0.walk.take() {
            walk.go_on(Ok(()));
        }
    }
}
