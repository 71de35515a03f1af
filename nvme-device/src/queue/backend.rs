//! What carries out the commands of a namespace.

use super::{AbortToken, CommandIo, TraceStep, Traced};
use crate::model::io::PassthruCommand;
use guest_memory::IoToken;
use nvme_spec::Status;

/// What to do with blocks. The data, where there is any, is that of the I/O.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockOp {
    /// Read into the data.
    Read,
    /// Write from it.
    Write,
    /// Compare with it.
    Compare,
    /// Compare with as many of its first pieces, then write from the others.
    CompareAndWrite(u16),
    /// Write zeroes.
    WriteZeroes,
    /// Write back what is cached.
    Flush,
    /// Deallocate.
    Unmap,
}

/// Why an I/O was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It cannot be: its command ends with this.
    Failed(Status),
    /// The backend is out of something: it may be taken later, and so may whatever else its queue has.
    Short,
    /// The namespace takes no more for now: it may be taken later, and others of its queue go on.
    Full,
}

/// An I/O that was not taken.
#[derive(Debug)]
pub struct Refused<B: Backend> {
    /// Why.
    pub why: Refusal,
    /// The I/O.
    pub io: CommandIo<B>,
}

/// What carries out the commands of namespaces on one thread. Each I/O that it takes must be given to
/// [`complete`](super::complete), once, on the same thread; that may happen within [`submit`](Self::submit).
pub trait Backend: Sized + 'static {
    /// A thread's way to one namespace.
    type Channel: 'static;

    /// Takes an I/O on `blocks` blocks from `slba`, which lie within the namespace as it was when the command was
    /// decoded.
    ///
    /// # Errors
    /// [`Refused`] with the I/O.
    fn submit(
        channel: &Self::Channel,
        op: BlockOp,
        slba: u64,
        blocks: u64,
        io: CommandIo<Self>,
    ) -> Result<(), Refused<Self>>;

    /// Takes an I/O that is carried out by `command`, with the I/O's data. It may also be given to
    /// [`complete_passthru`](super::complete_passthru).
    ///
    /// # Errors
    /// [`Refused`] with the I/O.
    fn passthru(channel: &Self::Channel, command: &PassthruCommand, io: CommandIo<Self>) -> Result<(), Refused<Self>>;

    /// Returns whether a namespace that was [full](Refusal::Full) may take I/Os again.
    #[must_use]
    fn has_room(_: &Self::Channel) -> bool {
        true
    }

    /// Takes back what an I/O was [charged](super::IoState::charge) for that was dropped instead of completed.
    fn refund(_: &Self::Channel, _charge: u16) {}

    /// Records a step of a command's way, if that is wanted: only then is `what` to be called.
    #[inline]
    fn trace(_step: TraceStep, _what: impl FnOnce() -> Traced) {}

    /// Ends an I/O soon, if that can be done. It is given to `complete` as any other. `token` is dropped when the abort
    /// itself has ended, or told if it had no effect: no other one of the same I/O comes before. Returns whether it may
    /// be expected to end.
    fn abort(channel: &Self::Channel, io: IoToken, token: AbortToken) -> bool;
}
