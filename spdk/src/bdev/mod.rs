//! Bdev modules: devices that take I/O from SPDK's bdev layer.
//!
//! A module is made known with [`register_module`] before SPDK starts. It registers [`Device`]s, each of which is
//! given [`BdevIo`]s on every thread that uses it and completes each once.

mod carrier;
mod confine;
mod device;
mod io;
mod module;

pub use carrier::Carrier;
pub use device::{Bdev, Device, DeviceInfo, IoType, Protection};
pub use io::{AbortRequest, BdevIo, IoStatus};
pub(crate) use module::is_registered_here;
pub use module::{Module, ModuleFiniDone, ModuleHandle, register_claimer, register_module};
