//! An NVMe driver by hand, over the raw vfio-user client: it can make queues and commands that no driver makes.

use std::mem::offset_of;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nvme_spec::admin::{AbortResult, CreateCqDw11, CreateSqDw11};
use nvme_spec::identify::Cns;
use nvme_spec::nvm::BlockDw12;
use nvme_spec::register::{Aqa, Cap, Cc, Csts, DOORBELL_STRIDE, Register};
use nvme_spec::{Cqe, IoOpcode, Sqe, Status};
use zerocopy::{FromBytes, IntoBytes};

use super::vfio_user::{BAR0, CONFIG, Client, Failure, Memory};
use super::{secs, wait_for};

/// Where the driver's memory is in the guest.
pub(crate) const BASE: u64 = 1 << 32;
/// How much there is of it.
pub(crate) const SIZE: u64 = 16 << 20;
/// Where in it the data buffers begin; the queues are before that.
pub(crate) const DATA: u64 = 1 << 20;
pub(crate) const PAGE: u64 = 4096;

const CAP: u64 = Register::CAP.0 as u64;
pub(crate) const CC: u64 = Register::CC.0 as u64;
const CSTS: u64 = Register::CSTS.0 as u64;
const AQA: u64 = Register::AQA.0 as u64;
const ASQ: u64 = Register::ASQ.0 as u64;
const ACQ: u64 = Register::ACQ.0 as u64;
const DOORBELLS: u64 = Register::SQ0TDBL.0 as u64;

/// CC with EN, and with the sizes of queue entries that every driver sets.
pub(crate) const CC_ENABLE: u32 =
    Cc::new().with_en(true).with_iosqes(Sqe::SIZE_LOG2).with_iocqes(Cqe::SIZE_LOG2).into_bits();
/// CSTS.RDY.
pub(crate) const READY: u32 = Csts::new().with_rdy(true).into_bits();
/// CSTS.CFS.
pub(crate) const FATAL: u32 = Csts::new().with_cfs(true).into_bits();

/// How many entries the admin queues have.
const ADMIN_ENTRIES: u16 = 32;
/// Bytes of a completion queue entry.
const ENTRY: u64 = size_of::<Cqe>() as u64;

/// Returns an I/O command on blocks, with its data at `prp1`.
pub(crate) fn block_io(opcode: IoOpcode, nsid: u32, slba: u32, blocks: u16, prp1: u64) -> Sqe {
    Sqe::on_blocks(opcode, nsid, slba.into(), BlockDw12::of(blocks - 1)).with_prps(prp1, 0)
}

/// Returns whether a completion of Abort tells that the command was aborted.
pub(crate) fn was_aborted(done: Cqe) -> bool {
    done.status.is_success() && !AbortResult::from_bits(done.dw0).not_aborted()
}

/// A submission queue and its completion queue, which have the same number and size.
#[derive(Debug)]
pub(crate) struct Queue {
    qid: u16,
    entries: u16,
    /// Where they are in the memory.
    sq: u64,
    cq: u64,
    tail: u16,
    head: u16,
    phase: bool,
    cid: u16,
    /// Where in the memory the shadow doorbells and their event indexes are, if it uses them.
    shadows: Option<(u64, u64)>,
}

impl Queue {
    fn new(qid: u16, entries: u16) -> Self {
        // 16 KiB for each submission queue, half of it for the completion queue behind it: 256 entries.
        let sq = u64::from(qid) * 6 * PAGE;
        Self { qid, entries, sq, cq: sq + 4 * PAGE, tail: 0, head: 0, phase: true, cid: 0, shadows: None }
    }

    /// Uses shadow doorbells and event indexes at these places in the memory, as Linux does, from now on.
    pub(crate) fn use_shadows(&mut self, shadows: (u64, u64)) {
        self.shadows = Some(shadows);
    }

    pub(crate) fn sq_addr(&self) -> u64 {
        BASE + self.sq
    }

    pub(crate) fn cq_addr(&self) -> u64 {
        BASE + self.cq
    }
}

/// A driver with its memory mapped.
#[derive(Debug)]
pub(crate) struct Driver {
    pub(crate) client: Client,
    pub(crate) memory: Memory,
    pub(crate) admin: Queue,
}

