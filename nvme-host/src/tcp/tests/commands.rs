//! Commands, one by one.

use nvme_spec::command::{SglDescriptor, SglId};
use nvme_spec::tcp::{H2cData, MIN_MAXH2CDATA};
use nvme_spec::{CommandFlags, Psdt};

use super::*;
use crate::tcp::{StillSending, SubmitError, TransferError};

fn capsules(bytes: &[u8]) -> Vec<CapsuleCmd> {
    bytes.chunks(72).map(|capsule| CapsuleCmd::read_from_bytes(capsule).expect("a capsule")).collect()
}

#[test]
fn capsules_of_a_poll_lie_side_by_side_in_one_chunk() {
    let mut harness = Harness::ready(OPTIONS);
    for seed in 0..4 {
        harness.read(seed, 4096);
    }
    let chunks: Vec<_> = harness.wire.output().collect();
    assert!(matches!(*chunks, [Chunk::Bytes(bytes)] if bytes.len() == 4 * 72));
    let sent = capsules(&harness.send());
    assert!(sent.iter().zip(0..).all(|(capsule, seed)| capsule.sqe.nsid == seed));
    let header = sent[0].header;
    assert_eq!((header.kind, header.hlen, header.pdo, header.plen), (PduType::CAPSULE_CMD, 72, 0, 72));
    assert_eq!(sent[0].sqe.sgl(), SglDescriptor::of_bytes(SglId::BY_TRANSPORT, 4096));
    assert_eq!(sent[0].sqe.flags, CommandFlags::SGL);
}

#[test]
fn a_fused_command_stays_one() {
    let mut harness = Harness::ready(OPTIONS);
    harness.wire.submit(Sqe::flush(1).with_flags(CommandFlags::FUSED_FIRST)).expect("there is room");
    let flags = capsules(&harness.send())[0].sqe.flags;
    assert_eq!(flags, CommandFlags::FUSED_FIRST.with_psdt(Psdt::SGL_MPTR_BUFFER));
}

#[test]
fn a_read_succeeds_with_all_of_its_data() {
    for digests in [NONE, BOTH, Digests { header: true, data: false }, Digests { header: false, data: true }] {
        let mut harness = Harness::ready(Options { digests, ..OPTIONS });
        let slot = harness.read(5, 1024);
        let capsule = harness.send();
        let cid = CapsuleCmd::read_from_prefix(&capsule).expect("a capsule").0.sqe.cid;
        let data = patterned(5, 0, 1024);
        let mut stream = c2h_data(cid, 0, &data[..512], Mark::None, digests);
        stream.extend(c2h_data(cid, 512, &data[512..], Mark::Last, digests));
        stream.extend(response(cid, Status::SUCCESS, digests));
        let (ended, result) = harness.completion(&stream);
        assert_eq!((ended, result.map(|cqe| (cqe.cid, cqe.dw0))), (slot, Ok((cid, 0x1234))));
        assert_eq!(harness.buffers[slot.index()], data);
    }
}

#[test]
fn the_last_data_may_tell_success_and_then_no_response_comes() {
    for digests in [NONE, BOTH] {
        let mut harness = Harness::ready(Options { digests, ..OPTIONS });
        let slot = harness.read(5, 512);
        let cid = CapsuleCmd::read_from_prefix(&harness.send()).expect("a capsule").0.sqe.cid;
        let (ended, result) = harness.completion(&c2h_data(cid, 0, &patterned(5, 0, 512), Mark::Success, digests));
        assert_eq!((ended, result), (slot, Ok(Cqe { cid, ..Cqe::default() })));
        assert_eq!(harness.buffers[slot.index()], patterned(5, 0, 512));
    }
}

