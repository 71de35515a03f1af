//! A relay before a target: what a network, a switch or a dying machine does to connections.

mod connection;
mod hook;

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nvme_spec::tcp::PduType;

use self::connection::Connection;
use self::hook::{Change, Hook};
pub use self::hook::{Pdu, Verdict};
use crate::socket::{self, Cut, LOOK, lock};

/// How long a relay waits for its target to accept.
const CONNECT: Duration = Duration::from_secs(5);
/// Connections that wait to be accepted, usually.
const BACKLOG: i32 = 128;

/// Which connections are meant. They are numbered as they come, from 0: for a pool, the first is its admin queue's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Those that are there and those that come.
    All,
    /// This one.
    One(u32),
    /// This one and those that come after it.
    From(u32),
}

impl Which {
    fn has(self, number: u32) -> bool {
        match self {
            Self::All => true,
            Self::One(one) => number == one,
            Self::From(first) => number >= first,
        }
    }
}

/// A direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the host to the target.
    ToTarget,
    /// From the target to the host.
    ToHost,
    /// Both.
    Both,
}

impl Way {
    fn has(self, way: Self) -> bool {
        self == Self::Both || self == way
    }
}

/// What happens to what comes on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It is passed on.
    Pass,
    /// It is passed on so much later.
    Delay(Duration),
    /// It is kept, and passed on when the mode changes. The connection stays up; even its end is kept.
    Stall,
}

/// What happens to new connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// They are connected to the target.
    Pass,
    /// They are accepted and closed at once, by RST.
    Refuse,
    /// They are accepted, and nothing ever comes of it.
    Silence,
    /// They are not even accepted: the listener's backlog is full, and the kernel drops their SYN.
    Drop,
}

/// What a connection has carried in a direction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Bytes that came.
    pub bytes: u64,
    /// PDUs that came, by type.
    pub pdus: std::collections::BTreeMap<PduType, u64>,
}

impl Counts {
    /// PDUs of a type that came.
    #[must_use]
    pub fn pdus_of(&self, kind: PduType) -> u64 {
        self.pdus.get(&kind).copied().unwrap_or(0)
    }
}

#[derive(Debug)]
struct RelayState {
    target: SocketAddr,
    arrival: Arrival,
    to_refuse: u32,
    /// The first that holds for a connection and a direction is the newest that was set.
    modes: VecDeque<(Which, Way, Mode)>,
    changes: Vec<Change>,
    connections: Vec<Connection>,
    /// Connections of our own, and of hosts that were not to be accepted, that fill the backlog.
    plugs: Vec<TcpStream>,
    /// Connections that are never answered.
    silent: Vec<TcpStream>,
    /// Connections that were closed at once.
    refused: u32,
    ended: bool,
}

impl RelayState {
    fn mode(&self, number: u32, way: Way) -> Mode {
        let set = self.modes.iter().find(|(which, ways, _)| which.has(number) && ways.has(way));
        set.map_or(Mode::Pass, |&(_, _, mode)| mode)
    }
}

struct RelayShared {
    state: Mutex<RelayState>,
    changed: Condvar,
    hook: Mutex<Option<Hook>>,
}

impl RelayShared {
    fn lock(&self) -> MutexGuard<'_, RelayState> {
        lock(&self.state)
    }
}

/// Passes connections on to a target, and does to them what it is told. It ends when it is dropped.
pub struct Relay {
    shared: Arc<RelayShared>,
    listener: Arc<TcpListener>,
    address: SocketAddr,
    acceptor: Option<JoinHandle<()>>,
}

impl Relay {
    /// Returns a relay, at a free port of 127.0.0.1, to `target`, which need not listen yet.
    #[must_use]
    pub fn to(target: SocketAddr) -> Self {
        Self::between(0, target)
    }

    /// Returns a relay from one port of 127.0.0.1 to another.
    #[must_use]
    pub fn at(port: u16, target: u16) -> Self {
        Self::between(port, SocketAddr::from((Ipv4Addr::LOCALHOST, target)))
    }

    fn between(port: u16, target: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("a free port");
        listener.set_nonblocking(true).expect("a listener can be polled");
        let address = listener.local_addr().expect("a listener has an address");
        let state = RelayState {
            target,
            arrival: Arrival::Pass,
            to_refuse: 0,
            modes: VecDeque::new(),
            changes: Vec::new(),
            connections: Vec::new(),
            plugs: Vec::new(),
            silent: Vec::new(),
            refused: 0,
            ended: false,
        };
        let shared =
            Arc::new(RelayShared { state: Mutex::new(state), changed: Condvar::new(), hook: Mutex::new(None) });
        let listener = Arc::new(listener);
        let acceptor = {
            let (shared, listener) = (Arc::clone(&shared), Arc::clone(&listener));
            thread::spawn(move || accept(&shared, &listener))
        };
        Self { shared, listener, address, acceptor: Some(acceptor) }
    }