impl Driver {
    /// Connects to the socket in `dir`, maps the memory, and enables the controller.
    #[track_caller]
    pub(crate) fn start(dir: &Path) -> Self {
        let mut driver = Self::connect(dir);
        driver.enable();
        driver
    }

    /// Returns the same, tried until it works: while a server tidies up after the client before.
    #[track_caller]
    pub(crate) fn start_within(dir: &Path, limit: Duration) -> Self {
        let start = Instant::now();
        let client = loop {
            match Client::negotiated(dir) {
                Ok(client) => break client,
                Err(error) => assert!(start.elapsed() < limit, "no client is taken for {limit:?}: {error}"),
            }
            sleep(Duration::from_millis(10));
        };
        let mut driver = Self::over(client);
        driver.enable();
        driver
    }

    /// Connects to the socket in `dir` and maps the memory.
    #[track_caller]
    pub(crate) fn connect(dir: &Path) -> Self {
        let client = Client::negotiated(dir);
        Self::over(client.unwrap_or_else(|error| panic!("{}: {error}", dir.display())))
    }

    /// Maps the memory, for a client that has agreed on the version.
    #[track_caller]
    pub(crate) fn over(mut client: Client) -> Self {
        let memory = Memory::new(SIZE);
        client.map(BASE, SIZE, &memory.file, 0).expect("a memory file can be mapped");
        let mut driver = Self { client, memory, admin: Queue::new(0, ADMIN_ENTRIES) };
        driver.bus_master();
        driver
    }

    /// Lets the device use memory, as every driver does.
    #[track_caller]
    pub(crate) fn bus_master(&mut self) {
        /// Memory space, bus master, no interrupt by a pin.
        const COMMAND: u16 = 0x406;
        self.client.write(CONFIG, 4, &COMMAND.to_le_bytes()).expect("the command register can be written");
    }

    /// Disables the controller and waits until it has stopped.
    #[track_caller]
    pub(crate) fn disable(&mut self) {
        self.write(CC, &0_u32.to_le_bytes());
        wait_for("CSTS.RDY to be 0", secs(10), || self.csts() & READY == 0);
    }

    /// Resets and enables the controller.
    #[track_caller]
    pub(crate) fn enable(&mut self) {
        let csts = self.enable_with(CC_ENABLE);
        assert_eq!(csts & (READY | FATAL), READY, "the controller does not get ready: CSTS is {csts:#x}");
    }

    /// Returns the same with any CC; returns CSTS as soon as it says something, or after a while.
    #[track_caller]
    pub(crate) fn enable_with(&mut self, cc: u32) -> u32 {
        let (sq, cq) = (self.admin.sq_addr(), self.admin.cq_addr());
        self.enable_at(cc, sq, cq)
    }

    /// Returns the same with any place for the admin queues.
    #[track_caller]
    pub(crate) fn enable_at(&mut self, cc: u32, sq: u64, cq: u64) -> u32 {
        self.disable();
        self.admin = Queue::new(0, ADMIN_ENTRIES);
        self.memory.write(0, &vec![0; usize::try_from(DATA).expect("64-bit")]);
        let size = ADMIN_ENTRIES - 1;
        self.write(AQA, Aqa::new().with_asqs(size).with_acqs(size).as_bytes());
        self.write(ASQ, &sq.to_le_bytes());
        self.write(ACQ, &cq.to_le_bytes());
        self.write(CC, &cc.to_le_bytes());
        let start = Instant::now();
        loop {
            let csts = self.csts();
            if csts & (READY | FATAL) != 0 || start.elapsed() > secs(3) {
                return csts;
            }
            sleep(Duration::from_millis(2));
        }
    }

    #[track_caller]
    fn write(&mut self, offset: u64, data: &[u8]) {
        self.client.write(BAR0, offset, data).expect("a register can be written");
    }

    /// Returns how long the controller may take to get ready, or to stop being so: CAP.TO.
    #[track_caller]
    pub(crate) fn most_time_to_ready(&mut self) -> Duration {
        let low = self.client.read_u32(BAR0, CAP).expect("CAP can be read");
        Duration::from_millis(500) * u32::from(Cap::from_bits(low.into()).to())
    }

    #[track_caller]
    pub(crate) fn csts(&mut self) -> u32 {
        self.client.read_u32(BAR0, CSTS).expect("CSTS can be read")
    }

