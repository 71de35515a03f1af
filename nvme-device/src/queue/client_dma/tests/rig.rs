//! A guest with two kinds of memory, its client, and a disk.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, memfd_create};
use zerocopy::{FromBytes, IntoBytes};

use crate::model::io::{IoSupport, NsGeometry, PassthruCommand};
use crate::queue::{
    AbortToken, Backend, BlockOp, ClientDma, CommandIo, DmaOperation, Interrupts, NamespaceChannel, Queues, Refused,
    Transfer, complete, complete_passthru,
};
use guest_memory::{Access, BounceBudget, DoorbellPage, Extent, GuestMemory, IoToken, MemView, Region};
use nvme_spec::{CommandFlags, Cqe, IoOpcode, Sqe, Status};

pub(super) const PAGE: u64 = 4096;
const ENTRIES: u16 = 64;
/// Where things are in the memory with a file, of 1 MiB.
const COMPLETIONS: u64 = PAGE;
const COMMANDS: u64 = 2 * PAGE;
pub(super) const LISTS: u64 = 8 * PAGE;
pub(super) const NEAR_DATA: u64 = 16 * PAGE;
/// The memory without a file, and a page of it that is read-only.
pub(super) const FAR: u64 = 1 << 32;
pub(super) const FAR_LEN: u64 = 64 * PAGE;
pub(super) const READ_ONLY: u64 = FAR + 128 * PAGE;

/// Returns bytes that tell their place.
pub(super) fn pattern(len: usize) -> Vec<u8> {
    (0..251).cycle().take(len).collect()
}

/// The client, who is asked for memory and answers when the test says so.
pub(super) struct Client {
    pub(super) budget: Arc<BounceBudget>,
    bytes: RefCell<Vec<u8>>,
    asked: RefCell<VecDeque<Transfer>>,
    cancelled: Cell<usize>,
}

impl Client {
    pub(super) fn put(&self, gpa: u64, data: &[u8]) {
        let at = usize::try_from(gpa - FAR).expect("an offset");
        self.bytes.borrow_mut()[at..at + data.len()].copy_from_slice(data);
    }

    pub(super) fn get(&self, gpa: u64, len: usize) -> Vec<u8> {
        let at = usize::try_from(gpa - FAR).expect("an offset");
        self.bytes.borrow()[at..at + len].to_vec()
    }

    /// Returns what it is being asked for; of what it is to write, the bytes are left out.
    pub(super) fn works(&self) -> Vec<DmaOperation> {
        let work = |transfer: &Transfer| match &transfer.operation {
            DmaOperation::Read(pieces) => DmaOperation::Read(pieces.clone()),
            DmaOperation::Write(data) => DmaOperation::Write(data.iter().map(|(gpa, _)| (*gpa, Vec::new())).collect()),
        };
        self.asked.borrow().iter().map(work).collect()
    }

    pub(super) fn take(&self) -> Transfer {
        self.asked.borrow_mut().pop_front().expect("the client is asked for something")
    }

    fn carry_out(&self, work: &DmaOperation) -> Vec<Vec<u8>> {
        match work {
            DmaOperation::Read(pieces) => pieces.iter().map(|(gpa, len)| self.get(*gpa, *len as usize)).collect(),
            DmaOperation::Write(data) => {
                for (gpa, data) in data {
                    self.put(*gpa, data);
                }
                Vec::new()
            }
        }
    }

    /// Returns how many transfers were cancelled since the last call.
    pub(super) fn cancelled(&self) -> usize {
        self.cancelled.take()
    }

    pub(super) fn drop_reads(&self) {
        self.asked.borrow_mut().retain(|transfer| matches!(transfer.operation, DmaOperation::Write(_)));
    }

    pub(super) fn drop_all(&self) {
        self.asked.take();
    }
}

struct ClientWay(Rc<Client>);

impl ClientDma for ClientWay {
    fn budget(&self) -> &Arc<BounceBudget> {
        &self.0.budget
    }

    fn begin(&self, transfer: Transfer) {
        self.0.asked.borrow_mut().push_back(transfer);
    }

    fn cancel(&self, _: u64) {
        self.0.cancelled.set(self.0.cancelled.get() + 1);
    }
}

