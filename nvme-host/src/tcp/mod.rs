//! The wire of one NVMe/TCP connection, which is one queue pair, from the host's side (TCP transport, section 3).
//!
//! A [`Wire`] is given commands and what was received, and gives back [`Event`]s and what to send. It holds no data of
//! a command: an event says which bytes of the input belong where in which command's data, and a [`Chunk`] of the
//! output says which bytes of a command's data come next. The caller copies, and sends from where the data is.
//!
//! # The loop of a caller
//! 1. Give commands to [`submit`](Wire::submit), [`submit_read`](Wire::submit_read) and
//!    [`submit_write`](Wire::submit_write), as many as a poll has: their capsules lie side by side.
//! 2. Call [`build_transfers`](Wire::build_transfers), send what [`output`](Wire::output) has by one system call, and
//!    tell [`sent`](Wire::sent) how much went.
//! 3. Receive as much as there is into one large buffer, and call [`next`](Wire::next) with it until it has nothing
//!    more. Then the whole input has been taken: nothing of it need be kept. Where much data is under way,
//!    [`place`](Wire::place) tells where the rest of it may be received directly.
//!
//! There is no clock. That each step ends in time (`ICResp` among them) is the caller's to watch; a command that is
//! given up is [detached](Wire::detach).
//!
//! # What is promised, whatever the controller sends
//! - A command completes once, by its own identifier, after all of it was sent. Identifiers count how often a place was
//!   used, so that a late or second answer is found out and not taken for that of the next command there.
//! - Data of a command comes in order and never beyond its length. Success is told only if every byte came once
//!   ([`TransferError`] otherwise), or, of a write, was asked for once.
//! - What is sent of a command's data lies within it and was asked for by R2T, or lies in the capsule.
//! - A wrong header, length or identifier ends the connection with a [`ProtocolError`] that names the field, its value
//!   and what would be right, and the controller is told by `H2CTermReq`. Wrong data fails its command alone.
//! - Memory is bounded by [`Options::depth`], and allocated at the start.
//!
//! Reserved fields are not looked at, as the specification asks. An absent `LAST_PDU` is let pass, since what came is
//! counted anyway.
//!
//! # What it does not implement
//! TLS; metadata in a buffer of its own, which NVMe/TCP has not; `H2CData` for which no R2T came.

mod command;
mod error;
mod output;
mod pdu;
mod receive;
mod send;

#[cfg(test)]
mod tests;

use nvme_spec::Cqe;
use nvme_spec::tcp::MIN_MAXH2CDATA;

pub use self::command::Slot;
use self::command::Table;
pub use self::error::ProtocolError;
pub use self::output::Chunk;
use self::output::Output;
use self::pdu::Rules;
pub use self::receive::Place;
use self::receive::Receiver;

/// The most commands of a queue: each identifier still has 4 bits to count by.
pub const MAX_DEPTH: u16 = 4096;

/// The most R2Ts that a command may have outstanding.
pub const MAX_R2T: u8 = 16;

/// The alignment of data until `ICResp` tells one, in bytes.
const LEAST_ALIGNMENT: u16 = 4;

/// Bytes of headers of data that was asked for that may wait beside as many capsules as there can be.
const TRANSFER_HEADERS: usize = 4096;

/// The most bytes of a capsule without its data: header, entry, header digest and padding up to the greatest
/// alignment, and the data's digest.
const CAPSULE_BYTES: usize = 128 + 4;

/// Returns up to how many waiting bytes of headers more are built for data that was asked for.
fn transfers_fill(depth: u16) -> usize {
    usize::from(depth) * CAPSULE_BYTES + TRANSFER_HEADERS
}

/// Which digests there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Digests {
    /// Each header has one.
    pub header: bool,
    /// The data of each PDU has one.
    pub data: bool,
}

/// What a connection is to be like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// How many commands may be in flight: 1 to [`MAX_DEPTH`].
    pub depth: u16,
    /// The digests to ask for. The controller may refuse them: see [`Parameters::digests`].
    pub digests: Digests,
    /// How many R2Ts a command may have outstanding: 1 to [`MAX_R2T`].
    pub max_r2t: u8,
    /// How many bytes of data go in a capsule at most. Of an I/O queue, what IOCCSZ leaves after the entry; of an admin
    /// queue [`ADMIN_IN_CAPSULE_DATA`](nvme_spec::tcp::ADMIN_IN_CAPSULE_DATA). Commands of the fabric have as much as
    /// that anyway.
    pub in_capsule_data: u32,
}

/// Options that no connection can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// No command, or more than identifiers can tell apart.
    #[error("the depth of a queue must be 1 to {MAX_DEPTH}, got {depth}")]
    Depth {
        /// The depth.
        depth: u16,
    },
    /// No R2T, or more than are kept.
    #[error("max_r2t must be 1 to {MAX_R2T}, got {max_r2t}")]
    MaxR2t {
        /// The limit.
        max_r2t: u8,
    },
}

