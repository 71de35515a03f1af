//! Namespaces whose bdev is not there yet: each is added when its bdev comes, on the application's thread.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use spdk::bdev_client;
use spdk::poller::{Poll, Poller};
use spdk::rpc::RpcError;
use spdk::thread::AppCell;

use super::endpoint::{self, Endpoint, PendingNamespace};
use super::params::failed;

/// How often it is looked for bdevs that are waited for. The bdev layer tells nobody of a new bdev who is not a bdev
/// module.
const PERIOD: Duration = Duration::from_millis(50);

static WATCH: AppCell<Option<Poller>> = AppCell::new(|| None);

/// Adds a bdev as a namespace of a controller, with the first identifier that is free if none is given. Returns the
/// identifier. If the bdev is not there and `wait` is false, the namespace comes when it is.
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
        return Err(endpoint.has_it_already(bdev_name, *other));
    }
    if !wait && !bdev_client::exists(bdev_name) {
        watch()?;
        endpoint.pending.borrow_mut().insert(nsid, PendingNamespace::new(bdev_name));
        return Ok(nsid);
    }
    endpoint.attach(nsid, bdev_name)?;
    Ok(nsid)
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
    let mut left = false;
    let mut added = false;
    for endpoint in endpoint::all() {
        let pending: Vec<_> =
            endpoint.pending.borrow().iter().map(|(&nsid, entry)| (nsid, entry.bdev_name.clone())).collect();
        for (nsid, bdev_name) in pending {
            if !bdev_client::exists(&bdev_name) {
                left = true;
                continue;
            }
            match endpoint.attach(nsid, &bdev_name) {
                Ok(()) => {
                    log::info!("controller '{}': bdev '{bdev_name}' is there as namespace {nsid}", endpoint.name());
                    endpoint.pending.borrow_mut().remove(&nsid);
                    added = true;
                }
                Err(error) => {
                    left = true;
                    if let Some(entry) = endpoint.pending.borrow_mut().get_mut(&nsid)
                        && !std::mem::replace(&mut entry.is_refused, true)
                    {
                        log::error!("controller '{}': namespace {nsid}: {error}", endpoint.name());
                    }
                }
            }
        }
    }
    if !left {
        end();
    }
    if added { Poll::Busy } else { Poll::Idle }
}
