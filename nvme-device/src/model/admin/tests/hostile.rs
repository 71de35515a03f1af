//! Commands at random, with a runtime that answers late, or not with what was hoped for.

use nvme_spec::CommandFlags;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use nvme_spec::admin::{GetLogPageDw11, log_page_dwords_of};

/// A step of a host, of the runtime or of the operator.
#[derive(Debug, Clone)]
enum HostileStep {
    Command(Sqe),
    /// The runtime answers what waits longest, well or not.
    Answer(bool),
    Supply(Vec<u8>),
    Add(u32),
    Remove(u32),
    Resize(u32, u64),
    DoorbellError,
    EntrySizes(u8, u8),
    Reset,
}

/// Small numbers reach far; large ones and those with single bits reach the limits.
fn dword() -> impl Strategy<Value = u32> {
    prop_oneof![
        4 => 0_u32..8,
        2 => any::<u32>(),
        2 => (0_u32..8, 0_u32..8).prop_map(|(high, low)| high << 16 | low),
        1 => (0_u32..32).prop_map(|bit| 1 << bit),
        1 => Just(u32::MAX),
    ]
}

fn opcode() -> impl Strategy<Value = u8> {
    let known = [
        AdminOpcode::DELETE_IO_SQ,
        AdminOpcode::CREATE_IO_SQ,
        AdminOpcode::GET_LOG_PAGE,
        AdminOpcode::DELETE_IO_CQ,
        AdminOpcode::CREATE_IO_CQ,
        AdminOpcode::IDENTIFY,
        AdminOpcode::ABORT,
        AdminOpcode::SET_FEATURES,
        AdminOpcode::GET_FEATURES,
        AdminOpcode::ASYNC_EVENT_REQUEST,
        AdminOpcode::KEEP_ALIVE,
        AdminOpcode::DOORBELL_BUFFER_CONFIG,
    ];
    prop_oneof![9 => proptest::sample::select(known.map(|opcode| opcode.0).to_vec()), 1 => any::<u8>()]
}

fn sqe() -> impl Strategy<Value = Sqe> {
    let flags = prop_oneof![9 => Just(0_u8), 1 => any::<u8>()];
    let address = prop_oneof![any::<u64>().prop_map(|address| address & !0xfff), any::<u64>()];
    let head = (opcode(), flags, 0_u16..16, dword(), address.clone(), address);
    let tail = (prop_oneof![dword(), 0_u32..0x20], dword(), dword(), dword(), dword());
    (head, tail).prop_map(|((opcode, flags, cid, nsid, prp1, prp2), (cdw10, cdw11, cdw12, cdw13, cdw14))| Sqe {
        opcode,
        flags: CommandFlags::from_bits(flags),
        cid,
        nsid,
        prp1,
        prp2,
        cdw10,
        cdw11,
        cdw12,
        cdw13,
        cdw14,
        ..Sqe::default()
    })
}

/// Returns commands on few queues, most of which can be carried out.
fn queue_command() -> impl Strategy<Value = Sqe> {
    let opcodes =
        [AdminOpcode::DELETE_IO_SQ, AdminOpcode::CREATE_IO_SQ, AdminOpcode::DELETE_IO_CQ, AdminOpcode::CREATE_IO_CQ];
    (proptest::sample::select(opcodes.to_vec()), 1_u16..3, 0_u16..4).prop_map(|(opcode, qid, cqid)| Sqe {
        opcode: opcode.0,
        cdw10: queue(qid, 8),
        cdw11: CreateSqDw11::new().with_pc(true).with_cqid(cqid).into_bits(),
        ..Sqe::default()
    })
}

fn step() -> impl Strategy<Value = HostileStep> {
    prop_oneof![
        12 => sqe().prop_map(HostileStep::Command),
        12 => queue_command().prop_map(HostileStep::Command),
        12 => proptest::bool::weighted(0.8).prop_map(HostileStep::Answer),
        1 => vec(any::<u8>(), 0..520).prop_map(HostileStep::Supply),
        1 => (0_u32..260).prop_map(HostileStep::Add),
        1 => (0_u32..260).prop_map(HostileStep::Remove),
        1 => (0_u32..8, any::<u64>()).prop_map(|(nsid, blocks)| HostileStep::Resize(nsid, blocks)),
        1 => Just(HostileStep::DoorbellError),
        1 => prop_oneof![4 => Just((6, 4)), 1 => any::<(u8, u8)>()].prop_map(|(sq, cq)| HostileStep::EntrySizes(sq, cq)),
        1 => Just(HostileStep::Reset),
    ]
}

/// A runtime that remembers what it was asked to do.
struct Host {
    controller: Controller,
    waiting: Vec<Outcome>,
    now: Duration,
}

