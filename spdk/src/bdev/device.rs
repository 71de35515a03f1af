//! A device of a bdev module, and its registration.

use std::cell::UnsafeCell;
use std::ffi::{CString, c_int, c_void};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nvme_spec::{Cqe, IoOpcode};
use spdk_sys as sys;

use super::{BdevIo, ModuleHandle};
use crate::Errno;
use crate::io_device::{IoChannel, context};
use crate::json::JsonWriter;
use crate::thread::on_app_thread;

/// A kind of I/O.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IoType {
    /// Read blocks.
    Read,
    /// Write blocks.
    Write,
    /// Deallocate blocks.
    Unmap,
    /// Make what was written durable.
    Flush,
    /// Call off everything and start afresh.
    Reset,
    /// An NVMe admin command.
    NvmeAdmin,
    /// An NVMe I/O command with a flat buffer.
    NvmeIo,
    /// An NVMe I/O command with a flat buffer and metadata.
    NvmeIoMd,
    /// An NVMe I/O command with a scatter-gather list and perhaps metadata.
    NvmeIovMd,
    /// Write zeroes.
    WriteZeroes,
    /// Compare with what is there.
    Compare,
    /// Compare, and write if equal, as one.
    CompareAndWrite,
    /// Abort another I/O.
    Abort,
    /// The NVMe I/O command of that opcode among those that are passed through. No I/O is of this kind: a device is
    /// asked only whether it supports it.
    NvmeCommand(IoOpcode),
    /// Anything else, by SPDK's number.
    Other(u32),
}

/// SPDK has no numbers by which a bdev can say which NVMe commands it has. Modules that do not know these say no.
const NVME_COMMANDS: u32 = 0x4000_0000;

impl IoType {
    /// Returns the number by which a bdev's module is asked of an NVMe I/O command.
    pub(crate) fn of_nvme_command(opcode: IoOpcode) -> u32 {
        NVME_COMMANDS | u32::from(opcode.0)
    }

    pub(super) fn from_raw(raw: u32) -> Self {
        use sys::spdk_bdev_io_type as t;
        match raw {
            t::SPDK_BDEV_IO_TYPE_READ => Self::Read,
            t::SPDK_BDEV_IO_TYPE_WRITE => Self::Write,
            t::SPDK_BDEV_IO_TYPE_UNMAP => Self::Unmap,
            t::SPDK_BDEV_IO_TYPE_FLUSH => Self::Flush,
            t::SPDK_BDEV_IO_TYPE_RESET => Self::Reset,
            t::SPDK_BDEV_IO_TYPE_NVME_ADMIN => Self::NvmeAdmin,
            t::SPDK_BDEV_IO_TYPE_NVME_IO => Self::NvmeIo,
            t::SPDK_BDEV_IO_TYPE_NVME_IO_MD => Self::NvmeIoMd,
            t::SPDK_BDEV_IO_TYPE_NVME_IOV_MD => Self::NvmeIovMd,
            t::SPDK_BDEV_IO_TYPE_WRITE_ZEROES => Self::WriteZeroes,
            t::SPDK_BDEV_IO_TYPE_COMPARE => Self::Compare,
            t::SPDK_BDEV_IO_TYPE_COMPARE_AND_WRITE => Self::CompareAndWrite,
            t::SPDK_BDEV_IO_TYPE_ABORT => Self::Abort,
            other => match u8::try_from(other ^ NVME_COMMANDS) {
                Ok(opcode) => Self::NvmeCommand(IoOpcode(opcode)),
                Err(_) => Self::Other(other),
            },
        }
    }
}

