//! The controllers as the RPCs know them, on the application's thread.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::{Value, json};
use spdk::Errno;
use spdk::bdev_client::{BdevDesc, BdevEvent, BdevInfo};
use spdk::rpc::RpcError;
use spdk::thread::{AppCell, cores};
use spdk::trace::TraceOwner;
use uuid::Uuid;

use super::attaching::{self, AttachError, PendingNamespace};
use super::bdev_namespace::{fence_of, geometry, namespace};
use super::listening::{Listening, MadeDirectories};
use super::log_budget::LineBudget;
use super::messages::{AdminMessage, AppMessage, ControlMessage, GroupMessage, NamespaceSpec, Routes};
use super::params::{ControllerParams, failed};
use super::session::{Counters, Ctrl};
use super::threads::{end_threads, start_runtime, with_runtime};
use nvme_device::model::admin::Controller;
use nvme_device::queue::{Fence, MAX_NAMESPACES, Totals};

static MADE_DIRECTORIES: AppCell<MadeDirectories> = AppCell::new(MadeDirectories::default);
static ENDPOINTS: AppCell<BTreeMap<String, Rc<Endpoint>>> = AppCell::new(BTreeMap::new);

/// A namespace of a controller.
#[derive(Debug)]
struct NamespaceBdev {
    /// Tells it from others that had its identifier before, whose bdevs may have something to tell yet.
    number: u64,
    desc: Arc<BdevDesc>,
    info: BdevInfo,
    fence: Arc<Fence>,
}

/// A namespace of a controller, for those who ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NamespaceInfo {
    /// Its identifier.
    pub nsid: u32,
    /// Its bdev.
    pub bdev_name: String,
}

/// A controller.
#[derive(Debug)]
pub(super) struct Endpoint {
    params: ControllerParams,
    ctrl: Arc<Ctrl>,
    routes: Arc<Routes>,
    namespaces: RefCell<BTreeMap<u32, NamespaceBdev>>,
    /// Namespaces that come when their bdev does.
    pub(super) pending: RefCell<BTreeMap<u32, PendingNamespace>>,
    /// How many namespaces there have been.
    attached: Cell<u64>,
    deleting: Cell<bool>,
}

/// Returns the controller of that name.
#[must_use]
pub(crate) fn find(name: &str) -> Option<Rc<Endpoint>> {
    ENDPOINTS.with(|endpoints| endpoints.borrow().get(name).cloned())
}

/// Returns the controller of that UUID.
fn with_uuid(uuid: Uuid) -> Option<Rc<Endpoint>> {
    all().into_iter().find(|endpoint| endpoint.params.uuid == Some(uuid))
}

/// Returns the counters of all controllers, by name.
#[must_use]
pub fn stats() -> Vec<Value> {
    all().iter().map(|endpoint| endpoint.stats()).collect()
}

/// Returns all controllers, by name.
#[must_use]
pub(crate) fn all() -> Vec<Rc<Endpoint>> {
    ENDPOINTS.with(|endpoints| endpoints.borrow().values().cloned().collect())
}

/// Deletes every controller and ends all threads, then calls `done`.
pub(crate) fn end_all(done: impl FnOnce() + 'static) {
    /// Goes on when the last controller lets go of it.
    struct Last(Option<Box<dyn FnOnce()>>);
    impl Drop for Last {
        fn drop(&mut self) {
            if let Some(done) = self.0.take() {
                end_threads(done);
            }
        }
    }
    let last = Rc::new(Last(Some(Box::new(done))));
    for endpoint in all() {
        let last = Rc::clone(&last);
        endpoint.delete(move || drop(last));
    }
    // Some may be on their way already, by an RPC.
    DELETED.with(|deleted| {
        for entry in deleted.borrow_mut().iter_mut() {
            let last = Rc::clone(&last);
            entry.done.push(Box::new(move || drop(last)));
        }
    });
}

/// Returns what records of a controller's tracepoints belong to.
fn trace_owner(name: &str) -> TraceOwner {
    TraceOwner::new(&CString::new(format!("controller {name}")).unwrap_or_default())
}

