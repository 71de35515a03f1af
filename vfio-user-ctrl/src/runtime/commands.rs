//! Admin commands on a controller's home: from the admin queue to the model, and what the model asks for from there.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::control::complaint::complain;
use super::group::{Group, GroupHandle};
use super::home::{Attached, Home};
use super::local::Local;
use super::session::Settings;
use crate::memory::Fault;
use crate::memory::copy::{read_data, write_data};
use crate::model::admin::{Controller, CreateCq, CreateSq, IoTotals, Outcome, Pending, QueueId};
use crate::model::dptr::DptrError;
use crate::model::spec::{Sqe, Status};
use crate::queue::{AdminQueue, Coalescing};

/// The most admin commands that are taken in a row: to make a queue takes a while, in which other guests wait.
const BURST: usize = 4;

impl Home {
    /// Takes admin commands. Whether there were any.
    pub(super) fn poll(&self) -> bool {
        let Some(attached) = self.attached() else { return false };
        if attached.admin.borrow().is_none() {
            self.enable_late(&attached);
            return false;
        }
        if attached.local.queues().is_suspended() {
            return false;
        }
        let mut busy = false;
        for _ in 0..BURST {
            if attached.transferring.get() {
                break;
            }
            let next = attached.admin.borrow().as_ref().and_then(AdminQueue::next);
            let Some(sqe) = next else { break };
            busy = true;
            self.command(&attached, &sqe);
        }
        if busy {
            self.add_delayed();
            self.publish_coalescing(&attached);
        }
        self.complete_events(&attached);
        busy
    }

    fn command(&self, attached: &Rc<Attached>, sqe: &Sqe) {
        let sizes = attached.session.registers.entry_sizes();
        let outcome = {
            let mut model = self.model.borrow_mut();
            model.set_entry_sizes(sizes.iosqes, sizes.iocqes);
            if Controller::wants_io_totals(sqe) {
                model.count_io(self.io_totals());
            }
            model.admin(sqe, self.began.elapsed())
        };
        // A request that this command aborts is completed before it.
        self.complete_events(attached);
        self.carry_out(attached, sqe, outcome);
    }

    fn io_totals(&self) -> IoTotals {
        let totals = self.ctrl.counters.totals();
        IoTotals {
            bytes_read: totals.bytes_read,
            bytes_written: totals.bytes_written,
            read_commands: totals.reads,
            write_commands: totals.writes,
            busy: self.ctrl.counters.busy(),
            media_errors: self.ctrl.counters.media_errors(),
        }
    }

    fn carry_out(&self, attached: &Rc<Attached>, sqe: &Sqe, outcome: Outcome) {
        match outcome {
            Outcome::Done { dw0, status } => attached.complete(sqe.cid, dw0, status),
            Outcome::Data { data, dw0 } => match write_data(&attached.local.queues().view(), sqe, &data) {
                Ok(()) => attached.complete(sqe.cid, dw0, Status::SUCCESS),
                Err(DptrError::Invalid(status)) => attached.complete(sqe.cid, 0, status),
                Err(DptrError::NoFile) => self.send_by_messages(attached, sqe, &data, dw0),
            },
            Outcome::Need { len, pending } => {
                let mut data = vec![0; len];
                match read_data(&attached.local.queues().view(), sqe, &mut data) {
                    Ok(()) => self.supply(attached, sqe, pending, &data),
                    Err(DptrError::Invalid(status)) => attached.complete(sqe.cid, 0, status),
                    Err(DptrError::NoFile) => self.fetch_by_messages(attached, sqe, len, pending),
                }
            }
            Outcome::Held => {
                if let Some(queue) = attached.admin.borrow().as_ref() {
                    queue.hold();
                }
            }
            Outcome::CreateCq(create) => self.create_completion(attached, sqe.cid, create),
            Outcome::CreateSq(create) => self.create_submission(attached, sqe.cid, create),
            Outcome::DeleteSq { qid } => self.delete_submission(attached, sqe.cid, qid),
            Outcome::DeleteCq { qid } => self.delete_completion(attached, sqe.cid, qid),
            Outcome::Abort { sqid, cid } => self.abort(attached, sqe.cid, sqid, cid),
            Outcome::WriteCache { on } => self.set_write_cache(attached, sqe.cid, on),
            Outcome::DoorbellBuffers { shadow, event_idx } => {
                self.use_shadow_doorbells(attached, sqe.cid, shadow, event_idx);
            }
        }
    }

