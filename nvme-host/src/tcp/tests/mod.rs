//! Wires, with PDUs as a controller sends them; a model of a controller that does all right; and one that lies.
#![expect(clippy::panic, reason = "an event that is not the expected one fails a test")]

mod commands;
mod lies;
mod model;
mod setup;
mod stream;

use nvme_spec::nvm::BlockDw12;
use nvme_spec::tcp::{
    C2hData, CapsuleCmd, CapsuleResp, FatalError, IcResp, PduDigests, PduFlags, PduHeader, PduType, R2t, TermReq,
};
use nvme_spec::{Cqe, Sqe, Status};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{Chunk, Digests, Event, Options, Parameters, Place, ProtocolError, Slot, Wire};

const OPTIONS: Options =
    Options { depth: 8, digests: Digests { header: false, data: false }, max_r2t: 2, in_capsule_data: 0 };
const BOTH: Digests = Digests { header: true, data: true };
const NONE: Digests = Digests { header: false, data: false };

/// Returns byte `offset` of the data that `seed` stands for.
fn pattern(seed: u32, offset: u32) -> u8 {
    let mixed = seed.wrapping_mul(0x9e37_79b1) ^ offset.wrapping_mul(0x85eb_ca6b);
    mixed.to_le_bytes()[3]
}

/// Returns so many bytes of the data that `seed` stands for.
fn patterned(seed: u32, offset: u32, len: u32) -> Vec<u8> {
    (offset..offset + len).map(|at| pattern(seed, at)).collect()
}

/// Returns a PDU with its lengths and digests: of a header whose common part has its type and flags, and of data.
fn build<T: IntoBytes + Immutable>(header: &T, data: &[u8], digests: Digests, pad: usize) -> Vec<u8> {
    let mut pdu = header.as_bytes().to_vec();
    let hlen = pdu.len();
    let begin = hlen + if digests.header { 4 } else { 0 } + pad;
    let has_data = !data.is_empty();
    let trailer = if has_data && digests.data { 4 } else { 0 };
    let plen = if has_data { begin + data.len() + trailer } else { begin };
    let (mut common, _) = PduHeader::read_from_prefix(&pdu).expect("a PDU has a header");
    common.flags = common.flags.with_hdgstf(digests.header).with_ddgstf(trailer > 0);
    common.hlen = u8::try_from(hlen).expect("a header is short");
    common.pdo = if has_data { u8::try_from(begin).expect("padding is short") } else { 0 };
    common.plen = u32::try_from(plen).expect("a PDU is not that long");
    common.write_to_prefix(&mut pdu).expect("it was read from there");
    if digests.header {
        pdu.extend(crc32c::crc32c(&pdu).to_le_bytes());
    }
    if has_data {
        pdu.resize(begin, 0xee);
        pdu.extend(data);
        if digests.data {
            pdu.extend(crc32c::crc32c(data).to_le_bytes());
        }
    }
    pdu
}

fn common(kind: PduType) -> PduHeader {
    PduHeader { kind, ..PduHeader::default() }
}

fn ic_resp(digests: Digests, cpda: u8, maxh2cdata: u32) -> Vec<u8> {
    let dgst = PduDigests::new().with_hdgst(digests.header).with_ddgst(digests.data);
    let header = common(PduType::IC_RESP);
    build(&IcResp { header, pfv: 0, cpda, dgst, maxh2cdata, reserved_16: [0; 112] }, &[], NONE, 0)
}

fn response(cid: u16, status: Status, digests: Digests) -> Vec<u8> {
    let cqe = Cqe { cid, dw0: 0x1234, ..Cqe::of(status) };
    build(&CapsuleResp { header: common(PduType::CAPSULE_RESP), cqe }, &[], digests, 0)
}

/// Which flags a PDU of data has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    None,
    Last,
    Success,
}

fn c2h_data(cid: u16, datao: u32, data: &[u8], mark: Mark, digests: Digests) -> Vec<u8> {
    let flags = PduFlags::new().with_last_pdu(mark != Mark::None).with_success(mark == Mark::Success);
    let header = PduHeader { flags, ..common(PduType::C2H_DATA) };
    let length = u32::try_from(data.len()).expect("it is short");
    build(&C2hData { header, cccid: cid, datao, datal: length, ..C2hData::default() }, data, digests, 0)
}

fn r2t(cid: u16, ttag: u16, offset: u32, length: u32, digests: Digests) -> Vec<u8> {
    let header = common(PduType::R2T);
    build(&R2t { header, cccid: cid, ttag, r2to: offset, r2tl: length, reserved_20: [0; 4] }, &[], digests, 0)
}

fn term_req(fes: FatalError, fei: u32) -> Vec<u8> {
    let header = common(PduType::C2H_TERM_REQ);
    build(&TermReq { header, fes, fei: fei.to_le_bytes(), reserved_14: [0; 10] }, &[7; 24], NONE, 0)
}

/// A wire, and what its caller keeps of each command: whose data is made of its seed.
struct Harness {
    wire: Wire,
    /// By their slots.
    seeds: Vec<u32>,
    buffers: Vec<Vec<u8>>,
    /// How many commands have completed.
    ended: usize,
}

