//! Get Log Page.

use super::*;

/// Returns the log page `lid`, all of it.
fn log(controller: &mut Controller, lid: u32, len: u32) -> Vec<u8> {
    data(controller.admin(&get_log(lid, len), NOW))
}

#[test]
fn supported_logs_are_those_that_can_be_read() {
    let mut controller = controller();
    let supported = log(&mut controller, 0, 1024);
    for lid in 0..256 {
        let outcome = controller.admin(&get_log(lid, 512), NOW);
        let listed = u32_at(&supported, lid as usize * 4);
        match outcome {
            Outcome::Data { data, .. } => assert!(listed == 1 && (data.len() == 512 || lid == 0x0c), "{lid:x}h"),
            other => assert_eq!((listed, status(other)), (0, Status::INVALID_LOG_PAGE), "{lid:x}h"),
        }
    }
    assert_eq!(supported.chunks(4).filter(|entry| entry[0] != 0).count(), 9);
}

#[test]
fn each_log_has_its_size_however_much_is_asked_for() {
    let mut controller = controller();
    for (lid, size) in [
        (0x00, 1024),
        (0x01, 4096),
        (0x02, 512),
        (0x03, 512),
        (0x04, 4096),
        (0x05, 4096),
        (0x0c, 56),
        (0x12, 1024),
        (0x13, 4096),
    ] {
        assert_eq!(log(&mut controller, lid, 128 << 10).len(), size, "{lid:x}h");
        assert_eq!(log(&mut controller, lid, 4).len(), 4, "{lid:x}h");
    }
}

