//! What the tests have around the admin worker: registers, an admin queue, poll groups that answer when they are told
//! to.

use std::collections::BTreeMap;
use std::time::Duration;

use nvme_spec::Cqe;
use nvme_spec::register::{Aqa, Cc, Csts, Register, ShutdownNotification, ShutdownStatus};

use super::*;
use crate::model::regs::{CtrlLimits, EntrySizes, Registers};

/// Offsets of registers, and fields of CC.
const CC: usize = Register::CC.offset();
const AQA: usize = Register::AQA.offset();
const ASQ: usize = Register::ASQ.offset();
const ACQ: usize = Register::ACQ.offset();
const EN: u32 = Cc::new().with_en(true).into_bits();
const SHN_NORMAL: u32 = Cc::new().with_shn(ShutdownNotification::NORMAL).into_bits();
const ENTRY_SIZES: u32 = Cc::new().with_iosqes(Sqe::SIZE_LOG2).with_iocqes(Cqe::SIZE_LOG2).into_bits();
const SHST: u32 = Csts::new().with_shst(ShutdownStatus(0b11)).into_bits();
const SHST_COMPLETE: u32 = Csts::new().with_shst(ShutdownStatus::COMPLETE).into_bits();

/// An admin command's data on its way.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum DataTransfer {
    ToHost(Ticket, usize),
    FromHost(Ticket, usize),
}

/// The admin queues, as far as completion entries go.
#[derive(Debug)]
struct Entries {
    free: u16,
    used: u16,
}

/// The surroundings of an admin worker. They carry out what it puts out, and see to it that it keeps its promises.
pub(super) struct Bench {
    pub(super) worker: AdminWorker,
    pub(super) registers: Registers,
    pub(super) requests: Requests,
    pub(super) now: Duration,
    /// What poll groups have not answered.
    pub(super) sent: Vec<(usize, Ticket, GroupRequest)>,
    /// What is wrong with the guest's memory.
    pub(super) fault: Option<Fault>,
    /// Data goes by messages, and takes a moment.
    pub(super) slow_data: bool,
    pub(super) transfers: Vec<DataTransfer>,
    /// The same, of enable cycles that are over.
    late_transfers: Vec<DataTransfer>,
    admin: Option<Entries>,
    /// Commands that are not completed, and what they are.
    pub(super) open: BTreeMap<u16, Sqe>,
    next_cid: u16,
    pub(super) completed: Vec<(u16, u32, Status)>,
    pub(super) resets_over: Vec<u64>,
    pub(super) reports: Vec<Report>,
    pub(super) stored: Settings,
    pub(super) published: usize,
    pub(super) cleared: Vec<QueueId>,
    pub(super) namespaces: Vec<(u32, Option<u64>)>,
    pub(super) refused: Vec<u32>,
    /// The newest flush, unless it has ended, or the admin worker has said that it takes too long.
    owes_flush: Option<Ticket>,
}

impl Bench {
    /// Returns a controller without a client.
    pub(super) fn detached() -> Self {
        let limits = CtrlLimits { max_queue_entries: 256, timeout_500ms: 20, version: Version::V2_0 };
        Self {
            worker: AdminWorker::new(model(), Placement { groups: GROUPS, own: OWN, ticks_per_us: 10 }),
            registers: Registers::new(&limits),
            requests: Requests::default(),
            now: 100 * SECOND,
            sent: Vec::new(),
            fault: None,
            slow_data: false,
            transfers: Vec::new(),
            late_transfers: Vec::new(),
            admin: None,
            open: BTreeMap::new(),
            next_cid: 0,
            completed: Vec::new(),
            resets_over: Vec::new(),
            reports: Vec::new(),
            stored: Settings::default(),
            published: 0,
            cleared: Vec::new(),
            namespaces: Vec::new(),
            refused: Vec::new(),
            owes_flush: None,
        }
    }