impl Host {
    fn take(&mut self, step: HostileStep) {
        self.now += Duration::from_millis(7);
        match step {
            HostileStep::Command(sqe) => self.command(&sqe),
            HostileStep::Answer(well) if !self.waiting.is_empty() => {
                let outcome = self.waiting.remove(0);
                self.answer(&outcome, well);
            }
            HostileStep::Answer(_) => self.controller.abort_ended(),
            HostileStep::Supply(data) => {
                if let Some(at) = self.waiting.iter().position(|outcome| matches!(outcome, Outcome::Need { .. }))
                    && let Outcome::Need { pending, .. } = self.waiting.remove(at)
                {
                    let outcome = self.controller.supply(pending, &data, self.now);
                    assert!(matches!(outcome, Outcome::Done { .. }));
                }
            }
            HostileStep::Add(nsid) => drop(self.controller.add_namespace(namespace(nsid))),
            HostileStep::Remove(nsid) => drop(self.controller.remove_namespace(nsid)),
            HostileStep::Resize(nsid, blocks) => drop(self.controller.resize_namespace(nsid, blocks)),
            HostileStep::DoorbellError => self.controller.invalid_doorbell_value(),
            HostileStep::EntrySizes(submission, completion) => self.controller.set_entry_sizes(submission, completion),
            HostileStep::Reset => {
                self.waiting.clear();
                self.controller.reset();
                self.controller.enable(self.now);
            }
        }
    }

    fn command(&mut self, sqe: &Sqe) {
        let outcome = self.controller.admin(sqe, self.now);
        match &outcome {
            Outcome::Data { data, .. } => match AdminOpcode(sqe.opcode) {
                AdminOpcode::GET_LOG_PAGE => {
                    let (dw10, dw11) = (GetLogPageDw10::from_bits(sqe.cdw10), GetLogPageDw11::from_bits(sqe.cdw11));
                    assert!(data.len() as u64 <= log_page_dwords_of(dw10, dw11) * 4);
                }
                AdminOpcode::IDENTIFY => assert_eq!(data.len(), 4096),
                _ => assert!(data.len() <= 512),
            },
            Outcome::CreateCq(queue) => {
                assert!((1..=4).contains(&queue.qid) && (2..=256).contains(&queue.entries) && queue.vector < 5);
                assert!(queue.base % 4096 == 0);
            }
            Outcome::CreateSq(queue) => {
                assert!((1..=4).contains(&queue.qid) && (2..=256).contains(&queue.entries));
                assert!((1..=4).contains(&queue.cqid) && queue.base % 4096 == 0);
            }
            Outcome::Need { len, .. } => assert!(*len <= 512),
            Outcome::Done { .. } | Outcome::Held | Outcome::WriteCache { .. } => return,
            Outcome::DeleteSq { .. } | Outcome::DeleteCq { .. } | Outcome::Abort { .. } => {}
            Outcome::DoorbellBuffers { shadow, event_idx } => assert_ne!(shadow, event_idx),
        }
        self.waiting.push(outcome);
    }

    fn answer(&mut self, outcome: &Outcome, well: bool) {
        match outcome {
            Outcome::CreateCq(queue) if well => self.controller.queue_created(QueueId::Cq(queue.qid)),
            Outcome::CreateCq(queue) => self.controller.queue_creation_failed(QueueId::Cq(queue.qid)),
            Outcome::CreateSq(queue) if well => self.controller.queue_created(QueueId::Sq(queue.qid)),
            Outcome::CreateSq(queue) => self.controller.queue_creation_failed(QueueId::Sq(queue.qid)),
            Outcome::DeleteSq { qid } => self.controller.queue_deleted(QueueId::Sq(*qid)),
            Outcome::DeleteCq { qid } => self.controller.queue_deleted(QueueId::Cq(*qid)),
            Outcome::Abort { .. } => self.controller.abort_ended(),
            _ => {}
        }
    }
}

proptest! {
    #[test]
    fn no_sequence_of_commands_breaks_the_controller(steps in vec(step(), 0..200)) {
        let mut host = Host { controller: controller(), waiting: Vec::new(), now: NOW };
        for step in steps {
            host.take(step);
            prop_assert!(host.controller.queues.is_consistent());
            // Requests are few, and each completes once.
            let events = std::iter::from_fn(|| host.controller.next_event()).take(9).count();
            prop_assert!(events <= 4);
        }
    }

    #[test]
    fn any_command_has_an_outcome(dwords in any::<[u32; 16]>()) {
        let sqe: Sqe = zerocopy::transmute!(dwords);
        let outcome = controller().admin(&sqe, NOW);
        let len = match outcome {
            Outcome::Data { data, .. } => data.len(),
            Outcome::Need { len, .. } => len,
            _ => 0,
        };
        prop_assert!(len <= 128 << 10);
    }
}
