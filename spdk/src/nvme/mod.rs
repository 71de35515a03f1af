//! The NVMe initiator.
//!
//! [`Connect`] brings a [`Ctrlr`] without blocking. The controller and its admin queue belong to the thread that
//! connected it; what other threads need of it they get as a [`CtrlrRef`]. Each thread that does I/O has a
//! [`PollGroup`] with [`QueuePair`]s, to which [`Command`]s are given together with an [`Sqe`](nvme_spec::Sqe). What
//! NVMe defines is in the crate [`nvme_spec`].
//!
//! Section numbers are those of the NVM Express Base Specification, revision 2.0.

mod buffer_pool;
mod command;
mod connect;
mod ctrlr;
mod digest;
pub(crate) mod entry;
mod qpair;
mod quiet;
mod reach;
#[cfg(test)]
mod spec_check;
mod transport;
mod users;

pub use command::{Command, Payload, Rejected};
pub use connect::{Connect, ConnectFailed};
pub use ctrlr::{Ctrlr, CtrlrRef, Detach, Limits};
pub use entry::is_queue_lost;
pub use qpair::{PollGroup, Progress, QpairEvent, QueuePair};
pub use reach::rdma_reach;
pub use transport::{AddressFamily, CtrlrOptions, TransportId, TransportIdError, TransportType, default_hostnqn};
