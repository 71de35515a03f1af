//! The queues of a session on one thread.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use super::completion::CompletionQueue;
use super::context::{CommandFault, Context, QueueErrorEvent};
use super::interrupt::{Coalescing, Interrupts, Vector};
use super::namespace::{NamespaceChannel, NamespaceChannels, namespace_index};
use super::state::{CompletionState, LeftoverState, SubmissionState, Totals};
use super::submission::{IoState, SubmissionQueue, Submissions};
use super::{AdminQueue, Backend, Cursor, TraceStep, Traced, admin};
use crate::model::io::NsGeometry;
use guest_memory::doorbells::{head_index, tail_index};
use guest_memory::{
    CompletionRing, DoorbellPage, Fault, InFlight, MemView, QueueMemory, ShadowDoorbells, SubmissionRing,
    UnmappedRegions,
};
use nvme_spec::Status;

/// The queues of one session on one thread.
pub struct Queues<B: Backend> {
    context: Rc<Context>,
    namespaces: Rc<NamespaceChannels<B>>,
    max_transfer: u32,
    interrupts: Arc<Interrupts>,
    submission: RefCell<Vec<Submissions<B>>>,
    /// Deleted queues whose I/Os have not all ended.
    deleted: RefCell<Vec<Submissions<B>>>,
    /// Flushes that the guest has not asked for by commands.
    flushing: RefCell<Option<Submissions<B>>>,
    pending_aborts: PendingAborts,
    /// There are namespaces whose commands are held back.
    has_fenced: Cell<bool>,
    /// By identifier.
    completion: RefCell<Vec<Rc<CompletionQueue>>>,
    /// The admin queue, while there is one.
    admin: RefCell<Weak<admin::Inner>>,
    /// The host wants volatile write caches used.
    write_cache: Cell<bool>,
    /// The submission queue that the next poll begins with: the last one ended before it.
    turn: Cell<usize>,
    /// How often memory was added since what is in flight was last moved to a new view.
    additions: Cell<u32>,
    /// How many commands a poll may take.
    room: Cell<usize>,
}

/// The most commands of a session that one poll takes, or a few more: a guest with many queues must not keep other
/// guests waiting.
const BURST: usize = 256;

/// I/Os that are in flight hold no more old views than that.
const MAX_ADDITIONS: u32 = 32;

impl<B: Backend> Queues<B> {
    /// Makes a session's queues, of which there are none yet. `max_transfer` are the most bytes of a command's data
    /// (MDTS); `clock` counts the ticks of [`Coalescing`].
    #[must_use]
    pub fn new(
        doorbells: Arc<DoorbellPage>,
        interrupts: Arc<Interrupts>,
        view: Rc<MemView>,
        max_transfer: u32,
        clock: fn() -> u64,
    ) -> Self {
        Self {
            context: Context::new(doorbells, view, clock),
            namespaces: Rc::default(),
            max_transfer,
            interrupts,
            submission: RefCell::default(),
            deleted: RefCell::default(),
            flushing: RefCell::default(),
            pending_aborts: PendingAborts::default(),
            has_fenced: Cell::new(false),
            completion: RefCell::default(),
            admin: RefCell::default(),
            write_cache: Cell::new(true),
            turn: Cell::new(0),
            additions: Cell::new(0),
            room: Cell::new(usize::MAX),
        }
    }

    /// The memory of submission queues that are made from now on is taken from `memory`, where there is room, and put
    /// back there: see [`queue_memory_bytes`](super::queue_memory_bytes). That is said once.
    pub fn set_queue_memory(&self, memory: Arc<QueueMemory>) {
        self.context.set_queue_memory(memory);
    }

    pub(super) fn context(&self) -> &Rc<Context> {
        &self.context
    }

    /// Returns the view of guest memory.
    #[must_use]
    pub fn view(&self) -> Rc<MemView> {
        self.context.view()
    }

