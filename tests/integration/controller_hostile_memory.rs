//! Clients that lie about their memory, or take it away.

use std::io;
use std::os::fd::AsFd as _;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nvme_spec::identify::Cns;
use nvme_spec::{AdminOpcode, IoOpcode, Sqe};
use serial_test::serial;

use crate::support::arena::{SLOW, attack};
use crate::support::controller::FrontEnd;
use crate::support::nvme::{BASE, CC_ENABLE, DATA, Driver, FATAL, PAGE, READY, SIZE, block_io};
use crate::support::vfio_user::{Client, DMA_MAP, DMA_UNMAP, Memory, dma_map, dma_unmap};
use crate::support::{secs, wait_for};

/// Where a second memory file is.
const OTHER: u64 = 1 << 33;
/// The largest transfer: 128 KiB.
const MOST: u16 = 256;

#[test]
#[serial]
fn a_memory_file_that_shrinks_under_live_queues_harms_nobody_else() {
    attack(|arena, dir| {
        let mut driver = Driver::start(dir);
        let mut queue = driver.create_queue(1, 64, None);
        driver.check(&mut queue, 1);
        driver.submit(&mut queue, &[block_io(IoOpcode::READ, 2, 0, 8, BASE + DATA); 4]);
        driver.memory.file.set_len(0).expect("a memfd can shrink");
        for index in [0, 1, 2, 3].into_iter().cycle().take(40) {
            // The server may close the connection.
            let _ = driver.doorbell(index, 5);
            sleep(Duration::from_millis(5));
        }
        sleep(Duration::from_micros(SLOW));
        arena.front.assert_alive();
    });
}

#[test]
#[serial]
fn a_memory_file_that_shrinks_while_data_go_to_it_harms_nobody_else() {
    attack(|arena, dir| {
        for round in 0..20_u64 {
            let mut driver = Driver::start_within(dir, secs(10));
            let mut queue = driver.create_queue(1, 64, None);
            let memory = Memory::new(4 << 20);
            driver.client.map(OTHER, 4 << 20, &memory.file, 0).expect("a memory file can be mapped");
            // A list of PRPs for 128 KiB, and as many commands as fit into the queue, on it.
            let list: Vec<u8> = (1..32).flat_map(|page| (OTHER + page * PAGE).to_le_bytes()).collect();
            driver.memory.write(DATA, &list);
            let read = Sqe { prp2: BASE + DATA, ..block_io(IoOpcode::READ, 1, 0, MOST, OTHER) };
            driver.submit(&mut queue, &[read; 48]);
            memory.file.set_len(if round % 2 == 0 { 0 } else { PAGE }).expect("a memfd can shrink");
            // The server closes the connection when it finds out.
            wait_for("the commands to be answered, or the connection to be closed", secs(5), || {
                (0..48).all(|slot| driver.phase_in(&queue, slot)) || driver.client.device_info().is_err()
            });
        }
        arena.front.assert_alive();
    });
}

#[test]
#[serial]
fn memory_unmapped_under_live_queues_harms_nobody_else_and_can_be_mapped_again() {
    attack(|arena, dir| {
        let mut driver = Driver::start(dir);
        let mut queue = driver.create_queue(1, 64, None);
        driver.check(&mut queue, 1);
        driver.client.unmap(BASE, SIZE).expect("memory can be unmapped");
        for index in 0..4 {
            driver.doorbell(index, 5).expect("a doorbell can be rung");
        }
        sleep(Duration::from_millis(300));
        arena.front.assert_alive();
        driver.client.map(BASE, SIZE, &driver.memory.file, 0).expect("it can be mapped again");
        driver.enable();
        let mut queue = driver.create_queue(1, 64, None);
        driver.check(&mut queue, 2);
    });
}

#[test]
#[serial]
fn an_unmap_with_io_in_flight_is_answered_when_that_io_has_ended() {
    attack(|_, dir| {
        let mut driver = Driver::start(dir);
        let mut queue = driver.create_queue(1, 16, None);
        let memory = Memory::new(1 << 20);
        driver.client.map(OTHER, 1 << 20, &memory.file, 0).expect("a memory file can be mapped");
        // Alone, the I/O would take longer than the client is let wait: it is aborted.
        let start = Instant::now();
        driver.submit(&mut queue, &[block_io(IoOpcode::READ, 2, 0, 8, OTHER)]);
        sleep(Duration::from_millis(100));
        driver.client.unmap(OTHER, 1 << 20).expect("memory can be unmapped");
        let took = start.elapsed();
        assert!(took < Duration::from_micros(SLOW * 9 / 10), "it was answered after {took:?} only");
        assert!(driver.peek(&queue).is_some(), "it was answered before the I/O had ended");
        let done = driver.complete(&mut queue);
        assert!(!done.status.is_success(), "the I/O ended by itself after {took:?}: {done:?}");
        let gone = driver.run(&mut queue, block_io(IoOpcode::READ, 1, 0, 8, OTHER));
        assert!(!gone.status.is_success(), "memory that was unmapped is used");
        driver.check(&mut queue, 3);
    });
}

