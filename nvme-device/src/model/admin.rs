//! The admin commands (NVM Express Base Specification 2.0, section 5): what each of them does.
//!
//! [`Controller`] takes a submission queue entry and says in an [`Outcome`] what is to be done. It knows no memory and
//! no clock: data for the guest comes out as bytes, data from it goes in as bytes, the time is a parameter (of any
//! clock that does not go back).
//!
//! # How the runtime uses it
//! - `Controller::enable` when CC.EN becomes 1, `Controller::reset` when all queues are gone after it became 0.
//!   Between the two every outcome that waits (a queue to be made, data to be fetched) has to be answered or dropped.
//! - After each `Controller::admin` it takes `Controller::next_event` until there is none, then does what the
//!   outcome says.
//! - A queue that is with the runtime is neither there nor free until `Controller::queue_created`,
//!   `Controller::queue_creation_failed` or `Controller::queue_deleted` is called.
//!
//! # What it does not implement
//! Namespace management and attachment (with it CNS 14h to 16h), format, sanitize, security, firmware update,
//! self-test, directives, virtualization, lockdown: invalid opcodes, as OACS says. More than one path to a namespace:
//! asymmetric access is told of, but there is one group and one state. Saved features. Power states beyond the first.
//! The host memory buffer. LBA range types. Host identifiers, which only reservations need.

mod ana;
mod events;
mod features;
mod identify;
mod identity;
mod logs;
mod namespaces;
mod queues;
#[cfg(test)]
pub(crate) mod tests;

use std::time::Duration;

use zerocopy::{Immutable, IntoBytes};

pub use self::events::EventCompletion;
pub use self::identity::{Identity, IdentityError, Limits, LimitsError, MAX_QUEUE_ENTRIES, MAX_QUEUES, Nqn, Text};
pub(crate) use self::logs::ErrorEntry;
pub use self::logs::IoTotals;
pub use self::namespaces::{MAX_NAMESPACES, Namespace, NamespaceError};
pub use self::queues::{CreateCq, CreateSq, QueueId};

use self::events::Events;
use self::features::{Feature, Features};
use self::logs::ErrorLog;
use self::namespaces::Namespaces;
use self::queues::{PAGE, QueueTable};
use crate::model::regs::Version;
use nvme_spec::admin::{AbortDw10, AbortResult};
use nvme_spec::{AdminOpcode, FusedOperation, Psdt, Sqe, Status};

/// Abort commands that may be in flight at a time, less one (ACL).
const ACL: u8 = 3;

/// Dword 0 of an Abort command whose command was not aborted.
const NOT_ABORTED: u32 = AbortResult::new().with_not_aborted(true).into_bits();

/// An admin command that the controller has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Opcode {
    DeleteIoSq = AdminOpcode::DELETE_IO_SQ.0,
    CreateIoSq = AdminOpcode::CREATE_IO_SQ.0,
    GetLogPage = AdminOpcode::GET_LOG_PAGE.0,
    DeleteIoCq = AdminOpcode::DELETE_IO_CQ.0,
    CreateIoCq = AdminOpcode::CREATE_IO_CQ.0,
    Identify = AdminOpcode::IDENTIFY.0,
    Abort = AdminOpcode::ABORT.0,
    SetFeatures = AdminOpcode::SET_FEATURES.0,
    GetFeatures = AdminOpcode::GET_FEATURES.0,
    AsynchronousEventRequest = AdminOpcode::ASYNC_EVENT_REQUEST.0,
    KeepAlive = AdminOpcode::KEEP_ALIVE.0,
    DoorbellBufferConfig = AdminOpcode::DOORBELL_BUFFER_CONFIG.0,
}

impl Opcode {
    const fn parse(opcode: u8) -> Option<Self> {
        Some(match AdminOpcode(opcode) {
            AdminOpcode::DELETE_IO_SQ => Self::DeleteIoSq,
            AdminOpcode::CREATE_IO_SQ => Self::CreateIoSq,
            AdminOpcode::GET_LOG_PAGE => Self::GetLogPage,
            AdminOpcode::DELETE_IO_CQ => Self::DeleteIoCq,
            AdminOpcode::CREATE_IO_CQ => Self::CreateIoCq,
            AdminOpcode::IDENTIFY => Self::Identify,
            AdminOpcode::ABORT => Self::Abort,
            AdminOpcode::SET_FEATURES => Self::SetFeatures,
            AdminOpcode::GET_FEATURES => Self::GetFeatures,
            AdminOpcode::ASYNC_EVENT_REQUEST => Self::AsynchronousEventRequest,
            AdminOpcode::KEEP_ALIVE => Self::KeepAlive,
            AdminOpcode::DOORBELL_BUFFER_CONFIG => Self::DoorbellBufferConfig,
            _ => return None,
        })
    }
}

/// A command that waits for its data.
#[derive(Debug, PartialEq, Eq)]
pub struct PendingFeature {
    feature: Feature,
}

