//! Enable cycles.

use super::*;

const DELETE_ALL: [(usize, GroupRequest); GROUPS] =
    [(0, GroupRequest::DeleteAll), (1, GroupRequest::DeleteAll), (2, GroupRequest::DeleteAll)];

#[test]
fn a_controller_is_ready_once_its_admin_queues_are_there() {
    let mut bench = Bench::attached();
    assert!(!bench.worker.wants_command());
    bench.enable();
    assert!(bench.registers.ready() && !bench.registers.fatal());
    assert!(bench.worker.wants_command() && !bench.worker.has_deadline());
}

#[test]
fn admin_queues_whose_memory_comes_late_are_waited_for() {
    let mut bench = Bench::attached();
    bench.fault = Some(Fault::Unmapped);
    bench.enable();
    bench.pass(MAPPING_TIME / 2);
    assert!(!bench.registers.ready() && !bench.registers.fatal(), "it is waited for");
    bench.fault = None;
    bench.pass(Duration::from_millis(1));
    assert!(bench.registers.ready() && bench.reports.is_empty());
}

#[test]
fn admin_queues_whose_memory_does_not_come_in_time_are_a_failure_that_is_reported() {
    let mut bench = Bench::attached();
    bench.fault = Some(Fault::Unmapped);
    bench.enable();
    bench.pass(MAPPING_TIME);
    assert!(!bench.registers.ready() && bench.registers.fatal());
    let misplaced = UnusableMemory { gpa: 0x10_0000, fault: Fault::Unmapped };
    assert_eq!(bench.reports, [Report::AdminQueues(misplaced)]);
    assert!(!bench.worker.has_deadline(), "it is waited for no more");
}

#[test]
fn admin_queues_in_memory_without_a_file_are_a_failure_at_once() {
    let mut bench = Bench::attached();
    bench.fault = Some(Fault::NoFile);
    bench.enable();
    assert!(bench.registers.fatal() && bench.reports.len() == 1);
    bench.fault = None;
    bench.disable();
    bench.answer_all();
    bench.enable();
    assert!(bench.registers.ready() && !bench.registers.fatal(), "the host can try again");
}

#[test]
fn a_disable_ends_an_enable_that_waits_for_memory() {
    let mut bench = Bench::attached();
    bench.fault = Some(Fault::Unmapped);
    bench.enable();
    bench.disable();
    bench.fault = None;
    bench.pass(Duration::from_millis(1));
    bench.answer_all();
    bench.pass(MAPPING_TIME);
    assert!(!bench.registers.ready() && !bench.registers.fatal() && bench.reports.is_empty());
}

#[test]
fn a_disabled_controller_is_not_ready_only_when_no_poll_group_has_a_command_in_flight() {
    let mut bench = Bench::enabled();
    bench.make_pair(1);
    bench.disable();
    assert_eq!(bench.requests_sent(), DELETE_ALL);
    assert!(!bench.worker.wants_command(), "no command is taken any more");
    for _ in 0..GROUPS {
        assert!(bench.registers.ready());
        bench.answer(0, Answer::Done);
    }
    assert!(!bench.registers.ready());
}

#[test]
fn an_enable_that_comes_while_queues_are_deleted_is_carried_out_afterwards() {
    let mut bench = Bench::enabled();
    bench.disable();
    bench.enable();
    assert!(!bench.worker.wants_request() && !bench.worker.wants_command());
    bench.answer_all();
    assert!(bench.registers.ready() && bench.worker.wants_command());
}

#[test]
fn a_controller_that_is_enabled_twice_keeps_its_admin_queues() {
    let mut bench = Bench::enabled();
    let held = bench.command(Sqe::async_event_request());
    bench.ask(Request::Enable(Enable { asq: 0, acq: 0, asqs: 2, acqs: 2 }));
    assert!(bench.registers.ready() && bench.open.contains_key(&held));
}

#[test]
fn each_device_reset_is_told_to_be_over_once() {
    let mut bench = Bench::enabled();
    for number in 0..3 {
        bench.reset(number);
    }
    assert!(bench.resets_over.is_empty(), "queues are being deleted");
    bench.answer_all();
    assert_eq!(bench.resets_over, [0, 1, 2]);
    assert!(!bench.registers.ready());
}

#[test]
fn a_device_reset_that_is_in_progress_when_the_client_goes_ends() {
    let mut bench = Bench::enabled();
    bench.reset(7);
    bench.drive(Input::Detached);
    assert_eq!(bench.resets_over, [7]);
}

