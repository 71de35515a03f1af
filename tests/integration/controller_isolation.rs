//! What one client leaves behind, and what that is to the others: to who has its disk next, and to who shares its core.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use nvme_spec::identify::Cns;
use nvme_spec::{AdminOpcode, IoOpcode};
use pool_faults::{Do, On, Relay, ScriptedTarget};
use serde_json::{Value, json};
use serial_test::serial;

use crate::support::controller::Front;
use crate::support::nvme::{BASE, DATA, Driver, PAGE, Queue, block_io};
use crate::support::{secs, wait_for};

/// A front end on two cores with bdev `d` on a pool that does what its script says.
fn front_with_pool() -> (ScriptedTarget, Front) {
    let target = ScriptedTarget::new();
    let front = Front::start_with_pools_on("0x3");
    let pool = json!({
        "name": "p", "trtype": "tcp", "traddr": "127.0.0.1", "trsvcid": target.port().to_string(), "subnqn": target.nqn(),
    });
    front.rpc.ok("courier_pool_create", &pool);
    front.rpc.ok("bdev_courier_create", &json!({ "name": "d", "pool": "p", "nsid": 1 }));
    (target, front)
}

/// The block that all write.
const BLOCK: u32 = 5;

/// A client writes to the block, which the pool keeps for itself, and goes.
fn leave_a_write_behind(target: &ScriptedTarget, dir: &Path) {
    target.on(On::io(IoOpcode::WRITE).once(), Do::Hold);
    let mut driver = Driver::start(dir);
    let mut queue = driver.create_queue(1, 16, None);
    write_block(&mut driver, &mut queue, 0xaa);
    assert!(target.wait(secs(10), |target| target.held() == 1), "the write does not come");
}

fn write_block(driver: &mut Driver, queue: &mut Queue, byte: u8) {
    driver.memory.write(DATA, &[byte; 512]);
    driver.submit(queue, &[block_io(IoOpcode::WRITE, 1, BLOCK, 1, BASE + DATA)]);
}

/// The next client writes to the block from queues on each core, while the old write is still there. Whoever writes
/// last must win.
fn write_after(target: &ScriptedTarget, dir: &Path) {
    let mut driver = Driver::start(dir);
    let mut queues = [driver.create_queue(1, 16, None), driver.create_queue(2, 16, None)];
    for queue in &mut queues {
        write_block(&mut driver, queue, 0xbb);
    }
    // Long enough for a write that does not wait.
    sleep(Duration::from_millis(200));
    target.release();
    for queue in &mut queues {
        let done = driver.complete(queue);
        assert!(done.status.is_success(), "{done:?}");
    }
    let block = target.read(1, BLOCK.into(), 1);
    assert!(block.iter().all(|&byte| byte == 0xbb), "the old write came last: {:#x}", block[0]);
}

#[test]
#[serial]
fn a_write_that_a_killed_client_left_comes_before_those_of_the_next_client() {
    let (target, front) = front_with_pool();
    let controller = front.controller("c", &["d"]);
    for _ in 0..2 {
        leave_a_write_behind(&target, controller.dir());
        write_after(&target, controller.dir());
    }
    front.assert_alive();
}

#[test]
#[serial]
fn a_write_that_was_left_comes_before_those_of_the_controller_that_has_the_disk_next() {
    let (target, front) = front_with_pool();
    let (old, new) = (front.controller("old", &["d"]), front.controller("new", &[]));
    leave_a_write_behind(&target, old.dir());
    old.remove(1);
    assert_eq!(new.add("d"), 1);
    write_after(&target, new.dir());
    new.remove(1);
    let last = front.controller("last", &["d"]);
    leave_a_write_behind(&target, last.dir());
    // Its end must not wait for the write to come: the pool may be silent.
    thread::scope(|scope| {
        let deleted = scope.spawn(|| last.delete());
        assert_eq!(new.add("d"), 1);
        write_after(&target, new.dir());
        deleted.join().expect("it can be deleted");
    });
    front.assert_alive();
}

/// How long the slow disk takes, in microseconds: longer than any test.
const FOR_EVER: u64 = 60_000_000;
/// The queues of a client that wants all there is, and their entries.
const QUEUES: u16 = 24;
const ENTRIES: u16 = 256;

