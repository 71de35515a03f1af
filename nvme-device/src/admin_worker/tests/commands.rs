//! Admin commands.

use super::*;
use crate::queue::Coalescing;

#[test]
fn completion_queues_go_around_the_poll_groups_beginning_with_the_workers_own() {
    let mut bench = Bench::enabled();
    let mut places = Vec::new();
    for qid in 1..=4 {
        bench.command(create_cq(qid));
        places.push(bench.sent[0].0);
        bench.answer_all();
    }
    assert_eq!(places, [1, 2, 0, 1]);
    assert_eq!(bench.cleared, [1, 2, 3, 4].map(QueueId::Cq), "doorbells begin as 0");
}

#[test]
fn a_submission_queue_is_made_where_its_completion_queue_is() {
    let mut bench = Bench::enabled();
    bench.make_pair(2);
    let cid = bench.command(create_sq(1, 2));
    let request = GroupRequest::CreateSq { qid: 1, base: 0x2000, entries: 8, cqid: 2 };
    assert_eq!(bench.requests_sent(), [(2, request)]);
    assert_eq!(bench.completion(cid), None);
    bench.answer_all();
    assert_eq!(bench.completion(cid), Some((0, Status::SUCCESS)));
}

#[test]
fn a_queue_that_cannot_be_where_the_host_wants_it_is_refused_and_its_identifier_stays_free() {
    let mut bench = Bench::enabled();
    bench.make_pair(1);
    bench.fault = Some(Fault::Unmapped);
    for (sqe, queue) in [(create_cq(2), QueueId::Cq(2)), (create_sq(2, 1), QueueId::Sq(2))] {
        let cid = bench.command(sqe);
        assert_eq!(bench.completion(cid), Some((0, Status::INVALID_FIELD)));
        let misplaced = UnusableMemory { gpa: sqe.prp1, fault: Fault::Unmapped };
        assert_eq!(bench.reports.pop(), Some(Report::Queue(queue, misplaced)));
    }
    assert!(bench.sent.is_empty());
    bench.fault = None;
    bench.make_pair(2);
}

#[test]
fn a_queue_that_its_poll_group_could_not_make_can_be_made_again() {
    let mut bench = Bench::enabled();
    bench.command(create_cq(1));
    bench.answer_all();
    let cid = bench.command(create_sq(1, 1));
    bench.answer(0, Answer::Failed);
    assert_eq!(bench.completion(cid), Some((0, Status::COMPLETION_QUEUE_INVALID)));
    let cid = bench.command(Sqe::delete_io_sq(1));
    assert_eq!(bench.completion(cid), Some((0, Status::INVALID_QUEUE_IDENTIFIER)));
    let cid = bench.command(create_sq(1, 1));
    bench.answer_all();
    assert_eq!(bench.completion(cid), Some((0, Status::SUCCESS)));
}

#[test]
fn a_deleted_queue_is_gone_when_its_poll_group_says_so() {
    let mut bench = Bench::enabled();
    bench.make_pair(1);
    let submission = bench.command(Sqe::delete_io_sq(1));
    assert_eq!(bench.requests_sent(), [(OWN, GroupRequest::DeleteSq { qid: 1 })]);
    let too_early = bench.command(Sqe::delete_io_cq(1));
    assert_eq!(bench.completion(too_early), Some((0, Status::INVALID_QUEUE_DELETION)));
    assert_eq!(bench.completion(submission), None);
    bench.answer_all();
    assert_eq!(bench.completion(submission), Some((0, Status::SUCCESS)));
    let completion = bench.command(Sqe::delete_io_cq(1));
    bench.answer_all();
    assert_eq!(bench.completion(completion), Some((0, Status::SUCCESS)));
    bench.make_pair(1);
}

