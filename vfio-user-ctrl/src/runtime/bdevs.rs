//! SPDK's bdevs as the backend of namespaces.

use std::rc::Rc;
use std::sync::Arc;

use spdk::Errno;
use spdk::bdev_client::{self, BdevChannel, BdevDesc, Completer, Splits};
use spdk::nvme::Rejected;

use super::budget::{Budget, Meter, Meters};
use super::tracepoints;
use guest_memory::IoToken;
use nvme_device::model::io::PassthruCommand;
use nvme_device::queue::{self, AbortToken, Backend, BlockOp, CommandIo, Refusal, Refused, TraceStep, Traced};
use nvme_spec::Status;

/// Namespaces that are bdevs.
#[derive(Debug)]
pub(crate) enum Bdevs {}

/// A channel to a bdev, and what may be in flight on it.
#[derive(Debug)]
pub(crate) struct Metered {
    channel: BdevChannel,
    splits: Splits,
    meter: Rc<Meter>,
}

impl Metered {
    /// Returns a channel to an open bdev for a session that has these meters.
    ///
    /// # Errors
    /// See [`BdevDesc::channel`].
    pub(super) fn new(desc: &Arc<BdevDesc>, meters: &Meters, budget: &Rc<Budget>) -> Result<Self, Errno> {
        let channel = desc.channel()?;
        let meter = meters.of(budget, channel.source());
        Ok(Self { channel, splits: desc.splits(), meter })
    }

    /// Gives an I/O that takes `count` of the bdev layer's to `send`, if these may be begun.
    #[inline]
    fn begin(
        &self,
        count: u16,
        io: CommandIo<Bdevs>,
        send: impl FnOnce(CommandIo<Bdevs>) -> Result<(), Refused<Bdevs>>,
    ) -> Result<(), Refused<Bdevs>> {
        if !self.meter.take(count.into()) {
            return Err(Refused { why: Refusal::Full, io });
        }
        io.state().charge(count);
        send(io).inspect_err(|refused| refund(&refused.io))
    }
}

/// An I/O has ended, or was not begun.
#[inline]
fn refund(io: &CommandIo<Bdevs>) {
    io.state().refund(Bdevs::refund);
}

impl Backend for Bdevs {
    type Channel = Metered;

    #[inline]
    fn submit(
        metered: &Metered,
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
        let channel = &metered.channel;
        let count = metered.splits.ios(op, slba, blocks, (io.piece_count(), io.bytes()));
        metered.begin(count, io, |io| {
            channel.submit::<Self, _>(op, slba, blocks, io).map_err(|rejected| {
                // What was decoded lay within the namespace: the bdev has shrunk since, and is about to tell.
                let past_the_end = slba.checked_add(blocks).is_none_or(|end| end > channel.num_blocks());
                refused(rejected, if past_the_end { Status::LBA_OUT_OF_RANGE } else { Status::INTERNAL_ERROR })
            })
        })
    }

    fn passthru(metered: &Metered, command: &PassthruCommand, io: CommandIo<Self>) -> Result<(), Refused<Self>> {
        metered.begin(1, io, |io| {
            metered.channel.passthru::<Self, _>(command.opcode, command.dwords, io).map_err(|rejected| {
                let unknown = rejected.errno == Errno::NOTSUP;
                refused(rejected, if unknown { Status::INVALID_OPCODE } else { Status::INTERNAL_ERROR })
            })
        })
    }

    #[inline]
    fn refund(metered: &Metered, count: u16) {
        metered.meter.release(count.into());
    }

    fn has_room(metered: &Metered) -> bool {
        metered.meter.has_wanted()
    }

    #[inline]
    fn trace(step: TraceStep, what: impl FnOnce() -> Traced) {
        if spdk::trace::is_on() {
            tracepoints::record(step, what());
        }
    }

    fn abort(metered: &Metered, io: IoToken, token: AbortToken) -> bool {
        let must_end = token.must_end();
        let done = move |was_aborted: bool| {
            if !was_aborted {
                token.failed();
            }
        };
        metered.channel.abort_owner(io.as_ptr(), must_end, done).is_ok()
    }
}

/// Returns an I/O that the bdev layer did not take: for good, then with that status, or for want of an I/O of its own.
#[cold]
fn refused(rejected: Rejected<CommandIo<Bdevs>>, status: Status) -> Refused<Bdevs> {
    let why = if rejected.errno == Errno::NOMEM { Refusal::Short } else { Refusal::Failed(status) };
    Refused { why, io: rejected.command }
}

impl Completer<CommandIo<Self>> for Bdevs {
    #[inline]
    fn complete(io: CommandIo<Self>, result: Result<(), Status>) {
        refund(&io);
        queue::complete(io, result);
    }

    fn complete_passthru(io: CommandIo<Self>, dw0: u32, result: Result<(), Status>) {
        refund(&io);
        queue::complete_passthru(io, dw0, result);
    }
}
