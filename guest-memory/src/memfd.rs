//! Files of memory.
#![expect(unsafe_code, reason = "the standard library makes no memfd")]

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Returns a new memfd of `len` bytes of zeros. `flags` are those of `memfd_create(2)`, beside `MFD_CLOEXEC`.
pub(super) fn create(name: &CStr, len: u64, flags: libc::c_uint) -> io::Result<File> {
    // SAFETY: `name` is a string with its end.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, and nobody else's.
    let file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    file.set_len(len)?;
    Ok(file)
}

/// Forbids for good to change the file's length, and to forbid more.
pub(super) fn seal_length(file: &File) -> io::Result<()> {
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: the descriptor is open; no memory is given.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