#[test]
#[serial]
fn a_client_that_goes_with_io_in_flight_harms_nobody_else() {
    attack(|arena, dir| {
        for _ in 0..3 {
            let mut driver = Driver::start_within(dir, secs(10));
            let mut queue = driver.create_queue(1, 64, None);
            driver.submit(&mut queue, &[block_io(IoOpcode::READ, 2, 0, 8, BASE + DATA); 32]);
            sleep(Duration::from_millis(50));
        }
        arena.front.assert_alive();
    });
}

#[test]
#[serial]
fn regions_that_cannot_be_are_refused() {
    attack(|_, dir| {
        let memory = Memory::new(1 << 20);
        let (reader, _writer) = io::pipe().expect("a pipe can be had");
        let whole = 1_u64 << 20;
        let map = |addr, size, offset| (DMA_MAP, dma_map(addr, size, offset));
        let cases = [
            ("an address range that wraps", map(u64::MAX - 0xfff, 2 * PAGE, 0)),
            ("one that wraps by far", map(u64::MAX - 0xfff, u64::MAX - 0xfff, 0)),
            ("no bytes", map(OTHER, 0, 0)),
            ("more bytes than the file has", map(OTHER, whole + PAGE, 0)),
            ("bytes behind the file's end", map(OTHER, whole, PAGE)),
            ("an offset that wraps", map(OTHER, PAGE, u64::MAX - 0xfff)),
            ("an offset within a page", map(OTHER, PAGE, 512)),
            ("an overlap with another region", map(BASE + PAGE, PAGE, 0)),
            ("the same region again", map(BASE, SIZE, 0)),
            ("half a message", (DMA_MAP, vec![0; 16])),
            ("unmapping a part of a region", (DMA_UNMAP, dma_unmap(BASE, PAGE))),
            ("unmapping a range that wraps", (DMA_UNMAP, dma_unmap(u64::MAX - 0xfff, 2 * PAGE))),
        ];
        for (what, (command, payload)) in &cases {
            let mut driver = Driver::start_within(dir, secs(10));
            let fds = [memory.file.as_fd()];
            let fds: &[_] = if *command == DMA_MAP { &fds } else { &[] };
            let failure = driver.client.call(*command, payload, fds).expect_err(what);
            assert!(failure.errno().is_some_and(|errno| errno != 0), "{what}: {failure}");
            driver.identify(Cns::CONTROLLER, 0);
        }
        let mut driver = Driver::start_within(dir, secs(10));
        let nothing = driver.client.call(DMA_UNMAP, &dma_unmap(OTHER, whole), &[]);
        nothing.expect("what is not mapped need not be unmapped, as a guest's IOMMU has it");
        driver.client.map(OTHER, PAGE, &reader, 0).expect_err("a pipe is no memory");
        let two = driver.client.call(DMA_MAP, &dma_map(OTHER, PAGE, 0), &[memory.file.as_fd(); 2]);
        two.expect_err("two files are one too many");
    });
}

#[test]
#[serial]
fn data_pointers_outside_of_the_memory_are_refused_by_a_status() {
    attack(|_, dir| {
        let mut driver = Driver::start(dir);
        let mut queue = driver.create_queue(1, 16, None);
        let (data, end, top) = (BASE + DATA, BASE + SIZE, u64::MAX - 0xfff);
        // A list that is nowhere, one that goes on in itself, and one with an entry that is nowhere.
        driver.memory.write(DATA + PAGE, &(data + PAGE).to_le_bytes().repeat(512));
        driver.memory.write(DATA + 2 * PAGE, &[data.to_le_bytes(), end.to_le_bytes()].concat());
        let read = |blocks, prp1, prp2| Sqe { prp2, ..block_io(IoOpcode::READ, 1, 0, blocks, prp1) };
        let list: Vec<u8> = (16..48).flat_map(|page| (data + page * PAGE).to_le_bytes()).collect();
        driver.memory.write(DATA + 3 * PAGE, &list);
        let good = driver.run(&mut queue, read(MOST, data + 8 * PAGE, data + 3 * PAGE));
        assert!(good.status.is_success(), "a good list is refused: {good:?}");
        let outside = [
            read(8, end, 0),
            read(8, OTHER, 0),
            read(8, 0, 0),
            read(8, top, 0),
            read(16, top, top),
            read(16, data, end),
            read(16, data, top),
            read(24, data, end),
            read(24, data, top),
            read(24, data, data + 2 * PAGE),
            read(8, data + 512, end),
            read(8, data + 3, 0),
            read(16, data, data + 8),
        ];
        for command in outside.into_iter().chain(outside.map(|read| Sqe { opcode: IoOpcode::WRITE.0, ..read })) {
            let done = driver.run(&mut queue, command);
            assert!(!done.status.is_success(), "{command:?} worked");
        }
        // Pages that are one and the same are a strange wish, but no error.
        driver.run(&mut queue, read(MOST, data, data + PAGE));
        // Lists at the end of a page go on in another list; this one, in itself.
        driver.memory.write(DATA + 2 * PAGE - 8, &(data + 2 * PAGE - 8).to_le_bytes());
        driver.run(&mut queue, read(MOST, data, data + 2 * PAGE - 8));
        for cns in [0, 1, 2] {
            let identify = Sqe {
                opcode: AdminOpcode::IDENTIFY.0,
                nsid: 1,
                prp1: end - 512,
                prp2: end,
                cdw10: cns,
                ..Sqe::default()
            };
            assert!(!driver.admin(identify).status.is_success(), "Identify {cns} wrote to where there is no memory");
        }
        driver.check(&mut queue, 4);
    });
}

