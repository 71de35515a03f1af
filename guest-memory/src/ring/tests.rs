use std::os::unix::fs::FileExt;

use super::super::testing::{PAGE, file, patterned, region_of, view_of};
use super::super::{Access, Extent, Region};
use super::*;
use nvme_spec::Status;

const BASE: u64 = 0x20_0000;

/// Returns two regions that touch, of one file: together pages 0 to 7 from `BASE`, split after `split` pages.
fn split_view(split: u64) -> (std::fs::File, MemView) {
    let file = patterned(8);
    let first = region_of(&file, 0, BASE, split * PAGE);
    let second = region_of(&file, split * PAGE, BASE + split * PAGE, (8 - split) * PAGE);
    let view = view_of([first, second]);
    (file, view)
}

#[test]
fn a_queue_is_read_the_same_in_one_region_and_in_two() {
    for (split, is_direct) in [(4, true), (1, false)] {
        let (_file, view) = split_view(split);
        let ring = SubmissionRing::resolve(&view, BASE, 256).expect("4 pages");
        assert_eq!(matches!(ring.0.place, RingMemory::Direct { .. }), is_direct);
        for index in 0..256 {
            ring.prefetch(index);
            let at = u64::from(index) * 64;
            let sqe = ring.read(index).expect("within the queue");
            assert_eq!((sqe.mptr, sqe.prp1, sqe.prp2), (at + 16, at + 24, at + 32));
            assert_eq!(u64::from(sqe.cdw15) << 32 | u64::from(sqe.cdw14), at + 56);
        }
    }
}

#[test]
fn an_index_outside_of_the_queue_is_refused() {
    for split in [1, 4] {
        let (_file, view) = split_view(split);
        let (sq, cq) = (SubmissionRing::resolve(&view, BASE, 100), CompletionRing::resolve(&view, BASE, 100));
        let (sq, cq) = (sq.expect("2 pages"), cq.expect("1 page"));
        assert_eq!((sq.entries(), cq.entries()), (100, 100));
        for index in [100, 128, u16::MAX] {
            assert_eq!(sq.read(index), Err(Fault::NoSuchEntry));
            assert_eq!(cq.post(index, Cqe::default()), Err(Fault::NoSuchEntry));
            sq.prefetch(index);
            cq.prefetch(index);
        }
    }
}

#[test]
fn a_completion_is_posted_whole_and_alone() {
    for split in [1, 4] {
        let (file, view) = split_view(split);
        let ring = CompletionRing::resolve(&view, BASE, 1024).expect("4 pages");
        let cqe = Cqe {
            dw0: 0x0403_0201,
            dw1: 0x0807_0605,
            sqhd: 0x0a09,
            sqid: 0x0c0b,
            cid: 0x0e0d,
            status: Status::from_bits(0x100f),
        };
        for index in [0, 255, 256, 1023] {
            ring.post(index, cqe).expect("within the queue");
            let (mut found, at) = ([0; 32], u64::from(index) * 16);
            file.read_exact_at(&mut found, at).expect("in the file");
            assert_eq!(found[..16], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
            assert_eq!(found[16..24], (at + 16).to_le_bytes());
        }
    }
}

#[test]
fn a_queue_outside_of_the_guests_memory_is_refused() {
    let (_file, view) = split_view(4);
    let sq = |base, entries| SubmissionRing::resolve(&view, base, entries).err();
    assert_eq!(sq(BASE + 64, 4), Some(Fault::Unaligned));
    assert_eq!(sq(BASE - PAGE, 64), Some(Fault::Unmapped));
    assert_eq!(sq(BASE - PAGE, 128), Some(Fault::Unmapped));
    assert_eq!(sq(BASE + 7 * PAGE, 65), Some(Fault::Unmapped));
    assert_eq!(sq(BASE + 3 * PAGE, 1024), Some(Fault::Unmapped));
    assert_eq!(sq(BASE + 7 * PAGE, 64), None);
    assert_eq!(sq(u64::MAX - 0xfff, u16::MAX), Some(Fault::Unmapped));
}

#[test]
fn a_completion_queue_needs_memory_that_may_be_written_and_has_a_file() {
    let readable = Extent::new(0, PAGE, PAGE, Access::ReadOnly)
        .and_then(|of| Region::map(file(PAGE).into(), of, |_| {}))
        .expect("a region");
    let elsewhere = Region::without_file(2 * PAGE, PAGE, Access::ReadWrite, |_| {}).expect("a region");
    let view = view_of([region_of(&file(PAGE), 0, 0, PAGE), Arc::new(readable), Arc::new(elsewhere)]);
    let cq = |base, entries| CompletionRing::resolve(&view, base, entries).err();
    assert_eq!(cq(0, 256), None);
    assert_eq!((cq(0, 257), cq(PAGE, 1)), (Some(Fault::ReadOnly), Some(Fault::ReadOnly)));
    assert_eq!((cq(0, 1024), cq(2 * PAGE, 1)), (Some(Fault::Unmapped), Some(Fault::NoFile)));
    assert_eq!(SubmissionRing::resolve(&view, 0, 128).err(), None);
}

#[test]
fn a_queue_holds_its_own_regions_and_no_others() {
    let file = patterned(8);
    let regions: Vec<_> = (0..4).map(|i| region_of(&file, i * PAGE, BASE + i * PAGE, PAGE)).collect();
    let view = view_of(regions.iter().cloned());
    let scattered = SubmissionRing::resolve(&view, BASE, 128).expect("2 pages");
    let direct = CompletionRing::resolve(&view, BASE + 2 * PAGE, 256).expect("a page");
    drop(view);
    let holders: Vec<_> = regions.iter().map(Arc::strong_count).collect();
    assert_eq!(holders, [2, 2, 2, 1]);
    assert_eq!(scattered.read(127).map(|sqe| sqe.prp1), Ok(127 * 64 + 24));
    assert_eq!(direct.post(255, Cqe::default()), Ok(()));
}

#[test]
fn a_queue_intersects_what_has_a_byte_of_it() {
    let (_file, view) = split_view(4);
    let ring = SubmissionRing::resolve(&view, BASE + PAGE, 65).expect("a page and an entry");
    assert!(ring.intersects(&(0..u64::MAX)));
    assert!(ring.intersects(&(BASE + 2 * PAGE..BASE + 3 * PAGE)));
    assert!(!ring.intersects(&(BASE + 2 * PAGE + 64..BASE + 3 * PAGE)));
    assert!(!ring.intersects(&(BASE..BASE + PAGE)));
}
