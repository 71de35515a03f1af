//! Queues in a guest's memory, with a backend that does what a test says.

use nvme_spec::nvm::BlockDw12;
use std::cell::{Cell, RefCell};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, memfd_create};
use zerocopy::{FromBytes, IntoBytes};

use super::{
    AbortToken, Backend, BlockOp, CommandIo, Fence, Interrupts, IoState, NamespaceChannel, QueueErrorEvent, Queues,
    Refusal, Refused, SubmissionQueue, complete, queue_memory_bytes,
};
use crate::model::io::{IoSupport, NsGeometry, PassthruCommand, WriteCache};
use guest_memory::{
    Access, DoorbellPage, Extent, GuestMemory, IoToken, MemView, QueueMemory, Region, Slots, doorbells,
};
use nvme_spec::{CommandFlags, Cqe, IoOpcode, Sqe, Status, StatusCode};

const PAGE: u64 = 4096;
const ENTRIES: u16 = 16;
/// Where things are in the guest's memory.
const COMPLETIONS: u64 = PAGE;
const COMMANDS: u64 = 2 * PAGE;
const SHADOWS: u64 = 3 * PAGE;
const EVENTS: u64 = 4 * PAGE;
/// The second region.
const FAR: u64 = 64 * PAGE;
const FUA: u32 = BlockDw12::new().with_fua(true).into_bits();

enum Fake {}

struct Taken {
    op: BlockOp,
    slba: u64,
    blocks: u64,
    io: CommandIo<Fake>,
}

thread_local! {
    static TAKEN: RefCell<Vec<Taken>> = const { RefCell::new(Vec::new()) };
    /// The backend takes nothing on the blocks before this one.
    static FULL: Cell<u64> = const { Cell::new(0) };
    static REFUNDED: Cell<u16> = const { Cell::new(0) };
    static ABORTED: RefCell<Vec<(IoToken, AbortToken)>> = const { RefCell::new(Vec::new()) };
}

impl Backend for Fake {
    type Channel = ();

    fn submit((): &(), op: BlockOp, slba: u64, blocks: u64, io: CommandIo<Self>) -> Result<(), Refused<Self>> {
        if slba < FULL.get() {
            return Err(Refused { why: Refusal::Full, io });
        }
        TAKEN.with_borrow_mut(|taken| taken.push(Taken { op, slba, blocks, io }));
        Ok(())
    }

    fn refund((): &(), charge: u16) {
        REFUNDED.set(REFUNDED.get() + charge);
    }

    fn has_room((): &()) -> bool {
        FULL.get() == 0
    }

    fn passthru((): &(), _: &PassthruCommand, io: CommandIo<Self>) -> Result<(), Refused<Self>> {
        Self::submit(&(), BlockOp::Unmap, 0, 0, io)
    }

    fn abort((): &(), io: IoToken, token: AbortToken) -> bool {
        ABORTED.with_borrow_mut(|aborted| aborted.push((io, token)));
        true
    }
}

/// What the backend has in flight: the operation, its first block, how many.
fn in_flight() -> Vec<(BlockOp, u64, u64)> {
    TAKEN.with_borrow(|taken| taken.iter().map(|taken| (taken.op, taken.slba, taken.blocks)).collect())
}

/// The backend ends the I/O that it has had for longest.
fn end(result: Result<(), Status>) {
    let taken = TAKEN.with_borrow_mut(|taken| taken.remove(0));
    complete(taken.io, result);
}

/// Returns how many aborts there were since the last call. They end with it.
fn aborts() -> usize {
    ABORTED.take().len()
}

struct Guest {
    near: File,
    memory: GuestMemory,
    doorbells: Arc<DoorbellPage>,
    queues: Queues<Fake>,
    tail: Cell<u16>,
    head: Cell<u16>,
}

