//! Get Log Page.

use super::*;
use nvme_spec::IoOpcode;
use nvme_spec::admin::{GetLogPageDw11, GetLogPageDw14, log_page_dwords_of};
use nvme_spec::identify::CommandSet;
use nvme_spec::log::{
    ActiveFirmware, AnaGroup, AnaHeader, AnaLogParameter, AnaState, CommandEffects, CommandEffectsLog,
    ErrorInformation, FeatureEffects, FirmwareSlots, NO_ERROR_LOCATION, Scope, Smart,
};

/// Returns the log page `lid`, all of it.
fn log(controller: &mut Controller, lid: LogId, len: u32) -> Vec<u8> {
    data(controller.admin(&get_log(lid, len), NOW))
}

#[test]
fn supported_logs_are_those_that_can_be_read() {
    let mut controller = controller();
    let supported = log(&mut controller, LogId::SUPPORTED_LOG_PAGES, 1024);
    for lid in (0..=u8::MAX).map(LogId) {
        let outcome = controller.admin(&get_log(lid, 512), NOW);
        let listed = u32_at(&supported, usize::from(lid.0) * 4);
        match outcome {
            Outcome::Data { data, .. } => assert!(listed == 1 && (data.len() == 512 || lid == LogId::ANA), "{lid:?}"),
            other => assert_eq!((listed, status(other)), (0, Status::INVALID_LOG_PAGE), "{lid:?}"),
        }
    }
    assert_eq!(supported.chunks(4).filter(|entry| entry[0] != 0).count(), 9);
}

#[test]
fn each_log_has_its_size_however_much_is_asked_for() {
    let mut controller = controller();
    for (lid, size) in [
        (LogId::SUPPORTED_LOG_PAGES, 1024),
        (LogId::ERROR_INFORMATION, 4096),
        (LogId::SMART, 512),
        (LogId::FIRMWARE_SLOT, 512),
        (LogId::CHANGED_NAMESPACE_LIST, 4096),
        (LogId::COMMAND_EFFECTS, 4096),
        (LogId::ANA, 56),
        (LogId::FEATURE_EFFECTS, 1024),
        (LogId::MI_COMMAND_EFFECTS, 4096),
    ] {
        assert_eq!(log(&mut controller, lid, 128 << 10).len(), size, "{lid:?}");
        assert_eq!(log(&mut controller, lid, 4).len(), 4, "{lid:?}");
    }
}

#[test]
fn an_offset_cuts_the_front_off() {
    let mut controller = controller();
    let whole = log(&mut controller, LogId::COMMAND_EFFECTS, 4096);
    let at = |offset: u64, len| {
        let [low, high] = [offset & 0xffff_ffff, offset >> 32].map(|half| u32::try_from(half).expect("a dword"));
        Sqe { cdw12: low, cdw13: high, ..get_log(LogId::COMMAND_EFFECTS, len) }
    };
    assert_eq!(data(controller.admin(&at(24, 16), NOW)), whole[24..40]);
    assert_eq!(data(controller.admin(&at(4092, 16), NOW)), whole[4092..]);
    assert_eq!(data(controller.admin(&at(4096, 16), NOW)), Vec::<u8>::new());
    for offset in [2, 4100, 1 << 32, u64::MAX - 3] {
        assert_eq!(status(controller.admin(&at(offset, 16), NOW)), Status::INVALID_FIELD, "{offset:x}h");
    }
}

#[test]
fn a_transfer_above_mdts_is_an_invalid_field() {
    let mut controller = controller();
    let sqe = get_log(LogId::SMART, (128 << 10) + 4);
    assert_eq!(status(controller.admin(&sqe, NOW)), Status::INVALID_FIELD);
    // The upper half of NUMD counts.
    let sqe = Sqe { cdw11: GetLogPageDw11::new().with_numdu(1).into_bits(), ..get_log(LogId::SMART, 512) };
    assert_eq!(status(controller.admin(&sqe, NOW)), Status::INVALID_FIELD);
    let dw10 = GetLogPageDw10::new().with_lid(LogId::SMART).with_numdl(u16::MAX);
    let dw11 = GetLogPageDw11::new().with_numdu(u16::MAX);
    assert_eq!(log_page_dwords_of(dw10, dw11), 1 << 32);
    let sqe = Sqe { cdw10: dw10.into_bits(), cdw11: dw11.into_bits(), ..get_log(LogId::SMART, 512) };
    assert_eq!(status(controller.admin(&sqe, NOW)), Status::INVALID_FIELD);
}

