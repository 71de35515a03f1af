//! Compare and Write as a fused operation, whole and in halves.

use nvme_device::queue::BlockOp;
use nvme_spec::{CommandFlags, FusedOperation, IoOpcode, Sqe, Status};

use super::common::guest::{DATA, HostCq, HostSq, PAGE, Rig, block_command, flush, read};
use super::common::ram::{Disk, MISCOMPARE};

const BLOCKS: usize = 64;

fn rig() -> (std::rc::Rc<Disk>, Rig, HostSq, HostCq) {
    let disk = Disk::instant(BLOCKS, 9);
    disk.bytes.borrow_mut().fill(1);
    let rig = Rig::with(&disk);
    rig.put(DATA.0, &[1; 4096]);
    rig.put(DATA.0 + 0x4000, &[2; 4096]);
    let (sq, cq) = rig.create(1, 16);
    (disk, rig, sq, cq)
}

fn first(cid: u16, slba: u64, blocks: u32) -> Sqe {
    Sqe { flags: CommandFlags::FUSED_FIRST, ..block_command(IoOpcode::COMPARE.0, cid, slba, blocks, DATA.0) }
}

fn second(cid: u16, slba: u64, blocks: u32) -> Sqe {
    Sqe { flags: CommandFlags::FUSED_SECOND, ..block_command(IoOpcode::WRITE.0, cid, slba, blocks, DATA.0 + 0x4000) }
}

const MISSING: u16 = Status::ABORTED_MISSING_FUSED.into_bits();
const FAILED: u16 = Status::ABORTED_FAILED_FUSED.into_bits();

#[test]
fn a_pair_that_compares_well_is_written() {
    let (disk, rig, mut sq, mut cq) = rig();
    rig.run(&mut sq, &[first(1, 8, 8), second(2, 8, 8)]);
    assert_eq!(rig.statuses(&mut cq), [(1, 0), (2, 0)]);
    let bytes = disk.bytes.borrow();
    assert!(bytes[8 * 512..16 * 512].iter().all(|&byte| byte == 2));
    assert_eq!((bytes[8 * 512 - 1], bytes[16 * 512], disk.submitted.get()), (1, 1, 1));
}

#[test]
fn a_pair_that_compares_badly_is_not_written_and_says_which_half_failed() {
    let (disk, rig, mut sq, mut cq) = rig();
    disk.bytes.borrow_mut()[9 * 512] = 7;
    rig.run(&mut sq, &[first(1, 8, 8), second(2, 8, 8)]);
    assert_eq!(rig.statuses(&mut cq), [(1, MISCOMPARE.into_bits()), (2, FAILED)]);
    assert!(!disk.bytes.borrow().contains(&2));
}

#[test]
fn the_data_of_both_halves_may_be_in_many_pieces() {
    let (disk, rig, mut sq, mut cq) = rig();
    rig.put(DATA.0 + PAGE, &[1; 8192]);
    let compare = Sqe { prp1: DATA.0 + 0x200, prp2: DATA.0 + 2 * PAGE, ..first(1, 0, 8) };
    let write = Sqe { prp1: DATA.0 + 0x4100, prp2: DATA.0 + 0x4000, ..second(2, 0, 8) };
    rig.run(&mut sq, &[compare, write]);
    assert_eq!(rig.statuses(&mut cq), [(1, 0), (2, 0)]);
    assert_eq!(disk.bytes.borrow()[..3840], [2; 3840]);
}

#[test]
fn half_a_pair_is_aborted_when_another_command_comes() {
    let (disk, rig, mut sq, mut cq) = rig();
    rig.run(&mut sq, &[first(1, 8, 8)]);
    assert_eq!(rig.statuses(&mut cq), [], "the other half may come");
    rig.run(&mut sq, &[flush(2)]);
    assert_eq!(rig.statuses(&mut cq), [(1, MISSING), (2, 0)]);
    rig.run(&mut sq, &[first(3, 8, 8), first(4, 8, 8), second(5, 8, 8)]);
    assert_eq!(rig.statuses(&mut cq), [(3, MISSING), (4, 0), (5, 0)]);
    rig.run(&mut sq, &[second(6, 8, 8)]);
    assert_eq!(rig.statuses(&mut cq), [(6, MISSING)]);
    assert_eq!(disk.submitted.get(), 2);
}

