//! What a target does for a command.

use std::collections::{BTreeMap, VecDeque};

use std::mem::offset_of;

use nvme_spec::admin::{
    AbortResult, AsyncEvent, GetFeaturesDw10, GetLogPageDw10, GetLogPageDw11, IdentifyDw10, IdentifyDw11,
    log_page_dwords_of,
};
use nvme_spec::fabrics::{ConnectData, ConnectFailure, FabricsType, MAX_CNTLID, PropertyCommand};
use nvme_spec::feature::{FeatureId, NumberOfQueues};
use nvme_spec::identify::{Cns, CommandSet, IdentifyControllerNvm, NSID_LIST_ENTRIES};
use nvme_spec::log::{
    AnaState, CommandEffects, CommandEffectsLog, ErrorInformation, FirmwareSlots, LogId, MAX_CHANGED_NAMESPACES, Smart,
};
use nvme_spec::nvm::{DsmDw10, DsmDw11, DsmRange};
use nvme_spec::register::{Cc, Csts, Register, ShutdownNotification, ShutdownStatus};
use nvme_spec::{AdminOpcode, FusedOperation, IoOpcode, PAGE, Status, StatusCode};
use zerocopy::{FromZeros, Immutable, IntoBytes};

use super::command::Command;
use super::device::{self, Namespace, Options};
use crate::pdu;

/// The most requests for events of a controller.
const MAX_EVENT_REQUESTS: usize = 4;

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

    fn structure<T: IntoBytes + Immutable>(data: &T) -> Self {
        Self::data(data.as_bytes().to_vec())
    }

    pub(super) fn result(result: impl Into<u64>) -> Self {
        Self { result: result.into(), ..Self::default() }
    }

    pub(super) fn status(status: Status) -> Self {
        Self { status, ..Self::default() }
    }
}

