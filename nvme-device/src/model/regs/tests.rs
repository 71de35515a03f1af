use proptest::prelude::*;

use super::*;

const DISABLE: Option<RegEffect> = Some(RegEffect::Disable);

fn registers() -> Registers {
    Registers::new(&CtrlLimits { max_queue_entries: 1024, timeout_500ms: 20, version: Version::V2_0 })
}

fn get(registers: &Registers, at: usize) -> u32 {
    let mut bytes = [0xaa; 4];
    registers.read(at, &mut bytes);
    u32::from_le_bytes(bytes)
}

fn set(registers: &Registers, at: usize, value: u32) -> Option<RegEffect> {
    registers.write(at, &value.to_le_bytes())
}

fn shst(registers: &Registers) -> u32 {
    get(registers, CSTS) >> 2 & 3
}

/// Registers with an admin queue of 32 and 16 entries, not enabled.
fn with_admin_queue() -> Registers {
    let registers = registers();
    assert_eq!(set(&registers, AQA, 15 << 16 | 31), None);
    assert_eq!(registers.write(ASQ, &0x12_3456_7000u64.to_le_bytes()), None);
    assert_eq!(registers.write(ACQ, &0x8000u64.to_le_bytes()), None);
    registers
}

fn running() -> Registers {
    let registers = with_admin_queue();
    assert!(matches!(set(&registers, CC, 0x0046_0001), Some(RegEffect::Enable(_))));
    registers.set_ready();
    registers
}

#[test]
fn cap_says_what_the_controller_can() {
    let mut cap = [0; 8];
    registers().read(CAP, &mut cap);
    let cap = u64::from_le_bytes(cap);
    assert_eq!(cap, registers().cap());
    assert_eq!(cap & 0xffff, 1023, "MQES is 0's based");
    assert_eq!(cap >> 16 & 1, 1, "CQR");
    assert_eq!(cap >> 17 & 3, 0, "AMS");
    assert_eq!(cap >> 24 & 0xff, 20, "TO");
    assert_eq!(cap >> 32 & 0xf, 0, "DSTRD");
    assert_eq!(cap >> 36 & 1, 0, "NSSRS");
    assert_eq!(cap >> 37 & 0xff, 1, "CSS");
    assert_eq!(cap >> 48 & 0xff, 0, "MPSMIN and MPSMAX");
    assert_eq!(cap >> 59 & 3, 1, "CRMS");
    assert_eq!(get(&registers(), CRTO), 20);
    assert_eq!(get(&registers(), VS), 0x0002_0000);
}

#[test]
fn limits_that_cannot_be_are_held_to_the_least() {
    let registers = Registers::new(&CtrlLimits { max_queue_entries: 0, timeout_500ms: 0, version: Version::V2_0 });
    assert_eq!(registers.cap() & 0xffff, 1);
    assert_eq!(registers.cap() >> 24 & 0xff, 1);
}

#[test]
fn enabling_hands_over_the_admin_queue() {
    let registers = with_admin_queue();
    let enable = Enable { asq: 0x12_3456_7000, acq: 0x8000, asqs: 32, acqs: 16 };
    assert_eq!(set(&registers, CC, 0x0046_0001), Some(RegEffect::Enable(enable)));
    assert!(registers.enabled() && !registers.ready() && !registers.fatal());
    registers.set_ready();
    assert_eq!(get(&registers, CSTS), 1);
    assert_eq!(registers.entry_sizes(), EntrySizes { iosqes: 6, iocqes: 4 });
}

#[test]
fn admin_queues_of_4096_entries_are_handed_over() {
    let registers = with_admin_queue();
    assert_eq!(set(&registers, AQA, u32::MAX), None);
    assert_eq!(get(&registers, AQA), 0x0fff_0fff);
    let enable = Enable { asq: 0x12_3456_7000, acq: 0x8000, asqs: 4096, acqs: 4096 };
    assert_eq!(set(&registers, CC, 1), Some(RegEffect::Enable(enable)));
}

#[test]
fn enabling_with_what_the_controller_lacks_is_fatal() {
    for (field, cc) in [("CSS", 6 << 4), ("CSS", 7 << 4), ("MPS", 1 << 7), ("AMS", 1 << 11)] {
        let registers = with_admin_queue();
        assert_eq!(set(&registers, CC, cc | 1), None, "{field}");
        assert_eq!(get(&registers, CSTS), 2, "{field}: fatal, not ready");
        assert_eq!(set(&registers, CC, 0), DISABLE, "{field}");
        assert_eq!(get(&registers, CSTS), 0, "{field}: the reset ends it");
    }
}

