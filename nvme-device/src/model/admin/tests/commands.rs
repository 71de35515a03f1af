//! Dispatch, Abort, Keep Alive, Doorbell Buffer Config, reset.

use super::*;
use nvme_spec::CommandFlags;
use nvme_spec::identify::IdentifyController;

#[test]
fn commands_that_the_controller_does_not_have_are_invalid_opcodes() {
    let mut controller = controller();
    for opcode in [
        AdminOpcode(0x03),
        AdminOpcode(0x07),
        AdminOpcode::NAMESPACE_MANAGEMENT,
        AdminOpcode::FIRMWARE_COMMIT,
        AdminOpcode::FIRMWARE_IMAGE_DOWNLOAD,
        AdminOpcode::DEVICE_SELF_TEST,
        AdminOpcode::NAMESPACE_ATTACHMENT,
        AdminOpcode::DIRECTIVE_SEND,
        AdminOpcode::DIRECTIVE_RECEIVE,
        AdminOpcode::VIRTUALIZATION_MANAGEMENT,
        AdminOpcode::NVME_MI_SEND,
        AdminOpcode::NVME_MI_RECEIVE,
        AdminOpcode::LOCKDOWN,
        AdminOpcode::FORMAT_NVM,
        AdminOpcode::SECURITY_SEND,
        AdminOpcode::SECURITY_RECEIVE,
        AdminOpcode::SANITIZE,
        AdminOpcode::GET_LBA_STATUS,
        AdminOpcode::VENDOR_SPECIFIC_START,
        AdminOpcode(0xff),
    ] {
        let sqe = Sqe { opcode: opcode.0, ..Sqe::default() };
        assert_eq!(status(controller.admin(&sqe, NOW)), Status::INVALID_OPCODE, "{opcode:?}");
    }
}

#[test]
fn fused_admin_commands_and_sgls_are_invalid_fields() {
    let mut controller = controller();
    for flags in [0b01, 0b10, 0b11, 0b0100_0000, 0b1000_0000, 0b1100_0000] {
        let sqe = Sqe {
            flags: CommandFlags::from_bits(flags),
            cdw10: IdentifyDw10::new().with_cns(Cns::CONTROLLER).into_bits(),
            ..command(Opcode::Identify)
        };
        assert_eq!(status(controller.admin(&sqe, NOW)), Status::INVALID_FIELD, "{flags:b}");
    }
}

#[test]
fn a_controller_with_bad_limits_is_refused() {
    assert!(Controller::new(identity(), Limits { max_queues: 0, ..LIMITS }).is_err());
}

/// Dword 0 of the completion of an Abort that has aborted nothing.
const NOT_ABORTED: u32 = AbortResult::new().with_not_aborted(true).into_bits();

fn abort(sqid: u16, cid: u16) -> Sqe {
    Sqe { cdw10: AbortDw10::new().with_sqid(sqid).with_cid(cid).into_bits(), ..command(Opcode::Abort) }
}

#[test]
fn abort_of_an_io_command_goes_to_the_runtime() {
    let mut controller = controller();
    make_pair(&mut controller, 2);
    assert_eq!(controller.admin(&abort(2, 0xabcd), NOW), Outcome::Abort { sqid: 2, cid: 0xabcd });
}

#[test]
fn abort_of_what_is_not_there_succeeds_without_aborting() {
    let mut controller = controller();
    assert_eq!(dw0(controller.admin(&abort(2, 1), NOW)), NOT_ABORTED);
    assert_eq!(dw0(controller.admin(&abort(0, 1), NOW)), NOT_ABORTED);
    assert_eq!(dw0(controller.admin(&abort(u16::MAX, 1), NOW)), NOT_ABORTED);
}

#[test]
fn a_fifth_abort_exceeds_the_limit_until_one_has_finished() {
    let mut controller = controller();
    make_pair(&mut controller, 1);
    for cid in 0..4 {
        assert!(matches!(controller.admin(&abort(1, cid), NOW), Outcome::Abort { .. }));
    }
    assert_eq!(status(controller.admin(&abort(1, 4), NOW)), Status::ABORT_LIMIT_EXCEEDED);
    controller.abort_ended();
    assert!(matches!(controller.admin(&abort(1, 4), NOW), Outcome::Abort { .. }));
}

#[test]
fn an_aborted_event_request_is_completed_as_aborted_and_holds_no_place() {
    let mut controller = controller();
    assert_eq!(controller.admin(&request_event(5), NOW), Outcome::Held);
    assert_eq!(dw0(controller.admin(&abort(0, 5), NOW)), 0);
    assert_eq!(controller.next_event(), Some(EventCompletion { cid: 5, dw0: 0, status: Status::ABORT_REQUESTED }));
    assert_eq!(controller.next_event(), None);
    assert_eq!(dw0(controller.admin(&abort(0, 5), NOW)), NOT_ABORTED);
}

