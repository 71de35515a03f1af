//! A controller that does all right, in an order that a test chooses, and that is strict with its host.

use std::collections::VecDeque;

use nvme_spec::command::SglId;
use nvme_spec::tcp::{H2cData, IcReq};

use super::*;

/// What a controller is like.
#[derive(Debug, Clone, Copy)]
pub(super) struct Nature {
    pub(super) digests: Digests,
    pub(super) cpda: u8,
    pub(super) maxh2cdata: u32,
    /// The most bytes in a `C2HData`, and of an R2T: a multiple of 4.
    pub(super) piece: u32,
    /// Reads end with their last data.
    pub(super) success: bool,
    /// Bytes of padding in dwords before data.
    pub(super) pad: u8,
}

#[derive(Debug)]
struct Task {
    cid: u16,
    seed: u32,
    len: u32,
    /// It is a write, of which so many bytes are asked for, and which of them have come.
    write: bool,
    done: u32,
    asked: VecDeque<(u16, u32, u32)>,
    data: Vec<u8>,
}

/// The controller's side of a connection.
#[derive(Debug)]
pub(super) struct Pool {
    nature: Nature,
    max_r2t: usize,
    input: Vec<u8>,
    output: Vec<u8>,
    tasks: Vec<Task>,
    next_tag: u16,
    /// The writes that have ended: their seeds and their data.
    pub(super) written: Vec<(u32, Vec<u8>)>,
}

impl Pool {
    pub(super) fn new(nature: Nature) -> Self {
        let (input, output, tasks, written) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { nature, max_r2t: 0, input, output, tasks, next_tag: 9, written }
    }

    /// Takes what the host has sent.
    pub(super) fn receive(&mut self, bytes: &[u8]) {
        self.input.extend(bytes);
        while let Ok((common, _)) = PduHeader::read_from_prefix(&self.input) {
            let len = common.plen as usize;
            if self.input.len() < len {
                break;
            }
            let rest = self.input.split_off(len);
            let pdu = std::mem::replace(&mut self.input, rest);
            self.take(common, &pdu);
        }
    }

    /// Returns at most `max` bytes of what is to be sent.
    pub(super) fn send(&mut self, max: usize) -> Vec<u8> {
        let rest = self.output.split_off(max.min(self.output.len()));
        std::mem::replace(&mut self.output, rest)
    }

    fn take(&mut self, common: PduHeader, pdu: &[u8]) {
        if common.kind == PduType::IC_REQ {
            let request = IcReq::read_from_bytes(pdu).expect("it is whole");
            self.max_r2t = request.maxr2t as usize + 1;
            let Nature { digests, cpda, maxh2cdata, .. } = self.nature;
            self.output.extend(ic_resp(digests, cpda, maxh2cdata));
            return;
        }
        let data = self.data_of(common, pdu).to_vec();
        if common.kind == PduType::CAPSULE_CMD {
            self.begin(CapsuleCmd::read_from_prefix(pdu).expect("it is whole").0.sqe, data);
        } else {
            assert_eq!(common.kind, PduType::H2C_DATA);
            self.take_data(H2cData::read_from_prefix(pdu).expect("it is whole").0, &data);
        }
    }

