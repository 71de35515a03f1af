//! The RPC methods.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::CStr;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use serde_json::Value;
use spdk::Errno;
use spdk::nvme::{Connect, ConnectFailed, Ctrlr, rdma_reach};
use spdk::poller::{Poll, Poller};
use spdk::rpc::{Method, Request, RpcError, State};
use spdk::thread::{AppCell, send_to_app};

use crate::params::{
    BdevDeleteParams, BdevParams, PoolDeleteParams, PoolGetParams, PoolParams, PoolReconnectParams, Trtype,
};
use crate::pool::{Pool, find_pending};
use crate::registry;

/// How long the diagnosis of a failed connection may take.
const DIAGNOSIS: Duration = Duration::from_secs(2);

/// Makes the methods known to SPDK.
pub(crate) fn register() {
    spdk::rpc::register::<PoolCreate>();
    spdk::rpc::register::<PoolGet>();
    spdk::rpc::register::<PoolDelete>();
    spdk::rpc::register::<PoolReconnect>();
    spdk::rpc::register::<BdevCreate>();
    spdk::rpc::register::<BdevDelete>();
}

/// How long it is waited for a new pool that may be away, so that one that is there can be used at once.
const FIRST_ANSWER: Duration = Duration::from_secs(1);

/// How long a controller that is not wanted may take to say good-bye.
const GOODBYE: Duration = Duration::from_secs(2);

/// The pools that are being connected for the first time, by name.
static CONNECTING: AppCell<BTreeMap<String, PoolParams>> = AppCell::new(BTreeMap::new);

/// The pollers that drive attempts to connect.
static ATTEMPTS: AppCell<Vec<Weak<PollerSlot>>> = AppCell::new(Vec::new);

/// A poller that can be ended from within its own call.
type PollerSlot = RefCell<Option<Poller>>;

/// Drops what is being connected, so that the application can end; the clients that wait are told that there is no answer.
pub(crate) fn stop_connecting() {
    for slot in ATTEMPTS.with(RefCell::take) {
        if let Some(slot) = slot.upgrade() {
            slot.take();
        }
    }
}

/// A place for a poller that drives an attempt to connect.
fn new_slot() -> Rc<PollerSlot> {
    let slot = Rc::new(PollerSlot::new(None));
    ATTEMPTS.with(|attempts| {
        let mut attempts = attempts.borrow_mut();
        attempts.retain(|slot| slot.strong_count() > 0);
        attempts.push(Rc::downgrade(&slot));
    });
    slot
}

fn drive(slot: &PollerSlot, poll: impl FnMut() -> Poll + 'static) {
    match Poller::register("courier_connect", Duration::from_millis(1), poll) {
        Ok(poller) => drop(slot.replace(Some(poller))),
        Err(error) => log::error!("a connection could not be looked after: {error}"),
    }
}

/// Calls off an attempt to connect.
pub(crate) fn abandon(mut connect: Connect) {
    connect.call_off();
    let slot = new_slot();
    let end = Rc::clone(&slot);
    drive(&slot, move || {
        if let Some(outcome) = connect.poll() {
            end.take();
            if let Ok(ctrlr) = outcome {
                detach(ctrlr);
            }
        }
        Poll::Busy
    });
}

struct PoolCreate;

impl Method for PoolCreate {
    const NAME: &'static CStr = c"courier_pool_create";
    const STATE: State = State::Runtime;
    type Params = PoolParams;

    fn call(params: PoolParams, request: Request) {
        if let Err(error) = begin(&params) {
            return request.fail(&error);
        }
        if !params.wait {
            return start_away(params, request);
        }
        CONNECTING.with(|pools| pools.borrow_mut().insert(params.name.clone(), params.clone()));
        Attempt::start(params, request);
    }
}

/// Makes a pool that may be away. Answers when it is connected, or else when it is clear that it is not, or has not been for a
/// moment.
fn start_away(params: PoolParams, request: Request) {
    let limit = FIRST_ANSWER.min(Duration::from_millis(u64::from(params.connect_timeout_ms)));
    let name = params.name.clone();
    let pool = match Pool::start_away(params) {
        Ok(pool) => Rc::downgrade(&pool),
        Err(errno) => return request.fail(&not_set_up(&name, errno)),
    };
    let due = Instant::now() + limit;
    let slot = new_slot();
    let end = Rc::clone(&slot);
    let mut request = Some(request);
    drive(&slot, move || {
        let found = pool.upgrade();
        if found.as_ref().is_some_and(|pool| !pool.was_tried() && Instant::now() < due) {
            return Poll::Idle;
        }
        end.take();
        if let Some(request) = request.take() {
            let gone = || RpcError::failed(Errno::NODEV, format!("pool '{name}' was deleted meanwhile"));
            request.answer(found.map(|pool| pool.describe()).ok_or_else(gone));
        }
        Poll::Busy
    });
}

