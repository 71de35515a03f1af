//! A host and a controller that do all right, whose streams are torn anywhere; and bytes that nobody meant.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::model::{Nature, Pool};
use super::*;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Other,
    Read(u32),
    Write(u32),
}

fn kind() -> impl Strategy<Value = Kind> {
    let len = || prop_oneof![Just(4_u32), Just(512), Just(4096), (1..5000_u32).prop_map(|dwords| dwords * 4)];
    prop_oneof![Just(Kind::Other), len().prop_map(Kind::Read), len().prop_map(Kind::Write)]
}

prop_compose! {
    fn digests()(header in any::<bool>(), data in any::<bool>()) -> Digests {
        Digests { header, data }
    }
}

prop_compose! {
    fn nature()(
        digests in digests(),
        cpda in prop_oneof![Just(0_u8), 0..=31_u8],
        dwords in 1024..4096_u32,
        piece in prop_oneof![1..16_u32, 1..2048_u32, Just(5000)],
        success in any::<bool>(),
        pad in 0..50_u8,
    ) -> Nature {
        Nature { digests, cpda, maxh2cdata: dwords * 4, piece: piece * 4, success, pad }
    }
}

prop_compose! {
    fn options()(
        depth in 1..20_u16,
        max_r2t in 1..=16_u8,
        in_capsule_data in prop_oneof![Just(0_u32), Just(4096), 0..8192_u32],
    ) -> Options {
        Options { depth, max_r2t, in_capsule_data, digests: BOTH }
    }
}

/// What tells a test what happens next: the numbers in turn, again and again.
struct Choices {
    numbers: Vec<usize>,
    at: usize,
}

impl Choices {
    fn next(&mut self, below: usize) -> usize {
        self.at += 1;
        self.numbers[self.at % self.numbers.len()] % below
    }
}

struct World {
    harness: Harness,
    pool: Pool,
    choices: Choices,
    /// The commands in flight, by their slots.
    running: BTreeMap<Slot, (u32, Kind)>,
    ended: usize,
}

impl World {
    /// Gives commands, as many as there is room for and `choices` says.
    fn submit(&mut self, todo: &mut Vec<(u32, Kind)>) {
        for _ in 0..self.choices.next(6) {
            if !self.harness.wire.has_room() {
                return;
            }
            let Some((seed, kind)) = todo.pop() else { return };
            let slot = match kind {
                Kind::Other => self.harness.command(seed),
                Kind::Read(len) => self.harness.read(seed, len),
                Kind::Write(len) => self.harness.write(seed, len),
            };
            assert_eq!(self.running.insert(slot, (seed, kind)), None, "a place has one command");
        }
    }

    /// Carries some bytes and some PDUs to and fro. False, if nothing more is to be carried.
    fn step(&mut self) -> bool {
        let sent = match self.choices.next(3) {
            0 => self.choices.next(200) + 1,
            _ => usize::MAX,
        };
        let to_pool = self.harness.send_some(sent);
        self.pool.receive(&to_pool);
        let mut went = false;
        for _ in 0..=self.choices.next(20) {
            let choice = self.choices.next(64);
            went |= self.pool.step(choice);
        }
        let max = match self.choices.next(3) {
            0 => self.choices.next(40) + 1,
            1 => self.choices.next(5000) + 1,
            _ => usize::MAX,
        };
        let to_host = self.pool.send(max);
        let told = match self.choices.next(3) {
            0 => self.harness.receive_in_place(&to_host, 24),
            1 => self.harness.receive_in_place(&to_host, 1),
            _ => self.harness.receive(&to_host),
        };
        let told = told.expect("the controller is right");
        for told in &told {
            self.end(told);
        }
        went || !to_pool.is_empty() || !to_host.is_empty()
    }

