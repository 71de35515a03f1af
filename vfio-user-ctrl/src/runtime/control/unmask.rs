//! The eventfd by which a client unmasks the interrupt pin.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::event::epoll;

/// The eventfd of a client, and the control thread's epoll that looks after it.
#[derive(Debug)]
pub(super) struct Unmask {
    epoll: Arc<OwnedFd>,
    key: u64,
    file: Option<OwnedFd>,
}

impl Unmask {
    /// Without an eventfd; its events have that key.
    pub(super) fn new(epoll: &Arc<OwnedFd>, key: u64) -> Self {
        Self { epoll: Arc::clone(epoll), key, file: None }
    }

    /// Sets the eventfd, or takes it away.
    ///
    /// # Errors
    /// What the operating system says.
    pub(super) fn set(&mut self, file: Option<OwnedFd>) -> rustix::io::Result<()> {
        self.forget();
        if let Some(file) = &file {
            // Once for each write: a client could leave a count that a read does not take away.
            let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
            epoll::add(&*self.epoll, file, epoll::EventData::new_u64(self.key), flags)?;
        }
        self.file = file;
        Ok(())
    }

    /// Takes the count away, so that the next write is an event.
    pub(super) fn drain(&self) {
        if let Some(file) = &self.file {
            let _ = rustix::io::read(file, &mut [0_u8; 8]);
        }
    }

    fn forget(&mut self) {
        // The client has the file, too: closing ours alone would leave it in the epoll.
        if let Some(file) = self.file.take() {
            let _ = epoll::delete(&*self.epoll, &file);
        }
    }
}

impl Drop for Unmask {
    fn drop(&mut self) {
        self.forget();
    }
}
