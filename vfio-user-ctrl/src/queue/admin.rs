//! The admin queues.

use std::rc::Rc;

use super::completion::CompletionQueue;
use super::context::Context;
use super::cursor::Cursor;
use crate::model::spec::{Sqe, Status};

/// The admin submission and completion queue. What its commands do is the admin model's matter.
#[derive(Debug)]
pub struct AdminQueue {
    cursor: Cursor,
    completion: Rc<CompletionQueue>,
    context: Rc<Context>,
}

impl AdminQueue {
    pub(super) fn new(cursor: Cursor, completion: Rc<CompletionQueue>, context: Rc<Context>) -> Self {
        Self { cursor, completion, context }
    }

    /// Takes the next command, for which a completion entry is reserved.
    #[must_use]
    pub fn next(&self) -> Option<Sqe> {
        if self.cursor.waiting(&self.context) == 0 || self.completion.reserve(1) == 0 {
            return None;
        }
        let sqe = self.cursor.take(&self.context.view(), false);
        if sqe.is_none() {
            self.completion.unreserve(1);
        }
        sqe
    }

    /// Completes a command that [`next`](Self::next) gave.
    pub fn complete(&self, cid: u16, dw0: u32, status: Status) {
        self.completion.post(0, self.cursor.head(), cid, dw0, status);
    }

    /// A command that may wait for ever keeps no entry: it would be missed by others.
    pub fn hold(&self) {
        self.completion.unreserve(1);
    }

    /// Reserves an entry for a command that was held. Whether there was one.
    #[must_use]
    pub fn resume(&self) -> bool {
        self.completion.reserve(1) == 1
    }

    /// Guest memory has changed.
    pub fn forget_rings(&self) {
        self.cursor.forget_ring();
    }
}
