//! The server's own commands: `DMA_READ` and `DMA_WRITE`, for memory that came without a file.

use std::collections::{BTreeMap, VecDeque};

use zerocopy::IntoBytes;

use super::ProtocolError;
use super::output::Output;
use super::proto::{DmaAccess, FLAG_ERROR, HEADER, Header, TYPE_COMMAND, command, message, parse};

/// The most transfers that the client is asked for at once. The others wait their turn.
const MAX_ACTIVE: usize = 64;

/// The most bytes in one message, so that what waits to be sent stays bounded.
const MAX_PIECE: u32 = 128 << 10;

/// What the caller asked for: done in pieces, one message after the other.
#[derive(Debug)]
struct Transfer {
    id: u64,
    addr: u64,
    len: usize,
    /// How many bytes are transferred.
    done: usize,
    write: bool,
    /// Nobody wants more of it than what has been asked for already.
    cancelled: bool,
    /// What to write, or what was read until now.
    data: Vec<u8>,
}

impl Transfer {
    fn command(&self) -> u16 {
        if self.write { command::DMA_WRITE } else { command::DMA_READ }
    }

    /// Returns the piece that is next, or for which a reply is awaited.
    fn piece(&self, max_piece: usize) -> (DmaAccess, &[u8]) {
        let count = (self.len - self.done).min(max_piece);
        let data = if self.write { self.data.get(self.done..self.done + count).unwrap_or_default() } else { &[] };
        (DmaAccess { addr: self.addr + self.done as u64, count: count as u64 }, data)
    }

    /// What a reply repeats, and the data behind it. The written specification has a count of 4 bytes in the reply to
    /// `DMA_WRITE`, and clients have one of 8.
    fn parse_reply<'a>(&self, payload: &'a [u8]) -> Result<(DmaAccess, &'a [u8]), i32> {
        if self.write && payload.len() == size_of::<[u32; 3]>() {
            let ([low, high, count], rest) = parse::<[u32; 3]>(payload).map_err(|_| libc::EPROTO)?;
            return Ok((DmaAccess { addr: u64::from(high) << 32 | u64::from(low), count: count.into() }, rest));
        }
        parse::<DmaAccess>(payload).map_err(|_| libc::EPROTO)
    }

    /// Takes the reply to a piece, or tells the error.
    fn take(&mut self, max_piece: usize, header: &Header, payload: &[u8]) -> Result<(), i32> {
        if header.flags & FLAG_ERROR != 0 {
            return Err(i32::try_from(header.error_no).ok().filter(|errno| *errno > 0).unwrap_or(libc::EIO));
        }
        let (asked, _) = self.piece(max_piece);
        let count = self.len.min(self.done + max_piece) - self.done;
        let (access, data) = self.parse_reply(payload)?;
        if access != asked {
            return Err(libc::EPROTO);
        }
        if !self.write {
            if data.len() != count {
                return Err(libc::EPROTO);
            }
            self.data.extend_from_slice(data);
        }
        self.done += count;
        Ok(())
    }
}

/// All transfers of a session.
#[derive(Debug)]
pub(super) struct Transfers {
    /// Those that are not asked for, by identifier: the one with the lowest is next. There may be many thousands, and
    /// each may be cancelled by itself.
    waiting: BTreeMap<u64, Transfer>,
    /// Each with the identifier of the message that asked for its piece.
    active: Vec<(u16, Transfer)>,
    next_msg_id: u16,
    max_piece: usize,
    done: VecDeque<(u64, Result<Vec<u8>, i32>)>,
}

impl Transfers {
    pub(super) fn new() -> Self {
        let (waiting, active, done) = (BTreeMap::new(), Vec::new(), VecDeque::new());
        Self { waiting, active, next_msg_id: 0, max_piece: 0, done }
    }

    /// The client is there and takes this much data in one message.
    pub(super) fn open(&mut self, max_data_xfer_size: u32) {
        self.max_piece = max_data_xfer_size.min(MAX_PIECE) as usize;
    }