/// What the runtime has to do about an admin command.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// Complete it.
    Done {
        /// Its result.
        dw0: u32,
        /// Its status.
        status: Status,
    },
    /// Write `data` to where the data pointer says, then complete it with success. It may be less than the host asked
    /// for, or nothing: the rest of the host's buffer stays as it is.
    Data {
        /// What to write.
        data: Vec<u8>,
        /// Its result.
        dw0: u32,
    },
    /// Fetch `len` bytes from where the data pointer says, then `Controller::supply` them.
    Need {
        /// Bytes to fetch.
        len: usize,
        /// What to hand back.
        pending: PendingFeature,
    },
    /// Keep it: it is an Asynchronous Event Request, which `Controller::next_event` completes.
    Held,
    /// Make a completion queue.
    CreateCq(CreateCq),
    /// Make a submission queue.
    CreateSq(CreateSq),
    /// Delete a submission queue, once its commands are completed or aborted.
    DeleteSq {
        /// Its identifier.
        qid: u16,
    },
    /// Delete a completion queue.
    DeleteCq {
        /// Its identifier.
        qid: u16,
    },
    /// Abort a command if that can be done; dword 0 is then 0, else 1. Afterwards call `Controller::abort_ended`.
    Abort {
        /// The submission queue that it came from, which exists and is not the admin queue.
        sqid: u16,
        /// Its command identifier.
        cid: u16,
    },
    /// Have volatile write caches used or not (feature 06h), and complete it when all queues do so: see
    /// `Controller::volatile_write_cache`.
    WriteCache {
        /// Set if they are used.
        on: bool,
    },
    /// Use these pages of guest memory for the doorbells of I/O queues (section 5.8).
    DoorbellBuffers {
        /// The shadow doorbell buffer, which the host writes.
        shadow: u64,
        /// The event index buffer, which the controller writes.
        event_idx: u64,
    },
}

impl Outcome {
    const fn done(dw0: u32) -> Self {
        Self::Done { dw0, status: Status::SUCCESS }
    }

    const fn failed(status: Status) -> Self {
        Self::Done { dw0: 0, status }
    }

    const fn data(data: Vec<u8>) -> Self {
        Self::Data { data, dw0: 0 }
    }
}

/// Returns a structure as the bytes that the host gets.
fn page<T: IntoBytes + Immutable>(structure: &T) -> Vec<u8> {
    structure.as_bytes().to_vec()
}

/// A controller, as its admin queue sees it.
#[derive(Debug)]
pub struct Controller {
    identity: Identity,
    limits: Limits,
    namespaces: Namespaces,
    enabled: bool,
    iosqes: u8,
    iocqes: u8,
    pin_in_use: bool,
    queues: QueueTable,
    features: Features,
    events: Events,
    errors: ErrorLog,
    totals: IoTotals,
    /// Aborts that are with the runtime.
    aborts: u8,
    /// When the host was last heard of, for the Keep Alive Timer.
    alive_at: Duration,
    first_enabled: Option<Duration>,
}

impl Controller {
    /// A controller that is not enabled and has no namespaces.
    ///
    /// # Errors
    /// A limit is out of its range.
    pub fn new(identity: Identity, limits: Limits) -> Result<Self, LimitsError> {
        limits.check()?;
        let namespaces = Namespaces::new(identity.version == Version::V1_4);
        Ok(Self {
            identity,
            limits,
            namespaces,
            enabled: false,
            iosqes: 0,
            iocqes: 0,
            pin_in_use: false,
            queues: QueueTable::default(),
            features: Features::new(limits, Duration::ZERO),
            events: Events::default(),
            errors: ErrorLog::default(),
            totals: IoTotals::default(),
            aborts: 0,
            alive_at: Duration::ZERO,
            first_enabled: None,
        })
    }

    /// The host has enabled the controller (CC.EN became 1).
    pub(crate) fn enable(&mut self, now: Duration) {
        self.reset();
        self.features = Features::new(self.limits, now);
        self.first_enabled.get_or_insert(now);
        self.enabled = true;
    }

    /// A controller reset (section 3.7.2): queues, features, events and held requests are gone, without completions.
    /// Namespaces and the error log stay.
    pub(crate) fn reset(&mut self) {
        self.enabled = false;
        self.queues = QueueTable::default();
        self.features = Features::new(self.limits, Duration::ZERO);
        self.events = Events::default();
        self.namespaces.reset();
        self.aborts = 0;
    }

    /// CC.IOSQES and CC.IOCQES as they are now, as exponents of two. The host may set them after it has enabled the
    /// controller: tell them before each command.
    pub(crate) fn set_entry_sizes(&mut self, submission: u8, completion: u8) {
        self.iosqes = submission;
        self.iocqes = completion;
    }

