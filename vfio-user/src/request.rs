//! Commands that somebody else carries out: `DMA_MAP`, `DMA_UNMAP`, `DEVICE_SET_IRQS`.

use std::os::fd::OwnedFd;

use super::info::{DeviceInfo, MSIX_IRQ, PIN_IRQ};
use super::proto::{DmaMap, DmaUnmap, IrqSet, parse};

const MAP_READ: u32 = 1 << 0;
const MAP_WRITE: u32 = 1 << 1;
const UNMAP_GET_DIRTY_BITMAP: u32 = 1 << 0;
const UNMAP_ALL: u32 = 1 << 1;
const DATA_NONE: u32 = 1 << 0;
const DATA_BOOL: u32 = 1 << 1;
const DATA_EVENTFD: u32 = 1 << 2;
const DATA: u32 = DATA_NONE | DATA_BOOL | DATA_EVENTFD;
const ACTION_MASK: u32 = 1 << 3;
const ACTION_UNMASK: u32 = 1 << 4;
const ACTION_TRIGGER: u32 = 1 << 5;

/// Memory of the client's that the device may reach (section `VFIO_USER_DMA_MAP`).
///
/// It is neither empty nor does it wrap around 2^64, in the device's addresses as in the file. Nothing else is checked:
/// not that the file is one that can be mapped and long enough, nor that the memory is not mapped already.
#[derive(Debug)]
pub struct MapRequest {
    /// Where the device finds it.
    pub addr: u64,
    /// Its size, in bytes.
    pub size: u64,
    /// Where it begins in the file, in bytes.
    pub offset: u64,
    /// The device may read it.
    pub readable: bool,
    /// The device may write it.
    pub writeable: bool,
    /// The file. Memory without one is reached by messages only.
    pub fd: Option<OwnedFd>,
}

/// Memory of the client's that goes away (section `VFIO_USER_DMA_UNMAP`). It may be answered only when nothing touches
/// the memory any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnmapRequest {
    /// Where the device found it; 0 when it is all.
    pub addr: u64,
    /// Its size, in bytes; 0 when it is all. With `addr` it does not wrap around 2^64.
    pub size: u64,
    /// All memory of the client.
    pub all: bool,
}

/// What to do with interrupts (section `VFIO_USER_DEVICE_SET_IRQS`).
#[derive(Debug)]
pub struct IrqRequest {
    /// Which kind of interrupts.
    pub kind: IrqKind,
    /// What to do.
    pub action: IrqAction,
    /// The first vector.
    pub start: u32,
    /// How many vectors, all of which there are. 0, which comes with [`IrqAction::Trigger`] and [`IrqData::None`] only:
    /// take the eventfds of all vectors away.
    pub count: u32,
    /// Which of the vectors, or what to signal them by.
    pub data: IrqData,
}

/// The kinds of interrupts that the device has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IrqKind {
    /// The pin (INTA#): one interrupt, which stays raised until its reason is gone.
    Pin,
    /// The vectors of MSI-X.
    Msix,
}

/// What is to be done with vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IrqAction {
    /// Hold interrupts back.
    Mask,
    /// No longer hold interrupts back.
    Unmask,
    /// With eventfds: keep them, to signal interrupts by. Without: interrupt now.
    Trigger,
}

/// What came with a request for vectors.
#[derive(Debug)]
pub enum IrqData {
    /// Nothing: it is for every vector.
    None,
    /// For each vector, whether it is meant.
    Bools(Vec<bool>),
    /// For each vector its eventfd, or none to take it away. Comes with [`IrqAction::Trigger`], and for the pin with
    /// [`IrqAction::Unmask`]: it is unmasked when the client writes to the eventfd. What the client sent may be any
    /// file: it must not be written to in a way that blocks.
    Eventfds(Vec<Option<OwnedFd>>),
}

/// `DMA_MAP`.
pub(super) fn map(payload: &[u8], mut fds: Vec<OwnedFd>) -> Result<MapRequest, i32> {
    let (map, _) = parse::<DmaMap>(payload)?;
    check_argsz::<DmaMap>(map.argsz)?;
    if map.flags == 0 || map.flags & !(MAP_READ | MAP_WRITE) != 0 || fds.len() > 1 {
        return Err(libc::EINVAL);
    }
    check_range(map.addr, map.size)?;
    check_range(map.offset, map.size)?;
    Ok(MapRequest {
        addr: map.addr,
        size: map.size,
        offset: map.offset,
        readable: map.flags & MAP_READ != 0,
        writeable: map.flags & MAP_WRITE != 0,
        fd: fds.pop(),
    })
}

