//! Submission queues of I/O commands, and the commands that are in flight in them.

mod abort;
mod client_dma;
mod dropped;
mod extra;
mod flush;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ops::Deref;
use std::rc::Rc;

use super::aborts::AbortWaiters;
use super::backend::{Backend, BlockOp, Refusal, Refused};
use super::completion::CompletionQueue;
use super::context::{CommandFault, Context, QueueErrorEvent};
use super::cursor::Cursor;
use super::namespace::{NamespaceChannel, NamespaceChannels, namespace_index};
use super::reserved::{Entries, Reserved};
use super::state::{SubmissionState, Totals};
use super::trace::{Reason, TraceStep, Traced};
use crate::model::io::{self, IoCommand, IoKind, NsGeometry};
use client_dma::ClientDmaStep;
use guest_memory::dptr::{self, DptrError};
use guest_memory::{Fault, Io, IoToken, Slots, guard};
use nvme_spec::{FusedOperation, Sqe, Status, StatusCode, StatusCodeType};

use extra::CommandExtra;

/// The most commands of one queue that are taken in a row, so that one queue cannot keep the others waiting.
const BURST: u16 = 128;

/// The device side of a submission queue with I/O commands.
pub struct SubmissionQueue<B: Backend> {
    cursor: Cursor,
    completion: Rc<CompletionQueue>,
    context: Rc<Context>,
    namespaces: Rc<NamespaceChannels<B>>,
    max_transfer: u32,
    /// Commands that the backend could not take yet.
    deferred: RefCell<VecDeque<CommandIo<B>>>,
    /// Commands whose namespace takes none for now, or waits for the fence of its disk to come down.
    held: RefCell<VecDeque<CommandIo<B>>>,
    /// The place of the next I/O to be aborted, of those that are to end.
    abort_next: Cell<u16>,
    /// The first command of a fused pair, while the second is awaited.
    first: RefCell<Option<(Sqe, Reserved)>>,
    /// The queue is being deleted: nothing more is sent to the backend.
    closed: Cell<bool>,
    /// The queue is gone for the guest: nothing is posted.
    discard_completions: Cell<bool>,
    totals: Counts,
}

/// [`Totals`] in the making.
#[derive(Debug, Default)]
struct Counts {
    reads: Cell<u64>,
    writes: Cell<u64>,
    bytes_read: Cell<u64>,
    bytes_written: Cell<u64>,
}

impl Counts {
    fn take(&self) -> Totals {
        Totals {
            reads: self.reads.take(),
            writes: self.writes.take(),
            bytes_read: self.bytes_read.take(),
            bytes_written: self.bytes_written.take(),
        }
    }
}

/// A submission queue with places for its commands, shared by all that use it.
pub(super) struct Submissions<B: Backend>(Rc<Slots<SubmissionQueue<B>, IoState<B>>>);

impl<B: Backend> Clone for Submissions<B> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<B: Backend> Deref for Submissions<B> {
    type Target = Rc<Slots<SubmissionQueue<B>, IoState<B>>>;

    #[inline]
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

/// A command that is in flight.
pub type CommandIo<B> = Io<SubmissionQueue<B>, IoState<B>>;

/// What is known of a command that is in flight.
pub struct IoState<B: Backend> {
    cid: Cell<u16>,
    /// When it was taken, in ticks of the queues' clock.
    since: Cell<u64>,
    namespace: Cell<Option<Rc<NamespaceChannel<B>>>>,
    nsid: Cell<u32>,
    op: Cell<BlockOp>,
    then: Cell<NextStep>,
    slba: Cell<u64>,
    blocks: Cell<u64>,
    /// The identifier of the first command, if this is the second of a fused pair: `entries` tells.
    first_cid: Cell<u16>,
    /// The completion entries that are reserved for it. They are taken when it ends.
    entries: Cell<Entries>,
    /// What commands have that are seldom.
    extra: Cell<Option<Box<CommandExtra>>>,
    /// What is to be done about data in memory without a file, or the transfer of it that is in flight. Who sets it
    /// takes it back before the command is completed.
    client_dma: Cell<Option<Box<ClientDmaStep>>>,
    /// Abort commands that wait for its end.
    waiters: Cell<Option<Box<AbortWaiters>>>,
    /// What the backend has charged it for.
    charge: Cell<u16>,
}

/// A command that was taken from its queue and is no I/O yet.
struct FetchedCommand<'a> {
    sqe: &'a Sqe,
    entry: Reserved,
}

