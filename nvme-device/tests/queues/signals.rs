//! Interrupts: how many, and when.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nvme_device::queue::Coalescing;
use rustix::event::{EventfdFlags, eventfd};

use super::common::guest::{NOW, Rig, flush};
use super::common::ram::Disk;

/// Returns an eventfd as the vector of that number; what counts its interrupts.
fn vector(rig: &Rig, number: usize) -> File {
    let file = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("an eventfd");
    rig.interrupts.set(number, vec![Some(file.try_clone().expect("a descriptor"))], 16);
    File::from(file)
}

/// Returns the interrupts since the last call.
fn count(mut vector: &File) -> u64 {
    let mut bytes = [0; 8];
    vector.read_exact(&mut bytes).map_or(0, |()| u64::from_le_bytes(bytes))
}

#[test]
fn a_poll_raises_one_interrupt_for_each_queue_with_completions() {
    let rig = Rig::with(&Disk::instant(8, 9));
    let files = [vector(&rig, 1), vector(&rig, 2), vector(&rig, 3)];
    let mut queues: Vec<_> = (1..=3)
        .map(|qid| {
            rig.create_cq(qid, 16, Some(qid));
            rig.create_sq(qid, 16, qid)
        })
        .collect();
    rig.submit(&mut queues[0], &(0..5).map(flush).collect::<Vec<_>>());
    rig.submit(&mut queues[1], &[flush(9)]);
    rig.queues.poll();
    assert_eq!(files.each_ref().map(count), [0, 0, 0]);
    rig.queues.signal();
    rig.queues.signal();
    assert_eq!(files.each_ref().map(count), [1, 1, 0]);
}

#[test]
fn a_queue_without_interrupts_raises_none() {
    let rig = Rig::with(&Disk::instant(8, 9));
    let file = vector(&rig, 0);
    let (mut sq, _) = rig.create(1, 16);
    rig.run(&mut sq, &[flush(1)]);
    rig.queues.signal();
    assert_eq!(count(&file), 0);
}

#[test]
fn eventfds_that_change_are_used_from_the_next_interrupt_on() {
    let rig = Rig::with(&Disk::instant(8, 9));
    let first = vector(&rig, 1);
    rig.create_cq(1, 16, Some(1));
    let mut sq = rig.create_sq(1, 16, 1);
    let mut go = || {
        rig.run(&mut sq, &[flush(1)]);
        rig.queues.signal();
    };
    go();
    let second = vector(&rig, 1);
    go();
    assert_eq!((count(&first), count(&second)), (1, 1));
    rig.interrupts.clear();
    go();
    assert_eq!((count(&first), count(&second)), (0, 0));
}

#[test]
fn a_full_eventfd_does_not_block() {
    let rig = Rig::with(&Disk::instant(8, 9));
    let file = vector(&rig, 1);
    rustix::io::write(&file, &(u64::MAX - 1).to_ne_bytes()).expect("room");
    rig.create_cq(1, 16, Some(1));
    let mut sq = rig.create_sq(1, 16, 1);
    rig.run(&mut sq, &[flush(1)]);
    rig.queues.signal();
    assert_eq!(count(&file), u64::MAX - 1);
}

#[test]
fn coalescing_waits_for_enough_completions_or_for_the_time() {
    let rig = Rig::with(&Disk::instant(8, 9));
    let (file, other) = (vector(&rig, 1), vector(&rig, 2));
    rig.queues.set_coalescing(Coalescing { entries: 3, ticks: 100 }, vec![2]);
    rig.create_cq(1, 64, Some(1));
    rig.create_cq(2, 64, Some(2));
    let (mut sq, mut plain) = (rig.create_sq(1, 64, 1), rig.create_sq(2, 64, 2));
    NOW.set(1000);
    let mut go = |count: u16| {
        rig.run(&mut sq, &(0..count).map(flush).collect::<Vec<_>>());
        rig.queues.signal();
    };
    go(2);
    assert_eq!(count(&file), 0);
    go(1);
    assert_eq!(count(&file), 1, "3 are enough");
    go(1);
    NOW.set(1099);
    rig.queues.signal();
    assert_eq!(count(&file), 0);
    NOW.set(1100);
    rig.queues.signal();
    assert_eq!(count(&file), 1, "the time is over");
    rig.run(&mut plain, &[flush(1)]);
    rig.queues.signal();
    assert_eq!(count(&other), 1, "the other vector is not coalesced");
}

/// Returns a rig with one completion, of queue 1, whose interrupt waits for more or for the time, and its vector.
fn one_that_waits_for_more() -> (Rig, File) {
    let rig = Rig::with(&Disk::instant(8, 9));
    let file = vector(&rig, 1);
    rig.queues.set_coalescing(Coalescing { entries: 3, ticks: 100 }, Vec::new());
    rig.create_cq(1, 64, Some(1));
    let mut sq = rig.create_sq(1, 64, 1);
    rig.run(&mut sq, &[flush(1)]);
    rig.queues.signal();
    (rig, file)
}

#[test]
fn coalescing_that_ends_raises_what_waits() {
    let (rig, file) = one_that_waits_for_more();
    rig.queues.set_coalescing(Coalescing::default(), Vec::new());
    rig.queues.signal();
    assert_eq!(count(&file), 1);
}

#[test]
fn a_deleted_queue_raises_nothing_and_lets_its_eventfd_go() {
    let (rig, file) = one_that_waits_for_more();
    rig.queues.delete_submission(1);
    rig.queues.delete_completion(1);
    NOW.set(NOW.get() + 1000);
    rig.queues.signal();
    assert_eq!(count(&file), 0);
    let held: Arc<OwnedFd> = rig.interrupts.get(1).expect("the session still has it");
    assert_eq!(Arc::strong_count(&held), 2);
}
