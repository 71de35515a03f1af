//! Data pointers: the PRPs and SGLs by which a command names its data (NVM Express Base Specification 2.0, sections
//! 4.1.1 and 4.1.2).
//!
//! The guest may lie in every field, and may change a list while it is walked: each entry is read once into a local
//! buffer, and only the copy is judged and used. The work is bounded: a PRP walk reads at most one entry per page of
//! `len` and one more per list page, an SGL walk at most 1,100 descriptors. `len` is the caller's,
//! who has held it against MDTS.

use zerocopy::IntoBytes;

use nvme_spec::command::{SglSubtype, SglType};
use nvme_spec::identify::SglSupport;
use nvme_spec::{Psdt, SglDescriptor, Sqe, Status};

/// The memory page size in bytes: CAP.MPSMIN = CAP.MPSMAX = 0.
pub const PAGE: u32 = 4096;

/// The most SGL descriptors, of all segments together, that are read for one command: as many as the data of any I/O
/// may have pieces, and some that lead from segment to segment.
pub(crate) const MAX_SGL_DESCRIPTORS: u32 = 1100;

/// What [`walk`] takes, as Identify Controller's SGLS has it: SGLs without any requirement on alignment (bits 1:0 =
/// 01b), and SGLs that are longer than the data (bit 18). No bit bucket, no key, no offset.
pub const SGLS: SglSupport = SglSupport::new().with_sgls(1).with_ldl(true);

/// How many PRP entries are read at once: all that a transfer of 128 KiB wants, and the pointer to the next list.
const ENTRIES: usize = 34;

/// How many SGL descriptors are read at once.
const DESCRIPTORS: u32 = 32;

/// Why a command's data cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DptrError {
    /// The command is to be completed with this status.
    Invalid(Status),
    /// The data, or a list of it, is in memory that came without a file: only messages to the client reach it.
    NoFile,
}

impl From<Status> for DptrError {
    fn from(status: Status) -> Self {
        Self::Invalid(status)
    }
}

/// For a caller who has no way to memory without a file.
impl From<DptrError> for Status {
    fn from(error: DptrError) -> Self {
        match error {
            DptrError::Invalid(status) => status,
            DptrError::NoFile => Self::DATA_TRANSFER_ERROR,
        }
    }
}

/// Guest memory, as far as a walk needs it.
pub trait GuestRead {
    /// Fills `into` from guest address `gpa`.
    ///
    /// # Errors
    /// When any byte of the range, which may wrap at 2^64, is not to be had.
    fn read(&self, gpa: u64, into: &mut [u8]) -> Result<(), DptrError>;
}

/// What takes the pieces of a command's data, in their order.
pub trait PieceSink {
    /// Takes the piece of `len` bytes, 1 or more, at guest address `gpa`.
    ///
    /// # Errors
    /// When the piece, which may wrap at 2^64, is not the guest's memory, or when there is no room for another one.
    fn push(&mut self, gpa: u64, len: u32) -> Result<(), DptrError>;
}

/// Pieces that are only listed: for data that goes by messages.
impl PieceSink for Vec<(u64, u32)> {
    fn push(&mut self, gpa: u64, len: u32) -> Result<(), DptrError> {
        Vec::push(self, (gpa, len));
        Ok(())
    }
}

