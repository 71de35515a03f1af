//! What a target does for a command.

use std::collections::{BTreeMap, VecDeque};

use nvme_spec::feature::FeatureId;
use nvme_spec::register::Register;
use nvme_spec::{Status, StatusCode};

use super::command::{Command, fctype, opcode};
use super::device::{self, IDENTIFY_SIZE, Namespace, Options, ana, put};

/// The parameters of a Connect are wrong.
const CONNECT_INVALID: Status = Status::of(StatusCode::CONNECT_INVALID_PARAMETERS).with_dnr(true);
/// The feature of that name.
const KEEP_ALIVE_TIMER: u8 = FeatureId::KEEP_ALIVE_TIMER.0;
const MAX_EVENT_REQUESTS: usize = 4;

/// Properties.
const CAP: u32 = Register::CAP.0;
const VS: u32 = Register::VS.0;
const CC: u32 = Register::CC.0;
const CSTS: u32 = Register::CSTS.0;

/// The answer to a command.
#[derive(Debug, Clone, Default)]
pub(super) struct Answer {
    pub(super) status: Status,
    pub(super) result: u64,
    pub(super) data: Vec<u8>,
}

impl Answer {
    fn data(data: Vec<u8>) -> Self {
        Self { data, ..Self::default() }
    }

    fn result(result: impl Into<u64>) -> Self {
        Self { result: result.into(), ..Self::default() }
    }

    pub(super) fn status(status: Status) -> Self {
        Self { status, ..Self::default() }
    }
}

/// What a host has connected to: an association.
#[derive(Debug, Default)]
pub(super) struct Controller {
    cc: u32,
    features: BTreeMap<u8, u32>,
    /// Identifiers of requests that wait for an event.
    pub(super) event_requests: VecDeque<u16>,
    /// Events that wait for a request.
    pub(super) events: VecDeque<u32>,
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Queue {
    pub(super) qid: u16,
    /// The controller; none before Connect.
    pub(super) cntlid: Option<u16>,
    /// The first half of a fused pair failed.
    fused_failed: bool,
}

/// What a target has.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) options: Options,
    pub(super) namespaces: BTreeMap<u32, Namespace>,
    pub(super) ana_states: BTreeMap<u32, u8>,
    pub(super) ana_changes: u64,
    pub(super) changed: Vec<u32>,
    pub(super) controllers: BTreeMap<u16, Controller>,
    next_cntlid: u16,
}

impl Device {
    pub(super) fn new(options: Options, namespaces: BTreeMap<u32, Namespace>) -> Self {
        Self {
            options,
            namespaces,
            ana_states: BTreeMap::new(),
            ana_changes: 0,
            changed: Vec::new(),
            controllers: BTreeMap::new(),
            next_cntlid: 1,
        }
    }

    /// Carries a command out. Nothing, if its answer comes later.
    pub(super) fn execute(&mut self, queue: &mut Queue, command: &Command, data: &[u8]) -> Option<Answer> {
        if command.is_fabrics() {
            return Some(self.fabrics(queue, command, data));
        }
        let Some(cntlid) = queue.cntlid else { return Some(Answer::status(Status::COMMAND_SEQUENCE_ERROR)) };
        if queue.qid > 0 {
            return Some(self.io(queue, command, data));
        }
        if command.opcode == opcode::ASYNC_EVENT {
            let requests = &mut self.controllers.get_mut(&cntlid)?.event_requests;
            if requests.len() >= MAX_EVENT_REQUESTS {
                return Some(Answer::status(Status::ASYNC_EVENT_LIMIT_EXCEEDED));
            }
            requests.push_back(command.cid);
            return None;
        }
        Some(self.admin(cntlid, command))
    }

