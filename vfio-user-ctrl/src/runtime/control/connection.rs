//! A client's connection: its messages, its memory, its interrupts.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;
use vfio_user::{Event, IrqAction, IrqData, IrqKind, IrqRequest, MAX_READ, MapRequest, Token, UnmapRequest};

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
use crate::runtime::session::{Ctrl, Session};
use guest_memory::{Access, Extent, Files, GuestMemory, MapError, Region, guard};
use nvme_device::admin_worker::Request;
use nvme_device::connection::{Replies, Unmaps};
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

/// A client that has mapped memory, of which devices are being told. What it asks next waits: the memory is to be
/// there.
struct PendingMapping {
    token: Token,
    /// With that region.
    memory: GuestMemory,
    gpa: u64,
}

/// A client's connection with a controller.
pub(super) struct Connection {
    stream: UnixStream,
    wire: vfio_user::Session,
    device: Device,
    session: Arc<Session>,
    routes: Arc<Routes>,
    registrar: Arc<Registrar>,
    memory: GuestMemory,
    /// What was published before it.
    old: OldTables,
    files: Files,
    mapping: Option<PendingMapping>,
    unmaps: Unmaps<Token, Arc<Region>>,
    transfers: WireTransfers,
    replies: Replies<Token>,
    unmask: Unmask,
    began: Instant,
    /// Of the control thread's time.
    share: TimeShare,
    /// It has had more than its share.
    waits: bool,
    /// How often pages of any client's memory could not be had, as last seen.
    faults: u64,
    buffer: Vec<u8>,
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
        Ok(Self {
            stream,
            wire: vfio_user::Session::new(device.info()),
            device,
            session,
            routes: Arc::clone(routes),
            registrar: Arc::clone(registrar),
            memory: GuestMemory::new(),
            old: OldTables::default(),
            files: Files::new(guest_memory::LimitShare::of_mappings()),
            mapping: None,
            unmaps: Unmaps::default(),
            transfers: WireTransfers::new(number),
            replies: Replies::default(),
            unmask,
            began: Instant::now(),
            share,
            waits: false,
            faults: guard::faults(),
            buffer: vec![0; MAX_READ],
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
        let memory = self.mapping.map_or(self.memory, |mapping| mapping.memory);
        let mut regions: Vec<Arc<Region>> = memory.regions().cloned().collect();
        regions.extend(self.unmaps.into_regions());
        (regions, self.old)
    }

    /// Reads, acts and writes until there is nothing to do.
    pub(super) fn serve(&mut self) -> ConnectionState {
        let began = Instant::now();
        self.waits = !self.share.may_be_served(began);
        let result = self.exchange();
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

    fn exchange(&mut self) -> Result<ConnectionState, String> {
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
            let len = self.wire.read_hint().min(self.buffer.len());
            let buffer = self.buffer.get_mut(..len).unwrap_or_default();
            match socket::receive(&self.stream, buffer).map_err(|error| error.to_string())? {
                Received::End => return Ok(ConnectionState::Closed),
                Received::Nothing => return Ok(ConnectionState::Open(EventFlags::IN | out)),
                Received::Some(count, fds) => {
                    let bytes = self.buffer.get(..count).unwrap_or_default();
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
            let only_questions = self.mapping.is_some();
            let event = self.wire.next_of(&mut self.device, only_questions);
            // What came before a broken message has been done, and the admin worker must know.
            self.post_effects();
            match event.map_err(|error| error.to_string())? {
                None => return Ok(()),
                Some(Event::Map(token, request)) => self.map(token, request),
                Some(Event::Unmap(token, request)) => self.unmap(token, request),
                Some(Event::SetIrqs(token, request)) => {
                    let result = self.set_irqs(request);
                    self.wire.reply(token, result);
                }
                Some(Event::Reset(token)) => self.reset(token),
                Some(Event::ConfigWritten(token)) => {
                    let bus = &self.session.bus;
                    let rest = (!bus.is_allowed()).then(|| bus.state());
                    self.replies.config_written(token, rest, Instant::now());
                }
                Some(Event::DmaDone { id, result }) => self.transfers.ended(id, result),
            }
        }
        Ok(())
    }

    /// Register writes go to the admin worker in the order in which the client made them.
    fn post_effects(&mut self) {
        for effect in self.device.take_effects() {
            match effect {
                Effect::Registers(effect) => self.ask(effect.into()),
                Effect::FunctionReset => match self.replies.function_reset() {
                    Some(number) => self.ask(Request::Reset { number }),
                    None => self.ask(Request::Disable),
                },
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

    fn map(&mut self, token: Token, request: MapRequest) {
        let (gpa, size, has_file) = (request.addr, request.size, request.fd.is_some());
        let added = region_of(&mut self.files, request).and_then(|region| {
            let region = Arc::new(region);
            Ok((self.memory.with(Arc::clone(&region))?, region))
        });
        match added {
            Ok((memory, region)) if has_file => {
                self.mapping = Some(PendingMapping { token, memory, gpa });
                self.registrar.register(&self.session, region, self.session.ctrl.prefault);
            }
            Ok((memory, _)) => {
                warn_ratelimited!(
                    self.session.ctrl,
                    "controller '{}': the client maps {size:#x} bytes at {gpa:#x} without a file: data there go by messages, \
                     which is slow, and queues, PRP lists and SGL segments cannot be there; share the VM's memory (QEMU: memory-backend-memfd,share=on)",
                    self.session.ctrl.name
                );
                self.publish(memory);
                self.wire.reply(token, Ok(()));
            }
            Err(error) => {
                warn_ratelimited!(
                    self.session.ctrl,
                    "controller '{}': a mapping of the client's is refused: {error}",
                    self.session.ctrl.name
                );
                self.wire.reply(token, Err(error.errno()));
            }
        }
    }

    /// Devices were told of the memory that was mapped last. If they cannot be, they refuse I/O there; others do not
    /// need it.
    pub(super) fn registered(&mut self, result: Result<(), spdk::Errno>) {
        let Some(PendingMapping { token, memory, gpa }) = self.mapping.take() else { return };
        if let Err(error) = result {
            warn_ratelimited!(
                self.session.ctrl,
                "controller '{}': devices do not take the client's memory at {gpa:#x} ({error}): I/O there fails on RDMA and on \
                 local drives; is it shared memory or hugepages, and is the limit of locked memory (ulimit -l) high enough?",
                self.session.ctrl.name
            );
        }
        self.publish(memory);
        self.wire.reply(token, Ok(()));
    }

    fn publish(&mut self, memory: GuestMemory) {
        self.session.ctrl.regions.store(memory.len() as u64, Ordering::Relaxed);
        self.session.ctrl.memory.store(memory.bytes(), Ordering::Relaxed);
        self.old.push(self.session.memory.publish(memory.clone()));
        self.memory = memory;
    }

    /// Takes regions away. The answer comes when no reactor holds them any more.
    fn unmap(&mut self, token: Token, request: UnmapRequest) {
        let parted = if request.all {
            let (rest, regions) = self.memory.without_all();
            Ok((rest, regions))
        } else {
            self.memory.without(request.addr, request.size)
        };
        match parted {
            // With an IOMMU in the guest, what is told to be gone need not have been there.
            Ok((_, regions)) if regions.is_empty() => self.wire.reply(token, Ok(())),
            Ok((rest, regions)) => {
                self.publish(rest);
                self.unmaps.begin(token, regions, Instant::now());
                self.set_pending();
            }
            Err(error) => {
                warn_ratelimited!(
                    self.session.ctrl,
                    "controller '{}': memory is not unmapped: {error}",
                    self.session.ctrl.name
                );
                self.wire.reply(token, Err(error.errno()));
            }
        }
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
        !self.unmaps.is_empty() || self.replies.is_waiting() || self.transfers.has_cancelled()
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
        let answered = self.answer_late();
        self.old.drop_free();
        let now = Instant::now();
        let released = self.unmaps.release(|regions| unmap_worker.unmap(regions), now);
        self.share.charge_unmapped(now, released.regions);
        let released_any = !released.replies.is_empty();
        for token in released.replies {
            self.wire.reply(token, Ok(()));
        }
        if released.is_overdue {
            self.abort_unmapped();
        }
        answered || released_any
    }

    /// Answers what is over, or has been waited for long enough. Returns whether anything was answered.
    fn answer_late(&mut self) -> bool {
        let bus = &self.session.bus;
        let due = self.replies.take_due(|state| bus.are_at_rest(state), Instant::now());
        self.device.set_ready(self.replies.is_ready());
        let answered = !due.is_empty();
        for token in due {
            self.wire.reply(token, Ok(()));
        }
        answered
    }

    /// I/O still touches memory that the client wants back: it is aborted.
    fn abort_unmapped(&mut self) {
        warn_ratelimited!(
            self.session.ctrl,
            "controller '{}': I/O is aborted: its memory is being unmapped",
            self.session.ctrl.name
        );
        // A client may wait for the memory before it answers anything else.
        self.transfers.give_up_unmapped(&mut self.wire, &self.memory);
        self.routes.send_queues(self.session.id, || QueueMessage::AbortUnmapped);
    }

    fn set_irqs(&mut self, request: IrqRequest) -> Result<(), i32> {
        let interrupts = &self.session.interrupts;
        if interrupts.has_blocked() {
            return Err(libc::EINVAL);
        }
        if request.kind == IrqKind::Pin {
            return self.set_pin(request);
        }
        let limit = usize::from(self.session.ctrl.max_queues) + 1;
        let start = usize::try_from(request.start).map_err(|_| libc::EINVAL)?;
        match (request.action, request.data) {
            (IrqAction::Trigger, IrqData::Eventfds(files)) => {
                for file in files.iter().flatten() {
                    check_eventfd(file, &self.session.ctrl)?;
                }
                interrupts.set(start, files, limit);
                self.set_pending();
            }
            (IrqAction::Trigger, IrqData::None) if request.count == 0 => interrupts.clear(),
            (IrqAction::Trigger, data) => {
                for index in 0..request.count {
                    let chosen = match &data {
                        IrqData::Bools(bools) => bools.get(index as usize).copied().unwrap_or(false),
                        _ => true,
                    };
                    let vector = u16::try_from(request.start.saturating_add(index)).map_err(|_| libc::EINVAL)?;
                    if chosen {
                        interrupts.ask(vector);
                    }
                }
                // Not from this thread: it answers all clients, and an eventfd of this one may block.
                self.set_pending();
            }
            // Masking of MSI-X vectors is the client's: it keeps the table.
            (IrqAction::Mask | IrqAction::Unmask, _) => {}
        }
        Ok(())
    }

    /// The same for the interrupt pin, of which there is one.
    fn set_pin(&mut self, request: IrqRequest) -> Result<(), i32> {
        let pin = self.session.interrupts.pin();
        let chosen = match &request.data {
            IrqData::Bools(bools) => bools.first().copied().unwrap_or(false),
            _ => request.count > 0,
        };
        match (request.action, request.data) {
            (IrqAction::Trigger, IrqData::Eventfds(files)) => {
                let file = files.into_iter().flatten().next();
                file.as_ref().map_or(Ok(()), |file| check_eventfd(file, &self.session.ctrl))?;
                pin.set_file(file);
            }
            (IrqAction::Trigger, IrqData::None) if request.count == 0 => {
                pin.set_file(None);
                let _ = self.unmask.set(None);
            }
            // The reason to raise it is looked at below.
            (IrqAction::Trigger, _) => {
                if chosen {
                    self.session.interrupts.ask_pin();
                }
            }
            (IrqAction::Unmask, IrqData::Eventfds(files)) => {
                let file = files.into_iter().flatten().next();
                file.as_ref().map_or(Ok(()), |file| check_eventfd(file, &self.session.ctrl))?;
                return self.unmask.set(file).map_err(rustix::io::Errno::raw_os_error);
            }
            (action, _) if chosen => {
                pin.set_mask(PinMask::Client, action == IrqAction::Mask);
            }
            (IrqAction::Mask | IrqAction::Unmask, _) => {}
        }
        self.set_pending();
        Ok(())
    }

    /// The client has unmasked the interrupt pin by its eventfd.
    pub(super) fn unmasked(&mut self) {
        self.unmask.drain();
        if self.session.interrupts.pin().set_mask(PinMask::Client, false) {
            self.set_pending();
        }
    }

    /// The device is reset; the answer comes when nothing of the client's is in flight.
    fn reset(&mut self, token: Token) {
        self.device.reset();
        if self.device.take_changed() {
            self.set_pending();
        }
        let number = self.replies.reset(token);
        self.ask(Request::Reset { number });
    }

    /// A reset is over.
    pub(super) fn reset_done(&mut self, number: u64) {
        self.replies.reset_done(number);
        self.answer_late();
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
        for region in self.memory.regions().filter(|region| region.is_poisoned()) {
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

/// An interrupt must be raised by an eventfd, which is made not to block: a write to anything else could hold a reactor
/// up.
fn check_eventfd(file: &OwnedFd, ctrl: &Ctrl) -> Result<(), i32> {
    use std::os::fd::AsRawFd;
    let link = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(|_| libc::EBADF)?;
    if link.as_os_str() != "anon_inode:[eventfd]" {
        warn_ratelimited!(
            ctrl,
            "controller '{}': the client gave '{}' as an interrupt: an eventfd is needed",
            ctrl.name,
            link.display()
        );
        return Err(libc::EINVAL);
    }
    let flags = rustix::fs::fcntl_getfl(file).map_err(rustix::io::Errno::raw_os_error)?;
    rustix::fs::fcntl_setfl(file, flags | rustix::fs::OFlags::NONBLOCK).map_err(rustix::io::Errno::raw_os_error)
}
