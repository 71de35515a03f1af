//! Commands with data in memory that came without a file, and those whose data has more pieces than there is room for
//! in a place.
//!
//! What is walked here is the data pointer anew, from the start: nothing of the first attempt is used.

use std::rc::Rc;

use super::extra::CommandExtra;
use super::{
    CommandIo, FetchedCommand, IoState, NextStep, SubmissionQueue, Submissions, block_op, complete,
    complete_command_with, describe, fail, send, traced,
};
use crate::model::io::{self, IoKind, PassthruCommand};
use crate::queue::client_dma::{ClientTransfers, gather};
use crate::queue::deallocate::Deallocate;
use crate::queue::trace::{Reason, TraceStep};
use crate::queue::{Backend, BlockOp};
use guest_memory::dptr::{self, DptrError, PieceSink};
use guest_memory::{Bounce, BounceError, MAX_PIECES};
use nvme_spec::{Sqe, Status};

/// What is kept of such a command, besides what is kept of every one.
pub(super) enum ClientDmaStep {
    /// It waits for room for its data, and begins anew when this many parts of the budget were given back: the command,
    /// and the first of the fused pair that it may be the second of.
    Waiting(Sqe, Option<Sqe>, u64),
    /// Its data is sent to the guest when the backend is done.
    ToGuest(Bounce),
    /// The backend is done, and its data is sent to the guest when guest memory may be accessed again; what dword 0 of
    /// the completion is then.
    Done(Bounce, u32),
    /// It waits for the transfer of that identifier.
    Transfer(u64),
}

/// What is known of a command's data.
struct StagedData {
    bounce: Bounce,
    /// All its pieces, with a file and without.
    pieces: Vec<(u64, u32)>,
    to_guest: bool,
}

impl<B: Backend> Submissions<B> {
    /// Begins a command whose data pointer led to memory without a file; `first` as in [`begin`](Self::begin).
    #[cold]
    pub(super) fn begin_client_dma(&self, command: FetchedCommand<'_>, first: Option<FetchedCommand<'_>>) {
        let queue = self.queue();
        let sqe = command.sqe;
        let (Some(namespace), Some(io)) = (queue.namespace(sqe.nsid), self.take()) else {
            return queue.refuse_both(command, first, Status::INTERNAL_ERROR);
        };
        let state = io.state();
        state.cid.set(sqe.cid);
        state.since.set(queue.context.now());
        state.nsid.set(sqe.nsid);
        state.op.set(BlockOp::Flush);
        state.then.set(NextStep::Complete);
        state.slba.set(sqe.slba());
        state.namespace.set(Some(namespace));
        let first_sqe = first.as_ref().map(|first| *first.sqe);
        state.begin(command, first);
        B::trace(TraceStep::Take, || traced(&io, sqe.nsid.into()));
        start(io, *sqe, first_sqe);
    }
}

/// Goes on with an I/O that had to wait, for whatever reason.
pub(super) fn resume<B: Backend>(io: CommandIo<B>) {
    let state = io.state();
    match state.client_dma.take().map(|step| *step) {
        None => send(io),
        Some(ClientDmaStep::Waiting(sqe, first, seen)) => {
            if io.queue().releases() == seen {
                wait(io, sqe, first, seen);
            } else {
                start(io, sqe, first);
            }
        }
        Some(ClientDmaStep::Done(bounce, dw0)) => deliver_bounce(io, &bounce, dw0),
        sending => {
            state.client_dma.set(sending.map(Box::new));
            send(io);
        }
    }
}

fn start<B: Backend>(mut io: CommandIo<B>, sqe: Sqe, first: Option<Sqe>) {
    // Before the attempt: what is given back meanwhile must not be missed.
    let seen = io.queue().releases();
    match stage(&mut io, &sqe, first.as_ref()) {
        Ok(staged) if staged.to_guest => {
            io.state().then.set(NextStep::ToGuest);
            io.state().client_dma.set(Some(Box::new(ClientDmaStep::ToGuest(staged.bounce))));
            send(io);
        }
        Ok(staged) => fetch(io, staged),
        Err(BounceError::NoRoom) => wait(io, sqe, first, seen),
        Err(BounceError::Invalid(status)) => {
            io.queue().note_fault(&sqe, status);
            lose(io, status);
        }
    }
}

fn wait<B: Backend>(io: CommandIo<B>, sqe: Sqe, first: Option<Sqe>, seen: u64) {
    io.state().client_dma.set(Some(Box::new(ClientDmaStep::Waiting(sqe, first, seen))));
    B::trace(TraceStep::Wait, || traced(&io, Reason::Memory as u64));
    let submissions = Submissions(io.owner());
    submissions.queue().deferred.borrow_mut().push_back(io);
}

