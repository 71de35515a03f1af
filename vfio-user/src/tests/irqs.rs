//! `DEVICE_SET_IRQS`.

use std::os::fd::OwnedFd;

use super::{Harness, is_closed, pair};
use crate::{Event, IrqAction, IrqData, IrqKind, IrqRequest, client, command};

const NONE: u32 = 1;
const BOOL: u32 = 2;
const EVENTFD: u32 = 4;
const MASK: u32 = 8;
const UNMASK: u32 = 16;
const TRIGGER: u32 = 32;
const PIN: u32 = 0;
const MSIX: u32 = 2;

fn files(count: usize) -> Vec<OwnedFd> {
    (0..count).map(|_| pair().1.into()).collect()
}

fn asked(harness: &mut Harness) -> IrqRequest {
    let Event::SetIrqs(token, request) = harness.event() else { panic!("it is about interrupts") };
    harness.session.reply(token, Ok(()));
    let reply = harness.drain().remove(0);
    assert_eq!((reply.command, reply.error, reply.payload.len()), (command::DEVICE_SET_IRQS, None, 0));
    request
}

#[test]
fn eventfds_are_given_to_their_vectors() {
    let mut harness = Harness::new();
    harness.send(&client::set_irqs(1, MSIX, EVENTFD | TRIGGER, 3, 2, &[]), files(2));
    let request = asked(&mut harness);
    assert_eq!((request.action, request.start, request.count), (IrqAction::Trigger, 3, 2));
    let IrqData::Eventfds(eventfds) = request.data else { panic!("there are eventfds") };
    assert_eq!(eventfds.iter().flatten().count(), 2);
}

/// As cloud-hypervisor does it.
#[test]
fn eventfds_of_all_vectors_may_come_in_one_message() {
    let mut harness = Harness::new();
    let message = client::set_irqs(1, MSIX, EVENTFD | TRIGGER, 0, 129, &[]);
    harness.send(&message[..1], files(129));
    assert!(harness.session.wants_input(), "the rest of the message is wanted");
    harness.send(&message[1..], Vec::new());
    let IrqData::Eventfds(eventfds) = asked(&mut harness).data else { panic!("there are eventfds") };
    assert_eq!(eventfds.iter().flatten().count(), 129);
}

#[test]
fn eventfds_are_taken_away_by_a_message_without_any() {
    let mut harness = Harness::new();
    harness.send(&client::set_irqs(1, MSIX, EVENTFD | TRIGGER, 1, 3, &[]), Vec::new());
    let IrqData::Eventfds(eventfds) = asked(&mut harness).data else { panic!("there are eventfds") };
    assert!(eventfds.len() == 3 && eventfds.iter().all(Option::is_none));
}

#[test]
fn all_interrupts_are_disabled_by_a_count_of_0() {
    let mut harness = Harness::new();
    harness.send(&client::set_irqs(1, MSIX, NONE | TRIGGER, 0, 0, &[]), Vec::new());
    let request = asked(&mut harness);
    assert_eq!((request.action, request.start, request.count), (IrqAction::Trigger, 0, 0));
    assert!(matches!(request.data, IrqData::None));
    // There are no interrupts by MSI to be disabled.
    assert_eq!(harness.ask(&client::set_irqs(1, 1, NONE | TRIGGER, 0, 0, &[])).error, None);
}

#[test]
fn the_pin_has_one_eventfd_to_raise_it_and_one_to_unmask_it() {
    let mut harness = Harness::new();
    for (action, flag) in [(IrqAction::Trigger, TRIGGER), (IrqAction::Unmask, UNMASK)] {
        harness.send(&client::set_irqs(1, PIN, EVENTFD | flag, 0, 1, &[]), files(1));
        let request = asked(&mut harness);
        assert_eq!((request.kind, request.action, request.count), (IrqKind::Pin, action, 1));
        assert!(matches!(request.data, IrqData::Eventfds(files) if files.iter().flatten().count() == 1));
    }
    for (action, flag) in [(IrqAction::Mask, MASK), (IrqAction::Unmask, UNMASK), (IrqAction::Trigger, TRIGGER)] {
        harness.send(&client::set_irqs(1, PIN, NONE | flag, 0, 1, &[]), Vec::new());
        let request = asked(&mut harness);
        assert_eq!((request.kind, request.action), (IrqKind::Pin, action));
    }
    harness.send(&client::set_irqs(1, PIN, NONE | TRIGGER, 0, 0, &[]), Vec::new());
    let request = asked(&mut harness);
    assert_eq!((request.kind, request.action, request.count), (IrqKind::Pin, IrqAction::Trigger, 0));
    assert_eq!(harness.refused(&client::set_irqs(1, PIN, NONE | TRIGGER, 0, 2, &[])), libc::EINVAL);
    let (probe, file) = pair();
    let message = client::set_irqs(1, PIN, EVENTFD | MASK, 0, 1, &[]);
    assert_eq!(harness.refused_with(&message, vec![file.into()]), libc::ENOTSUP);
    assert!(is_closed(&probe));
}

