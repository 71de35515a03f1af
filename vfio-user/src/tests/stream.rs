//! Pieces, bounds, and input that nobody meant.

use std::fmt::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use proptest::prelude::*;

use super::{Access, Harness, inode, is_closed, pair};
use crate::{Event, IrqData, Limits, MAX_READ, ProtocolError, Token, client};

/// A message, and how many file descriptors go with it.
type Sent = (Vec<u8>, usize);

/// What came of a stream: events and output in order, and accesses to the device.
#[derive(Debug, Default, PartialEq)]
struct StreamOutcome {
    events: String,
    output: Vec<u8>,
    seen: Vec<Access>,
}

impl StreamOutcome {
    /// Handles all that is there, and answers it.
    fn take(&mut self, harness: &mut Harness) {
        while let Some(event) = harness.next().expect("the stream is valid") {
            let token = describe(event, &mut self.events);
            harness.session.reply(token, Ok(()));
        }
        while let Some(chunk) = harness.session.output() {
            self.output.extend_from_slice(chunk.bytes);
            let size = chunk.bytes.len();
            harness.session.sent(size);
        }
        self.seen.clone_from(&harness.device.seen);
    }
}

fn describe(event: Event, into: &mut String) -> Token {
    let (token, text) = match event {
        Event::Map(token, map) => (token, format!("map {:#x} {:?}", map.addr, map.fd.map(inode))),
        Event::Unmap(token, unmap) => (token, format!("{unmap:?}")),
        Event::SetIrqs(token, request) => {
            let data = match request.data {
                IrqData::Eventfds(fds) => format!("{:?}", fds.into_iter().map(|fd| fd.map(inode)).collect::<Vec<_>>()),
                other => format!("{other:?}"),
            };
            (token, format!("irqs {} {} {data}", request.start, request.count))
        }
        Event::Reset(token) => (token, "reset".to_owned()),
        Event::ConfigWritten(token) => (token, "configuration space".to_owned()),
        Event::DmaDone { .. } => panic!("nothing was asked for"),
    };
    writeln!(into, "{text}").expect("a string can be written to");
    token
}

fn sent() -> impl Strategy<Value = Sent> {
    (0..12_u8, any::<u16>(), 0..4_u32).prop_map(|(kind, id, n)| {
        let at = 0x1000 * u64::from(n);
        match kind {
            0 => (client::dma_map(id, at, 0x1000, 0), 0),
            1 => (client::dma_map(id, at, 0x1000, 0), 1),
            2 => (client::dma_unmap(id, at, 0x1000, 0), 0),
            3 => (client::set_irqs(id, 2, 4 | 32, n, 3, &[]), 3),
            4 => (client::set_irqs(id, 2, 2 | 32, n, 3, &[1, 0, 1]), 0),
            5 => (client::region_write(id, 0, at, &vec![7; 1 + 90 * n as usize]), 0),
            6 => (client::region_read(id, 7, 0, 16 * (n + 1)), 0),
            7 => (client::no_reply(client::region_write_multi(id, &[(0, at, &[1; 4])])), 0),
            8 => (client::reset(id), 0),
            // File descriptors that nobody wants, and commands that are refused.
            9 => (client::region_info(id, n, 64), 1),
            10 => (client::command(id, 99, &[0; 30]), 2),
            _ => (client::dma_map(id, at, 0, 0), 1),
        }
    })
}

/// The reads in which the kernel may give these messages, each sent by one `sendmsg`: cut anywhere, and after each
/// message that file descriptors go with. They come with the first byte of theirs.
fn reads(messages: &[Sent], cuts: &[usize], pool: &[UnixStream]) -> Vec<(Vec<u8>, Vec<OwnedFd>)> {
    let total: usize = messages.iter().map(|(bytes, _)| bytes.len()).sum();
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % total).collect();
    let mut begins = Vec::new();
    let (mut stream, mut next) = (Vec::new(), 0);
    for (bytes, count) in messages {
        let copies = (next..next + count).map(|at| pool[at % pool.len()].try_clone().expect("it can be cloned").into());
        begins.push((stream.len(), copies.collect::<Vec<OwnedFd>>()));
        next += count;
        stream.extend_from_slice(bytes);
        if *count > 0 {
            ends.push(stream.len());
        }
    }
    ends.push(total);
    ends.sort_unstable();
    ends.dedup();
    let mut reads = Vec::new();
    let mut start = 0;
    for end in ends.into_iter().filter(|end| *end > 0) {
        let mut fds = Vec::new();
        for (begin, of_message) in &mut begins {
            if (start..end).contains(begin) {
                fds.append(of_message);
            }
        }
        reads.push((stream[start..end].to_vec(), fds));
        start = end;
    }
    reads
}

