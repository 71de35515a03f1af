//! Pools that hang, are late, or are away: each wait has an end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use nvme_spec::fabrics::FabricsType;
use nvme_spec::identify::Cns;
use nvme_spec::register::Cc;
use nvme_spec::{IoOpcode, Status};
use pool_faults::{Arrival, Cut, Do, Mode, Namespace, On, Options, Relay, ScriptedTarget, Way, Which};
use serde_json::{Value, json};
use serial_test::serial;
use spdk::bdev_client::Op;
use spdk::thread::OwnedThread;

use crate::common::disk::{Disk, Layout, Pending};
use crate::common::harness::{PATIENCE, wait_until};
use crate::common::load::{self, Plan, Tally};
use crate::common::{Pool, rig};

const BLOCK: usize = 512;
/// `-EBUSY`.
const BUSY: i64 = -16;
/// The shortest keep-alive time-out that a pool may have, and how much later its silence may be noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
const NOTICED: Duration = Duration::from_secs(2);
/// What a deletion may take, whatever the pool does.
const DELETION: Duration = Duration::from_secs(5);
/// How long a queue may answer nothing when something of it is to be aborted.
const HURRY: Duration = Duration::from_secs(2);
/// What else may take time on a machine that is busy with other things.
const SLACK: Duration = Duration::from_secs(3);

fn short_times() -> Value {
    json!({ "keep_alive_timeout_ms": 1_000, "connect_timeout_ms": 1_000 })
}

fn with(more: Value) -> Value {
    let mut params = short_times();
    if let (Value::Object(params), Value::Object(more)) = (&mut params, more) {
        params.extend(more);
    }
    params
}

/// A target, a relay before it, and a pool with a bdev and an open disk behind that.
struct Line {
    // In the order in which they go.
    disk: Disk,
    bdev: crate::common::Bdev,
    pool: Pool,
    relay: Arc<Relay>,
    target: ScriptedTarget,
}

/// Returns a target whose subsystem no other test has: a pool that is made again waits for what one of the same
/// subsystem has left.
fn target() -> ScriptedTarget {
    static LAST: AtomicU32 = AtomicU32::new(0);
    let nqn = format!("nqn.2024-01.com.example:line{}", LAST.fetch_add(1, Ordering::Relaxed));
    ScriptedTarget::with(Options { nqn, ..Options::default() }, [(1, Namespace::new(512, 8_192, 0x11))])
}

fn line(params: Value) -> Line {
    let rig = rig();
    let target = target();
    let relay = Arc::new(Relay::to(target.address()));
    let pool = rig.scripted_pool(&target, relay.port(), params);
    let bdev = rig.bdev(&pool.name, 1);
    let disk = Disk::open(&bdev.name);
    // Its queue pair is there.
    assert!(disk.read(0, &Layout::whole(BLOCK)).is_ok());
    Line { disk, bdev, pool, relay, target }
}

impl Line {
    fn write(&self, slba: u64, byte: u8) -> Pending {
        self.disk.start(Op::Write, slba, 1, &Layout::whole(BLOCK), &[byte; BLOCK]).expect("the write is taken")
    }

    fn read(&self) -> Pending {
        self.disk.start(Op::Read, 0, 1, &Layout::whole(BLOCK), &[0; BLOCK]).expect("the read is taken")
    }

    fn wait_for_loss(&self) {
        wait_until("the pool counts as lost", || self.pool.losses() > 0);
    }

    fn is(&self, state: &str) -> bool {
        self.pool.told()["state"] == state
    }

    /// Nobody answers any more, and nobody can be connected to.
    fn go_away(&self) {
        self.relay.arrivals(Arrival::Refuse);
        self.relay.cut(Which::All, Cut::Reset);
        wait_until("the pool is away", || self.is("reconnecting"));
    }
}

#[test]
#[serial]
fn a_hung_pool_is_noticed_within_its_keep_alive_time_though_nothing_is_asked_of_it() {
    let line = line(short_times());
    let since = Instant::now();
    line.relay.stall();
    line.wait_for_loss();
    assert!(since.elapsed() < NOTICED + SLACK, "{:?}", since.elapsed());
    line.relay.release();
    wait_until("the pool is back", || line.is("connected"));
    assert_eq!(line.write(1, 1).wait().result, Ok(()));
}

