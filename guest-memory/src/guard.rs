//! Keeps the process alive when a page of a mapped file cannot be had: the client has shrunk the file, or the memory is
//! broken.
//!
//! An access to such a page raises SIGBUS, in whatever thread and code makes it: ours, SPDK's, libc's. The handler
//! looks the address up, notes the page as poisoned, and puts anonymous zeroed memory in its place; then the access
//! succeeds. What it read is not the guest's data. So whoever has accessed guest memory asks afterwards whether a
//! poisoned page was among it (`is_poisoned`), and fails if so; and no address of a poisoned page is translated any
//! more. SIGBUS for other addresses goes to the handler that was there before.
//!
//! Only the page is replaced, or all that a shrunk file does not have any more. A region that goes on losing pages is
//! replaced as a whole: a mapping per page would let a client use up the mappings that a process may have.
#![expect(unsafe_code, reason = "a signal handler, and the memory that it replaces")]

use std::ffi::{c_int, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::RawFd;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::order::Span;

/// Entries that are made at once.
const CHUNK: usize = 256;

/// So many faults at one address in a row that is not ours, and the process dies: SPDK's handler comes back without
/// having mended anything, and the access would fault for ever.
const FUTILE: u32 = 1000;

/// So many times pages of one range are replaced; the next time, all of it is.
const PAGES: u32 = 4;

/// Poisoned ranges that can be told from one another at once.
const MAX_POISONED: usize = 1024;

/// One guarded range of host addresses, of length 0 while the entry is free. Written by who owns it; read by the
/// handler.
struct Entry {
    span: Span,
    /// The file whose end may move, or -1, and where the range begins in it.
    file: AtomicI32,
    offset: AtomicU64,
    /// How often something of the range was replaced.
    faults: AtomicU32,
    /// All of it was replaced, and there was no free [`PoisonedRange`] to note it in.
    unnoted: AtomicBool,
}

impl Entry {
    const fn new() -> Self {
        Self {
            span: empty(),
            file: AtomicI32::new(-1),
            offset: AtomicU64::new(0),
            faults: AtomicU32::new(0),
            unnoted: AtomicBool::new(false),
        }
    }

    /// Returns the guarded range, if `address` is in it. An entry that is changing is another region's: that of
    /// `address` is held by the thread that faulted.
    fn range_with(&self, address: usize) -> Option<Guarded> {
        let (start, len, page) = self.span.get()?;
        let offset = address.wrapping_sub(start);
        (offset < len).then(|| Guarded { start, len, page, first: offset & !page.wrapping_sub(1) })
    }

    /// Returns whether the file has shrunk so far that it has no byte at `offset` of the range any more.
    fn is_cut_off_at(&self, offset: usize) -> bool {
        let file = self.file.load(Ordering::Relaxed);
        if file < 0 {
            return false;
        }
        let mut stat = MaybeUninit::<libc::stat>::zeroed();
        // SAFETY: `stat` has room; fstat(2) may be called in a signal handler. The thread that faulted holds the
        // region, and with it the file.
        if unsafe { libc::fstat(file, stat.as_mut_ptr()) } != 0 {
            return false;
        }
        // SAFETY: fstat has filled it.
        let size = u64::try_from(unsafe { stat.assume_init() }.st_size).unwrap_or(0);
        self.offset.load(Ordering::Relaxed).saturating_add(offset as u64) >= size
    }
}

const fn empty() -> Span {
    Span {
        sequence: AtomicU32::new(0),
        start: AtomicUsize::new(0),
        len: AtomicUsize::new(0),
        page: AtomicUsize::new(0),
    }
}

/// A guarded range, its pages' size, and the offset in it of the page that faulted, in bytes.
struct Guarded {
    start: usize,
    len: usize,
    page: usize,
    first: usize,
}

/// A poisoned range. The thread that has taken it sets the range; it is freed with the entry whose range it lies in.
struct PoisonedRange {
    is_taken: AtomicBool,
    span: Span,
}

static POISON: [PoisonedRange; MAX_POISONED] =
    [const { PoisonedRange { is_taken: AtomicBool::new(false), span: empty() } }; MAX_POISONED];

/// How many poisoned ranges there are: as good as always none.
static POISONED: AtomicU32 = AtomicU32::new(0);

/// How many of these have no [`PoisonedRange`].
static UNNOTED: AtomicU32 = AtomicU32::new(0);

/// How often anything was replaced since the process began.
static FAULTS: AtomicU64 = AtomicU64::new(0);

/// Returns whether any of the `len` bytes at host address `start` may have been replaced. To be asked after they were
/// accessed, while their region is held: it then tells of whatever kept the access from being one to the guest's
/// memory.
#[inline]
pub(super) fn is_poisoned(start: usize, len: usize) -> bool {
    any() && touches(start, len)
}

/// Returns whether anything is poisoned.
#[inline]
#[must_use]
pub fn any() -> bool {
    // What was accessed before is not accessed after this. The page was noted before it was replaced.
    fence(Ordering::Acquire);
    POISONED.load(Ordering::Relaxed) != 0
}

/// Returns whether any of the `len` bytes at `start` is poisoned.
#[cold]
pub(super) fn touches(start: usize, len: usize) -> bool {
    let end = start.saturating_add(len);
    let is_in = |(poisoned, poisoned_len, _): (usize, usize, usize)| {
        poisoned < end && start < poisoned.saturating_add(poisoned_len)
    };
    POISON.iter().any(|poisoned| poisoned.is_taken.load(Ordering::Acquire) && poisoned.span.get().is_some_and(is_in))
        || (UNNOTED.load(Ordering::Relaxed) != 0
            && entries().any(|entry| entry.unnoted.load(Ordering::Acquire) && entry.span.get().is_some_and(is_in)))
}

/// Returns how often anything was replaced. Who has seen this count need not look for poisoned regions before it moves.
pub fn faults() -> u64 {
    FAULTS.load(Ordering::Acquire)
}

/// Entries live for ever: the handler may look at them at any time.
struct Chunk {
    entries: [Entry; CHUNK],
    next: AtomicPtr<Chunk>,
}

impl Chunk {
    const fn new() -> Self {
        Self { entries: [const { Entry::new() }; CHUNK], next: AtomicPtr::new(ptr::null_mut()) }
    }

    fn next(&self) -> Option<&'static Self> {
        // SAFETY: null, or a chunk that was leaked before it was linked here.
        unsafe { self.next.load(Ordering::Acquire).as_ref() }
    }
}

