//! A reactor's way to a pool: its queue pair, and the I/O that waits while there is none.

mod aborts;
mod ages;
mod held;
mod link;
mod overflows;
mod reactor;
mod shared;
mod target;

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nvme_spec::Status;
use spdk::Errno;
use spdk::bdev::{BdevIo, IoStatus};
use spdk::io_device::{Advance, ChannelFactory};
use spdk::nvme::{CtrlrRef, QueuePair};

use crate::messages::PoolMessage;
use crate::tracepoints::{self, Reason};
use ages::Period;
use link::Link;

pub(crate) use reactor::Reactors;
pub(crate) use shared::PoolShared;
pub(crate) use shared::QueueState;
pub(crate) use target::Target;

/// The shared part as the factory of its channels.
#[derive(Debug)]
pub(crate) struct PoolDevice<D: Target>(pub(crate) Arc<PoolShared<D>>);

impl<D: Target> ChannelFactory for PoolDevice<D> {
    type Channel = PoolChannel<D>;

    fn create(&self) -> Result<PoolChannel<D>, Errno> {
        Link::new(&self.0).map(PoolChannel)
    }
}

/// A reactor's channel to a pool.
#[derive(Debug)]
pub(crate) struct PoolChannel<D: Target>(Rc<Link<D>>);

impl<D: Target> PoolChannel<D> {
    /// Calls `f` with the queue pair. `None` when there is none.
    #[inline]
    pub(crate) fn with_qpair<R>(&self, f: impl FnOnce(&QueuePair) -> R) -> Option<R> {
        self.0.qpair.borrow().as_ref().map(f)
    }

    /// A command is sent: it counts until it has [`ended`](Self::ended).
    #[inline]
    pub(crate) fn sends(&self, io: &BdevIo<D>) {
        io.set_mark(self.0.ages.begin().into_mark());
    }

    /// A command that was sent has ended.
    #[inline]
    pub(crate) fn ended(&self, io: &BdevIo<D>) {
        if let Some(mark) = io.take_mark() {
            self.0.ages.end(Period::from_mark(mark));
        }
    }

    /// An I/O found no connection: it is held until there is one, or fails if the pool has been given up.
    #[cold]
    pub(crate) fn hold(&self, io: BdevIo<D>) {
        let shared = &self.0.shared;
        if shared.is_failing() || (io.device().is_removing() && shared.is_closed()) {
            return io.complete(IoStatus::Failed);
        }
        shared.held.fetch_add(1, Ordering::Relaxed);
        trace_hold(&io, Reason::Connection);
        self.0.held.wait(io);
    }

    /// Returns whether an I/O that comes now has to stand behind others, which found no request.
    #[inline]
    pub(crate) fn has_overflow(&self) -> bool {
        self.0.held.has_overflow()
    }

    /// Holds an I/O until a request is free and nothing else stands before it. The bdev layer hears nothing of that:
    /// what it keeps for want of memory it does not abort, and it keeps the aborts of everything else behind it.
    #[cold]
    pub(crate) fn join_overflow(&self, io: BdevIo<D>) {
        trace_hold(&io, Reason::Request);
        self.0.join_overflow(io);
    }

    /// Takes note that an I/O was lost with its queue pair. Returns whether it may be sent again: one that was on too
    /// many connections that ended by themselves may be what ends them.
    #[cold]
    pub(crate) fn note_lost(&self, io: &BdevIo<D>) -> bool {
        self.0.note_lost(io)
    }

    /// Holds an I/O that the pool did not carry out, and gives it to its disk again after `delay`.
    #[cold]
    pub(crate) fn send_delayed(&self, delay: Duration, io: BdevIo<D>) {
        trace_hold(&io, Reason::Delay);
        self.0.send_delayed(delay, io);
    }

    /// The pool says that it has no namespace `nsid` for this I/O: it is held until what the pool has is proved.
    #[cold]
    pub(crate) fn doubt(&self, nsid: u32, io: BdevIo<D>) {
        self.hold(io);
        let shared = &self.0.shared;
        if shared.doubted.swap(true, Ordering::AcqRel) {
            return;
        }
        shared.address.send(PoolMessage::NamespaceDoubted { nsid });
    }

    /// A step of a walk: what waits is sent as far as it may be, and fails as far as it must.
    pub(crate) fn release(&self, walk: Advance) {
        self.0.complete_waiting(|io| io.device().is_failing(), |io| io.complete(IoStatus::Failed));
        self.0.release();
        walk.go_on(Ok(()));
    }

    /// Carries out an abort.
    #[cold]
    pub(crate) fn abort(&self, io: BdevIo<D>) {
        self.0.abort(io);
    }

    /// A step of a walk: the queue pair takes no more commands.
    pub(crate) fn stop(&self, walk: Advance) {
        self.0.stop();
        walk.go_on(Ok(()));
    }

    /// A step of a walk: the queue pair goes, then the walk goes on.
    pub(crate) fn disconnect(&self, walk: Advance) {
        self.0.disconnect(walk);
    }

    /// A step of a walk, when no queue pair of the pool takes commands: what waits and is not to be sent again has its
    /// end.
    pub(crate) fn settle(&self, walk: Advance) {
        self.0.complete_waiting(D::is_cancelled, |io| io.complete(IoStatus::Aborted));
        self.0.complete_waiting(BdevIo::is_last, |io| io.complete_nvme(0, Status::ABORTED_BY_HOST));
        walk.go_on(Ok(()));
    }

    /// A step of a walk: a queue pair comes, then the walk goes on.
    pub(crate) fn connect(&self, ctrlr: &CtrlrRef, walk: Advance) {
        self.0.connect_for(ctrlr, walk);
    }

    /// A step of a walk: the walk that waits for a queue pair to come ends with an error.
    pub(crate) fn give_up_connecting(&self, walk: Advance) {
        self.0.give_up_connecting();
        walk.go_on(Ok(()));
    }

    /// A step of a walk: somebody waits for what is in flight, so that a queue pair that answers nothing is dropped
    /// soon.
    pub(crate) fn shorten_limit(&self, walk: Advance) {
        self.0.shorten_limit();
        walk.go_on(Ok(()));
    }

    /// A step of a walk: everything that waits fails.
    pub(crate) fn fail_waiting(&self, walk: Advance) {
        self.0.complete_waiting(|_| true, |io| io.complete(IoStatus::Failed));
        walk.go_on(Ok(()));
    }
}

/// Records that an I/O is held.
fn trace_hold<D: Target>(io: &BdevIo<D>, reason: Reason) {
    if spdk::trace::is_on() {
        let arguments = [io.device().nsid().into(), io.offset_blocks(), reason as u64];
        tracepoints::record(&tracepoints::HOLD, io, arguments);
    }
}

impl<D: Target> Drop for PoolChannel<D> {
    fn drop(&mut self) {
        self.0.close();
    }
}