/// A device that the bdev layer sends I/O to, on any number of threads.
pub trait Device: Send + Sync + Sized + 'static {
    /// A thread's part of the I/O device that [`channel`](Self::channel) refers to.
    type Channel: 'static;

    /// Returns the calling thread's channel for this device.
    ///
    /// # Errors
    /// What keeps this thread from using the device.
    fn channel(&self) -> Result<IoChannel<Self::Channel>, Errno>;

    /// Returns whether the device can carry out I/O of this kind.
    fn supports(&self, io_type: IoType) -> bool;

    /// Carries out an I/O, which must be completed once, now or later, on this thread.
    fn submit(&self, channel: &Self::Channel, io: BdevIo<Self>);

    /// Carries out an I/O that came by [`submit`](Self::submit) and was not completed then.
    fn resubmit(&self, channel: &Self::Channel, io: BdevIo<Self>) {
        self.submit(channel, io);
    }

    /// An NVMe command that was given for `io` was completed; `second` tells the second of a fused pair.
    fn completed(io: BdevIo<Self>, completion: Cqe, second: bool);

    /// Tells what `bdev_get_bdevs` should say of it, as names and values.
    fn describe(&self, out: &mut JsonWriter);

    /// Writes the RPC, as an object with `method` and `params`, that makes this device again.
    fn write_config(&self, out: &mut JsonWriter);

    /// Writes its own I/O statistics, as names and values.
    fn write_stats(&self, _out: &mut JsonWriter) {}

    /// Begins its own I/O statistics at zero.
    fn reset_stats(&self) {}

    /// The bdev layer has let go of it.
    fn destructed(&self) {}
}

/// Protection information of a device's metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protection {
    /// Type 1, 2 or 3.
    pub kind: u32,
    /// It stands at the start of the metadata.
    pub at_start: bool,
    /// SPDK's number of its format.
    pub format: u32,
}

/// What the bdev layer must know of a device. Zero or `None` says that there is no such limit.
#[derive(Debug, Clone, Default)]
pub struct DeviceInfo {
    /// Its name.
    pub name: String,
    /// What kind of device it is, for people.
    pub product_name: &'static str,
    /// Bytes of a block, with interleaved metadata.
    pub block_size: u32,
    /// Bytes of a block of the medium.
    pub physical_block_size: u32,
    /// Number of blocks.
    pub blocks: u64,
    /// Its UUID. SPDK makes one up if there is none.
    pub uuid: Option<[u8; 16]>,
    /// The identifier of the namespace that it is, to which NVMe commands that are passed through are addressed. A
    /// front end that passes commands through needs it; 0 says that it is none.
    pub nsid: u32,
    /// There is a volatile write cache.
    pub write_cache: bool,
    /// The most blocks of a read or write; longer ones are split.
    pub max_rw_blocks: u32,
    /// The most bytes of an element of an I/O's scatter-gather list.
    pub max_segment_bytes: u32,
    /// The most such elements.
    pub max_segments: u32,
    /// A boundary in blocks at which reads and writes are split.
    pub io_boundary: u32,
    /// The most blocks of an unmap.
    pub max_unmap_blocks: u32,
    /// The most blocks of a write zeroes.
    pub max_write_zeroes_blocks: u32,
    /// The most blocks of a compare-and-write.
    pub acwu: u16,
    /// Preferred write granularity and alignment, unmap granularity and alignment, and optimal write size, in blocks.
    pub preferred: Option<[u32; 5]>,
    /// Bytes of metadata per block.
    pub metadata_size: u32,
    /// The metadata follows each block's data in the same buffer.
    pub metadata_interleaved: bool,
    /// Its protection information.
    pub protection: Option<Protection>,
}

/// A device with what SPDK needs beside it, in one place in memory.
struct Node<D> {
    raw: UnsafeCell<sys::spdk_bdev>,
    table: sys::spdk_bdev_fn_table,
    name: CString,
    product: CString,
    /// The size that the bdev layer was told of.
    blocks: AtomicU64,
    /// The bdev layer was asked to let go of it.
    leaving: AtomicBool,
    gone: AtomicBool,
    device: D,
}

