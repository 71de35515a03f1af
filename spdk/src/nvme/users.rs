//! Who uses a controller, so that nobody waits for its lock.
//!
//! SPDK holds the lock of a controller for as long as it connects it again: a reactor that then allocates a queue pair,
//! frees one that was slow to go, or sends an admin command would stand still until that has an outcome. So the
//! controller's owner waits for its users before it begins, and those that come meanwhile are sent away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::Errno;

/// The users of a controller.
#[derive(Debug, Clone, Default)]
pub(super) struct Users(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    users: AtomicUsize,
    closed: AtomicBool,
}

/// One user, for the time of a call or as long as there is a queue pair.
#[derive(Debug)]
pub(super) struct Use(Users);

impl Users {
    /// Begins to use the controller.
    ///
    /// # Errors
    /// `BUSY` while it is being connected again.
    pub(super) fn enter(&self) -> Result<Use, Errno> {
        // Either `close` sees this user, or this sees that it is closed: both write before they read.
        self.0.users.fetch_add(1, Ordering::SeqCst);
        let entered = Use(self.clone());
        if self.0.closed.load(Ordering::SeqCst) { Err(Errno::BUSY) } else { Ok(entered) }
    }

    /// Sends away who comes from now on. Returns whether nobody is left.
    pub(super) fn close(&self) -> bool {
        self.0.closed.store(true, Ordering::SeqCst);
        self.0.users.load(Ordering::SeqCst) == 0
    }

    /// Lets users in again.
    pub(super) fn open(&self) {
        self.0.closed.store(false, Ordering::SeqCst);
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        self.0.0.users.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controller_is_not_connected_again_before_its_last_user_has_gone() {
        let users = Users::default();
        let queue_pair = users.enter().expect("it is open");
        let call = users.enter().expect("it is open");
        assert!(!users.close());
        drop(call);
        assert!(!users.close(), "there is a queue pair still");
        assert_eq!(users.enter().err(), Some(Errno::BUSY), "nobody comes meanwhile");
        drop(queue_pair);
        assert!(users.close());
        assert_eq!(users.enter().err(), Some(Errno::BUSY));
        users.open();
        assert!(users.enter().is_ok());
    }
}
