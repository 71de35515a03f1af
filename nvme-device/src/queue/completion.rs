//! Completion queues.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use super::context::Context;
use super::interrupt::Vector;
use super::pin::Pin;
use super::reserved::{Reservation, Reserved};
use super::state::CompletionState;
use guest_memory::{CompletionRing, UnmappedRegions};
use nvme_spec::{Cqe, Status};

/// The device side of a completion queue. An entry is reserved before a command is taken, so that a completion always
/// finds room.
#[derive(Debug)]
pub struct CompletionQueue {
    qid: u16,
    entries: u16,
    base: u64,
    context: Rc<Context>,
    ring: RefCell<Option<CompletionRing>>,
    tail: Cell<u16>,
    phase: Cell<bool>,
    /// The guest's head as it was last read and found valid.
    head: Cell<u16>,
    /// What it was when the pin was last unmasked.
    head_at_unmask: Cell<u16>,
    bad_head: Cell<Option<u32>>,
    reserved: Cell<u16>,
    /// Completions that wait because the queue's memory is not mapped.
    parked: RefCell<VecDeque<(Cqe, Reserved)>>,
    vector: Option<Vector>,
    /// Completions since the last interrupt, and when the first of them was posted.
    pending: Cell<u32>,
    since: Cell<u64>,
    /// Interrupts that were raised, and completions that another one's interrupt stood for.
    interrupts: Cell<u64>,
    coalesced: Cell<u64>,
}

impl CompletionQueue {
    /// Returns a queue of `entries` entries at guest address `base`, with an interrupt vector if the guest wants
    /// interrupts.
    #[must_use]
    pub(super) fn new(context: &Rc<Context>, qid: u16, base: u64, entries: u16, vector: Option<Vector>) -> Rc<Self> {
        Rc::new(Self {
            qid,
            entries,
            base,
            context: Rc::clone(context),
            ring: RefCell::new(None),
            tail: Cell::new(0),
            phase: Cell::new(true),
            head: Cell::new(0),
            head_at_unmask: Cell::new(0),
            bad_head: Cell::new(None),
            reserved: Cell::new(0),
            parked: RefCell::new(VecDeque::new()),
            vector,
            pending: Cell::new(0),
            since: Cell::new(0),
            interrupts: Cell::new(0),
            coalesced: Cell::new(0),
        })
    }

    /// Returns the queue's identifier.
    #[must_use]
    pub(crate) fn qid(&self) -> u16 {
        self.qid
    }