// SAFETY: SPDK's own structure is touched here on the application's thread only, and by SPDK as it guards it; the rest
// is only read or atomic, and the device is `Sync`.
unsafe impl<D: Sync> Sync for Node<D> {}
// SAFETY: the structure is bound to no thread.
unsafe impl<D: Send> Send for Node<D> {}

/// A registered device.
pub struct Bdev<D: Device>(Arc<Node<D>>);

impl<D: Device> Clone for Bdev<D> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<D: Device> Bdev<D> {
    /// Registers `device` with the bdev layer.
    ///
    /// # Errors
    /// `PERM` off the application's thread, `EXIST` when there is a bdev of that name or UUID, `INVAL` for a name or a
    /// geometry that cannot be.
    pub fn register(module: ModuleHandle, info: &DeviceInfo, device: D) -> Result<Self, Errno> {
        if !on_app_thread() {
            return Err(Errno::PERM);
        }
        if info.block_size == 0 || info.blocks == 0 || info.name.is_empty() {
            return Err(Errno::INVAL);
        }
        let node = Arc::new(Node {
            raw: UnsafeCell::new(sys::spdk_bdev::default()),
            table: fn_table::<D>(),
            name: CString::new(info.name.as_str()).map_err(|_| Errno::INVAL)?,
            product: CString::new(info.product_name).map_err(|_| Errno::INVAL)?,
            blocks: AtomicU64::new(info.blocks),
            leaving: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            device,
        });
        let raw = node.raw.get();
        // SAFETY: nobody else knows the structure yet. The pointers in it are to parts of the same node, of which SPDK
        // keeps one count until `destruct`.
        let rc = unsafe {
            let bdev = raw;
            let raw = &mut *bdev;
            fill_in(raw, info);
            raw.name = node.name.as_ptr().cast_mut();
            raw.product_name = node.product.as_ptr().cast_mut();
            raw.fn_table = &raw const node.table;
            raw.module = module.as_ptr();
            raw.ctxt = Arc::into_raw(Arc::clone(&node)).cast_mut().cast();
            sys::spdk_bdev_register(bdev)
        };
        if let Err(errno) = Errno::check(rc) {
            // SAFETY: as above; SPDK changes the status on this thread only.
            if !is_being_unregistered(unsafe { (*raw).internal.status }) {
                // SAFETY: SPDK did not take the count.
                drop(unsafe { Arc::from_raw(Arc::as_ptr(&node)) });
            }
            return Err(errno);
        }
        Ok(Self(node))
    }

    /// Returns the device.
    #[must_use]
    pub fn device(&self) -> &D {
        &self.0.device
    }

    /// Returns whether the bdev layer still has it.
    #[must_use]
    pub fn is_registered(&self) -> bool {
        !self.0.gone.load(Ordering::Acquire)
    }