impl Guest {
    /// Returns a guest with two regions of memory, a namespace, and a pair of queues.
    fn new() -> Self {
        let file = || {
            let file = File::from(memfd_create("courier-test", MemfdFlags::CLOEXEC).expect("a memfd"));
            file.set_len(16 * PAGE).expect("room");
            file
        };
        let (near, far) = (file(), file());
        let region = |file: &File, gpa| {
            let fd = file.try_clone().expect("a descriptor").into();
            Arc::new(
                Extent::new(0, gpa, 16 * PAGE, Access::ReadWrite)
                    .and_then(|of| Region::map(fd, of, |_| {}))
                    .expect("mapped"),
            )
        };
        let memory = GuestMemory::new().with(region(&near, 0)).and_then(|memory| memory.with(region(&far, FAR)));
        let memory = memory.expect("two regions");
        let doorbells = Arc::new(DoorbellPage::new().expect("a page"));
        let view = Rc::new(MemView::new(Arc::new(memory.clone())));
        let interrupts = Arc::new(Interrupts::default());
        let queues = Queues::new(Arc::clone(&doorbells), interrupts, view, 1 << 17, || 0);
        let mut geometry = NsGeometry::new(1000, 12).expect("a geometry");
        geometry.supports = IoSupport::FLUSH;
        queues.add_namespace(NamespaceChannel::new(1, geometry, ()));
        queues.create_completion(1, COMPLETIONS, ENTRIES, None);
        assert!(queues.create_submission(1, COMMANDS, ENTRIES, 1));
        Self { near, memory, doorbells, queues, tail: Cell::new(0), head: Cell::new(0) }
    }

    fn support_fused_pairs(&self) {
        let mut geometry = NsGeometry::new(1000, 12).expect("a geometry");
        geometry.supports = IoSupport::COMPARE | IoSupport::COMPARE_AND_WRITE;
        self.queues.set_geometry(1, geometry);
    }

    fn cache_writes(&self) {
        let mut geometry = NsGeometry::new(1000, 12).expect("a geometry");
        geometry.supports = IoSupport::FLUSH;
        geometry.write_cache = WriteCache::On;
        self.queues.set_geometry(1, geometry);
    }

    /// Puts a command in the queue, and rings unless the guest has shadow doorbells.
    fn put(&self, sqe: Sqe) {
        let tail = self.tail.get();
        self.near.write_all_at(sqe.as_bytes(), COMMANDS + u64::from(tail) * 64).expect("written");
        self.tail.set((tail + 1) % ENTRIES);
    }

    fn put_all(&self, commands: impl IntoIterator<Item = Sqe>) {
        for sqe in commands {
            self.put(sqe);
        }
    }

    fn ring(&self) {
        self.doorbells.store(2, self.tail.get().into());
        self.queues.poll();
    }

    fn ring_shadow(&self) {
        self.near.write_all_at(&u32::from(self.tail.get()).to_le_bytes(), SHADOWS + 8).expect("written");
        self.queues.poll();
    }

    fn send(&self, sqe: Sqe) {
        self.put(sqe);
        self.ring();
    }

    /// Returns the completions since the last call, by command identifier.
    fn completions(&self) -> Vec<(u16, Status)> {
        let mut found = Vec::new();
        loop {
            let head = self.head.get();
            let (index, phase) = (head % ENTRIES, (head / ENTRIES).is_multiple_of(2));
            let mut entry = [0; 16];
            self.near.read_exact_at(&mut entry, COMPLETIONS + u64::from(index) * 16).expect("read");
            let cqe = Cqe::read_from_bytes(&entry).expect("an entry");
            if cqe.status.phase() != phase {
                self.doorbells.store(3, index.into());
                return found;
            }
            found.push((cqe.cid, Status::of(cqe.status.code())));
            self.head.set(head + 1);
        }
    }

    /// The guest's memory has changed. Returns how many I/Os touch what is gone.
    fn set_memory(&self, memory: GuestMemory) -> usize {
        self.queues.set_view(&Rc::new(MemView::new(Arc::new(memory))))
    }
}

fn command(opcode: u8, cid: u16) -> Sqe {
    Sqe { opcode, cid, nsid: 1, prp1: 8 * PAGE, ..Sqe::default() }
}

fn read(cid: u16) -> Sqe {
    command(IoOpcode::READ.0, cid)
}

