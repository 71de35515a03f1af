//! Memory that is registered with SPDK.
#![expect(unsafe_code, reason = "it is what registers memory")]

mod harness;

use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::thread;

use host_memory::HostMemory;
use serial_test::serial;
use spdk::Errno;
use spdk::memory::{PAGE, Registration};

const LEN: usize = 4 << 20;

/// Memory that goes with its owner.
struct Mapped(NonNull<u8>);

// SAFETY: only an address, which nobody follows.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}

/// `len` bytes of it from `offset` on.
struct Part {
    of: Arc<Mapped>,
    offset: usize,
    len: usize,
}

// SAFETY: the bytes are mapped for as long as `of` lives.
unsafe impl HostMemory for Part {
    fn start(&self) -> NonNull<u8> {
        // SAFETY: `register` has made sure that it is within.
        unsafe { self.of.0.add(self.offset) }
    }

    fn len(&self) -> usize {
        self.len
    }
}

impl Mapped {
    fn new() -> Arc<Self> {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: the kernel chooses the place, where nothing is.
        let start = unsafe { libc::mmap(ptr::null_mut(), LEN, protection, flags, -1, 0) };
        assert_ne!(start, libc::MAP_FAILED, "memory can be had");
        Arc::new(Self(NonNull::new(start.cast()).expect("not at 0")))
    }

    /// Registers `len` bytes from `offset` on, which must be within.
    fn register(self: &Arc<Self>, offset: usize, len: usize) -> Result<Registration, Errno> {
        assert!(offset + len <= LEN);
        Registration::new(Arc::new(Part { of: Arc::clone(self), offset, len }))
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own.
        unsafe { libc::munmap(self.0.as_ptr().cast(), LEN) };
    }
}

#[test]
#[serial]
fn memory_is_registered_once_at_a_time_from_any_thread() {
    harness::start("0x1", || ());
    let memory = Mapped::new();
    let whole = memory.register(0, LEN).expect("it can be registered");
    assert_eq!(memory.register(0, LEN).err(), Some(Errno::BUSY));
    assert_eq!(memory.register(PAGE, PAGE).err(), Some(Errno::BUSY));
    thread::spawn(move || drop(whole)).join().expect("it can be dropped anywhere");
    let parts: Vec<_> = [(PAGE, PAGE), (2 * PAGE, (2 << 20) + PAGE)]
        .into_iter()
        .map(|(offset, len)| memory.register(offset, len).expect("any page is a beginning and an end"))
        .collect();
    assert_eq!(memory.register(0, LEN).err(), Some(Errno::BUSY));
    drop(parts);
    memory.register(0, LEN).expect("nothing of it is registered any more");
}

#[test]
#[serial]
fn memory_stays_mapped_until_its_registration_is_gone() {
    harness::start("0x1", || ());
    let memory = Mapped::new();
    let mapped = Arc::downgrade(&memory);
    let registration = memory.register(0, LEN).expect("it can be registered");
    drop(memory);
    assert!(mapped.upgrade().is_some(), "devices may still write there");
    drop(registration);
    assert!(mapped.upgrade().is_none());
}

#[test]
#[serial]
fn a_range_that_is_empty_or_no_whole_pages_is_refused() {
    harness::start("0x1", || ());
    let memory = Mapped::new();
    for (offset, len) in [(0, 0), (0, 512), (512, PAGE), (PAGE, PAGE + 1)] {
        assert_eq!(memory.register(offset, len).err(), Some(Errno::INVAL), "{len} bytes at {offset}");
    }
}
