use proptest::prelude::*;

use super::*;

fn space() -> ConfigSpace {
    ConfigSpace::new(&PciIdentity::default(), 129)
}

fn dword(space: &ConfigSpace, at: usize) -> u32 {
    let mut bytes = [0; 4];
    space.read(at, &mut bytes);
    u32::from_le_bytes(bytes)
}

fn image(space: &ConfigSpace) -> Vec<u8> {
    let mut image = vec![0; CONFIG_SIZE];
    space.read(0, &mut image);
    image
}

/// Returns the capabilities as Linux finds them: at most 48 steps, and the low two bits of a pointer do not count.
fn capabilities(space: &ConfigSpace) -> Vec<(u8, usize)> {
    let mut found = Vec::new();
    let mut at = (dword(space, CAPABILITIES) & 0xfc) as usize;
    while at >= 0x40 && found.len() < 48 {
        let header = dword(space, at).to_le_bytes();
        found.push((header[0], at));
        at = usize::from(header[1] & 0xfc);
    }
    found
}

#[test]
fn the_header_is_that_of_an_nvme_controller() {
    let identity = PciIdentity { vendor: 1, device: 2, subsystem_vendor: 3, subsystem: 4, revision: 5 };
    let space = ConfigSpace::new(&identity, 1);
    assert_eq!(dword(&space, VENDOR), 0x0002_0001);
    assert_eq!(dword(&space, COMMAND), 0x0010_0000);
    assert_eq!(dword(&space, REVISION), 0x0108_0205);
    assert_eq!(dword(&space, 0x0c), 0, "a type 0 header of a single function");
    assert_eq!(dword(&space, SUBSYSTEM_VENDOR), 0x0004_0003);
    assert_eq!(dword(&space, 0x30), 0, "no expansion ROM");
    assert_eq!(dword(&space, INTERRUPT_LINE), 0x0100, "INTA#");
    assert_eq!(dword(&space, 0x100), 0, "no extended capability");
}

#[test]
fn a_walk_over_the_capabilities_finds_all_and_ends() {
    assert_eq!(capabilities(&space()), [(PM_ID, PM), (MSIX_ID, MSIX), (EXPRESS_ID, EXPRESS)]);
}

#[test]
fn bar0_is_sized_by_writing_ones() {
    let mut space = space();
    assert_eq!(space.write(BAR0, &[0xff; 24]), PciEffects::default());
    assert_eq!(dword(&space, BAR0), 0xffff_c004);
    assert_eq!(dword(&space, BAR0_HIGH), u32::MAX);
    for other in [0x18, 0x1c, 0x20, 0x24] {
        assert_eq!(dword(&space, other), 0, "BAR at {other:#x}");
    }
    let base = u64::from(dword(&space, BAR0) & !0xf) | u64::from(dword(&space, BAR0_HIGH)) << 32;
    assert_eq!((!base).wrapping_add(1), BAR0_SIZE as u64);
}

#[test]
fn bar0_keeps_an_address_that_is_written_in_two_halves() {
    let mut space = space();
    assert_eq!(space.write(BAR0, &0xfebf_0000u32.to_le_bytes()), PciEffects::default());
    assert_eq!(space.write(BAR0_HIGH, &0x38u32.to_le_bytes()), PciEffects::default());
    assert_eq!((dword(&space, BAR0), dword(&space, BAR0_HIGH)), (0xfebf_0004, 0x38));
}

#[test]
fn bus_mastering_is_told_when_it_changes() {
    let mut space = space();
    assert!(!space.bus_master());
    assert_eq!(space.write(COMMAND, &[0x06, 0x04]).bus_master, Some(true));
    assert_eq!(space.write(COMMAND, &[0x06]).bus_master, None);
    assert_eq!(dword(&space, COMMAND) & 0xffff, 0x0406);
    assert_eq!(space.write(COMMAND, &[0x00]).bus_master, Some(false));
}

#[test]
fn memory_may_be_accessed_in_d0_by_a_bus_master_only() {
    let mut space = space();
    for (command, state, may) in [(0, 0, false), (4, 0, true), (4, 3, false), (0, 3, false), (4, 0, true)] {
        let _ = space.write(COMMAND, &[command]);
        let _ = space.write(PMCSR, &[state]);
        assert_eq!(space.may_access_memory(), may, "command {command}, power state {state}");
    }
}

#[test]
fn the_pin_can_be_disabled_and_its_status_is_read_only() {
    let mut space = space();
    assert!(!space.pin_disabled());
    let _ = space.write(COMMAND, &[0, 4]);
    assert!(space.pin_disabled());
    for pending in [true, false] {
        space.set_interrupt_status(pending);
        let _ = space.write(STATUS, &[0xff; 2]);
        assert_eq!(dword(&space, COMMAND) >> 16, 0x10 | u32::from(pending) << 3);
    }
}

#[test]
fn the_msix_capability_names_table_and_pending_bits() {
    let space = space();
    assert_eq!(space.vectors(), 129);
    assert_eq!(dword(&space, MSIX) >> 16, 128);
    assert_eq!(dword(&space, MSIX_TABLE_OFFSET), 0x2000);
    assert_eq!(dword(&space, MSIX_PBA_OFFSET), 0x3000);
}

