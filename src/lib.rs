//! Courier as a plugin: everything that registers itself with SPDK.
//!
//! The program `courier_tgt` calls [`register`]; the shared object `libcourier.so` does so when a process loads it:
//!
//! ```text
//! LD_PRELOAD=libcourier.so spdk_tgt ...
//! ```
//!
//! What Courier is made of is told in `docs/architecture.md`.

use once_cell::sync::OnceCell;

/// Makes Courier's bdev module and RPC methods known to SPDK. To be called before SPDK starts; a second call does nothing.
pub fn register() {
    static REGISTERED: OnceCell<()> = OnceCell::new();
    REGISTERED.get_or_init(bdev_module::register);
}

spdk::on_load!(register);
