//! The table of I/O queues: which exist, which are being made or deleted, and which submission queue uses which
//! completion queue. It refuses what the specification refuses, so that the runtime gets only what can be.

use std::collections::BTreeMap;

use super::identity::Limits;
use nvme_spec::admin::{CreateCqDw11, CreateSqDw11, QueueDw10};
use nvme_spec::{Sqe, Status};

/// The only size of submission queue entries: 64 bytes, as an exponent of two (SQES).
pub(super) const SQES: u8 = 6;

/// The only size of completion queue entries: 16 bytes, as an exponent of two (CQES).
pub(super) const CQES: u8 = 4;

/// The only memory page size (CAP.MPSMIN and CAP.MPSMAX).
pub(super) const PAGE: u64 = nvme_spec::PAGE as u64;

/// One I/O queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum QueueId {
    /// A submission queue, by its identifier.
    Sq(u16),
    /// A completion queue, by its identifier.
    Cq(u16),
}

/// A completion queue that the host wants (section 5.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CreateCq {
    /// Queue identifier, not 0.
    pub qid: u16,
    /// Entries, at least 2.
    pub entries: u32,
    /// The guest address of its memory, which is contiguous and does not wrap.
    pub base: u64,
    /// The interrupt vector, below the number of vectors.
    pub vector: u16,
    /// Set if the host wants interrupts.
    pub interrupts: bool,
}

/// A submission queue that the host wants (section 5.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CreateSq {
    /// Queue identifier, not 0.
    pub qid: u16,
    /// Entries, at least 2.
    pub entries: u32,
    /// The guest address of its memory, which is contiguous and does not wrap.
    pub base: u64,
    /// The completion queue that it uses, which exists.
    pub cqid: u16,
    /// QPRIO: it means something only under weighted round robin, which the controller does not have.
    pub priority: u8,
}

/// A queue that is being made or deleted is with the runtime: its identifier is in use, but nothing can use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum QueueState {
    Creating,
    Live,
    Deleting,
}

#[derive(Debug, Clone, Copy)]
struct Queue {
    state: QueueState,
    /// The completion queue; of a completion queue itself.
    cqid: u16,
}

/// The I/O queues.
#[derive(Debug, Default)]
pub(super) struct QueueTable {
    all: BTreeMap<QueueId, Queue>,
}

impl QueueTable {
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn is_live(&self, queue: QueueId) -> bool {
        self.all.get(&queue).is_some_and(|queue| queue.state == QueueState::Live)
    }

    /// Create I/O Completion Queue (section 5.4).
    pub(super) fn create_cq(&mut self, sqe: &Sqe, limits: Limits, iocqes: u8) -> Result<CreateCq, Status> {
        let qid = QueueDw10::from_bits(sqe.cdw10).qid();
        self.check_free(QueueId::Cq(qid), qid, limits)?;
        let (entries, base) = check_memory(sqe, limits, iocqes, CQES)?;
        let dw11 = CreateCqDw11::from_bits(sqe.cdw11);
        let vector = dw11.iv();
        if vector >= limits.vectors {
            return Err(Status::INVALID_INTERRUPT_VECTOR);
        }
        self.all.insert(QueueId::Cq(qid), Queue { state: QueueState::Creating, cqid: qid });
        Ok(CreateCq { qid, entries, base, vector, interrupts: dw11.ien() })
    }

    /// Create I/O Submission Queue (section 5.5).
    pub(super) fn create_sq(&mut self, sqe: &Sqe, limits: Limits, iosqes: u8) -> Result<CreateSq, Status> {
        let qid = QueueDw10::from_bits(sqe.cdw10).qid();
        self.check_free(QueueId::Sq(qid), qid, limits)?;
        let (entries, base) = check_memory(sqe, limits, iosqes, SQES)?;
        let dw11 = CreateSqDw11::from_bits(sqe.cdw11);
        let cqid = dw11.cqid();
        if cqid == 0 || cqid > limits.max_queues {
            return Err(Status::INVALID_QUEUE_IDENTIFIER);
        }
        if !self.is_live(QueueId::Cq(cqid)) {
            return Err(Status::COMPLETION_QUEUE_INVALID);
        }
        self.all.insert(QueueId::Sq(qid), Queue { state: QueueState::Creating, cqid });
        Ok(CreateSq { qid, entries, base, cqid, priority: dw11.qprio() })
    }