/// What a host has connected to: an association.
#[derive(Debug, Default)]
pub(super) struct Controller {
    cc: Cc,
    features: BTreeMap<FeatureId, u32>,
    /// Identifiers of requests that wait for an event.
    pub(super) event_requests: VecDeque<u16>,
    /// Events that wait for a request.
    pub(super) events: VecDeque<AsyncEvent>,
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
    pub(super) ana_states: BTreeMap<u32, AnaState>,
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
        if command.fctype().is_some() {
            return Some(self.fabrics(queue, command, data));
        }
        let Some(cntlid) = queue.cntlid else { return Some(Answer::status(Status::COMMAND_SEQUENCE_ERROR)) };
        if queue.qid > 0 {
            return Some(self.io(queue, command, data));
        }
        if command.is_admin(AdminOpcode::ASYNC_EVENT_REQUEST) {
            let requests = &mut self.controllers.get_mut(&cntlid)?.event_requests;
            if requests.len() >= MAX_EVENT_REQUESTS {
                return Some(Answer::status(Status::ASYNC_EVENT_LIMIT_EXCEEDED));
            }
            requests.push_back(command.sqe.cid);
            return None;
        }
        Some(self.admin(cntlid, command))
    }

    fn fabrics(&mut self, queue: &mut Queue, command: &Command, data: &[u8]) -> Answer {
        let PropertyCommand { fctype, offset, value, .. } = command.sqe.as_property();
        match (fctype, queue.cntlid) {
            (FabricsType::CONNECT, None) => self.connect(queue, command, data),
            (FabricsType::PROPERTY_GET, Some(cntlid)) => self.property(cntlid, Register(offset)),
            (FabricsType::PROPERTY_SET, Some(cntlid)) => {
                if let Some(controller) = self.controllers.get_mut(&cntlid).filter(|_| offset == Register::CC.0) {
                    controller.cc = Cc::from_bits(u32::try_from(value).unwrap_or(0));
                }
                Answer::default()
            }
            _ => Answer::status(Status::INVALID_OPCODE),
        }
    }

    fn connect(&mut self, queue: &mut Queue, command: &Command, data: &[u8]) -> Answer {
        let Some(data) = pdu::read::<ConnectData>(data) else {
            return Answer::status(Status::INVALID_FIELD);
        };
        let nqn = data.subnqn.split(|&byte| byte == 0).next().unwrap_or_default();
        if nqn != self.options.nqn.as_bytes() {
            return bad_connect(offset_of!(ConnectData, subnqn));
        }
        let cntlid = if command.qid == 0 {
            let cntlid = self.next_cntlid;
            self.next_cntlid = self.next_cntlid % MAX_CNTLID + 1;
            let mut controller = Controller::default();
            controller.features.insert(FeatureId::KEEP_ALIVE_TIMER, command.sqe.as_connect().kato);
            self.controllers.insert(cntlid, controller);
            cntlid
        } else {
            data.cntlid
        };
        if !self.controllers.contains_key(&cntlid) || command.qid > self.options.io_queues {
            return bad_connect(offset_of!(ConnectData, cntlid));
        }
        *queue = Queue { qid: command.qid, cntlid: Some(cntlid), fused_failed: false };
        Answer::result(cntlid)
    }

    fn property(&self, cntlid: u16, property: Register) -> Answer {
        let cc = self.controllers.get(&cntlid).map_or_else(Cc::new, |controller| controller.cc);
        match property {
            Register::CAP => Answer::result(device::capabilities(&self.options).into_bits()),
            Register::VS => Answer::result(self.options.version.into_bits()),
            Register::CC => Answer::result(cc.into_bits()),
            // Ready as soon as enabled, shut down as soon as asked.
            Register::CSTS => {
                let is_shut_down = cc.shn() != ShutdownNotification::NONE;
                let shst = if is_shut_down { ShutdownStatus::COMPLETE } else { ShutdownStatus::NORMAL };
                Answer::result(Csts::new().with_rdy(cc.en()).with_shst(shst).into_bits())
            }
            _ => Answer::default(),
        }
    }

    fn admin(&mut self, cntlid: u16, command: &Command) -> Answer {
        match AdminOpcode(command.sqe.opcode) {
            AdminOpcode::IDENTIFY => self.identify(cntlid, command),
            AdminOpcode::GET_LOG_PAGE => self.log_page(command),
            AdminOpcode::SET_FEATURES | AdminOpcode::GET_FEATURES => self.features(cntlid, command),
            AdminOpcode::KEEP_ALIVE => Answer::default(),
            AdminOpcode::ABORT => Answer::result(AbortResult::new().with_not_aborted(true).into_bits()),
            _ => Answer::status(Status::INVALID_OPCODE),
        }
    }

    fn identify(&self, cntlid: u16, command: &Command) -> Answer {
        let sqe = &command.sqe;
        let namespace = self.namespaces.get(&sqe.nsid);
        match IdentifyDw10::from_bits(sqe.cdw10).cns() {
            Cns::NAMESPACE => namespace
                .map_or_else(|| Answer::data(vec![0; PAGE]), |namespace| Answer::structure(&namespace.identify())),
            Cns::CONTROLLER => {
                let last = self.namespaces.keys().next_back().copied().unwrap_or(1);
                let groups = self.ana_groups().len().try_into().unwrap_or(u32::MAX);
                Answer::structure(&device::identify_controller(&self.options, cntlid, last.max(32), groups.max(1)))
            }
            Cns::ACTIVE_NAMESPACES => Answer::data(self.active_namespaces(sqe.nsid)),
            Cns::NAMESPACE_DESCRIPTORS => namespace.map_or_else(
                || Answer::status(Status::INVALID_NAMESPACE),
                |namespace| Answer::data(namespace.descriptors()),
            ),
            // Nothing is limited.
            Cns::COMMAND_SET_CONTROLLER if IdentifyDw11::from_bits(sqe.cdw11).csi() == CommandSet::NVM => {
                Answer::structure(&IdentifyControllerNvm::new_zeroed())
            }
            _ => Answer::status(Status::INVALID_FIELD),
        }
    }

    fn active_namespaces(&self, after: u32) -> Vec<u8> {
        let ids = self.namespaces.keys().filter(|&&nsid| nsid > after).take(NSID_LIST_ENTRIES);
        let mut list: Vec<u8> = ids.flat_map(|nsid| nsid.to_le_bytes()).collect();
        list.resize(PAGE, 0);
        list
    }

    /// Returns the groups of namespaces, with their states.
    fn ana_groups(&self) -> BTreeMap<u32, (AnaState, Vec<u32>)> {
        let mut groups = BTreeMap::<u32, (AnaState, Vec<u32>)>::new();
        for (&nsid, namespace) in &self.namespaces {
            let group = namespace.ana_group;
            groups.entry(group).or_insert_with(|| (self.ana_state(group), Vec::new())).1.push(nsid);
        }
        groups
    }

    fn ana_state(&self, group: u32) -> AnaState {
        self.ana_states.get(&group).copied().unwrap_or(AnaState::OPTIMIZED)
    }

    fn log_page(&mut self, command: &Command) -> Answer {
        let sqe = &command.sqe;
        let (dw10, dw11) = (GetLogPageDw10::from_bits(sqe.cdw10), GetLogPageDw11::from_bits(sqe.cdw11));
        let log = match dw10.lid() {
            LogId::ERROR_INFORMATION => ErrorInformation::new_zeroed().as_bytes().to_vec(),
            LogId::SMART => Smart::new_zeroed().as_bytes().to_vec(),
            LogId::FIRMWARE_SLOT => FirmwareSlots::new_zeroed().as_bytes().to_vec(),
            LogId::CHANGED_NAMESPACE_LIST => {
                let mut log = std::mem::take(&mut self.changed);
                log.resize(MAX_CHANGED_NAMESPACES, 0);
                log.as_bytes().to_vec()
            }
            LogId::COMMAND_EFFECTS => commands_supported().as_bytes().to_vec(),
            LogId::ANA if self.options.ana => device::ana_log(self.ana_changes, &self.ana_groups()),
            _ => return Answer::status(Status::INVALID_LOG_PAGE),
        };
        let offset = u64::from(sqe.cdw12) | u64::from(sqe.cdw13) << 32;
        let (asked, _) = command.data();
        let wanted = usize::try_from(log_page_dwords_of(dw10, dw11) * 4).unwrap_or(usize::MAX).min(asked);
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(log.len());
        let mut data = log[start..].to_vec();
        // Behind a log's end there is nothing.
        data.resize(wanted.min(1 << 20), 0);
        Answer::data(data)
    }

    /// Features that are kept are as they were set, or as Connect said.
    fn features(&mut self, cntlid: u16, command: &Command) -> Answer {
        let Some(controller) = self.controllers.get_mut(&cntlid) else { return Answer::status(Status::INVALID_FIELD) };
        // Both commands have it at the same place.
        let fid = GetFeaturesDw10::from_bits(command.sqe.cdw10).fid();
        if fid == FeatureId::NUMBER_OF_QUEUES {
            let queues = self.options.io_queues.saturating_sub(1);
            return Answer::result(NumberOfQueues::new().with_nsq(queues).with_ncq(queues).into_bits());
        }
        if command.is_admin(AdminOpcode::SET_FEATURES) {
            controller.features.insert(fid, command.sqe.cdw11);
            return Answer::default();
        }
        Answer::result(controller.features.get(&fid).copied().unwrap_or(0))
    }

    fn io(&mut self, queue: &mut Queue, command: &Command, data: &[u8]) -> Answer {
        if command.sqe.fuse() == FusedOperation::SECOND && std::mem::take(&mut queue.fused_failed) {
            return Answer::status(Status::ABORTED_FAILED_FUSED);
        }
        let answer = self.block_io(command, data);
        if command.sqe.fuse() == FusedOperation::FIRST {
            queue.fused_failed = !answer.status.is_success();
        }
        answer
    }

    fn block_io(&mut self, command: &Command, data: &[u8]) -> Answer {
        let opcode = IoOpcode(command.sqe.opcode);
        if opcode == IoOpcode::FLUSH {
            return Answer::default();
        }
        let Some(namespace) = self.namespaces.get_mut(&command.sqe.nsid) else {
            return Answer::status(Status::INVALID_NAMESPACE);
        };
        let state = self.ana_states.get(&namespace.ana_group).copied().unwrap_or(AnaState::OPTIMIZED);
        match state {
            AnaState::PERSISTENT_LOSS => return Answer::status(Status::ANA_PERSISTENT_LOSS),
            AnaState::INACCESSIBLE => return Answer::status(Status::ANA_INACCESSIBLE),
            AnaState::CHANGE => return Answer::status(Status::ANA_TRANSITION),
            _ => {}
        }
        if opcode == IoOpcode::DATASET_MANAGEMENT {
            return deallocate(namespace, command, data);
        }
        let Some(range) = namespace.range(command.slba(), command.blocks().into()) else {
            return Answer::status(Status::LBA_OUT_OF_RANGE);
        };
        let medium = &mut namespace.data[range];
        match opcode {
            IoOpcode::READ => return Answer::data(medium.to_vec()),
            IoOpcode::WRITE if data.len() == medium.len() => medium.copy_from_slice(data),
            IoOpcode::COMPARE if data.len() == medium.len() => {
                if medium != data {
                    return Answer::status(Status::COMPARE_FAILURE);
                }
            }
            IoOpcode::WRITE_ZEROES => medium.fill(0),
            IoOpcode::WRITE | IoOpcode::COMPARE => return Answer::status(Status::INVALID_FIELD),
            _ => return Answer::status(Status::INVALID_OPCODE),
        }
        Answer::default()
    }
}

