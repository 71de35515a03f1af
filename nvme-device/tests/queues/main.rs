//! The queues as a guest's driver sees them, with namespaces in RAM instead of SPDK's bdevs.
#![expect(clippy::cast_possible_truncation, reason = "small numbers of the tests' own")]

#[path = "../common/mod.rs"]
mod common;

mod aborts;
mod data;
mod fused;
mod memory;
mod passthru;
mod random;
mod rings;
mod signals;
mod state;
mod suspended;
