//! I/O commands of the NVM Command Set (specification 1.0, section 3.2), checked against their namespace.
//!
//! [`decode`] works on the copy of the entry that was taken from the queue, so what it has checked stays as it is. What
//! it returns lies within the namespace and within the transfer limits. Namespaces have neither metadata nor protection
//! information: the metadata pointer, PRINFO and the tags are ignored, as the specification has it for such formats.

pub(crate) mod dsm;
mod passthru;
mod support;

pub use self::passthru::PassthruCommand;
pub use self::support::IoSupport;

use nvme_spec::nvm::{BlockDw12, MAX_BLOCKS};
use nvme_spec::{FusedOperation, IoOpcode, Psdt, Sqe, Status};

/// Where what is written goes.
///
/// A write must be durable before it is completed if its FUA bit, as it stands in its dword, is no less than the value
/// here: one comparison does for all three.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum WriteCache {
    /// To the medium: nothing need be done for it.
    None = u32::MAX,
    /// To a volatile cache, which the host wants used: only what it asks for (FUA) must be durable.
    On = BlockDw12::new().with_fua(true).into_bits(),
    /// To a volatile cache, which the host has turned off (feature 06h): all must be durable.
    Off = 0,
}

/// Why there can be no namespace of this shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GeometryError {
    /// The size of blocks.
    #[error("a block must have 2^9 (512) to 2^16 (65536) bytes, got 2^{0}")]
    BlockSize(u8),
    /// The number of blocks.
    #[error("a namespace must have less than 2^64 bytes, got {blocks} blocks of 2^{block_shift} bytes")]
    Capacity {
        /// How many there would be.
        blocks: u64,
        /// The size of each, as a power of two of bytes.
        block_shift: u8,
    },
}

/// What the checks need to know of a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NsGeometry {
    blocks: u64,
    block_shift: u8,
    /// The commands that it takes.
    pub supports: IoSupport,
    /// Where what is written goes.
    pub write_cache: WriteCache,
    /// Commands that change the data are refused.
    pub write_protected: bool,
    /// The most blocks of a Write Zeroes command, 1 or more (WZSL says the same of the controller).
    pub max_write_zeroes_blocks: u32,
    /// The most blocks of a fused Compare and Write (ACWU + 1).
    pub max_fused_blocks: u32,
}

impl NsGeometry {
    /// Returns a namespace of `blocks` blocks of 2^`block_shift` bytes that takes Read and Write and has no limit but
    /// MDTS.
    ///
    /// # Errors
    /// When blocks have another size than 512 bytes to 64 KiB, or all of them are more than 2^64 bytes.
    pub fn new(blocks: u64, block_shift: u8) -> Result<Self, GeometryError> {
        if !(9..=16).contains(&block_shift) {
            return Err(GeometryError::BlockSize(block_shift));
        }
        if blocks > u64::MAX >> block_shift {
            return Err(GeometryError::Capacity { blocks, block_shift });
        }
        Ok(Self {
            blocks,
            block_shift,
            supports: IoSupport::NONE,
            write_cache: WriteCache::None,
            write_protected: false,
            max_write_zeroes_blocks: MAX_BLOCKS,
            max_fused_blocks: MAX_BLOCKS,
        })
    }

    /// Returns the same namespace with another number of blocks.
    ///
    /// # Errors
    /// When all of them are more than 2^64 bytes.
    pub fn resized(self, blocks: u64) -> Result<Self, GeometryError> {
        Self::new(blocks, self.block_shift).map(|sized| Self { blocks: sized.blocks, ..self })
    }

    /// Returns the same namespace with its volatile write cache, if it has one, turned on or off.
    #[must_use]
    pub(crate) fn with_write_cache(self, on: bool) -> Self {
        let write_cache = match self.write_cache {
            WriteCache::None => WriteCache::None,
            WriteCache::On | WriteCache::Off if on => WriteCache::On,
            WriteCache::On | WriteCache::Off => WriteCache::Off,
        };
        Self { write_cache, ..self }
    }

