//! What `runtime::home` and `runtime::commands` do, on one thread and without SPDK.
//!
//! What goes from one poll group to another there waits in an inbox here, so that other things may come before it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use vfio_user_ctrl::memory::copy::{read_data, write_data};
use vfio_user_ctrl::memory::{DoorbellPage, MemView};
use vfio_user_ctrl::model::admin::{self, Controller, DoorbellError, ErrorEntry, IoTotals, Outcome, QueueId};
use vfio_user_ctrl::model::ops::{Op, Ops};
use vfio_user_ctrl::model::regs::{CtrlLimits, Enable, RegEffect, Registers, Version};
use vfio_user_ctrl::model::spec::{Sqe, Status};
use vfio_user_ctrl::queue::{AdminQueue, Coalescing, Interrupts, Queues, Trouble};

use super::identity;
use crate::ram::Ram;

pub(super) const MAX_QUEUES: u16 = 4;
pub(super) const MAX_ENTRIES: u16 = 64;
const MDTS: u8 = 5;
const BURST: usize = 4;

thread_local! {
    /// What the queues' clock says, in microseconds.
    pub(super) static NOW: Cell<u64> = const { Cell::new(0) };
}

/// What follows when all queues are gone.
#[derive(Clone, Copy)]
enum Stopped {
    Reset,
    Failed,
}

/// Something that another thread would say.
enum Answer {
    Created { cid: u16, queue: QueueId, made: bool },
    CqDeleted { cid: u16, qid: u16 },
    SqDeleting { cid: u16, qid: u16 },
    Aborted { cid: u16, aborted: bool },
}

type Inbox = Rc<RefCell<VecDeque<(u64, Answer)>>>;

/// A session of a client with a controller.
pub(super) struct Home {
    pub(super) model: Controller,
    pub(super) registers: Registers,
    pub(super) doorbells: Arc<DoorbellPage>,
    pub(super) interrupts: Arc<Interrupts>,
    pub(super) queues: Queues<Ram>,
    admin: Option<AdminQueue>,
    ops: Ops<Infallible>,
    stopping: Option<Stopped>,
    generation: u64,
    inbox: Inbox,
    completion: BTreeSet<u16>,
    submission: BTreeSet<u16>,
    coalescing: (Coalescing, Vec<u16>),
    events: VecDeque<admin::Completion>,
}

impl Home {
    pub(super) fn new(model: Controller, view: &Rc<MemView>) -> Self {
        let doorbells = Arc::new(DoorbellPage::new().expect("a page"));
        let interrupts = Arc::new(Interrupts::default());
        let clock = || NOW.get();
        let queues = Queues::new(Arc::clone(&doorbells), Arc::clone(&interrupts), Rc::clone(view), 4096 << MDTS, clock);
        Self {
            model,
            registers: Registers::new(&CtrlLimits {
                max_queue_entries: MAX_ENTRIES,
                timeout_500ms: 20,
                version: Version::V2_0,
            }),
            doorbells,
            interrupts,
            queues,
            admin: None,
            ops: Ops::default(),
            stopping: None,
            generation: 0,
            inbox: Inbox::default(),
            completion: BTreeSet::new(),
            submission: BTreeSet::new(),
            coalescing: Default::default(),
            events: VecDeque::new(),
        }
    }

    pub(super) fn model() -> Controller {
        let limits = admin::Limits {
            max_queues: MAX_QUEUES,
            max_queue_entries: MAX_ENTRIES,
            mdts: MDTS,
            vectors: MAX_QUEUES + 1,
            wzsl: 0,
        };
        Controller::new(identity(), limits).expect("good limits")
    }

    fn now() -> Duration {
        Duration::from_micros(NOW.get())
    }

    /// Whether the admin queue is there.
    pub(super) fn is_enabled(&self) -> bool {
        self.admin.is_some()
    }

    pub(super) fn register_written(&mut self, effect: RegEffect) {
        self.ops.push(effect.into());
        self.work();
    }

    fn work(&mut self) {
        while self.stopping.is_none()
            && let Some(op) = self.ops.pop()
        {
            match op {
                Op::Enable(enable) => self.enable(&enable),
                Op::Shutdown => self.registers.set_shutdown_complete(),
                Op::Disable => self.stop_queues(Stopped::Reset),
                Op::Fail => self.stop_queues(Stopped::Failed),
                Op::Reset(never) => match never {},
            }
        }
    }

