//! Get Features and Set Features.

use super::*;
use crate::model::admin::features::CoalescingSetting;
use nvme_spec::ALL_NAMESPACES;

/// A feature, a value that is set, and what is then got: of features that keep a dword.
const KEPT: [(FeatureId, u32, u32); 10] = {
    let arbitration = Arbitration::new().with_hpw(0xaa).with_mpw(0xbb).with_lpw(0xcc).with_ab(0b111).into_bits();
    let power = PowerManagement::new().with_wh(3).into_bits();
    let threshold = TemperatureThreshold::new().with_tmpth(320).into_bits();
    let coalescing = InterruptCoalescing::new().with_time(0x12).with_thr(3).into_bits();
    let vector = InterruptVectorConfiguration::new().with_iv(2).with_cd(true).into_bits();
    let atomicity = WriteAtomicity::new().with_dn(true).into_bits();
    let warnings =
        CriticalWarning::new().with_ascbt(true).with_ttc(true).with_ndr(true).with_amro(true).with_vmbf(true);
    let events = AsyncEventConfiguration::new().with_smart(warnings).with_nan(true).with_anacn(true).into_bits();
    [
        // With reserved bits, which are not kept.
        (FeatureId::ARBITRATION, arbitration | 0b1_1111 << 3, arbitration),
        (FeatureId::POWER_MANAGEMENT, power, power),
        (FeatureId::TEMPERATURE_THRESHOLD, threshold, threshold),
        (FeatureId::VOLATILE_WRITE_CACHE, 0, 0),
        (FeatureId::INTERRUPT_COALESCING, 0xffff << 16 | coalescing, coalescing),
        (FeatureId::INTERRUPT_VECTOR_CONFIGURATION, vector, vector),
        (FeatureId::WRITE_ATOMICITY, atomicity, atomicity),
        (FeatureId::ASYNC_EVENT_CONFIGURATION, u32::MAX, events),
        (FeatureId::KEEP_ALIVE_TIMER, 2000, 2000),
        (FeatureId::KEEP_ALIVE_TIMER, 1, 1000),
    ]
};

#[test]
fn what_is_set_is_got_and_the_default_stays() {
    for (fid, set, got) in KEPT {
        let mut controller = controller();
        let default = dw0(controller.admin(&get_feature(fid, set), NOW));
        match controller.admin(&set_feature(fid, set), NOW) {
            Outcome::WriteCache { on } => assert_eq!((fid, u32::from(on)), (FeatureId::VOLATILE_WRITE_CACHE, got)),
            outcome => assert_eq!(dw0(outcome), 0, "{fid:?}"),
        }
        assert_eq!(dw0(controller.admin(&get_feature(fid, set), NOW)), got, "{fid:?}");
        for select in [FeatureSelect::DEFAULT, FeatureSelect::SAVED] {
            let sqe = select_feature(fid, select, set);
            assert_eq!(dw0(controller.admin(&sqe, NOW)), default, "{fid:?}");
        }
        controller.enable(NOW);
        assert_eq!(dw0(controller.admin(&get_feature(fid, set), NOW)), default, "{fid:?}");
    }
}

#[test]
fn values_that_cannot_be_are_refused() {
    let threshold = TemperatureThreshold::new().with_tmpth(320);
    let queues = NumberOfQueues::new();
    let vector = InterruptVectorConfiguration::new().with_iv(5).into_bits();
    let cases = [
        ("a second power state", FeatureId::POWER_MANAGEMENT, PowerManagement::new().with_ps(1).into_bits()),
        ("temperature sensor 1", FeatureId::TEMPERATURE_THRESHOLD, threshold.with_tmpsel(1).into_bits()),
        ("a reserved type of threshold", FeatureId::TEMPERATURE_THRESHOLD, threshold.with_thsel(0b10).into_bits()),
        ("65536 submission queues", FeatureId::NUMBER_OF_QUEUES, queues.with_nsq(u16::MAX).into_bits()),
        ("65536 completion queues", FeatureId::NUMBER_OF_QUEUES, queues.with_ncq(u16::MAX).into_bits()),
        ("a vector out of range", FeatureId::INTERRUPT_VECTOR_CONFIGURATION, vector),
    ];
    let mut controller = controller();
    for (case, fid, value) in cases {
        assert_eq!(status(controller.admin(&set_feature(fid, value), NOW)), Status::INVALID_FIELD, "{case}");
    }
    assert_eq!(
        status(controller.admin(&get_feature(FeatureId::INTERRUPT_VECTOR_CONFIGURATION, vector), NOW)),
        Status::INVALID_FIELD
    );
    assert_eq!(
        status(controller.admin(
            &get_feature(FeatureId::TEMPERATURE_THRESHOLD, TemperatureThreshold::new().with_tmpsel(1).into_bits()),
            NOW
        )),
        Status::INVALID_FIELD
    );
}

