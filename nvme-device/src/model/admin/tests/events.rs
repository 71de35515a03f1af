//! The life of asynchronous events.

use super::*;
use nvme_spec::log::ErrorInformation;

const NAMESPACE_EVENT: u32 =
    event_of(EventType::NOTICE, NoticeEvent::NAMESPACE_ATTRIBUTE_CHANGED.0, LogId::CHANGED_NAMESPACE_LIST);
const TEMPERATURE_EVENT: u32 = event_of(EventType::SMART, SmartEvent::TEMPERATURE_THRESHOLD.0, LogId::SMART);
const DOORBELL_VALUE_EVENT: u32 =
    event_of(EventType::ERROR, ErrorEvent::INVALID_DOORBELL_VALUE.0, LogId::ERROR_INFORMATION);

/// Returns dword 0 of the completion that tells of an event.
const fn event_of(kind: EventType, information: u8, log: LogId) -> u32 {
    AsyncEvent::new().with_kind(kind).with_information(information).with_lid(log).into_bits()
}

/// With notices of namespaces and warnings of temperature enabled.
fn listening() -> Controller {
    let mut controller = controller();
    set_events(
        &mut controller,
        AsyncEventConfiguration::new().with_smart(CriticalWarning::new().with_ttc(true)).with_nan(true),
    );
    controller
}

fn hold(controller: &mut Controller, cid: u16) {
    assert_eq!(controller.admin(&request_event(cid), NOW), Outcome::Held);
}

fn event(controller: &mut Controller) -> Option<(u16, u32)> {
    controller.next_event().map(|completion| {
        assert!(completion.status.is_success());
        (completion.cid, completion.dw0)
    })
}

#[test]
fn a_change_of_namespaces_completes_a_held_request() {
    for change in [
        |controller: &mut Controller| controller.add_namespace(namespace(9)).is_ok(),
        |controller: &mut Controller| controller.remove_namespace(3),
        |controller: &mut Controller| controller.resize_namespace(1, 4096).is_ok(),
    ] {
        let mut controller = listening();
        hold(&mut controller, 21);
        assert_eq!(event(&mut controller), None);
        assert!(change(&mut controller));
        assert_eq!(event(&mut controller), Some((21, NAMESPACE_EVENT)));
        assert_eq!(event(&mut controller), None);
    }
}

#[test]
fn what_does_not_change_a_namespace_raises_nothing() {
    let mut controller = listening();
    hold(&mut controller, 1);
    assert!(controller.resize_namespace(1, 2048).is_ok());
    assert!(!controller.remove_namespace(2));
    assert!(controller.add_namespace(namespace(1)).is_err());
    assert_eq!(event(&mut controller), None);
}

#[test]
fn a_type_is_told_once_until_its_log_is_read() {
    let mut controller = listening();
    hold(&mut controller, 1);
    hold(&mut controller, 2);
    assert!(controller.remove_namespace(1));
    assert_eq!(event(&mut controller), Some((1, NAMESPACE_EVENT)));
    assert!(controller.remove_namespace(3));
    assert_eq!(event(&mut controller), None);
    let log = data(controller.admin(&get_log(LogId::CHANGED_NAMESPACE_LIST, 4096), NOW));
    assert_eq!((u32_at(&log, 0), u32_at(&log, 4), u32_at(&log, 8)), (1, 3, 0));
    // The log has told of both.
    assert_eq!(event(&mut controller), None);
    assert!(controller.add_namespace(namespace(3)).is_ok());
    assert_eq!(event(&mut controller), Some((2, NAMESPACE_EVENT)));
}

#[test]
fn a_log_that_is_read_with_rae_clears_nothing() {
    let mut controller = listening();
    hold(&mut controller, 1);
    hold(&mut controller, 2);
    assert!(controller.remove_namespace(1));
    assert_eq!(event(&mut controller), Some((1, NAMESPACE_EVENT)));
    let mut retain = get_log(LogId::CHANGED_NAMESPACE_LIST, 4096);
    retain.cdw10 = GetLogPageDw10::from_bits(retain.cdw10).with_rae(true).into_bits();
    for _ in 0..2 {
        assert_eq!(u32_at(&data(controller.admin(&retain, NOW)), 0), 1);
    }
    assert!(controller.remove_namespace(3));
    assert_eq!(event(&mut controller), None);
}

#[test]
fn an_event_waits_for_a_request() {
    let mut controller = listening();
    assert!(controller.remove_namespace(1));
    assert_eq!(event(&mut controller), None);
    hold(&mut controller, 4);
    assert_eq!(event(&mut controller), Some((4, NAMESPACE_EVENT)));
}

#[test]
fn an_event_whose_log_is_read_before_a_request_comes_is_not_told() {
    let mut controller = listening();
    assert!(controller.remove_namespace(1));
    assert_eq!(u32_at(&data(controller.admin(&get_log(LogId::CHANGED_NAMESPACE_LIST, 4096), NOW)), 0), 1);
    hold(&mut controller, 4);
    assert_eq!(event(&mut controller), None);
}

