//! Checks that the SPDK in this process is the one that this was built for.
//!
//! A plugin finds SPDK in the process that loads it. The linker tells whether its functions are there, and nothing
//! tells whether its structures are the same: forks of one version differ in them. So SPDK itself is asked, before it
//! starts, by functions that do no more than read a structure: each is given one that is filled with a pattern, and
//! what it gives back tells where it has read.

use std::ffi::{c_char, c_int, c_void};
use std::fmt;
use std::mem::offset_of;
use std::ptr;

use spdk_sys as sys;

/// What is different.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mismatch {
    /// Major and minor number of the version.
    Version {
        /// This process' SPDK's.
        found: (u32, u32),
    },
    /// A structure.
    Layout {
        /// The structure and its member.
        what: &'static str,
    },
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = VERSION;
        match self {
            Self::Version { found } => {
                write!(
                    f,
                    "the SPDK of this program is {}.{:02}, Courier was built for {major}.{minor:02}",
                    found.0, found.1
                )
            }
            Self::Layout { what } => write!(
                f,
                "the SPDK of this program has another {what} than the SPDK {major}.{minor:02} that Courier was built for (a fork of it, \
                 perhaps)"
            ),
        }
    }
}

/// The version of the headers.
const VERSION: (u32, u32) = (sys::SPDK_VERSION_MAJOR, sys::SPDK_VERSION_MINOR);

/// Ends the process with a sentence if the SPDK in it is another than the one that this was built for: what would
/// follow is memory that is written in wrong places.
pub fn require() {
    if let Err(mismatch) = check() {
        eprintln!(
            "Courier cannot be used here: {mismatch}. Build Courier with SPDK_DIR set to the SPDK that this program was built from"
        );
        // SAFETY: ends the process, in which nothing has begun yet.
        unsafe { libc::_exit(1) };
    }
}

/// Compares version and structures.
///
/// # Errors
/// The first difference.
pub(crate) fn check() -> Result<(), Mismatch> {
    // SAFETY: the functions are SPDK's own, which read no more than the structures that they are given.
    unsafe { Host::OF_THIS_PROCESS.check()? };
    match version_in_memory() {
        Some(found) if found != VERSION => Err(Mismatch::Version { found }),
        _ => Ok(()),
    }
}

type RawBdev = sys::spdk_bdev;

/// Functions of SPDK's that read a structure, and need nothing else.
struct Host {
    memory_domains: unsafe extern "C" fn(*mut RawBdev, *mut *mut sys::spdk_memory_domain, c_int) -> c_int,
    dump_info: unsafe extern "C" fn(*mut RawBdev, *mut sys::spdk_json_write_ctx) -> c_int,
    name: unsafe extern "C" fn(*const RawBdev) -> *const c_char,
    product: unsafe extern "C" fn(*const RawBdev) -> *const c_char,
    module: unsafe extern "C" fn(*const RawBdev) -> *const c_char,
    block_size: unsafe extern "C" fn(*const RawBdev) -> u32,
    physical_block_size: unsafe extern "C" fn(*const RawBdev) -> u32,
    metadata_size: unsafe extern "C" fn(*const RawBdev) -> u32,
    boundary: unsafe extern "C" fn(*const RawBdev) -> u32,
    acwu: unsafe extern "C" fn(*const RawBdev) -> u16,
    blocks: unsafe extern "C" fn(*const RawBdev) -> u64,
    io_time: unsafe extern "C" fn(*const RawBdev) -> u64,
    uuid: unsafe extern "C" fn(*const RawBdev) -> *const sys::spdk_uuid,
    io_owner: unsafe extern "C" fn(*mut sys::spdk_bdev_io) -> *mut c_void,
}

/// The bytes of a structure that stands for SPDK's: more than any version of it has.
const ROOM: usize = 16 << 10;

#[repr(C, align(64))]
struct Block([u64; ROOM / 8]);

impl Block {
    /// Each 16 bits tell where they are.
    fn numbered() -> Box<Self> {
        let mut block = Box::new(Self([0; ROOM / 8]));
        for (word, at) in block.0.iter_mut().zip((0_u64..).step_by(4)) {
            *word = at | (at + 1) << 16 | (at + 2) << 32 | (at + 3) << 48;
        }
        block
    }

