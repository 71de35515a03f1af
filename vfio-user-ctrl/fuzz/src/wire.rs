//! The wire protocol: a session that is fed by a hostile client.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use vfio_user::{Device, DeviceInfo, Event, Limits, MAX_READ, Session, Token, client};

use crate::script::Script;

/// The kinds of steps: messages first, which the client writes into its stream.
#[expect(missing_docs, reason = "the names tell; see `message` and `run`")]
pub mod step {
    pub const RAW: u8 = 0;
    pub const VERSION: u8 = 1;
    pub const MAP: u8 = 2;
    pub const UNMAP: u8 = 3;
    pub const INFO: u8 = 4;
    pub const REGION_INFO: u8 = 5;
    pub const REGION_IO_FDS: u8 = 6;
    pub const IRQ_INFO: u8 = 7;
    pub const SET_IRQS: u8 = 8;
    pub const READ: u8 = 9;
    pub const WRITE: u8 = 10;
    pub const WRITE_MULTI: u8 = 11;
    pub const RESET: u8 = 12;
    pub const READ_REPLY: u8 = 13;
    pub const WRITE_REPLY: u8 = 14;
    pub const ERROR_REPLY: u8 = 15;
    /// The last message wants no reply.
    pub const NO_REPLY: u8 = 16;
    /// A byte of the last message is changed.
    pub const SPOIL: u8 = 17;
    /// So many bytes of the stream are received, with so many files.
    pub const SEND: u8 = 18;
    /// The session works until it has nothing to do.
    pub const WORK: u8 = 19;
    /// The client reads so many bytes.
    pub const TAKE: u8 = 20;
    /// The caller answers a command.
    pub const ANSWER: u8 = 21;
    /// The caller reads memory of the client's.
    pub const DMA_READ: u8 = 22;
    /// The caller writes memory of the client's.
    pub const DMA_WRITE: u8 = 23;
    /// All of the stream is received, and worked on.
    pub const SEND_ALL: u8 = 24;
    pub const COUNT: u8 = 25;
}

const SHAPE: DeviceInfo =
    DeviceInfo { bar0_size: 0x4000, doorbells: 0x1000..0x2000, msix_vectors: 9, config_size: 4096 };

/// Small, so that they are reached.
const LIMITS: Limits = Limits {
    max_msg_fds: 4,
    max_data_xfer_size: 0x1_0000,
    max_dma_maps: 4,
    pgsizes: 4096,
    max_output: 4096,
    max_pending: 64,
};

/// The most that a session may want to send: what fills its output; one message more, of its own data or of the
/// client's; and the answers to as many commands as may wait.
const MOST_OUTPUT: usize = 4096 + (128 << 10) + 64 + (4 + 64 + 1) * 128;

/// Accesses must lie within their regions.
struct Registers(Arc<OwnedFd>);

impl Device for Registers {
    fn config_read(&mut self, offset: usize, into: &mut [u8]) {
        assert!(!into.is_empty() && offset + into.len() <= 4096);
        into.fill(0xc0);
    }

    fn config_write(&mut self, offset: usize, data: &[u8]) -> bool {
        assert!(!data.is_empty() && offset + data.len() <= 4096);
        offset & 0x100 != 0
    }

    fn bar0_read(&mut self, offset: usize, into: &mut [u8]) {
        assert!(!into.is_empty() && offset + into.len() <= 0x4000);
        into.fill(0xba);
    }

    fn bar0_write(&mut self, offset: usize, data: &[u8]) {
        assert!(!data.is_empty() && offset + data.len() <= 0x4000);
    }

    fn doorbells(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.0)
    }
}

struct WireWorld {
    session: Session,
    device: Registers,
    /// Of which copies are sent; the other end hears when all are closed.
    file: UnixStream,
    stream: Vec<u8>,
    /// Where the last message begins.
    last: usize,
    tokens: Vec<Token>,
    next_id: u64,
    /// How many transfers were asked for and have not ended.
    transfers: usize,
    failed: bool,
}

/// Carries a script out.
pub fn run(script: &[u8]) {
    let (mut probe, file) = UnixStream::pair().expect("a pair");
    probe.set_nonblocking(true).expect("a socket");
    let doorbells = File::open("/dev/null").expect("a file");
    let mut world = WireWorld {
        session: Session::with_limits(SHAPE, LIMITS),
        device: Registers(Arc::new(doorbells.into())),
        file,
        stream: Vec::new(),
        last: 0,
        tokens: Vec::new(),
        next_id: 0,
        transfers: 0,
        failed: false,
    };
    let mut script = Script(script);
    while !script.is_over() && !world.failed {
        world.apply(&mut script);
    }
    world.end();
    drop(world);
    assert_eq!(probe.read(&mut [0]).ok(), Some(0), "every file is closed");
}

