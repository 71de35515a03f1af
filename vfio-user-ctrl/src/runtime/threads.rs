//! The threads that all controllers share: the control thread and the poll groups.

use std::cell::RefCell;
use std::sync::Arc;

use spdk::Errno;
use spdk::bdev_client;
use spdk::mailbox::{AppThread, Mailbox};
use spdk::rpc::RpcError;
use spdk::thread::{AppCell, cores};

use super::budget::Budget;
use super::control::Control;
use super::inbox;
use super::messages::{AppMessage, GroupHandle, GroupMessage};
use super::params::failed;

/// What all controllers share, from the first one on.
pub(super) struct Runtime {
    pub(super) control: Control,
    pub(super) groups: Vec<Arc<GroupHandle>>,
    pub(super) next_ctrl: u64,
}

static RUNTIME: AppCell<Option<Runtime>> = AppCell::new(|| None);

/// Who waits for the end of all poll groups.
struct Ending {
    /// How many there still are.
    groups: usize,
    done: Box<dyn FnOnce()>,
}

static ENDING: AppCell<Option<Ending>> = AppCell::new(|| None);

/// Ends the control thread and all poll groups, then calls `done`: the application's threads must take messages until
/// then.
pub(super) fn end_threads(done: Box<dyn FnOnce()>) {
    let Some(runtime) = RUNTIME.with(RefCell::take) else { return done() };
    ENDING.with(|ending| ending.replace(Some(Ending { groups: runtime.groups.len(), done })));
    runtime.end();
}

/// A poll group has ended, and its thread has been told to exit.
pub(super) fn group_has_ended() {
    let ending = ENDING.with(|ending| {
        let mut ending = ending.borrow_mut();
        let left = ending.as_mut()?;
        left.groups -= 1;
        (left.groups == 0).then(|| ending.take()).flatten()
    });
    if let Some(ending) = ending {
        (ending.done)();
    }
}

/// Starts what all controllers share, if that has not been done; `act` is what messages to this thread have done.
pub(super) fn start_runtime(act: fn(AppMessage)) -> Result<(), RpcError> {
    RUNTIME.with(|runtime| {
        let mut runtime = runtime.borrow_mut();
        if runtime.is_none() {
            *runtime = Some(Runtime::start(act)?);
        }
        Ok(())
    })
}

/// Calls `f` with what all controllers share.
pub(super) fn with_runtime<R>(f: impl FnOnce(&mut Runtime) -> R) -> Result<R, RpcError> {
    RUNTIME.with(|runtime| {
        runtime.borrow_mut().as_mut().map(f).ok_or_else(|| failed(Errno::NXIO, "the controllers are not running"))
    })
}

impl Runtime {
    fn start(act: fn(AppMessage)) -> Result<Self, RpcError> {
        let app = Mailbox::new(act, AppThread);
        let control = Control::start()
            .map_err(|error| failed(Errno::NOMEM, format!("the control thread could not be started: {error}")))?;
        let cores = cores();
        let share = Budget::share(bdev_client::io_pool_size(), cores.len());
        let mut runtime = Self { control, groups: Vec::new(), next_ctrl: 1 };
        for core in cores {
            match inbox::start(core, share, &app) {
                Ok(group) => runtime.groups.push(group),
                Err(errno) => {
                    runtime.end();
                    return Err(failed(errno, format!("the poll group of core {core} could not be started: {errno}")));
                }
            }
        }
        Ok(runtime)
    }

    /// Ends the control thread, and has the poll groups end, each of which tells when it has.
    fn end(self) {
        self.control.end();
        for group in &self.groups {
            group.send(GroupMessage::Stop);
        }
    }
}
