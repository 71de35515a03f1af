//! Keeps the process alive when a client shrinks a file of which a region is mapped.
//!
//! An access past the end of such a file raises SIGBUS, in whatever thread and code makes it: ours, SPDK's, libc's. The
//! handler looks the address up, puts anonymous zeroed memory in the place of the rest of the region, and marks the
//! region as poisoned; then the access succeeds. No address of a poisoned region is translated any more, so what was
//! in flight is all that is done to that memory. SIGBUS for other addresses goes to the handler that was there before.
//!
//! The rest of the region, not one page: a mapping per page would let a client use up the mappings that a process may
//! have.
#![expect(unsafe_code, reason = "a signal handler, and the memory that it replaces")]

use std::ffi::{c_int, c_void};
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::order::Span;

/// Entries that are made at once.
const CHUNK: usize = 256;

/// So many faults at one address in a row that is not ours, and the process dies: SPDK's handler comes back without
/// having mended anything, and the access would fault for ever.
const FUTILE: u32 = 1000;

/// One guarded range of host addresses, of length 0 while the entry is free. Written by who owns it; read by the handler.
struct Entry {
    span: Span,
    poisoned: AtomicBool,
}

impl Entry {
    const fn new() -> Self {
        let span = Span {
            sequence: AtomicU32::new(0),
            start: AtomicUsize::new(0),
            len: AtomicUsize::new(0),
            page: AtomicUsize::new(0),
        };
        Self { span, poisoned: AtomicBool::new(false) }
    }

    /// The page of `address` and what follows of the entry's range. An entry that is changing is another region's: that
    /// of `address` is held by the thread that faulted.
    fn rest_from(&self, address: usize) -> Option<Rest> {
        let (start, len, page) = self.span.get()?;
        let offset = address.wrapping_sub(start);
        if offset >= len {
            return None;
        }
        let first = offset & !page.wrapping_sub(1);
        Some(Rest { start, len, first })
    }
}

/// A range and the offset in it from which it is to be replaced, in bytes.
struct Rest {
    start: usize,
    len: usize,
    first: usize,
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

/// What only changes regions and installs the handler; the handler itself takes no lock.
struct Control {
    installed: bool,
    free: Vec<&'static Entry>,
    last: Option<&'static Chunk>,
}

static CONTROL: Mutex<Control> = Mutex::new(Control { installed: false, free: Vec::new(), last: None });

fn control() -> MutexGuard<'static, Control> {
    CONTROL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A range that is guarded until this is dropped, which is to be before it is unmapped: another mapping may get the
/// addresses at once.
pub(super) struct Watch {
    entry: &'static Entry,
}

impl Watch {
    /// Guards the `len` bytes mapped at `start`, of a file with pages of `page` bytes, a power of two.
    pub(super) fn new(start: usize, len: usize, page: usize) -> Self {
        let entry = take_entry(&mut control());
        entry.poisoned.store(false, Ordering::Relaxed);
        entry.span.set(start, len, page);
        Self { entry }
    }

    /// Whether a part of the range was replaced.
    pub(super) fn poisoned(&self) -> &'static AtomicBool {
        &self.entry.poisoned
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.entry.span.set(0, 0, 0);
        control().free.push(self.entry);
    }
}

fn take_entry(control: &mut Control) -> &'static Entry {
    if let Some(entry) = control.free.pop() {
        return entry;
    }
    let chunk = match control.last {
        None => &FIRST,
        Some(last) => {
            let chunk: &'static Chunk = Box::leak(Box::new(Chunk::new()));
            last.next.store(ptr::from_ref(chunk).cast_mut(), Ordering::Release);
            chunk
        }
    };
    control.last = Some(chunk);
    let [first, rest @ ..] = &chunk.entries;
    control.free.extend(rest);
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
    let mut control = control();
    if control.installed {
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
    control.installed = true;
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
    if !(is_access && replace(address)) {
        // SAFETY: called with what the kernel gave.
        unsafe { pass_on(signal, info, context, code, address) };
    }
    // SAFETY: as above.
    unsafe { *errno = saved };
}

/// Puts zeros where `address` is and after it, if it is in a guarded range.
fn replace(address: usize) -> bool {
    let mut chunk = Some(&FIRST);
    while let Some(Chunk { entries, .. }) = chunk {
        for entry in entries {
            if let Some(Rest { start, len, first }) = entry.rest_from(address) {
                entry.poisoned.store(true, Ordering::Release);
                // The whole range is one mapping, and can be replaced even when there may be no more mappings.
                return map_zeros(start.wrapping_add(first), len.wrapping_sub(first)) || map_zeros(start, len);
            }
        }
        chunk = chunk.and_then(Chunk::next);
    }
    false
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
unsafe fn pass_on(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void, code: c_int, address: usize) {
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
        _ if is_futile(address) => die(signal, is_sent),
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

/// Whether the handler before ours has been asked for this address too often.
fn is_futile(address: usize) -> bool {
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
