//! A channel's queue pair: how it comes, is watched and goes, and what waits for it.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use spdk::Errno;
use spdk::bdev::{BdevIo, IoStatus};
use spdk::io_device::{Advance, IoChannel};
use spdk::nvme::{CtrlrRef, QpairEvent, QueuePair};
use spdk::poller::{Poll, Poller};
use spdk::thread::current_core;

use super::aborts::Aborts;
use super::ages::Ages;
use super::held::HeldIos;
use super::overflows::Overflow;
use super::reactor::Reactor;
use super::shared::{PoolShared, QueueState};
use super::target::Target;
use crate::messages::PoolMessage;
use crate::pool::fence::LostWrites;
use crate::pool::response_timer::{ResponseTimer, Verdict};

/// A queue pair that was refused on a connected pool is asked for again after this time. If that was done so often, its
/// pool is told, and it is asked for more rarely.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);
const REFUSALS: u32 = 50;
const SLOW_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// How often a channel looks whether its queue pair lives.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);
/// How long a queue pair may answer nothing when something is to be aborted or is waited for.
const SHORT_LIMIT: Duration = Duration::from_secs(2);
/// When one connection has been ended by the other side, that many looks it is waited for whether this one is as well.
/// They are counted, not timed, since it is heard of between looks only, however long those are apart on a busy
/// machine.
const GRACE_CHECKS: u32 = 5;

/// How often an I/O may be on a connection that ends by itself before it is sent alone, and before it fails: it may be
/// what ends them.
const LOSSES_BEFORE_ALONE: u8 = 2;
const MOST_LOSSES: u8 = 5;
/// How often it is looked whether I/O that was put off is due.
const SEND_DELAYED_PERIOD: Duration = Duration::from_millis(10);
/// How often it is looked whether an I/O that was sent alone has ended.
const ALONE_INTERVAL: Duration = Duration::from_millis(1);

/// The number of the next channel.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Why a queue pair was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dropped {
    /// It answers nothing.
    Silent,
    /// It answers, but a command that has to end does not.
    Stuck,
}

#[derive(Debug)]
pub(super) struct Link<D: Target> {
    pub(super) shared: Arc<PoolShared<D>>,
    /// Taken only when the channel goes.
    reactor: RefCell<Option<IoChannel<Reactor>>>,
    pub(super) qpair: RefCell<Option<QueuePair>>,
    pub(super) held: HeldIos<BdevIo<D>>,
    /// What tells it from other channels, and what of the commands that its queue pair has.
    number: u64,
    pub(super) ages: Ages,
    /// How many commands the pool has answered, and when that was seen.
    answered: Cell<(u64, Option<Instant>)>,
    /// Sends what was put off; there while there is such I/O.
    delay_poller: RefCell<Option<Poller>>,
    /// The pool's walk over its channels, when it waits for the queue pair to come or go.
    walk: RefCell<Option<Advance>>,
    leaving: Cell<bool>,
    /// When the queue pair began to connect, until it has.
    since: Cell<Option<Instant>>,
    /// How often it was looked at since it takes no more commands.
    looks: Cell<u32>,
    response_timer: RefCell<ResponseTimer>,
    dropped: Cell<Option<Dropped>>,
    aborts: Aborts<D>,
    /// How often in a row the queue pair was refused, and since when.
    refusals: Cell<u32>,
    refused_since: Cell<Option<Instant>>,
    /// Asks for it again.
    again: RefCell<Option<Poller>>,
    /// Sends the next of what is to be alone.
    sender: RefCell<Option<Poller>>,
    watcher: RefCell<Option<Poller>>,
}

