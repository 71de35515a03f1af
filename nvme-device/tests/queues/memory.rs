//! Guest memory that goes while it is in use, and comes again.

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use guest_memory::{Access, GuestMemory};
use nvme_spec::{IoOpcode, Sqe, Status};
use zerocopy::IntoBytes;

use super::common::guest::{CQS, DATA, LISTS, PAGE, RAM, Rig, SQS, block_command, flush, memfd, read, region, write};
use super::common::ram::{Disk, OnAbort};

const BLOCKS: usize = 512;

#[test]
fn data_that_is_unmapped_in_flight_stays_until_its_last_i_o_ends() {
    let disk = Disk::new(BLOCKS, 9);
    disk.bytes.borrow_mut().fill(0xab);
    let mut rig = Rig::with(&disk);
    let (mut sq, mut cq) = rig.create(1, 8);
    rig.run(&mut sq, &[read(1, 0, 8), read(2, 8, 8)]);
    let gone = rig.unmap(DATA);
    assert!(Arc::strong_count(&gone) > 1);
    disk.finish(1);
    assert!(Arc::strong_count(&gone) > 1);
    disk.finish(0);
    assert_eq!(Arc::strong_count(&gone), 1, "nothing touches it any more");
    assert_eq!(rig.get(DATA.0, 4096), [0xab; 4096], "the write went where it was to go");
    assert_eq!(rig.statuses(&mut cq), [(2, 0), (1, 0)]);
    rig.run(&mut sq, &[read(3, 0, 8)]);
    assert_eq!(rig.statuses(&mut cq), [(3, Status::DATA_TRANSFER_ERROR.into_bits())]);
}

#[test]
fn a_command_that_is_found_after_memory_was_looked_at_waits_for_the_newest() {
    let disk = Disk::instant(BLOCKS, 9);
    let mut rig = Rig::with(&disk);
    let (mut sq, mut cq) = rig.create(1, 8);
    rig.unmap(DATA);
    // The memory is mapped, and the doorbell rung, between the look at the one and at the other.
    rig.submit(&mut sq, &[read(1, 0, 8)]);
    rig.ring(&sq);
    assert_eq!(rig.queues.poll_if(|| false), 0);
    assert_eq!((disk.held(), rig.peek(&cq).is_some()), (0, false), "it was carried out, or refused");
    rig.map(DATA);
    assert_eq!(rig.queues.poll_if(|| true), 1);
    assert_eq!(rig.statuses(&mut cq), [(1, 0)]);
}

#[test]
fn i_o_elsewhere_does_not_hold_memory_back() {
    let disk = Disk::new(BLOCKS, 9);
    let mut rig = Rig::with(&disk);
    let (mut sq, mut cq) = rig.create(1, 8);
    rig.run(&mut sq, &[read(1, 0, 8), flush(2)]);
    let gone = rig.unmap(LISTS);
    assert_eq!(Arc::strong_count(&gone), 1);
    disk.finish_all();
    assert_eq!(rig.statuses(&mut cq), [(1, 0), (2, 0)]);
}

#[test]
fn a_piece_that_reaches_into_a_neighbour_does_not_hold_others_back() {
    let disk = Disk::new(BLOCKS, 9);
    let mut rig = Rig::with(&disk);
    let (mut sq, mut cq) = rig.create(1, 8);
    // New mappings are often neighbours in host memory, in either order: their pieces become one.
    let file = memfd(2 * PAGE);
    let (low, high) = (1 << 40, 1 << 41);
    let mut memory: GuestMemory = rig.memory.clone();
    for gpa in [low, high] {
        memory = memory.with(region(&file, 0, gpa, PAGE, Access::ReadWrite)).expect("no overlap");
    }
    rig.queues.set_view(&std::rc::Rc::new(guest_memory::MemView::new(Arc::new(memory.clone()))));
    rig.memory = memory;
    let pages = [Sqe { prp1: low, prp2: high, ..read(1, 0, 16) }, Sqe { prp1: high, prp2: low, ..read(2, 0, 16) }];
    rig.run(&mut sq, &pages);
    assert_eq!(disk.held(), 2);
    let gone = rig.unmap(LISTS);
    assert_eq!(Arc::strong_count(&gone), 1);
    rig.queues.abort_unmapped();
    disk.finish_all();
    assert_eq!(rig.statuses(&mut cq), [(1, 0), (2, 0)]);
}

