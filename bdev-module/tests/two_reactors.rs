//! Two reactors use a pool at the same time, each through a channel and a queue pair of its own.

mod common;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use nvme_spec::{Status, StatusCode};
use pool_faults::{Cut, Do, On, ScriptedTarget};
use serde_json::json;
use serial_test::serial;
use spdk::bdev_client::Op;
use spdk::thread::OwnedThread;

use common::disk::{Disk, Layout};
use common::harness::{PATIENCE, wait_until};
use common::load::{self, Plan, Tally};
use common::target::{NQN, NS_512};
use common::{POOL, Pool, Rig, rig_on};

const TOTAL: u64 = 10_000;

fn two_reactors() -> Rig {
    rig_on("0x3")
}

/// Returns whether there is a second core to run a reactor on.
fn has_two_cores() -> bool {
    std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1)
}

/// I/O from a thread on `core`, in a part of the disk of its own.
fn begin(disk: &Disk, core: u32) -> (OwnedThread, Receiver<Tally>) {
    let first = u64::from(core) * 8_192;
    let plan = Plan {
        depth: 32,
        total: TOTAL,
        ops: &[Op::Read, Op::Write, Op::WriteZeroes, Op::Unmap],
        pieces: 1,
        blocks: 8,
        first,
        places: 1_000,
        block_size: disk.block_size,
        watch: |_| (),
    };
    begin_plan(disk, core, plan)
}

fn begin_plan(disk: &Disk, core: u32, plan: Plan) -> (OwnedThread, Receiver<Tally>) {
    let thread = OwnedThread::on_core(&format!("test{core}"), core).expect("a thread");
    let (tell, told) = channel();
    let desc = disk.desc();
    let run = move || {
        let channel = desc.channel().expect("a channel");
        let finish = move |tally| tell.send(tally).expect("somebody waits");
        load::run(channel, plan, u64::from(core) + 1, finish).expect("memory for the buffers");
    };
    thread.send(run).expect("the thread takes messages");
    (thread, told)
}

/// So many reads that they are in flight for a while.
const READS: u64 = 8_000;

/// [`READS`] from a thread on `core`.
fn begin_reads(disk: &Disk, core: u32) -> (OwnedThread, Receiver<Tally>) {
    begin_so_many_reads(disk, core, READS)
}

fn begin_so_many_reads(disk: &Disk, core: u32, total: u64) -> (OwnedThread, Receiver<Tally>) {
    let (block_size, watch) = (disk.block_size, |_| ());
    let (first, places, ops) = (0, 100, &[Op::Read][..]);
    begin_plan(disk, core, Plan { depth: 8, total, ops, pieces: 1, blocks: 1, first, places, block_size, watch })
}

/// Returns queue pairs of the pool's controllers at the target, with the admin queue.
fn queue_pairs(rig: &Rig) -> usize {
    let answer = rig.target.call("nvmf_subsystem_get_qpairs", json!({ "nqn": NQN }));
    answer.as_array().map_or(0, Vec::len)
}

#[test]
#[serial]
fn two_reactors_do_io_at_once_and_all_of_it_succeeds() {
    if !has_two_cores() {
        return;
    }
    let rig = two_reactors();
    let bdev = rig.bdev(POOL, NS_512);
    let disk = Disk::open(&bdev.name);
    let running = [0, 1].map(|core| begin(&disk, core));
    wait_until("each reactor has a queue pair", || queue_pairs(&rig) >= 3);
    for (thread, told) in running {
        let tally = told.recv_timeout(PATIENCE).expect("the I/O ends in time");
        assert_eq!(tally, Tally { succeeded: TOTAL, failed: 0, refused: 0 });
        drop(thread);
    }
    // The application's own thread has one for the open disk.
    wait_until("the threads' queue pairs go with them", || queue_pairs(&rig) <= 2);
}

#[test]
#[serial]
fn a_reset_during_io_on_two_reactors_ends_every_io() {
    if !has_two_cores() {
        return;
    }
    let rig = two_reactors();
    let bdev = rig.bdev(POOL, NS_512);
    let disk = Disk::open(&bdev.name);
    let running = [0, 1].map(|core| begin(&disk, core));
    assert_eq!(disk.bare(Op::Reset, 0, 0), Ok(()));
    for (_thread, told) in &running {
        let tally = told.recv_timeout(PATIENCE).expect("the I/O ends in time");
        assert_eq!((tally.succeeded + tally.failed, tally.refused), (TOTAL, 0));
    }
    assert_eq!(disk.write(0, &Layout::whole(512), &[1; 512]), Ok(()));
}

#[test]
#[serial]
fn a_bdev_that_is_dropped_on_another_reactor_is_closed() {
    if !has_two_cores() {
        return;
    }
    let rig = two_reactors();
    let bdev = rig.bdev(POOL, NS_512);
    let desc = Disk::open(&bdev.name).desc();
    assert_eq!(Arc::strong_count(&desc), 1, "the disk itself is closed");
    let thread = OwnedThread::on_core("closer", 1).expect("a thread");
    thread.send(move || drop(desc)).expect("the thread takes messages");
    // `bdev` is deleted here, which waits until it is closed.
    drop(bdev);
}