    /// Returns a controller with a client.
    pub(super) fn attached() -> Self {
        let mut bench = Self::detached();
        bench.drive(Input::Attached);
        bench
    }

    /// Returns a controller that is enabled.
    pub(super) fn enabled() -> Self {
        let mut bench = Self::attached();
        bench.enable();
        assert!(bench.registers.ready());
        bench
    }

    /// Another client has come, after that of before has gone.
    pub(super) fn attach_another(&mut self) {
        self.drive(Input::Detached);
        self.drive(Input::Attached);
        let limits = CtrlLimits { max_queue_entries: 256, timeout_500ms: 20, version: Version::V2_0 };
        self.registers = Registers::new(&limits);
        self.requests = Requests::default();
        // Answers may still come: they are of a session that is over, and are dropped on their way.
        self.sent.clear();
        self.transfers.clear();
        self.late_transfers.clear();
        self.owes_flush = None;
    }

    fn write(&mut self, offset: usize, data: &[u8]) {
        if let Some(effect) = self.registers.write(offset, data) {
            self.ask(effect.into());
        }
    }

    /// Asks for something as the control thread does.
    pub(super) fn ask(&mut self, request: Request) {
        let _ = self.requests.push(request);
        self.take_request();
    }

    fn take_request(&mut self) {
        if self.worker.wants_request()
            && let Some(request) = self.requests.pop()
        {
            self.drive(Input::Request(request));
        }
    }

    pub(super) fn enable(&mut self) {
        let aqa = Aqa::new().with_asqs(ENTRIES - 1).with_acqs(ENTRIES - 1);
        self.write(AQA, &aqa.into_bits().to_le_bytes());
        self.write(ASQ, &0x10_0000_u64.to_le_bytes());
        self.write(ACQ, &0x20_0000_u64.to_le_bytes());
        self.write(CC, &(ENTRY_SIZES | EN).to_le_bytes());
    }

    pub(super) fn disable(&mut self) {
        self.write(CC, &ENTRY_SIZES.to_le_bytes());
    }

    pub(super) fn shut_down(&mut self) {
        let cc = self.registers.cc() | SHN_NORMAL;
        self.write(CC, &cc.to_le_bytes());
    }

    pub(super) fn disable_and_shut_down(&mut self) {
        self.write(CC, &(ENTRY_SIZES | SHN_NORMAL).to_le_bytes());
    }

    /// A device reset, as the control thread does it.
    pub(super) fn reset(&mut self, number: u64) {
        let _ = self.registers.function_reset();
        self.ask(Request::Reset { number });
    }

    pub(super) fn is_shut_down(&self) -> bool {
        self.registers.csts() & SHST == SHST_COMPLETE
    }

    pub(super) fn is_shutting_down(&self) -> bool {
        self.registers.csts() & SHST != 0
    }

    /// Gives the admin worker an input and carries out what comes of it.
    pub(super) fn drive(&mut self, input: Input) {
        let mut next = Some(input);
        while let Some(input) = next.take() {
            self.worker.handle(input, self.now);
            while let Some(output) = self.worker.next_output() {
                if let Some(input) = self.carry_out(output) {
                    self.worker.handle(input, self.now);
                }
            }
            if self.worker.wants_request() {
                next = self.requests.pop().map(Input::Request);
            }
        }
    }