#[test]
fn enabling_without_an_admin_queue_is_fatal() {
    for aqa in [0, 31, 31 << 16] {
        let registers = with_admin_queue();
        assert_eq!(set(&registers, AQA, aqa), None);
        assert_eq!(set(&registers, CC, 1), None);
        assert!(registers.fatal(), "AQA {aqa:#x}");
    }
}

#[test]
fn ready_falls_only_when_the_admin_worker_is_done() {
    let registers = running();
    assert_eq!(set(&registers, CC, 0x0046_0000), DISABLE);
    assert!(!registers.enabled() && registers.ready());
    registers.reset_done();
    assert!(!registers.ready());
}

#[test]
fn a_controller_reset_keeps_the_admin_queue_and_clears_the_mask() {
    let registers = running();
    assert_eq!(set(&registers, INTMS, 0xf), None);
    assert_eq!(set(&registers, CC, 0x0046_0000), DISABLE);
    registers.reset_done();
    assert_eq!(get(&registers, AQA), 15 << 16 | 31);
    assert_eq!((get(&registers, ASQ), get(&registers, ASQ_HIGH), get(&registers, ACQ)), (0x3456_7000, 0x12, 0x8000));
    assert_eq!(get(&registers, INTMS), 0);
    assert_eq!(get(&registers, CC), 0x0046_0000, "what the same write said");
}

#[test]
fn enabling_before_the_reset_is_done_gives_both_effects_in_order() {
    let registers = running();
    registers.set_fatal();
    assert_eq!(set(&registers, CC, 0), DISABLE);
    assert!(matches!(set(&registers, CC, 1), Some(RegEffect::Enable(_))));
    registers.reset_done();
    assert!(registers.enabled() && !registers.ready() && !registers.fatal());
}

#[test]
fn a_controller_of_version_1_4_has_no_ready_modes() {
    let registers = Registers::new(&CtrlLimits { max_queue_entries: 64, timeout_500ms: 20, version: Version::V1_4 });
    assert_eq!((get(&registers, VS), get(&registers, CRTO)), (0x0001_0400, 0));
    assert_eq!(registers.cap() >> 59 & 0b11, 0, "CAP.CRMS");
    assert_eq!(registers.cap() >> 24 & 0xff, 20, "CAP.TO");
}

#[test]
fn a_failure_before_it_was_ready_is_not_taken_for_one_of_the_next_life() {
    let registers = with_admin_queue();
    assert!(matches!(set(&registers, CC, 1), Some(RegEffect::Enable(_))));
    registers.set_fatal();
    assert_eq!(get(&registers, CSTS), 2);
    // The host need not wait: CSTS.RDY is 0.
    assert_eq!(set(&registers, CC, 0), DISABLE);
    assert!(matches!(set(&registers, CC, 1), Some(RegEffect::Enable(_))));
    assert_eq!(get(&registers, CSTS), 0);
    registers.set_fatal();
    assert_eq!(registers.function_reset(), RegEffect::Disable);
    assert_eq!(get(&registers, CSTS), 0);
}

#[test]
fn a_refusal_outlives_the_end_of_the_reset_before_it() {
    let registers = running();
    assert_eq!(set(&registers, CC, 0), DISABLE);
    assert_eq!(set(&registers, AQA, 0), None);
    assert_eq!(set(&registers, CC, 1), None);
    registers.reset_done();
    assert_eq!(get(&registers, CSTS), 2);
}

#[test]
fn command_set_page_size_and_arbitration_do_not_change_while_enabled() {
    let registers = running();
    assert_eq!(set(&registers, CC, 0x0046_0001 | CC_MODE), None);
    assert_eq!(get(&registers, CC), 0x0046_0001);
}

#[test]
fn entry_sizes_change_while_enabled() {
    let registers = running();
    assert_eq!(set(&registers, CC, 0x00a7_0001), None);
    assert_eq!(registers.entry_sizes(), EntrySizes { iosqes: 7, iocqes: 10 });
}

#[test]
fn a_shutdown_is_occurring_until_it_is_complete() {
    for (value, abrupt) in [(1, false), (2, true)] {
        let registers = running();
        let cc = 0x0046_0001 | value << 14;
        assert_eq!(set(&registers, CC, cc), Some(RegEffect::Shutdown { abrupt }));
        assert_eq!(shst(&registers), 1);
        assert_eq!(set(&registers, CC, cc), None, "asked for already");
        registers.set_shutdown_complete();
        assert_eq!(shst(&registers), 2);
        assert_eq!(set(&registers, CC, 0x0046_0000), DISABLE);
        registers.reset_done();
        assert_eq!(get(&registers, CSTS), 0);
    }
}

