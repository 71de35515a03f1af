//! Anything in any order: every command is completed exactly once, and no entry is overwritten that the host has not
//! taken.

use std::collections::BTreeMap;
use std::rc::Rc;

use nvme_spec::{CommandFlags, IoOpcode, Sqe, Status};
use proptest::collection::vec;
use proptest::prelude::*;

use super::common::guest::{CQS, DATA, HostCq, HostSq, LISTS, PAGE, Rig, SQS, block_command, flush};
use super::common::ram::{Disk, OnAbort};

const BLOCKS: usize = 64;
const NAMESPACES: u32 = 2;
const PARTS: [(u64, u64); 4] = [CQS, SQS, LISTS, DATA];

/// A step of the guest, of the client, of the backend or of the operator. Numbers choose among what is there.
#[derive(Debug, Clone)]
enum Step {
    Submit { queue: usize, kind: u8, nsid: u32, slba: u64, blocks: u32 },
    Ring { queue: usize },
    Poll,
    Take { queue: usize, most: usize },
    Finish { disk: usize, index: usize, good: bool },
    RefuseLater { disk: usize, count: u32 },
    AtOnce { disk: usize, yes: bool },
    OnAbort { disk: usize, how: u8 },
    Abort { queue: usize, cid: u16 },
    AbortAgain,
    AbortUnmapped,
    Unmap(usize),
    Map(usize),
    RemoveNamespace(usize),
    AddNamespace(usize),
    DeleteSq { queue: usize },
    Reset,
}

fn step() -> impl Strategy<Value = Step> {
    let (queue, disk) = (0_usize..3, 0..NAMESPACES as usize);
    prop_oneof![
        12 => (queue.clone(), 0_u8..9, 1..=NAMESPACES + 1, 0_u64..BLOCKS as u64, 1_u32..16)
            .prop_map(|(queue, kind, nsid, slba, blocks)| Step::Submit { queue, kind, nsid, slba, blocks }),
        6 => queue.clone().prop_map(|queue| Step::Ring { queue }),
        12 => Just(Step::Poll),
        8 => (queue.clone(), 1_usize..8).prop_map(|(queue, most)| Step::Take { queue, most }),
        10 => (disk.clone(), 0_usize..8, prop::bool::weighted(0.8))
            .prop_map(|(disk, index, good)| Step::Finish { disk, index, good }),
        2 => (disk.clone(), 1_u32..4).prop_map(|(disk, count)| Step::RefuseLater { disk, count }),
        1 => (disk.clone(), any::<bool>()).prop_map(|(disk, yes)| Step::AtOnce { disk, yes }),
        1 => (disk.clone(), 0_u8..3).prop_map(|(disk, how)| Step::OnAbort { disk, how }),
        3 => (queue.clone(), 0_u16..24).prop_map(|(queue, cid)| Step::Abort { queue, cid }),
        1 => Just(Step::AbortAgain),
        1 => Just(Step::AbortUnmapped),
        2 => (0_usize..4).prop_map(Step::Unmap),
        4 => (0_usize..4).prop_map(Step::Map),
        1 => disk.clone().prop_map(Step::RemoveNamespace),
        2 => disk.prop_map(Step::AddNamespace),
        1 => queue.prop_map(|queue| Step::DeleteSq { queue }),
        1 => Just(Step::Reset),
    ]
}

/// Two completion queues; the first two submission queues share one. Sizes at which much wraps.
const SHAPE: [(u16, u16, u16); 3] = [(1, 4, 1), (2, 7, 1), (3, 16, 3)];
const CQ_ENTRIES: u16 = 6;

struct World {
    rig: Rig,
    disks: Vec<Rc<Disk>>,
    sqs: Vec<HostSq>,
    cqs: BTreeMap<u16, HostCq>,
    mapped: [bool; 4],
    /// There may be I/O whose data was unmapped.
    strays: bool,
    /// Submission queue and identifier of each command that is with the device, with how many completions are due.
    due: BTreeMap<(u16, u16), u32>,
    /// How many commands each submission queue has from the host that it does not know to be taken.
    unknown: Vec<u16>,
    next_cid: u16,
    aborts: Rc<std::cell::Cell<u32>>,
}

impl World {
    fn new() -> Self {
        let rig = Rig::new();
        let disks: Vec<_> = (0..NAMESPACES).map(|_| Disk::new(BLOCKS, 9)).collect();
        for (nsid, disk) in (1..).zip(&disks) {
            rig.add(nsid, disk);
        }
        let mut world = Self {
            rig,
            disks,
            sqs: Vec::new(),
            cqs: BTreeMap::new(),
            mapped: [true; 4],
            strays: false,
            due: BTreeMap::new(),
            unknown: vec![0; SHAPE.len()],
            next_cid: 0,
            aborts: Rc::default(),
        };
        world.create();
        world
    }

    fn create(&mut self) {
        for qid in [1, 3] {
            self.rig.put(CQS.0 + u64::from(qid) * 0x4000, &[0; CQ_ENTRIES as usize * 16]);
            self.cqs.insert(qid, self.rig.create_cq(qid, CQ_ENTRIES, None));
        }
        self.sqs = SHAPE.map(|(qid, entries, cqid)| self.rig.create_sq(qid, entries, cqid)).into();
        self.unknown.fill(0);
    }