    fn carry_out(&mut self, output: Output) -> Option<Input> {
        match output {
            Output::Check(ticket, place) => {
                let misplaced = |fault| UnusableMemory { gpa: gpa_of(place), fault };
                return Some(Input::Answer(ticket, Answer::Checked(self.fault.map(misplaced).map_or(Ok(()), Err))));
            }
            Output::CreateAdminQueues(enable) => {
                assert!(self.admin.is_none(), "there are admin queues");
                self.admin = Some(Entries { free: enable.acqs - 1, used: 0 });
            }
            Output::DropAdminQueues => {
                self.admin = None;
                self.open.clear();
                self.late_transfers.append(&mut self.transfers);
            }
            Output::SetReady => {
                assert!(self.admin.is_some(), "CSTS.RDY without admin queues");
                self.registers.set_ready();
            }
            Output::SetFatal => self.registers.set_fatal(),
            Output::SetShutdownComplete => {
                assert!(self.owes_flush.is_none(), "a shutdown is complete before its flush");
                self.registers.set_shutdown_complete();
            }
            Output::ResetDone => {
                self.owes_flush = None;
                assert!(self.is_quiesced(), "CSTS.RDY falls while something is in flight");
                self.registers.reset_done();
                return self.registers.shutdown_is_occurring().then_some(Input::Request(Request::Shutdown));
            }
            Output::ResetOver { number } => self.resets_over.push(number),
            Output::ForgetQueues => self.stored = Settings::default(),
            Output::KeepAliveExpired => {
                self.registers.set_fatal();
                let _ = self.requests.push(Request::Fail);
            }
            output => self.carry_out_more(output),
        }
        None
    }

    fn carry_out_more(&mut self, output: Output) {
        match output {
            Output::Complete { cid, dw0, status } => self.complete(cid, dw0, status),
            Output::Hold => self.entries().free += 1,
            Output::CompleteEvents => self.complete_events(),
            Output::WriteData { ticket, data, .. } => self.transfer(DataTransfer::ToHost(ticket, data.len())),
            Output::ReadData { ticket, len, .. } => self.transfer(DataTransfer::FromHost(ticket, len)),
            Output::ClearDoorbell(queue) => self.cleared.push(queue),
            Output::Send { group, ticket, request } => {
                assert!(group < GROUPS, "there is no poll group {group}");
                if request == GroupRequest::Flush {
                    self.owes_flush = Some(ticket);
                }
                self.sent.push((group, ticket, request));
            }
            Output::StoreSettings(settings) => self.stored = settings,
            Output::PublishSettings(settings) => {
                self.stored = settings;
                self.published += 1;
            }
            Output::AddChannels { nsid } => self.namespaces.push((nsid, Some(0))),
            Output::ResizeNamespace { nsid, blocks } => self.namespaces.push((nsid, Some(blocks))),
            Output::RemoveChannels { nsid } => self.namespaces.push((nsid, None)),
            Output::RefuseNamespace { nsid, .. } => self.refused.push(nsid),
            Output::Report(report) => {
                if report == Report::FlushTooSlow {
                    self.owes_flush = None;
                }
                self.reports.push(report);
            }
            output => unreachable!("{output:?} is carried out elsewhere"),
        }
    }

    /// Returns whether no poll group has commands in flight, or is to have queues.
    fn is_quiesced(&self) -> bool {
        self.worker.in_flight() == 0
            && !self.sent.iter().any(|(.., request)| *request == GroupRequest::DeleteAll)
            && self.admin.is_none()
    }

    fn entries(&mut self) -> &mut Entries {
        self.admin.as_mut().expect("there are admin queues")
    }

    fn complete(&mut self, cid: u16, dw0: u32, status: Status) {
        assert!(self.open.remove(&cid).is_some(), "command {cid} is completed twice, or was none");
        self.entries().used += 1;
        self.completed.push((cid, dw0, status));
    }

    pub(super) fn complete_events(&mut self) {
        while self.worker.prepare_event() && self.entries().free > 0 {
            self.entries().free -= 1;
            let event = self.worker.take_event().expect("it was prepared");
            self.complete(event.cid, event.dw0, event.status);
        }
    }

    fn transfer(&mut self, transfer: DataTransfer) {
        self.transfers.push(transfer);
        assert_eq!(self.transfers.len(), 1, "one command's data goes at a time");
    }

    /// The host takes all completions.
    pub(super) fn reap(&mut self) {
        if let Some(entries) = &mut self.admin {
            entries.free += std::mem::take(&mut entries.used);
        }
    }

