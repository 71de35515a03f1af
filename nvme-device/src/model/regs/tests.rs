use proptest::prelude::*;

use super::*;
use nvme_spec::register::{self, Crto};
use nvme_spec::{Cqe, Sqe};

const DISABLE: Option<RegEffect> = Some(RegEffect::Disable);
/// Where registers end.
const END: usize = Register::SQ0TDBL.offset();
const NSSR: usize = Register::NSSR.offset();
/// As every driver sets it before it enables the controller.
const SIZES: Cc = Cc::new().with_iosqes(Sqe::SIZE_LOG2).with_iocqes(Cqe::SIZE_LOG2);
const ENABLED: Cc = SIZES.with_en(true);
/// Enable, and nothing else.
const EN: Cc = Cc::new().with_en(true);
const NORMAL: ShutdownNotification = ShutdownNotification::NORMAL;
const ABRUPT: ShutdownNotification = ShutdownNotification::ABRUPT;
const READY: Csts = Csts::new().with_rdy(true);
const FATAL: Csts = Csts::new().with_cfs(true);
/// The sizes of the admin queues that the tests have.
const QUEUES: Aqa = Aqa::new().with_asqs(31).with_acqs(15);

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

fn set_cc(registers: &Registers, cc: Cc) -> Option<RegEffect> {
    set(registers, CC, cc.into_bits())
}

fn cc(registers: &Registers) -> Cc {
    Cc::from_bits(get(registers, CC))
}

fn csts(registers: &Registers) -> Csts {
    Csts::from_bits(get(registers, CSTS))
}

fn shst(registers: &Registers) -> ShutdownStatus {
    csts(registers).shst()
}

fn cap(registers: &Registers) -> Cap {
    Cap::from_bits(registers.cap())
}

/// Registers with an admin queue of 32 and 16 entries, not enabled.
fn with_admin_queue() -> Registers {
    let registers = registers();
    assert_eq!(set(&registers, AQA, QUEUES.into_bits()), None);
    assert_eq!(registers.write(ASQ, &0x12_3456_7000u64.to_le_bytes()), None);
    assert_eq!(registers.write(ACQ, &0x8000u64.to_le_bytes()), None);
    registers
}

fn running() -> Registers {
    let registers = with_admin_queue();
    assert!(matches!(set_cc(&registers, ENABLED), Some(RegEffect::Enable(_))));
    registers.set_ready();
    registers
}

#[test]
fn cap_says_what_the_controller_can() {
    let registers = registers();
    let mut read = [0; 8];
    registers.read(CAP, &mut read);
    let expected = Cap::new().with_mqes(1023).with_cqr(true).with_to(20).with_css_nvm(true).with_crwms(true);
    assert_eq!((Cap::from_bits(u64::from_le_bytes(read)), cap(&registers)), (expected, expected));
    assert_eq!(Crto::from_bits(get(&registers, CRTO)), Crto::new().with_crwmt(20));
    assert_eq!(get(&registers, VS), register::Version::V2_0.into_bits());
}

#[test]
fn limits_that_cannot_be_are_held_to_the_least() {
    let registers = Registers::new(&CtrlLimits { max_queue_entries: 0, timeout_500ms: 0, version: Version::V2_0 });
    assert_eq!((cap(&registers).mqes(), cap(&registers).to()), (1, 1));
}

#[test]
fn enabling_hands_over_the_admin_queue() {
    let registers = with_admin_queue();
    let enable = Enable { asq: 0x12_3456_7000, acq: 0x8000, asqs: 32, acqs: 16 };
    assert_eq!(set_cc(&registers, ENABLED), Some(RegEffect::Enable(enable)));
    assert!(registers.enabled() && !registers.ready() && !registers.fatal());
    registers.set_ready();
    assert_eq!(csts(&registers), READY);
    assert_eq!(registers.entry_sizes(), EntrySizes { iosqes: 6, iocqes: 4 });
}

#[test]
fn admin_queues_of_4096_entries_are_handed_over() {
    let registers = with_admin_queue();
    assert_eq!(set(&registers, AQA, u32::MAX), None);
    assert_eq!(get(&registers, AQA), Aqa::new().with_asqs(4095).with_acqs(4095).into_bits());
    let enable = Enable { asq: 0x12_3456_7000, acq: 0x8000, asqs: 4096, acqs: 4096 };
    assert_eq!(set_cc(&registers, EN), Some(RegEffect::Enable(enable)));
}