type Held = (BlockOp, u64, u64, CommandIo<Ram>);

/// Blocks of 512 bytes.
pub(super) struct Disk {
    bytes: RefCell<Vec<u8>>,
    held: RefCell<VecDeque<Held>>,
}

pub(super) enum Ram {}

impl Disk {
    pub(super) fn ops(&self) -> Vec<BlockOp> {
        self.held.borrow().iter().map(|held| held.0).collect()
    }

    pub(super) fn get(&self, slba: usize, blocks: usize) -> Vec<u8> {
        self.bytes.borrow()[slba * 512..(slba + blocks) * 512].to_vec()
    }

    pub(super) fn put(&self, slba: usize, data: &[u8]) {
        self.bytes.borrow_mut()[slba * 512..slba * 512 + data.len()].copy_from_slice(data);
    }

    fn take(&self) -> Held {
        self.held.borrow_mut().pop_front().expect("the disk has something to do")
    }

    /// Does what it has had for longest.
    pub(super) fn finish(&self) {
        let (op, slba, blocks, io) = self.take();
        let result = self.carry_out(op, slba, blocks, &io);
        complete(io, result);
    }

    pub(super) fn fail(&self, status: Status) {
        complete(self.take().3, Err(status));
    }

    fn carry_out(&self, op: BlockOp, slba: u64, blocks: u64, io: &CommandIo<Ram>) -> Result<(), Status> {
        let (at, len) = (usize::try_from(slba).expect("small") * 512, usize::try_from(blocks).expect("small") * 512);
        let mut bytes = self.bytes.borrow_mut();
        let blocks = &mut bytes[at..at + len];
        match op {
            BlockOp::Read => assert_eq!(io.write_data(blocks), len),
            BlockOp::Write => assert_eq!(io.read_data(0, blocks), len),
            BlockOp::CompareAndWrite(first) => {
                let mut compared = vec![0; len];
                assert_eq!(io.read_data(0, &mut compared), len);
                if compared != blocks {
                    return Err(Status::COMPARE_FAILURE);
                }
                assert_eq!(io.read_data(first, blocks), len);
            }
            BlockOp::Unmap => blocks.fill(0),
            other => unreachable!("{other:?}"),
        }
        Ok(())
    }
}

impl Backend for Ram {
    type Channel = Rc<Disk>;

    fn submit(disk: &Rc<Disk>, op: BlockOp, slba: u64, blocks: u64, io: CommandIo<Self>) -> Result<(), Refused<Self>> {
        disk.held.borrow_mut().push_back((op, slba, blocks, io));
        Ok(())
    }

    /// Data goes to and from the first block, and the result is the opcode.
    fn passthru(disk: &Rc<Disk>, command: &PassthruCommand, io: CommandIo<Self>) -> Result<(), Refused<Self>> {
        let data = &mut disk.bytes.borrow_mut()[..512];
        let moved = if command.to_guest() { io.write_data(data) } else { io.read_data(0, data) };
        assert_eq!(moved, 512);
        complete_passthru(io, command.opcode.into(), Ok(()));
        Ok(())
    }

    fn abort(_: &Rc<Disk>, _: IoToken, _: AbortToken) -> bool {
        false
    }
}

/// Hears what becomes of an admin command's data.
#[derive(Default)]
pub(super) struct Recorder(Rc<RefCell<Heard>>);

type Heard = Vec<Result<Vec<u8>, Status>>;

impl Recorder {
    pub(super) fn then(&self) -> impl FnOnce(Result<Vec<u8>, Status>) + 'static {
        let heard = Rc::clone(&self.0);
        move |result| heard.borrow_mut().push(result)
    }

    pub(super) fn take(&self) -> Heard {
        self.0.take()
    }
}

pub(super) struct ClientGuest {
    file: File,
    pub(super) memory: GuestMemory,
    doorbells: Arc<DoorbellPage>,
    pub(super) queues: Queues<Ram>,
    pub(super) client: Rc<Client>,
    pub(super) disk: Rc<Disk>,
    aborted: Rc<RefCell<Vec<bool>>>,
    tail: Cell<u16>,
    head: Cell<u16>,
}

impl ClientGuest {
    pub(super) fn new() -> Self {
        Self::with_budget(8 << 20)
    }

