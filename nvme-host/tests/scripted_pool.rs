//! The wire over a socket, with a scripted target at its other end.
#![forbid(unsafe_code)]

mod common;

use std::io;

use common::{Data, Host};
use nvme_host::tcp::{Digests, ProtocolError, TransferError};
use nvme_spec::nvm::BlockDw12;
use nvme_spec::tcp::PduType;
use nvme_spec::{IoOpcode, Sqe, Status};
use pool_faults::{Cut, Do, Namespace, On, Options, ScriptedTarget};

const BOTH: Digests = Digests { header: true, data: true };
const NONE: Digests = Digests { header: false, data: false };

fn target(options: Options) -> ScriptedTarget {
    ScriptedTarget::with(options, [(1, Namespace::new(512, 16 << 10, 1))])
}

fn connect(target: &ScriptedTarget, digests: Digests, depth: u16) -> Host {
    Host::connect(target.address(), &target.nqn(), 1, digests, depth).expect("the target is right")
}

fn blocks(bytes: usize) -> BlockDw12 {
    BlockDw12::of(u16::try_from(bytes / 512 - 1).expect("a command has not so many blocks"))
}

fn read(slba: u64, bytes: usize) -> (Sqe, Data) {
    (Sqe::read(1, slba, blocks(bytes)), Data::Read(bytes))
}

fn write(slba: u64, data: Vec<u8>) -> (Sqe, Data) {
    (Sqe::write(1, slba, blocks(data.len())), Data::Write(data))
}

/// Returns bytes that are different for each seed.
fn bytes(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| ((at / 7 + seed * 31 + at * seed) % 251).to_le_bytes()[0]).collect()
}

#[test]
fn what_is_written_is_in_the_pool_and_is_read_again_with_digests_and_without() {
    for digests in [NONE, BOTH, Digests { header: true, data: false }, Digests { header: false, data: true }] {
        for (in_capsule, c2h_success) in [(0, false), (4096, true), (8192, false)] {
            let pool = target(Options { in_capsule, c2h_success, max_h2c: 8192, max_c2h: 4096, ..Options::default() });
            let mut host = connect(&pool, digests, 32);
            assert_eq!(host.io.parameters.expect("it is set up").digests, digests);
            assert_eq!((host.nsid, host.block_size, host.blocks), (1, 512, 16 << 10));
            let sizes = [512, 4096, 8192, 65536, 131_072];
            let slots: Vec<_> = sizes
                .iter()
                .zip(0..)
                .map(|(size, at)| {
                    let (sqe, data) = write(at * 256, bytes(*size, *size));
                    host.io.start(sqe, data).expect("there is room")
                })
                .collect();
            for slot in slots {
                let (outcome, _) = host.io.finish(slot).expect("the target is right");
                assert!(outcome.expect("all was asked for").status.is_success());
            }
            let slots: Vec<_> = sizes
                .iter()
                .zip(0..)
                .map(|(size, at)| {
                    let (sqe, data) = read(at * 256, *size);
                    host.io.start(sqe, data).expect("there is room")
                })
                .collect();
            for (slot, (size, at)) in slots.into_iter().zip(sizes.iter().zip(0..)) {
                let (outcome, data) = host.io.finish(slot).expect("the target is right");
                assert!(outcome.expect("all has come").status.is_success());
                assert_eq!(data, bytes(*size, *size));
                assert_eq!(data, pool.read(1, at * 256, (*size / 512) as u64), "it is in the pool");
            }
            host.admin.run(Sqe::keep_alive(), Data::None).expect("the admin queue is there, too");
            assert_eq!((host.controller.max_transfer, host.controller.in_capsule_data), (Some(131_072), in_capsule));
            host.shut_down().expect("the target is right");
        }
    }
}

#[test]
fn a_full_queue_of_reads_and_writes_ends_with_every_byte_in_its_place() {
    let pool = target(Options { in_capsule: 0, ..Options::default() });
    for seed in 0..16 {
        pool.write(1, seed * 8, &bytes(usize::try_from(seed).expect("a small number"), 4096));
    }
    let mut host = connect(&pool, BOTH, 64);
    for round in 0..20_usize {
        let mut slots = Vec::new();
        for at in 0..32_usize {
            let (sqe, data) = read(at as u64 % 16 * 8, 4096);
            slots.push((at, true, host.io.start(sqe, data).expect("there is room")));
            let (sqe, data) = write(1000 + at as u64 * 8, bytes(round + at, 4096));
            slots.push((at, false, host.io.start(sqe, data).expect("there is room")));
        }
        for (at, is_read, slot) in slots {
            let (outcome, data) = host.io.finish(slot).expect("the target is right");
            assert!(outcome.expect("all was transferred").status.is_success());
            if is_read {
                assert_eq!(data, bytes(at % 16, 4096));
            } else {
                assert_eq!(pool.read(1, 1000 + at as u64 * 8, 8), bytes(round + at, 4096));
            }
        }
    }
}

