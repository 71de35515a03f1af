//! A connection to a target, and the thread that serves it.

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use super::command::{Command, opcode};
use super::execute::{Answer, Queue};
use super::script::Do;
use super::{Held, Shared, State};
use crate::outbox::Outbox;
use crate::pdu::{self, CAPSULE_CMD, CAPSULE_RESP, Digests, Header, IC_LENGTH, Kind, LAST_DATA, Splitter};
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
            align: 4,
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
        let mut pdus = self.data_pdus(command.cid, &answer.data, max);
        if let Some(last) = pdus.last_mut().filter(|_| success && answer.result == 0) {
            last[1] |= pdu::DATA_SUCCESS;
            if self.digests.header {
                redigest(last);
            }
        } else {
            pdus.push(self.completion(command.cid, answer));
        }
        pdus
    }

    fn data_pdus(&self, cid: u16, data: &[u8], max: usize) -> Vec<Vec<u8>> {
        let pieces = data.chunks(max.max(4)).scan(0, |offset, piece| {
            let header = data_header(Kind::C2H_DATA, cid, 0, *offset, piece.len());
            *offset += piece.len();
            Some((header, piece, *offset == data.len()))
        });
        let build = |(mut header, piece, last): (Vec<u8>, &[u8], bool)| {
            header[1] |= u8::from(last) * LAST_DATA;
            pdu::build(&header, piece, self.digests, self.align)
        };
        pieces.map(build).collect()
    }

    /// Returns a response capsule.
    pub(super) fn completion(&self, cid: u16, answer: &Answer) -> Vec<u8> {
        let mut capsule = Header { kind: Kind::CAPSULE_RESP, flags: 0, hlen: 24, pdo: 0, plen: 24 }.bytes().to_vec();
        capsule.extend_from_slice(&answer.result.to_le_bytes());
        capsule.extend_from_slice(&self.taken.to_le_bytes());
        capsule.extend_from_slice(&[0; 2]);
        capsule.extend_from_slice(&cid.to_le_bytes());
        capsule.extend_from_slice(&answer.status.into_bits().to_le_bytes());
        pdu::build(&capsule, &[], self.digests, 4)
    }
}

/// Makes a header's digest right again.
fn redigest(pdu: &mut [u8]) {
    let hlen = usize::from(pdu[2]);
    let value = pdu::digest(&pdu[..hlen]).to_le_bytes();
    pdu[hlen..hlen + 4].copy_from_slice(&value);
}

/// Returns the header of a data or an R2T PDU.
fn data_header(kind: Kind, cid: u16, tag: u16, offset: usize, length: usize) -> Vec<u8> {
    let mut header = Header { kind, flags: 0, hlen: 24, pdo: 0, plen: 24 }.bytes().to_vec();
    header.extend_from_slice(&cid.to_le_bytes());
    header.extend_from_slice(&tag.to_le_bytes());
    for value in [offset, length] {
        header.extend_from_slice(&u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes());
    }
    header.resize(CAPSULE_RESP, 0);
    header
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
        let header = Header::parse(pdu)?;
        let mut state = self.shared.lock();
        if header.kind == Kind::IC_REQ {
            return self.initialize(&mut state, pdu);
        }
        let line = &state.lines[self.number as usize];
        if line.silent {
            return Some(());
        }
        let data = pdu::data_of(pdu, line.digests).ok()?;
        match header.kind {
            Kind::CAPSULE_CMD => self.capsule(state, pdu, data),
            Kind::H2C_DATA => self.data(state, pdu, data),
            _ => None,
        }
    }

    fn initialize(&self, state: &mut State, pdu: &[u8]) -> Option<()> {
        let request = pdu.get(..IC_LENGTH)?;
        let instead = state.instead(None, self.number);
        let (options, asked) = (&state.device.options, request[11]);
        let digests =
            Digests { header: options.digests.header && asked & 1 != 0, data: options.digests.data && asked & 2 != 0 };
        let mut response = Header { kind: Kind::IC_RESP, flags: 0, hlen: 128, pdo: 0, plen: 128 }.bytes().to_vec();
        response.extend_from_slice(&[0, 0, 0, u8::from(digests.header) | u8::from(digests.data) << 1]);
        response.extend_from_slice(&options.max_h2c.to_le_bytes());
        response.resize(IC_LENGTH, 0);
        let line = &mut state.lines[self.number as usize];
        line.digests = digests;
        line.align = (usize::from(request[10]) + 1) * 4;
        send(line, vec![response], instead.as_ref());
        self.shared.changed.notify_all();
        Some(())
    }

    fn capsule(&mut self, mut state: MutexGuard<'_, State>, pdu: &[u8], data: &[u8]) -> Option<()> {
        let sqe: &[u8; 64] = pdu.get(8..CAPSULE_CMD)?.first_chunk()?;
        let line = &mut state.lines[self.number as usize];
        line.taken = line.taken.wrapping_add(1);
        let command = Command::parse(sqe, self.number, line.queue.qid);
        state.note(command);
        self.shared.changed.notify_all();
        let instead = state.instead(Some(&command), self.number);
        let (length, in_capsule) = command.sgl();
        if !brings_data(&command) || in_capsule || length == 0 {
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
        let mut request = pdu::build(&data_header(Kind::R2T, command.cid, tag, 0, length), &[], line.digests, 4);
        if let Some(Do::EditR2t(edit)) = &instead {
            edit(&mut request);
        }
        line.outbox.push(request, Duration::ZERO);
        self.waiting.insert(tag, Waiting { command, instead, data: vec![0; length], come: 0 });
        Some(())
    }

    fn data(&mut self, mut state: MutexGuard<'_, State>, pdu: &[u8], data: &[u8]) -> Option<()> {
        let header = pdu.get(..CAPSULE_RESP)?;
        let tag = u16::from_le_bytes([header[10], header[11]]);
        let [offset, length] = [12, 16].map(|at| {
            let bytes = [header[at], header[at + 1], header[at + 2], header[at + 3]];
            u32::from_le_bytes(bytes) as usize
        });
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

/// Returns whether a command's data comes from the host.
fn brings_data(command: &Command) -> bool {
    if command.is_fabrics() {
        return command.fctype & 1 != 0;
    }
    command.opcode & 1 != 0 && command.opcode != opcode::KEEP_ALIVE
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