/// `DMA_UNMAP`: the request, and what the reply repeats.
///
/// A dirty bitmap is refused, and nothing is unmapped: the client was not offered migration, and a bitmap that says
/// "all" would promise that writes are tracked.
pub(super) fn unmap(payload: &[u8]) -> Result<(UnmapRequest, DmaUnmap), i32> {
    let (unmap, _) = parse::<DmaUnmap>(payload)?;
    check_argsz::<DmaUnmap>(unmap.argsz)?;
    if unmap.flags & UNMAP_GET_DIRTY_BITMAP != 0 {
        return Err(libc::ENOTSUP);
    }
    let all = match unmap.flags {
        0 => false,
        UNMAP_ALL => true,
        _ => return Err(libc::EINVAL),
    };
    if !all {
        check_range(unmap.addr, unmap.size)?;
    } else if unmap.addr != 0 || unmap.size != 0 {
        return Err(libc::EINVAL);
    }
    Ok((UnmapRequest { addr: unmap.addr, size: unmap.size, all }, unmap))
}

/// `DEVICE_SET_IRQS`: the request; or none when there is nothing to do.
pub(super) fn set_irqs(info: &DeviceInfo, payload: &[u8], fds: Vec<OwnedFd>) -> Result<Option<IrqRequest>, i32> {
    let (set, bools) = parse::<IrqSet>(payload)?;
    check_argsz::<IrqSet>(set.argsz)?;
    let action = match set.flags & !DATA {
        ACTION_MASK => IrqAction::Mask,
        ACTION_UNMASK => IrqAction::Unmask,
        ACTION_TRIGGER => IrqAction::Trigger,
        _ => return Err(libc::EINVAL),
    };
    let end = set.start.checked_add(set.count).ok_or(libc::EINVAL)?;
    if end > info.irq_count(set.index)? {
        return Err(libc::EINVAL);
    }
    let kind = set.flags & DATA;
    if set.count == 0 && (set.start != 0 || action != IrqAction::Trigger || kind != DATA_NONE) {
        return Err(libc::EINVAL);
    }
    if kind != DATA_EVENTFD && !fds.is_empty() {
        return Err(libc::EINVAL);
    }
    let data = match kind {
        DATA_NONE => IrqData::None,
        DATA_BOOL if bools.len() == set.count as usize => IrqData::Bools(bools.iter().map(|byte| *byte != 0).collect()),
        // To be told when the guest masks a vector, or to mask by an eventfd.
        DATA_EVENTFD if !by_eventfd(set.index, action) => return Err(libc::ENOTSUP),
        DATA_EVENTFD if fds.is_empty() => IrqData::Eventfds((0..set.count).map(|_| None).collect()),
        DATA_EVENTFD if fds.len() == set.count as usize => IrqData::Eventfds(fds.into_iter().map(Some).collect()),
        _ => return Err(libc::EINVAL),
    };
    // Of other types there are no interrupts, so that nothing is there to be taken away.
    let kind = match set.index {
        PIN_IRQ => IrqKind::Pin,
        MSIX_IRQ => IrqKind::Msix,
        _ => return Ok(None),
    };
    Ok(Some(IrqRequest { kind, action, start: set.start, count: set.count, data }))
}

/// Returns whether an eventfd can stand for this action.
fn by_eventfd(index: u32, action: IrqAction) -> bool {
    action == IrqAction::Trigger || (index == PIN_IRQ && action == IrqAction::Unmask)
}

fn check_argsz<T>(argsz: u32) -> Result<(), i32> {
    if (argsz as usize) < size_of::<T>() { Err(libc::EINVAL) } else { Ok(()) }
}

/// A range of bytes that is not empty and whose last byte is below 2^64.
fn check_range(start: u64, size: u64) -> Result<(), i32> {
    let last = size.checked_sub(1).ok_or(libc::EINVAL)?;
    start.checked_add(last).map(|_| ()).ok_or(libc::EINVAL)
}
