use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc;

use super::super::testing::{PAGE, file, patterned, region_of, view_of};
use super::super::{Fault, GuestMemory, memfd};
use super::*;

fn map(file: impl Into<OwnedFd>, offset: u64, gpa: u64, len: u64) -> Result<Region, MapError> {
    Extent::new(offset, gpa, len, Access::ReadWrite).and_then(|of| Region::map(file.into(), of, |_| {}))
}

#[test]
fn a_region_shows_its_part_of_the_file() {
    let file = patterned(8);
    let view = view_of([region_of(&file, 2 * PAGE, 0x10_0000, 3 * PAGE)]);
    let mut word = [0; 8];
    view.read(0x10_0000 + PAGE, &mut word).expect("mapped");
    assert_eq!(u64::from_le_bytes(word), 3 * PAGE);
}

#[test]
fn what_is_written_to_a_region_is_in_the_file() {
    let file = file(2 * PAGE);
    let view = view_of([region_of(&file, 0, 0, 2 * PAGE)]);
    view.write(PAGE - 3, b"abcdef").expect("mapped");
    let mut back = [0; 6];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut back, PAGE - 3).expect("in the file");
    assert_eq!(&back, b"abcdef");
}

#[test]
fn large_pages_of_a_file_have_room_as_such_where_it_is_mapped() {
    const LARGE: usize = 2 << 20;
    let file = file(16 << 20);
    for offset in [0, PAGE, 3 * PAGE, 2 << 20, (4 << 20) - PAGE] {
        let region = map(file.try_clone().expect("a descriptor"), offset, 0, 4 << 20).expect("mapped");
        let host = region.host().expect("it has a file");
        let host = host.0.addr().get();
        assert_eq!(host % LARGE, to_usize(offset) % LARGE, "at {offset:#x}");
    }
}

#[test]
fn a_region_past_the_end_of_its_file_is_refused_and_told_how_to_do_it() {
    let error = map(file(4 * PAGE), PAGE, 0, 4 * PAGE).expect_err("too long");
    assert!(matches!(error, MapError::BeyondFile { offset: 4096, len: 16384, size: 16384 }), "{error:?}");
    let told = error.to_string();
    assert!(told.contains("0x4000 bytes") && told.contains("-g"), "{told}");
    assert_eq!(error.errno(), libc::EINVAL);
}

#[test]
fn a_range_that_is_empty_unaligned_or_wraps_is_refused() {
    let huge = u64::MAX - 0xfff;
    assert!(matches!(map(file(PAGE), 0, 0, 0), Err(MapError::Empty { gpa: 0 })));
    assert!(matches!(map(file(PAGE), 0, 8, PAGE), Err(MapError::Unaligned { what: "guest address", value: 8 })));
    assert!(matches!(map(file(PAGE), 0, 0, 8), Err(MapError::Unaligned { what: "length", value: 8 })));
    assert!(matches!(map(file(PAGE), 512, 0, PAGE), Err(MapError::Unaligned { value: 512, .. })));
    assert!(matches!(map(file(PAGE), 0, huge, PAGE), Err(MapError::AddressWraps { .. })));
    assert!(matches!(map(file(PAGE), huge, 0, PAGE), Err(MapError::OffsetWraps { .. })));
    assert!(matches!(map(file(PAGE), huge - PAGE, 0, PAGE), Err(MapError::BeyondFile { .. })));
    assert!(matches!(map(file(PAGE), 0, PAGE, huge), Err(MapError::AddressWraps { .. })));
    let without = Region::without_file(0, 0, Access::ReadWrite, |_| {});
    assert!(matches!(without, Err(MapError::Empty { gpa: 0 })));
}

#[test]
fn a_file_that_is_no_file_of_memory_is_refused() {
    let (socket, _other) = UnixStream::pair().expect("sockets");
    let (pipe, _writer) = io::pipe().expect("a pipe");
    assert!(matches!(map(socket, 0, 0, PAGE), Err(MapError::NotAFile { what: "a socket" })));
    assert!(matches!(map(pipe, 0, 0, PAGE), Err(MapError::NotAFile { what: "a pipe" })));
    let open = |path: &str| File::open(path).expect(path);
    assert!(matches!(map(open("/"), 0, 0, PAGE), Err(MapError::NotAFile { what: "a directory" })));
    assert!(matches!(map(open("/dev/zero"), 0, 0, PAGE), Err(MapError::NotAFile { what: "a character device" })));
    assert!(matches!(map(open("/proc/self/maps"), 0, 0, PAGE), Err(MapError::BeyondFile { size: 0, .. })));
    let in_sysfs = map(open("/sys/kernel/mm/transparent_hugepage/enabled"), 0, 0, PAGE);
    assert!(matches!(in_sysfs, Err(MapError::NotMemory { .. })), "{in_sysfs:?}");
}

#[test]
fn a_file_that_may_not_be_written_is_mapped_for_reading_only() {
    let path = format!("/dev/shm/courier-test-{}", std::process::id());
    File::create_new(&path).and_then(|file| file.set_len(PAGE)).expect("a file");
    let (writeable, readable) = (File::open(&path).expect("opened"), File::open(&path).expect("opened"));
    std::fs::remove_file(&path).expect("removed");
    let refused = map(writeable, 0, 0, PAGE).expect_err("the file is not open for writing");
    assert_eq!(refused.errno(), libc::EACCES);
    let region = Extent::new(0, 0, PAGE, Access::ReadOnly)
        .and_then(|of| Region::map(readable.into(), of, |_| {}))
        .expect("a region");
    let view = view_of([Arc::new(region)]);
    assert_eq!(view.read(0, &mut [0; 8]), Ok(()));
    assert_eq!(view.write(0, &[0; 8]), Err(Fault::ReadOnly));
}

