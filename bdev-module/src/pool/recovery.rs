//! How a pool's connection is given up, and made anew.

use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use spdk::Errno;
use spdk::io_device::Advance;
use spdk::nvme::{Connect, Ctrlr};

use super::fence::{self, DEFAULT_KEEP_ALIVE, Fence, LostWrites, Outcome};
use super::{DELETION_LIMIT, Pool, RESET_LIMIT, State};
use crate::attempts;
use crate::channel::PoolChannel;
use crate::disk::Disk;
use crate::registry;

impl Pool {
    /// The connection was lost, because the other side ended it or otherwise: I/O is held, and the pool is connected
    /// again.
    pub(crate) fn connection_lost(&self, reason: &str, by_peer: bool) {
        if self.state.get() != State::Connected {
            // In `OpeningQueues` its reactor may have been passed already, and would hold its I/O for ever.
            self.lost_meanwhile.set(true);
            return;
        }
        log::warn!("pool '{}': connection to {} lost: {reason}", self.name(), self.params.target());
        let now = Instant::now();
        let delay = self.reconnect_delay();
        if self.connected_at.take().is_some_and(|at| now.duration_since(at) < delay) {
            // The connection has achieved nothing: the outage goes on.
            self.lost_at.set(self.outage.get().or(Some(now)));
            self.wait.set(true);
        } else {
            self.lost_at.set(Some(now));
        }
        self.drop_connection(by_peer);
    }

    /// A reactor's queue pair was dropped although the pool answers. Such a connection has not failed, however short it
    /// was: a guest that resets its controller again and again does not have the pool given up.
    pub(crate) fn queue_stuck(&self) {
        if self.state.get() != State::Connected {
            self.lost_meanwhile.set(true);
            return;
        }
        log::warn!(
            "pool '{}': connected anew: it neither carries out nor aborts a command that has to end",
            self.name()
        );
        self.lost_at.set(Some(Instant::now()));
        self.drop_connection(false);
    }

    fn drop_connection(&self, by_peer: bool) {
        self.shared().set_grace(by_peer);
        self.fail_created("the connection was lost");
        self.close_queues();
    }

    /// A reactor's queue pair has been refused for a while. Those that stand are used as before, and it is asked for
    /// again; without any the pool is connected anew.
    pub(crate) fn queue_refused(&self) {
        const REASON: &str = "an I/O queue is refused again and again";
        if self.state.get() != State::Connected {
            return;
        }
        if self.shared().queues().iter().any(|queue| queue.state == "connected") {
            self.note_error(format!("{REASON}; the I/O of its reactor waits for it"));
        } else {
            self.connection_lost(REASON, false);
        }
    }

    /// A queue pair that was refused for a while is there.
    pub(crate) fn queue_granted(&self) {
        self.last_error.take();
    }

    fn reconnect_delay(&self) -> Duration {
        Duration::from_secs(u64::from(self.params.reconnect_delay_sec))
    }

    /// Ends the I/O of namespace `nsid` that is in flight, by connecting the pool anew if it is connected; that of
    /// others is sent again. `done` is told whether that worked.
    pub(crate) fn reset(&self, nsid: u32, done: impl FnOnce(bool) + 'static) {
        if self.is_deleting() || self.state.get() == State::GivenUp {
            return done(false);
        }
        if let Some(disk) = self.disks.borrow().get(&nsid) {
            disk.device().set_resetting(true);
        }
        self.resets.borrow_mut().push((nsid, Box::new(done)));
        match self.state.get() {
            State::Connected => {
                log::info!("pool '{}': connection reset for namespace {nsid}", self.name());
                self.shared().set_grace(false);
                self.close_queues();
            }
            // It has its turn when they are open.
            State::OpeningQueues => self.reset_again.set(true),
            // What is lost until all are closed has its end then.
            State::ClosingQueues => {
                if self.shared().is_closed() {
                    self.walk(PoolChannel::settle, |_| {});
                }
            }
            // There is nothing but what is held.
            _ => self.walk(PoolChannel::settle, |pool| pool.end_resets(true)),
        }
    }

