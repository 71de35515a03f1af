//! A client's connection: its messages, its memory, its interrupts.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;
use vfio_user::{Event, MapRequest, Token};

use super::client_dma::WireTransfers;
use super::device::{Device, Effect};
use super::registrar::Registrar;
use super::share::TimeShare;
use super::socket::{self, Received};
use super::tables::OldTables;
use super::unmap_worker::UnmapWorker;
use super::unmask::Unmask;
use crate::runtime::log_budget::warn_ratelimited;
use crate::runtime::messages::{AdminMessage, GroupHandle, GroupMessage, QueueMessage, Routes};
use crate::runtime::session::Session;
use guest_memory::{Access, Extent, Files, GuestMemory, MapError, Region, guard};
use nvme_device::admin_worker::Request;
use nvme_device::connection::{Client, ClientOutput};
use nvme_device::model::regs::CtrlLimits;
use nvme_device::queue::{PinMask, Transfer};

/// How long a controller may take to become ready, in units of 500 ms (CAP.TO): a disable waits for I/O that is in
/// flight.
const TIMEOUT_500MS: u8 = 60;
/// The most messages that are read in a row, so that one client cannot keep the others waiting.
const BURST: usize = 64;

/// What is to become of a connection.
pub(super) enum ConnectionState {
    /// It goes on; wait for this.
    Open(EventFlags),
    /// It is over.
    Closed,
}

/// A client's connection with a controller.
pub(super) struct Connection {
    stream: UnixStream,
    wire: vfio_user::Session,
    device: Device,
    session: Arc<Session>,
    routes: Arc<Routes>,
    registrar: Arc<Registrar>,
    /// What it has asked for, and its memory.
    client: Client<Token>,
    /// Tables of its memory that were published before the newest.
    old: OldTables,
    files: Files,
    transfers: WireTransfers,
    unmask: Unmask,
    began: Instant,
    /// Of the control thread's time.
    share: TimeShare,
    /// It has had more than its share.
    waits: bool,
    /// How often pages of any client's memory could not be had, as last seen.
    faults: u64,
}

impl Connection {
    /// Begins a session of that number with the client at the other end of `stream`.
    pub(super) fn begin(
        number: u64,
        routes: &Arc<Routes>,
        stream: UnixStream,
        registrar: &Arc<Registrar>,
        unmask: Unmask,
        share: TimeShare,
    ) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let ctrl = &routes.ctrl;
        let limits =
            CtrlLimits { max_queue_entries: ctrl.max_queue_depth, timeout_500ms: TIMEOUT_500MS, version: ctrl.version };
        let session = Arc::new(Session::new(number, ctrl, routes.groups.len(), limits)?);
        let device = Device::new(Arc::clone(&session));
        let info = device.info();
        Ok(Self {
            stream,
            wire: vfio_user::Session::new(info.clone()),
            device,
            session,
            routes: Arc::clone(routes),
            registrar: Arc::clone(registrar),
            client: Client::new(info.msix_vectors),
            old: OldTables::default(),
            files: Files::new(guest_memory::LimitShare::of_mappings()),
            transfers: WireTransfers::new(number),
            unmask,
            began: Instant::now(),
            share,
            waits: false,
            faults: guard::faults(),
        })
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    pub(super) fn session(&self) -> &Arc<Session> {
        &self.session
    }

    pub(super) fn routes(&self) -> &Arc<Routes> {
        &self.routes
    }

    /// Returns whether the client can be heard. If not, its end would not be noticed either.
    pub(super) fn wants_input(&self) -> bool {
        !self.waits && self.wire.wants_input()
    }

    /// Returns whether the client waits for others to have their share of this thread's time.
    pub(super) const fn waits_for_others(&self) -> bool {
        self.waits
    }

    /// Returns whether the client, which has waited for others, may be served again.
    pub(super) fn has_waited(&self) -> bool {
        self.waits && self.share.may_be_served(Instant::now())
    }

    /// Time was spent for the client.
    pub(super) fn charge(&mut self, began: Instant) {
        let now = Instant::now();
        self.share.charge(now, now.saturating_duration_since(began));
    }

    /// Returns what the client has had of this thread's time.
    pub(super) const fn share(&self) -> TimeShare {
        self.share
    }

    /// Returns whether the client has said nothing of use for so long.
    pub(super) fn is_silent(&self, time: Duration) -> bool {
        !self.wire.is_negotiated() && self.began.elapsed() >= time
    }

    /// Tells the controller's admin worker that there is a client.
    pub(super) fn attach(&self) {
        self.routes.send_admin(AdminMessage::Attach { session: Arc::clone(&self.session) });
    }

    /// Tells the admin worker that the client has gone. What it had mapped is given back, and the tables of that, to be
    /// dropped when nobody else holds it.
    pub(super) fn end(mut self, unmap_worker: &UnmapWorker) -> (Vec<Arc<Region>>, OldTables) {
        unmap_worker.unmap_files(self.files.take_all());
        self.session.interrupts.clear();
        self.old.push(self.session.memory.publish(GuestMemory::new()));
        self.session.ctrl.regions.store(0, Ordering::Relaxed);
        self.session.ctrl.memory.store(0, Ordering::Relaxed);
        self.routes.send_admin(AdminMessage::Detach { session: self.session.id });
        (self.client.into_regions(), self.old)
    }

