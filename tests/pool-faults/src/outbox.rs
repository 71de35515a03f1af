//! What is to be written to a connection, now or later, and the thread that does it.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::socket::{LOOK, lock};

/// What may wait in an outbox: more is not read from where it comes from.
const MAX_QUEUED: usize = 16 << 20;

#[derive(Debug, Default)]
struct OutboxState {
    queue: BTreeMap<(Instant, u64), Vec<u8>>,
    queued: usize,
    pushed: u64,
    /// When the last of what keeps its order is due.
    last_due: Option<Instant>,
    stalled: bool,
    /// Nothing comes any more: what is here is written, then the stream's end.
    finished: bool,
    /// The connection is gone.
    broken: bool,
}

/// Shared by those who have something to write and the thread that writes.
#[derive(Debug)]
pub(crate) struct Outbox {
    stream: Arc<TcpStream>,
    state: Mutex<OutboxState>,
    changed: Condvar,
}

impl Outbox {
    pub(crate) fn new(stream: Arc<TcpStream>) -> Arc<Self> {
        Arc::new(Self { stream, state: Mutex::default(), changed: Condvar::new() })
    }

    /// To be written after `delay`, but not before what was given before.
    pub(crate) fn push_in_order(&self, bytes: Vec<u8>, delay: Duration) {
        let mut state = lock(&self.state);
        let due = (Instant::now() + delay).max(state.last_due.unwrap_or_else(Instant::now));
        state.last_due = Some(due);
        self.insert(&mut state, bytes, due);
    }

    /// To be written after `delay`, whatever else is to be written.
    pub(crate) fn push(&self, bytes: Vec<u8>, delay: Duration) {
        self.insert(&mut lock(&self.state), bytes, Instant::now() + delay);
    }

    fn insert(&self, state: &mut OutboxState, bytes: Vec<u8>, due: Instant) {
        if state.broken || state.finished {
            return;
        }
        state.pushed += 1;
        state.queued += bytes.len();
        let key = (due, state.pushed);
        state.queue.insert(key, bytes);
        self.changed.notify_all();
    }

    /// Waits until there is room, for a moment.
    pub(crate) fn wait_for_room(&self) -> bool {
        let state = lock(&self.state);
        let wait = self.changed.wait_timeout_while(state, LOOK, |state| state.queued > MAX_QUEUED && !state.broken);
        wait.unwrap_or_else(PoisonError::into_inner).0.queued <= MAX_QUEUED
    }

    /// Keeps what comes from now on, or lets it go.
    pub(crate) fn stall(&self, stalled: bool) {
        lock(&self.state).stalled = stalled;
        self.changed.notify_all();
    }

    /// Nothing more will be pushed: the stream ends after what is queued.
    pub(crate) fn finish(&self) {
        lock(&self.state).finished = true;
        self.changed.notify_all();
    }

    /// Forgets what is queued and takes nothing more.
    pub(crate) fn abandon(&self) {
        let mut state = lock(&self.state);
        state.broken = true;
        state.queue.clear();
        state.queued = 0;
        self.changed.notify_all();
    }

    /// Returns whether the connection is gone, or all has been written and its end, too.
    pub(crate) fn is_broken(&self) -> bool {
        lock(&self.state).broken
    }

    /// Writes what is due, until all is written or the connection is gone. The body of a thread.
    pub(crate) fn write_all(&self) {
        while let Some(bytes) = self.next() {
            if self.write(&bytes).is_err() {
                self.abandon();
            }
        }
        // Who abandons it ends the connection in a way of its own, before which no FIN may come.
        if !self.is_broken() {
            let _ = self.stream.shutdown(Shutdown::Write);
        }
        self.abandon();
    }

    /// Waits for what is due next. Nothing at the end.
    fn next(&self) -> Option<Vec<u8>> {
        let mut state = lock(&self.state);
        loop {
            if state.broken {
                return None;
            }
            let now = Instant::now();
            let mut wait = LOOK;
            if !state.stalled {
                match state.queue.first_key_value() {
                    Some((&(due, _), _)) if due <= now => {
                        let (_, bytes) = state.queue.pop_first()?;
                        state.queued -= bytes.len();
                        self.changed.notify_all();
                        return Some(bytes);
                    }
                    Some((&(due, _), _)) => wait = due - now,
                    None if state.finished => return None,
                    None => {}
                }
            }
            state = self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match (&*self.stream).write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => bytes = &bytes[written..],
                // The write's time-out.
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                    if self.is_broken() {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
