//! A controller that lies: every PDU that it can send, and every field of it, each with a value that cannot be.

use nvme_spec::tcp::{C2hData, CapsuleResp, FatalError, IcResp, MAX_TERM_DATA, R2t, TermReq};

use super::*;

/// The bytes of the data of the read and the write that are in flight.
const LEN: u32 = 1024;

/// What a controller sends, and what the host says of it.
struct Lie {
    name: String,
    bytes: Vec<u8>,
    expected: ProtocolError,
}

fn lie(name: impl Into<String>, bytes: Vec<u8>, expected: ProtocolError) -> Lie {
    Lie { name: name.into(), bytes, expected }
}

/// A connection with a command of each kind in flight, all of which are sent.
struct Victim {
    harness: Harness,
    read: u16,
    write: u16,
    other: u16,
}

impl Victim {
    fn new(digests: Digests) -> Self {
        let mut harness = Harness::ready(Options { digests, ..OPTIONS });
        harness.read(1, LEN);
        harness.write(2, LEN);
        harness.command(3);
        let step = if digests.header { 76 } else { 72 };
        let sent = harness.send();
        let cids = sent.chunks(step).map(|bytes| CapsuleCmd::read_from_prefix(bytes).expect("a capsule").0.sqe.cid);
        let [read, write, other] = *cids.collect::<Vec<_>>() else { panic!("three capsules are sent") };
        Self { harness, read, write, other }
    }
}

fn edit(mut bytes: Vec<u8>, offset: usize, value: &[u8]) -> Vec<u8> {
    bytes[offset..offset + value.len()].copy_from_slice(value);
    bytes
}

/// Makes the header digest of a PDU with a header of 24 bytes right again.
fn digested(mut bytes: Vec<u8>) -> Vec<u8> {
    let digest = crc32c::crc32c(&bytes[..24]).to_le_bytes();
    bytes[24..28].copy_from_slice(&digest);
    bytes
}

/// Tells each lie to a connection, once whole and once in single bytes.
fn tell(lies: &[Lie], victim: impl Fn() -> Harness) {
    for Lie { name, bytes, expected } in lies {
        for step in [bytes.len().max(1), 1] {
            let mut harness = victim();
            let before = harness.wire.in_flight().count();
            let outcome = bytes.chunks(step).try_for_each(|piece| harness.receive(piece).map(|_| ()));
            assert_eq!(outcome, Err(*expected), "{name}, in pieces of {step}");
            assert!(expected.to_string().len() > 20 && !expected.to_string().contains('{'), "{expected}");
            assert_eq!(harness.wire.in_flight().count() + harness.ended, before, "{name}: no command is lost");
            let said = harness.send();
            match TermReq::read_from_prefix(&said) {
                Ok((request, data)) => {
                    assert_eq!(request.header.kind, PduType::H2C_TERM_REQ, "{name}");
                    assert_eq!(request.header.plen as usize, said.len(), "{name}");
                    assert!(request.fes.name().is_some() && data.len() <= MAX_TERM_DATA, "{name}");
                }
                Err(_) => assert!(said.is_empty(), "{name}: nothing but why is sent"),
            }
        }
    }
}

/// Lies about the common header, which do not differ between the states of a connection.
fn common_lies(name: &str, pdu: &[u8], lies: &mut Vec<Lie>) {
    let kind = PduType(pdu[0]);
    let right = pdu[2];
    for hlen in [0, 7, 8, 23, 24, 25, 72, 127, 128, 129, 255].into_iter().filter(|hlen| *hlen != right) {
        let expected = ProtocolError::HeaderLength { kind, hlen, expected: right };
        lies.push(lie(format!("{name}: HLEN {hlen}"), edit(pdu.to_vec(), 2, &[hlen]), expected));
    }
    let (min, max) = match kind {
        PduType::C2H_TERM_REQ => (24, 24 + 128),
        _ => (u32::from(right), u32::from(right)),
    };
    for plen in [0, 1, 8, 23, 127, 129, 153, 4096, u32::MAX].into_iter().filter(|plen| !(min..=max).contains(plen)) {
        let bytes = edit(pdu.to_vec(), 4, &plen.to_le_bytes());
        let expected = if kind == PduType::C2H_DATA {
            let whole = 24 + LEN;
            ProtocolError::Length { kind, plen, min: whole, max: whole }
        } else {
            ProtocolError::Length { kind, plen, min, max }
        };
        lies.push(lie(format!("{name}: PLEN {plen}"), bytes, expected));
    }
}

