//! Memory that a client maps without a file: data there go by messages.

use std::io::ErrorKind;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nvme_spec::admin::CreateCqDw11;
use nvme_spec::identify::Cns;
use nvme_spec::{Cqe, IoOpcode, Sqe, StatusCode};
use serde_json::json;
use serial_test::serial;

use crate::support::arena::{Arena, attack};
use crate::support::controller::FrontEnd;
use crate::support::nvme::{BASE, DATA, Driver, PAGE, Queue, block_io, was_aborted};
use crate::support::vfio_user::{DMA_MAP, DMA_UNMAP, Memory, Message, dma_map, dma_unmap, message};
use crate::support::{secs, wait_for};

/// Where the memory without a file is, and how much there is of it.
const CLIENT: u64 = 1 << 33;
const LEN: u64 = 4 << 20;
/// 128 KiB.
const MOST: u16 = 256;
const MOST_BYTES: usize = 128 << 10;

/// What the client has patience for when it is asked for nothing.
const SHORT: Duration = Duration::from_millis(5);

/// Maps the memory.
fn start(dir: &Path) -> Driver {
    let mut driver = Driver::start_within(dir, secs(10));
    driver.client.call(DMA_MAP, &dma_map(CLIENT, LEN, 0), &[]).expect("memory without a file can be mapped");
    driver.client.serve(CLIENT, Memory::new(LEN));
    driver
}

#[track_caller]
fn run(driver: &mut Driver, queue: &mut Queue, command: Sqe) -> Cqe {
    let cid = driver.submit(queue, &[command]);
    let done = driver.complete_serving(queue);
    assert_eq!(done.cid, cid, "{command:?}: the completion is another command's");
    done
}

#[track_caller]
fn admin(driver: &mut Driver, command: Sqe) -> Cqe {
    let mut queue = std::mem::replace(&mut driver.admin, Driver::queue(0, 32));
    let done = run(driver, &mut queue, command);
    driver.admin = queue;
    done
}

/// Returns how many bytes have gone by messages, once that does not change any more.
fn bounced(arena: &Arena) -> u64 {
    let count = || {
        let all = arena.front.rpc.ok("courier_controller_get", &json!({ "name": "bad" }));
        let one = all.get(0).unwrap_or(&all);
        one["io"]["bytes_bounced"].as_u64().expect("a number")
    };
    let mut last = count();
    loop {
        sleep(Duration::from_millis(300));
        let now = count();
        if now == last {
            return now;
        }
        last = now;
    }
}

/// Returns bytes that tell their place and their seed.
fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..=250_u8).cycle().map(|byte| byte ^ seed).take(len).collect()
}

/// Returns a command with the data of 128 KiB at `at`, named by a list in the memory with a file.
fn large(driver: &Driver, opcode: IoOpcode, at: u64) -> Sqe {
    let list: Vec<u8> = (1..=32).flat_map(|page| (at - at % PAGE + page * PAGE).to_le_bytes()).collect();
    driver.memory.write(DATA, &list);
    Sqe { prp2: BASE + DATA, ..block_io(opcode, 1, 64, MOST, at) }
}

#[test]
#[serial]
fn data_in_memory_without_a_file_go_both_ways_and_are_counted() {
    if FrontEnd::chosen() == FrontEnd::Stock {
        return;
    }
    attack(|arena, dir| {
        let mut driver = start(dir);
        let mut queue = driver.create_queue(1, 64, None);
        driver.check(&mut queue, 6);
        assert_eq!(bounced(arena), 0, "memory with a file needs no messages");

        let small = pattern(512, 1);
        driver.client.served().write(512, &small);
        assert!(run(&mut driver, &mut queue, block_io(IoOpcode::WRITE, 1, 3, 1, CLIENT + 512)).status.is_success());
        assert!(run(&mut driver, &mut queue, block_io(IoOpcode::READ, 1, 3, 1, CLIENT + PAGE)).status.is_success());
        assert_eq!(driver.client.served().read_vec(PAGE, 512), small);

        let data = pattern(MOST_BYTES, 2);
        driver.client.served().write((1 << 20) + 512, &data);
        let write = large(&driver, IoOpcode::WRITE, CLIENT + (1 << 20) + 512);
        assert!(run(&mut driver, &mut queue, write).status.is_success());
        let read = large(&driver, IoOpcode::READ, CLIENT + (2 << 20) + 2048);
        assert!(run(&mut driver, &mut queue, read).status.is_success());
        assert_eq!(driver.client.served().read_vec((2 << 20) + 2048, MOST_BYTES), data);

        let identify = Sqe::identify(Cns::CONTROLLER, 0).with_prps(CLIENT, 0);
        assert!(admin(&mut driver, identify).status.is_success());
        let by_messages = driver.client.served().read_vec(0, 4096);
        assert_eq!(by_messages, driver.identify(Cns::CONTROLLER, 0));

        let moved = 2 * 512 + 2 * MOST_BYTES + 4096;
        assert_eq!(bounced(arena), u64::try_from(moved).expect("64-bit"));
    });
}