/// Why a command cannot become an I/O.
enum CommandError {
    /// The first of the fused pair that it belongs to is at fault.
    First(Status),
    /// It is at fault itself, or its data are where no I/O can have them.
    Command(DptrError),
}

impl<E: Into<DptrError>> From<E> for CommandError {
    #[inline]
    fn from(error: E) -> Self {
        Self::Command(error.into())
    }
}

/// What follows when the backend has done its part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NextStep {
    /// The command is completed.
    Complete,
    /// The next range of a Dataset Management command.
    NextRange,
    /// A flush, for a write that must be durable in a namespace that keeps writes in a cache.
    Flush,
    /// The data is sent to the guest, in memory without a file.
    ToGuest,
}

impl<B: Backend> IoState<B> {
    fn new() -> Self {
        Self {
            cid: Cell::new(0),
            since: Cell::new(0),
            namespace: Cell::new(None),
            nsid: Cell::new(0),
            op: Cell::new(BlockOp::Flush),
            then: Cell::new(NextStep::Complete),
            slba: Cell::new(0),
            blocks: Cell::new(0),
            first_cid: Cell::new(0),
            entries: Cell::default(),
            extra: Cell::new(None),
            client_dma: Cell::new(None),
            waiters: Cell::default(),
            charge: Cell::new(0),
        }
    }

    /// Returns the namespace of the command.
    pub(super) fn nsid(&self) -> u32 {
        self.nsid.get()
    }

    /// Returns whether an Abort command waits for its end.
    fn is_asked_to_abort(&self) -> bool {
        let waiters = self.waiters.take();
        let is_asked = waiters.as_ref().is_some_and(|waiters| waiters.is_waiting());
        self.waiters.set(waiters);
        is_asked
    }

    /// It is the I/O of a command from now on, and of the first command of a fused pair if that is the second of one.
    #[inline]
    fn begin(&self, command: FetchedCommand<'_>, first: Option<FetchedCommand<'_>>) {
        self.first_cid.set(first.as_ref().map_or(0, |first| first.sqe.cid));
        let before = self.entries.replace(Entries::new(command.entry, first.map(|first| first.entry)));
        // Who ends a command takes its entries: there are none to be dropped, and none to be looked for here.
        debug_assert!(matches!(before, Entries::None), "a place with entries of another command");
        std::mem::forget(before);
    }

    /// Returns the identifier of the first command, if it is the second of a fused pair.
    fn first_cid(&self) -> Option<u16> {
        let entries = self.entries.take();
        let is_second = matches!(entries, Entries::Pair(..));
        self.entries.set(entries);
        is_second.then(|| self.first_cid.get())
    }

    /// Takes the first command of a fused pair out, which is ended by who has it.
    fn take_first(&self) -> Option<(u16, Reserved)> {
        match self.entries.take() {
            Entries::Pair(first, own) => {
                self.entries.set(Entries::One(own));
                Some((self.first_cid.get(), first))
            }
            entries => {
                self.entries.set(entries);
                None
            }
        }
    }

    /// The backend charges the command for what it takes.
    #[inline]
    pub fn charge(&self, count: u16) {
        self.charge.set(count);
    }

    /// Takes the charge back; `f` is told how much it was, with the namespace's channel.
    #[inline]
    pub fn refund(&self, f: impl FnOnce(&B::Channel, u16)) {
        let (namespace, charge) = (self.namespace.take(), self.charge.take());
        if let Some(namespace) = &namespace {
            f(&namespace.channel, charge);
        }
        self.namespace.set(namespace);
    }

    /// Returns the namespace's channel, while the command is in flight.
    fn namespace(&self) -> Option<Rc<NamespaceChannel<B>>> {
        let namespace = self.namespace.take();
        self.namespace.set(namespace.clone());
        namespace
    }
}

/// Returns how many bytes of [`QueueMemory`](guest_memory::QueueMemory) a submission queue of so many entries takes.
#[must_use]
pub const fn queue_memory_bytes<B: Backend>(entries: u16) -> usize {
    Slots::<SubmissionQueue<B>, IoState<B>>::bytes(entries)
}

