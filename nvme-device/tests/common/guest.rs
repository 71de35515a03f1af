//! A guest: its memory, and the driver's side of its queues.

use std::cell::Cell;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::sync::Arc;

use guest_memory::{Access, DoorbellPage, Extent, GuestMemory, MemView, Region};
use nvme_device::model::io::{IoSupport, NsGeometry, WriteCache};
use nvme_device::queue::{Interrupts, NamespaceChannel, Queues};
use nvme_spec::{Cqe, IoOpcode, Sqe};
use rustix::fs::MemfdFlags;
use zerocopy::{FromBytes, IntoBytes};

use super::ram::{Disk, Ram};

pub(crate) const PAGE: u64 = 4096;

/// MDTS, in bytes.
pub(crate) const MAX_TRANSFER: u32 = 128 << 10;

/// The guest's memory: what is mapped at an address lies in the file at the same offset.
pub(crate) const RAM: u64 = 8 << 20;

/// The regions that are mapped to begin with, as addresses and lengths: for completion queues, for submission queues,
/// for lists, for data.
pub(crate) const CQS: (u64, u64) = (0, 0x10_0000);
pub(crate) const SQS: (u64, u64) = (0x10_0000, 0x10_0000);
pub(crate) const LISTS: (u64, u64) = (0x20_0000, 0x10_0000);
pub(crate) const DATA: (u64, u64) = (0x40_0000, 0x40_0000);

thread_local! {
    /// What the queues' clock says.
    pub(crate) static NOW: Cell<u64> = const { Cell::new(1) };
}

pub(crate) fn memfd(len: u64) -> File {
    let file = File::from(rustix::fs::memfd_create("courier-test", MemfdFlags::CLOEXEC).expect("a memfd"));
    file.set_len(len).expect("room");
    file
}

pub(crate) fn region(file: &File, offset: u64, gpa: u64, len: u64, access: Access) -> Arc<Region> {
    let file = file.try_clone().expect("a descriptor").into();
    Arc::new(Extent::new(offset, gpa, len, access).and_then(|of| Region::map(file, of, |_| {})).expect("a region"))
}

/// Returns a namespace of all commands.
pub(crate) fn geometry(blocks: u64, block_shift: u8) -> NsGeometry {
    let mut geometry = NsGeometry::new(blocks, block_shift).expect("a geometry");
    geometry.supports = IoSupport::COMPARE
        | IoSupport::WRITE_ZEROES
        | IoSupport::DATASET_MANAGEMENT
        | IoSupport::DEALLOCATE
        | IoSupport::FLUSH
        | IoSupport::COMPARE_AND_WRITE
        | IoSupport::WRITE_UNCORRECTABLE
        | IoSupport::VERIFY
        | IoSupport::VENDOR_SPECIFIC;
    geometry.write_cache = WriteCache::On;
    geometry
}

/// A session's queues on one thread, and the guest's memory.
pub(crate) struct Rig {
    pub(crate) file: File,
    pub(crate) memory: GuestMemory,
    pub(crate) doorbells: Arc<DoorbellPage>,
    pub(crate) interrupts: Arc<Interrupts>,
    pub(crate) queues: Queues<Ram>,
}

impl Rig {
    /// All regions are mapped; there is no queue, and no namespace.
    pub(crate) fn new() -> Self {
        Self::with_interrupts(Interrupts::default())
    }

    /// Returns one with namespace 1, whose pin is not raised for so many ticks after it was unmasked.
    pub(crate) fn settling(ticks: u64) -> Self {
        let rig = Self::with_interrupts(Interrupts::settling(ticks));
        rig.add(1, &Disk::instant(64, 9));
        rig
    }

    fn with_interrupts(interrupts: Interrupts) -> Self {
        let file = memfd(RAM);
        let mut memory = GuestMemory::new();
        for (gpa, len) in [CQS, SQS, LISTS, DATA] {
            memory = memory.with(region(&file, gpa, gpa, len, Access::ReadWrite)).expect("no overlap");
        }
        let doorbells = Arc::new(DoorbellPage::new().expect("a page"));
        let interrupts = Arc::new(interrupts);
        let view = Rc::new(MemView::new(Arc::new(memory.clone())));
        let queues = Queues::new(Arc::clone(&doorbells), Arc::clone(&interrupts), view, MAX_TRANSFER, || NOW.get());
        Self { file, memory, doorbells, interrupts, queues }
    }

    /// Returns the same with namespace 1 on `disk`.
    pub(crate) fn with(disk: &Rc<Disk>) -> Self {
        let rig = Self::new();
        rig.add(1, disk);
        rig
    }

    pub(crate) fn add(&self, nsid: u32, disk: &Rc<Disk>) {
        let blocks = disk.bytes.borrow().len() >> disk.block_shift;
        let geometry = geometry(blocks as u64, disk.block_shift);
        self.queues.add_namespace(NamespaceChannel::new(nsid, geometry, Rc::clone(disk)));
    }

    /// Makes a completion queue in its own pages.
    pub(crate) fn create_cq(&self, qid: u16, entries: u16, vector: Option<u16>) -> HostCq {
        let base = CQS.0 + u64::from(qid) * 0x4000;
        self.queues.create_completion(qid, base, entries, vector);
        self.doorbells.store(usize::from(qid) * 2 + 1, 0);
        HostCq { qid, base, entries, head: 0, phase: true }
    }

    /// Makes a submission queue in its own pages.
    pub(crate) fn create_sq(&self, qid: u16, entries: u16, cqid: u16) -> HostSq {
        let base = SQS.0 + u64::from(qid) * 0x1_0000;
        assert!(self.queues.create_submission(qid, base, entries, cqid), "there is the completion queue");
        self.doorbells.store(usize::from(qid) * 2, 0);
        HostSq { qid, base, entries, tail: 0 }
    }

