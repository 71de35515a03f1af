//! Procedures with a controller that does all right, and with one that lies about one thing.

mod properties;

use std::time::Duration;

use nvme_spec::admin::{AsyncEvent, GetLogPageDw10, GetLogPageDw11, log_page_dwords_of};
use nvme_spec::fabrics::{ANY_CONTROLLER, ConnectData, FabricsType, MAX_CNTLID};
use nvme_spec::feature::{AsyncEventConfiguration, FeatureId, NumberOfQueues};
use nvme_spec::identify::{CompletionEntrySizes, ControllerType, IdentifyController, SglSupport, SubmissionEntrySizes};
use nvme_spec::log::LogId;
use nvme_spec::register::{Cap, Cc, Csts, Register, ShutdownNotification, ShutdownStatus, Version};
use nvme_spec::{AdminOpcode, Cqe, Sqe, Status};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::*;

const NQN: &str = "nqn.2024-01.com.example:pool";
const TIMEOUT: Duration = Duration::from_secs(5);
/// A moment; what counts is the time since.
const START: Duration = Duration::from_secs(1000);

fn options() -> SetupOptions {
    SetupOptions {
        subnqn: NQN.to_owned(),
        hostnqn: "nqn.2014-08.org.nvmexpress:uuid:07070707-0707-0707-0707-070707070707".to_owned(),
        hostid: [7; 16],
        cntlid: ANY_CONTROLLER,
        admin_sqsize: 31,
        keep_alive: Duration::from_secs(10),
        io_queues: 4,
        events: AsyncEventConfiguration::new().with_nan(true).with_anacn(true),
        command_timeout: TIMEOUT,
        max_ready_timeout: Duration::from_secs(60),
    }
}

/// A controller, of which a test changes what it wants to.
struct Pool {
    connect: u32,
    cap: Cap,
    version: Version,
    /// How often CSTS is read before the controller follows CC.
    slowness: u32,
    csts: Csts,
    cc: Cc,
    identity: IdentifyController,
    queues: NumberOfQueues,
    /// What is answered in place of success to the command with this opcode.
    refuses: Option<(u8, Status)>,
    log: Vec<Sqe>,
}

impl Pool {
    fn new() -> Self {
        let mut identity = IdentifyController {
            cntlid: 5,
            cntrltype: ControllerType::IO,
            sqes: SubmissionEntrySizes::new().with_min(6).with_max(6),
            cqes: CompletionEntrySizes::new().with_min(4).with_max(4),
            ioccsz: 4 + 256,
            iorcsz: 1,
            mdts: 5,
            sgls: SglSupport::new().with_sgls(1).with_offset(true),
            oaes: AsyncEventConfiguration::new().with_nan(true),
            ..IdentifyController::new_zeroed()
        };
        identity.subnqn[..NQN.len()].copy_from_slice(NQN.as_bytes());
        Self {
            connect: 5,
            cap: Cap::new().with_mqes(127).with_css_nvm(true).with_to(10),
            version: Version::V1_4,
            slowness: 2,
            csts: Csts::new(),
            cc: Cc::new(),
            identity,
            queues: NumberOfQueues::new().with_nsq(15).with_ncq(7),
            refuses: None,
            log: Vec::new(),
        }
    }

    fn answer(&mut self, command: &AdminCommand) -> (Cqe, Vec<u8>) {
        let sqe = command.sqe;
        self.log.push(sqe);
        if let Some((opcode, status)) = self.refuses
            && opcode == sqe.opcode
        {
            return (Cqe::of(status), Vec::new());
        }
        let (mut result, mut data) = (0, Vec::new());
        match AdminOpcode(sqe.opcode) {
            AdminOpcode::FABRICS => result = self.fabrics(sqe, &command.data),
            AdminOpcode::IDENTIFY => data = self.identity.as_bytes().to_vec(),
            AdminOpcode::SET_FEATURES if sqe.cdw10 == u32::from(FeatureId::NUMBER_OF_QUEUES.0) => {
                result = self.queues.into_bits().into();
            }
            _ => {}
        }
        let [low, high] = [result, result >> 32].map(|half| u32::try_from(half & 0xffff_ffff).expect("32 bits"));
        (Cqe { dw0: low, dw1: high, ..Cqe::default() }, data)
    }