/// Otherwise the guests' queues on a reactor without a queue would only fail.
#[test]
#[serial]
fn a_bdev_of_a_pool_with_fewer_queues_than_reactors_is_refused_with_what_would_be_right() {
    if !has_two_cores() {
        return;
    }
    let rig = two_reactors();
    let refused = |pool: &Pool, remedy: &str| {
        let params = json!({ "name": "few", "pool": pool.name, "nsid": 1 });
        let error = rig.app.rpc("bdev_courier_create", params).expect_err("it is refused");
        assert_eq!((error.code, &pool.told()["io_queues"]), (-28, &json!(1)));
        for words in ["1 I/O queues", "2 reactors", remedy] {
            assert!(error.message.contains(words), "{}", error.message);
        }
    };
    let target = ScriptedTarget::new();
    let pool = rig.scripted_pool(&target, target.port(), json!({ "num_io_queues": 1 }));
    refused(&pool, "num_io_queues");
    drop(pool);
    target.change(|options| options.io_queues = 1);
    refused(&rig.scripted_pool(&target, target.port(), json!({})), "target");
}

/// Half of the guests' queues would fail otherwise, while the rest goes on.
#[test]
#[serial]
fn a_pool_that_comes_back_with_fewer_queues_than_reactors_holds_all_io_until_it_has_enough() {
    if !has_two_cores() {
        return;
    }
    let (rig, target) = (two_reactors(), ScriptedTarget::new());
    let pool = rig.scripted_pool(&target, target.port(), json!({}));
    let bdev = rig.bdev(&pool.name, 1);
    let disk = Disk::open(&bdev.name);
    let (mine, other) = (begin_reads(&disk, 0), begin_reads(&disk, 1));
    wait_until("each reactor has a queue", || target.count(&On::connect_io()) >= 2);
    target.change(|options| options.io_queues = 1);
    target.forget_commands();
    target.cut_all(Cut::Close);
    // Two attempts, at least, with the one queue that there is.
    assert!(target.wait_for(&On::connect_io(), 2, PATIENCE), "{:?}", target.commands());
    assert_ne!(pool.told()["state"], json!("connected"));
    for (_, told) in [&mine, &other] {
        assert!(told.try_recv().is_err(), "its I/O is over");
    }
    target.change(|options| options.io_queues = 16);
    for (_thread, told) in [mine, other] {
        let tally = told.recv_timeout(PATIENCE).expect("the I/O ends in time");
        assert_eq!(tally, Tally { succeeded: READS, failed: 0, refused: 0 });
    }
}

/// Connecting the whole pool again would not get the queue, and would stop those that there are.
#[test]
#[serial]
fn a_reactor_whose_queue_is_refused_waits_for_it_and_the_others_go_on() {
    if !has_two_cores() {
        return;
    }
    let (rig, target) = (two_reactors(), ScriptedTarget::new());
    let pool = rig.scripted_pool(&target, target.port(), json!({}));
    let bdev = rig.bdev(&pool.name, 1);
    let disk = Disk::open(&bdev.name);
    let block = Layout::whole(disk.block_size);
    assert!(disk.read(0, &block).is_ok(), "the first queue is there");
    target.on(On::connect(2), Do::Status(Status::of(StatusCode::CONNECT_CONTROLLER_BUSY)));
    let (thread, told) = begin_reads(&disk, 1);
    let refusals = 52;
    assert!(target.wait_for(&On::connect(2), refusals, PATIENCE));
    assert!(disk.read(0, &block).is_ok());
    assert!(told.try_recv().is_err(), "its I/O is over");
    let last_error = || pool.told()["last_error"].as_str().map(ToOwned::to_owned);
    assert!(last_error().is_some_and(|error| error.contains("refused")), "{:?}", last_error());
    assert!(target.count(&On::connect(2)) <= refusals + 2, "it is asked for once a second");
    target.behave();
    let tally = told.recv_timeout(PATIENCE).expect("the I/O ends in time");
    assert_eq!(tally, Tally { succeeded: READS, failed: 0, refused: 0 });
    wait_until("nothing is wrong any more", || last_error().is_none());
    assert_eq!((pool.losses(), &pool.told()["state"]), (0, &json!("connected")));
    drop(thread);
}

#[test]
#[serial]
fn what_waits_for_a_queue_that_is_refused_fails_when_the_pools_limit_is_over() {
    if !has_two_cores() {
        return;
    }
    let (rig, target) = (two_reactors(), ScriptedTarget::new());
    let pool = rig.scripted_pool(&target, target.port(), json!({ "fast_io_fail_timeout_sec": 1 }));
    let bdev = rig.bdev(&pool.name, 1);
    let disk = Disk::open(&bdev.name);
    let block = Layout::whole(disk.block_size);
    assert!(disk.read(0, &block).is_ok(), "the first queue is there");
    target.on(On::connect(2), Do::Status(Status::of(StatusCode::CONNECT_CONTROLLER_BUSY)));
    let total = 16;
    let (_thread, told) = begin_so_many_reads(&disk, 1, total);
    let tally = told.recv_timeout(PATIENCE).expect("the I/O ends in time");
    assert_eq!(tally, Tally { succeeded: 0, failed: total, refused: 0 });
    assert!(disk.read(0, &block).is_ok());
    assert_eq!(pool.losses(), 0);
}
