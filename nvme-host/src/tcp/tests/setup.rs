//! The beginning and the end of a connection.

use nvme_spec::tcp::{IcReq, PduType};

use super::*;
use crate::tcp::{MAX_DEPTH, OptionsError, SubmitError};

#[test]
fn a_connection_begins_with_ic_req_that_asks_for_what_the_options_say() {
    let mut harness = Harness::fresh(Options { digests: Digests { header: true, data: false }, max_r2t: 4, ..OPTIONS });
    let request = IcReq::read_from_bytes(&harness.send()).expect("it is an ICReq");
    assert_eq!((request.header.kind, request.header.hlen, request.header.plen), (PduType::IC_REQ, 128, 128));
    assert_eq!((request.pfv, request.hpda, request.maxr2t), (0, 0, 3));
    assert_eq!((request.dgst.hdgst(), request.dgst.ddgst()), (true, false));
}

#[test]
fn commands_are_taken_from_ic_resp_on() {
    let mut harness = Harness::fresh(OPTIONS);
    assert_eq!(harness.wire.submit(Sqe::flush(1)), Err(SubmitError::NotReady));
    harness.send();
    let told = harness.receive(&ic_resp(NONE, 3, 8192)).expect("it is right");
    assert_eq!(told, [Told::Ready(Parameters { digests: NONE, alignment: 16, maxh2cdata: 8192 })]);
    assert!(harness.wire.has_room() && harness.wire.submit(Sqe::flush(1)).is_ok());
}

#[test]
fn a_controller_may_do_without_the_digests_that_were_asked_for() {
    let mut harness = Harness::fresh(Options { digests: BOTH, ..OPTIONS });
    harness.send();
    let told = harness.receive(&ic_resp(Digests { header: false, data: true }, 0, 4096)).expect("it is right");
    assert!(matches!(*told, [Told::Ready(Parameters { digests: Digests { header: false, data: true }, .. })]));
}

#[test]
fn options_that_no_connection_can_have_are_refused() {
    let refused = |options| Wire::new(options).expect_err("it is refused");
    for depth in [0, MAX_DEPTH + 1, u16::MAX] {
        assert_eq!(refused(Options { depth, ..OPTIONS }), OptionsError::Depth { depth });
    }
    for max_r2t in [0, 17, u8::MAX] {
        assert_eq!(refused(Options { max_r2t, ..OPTIONS }), OptionsError::MaxR2t { max_r2t });
    }
    assert!(Wire::new(Options { depth: MAX_DEPTH, max_r2t: 16, ..OPTIONS }).is_ok());
}

#[test]
fn a_failed_connection_keeps_its_error_and_tells_which_commands_are_left() {
    let mut harness = Harness::ready(OPTIONS);
    let slots = [harness.read(1, 512), harness.write(2, 512), harness.command(3)];
    harness.send();
    let error = harness.receive(&term_req(FatalError::PDU_SEQUENCE_ERROR, 7)).expect_err("it ends");
    assert_eq!(error, ProtocolError::Terminated { fes: FatalError::PDU_SEQUENCE_ERROR, fei: 7 });
    assert_eq!(harness.receive(&response(1, Status::SUCCESS, NONE)), Err(error));
    assert_eq!(harness.wire.close(), error);
    assert_eq!(harness.wire.submit(Sqe::flush(1)), Err(SubmitError::NotReady));
    assert!(harness.wire.is_idle(), "a controller that ends the connection is not answered");
    assert_eq!(harness.wire.in_flight().collect::<Vec<_>>(), slots);
}

#[test]
fn a_stream_that_ends_tells_whether_a_pdu_was_cut() {
    let mut harness = Harness::ready(OPTIONS);
    harness.read(1, 512);
    let cid = harness.send_commands()[0];
    let data = c2h_data(cid, 0, &[1; 512], Mark::Last, NONE);
    for (piece, within_pdu) in [(0, false), (1, true), (23, true), (24, true), (500, true), (data.len(), false)] {
        let mut harness = Harness::ready(OPTIONS);
        harness.read(1, 512);
        harness.send();
        harness.receive(&data[..piece]).expect("it is right");
        assert_eq!(harness.wire.close(), ProtocolError::Closed { within_pdu }, "after {piece} bytes");
    }
}

#[test]
fn a_lie_is_answered_with_a_request_to_terminate_that_has_the_header() {
    let mut harness = Harness::ready(OPTIONS);
    let pdu = response(0x55, Status::SUCCESS, NONE);
    harness.receive(&pdu).expect_err("no such command");
    let sent = harness.send();
    let (request, data) = TermReq::read_from_prefix(&sent).expect("it is a request to terminate");
    assert_eq!((request.header.kind, request.header.hlen, request.header.plen), (PduType::H2C_TERM_REQ, 24, 48));
    assert_eq!((request.fes, request.fei), (FatalError::INVALID_PDU_HEADER_FIELD, [20, 0, 0, 0]));
    assert_eq!(data, &pdu[..24]);
}

#[test]
fn nothing_is_said_within_a_pdu_that_was_sent_in_part() {
    let mut harness = Harness::ready(OPTIONS);
    harness.command(1);
    harness.send_some(10);
    harness.receive(&response(0x55, Status::SUCCESS, NONE)).expect_err("no such command");
    assert!(harness.send().is_empty());
}