#[test]
fn a_number_of_vectors_that_cannot_be_is_held_to_the_table() {
    assert_eq!(dword(&ConfigSpace::new(&PciIdentity::default(), 0), MSIX) >> 16, 0);
    assert_eq!(dword(&ConfigSpace::new(&PciIdentity::default(), u16::MAX), MSIX) >> 16, 255);
}

#[test]
fn msix_is_enabled_and_masked_by_the_upper_bits_of_its_control() {
    let mut space = space();
    let control = |enabled, function_masked| Some(MsixControl { enabled, function_masked });
    assert_eq!(space.write(MSIX_CONTROL, &0xffff_u16.to_le_bytes()).msix, control(true, true));
    assert_eq!(dword(&space, MSIX) >> 16, 0xc080, "the table size is read-only");
    assert_eq!(space.write(MSIX_CONTROL + 1, &[0x80]).msix, control(true, false));
    assert_eq!(Some(space.msix()), control(true, false));
    assert_eq!(space.write(MSIX_CONTROL, &[0xff]).msix, None);
}

#[test]
fn the_power_state_goes_to_d3hot_and_back_without_a_reset() {
    let mut space = space();
    assert_eq!(space.write(PMCSR, &[3, 0]).power_state, Some(PowerState::D3hot));
    assert_eq!(dword(&space, PMCSR), 0xb, "no soft reset");
    assert_eq!(space.write(PMCSR, &[0, 0]).power_state, Some(PowerState::D0));
}

#[test]
fn a_power_state_that_the_function_lacks_is_discarded() {
    let mut space = space();
    for lacking in [1, 2] {
        assert_eq!(space.write(PMCSR, &[lacking]), PciEffects::default());
        assert_eq!(dword(&space, PMCSR), 8);
    }
}

#[test]
fn a_function_reset_is_told_and_its_bit_reads_zero() {
    let mut space = space();
    let control = space.word(DEVICE_CONTROL) | 1 << 15;
    assert!(space.write(DEVICE_CONTROL, &control.to_le_bytes()).function_reset);
    assert_eq!(dword(&space, DEVICE_CONTROL) & 0x8000, 0);
    assert!(space.write(DEVICE_CONTROL + 1, &[0x80]).function_reset);
    assert!(!space.write(DEVICE_CONTROL, &[0x80]).function_reset, "the lower byte has another bit 7");
    assert_ne!(dword(&space, DEVICE_CAPABILITIES) & 1 << 28, 0, "capable of it");
}

#[test]
fn a_reset_keeps_only_what_belongs_to_the_link() {
    let mut space = space();
    let fresh = image(&space);
    let _ = space.write(0, &[0xff; CONFIG_SIZE]);
    space.reset();
    assert_eq!(dword(&space, LINK_CONTROL) & 0xffff, LINK_CONTROL_WRITABLE);
    let _ = space.write(LINK_CONTROL, &[0, 0]);
    assert_eq!(image(&space), fresh);
}

#[test]
fn reads_past_the_end_are_ones_and_writes_are_dropped() {
    let mut space = space();
    assert_eq!(space.write(CONFIG_SIZE - 2, &[0; 8]), PciEffects::default());
    assert_eq!(space.write(usize::MAX, &[0xff; 8]), PciEffects::default());
    let mut bytes = [0xaa; 8];
    space.read(CONFIG_SIZE - 2, &mut bytes);
    assert_eq!(bytes, [0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    space.read(usize::MAX, &mut bytes);
    assert_eq!(bytes, [0xff; 8]);
}

proptest! {
    #[test]
    fn no_sequence_of_writes_changes_a_read_only_bit(
        writes in proptest::collection::vec(
            (
                prop_oneof![0usize..0xa0, 0usize..CONFIG_SIZE + 8, any::<usize>()],
                proptest::collection::vec(any::<u8>(), 0..40),
            ),
            0..24,
        ),
    ) {
        let mut space = space();
        let fresh = image(&space);
        for (offset, data) in &writes {
            let effects = space.write(*offset, data);
            prop_assert!(effects.bus_master.is_none_or(|now| now == space.bus_master()));
            prop_assert!(effects.msix.is_none_or(|now| now == space.msix()));
        }
        for (at, (now, fresh)) in image(&space).into_iter().zip(fresh).enumerate() {
            prop_assert_eq!(now & !writable(at), fresh & !writable(at), "at {:#x}", at);
        }
        prop_assert_eq!(capabilities(&space).len(), 3);
    }

    #[test]
    fn a_read_of_any_length_is_the_bytes_of_the_image(offset in 0usize..CONFIG_SIZE + 8, len in 0usize..CONFIG_SIZE) {
        let space = space();
        let mut padded = image(&space);
        padded.resize(2 * CONFIG_SIZE + 8, 0xff);
        let mut bytes = vec![0xaa; len];
        space.read(offset, &mut bytes);
        prop_assert_eq!(&bytes[..], &padded[offset..offset + len]);
    }
}
