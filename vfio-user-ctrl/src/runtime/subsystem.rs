//! The controllers as a subsystem of SPDK's application: they come after the bdevs, and go before them.

use std::ffi::CStr;

use serde_json::json;
use spdk::Errno;
use spdk::json::JsonWriter;
use spdk::subsystem::{FiniDone, Subsystem};

use super::{endpoint, rpc};

/// Makes the controllers and their RPC methods known to SPDK. To be called before SPDK starts, once.
pub fn register() {
    spdk::subsystem::register::<Controllers>();
    rpc::register();
}

struct Controllers;

impl Subsystem for Controllers {
    const NAME: &'static CStr = c"courier_controllers";
    const DEPENDS_ON: &'static [&'static CStr] = &[c"bdev"];

    fn init() -> Result<(), Errno> {
        Ok(())
    }

    fn fini(done: FiniDone) {
        endpoint::end_all(move || drop(done));
    }

    fn write_config(out: &mut JsonWriter) {
        for endpoint in endpoint::all() {
            let create = json!({ "method": "courier_controller_create", "params": endpoint.params() });
            let namespaces = endpoint.namespaces().into_iter().map(|namespace| {
                let params =
                    json!({ "name": endpoint.name(), "nsid": namespace.nsid, "bdev_name": namespace.bdev_name });
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