#[test]
fn a_success_without_all_of_the_data_is_none() {
    let mut harness = Harness::ready(OPTIONS);
    let slots = [harness.read(1, 1024), harness.read(2, 1024), harness.read(3, 1024), harness.write(4, 512)];
    let cids = harness.send_commands();
    let nothing = response(cids[0], Status::SUCCESS, NONE);
    let half = [c2h_data(cids[1], 0, &[0; 512], Mark::None, NONE), response(cids[1], Status::SUCCESS, NONE)].concat();
    let marked = c2h_data(cids[2], 0, &[0; 1020], Mark::Success, NONE);
    let unwritten = response(cids[3], Status::SUCCESS, NONE);
    let short = |done, len| Err(TransferError::Short { done, len });
    assert_eq!(harness.completion(&nothing), (slots[0], short(0, 1024)));
    assert_eq!(harness.completion(&half), (slots[1], short(512, 1024)));
    assert_eq!(harness.completion(&marked), (slots[2], short(1020, 1024)));
    assert_eq!(harness.completion(&unwritten), (slots[3], short(0, 512)));
    assert!(harness.wire.has_room(), "the connection goes on");
}

#[test]
fn an_error_needs_no_data() {
    let mut harness = Harness::ready(OPTIONS);
    let slots = [harness.read(1, 1024), harness.write(2, 1024)];
    let cids = harness.send_commands();
    for (slot, cid) in slots.into_iter().zip(cids) {
        let (ended, result) = harness.completion(&response(cid, Status::LBA_OUT_OF_RANGE, NONE));
        assert_eq!((ended, result.map(|cqe| cqe.status)), (slot, Ok(Status::LBA_OUT_OF_RANGE)));
    }
}

#[test]
fn a_wrong_data_digest_fails_its_command_alone() {
    let digests = Digests { header: false, data: true };
    let mut harness = Harness::ready(Options { digests, ..OPTIONS });
    let slots = [harness.read(1, 512), harness.read(2, 512), harness.read(3, 512)];
    let cids = harness.send_commands();
    let mut spoilt = c2h_data(cids[0], 0, &patterned(1, 0, 512), Mark::Success, digests);
    spoilt[100] ^= 1;
    assert_eq!(harness.completion(&spoilt), (slots[0], Err(TransferError::DataDigest)));
    // The first half is spoilt, the other is right.
    let mut spoilt = c2h_data(cids[1], 0, &patterned(2, 0, 256), Mark::None, digests);
    *spoilt.last_mut().expect("there is a digest") ^= 0x80;
    spoilt.extend(c2h_data(cids[1], 256, &patterned(2, 256, 256), Mark::Last, digests));
    spoilt.extend(response(cids[1], Status::SUCCESS, digests));
    assert_eq!(harness.completion(&spoilt), (slots[1], Err(TransferError::DataDigest)));
    let whole = c2h_data(cids[2], 0, &patterned(3, 0, 512), Mark::Success, digests);
    assert!(matches!(harness.completion(&whole), (slot, Ok(_)) if slot == slots[2]));
}

#[test]
fn data_of_a_write_goes_in_the_capsule_where_it_fits() {
    for (digests, cpda, pdo) in [(NONE, 0, 72), (BOTH, 0, 76), (BOTH, 31, 128), (NONE, 3, 80)] {
        let options = Options { digests, in_capsule_data: 4096, ..OPTIONS };
        let mut harness = Harness::ready_with(options, cpda, 4096);
        let slot = harness.write(9, 4096);
        let sent = harness.send();
        let (capsule, _) = CapsuleCmd::read_from_prefix(&sent).expect("a capsule");
        let trailer = if digests.data { 4 } else { 0 };
        assert_eq!((usize::from(capsule.header.pdo), sent.len()), (pdo, pdo + 4096 + trailer));
        assert_eq!(capsule.header.plen as usize, sent.len());
        assert_eq!((capsule.header.flags.hdgstf(), capsule.header.flags.ddgstf()), (digests.header, digests.data));
        assert_eq!(capsule.sqe.sgl(), SglDescriptor::of_bytes(SglId::IN_CAPSULE, 4096));
        assert_eq!(sent[pdo..pdo + 4096], patterned(9, 0, 4096));
        if digests.data {
            assert_eq!(sent[pdo + 4096..], crc32c::crc32c(&patterned(9, 0, 4096)).to_le_bytes());
        }
        let (ended, result) = harness.completion(&response(capsule.sqe.cid, Status::SUCCESS, digests));
        assert!(ended == slot && result.is_ok());
    }
}

