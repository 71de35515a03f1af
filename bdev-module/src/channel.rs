//! A reactor's way to a pool: its queue pair, and the I/O that waits while there is none.

mod ages;
mod held;
mod link;
mod overflows;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nvme_spec::Status;
use spdk::Errno;
use spdk::bdev::{BdevIo, IoStatus};
use spdk::io_device::{Advance, ChannelFactory, IoDevice};
use spdk::nvme::{CtrlrRef, PollGroup, QueuePair};
use spdk::poller::{Poll, Poller};

use crate::disk::Disk;
use crate::messages::{Address, PoolMessage};
use crate::params::PoolParams;
use crate::pool::fence::Risk;
use crate::tracepoints::{self, Reason};
use ages::Period;
use link::Link;
use overflows::Overflows;

/// The I/O device whose channels are the reactors' poll groups: one for all pools, so that one system call serves all
/// connections of a reactor.
#[derive(Debug)]
pub struct Reactors;

/// A reactor's poll group and the poller that drives it.
#[derive(Debug)]
pub struct Reactor {
    group: Rc<PollGroup>,
    overflows: Rc<Overflows>,
    _poller: Poller,
}

impl ChannelFactory for Reactors {
    type Channel = Reactor;

    fn create(&self) -> Result<Reactor, Errno> {
        let group = Rc::new(PollGroup::new()?);
        let overflows = Rc::new(Overflows::default());
        let (in_use, behind) = (Rc::clone(&group), Rc::clone(&overflows));
        let poll = move || {
            let done = in_use.poll();
            behind.send();
            if done > 0 { Poll::Busy } else { Poll::Idle }
        };
        let poller = Poller::register("courier_io", Duration::ZERO, poll)?;
        Ok(Reactor { group, overflows, _poller: poller })
    }
}

/// By how much a pool's silence may exceed its keep-alive time-out.
const LATENESS: Duration = Duration::from_millis(500);

/// How long a pool's channels wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// For any answer to what a queue pair holds.
    pub(crate) silence: Duration,
    /// For a queue pair to be connected.
    pub(crate) connect: Duration,
}

/// What a channel tells of its queue pair, some times in a second.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QueueState {
    /// The core that it is on, if that is known.
    pub(crate) core: Option<u32>,
    pub(crate) state: &'static str,
    /// Commands that the pool has not answered.
    pub(crate) outstanding: u32,
    /// I/Os that wait here.
    pub(crate) waiting: usize,
    /// How old the oldest of both is.
    pub(crate) oldest: Option<Duration>,
    /// When it was seen last that the pool had answered something.
    pub(crate) answered: Option<Instant>,
    /// When this was so.
    pub(crate) told: Instant,
}

