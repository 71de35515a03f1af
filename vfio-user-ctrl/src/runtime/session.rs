//! What the threads share of a controller and of a client's session with it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::memory::{DoorbellPage, GuestMemory};
use crate::model::regs::Registers;
use crate::queue::{Interrupts, Totals};

use super::group::GroupHandle;

/// A controller, for as long as the RPCs know it.
#[derive(Debug)]
pub struct Ctrl {
    /// Tells controllers apart, also those that had the same name.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// I/O queue pairs.
    pub max_queues: u16,
    /// Entries of a queue.
    pub max_queue_depth: u16,
    /// The poll groups that its queues are spread over.
    pub groups: Vec<Arc<GroupHandle>>,
    /// The one of them that its admin queue is on.
    pub home: Arc<GroupHandle>,
    /// Whether a client is there.
    pub connected: AtomicBool,
    /// How many regions of memory the client has mapped, and of how many bytes.
    pub regions: AtomicU64,
    /// The bytes of these regions.
    pub memory: AtomicU64,
    /// What it has carried.
    pub counters: Counters,
}

/// Commands and data that a controller has carried.
#[derive(Debug, Default)]
pub struct Counters {
    reads: AtomicU64,
    writes: AtomicU64,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
}

impl Counters {
    /// Adds what a poll group has counted.
    pub fn add(&self, totals: Totals) {
        self.reads.fetch_add(totals.reads, Ordering::Relaxed);
        self.writes.fetch_add(totals.writes, Ordering::Relaxed);
        self.bytes_read.fetch_add(totals.bytes_read, Ordering::Relaxed);
        self.bytes_written.fetch_add(totals.bytes_written, Ordering::Relaxed);
    }

    /// The sums.
    #[must_use]
    pub fn totals(&self) -> Totals {
        Totals {
            reads: self.reads.load(Ordering::Relaxed),
            writes: self.writes.load(Ordering::Relaxed),
            bytes_read: self.bytes_read.load(Ordering::Relaxed),
            bytes_written: self.bytes_written.load(Ordering::Relaxed),
        }
    }
}

/// One client's session with a controller.
#[derive(Debug)]
pub struct Session {
    /// Tells sessions apart.
    pub id: u64,
    /// The controller.
    pub ctrl: Arc<Ctrl>,
    /// The controller's registers, which begin anew with each session.
    pub registers: Registers,
    /// The doorbells.
    pub doorbells: Arc<DoorbellPage>,
    /// The eventfds.
    pub interrupts: Arc<Interrupts>,
    /// The client's memory.
    pub memory: SharedMemory,
}

/// The newest table of guest memory. The control thread publishes it; reactors take it when the epoch has moved.
#[derive(Debug, Default)]
pub struct SharedMemory {
    newest: Mutex<Arc<GuestMemory>>,
    epoch: AtomicU64,
}

impl SharedMemory {
    /// Puts a new table in place of the old one.
    pub fn publish(&self, memory: GuestMemory) {
        if let Ok(mut newest) = self.newest.lock() {
            *newest = Arc::new(memory);
        }
        // After the table: who sees the new epoch finds the new table.
        self.epoch.fetch_add(1, Ordering::Release);
    }

    /// Moves whenever a table is published.
    #[must_use]
    #[inline]
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// The newest table.
    #[must_use]
    pub fn newest(&self) -> Arc<GuestMemory> {
        self.newest.lock().map(|newest| Arc::clone(&newest)).unwrap_or_default()
    }
}
