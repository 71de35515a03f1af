//! The wire of an NVMe/TCP host: a connection whose other end is a hostile pool.

use std::collections::BTreeMap;

use nvme_host::tcp::{Chunk, Digests, Event, Options, Place, Slot, Wire};
use nvme_spec::nvm::BlockDw12;
use nvme_spec::tcp::{
    C2hData, CapsuleCmd, CapsuleResp, FatalError, IcResp, PduDigests, PduFlags, PduHeader, PduType, R2t, TermReq,
};
use nvme_spec::{Cqe, Sqe, Status};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::script::Script;

/// The kinds of steps: PDUs first, which the pool writes into its stream.
#[expect(missing_docs, reason = "the names tell; see `PoolWorld::apply`")]
pub mod step {
    pub const RAW: u8 = 0;
    pub const IC_RESP: u8 = 1;
    /// The next data of a command, of so many dwords, with these flags.
    pub const DATA: u8 = 2;
    /// Data of a command anywhere.
    pub const DATA_AT: u8 = 3;
    /// A request for the next data of a command.
    pub const R2T: u8 = 4;
    /// A request for data of a command anywhere.
    pub const R2T_AT: u8 = 5;
    pub const RESPONSE: u8 = 6;
    pub const TERM_REQ: u8 = 7;
    /// A byte of the last PDU is changed.
    pub const SPOIL: u8 = 8;
    /// The last PDU comes once more.
    pub const AGAIN: u8 = 9;
    /// So many bytes of the stream are received.
    pub const RECEIVE: u8 = 10;
    /// All of the stream is received.
    pub const RECEIVE_ALL: u8 = 11;
    /// The host gives commands.
    pub const COMMAND: u8 = 12;
    pub const READ: u8 = 13;
    pub const WRITE: u8 = 14;
    /// The host sends so many bytes.
    pub const SEND: u8 = 15;
    pub const SEND_ALL: u8 = 16;
    /// The host gives a command up.
    pub const DETACH: u8 = 17;
    /// The stream ends.
    pub const CLOSE: u8 = 18;
    /// Data whose header has come is received in its place, at most so many bytes.
    pub const RECEIVE_IN_PLACE: u8 = 19;
    pub const COUNT: u8 = 20;
}

/// The dwords of a command's data are fewer, which is more than an `H2CData` may have.
const MOST_DWORDS: u16 = 4097;
/// With so many bytes that were not received, the pool writes no more.
const MOST_STREAM: usize = 64 << 10;

/// What a command of the host is, and what has become of its data.
#[derive(Debug, Clone, Copy)]
struct Running {
    is_write: bool,
    len: u32,
    /// How much has come, or has been sent.
    done: u32,
    is_detached: bool,
}

/// A command that the pool has got.
#[derive(Debug, Clone, Copy)]
struct Known {
    cid: u16,
    /// Where its next data begins.
    next: u32,
}

struct PoolWorld {
    wire: Wire,
    depth: usize,
    digests: Digests,
    running: BTreeMap<Slot, Running>,
    /// What the host has sent, with zeroes for data, and is no whole PDU.
    sent: Vec<u8>,
    known: Vec<Known>,
    stream: Vec<u8>,
    /// Where the last PDU begins.
    last: usize,
    failed: bool,
}

/// Carries a script out.
pub fn run(script: &[u8]) {
    let mut script = Script(script);
    let flags = script.u8();
    let asked = Digests { header: flags & 1 != 0, data: flags & 2 != 0 };
    let depth = u16::from(script.u8() % 9) + 1;
    let (max_r2t, in_capsule_data) = (script.u8() % 16 + 1, u32::from(script.u8()) * 32);
    let options = Options { depth, digests: asked, max_r2t, in_capsule_data };
    let mut world = PoolWorld {
        wire: Wire::new(options).expect("the options are valid"),
        depth: depth.into(),
        digests: Digests::default(),
        running: BTreeMap::new(),
        sent: Vec::new(),
        known: Vec::new(),
        stream: Vec::new(),
        last: 0,
        failed: false,
    };
    while !script.is_over() && !world.failed {
        world.apply(&mut script);
    }
    world.check();
    if world.failed {
        world.check_end();
    }
}

impl PoolWorld {
    fn apply(&mut self, script: &mut Script<'_>) {
        match script.u8() % step::COUNT {
            step::SPOIL => {
                let (at, bits) = (script.u8(), script.u8());
                if let Some(byte) = self.stream.get_mut(self.last + usize::from(at)) {
                    *byte ^= bits;
                }
            }
            step::AGAIN => {
                let pdu = self.stream.get(self.last..).unwrap_or_default().to_vec();
                self.push(pdu);
            }
            step::RECEIVE => {
                let count = script.u16();
                self.receive(count.into());
            }
            step::RECEIVE_ALL => self.receive(usize::MAX),
            step::RECEIVE_IN_PLACE => {
                let count = script.u16();
                self.receive_in_place(count.into());
            }
            kind @ (step::COMMAND | step::READ | step::WRITE) => {
                self.submit(kind, u32::from(script.u16() % MOST_DWORDS) * 4);
            }
            step::SEND => {
                let count = script.u16();
                self.send(count.into());
            }
            step::SEND_ALL => self.send(usize::MAX),
            step::DETACH => self.detach(script.below(16)),
            step::CLOSE => {
                self.wire.close();
                self.failed = true;
            }
            kind => {
                let pdu = self.pdu(kind, script);
                self.push(pdu);
            }
        }
        assert!(self.wire.in_flight().count() <= self.depth);
    }

