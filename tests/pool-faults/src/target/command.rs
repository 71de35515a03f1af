//! Commands as a target sees them.

use std::time::Instant;

use nvme_spec::command::SglId;
use nvme_spec::fabrics::FabricsType;
use nvme_spec::nvm::BlockDw12;
use nvme_spec::opcode::DataTransfer;
use nvme_spec::{AdminOpcode, IoOpcode, Sqe};

/// A command that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Command {
    /// The number of its connection.
    pub connection: u32,
    /// Its queue; for Connect, that which it asks for.
    pub qid: u16,
    /// When it came.
    pub at: Instant,
    /// All of it.
    pub sqe: Sqe,
}

impl Command {
    pub(super) fn new(sqe: Sqe, connection: u32, qid: u16) -> Self {
        let command = Self { connection, qid, at: Instant::now(), sqe };
        if command.is_fabrics(FabricsType::CONNECT) { Self { qid: sqe.as_connect().qid, ..command } } else { command }
    }

    /// Returns its type, if it is a Fabrics command.
    #[must_use]
    pub fn fctype(&self) -> Option<FabricsType> {
        (self.sqe.opcode == AdminOpcode::FABRICS.0).then(|| self.sqe.fctype())
    }

    /// Returns whether it is a Fabrics command of that type.
    #[must_use]
    pub fn is_fabrics(&self, fctype: FabricsType) -> bool {
        self.fctype() == Some(fctype)
    }

    /// Returns whether it is that admin command.
    #[must_use]
    pub fn is_admin(&self, opcode: AdminOpcode) -> bool {
        self.qid == 0 && self.fctype().is_none() && self.sqe.opcode == opcode.0
    }

    /// Returns whether it is on an I/O queue, and no Connect for one.
    #[must_use]
    pub fn is_any_io(&self) -> bool {
        self.qid > 0 && self.fctype().is_none()
    }

    /// Returns whether it is that I/O command.
    #[must_use]
    pub fn is_io(&self, opcode: IoOpcode) -> bool {
        self.is_any_io() && self.sqe.opcode == opcode.0
    }

    /// Returns the first block of a read or write.
    #[must_use]
    pub fn slba(&self) -> u64 {
        self.sqe.slba()
    }

    /// Returns the number of blocks of a read or write.
    #[must_use]
    pub fn blocks(&self) -> u32 {
        u32::from(BlockDw12::from_bits(self.sqe.cdw12).nlb()) + 1
    }

    /// Returns the bytes of its data, and whether these are in the capsule.
    pub(super) fn data(&self) -> (usize, bool) {
        let sgl = self.sqe.sgl();
        (sgl.length as usize, sgl.id == SglId::IN_CAPSULE)
    }

    /// Returns whether its data comes from the host.
    pub(super) fn brings_data(&self) -> bool {
        let transfer = DataTransfer::of(self.fctype().map_or(self.sqe.opcode, |fctype| fctype.0));
        matches!(transfer, DataTransfer::TO_CONTROLLER | DataTransfer::BOTH)
    }
}
