//! A command's data as I/O vectors of host memory.

use super::table::HostPiece;
use super::view::MemView;
use crate::dptr::{DptrError, PieceSink};
use nvme_spec::Status;

/// Translates pieces into the caller's I/O vectors. Pieces of one region that are neighbours in host memory become one.
/// Those of two regions do not: a device knows each by a key of its own, and SPDK looks the key up for the first byte
/// of a vector only.
#[derive(Debug)]
pub struct IovSink<'a> {
    view: &'a MemView,
    iovs: &'a mut [libc::iovec],
    count: usize,
    /// The guest address of the last vector's region.
    region: u64,
    bytes: u32,
    write: bool,
}

impl<'a> IovSink<'a> {
    /// Fills `iovs` from the front. `write` says that the guest's memory is to be written: its data is *read* by the
    /// command.
    ///
    /// The addresses may be used while a view of the same memory as `view` is held.
    #[must_use]
    #[inline]
    pub const fn new(view: &'a MemView, iovs: &'a mut [libc::iovec], write: bool) -> Self {
        Self { view, iovs, count: 0, region: 0, bytes: 0, write }
    }

    /// Returns how many I/O vectors are filled.
    #[must_use]
    #[inline]
    pub const fn count(&self) -> usize {
        self.count
    }

    /// Returns how many bytes they describe.
    #[must_use]
    #[inline]
    pub(crate) const fn bytes(&self) -> u32 {
        self.bytes
    }

    #[inline]
    fn add(&mut self, piece: HostPiece) -> Result<(), DptrError> {
        let (base, len) = (piece.ptr().as_ptr().cast(), piece.len());
        let region = self.view.last_found();
        let before = std::mem::replace(&mut self.region, region);
        let (filled, free) = self.iovs.split_at_mut(self.count);
        match (filled.last_mut(), free.first_mut()) {
            (Some(last), _) if before == region && last.iov_base.wrapping_byte_add(last.iov_len) == base => {
                last.iov_len += len;
            }
            (_, Some(next)) => {
                *next = libc::iovec { iov_base: base, iov_len: len };
                self.count += 1;
            }
            // As many as MDTS has pages, and one: only an SGL of smaller pieces comes here.
            (_, None) => return Err(Status::INVALID_NUMBER_OF_SGL_DESCRIPTORS.into()),
        }
        Ok(())
    }
}

impl PieceSink for IovSink<'_> {
    #[inline]
    fn push(&mut self, gpa: u64, len: u32) -> Result<(), DptrError> {
        self.bytes = self.bytes.saturating_add(len);
        let (mut gpa, mut left) = (gpa, u64::from(len));
        while left > 0 {
            let piece = self.view.translate(gpa, left, self.write)?;
            self.add(piece)?;
            // No region reaches 2^64, and no piece is longer than what was asked for.
            gpa = gpa.wrapping_add(piece.len() as u64);
            left = left.saturating_sub(piece.len() as u64);
        }
        Ok(())
    }
}
