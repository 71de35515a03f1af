//! Data in memory of clients' that came without a file: how queues reach it, and admin commands with data there.

use std::rc::Rc;
use std::sync::{Arc, Weak};

use super::control::Remote;
use super::group::GroupHandle;
use super::home::{Attached, Home};
use super::session::Session;
use crate::memory::BounceBudget;
use crate::model::admin::Pending;
use crate::model::spec::{Sqe, Status};
use crate::queue::{RemoteMemory, Transfer};

/// How many bytes may stand in for a client's memory at once.
pub(super) const BUDGET: u64 = 8 << 20;

/// The way of a poll group's queues to their client's memory: by messages of the control thread.
#[derive(Debug)]
pub(super) struct ClientMemory {
    session: u64,
    budget: Arc<BounceBudget>,
    control: Remote,
    /// Weak, since what is under way in a queue may hold this longer than the group is to live.
    group: Weak<GroupHandle>,
}

impl ClientMemory {
    pub(super) fn new(session: &Session, group: &Arc<GroupHandle>) -> Self {
        let (budget, control) = (Arc::clone(&session.bounce), session.control.clone());
        Self { session: session.id, budget, control, group: Arc::downgrade(group) }
    }
}

impl RemoteMemory for ClientMemory {
    fn budget(&self) -> &Arc<BounceBudget> {
        &self.budget
    }

    fn begin(&self, transfer: Transfer) {
        if let Some(group) = self.group.upgrade() {
            self.control.transfer(self.session, group, transfer);
        }
    }

    fn abandon(&self, id: u64) {
        self.control.abandon(self.session, id);
    }
}

impl Home {
    /// Gives the host an admin command's data by messages. Until that is done no other admin command is taken: what waits for a
    /// client is bounded.
    pub(super) fn send_by_messages(&self, attached: &Rc<Attached>, sqe: &Sqe, data: &[u8], dw0: u32) {
        let cid = sqe.cid;
        attached.transferring.set(true);
        let answer = self.answer(attached, move |_, attached, sent: Result<(), Status>| {
            attached.transferring.set(false);
            match sent {
                Ok(()) => attached.complete(cid, dw0, Status::SUCCESS),
                Err(status) => attached.complete(cid, 0, status),
            }
        });
        attached.local.queues().send_data(sqe, data, answer);
    }

    /// Fetches an admin command's data by messages, likewise.
    pub(super) fn fetch_by_messages(&self, attached: &Rc<Attached>, sqe: &Sqe, len: usize, pending: Pending) {
        let command = *sqe;
        attached.transferring.set(true);
        let answer = self.answer(attached, move |home, attached, fetched: Result<Vec<u8>, Status>| {
            attached.transferring.set(false);
            match fetched {
                Ok(data) => home.supply(attached, &command, pending, &data),
                Err(status) => attached.complete(command.cid, 0, status),
            }
        });
        attached.local.queues().fetch_data(sqe, len, answer);
    }
}
