//! From a connection to a controller that is ready.

use std::time::Duration;

use nvme_spec::fabrics::{ANY_CONTROLLER, ConnectData, ConnectResult, MAX_CNTLID};
use nvme_spec::feature::{AsyncEventConfiguration, FeatureId, NumberOfQueues};
use nvme_spec::identify::{Cns, IdentifyController};
use nvme_spec::register::{Cap, Cc, CommandSetSelected, Csts, Register, Version};
use nvme_spec::{Cqe, MAX_NQN, Sqe};
use zerocopy::{FromZeros, IntoBytes};

use super::{
    AdminCommand, AdminData, Controller, ControllerError, Exchange, IDENTIFY_LEN, STATUS_INTERVAL, Stage, Step,
    identity, without_data,
};
use crate::tcp::TransferError;

/// What to connect to, and how long it may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetupOptions {
    /// The name of the subsystem, of at most 223 bytes; a longer one is cut, and no subsystem has it.
    pub subnqn: String,
    /// The name of this host, likewise.
    pub hostnqn: String,
    /// The identifier of this host.
    pub hostid: [u8; 16],
    /// The controller to connect to; [`ANY_CONTROLLER`] for any.
    pub cntlid: u16,
    /// Entries of the admin queue less one: as many commands may be in flight.
    pub admin_sqsize: u16,
    /// The Keep Alive Timeout; zero for none.
    pub keep_alive: Duration,
    /// How many I/O queues are wanted, at least 1.
    pub io_queues: u16,
    /// The notices that are wanted. Those that the controller does not have are left out.
    pub events: AsyncEventConfiguration,
    /// How long a command may take.
    pub command_timeout: Duration,
    /// How long the controller may take to become ready, or to stop being it, whatever CAP.TO says.
    pub max_ready_timeout: Duration,
}

/// The steps from a connection to a [`Controller`].
#[derive(Debug)]
pub struct Setup {
    options: SetupOptions,
    stage: Stage,
    exchange: Exchange,
    /// When the state of the controller that is waited for must be there, and when to look again.
    ready_by: Option<Duration>,
    look_at: Duration,
    cntlid: u16,
    cap: Cap,
    version: Version,
    cc: Cc,
    identity: Option<Box<IdentifyController>>,
    io_queues: u16,
    events: AsyncEventConfiguration,
    is_done: bool,
}

impl Setup {
    /// Returns the procedure on a new connection of an admin queue.
    #[must_use]
    pub fn new(options: SetupOptions) -> Self {
        let exchange = Exchange::new(options.command_timeout);
        Self {
            options,
            stage: Stage::Connect,
            exchange,
            ready_by: None,
            look_at: Duration::ZERO,
            cntlid: 0,
            cap: Cap::new(),
            version: Version::new(),
            cc: Cc::new(),
            identity: None,
            io_queues: 0,
            events: AsyncEventConfiguration::new(),
            is_done: false,
        }
    }

    /// Returns what is next.
    ///
    /// # Errors
    /// A step has taken too long, or the procedure has failed before.
    pub fn poll(&mut self, now: Duration) -> Result<Step<Controller>, ControllerError> {
        let stage = self.stage;
        if let Some(until) = self.exchange.pending(now, stage)? {
            return Ok(Step::Wait(until));
        }
        if self.is_done {
            return Ok(Step::Done(self.controller()?));
        }
        if [Stage::AwaitDisabled, Stage::AwaitReady].contains(&stage) {
            let limit = self.ready_timeout();
            let by = *self.ready_by.get_or_insert(now.saturating_add(limit));
            if now >= by {
                let after = now.saturating_sub(by).saturating_add(limit);
                return Err(self.exchange.fail(ControllerError::TimedOut { stage, after }));
            }
            if now < self.look_at {
                return Ok(Step::Wait(self.look_at.min(by)));
            }
        }
        self.exchange.begin(now);
        Ok(Step::Send(self.command()))
    }

