//! A connection to a target, and the thread that serves it.

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use nvme_spec::Cqe;
use nvme_spec::tcp::{
    C2hData, CapsuleCmd, CapsuleResp, DATA_ALIGNMENT_UNIT, H2cData, IcReq, IcResp, PduDigests, PduHeader, PduType, R2t,
};
use zerocopy::{Immutable, IntoBytes, transmute};

use super::command::Command;
use super::execute::{Answer, Queue};
use super::script::Do;
use super::{Held, Shared, State};
use crate::outbox::Outbox;
use crate::pdu::{self, Digests, Splitter};
use crate::socket::{self, Cut};

/// The bytes of data that a command may bring.
const MAX_DATA: usize = 1 << 20;

/// What others need to know of a connection.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) stream: Arc<TcpStream>,
    pub(super) outbox: Arc<Outbox>,
    pub(super) queue: Queue,
    pub(super) digests: Digests,
    align: usize,
    taken: u16,
    /// Nothing that comes is answered any more.
    silent: bool,
    pub(super) open: bool,
}

impl Line {
    pub(super) fn new(stream: Arc<TcpStream>) -> Self {
        let outbox = Outbox::new(Arc::clone(&stream));
        Self {
            stream,
            outbox,
            queue: Queue::default(),
            digests: Digests::default(),
            align: DATA_ALIGNMENT_UNIT,
            taken: 0,
            silent: false,
            open: true,
        }
    }

    pub(super) fn cut(&mut self, how: Cut) {
        self.outbox.abandon();
        socket::cut(&self.stream, how);
        self.open = false;
    }

    /// Returns the PDUs of an answer.
    pub(super) fn pdus(&self, command: &Command, answer: &Answer, max: usize, success: bool) -> Vec<Vec<u8>> {
        let mut pdus = self.data_pdus(command.sqe.cid, &answer.data, max);
        if let Some(last) = pdus.last_mut().filter(|_| success && answer.result == 0) {
            pdu::mark_success(last);
        } else {
            pdus.push(self.completion(command.sqe.cid, answer));
        }
        pdus
    }

    fn data_pdus(&self, cid: u16, data: &[u8], max: usize) -> Vec<Vec<u8>> {
        let mut offset = 0;
        let build = |piece: &[u8]| {
            let mut header = pdu::header(PduType::C2H_DATA);
            header.flags.set_last_pdu(offset + piece.len() == data.len());
            let (datao, length) = (number(offset), number(piece.len()));
            offset += piece.len();
            let header = C2hData { header, cccid: cid, datao, datal: length, ..C2hData::default() };
            pdu::build(&header, piece, self.digests, self.align)
        };
        data.chunks(max.max(DATA_ALIGNMENT_UNIT)).map(build).collect()
    }

    /// Returns a response capsule.
    pub(super) fn completion(&self, cid: u16, answer: &Answer) -> Vec<u8> {
        let [dw0, dw1]: [u32; 2] = transmute!(answer.result);
        let cqe = Cqe { dw0, dw1, sqhd: self.taken, sqid: 0, cid, status: answer.status };
        self.build(&CapsuleResp { header: pdu::header(PduType::CAPSULE_RESP), cqe })
    }

    /// Returns a PDU without data.
    fn build<T: IntoBytes + Immutable>(&self, pdu: &T) -> Vec<u8> {
        pdu::build(pdu, &[], self.digests, self.align)
    }
}

/// Returns a length or an offset as PDUs have it.
fn number(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// A command whose data is on its way.
struct Waiting {
    command: Command,
    instead: Option<Do>,
    data: Vec<u8>,
    come: usize,
}

/// Serves a connection, until it ends. The body of a thread.
pub(super) fn serve(shared: &Shared, number: u32, stream: &TcpStream) {
    let mut server = Server { shared, number, waiting: BTreeMap::new(), next_tag: 1 };
    let mut splitter = Splitter::default();
    let mut buffer = vec![0; 64 << 10];
    'all: loop {
        {
            let state = shared.lock();
            if state.ended || !state.lines[number as usize].open {
                break;
            }
        }
        match socket::read(stream, &mut buffer) {
            Ok(None) => {}
            Ok(Some([])) | Err(_) => break,
            Ok(Some(bytes)) => {
                splitter.push(bytes);
                while let Some(pdu) = splitter.next_pdu() {
                    if splitter.is_raw() || server.pdu(&pdu).is_none() {
                        break 'all;
                    }
                }
            }
        }
    }
    let mut state = shared.lock();
    state.line_ended(number);
    drop(state);
    shared.changed.notify_all();
}

struct Server<'a> {
    shared: &'a Shared,
    number: u32,
    /// By the tag of their transfer.
    waiting: BTreeMap<u16, Waiting>,
    next_tag: u16,
}

