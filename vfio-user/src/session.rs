//! A session: what joins input, commands and output.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use zerocopy::IntoBytes;

use super::device::Device;
use super::info::{self, DeviceInfo};
use super::input::{Input, Message};
use super::output::{Chunk, Output};
use super::proto::{DmaUnmap, FLAG_ERROR, FLAG_TYPE, Header, TYPE_COMMAND, TYPE_REPLY, command, message};
use super::request::{self, IrqRequest, MapRequest, UnmapRequest};
use super::transfer::{self, Transfers};
use super::version::{self, Limits, Peer};
use super::{ProtocolError, access};

/// The most bytes of a message before the version is negotiated, and what may always come after.
const MIN_MAX_MESSAGE: usize = 8 << 10;

/// What a session leaves to its caller.
///
/// Those with a [`Token`] are answered by [`Session::reply`], in any order. The client may send more while they wait.
#[derive(Debug)]
pub enum Event {
    /// `DMA_MAP`. A mapping over another is answered with `EEXIST`.
    Map(Token, MapRequest),
    /// `DMA_UNMAP`.
    Unmap(Token, UnmapRequest),
    /// `DEVICE_SET_IRQS`.
    SetIrqs(Token, IrqRequest),
    /// `DEVICE_RESET`.
    Reset(Token),
    /// A write to configuration space that asks for something that takes time.
    ConfigWritten(Token),
    /// A [`Session::dma_read`] or [`Session::dma_write`] has ended.
    DmaDone {
        /// The caller's identifier of it.
        id: u64,
        /// What was read (nothing of a write), or an errno. What was written before an error stays written.
        result: Result<Vec<u8>, i32>,
    },
}

/// The right to answer one command. One that is dropped leaves the client waiting, and the session thinking that an
/// answer is due.
#[must_use = "the client waits for an answer"]
#[derive(Debug)]
pub struct Token {
    session: u64,
    header: Header,
    /// What a successful reply says.
    body: Vec<u8>,
}

/// How a command goes on.
enum Outcome {
    Reply(Vec<u8>, Option<Arc<OwnedFd>>),
    Map(MapRequest),
    Unmap(UnmapRequest, DmaUnmap),
    SetIrqs(IrqRequest),
    Reset,
    ConfigWritten(Vec<u8>),
}

impl Outcome {
    fn written((body, later): (Vec<u8>, bool)) -> Self {
        if later { Self::ConfigWritten(body) } else { Self::Reply(body, None) }
    }
}

/// The server's side of one client's connection.
///
/// The caller's loop, whenever the connection can be read or written, or something was answered: give what can be read
/// to [`receive`](Self::receive) while [`wants_input`](Self::wants_input); call [`next`](Self::next) until it has
/// nothing; send [`output`](Self::output) until there is none or the connection takes no more. If something was sent,
/// [`next`](Self::next) may have more to do.
#[derive(Debug)]
pub struct Session {
    input: Input,
    state: State,
}

/// All but the input, of which a message is borrowed while it is handled.
#[derive(Debug)]
struct State {
    /// Tells this session's tokens from those of others.
    serial: u64,
    info: DeviceInfo,
    limits: Limits,
    /// The client, once the version is negotiated.
    peer: Option<Peer>,
    output: Output,
    transfers: Transfers,
    /// How many tokens are out.
    pending: usize,
    failed: Option<ProtocolError>,
}

impl Session {
    /// Returns a session in which nothing was said yet.
    #[must_use]
    pub fn new(info: DeviceInfo) -> Self {
        Self::with_limits(info, Limits::default())
    }

    /// Returns the same, with other limits.
    #[must_use]
    pub fn with_limits(info: DeviceInfo, limits: Limits) -> Self {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let max_fds = limits.max_msg_fds.max(info.msix_vectors.into()) as usize;
        let state = State {
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
            output: Output::new(limits.max_output),
            info,
            limits,
            peer: None,
            transfers: Transfers::new(),
            pending: 0,
            failed: None,
        };
        Self { input: Input::new(max_fds), state }
    }

    /// Takes what one `recvmsg` brought: at most [`MAX_READ`](super::MAX_READ) bytes, and the file descriptors.
    ///
    /// File descriptors belong to the last message in `bytes`, which is so for every client that sends each message by
    /// its own `sendmsg`. A caller that reads no more than [`read_hint`](Self::read_hint) bytes at once has them right
    /// for any client.
    ///
    /// # Errors
    /// The session has failed, before or by this: more than may wait.
    pub fn receive(&mut self, bytes: &[u8], fds: Vec<OwnedFd>) -> Result<(), ProtocolError> {
        self.state.check()?;
        let taken = self.input.push(bytes, fds, self.state.max_message());
        self.state.keep(taken)
    }

    /// Handles what was received, until there is something for the caller to do, or nothing more, or so much to send
    /// that the client has to read first.
    ///
    /// # Errors
    /// The client broke the protocol: send what [`output`](Self::output) has, if it goes at once, and close the
    /// connection. Transfers that have not ended will not.
    pub fn next(&mut self, device: &mut impl Device) -> Result<Option<Event>, ProtocolError> {
        self.next_of(device, false)
    }