#[test]
fn a_flush_is_of_the_whole_namespace() {
    let guest = Guest::new();
    guest.send(command(IoOpcode::FLUSH.0, 1));
    assert_eq!(in_flight(), [(BlockOp::Flush, 0, 1000)]);
    end(Ok(()));
    assert_eq!(guest.completions(), [(1, Status::SUCCESS)]);
}

#[test]
fn commands_of_a_namespace_that_takes_no_more_wait_in_order_and_those_of_another_go_on() {
    let guest = Guest::new();
    guest.queues.add_namespace(NamespaceChannel::new(2, NsGeometry::new(1000, 12).expect("a geometry"), ()));
    FULL.set(500);
    guest.put(read(1));
    // It would be taken, but the one before it was not.
    guest.put(Sqe { cdw10: 700, ..read(2) });
    guest.put(Sqe { nsid: 2, cdw10: 600, ..read(3) });
    guest.put(read(4));
    guest.ring();
    assert_eq!(in_flight(), [(BlockOp::Read, 600, 1)]);
    end(Ok(()));
    guest.queues.send_held();
    assert_eq!((in_flight(), guest.completions()), (vec![], vec![(3, Status::SUCCESS)]));
    guest.queues.abort(1, 4, |aborted| assert!(aborted));
    assert_eq!(guest.completions(), [(4, Status::ABORT_REQUESTED)]);
    FULL.set(0);
    guest.queues.send_held();
    assert_eq!(in_flight(), [(BlockOp::Read, 0, 1), (BlockOp::Read, 700, 1)]);
    FULL.set(500);
    guest.send(read(5));
    guest.queues.delete_all();
    assert!(!guest.queues.is_quiet(), "what the backend has is in flight");
    end(Ok(()));
    end(Ok(()));
    assert!(guest.queues.is_quiet(), "what waited has ended with its queue");
    FULL.set(0);
}

#[test]
fn a_durable_write_to_a_cache_is_completed_after_a_flush() {
    let guest = Guest::new();
    guest.send(Sqe { cdw12: FUA, ..command(IoOpcode::WRITE.0, 1) });
    end(Ok(()));
    assert_eq!(guest.completions(), [(1, Status::SUCCESS)], "there is no cache");
    guest.cache_writes();
    guest.send(Sqe { cdw10: 4, cdw12: FUA | 1, prp2: 9 * PAGE, ..command(IoOpcode::WRITE.0, 2) });
    assert_eq!(in_flight(), [(BlockOp::Write, 4, 2)]);
    end(Ok(()));
    assert_eq!((in_flight(), guest.completions()), (vec![(BlockOp::Flush, 4, 2)], vec![]));
    end(Ok(()));
    assert_eq!(guest.completions(), [(2, Status::SUCCESS)]);
    let mut counted = Vec::new();
    guest.queues.take_totals(|sqid, totals| counted.push((sqid, totals.writes)));
    assert_eq!(counted, [(1, 2)]);
}

#[test]
fn a_durable_write_whose_flush_fails_has_failed() {
    let guest = Guest::new();
    guest.cache_writes();
    guest.send(Sqe { cdw12: FUA, ..command(IoOpcode::WRITE.0, 1) });
    end(Ok(()));
    end(Err(Status::INTERNAL_ERROR));
    assert_eq!(guest.completions(), [(1, Status::INTERNAL_ERROR)]);
}

#[test]
fn other_shadows_begin_where_the_queues_stand() {
    let guest = Guest::new();
    guest.queues.set_shadow_doorbells(Some((SHADOWS, EVENTS)));
    guest.put(read(0));
    guest.ring_shadow();
    guest.queues.set_shadow_doorbells(Some((6 * PAGE, EVENTS)));
    guest.queues.poll();
    assert_eq!(in_flight().len(), 1, "the command is not taken again");
    TAKEN.take();
}

