//! Pages of ours that stand in for a client's memory that came without a file, for as long as one command lasts.
//!
//! What is made is a table of guest memory like any other, with the regions that the command's data touches and no
//! more: where a region has no file, pages of ours are at the same guest addresses. So the command is carried out as
//! every other is. Its data is brought to the pages before, or fetched from them afterwards, by messages to the client.
//! Who holds the table holds the client's regions too: memory is not unmapped while a command is in flight in it.

use std::fmt;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use super::error::Fault;
use super::host::PAGE;
use super::mapping::Access;
use super::pages::{BounceBudget, BounceError, Pages};
use super::region::Region;
use super::slots::MAX_PIECES;
use super::table::{GuestMemory, Hint};
use super::view::MemView;
use crate::dptr::DptrError;
use nvme_spec::Status;

/// What a piece of data costs of the budget at least: so much, about, is kept of each piece besides its bytes.
const PIECE_COST: u64 = 512;

/// What a piece costs of it that has no room in an I/O's place.
const ROOM_COST: u64 = 64;

/// A command's data, of which a part at least is in memory without a file.
#[derive(Clone)]
pub struct Bounce {
    view: Rc<MemView>,
    client_pieces: Rc<[(u64, u32)]>,
}

impl Bounce {
    /// For the `pieces` of a command's data in `memory`, which are guest addresses and lengths in bytes; `to_guest`
    /// says that the guest's memory is to be written.
    ///
    /// # Errors
    /// See [`BounceError`].
    pub fn new(
        memory: &GuestMemory,
        pieces: &[(u64, u32)],
        to_guest: bool,
        budget: &Arc<BounceBudget>,
    ) -> Result<Self, BounceError> {
        let mut plan = Plan { room: room(pieces.len()), ..Plan::default() };
        for &(gpa, len) in pieces {
            plan.add(memory, gpa, len, to_guest)?;
        }
        plan.carry_out(budget)
    }

    /// Returns the memory to carry the command out with.
    #[must_use]
    pub const fn view(&self) -> &Rc<MemView> {
        &self.view
    }

    /// Holds the client's regions that the data touches.
    #[must_use]
    pub fn memory(&self) -> Arc<GuestMemory> {
        Arc::clone(self.view.memory())
    }

    /// Returns the pieces that are in memory without a file, in the order of the data. Those that are neighbours are
    /// one.
    #[must_use]
    pub fn client_pieces(&self) -> &[(u64, u32)] {
        &self.client_pieces
    }

    /// Returns how many bytes they have.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.client_pieces.iter().fold(0, |sum, (_, len)| sum.saturating_add(u64::from(*len)))
    }

    /// Puts the contents of the client's pieces where the command finds them.
    ///
    /// # Errors
    /// Data Transfer Error when `data` is not one buffer for each, of its length.
    pub fn fill(&self, data: &[Vec<u8>]) -> Result<(), Status> {
        if data.len() != self.client_pieces.len() {
            return Err(Status::DATA_TRANSFER_ERROR);
        }
        for (&(gpa, len), data) in self.client_pieces.iter().zip(data) {
            if data.len() != len as usize {
                return Err(Status::DATA_TRANSFER_ERROR);
            }
            self.view.write(gpa, data).map_err(status)?;
        }
        Ok(())
    }

    /// Returns the contents of the client's pieces, each with its guest address, after the command.
    ///
    /// # Errors
    /// Data Transfer Error, which does not happen.
    pub fn collect(&self) -> Result<Vec<(u64, Vec<u8>)>, Status> {
        let collect = |&(gpa, len): &(u64, u32)| {
            let mut data = vec![0; len as usize];
            self.view.read(gpa, &mut data).map_err(status)?;
            Ok((gpa, data))
        };
        self.client_pieces.iter().map(collect).collect()
    }
}

impl fmt::Debug for Bounce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bounce").field("client_pieces", &self.client_pieces).finish_non_exhaustive()
    }
}

fn status(fault: Fault) -> Status {
    DptrError::from(fault).into()
}

