//! A backend whose namespaces are in RAM, and whose I/Os end when and as the test says.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;

use guest_memory::IoToken;
use nvme_device::model::io::PassthruCommand;
use nvme_device::queue::{self, AbortToken, Backend, BlockOp, CommandIo, Refusal, Refused};
use nvme_spec::{Status, StatusCode};

/// A comparison that failed, as SPDK's bdevs say it.
pub(crate) const MISCOMPARE: Status = Status::of(StatusCode::COMPARE_FAILURE);

/// What becomes of an I/O that is to be aborted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnAbort {
    /// It cannot be aborted.
    Refuse,
    /// It ends at once.
    EndNow,
    /// It ends with an abort when its turn comes.
    EndLater,
}

/// An I/O that has not ended.
pub(crate) struct Held {
    pub(crate) op: BlockOp,
    pub(crate) slba: u64,
    pub(crate) blocks: u64,
    name: IoToken,
    io: CommandIo<Ram>,
    /// It ends with an abort, and the abort with it.
    aborted: Option<AbortToken>,
}

/// A namespace's blocks.
pub(crate) struct Disk {
    pub(crate) block_shift: u8,
    pub(crate) bytes: RefCell<Vec<u8>>,
    /// I/Os end within their submission.
    pub(crate) at_once: Cell<bool>,
    /// Data is neither moved nor compared.
    pub(crate) no_data: Cell<bool>,
    pub(crate) on_abort: Cell<OnAbort>,
    /// So many submissions are refused, to be taken later.
    pub(crate) refuse_later: Cell<u32>,
    /// So many submissions are refused for good.
    pub(crate) refuse: Cell<u32>,
    pub(crate) submitted: Cell<u64>,
    /// Flushes that were carried out.
    pub(crate) flushes: Cell<u64>,
    /// Commands that were passed through, as they came.
    pub(crate) passthru: RefCell<Vec<PassthruCommand>>,
    /// What these have in dword 0 of their completions.
    pub(crate) dw0: Cell<u32>,
    held: RefCell<VecDeque<Held>>,
}

/// Namespaces in RAM.
pub(crate) enum Ram {}

impl Disk {
    pub(crate) fn new(blocks: usize, block_shift: u8) -> Rc<Self> {
        Rc::new(Self {
            block_shift,
            bytes: RefCell::new(vec![0; blocks << block_shift]),
            at_once: Cell::new(false),
            no_data: Cell::new(false),
            on_abort: Cell::new(OnAbort::Refuse),
            refuse_later: Cell::new(0),
            refuse: Cell::new(0),
            submitted: Cell::new(0),
            flushes: Cell::new(0),
            passthru: RefCell::default(),
            dw0: Cell::new(0),
            held: RefCell::new(VecDeque::with_capacity(64)),
        })
    }

    /// Returns a disk whose I/Os end within their submission.
    pub(crate) fn instant(blocks: usize, block_shift: u8) -> Rc<Self> {
        let disk = Self::new(blocks, block_shift);
        disk.at_once.set(true);
        disk
    }

    /// Returns how many I/Os have not ended.
    pub(crate) fn held(&self) -> usize {
        self.held.borrow().len()
    }

    /// What the I/Os are that have not ended: operation, first block, blocks.
    pub(crate) fn ops(&self) -> Vec<(BlockOp, u64, u64)> {
        self.held.borrow().iter().map(|held| (held.op, held.slba, held.blocks)).collect()
    }

    /// Returns the data of the I/O at `index` of those that have not ended: bytes and pieces.
    pub(crate) fn data_of(&self, index: usize) -> (u32, u16) {
        self.held.borrow().get(index).map_or((0, 0), |held| (held.io.bytes(), held.io.piece_count()))
    }

    /// Carries out the I/O at `index` of those that have not ended. Returns whether there was one.
    pub(crate) fn finish(&self, index: usize) -> bool {
        let Some(Held { op, slba, blocks, io, aborted, .. }) = self.take(index) else { return false };
        let result = if aborted.is_some() { Err(Status::ABORT_REQUESTED) } else { self.perform(op, slba, blocks, &io) };
        end(self, op, blocks, io, result);
        true
    }

    /// Ends the I/O at `index` with an error. Returns whether there was one.
    pub(crate) fn fail(&self, index: usize, status: Status) -> bool {
        let Some(held) = self.take(index) else { return false };
        queue::complete(held.io, Err(status));
        true
    }

    /// Carries out all I/Os, and those that follow on them.
    pub(crate) fn finish_all(&self) {
        while self.finish(0) {}
    }

