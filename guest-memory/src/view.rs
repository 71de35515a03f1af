//! A poll group's view of a guest's memory.

use std::cell::Cell;
use std::sync::Arc;

use super::error::Fault;
use super::region::Region;
use super::table::{GuestMemory, Hint, HostPiece};
use crate::dptr::{DptrError, GuestRead};

/// A guest's memory and where the last address was found in it. Each thread has its own: an I/O in flight holds it by
/// an `Rc`, and so the regions that it reaches.
#[derive(Debug, Clone)]
pub struct MemView {
    memory: Arc<GuestMemory>,
    hint: Hint,
    /// Regions that the memory does not have any more, but what is in flight.
    kept: Vec<Arc<Region>>,
    /// The last address that could not be used, and why.
    fault: Cell<Option<(u64, Fault)>>,
}

impl MemView {
    /// Returns a view of `memory`.
    #[must_use]
    pub fn new(memory: Arc<GuestMemory>) -> Self {
        Self { memory, hint: Hint::default(), kept: Vec::new(), fault: Cell::new(None) }
    }

    /// Returns what it is a view of.
    #[must_use]
    pub const fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// Returns a view of the same memory that holds these regions besides.
    pub(super) fn keeping(&self, kept: Vec<Arc<Region>>) -> Self {
        Self { kept, ..Self::new(Arc::clone(&self.memory)) }
    }

    /// Such regions.
    pub(super) fn kept(&self) -> &[Arc<Region>] {
        &self.kept
    }

    /// Returns the region that has `gpa`.
    #[must_use]
    pub(crate) fn region_at(&self, gpa: u64) -> Option<&Arc<Region>> {
        self.memory.region_at(gpa)
    }

    /// The host memory of the longest part of the `len` bytes at `gpa` that begins there and is in one region.
    ///
    /// # Errors
    /// When the first byte is in no region, or in one that cannot be used so.
    #[inline]
    pub fn translate(&self, gpa: u64, len: u64, write: bool) -> Result<HostPiece, Fault> {
        self.memory.translate(&self.hint, gpa, len, write).map_err(|fault| self.note(gpa, fault))
    }

    #[cold]
    fn note(&self, gpa: u64, fault: Fault) -> Fault {
        self.fault.set(Some((gpa, fault)));
        fault
    }

    /// Takes the last address that could not be used, and why, if there was one since the last call.
    pub fn take_fault(&self) -> Option<(u64, Fault)> {
        self.fault.take()
    }

    /// The first of the `len` bytes at `gpa` that cannot be used, if there is one, is what
    /// [`take_fault`](Self::take_fault) tells. Returns whether there is. Memory without a file can be used here.
    #[cold]
    pub fn note_first(&self, gpa: u64, len: u64, write: bool) -> bool {
        let (mut at, mut left) = (gpa, len);
        while left > 0 {
            let step = match self.memory.translate(&self.hint, at, left, write) {
                Ok(piece) => piece.len() as u64,
                Err(Fault::NoFile) => self.region_at(at).map_or(left, |region| region.end().wrapping_sub(at)).min(left),
                Err(fault) => {
                    self.note(at, fault);
                    return true;
                }
            };
            at = at.wrapping_add(step);
            left = left.saturating_sub(step.max(1));
        }
        false
    }

    /// Returns the guest address of the region where the last address was found.
    #[inline]
    pub(super) const fn last_found(&self) -> u64 {
        self.hint.region()
    }

    /// Fills `into` from `gpa`, across regions.
    ///
    /// # Errors
    /// When a byte of the range cannot be read. What is in `into` is then of no use.
    pub fn read(&self, gpa: u64, into: &mut [u8]) -> Result<(), Fault> {
        self.memory.read(&self.hint, gpa, into).map_err(|fault| self.note_in(gpa, into.len() as u64, false, fault))
    }

    /// Writes `data` to `gpa`, across regions.
    ///
    /// # Errors
    /// When a byte of the range cannot be written. Those before it may have been.
    pub fn write(&self, gpa: u64, data: &[u8]) -> Result<(), Fault> {
        self.memory.write(&self.hint, gpa, data).map_err(|fault| self.note_in(gpa, data.len() as u64, true, fault))
    }

    /// Notes a fault somewhere in the `len` bytes at `gpa`.
    #[cold]
    fn note_in(&self, gpa: u64, len: u64, write: bool, fault: Fault) -> Fault {
        self.note(gpa, fault);
        self.note_first(gpa, len, write);
        fault
    }
}

impl GuestRead for MemView {
    fn read(&self, gpa: u64, into: &mut [u8]) -> Result<(), DptrError> {
        Ok(self.read(gpa, into)?)
    }
}
