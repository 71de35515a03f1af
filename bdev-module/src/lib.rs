//! Storage pools over NVMe-oF, and the bdev module `courier` that forwards I/O to them.
//!
//! # The I/O path
//! The bdev layer gives it to a `disk` on some reactor. The disk makes an NVMe command of it and puts that on
//! the queue pair of the `channel` that this reactor has to the pool; the payload's scatter-gather list goes along as
//! it is. The reactor's poll group sends it, receives the completion and calls back; the disk completes the I/O.
//! Nothing on that way locks, allocates or leaves the reactor.
//!
//! # The parts
//! | module | what | where it runs |
//! |---|---|---|
//! | `params` | what the RPCs take, checked | anywhere |
//! | `rpc` | the RPC methods | application's thread |
//! | `registry` | the pools by name | application's thread |
//! | `pool` | a pool's controller: connect, recover, delete; its namespaces | application's thread |
//! | `identify` | what a pool tells of its namespaces, taken apart | anywhere |
//! | `log_limit` | which failures are written to the log | anywhere |
//! | `retry` | what becomes of a command that failed | anywhere |
//! | `channel` | a reactor's queue pair to a pool, and what waits for it | each reactor |
//! | [`tracepoints`] | the steps of an I/O's way, to be recorded | |
//! | `repeat` | which commands may be sent again | |
//! | `messages` | what reactors tell a pool | to the application's thread |
//! | `disk` | a namespace of a pool as a bdev | each reactor |
//!
//! # When the pool is away
//! What was in flight or comes in meanwhile is held, and sent once the pool is back; see `params::PoolParams` for how
//! long. A reset asked for through one bdev aborts that bdev's I/O only.
//!
//! # What it does not do
//! More than one path to a pool; zoned namespaces; verification of protection information by the host; the copy
//! command.

mod addresses;
mod attempts;
mod channel;
mod disk;
mod identify;
mod log_limit;
mod messages;
mod module;
mod params;
mod pool;
mod registered;
mod registry;
mod repeat;
mod retry;
mod rpc;
pub mod tracepoints;

pub use module::{on_shutdown, register};
pub use registry::stats;
