//! When a poll group raises interrupts, so that the control thread knows if that takes too long.

use std::cell::Cell;
use std::sync::Arc;

use super::messages::GroupHandle;

/// Interrupts of a poll group, on its thread.
#[derive(Debug)]
pub(super) struct InterruptWatch {
    handle: Arc<GroupHandle>,
    count: Cell<u64>,
}

impl InterruptWatch {
    /// None has been raised.
    pub(super) fn new(handle: &Arc<GroupHandle>) -> Self {
        Self { handle: Arc::clone(handle), count: Cell::new(0) }
    }

    /// Raises interrupts, by `f`, so that [`GroupHandle::watch`] knows.
    #[inline]
    pub(super) fn raise(&self, f: impl FnOnce()) {
        let count = self.count.get().wrapping_add(1).max(1);
        self.count.set(count);
        self.handle.set_raising(count);
        f();
        self.handle.set_raising(0);
    }
}