    /// Each pointer leads to `to`.
    fn leading_to<T>(to: *const T) -> Box<Self> {
        Box::new(Self([to.expose_provenance() as u64; ROOM / 8]))
    }

    fn as_ptr<T>(&self) -> *mut T {
        ptr::from_ref(self).cast_mut().cast()
    }

    /// Returns what stands at `offset`, in as many bits as asked for.
    fn at(&self, offset: usize, bits: u32) -> u64 {
        let (word, shift) = (offset / 8, u32::try_from(offset % 8).unwrap_or(0) * 8);
        let value = |at: usize| u128::from(self.0.get(at).copied().unwrap_or(0));
        let wide = (value(word + 1) << 64 | value(word)) >> shift;
        u64::try_from(wide & ((1 << bits) - 1)).unwrap_or(0)
    }
}

impl Host {
    const OF_THIS_PROCESS: Self = Self {
        memory_domains: sys::spdk_bdev_get_memory_domains,
        dump_info: sys::spdk_bdev_dump_info_json,
        name: sys::spdk_bdev_get_name,
        product: sys::spdk_bdev_get_product_name,
        module: sys::spdk_bdev_get_module_name,
        block_size: sys::spdk_bdev_get_block_size,
        physical_block_size: sys::spdk_bdev_get_physical_block_size,
        metadata_size: sys::spdk_bdev_get_md_size,
        boundary: sys::spdk_bdev_get_optimal_io_boundary,
        acwu: sys::spdk_bdev_get_acwu,
        blocks: sys::spdk_bdev_get_num_blocks,
        io_time: sys::spdk_bdev_get_weighted_io_time,
        uuid: sys::spdk_bdev_get_uuid,
        io_owner: sys::spdk_bdev_io_get_cb_arg,
    };

    /// # Safety
    /// The functions may follow the pointers in what they are given, and call the functions in a table, but must do
    /// nothing else.
    unsafe fn check(&self) -> Result<(), Mismatch> {
        // SAFETY: as the caller promises.
        unsafe { self.check_tables().and_then(|()| self.check_members()) }
    }

    /// # Safety
    /// As for [`check`](Self::check).
    unsafe fn check_tables(&self) -> Result<(), Mismatch> {
        // Wherever the pointer to the table is read, it is this one; each of its entries gives its number.
        let bdev = Block::leading_to(ptr::from_ref(&SLOTS));
        let slot = |offset: usize| c_int::try_from(offset / size_of::<usize>()).unwrap_or(-1);
        // SAFETY: the functions find nothing but pointers to the table, whose entries do nothing.
        let (domains, info) = unsafe {
            ((self.memory_domains)(bdev.as_ptr(), ptr::null_mut(), 0), (self.dump_info)(bdev.as_ptr(), ptr::null_mut()))
        };
        let table = "struct spdk_bdev_fn_table";
        same(table, info == slot(offset_of!(sys::spdk_bdev_fn_table, dump_info_json)))?;
        same(table, domains == slot(offset_of!(sys::spdk_bdev_fn_table, get_memory_domains)))?;
        let module = Block::numbered();
        let bdev = Block::leading_to(ptr::from_ref(&*module));
        // SAFETY: the function finds nothing but pointers to `module`, and gives back one of its words.
        let name = unsafe { (self.module)(bdev.as_ptr()) };
        same("struct spdk_bdev_module", name.addr() as u64 == module.at(offset_of!(sys::spdk_bdev_module, name), 64))
    }