    /// Makes a pair of queues.
    pub(crate) fn create(&self, qid: u16, entries: u16) -> (HostSq, HostCq) {
        let completion = self.create_cq(qid, entries, None);
        (self.create_sq(qid, entries, qid), completion)
    }

    /// The guest writes its memory.
    pub(crate) fn put(&self, gpa: u64, data: &[u8]) {
        self.file.write_all_at(data, gpa).expect("within the memory");
    }

    /// The guest reads its memory.
    pub(crate) fn get(&self, gpa: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.file.read_exact_at(&mut data, gpa).expect("within the memory");
        data
    }

    /// Puts commands into a queue and rings its doorbell.
    pub(crate) fn submit(&self, queue: &mut HostSq, sqes: &[Sqe]) {
        for sqe in sqes {
            self.put(queue.base + u64::from(queue.tail) * 64, sqe.as_bytes());
            queue.tail = (queue.tail + 1) % queue.entries;
        }
        self.ring(queue);
    }

    pub(crate) fn ring(&self, queue: &HostSq) {
        self.doorbells.store(usize::from(queue.qid) * 2, queue.tail.into());
    }

    /// The same, and the commands are taken.
    pub(crate) fn run(&self, queue: &mut HostSq, sqes: &[Sqe]) {
        self.submit(queue, sqes);
        self.queues.poll();
    }

    /// Returns the next completion, without taking it.
    pub(crate) fn peek(&self, queue: &HostCq) -> Option<Cqe> {
        let bytes = self.get(queue.base + u64::from(queue.head) * 16, 16);
        let cqe = Cqe::read_from_bytes(&bytes).expect("16 bytes");
        (cqe.status.phase() == queue.phase).then_some(cqe)
    }

    /// Takes completions, without telling the device.
    pub(crate) fn take(&self, queue: &mut HostCq, most: usize) -> Vec<Cqe> {
        let mut cqes = Vec::new();
        while cqes.len() < most
            && let Some(cqe) = self.peek(queue)
        {
            cqes.push(cqe);
            queue.head += 1;
            if queue.head == queue.entries {
                queue.head = 0;
                queue.phase = !queue.phase;
            }
        }
        cqes
    }

    /// Takes all completions and rings the doorbell.
    pub(crate) fn reap(&self, queue: &mut HostCq) -> Vec<Cqe> {
        let cqes = self.take(queue, usize::MAX);
        self.doorbells.store(usize::from(queue.qid) * 2 + 1, queue.head.into());
        cqes
    }

    /// Returns the same as identifiers and status codes.
    pub(crate) fn statuses(&self, queue: &mut HostCq) -> Vec<(u16, u16)> {
        self.reap(queue).iter().map(|cqe| (cqe.cid, cqe.status.with_phase(false).into_bits())).collect()
    }

    /// The client takes a region away; that region, which nobody should hold soon.
    pub(crate) fn unmap(&mut self, (gpa, len): (u64, u64)) -> Arc<Region> {
        let (memory, mut regions) = self.memory.without(gpa, len).expect("a region");
        self.change(memory);
        regions.pop().expect("a region")
    }

    /// The client maps a region again.
    pub(crate) fn map(&mut self, (gpa, len): (u64, u64)) {
        let region = region(&self.file, gpa, gpa, len, Access::ReadWrite);
        self.change(self.memory.with(region).expect("no overlap"));
    }

    /// The client maps a region of another file.
    pub(crate) fn map_file(&mut self, file: &File, (gpa, len): (u64, u64)) {
        let region = region(file, 0, gpa, len, Access::ReadWrite);
        self.change(self.memory.with(region).expect("no overlap"));
    }

    fn change(&mut self, memory: GuestMemory) {
        self.queues.set_view(&Rc::new(MemView::new(Arc::new(memory.clone()))));
        self.memory = memory;
    }
}

/// The driver's side of a submission queue.
#[derive(Debug, Clone)]
pub(crate) struct HostSq {
    pub(crate) qid: u16,
    pub(crate) base: u64,
    pub(crate) entries: u16,
    pub(crate) tail: u16,
}

/// The driver's side of a completion queue.
#[derive(Debug, Clone)]
pub(crate) struct HostCq {
    pub(crate) qid: u16,
    pub(crate) base: u64,
    pub(crate) entries: u16,
    pub(crate) head: u16,
    pub(crate) phase: bool,
}

/// Returns a command on blocks of namespace 1, its data in pages from `prp1` on: two pages at most.
pub(crate) fn block_command(op: u8, cid: u16, slba: u64, blocks: u32, prp1: u64) -> Sqe {
    Sqe {
        opcode: op,
        cid,
        nsid: 1,
        prp1,
        prp2: prp1 + PAGE,
        cdw10: (slba & 0xffff_ffff) as u32,
        cdw11: (slba >> 32) as u32,
        cdw12: blocks - 1,
        ..Sqe::default()
    }
}

pub(crate) fn read(cid: u16, slba: u64, blocks: u32) -> Sqe {
    block_command(IoOpcode::READ.0, cid, slba, blocks, DATA.0)
}

pub(crate) fn write(cid: u16, slba: u64, blocks: u32) -> Sqe {
    block_command(IoOpcode::WRITE.0, cid, slba, blocks, DATA.0 + 0x10_0000)
}

pub(crate) fn flush(cid: u16) -> Sqe {
    Sqe { opcode: IoOpcode::FLUSH.0, cid, nsid: 1, ..Sqe::default() }
}
