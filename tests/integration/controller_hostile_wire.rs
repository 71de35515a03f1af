//! Clients that do not keep to the protocol.

use std::fs;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use serial_test::serial;

use crate::support::arena::{Arena, attack};
use crate::support::bytes::Numbers;
use crate::support::nvme::Driver;
use crate::support::vfio_user::{
    BAR0, CONFIG, Client, DEVICE_GET_INFO, DEVICE_GET_IRQ_INFO, DEVICE_GET_REGION_INFO, DEVICE_SET_IRQS, DMA_MAP,
    Failure, MSIX, Memory, REGION_READ, REGION_WRITE, REPLY_LIMIT, VERSION, connect, dma_map, header, message,
    region_access, version,
};
use crate::support::{secs, wait_for};

/// Returns a client that the server takes, after the one before has gone.
#[track_caller]
fn negotiated(dir: &Path) -> Client {
    let mut client = None;
    wait_for("a controller to take a client", secs(10), || {
        client = Client::negotiated(dir).ok();
        client.is_some()
    });
    client.expect("there is one now")
}

/// Returns how many descriptors the application has open.
fn descriptors(arena: &Arena) -> usize {
    fs::read_dir(format!("/proc/{}/fd", arena.front.process.pid())).expect("it runs").count()
}

#[test]
#[serial]
fn bytes_that_are_no_message_are_refused_or_end_the_connection() {
    attack(|arena, dir| {
        let mut numbers = Numbers::new(11);
        let random: Vec<u8> = (0..4_096).flat_map(|_| numbers.draw().to_le_bytes()).collect();
        let json = |text: &str| message(1, VERSION, &version(0, 1, text));
        let cases: Vec<(&str, Vec<u8>)> = vec![
            ("random bytes", random),
            ("zeros", vec![0; 4_096]),
            ("a message shorter than its header", header(1, VERSION, 15)),
            ("a message of no bytes", header(1, VERSION, 0)),
            ("a message of 4 GiB", header(1, VERSION, u32::MAX)),
            ("a long message", [header(1, VERSION, 64 << 20), vec![0; 1 << 20]].concat()),
            (
                "a command before the version",
                message(1, DEVICE_GET_INFO, &[16, 0, 0, 0].map(u32::to_le_bytes).concat()),
            ),
            ("memory before the version", message(1, DMA_MAP, &dma_map(1 << 32, 4_096, 0))),
            ("a version of four bytes less", message(1, VERSION, &[])),
            ("a version that there is not", message(1, VERSION, &version(9, 0, "{}"))),
            ("capabilities that are no JSON", json("{\"capabilities\":")),
            ("capabilities of another type", json("{\"capabilities\":{\"max_msg_fds\":\"many\"}}")),
            ("numbers that are absurd", json("{\"capabilities\":{\"max_msg_fds\":1e300,\"max_data_xfer_size\":-1}}")),
            ("deep JSON", json(&"[".repeat(3_000))),
            ("text that is not UTF-8", message(1, VERSION, &[0, 0, 1, 0, 0xff, 0xfe, 0])),
        ];
        for (what, bytes) in &cases {
            let mut client = Client::connect(dir).expect("the socket can be connected to");
            // The server may end the connection before it has all of it.
            let _ = client.send_bytes(bytes, &[]);
            if *what == "a long message" || *what == "zeros" || *what == "random bytes" {
                // Whether the server waits for more or ends the connection, others are served.
                drop(client.receive(Duration::from_millis(200)));
            } else {
                let told = client.reply(1, REPLY_LIMIT).map(|reply| format!("{:?}", reply.payload));
                assert!(told.is_err(), "{what}: the server answered {told:?}");
            }
            drop(client);
            arena.front.assert_alive();
        }
        negotiated(dir).device_info().expect("the next client is served");
    });
}

