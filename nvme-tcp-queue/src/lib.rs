//! A queue pair over NVMe/TCP: the wire of `nvme-host` on one socket that never waits, polled by whoever owns it.
//!
//! A [`Queue`] is given commands with their memory, and is [polled](Queue::poll) with the time. It has no thread, waits
//! for nothing, takes no lock, and allocates nothing after its start. The commands that were submitted since the last
//! poll are sent side by side by one system call, from where their data is; as much as there is, up to 256 KiB, is
//! received by one, and payload is copied once to where it belongs. Of a large payload, what had not come with its
//! header is received right there, after that header has been checked, and never on a guess.
//!
//! Time is a number of ticks since any moment, of a length that the owner chooses. The deadlines of the connection and
//! of its initialization are kept here; those of commands are the owner's.
//!
//! The controller at the other end is hostile: see `nvme_host::tcp` for what it cannot do. Once the connection has
//! failed, [`Queue::close`] gives back the commands in flight, whose fate is unknown.
//!
//! All unsafe code is in `memory`, where memory that others may write at any time becomes a vector of a system call.

mod error;
mod memory;
mod queue;
mod socket;

pub use self::error::QueueError;
pub use self::memory::CommandMemory;
pub use self::queue::{Ended, Options, Queue, Refused};