#[test]
fn lies_about_setting_the_connection_up() {
    let mut lies = Vec::new();
    let right = || ic_resp(NONE, 0, 4096);
    common_lies("ICResp", &right(), &mut lies);
    for kind in (0..=255).map(PduType).filter(|kind| ![PduType::IC_RESP, PduType::C2H_TERM_REQ].contains(kind)) {
        let expected = ProtocolError::Kind { kind, expected: "ICResp or C2HTermReq" };
        lies.push(lie(format!("{kind:?} before ICResp"), edit(right(), 0, &[kind.0]), expected));
    }
    for pfv in [1, 256, u16::MAX] {
        let bytes = edit(right(), std::mem::offset_of!(IcResp, pfv), &pfv.to_le_bytes());
        lies.push(lie(format!("PFV {pfv}"), bytes, ProtocolError::Version { pfv }));
    }
    for cpda in [32, 33, 255] {
        lies.push(lie(format!("CPDA {cpda}"), ic_resp(NONE, cpda, 4096), ProtocolError::Alignment { cpda }));
    }
    for (digests, digest) in [
        (Digests { header: true, data: false }, "HDGST_ENABLE"),
        (BOTH, "HDGST_ENABLE"),
        (Digests { header: false, data: true }, "DDGST_ENABLE"),
    ] {
        lies.push(lie(digest, ic_resp(digests, 0, 4096), ProtocolError::DigestNotAsked { digest }));
    }
    for maxh2cdata in [0, 1, 4, 512, 4092, 4095, 4097, 4098, 0x8000_0001, u32::MAX] {
        let expected = ProtocolError::MaxH2cData { maxh2cdata };
        lies.push(lie(format!("MAXH2CDATA {maxh2cdata}"), ic_resp(NONE, 0, maxh2cdata), expected));
    }
    assert!(lies.len() >= 280);
    tell(&lies, || {
        let mut harness = Harness::fresh(OPTIONS);
        harness.send();
        harness
    });
    tell(&[lie("ICResp before ICReq", right(), ProtocolError::EarlyIcResp)], || Harness::fresh(OPTIONS));
}

#[test]
fn lies_about_headers() {
    let Victim { read, write, other, .. } = Victim::new(NONE);
    let mut lies = Vec::new();
    let data = || c2h_data(read, 0, &[9; LEN as usize], Mark::Last, NONE);
    let answer = || response(other, Status::SUCCESS, NONE);
    let request = || r2t(write, 1, 0, LEN, NONE);
    common_lies("CapsuleResp", &answer(), &mut lies);
    common_lies("C2HData", &data(), &mut lies);
    common_lies("R2T", &request(), &mut lies);
    common_lies("C2HTermReq", &term_req(FatalError::PDU_SEQUENCE_ERROR, 0), &mut lies);
    let known = [PduType::CAPSULE_RESP, PduType::C2H_DATA, PduType::R2T, PduType::C2H_TERM_REQ];
    for kind in (0..=255).map(PduType).filter(|kind| !known.contains(kind)) {
        let expected = ProtocolError::Kind { kind, expected: "CapsuleResp, C2HData, R2T or C2HTermReq" };
        lies.push(lie(format!("{kind:?}"), edit(answer(), 0, &[kind.0]), expected));
    }
    for (kind, bytes) in [(PduType::CAPSULE_RESP, answer()), (PduType::C2H_DATA, data()), (PduType::R2T, request())] {
        let expected = ProtocolError::DigestFlag { kind, digest: "HDGSTF", expected: false };
        let flags = [bytes[1] | 1];
        lies.push(lie(format!("{kind:?} with HDGSTF"), edit(bytes, 1, &flags), expected));
    }
    let expected = ProtocolError::DigestFlag { kind: PduType::C2H_DATA, digest: "DDGSTF", expected: false };
    lies.push(lie("C2HData with DDGSTF", edit(data(), 1, &[0b0110]), expected));
    for pdo in [0, 4, 8, 20, 23, 25, 26, 27, 29, 255] {
        let expected = ProtocolError::DataOffset { kind: PduType::C2H_DATA, pdo, min: 24 };
        lies.push(lie(format!("PDO {pdo}"), edit(data(), 3, &[pdo]), expected));
    }
    for pdo in [28, 32, 252] {
        let whole = u32::from(pdo) + LEN;
        let expected = ProtocolError::Length { kind: PduType::C2H_DATA, plen: 24 + LEN, min: whole, max: whole };
        lies.push(lie(format!("PDO {pdo} in a PDU without padding"), edit(data(), 3, &[pdo]), expected));
    }
    for fes in [0, 1, 2, 3, 4, 5, 6, 7, u16::MAX].map(FatalError) {
        let expected = ProtocolError::Terminated { fes, fei: 0x0102_0304 };
        lies.push(lie(format!("{fes:?}"), term_req(fes, 0x0102_0304), expected));
    }
    assert!(lies.len() >= 300);
    tell(&lies, || Victim::new(NONE).harness);
}

