//! What the tests are made of.

pub(crate) mod app;
pub(crate) mod arena;
pub(crate) mod bytes;
pub(crate) mod controller;
pub(crate) mod export;
pub(crate) mod load;
pub(crate) mod nvme;
pub(crate) mod paths;
pub(crate) mod pool;
pub(crate) mod process;
pub(crate) mod rpc;
pub(crate) mod shared;
pub(crate) mod vfio_user;
pub(crate) mod vm;

use std::thread::sleep;
use std::time::{Duration, Instant};

/// Waits until `condition` holds.
///
/// # Panics
/// When it does not within `limit`.
#[track_caller]
pub(crate) fn wait_for(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < limit, "waited {limit:?} in vain for: {what}");
        sleep(Duration::from_millis(20));
    }
}

/// Seconds, for people in a hurry.
pub(crate) const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