#[test]
fn connect_has_its_data_in_the_capsule_and_longer_writes_wait_for_r2t() {
    let mut harness = Harness::ready(Options { in_capsule_data: 512, ..OPTIONS });
    harness.wire.submit_write(Sqe::connect(1, 127, 0), 1024, || 0).expect("there is room");
    assert_eq!(harness.send().len(), 72 + 1024);
    harness.write(2, 516);
    assert_eq!(harness.send().len(), 72);
}

#[test]
fn what_an_r2t_asks_for_is_sent_in_pieces_of_maxh2cdata() {
    let mut harness = Harness::ready(OPTIONS);
    harness.write(6, 12 << 10);
    let cid = harness.send_commands()[0];
    let request = [r2t(cid, 70, 0, 10 << 10, NONE), r2t(cid, 71, 10 << 10, 2 << 10, NONE)].concat();
    assert_eq!(harness.receive(&request), Ok(Vec::new()));
    let mut sent = harness.send();
    let mut found = Vec::new();
    while !sent.is_empty() {
        let (header, _) = H2cData::read_from_prefix(&sent).expect("a header");
        assert_eq!((header.header.kind, header.cccid, header.header.pdo), (PduType::H2C_DATA, cid, 24));
        found.push((header.ttag, header.datao, header.datal, header.header.flags.last_pdu()));
        let rest = sent.split_off(header.header.plen as usize);
        assert_eq!(sent[24..], patterned(6, header.datao, header.datal));
        sent = rest;
    }
    let expected = [(70, 0, 4096, false), (70, 4096, 4096, false), (70, 8192, 2048, true), (71, 10240, 2048, true)];
    assert_eq!(found, expected);
    assert!(harness.completion(&response(cid, Status::SUCCESS, NONE)).1.is_ok());
}

#[test]
fn an_answer_before_all_that_was_asked_for_is_sent_ends_the_connection() {
    let mut harness = Harness::ready(OPTIONS);
    harness.write(6, 8192);
    let cid = harness.send_commands()[0];
    harness.receive(&r2t(cid, 1, 0, 8192, NONE)).expect("it is right");
    harness.send_some(5000);
    let error = harness.receive(&response(cid, Status::SUCCESS, NONE)).expect_err("it is too early");
    assert_eq!(error, ProtocolError::AnsweredEarly { kind: PduType::CAPSULE_RESP, cid });
    assert!(harness.send().is_empty(), "no byte is sent after it");
}

#[test]
fn an_answer_before_its_command_is_sent_ends_the_connection() {
    // The identifiers are the same on every connection.
    let mut harness = Harness::ready(OPTIONS);
    harness.read(1, 512);
    let cid = harness.send_commands()[0];
    let answers = [response(cid, Status::SUCCESS, NONE), c2h_data(cid, 0, &[0; 512], Mark::Success, NONE)];
    for (answer, kind) in answers.iter().zip([PduType::CAPSULE_RESP, PduType::C2H_DATA]) {
        let mut harness = Harness::ready(OPTIONS);
        harness.read(1, 512);
        harness.send_some(71);
        assert_eq!(harness.receive(answer), Err(ProtocolError::AnsweredEarly { kind, cid }));
    }
    let mut harness = Harness::ready(OPTIONS);
    harness.write(1, 512);
    harness.send_some(71);
    let early = ProtocolError::AnsweredEarly { kind: PduType::R2T, cid };
    assert_eq!(harness.receive(&r2t(cid, 0, 0, 512, NONE)), Err(early));
}

