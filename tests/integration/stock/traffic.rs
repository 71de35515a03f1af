//! A guest's I/O, whose data is checked, and what it meets.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use crate::support::nvme::{BASE, DATA, Driver, PAGE, Queue, block_io};
use nvme_spec::{Cqe, IoOpcode, StatusCode};

/// I/Os in flight at a time, each on blocks of its own.
const SLOTS: u16 = 4;
/// What each of them moves.
const BYTES: usize = 4_096;
/// The namespace's blocks have so many bytes.
const BLOCK: u16 = 512;
/// How long a slot rests between two I/Os. So no command identifier comes again while a command can be in flight.
const REST: Duration = Duration::from_millis(4);
const LOOK: Duration = Duration::from_micros(500);

/// What the I/O has met.
#[derive(Debug, Clone)]
pub(super) struct Met {
    /// Failures, by status code type and status code.
    pub(super) errors: BTreeMap<StatusCode, u32>,
    /// What was read that had not been written there.
    pub(super) wrong_data: Option<String>,
    last_success: Instant,
    /// The longest time between two successes.
    pub(super) longest_gap: Duration,
    /// When the fault ended.
    ended: Option<Instant>,
    /// The first success of each slot after that.
    after: BTreeMap<u16, Instant>,
    /// Nothing counts any more.
    over: bool,
}

impl Met {
    /// From the end of the fault until every slot had a success again.
    pub(super) fn well_after(&self) -> Option<Duration> {
        let last = self.after.values().max().filter(|_| self.is_well())?;
        Some(last.duration_since(self.ended?))
    }

    /// Returns whether every slot has had a success since the fault ended.
    pub(super) fn is_well(&self) -> bool {
        self.after.len() == usize::from(SLOTS)
    }

    fn succeeded(&mut self, slot: u16, now: Instant) {
        if self.over {
            return;
        }
        self.longest_gap = self.longest_gap.max(now.duration_since(self.last_success));
        self.last_success = now;
        if self.ended.is_some() {
            self.after.entry(slot).or_insert(now);
        }
    }

    fn failed(&mut self, code: StatusCode) {
        if !self.over {
            *self.errors.entry(code).or_default() += 1;
        }
    }
}

/// Blocks of a slot, and the command that is in flight there.
struct Slot {
    number: u16,
    /// The numbers that may be in its blocks: the last that was written, and those whose write failed since.
    may_hold: BTreeSet<u64>,
    next: u64,
    /// The identifier of the command, and whether it writes.
    in_flight: Option<(u16, bool)>,
    ready: Instant,
    reads: bool,
}

impl Slot {
    fn new(number: u16) -> Self {
        let may_hold = BTreeSet::from([0]);
        let next = (u64::from(number) + 1) << 32;
        Self { number, may_hold, next, in_flight: None, ready: Instant::now(), reads: false }
    }

    fn place(&self, writes: bool) -> u64 {
        DATA + PAGE * (u64::from(self.number) + if writes { 0 } else { u64::from(SLOTS) })
    }

    fn begin(&mut self, driver: &mut Driver, queue: &mut Queue) {
        let (writes, place) = (!self.reads, self.place(!self.reads));
        if writes {
            self.may_hold.insert(self.next);
            driver.memory.write(place, &pattern(self.next).repeat(BYTES / 8));
        } else {
            driver.memory.write(place, &[0xee; BYTES]);
        }
        let blocks = u16::try_from(BYTES).expect("it is small") / BLOCK;
        let opcode = if writes { IoOpcode::WRITE } else { IoOpcode::READ };
        let slba = u32::from(self.number) * u32::from(blocks);
        let cid = driver.submit(queue, &[block_io(opcode, 1, slba, blocks, BASE + place)]);
        self.in_flight = Some((cid, writes));
    }