#[test]
fn the_next_client_finds_a_controller_whose_queues_were_being_deleted_at_once() {
    let mut bench = Bench::enabled();
    bench.make_pair(1);
    let late = bench.command(Sqe::delete_io_sq(1));
    bench.disable();
    let old: Vec<Ticket> = bench.sent.iter().map(|(_, ticket, _)| *ticket).collect();
    bench.attach_another();
    bench.enable();
    assert!(bench.registers.ready());
    for ticket in old {
        bench.drive(Input::Answer(ticket, Answer::Done));
    }
    assert!(bench.registers.ready() && bench.completion(late).is_none(), "answers of the session before are nobody's");
    bench.make_pair(1);
}

#[test]
fn an_answer_to_what_was_asked_before_a_reset_is_nobodys() {
    let mut bench = Bench::enabled();
    let cid = bench.command(create_cq(1));
    bench.disable();
    bench.enable();
    bench.answer_all();
    assert!(bench.registers.ready());
    assert_eq!(bench.completion(cid), None);
    assert_eq!(bench.worker.in_flight(), 0);
    bench.make_pair(1);
}

#[test]
fn a_host_that_sends_no_keep_alive_in_time_has_its_queues_deleted_and_sees_a_failure() {
    let mut bench = Bench::enabled();
    bench.command(Sqe::set_features(FeatureId::KEEP_ALIVE_TIMER, 2000));
    bench.now += SECOND;
    bench.drive(Input::Tick);
    assert!(!bench.registers.fatal());
    bench.now += 10 * SECOND;
    bench.drive(Input::Tick);
    assert!(bench.registers.fatal() && !bench.worker.wants_command());
    bench.answer_all();
    assert!(bench.registers.fatal() && bench.registers.ready(), "until the host resets it");
    bench.disable();
    bench.answer_all();
    assert!(!bench.registers.fatal() && !bench.registers.ready());
}

#[test]
fn a_keep_alive_that_expires_does_not_hide_a_disable() {
    let mut bench = Bench::enabled();
    bench.command(Sqe::set_features(FeatureId::KEEP_ALIVE_TIMER, 2000));
    bench.disable();
    bench.now += 10 * SECOND;
    bench.drive(Input::Tick);
    bench.answer_all();
    assert!(!bench.registers.ready() && !bench.registers.fatal());
}

#[test]
fn a_shutdown_is_complete_when_the_caches_are_written_back() {
    let mut bench = Bench::enabled();
    bench.shut_down();
    assert_eq!(bench.requests_sent(), [(OWN, GroupRequest::Flush)]);
    bench.pass(FLUSH_TIME / 2);
    assert!(bench.is_shutting_down() && !bench.is_shut_down());
    bench.answer_all();
    assert!(bench.is_shut_down() && bench.reports.is_empty());
    bench.pass(FLUSH_TIME);
    assert!(bench.reports.is_empty());
}

#[test]
fn a_shutdown_whose_flush_takes_too_long_is_complete_and_reported() {
    let mut bench = Bench::enabled();
    bench.shut_down();
    bench.pass(FLUSH_TIME);
    assert!(bench.is_shut_down());
    assert_eq!(bench.reports, [Report::FlushTooSlow]);
    bench.answer_all();
    assert_eq!(bench.reports.len(), 1);
}

#[test]
fn a_host_that_shuts_down_again_and_again_has_one_flush_in_flight() {
    let mut bench = Bench::enabled();
    for _ in 0..100 {
        bench.ask(Request::Shutdown);
        bench.pass(FLUSH_TIME);
    }
    assert_eq!(bench.requests_sent(), [(OWN, GroupRequest::Flush)]);
}

#[test]
fn a_shutdown_that_comes_with_a_disable_is_complete_after_both() {
    let mut bench = Bench::enabled();
    bench.disable_and_shut_down();
    while bench.registers.ready() {
        assert!(bench.is_shutting_down() && !bench.is_shut_down());
        bench.answer(0, Answer::Done);
    }
    assert_eq!(bench.requests_sent(), [(OWN, GroupRequest::Flush)]);
    assert!(!bench.is_shut_down());
    bench.answer_all();
    assert!(bench.is_shut_down());
}

#[test]
fn a_flush_that_ends_in_the_next_enable_cycle_completes_no_shutdown_of_it() {
    let mut bench = Bench::enabled();
    bench.disable_and_shut_down();
    while bench.registers.ready() {
        bench.answer(0, Answer::Done);
    }
    assert_eq!(bench.requests_sent(), [(OWN, GroupRequest::Flush)]);
    bench.enable();
    assert!(bench.registers.ready() && !bench.is_shutting_down());
    bench.answer_all();
    bench.pass(FLUSH_TIME);
    assert!(!bench.is_shutting_down() && bench.reports.is_empty());
}

#[test]
fn without_a_client_requests_are_not_taken() {
    let mut bench = Bench::detached();
    bench.ask(Request::Reset { number: 1 });
    bench.drive(Input::Tick);
    assert!(bench.sent.is_empty() && !bench.worker.wants_request());
}
