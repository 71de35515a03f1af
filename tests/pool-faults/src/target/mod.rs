//! A target that does as it is told.

mod command;
mod connection;
mod device;
mod execute;
mod script;

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nvme_spec::AdminOpcode;
use nvme_spec::admin::{AsyncEvent, EventType, NoticeEvent};
use nvme_spec::log::{AnaState, LogId, MAX_CHANGED_NAMESPACES};

pub use self::command::Command;
use self::connection::Line;
pub use self::device::{Namespace, Options, ana_log};
use self::execute::{Answer, Device};
pub use self::script::{Do, Edit, EditPdus, On};
use crate::socket::{self, Cut, LOOK, lock};

/// The most commands that are kept.
const MAX_LOG: usize = 1 << 18;
/// The most events that wait for a request.
const MAX_EVENTS: usize = 64;

/// A command that has come whole.
struct Held {
    number: u32,
    command: Command,
    data: Vec<u8>,
    instead: Option<Do>,
}

struct State {
    device: Device,
    script: Vec<(On, Do)>,
    log: Vec<Command>,
    lines: Vec<Line>,
    threads: Vec<JoinHandle<()>>,
    held: Vec<Held>,
    held_answers: Vec<(u32, Vec<Vec<u8>>)>,
    listener: Option<Arc<TcpListener>>,
    ended: bool,
}

impl State {
    /// Returns what the script says about a command, or about an `ICReq`. The newest that is for it counts.
    fn instead(&mut self, command: Option<&Command>, number: u32) -> Option<Do> {
        let said = self.script.iter_mut().rev().find_map(|(on, what)| on.takes(command, number).then(|| what.clone()));
        said.filter(|what| !matches!(what, Do::Right))
    }

    fn note(&mut self, command: Command) {
        if self.log.len() < MAX_LOG {
            self.log.push(command);
        }
    }

    fn execute(&mut self, held: &Held) -> Option<Answer> {
        let line = &mut self.lines[held.number as usize];
        let answer = self.device.execute(&mut line.queue, &held.command, &held.data);
        if held.command.is_admin(AdminOpcode::ASYNC_EVENT_REQUEST) && answer.is_none() {
            self.deliver_events();
        }
        answer
    }

    fn pdus(&self, number: u32, command: &Command, answer: &Answer) -> Vec<Vec<u8>> {
        let options = &self.device.options;
        // Only reads are short of a completion.
        let success = options.c2h_success && command.qid > 0;
        self.lines[number as usize].pdus(command, answer, options.max_c2h, success)
    }

    /// Carries a command out and answers it, as the script says.
    fn carry_out(&mut self, held: &Held) {
        let Some(mut answer) = self.execute(held) else { return };
        let mut command = held.command;
        match &held.instead {
            Some(Do::NoAnswer) => return,
            Some(Do::WrongCid(cid)) => command.sqe.cid = *cid,
            Some(Do::ShortData(length)) => answer.data.truncate(*length),
            Some(Do::Data(data)) => answer.data.clone_from(data),
            Some(Do::Edit(edit)) => edit(&mut answer.data),
            Some(Do::Result(result)) => answer.result = *result,
            _ => {}
        }
        self.answer(&Held { command, data: Vec::new(), number: held.number, instead: held.instead.clone() }, &answer);
    }

    fn answer(&mut self, held: &Held, answer: &Answer) {
        let pdus = self.pdus(held.number, &held.command, answer);
        connection::deliver(&self.lines[held.number as usize], pdus, held.instead.as_ref());
    }

    /// Gives events to the requests that wait for them.
    fn deliver_events(&mut self) {
        for line in self.lines.iter().filter(|line| line.open && line.queue.qid == 0) {
            let Some(cntlid) = line.queue.cntlid else { continue };
            let Some(controller) = self.device.controllers.get_mut(&cntlid) else { continue };
            while !controller.events.is_empty() {
                let Some(cid) = controller.event_requests.pop_front() else { break };
                let answer = Answer::result(controller.events.pop_front().unwrap_or_default().into_bits());
                line.outbox.push(line.completion(cid, &answer), Duration::ZERO);
            }
        }
    }

    /// A connection has ended, and with an admin queue's those of its I/O queues.
    fn line_ended(&mut self, number: u32) {
        let line = &mut self.lines[number as usize];
        line.cut(Cut::Close);
        let Some(cntlid) = line.queue.cntlid.filter(|_| line.queue.qid == 0) else { return };
        self.device.controllers.remove(&cntlid);
        if self.device.options.ends_associations {
            for line in self.lines.iter_mut().filter(|line| line.open && line.queue.cntlid == Some(cntlid)) {
                line.cut(Cut::Close);
            }
        }
    }
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// A small NVMe/TCP target, whose data is in memory. What it does is right, except where it is told otherwise. It ends
/// when it is dropped.
pub struct ScriptedTarget {
    shared: Arc<Shared>,
    address: SocketAddr,
    acceptor: Option<JoinHandle<()>>,
}

impl ScriptedTarget {
    /// Returns a target, at a free port of 127.0.0.1, with a namespace 1 of 2,048 blocks of 512 bytes.
    #[must_use]
    pub fn new() -> Self {
        Self::with(Options::default(), [(1, Namespace::new(512, 2048, 0x11))])
    }