    fn fabrics(&mut self, sqe: Sqe, data: &AdminData) -> u64 {
        if sqe.fctype() == FabricsType::CONNECT {
            let AdminData::FromHost(data) = data else { unreachable!("Connect has data") };
            let data = ConnectData::read_from_bytes(data).expect("it has all of it");
            assert_eq!(&data.subnqn[..=NQN.len()], [NQN.as_bytes(), &[0]].concat());
            assert_eq!((data.hostid, sqe.as_connect().kato, sqe.as_connect().sqsize), ([7; 16], 10_000, 31));
            return self.connect.into();
        }
        let property = sqe.as_property();
        match Register(property.offset) {
            Register::CC if property.fctype == FabricsType::PROPERTY_SET => {
                self.cc = Cc::from_bits(u32::try_from(property.value).expect("32 bits"));
                if self.slowness == 0 {
                    self.follow();
                }
                0
            }
            Register::CC => self.cc.into_bits().into(),
            Register::CAP => self.cap.into_bits(),
            Register::VS => self.version.into_bits().into(),
            _ => {
                let csts = self.csts;
                if self.slowness > 0 {
                    self.slowness -= 1;
                } else {
                    self.follow();
                }
                csts.into_bits().into()
            }
        }
    }

    fn follow(&mut self) {
        self.csts.set_rdy(self.cc.en());
        if self.cc.shn() != ShutdownNotification::NONE {
            self.csts.set_shst(ShutdownStatus::COMPLETE);
        }
    }
}

/// Sets a controller up, with time that passes only where it has to be waited for.
fn set_up(pool: &mut Pool, options: SetupOptions) -> Result<Controller, ControllerError> {
    let (mut setup, mut now) = (Setup::new(options), START);
    loop {
        match setup.poll(now)? {
            Step::Done(controller) => return Ok(controller),
            Step::Wait(until) => {
                assert!(until > now && until <= now + Duration::from_secs(60));
                now = until;
            }
            Step::Send(command) => {
                let (cqe, data) = pool.answer(&command);
                setup.completed(now, Ok(cqe), &data)?;
            }
        }
    }
}

#[test]
fn a_controller_is_set_up_in_the_order_of_the_specification() {
    let mut pool = Pool::new();
    let controller = set_up(&mut pool, options()).expect("the controller is right");
    assert_eq!((controller.cntlid, controller.io_queues, controller.queue_entries), (5, 4, 128));
    assert_eq!((controller.in_capsule_data, controller.max_transfer), (4096, Some(128 << 10)));
    assert_eq!(controller.events, AsyncEventConfiguration::new().with_nan(true), "those that it has");
    assert_eq!(pool.cc.into_bits(), 0x0046_0001);
    let opcodes: Vec<u8> = pool.log.iter().map(|sqe| sqe.opcode).collect();
    assert_eq!(opcodes.iter().filter(|opcode| **opcode != 0x7f).copied().collect::<Vec<_>>(), [6, 9, 9]);
    assert_eq!(pool.log[0].fctype(), FabricsType::CONNECT);
    let csts = pool.log.iter().filter(|sqe| sqe.as_property().offset == Register::CSTS.0).count();
    assert!((4..=8).contains(&csts), "it is waited for, before and behind: {csts}");
}

#[test]
fn a_controller_that_is_enabled_is_disabled_before() {
    let mut pool = Pool::new();
    (pool.cc, pool.csts) = (Cc::from_bits(0x0046_0001), Csts::new().with_rdy(true).with_cfs(true));
    pool.slowness = 0;
    // A broken one is whole after that.
    let mut setup = Setup::new(options());
    let mut written = Vec::new();
    while let Step::Send(command) = setup.poll(START).expect("it goes on") {
        let property = command.sqe.as_property();
        if property.fctype == FabricsType::PROPERTY_SET && property.offset == Register::CC.0 {
            written.push(property.value);
            pool.csts.set_cfs(false);
        }
        let (cqe, data) = pool.answer(&command);
        setup.completed(START, Ok(cqe), &data).expect("it goes on");
    }
    assert_eq!(written, [0x0046_0000, 0x0046_0001]);
}

