//! The control thread: all sockets and all that clients ask for by messages.
//!
//! It is an operating-system thread of its own, not a reactor's: a client is answered at once whatever the reactors do.
//! QEMU gives a device up that does not answer for five seconds.

mod client_dma;
mod connection;
mod controller_socket;
mod device;
mod registrar;
mod share;
mod socket;
mod tables;
mod unmap_worker;
mod unmask;
mod worker;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};

use super::log_budget::warn_ratelimited;
use super::messages::{ControlHandle, ControlMessage, GroupHandle, GroupMessage, Routes};
use super::session::Session;
use connection::{Connection, ConnectionState};
use controller_socket::ControllerSocket;
use guest_memory::Region;
use nvme_device::connection::{Occupant, Situation, Verdict};
use registrar::Registrar;
use share::TimeShare;
use tables::OldTables;
use unmap_worker::UnmapWorker;
use unmask::Unmask;
use vfio_user::MAX_READ;

/// A client that has said nothing for so long makes room for one that waits.
const SILENCE: Duration = Duration::from_secs(1);
/// How often it is looked whether regions that were unmapped are still in use.
const RELEASE_PERIOD: Duration = Duration::from_millis(2);
/// How often files that clients could shrink are looked at.
const CHECK_PERIOD: Duration = Duration::from_millis(250);
/// The most that other threads ask for that is done in a row.
const BURST: usize = 64;
/// How often it is looked whether a client holds a reactor up.
const WATCH_PERIOD: Duration = Duration::from_millis(20);

/// The control thread, for other threads.
#[derive(Debug)]
pub(super) struct Control {
    handle: ControlHandle,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Control {
    /// Starts the thread.
    ///
    /// # Errors
    /// What the operating system says.
    pub(crate) fn start() -> io::Result<Self> {
        guest_memory::guard::install()?;
        let (messages, receiver) = mpsc::channel();
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let handle = ControlHandle::new(messages, Arc::clone(&wake));
        let mut server = Server::new(receiver, wake, handle.clone())?;
        let thread = spdk::thread::spawn_unpinned("courier_control", move || server.run())?;
        Ok(Self { handle, thread: Mutex::new(Some(thread)) })
    }

    /// Returns the way to the thread.
    pub(super) fn handle(&self) -> ControlHandle {
        self.handle.clone()
    }

    /// Ends the thread, and with it all connections.
    pub(crate) fn end(&self) {
        self.handle.send(ControlMessage::Stop);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            log::error!("the control thread has panicked");
        }
    }
}

/// What epoll tells a listener and a connection by, besides `WAKE`.
const WAKE: u64 = 0;
const fn listener_key(ctrl: u64) -> u64 {
    ctrl << 1
}
const fn connection_key(session: u64) -> u64 {
    session << 1 | 1
}
/// In the key of a session's eventfd that unmasks the interrupt pin.
const UNMASK: u64 = 1 << 63;

struct Server {
    epoll: Arc<OwnedFd>,
    wake: Arc<OwnedFd>,
    messages: Receiver<ControlMessage>,
    handle: ControlHandle,
    endpoints: BTreeMap<u64, ControllerSocket>,
    connections: BTreeMap<u64, Connection>,
    /// Regions of sessions that are over: they are unmapped here, not on a reactor, when no I/O touches them.
    dying: Vec<Arc<Region>>,
    /// Tables of them, which are dropped before them.
    old: OldTables,
    /// Sessions that are over, but may still be somewhere. What they are made of is given to the unmap worker when that is
    /// over, too: a reactor would wait for what it frees.
    ended: Vec<(Arc<Routes>, Arc<Session>)>,
    unmap_worker: UnmapWorker,
    /// What is read from a client comes here first.
    buffer: Vec<u8>,
    registrar: Arc<Registrar>,
    next_session: u64,
    checked: Instant,
    watched: Instant,
}