    /// Returns a target, at a free port of 127.0.0.1.
    #[must_use]
    pub fn with(options: Options, namespaces: impl IntoIterator<Item = (u32, Namespace)>) -> Self {
        let listener = listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let address = listener.local_addr().expect("a listener has an address");
        let state = State {
            device: Device::new(options, namespaces.into_iter().collect()),
            script: Vec::new(),
            log: Vec::new(),
            lines: Vec::new(),
            threads: Vec::new(),
            held: Vec::new(),
            held_answers: Vec::new(),
            listener: Some(Arc::new(listener)),
            ended: false,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let acceptor = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || accept(&shared))
        };
        Self { shared, address, acceptor: Some(acceptor) }
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

    /// Returns the name of its subsystem.
    #[must_use]
    pub fn nqn(&self) -> String {
        self.shared.lock().device.options.nqn.clone()
    }

    /// Changes what it is, for connections and commands that come from now on.
    pub fn change(&self, change: impl FnOnce(&mut Options)) {
        change(&mut self.shared.lock().device.options);
    }

    /// Says what is to be done instead of the right thing. Where several are for a command, the newest counts.
    pub fn on(&self, on: On, what: Do) {
        self.shared.lock().script.push((on, what));
    }

    /// Forgets all that it was told to do. What is held stays held, and connections that are silent stay so.
    pub fn behave(&self) {
        self.shared.lock().script.clear();
    }

    /// Carries out what was held, even if its connection has gone, and gives out the answers that were held.
    pub fn release(&self) {
        let mut state = self.shared.lock();
        for mut held in std::mem::take(&mut state.held) {
            held.instead = None;
            state.carry_out(&held);
        }
        for (number, pdus) in std::mem::take(&mut state.held_answers) {
            connection::deliver(&state.lines[number as usize], pdus, None);
        }
    }

    /// Returns how many commands and answers are held.
    #[must_use]
    pub fn held(&self) -> usize {
        let state = self.shared.lock();
        state.held.len() + state.held_answers.len()
    }

    /// Returns the commands that came, in their order.
    #[must_use]
    pub fn commands(&self) -> Vec<Command> {
        self.shared.lock().log.clone()
    }

    /// Forgets the commands that came.
    pub fn forget_commands(&self) {
        self.shared.lock().log.clear();
    }

    /// Returns how many commands came of some kind. Returns how often `on` is to be taken does not matter here.
    #[must_use]
    pub fn count(&self, on: &On) -> usize {
        self.shared.lock().log.iter().filter(|command| on.is_for(Some(command), command.connection)).count()
    }

    /// Waits until so many commands came of some kind. Returns whether they did in time.
    #[must_use]
    pub fn wait_for(&self, on: &On, count: usize, timeout: Duration) -> bool {
        self.wait(timeout, |target| target.count(on) >= count)
    }

    /// Waits until `done` says so, which is asked whenever something came. Returns whether it did in time.
    #[must_use]
    pub fn wait(&self, timeout: Duration, mut done: impl FnMut(&Self) -> bool) -> bool {
        let end = Instant::now() + timeout;
        while !done(self) {
            let now = Instant::now();
            if now >= end {
                return false;
            }
            let state = self.shared.lock();
            drop(self.shared.changed.wait_timeout(state, (end - now).min(LOOK)));
        }
        true
    }

    /// Returns how many connections came.
    #[must_use]
    pub fn connections(&self) -> u32 {
        u32::try_from(self.shared.lock().lines.len()).expect("they are few")
    }

    /// Returns the connections that are open: their numbers and queues.
    #[must_use]
    pub fn open_connections(&self) -> Vec<(u32, u16)> {
        let state = self.shared.lock();
        let open = (0..).zip(&state.lines).filter(|(_, line)| line.open);
        open.map(|(number, line)| (number, line.queue.qid)).collect()
    }

    /// Ends a connection.
    pub fn cut(&self, number: u32, how: Cut) {
        if let Some(line) = self.shared.lock().lines.get_mut(number as usize) {
            line.cut(how);
        }
    }

    /// Ends all connections.
    pub fn cut_all(&self, how: Cut) {
        for line in &mut self.shared.lock().lines {
            line.cut(how);
        }
    }

    /// Sends bytes of the test's own on a connection.
    pub fn send(&self, number: u32, bytes: Vec<u8>) {
        if let Some(line) = self.shared.lock().lines.get(number as usize) {
            line.outbox.push(bytes, Duration::ZERO);
        }
    }

    /// Listens no more: connections are refused by the kernel.
    pub fn stop_listening(&self) {
        if let Some(listener) = self.shared.lock().listener.take() {
            let _ = rustix::net::shutdown(&listener, rustix::net::Shutdown::Both);
        }
    }