/// Returns a client of the slow disk with thousands of commands in flight, none of which ends by itself.
fn hog(front: &Front, dir: &Path) -> Driver {
    hog_with(front, dir, u64::from(QUEUES) * u64::from(ENTRIES - 1))
}

/// Returns the same, of whose commands only so many need to be taken.
fn hog_with(front: &Front, dir: &Path, commands: u64) -> Driver {
    let taken = || {
        let stats = front.rpc.ok("bdev_get_iostat", &json!({ "name": "slow-under" }));
        stats["bdevs"][0]["num_read_ops"].as_u64().expect("a number")
    };
    let before = taken();
    let mut driver = Driver::start(dir);
    let mut queues: Vec<Queue> = (1..=QUEUES).map(|qid| driver.create_queue(qid, ENTRIES, None)).collect();
    let read = block_io(IoOpcode::READ, 1, 0, 1, BASE + DATA);
    for queue in &mut queues {
        driver.submit(queue, &vec![read; usize::from(ENTRIES) - 1]);
    }
    wait_for("the commands to be in flight", secs(10), || taken() >= before + commands);
    driver
}

/// The longest of the reads that a client does one after another until `f` is over.
fn slowest_while(driver: &mut Driver, queue: &mut Queue, f: impl FnOnce() + Send) -> Duration {
    let done = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&done);
    let mut slowest = Duration::ZERO;
    thread::scope(|scope| {
        scope.spawn(move || {
            f();
            told.store(true, Ordering::Release);
        });
        while !done.load(Ordering::Acquire) {
            let start = Instant::now();
            driver.submit(queue, &[block_io(IoOpcode::READ, 1, 0, 1, BASE + DATA + PAGE)]);
            while driver.poll(queue).is_none() {
                assert!(start.elapsed() < secs(10), "the neighbour's read does not end");
                thread::yield_now();
            }
            slowest = slowest.max(start.elapsed());
        }
    });
    slowest
}

/// What the neighbour may notice, on a machine that is busy with other things, too.
const NOTICEABLE: Duration = Duration::from_millis(150);

#[test]
#[serial]
fn a_neighbour_notices_nothing_of_a_client_that_resets_or_goes_with_thousands_of_commands_in_flight() {
    let front = Front::start();
    front.malloc("disk", 16, 512);
    front.slow("slow", FOR_EVER);
    let (controller, other) = (front.controller("c", &["slow"]), front.controller("other", &["disk"]));
    let mut neighbour = Driver::start(other.dir());
    let mut queue = neighbour.create_queue(1, 16, None);
    let idle = slowest_while(&mut neighbour, &mut queue, || sleep(Duration::from_millis(300)));

    let mut client = hog(&front, controller.dir());
    let start = Instant::now();
    let slowest = slowest_while(&mut neighbour, &mut queue, || client.disable());
    eprintln!("idle {idle:?}, during the reset {slowest:?}, which took {:?}", start.elapsed());
    assert!(slowest < idle + NOTICEABLE, "{slowest:?} during a reset, {idle:?} without");
    drop(client);

    let client = hog(&front, controller.dir());
    let slowest = slowest_while(&mut neighbour, &mut queue, || {
        drop(client);
        Driver::start(controller.dir());
        sleep(secs(1));
    });
    eprintln!("when the client goes {slowest:?}");
    assert!(slowest < idle + NOTICEABLE, "{slowest:?} after a client went, {idle:?} without");

    let _client = hog(&front, controller.dir());
    let slowest = slowest_while(&mut neighbour, &mut queue, || {
        controller.remove(1);
        sleep(secs(1));
    });
    eprintln!("when its namespace goes {slowest:?}");
    assert!(slowest < idle + NOTICEABLE, "{slowest:?} after a namespace went, {idle:?} without");
    front.assert_alive();
}

/// Returns how many of the bdev layer's I/Os are taken.
fn bdev_ios_in_use(front: &Front) -> usize {
    let file = front.rpc.ok("env_dpdk_get_mem_stats", &Value::Null);
    let file = file["filename"].as_str().expect("a file's name").to_owned();
    let text = fs::read_to_string(&file).expect("the file can be read");
    let _ = fs::remove_file(file);
    let pool = text.split("mempool <").find(|pool| pool.starts_with("bdev_io_")).expect("the bdev layer has a pool");
    let field = |name: &str| -> usize {
        let line = pool.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix('='));
        line.and_then(|value| value.trim().parse().ok()).unwrap_or_else(|| panic!("no {name} in {pool}"))
    };
    field("size") - field("common_pool_count")
}

