//! Starting and stopping an SPDK application.

use std::cell::Cell;
use std::ffi::{CStr, CString, OsStr, OsString, c_char, c_int, c_void};
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::ptr;
use std::sync::{Mutex, PoisonError};

use spdk_sys as sys;

use crate::{Errno, running};

/// What an option does before SPDK starts.
pub type Early = fn(&OsStr) -> Result<(), Errno>;

/// An option of the application's own beside SPDK's, each with a value.
#[derive(Debug, Clone, Copy)]
pub struct AppOption {
    /// What to do with the value before SPDK starts, if anything.
    pub early: Option<Early>,
    /// The letter.
    pub flag: u8,
    /// What the value is called in the usage, such as `<file>`.
    pub value: &'static str,
    /// What it does.
    pub help: &'static str,
}

/// An option that was given, and its value.
pub type Given = (u8, OsString);

/// How an application begins.
#[derive(Debug, Clone, Copy)]
pub struct App {
    /// Its name in SPDK's log.
    pub name: &'static CStr,
    /// Options beside SPDK's.
    pub options: &'static [AppOption],
    /// Called on the application's thread when it is told to end, before anything is shut down.
    pub on_shutdown: fn(),
}

/// The options of the application that runs: SPDK's parser gives its callbacks no context.
static OPTIONS: Mutex<Options> = Mutex::new(Options { known: &[], given: Vec::new(), on_shutdown: || {} });

struct Options {
    known: &'static [AppOption],
    given: Vec<Given>,
    on_shutdown: fn(),
}

impl App {
    /// Parses `arguments` (the first is the program), starts SPDK, calls `started` on the application's thread with
    /// the application's own options that were given, and returns when the application has been stopped. A process
    /// can do this once.
    ///
    /// `started` stops the application with an error; that and SPDK's own errors give a failing exit code.
    pub fn run<S>(&self, arguments: impl IntoIterator<Item = OsString>, started: S) -> ExitCode
    where
        S: FnOnce(&[Given]) -> Result<(), Errno> + 'static,
    {
        if !running::begin() {
            eprintln!("an SPDK application was started in this process before");
            return ExitCode::FAILURE;
        }
        keep_large_blocks_apart();
        raise_descriptor_limit();
        widen_descriptor_table();
        // SPDK keeps pointers into the arguments for as long as the application runs; so does getopt.
        let mut words: Vec<*mut c_char> = arguments
            .into_iter()
            .filter_map(|argument| CString::new(argument.as_bytes()).ok())
            .map(CString::into_raw)
            .collect();
        let Ok(count) = c_int::try_from(words.len()) else { return ExitCode::FAILURE };
        words.push(ptr::null_mut());
        let getopt: String = self.options.iter().flat_map(|option| [char::from(option.flag), ':']).collect();
        let Ok(getopt) = CString::new(getopt) else { return ExitCode::FAILURE };
        {
            let mut options = OPTIONS.lock().unwrap_or_else(PoisonError::into_inner);
            *options = Options { known: self.options, given: Vec::new(), on_shutdown: self.on_shutdown };
        }

        let mut opts = sys::spdk_app_opts::default();
        // SAFETY: `opts` is as large as it is said to be; `words` ends with a null and outlives the application, as do
        // the strings in it; the callbacks are what SPDK expects.
        let parsed = unsafe {
            sys::spdk_app_opts_init(&raw mut opts, size_of::<sys::spdk_app_opts>());
            opts.name = self.name.as_ptr();
            opts.shutdown_cb = Some(shutdown);
            sys::spdk_app_parse_args(
                count,
                words.as_mut_ptr(),
                &raw mut opts,
                getopt.as_ptr(),
                ptr::null(),
                Some(parse),
                Some(usage),
            )
        };
        match parsed {
            sys::spdk_app_parse_args_rvals::SPDK_APP_PARSE_ARGS_SUCCESS => {}
            sys::spdk_app_parse_args_rvals::SPDK_APP_PARSE_ARGS_HELP => return ExitCode::SUCCESS,
            _ => return ExitCode::FAILURE,
        }

        keep_memory_apart(&mut opts);
        let given = std::mem::take(&mut OPTIONS.lock().unwrap_or_else(PoisonError::into_inner).given);
        let begin: Box<Begin> = Box::new(Cell::new(Some(Box::new(move || started(&given)))));
        // SAFETY: `begin` outlives the call, which returns after the application has stopped; it is used on the
        // application's thread, within the call.
        let rc = unsafe {
            let rc = sys::spdk_app_start(&raw mut opts, Some(call_started), (&raw const *begin).cast_mut().cast());
            running::stopped();
            sys::spdk_app_fini();
            rc
        };
        if rc == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// From how many bytes on a block of memory has a mapping of its own, which goes back to the system with it: what the C
/// library begins with.
const MAPPED_FROM: c_int = 128 * 1024;

/// Has the C library give large blocks back to the system. By itself it would keep them from the first one on that is
/// freed, and SPDK takes and frees some of 1 MiB with each bdev that it looks at: what comes meanwhile to stay would
/// lie among such holes.
fn keep_large_blocks_apart() {
    // SAFETY: it changes how blocks are allocated from now on. Where it is not known, it changes nothing.
    unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM) };
}

