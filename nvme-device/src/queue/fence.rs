//! What keeps a newer session's commands from a disk while older ones may still arrive there.
//!
//! A client that goes leaves I/Os behind that may be carried out long after it has gone: if the client that comes next
//! writes the same block meanwhile, the old write comes last. A [`Fence`] belongs to a disk, whichever controllers have
//! it as a namespace. It is up while anything is in flight of a session that is over, or of a namespace that was taken
//! away: who comes to the disk while it is up holds its commands back until it has been down once. Who was there before
//! goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The fence of one disk.
#[derive(Debug, Default)]
pub struct Fence(AtomicUsize);

/// Keeps a [`Fence`] up until it is dropped.
#[derive(Debug)]
pub struct FenceGuard(Arc<Fence>);

impl Fence {
    /// Keeps the fence up.
    #[must_use]
    pub fn raise(self: &Arc<Self>) -> FenceGuard {
        self.0.fetch_add(1, Ordering::Relaxed);
        FenceGuard(Arc::clone(self))
    }

    /// Returns whether the fence is up.
    #[must_use]
    pub(crate) fn is_up(&self) -> bool {
        // What ended before the guards were dropped happened before what is sent after this.
        self.0.load(Ordering::Acquire) > 0
    }
}

impl Drop for FenceGuard {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_is_up_until_its_last_guard_is_gone() {
        let fence = Arc::new(Fence::default());
        assert!(!fence.is_up());
        let guards = (fence.raise(), fence.raise());
        drop(guards.0);
        assert!(fence.is_up());
        drop(guards.1);
        assert!(!fence.is_up());
    }
}
