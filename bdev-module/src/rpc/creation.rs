//! Pools that are being created: who waits for the outcome, what is told of them meanwhile, and how they are called
//! off.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::CStr;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use spdk::Errno;
use spdk::nvme::{Connect, ConnectFailed, Ctrlr};
use spdk::poller::Poll;
use spdk::rpc::{Method, Request, RpcError, State};
use spdk::thread::AppCell;

use super::diagnosis::diagnose;
use crate::attempts::{self, PollerSlot, detach, drive, new_slot, remember};
use crate::params::{PoolParams, Trtype};
use crate::pool::{Pool, describe_path};
use crate::registry;

/// How long it is waited for a new pool that may be away, so that one that is there can be used at once.
const FIRST_ANSWER: Duration = Duration::from_secs(1);

/// The pools that are being created and have no controller yet, by name.
static CREATIONS: AppCell<BTreeMap<String, Rc<PoolCreation>>> = AppCell::new(BTreeMap::new);

/// The clients that wait for an answer.
static CLIENTS: AppCell<Vec<Weak<RpcClient>>> = AppCell::new(Vec::new);

/// A client that is answered once, by whoever knows the answer first.
struct RpcClient(RefCell<Option<Request>>);

impl RpcClient {
    fn new(request: Request) -> Rc<Self> {
        let client = Rc::new(Self(RefCell::new(Some(request))));
        remember(&CLIENTS, &client);
        client
    }

    fn is_waiting(&self) -> bool {
        self.0.borrow().is_some()
    }

    fn answer(&self, answer: Result<Value, RpcError>) {
        if let Some(request) = self.0.take() {
            request.answer(answer);
        }
    }
}

/// The application ends: what is being connected is dropped, and the clients that wait are told so.
pub(crate) fn stop_connecting() {
    for client in CLIENTS.with(RefCell::take).iter().filter_map(Weak::upgrade) {
        client.answer(Err(RpcError::failed(Errno::CANCELED, "the pool was not created: the application is ending")));
    }
    attempts::stop();
    CREATIONS.with(RefCell::take);
}

/// The method `courier_pool_create`.
pub(super) struct PoolCreate;

impl Method for PoolCreate {
    const NAME: &'static CStr = c"courier_pool_create";
    const STATE: State = State::Runtime;
    type Params = PoolParams;

    fn call(params: PoolParams, request: Request) {
        match check(&params) {
            Err(error) => request.fail(&error),
            Ok(()) if params.wait => PoolCreation::begin(params, request),
            Ok(()) => start_away(params, request),
        }
    }
}

/// Makes a pool that may be away. Answers when it is connected, or else when it is clear that it is not, or has not
/// been for a moment.
fn start_away(params: PoolParams, request: Request) {
    let limit = FIRST_ANSWER.min(Duration::from_millis(u64::from(params.connect_timeout_ms)));
    let name = params.name.clone();
    let pool = match Pool::start_away(params) {
        Ok(pool) => {
            registry::insert(&pool);
            Rc::downgrade(&pool)
        }
        Err(errno) => return request.fail(&not_set_up(&name, errno)),
    };
    let due = Instant::now() + limit;
    let slot = new_slot();
    let end = Rc::clone(&slot);
    let client = RpcClient::new(request);
    drive(&slot, move || {
        let found = pool.upgrade();
        if found.as_ref().is_some_and(|pool| !pool.was_tried() && !pool.is_deleting() && Instant::now() < due) {
            return Poll::Idle;
        }
        end.take();
        client.answer(described(found, &name));
        Poll::Busy
    });
}

/// Returns what is told of a new pool, if it is not on its way out already.
fn described(pool: Option<Rc<Pool>>, name: &str) -> Result<Value, RpcError> {
    pool.filter(|pool| !pool.is_deleting()).map(|pool| pool.describe()).ok_or_else(|| deleted(name))
}

fn deleted(name: &str) -> RpcError {
    RpcError::failed(Errno::CANCELED, format!("pool '{name}' was deleted while it was being created"))
}

fn not_set_up(name: &str, errno: Errno) -> RpcError {
    RpcError::failed(errno, format!("pool '{name}' could not be set up: {errno}"))
}

/// Checks what can be checked before anything is begun.
fn check(params: &PoolParams) -> Result<(), RpcError> {
    params.check().map_err(|error| RpcError::invalid(error.to_string()))?;
    let name = &params.name;
    if registry::find(name).is_some() {
        return Err(RpcError::failed(
            Errno::EXIST,
            format!("a pool '{name}' exists already; choose another name, or delete it first"),
        ));
    }
    if find(name).is_some() {
        return Err(RpcError::failed(Errno::EXIST, format!("a pool '{name}' is being created already")));
    }
    let pools = registry::all();
    let creations = all();
    let known = pools.iter().map(|pool| pool.params()).chain(creations.iter().map(|creation| &creation.params));
    let other = known.into_iter().find(|other| other.is_same_controller(params));
    other.map_or(Ok(()), |other| {
        Err(RpcError::failed(
            Errno::EXIST,
            format!(
                "pool '{}' is subsystem {} at {} already, as the same host; use that one, or give another hostnqn",
                other.name,
                other.subnqn,
                other.target()
            ),
        ))
    })
}

