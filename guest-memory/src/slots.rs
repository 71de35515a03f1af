//! Places for the I/Os of a submission queue that are in flight: each is made when it is first taken, in memory that the
//! queue has from its beginning to its end.
//!
//! An [`Io`] is one such place while it is taken. It travels through a backend as a raw pointer, holds its queue, and
//! holds the view of guest memory that its pieces lie in: what an I/O may still write to stays mapped, whatever the
//! guest does meanwhile.
#![expect(unsafe_code, reason = "an I/O travels through foreign code as a pointer, with pieces of guest memory")]

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr::NonNull;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use host_memory::RawIo;
use libc::iovec;

use super::queue_memory::{ALIGN, QueueBlock, QueueMemory};
use super::{IovSink, MemView, UnmappedRegions, bytes, guard};
use crate::dptr::DptrError;

/// The most pieces that the data of one I/O may have in its place. One that has more gets [room](Io::make_room) of its
/// own.
pub const MAX_PIECES: usize = 129;

/// The most pieces that the data of any I/O may have: as many as the operating system takes at once.
const MOST_PIECES: usize = 1024;

/// The room of a place in its queue's.
const OWN_ROOM: u16 = 129;
const _: () = assert!(OWN_ROOM as usize == MAX_PIECES);

/// The end of the list of free places.
const NONE: u16 = u16::MAX;

/// A queue `Q` with places for its I/Os, each with a state `T` of its own.
pub struct Slots<Q: 'static, T: 'static> {
    queue: Q,
    owner: Weak<Self>,
    /// The places, and behind them room for the pieces of each. What is never used of both never becomes resident.
    block: QueueBlock,
    count: u16,
    /// So many places, the first ones, have been made: each when it was taken for the first time.
    made: Cell<u16>,
    /// Those of them that are free are a list.
    free: Cell<u16>,
    in_use: Cell<u16>,
    state: fn() -> T,
    dropped: fn(&Io<Q, T>),
}

struct Slot<Q: 'static, T: 'static> {
    owner: Weak<Slots<Q, T>>,
    index: u16,
    next_free: Cell<u16>,
    taken: Cell<bool>,
    /// Where its pieces are, and how many have room there: its own in the queue's, or those of `more`.
    pieces: Cell<*mut iovec>,
    room: Cell<u16>,
    /// In a box of its own, since hardly any place has them, and all places have room for this.
    more: Cell<Option<Box<MorePieces>>>,
    count: Cell<u16>,
    bytes: Cell<u32>,
    /// All pieces may be written to.
    writeable: Cell<bool>,
    view: Cell<Option<Rc<MemView>>>,
    /// It has pieces in memory that the newest view does not have.
    unmapped: Cell<bool>,
    carrier: Cell<*const c_void>,
    state: T,
}

/// Room for the pieces of one I/O that has more of them than a place has room for.
struct MorePieces(NonNull<[u128]>);

const _: () = assert!(size_of::<iovec>() == size_of::<u128>() && align_of::<iovec>() <= align_of::<u128>());

impl MorePieces {
    fn new(count: usize) -> Self {
        Self(NonNull::from(Box::leak(vec![0_u128; count].into_boxed_slice())))
    }

    fn first(&self) -> *mut iovec {
        self.0.as_ptr().cast()
    }
}