#[test]
fn an_abort_tells_whether_the_command_was_aborted() {
    let mut bench = Bench::enabled();
    bench.make_pair(1);
    for (answer, dw0) in [(Answer::Done, 0), (Answer::Failed, 1)] {
        let cid = bench.command(Sqe::abort(1, 0x77));
        assert_eq!(bench.requests_sent(), [(OWN, GroupRequest::Abort { sqid: 1, cid: 0x77 })]);
        assert_eq!(bench.completion(cid), None);
        bench.answer(0, answer);
        assert_eq!(bench.completion(cid), Some((dw0, Status::SUCCESS)));
    }
}

#[test]
fn more_aborts_than_the_limit_are_refused_until_one_has_ended() {
    let mut bench = Bench::enabled();
    bench.make_pair(1);
    for _ in 0..4 {
        bench.command(Sqe::abort(1, 1));
    }
    let refused = bench.command(Sqe::abort(1, 1));
    assert_eq!(bench.completion(refused), Some((0, Status::ABORT_LIMIT_EXCEEDED)));
    bench.answer(0, Answer::Failed);
    bench.command(Sqe::abort(1, 1));
    assert_eq!(bench.sent.len(), 4);
}

#[test]
fn an_aborted_event_request_is_completed_before_the_abort() {
    let mut bench = Bench::enabled();
    let held = bench.command(Sqe::async_event_request());
    let abort = bench.command(Sqe::abort(0, held));
    assert_eq!(bench.completed, [(held, 0, Status::ABORT_REQUESTED), (abort, 0, Status::SUCCESS)]);
}

#[test]
fn an_event_waits_for_a_completion_entry() {
    let mut bench = Bench::enabled();
    bench.command(want_namespace_notices());
    let held = bench.command(Sqe::async_event_request());
    while bench.try_command(Sqe::set_features(FeatureId::NUMBER_OF_QUEUES, 0)).is_some() {}
    bench.drive(Input::AddNamespace(namespace(1, 0x11)));
    bench.complete_events();
    assert_eq!(bench.completion(held), None);
    bench.reap();
    bench.complete_events();
    assert!(bench.completion(held).is_some());
}

#[test]
fn an_event_that_waited_for_an_entry_is_not_told_in_the_next_enable_cycle() {
    let mut bench = Bench::enabled();
    bench.command(want_namespace_notices());
    let held = bench.command(Sqe::async_event_request());
    while bench.try_command(Sqe::set_features(FeatureId::NUMBER_OF_QUEUES, 0)).is_some() {}
    bench.drive(Input::AddNamespace(namespace(1, 0x11)));
    bench.complete_events();
    bench.disable();
    bench.answer_all();
    assert!(!bench.worker.prepare_event());
    bench.enable();
    bench.complete_events();
    assert_eq!(bench.completion(held), None);
}

#[test]
fn a_wrong_doorbell_is_told_by_an_event() {
    let mut bench = Bench::enabled();
    let held = bench.command(Sqe::async_event_request());
    bench.drive(Input::ErrorEvents(vec![QueueErrorEvent::InvalidDoorbell { qid: 1 }]));
    bench.complete_events();
    assert_eq!(bench.completion(held), Some((0x0001_0100, Status::SUCCESS)), "Invalid Doorbell Write Value");
}

#[test]
fn a_feature_of_all_queues_is_set_when_every_poll_group_has_it() {
    let mut bench = Bench::enabled();
    let cid = bench.command(Sqe::set_features(FeatureId::VOLATILE_WRITE_CACHE, 0));
    assert_eq!(bench.requests_sent(), [0, 1, 2].map(|group| (group, GroupRequest::SetWriteCache { on: false })));
    for _ in 0..GROUPS {
        assert_eq!(bench.completion(cid), None);
        bench.answer(0, Answer::Done);
    }
    assert_eq!(bench.completion(cid), Some((0, Status::SUCCESS)));
}

