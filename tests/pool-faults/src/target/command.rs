//! Commands as a target sees them.

use std::time::Instant;

/// Opcodes of commands.
pub mod opcode {
    use nvme_spec::{AdminOpcode, IoOpcode};

    /// Fabrics commands.
    pub const FABRICS: u8 = AdminOpcode::FABRICS.0;
    /// Admin: Get Log Page.
    pub const GET_LOG_PAGE: u8 = AdminOpcode::GET_LOG_PAGE.0;
    /// Admin: Identify.
    pub const IDENTIFY: u8 = AdminOpcode::IDENTIFY.0;
    /// Admin: Abort.
    pub const ABORT: u8 = AdminOpcode::ABORT.0;
    /// Admin: Set Features.
    pub const SET_FEATURES: u8 = AdminOpcode::SET_FEATURES.0;
    /// Admin: Get Features.
    pub const GET_FEATURES: u8 = AdminOpcode::GET_FEATURES.0;
    /// Admin: Asynchronous Event Request.
    pub const ASYNC_EVENT: u8 = AdminOpcode::ASYNC_EVENT_REQUEST.0;
    /// Admin: Keep Alive.
    pub const KEEP_ALIVE: u8 = AdminOpcode::KEEP_ALIVE.0;
    /// I/O: Flush.
    pub const FLUSH: u8 = IoOpcode::FLUSH.0;
    /// I/O: Write.
    pub const WRITE: u8 = IoOpcode::WRITE.0;
    /// I/O: Read.
    pub const READ: u8 = IoOpcode::READ.0;
    /// I/O: Compare.
    pub const COMPARE: u8 = IoOpcode::COMPARE.0;
    /// I/O: Write Zeroes.
    pub const WRITE_ZEROES: u8 = IoOpcode::WRITE_ZEROES.0;
    /// I/O: Dataset Management.
    pub const DSM: u8 = IoOpcode::DATASET_MANAGEMENT.0;
}

/// Types of Fabrics commands.
pub mod fctype {
    use nvme_spec::fabrics::FabricsType;

    /// Property Set.
    pub const PROPERTY_SET: u8 = FabricsType::PROPERTY_SET.0;
    /// Connect.
    pub const CONNECT: u8 = FabricsType::CONNECT.0;
    /// Property Get.
    pub const PROPERTY_GET: u8 = FabricsType::PROPERTY_GET.0;
}

/// A command that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Command {
    /// The number of its connection.
    pub connection: u32,
    /// Its queue; for Connect, that which it asks for.
    pub qid: u16,
    /// Its opcode.
    pub opcode: u8,
    /// Its type, if it is a Fabrics command.
    pub fctype: u8,
    /// Its identifier.
    pub cid: u16,
    /// Its namespace.
    pub nsid: u32,
    /// Its dwords 10 to 15.
    pub cdw: [u32; 6],
    /// When it came.
    pub at: Instant,
    /// All of it.
    pub sqe: [u8; 64],
}

impl Command {
    pub(super) fn parse(sqe: &[u8; 64], connection: u32, qid: u16) -> Self {
        let (dwords, _) = sqe.as_chunks::<4>();
        let dword = |index: usize| u32::from_le_bytes(dwords[index]);
        let cdw = [10, 11, 12, 13, 14, 15].map(dword);
        let (opcode, fctype) = (sqe[0], sqe[4]);
        let connects = opcode == opcode::FABRICS && fctype == fctype::CONNECT;
        let qid = if connects { u16::from_le_bytes([sqe[42], sqe[43]]) } else { qid };
        let cid = u16::from_le_bytes([sqe[2], sqe[3]]);
        Self { connection, qid, opcode, fctype, cid, nsid: dword(1), cdw, at: Instant::now(), sqe: *sqe }
    }

    /// Returns whether it is a Fabrics command.
    #[must_use]
    pub fn is_fabrics(&self) -> bool {
        self.opcode == opcode::FABRICS
    }

    /// The first block of a read or write.
    #[must_use]
    pub fn slba(&self) -> u64 {
        u64::from(self.cdw[0]) | u64::from(self.cdw[1]) << 32
    }

    /// The blocks of a read or write.
    #[must_use]
    pub fn blocks(&self) -> u32 {
        (self.cdw[2] & 0xffff) + 1
    }

    /// Returns what an Identify asks for.
    #[must_use]
    pub fn cns(&self) -> u8 {
        self.cdw[0].to_le_bytes()[0]
    }

    /// Returns what a Get Log Page asks for.
    #[must_use]
    pub fn lid(&self) -> u8 {
        self.cdw[0].to_le_bytes()[0]
    }

    /// Returns the feature of a Set or Get Features.
    #[must_use]
    pub fn fid(&self) -> u8 {
        self.cdw[0].to_le_bytes()[0]
    }

    /// The bytes of its data, and whether these are in the capsule.
    pub(super) fn sgl(&self) -> (usize, bool) {
        let length = u32::from_le_bytes([self.sqe[32], self.sqe[33], self.sqe[34], self.sqe[35]]);
        (length as usize, self.sqe[39] == 0x01)
    }

    /// Which half of a fused pair it is: 0 for none.
    pub(super) fn fuse(&self) -> u8 {
        self.sqe[1] & 3
    }
}
