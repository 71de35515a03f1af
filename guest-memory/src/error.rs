//! What can be wrong with a client's regions, and with a guest's addresses.

use std::io;

use thiserror::Error;

use crate::dptr::DptrError;
use nvme_spec::Status;

/// Why a region is refused.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say what the fields are; addresses and sizes are in bytes")]
pub enum MapError {
    /// A region of no bytes.
    #[error("the length of the region at {gpa:#x} must be a multiple of 4096 above 0, got 0")]
    Empty { gpa: u64 },
    /// A region that may be neither read nor written.
    #[error("the region at {gpa:#x} must be readable or writable, got neither")]
    NoAccess { gpa: u64 },
    /// A region that goes past the end of the address space.
    #[error("a region must end below 2^64, got {len:#x} bytes at {gpa:#x}")]
    AddressWraps { gpa: u64, len: u64 },
    /// A region that is not made of whole pages.
    #[error("the region's {what} must be a multiple of 4096, got {value:#x}")]
    Unaligned { what: &'static str, value: u64 },
    /// An offset into the file that goes past the end of any file.
    #[error("a region must end below 2^64 in its file, got {len:#x} bytes at offset {offset:#x}")]
    OffsetWraps { offset: u64, len: u64 },
    /// A region that goes past the end of its file.
    #[error(
        "the region of {len:#x} bytes at offset {offset:#x} ends past its file, which has {size:#x} bytes: the file \
         must hold the whole region. An SPDK application maps so when its memory is in many files: start it with -g \
         (--single-file-segments), which puts it into one"
    )]
    BeyondFile { offset: u64, len: u64, size: u64 },
    /// A file descriptor of something else than a regular file.
    #[error("the region's file must be a memfd, or a file in /dev/shm or hugetlbfs, got {what}")]
    NotAFile { what: &'static str },
    /// A file whose pages somebody may have to be waited for.
    #[error(
        "the region's file must be a memfd, or a file in /dev/shm or hugetlbfs, got one on a file system of type \
         {magic:#x}, whose pages may have to be waited for"
    )]
    NotMemory { magic: u64 },
    /// The operating system tells nothing of the file.
    #[error("the region's file cannot be examined: {0}")]
    Inspect(#[source] io::Error),
    /// The operating system does not map the file.
    #[error("{len:#x} bytes at offset {offset:#x} of the region's file cannot be mapped: {source}")]
    Mmap { offset: u64, len: u64, source: io::Error },
    /// The process cannot be guarded against a file that shrinks.
    #[error("the handler of SIGBUS cannot be installed: {0}")]
    Guard(#[source] io::Error),
    /// A region where there is one.
    #[error(
        "the region {gpa:#x}..{end:#x} overlaps the region {other_gpa:#x}..{other_end:#x}, which is mapped: unmap that \
         first"
    )]
    Overlap { gpa: u64, end: u64, other_gpa: u64, other_end: u64 },
    /// More mappings or files than the client may have of those that all have together.
    #[error(
        "the client has its share of the mappings and open files that this process may have: map fewer files and larger \
         regions, or raise the limits (ulimit -n, vm.max_map_count)"
    )]
    NoMappings,
    /// More regions than a client may have.
    #[error("a client must have at most {limit} regions: map fewer, larger ones")]
    TooMany { limit: usize },
    /// More memory than a client may map.
    #[error("a client's regions must have at most {limit:#x} bytes together, got {total:#x}")]
    TooLarge { total: u64, limit: u64 },
}

impl MapError {
    /// Returns the error number to answer the client with.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            Self::Overlap { .. } => libc::EEXIST,
            Self::TooMany { .. } | Self::TooLarge { .. } | Self::NoMappings => libc::ENOSPC,
            Self::Inspect(source) | Self::Guard(source) | Self::Mmap { source, .. } => {
                source.raw_os_error().unwrap_or(libc::EIO)
            }
            _ => libc::EINVAL,
        }
    }
}

/// Why regions are not taken away.
#[derive(Debug, Error, PartialEq, Eq)]
#[expect(missing_docs, reason = "the messages say what the fields are; addresses and sizes are in bytes")]
pub enum UnmapError {
    /// A range that goes past the end of the address space.
    #[error("a range must end at 2^64 or below, got {len:#x} bytes at {gpa:#x}")]
    AddressWraps { gpa: u64, len: u64 },
    /// A range with a part of a region in it.
    #[error(
        "the range {gpa:#x}..{end:#x} cuts the region {region_gpa:#x}..{region_end:#x}: only whole regions can be \
         unmapped"
    )]
    Partial { gpa: u64, end: u64, region_gpa: u64, region_end: u64 },
}

impl UnmapError {
    /// Returns the error number to answer the client with.
    #[must_use]
    pub const fn errno(&self) -> i32 {
        libc::EINVAL
    }
}

/// Why a guest address cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Fault {
    /// No region has it.
    #[error("no region has the address")]
    Unmapped,
    /// It is to be written and its region must not be.
    #[error("the region is read-only")]
    ReadOnly,
    /// It is to be read and its region must not be.
    #[error("the region is write-only")]
    WriteOnly,
    /// Its region came without a file: only messages to the client reach it.
    #[error("the region came without a file")]
    NoFile,
    /// Its page cannot be had: the region's file was shrunk under us, or the memory is broken. What is mapped is not
    /// the guest's.
    #[error("the page cannot be had: the region's file was shrunk, or the memory is broken")]
    Poisoned,
    /// It does not begin at a page.
    #[error("the address is not a multiple of 4096")]
    Unaligned,
    /// An index that the queue does not have.
    #[error("the index is outside of the queue")]
    NoSuchEntry,
}

impl From<Fault> for DptrError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::NoFile => Self::NoFile,
            _ => Self::Invalid(Status::DATA_TRANSFER_ERROR),
        }
    }
}
