//! What the threads share of a controller and of a client's session with it.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use host_memory::HostMemory;
use spdk::dma::DmaPages;

use guest_memory::order::{PendingFlag, Published};
use guest_memory::{BounceBudget, BouncePool, DoorbellPage, GuestMemory, QueueMemory};
use nvme_device::admin_worker::{Request, Requests};
use nvme_device::model::regs::{CtrlLimits, Registers, Version};
use nvme_device::queue::{Interrupts, Settings, Totals, queue_memory_bytes};

use super::bdevs::Bdevs;
use super::log_budget::LineBudget;

/// The most bytes of one command's data: MDTS as the admin model tells it.
pub(super) const MAX_TRANSFER: u32 = 4096 << MDTS;

/// The same as the admin model has it: a power of two of pages.
pub(super) const MDTS: u8 = 5;

/// How many bytes may stand in for a client's memory at once.
const BOUNCE_BUDGET: u64 = 8 << 20;

/// The part of a second in which an interrupt handler begins and takes completions, even of a guest whose processors
/// wait for the machine's: 20 ms.
const PIN_SETTLES: u64 = 50;

/// How many bytes of SPDK's memory, which every device reaches, may stand in for the memory of all clients. SPDK must
/// run as long as any of it is taken.
static BOUNCE_POOL: BouncePool = BouncePool::new(64 << 20, |len| {
    let pages: Box<dyn HostMemory> = Box::new(DmaPages::zeroed(len).ok()?);
    Some(pages)
});

/// A controller, for as long as the RPCs know it.
#[derive(Debug)]
pub(super) struct Ctrl {
    /// Tells controllers apart, also those that had the same name.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// I/O queue pairs.
    pub max_queues: u16,
    /// Entries of a queue.
    pub max_queue_depth: u16,
    /// The pages of a client's memory are provided when it is mapped.
    pub prefault: bool,
    /// The version of the specification that it says it follows.
    pub version: Version,
    /// Set while a client is there.
    pub connected: AtomicBool,
    /// How many regions of memory the client has mapped, and of how many bytes.
    pub regions: AtomicU64,
    /// The bytes of these regions.
    pub memory: AtomicU64,
    /// What it has carried.
    pub counters: Counters,
    /// What records of its tracepoints belong to.
    pub(super) trace_owner: spdk::trace::TraceOwner,
    /// Lines in the log about its clients.
    pub(super) lines: LineBudget,
}

impl spdk::log::LogQuota for Ctrl {
    fn pays(&self) -> bool {
        self.lines.take(&self.name)
    }
}

/// Commands and data that a controller has carried.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// By the identifier of the submission queue, of all sessions. What comes here has been gathered over many rounds.
    queues: Mutex<BTreeMap<u16, Totals>>,
    bytes_bounced: AtomicU64,
    media_errors: AtomicU64,
    busy: Mutex<BusyTime>,
}

/// The time in which any command was in flight.
#[derive(Debug, Default)]
struct BusyTime {
    total: Duration,
    /// What is before that is counted.
    counted: Option<Instant>,
}

impl Counters {
    /// Adds what a poll group has counted of a submission queue.
    pub(crate) fn add(&self, sqid: u16, totals: Totals) {
        {
            let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
            let sum = queues.entry(sqid).or_default();
            *sum = sum.plus(totals);
        }
    }

    /// Adds commands that failed because data could not be had or kept.
    pub(crate) fn add_media_errors(&self, count: u64) {
        self.media_errors.fetch_add(count, Ordering::Relaxed);
    }

    /// Returns how many these are.
    #[must_use]
    pub(crate) fn media_errors(&self) -> u64 {
        self.media_errors.load(Ordering::Relaxed)
    }

    /// Adds the time from `since` to `now`, in which commands were in flight on a poll group. What others have added of
    /// it counts once.
    pub(crate) fn add_busy(&self, since: Instant, now: Instant) {
        {
            let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
            let since = busy.counted.map_or(since, |counted| counted.max(since));
            busy.total = busy.total.saturating_add(now.saturating_duration_since(since));
            busy.counted = Some(busy.counted.map_or(now, |counted| counted.max(now)));
        }
    }

