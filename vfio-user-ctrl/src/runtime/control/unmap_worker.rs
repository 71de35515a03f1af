//! Where mappings of clients end.

use std::io;
use std::sync::Arc;

use super::super::session::Session;
use super::worker::Worker;
use guest_memory::{MappedFile, Region};

/// A thread that unmaps. To unmap a large region takes long: neither a reactor nor the control thread has that time.
#[derive(Debug)]
pub(super) struct UnmapWorker(Worker<ToUnmap>);

/// What is dropped there.
#[derive(Debug)]
enum ToUnmap {
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
        Ok(Self(Worker::start("courier_unmap", drop::<ToUnmap>)?))
    }

    /// Has those of the regions unmapped that nobody else holds. The others come back.
    pub(super) fn unmap(&self, regions: Vec<Arc<Region>>) -> Vec<Arc<Region>> {
        let (held, free): (Vec<_>, Vec<_>) = regions.into_iter().partition(|region| Arc::strong_count(region) > 1);
        for region in free {
            self.0.send(ToUnmap::Region { _region: region });
        }
        held
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
