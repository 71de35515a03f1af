//! What queues hold and have carried, for those who look into them.

use serde::Serialize;

/// A submission queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SubmissionState {
    /// Its identifier (SQID).
    pub qid: u16,
    /// The completion queue that its completions go to.
    pub cqid: u16,
    /// Entries.
    pub size: u16,
    /// The index of the next entry that is taken.
    pub head: u16,
    /// The tail as the host has written it, valid or not; none while the shadow doorbell cannot be read.
    pub tail: Option<u32>,
    /// Commands that were taken and are not completed.
    pub commands_in_flight: u16,
    /// Those of them that wait here: for an I/O of the bdev layer, for room for their data, or for guest memory.
    pub deferred: usize,
    /// Those that wait at the fence of their disk, or until its backend takes more.
    pub fenced: usize,
    /// When the oldest of them was taken, in ticks of the queues' clock; none if it is not known.
    #[serde(skip)]
    pub oldest: Option<u64>,
}

/// A completion queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CompletionState {
    /// Its identifier (CQID).
    pub qid: u16,
    /// Entries.
    pub size: u16,
    /// The head as the host has written it, where that was valid.
    pub head: u16,
    /// The index of the next entry that is written.
    pub tail: u16,
    /// Entries that are reserved for commands in flight.
    pub reserved: u16,
    /// Completions that wait for the queue's memory.
    pub waiting: usize,
    /// Its interrupt vector, if the host wants interrupts.
    pub vector: Option<u16>,
    /// Interrupts that were raised.
    pub interrupts: u64,
    /// Completions that had no interrupt of their own: another completion's stood for them.
    pub coalesced: u64,
}

/// What is left of queues that are gone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeftoverState {
    /// Commands that have not ended.
    pub commands_in_flight: usize,
    /// When the oldest of them was taken, in ticks.
    pub oldest: Option<u64>,
}

impl LeftoverState {
    /// Returns the sum of both.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            commands_in_flight: self.commands_in_flight.saturating_add(other.commands_in_flight),
            oldest: self.oldest.into_iter().chain(other.oldest).min(),
        }
    }
}

/// Commands and data that were carried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Read commands (with Compare).
    pub reads: u64,
    /// Write commands.
    pub writes: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Bytes written.
    pub bytes_written: u64,
}

impl Totals {
    /// Returns the sums of both.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            reads: self.reads.wrapping_add(other.reads),
            writes: self.writes.wrapping_add(other.writes),
            bytes_read: self.bytes_read.wrapping_add(other.bytes_read),
            bytes_written: self.bytes_written.wrapping_add(other.bytes_written),
        }
    }
}
