//! Queues over sockets of this machine: with a scripted target, and with peers that do one thing wrong.

mod common;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;

use common::{Host, Memory, PATIENCE, Rig, options};
use nvme_host::tcp::{Digests, ProtocolError, StillSending, SubmitError};
use nvme_spec::nvm::BlockDw12;
use nvme_spec::tcp::{C2hData, IcResp, PduDigests, PduFlags, PduHeader, PduType};
use nvme_spec::{IoOpcode, Sqe};
use nvme_tcp_queue::{Queue, QueueError};
use pool_faults::{Arrival, Cut, Do, Namespace, On, Options, Relay, ScriptedTarget};
use rustix::io::Errno;
use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_send_buffer_size};
use zerocopy::IntoBytes;

const BOTH: Digests = Digests { header: true, data: true };
const NONE: Digests = Digests { header: false, data: false };
const SIZES: [usize; 6] = [512, 4096, 8192, 32768, 65536, 131_072];
/// Pieces that tear everything.
const TORN: [usize; 7] = [1, 511, 3, 4096, 7, 1000, 2];

fn target(options: Options) -> ScriptedTarget {
    ScriptedTarget::with(options, [(1, Namespace::new(512, 16 << 10, 1))])
}

fn connect(target: &ScriptedTarget, digests: Digests) -> Host {
    Host::connect(target.address(), &target.nqn(), 32, digests)
}

fn blocks(bytes: usize) -> BlockDw12 {
    BlockDw12::of(u16::try_from(bytes / 512 - 1).expect("a command has not so many blocks"))
}

/// Returns bytes that are different for each seed.
fn bytes(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| ((at / 7 + seed * 31 + at * seed) % 251).to_le_bytes()[0]).collect()
}

/// Polls until the connection fails, and returns why.
fn failure(rig: &mut Rig) -> QueueError {
    rig.wait(|_| false).expect_err("it waits for nothing else")
}

/// Writes and reads commands of all sizes side by side, twice over, in such pieces.
fn write_and_read(host: &mut Host, pool: &ScriptedTarget, pieces: &[usize]) {
    for round in 0..2 {
        let data = |at: usize| bytes(at + round, SIZES[at]);
        let place = |at: usize| at as u64 * 256;
        let slots: Vec<_> = (0..SIZES.len())
            .map(|at| host.io.write(Sqe::write(1, place(at), blocks(SIZES[at])), &Memory::of(&data(at), pieces)))
            .collect();
        for slot in slots {
            host.io.succeed(slot);
        }
        let memories: Vec<_> = SIZES.iter().map(|size| Memory::of(&vec![0xee; *size], pieces)).collect();
        let slots: Vec<_> = (0..SIZES.len())
            .map(|at| host.io.read(Sqe::read(1, place(at), blocks(SIZES[at])), &memories[at]))
            .collect();
        for slot in slots {
            host.io.succeed(slot);
        }
        for (at, memory) in memories.iter().enumerate() {
            assert_eq!(pool.read(1, place(at), (SIZES[at] / 512) as u64), data(at), "it is in the pool");
            assert!(memory.to_vec() == data(at), "{} bytes are read as they were written", SIZES[at]);
        }
    }
}

#[test]
fn what_is_written_is_in_the_pool_and_is_read_again_in_memory_torn_anywhere() {
    for digests in [NONE, BOTH] {
        for (in_capsule, max_c2h) in [(0, 4096), (8192, 128 << 10)] {
            let pool = target(Options { in_capsule, max_c2h, max_h2c: 8192, ..Options::default() });
            let mut host = connect(&pool, digests);
            write_and_read(&mut host, &pool, &[]);
            write_and_read(&mut host, &pool, &TORN);
        }
    }
}

#[test]
fn sends_that_a_tiny_socket_buffer_tears_lose_nothing() {
    let pool = target(Options { in_capsule: 0, ..Options::default() });
    let mut host = Host::with(pool.address(), &pool.nqn(), (32, BOTH), |options| {
        let stream = TcpStream::connect(pool.address()).expect("the target listens");
        stream.set_nonblocking(true).expect("it is a socket");
        set_socket_send_buffer_size(&stream, 1).expect("the kernel has a least size");
        // With less, each segment waits for a timer of the kernel.
        set_socket_recv_buffer_size(&stream, 32 << 10).expect("the kernel has that");
        Queue::over(stream.into(), options, 0).expect("the options are valid")
    });
    write_and_read(&mut host, &pool, &TORN);
}

#[test]
fn a_port_at_which_nobody_listens_is_told() {
    let address = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port is free");
    let error = Queue::<Memory>::connect(address, None, options(4, NONE, 0), 0)
        .map_or_else(|error| error, |queue| failure(&mut Rig::of(queue)));
    assert_eq!(error, QueueError::NotConnected { reason: Errno::CONNREFUSED });
    assert!(error.to_string().starts_with("the connection cannot be made: "), "{error}");
}

