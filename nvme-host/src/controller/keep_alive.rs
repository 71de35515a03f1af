//! When Keep Alive is due (base specification, section 5.18).

use std::time::Duration;

/// What is to be done about keeping a controller alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepAliveStep {
    /// Nothing before that moment.
    Wait(Duration),
    /// Keep Alive is to be sent: [`KeepAlive::sent`].
    Send,
    /// The controller may have ended the association: the connections are to be closed.
    Expired,
}

/// The keep-alive of an association.
///
/// The controller lets go of its host when no Keep Alive came for the time of the timeout. The host knows of no later
/// moment at which one came than that at which it sent the last that was answered.
#[derive(Debug, Clone, Copy)]
pub struct KeepAlive {
    timeout: Duration,
    /// When the last one that was answered was sent.
    answered: Duration,
    /// When the one in flight was sent.
    in_flight: Option<Duration>,
}

impl KeepAlive {
    /// Returns the keep-alive of an association whose Connect was sent at `now`.
    #[must_use]
    pub const fn new(timeout: Duration, now: Duration) -> Self {
        Self { timeout, answered: now, in_flight: None }
    }

    /// Returns what is to be done. Keep Alive is due at half of the timeout.
    #[must_use]
    pub fn poll(&self, now: Duration) -> KeepAliveStep {
        let expires = self.answered.saturating_add(self.timeout);
        if now >= expires {
            return KeepAliveStep::Expired;
        }
        let due = self.answered.saturating_add(self.timeout / 2);
        match self.in_flight {
            Some(_) => KeepAliveStep::Wait(expires),
            None if now >= due => KeepAliveStep::Send,
            None => KeepAliveStep::Wait(due),
        }
    }

    /// Keep Alive was sent.
    pub const fn sent(&mut self, now: Duration) {
        self.in_flight = Some(now);
    }

    /// Keep Alive was answered with success. One that was refused is none, and is due again.
    pub fn answered(&mut self, is_success: bool) {
        if let Some(sent) = self.in_flight.take()
            && is_success
        {
            self.answered = sent;
        }
    }
}
