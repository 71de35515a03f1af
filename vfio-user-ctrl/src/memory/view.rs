//! A poll group's view of a guest's memory.

use std::cell::Cell;
use std::sync::Arc;

use super::error::Fault;
use super::region::Region;
use super::table::{GuestMemory, HostPiece};
use crate::model::dptr::{DptrError, GuestRead};

/// A guest's memory and where the last address was found in it. Each thread has its own: an I/O in flight holds it by
/// an `Rc`, and so the regions that it reaches.
#[derive(Debug, Clone)]
pub struct MemView {
    memory: Arc<GuestMemory>,
    hint: Cell<u32>,
}

impl MemView {
    /// A view of `memory`.
    #[must_use]
    pub const fn new(memory: Arc<GuestMemory>) -> Self {
        Self { memory, hint: Cell::new(0) }
    }

    /// What it is a view of.
    #[must_use]
    pub const fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// The region that has `gpa`.
    #[must_use]
    pub fn region_at(&self, gpa: u64) -> Option<&Arc<Region>> {
        self.memory.region_at(gpa)
    }

    /// See [`GuestMemory::translate`].
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn translate(&self, gpa: u64, len: u64, write: bool) -> Result<HostPiece, Fault> {
        self.memory.translate(&self.hint, gpa, len, write)
    }

    /// Tells the region where the last address was found from the others of this memory.
    #[inline]
    pub(super) const fn last_found(&self) -> u32 {
        self.hint.get()
    }

    /// See [`GuestMemory::read`].
    ///
    /// # Errors
    /// As there.
    pub fn read(&self, gpa: u64, into: &mut [u8]) -> Result<(), Fault> {
        self.memory.read(&self.hint, gpa, into)
    }

    /// See [`GuestMemory::write`].
    ///
    /// # Errors
    /// As there.
    pub fn write(&self, gpa: u64, data: &[u8]) -> Result<(), Fault> {
        self.memory.write(&self.hint, gpa, data)
    }
}

impl GuestRead for MemView {
    fn read(&self, gpa: u64, into: &mut [u8]) -> Result<(), DptrError> {
        Ok(self.read(gpa, into)?)
    }
}