    /// Puts a command where the host may, without ringing.
    fn submit(&mut self, index: usize, sqe: Sqe) {
        let sq = &mut self.sqs[index];
        // A host that does not know of a free place does not put a command there.
        if self.unknown[index] + 1 >= sq.entries {
            return;
        }
        self.unknown[index] += 1;
        self.next_cid = (self.next_cid + 1) % 24;
        let cid = (0..24).map(|i| (self.next_cid + i) % 24).find(|cid| !self.due.contains_key(&(sq.qid, *cid)));
        let Some(cid) = cid else {
            self.unknown[index] -= 1;
            return;
        };
        self.due.insert((sq.qid, cid), 1);
        let sqe = Sqe { cid, ..sqe };
        self.rig.put(sq.base + u64::from(sq.tail) * 64, zerocopy::IntoBytes::as_bytes(&sqe));
        sq.tail = (sq.tail + 1) % sq.entries;
    }

    fn command(&self, kind: u8, nsid: u32, slba: u64, blocks: u32) -> Sqe {
        let sqe = match kind {
            0 => block_command(IoOpcode::READ.0, 0, slba, blocks, DATA.0 + slba * PAGE),
            1 => {
                let write = block_command(IoOpcode::WRITE.0, 0, slba, blocks, DATA.0 + 0x20_0000 + slba * PAGE);
                // Some are to be durable, so that a flush follows.
                Sqe { cdw12: write.cdw12 | (u32::from(slba.is_multiple_of(2)) << 30), ..write }
            }
            2 => {
                Sqe { flags: CommandFlags::FUSED_FIRST, ..block_command(IoOpcode::COMPARE.0, 0, slba, blocks, DATA.0) }
            }
            3 => Sqe { flags: CommandFlags::FUSED_SECOND, ..block_command(IoOpcode::WRITE.0, 0, slba, blocks, DATA.0) },
            4 => flush(0),
            5 => block_command(IoOpcode::WRITE_ZEROES.0, 0, slba, blocks, 0),
            6 => {
                for i in 0..4 {
                    self.rig.put(LISTS.0 + i * 16, &(1_u64 << 32).to_le_bytes());
                    self.rig.put(LISTS.0 + i * 16 + 8, &(slba + i).to_le_bytes());
                }
                Sqe { opcode: IoOpcode::DATASET_MANAGEMENT.0, prp1: LISTS.0, cdw10: 3, cdw11: 4, ..Sqe::default() }
            }
            7 => block_command(IoOpcode::COMPARE.0, 0, slba, blocks, DATA.0),
            _ => block_command(0x7f, 0, slba, blocks, DATA.0),
        };
        Sqe { nsid, ..sqe }
    }