impl<B: Backend> SubmissionQueue<B> {
    /// Makes a queue, with a place for each entry.
    pub(super) fn create(
        cursor: Cursor,
        completion: Rc<CompletionQueue>,
        context: &Rc<Context>,
        namespaces: &Rc<NamespaceChannels<B>>,
        max_transfer: u32,
    ) -> Submissions<B> {
        let places = cursor.entries();
        let queue = Self {
            cursor,
            completion,
            context: Rc::clone(context),
            namespaces: Rc::clone(namespaces),
            max_transfer,
            deferred: RefCell::default(),
            held: RefCell::default(),
            abort_next: Cell::new(0),
            first: RefCell::default(),
            closed: Cell::new(false),
            discard_completions: Cell::new(false),
            totals: Counts::default(),
        };
        Submissions(Slots::new(context.queue_memory(), places, queue, IoState::new, dropped::fail))
    }

    pub(super) fn qid(&self) -> u16 {
        self.cursor.qid()
    }

    pub(super) fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    /// Nothing is posted any more.
    pub(super) fn discard_completions(&self) {
        self.discard_completions.set(true);
    }

    /// Returns whether the namespace of an I/O is still the one that it began with.
    pub(super) fn has_namespace_of(&self, io: &IoState<B>) -> bool {
        io.namespace()
            .is_none_or(|namespace| self.namespace(namespace.nsid).is_some_and(|now| Rc::ptr_eq(&now, &namespace)))
    }

    pub(super) fn take_totals(&self) -> Totals {
        self.totals.take()
    }

    #[inline]
    fn post(&self, entry: Reserved, cid: u16, status: Status) {
        self.post_with(entry, cid, 0, status);
    }

    #[inline]
    fn post_with(&self, entry: Reserved, cid: u16, dw0: u32, status: Status) {
        if self.discard_completions.get() {
            return self.completion.release(entry);
        }
        self.completion.post(entry, self.qid(), self.cursor.head(), cid, dw0, status);
    }

    #[inline]
    fn namespace(&self, nsid: u32) -> Option<Rc<NamespaceChannel<B>>> {
        self.namespaces.borrow().get(namespace_index(nsid)?)?.clone()
    }

    /// A command, and the first of its fused pair if it has one, never became an I/O.
    #[cold]
    fn refuse_both(&self, command: FetchedCommand<'_>, first: Option<FetchedCommand<'_>>, status: Status) {
        if let Some(first) = first {
            self.refuse(first, Status::ABORTED_FAILED_FUSED);
        }
        self.refuse(command, status);
    }

    /// The first command of a fused pair cannot become an I/O, so that the second is not carried out either.
    #[cold]
    fn refuse_first(&self, command: FetchedCommand<'_>, first: Option<FetchedCommand<'_>>, status: Status) {
        if let Some(first) = first {
            self.refuse(first, status);
        }
        self.refuse(command, Status::ABORTED_FAILED_FUSED);
    }

    /// Notes which guest address a command could not use, if that is why it ends with `status`.
    #[cold]
    fn note_fault(&self, sqe: &Sqe, status: Status) {
        if status == Status::DATA_TRANSFER_ERROR {
            self.context.note_fault(self.qid(), sqe, &self.context.view());
        }
    }

    /// A command that never became an I/O has failed.
    #[cold]
    fn refuse(&self, FetchedCommand { sqe, entry }: FetchedCommand<'_>, status: Status) {
        if sqe.nsid == 0 && self.cursor.rewind_if_broken() {
            return self.completion.release(entry);
        }
        self.context.note(QueueErrorEvent::Failed {
            sqid: self.qid(),
            cid: sqe.cid,
            status,
            slba: sqe.slba(),
            nsid: sqe.nsid,
        });
        self.post(entry, sqe.cid, status);
    }
}

impl<B: Backend> Drop for SubmissionQueue<B> {
    fn drop(&mut self) {
        if let Some((_, entry)) = self.first.take() {
            self.completion.release(entry);
        }
    }
}

impl<B: Backend> Submissions<B> {
    /// Takes the commands that wait, `most` at most, the new ones only if `is_current` says that the view of guest memory
    /// is the newest. Returns how much was done.
    #[inline]
    pub(super) fn poll(&self, most: usize, is_current: &impl Fn() -> bool) -> usize {
        if !self.queue().deferred.borrow().is_empty() {
            return self.poll_deferred(most, is_current);
        }
        self.poll_new(most, is_current)
    }