#[test]
fn a_second_answer_is_not_taken_for_the_next_command_at_its_place() {
    let mut harness = Harness::ready(Options { depth: 1, ..OPTIONS });
    harness.command(1);
    let first = harness.send_commands()[0];
    harness.end(first);
    let mut cids = vec![first];
    for seed in 2..1000 {
        harness.command(seed);
        let cid = harness.send_commands()[0];
        assert!(!cids.contains(&cid) && cid != u16::MAX);
        cids.push(cid);
        harness.end(cid);
    }
    harness.command(1);
    harness.send();
    let unknown = ProtocolError::UnknownCommand { kind: PduType::CAPSULE_RESP, cid: first };
    assert_eq!(harness.receive(&response(first, Status::SUCCESS, NONE)), Err(unknown));
}

#[test]
fn identifiers_of_the_deepest_queue_are_all_different_and_none_is_ffffh() {
    let mut harness = Harness::ready(Options { depth: super::super::MAX_DEPTH, ..OPTIONS });
    for _ in 0..20 {
        while harness.wire.has_room() {
            harness.command(1);
        }
        let mut cids = harness.send_commands();
        let stream: Vec<u8> = cids.iter().flat_map(|cid| response(*cid, Status::SUCCESS, NONE)).collect();
        assert_eq!(harness.receive(&stream).map(|told| told.len()), Ok(4096));
        cids.sort_unstable();
        cids.dedup();
        assert!(cids.len() == 4096 && !cids.contains(&u16::MAX));
    }
}

#[test]
fn a_full_queue_takes_no_command_until_one_has_ended() {
    let mut harness = Harness::ready(Options { depth: 2, ..OPTIONS });
    harness.command(1);
    harness.command(2);
    assert!(!harness.wire.has_room());
    assert_eq!(harness.wire.submit(Sqe::flush(3)), Err(SubmitError::Full { depth: 2 }));
    let cids = harness.send_commands();
    harness.end(cids[1]);
    harness.command(3);
}

#[test]
fn lengths_that_are_not_of_whole_dwords_are_refused() {
    let mut harness = Harness::ready(OPTIONS);
    for len in [0, 1, 511, 513, u32::MAX] {
        assert_eq!(harness.wire.submit_read(Sqe::flush(1), len), Err(SubmitError::Length { len }));
        assert_eq!(harness.wire.submit_write(Sqe::flush(1), len, || 0), Err(SubmitError::Length { len }));
    }
    assert!(harness.wire.is_idle());
}

#[test]
fn data_of_a_command_that_was_given_up_is_dropped() {
    for digests in [NONE, BOTH] {
        let mut harness = Harness::ready(Options { digests, ..OPTIONS });
        let slot = harness.read(5, 1024);
        let cid = CapsuleCmd::read_from_prefix(&harness.send()).expect("a capsule").0.sqe.cid;
        let data = c2h_data(cid, 0, &[0xff; 1024], Mark::Last, digests);
        harness.receive(&data[..500]).expect("it is right");
        let before = harness.buffers[slot.index()].clone();
        assert_eq!(harness.wire.detach(slot), Ok(()));
        harness.receive(&data[500..]).expect("it is right");
        assert_eq!(harness.buffers[slot.index()], before, "its memory is not touched");
        assert_eq!(harness.wire.in_flight().collect::<Vec<_>>(), [slot], "its place stays taken");
        assert_eq!(harness.completion(&response(cid, Status::SUCCESS, digests)).0, slot);
    }
}

