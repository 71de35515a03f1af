//! What the device must be able to do for a session.

use std::os::fd::OwnedFd;
use std::sync::Arc;

/// What a session asks for accesses to the device's registers. It is to be answered at once, but for writes to
/// configuration space.
///
/// Offsets and lengths are whatever the client says, within the region: not aligned, of any length but 0, and across
/// registers. The device decides what odd accesses do.
pub trait Device {
    /// Reads PCI configuration space.
    fn config_read(&mut self, offset: usize, into: &mut [u8]);
    /// Writes PCI configuration space. Returns whether what that asks for takes time: the client is answered when the
    /// caller says so, by the token of [`Event::ConfigWritten`](crate::Event::ConfigWritten).
    fn config_write(&mut self, offset: usize, data: &[u8]) -> bool;
    /// Reads BAR0: registers, and the doorbells too, of a client that has not mapped them.
    fn bar0_read(&mut self, offset: usize, into: &mut [u8]);
    /// Writes BAR0.
    fn bar0_write(&mut self, offset: usize, data: &[u8]);
    /// Returns the file whose bytes at [`DeviceInfo::doorbells`](crate::DeviceInfo::doorbells) are those of BAR0: the
    /// client maps it at the same offsets as the region, so that a file for doorbells at 1000h has them at 1000h, not
    /// at 0.
    fn doorbells(&self) -> Arc<OwnedFd>;
}
