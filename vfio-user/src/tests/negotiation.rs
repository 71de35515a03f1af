//! `VERSION`, and what comes before it.

use super::{CAPABILITIES, Harness};
use crate::{Limits, ProtocolError, client, command};

fn fails(bytes: &[u8]) -> (ProtocolError, Option<u32>) {
    let mut harness = Harness::fresh(Limits::default());
    harness.send(bytes, Vec::new());
    let error = harness.next().expect_err("the session fails");
    assert_eq!(harness.next().expect_err("the session stays failed"), error);
    assert_eq!(harness.session.receive(&client::version(9, 0, ""), Vec::new()), Err(error));
    assert!(!harness.session.wants_input() && !harness.session.is_negotiated());
    (error, harness.drain().first().and_then(|reply| reply.error))
}

fn capabilities(payload: &[u8]) -> serde_json::Value {
    let json = payload[4..].strip_suffix(&[0]).expect("the JSON ends with a NUL");
    serde_json::from_slice::<serde_json::Value>(json).expect("it is JSON")["capabilities"].clone()
}

#[test]
fn the_version_is_negotiated_with_what_the_server_accepts() {
    let mut harness = Harness::fresh(Limits::default());
    assert!(!harness.session.is_negotiated());
    let reply = harness.ask(&client::version(0x1234, 1, CAPABILITIES));
    assert!(harness.session.is_negotiated());
    assert_eq!((reply.msg_id, reply.command, reply.is_reply, reply.error), (0x1234, command::VERSION, true, None));
    assert_eq!(reply.payload[..4], [0, 0, 1, 0]);
    let capabilities = capabilities(&reply.payload);
    assert_eq!(capabilities["max_msg_fds"], 16);
    assert_eq!(capabilities["max_data_xfer_size"], 1 << 20);
    assert_eq!(capabilities["pgsizes"], 4096);
    assert_eq!(capabilities["max_dma_maps"], 65535);
    assert_eq!(capabilities.get("write_multiple"), None);
}

#[test]
fn the_lesser_minor_version_is_spoken() {
    for (proposed, spoken) in [(0, 0), (1, 1), (7, 1)] {
        let reply = Harness::fresh(Limits::default()).ask(&client::version(1, proposed, CAPABILITIES));
        assert_eq!(reply.payload[..4], [0, 0, spoken, 0]);
    }
}

#[test]
fn write_multiple_is_told_to_a_client_that_proposed_it() {
    let reply = Harness::fresh(Limits::default()).ask(&client::version(
        1,
        0,
        r#"{"capabilities":{"write_multiple":true,"migration":{"pgsize":4096}}}"#,
    ));
    assert_eq!(capabilities(&reply.payload)["write_multiple"], true);
}

/// QEMU has room for no more than its own message.
#[test]
fn the_reply_is_no_longer_than_the_proposal_of_qemu() {
    let proposal = client::version(
        1,
        0,
        r#"{"capabilities": {"pgsizes": 4096, "max_msg_fds": 16, "max_dma_maps": 65535, "max_data_xfer_size": 1048576, "migration": {"max_bitmap_size": 268435456, "pgsize": 4096}, "write_multiple": true}}"#,
    );
    let reply = Harness::fresh(Limits::default()).ask(&proposal);
    assert!(16 + reply.payload.len() <= proposal.len());
}

#[test]
fn a_client_without_version_data_is_taken() {
    for json in ["", "{}", r#"{"capabilities":{}}"#] {
        let reply = Harness::fresh(Limits::default()).ask(&client::version(1, 0, json));
        assert_eq!(capabilities(&reply.payload)["max_msg_fds"], 16);
    }
}

#[test]
fn another_major_version_fails_with_an_answer() {
    let mut message = client::version(1, 3, "");
    message[16] = 2;
    assert_eq!(fails(&message), (ProtocolError::Version { major: 2, minor: 3 }, Some(libc::EINVAL.unsigned_abs())));
}

#[test]
fn version_data_that_is_not_valid_fails_with_an_answer() {
    let deep = "[".repeat(4000);
    let bad = ["{", "[]", "7", r#"{"capabilities":7}"#, r#"{"capabilities":{"max_msg_fds":-1}}"#, deep.as_str()];
    for json in bad.into_iter().chain([r#"{"capabilities":{"max_data_xfer_size":0}}"#, "{}\0{}"]) {
        let (error, errno) = fails(&client::version(1, 0, json));
        assert!(matches!(error, ProtocolError::Capabilities { .. }), "{json}: {error}");
        assert_eq!(errno, Some(libc::EINVAL.unsigned_abs()));
    }
    let (error, _) = fails(&client::command(1, command::VERSION, &[0, 0]));
    assert!(matches!(error, ProtocolError::Capabilities { .. }));
}

#[test]
fn a_command_before_the_version_fails_with_an_answer() {
    let expected = ProtocolError::NotNegotiated { command: command::DEVICE_GET_INFO };
    assert_eq!(fails(&client::device_info(1)), (expected, Some(libc::EINVAL.unsigned_abs())));
}

#[test]
fn a_reply_before_the_version_fails() {
    let expected = ProtocolError::UnexpectedReply { msg_id: 0, command: command::DMA_READ };
    assert_eq!(fails(&client::dma_read_reply(0, 0, &[0])), (expected, None));
}

#[test]
fn a_second_version_is_refused() {
    assert_eq!(Harness::new().refused(&client::version(2, 0, CAPABILITIES)), libc::EINVAL);
}
