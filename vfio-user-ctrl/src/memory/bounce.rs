//! Pages of ours that stand in for a client's memory that came without a file, for as long as one command lasts.
//!
//! What is made is a table of guest memory like any other, with the regions that the command's data touches and no more: where a
//! region has no file, pages of ours are at the same guest addresses. So the command is carried out as every other is. Its data is
//! brought to the pages before, or fetched from them afterwards, by messages to the client. Who holds the table holds the
//! client's regions too: memory is not unmapped while a command is in flight in it.
#![expect(unsafe_code, reason = "pages are taken from the system")]

use std::alloc::{self, Layout};
use std::fmt;
use std::ops::Range;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::error::Fault;
use super::region::{Access, HostPtr, PAGE, Region, to_usize};
use super::slots::MAX_PIECES;
use super::table::{GuestMemory, Hint};
use super::view::MemView;
use crate::model::dptr::DptrError;
use nvme_spec::Status;

/// What a piece of data costs of the budget at least: so much, about, is kept of each piece besides its bytes.
const PIECE_COST: u64 = 512;

/// What a piece costs of it that has no room in an I/O's place.
const ROOM_COST: u64 = 64;

/// How many bytes of SPDK's memory may stand in for the memory of all clients at once.
#[cfg(feature = "runtime")]
const LIMIT_OF_ALL: u64 = 64 << 20;

/// What all clients have of it together.
#[derive(Debug)]
struct Total {
    limit: u64,
    used: AtomicU64,
    releases: AtomicU64,
}

#[cfg(feature = "runtime")]
static OF_ALL: Total = Total::new(LIMIT_OF_ALL);

#[cfg(any(test, feature = "runtime"))]
impl Total {
    const fn new(limit: u64) -> Self {
        Self { limit, used: AtomicU64::new(0), releases: AtomicU64::new(0) }
    }
}

/// How many bytes may stand in for one client's memory at once.
#[derive(Debug)]
pub struct BounceBudget {
    limit: u64,
    /// What it shares with all clients, of which it may have no more than is left for the others.
    total: Option<&'static Total>,
    /// Devices move the data: it is to be in memory that they reach.
    #[cfg(feature = "runtime")]
    for_devices: bool,
    used: AtomicU64,
    releases: AtomicU64,
}

impl BounceBudget {
    /// Room for `limit` bytes.
    #[must_use]
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self {
            limit,
            total: None,
            #[cfg(feature = "runtime")]
            for_devices: false,
            used: AtomicU64::new(0),
            releases: AtomicU64::new(0),
        })
    }

    /// Room for `limit` bytes of SPDK's memory, which every device reaches. SPDK must run as long as any of it is taken.
    #[cfg(feature = "runtime")]
    #[must_use]
    pub fn for_devices(limit: u64) -> Arc<Self> {
        Arc::new(Self {
            limit,
            total: Some(&OF_ALL),
            for_devices: true,
            used: AtomicU64::new(0),
            releases: AtomicU64::new(0),
        })
    }

    /// How many bytes are taken.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Counts how often some were given back. Who found no room need not try again before it moves.
    #[must_use]
    pub fn releases(&self) -> u64 {
        let of_all = self.total.map_or(0, |total| total.releases.load(Ordering::Acquire));
        self.releases.load(Ordering::Acquire).wrapping_add(of_all)
    }

    fn take(self: &Arc<Self>, bytes: u64) -> Result<BouncePermit, BounceError> {
        if bytes > self.limit {
            // It would wait for ever. Only an SGL of very many small pieces comes here.
            return Err(BounceError::Invalid(Status::INVALID_NUMBER_OF_SGL_DESCRIPTORS));
        }
        let more = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.limit);
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        let own = taken.map_err(|_| BounceError::NoRoom)?.saturating_add(bytes);
        if let Some(total) = self.total {
            // A client alone may have half of all, two a third each: there is something for whoever comes.
            let more = |used: u64| (own <= total.limit.saturating_sub(used)).then(|| used.saturating_add(bytes));
            if total.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_err() {
                self.used.fetch_sub(bytes, Ordering::Relaxed);
                return Err(BounceError::NoRoom);
            }
        }
        Ok(BouncePermit { budget: Arc::clone(self), bytes })
    }
}

/// A part of a budget.
struct BouncePermit {
    budget: Arc<BounceBudget>,
    bytes: u64,
}

