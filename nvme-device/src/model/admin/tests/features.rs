//! Get Features and Set Features.

use super::*;
use crate::model::admin::features::CoalescingSetting;
use nvme_spec::ALL_NAMESPACES;

/// A feature, a value that is set, and what is then got: of features that keep a dword.
const KEPT: [(u32, u32, u32); 10] = [
    (0x01, 0xaabb_ccff, 0xaabb_cc07),
    (0x02, 0x60, 0x60),
    (0x04, 320, 320),
    (0x06, 0, 0),
    (0x08, 0xffff_1203, 0x1203),
    (0x09, 1 << 16 | 2, 1 << 16 | 2),
    (0x0a, 1, 1),
    (0x0b, 0xffff_ffff, 0x91f),
    (0x0f, 2000, 2000),
    (0x0f, 1, 1000),
];

#[test]
fn what_is_set_is_got_and_the_default_stays() {
    for (fid, set, got) in KEPT {
        let mut controller = controller();
        let default = dw0(controller.admin(&get_feature(fid, set), NOW));
        match controller.admin(&set_feature(fid, set), NOW) {
            Outcome::WriteCache { on } => assert_eq!((fid, u32::from(on)), (0x06, got)),
            outcome => assert_eq!(dw0(outcome), 0, "{fid:x}h"),
        }
        assert_eq!(dw0(controller.admin(&get_feature(fid, set), NOW)), got, "{fid:x}h");
        // Default and saved.
        for select in [1, 2] {
            let sqe = get_feature(fid | select << 8, set);
            assert_eq!(dw0(controller.admin(&sqe, NOW)), default, "{fid:x}h");
        }
        controller.enable(NOW);
        assert_eq!(dw0(controller.admin(&get_feature(fid, set), NOW)), default, "{fid:x}h");
    }
}

#[test]
fn values_that_cannot_be_are_refused() {
    let cases = [
        ("a second power state", 0x02, 1),
        ("temperature sensor 1", 0x04, 0x1_0140),
        ("a reserved type of threshold", 0x04, 0x20_0140),
        ("65536 submission queues", 0x07, 0x0000_ffff),
        ("65536 completion queues", 0x07, 0xffff_0000),
        ("a vector out of range", 0x09, 5),
    ];
    let mut controller = controller();
    for (case, fid, value) in cases {
        assert_eq!(status(controller.admin(&set_feature(fid, value), NOW)), Status::INVALID_FIELD, "{case}");
    }
    assert_eq!(status(controller.admin(&get_feature(0x09, 5), NOW)), Status::INVALID_FIELD);
    assert_eq!(status(controller.admin(&get_feature(0x04, 1 << 16), NOW)), Status::INVALID_FIELD);
}

#[test]
fn features_that_the_controller_does_not_have_are_invalid_fields() {
    let mut controller = controller();
    for fid in [0x00, 0x03, 0x0c, 0x0d, 0x10, 0x11, 0x17, 0x19, 0x78, 0x80, 0x81, 0x82, 0x84, 0xc0, 0xff] {
        assert_eq!(status(controller.admin(&get_feature(fid, 0), NOW)), Status::INVALID_FIELD, "{fid:x}h");
        assert_eq!(status(controller.admin(&set_feature(fid, 0), NOW)), Status::INVALID_FIELD, "{fid:x}h");
    }
}

#[test]
fn capabilities_say_changeable_and_whether_it_is_of_a_namespace() {
    let mut controller = controller();
    for (fid, capabilities) in [(0x01, 0b100), (0x05, 0b110), (0x0b, 0b100), (0x0e, 0b100), (0x16, 0b100)] {
        assert_eq!(dw0(controller.admin(&get_feature(fid | 3 << 8, 0), NOW)), capabilities, "{fid:x}h");
    }
    assert_eq!(status(controller.admin(&get_feature(0x01 | 4 << 8, 0), NOW)), Status::INVALID_FIELD);
}