#[test]
fn limits_of_the_controller_are_kept_within_what_they_can_be() {
    let told = |change: fn(&mut Pool)| {
        let mut pool = Pool::new();
        change(&mut pool);
        set_up(&mut pool, options()).expect("the controller is right")
    };
    assert_eq!(told(|pool| pool.identity.icdoff = 1).in_capsule_data, 0);
    assert_eq!(told(|pool| pool.identity.sgls.set_offset(false)).in_capsule_data, 0);
    assert_eq!(told(|pool| pool.identity.ioccsz = 4).in_capsule_data, 0);
    assert_eq!(told(|pool| pool.identity.ioccsz = u32::MAX).in_capsule_data, u32::MAX);
    assert_eq!(told(|pool| pool.identity.mdts = 0).max_transfer, None);
    assert_eq!(told(|pool| pool.identity.mdts = 255).max_transfer, None);
    assert_eq!(told(|pool| pool.cap.set_mpsmin(15)).max_transfer, None);
    assert_eq!(told(|pool| pool.identity.mdts = 1).max_transfer, Some(8192));
    assert_eq!(told(|pool| pool.identity.maxcmd = 16).queue_entries, 17);
    assert_eq!(told(|pool| pool.identity.maxcmd = u16::MAX).queue_entries, 128);
    assert_eq!(told(|pool| pool.cap.set_mqes(u16::MAX)).queue_entries, 65_536);
    assert_eq!(told(|pool| pool.queues = NumberOfQueues::from_bits(u32::MAX)).io_queues, 4);
    assert_eq!(told(|pool| pool.queues = NumberOfQueues::from_bits(0)).io_queues, 1);
    assert_eq!(told(|pool| pool.queues = NumberOfQueues::new().with_nsq(9).with_ncq(1)).io_queues, 2);
    assert_eq!(told(|pool| pool.identity.oaes = AsyncEventConfiguration::new()).events.into_bits(), 0);
}

#[test]
fn a_controller_that_tells_what_cannot_be_is_refused_with_the_value() {
    type Case = (fn(&mut Pool), ControllerError);
    let wanted = ANY_CONTROLLER;
    let identity = |error: IdentityError| ControllerError::Identity(error);
    let entry = |field, min, max, expected| identity(IdentityError::EntrySize { field, min, max, expected });
    let cases: Vec<Case> = vec![
        (|pool| pool.connect = 0xfff0, ControllerError::ControllerId { cntlid: MAX_CNTLID + 1, wanted }),
        (|pool| pool.connect = 0xffff, ControllerError::ControllerId { cntlid: 0xffff, wanted }),
        (|pool| pool.connect |= 2 << 16, ControllerError::AuthenticationRequired { authreq: 2 }),
        (|pool| pool.connect |= 4 << 16, ControllerError::AuthenticationRequired { authreq: 4 }),
        (|pool| pool.cap.set_css_nvm(false), ControllerError::NoCommandSet { cap: 127 | 10 << 24 }),
        (|pool| pool.cap.set_mqes(0), ControllerError::QueueEntries { mqes: 0 }),
        (|pool| pool.version = Version::new(), ControllerError::Version { version: Version::new() }),
        (|pool| pool.csts.set_cfs(true), ControllerError::Fatal { stage: Stage::AwaitReady }),
        (|pool| pool.identity.cntlid = 6, identity(IdentityError::ControllerId { cntlid: 6, expected: 5 })),
        (|pool| pool.identity.subnqn[3] = b'-', identity(IdentityError::Subsystem)),
        (|pool| pool.identity.subnqn[NQN.len()] = b'x', identity(IdentityError::Subsystem)),
        (|pool| pool.identity.subnqn = [b'n'; 256], identity(IdentityError::Subsystem)),
        (|pool| pool.identity.subnqn = [0; 256], identity(IdentityError::Subsystem)),
        (
            |pool| pool.identity.cntrltype = ControllerType::DISCOVERY,
            identity(IdentityError::Type { kind: ControllerType::DISCOVERY }),
        ),
        (|pool| pool.identity.cntrltype = ControllerType(9), identity(IdentityError::Type { kind: ControllerType(9) })),
        (|pool| pool.identity.sqes.set_min(7), entry("SQES", 7, 6, 6)),
        (|pool| pool.identity.sqes.set_max(5), entry("SQES", 6, 5, 6)),
        (|pool| pool.identity.cqes.set_min(5), entry("CQES", 5, 4, 4)),
        (|pool| pool.identity.cqes.set_max(0), entry("CQES", 4, 0, 4)),
        (|pool| pool.identity.ioccsz = 3, identity(IdentityError::CapsuleSize { field: "IOCCSZ", value: 3, min: 4 })),
        (|pool| pool.identity.iorcsz = 0, identity(IdentityError::CapsuleSize { field: "IORCSZ", value: 0, min: 1 })),
        (
            |pool| pool.identity.sgls.set_sgls(0),
            identity(IdentityError::NoSgls { sgls: SglSupport::new().with_offset(true).into_bits() }),
        ),
    ];
    for (change, expected) in cases {
        let mut pool = Pool::new();
        change(&mut pool);
        assert_eq!(set_up(&mut pool, options()).map(|_| ()), Err(expected));
        assert!(expected.to_string().len() > 20);
    }
    let other = SetupOptions { cntlid: 4, ..options() };
    let expected = ControllerError::ControllerId { cntlid: 5, wanted: 4 };
    assert_eq!(set_up(&mut Pool::new(), other).map(|_| ()), Err(expected));
}