#[test]
fn features_that_the_controller_does_not_have_are_invalid_fields() {
    let mut controller = controller();
    for fid in [
        FeatureId(0x00),
        FeatureId::LBA_RANGE_TYPE,
        FeatureId::AUTONOMOUS_POWER_STATE_TRANSITION,
        FeatureId::HOST_MEMORY_BUFFER,
        FeatureId::HOST_CONTROLLED_THERMAL_MANAGEMENT,
        FeatureId::NON_OPERATIONAL_POWER_STATE,
        FeatureId::SANITIZE_CONFIG,
        FeatureId::IO_COMMAND_SET_PROFILE,
        FeatureId(0x78),
        FeatureId::SOFTWARE_PROGRESS_MARKER,
        FeatureId::HOST_IDENTIFIER,
        FeatureId::RESERVATION_NOTIFICATION_MASK,
        FeatureId::NAMESPACE_WRITE_PROTECTION,
        FeatureId(0xc0),
        FeatureId(0xff),
    ] {
        assert_eq!(status(controller.admin(&get_feature(fid, 0), NOW)), Status::INVALID_FIELD, "{fid:?}");
        assert_eq!(status(controller.admin(&set_feature(fid, 0), NOW)), Status::INVALID_FIELD, "{fid:?}");
    }
}

#[test]
fn capabilities_say_changeable_and_whether_it_is_of_a_namespace() {
    let mut controller = controller();
    let changeable = FeatureCapabilities::new().with_changeable(true);
    for (fid, capabilities) in [
        (FeatureId::ARBITRATION, changeable),
        (FeatureId::ERROR_RECOVERY, changeable.with_namespace_specific(true)),
        (FeatureId::ASYNC_EVENT_CONFIGURATION, changeable),
        (FeatureId::TIMESTAMP, changeable),
        (FeatureId::HOST_BEHAVIOR_SUPPORT, changeable),
    ] {
        let got = dw0(controller.admin(&select_feature(fid, FeatureSelect::SUPPORTED, 0), NOW));
        assert_eq!(got, capabilities.into_bits(), "{fid:?}");
    }
    let reserved = select_feature(FeatureId::ARBITRATION, FeatureSelect(0b100), 0);
    assert_eq!(status(controller.admin(&reserved, NOW)), Status::INVALID_FIELD);
}

#[test]
fn nothing_can_be_saved() {
    let mut controller = controller();
    for fid in [FeatureId::ARBITRATION, FeatureId::ERROR_RECOVERY, FeatureId::TIMESTAMP] {
        let cdw10 = SetFeaturesDw10::new().with_fid(fid).with_sv(true).into_bits();
        let sqe = Sqe { cdw10, ..set_feature(fid, 0) };
        assert_eq!(status(controller.admin(&sqe, NOW)), Status::FEATURE_NOT_SAVEABLE);
    }
}

#[test]
fn a_feature_of_the_controller_is_not_set_for_a_namespace_but_got_for_one() {
    let mut controller = controller();
    let set =
        |nsid| Sqe { nsid, ..set_feature(FeatureId::WRITE_ATOMICITY, WriteAtomicity::new().with_dn(true).into_bits()) };
    assert_eq!(status(controller.admin(&set(1), NOW)), Status::FEATURE_NOT_NAMESPACE_SPECIFIC);
    assert_eq!(dw0(controller.admin(&set(ALL_NAMESPACES), NOW)), 0);
    assert_eq!(dw0(controller.admin(&Sqe { nsid: 1, ..get_feature(FeatureId::WRITE_ATOMICITY, 0) }, NOW)), 1);
}

