//! Asynchronous Event Requests (base specification, section 5.2), and what comes of them.

use std::time::Duration;

use nvme_spec::admin::{AsyncEvent, EventType, NoticeEvent};
use nvme_spec::log::LogId;
use nvme_spec::{Cqe, Sqe};

use crate::tcp::TransferError;

/// What the controller told. Which log page tells more follows from it, and not from the page that the event names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// Namespaces have come, gone or changed: [`LogId::CHANGED_NAMESPACE_LIST`].
    NamespacesChanged,
    /// The access to namespaces has changed: [`LogId::ANA`].
    AnaChanged,
    /// Another event. One of an error or of health comes again once its page was read.
    Other(AsyncEvent),
}

impl Notice {
    /// Returns what an event is about.
    #[must_use]
    pub const fn of(event: AsyncEvent) -> Self {
        match (event.kind(), NoticeEvent(event.information())) {
            (EventType::NOTICE, NoticeEvent::NAMESPACE_ATTRIBUTE_CHANGED) => Self::NamespacesChanged,
            (EventType::NOTICE, NoticeEvent::ANA_CHANGE) => Self::AnaChanged,
            _ => Self::Other(event),
        }
    }

    /// Returns the log page whose reading lets the event come again; of one that is none of a notice, the page that it
    /// names.
    #[must_use]
    pub const fn log(self) -> LogId {
        match self {
            Self::NamespacesChanged => LogId::CHANGED_NAMESPACE_LIST,
            Self::AnaChanged => LogId::ANA,
            Self::Other(event) => event.lid(),
        }
    }
}

/// What is to be done about events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventsStep {
    /// A request is to be sent: [`Events::sent`].
    Send(Sqe),
    /// None before that moment, since there were many.
    Wait(Duration),
    /// None until an event has come.
    Idle,
}

/// The requests for events that wait at a controller.
///
/// A controller that answers each request at once would keep its host busy for ever. So requests are sent anew no
/// faster than [`Events::BURST`] in [`Events::INTERVAL`]; what happens meanwhile waits at the controller.
#[derive(Debug, Clone, Copy)]
pub struct Events {
    /// How many may wait.
    limit: u8,
    waiting: u8,
    /// When the present interval began, and how many requests have been sent in it.
    begun: Duration,
    sent: u8,
}

impl Events {
    /// The most requests that wait at a time, whatever the controller takes.
    pub const MOST: u8 = 4;
    /// The most requests in an interval.
    pub const BURST: u8 = 16;
    /// The length of an interval.
    pub const INTERVAL: Duration = Duration::from_secs(1);

    /// Returns the requests of a controller with this limit, which is one less than it takes (AERL).
    #[must_use]
    pub fn new(aerl: u8, now: Duration) -> Self {
        Self { limit: aerl.saturating_add(1).min(Self::MOST), waiting: 0, begun: now, sent: 0 }
    }

    /// Returns what is to be done.
    #[must_use]
    pub fn poll(&self, now: Duration) -> EventsStep {
        let next = self.begun.saturating_add(Self::INTERVAL);
        if self.waiting >= self.limit {
            EventsStep::Idle
        } else if self.sent >= Self::BURST && now < next {
            EventsStep::Wait(next)
        } else {
            EventsStep::Send(Sqe::async_event_request())
        }
    }

    /// A request was sent.
    pub fn sent(&mut self, now: Duration) {
        if now >= self.begun.saturating_add(Self::INTERVAL) {
            (self.begun, self.sent) = (now, 0);
        }
        self.waiting = self.waiting.saturating_add(1);
        self.sent = self.sent.saturating_add(1);
    }

    /// A request has been answered. Nothing, if it was refused: then as many fewer wait from now on.
    pub fn completed(&mut self, result: Result<Cqe, TransferError>) -> Option<Notice> {
        self.waiting = self.waiting.saturating_sub(1);
        match result {
            Ok(cqe) if cqe.status.is_success() => Some(Notice::of(AsyncEvent::from_bits(cqe.dw0))),
            _ => {
                self.limit = self.limit.saturating_sub(1);
                None
            }
        }
    }
}
