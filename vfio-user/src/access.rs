//! Accesses to regions: `REGION_READ`, `REGION_WRITE`, `REGION_WRITE_MULTI`.

use zerocopy::{FromBytes, IntoBytes};

use super::device::Device;
use super::info::{CONFIG_REGION, DeviceInfo};
use super::proto::{MultiWrite, RegionAccess, parse};

/// What an access goes to, within the bounds of its region.
struct Place {
    config: bool,
    offset: usize,
}

impl Place {
    /// Checks an access. A region that the device has not is as one of no bytes.
    fn check(info: &DeviceInfo, region: u32, offset: u64, count: u32) -> Result<Self, i32> {
        let end = offset.checked_add(count.into()).ok_or(libc::EINVAL)?;
        if count == 0 || end > info.region_size(region)? {
            return Err(libc::EINVAL);
        }
        Ok(Self { config: region == CONFIG_REGION, offset: usize::try_from(offset).map_err(|_| libc::EINVAL)? })
    }

    /// Returns whether the write is to be answered later.
    fn write(&self, data: &[u8], device: &mut impl Device) -> bool {
        if self.config {
            return device.config_write(self.offset, data);
        }
        device.bar0_write(self.offset, data);
        false
    }
}

/// `REGION_READ`: at most `max` bytes.
pub(super) fn read(info: &DeviceInfo, payload: &[u8], max: u32, device: &mut impl Device) -> Result<Vec<u8>, i32> {
    let (access, _) = parse::<RegionAccess>(payload)?;
    if access.count > max {
        return Err(libc::E2BIG);
    }
    let place = Place::check(info, access.region, access.offset, access.count)?;
    let mut reply = access.as_bytes().to_vec();
    let fixed = reply.len();
    reply.resize(fixed + access.count as usize, 0);
    let data = reply.get_mut(fixed..).unwrap_or_default();
    if place.config {
        device.config_read(place.offset, data);
    } else {
        device.bar0_read(place.offset, data);
    }
    Ok(reply)
}

/// `REGION_WRITE`: at most `max` bytes. The answer, and whether it is to be given later.
pub(super) fn write(
    info: &DeviceInfo,
    payload: &[u8],
    max: u32,
    device: &mut impl Device,
) -> Result<(Vec<u8>, bool), i32> {
    let (access, data) = parse::<RegionAccess>(payload)?;
    if access.count > max {
        return Err(libc::E2BIG);
    }
    if data.len() != access.count as usize {
        return Err(libc::EINVAL);
    }
    let later = Place::check(info, access.region, access.offset, access.count)?.write(data, device);
    Ok((access.as_bytes().to_vec(), later))
}

/// `REGION_WRITE_MULTI`: all of the writes, or none when one is not valid. Likewise.
pub(super) fn write_multi(info: &DeviceInfo, payload: &[u8], device: &mut impl Device) -> Result<(Vec<u8>, bool), i32> {
    let (wr_cnt, writes) = parse::<u64>(payload)?;
    let (writes, rest) = writes.as_chunks::<{ size_of::<MultiWrite>() }>();
    if wr_cnt == 0 || wr_cnt != writes.len() as u64 || !rest.is_empty() {
        return Err(libc::EINVAL);
    }
    let parts = |bytes: &[u8]| -> Result<(Place, MultiWrite), i32> {
        let write = MultiWrite::read_from_bytes(bytes).map_err(|_| libc::EINVAL)?;
        if write.count as usize > write.data.len() {
            return Err(libc::EINVAL);
        }
        Ok((Place::check(info, write.region, write.offset, write.count)?, write))
    };
    for bytes in writes {
        parts(bytes)?;
    }
    let mut later = false;
    for bytes in writes {
        let (place, write) = parts(bytes)?;
        later |= place.write(write.data.get(..write.count as usize).unwrap_or_default(), device);
    }
    Ok((wr_cnt.as_bytes().to_vec(), later))
}