impl Server<'_> {
    /// Does what a PDU asks for. Nothing, if the connection is to end.
    fn pdu(&mut self, pdu: &[u8]) -> Option<()> {
        let header: PduHeader = pdu::read(pdu)?;
        let mut state = self.shared.lock();
        if header.kind == PduType::IC_REQ {
            return self.initialize(&mut state, pdu);
        }
        let line = &state.lines[self.number as usize];
        if line.silent {
            return Some(());
        }
        let data = pdu::data_of(pdu, line.digests).ok()?;
        match header.kind {
            PduType::CAPSULE_CMD => self.capsule(state, pdu, data),
            PduType::H2C_DATA => self.data(state, pdu, data),
            _ => None,
        }
    }

    fn initialize(&self, state: &mut State, pdu: &[u8]) -> Option<()> {
        let IcReq { hpda, dgst, .. } = pdu::read(pdu)?;
        let instead = state.instead(None, self.number);
        let options = &state.device.options;
        let digests =
            Digests { header: options.digests.header && dgst.hdgst(), data: options.digests.data && dgst.ddgst() };
        let response = IcResp {
            header: pdu::header(PduType::IC_RESP),
            pfv: 0,
            cpda: 0,
            dgst: PduDigests::new().with_hdgst(digests.header).with_ddgst(digests.data),
            maxh2cdata: options.max_h2c,
            reserved_16: [0; 112],
        };
        let line = &mut state.lines[self.number as usize];
        line.align = (usize::from(hpda) + 1) * DATA_ALIGNMENT_UNIT;
        line.digests = digests;
        let response = pdu::build(&response, &[], Digests::default(), DATA_ALIGNMENT_UNIT);
        send(line, vec![response], instead.as_ref());
        self.shared.changed.notify_all();
        Some(())
    }

    fn capsule(&mut self, mut state: MutexGuard<'_, State>, pdu: &[u8], data: &[u8]) -> Option<()> {
        let CapsuleCmd { sqe, .. } = pdu::read(pdu)?;
        let line = &mut state.lines[self.number as usize];
        line.taken = line.taken.wrapping_add(1);
        let command = Command::new(sqe, self.number, line.queue.qid);
        state.note(command);
        self.shared.changed.notify_all();
        let instead = state.instead(Some(&command), self.number);
        let (length, in_capsule) = command.data();
        if !command.brings_data() || in_capsule || length == 0 {
            let data = data.get(..length.min(data.len())).unwrap_or_default().to_vec();
            self.finish(&mut state, &command, data, instead);
            return Some(());
        }
        if let Some(Do::Status(_) | Do::Nothing | Do::Silence | Do::Close(_) | Do::Raw(_)) = instead {
            self.finish(&mut state, &command, Vec::new(), instead);
            return Some(());
        }
        if length > MAX_DATA {
            return None;
        }
        let tag = self.next_tag;
        self.next_tag = self.next_tag.wrapping_add(1);
        let line = &mut state.lines[self.number as usize];
        let header = pdu::header(PduType::R2T);
        let request = R2t { header, cccid: command.sqe.cid, ttag: tag, r2tl: number(length), ..R2t::default() };
        let mut request = line.build(&request);
        if let Some(Do::EditR2t(edit)) = &instead {
            edit(&mut request);
        }
        line.outbox.push(request, Duration::ZERO);
        self.waiting.insert(tag, Waiting { command, instead, data: vec![0; length], come: 0 });
        Some(())
    }

    fn data(&mut self, mut state: MutexGuard<'_, State>, pdu: &[u8], data: &[u8]) -> Option<()> {
        let H2cData { ttag: tag, datao, datal, .. } = pdu::read(pdu)?;
        let [offset, length] = [datao, datal].map(|bytes| bytes as usize);
        let waiting = self.waiting.get_mut(&tag)?;
        let place = waiting.data.get_mut(offset..offset.checked_add(length)?)?;
        place.copy_from_slice(data.get(..length)?);
        waiting.come += length;
        if waiting.come >= waiting.data.len() {
            let Waiting { command, instead, data, .. } = self.waiting.remove(&tag)?;
            self.finish(&mut state, &command, data, instead);
        }
        Some(())
    }

    /// Carries out a command of which all has come, or does what the script says.
    fn finish(&self, state: &mut State, command: &Command, data: Vec<u8>, instead: Option<Do>) {
        let held = Held { number: self.number, command: *command, data, instead };
        match &held.instead {
            Some(Do::Hold) => state.held.push(held),
            Some(Do::HoldAnswer) => {
                let answer = state.execute(&held);
                if let Some(answer) = answer {
                    let pdus = state.pdus(self.number, command, &answer);
                    state.held_answers.push((self.number, pdus));
                }
            }
            Some(Do::Nothing) => {}
            Some(Do::Status(status)) => state.answer(&held, &Answer::status(*status)),
            Some(Do::Raw(bytes)) => {
                state.lines[self.number as usize].outbox.push(bytes.clone(), Duration::ZERO);
            }
            Some(Do::Close(how)) => state.lines[self.number as usize].cut(*how),
            Some(Do::Silence) => state.lines[self.number as usize].silent = true,
            _ => state.carry_out(&held),
        }
    }
}

/// Sends an `ICResp`, or does what the script says.
fn send(line: &mut Line, pdus: Vec<Vec<u8>>, instead: Option<&Do>) {
    match instead {
        Some(Do::Close(how)) => line.cut(*how),
        Some(Do::Silence | Do::Nothing | Do::NoAnswer | Do::Hold | Do::HoldAnswer) => line.silent = true,
        Some(Do::Raw(bytes)) => line.outbox.push(bytes.clone(), Duration::ZERO),
        other => deliver(line, pdus, other),
    }
}

/// Gives the PDUs of an answer to the connection, as the script says.
pub(super) fn deliver(line: &Line, mut pdus: Vec<Vec<u8>>, instead: Option<&Do>) {
    let delay = if let Some(Do::Late(delay)) = instead { *delay } else { Duration::ZERO };
    if let Some(Do::Pdus(edit)) = instead {
        edit(&mut pdus);
    }
    let bytes = pdus.concat();
    if matches!(instead, Some(Do::Twice)) {
        line.outbox.push(bytes.clone(), delay);
    }
    line.outbox.push(bytes, delay);
}