    /// The same where commands wait for the backend: no new one is taken before these.
    #[cold]
    fn poll_deferred(&self, most: usize, is_current: &impl Fn() -> bool) -> usize {
        let before = self.queue().deferred.borrow().len();
        self.send_deferred();
        let left = self.queue().deferred.borrow().len();
        let sent = before.saturating_sub(left);
        if left > 0 { sent } else { sent + self.poll_new(most.saturating_sub(sent), is_current) }
    }

    #[inline]
    fn poll_new(&self, most: usize, is_current: &impl Fn() -> bool) -> usize {
        let queue = self.queue();
        let waiting = queue.cursor.waiting(&queue.context);
        // In this order: what waits may be in the newest memory.
        if waiting == 0 || !is_current() {
            return 0;
        }
        self.take_commands(waiting, most)
    }

    fn take_commands(&self, waiting: u16, most: usize) -> usize {
        let queue = self.queue();
        B::trace(TraceStep::Doorbell, || Traced {
            owner: queue.context.trace_owner(),
            command: 0,
            bytes: 0,
            arguments: [queue.qid().into(), waiting.into(), queue.cursor.head().into()],
        });
        let view = queue.context.view();
        let room = u16::try_from(self.free().min(most)).unwrap_or(BURST);
        queue.completion.prefetch();
        let mut entries = queue.completion.reserve(waiting.min(BURST).min(room));
        let mut taken = 0;
        while let Some(entry) = entries.take() {
            let Some(sqe) = queue.cursor.take(&view, entries.left() > 0) else {
                queue.completion.release(entry);
                break;
            };
            taken += 1;
            if sqe.fuse() == FusedOperation::NORMAL && queue.first.borrow().is_none() {
                self.begin(FetchedCommand { sqe: &sqe, entry }, None);
            } else {
                self.begin_fused(sqe, entry);
            }
            if !queue.deferred.borrow().is_empty() {
                break;
            }
        }
        taken
    }

    /// Begins a command, `first` being the first of the fused pair that it may be the second of.
    #[inline]
    fn begin(&self, command: FetchedCommand<'_>, first: Option<FetchedCommand<'_>>) {
        let (sqe, first_sqe) = (command.sqe, first.as_ref().map(|first| first.sqe));
        match self.prepare(sqe, first_sqe) {
            Ok(Some(io)) => {
                io.state().begin(command, first);
                send(io);
            }
            Ok(None) if first.is_none() => self.queue().post(command.entry, sqe.cid, Status::SUCCESS),
            // No command that has no effect is the second of a fused pair.
            Ok(None) => self.queue().refuse_both(command, first, Status::INVALID_FIELD),
            Err(CommandError::First(status)) => {
                self.queue().note_fault(first_sqe.unwrap_or(sqe), status);
                self.queue().refuse_first(command, first, status);
            }
            // The data of an I/O has more pieces than have room in its place, or an SGL has too many: that is seen
            // there.
            Err(CommandError::Command(
                DptrError::NoFile | DptrError::Invalid(Status::INVALID_NUMBER_OF_SGL_DESCRIPTORS),
            )) => {
                self.begin_client_dma(command, first);
            }
            Err(CommandError::Command(DptrError::Invalid(status))) => {
                self.queue().note_fault(sqe, status);
                self.queue().refuse_both(command, first, status);
            }
        }
    }

    /// Makes an I/O of a command; none if there is nothing to do.
    #[inline]
    fn prepare(&self, sqe: &Sqe, first: Option<&Sqe>) -> Result<Option<CommandIo<B>>, CommandError> {
        let queue = self.queue();
        let namespace = queue.namespace(sqe.nsid).ok_or(Status::INVALID_NAMESPACE)?;
        let geometry = namespace.geometry.get();
        let command = io::decode(sqe, &geometry, queue.max_transfer)?;
        let Some(op) = block_op(&command) else { return Ok(None) };
        let mut io = self.take().ok_or(Status::INTERNAL_ERROR)?;
        let op = match first {
            None => op,
            Some(first) => self.add_compare(&mut io, first, &command, &geometry)?,
        };
        if matches!(command.kind, IoKind::Deallocate | IoKind::Passthru) {
            extra::prepare(&mut io, sqe, &command, &geometry)?;
        } else if command.bytes > 0 {
            add_data(&mut io, sqe, command.bytes, command.kind == IoKind::Read)?;
        }
        let state = io.state();
        describe(state, sqe, op, &command, &geometry);
        state.since.set(queue.context.now());
        B::trace(TraceStep::Take, || traced(&io, sqe.nsid.into()));
        state.namespace.set(Some(namespace));
        Ok(Some(io))
    }