    /// Reserves up to `wanted` entries.
    #[inline]
    pub(super) fn reserve(&self, wanted: u16) -> Reservation<'_> {
        let mut free = self.free_by(self.head.get());
        if free < wanted {
            self.read_head();
            free = self.free_by(self.head.get());
        }
        let granted = wanted.min(free);
        self.reserved.set(self.reserved.get() + granted);
        Reservation::new(&self.reserved, granted)
    }

    /// Releases an entry that is not used.
    #[inline]
    pub(super) fn release(&self, entry: Reserved) {
        entry.consume();
        self.reserved.set(self.reserved.get().wrapping_sub(1));
    }

    /// Entries that are neither filled nor reserved, if the guest has taken those before `head`. One entry of a queue
    /// is never used.
    fn free_by(&self, head: u16) -> u16 {
        let tail = self.tail.get();
        let filled = if tail >= head { tail - head } else { self.entries - head + tail };
        (self.entries - 1).saturating_sub(filled).saturating_sub(self.reserved.get())
    }

    /// Returns the guest's head as it was last read.
    pub(super) fn head(&self) -> u16 {
        self.head.get()
    }

    /// Reads the guest's head. It must lie between the last one and the tail, or else it is reported and left out of
    /// account.
    pub(super) fn read_head(&self) {
        let Some(raw) = self.context.completion_head(self.qid) else { return };
        let (last, tail) = (self.head.get(), self.tail.get());
        let valid = u16::try_from(raw).ok().filter(|head| {
            let within = if last <= tail { (last..=tail).contains(head) } else { *head >= last || *head <= tail };
            *head < self.entries && within
        });
        match valid {
            Some(head) => {
                self.head.set(head);
                self.bad_head.set(None);
            }
            None => {
                if self.bad_head.replace(Some(raw)) != Some(raw) {
                    self.context.invalid_doorbell(self.qid);
                }
            }
        }
    }

    /// Asks for the entry that is written next: the guest's core has it, since the guest looks at it.
    #[inline]
    pub(super) fn prefetch(&self) {
        if let Some(ring) = self.ring.borrow().as_ref() {
            ring.prefetch(self.tail.get());
        }
    }

    /// Posts a completion in the entry that was reserved for it.
    #[inline]
    #[expect(clippy::similar_names, reason = "the names are the specification's")]
    pub(super) fn post(&self, entry: Reserved, sqid: u16, sqhd: u16, cid: u16, dw0: u32, status: Status) {
        let cqe = Cqe { dw0, dw1: 0, sqhd, sqid, cid, status };
        if !self.parked.borrow().is_empty() || !self.write(cqe) {
            return self.park(cqe, entry);
        }
        self.posted(entry);
    }

    #[inline]
    fn posted(&self, entry: Reserved) {
        self.release(entry);
        if self.vector.is_some() {
            self.mark();
        }
    }

    /// There is a reason for an interrupt, or one more.
    #[inline]
    fn mark(&self) {
        let before = self.pending.get();
        self.pending.set(before.saturating_add(1));
        if before == 0 {
            self.since.set(self.context.ticks());
            self.context.mark(self.qid);
        }
    }

    /// Writes an entry. Returns whether the queue's memory is there.
    #[inline]
    fn write(&self, mut cqe: Cqe) -> bool {
        let mut ring = self.ring.borrow_mut();
        if ring.is_none() && !self.context.is_suspended() {
            *ring = CompletionRing::resolve(&self.context.view(), self.base, self.entries).ok();
        }
        let Some(ring) = ring.as_ref() else { return false };
        let tail = self.tail.get();
        cqe.status.set_phase(self.phase.get());
        if ring.post(tail, cqe).is_err() {
            return false;
        }
        if tail + 1 == self.entries {
            self.tail.set(0);
            self.phase.set(!self.phase.get());
        } else {
            self.tail.set(tail + 1);
        }
        true
    }

    #[cold]
    fn park(&self, cqe: Cqe, entry: Reserved) {
        let mut parked = self.parked.borrow_mut();
        if parked.is_empty() {
            self.context.note_parked(self.qid);
        }
        parked.push_back((cqe, entry));
    }

    /// Tries to post what waits for the queue's memory. Returns whether nothing waits any more.
    pub(super) fn post_parked(&self) -> bool {
        loop {
            let Some(cqe) = self.parked.borrow().front().map(|(cqe, _)| *cqe) else { return true };
            if !self.write(cqe) {
                return false;
            }
            let written = self.parked.borrow_mut().pop_front();
            if let Some((_, entry)) = written {
                self.posted(entry);
            }
        }
    }

    /// Raises the interrupt unless it is to wait for more completions. Returns whether it need not be looked at again.
    #[inline]
    pub(super) fn signal(&self, mut raised: impl FnMut(u16, u16, u32)) -> bool {
        let Some(vector) = self.vector.as_ref() else { return true };
        let coalescing = self.context.coalescing(vector.number());
        if coalescing.ticks > 0
            && self.pending.get() < u32::from(coalescing.entries)
            && self.context.ticks().wrapping_sub(self.since.get()) < coalescing.ticks
        {
            return false;
        }
        let completions = self.pending.replace(0);
        self.count_interrupt(completions);
        raised(self.qid, vector.number(), completions);
        vector.raise(|pin| self.look_at_pin(pin));
        true
    }

    /// An interrupt stands for so many completions.
    fn count_interrupt(&self, completions: u32) {
        self.interrupts.set(self.interrupts.get().wrapping_add(1));
        self.coalesced.set(self.coalesced.get().wrapping_add(u64::from(completions.saturating_sub(1))));
    }

    /// Returns what it holds.
    pub(super) fn state(&self) -> CompletionState {
        if !self.context.is_suspended() {
            self.read_head();
        }
        CompletionState {
            qid: self.qid,
            size: self.entries,
            head: self.head.get(),
            tail: self.tail.get(),
            reserved: self.reserved.get(),
            waiting: self.parked.borrow().len(),
            vector: self.vector.as_ref().map(Vector::number),
            interrupts: self.interrupts.get(),
            coalesced: self.coalesced.get(),
        }
    }

    /// Raises an interrupt that could not be raised before. Returns whether the pin is to be raised.
    pub(super) fn catch_up(&self) -> bool {
        let Some(vector) = &self.vector else { return false };
        vector.catch_up();
        let due = vector.pin().is_some_and(|pin| self.look_at_pin(pin));
        if due {
            self.mark();
        }
        self.head_at_unmask.set(self.head.get());
        due
    }

    /// Returns whether the host has taken entries since the pin was unmasked.
    pub(super) fn was_served(&self) -> bool {
        self.read_head();
        self.head.get() != self.head_at_unmask.get()
    }

    /// The queue is not marked any more: the next completion marks it.
    pub(super) fn forget_mark(&self) {
        self.pending.set(0);
    }

    /// Raises the interrupt if the host has not taken all entries: it may not have heard of them.
    pub(super) fn remind(&self) {
        let Some(vector) = self.vector.as_ref().filter(|_| self.has_untaken()) else { return };
        self.count_interrupt(0);
        vector.raise(|pin| self.look_at_pin(pin));
    }

    /// Tells the pin, which stands for the queue's vector, whether there is a reason to raise it. Returns whether there
    /// is: a host that finds none when it is interrupted does not access the function, and a client that lowers the
    /// pin at such an access would leave it raised.
    #[cold]
    fn look_at_pin(&self, pin: &Pin) -> bool {
        let untaken = self.has_untaken();
        pin.set_reason(self.qid, untaken.then_some(self.tail.get()));
        untaken
    }

    /// Returns whether there are entries that the host has not taken.
    fn has_untaken(&self) -> bool {
        self.read_head();
        self.head.get() != self.tail.get()
    }

    /// The queue is gone: it is no reason to raise an interrupt.
    pub(super) fn forget_reason(&self) {
        if let Some(vector) = &self.vector {
            vector.interrupts().pin().set_reason(self.qid, None);
        }
    }

    /// The queue is looked for again when it is next written.
    pub(super) fn forget_ring(&self) {
        self.ring.take();
    }

    /// The same if it lies in memory that is gone.
    pub(super) fn forget_ring_in(&self, unmapped: &UnmappedRegions) {
        self.ring.borrow_mut().take_if(|ring| unmapped.any(|range| ring.intersects(range)));
    }
}

impl Drop for CompletionQueue {
    fn drop(&mut self) {
        self.parked.take().into_iter().for_each(|(_, entry)| entry.consume());
    }
}