/// Returns the limit of open files of this process: what holds now, and what it may be raised to.
#[must_use]
pub(crate) fn descriptor_limit() -> (u64, u64) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` has room for what is told.
    match unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } {
        0 => (limit.rlim_cur, limit.rlim_max),
        _ => (0, 0),
    }
}

/// Lets the process have as many open files as it may: each client has some, and the usual 1024 are for programs that
/// use `select(2)`.
fn raise_descriptor_limit() {
    let (_, most) = descriptor_limit();
    let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
    // SAFETY: only reads `limit`. If it is refused, the limit stays.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
}

/// The kernel's table of open files gets room for so many at once, if the process may have them: 1 MiB.
const WIDEST_TABLE: u64 = 1 << 17;

/// Has the kernel make its table of this process's open files as large as it may become. It doubles a full table only
/// after an RCU grace period, which takes tens of milliseconds once there is a second thread, and lets nobody open a
/// file meanwhile: a reactor that accepts a connection would stand still because some client has sent files. To be
/// called while there is one thread.
pub fn widen_descriptor_table() {
    let (now, _) = descriptor_limit();
    let Ok(last) = c_int::try_from(now.min(WIDEST_TABLE).saturating_sub(1)) else { return };
    let Ok(file) = File::open("/dev/null") else { return };
    // SAFETY: makes a descriptor of its own. If it is refused, the table stays as it is.
    let highest = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD_CLOEXEC, last) };
    if highest >= 0 {
        // SAFETY: the descriptor was made above, and nobody else knows of it.
        drop(unsafe { OwnedFd::from_raw_fd(highest) });
    }
}

/// Has DPDK take memory from the kernel without a file of a hugetlbfs mount. Otherwise each reactor that takes memory,
/// or gives it back, waits for a lock of the mount, which every other DPDK process that starts holds for seconds. What
/// the operator says of the memory counts.
fn keep_memory_apart(opts: &mut sys::spdk_app_opts) {
    let is_said = !opts.hugedir.is_null() || !opts.env_context.is_null() || opts.unlink_hugepage || opts.no_huge;
    // A process that others attach to has to keep its files.
    if is_said || opts.shm_id >= 0 {
        return;
    }
    // SPDK asks for `--huge-unlink` otherwise, which DPDK does not take together with this.
    opts.hugepage_single_segments = true;
    // SPDK splits it, and changes nothing in it.
    opts.env_context = c"--in-memory".as_ptr().cast_mut().cast();
}

type Begin = Cell<Option<Box<dyn FnOnce() -> Result<(), Errno>>>>;

unsafe extern "C" fn call_started(ctx: *mut c_void) {
    // SAFETY: `run` gave SPDK this pointer and waits for the application.
    let begin = unsafe { &*ctx.cast::<Begin>() };
    running::started();
    if let Some(Err(error)) = begin.take().map(|started| started()) {
        log::error!("the application could not start: {error}");
        // SAFETY: called on the application's thread.
        unsafe { sys::spdk_app_stop(error.negated()) };
    }
}

unsafe extern "C" fn parse(flag: c_int, value: *mut c_char) -> c_int {
    let mut options = OPTIONS.lock().unwrap_or_else(PoisonError::into_inner);
    let Ok(flag) = u8::try_from(flag) else { return -libc::EINVAL };
    let Some(option) = options.known.iter().find(|option| option.flag == flag && !value.is_null()) else {
        return -libc::EINVAL;
    };
    let early = option.early;
    // SAFETY: getopt gives the value of an option that has one as a string.
    let value = OsString::from_vec(unsafe { CStr::from_ptr(value) }.to_bytes().to_vec());
    if let Some(Err(error)) = early.map(|early| early(&value)) {
        eprintln!("-{} {}: {error}", char::from(flag), value.display());
        return error.negated();
    }
    options.given.push((flag, value));
    0
}

unsafe extern "C" fn shutdown() {
    let on_shutdown = OPTIONS.lock().unwrap_or_else(PoisonError::into_inner).on_shutdown;
    on_shutdown();
    running::stops();
    // SAFETY: called on the application's thread.
    unsafe { sys::spdk_app_stop(0) };
}

unsafe extern "C" fn usage() {
    let options = OPTIONS.lock().unwrap_or_else(PoisonError::into_inner);
    // SPDK prints with C's buffer, this with Rust's: without this, SPDK's first half would come last.
    // SAFETY: a null pointer stands for every stream.
    unsafe { libc::fflush(ptr::null_mut()) };
    for option in options.known {
        println!(" -{} {:<26} {}", char::from(option.flag), option.value, option.help);
    }
}

/// Ends the application: its subsystems are shut down, then [`App::run`] returns, with success if `result` is. Nothing
/// where none runs.
pub fn stop(result: Result<(), Errno>) {
    if let Ok(_guard) = running::guard() {
        // SAFETY: may be called from any thread while an application runs; a second call is ignored.
        unsafe { sys::spdk_app_stop(result.err().map_or(0, Errno::negated)) };
    }
    running::stops();
}

/// Returns the version of SPDK that this was built with, such as 26.1.0.
#[must_use]
pub fn spdk_version() -> String {
    format!("{}.{:02}.{}", sys::SPDK_VERSION_MAJOR, sys::SPDK_VERSION_MINOR, sys::SPDK_VERSION_PATCH)
}

/// Returns whether this SPDK has targets that create sockets of their own: vhost, or vfio-user's virtio devices.
#[must_use]
pub fn has_socket_dir() -> bool {
    // SAFETY: tells a fact of the build.
    unsafe { sys::courier_shim_has_socket_dir() != 0 }
}

/// Where those targets create their sockets.
///
/// # Errors
/// `INVAL` for a path with a NUL or one that is too long, `NOTSUP` where there are no such targets.
pub fn set_socket_dir(dir: &Path) -> Result<(), Errno> {
    let dir = CString::new(dir.as_os_str().as_bytes()).map_err(|_| Errno::INVAL)?;
    // SAFETY: SPDK copies the path.
    Errno::check(unsafe { sys::courier_shim_set_socket_dir(dir.as_ptr()) })
}

/// Writes this process' number into `file`, as a line.
///
/// # Errors
/// What writing the file gave.
pub fn write_pid_file(file: impl Into<PathBuf>) -> std::io::Result<()> {
    std::fs::write(file.into(), format!("{}\n", std::process::id()))
}