    /// Listens again at its port.
    pub fn listen_again(&self) {
        let mut state = self.shared.lock();
        if state.listener.is_none() {
            state.listener = Some(Arc::new(listen(self.address)));
        }
        self.shared.changed.notify_all();
    }

    /// Adds a namespace, or puts it in the place of another, without an event.
    pub fn set_namespace(&self, nsid: u32, namespace: Namespace) {
        let device = &mut self.shared.lock().device;
        device.namespaces.insert(nsid, namespace);
        note_change(&mut device.changed, nsid);
    }

    /// Removes a namespace, without an event.
    pub fn remove_namespace(&self, nsid: u32) {
        let device = &mut self.shared.lock().device;
        note_change(&mut device.changed, nsid);
        device.namespaces.remove(&nsid);
    }

    /// Returns a namespace as it is now.
    #[must_use]
    pub fn namespace(&self, nsid: u32) -> Option<Namespace> {
        self.shared.lock().device.namespaces.get(&nsid).cloned()
    }

    /// Returns the data of blocks.
    #[must_use]
    pub fn read(&self, nsid: u32, slba: u64, blocks: u64) -> Vec<u8> {
        let state = self.shared.lock();
        let namespace = state.device.namespaces.get(&nsid).expect("a namespace that is there");
        namespace.data[namespace.range(slba, blocks).expect("blocks that are there")].to_vec()
    }

    /// Changes the data of blocks.
    pub fn write(&self, nsid: u32, slba: u64, data: &[u8]) {
        let mut state = self.shared.lock();
        let namespace = state.device.namespaces.get_mut(&nsid).expect("a namespace that is there");
        let blocks = data.len() as u64 / u64::from(namespace.block_size);
        let range = namespace.range(slba, blocks).expect("blocks that are there");
        namespace.data[range].copy_from_slice(data);
    }

    /// Sets the state of an ANA group, which counts for I/O as well, without an event.
    pub fn set_ana(&self, group: u32, state: AnaState) {
        let device = &mut self.shared.lock().device;
        device.ana_states.insert(group, state);
        device.ana_changes += 1;
    }

    /// Tells all hosts that namespaces have changed.
    pub fn namespaces_changed(&self) {
        self.notice(NoticeEvent::NAMESPACE_ATTRIBUTE_CHANGED, LogId::CHANGED_NAMESPACE_LIST);
    }

    /// Tells all hosts that ANA states have changed.
    pub fn ana_changed(&self) {
        self.notice(NoticeEvent::ANA_CHANGE, LogId::ANA);
    }

    /// Tells all hosts of an event. It waits for a request, if there is none.
    fn notice(&self, notice: NoticeEvent, lid: LogId) {
        let event = AsyncEvent::new().with_kind(EventType::NOTICE).with_information(notice.0).with_lid(lid);
        let mut state = self.shared.lock();
        for controller in state.device.controllers.values_mut() {
            if controller.events.len() < MAX_EVENTS {
                controller.events.push_back(event);
            }
        }
        state.deliver_events();
    }
}

impl Default for ScriptedTarget {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for ScriptedTarget {
    fn drop(&mut self) {
        self.stop_listening();
        let threads = {
            let mut state = self.shared.lock();
            state.ended = true;
            state.lines.iter_mut().for_each(|line| line.cut(Cut::Close));
            std::mem::take(&mut state.threads)
        };
        self.shared.changed.notify_all();
        for thread in threads.into_iter().chain(self.acceptor.take()) {
            let _ = thread.join();
        }
    }
}

fn note_change(changed: &mut Vec<u32>, nsid: u32) {
    if !changed.contains(&nsid) && changed.len() < MAX_CHANGED_NAMESPACES {
        changed.push(nsid);
    }
}

fn listen(address: SocketAddr) -> TcpListener {
    let listener = TcpListener::bind(address).expect("a port that is free");
    listener.set_nonblocking(true).expect("a listener can be polled");
    listener
}

/// Takes connections as they come. The body of a thread.
fn accept(shared: &Arc<Shared>) {
    loop {
        let state = shared.lock();
        if state.ended {
            return;
        }
        let Some(listener) = state.listener.clone() else {
            drop(shared.changed.wait_timeout(state, LOOK));
            continue;
        };
        if let Ok((stream, _)) = listener.accept() {
            take(shared, state, stream);
        } else {
            drop(state);
            socket::readable(&listener);
        }
    }
}

fn take(shared: &Arc<Shared>, mut state: MutexGuard<'_, State>, stream: TcpStream) {
    if socket::prepare(&stream).is_err() {
        return;
    }
    let stream = Arc::new(stream);
    let number = u32::try_from(state.lines.len()).expect("they are few");
    let line = Line::new(Arc::clone(&stream));
    let (writer, serving) = (Arc::clone(&line.outbox), Arc::clone(shared));
    state.lines.push(line);
    state.threads.push(thread::spawn(move || writer.write_all()));
    state.threads.push(thread::spawn(move || connection::serve(&serving, number, &stream)));
    drop(state);
    shared.changed.notify_all();
}
