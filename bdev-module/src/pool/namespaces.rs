//! A pool's namespaces and the bdevs that are made of them, and what is told of both.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use spdk::Errno;
use spdk::bdev::Bdev;
use spdk::nvme::Ctrlr;
use spdk::thread::cores;

use super::namespace_scan::{NamespaceScan, ScanResult};
use super::watch::WatchedNamespace;
use super::{Pool, State};
use crate::channel::QueueState;
use crate::disk::{Disk, Identity};
use crate::identify::Namespace;
use crate::params::{BdevParams, PoolParams};
use crate::registered;

/// Why a bdev could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BdevError {
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
    /// The namespace cannot be served.
    #[error("namespace {nsid} of pool '{pool}' cannot be served: {reason}")]
    Unusable {
        /// The pool's name.
        pool: String,
        /// The namespace.
        nsid: u32,
        /// Why.
        reason: String,
    },
    /// The pool did not say what the namespace is.
    #[error("namespace {nsid} of pool '{pool}' could not be identified: {reason}")]
    Unknown {
        /// The pool's name.
        pool: String,
        /// The namespace.
        nsid: u32,
        /// What it said.
        reason: String,
    },
    /// Another pool of the subsystem has lost writes that may still be carried out.
    #[error(
        "namespace {nsid} of pool '{pool}' may still be written to by commands that another pool of its subsystem has \
         lost, after {} s of waiting; try again when that one is connected again, or without `wait`",
        waited.as_secs()
    )]
    Contested {
        /// The pool's name.
        pool: String,
        /// The namespace.
        nsid: u32,
        /// How long it was waited.
        waited: Duration,
    },
    /// The pool has fewer I/O queues than there are reactors that may want one.
    #[error("pool '{pool}' has {queues} I/O queues, and each of the {reactors} reactors needs one: {remedy}")]
    TooFewQueues {
        /// The pool's name.
        pool: String,
        /// What it was granted.
        queues: u32,
        /// Who may want one.
        reactors: u32,
        /// What would be right.
        remedy: &'static str,
    },
    /// It was deleted before it was there.
    #[error("bdev '{name}' was deleted before its pool had told what its namespace is")]
    CalledOff {
        /// The bdev's name.
        name: String,
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
    /// Returns the number for an RPC's answer.
    #[must_use]
    pub(crate) fn errno(&self) -> Errno {
        match self {
            Self::NoNamespace { .. } => Errno::NODEV,
            Self::Taken { .. } => Errno::EXIST,
            Self::Unusable { .. } => Errno::NOTSUP,
            Self::Unknown { .. } => Errno::IO,
            Self::Deleting { .. } | Self::Contested { .. } => Errno::BUSY,
            Self::TooFewQueues { .. } => Errno::NOSPC,
            Self::CalledOff { .. } => Errno::CANCELED,
            Self::Refused { errno, .. } => *errno,
        }
    }
}

impl Pool {
    pub(super) fn resize(disk: &Bdev<Disk>, blocks: u64) {
        if blocks == disk.blocks() {
            return;
        }
        log::info!("bdev '{}': now {blocks} blocks", disk.device().name());
        if let Err(error) = disk.resize(blocks) {
            log::warn!("bdev '{}' could not be resized: {error}", disk.device().name());
        }
    }

    /// Makes a bdev of a namespace, and tells `done` what came of it. If the pool is away, or the namespace is not
    /// there and need not be, the bdev is made when the namespace is there. `is_taken` tells whether its name is another
    /// bdev's.
    pub(crate) fn create_bdev(
        &self,
        params: &BdevParams,
        is_taken: bool,
        done: impl FnOnce(Result<(), BdevError>) + 'static,
    ) {
        let (pool, nsid) = (self.name().to_owned(), params.nsid);
        if self.is_deleting() {
            return done(Err(BdevError::Deleting { pool }));
        }
        if let Some(bdev) = self.bdev_of(nsid) {
            return done(Err(BdevError::Taken { pool, nsid, bdev }));
        }
        if is_taken {
            return done(Err(BdevError::Refused { name: params.name.clone(), errno: Errno::EXIST }));
        }
        let wanted = &self.watch.wanted;
        if self.state.get() == State::Connected {
            wanted.borrow_mut().insert(nsid, WatchedNamespace::new(params, Some(Box::new(done))));
            return self.look_soon();
        }
        log::info!("bdev '{}' comes when namespace {nsid} of pool '{pool}' is there", params.name);
        wanted.borrow_mut().insert(nsid, WatchedNamespace::new(params, None));
        done(Ok(()));
    }

