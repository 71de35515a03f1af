//! What std's sockets lack.

use std::io::{self, Read as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::set_socket_linger;

/// How often a thread that waits for a socket looks whether it is to end. What ends it wakes it, too.
pub(crate) const LOOK: Duration = Duration::from_millis(100);

/// How a connection is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// By RST: what is in flight is lost.
    Reset,
    /// By FIN: what is in flight arrives.
    Close,
}

/// Waits until `socket` can be read, for at most [`LOOK`].
pub(crate) fn readable(socket: &impl AsFd) -> bool {
    let timeout = Timespec { tv_sec: 0, tv_nsec: LOOK.subsec_nanos().into() };
    let mut sockets = [PollFd::new(socket, PollFlags::IN)];
    poll(&mut sockets, Some(&timeout)).is_ok_and(|ready| ready > 0)
}

/// Reads what is there. Nothing, if nothing came within [`LOOK`]; an empty slice at the end of the stream.
pub(crate) fn read<'a>(mut stream: &TcpStream, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
    if !readable(stream) {
        return Ok(None);
    }
    match stream.read(buffer) {
        Ok(length) => Ok(Some(&buffer[..length])),
        Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Ends a connection, whoever else still holds the stream.
pub(crate) fn cut(stream: &TcpStream, how: Cut) {
    if how == Cut::Reset {
        let _ = set_socket_linger(stream, Some(Duration::ZERO));
        // This sends the RST at once, while `shutdown` would send a FIN before it.
        let _ = rustix::net::connect_unspec(stream);
    }
    let _ = stream.shutdown(Shutdown::Both);
}

/// Makes `stream` ready for a thread that writes to it.
pub(crate) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(LOOK))
}

/// Sets how many connections may wait to be accepted.
pub(crate) fn set_backlog(listener: &TcpListener, backlog: i32) {
    rustix::net::listen(listener, backlog).expect("a listener listens");
}

/// Locks what no panic leaves half changed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
