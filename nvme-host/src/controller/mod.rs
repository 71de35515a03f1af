//! A controller of a pool, from the host's side: the commands that set it up, keep it and shut it down, one at a time.
//!
//! Each procedure is a state machine that is polled with the time. It says which command is due ([`Step::Send`]), until
//! when there is nothing to do ([`Step::Wait`]), or that it is done; the caller tells it how the command ended. Time is
//! a [`Duration`] since any moment that the caller chooses, and must not go back. A step that takes longer than it may
//! is an error that names the step. A procedure is over with its first error, and the connection is to be closed.
//!
//! - [`Setup`]: Connect, properties, enabling, Identify Controller, Number of Queues, the notices wanted.
//! - [`KeepAlive`]: when Keep Alive is due, and when the controller may have let go of its host.
//! - [`Events`]: the requests for asynchronous events, and what comes of them.
//! - [`LogRead`]: a log page in pieces that the controller can transfer.
//! - [`Shutdown`]: the orderly end.

mod error;
mod events;
mod identity;
mod keep_alive;
mod log_read;
mod setup;
mod shutdown;

#[cfg(test)]
mod tests;

use std::time::Duration;

use nvme_spec::feature::AsyncEventConfiguration;
use nvme_spec::identify::IdentifyController;
use nvme_spec::register::{Cap, Cc, Version};
use nvme_spec::{Cqe, PAGE, Sqe, Status};

pub use self::error::{ControllerError, IdentityError, Stage};
pub use self::events::{Events, EventsStep, Notice};
pub use self::keep_alive::{KeepAlive, KeepAliveStep};
pub use self::log_read::{LogRead, LogReadError};
pub use self::setup::{Setup, SetupOptions};
pub use self::shutdown::Shutdown;
use crate::tcp::TransferError;

/// How long to wait before CSTS is read again.
const STATUS_INTERVAL: Duration = Duration::from_millis(10);

/// The bytes of what Identify answers.
const IDENTIFY_LEN: u32 = 4096;
const _: () = assert!(IDENTIFY_LEN as usize == PAGE);

/// A command of the admin queue, with its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminCommand {
    /// The command.
    pub sqe: Sqe,
    /// Its data.
    pub data: AdminData,
}

/// The data of an [`AdminCommand`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminData {
    /// None.
    None,
    /// So many bytes come from the controller.
    ToHost(u32),
    /// These go to it.
    FromHost(Box<[u8]>),
}

/// What is next in a procedure.
#[derive(Debug, Clone, PartialEq)]
pub enum Step<T> {
    /// This command is to be sent. Its end is told by `completed`.
    Send(AdminCommand),
    /// Nothing is to be done before that moment, unless a command ends.
    Wait(Duration),
    /// The procedure has come to its end.
    Done(T),
}

/// A controller that is ready for I/O queues.
#[derive(Debug, Clone, PartialEq)]
pub struct Controller {
    /// The controller's identifier, which Connect of its I/O queues has.
    pub cntlid: u16,
    /// Its capabilities.
    pub cap: Cap,
    /// The version of the specification that it keeps to.
    pub version: Version,
    /// The configuration that it was enabled with.
    pub cc: Cc,
    /// What it is. All in it that is not in this structure has come from the controller unchecked.
    pub identity: Box<IdentifyController>,
    /// The most bytes of data in a capsule of an I/O queue.
    pub in_capsule_data: u32,
    /// The most bytes that a command transfers; none, if there is no limit below 4 GiB.
    pub max_transfer: Option<u32>,
    /// How many I/O queues there may be: 1 to as many as were asked for.
    pub io_queues: u16,
    /// How many entries an I/O queue may have: 2 to 65,536. One command less may be in flight.
    pub queue_entries: u32,
    /// The notices that it sends.
    pub events: AsyncEventConfiguration,
}

/// What a command of a procedure has come to: at most one is in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Exchange {
    timeout: Duration,
    sent: Option<Duration>,
    /// Why the procedure is over.
    failed: Option<ControllerError>,
}

impl Exchange {
    const fn new(timeout: Duration) -> Self {
        Self { timeout, sent: None, failed: None }
    }

    const fn begin(&mut self, now: Duration) {
        self.sent = Some(now);
    }

    /// Returns until when the command in flight may take, if there is one.
    fn pending(&mut self, now: Duration, stage: Stage) -> Result<Option<Duration>, ControllerError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let Some(sent) = self.sent else { return Ok(None) };
        let until = sent.saturating_add(self.timeout);
        if now >= until {
            return Err(self.fail(ControllerError::TimedOut { stage, after: now.saturating_sub(sent) }));
        }
        Ok(Some(until))
    }

    /// The procedure is over: it goes on with this error for ever.
    fn fail(&mut self, error: ControllerError) -> ControllerError {
        *self.failed.get_or_insert(error)
    }

    /// The command in flight has ended. Returns its completion, if it succeeded.
    fn end(&mut self, stage: Stage, result: Result<Cqe, TransferError>) -> Result<Cqe, ControllerError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        if self.sent.take().is_none() {
            return Err(ControllerError::NothingSent { stage });
        }
        let cqe = result.map_err(|reason| ControllerError::Transfer { stage, reason })?;
        if cqe.status.is_success() {
            Ok(cqe)
        } else {
            Err(ControllerError::Refused { stage, status: code(cqe.status) })
        }
    }
}

/// Returns a status without the phase tag, which over a fabric has no meaning.
const fn code(status: Status) -> Status {
    status.with_phase(false)
}

/// Returns a command without data.
const fn without_data(sqe: Sqe) -> AdminCommand {
    AdminCommand { sqe, data: AdminData::None }
}
