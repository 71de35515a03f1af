//! Many I/Os at once on one thread, each sent as soon as the one before it in its slot has ended.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use spdk::Errno;
use spdk::bdev_client::{BdevChannel, BdevRequest, Op};
use spdk::dma::DmaBuf;

use super::rng::Rng;

/// What to send.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// I/Os at the same time.
    pub(crate) depth: u64,
    /// I/Os in all.
    pub(crate) total: u64,
    /// One of these each time, at random. A compare-and-write goes with no other that has data.
    pub(crate) ops: &'static [Op],
    /// How many pieces an I/O's data is in.
    pub(crate) pieces: usize,
    /// Blocks of an I/O.
    pub(crate) blocks: u64,
    /// The first block that may be used.
    pub(crate) first: u64,
    /// How many I/Os lie side by side from there.
    pub(crate) places: u64,
    /// Bytes of a block.
    pub(crate) block_size: usize,
    /// Called with the number of I/Os that have ended, after each of them.
    pub(crate) watch: fn(u64),
}

/// What came of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) succeeded: u64,
    pub(crate) failed: u64,
    /// Not even taken.
    pub(crate) refused: u64,
}

type Finish = Box<dyn FnOnce(Tally)>;

struct Load {
    plan: Plan,
    channel: BdevChannel,
    sent: Cell<u64>,
    in_flight: Cell<u64>,
    tally: Cell<Tally>,
    rng: Cell<Rng>,
    finish: RefCell<Option<Finish>>,
}

/// Sends the I/Os of `plan`, then lets go of the channel and calls `finish`, on this thread.
pub(crate) fn run(
    channel: BdevChannel,
    plan: Plan,
    seed: u64,
    finish: impl FnOnce(Tally) + 'static,
) -> Result<(), Errno> {
    let bytes = usize::try_from(plan.blocks).map_err(|_| Errno::INVAL)? * plan.block_size;
    let load = Rc::new(Load {
        channel,
        sent: Cell::new(0),
        in_flight: Cell::new(0),
        tally: Cell::new(Tally::default()),
        rng: Cell::new(Rng::new(seed)),
        finish: RefCell::new(Some(Box::new(finish))),
        plan,
    });
    // What is compared, and what is written.
    let bytes = if load.plan.ops.contains(&Op::CompareAndWrite) { 2 * bytes } else { bytes };
    let piece = bytes / load.plan.pieces;
    let pieces: Vec<_> = (0..bytes).step_by(piece).map(|start| start..start + piece).collect();
    for _ in 0..load.plan.depth {
        let buffer = DmaBuf::zeroed(bytes, 4096)?;
        let own = Rc::clone(&load);
        let request = BdevRequest::new(buffer, &pieces, move |request, result| {
            own.in_flight.set(own.in_flight.get() - 1);
            let mut tally = own.tally.get();
            if result.is_ok() {
                tally.succeeded += 1;
            } else {
                tally.failed += 1;
            }
            own.tally.set(tally);
            (own.plan.watch)(tally.succeeded + tally.failed);
            own.send_next(request);
        })?;
        load.send_next(&request);
    }
    Ok(())
}

impl Load {
    fn send_next(&self, request: &Rc<BdevRequest>) {
        if self.sent.get() < self.plan.total {
            self.sent.set(self.sent.get() + 1);
            let mut rng = self.rng.get();
            let op = self.plan.ops[rng.size(self.plan.ops.len())];
            let offset = self.plan.first + rng.below(self.plan.places) * self.plan.blocks;
            self.rng.set(rng);
            if self.channel.send(op, offset, self.plan.blocks, request).is_ok() {
                self.in_flight.set(self.in_flight.get() + 1);
                return;
            }
            let mut tally = self.tally.get();
            tally.refused += 1;
            self.tally.set(tally);
        }
        if self.in_flight.get() == 0
            && let Some(finish) = self.finish.take()
        {
            finish(self.tally.get());
        }
    }
}