#[test]
fn error_recovery_is_of_each_namespace() {
    let mut controller = controller();
    let set = |nsid, value| Sqe { nsid, ..set_feature(FeatureId::ERROR_RECOVERY, value) };
    let get = |nsid| Sqe { nsid, ..get_feature(FeatureId::ERROR_RECOVERY, 0) };
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
    assert_eq!(
        status(controller.admin(&set(1, ErrorRecovery::new().with_dulbe(true).into_bits()), NOW)),
        Status::INVALID_FIELD
    );
    // A namespace that comes back has forgotten.
    assert!(controller.remove_namespace(3));
    assert!(controller.add_namespace(namespace(3)).is_ok());
    assert_eq!(dw0(controller.admin(&get(3), NOW)), 0);
}

#[test]
fn number_of_queues_answers_what_there_are_and_only_before_there_are_any() {
    let mut controller = controller();
    let queues = |count| NumberOfQueues::new().with_nsq(count).with_ncq(count).into_bits();
    for asked in [0, 127, 65534] {
        let set = set_feature(FeatureId::NUMBER_OF_QUEUES, queues(asked));
        assert_eq!(dw0(controller.admin(&set, NOW)), queues(3));
    }
    assert_eq!(dw0(controller.admin(&get_feature(FeatureId::NUMBER_OF_QUEUES, 0), NOW)), queues(3));
    assert!(matches!(controller.admin(&create_cq(1, 8), NOW), Outcome::CreateCq(_)));
    assert_eq!(
        status(controller.admin(&set_feature(FeatureId::NUMBER_OF_QUEUES, 0), NOW)),
        Status::COMMAND_SEQUENCE_ERROR
    );
    assert_eq!(dw0(controller.admin(&get_feature(FeatureId::NUMBER_OF_QUEUES, 0), NOW)), queues(3));
}

#[test]
fn coalescing_comes_in_units_and_vectors_can_be_taken_out() {
    let mut controller = controller();
    let coalescing = |time, thr| {
        let value = InterruptCoalescing::new().with_time(time).with_thr(thr);
        set_feature(FeatureId::INTERRUPT_COALESCING, value.into_bits())
    };
    assert_eq!(controller.coalescing(), CoalescingSetting { entries: 1, time: Duration::ZERO });
    assert_eq!(dw0(controller.admin(&coalescing(10, 7), NOW)), 0);
    assert_eq!(controller.coalescing(), CoalescingSetting { entries: 8, time: Duration::from_millis(1) });
    assert_eq!(dw0(controller.admin(&coalescing(u8::MAX, u8::MAX), NOW)), 0);
    assert_eq!(controller.coalescing(), CoalescingSetting { entries: 256, time: Duration::from_micros(25_500) });
    // The admin queue's vector is out from the start.
    assert_eq!([0, 1, 4, 5].map(|vector| controller.coalesces(vector)), [false, true, true, false]);
    let taken_out = |iv| InterruptVectorConfiguration::new().with_iv(iv).with_cd(true).into_bits();
    let get = get_feature(FeatureId::INTERRUPT_VECTOR_CONFIGURATION, 0);
    assert_eq!(dw0(controller.admin(&get, NOW)), taken_out(0));
    let set = set_feature(FeatureId::INTERRUPT_VECTOR_CONFIGURATION, taken_out(4));
    assert_eq!(dw0(controller.admin(&set, NOW)), 0);
    assert!(!controller.coalesces(4));
}

#[test]
fn the_write_cache_can_be_turned_off() {
    let mut controller = controller();
    let write_cache =
        |on| set_feature(FeatureId::VOLATILE_WRITE_CACHE, VolatileWriteCache::new().with_wce(on).into_bits());
    assert!(controller.volatile_write_cache());
    assert_eq!(controller.admin(&write_cache(false), NOW), Outcome::WriteCache { on: false });
    assert!(!controller.volatile_write_cache());
    assert_eq!(controller.admin(&write_cache(true), NOW), Outcome::WriteCache { on: true });
    assert_eq!(controller.admin(&write_cache(false), NOW), Outcome::WriteCache { on: false });
    controller.enable(NOW);
    assert!(controller.volatile_write_cache(), "as at first");
}

