//! Messages as they are on the wire: little-endian, as this machine.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The commands (section "Commands").
#[expect(missing_docs, reason = "the names are the specification's")]
pub mod command {
    pub const VERSION: u16 = 1;
    pub const DMA_MAP: u16 = 2;
    pub const DMA_UNMAP: u16 = 3;
    pub const DEVICE_GET_INFO: u16 = 4;
    pub const DEVICE_GET_REGION_INFO: u16 = 5;
    pub const DEVICE_GET_REGION_IO_FDS: u16 = 6;
    pub const DEVICE_GET_IRQ_INFO: u16 = 7;
    pub const DEVICE_SET_IRQS: u16 = 8;
    pub const REGION_READ: u16 = 9;
    pub const REGION_WRITE: u16 = 10;
    pub const DMA_READ: u16 = 11;
    pub const DMA_WRITE: u16 = 12;
    pub const DEVICE_RESET: u16 = 13;
    pub const REGION_WRITE_MULTI: u16 = 15;
}

/// Bytes of a message's header.
pub(super) const HEADER: usize = size_of::<Header>();

/// The message type in [`Header::flags`].
pub(super) const FLAG_TYPE: u32 = 0xf;
/// Message type: a command.
pub(super) const TYPE_COMMAND: u32 = 0;
/// Message type: a reply.
pub(super) const TYPE_REPLY: u32 = 1;
/// The sender of a command wants no reply.
pub(super) const FLAG_NO_REPLY: u32 = 1 << 4;
/// A reply tells an error.
pub(super) const FLAG_ERROR: u32 = 1 << 5;

macro_rules! message {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        pub(super) struct $name {
            $(pub(super) $field: $type,)*
        }
    };
}

message! {
    /// The header of every message (section "Header").
    Header { msg_id: u16, command: u16, msg_size: u32, flags: u32, error_no: u32 }
}

impl Header {
    /// Returns whether the sender of this command waits for a reply.
    pub(super) const fn wants_reply(&self) -> bool {
        self.flags & FLAG_NO_REPLY == 0
    }
}

message! {
    /// `VERSION`; JSON follows.
    Version { major: u16, minor: u16 }
}
message! {
    /// `DMA_MAP`.
    DmaMap { argsz: u32, flags: u32, offset: u64, addr: u64, size: u64 }
}
message! {
    /// `DMA_UNMAP`, and its reply.
    DmaUnmap { argsz: u32, flags: u32, addr: u64, size: u64 }
}
message! {
    /// `DEVICE_GET_INFO`, and its reply.
    GetInfo { argsz: u32, flags: u32, num_regions: u32, num_irqs: u32 }
}
message! {
    /// `DEVICE_GET_REGION_INFO`, and its reply, which capabilities follow.
    RegionInfo { argsz: u32, flags: u32, index: u32, cap_offset: u32, size: u64, offset: u64 }
}
message! {
    /// The sparse-mmap capability of a region, with one area.
    SparseMmap { id: u16, version: u16, next: u32, nr_areas: u32, reserved: u32, offset: u64, size: u64 }
}
message! {
    /// `DEVICE_GET_REGION_IO_FDS`, and its reply.
    RegionIoFds { argsz: u32, flags: u32, index: u32, count: u32 }
}
message! {
    /// `DEVICE_GET_IRQ_INFO`, and its reply.
    IrqInfo { argsz: u32, flags: u32, index: u32, count: u32 }
}
message! {
    /// `DEVICE_SET_IRQS`; booleans may follow.
    IrqSet { argsz: u32, flags: u32, index: u32, start: u32, count: u32 }
}
message! {
    /// `REGION_READ` and `REGION_WRITE`, and their replies; data may follow.
    RegionAccess { offset: u64, region: u32, count: u32 }
}
message! {
    /// One write of `REGION_WRITE_MULTI`.
    MultiWrite { offset: u64, region: u32, count: u32, data: [u8; 8] }
}
message! {
    /// `DMA_READ` and `DMA_WRITE`, and their replies; data may follow.
    DmaAccess { addr: u64, count: u64 }
}

/// Returns the structure at the start of a payload, and what follows it; or `EINVAL` when the payload is too short for
/// it.
pub(super) fn parse<T: FromBytes>(payload: &[u8]) -> Result<(T, &[u8]), i32> {
    T::read_from_prefix(payload).map_err(|_| libc::EINVAL)
}

/// Returns a whole message: header, fixed part, data.
pub(super) fn message(msg_id: u16, command: u16, flags: u32, error_no: u32, parts: [&[u8]; 2]) -> Vec<u8> {
    let [fixed, data] = parts;
    let size = HEADER + fixed.len() + data.len();
    let msg_size = u32::try_from(size).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(size);
    bytes.extend_from_slice(Header { msg_id, command, msg_size, flags, error_no }.as_bytes());
    bytes.extend_from_slice(fixed);
    bytes.extend_from_slice(data);
    bytes
}