    /// Guest memory has changed. Queues in memory that is gone are looked for anew; what is in flight is moved to the
    /// new view. Returns how many I/Os touch memory that is gone. Where nothing is, there is next to nothing to do.
    pub fn set_view(&self, view: &Rc<MemView>) -> usize {
        let unmapped = UnmappedRegions::between(self.view().memory(), view.memory());
        self.context.set_view(view, &unmapped);
        let additions = self.additions.get() + 1;
        if unmapped.is_empty() && additions < MAX_ADDITIONS {
            self.additions.set(additions);
            return 0;
        }
        self.additions.set(0);
        for queue in self.completion.borrow().iter() {
            queue.forget_ring_in(&unmapped);
        }
        for queue in self.submission.borrow().iter() {
            queue.queue().cursor().forget_ring_in(&unmapped);
        }
        self.all_submissions().iter().map(|queue| queue.rebase(view, &unmapped)).sum()
    }

    /// Adds a namespace, or replaces it.
    pub fn add_namespace(&self, namespace: NamespaceChannel<B>) {
        let Some(index) = namespace_index(namespace.nsid) else { return };
        namespace.geometry.set(namespace.geometry.get().with_write_cache(self.write_cache.get()));
        if namespace.is_fenced() {
            self.has_fenced.set(true);
        }
        let mut namespaces = self.namespaces.borrow_mut();
        if namespaces.len() <= index {
            namespaces.resize_with(index + 1, || None);
        }
        if let Some(place) = namespaces.get_mut(index)
            && let Some(old) = place.replace(Rc::new(namespace))
        {
            drop(namespaces);
            old.close();
            for queue in self.all_submissions() {
                queue.send_held();
            }
        }
    }

    /// Sends what was held back for namespaces whose fence has come down. To be called from time to time.
    pub fn send_fenced(&self) {
        if !self.has_fenced.get() || self.context.is_suspended() {
            return;
        }
        let namespaces = self.namespaces.borrow();
        // Not `any`: each namespace is to be looked at.
        let opened = namespaces.iter().flatten().filter(|namespace| namespace.reopen_if_unfenced()).count();
        self.has_fenced.set(namespaces.iter().flatten().any(|namespace| namespace.is_fenced()));
        drop(namespaces);
        if opened > 0 {
            for queue in self.all_submissions() {
                queue.send_held();
            }
        }
    }

    /// Sends what was held back for namespaces that took no more, as far as they take it now. To be called when they
    /// may.
    #[inline]
    pub fn send_held(&self) {
        if self.context.has_held() && !self.context.is_suspended() {
            self.send_to_roomy();
        }
    }

    #[cold]
    fn send_to_roomy(&self) {
        let namespaces = self.namespaces.borrow();
        let opened = namespaces.iter().flatten().filter(|namespace| namespace.reopen_if_room()).count();
        let is_held = namespaces.iter().flatten().any(|namespace| namespace.is_holding() && !namespace.is_fenced());
        drop(namespaces);
        self.context.set_held(is_held);
        if opened > 0 {
            for queue in self.all_submissions() {
                queue.send_held();
            }
        }
    }

    /// The session is over: its namespaces are used by nothing new.
    pub fn close_namespaces(&self) {
        for namespace in self.namespaces.take().into_iter().flatten() {
            namespace.close();
        }
    }

    /// Takes a namespace away, and aborts its I/O. Its channel goes when that has ended.
    pub fn remove_namespace(&self, nsid: u32) {
        let index = namespace_index(nsid);
        let namespace = index.and_then(|index| self.namespaces.borrow_mut().get_mut(index).and_then(Option::take));
        if let Some(namespace) = namespace {
            namespace.close();
            for queue in self.all_submissions() {
                queue.abort_waiting(|io| io.state.nsid() == nsid);
            }
            self.pending_aborts.request();
        }
    }

    /// A namespace has changed.
    pub fn set_geometry(&self, nsid: u32, geometry: NsGeometry) {
        if let Some(Some(namespace)) =
            namespace_index(nsid).and_then(|index| self.namespaces.borrow().get(index).cloned())
        {
            namespace.geometry.set(geometry.with_write_cache(self.write_cache.get()));
        }
    }

    /// Turns volatile write caches on, as they are at first, or off (feature 06h): what is written from now on is then
    /// durable when its command is completed.
    pub fn set_write_cache(&self, on: bool) {
        self.write_cache.set(on);
        for namespace in self.namespaces.borrow().iter().flatten() {
            namespace.geometry.set(namespace.geometry.get().with_write_cache(on));
        }
    }

