//! A bdev module as SPDK's bdev layer knows it.

use std::ffi::{CStr, c_int};
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};

use spdk_sys as sys;

use super::io::Context;
use crate::json::JsonWriter;
use crate::thread::NotSend;
use crate::{Errno, running};

/// What a module does beside its devices. All of it runs on the application's thread.
pub trait Module: 'static {
    /// The name that SPDK knows it by.
    const NAME: &'static CStr;

    /// The bdev layer starts.
    ///
    /// # Errors
    /// What keeps the module, and with it the application, from starting.
    fn init() -> Result<(), Errno>;

    /// The bdev layer is about to end, and to ask who uses its devices to let go. What it is owed should end soon.
    fn fini_start();

    /// The bdev layer ends, and all devices are gone. `done` is to be dropped when the module is ready.
    fn fini(done: ModuleFiniDone);

    /// Writes the RPCs, as objects with `method` and `params`, that bring back the module's state beside its devices.
    fn write_config(out: &mut JsonWriter);
}

/// The bdev layer waits until this is dropped.
#[derive(Debug)]
#[must_use = "the application ends once this is dropped"]
pub struct ModuleFiniDone(NotSend);

impl Drop for ModuleFiniDone {
    fn drop(&mut self) {
        running::part_ended();
        // SAFETY: `fini` made this value, once, on the application's thread.
        unsafe { sys::spdk_bdev_module_fini_done() };
    }
}

/// A registered module.
#[derive(Debug, Clone, Copy)]
pub struct ModuleHandle(NonNull<sys::spdk_bdev_module>);

// SAFETY: the module's structure lives for ever, and SPDK guards what changes in it.
unsafe impl Send for ModuleHandle {}
// SAFETY: as above.
unsafe impl Sync for ModuleHandle {}

impl ModuleHandle {
    pub(crate) fn as_ptr(self) -> *mut sys::spdk_bdev_module {
        self.0.as_ptr()
    }
}

/// The modules that were registered here, by address.
static HERE: Mutex<Vec<usize>> = Mutex::new(Vec::new());

/// Returns whether the module was registered here, and not by SPDK itself or by somebody else.
pub(crate) fn is_registered_here(module: *const sys::spdk_bdev_module) -> bool {
    HERE.lock().unwrap_or_else(PoisonError::into_inner).contains(&module.addr())
}

/// Makes `M` known to the bdev layer. To be called before SPDK starts, once.
///
/// # Panics
/// When SPDK has started.
#[must_use]
pub fn register_module<M: Module>() -> ModuleHandle {
    let _registering = running::registering();
    let module = Box::leak(Box::new(sys::spdk_bdev_module {
        module_init: Some(init::<M>),
        fini_start: Some(fini_start::<M>),
        module_fini: Some(fini::<M>),
        config_json: Some(config_json::<M>),
        get_ctx_size: Some(context_size),
        name: M::NAME.as_ptr(),
        async_fini: true,
        ..Default::default()
    }));
    // SAFETY: the module lives for ever; nobody else registers anything, and SPDK has not started.
    unsafe { sys::spdk_bdev_module_list_add(module) };
    let module = NonNull::from(module);
    HERE.lock().unwrap_or_else(PoisonError::into_inner).push(module.addr().get());
    ModuleHandle(module)
}

/// Makes a module known to the bdev layer that has no devices, and claims those of others. To be called before SPDK
/// starts, once for each name.
///
/// # Panics
/// When SPDK has started.
#[must_use]
pub fn register_claimer(name: &'static CStr) -> ModuleHandle {
    unsafe extern "C" fn init() -> c_int {
        0
    }
    let _registering = running::registering();
    let module = Box::leak(Box::new(sys::spdk_bdev_module {
        module_init: Some(init),
        name: name.as_ptr(),
        ..Default::default()
    }));
    // SAFETY: the module lives for ever; nobody else registers anything, and SPDK has not started.
    unsafe { sys::spdk_bdev_module_list_add(module) };
    ModuleHandle(NonNull::from(module))
}

unsafe extern "C" fn init<M: Module>() -> c_int {
    running::part_starts();
    M::init().inspect_err(|_| running::part_ended()).err().map_or(0, Errno::negated)
}

unsafe extern "C" fn fini_start<M: Module>() {
    M::fini_start();
}

unsafe extern "C" fn fini<M: Module>() {
    M::fini(ModuleFiniDone(PhantomData));
}

unsafe extern "C" fn config_json<M: Module>(out: *mut sys::spdk_json_write_ctx) -> c_int {
    // SAFETY: SPDK gives its writer for the time of the call.
    M::write_config(&mut unsafe { JsonWriter::from_raw(out) });
    0
}

unsafe extern "C" fn context_size() -> c_int {
    c_int::try_from(size_of::<Context>()).unwrap_or(c_int::MAX)
}