    /// The host takes completions, each of which must be due.
    fn take(&mut self, cqid: u16, most: usize) -> usize {
        let Some(cq) = self.cqs.get_mut(&cqid) else { return 0 };
        let cqes = self.rig.take(cq, most);
        self.rig.doorbells.store(usize::from(cqid) * 2 + 1, cq.head.into());
        for cqe in &cqes {
            let due = self.due.remove(&(cqe.sqid, cqe.cid));
            assert_eq!(due, Some(1), "the completion {cqe:?} is not due");
            let index = usize::from(cqe.sqid) - 1;
            let sq = &self.sqs[index];
            // All before the head are taken.
            let left = (sq.tail + sq.entries - cqe.sqhd) % sq.entries;
            assert!(left <= self.unknown[index], "the head goes back");
            self.unknown[index] = left;
        }
        cqes.len()
    }

    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Submit { queue, kind, nsid, slba, blocks } => {
                let sqe = self.command(kind, nsid, slba, blocks);
                self.submit(queue, sqe);
            }
            Step::Ring { queue } => self.rig.ring(&self.sqs[queue]),
            Step::Poll => drop(self.rig.queues.poll()),
            Step::Take { queue, most } => drop(self.take(SHAPE[queue].2, most)),
            Step::Finish { disk, index, good: true } => drop(self.disks[disk].finish(index)),
            Step::Finish { disk, index, good: false } => drop(self.disks[disk].fail(index, Status::INTERNAL_ERROR)),
            Step::RefuseLater { disk, count } => self.disks[disk].refuse_later.set(count),
            Step::AtOnce { disk, yes } => self.disks[disk].at_once.set(yes),
            Step::OnAbort { disk, how } => {
                self.disks[disk].on_abort.set(match how {
                    0 => OnAbort::Refuse,
                    1 => OnAbort::EndNow,
                    _ => OnAbort::EndLater,
                });
            }
            Step::Abort { queue, cid } => {
                let waiting = Rc::clone(&self.aborts);
                waiting.set(waiting.get() + 1);
                self.rig.queues.abort(SHAPE[queue].0, cid, move |_| waiting.set(waiting.get() - 1));
            }
            Step::AbortAgain => drop(self.rig.queues.abort_some(|| true)),
            Step::AbortUnmapped => self.rig.queues.abort_unmapped(),
            Step::Unmap(part) => self.set_mapped(part, false),
            Step::Map(part) => self.set_mapped(part, true),
            Step::RemoveNamespace(index) => self.rig.queues.remove_namespace(index as u32 + 1),
            Step::AddNamespace(index) => self.rig.add(index as u32 + 1, &self.disks[index]),
            Step::DeleteSq { queue } => self.delete(queue),
            Step::Reset => self.reset(),
        }
    }

    fn set_mapped(&mut self, part: usize, mapped: bool) {
        if std::mem::replace(&mut self.mapped[part], mapped) == mapped {
            return;
        }
        if mapped {
            return self.rig.map(PARTS[part]);
        }
        let region = self.rig.unmap(PARTS[part]);
        // An I/O whose data is no longer mapped holds all that was mapped with it.
        self.strays = self.rig.queues.in_flight() > 0 && (self.strays || PARTS[part] == DATA);
        let is_held = std::sync::Arc::strong_count(&region) > 1;
        assert!(!is_held || self.strays, "nothing but I/O on data that goes holds memory");
    }

    fn drain_backends(&mut self) {
        for disk in &self.disks {
            disk.refuse_later.set(0);
            disk.finish_all();
        }
    }

    /// Deletes and makes again a submission queue, as a host does: it waits for the end.
    fn delete(&mut self, index: usize) {
        let (qid, entries, cqid) = SHAPE[index];
        self.rig.queues.delete_submission(qid);
        self.drain_backends();
        assert!(self.rig.queues.is_ended(qid), "nothing is in flight");
        self.set_mapped(0, true);
        loop {
            self.rig.queues.poll();
            if self.take(cqid, usize::MAX) == 0 {
                break;
            }
        }
        // What was not taken is gone with the queue.
        self.due.retain(|(sqid, _), _| *sqid != qid);
        self.sqs[index] = self.rig.create_sq(qid, entries, cqid);
        self.unknown[index] = 0;
    }

    /// A controller reset: nothing is completed any more.
    fn reset(&mut self) {
        self.rig.queues.delete_all();
        let rings: Vec<_> = self.cqs.values().map(|cq| self.rig.get(cq.base, 16 * usize::from(cq.entries))).collect();
        self.drain_backends();
        assert!(self.rig.queues.is_quiet() && self.rig.queues.in_flight() == 0);
        for (cq, ring) in self.cqs.values().zip(rings) {
            assert_eq!(self.rig.get(cq.base, ring.len()), ring, "nothing is posted after a reset");
        }
        self.due.clear();
        self.create();
    }

    /// Returns what the host has not taken, which nobody may change.
    fn untaken(&self) -> Vec<(u16, u16, Vec<u8>)> {
        let mut all = Vec::new();
        for cq in self.cqs.values() {
            let mut ahead = cq.clone();
            let count = self.rig.take(&mut ahead, usize::MAX).len();
            assert!(count < usize::from(cq.entries), "an entry is left free");
            for i in 0..count {
                let at = (cq.head + i as u16) % cq.entries;
                all.push((cq.qid, at, self.rig.get(cq.base + u64::from(at) * 16, 16)));
            }
        }
        all
    }

    /// Everything is carried out that can be. Half a fused pair still waits for the other.
    fn settle(&mut self) {
        for part in 0..PARTS.len() {
            self.set_mapped(part, true);
        }
        for (nsid, disk) in (1..).zip(self.disks.clone()) {
            self.rig.queues.remove_namespace(nsid);
            self.rig.add(nsid, &disk);
        }
        for index in 0..self.sqs.len() {
            self.rig.ring(&self.sqs[index]);
        }
        self.run_dry();
        // A command behind half a fused pair ends it.
        for index in 0..self.sqs.len() {
            self.submit(index, flush(0));
            self.rig.ring(&self.sqs[index]);
        }
        self.run_dry();
        assert!(self.due.is_empty(), "these were never completed: {:?}", self.due);
        assert_eq!(self.rig.queues.in_flight(), 0);
        assert_eq!(self.aborts.get(), 0, "each abort is answered");
        for part in PARTS {
            let region = self.rig.unmap(part);
            assert_eq!(std::sync::Arc::strong_count(&region), 1, "nobody holds memory without need");
        }
    }

    fn run_dry(&mut self) {
        for _ in 0..64 {
            self.rig.queues.poll();
            self.drain_backends();
            for cqid in [1, 3] {
                self.take(cqid, usize::MAX);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whatever_happens_each_command_completes_once(steps in vec(step(), 1..160)) {
        let mut world = World::new();
        for step in &steps {
            let before = world.untaken();
            world.apply(step);
            if !matches!(step, Step::Take { .. } | Step::Reset | Step::DeleteSq { .. }) {
                for (qid, at, entry) in before {
                    let now = world.rig.get(world.cqs[&qid].base + u64::from(at) * 16, 16);
                    assert_eq!(now, entry, "entry {at} of queue {qid} was overwritten");
                }
            }
        }
        world.settle();
    }
}