#[test]
fn only_what_touches_memory_that_goes_is_aborted() {
    let guest = Guest::new();
    guest.put(read(1));
    guest.put(Sqe { prp1: FAR, ..read(2) });
    guest.ring();
    let far = guest.memory.region_at(FAR).map(Arc::downgrade).expect("a region");
    let left = guest.memory.without(FAR, 16 * PAGE).expect("the far region").0;
    assert_eq!(guest.set_memory(left), 1);
    guest.queues.abort_unmapped();
    assert!(guest.queues.has_unmapped() && guest.queues.abort_some(|| true));
    assert_eq!(aborts(), 1);
    end(Ok(()));
    let Guest { memory, queues, .. } = guest;
    drop(memory);
    assert!(far.upgrade().is_some(), "the backend still writes to it");
    end(Ok(()));
    assert!(far.upgrade().is_none());
    drop(queues);
}

#[test]
fn an_io_that_is_to_end_has_one_abort_at_a_time() {
    let guest = Guest::new();
    guest.send(read(1));
    assert!(!guest.queues.has_pending_aborts() && guest.queues.abort_some(|| true));
    assert_eq!(aborts(), 0, "nobody wants it to end");
    guest.queues.remove_namespace(1);
    for _ in 0..100 {
        assert!(guest.queues.has_pending_aborts() && guest.queues.abort_some(|| true));
    }
    assert_eq!(ABORTED.with_borrow(Vec::len), 1, "the first one has not ended");
    aborts();
    guest.queues.delete_all();
    guest.queues.abort_some(|| true);
    assert_eq!(aborts(), 1, "the first one came to nothing");
    assert!(!guest.queues.is_quiet());
    end(Err(Status::ABORT_REQUESTED));
    assert!(guest.queues.is_quiet() && guest.completions().is_empty());
    guest.queues.abort_some(|| true);
    assert_eq!(aborts(), 0);
    assert!(guest.queues.reap() && !guest.queues.has_pending_aborts());
}

#[test]
fn an_abort_without_effect_is_answered_and_the_command_it_names_goes_on() {
    let guest = Guest::new();
    guest.send(read(1));
    let answers: Rc<RefCell<Vec<bool>>> = Rc::default();
    let ask = || {
        let answers = Rc::clone(&answers);
        guest.queues.abort(1, 1, move |aborted| answers.borrow_mut().push(aborted));
    };
    ask();
    ask();
    let mut tokens = ABORTED.take();
    assert_eq!((tokens.len(), answers.take()), (1, vec![]), "both wait for the one abort");
    tokens.remove(0).1.failed();
    assert_eq!(answers.take(), [false, false]);
    ask();
    assert_eq!(aborts(), 1, "it may be asked for again");
    assert!(answers.borrow().is_empty(), "the abort ended with effect, so that the command will end");
    end(Err(Status::ABORT_REQUESTED));
    assert_eq!((answers.take(), guest.completions()), (vec![true], vec![(1, Status::ABORT_REQUESTED)]));
}

#[test]
fn aborts_come_in_portions_and_each_io_has_its_turn_before_one_has_it_again() {
    let guest = Guest::new();
    for cid in 1..=10 {
        guest.send(read(cid));
    }
    guest.queues.delete_all();
    let mut names = Vec::new();
    let rounds = (1..=9).find(|_| {
        let mut left = 3;
        let is_over = guest.queues.abort_some(|| {
            left -= 1;
            left >= 0
        });
        let now: Vec<IoToken> = ABORTED.take().into_iter().map(|(name, _)| name).collect();
        assert!(now.len() <= 3);
        names.extend(now);
        is_over
    });
    assert_eq!((rounds, names.len()), (Some(4), 10));
    names.dedup();
    assert_eq!(names.len(), 10, "one has had two turns");
    for _ in 0..10 {
        end(Err(Status::ABORTED_SQ_DELETION));
    }
    assert!(guest.queues.is_quiet());
}