fn run(reads: Vec<(Vec<u8>, Vec<OwnedFd>)>) -> StreamOutcome {
    let mut harness = Harness::new();
    let mut outcome = StreamOutcome::default();
    for (bytes, fds) in reads {
        harness.send(&bytes, fds);
        outcome.take(&mut harness);
    }
    outcome
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_split_of_a_stream_comes_to_the_same(
        messages in prop::collection::vec(sent(), 1..10),
        cuts in prop::collection::vec(any::<usize>(), 0..12),
    ) {
        let pool: Vec<UnixStream> = (0..8).map(|_| pair().1).collect();
        let (mut whole, mut at) = (Vec::new(), 0);
        for (bytes, count) in &messages {
            let fds = (at..at + count).map(|at| pool[at % pool.len()].try_clone().expect("it can be cloned").into());
            whole.push((bytes.clone(), fds.collect()));
            at += count;
        }
        prop_assert_eq!(run(reads(&messages, &cuts, &pool)), run(whole));
    }

    #[test]
    fn arbitrary_bytes_neither_panic_nor_are_kept(
        negotiated in any::<bool>(),
        pieces in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..200), 0..3_usize), 0..8),
    ) {
        let mut harness = if negotiated { Harness::new() } else { Harness::fresh(Limits::default()) };
        let mut probes = Vec::new();
        for (bytes, count) in pieces {
            let fds = (0..count).map(|_| { let (probe, file) = pair(); probes.push(probe); file.into() }).collect();
            let failed = harness.session.receive(&bytes, fds).is_err() || exhaust(&mut harness).is_err();
            prop_assert_eq!(failed, !harness.session.wants_input());
        }
        drop(harness);
        prop_assert!(probes.iter().all(is_closed));
    }

    #[test]
    fn arbitrary_commands_keep_the_stream_in_step(
        commands in prop::collection::vec((0..20_u16, prop::collection::vec(field(), 0..12), 0..3_usize), 1..20),
    ) {
        let mut harness = Harness::new();
        for (command, fields, count) in commands {
            let payload: Vec<u8> = fields.iter().flat_map(|field| field.to_le_bytes()).collect();
            harness.send(&client::command(3, command, &payload), (0..count).map(|_| pair().1.into()).collect());
            prop_assert!(exhaust(&mut harness).is_ok());
            prop_assert_eq!(harness.drain().len(), 1, "one command has one answer");
        }
        prop_assert_eq!(harness.ask(&client::device_info(4)).msg_id, 4);
    }
}

/// Numbers that are likely to mean something.
fn field() -> impl Strategy<Value = u32> {
    prop_oneof![0..40_u32, Just(4096), Just(0x4000), Just(u32::MAX), any::<u32>()]
}

/// Handles and answers all that there is.
fn exhaust(harness: &mut Harness) -> Result<(), ProtocolError> {
    while let Some(event) = harness.next()? {
        let token = describe(event, &mut String::new());
        harness.session.reply(token, Ok(()));
    }
    Ok(())
}

#[test]
fn reads_of_the_hinted_size_end_where_messages_end() {
    let messages = [client::device_info(1), client::region_write(2, 0, 0, &[7; 300]), client::reset(3)];
    let stream = messages.concat();
    let mut harness = Harness::new();
    let (mut at, mut sizes, mut outcome) = (0, Vec::new(), StreamOutcome::default());
    while at < stream.len() {
        let size = harness.session.read_hint();
        harness.send(&stream[at..at + size], Vec::new());
        at += size;
        sizes.push(size);
        outcome.take(&mut harness);
    }
    assert_eq!(sizes, [16, 16, 16, 316, 16]);
    assert_eq!(outcome.events, "reset\n");
    let mut long = client::region_write(2, 0, 0, &[]);
    long[4..8].copy_from_slice(&(1_u32 << 20).to_le_bytes());
    harness.send(&long[..16], Vec::new());
    assert_eq!(harness.session.read_hint(), MAX_READ);
}

#[test]
fn a_client_that_does_not_read_is_not_read_from() {
    let mut harness = Harness::new();
    let mut sent = 0;
    while harness.session.wants_input() {
        harness.send(&client::region_read(1, 7, 0, 4096), Vec::new());
        assert!(harness.next().expect("it goes on").is_none());
        sent += 1;
        assert!(sent < 100, "the output is bounded");
    }
    // What comes all the same waits, and is done once the client has read.
    harness.send(&client::region_read(2, 7, 0, 4096), Vec::new());
    assert!(harness.next().expect("it goes on").is_none());
    assert_eq!(harness.device.seen.len(), sent);
    assert_eq!(harness.drain().len(), sent);
    assert!(harness.session.wants_input());
    assert!(harness.next().expect("it goes on").is_none());
    assert_eq!(harness.drain().len(), 1);
}

#[test]
fn short_answers_are_bounded_too() {
    let mut harness = Harness::new();
    let mut sent = 0;
    while harness.session.wants_input() {
        harness.send(&client::command(1, 99, &[]), Vec::new());
        assert!(harness.next().expect("it goes on").is_none());
        sent += 1;
        assert!(sent < 10_000, "the output is bounded");
    }
}

