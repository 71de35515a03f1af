//! What queues tell of themselves.

use vfio_user_ctrl::queue::{CompletionState, LeftState, SubmissionState};

use super::common::guest::{NOW, Rig, flush, read};
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
    queue.complete(taken[0], 0, nvme_spec::Status::SUCCESS);
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
    assert_eq!(rig.queues.left_state(), LeftState { commands_in_flight: 1, oldest: Some(NOW.get() + 5) });
    assert!(rig.queues.submission_states().is_empty());
    assert!(disk.finish(0));
    assert_eq!(rig.queues.left_state().commands_in_flight, 0);
}
