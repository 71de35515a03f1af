//! The queue pair: what is done at each poll.

use std::cell::Cell;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};

use nvme_host::tcp::{self, Chunk, Event, Parameters, Slot, StillSending, SubmitError, TransferError, Wire};
use nvme_spec::{Cqe, Sqe};
use rustix::net::{RecvFlags, recv};

use crate::memory::{self, CommandMemory, Cursor, Gather, Vector};
use crate::{QueueError, socket};

/// The most bytes that are received at a poll, besides data that is received in its place.
const INPUT: usize = 256 << 10;

/// From how many bytes on, data of which the header has come is received in its place.
const LEAST_IN_PLACE: u32 = 32 << 10;

/// The most system calls that send at a poll.
const MAX_SENDS: usize = 4;

/// What a queue is to be like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The wire.
    pub wire: tcp::Options,
    /// How many ticks there are until the connection is made and `ICReq` is sent.
    pub connect_ticks: u64,
    /// How many ticks the controller then has to answer.
    pub initialize_ticks: u64,
}

/// A command that has ended.
#[derive(Debug)]
pub struct Ended<M> {
    /// Its place, which is free again.
    pub slot: Slot,
    /// Its memory, which nothing touches any more.
    pub memory: M,
    /// The completion, of whose status success means that all data was transferred; or why it is none.
    pub result: Result<Cqe, TransferError>,
}

/// A command that was not taken, with its memory.
#[derive(Debug)]
pub struct Refused<M> {
    /// Why.
    pub reason: SubmitError,
    /// The memory.
    pub memory: M,
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    /// Until then, `ICReq` must be sent.
    Connecting(u64),
    /// Until then, it must be answered.
    Initializing(u64),
    Ready(Parameters),
    Failed(QueueError),
}

/// A command in flight.
struct Flight<M> {
    memory: M,
    at: Cell<Cursor>,
}

/// A queue pair. See the [crate] for what it does.
pub struct Queue<M: CommandMemory> {
    /// None, after the connection has ended.
    socket: Option<OwnedFd>,
    options: Options,
    stage: Stage,
    wire: Wire,
    /// By their slots.
    flights: Box<[Option<Flight<M>>]>,
    vector: Vector,
    input: Box<[u8]>,
}

impl<M: CommandMemory> Queue<M> {
    /// Begins to connect to a controller, from an address if one is given.
    ///
    /// # Errors
    /// The options or the addresses are wrong, or the kernel refuses at once.
    pub fn connect(
        address: SocketAddr,
        source: Option<SocketAddr>,
        options: Options,
        now: u64,
    ) -> Result<Self, QueueError> {
        let wire = Wire::new(options.wire)?;
        Ok(Self::over_wire(socket::begin(address, source)?, wire, options, now))
    }

    /// Goes on with a stream socket which is connected or being connected, over which nothing was sent. It must be one
    /// that does not wait.
    ///
    /// # Errors
    /// The options are wrong.
    pub fn over(socket: OwnedFd, options: Options, now: u64) -> Result<Self, QueueError> {
        Ok(Self::over_wire(socket, Wire::new(options.wire)?, options, now))
    }

    fn over_wire(socket: OwnedFd, wire: Wire, options: Options, now: u64) -> Self {
        Self {
            socket: Some(socket),
            options,
            stage: Stage::Connecting(now.saturating_add(options.connect_ticks)),
            wire,
            flights: (0..options.wire.depth).map(|_| None).collect(),
            vector: Vector::new(),
            input: vec![0; INPUT].into_boxed_slice(),
        }
    }

    /// Returns what the controller agreed to, once commands can be submitted.
    #[must_use]
    pub const fn parameters(&self) -> Option<Parameters> {
        match self.stage {
            Stage::Ready(parameters) => Some(parameters),
            _ => None,
        }
    }

