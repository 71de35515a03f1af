//! No allocation per I/O: while reads, writes and unmaps go through the bdev layer, the module and NVMe/TCP, the
//! reactor's thread calls neither Rust's allocator nor C's.
//!
//! This program has the C library's allocation functions in its own place, so that SPDK's calls are counted as well;
//! that is why it holds this one test only. What is freed is not counted: SPDK frees an ended poller when its time
//! comes, and nothing can be freed for each I/O that was not allocated for it.
#![expect(unsafe_code, reason = "replacing the C library's allocator")]
#![expect(clippy::undocumented_unsafe_blocks, reason = "one comment is for all of the functions")]

mod common;

use std::cell::Cell;
use std::ffi::{c_int, c_void};

use counting_allocator::Counting;
use spdk::bdev_client::Op;

use common::disk::Disk;
use common::harness::{from_app, on_app};
use common::load::{self, Plan, Tally};
use common::target::{NS_512, NS_4096};
use common::{POOL, rig};

const WARM_UP: u64 = 5_000;
const COUNTED: u64 = 100_000;
const DEPTH: u64 = 32;

thread_local! {
    /// What this thread has asked of C's allocator.
    static C_CALLS: Cell<u64> = const { Cell::new(0) };
    /// What it has asked of both, after the warm-up and at the end.
    static MARKS: Cell<[(u64, u64); 2]> = const { Cell::new([(0, 0); 2]) };
}

fn count() {
    C_CALLS.set(C_CALLS.get() + 1);
}

/// Returns what this thread has asked of C's allocator, and of Rust's.
fn calls() -> (u64, u64) {
    (C_CALLS.get(), counting_allocator::calls())
}

unsafe extern "C" {
    fn __libc_malloc(size: usize) -> *mut c_void;
    fn __libc_calloc(count: usize, size: usize) -> *mut c_void;
    fn __libc_realloc(old: *mut c_void, size: usize) -> *mut c_void;
    fn __libc_memalign(align: usize, size: usize) -> *mut c_void;
}

// SAFETY, of all of these: each does what the function of that name does, by calling the C library's own under its
// other name; counting touches nothing but a thread-local variable that is there from the start.

#[unsafe(no_mangle)]
unsafe extern "C" fn malloc(size: usize) -> *mut c_void {
    count();
    unsafe { __libc_malloc(size) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn calloc(number: usize, size: usize) -> *mut c_void {
    count();
    unsafe { __libc_calloc(number, size) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn realloc(old: *mut c_void, size: usize) -> *mut c_void {
    count();
    unsafe { __libc_realloc(old, size) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memalign(align: usize, size: usize) -> *mut c_void {
    count();
    unsafe { __libc_memalign(align, size) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn aligned_alloc(align: usize, size: usize) -> *mut c_void {
    count();
    unsafe { __libc_memalign(align, size) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn posix_memalign(out: *mut *mut c_void, align: usize, size: usize) -> c_int {
    count();
    if !align.is_power_of_two() || !align.is_multiple_of(size_of::<*mut c_void>()) {
        return libc::EINVAL;
    }
    let memory = unsafe { __libc_memalign(align, size) };
    if memory.is_null() {
        return libc::ENOMEM;
    }
    unsafe { out.write(memory) };
    0
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn watch(ended: u64) {
    let mut marks = MARKS.get();
    match ended {
        WARM_UP => marks[0] = calls(),
        ended if ended == WARM_UP + COUNTED => marks[1] = calls(),
        _ => return,
    }
    MARKS.set(marks);
}

/// Returns what the reactor's thread asked of C's and of Rust's allocator during the counted I/Os.
fn calls_during(nsid: u32, ops: &'static [Op], pieces: usize, blocks: u64) -> (u64, u64) {
    let bdev = rig().bdev(POOL, nsid);
    let disk = Disk::open(&bdev.name);
    let (desc, block_size) = (disk.desc(), disk.block_size);
    // The last ones, which end with no other sent in their place, are not counted.
    let total = WARM_UP + COUNTED + DEPTH;
    let plan = Plan { depth: DEPTH, total, ops, pieces, blocks, first: 0, places: 500, block_size, watch };
    let (tally, marks) = from_app(move |tell| {
        let channel = desc.channel().expect("a channel");
        let finish = move |tally| tell.send((tally, MARKS.get())).expect("somebody waits");
        load::run(channel, plan, 1, finish).expect("memory for the buffers");
    });
    assert_eq!(tally, Tally { succeeded: total, failed: 0, refused: 0 });
    assert!(marks[0].0 > 0, "setting up did allocate");
    (marks[1].0 - marks[0].0, marks[1].1 - marks[0].1)
}

#[test]
fn a_hundred_thousand_ios_allocate_nothing() {
    rig();
    the_counter_counts();
    for (what, nsid, ops, pieces, blocks) in [
        ("reads and writes of 4 KiB in a piece", NS_512, &[Op::Read, Op::Write][..], 1, 8),
        ("reads and writes of 8 KiB in 16 pieces", NS_512, &[Op::Read, Op::Write], 16, 16),
        ("reads, writes, unmaps and write zeroes", NS_4096, &[Op::Read, Op::Write, Op::Unmap, Op::WriteZeroes], 4, 1),
    ] {
        assert_eq!(calls_during(nsid, ops, pieces, blocks), (0, 0), "calls to C's and to Rust's allocator by {what}");
    }
}

/// What the test rests on: both allocators are seen, SPDK's use of C's among them.
fn the_counter_counts() {
    let (c, rust, spdk) = on_app(|| {
        let before = calls();
        drop(std::hint::black_box(Box::new(1_u64)));
        let boxed = calls();
        // SAFETY: what was allocated is freed.
        unsafe { libc::free(std::hint::black_box(libc::malloc(100))) };
        let allocated = calls();
        // SPDK keeps its threads, among other things, in C's memory.
        let thread = spdk::thread::OwnedThread::on_core("counted", 0);
        let made = calls();
        drop(thread);
        (allocated.0 - boxed.0, boxed.1 - before.1, made.0 - allocated.0 - (made.1 - allocated.1))
    });
    assert_eq!((c, rust), (1, 1));
    assert!(spdk > 0, "SPDK's own calls are counted");
}