#[test]
fn lies_about_digests() {
    let Victim { read, write, other, .. } = Victim::new(BOTH);
    let mut lies = Vec::new();
    let pdus = [
        (PduType::CAPSULE_RESP, response(other, Status::SUCCESS, BOTH)),
        (PduType::C2H_DATA, c2h_data(read, 0, &[9; LEN as usize], Mark::Last, BOTH)),
        (PduType::R2T, r2t(write, 1, 0, LEN, BOTH)),
    ];
    for (kind, pdu) in pdus {
        let digest = u32::read_from_bytes(&pdu[24..28]).expect("four bytes");
        for bit in [0, 7, 13, 31] {
            let wrong = digest ^ 1 << bit;
            let expected = ProtocolError::HeaderDigest { kind, digest: wrong, expected: digest };
            let bytes = edit(pdu.clone(), 24, &wrong.to_le_bytes());
            lies.push(lie(format!("{kind:?}: bit {bit} of the digest"), bytes, expected));
        }
        let spoilt = edit(pdu.clone(), 9, &[pdu[9] ^ 0x10]);
        let expected = ProtocolError::HeaderDigest { kind, digest, expected: crc32c::crc32c(&spoilt[..24]) };
        lies.push(lie(format!("{kind:?}: a changed byte"), spoilt, expected));
        let expected = ProtocolError::DigestFlag { kind, digest: "HDGSTF", expected: true };
        let flags = [pdu[1] & !1];
        lies.push(lie(format!("{kind:?} without HDGSTF"), digested(edit(pdu, 1, &flags)), expected));
    }
    let data = c2h_data(read, 0, &[9; LEN as usize], Mark::Last, BOTH);
    let expected = ProtocolError::DigestFlag { kind: PduType::C2H_DATA, digest: "DDGSTF", expected: true };
    lies.push(lie("C2HData without DDGSTF", digested(edit(data.clone(), 1, &[0b0101])), expected));
    let expected = ProtocolError::DataOffset { kind: PduType::C2H_DATA, pdo: 24, min: 28 };
    lies.push(lie("PDO within the digest", digested(edit(data.clone(), 3, &[24])), expected));
    let whole = 28 + LEN + 4;
    for plen in [28 + LEN, whole - 1, whole + 1, whole + 4] {
        let expected = ProtocolError::Length { kind: PduType::C2H_DATA, plen, min: whole, max: whole };
        let bytes = digested(edit(data.clone(), 4, &plen.to_le_bytes()));
        lies.push(lie(format!("PLEN {plen} with digests"), bytes, expected));
    }
    tell(&lies, || Victim::new(BOTH).harness);
}