#[test]
#[serial]
fn commands_with_fields_that_cannot_be_are_refused() {
    attack(|arena, dir| {
        let memory = Memory::new(1 << 20);
        let one = [memory.file.as_fd()];
        let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
        let irqs = |flags, index, start, count| words(&[20, flags, index, start, count]);
        let write = |region, offset, count, data: &[u8]| [region_access(region, offset, count), data.to_vec()].concat();
        let (eventfd, boolean, none, trigger) = (1 << 2, 1 << 1, 1 << 0, 1 << 5);
        let cases: Vec<(&str, u16, Vec<u8>, usize)> = vec![
            ("a second version", VERSION, version(0, 1, "{}"), 0),
            ("a command that there is not", 99, vec![], 0),
            ("command 0", 0, vec![], 0),
            ("device info of half a message", DEVICE_GET_INFO, vec![0; 3], 0),
            ("device info with a small argsz", DEVICE_GET_INFO, words(&[4, 0, 0, 0]), 0),
            ("a region that there is not", DEVICE_GET_REGION_INFO, words(&[32, 0, 99, 0, 0, 0, 0, 0]), 0),
            ("region info with a small argsz", DEVICE_GET_REGION_INFO, words(&[8, 0, 0, 0, 0, 0, 0, 0]), 0),
            ("an interrupt that there is not", DEVICE_GET_IRQ_INFO, words(&[16, 0, 99, 0]), 0),
            ("reading of a region that there is not", REGION_READ, region_access(99, 0, 4), 0),
            ("reading behind the end", REGION_READ, region_access(CONFIG, 4_096, 4), 0),
            ("reading at the end of all addresses", REGION_READ, region_access(BAR0, u64::MAX - 1, 4), 0),
            ("reading of 4 GiB", REGION_READ, region_access(BAR0, 0, u32::MAX), 0),
            ("writing of 4 GiB", REGION_WRITE, write(BAR0, 0, u32::MAX, &[0; 4]), 0),
            ("writing of less than told", REGION_WRITE, write(BAR0, 0x14, 8, &[0; 4]), 0),
            ("writing behind the end", REGION_WRITE, write(CONFIG, 4_096, 4, &[0; 4]), 0),
            ("vectors that there are not", DEVICE_SET_IRQS, irqs(eventfd | trigger, MSIX, 0xffff, 1), 1),
            ("a number of vectors that wraps", DEVICE_SET_IRQS, irqs(none | trigger, MSIX, u32::MAX, 2), 0),
            ("more vectors than eventfds", DEVICE_SET_IRQS, irqs(eventfd | trigger, MSIX, 0, u32::MAX), 1),
            ("booleans that are not there", DEVICE_SET_IRQS, irqs(boolean | trigger, MSIX, 0, 2), 0),
            ("two kinds of data", DEVICE_SET_IRQS, irqs(eventfd | boolean | trigger, MSIX, 0, 1), 1),
            ("no action", DEVICE_SET_IRQS, irqs(none, MSIX, 0, 1), 0),
            ("interrupts of another index", DEVICE_SET_IRQS, irqs(none | trigger, 99, 0, 1), 0),
        ];
        for (what, command, payload, count) in &cases {
            let mut client = negotiated(dir);
            match client.call(*command, payload, &one[..*count]) {
                Ok(reply) => panic!("{what}: the server answered {reply:?}"),
                Err(Failure::Refused(errno)) => {
                    assert_ne!(errno, 0, "{what}: an error without a number");
                    client.device_info().unwrap_or_else(|failure| panic!("after {what}: {failure}"));
                }
                // It may also end the connection.
                Err(Failure::Lost(_)) => {}
            }
            arena.front.assert_alive();
        }
    });
}

