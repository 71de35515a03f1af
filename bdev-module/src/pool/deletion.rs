//! How a pool, its bdevs, and what they hold go.

use std::time::Instant;

use spdk::nvme::Detach;

use super::{DELETION_LIMIT, Pool, State, fence};
use crate::channel::PoolChannel;
use crate::{addresses, attempts};

impl Pool {
    /// From now on no I/O is held for this pool, whatever becomes of it.
    pub(crate) fn hold_no_more(&self) {
        self.holds.set(false);
        self.fail_io();
        self.walk(PoolChannel::shorten_limit, |_| {});
    }

    pub(super) fn fail_io(&self) {
        self.shared().set_failing(true);
        self.end_resets(false);
        self.walk(PoolChannel::fail_waiting, |_| {});
    }

    /// The bdev of namespace `nsid` is about to be deleted: what is held for it fails, and what is in flight ends soon.
    pub(crate) fn let_go_of(&self, nsid: u32) {
        if let Some(disk) = self.disks.borrow().get(&nsid) {
            disk.device().set_removing();
            // A pool that lives may leave a command without an answer all the same.
            self.bdev_deletion_due.set(Some(Instant::now() + DELETION_LIMIT));
        }
        self.walk(PoolChannel::shorten_limit, |_| {});
        if self.shared().is_closed() {
            self.walk(PoolChannel::settle, |_| {});
        }
    }

    /// Deletes the pool and its bdevs: who uses them is told to let go, what waits fails. `done` is called when the
    /// pool is gone.
    pub(crate) fn delete(&self, done: impl FnOnce() + 'static) {
        let first = !self.is_deleting();
        self.deleted.borrow_mut().push(Box::new(done));
        if !first {
            return;
        }
        self.deletion_due.set(Some(Instant::now() + DELETION_LIMIT));
        self.hold_no_more();
        self.end_watch();
        let disks: Vec<_> = self.disks.borrow().values().cloned().collect();
        for disk in disks {
            disk.device().set_removing();
            // One that is being removed already comes to `forget_disk` as well.
            let _ = disk.unregister(|_| {});
        }
        self.delete_when_unused();
    }

    pub(super) fn delete_when_unused(&self) {
        if !self.disks.borrow().is_empty() {
            return;
        }
        match self.state.get() {
            State::Connected => self.close_queues(),
            State::Waiting(_) | State::Connecting | State::GivenUp => self.begin_detaching(),
            // The others come by here on their way.
            _ => {}
        }
    }

    pub(super) fn begin_detaching(&self) {
        if self.state.get() == State::Detaching || !self.disks.borrow().is_empty() {
            return;
        }
        self.due.set(Instant::now() + DELETION_LIMIT);
        self.enter(State::Detaching);
        self.shared().set_ctrlr(None);
        if let Some(attempt) = self.attempt.take() {
            attempts::cancel(attempt);
        }
        let me = self.me.clone();
        let unregistered = move || {
            if let Some(pool) = me.upgrade() {
                pool.unregistered.set(true);
            }
        };
        if let Err(error) = self.device.clone().unregister(unregistered) {
            log::error!("pool '{}': its I/O device could not be unregistered: {error}", self.name());
            self.unregistered.set(true);
        }
    }

    /// Detaches the controller once no queue pair refers to it any more.
    pub(super) fn go_on_detaching(&self, now: Instant) {
        if let Some(ctrlr) = self.ctrlr.take() {
            match ctrlr.detach() {
                Ok(detach) => drop(self.detach.replace(Some(detach))),
                Err(ctrlr) => {
                    self.ctrlr.replace(Some(ctrlr));
                    return;
                }
            }
        }
        if now >= self.due.get()
            && let Some(detach) = self.detach.borrow().as_ref()
        {
            detach.force();
        }
        let detached = self.detach.borrow_mut().as_mut().is_none_or(Detach::poll);
        if detached
            && self.unregistered.get()
            && let Some(me) = self.me.upgrade()
        {
            // A good-bye that was answered ends all commands.
            if let Some(until) =
                self.unfenced_until.get().filter(|_| self.lost_at.get().is_some() || now >= self.due.get())
            {
                fence::remember(&self.params.subnqn, until);
            }
            addresses::close(self.shared().address());
            if let Some(gone) = self.gone.take() {
                gone();
            }
            self.poller.take();
            for done in me.deleted.take() {
                done();
            }
        }
    }
}