#[test]
fn enabling_with_what_the_controller_lacks_is_fatal() {
    for (field, cc) in [
        ("CSS", EN.with_css(CommandSetSelected::ALL)),
        ("CSS", EN.with_css(CommandSetSelected::ADMIN_ONLY)),
        ("MPS", EN.with_mps(1)),
        ("AMS", EN.with_ams(1)),
    ] {
        let registers = with_admin_queue();
        assert_eq!(set_cc(&registers, cc), None, "{field}");
        assert_eq!(csts(&registers), FATAL, "{field}: fatal, not ready");
        assert_eq!(set_cc(&registers, Cc::new()), DISABLE, "{field}");
        assert_eq!(csts(&registers), Csts::new(), "{field}: the reset ends it");
    }
}

#[test]
fn enabling_without_an_admin_queue_is_fatal() {
    for aqa in [Aqa::new(), Aqa::new().with_asqs(31), Aqa::new().with_acqs(31)] {
        let registers = with_admin_queue();
        assert_eq!(set(&registers, AQA, aqa.into_bits()), None);
        assert_eq!(set_cc(&registers, EN), None);
        assert!(registers.fatal(), "{aqa:?}");
    }
}

#[test]
fn ready_falls_only_when_the_admin_worker_is_done() {
    let registers = running();
    assert_eq!(set_cc(&registers, SIZES), DISABLE);
    assert!(!registers.enabled() && registers.ready());
    registers.reset_done();
    assert!(!registers.ready());
}

#[test]
fn a_controller_reset_keeps_the_admin_queue_and_clears_the_mask() {
    let registers = running();
    assert_eq!(set(&registers, INTMS, 0xf), None);
    assert_eq!(set_cc(&registers, SIZES), DISABLE);
    registers.reset_done();
    assert_eq!(get(&registers, AQA), QUEUES.into_bits());
    assert_eq!((get(&registers, ASQ), get(&registers, ASQ_HIGH), get(&registers, ACQ)), (0x3456_7000, 0x12, 0x8000));
    assert_eq!(get(&registers, INTMS), 0);
    assert_eq!(cc(&registers), SIZES, "what the same write said");
}

#[test]
fn enabling_before_the_reset_is_done_gives_both_effects_in_order() {
    let registers = running();
    registers.set_fatal();
    assert_eq!(set_cc(&registers, Cc::new()), DISABLE);
    assert!(matches!(set_cc(&registers, EN), Some(RegEffect::Enable(_))));
    registers.reset_done();
    assert!(registers.enabled() && !registers.ready() && !registers.fatal());
}

#[test]
fn a_controller_of_version_1_4_has_no_ready_modes() {
    let registers = Registers::new(&CtrlLimits { max_queue_entries: 64, timeout_500ms: 20, version: Version::V1_4 });
    assert_eq!((get(&registers, VS), get(&registers, CRTO)), (register::Version::V1_4.into_bits(), 0));
    assert_eq!((cap(&registers).crwms(), cap(&registers).crims(), cap(&registers).to()), (false, false, 20));
}

#[test]
fn a_failure_before_it_was_ready_is_not_taken_for_one_of_the_next_life() {
    let registers = with_admin_queue();
    assert!(matches!(set_cc(&registers, EN), Some(RegEffect::Enable(_))));
    registers.set_fatal();
    assert_eq!(csts(&registers), FATAL);
    // The host need not wait: CSTS.RDY is 0.
    assert_eq!(set_cc(&registers, Cc::new()), DISABLE);
    assert!(matches!(set_cc(&registers, EN), Some(RegEffect::Enable(_))));
    assert_eq!(csts(&registers), Csts::new());
    registers.set_fatal();
    assert_eq!(registers.function_reset(), RegEffect::Disable);
    assert_eq!(csts(&registers), Csts::new());
}

#[test]
fn a_refusal_outlives_the_end_of_the_reset_before_it() {
    let registers = running();
    assert_eq!(set_cc(&registers, Cc::new()), DISABLE);
    assert_eq!(set(&registers, AQA, 0), None);
    assert_eq!(set_cc(&registers, EN), None);
    registers.reset_done();
    assert_eq!(csts(&registers), FATAL);
}