impl Drop for MorePieces {
    fn drop(&mut self) {
        // SAFETY: the box that `new` leaked.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

impl<Q, T> Slots<Q, T> {
    /// How many bytes a place takes. A controller that is idle has as many as it has had commands in flight at once.
    pub const PLACE_BYTES: usize = size_of::<Slot<Q, T>>();

    /// Returns how many bytes of [`QueueMemory`] a queue with `count` places takes at most.
    #[must_use]
    pub const fn bytes(count: u16) -> usize {
        const { assert!(align_of::<Slot<Q, T>>() <= 16 && align_of::<iovec>() <= 16) };
        (Self::places_bytes(count) + count as usize * MAX_PIECES * size_of::<iovec>()).next_multiple_of(ALIGN)
    }

    const fn places_bytes(count: u16) -> usize {
        (count as usize * Self::PLACE_BYTES).next_multiple_of(16)
    }

    /// Returns a queue with `count` places; `state` makes the state of each when it is first taken. They lie in
    /// `memory`, if there is room. `dropped` is called with an I/O that is dropped instead of [released](Io::release),
    /// before its place is free.
    pub fn new(
        memory: Option<&Arc<QueueMemory>>,
        count: u16,
        queue: Q,
        state: fn() -> T,
        dropped: fn(&Io<Q, T>),
    ) -> Rc<Self> {
        let count = count.min(NONE - 1);
        Rc::new_cyclic(|owner| Self {
            queue,
            owner: owner.clone(),
            block: QueueBlock::new(memory, Self::bytes(count)),
            count,
            made: Cell::new(0),
            free: Cell::new(NONE),
            in_use: Cell::new(0),
            state,
            dropped,
        })
    }

    #[inline]
    fn place(&self, index: u16) -> NonNull<Slot<Q, T>> {
        let first: NonNull<Slot<Q, T>> = self.block.start().cast();
        // SAFETY: the index is of a place, all of which are in the block.
        unsafe { first.add(usize::from(index)) }
    }

    fn pieces_of(&self, index: u16) -> *mut iovec {
        let behind_places =
            self.block.start().as_ptr().wrapping_add(Self::places_bytes(self.count) / size_of::<u128>());
        behind_places.cast::<iovec>().wrapping_add(usize::from(index) * MAX_PIECES)
    }

    /// Returns the places that have been made.
    fn places(&self) -> &[Slot<Q, T>] {
        // SAFETY: so many have been made, and stay until this is dropped. They are changed by their cells only.
        unsafe { std::slice::from_raw_parts(self.place(0).as_ptr(), usize::from(self.made.get())) }
    }

    /// Makes one place more. It is free, and the only one.
    #[cold]
    fn make_place(&self) -> Option<()> {
        let index = self.made.get();
        if index >= self.count {
            return None;
        }
        let slot = Slot {
            owner: self.owner.clone(),
            index,
            next_free: Cell::new(NONE),
            taken: Cell::new(false),
            pieces: Cell::new(self.pieces_of(index)),
            room: Cell::new(OWN_ROOM),
            more: Cell::new(None),
            count: Cell::new(0),
            bytes: Cell::new(0),
            writeable: Cell::new(true),
            view: Cell::new(None),
            unmapped: Cell::new(false),
            carrier: Cell::new(std::ptr::null()),
            state: (self.state)(),
        };
        // SAFETY: the place is in the block, aligned as that is, and nothing is there yet.
        unsafe { self.place(index).write(slot) };
        self.made.set(index + 1);
        self.free.set(index);
        Some(())
    }

    /// Returns the queue.
    #[inline]
    pub fn queue(&self) -> &Q {
        &self.queue
    }

    /// Returns how many places are taken.
    #[inline]
    pub fn in_use(&self) -> u16 {
        self.in_use.get()
    }

    /// Returns how many places are free.
    #[inline]
    pub fn free(&self) -> usize {
        usize::from(self.count - self.in_use.get())
    }

    /// Takes a place.
    #[inline]
    pub fn take(self: &Rc<Self>) -> Option<Io<Q, T>> {
        if self.free.get() == NONE {
            self.make_place()?;
        }
        // SAFETY: what is in the list of free places has been made.
        let slot = unsafe { self.place(self.free.get()).as_ref() };
        self.free.set(slot.next_free.get());
        self.in_use.set(self.in_use.get() + 1);
        slot.taken.set(true);
        slot.count.set(0);
        slot.bytes.set(0);
        slot.writeable.set(true);
        slot.unmapped.set(false);
        let slot = NonNull::from(slot);
        // The place holds its queue while it is taken; `Io::drop` takes the count back.
        std::mem::forget(Rc::clone(self));
        Some(Io(slot))
    }

    /// Calls `f` with every I/O that is in flight.
    pub fn for_each(&self, mut f: impl FnMut(InFlight<'_, T>)) {
        for slot in self.places().iter().filter(|slot| slot.taken.get()) {
            f(slot.in_flight());
        }
    }

    /// Calls `f` with the I/Os that are in flight in the places from `first` on, until it returns false. Returns the
    /// place where that was, or none if all have been looked at.
    pub fn visit_from(&self, first: u16, mut f: impl FnMut(InFlight<'_, T>) -> bool) -> Option<u16> {
        let places = self.places().get(usize::from(first)..)?;
        places.iter().find(|slot| slot.taken.get() && !f(slot.in_flight())).map(|slot| slot.index)
    }

    /// Makes every I/O hold `view` instead of the view that it began with, and of the regions that are `gone` from that
    /// one those that its pieces may lie in. Returns how many I/Os hold such regions: these touch memory that is to go.
    pub fn rebase(&self, view: &Rc<MemView>, unmapped: &UnmappedRegions) -> usize {
        if self.in_use() == 0 {
            return 0;
        }
        self.places()
            .iter()
            .filter(|slot| slot.taken.get())
            .filter(|slot| Self::rebase_one(slot, view, unmapped))
            .count()
    }

    /// Returns the same for one I/O. Returns whether it holds memory that is to go.
    fn rebase_one(slot: &Slot<Q, T>, view: &Rc<MemView>, unmapped: &UnmappedRegions) -> bool {
        let Some(held) = slot.view.take() else { return false };
        // Pages that stand in for the client's memory are in no view but that of their I/O.
        if held.memory().stands_in() {
            slot.unmapped.set(!held.memory().still_bounces(view.memory()));
            slot.view.set(Some(held));
            return slot.unmapped.get();
        }
        // SAFETY: nobody has a reference into the pieces of this place: those who fill them do it within a call on this
        // thread, and a backend reads them by pointer.
        let pieces = unsafe { std::slice::from_raw_parts(slot.pieces.get(), usize::from(slot.count.get())) };
        let touched = pieces.iter().flat_map(|piece| unmapped.touched_by(piece));
        let kept: Vec<_> = held.kept().iter().chain(touched).cloned().collect();
        slot.unmapped.set(!kept.is_empty());
        let view = if kept.is_empty() { Rc::clone(view) } else { Rc::new(view.keeping(kept)) };
        slot.view.set(Some(view));
        slot.unmapped.get()
    }

    fn release_slot(&self, slot: &Slot<Q, T>) {
        if slot.room.get() != OWN_ROOM {
            self.take_room_back(slot);
        }
        slot.view.take();
        slot.taken.set(false);
        slot.next_free.set(self.free.get());
        self.free.set(slot.index);
        self.in_use.set(self.in_use.get() - 1);
    }
}

impl<Q, T> Slots<Q, T> {
    #[cold]
    fn take_room_back(&self, slot: &Slot<Q, T>) {
        slot.room.set(OWN_ROOM);
        slot.pieces.set(self.pieces_of(slot.index));
        slot.more.take();
    }
}

impl<Q, T> Drop for Slots<Q, T> {
    fn drop(&mut self) {
        let made = std::ptr::slice_from_raw_parts_mut(self.place(0).as_ptr(), usize::from(self.made.get()));
        // SAFETY: so many have been made, and none is taken: one that is holds this. They are dropped once; the block
        // goes after them.
        unsafe { std::ptr::drop_in_place(made) };
    }
}

impl<Q, T> Slot<Q, T> {
    fn name(&self) -> IoToken {
        IoToken(NonNull::from(self).cast())
    }

    fn in_flight(&self) -> InFlight<'_, T> {
        InFlight { name: self.name(), state: &self.state, is_unmapped: self.unmapped.get() }
    }
}

/// An I/O that is in flight, for those who only look.
#[derive(Debug)]
pub struct InFlight<'a, T> {
    /// What a backend knows it by.
    pub name: IoToken,
    /// Its state.
    pub state: &'a T,
    /// Set if it has pieces in memory that the view of the last [`rebase`](Slots::rebase) does not have.
    pub is_unmapped: bool,
}

impl<Q, T> std::fmt::Debug for Slots<Q, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slots").field("count", &self.count).field("in_use", &self.in_use.get()).finish_non_exhaustive()
    }
}

