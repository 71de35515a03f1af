//! A log page in pieces.

use nvme_spec::Sqe;
use nvme_spec::admin::GetLogPageDw10;
use nvme_spec::log::LogId;

use super::{AdminCommand, AdminData};

/// The least that MDTS allows: a page.
const LEAST_TRANSFER: u32 = 4096;

/// Why a log page is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LogReadError {
    /// More than one command transfers, of a controller that has no offsets.
    #[error("a log page of {len} bytes needs offsets (LPA bit 2), as the controller transfers {max} bytes at a time")]
    NoOffsets {
        /// The bytes wanted.
        len: u32,
        /// What one command transfers.
        max: u32,
    },
    /// A length that is none of whole dwords, or more than is ever wanted.
    #[error("a log page is read in 4 to {max} bytes, a multiple of 4, got {len}")]
    Length {
        /// The bytes wanted.
        len: u32,
        /// The most that may be.
        max: u32,
    },
    /// A piece that is shorter or longer than it was asked for, which is the caller's fault.
    #[error("a piece of the log page must have {expected} bytes, got {len}")]
    Piece {
        /// Its bytes.
        len: usize,
        /// Those asked for.
        expected: u32,
    },
}

/// The reading of one log page. The event that is about it can come again only when the last piece was read.
#[derive(Debug, Clone)]
pub struct LogRead {
    lid: LogId,
    lsp: u8,
    len: u32,
    piece: u32,
    data: Vec<u8>,
}

impl LogRead {
    /// The most bytes that are read of a log page.
    pub const MAX: u32 = 1 << 20;

    /// Returns the reading of the first `len` bytes of a page with its own parameter `lsp`, of a controller that
    /// transfers `max_transfer` bytes at a time, and has offsets or not.
    ///
    /// # Errors
    /// The length is out of bounds, or the controller cannot.
    pub fn new(
        lid: LogId,
        lsp: u8,
        len: u32,
        max_transfer: Option<u32>,
        has_offsets: bool,
    ) -> Result<Self, LogReadError> {
        if !(4..=Self::MAX).contains(&len) || !len.is_multiple_of(4) {
            return Err(LogReadError::Length { len, max: Self::MAX });
        }
        let piece = max_transfer.unwrap_or(Self::MAX).max(LEAST_TRANSFER);
        if len > piece && !has_offsets {
            return Err(LogReadError::NoOffsets { len, max: piece });
        }
        Ok(Self { lid, lsp, len, piece, data: Vec::new() })
    }

    /// Returns the command for the next piece; nothing, when all is read.
    #[must_use]
    pub fn command(&self) -> Option<AdminCommand> {
        let length = self.next_len();
        if length == 0 {
            return None;
        }
        let offset = self.offset();
        let sqe = Sqe::get_log_page(self.lid, self.lsp, length);
        let retain = offset + length < self.len;
        let cdw10 = GetLogPageDw10::from_bits(sqe.cdw10).with_rae(retain).into_bits();
        Some(AdminCommand { sqe: Sqe { cdw10, cdw12: offset, ..sqe }, data: AdminData::ToHost(length) })
    }

    /// The command has brought this.
    ///
    /// # Errors
    /// It is not as long as was asked for.
    pub fn completed(&mut self, data: &[u8]) -> Result<(), LogReadError> {
        let expected = self.next_len();
        if data.len() != expected as usize {
            return Err(LogReadError::Piece { len: data.len(), expected });
        }
        self.data.extend_from_slice(data);
        Ok(())
    }

    /// Returns what was read.
    #[must_use]
    pub fn into_data(self) -> Vec<u8> {
        self.data
    }

    fn offset(&self) -> u32 {
        u32::try_from(self.data.len()).unwrap_or(self.len)
    }

    fn next_len(&self) -> u32 {
        self.piece.min(self.len.saturating_sub(self.offset()))
    }
}