#[test]
fn no_more_than_a_few_aborts_are_in_flight_whatever_is_to_end() {
    let guest = Guest::new();
    for qid in 2..=6 {
        guest.queues.create_completion(qid, COMPLETIONS, ENTRIES, None);
        assert!(guest.queues.create_submission(qid, COMMANDS, ENTRIES, qid));
        guest.doorbells.store(usize::from(qid) * 2, u32::from(ENTRIES) - 1);
    }
    for _ in 1..ENTRIES {
        guest.put(read(0));
    }
    guest.queues.poll();
    let count = in_flight().len();
    guest.queues.delete_all();
    assert!(count > 64 && !guest.queues.abort_some(|| true));
    assert!(!guest.queues.abort_some(|| true));
    assert_eq!(aborts(), 32);
    assert!(!guest.queues.abort_some(|| true));
    assert_eq!(aborts(), 32, "the next ones, when the first have ended");
    for _ in 0..count {
        end(Err(Status::ABORTED_SQ_DELETION));
    }
    assert!(guest.queues.is_quiet());
}

/// Returns a guest whose namespace is that of `fence`'s disk.
fn guest_at(fence: &Arc<Fence>) -> Guest {
    let guest = Guest::new();
    let geometry = NsGeometry::new(1000, 12).expect("a geometry");
    guest.queues.add_namespace(NamespaceChannel::new(1, geometry, ()).behind(fence));
    guest.queues.add_namespace(NamespaceChannel::new(2, geometry, ()));
    guest
}

#[test]
fn nothing_of_a_new_session_reaches_a_disk_before_the_io_of_the_old_one_has_ended() {
    let fence = Arc::default();
    let old = guest_at(&fence);
    old.send(read(1));
    old.send(read(2));
    old.queues.delete_all();
    old.queues.close_namespaces();
    let new = guest_at(&fence);
    new.send(read(3));
    new.send(Sqe { nsid: 2, ..read(4) });
    assert_eq!(in_flight().len(), 3, "another disk's are not held back");
    end(Ok(()));
    new.queues.send_fenced();
    assert_eq!(in_flight().len(), 2, "one of the old session's is still in flight");
    end(Ok(()));
    end(Ok(()));
    new.queues.send_fenced();
    assert_eq!((new.completions().len(), in_flight().len()), (1, 1));
    end(Ok(()));
    assert_eq!(new.completions(), [(3, Status::SUCCESS)]);
    new.queues.remove_namespace(1);
    new.send(Sqe { nsid: 2, ..read(5) });
    end(Ok(()));
    let third = guest_at(&fence);
    third.send(read(6));
    end(Ok(()));
    assert_eq!(third.completions(), [(6, Status::SUCCESS)]);
}

#[test]
fn a_namespace_that_moves_waits_for_the_io_of_the_controller_that_had_it() {
    let fence = Arc::default();
    let (old, neighbour) = (guest_at(&fence), guest_at(&fence));
    old.send(read(1));
    old.queues.remove_namespace(1);
    let new = guest_at(&fence);
    new.send(read(2));
    neighbour.send(read(3));
    assert_eq!(in_flight().len(), 2, "who was there before goes on");
    old.queues.remove_namespace(2);
    end(Ok(()));
    end(Ok(()));
    new.queues.send_fenced();
    end(Ok(()));
    assert_eq!((new.completions(), neighbour.completions().len()), (vec![(2, Status::SUCCESS)], 1));
}

#[test]
fn commands_that_are_aborted_with_their_namespace_have_lost_it() {
    let guest = Guest::new();
    guest.send(read(1));
    guest.send(read(2));
    guest.send(read(3));
    guest.queues.abort(1, 3, |_| ());
    guest.queues.remove_namespace(1);
    end(Err(Status::ABORT_REQUESTED));
    end(Err(Status::INTERNAL_ERROR));
    end(Err(Status::ABORT_REQUESTED));
    let asked_for = Status::ABORT_REQUESTED;
    let told = [(1, Status::of(StatusCode::INVALID_NAMESPACE)), (2, Status::INTERNAL_ERROR), (3, asked_for)];
    assert_eq!(guest.completions(), told, "but not what had another reason to end");
}

