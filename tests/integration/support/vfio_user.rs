//! A vfio-user client by hand: it can say what no well-behaved client says. Protocol 0.1; the names are the protocol's.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType, socket_with,
};

use super::secs;

/// How long a client waits for a reply: as long as QEMU does.
pub(crate) const REPLY_LIMIT: Duration = secs(5);

pub(crate) const VERSION: u16 = 1;
pub(crate) const DMA_MAP: u16 = 2;
pub(crate) const DMA_UNMAP: u16 = 3;
pub(crate) const DEVICE_GET_INFO: u16 = 4;
pub(crate) const DEVICE_GET_REGION_INFO: u16 = 5;
pub(crate) const DEVICE_GET_IRQ_INFO: u16 = 7;
pub(crate) const DEVICE_SET_IRQS: u16 = 8;
pub(crate) const REGION_READ: u16 = 9;
pub(crate) const REGION_WRITE: u16 = 10;
pub(crate) const DMA_READ: u16 = 11;
pub(crate) const DMA_WRITE: u16 = 12;
pub(crate) const DEVICE_RESET: u16 = 13;

/// The region of BAR0, and that of the configuration space (VFIO's numbers for PCI).
pub(crate) const BAR0: u32 = 0;
pub(crate) const CONFIG: u32 = 7;
/// The interrupt index of MSI-X.
pub(crate) const MSIX: u32 = 2;

const HEADER: usize = 16;
const TYPE_REPLY: u32 = 1;
const ERROR: u32 = 1 << 5;
const MAX_FDS: usize = 16;

/// Why a command did not work.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The server answered this errno.
    Refused(u32),
    /// There was no answer.
    Lost(io::Error),
}

impl Failure {
    /// Returns the errno that the server answered.
    pub(crate) fn errno(&self) -> Option<u32> {
        if let Self::Refused(errno) = self { Some(*errno) } else { None }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(errno) => write!(f, "refused with errno {errno}"),
            Self::Lost(error) => write!(f, "no answer: {error}"),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Lost(error)
    }
}

/// A message that came.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) id: u16,
    pub(crate) command: u16,
    pub(crate) flags: u32,
    pub(crate) errno: u32,
    pub(crate) payload: Vec<u8>,
    pub(crate) fds: Vec<OwnedFd>,
}

impl Message {
    pub(crate) fn is_reply(&self) -> bool {
        self.flags & 0xf == TYPE_REPLY
    }
}

/// Memory in a file that a test reads and writes by system calls.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) file: File,
}

impl Memory {
    pub(crate) fn new(bytes: u64) -> Self {
        let file = File::from(memfd_create("guest", MemfdFlags::CLOEXEC).expect("a memfd can be had"));
        file.set_len(bytes).expect("a memfd can grow");
        Self { file }
    }

    pub(crate) fn read<const N: usize>(&self, offset: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.file.read_exact_at(&mut bytes, offset).expect("the memory is there");
        bytes
    }

    pub(crate) fn read_vec(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, offset).expect("the memory is there");
        bytes
    }

    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) {
        self.file.write_all_at(bytes, offset).expect("the memory is there");
    }
}

/// Builds a message: header and payload.
pub(crate) fn message(id: u16, command: u16, payload: &[u8]) -> Vec<u8> {
    let size = u32::try_from(HEADER + payload.len()).expect("a message is not as long as that");
    let mut bytes = header(id, command, size);
    bytes.extend_from_slice(payload);
    bytes
}

/// Returns a command's header with any size in it.
pub(crate) fn header(id: u16, command: u16, size: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size.min(1 << 20) as usize);
    bytes.extend(id.to_le_bytes());
    bytes.extend(command.to_le_bytes());
    bytes.extend(size.to_le_bytes());
    bytes.extend([0; 8]);
    bytes
}

/// Returns the payload of VERSION.
pub(crate) fn version(major: u16, minor: u16, capabilities: &str) -> Vec<u8> {
    let mut payload = [major.to_le_bytes(), minor.to_le_bytes()].concat();
    payload.extend(capabilities.as_bytes());
    payload.push(0);
    payload
}