    fn enable(&mut self, enable: &Enable) {
        self.model.reset();
        self.model.enable(Self::now());
        self.doorbells.clear();
        self.admin = Some(self.queues.create_admin(enable.asq, enable.asqs, enable.acq, enable.acqs));
        self.registers.set_ready();
    }

    fn stop_queues(&mut self, then: Stopped) {
        self.model.reset();
        self.admin = None;
        self.generation += 1;
        self.completion.clear();
        self.submission.clear();
        self.coalescing = Default::default();
        self.events.clear();
        self.queues.delete_all();
        self.stopping = Some(then);
    }

    /// The client is gone: whoever comes next finds the controller as new.
    pub(super) fn detach(mut self) -> Controller {
        self.model.reset();
        self.queues.delete_all();
        self.model
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
        self.poll_admin();
        self.settle();
        let troubles = self.queues.take_troubles();
        for trouble in troubles {
            match trouble {
                Trouble::InvalidDoorbell { .. } => self.model.doorbell_error(DoorbellError::Value),
                Trouble::Failed { sqid, cid, status, slba, nsid } => {
                    self.model.io_error(&ErrorEntry { sqid, cid, status, lba: slba, nsid });
                }
            }
        }
        if self.model.keep_alive_expired(Self::now()) && self.admin.is_some() {
            self.registers.set_fatal();
            self.ops.push(Op::Fail);
            self.work();
        }
    }

    fn poll_admin(&mut self) {
        if self.queues.is_suspended() {
            return;
        }
        let mut busy = false;
        for _ in 0..BURST {
            let Some(sqe) = self.admin.as_ref().and_then(AdminQueue::next) else { break };
            busy = true;
            self.command(&sqe);
        }
        if busy {
            self.publish_coalescing();
        }
        self.complete_events();
    }

    /// What another thread has said; and what waited is over.
    fn settle(&mut self) {
        let answers = self.inbox.take();
        for (generation, answer) in answers {
            if generation == self.generation {
                self.answered(answer);
            }
        }
        if let Some(then) = self.stopping
            && self.queues.is_quiet()
        {
            self.stopping = None;
            self.doorbells.clear();
            if matches!(then, Stopped::Reset) {
                self.registers.reset_done();
                if self.registers.shutdown_is_occurring() {
                    self.registers.set_shutdown_complete();
                }
            }
            self.work();
        }
    }

    fn answered(&mut self, answer: Answer) {
        match answer {
            Answer::Created { cid, queue, made: true } => {
                self.model.queue_created(queue);
                self.complete(cid, 0, Status::SUCCESS);
            }
            Answer::Created { cid, queue, made: false } => {
                self.model.queue_creation_failed(queue);
                self.complete(cid, 0, Status::COMPLETION_QUEUE_INVALID);
            }
            Answer::CqDeleted { cid, qid } => {
                self.model.queue_deleted(QueueId::Cq(qid));
                self.complete(cid, 0, Status::SUCCESS);
            }
            Answer::SqDeleting { cid, qid } if self.queues.is_ended(qid) => {
                self.model.queue_deleted(QueueId::Sq(qid));
                self.complete(cid, 0, Status::SUCCESS);
            }
            Answer::SqDeleting { .. } => self.say(answer),
            Answer::Aborted { cid, aborted } => {
                self.model.abort_finished();
                self.complete(cid, u32::from(!aborted), Status::SUCCESS);
            }
        }
    }

    fn say(&self, answer: Answer) {
        self.inbox.borrow_mut().push_back((self.generation, answer));
    }

    fn complete(&self, cid: u16, dw0: u32, status: Status) {
        if let Some(queue) = &self.admin {
            queue.complete(cid, dw0, status);
        }
    }

    fn command(&mut self, sqe: &Sqe) {
        let sizes = self.registers.entry_sizes();
        self.model.set_entry_sizes(sizes.iosqes, sizes.iocqes);
        if Controller::wants_io_totals(sqe) {
            self.model.count_io(IoTotals::default());
        }
        let outcome = self.model.admin(sqe, Self::now());
        self.complete_events();
        self.carry_out(sqe, outcome);
    }