    /// Returns its size in blocks, as the bdev layer knows it.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.0.blocks.load(Ordering::Acquire)
    }

    /// Tells the bdev layer, and through it who uses the device, of a new size.
    ///
    /// # Errors
    /// `BUSY` when it would shrink while somebody uses it, `NXIO` when it is gone.
    pub fn resize(&self, blocks: u64) -> Result<(), Errno> {
        if !on_app_thread() || !self.is_registered() {
            return Err(Errno::NXIO);
        }
        // SAFETY: the bdev is registered, and this is the application's thread.
        Errno::check(unsafe { sys::spdk_bdev_notify_blockcnt_change(self.0.raw.get(), blocks) })?;
        self.0.blocks.store(blocks, Ordering::Release);
        Ok(())
    }

    /// Takes the device from the bdev layer: who uses it is told to let go, and `done` is called when that has
    /// happened.
    ///
    /// # Errors
    /// `NODEV` when it is gone already, `BUSY` while it is being taken; `done` is not called then.
    pub fn unregister(&self, done: impl FnOnce(Result<(), Errno>) + 'static) -> Result<(), Errno> {
        unsafe extern "C" fn call<F: FnOnce(Result<(), Errno>)>(ctx: *mut c_void, rc: c_int) {
            // SAFETY: the box that was given to SPDK below, which calls back once.
            let done = unsafe { Box::from_raw(ctx.cast::<F>()) };
            done(Errno::check(rc));
        }
        type Call = unsafe extern "C" fn(*mut c_void, c_int);
        fn call_for<F: FnOnce(Result<(), Errno>)>(_: &F) -> Call {
            call::<F>
        }
        if !on_app_thread() || !self.is_registered() {
            return Err(Errno::NODEV);
        }
        // Its name may be another's by now.
        if self.0.leaving.swap(true, Ordering::AcqRel) {
            return Err(Errno::BUSY);
        }
        let call = Some(call_for(&done));
        let ctx = Box::into_raw(Box::new(done));
        // SAFETY: the node outlives the call, and the callback expects the box.
        let rc = unsafe {
            let module = (*self.0.raw.get()).module;
            sys::spdk_bdev_unregister_by_name(self.0.name.as_ptr(), module, call, ctx.cast())
        };
        Errno::check(rc).inspect_err(|_| {
            self.0.leaving.store(false, Ordering::Release);
            // SAFETY: SPDK did not take the box.
            drop(unsafe { Box::from_raw(ctx) });
        })
    }
}

impl<D: Device> std::fmt::Debug for Bdev<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bdev").field("name", &self.0.name).finish_non_exhaustive()
    }
}

/// Returns whether a bdev is on its way out. The bdev layer begins that by itself where it finds only after it has
/// registered a bdev that it cannot, and destructs the bdev later although it could not be registered.
fn is_being_unregistered(status: u32) -> bool {
    use sys::spdk_bdev_status as s;
    matches!(status, s::SPDK_BDEV_STATUS_UNREGISTERING | s::SPDK_BDEV_STATUS_REMOVING)
}

fn fill_in(raw: &mut sys::spdk_bdev, info: &DeviceInfo) {
    raw.blocklen = info.block_size;
    raw.nsid = info.nsid;
    raw.phys_blocklen = info.physical_block_size;
    raw.blockcnt = info.blocks;
    raw.write_cache = c_int::from(info.write_cache);
    raw.max_rw_size = info.max_rw_blocks;
    raw.max_segment_size = info.max_segment_bytes;
    raw.max_num_segments = info.max_segments;
    raw.optimal_io_boundary = info.io_boundary;
    raw.max_unmap = info.max_unmap_blocks;
    raw.max_unmap_segments = u32::from(info.max_unmap_blocks != 0);
    raw.max_write_zeroes = info.max_write_zeroes_blocks;
    raw.acwu = info.acwu;
    raw.md_len = info.metadata_size;
    raw.__bindgen_anon_1.set_split_on_optimal_io_boundary(u32::from(info.io_boundary != 0));
    raw.__bindgen_anon_1.set_md_interleave(u32::from(info.metadata_interleaved));
    if let Some(protection) = info.protection {
        raw.dif_type = protection.kind;
        raw.dif_pi_format = protection.format;
        raw.__bindgen_anon_1.set_dif_is_head_of_md(u32::from(protection.at_start));
    }
    if let Some([granularity, alignment, unmap_granularity, unmap_alignment, size]) = info.preferred {
        raw.preferred_write_granularity = granularity;
        raw.preferred_write_alignment = alignment;
        raw.preferred_unmap_granularity = unmap_granularity;
        raw.preferred_unmap_alignment = unmap_alignment;
        raw.optimal_write_size = size;
    }
    if let Some(uuid) = info.uuid {
        // SAFETY: a UUID is 16 bytes in every variant of the union.
        raw.uuid = unsafe { std::mem::transmute::<[u8; 16], sys::spdk_uuid>(uuid) };
    }
}

