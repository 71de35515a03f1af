//! What all queues of a session share on one thread.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use super::aborts::Aborts;
use super::client_dma::ClientTransfers;
use super::interrupt::Coalescing;
use guest_memory::doorbells::{head_index, tail_index};
use guest_memory::{DoorbellPage, Fault, MemView, QueueMemory, ShadowDoorbells, UnmappedRegions};
use nvme_spec::{Sqe, Status};

/// Something that the admin side should know of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueErrorEvent {
    /// A doorbell of the queue was written with a value that is not valid.
    InvalidDoorbell {
        /// The queue.
        qid: u16,
    },
    /// A command failed.
    Failed {
        /// Its submission queue.
        sqid: u16,
        /// Its identifier.
        cid: u16,
        /// Its status.
        status: Status,
        /// Its first block.
        slba: u64,
        /// Its namespace.
        nsid: u32,
    },
}

/// A command names a guest address that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "command {cid} of queue {sqid} (opcode {opcode:02x}h, namespace {nsid}) cannot use guest address {gpa:#x}: {fault}"
)]
pub struct CommandFault {
    /// Its submission queue.
    pub sqid: u16,
    /// Its identifier.
    pub cid: u16,
    /// What it is.
    pub opcode: u8,
    /// Its namespace.
    pub nsid: u32,
    /// The address.
    pub gpa: u64,
    /// Why it cannot be used.
    pub fault: Fault,
}

/// No more are kept until they are taken: a guest must not fill our memory with its errors.
const MAX_ERROR_EVENTS: usize = 64;

/// What the queues of a session have in common on one thread.
#[derive(Debug)]
pub(super) struct Context {
    doorbells: Arc<DoorbellPage>,
    /// Where the places of I/Os are.
    queue_memory: OnceCell<Arc<QueueMemory>>,
    view: RefCell<Rc<MemView>>,
    shadow: RefCell<Option<Shadow>>,
    has_shadow: Cell<bool>,
    coalescing: Cell<Coalescing>,
    /// The vectors whose interrupts are not coalesced.
    at_once: RefCell<Vec<u16>>,
    clock: fn() -> u64,
    /// The clock's count, as it was a moment ago: the time at which commands are taken.
    now: Cell<u64>,
    /// There are commands of namespaces that take no more for now.
    has_held: Cell<bool>,
    /// What records of these queues belong to.
    trace_owner: Cell<u16>,
    /// Commands that failed because data could not be had or kept.
    media_errors: Cell<u64>,
    /// Commands whose I/O was dropped before it had ended.
    dropped: Cell<u64>,
    /// The function may not access guest memory.
    suspended: Cell<bool>,
    /// Until when the pin is not raised, if it was unmasked a moment ago.
    pin_settled_at: Cell<Option<u64>>,
    /// Queues with an interrupt to raise.
    marked: RefCell<Vec<u16>>,
    /// Queues with completions that could not be posted.
    parked: RefCell<Vec<u16>>,
    error_events: RefCell<Vec<QueueErrorEvent>>,
    faults: RefCell<Vec<CommandFault>>,
    client_transfers: ClientTransfers,
    aborts: Aborts,
}

/// Shadow doorbells (Doorbell Buffer Config, section 5.8): the buffers' guest addresses, and where they are while they
/// are mapped.
#[derive(Debug)]
struct Shadow {
    values: u64,
    event_index: u64,
    mapped: Option<(ShadowDoorbells, ShadowDoorbells)>,
    /// By index of a doorbell what its shadow held when the buffers came, or [`WRITTEN`]. While it holds that still,
    /// the doorbell counts: until Doorbell Buffer Config is completed the host rings doorbells.
    begun_with: Vec<u32>,
}

/// The host has written to the shadow: it counts from now on.
const WRITTEN: u32 = u32::MAX;

impl Shadow {
    fn new(values: u64, event_index: u64) -> Self {
        Self { values, event_index, mapped: None, begun_with: Vec::new() }
    }

    /// Returns the shadows and their event indexes, if they are mapped.
    fn map(&mut self, view: &RefCell<Rc<MemView>>) -> Option<&(ShadowDoorbells, ShadowDoorbells)> {
        if self.mapped.is_none() {
            let view = view.borrow();
            let values = ShadowDoorbells::resolve(&view, self.values);
            let event_index = ShadowDoorbells::resolve(&view, self.event_index);
            self.mapped = values.ok().zip(event_index.ok());
        }
        self.mapped.as_ref()
    }