    /// Whether the host takes its interrupts by the pin (`INTx`): tell it before each command. There are no shadow
    /// doorbells then. A client lowers the pin when the host accesses the function's registers, which a host with shadow
    /// doorbells does not do while they are looked at.
    pub(crate) fn set_pin_in_use(&mut self, pin_in_use: bool) {
        self.pin_in_use = pin_in_use;
    }

    /// Returns how large the controller may get.
    #[must_use]
    pub(crate) const fn limits(&self) -> Limits {
        self.limits
    }

    /// Carries out a command from the admin submission queue.
    pub(crate) fn admin(&mut self, sqe: &Sqe, now: Duration) -> Outcome {
        self.execute(sqe, now).unwrap_or_else(Outcome::failed)
    }

    fn execute(&mut self, sqe: &Sqe, now: Duration) -> Result<Outcome, Status> {
        let opcode = self.opcode(sqe.opcode).ok_or(Status::INVALID_OPCODE)?;
        // Fused operations are I/O commands, and over PCIe an admin command has PRPs (section 3.3.3.1).
        if sqe.fuse() != FusedOperation::NORMAL || sqe.psdt() != Psdt::PRP {
            return Err(Status::INVALID_FIELD);
        }
        Ok(match opcode {
            Opcode::DeleteIoSq => Outcome::DeleteSq { qid: self.queues.delete_sq(sqe)? },
            Opcode::CreateIoSq => Outcome::CreateSq(self.queues.create_sq(sqe, self.limits, self.iosqes)?),
            Opcode::GetLogPage => self.get_log_page(sqe, now)?,
            Opcode::DeleteIoCq => Outcome::DeleteCq { qid: self.queues.delete_cq(sqe)? },
            Opcode::CreateIoCq => Outcome::CreateCq(self.queues.create_cq(sqe, self.limits, self.iocqes)?),
            Opcode::Identify => self.identify(sqe)?,
            Opcode::Abort => self.abort(sqe)?,
            Opcode::SetFeatures => self.set_features(sqe, now)?,
            Opcode::GetFeatures => self.get_features(sqe, now)?,
            Opcode::AsynchronousEventRequest => {
                self.events.hold(sqe.cid)?;
                Outcome::Held
            }
            Opcode::KeepAlive => {
                self.alive_at = now;
                Outcome::done(0)
            }
            Opcode::DoorbellBufferConfig => doorbell_buffer_config(sqe)?,
        })
    }

    /// Returns the command that an opcode stands for, if the controller has it now.
    fn opcode(&self, opcode: u8) -> Option<Opcode> {
        Opcode::parse(opcode).filter(|opcode| *opcode != Opcode::DoorbellBufferConfig || !self.pin_in_use)
    }

    /// Abort (section 5.1). A command that is not there is no error: it may just have completed.
    fn abort(&mut self, sqe: &Sqe) -> Result<Outcome, Status> {
        if self.aborts > ACL {
            return Err(Status::ABORT_LIMIT_EXCEEDED);
        }
        let dw10 = AbortDw10::from_bits(sqe.cdw10);
        let (sqid, cid) = (dw10.sqid(), dw10.cid());
        // Of the admin queue only the requests that are held can be aborted: all else is done at once, or must end.
        if sqid == 0 {
            let aborted = self.events.abort(cid);
            return Ok(Outcome::done(if aborted { 0 } else { NOT_ABORTED }));
        }
        if !self.queues.is_live(QueueId::Sq(sqid)) {
            return Ok(Outcome::done(NOT_ABORTED));
        }
        self.aborts += 1;
        Ok(Outcome::Abort { sqid, cid })
    }

    /// An [`Outcome::Abort`] has been carried out.
    pub(crate) fn abort_ended(&mut self) {
        self.aborts = self.aborts.saturating_sub(1);
    }

    /// A queue of [`Outcome::CreateCq`] or [`Outcome::CreateSq`] is there.
    pub(crate) fn queue_created(&mut self, queue: QueueId) {
        self.queues.created(queue);
    }

    /// A queue of [`Outcome::CreateCq`] or [`Outcome::CreateSq`] could not be made.
    pub(crate) fn queue_creation_failed(&mut self, queue: QueueId) {
        self.queues.creation_failed(queue);
    }

    /// A queue of [`Outcome::DeleteCq`] or [`Outcome::DeleteSq`] is gone.
    pub(crate) fn queue_deleted(&mut self, queue: QueueId) {
        self.queues.deleted(queue);
    }
}

/// Doorbell Buffer Config (section 5.8): two pages, which are not the same.
fn doorbell_buffer_config(sqe: &Sqe) -> Result<Outcome, Status> {
    let (shadow, event_idx) = (sqe.prp1, sqe.prp2);
    if !shadow.is_multiple_of(PAGE) || !event_idx.is_multiple_of(PAGE) || shadow == event_idx {
        return Err(Status::INVALID_FIELD);
    }
    Ok(Outcome::DoorbellBuffers { shadow, event_idx })
}