impl Endpoint {
    /// Makes a controller and serves it. Messages to this thread are acted on by `act`.
    ///
    /// # Errors
    /// What keeps it from being made; nothing is left of it then.
    pub(super) fn create(params: ControllerParams, act: fn(AppMessage)) -> Result<Rc<Self>, RpcError> {
        let name = &params.name;
        if find(name).is_some() {
            return Err(failed(
                Errno::EXIST,
                format!("a controller '{name}' exists already; choose another name, or delete it first"),
            ));
        }
        if let Some((uuid, other)) = params.uuid.and_then(|uuid| Some((uuid, with_uuid(uuid)?))) {
            return Err(failed(
                Errno::EXIST,
                format!(
                    "parameter `uuid`: controller '{}' has the UUID {uuid} already; leave it out for a new one",
                    other.name()
                ),
            ));
        }
        let wanted = params.cores(&cores())?;
        let model = Controller::new(params.identity()?, params.limits())
            .map_err(|error| RpcError::invalid(error.to_string()))?;
        // Whatever fails below, the socket and its directory go with this.
        let listening = Listening::begin(&params.socket_path(), params.access()?)?;
        start_runtime(act)?;
        let routes = with_runtime(|runtime| {
            let groups: Vec<_> = runtime.groups.iter().filter(|group| wanted.contains(&group.core)).cloned().collect();
            let id = runtime.next_ctrl;
            runtime.next_ctrl += 1;
            // One controller after another has its admin worker on another core.
            let at = usize::try_from(id).unwrap_or(0) % groups.len().max(1);
            let admin_group = groups.get(at).cloned()?;
            let ctrl = Arc::new(Ctrl {
                id,
                name: name.clone(),
                max_queues: params.max_queues,
                max_queue_depth: params.max_queue_depth,
                prefault: params.prefault,
                version: params.nvme_version.into(),
                connected: AtomicBool::new(false),
                regions: AtomicU64::new(0),
                memory: AtomicU64::new(0),
                counters: Counters::default(),
                trace_owner: trace_owner(name),
                lines: LineBudget::of_one(),
            });
            Some(Arc::new(Routes { ctrl, groups, admin_group, control: runtime.control.handle() }))
        })?
        .ok_or_else(|| failed(Errno::NODEV, "there is no poll group on the cores of `cpumask`"))?;
        routes.admin_group.send(GroupMessage::AddController { routes: Arc::clone(&routes), model: Box::new(model) });
        let listener = MADE_DIRECTORIES.with(|made| listening.keep(&mut made.borrow_mut()));
        routes.control.send(ControlMessage::AddController { routes: Arc::clone(&routes), listener });
        let endpoint = Rc::new(Self {
            params,
            ctrl: Arc::clone(&routes.ctrl),
            routes,
            namespaces: RefCell::default(),
            pending: RefCell::default(),
            attached: Cell::new(0),
            deleting: Cell::new(false),
        });
        ENDPOINTS.with(|endpoints| endpoints.borrow_mut().insert(endpoint.name().to_owned(), Rc::clone(&endpoint)));
        Ok(endpoint)
    }

    /// Returns its name.
    #[must_use]
    pub(crate) fn name(&self) -> &str {
        &self.params.name
    }

    /// Returns what tells it from others, also from those that had the same name.
    pub(super) fn id(&self) -> u64 {
        self.ctrl.id
    }

    /// Returns the cores that may serve its queues.
    pub(super) fn cores(&self) -> impl Iterator<Item = u32> {
        self.routes.groups.iter().map(|group| group.core)
    }

    /// Sends what `message` makes to those of its poll groups that are on `cores`.
    pub(super) fn send_to(&self, cores: &[u32], message: impl Fn() -> GroupMessage) {
        for group in self.routes.groups.iter().filter(|group| cores.contains(&group.core)) {
            group.send(message());
        }
    }

    /// Returns what it was made with.
    #[must_use]
    pub(super) fn params(&self) -> &ControllerParams {
        &self.params
    }

    /// Returns its namespaces.
    #[must_use]
    pub(crate) fn namespaces(&self) -> Vec<NamespaceInfo> {
        let namespaces = self.namespaces.borrow();
        namespaces
            .iter()
            .map(|(nsid, attached)| NamespaceInfo { nsid: *nsid, bdev_name: attached.info.name.clone() })
            .collect()
    }

    /// Returns its namespaces that come when their bdev does.
    #[must_use]
    pub(crate) fn pending_namespaces(&self) -> Vec<NamespaceInfo> {
        let pending = self.pending.borrow();
        pending.iter().map(|(nsid, entry)| NamespaceInfo { nsid: *nsid, bdev_name: entry.bdev_name.clone() }).collect()
    }