    /// Returns the time in which any command was in flight.
    #[must_use]
    pub(crate) fn busy(&self) -> Duration {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).total
    }

    /// Adds bytes that went by messages, to and from memory that came without a file.
    pub(crate) fn add_bounced(&self, bytes: u64) {
        self.bytes_bounced.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Returns how many bytes these are.
    #[must_use]
    pub(crate) fn bytes_bounced(&self) -> u64 {
        self.bytes_bounced.load(Ordering::Relaxed)
    }

    /// Returns what each submission queue that was used has carried.
    #[must_use]
    pub(crate) fn queues(&self) -> Vec<(u16, Totals)> {
        let queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.iter().map(|(sqid, totals)| (*sqid, *totals)).collect()
    }

    /// Returns the sums.
    #[must_use]
    pub(crate) fn totals(&self) -> Totals {
        self.queues().into_iter().fold(Totals::default(), |sum, (_, totals)| sum.plus(totals))
    }
}

/// One client's session with a controller.
#[derive(Debug)]
pub(super) struct Session {
    /// Tells sessions apart.
    pub id: u64,
    /// The controller.
    pub ctrl: Arc<Ctrl>,
    /// The controller's registers, which begin anew with each session.
    pub registers: Registers,
    /// The doorbells.
    pub doorbells: Arc<DoorbellPage>,
    /// Where the places of its submission queues' commands are, reserved for as many as there may be: reactors, which
    /// make and free queues, neither map memory nor unmap it.
    pub(super) queue_memory: Option<Arc<QueueMemory>>,
    /// The eventfds.
    pub interrupts: Arc<Interrupts>,
    /// The newest table of the client's memory. The control thread publishes it.
    pub memory: Published<GuestMemory>,
    /// How much may stand in for memory of its that came without a file.
    pub bounce: Arc<BounceBudget>,
    /// What the admin worker has not begun yet.
    requests: Mutex<Requests>,
    /// What holds for all its queues.
    settings: Mutex<Settings>,
    /// The poll groups of the controller that have been told to look at the session, and those that have been told of
    /// settings, and have not done so.
    pending: PendingFlags,
    settings_pending: PendingFlags,
    /// Says whether the function may access the client's memory.
    pub bus: BusMaster,
}

/// Says whether the function may access guest memory (Bus Master Enable, and the power state), and which poll groups
/// have come to rest since it may not. The control thread says so; the poll groups take it.
#[derive(Debug)]
pub(super) struct BusMaster {
    /// Twice how often it has changed; odd while access is allowed. It begins as forbidden.
    state: AtomicU64,
    /// By poll group, the state in which it was found at rest last.
    quiesced: Vec<AtomicU64>,
}

impl BusMaster {
    fn new(groups: usize) -> Self {
        Self { state: AtomicU64::new(2), quiesced: (0..groups).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Allows access or forbids it. Returns whether that is new. One thread calls this.
    pub(crate) fn set(&self, allowed: bool) -> bool {
        let state = self.state.load(Ordering::Relaxed);
        if (state & 1 != 0) == allowed {
            return false;
        }
        self.state.store((state & !1) + 2 + u64::from(allowed), Ordering::Release);
        true
    }

    /// Returns whether access is allowed.
    #[must_use]
    pub(crate) fn is_allowed(&self) -> bool {
        self.state() & 1 != 0
    }

    /// Returns what [`note_quiesced`](Self::note_quiesced) and [`are_quiesced`](Self::are_quiesced) are told.
    #[must_use]
    pub(crate) fn state(&self) -> u64 {
        self.state.load(Ordering::Acquire)
    }

    /// The poll group of that index knows of `state`, and does nothing that it forbids.
    pub(crate) fn note_quiesced(&self, group: usize, state: u64) {
        if let Some(quiesced) = self.quiesced.get(group) {
            quiesced.fetch_max(state, Ordering::AcqRel);
        }
    }

    /// Returns whether all poll groups are at rest in `state`, or know of a later one.
    #[must_use]
    pub(crate) fn are_quiesced(&self, state: u64) -> bool {
        self.quiesced.iter().all(|quiesced| quiesced.load(Ordering::Acquire) >= state)
    }
}

/// Messages that are on their way, by poll group. The one that is there will find what is new: there need not be two.
#[derive(Debug)]
struct PendingFlags(Vec<PendingFlag>);

impl PendingFlags {
    fn new(groups: usize) -> Self {
        Self((0..groups).map(|_| PendingFlag::default()).collect())
    }

    /// A message is to be sent to this group. Returns whether none is on its way.
    fn set(&self, group: usize) -> bool {
        self.0.get(group).is_some_and(PendingFlag::set)
    }

    /// It has come.
    fn clear(&self, group: usize) {
        if let Some(flag) = self.0.get(group) {
            flag.clear();
        }
    }
}

impl Session {
    /// Returns a client's session of that number, with a controller that has so many poll groups.
    ///
    /// # Errors
    /// What the operating system says of the doorbells' page.
    pub(crate) fn new(id: u64, ctrl: &Arc<Ctrl>, groups: usize, limits: CtrlLimits) -> io::Result<Self> {
        // One more: what one has left may be on its way back to the system.
        let queue_memory = (usize::from(ctrl.max_queues) + 1) * queue_memory_bytes::<Bdevs>(ctrl.max_queue_depth);
        Ok(Self {
            id,
            ctrl: Arc::clone(ctrl),
            registers: Registers::new(&limits),
            doorbells: Arc::new(DoorbellPage::new()?),
            // Without it queues have blocks of their own.
            queue_memory: QueueMemory::reserve(queue_memory).ok(),
            interrupts: Arc::new(Interrupts::settling(spdk::time::ticks_hz() / PIN_SETTLES)),
            memory: Published::default(),
            bounce: BounceBudget::of(&BOUNCE_POOL, BOUNCE_BUDGET),
            requests: Mutex::default(),
            settings: Mutex::default(),
            pending: PendingFlags::new(groups),
            settings_pending: PendingFlags::new(groups),
            bus: BusMaster::new(groups),
        })
    }

    /// Returns whether nothing of it is anywhere but with the caller: that drops all of it then.
    #[must_use]
    pub(super) fn is_nowhere_else(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) == 1
            && Arc::strong_count(&self.doorbells) == 1
            && self.queue_memory.as_ref().is_none_or(|memory| Arc::strong_count(memory) == 1)
    }

    /// Asks the admin worker for something. Returns whether it must be told: if it has not begun what was asked before,
    /// it finds this too.
    #[must_use]
    pub(crate) fn ask(&self, request: Request) -> bool {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).push(request)
    }

