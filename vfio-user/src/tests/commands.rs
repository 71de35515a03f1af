//! What the device is made of, reset, and commands that are not there.

use std::sync::Arc;

use super::{CAPABILITIES, Harness, is_closed, pair, u32_at, u64_at};
use crate::info::CONFIG_REGION;
use crate::{Event, client, command};

#[test]
fn the_device_is_a_pci_device_that_can_be_reset() {
    let reply = Harness::new().ask(&client::device_info(7));
    assert_eq!((reply.msg_id, reply.command, reply.is_reply), (7, command::DEVICE_GET_INFO, true));
    let fields: Vec<u32> = (0..4).map(|field| u32_at(&reply.payload, 4 * field)).collect();
    assert_eq!(fields, [16, 3, 9, 5]);
}

#[test]
fn too_little_room_for_an_info_is_refused() {
    let mut harness = Harness::new();
    for message in [client::device_info(1), client::irq_info(1, 2), client::region_io_fds(1, 0)] {
        let mut small = message.clone();
        small[16] = 15;
        assert_eq!(harness.refused(&small), libc::EINVAL);
        let mut short = message[..message.len() - 1].to_vec();
        short[4] -= 1;
        assert_eq!(harness.refused(&short), libc::EINVAL);
    }
    assert_eq!(harness.refused(&client::region_info(1, 0, 31)), libc::EINVAL);
}

#[test]
fn bar0_has_a_sparse_capability_and_the_file_of_the_doorbells() {
    let mut harness = Harness::new();
    harness.send(&client::region_info(3, 0, 64), Vec::new());
    assert!(harness.next().expect("it goes on").is_none());
    let chunk = harness.session.output().expect("there is a reply");
    assert_eq!(chunk.fds.len(), 1);
    assert!(Arc::ptr_eq(&chunk.fds[0], &harness.device.doorbells));
    let (reply, _) = client::decode(chunk.bytes).expect("it is whole");
    let info = &reply.payload;
    assert_eq!(info.len(), 64);
    let fields: Vec<u32> = (0..4).map(|field| u32_at(info, 4 * field)).collect();
    assert_eq!(fields, [64, 0b1111, 0, 32], "argsz, flags, index, cap_offset");
    assert_eq!((u64_at(info, 16), u64_at(info, 24)), (0x4000, 0), "size, offset");
    assert_eq!((u32_at(info, 32), u32_at(info, 36)), (1 | 1 << 16, 0), "id and version, next");
    assert_eq!((u32_at(info, 40), u64_at(info, 48), u64_at(info, 56)), (1, 0x1000, 0x1000), "areas, offset, size");
}

#[test]
fn file_descriptors_go_with_the_first_byte_only() {
    let mut harness = Harness::new();
    harness.send(&client::region_info(3, 0, 64), Vec::new());
    assert!(harness.next().expect("it goes on").is_none());
    let whole = harness.session.output().expect("there is a reply").bytes.to_vec();
    harness.session.sent(1);
    let rest = harness.session.output().expect("there is a rest");
    assert_eq!((rest.bytes, rest.fds.len()), (&whole[1..], 0));
    harness.session.sent(whole.len() - 1);
    assert!(harness.session.output().is_none());
}

#[test]
fn bar0_without_room_for_the_capability_tells_the_size_and_keeps_the_file() {
    let mut harness = Harness::new();
    harness.send(&client::region_info(3, 0, 63), Vec::new());
    assert!(harness.next().expect("it goes on").is_none());
    assert!(harness.session.output().expect("there is a reply").fds.is_empty());
    let reply = harness.drain().remove(0);
    assert_eq!(reply.payload.len(), 32);
    assert_eq!((u32_at(&reply.payload, 0), u32_at(&reply.payload, 4), u32_at(&reply.payload, 12)), (64, 0b11, 0));
}