/// What all reactors share of a pool.
#[derive(Debug)]
pub struct PoolShared {
    name: String,
    /// The pool's.
    address: Address,
    reactors: IoDevice<Reactors>,
    limits: Limits,
    /// The controller, while queue pairs may be asked of it.
    ctrlr: Mutex<Option<CtrlrRef>>,
    /// I/O that finds no connection fails, instead of being held.
    failing: AtomicBool,
    /// No queue pair of the pool takes commands.
    closed: AtomicBool,
    /// For how long an I/O is tried again that the pool does not carry out for now.
    io_limit: Option<Duration>,
    /// It was asked for a proof of a namespace that has not been begun yet.
    doubted: AtomicBool,
    /// A [`Risk`] of the commands that were lost.
    risk: AtomicU8,
    /// Queue pairs are given time to be ended by the other side.
    grace: AtomicBool,
    /// What the channels told last of their queue pairs, by a number of each.
    queues: Mutex<BTreeMap<u64, QueueState>>,
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
            address: Address::new(),
            reactors,
            limits: Limits { silence: params.silence_limit() + LATENESS, connect: params.connect_limit() },
            io_limit: params.io_limit(),
            doubted: AtomicBool::new(false),
            closed: AtomicBool::new(ctrlr.is_none()),
            risk: AtomicU8::new(Risk::None as u8),
            grace: AtomicBool::new(false),
            ctrlr: Mutex::new(ctrlr),
            failing: AtomicBool::new(false),
            queues: Mutex::default(),
            losses: AtomicU64::new(0),
            held: AtomicU64::new(0),
            resent: AtomicU64::new(0),
        }
    }

    /// What the queue pair of that number is like; none when it is gone.
    pub(crate) fn tell_queue(&self, number: u64, state: Option<QueueState>) {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        match state {
            Some(state) => drop(queues.insert(number, state)),
            None => drop(queues.remove(&number)),
        }
    }

    /// Returns what the queue pairs were like when their reactors told last.
    pub(crate) fn queues(&self) -> Vec<QueueState> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner).values().copied().collect()
    }

    /// Returns whether a queue pair has a command, or I/O waits for one, that is so old.
    pub(crate) fn has_older(&self, age: Duration, now: Instant) -> bool {
        let queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let is_older = |queue: &QueueState| {
            queue.oldest.is_some_and(|oldest| oldest + now.saturating_duration_since(queue.told) >= age)
        };
        queues.values().any(is_older)
    }

    /// Returns the pool's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns where the pool can be told something.
    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// Returns the controller, if the pool is connected.
    pub(crate) fn ctrlr(&self) -> Option<CtrlrRef> {
        self.ctrlr.lock().ok()?.clone()
    }

    pub(crate) fn set_ctrlr(&self, ctrlr: Option<CtrlrRef>) {
        if let Ok(mut current) = self.ctrlr.lock() {
            *current = ctrlr;
        }
    }

    /// Returns whether no queue pair of the pool takes commands, so that nothing can overtake those that were lost.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(crate) fn set_closed(&self, closed: bool) {
        self.closed.store(closed, Ordering::Release);
    }

    pub(crate) fn set_grace(&self, grace: bool) {
        self.grace.store(grace, Ordering::Release);
    }

    /// Returns how it stands with the commands that were lost since this was asked last.
    pub(crate) fn take_risk(&self) -> Risk {
        Risk::from_u8(self.risk.swap(Risk::None as u8, Ordering::AcqRel))
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits
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
        Link::new(&self.0).map(PoolChannel)
    }
}

/// A reactor's channel to a pool.
#[derive(Debug)]
pub struct PoolChannel(Rc<Link>);

impl PoolChannel {
    /// Calls `f` with the queue pair. `None` when there is none.
    #[inline]
    pub(crate) fn with_qpair<R>(&self, f: impl FnOnce(&QueuePair) -> R) -> Option<R> {
        self.0.qpair.borrow().as_ref().map(f)
    }

    /// A command is sent: it counts until it has [`ended`](Self::ended).
    #[inline]
    pub(crate) fn sends(&self, io: &BdevIo<Disk>) {
        io.set_mark(self.0.ages.begin().into_mark());
    }

    /// A command that was sent has ended.
    #[inline]
    pub(crate) fn ended(&self, io: &BdevIo<Disk>) {
        if let Some(mark) = io.take_mark() {
            self.0.ages.end(Period::from_mark(mark));
        }
    }

    /// An I/O found no connection: it is held until there is one, or fails if the pool has been given up.
    #[cold]
    pub(crate) fn hold(&self, io: BdevIo<Disk>) {
        let shared = &self.0.shared;
        if shared.is_failing() || (io.device().is_removing() && shared.is_closed()) {
            return io.complete(IoStatus::Failed);
        }
        shared.held.fetch_add(1, Ordering::Relaxed);
        trace_hold(&io, Reason::Connection);
        self.0.held.wait(io);
    }

    /// Returns whether an I/O that comes now has to stand behind others, which found no request.
    #[inline]
    pub(crate) fn has_overflow(&self) -> bool {
        self.0.held.has_overflow()
    }

    /// Holds an I/O until a request is free and nothing else stands before it. The bdev layer hears nothing of that:
    /// what it keeps for want of memory it does not abort, and it keeps the aborts of everything else behind it.
    #[cold]
    pub(crate) fn join_overflow(&self, io: BdevIo<Disk>) {
        trace_hold(&io, Reason::Request);
        self.0.join_overflow(io);
    }