    // The borrow ends here: what is completed may come back with another submission.
    fn take(&self, index: usize) -> Option<Held> {
        self.held.borrow_mut().remove(index)
    }

    fn range(&self, slba: u64, blocks: u64) -> Option<Range<usize>> {
        let start = usize::try_from(slba).ok()?.checked_mul(1 << self.block_shift)?;
        let len = usize::try_from(blocks).ok()?.checked_mul(1 << self.block_shift)?;
        let end = start.checked_add(len)?;
        (end <= self.bytes.borrow().len()).then_some(start..end)
    }

    fn perform(&self, op: BlockOp, slba: u64, blocks: u64, io: &CommandIo<Ram>) -> Result<(), Status> {
        if op == BlockOp::Flush {
            self.flushes.set(self.flushes.get() + 1);
        }
        if self.no_data.get() || op == BlockOp::Flush {
            return Ok(());
        }
        let range = self.range(slba, blocks).ok_or(Status::LBA_OUT_OF_RANGE)?;
        let len = range.len();
        let mut bytes = self.bytes.borrow_mut();
        let blocks = &mut bytes[range];
        match op {
            BlockOp::Read => assert_eq!(io.write_data(blocks), len, "a read has room for its blocks"),
            BlockOp::Write => assert_eq!(io.read_data(0, blocks), len, "a write has data for its blocks"),
            BlockOp::Compare => compare(io, blocks)?,
            BlockOp::CompareAndWrite(first) => {
                compare(io, blocks)?;
                assert_eq!(io.read_data(first, blocks), len, "the write has data for its blocks");
            }
            BlockOp::Unmap | BlockOp::WriteZeroes => blocks.fill(0),
            BlockOp::Flush => {}
        }
        Ok(())
    }
}

fn compare(io: &CommandIo<Ram>, blocks: &[u8]) -> Result<(), Status> {
    let mut data = vec![0; blocks.len()];
    assert_eq!(io.read_data(0, &mut data), blocks.len(), "a compare has data for its blocks");
    if data == blocks { Ok(()) } else { Err(MISCOMPARE) }
}

/// Ends an I/O: one on no blocks is a command that was passed through.
fn end(disk: &Disk, op: BlockOp, blocks: u64, io: CommandIo<Ram>, result: Result<(), Status>) {
    if op == BlockOp::Unmap && blocks == 0 {
        queue::complete_passthru(io, disk.dw0.get(), result);
    } else {
        queue::complete(io, result);
    }
}

fn one_of(count: &Cell<u32>) -> bool {
    let left = count.get();
    count.set(left.saturating_sub(1));
    left > 0
}

impl Backend for Ram {
    type Channel = Rc<Disk>;

    fn submit(disk: &Rc<Disk>, op: BlockOp, slba: u64, blocks: u64, io: CommandIo<Self>) -> Result<(), Refused<Self>> {
        if one_of(&disk.refuse_later) {
            return Err(Refused { why: Refusal::Short, io });
        }
        if one_of(&disk.refuse) {
            return Err(Refused { why: Refusal::Failed(Status::INTERNAL_ERROR), io });
        }
        // A disk that has shrunk, of which its front end does not know yet.
        if disk.range(slba, blocks).is_none() {
            return Err(Refused { why: Refusal::Failed(Status::LBA_OUT_OF_RANGE), io });
        }
        disk.submitted.set(disk.submitted.get() + 1);
        if disk.at_once.get() {
            let result = disk.perform(op, slba, blocks, &io);
            end(disk, op, blocks, io, result);
        } else {
            let name = io.name();
            disk.held.borrow_mut().push_back(Held { op, slba, blocks, name, io, aborted: None });
        }
        Ok(())
    }

    fn passthru(disk: &Rc<Disk>, command: &PassthruCommand, io: CommandIo<Self>) -> Result<(), Refused<Self>> {
        // An operation on no blocks.
        let passthru = Self::submit(disk, BlockOp::Unmap, 0, 0, io);
        if passthru.is_ok() {
            disk.passthru.borrow_mut().push(*command);
        }
        passthru
    }

    fn abort(disk: &Rc<Disk>, io: IoToken, token: AbortToken) -> bool {
        let Some(index) = disk.held.borrow().iter().position(|held| held.name == io) else { return false };
        match disk.on_abort.get() {
            OnAbort::Refuse => false,
            OnAbort::EndNow => disk.fail(index, Status::ABORT_REQUESTED),
            OnAbort::EndLater => {
                if let Some(held) = disk.held.borrow_mut().get_mut(index) {
                    held.aborted = Some(token);
                }
                true
            }
        }
    }
}