#[test]
fn a_refused_command_ends_the_procedure_with_its_name_and_status() {
    for (opcode, stage) in
        [(0x7f, Stage::Connect), (AdminOpcode::IDENTIFY.0, Stage::Identify), (9, Stage::SetNumberOfQueues)]
    {
        let mut pool = Pool::new();
        pool.refuses = Some((opcode, Status::INVALID_FIELD));
        let refused = ControllerError::Refused { stage, status: Status::INVALID_FIELD };
        assert_eq!(set_up(&mut pool, options()).map(|_| ()), Err(refused));
    }
}

#[test]
fn a_controller_that_refuses_notices_is_used_without_them() {
    let mut pool = Pool::new();
    let (mut setup, mut now) = (Setup::new(options()), START);
    let controller = loop {
        match setup.poll(now).expect("it goes on") {
            Step::Done(controller) => break controller,
            Step::Wait(until) => now = until,
            Step::Send(command) => {
                let is_events = command.sqe.cdw10 == u32::from(FeatureId::ASYNC_EVENT_CONFIGURATION.0);
                pool.refuses = is_events.then_some((9, Status::INVALID_FIELD));
                let (cqe, data) = pool.answer(&command);
                setup.completed(now, Ok(cqe), &data).expect("it goes on");
            }
        }
    };
    assert_eq!(controller.events, AsyncEventConfiguration::new());
}

#[test]
fn each_step_has_its_deadline() {
    let stages = [
        Stage::Connect,
        Stage::ReadCap,
        Stage::ReadVs,
        Stage::ReadCc,
        Stage::AwaitDisabled,
        Stage::Enable,
        Stage::AwaitReady,
        Stage::Identify,
        Stage::SetNumberOfQueues,
        Stage::SetEvents,
    ];
    for (count, stage) in stages.into_iter().enumerate() {
        let mut pool = Pool::new();
        pool.slowness = 0;
        let mut setup = Setup::new(options());
        for _ in 0..count {
            let Step::Send(command) = setup.poll(START).expect("it goes on") else { unreachable!("it is quick") };
            let (cqe, data) = pool.answer(&command);
            setup.completed(START, Ok(cqe), &data).expect("it goes on");
        }
        assert!(matches!(setup.poll(START), Ok(Step::Send(_))));
        assert_eq!(setup.poll(START), Ok(Step::Wait(START + TIMEOUT)));
        let late = setup.poll(START + TIMEOUT);
        assert_eq!(late, Err(ControllerError::TimedOut { stage, after: TIMEOUT }));
    }
}

#[test]
fn a_controller_that_never_becomes_ready_is_given_up_after_cap_to() {
    for (to, limit, max) in [(10, 5000, 60), (0, 500, 60), (255, 60_000, 60), (255, 127_500, 600)] {
        let mut pool = Pool::new();
        pool.cap.set_to(to);
        pool.slowness = u32::MAX;
        let (mut setup, mut now) =
            (Setup::new(SetupOptions { max_ready_timeout: Duration::from_secs(max), ..options() }), START);
        let error = loop {
            match setup.poll(now) {
                Ok(Step::Send(command)) => {
                    let (cqe, data) = pool.answer(&command);
                    setup.completed(now, Ok(cqe), &data).expect("it goes on");
                }
                Ok(Step::Wait(until)) => now = until,
                Ok(Step::Done(_)) => unreachable!("it never becomes ready"),
                Err(error) => break error,
            }
        };
        assert_eq!(error, ControllerError::TimedOut { stage: Stage::AwaitReady, after: Duration::from_millis(limit) });
        assert_eq!(now, START + Duration::from_millis(limit));
    }
}