    /// The command that [`poll`](Self::poll) gave has ended, with this data.
    ///
    /// # Errors
    /// The controller refused it, or told what cannot be.
    pub fn completed(
        &mut self,
        now: Duration,
        result: Result<Cqe, TransferError>,
        data: &[u8],
    ) -> Result<(), ControllerError> {
        self.advance(now, result, data).map_err(|error| self.exchange.fail(error))
    }

    fn advance(
        &mut self,
        now: Duration,
        result: Result<Cqe, TransferError>,
        data: &[u8],
    ) -> Result<(), ControllerError> {
        let stage = self.stage;
        let cqe = match self.exchange.end(stage, result) {
            // A controller without notices is one all the same.
            Err(ControllerError::Refused { .. }) if stage == Stage::SetEvents => {
                self.events = AsyncEventConfiguration::new();
                self.is_done = true;
                return Ok(());
            }
            ended => ended?,
        };
        self.stage = match stage {
            Stage::Connect => self.connected(ConnectResult::from_bits(cqe.dw0))?,
            Stage::ReadCap => self.take_cap(Cap::from_bits(u64::from(cqe.dw1) << 32 | u64::from(cqe.dw0)))?,
            Stage::ReadVs => self.take_version(Version::from_bits(cqe.dw0))?,
            Stage::ReadCc => {
                self.cc = Cc::from_bits(cqe.dw0);
                if self.cc.en() { Stage::Disable } else { Stage::AwaitDisabled }
            }
            Stage::Disable => Stage::AwaitDisabled,
            Stage::Enable => Stage::AwaitReady,
            Stage::AwaitDisabled | Stage::AwaitReady => self.take_status(now, Csts::from_bits(cqe.dw0))?,
            Stage::Identify => {
                self.identity = Some(identity::check(data, self.cntlid, &self.options.subnqn)?);
                Stage::SetNumberOfQueues
            }
            Stage::SetNumberOfQueues => self.take_queues(NumberOfQueues::from_bits(cqe.dw0)),
            Stage::SetEvents | Stage::Shutdown | Stage::AwaitShutdown => {
                self.is_done = true;
                stage
            }
        };
        Ok(())
    }

    fn command(&self) -> AdminCommand {
        match self.stage {
            Stage::Connect => self.connect(),
            Stage::ReadCap => without_data(Sqe::property_get_quad(Register::CAP)),
            Stage::ReadVs => without_data(Sqe::property_get(Register::VS)),
            Stage::ReadCc => without_data(Sqe::property_get(Register::CC)),
            Stage::Disable => without_data(Sqe::property_set(Register::CC, self.cc.with_en(false).into_bits())),
            Stage::Enable => without_data(Sqe::property_set(Register::CC, self.enabled().into_bits())),
            Stage::AwaitDisabled | Stage::AwaitReady | Stage::Shutdown | Stage::AwaitShutdown => {
                without_data(Sqe::property_get(Register::CSTS))
            }
            Stage::Identify => {
                AdminCommand { sqe: Sqe::identify(Cns::CONTROLLER, 0), data: AdminData::ToHost(IDENTIFY_LEN) }
            }
            Stage::SetNumberOfQueues => {
                let queues = self.options.io_queues.saturating_sub(1);
                let wanted = NumberOfQueues::new().with_nsq(queues).with_ncq(queues);
                without_data(Sqe::set_features(FeatureId::NUMBER_OF_QUEUES, wanted.into_bits()))
            }
            Stage::SetEvents => {
                without_data(Sqe::set_features(FeatureId::ASYNC_EVENT_CONFIGURATION, self.events.into_bits()))
            }
        }
    }

    fn connect(&self) -> AdminCommand {
        let SetupOptions { subnqn, hostnqn, hostid, cntlid, admin_sqsize, keep_alive, .. } = &self.options;
        let mut data = ConnectData { hostid: *hostid, cntlid: *cntlid, ..ConnectData::new_zeroed() };
        put_name(&mut data.subnqn, subnqn);
        put_name(&mut data.hostnqn, hostnqn);
        let kato = u32::try_from(keep_alive.as_millis()).unwrap_or(u32::MAX);
        AdminCommand { sqe: Sqe::connect(0, *admin_sqsize, kato), data: AdminData::FromHost(data.as_bytes().into()) }
    }