    fn end(&mut self, driver: &Driver, completion: Cqe, writes: bool, met: &mut Met, now: Instant) {
        self.in_flight = None;
        self.ready = now + REST;
        if !completion.status.is_success() {
            met.failed(completion.status.code());
            // Its number may come to the blocks yet.
            self.next += u64::from(writes);
            return;
        }
        met.succeeded(self.number, now);
        if writes {
            self.may_hold = BTreeSet::from([self.next]);
            self.next += 1;
        } else {
            let data = driver.memory.read_vec(self.place(false), BYTES);
            let known = self.may_hold.iter().any(|&number| data == pattern(number).repeat(BYTES / 8));
            if !known && !met.over {
                let found = u64::from_le_bytes(*data.first_chunk().expect("it is longer"));
                let slot = self.number;
                met.wrong_data.get_or_insert(format!("slot {slot}: {found:#x}, not one of {:x?}", self.may_hold));
            }
        }
        self.reads = !self.reads;
    }
}

fn pattern(number: u64) -> [u8; 8] {
    number.to_le_bytes()
}

/// I/O in flight.
pub(super) struct Traffic {
    met: Arc<Mutex<Met>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Driver>>,
}

impl Traffic {
    /// Begins with the namespace 1, which holds zeroes, of the controller whose socket is in `dir`.
    pub(super) fn start(dir: &Path) -> Self {
        let mut driver = Driver::start(dir);
        let mut queue = driver.create_queue(1, 64, None);
        let met = Met {
            errors: BTreeMap::new(),
            wrong_data: None,
            last_success: Instant::now(),
            longest_gap: Duration::ZERO,
            ended: None,
            after: BTreeMap::new(),
            over: false,
        };
        let (met, stop) = (Arc::new(Mutex::new(met)), Arc::new(AtomicBool::new(false)));
        let (shared, stopped) = (Arc::clone(&met), Arc::clone(&stop));
        let run = move || {
            let mut slots: Vec<Slot> = (0..SLOTS).map(Slot::new).collect();
            while !stopped.load(Ordering::Relaxed) {
                round(&mut driver, &mut queue, &mut slots, &shared);
                sleep(LOOK);
            }
            driver
        };
        let thread = thread::Builder::new().name("traffic".to_owned()).spawn(run).expect("a thread can be had");
        Self { met, stop, thread: Some(thread) }
    }

    fn lock(&self) -> MutexGuard<'_, Met> {
        self.met.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The fault is over.
    pub(super) fn fault_ended(&self) {
        self.lock().ended = Some(Instant::now());
    }

    /// Waits until all goes well again, for at most `limit`. Returns whether it does.
    pub(super) fn wait_until_well(&self, limit: Duration) -> bool {
        let start = Instant::now();
        while !self.lock().is_well() {
            if start.elapsed() >= limit || self.has_died() {
                return false;
            }
            sleep(Duration::from_millis(5));
        }
        true
    }

    /// Returns whether the controller's process takes nothing any more.
    pub(super) fn has_died(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Returns what was met so far. What comes later does not count.
    pub(super) fn conclude(&self) -> Met {
        let mut met = self.lock();
        met.over = true;
        met.longest_gap = met.longest_gap.max(met.last_success.elapsed());
        met.clone()
    }

    /// Ends it. The client stays connected while what is given back is kept.
    pub(super) fn stop(mut self) -> Option<Driver> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take()?.join().ok()
    }
}

fn round(driver: &mut Driver, queue: &mut Queue, slots: &mut [Slot], met: &Mutex<Met>) {
    while let Some(completion) = driver.poll(queue) {
        let now = Instant::now();
        let slot = slots.iter_mut().find(|slot| slot.in_flight.is_some_and(|(cid, _)| cid == completion.cid));
        let slot = slot.expect("a completion is that of a command");
        let writes = slot.in_flight.is_some_and(|(_, writes)| writes);
        let mut met = met.lock().unwrap_or_else(PoisonError::into_inner);
        slot.end(driver, completion, writes, &mut met, now);
    }
    let now = Instant::now();
    for slot in slots.iter_mut().filter(|slot| slot.in_flight.is_none() && slot.ready <= now) {
        slot.begin(driver, queue);
    }
}