    /// Returns the same; or, with `only_questions`, handles only commands that change nothing, up to the first other
    /// one, and replies.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub fn next_of(&mut self, device: &mut impl Device, only_questions: bool) -> Result<Option<Event>, ProtocolError> {
        loop {
            if let Some((id, result)) = self.state.transfers.done() {
                return Ok(Some(Event::DmaDone { id, result }));
            }
            self.state.check()?;
            self.state.transfers.start(&mut self.state.output);
            if self.state.is_full() {
                return Ok(None);
            }
            if only_questions && self.input.header().is_some_and(|header| !is_harmless(&header)) {
                return Ok(None);
            }
            let message = self.input.take(self.state.max_message());
            let Some(message) = self.state.keep(message)? else { return Ok(None) };
            let handled = self.state.handle(message, device);
            if let Some(event) = self.state.keep(handled)? {
                return Ok(Some(event));
            }
        }
    }

    /// Returns whether to read from the client. Not while it does not read its replies, or while very many of its
    /// commands wait for an answer: it must not make this process keep ever more.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        self.state.failed.is_none() && !self.state.is_full() && self.input.has_room(self.state.max_message())
    }

    /// Returns how many bytes to read at once, so that a read never has parts of two messages in it: the rest of a
    /// header, or the rest of a message; at least 1, and at most [`MAX_READ`](super::MAX_READ).
    #[must_use]
    pub fn read_hint(&self) -> usize {
        self.input.missing()
    }

    /// Returns what to send next, by one `sendmsg`.
    #[must_use]
    pub fn output(&self) -> Option<Chunk<'_>> {
        self.state.output.chunk()
    }

    /// The first `n` bytes of the chunk were sent, and the file descriptors with them.
    pub fn sent(&mut self, n: usize) {
        self.state.output.sent(n);
    }

    /// Returns whether the client has negotiated the version.
    #[must_use]
    pub fn is_negotiated(&self) -> bool {
        self.state.peer.is_some()
    }

    /// Answers an event, with success or an errno. A token of another session is ignored: its client is gone.
    #[expect(clippy::needless_pass_by_value, reason = "an answer uses its token up")]
    pub fn reply(&mut self, token: Token, result: Result<(), i32>) {
        if token.session != self.state.serial {
            return;
        }
        self.state.pending = self.state.pending.saturating_sub(1);
        match result {
            Ok(()) => self.state.answer(&token.header, &token.body, None),
            Err(errno) => self.state.refuse(&token.header, errno),
        }
    }

    /// Reads memory of the client's that came without a file. An [`Event::DmaDone`] with this `id`, which no other
    /// transfer has, tells the end. At most 64 are in flight; of the others the one with the lowest `id` is next.
    pub fn dma_read(&mut self, id: u64, addr: u64, len: u32) {
        self.state.transfers.read(id, addr, len as usize);
        self.state.transfers.start(&mut self.state.output);
    }

    /// Writes memory of the client's that came without a file, likewise.
    pub fn dma_write(&mut self, id: u64, addr: u64, data: Vec<u8>) {
        self.state.transfers.write(id, addr, data);
        self.state.transfers.start(&mut self.state.output);
    }

    /// Asks for no more of a read or a write. Its end comes as ever: with `ECANCELED`, unless all of it was asked for
    /// already.
    pub fn dma_cancel(&mut self, id: u64) {
        self.state.transfers.cancel(id);
    }
}

/// Returns whether a message is a reply, or a command that changes nothing.
fn is_harmless(header: &Header) -> bool {
    header.flags & FLAG_TYPE != TYPE_COMMAND
        || matches!(
            header.command,
            command::DEVICE_GET_INFO
                | command::DEVICE_GET_REGION_INFO
                | command::DEVICE_GET_REGION_IO_FDS
                | command::DEVICE_GET_IRQ_INFO
                | command::REGION_READ
        )
}

impl State {
    fn check(&self) -> Result<(), ProtocolError> {
        self.failed.map_or(Ok(()), Err)
    }

    /// Remembers a failure: after it nothing of the stream can be trusted.
    fn keep<T>(&mut self, result: Result<T, ProtocolError>) -> Result<T, ProtocolError> {
        self.failed = result.as_ref().err().copied();
        result
    }

    fn max_message(&self) -> usize {
        match self.peer {
            None => MIN_MAX_MESSAGE,
            Some(_) => transfer::message_size(self.limits.max_data_xfer_size).max(MIN_MAX_MESSAGE),
        }
    }

    /// Returns whether to stop handling commands until the client has read, or some that wait were answered.
    fn is_full(&self) -> bool {
        self.output.is_full() || self.pending >= self.limits.max_pending
    }

