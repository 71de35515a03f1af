//! The admin worker: what a controller does as a whole, and with its admin commands. A state machine without a clock, a
//! thread, guest memory or SPDK in it.
//!
//! [`Input`]s go in, with the time; [`Output`]s come out, and are carried out in their order. What takes a moment, or
//! is done elsewhere, has a [`Ticket`], and its end is an input again: [`Answer`]. Poll groups get [`GroupRequest`]s.
//!
//! | state | it ends by |
//! |---|---|
//! | detached: there is no client | a client comes |
//! | disabled: there are no admin queues | [`Request::Enable`] |
//! | enabling: the memory of the admin queues is being looked for | it is there (CSTS.RDY = 1); it cannot be used, or does not come within a second (CSTS.CFS = 1); any end of the enable cycle |
//! | enabled: admin commands are taken | [`Request::Disable`], [`Request::Fail`], [`Request::Reset`] |
//! | stopping: the poll groups delete all queues. Requests wait | all have answered (CSTS.RDY = 0, or CSTS.CFS stays) |
//!
//! Beside them goes a shutdown: a flush of all namespaces, that ends when the flush does, or after 4 s, or
//! with the enable cycle. What is in flight is bounded: an admin command keeps a completion entry until it is
//! completed, of Asynchronous Event Requests the model keeps a few, of flushes and transfers of data there is one at a
//! time.

mod commands;
mod cycle;
mod messages;
mod namespaces;
mod poll_group;
mod requests;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

pub use self::messages::{
    AdminCommand, Answer, GroupRequest, Input, Output, QueuePlace, Report, Ticket, UnusableMemory,
};
pub use self::poll_group::Condition;
pub use self::requests::{Request, Requests};

use self::commands::CommandInFlight;
use self::namespaces::DelayedNamespace;
use crate::model::admin::{Controller, ErrorEntry, EventCompletion};
use crate::model::regs::Enable;
use crate::queue::{QueueErrorEvent, Settings};

/// How long a controller that is being enabled waits for the memory of its admin queues.
pub(crate) const MAPPING_TIME: Duration = Duration::from_secs(1);

/// How long a shutdown may take: less than a host waits for it, by RTD3E of Identify Controller.
pub(crate) const FLUSH_TIME: Duration = Duration::from_secs(4);

/// How long a namespace waits for the guest to learn that another one of its identifier is gone.
pub(crate) const LEARNING_TIME: Duration = Duration::from_secs(5);

/// What an admin worker has to know of where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    /// How many poll groups the queues are spread over; 0 counts as 1.
    pub groups: usize,
    /// Which of them the admin queues are on.
    pub own: usize,
    /// How many ticks of the queues' clock a microsecond has.
    pub ticks_per_us: u64,
}

/// How far the controller is.
#[derive(Debug)]
enum WorkerState {
    Detached,
    Disabled,
    Enabling {
        enable: Enable,
        since: Duration,
        /// Of the look that is being taken.
        check: Option<Ticket>,
    },
    Enabled,
    Stopping {
        ticket: Ticket,
        /// So many poll groups have not answered.
        left: usize,
        then: AfterStop,
    },
}

/// What follows when all queues are gone.
#[derive(Debug, Clone, Copy)]
enum AfterStop {
    /// The registers tell that the controller is reset; the device reset of that number is over.
    Reset(Option<u64>),
    /// They tell that it has failed, until the host resets it.
    Failed,
}

/// A controller's admin worker.
#[derive(Debug)]
pub struct AdminWorker {
    model: Controller,
    placement: Placement,
    state: WorkerState,
    next_ticket: u64,
    in_flight: BTreeMap<Ticket, CommandInFlight>,
    /// The command whose data is on its way: no other one is taken meanwhile.
    transfer: Option<Ticket>,
    /// The flush that is in flight.
    flush: Option<Ticket>,
    /// Since when a shutdown is in progress.
    shutdown: Option<Duration>,
    /// The poll groups of the completion queues, and of the submission queues.
    completion: BTreeMap<u16, usize>,
    submission: BTreeMap<u16, usize>,
    /// What holds for all queues, as far as it was told.
    settings: Settings,
    /// The completion of an Asynchronous Event Request that is next.
    event: Option<EventCompletion>,
    delayed: BTreeMap<u32, DelayedNamespace>,
    outputs: VecDeque<Output>,
}

