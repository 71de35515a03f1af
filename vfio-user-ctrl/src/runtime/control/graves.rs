//! Where mappings of clients end.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};

use crate::memory::Region;

/// A thread that unmaps. To unmap a large region takes long: neither a reactor nor the control thread has that time.
#[derive(Debug)]
pub(super) struct Graves(Sender<Arc<Region>>);

impl Graves {
    /// Starts the thread. It ends with this value.
    ///
    /// # Errors
    /// What the operating system says.
    pub(super) fn start() -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel();
        spdk::thread::spawn_unpinned("courier_unmap", move || receiver.into_iter().for_each(drop::<Arc<Region>>))?;
        Ok(Self(sender))
    }

    /// Has those of the regions unmapped that nobody else holds. The others come back.
    pub(super) fn bury(&self, regions: Vec<Arc<Region>>) -> Vec<Arc<Region>> {
        let (held, free): (Vec<_>, Vec<_>) = regions.into_iter().partition(|region| Arc::strong_count(region) > 1);
        for region in free {
            // If the thread has ended, the region is unmapped here.
            let _ = self.0.send(region);
        }
        held
    }
}
