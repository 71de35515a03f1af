//! Data in memory of clients' that came without a file: how queues reach it.

use std::sync::{Arc, Weak};

use super::messages::{ControlHandle, ControlMessage, GroupHandle};
use super::session::Session;
use guest_memory::BounceBudget;
use nvme_device::queue::{ClientDma, Transfer};

/// The way of a poll group's queues to their client's memory: by messages of the control thread.
#[derive(Debug)]
pub(super) struct ClientMemory {
    session: u64,
    budget: Arc<BounceBudget>,
    control: ControlHandle,
    /// Weak, since what is in flight in a queue may hold this longer than the group is to live.
    group: Weak<GroupHandle>,
}

impl ClientMemory {
    pub(super) fn new(session: &Session, control: &ControlHandle, group: &Arc<GroupHandle>) -> Self {
        let (budget, control) = (Arc::clone(&session.bounce), control.clone());
        Self { session: session.id, budget, control, group: Arc::downgrade(group) }
    }
}

impl ClientDma for ClientMemory {
    fn budget(&self) -> &Arc<BounceBudget> {
        &self.budget
    }

    fn begin(&self, transfer: Transfer) {
        if let Some(group) = self.group.upgrade() {
            self.control.send(ControlMessage::Transfer { session: self.session, group, transfer });
        }
    }

    fn cancel(&self, id: u64) {
        self.control.send(ControlMessage::Cancel { session: self.session, id });
    }
}