    /// Returns how many blocks it has.
    #[must_use]
    pub(crate) const fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Returns the size of a block, as a power of two of bytes.
    #[must_use]
    pub const fn block_shift(&self) -> u8 {
        self.block_shift
    }

    #[inline]
    fn check_range(&self, slba: u64, blocks: u32) -> Result<(), Status> {
        let end = slba.checked_add(u64::from(blocks)).filter(|end| *end <= self.blocks);
        end.map(|_| ()).ok_or(Status::LBA_OUT_OF_RANGE)
    }

    #[inline]
    fn check_writable(&self) -> Result<(), Status> {
        if self.write_protected { Err(Status::NAMESPACE_WRITE_PROTECTED) } else { Ok(()) }
    }

    #[inline]
    fn check_supports(&self, opcode: IoOpcode) -> Result<(), Status> {
        if self.supports.has_command(opcode) { Ok(()) } else { Err(Status::INVALID_OPCODE) }
    }
}

/// What a command asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IoKind {
    /// Blocks to the guest.
    Read,
    /// Blocks from the guest.
    Write,
    /// Blocks from the guest, to be compared with those of the namespace.
    Compare,
    /// Blocks become zero.
    WriteZeroes,
    /// Data that was written becomes durable.
    Flush,
    /// Nothing: the command succeeds at once, without a look at its data.
    Nothing,
    /// Ranges lose their contents; the ranges come from the guest.
    Deallocate,
    /// What the backend makes of the command, which it is given as a [`PassthruCommand`].
    Passthru,
}

/// The place of a command in a fused operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fuse {
    /// In none.
    Alone,
    /// The Compare of a Compare and Write: the next command of the queue is the other.
    First,
    /// The Write of a Compare and Write.
    Second,
}

/// A command that passed the checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IoCommand {
    /// What it asks for.
    pub kind: IoKind,
    /// Its place in a fused operation.
    pub fuse: Fuse,
    /// What is written must be durable before the command is completed, and the backend alone does not see to it.
    pub durable: bool,
    /// Write Zeroes: the blocks may be deallocated if they then read as zero.
    pub deallocate: bool,
    /// The first block.
    pub slba: u64,
    /// How many blocks: 1..=65536; 0 if the command names none.
    pub blocks: u32,
    /// Bytes of data that the command transfers; 0 for none.
    pub bytes: u32,
}

impl IoCommand {
    const fn without_blocks(kind: IoKind, bytes: u32) -> Self {
        Self { kind, fuse: Fuse::Alone, durable: false, deallocate: false, slba: 0, blocks: 0, bytes }
    }

    /// Returns whether the data goes to the guest: its memory is written. For what is passed see
    /// [`PassthruCommand::to_guest`].
    #[must_use]
    #[inline]
    pub const fn to_guest(&self) -> bool {
        matches!(self.kind, IoKind::Read)
    }
}

/// Checks an I/O command and says what it asks for. `mdts_bytes` is the most that one command transfers.
///
/// # Errors
/// The status that the command ends with. Where a fused command is refused, the other one of the pair is to be aborted
/// ([`Status::ABORTED_FAILED_FUSED`]) by whoever pairs them.
#[inline]
pub fn decode(sqe: &Sqe, ns: &NsGeometry, mdts_bytes: u32) -> Result<IoCommand, Status> {
    match IoOpcode(sqe.opcode) {
        IoOpcode::READ => transfer(IoKind::Read, sqe, ns, mdts_bytes),
        IoOpcode::WRITE => {
            ns.check_writable()?;
            transfer(IoKind::Write, sqe, ns, mdts_bytes)
        }
        _ => decode_other(sqe, ns, mdts_bytes),
    }
}

/// Checks that two commands are a Compare and Write: on the same blocks.
///
/// # Errors
/// The status that both end with.
pub(crate) fn check_fused(first: &IoCommand, second: &IoCommand) -> Result<(), Status> {
    let pair = first.fuse == Fuse::First && second.fuse == Fuse::Second;
    let same = first.slba == second.slba && first.blocks == second.blocks;
    if pair && same { Ok(()) } else { Err(Status::INVALID_FIELD) }
}

