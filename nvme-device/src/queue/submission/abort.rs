//! Ending commands before they are done.

use std::rc::Rc;

use super::{CommandIo, FetchedCommand, IoState, SubmissionQueue, Submissions, complete};
use crate::queue::aborts::AbortWaiter;
use crate::queue::{Backend, NamespaceChannel};
use guest_memory::{InFlight, IoToken};
use nvme_spec::Status;

impl<B: Backend> Submissions<B> {
    /// Takes no more commands, and aborts what is in flight.
    pub(in crate::queue) fn close(&self) {
        let queue = self.queue();
        queue.closed.set(true);
        queue.cursor.forget_ring();
        // Its completion entry is reserved: a completion queue that others use would be an entry short for ever.
        if let Some((sqe, entry)) = queue.first.take() {
            queue.refuse(FetchedCommand { sqe: &sqe, entry }, Status::ABORTED_SQ_DELETION);
        }
        self.abort_waiting(|_| true);
    }

    /// Ends the commands for which `which` holds and which the backend does not have: those that wait for it, and those
    /// whose data is on its way.
    pub(in crate::queue) fn abort_waiting(&self, which: impl Fn(&InFlight<'_, IoState<B>>) -> bool) {
        let queue = self.queue();
        for io in queue.deferred.take() {
            if which(&io.in_flight()) {
                complete(io, Err(Status::ABORTED_SQ_DELETION));
            } else {
                queue.deferred.borrow_mut().push_back(io);
            }
        }
        for io in queue.held.take() {
            if which(&io.in_flight()) {
                complete(io, Err(Status::ABORTED_SQ_DELETION));
            } else {
                queue.held.borrow_mut().push_back(io);
            }
        }
        let mut transfers = Vec::new();
        self.for_each(|io| {
            if which(&io) {
                transfers.extend(io.state.transfer());
            }
        });
        for id in transfers {
            queue.context.client_transfers().cancel(id, Status::ABORTED_SQ_DELETION);
        }
    }

    /// Has the backend abort the commands for which `which` holds, as many as `more` allows, from where the last call
    /// stopped. Returns whether all of them have had their turn; none has another one before
    /// [`restart_aborts`](Self::restart_aborts).
    pub(in crate::queue) fn abort_some(
        &self,
        which: impl Fn(&InFlight<'_, IoState<B>>) -> bool,
        more: &mut dyn FnMut() -> bool,
    ) -> bool {
        let queue = self.queue();
        let aborts = queue.context.aborts();
        let stopped = self.visit_from(queue.abort_next.get(), |io| {
            let Some(namespace) = io.state.namespace().filter(|_| which(&io)) else { return true };
            if let Some(id) = io.state.transfer() {
                queue.context.client_transfers().cancel(id, Status::ABORTED_SQ_DELETION);
                return true;
            }
            if !aborts.has_room() || !more() {
                return false;
            }
            if let Some(token) = aborts.begin(io.name, None) {
                B::abort(&namespace.channel, io.name, token);
            }
            true
        });
        queue.abort_next.set(stopped.unwrap_or(u16::MAX));
        stopped.is_none()
    }

    /// Every command may be aborted once more.
    pub(in crate::queue) fn restart_aborts(&self) {
        self.queue().abort_next.set(0);
    }

    /// Aborts the command `cid`; `then` hears whether it was.
    pub(in crate::queue) fn abort_command(&self, cid: u16, then: Box<dyn FnOnce(bool)>) {
        if let Some(io) = self.queue().take_waiting(cid) {
            complete(io, Err(Status::ABORT_REQUESTED));
            return then(true);
        }
        let mut found = None;
        self.for_each(|io| {
            if io.state.is(cid) && found.is_none() {
                found = io.state.namespace().map(|namespace| (io.name, namespace, io.state.transfer()));
            }
        });
        let Some(target) = found else { return then(false) };
        let waiter = AbortWaiter::new(then);
        self.for_each(|io| {
            if io.name == target.0 {
                io.state.add_waiter(&waiter);
            }
        });
        if !self.abort_io(&target, &waiter) {
            // It cannot be aborted: the Abort command need not wait for it. If it has ended meanwhile, it has told so.
            waiter.answer(false);
        }
    }
}

/// An I/O that is to end, its namespace's channel, and the transfer of its data that it may be waiting for.
type Target<B> = (IoToken, Rc<NamespaceChannel<B>>, Option<u64>);

impl<B: Backend> Submissions<B> {
    /// Ends an I/O soon for `waiter`. Returns whether that will be answered: when the I/O has ended, or its abort has
    /// without effect.
    fn abort_io(&self, (name, namespace, transfer): &Target<B>, waiter: &AbortWaiter) -> bool {
        let context = &self.queue().context;
        if let Some(id) = transfer {
            context.client_transfers().cancel(*id, Status::ABORT_REQUESTED);
            return true;
        }
        // If it is being aborted already, it ends by that.
        context.aborts().begin(*name, Some(waiter)).is_none_or(|token| B::abort(&namespace.channel, *name, token))
    }
}

impl<B: Backend> SubmissionQueue<B> {
    /// Takes the command `cid` out of those that the backend does not have yet.
    fn take_waiting(&self, cid: u16) -> Option<CommandIo<B>> {
        let mut deferred = self.deferred.borrow_mut();
        if let Some(at) = deferred.iter().position(|io| io.state().is(cid)) {
            return deferred.remove(at);
        }
        let mut held = self.held.borrow_mut();
        let at = held.iter().position(|io| io.state().is(cid))?;
        held.remove(at)
    }
}

impl<B: Backend> IoState<B> {
    /// Returns whether it is the command `cid`, or the pair that this is the first of.
    fn is(&self, cid: u16) -> bool {
        self.cid.get() == cid || self.first_cid() == Some(cid)
    }

    /// `waiter` is answered when the command ends.
    fn add_waiter(&self, waiter: &AbortWaiter) {
        let mut waiters = self.waiters.take().unwrap_or_default();
        waiters.add(Some(waiter));
        self.waiters.set(Some(waiters));
    }
}
