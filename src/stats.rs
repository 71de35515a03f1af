//! The RPC method `courier_get_stats`: the counters of all parts at once.

use std::ffi::CStr;

use serde::Deserialize;
use serde_json::json;
use spdk::rpc::{Method, Request};

/// Makes the method known to SPDK.
pub(crate) fn register() {
    spdk::rpc::register::<GetStats>();
}

struct GetStats;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NoParams {}

impl Method for GetStats {
    const NAME: &'static CStr = c"courier_get_stats";
    type Params = NoParams;

    fn call(NoParams {}: NoParams, request: Request) {
        let (pools, controllers) = (bdev_module::stats(), vfio_user_ctrl::stats());
        request.reply(&json!({ "pools": pools, "controllers": controllers }));
    }
}