    pub(super) fn with_budget(limit: u64) -> Self {
        let guest = Self::without_client_of(limit);
        guest.queues.set_client_dma(Box::new(ClientWay(Rc::clone(&guest.client))));
        guest
    }

    pub(super) fn without_client() -> Self {
        Self::without_client_of(8 << 20)
    }

    fn without_client_of(limit: u64) -> Self {
        let file = File::from(memfd_create("courier-test", MemfdFlags::CLOEXEC).expect("a memfd"));
        file.set_len(1 << 20).expect("room");
        let memory = memory_of(&file);
        let doorbells = Arc::new(DoorbellPage::new().expect("a page"));
        let view = Rc::new(MemView::new(Arc::new(memory.clone())));
        let queues = Queues::new(Arc::clone(&doorbells), Arc::new(Interrupts::default()), view, 1 << 17, || 0);
        let disk = Rc::new(Disk { bytes: RefCell::new(vec![0; 512 * 512]), held: RefCell::default() });
        queues.add_namespace(NamespaceChannel::new(1, geometry(), Rc::clone(&disk)));
        queues.create_completion(1, COMPLETIONS, ENTRIES, None);
        assert!(queues.create_submission(1, COMMANDS, ENTRIES, 1));
        let client = Rc::new(Client {
            budget: BounceBudget::new(limit),
            bytes: RefCell::new(vec![0; usize::try_from(FAR_LEN * 4).expect("small")]),
            asked: RefCell::default(),
            cancelled: Cell::default(),
        });
        let (tail, head, aborted) = (Cell::default(), Cell::default(), Rc::default());
        Self { file, memory, doorbells, queues, client, disk, aborted, tail, head }
    }

    pub(super) fn put(&self, gpa: u64, data: &[u8]) {
        self.file.write_all_at(data, gpa).expect("within the memory");
    }

    pub(super) fn get(&self, gpa: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.file.read_exact_at(&mut data, gpa).expect("within the memory");
        data
    }

    pub(super) fn send(&self, sqe: Sqe) {
        self.send_all(&[sqe]);
    }

    pub(super) fn send_all(&self, sqes: &[Sqe]) {
        for sqe in sqes {
            let tail = self.tail.get();
            self.put(COMMANDS + u64::from(tail) * 64, sqe.as_bytes());
            self.tail.set((tail + 1) % ENTRIES);
        }
        self.doorbells.store(2, self.tail.get().into());
        self.queues.poll();
    }

