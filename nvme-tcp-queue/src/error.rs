//! Why a connection has ended.

use std::net::SocketAddr;

use nvme_host::tcp::{OptionsError, ProtocolError};
use rustix::io::Errno;

/// Why there is no connection, or none any more. What was in flight has an unknown fate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// Options that no connection can have.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// There is no socket.
    #[error("cannot make a socket for {address}: {reason}")]
    Socket {
        /// The controller's address.
        address: SocketAddr,
        /// What the kernel says.
        reason: Errno,
    },
    /// The source address cannot be had.
    #[error("cannot connect to {address} from {source_address}: {reason}")]
    Source {
        /// The controller's address.
        address: SocketAddr,
        /// The address to connect from.
        source_address: SocketAddr,
        /// What the kernel says.
        reason: Errno,
    },
    /// The controller cannot be reached.
    #[error("cannot connect to {address}: {reason}")]
    Connect {
        /// The controller's address.
        address: SocketAddr,
        /// What the kernel says.
        reason: Errno,
    },
    /// The connection was not made in time.
    #[error("the connection was not made, and ICReq not sent, within {ticks} ticks")]
    ConnectTimedOut {
        /// The time that there was.
        ticks: u64,
    },
    /// The controller has not answered to `ICReq` in time.
    #[error("ICReq was not answered within {ticks} ticks")]
    InitializeTimedOut {
        /// The time that there was.
        ticks: u64,
    },
    /// The connection was refused, or is lost before it was made.
    #[error("the connection cannot be made: {reason}")]
    NotConnected {
        /// What the kernel says.
        reason: Errno,
    },
    /// Sending failed.
    #[error("cannot send: {reason}")]
    Send {
        /// What the kernel says.
        reason: Errno,
    },
    /// Receiving failed.
    #[error("cannot receive: {reason}")]
    Receive {
        /// What the kernel says.
        reason: Errno,
    },
    /// The controller broke the protocol, or has ended the connection.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// The owner has closed the connection.
    #[error("the connection was closed on this side")]
    Closed,
}
