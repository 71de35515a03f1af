use std::os::unix::fs::FileExt;

use super::super::testing::{file, region_of, view_of};
use super::*;

/// Where the doorbells are in the file: where they are in BAR0.
const AT: u64 = OFFSET;

fn client(page: &DoorbellPage) -> File {
    File::from(page.file().try_clone().expect("a descriptor"))
}

#[test]
fn a_doorbell_that_the_client_rings_is_seen() {
    let page = DoorbellPage::new().expect("a page");
    client(&page).write_all_at(&0x1234_u32.to_le_bytes(), AT + 5 * 4).expect("written");
    assert_eq!((page.load(5), page.load(4), page.load(6)), (0x1234, 0, 0));
    page.store(5, 7);
    let mut back = [0; 4];
    client(&page).read_exact_at(&mut back, AT + 5 * 4).expect("read");
    assert_eq!(back, [7, 0, 0, 0]);
    page.clear();
    assert_eq!(page.load(5), 0);
}

#[test]
fn the_client_cannot_change_the_length_of_the_page() {
    let page = DoorbellPage::new().expect("a page");
    let file = client(&page);
    assert_eq!(file.set_len(0).map_err(|error| error.raw_os_error()), Err(Some(libc::EPERM)));
    assert_eq!(file.set_len(AT + 2 * PAGE).map_err(|error| error.raw_os_error()), Err(Some(libc::EPERM)));
    assert_eq!(file.metadata().map(|metadata| metadata.len()).ok(), Some(AT + PAGE));
}

#[test]
fn an_index_outside_of_the_page_reads_0_and_is_not_written() {
    let page = DoorbellPage::new().expect("a page");
    for index in [COUNT, COUNT + 1, usize::MAX] {
        page.store(index, 9);
        assert_eq!(page.load(index), 0);
    }
    page.store(COUNT - 1, 9);
    assert_eq!(page.load(COUNT - 1), 9);
}

#[test]
fn trapped_accesses_of_any_size_and_place_reach_their_bytes() {
    let page = DoorbellPage::new().expect("a page");
    let end = to_usize(PAGE);
    page.write_at(4, &[1, 2, 3, 4]);
    page.write_at(7, &[5, 6, 7, 8, 9, 10]);
    assert_eq!(page.load(1), 0x0503_0201);
    assert_eq!((page.load(2), page.load(3)), (0x0908_0706, 10));
    let mut back = [0xff; 8];
    page.read_at(6, &mut back);
    assert_eq!(back, [3, 5, 6, 7, 8, 9, 10, 0]);
    page.write_at(end - 2, &[1, 2, 3, 4]);
    page.read_at(end - 2, &mut back);
    assert_eq!(back, [1, 2, 0, 0, 0, 0, 0, 0]);
    page.write_at(usize::MAX, &[1, 2, 3, 4]);
    page.read_at(usize::MAX, &mut back);
    assert_eq!(back, [0; 8]);
    assert_eq!(page.load(0), 0);
}

#[test]
fn a_shadow_doorbell_is_the_guests_memory() {
    let memory = file(2 * PAGE);
    let region = region_of(&memory, 0, 0x8000, 2 * PAGE);
    let view = view_of([Arc::clone(&region)]);
    let shadow = ShadowDoorbells::resolve(&view, 0x9000).expect("a page");
    drop(view);
    memory.write_all_at(&[1, 0, 0, 0], PAGE + 12).expect("written");
    assert_eq!((shadow.load(3), shadow.load(2), shadow.load(COUNT)), (1, 0, 0));
    shadow.store(4, 0x0102_0304);
    shadow.store(COUNT, 5);
    let mut back = [0; 4];
    memory.read_exact_at(&mut back, PAGE + 16).expect("read");
    assert_eq!(back, [4, 3, 2, 1]);
    assert!(shadow.intersects(&(0x9fff..0xa000)) && !shadow.intersects(&(0x8000..0x9000)));
    assert_eq!(Arc::strong_count(&region), 2, "the page holds its region");
    memory.set_len(PAGE).expect("shrunk");
    assert_eq!(shadow.load(3), 0);
    assert!(shadow.is_poisoned());
}

#[test]
fn a_shadow_page_outside_of_the_guests_memory_is_refused() {
    let view = view_of([region_of(&file(PAGE), 0, 0x8000, PAGE)]);
    let resolve = |gpa| ShadowDoorbells::resolve(&view, gpa).err();
    assert_eq!(resolve(0x9000), Some(Fault::Unmapped));
    assert_eq!(resolve(0x8004), Some(Fault::Unaligned));
    assert_eq!(resolve(0x8000), None);
}