static FIRST: Chunk = Chunk::new();

fn entries() -> impl Iterator<Item = &'static Entry> {
    std::iter::successors(Some(&FIRST), |chunk| chunk.next()).flat_map(|chunk| &chunk.entries)
}

/// What only changes regions and installs the handler; the handler itself takes no lock.
struct GuardTable {
    installed: bool,
    free: Vec<&'static Entry>,
    last: Option<&'static Chunk>,
}

static GUARDS: Mutex<GuardTable> = Mutex::new(GuardTable { installed: false, free: Vec::new(), last: None });

fn guards() -> MutexGuard<'static, GuardTable> {
    GUARDS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A range that is guarded until this is dropped, which is to be before it is unmapped: another mapping may get the
/// addresses at once.
pub(super) struct Watch {
    entry: &'static Entry,
}

impl Watch {
    /// Guards the `len` bytes mapped at `start`, of a file with pages of `page` bytes, a power of two. `file` is that
    /// file if its end may move, open as long as this lives, and where the range begins in it.
    pub(super) fn new(start: usize, len: usize, page: usize, file: Option<(RawFd, u64)>) -> Self {
        let entry = take_entry(&mut guards());
        let (file, offset) = file.unwrap_or((-1, 0));
        entry.file.store(file, Ordering::Relaxed);
        entry.offset.store(offset, Ordering::Relaxed);
        entry.span.set(start, len, page);
        Self { entry }
    }

    /// Returns how often a part of the range was replaced.
    pub(super) fn faults(&self) -> u32 {
        self.entry.faults.load(Ordering::Acquire)
    }

    /// Returns whether all of the range was replaced, since it went on losing pages.
    pub(super) fn is_lost(&self) -> bool {
        self.faults() > PAGES
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Nobody has an address in the range any more: no handler runs for it.
        let span = self.entry.span.get();
        self.entry.span.set(0, 0, 0);
        let mut guards = guards();
        if self.faults() > 0 {
            forget_poison(self.entry, span.map_or(0..0, |(start, len, _)| start..start.saturating_add(len)));
        }
        guards.free.push(self.entry);
    }
}

