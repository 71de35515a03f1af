//! A small host over a socket that waits: the wire of `nvme-host`, and no more around it than a test needs.

mod setup;

use std::io::{self, IoSlice, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use nvme_host::controller::{AdminCommand, AdminData, Controller, Shutdown, Step};
use nvme_host::tcp::{Chunk, Digests, Event, Options, Parameters, ProtocolError, Slot, Wire};
use nvme_spec::fabrics::ConnectData;
use nvme_spec::identify::{Cns, IdentifyNamespace};
use nvme_spec::tcp::ADMIN_IN_CAPSULE_DATA;
use nvme_spec::{Cqe, Sqe};
use zerocopy::{FromBytes, IntoBytes};

pub(crate) use self::setup::Outcome;
use self::setup::set_up;

/// How long a read or a write of the socket may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// What is received at once.
const INPUT: usize = 256 << 10;

/// A command's data.
pub(crate) enum Data {
    None,
    Read(usize),
    Write(Vec<u8>),
}

/// A queue pair.
pub(crate) struct Connection {
    stream: TcpStream,
    wire: Wire,
    pub(crate) parameters: Option<Parameters>,
    /// By the slots of the commands: their data, and how they ended.
    data: Vec<Vec<u8>>,
    outcomes: Vec<Option<Outcome>>,
    input: Vec<u8>,
}

fn broken(error: ProtocolError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl Connection {
    /// Connects, and sets the connection up.
    pub(crate) fn open(address: SocketAddr, options: Options) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let depth = usize::from(options.depth);
        let wire = Wire::new(options).map_err(io::Error::other)?;
        let (data, outcomes, input) = (vec![Vec::new(); depth], vec![None; depth], vec![0; INPUT]);
        let mut connection = Self { stream, wire, parameters: None, data, outcomes, input };
        while connection.parameters.is_none() {
            connection.turn()?;
        }
        Ok(connection)
    }

    /// Gives a command to the wire. Nothing is sent yet.
    pub(crate) fn start(&mut self, sqe: Sqe, data: Data) -> io::Result<Slot> {
        let (taken, data) = match data {
            Data::None => (self.wire.submit(sqe), Vec::new()),
            Data::Read(len) => (self.wire.submit_read(sqe, u32::try_from(len).unwrap_or(0)), vec![0; len]),
            Data::Write(data) => {
                let len = u32::try_from(data.len()).unwrap_or(0);
                (self.wire.submit_write(sqe, len, || crc32c::crc32c(&data)), data)
            }
        };
        let slot = taken.map_err(io::Error::other)?;
        self.data[slot.index()] = data;
        self.outcomes[slot.index()] = None;
        Ok(slot)
    }

    /// Waits for a command's end, and returns it with the data.
    pub(crate) fn finish(&mut self, slot: Slot) -> io::Result<(Outcome, Vec<u8>)> {
        loop {
            if let Some(outcome) = self.outcomes[slot.index()].take() {
                return Ok((outcome, std::mem::take(&mut self.data[slot.index()])));
            }
            self.turn()?;
        }
    }

    /// Carries out one command, which has to succeed.
    pub(crate) fn run(&mut self, sqe: Sqe, data: Data) -> io::Result<(Cqe, Vec<u8>)> {
        let slot = self.start(sqe, data)?;
        let (outcome, data) = self.finish(slot)?;
        let cqe = outcome.map_err(io::Error::other)?;
        if cqe.status.is_success() {
            return Ok((cqe, data));
        }
        Err(io::Error::other(format!("opcode {:#04x} ended with {}", sqe.opcode, cqe.status)))
    }

    /// Sends all that there is by vectors, and receives once.
    fn turn(&mut self) -> io::Result<()> {
        self.send()?;
        let count = self.stream.read(&mut self.input)?;
        if count == 0 {
            return Err(broken(self.wire.close()));
        }
        let mut input = &self.input[..count];
        loop {
            match self.wire.next(&mut input) {
                Ok(None) => break,
                Ok(Some(Event::Ready(parameters))) => self.parameters = Some(parameters),
                Ok(Some(Event::Data { slot, offset, bytes })) => {
                    let offset = offset as usize;
                    self.data[slot.index()][offset..offset + bytes.len()].copy_from_slice(bytes);
                }
                Ok(Some(Event::Completed { slot, result })) => self.outcomes[slot.index()] = Some(result),
                Err(error) => {
                    let _ = self.send();
                    return Err(broken(error));
                }
            }
        }
        Ok(())
    }

    fn send(&mut self) -> io::Result<()> {
        loop {
            let data = &self.data;
            let piece = |slot: Slot, offset: u32, len: u32| {
                let offset = offset as usize;
                &data[slot.index()][offset..offset + len as usize]
            };
            self.wire.build_transfers(|slot, offset, len| crc32c::crc32c(piece(slot, offset, len)));
            let chunks: Vec<IoSlice<'_>> = self
                .wire
                .output()
                .take(1024)
                .map(|chunk| match chunk {
                    Chunk::Bytes(bytes) => IoSlice::new(bytes),
                    Chunk::Data { slot, offset, len } => IoSlice::new(piece(slot, offset, len)),
                })
                .collect();
            if chunks.is_empty() {
                return Ok(());
            }
            let count = self.stream.write_vectored(&chunks)?;
            self.wire.sent(count);
        }
    }
}

/// A controller, with one I/O queue and one namespace.
pub(crate) struct Host {
    pub(crate) admin: Connection,
    pub(crate) io: Connection,
    pub(crate) controller: Controller,
    pub(crate) nsid: u32,
    pub(crate) block_size: usize,
    pub(crate) blocks: u64,
}

impl Host {
    /// Connects to a subsystem, enables its controller, and connects an I/O queue for so many commands.
    pub(crate) fn connect(address: SocketAddr, nqn: &str, nsid: u32, digests: Digests, depth: u16) -> io::Result<Self> {
        let options = Options { depth: 31, digests, max_r2t: 1, in_capsule_data: ADMIN_IN_CAPSULE_DATA };
        let mut admin = Connection::open(address, options)?;
        let (controller, connect) = set_up(nqn, |command| carry_out(&mut admin, command))?;
        if u32::from(depth) >= controller.queue_entries {
            return Err(io::Error::other(format!("the queues have {} entries at most", controller.queue_entries)));
        }
        let (_, namespace) = admin.run(Sqe::identify(Cns::NAMESPACE, nsid), Data::Read(4096))?;
        let namespace = IdentifyNamespace::read_from_bytes(&namespace).map_err(|_| io::ErrorKind::InvalidData)?;
        let in_capsule_data = controller.in_capsule_data;
        let mut io = Connection::open(address, Options { depth, digests, max_r2t: 4, in_capsule_data })?;
        let mut connect = ConnectData::read_from_bytes(&connect).map_err(|_| io::ErrorKind::InvalidData)?;
        connect.cntlid = controller.cntlid;
        io.run(Sqe::connect(1, depth, 0), Data::Write(connect.as_bytes().to_vec()))?;
        let format = namespace.lbaf[usize::from(namespace.lba_format_index())];
        Ok(Self { admin, io, controller, nsid, block_size: 1 << format.lbads(), blocks: namespace.nsze })
    }

    /// Shuts the controller down.
    pub(crate) fn shut_down(mut self) -> io::Result<()> {
        let (mut shutdown, begin) = (Shutdown::new(self.controller.cc, PATIENCE), Instant::now());
        loop {
            match shutdown.poll(begin.elapsed()).map_err(io::Error::other)? {
                Step::Done(()) => return Ok(()),
                Step::Wait(until) => thread::sleep(until.saturating_sub(begin.elapsed())),
                Step::Send(command) => {
                    let slot = self.admin.start(command.sqe, Data::None)?;
                    let (outcome, _) = self.admin.finish(slot)?;
                    shutdown.completed(begin.elapsed(), outcome).map_err(io::Error::other)?;
                }
            }
        }
    }
}

/// Carries a command of the set-up out.
fn carry_out(admin: &mut Connection, command: &AdminCommand) -> io::Result<(Outcome, Vec<u8>)> {
    let data = match &command.data {
        AdminData::None => Data::None,
        AdminData::ToHost(len) => Data::Read(*len as usize),
        AdminData::FromHost(data) => Data::Write(data.to_vec()),
    };
    let slot = admin.start(command.sqe, data)?;
    admin.finish(slot)
}
