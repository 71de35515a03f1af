//! The receiving side: one pass over what came, which may be torn anywhere.

use nvme_spec::tcp::{C2hData, DIGEST, PduHeader, PduType, R2t};
use nvme_spec::{Cqe, Status};
use zerocopy::FromBytes;

use super::command::{Command, Direction, Slot, Transfer};
use super::pdu::{COMMON_HEADER, Frame, MAX_HEADER, Pdu};
use super::{Event, ProtocolError, State, TransferError, Wire};

/// The bytes of the header of `C2HData`.
const DATA_HEADER: u8 = 24;
const _: () = assert!(DATA_HEADER as usize == size_of::<C2hData>());

/// The data of a PDU that is coming in.
#[derive(Debug, Clone, Copy)]
struct Incoming {
    slot: Slot,
    /// Bytes of padding that come before it.
    pad: usize,
    /// Where in the command's data the next byte belongs.
    offset: u32,
    /// How many bytes are still to come.
    left: u32,
    /// What is there of the data's digest, and how much of it is to come.
    digest: [u8; DIGEST],
    digest_left: usize,
    crc: u32,
    /// The command has succeeded with this data.
    success: bool,
}

/// Where the next bytes of the stream belong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The command.
    pub slot: Slot,
    /// Where in its data.
    pub offset: u32,
    /// How many bytes there are at most.
    pub len: u32,
}

/// Where in a PDU the stream is.
#[derive(Debug)]
pub(super) struct Receiver {
    /// The header that is there in part.
    header: [u8; MAX_HEADER],
    have: usize,
    incoming: Option<Incoming>,
    /// The command that has succeeded with data which was taken: it is told next.
    succeeded: Option<Slot>,
}

impl Receiver {
    pub(super) const fn new() -> Self {
        Self { header: [0; MAX_HEADER], have: 0, incoming: None, succeeded: None }
    }

    pub(super) const fn is_within_pdu(&self) -> bool {
        self.have > 0 || self.incoming.is_some() || self.succeeded.is_some()
    }
}

