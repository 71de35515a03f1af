//! Devices of a bdev module: how they are registered and let go.
#![expect(unsafe_code, reason = "memory that runs out is played by the program's own calloc()")]

mod harness;

use std::ffi::{CStr, c_void};
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use harness::{on_app, wait_until};
use nvme_spec::{Cqe, IoOpcode};
use serde_json::json;
use serial_test::serial;
use spdk::Errno;
use spdk::bdev::{
    Bdev, BdevIo, Device, DeviceInfo, IoStatus, IoType, Module, ModuleFiniDone, ModuleHandle, register_module,
};
use spdk::bdev_client::BdevDesc;
use spdk::io_device::{ChannelFactory, IoChannel, IoDevice};
use spdk::json::JsonWriter;

/// The thread whose allocations are counted, and after how many one fails. At -1 that has happened.
static COUNTED: AtomicI32 = AtomicI32::new(0);
static LEFT: AtomicI32 = AtomicI32::new(0);

unsafe extern "C" {
    fn __libc_calloc(count: usize, size: usize) -> *mut c_void;
}

/// Returns the C library's, but for the one that is to fail.
#[unsafe(no_mangle)]
extern "C" fn calloc(count: usize, size: usize) -> *mut c_void {
    let counted = COUNTED.load(Ordering::Relaxed);
    // SAFETY: tells a number.
    if counted != 0 && counted == unsafe { libc::gettid() } && LEFT.fetch_sub(1, Ordering::Relaxed) == 0 {
        COUNTED.store(0, Ordering::Relaxed);
        return std::ptr::null_mut();
    }
    // SAFETY: what the caller asks of `calloc`.
    unsafe { __libc_calloc(count, size) }
}

/// Calls `f` with the `calloc()` that comes after `before` others on this thread failing; whether there was one.
fn out_of_memory_after<R>(before: i32, f: impl FnOnce() -> R) -> (R, bool) {
    LEFT.store(before, Ordering::Relaxed);
    // SAFETY: tells a number.
    COUNTED.store(unsafe { libc::gettid() }, Ordering::Relaxed);
    let result = f();
    (result, COUNTED.swap(0, Ordering::Relaxed) == 0)
}

static MODULE: OnceLock<ModuleHandle> = OnceLock::new();

struct Test;

impl Module for Test {
    const NAME: &'static CStr = c"test";

    fn init() -> Result<(), Errno> {
        Ok(())
    }

    fn fini_start() {}

    fn fini(done: ModuleFiniDone) {
        drop(done);
    }

    fn write_config(_: &mut JsonWriter) {}
}

fn module() -> ModuleHandle {
    harness::start("0x1", || {
        let _ = MODULE.set(register_module::<Test>());
    });
    *MODULE.get().expect("the application has started")
}

/// A device that answers nothing, and counts how often it was dropped.
struct Null {
    channels: IoDevice<Channels>,
    dropped: Arc<AtomicU32>,
}

struct Channels;

impl ChannelFactory for Channels {
    type Channel = ();

    fn create(&self) -> Result<(), Errno> {
        Ok(())
    }
}

impl Device for Null {
    type Channel = ();

    fn channel(&self) -> Result<IoChannel<()>, Errno> {
        self.channels.channel()
    }

    fn supports(&self, io_type: IoType) -> bool {
        let verify = IoType::NvmeCommand(IoOpcode::VERIFY);
        matches!(io_type, IoType::Read | IoType::Write | IoType::Flush | IoType::NvmeIo) || io_type == verify
    }

    fn submit(&self, (): &(), io: BdevIo<Self>) {
        io.complete(IoStatus::Failed);
    }

    fn completed(io: BdevIo<Self>, _: Cqe, _: bool) {
        io.complete(IoStatus::Failed);
    }

    fn describe(&self, _: &mut JsonWriter) {}

    fn write_config(&self, _: &mut JsonWriter) {}
}

impl Drop for Null {
    fn drop(&mut self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
        let _ = self.channels.clone().unregister(|| ());
    }
}

fn register(module: ModuleHandle, name: &str, dropped: &Arc<AtomicU32>) -> Result<Bdev<Null>, Errno> {
    let channels = IoDevice::register("null", Channels).expect("an SPDK thread");
    let info =
        DeviceInfo { name: name.to_owned(), product_name: "Null", block_size: 512, blocks: 8, ..DeviceInfo::default() };
    Bdev::register(module, &info, Null { channels, dropped: Arc::clone(dropped) })
}

