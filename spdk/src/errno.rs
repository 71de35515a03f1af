//! Error numbers as SPDK returns them.

use std::fmt;
use std::io;

/// A positive error number of `errno(3)`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(i32);

impl Errno {
    /// Try again later.
    pub const AGAIN: Self = Self(libc::EAGAIN);
    /// Something of that name exists already.
    pub const EXIST: Self = Self(libc::EEXIST);
    /// An argument is not valid.
    pub const INVAL: Self = Self(libc::EINVAL);
    /// An input or output error.
    pub const IO: Self = Self(libc::EIO);
    /// No such device.
    pub const NODEV: Self = Self(libc::ENODEV);
    /// Out of memory or of another resource that comes back.
    pub const NOMEM: Self = Self(libc::ENOMEM);
    /// No such device or address.
    pub const NXIO: Self = Self(libc::ENXIO);
    /// No room is left.
    pub const NOSPC: Self = Self(libc::ENOSPC);
    /// Not supported.
    pub const NOTSUP: Self = Self(libc::ENOTSUP);
    /// The resource is in use.
    pub const BUSY: Self = Self(libc::EBUSY);
    /// Took too long.
    pub const TIMEDOUT: Self = Self(libc::ETIMEDOUT);
    /// Called off.
    pub const CANCELED: Self = Self(libc::ECANCELED);
    /// Not permitted, here: not on this thread.
    pub const PERM: Self = Self(libc::EPERM);

    /// The result of a C call that returns 0, or a number that is not negative, or `-errno`.
    ///
    /// # Errors
    /// The error that a negative `rc` names.
    pub(crate) fn check(rc: i32) -> Result<(), Self> {
        if rc < 0 { Err(Self(rc.saturating_neg())) } else { Ok(()) }
    }

    /// Returns the number as C calls return it, negative.
    #[must_use]
    pub(crate) fn negated(self) -> i32 {
        -self.0
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        io::Error::from_raw_os_error(self.0).fmt(f)
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Errno({}: {self})", self.0)
    }
}

impl std::error::Error for Errno {}

#[cfg(test)]
mod tests {
    use super::Errno;

    #[test]
    fn negative_return_codes_become_errors() {
        assert_eq!(Errno::check(-libc::ENOMEM), Err(Errno::NOMEM));
        assert_eq!(Errno::check(i32::MIN).map_err(|error| error.0), Err(i32::MAX));
    }

    #[test]
    fn zero_and_positive_return_codes_are_success() {
        assert_eq!(Errno::check(0), Ok(()));
        assert_eq!(Errno::check(7), Ok(()));
    }
}
