//! SPDK's bdevs as the backend of namespaces.

use spdk::Errno;
use spdk::bdev_client::{self, BdevChannel};

use crate::memory::{IoName, TakesBdevIo};
use crate::model::spec::Status;
use crate::queue::{self, Backend, BlockOp, CommandIo, IoState, Refused, SubmissionQueue};

/// Namespaces that are bdevs.
#[derive(Debug)]
pub enum Bdevs {}

impl Backend for Bdevs {
    type Channel = BdevChannel;

    #[inline]
    fn submit(
        channel: &BdevChannel,
        op: BlockOp,
        slba: u64,
        blocks: u64,
        io: CommandIo<Self>,
    ) -> Result<(), Refused<Self>> {
        let op = match op {
            BlockOp::Read => bdev_client::BlockOp::Read,
            BlockOp::Write => bdev_client::BlockOp::Write,
            BlockOp::Compare => bdev_client::BlockOp::Compare,
            BlockOp::CompareAndWrite(first) => bdev_client::BlockOp::CompareAndWrite(first),
            BlockOp::Unmap => bdev_client::BlockOp::Unmap,
            BlockOp::WriteZeroes => bdev_client::BlockOp::WriteZeroes,
            BlockOp::Flush => bdev_client::BlockOp::Flush,
        };
        channel
            .submit(op, slba, blocks, io)
            .map_err(|rejected| Refused { later: rejected.errno == Errno::NOMEM, io: rejected.command })
    }

    fn abort(channel: &BdevChannel, io: IoName) -> bool {
        channel.abort_owner(io.as_ptr()).is_ok()
    }
}

impl TakesBdevIo<IoState<Bdevs>> for SubmissionQueue<Bdevs> {
    #[inline]
    fn ended(io: CommandIo<Bdevs>, result: Result<(), Status>) {
        queue::complete(io, result);
    }
}
