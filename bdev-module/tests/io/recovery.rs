//! Abort, reset, deletion, refusal: what becomes of I/O that is in flight.

use std::thread::{self, sleep};
use std::time::Instant;

use nvme_spec::{IoOpcode, Status};
use pool_faults::{Cut, Do, On, Relay, ScriptedTarget, Which};
use serde_json::json;
use serial_test::serial;
use spdk::bdev_client::Op;

use crate::common::disk::{Disk, Layout};
use crate::common::harness::PATIENCE;
use crate::common::target::{DELAY, LONG_DELAY, NQN, NS_512, NS_SLOW, NS_SLOW_TOO, NS_STUCK};
use crate::common::{POOL, rig};

const BLOCK: usize = 512;

/// Makes sure that the pool's queue pair is connected, so that no I/O is held for want of it.
fn connect(disk: &Disk) {
    assert!(disk.read(0, &Layout::whole(BLOCK)).is_ok());
}

/// Time for an I/O to come to the target.
fn let_it_arrive() {
    sleep(DELAY / 5);
}

#[test]
#[serial]
fn an_aborted_io_ends_at_once_as_aborted() {
    let (bdev, fast) = (rig().bdev(POOL, NS_STUCK), rig().bdev(POOL, NS_512));
    let (disk, quick) = (Disk::open(&bdev.name), Disk::open(&fast.name));
    connect(&quick);
    let since = Instant::now();
    let read = disk.start(Op::Read, 0, 1, &Layout::whole(BLOCK), &[0; BLOCK]).expect("the read is taken");
    let other = disk.start(Op::Write, 8, 1, &Layout::whole(BLOCK), &[1; BLOCK]).expect("the write is taken");
    let_it_arrive();
    assert_eq!(disk.abort(&read), Ok(()));
    assert_eq!(read.wait().result, Err(Status::ABORT_REQUESTED));
    assert!(since.elapsed() < LONG_DELAY, "it did not wait for the target");
    assert!(other.is_pending(), "another I/O stays");
    assert_eq!(disk.abort(&other), Ok(()));
    assert_eq!(other.wait().result, Err(Status::ABORT_REQUESTED));
}

#[test]
#[serial]
fn ios_that_wait_for_a_request_are_aborted_like_those_in_flight() {
    let rig = rig();
    let pool = rig.small_pool(NQN, 8, 12);
    let (bdev, fast) = (rig.bdev(&pool.name, NS_STUCK), rig.bdev(&pool.name, NS_512));
    let (disk, quick) = (Disk::open(&bdev.name), Disk::open(&fast.name));
    connect(&quick);
    let since = Instant::now();
    // Some are at the target, some wait for an entry of the queue, some for a request.
    let reads: Vec<_> = (0..40)
        .map(|n| disk.start(Op::Read, n, 1, &Layout::whole(BLOCK), &[0; BLOCK]).expect("the read is taken"))
        .collect();
    let_it_arrive();
    for read in reads.iter().rev() {
        assert_eq!(disk.abort(read), Ok(()));
    }
    for read in reads {
        assert_eq!(read.wait().result, Err(Status::ABORT_REQUESTED));
    }
    assert!(since.elapsed() < LONG_DELAY, "they did not wait for the target");
}

#[test]
#[serial]
fn an_abort_during_a_reset_leaves_no_io_without_an_end() {
    let rig = rig();
    let (bdev, slow) = (rig.bdev(POOL, NS_512), rig.bdev(POOL, NS_SLOW));
    let (disk, reset) = (Disk::open(&bdev.name), Disk::open(&slow.name));
    connect(&disk);
    let resetting = reset.start(Op::Reset, 0, 0, &Layout::of(&[], 0), &[]).expect("the reset is taken");
    let read = disk.start(Op::Read, 1, 1, &Layout::whole(BLOCK), &[0; BLOCK]).expect("the read is taken");
    // The abort finds the read held, at the target, or nowhere any more.
    let aborted = disk.abort(&read);
    let result = read.wait().result;
    // The bdev layer counts an abort as done if what it was to abort has ended meanwhile, however it ended.
    assert!(result == Err(Status::ABORT_REQUESTED) || result == Ok(()), "{aborted:?}, {result:?}");
    assert_eq!(resetting.wait().result, Ok(()));
}