/// What a backend knows an I/O by. It may name one that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IoToken(NonNull<c_void>);

impl IoToken {
    /// Returns the pointer by which foreign code knows it.
    #[must_use]
    pub fn as_ptr(self) -> NonNull<c_void> {
        self.0
    }
}

/// An I/O that is in flight. Who has ended it [releases](Self::release) its place. Dropping it does so too, but its queue is
/// told first, since nobody may have ended it.
pub struct Io<Q: 'static, T: 'static>(NonNull<Slot<Q, T>>);

impl<Q, T> Io<Q, T> {
    #[inline]
    fn slot(&self) -> &Slot<Q, T> {
        // SAFETY: the place lies in a queue of which this holds a count.
        unsafe { self.0.as_ref() }
    }

    #[inline]
    fn slots(&self) -> &Slots<Q, T> {
        // SAFETY: as above; the weak reference points to the queue whose count is held.
        unsafe { &*self.slot().owner.as_ptr() }
    }

    /// Releases its place: it has ended.
    #[inline]
    pub fn release(self) {
        std::mem::ManuallyDrop::new(self).release_slot();
    }

    /// Releases its place, and lets go of its queue, which may go with it: nothing of this is used after it.
    #[inline]
    fn release_slot(&self) {
        let slots = self.slot().owner.as_ptr();
        self.slots().release_slot(self.slot());
        // SAFETY: the count that `take` left, which is given back once: by `release`, or else by `drop`.
        drop(unsafe { Rc::from_raw(slots) });
    }

