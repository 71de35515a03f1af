//! A bdev as a namespace.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use spdk::Errno;
use spdk::bdev_client::BdevInfo;
use spdk::rpc::RpcError;
use spdk::thread::AppCell;

use super::params::failed;
use nvme_device::model::admin::Namespace;
use nvme_device::model::io::{IoSupport, NsGeometry, WriteCache};
use nvme_device::queue::Fence;

/// Returns the fence of a bdev, the same one for all controllers.
pub(super) fn fence_of(bdev_name: &str) -> Arc<Fence> {
    static FENCES: AppCell<BTreeMap<String, Weak<Fence>>> = AppCell::new(BTreeMap::new);
    FENCES.with(|fences| {
        let mut fences = fences.borrow_mut();
        fences.retain(|_, fence| fence.strong_count() > 0);
        if let Some(fence) = fences.get(bdev_name).and_then(Weak::upgrade) {
            return fence;
        }
        let fence = Arc::default();
        fences.insert(bdev_name.to_owned(), Arc::downgrade(&fence));
        fence
    })
}

/// Returns what a namespace on a bdev can do, by the types of I/O that the bdev takes.
fn supports(info: &BdevInfo, vendor_specific: bool) -> IoSupport {
    IoSupport::of(&[
        (true, IoSupport::DATASET_MANAGEMENT),
        (info.can_unmap, IoSupport::DEALLOCATE),
        (info.can_write_zeroes, IoSupport::WRITE_ZEROES),
        (info.can_flush, IoSupport::FLUSH),
        (info.can_flush && info.write_cache, IoSupport::VOLATILE_WRITE_CACHE),
        // The bdev layer compares for a bdev that cannot.
        (info.can_read, IoSupport::COMPARE),
        (info.can_read && info.can_write, IoSupport::COMPARE_AND_WRITE),
        (info.can_write_uncorrectable, IoSupport::WRITE_UNCORRECTABLE),
        (info.can_verify, IoSupport::VERIFY),
        (info.can_pass_through && vendor_specific, IoSupport::VENDOR_SPECIFIC),
    ])
}

/// Returns what the checks of commands need to know of a bdev.
pub(super) fn geometry(info: &BdevInfo, vendor_specific: bool) -> Result<NsGeometry, RpcError> {
    let refuse = |why: &str| Err(failed(Errno::INVAL, format!("bdev '{}' cannot be a namespace: {why}", info.name)));
    if info.metadata_size > 0 {
        return refuse(&format!("its blocks must have no metadata, got {} bytes", info.metadata_size));
    }
    if info.zoned {
        return refuse("it has zones, which are not supported");
    }
    if !info.block_size.is_power_of_two() {
        return refuse(&format!("the bytes of its blocks must be a power of two, got {}", info.block_size));
    }
    let shift = u8::try_from(info.block_size.trailing_zeros()).unwrap_or(u8::MAX);
    let mut geometry = match NsGeometry::new(info.num_blocks, shift) {
        Ok(geometry) => geometry,
        Err(error) => return refuse(&error.to_string()),
    };
    geometry.supports = supports(info, vendor_specific);
    if geometry.supports.contains(IoSupport::VOLATILE_WRITE_CACHE) {
        geometry.write_cache = WriteCache::On;
    }
    geometry.write_protected = !info.can_write;
    geometry.max_fused_blocks = u32::from(info.compare_and_write_blocks.max(1));
    Ok(geometry)
}

/// Returns a bdev as the guest sees it.
pub(super) fn namespace(nsid: u32, info: &BdevInfo, geometry: &NsGeometry) -> Namespace {
    Namespace {
        nsid,
        blocks: info.num_blocks,
        block_shift: geometry.block_shift(),
        uuid: info.uuid,
        nguid: info.uuid,
        eui64: [0; 8],
        supports: geometry.supports,
        compare_and_write_blocks: info.compare_and_write_blocks.max(1),
        optimal_boundary_blocks: u16::try_from(info.optimal_boundary).unwrap_or(0),
        preferred_write_blocks: 0,
        preferred_unmap_blocks: 0,
        write_protected: !info.can_write,
    }
}