/// Returns the payload of `DMA_MAP`, for reading and writing.
pub(crate) fn dma_map(addr: u64, size: u64, offset: u64) -> Vec<u8> {
    let mut payload = [32_u32.to_le_bytes(), 3_u32.to_le_bytes()].concat();
    payload.extend([offset, addr, size].map(u64::to_le_bytes).concat());
    payload
}

/// Returns the payload of `DMA_UNMAP`.
pub(crate) fn dma_unmap(addr: u64, size: u64) -> Vec<u8> {
    let mut payload = [24_u32.to_le_bytes(), 0_u32.to_le_bytes()].concat();
    payload.extend([addr, size].map(u64::to_le_bytes).concat());
    payload
}

/// Returns the payload of `REGION_READ`, and the beginning of that of `REGION_WRITE`.
pub(crate) fn region_access(region: u32, offset: u64, count: u32) -> Vec<u8> {
    let mut payload = offset.to_le_bytes().to_vec();
    payload.extend([region, count].map(u32::to_le_bytes).concat());
    payload
}

/// Returns the payload of `DEVICE_SET_IRQS` with eventfds as data.
fn set_eventfds(index: u32, start: u32, count: u32) -> Vec<u8> {
    const DATA_EVENTFD: u32 = 1 << 2;
    const ACTION_TRIGGER: u32 = 1 << 5;
    [20, DATA_EVENTFD | ACTION_TRIGGER, index, start, count].map(u32::to_le_bytes).concat()
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    let field = bytes.get(offset..offset + 4).and_then(|field| field.try_into().ok());
    u32::from_le_bytes(field.expect("the reply is long enough"))
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    let field = bytes.get(offset..offset + 8).and_then(|field| field.try_into().ok());
    u64::from_le_bytes(field.expect("the reply is long enough"))
}

/// Connects to the socket in `dir`, for as long as a client waits for anything: a server that accepts nobody would have
/// it wait for ever.
pub(crate) fn connect(dir: &Path) -> io::Result<UnixStream> {
    let socket =
        socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    let address = SocketAddrUnix::new(dir.join("cntrl"))?;
    let start = Instant::now();
    while let Err(error) = rustix::net::connect(&socket, &address) {
        if error != Errno::AGAIN || start.elapsed() > REPLY_LIMIT {
            return Err(error.into());
        }
        sleep(Duration::from_millis(1));
    }
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// A connection to a controller's socket.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) stream: UnixStream,
    last_id: u16,
    /// What the server may read and write by messages: where, and the file.
    served: Option<(u64, Memory)>,
    /// It does not answer what the server asks.
    mute: bool,
    /// Replies that came while another was waited for.
    early: VecDeque<Message>,
}

impl Client {
    /// Connects to the socket in `dir`, and says nothing.
    pub(crate) fn connect(dir: &Path) -> io::Result<Self> {
        let stream = connect(dir)?;
        stream.set_read_timeout(Some(REPLY_LIMIT))?;
        stream.set_write_timeout(Some(REPLY_LIMIT))?;
        Ok(Self { stream, last_id: 0, served: None, mute: false, early: VecDeque::new() })
    }

    /// Connects and agrees on the version.
    pub(crate) fn negotiated(dir: &Path) -> Result<Self, Failure> {
        let mut client = Self::connect(dir)?;
        client.negotiate()?;
        Ok(client)
    }

    /// Agrees on the version; returns the server's answer.
    pub(crate) fn negotiate(&mut self) -> Result<Vec<u8>, Failure> {
        let capabilities = r#"{"capabilities":{"max_msg_fds":8,"max_data_xfer_size":1048576}}"#;
        self.call(VERSION, &version(0, 1, capabilities), &[])
    }

    /// Lets the server read and write `memory`, from `addr` on, by messages.
    pub(crate) fn serve(&mut self, addr: u64, memory: Memory) {
        self.served = Some((addr, memory));
    }

    /// Answers nothing that the server asks from now on, or answers again.
    pub(crate) fn set_mute(&mut self, mute: bool) {
        self.mute = mute;
    }

    /// Returns what [`Self::serve`] got.
    pub(crate) fn served(&self) -> &Memory {
        &self.served.as_ref().expect("memory is served").1
    }