#[test]
fn logs_are_of_the_controller_not_of_a_namespace() {
    let mut controller = controller();
    assert_eq!(status(controller.admin(&Sqe { nsid: 1, ..get_log(LogId::SMART, 512) }, NOW)), Status::INVALID_FIELD);
    assert_eq!(data(controller.admin(&Sqe { nsid: 0, ..get_log(LogId::SMART, 512) }, NOW)).len(), 512);
    let by_index = Sqe { cdw14: GetLogPageDw14::new().with_ot(true).into_bits(), ..get_log(LogId::SMART, 512) };
    assert_eq!(status(controller.admin(&by_index, NOW)), Status::INVALID_FIELD);
}

#[test]
fn smart_counts_in_the_units_of_the_specification() {
    let mut controller = controller();
    let sqe = get_log(LogId::SMART, 512);
    assert!(Controller::wants_io_totals(&sqe) && !Controller::wants_io_totals(&get_log(LogId::ERROR_INFORMATION, 512)));
    controller.count_io(IoTotals {
        bytes_read: 512_000 * 3,
        bytes_written: 512_001,
        read_commands: 11,
        write_commands: u64::MAX,
        busy: Duration::from_secs(119),
        media_errors: 4,
    });
    let error = ErrorEntry { sqid: 1, cid: 2, status: Status::COMPARE_FAILURE, lba: 3, nsid: 1 };
    controller.io_error(&error);
    let smart = data(controller.admin(&sqe, NOW + Duration::from_secs(7200)));
    let smart: Smart = structure(&smart);
    assert_eq!((smart.critical_warning, smart.composite_temperature.get()), (CriticalWarning::new(), 308));
    assert_eq!((smart.available_spare, smart.available_spare_threshold, smart.percentage_used), (100, 10, 0));
    let data = [smart.data_units_read, smart.data_units_written, smart.host_read_commands, smart.host_write_commands];
    assert_eq!(data.map(u128::from), [3, 2, 11, u64::MAX.into()]);
    let times = [smart.controller_busy_time, smart.power_cycles, smart.power_on_hours, smart.unsafe_shutdowns];
    assert_eq!(times.map(u128::from), [1, 1, 2, 0]);
    assert_eq!((smart.media_errors.get(), smart.error_log_entries.get()), (4, 1));
}

#[test]
fn errors_are_listed_newest_first_and_the_oldest_fall_out() {
    let mut controller = controller();
    for cid in 0..70 {
        let status = Status::COMPARE_FAILURE;
        controller.io_error(&ErrorEntry { sqid: 2, cid, status, lba: 0x1122_3344_5566, nsid: 3 });
    }
    let errors = log(&mut controller, LogId::ERROR_INFORMATION, 4096);
    for index in 0..64 {
        let entry: ErrorInformation = structure(&errors[index * 64..][..64]);
        assert_eq!(entry.error_count, 70 - index as u64);
        assert_eq!((entry.sqid, usize::from(entry.cid)), (2, 69 - index));
        assert_eq!((entry.status, entry.parameter_error_location), (Status::COMPARE_FAILURE, NO_ERROR_LOCATION));
        assert_eq!((entry.lba, entry.nsid), (0x1122_3344_5566, 3));
    }
    // A controller reset keeps them.
    controller.enable(NOW);
    let newest: ErrorInformation = structure(&log(&mut controller, LogId::ERROR_INFORMATION, 64));
    assert_eq!(newest.error_count, 70);
}

#[test]
fn the_firmware_is_in_slot_1() {
    let firmware = log(&mut controller(), LogId::FIRMWARE_SLOT, 512);
    let firmware: FirmwareSlots = structure(&firmware);
    assert_eq!(firmware.afi, ActiveFirmware::new().with_active(1));
    assert_eq!((&firmware.frs[0], &firmware.frs[1..]), (b"1.0     ", [[0; 8]; 6].as_slice()));
}

#[test]
fn changed_namespaces_are_listed_once_in_order() {
    let mut controller = controller();
    assert!(controller.remove_namespace(3));
    assert!(controller.resize_namespace(1, 9).is_ok());
    assert!(controller.add_namespace(namespace(3)).is_ok());
    let changed = log(&mut controller, LogId::CHANGED_NAMESPACE_LIST, 4096);
    assert_eq!([0, 4, 8].map(|at| u32_at(&changed, at)), [1, 3, 0]);
    assert_eq!(log(&mut controller, LogId::CHANGED_NAMESPACE_LIST, 4096), vec![0; 4096]);
}