#[test]
#[serial]
fn a_connection_that_is_reset_is_no_reason_to_wait_for_a_timer_even_if_it_is_noticed_by_writing() {
    let line = line(json!({ "keep_alive_timeout_ms": 10_000 }));
    let since = Instant::now();
    let relay = Arc::clone(&line.relay);
    let cut = move || relay.cut(Which::All, Cut::Reset);
    let layout = Layout::whole(BLOCK);
    let write = line.disk.start_after(cut, Op::Write, 5, 1, &layout, &[1; BLOCK]).expect("the write is taken");
    assert_eq!(write.wait().result, Ok(()));
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
}

#[test]
#[serial]
fn a_hung_queue_is_dropped_and_what_it_held_is_sent_again_only_when_its_controller_is_disabled() {
    let line = line(short_times());
    // The admin queue answers.
    line.relay.set(Which::One(1), Way::ToTarget, Mode::Stall);
    let (since, before) = (Instant::now(), line.target.commands().len());
    let old = line.write(5, 0xaa);
    assert_eq!(old.wait().result, Ok(()), "it is carried out over another connection");
    assert!(since.elapsed() < NOTICED + SLACK, "{:?}", since.elapsed());
    assert_eq!(line.write(5, 0xbb).wait().result, Ok(()));
    // The first copy comes now, if it can.
    line.relay.release();
    wait_until("the old connection is over", || !line.relay.is_open(1));
    assert_eq!(line.disk.read(5, &Layout::whole(BLOCK)), Ok(vec![0xbb; BLOCK]));
    let commands = line.target.commands();
    let disabled = commands[before..]
        .iter()
        .position(|command| command.is_fabrics(FabricsType::PROPERTY_SET) && !Cc::from_bits(command.sqe.cdw12).en());
    let written = commands[before..].iter().position(|command| command.is_io(IoOpcode::WRITE));
    assert!(disabled.is_some() && disabled < written, "{disabled:?}, {written:?}");
}

#[test]
#[serial]
fn a_write_is_not_sent_again_before_a_silent_controllers_keep_alive_timer_has_run_out() {
    let line = line(short_times());
    line.relay.stall();
    let write = line.write(5, 1);
    line.wait_for_loss();
    let lost = Instant::now();
    // The old connections stay as they are, new ones are passed on.
    let first_new = line.relay.connections();
    line.relay.set(Which::From(first_new), Way::Both, Mode::Pass);
    assert_eq!(write.wait().result, Ok(()));
    assert!(lost.elapsed() >= 2 * KEEP_ALIVE, "{:?}", lost.elapsed());
}

#[test]
#[serial]
fn a_pool_whose_process_ends_is_used_again_as_soon_as_it_is_back() {
    let line = line(json!({ "keep_alive_timeout_ms": 60_000 }));
    line.target.on(On::io(IoOpcode::WRITE).once(), Do::NoAnswer);
    let write = line.write(5, 1);
    assert!(line.target.wait_for(&On::io(IoOpcode::WRITE), 1, PATIENCE));
    line.target.cut_all(Cut::Reset);
    assert_eq!(write.wait().result, Ok(()), "and not when the keep-alive time is over, which nobody waits for here");
    assert_eq!(line.target.read(1, 5, 1), [1; BLOCK]);
}