    fn push(&mut self, pdu: Vec<u8>) {
        // What nobody receives need not grow.
        if self.stream.len() < MOST_STREAM {
            self.last = self.stream.len();
            self.stream.extend(pdu);
        }
    }

    fn pdu(&mut self, kind: u8, script: &mut Script<'_>) -> Vec<u8> {
        let digests = self.digests;
        match kind {
            step::IC_RESP => {
                let (dgst, cpda, maxh2cdata) = (PduDigests::from_bits(script.u8()), script.u8(), script.u32());
                let header = common(PduType::IC_RESP, PduFlags::new());
                build(
                    &IcResp { header, pfv: 0, cpda, dgst, maxh2cdata, reserved_16: [0; 112] },
                    &[],
                    Digests::default(),
                )
            }
            step::DATA | step::DATA_AT => {
                let (known, flags) = (self.known(script, kind == step::DATA_AT), script.u8());
                let data = vec![0xda; usize::from(script.u16() % MOST_DWORDS) * 4];
                let flags = PduFlags::new().with_last_pdu(flags & 1 != 0).with_success(flags & 2 != 0);
                let (datao, length) = (known.next, data.len() as u32);
                let header = common(PduType::C2H_DATA, flags);
                self.advance(known.cid, length);
                build(&C2hData { header, cccid: known.cid, datao, datal: length, ..C2hData::default() }, &data, digests)
            }
            step::R2T | step::R2T_AT => {
                let known = self.known(script, kind == step::R2T_AT);
                let (ttag, length) = (script.u16(), u32::from(script.u16()) * 4);
                let header = common(PduType::R2T, PduFlags::new());
                let request = R2t { header, cccid: known.cid, ttag, r2to: known.next, r2tl: length, ..R2t::default() };
                self.advance(known.cid, length);
                build(&request, &[], digests)
            }
            step::RESPONSE => {
                let (cid, status) = (self.known(script, false).cid, Status::from_bits(script.u16() & !1));
                let header = common(PduType::CAPSULE_RESP, PduFlags::new());
                build(&CapsuleResp { header, cqe: Cqe { cid, ..Cqe::of(status) } }, &[], digests)
            }
            step::TERM_REQ => {
                let fes = FatalError(script.u16());
                let header = common(PduType::C2H_TERM_REQ, PduFlags::new());
                build(&TermReq { header, fes, fei: [0; 4], reserved_14: [0; 10] }, &[], Digests::default())
            }
            _ => {
                let len = script.u8();
                script.bytes(len.into()).to_vec()
            }
        }
    }

    /// Returns a command that the pool has got, or one with any identifier and offset.
    fn known(&self, script: &mut Script<'_>, anywhere: bool) -> Known {
        let index = script.below(256);
        let known = match self.known.len() {
            0 => Known { cid: index as u16, next: 0 },
            len => self.known[index % len],
        };
        if anywhere { Known { next: script.u32(), ..known } } else { known }
    }

    fn advance(&mut self, cid: u16, length: u32) {
        if let Some(known) = self.known.iter_mut().rfind(|known| known.cid == cid) {
            known.next = known.next.wrapping_add(length);
        }
    }

    fn submit(&mut self, kind: u8, len: u32) {
        let sqe = Sqe::read(1, 0, BlockDw12::new());
        let taken = match kind {
            step::COMMAND => self.wire.submit(sqe),
            step::READ => self.wire.submit_read(sqe, len),
            _ => self.wire.submit_write(sqe, len, || 0),
        };
        if let Ok(slot) = taken {
            let len = if kind == step::COMMAND { 0 } else { len };
            let running = Running { is_write: kind == step::WRITE, len, done: 0, is_detached: false };
            assert!(self.running.insert(slot, running).is_none(), "a place has one command");
        }
    }

    fn detach(&mut self, at: usize) {
        let Some(slot) = self.running.keys().nth(at).copied() else { return };
        if self.wire.detach(slot).is_ok()
            && let Some(running) = self.running.get_mut(&slot)
        {
            running.is_detached = true;
        }
    }

    /// The host sends at most `max` bytes: headers, and bytes of data each of which is the next of its command.
    fn send(&mut self, max: usize) {
        let running = &self.running;
        self.wire.build_transfers(|slot, offset, len| {
            let running = running[&slot];
            assert!(running.is_write && offset.checked_add(len).is_some_and(|end| end <= running.len));
            0
        });
        let mut left = max;
        for chunk in self.wire.output() {
            match chunk {
                Chunk::Bytes(bytes) => {
                    assert!(!bytes.is_empty());
                    let now = &bytes[..bytes.len().min(left)];
                    self.sent.extend(now);
                    left -= now.len();
                }
                Chunk::Data { slot, offset, len } => {
                    let running = self.running.get_mut(&slot).expect("data is of a command in flight");
                    assert!(running.is_write && !running.is_detached && len > 0);
                    let now = len.min(u32::try_from(left).unwrap_or(len));
                    assert!(now == 0 || (offset == running.done && now <= running.len - running.done));
                    running.done += now;
                    self.sent.resize(self.sent.len() + now as usize, 0);
                    left -= now as usize;
                }
            }
            if left == 0 {
                break;
            }
        }
        self.wire.sent(max - left);
        self.learn();
    }

