//! The control thread: all sockets and all that clients ask for by messages.
//!
//! It is an operating-system thread of its own, not a reactor's: a client is answered at once whatever the reactors do. QEMU gives a
//! device up that does not answer for five seconds.

mod connection;
mod device;
mod socket;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};

use super::session::Ctrl;
use crate::memory::Region;
use connection::{Connection, State};

/// Connections that wait for the client before them to go.
const MAX_WAITING: usize = 4;
/// A client that has said nothing for so long makes room for one that waits.
const SILENCE: Duration = Duration::from_secs(1);
/// How often it is looked whether regions that were unmapped are still in use.
const RELEASE_PERIOD: Duration = Duration::from_millis(2);
/// How often files that clients could shrink are looked at.
const CHECK_PERIOD: Duration = Duration::from_millis(250);

/// What other threads ask of the control thread.
enum Command {
    /// Serve a controller on a socket.
    Add(Arc<Ctrl>, UnixListener),
    /// Serve it no more.
    Remove(u64, Box<dyn FnOnce() + Send>),
    /// A reset of that number, of that session, is over.
    ResetDone { session: u64, number: u64 },
    /// A poll group has let go of memory.
    Released,
    /// End.
    End,
}

/// The control thread, for other threads.
#[derive(Debug)]
pub struct Control {
    remote: Remote,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// The way to the control thread.
#[derive(Debug, Clone)]
pub struct Remote {
    commands: Sender<Command>,
    wake: Arc<OwnedFd>,
}

impl Remote {
    fn send(&self, command: Command) {
        if self.commands.send(command).is_ok() {
            // The eventfd does not block; one whose count is full wakes as well.
            let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
        }
    }

    /// A poll group has let go of memory.
    pub fn released(&self) {
        self.send(Command::Released);
    }
}

impl Control {
    /// Starts the thread.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn start() -> io::Result<Self> {
        crate::memory::guard::install()?;
        let (commands, receiver) = mpsc::channel();
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let remote = Remote { commands, wake: Arc::clone(&wake) };
        let mut server = Server::new(receiver, wake, remote.clone())?;
        let thread = spdk::thread::spawn_unpinned("courier_control", move || server.run())?;
        Ok(Self { remote, thread: Mutex::new(Some(thread)) })
    }

    /// Serves a controller on a socket.
    pub fn add(&self, ctrl: Arc<Ctrl>, listener: UnixListener) {
        self.remote.send(Command::Add(ctrl, listener));
    }

    /// Closes a controller's socket and its client's connection. `done` is called on the control thread.
    pub fn remove(&self, ctrl: u64, done: impl FnOnce() + Send + 'static) {
        self.remote.send(Command::Remove(ctrl, Box::new(done)));
    }

    /// Ends the thread, and with it all connections.
    pub fn end(&self) {
        self.remote.send(Command::End);
        let thread = self.thread.lock().ok().and_then(|mut thread| thread.take());
        if thread.is_some_and(|thread| thread.join().is_err()) {
            log::error!("the control thread has panicked");
        }
    }
}

/// A controller's socket, and who is on it.
struct Endpoint {
    ctrl: Arc<Ctrl>,
    listener: UnixListener,
    active: Option<u64>,
    waiting: VecDeque<UnixStream>,
}

/// What epoll tells a listener and a connection by, besides `WAKE`.
const WAKE: u64 = 0;
const fn listener_key(ctrl: u64) -> u64 {
    ctrl << 1
}
const fn connection_key(session: u64) -> u64 {
    session << 1 | 1
}

struct Server {
    epoll: OwnedFd,
    wake: Arc<OwnedFd>,
    commands: Receiver<Command>,
    remote: Remote,
    endpoints: BTreeMap<u64, Endpoint>,
    connections: BTreeMap<u64, Connection>,
    /// Regions of sessions that are over: they are unmapped here, not on a reactor, when no I/O touches them.
    graves: Vec<Arc<Region>>,
    next_session: u64,
    checked: Instant,
}

