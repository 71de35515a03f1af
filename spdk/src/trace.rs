//! SPDK's tracepoints: records of steps, in a ring of shared memory for each core, which `spdk_trace` reads.
//!
//! A process has one group of tracepoints besides those of SPDK's own parts. While nothing of it is recorded, a
//! tracepoint costs a load and a branch that is not taken: whether something is, is looked up from time to time, by
//! [`refresh`].

use std::ffi::CStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use spdk_sys as sys;

use crate::running;

/// The last of the 20 groups that there may be, which is none of SPDK 26.01's own.
const GROUP: u8 = 0x13;
/// The kind of objects and owners of this group, which is none of SPDK's own.
const KIND: u8 = 0xe0;
/// The letters by which `spdk_trace` tells these from others.
const OBJECT_LETTER: u8 = b'c';
const OWNER_LETTER: u8 = b'C';
/// SPDK's kind of I/Os of the bdev layer.
const BDEV_IO: u8 = 0x02;
/// Tracepoints of SPDK's that name an object of ours, or an I/O of the bdev layer, in one of their arguments: the
/// group, the number in it, the kind of the object and the argument.
const RELATIONS: [(u16, u16, u8, u8); 4] = [
    // BDEV_IO_START and BDEV_IO_DONE tell who sent the I/O.
    (0x03, 0x00, KIND, 1),
    (0x03, 0x01, KIND, 0),
    // NVME_TCP_SUBMIT and NVME_TCP_COMPLETE, likewise.
    (0x0d, 0x00, BDEV_IO, 0),
    (0x0d, 0x01, BDEV_IO, 0),
];

/// What a tracepoint is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Object {
    /// Nothing that other tracepoints know.
    None,
    /// An object of this group, which begins here.
    New,
    /// An object of this group.
    Known,
    /// An I/O of the bdev layer.
    BdevLayer,
}

/// A tracepoint.
#[derive(Debug, Clone, Copy)]
pub struct Point {
    /// Its number in the group, 0 to 63.
    pub number: u8,
    /// Its name, of at most 23 bytes.
    pub name: &'static CStr,
    /// What it is about.
    pub object: Object,
    /// The names of its arguments, of at most 13 bytes.
    pub arguments: [&'static CStr; 3],
}

/// What is recorded at a tracepoint.
#[derive(Debug, Clone, Copy)]
pub struct TraceRecord {
    /// Whose it is, or 0.
    pub owner: u16,
    /// Bytes of data.
    pub size: u32,
    /// The object, by any number that tells it from the others that there are now.
    pub object: u64,
    /// The arguments.
    pub arguments: [u64; 3],
}

static POINTS: OnceLock<&'static [&'static [Point]]> = OnceLock::new();

/// The tracepoints of the group that are recorded, as bits by number.
static MASK: AtomicU64 = AtomicU64::new(0);

/// Makes a group of tracepoints known to SPDK. To be called before SPDK starts, once.
///
/// # Panics
/// When SPDK has started.
pub fn register(name: &'static CStr, points: &'static [&'static [Point]]) {
    let _registering = running::registering();
    if POINTS.set(points).is_err() {
        return;
    }
    let group = Box::leak(Box::new(sys::spdk_trace_register_fn {
        name: name.as_ptr(),
        tgroup_id: GROUP,
        reg_fn: Some(describe),
        next: std::ptr::null_mut(),
    }));
    // SAFETY: the group stays for ever; nobody else registers anything, and SPDK has not started.
    unsafe { sys::spdk_trace_add_register_fn(group) };
}

const fn id(number: u8) -> u16 {
    GROUP as u16 * 64 + number as u16
}

unsafe extern "C" fn describe() {
    // SAFETY: SPDK calls this when the memory for its records is there; it copies what it is given.
    unsafe {
        sys::spdk_trace_register_object(KIND, OBJECT_LETTER.cast_signed());
        sys::spdk_trace_register_owner_type(KIND, OWNER_LETTER.cast_signed());
        for point in POINTS.get().into_iter().flat_map(|points| points.iter()).copied().flatten() {
            sys::spdk_trace_register_description_ext(&raw const *Box::new(options(point)), 1);
        }
        for (group, number, kind, argument) in RELATIONS {
            sys::spdk_trace_tpoint_register_relation(group * 64 + number, kind, argument);
        }
    }
}

fn options(point: &Point) -> sys::spdk_trace_tpoint_opts {
    let mut options = sys::spdk_trace_tpoint_opts {
        name: point.name.as_ptr(),
        tpoint_id: id(point.number),
        owner_type: KIND,
        object_type: match point.object {
            Object::None => 0,
            Object::New | Object::Known => KIND,
            Object::BdevLayer => BDEV_IO,
        },
        new_object: u8::from(point.object == Object::New),
        ..sys::spdk_trace_tpoint_opts::default()
    };
    for (argument, name) in options.args.iter_mut().zip(point.arguments) {
        argument.name = name.as_ptr();
        argument.type_ = u8::try_from(sys::SPDK_TRACE_ARG_TYPE_INT).unwrap_or(0);
        argument.size = 8;
    }
    options
}

/// Looks up what is to be recorded. To be called some times in a second, on a reactor.
#[inline]
pub fn refresh() {
    // SAFETY: reads a word of SPDK's, or nothing where there are no records.
    let mask = unsafe { sys::spdk_trace_get_tpoint_mask(GROUP.into()) };
    if MASK.load(Ordering::Relaxed) != mask {
        MASK.store(mask, Ordering::Relaxed);
    }
}

/// Returns whether anything of the group is recorded.
#[must_use]
#[inline]
pub fn is_on() -> bool {
    MASK.load(Ordering::Relaxed) != 0
}

/// Records a step, on a reactor, if its tracepoint is on.
#[cold]
pub fn record(point: &Point, record: &TraceRecord) {
    if MASK.load(Ordering::Relaxed) & (1 << (point.number & 63)) == 0 {
        return;
    }
    let TraceRecord { owner, size, object, arguments: [first, second, third] } = *record;
    // SAFETY: a bit of the mask is set only while there is memory for records, which stays until all reactors have
    // ended. The arguments are as many, and of the size, as `options` said.
    unsafe { sys::_spdk_trace_record(0, id(point.number), owner, size, object, 3, first, second, third) };
}

/// Something that records belong to, with a name that `spdk_trace` shows.
#[derive(Debug)]
pub struct TraceOwner(u16);

impl TraceOwner {
    /// Returns an owner of that name, of which the first 64 bytes are shown.
    #[must_use]
    pub fn new(name: &CStr) -> Self {
        // SAFETY: SPDK copies the name. Where there are no records, it gives 0.
        Self(unsafe { sys::spdk_trace_register_owner(KIND, name.as_ptr()) })
    }

    /// Returns what [`TraceRecord::owner`] is to be; 0 where there are no records.
    #[must_use]
    pub fn id(&self) -> u16 {
        self.0
    }
}

impl Drop for TraceOwner {
    fn drop(&mut self) {
        // SAFETY: it was given by SPDK, and is given back once; 0 is nothing.
        unsafe { sys::spdk_trace_unregister_owner(self.0) };
    }
}