#[test]
#[serial]
fn many_commands_at_once_are_all_carried_out() {
    attack(|_, dir| {
        let mut driver = start(dir);
        let mut queue = driver.create_queue(1, 128, None);
        let data = pattern(64 * 4096, 3);
        driver.client.served().write(0, &data);
        // More than may be asked for at once.
        for (opcode, base) in [(IoOpcode::WRITE, CLIENT), (IoOpcode::READ, CLIENT + (1 << 20))] {
            let commands: Vec<Sqe> =
                (0..64_u32).map(|i| block_io(opcode, 1, i * 8, 8, base + u64::from(i) * PAGE)).collect();
            driver.submit(&mut queue, &commands);
            for _ in 0..64 {
                let done = driver.complete_serving(&mut queue);
                assert!(done.status.is_success(), "{done:?}");
            }
        }
        assert_eq!(driver.client.served().read_vec(1 << 20, data.len()), data);
    });
}

#[test]
#[serial]
fn lists_without_a_file_are_refused_by_a_status() {
    attack(|_, dir| {
        let mut driver = start(dir);
        let mut queue = driver.create_queue(1, 16, None);
        let list = Sqe { prp2: CLIENT, ..block_io(IoOpcode::READ, 1, 0, 24, BASE + DATA) };
        assert_eq!(run(&mut driver, &mut queue, list).status.code(), StatusCode::DATA_TRANSFER_ERROR);
        driver.check(&mut queue, 7);
    });
}

#[test]
#[serial]
fn a_client_that_answers_nothing_holds_up_nobody_but_itself() {
    attack(|arena, dir| {
        let mut driver = start(dir);
        let mut queue = driver.create_queue(1, 64, None);
        driver.client.set_mute(true);
        driver.submit(&mut queue, &[block_io(IoOpcode::WRITE, 1, 0, 8, CLIENT); 8]);
        driver.submit(&mut queue, &[block_io(IoOpcode::READ, 1, 0, 8, CLIENT + PAGE); 8]);
        sleep(Duration::from_millis(100));
        // A command that waits for its data is aborted at once.
        let abort = Sqe::abort(1, 1);
        let done = driver.admin(abort);
        assert!(was_aborted(done), "{done:?}");
        assert_eq!(driver.complete(&mut queue).cid, 1);
        // So is a reset carried out, with commands that are being fetched and sent.
        let begin = Instant::now();
        driver.enable();
        assert!(begin.elapsed() < secs(3), "a reset took {:?}", begin.elapsed());
        driver.identify(Cns::CONTROLLER, 0);
        driver.submit_admin(Sqe::identify(Cns::CONTROLLER, 0).with_prps(CLIENT, 0));
        sleep(Duration::from_millis(100));
        let begin = Instant::now();
        driver.enable();
        assert!(begin.elapsed() < secs(3), "a reset took {:?}", begin.elapsed());
        let mut queue = driver.create_queue(1, 64, None);
        driver.submit(&mut queue, &[block_io(IoOpcode::READ, 1, 0, 8, CLIENT + PAGE); 32]);
        sleep(Duration::from_millis(50));
        drop(driver);
        arena.front.assert_alive();
    });
}

/// Returns what the server asks next.
#[track_caller]
fn asked(driver: &mut Driver) -> Message {
    let asked = driver.client.receive(secs(10)).expect("the server asks for memory");
    assert!(!asked.is_reply(), "{asked:?}");
    asked
}

/// Answers it; `error` is an errno or 0.
#[track_caller]
fn answer(driver: &mut Driver, asked: &Message, error: u32, payload: &[u8]) -> Vec<u8> {
    /// A reply, and one that tells an error.
    const REPLY: [u32; 2] = [1, 1 | 1 << 5];
    let mut bytes = message(asked.id, asked.command, payload);
    bytes[8..12].copy_from_slice(&REPLY[usize::from(error != 0)].to_le_bytes());
    bytes[12..16].copy_from_slice(&error.to_le_bytes());
    driver.client.send_bytes(&bytes, &[]).expect("an answer can be sent");
    bytes
}

/// Returns the payload of an answer: what was asked for, and some data.
fn part(addr: u64, count: u64, data: &[u8]) -> Vec<u8> {
    [&addr.to_le_bytes()[..], &count.to_le_bytes(), data].concat()
}