    fn fabrics(&mut self, queue: &mut Queue, command: &Command, data: &[u8]) -> Answer {
        let sqe = &command.sqe;
        let offset = u32::from_le_bytes([sqe[44], sqe[45], sqe[46], sqe[47]]);
        match (command.fctype, queue.cntlid) {
            (fctype::CONNECT, None) => self.connect(queue, command, data),
            (fctype::PROPERTY_GET, Some(cntlid)) => self.property(cntlid, offset),
            (fctype::PROPERTY_SET, Some(cntlid)) => {
                if let Some(controller) = self.controllers.get_mut(&cntlid).filter(|_| offset == CC) {
                    controller.cc = u32::from_le_bytes([sqe[48], sqe[49], sqe[50], sqe[51]]);
                }
                Answer::default()
            }
            _ => Answer::status(Status::INVALID_OPCODE),
        }
    }

    fn connect(&mut self, queue: &mut Queue, command: &Command, data: &[u8]) -> Answer {
        let (Some(nqn), Some(&[low, high])) = (data.get(256..512), data.get(16..18).and_then(|id| id.first_chunk()))
        else {
            return Answer::status(Status::INVALID_FIELD);
        };
        let nqn = nqn.split(|&byte| byte == 0).next().unwrap_or_default();
        if nqn != self.options.nqn.as_bytes() {
            // The place of what is wrong: the subsystem's name, in the data.
            return Answer { status: CONNECT_INVALID, result: 256 | 1 << 16, data: Vec::new() };
        }
        let cntlid = if command.qid == 0 {
            let cntlid = self.next_cntlid;
            self.next_cntlid = self.next_cntlid % 0xffef + 1;
            let mut controller = Controller::default();
            // It is asked for in Connect, in milliseconds.
            controller.features.insert(KEEP_ALIVE_TIMER, command.cdw[2]);
            self.controllers.insert(cntlid, controller);
            cntlid
        } else {
            u16::from_le_bytes([low, high])
        };
        if !self.controllers.contains_key(&cntlid) || command.qid > self.options.io_queues {
            return Answer { status: CONNECT_INVALID, result: 16 | 1 << 16, data: Vec::new() };
        }
        *queue = Queue { qid: command.qid, cntlid: Some(cntlid), fused_failed: false };
        Answer::result(cntlid)
    }

    fn property(&self, cntlid: u16, offset: u32) -> Answer {
        let cc = self.controllers.get(&cntlid).map_or(0, |controller| controller.cc);
        Answer::result(match offset {
            CAP => device::capabilities(&self.options),
            VS => self.options.version.into(),
            CC => cc.into(),
            // Ready as soon as enabled, shut down as soon as asked.
            CSTS => u64::from(cc & 1) | u64::from(cc >> 14 & 3 != 0) << 3,
            _ => 0,
        })
    }

    fn admin(&mut self, cntlid: u16, command: &Command) -> Answer {
        match command.opcode {
            opcode::IDENTIFY => self.identify(cntlid, command),
            opcode::GET_LOG_PAGE => self.log_page(command),
            opcode::SET_FEATURES | opcode::GET_FEATURES => self.features(cntlid, command),
            opcode::KEEP_ALIVE => Answer::default(),
            // Not aborted.
            opcode::ABORT => Answer::result(1_u64),
            _ => Answer::status(Status::INVALID_OPCODE),
        }
    }

    fn identify(&self, cntlid: u16, command: &Command) -> Answer {
        let namespace = self.namespaces.get(&command.nsid);
        match command.cns() {
            0x00 => Answer::data(namespace.map_or_else(|| vec![0; IDENTIFY_SIZE], Namespace::identify)),
            0x01 => {
                let last = self.namespaces.keys().next_back().copied().unwrap_or(1);
                let groups = self.ana_groups().len().try_into().unwrap_or(u32::MAX);
                Answer::data(device::identify_controller(&self.options, cntlid, last.max(32), groups.max(1)))
            }
            0x02 => Answer::data(self.active_namespaces(command.nsid)),
            0x03 => namespace.map_or_else(
                || Answer::status(Status::INVALID_NAMESPACE),
                |namespace| Answer::data(namespace.descriptors()),
            ),
            // I/O Command Set specific: of the NVM command set, nothing is limited.
            0x06 if command.cdw[1] >> 24 == 0 => Answer::data(vec![0; IDENTIFY_SIZE]),
            _ => Answer::status(Status::INVALID_FIELD),
        }
    }