    /// Writes any doorbell: `index` counts them from the admin submission queue's on.
    pub(crate) fn doorbell(&mut self, index: u64, value: u32) -> Result<(), Failure> {
        self.client.write(BAR0, DOORBELLS + u64::from(DOORBELL_STRIDE) * index, &value.to_le_bytes())
    }

    /// Puts commands into a queue, and rings its doorbell once; returns the last one's identifier.
    #[track_caller]
    pub(crate) fn submit(&mut self, queue: &mut Queue, commands: &[Sqe]) -> u16 {
        for command in commands {
            queue.cid = queue.cid.wrapping_add(1);
            self.memory.write(
                queue.sq + size_of::<Sqe>() as u64 * u64::from(queue.tail),
                Sqe { cid: queue.cid, ..*command }.as_bytes(),
            );
            queue.tail = (queue.tail + 1) % queue.entries;
        }
        self.ring(queue, 2 * u64::from(queue.qid), queue.tail);
        queue.cid
    }

    /// Takes a completion, if there is one.
    #[track_caller]
    pub(crate) fn poll(&mut self, queue: &mut Queue) -> Option<Cqe> {
        let entry = self.peek(queue)?;
        queue.head = (queue.head + 1) % queue.entries;
        queue.phase ^= queue.head == 0;
        self.ring(queue, 2 * u64::from(queue.qid) + 1, queue.head);
        Some(entry)
    }

    /// Moves a queue's doorbell; one that has a shadow only if its event index asks for it.
    #[track_caller]
    fn ring(&mut self, queue: &Queue, index: u64, value: u16) {
        if let Some((values, events)) = queue.shadows {
            let old = u16::from_le_bytes(self.memory.read(values + 4 * index));
            self.memory.write(values + 4 * index, &u32::from(value).to_le_bytes());
            let event_index = u16::from_le_bytes(self.memory.read(events + 4 * index));
            if value.wrapping_sub(event_index).wrapping_sub(1) >= value.wrapping_sub(old) {
                return;
            }
        }
        self.doorbell(index, value.into()).expect("a doorbell can be rung");
    }

    /// Looks at a completion, and leaves it there.
    pub(crate) fn peek(&self, queue: &Queue) -> Option<Cqe> {
        // The phase tag first: what is read behind it is the whole entry.
        let at = queue.cq + ENTRY * u64::from(queue.head);
        let phase = self.phase_in(queue, queue.head.into());
        (phase == queue.phase).then(|| self.structure(at))
    }

    /// Waits for a completion.
    #[track_caller]
    pub(crate) fn complete(&mut self, queue: &mut Queue) -> Cqe {
        let start = Instant::now();
        loop {
            if let Some(entry) = self.poll(queue) {
                return entry;
            }
            assert!(start.elapsed() < secs(10), "queue {} waits in vain for a completion", queue.qid);
            sleep(Duration::from_millis(1));
        }
    }

    /// Waits for a completion, and does meanwhile what the server asks.
    #[track_caller]
    pub(crate) fn complete_serving(&mut self, queue: &mut Queue) -> Cqe {
        let start = Instant::now();
        loop {
            if let Some(entry) = self.poll(queue) {
                return entry;
            }
            assert!(start.elapsed() < secs(10), "queue {} waits in vain for a completion", queue.qid);
            self.client.attend(Duration::from_millis(5)).expect("the connection stays");
        }
    }

    /// Does one command in a queue.
    #[track_caller]
    pub(crate) fn run(&mut self, queue: &mut Queue, command: Sqe) -> Cqe {
        let cid = self.submit(queue, &[command]);
        let entry = self.complete(queue);
        assert_eq!(entry.cid, cid, "{command:?}: the completion is another command's");
        entry
    }

    /// Does one command, and meanwhile what the server asks of the client.
    #[track_caller]
    pub(crate) fn run_by_messages(&mut self, queue: &mut Queue, command: Sqe) -> Cqe {
        let start = Instant::now();
        self.submit(queue, &[command]);
        loop {
            if let Some(done) = self.poll(queue) {
                return done;
            }
            assert!(start.elapsed() < secs(10), "there is no completion");
            self.client.attend(Duration::from_millis(5)).expect("the connection stays");
        }
    }

    /// Does a command `count` times at once.
    #[track_caller]
    pub(crate) fn run_any(&mut self, queue: &mut Queue, command: Sqe, count: usize) -> Vec<Cqe> {
        self.run_all(queue, &vec![command; count])
    }