    /// Delete I/O Submission Queue (section 5.7).
    pub(super) fn delete_sq(&mut self, sqe: &Sqe) -> Result<u16, Status> {
        let qid = QueueDw10::from_bits(sqe.cdw10).qid();
        self.delete(QueueId::Sq(qid))?;
        Ok(qid)
    }

    /// Delete I/O Completion Queue (section 5.6).
    pub(super) fn delete_cq(&mut self, sqe: &Sqe) -> Result<u16, Status> {
        let qid = QueueDw10::from_bits(sqe.cdw10).qid();
        // A submission queue that is only half made or half deleted may still complete commands.
        let used = self.all.iter().any(|(id, queue)| matches!(id, QueueId::Sq(_)) && queue.cqid == qid);
        if used {
            return Err(Status::INVALID_QUEUE_DELETION);
        }
        self.delete(QueueId::Cq(qid))?;
        Ok(qid)
    }

    fn delete(&mut self, id: QueueId) -> Result<(), Status> {
        match self.all.get_mut(&id) {
            Some(queue) if queue.state == QueueState::Live => {
                queue.state = QueueState::Deleting;
                Ok(())
            }
            _ => Err(Status::INVALID_QUEUE_IDENTIFIER),
        }
    }

    pub(super) fn created(&mut self, id: QueueId) {
        if let Some(queue) = self.all.get_mut(&id)
            && queue.state == QueueState::Creating
        {
            queue.state = QueueState::Live;
        }
    }

    pub(super) fn creation_failed(&mut self, id: QueueId) {
        self.remove(id, QueueState::Creating);
    }

    pub(super) fn deleted(&mut self, id: QueueId) {
        self.remove(id, QueueState::Deleting);
    }

    fn remove(&mut self, id: QueueId, from: QueueState) {
        if self.all.get(&id).is_some_and(|queue| queue.state == from) {
            self.all.remove(&id);
        }
    }

    fn check_free(&self, id: QueueId, qid: u16, limits: Limits) -> Result<(), Status> {
        if qid == 0 || qid > limits.max_queues || self.all.contains_key(&id) {
            return Err(Status::INVALID_QUEUE_IDENTIFIER);
        }
        Ok(())
    }

    /// Returns whether every submission queue has the completion queue that it uses.
    #[cfg(test)]
    pub(super) fn is_consistent(&self) -> bool {
        self.all.iter().all(|(id, queue)| match id {
            QueueId::Sq(_) => self.is_live(QueueId::Cq(queue.cqid)),
            QueueId::Cq(_) => true,
        })
    }
}

/// Returns the entries and the address of a queue that is to be created.
fn check_memory(sqe: &Sqe, limits: Limits, entry_size: u8, supported: u8) -> Result<(u32, u64), Status> {
    let qsize = QueueDw10::from_bits(sqe.cdw10).qsize();
    // CC.IOSQES and CC.IOCQES that were not set, or not to the size that Identify tells, have no status of their own:
    // both commands name Invalid Queue Size for a host that did not initialise them.
    if qsize == 0 || qsize >= limits.max_queue_entries || entry_size != supported {
        return Err(Status::INVALID_QUEUE_SIZE);
    }
    // CAP.CQR says that a queue is physically contiguous. Both commands have the bit at the same place.
    if !CreateCqDw11::from_bits(sqe.cdw11).pc() {
        return Err(Status::INVALID_FIELD);
    }
    if !sqe.prp1.is_multiple_of(PAGE) {
        return Err(Status::INVALID_PRP_OFFSET);
    }
    let entries = u32::from(qsize) + 1;
    let last_byte = (u64::from(entries) << supported) - 1;
    if sqe.prp1.checked_add(last_byte).is_none() {
        return Err(Status::INVALID_FIELD);
    }
    Ok((entries, sqe.prp1))
}