#[test]
fn a_client_that_takes_no_file_descriptors_cannot_map() {
    let mut harness = Harness::negotiated(r#"{"capabilities":{"max_msg_fds":0}}"#);
    let reply = harness.ask(&client::region_info(3, 0, 4096));
    assert_eq!((reply.payload.len(), u32_at(&reply.payload, 0), u32_at(&reply.payload, 4)), (32, 32, 0b11));
}

/// As SPDK's client does: it sends as many bytes as it has room for.
#[test]
fn a_region_info_with_bytes_behind_it_is_answered() {
    let mut payload = client::region_info(3, CONFIG_REGION, 4064)[16..].to_vec();
    payload.resize(4064, 0);
    let reply = Harness::new().ask(&client::command(3, command::DEVICE_GET_REGION_INFO, &payload));
    assert_eq!((reply.payload.len(), u32_at(&reply.payload, 4), u64_at(&reply.payload, 16)), (32, 0b11, 4096));
}

#[test]
fn other_regions_are_empty_and_others_are_not_there() {
    let mut harness = Harness::new();
    for index in [1, 2, 3, 4, 5, 6, 8] {
        let reply = harness.ask(&client::region_info(3, index, 64));
        assert_eq!((u32_at(&reply.payload, 0), u32_at(&reply.payload, 4), u64_at(&reply.payload, 16)), (32, 0, 0));
    }
    for index in [9, u32::MAX] {
        assert_eq!(harness.refused(&client::region_info(3, index, 64)), libc::EINVAL);
        assert_eq!(harness.refused(&client::region_io_fds(3, index)), libc::EINVAL);
    }
}

#[test]
fn a_region_has_no_io_file_descriptors() {
    let mut harness = Harness::new();
    let reply = harness.ask(&client::region_io_fds(3, 0));
    assert_eq!((reply.payload.len(), u32_at(&reply.payload, 0), u32_at(&reply.payload, 12)), (16, 16, 0));
    let mut counted = client::region_io_fds(3, 0);
    counted[28] = 1;
    assert_eq!(harness.refused(&counted), libc::EINVAL);
}

#[test]
fn there_are_msix_interrupts_by_eventfd_and_a_pin_that_is_masked_when_it_is_raised() {
    let mut harness = Harness::new();
    for (index, flags, count) in [(0, 7, 1), (1, 0, 0), (2, 1, 129), (3, 0, 0), (4, 0, 0)] {
        let reply = harness.ask(&client::irq_info(3, index));
        let fields: Vec<u32> = (0..4).map(|field| u32_at(&reply.payload, 4 * field)).collect();
        assert_eq!(fields, [16, flags, index, count]);
    }
    assert_eq!(harness.refused(&client::irq_info(3, 5)), libc::EINVAL);
}

#[test]
fn a_reset_waits_for_its_answer() {
    let mut harness = Harness::new();
    harness.send(&client::reset(9), Vec::new());
    let Event::Reset(token) = harness.event() else { panic!("it is a reset") };
    assert!(harness.session.output().is_none());
    harness.session.reply(token, Ok(()));
    let reply = harness.drain().remove(0);
    assert_eq!((reply.msg_id, reply.command, reply.error, reply.payload.len()), (9, command::DEVICE_RESET, None, 0));
    assert_eq!(harness.refused(&client::command(9, command::DEVICE_RESET, &[0])), libc::EINVAL);
}

#[test]
fn a_write_to_configuration_space_that_takes_time_waits_for_its_answer() {
    let mut harness = Harness::new();
    let late = super::LATE as u64;
    harness.send(&client::region_write(9, CONFIG_REGION, late, &[1, 2]), Vec::new());
    let Event::ConfigWritten(token) = harness.event() else { panic!("it takes time") };
    harness.send(&client::region_write_multi(10, &[(CONFIG_REGION, late, &[1]), (0, 0, &[2])]), Vec::new());
    let Event::ConfigWritten(other) = harness.event() else { panic!("it takes time") };
    assert!(harness.session.output().is_none());
    harness.session.reply(other, Ok(()));
    harness.session.reply(token, Ok(()));
    let replies = harness.drain();
    assert_eq!((replies[0].msg_id, &replies[0].payload[..]), (10, &2_u64.to_le_bytes()[..]));
    let repeated = client::region_write(9, CONFIG_REGION, late, &[1, 2])[16..32].to_vec();
    assert_eq!((replies[1].msg_id, replies[1].error, &replies[1].payload), (9, None, &repeated));
}

#[test]
fn an_answer_may_be_an_error_and_always_tells_one() {
    for (errno, told) in [(libc::EBUSY, libc::EBUSY), (0, libc::EIO), (-1, libc::EIO)] {
        let mut harness = Harness::new();
        harness.send(&client::reset(9), Vec::new());
        let Event::Reset(token) = harness.event() else { panic!("it is a reset") };
        harness.session.reply(token, Err(errno));
        assert_eq!(harness.drain()[0].error, Some(told.unsigned_abs()));
    }
}

#[test]
fn a_token_of_another_session_is_ignored() {
    let (mut old, mut new) = (Harness::new(), Harness::new());
    old.send(&client::reset(9), Vec::new());
    let Event::Reset(token) = old.event() else { panic!("it is a reset") };
    new.session.reply(token, Ok(()));
    assert!(new.session.output().is_none());
}

#[test]
fn what_is_not_there_is_not_supported() {
    let mut harness = Harness::new();
    // Commands of the server's, dirty pages, migration, and numbers that are no commands.
    for command in [command::DMA_READ, command::DMA_WRITE, 14, 16, 17, 18, 0, 19, u16::MAX] {
        assert_eq!(harness.refused(&client::command(1, command, &[0; 64])), libc::ENOTSUP, "{command}");
    }
}

#[test]
fn no_reply_is_honoured_in_success_and_error() {
    let mut harness = Harness::new();
    harness.send(&client::no_reply(client::device_info(1)), Vec::new());
    harness.send(&client::no_reply(client::region_info(1, 99, 64)), Vec::new());
    harness.send(&client::no_reply(client::reset(1)), Vec::new());
    let Event::Reset(token) = harness.event() else { panic!("it is a reset") };
    harness.session.reply(token, Err(libc::EBUSY));
    assert!(harness.next().expect("it goes on").is_none());
    assert!(harness.session.output().is_none());
}

#[test]
fn file_descriptors_that_a_command_does_not_want_are_closed() {
    let mut harness = Harness::new();
    for message in [client::device_info(1), client::version(1, 0, CAPABILITIES), client::command(1, 99, &[])] {
        let (probe, file) = pair();
        harness.ask_with(&message, vec![file.into()]);
        assert!(is_closed(&probe));
    }
}