#[test]
fn command_set_page_size_and_arbitration_do_not_change_while_enabled() {
    let registers = running();
    assert_eq!(set_cc(&registers, Cc::from_bits(ENABLED.into_bits() | CC_MODE)), None);
    assert_eq!(cc(&registers), ENABLED);
}

#[test]
fn entry_sizes_change_while_enabled() {
    let registers = running();
    assert_eq!(set_cc(&registers, EN.with_iosqes(7).with_iocqes(10)), None);
    assert_eq!(registers.entry_sizes(), EntrySizes { iosqes: 7, iocqes: 10 });
}

#[test]
fn a_shutdown_is_occurring_until_it_is_complete() {
    for (notification, abrupt) in [(NORMAL, false), (ABRUPT, true)] {
        let registers = running();
        let asked = ENABLED.with_shn(notification);
        assert_eq!(set_cc(&registers, asked), Some(RegEffect::Shutdown { abrupt }));
        assert_eq!(shst(&registers), ShutdownStatus::OCCURRING);
        assert_eq!(set_cc(&registers, asked), None, "asked for already");
        registers.set_shutdown_complete();
        assert_eq!(shst(&registers), ShutdownStatus::COMPLETE);
        assert_eq!(set_cc(&registers, SIZES), DISABLE);
        registers.reset_done();
        assert_eq!(csts(&registers), Csts::new());
    }
}

#[test]
fn a_shutdown_that_becomes_abrupt_is_told_again() {
    let registers = running();
    assert_eq!(set_cc(&registers, EN.with_shn(NORMAL)), Some(RegEffect::Shutdown { abrupt: false }));
    assert_eq!(set_cc(&registers, EN.with_shn(ABRUPT)), Some(RegEffect::Shutdown { abrupt: true }));
    assert_eq!(shst(&registers), ShutdownStatus::OCCURRING);
}

#[test]
fn the_reserved_shutdown_value_does_nothing() {
    let registers = running();
    assert_eq!(set_cc(&registers, EN.with_shn(ShutdownNotification(0b11))), None);
    assert_eq!(shst(&registers), ShutdownStatus::NORMAL);
}

#[test]
fn a_shutdown_that_ends_late_does_not_touch_the_next_life() {
    let registers = running();
    assert!(set_cc(&registers, EN.with_shn(NORMAL)).is_some());
    assert_eq!(set_cc(&registers, Cc::new()), DISABLE);
    registers.set_shutdown_complete();
    registers.reset_done();
    assert!(matches!(set_cc(&registers, EN), Some(RegEffect::Enable(_))));
    assert_eq!(csts(&registers), Csts::new());
}

#[test]
fn a_shutdown_of_a_disabled_controller_is_complete_at_once() {
    let registers = with_admin_queue();
    assert_eq!(set_cc(&registers, Cc::new().with_shn(NORMAL)), None);
    assert_eq!(shst(&registers), ShutdownStatus::COMPLETE);
    assert!(matches!(set_cc(&registers, EN), Some(RegEffect::Enable(_))));
    assert_eq!(shst(&registers), ShutdownStatus::NORMAL);
}

#[test]
fn a_shutdown_with_a_reset_is_occurring_until_the_admin_worker_has_carried_both_out() {
    let both_at_once = |registers: &Registers| assert_eq!(set_cc(registers, Cc::new().with_shn(NORMAL)), DISABLE);
    let one_after_the_other = |registers: &Registers| {
        assert_eq!((set_cc(registers, Cc::new()), set_cc(registers, Cc::new().with_shn(NORMAL))), (DISABLE, None));
    };
    let ways: [&dyn Fn(&Registers); 2] = [&both_at_once, &one_after_the_other];
    for ask in ways {
        let registers = running();
        ask(&registers);
        assert_eq!(csts(&registers), READY.with_shst(ShutdownStatus::OCCURRING));
        registers.reset_done();
        let occurring = Csts::new().with_shst(ShutdownStatus::OCCURRING);
        assert_eq!((csts(&registers), registers.shutdown_is_occurring()), (occurring, true));
        registers.set_shutdown_complete();
        assert_eq!(csts(&registers), Csts::new().with_shst(ShutdownStatus::COMPLETE));
        assert!(matches!(set_cc(&registers, EN), Some(RegEffect::Enable(_))));
        assert_eq!((csts(&registers), registers.shutdown_is_occurring()), (Csts::new(), false));
    }
}

