//! The orders of access that two sides rely on who share memory: queues and doorbells with the guest, the rest between
//! our own threads.
//!
//! All of them stand here, and nothing else does, so that they can be checked: `tests/orders.rs` compiles this file
//! with a model checker's atomics and runs both sides in every order that the memory model allows.

use std::sync::PoisonError;

use super::sync::{Arc, AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Mutex, Ordering, fence};

/// Returns the value of a doorbell. What its writer wrote before it is seen by what is read after this.
#[inline]
pub(crate) fn load_doorbell(doorbell: &AtomicU32) -> u32 {
    doorbell.load(Ordering::Acquire)
}

/// Writes a doorbell. Who sees the value has seen what was written before.
#[inline]
pub(crate) fn store_doorbell(doorbell: &AtomicU32, value: u32) {
    doorbell.store(value, Ordering::Release);
}

/// Returns a copy of a submission queue entry, each word of which is read once. The doorbell was read before.
#[inline]
pub(crate) fn read_entry<const WORDS: usize>(words: &[AtomicU64; WORDS]) -> [u64; WORDS] {
    words.each_ref().map(|word| word.load(Ordering::Relaxed))
}

/// Posts a completion queue entry. The word with the phase tag is written last and released: who sees the new phase
/// sees the whole entry, and the data of the command.
#[inline]
pub(crate) fn post_entry([first, last]: &[AtomicU64; 2], [low, high]: [u64; 2]) {
    first.store(low, Ordering::Relaxed);
    last.store(high, Ordering::Release);
}

/// A range of addresses that one thread sets and any may read, also a signal handler, under a sequence lock.
pub struct Span {
    /// Odd while the fields below change.
    pub(super) sequence: AtomicU32,
    pub(super) start: AtomicUsize,
    /// In bytes.
    pub(super) len: AtomicUsize,
    /// The size in bytes of the pages that are there.
    pub(super) page: AtomicUsize,
}

impl Span {
    /// Sets start, length and size of pages. Only the owner calls this.
    pub(crate) fn set(&self, start: usize, len: usize, page: usize) {
        let sequence = self.sequence.load(Ordering::Relaxed);
        self.sequence.store(sequence.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        self.start.store(start, Ordering::Relaxed);
        self.len.store(len, Ordering::Relaxed);
        self.page.store(page, Ordering::Relaxed);
        self.sequence.store(sequence.wrapping_add(2), Ordering::Release);
    }

    /// Start, length and size of pages as they were set together; `None` while they change.
    pub(crate) fn get(&self) -> Option<(usize, usize, usize)> {
        let sequence = self.sequence.load(Ordering::Acquire);
        let start = self.start.load(Ordering::Relaxed);
        let len = self.len.load(Ordering::Relaxed);
        let page = self.page.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        let is_stable = sequence.is_multiple_of(2) && self.sequence.load(Ordering::Relaxed) == sequence;
        is_stable.then_some((start, len, page))
    }
}

/// Something that one thread replaces and others look at often: they take it only when the epoch has moved.
#[derive(Debug, Default)]
pub struct Published<T> {
    newest: Mutex<Arc<T>>,
    epoch: AtomicU64,
}

impl<T: Default> Published<T> {
    /// Puts `value` in place of the old one, which others may still have.
    pub fn publish(&self, value: T) -> Arc<T> {
        let mut value = Arc::new(value);
        {
            let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::swap(&mut *newest, &mut value);
        }
        // After the value: who sees the new epoch finds the new value.
        self.epoch.fetch_add(1, Ordering::Release);
        value
    }

    /// Moves whenever something is published.
    #[must_use]
    #[inline]
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Returns the newest value.
    #[must_use]
    pub fn newest(&self) -> Arc<T> {
        Arc::clone(&self.newest.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Set while another thread was told to look and has not looked yet. It need not be told twice, and misses nothing.
#[derive(Debug)]
pub struct PendingFlag(AtomicBool);

impl Default for PendingFlag {
    fn default() -> Self {
        Self(AtomicBool::new(false))
    }
}

impl PendingFlag {
    /// There is something new to look at. Returns whether the other thread is to be told of it.
    #[must_use]
    pub fn set(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }

    /// The other thread is about to look.
    pub fn clear(&self) {
        // Reads what `set` wrote, so that all that went before it is seen.
        self.0.swap(false, Ordering::AcqRel);
    }
}