    pub(super) fn end_resets(&self, success: bool) {
        for (nsid, done) in self.resets.take() {
            if let Some(disk) = self.disks.borrow().get(&nsid) {
                disk.device().set_resetting(false);
            }
            done(success);
        }
    }

    /// Has every reactor stop sending, then disconnect its queue, then end what is not to be sent again.
    pub(super) fn close_queues(&self) {
        self.shared().losses.fetch_add(1, Ordering::Relaxed);
        self.shared().set_ctrlr(None);
        self.enter(State::ClosingQueues);
        self.walk(PoolChannel::stop, |pool| {
            pool.shared().set_closed(true);
            pool.walk(PoolChannel::disconnect, |pool| pool.walk(PoolChannel::settle, Self::queues_closed));
        });
    }

    /// Takes `step` on every channel, then goes on.
    pub(super) fn walk(&self, step: fn(&PoolChannel<Disk>, Advance), then: impl FnOnce(&Self) + 'static) {
        let me = self.me.clone();
        let walked = move |_| {
            if let Some(pool) = me.upgrade() {
                then(&pool);
            }
        };
        if let Err(error) = self.device.for_each_channel(step, walked) {
            log::error!("pool '{}': its channels could not be reached: {error}", self.name());
        }
    }

    fn queues_closed(&self) {
        self.reset_due.set(Instant::now() + RESET_LIMIT);
        self.lost_writes.set(self.lost_writes.get().max(self.shared().take_lost_writes()));
        if self.is_deleting() {
            let lost = self.lost_writes.get();
            let is_over =
                lost == LostWrites::None || lost == LostWrites::EndedByPeer && self.was_admin_queue_ended_by_peer();
            if !is_over {
                self.unfenced_until.set(Some(Instant::now() + DELETION_LIMIT + self.keep_alive() * 2));
            }
            if self.lost_at.get().is_none() {
                // The controller is there, and is told good-bye.
                self.begin_detaching();
            } else {
                self.disconnect();
            }
        } else if self.lost_writes.get() == LostWrites::None {
            self.disconnect();
        } else {
            let patience = self.keep_alive();
            self.fence.replace(Some(Fence::new(Instant::now(), patience)));
            self.enter(State::Fencing);
        }
    }

    /// Returns the keep-alive time-out of the controller, or what counts instead.
    pub(super) fn keep_alive(&self) -> Duration {
        self.with_ctrlr(Ctrlr::keep_alive_timeout).filter(|time| !time.is_zero()).unwrap_or(DEFAULT_KEEP_ALIVE)
    }

    /// Returns whether the connection of the admin queue has ended, by what the other side did.
    fn was_admin_queue_ended_by_peer(&self) -> bool {
        // A command that could not be written has failed before it shows that the connection has ended.
        (0..3).any(|_| self.poll_admin().is_err()) && self.with_ctrlr(Ctrlr::was_ended_by_peer) == Some(true)
    }

    /// Returns whether commands that it has lost may still be carried out.
    fn is_unfenced(&self) -> bool {
        matches!(self.state.get(), State::ClosingQueues | State::Fencing)
            || self.lost_writes.get() != LostWrites::None
            || self.unfenced_until.get().is_some_and(|until| until > Instant::now())
    }

    /// Returns whether commands that another pool of the subsystem has lost, or one that is gone, may still be carried
    /// out. Until they cannot, no bdev is made here: it may be of a namespace that they write to.
    pub(super) fn is_contested(&self) -> bool {
        let subnqn = &self.params.subnqn;
        let is_other = |pool: &Rc<Self>| pool.params.subnqn == *subnqn && pool.name() != self.name();
        fence::unfenced_until(subnqn).is_some()
            || registry::all().iter().filter(|pool| is_other(pool)).any(|pool| pool.is_unfenced())
    }