    fn active_namespaces(&self, after: u32) -> Vec<u8> {
        let ids = self.namespaces.keys().filter(|&&nsid| nsid > after).take(IDENTIFY_SIZE / 4);
        let mut list: Vec<u8> = ids.flat_map(|nsid| nsid.to_le_bytes()).collect();
        list.resize(IDENTIFY_SIZE, 0);
        list
    }

    /// Returns the groups of namespaces, with their states.
    fn ana_groups(&self) -> BTreeMap<u32, (u8, Vec<u32>)> {
        let mut groups = BTreeMap::<u32, (u8, Vec<u32>)>::new();
        for (&nsid, namespace) in &self.namespaces {
            let group = namespace.ana_group;
            groups.entry(group).or_insert_with(|| (self.ana_state(group), Vec::new())).1.push(nsid);
        }
        groups
    }

    fn ana_state(&self, group: u32) -> u8 {
        self.ana_states.get(&group).copied().unwrap_or(ana::OPTIMIZED)
    }

    fn log_page(&mut self, command: &Command) -> Answer {
        let log = match command.lid() {
            // Errors, and what is supported: one Identify's worth of nothing.
            0x01 => vec![0; 64],
            0x02 | 0x03 => vec![0; 512],
            0x04 => {
                let mut log: Vec<u8> =
                    std::mem::take(&mut self.changed).into_iter().flat_map(u32::to_le_bytes).collect();
                log.resize(IDENTIFY_SIZE, 0);
                log
            }
            0x05 => commands_supported(),
            0x0c if self.options.ana => device::ana_log(self.ana_changes, &self.ana_groups()),
            _ => return Answer::status(Status::INVALID_LOG_PAGE),
        };
        let dwords = u64::from(command.cdw[0] >> 16) | u64::from(command.cdw[1] & 0xffff) << 16;
        let offset = u64::from(command.cdw[2]) | u64::from(command.cdw[3]) << 32;
        let (asked, _) = command.sgl();
        let wanted = usize::try_from((dwords + 1) * 4).unwrap_or(usize::MAX).min(asked);
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(log.len());
        let mut data = log[start..].to_vec();
        // Behind a log's end there is nothing.
        data.resize(wanted.min(1 << 20), 0);
        Answer::data(data)
    }

    /// Features that are kept are as they were set, or as Connect said.
    fn features(&mut self, cntlid: u16, command: &Command) -> Answer {
        const NUMBER_OF_QUEUES: u8 = FeatureId::NUMBER_OF_QUEUES.0;
        let Some(controller) = self.controllers.get_mut(&cntlid) else { return Answer::status(Status::INVALID_FIELD) };
        let fid = command.fid();
        if fid == NUMBER_OF_QUEUES {
            let queues = u64::from(self.options.io_queues.saturating_sub(1));
            return Answer::result(queues | queues << 16);
        }
        if command.opcode == opcode::SET_FEATURES {
            controller.features.insert(fid, command.cdw[1]);
            return Answer::default();
        }
        Answer::result(controller.features.get(&fid).copied().unwrap_or(0))
    }

    fn io(&mut self, queue: &mut Queue, command: &Command, data: &[u8]) -> Answer {
        const FIRST: u8 = 1;
        const SECOND: u8 = 2;
        if command.fuse() == SECOND && std::mem::take(&mut queue.fused_failed) {
            return Answer::status(Status::ABORTED_FAILED_FUSED);
        }
        let answer = self.block_io(command, data);
        if command.fuse() == FIRST {
            queue.fused_failed = answer.status != Status::SUCCESS;
        }
        answer
    }