    /// Takes what is next to be done.
    #[must_use]
    pub(crate) fn next_request(&self) -> Option<Request> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    /// Notes that the poll group of that index is told to look at the session. Returns whether that is to be done: if
    /// it was told and has not looked yet, it will see what there is now.
    #[must_use]
    pub(crate) fn set_pending(&self, group: usize) -> bool {
        self.pending.set(group)
    }

    /// That poll group is about to look at the session.
    pub(crate) fn clear_pending(&self, group: usize) {
        self.pending.clear(group);
    }

    /// Returns what holds for all queues now.
    #[must_use]
    pub(crate) fn settings(&self) -> Settings {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// This holds for all queues from now on.
    pub(crate) fn set(&self, settings: Settings) {
        *self.settings.lock().unwrap_or_else(PoisonError::into_inner) = settings;
    }

    /// Notes that the poll group of that index is told of new settings. Returns whether that is to be done: however
    /// often a host sets something, no more than one message is on its way.
    #[must_use]
    pub(crate) fn set_settings_pending(&self, group: usize) -> bool {
        self.settings_pending.set(group)
    }

    /// That poll group is about to take the settings.
    pub(crate) fn clear_settings_pending(&self, group: usize) {
        self.settings_pending.clear(group);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_in_which_several_poll_groups_are_busy_counts_once() {
        let counters = Counters::default();
        let at = |start: Instant, millis: u64| start + Duration::from_millis(millis);
        let start = Instant::now();
        for (since, now) in [(0, 10), (5, 12), (2, 8), (20, 30), (25, 31)] {
            counters.add_busy(at(start, since), at(start, now));
        }
        assert_eq!(counters.busy(), Duration::from_millis(12 + 11));
    }

    #[test]
    fn memory_is_at_rest_when_every_poll_group_has_come_to_rest_since_it_was_forbidden() {
        let bus = BusMaster::new(2);
        assert!(!bus.is_allowed() && !bus.set(false) && bus.set(true) && bus.is_allowed());
        for group in 0..2 {
            bus.note_quiesced(group, bus.state());
        }
        assert!(bus.set(false));
        let state = bus.state();
        assert!(!bus.are_quiesced(state));
        bus.note_quiesced(0, state);
        assert!(!bus.are_quiesced(state));
        bus.note_quiesced(1, state);
        assert!(bus.are_quiesced(state));
        assert!(bus.set(true) && bus.set(false));
        assert!(!bus.are_quiesced(bus.state()) && bus.are_quiesced(state));
    }

    #[test]
    fn one_message_to_each_group_is_enough_for_all_that_is_new() {
        let flags = PendingFlags::new(2);
        assert!(flags.set(0) && flags.set(1), "both groups must be told");
        assert!(!flags.set(0), "one is on its way");
        flags.clear(0);
        assert!(flags.set(0) && !flags.set(1));
        assert!(!flags.set(2), "there is no such group");
    }
}