#[test]
fn memory_without_a_file_is_known_but_not_translated() {
    let region = Region::without_file(0, PAGE, Access::ReadWrite, |_| {}).expect("a region");
    assert!(!region.has_file() && region.is_intact());
    let view = view_of([Arc::new(region)]);
    assert_eq!(view.translate(0, 8, false), Err(Fault::NoFile));
    assert_eq!(view.translate(PAGE, 8, false), Err(Fault::Unmapped));
}

#[test]
fn the_last_holder_unmaps_then_notifies_once() {
    let (sender, receiver) = mpsc::channel();
    let file = file(PAGE);
    let told = move |id| sender.send(id).expect("somebody listens");
    let region =
        Extent::new(0, 0, PAGE, Access::ReadWrite).and_then(|of| Region::map(file.into(), of, told)).expect("a region");
    let (id, region) = (region.id(), Arc::new(region));
    let memory = GuestMemory::new().with(Arc::clone(&region)).expect("room");
    let held = memory.clone();
    drop((memory, region));
    assert_eq!(receiver.try_recv(), Err(mpsc::TryRecvError::Empty), "somebody holds it");
    std::thread::spawn(|| drop(held)).join().expect("dropped on another thread");
    assert_eq!(receiver.try_recv(), Ok(id));
    assert_eq!(receiver.try_recv(), Err(mpsc::TryRecvError::Disconnected));
}

#[test]
fn a_region_whose_file_was_shrunk_is_not_intact() {
    let file = file(4 * PAGE);
    let region = region_of(&file, PAGE, 0, 2 * PAGE);
    assert!(region.is_intact());
    file.set_len(3 * PAGE).expect("shrunk, behind the region");
    assert!(region.is_intact());
    file.set_len(2 * PAGE).expect("shrunk, within the region");
    assert!(!region.is_intact() && !region.is_poisoned());
}

#[test]
fn a_part_of_a_huge_page_is_mapped() {
    const HUGE: u64 = 2 << 20;
    let Ok(file) = memfd::create(c"courier-test", 2 * HUGE, libc::MFD_HUGETLB | libc::MFD_HUGE_2MB) else {
        eprintln!("no file of huge pages is to be had: not tested");
        return;
    };
    let descriptor = || file.try_clone().expect("a descriptor");
    let whole = match map(descriptor(), 0, 0, 2 * HUGE) {
        Ok(region) => region,
        Err(error) => {
            assert_eq!(error.errno(), libc::ENOMEM, "{error}");
            eprintln!("no huge pages are free: not tested");
            return;
        }
    };
    // As QEMU does with the memory above the video memory.
    let part = map(descriptor(), HUGE + 0xc_0000, 0x4000_0000, 0x8000).expect("a part of the second page");
    let view = view_of([Arc::new(whole), Arc::new(part)]);
    view.write(0x4000_0010, b"courier").expect("mapped");
    let mut back = [0; 7];
    view.read(HUGE + 0xc_0010, &mut back).expect("mapped");
    assert_eq!(&back, b"courier");
    file.set_len(HUGE).expect("shrunk");
    assert_eq!(view.read(0x4000_0010, &mut back), Err(Fault::Poisoned));
    assert_eq!(view.translate(0x4000_0010, 7, false), Err(Fault::Poisoned));
}

#[test]
fn a_region_that_is_populated_has_its_pages_before_they_are_used() {
    let file = file(64 * PAGE);
    let region = region_of(&file, 0, 0, 64 * PAGE);
    let blocks = || std::os::unix::fs::MetadataExt::blocks(&file.metadata().expect("a file"));
    assert_eq!(blocks(), 0);
    let other = Arc::clone(&region);
    region.populate();
    assert_eq!(blocks() * 512, 64 * PAGE);
    drop(other);
}

#[test]
fn devices_are_told_of_a_file_once_and_forget_it_before_it_is_unmapped() {
    struct Known(Arc<dyn HostMemory>, mpsc::Sender<usize>);
    impl Drop for Known {
        fn drop(&mut self) {
            self.1.send(self.0.len()).expect("the test listens");
        }
    }
    let (sender, receiver) = mpsc::channel();
    let (gone, was_unmapped) = mpsc::channel();
    let on_drop = move |_| gone.send(()).expect("the test listens");
    let region = Extent::new(PAGE, 0, 2 * PAGE, Access::ReadWrite)
        .and_then(|of| Region::map(file(4 * PAGE).into(), of, on_drop))
        .expect("mapped");
    assert_eq!(region.register(|_| Err::<Registration, _>(7)), Err(7));
    let know = |memory: Arc<dyn HostMemory>| {
        assert_eq!((memory.start(), memory.len() as u64), (region.host().expect("a file").0, 2 * PAGE));
        Ok::<Registration, i32>(Box::new(Known(memory, sender.clone())))
    };
    assert_eq!(region.register(know), Ok(()));
    assert_eq!(region.register(|_| Err(8)), Ok(()), "they know it");
    assert!(receiver.try_recv().is_err());
    drop(region);
    assert_eq!((receiver.try_recv(), was_unmapped.try_recv()), (Ok(8192), Ok(())));
}

#[test]
fn devices_are_not_told_of_what_may_only_be_read_or_has_no_file() {
    let of = Extent::new(0, 0, PAGE, Access::ReadOnly).expect("pages");
    let read_only = Region::map(file(PAGE).into(), of, |_| {}).expect("mapped");
    let without_file = Region::without_file(0, PAGE, Access::ReadWrite, |_| {}).expect("a region");
    for region in [read_only, without_file] {
        assert_eq!(region.register(|_| Err(7)), Ok(()));
    }
}