impl Drop for BouncePermit {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
        if let Some(total) = self.budget.total {
            total.used.fetch_sub(self.bytes, Ordering::Relaxed);
            total.releases.fetch_add(1, Ordering::Release);
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

/// Pages of zeros to begin with. This is the only place where memory that stands in is taken from the system.
pub(super) struct Pages {
    start: HostPtr,
    len: u64,
    store: Store,
    _permit: BouncePermit,
}

/// Where pages came from.
enum Store {
    System(Layout),
    #[cfg(feature = "runtime")]
    Spdk {
        _memory: spdk::dma::DmaBuf,
    },
}

impl Pages {
    fn new(bytes: u64, permit: BouncePermit) -> Option<Arc<Self>> {
        let len = bytes.max(PAGE);
        #[cfg(feature = "runtime")]
        if permit.budget.for_devices {
            let mut memory = spdk::dma::DmaBuf::zeroed(to_usize(len), to_usize(PAGE)).ok()?;
            let start = HostPtr(NonNull::from(&mut *memory).cast());
            return Some(Arc::new(Self { start, len, store: Store::Spdk { _memory: memory }, _permit: permit }));
        }
        let layout = Layout::from_size_align(to_usize(len), to_usize(PAGE)).ok()?;
        // SAFETY: the layout has bytes.
        let start = HostPtr(NonNull::new(unsafe { alloc::alloc_zeroed(layout) })?);
        Some(Arc::new(Self { start, len, store: Store::System(layout), _permit: permit }))
    }

    /// Where `len` bytes from `offset` on are.
    pub(super) fn at(&self, offset: u64, len: u64) -> Option<HostPtr> {
        offset.checked_add(len).filter(|end| *end <= self.len)?;
        // SAFETY: the offset is within the pages, or just behind them.
        Some(HostPtr(unsafe { self.start.0.add(to_usize(offset)) }))
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        match self.store {
            // SAFETY: they came from the same allocator with this layout, and whoever had an address in them also held this value.
            Store::System(layout) => unsafe { alloc::dealloc(self.start.0.as_ptr(), layout) },
            #[cfg(feature = "runtime")]
            Store::Spdk { .. } => {}
        }
    }
}

/// A command's data, of which a part at least is in memory without a file.
#[derive(Clone)]
pub struct Bounce {
    view: Rc<MemView>,
    remote: Rc<[(u64, u32)]>,
}

impl Bounce {
    /// For the `pieces` of a command's data in `memory`, which are guest addresses and lengths in bytes; `to_guest` says that the
    /// guest's memory is to be written.
    ///
    /// # Errors
    /// See [`BounceError`].
    pub fn new(
        memory: &GuestMemory,
        pieces: &[(u64, u32)],
        to_guest: bool,
        budget: &Arc<BounceBudget>,
    ) -> Result<Self, BounceError> {
        let mut plan = Plan { room: room(pieces.len()), ..Plan::default() };
        for &(gpa, len) in pieces {
            plan.add(memory, gpa, len, to_guest)?;
        }
        plan.carry_out(budget)
    }

    /// The memory to carry the command out with.
    #[must_use]
    pub const fn view(&self) -> &Rc<MemView> {
        &self.view
    }

    /// Holds the client's regions that the data touches.
    #[must_use]
    pub fn memory(&self) -> Arc<GuestMemory> {
        Arc::clone(self.view.memory())
    }

    /// The pieces that are in memory without a file, in the order of the data. Those that are neighbours are one.
    #[must_use]
    pub fn remote(&self) -> &[(u64, u32)] {
        &self.remote
    }

    /// How many bytes they have.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.remote.iter().fold(0, |sum, (_, len)| sum.saturating_add(u64::from(*len)))
    }

    /// Puts the contents of the remote pieces where the command finds them.
    ///
    /// # Errors
    /// Data Transfer Error when `data` is not one buffer for each, of its length.
    pub fn fill(&self, data: &[Vec<u8>]) -> Result<(), Status> {
        if data.len() != self.remote.len() {
            return Err(Status::DATA_TRANSFER_ERROR);
        }
        for (&(gpa, len), data) in self.remote.iter().zip(data) {
            if data.len() != len as usize {
                return Err(Status::DATA_TRANSFER_ERROR);
            }
            self.view.write(gpa, data).map_err(status)?;
        }
        Ok(())
    }

    /// The contents of the remote pieces, each with its guest address, after the command.
    ///
    /// # Errors
    /// Data Transfer Error, which does not happen.
    pub fn collect(&self) -> Result<Vec<(u64, Vec<u8>)>, Status> {
        let collect = |&(gpa, len): &(u64, u32)| {
            let mut data = vec![0; len as usize];
            self.view.read(gpa, &mut data).map_err(status)?;
            Ok((gpa, data))
        };
        self.remote.iter().map(collect).collect()
    }
}

impl fmt::Debug for Bounce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bounce").field("remote", &self.remote).finish_non_exhaustive()
    }
}

