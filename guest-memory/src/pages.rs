//! Pages of ours, and how many of them there may be.
#![expect(unsafe_code, reason = "pages are taken from the system")]

use std::alloc::{self, Layout};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use host_memory::HostMemory;

use super::error::Fault;
use super::host::{HostPtr, PAGE, to_usize};
use crate::dptr::DptrError;
use nvme_spec::Status;

/// Takes whole pages from where devices reach them, of so many bytes together. They are zeros.
pub type Allocate = fn(len: usize) -> Option<Box<dyn HostMemory>>;

/// How many bytes may stand in for the memory of all clients at once, and where they are taken from.
#[derive(Debug)]
pub struct BouncePool {
    limit: u64,
    allocate: Allocate,
    pub(super) used: AtomicU64,
    releases: AtomicU64,
}

impl BouncePool {
    /// Returns a pool of `limit` bytes.
    #[must_use]
    pub const fn new(limit: u64, allocate: Allocate) -> Self {
        Self { limit, allocate, used: AtomicU64::new(0), releases: AtomicU64::new(0) }
    }
}

/// How many bytes may stand in for one client's memory at once.
#[derive(Debug)]
pub struct BounceBudget {
    limit: u64,
    /// What it shares with all clients, of which it may have no more than is left for the others.
    pool: Option<&'static BouncePool>,
    used: AtomicU64,
    releases: AtomicU64,
}

impl BounceBudget {
    /// Returns room for `limit` bytes of the process' own memory.
    #[must_use]
    pub fn new(limit: u64) -> Arc<Self> {
        Self::with(limit, None)
    }

    /// Returns room for `limit` bytes of a pool's, where devices move the data.
    #[must_use]
    pub fn of(pool: &'static BouncePool, limit: u64) -> Arc<Self> {
        Self::with(limit, Some(pool))
    }

    fn with(limit: u64, pool: Option<&'static BouncePool>) -> Arc<Self> {
        Arc::new(Self { limit, pool, used: AtomicU64::new(0), releases: AtomicU64::new(0) })
    }

    /// Returns how many bytes are taken.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Counts how often some were given back. Who found no room need not try again before it moves.
    #[must_use]
    pub fn releases(&self) -> u64 {
        let of_all = self.pool.map_or(0, |pool| pool.releases.load(Ordering::Acquire));
        self.releases.load(Ordering::Acquire).wrapping_add(of_all)
    }

    pub(super) fn take(self: &Arc<Self>, bytes: u64) -> Result<BouncePermit, BounceError> {
        if bytes > self.limit {
            // It would wait for ever. Only an SGL of very many small pieces comes here.
            return Err(BounceError::Invalid(Status::INVALID_NUMBER_OF_SGL_DESCRIPTORS));
        }
        let more = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.limit);
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        let own = taken.map_err(|_| BounceError::NoRoom)?.saturating_add(bytes);
        if let Some(pool) = self.pool {
            // A client alone may have half of all, two a third each: there is something for whoever comes.
            let more = |used: u64| (own <= pool.limit.saturating_sub(used)).then(|| used.saturating_add(bytes));
            if pool.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_err() {
                self.used.fetch_sub(bytes, Ordering::Relaxed);
                return Err(BounceError::NoRoom);
            }
        }
        Ok(BouncePermit { budget: Arc::clone(self), bytes })
    }
}

/// A part of a budget.
pub(super) struct BouncePermit {
    budget: Arc<BounceBudget>,
    bytes: u64,
}

impl Drop for BouncePermit {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
        if let Some(pool) = self.budget.pool {
            pool.used.fetch_sub(self.bytes, Ordering::Relaxed);
            pool.releases.fetch_add(1, Ordering::Release);
        }
        // After the room is there: who sees the new count finds it.
        self.budget.releases.fetch_add(1, Ordering::Release);
    }
}

/// Why nothing can stand in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BounceError {
    /// Too much stands in already. There is room again when other commands have ended.
    NoRoom,
    /// The command is to be completed with this status.
    Invalid(Status),
}

impl From<Status> for BounceError {
    fn from(status: Status) -> Self {
        Self::Invalid(status)
    }
}

impl From<DptrError> for BounceError {
    fn from(error: DptrError) -> Self {
        Self::Invalid(error.into())
    }
}

impl From<Fault> for BounceError {
    fn from(fault: Fault) -> Self {
        DptrError::from(fault).into()
    }
}

/// Pages of zeros to begin with.
pub(super) struct Pages {
    memory: Box<dyn HostMemory>,
    /// Goes after the memory.
    _permit: BouncePermit,
}

impl Pages {
    /// At least one page, and room for `bytes`, from where the permit's budget has them.
    pub(super) fn new(bytes: u64, permit: BouncePermit) -> Option<Arc<Self>> {
        let len = to_usize(bytes.max(PAGE));
        let allocate = permit.budget.pool.map_or(SystemPages::zeroed as Allocate, |pool| pool.allocate);
        let memory = allocate(len)?;
        let is_right = memory.len() >= len && memory.start().addr().get().is_multiple_of(to_usize(PAGE));
        is_right.then(|| Arc::new(Self { memory, _permit: permit }))
    }

    /// Returns where `len` bytes from `offset` on are.
    pub(super) fn at(&self, offset: u64, len: u64) -> Option<HostPtr> {
        let all = self.memory.len() as u64;
        offset.checked_add(len).filter(|end| *end <= all)?;
        // SAFETY: the offset is within the pages, or just behind them.
        Some(HostPtr(unsafe { self.memory.start().add(to_usize(offset)) }))
    }
}

/// Pages of the process' own memory. This is the only place where they are taken from the system.
pub(super) struct SystemPages {
    start: HostPtr,
    layout: Layout,
}

impl SystemPages {
    pub(super) fn zeroed(len: usize) -> Option<Box<dyn HostMemory>> {
        let layout = Layout::from_size_align(len, to_usize(PAGE)).ok().filter(|layout| layout.size() > 0)?;
        // SAFETY: the layout has bytes.
        let start = HostPtr(NonNull::new(unsafe { alloc::alloc_zeroed(layout) })?);
        Some(Box::new(Self { start, layout }))
    }
}

// SAFETY: the allocator's memory is mapped, readable and writable, until it is given back with this value; no reference
// is made into it.
unsafe impl HostMemory for SystemPages {
    fn start(&self) -> NonNull<u8> {
        self.start.0
    }

    fn len(&self) -> usize {
        self.layout.size()
    }
}

impl Drop for SystemPages {
    fn drop(&mut self) {
        // SAFETY: they came from the same allocator with this layout, and whoever had an address in them also held this
        // value.
        unsafe { alloc::dealloc(self.start.0.as_ptr(), self.layout) };
    }
}