    /// Sets interrupt coalescing, and the vectors that it does not hold for.
    pub fn set_coalescing(&self, coalescing: Coalescing, at_once: Vec<u16>) {
        self.context.set_coalescing(coalescing, at_once);
    }

    /// Uses shadow doorbells at these guest addresses: the shadows, and their event indexes. To be called before
    /// Doorbell Buffer Config is completed: this writes to the shadows, so that queues that are there already go on
    /// from where they stand, and afterwards only the host may.
    pub fn set_shadow_doorbells(&self, buffers: Option<(u64, u64)>) {
        let before = self.context.shadow_buffers();
        if before == buffers {
            return;
        }
        let mut stand = Vec::new();
        for queue in self.submission.borrow().iter() {
            let (qid, head) = (queue.queue().qid(), queue.queue().cursor().head());
            stand.push((tail_index(qid), self.context.submission_tail(qid).unwrap_or(head.into())));
        }
        for queue in self.completion.borrow().iter().filter(|queue| queue.qid() > 0) {
            let (qid, head) = (queue.qid(), queue.head());
            stand.push((head_index(qid), self.context.completion_head(qid).unwrap_or(head.into())));
        }
        self.context.set_shadow(buffers);
        for (index, value) in stand {
            // The doorbells themselves are old if the host has used other shadows until now.
            self.context.begin_shadow(index, value, before.is_none());
        }
    }

    /// Returns whether shadow doorbells, or their event indexes, can be at guest address `gpa`.
    ///
    /// # Errors
    /// Why they cannot.
    pub(crate) fn check_shadow_doorbells(&self, gpa: u64) -> Result<(), Fault> {
        ShadowDoorbells::resolve(&self.view(), gpa).map(drop)
    }

    /// Returns whether a submission queue can be at guest address `base`.
    ///
    /// # Errors
    /// Why it cannot.
    pub(crate) fn check_submission_queue(&self, base: u64, entries: u16) -> Result<(), Fault> {
        SubmissionRing::resolve(&self.view(), base, entries).map(drop)
    }

    /// Returns whether a completion queue can be at guest address `base`.
    ///
    /// # Errors
    /// Why it cannot.
    pub(crate) fn check_completion_queue(&self, base: u64, entries: u16) -> Result<(), Fault> {
        CompletionRing::resolve(&self.view(), base, entries).map(drop)
    }

    /// Makes a completion queue of `entries` entries (2 or more) at guest address `base`. With a `vector` the guest
    /// wants interrupts.
    pub fn create_completion(&self, qid: u16, base: u64, entries: u16, vector: Option<u16>) -> Rc<CompletionQueue> {
        let vector = vector.map(|number| Vector::new(number, Arc::clone(&self.interrupts)));
        let queue = CompletionQueue::new(&self.context, qid, base, entries, vector);
        // What the shadow holds is of a queue that was there before.
        self.context.begin_shadow(head_index(qid), 0, false);
        let mut queues = self.completion.borrow_mut();
        let place = queues.partition_point(|before| before.qid() < qid);
        queues.insert(place, Rc::clone(&queue));
        queue
    }

    /// Makes a submission queue of `entries` entries (2 or more) at guest address `base`, whose completions go to
    /// `cqid`. Returns whether there is that completion queue.
    pub fn create_submission(&self, qid: u16, base: u64, entries: u16, cqid: u16) -> bool {
        let completion = find(&self.completion.borrow(), cqid).cloned();
        let Some(completion) = completion else { return false };
        // It may need the memory of one that has ended.
        self.reap();
        let cursor = Cursor::new(qid, base, entries);
        self.context.begin_shadow(tail_index(qid), 0, false);
        let queue = SubmissionQueue::create(cursor, completion, &self.context, &self.namespaces, self.max_transfer);
        self.submission.borrow_mut().push(queue);
        true
    }

