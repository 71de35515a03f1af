//! Ending commands before they are done.

use std::rc::Rc;

use super::{Aborter, CommandIo, IoState, SubmissionQueue, Submissions, complete};
use crate::memory::{IoName, UnderWay};
use crate::model::spec::Status;
use crate::queue::{Backend, Port};

impl<B: Backend> Submissions<B> {
    /// Takes no more commands, and aborts what is under way.
    pub(in crate::queue) fn close(self: &Rc<Self>) {
        let queue = self.queue();
        queue.closed.set(true);
        queue.cursor.forget_ring();
        // Its completion entry is reserved: a completion queue that others use would be an entry short for ever.
        if let Some(first) = queue.first.take() {
            queue.refuse(&first, Status::ABORTED_SQ_DELETION);
        }
        self.abort_where(|_| true);
    }

    /// Aborts the commands for which `which` holds.
    pub(in crate::queue) fn abort_where(self: &Rc<Self>, which: impl Fn(&UnderWay<'_, IoState<B>>) -> bool) {
        let later = self.queue().later.take();
        for io in later {
            if which(&io.under_way()) {
                complete(io, Err(Status::ABORTED_SQ_DELETION));
            } else {
                self.queue().later.borrow_mut().push_back(io);
            }
        }
        let mut targets = Vec::new();
        self.for_each(|io| {
            if which(&io)
                && let Some(port) = io.state.port()
            {
                targets.push((io.name, port, io.state.transfer()));
            }
        });
        for target in targets {
            self.end_soon(&target, Status::ABORTED_SQ_DELETION);
        }
    }

    /// Aborts the command `cid`; `then` hears whether it was.
    pub(in crate::queue) fn abort_command(self: &Rc<Self>, cid: u16, then: Aborter) {
        if let Some(io) = self.queue().take_later(cid) {
            complete(io, Err(Status::ABORT_REQUESTED));
            return then(true);
        }
        let mut found = None;
        self.for_each(|io| {
            if io.state.cid.get() == cid && found.is_none() {
                found = io.state.port().map(|port| (io.name, port, io.state.transfer()));
            }
        });
        let Some(target) = found else { return then(false) };
        let name = target.0;
        let mut then = Some(then);
        self.for_each(|io| {
            if io.name == name
                && let Some(then) = then.take()
            {
                io.state.add_aborter(then);
            }
        });
        if !self.end_soon(&target, Status::ABORT_REQUESTED) {
            // It cannot be aborted: the Abort command need not wait for it. If it has ended meanwhile, it has told so.
            let mut aborter = None;
            self.for_each(|io| {
                if io.name == name {
                    aborter = io.state.take_aborter();
                }
            });
            if let Some(then) = aborter {
                then(false);
            }
        }
    }
}

/// An I/O that is to end, its namespace's channel, and the transfer of its data that it may be waiting for.
type Target<B> = (IoName, Rc<Port<B>>, Option<u64>);

impl<B: Backend> Submissions<B> {
    /// Ends an I/O soon, with this status if it is not with the backend. Whether it may be expected to end.
    fn end_soon(&self, (name, port, transfer): &Target<B>, status: Status) -> bool {
        let Some(id) = transfer else { return B::abort(&port.channel, *name) };
        self.queue().context.remotes().cancel(*id, status);
        true
    }
}

impl<B: Backend> SubmissionQueue<B> {
    /// Takes the command `cid` out of those that the backend could not take yet.
    fn take_later(&self, cid: u16) -> Option<CommandIo<B>> {
        let mut later = self.later.borrow_mut();
        let at = later.iter().position(|io| io.state().cid.get() == cid)?;
        later.remove(at)
    }
}

impl<B: Backend> IoState<B> {
    fn add_aborter(&self, aborter: Aborter) {
        let mut aborters = self.aborters.take();
        aborters.push(aborter);
        self.aborters.set(aborters);
    }

    /// Takes the aborter back that was added last, if the command has not ended since.
    fn take_aborter(&self) -> Option<Aborter> {
        let mut aborters = self.aborters.take();
        let last = aborters.pop();
        self.aborters.set(aborters);
        last
    }
}
