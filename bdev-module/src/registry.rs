//! The pools by name, on the application's thread.

use std::collections::BTreeMap;
use std::rc::Rc;

use serde_json::Value;
use spdk::thread::AppCell;

use crate::params::BdevParams;
use crate::pool::Pool;

static POOLS: AppCell<BTreeMap<String, Rc<Pool>>> = AppCell::new(BTreeMap::new);

/// Returns the pool of that name.
#[must_use]
pub(crate) fn find(name: &str) -> Option<Rc<Pool>> {
    POOLS.with(|pools| pools.borrow().get(name).cloned())
}

/// Returns the counters of all pools, by name.
#[must_use]
pub fn stats() -> Vec<Value> {
    all().iter().map(|pool| pool.stats()).collect()
}

/// Returns all pools, by name.
#[must_use]
pub(crate) fn all() -> Vec<Rc<Pool>> {
    POOLS.with(|pools| pools.borrow().values().cloned().collect())
}

/// Takes a pool up, until it is gone.
pub(crate) fn insert(pool: &Rc<Pool>) {
    let name = pool.name().to_owned();
    pool.on_gone(move || drop(POOLS.with(|pools| pools.borrow_mut().remove(&name))));
    POOLS.with(|pools| pools.borrow_mut().insert(pool.name().to_owned(), Rc::clone(pool)));
}

/// Returns the bdev of that name that is made when its namespace is there, and its pool.
pub(crate) fn find_pending(name: &str) -> Option<(Rc<Pool>, BdevParams)> {
    all().into_iter().find_map(|pool| {
        let params = pool.pending_bdevs().into_iter().find(|params| params.name == name)?;
        Some((pool, params))
    })
}

/// Deletes every pool, then calls `done`.
pub(crate) fn delete_all(done: impl FnOnce() + 'static) {
    /// Calls `done` when the last pool lets go of it.
    struct OnLastPool<F: FnOnce()>(Option<F>);
    impl<F: FnOnce()> Drop for OnLastPool<F> {
        fn drop(&mut self) {
            if let Some(done) = self.0.take() {
                done();
            }
        }
    }
    let last = Rc::new(OnLastPool(Some(done)));
    for pool in all() {
        let last = Rc::clone(&last);
        pool.delete(move || drop(last));
    }
}