/// What a command's data touches.
#[derive(Default)]
struct Plan {
    client_pieces: Vec<(u64, u32)>,
    local: Vec<Arc<Region>>,
    /// Whole pages, each in one region without a file.
    pages: Vec<(Range<u64>, Arc<Region>)>,
    /// What more pieces cost than have room in an I/O's place.
    room: u64,
}

/// What room for pieces costs: they are listed here, and in an I/O.
const fn room(pieces: usize) -> u64 {
    if pieces > MAX_PIECES { pieces as u64 * ROOM_COST } else { 0 }
}

impl Plan {
    fn add(&mut self, memory: &GuestMemory, gpa: u64, len: u32, to_guest: bool) -> Result<(), Fault> {
        let (mut at, mut left) = (gpa, len);
        while left > 0 {
            let region = memory.region_at(at).ok_or(Fault::Unmapped)?;
            let now = u32::try_from(region.end() - at).unwrap_or(u32::MAX).min(left);
            if region.host().is_some() {
                memory.translate(&Hint::default(), at, now.into(), to_guest)?;
                self.local.push(Arc::clone(region));
            } else {
                match region.access() {
                    Access::ReadOnly if to_guest => return Err(Fault::ReadOnly),
                    Access::WriteOnly if !to_guest => return Err(Fault::WriteOnly),
                    _ => self.add_client_piece(region, at, now),
                }
            }
            // Within the region, which ends below 2^64.
            at += u64::from(now);
            left -= now;
        }
        Ok(())
    }

    /// Adds `len` bytes at `gpa`, which `region` has.
    fn add_client_piece(&mut self, region: &Arc<Region>, gpa: u64, len: u32) {
        let end = gpa + u64::from(len);
        // Regions begin and end at pages.
        self.pages.push((gpa - gpa % PAGE..end.next_multiple_of(PAGE), Arc::clone(region)));
        match self.client_pieces.last_mut() {
            Some((last, last_len)) if *last + u64::from(*last_len) == gpa => match last_len.checked_add(len) {
                Some(sum) => *last_len = sum,
                None => self.client_pieces.push((gpa, len)),
            },
            _ => self.client_pieces.push((gpa, len)),
        }
    }

    fn carry_out(mut self, budget: &Arc<BounceBudget>) -> Result<Bounce, BounceError> {
        self.merge_pages();
        let bytes = self.pages.iter().map(|(range, _)| range.end - range.start).sum();
        let permit = budget.take(self.cost().max(bytes).saturating_add(self.room))?;
        let pages = Pages::new(bytes, permit).ok_or(BounceError::Invalid(Status::INTERNAL_ERROR))?;
        let mut offset = 0;
        let mut regions = self.local;
        regions.sort_unstable_by_key(|region| region.id());
        regions.dedup_by_key(|region| region.id());
        for (range, region) in self.pages {
            let len = range.end - range.start;
            let standing_in = Region::standing_in(&region, range.start, len, &pages, offset);
            regions.push(Arc::new(standing_in.ok_or(BounceError::Invalid(Status::INTERNAL_ERROR))?));
            offset += len;
        }
        let view = Rc::new(MemView::new(Arc::new(GuestMemory::of(regions))));
        Ok(Bounce { view, client_pieces: self.client_pieces.into() })
    }

    /// What is moved by messages is kept beside the pages: a guest may name one page many times.
    fn cost(&self) -> u64 {
        self.client_pieces.iter().map(|(_, len)| u64::from(*len).max(PIECE_COST)).sum()
    }

    /// Pages that touch become one range, and a page that is named twice is there once.
    fn merge_pages(&mut self) {
        self.pages.sort_unstable_by_key(|(range, _)| range.start);
        self.pages.dedup_by(|(next, region), (last, last_region)| {
            let joins = next.start <= last.end && region.id() == last_region.id();
            if joins {
                last.end = last.end.max(next.end);
            }
            joins
        });
    }
}

#[cfg(test)]
mod tests;