impl Wire {
    /// Takes `input` up to the next thing that the caller has to do something about. Nothing, when all of it was taken:
    /// the next call goes on with what is received next.
    ///
    /// # Errors
    /// The controller broke the protocol, or ended the connection; now, or before. Send what
    /// [`output`](Self::output) has, if it goes at once, and close the connection.
    #[inline]
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Event<'a>>, ProtocolError> {
        if let State::Failed(error) = self.state {
            return Err(error);
        }
        if let Some(slot) = self.receiver.succeeded.take() {
            return Ok(self.succeed(slot));
        }
        if let Some(event) = self.take_whole_data(input) {
            return Ok(Some(event));
        }
        loop {
            if self.receiver.incoming.is_some() {
                let event = self.take_data(input);
                if event.is_some() || self.receiver.incoming.is_some() {
                    return Ok(event);
                }
            }
            match self.take_header(input)? {
                Taken::Nothing => return Ok(None),
                Taken::Event(event) => return Ok(Some(event)),
                Taken::Header => {}
            }
        }
    }

    /// Returns where the next bytes of the stream belong, if they are data whose header has been checked: then they may
    /// be received right there, and told by [`placed`](Self::placed). That is worth it for much data only.
    #[must_use]
    pub fn place(&self) -> Option<Place> {
        let incoming = self.receiver.incoming.as_ref()?;
        let is_next = self.state == State::Ready && incoming.pad == 0 && incoming.left > 0;
        let can = is_next && !self.table.is_detached(incoming.slot);
        can.then_some(Place { slot: incoming.slot, offset: incoming.offset, len: incoming.left })
    }

    /// So many bytes were received where [`place`](Self::place) said, no more than it said. `crc32c` is called if data
    /// has digests: with the digest of the PDU's data before them, for that with them. [`next`](Self::next) then goes
    /// on with what came behind them, and is to be called even if that is nothing.
    pub fn placed(&mut self, count: u32, crc32c: impl FnOnce(u32) -> u32) {
        let has_digest = self.parameters.digests.data;
        if let Some(incoming) = self.receiver.incoming.as_mut() {
            let count = count.min(incoming.left);
            incoming.left -= count;
            incoming.offset += count;
            if has_digest {
                incoming.crc = crc32c(incoming.crc);
            }
        }
    }

    /// Takes a `C2HData` that is there as a whole, has no digests, and is right in all that the longer way looks at, as
    /// most are. Takes nothing of another: what may be wrong with that is found out by the longer way.
    #[inline]
    fn take_whole_data<'a>(&mut self, input: &mut &'a [u8]) -> Option<Event<'a>> {
        let digests = self.parameters.digests;
        if !matches!(self.state, State::Ready) || digests.header || digests.data || self.receiver.is_within_pdu() {
            return None;
        }
        let (C2hData { header, cccid: cid, datao: offset, datal: length, .. }, rest) =
            C2hData::read_from_prefix(input).ok()?;
        let flags = header.flags;
        let is_header = header.kind == PduType::C2H_DATA
            && header.hlen == DATA_HEADER
            && header.pdo == DATA_HEADER
            && header.plen.checked_sub(DATA_HEADER.into()) == Some(length)
            && !flags.hdgstf()
            && !flags.ddgstf()
            && (flags.last_pdu() || !flags.success());
        if !is_header {
            return None;
        }
        let (bytes, later) = rest.split_at_checked(length as usize)?;
        let sent = self.output.sent_until();
        let (slot, command) = self.table.find(cid)?;
        let is_next = command.end <= sent
            && command.direction == Direction::ToHost
            && !command.is_detached()
            && !command.has_last
            && offset == command.done
            && length > 0
            && length <= command.len - command.done
            && length.is_multiple_of(4);
        if !is_next {
            return None;
        }
        command.done += length;
        command.has_last = flags.last_pdu();
        self.receiver.succeeded = flags.success().then_some(slot);
        *input = later;
        Some(Event::Data { slot, offset, bytes })
    }

    /// A command has succeeded with its last data.
    #[inline]
    fn succeed(&mut self, slot: Slot) -> Option<Event<'static>> {
        let command = self.table.get(slot)?;
        let result = outcome(command, Cqe { cid: command.cid, ..Cqe::of(Status::SUCCESS) });
        self.table.release(slot);
        Some(Event::Completed { slot, result })
    }

    /// Takes the next header, if it is there as a whole.
    #[inline]
    fn take_header(&mut self, input: &mut &[u8]) -> Result<Taken, ProtocolError> {
        let rules = self.rules();
        if self.receiver.have == 0
            && let Ok((common, _)) = PduHeader::read_from_prefix(input)
        {
            let frame = rules.frame(common).map_err(|error| self.fail(error, common_bytes(input)))?;
            if let Some((header, rest)) = input.split_at_checked(frame.len()) {
                *input = rest;
                return self.take_pdu(&frame, header);
            }
        }
        self.take_torn_header(input)
    }

    /// Does the same with a header that came in pieces.
    #[cold]
    fn take_torn_header(&mut self, input: &mut &[u8]) -> Result<Taken, ProtocolError> {
        if !self.receiver.fill(input, COMMON_HEADER) {
            return Ok(Taken::Nothing);
        }
        let header = self.receiver.header;
        let (common, _) = PduHeader::read_from_prefix(&header)
            .map_err(|_| self.fail(ProtocolError::Closed { within_pdu: true }, &[]))?;
        let frame = self.rules().frame(common).map_err(|error| self.fail(error, common_bytes(&header)))?;
        if !self.receiver.fill(input, frame.len()) {
            return Ok(Taken::Nothing);
        }
        self.receiver.have = 0;
        let header = self.receiver.header;
        self.take_pdu(&frame, header.get(..frame.len()).unwrap_or_default())
    }

    #[inline]
    fn take_pdu(&mut self, frame: &Frame, header: &[u8]) -> Result<Taken, ProtocolError> {
        let taken = match self.rules().parse(frame, header) {
            Ok(Pdu::Data(data)) => self.begin_data(frame, &data),
            Ok(Pdu::Response(cqe)) => self.complete(&cqe),
            Ok(Pdu::Request(r2t)) => self.take_r2t(&r2t),
            Ok(Pdu::IcResp(_)) if !self.output.is_empty() => Err(ProtocolError::EarlyIcResp),
            Ok(Pdu::IcResp(parameters)) => {
                self.parameters = parameters;
                self.state = State::Ready;
                Ok(Taken::Event(Event::Ready(parameters)))
            }
            Ok(Pdu::Terminate(request)) => {
                Err(ProtocolError::Terminated { fes: request.fes, fei: u32::from_le_bytes(request.fei) })
            }
            Err(error) => Err(error),
        };
        taken.map_err(|error| self.fail(error, header))
    }

    /// Returns the command that a PDU is for, all of which has been sent.
    #[inline]
    fn answered(&mut self, kind: PduType, cid: u16) -> Result<(Slot, &mut Command), ProtocolError> {
        let sent = self.output.sent_until();
        let Some((slot, command)) = self.table.find(cid) else {
            return Err(ProtocolError::UnknownCommand { kind, cid });
        };
        if command.end > sent {
            return Err(ProtocolError::AnsweredEarly { kind, cid });
        }
        Ok((slot, command))
    }

    #[inline]
    fn begin_data(&mut self, frame: &Frame, data: &C2hData) -> Result<Taken, ProtocolError> {
        let (kind, flags) = (frame.common.kind, frame.common.flags);
        let C2hData { cccid: cid, datao: offset, datal: length, .. } = *data;
        let has_digest = self.parameters.digests.data;
        let (slot, command) = self.answered(kind, cid)?;
        if command.direction != Direction::ToHost {
            return Err(ProtocolError::Direction { kind, cid });
        }
        if command.has_last {
            return Err(ProtocolError::DataAfterLast { cid });
        }
        let (next, len) = (command.done, command.len);
        if offset != next || length == 0 || length > len - next || !length.is_multiple_of(4) {
            return Err(ProtocolError::DataRange { kind, cid, offset, length, next, len });
        }
        if flags.success() && !flags.last_pdu() {
            return Err(ProtocolError::SuccessBeforeLast { cid });
        }
        command.done += length;
        command.has_last = flags.last_pdu();
        self.receiver.incoming = Some(Incoming {
            slot,
            pad: frame.pad(),
            offset,
            left: length,
            digest: [0; DIGEST],
            digest_left: if has_digest { DIGEST } else { 0 },
            crc: 0,
            success: flags.success(),
        });
        Ok(Taken::Header)
    }

    /// Takes data of the PDU that is coming in. Nothing, if more has to come, or if the PDU has ended without a
    /// completion.
    #[inline]
    fn take_data<'a>(&mut self, input: &mut &'a [u8]) -> Option<Event<'a>> {
        let has_digest = self.parameters.digests.data;
        let incoming = self.receiver.incoming.as_mut()?;
        incoming.pad -= skip(input, incoming.pad).len();
        if incoming.left > 0 {
            let bytes = skip(input, incoming.left as usize);
            if bytes.is_empty() {
                return None;
            }
            let (slot, offset) = (incoming.slot, incoming.offset);
            // No more than was left, which is a u32.
            let count = u32::try_from(bytes.len()).unwrap_or(incoming.left);
            incoming.left -= count;
            incoming.offset += count;
            if has_digest {
                incoming.crc = crc32c::crc32c_append(incoming.crc, bytes);
            }
            if incoming.left == 0 && !has_digest && !incoming.success {
                self.receiver.incoming = None;
            }
            if self.table.get(slot).is_some_and(|command| !command.is_detached()) {
                return Some(Event::Data { slot, offset, bytes });
            }
        }
        self.end_data(input)
    }

    /// Takes what follows the data, if all of that has come.
    fn end_data<'a>(&mut self, input: &mut &[u8]) -> Option<Event<'a>> {
        let has_digest = self.parameters.digests.data;
        let incoming = self.receiver.incoming.as_mut()?;
        if incoming.left > 0 {
            return None;
        }
        for byte in skip(input, incoming.digest_left) {
            incoming.digest.rotate_left(1);
            incoming.digest[DIGEST - 1] = *byte;
            incoming.digest_left -= 1;
        }
        if incoming.digest_left > 0 {
            return None;
        }
        let Incoming { slot, digest, crc, success, .. } = *incoming;
        self.receiver.incoming = None;
        let command = self.table.get(slot)?;
        command.is_corrupt |= has_digest && u32::from_le_bytes(digest) != crc;
        if success { self.succeed(slot) } else { None }
    }

    #[inline]
    fn complete(&mut self, cqe: &Cqe) -> Result<Taken, ProtocolError> {
        let (kind, cid, sent) = (PduType::CAPSULE_RESP, cqe.cid, self.output.sent_until());
        let (slot, command) = self.answered(kind, cid)?;
        if !command.is_sent(sent) {
            return Err(ProtocolError::AnsweredEarly { kind, cid });
        }
        let result = outcome(command, *cqe);
        self.table.release(slot);
        Ok(Taken::Event(Event::Completed { slot, result }))
    }

    fn take_r2t(&mut self, r2t: &R2t) -> Result<Taken, ProtocolError> {
        let (kind, max) = (PduType::R2T, self.options.max_r2t);
        let R2t { cccid: cid, ttag, r2to: offset, r2tl: length, .. } = *r2t;
        let sent = self.output.sent_until();
        let Some((slot, command)) = self.table.find(cid) else {
            return Err(ProtocolError::UnknownCommand { kind, cid });
        };
        // With a transfer outstanding, its data may wait to be sent; its capsule has been sent before it was asked for.
        if command.end > sent && command.requested == 0 {
            return Err(ProtocolError::AnsweredEarly { kind, cid });
        }
        if command.direction != Direction::FromHost {
            return Err(ProtocolError::Direction { kind, cid });
        }
        if command.is_detached() {
            return Err(ProtocolError::R2tDetached { cid });
        }
        let (next, len) = (command.requested, command.len);
        if offset != next || length == 0 || length > len - next || !length.is_multiple_of(4) {
            return Err(ProtocolError::DataRange { kind, cid, offset, length, next, len });
        }
        command.requested += length;
        if !self.table.push_transfer(slot, Transfer { ttag, offset, left: length }) {
            return Err(ProtocolError::R2tLimit { cid, max });
        }
        Ok(Taken::Header)
    }
}

