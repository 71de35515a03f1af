//! Where mappings of clients end.

use std::io;
use std::sync::Arc;

use super::super::session::Session;
use super::worker::Worker;
use guest_memory::{MappedFile, QueueMemory, Region};

/// A thread that unmaps. To unmap a large region takes long: neither a reactor nor the control thread has that time.
#[derive(Debug)]
pub(super) struct UnmapWorker(Worker<ToUnmap>);

/// What is dropped there, or trimmed.
#[derive(Debug)]
enum ToUnmap {
    QueueMemory(Arc<QueueMemory>),
    Region { _region: Arc<Region> },
    File { _file: Arc<MappedFile> },
    Session { _session: Arc<Session> },
}

impl UnmapWorker {
    /// Starts the thread.
    ///
    /// # Errors
    /// What the operating system says.
    pub(super) fn start() -> io::Result<Self> {
        let unmap = |what| {
            if let ToUnmap::QueueMemory(memory) = what {
                memory.trim();
            }
        };
        Ok(Self(Worker::start("courier_unmap", unmap)?))
    }

    /// Has those of the regions unmapped that nobody else holds. The others come back.
    pub(super) fn unmap(&self, regions: Vec<Arc<Region>>) -> Vec<Arc<Region>> {
        let (held, free): (Vec<_>, Vec<_>) = regions.into_iter().partition(|region| Arc::strong_count(region) > 1);
        for region in free {
            self.0.send(ToUnmap::Region { _region: region });
        }
        held
    }

    /// Has what the queues of a session have left given back to the system, if they have left anything.
    pub(super) fn trim(&self, session: &Session) {
        if let Some(memory) = session.queue_memory.as_ref().filter(|memory| memory.has_left()) {
            self.0.send(ToUnmap::QueueMemory(Arc::clone(memory)));
        }
    }

    /// Has the memory of a session's queues and its doorbells unmapped. It is nowhere else.
    pub(super) fn unmap_session(&self, session: Arc<Session>) {
        self.0.send(ToUnmap::Session { _session: session });
    }

    /// Has parts of files unmapped that no region is in.
    pub(super) fn unmap_files(&self, files: Vec<Arc<MappedFile>>) {
        for file in files {
            self.0.send(ToUnmap::File { _file: file });
        }
    }
}