#[test]
#[serial]
fn a_pool_that_is_deleted_with_io_in_flight_goes_when_its_bdev_is_let_go() {
    let rig = rig();
    let pool = rig.small_pool(NQN, 8, 12);
    let bdev = rig.bdev(&pool.name, NS_SLOW);
    let disk = Disk::open(&bdev.name);
    connect(&disk);
    let writes: Vec<_> = (0..40)
        .map(|n| disk.start(Op::Write, n, 1, &Layout::whole(BLOCK), &[5; BLOCK]).expect("the write is taken"))
        .collect();
    thread::scope(|scope| {
        let deleted = scope.spawn(|| pool.delete());
        let_it_arrive();
        assert!(!deleted.is_finished(), "it waits for who uses it");
        drop(disk);
        assert_eq!(deleted.join().expect("no panic"), Ok(json!(true)));
    });
    // Each has an end: those that were at the target a good one.
    let results: Vec<_> = writes.into_iter().map(|write| write.wait().result).collect();
    assert!(results.iter().any(Result::is_ok), "{results:?}");
}

#[test]
#[serial]
fn an_abort_of_an_io_that_is_over_fails() {
    let bdev = rig().bdev(POOL, NS_512);
    let disk = Disk::open(&bdev.name);
    let read = disk.start(Op::Read, 0, 1, &Layout::whole(BLOCK), &[0; BLOCK]).expect("the read is taken");
    assert_eq!(read.wait().result, Ok(()));
    assert!(disk.abort(&read).is_err());
}

#[test]
#[serial]
fn a_channel_that_is_dropped_lets_its_io_end_and_then_the_bdev_be_deleted() {
    let bdev = rig().bdev(POOL, NS_SLOW);
    let disk = Disk::open(&bdev.name);
    // What waits for its queue when the bdev is deleted is aborted.
    connect(&disk);
    let write = disk.start(Op::Write, 1, 1, &Layout::whole(BLOCK), &[4; BLOCK]).expect("the write is taken");
    drop(disk);
    drop(bdev);
    assert_eq!(write.wait().result, Ok(()));
}

#[test]
#[serial]
fn a_reset_ends_the_io_of_its_bdev_and_that_of_another_goes_on() {
    let rig = rig();
    let (stuck, slow, fast) = (rig.bdev(POOL, NS_STUCK), rig.bdev(POOL, NS_SLOW), rig.bdev(POOL, NS_512));
    let (reset, other, quick) = (Disk::open(&stuck.name), Disk::open(&slow.name), Disk::open(&fast.name));
    connect(&quick);
    let since = Instant::now();
    let lost = reset.start(Op::Write, 0, 1, &Layout::whole(BLOCK), &[1; BLOCK]).expect("the write is taken");
    let kept = other.start(Op::Write, 3, 1, &Layout::whole(BLOCK), &[2; BLOCK]).expect("the write is taken");
    let_it_arrive();
    assert_eq!(reset.bare(Op::Reset, 0, 0), Ok(()));
    assert!(lost.wait().result.is_err(), "the I/O of the bdev that was reset ends");
    assert!(since.elapsed() < LONG_DELAY, "it did not wait for the target");
    assert_eq!(kept.wait().result, Ok(()), "the I/O of another bdev is sent again");
    assert_eq!(other.read(3, &Layout::whole(BLOCK)), Ok(vec![2; BLOCK]));
    assert!(slow.stat("pool_resent") >= 1);
    assert_eq!(quick.write(5, &Layout::whole(BLOCK), &[3; BLOCK]), Ok(()), "a third bdev can be used");
    assert_eq!(quick.read(5, &Layout::whole(BLOCK)), Ok(vec![3; BLOCK]));
}

#[test]
#[serial]
fn io_that_comes_during_a_reset_succeeds_after_it() {
    let rig = rig();
    let (slow, fast) = (rig.bdev(POOL, NS_SLOW_TOO), rig.bdev(POOL, NS_512));
    let (reset, other) = (Disk::open(&slow.name), Disk::open(&fast.name));
    let resetting = reset.start(Op::Reset, 0, 0, &Layout::of(&[], 0), &[]).expect("the reset is taken");
    let in_flight: Vec<_> = (0..64_u8)
        .map(|n| other.start(Op::Write, u64::from(n), 1, &Layout::whole(BLOCK), &[n; BLOCK]).expect("it is taken"))
        .collect();
    assert!(in_flight.into_iter().all(|write| write.wait().result.is_ok()));
    assert_eq!(resetting.wait().result, Ok(()));
    for n in 0..64_u8 {
        assert_eq!(other.read(u64::from(n), &Layout::whole(BLOCK)), Ok(vec![n; BLOCK]));
    }
}

