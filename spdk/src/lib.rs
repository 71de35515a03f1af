//! A safe layer over SPDK. It knows nothing of Courier.
//!
//! | module | what |
//! |---|---|
//! | [`abi`] | whether the SPDK in this process is the one that this was built for |
//! | [`app`] | starting and stopping an SPDK application with SPDK's own options |
//! | [`thread`] | SPDK threads, messages between them, values that stay on the application's thread |
//! | [`mailbox`] | messages to a thread of which none is lost when SPDK is out of messages |
//! | [`poller`] | pollers |
//! | [`os_thread`] | operating-system threads that are got out of a system call |
//! | [`io_device`] | I/O devices and their per-thread channels |
//! | [`rpc`], [`json`] | typed JSON-RPC methods and JSON output |
//! | [`bdev`] | bdev modules: devices that take I/O from SPDK's bdev layer |
//! | [`bdev_client`] | the other side: opening a bdev and sending it I/O |
//! | [`nvme`] | the NVMe initiator: controllers, poll groups, queue pairs, commands |
//! | [`dma`], [`memory`] | memory that devices can reach: SPDK's, and that of others |
//! | [`subsystem`] | parts of an application that start and end in order |
//! | [`time`] | SPDK's clock |
//! | [`trace`] | SPDK's tracepoints |
//! | [`log`](mod@log) | the `log` crate, written to SPDK's log |
//!
//! SPDK's rule is that an object belongs to the SPDK thread that made it. The types here say so: what must stay
//! on its thread is neither `Send` nor `Sync`; what is sent to another thread is `Send`, is called there and is
//! dropped there.
//!
//! Nothing in the way of an I/O allocates, locks or blocks: [`bdev::BdevIo`] is a pointer that must be completed once,
//! [`nvme::QueuePair`]'s commands take such a pointer along and give it back with the completion.
//!
//! # What it does not do
//! No accel, blob, vhost or sock interfaces; no metadata with DIF verification by the host; no NVMe over PCIe
//! specifics.
#![expect(unsafe_code, reason = "this crate is the safe layer over foreign functions")]

pub mod abi;
pub mod app;
pub mod bdev;
pub mod bdev_client;
pub mod dma;
mod errno;
pub mod io_device;
pub mod json;
pub mod log;
pub mod mailbox;
pub mod memory;
pub mod nvme;
pub mod os_thread;
mod placement;
pub mod poller;
pub mod rpc;
mod running;
pub mod subsystem;
pub mod thread;
pub mod time;
pub mod trace;
mod urgency;

pub use errno::Errno;

/// Runs `$init`, a `fn()`, when the library or program that this stands in is loaded: before `main`, and before SPDK
/// starts in a process that loads it with `LD_PRELOAD`.
///
/// SPDK learns of modules and RPC methods that way. `$init` must do no more than register them: neither SPDK nor
/// Rust's runtime is up yet.
#[macro_export]
macro_rules! on_load {
    ($init:path) => {
        #[expect(unsafe_code, reason = "placing a function in .init_array")]
        const _: () = {
            extern "C" fn on_load() {
                let init: fn() = $init;
                init();
            }
            // SAFETY: the section holds functions that the loader calls once, each of type `extern "C" fn()`.
            #[unsafe(link_section = ".init_array")]
            #[used]
            static ON_LOAD: extern "C" fn() = on_load;
        };
    };
}