#[test]
#[serial]
fn a_queue_that_is_lost_while_another_is_being_connected_is_connected_again() {
    const TOTAL: u64 = 4_000;
    let line = line(json!({ "keep_alive_timeout_ms": 10_000, "connect_timeout_ms": 10_000 }));
    let (desc, (tell, told)) = (line.disk.desc(), channel());
    let plan = Plan {
        depth: 4,
        total: TOTAL,
        ops: &[Op::Read],
        pieces: 1,
        blocks: 8,
        first: 0,
        places: 100,
        block_size: BLOCK,
        watch: |_| (),
    };
    let run = move || {
        let finish = move |tally| tell.send(tally).expect("somebody waits");
        load::run(desc.channel().expect("a channel"), plan, 1, finish).expect("memory for the buffers");
    };
    // A second channel, and so a second queue.
    let thread = OwnedThread::on_core("second", 0).expect("a thread");
    thread.send(run).expect("the thread takes messages");
    assert!(line.target.wait_for(&On::connect_io(), 2, PATIENCE));
    line.target.on(On::connect_io().after(1).once(), Do::Hold);
    line.relay.cut(Which::All, Cut::Reset);
    assert!(line.target.wait(PATIENCE, |target| target.held() == 1), "the second is being connected");
    let open = line.target.open_connections();
    let first = open.into_iter().filter(|(_, qid)| *qid > 0).map(|(number, _)| number).max();
    let first = first.expect("the first is connected");
    line.target.cut(first, Cut::Reset);
    line.target.release();
    assert_eq!(line.read().wait().result, Ok(()));
    let tally = told.recv_timeout(PATIENCE).expect("the I/O ends in time");
    assert_eq!(tally, Tally { succeeded: TOTAL, failed: 0, refused: 0 });
    drop(thread);
}

#[test]
#[serial]
fn an_error_that_may_pass_is_tried_again_three_times_and_then_told() {
    let line = line(short_times());
    // The second of them by a pool whose connection stands.
    for status in [Status::INTERNAL_ERROR, Status::ABORTED_SQ_DELETION, Status::UNRECOVERED_READ_ERROR] {
        let answer = |times| line.target.on(On::io(IoOpcode::READ).times(times), Do::Status(status));
        let before = line.target.count(&On::io(IoOpcode::READ));
        answer(3);
        assert_eq!(line.read().wait().result, Ok(()), "{status}");
        answer(4);
        let told = line.read().wait().result.expect_err("the fourth failure is told");
        assert_eq!(told.code(), status.code());
        assert_eq!(line.target.count(&On::io(IoOpcode::READ)) - before, 8);
    }
    line.target.on(On::io(IoOpcode::READ).once(), Do::Status(Status::INTERNAL_ERROR.with_dnr(true)));
    assert!(line.read().wait().result.is_err(), "with Do Not Retry it is told at once");
    assert_eq!(line.pool.losses(), 0);
}

#[test]
#[serial]
fn a_command_that_takes_long_does_not_make_its_pool_hung() {
    let line = line(short_times());
    line.target.on(On::io(IoOpcode::READ).once(), Do::Hold);
    let read = line.read();
    assert!(line.target.wait(PATIENCE, |target| target.held() == 1));
    // The pool is asked whether it lives, twice.
    assert!(line.target.wait_for(&On::io(IoOpcode::FLUSH).nsid(0), 2, PATIENCE));
    line.target.release();
    assert_eq!(read.wait().result, Ok(()));
    assert_eq!(line.pool.losses(), 0);
}

#[test]
#[serial]
fn an_io_queue_whose_connect_is_never_answered_is_given_up_at_first_and_later() {
    let rig = rig();
    let target = target();
    target.on(On::connect_io(), Do::Nothing);
    let pool = rig.scripted_pool(&target, target.port(), short_times());
    let bdev = rig.bdev(&pool.name, 1);
    let disk = Disk::open(&bdev.name);
    let read = disk.start(Op::Read, 0, 1, &Layout::whole(BLOCK), &[0; BLOCK]).expect("the read is taken");
    // The first is of the pool as it was made, the second of an attempt to connect it again.
    wait_until("two attempts were given up", || pool.losses() >= 2);
    target.behave();
    assert_eq!(read.wait().result, Ok(()));
}

#[test]
#[serial]
fn the_death_of_the_admin_queue_ends_the_wait_for_io_queues() {
    let rig = rig();
    let target = target();
    let params = json!({ "keep_alive_timeout_ms": 1_000, "connect_timeout_ms": 600_000 });
    let pool = rig.scripted_pool(&target, target.port(), params);
    let bdev = rig.bdev(&pool.name, 1);
    let disk = Disk::open(&bdev.name);
    assert!(disk.read(0, &Layout::whole(BLOCK)).is_ok());
    target.on(On::connect_io().once(), Do::Nothing);
    target.cut_all(Cut::Reset);
    let read = disk.start(Op::Read, 0, 1, &Layout::whole(BLOCK), &[0; BLOCK]).expect("the read is taken");
    assert!(target.wait_for(&On::connect_io(), 2, PATIENCE));
    let admin = target.open_connections().iter().find(|(_, qid)| *qid == 0).expect("an admin queue").0;
    target.cut(admin, Cut::Reset);
    assert_eq!(read.wait().result, Ok(()));
}

