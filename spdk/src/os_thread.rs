//! Operating-system threads: which cores they may run on, and getting one out of a system call that does not come back.

use std::sync::Once;
use std::{io, mem, ptr};

/// The signal: ignored by default, and used by nobody here. Its handler does nothing.
const SIGNAL: libc::c_int = libc::SIGURG;

/// An operating-system thread that may be interrupted.
#[derive(Debug)]
pub struct OsThread(libc::pid_t);

impl OsThread {
    /// Returns the calling thread.
    #[must_use]
    pub fn current() -> Self {
        install();
        // SAFETY: tells a number.
        Self(unsafe { libc::gettid() })
    }

    /// Has a system call in which the thread waits return `EINTR`. One that does not wait is not disturbed.
    pub fn interrupt(&self) {
        // SAFETY: the signal's handler does nothing, also in another thread that has got the number of one that ended.
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), self.0, SIGNAL) };
    }
}

/// Keeps the calling thread off `cores`, though it may run on all others of the machine: a reactor that polls leaves
/// its core to nobody of its own accord, and would lose it for milliseconds at a time. Where there is no other core,
/// the thread may still run on any.
pub(crate) fn leave(cores: &[u32]) {
    // SAFETY: tells a number.
    let count = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_CONF) };
    let count = usize::try_from(count).unwrap_or(1).min(8 * size_of::<libc::cpu_set_t>());
    // SAFETY: all zeros is a set of no cores.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    let is_left = |core: &usize| cores.iter().any(|left| usize::try_from(*left) == Ok(*core));
    for core in (0..count).filter(|core| !is_left(core)) {
        // SAFETY: the set has room for `core`, which is below the number of its bits.
        unsafe { libc::CPU_SET(core, &mut set) };
    }
    // SAFETY: the set is as long as is said, and only the calling thread is concerned. An empty set is refused, and so
    // is one of cores that this process may not use at all; the thread then stays where it may run.
    if unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) } != 0 {
        log::debug!("threads that poll nothing share the reactors' cores: {}", io::Error::last_os_error());
    }
}

/// Gives the signal a handler, once, and lets the calling thread have it.
fn install() {
    static INSTALLED: Once = Once::new();
    extern "C" fn nothing(_: libc::c_int) {}
    INSTALLED.call_once(|| {
        // SAFETY: all zeros is a value of `sigaction`: no flags. Without `SA_RESTART` a system call is not begun again.
        let mut action: libc::sigaction = unsafe { mem::zeroed() };
        action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as usize;
        // SAFETY: the handler has the signature that goes without `SA_SIGINFO`.
        if unsafe { libc::sigaction(SIGNAL, &raw const action, ptr::null_mut()) } != 0 {
            log::error!("no thread can be interrupted: {}", io::Error::last_os_error());
        }
    });
    // SAFETY: all zeros is a set of signals, which is made empty; the mask is the calling thread's own.
    unsafe {
        let mut signals: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&raw mut signals);
        libc::sigaddset(&raw mut signals, SIGNAL);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const signals, ptr::null_mut());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    /// Adds to the eventfd; the number of the error.
    fn add(file: libc::c_int, count: u64) -> Option<i32> {
        // SAFETY: the buffer has the eight bytes that are written.
        let done = unsafe { libc::write(file, (&raw const count).cast(), 8) };
        (done < 0).then(|| io::Error::last_os_error().raw_os_error()).flatten()
    }

    /// Returns the cores that the calling thread may run on.
    fn allowed() -> Vec<u32> {
        // SAFETY: all zeros is a set of no cores.
        let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
        // SAFETY: the set has room for as much as is said.
        let told = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) };
        assert_eq!(told, 0, "the kernel tells");
        // SAFETY: the set has 1,024 bits.
        (0..1_024)
            .filter(|core| unsafe { libc::CPU_ISSET(*core, &set) })
            .map(|core| core.try_into().expect("small"))
            .collect()
    }

    #[test]
    fn a_thread_leaves_the_reactors_cores_where_there_are_others() {
        std::thread::spawn(|| {
            let all = allowed();
            leave(&all);
            assert_eq!(allowed(), all, "there is no other core");
            if let [first, others @ ..] = &all[..]
                && !others.is_empty()
            {
                leave(&[*first]);
                assert!(!allowed().contains(first) && !allowed().is_empty(), "{:?}", allowed());
            }
        })
        .join()
        .expect("no panic");
    }

    #[test]
    fn a_thread_that_waits_in_a_write_comes_back_from_it() {
        // SAFETY: makes a descriptor.
        let full = unsafe { libc::eventfd(0, 0) };
        assert_eq!(add(full, u64::MAX - 1), None);
        let (send, receive) = mpsc::channel();
        let waits = std::thread::spawn(move || {
            send.send(OsThread::current()).expect("the test waits");
            add(full, 1)
        });
        let thread = receive.recv().expect("the thread has begun");
        while !waits.is_finished() {
            thread.interrupt();
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(waits.join().expect("no panic"), Some(libc::EINTR));
    }
}