    pub(super) fn go_on_fencing(&self, now: Instant) {
        let alive = self.poll_admin().is_ok();
        let outcome = self.with_ctrlr(|ctrlr| match self.fence.borrow_mut().as_mut() {
            Some(fence) if alive && !self.is_deleting() => fence.poll(ctrlr, now),
            _ => Outcome::Failed,
        });
        let outcome = outcome.unwrap_or(Outcome::Failed);
        if outcome == Outcome::Pending {
            return;
        }
        self.fence.take();
        let lost_writes = self.lost_writes.replace(LostWrites::None);
        let by_peer = outcome == Outcome::Failed && self.was_admin_queue_ended_by_peer();
        if outcome == Outcome::Failed && !(by_peer && lost_writes == LostWrites::EndedByPeer) {
            let wait = self.keep_alive() * 2;
            log::warn!(
                "pool '{}': its controller could not be disabled; what was lost counts as over in {:.1} s",
                self.name(),
                wait.as_secs_f64()
            );
            self.unfenced_until.set(Some(now + wait));
        }
        self.disconnect();
    }

    pub(super) fn disconnect(&self) {
        self.enter(State::Disconnecting);
        if let Some(Err(error)) = self.with_ctrlr(Ctrlr::disconnect) {
            log::warn!("pool '{}': disconnecting: {error}", self.name());
            self.disconnected();
        }
    }

    /// The admin queue is gone: connect at once, or later if this follows a failed attempt.
    pub(super) fn disconnected(&self) {
        let now = Instant::now();
        if self.is_deleting() {
            self.begin_detaching();
        } else if self.is_given_up(now) {
            self.give_up();
        } else if self.wait.take() {
            self.enter(State::Waiting(now + self.reconnect_delay()));
        } else {
            self.reconnect();
        }
    }

    pub(super) fn reconnect(&self) {
        if self.is_deleting() {
            return self.begin_detaching();
        }
        self.due.set(Instant::now() + self.params.connect_limit());
        if self.with_ctrlr(Ctrlr::reconnect).is_some() {
            return self.enter(State::Reconnecting);
        }
        match self.params.connect() {
            Ok(attempt) => {
                self.attempt.replace(Some(attempt));
                self.enter(State::Connecting);
            }
            Err(error) => {
                self.note_error(error.to_string());
                self.attempt_failed();
                self.disconnected();
            }
        }
    }

    pub(super) fn go_on_connecting(&self, now: Instant) {
        if self.is_deleting() {
            return self.begin_detaching();
        }
        let outcome = self.attempt.borrow_mut().as_mut().and_then(Connect::poll);
        match outcome {
            Some(Ok(ctrlr)) => {
                self.attempt.take();
                self.ctrlr.replace(Some(ctrlr));
                self.response_timer.borrow_mut().restart(now);
                self.enter(State::Settling);
                self.go_on_settling(now);
            }
            None if now < self.due.get() && !self.is_given_up(now) => {}
            outcome => {
                let error =
                    outcome.and_then(Result::err).map_or_else(|| "no answer in time".to_owned(), |e| e.to_string());
                self.note_error(error);
                if let Some(attempt) = self.attempt.take() {
                    attempts::cancel(attempt);
                }
                self.attempt_failed();
                self.disconnected();
            }
        }
    }

    pub(super) fn go_on_reconnecting(&self, now: Instant) {
        if self.is_deleting() || self.is_given_up(now) || now >= self.due.get() {
            // The attempt ends, and the next poll says so.
            self.with_ctrlr(Ctrlr::fail);
        }
        match self.with_ctrlr(Ctrlr::reconnect_poll).flatten() {
            None => {}
            Some(Ok(())) => {
                self.response_timer.borrow_mut().restart(now);
                self.enter(State::Settling);
                self.go_on_settling(now);
            }
            Some(Err(_)) => {
                self.note_error("it could not be reached, or did not let this host in".to_owned());
                self.attempt_failed();
                self.disconnect();
            }
        }
    }