    /// Takes no more commands from a submission queue, and aborts what is in flight; its completions are still posted.
    /// Returns whether there was such a queue.
    pub fn delete_submission(&self, qid: u16) -> bool {
        let mut queues = self.submission.borrow_mut();
        let Some(at) = queues.iter().position(|queue| queue.queue().qid() == qid) else { return false };
        let queue = queues.swap_remove(at);
        drop(queues);
        queue.close();
        self.deleted.borrow_mut().push(queue);
        true
    }

    /// Returns whether nothing of a deleted submission queue is in flight any more.
    #[must_use]
    pub fn is_ended(&self, qid: u16) -> bool {
        !self.deleted.borrow().iter().any(|queue| queue.queue().qid() == qid && queue.in_use() > 0)
    }

    /// Deletes a completion queue, which no submission queue uses any more. What could not be posted to it is lost.
    /// Returns whether there was such a queue.
    pub fn delete_completion(&self, qid: u16) -> bool {
        let mut queues = self.completion.borrow_mut();
        let before = queues.len();
        for queue in queues.iter().filter(|queue| queue.qid() == qid) {
            // A submission queue that was deleted and is not freed yet has it still, and must not keep its memory.
            queue.forget_ring();
            queue.forget_reason();
        }
        queues.retain(|queue| queue.qid() != qid);
        self.context.forget_queue(qid);
        queues.len() != before
    }

    /// Has what the namespaces keep in volatile caches written back, unless that is in progress already.
    pub(crate) fn flush(&self) {
        if self.poll_flushes() {
            let flushes = Submissions::with_flushes(&self.context, &self.namespaces);
            self.flushing.replace(Some(flushes));
        }
    }

    /// Goes on with flushes. Returns whether none is in progress; to be called until it is so.
    #[must_use]
    pub(crate) fn poll_flushes(&self) -> bool {
        let flushing = self.flushing.borrow().clone();
        let poll_flushes = flushing.is_none_or(|flushes| flushes.poll_flushes());
        if poll_flushes {
            self.flushing.take();
        }
        poll_flushes
    }

    /// Takes no more commands from any queue, aborts what is in flight, and posts none of its completions.
    pub fn delete_all(&self) {
        let mut queues = self.submission.take();
        queues.extend(self.flushing.take());
        for queue in &queues {
            queue.queue().discard_completions();
            queue.close();
        }
        for queue in self.deleted.borrow().iter() {
            queue.queue().discard_completions();
        }
        self.deleted.borrow_mut().extend(queues);
        // Those of admin commands: the others have been cancelled with their queues.
        self.context.client_transfers().cancel_all(Status::ABORTED_SQ_DELETION);
        // What is still in flight has them, but writes nothing to their memory, which the client may want back.
        for queue in self.completion.take() {
            queue.forget_ring();
            queue.forget_reason();
        }
        self.context.forget_queues();
        self.context.set_shadow(None);
        self.set_coalescing(Coalescing::default(), Vec::new());
        self.set_write_cache(true);
    }

