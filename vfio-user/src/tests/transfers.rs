//! The server's own commands.

use super::Harness;
use crate::client::{self, Received};
use crate::{Event, Limits, ProtocolError, command};

fn small() -> Harness {
    Harness::negotiated(r#"{"capabilities":{"max_data_xfer_size":100}}"#)
}

/// Returns the only message that waits to be sent, which is a command.
fn sent(harness: &mut Harness) -> Received {
    let mut messages = harness.drain();
    assert_eq!(messages.len(), 1);
    let message = messages.remove(0);
    assert!(!message.is_reply && message.error.is_none());
    message
}

fn done(harness: &mut Harness) -> (u64, Result<Vec<u8>, i32>) {
    match harness.event() {
        Event::DmaDone { id, result } => (id, result),
        other => panic!("it is the end of a transfer, not {other:?}"),
    }
}

#[test]
fn a_read_is_asked_for_in_pieces_and_put_together() {
    let mut harness = small();
    harness.session.dma_read(7, 0x1000, 250);
    for (addr, count) in [(0x1000, 100), (0x1064, 100), (0x10c8, 50)] {
        let message = sent(&mut harness);
        assert_eq!(message.command, command::DMA_READ);
        assert_eq!(client::dma_access(&message), Some((addr, count, &[][..])));
        let data = vec![u8::try_from(count).expect("it is small"); usize::try_from(count).expect("it is small")];
        harness.send(&client::dma_read_reply(message.msg_id, addr, &data), Vec::new());
        if addr != 0x10c8 {
            assert!(harness.next().expect("it goes on").is_none());
        }
    }
    assert_eq!(done(&mut harness), (7, Ok([[100; 200].as_slice(), &[50; 50]].concat())));
}

#[test]
fn a_write_is_sent_in_pieces() {
    let mut harness = small();
    let data: Vec<u8> = (0..150).collect();
    harness.session.dma_write(8, 0x2000, data.clone());
    for (addr, part) in [(0x2000, &data[..100]), (0x2064, &data[100..])] {
        let message = sent(&mut harness);
        assert_eq!(message.command, command::DMA_WRITE);
        assert_eq!(client::dma_access(&message), Some((addr, part.len() as u64, part)));
        harness.send(&client::dma_write_reply(message.msg_id, addr, part.len() as u64), Vec::new());
        if addr == 0x2000 {
            assert!(harness.next().expect("it goes on").is_none());
        }
    }
    assert_eq!(done(&mut harness), (8, Ok(Vec::new())));
}

#[test]
fn the_reply_to_a_write_may_have_a_count_of_4_bytes_but_no_other_length() {
    for (len, result) in
        [(12, Ok(Vec::new())), (11, Err(libc::EPROTO)), (13, Err(libc::EPROTO)), (8, Err(libc::EPROTO))]
    {
        let mut harness = Harness::new();
        harness.session.dma_write(8, 0x12_3456_7000, vec![1; 64]);
        let message = sent(&mut harness);
        let mut reply = client::short_dma_write_reply(message.msg_id, 0x12_3456_7000, 64);
        reply.resize(16 + len, 0);
        let size = u32::try_from(reply.len()).expect("it is short");
        reply[4..8].copy_from_slice(&size.to_le_bytes());
        harness.send(&reply, Vec::new());
        assert_eq!(done(&mut harness), (8, result), "{len} bytes");
    }
    let mut harness = Harness::new();
    harness.session.dma_write(8, 0x1000, vec![1; 64]);
    let message = sent(&mut harness);
    harness.send(&client::short_dma_write_reply(message.msg_id, 0x1000, 63), Vec::new());
    assert_eq!(done(&mut harness), (8, Err(libc::EPROTO)), "it is not what was written");
}

#[test]
fn replies_may_come_in_any_order_and_between_commands() {
    let mut harness = Harness::new();
    for id in 0..3 {
        harness.session.dma_read(id, 0x1000 * id, 4);
    }
    let messages = harness.drain();
    for message in messages.iter().rev() {
        let (addr, _, _) = client::dma_access(message).expect("it is an access");
        harness.send(&client::device_info(1), Vec::new());
        let data = [u8::try_from(addr >> 12).expect("it is small"); 4];
        harness.send(&client::dma_read_reply(message.msg_id, addr, &data), Vec::new());
    }
    for id in [2, 1, 0] {
        assert_eq!(done(&mut harness), (id, Ok(vec![u8::try_from(id).expect("it is small"); 4])));
    }
    assert_eq!(harness.drain().len(), 3);
}

#[test]
fn an_error_of_the_clients_ends_the_transfer() {
    for (told, errno) in [(14, libc::EFAULT), (0, libc::EIO), (u32::MAX, libc::EIO)] {
        let mut harness = small();
        harness.session.dma_read(7, 0, 250);
        let message = sent(&mut harness);
        harness.send(&client::error_reply(message.msg_id, command::DMA_READ, told), Vec::new());
        assert_eq!(done(&mut harness), (7, Err(errno)));
        assert!(harness.session.output().is_none());
    }
}

#[test]
fn a_reply_that_is_not_what_was_asked_for_ends_the_transfer() {
    let replies = [
        client::dma_read_reply(0, 0x1000, &[0; 3]),
        client::dma_read_reply(0, 0x1000, &[0; 5]),
        client::dma_read_reply(0, 0x1001, &[0; 4]),
        client::dma_read_reply(0, 0x1000, &[]),
    ];
    for mut reply in replies {
        let mut harness = Harness::new();
        harness.session.dma_read(7, 0x1000, 4);
        reply[..2].copy_from_slice(&sent(&mut harness).msg_id.to_le_bytes());
        harness.send(&reply, Vec::new());
        assert_eq!(done(&mut harness), (7, Err(libc::EPROTO)));
    }
    // The count is right and the data is not.
    let mut harness = Harness::new();
    harness.session.dma_read(7, 0x1000, 4);
    let msg_id = sent(&mut harness).msg_id;
    let mut reply = client::dma_read_reply(msg_id, 0x1000, &[0; 5]);
    reply[24] = 4;
    harness.send(&reply, Vec::new());
    assert_eq!(done(&mut harness), (7, Err(libc::EPROTO)));
}

#[test]
fn a_reply_that_nobody_waits_for_ends_the_session() {
    let mut harness = Harness::new();
    harness.session.dma_read(7, 0, 4);
    let msg_id = sent(&mut harness).msg_id;
    harness.send(&client::dma_write_reply(msg_id, 0, 4), Vec::new());
    let expected = ProtocolError::UnexpectedReply { msg_id, command: command::DMA_WRITE };
    assert_eq!(harness.next().expect_err("it fails"), expected);
}

#[test]
fn transfers_that_cannot_be_end_at_once() {
    let mut harness = Harness::new();
    harness.session.dma_read(1, u64::MAX, 1);
    harness.session.dma_write(2, u64::MAX - 3, vec![0; 4]);
    harness.session.dma_read(3, 0, 0);
    assert_eq!(done(&mut harness), (1, Err(libc::EFAULT)));
    assert_eq!(done(&mut harness), (2, Err(libc::EFAULT)));
    assert_eq!(done(&mut harness), (3, Ok(Vec::new())));
    let mut fresh = Harness::fresh(Limits::default());
    fresh.session.dma_read(4, 0, 4);
    assert_eq!(done(&mut fresh), (4, Err(libc::ENOTCONN)));
    assert!(fresh.session.output().is_none());
}

#[test]
fn a_client_is_not_asked_for_more_than_it_reads() {
    let mut harness = Harness::new();
    let data = vec![0; 128 << 10];
    for id in 0..1000 {
        harness.session.dma_write(id, 0, data.clone());
    }
    let waiting = harness.drain().len();
    assert!(waiting < 4, "{waiting} messages of 128 KiB wait");
    let mut harness = Harness::new();
    for id in 0..1000 {
        harness.session.dma_read(id, 0, 4);
    }
    assert_eq!(harness.drain().len(), 64);
}

#[test]
fn message_identifiers_in_use_are_not_given_again() {
    let mut harness = Harness::new();
    harness.session.dma_read(u64::MAX, 0, 4);
    let first = sent(&mut harness).msg_id;
    for id in 0..70_000 {
        harness.session.dma_read(id, 0x1000, 4);
        let msg_id = sent(&mut harness).msg_id;
        assert_ne!(msg_id, first);
        harness.send(&client::dma_read_reply(msg_id, 0x1000, &[1; 4]), Vec::new());
        assert_eq!(done(&mut harness), (id, Ok(vec![1; 4])));
    }
    harness.send(&client::dma_read_reply(first, 0, &[2; 4]), Vec::new());
    assert_eq!(done(&mut harness), (u64::MAX, Ok(vec![2; 4])));
}

#[test]
fn a_transfer_that_is_cancelled_ends_with_what_was_asked_for() {
    // More than may be asked for at once, so that the last one waits.
    let mut harness = small();
    for id in 0..65 {
        harness.session.dma_read(id, 0, 150);
    }
    let asked = harness.drain();
    harness.session.dma_cancel(64);
    harness.session.dma_cancel(0);
    harness.session.dma_cancel(1000);
    assert_eq!(done(&mut harness), (64, Err(libc::ECANCELED)));
    assert!(harness.next().expect("it goes on").is_none(), "a reply is awaited");
    harness.send(&client::dma_read_reply(asked[0].msg_id, 0, &[0; 100]), Vec::new());
    assert_eq!(done(&mut harness), (0, Err(libc::ECANCELED)));
    assert!(harness.next().expect("it goes on").is_none(), "the other 50 bytes are not asked for");
    assert!(harness.drain().is_empty());
}

#[test]
fn a_transfer_whose_last_piece_was_asked_for_is_cancelled_too_late() {
    let mut harness = small();
    harness.session.dma_write(7, 0, vec![1; 100]);
    let msg_id = sent(&mut harness).msg_id;
    harness.session.dma_cancel(7);
    harness.send(&client::dma_write_reply(msg_id, 0, 100), Vec::new());
    assert_eq!(done(&mut harness), (7, Ok(Vec::new())));
}
