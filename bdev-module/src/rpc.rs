//! The RPC methods.

mod creation;
mod creations;
mod diagnosis;

use std::cell::RefCell;
use std::ffi::CStr;
use std::rc::Rc;

use spdk::Errno;
use spdk::rpc::{Method, Request, RpcError};

use crate::channel::Target;
use crate::params::{BdevDeleteParams, BdevParams, PoolDeleteParams, PoolGetParams, PoolReconnectParams};
use crate::pool::Pool;
use crate::registry;

pub(crate) use creation::stop_connecting;

/// Makes the methods known to SPDK.
pub(crate) fn register() {
    spdk::rpc::register::<creation::PoolCreate>();
    spdk::rpc::register::<PoolGet>();
    spdk::rpc::register::<PoolDelete>();
    spdk::rpc::register::<PoolReconnect>();
    spdk::rpc::register::<BdevCreate>();
    spdk::rpc::register::<BdevDelete>();
}

struct PoolGet;

impl Method for PoolGet {
    const NAME: &'static CStr = c"courier_pool_get";
    type Params = PoolGetParams;

    fn call(params: PoolGetParams, request: Request) {
        request.answer(match params.name {
            None => {
                let pools = registry::all();
                Ok(pools.iter().map(|pool| pool.describe()).chain(creations::describe_all()).collect())
            }
            Some(name) => match creations::describe(&name) {
                Some(told) => Ok(vec![told]),
                None => find_pool(&name).map(|pool| vec![pool.describe()]),
            },
        });
    }
}

struct PoolDelete;

impl Method for PoolDelete {
    const NAME: &'static CStr = c"courier_pool_delete";
    type Params = PoolDeleteParams;

    fn call(params: PoolDeleteParams, request: Request) {
        if creations::cancel(&params.name) {
            return request.reply(&true);
        }
        match find_pool(&params.name) {
            Ok(pool) => pool.delete(move || request.reply(&true)),
            Err(error) => request.fail(&error),
        }
    }
}

struct PoolReconnect;

impl Method for PoolReconnect {
    const NAME: &'static CStr = c"courier_pool_reconnect";
    type Params = PoolReconnectParams;

    fn call(params: PoolReconnectParams, request: Request) {
        request.answer(find_pool(&params.name).map(|pool| {
            pool.try_now();
            true
        }));
    }
}

struct BdevCreate;

impl Method for BdevCreate {
    const NAME: &'static CStr = c"bdev_courier_create";
    type Params = BdevParams;

    fn call(params: BdevParams, request: Request) {
        if let Err(error) = params.check() {
            return request.fail(&RpcError::invalid(error.to_string()));
        }
        let pool = match find_pool(&params.pool) {
            Ok(pool) => pool,
            Err(error) => return request.fail(&error),
        };
        let name = params.name.clone();
        let is_taken = spdk::bdev_client::exists(&name) || registry::find_pending(&name).is_some();
        pool.create_bdev(&params, is_taken, move |made| {
            request.answer(made.map(|()| name).map_err(|error| RpcError::failed(error.errno(), error.to_string())));
        });
    }
}

struct BdevDelete;

impl Method for BdevDelete {
    const NAME: &'static CStr = c"bdev_courier_delete";
    type Params = BdevDeleteParams;

    fn call(params: BdevDeleteParams, request: Request) {
        let name = params.name;
        if let Some((pool, pending)) = registry::find_pending(&name) {
            pool.forget_wanted(pending.nsid);
            return request.reply(&true);
        }
        let found = registry::all().into_iter().find_map(|pool| Some((pool.find_bdev(&name)?, pool)));
        let Some((disk, pool)) = found else {
            let text = format!("there is no bdev '{name}' of Courier's; bdev_get_bdevs lists the bdevs");
            return request.fail(&RpcError::failed(Errno::NODEV, text));
        };
        pool.let_go_of(disk.device().nsid());
        let request = Rc::new(RefCell::new(Some(request)));
        let answer = {
            let (name, request) = (name.clone(), Rc::clone(&request));
            move |result: Result<(), Errno>| {
                if let Some(request) = request.take() {
                    request.answer(result.map(|()| true).map_err(|errno| not_deleted(&name, errno)));
                }
            }
        };
        // Its namespace may be there again before it is gone.
        pool.forget_wanted(disk.device().nsid());
        if let Err(errno) = disk.unregister(answer)
            && let Some(request) = request.take()
        {
            request.fail(&not_deleted(&name, errno));
        }
    }
}

fn not_deleted(name: &str, errno: Errno) -> RpcError {
    RpcError::failed(errno, format!("bdev '{name}' could not be deleted: {errno}"))
}

fn find_pool(name: &str) -> Result<Rc<Pool>, RpcError> {
    registry::find(name).ok_or_else(|| {
        if creations::describe(name).is_some() {
            let text = format!("pool '{name}' is being created; wait until courier_pool_create is answered");
            return RpcError::failed(Errno::BUSY, text);
        }
        let known: Vec<String> = registry::all().iter().map(|pool| format!("'{}'", pool.name())).collect();
        let known =
            if known.is_empty() { "there are none".to_owned() } else { format!("there is {}", known.join(", ")) };
        RpcError::failed(Errno::NODEV, format!("there is no pool '{name}'; {known}"))
    })
}
