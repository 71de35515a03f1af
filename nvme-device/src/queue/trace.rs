//! Steps of a command's way, for a backend that records them.
//!
//! A command that the backend takes at once has two records of its own, when it is taken and when its completion is
//! posted; what the backend does in between is the backend's to record.

/// A step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TraceStep {
    /// Commands wait in a submission queue: its identifier, how many they are, and the index of the first.
    Doorbell,
    /// A command is taken: its submission queue, its identifier, its namespace.
    Take,
    /// It waits: its submission queue, its identifier, a [`Reason`].
    Wait,
    /// It goes on after that: its submission queue, its identifier, its namespace.
    GoOn,
    /// It has ended: its submission queue, its identifier, its status field without the phase tag.
    Complete,
    /// The host is interrupted: the completion queue, the vector, for how many completions.
    Interrupt,
}

/// Why a command waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The backend is out of something.
    Backend = 1,
    /// Its namespace takes no commands for now: older I/O of its disk has not ended, or the controllers have their
    /// share of the bdev layer's I/Os there.
    Namespace = 2,
    /// There is no room for data that goes by messages, or guest memory may not be accessed.
    Memory = 3,
    /// Its backend is done, and another part follows: a flush, or the data's way to the guest.
    NextPart = 4,
}

/// What is to be recorded of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traced {
    /// What [`Queues::set_trace_owner`](super::Queues::set_trace_owner) was given.
    pub owner: u16,
    /// The command, as the backend knows it; 0 if it is no command's step.
    pub command: u64,
    /// Bytes of its data.
    pub bytes: u32,
    /// What [`TraceStep`] says.
    pub arguments: [u64; 3],
}