    /// Takes note that an I/O was lost with its queue pair. Returns whether it may be sent again: one that was on too
    /// many connections that ended by themselves may be what ends them.
    #[cold]
    pub(crate) fn note_lost(&self, io: &BdevIo<Disk>) -> bool {
        self.0.note_lost(io)
    }

    /// Holds an I/O that the pool did not carry out, and gives it to its disk again after `delay`.
    #[cold]
    pub(crate) fn send_delayed(&self, delay: Duration, io: BdevIo<Disk>) {
        trace_hold(&io, Reason::Delay);
        self.0.send_delayed(delay, io);
    }

    /// The pool says that it has no namespace `nsid` for this I/O: it is held until what the pool has is proved.
    #[cold]
    pub(crate) fn doubt(&self, nsid: u32, io: BdevIo<Disk>) {
        self.hold(io);
        let shared = &self.0.shared;
        if shared.doubted.swap(true, Ordering::AcqRel) {
            return;
        }
        if let Err(error) = shared.address.send(PoolMessage::NamespaceDoubted { nsid }) {
            log::error!("pool '{}': a doubt about namespace {nsid} could not be told: {error}", shared.name);
        }
    }

    /// A step of a walk: what waits is sent as far as it may be, and fails as far as it must.
    pub(crate) fn release(&self, walk: Advance) {
        self.0.complete_waiting(|io| io.device().is_failing(), |io| io.complete(IoStatus::Failed));
        self.0.release();
        walk.go_on(Ok(()));
    }

    /// Carries out an abort.
    #[cold]
    pub(crate) fn abort(&self, io: BdevIo<Disk>) {
        self.0.abort(io);
    }

    /// A step of a walk: the queue pair takes no more commands.
    pub(crate) fn stop(&self, walk: Advance) {
        self.0.stop();
        walk.go_on(Ok(()));
    }

    /// A step of a walk: the queue pair goes, then the walk goes on.
    pub(crate) fn disconnect(&self, walk: Advance) {
        self.0.disconnect(walk);
    }

    /// A step of a walk, when no queue pair of the pool takes commands: what waits and is not to be sent again has its
    /// end.
    pub(crate) fn settle(&self, walk: Advance) {
        self.0.complete_waiting(Disk::is_cancelled, |io| io.complete(IoStatus::Aborted));
        self.0.complete_waiting(BdevIo::is_last, |io| io.complete_nvme(0, Status::ABORTED_BY_HOST));
        walk.go_on(Ok(()));
    }

    /// A step of a walk: a queue pair comes, then the walk goes on.
    pub(crate) fn connect(&self, ctrlr: &CtrlrRef, walk: Advance) {
        self.0.connect_for(ctrlr, walk);
    }

    /// A step of a walk: the walk that waits for a queue pair to come ends with an error.
    pub(crate) fn give_up_connecting(&self, walk: Advance) {
        self.0.give_up_connecting();
        walk.go_on(Ok(()));
    }

    /// A step of a walk: somebody waits for what is in flight, so that a queue pair that answers nothing is dropped
    /// soon.
    pub(crate) fn hurry(&self, walk: Advance) {
        self.0.hurry();
        walk.go_on(Ok(()));
    }

    /// A step of a walk: everything that waits fails.
    pub(crate) fn fail_waiting(&self, walk: Advance) {
        self.0.complete_waiting(|_| true, |io| io.complete(IoStatus::Failed));
        walk.go_on(Ok(()));
    }
}

/// Records that an I/O is held.
fn trace_hold(io: &BdevIo<Disk>, reason: Reason) {
    if spdk::trace::is_on() {
        let arguments = [io.device().nsid().into(), io.offset_blocks(), reason as u64];
        tracepoints::record(&tracepoints::HOLD, io, arguments);
    }
}

impl Drop for PoolChannel {
    fn drop(&mut self) {
        self.0.close();
    }
}