#[test]
fn addresses_that_do_not_go_together_are_told() {
    let source: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    let address: SocketAddr = "[::1]:4420".parse().expect("an address");
    let error = Queue::<Memory>::connect(address, Some(source), options(4, NONE, 0), 0).err().expect("it is refused");
    assert!(error.to_string().contains("[::1]:4420"), "{error}");
}

#[test]
fn a_source_address_is_connected_from() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it has one");
    let source = "127.0.0.2:0".parse().expect("an address");
    let queue = Queue::<Memory>::connect(address, Some(source), options(4, NONE, 0), 0).expect("all of 127/8 is here");
    let (_, from) = listener.accept().expect("it connects");
    assert_eq!(from.ip(), source.ip());
    drop(queue);
}

#[test]
fn a_connection_that_is_not_made_in_time_ends_with_its_deadline() {
    let pool = target(Options::default());
    let relay = Relay::to(pool.address());
    relay.arrivals(Arrival::Drop);
    let address = SocketAddr::from(([127, 0, 0, 1], relay.port()));
    let mut queue = Queue::<Memory>::connect(address, None, options(4, NONE, 0), 7).expect("there are sockets");
    assert_eq!(queue.poll(30_006, drop), Ok(false));
    let error = Err(QueueError::ConnectTimedOut { ticks: 30_000 });
    assert_eq!(queue.poll(30_007, drop), error);
    assert_eq!((queue.poll(0, drop), queue.flush()), (error, error), "it stays so");
}

#[test]
fn an_ic_req_that_is_not_answered_ends_with_its_deadline() {
    let (socket, _peer) = pair();
    let mut queue = Queue::<Memory>::over(socket, options(4, NONE, 0), 0).expect("the options are valid");
    assert_eq!(queue.poll(10, drop), Ok(true), "ICReq goes");
    assert_eq!(queue.poll(30_009, drop), Ok(false));
    assert_eq!(queue.poll(30_010, drop), Err(QueueError::InitializeTimedOut { ticks: 30_000 }));
}

/// Returns a socket for a queue, and its peer, which waits.
fn pair() -> (std::os::fd::OwnedFd, UnixStream) {
    let (socket, peer) = UnixStream::pair().expect("there are sockets");
    socket.set_nonblocking(true).expect("it is a socket");
    peer.set_read_timeout(Some(PATIENCE)).expect("it is a socket");
    (socket.into(), peer)
}

/// Returns a queue that is set up, and its peer.
fn ready(depth: u16, in_capsule_data: u32) -> (Rig, UnixStream) {
    let (socket, mut peer) = pair();
    let mut rig = Rig::of(Queue::over(socket, options(depth, NONE, in_capsule_data), 0).expect("valid options"));
    rig.queue.flush().expect("it is connected");
    peer.read_exact(&mut [0; 128]).expect("ICReq comes");
    let header = PduHeader { kind: PduType::IC_RESP, hlen: 128, plen: 128, ..PduHeader::default() };
    let response = IcResp { header, pfv: 0, cpda: 0, dgst: PduDigests::new(), maxh2cdata: 8192, reserved_16: [0; 112] };
    peer.write_all(response.as_bytes()).expect("it is there");
    rig.wait(|rig| rig.queue.parameters().is_some()).expect("the answer is right");
    (rig, peer)
}

#[test]
fn data_that_comes_in_any_steps_is_all_in_its_place() {
    let data = bytes(3, 65536);
    for step in [1, 3, 23, 977, 30_000, 60_000] {
        let (mut rig, mut peer) = ready(2, 0);
        let memories = [0, 1].map(|_| Memory::of(&vec![0xee; 65536], &TORN));
        let slots = memories.each_ref().map(|memory| rig.read(Sqe::read(1, 0, blocks(65536)), memory));
        rig.queue.flush().expect("the connection stands");
        let mut capsules = [0; 144];
        peer.read_exact(&mut capsules).expect("both come at once");
        let mut stream = Vec::new();
        for capsule in capsules.chunks(72) {
            let flags = PduFlags::new().with_last_pdu(true).with_success(true);
            let header = PduHeader { kind: PduType::C2H_DATA, flags, hlen: 24, pdo: 24, plen: 24 + 65536 };
            let cccid = u16::from_le_bytes([capsule[10], capsule[11]]);
            stream.extend(C2hData { header, cccid, datal: 65536, ..C2hData::default() }.as_bytes());
            stream.extend(&data);
        }
        for part in stream.chunks(step) {
            peer.write_all(part).expect("the socket has room");
            let ended = &mut rig.ended;
            while rig.queue.poll(0, |command| ended.push(command)).expect("the peer is right") {}
        }
        for slot in slots {
            rig.succeed(slot);
        }
        assert!(memories.iter().all(|memory| memory.to_vec() == data), "in steps of {step} bytes");
    }
}