impl<D: Target> Link<D> {
    pub(super) fn new(shared: &Arc<PoolShared<D>>) -> Result<Rc<Self>, Errno> {
        let now = Instant::now();
        let limit = shared.limits.silence;
        let link = Rc::new(Self {
            shared: Arc::clone(shared),
            reactor: RefCell::new(Some(shared.reactors.channel()?)),
            qpair: RefCell::new(None),
            held: HeldIos::default(),
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            ages: Ages::new(now),
            answered: Cell::new((0, None)),
            delay_poller: RefCell::new(None),
            walk: RefCell::new(None),
            leaving: Cell::new(false),
            since: Cell::new(None),
            looks: Cell::new(0),
            response_timer: RefCell::new(ResponseTimer::new(limit, limit / 2, now)),
            dropped: Cell::new(None),
            aborts: Aborts::default(),
            refusals: Cell::new(0),
            refused_since: Cell::new(None),
            again: RefCell::new(None),
            sender: RefCell::new(None),
            watcher: RefCell::new(None),
        });
        let me = Rc::downgrade(&link);
        let look = move || me.upgrade().map_or(Poll::Idle, |link| link.look(Instant::now()));
        link.watcher.replace(Some(Poller::register("courier_watch", CHECK_INTERVAL, look)?));
        // A pool that is away comes by when it is back.
        if let Some(ctrlr) = shared.ctrlr() {
            match link.connect(&ctrlr) {
                // So does one that is just being connected again.
                Err(Errno::BUSY) => {}
                result => result?,
            }
        }
        // The list has its place from now on: none is allocated while there is I/O.
        link.tell(now);
        Ok(link)
    }