    /// Without a queue of its own a reactor could serve no I/O, and the guests' queues that lie there would only fail.
    pub(super) fn check_queues(&self) -> Result<(), BdevError> {
        let queues = self.with_ctrlr(Ctrlr::io_queues).unwrap_or(0);
        let reactors = u32::try_from(cores().len()).unwrap_or(u32::MAX);
        if queues >= reactors {
            return Ok(());
        }
        let remedy = if self.params.num_io_queues.is_some_and(|most| most < reactors) {
            "give the pool a larger num_io_queues, or start with fewer cores (-m)"
        } else {
            "have the target allow a host more, or start with fewer cores (-m)"
        };
        Err(BdevError::TooFewQueues { pool: self.name().to_owned(), queues, reactors, remedy })
    }

    /// Makes the bdev of a namespace that was found.
    pub(super) fn register_bdev(
        &self,
        namespace: &Namespace,
        identity: &Identity,
        csi: Option<u8>,
    ) -> Result<(), BdevError> {
        self.check_queues()?;
        let nsid = namespace.nsid;
        let params = self.watch.wanted.borrow().get(&nsid).map(|wanted| wanted.params.clone());
        let (Some(params), Some(limits)) = (params, self.with_ctrlr(Ctrlr::limits)) else { return Ok(()) };
        let unfit = |reason| Err(BdevError::Unusable { pool: self.name().to_owned(), nsid, reason });
        if let Some(csi @ 1..) = csi {
            return unfit(format!("its command set is number {csi}; only the NVM command set, 0, is served"));
        }
        if limits.max_transfer < namespace.block_size {
            let (block, most) = (namespace.block_size, limits.max_transfer);
            return unfit(format!(
                "its blocks are of {block} bytes; the pool takes at most {most} in a command (MDTS)"
            ));
        }
        let disk = registered::module()
            .and_then(|module| Disk::register(module, &params, self.device.clone(), &limits, namespace, identity))
            .map_err(|errno| BdevError::Refused { name: params.name.clone(), errno })?;
        self.disks.borrow_mut().insert(nsid, disk);
        if let Some(wanted) = self.watch.wanted.borrow_mut().get_mut(&nsid) {
            wanted.identity = Some(identity.clone());
        }
        Ok(())
    }

    /// A bdev that is being waited for: tells what came of it.
    pub(super) fn try_creating(&self, nsid: u32, result: ScanResult) {
        let pool = self.name().to_owned();
        let outcome = match result {
            ScanResult::Found { namespace, descriptors } => {
                let identity = Identity::of(&namespace, descriptors.as_ref());
                let made = self.register_bdev(&namespace, &identity, descriptors.and_then(|names| names.csi));
                self.watch.known.borrow_mut().insert(nsid, namespace);
                made
            }
            ScanResult::Unusable(unfit) => Err(BdevError::Unusable { pool, nsid, reason: unfit.to_string() }),
            ScanResult::Gone => {
                let found = list(self.watch.scan.borrow().as_ref().map_or(&[], NamespaceScan::listed));
                Err(BdevError::NoNamespace { pool, nsid, found })
            }
            ScanResult::Unknown(reason) => Err(BdevError::Unknown { pool, nsid, reason }),
        };
        self.created(nsid, outcome);
    }

    /// Tells who waits for a bdev what came of it. One that may come later stays wanted.
    pub(super) fn created(&self, nsid: u32, outcome: Result<(), BdevError>) {
        let mut all = self.watch.wanted.borrow_mut();
        let Some(wanted) = all.get_mut(&nsid) else { return };
        let Some(created) = wanted.created.take() else { return };
        let may_come = matches!(
            outcome,
            Err(BdevError::NoNamespace { .. }
                | BdevError::Unknown { .. }
                | BdevError::Contested { .. }
                | BdevError::TooFewQueues { .. })
        );
        let outcome = match outcome {
            Err(_) if may_come && !wanted.params.wait => Ok(()),
            Err(error) => {
                all.remove(&nsid);
                Err(error)
            }
            Ok(()) => Ok(()),
        };
        drop(all);
        created(outcome);
    }