    /// Dword 0 of the completion entry at an index of the queue.
    pub(super) fn dw0(&self, index: u64) -> u32 {
        let bytes = self.get(COMPLETIONS + index * 16, 4);
        bytes.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte))
    }

    /// Returns the completions since the last call, without Do Not Retry.
    pub(super) fn completions(&self) -> Vec<(u16, Status)> {
        let mut found = Vec::new();
        loop {
            let head = self.head.get();
            let (index, phase) = (head % ENTRIES, (head / ENTRIES).is_multiple_of(2));
            let entry = self.get(COMPLETIONS + u64::from(index) * 16, 16);
            let cqe = Cqe::read_from_bytes(&entry).expect("an entry");
            if cqe.status.phase() != phase {
                self.doorbells.store(3, index.into());
                return found;
            }
            found.push((cqe.cid, code(cqe.status)));
            self.head.set(head + 1);
        }
    }

    /// The client does what it was asked for first.
    pub(super) fn answer(&self) {
        let transfer = self.client.take();
        let result = self.client.carry_out(&transfer.operation);
        self.queues.transferred(transfer.id, Ok(result));
    }

    /// It refuses.
    pub(super) fn refuse(&self) {
        let transfer = self.client.take();
        self.queues.transferred(transfer.id, Err(libc::EFAULT));
    }

    /// Aborts a command. What the Abort command hears, if it hears it at once.
    pub(super) fn abort(&self, cid: u16) -> Option<bool> {
        let aborted = Rc::clone(&self.aborted);
        self.queues.abort(1, cid, move |done| aborted.borrow_mut().push(done));
        let mut heard = self.aborted.borrow_mut();
        assert!(heard.len() <= 1);
        heard.pop()
    }

    /// Returns what Abort commands have heard later.
    pub(super) fn aborted(&self) -> Vec<bool> {
        self.aborted.take()
    }

    /// The client takes the region at an address away. Returns how many commands touch it.
    pub(super) fn unmap(&mut self, gpa: u64) -> usize {
        let len = self.memory.region_at(gpa).expect("a region").len();
        self.memory = self.memory.without(gpa, len).expect("a region").0;
        self.queues.set_view(&Rc::new(MemView::new(Arc::new(self.memory.clone()))))
    }

    /// The client gives a file with these pages for the memory at an address.
    pub(super) fn map_file(&mut self, gpa: u64, data: &[u8]) {
        let file = File::from(memfd_create("courier-test", MemfdFlags::CLOEXEC).expect("a memfd"));
        file.write_all_at(data, 0).expect("room");
        let region = Extent::new(0, gpa, data.len() as u64, Access::ReadWrite)
            .and_then(|of| Region::map(file.into(), of, |_| {}))
            .expect("mapped");
        self.memory = self.memory.with(Arc::new(region)).expect("no overlap");
        self.queues.set_view(&Rc::new(MemView::new(Arc::new(self.memory.clone()))));
    }

    /// Returns a command with an SGL of these data blocks in one segment.
    pub(super) fn sgl(&self, sqe: Sqe, pieces: &[(u64, u32)]) -> Sqe {
        let list = pieces.iter().flat_map(|(gpa, len)| [gpa.to_le_bytes(), u64::from(*len).to_le_bytes()].concat());
        self.put(LISTS, &list.collect::<Vec<u8>>());
        sgl_at(LISTS, sqe, pieces.len() as u64)
    }

    /// Asserts that nothing is left of any command.
    pub(super) fn assert_idle(&self) {
        assert_eq!((self.queues.in_flight(), self.client.budget.used()), (0, 0));
        assert!(self.client.works().is_empty() && self.disk.ops().is_empty() && self.completions().is_empty());
    }
}

fn memory_of(file: &File) -> GuestMemory {
    let fd = file.try_clone().expect("a descriptor").into();
    let near =
        Extent::new(0, 0, 1 << 20, Access::ReadWrite).and_then(|of| Region::map(fd, of, |_| {})).expect("mapped");
    let far = Region::without_file(FAR, FAR_LEN, Access::ReadWrite, |_| {}).expect("a region");
    let read_only = Region::without_file(READ_ONLY, PAGE, Access::ReadOnly, |_| {}).expect("a region");
    let add = |memory: GuestMemory, region| memory.with(Arc::new(region)).expect("no overlap");
    [near, far, read_only].into_iter().fold(GuestMemory::new(), add)
}

fn geometry() -> NsGeometry {
    let mut geometry = NsGeometry::new(512, 9).expect("a geometry");
    geometry.supports = IoSupport::COMPARE
        | IoSupport::COMPARE_AND_WRITE
        | IoSupport::DATASET_MANAGEMENT
        | IoSupport::DEALLOCATE
        | IoSupport::VENDOR_SPECIFIC;
    geometry
}

/// Returns a status as completions have it: without Do Not Retry.
pub(super) fn code(status: Status) -> Status {
    Status::of(status.code())
}

/// Returns the same command with an SGL of one segment.
pub(super) fn sgl_at(list: u64, sqe: Sqe, descriptors: u64) -> Sqe {
    Sqe { flags: CommandFlags::SGL, prp1: list, prp2: 0x30 << 56 | (descriptors * 16), ..sqe }
}

/// Returns a command on blocks of the namespace.
pub(super) fn command(opcode: u8, cid: u16, slba: u32, blocks: u32, prp1: u64, prp2: u64) -> Sqe {
    Sqe { opcode, cid, nsid: 1, prp1, prp2, cdw10: slba, cdw12: blocks - 1, ..Sqe::default() }
}

pub(super) fn read(cid: u16, slba: u32, blocks: u32, prp1: u64, prp2: u64) -> Sqe {
    command(IoOpcode::READ.0, cid, slba, blocks, prp1, prp2)
}

pub(super) fn write(cid: u16, slba: u32, blocks: u32, prp1: u64, prp2: u64) -> Sqe {
    command(IoOpcode::WRITE.0, cid, slba, blocks, prp1, prp2)
}