#[test]
#[serial]
fn a_bdev_that_cannot_be_registered_for_want_of_memory_is_dropped_once() {
    let module = module();
    let mut after_registration = 0;
    for before in 0.. {
        let dropped = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&dropped);
        let (registered, at_once, failed) = on_app(move || {
            let channels = IoDevice::register("null", Channels).expect("an SPDK thread");
            let name = format!("scarce{before}");
            let info = DeviceInfo { name, product_name: "Null", block_size: 512, blocks: 8, ..DeviceInfo::default() };
            let null = Null { channels, dropped: Arc::clone(&counted) };
            let (result, failed) = out_of_memory_after(before, || Bdev::register(module, &info, null));
            let at_once = counted.load(Ordering::Relaxed);
            // One that was registered goes when it may.
            if let Ok(bdev) = &result {
                bdev.unregister(|_| ()).expect("it is registered");
            }
            (result.is_ok(), at_once, failed)
        });
        // What is destructed later is so by messages.
        for _ in 0..20 {
            on_app(|| ());
        }
        let dropped = dropped.load(Ordering::Relaxed);
        assert!(dropped <= 1, "dropped {dropped} times when calloc() {before} fails");
        if !registered {
            after_registration += u32::from(at_once == 0 && dropped == 1);
        }
        if !failed {
            assert!(registered && dropped == 1, "with enough memory");
            break;
        }
    }
    assert!(after_registration > 0, "registration failed once after the bdev was registered");
}

#[test]
#[serial]
fn a_second_bdev_of_a_name_is_refused_and_dropped_at_once() {
    let module = module();
    let counts: [Arc<AtomicU32>; 2] = Default::default();
    let dropped = counts.clone();
    let second = on_app(move || {
        let first = register(module, "one", &counts[0]).expect("it is the first");
        let second = register(module, "one", &counts[1]).err();
        let dropped = counts[1].load(Ordering::Relaxed);
        first.unregister(|_| ()).expect("it is registered");
        (second, dropped)
    });
    assert_eq!(second, (Some(Errno::EXIST), 1));
    wait_until("the first is dropped", || dropped[0].load(Ordering::Relaxed) == 1);
}

#[test]
#[serial]
fn a_bdev_that_is_on_its_way_out_does_not_take_another_of_its_name_along() {
    let module = module();
    let counts: [Arc<AtomicU32>; 2] = Default::default();
    let dropped = counts.clone();
    let (again, registered) = on_app(move || {
        let first = register(module, "name", &counts[0]).expect("it is the first");
        // It is destructed by a message, its name is free before.
        first.unregister(|_| ()).expect("it is registered");
        let again = first.unregister(|_| ()).err();
        (again, first.is_registered())
    });
    assert_eq!((again, registered), (Some(Errno::BUSY), true));
    wait_until("the first is dropped", || dropped[0].load(Ordering::Relaxed) == 1);
}

#[test]
#[serial]
fn any_thread_is_told_the_size_that_the_bdev_layer_knows() {
    let module = module();
    let dropped = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&dropped);
    let bdev = on_app(move || register(module, "sized", &counted).expect("it is registered"));
    assert_eq!(bdev.blocks(), 8);
    let resized = bdev.clone();
    assert_eq!(on_app(move || resized.resize(16)), Ok(()));
    assert_eq!(bdev.blocks(), 16);
    assert_eq!(bdev.resize(32), Err(Errno::NXIO), "off the application's thread");
    on_app(move || bdev.unregister(|_| ()).expect("it is registered"));
    wait_until("it is dropped", || dropped.load(Ordering::Relaxed) == 1);
}

#[test]
#[serial]
fn only_a_module_that_knows_them_is_asked_of_nvme_commands() {
    let module = module();
    let app = harness::start("0x1", || ());
    let dropped = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&dropped);
    let bdev = on_app(move || register(module, "below", &counted).expect("it is registered"));
    let found = |name: &'static str| {
        on_app(move || {
            let info = BdevDesc::open(name, |_| ()).expect("it is there").describe();
            (info.can_pass_through, info.can_verify, info.can_write_uncorrectable)
        })
    };
    assert_eq!(found("below"), (true, true, false));
    // A module of SPDK's, which takes the same kinds of I/O, and would look for a bit of its own for Write
    // Uncorrectable.
    let made = app.rpc("bdev_passthru_create", json!({ "name": "above", "base_bdev_name": "below" }));
    assert_eq!(made, Ok(json!("above")));
    assert_eq!(found("above"), (true, false, false));
    assert_eq!(app.rpc("bdev_passthru_delete", json!({ "name": "above" })), Ok(json!(true)));
    on_app(move || bdev.unregister(|_| ()).expect("it is registered"));
    wait_until("it is dropped", || dropped.load(Ordering::Relaxed) == 1);
}

#[test]
#[serial]
fn nothing_is_registered_once_spdk_has_started() {
    module();
    let late = std::panic::catch_unwind(register_module::<Test>);
    assert!(late.is_err());
    let again = spdk::app::App { name: c"again", options: &[], on_shutdown: || () }.run(["again".into()], |_| Ok(()));
    assert_eq!(again, std::process::ExitCode::FAILURE);
}