/// What the controller answered to `ICReq`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameters {
    /// The digests in use: at most those that were asked for.
    pub digests: Digests,
    /// The data of PDUs to the controller begins at a multiple of so many bytes: 4 to 128.
    pub alignment: u16,
    /// The most bytes of data that an `H2CData` has.
    pub maxh2cdata: u32,
}

/// Why a command that the controller calls successful did not succeed. What was transferred of its data is unknown or
/// wrong; the connection goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// Not all of the data came, or was asked for.
    #[error("the controller completed a command with success after {done} of its {len} bytes")]
    Short {
        /// How many bytes came, or were asked for.
        done: u32,
        /// How many there are.
        len: u32,
    },
    /// Data came with a digest that is not its own.
    #[error("data came that its digest does not match")]
    DataDigest,
}

/// What has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// The connection is set up: commands may be submitted.
    Ready(Parameters),
    /// Data of a command, to be copied. Until its command has completed with success, it may be wrong.
    Data {
        /// The command.
        slot: Slot,
        /// Where in its data the bytes belong.
        offset: u32,
        /// The bytes, which are some of the input.
        bytes: &'a [u8],
    },
    /// A command has ended, and its place is free.
    Completed {
        /// The command.
        slot: Slot,
        /// The completion, of whose status success means that all data was transferred; or why it is none.
        result: Result<Cqe, TransferError>,
    },
}

/// Why a command was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The connection is not set up, or not any more.
    #[error("the connection is not ready for commands")]
    NotReady,
    /// As many commands are in flight as may be.
    #[error("all {depth} places of the queue are taken")]
    Full {
        /// How many there are.
        depth: u16,
    },
    /// A length that NVMe/TCP cannot carry.
    #[error("the data of a command must be a multiple of 4 bytes and not none, got {len}")]
    Length {
        /// The length.
        len: u32,
    },
}

/// Why a command cannot be given up: its data is being sent, or has been asked for. The connection must be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the data of the command is being sent")]
pub struct StillSending;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// `ICReq` is on its way.
    Initializing,
    Ready,
    Failed(ProtocolError),
}

/// The host's side of one NVMe/TCP connection. See the [module](self) for its use.
#[derive(Debug)]
pub struct Wire {
    options: Options,
    state: State,
    parameters: Parameters,
    table: Table,
    output: Output,
    receiver: Receiver,
}

impl Wire {
    /// Returns the wire of a connection that has just been made, whose output is `ICReq`.
    ///
    /// # Errors
    /// Options that no connection can have.
    pub fn new(options: Options) -> Result<Self, OptionsError> {
        let Options { depth, max_r2t, .. } = options;
        if !(1..=MAX_DEPTH).contains(&depth) {
            return Err(OptionsError::Depth { depth });
        }
        if !(1..=MAX_R2T).contains(&max_r2t) {
            return Err(OptionsError::MaxR2t { max_r2t });
        }
        // Capsules may come on top of what transfers have filled. A transfer has a header of at least 24 bytes.
        let (capsules, filled) = (usize::from(depth) * CAPSULE_BYTES, transfers_fill(depth));
        let max_pieces = 2 * (usize::from(depth) + filled / 24 + 1);
        let mut wire = Self {
            options,
            state: State::Initializing,
            parameters: Parameters {
                digests: Digests::default(),
                alignment: LEAST_ALIGNMENT,
                maxh2cdata: MIN_MAXH2CDATA,
            },
            table: Table::new(depth, max_r2t),
            output: Output::new(capsules + filled, max_pieces),
            receiver: Receiver::new(),
        };
        wire.push_ic_req();
        Ok(wire)
    }

    /// Returns whether a command can be submitted: the connection is set up, and a place is free.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.state == State::Ready && self.table.has_room()
    }

    /// Returns the places of all commands in flight. After the connection has failed, these are the ones whose fate is
    /// unknown.
    pub fn in_flight(&self) -> impl Iterator<Item = Slot> + '_ {
        self.table.in_flight()
    }

    /// Gives a command up, whose data must not be touched any more: what comes for it is dropped. Its place stays taken
    /// until the controller has completed it. If the controller asks for its data, the connection ends.
    ///
    /// # Errors
    /// Its data is being sent, or has been asked for: only closing the connection takes it back.
    pub fn detach(&mut self, slot: Slot) -> Result<(), StillSending> {
        let sent = self.output.sent_until();
        match self.table.get(slot) {
            Some(command) if !command.is_sent(sent) => Err(StillSending),
            _ => {
                self.table.detach(slot);
                Ok(())
            }
        }
    }

    /// The stream from the controller has ended. Returns what [`next`](Self::next) will return from now on.
    pub fn close(&mut self) -> ProtocolError {
        if let State::Failed(error) = self.state {
            return error;
        }
        self.fail(ProtocolError::Closed { within_pdu: self.receiver.is_within_pdu() }, &[])
    }

    fn rules(&self) -> Rules {
        match self.state {
            State::Initializing => Rules { is_ready: false, digests: self.options.digests },
            _ => Rules { is_ready: true, digests: self.parameters.digests },
        }
    }
}