    /// # Safety
    /// As for [`check`](Self::check).
    unsafe fn check_members(&self) -> Result<(), Mismatch> {
        let block = Block::numbered();
        let bdev: *mut RawBdev = block.as_ptr();
        // SAFETY: the functions give back words of the block, or the address of one.
        let read: [(u64, usize, u32); 9] = unsafe {
            [
                ((self.name)(bdev).addr() as u64, offset_of!(RawBdev, name), 64),
                ((self.product)(bdev).addr() as u64, offset_of!(RawBdev, product_name), 64),
                ((self.block_size)(bdev).into(), offset_of!(RawBdev, blocklen), 32),
                ((self.physical_block_size)(bdev).into(), offset_of!(RawBdev, phys_blocklen), 32),
                ((self.metadata_size)(bdev).into(), offset_of!(RawBdev, md_len), 32),
                ((self.boundary)(bdev).into(), offset_of!(RawBdev, optimal_io_boundary), 32),
                ((self.acwu)(bdev).into(), offset_of!(RawBdev, acwu), 16),
                ((self.blocks)(bdev), offset_of!(RawBdev, blockcnt), 64),
                ((self.io_time)(bdev), offset_of!(RawBdev, internal.weighted_io_time), 64),
            ]
        };
        for (found, offset, bits) in read {
            same("struct spdk_bdev", found == block.at(offset, bits))?;
        }
        // SAFETY: as above.
        let (uuid, owner) = unsafe { ((self.uuid)(bdev), (self.io_owner)(block.as_ptr())) };
        same("struct spdk_bdev", uuid.addr().checked_sub(bdev.addr()) == Some(offset_of!(RawBdev, uuid)))?;
        let caller = offset_of!(sys::spdk_bdev_io, internal.caller_ctx);
        same("struct spdk_bdev_io", owner.addr() as u64 == block.at(caller, 64))
    }
}

fn same(what: &'static str, same: bool) -> Result<(), Mismatch> {
    if same { Ok(()) } else { Err(Mismatch::Layout { what }) }
}

/// Gives its number, whatever it is called as.
extern "C" fn slot<const N: c_int>() -> c_int {
    N
}

type Slot = extern "C" fn() -> c_int;

/// A table in which each entry gives its number: more of them than any version's has.
static SLOTS: [Slot; 64] = {
    macro_rules! eight {
        ($($tens:literal)*) => { [$(
            slot::<{ $tens * 8 }>, slot::<{ $tens * 8 + 1 }>, slot::<{ $tens * 8 + 2 }>, slot::<{ $tens * 8 + 3 }>,
            slot::<{ $tens * 8 + 4 }>, slot::<{ $tens * 8 + 5 }>, slot::<{ $tens * 8 + 6 }>, slot::<{ $tens * 8 + 7 }>,
        )*] };
    }
    eight!(0 1 2 3 4 5 6 7)
};

/// How SPDK's version begins where it is printed.
const VERSION_PREFIX: &[u8] = b"SPDK v";

/// Returns the version that the object with SPDK's RPC server in it names, if it names one: SPDK has no function for
/// that.
fn version_in_memory() -> Option<(u32, u32)> {
    struct Search {
        /// In the object that is meant.
        address: usize,
        found: Option<(u32, u32)>,
    }
    unsafe extern "C" fn look(object: *mut libc::dl_phdr_info, _: usize, search: *mut c_void) -> c_int {
        // SAFETY: the loader describes an object that is loaded, as long as this runs; `search` is the value below.
        let (object, search) = unsafe { (&*object, &mut *search.cast::<Search>()) };
        // SAFETY: as above.
        let headers = unsafe { std::slice::from_raw_parts(object.dlpi_phdr, usize::from(object.dlpi_phnum)) };
        let loaded = || headers.iter().filter(|header| header.p_type == libc::PT_LOAD);
        let start = |header: &libc::Elf64_Phdr| size(object.dlpi_addr).wrapping_add(size(header.p_vaddr));
        if !loaded().any(|header| search.address.wrapping_sub(start(header)) < size(header.p_memsz)) {
            return 0;
        }
        for header in loaded().filter(|header| header.p_flags & (libc::PF_R | libc::PF_W) == libc::PF_R) {
            let bytes = ptr::with_exposed_provenance::<u8>(start(header));
            // SAFETY: a segment that is loaded to be read only is mapped, with as many bytes as its file gives, and
            // does not change.
            let bytes = unsafe { std::slice::from_raw_parts(bytes, size(header.p_filesz)) };
            search.found = search.found.or_else(|| version_in(bytes));
        }
        1
    }
    let register: unsafe extern "C" fn(*const c_char, sys::spdk_rpc_method_handler, u32) =
        sys::spdk_rpc_register_method;
    let mut search = Search { address: register as usize, found: None };
    // SAFETY: `look` expects this value.
    unsafe { libc::dl_iterate_phdr(Some(look), (&raw mut search).cast()) };
    search.found
}

/// Returns a number of the loader's, which is as wide as an address.
fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(0)
}

