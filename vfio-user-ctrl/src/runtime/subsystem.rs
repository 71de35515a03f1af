//! The controllers as a subsystem of SPDK's application: they come after the bdevs, and go before them.

use std::ffi::CStr;
use std::sync::OnceLock;

use serde_json::json;
use spdk::Errno;
use spdk::json::JsonWriter;
use spdk::subsystem::{FiniDone, Subsystem};

use super::{attaching, endpoint, inspect, pending, rpc};

/// Makes the controllers and their RPC methods known to SPDK. To be called before SPDK starts, once. `on_shutdown` is
/// called on the application's thread when the controllers are about to end, which is before the bdevs do.
pub fn register(on_shutdown: fn()) {
    spdk::subsystem::register::<Controllers>();
    attaching::register();
    rpc::register();
    ON_SHUTDOWN.get_or_init(|| on_shutdown);
}

static ON_SHUTDOWN: OnceLock<fn()> = OnceLock::new();

struct Controllers;

impl Subsystem for Controllers {
    const NAME: &'static CStr = c"courier_controllers";
    const DEPENDS_ON: &'static [&'static CStr] = &[c"bdev"];

    fn init() -> Result<(), Errno> {
        Ok(())
    }

    fn fini(done: FiniDone) {
        if let Some(on_shutdown) = ON_SHUTDOWN.get() {
            on_shutdown();
        }
        pending::end();
        inspect::end();
        endpoint::end_all(move || drop(done));
    }

    fn write_config(out: &mut JsonWriter) {
        for endpoint in endpoint::all() {
            let create = json!({ "method": "courier_controller_create", "params": endpoint.params() });
            // A bdev that is not there when this is restored is waited for.
            let mut namespaces = [endpoint.namespaces(), endpoint.pending_namespaces()].concat();
            namespaces.sort_by_key(|namespace| namespace.nsid);
            let namespaces = namespaces.into_iter().map(|namespace| {
                let (nsid, bdev) = (namespace.nsid, namespace.bdev_name);
                let params = json!({ "name": endpoint.name(), "nsid": nsid, "bdev_name": bdev, "wait": false });
                json!({ "method": "courier_controller_add_ns", "params": params })
            });
            for call in std::iter::once(create).chain(namespaces) {
                if let Err(error) = out.value(&call) {
                    log::error!("controller '{}' could not be written to the configuration: {error}", endpoint.name());
                }
            }
        }
    }
}
