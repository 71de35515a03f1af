//! What the device is made of: `DEVICE_GET_INFO`, `DEVICE_GET_REGION_INFO`, `DEVICE_GET_REGION_IO_FDS`,
//! `DEVICE_GET_IRQ_INFO`. Numbers are those of `<linux/vfio.h>` for a PCI device.

use std::ops::Range;

use zerocopy::IntoBytes;

use super::proto::{GetInfo, IrqInfo, RegionInfo, RegionIoFds, SparseMmap, parse};

/// The region index of BAR0.
pub(super) const BAR0_REGION: u32 = 0;
/// The region index of the PCI configuration space.
pub(crate) const CONFIG_REGION: u32 = 7;
/// BAR0 to 5, the expansion ROM, configuration space, VGA.
const NUM_REGIONS: u32 = 9;
/// The interrupt index of the pin (INTA#), of which there is one.
pub(super) const PIN_IRQ: u32 = 0;
/// The interrupt index of MSI-X.
pub(super) const MSIX_IRQ: u32 = 2;
/// Pin interrupts, MSI, MSI-X, error, request.
pub(super) const NUM_IRQS: u32 = 5;

const DEVICE_RESET: u32 = 1 << 0;
const DEVICE_PCI: u32 = 1 << 1;
const REGION_READ: u32 = 1 << 0;
const REGION_WRITE: u32 = 1 << 1;
const REGION_MMAP: u32 = 1 << 2;
const REGION_CAPS: u32 = 1 << 3;
const CAP_SPARSE_MMAP: u16 = 1;
const IRQ_EVENTFD: u32 = 1 << 0;
const IRQ_MASKABLE: u32 = 1 << 1;
/// It is masked whenever it was raised, until the client unmasks it.
const IRQ_AUTOMASKED: u32 = 1 << 2;

/// The shape of the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// The size of BAR0, in bytes.
    pub bar0_size: u64,
    /// The part of BAR0 that the client may map, in bytes; whole pages.
    pub doorbells: Range<u64>,
    /// How many MSI-X vectors there are.
    pub msix_vectors: u16,
    /// The size of the PCI configuration space, in bytes.
    pub config_size: u64,
}

impl DeviceInfo {
    /// Returns the size of a region, in bytes; 0 for one that the device has not. No region has this index: `EINVAL`.
    pub(super) fn region_size(&self, index: u32) -> Result<u64, i32> {
        match index {
            BAR0_REGION => Ok(self.bar0_size),
            CONFIG_REGION => Ok(self.config_size),
            NUM_REGIONS.. => Err(libc::EINVAL),
            _ => Ok(0),
        }
    }

    /// Returns how many interrupts there are of a type. No type has this index: `EINVAL`.
    pub(super) fn irq_count(&self, index: u32) -> Result<u32, i32> {
        match index {
            PIN_IRQ => Ok(1),
            MSIX_IRQ => Ok(self.msix_vectors.into()),
            NUM_IRQS.. => Err(libc::EINVAL),
            _ => Ok(0),
        }
    }
}

/// `DEVICE_GET_INFO`.
pub(super) fn device(payload: &[u8]) -> Result<Vec<u8>, i32> {
    let (asked, _) = parse::<GetInfo>(payload)?;
    let argsz = fits::<GetInfo>(asked.argsz)?;
    let flags = DEVICE_RESET | DEVICE_PCI;
    Ok(GetInfo { argsz, flags, num_regions: NUM_REGIONS, num_irqs: NUM_IRQS }.as_bytes().to_vec())
}

/// `DEVICE_GET_REGION_INFO`: the reply's payload, and whether the doorbells' file goes with it.
///
/// `can_map` tells whether the client takes file descriptors. Where the client left no room for the capability, it is
/// told the size to ask again with, and neither gets the file nor is told that the region can be mapped: without the
/// capability that would mean all of it, registers included.
pub(super) fn region(info: &DeviceInfo, payload: &[u8], can_map: bool) -> Result<(Vec<u8>, bool), i32> {
    let (asked, _) = parse::<RegionInfo>(payload)?;
    let fixed = fits::<RegionInfo>(asked.argsz)?;
    let index = asked.index;
    let size = info.region_size(index)?;
    let flags = if size == 0 { 0 } else { REGION_READ | REGION_WRITE };
    let plain = RegionInfo { argsz: fixed, flags, index, cap_offset: 0, size, offset: 0 };
    if index != BAR0_REGION || !can_map || info.doorbells.is_empty() {
        return Ok((plain.as_bytes().to_vec(), false));
    }
    let cap = SparseMmap {
        id: CAP_SPARSE_MMAP,
        version: 1,
        next: 0,
        nr_areas: 1,
        reserved: 0,
        offset: info.doorbells.start,
        size: info.doorbells.end.saturating_sub(info.doorbells.start),
    };
    let argsz = fixed + size_of_u32::<SparseMmap>();
    if asked.argsz < argsz {
        return Ok((RegionInfo { argsz, ..plain }.as_bytes().to_vec(), false));
    }
    let full = RegionInfo { argsz, flags: flags | REGION_MMAP | REGION_CAPS, cap_offset: fixed, ..plain };
    Ok(([full.as_bytes(), cap.as_bytes()].concat(), true))
}

/// `DEVICE_GET_REGION_IO_FDS`: no region has any.
pub(super) fn region_io_fds(info: &DeviceInfo, payload: &[u8]) -> Result<Vec<u8>, i32> {
    let (asked, _) = parse::<RegionIoFds>(payload)?;
    let argsz = fits::<RegionIoFds>(asked.argsz)?;
    info.region_size(asked.index)?;
    if asked.flags != 0 || asked.count != 0 {
        return Err(libc::EINVAL);
    }
    Ok(RegionIoFds { argsz, ..asked }.as_bytes().to_vec())
}

/// `DEVICE_GET_IRQ_INFO`.
pub(super) fn irq(info: &DeviceInfo, payload: &[u8]) -> Result<Vec<u8>, i32> {
    let (asked, _) = parse::<IrqInfo>(payload)?;
    let argsz = fits::<IrqInfo>(asked.argsz)?;
    let count = info.irq_count(asked.index)?;
    let flags = match asked.index {
        PIN_IRQ => IRQ_EVENTFD | IRQ_MASKABLE | IRQ_AUTOMASKED,
        _ if count > 0 => IRQ_EVENTFD,
        _ => 0,
    };
    Ok(IrqInfo { argsz, flags, index: asked.index, count }.as_bytes().to_vec())
}

/// Returns the size of a reply's fixed part, which must fit into what the client has room for.
fn fits<T>(argsz: u32) -> Result<u32, i32> {
    let size = size_of_u32::<T>();
    if argsz < size { Err(libc::EINVAL) } else { Ok(size) }
}

const fn size_of_u32<T>() -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "a structure of the protocol has a few dozen bytes")]
    let size = size_of::<T>() as u32;
    size
}