    /// Returns a relay, at a free port of 127.0.0.1, to another port there.
    #[must_use]
    pub fn to_port(port: u16) -> Self {
        Self::at(0, port)
    }

    /// Returns where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the port that it listens on, at 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Sends the connections that come from now on elsewhere.
    pub fn retarget(&self, target: SocketAddr) {
        self.shared.lock().target = target;
    }

    /// Says what happens to connections that come.
    pub fn arrivals(&self, arrival: Arrival) {
        let mut state = self.shared.lock();
        let before = std::mem::replace(&mut state.arrival, arrival);
        if arrival == Arrival::Drop && before != Arrival::Drop {
            fill_backlog(&self.listener, self.address, &mut state);
        } else if before == Arrival::Drop && arrival != Arrival::Drop {
            empty_backlog(&self.listener, &mut state);
        }
        self.shared.changed.notify_all();
    }

    /// Closes the next `count` connections at once, instead of what an earlier call said.
    pub fn refuse(&self, count: u32) {
        self.shared.lock().to_refuse = count;
    }

    /// Returns how many of these have not come yet.
    #[must_use]
    pub fn left_to_refuse(&self) -> u32 {
        self.shared.lock().to_refuse
    }

    /// Returns how many connections were closed at once.
    #[must_use]
    pub fn refused(&self) -> u32 {
        self.shared.lock().refused
    }

    /// Sets what happens to what comes on connections, until another call changes it for these.
    pub fn set(&self, which: Which, way: Way, mode: Mode) {
        let mut state = self.shared.lock();
        if which == Which::All {
            state.modes.retain(|(_, ways, _)| !way.has(*ways));
        }
        state.modes.push_front((which, way, mode));
        for number in 0..state.connections.len() {
            let number = u32::try_from(number).expect("they are few");
            for way in [Way::ToTarget, Way::ToHost] {
                let stalled = state.mode(number, way) == Mode::Stall;
                state.connections[number as usize].side(way).outbox.stall(stalled);
            }
        }
    }

    /// Keeps all that comes on all connections, both ways: the network is gone, and nobody says so.
    pub fn stall(&self) {
        self.set(Which::All, Way::Both, Mode::Stall);
    }

    /// Passes all on again, first of all what was kept.
    pub fn release(&self) {
        self.set(Which::All, Way::Both, Mode::Pass);
        self.release_held(Which::All);
    }

    /// Passes on, at the end of what came since, the PDUs for which a hook said [`Verdict::Hold`].
    pub fn release_held(&self, which: Which) {
        let mut state = self.shared.lock();
        for (_, connection) in (0..).zip(&mut state.connections).filter(|(number, _)| which.has(*number)) {
            connection.release_held();
        }
    }

    /// Ends connections that are there, on both sides.
    pub fn cut(&self, which: Which, how: Cut) {
        let state = self.shared.lock();
        for (_, connection) in (0..).zip(&state.connections).filter(|(number, _)| which.has(*number)) {
            connection.cut(how);
        }
        self.shared.changed.notify_all();
    }

    /// Changes the byte at `offset` of what comes on a connection: its bits are inverted.
    pub fn corrupt_at(&self, which: Which, way: Way, offset: u64) {
        self.shared.lock().changes.push(Change::at(which, way, offset));
    }

    /// Changes the byte at `offset` of the next PDU of a type. Digests stay as they came.
    pub fn corrupt_pdu(&self, which: Which, way: Way, kind: PduType, offset: usize) {
        self.shared.lock().changes.push(Change::pdu(which, way, kind, offset));
    }

    /// Returns how many of the changes asked for have not been made yet.
    #[must_use]
    pub fn left_to_corrupt(&self) -> usize {
        self.shared.lock().changes.len()
    }