#[inline(never)]
fn decode_other(sqe: &Sqe, ns: &NsGeometry, mdts_bytes: u32) -> Result<IoCommand, Status> {
    ns.check_supports(IoOpcode(sqe.opcode))?;
    match IoOpcode(sqe.opcode) {
        IoOpcode::COMPARE => transfer(IoKind::Compare, sqe, ns, mdts_bytes),
        IoOpcode::FLUSH => {
            fuse(sqe, ns)?;
            let kind = if ns.supports.contains(IoSupport::FLUSH) { IoKind::Flush } else { IoKind::Nothing };
            Ok(IoCommand::without_blocks(kind, 0))
        }
        IoOpcode::WRITE_ZEROES => write_zeroes(sqe, ns),
        IoOpcode::DATASET_MANAGEMENT => {
            fuse(sqe, ns)?;
            dsm::decode(sqe, ns)
        }
        _ => passthru::decode(sqe, ns, mdts_bytes),
    }
}

/// Returns a command that transfers as many bytes as its blocks have.
#[inline]
fn transfer(kind: IoKind, sqe: &Sqe, ns: &NsGeometry, mdts_bytes: u32) -> Result<IoCommand, Status> {
    let fuse = fuse(sqe, ns)?;
    let (slba, blocks) = (sqe.slba(), blocks(sqe));
    if fuse != Fuse::Alone && blocks > ns.max_fused_blocks {
        return Err(Status::INVALID_FIELD);
    }
    // In 64 bits: 65536 blocks of 64 KiB are 2^32 bytes.
    let bytes = u32::try_from(u64::from(blocks) << ns.block_shift).ok().filter(|bytes| *bytes <= mdts_bytes);
    let bytes = bytes.ok_or(Status::INVALID_FIELD)?;
    ns.check_range(slba, blocks)?;
    let durable = matches!(kind, IoKind::Write) && durable(sqe, ns);
    Ok(IoCommand { kind, fuse, durable, deallocate: false, slba, blocks, bytes })
}

fn write_zeroes(sqe: &Sqe, ns: &NsGeometry) -> Result<IoCommand, Status> {
    ns.check_writable()?;
    let fuse = fuse(sqe, ns)?;
    let (slba, blocks) = (sqe.slba(), blocks(sqe));
    if blocks > ns.max_write_zeroes_blocks {
        return Err(Status::INVALID_FIELD);
    }
    ns.check_range(slba, blocks)?;
    let (durable, deallocate) = (durable(sqe, ns), BlockDw12::from_bits(sqe.cdw12).deac());
    Ok(IoCommand { kind: IoKind::WriteZeroes, fuse, durable, deallocate, slba, blocks, bytes: 0 })
}

/// Returns whether what the command writes must be made durable.
#[inline]
fn durable(sqe: &Sqe, ns: &NsGeometry) -> bool {
    sqe.cdw12 & WriteCache::On as u32 >= ns.write_cache as u32
}

#[inline]
fn blocks(sqe: &Sqe) -> u32 {
    u32::from(BlockDw12::from_bits(sqe.cdw12).nlb()) + 1
}

/// Returns the flags of a command: a data pointer of a reserved kind, and fused operations that are none, are invalid.
#[inline]
fn fuse(sqe: &Sqe, ns: &NsGeometry) -> Result<Fuse, Status> {
    if !matches!(sqe.psdt(), Psdt::PRP | Psdt::SGL_MPTR_BUFFER | Psdt::SGL_MPTR_SGL) {
        return Err(Status::INVALID_FIELD);
    }
    let fused = ns.supports.contains(IoSupport::COMPARE_AND_WRITE);
    match (sqe.fuse(), IoOpcode(sqe.opcode)) {
        (FusedOperation::NORMAL, _) => Ok(Fuse::Alone),
        (FusedOperation::FIRST, IoOpcode::COMPARE) if fused => Ok(Fuse::First),
        (FusedOperation::SECOND, IoOpcode::WRITE) if fused => Ok(Fuse::Second),
        _ => Err(Status::INVALID_FIELD),
    }
}

#[cfg(test)]
mod tests;
