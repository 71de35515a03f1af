//! Controllers on SPDK's reactors.
//!
//! | thread | what it has |
//! |---|---|
//! | the application's | the [controllers](endpoint) as the RPCs know them, and the bdevs that they hold open |
//! | the [control thread](control), one for all, which no reactor can hold up | sockets, the vfio-user sessions, PCI configuration space, register accesses, mappings |
//! | a [poll group](group) per core, an SPDK thread | the queues that were placed on it |
//! | the poll group that [runs](admin_runner) a controller's admin worker | its admin queue and admin model |
//!
//! They talk by messages (`messages`, and `inbox` for what a poll group does with them). What they share of a session
//! is in [`session`]: registers and doorbells are atomics; the table of guest memory and the eventfds are behind an
//! epoch, so that a reactor locks only when they have changed.

mod aborter;
mod admin_runner;
mod app;
mod attaching;
mod bdev_namespace;
mod bdevs;
mod budget;
mod client_dma;
mod control;
mod endpoint;
mod group;
mod idle_polls;
mod inbox;
mod inspect;
mod interrupt_watch;
mod listening;
mod log_budget;
mod messages;
mod outputs;
mod params;
mod pending;
mod rpc;
mod session;
mod session_queues;
mod socket_access;
mod subsystem;
mod threads;
mod throttle;
pub mod tracepoints;

pub use endpoint::stats;
pub use subsystem::register;
