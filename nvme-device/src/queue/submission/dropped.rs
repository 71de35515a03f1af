//! I/Os that are dropped before they have ended.

use super::{CommandIo, complete_first, traced};
use crate::queue::Backend;
use crate::queue::context::QueueErrorEvent;
use crate::queue::reserved::Entries;
use crate::queue::trace::TraceStep;
use nvme_spec::Status;

/// An I/O is dropped. If it is that of a command which has not ended, whoever had it has lost it, and nobody else ends
/// the command: it fails with Internal Error, so that the host need not wait for it.
#[cold]
pub(super) fn fail<B: Backend>(io: &CommandIo<B>) {
    let (queue, state) = (io.queue(), io.state());
    let entries = state.entries.take();
    let waiters = state.waiters.take();
    let (sqid, cid, status) = (queue.qid(), state.cid.get(), Status::INTERNAL_ERROR);
    state.extra.take();
    state.client_dma.take();
    state.refund(B::refund);
    let namespace = state.namespace.take();
    let (entry, status_told) = match entries {
        // It never became that of a command, or is that of a flush which no command asked for.
        Entries::None => return,
        Entries::One(entry) => (entry, status),
        Entries::Pair(first, entry) => (entry, complete_first(queue, (state.first_cid.get(), first), status)),
    };
    if !queue.discard_completions.get() {
        let (slba, nsid) = (state.slba.get(), state.nsid.get());
        queue.context.note(QueueErrorEvent::Failed { sqid, cid, status, slba, nsid });
    }
    queue.context.note_dropped(sqid, cid);
    B::trace(TraceStep::Complete, || traced(io, u64::from(status_told.into_bits() >> 1)));
    queue.post(entry, cid, status_told);
    drop(namespace);
    if let Some(waiters) = waiters {
        waiters.answer(false);
    }
}