/// Returns the first version that is named in `bytes`.
fn version_in(bytes: &[u8]) -> Option<(u32, u32)> {
    let mut rest = bytes;
    while let Some(at) = find(rest, VERSION_PREFIX) {
        rest = rest.get(at + VERSION_PREFIX.len()..)?;
        let mut numbers = rest.splitn(3, |byte| !byte.is_ascii_digit()).map(|digits| {
            std::str::from_utf8(digits).ok().filter(|digits| digits.len() < 5).and_then(|digits| digits.parse().ok())
        });
        let dotted = rest.iter().find(|byte| !byte.is_ascii_digit()) == Some(&b'.');
        if let (true, Some(Some(major)), Some(Some(minor))) = (dotted, numbers.next(), numbers.next()) {
            return Some((major, minor));
        }
    }
    None
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    // SAFETY: both are as long as they are said to be.
    let found = unsafe { libc::memmem(bytes.as_ptr().cast(), bytes.len(), wanted.as_ptr().cast(), wanted.len()) };
    (!found.is_null()).then(|| found.addr() - bytes.as_ptr().addr())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spdk_that_this_is_linked_with_is_the_one_that_it_was_built_for() {
        assert_eq!(check(), Ok(()));
        assert_eq!(version_in_memory(), Some(VERSION));
    }

    /// Ceph's fork has one entry more before this one.
    #[test]
    fn a_table_of_functions_with_one_more_in_it_is_refused() {
        unsafe extern "C" fn other(bdev: *mut RawBdev, _: *mut *mut sys::spdk_memory_domain, _: c_int) -> c_int {
            // SAFETY: the table is where the headers say; its entries are functions without arguments.
            unsafe {
                let table: *const sys::spdk_bdev_fn_table = (*bdev).fn_table;
                let entry = offset_of!(sys::spdk_bdev_fn_table, get_memory_domains) / size_of::<usize>();
                (*table.cast::<Slot>().add(entry + 1))()
            }
        }
        let host = Host { memory_domains: other, ..Host::OF_THIS_PROCESS };
        // SAFETY: the functions read what they are given.
        let refused = unsafe { host.check() }.expect_err("it is another");
        assert_eq!(refused, Mismatch::Layout { what: "struct spdk_bdev_fn_table" });
        assert!(refused.to_string().contains("spdk_bdev_fn_table"), "{refused}");
    }

    #[test]
    fn a_structure_with_a_member_more_is_refused() {
        unsafe extern "C" fn block_size(bdev: *const RawBdev) -> u32 {
            // SAFETY: the structure is larger than that.
            unsafe { sys::spdk_bdev_get_block_size(bdev.byte_add(4)) }
        }
        unsafe extern "C" fn io_time(bdev: *const RawBdev) -> u64 {
            // SAFETY: as above.
            unsafe { sys::spdk_bdev_get_weighted_io_time(bdev.byte_add(8)) }
        }
        unsafe extern "C" fn owner(io: *mut sys::spdk_bdev_io) -> *mut c_void {
            // SAFETY: as above.
            unsafe { sys::spdk_bdev_io_get_cb_arg(io.byte_add(8)) }
        }
        for (host, what) in [
            (Host { block_size, ..Host::OF_THIS_PROCESS }, "struct spdk_bdev"),
            (Host { io_time, ..Host::OF_THIS_PROCESS }, "struct spdk_bdev"),
            (Host { io_owner: owner, ..Host::OF_THIS_PROCESS }, "struct spdk_bdev_io"),
        ] {
            // SAFETY: the functions read what they are given.
            assert_eq!(unsafe { host.check() }, Err(Mismatch::Layout { what }));
        }
    }

    #[test]
    fn a_version_is_found_among_other_bytes() {
        assert_eq!(version_in(b"SPDK v\0SPDK version\0SPDK v26.01.0 git sha1 1234567\0"), Some((26, 1)));
        assert_eq!(version_in(b"SPDK v25.09-pre"), Some((25, 9)));
        assert_eq!(version_in(b"SPDK v26 01"), None);
        assert_eq!(version_in(b"SPDK v"), None);
        assert_eq!(version_in(b""), None);
        let told = Mismatch::Version { found: (25, 9) }.to_string();
        assert!(told.contains("25.09") && told.contains(&format!("{}.{:02}", VERSION.0, VERSION.1)), "{told}");
    }
}