    /// Does commands at once; the completions are in the order in which they came.
    #[track_caller]
    pub(crate) fn run_all(&mut self, queue: &mut Queue, commands: &[Sqe]) -> Vec<Cqe> {
        self.submit(queue, commands);
        commands.iter().map(|_| self.complete(queue)).collect()
    }

    /// Puts a command into the admin queue, and does not look at what comes of it.
    #[track_caller]
    pub(crate) fn submit_admin(&mut self, command: Sqe) {
        let mut queue = std::mem::replace(&mut self.admin, Queue::new(0, ADMIN_ENTRIES));
        self.submit(&mut queue, &[command]);
        self.admin = queue;
    }

    /// Returns the phase tag in a slot of a completion queue.
    pub(crate) fn phase_in(&self, queue: &Queue, slot: u64) -> bool {
        let at = queue.cq + ENTRY * slot + offset_of!(Cqe, status) as u64;
        Status::from_bits(u16::from_le_bytes(self.memory.read(at))).phase()
    }

    /// Does one admin command.
    #[track_caller]
    pub(crate) fn admin(&mut self, command: Sqe) -> Cqe {
        let mut queue = std::mem::replace(&mut self.admin, Queue::new(0, ADMIN_ENTRIES));
        let entry = self.run(&mut queue, command);
        self.admin = queue;
        entry
    }

    /// Makes a pair of I/O queues; the completion queue's interrupt vector, if it has one, is `vector`.
    #[track_caller]
    pub(crate) fn create_queue(&mut self, qid: u16, entries: u16, vector: Option<u16>) -> Queue {
        let queue = Queue::new(qid, entries);
        let created = self.try_create(&queue, vector);
        assert!(created.status.is_success(), "queue {qid} cannot be made: {created:?}");
        queue
    }

    /// Makes a pair of I/O queues; returns the first completion that is an error, or the last one.
    #[track_caller]
    pub(crate) fn try_create(&mut self, queue: &Queue, vector: Option<u16>) -> Cqe {
        let (qid, qsize) = (queue.qid, queue.entries - 1);
        let cq = CreateCqDw11::new().with_pc(true);
        let cq = vector.map_or(cq, |vector| cq.with_ien(true).with_iv(vector));
        let made = self.admin(Sqe::create_io_cq(qid, qsize, queue.cq_addr(), cq));
        if !made.status.is_success() {
            return made;
        }
        let sq = CreateSqDw11::new().with_pc(true).with_cqid(qid);
        self.admin(Sqe::create_io_sq(qid, qsize, queue.sq_addr(), sq))
    }

    /// Returns a pair of I/O queues that is to be made by [`Self::try_create`].
    pub(crate) fn queue(qid: u16, entries: u16) -> Queue {
        Queue::new(qid, entries)
    }

    /// Identify's data: CNS, namespace.
    #[track_caller]
    pub(crate) fn identify(&mut self, cns: Cns, nsid: u32) -> Vec<u8> {
        let done = self.admin(Sqe::identify(cns, nsid).with_prps(BASE + DATA, 0));
        assert!(done.status.is_success(), "{cns:?} of namespace {nsid}: {done:?}");
        self.memory.read_vec(DATA, 4096)
    }

    /// Returns the structure at a place of the memory.
    pub(crate) fn structure<T: FromBytes>(&self, at: u64) -> T {
        let bytes = self.memory.read_vec(at, size_of::<T>());
        T::read_from_bytes(&bytes).map_err(|_| "too few bytes").expect("as many were read")
    }

    /// Writes a block of a pattern and reads it back: that the controller works.
    #[track_caller]
    pub(crate) fn check(&mut self, queue: &mut Queue, seed: u8) {
        let (from, to) = (DATA, DATA + PAGE);
        let block: Vec<u8> = (0..=u8::MAX).cycle().map(|byte| byte ^ seed).take(512).collect();
        self.memory.write(from, &block);
        self.memory.write(to, &[0; 512]);
        for (opcode, place) in [(IoOpcode::WRITE, from), (IoOpcode::READ, to)] {
            let done = self.run(queue, block_io(opcode, 1, seed.into(), 1, BASE + place));
            assert!(done.status.is_success(), "{opcode:?}: {done:?}");
        }
        assert_eq!(self.memory.read_vec(to, 512), block, "what was read is not what was written");
    }
}