    /// Adds the data of the Compare that is the first of a fused pair (NVM command set 2.1.4).
    #[cold]
    fn add_compare(
        &self,
        io: &mut CommandIo<B>,
        first: &Sqe,
        second: &IoCommand,
        geometry: &NsGeometry,
    ) -> Result<BlockOp, CommandError> {
        let compare = io::decode(first, geometry, self.queue().max_transfer).map_err(CommandError::First)?;
        io::check_fused(&compare, second)?;
        add_data(io, first, compare.bytes, compare.to_guest()).map_err(|error| match error {
            DptrError::Invalid(status) => CommandError::First(status),
            DptrError::NoFile => CommandError::Command(error),
        })?;
        Ok(BlockOp::CompareAndWrite(io.piece_count()))
    }

    /// A command of a fused pair, or one that comes where the second of a pair was awaited (section 3.4.2).
    #[cold]
    fn begin_fused(&self, sqe: Sqe, entry: Reserved) {
        let queue = self.queue();
        let first = queue.first.take();
        match (first, sqe.fuse()) {
            (Some((first, first_entry)), FusedOperation::SECOND) if first.nsid == sqe.nsid => {
                self.begin(
                    FetchedCommand { sqe: &sqe, entry },
                    Some(FetchedCommand { sqe: &first, entry: first_entry }),
                );
            }
            (first, fuse) => {
                if let Some((first, entry)) = first {
                    queue.refuse(FetchedCommand { sqe: &first, entry }, Status::ABORTED_MISSING_FUSED);
                }
                let command = FetchedCommand { sqe: &sqe, entry };
                match fuse {
                    FusedOperation::NORMAL => self.begin(command, None),
                    FusedOperation::FIRST => *queue.first.borrow_mut() = Some((sqe, command.entry)),
                    FusedOperation::SECOND => queue.refuse(command, Status::ABORTED_MISSING_FUSED),
                    _ => queue.refuse(command, Status::INVALID_FIELD),
                }
            }
        }
    }

    /// Sends the commands that were held back for their namespaces; of those that still are they are held on.
    pub(super) fn send_held(&self) {
        for io in self.queue().held.take() {
            B::trace(TraceStep::GoOn, || traced(&io, io.state().nsid.get().into()));
            send(io);
        }
    }

    /// Returns what the queue holds.
    pub(super) fn state(&self) -> SubmissionState {
        let queue = self.queue();
        SubmissionState {
            qid: queue.qid(),
            cqid: queue.completion.qid(),
            size: queue.cursor.entries(),
            head: queue.cursor.head(),
            tail: queue.context.submission_tail_to_tell(queue.qid()),
            commands_in_flight: self.in_use(),
            deferred: queue.deferred.borrow().len(),
            fenced: queue.held.borrow().len(),
            oldest: self.oldest(),
        }
    }

    /// When the oldest command was taken that is in flight, in ticks.
    pub(super) fn oldest(&self) -> Option<u64> {
        let (mut left, mut oldest) = (self.in_use(), None);
        if left > 0 {
            self.visit_from(0, |io| {
                left = left.saturating_sub(1);
                oldest = Some(oldest.map_or(io.state.since.get(), |since: u64| since.min(io.state.since.get())));
                left > 0
            });
        }
        oldest
    }

    /// Returns whether all I/Os that have not ended wait here for the backend.
    pub(super) fn is_quiesced(&self) -> bool {
        usize::from(self.in_use()) == self.queue().deferred.borrow().len() + self.queue().held.borrow().len()
    }

    /// Sends what the backend could not take before; what it still cannot take waits on.
    fn send_deferred(&self) {
        let count = self.queue().deferred.borrow().len();
        for _ in 0..count {
            let next = self.queue().deferred.borrow_mut().pop_front();
            let Some(io) = next else { break };
            B::trace(TraceStep::GoOn, || traced(&io, io.state().nsid.get().into()));
            client_dma::resume(io);
        }
    }
}

