//! Courier as a plugin: everything that registers itself with SPDK.
//!
//! The program `courier_tgt` calls [`register`]; the shared object `libcourier.so` does so when a process loads it:
//!
//! ```text
//! LD_PRELOAD=libcourier.so spdk_tgt ...
//! ```
//!
//! What Courier is made of is told in `docs/architecture.md`.

mod stats;

use once_cell::sync::OnceCell;

/// Makes Courier's bdev module, its controllers and all RPC methods known to SPDK. To be called before SPDK starts; a
/// second call does nothing. If that SPDK is another than the one that Courier was built for, the process ends with a
/// sentence that says so.
pub fn register() {
    static REGISTERED: OnceCell<()> = OnceCell::new();
    REGISTERED.get_or_init(|| {
        spdk::abi::require();
        spdk::app::widen_descriptor_table();
        bdev_module::register();
        // SPDK waits until new bdevs were examined before it tells their modules that it ends. The program knows
        // earlier, the plugin does not.
        vfio_user_ctrl::register(bdev_module::on_shutdown);
        stats::register();
        spdk::trace::register(c"courier", &[vfio_user_ctrl::tracepoints::POINTS, bdev_module::tracepoints::POINTS]);
    });
}

/// The application is about to end: what is held for a pool that is away fails, since whoever waits for it would keep
/// the application from ending. To be called on the application's thread.
pub fn on_shutdown() {
    bdev_module::on_shutdown();
}

spdk::on_load!(register);
