//! The orderly end of a controller (base specification, section 3.6.1).

use std::time::Duration;

use nvme_spec::register::{Cc, Csts, Register, ShutdownNotification, ShutdownStatus};
use nvme_spec::{Cqe, Sqe};

use super::{ControllerError, Exchange, STATUS_INTERVAL, Stage, Step, without_data};
use crate::tcp::TransferError;

/// The steps that shut a controller down, after which its connections are closed.
#[derive(Debug)]
pub struct Shutdown {
    cc: Cc,
    stage: Stage,
    exchange: Exchange,
    timeout: Duration,
    complete_by: Option<Duration>,
    look_at: Duration,
    is_done: bool,
}

impl Shutdown {
    /// Returns the procedure for a controller with this configuration, each command of which may take so long, and the
    /// shutdown itself so long, too.
    #[must_use]
    pub const fn new(cc: Cc, timeout: Duration) -> Self {
        Self {
            cc,
            stage: Stage::Shutdown,
            exchange: Exchange::new(timeout),
            timeout,
            complete_by: None,
            look_at: Duration::ZERO,
            is_done: false,
        }
    }

    /// Returns what is next.
    ///
    /// # Errors
    /// A step has taken too long, or the procedure has failed before.
    pub fn poll(&mut self, now: Duration) -> Result<Step<()>, ControllerError> {
        let stage = self.stage;
        if let Some(until) = self.exchange.pending(now, stage)? {
            return Ok(Step::Wait(until));
        }
        if self.is_done {
            return Ok(Step::Done(()));
        }
        if stage == Stage::AwaitShutdown {
            let by = *self.complete_by.get_or_insert(now.saturating_add(self.timeout));
            if now >= by {
                let after = now.saturating_sub(by).saturating_add(self.timeout);
                return Err(self.exchange.fail(ControllerError::TimedOut { stage, after }));
            }
            if now < self.look_at {
                return Ok(Step::Wait(self.look_at.min(by)));
            }
        }
        self.exchange.begin(now);
        let notified = self.cc.with_shn(ShutdownNotification::NORMAL).into_bits();
        Ok(Step::Send(without_data(match stage {
            Stage::AwaitShutdown => Sqe::property_get(Register::CSTS),
            _ => Sqe::property_set(Register::CC, notified),
        })))
    }

    /// The command that [`poll`](Self::poll) gave has ended.
    ///
    /// # Errors
    /// The controller refused it, or says that it is broken.
    pub fn completed(&mut self, now: Duration, result: Result<Cqe, TransferError>) -> Result<(), ControllerError> {
        let stage = self.stage;
        let ended = self.exchange.end(stage, result).map_err(|error| self.exchange.fail(error))?;
        let csts = Csts::from_bits(ended.dw0);
        if stage == Stage::Shutdown {
            self.stage = Stage::AwaitShutdown;
            return Ok(());
        }
        if csts.cfs() {
            return Err(self.exchange.fail(ControllerError::Fatal { stage }));
        }
        self.is_done = csts.shst() == ShutdownStatus::COMPLETE;
        self.look_at = now.saturating_add(STATUS_INTERVAL);
        Ok(())
    }
}