#[test]
fn what_is_held_back_can_be_aborted_and_ends_with_its_queue_or_its_namespace() {
    let fence: Arc<Fence> = Arc::default();
    let guard = fence.raise();
    let guest = guest_at(&fence);
    for cid in 1..=3 {
        guest.send(read(cid));
    }
    guest.queues.send_fenced();
    let heard = Rc::new(Cell::new(None));
    let tell = Rc::clone(&heard);
    guest.queues.abort(1, 2, move |aborted| tell.set(Some(aborted)));
    assert_eq!((heard.get(), guest.completions()), (Some(true), vec![(2, Status::ABORT_REQUESTED)]));
    guest.queues.remove_namespace(1);
    let deleted = Status::ABORTED_SQ_DELETION;
    let gone = Status::of(StatusCode::INVALID_NAMESPACE);
    assert_eq!(guest.completions(), [(1, gone), (3, gone)]);
    guest
        .queues
        .add_namespace(NamespaceChannel::new(1, NsGeometry::new(1000, 12).expect("a geometry"), ()).behind(&fence));
    guest.send(read(4));
    assert!(guest.queues.delete_submission(1) && guest.queues.is_ended(1));
    assert_eq!(guest.completions(), [(4, deleted)]);
    drop(guard);
    assert!(in_flight().is_empty());
}

#[test]
fn one_poll_takes_no_more_than_its_share_and_the_next_goes_on_behind_it() {
    let guest = Guest::new();
    // For what is tested it does not matter that they lie over each other.
    for qid in 2..=20 {
        guest.queues.create_completion(qid, COMPLETIONS, ENTRIES, None);
        assert!(guest.queues.create_submission(qid, COMMANDS, ENTRIES, qid));
    }
    for _ in 1..ENTRIES {
        guest.put(read(0));
    }
    for qid in 1..=20 {
        guest.doorbells.store(qid * 2, u32::from(ENTRIES) - 1);
    }
    assert_eq!(guest.queues.poll(), 270);
    while in_flight().len() > 255 {
        end(Ok(()));
    }
    guest.completions();
    guest.doorbells.store(2, 0);
    assert_eq!(guest.queues.poll(), 30, "the last two queues");
    assert_eq!(guest.queues.poll(), 1, "the first one again");
    TAKEN.take();
}

#[test]
fn a_flush_of_the_controllers_own_reaches_namespaces_with_a_cache_and_posts_nothing() {
    let guest = Guest::new();
    guest.queues.flush();
    assert!(guest.queues.poll_flushes() && in_flight().is_empty(), "there is no cache");
    guest.cache_writes();
    guest.queues.flush();
    guest.queues.flush();
    assert_eq!(in_flight(), [(BlockOp::Flush, 0, 1000)], "one is enough");
    assert!(!guest.queues.poll_flushes());
    end(Err(Status::INTERNAL_ERROR));
    assert!(
        guest.queues.poll_flushes() && guest.completions().is_empty() && guest.queues.take_error_events().is_empty()
    );
    assert_eq!(guest.queues.in_flight(), 0);
}

#[test]
fn a_flush_of_the_controllers_own_is_aborted_by_a_reset_and_by_the_end_of_its_namespace() {
    let guest = Guest::new();
    guest.cache_writes();
    guest.queues.flush();
    guest.queues.delete_all();
    assert!(guest.queues.poll_flushes(), "nobody waits for it any more");
    guest.queues.abort_some(|| true);
    assert_eq!((aborts(), guest.queues.is_quiet()), (1, false));
    end(Err(Status::ABORTED_SQ_DELETION));
    assert!(guest.queues.is_quiet());
    guest.queues.flush();
    guest.queues.remove_namespace(1);
    guest.queues.abort_some(|| true);
    assert_eq!(aborts(), 1);
    end(Ok(()));
    assert!(guest.queues.poll_flushes());
}

#[test]
fn nothing_is_left_of_queues_that_are_gone_though_an_admin_command_ends_after_them() {
    let guest = Guest::new();
    let admin = guest.queues.create_admin(COMMANDS, ENTRIES, COMPLETIONS, ENTRIES);
    let context = Rc::downgrade(guest.queues.context());
    drop(guest);
    admin.complete(1, 0, Status::SUCCESS);
    drop(admin);
    assert!(context.upgrade().is_none(), "the queues hold one another");
}

