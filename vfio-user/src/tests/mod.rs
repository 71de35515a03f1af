//! Sessions, with a device that only remembers, and a client made of [`client`]'s messages.
#![expect(clippy::panic, reason = "an event that is not the expected one fails a test")]

mod commands;
mod irqs;
mod mappings;
mod negotiation;
mod registers;
mod stream;
mod transfers;

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use super::client::{self, Received};
use super::{Device, DeviceInfo, Event, Limits, ProtocolError, Session};

/// An access to the device's registers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Access {
    ConfigRead(usize, usize),
    ConfigWrite(usize, Vec<u8>),
    BarRead(usize, usize),
    BarWrite(usize, Vec<u8>),
}

/// Writes to configuration space there are answered later.
pub(super) const LATE: usize = 0x100;

/// A device whose bytes in configuration space are `0xc0`, and in BAR0 the low bits of their offsets.
pub(super) struct Recorder {
    pub(super) seen: Vec<Access>,
    pub(super) doorbells: Arc<OwnedFd>,
}

impl Recorder {
    pub(super) fn new() -> Self {
        Self { seen: Vec::new(), doorbells: Arc::new(pair().1.into()) }
    }
}

impl Device for Recorder {
    fn config_read(&mut self, offset: usize, into: &mut [u8]) {
        self.seen.push(Access::ConfigRead(offset, into.len()));
        into.fill(0xc0);
    }

    fn config_write(&mut self, offset: usize, data: &[u8]) -> bool {
        self.seen.push(Access::ConfigWrite(offset, data.to_vec()));
        offset == LATE
    }

    fn bar0_read(&mut self, offset: usize, into: &mut [u8]) {
        self.seen.push(Access::BarRead(offset, into.len()));
        for (at, byte) in into.iter_mut().enumerate() {
            *byte = u8::try_from((offset + at) % 256).unwrap_or_default();
        }
    }

    fn bar0_write(&mut self, offset: usize, data: &[u8]) {
        self.seen.push(Access::BarWrite(offset, data.to_vec()));
    }

    fn doorbells(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.doorbells)
    }
}

pub(super) const CAPABILITIES: &str = r#"{"capabilities":{"max_msg_fds":16,"max_data_xfer_size":1048576}}"#;

pub(super) fn shape() -> DeviceInfo {
    DeviceInfo { bar0_size: 0x4000, doorbells: 0x1000..0x2000, msix_vectors: 129, config_size: 4096 }
}

/// Two ends of a connection: a file, and what tells when it is closed.
pub(super) fn pair() -> (UnixStream, UnixStream) {
    let (probe, file) = UnixStream::pair().expect("a pair of sockets can be made");
    probe.set_nonblocking(true).expect("it can be made not to block");
    (probe, file)
}

/// Returns whether the other end is open nowhere any more.
pub(super) fn is_closed(mut probe: &UnixStream) -> bool {
    matches!(probe.read(&mut [0]), Ok(0))
}

/// Returns what tells a file from another.
pub(super) fn inode(fd: impl Into<OwnedFd>) -> u64 {
    File::from(fd.into()).metadata().expect("the file is open").ino()
}

/// A session and its device.
pub(super) struct Harness {
    pub(super) session: Session,
    pub(super) device: Recorder,
}

impl Harness {
    /// Returns a session that has not begun.
    pub(super) fn fresh(limits: Limits) -> Self {
        Self { session: Session::with_limits(shape(), limits), device: Recorder::new() }
    }

    /// Returns a session whose version is negotiated.
    pub(super) fn new() -> Self {
        Self::negotiated(CAPABILITIES)
    }

    pub(super) fn negotiated(capabilities: &str) -> Self {
        let mut harness = Self::fresh(Limits::default());
        assert_eq!(harness.ask(&client::version(1, 1, capabilities)).error, None);
        harness
    }

    pub(super) fn send(&mut self, bytes: &[u8], fds: Vec<OwnedFd>) {
        self.session.receive(bytes, fds).expect("the session takes input");
    }

    pub(super) fn next(&mut self) -> Result<Option<Event>, ProtocolError> {
        self.session.next(&mut self.device)
    }

    /// Returns the next event, which there must be.
    pub(super) fn event(&mut self) -> Event {
        self.next().expect("the session goes on").expect("there is an event")
    }

    /// Returns all messages that wait to be sent.
    pub(super) fn drain(&mut self) -> Vec<Received> {
        let mut messages = Vec::new();
        while let Some(chunk) = self.session.output() {
            let (message, size) = client::decode(chunk.bytes).expect("a chunk is a whole message");
            assert_eq!(size, chunk.bytes.len(), "a chunk is one message");
            messages.push(message);
            self.session.sent(size);
        }
        messages
    }

    /// Sends a command that the session answers by itself, and gives the answer.
    pub(super) fn ask(&mut self, bytes: &[u8]) -> Received {
        self.ask_with(bytes, Vec::new())
    }

    pub(super) fn ask_with(&mut self, bytes: &[u8], fds: Vec<OwnedFd>) -> Received {
        self.send(bytes, fds);
        assert!(self.next().expect("the session goes on").is_none(), "the session answers by itself");
        let mut messages = self.drain();
        assert_eq!(messages.len(), 1, "one command has one answer");
        messages.remove(0)
    }

    /// Sends a command that is refused, and gives the errno.
    pub(super) fn refused(&mut self, bytes: &[u8]) -> i32 {
        self.refused_with(bytes, Vec::new())
    }

    pub(super) fn refused_with(&mut self, bytes: &[u8], fds: Vec<OwnedFd>) -> i32 {
        let reply = self.ask_with(bytes, fds);
        assert!(reply.is_reply && reply.payload.is_empty(), "an error has no payload");
        reply.error.expect("the command is refused").try_into().expect("an errno is small")
    }
}

pub(super) fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(*bytes[offset..].first_chunk().expect("there are 4 bytes"))
}

pub(super) fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(*bytes[offset..].first_chunk().expect("there are 8 bytes"))
}