#[test]
fn what_ends_without_having_been_sent_and_data_that_is_short_are_errors() {
    let mut setup = Setup::new(options());
    let unasked = ControllerError::NothingSent { stage: Stage::Connect };
    assert_eq!(setup.completed(START, Ok(Cqe::default()), &[]), Err(unasked));
    let mut setup = Setup::new(options());
    setup.poll(START).expect("it goes on");
    let reason = TransferError::Short { done: 0, len: 1024 };
    let short = ControllerError::Transfer { stage: Stage::Connect, reason };
    assert_eq!(setup.completed(START, Err(reason), &[]), Err(short));
    assert_eq!(identity::check(&[0; 100], 5, NQN), Err(IdentityError::Length { len: 100 }));
}

#[test]
fn a_procedure_that_has_failed_goes_on_with_its_error() {
    let mut setup = Setup::new(options());
    setup.poll(START).expect("it goes on");
    let refused = Err(ControllerError::Refused { stage: Stage::Connect, status: Status::INTERNAL_ERROR });
    assert_eq!(setup.completed(START, Ok(Cqe::of(Status::INTERNAL_ERROR)), &[]), refused);
    assert_eq!(setup.poll(START + 2 * TIMEOUT).map(|_| ()), refused);
    assert_eq!(setup.completed(START, Ok(Cqe::default()), &[]), refused);
}

#[test]
fn events_are_asked_for_as_the_controller_takes_them_and_told_by_what_they_are_about() {
    for (aerl, most) in [(0, 1), (2, 3), (3, 4), (255, 4)] {
        let mut events = Events::new(aerl, START);
        for _ in 0..most {
            assert_eq!(events.poll(START), EventsStep::Send(Sqe::async_event_request()));
            events.sent(START);
        }
        assert_eq!(events.poll(START), EventsStep::Idle);
    }
    let told = |dw0| {
        let mut events = Events::new(0, START);
        events.sent(START);
        events.completed(Ok(Cqe { dw0, ..Cqe::default() })).expect("it is an event")
    };
    assert_eq!(
        (told(0x0004_0002), told(0x0004_0002).log()),
        (Notice::NamespacesChanged, LogId::CHANGED_NAMESPACE_LIST)
    );
    assert_eq!((told(0x000c_0302), told(0x000c_0302).log()), (Notice::AnaChanged, LogId::ANA));
    // The page that a notice names is of no matter.
    assert_eq!(told(0x00ff_0302).log(), LogId::ANA);
    assert_eq!(
        (told(0x0002_0101), told(0x0002_0101).log()),
        (Notice::Other(AsyncEvent::from_bits(0x0002_0101)), LogId::SMART)
    );
}

#[test]
fn a_controller_that_tells_events_without_end_is_asked_16_times_a_second() {
    let (mut events, mut now, mut asked) = (Events::new(3, START), START, 0);
    while now < START + 10 * Events::INTERVAL {
        match events.poll(now) {
            EventsStep::Send(_) => {
                events.sent(now);
                asked += 1;
                assert_eq!(events.completed(Ok(Cqe { dw0: 2, ..Cqe::default() })), Some(Notice::NamespacesChanged));
            }
            EventsStep::Wait(until) => {
                assert!(until > now);
                now = until;
            }
            EventsStep::Idle => unreachable!("each is answered at once"),
        }
    }
    assert_eq!(asked, 160);
}

#[test]
fn a_controller_that_refuses_requests_is_asked_for_fewer_and_in_the_end_for_none() {
    let mut events = Events::new(1, START);
    for _ in 0..2 {
        assert!(matches!(events.poll(START), EventsStep::Send(_)));
        events.sent(START);
        assert_eq!(events.completed(Ok(Cqe::of(Status::ASYNC_EVENT_LIMIT_EXCEEDED))), None);
    }
    assert_eq!(events.poll(START + 2 * Events::INTERVAL), EventsStep::Idle);
    assert_eq!(events.completed(Err(TransferError::DataDigest)), None);
}

