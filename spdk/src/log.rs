//! The `log` crate, written to SPDK's log, so that a module's lines stand among SPDK's own under its `-L` options; and
//! a limit for both, so that nothing that happens again and again fills a disk, keeps a reactor writing or hides
//! another line.

mod limit;

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use spdk_sys as sys;

use self::limit::{Kind, Limiter, Summary, Verdict};
use crate::Errno;
use crate::poller::{Poll, Poller};

/// How often it is looked whether a flood is over.
const LOOK: Duration = Duration::from_secs(1);

static LIMITER: Mutex<Limiter> = Mutex::new(Limiter::new());

struct SpdkLog;

static LOG: SpdkLog = SpdkLog;

impl log::Log for SpdkLog {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let level = match record.level() {
            log::Level::Error => sys::spdk_log_level::SPDK_LOG_ERROR,
            log::Level::Warn => sys::spdk_log_level::SPDK_LOG_WARN,
            log::Level::Info => sys::spdk_log_level::SPDK_LOG_NOTICE,
            log::Level::Debug => sys::spdk_log_level::SPDK_LOG_INFO,
            log::Level::Trace => sys::spdk_log_level::SPDK_LOG_DEBUG,
        };
        let text = record.args().to_string();
        // As in SPDK's own lines, only the file's name, and who says it in the place of the function.
        let file = record.file().and_then(|path| path.rsplit('/').next()).unwrap_or("?");
        let line = record.line().and_then(|line| i32::try_from(line).ok()).unwrap_or(0);
        // Lines about pools, bdevs and controllers begin with the name, in quotes.
        let about = text.split('\'').nth(1).unwrap_or_default();
        let (who, about) = (record.target().as_bytes(), about.as_bytes());
        if record.level() > log::Level::Info
            || admit(&Kind { level, file: file.as_bytes(), line, who, about }) != Verdict::LeftOut
        {
            write(level, file.as_bytes(), line, who, &text);
        }
    }

    fn flush(&self) {}
}

/// Writes a line that has been admitted.
fn write(level: sys::spdk_log_level::Type, file: &[u8], line: c_int, who: &[u8], text: &str) {
    // A NUL in a message would end it early; what came from outside may hold one.
    let text = text.replace('\0', "\\0");
    let (Ok(text), Ok(file), Ok(who)) = (CString::new(text), CString::new(file), CString::new(who)) else { return };
    // SAFETY: the strings live across the call, which copies what it needs.
    unsafe { sys::courier_shim_log(level, file.as_ptr(), line, who.as_ptr(), text.as_ptr()) };
}

/// Returns the time since the first line.
fn now() -> Duration {
    static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    BEGIN.elapsed()
}

/// Returns the limiter. Nothing is written while it is held.
fn limiter<R>(f: impl FnOnce(&mut Limiter, Duration) -> R) -> R {
    let now = now();
    f(&mut LIMITER.lock().unwrap_or_else(PoisonError::into_inner), now)
}

fn admit(kind: &Kind<'_>) -> Verdict {
    limiter(|limiter, now| limiter.admit(kind, now))
}

/// Sends what the `log` crate is given to SPDK's log: errors and warnings as such, `info` as a notice, `debug` as
/// info, `trace` as debug. Does nothing if the process has chosen a logger already.
pub fn init() {
    if log::set_logger(&LOG).is_ok() {
        log::set_max_level(log::LevelFilter::Info);
    }
}

/// Whoever has lines of its own to spend.
pub trait LogQuota: std::fmt::Debug + Send + Sync {
    /// Returns whether it can pay for another line.
    fn pays(&self) -> bool;
}

thread_local! {
    static LOG_QUOTA: RefCell<Option<Arc<dyn LogQuota>>> = const { RefCell::new(None) };
}

/// Calls `f`, in which the lines that SPDK writes on this thread are paid for by `payer`, for whose sake it is called:
/// those that it cannot pay for are left out, unless there was none of their kind lately.
pub fn charged_to<R>(payer: Arc<dyn LogQuota>, f: impl FnOnce() -> R) -> R {
    /// Puts back who paid before, also when `f` panics.
    struct PreviousQuota(Option<Arc<dyn LogQuota>>);
    impl Drop for PreviousQuota {
        fn drop(&mut self) {
            let before = self.0.take();
            // Dropped only after the borrow has ended: what a payer does then may write lines.
            let after = LOG_QUOTA.try_with(|current| current.replace(before));
            drop(after);
        }
    }
    let _before = PreviousQuota(LOG_QUOTA.try_with(|current| current.replace(Some(payer))).ok().flatten());
    f()
}

