//! For tests that a thread asks for no memory: the system's allocator, which counts what each thread asks of it.
//!
//! A test's program names it as its own: `#[global_allocator] static COUNTING: Counting = Counting;`.
#![expect(unsafe_code, reason = "an allocator")]
#![expect(clippy::undocumented_unsafe_blocks, reason = "one comment is for all of the functions")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

/// Returns how often this thread has asked for memory, or for more or less of it.
#[must_use]
pub fn calls() -> u64 {
    CALLS.get()
}

fn count() {
    CALLS.set(CALLS.get() + 1);
}

/// The system's allocator, with what is asked of it counted. What is freed is not.
#[derive(Debug, Clone, Copy)]
pub struct Counting;

// SAFETY: everything is done by the system's allocator; counting touches nothing but a thread-local variable that is
// there from the start.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        unsafe { System.realloc(old, layout, size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        unsafe { System.dealloc(old, layout) }
    }
}
