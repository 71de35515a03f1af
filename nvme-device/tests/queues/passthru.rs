//! Commands that the backend is given as they are, and writes that must be durable.

use nvme_device::model::io::PassthruCommand;
use nvme_device::queue::BlockOp;
use nvme_spec::nvm::BlockDw12;
use nvme_spec::{IoOpcode, Sqe, Status, StatusCodeType};

use super::common::guest::{DATA, Rig, geometry, read, write};
use super::common::ram::{Disk, OnAbort};

const BLOCKS: usize = 512;
const FUA: u32 = BlockDw12::new().with_fua(true).into_bits();

/// Returns a vendor specific command with `ndt` dwords of data.
fn vendor(opcode: u8, cid: u16, ndt: u32) -> Sqe {
    Sqe { opcode, cid, nsid: 1, prp1: DATA.0, prp2: DATA.0 + 4096, cdw10: ndt, ..Sqe::default() }
}

#[test]
fn a_passed_command_comes_without_what_is_the_guests_own_and_goes_with_the_backends_result() {
    let disk = Disk::instant(BLOCKS, 9);
    disk.dw0.set(0x1234);
    let rig = Rig::with(&disk);
    let (mut sq, mut cq) = rig.create(1, 8);
    let verify = Sqe { opcode: IoOpcode::VERIFY.0, cdw12: 0x3c00_0007, cdw14: 7, mptr: 9, ..read(1, 8, 8) };
    rig.run(&mut sq, &[verify, Sqe { cdw12: 5, cdw15: 6, ..vendor(0xc0, 2, 0) }, read(3, 0, 1)]);
    let done = rig.reap(&mut cq);
    assert_eq!(done.iter().map(|cqe| (cqe.cid, cqe.dw0)).collect::<Vec<_>>(), [(1, 0x1234), (2, 0x1234), (3, 0)]);
    assert!(done.iter().all(|cqe| cqe.status.is_success()), "{done:?}");
    let passthru = |opcode, dwords| PassthruCommand { opcode, dwords };
    let expected = [passthru(IoOpcode::VERIFY.0, [8, 0, 7, 0, 0, 0]), passthru(0xc0, [0, 0, 5, 0, 0, 6])];
    assert_eq!(*disk.passthru.borrow(), expected);
    let mut reads = 0;
    rig.queues.take_totals(|_, totals| reads += totals.reads);
    assert_eq!((reads, disk.held()), (1, 0));
}

#[test]
fn a_passed_command_has_the_guests_memory_for_its_data_and_no_more() {
    let disk = Disk::new(BLOCKS, 9);
    let rig = Rig::with(&disk);
    let (mut sq, mut cq) = rig.create(1, 8);
    let outside = Sqe { prp1: 0x7fff_0000, ..vendor(0x82, 2, 4) };
    rig.run(&mut sq, &[vendor(0x81, 1, 1200), outside, vendor(0x81, 3, 1 << 20)]);
    let refused: Vec<u16> = rig.statuses(&mut cq).iter().map(|(cid, _)| *cid).collect();
    assert_eq!((refused, disk.held()), (vec![2, 3], 1));
    assert_eq!(disk.data_of(0), (4800, 1), "pages that follow on each other are one piece");
    disk.finish_all();
    assert_eq!(rig.statuses(&mut cq), [(1, 0)]);
}

#[test]
fn the_status_of_a_passed_command_is_the_backends_own() {
    let disk = Disk::new(BLOCKS, 9);
    let rig = Rig::with(&disk);
    let (mut sq, mut cq) = rig.create(1, 8);
    let bad = Sqe { opcode: IoOpcode::WRITE_UNCORRECTABLE.0, ..write(1, 0, 1) };
    rig.run(&mut sq, &[bad]);
    assert!(disk.fail(0, Status::new(StatusCodeType::VENDOR_SPECIFIC, 0xc5)));
    assert_eq!(rig.statuses(&mut cq), [(1, Status::new(StatusCodeType::VENDOR_SPECIFIC, 0xc5).into_bits())]);
}