#[test]
#[serial]
fn wrong_answers_fail_their_command_and_a_second_answer_ends_the_session() {
    if FrontEnd::chosen() == FrontEnd::Stock {
        return;
    }
    attack(|arena, dir| {
        let mut driver = start(dir);
        let mut queue = driver.create_queue(1, 16, None);
        let wrong = [
            (5, Vec::new()),
            (0, Vec::new()),
            (0, part(CLIENT, 4096, &[7; 4095])),
            (0, part(CLIENT, 4096, &[7; 8192])),
            (0, part(CLIENT, 1 << 40, &[7; 4096])),
            (0, part(CLIENT + PAGE, 4096, &[7; 4096])),
        ];
        for opcode in [IoOpcode::WRITE, IoOpcode::READ] {
            for (error, payload) in &wrong {
                driver.submit(&mut queue, &[block_io(opcode, 1, 0, 8, CLIENT)]);
                let data = if opcode == IoOpcode::READ { payload.len().min(16) } else { payload.len() };
                let asked = asked(&mut driver);
                let sent = answer(&mut driver, &asked, *error, &payload[..data]);
                let done = driver.complete(&mut queue);
                let right = opcode == IoOpcode::READ && sent.len() > 16 && sent[16..32] == part(CLIENT, 4096, &[7; 0]);
                let due = if right { StatusCode::SUCCESS } else { StatusCode::DATA_TRANSFER_ERROR };
                assert_eq!(done.status.code(), due, "{opcode:?} with {sent:?}");
            }
        }
        driver.submit(
            &mut queue,
            &[block_io(IoOpcode::WRITE, 1, 0, 8, CLIENT), block_io(IoOpcode::WRITE, 1, 8, 8, CLIENT)],
        );
        let asked_first = asked(&mut driver);
        let first = answer(&mut driver, &asked_first, 0, &part(CLIENT, 4096, &[7; 4096]));
        driver.client.send_bytes(&first, &[]).expect("an answer can be sent");
        wait_for("the end of the session", secs(5), || driver.client.receive(SHORT).is_err_and(|error| is_end(&error)));
        arena.front.assert_alive();

        // One that goes while it is asked, for what is to be fetched and for what is to be sent.
        let mut driver = start(dir);
        let mut queue = driver.create_queue(1, 16, None);
        driver.submit(
            &mut queue,
            &[block_io(IoOpcode::WRITE, 1, 0, 8, CLIENT), block_io(IoOpcode::READ, 1, 8, 8, CLIENT)],
        );
        asked(&mut driver);
        drop(driver);
        let mut driver = start(dir);
        let mut queue = driver.create_queue(1, 16, None);
        driver.check(&mut queue, 10);
        assert!(run(&mut driver, &mut queue, block_io(IoOpcode::READ, 1, 8, 8, CLIENT)).status.is_success());
    });
}

/// Returns whether the server has closed the connection.
fn is_end(error: &std::io::Error) -> bool {
    !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

#[test]
#[serial]
fn an_unmap_is_answered_when_the_transfers_are_over_or_given_up() {
    attack(|_, dir| {
        let mut driver = start(dir);
        let mut queue = driver.create_queue(1, 64, None);
        let data = pattern(4096, 4);
        driver.client.served().write(0, &data);
        driver.submit(&mut queue, &[block_io(IoOpcode::WRITE, 1, 0, 8, CLIENT)]);
        let asked = asked(&mut driver);
        let unmap = driver.client.send(DMA_UNMAP, &dma_unmap(CLIENT, LEN), &[]).expect("a message can be sent");
        sleep(Duration::from_millis(50));
        answer(&mut driver, &asked, 0, &part(CLIENT, 4096, &data));
        driver.client.reply(unmap, secs(10)).expect("memory can be unmapped");
        assert!(driver.complete_serving(&mut queue).status.is_success());
        let gone = run(&mut driver, &mut queue, block_io(IoOpcode::READ, 1, 0, 8, CLIENT));
        assert!(!gone.status.is_success(), "memory that was unmapped is used");

        driver.client.call(DMA_MAP, &dma_map(CLIENT, LEN, 0), &[]).expect("it can be mapped again");
        driver.client.set_mute(true);
        driver.submit(
            &mut queue,
            &[block_io(IoOpcode::WRITE, 1, 0, 8, CLIENT), block_io(IoOpcode::READ, 1, 0, 8, CLIENT + PAGE)],
        );
        sleep(Duration::from_millis(100));
        let begin = Instant::now();
        driver.client.unmap(CLIENT, LEN).expect("memory can be unmapped");
        let took = begin.elapsed();
        assert!(took > Duration::from_millis(200) && took < secs(3), "it was answered after {took:?}");
        for _ in 0..2 {
            assert!(!driver.complete(&mut queue).status.is_success(), "a command whose memory has gone worked");
        }
        driver.client.set_mute(false);
        driver.check(&mut queue, 8);
    });
}

#[test]
#[serial]
fn io_queues_where_no_file_is_are_refused() {
    attack(|_, dir| {
        let mut driver = start(dir);
        let create = Sqe::create_io_cq(1, 15, CLIENT, CreateCqDw11::new().with_pc(true));
        assert!(!driver.admin(create).status.is_success());
        let mut queue = driver.create_queue(1, 16, None);
        driver.check(&mut queue, 9);
    });
}
