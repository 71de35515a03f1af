//! What waits to be sent to the client.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// What a queued message costs besides its bytes, so that very many short ones are bounded too.
const OVERHEAD: usize = 64;

/// What to send next: never more than one message, by one `sendmsg`.
///
/// Clients read a header and take the file descriptors that came with it as that message's: QEMU refuses those that
/// came with another's, and a header that came in two pieces. The kernel splits no write that begins with the header
/// within it.
#[derive(Debug, Clone, Copy)]
pub struct Chunk<'a> {
    /// The bytes, never none.
    pub bytes: &'a [u8],
    /// The file descriptors to send with the first of them.
    pub fds: &'a [Arc<OwnedFd>],
}

/// The sending side of a connection.
#[derive(Debug)]
pub(super) struct Output {
    messages: VecDeque<(Vec<u8>, Vec<Arc<OwnedFd>>)>,
    /// How many bytes of the first message are sent.
    sent: usize,
    /// What all messages cost, in bytes.
    cost: usize,
    limit: usize,
}

impl Output {
    pub(super) fn new(limit: usize) -> Self {
        Self { messages: VecDeque::new(), sent: 0, cost: 0, limit }
    }

    /// Queues a message.
    pub(super) fn push(&mut self, bytes: Vec<u8>, fds: Vec<Arc<OwnedFd>>) {
        self.cost += bytes.len() + OVERHEAD;
        self.messages.push_back((bytes, fds));
    }

    /// Returns whether so much waits that nothing should be done that makes more of it.
    pub(super) fn is_full(&self) -> bool {
        self.cost >= self.limit
    }

    pub(super) fn chunk(&self) -> Option<Chunk<'_>> {
        let (bytes, fds) = self.messages.front()?;
        let fds = if self.sent == 0 { fds.as_slice() } else { &[] };
        Some(Chunk { bytes: bytes.get(self.sent..)?, fds })
    }

    pub(super) fn sent(&mut self, n: usize) {
        let Some((bytes, _)) = self.messages.front() else { return };
        self.sent = self.sent.saturating_add(n);
        if self.sent >= bytes.len() {
            self.cost = self.cost.saturating_sub(bytes.len() + OVERHEAD);
            self.messages.pop_front();
            self.sent = 0;
        }
    }
}
