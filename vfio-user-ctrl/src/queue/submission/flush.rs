//! Flushes that no command of the guest asks for.

use std::rc::Rc;

use super::{BlockOp, IoState, SubmissionQueue, Submissions, Then, send};
use crate::model::io::WriteCache;
use crate::queue::completion::CompletionQueue;
use crate::queue::context::Context;
use crate::queue::port::{Port, Ports};
use crate::queue::{Backend, Cursor};

impl<B: Backend> Submissions<B> {
    /// A queue that the guest does not know of, with a flush of every namespace that has a volatile cache under way in it. Nothing is
    /// posted of these.
    pub(in crate::queue) fn with_flushes(context: &Rc<Context>, ports: &Rc<Ports<B>>) -> Rc<Self> {
        let has_cache = |port: &&Rc<Port<B>>| port.geometry.get().write_cache != WriteCache::None;
        let caches: Vec<Rc<Port<B>>> = ports.borrow().iter().flatten().filter(has_cache).cloned().collect();
        let places = u16::try_from(caches.len()).unwrap_or(u16::MAX);
        let nowhere = CompletionQueue::new(context, 0, 0, 2, None);
        let queue = SubmissionQueue::new(Cursor::new(0, 0, places), nowhere, context, ports, 0);
        queue.queue().mute();
        for port in caches {
            queue.flush_port(port);
        }
        queue
    }

    fn flush_port(self: &Rc<Self>, port: Rc<Port<B>>) {
        let Some(io) = self.take() else { return };
        let state: &IoState<B> = io.state();
        state.nsid.set(port.nsid);
        state.since.set(self.queue().context.now());
        state.op.set(BlockOp::Flush);
        state.then.set(Then::Finish);
        state.slba.set(0);
        state.blocks.set(port.geometry.get().blocks());
        state.port.set(Some(port));
        send(io);
    }

    /// Whether all of it has ended. What the backend had no room for is sent again.
    pub(in crate::queue) fn are_flushed(&self) -> bool {
        self.send_again();
        self.in_use() == 0
    }
}
