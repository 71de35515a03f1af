//! Dataset Management: ranges that are deallocated one after another.

use crate::model::io::NsGeometry;
use crate::model::io::dsm::{self, BlockRange};
use guest_memory::MemView;
use guest_memory::copy::read_data;
use guest_memory::dptr::DptrError;
use nvme_spec::{Sqe, Status};

/// The ranges of a command, and how far it has come.
#[derive(Debug)]
pub(super) struct Deallocate {
    ranges: Vec<BlockRange>,
    next: usize,
}

impl Deallocate {
    /// Fetches `bytes` bytes of ranges, and checks them.
    pub(super) fn fetch(sqe: &Sqe, bytes: u32, geometry: &NsGeometry, view: &MemView) -> Result<Self, DptrError> {
        let mut data = vec![0; bytes as usize];
        read_data(view, sqe, &mut data)?;
        Ok(Self::parse(&data, geometry)?)
    }

    /// Checks ranges that were fetched.
    pub(super) fn parse(data: &[u8], geometry: &NsGeometry) -> Result<Self, Status> {
        Ok(Self { ranges: dsm::block_ranges(data, geometry)?.collect(), next: 0 })
    }

    /// Returns the range to deallocate now.
    pub(super) fn current(&self) -> Option<BlockRange> {
        self.ranges.get(self.next).copied()
    }

    /// That range is done.
    pub(super) fn advance(&mut self) {
        self.next = self.next.saturating_add(1);
    }
}
