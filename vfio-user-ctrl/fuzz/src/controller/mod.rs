//! A controller with all that comes at it: registers, configuration space, commands, doorbells, memory that comes and
//! goes, a backend that ends its I/Os when it likes, namespaces that come and go.

#[path = "../../../../nvme-device/tests/common/identity.rs"]
mod identity;
mod memory;
mod session;

use std::rc::Rc;

use nvme_device::admin_worker::Input;
use nvme_device::model::admin::{Identity, Namespace, Nqn, Text};
use nvme_device::model::io::{IoSupport, NsGeometry, WriteCache};
use nvme_device::model::pci::{self, Area, ConfigSpace, MsixTable, PciIdentity};
use nvme_device::model::regs::Version;
use nvme_device::queue::{NamespaceChannel, PinMask};
use nvme_spec::command::SglId;
use nvme_spec::register::Register;
use nvme_spec::{ALL_NAMESPACES, CommandFlags, Psdt, SglDescriptor, Sqe, Status};
use rustix::event::{EventfdFlags, eventfd};
use vfio_user::{IrqAction, IrqData, IrqKind, IrqRequest};
use zerocopy::IntoBytes;

use crate::ram::{Disk, OnAbort, Ram};
use crate::script::Script;
use identity::identity;
use memory::{Memory, Outcome, PAGE};
use session::{Kept, MAX_QUEUES, NOW, Session};

/// The kinds of steps.
#[expect(missing_docs, reason = "the names tell; see `World::apply`")]
pub mod step {
    pub const WRITE_BAR0: u8 = 0;
    pub const READ_BAR0: u8 = 1;
    pub const WRITE_CONFIG: u8 = 2;
    pub const READ_CONFIG: u8 = 3;
    /// A command into a queue, at the host's tail, and its doorbell.
    pub const COMMAND: u8 = 4;
    /// A command whose doorbell is not rung.
    pub const SILENT_COMMAND: u8 = 5;
    pub const DOORBELL: u8 = 6;
    pub const MEMORY: u8 = 7;
    pub const POLL: u8 = 8;
    pub const FINISH: u8 = 9;
    pub const FAIL: u8 = 10;
    pub const BACKEND: u8 = 11;
    pub const UNMAP: u8 = 12;
    pub const MAP: u8 = 13;
    pub const MAP_ANY: u8 = 14;
    pub const UNMAP_ANY: u8 = 15;
    /// The host takes all completions of a queue.
    pub const REAP: u8 = 16;
    pub const ADD_NAMESPACE: u8 = 17;
    pub const REMOVE_NAMESPACE: u8 = 18;
    pub const RESIZE_NAMESPACE: u8 = 19;
    pub const DEVICE_RESET: u8 = 20;
    pub const TICK: u8 = 21;
    pub const TRUNCATE: u8 = 22;
    pub const RECONNECT: u8 = 23;
    pub const EVENTFDS: u8 = 24;
    /// Of memory that goes, or of what was to be aborted before.
    pub const ABORT: u8 = 25;
    /// The host tells itself where a queue is, and begins it anew.
    pub const HOST_QUEUE: u8 = 26;
    pub const COUNT: u8 = 27;
}

/// Namespaces: exponents of two of their blocks' sizes, and blocks.
const DISKS: [(u8, usize); 3] = [(9, 128), (12, 16), (16, 2)];

/// The host's idea of a pair of queues.
#[derive(Debug, Clone, Copy, Default)]
struct HostQueue {
    sq: u64,
    cq: u64,
    entries: u16,
    tail: u16,
    head: u16,
    phase: u16,
}

struct World {
    session: Session,
    memory: Memory,
    config: ConfigSpace,
    msix: MsixTable,
    disks: Vec<Rc<Disk>>,
    host: [HostQueue; MAX_QUEUES as usize + 1],
}