/// Decides about a line of SPDK's own.
unsafe extern "C" fn admit_line(level: c_int, file: *const c_char, line: c_int, func: *const c_char) -> bool {
    // SAFETY: the shim gives strings that live across the call, or null.
    let bytes = |text: *const c_char| if text.is_null() { &[][..] } else { unsafe { CStr::from_ptr(text) }.to_bytes() };
    let verdict = admit(&Kind { level, file: bytes(file), line, who: bytes(func), about: &[] });
    match verdict {
        Verdict::LeftOut => false,
        Verdict::First | Verdict::Within => {
            // What a payer says of itself is a line as well, but none of SPDK's.
            let payer = LOG_QUOTA.try_with(|payer| payer.borrow().clone()).ok().flatten();
            payer.is_none_or(|payer| payer.pays()) || verdict == Verdict::First
        }
    }
}

/// Has lines looked at before they are written, for as long as this exists.
#[must_use]
#[derive(Debug)]
pub struct LogFilter {
    _poller: Poller,
}

impl Drop for LogFilter {
    fn drop(&mut self) {
        tell(true);
    }
}

/// Has SPDK's lines looked at before they are written: some tell of an error where nothing went wrong, and a place in
/// SPDK that writes line after line is limited, as are those of the `log` crate. What was left out is told of once the
/// flood is over. To be called once SPDK has opened its log; what it gives belongs to this SPDK thread.
///
/// # Errors
/// `PERM` off any SPDK thread, `NOMEM` when SPDK has no memory for a poller.
pub fn filter() -> Result<LogFilter, Errno> {
    let poller = Poller::register("courier_log", LOOK, || {
        tell(false);
        Poll::Idle
    })?;
    // SAFETY: SPDK's log is open; what takes its lines lives as long as the process.
    unsafe { sys::courier_shim_log_open(Some(admit_line)) };
    Ok(LogFilter { _poller: poller })
}

/// Writes what is to be told of lines that were left out.
fn tell(is_end: bool) {
    while let Some(told) = limiter(|limiter, now| limiter.summary(now, is_end)) {
        let Summary { level, file, line, who, about, left_out, within } = told;
        let (about, seconds) = (String::from_utf8_lossy(about.as_bytes()).into_owned(), within.as_secs_f64());
        let about = if about.is_empty() { about } else { format!("'{about}': ") };
        let text = format!("{about}{left_out} more lines like this were left out, within {seconds:.1} s");
        write(level, file.as_bytes(), line, who.as_bytes(), &text);
    }
    let forgotten = limiter(|limiter, _| limiter.take_forgotten());
    if forgotten > 0 {
        let text = format!("{forgotten} more lines of several kinds were left out");
        write(sys::spdk_log_level::SPDK_LOG_WARN, b"log.rs", 0, module_path!().as_bytes(), &text);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Has so many lines to spend.
    #[derive(Debug)]
    struct Lines(AtomicU32);

    impl LogQuota for Lines {
        fn pays(&self) -> bool {
            self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
        }
    }

    /// Returns how many of so many lines of a place in a file are written.
    fn written(file: &CStr, line: c_int, lines: u32) -> u32 {
        // SAFETY: the strings live as long as the process.
        let admit = || unsafe { admit_line(0, file.as_ptr(), line, c"f".as_ptr()) };
        (0..lines).map(|_| u32::from(admit())).sum()
    }

    #[test]
    fn lines_for_a_clients_sake_are_at_its_expense_but_the_first_of_a_kind_is_always_written() {
        const FILE: &CStr = c"paid.c";
        let purse = Arc::new(Lines(AtomicU32::new(20)));
        let poor = Arc::clone(&purse);
        charged_to(poor, || {
            assert_eq!(written(FILE, 1, 50), 20);
            assert_eq!(written(FILE, 2, 5), 1, "nothing is left but for the first");
            let rich = Arc::new(Lines(AtomicU32::new(100)));
            assert_eq!(charged_to(rich, || written(FILE, 3, 7)), 7);
            assert_eq!(written(FILE, 4, 5), 1, "the first payer is back");
        });
        assert_eq!(written(FILE, 5, 30), 30, "nobody has to pay");
    }

    #[test]
    fn threads_that_write_the_same_line_share_its_limit() {
        let write = || written(c"shared.c", 1, 1_000);
        let all: u32 = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(write)).collect();
            threads.into_iter().map(|thread| thread.join().expect("it does not panic")).sum()
        });
        assert!((limit::BURST..limit::BURST * 2).contains(&all), "{all} lines");
    }
}