#[test]
fn nothing_can_be_saved() {
    let mut controller = controller();
    for fid in [0x01, 0x05, 0x0e] {
        let sqe = set_feature(1 << 31 | fid, 0);
        assert_eq!(status(controller.admin(&sqe, NOW)), Status::FEATURE_NOT_SAVEABLE);
    }
}

#[test]
fn a_feature_of_the_controller_is_not_set_for_a_namespace_but_got_for_one() {
    let mut controller = controller();
    let set = |nsid| Sqe { nsid, ..set_feature(0x0a, 1) };
    assert_eq!(status(controller.admin(&set(1), NOW)), Status::FEATURE_NOT_NAMESPACE_SPECIFIC);
    assert_eq!(dw0(controller.admin(&set(ALL_NAMESPACES), NOW)), 0);
    assert_eq!(dw0(controller.admin(&Sqe { nsid: 1, ..get_feature(0x0a, 0) }, NOW)), 1);
}

#[test]
fn error_recovery_is_of_each_namespace() {
    let mut controller = controller();
    let set = |nsid, value| Sqe { nsid, ..set_feature(0x05, value) };
    let get = |nsid| Sqe { nsid, ..get_feature(0x05, 0) };
    assert_eq!(dw0(controller.admin(&set(1, 7), NOW)), 0);
    assert_eq!(dw0(controller.admin(&get(1), NOW)), 7);
    assert_eq!(dw0(controller.admin(&get(3), NOW)), 0);
    assert_eq!(dw0(controller.admin(&set(ALL_NAMESPACES, 9), NOW)), 0);
    assert_eq!(dw0(controller.admin(&get(1), NOW)), 9);
    assert_eq!(dw0(controller.admin(&get(3), NOW)), 9);
    for (nsid, expected) in
        [(0, Status::INVALID_NAMESPACE), (257, Status::INVALID_NAMESPACE), (2, Status::INVALID_FIELD)]
    {
        assert_eq!(status(controller.admin(&set(nsid, 1), NOW)), expected);
        assert_eq!(status(controller.admin(&get(nsid), NOW)), expected);
    }
    assert_eq!(status(controller.admin(&get(ALL_NAMESPACES), NOW)), Status::INVALID_NAMESPACE);
    assert_eq!(status(controller.admin(&set(1, 1 << 16), NOW)), Status::INVALID_FIELD);
    // A namespace that comes back has forgotten.
    assert!(controller.remove_namespace(3));
    assert!(controller.add_namespace(namespace(3)).is_ok());
    assert_eq!(dw0(controller.admin(&get(3), NOW)), 0);
}

#[test]
fn number_of_queues_answers_what_there_are_and_only_before_there_are_any() {
    let mut controller = controller();
    for asked in [0, 0x007f_007f, 0xfffe_fffe] {
        assert_eq!(dw0(controller.admin(&set_feature(0x07, asked), NOW)), 0x0003_0003);
    }
    assert_eq!(dw0(controller.admin(&get_feature(0x07, 0), NOW)), 0x0003_0003);
    assert!(matches!(controller.admin(&create_cq(1, 8), NOW), Outcome::CreateCq(_)));
    assert_eq!(status(controller.admin(&set_feature(0x07, 0), NOW)), Status::COMMAND_SEQUENCE_ERROR);
    assert_eq!(dw0(controller.admin(&get_feature(0x07, 0), NOW)), 0x0003_0003);
}

#[test]
fn coalescing_comes_in_units_and_vectors_can_be_taken_out() {
    let mut controller = controller();
    assert_eq!(controller.coalescing(), CoalescingSetting { entries: 1, time: Duration::ZERO });
    assert_eq!(dw0(controller.admin(&set_feature(0x08, 0x0a07), NOW)), 0);
    assert_eq!(controller.coalescing(), CoalescingSetting { entries: 8, time: Duration::from_millis(1) });
    assert_eq!(dw0(controller.admin(&set_feature(0x08, 0xffff), NOW)), 0);
    assert_eq!(controller.coalescing(), CoalescingSetting { entries: 256, time: Duration::from_micros(25_500) });
    // The admin queue's vector is out from the start.
    assert_eq!([0, 1, 4, 5].map(|vector| controller.coalesces(vector)), [false, true, true, false]);
    assert_eq!(dw0(controller.admin(&get_feature(0x09, 0), NOW)), 1 << 16);
    assert_eq!(dw0(controller.admin(&set_feature(0x09, 1 << 16 | 4), NOW)), 0);
    assert!(!controller.coalesces(4));
}

