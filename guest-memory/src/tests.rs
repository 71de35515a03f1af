//! The table against a model, and data by I/O vectors and copies.

#![expect(clippy::cast_possible_truncation, reason = "small numbers of the tests' own")]

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::copy::{read_data, write_data};
use super::iov::IovSink;
use super::testing::EMPTY;
use super::testing::{PAGE, file, gather, patterned, region_of, view_of};
use super::{Access, Extent, Fault, GuestMemory, MapError, MemView, Region, UnmapError};
use crate::dptr::{DptrError, PieceSink, walk};
use nvme_spec::{CommandFlags, Sqe, Status};

fn without_file(gpa: u64, len: u64) -> Arc<Region> {
    Arc::new(Region::without_file(gpa, len, Access::ReadWrite, |_| {}).expect("a region"))
}

#[test]
fn an_overlap_is_refused_with_both_ranges() {
    let memory = GuestMemory::new().with(without_file(0x1000, 0x3000)).expect("room");
    for (gpa, len) in [(0x1000, 0x3000), (0, 0x2000), (0x3000, 0x2000), (0x2000, 0x1000), (0, 0x8000)] {
        let error = memory.with(without_file(gpa, len)).expect_err("overlaps");
        assert!(matches!(error, MapError::Overlap { other_gpa: 0x1000, other_end: 0x4000, .. }), "{error:?}");
        assert_eq!(error.errno(), libc::EEXIST);
        assert!(error.to_string().contains(&format!("{gpa:#x}..{:#x}", gpa + len)), "{error}");
    }
    for gpa in [0, 0x4000] {
        assert_eq!(memory.with(without_file(gpa, 0x1000)).expect("beside").len(), 2);
    }
}

#[test]
fn a_client_cannot_have_too_many_or_too_large_regions() {
    let large = without_file(0, GuestMemory::MAX_BYTES);
    let memory = GuestMemory::new().with(large).expect("the limit");
    let error = memory.with(without_file(1 << 60, PAGE)).expect_err("a page more");
    assert!(matches!(error, MapError::TooLarge { .. }) && error.errno() == libc::ENOSPC);
    let all_but_one = (1..GuestMemory::MAX_REGIONS as u64).map(|i| without_file(i * PAGE, PAGE));
    let memory = GuestMemory::of(all_but_one.collect()).with(without_file(0, PAGE)).expect("the limit");
    assert!(matches!(memory.with(without_file(1 << 60, PAGE)), Err(MapError::TooMany { limit: 65535 })));
}

#[test]
fn a_range_takes_whole_regions_only() {
    let view = view_of([without_file(0x1000, 0x1000), without_file(0x2000, 0x2000), without_file(0x8000, 0x1000)]);
    let memory = view.memory();
    let cut = |gpa, len| memory.without(gpa, len).expect_err("refused");
    assert!(matches!(cut(0x1000, 0x2000), UnmapError::Partial { region_gpa: 0x2000, region_end: 0x4000, .. }));
    assert!(matches!(cut(0x3000, 0x6000), UnmapError::Partial { region_gpa: 0x2000, .. }));
    assert!(matches!(cut(0x8000, 0x800), UnmapError::Partial { region_gpa: 0x8000, .. }));
    assert_eq!(cut(0x1800, 0).errno(), libc::EINVAL);
    assert_eq!(cut(u64::MAX, 2), UnmapError::AddressWraps { gpa: u64::MAX, len: 2 });
    let (left, taken) = memory.without(0x4000, 0x4000).expect("nothing is there, which is no error");
    assert_eq!((left.len(), taken.len()), (3, 0));
    let (left, taken) = memory.without(0x800, 0x4000).expect("two regions");
    assert_eq!(taken.iter().map(|region| region.gpa()).collect::<Vec<_>>(), [0x1000, 0x2000]);
    assert_eq!(left.regions().map(|region| region.gpa()).collect::<Vec<_>>(), [0x8000]);
    let (left, taken) = memory.without(0x2000, 0_u64.wrapping_sub(0x2000)).expect("up to the end of all addresses");
    assert_eq!((left.len(), taken.len()), (1, 2));
    let (left, taken) = memory.without_all();
    assert!(left.is_empty() && taken.len() == 3);
}

#[test]
fn what_was_found_last_does_not_change_what_is_found_next() {
    let file = patterned(4);
    let view = view_of((0..4).map(|i| region_of(&file, i * PAGE, i * 2 * PAGE, PAGE)));
    for before in [0, 2 * PAGE, 4 * PAGE + 100, 6 * PAGE] {
        view.translate(before, 1, true).expect("a region");
        let piece = view.translate(4 * PAGE + 8, 2 * PAGE, true).expect("the third region");
        assert_eq!((piece.len() as u64, view.last_found()), (PAGE - 8, 4 * PAGE));
        assert_eq!(view.translate(5 * PAGE, 1, true), Err(Fault::Unmapped));
    }
}