#[test]
#[serial]
fn a_first_connection_that_gets_no_answer_fails_in_time_and_leaves_no_connection() {
    let rig = rig();
    let target = target();
    for silent in [On::ic_req(), On::connect(0), On::fabrics(FabricsType::PROPERTY_GET), On::identify(Cns::CONTROLLER)]
    {
        target.behave();
        target.on(silent.clone(), Do::Nothing);
        let since = Instant::now();
        let params = json!({ "trsvcid": target.port().to_string(), "connect_timeout_ms": 300 });
        let refused = rig.connect("late", &target.nqn(), params).expect_err("nobody answers");
        assert!(since.elapsed() < SLACK, "{silent:?}: {:?}", since.elapsed());
        assert!(refused.message.contains("connect_timeout_ms"), "{silent:?}: {}", refused.message);
        wait_until("the connection is closed", || target.open_connections().is_empty());
    }
}

#[test]
#[serial]
fn a_pool_whose_syns_are_lost_fails_in_time_and_comes_when_they_arrive() {
    let rig = rig();
    let target = target();
    let relay = Relay::to(target.address());
    relay.arrivals(Arrival::Drop);
    let since = Instant::now();
    let address = json!({ "trsvcid": relay.port().to_string(), "connect_timeout_ms": 500 });
    assert!(rig.connect("lost", &target.nqn(), address).is_err());
    // The diagnosis of the failure takes two seconds more.
    assert!(since.elapsed() < DELETION + SLACK, "{:?}", since.elapsed());
    let pool = rig.scripted_pool(&target, relay.port(), with(json!({ "wait": false })));
    relay.arrivals(Arrival::Pass);
    wait_until("the pool is connected", || pool.told()["state"] == "connected");
}

/// A PDU of a type that there is not.
const NONSENSE: [u8; 8] = [0xee, 0, 8, 0, 8, 0, 0, 0];

#[test]
#[serial]
fn a_protocol_error_costs_its_connection_and_nothing_else() {
    let line = line(short_times());
    // On the I/O queue, then on the admin queue of the connection after that.
    for losses in [1, 2] {
        let number = if losses == 1 { 1 } else { line.relay.connections() - 2 };
        line.target.on(On::io(IoOpcode::READ).once(), Do::Hold);
        let read = line.read();
        assert!(line.target.wait(PATIENCE, |target| target.held() == 1));
        line.relay.inject(number, Way::ToHost, NONSENSE.to_vec());
        assert_eq!(read.wait().result, Ok(()));
        assert_eq!(line.pool.losses(), losses);
        line.target.release();
    }
}

#[test]
#[serial]
fn a_pool_is_given_up_in_time_whatever_it_waits_for_and_used_again_when_it_is_asked_for() {
    let line = line(json!({ "ctrlr_loss_timeout_sec": 1, "reconnect_delay_sec": 600 }));
    line.go_away();
    let (since, write) = (Instant::now(), line.write(1, 1));
    assert!(write.wait().result.is_err());
    assert!(since.elapsed() < Duration::from_secs(1) + SLACK, "{:?}", since.elapsed());
    wait_until("the pool is given up", || line.is("failed"));
    line.relay.arrivals(Arrival::Pass);
    assert_eq!(rig().app.rpc("courier_pool_reconnect", json!({ "name": line.pool.name })), Ok(json!(true)));
    wait_until("the pool is back", || line.is("connected"));
    assert_eq!(line.write(1, 1).wait().result, Ok(()));
}

#[test]
#[serial]
fn io_fails_in_time_although_the_pool_is_tried_further() {
    let line = line(json!({ "fast_io_fail_timeout_sec": 1, "reconnect_delay_sec": 600 }));
    line.go_away();
    let since = Instant::now();
    assert!(line.write(1, 1).wait().result.is_err());
    assert!(since.elapsed() < Duration::from_secs(1) + SLACK, "{:?}", since.elapsed());
    assert!(line.is("reconnecting"));
}