fn find(name: &str) -> Option<Rc<PoolCreation>> {
    CREATIONS.with(|creations| creations.borrow().get(name).cloned())
}

fn all() -> Vec<Rc<PoolCreation>> {
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

/// Calls the creation of a pool off. Returns whether there was one of that name.
pub(super) fn cancel(name: &str) -> bool {
    let found = find(name);
    if let Some(creation) = &found {
        creation.finish(Err(deleted(name)));
    }
    found.is_some()
}

/// A pool that is being created: it is being connected, or it is being found out why it cannot be.
pub(super) struct PoolCreation {
    pub(super) params: PoolParams,
    client: Rc<RpcClient>,
}

impl PoolCreation {
    fn begin(params: PoolParams, request: Request) {
        let creation = Rc::new(Self { params, client: RpcClient::new(request) });
        CREATIONS.with(|creations| {
            creations.borrow_mut().insert(creation.params.name.clone(), Rc::clone(&creation));
        });
        match creation.params.connect() {
            Ok(connect) => Attempt::start(connect, creation),
            Err(error) => creation.cannot_connect(&error),
        }
    }

    /// Returns whether somebody still waits for the pool.
    fn is_wanted(&self) -> bool {
        self.client.is_waiting()
    }

    /// It is over, and its client is told the outcome.
    pub(super) fn finish(&self, answer: Result<Value, RpcError>) {
        self.forget();
        self.client.answer(answer);
    }

    fn forget(&self) {
        CREATIONS.with(|creations| {
            let is_this = |other: &Rc<Self>| std::ptr::eq(Rc::as_ptr(other), self);
            let mut creations = creations.borrow_mut();
            if creations.get(&self.params.name).is_some_and(is_this) {
                creations.remove(&self.params.name);
            }
        });
    }

    /// It has its controller: it is a pool, and its client is answered when it is known what that has.
    fn connected(self: Rc<Self>, ctrlr: Ctrlr) {
        self.forget();
        match Pool::start(self.params.clone(), ctrlr) {
            Ok(pool) => {
                registry::insert(&pool);
                let found = Rc::downgrade(&pool);
                pool.when_scanned(move || self.finish(described(found.upgrade(), &self.params.name)));
            }
            Err(errno) => self.finish(Err(not_set_up(&self.params.name, errno))),
        }
    }

    fn cannot_connect(self: Rc<Self>, error: &ConnectFailed) {
        let params = &self.params;
        match error {
            ConnectFailed::Refused => diagnose(self, Errno::NXIO),
            // SPDK begins nothing over RDMA on a machine without a device.
            ConnectFailed::NotBegun if params.trtype == Trtype::Rdma => diagnose(self, Errno::NXIO),
            error => {
                let errno = if *error == ConnectFailed::InUse { Errno::EXIST } else { Errno::NXIO };
                let text = format!("pool '{}' at {}: {error}", params.name, params.target());
                self.finish(Err(RpcError::failed(errno, text)));
            }
        }
    }

    /// As [`Pool::describe`] does for one that is there.
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

/// An attempt to connect a new pool. It is polled until it has an outcome, which may be after nobody wants it any more.
struct Attempt {
    connect: Connect,
    due: Instant,
    creation: Rc<PoolCreation>,
    /// It was called off.
    is_over: Cell<bool>,
    /// The poller that drives it, which it ends.
    poller: Rc<PollerSlot>,
}

impl Attempt {
    fn start(connect: Connect, creation: Rc<PoolCreation>) {
        let poller = new_slot();
        let due = Instant::now() + creation.params.connect_limit();
        let mut attempt = Self { connect, due, creation, is_over: Cell::new(false), poller: Rc::clone(&poller) };
        drive(&poller, move || attempt.poll());
    }

    fn poll(&mut self) -> Poll {
        let creation = Rc::clone(&self.creation);
        let Some(outcome) = self.connect.poll() else {
            let is_late = Instant::now() >= self.due;
            if (is_late || !creation.is_wanted()) && !self.is_over.replace(true) {
                self.connect.cancel();
                if is_late && creation.is_wanted() {
                    diagnose(creation, Errno::TIMEDOUT);
                }
            }
            return Poll::Busy;
        };
        let is_over = self.is_over.get() || !creation.is_wanted();
        self.poller.take();
        match outcome {
            Ok(ctrlr) if is_over => detach(ctrlr),
            Ok(ctrlr) => creation.connected(ctrlr),
            Err(_) if is_over => {}
            Err(error) => creation.cannot_connect(&error),
        }
        Poll::Busy
    }
}