#[test]
fn data_may_be_received_in_its_place_once_its_header_is_checked_and_not_before() {
    for (digests, header) in [(NONE, 24), (BOTH, 28)] {
        let mut harness = Harness::ready(Options { digests, ..OPTIONS });
        let slot = harness.read(5, 1024);
        let cid = CapsuleCmd::read_from_prefix(&harness.send()).expect("a capsule").0.sqe.cid;
        let pdu = c2h_data(cid, 0, &patterned(5, 0, 1024), Mark::Success, digests);
        harness.receive(&pdu[..header - 1]).expect("it is right");
        assert_eq!(harness.wire.place(), None, "its header is not there");
        harness.receive(&pdu[header - 1..header + 24]).expect("it is right");
        assert_eq!(harness.wire.place(), Some(Place { slot, offset: 24, len: 1000 }));
        let told = harness.receive_in_place(&pdu[header + 24..header + 500], 1).expect("it is right");
        assert_eq!((told, harness.wire.place()), (vec![], Some(Place { slot, offset: 500, len: 524 })));
        let told = harness.receive_in_place(&pdu[header + 500..], 1).expect("it is right");
        assert!(matches!(*told, [Told::Completed(ended, Ok(_))] if ended == slot));
        assert_eq!((harness.wire.place(), &harness.buffers[slot.index()]), (None, &patterned(5, 0, 1024)));
    }
}

#[test]
fn data_of_a_command_that_was_given_up_has_no_place() {
    let mut harness = Harness::ready(OPTIONS);
    let slot = harness.read(5, 1024);
    let cid = harness.send_commands()[0];
    let pdu = c2h_data(cid, 0, &[0xff; 1024], Mark::Success, NONE);
    harness.receive(&pdu[..100]).expect("it is right");
    assert!(harness.wire.place().is_some());
    harness.wire.detach(slot).expect("it is sent");
    assert_eq!(harness.wire.place(), None);
    harness.wire.close();
    assert_eq!(harness.wire.place(), None);
}

#[test]
fn a_wrong_data_digest_is_found_out_in_place_too() {
    let digests = Digests { header: false, data: true };
    let mut harness = Harness::ready(Options { digests, ..OPTIONS });
    let slot = harness.read(1, 512);
    let cid = harness.send_commands()[0];
    let mut spoilt = c2h_data(cid, 0, &patterned(1, 0, 512), Mark::Success, digests);
    spoilt[100] ^= 1;
    let told = harness.receive_in_place(&spoilt, 24).expect("the connection goes on");
    assert_eq!(told, [Told::Completed(slot, Err(TransferError::DataDigest))]);
}

#[test]
fn a_write_is_given_up_only_while_none_of_its_data_is_asked_for() {
    let mut harness = Harness::ready(OPTIONS);
    let slot = harness.write(1, 512);
    assert_eq!(harness.wire.detach(slot), Err(StillSending), "its capsule waits");
    let cid = harness.send_commands()[0];
    harness.receive(&r2t(cid, 0, 0, 256, NONE)).expect("it is right");
    assert_eq!(harness.wire.detach(slot), Err(StillSending), "its data is to be sent");
    harness.send_some(100);
    assert_eq!(harness.wire.detach(slot), Err(StillSending), "its data is being sent");
    harness.send();
    assert_eq!(harness.wire.detach(slot), Ok(()));
    let detached = ProtocolError::R2tDetached { cid };
    assert_eq!(harness.receive(&r2t(cid, 0, 256, 256, NONE)), Err(detached));
}

#[test]
fn the_output_does_not_grow_with_what_the_controller_asks_for() {
    let options = Options { depth: 64, max_r2t: 16, ..OPTIONS };
    let mut harness = Harness::ready_with(options, 31, MIN_MAXH2CDATA);
    let len = 16 << 20;
    for seed in 0..64 {
        harness.write(seed, len);
    }
    let cids = harness.send_commands();
    let capacity = harness.wire.output.capacity();
    for part in 0..16 {
        let size = len / 16;
        let asked: Vec<u8> = cids.iter().flat_map(|cid| r2t(*cid, part, u32::from(part) * size, size, NONE)).collect();
        harness.receive(&asked).expect("it is right");
        harness.wire.build_transfers(|_, _, _| 0);
    }
    harness.wire.sent(1 << 20);
    harness.wire.build_transfers(|_, _, _| 0);
    assert_eq!(harness.wire.output.capacity(), capacity, "nothing is allocated");
}
