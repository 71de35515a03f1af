//! Getting an operating-system thread out of a system call that does not come back.

use std::ptr;
use std::sync::Once;

/// The signal: ignored by default, and used by nobody here. Its handler does nothing.
const SIGNAL: libc::c_int = libc::SIGURG;

/// An operating-system thread that may be interrupted.
#[derive(Debug)]
pub struct OsThread(libc::pid_t);

impl OsThread {
    /// The calling thread.
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

/// Gives the signal a handler, once, and lets the calling thread have it.
fn install() {
    static INSTALLED: Once = Once::new();
    extern "C" fn nothing(_: libc::c_int) {}
    INSTALLED.call_once(|| {
        // SAFETY: all zeros is a value of `sigaction`: no flags. Without `SA_RESTART` a system call is not begun again.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as usize;
        // SAFETY: the handler has the signature that goes without `SA_SIGINFO`.
        if unsafe { libc::sigaction(SIGNAL, &raw const action, ptr::null_mut()) } != 0 {
            log::error!("no thread can be interrupted: {}", std::io::Error::last_os_error());
        }
    });
    // SAFETY: all zeros is a set of signals, which is made empty; the mask is the calling thread's own.
    unsafe {
        let mut signals: libc::sigset_t = std::mem::zeroed();
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
        (done < 0).then(|| std::io::Error::last_os_error().raw_os_error()).flatten()
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