#[test]
fn an_interrupt_that_waits_for_more_completions_is_that_of_its_queue_whatever_the_order_of_queues() {
    let guest = Guest::new();
    for qid in [7, 3, 5] {
        guest.queues.create_completion(qid, COMPLETIONS, ENTRIES, Some(qid));
    }
    for sqid in [3, 5, 7] {
        assert!(guest.queues.create_submission(sqid, COMMANDS, ENTRIES, sqid));
    }
    guest.put(read(1));
    guest.doorbells.store(doorbells::tail_index(5), 1);
    assert_eq!(guest.queues.poll(), 1);
    end(Ok(()));
    assert!(guest.queues.has_signals());
    guest.queues.signal();
    assert!(!guest.queues.has_signals());
    let raised = guest.queues.completion_states().into_iter().map(|queue| (queue.qid, queue.interrupts));
    assert_eq!(raised.collect::<Vec<_>>(), [(1, 0), (3, 0), (5, 1), (7, 0)]);
}

/// Returns how many entries of completion queue 1 are reserved.
fn reserved(guest: &Guest) -> u16 {
    guest.queues.completion_states().iter().filter(|queue| queue.qid == 1).map(|queue| queue.reserved).sum()
}

/// The two commands of a fused pair, with the identifiers `first` and `first + 1`.
fn fused(first: u16) -> [Sqe; 2] {
    let (mut compare, mut write) = (command(IoOpcode::COMPARE.0, first), command(IoOpcode::WRITE.0, first + 1));
    compare.flags = CommandFlags::FUSED_FIRST;
    write.flags = CommandFlags::FUSED_SECOND;
    [compare, write]
}

#[test]
fn a_command_whose_io_the_backend_drops_ends_with_internal_error() {
    let guest = Guest::new();
    guest.send(read(1));
    guest.send(read(2));
    drop(TAKEN.with_borrow_mut(|taken| taken.remove(0)));
    assert_eq!(guest.completions(), [(1, Status::INTERNAL_ERROR)]);
    assert_eq!(reserved(&guest), 1);
    let errors = guest.queues.take_error_events();
    assert!(matches!(errors[..], [QueueErrorEvent::Failed { cid: 1, status: Status::INTERNAL_ERROR, nsid: 1, .. }]));
    end(Ok(()));
    assert_eq!(guest.completions(), [(2, Status::SUCCESS)]);
    assert_eq!((reserved(&guest), guest.queues.in_flight()), (0, 0));
}

#[test]
fn both_commands_of_a_fused_pair_end_if_its_io_is_dropped() {
    let guest = Guest::new();
    guest.support_fused_pairs();
    guest.put_all(fused(1));
    guest.ring();
    assert_eq!((in_flight().len(), reserved(&guest)), (1, 2));
    drop(TAKEN.take());
    assert_eq!(guest.completions(), [(1, Status::INTERNAL_ERROR), (2, Status::ABORTED_FAILED_FUSED)]);
    assert_eq!(reserved(&guest), 0);
}

#[test]
fn an_abort_of_a_command_whose_io_is_dropped_is_answered() {
    let guest = Guest::new();
    guest.send(read(1));
    let answer = Rc::new(Cell::new(None));
    let told = Rc::clone(&answer);
    guest.queues.abort(1, 1, move |was_aborted| told.set(Some(was_aborted)));
    assert_eq!((aborts(), answer.get()), (1, None));
    drop(TAKEN.take());
    assert_eq!(answer.get(), Some(false));
    assert_eq!(guest.completions(), [(1, Status::INTERNAL_ERROR)]);
}

#[test]
fn an_io_that_is_dropped_after_its_queues_are_gone_posts_nothing() {
    let guest = Guest::new();
    guest.send(read(1));
    guest.queues.delete_all();
    drop(TAKEN.take());
    assert_eq!(guest.completions(), []);
}

