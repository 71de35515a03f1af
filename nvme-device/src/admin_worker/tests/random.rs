//! Any sequence of what a host, its client, its memory and the poll groups do.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// Something that happens. The bench asserts, at each step, that no command is completed twice, that CSTS.RDY falls
/// only when nothing is in flight, and that a shutdown is complete only after its flush.
#[derive(Debug, Clone, Copy)]
enum Step {
    Enable,
    Disable,
    ShutDown,
    DisableAndShutDown,
    Reset,
    Command(Sqe),
    Answer(usize, bool),
    /// An answer that came before comes once more.
    Repeat(usize),
    Transfer(bool),
    SlowData(bool),
    Memory(Option<Fault>),
    Reap,
    Pass(u16),
    Tick,
    AddNamespace(u32, u8),
    RemoveNamespace(u32),
    DoorbellError,
    Reconnect,
}

fn command() -> impl Strategy<Value = Sqe> {
    let qid = || 1_u16..3;
    prop_oneof![
        4 => qid().prop_map(create_cq),
        4 => (qid(), qid()).prop_map(|(qid, cqid)| create_sq(qid, cqid)),
        2 => qid().prop_map(Sqe::delete_io_sq),
        2 => qid().prop_map(Sqe::delete_io_cq),
        2 => (0_u16..3, 0_u16..8).prop_map(|(sqid, cid)| Sqe::abort(sqid, cid)),
        2 => Just(Sqe::async_event_request()),
        2 => Just(identify()),
        1 => Just(Sqe::identify(Cns::ACTIVE_NAMESPACES, 0)),
        2 => Just(set_timestamp()),
        1 => (0_u32..2).prop_map(|on| Sqe::set_features(FeatureId::VOLATILE_WRITE_CACHE, on)),
        1 => (0_u32..0x400).prop_map(|value| coalesce(InterruptCoalescing::from_bits(value))),
        1 => Just(want_namespace_notices()),
        1 => Just(Sqe::set_features(FeatureId::KEEP_ALIVE_TIMER, 1000)),
        1 => Just(shadow_doorbells()),
        1 => (1_u8..6).prop_map(|lid| Sqe::get_log_page(LogId(lid), 0, 512)),
        1 => any::<u8>().prop_map(|opcode| Sqe { opcode, ..Sqe::default() }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let fault = proptest::sample::select(vec![Fault::Unmapped, Fault::NoFile, Fault::ReadOnly]);
    prop_oneof![
        6 => Just(Step::Enable),
        3 => Just(Step::Disable),
        2 => Just(Step::ShutDown),
        1 => Just(Step::DisableAndShutDown),
        2 => Just(Step::Reset),
        20 => command().prop_map(Step::Command),
        20 => (any::<usize>(), proptest::bool::weighted(0.9)).prop_map(|(at, well)| Step::Answer(at, well)),
        2 => any::<usize>().prop_map(Step::Repeat),
        4 => any::<bool>().prop_map(Step::Transfer),
        1 => any::<bool>().prop_map(Step::SlowData),
        2 => prop_oneof![3 => Just(None), 1 => fault.prop_map(Some)].prop_map(Step::Memory),
        4 => Just(Step::Reap),
        3 => any::<u16>().prop_map(Step::Pass),
        2 => Just(Step::Tick),
        1 => (1_u32..3, 0_u8..3).prop_map(|(nsid, uuid)| Step::AddNamespace(nsid, uuid)),
        1 => (1_u32..3).prop_map(Step::RemoveNamespace),
        1 => Just(Step::DoorbellError),
        1 => Just(Step::Reconnect),
    ]
}

struct Life {
    bench: Bench,
    answered: Vec<Ticket>,
    /// Numbers of device resets of this session that were asked for.
    resets: Vec<u64>,
    next_reset: u64,
}

impl Life {
    fn take(&mut self, step: Step) {
        let bench = &mut self.bench;
        match step {
            Step::Enable => bench.enable(),
            Step::Disable => bench.disable(),
            Step::ShutDown => bench.shut_down(),
            Step::DisableAndShutDown => bench.disable_and_shut_down(),
            Step::Reset => {
                self.resets.push(self.next_reset);
                bench.reset(self.next_reset);
                self.next_reset += 1;
            }
            Step::Command(sqe) => drop(bench.try_command(sqe)),
            Step::Answer(at, well) if !bench.sent.is_empty() => {
                let at = at % bench.sent.len();
                let (_, ticket, request) = bench.sent[at];
                self.answered.push(ticket);
                // What is deleted and flushed is so in the end.
                let can_fail = matches!(request, GroupRequest::CreateSq { .. } | GroupRequest::Abort { .. });
                bench.answer(at, if well || !can_fail { Answer::Done } else { Answer::Failed });
            }
            Step::Repeat(at) if !self.answered.is_empty() => {
                let ticket = self.answered[at % self.answered.len()];
                // What all poll groups are to answer is not over by the answers of one.
                if bench.sent.iter().all(|(_, other, _)| *other != ticket) {
                    bench.drive(Input::Answer(ticket, Answer::Done));
                }
            }
            Step::Answer(..) | Step::Repeat(_) => {}
            Step::Transfer(well) => bench.end_transfers(well),
            Step::SlowData(slow) => bench.slow_data = slow,
            Step::Memory(fault) => bench.fault = fault,
            Step::Reap => {
                bench.reap();
                bench.complete_events();
            }
            Step::Pass(millis) => bench.pass(Duration::from_millis(millis.into())),
            Step::Tick => bench.drive(Input::Tick),
            Step::AddNamespace(nsid, uuid) => bench.drive(Input::AddNamespace(namespace(nsid, uuid))),
            Step::RemoveNamespace(nsid) => bench.drive(Input::RemoveNamespace { nsid }),
            Step::DoorbellError => bench.drive(Input::ErrorEvents(vec![QueueErrorEvent::InvalidDoorbell { qid: 1 }])),
            Step::Reconnect => {
                while let Some(request) = bench.requests.pop() {
                    if let Request::Reset { number } = request {
                        bench.resets_over.push(number);
                    }
                }
                bench.attach_another();
                self.check_resets();
            }
        }
        self.check_bounds();
    }

    fn check_bounds(&self) {
        let in_flight = self.bench.worker.in_flight();
        assert!(in_flight < usize::from(ENTRIES), "{in_flight} admin commands are in flight");
        // Of each cycle that is over one flush may not have been answered yet, besides what waits in poll groups.
        assert!(self.bench.sent.len() <= 64 * GROUPS, "{:?} are in flight", self.bench.sent);
        assert!(self.bench.transfers.len() <= 1);
    }

    /// Each device reset of a session that is over, or at rest, has been told of once.
    fn check_resets(&mut self) {
        let mut over = std::mem::take(&mut self.bench.resets_over);
        over.sort_unstable();
        assert_eq!(over, std::mem::take(&mut self.resets));
    }

    /// Everything is answered, and memory is there: what the host wants must be so in the end.
    fn end(mut self) {
        let bench = &mut self.bench;
        bench.fault = None;
        for _ in 0..4 {
            bench.answer_all();
            bench.end_transfers(true);
            bench.reap();
            bench.pass(Duration::from_millis(1));
        }
        assert!(bench.worker.wants_request() && bench.requests.pop().is_none(), "every request is carried out");
        assert_eq!(bench.worker.in_flight(), 0);
        let held = |sqe: &Sqe| sqe.opcode == AdminOpcode::ASYNC_EVENT_REQUEST.0;
        assert!(bench.open.values().all(held), "every command is completed: {:?}", bench.open);
        if bench.registers.enabled() {
            assert!(bench.registers.ready() || bench.registers.fatal(), "an enable ends");
        } else {
            assert!(!bench.registers.ready() && !bench.registers.fatal(), "a disable ends");
        }
        assert!(!bench.is_shutting_down() || bench.is_shut_down() || bench.registers.fatal(), "a shutdown ends");
        self.check_resets();
    }
}

proptest! {
    #[test]
    fn whatever_happens_each_enable_disable_reset_and_shutdown_ends(steps in vec(step(), 0..200)) {
        let mut life = Life { bench: Bench::attached(), answered: Vec::new(), resets: Vec::new(), next_reset: 0 };
        for step in steps {
            life.take(step);
        }
        life.end();
    }
}