#[test]
#[serial]
fn descriptors_that_nobody_asked_for_are_closed() {
    attack(|arena, dir| {
        let memory = Memory::new(1 << 20);
        let fds = [memory.file.as_fd(); 16];
        let mut client = negotiated(dir);
        let before = descriptors(arena);
        for _ in 0..50 {
            // Refused, or read; the connection may end.
            for (command, payload, fds) in
                [(REGION_READ, region_access(BAR0, 0, 8), &fds[..8]), (DMA_MAP, dma_map(1, 1, 1), &fds[..])]
            {
                if let Err(Failure::Lost(_)) = client.call(command, &payload, fds) {
                    client = negotiated(dir);
                }
            }
        }
        drop(client);
        wait_for("descriptors to be closed", secs(10), || descriptors(arena) <= before);
    });
}

#[test]
#[serial]
fn regions_and_eventfds_of_clients_that_went_are_given_back() {
    attack(|arena, dir| {
        let before = descriptors(arena);
        for _ in 0..50 {
            let memory = Memory::new(1 << 20);
            let mut client = negotiated(dir);
            for index in 0..8 {
                client.map((1 << 33) + (index << 20), 1 << 20, &memory.file, 0).expect("memory can be mapped");
            }
        }
        wait_for("descriptors to be closed", secs(10), || descriptors(arena) <= before);
        let maps = fs::read_to_string(format!("/proc/{}/maps", arena.front.process.pid())).expect("it runs");
        let guests = maps.lines().filter(|line| line.contains("memfd:guest")).count();
        assert_eq!(guests, 0, "memory of clients that went is still mapped:\n{maps}");
    });
}

#[test]
#[serial]
fn replies_that_nobody_waits_for_are_no_harm() {
    attack(|arena, dir| {
        let client = negotiated(dir);
        for id in 0..100 {
            let mut reply = message(id, REGION_READ, &[0; 24]);
            reply[8] = 1;
            if client.send_bytes(&reply, &[]).is_err() {
                break;
            }
        }
        drop(client);
        arena.front.assert_alive();
    });
}

#[test]
#[serial]
fn commands_that_want_no_reply_get_none() {
    /// The header's flag.
    const NO_REPLY: u8 = 1 << 4;
    attack(|_, dir| {
        let mut client = negotiated(dir);
        for _ in 0..3 {
            let mut write = message(40, REGION_WRITE, &[region_access(CONFIG, 4, 2), vec![6, 0]].concat());
            write[8] = NO_REPLY;
            client.send_bytes(&write, &[]).expect("bytes can be sent");
            let id = client.send(REGION_READ, &region_access(CONFIG, 4, 2), &[]).expect("bytes can be sent");
            let reply = client.receive(REPLY_LIMIT).expect("the next command is answered");
            assert_eq!((reply.id, reply.command, reply.errno), (id, REGION_READ, 0), "{reply:?}");
            assert_eq!(reply.payload[16], 6, "the command register is not as written: {reply:?}");
        }
    });
}

#[test]
#[serial]
fn many_commands_in_one_write_are_answered_in_their_order() {
    attack(|_, dir| {
        let mut client = negotiated(dir);
        let all: Vec<u8> =
            (1..=200).flat_map(|id| message(1_000 + id, REGION_READ, &region_access(BAR0, 8, 4))).collect();
        client.send_bytes(&all, &[]).expect("bytes can be sent");
        for id in 1..=200 {
            let reply = client.receive(REPLY_LIMIT).unwrap_or_else(|error| panic!("reply {id}: {error}"));
            assert_eq!((reply.id, reply.payload.len()), (1_000 + id, 20), "{reply:?}");
        }
    });
}

#[test]
#[serial]
fn hundreds_of_connections_that_come_and_go_leave_the_controller_to_the_next_client() {
    attack(|arena, dir| {
        let before = descriptors(arena);
        for index in 0..300_u32 {
            // A server may have no room for another just now.
            let Ok(mut stream) = connect(dir) else { continue };
            if index % 3 == 0 {
                let _ = stream.write_all(&header(1, VERSION, 64)[..(index % 17) as usize]);
            }
        }
        sleep(Duration::from_millis(200));
        drop(Driver::start_within(dir, REPLY_LIMIT));
        wait_for("descriptors to be closed", secs(10), || descriptors(arena) <= before);
    });
}