#[test]
fn lies_about_commands() {
    let Victim { read, write, other, .. } = Victim::new(NONE);
    let mut lies = Vec::new();
    // Never used; another count at a used place; a place that the queue has not; the greatest.
    for cid in [0, 1, read ^ 0x10, write ^ 0x8000, 0x000f, 5, u16::MAX] {
        let unknown = |kind| ProtocolError::UnknownCommand { kind, cid };
        lies.push(lie("answer", response(cid, Status::SUCCESS, NONE), unknown(PduType::CAPSULE_RESP)));
        lies.push(lie("refusal", response(cid, Status::INTERNAL_ERROR, NONE), unknown(PduType::CAPSULE_RESP)));
        lies.push(lie("data", c2h_data(cid, 0, &[9; 512], Mark::Last, NONE), unknown(PduType::C2H_DATA)));
        lies.push(lie("R2T", r2t(cid, 1, 0, LEN, NONE), unknown(PduType::R2T)));
    }
    for cid in [write, other] {
        let expected = ProtocolError::Direction { kind: PduType::C2H_DATA, cid };
        lies.push(lie("data of no read", c2h_data(cid, 0, &[9; 512], Mark::Last, NONE), expected));
    }
    for cid in [read, other] {
        let expected = ProtocolError::Direction { kind: PduType::R2T, cid };
        lies.push(lie("R2T for no write", r2t(cid, 1, 0, 512, NONE), expected));
    }
    let twice = |first: Vec<u8>, cid| {
        let expected = ProtocolError::UnknownCommand { kind: PduType::CAPSULE_RESP, cid };
        lie("a second answer", [first, response(cid, Status::SUCCESS, NONE)].concat(), expected)
    };
    for cid in [read, write, other] {
        lies.push(twice(response(cid, Status::SUCCESS, NONE), cid));
        lies.push(twice(response(cid, Status::INVALID_FIELD, NONE), cid));
    }
    lies.push(twice(c2h_data(read, 0, &[9; LEN as usize], Mark::Success, NONE), read));
    let late = [response(read, Status::INTERNAL_ERROR, NONE), c2h_data(read, 0, &[9; 512], Mark::None, NONE)].concat();
    lies.push(lie("late data", late, ProtocolError::UnknownCommand { kind: PduType::C2H_DATA, cid: read }));
    let late = [response(write, Status::INTERNAL_ERROR, NONE), r2t(write, 1, 0, LEN, NONE)].concat();
    lies.push(lie("late R2T", late, ProtocolError::UnknownCommand { kind: PduType::R2T, cid: write }));
    let early = [r2t(write, 1, 0, LEN, NONE), response(write, Status::SUCCESS, NONE)].concat();
    lies.push(lie("an early answer", early, ProtocolError::AnsweredEarly { kind: PduType::CAPSULE_RESP, cid: write }));
    tell(&lies, || Victim::new(NONE).harness);
}

#[test]
fn lies_about_data() {
    let cid = Victim::new(NONE).read;
    let mut lies = Vec::new();
    let range = |offset, length, next| ProtocolError::DataRange {
        kind: PduType::C2H_DATA,
        cid,
        offset,
        length,
        next,
        len: LEN,
    };
    let data = |offset: u32, length: u32, mark| c2h_data(cid, offset, &vec![9; length as usize], mark, NONE);
    for (offset, length) in [
        (4, 512),
        (512, 512),
        (1020, 4),
        (1024, 4),
        (0, 1028),
        (0, 8192),
        (0x8000_0000, 512),
        (u32::MAX, 4),
        (u32::MAX - 3, 4),
        (0, 1),
        (0, 2),
        (0, 1023),
    ] {
        lies.push(lie(format!("{length} at {offset}"), data(offset, length, Mark::Last), range(offset, length, 0)));
    }
    let none = edit(edit(data(0, 4, Mark::Last), 16, &[0; 4]), 4, &24_u32.to_le_bytes());
    lies.push(lie("no data", none, range(0, 0, 0)));
    for (offset, length) in [(0, 512), (0, 1024), (508, 4), (516, 4), (512, 516), (1020, 4)] {
        let bytes = [data(0, 512, Mark::None), data(offset, length, Mark::Last)].concat();
        lies.push(lie(format!("then {length} at {offset}"), bytes, range(offset, length, 512)));
    }
    let bytes = [data(0, 1024, Mark::None), data(0, 4, Mark::Last)].concat();
    lies.push(lie("all of it, and more", bytes, range(0, 4, 1024)));
    for datal in [0, 1, LEN - 4, LEN + 4, u32::MAX] {
        let whole = datal.saturating_add(24);
        let expected = ProtocolError::Length { kind: PduType::C2H_DATA, plen: 24 + LEN, min: whole, max: whole };
        let bytes = edit(data(0, LEN, Mark::Last), 16, &datal.to_le_bytes());
        lies.push(lie(format!("DATAL {datal}"), bytes, expected));
    }
    let bytes = [data(0, 512, Mark::Last), data(512, 512, Mark::Last)].concat();
    lies.push(lie("after the last", bytes, ProtocolError::DataAfterLast { cid }));
    let bytes = edit(data(0, 1024, Mark::None), 1, &[0b1000]);
    lies.push(lie("success before the last", bytes, ProtocolError::SuccessBeforeLast { cid }));
    tell(&lies, || Victim::new(NONE).harness);
    assert_eq!(std::mem::offset_of!(C2hData, datal), 16);
}