    /// Returns whether a command can be submitted now.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.wire.has_room()
    }

    /// Takes a command without data. It is sent by the next [`poll`](Self::poll) or [`flush`](Self::flush).
    ///
    /// # Errors
    /// There is no place for it.
    #[inline]
    pub fn submit(&mut self, sqe: Sqe, memory: M) -> Result<Slot, Refused<M>> {
        let taken = self.wire.submit(sqe);
        self.keep(taken, memory)
    }

    /// Takes a command whose data comes from the controller, to fill the memory.
    ///
    /// # Errors
    /// There is no place for it, or the memory is none of whole dwords.
    #[inline]
    pub fn submit_read(&mut self, sqe: Sqe, memory: M) -> Result<Slot, Refused<M>> {
        let len = memory::total(memory.pieces()).unwrap_or(u32::MAX);
        let taken = self.wire.submit_read(sqe, len);
        self.keep(taken, memory)
    }

    /// Takes a command whose data goes to the controller, and is all of the memory. With data digests it must not
    /// change before the command has ended, or the controller finds the digest wrong.
    ///
    /// # Errors
    /// There is no place for it, or the memory is none of whole dwords.
    #[inline]
    pub fn submit_write(&mut self, sqe: Sqe, memory: M) -> Result<Slot, Refused<M>> {
        let len = memory::total(memory.pieces()).unwrap_or(u32::MAX);
        let taken = self.wire.submit_write(sqe, len, || memory::digest(&memory, &Cell::default(), 0, len, 0));
        self.keep(taken, memory)
    }

    #[inline]
    fn keep(&mut self, taken: Result<Slot, SubmitError>, memory: M) -> Result<Slot, Refused<M>> {
        match taken {
            Ok(slot) => {
                if let Some(place) = self.flights.get_mut(slot.index()) {
                    *place = Some(Flight { memory, at: Cell::default() });
                }
                Ok(slot)
            }
            Err(reason) => Err(Refused { reason, memory }),
        }
    }

    /// Receives once, calls `ended` for each command that has ended, and sends what waits. Returns whether anything
    /// moved.
    ///
    /// # Errors
    /// The connection has failed, now or before: see [`close`](Self::close).
    pub fn poll(&mut self, now: u64, ended: impl FnMut(Ended<M>)) -> Result<bool, QueueError> {
        self.advance(now, ended).map_err(|error| self.fail(error))
    }

    /// Sends what waits, and returns whether anything went. A poll does that, too.
    ///
    /// # Errors
    /// The connection has failed, now or before: see [`close`](Self::close).
    pub fn flush(&mut self) -> Result<bool, QueueError> {
        self.send().map(|count| count > 0).map_err(|error| self.fail(error))
    }

    /// Gives a command up, and returns its memory: nothing will be said of it any more. Its place stays taken until the
    /// controller has answered. No memory, if there is no such command.
    ///
    /// # Errors
    /// Its data is being sent, or has been asked for: only closing the connection takes it back.
    pub fn give_up(&mut self, slot: Slot) -> Result<Option<M>, StillSending> {
        self.wire.detach(slot)?;
        Ok(self.flights.get_mut(slot.index()).and_then(Option::take).map(|flight| flight.memory))
    }

    /// Closes the connection, if it has not failed before, and calls `unknown` for each command in flight: it may have
    /// been carried out, or may yet be.
    pub fn close(&mut self, mut unknown: impl FnMut(Slot, M)) {
        if !matches!(self.stage, Stage::Failed(_)) {
            self.fail(QueueError::Closed);
        }
        for slot in self.wire.in_flight() {
            if let Some(flight) = self.flights.get_mut(slot.index()).and_then(Option::take) {
                unknown(slot, flight.memory);
            }
        }
    }

    fn advance(&mut self, now: u64, ended: impl FnMut(Ended<M>)) -> Result<bool, QueueError> {
        let received = match self.stage {
            Stage::Failed(error) => return Err(error),
            // Nothing can come before it was asked for.
            Stage::Connecting(_) => 0,
            Stage::Initializing(_) | Stage::Ready(_) => self.receive(ended)?,
        };
        let sent = self.send()?;
        let Options { connect_ticks, initialize_ticks, .. } = self.options;
        match self.stage {
            Stage::Connecting(_) if self.wire.is_idle() => {
                self.stage = Stage::Initializing(now.saturating_add(initialize_ticks));
            }
            Stage::Connecting(by) if now >= by => return Err(QueueError::ConnectTimedOut { ticks: connect_ticks }),
            Stage::Initializing(by) if now >= by => {
                return Err(QueueError::InitializeTimedOut { ticks: initialize_ticks });
            }
            _ => {}
        }
        Ok(received + sent > 0)
    }

    /// Receives by one system call, and takes all that came. Returns how many bytes those were.
    fn receive(&mut self, mut ended: impl FnMut(Ended<M>)) -> Result<usize, QueueError> {
        let (placed, count) = match self.receive_bytes() {
            Err(error) if socket::is_later(error) => return Ok(0),
            Err(reason) => return Err(QueueError::Receive { reason }),
            Ok((0, 0)) => return Err(self.wire.close().into()),
            Ok(counts) => counts,
        };
        let mut input = self.input.get(..count).unwrap_or_default();
        while let Some(event) = self.wire.next(&mut input)? {
            match event {
                Event::Data { slot, offset, bytes } => {
                    if let Some(Some(flight)) = self.flights.get(slot.index()) {
                        memory::copy_in(&flight.memory, &flight.at, offset, bytes);
                    }
                }
                Event::Completed { slot, result } => {
                    if let Some(Flight { memory, .. }) = self.flights.get_mut(slot.index()).and_then(Option::take) {
                        ended(Ended { slot, memory, result });
                    }
                }
                Event::Ready(parameters) => self.stage = Stage::Ready(parameters),
            }
        }
        Ok(placed + count)
    }

    /// Returns how many bytes came right in their place, and how many into the input.
    fn receive_bytes(&mut self) -> rustix::io::Result<(usize, usize)> {
        let Some(socket) = &self.socket else { return Ok((0, 0)) };
        if let Some(place) = self.wire.place().filter(|place| place.len >= LEAST_IN_PLACE)
            && let Some(Some(Flight { memory, at })) = self.flights.get(place.slot.index())
        {
            let range = (place.offset, place.len);
            let (placed, count) =
                memory::receive_data(socket.as_fd(), &mut self.vector, (memory, at), range, &mut self.input)?;
            // At most as many as there are places for, which a u32 counts.
            let len = u32::try_from(placed).unwrap_or(place.len);
            self.wire.placed(len, |before| memory::digest(memory, at, place.offset, len, before));
            return Ok((placed, count));
        }
        let (_, count) = recv(socket, &mut *self.input, RecvFlags::DONTWAIT)?;
        Ok((0, count))
    }

    /// Sends what waits, by a few system calls at most. Returns how many bytes went.
    fn send(&mut self) -> Result<usize, QueueError> {
        let Some(socket) = &self.socket else {
            return match self.stage {
                Stage::Failed(error) => Err(error),
                _ => Err(QueueError::Closed),
            };
        };
        let (flights, mut total) = (&self.flights, 0);
        let flight = |slot: Slot| flights.get(slot.index()).and_then(Option::as_ref);
        for _ in 0..MAX_SENDS {
            self.wire.build_transfers(|slot, offset, len| {
                flight(slot).map_or(0, |Flight { memory, at }| memory::digest(memory, at, offset, len, 0))
            });
            if self.wire.is_idle() {
                break;
            }
            let mut gather = Gather::new(&mut self.vector);
            for chunk in self.wire.output() {
                let fits = match chunk {
                    Chunk::Bytes(bytes) => gather.add(bytes),
                    // A command whose data waits to be sent is in flight, and cannot be given up.
                    Chunk::Data { slot, offset, len } => {
                        flight(slot).is_some_and(|Flight { memory, at }| gather.add_data(memory, at, offset, len))
                    }
                };
                if !fits {
                    break;
                }
            }
            let wanted = gather.bytes();
            match gather.send(socket.as_fd()) {
                Ok(count) => {
                    self.wire.sent(count);
                    total += count;
                    if count < wanted {
                        break;
                    }
                }
                Err(error) if socket::is_later(error) => break,
                Err(reason) if matches!(self.stage, Stage::Connecting(_)) => {
                    return Err(QueueError::NotConnected { reason });
                }
                Err(reason) => return Err(QueueError::Send { reason }),
            }
        }
        Ok(total)
    }

    /// Ends the connection. A controller that broke the protocol is told, if that goes at once.
    #[cold]
    fn fail(&mut self, error: QueueError) -> QueueError {
        if let Stage::Failed(error) = self.stage {
            return error;
        }
        if matches!(error, QueueError::Protocol(_)) {
            // It has ended anyway.
            let _ = self.send();
        }
        self.wire.close();
        self.socket = None;
        self.stage = Stage::Failed(error);
        error
    }
}
