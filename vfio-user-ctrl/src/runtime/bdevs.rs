//! SPDK's bdevs as the backend of namespaces.

use spdk::Errno;
use spdk::bdev_client::{self, BdevChannel};
use spdk::nvme::Rejected;

use crate::memory::{IoName, TakesBdevIo};
use crate::model::io::PassedCommand;
use crate::queue::{self, AbortToken, Backend, BlockOp, CommandIo, IoState, Refused, SubmissionQueue};
use nvme_spec::Status;

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
            BlockOp::WriteZeroes => bdev_client::BlockOp::WriteZeroes,
            BlockOp::Flush => bdev_client::BlockOp::Flush,
            BlockOp::Unmap => bdev_client::BlockOp::Unmap,
        };
        channel.submit(op, slba, blocks, io).map_err(|rejected| {
            // What was decoded lay within the namespace: the bdev has shrunk since, and is about to tell.
            let past_the_end = slba.checked_add(blocks).is_none_or(|end| end > channel.num_blocks());
            refused(rejected, if past_the_end { Status::LBA_OUT_OF_RANGE } else { Status::INTERNAL_ERROR })
        })
    }

    fn pass(channel: &BdevChannel, command: &PassedCommand, io: CommandIo<Self>) -> Result<(), Refused<Self>> {
        channel.pass(command.opcode, command.dwords, io).map_err(|rejected| {
            let status = if rejected.errno == Errno::NOTSUP { Status::INVALID_OPCODE } else { Status::INTERNAL_ERROR };
            refused(rejected, status)
        })
    }

    fn abort(channel: &BdevChannel, io: IoName, token: AbortToken) -> bool {
        channel.abort_owner(io.as_ptr(), token).is_ok()
    }
}

/// An I/O that the bdev layer did not take: for good, then with that status, or for want of an I/O of its own.
#[cold]
fn refused(rejected: Rejected<CommandIo<Bdevs>>, status: Status) -> Refused<Bdevs> {
    Refused { status: (rejected.errno != Errno::NOMEM).then_some(status), io: rejected.command }
}

impl TakesBdevIo<IoState<Bdevs>> for SubmissionQueue<Bdevs> {
    #[inline]
    fn ended(io: CommandIo<Bdevs>, result: Result<(), Status>) {
        queue::complete(io, result);
    }

    fn ended_passed(io: CommandIo<Bdevs>, dw0: u32, result: Result<(), Status>) {
        queue::complete_passed(io, dw0, result);
    }
}
