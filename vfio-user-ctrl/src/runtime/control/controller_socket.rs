//! A controller's socket, and who is on it.

use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::share::TimeShare;
use crate::runtime::log_budget::warn_ratelimited;
use crate::runtime::messages::Routes;
use crate::runtime::session::Ctrl;
use nvme_device::connection::AcceptQueue;

/// Connections that are accepted in a row, so that who connects again and again does not keep the others waiting.
const BURST: usize = 16;

/// A controller's socket.
#[derive(Debug)]
pub(super) struct ControllerSocket {
    pub(super) ctrl: Arc<Ctrl>,
    pub(super) routes: Arc<Routes>,
    pub(super) listener: UnixListener,
    /// The session of the client that is there.
    pub(super) active: Option<u64>,
    /// Connections are taken. Where clients have had more than their share of time they stay in the socket for a while.
    pub(super) is_accepting: bool,
    pub(super) accept_queue: AcceptQueue<UnixStream>,
    /// Of the control thread's time, what was spent for clients that have gone, or were turned away.
    share: TimeShare,
}

impl ControllerSocket {
    pub(super) fn new(routes: Arc<Routes>, listener: UnixListener) -> Self {
        let share = TimeShare::new(Instant::now());
        Self {
            ctrl: Arc::clone(&routes.ctrl),
            routes,
            listener,
            active: None,
            is_accepting: true,
            accept_queue: AcceptQueue::default(),
            share,
        }
    }

    /// Takes connections that came.
    pub(super) fn accept(&mut self) {
        for _ in 0..BURST {
            let Ok((stream, _)) = self.listener.accept() else { return };
            if self.accept_queue.arrive(stream).is_err() {
                warn_ratelimited!(
                    self.ctrl,
                    "controller '{}': a client was turned away: others wait already",
                    self.ctrl.name
                );
            }
        }
    }

    /// Time was spent for who connects.
    pub(super) fn charge(&mut self, began: Instant) {
        let now = Instant::now();
        self.share.charge(now, now.saturating_duration_since(began));
    }

    /// Returns whether clients may be let in: those before them have not had more than their share of time.
    pub(super) fn may_be_served(&self) -> bool {
        self.share.may_be_served(Instant::now())
    }

    /// The next client goes on with what those before it have had.
    pub(super) fn take_share(&mut self) -> TimeShare {
        std::mem::replace(&mut self.share, TimeShare::new(Instant::now()))
    }

    /// A client has gone that has had as much.
    pub(super) fn give_share_back(&mut self, share: TimeShare) {
        self.share.take_over(Instant::now(), share);
    }

    /// Returns whether anybody may wait who is to be looked after when it is time.
    pub(super) fn waits(&self) -> bool {
        self.accept_queue.has_waiting() || !self.is_accepting
    }

    /// The client has gone.
    pub(super) fn vacate(&mut self) {
        self.active = None;
        self.ctrl.connected.store(false, Ordering::Release);
    }
}
