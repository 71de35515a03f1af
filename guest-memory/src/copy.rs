//! A command's data, copied: for commands whose data is made or looked at here.

use super::view::MemView;
use crate::dptr::{self, DptrError, PieceSink};
use nvme_spec::{Sqe, Status};

/// Fills `into` with the data that the host gave with the command, once.
///
/// # Errors
/// As [`dptr::walk`]. What is in `into` is then of no use.
pub fn read_data(view: &MemView, sqe: &Sqe, into: &mut [u8]) -> Result<(), DptrError> {
    let len = u32::try_from(into.len()).map_err(|_| Status::INTERNAL_ERROR)?;
    dptr::walk(view, sqe, len, &mut FromGuest { view, rest: into })
}

/// Gives the host `data` as the command's data.
///
/// # Errors
/// As [`dptr::walk`]. A part may have been written.
pub fn write_data(view: &MemView, sqe: &Sqe, data: &[u8]) -> Result<(), DptrError> {
    let len = u32::try_from(data.len()).map_err(|_| Status::INTERNAL_ERROR)?;
    dptr::walk(view, sqe, len, &mut ToGuest { view, rest: data })
}

struct FromGuest<'a> {
    view: &'a MemView,
    rest: &'a mut [u8],
}

impl PieceSink for FromGuest<'_> {
    fn push(&mut self, gpa: u64, len: u32) -> Result<(), DptrError> {
        let rest = std::mem::take(&mut self.rest);
        let (now, later) = rest.split_at_mut_checked(len as usize).ok_or(Status::INTERNAL_ERROR)?;
        self.rest = later;
        Ok(self.view.read(gpa, now)?)
    }
}

struct ToGuest<'a> {
    view: &'a MemView,
    rest: &'a [u8],
}

impl PieceSink for ToGuest<'_> {
    fn push(&mut self, gpa: u64, len: u32) -> Result<(), DptrError> {
        let (now, later) = self.rest.split_at_checked(len as usize).ok_or(Status::INTERNAL_ERROR)?;
        self.rest = later;
        Ok(self.view.write(gpa, now)?)
    }
}
