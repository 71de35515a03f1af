//! A connection that is passed on: two streams, and for each direction a thread that reads and one that writes.

use std::net::TcpStream;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nvme_spec::tcp::{PduHeader, PduType};

use super::hook::{Pdu, Verdict};
use super::{Counts, Mode, RelayShared, Way};
use crate::outbox::Outbox;
use crate::pdu::{self, Splitter};
use crate::socket::{self, Cut, lock};

/// A direction of a connection.
#[derive(Debug)]
pub(super) struct Side {
    pub(super) outbox: Arc<Outbox>,
    pub(super) counts: Counts,
    held: Vec<Vec<u8>>,
}

/// A connection that is or was passed on.
#[derive(Debug)]
pub(super) struct Connection {
    host: Arc<TcpStream>,
    target: Arc<TcpStream>,
    sides: [Side; 2],
    threads: Vec<JoinHandle<()>>,
}

impl Connection {
    pub(super) fn side(&self, way: Way) -> &Side {
        &self.sides[usize::from(way == Way::ToHost)]
    }

    fn side_mut(&mut self, way: Way) -> &mut Side {
        &mut self.sides[usize::from(way == Way::ToHost)]
    }

    /// Returns whether something can still arrive at an end.
    pub(super) fn is_open(&self) -> bool {
        self.sides.iter().any(|side| !side.outbox.is_broken())
    }

    pub(super) fn release_held(&mut self) {
        for side in &mut self.sides {
            for pdu in side.held.drain(..) {
                side.outbox.push_in_order(pdu, Duration::ZERO);
            }
        }
    }

    pub(super) fn cut(&self, how: Cut) {
        for side in &self.sides {
            side.outbox.abandon();
        }
        socket::cut(&self.host, how);
        socket::cut(&self.target, how);
    }

    /// Ends it. What is given back are threads that end now.
    pub(super) fn end(&mut self) -> Vec<JoinHandle<()>> {
        self.cut(Cut::Close);
        std::mem::take(&mut self.threads)
    }
}

/// Passes a connection on from now on.
pub(super) fn start(shared: &Arc<RelayShared>, host: TcpStream, target: TcpStream) {
    let (host, target) = (Arc::new(host), Arc::new(target));
    let mut state = shared.lock();
    if state.ended {
        return;
    }
    let number = u32::try_from(state.connections.len()).expect("they are few");
    let mut threads = Vec::new();
    let sides = [(Way::ToTarget, &host, &target), (Way::ToHost, &target, &host)].map(|(way, from, to)| {
        let outbox = Outbox::new(Arc::clone(to));
        outbox.stall(state.mode(number, way) == Mode::Stall);
        let writer = Arc::clone(&outbox);
        threads.push(thread::spawn(move || writer.write_all()));
        let pump =
            Pump { shared: Arc::clone(shared), number, way, from: Arc::clone(from), outbox: Arc::clone(&outbox) };
        threads.push(thread::spawn(move || pump.run()));
        Side { outbox, counts: Counts::default(), held: Vec::new() }
    });
    // The threads wait for the lock, and find themselves in here.
    state.connections.push(Connection { host, target, sides, threads });
}

/// Reads what comes in a direction.
struct Pump {
    shared: Arc<RelayShared>,
    number: u32,
    way: Way,
    from: Arc<TcpStream>,
    outbox: Arc<Outbox>,
}

impl Pump {
    fn run(&self) {
        let mut splitter = Splitter::default();
        let mut buffer = vec![0; 64 << 10];
        loop {
            if self.shared.lock().ended {
                break;
            }
            if !self.outbox.wait_for_room() {
                continue;
            }
            match socket::read(&self.from, &mut buffer) {
                Ok(None) => {}
                Ok(Some([])) | Err(_) => break,
                Ok(Some(bytes)) => {
                    splitter.push(bytes);
                    while let Some(pdu) = splitter.next_pdu() {
                        self.pdu(pdu, splitter.is_raw());
                    }
                }
            }
        }
        if let Some(rest) = splitter.rest() {
            self.pdu(rest, true);
        }
        self.outbox.finish();
        self.shared.changed.notify_all();
    }

    fn pdu(&self, mut bytes: Vec<u8>, raw: bool) {
        let kind = pdu::read::<PduHeader>(&bytes).filter(|_| !raw).map(|header| header.kind);
        let verdict = kind.map_or(Verdict::Pass, |kind| self.ask(kind, &bytes));
        let mut state = self.shared.lock();
        let Some(connection) = state.connections.get_mut(self.number as usize) else { return };
        let side = connection.side_mut(self.way);
        let before = side.counts.bytes;
        side.counts.bytes += bytes.len() as u64;
        if let Some(kind) = kind {
            *side.counts.pdus.entry(kind).or_default() += 1;
        }
        state.changes.retain(|change| !change.make(self.number, self.way, before, &mut bytes));
        let delay = match state.mode(self.number, self.way) {
            Mode::Delay(delay) => delay,
            Mode::Pass | Mode::Stall => Duration::ZERO,
        };
        let connection = &mut state.connections[self.number as usize];
        match verdict {
            Verdict::Pass => self.outbox.push_in_order(bytes, delay),
            Verdict::Replace(other) => self.outbox.push_in_order(other, delay),
            Verdict::Lose => {}
            Verdict::Hold => connection.side_mut(self.way).held.push(bytes),
            Verdict::Cut(how) => connection.cut(how),
            Verdict::CutInside(length) => {
                bytes.truncate(length);
                self.outbox.push_in_order(bytes, delay);
                for side in &connection.sides {
                    side.outbox.finish();
                }
            }
        }
        drop(state);
        self.shared.changed.notify_all();
    }

    fn ask(&self, kind: PduType, bytes: &[u8]) -> Verdict {
        let pdu = Pdu { connection: self.number, way: self.way, kind, bytes };
        lock(&self.shared.hook).as_mut().map_or(Verdict::Pass, |hook| hook(&pdu))
    }
}
