//! Pools that live, but neither carry out nor abort some commands: what waits for these ends all the same.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nvme_spec::{AdminOpcode, IoOpcode, Sqe};
use pool_faults::{Do, Namespace, On, Options, ScriptedTarget};
use serde_json::json;
use serial_test::serial;

use crate::support::controller::Front;
use crate::support::nvme::{BASE, DATA, Driver, Queue, block_io};
use crate::support::secs;

/// How long any of that may take.
const LIMIT: Duration = Duration::from_secs(5);

/// A client of a controller, and its queue.
struct Guest {
    driver: Driver,
    queue: Queue,
    dir: PathBuf,
}

impl Guest {
    fn start(dir: &Path) -> Self {
        let mut driver = Driver::start_within(dir, LIMIT);
        let queue = driver.create_queue(1, 16, None);
        Self { driver, queue, dir: dir.to_owned() }
    }

    /// Is killed; returns the next one on its controller.
    fn succeed(self) -> Self {
        let dir = self.dir.clone();
        drop(self);
        Self::start(&dir)
    }

    fn works(&mut self, seed: u8) {
        self.driver.check(&mut self.queue, seed);
    }
}

/// Two guests of one pool. Each has a read that the pool never answers, one also a write; everything else is answered.
struct Stuck {
    guest: Guest,
    neighbour: Guest,
    front: Front,
    target: ScriptedTarget,
    since: Instant,
}

/// Returns these; Abort commands are answered as `aborts` says.
fn stuck(aborts: Do) -> Stuck {
    let namespaces = [1, 2].map(|number| (u32::from(number), Namespace::new(512, 2048, number)));
    let target = ScriptedTarget::with(Options::default(), namespaces);
    let front = Front::start_with_pools();
    let port = target.port().to_string();
    let pool = json!({ "name": "p", "trtype": "tcp", "traddr": "127.0.0.1", "trsvcid": port, "subnqn": target.nqn() });
    front.rpc.ok("courier_pool_create", &pool);
    for (nsid, name) in [(1, "guest"), (2, "neighbour")] {
        front.rpc.ok("bdev_courier_create", &json!({ "name": name, "pool": "p", "nsid": nsid }));
    }
    let [mut guest, mut neighbour] =
        ["guest", "neighbour"].map(|bdev| Guest::start(front.controller(bdev, &[bdev]).dir()));
    target.on(On::io(IoOpcode::READ), Do::Hold);
    target.on(On::io(IoOpcode::WRITE), Do::HoldAnswer);
    let commands = [IoOpcode::READ, IoOpcode::WRITE].map(|opcode| block_io(opcode, 1, 0, 1, BASE + DATA));
    guest.driver.submit(&mut guest.queue, &commands);
    neighbour.driver.submit(&mut neighbour.queue, &commands[..1]);
    assert!(target.wait(secs(10), |target| target.held() == 3), "the commands do not come");
    target.behave();
    target.on(On::admin(AdminOpcode::ABORT), aborts);
    Stuck { guest, neighbour, front, target, since: Instant::now() }
}

impl Stuck {
    /// Checks that what was waited for has ended in time, and that it has cost the neighbour nothing.
    fn has_ended(&mut self) {
        assert!(self.since.elapsed() < LIMIT, "it took {:?}", self.since.elapsed());
        let read = self.neighbour.driver.complete(&mut self.neighbour.queue);
        assert!(read.status.is_success(), "the neighbour's command was not sent again: {read:?}");
        // The late answers are those of a connection that is gone.
        self.target.release();
        self.neighbour.works(7);
        let told = self.front.rpc.ok("courier_pool_get", &json!({ "name": "p" }));
        assert_eq!((&told[0]["state"], &told[0]["losses"]), (&json!("connected"), &json!(1)), "{told}");
        self.front.assert_alive();
    }
}

#[test]
#[serial]
fn a_reset_ends_although_a_live_pool_declines_to_abort_a_command_and_does_not_end_it() {
    let mut stuck = stuck(Do::Right);
    assert!(LIMIT < stuck.guest.driver.most_time_to_ready(), "the host waits for less");
    stuck.guest.driver.disable();
    stuck.has_ended();
    stuck.guest.driver.enable();
    stuck.guest.queue = stuck.guest.driver.create_queue(1, 16, None);
    stuck.guest.works(3);
}

#[test]
#[serial]
fn a_reset_ends_although_a_live_pool_answers_no_abort() {
    let mut stuck = stuck(Do::NoAnswer);
    stuck.guest.driver.disable();
    stuck.has_ended();
}

#[test]
#[serial]
fn a_submission_queue_is_deleted_although_a_live_pool_does_not_end_its_commands() {
    let mut stuck = stuck(Do::Right);
    let deleted = stuck.guest.driver.admin(Sqe::delete_io_sq(1));
    assert!(deleted.status.is_success(), "{deleted:?}");
    stuck.has_ended();
}

#[test]
#[serial]
fn a_namespace_is_removed_although_a_live_pool_does_not_end_its_commands() {
    let mut stuck = stuck(Do::Right);
    stuck.front.rpc.ok("courier_controller_remove_ns", &json!({ "name": "guest", "nsid": 1 }));
    for _ in 0..2 {
        let done = stuck.guest.driver.complete(&mut stuck.guest.queue);
        assert!(!done.status.is_success(), "{done:?}");
    }
    stuck.has_ended();
}

#[test]
#[serial]
fn a_killed_client_leaves_its_disk_to_the_next_although_a_live_pool_does_not_end_its_commands() {
    let stuck = stuck(Do::Right);
    let mut stuck = Stuck { guest: stuck.guest.succeed(), ..stuck };
    stuck.guest.works(3);
    stuck.has_ended();
}

#[test]
#[serial]
fn a_bdev_is_deleted_although_a_live_pool_does_not_end_its_commands() {
    let mut stuck = stuck(Do::Right);
    stuck.front.rpc.ok("bdev_courier_delete", &json!({ "name": "guest" }));
    stuck.has_ended();
}