/// Set Features with a buffer.
fn set_data(controller: &mut Controller, fid: FeatureId, buffer: &[u8], now: Duration) -> Outcome {
    match controller.admin(&set_feature(fid, 0), now) {
        Outcome::Need { len, pending } => {
            assert!(buffer.len() <= len);
            controller.supply(pending, buffer, now)
        }
        other => other,
    }
}

/// Returns the data of Timestamp.
fn timestamp(milliseconds: u64, origin: TimestampOrigin) -> [u8; 8] {
    Timestamp::new().with_milliseconds(milliseconds).with_origin(origin).into_bits().to_le_bytes()
}

#[test]
fn a_timestamp_runs_on_from_what_was_set() {
    let mut controller = controller();
    let later = NOW + Duration::from_secs(2);
    let get = get_feature(FeatureId::TIMESTAMP, 0);
    assert_eq!(data(controller.admin(&get, later)), timestamp(2000, TimestampOrigin::RESET));
    // What is above 48 bits is not the time.
    let set = 0xffff_0000_0000_1000_u64.to_le_bytes();
    assert_eq!(dw0(set_data(&mut controller, FeatureId::TIMESTAMP, &set, later)), 0);
    let got = data(controller.admin(&get, later + Duration::from_millis(1)));
    assert_eq!(got, timestamp(0x1001, TimestampOrigin::SET_FEATURES));
    let default = data(controller.admin(&select_feature(FeatureId::TIMESTAMP, FeatureSelect::DEFAULT, 0), later));
    assert_eq!(default, timestamp(0, TimestampOrigin::RESET));
}

#[test]
fn a_timestamp_wraps_at_48_bits() {
    let mut controller = controller();
    let most = (1 << 48) - 1;
    let set = timestamp(most, TimestampOrigin::RESET);
    assert_eq!(dw0(set_data(&mut controller, FeatureId::TIMESTAMP, &set, NOW)), 0);
    let get = get_feature(FeatureId::TIMESTAMP, 0);
    let got = data(controller.admin(&get, NOW + Duration::from_millis(3)));
    assert_eq!(got, timestamp(2, TimestampOrigin::SET_FEATURES));
    // A clock that went back counts as one that stands.
    let got = data(controller.admin(&get, Duration::ZERO));
    assert_eq!(got, timestamp(most, TimestampOrigin::SET_FEATURES));
}

#[test]
fn host_behavior_keeps_command_retry_and_refuses_what_it_does_not_know() {
    let mut controller = controller();
    let mut buffer = [0; 512];
    buffer[0] = 1;
    assert_eq!(dw0(set_data(&mut controller, FeatureId::HOST_BEHAVIOR_SUPPORT, &buffer, NOW)), 0);
    assert_eq!(data(controller.admin(&get_feature(FeatureId::HOST_BEHAVIOR_SUPPORT, 0), NOW)), buffer);
    for (at, value) in [(0, 2), (2, 1)] {
        let mut bad = [0; 512];
        bad[at] = value;
        assert_eq!(
            status(set_data(&mut controller, FeatureId::HOST_BEHAVIOR_SUPPORT, &bad, NOW)),
            Status::INVALID_FIELD
        );
    }
    assert_eq!(data(controller.admin(&get_feature(FeatureId::HOST_BEHAVIOR_SUPPORT, 0), NOW)), buffer);
}

#[test]
fn too_little_data_is_a_transfer_error() {
    let mut controller = controller();
    assert_eq!(status(set_data(&mut controller, FeatureId::TIMESTAMP, &[0; 7], NOW)), Status::DATA_TRANSFER_ERROR);
    assert_eq!(
        status(set_data(&mut controller, FeatureId::HOST_BEHAVIOR_SUPPORT, &[0; 511], NOW)),
        Status::DATA_TRANSFER_ERROR
    );
}