fn status(fault: Fault) -> Status {
    DptrError::from(fault).into()
}

/// What a command's data touches.
#[derive(Default)]
struct Plan {
    remote: Vec<(u64, u32)>,
    local: Vec<Arc<Region>>,
    /// Whole pages, each in one region without a file.
    pages: Vec<(Range<u64>, Arc<Region>)>,
    /// What more pieces cost than have room in an I/O's place.
    room: u64,
}

/// What room for pieces costs: they are listed here, and in an I/O.
const fn room(pieces: usize) -> u64 {
    if pieces > MAX_PIECES { pieces as u64 * ROOM_COST } else { 0 }
}

impl Plan {
    fn add(&mut self, memory: &GuestMemory, gpa: u64, len: u32, to_guest: bool) -> Result<(), Fault> {
        let (mut at, mut left) = (gpa, len);
        while left > 0 {
            let region = memory.region_at(at).ok_or(Fault::Unmapped)?;
            let now = u32::try_from(region.end() - at).unwrap_or(u32::MAX).min(left);
            if region.host().is_some() {
                memory.translate(&Hint::default(), at, now.into(), to_guest)?;
                self.local.push(Arc::clone(region));
            } else {
                match region.access() {
                    Access::ReadOnly if to_guest => return Err(Fault::ReadOnly),
                    Access::WriteOnly if !to_guest => return Err(Fault::WriteOnly),
                    _ => self.add_remote(region, at, now),
                }
            }
            // Within the region, which ends below 2^64.
            at += u64::from(now);
            left -= now;
        }
        Ok(())
    }

    /// Adds `len` bytes at `gpa`, which `region` has.
    fn add_remote(&mut self, region: &Arc<Region>, gpa: u64, len: u32) {
        let end = gpa + u64::from(len);
        // Regions begin and end at pages.
        self.pages.push((gpa - gpa % PAGE..end.next_multiple_of(PAGE), Arc::clone(region)));
        match self.remote.last_mut() {
            Some((last, last_len)) if *last + u64::from(*last_len) == gpa => match last_len.checked_add(len) {
                Some(sum) => *last_len = sum,
                None => self.remote.push((gpa, len)),
            },
            _ => self.remote.push((gpa, len)),
        }
    }

    fn carry_out(mut self, budget: &Arc<BounceBudget>) -> Result<Bounce, BounceError> {
        self.merge_pages();
        let bytes = self.pages.iter().map(|(range, _)| range.end - range.start).sum();
        let permit = budget.take(self.cost().max(bytes).saturating_add(self.room))?;
        let pages = Pages::new(bytes, permit).ok_or(BounceError::Invalid(Status::INTERNAL_ERROR))?;
        let mut offset = 0;
        let mut regions = self.local;
        regions.sort_unstable_by_key(|region| region.id());
        regions.dedup_by_key(|region| region.id());
        for (range, region) in self.pages {
            let len = range.end - range.start;
            let standing_in = Region::standing_in(&region, range.start, len, &pages, offset);
            regions.push(Arc::new(standing_in.ok_or(BounceError::Invalid(Status::INTERNAL_ERROR))?));
            offset += len;
        }
        let view = Rc::new(MemView::new(Arc::new(GuestMemory::of(regions))));
        Ok(Bounce { view, remote: self.remote.into() })
    }

    /// What is moved by messages is kept beside the pages: a guest may name one page many times.
    fn cost(&self) -> u64 {
        self.remote.iter().map(|(_, len)| u64::from(*len).max(PIECE_COST)).sum()
    }

    /// Pages that touch become one range, and a page that is named twice is there once.
    fn merge_pages(&mut self) {
        self.pages.sort_unstable_by_key(|(range, _)| range.start);
        self.pages.dedup_by(|(next, region), (last, last_region)| {
            let joins = next.start <= last.end && region.id() == last_region.id();
            if joins {
                last.end = last.end.max(next.end);
            }
            joins
        });
    }
}

#[cfg(test)]
mod tests;
