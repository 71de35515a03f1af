//! Memory for the places of a session's I/Os.
//!
//! It is reserved by who makes the session, and given back to the system by who looks after that. A queue that is made
//! or freed meanwhile takes a part of it, or puts one back, without a call of the system: for one that maps or unmaps
//! memory it would wait for a lock that any thread of the process may hold for long, and it is on a reactor.
#![expect(unsafe_code, reason = "memory is taken from the system, and handed out in parts")]

use std::alloc::{self, Layout};
use std::io;
use std::iter;
use std::ops::Range;
use std::ptr::{self, NonNull};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::host::{HostPtr, PAGE, to_usize};

/// What the beginnings and lengths of parts are multiples of: the length of a cache line.
pub(super) const ALIGN: usize = 64;

/// Address space for the places of a session's I/Os. Only what is used of it becomes resident. What a queue leaves stays
/// so until [`trim`](Self::trim).
pub struct QueueMemory {
    start: HostPtr,
    len: usize,
    parts: Mutex<Parts>,
}

/// What is not handed out: what was never used, or is as if it never was, and what queues have left.
#[derive(Debug, PartialEq, Eq)]
struct Parts {
    unused: FreeParts,
    left: FreeParts,
}

impl QueueMemory {
    /// Reserves room for so many bytes. None of it is resident yet.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn reserve(bytes: usize) -> io::Result<Arc<Self>> {
        let page = to_usize(PAGE);
        let len = bytes.max(1).checked_next_multiple_of(page).ok_or(io::ErrorKind::OutOfMemory)?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | if cfg!(miri) { 0 } else { libc::MAP_NORESERVE };
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the kernel chooses the place, where nothing is.
        let start = unsafe { libc::mmap(ptr::null_mut(), len, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start: NonNull<u8> = NonNull::new(start.cast()).ok_or(io::ErrorKind::AddrInUse)?;
        if cfg!(not(miri)) {
            // The first byte that is used would else make 2 MiB resident. Where it is not known, there are no such pages.
            // SAFETY: the range is the mapping; this changes nothing that is in it.
            unsafe { libc::madvise(start.as_ptr().cast(), len, libc::MADV_NOHUGEPAGE) };
        }
        let parts = Parts { unused: FreeParts::new(len), left: FreeParts::default() };
        Ok(Arc::new(Self { start: HostPtr(start), len, parts: Mutex::new(parts) }))
    }

    /// Returns whether there is something to [`trim`](Self::trim).
    #[must_use]
    pub fn has_left(&self) -> bool {
        !self.parts().left.0.is_empty()
    }

    /// Gives the memory that queues have left back to the system; its addresses stay. That may wait for other threads.
    pub fn trim(&self) {
        let take = || self.parts().left.0.pop();
        while let Some(part) = take() {
            self.forget(&part);
            self.parts().unused.put_back(part);
        }
    }

    /// Has a part, which nobody has, be zeros that are not resident, but for the pages that it shares with others.
    fn forget(&self, part: &Range<usize>) {
        let page = to_usize(PAGE);
        let (begin, end) = (part.start.next_multiple_of(page), part.end / page * page);
        if begin < end && cfg!(not(miri)) {
            // SAFETY: the pages are of a part of the mapping that is taken out of the lists, and handed out to nobody.
            unsafe { libc::madvise(self.start.0.add(begin).as_ptr().cast(), end - begin, libc::MADV_DONTNEED) };
        }
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        // The lists are whole whatever their last user has met with.
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for QueueMemory {
    fn drop(&mut self) {
        // SAFETY: it is the mapping that `reserve` made; whoever had a part of it also held this value.
        unsafe { libc::munmap(self.start.0.as_ptr().cast(), self.len) };
    }
}

impl std::fmt::Debug for QueueMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueueMemory").field("len", &self.len).finish_non_exhaustive()
    }
}

impl Parts {
    /// Takes a part of so many bytes: one that was left, which has pages, or else one that was not used.
    fn take(&mut self, bytes: usize) -> Option<Range<usize>> {
        self.left.take(bytes).or_else(|| self.unused.take(bytes))
    }
}

/// Parts by their beginnings, none of which touches the next.
#[derive(Debug, Default, PartialEq, Eq)]
struct FreeParts(Vec<Range<usize>>);

impl FreeParts {
    fn new(len: usize) -> Self {
        Self(iter::once(0..len).collect())
    }

    /// Takes the first part that has so many bytes.
    fn take(&mut self, bytes: usize) -> Option<Range<usize>> {
        let at = self.0.iter().position(|part| part.len() >= bytes)?;
        let part = self.0.get_mut(at)?;
        let taken = part.start..part.start.checked_add(bytes)?;
        part.start = taken.end;
        if part.start == part.end {
            self.0.remove(at);
        }
        Some(taken)
    }