#[test]
fn a_passed_command_that_is_not_taken_is_sent_again_and_aborted_as_any_other() {
    let disk = Disk::new(BLOCKS, 9);
    disk.on_abort.set(OnAbort::EndNow);
    disk.refuse_later.set(1);
    let rig = Rig::with(&disk);
    let (mut sq, mut cq) = rig.create(1, 8);
    rig.run(&mut sq, &[vendor(0x80, 1, 0)]);
    assert_eq!(disk.held(), 0);
    rig.queues.poll();
    assert_eq!((disk.held(), disk.passthru.borrow().len()), (1, 1));
    assert!(rig.queues.delete_submission(1) && rig.queues.abort_some(|| true));
    assert_eq!((disk.held(), rig.statuses(&mut cq)), (0, vec![(1, Status::ABORT_REQUESTED.into_bits())]));
}

#[test]
fn without_a_write_cache_every_write_is_flushed_before_its_completion() {
    let disk = Disk::new(BLOCKS, 9);
    let rig = Rig::with(&disk);
    let (mut sq, mut cq) = rig.create(1, 8);
    let zeroes = Sqe { opcode: IoOpcode::WRITE_ZEROES.0, ..write(3, 0, 4) };
    let commands = [write(1, 0, 1), Sqe { cdw12: FUA, ..write(2, 0, 1) }, zeroes, read(4, 0, 1)];
    for (on, flushes) in [(true, 1), (false, 3), (true, 1)] {
        rig.queues.set_write_cache(on);
        disk.flushes.set(0);
        rig.run(&mut sq, &commands);
        for _ in 0..4 {
            disk.finish(0);
        }
        let before: Vec<u16> = rig.statuses(&mut cq).iter().map(|(cid, _)| *cid).collect();
        let at_once = if on { vec![1, 3, 4] } else { vec![4] };
        assert_eq!((before, disk.ops().len()), (at_once, flushes), "write cache: {on}");
        assert!(disk.ops().iter().all(|(op, ..)| *op == BlockOp::Flush));
        disk.finish_all();
        assert_eq!((rig.reap(&mut cq).len(), disk.flushes.get()), (flushes, flushes as u64));
    }
}

#[test]
fn a_namespace_that_comes_or_grows_later_has_its_cache_off_too_until_the_controller_is_reset() {
    let disk = Disk::instant(BLOCKS, 9);
    let rig = Rig::new();
    rig.queues.set_write_cache(false);
    rig.add(1, &disk);
    let (mut sq, mut cq) = rig.create(1, 8);
    rig.run(&mut sq, &[write(1, 0, 1)]);
    assert_eq!((rig.reap(&mut cq).len(), disk.flushes.get()), (1, 1));
    rig.queues.set_geometry(1, geometry(BLOCKS as u64, 9));
    rig.run(&mut sq, &[write(1, 0, 1)]);
    assert_eq!((rig.reap(&mut cq).len(), disk.flushes.get()), (1, 2));
    rig.queues.delete_all();
    let (mut sq, mut cq) = rig.create(1, 8);
    rig.run(&mut sq, &[write(1, 0, 1)]);
    assert_eq!((rig.take(&mut cq, 1).len(), disk.flushes.get()), (1, 2));
}

#[test]
fn blocks_past_the_end_of_a_disk_that_has_shrunk_are_out_of_range() {
    let disk = Disk::instant(BLOCKS, 9);
    let rig = Rig::with(&disk);
    let (mut sq, mut cq) = rig.create(1, 8);
    disk.bytes.borrow_mut().truncate(256 << 9);
    rig.run(&mut sq, &[read(1, 255, 1), read(2, 256, 1), write(3, 250, 8)]);
    let out = Status::LBA_OUT_OF_RANGE.into_bits();
    assert_eq!(rig.statuses(&mut cq), [(1, 0), (2, out), (3, out)]);
}
