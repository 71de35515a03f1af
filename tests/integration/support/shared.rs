//! The pool and the `courier_tgt` that most tests share.

use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::app::{App, Program};
use super::arena;
use super::pool::Pool;

/// A share of something that other tests use, too. If the test fails, the log is shown.
pub(crate) struct Shared<T: HasApp>(Arc<T>);

/// Something that is an application.
pub(crate) trait HasApp {
    fn app(&self) -> &App;
}

impl HasApp for App {
    fn app(&self) -> &App {
        self
    }
}

impl HasApp for Pool {
    fn app(&self) -> &App {
        &self.app
    }
}

impl<T: HasApp> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: HasApp> Drop for Shared<T> {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.0.app().process.tail());
        }
    }
}

/// Returns what is there, if it still runs, or else a new one.
fn share<T: HasApp>(slot: &Mutex<Option<Arc<T>>>, start: impl FnOnce() -> T) -> Shared<T> {
    let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
    let live = slot.take().filter(|shared| shared.app().process.status().is_none());
    let shared = live.unwrap_or_else(|| Arc::new(start()));
    *slot = Some(Arc::clone(&shared));
    Shared(shared)
}

/// Returns a pool as [`Pool::malloc`] makes it.
pub(crate) fn pool() -> Shared<Pool> {
    static POOL: Mutex<Option<Arc<Pool>>> = Mutex::new(None);
    arena::rest();
    share(&POOL, Pool::malloc)
}

static COURIER: Mutex<Option<Arc<App>>> = Mutex::new(None);

/// Ends the `courier_tgt` that is shared, until it is wanted again: a reactor takes a core whether it works or not, and
/// there may be two.
pub(crate) fn rest() {
    drop(COURIER.lock().unwrap_or_else(PoisonError::into_inner).take());
}

/// Returns a `courier_tgt`, without pools: a test leaves none.
pub(crate) fn courier() -> Shared<App> {
    arena::rest();
    let courier = share(&COURIER, || App::start(Program::Courier, "0x2", &[]));
    clear(&courier);
    courier
}

/// Deletes what a test that failed has left.
fn clear(app: &App) {
    let pools = app.rpc.ok("courier_pool_get", &serde_json::Value::Null);
    for pool in pools.as_array().into_iter().flatten() {
        app.rpc.ok("courier_pool_delete", &serde_json::json!({ "name": pool["name"] }));
    }
}