    /// Reads into `buffer`, acts and writes until there is nothing to do.
    pub(super) fn serve(&mut self, buffer: &mut [u8]) -> ConnectionState {
        let began = Instant::now();
        self.waits = !self.share.may_be_served(began);
        let result = self.exchange(buffer);
        self.charge(began);
        match result {
            Ok(state) => state,
            Err(error) => {
                warn_ratelimited!(
                    self.session.ctrl,
                    "controller '{}': the client's connection is closed: {error}",
                    self.session.ctrl.name
                );
                // What explains it to the client goes out if it can.
                let _ = self.write();
                ConnectionState::Closed
            }
        }
    }

    fn exchange(&mut self, buffer: &mut [u8]) -> Result<ConnectionState, String> {
        let mut reads = 0;
        loop {
            // What was read last is acted on before this returns: nobody comes back for it.
            self.act()?;
            let blocked = self.write().map_err(|error| error.to_string())?;
            let out = if blocked { EventFlags::OUT } else { EventFlags::empty() };
            if !self.wants_input() {
                return Ok(ConnectionState::Open(out));
            }
            if reads == BURST {
                return Ok(ConnectionState::Open(EventFlags::IN | out));
            }
            reads += 1;
            let len = self.wire.read_hint().min(buffer.len());
            let room = buffer.get_mut(..len).unwrap_or_default();
            match socket::receive(&self.stream, room).map_err(|error| error.to_string())? {
                Received::End => return Ok(ConnectionState::Closed),
                Received::Nothing => return Ok(ConnectionState::Open(EventFlags::IN | out)),
                Received::Some(count, fds) => {
                    let bytes = buffer.get(..count).unwrap_or_default();
                    self.wire.receive(bytes, fds).map_err(|error| error.to_string())?;
                }
            }
        }
    }

    /// Writes what waits. Returns whether the client does not take it.
    fn write(&mut self) -> io::Result<bool> {
        while let Some(chunk) = self.wire.output() {
            let count = socket::send(&self.stream, &chunk)?;
            if count == 0 {
                return Ok(true);
            }
            self.wire.sent(count);
        }
        Ok(false)
    }

    fn act(&mut self) -> Result<(), String> {
        while !self.waits {
            // The memory is to be there for whatever else the client asks: that waits.
            let only_questions = self.client.is_mapping();
            let event = self.wire.next_of(&mut self.device, only_questions);
            // What came before a broken message has been done, and the admin worker must know.
            self.post_effects();
            match event.map_err(|error| error.to_string())? {
                None => return Ok(()),
                Some(Event::Map(token, request)) => {
                    let region = region_of(&mut self.files, request);
                    self.client.map(token, region);
                }
                Some(Event::Unmap(token, request)) => self.client.unmap(token, request, Instant::now()),
                Some(Event::SetIrqs(token, request)) => {
                    self.client.set_irqs(token, request, self.session.interrupts.has_blocked());
                }
                Some(Event::Reset(token)) => {
                    self.device.reset();
                    if self.device.take_changed() {
                        self.set_pending();
                    }
                    self.client.reset(token);
                }
                Some(Event::ConfigWritten(token)) => {
                    let bus = &self.session.bus;
                    let quiesce = (!bus.is_allowed()).then(|| bus.state());
                    self.client.config_written(token, quiesce, Instant::now());
                }
                Some(Event::DmaDone { id, result }) => self.transfers.ended(id, result),
            }
            self.carry_out();
        }
        Ok(())
    }

    /// Register writes go to the admin worker in the order in which the client made them.
    fn post_effects(&mut self) {
        for effect in self.device.take_effects() {
            match effect {
                Effect::Registers(effect) => self.ask(effect.into()),
                Effect::FunctionReset => {
                    self.client.function_reset();
                    self.carry_out();
                }
            }
        }
        if self.device.take_changed() {
            self.set_pending();
        }
    }

    fn ask(&self, request: Request) {
        if self.session.ask(request) {
            self.routes.send_admin(AdminMessage::Requested { session: self.session.id });
        }
    }

    /// Carries out what was decided. Returns whether anything was answered.
    fn carry_out(&mut self) -> bool {
        let mut answered = false;
        while let Some(output) = self.client.next_output() {
            match output {
                ClientOutput::Register(region) => {
                    self.registrar.register(&self.session, region, self.session.ctrl.prefault);
                }
                ClientOutput::Publish(memory) => self.publish(memory),
                ClientOutput::ChangeIrqs { token, changes } => {
                    let unmask = &mut self.unmask;
                    let mut set_unmask = |file| unmask.set(file).map_err(rustix::io::Errno::raw_os_error);
                    let mut changes = changes.into_iter();
                    let result = changes.try_for_each(|change| change.apply(&self.session.interrupts, &mut set_unmask));
                    self.wire.reply(token, result);
                }
                ClientOutput::Refresh => self.set_pending(),
                ClientOutput::Ask(request) => self.ask(request),
                ClientOutput::AbortUnmapped => {
                    // A client may wait for the memory before it answers anything else.
                    self.transfers.give_up_unmapped(&mut self.wire, self.client.memory());
                    self.routes.send_queues(self.session.id, || QueueMessage::AbortUnmapped);
                }
                ClientOutput::Warn(warning) => {
                    warn_ratelimited!(self.session.ctrl, "controller '{}': {warning}", self.session.ctrl.name);
                }
                ClientOutput::Reply { token, result } => {
                    answered = true;
                    self.wire.reply(token, result);
                }
            }
        }
        self.device.set_ready(self.client.is_ready());
        answered
    }

