//! A client's session: the admin worker that ships, with one poll group, on one thread and without SPDK.
//!
//! What the runtime does by messages waits in lists here, so that other things may come before it. Nothing is decided
//! here.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use guest_memory::copy::{read_data, write_data};
use guest_memory::dptr::DptrError;
use guest_memory::{DoorbellPage, MemView};
use nvme_device::admin_worker::{
    AdminCommand, AdminWorker, Answer, Condition, GroupRequest, Input, Output, Placement, Request, Requests, Ticket,
};
use nvme_device::model::admin::{Controller, IoTotals, Limits, QueueId};
use nvme_device::model::io::NsGeometry;
use nvme_device::model::regs::{CtrlLimits, RegEffect, Registers, Version};
use nvme_device::queue::{AdminQueue, Interrupts, Queues, Settings};
use nvme_spec::{Sqe, Status};

use super::{DISKS, geometry, identity, namespace};
use crate::ram::{Disk, Ram};

pub(super) const MAX_QUEUES: u16 = 4;
pub(super) const MAX_ENTRIES: u16 = 64;
const MDTS: u8 = 5;
const BURST: usize = 4;

thread_local! {
    /// What the queues' clock says, in microseconds.
    pub(super) static NOW: Cell<u64> = const { Cell::new(0) };
    static BEGIN: Instant = Instant::now();
}

/// Returns the same time as the connection has it.
pub(super) fn now() -> Instant {
    let begin = BEGIN.with(Instant::clone);
    begin.checked_add(Duration::from_micros(NOW.get())).unwrap_or(begin)
}

type Inbox = Rc<RefCell<VecDeque<(Ticket, Answer)>>>;
type Say = Box<dyn FnOnce(Answer)>;

/// What outlives a session.
pub(super) struct Kept {
    worker: AdminWorker,
    /// The namespaces that can be used.
    live: BTreeSet<u32>,
}

impl Kept {
    pub(super) fn new() -> Self {
        let limits = Limits {
            max_queues: MAX_QUEUES,
            max_queue_entries: MAX_ENTRIES,
            mdts: MDTS,
            vectors: MAX_QUEUES + 1,
            wzsl: 0,
        };
        let model = Controller::new(identity(), limits).expect("good limits");
        let placement = Placement { groups: 1, own: 0, ticks_per_us: 1 };
        Self { worker: AdminWorker::new(model, placement), live: BTreeSet::new() }
    }
}

/// A session of a client with a controller.
pub(super) struct Session {
    kept: Kept,
    disks: Vec<Rc<Disk>>,
    pub(super) registers: Registers,
    pub(super) doorbells: Arc<DoorbellPage>,
    pub(super) interrupts: Arc<Interrupts>,
    pub(super) queues: Queues<Ram>,
    admin: Option<AdminQueue>,
    requests: Requests,
    settings: Settings,
    /// Messages to the poll group.
    sent: VecDeque<(Ticket, GroupRequest)>,
    /// What it will answer when something has ended.
    waiting: Vec<(Condition, Say)>,
    /// Its answers.
    inbox: Inbox,
    /// Device resets that are not over.
    resets: BTreeSet<u64>,
    next_reset: u64,
}

impl Session {
    pub(super) fn new(kept: Kept, view: &Rc<MemView>, disks: &[Rc<Disk>]) -> Self {
        let doorbells = Arc::new(DoorbellPage::new().expect("a page"));
        let interrupts = Arc::new(Interrupts::default());
        let clock = || NOW.get();
        let queues = Queues::new(Arc::clone(&doorbells), Arc::clone(&interrupts), Rc::clone(view), 4096 << MDTS, clock);
        for nsid in &kept.live {
            let index = *nsid as usize - 1;
            queues.add_namespace(namespace(index, &disks[index]));
        }
        let limits = CtrlLimits { max_queue_entries: MAX_ENTRIES, timeout_500ms: 20, version: Version::V2_0 };
        let mut session = Self {
            kept,
            disks: disks.to_vec(),
            registers: Registers::new(&limits),
            doorbells,
            interrupts,
            queues,
            admin: None,
            requests: Requests::default(),
            settings: Settings::default(),
            sent: VecDeque::new(),
            waiting: Vec::new(),
            inbox: Inbox::default(),
            resets: BTreeSet::new(),
            next_reset: 0,
        };
        session.drive(Input::Attached);
        session
    }

    /// Returns whether the admin queue is there.
    pub(super) fn is_enabled(&self) -> bool {
        self.admin.is_some()
    }

    /// Returns how many device resets are not over.
    pub(super) fn resets(&self) -> usize {
        self.resets.len()
    }

    pub(super) fn register_written(&mut self, effect: RegEffect) {
        self.ask(effect.into());
    }

