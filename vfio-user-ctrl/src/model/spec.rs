//! Queue entries and status codes (NVM Express Base Specification 2.0). All fields are little-endian, as this machine.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A submission queue entry (section 3.3.3.1): 64 bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Sqe {
    /// Opcode.
    pub opcode: u8,
    /// FUSE in bits 1:0, PSDT in bits 7:6.
    pub flags: u8,
    /// Command identifier.
    pub cid: u16,
    /// Namespace identifier.
    pub nsid: u32,
    /// Command Dword 2.
    pub cdw2: u32,
    /// Command Dword 3.
    pub cdw3: u32,
    /// Metadata pointer.
    pub mptr: u64,
    /// Data pointer: PRP entry 1, or the first half of SGL segment 1.
    pub prp1: u64,
    /// Data pointer: PRP entry 2, or the second half of SGL segment 1.
    pub prp2: u64,
    /// Command Dword 10.
    pub cdw10: u32,
    /// Command Dword 11.
    pub cdw11: u32,
    /// Command Dword 12.
    pub cdw12: u32,
    /// Command Dword 13.
    pub cdw13: u32,
    /// Command Dword 14.
    pub cdw14: u32,
    /// Command Dword 15.
    pub cdw15: u32,
}

impl Sqe {
    /// The fused-operation field: 0 alone, 1 first, 2 second, 3 reserved.
    #[must_use]
    #[inline]
    pub const fn fuse(&self) -> u8 {
        self.flags & 0b11
    }

    /// PRP or SGL for Data Transfer: 0 PRPs; 1, 2 SGLs; 3 reserved.
    #[must_use]
    #[inline]
    pub const fn psdt(&self) -> u8 {
        self.flags >> 6
    }

    /// The starting LBA of a command on blocks (CDW10 and CDW11).
    #[must_use]
    #[inline]
    pub const fn slba(&self) -> u64 {
        (self.cdw11 as u64) << 32 | self.cdw10 as u64
    }
}

/// A completion queue entry (section 3.3.3.2): 16 bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Cqe {
    /// Command-specific result.
    pub dw0: u32,
    /// Command-specific result.
    pub dw1: u32,
    /// Submission queue head pointer.
    pub sqhd: u16,
    /// Submission queue identifier.
    pub sqid: u16,
    /// Command identifier.
    pub cid: u16,
    /// Status field in bits 15:1, phase tag in bit 0.
    pub status: u16,
}

/// The status of a completed command (section 3.3.3.2.1), laid out as in a completion queue entry with the phase tag 0:
/// SC in bits 8:1, SCT in 11:9, CRD in 13:12, M in 14, DNR in 15.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Status(u16);

impl Status {
    /// A status of this type and code, without Do Not Retry.
    #[must_use]
    pub const fn new(sct: u8, sc: u8) -> Self {
        Self(((sct & 7) as u16) << 9 | (sc as u16) << 1)
    }

    const fn fatal(sct: u8, sc: u8) -> Self {
        Self::new(sct, sc).with_dnr()
    }

    /// The same with Do Not Retry.
    #[must_use]
    pub const fn with_dnr(self) -> Self {
        Self(self.0 | 1 << 15)
    }

    /// The same with More: the error log tells more.
    #[must_use]
    pub const fn with_more(self) -> Self {
        Self(self.0 | 1 << 14)
    }

    /// Status code type.
    #[must_use]
    pub const fn sct(self) -> u8 {
        (self.0 >> 9 & 7) as u8
    }

    /// Status code.
    #[must_use]
    pub const fn sc(self) -> u8 {
        (self.0 >> 1 & 0xff) as u8
    }

    /// Do Not Retry.
    #[must_use]
    pub const fn dnr(self) -> bool {
        self.0 >> 15 != 0
    }

    /// The field as in a completion queue entry, with phase tag 0.
    #[must_use]
    #[inline]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Whether the command did what it was asked.
    #[must_use]
    #[inline]
    pub const fn is_success(self) -> bool {
        self.0 & 0x0ffe == 0
    }
}

impl std::fmt::Debug for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let dnr = if self.dnr() { ", do not retry" } else { "" };
        write!(f, "{:x}h/{:02x}h{dnr}", self.sct(), self.sc())
    }
}

