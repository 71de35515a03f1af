//! Data, by whatever pointers it comes.

use nvme_device::queue::BlockOp;
use nvme_spec::{CommandFlags, IoOpcode, Sqe, Status};
use proptest::collection::vec;
use proptest::prelude::*;

use super::common::guest::{DATA, LISTS, MAX_TRANSFER, PAGE, Rig, block_command, flush, read, write};
use super::common::ram::{Disk, MISCOMPARE};

const BLOCKS: usize = 512;

/// Returns a list of PRPs for pages, at a place where it does not cross a page.
fn prps(rig: &Rig, sqe: Sqe, pages: &[u64], offset: u64) -> Sqe {
    for (i, page) in pages.iter().skip(1).enumerate() {
        rig.put(LISTS.0 + i as u64 * 8, &page.to_le_bytes());
    }
    let prp2 = if pages.len() <= 2 { pages.get(1).copied().unwrap_or(0) } else { LISTS.0 };
    Sqe { prp1: pages[0] + offset, prp2, ..sqe }
}

/// Returns an SGL of data blocks in one last segment.
fn sgl(rig: &Rig, sqe: Sqe, pieces: &[(u64, u32)]) -> Sqe {
    for (i, (gpa, len)) in pieces.iter().enumerate() {
        let at = LISTS.0 + 0x8000 + i as u64 * 16;
        rig.put(at, &gpa.to_le_bytes());
        rig.put(at + 8, &u64::from(*len).to_le_bytes());
    }
    let len = pieces.len() as u64 * 16;
    Sqe { flags: CommandFlags::SGL, prp1: LISTS.0 + 0x8000, prp2: 0x30 << 56 | len, ..sqe }
}

/// Returns the bytes of pieces, one after another.
fn gather(rig: &Rig, pieces: &[(u64, u32)]) -> Vec<u8> {
    pieces.iter().flat_map(|(gpa, len)| rig.get(*gpa, *len as usize)).collect()
}

/// Returns the pieces of `len` bytes in pages, the first of which begins at an offset.
fn pieces_of_pages(pages: &[u64], offset: u64, len: u32) -> Vec<(u64, u32)> {
    let mut left = len;
    let mut begin = offset;
    let mut pieces = Vec::new();
    for page in pages {
        let now = left.min((PAGE - begin) as u32);
        pieces.push((page + begin, now));
        left -= now;
        begin = 0;
    }
    assert_eq!(left, 0, "as many pages as the data wants");
    pieces
}