#[test]
#[serial]
fn a_reset_while_the_pool_is_away_aborts_what_is_held_and_ends() {
    let line = line(json!({}));
    line.go_away();
    let write = line.write(1, 1);
    assert_eq!(line.disk.bare(Op::Reset, 0, 0), Ok(()));
    assert!(write.wait().result.is_err());
    line.relay.arrivals(Arrival::Pass);
    assert_eq!(line.write(2, 2).wait().result, Ok(()));
    assert_eq!(line.target.count(&On::io(IoOpcode::WRITE)), 1, "the one before the reset was not sent after it");
}

#[test]
#[serial]
fn a_pool_tells_how_many_queues_it_has_granted_while_it_is_connected_and_at_no_other_time() {
    let line = line(json!({ "num_io_queues": 7 }));
    assert_eq!(line.pool.told()["io_queues"], json!(7));
    line.go_away();
    assert_eq!(line.pool.told()["io_queues"], json!(null));
}

#[test]
#[serial]
fn an_io_that_is_held_is_aborted_at_once() {
    let line = line(json!({}));
    line.go_away();
    let write = line.write(1, 1);
    assert_eq!(line.disk.abort(&write), Ok(()));
    assert_eq!(write.wait().result, Err(Status::ABORT_REQUESTED));
}

#[test]
#[serial]
fn a_bdev_of_a_pool_that_is_away_is_deleted_with_io_held() {
    let Line { disk, bdev, pool, relay, target: _target } = line(json!({}));
    relay.arrivals(Arrival::Refuse);
    relay.cut(Which::All, Cut::Reset);
    let write = disk.start(Op::Write, 1, 1, &Layout::whole(BLOCK), &[1; BLOCK]).expect("the write is taken");
    wait_until("the pool is away", || pool.told()["state"] == "reconnecting");
    let since = Instant::now();
    std::thread::scope(|scope| {
        let gone = scope.spawn(|| drop(bdev));
        assert!(write.wait().result.is_err());
        drop(disk);
        gone.join().expect("the bdev is deleted");
    });
    assert!(since.elapsed() < DELETION, "{:?}", since.elapsed());
}

#[test]
#[serial]
fn what_is_held_for_a_bdev_that_is_deleted_while_the_queues_are_opened_ends_unsent() {
    let Line { disk, bdev, pool, relay, target } = line(json!({}));
    relay.arrivals(Arrival::Refuse);
    relay.cut(Which::All, Cut::Reset);
    wait_until("the pool is away", || pool.told()["state"] == "reconnecting");
    let write = disk.start(Op::Write, 1, 1, &Layout::whole(BLOCK), &[1; BLOCK]).expect("the write is taken");
    target.on(On::connect_io().once(), Do::Hold);
    relay.arrivals(Arrival::Pass);
    assert!(target.wait(PATIENCE, |target| target.held() == 1), "its queue is being opened");
    let (since, name) = (Instant::now(), bdev.name.clone());
    let is_there = || rig().app.rpc("bdev_get_bdevs", json!({ "name": name })).is_ok();
    std::thread::scope(|scope| {
        let gone = scope.spawn(|| drop(bdev));
        wait_until("its deletion has begun", || !is_there());
        target.release();
        assert!(write.wait().result.is_err());
        drop(disk);
        gone.join().expect("the bdev is deleted");
    });
    assert!(since.elapsed() < HURRY, "{:?}", since.elapsed());
    assert_eq!(target.count(&On::io(IoOpcode::WRITE)), 0);
}

#[test]
#[serial]
fn a_hung_pool_with_io_in_flight_is_deleted_in_time() {
    let Line { disk, bdev, pool, relay, target: _target } = line(json!({}));
    relay.stall();
    let write = disk.start(Op::Write, 1, 1, &Layout::whole(BLOCK), &[1; BLOCK]).expect("the write is taken");
    let since = Instant::now();
    std::thread::scope(|scope| {
        let gone = scope.spawn(|| pool.delete());
        assert!(write.wait().result.is_err());
        drop(disk);
        assert_eq!(gone.join().expect("no panic"), Ok(json!(true)));
    });
    assert!(since.elapsed() < DELETION + SLACK, "{:?}", since.elapsed());
    drop(bdev);
}

