//! Where devices are told of clients' memory.

use std::io;
use std::sync::Arc;

use super::worker::Worker;
use super::{Command, Remote};
use crate::memory::Region;

/// A thread that registers memory. With RDMA, every page is allocated and pinned, which for a large guest takes seconds: other clients
/// are not to wait for that.
#[derive(Debug)]
pub(super) struct Registrar(Worker<(u64, Arc<Region>)>);

impl Registrar {
    /// Starts the thread, which tells `remote` when it has registered a region.
    ///
    /// # Errors
    /// What the operating system says.
    pub(super) fn start(remote: Remote) -> io::Result<Self> {
        let register = move |(session, region): (u64, Arc<Region>)| {
            let result = region.register();
            // Before the client may have it unmapped.
            drop(region);
            remote.send(Command::Registered { session, result });
        };
        Ok(Self(Worker::start("courier_map", register)?))
    }

    /// Registers a region of a session.
    pub(super) fn register(&self, session: u64, region: Arc<Region>) {
        self.0.send((session, region));
    }
}