#[test]
fn a_part_of_the_changed_namespace_list_that_was_read_leaves_the_rest_to_be_told() {
    let mut controller = controller();
    let request = Sqe { cid: 77, ..command(Opcode::AsynchronousEventRequest) };
    let listen =
        set_feature(FeatureId::ASYNC_EVENT_CONFIGURATION, AsyncEventConfiguration::new().with_nan(true).into_bits());
    assert_eq!(dw0(controller.admin(&listen, NOW)), 0);
    assert_eq!(controller.admin(&request, NOW), Outcome::Held);
    controller.remove_namespace(3);
    controller.add_namespace(namespace(2)).expect("free");
    assert_eq!(controller.next_event().map(|event| event.cid), Some(77));
    assert_eq!(controller.admin(&request, NOW), Outcome::Held);
    assert_eq!(u32_at(&log(&mut controller, LogId::CHANGED_NAMESPACE_LIST, 4), 0), 2, "the first of two");
    assert_eq!(controller.next_event().map(|event| event.cid), Some(77), "there is more");
    let rest = Sqe { cdw12: 4, ..get_log(LogId::CHANGED_NAMESPACE_LIST, 4) };
    assert_eq!(u32_at(&data(controller.admin(&rest, NOW)), 0), 3);
    assert_eq!(controller.admin(&request, NOW), Outcome::Held);
    assert_eq!(controller.next_event(), None);
    assert_eq!(log(&mut controller, LogId::CHANGED_NAMESPACE_LIST, 4096), vec![0; 4096], "all was read");
}

#[test]
fn the_changed_namespace_list_has_room_for_every_namespace() {
    let mut controller = controller();
    for nsid in 1..=MAX_NAMESPACES {
        controller.remove_namespace(nsid);
        controller.add_namespace(namespace(nsid)).expect("free");
    }
    let changed = log(&mut controller, LogId::CHANGED_NAMESPACE_LIST, 4096);
    assert!((1..=256).all(|nsid| u32_at(&changed, (nsid as usize - 1) * 4) == nsid));
    assert_eq!(u32_at(&changed, 1024), 0);
}

/// Returns the header of the Asymmetric Namespace Access log, its group if there is one, and the group's namespaces.
fn parts(page: &[u8]) -> (AnaHeader, Option<AnaGroup>, Vec<u32>) {
    let (header, rest) = AnaHeader::read_from_prefix(page).expect("a header");
    match AnaGroup::read_from_prefix(rest) {
        Ok((group, nsids)) => (header, Some(group), nsids.chunks(4).map(|nsid| u32_at(nsid, 0)).collect()),
        Err(_) => (header, None, Vec::new()),
    }
}

/// Change Count, number of groups, and namespaces.
fn access(page: &[u8]) -> (u64, u16, Vec<u32>) {
    let (header, _, nsids) = parts(page);
    (header.change_count, header.descriptors, nsids)
}

#[test]
fn all_namespaces_are_in_one_group_that_is_optimized() {
    let mut controller = controller();
    let page = log(&mut controller, LogId::ANA, 4096);
    assert_eq!(access(&page), (0, 1, vec![1, 3]));
    let (_, group, _) = parts(&page);
    let group = group.expect("there is one");
    assert_eq!((group.group, group.namespaces, group.state), (1, 2, AnaState::OPTIMIZED));
    assert!(controller.remove_namespace(1));
    assert!(controller.resize_namespace(3, 9).is_ok());
    assert_eq!(access(&log(&mut controller, LogId::ANA, 4096)), (1, 1, vec![3]));
    assert!(controller.remove_namespace(3));
    assert_eq!(access(&log(&mut controller, LogId::ANA, 4096)), (2, 0, vec![]));
    controller.enable(NOW);
    assert_eq!(access(&log(&mut controller, LogId::ANA, 4096)), (0, 0, vec![]));
}