#[test]
#[serial]
fn a_pool_that_is_made_again_waits_for_what_the_one_before_it_held() {
    let Line { disk, bdev, pool, relay, target } = line(short_times());
    relay.stall();
    let old = disk.start(Op::Write, 5, 1, &Layout::whole(BLOCK), &[0xaa; BLOCK]).expect("the write is taken");
    std::thread::scope(|scope| {
        let gone = scope.spawn(|| pool.delete());
        assert!(old.wait().result.is_err());
        drop(disk);
        assert_eq!(gone.join().expect("no panic"), Ok(json!(true)));
    });
    drop(bdev);
    let deleted = Instant::now();
    let again = rig().scripted_pool(&target, target.port(), with(json!({ "wait": false })));
    assert_eq!(again.told()["state"], "reconnecting");
    let bdev = rig().bdev(&again.name, 1);
    wait_until("the bdev is there", || again.told()["pending_bdevs"] == json!([]));
    assert!(deleted.elapsed() >= KEEP_ALIVE, "{:?}", deleted.elapsed());
    let disk = Disk::open(&bdev.name);
    assert_eq!(disk.write(5, &Layout::whole(BLOCK), &[0xbb; BLOCK]), Ok(()));
}

/// Returns how long a bdev took that was made of another pool of the subsystem, of another host's, after a write was
/// lost and `leave` had the first pool or its bdev deleted.
fn time_of_a_bdev_of_another_pool(leave: fn(&Pool, crate::common::Bdev) -> Option<crate::common::Bdev>) -> Duration {
    let Line { disk, bdev, pool, relay, target } = line(short_times());
    let host = json!({ "hostnqn": "nqn.2024-01.com.example:another" });
    let other = rig().other_scripted_pool("another", &target, target.port(), with(host));
    relay.stall();
    let old = disk.start(Op::Write, 5, 1, &Layout::whole(BLOCK), &[0xaa; BLOCK]).expect("the write is taken");
    let pool = &pool;
    let left = std::thread::scope(|scope| {
        let gone = scope.spawn(move || leave(pool, bdev));
        assert!(old.wait().result.is_err());
        drop(disk);
        gone.join().expect("no panic")
    });
    let deleted = Instant::now();
    let bdev = rig().bdev(&other.name, 1);
    let took = deleted.elapsed();
    let disk = Disk::open(&bdev.name);
    assert_eq!(disk.write(5, &Layout::whole(BLOCK), &[0xbb; BLOCK]), Ok(()));
    drop(left);
    took
}

#[test]
#[serial]
fn a_bdev_of_another_pool_waits_for_what_a_pool_of_its_subsystem_held_that_was_deleted() {
    let took = time_of_a_bdev_of_another_pool(|pool, bdev| {
        assert_eq!(pool.delete(), Ok(json!(true)));
        Some(bdev)
    });
    assert!(took >= KEEP_ALIVE, "{took:?}");
}

#[test]
#[serial]
fn a_bdev_of_another_pool_waits_for_what_was_in_flight_to_a_bdev_of_its_subsystem_that_was_deleted() {
    let took = time_of_a_bdev_of_another_pool(|_, bdev| {
        drop(bdev);
        None
    });
    assert!(took >= KEEP_ALIVE * 2, "{took:?}");
}

