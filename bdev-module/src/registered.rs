//! What is registered with SPDK: the bdev module, and the reactors' poll groups.

use std::cell::RefCell;

use once_cell::sync::OnceCell;
use spdk::Errno;
use spdk::bdev::ModuleHandle;
use spdk::io_device::IoDevice;
use spdk::thread::AppCell;

use crate::channel::Reactors;

static MODULE: OnceCell<ModuleHandle> = OnceCell::new();

/// The reactors' poll groups, while the bdev layer is up.
static REACTORS: AppCell<Option<IoDevice<Reactors>>> = AppCell::new(|| None);

/// Registers the module by `register`, unless that has been done.
pub(crate) fn register_module(register: impl FnOnce() -> ModuleHandle) {
    MODULE.get_or_init(register);
}

/// Returns the module, to register bdevs with.
pub(crate) fn module() -> Result<ModuleHandle, Errno> {
    MODULE.get().copied().ok_or(Errno::NODEV)
}

/// Registers the reactors' poll groups.
pub(crate) fn register_reactors() -> Result<(), Errno> {
    let device = IoDevice::register("courier_reactors", Reactors)?;
    REACTORS.with(|reactors| reactors.replace(Some(device)));
    Ok(())
}

/// Returns the reactors' poll groups.
pub(crate) fn reactors() -> Result<IoDevice<Reactors>, Errno> {
    REACTORS.with(|reactors| reactors.borrow().clone()).ok_or(Errno::NODEV)
}

/// Takes the reactors' poll groups, to be unregistered.
pub(crate) fn take_reactors() -> Option<IoDevice<Reactors>> {
    REACTORS.with(RefCell::take)
}
