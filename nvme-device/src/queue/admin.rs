//! The admin queues.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::completion::CompletionQueue;
use super::context::Context;
use super::cursor::Cursor;
use super::reserved::Reserved;
use super::state::SubmissionState;
use nvme_spec::{Sqe, Status};

/// The admin submission and completion queue. What its commands do is the admin model's matter.
#[derive(Debug)]
pub struct AdminQueue(Rc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    cursor: Cursor,
    completion: Rc<CompletionQueue>,
    context: Rc<Context>,
    /// Commands that were taken and are not completed.
    in_flight: Cell<u16>,
    /// The entries of those that are not held: one for each, whichever. An entry has no size, so that this allocates
    /// nothing.
    entries: RefCell<Vec<Reserved>>,
}

impl Inner {
    /// Reserves an entry. Returns whether there was one.
    fn reserve(&self) -> bool {
        let entry = self.completion.reserve(1).take();
        let is_reserved = entry.is_some();
        self.entries.borrow_mut().extend(entry);
        is_reserved
    }

    /// Releases an entry.
    fn release(&self) {
        let entry = self.entries.borrow_mut().pop();
        if let Some(entry) = entry {
            self.completion.release(entry);
        }
    }

    /// Returns what the queue holds.
    pub(super) fn state(&self) -> SubmissionState {
        SubmissionState {
            qid: 0,
            cqid: 0,
            size: self.cursor.entries(),
            head: self.cursor.head(),
            tail: self.context.submission_tail_to_tell(0),
            commands_in_flight: self.in_flight.get(),
            deferred: 0,
            fenced: 0,
            oldest: None,
        }
    }
}

impl AdminQueue {
    pub(super) fn new(cursor: Cursor, completion: Rc<CompletionQueue>, context: Rc<Context>) -> Self {
        Self(Rc::new(Inner { cursor, completion, context, in_flight: Cell::new(0), entries: RefCell::default() }))
    }

    pub(super) fn inner(&self) -> &Rc<Inner> {
        &self.0
    }

    /// Returns whether a command waits. It may be in memory that was mapped a moment ago.
    #[must_use]
    pub fn has_next(&self) -> bool {
        self.0.cursor.waiting(&self.0.context) > 0
    }

    /// Takes the next command, for which a completion entry is reserved.
    #[must_use]
    pub fn next(&self) -> Option<Sqe> {
        let Inner { cursor, context, in_flight, .. } = &*self.0;
        if cursor.waiting(context) == 0 || !self.0.reserve() {
            return None;
        }
        let sqe = cursor.take(&context.view(), false);
        if sqe.is_none() {
            self.0.release();
        } else {
            in_flight.set(in_flight.get().saturating_add(1));
        }
        sqe
    }

    /// Completes a command that [`next`](Self::next) gave, and that is not held.
    pub fn complete(&self, cid: u16, dw0: u32, status: Status) {
        let Inner { cursor, completion, in_flight, entries, .. } = &*self.0;
        let entry = entries.borrow_mut().pop();
        // Without one there may be no room: an entry would be overwritten that the host has not taken.
        let Some(entry) = entry else {
            return log::error!("the admin command {cid} is not completed: no completion entry is reserved for it");
        };
        in_flight.set(in_flight.get().saturating_sub(1));
        completion.post(entry, 0, cursor.head(), cid, dw0, status);
    }

    /// A command that may wait for ever keeps no entry: it would be missed by others.
    pub fn hold(&self) {
        self.0.release();
    }

    /// Reserves an entry for a command that was held. Returns whether there was one.
    #[must_use]
    pub fn resume(&self) -> bool {
        self.0.reserve()
    }

    /// Guest memory has changed.
    pub fn forget_rings(&self) {
        self.0.cursor.forget_ring();
    }
}

impl Drop for Inner {
    /// Commands may be in flight that nobody completes any more.
    fn drop(&mut self) {
        self.entries.take().into_iter().for_each(|entry| self.completion.release(entry));
    }
}