#[test]
fn lies_about_what_is_to_be_sent() {
    let cid = Victim::new(NONE).write;
    let mut lies = Vec::new();
    let range =
        |offset, length, next| ProtocolError::DataRange { kind: PduType::R2T, cid, offset, length, next, len: LEN };
    for (offset, length) in [
        (0, 0),
        (0, 1),
        (0, 1022),
        (0, LEN + 4),
        (0, 1 << 20),
        (0, u32::MAX),
        (0, u32::MAX - 3),
        (4, LEN - 4),
        (512, 512),
        (LEN, 4),
        (LEN, 0),
        (0x8000_0000, 4),
        (u32::MAX - 3, 4),
        (u32::MAX - 3, 8),
    ] {
        lies.push(lie(format!("{length} at {offset}"), r2t(cid, 1, offset, length, NONE), range(offset, length, 0)));
    }
    for (offset, length) in [(0, 512), (0, 1024), (508, 4), (516, 508), (512, 516), (1024, 4)] {
        let bytes = [r2t(cid, 1, 0, 512, NONE), r2t(cid, 2, offset, length, NONE)].concat();
        lies.push(lie(format!("then {length} at {offset}"), bytes, range(offset, length, 512)));
    }
    let three: Vec<u8> = (0..3).flat_map(|at| r2t(cid, 1, at * 4, 4, NONE)).collect();
    lies.push(lie("three at a time", three, ProtocolError::R2tLimit { cid, max: 2 }));
    tell(&lies, || Victim::new(NONE).harness);
    assert_eq!(std::mem::offset_of!(R2t, r2tl), 16);

    // A write whose data was in its capsule.
    let in_capsule = || {
        let mut harness = Harness::ready(Options { in_capsule_data: LEN, ..OPTIONS });
        harness.write(2, LEN);
        let capsule = harness.send();
        (harness, CapsuleCmd::read_from_prefix(&capsule).expect("a capsule").0.sqe.cid)
    };
    let cid = in_capsule().1;
    let again = ProtocolError::DataRange { kind: PduType::R2T, cid, offset: 0, length: 512, next: LEN, len: LEN };
    tell(&[lie("what was in the capsule", r2t(cid, 1, 0, 512, NONE), again)], || in_capsule().0);
}

#[test]
fn reserved_fields_are_not_looked_at() {
    let Victim { mut harness, read, write, other } = Victim::new(NONE);
    let cqe = edit(response(other, Status::SUCCESS, NONE), 18, &[0xff; 2]);
    let data = edit(c2h_data(read, 0, &[9; LEN as usize], Mark::Success, NONE), 20, &[0xff; 4]);
    let data = edit(edit(data, 10, &[0xff; 2]), 1, &[0b1111_1100]);
    let request = edit(edit(r2t(write, 1, 0, LEN, NONE), 20, &[0xff; 4]), 3, &[24]);
    let told = harness.receive(&[cqe, data, request].concat()).expect("all is right");
    assert!(matches!(*told, [Told::Completed(_, Ok(_)), Told::Completed(_, Ok(_))]));
    assert_eq!(std::mem::offset_of!(CapsuleResp, cqe), 8);
}