#[test]
fn halves_that_do_not_belong_together_fail() {
    let (disk, rig, mut sq, mut cq) = rig();
    let invalid = Status::INVALID_FIELD.into_bits();
    rig.run(&mut sq, &[first(1, 8, 8), second(2, 9, 8)]);
    assert_eq!(rig.statuses(&mut cq), [(1, FAILED), (2, invalid)]);
    rig.run(&mut sq, &[first(3, 8, 8), Sqe { nsid: 2, ..second(4, 8, 8) }]);
    assert_eq!(rig.statuses(&mut cq), [(3, MISSING), (4, MISSING)]);
    rig.run(&mut sq, &[Sqe { flags: CommandFlags::new().with_fuse(FusedOperation(3)), ..read(5, 0, 1) }]);
    rig.run(&mut sq, &[Sqe { flags: CommandFlags::FUSED_FIRST, ..read(6, 0, 1) }, second(7, 0, 1)]);
    assert_eq!(rig.statuses(&mut cq), [(5, invalid), (6, invalid), (7, FAILED)]);
    rig.run(&mut sq, &[first(8, 0, 1), Sqe { prp1: 1, ..second(9, 0, 1) }]);
    assert_eq!(rig.statuses(&mut cq), [(8, FAILED), (9, Status::INVALID_PRP_OFFSET.into_bits())]);
    rig.run(&mut sq, &[Sqe { prp1: 1, ..first(10, 0, 1) }, second(11, 0, 1)]);
    assert_eq!(rig.statuses(&mut cq), [(10, Status::INVALID_PRP_OFFSET.into_bits()), (11, FAILED)]);
    assert_eq!((disk.submitted.get(), rig.queues.in_flight()), (0, 0));
}

#[test]
fn neither_half_of_a_pair_that_failed_ends_with_success() {
    const WRITE_FAULT: Status = Status::WRITE_FAULT;
    let (disk, rig, mut sq, mut cq) = rig();
    disk.at_once.set(false);
    for (cid, status, halves) in [
        (1, Status::INTERNAL_ERROR, (Status::INTERNAL_ERROR.into_bits(), FAILED)),
        (3, Status::ABORT_REQUESTED, (Status::ABORT_REQUESTED.into_bits(), FAILED)),
        (5, WRITE_FAULT, (FAILED, WRITE_FAULT.into_bits())),
    ] {
        rig.run(&mut sq, &[first(cid, 8, 8), second(cid + 1, 8, 8)]);
        assert!(matches!(disk.ops()[..], [(BlockOp::CompareAndWrite(1), 8, 8)]));
        disk.fail(0, status);
        assert_eq!(rig.statuses(&mut cq), [(cid, halves.0), (cid + 1, halves.1)]);
    }
}

#[test]
fn an_abort_of_either_half_of_a_pair_that_was_never_sent_ends_both_without_success() {
    for target in [1, 2] {
        let (disk, rig, mut sq, mut cq) = rig();
        disk.refuse_later.set(1);
        rig.run(&mut sq, &[first(1, 8, 8), second(2, 8, 8)]);
        let heard = std::rc::Rc::new(std::cell::Cell::new(None));
        let tell = std::rc::Rc::clone(&heard);
        rig.queues.abort(1, target, move |aborted| tell.set(Some(aborted)));
        assert_eq!(heard.get(), Some(true));
        assert_eq!(rig.statuses(&mut cq), [(1, Status::ABORT_REQUESTED.into_bits()), (2, FAILED)]);
        rig.queues.poll();
        assert_eq!(disk.submitted.get(), 0);
    }
}

#[test]
fn half_a_pair_of_a_deleted_queue_is_aborted_and_its_completion_entry_is_free_again() {
    let (_, rig, _, _) = rig();
    let mut cq = rig.create_cq(3, 3, None);
    for round in 0..8 {
        let mut sq = rig.create_sq(3, 4, 3);
        rig.run(&mut sq, &[first(round, 8, 8)]);
        assert!(rig.queues.delete_submission(3) && rig.queues.is_ended(3));
        assert_eq!(rig.statuses(&mut cq), [(round, Status::ABORTED_SQ_DELETION.into_bits())]);
    }
}