    fn handle(&mut self, message: Message<'_>, device: &mut impl Device) -> Result<Option<Event>, ProtocolError> {
        let Message { header, payload, fds } = message;
        match header.flags & FLAG_TYPE {
            TYPE_COMMAND if self.peer.is_none() => self.negotiate(&header, payload).map(|()| None),
            TYPE_COMMAND => Ok(self.execute(&header, payload, fds, device)),
            TYPE_REPLY => self.transfers.reply(&header, payload).map(|()| None),
            kind => Err(ProtocolError::Type { kind }),
        }
    }

    fn negotiate(&mut self, header: &Header, payload: &[u8]) -> Result<(), ProtocolError> {
        let negotiated = match header.command {
            command::VERSION => version::negotiate(payload, &self.limits),
            command => Err(ProtocolError::NotNegotiated { command }),
        };
        let (peer, reply) = negotiated.inspect_err(|_| self.refuse(header, libc::EINVAL))?;
        self.peer = Some(peer);
        self.transfers.open(peer.max_data_xfer_size);
        self.answer(header, &reply, None);
        Ok(())
    }

    /// Carries a command out. What is wrong with it is told to the client: the stream stays in step.
    fn execute(
        &mut self,
        header: &Header,
        payload: &[u8],
        fds: Vec<OwnedFd>,
        device: &mut impl Device,
    ) -> Option<Event> {
        let outcome = match self.dispatch(header.command, payload, fds, device) {
            Ok(outcome) => outcome,
            Err(errno) => {
                self.refuse(header, errno);
                return None;
            }
        };
        match outcome {
            Outcome::Reply(body, fd) => {
                self.answer(header, &body, fd);
                None
            }
            Outcome::Map(request) => Some(Event::Map(self.token(header, Vec::new()), request)),
            Outcome::Unmap(request, echo) => Some(Event::Unmap(self.token(header, echo.as_bytes().to_vec()), request)),
            Outcome::SetIrqs(request) => Some(Event::SetIrqs(self.token(header, Vec::new()), request)),
            Outcome::Reset => Some(Event::Reset(self.token(header, Vec::new()))),
            Outcome::ConfigWritten(body) => Some(Event::ConfigWritten(self.token(header, body))),
        }
    }

    /// File descriptors that a command does not want are closed here.
    fn dispatch(
        &self,
        command: u16,
        payload: &[u8],
        fds: Vec<OwnedFd>,
        device: &mut impl Device,
    ) -> Result<Outcome, i32> {
        let max = self.limits.max_data_xfer_size;
        let body = match command {
            command::DMA_MAP => return request::map(payload, fds).map(Outcome::Map),
            command::DMA_UNMAP => return request::unmap(payload).map(|(request, echo)| Outcome::Unmap(request, echo)),
            command::DEVICE_SET_IRQS => match request::set_irqs(&self.info, payload, fds)? {
                Some(request) => return Ok(Outcome::SetIrqs(request)),
                None => Vec::new(),
            },
            command::DEVICE_RESET if payload.is_empty() => return Ok(Outcome::Reset),
            command::DEVICE_GET_REGION_INFO => {
                let can_map = self.peer.is_some_and(|peer| peer.max_msg_fds > 0);
                let (body, mapped) = info::region(&self.info, payload, can_map)?;
                return Ok(Outcome::Reply(body, mapped.then(|| device.doorbells())));
            }
            command::DEVICE_GET_INFO => info::device(payload)?,
            command::DEVICE_GET_REGION_IO_FDS => info::region_io_fds(&self.info, payload)?,
            command::DEVICE_GET_IRQ_INFO => info::irq(&self.info, payload)?,
            command::REGION_READ => access::read(&self.info, payload, max, device)?,
            command::REGION_WRITE => return access::write(&self.info, payload, max, device).map(Outcome::written),
            command::REGION_WRITE_MULTI => {
                return access::write_multi(&self.info, payload, device).map(Outcome::written);
            }
            // A reset with a payload, and a version that is negotiated already.
            command::DEVICE_RESET | command::VERSION => return Err(libc::EINVAL),
            _ => return Err(libc::ENOTSUP),
        };
        Ok(Outcome::Reply(body, None))
    }

    fn token(&mut self, header: &Header, body: Vec<u8>) -> Token {
        self.pending += 1;
        Token { session: self.serial, header: *header, body }
    }

    fn answer(&mut self, header: &Header, body: &[u8], fd: Option<Arc<OwnedFd>>) {
        if header.wants_reply() {
            let bytes = message(header.msg_id, header.command, TYPE_REPLY, 0, [body, &[]]);
            self.output.push(bytes, fd.into_iter().collect());
        }
    }

    fn refuse(&mut self, header: &Header, errno: i32) {
        let (msg_id, command) = (header.msg_id, header.command);
        log::debug!("vfio-user: command {command} (message {msg_id}) is refused: errno {errno}");
        if header.wants_reply() {
            let errno = u32::try_from(errno).ok().filter(|errno| *errno != 0).unwrap_or(libc::EIO.unsigned_abs());
            self.output.push(message(msg_id, command, TYPE_REPLY | FLAG_ERROR, errno, [&[], &[]]), Vec::new());
        }
    }
}