/// Generic command status (figure "Status Code - Generic Command Status Values").
#[expect(missing_docs, reason = "the names are the specification's")]
impl Status {
    pub const SUCCESS: Self = Self::new(0, 0x00);
    pub const INVALID_OPCODE: Self = Self::fatal(0, 0x01);
    pub const INVALID_FIELD: Self = Self::fatal(0, 0x02);
    pub const CID_CONFLICT: Self = Self::fatal(0, 0x03);
    pub const DATA_TRANSFER_ERROR: Self = Self::new(0, 0x04);
    pub const INTERNAL_ERROR: Self = Self::new(0, 0x06);
    pub const ABORT_REQUESTED: Self = Self::new(0, 0x07);
    pub const ABORTED_SQ_DELETION: Self = Self::new(0, 0x08);
    pub const ABORTED_FAILED_FUSED: Self = Self::new(0, 0x09);
    pub const ABORTED_MISSING_FUSED: Self = Self::fatal(0, 0x0a);
    pub const INVALID_NAMESPACE: Self = Self::fatal(0, 0x0b);
    pub const COMMAND_SEQUENCE_ERROR: Self = Self::fatal(0, 0x0c);
    pub const INVALID_SGL_SEGMENT_DESCRIPTOR: Self = Self::fatal(0, 0x0d);
    pub const INVALID_NUMBER_OF_SGL_DESCRIPTORS: Self = Self::fatal(0, 0x0e);
    pub const DATA_SGL_LENGTH_INVALID: Self = Self::fatal(0, 0x0f);
    pub const METADATA_SGL_LENGTH_INVALID: Self = Self::fatal(0, 0x10);
    pub const SGL_DESCRIPTOR_TYPE_INVALID: Self = Self::fatal(0, 0x11);
    pub const INVALID_PRP_OFFSET: Self = Self::fatal(0, 0x13);
    pub const SGL_OFFSET_INVALID: Self = Self::fatal(0, 0x16);
    pub const NAMESPACE_WRITE_PROTECTED: Self = Self::fatal(0, 0x20);
    pub const LBA_OUT_OF_RANGE: Self = Self::fatal(0, 0x80);
    pub const CAPACITY_EXCEEDED: Self = Self::fatal(0, 0x81);
    pub const NAMESPACE_NOT_READY: Self = Self::new(0, 0x82);
}

/// Command-specific status values (type 1h) and media errors (type 2h).
#[expect(missing_docs, reason = "the names are the specification's")]
impl Status {
    pub const COMPLETION_QUEUE_INVALID: Self = Self::fatal(1, 0x00);
    pub const INVALID_QUEUE_IDENTIFIER: Self = Self::fatal(1, 0x01);
    pub const INVALID_QUEUE_SIZE: Self = Self::fatal(1, 0x02);
    pub const ABORT_LIMIT_EXCEEDED: Self = Self::fatal(1, 0x03);
    pub const ASYNC_EVENT_LIMIT_EXCEEDED: Self = Self::fatal(1, 0x05);
    pub const INVALID_FIRMWARE_SLOT: Self = Self::fatal(1, 0x06);
    pub const INVALID_INTERRUPT_VECTOR: Self = Self::fatal(1, 0x08);
    pub const INVALID_LOG_PAGE: Self = Self::fatal(1, 0x09);
    pub const INVALID_QUEUE_DELETION: Self = Self::fatal(1, 0x0c);
    pub const FEATURE_NOT_SAVEABLE: Self = Self::fatal(1, 0x0d);
    pub const FEATURE_NOT_CHANGEABLE: Self = Self::fatal(1, 0x0e);
    pub const FEATURE_NOT_NAMESPACE_SPECIFIC: Self = Self::fatal(1, 0x0f);
    pub const CONFLICTING_ATTRIBUTES: Self = Self::fatal(1, 0x80);
    pub const INVALID_PROTECTION_INFORMATION: Self = Self::fatal(1, 0x81);
    pub const COMPARE_FAILURE: Self = Self::fatal(2, 0x85);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_have_the_sizes_of_the_specification() {
        assert_eq!(size_of::<Sqe>(), 64);
        assert_eq!(size_of::<Cqe>(), 16);
        assert_eq!(std::mem::offset_of!(Sqe, prp1), 24);
        assert_eq!(std::mem::offset_of!(Sqe, cdw10), 40);
        assert_eq!(std::mem::offset_of!(Cqe, status), 14);
    }

    #[test]
    fn a_status_lies_in_the_bits_of_the_completion_entry() {
        assert_eq!(Status::COMPARE_FAILURE.bits(), 0x8000 | 2 << 9 | 0x85 << 1);
        assert_eq!((Status::COMPARE_FAILURE.sct(), Status::COMPARE_FAILURE.sc()), (2, 0x85));
        assert!(Status::SUCCESS.is_success() && !Status::INTERNAL_ERROR.is_success());
    }
}