    /// Returns what there is to tell of it without asking its queues.
    #[must_use]
    pub(crate) fn describe(&self) -> Value {
        let mut value = serde_json::to_value(&self.params).unwrap_or_default();
        let namespaces: Vec<Value> = self
            .namespaces
            .borrow()
            .iter()
            .map(|(nsid, attached)| {
                json!({
                    "nsid": nsid,
                    "bdev_name": attached.info.name,
                    "blocks": attached.desc.num_blocks(),
                    "block_size": attached.info.block_size,
                })
            })
            .collect();
        let cores: Vec<u32> = self.cores().collect();
        value["socket"] = json!(self.params.socket_path());
        value["connected"] = json!(self.ctrl.connected.load(Ordering::Acquire));
        value["memory"] = json!({
            "regions": self.ctrl.regions.load(Ordering::Relaxed), "bytes": self.ctrl.memory.load(Ordering::Relaxed),
        });
        value["cores"] = json!(cores);
        value["admin_core"] = json!(self.routes.admin_group.core);
        value["namespaces"] = json!(namespaces);
        let pending = self.pending.borrow();
        value["pending_namespaces"] = pending.iter().map(|(nsid, entry)| entry.describe(*nsid)).collect();
        value["io"] = self.io();
        value
    }

    /// Returns what `courier_get_stats` tells of it.
    #[must_use]
    pub(super) fn stats(&self) -> Value {
        let queues: Vec<Value> = self
            .ctrl
            .counters
            .queues()
            .into_iter()
            .map(|(qid, totals)| {
                let mut value = totals_value(totals);
                value["qid"] = json!(qid);
                value
            })
            .collect();
        json!({ "name": self.params.name, "io": self.io(), "queues": queues })
    }

    fn io(&self) -> Value {
        let mut io = totals_value(self.ctrl.counters.totals());
        io["bytes_bounced"] = json!(self.ctrl.counters.bytes_bounced());
        io
    }

    /// Makes a bdev namespace `nsid`, which is free. It is claimed for as long: no other module may write to it.
    ///
    /// # Errors
    /// Why that cannot be.
    pub(super) fn attach(self: &Rc<Self>, nsid: u32, bdev_name: &str) -> Result<(), AttachError> {
        let me = Rc::downgrade(self);
        let number = self.attached.get() + 1;
        self.attached.set(number);
        let events = move |event| {
            if let Some(endpoint) = me.upgrade() {
                endpoint.bdev_event(nsid, number, event);
            }
        };
        let desc = attaching::open(bdev_name, events)?;
        let info = desc.describe();
        // The bdev may have been opened by an alias.
        if let Some((other, _)) = self.namespaces.borrow().iter().find(|(_, bdev)| bdev.info.name == info.name) {
            return Err(self.duplicate_uuid(&info.name, *other).into());
        }
        let geometry = geometry(&info, self.params.vendor_specific_commands)?;
        let namespace = namespace(nsid, &info, &geometry);
        namespace
            .check()
            .map_err(|error| failed(Errno::INVAL, format!("bdev '{bdev_name}' cannot be a namespace: {error}")))?;
        let desc = Arc::new(desc);
        let fence = fence_of(&info.name);
        let spec = NamespaceSpec { nsid, desc: Arc::clone(&desc), geometry, fence: Arc::clone(&fence) };
        self.namespaces.borrow_mut().insert(nsid, NamespaceBdev { number, desc, info, fence });
        self.send_admin(AdminMessage::AddNamespace { namespace, spec });
        Ok(())
    }

    /// Returns the error of a second namespace with one UUID: a guest takes the two for two paths to one disk.
    pub(super) fn duplicate_uuid(&self, bdev_name: &str, nsid: u32) -> RpcError {
        failed(
            Errno::EXIST,
            format!(
                "parameter `bdev_name`: bdev '{bdev_name}' is namespace {nsid} of controller '{}' already; a controller can have \
                 a bdev once",
                self.name()
            ),
        )
    }

    /// Returns the identifier that a namespace is to have: the one that is wanted, or the first that is free.
    ///
    /// # Errors
    /// It cannot be had.
    pub(super) fn choose_nsid(&self, nsid: Option<u32>) -> Result<u32, RpcError> {
        let most = u32::try_from(MAX_NAMESPACES).unwrap_or(u32::MAX);
        let bdev = |nsid: &u32| {
            let attached = self.namespaces.borrow().get(nsid).map(|attached| attached.info.name.clone());
            attached.or_else(|| self.pending.borrow().get(nsid).map(|entry| entry.bdev_name.clone()))
        };
        let name = self.name();
        match nsid {
            None => (1..=most)
                .find(|nsid| bdev(nsid).is_none())
                .ok_or_else(|| failed(Errno::NOSPC, format!("controller '{name}' has all {most} namespaces already"))),
            Some(nsid) if nsid == 0 || nsid > most => {
                Err(RpcError::invalid(format!("parameter `nsid` must be 1 to {most}, got {nsid}")))
            }
            Some(nsid) => match bdev(&nsid) {
                None => Ok(nsid),
                Some(bdev) => Err(failed(
                    Errno::EXIST,
                    format!("parameter `nsid`: {nsid} is bdev '{bdev}' already in controller '{name}'"),
                )),
            },
        }
    }