/// What was poisoned in an entry's range is so no more: the addresses are to be another mapping's.
fn forget_poison(entry: &Entry, range: Range<usize>) {
    let is_here = |poisoned: &&PoisonedRange| {
        poisoned.is_taken.load(Ordering::Acquire)
            && poisoned.span.get().is_some_and(|(start, len, _)| len > 0 && range.contains(&start))
    };
    let mut gone = 0;
    for poisoned in POISON.iter().filter(is_here) {
        poisoned.span.set(0, 0, 0);
        poisoned.is_taken.store(false, Ordering::Release);
        gone += 1;
    }
    if entry.unnoted.swap(false, Ordering::Relaxed) {
        UNNOTED.fetch_sub(1, Ordering::Relaxed);
        gone += 1;
    }
    entry.faults.store(0, Ordering::Relaxed);
    POISONED.fetch_sub(gone, Ordering::Relaxed);
}

fn take_entry(guards: &mut GuardTable) -> &'static Entry {
    if let Some(entry) = guards.free.pop() {
        return entry;
    }
    let chunk = match guards.last {
        None => &FIRST,
        Some(last) => {
            let chunk: &'static Chunk = Box::leak(Box::new(Chunk::new()));
            last.next.store(ptr::from_ref(chunk).cast_mut(), Ordering::Release);
            chunk
        }
    };
    guards.last = Some(chunk);
    let [first, rest @ ..] = &chunk.entries;
    guards.free.extend(rest);
    first
}

/// The action before ours; null before the handler is installed.
static PREVIOUS: AtomicPtr<libc::sigaction> = AtomicPtr::new(ptr::null_mut());

/// Installs the handler, if that has not been done. [`super::Region::map`] does it too: a program that wants to know
/// early calls this.
///
/// SPDK and DPDK have handlers of SIGBUS of their own. One that is installed later is called first, and must call this.
///
/// # Errors
/// What sigaction(2) tells.
pub fn install() -> io::Result<()> {
    let mut guards = guards();
    if guards.installed {
        return Ok(());
    }
    // SAFETY: all zeros is a value of `sigaction`: no flags, the default action.
    let mut previous: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: only asks for the present action.
    if unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), &raw mut previous) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // The handler may run as soon as it is installed, and then wants this.
    let previous = Box::into_raw(Box::new(previous));
    PREVIOUS.store(previous, Ordering::Release);
    // SAFETY: as above.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // No SA_NODEFER: a fault within the handler is to kill. On the alternate stack, where the thread has one.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    action.sa_sigaction = on_sigbus as extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) as usize;
    // SAFETY: `on_sigbus` has the signature that SA_SIGINFO asks for and calls only what a signal handler may.
    if unsafe { libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) } != 0 {
        let error = io::Error::last_os_error();
        PREVIOUS.store(ptr::null_mut(), Ordering::Release);
        // SAFETY: made by `Box::into_raw` above; the handler that would use it is not installed.
        drop(unsafe { Box::from_raw(previous) });
        return Err(error);
    }
    guards.installed = true;
    Ok(())
}

extern "C" fn on_sigbus(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the address of this thread's errno, which the interrupted code may be about to read.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let saved = unsafe { *errno };
    // SAFETY: the kernel gives a handler with SA_SIGINFO a valid `info`.
    let code = unsafe { (*info).si_code };
    let is_access = matches!(code, libc::BUS_ADRERR | libc::BUS_OBJERR | libc::BUS_MCEERR_AR);
    // SAFETY: as above; the codes of an access come with an address.
    let address = if is_access { unsafe { (*info).si_addr().addr() } } else { 0 };
    // Broken memory that nobody has accessed yet: whoever does gets a signal of its own.
    let is_early = code == libc::BUS_MCEERR_AO;
    if !(is_early || is_access && replace(address)) {
        // SAFETY: called with what the kernel gave.
        unsafe { chain(signal, info, context, code, address) };
    }
    // SAFETY: as above.
    unsafe { *errno = saved };
}

