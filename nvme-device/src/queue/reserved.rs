//! Completion entries that are reserved.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};

/// An entry of a completion queue that is reserved for one command. It is used by a completion or given back to the
/// queue that it is of: one that is dropped is lost to that queue, which is a fault of this program.
#[must_use = "an entry that is neither posted nor given back is lost to its queue"]
#[derive(Debug)]
pub(super) struct Reserved(());

impl Reserved {
    /// The entry is filled, or free again, or its queue is gone.
    #[inline]
    pub(super) fn consume(self) {
        std::mem::forget(self);
    }
}

impl Drop for Reserved {
    #[cold]
    fn drop(&mut self) {
        static IS_TOLD: AtomicBool = AtomicBool::new(false);
        debug_assert!(std::thread::panicking(), "a reserved completion entry was neither posted nor given back");
        if !IS_TOLD.swap(true, Ordering::Relaxed) {
            log::error!("a reserved completion entry was neither posted nor given back: its queue has one entry less");
        }
    }
}

/// Entries of a queue that are reserved for commands which are yet to be taken. Those that are left when it is dropped
/// are given back.
#[must_use = "the entries are given back when this is dropped"]
pub(super) struct Reservation<'a> {
    /// How many entries of the queue are reserved.
    reserved: &'a Cell<u16>,
    left: u16,
}

impl<'a> Reservation<'a> {
    /// Returns `count` entries of a queue, which `reserved` counts.
    #[inline]
    pub(super) fn new(reserved: &'a Cell<u16>, count: u16) -> Self {
        Self { reserved, left: count }
    }

    /// Returns how many entries are left.
    #[inline]
    pub(super) fn left(&self) -> u16 {
        self.left
    }

    /// Takes one of the entries that are left.
    #[inline]
    pub(super) fn take(&mut self) -> Option<Reserved> {
        self.left = self.left.checked_sub(1)?;
        Some(Reserved(()))
    }
}

impl Drop for Reservation<'_> {
    #[inline]
    fn drop(&mut self) {
        self.reserved.set(self.reserved.get().wrapping_sub(self.left));
    }
}

/// The entries that are reserved for a command in flight. It takes one byte: each place of each queue has one.
#[derive(Debug, Default)]
pub(super) enum Entries {
    /// The host hears nothing of its end: it has ended, or is none of the host's.
    #[default]
    None,
    /// That of the command.
    One(Reserved),
    /// Those of the first and of the second command of a fused pair.
    Pair(Reserved, Reserved),
}

impl Entries {
    /// Returns the entry of a command, with that of the first command if it is the second of a fused pair.
    #[inline]
    pub(super) fn new(own: Reserved, first: Option<Reserved>) -> Self {
        match first {
            None => Self::One(own),
            Some(first) => Self::Pair(first, own),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entries_of_a_command_take_one_byte_of_its_place() {
        assert_eq!(size_of::<Entries>(), 1);
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "neither posted nor given back")]
    fn an_entry_that_is_lost_stops_a_debug_build() {
        drop(Reserved(()));
    }
}