#[test]
fn an_error_of_the_pool_is_the_commands_status() {
    let pool = target(Options::default());
    let mut host = connect(&pool, NONE, 8);
    pool.on(On::io(IoOpcode::READ).times(1), Do::Status(Status::NAMESPACE_NOT_READY));
    let (sqe, data) = read(0, 512);
    let slot = host.io.start(sqe, data).expect("there is room");
    let (outcome, _) = host.io.finish(slot).expect("the target is right");
    assert_eq!(outcome.map(|cqe| cqe.status.code()), Ok(Status::NAMESPACE_NOT_READY.code()));
    let (sqe, data) = read(0, 512);
    assert!(host.io.run(sqe, data).is_ok(), "the connection goes on");
}

#[test]
fn a_short_read_and_a_wrong_data_digest_fail_their_command_alone() {
    let pool = target(Options::default());
    let mut host = connect(&pool, BOTH, 8);
    pool.on(On::io(IoOpcode::READ).times(1), Do::ShortData(512));
    let (sqe, data) = read(0, 4096);
    let slot = host.io.start(sqe, data).expect("there is room");
    let (outcome, _) = host.io.finish(slot).expect("the connection goes on");
    assert_eq!(outcome, Err(TransferError::Short { done: 512, len: 4096 }));
    pool.on(On::io(IoOpcode::READ).times(1), Do::corrupt(100));
    let (sqe, data) = read(0, 4096);
    let slot = host.io.start(sqe, data).expect("there is room");
    let (outcome, _) = host.io.finish(slot).expect("the connection goes on");
    assert_eq!(outcome, Err(TransferError::DataDigest));
    let (sqe, data) = read(0, 4096);
    assert!(host.io.run(sqe, data).is_ok());
}

#[test]
fn lies_over_a_socket_end_the_connection_with_their_name() {
    let twice = |error: ProtocolError| matches!(error, ProtocolError::UnknownCommand { .. });
    let kind = |error: ProtocolError| matches!(error, ProtocolError::Kind { kind: PduType::IC_REQ, .. });
    let digest = |error: ProtocolError| matches!(error, ProtocolError::HeaderDigest { kind: PduType::C2H_DATA, .. });
    let closed = |error: ProtocolError| error == ProtocolError::Closed { within_pdu: false };
    let cases: [(Do, &dyn Fn(ProtocolError) -> bool); 5] = [
        (Do::Twice, &twice),
        (Do::WrongCid(0x7777), &twice),
        (Do::wrong_kind(PduType::IC_REQ), &kind),
        (Do::corrupt(12), &digest),
        (Do::Close(Cut::Close), &closed),
    ];
    for (what, is_it) in cases {
        let pool = target(Options::default());
        let mut host = connect(&pool, BOTH, 8);
        pool.on(On::io(IoOpcode::READ).times(1), what);
        let (sqe, data) = read(0, 512);
        // A second answer is found out while the next command waits for its own.
        let ended = host.io.run(sqe, data).and_then(|_| host.io.run(Sqe::flush(1), Data::None));
        let error = protocol_error(&ended.expect_err("it is a lie"));
        assert!(is_it(error), "{error}");
    }
}

#[test]
fn an_r2t_behind_a_commands_data_ends_the_connection_and_sends_nothing() {
    let pool = target(Options { in_capsule: 0, ..Options::default() });
    let mut host = connect(&pool, NONE, 8);
    let longer = Do::edit_r2t(|pdu| pdu[16..20].copy_from_slice(&8192_u32.to_le_bytes()));
    pool.on(On::io(IoOpcode::WRITE).times(1), longer);
    let (sqe, data) = write(0, bytes(1, 4096));
    let error = protocol_error(&host.io.run(sqe, data).expect_err("it is a lie"));
    assert!(matches!(error, ProtocolError::DataRange { kind: PduType::R2T, length: 8192, len: 4096, .. }), "{error}");
    assert_eq!(pool.read(1, 0, 8), vec![0; 4096]);
}

fn protocol_error(error: &io::Error) -> ProtocolError {
    *error.get_ref().and_then(|inner| inner.downcast_ref()).expect("it is an error of the protocol")
}