#[test]
fn a_peer_that_never_reads_holds_nobody_up_and_all_is_given_back() {
    let (mut rig, _peer) = ready(128, 8192);
    let memory = Memory::of(&[7; 8192], &TORN);
    let slots: Vec<_> = (0..128).map(|_| rig.write(Sqe::write(1, 0, blocks(8192)), &memory)).collect();
    let refused = rig.queue.submit_write(Sqe::write(1, 0, blocks(8192)), memory).expect_err("all places are taken");
    assert_eq!(refused.reason, SubmitError::Full { depth: 128 });
    let mut polls = 0;
    while rig.queue.poll(0, drop).expect("the connection stands") {
        polls += 1;
        assert!(polls < 1000, "nothing more goes when the socket is full");
    }
    assert!(matches!(rig.queue.give_up(slots[127]), Err(StillSending)), "its data waits to be sent");
    let mut unknown = Vec::new();
    rig.queue.close(|slot, _| unknown.push(slot));
    unknown.sort();
    assert_eq!(unknown, {
        let mut all = slots;
        all.sort();
        all
    });
    assert_eq!(failure(&mut rig), QueueError::Closed);
}

#[test]
fn a_peer_that_floods_with_what_it_may_not_send_is_told_so() {
    let (mut rig, mut peer) = ready(4, 0);
    peer.write_all(&vec![0x07; 64 << 10]).expect("the socket has room");
    let error = failure(&mut rig);
    let expected = ProtocolError::HeaderLength { kind: PduType::C2H_DATA, hlen: 7, expected: 24 };
    assert_eq!(error, QueueError::Protocol(expected));
    let mut request = [0; 24];
    peer.read_exact(&mut request).expect("a request comes before the end");
    assert_eq!(request[0], PduType::H2C_TERM_REQ.0);
}

#[test]
fn commands_in_flight_when_a_connection_ends_are_given_back_as_of_unknown_fate() {
    for cut in [Cut::Reset, Cut::Close] {
        let pool = target(Options::default());
        let mut host = connect(&pool, NONE);
        pool.on(On::io(IoOpcode::READ), Do::Nothing);
        pool.on(On::io(IoOpcode::FLUSH), Do::Close(cut));
        let memory = Memory::of(&[0; 4096], &[]);
        let mut slots: Vec<_> = (0..8).map(|at| host.io.read(Sqe::read(1, at * 8, blocks(4096)), &memory)).collect();
        slots.push(host.io.queue.submit(Sqe::flush(1), Memory::none()).expect("there is room"));
        let error = failure(&mut host.io);
        let reset = QueueError::Receive { reason: Errno::CONNRESET };
        let closed = QueueError::Protocol(ProtocolError::Closed { within_pdu: false });
        assert!(error == closed || (cut == Cut::Reset && error == reset), "{error}");
        let mut unknown = Vec::new();
        host.io.queue.close(|slot, _| unknown.push(slot));
        unknown.sort();
        slots.sort();
        assert_eq!(unknown, slots);
        host.io.queue.close(|_, _| unreachable!("each is given back once"));
        assert!(host.io.ended.is_empty());
        assert_eq!(failure(&mut host.io), error, "it stays so");
        let refused = host.io.queue.submit(Sqe::flush(1), Memory::none()).expect_err("nothing can be sent");
        assert_eq!(refused.reason, SubmitError::NotReady);
        let slot = host.admin.queue.submit(Sqe::keep_alive(), Memory::none()).expect("another connection goes on");
        host.admin.succeed(slot);
    }
}

#[test]
fn what_comes_for_a_command_that_was_given_up_touches_nothing() {
    let pool = target(Options { in_capsule: 0, ..Options::default() });
    pool.write(1, 0, &bytes(1, 65536));
    let mut host = connect(&pool, NONE);
    let read = On::io(IoOpcode::READ).once();
    pool.on(read.clone(), Do::Hold);
    let slot = host.io.read(Sqe::read(1, 0, blocks(65536)), &Memory::of(&vec![0xee; 65536], &TORN));
    host.io.queue.flush().expect("the connection stands");
    assert!(pool.wait(PATIENCE, |pool| pool.held() == 1), "it has come");
    let memory = host.io.queue.give_up(slot).expect("all is sent").expect("it is in flight");
    assert!(host.io.queue.give_up(slot).expect("all is sent").is_none(), "it is given back once");
    pool.release();
    // It is answered on the same connection behind the other.
    let other = Memory::of(&[0; 4096], &[]);
    let slot = host.io.read(Sqe::read(1, 0, blocks(4096)), &other);
    host.io.succeed(slot);
    assert_eq!((memory.to_vec(), other.to_vec()), (vec![0xee; 65536], bytes(1, 4096)));
    assert!(host.io.ended.is_empty(), "nothing is told of it");
}
