//! Commands that are seldom: Dataset Management, and what the backend carries out as it is.

use super::{CommandIo, IoState, add_data, complete_command, fail, refuse_or_keep, submit};
use crate::model::io::{IoCommand, IoKind, NsGeometry, PassthruCommand};
use crate::queue::NamespaceChannel;
use crate::queue::deallocate::Deallocate;
use crate::queue::{Backend, BlockOp};
use guest_memory::dptr::DptrError;
use nvme_spec::{IoOpcode, Sqe, Status};

/// What is known of such a command beside what all commands have.
#[derive(Debug)]
pub(super) enum CommandExtra {
    /// What is left of a Dataset Management command.
    Ranges(Deallocate),
    /// What the backend is told.
    Passthru(PassthruCommand),
}

/// Fetches the ranges of a Dataset Management command, or finds the data of one that is passed through.
#[cold]
pub(super) fn prepare<B: Backend>(
    io: &mut CommandIo<B>,
    sqe: &Sqe,
    command: &IoCommand,
    geometry: &NsGeometry,
) -> Result<(), DptrError> {
    let extra = if command.kind == IoKind::Deallocate {
        let view = io.queue().context.view();
        CommandExtra::Ranges(Deallocate::fetch(sqe, command.bytes, geometry, &view)?)
    } else {
        let passthru = PassthruCommand::of(sqe);
        if command.bytes > 0 {
            add_data(io, sqe, command.bytes, passthru.to_guest())?;
        }
        CommandExtra::Passthru(passthru)
    };
    io.state().extra.set(Some(Box::new(extra)));
    Ok(())
}

/// Sends the next range of a Dataset Management command, or a command as it is.
#[cold]
pub(super) fn send<B: Backend>(io: CommandIo<B>, namespace: &NamespaceChannel<B>) {
    enum Next {
        Range(u64, u64),
        Passthru(PassthruCommand),
        Nothing,
    }
    let extra = io.state().extra.take();
    let next = match extra.as_deref() {
        Some(CommandExtra::Ranges(ranges)) => {
            ranges.current().map_or(Next::Nothing, |extent| Next::Range(extent.slba, extent.blocks.into()))
        }
        Some(CommandExtra::Passthru(command)) => Next::Passthru(*command),
        None => Next::Nothing,
    };
    io.state().extra.set(extra);
    match next {
        Next::Range(slba, blocks) => submit(namespace, BlockOp::Unmap, slba, blocks, io),
        Next::Passthru(command) => {
            if let Err(refused) = B::passthru(&namespace.channel, &command, io) {
                refuse_or_keep(refused);
            }
        }
        Next::Nothing => complete_command(io, Status::SUCCESS),
    }
}

/// Returns the opcode of a command that is in flight.
pub(super) fn opcode_of<B: Backend>(state: &IoState<B>) -> u8 {
    let extra = state.extra.take();
    let passthru = match extra.as_deref() {
        Some(CommandExtra::Passthru(command)) => Some(command.opcode),
        _ => None,
    };
    state.extra.set(extra);
    passthru.unwrap_or(match state.op.get() {
        BlockOp::Read => IoOpcode::READ.0,
        BlockOp::Write | BlockOp::CompareAndWrite(_) => IoOpcode::WRITE.0,
        BlockOp::Compare => IoOpcode::COMPARE.0,
        BlockOp::WriteZeroes => IoOpcode::WRITE_ZEROES.0,
        BlockOp::Flush => IoOpcode::FLUSH.0,
        BlockOp::Unmap => IoOpcode::DATASET_MANAGEMENT.0,
    })
}

/// A range of a Dataset Management command is done.
#[cold]
pub(super) fn next_range<B: Backend>(io: CommandIo<B>) {
    let mut extra = io.state().extra.take();
    let mut is_done = true;
    if let Some(CommandExtra::Ranges(ranges)) = extra.as_deref_mut() {
        ranges.advance();
        is_done = ranges.current().is_none();
    }
    io.state().extra.set(extra);
    if is_done {
        complete_command(io, Status::SUCCESS);
    } else if io.queue().closed.get() {
        fail(io, Status::ABORTED_SQ_DELETION);
    } else {
        super::send(io);
    }
}