    fn connected(&mut self, result: ConnectResult) -> Result<Stage, ControllerError> {
        let (cntlid, wanted) = (result.cntlid(), self.options.cntlid);
        if result.authreq() != 0 {
            return Err(ControllerError::AuthenticationRequired { authreq: result.authreq() });
        }
        if cntlid > MAX_CNTLID || (wanted != ANY_CONTROLLER && cntlid != wanted) {
            return Err(ControllerError::ControllerId { cntlid, wanted });
        }
        self.cntlid = cntlid;
        Ok(Stage::ReadCap)
    }

    fn take_cap(&mut self, cap: Cap) -> Result<Stage, ControllerError> {
        if !cap.css_nvm() && !cap.css_iocs() {
            return Err(ControllerError::NoCommandSet { cap: cap.into_bits() });
        }
        if cap.mqes() == 0 {
            return Err(ControllerError::QueueEntries { mqes: 0 });
        }
        self.cap = cap;
        Ok(Stage::ReadVs)
    }

    fn take_version(&mut self, version: Version) -> Result<Stage, ControllerError> {
        if version.mjr() == 0 {
            return Err(ControllerError::Version { version });
        }
        self.version = version;
        Ok(Stage::ReadCc)
    }

    fn take_status(&mut self, now: Duration, csts: Csts) -> Result<Stage, ControllerError> {
        let stage = self.stage;
        // A controller that was broken before is made whole by being disabled.
        if csts.cfs() && stage == Stage::AwaitReady {
            return Err(ControllerError::Fatal { stage });
        }
        if csts.rdy() != (stage == Stage::AwaitReady) {
            self.look_at = now.saturating_add(STATUS_INTERVAL);
            return Ok(stage);
        }
        (self.ready_by, self.look_at) = (None, now);
        Ok(if stage == Stage::AwaitReady { Stage::Identify } else { Stage::Enable })
    }

    fn take_queues(&mut self, queues: NumberOfQueues) -> Stage {
        let granted = queues.nsq().min(queues.ncq()).saturating_add(1);
        self.io_queues = granted.min(self.options.io_queues.max(1));
        let has = self.identity.as_ref().map_or(0, |identity| identity.oaes.into_bits());
        // Those of SMART / Health are no matter of OAES.
        let smart = u32::from(self.options.events.smart().into_bits());
        self.events = AsyncEventConfiguration::from_bits(self.options.events.into_bits() & (has | smart));
        Stage::SetEvents
    }

    /// Returns the configuration of a controller in use.
    fn enabled(&self) -> Cc {
        let css = if self.cap.css_nvm() { CommandSetSelected::NVM } else { CommandSetSelected::ALL };
        Cc::new()
            .with_en(true)
            .with_css(css)
            .with_mps(self.cap.mpsmin())
            .with_iosqes(Sqe::SIZE_LOG2)
            .with_iocqes(Cqe::SIZE_LOG2)
    }

    fn ready_timeout(&self) -> Duration {
        let told = Duration::from_millis(500) * u32::from(self.cap.to()).max(1);
        told.min(self.options.max_ready_timeout)
    }

    fn controller(&self) -> Result<Controller, ControllerError> {
        let identity = self.identity.clone().ok_or(ControllerError::NothingSent { stage: Stage::Identify })?;
        let entries = u32::from(self.cap.mqes()) + 1;
        let queue_entries = match identity.maxcmd {
            0 => entries,
            maxcmd => entries.min(u32::from(maxcmd) + 1),
        };
        Ok(Controller {
            cntlid: self.cntlid,
            cap: self.cap,
            version: self.version,
            cc: self.enabled(),
            in_capsule_data: identity::in_capsule_data(&identity),
            max_transfer: identity::max_transfer(&identity, self.cap),
            identity,
            io_queues: self.io_queues,
            queue_entries,
            events: self.events,
        })
    }
}

/// Puts a name into a field, which a zero ends.
fn put_name(field: &mut [u8], name: &str) {
    for (to, from) in field.iter_mut().take(MAX_NQN).zip(name.bytes()) {
        *to = from;
    }
}