impl Server {
    fn new(commands: Receiver<Command>, wake: Arc<OwnedFd>, remote: Remote) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &wake, epoll::EventData::new_u64(WAKE), epoll::EventFlags::IN)?;
        Ok(Self {
            epoll,
            wake,
            commands,
            remote,
            endpoints: BTreeMap::new(),
            connections: BTreeMap::new(),
            graves: Vec::new(),
            next_session: 1,
            checked: Instant::now(),
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
                        if !self.obey() {
                            return;
                        }
                    }
                    key if key & 1 == 0 => self.accept(key >> 1),
                    key => {
                        self.serve(key >> 1);
                        // Whatever it still waits for, nobody is there to be told.
                        let flags = event.flags;
                        if flags.contains(epoll::EventFlags::HUP) {
                            self.close(key >> 1);
                        }
                    }
                }
            }
            self.look_after();
        }
    }

    fn timeout(&self) -> Option<Duration> {
        if !self.graves.is_empty() || self.connections.values().any(Connection::is_releasing) {
            Some(RELEASE_PERIOD)
        } else if self.connections.is_empty() {
            None
        } else {
            Some(CHECK_PERIOD)
        }
    }

    /// Does what other threads ask. Whether to go on.
    fn obey(&mut self) -> bool {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.wake, &mut count);
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Add(ctrl, listener) => self.add(ctrl, listener),
                Command::Remove(ctrl, done) => {
                    self.remove(ctrl);
                    done();
                }
                Command::ResetDone { session, number } => {
                    if let Some(connection) = self.connections.get_mut(&session) {
                        connection.reset_done(number);
                        self.serve(session);
                    }
                }
                Command::Released => {}
                Command::End => {
                    let ctrls: Vec<u64> = self.endpoints.keys().copied().collect();
                    for ctrl in ctrls {
                        self.remove(ctrl);
                    }
                    return false;
                }
            }
        }
        true
    }

    fn add(&mut self, ctrl: Arc<Ctrl>, listener: UnixListener) {
        let key = epoll::EventData::new_u64(listener_key(ctrl.id));
        if let Err(error) = epoll::add(&self.epoll, &listener, key, epoll::EventFlags::IN) {
            return log::error!("controller '{}' cannot be served: {error}", ctrl.name);
        }
        self.endpoints.insert(ctrl.id, Endpoint { ctrl, listener, active: None, waiting: VecDeque::new() });
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
        let Some(endpoint) = self.endpoints.get_mut(&ctrl) else { return };
        while let Ok((stream, _)) = endpoint.listener.accept() {
            if endpoint.waiting.len() >= MAX_WAITING {
                log::warn!("controller '{}': a client was turned away: others wait already", endpoint.ctrl.name);
                continue;
            }
            endpoint.waiting.push_back(stream);
        }
        self.promote(ctrl);
    }

    /// Lets the next client in if there is none, or if the one there has said nothing.
    fn promote(&mut self, ctrl: u64) {
        let Some(endpoint) = self.endpoints.get(&ctrl) else { return };
        if endpoint.waiting.is_empty() {
            return;
        }
        if let Some(active) = endpoint.active {
            let silent = self.connections.get(&active).is_none_or(|connection| connection.is_silent(SILENCE));
            if !silent {
                return;
            }
            log::warn!("controller '{}': a client that said nothing makes room for another", endpoint.ctrl.name);
            return self.close(active);
        }
        let Some(endpoint) = self.endpoints.get_mut(&ctrl) else { return };
        while let Some(stream) = endpoint.waiting.pop_front() {
            let session = self.next_session;
            self.next_session += 1;
            let connection = match Connection::begin(session, &endpoint.ctrl, stream, &self.remote) {
                Ok(connection) => connection,
                Err(error) => {
                    log::error!("controller '{}': a client cannot be served: {error}", endpoint.ctrl.name);
                    continue;
                }
            };
            let key = epoll::EventData::new_u64(connection_key(session));
            if let Err(error) = epoll::add(&self.epoll, connection.socket(), key, epoll::EventFlags::IN) {
                log::error!("controller '{}': a client cannot be served: {error}", endpoint.ctrl.name);
                continue;
            }
            endpoint.active = Some(session);
            endpoint.ctrl.connected.store(true, Ordering::Release);
            connection.attach();
            self.connections.insert(session, connection);
            return self.serve(session);
        }
    }

    /// Reads from a client, does what it asks, and writes to it.
    fn serve(&mut self, session: u64) {
        let Some(connection) = self.connections.get_mut(&session) else { return };
        match connection.serve() {
            State::Open(interest) => {
                let key = epoll::EventData::new_u64(connection_key(session));
                let _ = epoll::modify(&self.epoll, connection.socket(), key, interest);
            }
            State::Closed => self.close(session),
        }
    }

    fn close(&mut self, session: u64) {
        let Some(connection) = self.connections.remove(&session) else { return };
        let _ = epoll::delete(&self.epoll, connection.socket());
        let ctrl = connection.ctrl_id();
        self.graves.extend(connection.end());
        if let Some(endpoint) = self.endpoints.get_mut(&ctrl) {
            endpoint.active = None;
            endpoint.ctrl.connected.store(false, Ordering::Release);
            self.promote(ctrl);
        }
    }

    /// What comes with time: regions that are free now, clients that shrank their memory, clients that wait.
    fn look_after(&mut self) {
        self.graves.retain(|region| Arc::strong_count(region) > 1);
        let releasing: Vec<u64> =
            self.connections.iter().filter(|(_, connection)| connection.is_releasing()).map(|(id, _)| *id).collect();
        for session in releasing {
            if self.connections.get_mut(&session).is_some_and(Connection::release) {
                self.serve(session);
            }
        }
        if self.checked.elapsed() < CHECK_PERIOD {
            return;
        }
        self.checked = Instant::now();
        let broken: Vec<u64> = self
            .connections
            .iter()
            .filter(|(_, connection)| !connection.memory_is_intact())
            .map(|(id, _)| *id)
            .collect();
        for session in broken {
            self.close(session);
        }
        let ctrls: Vec<u64> = self.endpoints.keys().copied().collect();
        for ctrl in ctrls {
            self.promote(ctrl);
        }
    }
}