fn fn_table<D: Device>() -> sys::spdk_bdev_fn_table {
    sys::spdk_bdev_fn_table {
        destruct: Some(destruct::<D>),
        submit_request: Some(submit_request::<D>),
        io_type_supported: Some(io_type_supported::<D>),
        get_io_channel: Some(get_io_channel::<D>),
        dump_info_json: Some(dump_info_json::<D>),
        write_config_json: Some(write_config_json::<D>),
        reset_device_stat: Some(reset_device_stat::<D>),
        dump_device_stat_json: Some(dump_device_stat_json::<D>),
        ..Default::default()
    }
}

/// # Safety
/// `ctx` must be the context of a registered bdev of `D`'s; the reference must not outlive it.
unsafe fn node<'a, D>(ctx: *mut c_void) -> &'a Node<D> {
    // SAFETY: `register` made the context of an `Arc` whose count SPDK holds.
    unsafe { &*ctx.cast::<Node<D>>() }
}

/// Returns the device that an I/O was sent to.
///
/// # Safety
/// `io` must be a live I/O of a bdev of `D`'s; the reference must not outlive it.
pub(super) unsafe fn device_of<'a, D: Device>(io: *mut sys::spdk_bdev_io) -> &'a D {
    // SAFETY: a bdev outlives its I/Os.
    &unsafe { node::<D>((*(*io).bdev).ctxt) }.device
}

unsafe extern "C" fn destruct<D: Device>(ctx: *mut c_void) -> c_int {
    // SAFETY: the count that `register` gave to SPDK, which destructs a bdev once.
    let node = unsafe { Arc::from_raw(ctx.cast::<Node<D>>().cast_const()) };
    node.gone.store(true, Ordering::Release);
    node.device.destructed();
    0
}

unsafe extern "C" fn submit_request<D: Device>(ch: *mut sys::spdk_io_channel, io: *mut sys::spdk_bdev_io) {
    // SAFETY: SPDK sends an I/O to its bdev, on the thread of a live channel that `get_io_channel` gave.
    unsafe {
        let Some(raw) = NonNull::new(io) else { return };
        let channel = &**context::<D::Channel>(ch);
        device_of::<D>(io).submit(channel, BdevIo::arrived(raw));
    }
}

unsafe extern "C" fn io_type_supported<D: Device>(ctx: *mut c_void, io_type: u32) -> bool {
    // SAFETY: the bdev is registered.
    unsafe { node::<D>(ctx) }.device.supports(IoType::from_raw(io_type))
}

unsafe extern "C" fn get_io_channel<D: Device>(ctx: *mut c_void) -> *mut sys::spdk_io_channel {
    // SAFETY: the bdev is registered.
    unsafe { node::<D>(ctx) }.device.channel().map_or(std::ptr::null_mut(), IoChannel::into_raw)
}

unsafe extern "C" fn dump_info_json<D: Device>(ctx: *mut c_void, out: *mut sys::spdk_json_write_ctx) -> c_int {
    // SAFETY: the bdev is registered; SPDK gives its writer for the time of the call.
    unsafe { node::<D>(ctx).device.describe(&mut JsonWriter::from_raw(out)) };
    0
}

unsafe extern "C" fn write_config_json<D: Device>(bdev: *mut sys::spdk_bdev, out: *mut sys::spdk_json_write_ctx) {
    // SAFETY: as above.
    unsafe { node::<D>((*bdev).ctxt).device.write_config(&mut JsonWriter::from_raw(out)) };
}

unsafe extern "C" fn reset_device_stat<D: Device>(ctx: *mut c_void) {
    // SAFETY: the bdev is registered.
    unsafe { node::<D>(ctx) }.device.reset_stats();
}

unsafe extern "C" fn dump_device_stat_json<D: Device>(ctx: *mut c_void, out: *mut sys::spdk_json_write_ctx) {
    // SAFETY: as above; SPDK gives its writer for the time of the call.
    unsafe { node::<D>(ctx).device.write_stats(&mut JsonWriter::from_raw(out)) };
}
