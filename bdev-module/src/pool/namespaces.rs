//! A pool's namespaces and the bdevs that are made of them, and what is told of both.

use std::rc::Rc;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};
use spdk::Errno;
use spdk::bdev::Bdev;
use spdk::nvme::{Ctrlr, NamespaceInfo};

use super::{Pool, State};
use crate::disk::{Disk, Identity};
use crate::params::BdevParams;
use crate::registry;

/// Why a bdev could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BdevError {
    /// The pool has no such namespace.
    #[error("pool '{pool}' has no namespace {nsid}; it has {found}")]
    NoNamespace {
        /// The pool's name.
        pool: String,
        /// What was asked for.
        nsid: u32,
        /// What there is.
        found: String,
    },
    /// The namespace is a bdev already.
    #[error("namespace {nsid} of pool '{pool}' is bdev '{bdev}' already")]
    Taken {
        /// The pool's name.
        pool: String,
        /// The namespace.
        nsid: u32,
        /// The bdev that it is.
        bdev: String,
    },
    /// The pool is being deleted.
    #[error("pool '{pool}' is being deleted")]
    Deleting {
        /// The pool's name.
        pool: String,
    },
    /// The bdev layer did not take it.
    #[error(
        "bdev '{name}' could not be registered: {errno} (is there a bdev of that name, or of the namespace's UUID?)"
    )]
    Refused {
        /// The bdev's name.
        name: String,
        /// Why.
        errno: Errno,
    },
}

impl BdevError {
    /// The number for an RPC's answer.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self {
            Self::NoNamespace { .. } => Errno::NODEV,
            Self::Taken { .. } => Errno::EXIST,
            Self::Deleting { .. } => Errno::BUSY,
            Self::Refused { errno, .. } => *errno,
        }
    }
}

impl Pool {
    /// Brings the bdevs in line with the namespaces.
    pub(super) fn check_namespaces(&self) {
        let disks: Vec<_> = self.disks.borrow().values().cloned().collect();
        for disk in disks {
            let nsid = disk.device().nsid();
            let info = self.with_ctrlr(|ctrlr| ctrlr.namespace(nsid)).flatten();
            match info {
                Some(info) if Identity::of(&info) == *disk.device().identity() => {
                    if info.blocks != disk.blocks() {
                        log::info!("bdev '{}': now {} blocks", disk.device().name(), info.blocks);
                        if let Err(error) = disk.resize(info.blocks) {
                            log::warn!("bdev '{}' could not be resized: {error}", disk.device().name());
                        }
                    }
                }
                _ => {
                    log::warn!("bdev '{}': namespace {nsid} is gone; so is the bdev", disk.device().name());
                    // One that is being removed already is as good.
                    let _ = disk.unregister(|_| {});
                }
            }
        }
    }

    /// Makes a bdev of a namespace. If the pool is away, or the namespace is not there and need not be, it is made when the
    /// namespace is there.
    ///
    /// # Errors
    /// See [`BdevError`]; nothing is left behind.
    pub fn create_bdev(&self, params: &BdevParams) -> Result<(), BdevError> {
        let (pool, nsid) = (self.name().to_owned(), params.nsid);
        if self.is_deleting() {
            return Err(BdevError::Deleting { pool });
        }
        if let Some(bdev) = self.bdev_of(nsid) {
            return Err(BdevError::Taken { pool, nsid, bdev });
        }
        let taken = spdk::bdev_client::exists(&params.name) || find_pending(&params.name).is_some();
        if taken {
            return Err(BdevError::Refused { name: params.name.clone(), errno: Errno::EXIST });
        }
        if self.state.get() == State::Connected {
            match self.register_bdev(params) {
                Err(BdevError::NoNamespace { .. }) if !params.wait => {}
                outcome => return outcome,
            }
        }
        log::info!("bdev '{}' comes when namespace {nsid} of pool '{pool}' is there", params.name);
        self.pending.borrow_mut().insert(nsid, params.clone());
        Ok(())
    }

    fn register_bdev(&self, params: &BdevParams) -> Result<(), BdevError> {
        let (pool, nsid) = (self.name().to_owned(), params.nsid);
        let found = self.with_ctrlr(|ctrlr| ctrlr.namespace(nsid).map(|info| (ctrlr.limits(), info))).flatten();
        let Some((limits, info)) = found else {
            let found = self.with_ctrlr(Ctrlr::namespaces).unwrap_or_default();
            return Err(BdevError::NoNamespace { pool, nsid, found: list(&found) });
        };
        let disk = Disk::register(params, self.device.clone(), &limits, &info)
            .map_err(|errno| BdevError::Refused { name: params.name.clone(), errno })?;
        self.disks.borrow_mut().insert(nsid, disk);
        Ok(())
    }