/// What an event told.
#[derive(Debug, Clone, PartialEq)]
enum Told {
    Ready(Parameters),
    Completed(Slot, Result<Cqe, super::TransferError>),
}

impl Harness {
    /// A connection on which nothing was sent yet.
    fn fresh(options: Options) -> Self {
        let depth = usize::from(options.depth);
        let wire = Wire::new(options).expect("the options are valid");
        Self { wire, seeds: vec![0; depth], buffers: vec![Vec::new(); depth], ended: 0 }
    }

    /// A connection that is set up, with 4096 bytes in each `H2CData`.
    fn ready(options: Options) -> Self {
        Self::ready_with(options, 0, 4096)
    }

    fn ready_with(options: Options, cpda: u8, maxh2cdata: u32) -> Self {
        let mut harness = Self::fresh(options);
        assert_eq!(harness.send().len(), 128, "ICReq is sent");
        let told = harness.receive(&ic_resp(options.digests, cpda, maxh2cdata)).expect("it is right");
        assert!(matches!(*told, [Told::Ready(_)]));
        harness
    }

    fn command(&mut self, seed: u32) -> Slot {
        let slot = self.wire.submit(Sqe::flush(seed)).expect("there is room");
        self.seeds[slot.index()] = seed;
        slot
    }

    fn read(&mut self, seed: u32, len: u32) -> Slot {
        let slot = self.wire.submit_read(Sqe::read(seed, 0, BlockDw12::new()), len).expect("there is room");
        self.seeds[slot.index()] = seed;
        self.buffers[slot.index()] = vec![0; len as usize];
        slot
    }

    fn write(&mut self, seed: u32, len: u32) -> Slot {
        let sqe = Sqe::write(seed, 0, BlockDw12::new());
        let digest = || crc32c::crc32c(&patterned(seed, 0, len));
        let slot = self.wire.submit_write(sqe, len, digest).expect("there is room");
        self.seeds[slot.index()] = seed;
        slot
    }

    /// Sends all that there is.
    fn send(&mut self) -> Vec<u8> {
        self.send_some(usize::MAX)
    }

    /// Sends at most `max` bytes.
    fn send_some(&mut self, max: usize) -> Vec<u8> {
        let seeds = &self.seeds;
        self.wire.build_transfers(|slot, offset, len| crc32c::crc32c(&patterned(seeds[slot.index()], offset, len)));
        let mut bytes = Vec::new();
        for chunk in self.wire.output() {
            match chunk {
                Chunk::Bytes(part) => bytes.extend(part),
                Chunk::Data { slot, offset, len } => bytes.extend(patterned(self.seeds[slot.index()], offset, len)),
            }
            if bytes.len() >= max {
                break;
            }
        }
        bytes.truncate(max);
        self.wire.sent(bytes.len());
        bytes
    }

    /// Sends all that there is, and returns the identifiers of the commands in it, none of which brings data.
    fn send_commands(&mut self) -> Vec<u16> {
        let bytes = self.send();
        bytes.chunks(72).map(|capsule| CapsuleCmd::read_from_bytes(capsule).expect("a capsule").sqe.cid).collect()
    }

    /// Receives, and copies data.
    fn receive(&mut self, mut bytes: &[u8]) -> Result<Vec<Told>, ProtocolError> {
        let mut told = Vec::new();
        while let Some(event) = self.wire.next(&mut bytes)? {
            match event {
                Event::Ready(parameters) => told.push(Told::Ready(parameters)),
                Event::Data { slot, offset, bytes } => {
                    let offset = offset as usize;
                    self.buffers[slot.index()][offset..offset + bytes.len()].copy_from_slice(bytes);
                }
                Event::Completed { slot, result } => {
                    self.ended += 1;
                    told.push(Told::Completed(slot, result));
                }
            }
        }
        assert!(bytes.is_empty(), "all input is taken");
        Ok(told)
    }

    /// Receives `step` bytes at a time, but data whose header has come right where it belongs.
    fn receive_in_place(&mut self, mut bytes: &[u8], step: usize) -> Result<Vec<Told>, ProtocolError> {
        let mut told = Vec::new();
        while !bytes.is_empty() {
            let place = self.wire.place();
            let max = place.map_or(step, |place| place.len as usize);
            let (now, later) = bytes.split_at(max.min(bytes.len()));
            bytes = later;
            let Some(Place { slot, offset, .. }) = place else {
                told.extend(self.receive(now)?);
                continue;
            };
            let offset = offset as usize;
            self.buffers[slot.index()][offset..offset + now.len()].copy_from_slice(now);
            let count = u32::try_from(now.len()).expect("it is less than was left");
            self.wire.placed(count, |before| crc32c::crc32c_append(before, now));
            told.extend(self.receive(&[])?);
        }
        Ok(told)
    }

    /// Receives the end of one command.
    fn completion(&mut self, bytes: &[u8]) -> (Slot, Result<Cqe, super::TransferError>) {
        let told = self.receive(bytes).expect("the controller is right");
        let [Told::Completed(slot, result)] = *told else { panic!("one command ends: {told:?}") };
        (slot, result)
    }

    /// A command without data succeeds.
    fn end(&mut self, cid: u16) {
        let (_, result) = self.completion(&response(cid, Status::SUCCESS, NONE));
        assert!(result.is_ok());
    }
}
