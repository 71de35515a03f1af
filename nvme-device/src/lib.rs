//! An NVMe controller that a virtual machine sees, as a device: data goes in and data comes out. It builds, and is tested
//! and fuzzed, where there is no SPDK.
//!
//! | module | what | knows of |
//! |---|---|---|
//! | [`model`] | the controller: PCI configuration space, registers, admin and I/O commands | numbers |
//! | [`queue`] | queues on one thread: from the doorbell to the backend and back to the completion entry | the model, [`guest_memory`] |
//! | [`admin_worker`] | the controller as a whole, and its admin commands: what is to be done when, and by which queues | all of these |
//! | [`connection`] | what is decided about a client's connection: its memory and interrupts, when it is answered, who is let in | all of these, [`vfio_user`]'s requests |
//!
//! [`model`], [`admin_worker`] and [`connection`] know no socket, no clock and no thread. [`queue`] is told the time, and
//! gives I/O to a [`Backend`](queue::Backend), which whoever uses it brings along.
#![forbid(unsafe_code)]

pub mod admin_worker;
pub mod connection;
pub mod model;
pub mod queue;
