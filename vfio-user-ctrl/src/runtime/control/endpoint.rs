//! A controller's socket, and who is on it.

use std::collections::VecDeque;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::complaint::complain;
use crate::runtime::session::Ctrl;

/// Connections that wait for the client before them to go.
const MAX_WAITING: usize = 4;
/// Connections that are accepted in a row, so that who connects again and again does not keep the others waiting.
const BURST: usize = 16;
/// How long nobody is let in after a client that held a reactor up.
const BARRED: Duration = Duration::from_secs(10);

/// A controller's socket.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) ctrl: Arc<Ctrl>,
    pub(super) listener: UnixListener,
    /// The session of the client that is there.
    pub(super) active: Option<u64>,
    waiting: VecDeque<UnixStream>,
    barred_until: Option<Instant>,
}

impl Endpoint {
    pub(super) fn new(ctrl: Arc<Ctrl>, listener: UnixListener) -> Self {
        Self { ctrl, listener, active: None, waiting: VecDeque::new(), barred_until: None }
    }

    /// Takes connections that came.
    pub(super) fn accept(&mut self) {
        for _ in 0..BURST {
            let Ok((stream, _)) = self.listener.accept() else { return };
            if self.waiting.len() >= MAX_WAITING {
                complain!(self.ctrl, "controller '{}': a client was turned away: others wait already", self.ctrl.name);
            } else {
                self.waiting.push_back(stream);
            }
        }
    }

    /// Whether a client waits.
    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The next client, if one may be let in.
    pub(super) fn next_client(&mut self) -> Option<UnixStream> {
        if self.barred_until.is_some_and(|until| Instant::now() < until) { None } else { self.waiting.pop_front() }
    }

    /// The client has gone.
    pub(super) fn vacate(&mut self) {
        self.active = None;
        self.ctrl.connected.store(false, Ordering::Release);
    }

    /// Lets nobody in for a while.
    pub(super) fn bar(&mut self) {
        self.barred_until = Instant::now().checked_add(BARRED);
    }
}
