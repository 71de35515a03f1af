//! Namespaces that come, go and change their size.

use std::time::Duration;

use super::messages::{Output, Report};
use super::{AdminWorker, LEARNING_TIME};
use crate::model::admin::Namespace;

/// A namespace that the guest would take for another one of its identifier, which it does not know to be gone.
#[derive(Debug)]
pub(super) struct DelayedNamespace {
    namespace: Namespace,
    since: Duration,
}

impl AdminWorker {
    /// Adds a namespace, which the guest hears of by an asynchronous event.
    pub(super) fn add_namespace(&mut self, namespace: Namespace, now: Duration) {
        if self.model.would_be_mistaken(&namespace) {
            self.delayed.insert(namespace.nsid, DelayedNamespace { namespace, since: now });
        } else {
            self.add_now(namespace);
        }
    }

    fn add_now(&mut self, namespace: Namespace) {
        let nsid = namespace.nsid;
        let output = match self.model.add_namespace(namespace) {
            Ok(()) => Output::AddChannels { nsid },
            Err(error) => Output::RefuseNamespace { nsid, error },
        };
        self.put(output);
    }

    /// Adds the namespaces of which the guest knows by now that they are others than those before, or has had time to
    /// learn it.
    pub(super) fn add_delayed(&mut self, now: Duration) {
        for (nsid, delayed) in std::mem::take(&mut self.delayed) {
            if now.saturating_sub(delayed.since) >= LEARNING_TIME {
                self.model.forget_removal(nsid);
            }
            if self.model.would_be_mistaken(&delayed.namespace) {
                self.delayed.insert(nsid, delayed);
            } else {
                self.add_now(delayed.namespace);
            }
        }
    }

    /// Takes a namespace away.
    pub(super) fn remove_namespace(&mut self, nsid: u32) {
        self.delayed.remove(&nsid);
        self.model.remove_namespace(nsid);
        self.put(Output::RemoveChannels { nsid });
    }

    /// A namespace has another size.
    pub(super) fn resize_namespace(&mut self, nsid: u32, blocks: u64) {
        if let Some(delayed) = self.delayed.get_mut(&nsid) {
            delayed.namespace.blocks = blocks;
        } else if let Err(error) = self.model.resize_namespace(nsid, blocks) {
            return self.put(Output::Report(Report::SizeRefused(nsid, error)));
        }
        self.put(Output::ResizeNamespace { nsid, blocks });
    }
}
