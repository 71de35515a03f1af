//! What waits to be sent: headers, which lie side by side in one buffer, and data, which is only named.

use std::collections::VecDeque;

use super::Slot;

/// What to send next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chunk<'a> {
    /// These bytes.
    Bytes(&'a [u8]),
    /// Bytes of a command's data.
    Data {
        /// The command.
        slot: Slot,
        /// Where in its data they begin.
        offset: u32,
        /// How many there are.
        len: u32,
    },
}

#[derive(Debug, Clone, Copy)]
enum Piece {
    Bytes(usize),
    Data { slot: Slot, offset: u32, len: u32 },
}

/// The sending side of a connection. It allocates nothing after its start, as long as no more waits than it was made
/// for.
#[derive(Debug)]
pub(super) struct Output {
    /// The bytes of the pieces, one after the other.
    bytes: Vec<u8>,
    /// How many of them are sent.
    head: usize,
    pieces: VecDeque<Piece>,
    /// How many bytes of the stream have been put in, and have been sent.
    built: u64,
    sent: u64,
}

impl Output {
    /// At most `max_bytes` of headers and `max_pieces` wait.
    pub(super) fn new(max_bytes: usize, max_pieces: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(2 * max_bytes),
            head: 0,
            pieces: VecDeque::with_capacity(max_pieces),
            built: 0,
            sent: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Returns how much there is room for.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> (usize, usize) {
        (self.bytes.capacity(), self.pieces.capacity())
    }

    /// Returns how many bytes of headers wait.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.bytes.len() - self.head
    }

    /// Returns the end of what was put in, in the stream.
    pub(super) const fn built(&self) -> u64 {
        self.built
    }

    /// Returns the end of what is sent, in the stream.
    pub(super) const fn sent_until(&self) -> u64 {
        self.sent
    }

    #[inline]
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if self.bytes.len() + bytes.len() > self.bytes.capacity() && self.head > 0 {
            self.bytes.copy_within(self.head.., 0);
            self.bytes.truncate(self.bytes.len() - self.head);
            self.head = 0;
        }
        self.bytes.extend_from_slice(bytes);
        self.built += bytes.len() as u64;
        match self.pieces.back_mut() {
            Some(Piece::Bytes(len)) => *len += bytes.len(),
            _ => self.pieces.push_back(Piece::Bytes(bytes.len())),
        }
    }

    pub(super) fn push_data(&mut self, slot: Slot, offset: u32, len: u32) {
        self.built += u64::from(len);
        self.pieces.push_back(Piece::Data { slot, offset, len });
    }

    /// Returns what waits, in order.
    pub(super) fn chunks(&self) -> impl Iterator<Item = Chunk<'_>> {
        let mut rest = self.bytes.get(self.head..).unwrap_or_default();
        self.pieces.iter().map(move |piece| match *piece {
            Piece::Bytes(len) => {
                let (now, later) = rest.split_at(len.min(rest.len()));
                rest = later;
                Chunk::Bytes(now)
            }
            Piece::Data { slot, offset, len } => Chunk::Data { slot, offset, len },
        })
    }

    /// The first `count` bytes were sent. More than there are count as all.
    pub(super) fn sent(&mut self, count: usize) {
        let mut left = count;
        while left > 0
            && let Some(piece) = self.pieces.front_mut()
        {
            let taken = match piece {
                Piece::Bytes(len) => {
                    let taken = left.min(*len);
                    *len -= taken;
                    self.head += taken;
                    if *len == 0 {
                        self.pieces.pop_front();
                    }
                    taken
                }
                Piece::Data { offset, len, .. } => {
                    let now = u32::try_from(left).map_or(*len, |left| left.min(*len));
                    *offset += now;
                    *len -= now;
                    if *len == 0 {
                        self.pieces.pop_front();
                    }
                    now as usize
                }
            };
            left -= taken;
            self.sent += taken as u64;
        }
        if self.pieces.is_empty() {
            self.bytes.clear();
            self.head = 0;
        }
    }

    /// Forgets what waits.
    pub(super) fn clear(&mut self) {
        self.pieces.clear();
        self.bytes.clear();
        self.head = 0;
        self.built = self.sent;
    }
}
