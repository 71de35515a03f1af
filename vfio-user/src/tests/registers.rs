//! Accesses to regions.

use super::{Access, Harness, u32_at, u64_at};
use crate::info::CONFIG_REGION;
use crate::{ProtocolError, client, command};

#[test]
fn a_read_repeats_the_request_and_has_the_data() {
    let mut harness = Harness::new();
    let reply = harness.ask(&client::region_read(5, 0, 0x14, 4));
    assert_eq!((reply.msg_id, reply.command, reply.error), (5, command::REGION_READ, None));
    assert_eq!((u64_at(&reply.payload, 0), u32_at(&reply.payload, 8), u32_at(&reply.payload, 12)), (0x14, 0, 4));
    assert_eq!(reply.payload[16..], [0x14, 0x15, 0x16, 0x17]);
    let reply = harness.ask(&client::region_read(6, CONFIG_REGION, 0, 4096));
    assert_eq!(reply.payload[16..], [0xc0; 4096]);
    assert_eq!(harness.device.seen, [Access::BarRead(0x14, 4), Access::ConfigRead(0, 4096)]);
}

#[test]
fn a_write_repeats_the_request_without_the_data() {
    let mut harness = Harness::new();
    let reply = harness.ask(&client::region_write(5, CONFIG_REGION, 4, &[6, 0]));
    assert_eq!((u64_at(&reply.payload, 0), u32_at(&reply.payload, 8), u32_at(&reply.payload, 12)), (4, 7, 2));
    assert_eq!(reply.payload.len(), 16);
    harness.ask(&client::region_write(5, 0, 0x3fff, &[9]));
    assert_eq!(harness.device.seen, [Access::ConfigWrite(4, vec![6, 0]), Access::BarWrite(0x3fff, vec![9])]);
}

#[test]
fn odd_accesses_are_the_devices_to_decide() {
    let mut harness = Harness::new();
    harness.ask(&client::region_read(5, 0, 1, 7));
    harness.ask(&client::region_write(5, 0, 0xfff, &[1, 2, 3]));
    assert_eq!(harness.device.seen, [Access::BarRead(1, 7), Access::BarWrite(0xfff, vec![1, 2, 3])]);
}

#[test]
fn an_access_out_of_its_region_is_refused() {
    let mut harness = Harness::new();
    let bad = [(0, 0x4000, 1), (0, 0x3fff, 2), (0, 0, 0x4001), (0, 0, 0), (0, u64::MAX, 1), (0, u64::MAX - 3, 4)];
    for (region, offset, count) in bad.into_iter().chain([(7, 4096, 1), (7, 0, 4097), (1, 0, 1), (8, 0, 4), (9, 0, 1)])
    {
        assert_eq!(harness.refused(&client::region_read(5, region, offset, count)), libc::EINVAL);
        let data = vec![0; count as usize];
        assert_eq!(harness.refused(&client::region_write(5, region, offset, &data)), libc::EINVAL);
    }
    assert!(harness.device.seen.is_empty());
}

#[test]
fn an_access_of_more_than_the_limit_is_refused() {
    let mut harness = Harness::new();
    assert_eq!(harness.refused(&client::region_read(5, 0, 0, (1 << 20) + 1)), libc::E2BIG);
    assert_eq!(harness.refused(&client::region_read(5, 0, 0, u32::MAX)), libc::E2BIG);
}

#[test]
fn a_write_whose_data_is_not_of_its_count_is_refused() {
    let mut harness = Harness::new();
    let body = client::region_write(5, 0, 0, &[1, 2, 3, 4])[16..].to_vec();
    for size in [15, 16, 19] {
        assert_eq!(harness.refused(&client::command(5, command::REGION_WRITE, &body[..size])), libc::EINVAL);
    }
    assert_eq!(harness.refused(&client::command(5, command::REGION_WRITE, &[&body[..], &[0]].concat())), libc::EINVAL);
    assert_eq!(harness.refused(&client::command(5, command::REGION_READ, &body[..15])), libc::EINVAL);
    assert!(harness.device.seen.is_empty());
}

#[test]
fn several_writes_are_done_in_order() {
    let mut harness = Harness::new();
    let writes: [(u32, u64, &[u8]); 3] = [(0, 0x1000, &[1, 0, 0, 0]), (0, 0x28, &[8; 8]), (7, 4, &[6])];
    let reply = harness.ask(&client::region_write_multi(5, &writes));
    assert_eq!(reply.payload, 3_u64.to_le_bytes());
    let seen = [
        Access::BarWrite(0x1000, vec![1, 0, 0, 0]),
        Access::BarWrite(0x28, vec![8; 8]),
        Access::ConfigWrite(4, vec![6]),
    ];
    assert_eq!(harness.device.seen, seen);
}

#[test]
fn several_writes_with_a_bad_one_are_all_refused() {
    let mut harness = Harness::new();
    let bad: [(u32, u64, &[u8]); 4] = [(0, 0x4000, &[1]), (9, 0, &[1]), (0, 0, &[]), (0, 0, &[0; 9])];
    for write in bad {
        let writes: [(u32, u64, &[u8]); 2] = [(0, 0, &[1, 2, 3, 4]), write];
        assert_eq!(harness.refused(&client::region_write_multi(5, &writes)), libc::EINVAL);
    }
    let good = client::region_write_multi(5, &[(0, 0, &[1])])[16..].to_vec();
    for (count, size) in [(0, 8), (0, 32), (2, 32), (1, 31), (1, 7), (u64::MAX, 32), (1, 8)] {
        let mut body = good[..size].to_vec();
        let known = size.min(8);
        body[..known].copy_from_slice(&u64::to_le_bytes(count)[..known]);
        assert_eq!(harness.refused(&client::command(5, command::REGION_WRITE_MULTI, &body)), libc::EINVAL);
    }
    assert!(harness.device.seen.is_empty());
}

#[test]
fn a_message_longer_than_any_may_be_is_refused_before_it_comes() {
    let mut harness = Harness::new();
    let mut header = client::region_write(5, 0, 0, &[])[..16].to_vec();
    for size in [15_u32, 0, (1 << 20) + 33, u32::MAX] {
        header[4..8].copy_from_slice(&size.to_le_bytes());
        let mut harness = Harness::new();
        harness.send(&header, Vec::new());
        assert_eq!(harness.next().expect_err("it fails"), ProtocolError::Size { size, max: (1 << 20) + 32 });
    }
    header[4..8].copy_from_slice(&((1_u32 << 20) + 32).to_le_bytes());
    harness.send(&header, Vec::new());
    assert!(harness.next().expect("it goes on").is_none());
}
