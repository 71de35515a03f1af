//! Queues without SPDK: guest memory in memfds, a guest's driver, and namespaces in RAM.
#![allow(dead_code, reason = "each test program uses a part of this")]

pub(crate) mod guest;
pub(crate) mod ram;