    /// Takes a namespace away.
    ///
    /// # Errors
    /// There is none of that identifier.
    pub(crate) fn remove_namespace(&self, nsid: u32) -> Result<(), RpcError> {
        if self.pending.borrow_mut().remove(&nsid).is_some() {
            return Ok(());
        }
        let Some(attached) = self.namespaces.borrow_mut().remove(&nsid) else {
            let known: Vec<u32> = self.namespaces.borrow().keys().copied().collect();
            let text =
                format!("parameter `nsid`: controller '{}' has no namespace {nsid}; it has {known:?}", self.name());
            return Err(failed(Errno::NODEV, text));
        };
        // The bdev may be another controller's before the admin worker hears of this.
        let guard = attached.fence.raise();
        self.send_admin(AdminMessage::RemoveNamespace { nsid, desc: attached.desc, guard });
        Ok(())
    }

    /// Tells its admin worker something.
    fn send_admin(&self, message: AdminMessage) {
        self.routes.send_admin(message);
    }

    fn bdev_event(&self, nsid: u32, number: u64, event: BdevEvent) {
        if self.namespaces.borrow().get(&nsid).is_none_or(|attached| attached.number != number) {
            // It was taken away already, and is open only until its I/O has ended: what is there now is another bdev.
            return;
        }
        match event {
            BdevEvent::Removed => {
                log::info!("controller '{}': the bdev of namespace {nsid} is being removed", self.name());
                // It is there.
                let _ = self.remove_namespace(nsid);
            }
            BdevEvent::Resized => {
                let blocks = self.namespaces.borrow().get(&nsid).map(|attached| attached.desc.num_blocks());
                let Some(blocks) = blocks else { return };
                self.send_admin(AdminMessage::ResizeNamespace { nsid, blocks });
            }
        }
    }

    /// Deletes the controller, with a client or without. `done` is called, here, when nothing of it is left.
    pub(crate) fn delete(self: &Rc<Self>, done: impl FnOnce() + 'static) {
        if self.deleting.replace(true) {
            return done();
        }
        ENDPOINTS.with(|endpoints| endpoints.borrow_mut().remove(self.name()));
        // Before a new controller can have the same directory.
        let socket = self.params.socket_path();
        let _ = std::fs::remove_file(&socket);
        MADE_DIRECTORIES.with(|made| made.borrow_mut().remove_unused(&socket));
        let entry = Deleted { ctrl: self.ctrl.id, groups: self.routes.groups.len(), done: vec![Box::new(done)] };
        DELETED.with(|deleted| deleted.borrow_mut().push(entry));
        let guards = self.namespaces.take().values().map(|attached| attached.fence.raise()).collect();
        self.routes.control.send(ControlMessage::RemoveController { routes: Arc::clone(&self.routes), guards });
    }
}

fn totals_value(totals: Totals) -> Value {
    json!({
        "reads": totals.reads, "writes": totals.writes,
        "bytes_read": totals.bytes_read, "bytes_written": totals.bytes_written,
    })
}

/// A controller that is being deleted.
struct Deleted {
    ctrl: u64,
    /// On how many poll groups something of it may still be.
    groups: usize,
    /// Who waits for its end.
    done: Vec<Box<dyn FnOnce()>>,
}

static DELETED: AppCell<Vec<Deleted>> = AppCell::new(Vec::new);

/// Nothing of the controller is left on one poll group.
pub(super) fn group_is_clear(ctrl: u64) {
    let done = DELETED.with(|deleted| {
        let mut deleted = deleted.borrow_mut();
        let at = deleted.iter().position(|entry| entry.ctrl == ctrl)?;
        let entry = deleted.get_mut(at)?;
        entry.groups = entry.groups.saturating_sub(1);
        (entry.groups == 0).then(|| deleted.swap_remove(at).done)
    });
    for done in done.into_iter().flatten() {
        done();
    }
}