#[test]
#[serial]
fn resets_one_after_another_all_succeed() {
    let bdev = rig().bdev(POOL, NS_512);
    let disk = Disk::open(&bdev.name);
    for n in 0..10_u8 {
        assert_eq!(disk.bare(Op::Reset, 0, 0), Ok(()));
        assert_eq!(disk.write(1, &Layout::whole(BLOCK), &[n; BLOCK]), Ok(()));
        assert_eq!(disk.read(1, &Layout::whole(BLOCK)), Ok(vec![n; BLOCK]));
    }
}

#[test]
#[serial]
fn resets_of_two_bdevs_at_once_both_succeed() {
    let rig = rig();
    let (one, two) = (rig.bdev(POOL, NS_512), rig.bdev(POOL, NS_SLOW));
    let (one, two) = (Disk::open(&one.name), Disk::open(&two.name));
    let none = Layout::of(&[], 0);
    let resets = [&one, &two].map(|disk| disk.start(Op::Reset, 0, 0, &none, &[]).expect("the reset is taken"));
    assert_eq!(resets.map(|reset| reset.wait().result), [Ok(()), Ok(())]);
    assert!(one.read(0, &Layout::whole(BLOCK)).is_ok() && two.read(0, &Layout::whole(BLOCK)).is_ok());
}

#[test]
#[serial]
fn a_queue_that_is_refused_a_few_times_comes_without_the_pool_being_lost() {
    let rig = rig();
    let relay = Relay::to_port(rig.target.port());
    let pool = rig.relayed_pool(&relay);
    relay.refuse(3);
    let bdev = rig.bdev(&pool.name, NS_512);
    let disk = Disk::open(&bdev.name);
    assert_eq!(disk.write(7, &Layout::whole(BLOCK), &[7; BLOCK]), Ok(()));
    assert_eq!(disk.read(7, &Layout::whole(BLOCK)), Ok(vec![7; BLOCK]));
    assert_eq!((relay.left_to_refuse(), pool.losses()), (0, 0));
}

#[test]
#[serial]
fn a_queue_that_is_refused_for_long_makes_the_pool_connect_again_and_io_waits_for_that() {
    let rig = rig();
    let relay = Relay::to_port(rig.target.port());
    let pool = rig.relayed_pool(&relay);
    relay.refuse(u32::MAX);
    let bdev = rig.bdev(&pool.name, NS_512);
    let disk = Disk::open(&bdev.name);
    let write = disk.start(Op::Write, 9, 1, &Layout::whole(BLOCK), &[9; BLOCK]).expect("the write is taken");
    let since = Instant::now();
    while pool.losses() == 0 {
        assert!(since.elapsed() < PATIENCE, "the pool does not count as lost");
        sleep(DELAY / 5);
    }
    assert!(write.is_pending(), "it waits");
    relay.refuse(0);
    assert_eq!(write.wait().result, Ok(()));
    assert_eq!(disk.read(9, &Layout::whole(BLOCK)), Ok(vec![9; BLOCK]));
}

#[test]
#[serial]
fn a_compare_and_write_whose_answer_was_lost_is_not_sent_again() {
    let rig = rig();
    let target = ScriptedTarget::new();
    let relay = Relay::to(target.address());
    let pool = rig.scripted_pool(&target, relay.port(), json!({}));
    let bdev = rig.bdev(&pool.name, 1);
    let disk = Disk::open(&bdev.name);
    connect(&disk);
    target.on(On::io(IoOpcode::COMPARE), Do::HoldAnswer);
    target.on(On::io(IoOpcode::WRITE), Do::HoldAnswer);
    let mut data = vec![0; BLOCK];
    data.resize(2 * BLOCK, 7);
    let pair = disk.start(Op::CompareAndWrite, 5, 1, &Layout::pieces(2, 2 * BLOCK, 0), &data).expect("it is taken");
    assert!(target.wait(PATIENCE, |target| target.held() == 2), "both halves are carried out");
    target.behave();
    relay.cut(Which::From(1), Cut::Reset);
    assert_eq!(pair.wait().result, Err(Status::ABORTED_BY_HOST));
    assert_eq!(disk.read(5, &Layout::whole(BLOCK)), Ok(vec![7; BLOCK]));
    assert_eq!(target.count(&On::io(IoOpcode::COMPARE)), 1);
    assert!(disk.write(5, &Layout::whole(BLOCK), &[8; BLOCK]).is_ok());
}
