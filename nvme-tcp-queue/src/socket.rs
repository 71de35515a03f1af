//! Sockets that never wait.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::sockopt::set_tcp_nodelay;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};

use crate::QueueError;

/// Begins to connect. That it is done shows in sending: until then nothing can be sent.
pub(crate) fn begin(address: SocketAddr, source: Option<SocketAddr>) -> Result<OwnedFd, QueueError> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let no_socket = |reason| QueueError::Socket { address, reason };
    let socket = socket_with(family, SocketType::STREAM, flags, None).map_err(no_socket)?;
    set_tcp_nodelay(&socket, true).map_err(no_socket)?;
    if let Some(source_address) = source {
        bind(&socket, &source_address).map_err(|reason| QueueError::Source { address, source_address, reason })?;
    }
    match connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(reason) => Err(QueueError::Connect { address, reason }),
    }
}

/// Returns whether a call has only to be made again later.
pub(crate) fn is_later(error: Errno) -> bool {
    matches!(error, Errno::AGAIN | Errno::INTR)
}