    /// The data of a command that needed some are there.
    pub(super) fn supply(&self, attached: &Rc<Attached>, sqe: &Sqe, pending: Pending, data: &[u8]) {
        let outcome = self.model.borrow_mut().supply(pending, data, self.began.elapsed());
        self.carry_out(attached, sqe, outcome);
    }

    /// What makes `then` be called here, by a message, unless the controller was reset meanwhile.
    pub(super) fn answer<R: Send + 'static>(
        &self,
        attached: &Attached,
        then: impl FnOnce(&Self, &Rc<Attached>, R) + Send + 'static,
    ) -> Answer<R> {
        let (ctrl, session, generation) = (self.ctrl.id, attached.session.id, attached.generation.get());
        let home = Arc::clone(&self.ctrl.home);
        Box::new(move |result| {
            home.send(move |group| {
                let Some(home) = group.home(ctrl) else { return };
                let Some(attached) = home.attached_to(session) else { return };
                if attached.generation.get() == generation {
                    then(&home, &attached, result);
                }
            });
        })
    }

    /// Calls `f` on a poll group, and `then` here with what it says, unless the controller was reset meanwhile.
    fn ask<R: Send + 'static>(
        &self,
        attached: &Attached,
        group: &GroupHandle,
        f: impl FnOnce(&Rc<Group>, Answer<R>) + Send + 'static,
        then: impl FnOnce(&Self, &Rc<Attached>, R) + Send + 'static,
    ) {
        let answer = self.answer(attached, then);
        group.send(move |group| f(group, answer));
    }

    fn create_completion(&self, attached: &Rc<Attached>, cid: u16, create: CreateCq) {
        let queue = QueueId::Cq(create.qid);
        let (Some(group), Ok(entries)) = (self.place(create.qid), u16::try_from(create.entries)) else {
            return self.refuse_queue(attached, cid, queue, Status::INVALID_QUEUE_SIZE);
        };
        attached.local.refresh();
        if let Err(fault) = attached.local.queues().check_completion_queue(create.base, entries) {
            return self.refuse_place(attached, cid, queue, create.base, fault);
        }
        attached.session.doorbells.store(usize::from(create.qid) * 2 + 1, 0);
        attached.completion.borrow_mut().insert(create.qid, Arc::clone(&group));
        let (session, ports) = (Arc::clone(&attached.session), self.port_specs());
        let write_cache = self.model.borrow().volatile_write_cache();
        let make = move |group: &Rc<Group>, answer: Answer<()>| {
            let local = group.local(&session, &ports);
            local.take_settings();
            local.queues().set_write_cache(write_cache);
            let vector = create.interrupts.then_some(create.vector);
            local.queues().create_completion(create.qid, create.base, entries, vector);
            answer(());
        };
        self.ask(attached, &group, make, move |home, attached, ()| {
            home.model.borrow_mut().queue_created(queue);
            attached.complete(cid, 0, Status::SUCCESS);
        });
    }

    fn refuse_place(&self, attached: &Attached, cid: u16, queue: QueueId, base: u64, fault: Fault) {
        complain!(
            self.ctrl,
            "controller '{}': {queue:?} is refused: it cannot be at {base:#x}: {fault}",
            self.ctrl.name
        );
        self.refuse_queue(attached, cid, queue, Status::INVALID_FIELD);
    }

    fn refuse_queue(&self, attached: &Attached, cid: u16, queue: QueueId, status: Status) {
        self.model.borrow_mut().queue_creation_failed(queue);
        attached.complete(cid, 0, status);
    }

    /// The poll group for a completion queue: the home for the first, then the next ones around.
    fn place(&self, cqid: u16) -> Option<Arc<GroupHandle>> {
        let groups = &self.ctrl.groups;
        let home = groups.iter().position(|group| Arc::ptr_eq(group, &self.ctrl.home))?;
        let at = (home + usize::from(cqid).checked_sub(1)?) % groups.len();
        groups.get(at).cloned()
    }

    fn create_submission(&self, attached: &Rc<Attached>, cid: u16, create: CreateSq) {
        let queue = QueueId::Sq(create.qid);
        let group = attached.completion.borrow().get(&create.cqid).cloned();
        let (Some(group), Ok(entries)) = (group, u16::try_from(create.entries)) else {
            return self.refuse_queue(attached, cid, queue, Status::COMPLETION_QUEUE_INVALID);
        };
        attached.local.refresh();
        if let Err(fault) = attached.local.queues().check_submission_queue(create.base, entries) {
            return self.refuse_place(attached, cid, queue, create.base, fault);
        }
        attached.session.doorbells.store(usize::from(create.qid) * 2, 0);
        attached.submission.borrow_mut().insert(create.qid, Arc::clone(&group));
        let session = attached.session.id;
        let make = move |group: &Rc<Group>, answer: Answer<bool>| {
            let made = group
                .find(session)
                .is_some_and(|local| local.queues().create_submission(create.qid, create.base, entries, create.cqid));
            answer(made);
        };
        self.ask(attached, &group, make, move |home, attached, made| {
            if !made {
                return home.refuse_queue(attached, cid, queue, Status::COMPLETION_QUEUE_INVALID);
            }
            home.model.borrow_mut().queue_created(queue);
            attached.complete(cid, 0, Status::SUCCESS);
        });
    }

    fn delete_submission(&self, attached: &Rc<Attached>, cid: u16, qid: u16) {
        let Some(group) = attached.submission.borrow_mut().remove(&qid) else {
            return attached.complete(cid, 0, Status::INVALID_QUEUE_IDENTIFIER);
        };
        let session = attached.session.id;
        let delete = move |group: &Rc<Group>, answer: Answer<()>| {
            let Some(local) = group.find(session) else { return answer(()) };
            local.queues().delete_submission(qid);
            group.when(move || local.queues().is_ended(qid), move || answer(()));
        };
        self.ask(attached, &group, delete, move |home, attached, ()| {
            home.model.borrow_mut().queue_deleted(QueueId::Sq(qid));
            attached.complete(cid, 0, Status::SUCCESS);
        });
    }

    fn delete_completion(&self, attached: &Rc<Attached>, cid: u16, qid: u16) {
        let Some(group) = attached.completion.borrow_mut().remove(&qid) else {
            return attached.complete(cid, 0, Status::INVALID_QUEUE_IDENTIFIER);
        };
        let session = attached.session.id;
        let delete = move |group: &Rc<Group>, answer: Answer<()>| {
            if let Some(local) = group.find(session) {
                local.queues().delete_completion(qid);
            }
            answer(());
        };
        self.ask(attached, &group, delete, move |home, attached, ()| {
            home.model.borrow_mut().queue_deleted(QueueId::Cq(qid));
            attached.complete(cid, 0, Status::SUCCESS);
        });
    }

    fn abort(&self, attached: &Rc<Attached>, cid: u16, sqid: u16, target: u16) {
        let Some(group) = attached.submission.borrow().get(&sqid).cloned() else {
            self.model.borrow_mut().abort_finished();
            return attached.complete(cid, 1, Status::SUCCESS);
        };
        let session = attached.session.id;
        let abort = move |group: &Rc<Group>, answer: Answer<bool>| match group.find(session) {
            Some(local) => local.abort(sqid, target, answer),
            None => answer(false),
        };
        self.ask(attached, &group, abort, move |home, attached, aborted| {
            home.model.borrow_mut().abort_finished();
            // Bit 0 tells that the command was not aborted (section 5.1).
            attached.complete(cid, u32::from(!aborted), Status::SUCCESS);
        });
    }

    /// Shadow doorbells begin with what the doorbells hold, so that queues that are there already go on. The command is completed
    /// when every poll group uses them: from then on the host writes them, and nobody else may.
    fn use_shadow_doorbells(&self, attached: &Rc<Attached>, cid: u16, shadow: u64, event_idx: u64) {
        if !attached.local.queues().can_be_shadows(shadow, event_idx) {
            return attached.complete(cid, 0, Status::INVALID_FIELD);
        }
        // For poll groups that get queues of the session later.
        attached.session.set(Settings { shadow: Some((shadow, event_idx)), ..attached.session.settings() });
        self.ask_all(attached, cid, Local::take_settings);
    }

    /// Has volatile write caches used or not; the command is completed when every poll group does so.
    fn set_write_cache(&self, attached: &Rc<Attached>, cid: u16, on: bool) {
        self.ask_all(attached, cid, move |local| local.queues().set_write_cache(on));
    }

    /// Calls `f` on every poll group that has queues of the client. The command is completed when all have done so.
    fn ask_all(&self, attached: &Rc<Attached>, cid: u16, f: impl Fn(&Local) + Clone + Send + 'static) {
        let session = attached.session.id;
        let left = Arc::new(AtomicUsize::new(self.ctrl.groups.len()));
        for group in &self.ctrl.groups {
            let (left, f) = (Arc::clone(&left), f.clone());
            let set = move |group: &Rc<Group>, answer: Answer<()>| {
                if let Some(local) = group.find(session) {
                    // With the memory that the home has seen.
                    local.refresh();
                    f(&local);
                }
                answer(());
            };
            self.ask(attached, group, set, move |_, attached, ()| {
                if left.fetch_sub(1, Ordering::Relaxed) == 1 {
                    attached.complete(cid, 0, Status::SUCCESS);
                }
            });
        }
    }

    /// Tells the poll groups of interrupt coalescing when the guest has changed it.
    fn publish_coalescing(&self, attached: &Rc<Attached>) {
        let settings = {
            let model = self.model.borrow();
            let coalescing = model.coalescing();
            let micros = u64::try_from(coalescing.time.as_micros()).unwrap_or(u64::MAX);
            let ticks = micros.saturating_mul(spdk::time::ticks_hz() / 1_000_000);
            let at_once = (0..=self.ctrl.max_queues).filter(|vector| !model.coalesces(*vector)).collect();
            let shadow = attached.session.settings().shadow;
            Settings { shadow, coalescing: Coalescing { entries: coalescing.entries, ticks }, at_once }
        };
        self.publish(attached, settings);
    }

    /// Has the poll groups take what the host has set, if it is new.
    fn publish(&self, attached: &Rc<Attached>, settings: Settings) {
        if attached.session.settings() == settings {
            return;
        }
        attached.session.set(settings);
        for (index, group) in self.ctrl.groups.iter().enumerate() {
            if !attached.session.tell(index) {
                continue;
            }
            let session = Arc::clone(&attached.session);
            group.send(move |group| {
                session.hears(index);
                if let Some(local) = group.find(session.id) {
                    local.take_settings();
                }
            });
        }
    }

    /// Completes Asynchronous Event Requests for which there is an event.
    pub(super) fn complete_events(&self, attached: &Rc<Attached>) {
        loop {
            let mut events = attached.events.borrow_mut();
            if events.is_empty() {
                let Some(event) = self.model.borrow_mut().next_event() else { return };
                events.push_back(event);
            }
            let queue = attached.admin.borrow();
            let Some(queue) = queue.as_ref().filter(|queue| queue.resume()) else { return };
            if let Some(event) = events.pop_front() {
                queue.complete(event.cid, event.dw0, event.status);
            }
        }
    }
}

/// How a poll group answers its home.
pub(super) type Answer<R> = Box<dyn FnOnce(R) + Send>;

impl Attached {
    pub(super) fn complete(&self, cid: u16, dw0: u32, status: Status) {
        if let Some(queue) = self.admin.borrow().as_ref() {
            queue.complete(cid, dw0, status);
        }
    }
}
