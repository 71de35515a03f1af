//! Procedures with a controller that answers anything, at any time or never.

use proptest::prelude::*;

use super::*;

/// How a controller answers a command: as it should, but for this.
#[derive(Debug, Clone)]
struct Reply {
    /// After so many milliseconds; never, if that is later than a command may take.
    delay: u64,
    /// These bits of the result are inverted.
    result: u64,
    /// A status that is not success, or a transfer that failed.
    outcome: Option<Result<u16, u32>>,
    /// These bits of a byte of the data are inverted.
    flip: Option<(usize, u8)>,
    /// The data has so many bytes.
    len: Option<usize>,
    /// The completion comes twice.
    twice: bool,
}

fn replies() -> impl Strategy<Value = Vec<Reply>> {
    let delay = prop_oneof![30 => Just(0), 9 => 0..6000_u64, 1 => Just(u64::MAX)];
    let result = prop_oneof![20 => Just(0), 1 => any::<u64>(), 2 => (0..64_u32).prop_map(|bit| 1 << bit)];
    let outcome = prop_oneof![30 => Just(None), 1 => any::<Result<u16, u32>>().prop_map(Some)];
    let flip = prop_oneof![4 => Just(None), 1 => (0..4096_usize, any::<u8>()).prop_map(Some)];
    let len = prop_oneof![9 => Just(None), 1 => (0..9000_usize).prop_map(Some)];
    let twice = prop::bool::weighted(0.02);
    let reply = (delay, result, outcome, flip, len, twice)
        .prop_map(|(delay, result, outcome, flip, len, twice)| Reply { delay, result, outcome, flip, len, twice });
    prop::collection::vec(reply, 1..24)
}

impl Reply {
    fn of(&self, pool: &mut Pool, command: &AdminCommand) -> (Result<Cqe, TransferError>, Vec<u8>) {
        let (mut cqe, mut data) = pool.answer(command);
        let low = u32::try_from(self.result & 0xffff_ffff).expect("32 bits");
        (cqe.dw0, cqe.dw1) = (cqe.dw0 ^ low, cqe.dw1 ^ u32::try_from(self.result >> 32).expect("32 bits"));
        if let Some((at, bits)) = self.flip
            && let Some(byte) = data.get_mut(at)
        {
            *byte ^= bits;
        }
        if let Some(len) = self.len {
            data.resize(len, 0xff);
        }
        let result = match self.outcome {
            None => Ok(cqe),
            Some(Ok(status)) => Ok(Cqe { status: Status::from_bits(status), ..cqe }),
            Some(Err(done)) => Err(TransferError::Short { done, len: u32::MAX }),
        };
        (result, data)
    }
}

/// What [`Setup`] and [`Shutdown`] have in common.
trait Procedure {
    fn next(&mut self, now: Duration) -> Result<Step<()>, ControllerError>;
    fn end(&mut self, now: Duration, result: Result<Cqe, TransferError>, data: &[u8]) -> Result<(), ControllerError>;
}

impl Procedure for Setup {
    fn next(&mut self, now: Duration) -> Result<Step<()>, ControllerError> {
        Ok(match self.poll(now)? {
            Step::Send(command) => Step::Send(command),
            Step::Wait(until) => Step::Wait(until),
            Step::Done(controller) => {
                assert!((1..=4).contains(&controller.io_queues) && controller.queue_entries >= 2);
                assert!(controller.max_transfer.is_none_or(|bytes| bytes >= 4096));
                Step::Done(())
            }
        })
    }

    fn end(&mut self, now: Duration, result: Result<Cqe, TransferError>, data: &[u8]) -> Result<(), ControllerError> {
        self.completed(now, result, data)
    }
}

impl Procedure for Shutdown {
    fn next(&mut self, now: Duration) -> Result<Step<()>, ControllerError> {
        self.poll(now)
    }

    fn end(&mut self, now: Duration, result: Result<Cqe, TransferError>, _: &[u8]) -> Result<(), ControllerError> {
        self.completed(now, result)
    }
}

/// Goes through a procedure, with one reply after the other. Returns when and how it ended.
fn run(procedure: &mut impl Procedure, pool: &mut Pool, replies: &[Reply]) -> (Duration, Result<(), ControllerError>) {
    let (mut now, mut replies) = (START, replies.iter().cycle());
    let mut in_flight = None;
    for _ in 0..5000 {
        let step = match procedure.next(now) {
            Ok(step) => step,
            Err(error) => {
                assert_eq!(procedure.end(now, Ok(Cqe::default()), &[]), Err(error), "it is over");
                assert_eq!(procedure.next(now + TIMEOUT), Err(error), "it is over");
                return (now, Err(error));
            }
        };
        match step {
            Step::Done(()) => return (now, Ok(())),
            Step::Send(command) => {
                assert!(in_flight.is_none(), "one command at a time");
                let reply = replies.next().expect("they come again");
                let at = now.saturating_add(Duration::from_millis(reply.delay));
                in_flight = Some((at, reply.twice, reply.of(pool, &command)));
            }
            Step::Wait(until) => {
                assert!(until > now, "time passes");
                now = until;
                if let Some((at, twice, (result, data))) = in_flight.take_if(|(at, ..)| *at < until) {
                    now = at;
                    // An error comes again.
                    procedure.end(now, result, &data).ok();
                    if twice {
                        assert!(procedure.end(now, result, &data).is_err(), "nothing is in flight");
                    }
                }
            }
        }
    }
    unreachable!("a deadline ends it");
}