/// Gives `out` the pieces of the command's `len` bytes of data: exactly `len` bytes when it returns `Ok`.
///
/// # Errors
/// The first fault of the data pointer as the specification's status, or the first that `mem` or `out` told. `out` may
/// have got some pieces by then.
#[inline]
pub fn walk<M: GuestRead, P: PieceSink>(mem: &M, sqe: &Sqe, len: u32, out: &mut P) -> Result<(), DptrError> {
    if len == 0 {
        return Ok(());
    }
    match sqe.psdt() {
        Psdt::PRP => walk_prps(mem, sqe.prp1, sqe.prp2, len, out),
        Psdt::SGL_MPTR_BUFFER | Psdt::SGL_MPTR_SGL => walk_sgl(mem, sqe.sgl(), len, out),
        _ => Err(Status::INVALID_FIELD.into()),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the low bits have the offset")]
const fn page_offset(gpa: u64) -> u32 {
    gpa as u32 % PAGE
}

const fn is_page_aligned(gpa: u64) -> bool {
    page_offset(gpa) == 0
}

#[inline]
fn walk_prps<M: GuestRead, P: PieceSink>(
    mem: &M,
    prp1: u64,
    prp2: u64,
    len: u32,
    out: &mut P,
) -> Result<(), DptrError> {
    if !prp1.is_multiple_of(4) {
        return Err(Status::INVALID_PRP_OFFSET.into());
    }
    let first = len.min(PAGE - page_offset(prp1));
    out.push(prp1, first)?;
    match len - first {
        0 => Ok(()),
        left @ 1..=PAGE if is_page_aligned(prp2) => out.push(prp2, left),
        1..=PAGE => Err(Status::INVALID_PRP_OFFSET.into()),
        left => walk_prp_list(mem, prp2, left, out),
    }
}

/// Walks the PRP list at `list` for `left` bytes. The first list may begin anywhere in its page and ends with the page;
/// where more entries are wanted than that, the last one is the address of the next list, a whole page.
fn walk_prp_list<M: GuestRead, P: PieceSink>(mem: &M, list: u64, left: u32, out: &mut P) -> Result<(), DptrError> {
    if !list.is_multiple_of(8) {
        return Err(Status::INVALID_PRP_OFFSET.into());
    }
    let mut buffer = [0_u64; ENTRIES];
    let (mut at, mut left) = (list, left);
    loop {
        let in_page = (PAGE - page_offset(at)) as usize / size_of::<u64>();
        let pages = left.div_ceil(PAGE) as usize;
        let count = pages.min(in_page).min(ENTRIES);
        let entries = buffer.get_mut(..count).ok_or(Status::INTERNAL_ERROR)?;
        mem.read(at, entries.as_mut_bytes())?;
        let (pointers, chain) = match entries.split_last() {
            Some((chain, pointers)) if count == in_page && pages > in_page => (pointers, Some(*chain)),
            _ => (&*entries, None),
        };
        for &gpa in pointers {
            if !is_page_aligned(gpa) {
                return Err(Status::INVALID_PRP_OFFSET.into());
            }
            let piece = left.min(PAGE);
            out.push(gpa, piece)?;
            left -= piece;
        }
        at = match chain {
            _ if left == 0 => return Ok(()),
            Some(next) if is_page_aligned(next) => next,
            Some(_) => return Err(Status::INVALID_PRP_OFFSET.into()),
            None => advance(at, count * size_of::<u64>())?,
        };
    }
}

/// A descriptor that a PCIe controller takes here.
enum Kind {
    DataBlock,
    Segment,
    LastSegment,
}

/// Returns the descriptor's type, if it is one that is taken. The sub type is an address, or nothing.
#[inline]
const fn kind(descriptor: &SglDescriptor) -> Result<Kind, Status> {
    match (descriptor.id.kind(), descriptor.id.subtype()) {
        (SglType::DATA_BLOCK, SglSubtype::ADDRESS) => Ok(Kind::DataBlock),
        (SglType::SEGMENT, SglSubtype::ADDRESS) => Ok(Kind::Segment),
        (SglType::LAST_SEGMENT, SglSubtype::ADDRESS) => Ok(Kind::LastSegment),
        _ => Err(Status::SGL_DESCRIPTOR_TYPE_INVALID),
    }
}

/// The part of a segment that has not been read.
struct Segment {
    at: u64,
    /// In descriptors.
    left: u32,
    is_last: bool,
}

impl Segment {
    fn new(descriptor: &SglDescriptor, is_last: bool) -> Result<Self, Status> {
        let SglDescriptor { address, length, .. } = *descriptor;
        if length == 0 || !length.is_multiple_of(16) || !address.is_multiple_of(8) {
            return Err(Status::INVALID_SGL_SEGMENT_DESCRIPTOR);
        }
        Ok(Self { at: address, left: length / 16, is_last })
    }
}

#[inline]
fn walk_sgl<M: GuestRead, P: PieceSink>(mem: &M, sgl1: SglDescriptor, len: u32, out: &mut P) -> Result<(), DptrError> {
    match kind(&sgl1)? {
        Kind::DataBlock if sgl1.length < len => Err(Status::DATA_SGL_LENGTH_INVALID.into()),
        Kind::DataBlock => out.push(sgl1.address, len),
        Kind::Segment => walk_segments(mem, Segment::new(&sgl1, false)?, len, out),
        Kind::LastSegment => walk_segments(mem, Segment::new(&sgl1, true)?, len, out),
    }
}

/// Walks segments until there are data for `left` bytes. What follows in the SGL is not looked at.
fn walk_segments<M: GuestRead, P: PieceSink>(
    mem: &M,
    mut segment: Segment,
    mut left: u32,
    out: &mut P,
) -> Result<(), DptrError> {
    let mut buffer = [[0_u64; 2]; DESCRIPTORS as usize];
    // A segment may name itself as the next one: only this ends such a walk.
    let mut budget = MAX_SGL_DESCRIPTORS;
    loop {
        let count = segment.left.min(DESCRIPTORS).min(budget);
        if count == 0 {
            return Err(Status::INVALID_NUMBER_OF_SGL_DESCRIPTORS.into());
        }
        budget -= count;
        let descriptors = buffer.get_mut(..count as usize).ok_or(Status::INTERNAL_ERROR)?;
        mem.read(segment.at, descriptors.as_mut_bytes())?;
        let next = walk_descriptors(descriptors, &mut segment, &mut left, out)?;
        if left == 0 {
            return Ok(());
        }
        match next {
            Some(next) => segment = next,
            None if segment.left == 0 => return Err(Status::DATA_SGL_LENGTH_INVALID.into()),
            None => segment.at = advance(segment.at, count as usize * size_of::<[u64; 2]>())?,
        }
    }
}

/// Takes the data of the next descriptors of `segment`. Returns the segment that they name, if any.
fn walk_descriptors<P: PieceSink>(
    descriptors: &[[u64; 2]],
    segment: &mut Segment,
    left: &mut u32,
    out: &mut P,
) -> Result<Option<Segment>, DptrError> {
    for &dptr in descriptors {
        segment.left = segment.left.saturating_sub(1);
        let descriptor = SglDescriptor::from_dptr(dptr);
        let is_last = match kind(&descriptor)? {
            Kind::DataBlock => {
                let piece = descriptor.length.min(*left);
                if piece > 0 {
                    out.push(descriptor.address, piece)?;
                    *left -= piece;
                }
                if *left == 0 {
                    return Ok(None);
                }
                continue;
            }
            Kind::Segment => false,
            Kind::LastSegment => true,
        };
        if segment.is_last {
            return Err(Status::INVALID_SGL_SEGMENT_DESCRIPTOR.into());
        }
        if segment.left > 0 {
            return Err(Status::INVALID_NUMBER_OF_SGL_DESCRIPTORS.into());
        }
        return Ok(Some(Segment::new(&descriptor, is_last)?));
    }
    Ok(None)
}

fn advance(gpa: u64, bytes: usize) -> Result<u64, Status> {
    gpa.checked_add(bytes as u64).ok_or(Status::DATA_TRANSFER_ERROR)
}

#[cfg(test)]
mod tests;
