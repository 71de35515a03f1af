//! What all clients have together, and may not use up for one another.
#![expect(unsafe_code, reason = "the limit of open files is asked for")]

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// A limit that all clients share. Each may have as much as is left when it has it: one alone half of all, two a third
/// each, and so on. So there is something for whoever comes, without anybody knowing who will.
#[derive(Debug)]
pub(crate) struct SharedLimit {
    limit: u64,
    used: AtomicU64,
}

impl SharedLimit {
    /// Returns a budget of so many.
    #[must_use]
    pub(crate) const fn new(limit: u64) -> Self {
        Self { limit, used: AtomicU64::new(0) }
    }

    /// Returns the mappings of clients' files that this process may have, each of which may hold its file open.
    fn of_mappings() -> &'static Self {
        static MAPPINGS: OnceLock<SharedLimit> = OnceLock::new();
        MAPPINGS.get_or_init(|| {
            let maps = fs::read_to_string("/proc/sys/vm/max_map_count").ok().and_then(|text| text.trim().parse().ok());
            // A quarter of each is for what is not counted here.
            Self::new(open_files().min(maps.unwrap_or(65530)) / 4 * 3)
        })
    }
}

/// Returns how many open files this process may have.
fn open_files() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` has room for what is told.
    match unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } {
        0 => limit.rlim_cur,
        _ => 1024,
    }
}

/// A client's share of a budget.
#[derive(Debug, Clone)]
pub struct LimitShare {
    /// `None` for what is not counted.
    budget: Option<&'static SharedLimit>,
    used: Arc<AtomicU64>,
}

impl LimitShare {
    /// Returns a share of a budget, of which the client has nothing yet.
    #[must_use]
    pub(crate) fn of(budget: &'static SharedLimit) -> Self {
        Self { budget: Some(budget), used: Arc::default() }
    }

    /// Returns a client's share of the mappings.
    #[must_use]
    pub fn of_mappings() -> Self {
        Self::of(SharedLimit::of_mappings())
    }

    /// For what no client is to blame for.
    pub(super) fn of_nobody() -> Self {
        Self { budget: None, used: Arc::default() }
    }

    /// Takes one, if the client has less than what is left for all.
    #[must_use]
    pub(crate) fn take(&self) -> Option<LimitPermit> {
        if let Some(budget) = self.budget {
            let own = self.used.load(Ordering::Relaxed);
            let more = |used: u64| (own < budget.limit.saturating_sub(used)).then_some(used + 1);
            budget.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        }
        self.used.fetch_add(1, Ordering::Relaxed);
        Some(LimitPermit(self.clone()))
    }
}

/// One of a budget, until this is dropped.
#[derive(Debug)]
pub(crate) struct LimitPermit(LimitShare);

impl Drop for LimitPermit {
    fn drop(&mut self) {
        self.0.used.fetch_sub(1, Ordering::Relaxed);
        if let Some(budget) = self.0.budget {
            budget.used.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take_all(share: &LimitShare) -> Vec<LimitPermit> {
        std::iter::from_fn(|| share.take()).collect()
    }

    #[test]
    fn one_client_leaves_as_much_as_it_has_and_so_do_many() {
        static BUDGET: SharedLimit = SharedLimit::new(1000);
        let (first, second, third) = (LimitShare::of(&BUDGET), LimitShare::of(&BUDGET), LimitShare::of(&BUDGET));
        let all = take_all(&first);
        assert_eq!(all.len(), 500);
        let some = take_all(&second);
        assert_eq!((some.len(), take_all(&third).len()), (250, 125));
        drop(all);
        assert_eq!(some.len() + take_all(&second).len(), 500);
        drop(some);
        assert_eq!(BUDGET.used.load(Ordering::Relaxed), 0);
    }
}