#[test]
fn what_touches_memory_that_goes_can_be_aborted() {
    let disk = Disk::new(BLOCKS, 9);
    disk.on_abort.set(OnAbort::EndNow);
    let mut rig = Rig::with(&disk);
    let (mut sq, mut cq) = rig.create(1, 8);
    let (mut other, mut other_cq) = rig.create(2, 8);
    rig.run(&mut sq, &[read(1, 0, 8)]);
    rig.run(&mut other, &[flush(2)]);
    let gone = rig.unmap(DATA);
    rig.queues.abort_unmapped();
    rig.queues.abort_some(|| true);
    assert_eq!(Arc::strong_count(&gone), 1);
    assert_eq!(rig.statuses(&mut cq), [(1, Status::ABORT_REQUESTED.into_bits())]);
    assert_eq!((rig.statuses(&mut other_cq), disk.held()), (vec![], 1), "other queues are left alone");
}

#[test]
fn completions_wait_for_their_ring_and_are_posted_in_order() {
    let disk = Disk::new(BLOCKS, 9);
    let mut rig = Rig::with(&disk);
    let (mut sq, mut cq) = rig.create(1, 4);
    rig.run(&mut sq, &[read(1, 0, 1), flush(2), flush(3)]);
    let gone = rig.unmap(CQS);
    assert_eq!(Arc::strong_count(&gone), 1, "a ring holds nothing back");
    disk.finish(1);
    disk.finish(0);
    rig.queues.poll();
    rig.submit(&mut sq, &[flush(4)]);
    rig.queues.poll();
    assert_eq!(disk.held(), 1, "no entry is free for another command");
    rig.map(CQS);
    assert_eq!(rig.statuses(&mut cq), []);
    rig.queues.poll();
    disk.finish(0);
    assert_eq!(rig.statuses(&mut cq), [(2, 0), (1, 0), (3, 0)]);
    rig.queues.poll();
    disk.finish_all();
    assert_eq!(rig.statuses(&mut cq), [(4, 0)]);
}

#[test]
fn a_submission_ring_that_is_unmapped_gives_nothing_until_it_is_there_again() {
    let disk = Disk::instant(BLOCKS, 9);
    let mut rig = Rig::with(&disk);
    let (mut sq, mut cq) = rig.create(1, 8);
    rig.run(&mut sq, &[flush(1)]);
    let gone = rig.unmap(SQS);
    assert_eq!(Arc::strong_count(&gone), 1);
    rig.run(&mut sq, &[flush(2)]);
    assert_eq!(rig.statuses(&mut cq), [(1, 0)]);
    rig.map(SQS);
    rig.queues.poll();
    assert_eq!(rig.statuses(&mut cq), [(2, 0)]);
}

#[test]
fn rings_of_queues_that_end_hold_no_memory() {
    let disk = Disk::new(BLOCKS, 9);
    let mut rig = Rig::with(&disk);
    let (mut sq, _) = rig.create(1, 8);
    let (mut other, _) = rig.create(2, 8);
    rig.run(&mut sq, &[flush(1)]);
    rig.run(&mut other, &[flush(2)]);
    rig.queues.delete_submission(1);
    assert!(!rig.queues.is_ended(1));
    let submissions = rig.unmap(SQS);
    assert_eq!(Arc::strong_count(&submissions), 1);
    rig.map(SQS);
    disk.finish(0);
    assert!(rig.queues.is_ended(1));
    rig.queues.delete_all();
    assert!(!rig.queues.is_quiet());
    for part in [SQS, CQS] {
        assert_eq!(Arc::strong_count(&rig.unmap(part)), 1);
    }
    disk.finish_all();
    assert!(rig.queues.is_quiet());
}

#[test]
fn a_completion_queue_that_is_deleted_holds_no_memory_while_its_submission_queue_is_not_freed() {
    let disk = Disk::instant(BLOCKS, 9);
    let mut rig = Rig::with(&disk);
    let (mut sq, mut cq) = rig.create(1, 8);
    rig.run(&mut sq, &[flush(1)]);
    assert_eq!(rig.statuses(&mut cq), [(1, 0)]);
    rig.queues.delete_submission(1);
    assert!(rig.queues.delete_completion(1));
    let gone = rig.unmap(CQS);
    assert_eq!(Arc::strong_count(&gone), 1);
}

#[test]
fn completions_that_wait_for_a_deleted_queue_are_not_posted_to_its_successor() {
    let disk = Disk::instant(BLOCKS, 9);
    let mut rig = Rig::with(&disk);
    let (mut sq, _) = rig.create(1, 4);
    rig.unmap(CQS);
    rig.run(&mut sq, &[flush(1), flush(2)]);
    rig.queues.delete_submission(1);
    rig.queues.delete_completion(1);
    rig.map(CQS);
    let (mut sq, mut cq) = rig.create(1, 4);
    rig.queues.poll();
    assert_eq!(rig.statuses(&mut cq), []);
    rig.run(&mut sq, &[flush(3)]);
    assert_eq!(rig.statuses(&mut cq), [(3, 0)]);
}