    /// The host leaves a command, if there is room for it. Its identifier.
    pub(super) fn try_command(&mut self, sqe: Sqe) -> Option<u16> {
        if !self.worker.wants_command() || self.admin.as_ref().is_none_or(|entries| entries.free == 0) {
            return None;
        }
        self.entries().free -= 1;
        let cid = self.next_cid;
        self.next_cid = self.next_cid.wrapping_add(1);
        let sqe = Sqe { cid, ..sqe };
        self.open.insert(cid, sqe);
        let sizes = EntrySizes { iosqes: Sqe::SIZE_LOG2, iocqes: Cqe::SIZE_LOG2 };
        let io_totals = Controller::wants_io_totals(&sqe).then(IoTotals::default);
        self.drive(Input::Command(AdminCommand { sqe, entry_sizes: sizes, pin_in_use: false, io_totals }));
        if !self.slow_data {
            self.end_transfers(true);
        }
        if self.worker.wants_command() {
            self.drive(Input::CommandsTaken);
            self.complete_events();
        }
        Some(cid)
    }

    /// Returns the same, of a command that there is room for.
    pub(super) fn command(&mut self, sqe: Sqe) -> u16 {
        self.try_command(sqe).expect("a command can be taken")
    }

    /// Data that was on its way has come, or could not.
    pub(super) fn end_transfers(&mut self, well: bool) {
        let mut transfers = std::mem::take(&mut self.late_transfers);
        transfers.append(&mut self.transfers);
        for transfer in transfers {
            let (ticket, answer) = match transfer {
                DataTransfer::ToHost(ticket, _) => (ticket, Answer::Written(result(well, ()))),
                DataTransfer::FromHost(ticket, len) => (ticket, Answer::Read(result(well, vec![0x11; len]))),
            };
            self.drive(Input::Answer(ticket, answer));
        }
    }

    /// The poll group's answer to what is at that place in the list.
    pub(super) fn answer(&mut self, at: usize, answer: Answer) {
        let (_, ticket, _) = self.sent.remove(at);
        self.owes_flush = self.owes_flush.filter(|flush| *flush != ticket);
        self.drive(Input::Answer(ticket, answer));
    }

    /// The answers to all that was sent, and to what comes of that.
    pub(super) fn answer_all(&mut self) {
        while !self.sent.is_empty() {
            self.answer(0, Answer::Done);
        }
    }

    /// Returns what was sent, without tickets.
    pub(super) fn requests_sent(&self) -> Vec<(usize, GroupRequest)> {
        self.sent.iter().map(|(group, _, request)| (*group, *request)).collect()
    }

    /// Returns status and dword 0 of a command that was completed.
    pub(super) fn completion(&self, cid: u16) -> Option<(u32, Status)> {
        self.completed.iter().find(|(completed, ..)| *completed == cid).map(|(_, dw0, status)| (*dw0, *status))
    }

    /// Makes a pair of queues.
    pub(super) fn make_pair(&mut self, qid: u16) {
        for sqe in [create_cq(qid), create_sq(qid, qid)] {
            let cid = self.command(sqe);
            self.answer_all();
            assert_eq!(self.completion(cid), Some((0, Status::SUCCESS)));
            self.reap();
        }
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now += time;
        if self.worker.has_deadline() {
            self.drive(Input::Poll);
        }
    }
}

fn result<T>(well: bool, value: T) -> Result<T, Status> {
    if well { Ok(value) } else { Err(Status::DATA_TRANSFER_ERROR) }
}

fn gpa_of(place: QueuePlace) -> u64 {
    match place {
        QueuePlace::AdminQueues(enable) => enable.asq,
        QueuePlace::CompletionQueue { base, .. } | QueuePlace::SubmissionQueue { base, .. } => base,
        QueuePlace::ShadowDoorbells { shadow, .. } => shadow,
    }
}