    /// Makes those bdevs whose namespaces are there now.
    pub(super) fn make_pending_bdevs(&self) {
        if self.is_deleting() {
            return;
        }
        let pending: Vec<_> = self.pending.borrow().values().cloned().collect();
        for params in pending {
            match self.register_bdev(&params) {
                Ok(()) => {
                    log::info!("bdev '{}': namespace {} of pool '{}' is there", params.name, params.nsid, self.name());
                    self.pending.borrow_mut().remove(&params.nsid);
                }
                Err(BdevError::NoNamespace { .. }) => {}
                Err(error) => log::warn!("{error}"),
            }
        }
    }

    /// The name of the bdev that a namespace is, or will be.
    fn bdev_of(&self, nsid: u32) -> Option<String> {
        let made = self.disks.borrow().get(&nsid).map(|disk| disk.device().name().to_owned());
        made.or_else(|| self.pending.borrow().get(&nsid).map(|params| params.name.clone()))
    }

    /// The bdevs that are made when their namespace is there.
    #[must_use]
    pub fn pending_bdevs(&self) -> Vec<BdevParams> {
        self.pending.borrow().values().cloned().collect()
    }

    /// Gives up making a bdev.
    pub(crate) fn forget_pending(&self, nsid: u32) {
        self.pending.borrow_mut().remove(&nsid);
    }

    /// The bdev of that name, if it is one of this pool's.
    #[must_use]
    pub fn find_bdev(&self, name: &str) -> Option<Bdev<Disk>> {
        self.disks.borrow().values().find(|disk| disk.device().name() == name).cloned()
    }

    /// The bdev layer has let go of the bdev of namespace `nsid`.
    pub(crate) fn forget_disk(&self, nsid: u32) {
        let gone = self.disks.borrow().get(&nsid).is_some_and(|disk| !disk.is_registered());
        if gone {
            self.disks.borrow_mut().remove(&nsid);
        }
        if self.is_deleting() {
            self.delete_when_unused();
        }
    }

    /// What `courier_pool_get` tells of it.
    #[must_use]
    pub fn describe(&self) -> Value {
        let params = &self.params;
        let shared = self.shared();
        let namespaces: Vec<Value> = if self.state.get() == State::Connected {
            self.with_ctrlr(|ctrlr| {
                ctrlr
                    .namespaces()
                    .into_iter()
                    .filter_map(|nsid| ctrlr.namespace(nsid))
                    .map(|info| self.tell(&info))
                    .collect()
            })
            .unwrap_or_default()
        } else {
            Vec::new()
        };
        let pending: Vec<Value> =
            self.pending.borrow().values().map(|bdev| json!({ "nsid": bdev.nsid, "bdev": bdev.name })).collect();
        json!({
            "name": params.name,
            "state": self.state_name(),
            "subnqn": params.subnqn,
            "hostnqn": params.hostnqn,
            "paths": self.paths(),
            "namespaces": namespaces,
            "pending_bdevs": pending,
            "losses": shared.losses.load(Ordering::Relaxed),
            "held_ios": shared.held.load(Ordering::Relaxed),
            "resent_ios": shared.resent.load(Ordering::Relaxed),
        })
    }

    /// What `courier_get_stats` tells of it.
    #[must_use]
    pub fn stats(&self) -> Value {
        let shared = self.shared();
        json!({
            "name": self.params.name,
            "paths": self.paths(),
            "losses": shared.losses.load(Ordering::Relaxed),
            "held_ios": shared.held.load(Ordering::Relaxed),
            "resent_ios": shared.resent.load(Ordering::Relaxed),
        })
    }

    fn paths(&self) -> Value {
        let params = &self.params;
        json!([{
            "trtype": params.trtype,
            "traddr": params.traddr,
            "adrfam": params.adrfam,
            "trsvcid": params.trsvcid,
            "state": self.state_name(),
        }])
    }

    fn tell(&self, info: &NamespaceInfo) -> Value {
        json!({
            "nsid": info.nsid,
            "block_size": info.block_size,
            "num_blocks": info.blocks,
            "bdev": self.disks.borrow().get(&info.nsid).map(|disk| disk.device().name().to_owned()),
        })
    }
}

/// The bdev of that name that is made when its namespace is there, and its pool.
pub(crate) fn find_pending(name: &str) -> Option<(Rc<Pool>, BdevParams)> {
    registry::all().into_iter().find_map(|pool| {
        let params = pool.pending.borrow().values().find(|params| params.name == name).cloned()?;
        Some((pool, params))
    })
}

/// Numbers for people, of which only the first few are told.
fn list(numbers: &[u32]) -> String {
    const MOST: usize = 16;
    if numbers.is_empty() {
        return "none".to_owned();
    }
    let mut text: Vec<String> = numbers.iter().take(MOST).map(ToString::to_string).collect();
    if numbers.len() > MOST {
        text.push(format!("and {} more", numbers.len() - MOST));
    }
    text.join(", ")
}

#[cfg(test)]
mod tests {
    use super::list;

    #[test]
    fn namespaces_are_listed_up_to_a_point() {
        assert_eq!(list(&[]), "none");
        assert_eq!(list(&[1, 5]), "1, 5");
        assert!(list(&(1..=20).collect::<Vec<_>>()).ends_with("16, and 4 more"));
    }
}