/// A pool whose queues have few requests and whose silence is not noticed in any test's time, with bdev `d` on it.
fn add_small_pool(front: &Front, port: u16, nqn: &str) {
    let pool = json!({
        "name": "p", "trtype": "tcp", "traddr": "127.0.0.1", "trsvcid": port.to_string(), "subnqn": nqn,
        "io_queue_size": 64, "io_queue_requests": 64, "keep_alive_timeout_ms": 60_000,
    });
    front.rpc.ok("courier_pool_create", &pool);
    front.rpc.ok("bdev_courier_create", &json!({ "name": "d", "pool": "p", "nsid": 1 }));
}

/// How many queues of 255 commands a client has that has more of them than a small pool's queues have requests.
const MANY: u16 = 8;

/// A client with such queues, all of them full of reads.
fn start_many(dir: &Path) -> Driver {
    let mut driver = Driver::start(dir);
    let mut queues: Vec<Queue> = (1..=MANY).map(|qid| driver.create_queue(qid, ENTRIES, None)).collect();
    let read = block_io(IoOpcode::READ, 1, 0, 1, BASE + DATA);
    for queue in &mut queues {
        driver.submit(queue, &vec![read; usize::from(ENTRIES) - 1]);
    }
    driver
}

#[test]
#[serial]
fn a_client_whose_commands_hang_takes_no_more_of_the_bdev_layer_when_it_goes() {
    const COMMANDS: usize = MANY as usize * (ENTRIES as usize - 1);
    /// What the two threads may keep for themselves of what has ended.
    const KEPT: usize = 2 * 256;
    /// Each abort takes two, on each core as many as are in flight at a time.
    const ABORTS: usize = 2 * 2 * 32;
    let (target, front) = (ScriptedTarget::new(), Front::start_with_pools_on("0x3"));
    add_small_pool(&front, target.port(), &target.nqn());
    let controller = front.controller("c", &["d"]);
    // Neither the commands nor their aborts are ever answered, nor the flush that asks whether the queue lives.
    for opcode in [IoOpcode::READ, IoOpcode::FLUSH] {
        target.on(On::io(opcode), Do::Nothing);
    }
    target.on(On::admin(AdminOpcode::ABORT), Do::Nothing);
    let before = bdev_ios_in_use(&front);
    let driver = start_many(controller.dir());
    wait_for("the commands to be in flight", secs(10), || bdev_ios_in_use(&front) + KEPT >= before + COMMANDS);
    drop(driver);
    // Most of them are in no queue of the pool, and all have their end without an answer of the pool.
    wait_for("the commands to end", secs(10), || {
        let taken = bdev_ios_in_use(&front).saturating_sub(before);
        assert!(taken <= COMMANDS + ABORTS, "{taken} are taken");
        taken <= KEPT
    });
    target.behave();
    front.assert_alive();
}

#[test]
#[serial]
fn a_client_of_a_pool_that_hangs_resets_in_time_and_its_neighbour_notices_nothing() {
    let (target, front) = (ScriptedTarget::new(), Front::start_with_pools());
    let relay = Relay::to(target.address());
    add_small_pool(&front, relay.port(), &target.nqn());
    front.malloc("disk", 16, 512);
    let (controller, other) = (front.controller("c", &["d"]), front.controller("other", &["disk"]));
    let mut neighbour = Driver::start(other.dir());
    let mut queue = neighbour.create_queue(1, 16, None);
    let idle = slowest_while(&mut neighbour, &mut queue, || sleep(Duration::from_millis(300)));
    let before = bdev_ios_in_use(&front);
    relay.stall();
    let mut client = start_many(controller.dir());
    wait_for("the commands to be in flight", secs(10), || bdev_ios_in_use(&front) >= before + 1_500);
    let start = Instant::now();
    let slowest = slowest_while(&mut neighbour, &mut queue, || client.disable());
    let took = start.elapsed();
    eprintln!("idle {idle:?}, during the reset {slowest:?}, which took {took:?}");
    assert!(took < client.most_time_to_ready(), "the reset took {took:?}");
    assert!(slowest < idle + NOTICEABLE, "{slowest:?} during a reset, {idle:?} without");
    relay.release();
    client.enable();
    let mut queue = client.create_queue(1, 16, None);
    client.check(&mut queue, 3);
    front.assert_alive();
}