/// Carries a script out.
pub fn run(script: &[u8]) {
    NOW.set(0);
    let mut world = World::new();
    let mut script = Script(script);
    while !script.is_over() {
        world.apply(&mut script);
        world.release();
    }
    world.end();
}

fn geometry(blocks: u64, block_shift: u8) -> NsGeometry {
    let mut geometry = NsGeometry::new(blocks, block_shift).expect("a geometry");
    geometry.write_cache = WriteCache::On;
    geometry.supports = IoSupport::ALL;
    geometry
}

impl World {
    fn new() -> Self {
        let memory = Memory::new();
        let vectors = MAX_QUEUES + 1;
        let disks: Vec<_> = DISKS.iter().map(|(shift, blocks)| Disk::new(*blocks, *shift)).collect();
        let mut world = Self {
            session: Session::new(Kept::new(), &memory.view(), &disks),
            memory,
            config: ConfigSpace::new(&PciIdentity::default(), vectors),
            msix: MsixTable::new(vectors),
            disks,
            host: Default::default(),
        };
        for index in 0..DISKS.len() {
            world.add_namespace(index);
        }
        world.begin();
        world
    }

    /// The host lets the function access memory, as every driver does.
    fn begin(&mut self) {
        let _ = self.config.write(4, &[0x06, 0x00]);
        self.look_at_config();
    }

    fn look_at_config(&mut self) {
        match (self.config.may_access_memory(), self.session.queues.is_suspended()) {
            (false, false) => self.session.queues.suspend(),
            (true, true) => self.session.queues.resume(),
            _ => {}
        }
        let disabled = self.config.pin_disabled();
        if self.session.interrupts.pin().set_mask(PinMask::Command, disabled) {
            self.session.queues.catch_up();
        }
    }

    fn apply(&mut self, script: &mut Script<'_>) {
        match script.u8() % step::COUNT {
            step::WRITE_BAR0 => {
                let (offset, len) = (script.u16() & 0x3fff, 1 << script.below(5));
                self.write_bar0(offset.into(), script.bytes(len));
            }
            step::READ_BAR0 => {
                let (offset, len) = (script.u16() & 0x3fff, script.below(40));
                self.read_bar0(offset.into(), len);
            }
            step::WRITE_CONFIG => {
                let (offset, len) = (script.u16() & 0xfff, 1 << script.below(4));
                if self.config.write(offset.into(), script.bytes(len)).function_reset {
                    self.device_reset();
                }
                self.look_at_config();
            }
            step::READ_CONFIG => {
                let (offset, len) = (script.u16() & 0xfff, script.below(40));
                let pending = self.session.interrupts.pin().has_reason(&self.session.doorbells);
                self.config.set_interrupt_status(pending);
                self.config.read(offset.into(), &mut vec![0; len]);
            }
            step::COMMAND => self.command(script, true),
            step::SILENT_COMMAND => self.command(script, false),
            step::DOORBELL => {
                let index = script.below(usize::from(MAX_QUEUES) * 2 + 4);
                self.session.doorbells.store(index, script.u32());
            }
            step::MEMORY => {
                let (gpa, len) = (address(script), script.below(256));
                self.memory.put(gpa, script.bytes(len));
            }
            step::POLL => self.session.poll(),
            step::HOST_QUEUE => {
                let queue = HostQueue {
                    sq: address(script),
                    cq: address(script),
                    entries: u16::from(script.u8()) % 64 + 1,
                    phase: 1,
                    ..HostQueue::default()
                };
                self.host[script.below(usize::from(MAX_QUEUES) + 1)] = queue;
            }
            step::REAP => self.reap(script.below(usize::from(MAX_QUEUES) + 1)),
            step::EVENTFDS => self.set_eventfds(script.below(8), script.below(8)),
            step::RECONNECT => self.reconnect(),
            step::DEVICE_RESET => self.device_reset(),
            step::TICK => NOW.set(NOW.get().saturating_add(script.u32().into())),
            kind @ (step::FINISH | step::FAIL | step::BACKEND) => self.backend(kind, script),
            kind @ (step::ADD_NAMESPACE | step::REMOVE_NAMESPACE | step::RESIZE_NAMESPACE) => {
                self.namespace(kind, script);
            }
            kind => self.change_memory(kind, script),
        }
    }

