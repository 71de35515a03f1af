//! A guest that reads, and measures.
//!
//! Its doorbells are in memory that it shares with the reactor, as those of a guest in QEMU are: no other thread has a
//! part in an I/O.

use std::fs;
use std::path::Path;
use std::process::{Command as Program, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::support::nvme::{BASE, DATA, Driver, PAGE, Queue, block_io};
use crate::support::secs;
use nvme_spec::{AdminOpcode, Cqe, IoOpcode, Sqe};
use zerocopy::{FromBytes, IntoBytes};

/// Where the shadow doorbells and their event indexes are in the driver's memory.
const SHADOWS: (u64, u64) = (DATA - 2 * PAGE, DATA - PAGE);
const ENTRIES: u16 = 256;
/// Bytes of a completion queue entry.
const ENTRY: usize = size_of::<Cqe>();
/// Queues that together keep a reactor busy while the guest sleeps: 4,080 commands.
const QUEUES: u16 = 16;
/// How long it sleeps between two looks at its queues.
const NAP: Duration = Duration::from_micros(200);
/// It looks for a completion without a pause for so long; then with pauses, for who shares its core.
const SPIN: Duration = Duration::from_micros(100);

/// Puts the calling thread on the first core, and before all that run there, if the system lets it.
pub(super) fn go_first() {
    stay_on_first_core();
    run_on_me("chrt", &["-f", "-p", "10"]);
}

/// Puts the calling thread on the first core: that of the clients.
pub(super) fn stay_on_first_core() {
    run_on_me("taskset", &["-c", "-p", "0"]);
}

/// Runs a program whose last argument is the calling thread. It need not work: figures are then less exact.
fn run_on_me(program: &str, args: &[&str]) {
    let thread = fs::read_link("/proc/thread-self").expect("Linux tells a thread which it is");
    let thread = thread.file_name().expect("it has a number").to_owned();
    let _ = Program::new(program).args(args).arg(thread).stdout(Stdio::null()).stderr(Stdio::null()).status();
}

/// Writes a shadow doorbell. The event index is not looked at: a mapped doorbell, which takes its place, wakes nobody
/// either.
fn write_doorbell(driver: &Driver, index: u64, value: u16) {
    driver.memory.write(SHADOWS.0 + 4 * index, &u32::from(value).to_le_bytes());
}

/// The guest.
pub(super) struct Reader {
    driver: Driver,
    rings: Vec<Ring>,
}

/// A pair of queues whose submission queue is filled once: a command is begun by moving the tail.
struct Ring {
    qid: u64,
    cq: u64,
    tail: u16,
    head: u16,
    phase: bool,
    in_flight: u16,
}

impl Reader {
    /// Connects to the socket in `dir` and makes the queues.
    #[track_caller]
    pub(super) fn start(dir: &Path) -> Self {
        let mut driver = Driver::start_within(dir, secs(10));
        let queues: Vec<Queue> = (1..=QUEUES).map(|qid| driver.create_queue(qid, ENTRIES, None)).collect();
        for queue in &queues {
            for slot in 0..ENTRIES {
                let data = BASE + DATA + u64::from(slot) * PAGE;
                let read = block_io(IoOpcode::READ, 1, u32::from(slot) * 8, 8, data);
                let place = queue.sq_addr() - BASE + size_of::<Sqe>() as u64 * u64::from(slot);
                driver.memory.write(place, Sqe { cid: slot, ..read }.as_bytes());
            }
        }
        let (prp1, prp2) = (BASE + SHADOWS.0, BASE + SHADOWS.1);
        let done = driver.admin(Sqe::admin(AdminOpcode::DOORBELL_BUFFER_CONFIG).with_prps(prp1, prp2));
        assert!(done.status.is_success(), "Doorbell Buffer Config: {done:?}");
        let ring = |(qid, queue): (u64, &Queue)| Ring {
            qid,
            cq: queue.cq_addr() - BASE,
            tail: 0,
            head: 0,
            phase: true,
            in_flight: 0,
        };
        let rings = (1..).zip(&queues).map(ring).collect();
        Self { driver, rings }
    }

    /// Reads 4 KiB, and then 32 times as much at once, again and again for `time`. Returns how long each took, the
    /// shortest first.
    pub(super) fn latencies(&mut self, time: Duration) -> Vec<Duration> {
        let (start, mut took) = (Instant::now(), Vec::new());
        while start.elapsed() < time {
            for depth in [1, 32] {
                let begun = Instant::now();
                self.begin(0, depth);
                while self.rings[0].in_flight > 0 {
                    self.reap(0);
                    let waited = begun.elapsed();
                    assert!(waited < secs(30), "the neighbour's reads do not end");
                    if waited > SPIN {
                        sleep(Duration::from_micros(10));
                    }
                }
                took.push(begun.elapsed());
            }
            sleep(NAP);
        }
        took.sort_unstable();
        took
    }

    /// Has as many reads in flight as fit into all of its queues, until `over` says that it is enough. Returns the
    /// reads that ended in a second.
    pub(super) fn iops(&mut self, mut over: impl FnMut(Duration) -> bool) -> f64 {
        for ring in 0..self.rings.len() {
            self.begin(ring, ENTRIES - 1);
        }
        let (start, mut count) = (Instant::now(), 0_u32);
        while !over(start.elapsed()) {
            for ring in 0..self.rings.len() {
                let ended = self.reap(ring);
                count += u32::from(ended);
                self.begin(ring, ended);
            }
            sleep(NAP);
        }
        let rate = f64::from(count) / start.elapsed().as_secs_f64();
        for ring in 0..self.rings.len() {
            while self.rings[ring].in_flight > 0 {
                self.reap(ring);
                assert!(start.elapsed() < secs(60), "the neighbour's reads do not end");
            }
        }
        rate
    }

    /// Begins so many reads.
    fn begin(&mut self, ring: usize, count: u16) {
        if count == 0 {
            return;
        }
        let ring = &mut self.rings[ring];
        ring.tail = (ring.tail + count) % ENTRIES;
        ring.in_flight += count;
        write_doorbell(&self.driver, 2 * ring.qid, ring.tail);
    }

    /// Takes what has ended; returns how many.
    fn reap(&mut self, ring: usize) -> u16 {
        let ring = &mut self.rings[ring];
        let most = ring.in_flight.min(ENTRIES - ring.head);
        let (first, len) = (ring.cq + ENTRY as u64 * u64::from(ring.head), ENTRY * usize::from(most));
        let bytes = self.driver.memory.read_vec(first, len);
        let entries = bytes.chunks_exact(ENTRY).filter_map(|bytes| Cqe::read_from_bytes(bytes).ok());
        let ended = entries.take_while(|entry| entry.status.phase() == ring.phase).inspect(|entry| {
            assert!(entry.status.is_success(), "the neighbour's read fails: {entry:?}");
        });
        let count = u16::try_from(ended.count()).expect("no more than there are entries");
        if count > 0 {
            ring.head = (ring.head + count) % ENTRIES;
            ring.phase ^= ring.head == 0;
            ring.in_flight -= count;
            write_doorbell(&self.driver, 2 * ring.qid + 1, ring.head);
        }
        count
    }
}