    /// Returns whether nothing is in flight in queues that were deleted.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.deleted.borrow().iter().all(|queue| queue.in_use() == 0) && self.context.client_transfers().is_empty()
    }

    /// Frees one deleted queue in which nothing is in flight any more: that takes a moment, and there may be many.
    /// Returns whether nothing is left of deleted queues.
    pub fn reap(&self) -> bool {
        let mut deleted = self.deleted.borrow_mut();
        if let Some(at) = deleted.iter().position(|queue| queue.in_use() == 0) {
            deleted.swap_remove(at);
        }
        deleted.is_empty() && self.context.client_transfers().is_empty()
    }

    /// Aborts a command. `then` hears whether it was aborted, at once if there is no such command.
    pub fn abort(&self, sqid: u16, cid: u16, then: impl FnOnce(bool) + 'static) {
        let queue = self.submission.borrow().iter().find(|queue| queue.queue().qid() == sqid).cloned();
        match queue {
            Some(queue) => queue.abort_command(cid, Box::new(then)),
            None => then(false),
        }
    }

    /// Aborts what touches memory that is not in the newest view.
    pub fn abort_unmapped(&self) {
        for queue in self.all_submissions() {
            if queue.visit_from(0, |io| !io.is_unmapped).is_some() {
                queue.abort_waiting(|io| io.is_unmapped);
                self.pending_aborts.unmapped.set(true);
                self.pending_aborts.request();
            }
        }
    }

    /// Returns whether there may be I/Os for [`abort_some`](Self::abort_some).
    #[must_use]
    pub fn has_pending_aborts(&self) -> bool {
        !self.deleted.borrow().is_empty() || self.pending_aborts.any.get()
    }

    /// Returns whether some of them keep memory from the client that it wants back.
    #[must_use]
    pub fn has_unmapped(&self) -> bool {
        self.pending_aborts.unmapped.get()
    }

    /// Has the backend abort I/Os of queues that are deleted and of namespaces that are gone, and those that touch
    /// memory that is to go: as many as `more` allows, and a few at a time. Returns whether each of them has had its
    /// turn; the next call begins anew then, since an abort may come too late, or before the backend can take it.
    pub fn abort_some(&self, mut more: impl FnMut() -> bool) -> bool {
        let pending_aborts = &self.pending_aborts;
        if !pending_aborts.in_round.replace(true) {
            pending_aborts.again.set(false);
            pending_aborts.found.set(false);
        }
        let deleted: Vec<_> = self.deleted.borrow().clone();
        let live: Vec<_> = self.submission.borrow().iter().chain(self.flushing.borrow().iter()).cloned().collect();
        let mut is_over = true;
        for queue in &deleted {
            is_over &= queue.abort_some(|_| true, &mut more);
        }
        for queue in live.iter().filter(|_| pending_aborts.any.get()) {
            let which = |io: &InFlight<'_, IoState<B>>| {
                let is_to_abort =
                    !queue.queue().has_namespace_of(io.state) || io.is_unmapped && pending_aborts.unmapped.get();
                pending_aborts.found.set(pending_aborts.found.get() || is_to_abort);
                is_to_abort
            };
            is_over &= queue.abort_some(which, &mut more);
        }
        if is_over {
            deleted.iter().chain(&live).for_each(Submissions::restart_aborts);
            pending_aborts.end_round();
        }
        is_over
    }

    /// Takes the commands that wait and posts what can be posted. Returns how much was done.
    #[inline]
    pub fn poll(&self) -> usize {
        self.poll_if(|| true)
    }

    /// Does the same, and takes the new commands of a queue only if `is_current` says, after its doorbell was read, that
    /// the view of guest memory is the newest: the host may have rung it for commands in memory that was mapped since
    /// the view was taken.
    #[inline]
    pub fn poll_if(&self, is_current: impl Fn() -> bool) -> usize {
        if self.context.is_suspended() {
            return 0;
        }
        let mut done = 0;
        let mut next = 0;
        let room = self.room.get();
        let queues = self.submission.borrow();
        for (index, queue) in queues.iter().enumerate().skip(self.turn.get()) {
            done += queue.poll(room.saturating_sub(done), &is_current);
            if done >= room.clamp(1, BURST) {
                // Behind the last one comes the first.
                next = if index + 1 < queues.len() { index + 1 } else { 0 };
                break;
            }
        }
        drop(queues);
        self.turn.set(next);
        self.post_parked();
        done
    }

    /// The function may not access guest memory any more (Bus Master Enable is 0, or it is in D3hot): no commands are
    /// taken, and completions wait. What the backend does already goes on; see [`is_quiesced`](Self::is_quiesced).
    pub fn suspend(&self) {
        self.context.set_suspended(true);
        // An interrupt is a write to memory, too.
        self.forget_marks();
        for queue in self.completion.borrow().iter() {
            queue.forget_ring();
        }
    }

    /// The function may access guest memory again: posts the completions that wait. All interrupts are raised whose
    /// completions the host has not taken, also of those before: the host may not have got them.
    pub fn resume(&self) {
        self.context.set_suspended(false);
        self.post_parked();
        self.forget_marks();
        self.remind();
    }

    /// Returns whether the function may not access guest memory.
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        self.context.is_suspended()
    }

    /// Returns whether the backend does nothing that could access guest memory: all I/Os that have not ended wait here.
    #[must_use]
    pub fn is_quiesced(&self) -> bool {
        self.all_submissions().iter().all(Submissions::is_quiesced)
    }

    /// Raises the interrupts of all queues whose completions the host has not taken.
    pub fn remind(&self) {
        if !self.context.is_suspended() {
            for queue in self.completion.borrow().iter() {
                queue.remind();
            }
        }
    }

    /// Returns whether there are interrupts to raise.
    #[must_use]
    #[inline]
    pub fn has_signals(&self) -> bool {
        self.context.has_marked()
    }

    /// The client's eventfds have changed, or it asks for interrupts: raises these, and those that could not be raised
    /// before. What the pin is raised for is left to [`Self::signal`].
    pub fn catch_up(&self) {
        let mut due = false;
        for queue in self.completion.borrow().iter() {
            due |= queue.catch_up();
        }
        if due {
            self.context.let_pin_settle(self.interrupts.settling_time());
        }
        for vector in self.interrupts.take_asked() {
            Vector::new(vector, Arc::clone(&self.interrupts)).raise(|_| true);
        }
        if self.interrupts.pin().take_asked() {
            self.interrupts.raise_pin();
        }
    }

    /// Raises the interrupts of the completions that were posted since the last call.
    #[inline]
    pub fn signal(&self) {
        if self.context.pin_settled_at().is_some_and(|at| self.is_pin_settling(at)) {
            return;
        }
        let raised = |cqid: u16, vector: u16, completions: u32| {
            B::trace(TraceStep::Interrupt, || Traced {
                owner: self.context.trace_owner(),
                command: 0,
                bytes: 0,
                arguments: [cqid.into(), vector.into(), completions.into()],
            });
        };
        let queues = self.completion.borrow();
        self.context.look_at_marked(|cqid| find(&queues, cqid).is_none_or(|queue| queue.signal(raised)));
    }

    /// Returns whether the pin is not to be raised yet, which it may be from `at` on, or once the host has taken
    /// completions since it was unmasked.
    #[cold]
    fn is_pin_settling(&self, at: u64) -> bool {
        let settling = self.context.is_before(at) && !self.completion.borrow().iter().any(|queue| queue.was_served());
        if !settling {
            self.context.pin_is_settled();
        }
        settling
    }

    /// No queue has an interrupt to raise any more.
    fn forget_marks(&self) {
        let queues = self.completion.borrow();
        for queue in self.context.take_marked().into_iter().filter_map(|cqid| find(&queues, cqid)) {
            queue.forget_mark();
        }
    }

    /// Posts what waited for the memory of its queue.
    #[inline]
    fn post_parked(&self) {
        let queues = self.completion.borrow();
        self.context.look_at_parked(|cqid| find(&queues, cqid).is_none_or(|queue| queue.post_parked()));
    }

    /// Looks at the doorbells of completion queues, which are else read only where room is wanted: one that is wrong is
    /// to be told. To be called from time to time.
    pub fn look_at_heads(&self) {
        if !self.context.is_suspended() {
            for queue in self.completion.borrow().iter() {
                queue.read_head();
            }
        }
    }

    /// Takes how many commands have failed, since the last call, because data could not be had or kept.
    #[must_use]
    pub fn take_media_errors(&self) -> u64 {
        self.context.take_media_errors()
    }

    /// Takes what the admin side should know of.
    #[must_use]
    pub fn take_error_events(&self) -> Vec<QueueErrorEvent> {
        self.context.take_error_events()
    }

    /// Takes the guest addresses that commands could not use since the last call: some of them, if they are very many.
    #[must_use]
    pub fn take_faults(&self) -> Vec<CommandFault> {
        self.context.take_faults()
    }

    /// Returns whether no I/O is in flight.
    #[must_use]
    pub fn is_empty_handed(&self) -> bool {
        self.deleted.borrow().is_empty() && self.submission.borrow().iter().all(|queue| queue.in_use() == 0)
    }

    /// The next polls take no more than `room` commands each.
    #[inline]
    pub fn set_room(&self, room: usize) {
        self.room.set(room);
    }

    /// Returns how many I/Os are in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.all_submissions().iter().map(|queue| usize::from(queue.in_use())).sum()
    }

    /// Sets the time at which commands are taken from now on, in ticks. To be called from time to time, before
    /// [`poll`](Self::poll).
    #[inline]
    pub fn set_now(&self, now: u64) {
        self.context.set_now(now);
    }

    /// What a backend that [records](Backend::trace) steps is told with them.
    pub fn set_trace_owner(&self, owner: u16) {
        self.context.set_trace_owner(owner);
    }

    /// Returns what the submission queues hold, the admin queue first.
    #[must_use]
    pub fn submission_states(&self) -> Vec<SubmissionState> {
        let admin = self.admin.borrow().upgrade();
        let queues = self.submission.borrow();
        admin.iter().map(|queue| queue.state()).chain(queues.iter().map(Submissions::state)).collect()
    }

    /// Returns what the completion queues hold.
    #[must_use]
    pub fn completion_states(&self) -> Vec<CompletionState> {
        self.completion.borrow().iter().map(|queue| queue.state()).collect()
    }

    /// Returns what is left of submission queues that were deleted.
    #[must_use]
    pub fn left_state(&self) -> LeftoverState {
        let deleted = self.deleted.borrow();
        let state = |queue: &Submissions<B>| LeftoverState {
            commands_in_flight: usize::from(queue.in_use()),
            oldest: queue.oldest(),
        };
        deleted.iter().map(state).fold(LeftoverState::default(), LeftoverState::plus)
    }

    /// Tells `count` of every submission queue that has carried something since the last call: its identifier, and
    /// what.
    pub fn take_totals(&self, mut count: impl FnMut(u16, Totals)) {
        for queue in self.all_submissions() {
            let totals = queue.queue().take_totals();
            if totals != Totals::default() {
                count(queue.queue().qid(), totals);
            }
        }
    }

    fn all_submissions(&self) -> Vec<Submissions<B>> {
        let flushing = self.flushing.borrow();
        self.submission.borrow().iter().chain(self.deleted.borrow().iter()).chain(flushing.iter()).cloned().collect()
    }

    /// Makes the admin queues: the submission queue of `asqs` entries at guest address `asq`, and the completion queue.
    /// Its interrupt vector is 0.
    #[expect(clippy::similar_names, reason = "the names are the specification's")]
    pub fn create_admin(&self, asq: u64, asqs: u16, acq: u64, acqs: u16) -> AdminQueue {
        let completion = self.create_completion(0, acq, acqs, Some(0));
        let queue = AdminQueue::new(Cursor::new(0, asq, asqs), completion, Rc::clone(&self.context));
        self.admin.replace(Rc::downgrade(queue.inner()));
        queue
    }
}

