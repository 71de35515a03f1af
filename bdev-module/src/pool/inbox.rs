//! What a pool does with its messages.

use spdk::bdev::IoStatus;

use super::Pool;
use crate::disk::Disk;
use crate::messages::{PoolMessage, Receiver};

impl Receiver<Disk> for Pool {
    fn take(&self, message: PoolMessage<Disk>) {
        match message {
            PoolMessage::QueueLost { reason, by_peer } => self.connection_lost(reason, by_peer),
            PoolMessage::QueueStuck => self.queue_stuck(),
            PoolMessage::QueueRefused => self.queue_refused(),
            PoolMessage::QueueGranted => self.queue_granted(),
            PoolMessage::NamespaceDoubted { nsid } => self.doubt(nsid),
            PoolMessage::Reset { nsid, io } => self.reset(nsid, move |is_done| {
                let status = if is_done { IoStatus::Success } else { IoStatus::Failed };
                io.deliver(move |io| io.complete(status));
            }),
            PoolMessage::DiskGone { nsid } => self.forget_disk(nsid),
        }
    }
}