#[test]
fn the_write_cache_can_be_turned_off() {
    let mut controller = controller();
    assert!(controller.volatile_write_cache());
    assert_eq!(controller.admin(&set_feature(0x06, 0), NOW), Outcome::WriteCache { on: false });
    assert!(!controller.volatile_write_cache());
    assert_eq!(controller.admin(&set_feature(0x06, 1), NOW), Outcome::WriteCache { on: true });
    assert_eq!(controller.admin(&set_feature(0x06, 0), NOW), Outcome::WriteCache { on: false });
    controller.enable(NOW);
    assert!(controller.volatile_write_cache(), "as at first");
}

/// Set Features with a buffer.
fn set_data(controller: &mut Controller, fid: u32, buffer: &[u8], now: Duration) -> Outcome {
    match controller.admin(&set_feature(fid, 0), now) {
        Outcome::Need { len, pending } => {
            assert!(buffer.len() <= len);
            controller.supply(pending, buffer, now)
        }
        other => other,
    }
}

#[test]
fn a_timestamp_runs_on_from_what_was_set() {
    let mut controller = controller();
    let later = NOW + Duration::from_secs(2);
    let get = get_feature(0x0e, 0);
    assert_eq!(data(controller.admin(&get, later)), [0xd0, 7, 0, 0, 0, 0, 0, 0]);
    // What is above 48 bits is not the time.
    let set = 0xffff_0000_0000_1000_u64.to_le_bytes();
    assert_eq!(dw0(set_data(&mut controller, 0x0e, &set, later)), 0);
    let got = data(controller.admin(&get, later + Duration::from_millis(1)));
    assert_eq!(got, [0x01, 0x10, 0, 0, 0, 0, 2, 0]);
    let default = data(controller.admin(&get_feature(0x0e | 1 << 8, 0), later));
    assert_eq!(default, [0; 8]);
}

#[test]
fn a_timestamp_wraps_at_48_bits() {
    let mut controller = controller();
    let set = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0];
    assert_eq!(dw0(set_data(&mut controller, 0x0e, &set, NOW)), 0);
    let got = data(controller.admin(&get_feature(0x0e, 0), NOW + Duration::from_millis(3)));
    assert_eq!(got, [2, 0, 0, 0, 0, 0, 2, 0]);
    // A clock that went back counts as one that stands.
    let got = data(controller.admin(&get_feature(0x0e, 0), Duration::ZERO));
    assert_eq!(got, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0]);
}

#[test]
fn host_behavior_keeps_command_retry_and_refuses_what_it_does_not_know() {
    let mut controller = controller();
    let mut buffer = [0; 512];
    buffer[0] = 1;
    assert_eq!(dw0(set_data(&mut controller, 0x16, &buffer, NOW)), 0);
    assert_eq!(data(controller.admin(&get_feature(0x16, 0), NOW)), buffer);
    for (at, value) in [(0, 2), (2, 1)] {
        let mut bad = [0; 512];
        bad[at] = value;
        assert_eq!(status(set_data(&mut controller, 0x16, &bad, NOW)), Status::INVALID_FIELD);
    }
    assert_eq!(data(controller.admin(&get_feature(0x16, 0), NOW)), buffer);
}

#[test]
fn too_little_data_is_a_transfer_error() {
    let mut controller = controller();
    assert_eq!(status(set_data(&mut controller, 0x0e, &[0; 7], NOW)), Status::DATA_TRANSFER_ERROR);
    assert_eq!(status(set_data(&mut controller, 0x16, &[0; 511], NOW)), Status::DATA_TRANSFER_ERROR);
}
