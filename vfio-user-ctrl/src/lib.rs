//! An NVMe controller that a virtual machine sees over vfio-user, on SPDK's reactors.
//!
//! What the controller is and does is decided without SPDK, by the crates that this one joins to it:
//!
//! | crate | what |
//! |---|---|
//! | `vfio-user` | the protocol of the client's socket |
//! | `guest-memory` | the guest's memory, queues in it, doorbells |
//! | `nvme-device` | the controller: its model, queues, admin worker, and what is decided about a connection |
//! | `runtime` | sockets, reactors, bdevs, RPC methods: what makes a controller of these parts |
#![forbid(unsafe_code)]

mod runtime;

pub use runtime::{register, stats, tracepoints};
