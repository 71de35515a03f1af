//! The `log` crate, written to SPDK's log, so that a module's lines stand among SPDK's own under its `-L` options.

use std::ffi::CString;

use spdk_sys as sys;

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
        // A NUL in a message would end it early; what came from outside may hold one.
        let text = record.args().to_string().replace('\0', "\\0");
        // As in SPDK's own lines, only the file's name, and who says it in the place of the function.
        let file = record.file().and_then(|path| path.rsplit('/').next()).unwrap_or("?");
        let (Ok(text), Ok(file), Ok(target)) = (CString::new(text), CString::new(file), CString::new(record.target()))
        else {
            return;
        };
        let line = record.line().and_then(|line| i32::try_from(line).ok()).unwrap_or(0);
        // SAFETY: the strings live across the call, which copies what it needs.
        unsafe { sys::courier_shim_log(level, file.as_ptr(), line, target.as_ptr(), text.as_ptr()) };
    }

    fn flush(&self) {}
}

/// Sends what the `log` crate is given to SPDK's log: errors and warnings as such, `info` as a notice, `debug` as
/// info, `trace` as debug. Does nothing if the process has chosen a logger already.
pub fn init() {
    if log::set_logger(&LOG).is_ok() {
        log::set_max_level(log::LevelFilter::Info);
    }
}

/// Has SPDK's lines, of which some tell of an error where nothing went wrong, looked at before they are written. To be
/// called once SPDK has opened its log.
pub fn sift() {
    // SAFETY: SPDK's log is open; what takes its lines lives as long as the process.
    unsafe { sys::courier_shim_log_open() };
}