    /// Nothing will be found out about bdevs that are being waited for.
    pub(super) fn fail_created(&self, reason: &str) {
        let waiting: Vec<u32> = {
            let all = self.watch.wanted.borrow();
            all.iter().filter(|(_, wanted)| wanted.created.is_some()).map(|(&nsid, _)| nsid).collect()
        };
        for nsid in waiting {
            let (pool, reason) = (self.name().to_owned(), reason.to_owned());
            self.created(nsid, Err(BdevError::Unknown { pool, nsid, reason }));
        }
    }

    /// Returns the name of the bdev that a namespace is, or will be.
    fn bdev_of(&self, nsid: u32) -> Option<String> {
        let made = self.disks.borrow().get(&nsid).map(|disk| disk.device().name().to_owned());
        made.or_else(|| self.watch.wanted.borrow().get(&nsid).map(|wanted| wanted.params.name.clone()))
    }

    /// Returns the bdevs that are made when their namespace is there.
    #[must_use]
    pub(crate) fn pending_bdevs(&self) -> Vec<BdevParams> {
        let disks = self.disks.borrow();
        let all = self.watch.wanted.borrow();
        all.iter().filter(|(nsid, _)| !disks.contains_key(nsid)).map(|(_, wanted)| wanted.params.clone()).collect()
    }

    /// Gives up making a bdev of a namespace, now or again.
    pub(crate) fn forget_wanted(&self, nsid: u32) {
        let wanted = self.watch.wanted.borrow_mut().remove(&nsid);
        if let Some(WatchedNamespace { params, created: Some(created), .. }) = wanted {
            created(Err(BdevError::CalledOff { name: params.name }));
        }
    }

    /// Returns the bdev of that name, if it is one of this pool's.
    #[must_use]
    pub(crate) fn find_bdev(&self, name: &str) -> Option<Bdev<Disk>> {
        self.disks.borrow().values().find(|disk| disk.device().name() == name).cloned()
    }

    /// The bdev layer has let go of the bdev of namespace `nsid`.
    pub(crate) fn forget_disk(&self, nsid: u32) {
        let gone = self.disks.borrow().get(&nsid).is_some_and(|disk| !disk.is_registered());
        if gone {
            self.disks.borrow_mut().remove(&nsid);
            self.namespace_left(nsid);
        }
        if self.is_deleting() {
            self.delete_when_unused();
        }
    }

    /// Returns what `courier_pool_get` tells of it.
    #[must_use]
    pub(crate) fn describe(&self) -> Value {
        let params = &self.params;
        let shared = self.shared();
        let namespaces: Vec<Value> = if self.state.get() == State::Connected {
            self.watch.known.borrow().values().map(|namespace| self.tell(namespace)).collect()
        } else {
            Vec::new()
        };
        let (queue_pairs, unanswered) = tell_queues(&shared.queues(), Instant::now());
        json!({
            "name": params.name,
            "state": self.state_name(),
            "last_error": *self.last_error.borrow(),
            "subnqn": params.subnqn,
            "hostnqn": params.hostnqn,
            "paths": self.paths(),
            // While the pool is away it has granted none, and SPDK tells what it is asked for.
            "io_queues": (self.state.get() == State::Connected).then(|| self.with_ctrlr(Ctrlr::io_queues)),
            "queue_pairs": queue_pairs,
            "unanswered_cores": unanswered,
            "namespaces": namespaces,
            "pending_bdevs": self.tell_pending(),
            "losses": shared.losses.load(Ordering::Relaxed),
            "held_ios": shared.held.load(Ordering::Relaxed),
            "resent_ios": shared.resent.load(Ordering::Relaxed),
        })
    }

