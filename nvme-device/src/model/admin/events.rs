//! Asynchronous events (section 5.2): the requests that the host left with us, and what there is to tell.
//!
//! Of each type the host is told once; then the type is masked until it reads the log page that goes with it. What
//! happens meanwhile is in that log page, so that nothing else needs to be kept.

use std::collections::VecDeque;

use super::Controller;
use super::logs::{ErrorEntry, Log};
use nvme_spec::Status;
use nvme_spec::admin::{AsyncEvent, ErrorEvent, EventType, NoticeEvent, SmartEvent};

/// Asynchronous Event Requests that the host may leave with us, less one (AERL).
pub(super) const AERL: u8 = 3;

/// A command that is to be completed now on the admin queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventCompletion {
    /// Its command identifier.
    pub cid: u16,
    /// Its result.
    pub dw0: u32,
    /// Its status.
    pub status: Status,
}

/// What a host can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    InvalidDoorbellValue,
    TemperatureThreshold,
    NamespaceAttributeChanged,
}

impl Event {
    const ALL: [Self; 3] = [Self::InvalidDoorbellValue, Self::TemperatureThreshold, Self::NamespaceAttributeChanged];

    /// Asynchronous Event Type, Asynchronous Event Information, and the log page that clears it.
    const fn codes(self) -> (EventType, u8, Log) {
        match self {
            Self::InvalidDoorbellValue => (EventType::ERROR, ErrorEvent::INVALID_DOORBELL_VALUE.0, Log::Error),
            Self::TemperatureThreshold => (EventType::SMART, SmartEvent::TEMPERATURE_THRESHOLD.0, Log::Smart),
            Self::NamespaceAttributeChanged => {
                (EventType::NOTICE, NoticeEvent::NAMESPACE_ATTRIBUTE_CHANGED.0, Log::ChangedNamespaces)
            }
        }
    }

    const fn dw0(self) -> u32 {
        let (kind, information, log) = self.codes();
        AsyncEvent::new().with_kind(kind).with_information(information).with_lid(log.lid()).into_bits()
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }

    const fn type_bit(self) -> u8 {
        1 << self.codes().0.0
    }
}

/// The requests that are held, and the events that wait for one.
#[derive(Debug, Default)]
pub(super) struct Events {
    held: VecDeque<u16>,
    aborted: VecDeque<u16>,
    /// Bit set of [`Event`].
    pending: u8,
    /// Bit set of Asynchronous Event Types.
    masked: u8,
}

impl Events {
    /// Asynchronous Event Request.
    pub(super) fn hold(&mut self, cid: u16) -> Result<(), Status> {
        if self.held.contains(&cid) {
            return Err(Status::CID_CONFLICT);
        }
        if self.held.len() > usize::from(AERL) {
            return Err(Status::ASYNC_EVENT_LIMIT_EXCEEDED);
        }
        self.held.push_back(cid);
        Ok(())
    }

    /// Aborts the request with that command identifier; false if there is none.
    pub(super) fn abort(&mut self, cid: u16) -> bool {
        let Some(at) = self.held.iter().position(|held| *held == cid) else { return false };
        self.held.remove(at);
        self.aborted.push_back(cid);
        true
    }

    /// There is something to tell, unless the host knows that it has to look into the log page.
    pub(super) fn raise(&mut self, event: Event) {
        if self.masked & event.type_bit() == 0 {
            self.pending |= event.bit();
        }
    }

    /// The host does not want to be told of this any more.
    pub(super) fn cancel(&mut self, event: Event) {
        self.pending &= !event.bit();
    }

    /// The host has read a log page, and so knows what it tells.
    pub(super) fn log_was_read(&mut self, log: Log) {
        for event in Event::ALL {
            if event.codes().2 == log {
                self.masked &= !event.type_bit();
                self.cancel(event);
            }
        }
    }

    fn next(&mut self) -> Option<EventCompletion> {
        if let Some(cid) = self.aborted.pop_front() {
            return Some(EventCompletion { cid, dw0: 0, status: Status::ABORT_REQUESTED });
        }
        let event = Event::ALL
            .into_iter()
            .find(|event| self.pending & event.bit() != 0 && self.masked & event.type_bit() == 0)?;
        let cid = self.held.pop_front()?;
        self.pending &= !event.bit();
        self.masked |= event.type_bit();
        Some(EventCompletion { cid, dw0: event.dw0(), status: Status::SUCCESS })
    }
}

impl Controller {
    /// Returns an Asynchronous Event Request that is to be completed now. Ask until there is none: after every admin
    /// command, *before* its outcome is posted (an aborted request completes before the Abort command does), and after
    /// everything else that may have raised an event.
    pub(crate) fn next_event(&mut self) -> Option<EventCompletion> {
        self.events.next()
    }

    /// The host wrote a value to a doorbell that is outside the queue: an error event (section 5.2).
    pub(crate) fn invalid_doorbell_value(&mut self) {
        self.io_error(&ErrorEntry::of_no_command());
        self.events.raise(Event::InvalidDoorbellValue);
    }

    /// Tells the host of what it has just asked to be told, where that is so already (Asynchronous Event Configuration,
    /// section 5.27.1).
    pub(super) fn raise_conditions(&mut self) {
        if !self.features.notifies_temperature() {
            self.events.cancel(Event::TemperatureThreshold);
        } else if self.features.critical_warning().ttc() {
            self.events.raise(Event::TemperatureThreshold);
        }
        if !self.features.notifies_namespace_changes() {
            self.events.cancel(Event::NamespaceAttributeChanged);
        } else if !self.namespaces.changed().is_empty() {
            self.events.raise(Event::NamespaceAttributeChanged);
        }
    }
}