proptest! {
    #[test]
    fn a_setup_is_over_within_its_deadlines_whatever_is_answered(replies in replies(), slowness in 0..200_u32) {
        let mut setup = Setup::new(SetupOptions { max_ready_timeout: Duration::from_secs(1), ..options() });
        let mut pool = Pool { slowness, ..Pool::new() };
        let (end, _) = run(&mut setup, &mut pool, &replies);
        // Nine commands, and twice a wait whose last look at the controller may take as long as a command.
        prop_assert!(end.saturating_sub(START) <= 9 * TIMEOUT + 2 * (Duration::from_secs(1) + TIMEOUT));
    }

    #[test]
    fn a_shutdown_is_over_within_its_deadlines_whatever_is_answered(replies in replies(), slowness in 0..900_u32) {
        let mut shutdown = Shutdown::new(Cc::from_bits(0x0046_0001), TIMEOUT);
        let (end, _) = run(&mut shutdown, &mut Pool { slowness, ..Pool::new() }, &replies);
        // The command, the wait, and its last look at the controller.
        prop_assert!(end.saturating_sub(START) <= 3 * TIMEOUT);
    }

    #[test]
    fn a_keep_alive_expires_when_none_was_answered_for_its_timeout(
        steps in prop::collection::vec((0..6000_u64, any::<Option<bool>>()), 1..100),
    ) {
        let timeout = Duration::from_secs(10);
        let mut keep_alive = KeepAlive::new(timeout, START);
        let (mut now, mut answered, mut sent) = (START, START, None);
        for (millis, answer) in steps {
            now += Duration::from_millis(millis);
            match keep_alive.poll(now) {
                KeepAliveStep::Expired => {
                    prop_assert!(now.saturating_sub(answered) >= timeout);
                    prop_assert_eq!(keep_alive.poll(now + timeout), KeepAliveStep::Expired);
                    return Ok(());
                }
                KeepAliveStep::Send => {
                    prop_assert_eq!(sent, None, "one at a time");
                    keep_alive.sent(now);
                    sent = Some(now);
                }
                KeepAliveStep::Wait(until) => prop_assert!(now < until && until <= answered + timeout),
            }
            prop_assert!(now.saturating_sub(answered) < timeout);
            // Answers come of what was sent, and of what was not.
            if let Some(is_success) = answer {
                keep_alive.answered(is_success);
                answered = sent.take().filter(|_| is_success).unwrap_or(answered);
            }
        }
    }

    #[test]
    fn requests_for_events_are_few_at_a_time_and_few_in_an_interval(
        aerl in any::<u8>(),
        steps in prop::collection::vec((0..300_u64, 0..8_u8, any::<u16>(), any::<u32>()), 1..200),
    ) {
        let mut events = Events::new(aerl, START);
        let (mut now, mut waiting, mut times) = (START, 0_u8, Vec::new());
        for (millis, answers, status, dw0) in steps {
            now += Duration::from_millis(millis);
            for _ in 0..=Events::BURST {
                match events.poll(now) {
                    EventsStep::Send(_) => {
                        events.sent(now);
                        waiting += 1;
                        times.push(now);
                    }
                    EventsStep::Wait(until) => {
                        prop_assert!(until > now && until <= now + Events::INTERVAL);
                        break;
                    }
                    EventsStep::Idle => break,
                }
                prop_assert!(waiting <= Events::MOST.min(aerl.saturating_add(1)));
            }
            // Answers come of what was asked, and more.
            for _ in 0..answers {
                let cqe = Cqe { dw0, status: Status::from_bits(status), ..Cqe::default() };
                prop_assert_eq!(events.completed(Ok(cqe)).is_some(), cqe.status.is_success());
                waiting = waiting.saturating_sub(1);
            }
            let since = times.iter().filter(|time| now.saturating_sub(**time) < Events::INTERVAL).count();
            prop_assert!(since <= 2 * usize::from(Events::BURST));
        }
    }

    #[test]
    fn a_log_page_is_read_once_in_order_and_no_more_than_was_wanted(
        len in 0..70_000_u32,
        max_transfer in any::<Option<u16>>(),
        has_offsets in any::<bool>(),
        wrong in prop::collection::vec(any::<Option<u16>>(), 0..4),
    ) {
        let max_transfer = max_transfer.map(u32::from);
        let Ok(mut read) = LogRead::new(LogId::ANA, 0, len, max_transfer, has_offsets) else {
            let piece = max_transfer.unwrap_or(u32::MAX).max(4096);
            prop_assert!(len < 4 || len % 4 != 0 || (len > piece && !has_offsets));
            return Ok(());
        };
        let (mut offset, mut wrong) = (0, wrong.into_iter());
        while let Some(AdminCommand { sqe, data }) = read.command() {
            let AdminData::ToHost(length) = data else { unreachable!("a log page is read") };
            prop_assert_eq!((sqe.cdw12, sqe.cdw13), (offset, 0));
            prop_assert!(length > 0 && length <= len - offset);
            if let Some(count) = wrong.next().flatten().filter(|count| u32::from(*count) != length) {
                prop_assert!(read.completed(&vec![0; count.into()]).is_err());
                continue;
            }
            offset += length;
            prop_assert_eq!(GetLogPageDw10::from_bits(sqe.cdw10).rae(), offset < len);
            read.completed(&vec![7; length as usize]).expect("it is as long as was asked for");
        }
        prop_assert_eq!(read.into_data(), vec![7; len as usize]);
    }
}