/// Makes the I/O of a command, with pages that stand in for the memory without a file.
fn stage<B: Backend>(io: &mut CommandIo<B>, sqe: &Sqe, first: Option<&Sqe>) -> Result<StagedData, BounceError> {
    let context = Rc::clone(&io.queue().context);
    let namespace = io.state().namespace().ok_or(Status::INTERNAL_ERROR)?;
    let budget = context.client_transfers().budget();
    let (geometry, view) = (namespace.geometry.get(), context.view());
    let max_transfer = io.queue().max_transfer;
    let command = io::decode(sqe, &geometry, max_transfer)?;
    let op = block_op(&command).ok_or(Status::INTERNAL_ERROR)?;
    let mut pieces = Vec::new();
    if let Some(first) = first {
        let compare = io::decode(first, &geometry, max_transfer)?;
        io::check_fused(&compare, &command)?;
        dptr::walk(&*view, first, compare.bytes, &mut pieces)?;
    }
    let compared = pieces.len();
    dptr::walk(&*view, sqe, command.bytes, &mut pieces)?;
    let passthru = (command.kind == IoKind::Passthru).then(|| PassthruCommand::of(sqe));
    let to_guest = passthru.map_or(command.to_guest(), |passthru| passthru.to_guest());
    // What was found on the way here was not wrong.
    view.take_fault();
    let bounce = Bounce::new(view.memory(), &pieces, to_guest, budget).inspect_err(|_| {
        pieces.iter().any(|&(gpa, len)| view.note_first(gpa, len.into(), to_guest));
    })?;
    if pieces.len() > MAX_PIECES {
        // A piece may lie in several regions.
        io.make_room(pieces.len() * 2);
    }
    let (compare, data) = pieces.split_at_checked(compared).unwrap_or_default();
    let op = if first.is_some() {
        add_pieces(io, &bounce, compare, to_guest)?;
        BlockOp::CompareAndWrite(io.piece_count())
    } else {
        op
    };
    if command.kind != IoKind::Deallocate {
        add_pieces(io, &bounce, data, to_guest)?;
    }
    describe(io.state(), sqe, op, &command, &geometry);
    io.state().extra.set(passthru.map(|passthru| Box::new(CommandExtra::Passthru(passthru))));
    Ok(StagedData { bounce, pieces, to_guest })
}

fn add_pieces<B: Backend>(
    io: &mut CommandIo<B>,
    bounce: &Bounce,
    pieces: &[(u64, u32)],
    to_guest: bool,
) -> Result<(), DptrError> {
    io.add_data(bounce.view(), to_guest, |sink| pieces.iter().try_for_each(|&(gpa, len)| sink.push(gpa, len)))
}

/// Fetches the data of a command, which goes on when it is there.
fn fetch<B: Backend>(io: CommandIo<B>, staged: StagedData) {
    let context = Rc::clone(&io.queue().context);
    let id = ClientTransfers::next_id();
    io.state().client_dma.set(Some(Box::new(ClientDmaStep::Transfer(id))));
    let StagedData { bounce, pieces, .. } = staged;
    let fetched = bounce.clone();
    let then = move |result: Result<Vec<Vec<u8>>, Status>| {
        io.state().client_dma.take();
        let ready = result.and_then(|data| fetched.fill(&data)).and_then(|()| take_ranges(&io, &fetched, &pieces));
        match ready {
            Ok(()) => send(io),
            Err(status) => lose(io, status),
        }
    };
    context.client_transfers().fetch(id, &bounce, Box::new(then));
}

/// The data of a Dataset Management command are its ranges.
fn take_ranges<B: Backend>(io: &CommandIo<B>, bounce: &Bounce, pieces: &[(u64, u32)]) -> Result<(), Status> {
    let state = io.state();
    if state.then.get() == NextStep::NextRange {
        let namespace = state.namespace().ok_or(Status::INTERNAL_ERROR)?;
        let ranges = Deallocate::parse(&gather(bounce.view(), pieces)?, &namespace.geometry.get())?;
        state.extra.set(Some(Box::new(CommandExtra::Ranges(ranges))));
    }
    Ok(())
}

/// The backend is done: the data goes to the guest, and then the command is, with `dw0` in its completion.
#[cold]
pub(super) fn deliver<B: Backend>(io: CommandIo<B>, dw0: u32) {
    let state = io.state();
    B::trace(TraceStep::Wait, || traced(&io, Reason::NextPart as u64));
    state.then.set(NextStep::Complete);
    let Some(ClientDmaStep::ToGuest(bounce)) = state.client_dma.take().map(|step| *step) else {
        return fail(io, Status::INTERNAL_ERROR);
    };
    deliver_bounce(io, &bounce, dw0);
}

fn deliver_bounce<B: Backend>(io: CommandIo<B>, bounce: &Bounce, dw0: u32) {
    if io.queue().closed.get() {
        return fail(io, Status::ABORTED_SQ_DELETION);
    }
    let context = Rc::clone(&io.queue().context);
    if context.is_suspended() {
        io.state().client_dma.set(Some(Box::new(ClientDmaStep::Done(bounce.clone(), dw0))));
        let submissions = Submissions(io.owner());
        return submissions.queue().deferred.borrow_mut().push_back(io);
    }
    let id = ClientTransfers::next_id();
    io.state().client_dma.set(Some(Box::new(ClientDmaStep::Transfer(id))));
    let then = move |result: Result<Vec<Vec<u8>>, Status>| {
        io.state().client_dma.take();
        match result {
            Ok(_) => complete_command_with(io, dw0, Status::SUCCESS),
            Err(status) => fail(io, status),
        }
    };
    context.client_transfers().send(id, bounce, Box::new(then));
}

/// A command has failed before the backend got it: nothing of a fused pair was done.
fn lose<B: Backend>(io: CommandIo<B>, status: Status) {
    if let Some((first, entry)) = io.state().take_first() {
        io.queue().post(entry, first, Status::ABORTED_FAILED_FUSED);
    }
    complete(io, Err(status));
}

impl<B: Backend> SubmissionQueue<B> {
    /// Counts how often parts of the budget were given back.
    fn releases(&self) -> u64 {
        self.context.client_transfers().budget().releases()
    }
}

impl<B: Backend> IoState<B> {
    /// Returns the transfer that it waits for.
    pub(super) fn transfer(&self) -> Option<u64> {
        let step = self.client_dma.take();
        let transfer = match step.as_deref() {
            Some(ClientDmaStep::Transfer(id)) => Some(*id),
            _ => None,
        };
        self.client_dma.set(step);
        transfer
    }
}
