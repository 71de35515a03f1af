//! The module as SPDK's bdev layer knows it.

use std::cell::RefCell;
use std::ffi::CStr;

use serde_json::json;
use spdk::Errno;
use spdk::bdev::{Module, ModuleFiniDone, register_module};
use spdk::json::JsonWriter;
use spdk::log::LogFilter;
use spdk::thread::AppCell;

use crate::{registered, registry, rpc};

/// What looks at the lines of the log, for as long.
static LOG_FILTER: AppCell<Option<LogFilter>> = AppCell::new(|| None);

/// Makes the bdev module and its RPC methods known to SPDK. To be called before SPDK starts; a second call does
/// nothing.
pub fn register() {
    registered::register_module(|| {
        rpc::register();
        register_module::<Courier>()
    });
}

/// The application is about to end: I/O for a pool that is away fails from now on. To be called on the application's
/// thread.
pub fn on_shutdown() {
    for pool in registry::all() {
        pool.hold_no_more();
    }
}

struct Courier;

impl Module for Courier {
    const NAME: &'static CStr = c"courier";

    fn init() -> Result<(), Errno> {
        spdk::log::init();
        let filter = spdk::log::filter()?;
        LOG_FILTER.with(|current| current.replace(Some(filter)));
        registered::register_reactors()
    }

    fn fini_start() {
        on_shutdown();
    }

    fn fini(done: ModuleFiniDone) {
        rpc::stop_connecting();
        registry::delete_all(move || {
            // Those of pools that were never there.
            rpc::stop_connecting();
            drop(LOG_FILTER.with(RefCell::take));
            let device = registered::take_reactors();
            // Without a device, or if it is gone already, `done` is dropped here.
            let _ = device.map(|device| device.unregister(move || drop(done)));
        });
    }

    fn write_config(out: &mut JsonWriter) {
        for pool in registry::all() {
            let create = json!({ "method": "courier_pool_create", "params": pool.params().saved() });
            // The bdev layer has those that are there written.
            let pending = pool.pending_bdevs();
            let pending = pending.iter().map(|bdev| json!({ "method": "bdev_courier_create", "params": bdev.saved() }));
            for call in std::iter::once(create).chain(pending) {
                if let Err(error) = out.value(&call) {
                    log::error!("pool '{}' could not be written to the configuration: {error}", pool.name());
                }
            }
        }
    }
}