    /// Returns its queue.
    #[inline]
    #[must_use]
    pub fn queue(&self) -> &Q {
        &self.slots().queue
    }

    /// Returns its state.
    #[inline]
    #[must_use]
    pub fn state(&self) -> &T {
        &self.slot().state
    }

    /// Returns its queue with the places of its I/Os.
    #[must_use]
    pub fn owner(&self) -> Rc<Slots<Q, T>> {
        let slots = self.slot().owner.as_ptr();
        // SAFETY: the queue is alive, since this holds a count of it; another is added for the value that is made.
        unsafe {
            Rc::increment_strong_count(slots);
            Rc::from_raw(slots)
        }
    }

    /// Returns what a backend knows it by.
    #[must_use]
    pub fn name(&self) -> IoToken {
        self.slot().name()
    }

    /// Returns the I/O, to look at.
    #[must_use]
    pub fn in_flight(&self) -> InFlight<'_, T> {
        self.slot().in_flight()
    }

    /// Returns the number of bytes of its data.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> u32 {
        self.slot().bytes.get()
    }

    /// Returns how many pieces its data has.
    #[inline]
    #[must_use]
    pub fn piece_count(&self) -> u16 {
        self.slot().count.get()
    }

    /// Adds pieces of guest memory to its data: `f` pushes them to a sink that takes only what `view` maps, and that
    /// the device may write to if `to_guest`. All pieces of an I/O are added with the same view.
    ///
    /// # Errors
    /// What `f` says; the data is then as before.
    #[inline]
    pub fn add_data(
        &mut self,
        view: &Rc<MemView>,
        to_guest: bool,
        f: impl FnOnce(&mut IovSink<'_>) -> Result<(), DptrError>,
    ) -> Result<(), DptrError> {
        let slot = self.slot();
        let room = usize::from(slot.room.get());
        let begin = usize::from(slot.count.get()).min(room);
        // SAFETY: the pieces of this place, which only this owner fills, and which no backend has.
        let pieces = unsafe { std::slice::from_raw_parts_mut(slot.pieces.get(), room) };
        let mut sink = IovSink::new(view, pieces.get_mut(begin..).unwrap_or_default(), to_guest);
        f(&mut sink)?;
        let (count, bytes) = (sink.count(), sink.bytes());
        slot.count.set(u16::try_from(begin + count).unwrap_or(NONE));
        slot.bytes.set(slot.bytes.get().saturating_add(bytes));
        slot.writeable.set(slot.writeable.get() && to_guest);
        slot.view.set(Some(Rc::clone(view)));
        Ok(())
    }

    /// Makes room for `count` pieces, or for as many as any I/O may have. It is to have no data yet.
    pub fn make_room(&mut self, count: usize) {
        let slot = self.slot();
        let count = count.min(MOST_PIECES);
        if slot.count.get() == 0 && count > usize::from(slot.room.get()) {
            let more = MorePieces::new(count);
            slot.pieces.set(more.first());
            slot.room.set(u16::try_from(count).unwrap_or(OWN_ROOM));
            slot.more.set(Some(Box::new(more)));
        }
    }

    /// Copies its data into `into`, from the piece with index `first` on and as far as both go. Returns how many bytes
    /// those are.
    pub fn read_data(&self, first: u16, into: &mut [u8]) -> usize {
        let (len, mut rest) = (into.len(), into);
        for (host, piece_len) in self.host_pieces().skip(usize::from(first)) {
            let (now, later) = rest.split_at_mut(piece_len.min(rest.len()));
            // SAFETY: the piece is memory of a region that the view of this I/O holds, and was translated for this use.
            unsafe { bytes::load(host, now) };
            rest = later;
        }
        len - rest.len()
    }

    /// Copies `data` to where its data goes, as far as both go. Returns how many bytes those are: none if its data
    /// comes from the guest.
    #[must_use]
    pub fn write_data(&self, data: &[u8]) -> usize {
        let mut rest = data;
        for (host, piece_len) in self.host_pieces().take_while(|_| self.slot().writeable.get()) {
            let (now, later) = rest.split_at(piece_len.min(rest.len()));
            // SAFETY: the piece is memory of a region that the view of this I/O holds, and was translated for writing.
            unsafe { bytes::store(host, now) };
            rest = later;
        }
        data.len() - rest.len()
    }

    /// Returns whether a page of its data could not be had: what was read or written there is not the guest's. To be
    /// asked when it has ended, while this holds the regions.
    #[cold]
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        guard::any() && self.host_pieces().any(|(host, len)| guard::touches(host.addr().get(), len))
    }

    /// Returns the guest address of such a page.
    #[cold]
    #[must_use]
    pub fn poisoned_at(&self) -> Option<u64> {
        let (host, _) = self.host_pieces().find(|(host, len)| guard::touches(host.addr().get(), *len))?;
        let slot = self.slot();
        let view = slot.view.take()?;
        let gpa = view.memory().regions().chain(view.kept()).find_map(|region| {
            let offset = host.addr().get().checked_sub(region.host()?.0.addr().get())? as u64;
            (offset < region.len()).then(|| region.gpa().saturating_add(offset))
        });
        slot.view.set(Some(view));
        gpa
    }

    fn host_pieces(&self) -> impl Iterator<Item = (NonNull<u8>, usize)> {
        let slot = self.slot();
        let pieces = slot.pieces.get().cast_const();
        // SAFETY: the pieces of this place are only filled through a unique reference to this I/O.
        let pieces = unsafe { std::slice::from_raw_parts(pieces, usize::from(slot.count.get())) };
        pieces.iter().filter_map(|piece| Some((NonNull::new(piece.iov_base.cast())?, piece.iov_len)))
    }
}