    pub(super) fn reset(&mut self) {
        // The admin worker's part is the request.
        let _ = self.registers.function_reset();
        let number = self.next_reset;
        self.next_reset += 1;
        self.resets.insert(number);
        self.ask(Request::Reset { number });
    }

    fn ask(&mut self, request: Request) {
        if self.requests.push(request)
            && self.kept.worker.wants_request()
            && let Some(request) = self.requests.pop()
        {
            self.drive(Input::Request(request));
        }
    }

    /// The client is gone: whoever comes next finds the controller as new.
    pub(super) fn detach(mut self) -> Kept {
        self.drive(Input::Detached);
        while let Some(request) = self.requests.pop() {
            if let Request::Reset { number } = request {
                self.resets.remove(&number);
            }
        }
        assert!(self.resets.is_empty(), "a device reset that the client waits for never ends");
        self.queues.delete_all();
        self.kept
    }

    pub(super) fn set_view(&mut self, view: &Rc<MemView>) {
        self.queues.set_view(view);
        if let Some(admin) = &self.admin {
            admin.forget_rings();
        }
    }

    /// One round of everything.
    pub(super) fn poll(&mut self) {
        self.queues.poll();
        self.queues.signal();
        self.queues.reap();
        if self.kept.worker.has_deadline() {
            self.drive(Input::Poll);
        }
        self.poll_admin();
        self.settle();
        let error_events = self.queues.take_error_events();
        self.drive(Input::ErrorEvents(error_events));
        self.drive(Input::Tick);
    }

    fn poll_admin(&mut self) {
        if self.queues.is_suspended() {
            return;
        }
        let mut busy = false;
        for _ in 0..BURST {
            if !self.kept.worker.wants_command() {
                break;
            }
            let Some(sqe) = self.admin.as_ref().and_then(AdminQueue::next) else { break };
            busy = true;
            let io_totals = Controller::wants_io_totals(&sqe).then(IoTotals::default);
            let (entry_sizes, pin_in_use) = (self.registers.entry_sizes(), self.interrupts.pin().is_in_use());
            self.drive(Input::Command(AdminCommand { sqe, entry_sizes, pin_in_use, io_totals }));
        }
        if busy {
            self.drive(Input::CommandsTaken);
        }
        self.complete_events();
        let entries = usize::from(u16::MAX).min(4096);
        assert!(self.kept.worker.in_flight() < entries, "each command in flight has a completion entry");
    }

    /// What was sent to the poll group is done there; what has ended is answered; the answers come.
    fn settle(&mut self) {
        for (ticket, request) in std::mem::take(&mut self.sent) {
            let heard = matches!(request, GroupRequest::Abort { .. }).then(|| Heard(false));
            let inbox = Rc::clone(&self.inbox);
            let say: Say = Box::new(move |answer| {
                heard.into_iter().for_each(Heard::at_last);
                inbox.borrow_mut().push_back((ticket, answer));
            });
            check(request);
            self.waiting.extend(request.carry_out(&self.queues, self.settings.clone(), say));
        }
        for (until, say) in std::mem::take(&mut self.waiting) {
            if until.holds(&self.queues) {
                say(Answer::Done);
            } else {
                self.waiting.push((until, say));
            }
        }
        let answers = self.inbox.take();
        for (ticket, answer) in answers {
            self.drive(Input::Answer(ticket, answer));
        }
    }

    /// Gives the admin worker an input and carries out what comes of it.
    pub(super) fn drive(&mut self, input: Input) {
        let mut next = Some(input);
        while let Some(input) = next.take() {
            self.kept.worker.handle(input, Duration::from_micros(NOW.get()));
            while let Some(output) = self.kept.worker.next_output() {
                if let Some(input) = self.carry_out(output) {
                    self.kept.worker.handle(input, Duration::from_micros(NOW.get()));
                }
            }
            if self.kept.worker.wants_request() {
                next = self.requests.pop().map(Input::Request);
            }
        }
    }

    fn carry_out(&mut self, output: Output) -> Option<Input> {
        match output {
            Output::Check(ticket, place) => {
                return Some(Input::Answer(ticket, Answer::Checked(place.check(&self.queues))));
            }
            Output::CreateAdminQueues(enable) => {
                assert!(self.admin.is_none(), "there are admin queues already");
                self.doorbells.clear();
                self.admin = Some(self.queues.create_admin(enable.asq, enable.asqs, enable.acq, enable.acqs));
            }
            Output::DropAdminQueues => self.admin = None,
            Output::SetReady => self.registers.set_ready(),
            Output::SetFatal => self.registers.set_fatal(),
            Output::SetShutdownComplete => self.registers.set_shutdown_complete(),
            Output::ResetDone => {
                assert!(self.queues.is_quiet() && self.kept.worker.in_flight() == 0, "CSTS.RDY falls too early");
                self.registers.reset_done();
                return self.registers.shutdown_is_occurring().then_some(Input::Request(Request::Shutdown));
            }
            Output::ResetOver { number } => assert!(self.resets.remove(&number), "a reset is over twice"),
            Output::ForgetQueues => {
                self.doorbells.clear();
                self.settings = Settings::default();
            }
            Output::KeepAliveExpired => {
                self.registers.set_fatal();
                let _ = self.requests.push(Request::Fail);
            }
            Output::Send { group, ticket, request } => {
                assert_eq!(group, 0, "there is one poll group");
                self.sent.push_back((ticket, request));
            }
            Output::StoreSettings(settings) => self.settings = settings,
            Output::PublishSettings(settings) => {
                self.settings = settings.clone();
                self.queues.set(settings);
            }
            output => return self.carry_out_more(output),
        }
        None
    }