    /// Puts back what was taken.
    fn put_back(&mut self, part: Range<usize>) {
        let at = self.0.partition_point(|before| before.start < part.start);
        self.0.insert(at, part);
        self.0.dedup_by(|next, before| {
            let touches = before.end == next.start;
            if touches {
                before.end = next.end;
            }
            touches
        });
    }
}

/// A part of a session's memory, or a block of the allocator's. It has been written to before, or is zeros: each byte is
/// initialised in any case.
pub(super) struct QueueBlock {
    start: NonNull<u128>,
    owner: Owner,
}

enum Owner {
    Session(Arc<QueueMemory>, Range<usize>),
    Allocator(Layout),
}

impl QueueBlock {
    /// Returns a block of so many bytes: of `memory`, if that is given and has as many. Its beginning is a multiple of
    /// 16 at least.
    pub(super) fn new(memory: Option<&Arc<QueueMemory>>, bytes: usize) -> Self {
        let bytes = bytes.max(1).next_multiple_of(ALIGN);
        memory.and_then(|memory| Self::of(memory, bytes)).unwrap_or_else(|| Self::of_allocator(bytes))
    }

    fn of(memory: &Arc<QueueMemory>, bytes: usize) -> Option<Self> {
        let part = memory.parts().take(bytes)?;
        // SAFETY: the part is within the mapping, which is there for as long as `memory`.
        let start = unsafe { memory.start.0.add(part.start) };
        Some(Self { start: start.cast(), owner: Owner::Session(Arc::clone(memory), part) })
    }

    fn of_allocator(bytes: usize) -> Self {
        let Ok(layout) = Layout::from_size_align(bytes, 16) else { alloc::handle_alloc_error(Layout::new::<u128>()) };
        // SAFETY: the layout has bytes.
        let start = unsafe { alloc::alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { alloc::handle_alloc_error(layout) };
        Self { start: start.cast(), owner: Owner::Allocator(layout) }
    }

    /// Returns where it begins.
    pub(super) fn start(&self) -> NonNull<u128> {
        self.start
    }
}

impl Drop for QueueBlock {
    fn drop(&mut self) {
        match &self.owner {
            Owner::Session(memory, part) => memory.parts().left.put_back(part.clone()),
            // SAFETY: it came from the allocator with this layout, and is given back once.
            Owner::Allocator(layout) => unsafe { alloc::dealloc(self.start.cast().as_ptr(), *layout) },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::{MAX_PIECES, Slots};

    fn addr(block: &QueueBlock) -> usize {
        block.start().addr().get()
    }

    #[test]
    fn parts_that_are_put_back_become_one_again_whatever_the_order() {
        for order in [[0, 1, 2], [2, 1, 0], [0, 2, 1], [1, 0, 2]] {
            let mut free = FreeParts::new(300);
            let parts: Vec<_> = (0..3).map(|_| free.take(100).expect("there is room")).collect();
            assert_eq!((parts[1].clone(), free.take(1)), (100..200, None));
            for index in order {
                free.put_back(parts[index].clone());
            }
            assert_eq!(free, FreeParts::new(300), "{order:?}");
        }
    }

    #[test]
    fn a_queue_that_finds_no_room_in_its_sessions_memory_has_a_block_of_its_own() {
        let memory = QueueMemory::reserve(4096).expect("memory");
        let inside = |block: &QueueBlock| addr(block).wrapping_sub(memory.start.0.addr().get()) < memory.len;
        let first = QueueBlock::new(Some(&memory), 4000);
        let second = QueueBlock::new(Some(&memory), 4000);
        assert!(inside(&first) && !inside(&second) && addr(&second).is_multiple_of(16));
        let at = addr(&first);
        drop(first);
        assert_eq!(addr(&QueueBlock::new(Some(&memory), 100)), at);
    }

    #[test]
    fn what_a_queue_has_left_is_the_next_ones_or_goes_back_to_the_system_and_can_be_used_again() {
        let memory = QueueMemory::reserve(8 * 4096).expect("memory");
        let block = QueueBlock::new(Some(&memory), 3 * 4096);
        let at = addr(&block);
        // SAFETY: the block has as many bytes, and nobody else has it.
        let fill = |block: &QueueBlock, value| unsafe { block.start().cast::<u8>().write_bytes(value, 3 * 4096) };
        // SAFETY: likewise.
        let last = |block: &QueueBlock| unsafe { block.start().cast::<u8>().add(3 * 4096 - 1).read() };
        fill(&block, 7);
        assert!(!memory.has_left());
        drop(block);
        let next = QueueBlock::new(Some(&memory), 3 * 4096);
        assert_eq!((addr(&next), last(&next), memory.has_left()), (at, 7, false));
        drop(next);
        assert!(memory.has_left());
        memory.trim();
        assert!(!memory.has_left());
        let after = QueueBlock::new(Some(&memory), 3 * 4096);
        assert_eq!((addr(&after), last(&after)), (at, if cfg!(miri) { 7 } else { 0 }));
        fill(&after, 8);
        assert_eq!(last(&after), 8);
    }

    #[test]
    fn the_memory_of_a_queue_that_ends_on_a_reactor_is_given_back_by_who_looks_after_the_session() {
        let bytes = Slots::<(), ()>::bytes(256);
        assert!(bytes > 256 * MAX_PIECES * 16);
        let memory = QueueMemory::reserve(bytes).expect("memory");
        let reactor = thread::spawn({
            let memory = Arc::clone(&memory);
            move || {
                let slots = Slots::new(Some(&memory), 256, (), || (), |_| {});
                drop((slots.take(), slots.take()));
            }
        });
        reactor.join().expect("a reactor");
        // The reactor has put it back, and nothing of it has gone.
        assert!(memory.has_left());
        assert_eq!(Arc::strong_count(&memory), 1);
        memory.trim();
        assert_eq!(memory.parts().unused, FreeParts::new(memory.len));
    }
}
