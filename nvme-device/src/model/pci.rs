//! The PCI function that the controller is: its identity, its configuration space, the layout of BAR0 and the MSI-X
//! table.

mod config;
mod msix;

use std::ops::Range;

pub use config::{ConfigSpace, MsixControl, PciEffects, PowerState};
pub use msix::MsixTable;

/// Bytes of configuration space that a PCI Express function has.
pub const CONFIG_SIZE: usize = 4096;
/// Bytes of BAR0, the only base address register.
pub const BAR0_SIZE: usize = 0x4000;
/// The controller's registers in BAR0.
pub(crate) const REGISTERS: Range<usize> = 0..0x1000;
/// The doorbells in BAR0: one page, which a client may map.
pub const DOORBELLS: Range<usize> = 0x1000..0x2000;
/// The MSI-X table in BAR0.
pub(crate) const MSIX_TABLE: Range<usize> = 0x2000..0x3000;
/// The MSI-X pending bit array in BAR0.
pub(crate) const MSIX_PBA: Range<usize> = 0x3000..0x4000;
/// Bytes of an entry of the MSI-X table.
pub(crate) const MSIX_ENTRY_SIZE: usize = 16;
/// The most MSI-X vectors that the table has room for.
pub(crate) const MAX_VECTORS: u16 = 256;

/// What a host tells one kind of function from another by.
///
/// The default is not of our own: the project has no vendor number from the PCI-SIG, and drivers know an NVMe
/// controller by its class, not by its numbers. Vendor and device are those that SPDK's own vfio-user controller
/// shows, so that a guest that is moved from one to the other keeps its device (Windows keeps settings by these
/// numbers) and that no number of an unrelated product is used. The subsystem number, 0 there, tells the two apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PciIdentity {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Subsystem Vendor ID.
    pub subsystem_vendor: u16,
    /// Subsystem ID.
    pub subsystem: u16,
    /// Revision ID.
    pub revision: u8,
}

impl Default for PciIdentity {
    fn default() -> Self {
        Self { vendor: 0x4e58, device: 0x0001, subsystem_vendor: 0x4e58, subsystem: 0x4352, revision: 1 }
    }
}

/// A part of BAR0 that is answered by one component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Area {
    /// The registers of the controller.
    Registers,
    /// The doorbells.
    Doorbells,
    /// The MSI-X table and its pending bits.
    Msix,
}

const AREAS: [(Area, Range<usize>); 3] =
    [(Area::Registers, REGISTERS), (Area::Doorbells, DOORBELLS), (Area::Msix, MSIX_TABLE.start..MSIX_PBA.end)];

/// The part of an access to BAR0 that falls into one area.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The area.
    pub area: Area,
    /// The first byte, counted from the start of the area.
    pub offset: usize,
    /// Which bytes of the access these are.
    pub bytes: Range<usize>,
}

/// Splits an access of `len` bytes at `offset` of BAR0 by areas, in ascending order. Bytes past the end of BAR0 are in
/// no piece.
pub fn pieces(offset: usize, len: usize) -> impl Iterator<Item = Piece> {
    let end = offset.saturating_add(len);
    AREAS.into_iter().filter_map(move |(area, range)| {
        let (from, to) = (range.start.max(offset), range.end.min(end));
        (from < to).then(|| Piece { area, offset: from - range.start, bytes: from - offset..to - offset })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_areas_cover_bar0_without_a_gap() {
        let mut next = 0;
        for (_, range) in AREAS {
            assert_eq!(range.start, next);
            next = range.end;
        }
        assert_eq!(next, BAR0_SIZE);
        assert_eq!(usize::from(MAX_VECTORS) * MSIX_ENTRY_SIZE, MSIX_TABLE.len());
    }

    #[test]
    fn an_access_across_registers_and_doorbells_is_split() {
        let split: Vec<_> = pieces(0xffc, 8).collect();
        assert_eq!(
            split,
            [
                Piece { area: Area::Registers, offset: 0xffc, bytes: 0..4 },
                Piece { area: Area::Doorbells, offset: 0, bytes: 4..8 }
            ]
        );
    }

    #[test]
    fn an_access_past_the_end_has_no_piece() {
        assert_eq!(pieces(BAR0_SIZE, 4).count(), 0);
        assert_eq!(pieces(usize::MAX, usize::MAX).count(), 0);
        assert_eq!(pieces(0x1000, 0).count(), 0);
    }

    proptest! {
        #[test]
        fn pieces_are_the_bytes_of_the_access_that_lie_in_bar0(offset in 0usize..0x5000, len in 0usize..0x5000) {
            let mut next = 0;
            for piece in pieces(offset, len) {
                prop_assert_eq!(piece.bytes.start, next);
                next = piece.bytes.end;
            }
            prop_assert_eq!(next, len.min(BAR0_SIZE.saturating_sub(offset)));
        }
    }
}