    fn tell_pending(&self) -> Vec<Value> {
        let (disks, all) = (self.disks.borrow(), self.watch.wanted.borrow());
        let pending = all.iter().filter(|(nsid, _)| !disks.contains_key(nsid));
        let tell = |(nsid, wanted): (&u32, &WatchedNamespace)| {
            let name = &wanted.params.name;
            // There is no I/O of one that is not there.
            let said = wanted.said.trim_end_matches("; its I/O is held");
            let is_taken = spdk::bdev_client::exists(name);
            let reason = Some(said.to_owned()).filter(|said| !said.is_empty());
            let reason = reason.or_else(|| is_taken.then(|| format!("there is another bdev '{name}'")));
            json!({ "nsid": nsid, "bdev": name, "reason": reason })
        };
        pending.map(tell).collect()
    }

    /// Returns what `courier_get_stats` tells of it.
    #[must_use]
    pub(crate) fn stats(&self) -> Value {
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
        json!([describe_path(&self.params, self.state_name())])
    }

    fn tell(&self, namespace: &Namespace) -> Value {
        let mut told = json!({
            "nsid": namespace.nsid,
            "block_size": namespace.block_size,
            "num_blocks": namespace.blocks,
            "bdev": self.disks.borrow().get(&namespace.nsid).map(|disk| disk.device().name().to_owned()),
        });
        if let Some(state) = self.watch.ana.borrow().state(namespace.ana_group) {
            told["ana_state"] = json!(state.as_str());
        }
        told
    }
}

/// Returns what is told of the way to a pool.
pub(crate) fn describe_path(params: &PoolParams, state: &str) -> Value {
    json!({
        "trtype": params.trtype,
        "traddr": params.traddr,
        "adrfam": params.adrfam,
        "trsvcid": params.trsvcid,
        "state": state,
    })
}

/// A reactor that has told nothing of its queue pair for so long hangs, or is far too busy.
const LATE: Duration = Duration::from_secs(1);

/// Returns what the reactors told of their queue pairs, and the cores of those that have not done so for long.
fn tell_queues(queues: &[QueueState], now: Instant) -> (Vec<Value>, BTreeSet<u32>) {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let since = |at: Instant| now.saturating_duration_since(at);
    let tell = |queue: &QueueState| {
        json!({
            "core": queue.core,
            "state": queue.state,
            "commands_outstanding": queue.outstanding,
            "ios_waiting": queue.waiting,
            "oldest_age_ms": queue.oldest.map(|oldest| millis(oldest.saturating_add(since(queue.told)))),
            "last_answer_age_ms": queue.answered.map(|at| millis(since(at))),
            "told_ms_ago": millis(since(queue.told)),
        })
    };
    let late = queues.iter().filter(|queue| since(queue.told) >= LATE);
    (queues.iter().map(tell).collect(), late.filter_map(|queue| queue.core).collect())
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
    use super::*;

    #[test]
    fn a_reactor_that_has_told_nothing_for_a_second_is_named_and_what_it_held_gets_older() {
        let start = Instant::now();
        let queue = QueueState {
            core: Some(3),
            state: "connected",
            outstanding: 2,
            waiting: 1,
            oldest: Some(Duration::from_millis(200)),
            answered: Some(start),
            told: start,
        };
        let (told, late) = tell_queues(&[queue], start + Duration::from_millis(50));
        let expected = json!({
            "core": 3, "state": "connected", "commands_outstanding": 2, "ios_waiting": 1, "oldest_age_ms": 250,
            "last_answer_age_ms": 50, "told_ms_ago": 50,
        });
        assert_eq!((told, late), (vec![expected], BTreeSet::new()));
        let (told, late) = tell_queues(&[queue], start + LATE);
        assert_eq!(
            (told.first().map(|told| told["oldest_age_ms"].clone()), late),
            (Some(json!(1200)), BTreeSet::from([3]))
        );
        let idle = QueueState { outstanding: 0, waiting: 0, oldest: None, answered: None, ..queue };
        let (told, _) = tell_queues(&[idle], start);
        let told = told.first().expect("one queue pair");
        assert_eq!((&told["oldest_age_ms"], &told["last_answer_age_ms"]), (&Value::Null, &Value::Null));
    }

    #[test]
    fn namespaces_are_listed_up_to_a_point() {
        assert_eq!(list(&[]), "none");
        assert_eq!(list(&[1, 5]), "1, 5");
        assert!(list(&(1..=20).collect::<Vec<_>>()).ends_with("16, and 4 more"));
    }
}
