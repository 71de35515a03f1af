//! Transfers between poll groups and memory of a client's that came without a file: what is decided about them is
//! carried out.

use std::sync::Arc;
use std::time::Instant;

use vfio_user::Session;

use crate::runtime::messages::{GroupHandle, QueueMessage};
use guest_memory::GuestMemory;
use nvme_device::connection::{self, Ask, Ended, GivenUp};
use nvme_device::queue::Transfer;

/// The transfers of one session's client.
#[derive(Debug)]
pub(super) struct WireTransfers {
    session: u64,
    transfers: connection::Transfers<Arc<GroupHandle>>,
}

impl WireTransfers {
    /// There are none yet.
    pub(super) fn new(session: u64) -> Self {
        Self { session, transfers: connection::Transfers::default() }
    }

    /// Begins a transfer for a poll group.
    pub(super) fn begin(&mut self, wire: &mut Session, group: Arc<GroupHandle>, transfer: Transfer) {
        for ask in self.transfers.begin(group, transfer) {
            match ask {
                Ask::Read { part, gpa, len } => wire.dma_read(part, gpa, len),
                Ask::Write { part, gpa, bytes } => wire.dma_write(part, gpa, bytes),
            }
        }
    }

    /// A part has ended.
    pub(super) fn ended(&mut self, part: u64, result: Result<Vec<u8>, i32>) {
        if let Some(ended) = self.transfers.part_ended(part, result) {
            self.tell(ended);
        }
    }

    /// Asks the client for no more of a transfer.
    pub(super) fn cancel(&mut self, wire: &mut Session, id: u64) {
        for part in self.transfers.cancel(id, Instant::now()) {
            wire.dma_cancel(part);
        }
    }

    /// Returns whether there are transfers to be given up if they do not end.
    pub(super) fn has_cancelled(&self) -> bool {
        self.transfers.has_cancelled()
    }

    /// Gives up what was cancelled and has not ended.
    pub(super) fn give_up_cancelled(&mut self, wire: &mut Session) {
        let given_up = self.transfers.give_up_cancelled(Instant::now());
        self.tell_given_up(wire, given_up);
    }

    /// Gives up what touches memory that is not in `newest`.
    pub(super) fn give_up_unmapped(&mut self, wire: &mut Session, newest: &GuestMemory) {
        let given_up = self.transfers.give_up_unmapped(newest);
        self.tell_given_up(wire, given_up);
    }

    fn tell_given_up(&self, wire: &mut Session, given_up: Vec<GivenUp<Arc<GroupHandle>>>) {
        for GivenUp { parts, ended } in given_up {
            for part in parts {
                wire.dma_cancel(part);
            }
            self.tell(ended);
        }
    }

    fn tell(&self, Ended { group, id, result }: Ended<Arc<GroupHandle>>) {
        group.send_queues(self.session, QueueMessage::Transferred { id, result });
    }
}