#[test]
fn namespaces_are_not_told_of_unless_the_host_asked() {
    let mut controller = controller();
    hold(&mut controller, 1);
    assert!(controller.remove_namespace(1));
    assert_eq!(event(&mut controller), None);
    // It learns of it as soon as it asks.
    set_events(&mut controller, AsyncEventConfiguration::new().with_nan(true));
    assert_eq!(event(&mut controller), Some((1, NAMESPACE_EVENT)));
}

#[test]
fn a_namespace_that_comes_or_goes_is_no_change_of_access() {
    let mut controller = controller();
    hold(&mut controller, 1);
    set_events(&mut controller, AsyncEventConfiguration::new().with_anacn(true));
    assert!(controller.remove_namespace(1));
    assert!(controller.add_namespace(namespace(1)).is_ok());
    assert_eq!(event(&mut controller), None);
    set_events(&mut controller, AsyncEventConfiguration::new().with_nan(true).with_anacn(true));
    assert_eq!(event(&mut controller), Some((1, NAMESPACE_EVENT)));
}

#[test]
fn a_notice_that_waits_is_dropped_when_the_host_does_not_want_it_any_more() {
    let mut controller = listening();
    assert!(controller.remove_namespace(1));
    set_events(&mut controller, AsyncEventConfiguration::new());
    hold(&mut controller, 1);
    assert_eq!(event(&mut controller), None);
}

#[test]
fn types_are_masked_apart_and_completed_in_the_order_of_the_requests() {
    let mut controller = listening();
    hold(&mut controller, 1);
    hold(&mut controller, 2);
    hold(&mut controller, 3);
    assert!(controller.remove_namespace(1));
    controller.invalid_doorbell_value();
    assert_eq!(dw0(controller.admin(&set_feature(FeatureId::TEMPERATURE_THRESHOLD, 300), NOW)), 0);
    assert_eq!(event(&mut controller), Some((1, DOORBELL_VALUE_EVENT)));
    assert_eq!(event(&mut controller), Some((2, TEMPERATURE_EVENT)));
    assert_eq!(event(&mut controller), Some((3, NAMESPACE_EVENT)));
    assert_eq!(event(&mut controller), None);
}

#[test]
fn each_error_of_a_doorbell_leaves_an_entry_in_the_log_and_is_told_once_until_that_is_read() {
    let mut controller = controller();
    hold(&mut controller, 1);
    hold(&mut controller, 2);
    controller.invalid_doorbell_value();
    assert_eq!(event(&mut controller), Some((1, DOORBELL_VALUE_EVENT)));
    // The type is masked until the log is read.
    controller.invalid_doorbell_value();
    assert_eq!(event(&mut controller), None);
    let log = data(controller.admin(&get_log(LogId::ERROR_INFORMATION, 4096), NOW));
    assert_eq!((u64_at(&log, 0), u64_at(&log, 64), u64_at(&log, 128)), (2, 1, 0));
    let newest: ErrorInformation = structure(&log[..size_of::<ErrorInformation>()]);
    assert_eq!((newest.sqid, newest.cid), (u16::MAX, u16::MAX), "of no queue, and of no command");
    controller.invalid_doorbell_value();
    assert_eq!(event(&mut controller), Some((2, DOORBELL_VALUE_EVENT)));
}

#[test]
fn a_threshold_below_the_temperature_warns_and_one_above_does_not() {
    let mut controller = listening();
    hold(&mut controller, 1);
    assert_eq!(dw0(controller.admin(&set_feature(FeatureId::TEMPERATURE_THRESHOLD, 309), NOW)), 0);
    assert_eq!(event(&mut controller), None);
    assert_eq!(dw0(controller.admin(&set_feature(FeatureId::TEMPERATURE_THRESHOLD, 308), NOW)), 0);
    assert_eq!(event(&mut controller), Some((1, TEMPERATURE_EVENT)));
    assert_eq!(data(controller.admin(&get_log(LogId::SMART, 512), NOW))[0], 2);
    // Reading clears the event, not the condition; it is not told again for that.
    hold(&mut controller, 2);
    assert_eq!(event(&mut controller), None);
}

#[test]
fn a_fifth_request_exceeds_the_limit_and_a_second_of_the_same_name_conflicts() {
    let mut controller = controller();
    for cid in 1..=4 {
        hold(&mut controller, cid);
    }
    assert_eq!(status(controller.admin(&request_event(4), NOW)), Status::CID_CONFLICT);
    assert_eq!(status(controller.admin(&request_event(5), NOW)), Status::ASYNC_EVENT_LIMIT_EXCEEDED);
}

#[test]
fn namespaces_that_are_added_before_the_host_starts_are_no_change() {
    let mut controller = Controller::new(identity(), LIMITS).expect("valid limits");
    controller.add_namespace(namespace(1)).expect("free");
    controller.enable(NOW);
    set_events(&mut controller, AsyncEventConfiguration::new().with_nan(true));
    hold(&mut controller, 1);
    assert_eq!(event(&mut controller), None);
}