#[test]
fn vectors_are_masked_and_triggered_by_range_and_by_booleans() {
    let mut harness = Harness::new();
    for (action, flag) in [(IrqAction::Mask, MASK), (IrqAction::Unmask, UNMASK), (IrqAction::Trigger, TRIGGER)] {
        harness.send(&client::set_irqs(1, MSIX, NONE | flag, 128, 1, &[]), Vec::new());
        let request = asked(&mut harness);
        assert_eq!((request.action, request.start, request.count), (action, 128, 1));
        harness.send(&client::set_irqs(1, MSIX, BOOL | flag, 0, 3, &[0, 1, 7]), Vec::new());
        let IrqData::Bools(bools) = asked(&mut harness).data else { panic!("there are booleans") };
        assert_eq!(bools, [false, true, true]);
    }
}

#[test]
fn eventfds_for_masking_are_not_supported() {
    let mut harness = Harness::new();
    for flag in [MASK, UNMASK] {
        let message = client::set_irqs(1, MSIX, EVENTFD | flag, 0, 1, &[]);
        assert_eq!(harness.refused_with(&message, files(1)), libc::ENOTSUP);
    }
}

#[test]
fn vectors_that_are_not_there_are_refused() {
    let mut harness = Harness::new();
    let bad = [(MSIX, 129, 1), (MSIX, 0, 130), (MSIX, 1, 129), (MSIX, u32::MAX, 2), (MSIX, 1, u32::MAX), (PIN, 1, 1)];
    for (index, start, count) in bad.into_iter().chain([(1, 0, 1), (3, 0, 1), (5, 0, 0), (u32::MAX, 0, 1)]) {
        assert_eq!(harness.refused(&client::set_irqs(1, index, NONE | TRIGGER, start, count, &[])), libc::EINVAL);
    }
}

#[test]
fn flags_that_do_not_go_together_are_refused() {
    let mut harness = Harness::new();
    let bad =
        [0, NONE, TRIGGER, NONE | BOOL | TRIGGER, NONE | MASK | TRIGGER, NONE | TRIGGER | 64, BOOL | EVENTFD | MASK];
    for flags in bad {
        assert_eq!(harness.refused(&client::set_irqs(1, MSIX, flags, 0, 1, &[])), libc::EINVAL, "{flags:#x}");
    }
    for (flags, start) in [(NONE | MASK, 0), (NONE | TRIGGER, 1), (EVENTFD | TRIGGER, 0), (BOOL | TRIGGER, 0)] {
        assert_eq!(harness.refused(&client::set_irqs(1, MSIX, flags, start, 0, &[])), libc::EINVAL, "{flags:#x}");
    }
}

#[test]
fn data_that_is_not_of_the_count_is_refused_and_files_are_closed() {
    let mut harness = Harness::new();
    for bools in [&[][..], &[1], &[1, 0, 1]] {
        assert_eq!(harness.refused(&client::set_irqs(1, MSIX, BOOL | TRIGGER, 0, 2, bools)), libc::EINVAL);
    }
    for (flags, count) in [(EVENTFD | TRIGGER, 2), (EVENTFD | TRIGGER, 0), (NONE | TRIGGER, 1), (BOOL | MASK, 0)] {
        let (probe, file) = pair();
        let message = client::set_irqs(1, MSIX, flags, 0, count, &[]);
        assert_eq!(harness.refused_with(&message, vec![file.into()]), libc::EINVAL);
        assert!(is_closed(&probe));
    }
    let mut small = client::set_irqs(1, MSIX, NONE | TRIGGER, 0, 1, &[]);
    small[16] = 19;
    assert_eq!(harness.refused(&small), libc::EINVAL);
    assert_eq!(harness.refused(&client::command(1, command::DEVICE_SET_IRQS, &[0; 19])), libc::EINVAL);
}