    /// The pool reads what the host has sent.
    fn learn(&mut self) {
        while let Ok((common, _)) = PduHeader::read_from_prefix(&self.sent) {
            let len = common.plen as usize;
            assert!(len >= usize::from(common.hlen) && common.hlen >= 24, "a host's PDUs are whole");
            if self.sent.len() < len {
                return;
            }
            if common.kind == PduType::CAPSULE_CMD {
                let (capsule, _) = CapsuleCmd::read_from_prefix(&self.sent).expect("it is whole");
                self.known.push(Known { cid: capsule.sqe.cid, next: 0 });
            }
            self.sent.drain(..len);
        }
    }

    fn receive(&mut self, count: usize) {
        let rest = self.stream.split_off(count.min(self.stream.len()));
        let now = std::mem::replace(&mut self.stream, rest);
        self.last = 0;
        let mut input = now.as_slice();
        loop {
            match self.wire.next(&mut input) {
                Ok(None) => break,
                Ok(Some(Event::Ready(parameters))) => self.digests = parameters.digests,
                Ok(Some(Event::Data { slot, offset, bytes })) => {
                    let running = self.running.get_mut(&slot).expect("data is for a command in flight");
                    assert!(!running.is_write && !running.is_detached && !bytes.is_empty());
                    assert!(offset == running.done && bytes.len() as u64 <= u64::from(running.len - running.done));
                    running.done += bytes.len() as u32;
                }
                Ok(Some(Event::Completed { slot, result })) => {
                    let running = self.running.remove(&slot).expect("it was in flight");
                    let is_whole = running.done == running.len || running.is_detached;
                    assert!(result.is_ok_and(|cqe| !cqe.status.is_success()) || result.is_err() || is_whole);
                }
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    self.failed = true;
                    return;
                }
            }
        }
        assert!(input.is_empty(), "all input is taken");
    }

    fn receive_in_place(&mut self, max: usize) {
        let Some(Place { slot, offset, len }) = self.wire.place() else { return };
        let running = self.running.get_mut(&slot).expect("data is for a command in flight");
        assert!(!running.is_write && !running.is_detached && len > 0);
        assert!(offset == running.done && len <= running.len - running.done);
        let count = max.min(len as usize).min(self.stream.len());
        running.done += count as u32;
        let rest = self.stream.split_off(count);
        let now = std::mem::replace(&mut self.stream, rest);
        self.last = 0;
        self.wire.placed(count as u32, |before| crc32c::crc32c_append(before, &now));
        self.receive(0);
    }

    /// The wire and the world know of the same commands.
    fn check(&self) {
        assert!(self.wire.in_flight().eq(self.running.keys().copied()));
    }

    /// A connection that has failed says why at most.
    fn check_end(&mut self) {
        self.wire.build_transfers(|_, _, _| unreachable!("no data is sent any more"));
        let bytes: usize = self
            .wire
            .output()
            .map(|chunk| match chunk {
                Chunk::Bytes(bytes) => bytes.len(),
                Chunk::Data { .. } => unreachable!("no data is sent any more"),
            })
            .sum();
        assert!(bytes <= 152);
        assert!(self.wire.next(&mut [0; 8].as_slice()).is_err() && self.wire.submit(Sqe::flush(1)).is_err());
    }
}

fn common(kind: PduType, flags: PduFlags) -> PduHeader {
    PduHeader { kind, flags, ..PduHeader::default() }
}

/// Returns a PDU with its lengths and digests.
fn build<T: IntoBytes + Immutable>(header: &T, data: &[u8], digests: Digests) -> Vec<u8> {
    let mut pdu = header.as_bytes().to_vec();
    let begin = pdu.len() + if digests.header { 4 } else { 0 };
    let is_data = pdu[0] == PduType::C2H_DATA.0;
    let trailer = if is_data && digests.data { 4 } else { 0 };
    let (mut common, _) = PduHeader::read_from_prefix(&pdu).expect("a PDU has a header");
    common.flags = common.flags.with_hdgstf(digests.header).with_ddgstf(trailer > 0);
    common.hlen = pdu.len() as u8;
    common.pdo = if is_data { begin as u8 } else { 0 };
    common.plen = (begin + data.len() + trailer) as u32;
    common.write_to_prefix(&mut pdu).expect("it was read from there");
    if digests.header {
        pdu.extend(crc32c::crc32c(&pdu).to_le_bytes());
    }
    pdu.extend(data);
    if trailer > 0 {
        pdu.extend(crc32c::crc32c(data).to_le_bytes());
    }
    pdu
}