#[test]
fn keep_alive_is_due_at_half_of_its_time_and_expires_after_all_of_it() {
    let second = Duration::from_secs(1);
    let mut alive = KeepAlive::new(10 * second, START);
    assert_eq!(alive.poll(START), KeepAliveStep::Wait(START + 5 * second));
    assert_eq!(alive.poll(START + 5 * second), KeepAliveStep::Send);
    alive.sent(START + 6 * second);
    assert_eq!(alive.poll(START + 7 * second), KeepAliveStep::Wait(START + 10 * second));
    // What counts is when it was sent: the controller may have had it at once.
    alive.answered(true);
    assert_eq!(alive.poll(START + 9 * second), KeepAliveStep::Wait(START + 11 * second));
    alive.sent(START + 11 * second);
    alive.answered(false);
    assert_eq!(alive.poll(START + 12 * second), KeepAliveStep::Send);
    alive.sent(START + 12 * second);
    assert_eq!(alive.poll(START + 16 * second), KeepAliveStep::Expired);
    alive.answered(true);
    alive.answered(true);
    assert_eq!(alive.poll(START + 16 * second), KeepAliveStep::Wait(START + 17 * second));
}

#[test]
fn a_log_page_is_read_in_pieces_and_its_event_is_kept_until_the_last() {
    let mut read = LogRead::new(LogId::ANA, 1, 10_000, Some(4096), true).expect("it can be read");
    let mut asked = Vec::new();
    while let Some(AdminCommand { sqe, data }) = read.command() {
        let AdminData::ToHost(len) = data else { unreachable!("it is read") };
        let dw10 = GetLogPageDw10::from_bits(sqe.cdw10);
        let dwords = log_page_dwords_of(dw10, GetLogPageDw11::from_bits(sqe.cdw11));
        assert_eq!((dw10.lid(), dw10.lsp(), dwords * 4), (LogId::ANA, 1, u64::from(len)));
        asked.push((sqe.cdw12, len, dw10.rae()));
        let short = LogReadError::Piece { len: 5, expected: len };
        assert_eq!(read.completed(&[0; 5]), Err(short));
        read.completed(&vec![asked.len().to_le_bytes()[0]; len as usize]).expect("it is as long as asked for");
    }
    assert_eq!(asked, [(0, 4096, true), (4096, 4096, true), (8192, 1808, false)]);
    let data = read.into_data();
    assert_eq!((data.len(), data[4095], data[4096], data[9999]), (10_000, 1, 2, 3));
}

#[test]
fn log_pages_that_cannot_be_read_are_refused() {
    let refused = |len, max, offsets| LogRead::new(LogId::ANA, 0, len, max, offsets).expect_err("it is refused");
    for len in [0, 1, 3, 5, LogRead::MAX + 4, u32::MAX] {
        assert_eq!(refused(len, None, true), LogReadError::Length { len, max: LogRead::MAX });
    }
    assert_eq!(refused(8192, Some(4096), false), LogReadError::NoOffsets { len: 8192, max: 4096 });
    assert!(LogRead::new(LogId::ANA, 0, 8192, None, false).is_ok());
}

fn shut_down(pool: &mut Pool) -> (Result<(), ControllerError>, Duration) {
    let (mut shutdown, mut now) = (Shutdown::new(Cc::from_bits(0x0046_0001), TIMEOUT), START);
    loop {
        match shutdown.poll(now) {
            Ok(Step::Done(())) => return (Ok(()), now),
            Ok(Step::Wait(until)) => now = until,
            Ok(Step::Send(command)) => {
                let (cqe, _) = pool.answer(&command);
                if let Err(error) = shutdown.completed(now, Ok(cqe)) {
                    return (Err(error), now);
                }
            }
            Err(error) => return (Err(error), now),
        }
    }
}

#[test]
fn a_shutdown_waits_until_it_is_complete_and_not_for_ever() {
    let mut pool = Pool::new();
    assert_eq!(shut_down(&mut pool).0, Ok(()));
    assert_eq!(pool.cc.into_bits(), 0x0046_4001, "a normal shutdown, of a controller that stays enabled");
    let mut pool = Pool::new();
    pool.slowness = u32::MAX;
    let timed_out = ControllerError::TimedOut { stage: Stage::AwaitShutdown, after: TIMEOUT };
    assert_eq!(shut_down(&mut pool), (Err(timed_out), START + TIMEOUT));
    let mut pool = Pool::new();
    pool.csts.set_cfs(true);
    assert_eq!(shut_down(&mut pool).0, Err(ControllerError::Fatal { stage: Stage::AwaitShutdown }));
    let mut pool = Pool::new();
    pool.refuses = Some((0x7f, Status::INTERNAL_ERROR));
    let refused = ControllerError::Refused { stage: Stage::Shutdown, status: Status::INTERNAL_ERROR };
    assert_eq!(shut_down(&mut pool).0, Err(refused));
}