    fn backend(&mut self, kind: u8, script: &mut Script<'_>) {
        let disk = &self.disks[script.below(DISKS.len())];
        let value = script.u8();
        match kind {
            step::FINISH => drop(disk.finish((value % 64).into())),
            step::FAIL => {
                let status = [Status::INTERNAL_ERROR, Status::COMPARE_FAILURE, Status::ABORT_REQUESTED];
                disk.fail((value % 64).into(), status[usize::from(value) / 64 % status.len()]);
            }
            _ => {
                disk.at_once.set(value & 1 != 0);
                disk.refuse_later.set(u32::from(value >> 1 & 3));
                disk.refuse.set(u32::from(value >> 3 & 1));
                disk.on_abort.set(match value >> 4 & 3 {
                    0 => OnAbort::Refuse,
                    1 => OnAbort::EndNow,
                    _ => OnAbort::EndLater,
                });
            }
        }
    }

    fn change_memory(&mut self, kind: u8, script: &mut Script<'_>) {
        let index = script.below(memory::COUNT);
        let outcome = match kind {
            step::UNMAP => self.memory.unmap_part(index),
            step::MAP => self.memory.map_part(index),
            step::MAP_ANY => self.memory.map_any(address(script), script.u64(), script.u64()),
            step::UNMAP_ANY if index == 0 => self.memory.unmap_all(),
            step::UNMAP_ANY => self.memory.unmap(address(script), script.u64()),
            step::TRUNCATE => {
                let pages = script.u8();
                return self.memory.truncate(index, (pages & 0x7f).into(), pages > 0x7f);
            }
            _ if index == 0 => {
                self.session.queues.abort_some(|| true);
                return;
            }
            _ => return self.session.queues.abort_unmapped(),
        };
        self.carry_out(&outcome);
    }

    fn carry_out(&mut self, outcome: &Outcome) {
        if outcome.published {
            self.session.set_view(&self.memory.view());
        }
        if outcome.refresh {
            self.session.queues.catch_up();
        }
        if outcome.abort {
            self.session.queues.abort_unmapped();
        }
    }

    /// Memory is let go as soon as no I/O is in flight.
    fn release(&mut self) {
        if !self.memory.is_releasing() {
            return;
        }
        let outcome = self.memory.release();
        self.carry_out(&outcome);
        if outcome.abort {
            // What was aborted may have ended at once.
            let outcome = self.memory.release();
            self.carry_out(&outcome);
        }
        let is_free = !self.memory.is_releasing() || self.disks.iter().any(|disk| disk.held() > 0);
        assert!(is_free || self.session.queues.in_flight() > 0, "memory is held though no I/O is in flight");
    }

    fn write_bar0(&mut self, offset: usize, data: &[u8]) {
        for piece in pci::pieces(offset, data.len()) {
            let part = &data[piece.bytes.clone()];
            match piece.area {
                Area::Registers => {
                    if let Some(effect) = self.session.registers.write(piece.offset, part) {
                        self.session.register_written(effect);
                    }
                }
                Area::Doorbells => self.session.doorbells.write_at(piece.offset, part),
                Area::Msix => self.msix.write(piece.offset, part),
            }
        }
    }

    fn read_bar0(&self, offset: usize, len: usize) {
        let mut into = vec![0; len];
        for piece in pci::pieces(offset, len) {
            let part = &mut into[piece.bytes.clone()];
            match piece.area {
                Area::Registers => self.session.registers.read(piece.offset, part),
                Area::Doorbells => self.session.doorbells.read_at(piece.offset, part),
                Area::Msix => self.msix.read(piece.offset, part),
            }
        }
    }

