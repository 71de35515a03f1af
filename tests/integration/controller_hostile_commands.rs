//! Clients with commands that no driver makes.

use std::thread::sleep;
use std::time::Duration;

use serial_test::serial;

use crate::support::arena::attack;
use crate::support::bytes::Numbers;
use crate::support::nvme::{BASE, COMPARE, Command, DATA, Driver, PAGE, READ, SIZE};
use crate::support::secs;

/// Asynchronous Event Request: the one command that is not answered at once.
const ASYNC_EVENT_REQUEST: u8 = 0x0c;
const READ_ONE: Command =
    Command { opcode: READ, flags: 0, nsid: 1, prp1: BASE + DATA, prp2: 0, cdw10: 0, cdw11: 0, cdw12: 0 };

#[test]
#[serial]
fn half_a_fused_pair_and_then_a_disconnect_or_a_reset_harms_nobody_else() {
    /// FUSE: the first command of two.
    const FIRST: u8 = 1;
    attack(|arena, dir| {
        for round in 0..6 {
            let mut driver = Driver::start_within(dir, secs(10));
            let mut queue = driver.create_queue(1, 16, None);
            driver.submit(&mut queue, &[Command { opcode: COMPARE, flags: FIRST, ..READ_ONE }]);
            sleep(Duration::from_millis(20));
            match round % 3 {
                0 => {}
                1 => {
                    driver.enable();
                    let mut queue = driver.create_queue(1, 16, None);
                    driver.check(&mut queue, round);
                }
                _ => {
                    // Something else than its second half: both are answered.
                    let done = driver.run_any(&mut queue, READ_ONE, 2);
                    assert!(!done[0].succeeded(), "half a pair worked: {done:?}");
                }
            }
        }
        arena.front.assert_alive();
    });
}

#[test]
#[serial]
fn every_admin_opcode_with_fields_at_random_is_answered() {
    attack(|arena, dir| {
        let mut driver = Driver::start(dir);
        let mut numbers = Numbers::new(5);
        let mut random = || u32::try_from(numbers.draw() >> 32).expect("half of it");
        for round in 0..4 {
            for opcode in (0..=u8::MAX).filter(|opcode| *opcode != ASYNC_EVENT_REQUEST) {
                let place = [BASE + DATA, BASE + SIZE - 512, u64::MAX - 0xfff, 0][random() as usize % 4];
                let word = |value: u32| if value.is_multiple_of(3) { value % 256 } else { value };
                let mut command = Command {
                    opcode,
                    flags: 0,
                    nsid: random() % 4,
                    prp1: place,
                    prp2: place,
                    cdw10: word(random()),
                    cdw11: word(random()),
                    cdw12: word(random()),
                };
                if round == 3 {
                    // PSDT as it comes, but no half of a pair, for whose other half it would be waited.
                    command.flags = u8::try_from(random() % 256).expect("small") & 0xfc;
                }
                driver.admin(command);
            }
            arena.front.assert_alive();
        }
        driver.enable();
        driver.identify(1, 0);
    });
}

#[test]
#[serial]
fn every_io_opcode_with_fields_at_random_is_answered() {
    attack(|arena, dir| {
        let mut driver = Driver::start(dir);
        let mut queue = driver.create_queue(1, 64, None);
        let mut numbers = Numbers::new(6);
        let mut random = || u32::try_from(numbers.draw() >> 32).expect("half of it");
        for _ in 0..64 {
            let commands: Vec<Command> = (0..32)
                .map(|_| {
                    let places = [BASE + DATA, BASE + SIZE - 512, u64::MAX - 0xfff, BASE + DATA + 8, 0];
                    let mut place = || places[random() as usize % 5];
                    let (prp1, prp2) = (place(), place());
                    let opcode = u8::try_from(random() % 256).expect("small");
                    Command {
                        // Mostly commands that there are.
                        opcode: if opcode < 128 { opcode % 16 } else { opcode },
                        flags: u8::try_from(random() % 256).expect("small") & 0xfc,
                        nsid: [0, 1, 1, 1, 3, u32::MAX][random() as usize % 6],
                        prp1,
                        prp2,
                        cdw10: random(),
                        cdw11: random() % 2,
                        cdw12: random(),
                    }
                })
                .collect();
            let done = driver.run_all(&mut queue, &commands);
            assert_eq!(done.len(), commands.len());
        }
        arena.front.assert_alive();
        driver.check(&mut queue, 7);
    });
}

/// Malformed SGLs in place of PRPs: their descriptors are in the entry, and further on in memory.
#[test]
#[serial]
fn malformed_sgls_are_refused_by_a_status() {
    /// PSDT: an SGL; the metadata pointer is an address.
    const SGL: u8 = 1 << 6;
    const DATA_BLOCK: u64 = 0;
    const SEGMENT: u64 = 2;
    const LAST_SEGMENT: u64 = 3;
    const RESERVED: u64 = 9;
    attack(|_, dir| {
        let mut driver = Driver::start(dir);
        let mut queue = driver.create_queue(1, 16, None);
        let (data, list) = (BASE + DATA, BASE + DATA + PAGE);
        let second = |kind: u64, len: u64| kind << 60 | len;
        let descriptor = |at: u64, kind, len| [at.to_le_bytes(), second(kind, len).to_le_bytes()].concat();
        // A segment that goes on in itself.
        driver.memory.write(DATA + PAGE, &descriptor(list, SEGMENT, 16));
        // One of 256 data blocks without bytes, and a last one that goes on.
        let place = DATA + 2 * PAGE;
        driver.memory.write(place, &descriptor(data, DATA_BLOCK, 0).repeat(256));
        driver.memory.write(DATA + 4 * PAGE, &descriptor(list, LAST_SEGMENT, 16));
        let read = |at: u64, kind: u64, len: u64| Command {
            flags: SGL,
            prp1: at,
            prp2: second(kind, len),
            cdw12: 7,
            ..READ_ONE
        };
        let good = driver.run(&mut queue, read(data, DATA_BLOCK, 4_096));
        assert!(good.succeeded(), "a good SGL is refused: {good:?}");
        let refused = [
            ("a block at the end of the address space", read(u64::MAX - 511, DATA_BLOCK, 4_096)),
            ("a block that is nowhere", read(BASE + SIZE, DATA_BLOCK, 4_096)),
            ("a block that is too short", read(data, DATA_BLOCK, 512)),
            ("a type that there is not", read(data, RESERVED, 4_096)),
            ("a segment that goes on in itself", read(list, SEGMENT, 16)),
            ("a segment of a length that is none of descriptors", read(list, SEGMENT, 24)),
            ("a segment without bytes", read(list, SEGMENT, 0)),
            ("a huge segment", read(list, SEGMENT, 0xffff_fff0)),
            ("a segment that is nowhere", read(BASE + SIZE, LAST_SEGMENT, 16)),
            ("a segment at the end of the address space", read(u64::MAX - 15, LAST_SEGMENT, 32)),
            ("blocks without bytes only", read(BASE + place, LAST_SEGMENT, 4_096)),
            ("a last segment that goes on", read(BASE + DATA + 4 * PAGE, LAST_SEGMENT, 16)),
        ];
        for (what, command) in refused {
            let done = driver.run(&mut queue, command);
            assert!(!done.succeeded(), "{what}: {command:?} worked");
        }
        driver.check(&mut queue, 8);
    });
}