    fn carry_out_more(&mut self, output: Output) -> Option<Input> {
        match output {
            Output::Complete { cid, dw0, status } => {
                if let Some(queue) = &self.admin {
                    queue.complete(cid, dw0, status);
                }
            }
            Output::Hold => {
                if let Some(queue) = &self.admin {
                    queue.hold();
                }
            }
            Output::CompleteEvents => self.complete_events(),
            Output::WriteData { ticket, sqe, data } => return self.write_data(ticket, &sqe, &data),
            Output::ReadData { ticket, sqe, len } => return self.read_data(ticket, &sqe, len),
            Output::ClearDoorbell(QueueId::Sq(qid)) => self.doorbells.store(usize::from(qid) * 2, 0),
            Output::ClearDoorbell(QueueId::Cq(qid)) => self.doorbells.store(usize::from(qid) * 2 + 1, 0),
            Output::AddChannels { nsid } => {
                let index = nsid as usize - 1;
                assert!(self.kept.live.insert(nsid), "a namespace is there twice");
                self.queues.add_namespace(namespace(index, &self.disks[index]));
            }
            Output::RemoveChannels { nsid } => {
                self.kept.live.remove(&nsid);
                self.queues.remove_namespace(nsid);
            }
            Output::ResizeNamespace { nsid, blocks } => {
                let (shift, _) = DISKS[nsid as usize - 1];
                if NsGeometry::new(blocks, shift).is_ok() {
                    self.queues.set_geometry(nsid, geometry(blocks, shift));
                }
            }
            Output::RefuseNamespace { .. } | Output::Report(_) => {}
            output => unreachable!("{output:?} is carried out elsewhere"),
        }
        None
    }

    fn write_data(&self, ticket: Ticket, sqe: &Sqe, data: &[u8]) -> Option<Input> {
        let written = match write_data(&self.queues.view(), sqe, data) {
            Ok(()) => Ok(()),
            Err(DptrError::Invalid(status)) => Err(status),
            Err(DptrError::NoFile) => {
                let inbox = Rc::clone(&self.inbox);
                let sent = move |result: Result<(), Status>| {
                    inbox.borrow_mut().push_back((ticket, Answer::Written(result)));
                };
                self.queues.send_data(sqe, data, sent);
                return None;
            }
        };
        Some(Input::Answer(ticket, Answer::Written(written)))
    }

    fn read_data(&self, ticket: Ticket, sqe: &Sqe, len: usize) -> Option<Input> {
        assert!(len <= 4096, "no more than a page is fetched");
        let mut data = vec![0; len];
        let read = match read_data(&self.queues.view(), sqe, &mut data) {
            Ok(()) => Ok(data),
            Err(DptrError::Invalid(status)) => Err(status),
            Err(DptrError::NoFile) => {
                let inbox = Rc::clone(&self.inbox);
                let fetched = move |result: Result<Vec<u8>, Status>| {
                    inbox.borrow_mut().push_back((ticket, Answer::Read(result)));
                };
                self.queues.fetch_data(sqe, len, fetched);
                return None;
            }
        };
        Some(Input::Answer(ticket, Answer::Read(read)))
    }

    fn complete_events(&mut self) {
        let Some(queue) = &self.admin else { return };
        while self.kept.worker.prepare_event() && queue.resume() {
            if let Some(event) = self.kept.worker.take_event() {
                queue.complete(event.cid, event.dw0, event.status);
            }
        }
    }
}

/// What poll groups are asked for can be done.
fn check(request: GroupRequest) {
    let (GroupRequest::CreateCq { qid, entries, .. } | GroupRequest::CreateSq { qid, entries, .. }) = request else {
        return;
    };
    assert!((1..=MAX_QUEUES).contains(&qid) && (2..=MAX_ENTRIES).contains(&entries), "{request:?}");
}

/// Each abort must hear of its end.
struct Heard(bool);

impl Heard {
    fn at_last(mut self) {
        self.0 = true;
    }
}

impl Drop for Heard {
    fn drop(&mut self) {
        assert!(self.0 || std::thread::panicking(), "an abort was never answered");
    }
}