    fn device_reset(&mut self) {
        self.config.reset();
        self.msix.reset();
        self.session.reset();
        self.look_at_config();
        self.begin();
    }

    fn command(&mut self, script: &mut Script<'_>, ring: bool) {
        let qid = script.below(usize::from(MAX_QUEUES) + 1);
        let sqe = command(script);
        let host = &mut self.host[qid];
        if host.entries == 0 {
            return;
        }
        self.memory.put(host.sq.wrapping_add(u64::from(host.tail) * 64), sqe.as_bytes());
        host.tail = (host.tail + 1) % host.entries;
        if ring {
            self.session.doorbells.store(qid * 2, host.tail.into());
        }
    }

    fn reap(&mut self, qid: usize) {
        let host = &mut self.host[qid];
        for _ in 0..host.entries {
            let [.., status, _] = self.memory.get::<16>(host.cq.wrapping_add(u64::from(host.head) * 16)).map(u16::from);
            if status & 1 != host.phase {
                break;
            }
            host.head += 1;
            if host.head == host.entries {
                host.head = 0;
                host.phase ^= 1;
            }
        }
        self.session.doorbells.store(qid * 2 + 1, host.head.into());
    }

    /// The client sets its interrupts by a request of few vectors, of which some are beyond the last.
    fn set_eventfds(&mut self, start: usize, count: usize) {
        let file = || eventfd(1, EventfdFlags::CLOEXEC).expect("an eventfd");
        let all = (start as u32, count as u32);
        let request = |kind, action, (start, count), data| IrqRequest { kind, action, start, count, data };
        let pin = |action, data| request(IrqKind::Pin, action, (0, 1), data);
        let request = match (count, start) {
            (7, start) => request(IrqKind::Msix, IrqAction::Trigger, (start as u32, 1), IrqData::None),
            // The host uses the pin instead, or lets it be raised again.
            (0, 0) => request(IrqKind::Pin, IrqAction::Trigger, (0, 0), IrqData::None),
            (0, 1) => pin(IrqAction::Trigger, IrqData::Eventfds(vec![Some(file())])),
            (0, 2) => pin(IrqAction::Mask, IrqData::None),
            (0, 3) => pin(IrqAction::Unmask, IrqData::Bools(vec![true])),
            (0, 4) => pin(IrqAction::Trigger, IrqData::None),
            (0, 5) => pin(IrqAction::Unmask, IrqData::Eventfds(vec![Some(file())])),
            (0, _) => request(IrqKind::Msix, IrqAction::Trigger, (0, 0), IrqData::None),
            _ => {
                let files = (0..count).map(|index| (index != 3).then(file)).collect();
                request(IrqKind::Msix, IrqAction::Trigger, all, IrqData::Eventfds(files))
            }
        };
        let outcome = self.memory.set_irqs(request, &self.session.interrupts);
        self.carry_out(&outcome);
    }

    /// The client goes, whatever is in flight, and another comes.
    fn reconnect(&mut self) {
        let memory = std::mem::replace(&mut self.memory, Memory::new());
        let new = Session::new(Kept::new(), &self.memory.view(), &self.disks);
        let kept = std::mem::replace(&mut self.session, new).detach();
        self.drain();
        memory.check();
        memory.end();
        self.session = Session::new(kept, &self.memory.view(), &self.disks);
        self.host = Default::default();
        self.config.reset();
        self.msix.reset();
        self.begin();
    }

    fn namespace(&mut self, kind: u8, script: &mut Script<'_>) {
        let index = script.below(DISKS.len());
        let nsid = index as u32 + 1;
        match kind {
            step::ADD_NAMESPACE => self.add_namespace(index),
            step::REMOVE_NAMESPACE => self.session.drive(Input::RemoveNamespace { nsid }),
            _ => self.session.drive(Input::ResizeNamespace { nsid, blocks: script.u64() }),
        }
    }

