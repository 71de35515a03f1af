//! Clients with commands that no driver makes.

use std::thread::sleep;
use std::time::Duration;

use nvme_spec::command::{SglId, SglType};
use nvme_spec::identify::Cns;
use nvme_spec::nvm::BlockDw12;
use nvme_spec::{AdminOpcode, CommandFlags, FusedOperation, IoOpcode, SglDescriptor, Sqe};
use serial_test::serial;
use zerocopy::IntoBytes;

use crate::support::arena::attack;
use crate::support::bytes::Numbers;
use crate::support::nvme::{BASE, DATA, Driver, PAGE, SIZE};
use crate::support::secs;

const READ_ONE: Sqe = Sqe::read(1, 0, BlockDw12::of(0)).with_prps(BASE + DATA, 0);

/// Returns flags of any bits, PSDT among them, but none of half a pair, for whose other half it would be waited.
fn unfused(random: u32) -> CommandFlags {
    let [bits, ..] = random.to_le_bytes();
    CommandFlags::from_bits(bits).with_fuse(FusedOperation::NORMAL)
}

#[test]
#[serial]
fn half_a_fused_pair_and_then_a_disconnect_or_a_reset_harms_nobody_else() {
    attack(|arena, dir| {
        for round in 0..6 {
            let mut driver = Driver::start_within(dir, secs(10));
            let mut queue = driver.create_queue(1, 16, None);
            driver.submit(
                &mut queue,
                &[Sqe { opcode: IoOpcode::COMPARE.0, flags: CommandFlags::FUSED_FIRST, ..READ_ONE }],
            );
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
                    assert!(!done[0].status.is_success(), "half a pair worked: {done:?}");
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
            // The one command that is not answered at once.
            let is_answered = |opcode: &u8| AdminOpcode(*opcode) != AdminOpcode::ASYNC_EVENT_REQUEST;
            for opcode in (0..=u8::MAX).filter(is_answered) {
                let place = [BASE + DATA, BASE + SIZE - 512, u64::MAX - 0xfff, 0][random() as usize % 4];
                let word = |value: u32| if value.is_multiple_of(3) { value % 256 } else { value };
                let mut command = Sqe {
                    opcode,
                    nsid: random() % 4,
                    prp1: place,
                    prp2: place,
                    cdw10: word(random()),
                    cdw11: word(random()),
                    cdw12: word(random()),
                    ..Sqe::default()
                };
                if round == 3 {
                    command.flags = unfused(random());
                }
                driver.admin(command);
            }
            arena.front.assert_alive();
        }
        driver.enable();
        driver.identify(Cns::CONTROLLER, 0);
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
            let commands: Vec<Sqe> = (0..32)
                .map(|_| {
                    let places = [BASE + DATA, BASE + SIZE - 512, u64::MAX - 0xfff, BASE + DATA + 8, 0];
                    let mut place = || places[random() as usize % 5];
                    let (prp1, prp2) = (place(), place());
                    let opcode = u8::try_from(random() % 256).expect("small");
                    Sqe {
                        // Mostly commands that there are.
                        opcode: if opcode < 128 { opcode % 16 } else { opcode },
                        flags: unfused(random()),
                        nsid: [0, 1, 1, 1, 3, u32::MAX][random() as usize % 6],
                        prp1,
                        prp2,
                        cdw10: random(),
                        cdw11: random() % 2,
                        cdw12: random(),
                        ..Sqe::default()
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
    /// A type that no descriptor has.
    const RESERVED: SglType = SglType(9);
    attack(|_, dir| {
        let mut driver = Driver::start(dir);
        let mut queue = driver.create_queue(1, 16, None);
        let (data, list) = (BASE + DATA, BASE + DATA + PAGE);
        let sgl = |address, kind, length| SglDescriptor {
            address,
            length,
            id: SglId::new().with_kind(kind),
            ..SglDescriptor::default()
        };
        let descriptor = |at, kind, len| sgl(at, kind, len).as_bytes().to_vec();
        // A segment that goes on in itself.
        driver.memory.write(DATA + PAGE, &descriptor(list, SglType::SEGMENT, 16));
        // One of 256 data blocks without bytes, and a last one that goes on.
        let place = DATA + 2 * PAGE;
        driver.memory.write(place, &descriptor(data, SglType::DATA_BLOCK, 0).repeat(256));
        driver.memory.write(DATA + 4 * PAGE, &descriptor(list, SglType::LAST_SEGMENT, 16));
        let read = |at, kind, len| {
            let [prp1, prp2] = sgl(at, kind, len).into_dptr();
            Sqe::read(1, 0, BlockDw12::of(7)).with_flags(CommandFlags::SGL).with_prps(prp1, prp2)
        };
        let good = driver.run(&mut queue, read(data, SglType::DATA_BLOCK, 4_096));
        assert!(good.status.is_success(), "a good SGL is refused: {good:?}");
        let refused = [
            ("a block at the end of the address space", read(u64::MAX - 511, SglType::DATA_BLOCK, 4_096)),
            ("a block that is nowhere", read(BASE + SIZE, SglType::DATA_BLOCK, 4_096)),
            ("a block that is too short", read(data, SglType::DATA_BLOCK, 512)),
            ("a type that there is not", read(data, RESERVED, 4_096)),
            ("a segment that goes on in itself", read(list, SglType::SEGMENT, 16)),
            ("a segment of a length that is none of descriptors", read(list, SglType::SEGMENT, 24)),
            ("a segment without bytes", read(list, SglType::SEGMENT, 0)),
            ("a huge segment", read(list, SglType::SEGMENT, 0xffff_fff0)),
            ("a segment that is nowhere", read(BASE + SIZE, SglType::LAST_SEGMENT, 16)),
            ("a segment at the end of the address space", read(u64::MAX - 15, SglType::LAST_SEGMENT, 32)),
            ("blocks without bytes only", read(BASE + place, SglType::LAST_SEGMENT, 4_096)),
            ("a last segment that goes on", read(BASE + DATA + 4 * PAGE, SglType::LAST_SEGMENT, 16)),
        ];
        for (what, command) in refused {
            let done = driver.run(&mut queue, command);
            assert!(!done.status.is_success(), "{what}: {command:?} worked");
        }
        driver.check(&mut queue, 8);
    });
}