    fn block_io(&mut self, command: &Command, data: &[u8]) -> Answer {
        if command.opcode == opcode::FLUSH {
            return Answer::default();
        }
        let Some(namespace) = self.namespaces.get_mut(&command.nsid) else {
            return Answer::status(Status::INVALID_NAMESPACE);
        };
        let state = self.ana_states.get(&namespace.ana_group).copied().unwrap_or(ana::OPTIMIZED);
        match state {
            ana::PERSISTENT_LOSS => return Answer::status(Status::ANA_PERSISTENT_LOSS),
            ana::INACCESSIBLE => return Answer::status(Status::ANA_INACCESSIBLE),
            ana::CHANGE => return Answer::status(Status::ANA_TRANSITION),
            _ => {}
        }
        if command.opcode == opcode::DSM {
            return deallocate(namespace, command, data);
        }
        let Some(range) = namespace.range(command.slba(), command.blocks().into()) else {
            return Answer::status(Status::LBA_OUT_OF_RANGE);
        };
        let medium = &mut namespace.data[range];
        match command.opcode {
            opcode::READ => return Answer::data(medium.to_vec()),
            opcode::WRITE if data.len() == medium.len() => medium.copy_from_slice(data),
            opcode::COMPARE if data.len() == medium.len() => {
                if medium != data {
                    return Answer::status(Status::COMPARE_FAILURE);
                }
            }
            opcode::WRITE_ZEROES => medium.fill(0),
            opcode::WRITE | opcode::COMPARE => return Answer::status(Status::INVALID_FIELD),
            _ => return Answer::status(Status::INVALID_OPCODE),
        }
        Answer::default()
    }
}

/// Dataset Management: what is deallocated reads as zeroes.
fn deallocate(namespace: &mut Namespace, command: &Command, data: &[u8]) -> Answer {
    let ranges = (command.cdw[0] & 0xff) as usize + 1;
    let deallocates = command.cdw[1] & 1 << 2 != 0;
    let (descriptors, _) = data.as_chunks::<16>();
    let Some(descriptors) = descriptors.get(..ranges) else { return Answer::status(Status::INVALID_FIELD) };
    for descriptor in descriptors {
        let (dwords, _) = descriptor.as_chunks::<4>();
        let [_, blocks, low, high] = [0, 1, 2, 3].map(|index| u32::from_le_bytes(dwords[index]));
        let slba = u64::from(low) | u64::from(high) << 32;
        let Some(range) = namespace.range(slba, blocks.into()) else { return Answer::status(Status::LBA_OUT_OF_RANGE) };
        if deallocates {
            namespace.data[range].fill(0);
        }
    }
    Answer::default()
}

/// Returns the Commands Supported and Effects log.
fn commands_supported() -> Vec<u8> {
    const ADMIN: [u8; 7] = [
        opcode::GET_LOG_PAGE,
        opcode::IDENTIFY,
        opcode::ABORT,
        opcode::SET_FEATURES,
        opcode::GET_FEATURES,
        opcode::ASYNC_EVENT,
        opcode::KEEP_ALIVE,
    ];
    const IO: [u8; 6] =
        [opcode::FLUSH, opcode::WRITE, opcode::READ, opcode::COMPARE, opcode::WRITE_ZEROES, opcode::DSM];
    // CSUPP, and LBCC for those that change data.
    let mut log = vec![0; IDENTIFY_SIZE];
    for opcode in ADMIN {
        put(&mut log, usize::from(opcode) * 4, &[1]);
    }
    for opcode in IO {
        let changes = matches!(opcode, opcode::WRITE | opcode::WRITE_ZEROES | opcode::DSM);
        put(&mut log, 1024 + usize::from(opcode) * 4, &[1 | u8::from(changes) << 1]);
    }
    log
}
