//! I/O through the bdev layer, the module and NVMe/TCP to a stock target, with the data checked.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail by panic")]

#[path = "../common/mod.rs"]
mod common;

mod data;
mod digest;
mod initiator;
mod liveness;
mod model;
mod namespaces;
mod queues;
mod recovery;
mod scripted;
mod start;
