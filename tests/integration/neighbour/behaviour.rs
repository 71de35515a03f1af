//! What a guest, or who has taken its place, does to the others.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{sleep, yield_now};
use std::time::Duration;

use nvme_spec::{AdminOpcode, IoOpcode, Sqe};
use pool_faults::{Do, Namespace, On, Options, ScriptedTarget};
use serde_json::json;

use super::reader::Reader;
use crate::support::controller::{Controller, Front};
use crate::support::nvme::{BASE, CC, DATA, Driver, PAGE, READY, block_io};
use crate::support::paths;
use crate::support::vfio_user::{BAR0, CONFIG, Client, DMA_MAP, Failure, Memory, dma_map};

/// Where memory is that is not the driver's own.
const OTHER: u64 = 1 << 33;
/// How long the slow disk takes, in microseconds: longer than any measurement.
const FOR_EVER: u64 = 60_000_000;
/// How long a disk takes that is merely slow.
const LATE: u64 = 10_000;

/// What a guest is entitled to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    /// Nothing of the reactor: it asks for no I/O that a disk carries out.
    Nothing,
    /// As much of the reactor as the neighbour has.
    Half,
}

/// Something that a guest does, again and again.
pub(super) struct Behaviour {
    pub(super) name: &'static str,
    pub(super) claim: Claim,
    disk: Disk,
    prefault: bool,
    act: fn(&Stage<'_>),
}

/// What a guest's namespace is.
#[derive(Clone, Copy)]
enum Disk {
    /// One in memory.
    Memory,
    /// One that takes its time for each I/O, in microseconds.
    Slow(u64),
    /// One of a pool that answers no read and no abort.
    Hung,
}

const fn of(name: &'static str, claim: Claim, disk: Disk, act: fn(&Stage<'_>)) -> Behaviour {
    Behaviour { name, claim, disk, prefault: false, act }
}

/// All of them. The first one is honest: what it takes is what anybody may.
pub(super) const ALL: &[Behaviour] = &[
    of("reads as much as the neighbour", Claim::Half, Disk::Memory, read),
    of("resets, its reads stuck in a hung pool", Claim::Nothing, Disk::Hung, |stage| reset(stage, 4)),
    of("is killed, its reads stuck in a hung pool", Claim::Nothing, Disk::Hung, |stage| be_killed(stage, 4)),
    of("has 6,120 reads stuck in a hung pool", Claim::Nothing, Disk::Hung, |stage| hold(stage, 24)),
    of("has 4,080 reads on a disk that takes 10 ms", Claim::Half, Disk::Slow(LATE), read),
    of("resets with 6,120 reads in flight", Claim::Half, Disk::Slow(FOR_EVER), |stage| reset(stage, 24)),
    of("is killed with 6,120 reads in flight", Claim::Half, Disk::Slow(FOR_EVER), |stage| be_killed(stage, 24)),
    of("loses its namespace with 6,120 reads in flight", Claim::Half, Disk::Slow(FOR_EVER), lose_namespace),
    of("maps and unmaps", Claim::Nothing, Disk::Memory, |stage| map_and_unmap(stage, 0)),
    of("maps and unmaps beside 4,000 regions", Claim::Nothing, Disk::Memory, |stage| map_and_unmap(stage, 4_000)),
    of("maps, reads there and unmaps", Claim::Half, Disk::Memory, map_read_unmap),
    of("maps ever more files, and goes", Claim::Nothing, Disk::Memory, map_files),
    // For comparison: what Linux does for as many files, without any server.
    of("makes and closes 500 files at a time, and connects to nobody", Claim::Nothing, Disk::Memory, make_files),
    of("reads into memory that has no file", Claim::Half, Disk::Memory, bounce),
    of("asks for what the log tells", Claim::Nothing, Disk::Memory, be_refused),
    of("reads into memory that was never touched", Claim::Half, Disk::Memory, touch),
    Behaviour {
        prefault: true,
        ..of("maps memory that is populated for it, and unmaps it", Claim::Nothing, Disk::Memory, populate)
    },
    of("connects and goes", Claim::Nothing, Disk::Memory, connect),
    of("connects, maps, enables and goes", Claim::Nothing, Disk::Memory, enable),
];

/// Where a guest does what it does.
pub(super) struct Stage<'a> {
    controller: Controller<'a>,
    disk: String,
    /// Kept for its connections.
    _target: Option<ScriptedTarget>,
    over: AtomicBool,
    rounds: AtomicU64,
}