    /// Sends bytes, with descriptors.
    pub(crate) fn send_bytes(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(fds)), "{} descriptors are too many", fds.len());
        }
        let mut sent = rustix::net::sendmsg(&self.stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
        while sent < bytes.len() {
            sent += rustix::net::send(&self.stream, &bytes[sent..], SendFlags::NOSIGNAL)?;
        }
        Ok(())
    }

    /// Sends a command; returns its id.
    pub(crate) fn send(&mut self, command: u16, payload: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<u16> {
        self.last_id = self.last_id.wrapping_add(1);
        self.send_bytes(&message(self.last_id, command, payload), fds)?;
        Ok(self.last_id)
    }

    /// Waits for a message, within `limit`.
    pub(crate) fn receive(&mut self, limit: Duration) -> io::Result<Message> {
        self.stream.set_read_timeout(Some(limit))?;
        let mut header = [0; HEADER];
        let (got, fds) = self.receive_fds(&mut header)?;
        if got == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.stream.read_exact(&mut header[got..])?;
        let word = |offset| u32_at(&header, offset);
        let size = word(4) as usize;
        assert!((HEADER..=HEADER + (1 << 21)).contains(&size), "a message of {size} bytes came");
        let mut payload = vec![0; size - HEADER];
        self.stream.read_exact(&mut payload)?;
        let [id_low, id_high, command_low, command_high] = word(0).to_le_bytes();
        Ok(Message {
            id: u16::from_le_bytes([id_low, id_high]),
            command: u16::from_le_bytes([command_low, command_high]),
            flags: word(8),
            errno: word(12),
            payload,
            fds,
        })
    }

    fn receive_fds(&self, into: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        let got = rustix::net::recvmsg(&self.stream, &mut [IoSliceMut::new(into)], &mut control, flags)?;
        let mut fds = Vec::new();
        for ancillary in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = ancillary {
                fds.extend(rights);
            }
        }
        Ok((got.bytes, fds))
    }

    /// Waits for the reply to `id`, doing meanwhile what the server asks.
    pub(crate) fn reply(&mut self, id: u16, limit: Duration) -> Result<Message, Failure> {
        let place = self.early.iter().position(|message| message.id == id);
        let message = match place.and_then(|place| self.early.remove(place)) {
            Some(message) => message,
            None => loop {
                let message = self.receive(limit)?;
                if !message.is_reply() {
                    self.answer(&message)?;
                } else if message.id == id {
                    break message;
                } else {
                    self.early.push_back(message);
                }
            },
        };
        if message.flags & ERROR == 0 { Ok(message) } else { Err(Failure::Refused(message.errno)) }
    }

    /// Does what the server asks, until nothing has come for `limit`.
    pub(crate) fn attend(&mut self, limit: Duration) -> io::Result<()> {
        loop {
            match self.receive(limit) {
                Ok(message) if message.is_reply() => self.early.push_back(message),
                Ok(message) => self.answer(&message)?,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Answers `DMA_READ` and `DMA_WRITE`.
    fn answer(&mut self, message: &Message) -> io::Result<()> {
        const EINVAL: u32 = 22;
        if self.mute {
            return Ok(());
        }
        let place = |(base, _): &(u64, Memory)| u64_at(&message.payload, 0).checked_sub(*base);
        let reply = match (message.command, &self.served) {
            (DMA_READ, Some(served)) => place(served).map(|offset| {
                let len = usize::try_from(u64_at(&message.payload, 8)).expect("64-bit");
                [&message.payload[..16], &served.1.read_vec(offset, len)].concat()
            }),
            (DMA_WRITE, Some(served)) => place(served).map(|offset| {
                served.1.write(offset, &message.payload[16..]);
                message.payload[..16].to_vec()
            }),
            _ => None,
        };
        let (flags, errno) = if reply.is_some() { (TYPE_REPLY, 0) } else { (TYPE_REPLY | ERROR, EINVAL) };
        let mut bytes = self::message(message.id, message.command, &reply.unwrap_or_default());
        bytes[8..12].copy_from_slice(&flags.to_le_bytes());
        bytes[12..16].copy_from_slice(&errno.to_le_bytes());
        self.send_bytes(&bytes, &[])
    }

    /// Sends a command and waits for its reply, whose payload it returns.
    pub(crate) fn call(&mut self, command: u16, payload: &[u8], fds: &[BorrowedFd<'_>]) -> Result<Vec<u8>, Failure> {
        let id = self.send(command, payload, fds)?;
        let reply = self.reply(id, REPLY_LIMIT)?;
        assert_eq!(reply.command, command, "the reply is to another command: {reply:?}");
        Ok(reply.payload)
    }

    /// Maps `size` bytes of a file, from `offset` on, to `addr`.
    pub(crate) fn map(&mut self, addr: u64, size: u64, file: impl AsFd, offset: u64) -> Result<(), Failure> {
        self.call(DMA_MAP, &dma_map(addr, size, offset), &[file.as_fd()]).map(drop)
    }

    pub(crate) fn unmap(&mut self, addr: u64, size: u64) -> Result<(), Failure> {
        self.call(DMA_UNMAP, &dma_unmap(addr, size), &[]).map(drop)
    }

    pub(crate) fn read(&mut self, region: u32, offset: u64, len: u32) -> Result<Vec<u8>, Failure> {
        let payload = self.call(REGION_READ, &region_access(region, offset, len), &[])?;
        assert_eq!(payload.len(), HEADER + len as usize, "{len} bytes were asked for");
        Ok(payload[HEADER..].to_vec())
    }

    pub(crate) fn write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<(), Failure> {
        let count = u32::try_from(data.len()).expect("no test writes as much");
        let payload = [region_access(region, offset, count), data.to_vec()].concat();
        self.call(REGION_WRITE, &payload, &[]).map(drop)
    }

    pub(crate) fn read_u32(&mut self, region: u32, offset: u64) -> Result<u32, Failure> {
        Ok(u32_at(&self.read(region, offset, 4)?, 0))
    }

    /// Gives the vectors from `start` on their eventfds.
    pub(crate) fn set_eventfds(&mut self, start: u32, fds: &[BorrowedFd<'_>]) -> Result<(), Failure> {
        let count = u32::try_from(fds.len()).expect("few");
        self.call(DEVICE_SET_IRQS, &set_eventfds(MSIX, start, count), fds).map(drop)
    }

    /// Flags, number of regions and number of interrupt indexes.
    pub(crate) fn device_info(&mut self) -> Result<(u32, u32, u32), Failure> {
        let payload = self.call(DEVICE_GET_INFO, &[16, 0, 0, 0].map(u32::to_le_bytes).concat(), &[])?;
        Ok((u32_at(&payload, 4), u32_at(&payload, 8), u32_at(&payload, 12)))
    }

    /// Returns the whole answer about a region, and its descriptors.
    pub(crate) fn region_info(&mut self, index: u32, argsz: u32) -> Result<(Vec<u8>, Vec<OwnedFd>), Failure> {
        let mut payload = [argsz, 0, index, 0].map(u32::to_le_bytes).concat();
        payload.extend([0; 16]);
        let id = self.send(DEVICE_GET_REGION_INFO, &payload, &[])?;
        let reply = self.reply(id, REPLY_LIMIT)?;
        Ok((reply.payload, reply.fds))
    }

    /// Returns how many interrupts an index has.
    pub(crate) fn irq_count(&mut self, index: u32) -> Result<u32, Failure> {
        let payload = self.call(DEVICE_GET_IRQ_INFO, &[16, 0, index, 0].map(u32::to_le_bytes).concat(), &[])?;
        Ok(u32_at(&payload, 12))
    }

    /// The handshake of a well-behaved client: what QEMU asks before the guest runs.
    pub(crate) fn handshake(&mut self) -> Result<(), Failure> {
        self.negotiate()?;
        let (_, regions, irqs) = self.device_info()?;
        for index in 0..regions {
            self.region_info(index, 4096)?;
        }
        for index in 0..irqs {
            self.irq_count(index)?;
        }
        self.read(CONFIG, 0, 64).map(drop)
    }
}