impl AdminWorker {
    /// Returns an admin worker without a client.
    #[must_use]
    pub fn new(model: Controller, placement: Placement) -> Self {
        Self {
            model,
            placement: Placement { groups: placement.groups.max(1), ..placement },
            state: WorkerState::Detached,
            next_ticket: 0,
            in_flight: BTreeMap::new(),
            transfer: None,
            flush: None,
            shutdown: None,
            completion: BTreeMap::new(),
            submission: BTreeMap::new(),
            settings: Settings::default(),
            event: None,
            delayed: BTreeMap::new(),
            outputs: VecDeque::new(),
        }
    }

    /// Takes an input at the time `now`, of a clock that does not go back.
    pub fn handle(&mut self, input: Input, now: Duration) {
        match input {
            Input::Attached => {
                self.detach();
                self.add_delayed(now);
                self.state = WorkerState::Disabled;
            }
            Input::Detached => self.detach(),
            Input::Request(request) => self.request(request, now),
            Input::Command(command) => self.command(&command, now),
            Input::CommandsTaken => {
                self.add_delayed(now);
                self.publish_settings();
            }
            Input::Answer(ticket, answer) => self.answered(ticket, answer, now),
            Input::Poll => self.poll(now),
            Input::Tick => self.tick(now),
            Input::ErrorEvents(events) => self.note_error_events(&events),
            Input::AddNamespace(namespace) => self.add_namespace(namespace, now),
            Input::RemoveNamespace { nsid } => self.remove_namespace(nsid),
            Input::ResizeNamespace { nsid, blocks } => self.resize_namespace(nsid, blocks),
        }
    }

    /// Takes what is to be done next.
    pub fn next_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Returns whether the next request may come.
    #[must_use]
    pub const fn wants_request(&self) -> bool {
        !matches!(self.state, WorkerState::Detached | WorkerState::Stopping { .. })
    }

    /// Returns whether the next command from the admin submission queue may come.
    #[must_use]
    pub const fn wants_command(&self) -> bool {
        matches!(self.state, WorkerState::Enabled) && self.transfer.is_none()
    }

    /// Returns whether something is waited for, for a limited time.
    #[must_use]
    pub const fn has_deadline(&self) -> bool {
        matches!(self.state, WorkerState::Enabling { .. }) || self.shutdown.is_some()
    }

    /// Returns how many admin commands are in flight that were not completed or held.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Looks for an Asynchronous Event Request that is to be completed. Returns whether there is one.
    pub fn prepare_event(&mut self) -> bool {
        if matches!(self.state, WorkerState::Enabled) && self.event.is_none() {
            self.event = self.model.next_event();
        }
        self.event.is_some()
    }

    /// Takes the completion of the one that [`prepare_event`](Self::prepare_event) has found: there is an entry for it.
    pub fn take_event(&mut self) -> Option<EventCompletion> {
        self.event.take()
    }

    fn ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        Ticket(self.next_ticket)
    }

    fn put(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    /// Has all poll groups do something.
    fn send_to_all(&mut self, ticket: Ticket, request: GroupRequest) {
        for group in 0..self.placement.groups {
            self.put(Output::Send { group, ticket, request });
        }
    }

    fn note_error_events(&mut self, events: &[QueueErrorEvent]) {
        if matches!(self.state, WorkerState::Detached) {
            return;
        }
        for event in events {
            match *event {
                QueueErrorEvent::InvalidDoorbell { .. } => self.model.invalid_doorbell_value(),
                QueueErrorEvent::Failed { sqid, cid, status, slba, nsid } => {
                    self.model.io_error(&ErrorEntry { sqid, cid, status, lba: slba, nsid });
                }
            }
        }
    }
}