#[test]
fn every_completion_entry_can_be_used_again_whatever_the_end_of_the_commands_before() {
    let guest = Guest::new();
    guest.support_fused_pairs();
    // Refused; without effect; of a pair without its second; a second without its first.
    guest.send(Sqe { nsid: 9, ..read(1) });
    guest.send(fused(2)[0]);
    guest.send(read(3));
    guest.send(fused(4)[1]);
    guest.put_all(fused(6));
    guest.ring();
    assert_eq!(reserved(&guest), 3);
    while !in_flight().is_empty() {
        end(Ok(()));
    }
    assert_eq!(guest.completions().len(), 6);
    assert_eq!(reserved(&guest), 0);
    guest.put_all((10..10 + ENTRIES - 1).map(read));
    guest.ring();
    assert_eq!(usize::from(ENTRIES - 1), in_flight().len());
    while !in_flight().is_empty() {
        end(Ok(()));
    }
    assert_eq!(guest.completions().len(), usize::from(ENTRIES - 1));
}

#[test]
fn a_submission_queue_that_is_deleted_leaves_all_entries_to_others_of_its_completion_queue() {
    let guest = Guest::new();
    guest.support_fused_pairs();
    guest.send(fused(1)[0]);
    assert_eq!(reserved(&guest), 1);
    assert!(guest.queues.delete_submission(1));
    assert_eq!(guest.completions(), [(1, Status::ABORTED_SQ_DELETION)]);
    assert_eq!(reserved(&guest), 0);
}

#[test]
fn an_admin_command_that_is_completed_twice_takes_no_entry_that_the_host_has_not_taken() {
    let guest = Guest::new();
    let admin = guest.queues.create_admin(COMMANDS, ENTRIES, COMPLETIONS, 2);
    guest.near.write_all_at(Sqe { cid: 7, ..Sqe::default() }.as_bytes(), COMMANDS).expect("written");
    guest.doorbells.store(doorbells::tail_index(0), 1);
    assert_eq!(admin.next().map(|sqe| sqe.cid), Some(7));
    admin.complete(7, 0, Status::SUCCESS);
    admin.complete(7, 0, Status::INTERNAL_ERROR);
    let state = guest.queues.completion_states().into_iter().find(|queue| queue.qid == 0).expect("the admin queue");
    assert_eq!((state.tail, state.reserved), (1, 0));
}

#[test]
fn the_place_of_a_command_takes_little_memory_since_idle_controllers_have_one_per_entry() {
    let bytes = Slots::<SubmissionQueue<Fake>, IoState<Fake>>::PLACE_BYTES;
    assert!(bytes <= 128, "{bytes}");
}

#[test]
fn a_queue_has_the_memory_of_the_one_before_it_which_goes_with_the_session_and_not_with_a_queue() {
    let guest = Guest::new();
    let memory = QueueMemory::reserve(queue_memory_bytes::<Fake>(ENTRIES)).expect("memory for one queue");
    guest.queues.set_queue_memory(Arc::clone(&memory));
    for round in 0..3 {
        assert!(guest.queues.create_submission(2, COMMANDS, ENTRIES, 1));
        // The test's, the queues', and the one queue's that has its commands there.
        assert_eq!(Arc::strong_count(&memory), 3, "round {round}");
        assert!(guest.queues.delete_submission(2));
    }
    drop(guest);
    assert_eq!(Arc::strong_count(&memory), 1);
}

#[test]
fn what_an_io_was_charged_for_is_given_back_once_if_it_is_dropped_and_not_if_it_was_before() {
    let guest = Guest::new();
    for cid in 1..=2 {
        guest.send(read(cid));
        TAKEN.with_borrow(|taken| taken[0].io.state().charge(3));
        if cid == 2 {
            TAKEN.with_borrow(|taken| taken[0].io.state().refund(Fake::refund));
        }
        drop(TAKEN.take());
        assert_eq!(REFUNDED.take(), 3);
    }
    assert_eq!(guest.completions(), [(1, Status::INTERNAL_ERROR), (2, Status::INTERNAL_ERROR)]);
}