    fn end(&mut self, told: &Told) {
        let Told::Completed(slot, result) = told else { return };
        let (seed, kind) = self.running.remove(slot).expect("it was in flight");
        assert!(result.is_ok(), "{result:?}");
        if let Kind::Read(len) = kind {
            assert_eq!(self.harness.buffers[slot.index()], patterned(seed, 0, len));
        }
        self.ended += 1;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn all_commands_end_once_with_their_data_however_the_streams_are_torn(
        options in options(),
        nature in nature(),
        kinds in prop::collection::vec(kind(), 1..40),
        numbers in prop::collection::vec(any::<usize>(), 1..100),
    ) {
        let mut world = World {
            harness: Harness::fresh(options),
            pool: Pool::new(nature),
            choices: Choices { numbers, at: 0 },
            running: BTreeMap::new(),
            ended: 0,
        };
        let mut todo: Vec<(u32, Kind)> = kinds.iter().copied().zip(1..).map(|(kind, seed)| (seed, kind)).collect();
        let capacity = world.harness.wire.output.capacity();
        // All that wants to be done is, after some steps in which by chance nothing was.
        let mut idle = 0;
        while idle < 200 {
            world.submit(&mut todo);
            idle = if world.step() { 0 } else { idle + 1 };
            if todo.is_empty() && world.running.is_empty() {
                break;
            }
        }
        // What the choices never let begin is none of the wire's.
        prop_assert_eq!(world.ended + todo.len(), kinds.len());
        prop_assert_eq!(world.harness.wire.in_flight().count(), 0);
        prop_assert_eq!(world.harness.wire.output.capacity(), capacity, "nothing is allocated");
        for (seed, data) in &world.pool.written {
            let Kind::Write(len) = kinds[*seed as usize - 1] else { panic!("only writes are written") };
            prop_assert_eq!(data, &patterned(*seed, 0, len));
        }
        let writes = |kind: &&Kind| matches!(kind, Kind::Write(_));
        let left = todo.iter().filter(|(_, kind)| matches!(kind, Kind::Write(_))).count();
        prop_assert_eq!(world.pool.written.len() + left, kinds.iter().filter(writes).count());
    }

    #[test]
    fn arbitrary_bytes_neither_panic_nor_complete_anything(
        digests in digests(),
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..8),
    ) {
        let mut harness = Harness::ready(Options { digests, ..OPTIONS });
        harness.read(1, 512);
        harness.write(2, 512);
        harness.send();
        for piece in pieces {
            if harness.receive(&piece).is_err() {
                break;
            }
        }
        prop_assert_eq!(harness.wire.in_flight().count(), 2);
    }

    #[test]
    fn a_changed_header_that_names_no_other_command_is_refused_or_harms_none(
        at in 0..24_usize,
        bits in 1..=255_u8,
        digests in digests(),
        which in 0..3_u8,
    ) {
        let mut harness = Harness::ready(Options { digests, ..OPTIONS });
        let (read, other) = (harness.read(1, 512), harness.read(2, 512));
        let write = harness.write(3, 512);
        let sent = harness.send();
        let step = if digests.header { 76 } else { 72 };
        let cids: Vec<u16> = sent
            .chunks(step)
            .map(|bytes| CapsuleCmd::read_from_prefix(bytes).expect("a capsule").0.sqe.cid)
            .collect();
        let mut pdu = match which {
            0 => c2h_data(cids[0], 0, &[0xaa; 512], Mark::Success, digests),
            1 => r2t(cids[2], 5, 0, 512, digests),
            _ => response(cids[0], Status::INTERNAL_ERROR, digests),
        };
        let identifier = if which == 2 { 20..22 } else { 8..10 };
        prop_assume!(digests.header || !identifier.contains(&at));
        pdu[at] ^= bits;
        let told = harness.receive(&pdu);
        prop_assert!(!digests.header || told.is_err(), "a header digest finds any change");
        for told in told.unwrap_or_default() {
            let Told::Completed(slot, _) = told else { panic!("the connection is set up already") };
            prop_assert_eq!(slot, read);
        }
        prop_assert!(harness.buffers[other.index()].iter().all(|byte| *byte == 0));
        prop_assert!(harness.wire.in_flight().any(|slot| slot == write));
    }
}