    fn publish(&mut self, memory: GuestMemory) {
        self.session.ctrl.regions.store(memory.len() as u64, Ordering::Relaxed);
        self.session.ctrl.memory.store(memory.bytes(), Ordering::Relaxed);
        self.old.push(self.session.memory.publish(memory));
    }

    /// Devices were told of the memory that was mapped last.
    pub(super) fn registered(&mut self, result: Result<(), spdk::Errno>) {
        self.client.registered(result);
        self.carry_out();
    }

    /// Has the poll groups look at the memory, at whether they may access it, and at the eventfds now.
    fn set_pending(&self) {
        for (index, group) in self.routes.groups.iter().enumerate() {
            if self.session.set_pending(index) {
                let (routes, session) = (Arc::clone(&self.routes), Arc::clone(&self.session));
                group.send(GroupMessage::Refresh { routes, session, index });
            }
        }
    }

    /// Returns whether the client waits for memory to be let go, or for something else that is to be looked at, or
    /// somebody for a transfer to be given up.
    pub(super) fn is_releasing(&self) -> bool {
        self.client.is_waiting() || self.transfers.has_cancelled()
    }

    /// Begins a transfer for a poll group.
    pub(super) fn transfer(&mut self, group: Arc<GroupHandle>, transfer: Transfer) {
        self.transfers.begin(&mut self.wire, group, transfer);
    }

    /// The poll group wants its transfer to end.
    pub(super) fn cancel(&mut self, id: u64) {
        self.transfers.cancel(&mut self.wire, id);
    }

    /// Answers for what nobody holds any more. Returns whether anything was answered.
    pub(super) fn release(&mut self, unmap_worker: &UnmapWorker) -> bool {
        self.transfers.give_up_cancelled(&mut self.wire);
        self.old.drop_free();
        let (bus, now) = (&self.session.bus, Instant::now());
        let unmap = |regions| unmap_worker.unmap(regions);
        let unmapped = self.client.look(|state| bus.are_quiesced(state), unmap, now);
        self.share.charge_unmapped(now, unmapped);
        self.carry_out()
    }

    /// The client has unmasked the interrupt pin by its eventfd.
    pub(super) fn unmasked(&mut self) {
        self.unmask.drain();
        if self.session.interrupts.pin().set_mask(PinMask::Client, false) {
            self.set_pending();
        }
    }

    /// A reset is over.
    pub(super) fn reset_done(&mut self, number: u64) {
        let bus = &self.session.bus;
        self.client.reset_done(number, |state| bus.are_quiesced(state), Instant::now());
        self.carry_out();
    }

    /// Returns whether the client's files are still as long as what it mapped of them.
    pub(super) fn memory_is_intact(&mut self) -> bool {
        if !self.files.are_intact() {
            warn_ratelimited!(
                self.session.ctrl,
                "controller '{}': the client shrank the file behind its memory, or page after page of it is broken: its connection is \
                 closed",
                self.session.ctrl.name
            );
            return false;
        }
        self.tell_poison();
        true
    }

    /// Takes out what the client's regions are in no more.
    pub(super) fn tidy(&mut self, unmap_worker: &UnmapWorker) {
        self.old.drop_free();
        unmap_worker.unmap_files(self.files.take_unused());
    }

    /// Tells once of pages that cannot be had.
    fn tell_poison(&mut self) {
        let faults = guard::faults();
        if std::mem::replace(&mut self.faults, faults) == faults {
            return;
        }
        for region in self.client.memory().regions().filter(|region| region.is_poisoned()) {
            warn_ratelimited!(
                self.session.ctrl,
                "controller '{}': a page of the client's memory at {:#x} cannot be had (a hardware memory error, or no room in its file \
                 system): I/O there fails",
                self.session.ctrl.name,
                region.gpa()
            );
        }
    }
}

/// Maps what a client asks for.
fn region_of(files: &mut Files, request: MapRequest) -> Result<Region, MapError> {
    let access = match (request.readable, request.writeable) {
        (true, true) => Access::ReadWrite,
        (true, false) => Access::ReadOnly,
        (false, true) => Access::WriteOnly,
        (false, false) => return Err(MapError::NoAccess { gpa: request.addr }),
    };
    match request.fd {
        Some(file) => files.map(file, Extent::new(request.offset, request.addr, request.size, access)?, |_| {}),
        None => Region::without_file(request.addr, request.size, access, |_| {}),
    }
}