#[test]
fn a_client_whose_commands_wait_is_not_read_from() {
    let mut harness = Harness::new();
    let mut tokens = Vec::new();
    while harness.session.wants_input() {
        harness.send(&client::reset(1), Vec::new());
        let Event::Reset(token) = harness.event() else { panic!("it is a reset") };
        tokens.push(token);
        assert!(tokens.len() < 10_000, "waiting commands are bounded");
    }
    harness.send(&client::reset(1), Vec::new());
    assert!(harness.next().expect("it goes on").is_none());
    harness.session.reply(tokens.remove(0), Ok(()));
    assert!(harness.session.wants_input());
    assert!(matches!(harness.event(), Event::Reset(_)));
}

#[test]
fn input_that_was_not_wanted_is_refused_in_the_end() {
    let mut harness = Harness::new();
    let mut long = client::region_write(2, 0, 0, &[]);
    long[4..8].copy_from_slice(&(1_u32 << 20).to_le_bytes());
    harness.send(&long, Vec::new());
    let piece = vec![0; MAX_READ];
    let mut kept = long.len();
    let error = loop {
        match harness.session.receive(&piece, Vec::new()) {
            Ok(()) => kept += piece.len(),
            Err(error) => break error,
        }
    };
    assert!(kept <= (1 << 20) + 32 + MAX_READ);
    assert_eq!(error, ProtocolError::TooMuchInput { bytes: kept + MAX_READ, max: (1 << 20) + 32 + MAX_READ });
    assert_eq!(harness.next().expect_err("it has failed"), error);
}

#[test]
fn a_message_of_the_greatest_size_is_taken() {
    let mut harness = Harness::new();
    let message = client::region_write(2, 0, 0, &vec![0; 1 << 20]);
    for piece in message.chunks(MAX_READ) {
        assert!(harness.session.wants_input());
        harness.send(piece, Vec::new());
        assert!(harness.next().expect("it goes on").is_none());
    }
    assert_eq!(harness.drain()[0].error, Some(libc::EINVAL.unsigned_abs()), "it is more than the region has");
}

#[test]
fn file_descriptors_without_messages_are_bounded() {
    let mut harness = Harness::new();
    let header = &client::reset(1)[..15];
    let fds = |count: usize| (0..count).map(|_| pair().1.into()).collect::<Vec<OwnedFd>>();
    harness.send(&header[..1], fds(129));
    assert!(harness.session.wants_input());
    harness.send(&header[1..2], fds(129));
    assert!(!harness.session.wants_input());
    let error = harness.session.receive(&header[2..3], fds(1)).expect_err("it fails");
    assert_eq!(error, ProtocolError::TooManyFds { count: 259, max: 258 });
}

#[test]
fn file_descriptors_of_a_message_that_ended_do_not_go_to_the_next() {
    let mut harness = Harness::new();
    let (probe, file) = pair();
    harness.send(&client::device_info(1), vec![file.into()]);
    harness.send(&client::dma_map(2, 0, 4096, 0), Vec::new());
    let Event::Map(token, request) = harness.event() else { panic!("it is a mapping") };
    assert!(request.fd.is_none() && is_closed(&probe));
    harness.session.reply(token, Ok(()));
}

#[test]
fn half_a_message_is_held_and_dropped_with_its_session() {
    let mut harness = Harness::new();
    let (probe, file) = pair();
    harness.send(&client::dma_map(1, 0, 4096, 0)[..20], vec![file.into()]);
    assert!(harness.next().expect("it goes on").is_none());
    assert!(harness.session.wants_input() && harness.session.output().is_none());
    drop(harness);
    assert!(is_closed(&probe));
}

#[test]
fn a_message_of_an_unknown_type_ends_the_session() {
    let mut harness = Harness::new();
    let mut message = client::device_info(1);
    message[8] = 2;
    harness.send(&message, Vec::new());
    assert_eq!(harness.next().expect_err("it fails"), ProtocolError::Type { kind: 2 });
}

#[test]
fn questions_are_answered_while_a_mapping_is_pending_and_what_changes_something_waits() {
    let mut harness = Harness::new();
    let only_questions =
        |harness: &mut Harness| harness.session.next_of(&mut harness.device, true).expect("it goes on");
    harness.send(&client::region_read(1, 7, 0, 4), Vec::new());
    assert!(only_questions(&mut harness).is_none());
    assert_eq!(harness.drain().len(), 1, "a question is answered");
    harness.send(&client::dma_map(2, 0, 4096, 0), Vec::new());
    harness.send(&client::region_read(3, 7, 0, 4), Vec::new());
    assert!(only_questions(&mut harness).is_none());
    assert_eq!(harness.drain().len(), 0, "the order stays");
    assert!(matches!(harness.event(), Event::Map(..)));
    assert!(only_questions(&mut harness).is_none());
    assert_eq!(harness.drain().len(), 1);
}
