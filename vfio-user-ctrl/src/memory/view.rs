//! A poll group's view of a guest's memory.

use std::sync::Arc;

use super::error::Fault;
use super::region::Region;
use super::table::{GuestMemory, Hint, HostPiece};
use crate::model::dptr::{DptrError, GuestRead};

/// A guest's memory and where the last address was found in it. Each thread has its own: an I/O in flight holds it by
/// an `Rc`, and so the regions that it reaches.
#[derive(Debug, Clone)]
pub struct MemView {
    memory: Arc<GuestMemory>,
    hint: Hint,
    /// Regions that the memory does not have any more, but what is under way.
    kept: Vec<Arc<Region>>,
}

impl MemView {
    /// A view of `memory`.
    #[must_use]
    pub fn new(memory: Arc<GuestMemory>) -> Self {
        Self { memory, hint: Hint::default(), kept: Vec::new() }
    }

    /// What it is a view of.
    #[must_use]
    pub const fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// A view of the same memory that holds these regions besides.
    pub(super) fn keeping(&self, kept: Vec<Arc<Region>>) -> Self {
        Self { kept, ..Self::new(Arc::clone(&self.memory)) }
    }

    /// Such regions.
    pub(super) fn kept(&self) -> &[Arc<Region>] {
        &self.kept
    }

    /// The region that has `gpa`.
    #[must_use]
    pub fn region_at(&self, gpa: u64) -> Option<&Arc<Region>> {
        self.memory.region_at(gpa)
    }

    /// The host memory of the longest part of the `len` bytes at `gpa` that begins there and is in one region.
    ///
    /// # Errors
    /// When the first byte is in no region, or in one that cannot be used so.
    #[inline]
    pub fn translate(&self, gpa: u64, len: u64, write: bool) -> Result<HostPiece, Fault> {
        self.memory.translate(&self.hint, gpa, len, write)
    }

    /// The guest address of the region where the last address was found.
    #[inline]
    pub(super) const fn last_found(&self) -> u64 {
        self.hint.region()
    }

    /// Fills `into` from `gpa`, across regions.
    ///
    /// # Errors
    /// When a byte of the range cannot be read. What is in `into` is then of no use.
    pub fn read(&self, gpa: u64, into: &mut [u8]) -> Result<(), Fault> {
        self.memory.read(&self.hint, gpa, into)
    }

    /// Writes `data` to `gpa`, across regions.
    ///
    /// # Errors
    /// When a byte of the range cannot be written. Those before it may have been.
    pub fn write(&self, gpa: u64, data: &[u8]) -> Result<(), Fault> {
        self.memory.write(&self.hint, gpa, data)
    }
}

impl GuestRead for MemView {
    fn read(&self, gpa: u64, into: &mut [u8]) -> Result<(), DptrError> {
        Ok(self.read(gpa, into)?)
    }
}