/// Puts zeros where `address` is, if it is in a guarded range, and notes what was there as poisoned.
fn replace(address: usize) -> bool {
    let found = entries().find_map(|entry| Some((entry, entry.range_with(address)?)));
    let Some((entry, Guarded { start, len, page, first })) = found else { return false };
    // Noted before it is replaced: who finds the zeros finds the note.
    let faults = entry.faults.fetch_add(1, Ordering::AcqRel);
    let lost = if faults >= PAGES {
        0..len
    } else if entry.is_cut_off_at(first) {
        first..len
    } else {
        first..first.saturating_add(page).min(len)
    };
    let place = |part: &Range<usize>| (start.wrapping_add(part.start), part.end - part.start);
    let (at, bytes) = place(&lost);
    note(entry, at, bytes);
    if map_zeros(at, bytes) {
        return true;
    }
    // The whole range is one mapping, and can be replaced even when there may be no more mappings.
    entry.faults.store(PAGES + 1, Ordering::Release);
    note(entry, start, len);
    map_zeros(start, len)
}

/// Notes a range as poisoned.
fn note(entry: &Entry, start: usize, len: usize) {
    let take = |poisoned: &&PoisonedRange| !poisoned.is_taken.swap(true, Ordering::AcqRel);
    match POISON.iter().find(take) {
        Some(poisoned) => {
            poisoned.span.set(start, len, 1);
            POISONED.fetch_add(1, Ordering::Release);
        }
        // All of the entry's range then: no more of it can be told.
        None if !entry.unnoted.swap(true, Ordering::AcqRel) => {
            UNNOTED.fetch_add(1, Ordering::Release);
            POISONED.fetch_add(1, Ordering::Release);
        }
        None => {}
    }
    FAULTS.fetch_add(1, Ordering::Release);
}

fn map_zeros(start: usize, len: usize) -> bool {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
    let start = ptr::without_provenance_mut(start);
    // SAFETY: the range is within the mapping of a region whose `Watch` lives, as the thread that faulted in it holds
    // the region. Nothing but that region's shared memory is there, in which any value may appear at any time.
    unsafe { libc::mmap(start, len, protection, flags, -1, 0) != libc::MAP_FAILED }
}

/// Does as if this handler were not there; but a signal that was sent, and not ignored, kills.
///
/// # Safety
/// `signal`, `info` and `context` are the handler's, `code` and `address` are of `info`.
unsafe fn chain(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void, code: c_int, address: usize) {
    // SAFETY: never freed once the handler is installed.
    let previous = unsafe { PREVIOUS.load(Ordering::Acquire).as_ref() };
    let action = previous.map_or((libc::SIG_DFL, 0), |previous| (previous.sa_sigaction, previous.sa_flags));
    // Positive for what the kernel found, which happens again when the handler returns.
    let is_sent = code <= 0;
    match action {
        (libc::SIG_IGN, _) if is_sent => {}
        // A handler that finds no fault of its own may restore the default action, as the standard library's does:
        // ours would be gone, and the process would live on without its guard.
        _ if is_sent => die(signal, is_sent),
        (libc::SIG_DFL | libc::SIG_IGN, _) => die(signal, is_sent),
        _ if note_repeat(address) => die(signal, is_sent),
        (handler, flags) if flags & libc::SA_SIGINFO != 0 => {
            // SAFETY: whoever installed `handler` with SA_SIGINFO gave a function of this signature.
            let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) =
                unsafe { std::mem::transmute(handler) };
            handler(signal, info, context);
        }
        (handler, _) => {
            // SAFETY: whoever installed `handler` without SA_SIGINFO gave a function of this signature.
            let handler: extern "C" fn(c_int) = unsafe { std::mem::transmute(handler) };
            handler(signal);
        }
    }
}

/// Notes that the handler before ours is asked for this address. Returns whether it has been asked too often.
fn note_repeat(address: usize) -> bool {
    static ADDRESS: AtomicUsize = AtomicUsize::new(0);
    static REPEATED: AtomicU32 = AtomicU32::new(0);
    if ADDRESS.swap(address, Ordering::Relaxed) != address {
        REPEATED.store(0, Ordering::Relaxed);
    }
    REPEATED.fetch_add(1, Ordering::Relaxed) >= FUTILE
}

/// Restores the default action, which kills: when the access is made again, or by the signal that is sent again.
fn die(signal: c_int, is_sent: bool) {
    // SAFETY: both functions may be called in a signal handler; the signal is blocked until it returns.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        if is_sent {
            libc::raise(signal);
        }
    }
}

#[cfg(test)]
mod tests;