impl<Q, T> Drop for Io<Q, T> {
    #[cold]
    fn drop(&mut self) {
        (self.slots().dropped)(self);
        self.release_slot();
    }
}

impl<Q, T> std::fmt::Debug for Io<Q, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Io").field("index", &self.slot().index).field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

// SAFETY: the pointer is that of the place, which `from_raw` makes an owner again. The pieces lie in the queue, which
// the owner holds, and are changed by nobody but an owner; the memory that they describe is mapped while the view is
// held, which the place does until it is put back; `rebase` puts another view in, and keeps the regions that this one
// does not have. The carrier's word is reached by an owner only.
unsafe impl<Q: 'static, T: 'static> RawIo for Io<Q, T> {
    #[inline]
    fn into_raw(self) -> NonNull<c_void> {
        std::mem::ManuallyDrop::new(self).0.cast()
    }

    #[inline]
    unsafe fn from_raw(raw: NonNull<c_void>) -> Self {
        Self(raw.cast())
    }

    #[inline]
    fn pieces(&self) -> host_memory::Pieces {
        let slot = self.slot();
        let (first, count) = (slot.pieces.get().cast_const(), usize::from(slot.count.get()));
        host_memory::Pieces { first, count, bytes: u64::from(self.bytes()) }
    }

    #[inline]
    fn carrier(&self) -> &Cell<*const c_void> {
        &self.slot().carrier
    }
}