/// What came of looking for a header.
enum Taken {
    /// It is not there as a whole.
    Nothing,
    /// It was taken, and the stream goes on.
    Header,
    Event(Event<'static>),
}

impl Receiver {
    /// Adds input to the header until it has `want` bytes, and returns whether it has.
    fn fill(&mut self, input: &mut &[u8], want: usize) -> bool {
        let bytes = skip(input, want.saturating_sub(self.have));
        if let Some(place) = self.header.get_mut(self.have..self.have + bytes.len()) {
            place.copy_from_slice(bytes);
            self.have += bytes.len();
        }
        self.have >= want
    }
}

/// Takes up to `count` bytes of the input.
#[inline]
fn skip<'a>(input: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (now, later) = input.split_at(count.min(input.len()));
    *input = later;
    now
}

/// Returns the bytes of a common header, of which more may be there.
fn common_bytes(bytes: &[u8]) -> &[u8] {
    bytes.get(..COMMON_HEADER).unwrap_or(bytes)
}

/// Returns what came of a command whose completion says this.
#[inline]
fn outcome(command: &Command, cqe: Cqe) -> Result<Cqe, TransferError> {
    if !cqe.status.is_success() {
        return Ok(cqe);
    }
    let done = if command.direction == Direction::FromHost { command.requested } else { command.done };
    if done < command.len {
        return Err(TransferError::Short { done, len: command.len });
    }
    if command.is_corrupt { Err(TransferError::DataDigest) } else { Ok(cqe) }
}