/// Returns what a command asks of the backend; nothing if it has no effect.
#[inline]
const fn block_op(command: &IoCommand) -> Option<BlockOp> {
    match command.kind {
        IoKind::Read => Some(BlockOp::Read),
        IoKind::Write => Some(BlockOp::Write),
        IoKind::Compare => Some(BlockOp::Compare),
        IoKind::WriteZeroes => Some(BlockOp::WriteZeroes),
        // What the backend is given is in `IoState::extra`.
        IoKind::Deallocate | IoKind::Passthru => Some(BlockOp::Unmap),
        IoKind::Flush => Some(BlockOp::Flush),
        IoKind::Nothing => None,
    }
}

#[inline]
fn describe<B: Backend>(state: &IoState<B>, sqe: &Sqe, op: BlockOp, command: &IoCommand, geometry: &NsGeometry) {
    state.cid.set(sqe.cid);
    state.nsid.set(sqe.nsid);
    state.op.set(op);
    state.then.set(what_follows(command));
    state.slba.set(command.slba);
    // A flush is of the whole namespace: a bdev of several disks would flush the first of them only.
    state.blocks.set(if op == BlockOp::Flush { geometry.blocks() } else { u64::from(command.blocks) });
}

#[inline]
const fn what_follows(command: &IoCommand) -> NextStep {
    match command.kind {
        IoKind::Deallocate => NextStep::NextRange,
        IoKind::Write | IoKind::WriteZeroes if command.durable => NextStep::Flush,
        _ => NextStep::Complete,
    }
}

#[inline]
fn add_data<B: Backend>(io: &mut CommandIo<B>, sqe: &Sqe, bytes: u32, to_guest: bool) -> Result<(), DptrError> {
    let view = io.queue().context.view();
    io.add_data(&view, to_guest, |sink| dptr::walk(&*view, sqe, bytes, sink))
}

/// Gives an I/O to its backend.
#[inline]
fn send<B: Backend>(io: CommandIo<B>) {
    let state = io.state();
    let Some(namespace) = state.namespace() else { return complete(io, Err(Status::INTERNAL_ERROR)) };
    if namespace.is_holding() {
        return hold(io);
    }
    let (op, slba, blocks) = (state.op.get(), state.slba.get(), state.blocks.get());
    if op == BlockOp::Unmap {
        return extra::send(io, &namespace);
    }
    submit(&namespace, op, slba, blocks, io);
}

#[inline]
fn submit<B: Backend>(namespace: &NamespaceChannel<B>, op: BlockOp, slba: u64, blocks: u64, io: CommandIo<B>) {
    if let Err(refused) = B::submit(&namespace.channel, op, slba, blocks, io) {
        refuse_or_keep(refused);
    }
}

/// Something older may still arrive at the disk, or this takes no more for now: the command waits, and others of its
/// queue go on.
#[cold]
fn hold<B: Backend>(io: CommandIo<B>) {
    let submissions = Submissions(io.owner());
    if submissions.queue().closed.get() {
        return complete(io, Err(Status::ABORTED_SQ_DELETION));
    }
    B::trace(TraceStep::Wait, || traced(&io, Reason::Namespace as u64));
    submissions.queue().held.borrow_mut().push_back(io);
}

#[cold]
fn refuse_or_keep<B: Backend>(refused: Refused<B>) {
    let io = refused.io;
    let submissions = Submissions(io.owner());
    match refused.why {
        Refusal::Failed(status) => return complete(io, Err(status)),
        // Nobody looks for room in a namespace that is gone.
        Refusal::Full if submissions.queue().has_namespace_of(io.state()) => {
            if let Some(namespace) = io.state().namespace() {
                namespace.note_full();
            }
            submissions.queue().context.set_held(true);
            return hold(io);
        }
        Refusal::Full | Refusal::Short => {}
    }
    // Nobody sends again what a closed queue keeps.
    if submissions.queue().closed.get() {
        return complete(io, Err(Status::ABORTED_SQ_DELETION));
    }
    B::trace(TraceStep::Wait, || traced(&io, Reason::Backend as u64));
    submissions.queue().deferred.borrow_mut().push_back(io);
}