    pub(super) fn go_on_settling(&self, now: Instant) {
        if self.is_deleting() || self.is_given_up(now) || self.poll_admin_lost(now) {
            self.attempt_failed();
            self.disconnect();
        } else if self.unfenced_until.get().is_none_or(|until| now >= until) {
            self.unfenced_until.set(None);
            self.open_queues();
        }
    }

    /// Keeps the reason why an attempt to connect failed, and logs it if it is another one than before.
    fn note_error(&self, error: String) {
        let error = self.params.foreign_hostaddr().unwrap_or(error);
        if self.last_error.borrow().as_ref() != Some(&error) {
            log::warn!("pool '{}' at {}: {error}", self.name(), self.params.target());
            self.last_error.replace(Some(error));
        }
    }

    fn attempt_failed(&self) {
        self.lost_at.set(self.lost_at.get().or_else(|| Some(Instant::now())));
        self.wait.set(true);
        self.tried.set(true);
        self.end_resets(true);
    }

    fn open_queues(&self) {
        self.begin_watch();
        self.lost_meanwhile.set(false);
        self.response_timer.borrow_mut().restart(Instant::now());
        self.opening.set(true);
        self.enter(State::OpeningQueues);
        let Some(ctrlr) = self.with_ctrlr(|ctrlr| ctrlr.shared().clone()) else { return };
        self.shared().set_closed(false);
        self.shared().set_ctrlr(Some(ctrlr.clone()));
        let me = self.me.clone();
        let opened = move |result: Result<(), Errno>| {
            let Some(pool) = me.upgrade() else { return };
            match result {
                Ok(()) => pool.connected_again(),
                Err(error) => {
                    let few = pool.check_queues().err().map(|few| few.to_string());
                    pool.note_error(few.unwrap_or_else(|| format!("its queues could not be connected: {error}")));
                    pool.attempt_failed();
                    pool.close_queues();
                }
            }
        };
        let walked = self.device.for_each_channel(move |channel, walk| channel.connect(&ctrlr, walk), opened);
        if let Err(error) = walked {
            log::error!("pool '{}': its queues could not be opened: {error}", self.name());
        }
    }

    /// The queue that is waited for is waited for no more, nor are those that follow.
    pub(super) fn give_up_opening(&self) {
        if self.opening.replace(false) {
            self.lost_meanwhile.set(true);
            self.shared().set_ctrlr(None);
            self.walk(PoolChannel::give_up_connecting, |_| {});
        }
    }

    fn connected_again(&self) {
        if self.is_deleting() {
            return self.close_queues();
        }
        self.shared().set_failing(!self.holds.get());
        self.last_error.take();
        let now = Instant::now();
        if let Some(lost) = self.lost_at.take() {
            let away = now.duration_since(lost);
            log::info!("pool '{}': connected again after {:.1} s", self.name(), away.as_secs_f64());
            self.outage.set(Some(lost));
            self.connected_at.set(Some(now));
            // Enough for the reactors that use it now.
            if let Err(reason) = self.check_queues() {
                log::warn!("{reason}");
            }
        }
        self.tried.set(true);
        self.enter(State::Connected);
        if self.lost_meanwhile.take() {
            self.connection_lost("it was lost while its I/O queues were being connected", false);
        } else if self.reset_again.take() {
            self.close_queues();
        } else {
            self.end_resets(true);
        }
    }

    pub(super) fn is_given_up(&self, now: Instant) -> bool {
        let Ok(limit) = u64::try_from(self.params.ctrlr_loss_timeout_sec) else { return false };
        self.lost_at.get().is_some_and(|lost| now.duration_since(lost) >= Duration::from_secs(limit))
    }

    pub(super) fn give_up(&self) {
        log::error!("pool '{}': given up after {} s", self.name(), self.params.ctrlr_loss_timeout_sec);
        self.enter(State::GivenUp);
        self.fail_io();
    }
}
