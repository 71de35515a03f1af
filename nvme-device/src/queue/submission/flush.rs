//! Flushes that no command of the guest asks for.

use std::rc::Rc;

use super::{BlockOp, IoState, NextStep, SubmissionQueue, Submissions, send};
use crate::model::io::WriteCache;
use crate::queue::completion::CompletionQueue;
use crate::queue::context::Context;
use crate::queue::namespace::{NamespaceChannel, NamespaceChannels};
use crate::queue::{Backend, Cursor};

impl<B: Backend> Submissions<B> {
    /// Returns a queue that the guest does not know of, with a flush of every namespace that has a volatile cache in
    /// flight in it. Nothing is posted of these.
    pub(in crate::queue) fn with_flushes(context: &Rc<Context>, namespaces: &Rc<NamespaceChannels<B>>) -> Self {
        let has_cache = |namespace: &&Rc<NamespaceChannel<B>>| namespace.geometry.get().write_cache != WriteCache::None;
        let caches: Vec<Rc<NamespaceChannel<B>>> =
            namespaces.borrow().iter().flatten().filter(has_cache).cloned().collect();
        let places = u16::try_from(caches.len()).unwrap_or(u16::MAX);
        let nowhere = CompletionQueue::new(context, 0, 0, 2, None);
        let queue = SubmissionQueue::create(Cursor::new(0, 0, places), nowhere, context, namespaces, 0);
        queue.queue().discard_completions();
        for namespace in caches {
            queue.flush_namespace(namespace);
        }
        queue
    }

    fn flush_namespace(&self, namespace: Rc<NamespaceChannel<B>>) {
        let Some(io) = self.take() else { return };
        let state: &IoState<B> = io.state();
        state.nsid.set(namespace.nsid);
        state.since.set(self.queue().context.now());
        state.op.set(BlockOp::Flush);
        state.then.set(NextStep::Complete);
        state.slba.set(0);
        state.blocks.set(namespace.geometry.get().blocks());
        state.namespace.set(Some(namespace));
        send(io);
    }

    /// Sends what the backend had no room for. Returns whether all flushes have ended.
    pub(in crate::queue) fn poll_flushes(&self) -> bool {
        self.send_deferred();
        self.in_use() == 0
    }
}
