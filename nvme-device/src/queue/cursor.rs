//! The controller's place in a submission queue.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::context::Context;
use guest_memory::{MemView, SubmissionRing, UnmappedRegions};
use nvme_spec::Sqe;

/// The device side of a submission queue: where it is, how far it has been read, and how far it has been written.
#[derive(Debug)]
pub(crate) struct Cursor {
    qid: u16,
    entries: u16,
    base: u64,
    ring: RefCell<Option<SubmissionRing>>,
    head: Cell<u16>,
    /// The last doorbell value that was not valid, so that it is reported once.
    bad_tail: Cell<Option<u32>>,
    /// An entry's page could not be had.
    broken: Cell<bool>,
}

impl Cursor {
    /// Returns a queue of `entries` entries at guest address `base`.
    #[must_use]
    pub(crate) fn new(qid: u16, base: u64, entries: u16) -> Self {
        Self {
            qid,
            entries,
            base,
            ring: RefCell::new(None),
            head: Cell::new(0),
            bad_tail: Cell::new(None),
            broken: Cell::new(false),
        }
    }

    /// Returns the queue's identifier.
    #[must_use]
    pub(crate) fn qid(&self) -> u16 {
        self.qid
    }

    /// Returns how many entries it has.
    #[must_use]
    pub(crate) fn entries(&self) -> u16 {
        self.entries
    }

    /// Returns the index of the next entry to be taken (SQHD).
    #[must_use]
    #[inline]
    pub(crate) fn head(&self) -> u16 {
        self.head.get()
    }

    /// Returns how many entries wait. An invalid doorbell counts as none and is reported to `context`.
    #[inline]
    pub(super) fn waiting(&self, context: &Context) -> u16 {
        let Some(tail) = context.submission_tail(self.qid) else { return 0 };
        let head = self.head.get();
        if tail == u32::from(head) {
            return 0;
        }
        self.distance(tail, head, context)
    }

    fn distance(&self, tail: u32, head: u16, context: &Context) -> u16 {
        match u16::try_from(tail) {
            Ok(_) if self.broken.get() => 0,
            Ok(tail) if tail < self.entries => {
                self.bad_tail.set(None);
                if tail > head { tail - head } else { self.entries - head + tail }
            }
            _ => {
                if self.bad_tail.replace(Some(tail)) != Some(tail) {
                    context.invalid_doorbell(self.qid);
                }
                0
            }
        }
    }

    /// Copies the next entry and steps over it, and asks for the one behind it if there is `another`. `None` while the
    /// queue's memory is not mapped.
    #[inline]
    pub(super) fn take(&self, view: &Rc<MemView>, another: bool) -> Option<Sqe> {
        let mut ring = self.ring.borrow_mut();
        if ring.is_none() {
            *ring = SubmissionRing::resolve(view, self.base, self.entries).ok();
        }
        let head = self.head.get();
        let ring = ring.as_ref()?;
        let next = if head + 1 == self.entries { 0 } else { head + 1 };
        if another {
            ring.prefetch(next);
        }
        let sqe = ring.read(head).ok()?;
        self.head.set(next);
        Some(sqe)
    }

    /// Returns whether the entry that was taken last is none of the host's, since its page could not be had. If so, it
    /// is as if it had not been taken, and none is taken any more.
    #[cold]
    pub(super) fn rewind_if_broken(&self) -> bool {
        let head = self.head.get();
        let last = if head == 0 { self.entries - 1 } else { head - 1 };
        let is_broken = self.ring.borrow().as_ref().is_some_and(|ring| ring.is_poisoned(last));
        if is_broken {
            self.head.set(last);
            self.broken.set(true);
        }
        is_broken
    }

    /// The queue is looked for again when it is next read.
    pub(super) fn forget_ring(&self) {
        self.ring.take();
    }

    /// The same if it lies in memory that is gone.
    pub(super) fn forget_ring_in(&self, unmapped: &UnmappedRegions) {
        self.ring.borrow_mut().take_if(|ring| unmapped.any(|range| ring.intersects(range)));
    }
}