#[test]
#[serial]
fn who_waits_for_a_bdev_hears_in_time_that_another_pool_of_its_subsystem_keeps_it_away() {
    /// Three keep-alive times and twice that of connecting.
    const LIMIT: Duration = Duration::from_secs(5);
    let line = line(json!({ "keep_alive_timeout_ms": 60_000 }));
    // No two bdevs are of one namespace.
    line.target.set_namespace(2, Namespace::new(512, 8_192, 0x22));
    let host = json!({ "hostnqn": "nqn.2024-01.com.example:another" });
    let other = rig().other_scripted_pool("another", &line.target, line.target.port(), with(host));
    line.relay.stall();
    let write = line.write(1, 1);
    let _ = line.disk.abort(&write);
    // Its connection is given up, and its controller does not let itself be disabled.
    assert_eq!(write.wait().result, Err(Status::ABORT_REQUESTED));
    let create = |wait: bool| {
        let params = json!({ "name": "contested", "pool": other.name, "nsid": 2, "wait": wait });
        let since = Instant::now();
        (rig().app.rpc("bdev_courier_create", params), since.elapsed())
    };
    let (refused, took) = create(true);
    let refused = refused.expect_err("another pool's write may still come");
    assert!(refused.code == BUSY && refused.message.contains("another pool of its subsystem"), "{refused:?}");
    assert!(took < LIMIT + SLACK, "{took:?}");
    assert_eq!(other.told()["pending_bdevs"], json!([]));
    let (pending, took) = create(false);
    assert_eq!(pending, Ok(json!("contested")));
    assert!(took < LIMIT, "it waited for {took:?}");
    let told = other.told()["pending_bdevs"][0]["reason"].clone();
    assert!(told.as_str().is_some_and(|reason| reason.contains("another pool of its subsystem")), "{told}");
    line.relay.release();
    wait_until("the bdev is there", || other.told()["pending_bdevs"] == json!([]));
    assert_eq!(rig().app.rpc("bdev_courier_delete", json!({ "name": "contested" })), Ok(json!(true)));
}

#[test]
#[serial]
fn a_hung_pool_without_io_is_deleted_in_time_though_it_does_not_say_good_bye() {
    let rig = rig();
    let target = target();
    let pool = rig.scripted_pool(&target, target.port(), json!({}));
    target.on(On::fabrics(FabricsType::PROPERTY_GET), Do::Nothing);
    let since = Instant::now();
    assert_eq!(pool.delete(), Ok(json!(true)));
    assert!(since.elapsed() < DELETION, "{:?}", since.elapsed());
}

#[test]
#[serial]
fn an_abort_that_nobody_answers_ends_in_time_and_so_does_what_it_is_to_abort() {
    let line = line(json!({ "keep_alive_timeout_ms": 60_000 }));
    line.relay.stall();
    let write = line.write(1, 1);
    let since = Instant::now();
    let _ = line.disk.abort(&write);
    assert_eq!(write.wait().result, Err(Status::ABORT_REQUESTED));
    assert!(since.elapsed() < DELETION + SLACK, "{:?}", since.elapsed());
    line.relay.release();
}

/// Returns a line whose queue takes 16 commands, and four times as many writes, each of a block of its own.
fn crowded_line(params: Value) -> (Line, Vec<Pending>) {
    let line = line(with_sizes(params));
    line.relay.stall();
    let writes = (0..64).map(|slba| line.write(slba, 7)).collect();
    (line, writes)
}

fn with_sizes(mut params: Value) -> Value {
    params["io_queue_size"] = json!(16);
    params["io_queue_requests"] = json!(16);
    params
}

#[test]
#[serial]
fn of_more_io_than_a_hung_queue_has_requests_each_can_be_aborted_in_time() {
    let (line, writes) = crowded_line(json!({ "keep_alive_timeout_ms": 60_000 }));
    let since = Instant::now();
    // What the queue does not have.
    for write in &writes[16..] {
        assert_eq!(line.disk.abort(write), Ok(()));
        assert_eq!(write.wait().result, Err(Status::ABORT_REQUESTED));
    }
    assert!(since.elapsed() < HURRY, "{:?}", since.elapsed());
    // What it has: nobody answers.
    let writes = &writes[..16];
    let more: Vec<_> = (100..164).map(|slba| line.write(slba, 7)).collect();
    let since = Instant::now();
    let _ = line.disk.abort(&writes[0]);
    assert_eq!(writes[0].wait().result, Err(Status::ABORT_REQUESTED));
    assert!(since.elapsed() < DELETION + SLACK, "{:?}", since.elapsed());
    line.relay.release();
    for write in writes[1..].iter().chain(&more) {
        assert_eq!(write.wait().result, Ok(()));
    }
    assert!(line.bdev.stat("out_of_requests") >= 112);
}

