//! Ends before their time: aborts, deleted queues, namespaces that go, resets.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use nvme_spec::{IoOpcode, Sqe, Status};

use super::common::guest::{LISTS, Rig, flush, read};
use super::common::ram::{Disk, OnAbort};

const BLOCKS: usize = 64;
const DELETED: u16 = Status::ABORTED_SQ_DELETION.into_bits();
const REQUESTED: u16 = Status::ABORT_REQUESTED.into_bits();

/// Aborts a command; what is heard of it.
fn abort(rig: &Rig, sqid: u16, cid: u16) -> Rc<RefCell<Vec<bool>>> {
    let heard = Rc::new(RefCell::new(Vec::new()));
    let tell = Rc::clone(&heard);
    rig.queues.abort(sqid, cid, move |aborted| tell.borrow_mut().push(aborted));
    heard
}

#[test]
fn an_abort_hears_at_the_command_s_end_whether_it_came_in_time() {
    for (on_abort, first, then, status) in [
        (OnAbort::EndNow, vec![true], vec![true], REQUESTED),
        (OnAbort::EndLater, vec![], vec![true], REQUESTED),
        (OnAbort::Refuse, vec![false], vec![false], 0),
    ] {
        let disk = Disk::new(BLOCKS, 9);
        disk.on_abort.set(on_abort);
        let rig = Rig::with(&disk);
        let (mut sq, mut cq) = rig.create(1, 8);
        rig.run(&mut sq, &[read(1, 0, 1)]);
        let heard = abort(&rig, 1, 1);
        assert_eq!(*heard.borrow(), first, "{on_abort:?}");
        disk.finish_all();
        assert_eq!(*heard.borrow(), then, "{on_abort:?}");
        assert_eq!(rig.statuses(&mut cq), [(1, status)]);
    }
}

#[test]
fn an_abort_of_what_is_not_there_hears_so_at_once() {
    let disk = Disk::new(BLOCKS, 9);
    let rig = Rig::with(&disk);
    let (mut sq, _) = rig.create(1, 8);
    rig.run(&mut sq, &[read(1, 0, 1)]);
    assert_eq!(*abort(&rig, 1, 2).borrow(), [false]);
    assert_eq!(*abort(&rig, 7, 1).borrow(), [false]);
}

#[test]
fn two_aborts_of_one_command_both_hear_of_its_end() {
    let disk = Disk::new(BLOCKS, 9);
    disk.on_abort.set(OnAbort::EndLater);
    let rig = Rig::with(&disk);
    let (mut sq, mut cq) = rig.create(1, 8);
    rig.run(&mut sq, &[read(1, 0, 1)]);
    let heard = [abort(&rig, 1, 1), abort(&rig, 1, 1)];
    disk.finish_all();
    assert!(heard.iter().all(|heard| *heard.borrow() == [true]));
    assert_eq!(rig.statuses(&mut cq), [(1, REQUESTED)]);
}

#[test]
fn a_command_that_the_backend_has_not_taken_is_aborted() {
    let disk = Disk::new(BLOCKS, 9);
    let rig = Rig::with(&disk);
    let (mut sq, mut cq) = rig.create(1, 8);
    disk.refuse_later.set(1);
    rig.run(&mut sq, &[read(1, 0, 1), read(2, 0, 1)]);
    assert_eq!(*abort(&rig, 1, 1).borrow(), [true]);
    assert_eq!(rig.statuses(&mut cq), [(1, REQUESTED)]);
    rig.queues.poll();
    disk.finish_all();
    assert_eq!(rig.statuses(&mut cq), [(2, 0)]);
}