    fn carry_out(&mut self, sqe: &Sqe, outcome: Outcome) {
        let cid = sqe.cid;
        match outcome {
            Outcome::Done { dw0, status } => self.complete(cid, dw0, status),
            Outcome::Data { data, dw0 } => {
                let written = write_data(&self.queues.view(), sqe, &data);
                self.complete(cid, dw0, written.map_or_else(Status::from, |()| Status::SUCCESS));
            }
            Outcome::Need { len, pending } => {
                assert!(len <= 4096, "no more than a page is fetched");
                let mut data = vec![0; len];
                if let Err(error) = read_data(&self.queues.view(), sqe, &mut data) {
                    self.complete(cid, 0, error.into());
                } else {
                    let outcome = self.model.supply(pending, &data, Self::now());
                    self.carry_out(sqe, outcome);
                }
            }
            Outcome::Held => {
                if let Some(queue) = &self.admin {
                    queue.hold();
                }
            }
            Outcome::CreateCq(create) => {
                assert!(create.qid <= MAX_QUEUES && (2..=MAX_ENTRIES.into()).contains(&create.entries));
                self.doorbells.store(usize::from(create.qid) * 2 + 1, 0);
                assert!(self.completion.insert(create.qid), "the model knows which queues there are");
                let vector = create.interrupts.then_some(create.vector);
                self.queues.create_completion(create.qid, create.base, create.entries as u16, vector);
                self.say(Answer::Created { cid, queue: QueueId::Cq(create.qid), made: true });
            }
            Outcome::CreateSq(create) => {
                assert!(create.qid <= MAX_QUEUES && (2..=MAX_ENTRIES.into()).contains(&create.entries));
                assert!(self.completion.contains(&create.cqid), "the model knows which queues there are");
                self.doorbells.store(usize::from(create.qid) * 2, 0);
                assert!(self.submission.insert(create.qid), "the model knows which queues there are");
                let made = self.queues.create_submission(create.qid, create.base, create.entries as u16, create.cqid);
                assert!(made, "there is the completion queue");
                self.say(Answer::Created { cid, queue: QueueId::Sq(create.qid), made });
            }
            Outcome::DeleteSq { qid } => {
                assert!(self.submission.remove(&qid) && self.queues.delete_submission(qid), "there is such a queue");
                self.say(Answer::SqDeleting { cid, qid });
            }
            Outcome::DeleteCq { qid } => {
                assert!(self.completion.remove(&qid) && self.queues.delete_completion(qid), "there is such a queue");
                self.say(Answer::CqDeleted { cid, qid });
            }
            Outcome::Abort { sqid, cid: target } => {
                assert!(self.submission.contains(&sqid), "there is such a queue");
                let (inbox, generation) = (Rc::clone(&self.inbox), self.generation);
                let heard = Heard(false);
                self.queues.abort(sqid, target, move |aborted| {
                    heard.at_last();
                    inbox.borrow_mut().push_back((generation, Answer::Aborted { cid, aborted }));
                });
            }
            Outcome::WriteCache { on } => {
                self.queues.set_write_cache(on);
                self.complete(cid, 0, Status::SUCCESS);
            }
            Outcome::DoorbellBuffers { shadow, event_idx } => {
                if self.queues.can_be_shadows(shadow, event_idx) {
                    self.queues.set_shadow_doorbells(Some((shadow, event_idx)));
                    self.complete(cid, 0, Status::SUCCESS);
                } else {
                    self.complete(cid, 0, Status::INVALID_FIELD);
                }
            }
        }
    }

    fn publish_coalescing(&mut self) {
        let coalescing = self.model.coalescing();
        let ticks = coalescing.time.as_micros() as u64;
        let at_once = (0..=MAX_QUEUES).filter(|vector| !self.model.coalesces(*vector)).collect();
        let wanted = (Coalescing { entries: coalescing.entries, ticks }, at_once);
        if self.coalescing != wanted {
            self.coalescing = wanted.clone();
            self.queues.set_coalescing(wanted.0, wanted.1);
        }
    }

    fn complete_events(&mut self) {
        loop {
            if self.events.is_empty() {
                let Some(event) = self.model.next_event() else { return };
                self.events.push_back(event);
            }
            let Some(queue) = self.admin.as_ref().filter(|queue| queue.resume()) else { return };
            if let Some(event) = self.events.pop_front() {
                queue.complete(event.cid, event.dw0, event.status);
            }
        }
    }
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
