//! Namespaces whose bdev is not there yet, or is another module's: each is added when its bdev can be had, on the
//! application's thread.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use spdk::bdev_client;
use spdk::poller::{Poll, Poller};
use spdk::rpc::RpcError;
use spdk::thread::AppCell;

use super::attaching::{AttachError, PendingNamespace};
use super::endpoint::{self, Endpoint};
use super::params::failed;

/// How often it is looked for bdevs that are waited for. The bdev layer tells nobody of a new bdev who is not a bdev
/// module.
const PERIOD: Duration = Duration::from_millis(50);

static WATCH: AppCell<Option<Poller>> = AppCell::new(|| None);

/// Adds a bdev as a namespace of a controller, with the first identifier that is free if none is given. Returns the
/// identifier. If the bdev is not there or another module has claimed it, and `wait` is false, the namespace comes when
/// that has changed.
///
/// # Errors
/// An identifier that cannot be had, or a bdev that cannot be a namespace.
pub(super) fn add_namespace(
    endpoint: &Rc<Endpoint>,
    nsid: Option<u32>,
    bdev_name: &str,
    wait: bool,
) -> Result<u32, RpcError> {
    let nsid = endpoint.choose_nsid(nsid)?;
    if let Some((other, _)) = endpoint.pending.borrow().iter().find(|(_, entry)| entry.bdev_name == bdev_name) {
        return Err(endpoint.duplicate_uuid(bdev_name, *other));
    }
    let mut entry = PendingNamespace::new(bdev_name.to_owned());
    if wait || bdev_client::exists(bdev_name) {
        match endpoint.attach(nsid, bdev_name) {
            Ok(()) => return Ok(nsid),
            Err(why) if wait || matches!(why, AttachError::Refused(_)) => return Err(why.into_error()),
            Err(why) => log_once(endpoint, nsid, &mut entry, &why),
        }
    }
    watch()?;
    endpoint.pending.borrow_mut().insert(nsid, entry);
    Ok(nsid)
}

fn log_once(endpoint: &Endpoint, nsid: u32, entry: &mut PendingNamespace, why: &AttachError) {
    if let Some(reason) = entry.set_reason(why) {
        log::error!("controller '{}': namespace {nsid} is waited for: {reason}", endpoint.name());
    }
}

/// Looks for bdevs that are waited for, until none is.
fn watch() -> Result<(), RpcError> {
    WATCH.with(|watch| {
        if watch.borrow().is_none() {
            let poller = Poller::register("courier_pending", PERIOD, look)
                .map_err(|errno| failed(errno, format!("no bdev can be waited for: {errno}")))?;
            watch.replace(Some(poller));
        }
        Ok(())
    })
}

/// Looks for nothing any more.
pub(super) fn end() {
    WATCH.with(RefCell::take);
}

fn look() -> Poll {
    let mut added = false;
    for endpoint in endpoint::all() {
        let pending: Vec<_> =
            endpoint.pending.borrow().iter().map(|(&nsid, entry)| (nsid, entry.bdev_name.clone())).collect();
        for (nsid, bdev_name) in pending {
            added |= look_for(&endpoint, nsid, &bdev_name);
        }
    }
    if endpoint::all().iter().all(|endpoint| endpoint.pending.borrow().is_empty()) {
        end();
    }
    if added { Poll::Busy } else { Poll::Idle }
}

/// Looks for the bdev of a pending namespace. Returns whether it is one now.
fn look_for(endpoint: &Rc<Endpoint>, nsid: u32, bdev_name: &str) -> bool {
    let attached = bdev_client::exists(bdev_name).then(|| endpoint.attach(nsid, bdev_name));
    let mut pending = endpoint.pending.borrow_mut();
    if let Some(Ok(())) = attached {
        log::info!("controller '{}': bdev '{bdev_name}' is there as namespace {nsid}", endpoint.name());
        pending.remove(&nsid);
        return true;
    }
    if let Some(entry) = pending.get_mut(&nsid) {
        match attached {
            Some(Err(why)) => log_once(endpoint, nsid, entry, &why),
            _ => entry.clear_reason(),
        }
    }
    false
}
