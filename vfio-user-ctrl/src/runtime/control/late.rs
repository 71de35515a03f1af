//! What a client is answered when what it asked for is done: resets, and writes to configuration space that end accesses to memory.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use vfio_user::Token;

use crate::runtime::session::Bus;

/// How long a client waits for its function-level reset at most: QEMU gives a device up after 5 s. Then the function is not ready.
const RESET_TIME: Duration = Duration::from_secs(2);
/// How long it waits for I/O that accesses memory which it forbids to access: a guest's processor stands meanwhile.
const REST_TIME: Duration = Duration::from_millis(200);
/// So many function-level resets of one client are carried out by themselves at a time.
const MAX_RESETS: usize = 16;

/// A request that is answered when these are over.
#[derive(Debug)]
struct Waiting {
    token: Token,
    reset: Option<u64>,
    /// The state of the bus in which the poll groups are to come to rest.
    rest: Option<u64>,
    /// When it is answered all the same.
    until: Option<Instant>,
}

/// The requests of a client that are answered later.
#[derive(Debug, Default)]
pub(super) struct Late {
    waiting: Vec<Waiting>,
    next_reset: u64,
    /// Resets that are under way.
    resets: BTreeSet<u64>,
    /// The function-level reset that the next write is answered after.
    written: Option<u64>,
    /// Function-level resets that were answered for before they were over.
    overdue: BTreeSet<u64>,
}

impl Late {
    /// Begins a device reset, which `token` is the answer to. The reset's number.
    pub(super) fn reset(&mut self, token: Token) -> u64 {
        let number = self.begin();
        self.waiting.push(Waiting { token, reset: Some(number), rest: None, until: None });
        number
    }

    /// Begins a function-level reset. Its number, unless so many are under way that this one is told with the last.
    pub(super) fn function_reset(&mut self) -> Option<u64> {
        if self.resets.len() >= MAX_RESETS {
            self.written = self.resets.last().copied();
            return None;
        }
        let number = self.begin();
        self.written = Some(number);
        Some(number)
    }

    fn begin(&mut self) -> u64 {
        let number = self.next_reset;
        self.next_reset += 1;
        self.resets.insert(number);
        number
    }

    /// A write to configuration space is to be answered when what it began is over, `bus` being what it has become by it.
    pub(super) fn written(&mut self, token: Token, bus: &Bus) {
        let reset = self.written.take();
        let limit = if reset.is_some() { RESET_TIME } else { REST_TIME };
        let at_rest_in = (!bus.is_allowed()).then(|| bus.state());
        self.waiting.push(Waiting { token, reset, rest: at_rest_in, until: Some(Instant::now() + limit) });
    }

    /// A reset is over.
    pub(super) fn reset_done(&mut self, number: u64) {
        self.resets.remove(&number);
        self.overdue.remove(&number);
    }

    /// Whether anything is to be answered.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether no function-level reset is under way that was answered for.
    pub(super) fn is_ready(&self) -> bool {
        self.overdue.is_empty()
    }

    /// The answers that are due.
    pub(super) fn due(&mut self, bus: &Bus) -> Vec<Token> {
        let now = Instant::now();
        let mut due = Vec::new();
        for waiting in std::mem::take(&mut self.waiting) {
            let resetting = waiting.reset.filter(|number| self.resets.contains(number));
            let at_rest = waiting.rest.is_none_or(|state| bus.are_at_rest(state));
            let late = waiting.until.is_some_and(|until| until <= now);
            if late && let Some(number) = resetting {
                self.overdue.insert(number);
            }
            if late || (resetting.is_none() && at_rest) {
                due.push(waiting.token);
            } else {
                self.waiting.push(waiting);
            }
        }
        due
    }
}