impl Stage<'_> {
    /// It is to stop.
    pub(super) fn stop(&self) {
        self.over.store(true, Ordering::Release);
    }

    /// Returns how often it has done it.
    pub(super) fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Acquire)
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    fn round(&self) {
        self.rounds.fetch_add(1, Ordering::Release);
    }

    /// Returns a client, tried until there is one; `None` when it is to stop.
    fn client(&self) -> Option<Client> {
        while !self.is_over() {
            if let Ok(client) = Client::negotiated(self.controller.dir()) {
                return Some(client);
            }
            sleep(Duration::from_millis(1));
        }
        None
    }

    /// Returns a driver whose controller is enabled.
    fn driver(&self) -> Option<Driver> {
        let mut driver = Driver::over(self.client()?);
        driver.enable();
        Some(driver)
    }
}

impl Behaviour {
    /// Makes the guest's disk and its controller, on the cores of a mask.
    pub(super) fn stage<'a>(&self, front: &'a Front, number: usize, cores: &str) -> Stage<'a> {
        let disk = format!("other{number}");
        let mut target = None;
        match self.disk {
            Disk::Memory => front.malloc(&disk, 2, 512),
            Disk::Slow(latency) => front.slow(&disk, latency),
            Disk::Hung => target = Some(hung_pool(front, &disk, number)),
        }
        let name = format!("controller{number}");
        let dir = paths::new_dir(&name);
        let params = json!({ "name": name, "traddr": dir, "cpumask": cores, "prefault": self.prefault });
        front.rpc.ok("courier_controller_create", &params);
        let controller = Controller::existing(front, &name, &dir);
        controller.add(&disk);
        Stage { controller, disk, _target: target, over: AtomicBool::new(false), rounds: AtomicU64::new(0) }
    }

    /// Does it until [`Stage::stop`].
    pub(super) fn act(&self, stage: &Stage<'_>) {
        (self.act)(stage);
    }
}

/// Returns a bdev of a pool that answers nothing that it could hold up.
fn hung_pool(front: &Front, disk: &str, number: usize) -> ScriptedTarget {
    let id = u8::try_from(number % 200 + 1).expect("small");
    let target = ScriptedTarget::with(Options::default(), [(1, Namespace::new(512, 1 << 15, id))]);
    let pool = format!("{disk}-pool");
    let params = json!({
        "name": pool, "trtype": "tcp", "traddr": "127.0.0.1", "trsvcid": target.port().to_string(),
        "subnqn": target.nqn(),
    });
    front.rpc.ok("courier_pool_create", &params);
    front.rpc.ok("bdev_courier_create", &json!({ "name": disk, "pool": pool, "nsid": 1 }));
    for opcode in [IoOpcode::READ, IoOpcode::FLUSH] {
        target.on(On::io(opcode), Do::Nothing);
    }
    target.on(On::admin(AdminOpcode::ABORT), Do::Nothing);
    target
}

fn read(stage: &Stage<'_>) {
    let mut reader = Reader::start(stage.controller.dir());
    stage.round();
    reader.iops(|_| stage.is_over());
}

/// Begins 255 reads in each of so many queues.
fn begin_reads(driver: &mut Driver, queues: u16, nsid: u32) {
    for qid in 1..=queues {
        let mut queue = driver.create_queue(qid, 256, None);
        driver.submit(&mut queue, &[block_io(IoOpcode::READ, nsid, 0, 1, BASE + DATA); 255]);
    }
    // For the reactor to take them.
    sleep(Duration::from_millis(2));
}

fn reset(stage: &Stage<'_>, queues: u16) {
    let Some(mut driver) = stage.driver() else { return };
    while !stage.is_over() {
        begin_reads(&mut driver, queues, 1);
        driver.client.write(BAR0, CC, &0_u32.to_le_bytes()).expect("the controller can be disabled");
        stage.round();
        while driver.csts() & READY != 0 && !stage.is_over() {
            sleep(Duration::from_micros(100));
        }
        if !stage.is_over() {
            driver.enable();
        }
    }
}

fn be_killed(stage: &Stage<'_>, queues: u16) {
    while let Some(mut driver) = stage.driver() {
        begin_reads(&mut driver, queues, 1);
        drop(driver);
        stage.round();
    }
}

fn hold(stage: &Stage<'_>, queues: u16) {
    let Some(mut driver) = stage.driver() else { return };
    begin_reads(&mut driver, queues, 1);
    stage.round();
    while !stage.is_over() {
        sleep(Duration::from_millis(1));
    }
}

fn lose_namespace(stage: &Stage<'_>) {
    let mut nsid = 1;
    while let Some(mut driver) = stage.driver() {
        begin_reads(&mut driver, 24, nsid);
        stage.controller.remove(nsid);
        let added = stage.controller.add(&stage.disk);
        nsid = added.as_u64().and_then(|nsid| nsid.try_into().ok()).expect("a small number");
        stage.round();
    }
}

fn map_and_unmap(stage: &Stage<'_>, beside: u64) {
    let Some(mut driver) = stage.driver() else { return };
    driver.create_queue(1, 16, None);
    let memory = Memory::new((beside + 1) * 2 * PAGE);
    let place = |index: u64| index * 2 * PAGE;
    for index in 1..=beside {
        driver.client.map(OTHER + place(index), PAGE, &memory.file, place(index)).expect("memory can be mapped");
    }
    while !stage.is_over() {
        driver.client.map(OTHER, PAGE, &memory.file, 0).expect("memory can be mapped");
        driver.client.unmap(OTHER, PAGE).expect("memory can be unmapped");
        stage.round();
    }
}