#[test]
#[serial]
fn a_queue_that_is_full_of_commands_that_take_long_is_asked_whether_it_lives_and_stays() {
    let line = line(with_sizes(short_times()));
    line.target.on(On::io(IoOpcode::WRITE), Do::Hold);
    let writes: Vec<_> = (0..64).map(|slba| line.write(slba, 7)).collect();
    assert!(line.target.wait(PATIENCE, |target| target.held() == 14), "the queue is full");
    // The pool declines, and what it is asked next is due sooner.
    let _ = line.disk.abort(&writes[0]);
    assert!(line.target.wait_for(&On::io(IoOpcode::FLUSH).nsid(0), 3, PATIENCE));
    assert_eq!(line.pool.losses(), 0);
    line.target.behave();
    line.target.release();
    assert!(writes[1..].iter().all(|write| write.wait().result.is_ok()));
    assert_eq!((line.pool.losses(), line.target.count(&On::io(IoOpcode::WRITE))), (0, 64));
}

#[test]
#[serial]
fn an_io_that_is_sent_alone_and_takes_long_does_not_make_its_pool_hung() {
    let line = line(short_times());
    line.target.on(On::io(IoOpcode::WRITE), Do::Hold);
    line.target.on(On::io(IoOpcode::WRITE).times(2), Do::Close(Cut::Reset));
    let write = line.write(5, 1);
    assert!(line.target.wait(PATIENCE, |target| target.held() == 1), "it is sent for the third time");
    let before = line.target.count(&On::io(IoOpcode::FLUSH).nsid(0));
    assert!(line.target.wait_for(&On::io(IoOpcode::FLUSH).nsid(0), before + 2, PATIENCE));
    line.target.behave();
    line.target.release();
    assert_eq!(write.wait().result, Ok(()));
    assert_eq!(line.pool.losses(), 2);
}

#[test]
#[serial]
fn what_found_no_request_is_sent_when_its_pool_is_back() {
    let (line, writes) = crowded_line(json!({}));
    line.go_away();
    line.relay.arrivals(Arrival::Pass);
    line.relay.release();
    for write in &writes {
        assert_eq!(write.wait().result, Ok(()));
    }
    assert_eq!(line.target.read(1, 0, 64), vec![7; 64 * BLOCK]);
}

#[test]
#[serial]
fn what_found_no_request_ends_with_its_pool() {
    let (Line { disk, bdev, pool, relay: _relay, target: _target }, writes) = crowded_line(json!({}));
    let since = Instant::now();
    std::thread::scope(|scope| {
        let gone = scope.spawn(|| pool.delete());
        for write in &writes {
            assert!(write.wait().result.is_err());
        }
        drop(disk);
        assert_eq!(gone.join().expect("no panic"), Ok(json!(true)));
    });
    assert!(since.elapsed() < DELETION + SLACK, "{:?}", since.elapsed());
    drop(bdev);
}

#[test]
#[serial]
fn an_io_that_costs_its_connection_each_time_fails_and_those_beside_it_do_not() {
    let line = line(json!({}));
    line.target.on(On::io(IoOpcode::WRITE).when(|command| command.slba() == 66), Do::Close(Cut::Reset));
    let good: Vec<_> = (0..8).map(|slba| line.write(slba, 1)).collect();
    let poisoned = line.write(66, 1);
    assert!(poisoned.wait().result.is_err());
    assert!(good.into_iter().all(|write| write.wait().result.is_ok()));
    let connections = line.target.connections();
    assert!(connections < 20, "{connections} connections for one I/O");
    assert_eq!(line.write(1, 2).wait().result, Ok(()));
}

#[test]
#[serial]
fn connections_that_die_at_once_are_failed_attempts() {
    let line = line(json!({ "ctrlr_loss_timeout_sec": 3 }));
    // Each connection is cut when its I/O queue is there.
    line.target.on(On::io(IoOpcode::READ), Do::Close(Cut::Reset));
    let read = line.read();
    let other = line.read();
    assert!(read.wait().result.is_err() && other.wait().result.is_err());
    let connections = line.target.connections();
    assert!(connections < 20, "{connections} connections in some seconds");
}
