//! More I/O than a queue takes.

use std::sync::mpsc::channel;

use serial_test::serial;
use spdk::bdev_client::Op;

use crate::common::disk::Disk;
use crate::common::harness::{PATIENCE, from_app, on_app};
use crate::common::load::{self, Plan, Tally};
use crate::common::rig;
use crate::common::target::NQN_SMALL;

const OPS: &[Op] = &[Op::Read, Op::Write, Op::WriteZeroes, Op::Unmap, Op::Compare];

fn run(disk: &Disk, plan: Plan) -> Tally {
    let desc = disk.desc();
    from_app(move |tell| {
        let channel = desc.channel().expect("a channel");
        let finish = move |tally| tell.send(tally).expect("somebody waits");
        load::run(channel, plan, 1, finish).expect("memory for the buffers");
    })
}

fn plan(depth: u64, total: u64, ops: &'static [Op]) -> Plan {
    Plan { depth, total, ops, pieces: 4, blocks: 8, first: 0, places: 1_000, block_size: 512, watch: |_| () }
}

fn all_succeed(size: u32, requests: u32) {
    let rig = rig();
    let pool = rig.small_pool(NQN_SMALL, size, requests);
    let bdev = rig.bdev(&pool.name, 1);
    let disk = Disk::open(&bdev.name);
    let tally = run(&disk, plan(2_000, 20_000, &OPS[..4]));
    assert_eq!(tally, Tally { succeeded: 20_000, failed: 0, refused: 0 });
    assert!(bdev.stat("out_of_requests") > 0, "the queue was full at some time");
}

#[test]
#[serial]
fn thousands_of_ios_on_a_queue_of_sixteen_requests_all_succeed() {
    all_succeed(16, 16);
}

#[test]
#[serial]
fn thousands_of_ios_on_a_queue_with_more_requests_than_entries_all_succeed() {
    all_succeed(16, 32);
}

fn pairs_succeed(size: u32, requests: u32) {
    let rig = rig();
    let pool = rig.small_pool(NQN_SMALL, size, requests);
    let bdev = rig.bdev(&pool.name, 1);
    let disk = Disk::open(&bdev.name);
    assert_eq!(disk.bare(Op::WriteZeroes, 0, 8_000), Ok(()));
    // Zeroes are compared with zeroes, and written.
    let tally = run(&disk, Plan { pieces: 2, blocks: 1, ..plan(200, 5_000, &[Op::CompareAndWrite, Op::WriteZeroes]) });
    assert_eq!(tally, Tally { succeeded: 5_000, failed: 0, refused: 0 });
}

#[test]
#[serial]
fn compare_and_write_pairs_on_a_full_queue_all_succeed() {
    pairs_succeed(16, 17);
}

#[test]
#[serial]
fn compare_and_write_pairs_on_the_smallest_queues_all_succeed() {
    // With 2 entries there is room for one command, and none for a pair.
    pairs_succeed(2, 2);
    pairs_succeed(3, 3);
}

#[test]
#[serial]
fn a_reset_ends_every_io_that_waits_and_those_after_it_succeed() {
    let rig = rig();
    let pool = rig.small_pool(NQN_SMALL, 16, 16);
    let bdev = rig.bdev(&pool.name, 1);
    let disk = Disk::open(&bdev.name);
    let desc = disk.desc();
    let (tell, told) = channel();
    on_app(move || {
        let channel = desc.channel().expect("a channel");
        let finish = move |tally| tell.send(tally).expect("somebody waits");
        load::run(channel, plan(2_000, 2_000, &[Op::Read, Op::Write]), 2, finish).expect("memory for the buffers");
    });
    assert_eq!(disk.bare(Op::Reset, 0, 0), Ok(()));
    let tally: Tally = told.recv_timeout(PATIENCE).expect("every I/O ends");
    assert_eq!((tally.succeeded + tally.failed, tally.refused), (2_000, 0));
    let tally = run(&disk, plan(64, 5_000, &[Op::Read, Op::Write]));
    assert_eq!(tally, Tally { succeeded: 5_000, failed: 0, refused: 0 });
}
