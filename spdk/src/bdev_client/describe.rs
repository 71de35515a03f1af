//! What an open bdev is like.

use std::ffi::CStr;

use nvme_spec::IoOpcode;
use spdk_sys as sys;
use spdk_sys::spdk_bdev_io_type as io_type;

use super::BdevDesc;
use crate::bdev::{IoType, is_registered_here};

/// What a front end needs to know of a bdev.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a property of its own")]
pub struct BdevInfo {
    /// Its name.
    pub name: String,
    /// Bytes of a block.
    pub block_size: u32,
    /// Number of blocks.
    pub num_blocks: u64,
    /// Bytes of metadata per block, 0 for none.
    pub metadata_size: u32,
    /// Its UUID, all zeroes if it has none.
    pub uuid: [u8; 16],
    /// It keeps writes in a cache that a flush writes back.
    pub write_cache: bool,
    /// It takes I/O on zones.
    pub zoned: bool,
    /// Blocks that I/O should not cross, 0 for none.
    pub optimal_boundary: u32,
    /// Blocks that a compare-and-write may have.
    pub compare_and_write_blocks: u16,
    /// It can read.
    pub can_read: bool,
    /// It can write.
    pub can_write: bool,
    /// It can deallocate.
    pub can_unmap: bool,
    /// It can write zeroes.
    pub can_write_zeroes: bool,
    /// It can flush.
    pub can_flush: bool,
    /// It takes NVMe I/O commands as they are, by [`BdevChannel::passthru`](super::BdevChannel::passthru).
    pub can_pass_through: bool,
    /// It has Write Uncorrectable among them.
    pub can_write_uncorrectable: bool,
    /// It has Verify among them.
    pub can_verify: bool,
}

impl BdevDesc {
    /// Returns what the bdev is like now.
    #[must_use]
    pub fn describe(&self) -> BdevInfo {
        let bdev = self.bdev();
        // SAFETY: an open bdev stays where it is; these read its properties.
        unsafe {
            let can = |kind| sys::spdk_bdev_io_type_supported(bdev, kind);
            let takes_nvme_io = can(io_type::SPDK_BDEV_IO_TYPE_NVME_IO);
            // The bdev layer itself knows of no such kind, and what another module makes of its number is not known.
            let asks_here = takes_nvme_io && is_registered_here((*bdev).module);
            let module = (*(*bdev).fn_table).io_type_supported.filter(|_| asks_here);
            let has = |opcode| module.is_some_and(|asks| asks((*bdev).ctxt, IoType::of_nvme_command(opcode)));
            BdevInfo {
                name: CStr::from_ptr(sys::spdk_bdev_get_name(bdev)).to_string_lossy().into_owned(),
                block_size: sys::spdk_bdev_get_block_size(bdev),
                num_blocks: sys::spdk_bdev_get_num_blocks(bdev),
                metadata_size: sys::spdk_bdev_get_md_size(bdev),
                uuid: (*sys::spdk_bdev_get_uuid(bdev)).u.raw,
                write_cache: sys::spdk_bdev_has_write_cache(bdev),
                zoned: sys::spdk_bdev_is_zoned(bdev),
                optimal_boundary: sys::spdk_bdev_get_optimal_io_boundary(bdev),
                compare_and_write_blocks: sys::spdk_bdev_get_acwu(bdev),
                can_read: can(io_type::SPDK_BDEV_IO_TYPE_READ),
                can_write: can(io_type::SPDK_BDEV_IO_TYPE_WRITE),
                can_unmap: can(io_type::SPDK_BDEV_IO_TYPE_UNMAP),
                can_write_zeroes: can(io_type::SPDK_BDEV_IO_TYPE_WRITE_ZEROES),
                can_flush: can(io_type::SPDK_BDEV_IO_TYPE_FLUSH),
                can_pass_through: takes_nvme_io,
                can_write_uncorrectable: has(IoOpcode::WRITE_UNCORRECTABLE)
                    || (takes_nvme_io && can(io_type::SPDK_BDEV_IO_TYPE_WRITE_UNCORRECTABLE)),
                can_verify: has(IoOpcode::VERIFY),
            }
        }
    }
}

/// Returns how many I/Os the bdev layer has, for all that use it.
#[must_use]
pub fn io_pool_size() -> usize {
    // SAFETY: zeroes are a value of this struct; SPDK fills in as much of it as there is.
    let options = unsafe {
        let mut options: sys::spdk_bdev_opts = std::mem::zeroed();
        sys::spdk_bdev_get_opts(&raw mut options, size_of::<sys::spdk_bdev_opts>());
        options
    };
    usize::try_from(options.bdev_io_pool_size).unwrap_or(usize::MAX)
}
