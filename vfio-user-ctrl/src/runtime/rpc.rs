//! The RPC methods.

use std::ffi::CStr;

use serde_json::json;
use spdk::rpc::{Method, Request, RpcError};
use spdk::{Errno, bdev_client};

use super::endpoint::{self, Endpoint};
use super::params::{AddNsParams, ControllerParams, DeleteParams, GetParams, RemoveNsParams, failed};
use super::{app, inspect, pending};
use std::rc::Rc;

/// Makes the methods known to SPDK.
pub(super) fn register() {
    spdk::rpc::register::<Create>();
    spdk::rpc::register::<Get>();
    spdk::rpc::register::<Delete>();
    spdk::rpc::register::<AddNs>();
    spdk::rpc::register::<RemoveNs>();
}

fn find(name: &str) -> Result<Rc<Endpoint>, RpcError> {
    endpoint::find(name).ok_or_else(|| {
        let known: Vec<String> = endpoint::all().iter().map(|endpoint| format!("'{}'", endpoint.name())).collect();
        let known =
            if known.is_empty() { "there are none".to_owned() } else { format!("there is {}", known.join(", ")) };
        failed(Errno::NODEV, format!("there is no controller '{name}'; {known}"))
    })
}

struct Create;

impl Method for Create {
    const NAME: &'static CStr = c"courier_controller_create";
    type Params = ControllerParams;

    fn call(params: ControllerParams, request: Request) {
        let made = params.resolve().and_then(|params| Endpoint::create(params, app::act));
        // No client has come yet that could have queues.
        request.answer(made.map(|endpoint| endpoint.describe_with(&inspect::ControllerQueues::default())));
    }
}

struct Get;

impl Method for Get {
    const NAME: &'static CStr = c"courier_controller_get";
    type Params = GetParams;

    fn call(params: GetParams, request: Request) {
        let endpoints = match params.name {
            None => Ok(endpoint::all()),
            Some(name) => find(&name).map(|endpoint| vec![endpoint]),
        };
        match endpoints {
            Ok(endpoints) => inspect::answer(endpoints, request),
            Err(error) => request.fail(&error),
        }
    }
}

struct Delete;

impl Method for Delete {
    const NAME: &'static CStr = c"courier_controller_delete";
    type Params = DeleteParams;

    fn call(params: DeleteParams, request: Request) {
        match find(&params.name) {
            Ok(endpoint) => endpoint.delete(move || request.reply(&true)),
            Err(error) => request.fail(&error),
        }
    }
}

struct AddNs;

impl Method for AddNs {
    const NAME: &'static CStr = c"courier_controller_add_ns";
    type Params = AddNsParams;

    fn call(params: AddNsParams, request: Request) {
        let added = params
            .check(bdev_client::exists(&params.bdev_name))
            .and_then(|()| find(&params.name))
            .and_then(|endpoint| pending::add_namespace(&endpoint, params.nsid, &params.bdev_name, params.wait));
        request.answer(added.map(|nsid| json!(nsid)));
    }
}

struct RemoveNs;

impl Method for RemoveNs {
    const NAME: &'static CStr = c"courier_controller_remove_ns";
    type Params = RemoveNsParams;

    fn call(params: RemoveNsParams, request: Request) {
        let removed = find(&params.name).and_then(|endpoint| endpoint.remove_namespace(params.nsid));
        request.answer(removed.map(|()| true));
    }
}
