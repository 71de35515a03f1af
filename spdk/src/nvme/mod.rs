//! The NVMe initiator.
//!
//! [`Connect`] brings a [`Ctrlr`] without blocking. The controller and its admin queue belong to the thread that
//! connected it; what other threads need of it they get as a [`CtrlrRef`]. Each thread that does I/O has a
//! [`PollGroup`] with [`QueuePair`]s, to which [`Command`]s are given together with an [`Sqe`].
//!
//! Section numbers are those of the NVM Express Base Specification, revision 2.0.

mod command;
mod connect;
mod ctrlr;
mod digest;
mod pages;
mod qpair;
mod quiet;
mod reach;
mod spec;
#[cfg(test)]
mod spec_check;
mod transport;
mod users;

pub use command::{Command, Payload, Rejected};
pub use connect::{Connect, ConnectFailed};
pub use ctrlr::{Ctrlr, CtrlrRef, Detach, Event, Limits};
pub use qpair::{PollGroup, Progress, QpairEvent, QueuePair};
pub use reach::rdma_reach;
pub use spec::{Completion, DSM_DEALLOCATE, DsmRange, Fused, Sqe, Status};
pub use transport::{AddressFamily, CtrlrOptions, TransportId, TransportIdError, TransportType, default_hostnqn};