#[test]
fn enabling_drops_a_shutdown_notification() {
    let registers = with_admin_queue();
    assert!(matches!(set_cc(&registers, EN.with_shn(NORMAL)), Some(RegEffect::Enable(_))));
    assert_eq!((cc(&registers), shst(&registers)), (EN, ShutdownStatus::NORMAL));
}

#[test]
fn a_function_reset_clears_all_but_ready_until_the_admin_worker_is_done() {
    let registers = running();
    assert_eq!(set(&registers, INTMS, 1), None);
    assert_eq!(registers.function_reset(), RegEffect::Disable);
    for at in [INTMS, CC, AQA, ASQ, ASQ_HIGH, ACQ, ACQ_HIGH] {
        assert_eq!(get(&registers, at), 0, "at {at:#x}");
    }
    assert_eq!(csts(&registers), READY);
    registers.reset_done();
    assert_eq!(csts(&registers), Csts::new());
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
    let [low, next, sizes, _] = ENABLED.into_bits().to_le_bytes();
    assert_eq!(registers.write(CC + 2, &[sizes]), None);
    assert!(matches!(registers.write(CC, &[low, next]), Some(RegEffect::Enable(_))));
    assert_eq!(cc(&registers), ENABLED);
    let with_neighbour = u64::from(SIZES.into_bits()) << 32;
    assert_eq!(registers.write(CC - 4, &with_neighbour.to_le_bytes()), DISABLE);
}

#[test]
fn reserved_registers_and_bits_read_zero() {
    let registers = running();
    let _ = registers.write(Register::CMBLOC.offset(), &[0xff; END]);
    for at in (Register::CMBLOC.offset()..CRTO).chain(CRTO + 4..END).step_by(4) {
        assert_eq!(get(&registers, at), 0, "at {at:#x}");
    }
    assert_eq!(set_cc(&registers, Cc::from_bits(0xff00_000f)), None);
    assert_eq!(cc(&registers), EN);
    assert_eq!(set(&registers, NSSR, u32::from_be_bytes(*b"NVMe")), None, "no subsystem reset by NSSR");
    assert_eq!(get(&registers, NSSR), 0);
}

#[test]
fn an_access_past_the_end_reads_zero_and_does_nothing() {
    let registers = running();
    let mut bytes = [0xaa; 8];
    registers.read(END - 2, &mut bytes);
    assert_eq!(bytes, [0; 8]);
    registers.read(usize::MAX, &mut bytes);
    assert_eq!(bytes, [0; 8]);
    assert_eq!(registers.write(usize::MAX, &[0xff; 8]), None);
}

fn access() -> impl Strategy<Value = (usize, Vec<u8>)> {
    let shutdown = Cc::new().with_shn(NORMAL);
    let all_sets = EN.with_css(CommandSetSelected::ALL);
    let modes = vec![Cc::new(), EN, EN, ENABLED, EN.with_shn(NORMAL), EN.with_shn(ABRUPT), shutdown, all_sets];
    let cc = proptest::sample::select(modes).prop_map(|cc| (CC, cc.into_bits().to_le_bytes().to_vec()));
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
            prop_assert_eq!(csts(&registers).with_cfs(false).with_shst(ShutdownStatus::NORMAL), Csts::new(), "ready is the admin worker's to say");
            prop_assert!(shst(&registers).name().is_some());
        }
    }

    #[test]
    fn a_read_of_any_length_is_the_bytes_of_the_registers((offset, data) in access(), len in 0usize..64) {
        let registers = running();
        let _ = registers.write(offset, &data);
        let mut image = vec![0; END];
        registers.read(0, &mut image);
        let mut bytes = vec![0xaa; len];
        registers.read(offset, &mut bytes);
        for (i, byte) in bytes.into_iter().enumerate() {
            prop_assert_eq!(byte, offset.checked_add(i).and_then(|at| image.get(at)).copied().unwrap_or(0));
        }
    }
}
