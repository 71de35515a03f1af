//! Regions that SPDK's devices reach.

use spdk::Errno;
use spdk::memory::Registration;

use super::{Access, Backing, Region, to_usize};

impl Region {
    /// Has SPDK's devices reach the region until it is unmapped, so that they move data of I/Os themselves. It takes as long as they
    /// need, see [`Registration::new`]. Without it, and for a region that may only be read, devices that need it (RDMA) refuse I/O
    /// there; all else goes on as before.
    ///
    /// # Errors
    /// See [`Registration::new`].
    pub fn register(&self) -> Result<(), Errno> {
        let Backing::File { file, .. } = &self.backing else { return Ok(()) };
        // A device asks for the right to write; one that cannot have it for one region would take no others either, when it comes
        // later.
        if self.access == Access::ReadOnly || file.registration.get().is_some() {
            return Ok(());
        }
        // SAFETY: the `len` bytes from `host` are a part of the mapping, which is dropped after the registration.
        let registration = unsafe { Registration::new(file.host.0, to_usize(file.len)) }?;
        // It was not there a moment ago. If two threads register at once, SPDK refuses one of them.
        let _ = file.registration.set(registration);
        Ok(())
    }
}
