//! An NVMe controller that a virtual machine sees: the device side of vfio-user.
//!
//! | module | what | knows of |
//! |---|---|---|
//! | [`model`] | the controller: PCI configuration space, registers, admin and I/O commands, data pointers | numbers |
//! | [`memory`] | the guest's memory, queues in it, doorbells: the only place that touches shared memory | the operating system |
//! | [`queue`] | queues on a reactor: from the doorbell to the backend and back to the completion entry | all of these |
//! | [`admin_worker`] | the controller as a whole, and its admin commands: what is to be done when, and by which queues | all of these |
//! | [`connection`] | what is decided about a client's connection: when it is answered, who is let in | all of these |
//! | `runtime` | sockets, reactors, RPC methods: what makes a controller of the parts | SPDK |
//!
//! [`model`], [`admin_worker`] and [`connection`] know no socket, no clock and no SPDK: data goes in and data comes
//! out.
#![deny(unsafe_code)]

pub mod admin_worker;
pub mod connection;
pub mod memory;
pub mod model;
pub mod queue;
#[cfg(feature = "runtime")]
pub mod runtime;