    pub(super) fn read(&mut self, id: u64, addr: u64, len: usize) {
        self.add(Transfer { id, addr, len, done: 0, write: false, cancelled: false, data: Vec::new() });
    }

    pub(super) fn write(&mut self, id: u64, addr: u64, data: Vec<u8>) {
        self.add(Transfer { id, addr, len: data.len(), done: 0, write: true, cancelled: false, data });
    }

    fn add(&mut self, transfer: Transfer) {
        if self.max_piece == 0 {
            self.done.push_back((transfer.id, Err(libc::ENOTCONN)));
        } else if transfer.addr.checked_add(transfer.len as u64).is_none() {
            self.done.push_back((transfer.id, Err(libc::EFAULT)));
        } else if transfer.len == 0 {
            self.done.push_back((transfer.id, Ok(Vec::new())));
        } else {
            self.waiting.insert(transfer.id, transfer);
        }
    }

    /// Asks for what waits, as far as there is room.
    pub(super) fn start(&mut self, output: &mut Output) {
        while self.active.len() < MAX_ACTIVE && !output.is_full() {
            let Some((_, transfer)) = self.waiting.pop_first() else { return };
            self.ask(transfer, output);
        }
    }

    fn ask(&mut self, transfer: Transfer, output: &mut Output) {
        // Ends: fewer identifiers are in use than there are.
        while self.active.iter().any(|(msg_id, _)| *msg_id == self.next_msg_id) {
            self.next_msg_id = self.next_msg_id.wrapping_add(1);
        }
        let msg_id = self.next_msg_id;
        self.next_msg_id = msg_id.wrapping_add(1);
        let (access, data) = transfer.piece(self.max_piece);
        output.push(message(msg_id, transfer.command(), TYPE_COMMAND, 0, [access.as_bytes(), data]), Vec::new());
        self.active.push((msg_id, transfer));
    }

    /// Asks for no more of a transfer. It ends at once if nothing of it is being asked for, else with the reply.
    pub(super) fn cancel(&mut self, id: u64) {
        if self.waiting.remove(&id).is_some() {
            self.done.push_back((id, Err(libc::ECANCELED)));
        } else if let Some((_, transfer)) = self.active.iter_mut().find(|(_, transfer)| transfer.id == id) {
            transfer.cancelled = true;
        }
    }

    /// Takes a reply of the client's.
    pub(super) fn reply(&mut self, header: &Header, payload: &[u8]) -> Result<(), ProtocolError> {
        let (msg_id, command) = (header.msg_id, header.command);
        let asked = |(id, transfer): &(u16, Transfer)| *id == msg_id && transfer.command() == command;
        let Some(at) = self.active.iter().position(asked) else {
            return Err(ProtocolError::UnexpectedReply { msg_id, command });
        };
        let (_, mut transfer) = self.active.swap_remove(at);
        match transfer.take(self.max_piece, header, payload) {
            Err(errno) => self.done.push_back((transfer.id, Err(errno))),
            Ok(()) if transfer.done < transfer.len && transfer.cancelled => {
                self.done.push_back((transfer.id, Err(libc::ECANCELED)));
            }
            Ok(()) if transfer.done < transfer.len => {
                self.waiting.insert(transfer.id, transfer);
            }
            Ok(()) if transfer.write => self.done.push_back((transfer.id, Ok(Vec::new()))),
            Ok(()) => self.done.push_back((transfer.id, Ok(transfer.data))),
        }
        Ok(())
    }

    /// Returns the next transfer that has ended.
    pub(super) fn done(&mut self) -> Option<(u64, Result<Vec<u8>, i32>)> {
        self.done.pop_front()
    }
}

/// Returns the size of a message with this much data in it, in bytes.
pub(super) const fn message_size(data: u32) -> usize {
    HEADER + size_of::<DmaAccess>() + data as usize
}
