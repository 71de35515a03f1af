//! What queues tell of themselves.

use guest_memory::Fault;
use nvme_device::queue::{CommandFault, CompletionState, LeftoverState, SubmissionState};
use nvme_spec::{IoOpcode, Sqe, Status};

use super::common::guest::{DATA, LISTS, NOW, PAGE, Rig, block_command, flush, read};
use super::common::ram::Disk;

fn submission(rig: &Rig, qid: u16) -> SubmissionState {
    rig.queues.submission_states().into_iter().find(|state| state.qid == qid).expect("the queue")
}

fn completion(rig: &Rig, qid: u16) -> CompletionState {
    rig.queues.completion_states().into_iter().find(|state| state.qid == qid).expect("the queue")
}

#[test]
fn commands_in_flight_are_told_with_the_time_at_which_the_oldest_was_taken() {
    let disk = Disk::new(8, 9);
    let rig = Rig::with(&disk);
    let (mut sq, _) = rig.create(1, 16);
    assert_eq!(submission(&rig, 1).oldest, None);
    rig.queues.set_now(100);
    rig.run(&mut sq, &[read(1, 0, 1), read(2, 0, 1)]);
    rig.queues.set_now(200);
    rig.run(&mut sq, &[read(3, 0, 1)]);
    rig.submit(&mut sq, &[read(4, 0, 1)]);
    let expected = SubmissionState {
        qid: 1,
        cqid: 1,
        size: 16,
        head: 3,
        tail: Some(4),
        commands_in_flight: 3,
        deferred: 0,
        fenced: 0,
        oldest: Some(100),
    };
    assert_eq!(submission(&rig, 1), expected);
    assert_eq!((completion(&rig, 1).reserved, completion(&rig, 1).size), (3, 16));

    assert!(disk.finish(0) && disk.finish(0));
    assert_eq!((submission(&rig, 1).commands_in_flight, submission(&rig, 1).oldest), (1, Some(200)));
    let told = completion(&rig, 1);
    assert_eq!((told.head, told.tail, told.reserved), (0, 2, 1));
}

#[test]
fn what_the_backend_does_not_take_is_told_as_deferred() {
    let disk = Disk::new(8, 9);
    let rig = Rig::with(&disk);
    let (mut sq, _) = rig.create(1, 16);
    disk.refuse_later.set(1);
    rig.run(&mut sq, &[read(1, 0, 1)]);
    assert_eq!((submission(&rig, 1).commands_in_flight, submission(&rig, 1).deferred), (1, 1));
    rig.queues.poll();
    assert_eq!((submission(&rig, 1).commands_in_flight, submission(&rig, 1).deferred), (1, 0));
}

#[test]
fn interrupts_are_counted_and_so_are_completions_that_had_none_of_their_own() {
    let rig = Rig::with(&Disk::instant(8, 9));
    rig.create_cq(1, 16, Some(3));
    let mut sq = rig.create_sq(1, 16, 1);
    for commands in [3, 1] {
        rig.run(&mut sq, &(0..commands).map(flush).collect::<Vec<_>>());
        rig.queues.signal();
    }
    let told = completion(&rig, 1);
    assert_eq!((told.vector, told.interrupts, told.coalesced), (Some(3), 2, 2));
}

#[test]
fn the_admin_queue_is_told_with_the_commands_that_are_not_completed() {
    let rig = Rig::new();
    let queue = rig.queues.create_admin(0x10_0000, 16, 0, 16);
    rig.doorbells.store(0, 2);
    let taken = [queue.next(), queue.next()].map(|sqe| sqe.expect("a command").cid);
    queue.complete(taken[0], 0, Status::SUCCESS);
    let told = submission(&rig, 0);
    assert_eq!((told.size, told.head, told.tail, told.commands_in_flight), (16, 2, Some(2), 1));
    drop(queue);
    assert!(rig.queues.submission_states().is_empty());
}

#[test]
fn what_a_deleted_queue_has_in_flight_is_told() {
    let disk = Disk::new(8, 9);
    let rig = Rig::with(&disk);
    let (mut sq, _) = rig.create(1, 16);
    rig.queues.set_now(NOW.get() + 5);
    rig.run(&mut sq, &[read(1, 0, 1)]);
    rig.queues.delete_submission(1);
    assert_eq!(rig.queues.left_state(), LeftoverState { commands_in_flight: 1, oldest: Some(NOW.get() + 5) });
    assert!(rig.queues.submission_states().is_empty());
    assert!(disk.finish(0));
    assert_eq!(rig.queues.left_state().commands_in_flight, 0);
}

/// Returns the only fault that is told, if the command `sqe` fails with Data Transfer Error.
fn fault_of(sqe: Sqe) -> Option<(u64, Fault)> {
    let rig = Rig::with(&Disk::instant(512, 9));
    let (mut sq, mut cq) = rig.create(1, 16);
    rig.run(&mut sq, &[sqe]);
    let statuses = rig.statuses(&mut cq);
    let faults = rig.queues.take_faults();
    assert!(rig.queues.take_faults().is_empty(), "they are told once");
    if statuses != [(sqe.cid, Status::DATA_TRANSFER_ERROR.into_bits())] {
        assert!(faults.is_empty(), "{faults:?} of a command that ended with {statuses:?}");
        return None;
    }
    assert_eq!(faults.len(), 1, "{faults:?}");
    let CommandFault { sqid, cid, opcode, nsid, gpa, fault } = *faults.first()?;
    assert_eq!((sqid, cid, opcode, nsid), (1, sqe.cid, sqe.opcode, 1));
    Some((gpa, fault))
}

#[test]
fn a_guest_address_that_cannot_be_used_is_told_with_its_command() {
    const NOWHERE: u64 = 1 << 40;
    assert_eq!(fault_of(read(7, 0, 1)), None);
    let cases = [
        (block_command(IoOpcode::READ.0, 8, 0, 1, NOWHERE + 512), NOWHERE + 512),
        // The second page, the list of pages, and the ranges of a Dataset Management command.
        (Sqe { prp2: NOWHERE, ..block_command(IoOpcode::WRITE.0, 9, 0, 16, DATA.0) }, NOWHERE),
        (Sqe { prp2: NOWHERE, ..block_command(IoOpcode::READ.0, 10, 0, 64, DATA.0) }, NOWHERE),
        (Sqe { cdw11: 4, ..block_command(IoOpcode::DATASET_MANAGEMENT.0, 11, 0, 1, NOWHERE) }, NOWHERE),
        // The memory ends within the page.
        (block_command(IoOpcode::READ.0, 12, 0, 16, DATA.0 + DATA.1 - PAGE), DATA.0 + DATA.1),
    ];
    for (sqe, gpa) in cases {
        assert_eq!(fault_of(sqe), Some((gpa, Fault::Unmapped)), "{sqe:?}");
    }
    assert_eq!(fault_of(Sqe { prp1: LISTS.0 + 1, ..read(13, 0, 1) }), None, "an address that is wrong in itself");
}

#[test]
fn the_faults_of_a_guest_that_makes_very_many_take_little_memory() {
    let rig = Rig::with(&Disk::instant(512, 9));
    let (mut sq, mut cq) = rig.create(1, 256);
    for _ in 0..10 {
        rig.run(&mut sq, &[block_command(IoOpcode::READ.0, 1, 0, 1, 1 << 40); 100]);
        rig.reap(&mut cq);
    }
    assert_eq!(rig.queues.take_faults().len(), 64);
}