#[test]
fn an_offset_cuts_the_front_off() {
    let mut controller = controller();
    let whole = log(&mut controller, 0x05, 4096);
    let at = |offset: u64, len| {
        let [low, high] = [offset & 0xffff_ffff, offset >> 32].map(|half| u32::try_from(half).expect("a dword"));
        Sqe { cdw12: low, cdw13: high, ..get_log(0x05, len) }
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
    let sqe = get_log(0x02, (128 << 10) + 4);
    assert_eq!(status(controller.admin(&sqe, NOW)), Status::INVALID_FIELD);
    // The upper half of NUMD counts.
    let sqe = Sqe { cdw11: 1, ..get_log(0x02, 512) };
    assert_eq!(status(controller.admin(&sqe, NOW)), Status::INVALID_FIELD);
    let sqe = Sqe { cdw10: 0xffff_0002, cdw11: 0xffff, ..get_log(0x02, 512) };
    assert_eq!(status(controller.admin(&sqe, NOW)), Status::INVALID_FIELD);
}

#[test]
fn logs_are_of_the_controller_not_of_a_namespace() {
    let mut controller = controller();
    assert_eq!(status(controller.admin(&Sqe { nsid: 1, ..get_log(2, 512) }, NOW)), Status::INVALID_FIELD);
    assert_eq!(data(controller.admin(&Sqe { nsid: 0, ..get_log(2, 512) }, NOW)).len(), 512);
    assert_eq!(status(controller.admin(&Sqe { cdw14: 1 << 23, ..get_log(2, 512) }, NOW)), Status::INVALID_FIELD);
}

#[test]
fn smart_counts_in_the_units_of_the_specification() {
    let mut controller = controller();
    let sqe = get_log(2, 512);
    assert!(Controller::wants_io_totals(&sqe) && !Controller::wants_io_totals(&get_log(1, 512)));
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
    assert_eq!((smart[0], u16_at(&smart, 1), smart[3], smart[4], smart[5]), (0, 308, 100, 10, 0));
    let values = [32, 48, 64, 80, 96, 112, 128, 144, 160, 176].map(|at| u64_at(&smart, at));
    assert_eq!(values, [3, 2, 11, u64::MAX, 1, 1, 2, 0, 4, 1]);
    assert!([40, 56, 72, 88].iter().all(|at| u64_at(&smart, *at) == 0));
}

#[test]
fn errors_are_listed_newest_first_and_the_oldest_fall_out() {
    let mut controller = controller();
    for cid in 0..70 {
        let status = Status::COMPARE_FAILURE;
        controller.io_error(&ErrorEntry { sqid: 2, cid, status, lba: 0x1122_3344_5566, nsid: 3 });
    }
    let errors = log(&mut controller, 1, 4096);
    for index in 0..64 {
        let entry = &errors[index * 64..];
        assert_eq!(u64_at(entry, 0), 70 - index as u64);
        assert_eq!((u16_at(entry, 8), usize::from(u16_at(entry, 10))), (2, 69 - index));
        assert_eq!((u16_at(entry, 12), u16_at(entry, 14)), (Status::COMPARE_FAILURE.into_bits(), 0xffff));
        assert_eq!((u64_at(entry, 16), u32_at(entry, 24)), (0x1122_3344_5566, 3));
    }
    // A controller reset keeps them.
    controller.enable(NOW);
    assert_eq!(u64_at(&log(&mut controller, 1, 64), 0), 70);
}

#[test]
fn the_firmware_is_in_slot_1() {
    let firmware = log(&mut controller(), 3, 512);
    assert_eq!((firmware[0], &firmware[8..16]), (1, b"1.0     ".as_slice()));
    assert!(firmware[16..].iter().all(|byte| *byte == 0));
}

#[test]
fn changed_namespaces_are_listed_once_in_order() {
    let mut controller = controller();
    assert!(controller.remove_namespace(3));
    assert!(controller.resize_namespace(1, 9).is_ok());
    assert!(controller.add_namespace(namespace(3)).is_ok());
    let changed = log(&mut controller, 4, 4096);
    assert_eq!([0, 4, 8].map(|at| u32_at(&changed, at)), [1, 3, 0]);
    assert_eq!(log(&mut controller, 4, 4096), vec![0; 4096]);
}

#[test]
fn a_part_of_the_changed_namespace_list_that_was_read_leaves_the_rest_to_be_told() {
    let mut controller = controller();
    let request = Sqe { cid: 77, ..command(Opcode::AsynchronousEventRequest) };
    let listen = Sqe { cdw10: 0x0b, cdw11: 0x100, ..command(Opcode::SetFeatures) };
    assert_eq!(dw0(controller.admin(&listen, NOW)), 0);
    assert_eq!(controller.admin(&request, NOW), Outcome::Held);
    controller.remove_namespace(3);
    controller.add_namespace(namespace(2)).expect("free");
    assert_eq!(controller.next_event().map(|event| event.cid), Some(77));
    assert_eq!(controller.admin(&request, NOW), Outcome::Held);
    assert_eq!(u32_at(&log(&mut controller, 4, 4), 0), 2, "the first of two");
    assert_eq!(controller.next_event().map(|event| event.cid), Some(77), "there is more");
    let rest = Sqe { cdw12: 4, ..get_log(4, 4) };
    assert_eq!(u32_at(&data(controller.admin(&rest, NOW)), 0), 3);
    assert_eq!(controller.admin(&request, NOW), Outcome::Held);
    assert_eq!(controller.next_event(), None);
    assert_eq!(log(&mut controller, 4, 4096), vec![0; 4096], "all was read");
}

#[test]
fn the_changed_namespace_list_has_room_for_every_namespace() {
    let mut controller = controller();
    for nsid in 1..=MAX_NAMESPACES {
        controller.remove_namespace(nsid);
        controller.add_namespace(namespace(nsid)).expect("free");
    }
    let changed = log(&mut controller, 4, 4096);
    assert!((1..=256).all(|nsid| u32_at(&changed, (nsid as usize - 1) * 4) == nsid));
    assert_eq!(u32_at(&changed, 1024), 0);
}

/// Head, group and namespaces of the Asymmetric Namespace Access log.
fn access(page: &[u8]) -> (u64, u16, Vec<u32>) {
    let nsids = page.get(48..).unwrap_or_default().chunks(4).map(|nsid| u32_at(nsid, 0)).collect();
    (u64_at(page, 0), u16_at(page, 8), nsids)
}

#[test]
fn all_namespaces_are_in_one_group_that_is_optimized() {
    let mut controller = controller();
    let page = log(&mut controller, 0x0c, 4096);
    assert_eq!(access(&page), (0, 1, vec![1, 3]));
    assert_eq!((u32_at(&page, 16), u32_at(&page, 20), page[32]), (1, 2, 1), "group, NSIDs, state");
    assert!(controller.remove_namespace(1));
    assert!(controller.resize_namespace(3, 9).is_ok());
    assert_eq!(access(&log(&mut controller, 0x0c, 4096)), (1, 1, vec![3]));
    assert!(controller.remove_namespace(3));
    assert_eq!(access(&log(&mut controller, 0x0c, 4096)), (2, 0, vec![]));
    controller.enable(NOW);
    assert_eq!(access(&log(&mut controller, 0x0c, 4096)), (0, 0, vec![]));
}

#[test]
fn groups_alone_are_told_if_they_alone_are_asked_for() {
    let mut controller = controller();
    let whole = log(&mut controller, 0x0c, 4096);
    let groups = log(&mut controller, 0x10c, 4096);
    assert_eq!((groups.len(), u16_at(&groups, 8)), (48, 1));
    assert_eq!((u32_at(&groups, 16), u32_at(&groups, 20), groups[32]), (1, 0, 1));
    let rest = Sqe { cdw12: 48, ..get_log(0x0c, 4096) };
    assert_eq!(data(controller.admin(&rest, NOW)), whole[48..]);
    let behind = Sqe { cdw12: 60, ..get_log(0x0c, 4096) };
    assert_eq!(status(controller.admin(&behind, NOW)), Status::INVALID_FIELD);
}

#[test]
fn command_effects_list_what_is_not_an_invalid_opcode() {
    let mut controller = controller();
    let effects = log(&mut controller, 5, 4096);
    for opcode in 0..=255 {
        let sqe = Sqe { opcode, nsid: 1, cdw10: 1, ..Sqe::default() };
        let known = controller.admin(&sqe, NOW) != Outcome::failed(Status::INVALID_OPCODE);
        let listed = u32_at(&effects, usize::from(opcode) * 4);
        assert_eq!(listed, u32::from(known), "{opcode:x}h");
    }
}

#[test]
fn effects_of_io_commands_follow_the_namespaces() {
    let mut controller = controller();
    let io = |log: &[u8]| [0, 1, 2, 4, 5, 8, 9, 12, 0x80, 0x83, 0xfe].map(|opcode| u32_at(log, 1024 + opcode * 4));
    assert_eq!(io(&log(&mut controller, 5, 4096)), [1, 3, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    let supports = IoSupport::DEALLOCATE | IoSupport::WRITE_ZEROES | IoSupport::COMPARE;
    controller.add_namespace(Namespace { supports, ..namespace(2) }).expect("free");
    assert_eq!(io(&log(&mut controller, 5, 4096)), [1, 3, 1, 0, 1, 3, 3, 0, 0, 0, 0]);
    let passed = IoSupport::VERIFY | IoSupport::WRITE_UNCORRECTABLE | IoSupport::VENDOR_SPECIFIC;
    controller.add_namespace(Namespace { supports: passed, ..namespace(4) }).expect("free");
    assert_eq!(io(&log(&mut controller, 5, 4096)), [1, 3, 1, 3, 1, 3, 3, 1, 3, 0, 3]);
    let zoned = Sqe { cdw14: 2 << 24, ..get_log(5, 4096) };
    assert_eq!(status(controller.admin(&zoned, NOW)), Status::INVALID_FIELD);
}

#[test]
fn feature_effects_list_what_can_be_got() {
    let mut controller = controller();
    let effects = log(&mut controller, 0x12, 1024);
    for fid in 0..256 {
        let known =
            controller.admin(&Sqe { nsid: 1, ..get_feature(fid, 0) }, NOW) != Outcome::failed(Status::INVALID_FIELD);
        let scope = if fid == 5 { 1 << 20 } else { 1 << 21 };
        let expected = if known { scope | 1 } else { 0 };
        assert_eq!(u32_at(&effects, fid as usize * 4), expected, "{fid:x}h");
    }
}