    /// Checks lengths and digests.
    fn data_of<'a>(&self, common: PduHeader, pdu: &'a [u8]) -> &'a [u8] {
        let Nature { digests, cpda, .. } = self.nature;
        let hlen = usize::from(common.hlen);
        assert_eq!(common.flags.hdgstf(), digests.header);
        let header_end = hlen + if digests.header { 4 } else { 0 };
        if digests.header {
            assert_eq!(pdu[hlen..header_end], crc32c::crc32c(&pdu[..hlen]).to_le_bytes());
        }
        if common.pdo == 0 {
            assert_eq!((pdu.len(), common.flags.ddgstf()), (header_end, false));
            return &[];
        }
        let alignment = (usize::from(cpda) + 1) * 4;
        assert_eq!(usize::from(common.pdo), header_end.next_multiple_of(alignment));
        let data = &pdu[common.pdo.into()..];
        assert_eq!(common.flags.ddgstf(), digests.data);
        if !digests.data {
            return data;
        }
        let (data, digest) = data.split_last_chunk::<4>().expect("there is a digest");
        assert_eq!(crc32c::crc32c(data).to_le_bytes(), *digest);
        data
    }

    fn begin(&mut self, sqe: Sqe, data: Vec<u8>) {
        assert!(self.tasks.iter().all(|task| task.cid != sqe.cid), "identifiers in flight are different");
        let sgl = sqe.sgl();
        let in_capsule = sgl.id == SglId::IN_CAPSULE;
        assert!(in_capsule || sgl.id == SglId::BY_TRANSPORT);
        assert_eq!(data.len(), if in_capsule { sgl.length as usize } else { 0 });
        let write = sqe.opcode == 1;
        assert!(write || !in_capsule);
        let (done, asked) = (if in_capsule { sgl.length } else { 0 }, VecDeque::new());
        self.tasks.push(Task { cid: sqe.cid, seed: sqe.nsid, len: sgl.length, write, done, asked, data });
    }

    fn take_data(&mut self, header: H2cData, data: &[u8]) {
        let H2cData { cccid, ttag, datao, datal, .. } = header;
        let task = self.tasks.iter_mut().find(|task| task.cid == cccid).expect("it is in flight");
        let (tag, offset, left) = task.asked.front_mut().expect("it was asked for");
        assert_eq!((*tag, *offset, datal as usize), (ttag, datao, data.len()));
        assert!(datal > 0 && datal <= *left && datal <= self.nature.maxh2cdata);
        assert_eq!(header.header.flags.last_pdu(), datal == *left);
        *offset += datal;
        *left -= datal;
        if *left == 0 {
            task.asked.pop_front();
        }
        task.data.extend(data);
    }

    /// Sends one PDU for one of the commands, which `choice` chooses. False, if there is none to be sent.
    pub(super) fn step(&mut self, choice: usize) -> bool {
        let Nature { digests, piece, success, pad, .. } = self.nature;
        let (max_r2t, tag) = (self.max_r2t, self.next_tag);
        let waits = |task: &Task| task.done == task.len && !task.asked.is_empty();
        let can =
            |task: &&mut Task| !waits(task) && (!task.write || task.done == task.len || task.asked.len() < max_r2t);
        let mut able: Vec<&mut Task> = self.tasks.iter_mut().filter(can).collect();
        if able.is_empty() {
            return false;
        }
        let at = choice % able.len();
        let task = able.swap_remove(at);
        let (cid, offset, length) = (task.cid, task.done, piece.min(task.len - task.done));
        task.done += length;
        let is_last = task.done == task.len;
        let mut has_ended = length == 0;
        if length > 0 && task.write {
            task.asked.push_back((tag, offset, length));
            self.next_tag = tag.wrapping_add(0x1001);
            self.output.extend(r2t(cid, tag, offset, length, digests));
        } else if length > 0 {
            let flags = PduFlags::new().with_last_pdu(is_last).with_success(is_last && success);
            let header = PduHeader { flags, ..common(PduType::C2H_DATA) };
            let header = C2hData { header, cccid: cid, datao: offset, datal: length, ..C2hData::default() };
            let data = patterned(task.seed, offset, length);
            self.output.extend(build(&header, &data, digests, usize::from(pad) * 4));
            has_ended = is_last && success;
        } else {
            self.output.extend(response(cid, Status::SUCCESS, digests));
        }
        if has_ended {
            let at = self.tasks.iter().position(|task| task.cid == cid).expect("it is there");
            let task = self.tasks.swap_remove(at);
            if task.write {
                self.written.push((task.seed, task.data));
            }
        }
        true
    }
}