/// Returns the answer to a Connect whose data is wrong at an offset.
fn bad_connect(offset: usize) -> Answer {
    let place = ConnectFailure::new().with_ipo(u16::try_from(offset).unwrap_or(u16::MAX)).with_in_data(true);
    let status = Status::of(StatusCode::CONNECT_INVALID_PARAMETERS).with_dnr(true);
    Answer { status, ..Answer::result(place.into_bits()) }
}

/// Dataset Management: what is deallocated reads as zeroes.
fn deallocate(namespace: &mut Namespace, command: &Command, data: &[u8]) -> Answer {
    let ranges = usize::from(DsmDw10::from_bits(command.sqe.cdw10).nr()) + 1;
    let deallocates = DsmDw11::from_bits(command.sqe.cdw11).ad();
    let found: Vec<DsmRange> = data.chunks_exact(size_of::<DsmRange>()).take(ranges).filter_map(pdu::read).collect();
    if found.len() < ranges {
        return Answer::status(Status::INVALID_FIELD);
    }
    for DsmRange { slba, nlb, .. } in found {
        let Some(range) = namespace.range(slba, nlb.into()) else { return Answer::status(Status::LBA_OUT_OF_RANGE) };
        if deallocates {
            namespace.data[range].fill(0);
        }
    }
    Answer::default()
}

/// Returns the Commands Supported and Effects log.
fn commands_supported() -> CommandEffectsLog {
    const ADMIN: [AdminOpcode; 7] = [
        AdminOpcode::GET_LOG_PAGE,
        AdminOpcode::IDENTIFY,
        AdminOpcode::ABORT,
        AdminOpcode::SET_FEATURES,
        AdminOpcode::GET_FEATURES,
        AdminOpcode::ASYNC_EVENT_REQUEST,
        AdminOpcode::KEEP_ALIVE,
    ];
    const READS: [IoOpcode; 3] = [IoOpcode::FLUSH, IoOpcode::READ, IoOpcode::COMPARE];
    const WRITES: [IoOpcode; 3] = [IoOpcode::WRITE, IoOpcode::WRITE_ZEROES, IoOpcode::DATASET_MANAGEMENT];
    let supported = CommandEffects::new().with_csupp(true);
    let mut log = CommandEffectsLog::new_zeroed();
    for opcode in ADMIN {
        log.acs[usize::from(opcode.0)] = supported;
    }
    for opcode in READS {
        log.iocs[usize::from(opcode.0)] = supported;
    }
    for opcode in WRITES {
        log.iocs[usize::from(opcode.0)] = supported.with_lbcc(true);
    }
    log
}
