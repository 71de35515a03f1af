//! Data in memory of clients' that came without a file: how queues reach it.

use std::sync::{Arc, Weak};

use host_memory::HostMemory;
use spdk::dma::DmaPages;

use super::messages::{ControlHandle, ControlMessage, GroupHandle};
use super::session::Session;
use crate::memory::{BounceBudget, BouncePool};
use crate::queue::{ClientDma, Transfer};

/// How many bytes may stand in for a client's memory at once.
pub(super) const BUDGET: u64 = 8 << 20;

/// How many bytes of SPDK's memory, which every device reaches, may stand in for the memory of all clients. SPDK must
/// run as long as any of it is taken.
pub(super) static BOUNCE_POOL: BouncePool = BouncePool::new(64 << 20, |len| {
    let pages: Box<dyn HostMemory> = Box::new(DmaPages::zeroed(len).ok()?);
    Some(pages)
});

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
    pub(super) fn new(session: &Session, group: &Arc<GroupHandle>) -> Self {
        let (budget, control) = (Arc::clone(&session.bounce), session.control.clone());
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

    fn abandon(&self, id: u64) {
        self.control.send(ControlMessage::Abandon { session: self.session, id });
    }
}
