//! What a channel must know of the bdevs whose I/O it carries.

use spdk::bdev::{BdevIo, Device};

/// A bdev whose I/O goes by channels to a pool.
pub(crate) trait Target: Device + std::fmt::Debug + Sized + 'static {
    /// Returns the identifier of its namespace in the pool.
    fn nsid(&self) -> u32;

    /// Returns whether its I/O is held because it is not proved that the namespace is its own.
    fn is_held(&self) -> bool;

    /// Returns whether its I/O fails: the namespace is another, or has been gone for too long.
    fn is_failing(&self) -> bool;

    /// Returns whether it is being deleted: nothing is held for it.
    fn is_removing(&self) -> bool;

    /// Returns whether an I/O is not to be sent any more, nor again.
    fn is_cancelled(io: &BdevIo<Self>) -> bool;

    /// Gives an I/O to the channel's queue pair. Returns it if no request is free for it.
    fn give(&self, channel: &Self::Channel, io: BdevIo<Self>) -> Option<BdevIo<Self>>;
}
