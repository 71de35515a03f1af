//! A function that may not access guest memory for a while, and the interrupt pin.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;

use nvme_device::queue::{Coalescing, PinMask};
use rustix::event::{EventfdFlags, eventfd};

use super::common::guest::{HostCq, HostSq, NOW, Rig, flush, read};
use super::common::ram::Disk;

fn event() -> (File, OwnedFd) {
    let file = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("an eventfd");
    (file.try_clone().expect("a descriptor").into(), file)
}

/// Returns the interrupts since the last call.
fn count(mut file: &File) -> u64 {
    let mut bytes = [0; 8];
    file.read_exact(&mut bytes).map_or(0, |()| u64::from_le_bytes(bytes))
}

/// Returns a pair of queues with vector 1, and the eventfd of that.
fn queues(rig: &Rig) -> (HostSq, HostCq, File) {
    let (ours, theirs) = event();
    rig.interrupts.set(1, vec![Some(theirs)], 16);
    let cq = rig.create_cq(1, 16, Some(1));
    (rig.create_sq(1, 16, 1), cq, ours)
}

/// Returns the same with the pin.
fn queues_with_pin(rig: &Rig) -> (HostSq, HostCq, File) {
    let (ours, theirs) = event();
    rig.interrupts.pin().set_file(Some(theirs));
    let cq = rig.create_cq(1, 16, Some(0));
    (rig.create_sq(1, 16, 1), cq, ours)
}

fn round(rig: &Rig) {
    rig.queues.poll();
    rig.queues.signal();
}

#[test]
fn guest_memory_is_neither_read_nor_written_while_that_is_forbidden() {
    let disk = Disk::new(64, 9);
    let rig = Rig::with(&disk);
    let (mut sq, mut cq, vector) = queues(&rig);
    rig.run(&mut sq, &[flush(1), flush(2)]);
    assert!(!rig.queues.is_quiesced());
    rig.queues.suspend();
    rig.submit(&mut sq, &[flush(3)]);
    disk.finish_all();
    round(&rig);
    assert_eq!((disk.submitted.get(), rig.peek(&cq).is_some(), count(&vector)), (2, false, 0));
    assert!(rig.queues.is_quiesced());
    rig.queues.resume();
    assert_eq!(rig.statuses(&mut cq), [(1, 0), (2, 0)], "what was completed meanwhile");
    assert_eq!(count(&vector), 1, "and its interrupt");
    round(&rig);
    disk.finish_all();
    round(&rig);
    assert_eq!((rig.statuses(&mut cq), count(&vector)), (vec![(3, 0)], 1), "what was sent meanwhile");
}

/// The interrupt of a completion that was posted just before may have come to nothing.
#[test]
fn completions_that_the_host_has_not_taken_raise_their_interrupts_again() {
    let rig = Rig::with(&Disk::instant(64, 9));
    let (mut sq, mut cq, vector) = queues(&rig);
    rig.queues.set_coalescing(Coalescing { entries: 100, ticks: u64::MAX }, Vec::new());
    rig.run(&mut sq, &[flush(1)]);
    rig.queues.suspend();
    rig.queues.resume();
    assert_eq!(count(&vector), 1);
    rig.queues.remind();
    assert_eq!(count(&vector), 1, "again, until it has been taken");
    rig.reap(&mut cq);
    rig.queues.suspend();
    rig.queues.resume();
    rig.queues.remind();
    assert_eq!(count(&vector), 0, "there is nothing to be taken");
}

#[test]
fn queues_that_are_deleted_meanwhile_post_nothing_when_access_is_allowed_again() {
    let disk = Disk::new(64, 9);
    let rig = Rig::with(&disk);
    let (mut sq, cq, vector) = queues(&rig);
    rig.run(&mut sq, &[read(1, 0, 1)]);
    rig.queues.suspend();
    disk.finish_all();
    rig.queues.delete_all();
    rig.queues.resume();
    assert_eq!((rig.peek(&cq).is_some(), count(&vector), rig.queues.is_quiet()), (false, 0, true));
}