fn not_set_up(name: &str, errno: Errno) -> RpcError {
    RpcError::failed(errno, format!("pool '{name}' could not be set up: {errno}"))
}

/// Checks what can be checked before anything is begun.
fn begin(params: &PoolParams) -> Result<(), RpcError> {
    params.check().map_err(|error| RpcError::invalid(error.to_string()))?;
    let name = &params.name;
    if registry::find(name).is_some() {
        return Err(RpcError::failed(
            Errno::EXIST,
            format!("a pool '{name}' exists already; choose another name, or delete it first"),
        ));
    }
    if CONNECTING.with(|pools| pools.borrow().contains_key(name)) {
        return Err(RpcError::failed(Errno::EXIST, format!("a pool '{name}' is being connected already")));
    }
    let other =
        registry::all().iter().map(|pool| pool.params()).find(|other| other.is_same_controller(params)).cloned();
    let other = other.or_else(|| {
        CONNECTING.with(|pools| pools.borrow().values().find(|other| other.is_same_controller(params)).cloned())
    });
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

/// An attempt to connect a new pool. It is polled until it has an outcome, which may be after the client was told that
/// it took too long: SPDK cannot call an attempt off.
struct Attempt {
    connect: Connect,
    due: Instant,
    waiting: Option<(PoolParams, Request)>,
    /// The poller that drives it, which it ends.
    poller: Rc<PollerSlot>,
}

impl Attempt {
    fn start(params: PoolParams, request: Request) {
        let connect = match params.connect() {
            Ok(connect) => connect,
            Err(error) => {
                let error = explain(&params, &error);
                return finish(&params, request, Err(error));
            }
        };
        let poller = new_slot();
        let due = Instant::now() + Duration::from_millis(u64::from(params.connect_timeout_ms));
        let mut attempt = Self { connect, due, waiting: Some((params, request)), poller: Rc::clone(&poller) };
        drive(&poller, move || attempt.poll());
    }

    fn poll(&mut self) -> Poll {
        let Some(outcome) = self.connect.poll() else {
            if Instant::now() >= self.due
                && let Some((params, request)) = self.waiting.take()
            {
                self.connect.call_off();
                diagnose(params, request, Errno::TIMEDOUT);
            }
            return Poll::Busy;
        };
        self.poller.take();
        match (outcome, self.waiting.take()) {
            (Ok(ctrlr), Some((params, request))) => match Pool::start(params.clone(), ctrlr) {
                Ok(pool) => answer_when_surveyed(&pool, params, request),
                Err(errno) => {
                    let error = not_set_up(&params.name, errno);
                    finish(&params, request, Err(error));
                }
            },
            (Ok(ctrlr), None) => detach(ctrlr),
            (Err(ConnectFailed::Refused), Some((params, request))) => diagnose(params, request, Errno::NXIO),
            (Err(error), Some((params, request))) => {
                let error = explain(&params, &error);
                finish(&params, request, Err(error));
            }
            (Err(_), None) => {}
        }
        Poll::Busy
    }
}

/// Answers with what a new pool has, once that is known.
fn answer_when_surveyed(pool: &Rc<Pool>, params: PoolParams, request: Request) {
    let found = Rc::downgrade(pool);
    pool.when_surveyed(move || {
        let gone = || RpcError::failed(Errno::NODEV, format!("pool '{}' was deleted meanwhile", params.name));
        let answer = found.upgrade().map(|pool| pool.describe()).ok_or_else(gone);
        finish(&params, request, answer);
    });
}

fn finish(params: &PoolParams, request: Request, answer: Result<Value, RpcError>) {
    CONNECTING.with(|pools| pools.borrow_mut().remove(&params.name));
    request.answer(answer);
}

fn explain(params: &PoolParams, error: &ConnectFailed) -> RpcError {
    let errno = if *error == ConnectFailed::InUse { Errno::EXIST } else { Errno::NXIO };
    RpcError::failed(errno, format!("pool '{}' at {}: {error}", params.name, params.target()))
}

/// A controller that came too late goes again.
fn detach(ctrlr: Ctrlr) {
    let Ok(mut detach) = ctrlr.detach() else { return };
    let poller = Rc::new(RefCell::new(None));
    let end = Rc::clone(&poller);
    let due = Instant::now() + GOODBYE;
    let poll = move || {
        if Instant::now() >= due {
            detach.force();
        }
        if detach.poll() {
            end.take();
        }
        Poll::Busy
    };
    if let Ok(registered) = Poller::register("courier_detach", Duration::from_millis(1), poll) {
        poller.replace(Some(registered));
    }
}

/// Finds out, off the reactors, whether anything answers at the address, so that the operator learns whether the
/// address or the name is wrong.
fn diagnose(params: PoolParams, request: Request, errno: Errno) {
    let address = params.traddr.parse::<IpAddr>().ok().zip(params.trsvcid.parse::<u16>().ok());
    let Some((ip, port)) = address else {
        let said = "no connection; is the address right?";
        return finish(&params, request, Err(failure(&params, errno, said)));
    };
    let trtype = params.trtype;
    let id = DIAGNOSED.with(|waiting| {
        let mut waiting = waiting.borrow_mut();
        waiting.0 += 1;
        let id = waiting.0;
        waiting.1.push((id, params, request));
        id
    });
    let probe = move || {
        let said = match reach(trtype, ip, port) {
            Ok(()) if errno == Errno::TIMEDOUT => {
                "something answers there, but did not answer all that a controller is asked at first; is it a target of NVMe, and is \
                 connect_timeout_ms long enough for it?"
                    .to_owned()
            }
            Ok(()) => "something answers there, but not as that subsystem; is subnqn right, and is this host allowed?"
                .to_owned(),
            Err(error) => format!("nothing answers there: {error}; is the address right, and does the target listen?"),
        };
        if let Err(error) = send_to_app(move || told(id, errno, &said)) {
            log::error!("a diagnosis could not be told: {error}");
        }
    };
    if std::thread::Builder::new().name("courier_diagnose".to_owned()).spawn(probe).is_err() {
        told(id, errno, "no connection");
    }
}

/// Whether anything answers there.
fn reach(trtype: Trtype, ip: IpAddr, port: u16) -> Result<(), String> {
    match trtype {
        Trtype::Tcp => TcpStream::connect_timeout(&SocketAddr::new(ip, port), DIAGNOSIS)
            .map(drop)
            .map_err(|error| error.to_string()),
        Trtype::Rdma => rdma_reach(ip, port, DIAGNOSIS).map_err(|error| match error {
            Errno::NODEV => "no RDMA device of this machine leads there".to_owned(),
            error => error.to_string(),
        }),
    }
}

/// The clients that wait for a diagnosis, and the last number given to one.
type Diagnosed = (u64, Vec<(u64, PoolParams, Request)>);

static DIAGNOSED: AppCell<Diagnosed> = AppCell::new(|| (0, Vec::new()));

fn told(id: u64, errno: Errno, said: &str) {
    let found = DIAGNOSED.with(|waiting| {
        let mut waiting = waiting.borrow_mut();
        let at = waiting.1.iter().position(|(entry, ..)| *entry == id)?;
        Some(waiting.1.swap_remove(at))
    });
    if let Some((_, params, request)) = found {
        let error = failure(&params, errno, said);
        finish(&params, request, Err(error));
    }
}

fn failure(params: &PoolParams, errno: Errno, said: &str) -> RpcError {
    let outcome = if errno == Errno::TIMEDOUT {
        format!("no connection within {} ms", params.connect_timeout_ms)
    } else {
        "cannot connect".to_owned()
    };
    let PoolParams { name, subnqn, .. } = params;
    let text = format!("pool '{name}': {outcome} to subsystem {subnqn} at {}: {said}", params.target());
    RpcError::failed(errno, text)
}

struct PoolGet;

impl Method for PoolGet {
    const NAME: &'static CStr = c"courier_pool_get";
    type Params = PoolGetParams;

    fn call(params: PoolGetParams, request: Request) {
        let pools = match params.name {
            None => Ok(registry::all()),
            Some(name) => find_pool(&name).map(|pool| vec![pool]),
        };
        request.answer(pools.map(|pools| pools.iter().map(|pool| pool.describe()).collect::<Vec<_>>()));
    }
}

struct PoolDelete;

impl Method for PoolDelete {
    const NAME: &'static CStr = c"courier_pool_delete";
    type Params = PoolDeleteParams;

    fn call(params: PoolDeleteParams, request: Request) {
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
        pool.create_bdev(&params, move |made| {
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
        if let Some((pool, pending)) = find_pending(&name) {
            pool.forget_wanted(pending.nsid);
            return request.reply(&true);
        }
        let found = registry::all().into_iter().find_map(|pool| Some((pool.find_bdev(&name)?, pool)));
        let Some((disk, pool)) = found else {
            let text = format!("there is no bdev '{name}' of Courier's; bdev_get_bdevs lists the bdevs");
            return request.fail(&RpcError::failed(Errno::NODEV, text));
        };
        if let Some(pool) = registry::find(disk.device().pool()) {
            pool.let_go_of(disk.device().nsid());
        }
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
        let known: Vec<String> = registry::all().iter().map(|pool| format!("'{}'", pool.name())).collect();
        let known =
            if known.is_empty() { "there are none".to_owned() } else { format!("there is {}", known.join(", ")) };
        RpcError::failed(Errno::NODEV, format!("there is no pool '{name}'; {known}"))
    })
}