fn map_read_unmap(stage: &Stage<'_>) {
    let Some(mut driver) = stage.driver() else { return };
    let mut queue = driver.create_queue(1, 16, None);
    let memory = Memory::new(1 << 20);
    while !stage.is_over() {
        driver.client.map(OTHER, 1 << 20, &memory.file, 0).expect("memory can be mapped");
        driver.submit(&mut queue, &[block_io(IoOpcode::READ, 1, 0, 8, OTHER); 8]);
        for _ in 0..8 {
            while driver.poll(&mut queue).is_none() && !stage.is_over() {
                yield_now();
            }
        }
        driver.client.unmap(OTHER, 1 << 20).expect("memory can be unmapped");
        stage.round();
    }
}

fn map_files(stage: &Stage<'_>) {
    while let Some(mut client) = stage.client() {
        for index in 0..4_000 {
            let file = Memory::new(PAGE).file;
            let mapped = client.map(OTHER + index * 2 * PAGE, PAGE, &file, 0);
            if stage.is_over() || matches!(mapped, Err(Failure::Refused(_))) {
                break;
            }
            mapped.expect("the connection stays");
            stage.round();
        }
    }
}

fn make_files(stage: &Stage<'_>) {
    while !stage.is_over() {
        let files: Vec<Memory> = (0..500).map(|_| Memory::new(PAGE)).inspect(|file| file.write(0, &[1])).collect();
        drop(files);
        stage.round();
    }
}

fn bounce(stage: &Stage<'_>) {
    let Some(mut driver) = stage.driver() else { return };
    let mut queue = driver.create_queue(1, 16, None);
    driver.client.call(DMA_MAP, &dma_map(OTHER, 1 << 20, 0), &[]).expect("memory without a file can be mapped");
    driver.client.serve(OTHER, Memory::new(1 << 20));
    while !stage.is_over() {
        driver.run_by_messages(&mut queue, block_io(IoOpcode::READ, 1, 0, 8, OTHER));
        stage.round();
    }
}

fn be_refused(stage: &Stage<'_>) {
    let Some(mut driver) = stage.driver() else { return };
    while !stage.is_over() {
        let mapped = driver.client.map(BASE, PAGE, &driver.memory.file, 0);
        assert!(matches!(mapped, Err(Failure::Refused(_))), "memory can be mapped twice");
        stage.round();
    }
}

/// The most blocks of a command: 128 KiB.
const MOST: u16 = 256;
/// As many bytes.
const PIECE: u64 = 512 * MOST as u64;

fn touch(stage: &Stage<'_>) {
    const PIECES: u64 = 256;
    let Some(mut driver) = stage.driver() else { return };
    let mut queue = driver.create_queue(1, 256, None);
    let list = |piece: u64| DATA + PAGE * piece;
    for piece in 0..PIECES {
        let begin = OTHER + PIECE * piece;
        let pages: Vec<u8> = (1..PIECE / PAGE).flat_map(|page| (begin + page * PAGE).to_le_bytes()).collect();
        driver.memory.write(list(piece), &pages);
    }
    let read =
        |piece: u64| Sqe { prp2: BASE + list(piece), ..block_io(IoOpcode::READ, 1, 0, MOST, OTHER + PIECE * piece) };
    let reads: Vec<Sqe> = (0..PIECES).map(read).collect();
    while !stage.is_over() {
        let memory = Memory::new(PIECES * PIECE);
        driver.client.map(OTHER, PIECES * PIECE, &memory.file, 0).expect("memory can be mapped");
        for reads in reads.chunks(64) {
            driver.run_all(&mut queue, reads);
            stage.round();
        }
        driver.client.unmap(OTHER, PIECES * PIECE).expect("memory can be unmapped");
    }
}

fn populate(stage: &Stage<'_>) {
    const SIZE: u64 = 64 << 20;
    let Some(mut client) = stage.client() else { return };
    while !stage.is_over() {
        let memory = Memory::new(SIZE);
        client.map(OTHER, SIZE, &memory.file, 0).expect("memory can be mapped");
        client.unmap(OTHER, SIZE).expect("memory can be unmapped");
        stage.round();
    }
}

fn connect(stage: &Stage<'_>) {
    while let Some(mut client) = stage.client() {
        // It may be the one before that makes room.
        if client.read_u32(CONFIG, 0).is_ok() {
            stage.round();
        }
    }
}

fn enable(stage: &Stage<'_>) {
    while let Some(mut driver) = stage.driver() {
        driver.create_queue(1, 16, None);
        stage.round();
    }
}