#[test]
fn the_pin_is_raised_once_until_it_is_unmasked_and_again_while_there_is_a_reason() {
    let rig = Rig::with(&Disk::instant(64, 9));
    let (mut sq, mut cq, pin) = queues_with_pin(&rig);
    for cid in 0..3 {
        rig.run(&mut sq, &[flush(cid)]);
        rig.queues.signal();
    }
    assert_eq!(count(&pin), 1, "it is masked by having been raised");
    assert!(rig.interrupts.pin().has_reason(&rig.doorbells));
    rig.take(&mut cq, 1);
    rig.doorbells.store(3, cq.head.into());
    assert!(rig.interrupts.pin().set_mask(PinMask::Client, false));
    rig.queues.catch_up();
    rig.queues.signal();
    assert_eq!(count(&pin), 1, "two completions are left");
    rig.reap(&mut cq);
    assert!(!rig.interrupts.pin().has_reason(&rig.doorbells));
    rig.interrupts.pin().set_mask(PinMask::Client, false);
    rig.queues.catch_up();
    rig.queues.signal();
    assert_eq!(count(&pin), 0, "all were taken");
    rig.run(&mut sq, &[flush(4)]);
    rig.queues.signal();
    assert_eq!(count(&pin), 1);
}

#[test]
fn what_the_host_takes_before_its_client_has_heard_of_it_raises_no_pin() {
    let rig = Rig::settling(100);
    let (mut sq, mut cq, pin) = queues_with_pin(&rig);
    let unmask = || {
        rig.interrupts.pin().set_mask(PinMask::Client, false);
        rig.queues.catch_up();
    };
    let round_after = |ticks| {
        NOW.set(NOW.get() + ticks);
        rig.queues.signal();
        count(&pin)
    };
    rig.run(&mut sq, &[flush(1)]);
    assert_eq!(round_after(0), 1);
    rig.run(&mut sq, &[flush(2)]);
    // Another processor submits a command, at which the client lowers the pin. The handler runs still.
    unmask();
    assert_eq!(round_after(99), 0);
    rig.reap(&mut cq);
    assert_eq!(round_after(0), 0, "the handler has taken both");
    rig.run(&mut sq, &[flush(3)]);
    assert_eq!(round_after(0), 1, "it has ended");
    unmask();
    assert_eq!((round_after(99), round_after(1)), (0, 1), "no handler runs");
    rig.reap(&mut cq);
    unmask();
    rig.run(&mut sq, &[flush(4)]);
    assert_eq!(round_after(0), 1, "all was taken when it was unmasked");
    rig.reap(&mut cq);
    unmask();
    rig.run(&mut sq, &[flush(5)]);
    rig.reap(&mut cq);
    assert_eq!(round_after(0), 0, "what was taken before its interrupt needs none");
}

#[test]
fn whoever_masks_the_pin_holds_it_back_and_no_interrupt_is_lost() {
    let rig = Rig::with(&Disk::instant(64, 9));
    let (mut sq, mut cq, pin) = queues_with_pin(&rig);
    for mask in [PinMask::Client, PinMask::Register, PinMask::Command] {
        let other = if mask == PinMask::Command { PinMask::Client } else { PinMask::Command };
        assert!(!rig.interrupts.pin().set_mask(mask, true) && !rig.interrupts.pin().set_mask(other, true));
        rig.run(&mut sq, &[flush(1)]);
        rig.queues.signal();
        assert!(!rig.interrupts.pin().set_mask(mask, false), "the other masks it, too");
        rig.queues.catch_up();
        rig.queues.signal();
        assert_eq!(count(&pin), 0, "{mask:?}");
        assert!(rig.interrupts.pin().has_reason(&rig.doorbells), "the status tells it all the same");
        assert!(rig.interrupts.pin().set_mask(other, false));
        rig.queues.catch_up();
        rig.queues.signal();
        assert_eq!(count(&pin), 1, "{mask:?}");
        rig.reap(&mut cq);
        rig.interrupts.pin().set_mask(PinMask::Client, false);
    }
}

#[test]
fn vectors_with_eventfds_and_queues_that_are_gone_do_not_raise_the_pin() {
    let rig = Rig::with(&Disk::instant(64, 9));
    let (_, _, pin) = queues_with_pin(&rig);
    let (vector, theirs) = event();
    rig.interrupts.set(2, vec![Some(theirs)], 16);
    rig.create_cq(2, 16, Some(2));
    let mut sq = rig.create_sq(2, 16, 2);
    rig.run(&mut sq, &[flush(1)]);
    rig.queues.signal();
    rig.queues.catch_up();
    rig.queues.signal();
    assert_eq!((count(&vector), count(&pin)), (1, 0));
    rig.interrupts.set(2, vec![None], 16);
    rig.queues.catch_up();
    rig.queues.signal();
    assert_eq!(count(&pin), 1, "the vector has no eventfd any more, and its completion was not taken");
    rig.queues.delete_submission(2);
    rig.queues.delete_completion(2);
    assert!(!rig.interrupts.pin().has_reason(&rig.doorbells));
}
