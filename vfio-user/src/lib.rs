//! The vfio-user protocol, version 0.1: the server's side of a session with one client, sans-IO.
//!
//! A [`Session`] is fed with the bytes and file descriptors that came from the client, answers by itself what needs
//! nobody else, asks a [`Device`] for register accesses, hands out [`Event`]s for the rest, and holds the messages to
//! send. It knows no socket, no clock and no thread. The module `client` (a feature) builds the messages of the
//! other side.
//!
//! The rules were written from the vfio-user specification (0.9.2), whose sections are named by their commands.
//!
//! # Bounds
//! The client is hostile. It never makes the session hold more than one message of the greatest size and one read of
//! input, the file descriptors of two messages, [`Limits::max_output`] bytes of output and one message more, and the
//! short answers of as many commands as may wait: 4096. A client that does not read its
//! replies is not read from; see [`Session::wants_input`]. Transfers that wait are the caller's to bound.
//!
//! # What it does not implement
//! Live migration and dirty-page tracking (`DEVICE_FEATURE`, `MIG_DATA_READ`, `MIG_DATA_WRITE`, the older
//! `DIRTY_PAGES`, and unmapping with a dirty bitmap): `ENOTSUP`. A second socket for the server's commands
//! (`twin_socket`): never offered. I/O by ioeventfd or ioregionfd: a region has none.
#![forbid(unsafe_code)]

#[cfg(any(test, feature = "client"))]
pub mod client;

mod access;
mod device;
mod info;
mod input;
mod output;
mod proto;
mod request;
mod session;
mod transfer;
mod version;

#[cfg(test)]
mod tests;

pub use device::Device;
pub use info::DeviceInfo;
pub use input::MAX_READ;
pub use output::Chunk;
pub use proto::command;
pub use request::{IrqAction, IrqData, IrqKind, IrqRequest, MapRequest, UnmapRequest};
pub use session::{Event, Session, Token};
pub use version::Limits;

/// What a client did that ends its session: the connection must be closed.
///
/// What was queued to be sent may be sent before: it tells the client why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// Another command came before the version was negotiated.
    #[error("the first message must be VERSION (command 1), got command {command}")]
    NotNegotiated {
        /// The command that came.
        command: u16,
    },
    /// A major version that this server does not speak.
    #[error("the client's vfio-user version must be 0.0 or 0.1, got {major}.{minor}")]
    Version {
        /// The major version proposed.
        major: u16,
        /// The minor version proposed.
        minor: u16,
    },
    /// The client's version message is too short, is not JSON, or proposes what cannot be.
    #[error("the client's VERSION message is not valid: {reason}")]
    Capabilities {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A message that is shorter than its header, or longer than any that may come.
    #[error("a message must have 16 to {max} bytes, got one of {size}")]
    Size {
        /// The size in the header, in bytes.
        size: u32,
        /// The most that a message may have now, in bytes.
        max: usize,
    },
    /// A message that is neither a command nor a reply.
    #[error("a message's type must be 0 (command) or 1 (reply), got {kind}")]
    Type {
        /// The type in the header's flags.
        kind: u32,
    },
    /// A reply to a command that was not sent, or was answered already.
    #[error("a reply to message {msg_id}, command {command}, which was not sent")]
    UnexpectedReply {
        /// The identifier of the message that it would answer.
        msg_id: u16,
        /// The command that it would answer.
        command: u16,
    },
    /// File descriptors without the messages that they belong to.
    #[error("at most {max} file descriptors may come before their messages are complete, got {count}")]
    TooManyFds {
        /// How many wait.
        count: usize,
        /// How many may wait.
        max: usize,
    },
    /// Input was pushed in although [`Session::wants_input`] said no.
    #[error("at most {max} bytes of input may wait, got {bytes}")]
    TooMuchInput {
        /// How many bytes would wait.
        bytes: usize,
        /// How many may wait.
        max: usize,
    },
}
