//! What all reactors share of a pool.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use spdk::bdev::Device;
use spdk::io_device::IoDevice;
use spdk::nvme::CtrlrRef;

use super::reactor::Reactors;
use crate::messages::Address;
use crate::params::PoolParams;
use crate::pool::fence::LostWrites;

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
pub(crate) struct PoolShared<D: Device> {
    pub(super) name: String,
    /// The pool's.
    pub(super) address: Address<D>,
    pub(super) reactors: IoDevice<Reactors>,
    pub(super) limits: Limits,
    /// The controller, while queue pairs may be asked of it.
    ctrlr: Mutex<Option<CtrlrRef>>,
    /// I/O that finds no connection fails, instead of being held.
    failing: AtomicBool,
    /// No queue pair of the pool takes commands.
    closed: AtomicBool,
    /// For how long an I/O is tried again that the pool does not carry out for now.
    io_limit: Option<Duration>,
    /// It was asked for a proof of a namespace that has not been begun yet.
    pub(super) doubted: AtomicBool,
    /// The [`LostWrites`] of this pool.
    pub(super) lost_writes: AtomicU8,
    /// Queue pairs are given time to be ended by the other side.
    pub(super) grace: AtomicBool,
    /// What the channels told last of their queue pairs, by a number of each.
    queues: Mutex<BTreeMap<u64, QueueState>>,
    /// How often the connection was lost or reset.
    pub(crate) losses: AtomicU64,
    /// I/Os that were held because there was no connection.
    pub(crate) held: AtomicU64,
    /// I/Os that were sent again because their connection was lost.
    pub(crate) resent: AtomicU64,
}

impl<D: Device> PoolShared<D> {
    pub(crate) fn new(
        address: Address<D>,
        params: &PoolParams,
        reactors: IoDevice<Reactors>,
        ctrlr: Option<CtrlrRef>,
    ) -> Self {
        Self {
            name: params.name.clone(),
            address,
            reactors,
            limits: Limits { silence: params.silence_limit() + LATENESS, connect: params.connect_limit() },
            io_limit: params.io_limit(),
            doubted: AtomicBool::new(false),
            closed: AtomicBool::new(ctrlr.is_none()),
            lost_writes: AtomicU8::new(LostWrites::None as u8),
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

    /// Returns where the pool can be told something.
    pub(crate) fn address(&self) -> &Address<D> {
        &self.address
    }

    /// Returns the controller, if the pool is connected.
    pub(crate) fn ctrlr(&self) -> Option<CtrlrRef> {
        self.ctrlr.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_ctrlr(&self, ctrlr: Option<CtrlrRef>) {
        *self.ctrlr.lock().unwrap_or_else(PoisonError::into_inner) = ctrlr;
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
    pub(crate) fn take_lost_writes(&self) -> LostWrites {
        LostWrites::from_u8(self.lost_writes.swap(LostWrites::None as u8, Ordering::AcqRel))
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