/// SGLS promises no limit of descriptors: a host may have its data in pieces of any size.
#[test]
fn data_in_very_many_pieces_is_written_and_read() {
    let disk = Disk::new(512, 9);
    let rig = Rig::with(&disk);
    let (mut sq, mut cq) = rig.create(1, 8);
    let scattered = |from: u64, count: u64, len: u32| {
        (0..count).map(|at| (from + (count - 1 - at) * u64::from(len) * 2, len)).collect::<Vec<_>>()
    };
    for (count, len) in [(130, 512_u32), (256, 512), (1000, 64)] {
        let bytes = count as u32 * len;
        let blocks = bytes.div_ceil(512);
        let (source, target) = (scattered(DATA.0, count, len), scattered(DATA.0 + 0x20_0000, count, len));
        for (at, (gpa, len)) in source.iter().enumerate() {
            rig.put(*gpa, &vec![at as u8 ^ len.to_le_bytes()[0] | 1; *len as usize]);
        }
        let sqe = sgl(&rig, write(1, 0, blocks), &source);
        rig.run(&mut sq, &[sqe]);
        assert_eq!(disk.data_of(0), (bytes, count as u16));
        disk.finish_all();
        let sqe = sgl(&rig, read(2, 0, blocks), &target);
        rig.run(&mut sq, &[sqe]);
        disk.finish_all();
        assert_eq!(rig.statuses(&mut cq), [(1, 0), (2, 0)], "{count} pieces");
        assert_eq!(gather(&rig, &source), gather(&rig, &target));
    }
    // The place has its own room again.
    let sqe = sgl(&rig, read(3, 0, 1), &[(DATA.0, 512)]);
    rig.run(&mut sq, &[sqe]);
    disk.finish_all();
    assert_eq!(rig.statuses(&mut cq), [(3, 0)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_by_prps_is_read_by_an_sgl_and_the_other_way_round(
        blocks in 1_u32..=MAX_TRANSFER / 512,
        slba in 0_u64..256,
        offset in (0_u64..1024).prop_map(|dword| dword * 4),
        mut places in proptest::sample::subsequence((0_u64..512).collect::<Vec<_>>(), 34).prop_shuffle(),
        cuts in vec(1_u32..5000, 0..40),
        seed: u8,
        prps_first: bool,
    ) {
        let disk = Disk::instant(BLOCKS, 9);
        let rig = Rig::with(&disk);
        let (mut sq, mut cq) = rig.create(1, 8);
        let len = blocks * 512;
        let content: Vec<u8> = (0..len).map(|i| (i / 7) as u8 ^ seed).collect();
        places.truncate((offset + u64::from(len)).div_ceil(PAGE) as usize);
        let pages: Vec<u64> = places.iter().map(|place| DATA.0 + place * PAGE).collect();
        let by_prps = pieces_of_pages(&pages, offset, len);
        // The SGL has pieces of any size, one behind another with a hole between them.
        let (mut by_sgl, mut at, mut left) = (Vec::new(), DATA.0 + 0x20_0000 + u64::from(seed), len);
        for cut in cuts.into_iter().chain([u32::MAX]) {
            let now = cut.min(left);
            if now > 0 {
                by_sgl.push((at, now));
                at += u64::from(now) + 13;
                left -= now;
            }
        }
        let (source, target) = if prps_first { (&by_prps, &by_sgl) } else { (&by_sgl, &by_prps) };
        let mut rest = &content[..];
        for (gpa, len) in source {
            let (now, later) = rest.split_at(*len as usize);
            rig.put(*gpa, now);
            rest = later;
        }
        let pointer = |sqe, prps_now| {
            if prps_now { prps(&rig, sqe, &pages, offset) } else { sgl(&rig, sqe, &by_sgl) }
        };
        rig.run(&mut sq, &[pointer(write(1, slba, blocks), prps_first)]);
        prop_assert_eq!(rig.statuses(&mut cq), [(1, 0)]);
        let range = slba as usize * 512..slba as usize * 512 + len as usize;
        prop_assert_eq!(&disk.bytes.borrow()[range], &content[..]);
        rig.run(&mut sq, &[pointer(read(2, slba, blocks), !prps_first)]);
        prop_assert_eq!(rig.statuses(&mut cq), [(2, 0)]);
        prop_assert_eq!(gather(&rig, target), content);
    }
}

#[test]
fn a_read_writes_nothing_but_its_pieces() {
    let disk = Disk::instant(BLOCKS, 9);
    disk.bytes.borrow_mut().fill(0xaa);
    let rig = Rig::with(&disk);
    let (mut sq, mut cq) = rig.create(1, 4);
    rig.run(&mut sq, &[Sqe { prp1: DATA.0 + 0x204, ..read(1, 0, 8) }]);
    assert_eq!(rig.statuses(&mut cq), [(1, 0)]);
    let after = rig.get(DATA.0, 3 * PAGE as usize);
    let written: Vec<usize> = (0..after.len()).filter(|&at| after[at] != 0).collect();
    assert_eq!((written[0], written.len()), (0x204, 4096));
    assert_eq!(written[4095], 0x1203);
}

#[test]
fn a_comparison_tells_a_difference() {
    let disk = Disk::instant(BLOCKS, 9);
    let rig = Rig::with(&disk);
    let (mut sq, mut cq) = rig.create(1, 8);
    let compare = |cid| block_command(IoOpcode::COMPARE.0, cid, 5, 2, DATA.0);
    rig.run(&mut sq, &[compare(1)]);
    assert_eq!(rig.statuses(&mut cq), [(1, 0)]);
    disk.bytes.borrow_mut()[7 * 512 - 1] = 1;
    rig.run(&mut sq, &[compare(2)]);
    assert_eq!(rig.statuses(&mut cq), [(2, MISCOMPARE.into_bits())]);
}

#[test]
fn write_zeroes_and_flush_reach_the_backend_without_data() {
    let disk = Disk::new(BLOCKS, 9);
    let rig = Rig::with(&disk);
    let (mut sq, mut cq) = rig.create(1, 8);
    rig.run(&mut sq, &[Sqe { prp1: u64::MAX, ..block_command(IoOpcode::WRITE_ZEROES.0, 1, 3, 400, 0) }, flush(2)]);
    assert_eq!(disk.ops(), [(BlockOp::WriteZeroes, 3, 400), (BlockOp::Flush, 0, BLOCKS as u64)]);
    disk.finish_all();
    assert_eq!(rig.statuses(&mut cq), [(1, 0), (2, 0)]);
}

fn deallocate(cid: u16, ranges: u32) -> Sqe {
    Sqe {
        opcode: IoOpcode::DATASET_MANAGEMENT.0,
        cid,
        nsid: 1,
        prp1: LISTS.0,
        cdw10: ranges - 1,
        cdw11: 4,
        ..Sqe::default()
    }
}

/// Puts ranges of `blocks` blocks each, two blocks apart, where [`deallocate`] looks for them.
fn put_ranges(rig: &Rig, count: u64, blocks: u64) {
    for i in 0..count {
        rig.put(LISTS.0 + i * 16, &(blocks << 32).to_le_bytes());
        rig.put(LISTS.0 + i * 16 + 8, &(i * 2).to_le_bytes());
    }
}

#[test]
fn a_deallocation_of_256_ranges_is_one_command() {
    for at_once in [true, false] {
        let disk = Disk::new(BLOCKS, 9);
        disk.at_once.set(at_once);
        disk.bytes.borrow_mut().fill(1);
        let rig = Rig::with(&disk);
        let (mut sq, mut cq) = rig.create(1, 4);
        put_ranges(&rig, 256, 1);
        rig.run(&mut sq, &[deallocate(7, 256)]);
        // What the guest does to its list afterwards has no effect.
        put_ranges(&rig, 256, 2);
        disk.finish_all();
        assert_eq!(rig.statuses(&mut cq), [(7, 0)]);
        assert_eq!(disk.submitted.get(), 256);
        let bytes = disk.bytes.borrow();
        assert!((0..BLOCKS).all(|block| bytes[block * 512] == (block % 2) as u8));
    }
}

#[test]
fn a_deallocation_of_nothing_and_one_past_the_end_touch_nothing() {
    let disk = Disk::new(BLOCKS, 9);
    let rig = Rig::with(&disk);
    let (mut sq, mut cq) = rig.create(1, 4);
    put_ranges(&rig, 4, 0);
    rig.run(&mut sq, &[deallocate(1, 4)]);
    rig.put(LISTS.0 + 3 * 16 + 8, &(BLOCKS as u64 + 1).to_le_bytes());
    rig.run(&mut sq, &[deallocate(2, 4)]);
    assert_eq!(rig.statuses(&mut cq), [(1, 0), (2, Status::LBA_OUT_OF_RANGE.into_bits())]);
    assert_eq!(disk.submitted.get(), 0);
}

#[test]
fn a_range_that_fails_ends_the_deallocation() {
    let disk = Disk::new(BLOCKS, 9);
    let rig = Rig::with(&disk);
    let (mut sq, mut cq) = rig.create(1, 4);
    put_ranges(&rig, 3, 1);
    rig.run(&mut sq, &[deallocate(1, 3)]);
    disk.finish(0);
    disk.fail(0, Status::CAPACITY_EXCEEDED);
    assert_eq!(rig.statuses(&mut cq), [(1, Status::CAPACITY_EXCEEDED.into_bits())]);
    assert_eq!((disk.held(), rig.queues.in_flight()), (0, 0));
}

#[test]
fn a_backend_that_is_out_of_something_is_asked_again_in_order() {
    let disk = Disk::new(BLOCKS, 9);
    let rig = Rig::with(&disk);
    let (mut sq, mut cq) = rig.create(1, 8);
    disk.refuse_later.set(3);
    rig.run(&mut sq, &[read(1, 1, 1), read(2, 2, 1), read(3, 3, 1)]);
    assert_eq!((disk.held(), rig.queues.in_flight()), (0, 1), "none is taken behind one that waits");
    rig.queues.poll();
    rig.queues.poll();
    assert_eq!(disk.held(), 0);
    rig.queues.poll();
    assert_eq!(disk.ops(), [1, 2, 3].map(|slba| (BlockOp::Read, slba, 1)));
    disk.finish_all();
    assert_eq!(rig.statuses(&mut cq), [(1, 0), (2, 0), (3, 0)]);
}

#[test]
fn commands_that_are_sent_again_are_work_that_a_poll_has_done() {
    let disk = Disk::new(BLOCKS, 9);
    let rig = Rig::with(&disk);
    let (mut sq, _) = rig.create(1, 8);
    disk.refuse_later.set(2);
    rig.run(&mut sq, &[read(1, 1, 1)]);
    assert_eq!(rig.queues.poll(), 0, "the backend still takes none");
    assert_eq!(rig.queues.poll(), 1, "it takes the one that waited");
    assert_eq!((disk.held(), rig.queues.poll()), (1, 0));
}

#[test]
fn a_backend_that_refuses_fails_the_command() {
    let disk = Disk::new(BLOCKS, 9);
    let rig = Rig::with(&disk);
    let (mut sq, mut cq) = rig.create(1, 8);
    disk.refuse.set(1);
    rig.run(&mut sq, &[read(1, 1, 1)]);
    assert_eq!(rig.statuses(&mut cq), [(1, Status::INTERNAL_ERROR.into_bits())]);
    assert_eq!((rig.queues.in_flight(), rig.queues.take_error_events().len()), (0, 1));
}

#[test]
fn data_outside_of_the_guest_s_memory_is_refused_without_a_write() {
    let disk = Disk::new(BLOCKS, 9);
    let rig = Rig::with(&disk);
    let (mut sq, mut cq) = rig.create(1, 8);
    let end = DATA.0 + DATA.1;
    let sqes = [
        Sqe { prp1: end, ..read(1, 0, 1) },
        Sqe { prp1: u64::MAX - 0xfff, prp2: 0, ..read(2, 0, 9) },
        Sqe { prp1: end - PAGE, prp2: end, ..read(3, 0, 16) },
        Sqe { flags: CommandFlags::SGL, prp1: u64::MAX - 255, prp2: 512, ..read(4, 0, 1) },
        Sqe { flags: CommandFlags::SGL, prp1: end - 512, prp2: 513, ..read(5, 0, 1) },
    ];
    rig.run(&mut sq, &sqes);
    assert_eq!(disk.ops(), [(BlockOp::Read, 0, 1)], "a longer SGL than the data is none outside of memory");
    disk.finish_all();
    let failed = Status::DATA_TRANSFER_ERROR.into_bits();
    assert_eq!(rig.statuses(&mut cq), [(1, failed), (2, failed), (3, failed), (4, failed), (5, 0)]);
}

#[test]
fn lists_that_loop_end() {
    let disk = Disk::new(BLOCKS, 9);
    let rig = Rig::with(&disk);
    let (mut sq, mut cq) = rig.create(1, 8);
    // A PRP list whose last entry in the page names its own page.
    let last = LISTS.0 + PAGE - 8;
    rig.put(last, &LISTS.0.to_le_bytes());
    for i in 0..511 {
        rig.put(LISTS.0 + i * 8, &DATA.0.to_le_bytes());
    }
    // An SGL segment that names itself.
    let segment = LISTS.0 + 0x4000;
    rig.put(segment, &segment.to_le_bytes());
    rig.put(segment + 8, &(0x20_u64 << 56 | 16).to_le_bytes());
    let sqes = [
        Sqe { prp1: DATA.0, prp2: last, ..read(1, 0, 256) },
        Sqe { flags: CommandFlags::SGL, prp1: segment, prp2: 0x20 << 56 | 16, ..read(2, 0, 256) },
    ];
    rig.run(&mut sq, &sqes);
    disk.finish_all();
    assert_eq!(rig.statuses(&mut cq), [(2, Status::INVALID_NUMBER_OF_SGL_DESCRIPTORS.into_bits()), (1, 0)]);
}