#[test]
fn a_deleted_queue_completes_what_was_in_flight_and_takes_nothing_more() {
    for on_abort in [OnAbort::EndNow, OnAbort::EndLater, OnAbort::Refuse] {
        let disk = Disk::new(BLOCKS, 9);
        disk.on_abort.set(on_abort);
        let rig = Rig::with(&disk);
        let (mut sq, mut cq) = rig.create(1, 8);
        rig.run(&mut sq, &[read(1, 0, 1), flush(2)]);
        rig.submit(&mut sq, &[flush(3)]);
        assert!(rig.queues.delete_submission(1) && !rig.queues.delete_submission(1));
        assert!(rig.queues.abort_some(|| true));
        assert_eq!(rig.queues.is_ended(1), on_abort == OnAbort::EndNow);
        rig.queues.poll();
        disk.finish_all();
        assert!(rig.queues.is_ended(1));
        let status = if on_abort == OnAbort::Refuse { 0 } else { REQUESTED };
        assert_eq!(rig.statuses(&mut cq), [(1, status), (2, status)], "{on_abort:?}");
    }
}

#[test]
fn what_waits_for_the_backend_ends_with_its_queue() {
    let disk = Disk::new(BLOCKS, 9);
    let rig = Rig::with(&disk);
    let (mut sq, mut cq) = rig.create(1, 8);
    disk.refuse_later.set(1);
    rig.run(&mut sq, &[read(1, 0, 1)]);
    rig.queues.delete_submission(1);
    assert!(rig.queues.is_ended(1));
    assert_eq!(rig.statuses(&mut cq), [(1, DELETED)]);
}

/// Returns a deallocation of 3 ranges.
fn deallocate(rig: &Rig, cid: u16) -> Sqe {
    for i in 0..3 {
        rig.put(LISTS.0 + i * 16, &(1_u64 << 32).to_le_bytes());
        rig.put(LISTS.0 + i * 16 + 8, &i.to_le_bytes());
    }
    Sqe { opcode: IoOpcode::DATASET_MANAGEMENT.0, cid, nsid: 1, prp1: LISTS.0, cdw10: 2, cdw11: 4, ..Sqe::default() }
}

#[test]
fn a_deallocation_in_a_deleted_queue_sends_no_further_range() {
    let disk = Disk::new(BLOCKS, 9);
    let rig = Rig::with(&disk);
    let (mut sq, mut cq) = rig.create(1, 8);
    let sqe = deallocate(&rig, 1);
    rig.run(&mut sq, &[sqe]);
    rig.queues.delete_submission(1);
    // Out of something: what is kept for later would wait for ever.
    disk.refuse_later.set(1);
    disk.finish(0);
    assert!(rig.queues.is_ended(1));
    assert_eq!((rig.statuses(&mut cq), disk.submitted.get()), (vec![(1, DELETED)], 1));
}

#[test]
fn a_deallocation_whose_last_range_ends_after_its_queue_is_good() {
    let disk = Disk::new(BLOCKS, 9);
    let rig = Rig::with(&disk);
    let (mut sq, mut cq) = rig.create(1, 8);
    let sqe = Sqe { cdw10: 0, ..deallocate(&rig, 1) };
    rig.run(&mut sq, &[sqe]);
    rig.queues.delete_submission(1);
    disk.finish(0);
    assert_eq!(rig.statuses(&mut cq), [(1, 0)]);
}

#[test]
fn a_reset_posts_nothing_and_is_quiet_when_the_backend_is_done() {
    let disk = Disk::new(BLOCKS, 9);
    let rig = Rig::with(&disk);
    let (mut sq, mut cq) = rig.create(1, 8);
    let sqe = deallocate(&rig, 3);
    rig.run(&mut sq, &[read(1, 0, 1), flush(2), sqe]);
    rig.queues.delete_all();
    assert!(!rig.queues.is_quiet());
    disk.finish(0);
    disk.finish(0);
    assert!(!rig.queues.is_quiet());
    disk.finish_all();
    assert!(rig.queues.is_quiet() && rig.queues.in_flight() == 0);
    assert_eq!(rig.statuses(&mut cq), []);
    let (mut sq, mut cq) = rig.create(1, 8);
    rig.put(cq.base, &[0; 128]);
    rig.run(&mut sq, &[flush(9)]);
    disk.finish_all();
    assert_eq!(rig.statuses(&mut cq), [(9, 0)]);
}