    fn with_qpair<R>(&self, f: impl FnOnce(&QueuePair) -> R) -> Option<R> {
        self.qpair.borrow().as_ref().map(f)
    }

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
        self.since.set(Some(Instant::now()));
        Ok(())
    }

    fn on_event(self: &Rc<Self>, event: QpairEvent) {
        if event == QpairEvent::Connected && self.leaving.get() {
            // It came too late; the walk that closes the queues has come by, or will.
            self.with_qpair(QueuePair::stop);
            return;
        }
        let walk = self.walk.take();
        self.since.set(None);
        match event {
            QpairEvent::Connected => {
                self.refused_since.set(None);
                if self.refusals.replace(0) >= REFUSALS {
                    self.report(PoolMessage::QueueGranted);
                }
                self.dropped.set(None);
                self.aborts.take_stuck();
                self.response_timer.borrow_mut().restart(Instant::now());
                self.send_waiting();
                if let Some(walk) = walk {
                    walk.go_on(Ok(()));
                }
            }
            QpairEvent::Refused | QpairEvent::Disconnected => {
                self.sender.take();
                self.note_held(self.held.all_wait());
                let by_peer = self.qpair.take().is_some_and(|qpair| qpair.was_ended_by_peer());
                match walk {
                    // Told to go, it went; told to come, it did not.
                    Some(walk) => walk.go_on(if self.leaving.get() { Ok(()) } else { Err(Errno::NXIO) }),
                    None if self.leaving.get() => {}
                    None if event == QpairEvent::Refused && self.ask_again() => {}
                    None => self.report_lost(by_peer),
                }
            }
        }
        if self.shared.is_failing() {
            self.complete_waiting(|_| true, |io| io.complete(IoStatus::Failed));
        }
    }

    /// A queue pair was refused although the pool is connected. A target may not have let go yet of the one that was
    /// here before and had the same identifier, as the kernel's does for a moment: that is no reason to connect the
    /// whole pool again. Nor is it one for those whose queue pairs stand if this one is refused for longer. Returns
    /// whether it will be asked again.
    fn ask_again(self: &Rc<Self>) -> bool {
        let refusals = self.refusals.get().saturating_add(1);
        self.refusals.set(refusals);
        if self.refused_since.get().is_none() {
            self.refused_since.set(Some(Instant::now()));
        }
        let period = if refusals < REFUSALS { RETRY_INTERVAL } else { SLOW_RETRY_INTERVAL };
        if refusals >= REFUSALS {
            self.report(PoolMessage::QueueRefused);
        }
        let link = Rc::downgrade(self);
        let again = move || {
            if let Some(link) = link.upgrade() {
                link.again.take();
                link.connect_again();
            }
            Poll::Busy
        };
        match Poller::register("courier_ask_again", period, again) {
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
            self.report_lost(false);
        }
    }

    fn report_lost(&self, by_peer: bool) {
        self.report(match self.dropped.get() {
            Some(Dropped::Stuck) => PoolMessage::QueueStuck,
            Some(Dropped::Silent) => PoolMessage::QueueLost { reason: "an I/O queue does not answer", by_peer },
            None => PoolMessage::QueueLost { reason: "an I/O queue was disconnected", by_peer },
        });
    }

    /// Has the pool hear of its queue pair.
    fn report(&self, message: PoolMessage<D>) {
        self.shared.address.send(message);
    }

    /// Ends what waits for a queue pair that is refused, as far as it is to end.
    fn look_at_refused(&self, now: Instant) {
        let Some(since) = self.refused_since.get().filter(|_| self.with_qpair(QueuePair::is_live) != Some(true)) else {
            return;
        };
        if self.shared.io_limit().is_some_and(|limit| now.duration_since(since) >= limit) {
            self.complete_waiting(|_| true, |io| io.complete(IoStatus::Failed));
        }
        // What was lost has its end when its connection is over.
        let is_cancelled = |io: &BdevIo<D>| D::is_cancelled(io) && !io.was_lost();
        self.complete_waiting(is_cancelled, |io| io.complete(IoStatus::Aborted));
    }

    /// Looks whether the queue pair lives, and whether what is waited for has come.
    fn look(self: &Rc<Self>, now: Instant) -> Poll {
        let limit = self.shared.limits.connect;
        if self.leaving.get() {
            self.looks.set(self.looks.get().saturating_add(1));
            if self.walk.borrow().is_some() && self.looks.get() >= GRACE_CHECKS {
                self.with_qpair(QueuePair::disconnect);
            }
        } else if self.since.get().is_some_and(|since| now.duration_since(since) >= limit) {
            self.since.set(None);
            log::warn!("pool '{}': an I/O queue was not connected in {} ms", self.shared.name, limit.as_millis());
            self.with_qpair(QueuePair::disconnect);
        } else {
            self.look_at_progress(now);
        }
        self.look_at_refused(now);
        self.look_at_aborts(now);
        self.tell(now);
        Poll::Idle
    }

    /// A queue with something that has to end, and does not, is dropped.
    fn look_at_aborts(&self, now: Instant) {
        self.aborts.look(now);
        let is_stuck = self.aborts.take_stuck() && !self.leaving.get();
        if is_stuck && self.with_qpair(QueuePair::is_connected) == Some(true) {
            log::warn!(
                "pool '{}': a command that has to end neither ends nor is aborted; its I/O queue is dropped",
                self.shared.name
            );
            self.dropped.set(Some(Dropped::Stuck));
            self.with_qpair(QueuePair::disconnect);
        }
    }

    /// Tells what the queue pair is like.
    fn tell(&self, now: Instant) {
        spdk::trace::refresh();
        self.ages.turn(now);
        let progress = self.with_qpair(QueuePair::progress);
        if let Some(progress) = progress
            && progress.answered != self.answered.get().0
        {
            self.answered.set((progress.answered, Some(now)));
        }
        let mut oldest = self.ages.oldest(now);
        self.held.for_each_first(|io| {
            let ticks = spdk::time::ticks().saturating_sub(io.submitted_at());
            oldest = oldest.max(Some(Duration::from_millis(ticks / (spdk::time::ticks_hz() / 1000).max(1))));
        });
        let state = QueueState {
            core: current_core(),
            state: self.state(),
            outstanding: progress.map_or(0, |progress| progress.pending),
            waiting: self.held.count(),
            oldest,
            answered: self.answered.get().1,
            told: now,
        };
        self.shared.tell_queue(self.number, Some(state));
    }

    fn state(&self) -> &'static str {
        match self.with_qpair(QueuePair::is_live) {
            None => "disconnected",
            Some(true) => "connected",
            Some(false) if self.since.get().is_some() => "connecting",
            Some(false) => "stopped",
        }
    }

    fn look_at_progress(&self, now: Instant) {
        let Some(progress) = self.with_qpair(QueuePair::progress) else { return };
        let verdict = self.response_timer.borrow_mut().look(now, progress.answered, progress.pending);
        match verdict {
            Verdict::Fine => {}
            // One that cannot be sent is no probe; the silence goes on.
            Verdict::Probe => drop(self.with_qpair(QueuePair::probe)),
            Verdict::Hung => {
                log::warn!(
                    "pool '{}': an I/O queue with {} commands does not answer; it is dropped",
                    self.shared.name,
                    progress.pending
                );
                self.dropped.set(Some(Dropped::Silent));
                self.with_qpair(QueuePair::disconnect);
            }
        }
    }

    pub(super) fn send_delayed(self: &Rc<Self>, delay: Duration, io: BdevIo<D>) {
        if self.shared.is_failing() {
            return io.complete(IoStatus::Failed);
        }
        self.shared.held.fetch_add(1, Ordering::Relaxed);
        self.held.delay(Instant::now() + delay, io);
        if self.delay_poller.borrow().is_some() {
            return;
        }
        let weak = Rc::downgrade(self);
        let send = move || weak.upgrade().map_or(Poll::Idle, |link| link.send_due());
        match Poller::register("courier_delayed", SEND_DELAYED_PERIOD, send) {
            Ok(poller) => drop(self.delay_poller.replace(Some(poller))),
            // Without it nothing would end what is held.
            Err(error) => {
                log::error!("pool '{}': an I/O cannot be held: {error}", self.shared.name);
                self.held.end_delays();
                self.complete_waiting(|_| true, |io| io.complete(IoStatus::Failed));
            }
        }
    }

    fn note_held(&self, count: usize) {
        self.shared.held.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Holds an I/O for which no request is free, until it is its turn.
    pub(super) fn join_overflow(self: &Rc<Self>, io: BdevIo<D>) {
        if self.held.join_overflow(io)
            && let Some(reactor) = self.reactor.borrow().as_ref()
        {
            let link: Rc<dyn Overflow> = self.clone();
            reactor.overflows.add(&link);
        }
    }

    /// Sends what is due.
    fn send_due(&self) -> Poll {
        let due = self.held.take_due(Instant::now());
        let sent = !due.is_empty();
        for io in due {
            io.resubmit();
        }
        if !self.held.has_delayed() {
            self.delay_poller.take();
        }
        if sent { Poll::Busy } else { Poll::Idle }
    }

    /// Sends what waits and what was put off, as far as it may be.
    pub(super) fn release(self: &Rc<Self>) {
        if self.with_qpair(QueuePair::is_live) == Some(true) {
            self.held.end_delays();
            self.send_waiting();
        }
    }

    /// Sends what waits: at once, but for what was on several connections that ended by themselves.
    fn send_waiting(self: &Rc<Self>) {
        for io in self.held.take_waiting() {
            // The pool has seen to it that what was lost is over.
            io.note_over();
            if D::is_cancelled(&io) {
                // That came when the queues were being opened again.
                io.complete(IoStatus::Aborted);
            } else if io.device().is_held() {
                // It comes to `release`.
                self.held.wait(io);
            } else if io.losses() >= LOSSES_BEFORE_ALONE {
                self.held.set_apart(io);
            } else {
                io.resubmit();
            }
        }
        if !self.held.has_alone() {
            return;
        }
        self.with_qpair(QueuePair::stop);
        self.note_held(self.held.overflow_waits());
        let link = Rc::downgrade(self);
        let send = move || link.upgrade().map_or(Poll::Idle, |link| link.send_alone());
        match Poller::register("courier_alone", ALONE_INTERVAL, send) {
            Ok(poller) => drop(self.sender.replace(Some(poller))),
            Err(error) => {
                log::error!("pool '{}': what was lost could not be sent again: {error}", self.shared.name);
                self.drain_alone();
            }
        }
    }

    fn drain_alone(&self) {
        while let Some(io) = self.held.next_alone() {
            io.complete(IoStatus::Failed);
        }
    }

    /// Sends the next I/O that is to be alone, when the one before it has ended. After the last, everything may be sent
    /// again.
    fn send_alone(self: &Rc<Self>) -> Poll {
        if self.with_qpair(QueuePair::progress).is_none_or(|progress| progress.pending > 0) {
            return Poll::Idle;
        }
        self.with_qpair(QueuePair::resume);
        if let Some(io) = self.held.next_alone() {
            io.resubmit();
            self.with_qpair(QueuePair::stop);
        } else {
            self.sender.take();
            self.send_waiting();
        }
        Poll::Busy
    }

    pub(super) fn note_lost(&self, io: &BdevIo<D>) -> bool {
        let (by_peer, closing) =
            self.with_qpair(|qpair| (qpair.was_ended_by_peer(), qpair.is_closing())).unwrap_or((false, true));
        io.note_lost(!closing || self.dropped.get() == Some(Dropped::Silent));
        if io.may_write() {
            let lost_writes = if by_peer { LostWrites::EndedByPeer } else { LostWrites::Unfenced };
            self.shared.lost_writes.fetch_max(lost_writes as u8, Ordering::AcqRel);
        }
        io.losses() < MOST_LOSSES
    }

    pub(super) fn abort(self: &Rc<Self>, io: BdevIo<D>) {
        let Some(target) = io.abort_target() else { return io.complete(IoStatus::Failed) };
        if let Some(waiting) = self.held.take(target, self.shared.is_closed()) {
            waiting.complete(IoStatus::Aborted);
            return io.complete(IoStatus::Success);
        }
        // Whatever comes of it, the I/O is not sent again.
        let must_end = io.is_of_what_must_end();
        self.aborts.note_wait(io.mark_target());
        if self.held.is_waiting(target) {
            // It has its end when no queue of the pool takes commands.
            return io.complete(IoStatus::Success);
        }
        self.shorten_limit();
        let mut io = Some(io);
        let request = self.with_qpair(|qpair| io.take().and_then(|io| io.send_abort(qpair))).flatten();
        if let Some(request) = request {
            self.aborts.add(request, must_end);
        }
        if let Some(io) = io {
            io.complete(IoStatus::Failed);
        }
    }

    pub(super) fn shorten_limit(&self) {
        if let Some(progress) = self.with_qpair(QueuePair::progress) {
            self.response_timer.borrow_mut().shorten(SHORT_LIMIT, progress.answered);
        }
    }

    pub(super) fn stop(&self) {
        self.leaving.set(true);
        self.since.set(None);
        self.looks.set(0);
        self.with_qpair(QueuePair::stop);
        self.note_held(self.held.all_wait());
    }

    pub(super) fn disconnect(&self, walk: Advance) {
        let Some(progress) = self.with_qpair(QueuePair::progress) else { return walk.go_on(Ok(())) };
        self.walk.replace(Some(walk));
        // Otherwise `look` does.
        if progress.pending == 0 || !self.shared.grace.load(Ordering::Acquire) {
            self.with_qpair(QueuePair::disconnect);
        }
    }

    pub(super) fn connect_for(self: &Rc<Self>, ctrlr: &CtrlrRef, walk: Advance) {
        self.leaving.set(false);
        let live = self.with_qpair(QueuePair::is_live);
        let result = match live {
            Some(true) => return walk.go_on(Ok(())),
            Some(false) => Ok(()),
            None => self.connect(ctrlr),
        };
        match result {
            Ok(()) => drop(self.walk.replace(Some(walk))),
            Err(error) => walk.go_on(Err(error)),
        }
    }

    pub(super) fn give_up_connecting(&self) {
        if !self.leaving.get() && self.walk.borrow().is_some() {
            self.with_qpair(QueuePair::disconnect);
        }
    }

    pub(super) fn complete_waiting(&self, which: impl Fn(&BdevIo<D>) -> bool, complete: impl Fn(BdevIo<D>)) {
        self.held.take_all(which).into_iter().for_each(complete);
    }

    /// The channel goes.
    pub(super) fn close(&self) {
        self.shared.tell_queue(self.number, None);
        for poller in [&self.watcher, &self.sender, &self.again, &self.delay_poller] {
            poller.take();
        }
        self.aborts.give_up();
        // The bdev layer lets go of a channel when nothing is in flight; what still waits is a fault of somebody's.
        self.complete_waiting(|_| true, |io| io.complete(IoStatus::Aborted));
        let reactor = self.reactor.take();
        if let Some(qpair) = self.qpair.take() {
            // The poll group must outlive the queue pair, which takes a moment to go.
            qpair.close(Box::new(reactor));
        }
        if let Some(walk) = self.walk.take() {
            walk.go_on(Ok(()));
        }
    }
}

impl<D: Target> Overflow for Link<D> {
    fn send_overflow(&self) -> bool {
        self.held.send_overflow(|io| {
            let is_full = self.with_qpair(|qpair| qpair.is_live() && qpair.free_requests() == 0) == Some(true);
            if is_full { Some(io) } else { io.with_device(D::give) }
        })
    }
}