#[test]
fn a_shutdown_that_becomes_abrupt_is_told_again() {
    let registers = running();
    assert_eq!(set(&registers, CC, 0x4001), Some(RegEffect::Shutdown { abrupt: false }));
    assert_eq!(set(&registers, CC, 0x8001), Some(RegEffect::Shutdown { abrupt: true }));
    assert_eq!(shst(&registers), 1);
}

#[test]
fn the_reserved_shutdown_value_does_nothing() {
    let registers = running();
    assert_eq!(set(&registers, CC, 0xc001), None);
    assert_eq!(shst(&registers), 0);
}

#[test]
fn a_shutdown_that_ends_late_does_not_touch_the_next_life() {
    let registers = running();
    assert!(set(&registers, CC, 0x4001).is_some());
    assert_eq!(set(&registers, CC, 0), DISABLE);
    registers.set_shutdown_complete();
    registers.reset_done();
    assert!(matches!(set(&registers, CC, 1), Some(RegEffect::Enable(_))));
    assert_eq!(get(&registers, CSTS), 0);
}

#[test]
fn a_shutdown_of_a_disabled_controller_is_complete_at_once() {
    let registers = with_admin_queue();
    assert_eq!(set(&registers, CC, 0x4000), None);
    assert_eq!(shst(&registers), 2);
    assert!(matches!(set(&registers, CC, 1), Some(RegEffect::Enable(_))));
    assert_eq!(shst(&registers), 0);
}

#[test]
fn a_shutdown_with_a_reset_is_occurring_until_the_admin_worker_has_carried_both_out() {
    let both_at_once = |registers: &Registers| assert_eq!(set(registers, CC, 0x4000), DISABLE);
    let one_after_the_other = |registers: &Registers| {
        assert_eq!((set(registers, CC, 0), set(registers, CC, 0x4000)), (DISABLE, None));
    };
    let ways: [&dyn Fn(&Registers); 2] = [&both_at_once, &one_after_the_other];
    for ask in ways {
        let registers = running();
        ask(&registers);
        assert_eq!(get(&registers, CSTS), 1 | 1 << 2, "ready, and occurring");
        registers.reset_done();
        assert_eq!((get(&registers, CSTS), registers.shutdown_is_occurring()), (1 << 2, true));
        registers.set_shutdown_complete();
        assert_eq!(get(&registers, CSTS), 2 << 2);
        assert!(matches!(set(&registers, CC, 1), Some(RegEffect::Enable(_))));
        assert_eq!((get(&registers, CSTS), registers.shutdown_is_occurring()), (0, false));
    }
}

#[test]
fn enabling_drops_a_shutdown_notification() {
    let registers = with_admin_queue();
    assert!(matches!(set(&registers, CC, 0x4001), Some(RegEffect::Enable(_))));
    assert_eq!((get(&registers, CC), shst(&registers)), (1, 0));
}

#[test]
fn a_function_reset_clears_all_but_ready_until_the_admin_worker_is_done() {
    let registers = running();
    assert_eq!(set(&registers, INTMS, 1), None);
    assert_eq!(registers.function_reset(), RegEffect::Disable);
    for at in [INTMS, CC, AQA, ASQ, ASQ_HIGH, ACQ, ACQ_HIGH] {
        assert_eq!(get(&registers, at), 0, "at {at:#x}");
    }
    assert_eq!(get(&registers, CSTS), 1);
    registers.reset_done();
    assert_eq!(get(&registers, CSTS), 0);
}

#[test]
fn interrupt_masks_are_set_and_cleared_by_ones() {
    let registers = registers();
    assert_eq!(set(&registers, INTMS, 0xf0), None);
    assert_eq!(registers.write(INTMS + 3, &[0x80]), None);
    assert_eq!(set(&registers, INTMC, 0x30), None);
    assert_eq!((get(&registers, INTMS), get(&registers, INTMC)), (0x8000_00c0, 0x8000_00c0));
}

#[test]
fn queue_addresses_are_written_in_halves_and_bytes() {
    let registers = registers();
    assert_eq!(set(&registers, ASQ_HIGH, 0x0102_0304), None);
    assert_eq!(set(&registers, ASQ, 0xffff_ffff), None);
    assert_eq!((get(&registers, ASQ), get(&registers, ASQ_HIGH)), (0xffff_f000, 0x0102_0304));
    assert_eq!(registers.write(ACQ + 3, &[0x11, 0x22]), None);
    assert_eq!((get(&registers, ACQ), get(&registers, ACQ_HIGH)), (0x1100_0000, 0x22));
}

