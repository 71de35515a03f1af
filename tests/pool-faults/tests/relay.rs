//! The relay does what it is told, to a target that sends back what comes.
#![forbid(unsafe_code)]

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use nvme_spec::tcp::{H2cData, PduType};
use pool_faults::pdu::{self, Digests};
use pool_faults::{Arrival, Cut, Mode, Relay, Verdict, Way, Which};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long something is looked for that must not come.
const MOMENT: Duration = Duration::from_millis(100);

/// Returns a target that sends back what comes, for as long as this process lives.
fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let mut from = stream.try_clone().expect("the same stream");
                let _ = io::copy(&mut from, &mut &stream);
                let _ = stream.shutdown(Shutdown::Both);
            });
        }
    });
    port
}

fn connect(relay: &Relay) -> TcpStream {
    let stream = TcpStream::connect_timeout(&relay.address(), PATIENCE).expect("the relay accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    stream
}

/// Sends bytes, which must come back.
fn round_trip(mut stream: &TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).expect("they are taken");
    assert_eq!(receive(stream, bytes.len()).expect("they come back"), bytes);
}

fn receive(mut stream: &TcpStream, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).map(|()| bytes)
}

/// Returns a connection that is closed at once, which may show before or after it was established.
fn refused(relay: &Relay) -> io::Error {
    let connected = TcpStream::connect_timeout(&relay.address(), PATIENCE);
    connected.and_then(|stream| receive(&stream, 1)).expect_err("it is refused")
}