/// Returns what a record of an I/O's step has; `last` is its last argument.
#[inline]
fn traced<B: Backend>(io: &CommandIo<B>, last: u64) -> Traced {
    trace_of(io.queue(), io.state(), (io.name(), io.bytes()), last)
}

/// Returns the same of what the I/O is made of: where nothing is recorded, the compiler need not keep the I/O in memory
/// for it.
#[cold]
#[inline(never)]
fn trace_of<B: Backend>(queue: &SubmissionQueue<B>, state: &IoState<B>, io: (IoToken, u32), last: u64) -> Traced {
    let (name, bytes) = io;
    Traced {
        owner: queue.context.trace_owner(),
        command: name.as_ptr().addr().get() as u64,
        bytes,
        arguments: [queue.qid().into(), state.cid.get().into(), last],
    }
}

/// An I/O has ended: its completion is posted and its place is free again.
#[inline]
pub fn complete<B: Backend>(io: CommandIo<B>, result: Result<(), Status>) {
    if guard::any() {
        return complete_checked(io, result);
    }
    complete_unchecked(io, result);
}

/// An I/O that was [passed through](Backend::passthru) has ended; `dw0` is what the backend's own completion has in
/// dword 0.
pub fn complete_passthru<B: Backend>(io: CommandIo<B>, dw0: u32, result: Result<(), Status>) {
    match result {
        Ok(()) if guard::any() && io.is_poisoned() => {
            let status = note_poisoned(&io);
            fail(io, status);
        }
        Ok(()) if io.state().then.get() == NextStep::Complete => complete_command_with(io, dw0, Status::SUCCESS),
        Ok(()) if io.state().then.get() == NextStep::ToGuest => client_dma::deliver(io, dw0),
        result => complete(io, result),
    }
}

/// The same as [`complete`] where some memory of some guest is poisoned: what the backend took for the guest's data, or wrote where the
/// guest will look for it, may not have been the guest's memory.
#[cold]
fn complete_checked<B: Backend>(io: CommandIo<B>, result: Result<(), Status>) {
    let is_miscompare = |status: Status| status.code() == StatusCode::COMPARE_FAILURE;
    let tells_of_data = result.is_ok() || result.is_err_and(is_miscompare);
    let result = if tells_of_data && io.is_poisoned() { Err(note_poisoned(&io)) } else { result };
    complete_unchecked(io, result);
}

/// A page of an I/O's data could not be had. Returns what its command ends with.
#[cold]
fn note_poisoned<B: Backend>(io: &CommandIo<B>) -> Status {
    let (queue, state) = (io.queue(), io.state());
    if let Some(gpa) = io.poisoned_at() {
        queue.context.note_command_fault(CommandFault {
            sqid: queue.qid(),
            cid: state.cid.get(),
            opcode: extra::opcode_of(state),
            nsid: state.nsid.get(),
            gpa,
            fault: Fault::Poisoned,
        });
    }
    Status::DATA_TRANSFER_ERROR
}

#[inline]
fn complete_unchecked<B: Backend>(io: CommandIo<B>, result: Result<(), Status>) {
    match result {
        Ok(()) if io.state().then.get() == NextStep::Complete => complete_command(io, Status::SUCCESS),
        Ok(()) if io.state().then.get() == NextStep::Flush => flush(io),
        Ok(()) if io.state().then.get() == NextStep::ToGuest => client_dma::deliver(io, 0),
        Ok(()) => extra::next_range(io),
        Err(status) => fail(io, status),
    }
}

/// A write is done, but in a cache.
#[cold]
fn flush<B: Backend>(io: CommandIo<B>) {
    let state = io.state();
    io.queue().count(state.op.get(), io.bytes());
    B::trace(TraceStep::Wait, || traced(&io, Reason::NextPart as u64));
    state.then.set(NextStep::Complete);
    state.op.set(BlockOp::Flush);
    if io.queue().closed.get() { fail(io, Status::ABORTED_SQ_DELETION) } else { send(io) }
}

#[cold]
fn fail<B: Backend>(io: CommandIo<B>, status: Status) {
    let (queue, state) = (io.queue(), io.state());
    let (sqid, cid, slba, nsid) = (queue.qid(), state.cid.get(), state.slba.get(), state.nsid.get());
    let status = queue.status_told(state, status);
    if !queue.discard_completions.get() {
        if is_media_error(status) {
            queue.context.count_media_error();
        }
        queue.context.note(QueueErrorEvent::Failed { sqid, cid, status, slba, nsid });
    }
    state.client_dma.take();
    complete_command(io, status);
}

