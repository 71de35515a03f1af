//! A connection's socket: bytes and file descriptors, without waiting.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use vfio_user::Chunk;

/// The most file descriptors that come or go with one message: as many as the kernel lets through (`SCM_MAX_FD`).
const MAX_FDS: usize = 253;

/// What a read brought.
#[derive(Debug)]
pub(super) enum Received {
    /// So many bytes, and file descriptors.
    Some(usize, Vec<OwnedFd>),
    /// Nothing yet.
    Nothing,
    /// The client has gone.
    End,
}

/// Reads once.
///
/// # Errors
/// What the operating system says; `InvalidData` when file descriptors were cut off.
pub(super) fn receive(socket: &UnixStream, into: &mut [u8]) -> io::Result<Received> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = match recvmsg(socket, &mut [IoSliceMut::new(into)], &mut ancillary, flags) {
        Ok(received) => received,
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(Received::Nothing),
        Err(rustix::io::Errno::CONNRESET) => return Ok(Received::End),
        Err(error) => return Err(error.into()),
    };
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(files) = message {
            fds.extend(files);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "file descriptors were cut off: this process has too many",
        ));
    }
    if received.bytes == 0 { Ok(Received::End) } else { Ok(Received::Some(received.bytes, fds)) }
}

/// Writes once. Returns how many bytes went, 0 when the client does not read.
///
/// # Errors
/// What the operating system says.
pub(super) fn send(socket: &UnixStream, chunk: &Chunk<'_>) -> io::Result<usize> {
    let fds: Vec<BorrowedFd<'_>> = chunk.fds.iter().map(|fd| fd.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many file descriptors for one message"));
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    match sendmsg(socket, &[IoSlice::new(chunk.bytes)], &mut ancillary, flags) {
        Ok(count) => Ok(count),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(0),
        Err(error) => Err(error.into()),
    }
}