#[test]
fn cc_is_written_in_bytes_words_and_with_its_neighbour() {
    let registers = with_admin_queue();
    assert_eq!(registers.write(CC + 2, &[0x46]), None);
    assert!(matches!(registers.write(CC, &[1, 0]), Some(RegEffect::Enable(_))));
    assert_eq!(get(&registers, CC), 0x0046_0001);
    assert_eq!(registers.write(INTMC, &0x0046_0000_0000_0000u64.to_le_bytes()), DISABLE);
}

#[test]
fn reserved_registers_and_bits_read_zero() {
    let registers = running();
    let _ = registers.write(0x38, &[0xff; 0x1000]);
    for at in (0x38..CRTO).chain(CRTO + 4..0x1000).step_by(4) {
        assert_eq!(get(&registers, at), 0, "at {at:#x}");
    }
    assert_eq!(set(&registers, CC, 0xff00_000f), None);
    assert_eq!(get(&registers, CC), 1);
    assert_eq!(set(&registers, 0x20, 0x4e56_4d65), None, "no subsystem reset by NSSR");
    assert_eq!(get(&registers, 0x20), 0);
}

#[test]
fn an_access_past_the_end_reads_zero_and_does_nothing() {
    let registers = running();
    let mut bytes = [0xaa; 8];
    registers.read(0xffe, &mut bytes);
    assert_eq!(bytes, [0; 8]);
    registers.read(usize::MAX, &mut bytes);
    assert_eq!(bytes, [0; 8]);
    assert_eq!(registers.write(usize::MAX, &[0xff; 8]), None);
}

fn access() -> impl Strategy<Value = (usize, Vec<u8>)> {
    let modes = vec![0u32, 1, 1, 0x0046_0001, 0x4001, 0x8001, 0x4000, 0x61];
    let cc = proptest::sample::select(modes).prop_map(|cc| (CC, cc.to_le_bytes().to_vec()));
    let offset = prop_oneof![0usize..0x70, CC..CC + 1, 0usize..0x1010, any::<usize>()];
    prop_oneof![cc, (offset, proptest::collection::vec(any::<u8>(), 0..20))]
}

proptest! {
    #[test]
    fn no_sequence_of_writes_changes_a_read_only_bit(
        writes in proptest::collection::vec((access(), 0u8..8), 0..40),
    ) {
        let registers = with_admin_queue();
        let mut running = false;
        for ((offset, data), done) in &writes {
            match registers.write(*offset, data) {
                Some(RegEffect::Enable(enable)) => {
                    prop_assert!(enable.asq % 4096 == 0 && enable.acq % 4096 == 0);
                    prop_assert!((2..=4096).contains(&enable.asqs) && (2..=4096).contains(&enable.acqs));
                    prop_assert!(registers.enabled() && !running);
                    running = true;
                }
                Some(RegEffect::Disable) => {
                    prop_assert!(!registers.enabled());
                    running = false;
                    if *done > 3 {
                        registers.reset_done();
                    }
                }
                Some(RegEffect::Shutdown { .. }) => prop_assert!(registers.enabled() && registers.csts() & CSTS_SHST != 0),
                None => prop_assert!(!registers.enabled() || running || registers.fatal()),
            }
            prop_assert_eq!(u64::from(get(&registers, CAP)) | u64::from(get(&registers, CAP_HIGH)) << 32, registers.cap());
            prop_assert_eq!((get(&registers, VS), get(&registers, CRTO)), (Version::V2_0.number().into_bits(), 20));
            prop_assert_eq!(get(&registers, CC) & !CC_WRITABLE, 0);
            prop_assert_eq!(get(&registers, AQA) & !AQA_WRITABLE, 0);
            prop_assert_eq!((get(&registers, ASQ) | get(&registers, ACQ)) & 0xfff, 0);
            prop_assert_eq!(get(&registers, CSTS) & !0xe, 0, "ready is the admin worker's to say");
            prop_assert_ne!(shst(&registers), 3);
        }
    }

    #[test]
    fn a_read_of_any_length_is_the_bytes_of_the_registers((offset, data) in access(), len in 0usize..64) {
        let registers = running();
        let _ = registers.write(offset, &data);
        let mut image = vec![0; 0x1000];
        registers.read(0, &mut image);
        let mut bytes = vec![0xaa; len];
        registers.read(offset, &mut bytes);
        for (i, byte) in bytes.into_iter().enumerate() {
            prop_assert_eq!(byte, offset.checked_add(i).and_then(|at| image.get(at)).copied().unwrap_or(0));
        }
    }
}