    /// Notes that this shadow holds `value`. Returns whether the host has not written to it since the buffers came.
    #[inline]
    fn observe_shadow(&mut self, index: usize, value: u32) -> bool {
        match self.begun_with.get_mut(index) {
            None | Some(&mut WRITTEN) => false,
            Some(begun) if *begun == value => true,
            Some(begun) => {
                *begun = WRITTEN;
                false
            }
        }
    }
}

/// The host need not ring for any value that follows on `value`.
#[inline]
fn store_event_index(event_index: &ShadowDoorbells, index: usize, value: u32) {
    let behind = value.wrapping_sub(1) & 0xffff;
    if event_index.load(index) != behind {
        event_index.store(index, behind);
    }
}

impl Context {
    pub(super) fn new(doorbells: Arc<DoorbellPage>, view: Rc<MemView>, clock: fn() -> u64) -> Rc<Self> {
        Rc::new(Self {
            doorbells,
            queue_memory: OnceCell::new(),
            view: RefCell::new(view),
            shadow: RefCell::new(None),
            has_shadow: Cell::new(false),
            coalescing: Cell::default(),
            at_once: RefCell::default(),
            clock,
            now: Cell::new(clock()),
            has_held: Cell::new(false),
            trace_owner: Cell::new(0),
            media_errors: Cell::new(0),
            dropped: Cell::new(0),
            suspended: Cell::new(false),
            pin_settled_at: Cell::new(None),
            marked: RefCell::default(),
            parked: RefCell::default(),
            error_events: RefCell::default(),
            faults: RefCell::default(),
            client_transfers: ClientTransfers::default(),
            aborts: Aborts::default(),
        })
    }

    /// The places of I/Os are in `memory` from now on, where there is room. That is said once.
    pub(super) fn set_queue_memory(&self, memory: Arc<QueueMemory>) {
        let _ = self.queue_memory.set(memory);
    }

    /// Returns where they are to be.
    pub(super) fn queue_memory(&self) -> Option<&Arc<QueueMemory>> {
        self.queue_memory.get()
    }

    /// Returns the newest view of guest memory that this thread has.
    #[inline]
    pub(super) fn view(&self) -> Rc<MemView> {
        Rc::clone(&self.view.borrow())
    }

    /// Returns whether the function may not access guest memory.
    #[inline]
    pub(super) fn is_suspended(&self) -> bool {
        self.suspended.get()
    }

    /// The function may not access guest memory any more, or may again.
    pub(super) fn set_suspended(&self, suspended: bool) {
        self.suspended.set(suspended);
    }

    /// Returns whether there may be commands of namespaces that take no more for now.
    #[inline]
    pub(super) fn has_held(&self) -> bool {
        self.has_held.get()
    }

    /// There may be such commands, or there are none.
    pub(super) fn set_held(&self, held: bool) {
        self.has_held.set(held);
    }

    /// Transfers of data in memory without a file.
    pub(super) fn client_transfers(&self) -> &ClientTransfers {
        &self.client_transfers
    }

    /// Returns the aborts that are in progress.
    pub(super) fn aborts(&self) -> &Aborts {
        &self.aborts
    }

    /// Returns the clock's count, or 0 if nobody needs it.
    pub(super) fn ticks(&self) -> u64 {
        if self.coalescing.get().ticks == 0 { 0 } else { (self.clock)() }
    }

    /// Returns the clock's count as it was when it was last set.
    #[inline]
    pub(super) fn now(&self) -> u64 {
        self.now.get()
    }

    /// The pin is not raised for so many ticks of the clock, or until it is said that it may be.
    pub(super) fn let_pin_settle(&self, ticks: u64) {
        self.pin_settled_at.set(Some((self.clock)().saturating_add(ticks)));
    }

    /// Returns when the pin may be raised, if that is not at once.
    #[inline]
    pub(super) fn pin_settled_at(&self) -> Option<u64> {
        self.pin_settled_at.get()
    }

    /// Returns whether the clock has not come to `at`.
    pub(super) fn is_before(&self, at: u64) -> bool {
        (self.clock)() < at
    }

    /// The pin may be raised.
    pub(super) fn pin_is_settled(&self) {
        self.pin_settled_at.set(None);
    }

    /// Returns what records of these queues belong to.
    pub(super) fn trace_owner(&self) -> u16 {
        self.trace_owner.get()
    }

