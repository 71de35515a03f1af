//! Subsystems: parts of an application that SPDK starts in the order of their dependencies, ends in the reverse order,
//! and asks for their configuration.

use std::ffi::{CStr, c_int};
use std::marker::PhantomData;
use std::ptr;

use spdk_sys as sys;

use crate::json::JsonWriter;
use crate::thread::NotSend;
use crate::{Errno, running};

/// A subsystem. All of it runs on the application's thread.
pub trait Subsystem: 'static {
    /// The name of its section in a saved configuration.
    const NAME: &'static CStr;
    /// The subsystems that start before it and end after it.
    const DEPENDS_ON: &'static [&'static CStr];

    /// The application starts. SPDK goes on to the next subsystem when this returns.
    ///
    /// # Errors
    /// What keeps the application from starting.
    fn init() -> Result<(), Errno>;

    /// The application ends. `done` is to be dropped when nothing of the subsystem is left.
    fn fini(done: FiniDone);

    /// Writes the RPCs, as objects with `method` and `params`, that bring back the subsystem's state.
    fn write_config(out: &mut JsonWriter);
}

/// The application's end waits until this is dropped.
#[derive(Debug)]
#[must_use = "the application ends once this is dropped"]
pub struct FiniDone(NotSend);

impl Drop for FiniDone {
    fn drop(&mut self) {
        running::part_ended();
        // SAFETY: `fini` made this value, once, on the application's thread.
        unsafe { sys::spdk_subsystem_fini_next() };
    }
}

/// Makes `S` known to SPDK. To be called before SPDK starts, once.
///
/// # Panics
/// When SPDK has started.
pub fn register<S: Subsystem>() {
    let _registering = running::registering();
    let subsystem = Box::leak(Box::new(sys::spdk_subsystem {
        name: S::NAME.as_ptr(),
        init: Some(init::<S>),
        fini: Some(fini::<S>),
        write_config_json: Some(write_config::<S>),
        links: [ptr::null_mut(); 2],
    }));
    // SAFETY: what is added lives for ever; nobody else registers anything, and SPDK has not started.
    unsafe { sys::spdk_add_subsystem(subsystem) };
    for name in S::DEPENDS_ON {
        let depend = Box::leak(Box::new(sys::spdk_subsystem_depend {
            name: S::NAME.as_ptr(),
            depends_on: name.as_ptr(),
            links: [ptr::null_mut(); 2],
        }));
        // SAFETY: as above.
        unsafe { sys::spdk_add_subsystem_depend(depend) };
    }
}

unsafe extern "C" fn init<S: Subsystem>() {
    running::part_starts();
    let rc: c_int = S::init().inspect_err(|_| running::part_ended()).err().map_or(0, Errno::negated);
    // SAFETY: called once per start, on the thread that SPDK starts subsystems on.
    unsafe { sys::spdk_subsystem_init_next(rc) };
}

unsafe extern "C" fn fini<S: Subsystem>() {
    S::fini(FiniDone(PhantomData));
}

unsafe extern "C" fn write_config<S: Subsystem>(out: *mut sys::spdk_json_write_ctx) {
    // SAFETY: SPDK gives its writer for the time of the call; the array is this subsystem's value.
    unsafe {
        sys::spdk_json_write_array_begin(out);
        S::write_config(&mut JsonWriter::from_raw(out));
        sys::spdk_json_write_array_end(out);
    }
}
