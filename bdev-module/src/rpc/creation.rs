//! How pools are created, from the RPC to the answer.

use std::cell::Cell;
use std::ffi::CStr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::Value;
use spdk::Errno;
use spdk::nvme::{Connect, ConnectFailed, Ctrlr};
use spdk::poller::Poll;
use spdk::rpc::{Method, Request, RpcError, State};

use super::creations::{self, PoolCreation, RpcClient, all, deleted, find};
use super::diagnosis::diagnose;
use crate::attempts::{self, PollerSlot, detach, drive, new_slot};
use crate::params::{PoolParams, Trtype};
use crate::pool::Pool;
use crate::registry;

/// How long it is waited for a new pool that may be away, so that one that is there can be used at once.
const FIRST_ANSWER: Duration = Duration::from_secs(1);

/// The application ends: what is being connected is dropped, and the clients that wait are told so.
pub(crate) fn stop_connecting() {
    creations::stop();
    attempts::stop();
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
            Ok(()) if params.wait => start_connected(params, request),
            Ok(()) => start_away(params, request),
        }
    }
}

/// Makes a pool that must be there. Answers when it is connected, or cannot be.
fn start_connected(params: PoolParams, request: Request) {
    let creation = PoolCreation::begin(params, request);
    match creation.params.connect() {
        Ok(connect) => Attempt::start(connect, creation),
        Err(error) => cannot_connect(creation, &error),
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

/// A pool has its controller: it is created, and its client is answered when it is known what that has.
fn connected(creation: Rc<PoolCreation>, ctrlr: Ctrlr) {
    creation.forget();
    match Pool::start(creation.params.clone(), ctrlr) {
        Ok(pool) => {
            registry::insert(&pool);
            let found = Rc::downgrade(&pool);
            pool.when_scanned(move || creation.finish(described(found.upgrade(), &creation.params.name)));
        }
        Err(errno) => creation.finish(Err(not_set_up(&creation.params.name, errno))),
    }
}

fn cannot_connect(creation: Rc<PoolCreation>, error: &ConnectFailed) {
    let params = &creation.params;
    match error {
        ConnectFailed::Refused => diagnose(creation, Errno::NXIO),
        // SPDK begins nothing over RDMA on a machine without a device.
        ConnectFailed::NotBegun if params.trtype == Trtype::Rdma => diagnose(creation, Errno::NXIO),
        error => {
            let errno = if *error == ConnectFailed::InUse { Errno::EXIST } else { Errno::NXIO };
            let text = format!("pool '{}' at {}: {error}", params.name, params.target());
            creation.finish(Err(RpcError::failed(errno, text)));
        }
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
            Ok(ctrlr) => connected(creation, ctrlr),
            Err(_) if is_over => {}
            Err(error) => cannot_connect(creation, &error),
        }
        Poll::Busy
    }
}