    fn add_namespace(&mut self, index: usize) {
        let (block_shift, blocks) = DISKS[index];
        let supports = IoSupport::ALL;
        let namespace = Namespace {
            nsid: index as u32 + 1,
            blocks: blocks as u64,
            block_shift,
            uuid: [index as u8; 16],
            nguid: [0; 16],
            eui64: [0; 8],
            supports,
            compare_and_write_blocks: 0,
            optimal_boundary_blocks: 8,
            preferred_write_blocks: 0,
            preferred_unmap_blocks: 0,
            write_protected: false,
        };
        self.session.drive(Input::AddNamespace(namespace));
    }

    fn drain(&self) {
        for disk in &self.disks {
            disk.refuse_later.set(0);
            disk.refuse.set(0);
            disk.finish_all();
        }
    }

    /// The host resets the controller, which must come to an end; then everything goes.
    fn end(mut self) {
        self.memory.check();
        self.write_bar0(Register::CC.offset(), &[0; 4]);
        // Each device reset and shutdown that waits is carried out by itself, in two rounds if there are caches to flush.
        for _ in 0..64 + 2 * self.session.resets() {
            self.drain();
            self.session.poll();
            let is_over = !self.session.is_enabled() && !self.session.registers.ready() && self.session.resets() == 0;
            if is_over && self.session.queues.in_flight() == 0 {
                break;
            }
        }
        assert!(!self.session.is_enabled() && !self.session.registers.ready(), "a reset ends");
        assert!(
            self.session.queues.is_quiet() && self.session.queues.in_flight() == 0,
            "nothing is in flight after it"
        );
        self.memory.check();
        drop(self.session.detach());
        assert!(self.disks.iter().all(|disk| disk.held() == 0 && Rc::strong_count(disk) == 1), "channels are closed");
        self.memory.end();
    }
}

fn namespace(index: usize, disk: &Rc<Disk>) -> NamespaceChannel<Ram> {
    let (shift, blocks) = DISKS[index];
    NamespaceChannel::new(index as u32 + 1, geometry(blocks as u64, shift), Rc::clone(disk))
}

/// Returns an address: a byte that says where, and two for the offset; or any.
fn address(script: &mut Script<'_>) -> u64 {
    let kind = script.u8();
    if kind == 0xff {
        return script.u64();
    }
    let offset = u64::from(script.u16());
    match kind % 16 {
        0..8 => u64::from(kind % 8) * 8 * PAGE + offset,
        8 => 0x4_0000 + offset,
        9 => 0x10_0000 + offset,
        10 => (u64::MAX - 0x1_0fff).wrapping_add(offset),
        11 => 0x20_0000 + offset,
        // Whole pages of the largest part.
        12 => offset % 64 * PAGE,
        13 => 0x4_0000 - PAGE + offset,
        14 => u64::MAX - offset,
        _ => 0x30_0000 + offset,
    }
}

fn command(script: &mut Script<'_>) -> Sqe {
    let (opcode, flags, cid, nsid) = (script.u8(), script.u8(), script.u8(), script.u8());
    let (prp1, prp2) = (address(script), address(script));
    let flags = CommandFlags::from_bits(flags);
    let [prp1, prp2] = if flags.psdt() == Psdt::PRP {
        [prp1, prp2]
    } else {
        // The length is short, so that it is right now and then.
        let descriptor = SglDescriptor::from_dptr([prp1, prp2 & 0xff_ffff]);
        SglDescriptor { id: SglId::from_bits(script.u8()), ..descriptor }.into_dptr()
    };
    Sqe {
        opcode,
        flags,
        cid: cid.into(),
        nsid: if nsid == u8::MAX { ALL_NAMESPACES } else { nsid.into() },
        prp1,
        prp2,
        cdw10: script.u32(),
        cdw11: script.u32(),
        cdw12: script.u32(),
        ..Sqe::default()
    }
}