#[test]
fn groups_alone_are_told_if_they_alone_are_asked_for() {
    let mut controller = controller();
    let whole = log(&mut controller, LogId::ANA, 4096);
    let ask = get_log(LogId::ANA, 4096);
    let cdw10 = GetLogPageDw10::from_bits(ask.cdw10).with_lsp(AnaLogParameter::new().with_rgo(true).into_bits());
    let groups_alone = Sqe { cdw10: cdw10.into_bits(), ..ask };
    let groups = data(controller.admin(&groups_alone, NOW));
    let (header, group, nsids) = parts(&groups);
    assert_eq!((groups.len(), header.descriptors, nsids), (48, 1, vec![]));
    let group = group.expect("there is one");
    assert_eq!((group.group, group.namespaces, group.state), (1, 0, AnaState::OPTIMIZED));
    let rest = Sqe { cdw12: 48, ..get_log(LogId::ANA, 4096) };
    assert_eq!(data(controller.admin(&rest, NOW)), whole[48..]);
    let behind = Sqe { cdw12: 60, ..get_log(LogId::ANA, 4096) };
    assert_eq!(status(controller.admin(&behind, NOW)), Status::INVALID_FIELD);
}

#[test]
fn command_effects_list_what_is_not_an_invalid_opcode() {
    let mut controller = controller();
    let effects: CommandEffectsLog = structure(&log(&mut controller, LogId::COMMAND_EFFECTS, 4096));
    for opcode in 0..=255 {
        let cdw10 = IdentifyDw10::new().with_cns(Cns::CONTROLLER).into_bits();
        let sqe = Sqe { opcode, nsid: 1, cdw10, ..Sqe::default() };
        let known = controller.admin(&sqe, NOW) != Outcome::failed(Status::INVALID_OPCODE);
        let expected = CommandEffects::new().with_csupp(known);
        assert_eq!(effects.acs[usize::from(opcode)], expected, "{:?}", AdminOpcode(opcode));
    }
}

#[test]
fn effects_of_io_commands_follow_the_namespaces() {
    let mut controller = controller();
    let opcodes = [
        IoOpcode::FLUSH,
        IoOpcode::WRITE,
        IoOpcode::READ,
        IoOpcode::WRITE_UNCORRECTABLE,
        IoOpcode::COMPARE,
        IoOpcode::WRITE_ZEROES,
        IoOpcode::DATASET_MANAGEMENT,
        IoOpcode::VERIFY,
        IoOpcode(0x80),
        IoOpcode(0x83),
        IoOpcode(0xfe),
    ];
    let io = |controller: &mut Controller| {
        let effects: CommandEffectsLog = structure(&log(controller, LogId::COMMAND_EFFECTS, 4096));
        opcodes.map(|opcode| effects.iocs[usize::from(opcode.0)])
    };
    let no = CommandEffects::new();
    let reads = no.with_csupp(true);
    let writes = reads.with_lbcc(true);
    assert_eq!(io(&mut controller), [reads, writes, reads, no, no, no, no, no, no, no, no]);
    let supports = IoSupport::DEALLOCATE | IoSupport::WRITE_ZEROES | IoSupport::COMPARE;
    controller.add_namespace(Namespace { supports, ..namespace(2) }).expect("free");
    assert_eq!(io(&mut controller), [reads, writes, reads, no, reads, writes, writes, no, no, no, no]);
    let passed = IoSupport::VERIFY | IoSupport::WRITE_UNCORRECTABLE | IoSupport::VENDOR_SPECIFIC;
    controller.add_namespace(Namespace { supports: passed, ..namespace(4) }).expect("free");
    let all = [reads, writes, reads, writes, reads, writes, writes, reads, writes, no, writes];
    assert_eq!(io(&mut controller), all);
    let zoned = Sqe {
        cdw14: GetLogPageDw14::new().with_csi(CommandSet::ZNS).into_bits(),
        ..get_log(LogId::COMMAND_EFFECTS, 4096)
    };
    assert_eq!(status(controller.admin(&zoned, NOW)), Status::INVALID_FIELD);
}

#[test]
fn feature_effects_list_what_can_be_got() {
    let mut controller = controller();
    let effects = log(&mut controller, LogId::FEATURE_EFFECTS, 1024);
    for fid in (0..=u8::MAX).map(FeatureId) {
        let known =
            controller.admin(&Sqe { nsid: 1, ..get_feature(fid, 0) }, NOW) != Outcome::failed(Status::INVALID_FIELD);
        let is_of_namespace = fid == FeatureId::ERROR_RECOVERY;
        let scope = Scope::new().with_namespace(is_of_namespace).with_controller(!is_of_namespace);
        let expected =
            if known { FeatureEffects::new().with_fsupp(true).with_fsp(scope) } else { FeatureEffects::new() };
        assert_eq!(FeatureEffects::from_bits(u32_at(&effects, usize::from(fid.0) * 4)), expected, "{fid:?}");
    }
}