/// Nothing comes for a moment.
fn is_silent(mut stream: &TcpStream) -> bool {
    stream.set_read_timeout(Some(MOMENT)).expect("a time-out");
    let silent = stream.read(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    silent
}

/// Returns a PDU with some data.
fn pdu_with(data: &[u8]) -> Vec<u8> {
    let header = H2cData { header: pdu::header(PduType::H2C_DATA), ..H2cData::default() };
    pdu::build(&header, data, Digests::default(), 4)
}

#[test]
fn connections_are_passed_on_and_numbered_as_they_come() {
    let relay = Relay::to_port(echo());
    let streams = [connect(&relay), connect(&relay)];
    for stream in &streams {
        round_trip(stream, &pdu_with(b"hello"));
        round_trip(stream, b"\xff\xff no PDU at all, which is passed on all the same");
    }
    assert_eq!(relay.connections(), 2);
    assert_eq!(relay.counts(1, Way::ToTarget).pdus_of(PduType::H2C_DATA), 1);
    drop(streams);
    assert!(relay.wait(PATIENCE, |relay| !relay.is_open(0) && !relay.is_open(1)), "the ends were passed on");
}

#[test]
fn a_stalled_connection_stays_up_and_what_came_arrives_on_release_even_if_its_host_has_gone() {
    let relay = Relay::to_port(echo());
    let (stalled, other) = (connect(&relay), connect(&relay));
    round_trip(&stalled, &pdu_with(b"before"));
    relay.set(Which::One(0), Way::ToTarget, Mode::Stall);
    (&stalled).write_all(&pdu_with(b"kept")).expect("it is taken");
    assert!(is_silent(&stalled));
    round_trip(&other, &pdu_with(b"not stalled"));
    drop(stalled);
    assert_eq!(relay.counts(0, Way::ToHost).pdus_of(PduType::H2C_DATA), 1);
    relay.release();
    // The target got what was kept: it has sent it back.
    assert!(relay.wait(PATIENCE, |relay| relay.counts(0, Way::ToHost).pdus_of(PduType::H2C_DATA) == 2));
}

#[test]
fn a_delay_comes_on_top() {
    let relay = Relay::to_port(echo());
    let stream = connect(&relay);
    relay.set(Which::All, Way::ToHost, Mode::Delay(Duration::from_millis(150)));
    let since = Instant::now();
    round_trip(&stream, &pdu_with(b"late"));
    assert!(since.elapsed() >= Duration::from_millis(150), "it took {:?}", since.elapsed());
}

#[test]
fn a_cut_is_a_reset_or_an_end_as_it_was_said() {
    let relay = Relay::to_port(echo());
    let (reset, closed) = (connect(&relay), connect(&relay));
    round_trip(&reset, b"\xff\xff\xff\xff\xff\xff\xff\xff");
    round_trip(&closed, b"\xff\xff\xff\xff\xff\xff\xff\xff");
    relay.cut(Which::One(0), Cut::Reset);
    relay.cut(Which::One(1), Cut::Close);
    assert_eq!(receive(&reset, 1).expect_err("it was cut").kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(receive(&closed, 1).expect_err("it was cut").kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn new_connections_are_refused_ignored_or_lost_as_it_was_said() {
    let relay = Relay::to_port(echo());
    relay.refuse(1);
    refused(&relay);
    relay.arrivals(Arrival::Refuse);
    assert_eq!(refused(&relay).kind(), io::ErrorKind::ConnectionReset);
    relay.arrivals(Arrival::Silence);
    let mut silent = connect(&relay);
    silent.write_all(b"anybody?").expect("the kernel takes it");
    assert!(is_silent(&silent));
    relay.arrivals(Arrival::Drop);
    for _ in 0..2 {
        let lost = TcpStream::connect_timeout(&relay.address(), MOMENT).expect_err("SYNs are lost");
        assert_eq!(lost.kind(), io::ErrorKind::TimedOut);
    }
    relay.arrivals(Arrival::Pass);
    round_trip(&connect(&relay), &pdu_with(b"hello"));
    assert_eq!((relay.refused(), relay.silent(), relay.connections()), (2, 1, 1));
}

#[test]
fn a_byte_is_changed_where_it_was_asked_for_and_only_once() {
    let relay = Relay::to_port(echo());
    let stream = connect(&relay);
    relay.corrupt_pdu(Which::All, Way::ToTarget, PduType::H2C_DATA, 25);
    let pdu = pdu_with(&[1; 8]);
    (&stream).write_all(&pdu).expect("it is taken");
    let mut changed = pdu.clone();
    changed[25] = !changed[25];
    assert_eq!(receive(&stream, pdu.len()).expect("it comes back"), changed);
    assert_eq!(relay.left_to_corrupt(), 0);
    round_trip(&stream, &pdu);
}

#[test]
fn a_hook_holds_one_pdu_while_others_go_on_and_cuts_inside_another() {
    let relay = Relay::to_port(echo());
    let stream = connect(&relay);
    relay.hook(|pdu| match (pdu.way, pdu.bytes.last()) {
        (Way::ToTarget, Some(b'H')) => Verdict::Hold,
        (Way::ToTarget, Some(b'L')) => Verdict::Lose,
        (Way::ToTarget, Some(b'C')) => Verdict::CutInside(10),
        _ => Verdict::Pass,
    });
    let [held, lost, cut, other] = [b"H", b"L", b"C", b"O"].map(|data| pdu_with(data));
    (&stream).write_all(&[held.clone(), lost, other.clone()].concat()).expect("they are taken");
    assert_eq!(receive(&stream, other.len()).expect("it comes back"), other);
    assert!(is_silent(&stream));
    relay.release_held(Which::All);
    assert_eq!(receive(&stream, held.len()).expect("it comes back"), held);
    (&stream).write_all(&cut).expect("it is taken");
    let mut rest = Vec::new();
    (&stream).read_to_end(&mut rest).expect("the stream ends");
    assert_eq!(relay.counts(0, Way::ToTarget).pdus_of(PduType::H2C_DATA), 4);
}

#[test]
fn a_relay_that_is_dropped_ends_its_connections_at_once() {
    let relay = Relay::to_port(echo());
    let stream = connect(&relay);
    relay.stall();
    (&stream).write_all(&pdu_with(b"kept for good")).expect("it is taken");
    let since = Instant::now();
    drop(relay);
    assert!(receive(&stream, 1).is_err());
    assert!(since.elapsed() < PATIENCE / 4);
}