#[test]
#[serial]
fn three_hundred_regions_are_mapped_and_used() {
    const COUNT: u64 = 300;
    const REGION: u64 = 16 * PAGE;
    attack(|_, dir| {
        let mut driver = Driver::start(dir);
        let mut queue = driver.create_queue(1, 16, None);
        let memory = Memory::new(COUNT * REGION);
        // In an order of their own, with holes between them.
        let place = |index: u64| OTHER + (index * 7 % COUNT) * 4 * REGION;
        for index in 0..COUNT {
            let mapped = driver.client.map(place(index), REGION, &memory.file, index * REGION);
            mapped.unwrap_or_else(|failure| panic!("region {index}: {failure}"));
        }
        for index in 0..COUNT {
            let byte = u8::try_from(index % 251).expect("small");
            memory.write(index * REGION, &[byte; 512]);
            let slba = u32::try_from(index).expect("small");
            let written = driver.run(&mut queue, block_io(IoOpcode::WRITE, 1, slba, 1, place(index)));
            let read = driver.run(&mut queue, block_io(IoOpcode::READ, 1, slba, 1, place(index) + PAGE));
            assert!(written.status.is_success() && read.status.is_success(), "region {index}: {written:?}, {read:?}");
            assert_eq!(memory.read::<512>(index * REGION + PAGE), [byte; 512], "region {index}");
        }
        for index in 0..COUNT {
            driver.client.unmap(place(index), REGION).expect("a region can be unmapped");
        }
        driver.check(&mut queue, 5);
    });
}

/// Maps memory that the server can reach by messages only.
fn map_without_file(client: &mut Client, addr: u64, memory: Memory) {
    client.call(DMA_MAP, &dma_map(addr, 1 << 20, 0), &[]).expect("memory without a file can be mapped");
    client.serve(addr, memory);
}

#[test]
#[serial]
fn memory_without_a_file_is_read_and_written_by_messages_or_refused_by_a_status() {
    attack(|_, dir| {
        let mut driver = Driver::start(dir);
        let mut queue = driver.create_queue(1, 16, None);
        driver.check(&mut queue, 6);
        map_without_file(&mut driver.client, OTHER, Memory::new(1 << 20));
        let identify = Sqe { opcode: AdminOpcode::IDENTIFY.0, prp1: OTHER, cdw10: 1, ..Sqe::default() };
        let cid = {
            let mut admin = std::mem::replace(&mut driver.admin, Driver::queue(0, 32));
            let cid = driver.submit(&mut admin, &[identify]);
            let done = driver.complete_serving(&mut admin);
            driver.admin = admin;
            if done.status.is_success() {
                let written = driver.client.served().read_vec(0, 4096);
                assert_eq!(written, driver.identify(Cns::CONTROLLER, 0), "what came by messages is not the same");
            }
            (cid, done.cid)
        };
        assert_eq!(cid.0, cid.1, "the completion is another command's");
        driver.client.served().write(0, &[7; 512]);
        for (opcode, place) in [(IoOpcode::WRITE, OTHER), (IoOpcode::READ, OTHER + PAGE)] {
            driver.submit(&mut queue, &[block_io(opcode, 1, 6, 1, place)]);
            let done = driver.complete_serving(&mut queue);
            if done.status.is_success() && opcode == IoOpcode::READ {
                let read: [u8; 512] = driver.client.served().read(PAGE);
                assert!(read == [7; 512] || read != [0; 512], "a read that worked brought nothing");
            }
        }
        driver.check(&mut queue, 7);
    });
}

#[test]
#[serial]
fn admin_queues_where_there_is_no_memory_fail_the_controller_and_harm_nobody() {
    attack(|arena, dir| {
        for (sq, cq) in [(OTHER, OTHER + PAGE), (0, 0), (u64::MAX - 0xfff, u64::MAX - 0xfff), (BASE + SIZE, BASE)] {
            let mut driver = Driver::start_within(dir, secs(10));
            map_without_file(&mut driver.client, OTHER, Memory::new(1 << 20));
            let csts = driver.enable_at(CC_ENABLE, sq, cq);
            if FrontEnd::chosen() == FrontEnd::Courier {
                assert_eq!(csts & (READY | FATAL), FATAL, "queues at {sq:#x} and {cq:#x}");
            }
            for index in 0..4 {
                driver.doorbell(index, 3).expect("a doorbell can be rung");
            }
            sleep(Duration::from_millis(50));
            arena.front.assert_alive();
            assert_eq!(driver.memory.read_vec(0, 4096), [0; 4096], "what came of queues at {sq:#x} and {cq:#x}");
            driver.enable();
            driver.identify(Cns::CONTROLLER, 0);
        }
    });
}