#[inline]
fn complete_command<B: Backend>(io: CommandIo<B>, status: Status) {
    complete_command_with(io, 0, status);
}

/// The same with a result in dword 0 of the completion entry.
#[inline]
fn complete_command_with<B: Backend>(io: CommandIo<B>, dw0: u32, status: Status) {
    let (queue, state) = (io.queue(), io.state());
    queue.count(state.op.get(), io.bytes());
    let waiters = state.waiters.take();
    let was_aborted = is_abort(status);
    let entries = state.entries.take();
    let (entries, status) = match entries {
        Entries::Pair(first, own) => (Entries::One(own), complete_first(queue, (state.first_cid.get(), first), status)),
        entries => (entries, status),
    };
    B::trace(TraceStep::Complete, || traced(&io, u64::from(status.into_bits() >> 1)));
    if let Entries::One(entry) = entries {
        queue.post_with(entry, state.cid.get(), dw0, status);
    }
    state.namespace.take();
    state.extra.take();
    io.release();
    if let Some(waiters) = waiters {
        waiters.answer(was_aborted);
    }
}

/// Returns whether a command was aborted, for whatever reason.
fn is_abort(status: Status) -> bool {
    matches!(status.code(), StatusCode::ABORT_REQUESTED | StatusCode::ABORTED_SQ_DELETION)
}

/// Returns whether data could not be had or kept: a media or data integrity error, but for a comparison that failed,
/// and an access that was denied.
fn is_media_error(status: Status) -> bool {
    status.sct() == StatusCodeType::MEDIA
        && !matches!(status.code(), StatusCode::COMPARE_FAILURE | StatusCode::ACCESS_DENIED)
}

/// The first command of a fused pair ends with the second, whose status is returned. A pair that was not carried out
/// has failed in one of its halves, and the other ends with Command Aborted due to Failed Fused Command (base
/// specification 3.4.2).
#[cold]
fn complete_first<B: Backend>(queue: &SubmissionQueue<B>, (first, entry): (u16, Reserved), status: Status) -> Status {
    let (first_status, second_status) = if status == Status::SUCCESS {
        (status, status)
    } else if is_of_a_write(status) {
        (Status::ABORTED_FAILED_FUSED, status)
    } else {
        (status, Status::ABORTED_FAILED_FUSED)
    };
    queue.post(entry, first, first_status);
    second_status
}

/// Returns whether no comparison ends with this status.
fn is_of_a_write(status: Status) -> bool {
    matches!(
        status.code(),
        StatusCode::NAMESPACE_WRITE_PROTECTED | StatusCode::WRITE_TO_READ_ONLY_RANGE | StatusCode::WRITE_FAULT
    )
}

impl<B: Backend> SubmissionQueue<B> {
    /// Returns the status that a command failed with, as the host is told: one that was aborted because its namespace
    /// was taken away has lost its namespace.
    fn status_told(&self, state: &IoState<B>, status: Status) -> Status {
        let lost =
            is_abort(status) && !self.closed.get() && !state.is_asked_to_abort() && !self.has_namespace_of(state);
        if lost { Status::INVALID_NAMESPACE } else { status }
    }

    #[inline]
    fn count(&self, op: BlockOp, bytes: u32) {
        let (commands, data) = match op {
            BlockOp::Read | BlockOp::Compare => (&self.totals.reads, &self.totals.bytes_read),
            BlockOp::Write | BlockOp::CompareAndWrite(_) => (&self.totals.writes, &self.totals.bytes_written),
            BlockOp::WriteZeroes | BlockOp::Flush | BlockOp::Unmap => return,
        };
        commands.set(commands.get().wrapping_add(1));
        data.set(data.get().wrapping_add(u64::from(bytes)));
    }
}

impl<B: Backend> std::fmt::Debug for SubmissionQueue<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SubmissionQueue").field("cursor", &self.cursor).finish_non_exhaustive()
    }
}

impl<B: Backend> std::fmt::Debug for IoState<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IoState").field("cid", &self.cid.get()).field("op", &self.op.get()).finish_non_exhaustive()
    }
}
