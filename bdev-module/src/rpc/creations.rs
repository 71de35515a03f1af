//! The pools that are being created: who waits for the outcome, what is told of them meanwhile, and how they are
//! cancelled.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};

use serde_json::{Value, json};
use spdk::Errno;
use spdk::rpc::{Request, RpcError};
use spdk::thread::AppCell;

use crate::attempts::remember;
use crate::params::PoolParams;
use crate::pool::describe_path;

/// The pools that are being created and have no controller yet, by name.
static CREATIONS: AppCell<BTreeMap<String, Rc<PoolCreation>>> = AppCell::new(BTreeMap::new);

/// The clients that wait for an answer.
static CLIENTS: AppCell<Vec<Weak<RpcClient>>> = AppCell::new(Vec::new);

/// A client that is answered once, by whoever knows the answer first.
pub(super) struct RpcClient(RefCell<Option<Request>>);

impl RpcClient {
    /// Returns the one that sent this request.
    pub(super) fn new(request: Request) -> Rc<Self> {
        let client = Rc::new(Self(RefCell::new(Some(request))));
        remember(&CLIENTS, &client);
        client
    }

    fn is_waiting(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// Answers it, unless it was answered.
    pub(super) fn answer(&self, answer: Result<Value, RpcError>) {
        if let Some(request) = self.0.take() {
            request.answer(answer);
        }
    }
}

/// Drops what is being created, and tells the clients that wait so.
pub(super) fn stop() {
    for client in CLIENTS.with(RefCell::take).iter().filter_map(Weak::upgrade) {
        client.answer(Err(RpcError::failed(Errno::CANCELED, "the pool was not created: the application is ending")));
    }
    CREATIONS.with(RefCell::take);
}

/// Returns the one of that name.
pub(super) fn find(name: &str) -> Option<Rc<PoolCreation>> {
    CREATIONS.with(|creations| creations.borrow().get(name).cloned())
}

/// Returns all.
pub(super) fn all() -> Vec<Rc<PoolCreation>> {
    CREATIONS.with(|creations| creations.borrow().values().cloned().collect())
}

/// Returns what `courier_pool_get` tells of the pool of that name, if it is being created.
pub(super) fn describe(name: &str) -> Option<Value> {
    find(name).map(|creation| creation.describe())
}

/// Returns the same of all.
pub(super) fn describe_all() -> Vec<Value> {
    all().iter().map(|creation| creation.describe()).collect()
}

/// Cancels the creation of a pool. Returns whether there was one of that name.
pub(super) fn cancel(name: &str) -> bool {
    let found = find(name);
    if let Some(creation) = &found {
        creation.finish(Err(deleted(name)));
    }
    found.is_some()
}

/// Returns what a client is told whose pool was deleted meanwhile.
pub(super) fn deleted(name: &str) -> RpcError {
    RpcError::failed(Errno::CANCELED, format!("pool '{name}' was deleted while it was being created"))
}

/// A pool that is being created: it is being connected, or it is being found out why it cannot be.
pub(super) struct PoolCreation {
    pub(super) params: PoolParams,
    client: Rc<RpcClient>,
}

impl PoolCreation {
    /// Returns a new one, which is known by its name from now on and answers `request` at its end.
    pub(super) fn begin(params: PoolParams, request: Request) -> Rc<Self> {
        let creation = Rc::new(Self { params, client: RpcClient::new(request) });
        CREATIONS.with(|creations| {
            creations.borrow_mut().insert(creation.params.name.clone(), Rc::clone(&creation));
        });
        creation
    }

    /// Returns whether somebody still waits for the pool.
    pub(super) fn is_wanted(&self) -> bool {
        self.client.is_waiting()
    }

    /// It is over, and its client is told the outcome.
    pub(super) fn finish(&self, answer: Result<Value, RpcError>) {
        self.forget();
        self.client.answer(answer);
    }

    /// It is known by its name no more.
    pub(super) fn forget(&self) {
        CREATIONS.with(|creations| {
            let is_this = |other: &Rc<Self>| std::ptr::eq(Rc::as_ptr(other), self);
            let mut creations = creations.borrow_mut();
            if creations.get(&self.params.name).is_some_and(is_this) {
                creations.remove(&self.params.name);
            }
        });
    }

    /// As [`Pool::describe`](crate::pool::Pool::describe) does for one that is there.
    fn describe(&self) -> Value {
        const STATE: &str = "connecting";
        let params = &self.params;
        json!({
            "name": params.name,
            "state": STATE,
            "last_error": null,
            "subnqn": params.subnqn,
            "hostnqn": params.hostnqn,
            "paths": [describe_path(params, STATE)],
            "io_queues": null,
            "queue_pairs": [],
            "unanswered_cores": [],
            "namespaces": [],
            "pending_bdevs": [],
            "losses": 0,
            "held_ios": 0,
            "resent_ios": 0,
        })
    }
}