#[test]
fn what_ends_in_a_hole_is_neither_read_nor_written() {
    let view = view_of([region_of(&file(PAGE), 0, 0, PAGE), region_of(&file(PAGE), 0, 2 * PAGE, PAGE)]);
    assert_eq!(view.read(PAGE - 4, &mut [0; 8]), Err(Fault::Unmapped));
    assert_eq!(view.write(3 * PAGE - 4, &[0; 8]), Err(Fault::Unmapped));
    assert_eq!(view.read(u64::MAX - 3, &mut [0; 8]), Err(Fault::Unmapped));
    assert_eq!(view.read(0x7777_0000, &mut []), Ok(()));
}

/// Returns where a range in the model cuts a region.
fn cuts(model: &BTreeMap<u64, u64>, gpa: u64, end: u64) -> bool {
    model.iter().any(|(&from, &len)| from < end && gpa < from + len && (from < gpa || end < from + len))
}

proptest! {
    #[test]
    fn the_table_does_as_its_model(
        changes in prop::collection::vec((any::<bool>(), 0_u64..32, 1_u64..6), 1..40),
        probes in prop::collection::vec((0..34 * PAGE, 1..3 * PAGE as usize), 1..20),
    ) {
        let pattern = patterned(40);
        let mut memory = GuestMemory::new();
        let mut model = BTreeMap::new();
        let mut tables = vec![memory.clone()];
        for (map, page, pages) in changes {
            let (gpa, len) = (page * PAGE, pages * PAGE);
            let end = gpa + len;
            let inside: Vec<_> = model.iter().filter(|&(&from, &len)| from < end && gpa < from + len).collect();
            if map {
                let is_free = inside.is_empty();
                let result = memory.with(region_of(&pattern, gpa, gpa, len));
                prop_assert_eq!(result.is_ok(), is_free);
                if let Ok(new) = result {
                    memory = new;
                    model.insert(gpa, len);
                }
            } else {
                let result = memory.without(gpa, len);
                prop_assert_eq!(result.is_ok(), !cuts(&model, gpa, gpa + len));
                if let Ok((new, taken)) = result {
                    let taken: Vec<_> = taken.iter().map(|region| (region.gpa(), region.len())).collect();
                    prop_assert_eq!(taken, inside.iter().map(|&(&gpa, &len)| (gpa, len)).collect::<Vec<_>>());
                    memory = new;
                    model.retain(|&from, _| from < gpa || from >= gpa + len);
                }
            }
            let regions: Vec<_> = memory.regions().map(|region| (region.gpa(), region.len())).collect();
            prop_assert_eq!(regions, model.iter().map(|(&gpa, &len)| (gpa, len)).collect::<Vec<_>>());
            prop_assert_eq!(memory.len(), model.len());
            prop_assert_eq!(memory.bytes(), model.values().sum::<u64>());
            tables.push(memory.clone());
        }
        for older in &tables {
            let gone: Vec<_> = older.regions_missing_in(&memory).iter().map(|region| region.id()).collect();
            let is_gone = |region: &&Arc<Region>| memory.region_at(region.gpa()).is_none_or(|now| now.id() != region.id());
            prop_assert_eq!(gone, older.regions().filter(is_gone).map(|region| region.id()).collect::<Vec<_>>());
        }
        let view = MemView::new(Arc::new(memory));
        let all: Vec<u8> = (0..40 * PAGE / 8).flat_map(|word| (word * 8).to_le_bytes()).collect();
        for (gpa, len) in probes {
            let end = gpa + len as u64;
            let has = |at| model.range(..=at).next_back().is_some_and(|(&from, &len)| at < from + len);
            let is_mapped = (gpa..end).all(has);
            let mut data = vec![0; len];
            let result = view.read(gpa, &mut data);
            prop_assert_eq!(result, if is_mapped { Ok(()) } else { Err(Fault::Unmapped) });
            if is_mapped {
                prop_assert_eq!(&data[..], &all[gpa as usize..end as usize]);
                prop_assert_eq!(view.write(gpa, &data), Ok(()));
            }
            let piece = view.translate(gpa, len as u64, true);
            let room = model.range(..=gpa).next_back().map_or(0, |(&from, &len)| (from + len).saturating_sub(gpa));
            let expected = if room == 0 { Err(Fault::Unmapped) } else { Ok(room.min(len as u64)) };
            prop_assert_eq!(piece.map(|piece| piece.len() as u64), expected);
        }
    }

    #[test]
    fn iovs_and_copies_have_the_bytes_that_the_pages_have(
        pages in prop::collection::vec(1_u64..16, 33),
        offset in (0_u64..1024).prop_map(|dword| dword * 4),
        split in 1_u64..15,
        len in 1_usize..=31 * PAGE as usize,
    ) {
        let pattern = patterned(16);
        let parts = [(0, split), (split, 16 - split)];
        let view = view_of(parts.map(|(page, count)| region_of(&pattern, page * PAGE, page * PAGE, count * PAGE)));
        // Page 0 has the list.
        let prp1 = pages[0] * PAGE + offset;
        let two = offset as usize + len <= 2 * PAGE as usize;
        let prp2 = if two { pages[1] * PAGE } else { 0 };
        for (i, page) in pages[1..].iter().enumerate() {
            view.write(i as u64 * 8, &(page * PAGE).to_le_bytes()).expect("the list");
        }
        let mut expected = Vec::new();
        for (i, page) in pages.iter().enumerate() {
            let begin = if i == 0 { offset } else { 0 };
            let mut bytes = vec![0; (PAGE - begin) as usize];
            view.read(page * PAGE + begin, &mut bytes).expect("a page");
            expected.extend_from_slice(&bytes);
        }
        expected.truncate(len);
        let sqe = Sqe { prp1, prp2, ..Sqe::default() };
        let mut iovs = [EMPTY; 33];
        let mut sink = IovSink::new(&view, &mut iovs, false);
        prop_assert_eq!(walk(&view, &sqe, len as u32, &mut sink), Ok(()));
        let count = sink.count();
        prop_assert_eq!(&gather(&view, &iovs[..count]), &expected);
        let mut copied = vec![0; len];
        prop_assert_eq!(read_data(&view, &sqe, &mut copied), Ok(()));
        prop_assert_eq!(copied, expected);
    }
}