    /// Sets what they belong to.
    pub(super) fn set_trace_owner(&self, owner: u16) {
        self.trace_owner.set(owner);
    }

    /// Sets what the clock's count is.
    #[inline]
    pub(super) fn set_now(&self, now: u64) {
        self.now.set(now);
    }

    /// Interrupt coalescing for a vector.
    #[inline]
    pub(super) fn coalescing(&self, vector: u16) -> Coalescing {
        let coalescing = self.coalescing.get();
        if coalescing.ticks > 0 && self.at_once.borrow().contains(&vector) { Coalescing::default() } else { coalescing }
    }

    /// Returns the tail of a submission queue, as the guest has it. Anything may be in it. `None` while it is not to be
    /// had.
    #[inline]
    pub(super) fn submission_tail(&self, qid: u16) -> Option<u32> {
        self.doorbell(qid, tail_index(qid))
    }

    /// Returns the head of a completion queue, likewise.
    pub(super) fn completion_head(&self, qid: u16) -> Option<u32> {
        self.doorbell(qid, head_index(qid))
    }

    /// Returns the tail of a submission queue for those who only look: none where that would need guest memory which
    /// must not be accessed.
    pub(super) fn submission_tail_to_tell(&self, qid: u16) -> Option<u32> {
        if self.is_suspended() && self.has_shadow.get() && qid > 0 { None } else { self.submission_tail(qid) }
    }

    #[inline]
    fn doorbell(&self, qid: u16, index: usize) -> Option<u32> {
        // The admin queue has no shadow (section 5.8).
        if self.has_shadow.get() && qid > 0 { self.shadow_value(index) } else { Some(self.doorbells.load(index)) }
    }

    /// Returns a shadow doorbell. Its event index is set to what is behind it: the host never needs to write the
    /// doorbell itself, since the shadow is looked at in each round.
    ///
    /// While the shadow's memory is not mapped there is no value: that of the doorbell itself is an old one, and
    /// entries that were carried out long ago would be taken for new ones.
    fn shadow_value(&self, index: usize) -> Option<u32> {
        let mut shadow = self.shadow.borrow_mut();
        let shadow = shadow.as_mut()?;
        let (values, event_index) = shadow.map(&self.view)?;
        let value = values.load(index);
        store_event_index(event_index, index, value);
        // An old value would have commands carried out again.
        if values.is_poisoned() {
            return None;
        }
        Some(if shadow.observe_shadow(index, value) { self.doorbells.load(index) } else { value })
    }

    /// The shadow of a doorbell begins with `value`. To be called only while the host may not write it: before the
    /// completion of the command that gave the buffers, or of the one that made the queue. Until the host writes it,
    /// the doorbell counts if `doorbell_counts`.
    pub(super) fn begin_shadow(&self, index: usize, value: u32, doorbell_counts: bool) {
        let mut shadow = self.shadow.borrow_mut();
        let Some(shadow) = shadow.as_mut() else { return };
        let Some((values, event_index)) = shadow.map(&self.view) else { return };
        if values.load(index) != value {
            values.store(index, value);
        }
        store_event_index(event_index, index, value);
        if doorbell_counts && shadow.begun_with.len() <= index {
            shadow.begun_with.resize(index + 1, WRITTEN);
        }
        if let Some(begun) = shadow.begun_with.get_mut(index) {
            *begun = if doorbell_counts { value } else { WRITTEN };
        }
    }

    /// Returns where the shadow doorbells are.
    pub(super) fn shadow_buffers(&self) -> Option<(u64, u64)> {
        self.shadow.borrow().as_ref().map(|shadow| (shadow.values, shadow.event_index))
    }

    /// Guest memory has changed.
    pub(super) fn set_view(&self, view: &Rc<MemView>, unmapped: &UnmappedRegions) {
        self.view.replace(Rc::clone(view));
        if let Some(shadow) = self.shadow.borrow_mut().as_mut() {
            let is_gone = |(values, event_index): &(ShadowDoorbells, ShadowDoorbells)| {
                unmapped.any(|range| values.intersects(range) || event_index.intersects(range))
            };
            shadow.mapped.take_if(|mapped| is_gone(mapped));
        }
    }

    /// Uses shadow doorbells at these guest addresses: the shadows, and their event indexes.
    pub(super) fn set_shadow(&self, buffers: Option<(u64, u64)>) {
        self.has_shadow.set(buffers.is_some());
        self.shadow.replace(buffers.map(|(values, event_index)| Shadow::new(values, event_index)));
    }