#[test]
fn queues_that_are_dropped_with_i_o_in_flight_write_nothing_more_and_hold_nothing() {
    let disk = Disk::new(BLOCKS, 9);
    let rig = Rig::with(&disk);
    let (mut sq, mut cq) = rig.create(1, 8);
    rig.run(&mut sq, &[read(1, 0, 8), write(2, 0, 8)]);
    let Rig { file, memory, queues, doorbells, interrupts } = rig;
    drop(queues);
    assert_eq!(disk.held(), 2);
    let regions: Vec<_> = memory.without_all().1;
    drop(memory);
    disk.finish_all();
    assert!(regions.iter().all(|region| Arc::strong_count(region) == 1));
    assert_eq!((Arc::strong_count(&doorbells), Arc::strong_count(&interrupts)), (1, 1));
    let rig = Rig { file, ..Rig::new() };
    assert_eq!(rig.statuses(&mut cq), []);
}

#[test]
fn a_ring_in_many_regions_works() {
    let disk = Disk::instant(BLOCKS, 9);
    let mut rig = Rig::with(&disk);
    rig.unmap(SQS);
    rig.unmap(CQS);
    let mut memory = rig.memory.clone();
    for gpa in (CQS.0..CQS.1 * 2).step_by(PAGE as usize) {
        // Every other page from another file, so that no two are neighbours.
        memory = memory.with(region(&rig.file, gpa, gpa, PAGE, Access::ReadWrite)).expect("no overlap");
    }
    rig.queues.set_view(&std::rc::Rc::new(guest_memory::MemView::new(Arc::new(memory.clone()))));
    rig.memory = memory;
    let (mut sq, mut cq) = rig.create(1, 1024);
    for round in 0..3 {
        rig.submit(&mut sq, &(0..1000).map(flush).collect::<Vec<_>>());
        for _ in 0..8 {
            rig.queues.poll();
        }
        assert_eq!(rig.statuses(&mut cq), (0..1000).map(|cid| (cid, 0)).collect::<Vec<_>>(), "{round}");
    }
}

#[test]
fn a_write_whose_source_the_guest_cut_off_fails_and_so_does_a_comparison() {
    let disk = Disk::new(BLOCKS, 9);
    let rig = Rig::with(&disk);
    let (mut sq, mut cq) = rig.create(1, 8);
    let last = RAM - PAGE;
    rig.put(last, &[7; 512]);
    let on = |op, cid, slba, page| block_command(op, cid, slba, 1, page);
    let (write, compare) = (IoOpcode::WRITE.0, IoOpcode::COMPARE.0);
    rig.run(&mut sq, &[on(write, 1, 0, last), on(compare, 2, 0, last), on(write, 3, 8, DATA.0)]);
    rig.file.set_len(last).expect("shrunk");
    disk.finish_all();
    let failed = Status::DATA_TRANSFER_ERROR.into_bits();
    assert_eq!(rig.statuses(&mut cq), [(1, failed), (2, failed), (3, 0)]);
    rig.run(&mut sq, &[on(write, 4, 0, last), on(write, 5, 8, DATA.0)]);
    disk.finish_all();
    assert_eq!(rig.statuses(&mut cq), [(4, failed), (5, 0)], "what is left of the region can be used");
}

#[test]
fn a_queue_whose_page_cannot_be_had_stands_still_and_completes_nothing_that_was_not_asked_for() {
    let disk = Disk::instant(BLOCKS, 9);
    let mut rig = Rig::with(&disk);
    let file = memfd(PAGE);
    let at = (1 << 30, PAGE);
    rig.map_file(&file, at);
    let mut cq = rig.create_cq(1, 8, None);
    assert!(rig.queues.create_submission(1, at.0, 8, 1));
    file.write_all_at(flush(1).as_bytes(), 0).expect("room");
    rig.doorbells.store(2, 1);
    rig.queues.poll();
    assert_eq!(rig.statuses(&mut cq), [(1, 0)]);
    file.set_len(0).expect("shrunk");
    rig.doorbells.store(2, 4);
    rig.queues.poll();
    rig.queues.poll();
    assert_eq!(rig.statuses(&mut cq), []);
    let (mut sq, mut other) = rig.create(2, 8);
    rig.run(&mut sq, &[flush(2)]);
    assert_eq!(rig.statuses(&mut other), [(2, 0)], "other queues go on");
}