/// How many clients a pool has that hangs, and how many of their queues each fills.
const CLIENTS: usize = 8;
const THEIR_QUEUES: u16 = 8;

#[test]
#[serial]
fn clients_of_a_pool_that_hangs_leave_the_others_what_they_need_though_their_commands_are_split() {
    let (target, front) = (ScriptedTarget::new(), Front::start_with_bdev_ios(4_096));
    let relay = Relay::to(target.address());
    // A boundary behind each block: a read of eight of them takes nine of the bdev layer's I/Os.
    target.on(On::identify(Cns::NAMESPACE), Do::edit_namespace(|identity| identity.noiob = 1));
    add_small_pool(&front, relay.port(), &target.nqn());
    front.malloc("disk", 16, 512);
    let names: Vec<_> = (0..CLIENTS).map(|client| format!("c{client}")).collect();
    let hogs: Vec<_> = names.iter().map(|name| front.controller(name, &["d", "disk"])).collect();
    let other = front.controller("other", &["disk"]);
    let mut neighbour = Driver::start(other.dir());
    let mut queue = neighbour.create_queue(1, ENTRIES, None);
    let rounds = |neighbour: &mut Driver, queue: &mut Queue| {
        let start = Instant::now();
        for _ in 0..8 {
            let done =
                neighbour.run_any(queue, block_io(IoOpcode::READ, 1, 0, 1, BASE + DATA), usize::from(ENTRIES) - 1);
            assert!(done.iter().all(|done| done.status.is_success()), "{done:?}");
        }
        start.elapsed()
    };
    let before = rounds(&mut neighbour, &mut queue);
    relay.stall();
    let mut clients = Vec::new();
    for hog in &hogs {
        let mut driver = Driver::start(hog.dir());
        let mut queues: Vec<_> = (1..=THEIR_QUEUES).map(|qid| driver.create_queue(qid, ENTRIES, None)).collect();
        let read = block_io(IoOpcode::READ, 1, 0, 8, BASE + DATA);
        for queue in &mut queues {
            driver.submit(queue, &vec![read; usize::from(ENTRIES) / 2]);
        }
        // What another disk is asked in the same queue goes on, too.
        let done = driver.run(&mut queues[0], block_io(IoOpcode::READ, 2, 0, 1, BASE + DATA + PAGE));
        assert!(done.status.is_success(), "{done:?}");
        clients.push(driver);
    }
    let during = rounds(&mut neighbour, &mut queue);
    eprintln!("{before:?} before, {during:?} while the pool hangs");
    assert!(during < before * 5 / 4 + secs(1), "{before:?} before, {during:?} while the pool hangs");
    let start = Instant::now();
    neighbour.enable();
    assert!(start.elapsed() < secs(2), "the neighbour's reset took {:?}", start.elapsed());
    for client in &mut clients {
        client.disable();
    }
    relay.release();
    front.assert_alive();
}

#[test]
#[serial]
fn clients_of_a_slow_disk_leave_the_others_what_they_need() {
    // For all of its controllers, half of this.
    let front = Front::start_with_bdev_ios(4_096);
    front.malloc("disk", 16, 512);
    front.slow("slow", FOR_EVER);
    let hogs = [front.controller("a", &["slow"]), front.controller("b", &["slow"])];
    let other = front.controller("other", &["disk"]);
    let mut clients = hogs.iter().map(|controller| hog_with(&front, controller.dir(), 500)).collect::<Vec<_>>();
    let mut neighbour = Driver::start(other.dir());
    let mut queue = neighbour.create_queue(1, ENTRIES, None);
    for round in 0..4 {
        let read = block_io(IoOpcode::READ, 1, 0, 1, BASE + DATA);
        let start = Instant::now();
        let done = neighbour.run_any(&mut queue, read, usize::from(ENTRIES) - 1);
        assert!(done.iter().all(|done| done.status.is_success()), "{done:?}");
        assert!(start.elapsed() < secs(2), "round {round}: {:?}", start.elapsed());
    }
    neighbour.disable();
    for client in &mut clients {
        client.disable();
    }
    front.assert_alive();
}