    /// Sets interrupt coalescing, and the vectors that it does not hold for.
    pub(super) fn set_coalescing(&self, coalescing: Coalescing, at_once: Vec<u16>) {
        self.coalescing.set(coalescing);
        self.at_once.replace(at_once);
    }

    /// A completion queue has an interrupt to raise.
    pub(super) fn mark(&self, cqid: u16) {
        self.marked.borrow_mut().push(cqid);
    }

    /// A completion queue has completions that wait for its memory.
    pub(super) fn note_parked(&self, cqid: u16) {
        self.parked.borrow_mut().push(cqid);
    }

    #[cold]
    pub(super) fn invalid_doorbell(&self, qid: u16) {
        self.note(QueueErrorEvent::InvalidDoorbell { qid });
    }

    #[cold]
    pub(super) fn note(&self, event: QueueErrorEvent) {
        let mut error_events = self.error_events.borrow_mut();
        if error_events.len() < MAX_ERROR_EVENTS {
            error_events.push(event);
        }
    }

    /// A command has failed with Data Transfer Error: notes what `view` has found, if that is why.
    #[cold]
    pub(super) fn note_fault(&self, sqid: u16, sqe: &Sqe, view: &MemView) {
        if let Some((gpa, fault)) = view.take_fault() {
            self.note_command_fault(CommandFault {
                sqid,
                cid: sqe.cid,
                opcode: sqe.opcode,
                nsid: sqe.nsid,
                gpa,
                fault,
            });
        }
    }

    #[cold]
    pub(super) fn note_command_fault(&self, fault: CommandFault) {
        let mut faults = self.faults.borrow_mut();
        if faults.len() < MAX_ERROR_EVENTS {
            faults.push(fault);
        }
    }

    /// Takes the guest addresses that commands could not use.
    pub(super) fn take_faults(&self) -> Vec<CommandFault> {
        self.faults.take()
    }

    /// A command has failed because data could not be had or kept.
    pub(super) fn count_media_error(&self) {
        self.media_errors.set(self.media_errors.get().saturating_add(1));
    }

    /// The I/O of a command was dropped before it had ended. The log has a line whenever their number has doubled.
    #[cold]
    pub(super) fn note_dropped(&self, sqid: u16, cid: u16) {
        let count = self.dropped.get().saturating_add(1);
        self.dropped.set(count);
        if count.is_power_of_two() {
            log::error!(
                "submission queue {sqid}: the I/O of command {cid} was dropped before it had ended, so that the command \
                 ends with Internal Error; this has happened {count} times to this controller on this core"
            );
        }
    }

    /// Takes how many have.
    pub(super) fn take_media_errors(&self) -> u64 {
        self.media_errors.take()
    }

    /// Returns whether queues have interrupts to raise.
    #[inline]
    pub(super) fn has_marked(&self) -> bool {
        !self.marked.borrow().is_empty()
    }

    /// Calls `is_over` with each queue that has an interrupt to raise: one for which it is true has none any more.
    #[inline]
    pub(super) fn look_at_marked(&self, mut is_over: impl FnMut(u16) -> bool) {
        self.marked.borrow_mut().retain(|cqid| !is_over(*cqid));
    }

    /// Takes the queues that had an interrupt to raise.
    pub(super) fn take_marked(&self) -> Vec<u16> {
        self.marked.take()
    }

    /// Returns the same for queues with completions that wait for their memory.
    #[inline]
    pub(super) fn look_at_parked(&self, mut is_over: impl FnMut(u16) -> bool) {
        if self.parked.borrow().is_empty() {
            return;
        }
        let mut queues = self.parked.take();
        queues.retain(|cqid| !is_over(*cqid));
        self.parked.borrow_mut().extend(queues);
    }

    /// A completion queue is gone: nothing of it is posted or signalled any more.
    pub(super) fn forget_queue(&self, cqid: u16) {
        self.marked.borrow_mut().retain(|marked| *marked != cqid);
        self.parked.borrow_mut().retain(|parked| *parked != cqid);
    }

    /// All of them are gone.
    pub(super) fn forget_queues(&self) {
        self.marked.take();
        self.parked.take();
    }

    /// Takes what the admin side should know of.
    pub(super) fn take_error_events(&self) -> Vec<QueueErrorEvent> {
        if self.error_events.borrow().is_empty() { Vec::new() } else { self.error_events.take() }
    }
}