impl Server {
    fn new(messages: Receiver<ControlMessage>, wake: Arc<OwnedFd>, handle: ControlHandle) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &wake, epoll::EventData::new_u64(WAKE), epoll::EventFlags::IN)?;
        Ok(Self {
            epoll: Arc::new(epoll),
            wake,
            messages,
            registrar: Arc::new(Registrar::start(handle.clone())?),
            handle,
            endpoints: BTreeMap::new(),
            connections: BTreeMap::new(),
            dying: Vec::new(),
            old: OldTables::default(),
            ended: Vec::new(),
            unmap_worker: UnmapWorker::start()?,
            buffer: vec![0; MAX_READ],
            next_session: 1,
            checked: Instant::now(),
            watched: Instant::now(),
        })
    }

    fn run(&mut self) {
        let mut events = Vec::with_capacity(64);
        loop {
            events.clear();
            let timeout = self.timeout().and_then(|timeout| Timespec::try_from(timeout).ok());
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return log::error!("the control thread cannot wait for events: {error}"),
            }
            for event in &events {
                match event.data.u64() {
                    WAKE => {
                        if !self.handle_messages() {
                            return;
                        }
                    }
                    key if key & UNMASK != 0 => {
                        if let Some(connection) = self.connections.get_mut(&((key & !UNMASK) >> 1)) {
                            connection.unmasked();
                        }
                    }
                    key if key & 1 == 0 => self.accept(key >> 1),
                    key => self.ready(key >> 1, event.flags),
                }
            }
            self.look_after();
        }
    }

    fn timeout(&self) -> Option<Duration> {
        let waits = |connection: &Connection| connection.is_releasing() || connection.waits_for_others();
        if !self.dying.is_empty() || self.connections.values().any(waits) {
            Some(RELEASE_PERIOD)
        } else if self.routes().next().is_none() && !self.endpoints.values().any(ControllerSocket::waits) {
            None
        } else {
            Some(WATCH_PERIOD)
        }
    }

    /// Returns the controllers of the sessions with clients, and of those that are over but still somewhere.
    fn routes(&self) -> impl Iterator<Item = &Arc<Routes>> {
        let ended = self.ended.iter().map(|(routes, _)| routes);
        self.connections.values().map(Connection::routes).chain(ended)
    }

    /// Does what other threads ask. Returns whether to go on.
    fn handle_messages(&mut self) -> bool {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.wake, &mut count);
        for _ in 0..BURST {
            let Ok(message) = self.messages.try_recv() else { return true };
            match message {
                ControlMessage::AddController { routes, listener } => self.add(routes, listener),
                ControlMessage::RemoveController { routes, guards } => {
                    self.remove(routes.ctrl.id);
                    let admin_group = Arc::clone(&routes.admin_group);
                    admin_group.send(GroupMessage::RemoveController { routes, guards });
                }
                ControlMessage::ResetDone { session, number } => {
                    if let Some(connection) = self.connections.get_mut(&session) {
                        connection.reset_done(number);
                        self.serve(session);
                    }
                }
                ControlMessage::Registered { session, result } => {
                    if let Some(connection) = self.connections.get_mut(&session) {
                        connection.registered(result);
                        self.serve(session);
                    }
                }
                ControlMessage::Released => {}
                ControlMessage::Transfer { session, group, transfer } => {
                    if let Some(connection) = self.connections.get_mut(&session) {
                        connection.transfer(group, transfer);
                        self.serve(session);
                    }
                }
                ControlMessage::Cancel { session, id } => {
                    if let Some(connection) = self.connections.get_mut(&session) {
                        connection.cancel(id);
                        self.serve(session);
                    }
                }
                ControlMessage::Stop => {
                    let ctrls: Vec<u64> = self.endpoints.keys().copied().collect();
                    for ctrl in ctrls {
                        self.remove(ctrl);
                    }
                    return false;
                }
            }
        }
        // A client whose memory has no file can have ever more asked for; the others have their turn first.
        self.handle.wake();
        true
    }

    fn add(&mut self, routes: Arc<Routes>, listener: UnixListener) {
        let ctrl = &routes.ctrl;
        let key = epoll::EventData::new_u64(listener_key(ctrl.id));
        if let Err(error) = epoll::add(&self.epoll, &listener, key, epoll::EventFlags::IN) {
            return log::error!("controller '{}' cannot be served: {error}", ctrl.name);
        }
        self.endpoints.insert(ctrl.id, ControllerSocket::new(routes, listener));
    }

    fn remove(&mut self, ctrl: u64) {
        let Some(endpoint) = self.endpoints.remove(&ctrl) else { return };
        let _ = epoll::delete(&self.epoll, endpoint.listener.as_fd());
        if let Some(session) = endpoint.active {
            self.close(session);
        }
    }

    /// Takes the connections that came to a controller's socket.
    fn accept(&mut self, ctrl: u64) {
        if let Some(endpoint) = self.endpoints.get_mut(&ctrl) {
            let began = Instant::now();
            endpoint.accept();
            endpoint.charge(began);
            let is_accepting = endpoint.may_be_served();
            self.set_accepting(ctrl, is_accepting);
        }
        self.admit_next(ctrl);
    }

    /// Takes connections that come to a controller's socket, or leaves them there for now.
    fn set_accepting(&mut self, ctrl: u64, is_accepting: bool) {
        let Some(endpoint) = self.endpoints.get_mut(&ctrl) else { return };
        if std::mem::replace(&mut endpoint.is_accepting, is_accepting) != is_accepting {
            let key = epoll::EventData::new_u64(listener_key(ctrl));
            let interest = if is_accepting { epoll::EventFlags::IN } else { epoll::EventFlags::empty() };
            let _ = epoll::modify(&self.epoll, &endpoint.listener, key, interest);
        }
    }

    /// Lets the next client in if there is none, or if the one there has said nothing.
    fn admit_next(&mut self, ctrl: u64) {
        let is_somewhere =
            |(_, session): &&(Arc<Routes>, Arc<Session>)| session.ctrl.id == ctrl && Arc::strong_count(session) > 1;
        let ended = self.ended.iter().filter(is_somewhere).count();
        loop {
            let Some(endpoint) = self.endpoints.get_mut(&ctrl) else { return };
            let active = endpoint.active;
            let occupant = active.map(|active| match self.connections.get(&active) {
                Some(connection) if !connection.is_silent(SILENCE) => Occupant::Served,
                _ => Occupant::Silent,
            });
            let has_time = endpoint.may_be_served();
            match endpoint.accept_queue.next(Situation { occupant, ended, has_time }, Instant::now()) {
                Verdict::Wait => return,
                Verdict::MakeRoom => {
                    warn_ratelimited!(
                        endpoint.ctrl,
                        "controller '{}': a client that said nothing makes room for another",
                        endpoint.ctrl.name
                    );
                    return active.into_iter().for_each(|session| self.close(session));
                }
                Verdict::LetIn(stream) => {
                    let (routes, share) = (Arc::clone(&endpoint.routes), endpoint.take_share());
                    match self.begin(&routes, stream, share) {
                        Ok(session) => return self.serve(session),
                        Err(error) => {
                            log::error!("controller '{}': a client cannot be served: {error}", routes.ctrl.name);
                        }
                    }
                }
            }
        }
    }

    /// Begins a session with a client that was let in. Returns its number.
    fn begin(&mut self, routes: &Arc<Routes>, stream: UnixStream, share: TimeShare) -> io::Result<u64> {
        let start = Instant::now();
        let session = self.next_session;
        self.next_session += 1;
        let unmask = Unmask::new(&self.epoll, connection_key(session) | UNMASK);
        let mut connection = Connection::begin(session, routes, stream, &self.registrar, unmask, share)?;
        let key = epoll::EventData::new_u64(connection_key(session));
        epoll::add(&self.epoll, connection.socket(), key, epoll::EventFlags::IN)?;
        if let Some(endpoint) = self.endpoints.get_mut(&routes.ctrl.id) {
            endpoint.active = Some(session);
        }
        routes.ctrl.connected.store(true, Ordering::Release);
        connection.attach();
        connection.charge(start);
        self.connections.insert(session, connection);
        Ok(session)
    }

    /// A client has written, reads again, or has gone.
    fn ready(&mut self, session: u64, flags: epoll::EventFlags) {
        let gone = flags.intersects(epoll::EventFlags::HUP | epoll::EventFlags::ERR);
        if gone && self.connections.get(&session).is_some_and(|connection| !connection.wants_input()) {
            // It would be told again and again, and not be read from before it has been answered.
            return self.close(session);
        }
        self.serve(session);
    }

    /// Reads from a client, does what it asks, and writes to it.
    fn serve(&mut self, session: u64) {
        let Some(connection) = self.connections.get_mut(&session) else { return };
        match connection.serve(&mut self.buffer) {
            ConnectionState::Open(interest) => {
                let key = epoll::EventData::new_u64(connection_key(session));
                let _ = epoll::modify(&self.epoll, connection.socket(), key, interest);
            }
            ConnectionState::Closed => self.close(session),
        }
    }

    fn close(&mut self, session: u64) {
        let began = Instant::now();
        let Some(connection) = self.connections.remove(&session) else { return };
        let _ = epoll::delete(&self.epoll, connection.socket());
        let (ctrl, share) = (connection.session().ctrl.id, connection.share());
        self.ended.push((Arc::clone(connection.routes()), Arc::clone(connection.session())));
        let (regions, tables) = connection.end(&self.unmap_worker);
        self.dying.extend(regions);
        self.old.extend(tables);
        if let Some(endpoint) = self.endpoints.get_mut(&ctrl) {
            endpoint.vacate();
            endpoint.give_share_back(share);
            endpoint.charge(began);
        }
        self.admit_next(ctrl);
    }

    /// What comes with time: regions that are free now, clients that shrank their memory, clients that wait.
    fn look_after(&mut self) {
        self.old.drop_free();
        self.dying = self.unmap_worker.unmap(std::mem::take(&mut self.dying));
        let releasing: Vec<u64> =
            self.connections.iter().filter(|(_, connection)| connection.is_releasing()).map(|(id, _)| *id).collect();
        for session in releasing {
            if self.connections.get_mut(&session).is_some_and(|connection| connection.release(&self.unmap_worker)) {
                self.serve(session);
            }
        }
        let waited: Vec<u64> =
            self.connections.iter().filter_map(|(id, connection)| connection.has_waited().then_some(*id)).collect();
        for session in waited {
            self.serve(session);
        }
        if self.watched.elapsed() >= WATCH_PERIOD {
            self.watched = Instant::now();
            self.watch();
        }
        if self.checked.elapsed() < CHECK_PERIOD {
            return;
        }
        self.checked = Instant::now();
        let broken: Vec<u64> = self
            .connections
            .iter_mut()
            .filter_map(|(id, connection)| (!connection.memory_is_intact()).then_some(*id))
            .collect();
        for connection in self.connections.values_mut() {
            connection.tidy(&self.unmap_worker);
        }
        for session in broken {
            self.close(session);
        }
    }

    /// Sessions that are over, what queues have left, clients that hold reactors up, and clients that wait.
    fn watch(&mut self) {
        let is_nowhere_else = |(_, session): &mut (Arc<Routes>, Arc<Session>)| session.is_nowhere_else();
        for (_, session) in self.ended.extract_if(.., is_nowhere_else) {
            self.unmap_worker.unmap_session(session);
        }
        let mut groups: BTreeMap<u32, Arc<GroupHandle>> = BTreeMap::new();
        for routes in self.routes() {
            groups.extend(routes.groups.iter().map(|group| (group.core, Arc::clone(group))));
        }
        for group in groups.values() {
            group.watch();
        }
        for connection in self.connections.values() {
            self.unmap_worker.trim(connection.session());
        }
        let blocked = |connection: &Connection| connection.session().interrupts.has_blocked();
        let blocked: Vec<u64> =
            self.connections.iter().filter(|(_, connection)| blocked(connection)).map(|(id, _)| *id).collect();
        for session in blocked {
            self.ban(session);
        }
        let waiting: Vec<u64> =
            self.endpoints.iter().filter(|(_, endpoint)| endpoint.waits()).map(|(id, _)| *id).collect();
        for ctrl in waiting {
            let is_accepting = self.endpoints.get(&ctrl).is_some_and(ControllerSocket::may_be_served);
            self.set_accepting(ctrl, is_accepting);
            self.admit_next(ctrl);
        }
    }

    /// A client has made an eventfd of its block: it must go, and cannot do that again at once.
    fn ban(&mut self, session: u64) {
        let ctrl = self.connections.get(&session).map(|connection| connection.session().ctrl.id);
        if let Some(endpoint) = ctrl.and_then(|ctrl| self.endpoints.get_mut(&ctrl)) {
            warn_ratelimited!(
                endpoint.ctrl,
                "controller '{}': an eventfd of the client's blocked: its connection is closed",
                endpoint.ctrl.name
            );
            endpoint.accept_queue.ban(Instant::now());
        }
        self.close(session);
    }
}