    /// Asks `hook` about every PDU that comes, instead of another that was set. It must not call the relay.
    pub fn hook(&self, hook: impl FnMut(&Pdu<'_>) -> Verdict + Send + 'static) {
        *lock(&self.shared.hook) = Some(Box::new(hook));
    }

    /// Asks no more.
    pub fn unhook(&self) {
        *lock(&self.shared.hook) = None;
    }

    /// Sends bytes of the test's own on a connection, after what came.
    pub fn inject(&self, number: u32, way: Way, bytes: Vec<u8>) {
        let state = self.shared.lock();
        if let Some(connection) = state.connections.get(number as usize) {
            connection.side(way).outbox.push_in_order(bytes, Duration::ZERO);
        }
    }

    /// Returns how many connections were passed on.
    #[must_use]
    pub fn connections(&self) -> u32 {
        u32::try_from(self.shared.lock().connections.len()).expect("they are few")
    }

    /// Returns how many connections came, of which nothing ever came.
    #[must_use]
    pub fn silent(&self) -> usize {
        self.shared.lock().silent.len()
    }

    /// Returns whether the host's side of a connection, or the target's, is still open.
    #[must_use]
    pub fn is_open(&self, number: u32) -> bool {
        self.shared.lock().connections.get(number as usize).is_some_and(Connection::is_open)
    }

    /// Returns what came on a connection in a direction.
    #[must_use]
    pub fn counts(&self, number: u32, way: Way) -> Counts {
        let state = self.shared.lock();
        state.connections.get(number as usize).map(|connection| connection.side(way).counts.clone()).unwrap_or_default()
    }

    /// Waits until `done` says so, which is asked whenever something came. Returns whether it did in time.
    pub fn wait(&self, timeout: Duration, mut done: impl FnMut(&Self) -> bool) -> bool {
        let end = Instant::now() + timeout;
        while !done(self) {
            let now = Instant::now();
            if now >= end {
                return false;
            }
            let state = self.shared.lock();
            let _ = self.shared.changed.wait_timeout(state, (end - now).min(LOOK));
        }
        true
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.unhook();
        let threads: Vec<_> = {
            let mut state = self.shared.lock();
            state.ended = true;
            state.plugs.clear();
            state.silent.clear();
            state.connections.iter_mut().flat_map(Connection::end).collect()
        };
        self.shared.changed.notify_all();
        for thread in threads.into_iter().chain(self.acceptor.take()) {
            let _ = thread.join();
        }
    }
}

/// Takes connections as they come. The body of a thread.
fn accept(shared: &Arc<RelayShared>, listener: &TcpListener) {
    loop {
        let state = shared.lock();
        if state.ended {
            return;
        }
        if state.arrival == Arrival::Drop {
            drop(shared.changed.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner));
            continue;
        }
        if let Ok((host, _)) = listener.accept() {
            take(shared, state, host);
        } else {
            drop(state);
            socket::readable(listener);
        }
    }
}

/// Does with a new connection what is to be done with it.
fn take(shared: &Arc<RelayShared>, mut state: MutexGuard<'_, RelayState>, host: TcpStream) {
    let refused = state.to_refuse > 0;
    state.to_refuse = state.to_refuse.saturating_sub(1);
    match state.arrival {
        _ if refused => {
            state.refused += 1;
            socket::cut(&host, Cut::Close);
        }
        Arrival::Refuse => {
            state.refused += 1;
            socket::cut(&host, Cut::Reset);
        }
        Arrival::Silence => state.silent.push(host),
        Arrival::Pass | Arrival::Drop => {
            let target = state.target;
            drop(state);
            match connect(target, &host) {
                Ok(target) => connection::start(shared, host, target),
                // As a machine does where nobody listens.
                Err(_) => socket::cut(&host, Cut::Reset),
            }
        }
    }
    shared.changed.notify_all();
}

fn connect(target: SocketAddr, host: &TcpStream) -> io::Result<TcpStream> {
    let target = TcpStream::connect_timeout(&target, CONNECT)?;
    socket::prepare(host)?;
    socket::prepare(&target)?;
    Ok(target)
}

/// Fills the listener's backlog, so that the kernel drops what comes.
fn fill_backlog(listener: &TcpListener, address: SocketAddr, state: &mut RelayState) {
    socket::set_backlog(listener, 0);
    // Some that came before may be in it: they stay there, and wait.
    while state.plugs.len() < 16 {
        match TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
            Ok(plug) => state.plugs.push(plug),
            Err(_) => return,
        }
    }
}

/// Takes connections of our own out of the backlog, and closes with them those that waited.
fn empty_backlog(listener: &TcpListener, state: &mut RelayState) {
    while let Ok((stream, peer)) = listener.accept() {
        let own = state.plugs.iter().any(|plug| plug.local_addr().is_ok_and(|own| own == peer));
        socket::cut(&stream, if own { Cut::Close } else { Cut::Reset });
    }
    state.plugs.clear();
    socket::set_backlog(listener, BACKLOG);
}