#[test]
fn shadow_doorbells_are_used_by_all_poll_groups_before_the_host_may_write_them() {
    let mut bench = Bench::enabled();
    let cid = bench.command(shadow_doorbells());
    assert_eq!(bench.stored.shadow, Some((0x5000, 0x6000)), "poll groups that make queues later find it");
    assert_eq!(bench.requests_sent(), [0, 1, 2].map(|group| (group, GroupRequest::TakeSettings)));
    assert_eq!(bench.completion(cid), None);
    bench.answer_all();
    assert_eq!(bench.completion(cid), Some((0, Status::SUCCESS)));
    bench.disable();
    bench.answer_all();
    assert_eq!(bench.stored, Settings::default(), "they are forgotten by a reset");
}

#[test]
fn shadow_doorbells_that_cannot_be_are_refused() {
    let mut bench = Bench::enabled();
    bench.fault = Some(Fault::NoFile);
    let cid = bench.command(shadow_doorbells());
    assert_eq!(bench.completion(cid), Some((0, Status::INVALID_FIELD)));
    assert!(bench.stored.shadow.is_none() && bench.sent.is_empty());
}

#[test]
fn interrupt_coalescing_is_published_when_it_changes_and_keeps_the_shadow_doorbells() {
    let mut bench = Bench::enabled();
    bench.command(shadow_doorbells());
    bench.answer_all();
    let before = bench.published;
    // Two entries (0's based 1), 3 * 100 us.
    bench.command(coalesce(InterruptCoalescing::new().with_thr(1).with_time(3)));
    bench.command(coalesce(InterruptCoalescing::new().with_thr(1).with_time(3)));
    assert_eq!(bench.published, before + 1);
    assert_eq!(bench.stored.coalescing, Coalescing { entries: 2, ticks: 3000 });
    assert_eq!(bench.stored.shadow, Some((0x5000, 0x6000)));
}

#[test]
fn while_data_goes_by_messages_no_other_command_is_taken() {
    let mut bench = Bench::enabled();
    bench.slow_data = true;
    let cid = bench.command(identify());
    assert!(matches!(bench.transfers[..], [DataTransfer::ToHost(_, 4096)]));
    assert!(!bench.worker.wants_command() && bench.try_command(identify()).is_none());
    bench.end_transfers(true);
    assert_eq!(bench.completion(cid), Some((0, Status::SUCCESS)));
    assert!(bench.worker.wants_command());
}

#[test]
fn data_that_cannot_be_given_or_had_fails_the_command() {
    let mut bench = Bench::enabled();
    bench.slow_data = true;
    for sqe in [identify(), set_timestamp()] {
        let cid = bench.command(sqe);
        bench.end_transfers(false);
        assert_eq!(bench.completion(cid), Some((0, Status::DATA_TRANSFER_ERROR)));
    }
}

#[test]
fn a_command_whose_data_has_come_goes_on() {
    let mut bench = Bench::enabled();
    bench.slow_data = true;
    let cid = bench.command(set_timestamp());
    assert!(matches!(bench.transfers[..], [DataTransfer::FromHost(_, 8)]));
    bench.end_transfers(true);
    assert_eq!(bench.completion(cid), Some((0, Status::SUCCESS)));
}

#[test]
fn a_reset_does_not_wait_for_data_on_its_way() {
    let mut bench = Bench::enabled();
    bench.slow_data = true;
    let cid = bench.command(identify());
    bench.disable();
    bench.answer_all();
    assert!(!bench.registers.ready());
    bench.enable();
    bench.end_transfers(true);
    assert!(bench.completion(cid).is_none() && bench.worker.wants_command());
}

#[test]
fn an_answer_of_another_kind_fails_the_command() {
    let mut bench = Bench::enabled();
    bench.slow_data = true;
    let cid = bench.command(identify());
    let Some(DataTransfer::ToHost(ticket, _)) = bench.transfers.pop() else { unreachable!("it gives data") };
    bench.drive(Input::Answer(ticket, Answer::Done));
    assert_eq!(bench.completion(cid), Some((0, Status::INTERNAL_ERROR)));
    assert!(bench.worker.wants_command());
}