#[test]
fn a_namespace_that_goes_ends_its_i_o_and_its_channel_goes_last() {
    let (disk, other) = (Disk::new(BLOCKS, 9), Disk::new(BLOCKS, 9));
    disk.on_abort.set(OnAbort::EndLater);
    let rig = Rig::with(&disk);
    rig.add(2, &other);
    let (mut sq, mut cq) = rig.create(1, 8);
    rig.run(&mut sq, &[read(1, 0, 1), Sqe { nsid: 2, ..read(2, 0, 1) }]);
    rig.queues.remove_namespace(1);
    rig.queues.remove_namespace(1);
    rig.queues.abort_some(|| true);
    rig.run(&mut sq, &[read(3, 0, 1)]);
    assert_eq!((Rc::strong_count(&disk), disk.held(), other.held()), (2, 1, 1));
    disk.finish_all();
    assert_eq!(Rc::strong_count(&disk), 1, "the channel is closed");
    let gone = Status::INVALID_NAMESPACE.into_bits();
    assert_eq!(rig.statuses(&mut cq), [(3, gone), (1, gone)]);
    other.finish_all();
    assert_eq!(rig.statuses(&mut cq), [(2, 0)]);
}

#[test]
fn a_namespace_that_comes_again_is_another_one() {
    let (old, new) = (Disk::new(BLOCKS, 9), Disk::instant(BLOCKS, 9));
    let rig = Rig::with(&old);
    let (mut sq, mut cq) = rig.create(1, 8);
    rig.run(&mut sq, &[read(1, 0, 1)]);
    rig.queues.remove_namespace(1);
    rig.add(1, &new);
    rig.run(&mut sq, &[read(2, 0, 1)]);
    assert_eq!((rig.statuses(&mut cq), new.submitted.get()), (vec![(2, 0)], 1));
    old.finish_all();
    assert_eq!(rig.statuses(&mut cq), [(1, 0)]);
}

#[test]
fn two_sessions_on_one_disk_know_nothing_of_each_other() {
    let disk = Disk::new(BLOCKS, 9);
    disk.on_abort.set(OnAbort::EndNow);
    let (one, two) = (Rig::with(&disk), Rig::with(&disk));
    let (mut sq, mut cq) = one.create(1, 8);
    let (mut sq2, mut cq2) = two.create(1, 8);
    one.run(&mut sq, &[read(1, 0, 1), read(2, 0, 1)]);
    two.run(&mut sq2, &[read(1, 1, 1)]);
    one.queues.delete_all();
    one.queues.abort_some(|| true);
    assert!(one.queues.is_quiet() && !two.queues.is_empty_handed());
    assert_eq!(one.statuses(&mut cq), []);
    let memory = one.memory.without_all().1;
    drop(one);
    assert!(memory.iter().all(|region| Arc::strong_count(region) == 1));
    disk.finish_all();
    assert_eq!(two.statuses(&mut cq2), [(1, 0)]);
}

#[test]
fn totals_count_what_each_queue_has_carried() {
    let disk = Disk::instant(BLOCKS, 9);
    let rig = Rig::with(&disk);
    let (mut sq, _) = rig.create(1, 8);
    rig.run(&mut sq, &[read(1, 0, 3), super::common::guest::write(2, 0, 2), flush(3)]);
    let (mut other, _) = rig.create(2, 8);
    rig.run(&mut other, &[read(1, 0, 1)]);
    let _unused = rig.create(3, 8);
    let mut counted = Vec::new();
    rig.queues.take_totals(|sqid, totals| {
        counted.push((sqid, totals.reads, totals.bytes_read, totals.writes, totals.bytes_written));
    });
    counted.sort_unstable();
    assert_eq!(counted, [(1, 1, 1536, 1, 1024), (2, 1, 512, 0, 0)]);
    rig.queues.take_totals(|sqid, _| counted.push((sqid, 0, 0, 0, 0)));
    assert_eq!(counted.len(), 2, "something was told twice: {counted:?}");
}