#[test]
fn keep_alive_expires_only_when_it_was_asked_for_and_is_put_off_by_the_command() {
    let mut controller = controller();
    let at = |seconds| NOW + Duration::from_millis(seconds * 1000_u64);
    assert!(!controller.keep_alive_expired(at(1_000_000)));
    // 4.5 seconds become 5: the granularity is a second.
    assert_eq!(dw0(controller.admin(&set_feature(FeatureId::KEEP_ALIVE_TIMER, 4500), at(10))), 0);
    assert_eq!(dw0(controller.admin(&get_feature(FeatureId::KEEP_ALIVE_TIMER, 0), at(10))), 5000);
    assert!(!controller.keep_alive_expired(at(14)));
    assert!(controller.keep_alive_expired(at(15)));
    assert_eq!(dw0(controller.admin(&command(Opcode::KeepAlive), at(14))), 0);
    assert!(!controller.keep_alive_expired(at(18)));
    assert!(controller.keep_alive_expired(at(19)));
    assert_eq!(dw0(controller.admin(&set_feature(FeatureId::KEEP_ALIVE_TIMER, 0), at(19))), 0);
    assert!(!controller.keep_alive_expired(at(1_000_000)));
}

#[test]
fn the_longest_keep_alive_timeout_does_not_wrap() {
    let mut controller = controller();
    assert_eq!(dw0(controller.admin(&set_feature(FeatureId::KEEP_ALIVE_TIMER, u32::MAX), NOW)), 0);
    assert_eq!(dw0(controller.admin(&get_feature(FeatureId::KEEP_ALIVE_TIMER, 0), NOW)), 4_294_967_000);
}

#[test]
fn a_host_that_takes_its_interrupts_by_the_pin_is_offered_no_shadow_doorbells() {
    let mut controller = controller();
    let mut offered = |pin_in_use| {
        controller.set_pin_in_use(pin_in_use);
        let identify =
            Sqe { cdw10: IdentifyDw10::new().with_cns(Cns::CONTROLLER).into_bits(), ..command(Opcode::Identify) };
        let page = data(controller.admin(&identify, NOW));
        let page: IdentifyController = structure(&page);
        let config = command(Opcode::DoorbellBufferConfig).with_prps(0x5000, 0x6000);
        let refused = controller.admin(&config, NOW) == Outcome::failed(Status::INVALID_OPCODE);
        (page.oacs.dbcs(), refused)
    };
    assert_eq!(offered(false), (true, false));
    assert_eq!(offered(true), (false, true), "with those it would not access the registers, which lowers the pin");
    assert_eq!(offered(false), (true, false), "it uses MSI-X again");
}

#[test]
fn doorbell_buffers_are_two_pages() {
    let mut controller = controller();
    let config = |prp1, prp2| Sqe { prp1, prp2, ..command(Opcode::DoorbellBufferConfig) };
    assert_eq!(
        controller.admin(&config(0x1000, 0x2000), NOW),
        Outcome::DoorbellBuffers { shadow: 0x1000, event_idx: 0x2000 }
    );
    for (shadow, event_idx) in [(0x1004, 0x2000), (0x1000, 0x2008), (0x1000, 0x1000)] {
        assert_eq!(status(controller.admin(&config(shadow, event_idx), NOW)), Status::INVALID_FIELD);
    }
}

#[test]
fn a_reset_takes_queues_features_and_requests_and_leaves_namespaces() {
    let mut controller = controller();
    make_pair(&mut controller, 1);
    assert_eq!(controller.admin(&request_event(1), NOW), Outcome::Held);
    set_events(&mut controller, AsyncEventConfiguration::new().with_nan(true));
    assert_eq!(dw0(controller.admin(&set_feature(FeatureId::KEEP_ALIVE_TIMER, 1000), NOW)), 0);
    assert!(controller.remove_namespace(3));
    controller.reset();
    controller.enable(NOW);
    assert_eq!(controller.next_event(), None);
    assert_eq!(dw0(controller.admin(&get_feature(FeatureId::ASYNC_EVENT_CONFIGURATION, 0), NOW)), 0);
    assert!(!controller.keep_alive_expired(NOW * 1000));
    assert_eq!(data(controller.admin(&get_log(LogId::CHANGED_NAMESPACE_LIST, 4096), NOW)), vec![0; 4096]);
    assert_eq!(controller.namespaces().map(|namespace| namespace.nsid).collect::<Vec<_>>(), [1]);
    make_pair(&mut controller, 1);
}

#[test]
fn what_the_runtime_answers_after_a_reset_changes_nothing() {
    let mut controller = controller();
    assert!(matches!(controller.admin(&create_cq(1, 8), NOW), Outcome::CreateCq(_)));
    controller.reset();
    controller.enable(NOW);
    controller.queue_created(QueueId::Cq(1));
    controller.abort_ended();
    assert_eq!(status(controller.admin(&create_sq(1, 8, 1), NOW)), Status::COMPLETION_QUEUE_INVALID);
}
