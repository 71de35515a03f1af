//! What came from the client and is not handled yet: bytes, cut into messages, and the file descriptors in them.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use zerocopy::FromBytes;

use super::ProtocolError;
use super::proto::{HEADER, Header};

/// The most bytes to give to [`Session::receive`](super::Session::receive) at once.
pub const MAX_READ: usize = 64 << 10;

/// The capacity that an empty buffer keeps, in bytes: that of a register access. A client that is idle has no more.
const KEEP: usize = 256;

/// A message, whole.
pub(super) struct Message<'a> {
    pub(super) header: Header,
    pub(super) payload: &'a [u8],
    pub(super) fds: Vec<OwnedFd>,
}

/// The receiving side of a connection.
#[derive(Debug)]
pub(super) struct Input {
    buffer: Vec<u8>,
    /// Where in the buffer the next message begins.
    start: usize,
    /// How many bytes of the stream came before the next message.
    position: u64,
    /// Each with the place in the stream of the last byte of the read that brought it.
    fds: VecDeque<(u64, OwnedFd)>,
    max_fds: usize,
}

impl Input {
    /// `max_fds` is how many file descriptors a message may have.
    pub(super) fn new(max_fds: usize) -> Self {
        Self { buffer: Vec::new(), start: 0, position: 0, fds: VecDeque::new(), max_fds }
    }

    /// Takes what one read brought.
    ///
    /// The file descriptors are those of the *last* message in `bytes`: the kernel ends a read after the first piece
    /// of the stream that has some, but begins it with whatever came before. Given to the first message in `bytes`,
    /// they would be lost to a client that sends a mapping without a file and then one with.
    pub(super) fn push(&mut self, bytes: &[u8], fds: Vec<OwnedFd>, max_message: usize) -> Result<(), ProtocolError> {
        let waiting = self.len().saturating_add(bytes.len());
        let max = max_message + MAX_READ;
        if waiting > max {
            return Err(ProtocolError::TooMuchInput { bytes: waiting, max });
        }
        let (count, max) = (self.fds.len().saturating_add(fds.len()), 2 * self.max_fds);
        if count > max {
            return Err(ProtocolError::TooManyFds { count, max });
        }
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
        if !bytes.is_empty() {
            let last = self.position + (self.buffer.len() as u64 - 1);
            self.fds.extend(fds.into_iter().map(|fd| (last, fd)));
        }
        Ok(())
    }

    /// Returns the header of the next message, if it is there.
    pub(super) fn header(&self) -> Option<Header> {
        let waiting = self.buffer.get(self.start..).unwrap_or_default();
        Header::read_from_prefix(waiting).ok().map(|(header, _)| header)
    }

    /// Returns the next message, if it is there as a whole.
    pub(super) fn take(&mut self, max_message: usize) -> Result<Option<Message<'_>>, ProtocolError> {
        if self.len() == 0 {
            self.clear();
            return Ok(None);
        }
        let waiting = self.buffer.get(self.start..).unwrap_or_default();
        let Ok((header, _)) = Header::read_from_prefix(waiting) else { return Ok(None) };
        let size = header.msg_size as usize;
        if size < HEADER || size > max_message {
            return Err(ProtocolError::Size { size: header.msg_size, max: max_message });
        }
        let Some(payload) = waiting.get(HEADER..size) else { return Ok(None) };
        self.start += size;
        self.position += size as u64;
        let mut fds = Vec::new();
        while self.fds.front().is_some_and(|(last, _)| *last < self.position)
            && let Some((_, fd)) = self.fds.pop_front()
        {
            fds.push(fd);
        }
        Ok(Some(Message { header, payload, fds }))
    }

    /// Nothing waits: the buffer is empty from now on, and small.
    fn clear(&mut self) {
        self.start = 0;
        self.buffer.clear();
        if self.buffer.capacity() > KEEP {
            self.buffer = Vec::new();
        }
    }

    /// Returns how many bytes to read, so that the read ends where the next message's header or the message ends.
    pub(super) fn missing(&self) -> usize {
        let waiting = self.buffer.get(self.start..).unwrap_or_default();
        let whole = Header::read_from_prefix(waiting).map_or(HEADER, |(header, _)| header.msg_size as usize);
        whole.saturating_sub(waiting.len()).clamp(1, MAX_READ)
    }

    /// Returns how many bytes wait.
    pub(super) fn len(&self) -> usize {
        self.buffer.len().saturating_sub(self.start)
    }

    /// Returns whether more may come: not all that a message may have is there already.
    pub(super) fn has_room(&self, max_message: usize) -> bool {
        self.len() < max_message && self.fds.len() <= self.max_fds
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::{FromZeros, IntoBytes};

    use super::*;

    #[test]
    fn a_client_that_is_idle_has_no_large_buffer_whatever_it_has_sent() {
        const MAX: usize = 1 << 20;
        let mut input = Input::new(1);
        for size in [MAX, 64, 5000] {
            let msg_size = u32::try_from(size).expect("small");
            let header = Header { msg_size, ..Header::new_zeroed() };
            let mut message = header.as_bytes().to_vec();
            message.resize(size, 7);
            for piece in message.chunks(MAX_READ) {
                assert!(input.take(MAX).expect("no error").is_none());
                input.push(piece, Vec::new(), MAX).expect("there is room");
            }
            let payload = input.take(MAX).expect("no error").expect("a message").payload.to_vec();
            assert_eq!(payload, message[HEADER..]);
            assert!(input.take(MAX).expect("no error").is_none());
            assert!(input.buffer.capacity() <= KEEP && input.len() == 0, "{}", input.buffer.capacity());
        }
    }
}