impl<B: Backend> Drop for Queues<B> {
    fn drop(&mut self) {
        self.delete_all();
        self.give_up_transfers();
    }
}

impl<B: Backend> std::fmt::Debug for Queues<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queues")
            .field("submission", &self.submission.borrow().len())
            .field("deleted", &self.deleted.borrow().len())
            .field("completion", &self.completion.borrow().len())
            .finish_non_exhaustive()
    }
}

/// I/Os in queues that are there which are to end: of namespaces that are gone, or in memory that is to go.
#[derive(Debug, Default)]
struct PendingAborts {
    /// There may be some.
    any: Cell<bool>,
    /// Those in memory that is to go are among them.
    unmapped: Cell<bool>,
    /// A round of aborts has begun; whether it has met with some, and whether there may be more than at its begin.
    in_round: Cell<bool>,
    found: Cell<bool>,
    again: Cell<bool>,
}

impl PendingAborts {
    fn request(&self) {
        self.any.set(true);
        self.again.set(true);
    }

    fn end_round(&self) {
        self.in_round.set(false);
        if !self.found.get() && !self.again.get() {
            self.any.set(false);
            self.unmapped.set(false);
        }
    }
}

/// Returns the completion queue of that identifier.
#[inline]
fn find(queues: &[Rc<CompletionQueue>], cqid: u16) -> Option<&Rc<CompletionQueue>> {
    queues.binary_search_by_key(&cqid, |queue| queue.qid()).ok().and_then(|place| queues.get(place))
}