#[test]
fn neighbours_become_one_iov_and_others_do_not() {
    let pattern = patterned(8);
    let view = view_of([region_of(&pattern, 0, 0, 8 * PAGE)]);
    let mut iovs = [EMPTY; 4];
    let mut sink = IovSink::new(&view, &mut iovs, true);
    for gpa in [PAGE, 2 * PAGE, 3 * PAGE, 5 * PAGE, 4 * PAGE] {
        sink.push(gpa, 4096).expect("room");
    }
    assert_eq!(sink.count(), 3);
    assert_eq!(iovs.map(|iov| iov.iov_len), [3 * 4096, 4096, 4096, 0]);
}

#[test]
fn pieces_of_two_regions_stay_apart_even_where_their_memory_touches() {
    let file = patterned(1);
    // The system puts each new mapping right below the last one, where there is room: in the guest's order most of them
    // touch.
    let view = view_of((0..64).rev().map(|index| region_of(&file, 0, index * PAGE, PAGE)));
    let mut iovs = [EMPTY; 64];
    let mut sink = IovSink::new(&view, &mut iovs, true);
    sink.push(0, 64 * 4096).expect("room");
    assert_eq!(sink.count(), 64);
    assert!(iovs.iter().all(|iov| iov.iov_len == 4096), "{iovs:?}");
}

#[test]
fn an_iov_too_many_is_an_error_and_not_written() {
    let view = view_of([region_of(&file(8 * PAGE), 0, 0, 8 * PAGE)]);
    let mut iovs = [EMPTY; 1];
    let mut sink = IovSink::new(&view, &mut iovs, true);
    sink.push(0, 8).expect("room");
    assert_eq!(sink.push(16, 8), Err(DptrError::Invalid(Status::INVALID_NUMBER_OF_SGL_DESCRIPTORS)));
    assert_eq!(sink.push(8, 8), Ok(()));
    assert_eq!((sink.count(), iovs[0].iov_len), (1, 16));
    let mut none = IovSink::new(&view, &mut [], true);
    assert!(none.push(0, 8).is_err());
}

#[test]
fn data_where_there_is_no_memory_is_a_transfer_error_and_without_a_file_is_told_apart() {
    let readable = Extent::new(0, PAGE, PAGE, Access::ReadOnly)
        .and_then(|of| Region::map(file(PAGE).into(), of, |_| {}))
        .expect("a region");
    let view = view_of([without_file(0, PAGE), Arc::new(readable)]);
    let error = |gpa, len, write| IovSink::new(&view, &mut [EMPTY; 2], write).push(gpa, len).err();
    let transfer_error = Some(DptrError::Invalid(Status::DATA_TRANSFER_ERROR));
    assert_eq!(error(0, 8, true), Some(DptrError::NoFile));
    assert_eq!(error(PAGE, 8, false), None);
    assert_eq!(error(PAGE, 8, true), transfer_error);
    assert_eq!(error(2 * PAGE - 4, 8, false), transfer_error);
    assert_eq!(error(u64::MAX - 3, 8, false), transfer_error);
    assert_eq!(Status::from(DptrError::NoFile), Status::DATA_TRANSFER_ERROR);
}

#[test]
fn data_that_is_written_comes_back_by_another_pointer() {
    let view = view_of([region_of(&file(16 * PAGE), 0, 0, 16 * PAGE)]);
    let data: Vec<u8> = (0..6000_u32).map(|i| i as u8).collect();
    let prps = Sqe { prp1: PAGE + 0x800, prp2: 5 * PAGE, ..Sqe::default() };
    write_data(&view, &prps, &data).expect("2 pages");
    // The same as an SGL: a data block of each page.
    for (at, word) in [(0, PAGE + 0x800), (8, 0x800), (16, 5 * PAGE), (24, 6000 - 0x800)] {
        view.write(at, &u64::to_le_bytes(word)).expect("the segment");
    }
    let sgl = Sqe { flags: CommandFlags::SGL, prp1: 0, prp2: 0x30 << 56 | 32, ..Sqe::default() };
    let mut back = vec![0; data.len()];
    read_data(&view, &sgl, &mut back).expect("2 descriptors");
    assert_eq!(back, data);
}