impl WireWorld {
    fn apply(&mut self, script: &mut Script<'_>) {
        match script.u8() % step::COUNT {
            step::NO_REPLY => {
                let message = self.stream.split_off(self.last);
                self.stream.extend(client::no_reply(message));
            }
            step::SPOIL => {
                let (at, bits) = (script.u8(), script.u8());
                if let Some(byte) = self.stream.get_mut(self.last + usize::from(at)) {
                    *byte ^= bits;
                }
            }
            step::SEND => {
                let (count, files) = (script.u16(), script.below(12));
                self.send(count.into(), files);
            }
            step::SEND_ALL => {
                self.send(MAX_READ, script.below(4));
                self.work();
            }
            step::WORK => self.work(),
            step::TAKE => {
                let count = script.u16();
                self.take(count.into());
            }
            step::ANSWER => {
                let (index, errno) = (script.below(256), i32::from(script.u8()));
                if !self.tokens.is_empty() {
                    let token = self.tokens.swap_remove(index % self.tokens.len());
                    self.session.reply(token, if errno == 0 { Ok(()) } else { Err(errno) });
                }
            }
            step::DMA_READ if self.transfers < 100 => {
                self.session.dma_read(self.next_id, script.u64(), script.u32() & 0xf_ffff);
                self.next_id += 1;
                self.transfers += 1;
            }
            step::DMA_WRITE if self.transfers < 100 => {
                self.session.dma_write(self.next_id, script.u64(), vec![7; usize::from(script.u16()) * 4]);
                self.next_id += 1;
                self.transfers += 1;
            }
            kind => {
                let message = message(kind, script);
                self.last = self.stream.len();
                self.stream.extend(message);
            }
        }
    }

    /// The session receives the next bytes of the stream, mostly only when it wants them.
    fn send(&mut self, count: usize, files: usize) {
        if !self.session.wants_input() && !count.is_multiple_of(7) {
            return;
        }
        assert!((1..=MAX_READ).contains(&self.session.read_hint()));
        let rest = self.stream.split_off(count.min(self.stream.len()).min(MAX_READ));
        let now = std::mem::replace(&mut self.stream, rest);
        self.last = 0;
        let files = (0..files).map(|_| self.file.try_clone().expect("a descriptor").into()).collect();
        self.failed |= self.session.receive(&now, files).is_err();
    }

    fn work(&mut self) {
        loop {
            match self.session.next(&mut self.device) {
                Err(_) => self.failed = true,
                Ok(None) => {}
                Ok(Some(Event::DmaDone { id, .. })) => {
                    assert!(id < self.next_id && self.transfers > 0, "it was asked for");
                    self.transfers -= 1;
                    continue;
                }
                Ok(Some(Event::Map(token, request))) => {
                    assert!(request.addr.checked_add(request.size - 1).is_some());
                    assert!(request.offset.checked_add(request.size - 1).is_some());
                    self.tokens.push(token);
                    continue;
                }
                Ok(Some(Event::Unmap(token, request))) => {
                    assert!(request.all || request.addr.checked_add(request.size - 1).is_some());
                    self.tokens.push(token);
                    continue;
                }
                Ok(Some(Event::SetIrqs(token, request))) => {
                    assert!(request.start + request.count <= SHAPE.msix_vectors.into());
                    self.tokens.push(token);
                    continue;
                }
                Ok(Some(Event::Reset(token) | Event::ConfigWritten(token))) => {
                    self.tokens.push(token);
                    continue;
                }
            }
            assert!(self.tokens.len() <= LIMITS.max_pending, "commands that wait are bounded");
            return;
        }
    }

    fn take(&mut self, count: usize) -> usize {
        let mut left = count;
        while left > 0 {
            let Some(chunk) = self.session.output() else { break };
            assert!(!chunk.bytes.is_empty());
            let now = chunk.bytes.len().min(left);
            self.session.sent(now);
            left -= now;
        }
        count - left
    }

    /// What waits to be sent is bounded; what comes after it goes on.
    fn end(&mut self) {
        assert!(self.take(usize::MAX) <= MOST_OUTPUT, "the output is bounded");
        if !self.failed {
            self.work();
            for token in std::mem::take(&mut self.tokens) {
                self.session.reply(token, Ok(()));
            }
            self.take(usize::MAX);
        }
    }
}

fn message(kind: u8, script: &mut Script<'_>) -> Vec<u8> {
    let id = u16::from(script.u8());
    match kind {
        step::VERSION => {
            let (minor, len) = (script.u16(), script.u16() & 0x3ff);
            client::version(id, minor, &String::from_utf8_lossy(script.bytes(len.into())))
        }
        step::MAP => client::dma_map(id, script.u64(), script.u64(), script.u64()),
        step::UNMAP => client::dma_unmap(id, script.u64(), script.u64(), script.u8().into()),
        step::INFO => client::device_info(id),
        step::REGION_INFO => client::region_info(id, script.u8().into(), script.u8().into()),
        step::REGION_IO_FDS => client::region_io_fds(id, script.u8().into()),
        step::IRQ_INFO => client::irq_info(id, script.u8().into()),
        step::SET_IRQS => {
            let (index, flags, start, count) = (script.u8(), script.u8(), script.u8(), script.u32());
            let bools = script.below(16);
            client::set_irqs(id, index.into(), flags.into(), start.into(), count, script.bytes(bools))
        }
        step::READ => client::region_read(id, script.u8().into(), script.u16().into(), script.u32()),
        step::WRITE => {
            let (region, offset, len) = (script.u8(), script.u16(), script.below(64));
            client::region_write(id, region.into(), offset.into(), script.bytes(len))
        }
        step::WRITE_MULTI => {
            let mut writes = Vec::new();
            for _ in 0..script.below(5) {
                let (region, offset, len) = (script.u8(), script.u16(), script.below(12));
                writes.push((u32::from(region), u64::from(offset), script.bytes(len)));
            }
            client::region_write_multi(id, &writes)
        }
        step::RESET => client::reset(id),
        step::READ_REPLY => {
            let (addr, len) = (script.u64(), script.u16());
            client::dma_read_reply(id, addr, &vec![9; len.into()])
        }
        step::WRITE_REPLY => client::dma_write_reply(id, script.u64(), script.u64()),
        step::ERROR_REPLY => client::error_reply(id, script.u16(), script.u32()),
        _ => {
            let len = script.below(64);
            script.bytes(len).to_vec()
        }
    }
}
