//! `DMA_MAP` and `DMA_UNMAP`.

use super::{Harness, inode, is_closed, pair};
use crate::{Event, MapRequest, Token, UnmapRequest, client, command};

fn map(harness: &mut Harness) -> (Token, MapRequest) {
    match harness.event() {
        Event::Map(token, request) => (token, request),
        other => panic!("it is a mapping, not {other:?}"),
    }
}

fn unmap(harness: &mut Harness) -> (Token, UnmapRequest) {
    match harness.event() {
        Event::Unmap(token, request) => (token, request),
        other => panic!("it is an unmapping, not {other:?}"),
    }
}

#[test]
fn a_mapping_comes_with_its_file() {
    let mut harness = Harness::new();
    let (_probe, file) = pair();
    let expected = inode(file.try_clone().expect("it can be cloned"));
    harness.send(&client::dma_map(4, 0x10_0000, 0x2000, 0x1000), vec![file.into()]);
    let (token, request) = map(&mut harness);
    assert_eq!((request.addr, request.size, request.offset), (0x10_0000, 0x2000, 0x1000));
    assert!(request.readable && request.writeable);
    assert_eq!(inode(request.fd.expect("there is a file")), expected);
    harness.session.reply(token, Err(libc::EEXIST));
    let reply = harness.drain().remove(0);
    assert_eq!((reply.msg_id, reply.command, reply.error), (4, command::DMA_MAP, Some(libc::EEXIST.unsigned_abs())));
}

#[test]
fn a_mapping_may_have_no_file_and_one_direction() {
    let mut harness = Harness::new();
    for (flags, readable, writeable) in [(1, true, false), (2, false, true)] {
        let mut message = client::dma_map(4, 0, 4096, 0);
        message[20] = flags;
        harness.send(&message, Vec::new());
        let (token, request) = map(&mut harness);
        assert_eq!((request.readable, request.writeable, request.fd.is_none()), (readable, writeable, true));
        harness.session.reply(token, Ok(()));
        let reply = harness.drain().remove(0);
        assert_eq!((reply.error, reply.payload.len()), (None, 0));
    }
}

#[test]
fn a_mapping_of_nothing_or_that_wraps_is_refused_and_its_file_closed() {
    let mut harness = Harness::new();
    let end = u64::MAX - 4095;
    for (addr, size, offset) in [(0, 0, 0), (end, 4097, 0), (u64::MAX, 2, 0), (1, u64::MAX, 1 << 63), (0, 4097, end)] {
        let (probe, file) = pair();
        assert_eq!(
            harness.refused_with(&client::dma_map(4, addr, size, offset), vec![file.into()]),
            libc::EINVAL,
            "{addr:#x} {size:#x} {offset:#x}"
        );
        assert!(is_closed(&probe));
    }
    harness.send(&client::dma_map(4, end, 4096, 0), Vec::new());
    let (token, request) = map(&mut harness);
    assert_eq!(request.addr, end);
    harness.session.reply(token, Ok(()));
}

#[test]
fn a_mapping_with_two_files_or_odd_flags_is_refused() {
    let mut harness = Harness::new();
    let (a, b) = pair();
    assert_eq!(harness.refused_with(&client::dma_map(4, 0, 4096, 0), vec![a.into(), b.into()]), libc::EINVAL);
    for flags in [0, 4, 7, 0x80] {
        let mut message = client::dma_map(4, 0, 4096, 0);
        message[20] = flags;
        assert_eq!(harness.refused(&message), libc::EINVAL);
    }
    let mut small = client::dma_map(4, 0, 4096, 0);
    small[16] = 31;
    assert_eq!(harness.refused(&small), libc::EINVAL);
    assert_eq!(harness.refused(&client::command(4, command::DMA_MAP, &[0; 31])), libc::EINVAL);
}

#[test]
fn an_unmapping_is_answered_with_what_it_said() {
    let mut harness = Harness::new();
    harness.send(&client::dma_unmap(4, 0x1000, 0x3000, 0), Vec::new());
    let (token, request) = unmap(&mut harness);
    assert_eq!(request, UnmapRequest { addr: 0x1000, size: 0x3000, all: false });
    assert!(harness.session.output().is_none());
    harness.session.reply(token, Ok(()));
    let reply = harness.drain().remove(0);
    assert_eq!(reply.payload, client::dma_unmap(4, 0x1000, 0x3000, 0)[16..]);
}

#[test]
fn all_memory_can_be_unmapped() {
    let mut harness = Harness::new();
    harness.send(&client::dma_unmap(4, 0, 0, 2), Vec::new());
    let (token, request) = unmap(&mut harness);
    assert_eq!(request, UnmapRequest { addr: 0, size: 0, all: true });
    harness.session.reply(token, Err(libc::EBUSY));
    let reply = harness.drain().remove(0);
    assert_eq!((reply.error, reply.payload.len()), (Some(libc::EBUSY.unsigned_abs()), 0));
}

#[test]
fn unmappings_that_are_not_valid_are_refused() {
    let mut harness = Harness::new();
    let bad = [(0, 0, 0), (u64::MAX, 2, 0), (2, u64::MAX, 0), (0, 4096, 2), (4096, 0, 2), (0, 4096, 4), (0, 0, 6)];
    for (addr, size, flags) in bad {
        assert_eq!(harness.refused(&client::dma_unmap(4, addr, size, flags)), libc::EINVAL);
    }
    assert_eq!(harness.refused(&client::command(4, command::DMA_UNMAP, &[0; 23])), libc::EINVAL);
    let mut small = client::dma_unmap(4, 0, 4096, 0);
    small[16] = 23;
    assert_eq!(harness.refused(&small), libc::EINVAL);
}

#[test]
fn an_unmapping_with_a_dirty_bitmap_is_not_supported() {
    let mut harness = Harness::new();
    for flags in [1, 3] {
        assert_eq!(harness.refused(&client::dma_unmap(4, 0x1000, 0x1000, flags)), libc::ENOTSUP);
    }
}

#[test]
fn answers_may_come_in_any_order() {
    let mut harness = Harness::new();
    for msg_id in 0..3 {
        harness.send(&client::dma_unmap(msg_id, 0x1000 * u64::from(msg_id), 0x1000, 0), Vec::new());
    }
    let mut tokens: Vec<Token> = (0..3).map(|_| unmap(&mut harness).0).collect();
    for at in [1, 1, 0] {
        harness.session.reply(tokens.remove(at), Ok(()));
    }
    let order: Vec<u16> = harness.drain().iter().map(|reply| reply.msg_id).collect();
    assert_eq!(order, [1, 2, 0]);
}

/// QEMU maps memory with and without files in one go, which one read may bring.
#[test]
fn a_file_goes_to_the_last_message_of_its_read() {
    let mut harness = Harness::new();
    let (_probe, file) = pair();
    let both = [client::dma_map(1, 0, 4096, 0), client::dma_map(2, 4096, 4096, 0)].concat();
    harness.send(&both, vec![file.into()]);
    let ((first, without), (second, with)) = (map(&mut harness), map(&mut harness));
    assert!(without.fd.is_none() && with.fd.is_some());
    harness.session.reply(first, Ok(()));
    harness.session.reply(second, Ok(()));
}
