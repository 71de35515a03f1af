//! The other side: builds the messages of a client, and takes the server's apart. For tests, fuzzing and tools.
//!
//! Nothing is checked: a hostile client is what these are for. A message is changed by changing its bytes; the header
//! is the first 16 of them: message identifier (2 bytes), command (2), size (4), flags (4), errno (4).

use zerocopy::{FromBytes, IntoBytes};

use super::proto::{
    DmaAccess, DmaMap, DmaUnmap, FLAG_ERROR, FLAG_NO_REPLY, FLAG_TYPE, GetInfo, HEADER, Header, IrqInfo, IrqSet,
    MultiWrite, RegionAccess, RegionInfo, RegionIoFds, TYPE_COMMAND, TYPE_REPLY, Version, command, message,
};

/// A message of the server's: a reply, or a command of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// The identifier of the message, or of the one that it answers.
    pub msg_id: u16,
    /// The command; see [`mod@command`].
    pub command: u16,
    /// It is a reply.
    pub is_reply: bool,
    /// The errno, if it is a reply that tells an error.
    pub error: Option<u32>,
    /// What follows the header.
    pub payload: Vec<u8>,
}

/// Returns the first message in `bytes` and how many bytes it has; or none, if it is not there as a whole.
#[must_use]
pub fn decode(bytes: &[u8]) -> Option<(Received, usize)> {
    let (header, _) = Header::read_from_prefix(bytes).ok()?;
    let size = header.msg_size as usize;
    let received = Received {
        msg_id: header.msg_id,
        command: header.command,
        is_reply: header.flags & FLAG_TYPE == TYPE_REPLY,
        error: (header.flags & FLAG_ERROR != 0).then_some(header.error_no),
        payload: bytes.get(HEADER..size)?.to_vec(),
    };
    Some((received, size))
}

/// Any command, with any payload.
#[must_use]
pub fn command(msg_id: u16, command: u16, payload: &[u8]) -> Vec<u8> {
    message(msg_id, command, TYPE_COMMAND, 0, [payload, &[]])
}

/// Returns the same command, as one that wants no reply.
#[must_use]
pub fn no_reply(mut message: Vec<u8>) -> Vec<u8> {
    if let Ok((header, _)) = Header::mut_from_prefix(&mut message) {
        header.flags |= FLAG_NO_REPLY;
    }
    message
}

/// `VERSION`, of major version 0. The specification wants a NUL after the JSON, which is added; no JSON is none.
#[must_use]
pub fn version(msg_id: u16, minor: u16, json: &str) -> Vec<u8> {
    let nul: &[u8] = if json.is_empty() { &[] } else { &[0] };
    command(msg_id, command::VERSION, &[Version { major: 0, minor }.as_bytes(), json.as_bytes(), nul].concat())
}

/// `DMA_MAP`, readable and writeable; goes with the file's descriptor or with none.
#[must_use]
pub fn dma_map(msg_id: u16, addr: u64, size: u64, offset: u64) -> Vec<u8> {
    fixed(msg_id, command::DMA_MAP, &DmaMap { argsz: 32, flags: 3, offset, addr, size })
}

/// `DMA_UNMAP`; flags: bit 0 get a dirty bitmap, bit 1 all memory.
#[must_use]
pub fn dma_unmap(msg_id: u16, addr: u64, size: u64, flags: u32) -> Vec<u8> {
    fixed(msg_id, command::DMA_UNMAP, &DmaUnmap { argsz: 24, flags, addr, size })
}

/// `DEVICE_GET_INFO`.
#[must_use]
pub fn device_info(msg_id: u16) -> Vec<u8> {
    fixed(msg_id, command::DEVICE_GET_INFO, &GetInfo { argsz: 16, flags: 0, num_regions: 0, num_irqs: 0 })
}

/// `DEVICE_GET_REGION_INFO`, with room for `argsz` bytes of reply, of which 32 are the least.
#[must_use]
pub fn region_info(msg_id: u16, index: u32, argsz: u32) -> Vec<u8> {
    let asked = RegionInfo { argsz, flags: 0, index, cap_offset: 0, size: 0, offset: 0 };
    fixed(msg_id, command::DEVICE_GET_REGION_INFO, &asked)
}

/// `DEVICE_GET_REGION_IO_FDS`.
#[must_use]
pub fn region_io_fds(msg_id: u16, index: u32) -> Vec<u8> {
    fixed(msg_id, command::DEVICE_GET_REGION_IO_FDS, &RegionIoFds { argsz: 16, flags: 0, index, count: 0 })
}

/// `DEVICE_GET_IRQ_INFO`.
#[must_use]
pub fn irq_info(msg_id: u16, index: u32) -> Vec<u8> {
    fixed(msg_id, command::DEVICE_GET_IRQ_INFO, &IrqInfo { argsz: 16, flags: 0, index, count: 0 })
}

/// `DEVICE_SET_IRQS`; flags: data in bits 0 none, 1 booleans, 2 eventfds; action in bits 3 mask, 4 unmask, 5 trigger.
#[must_use]
pub fn set_irqs(msg_id: u16, index: u32, flags: u32, start: u32, count: u32, bools: &[u8]) -> Vec<u8> {
    let argsz = u32::try_from(size_of::<IrqSet>() + bools.len()).unwrap_or(u32::MAX);
    let set = IrqSet { argsz, flags, index, start, count };
    message(msg_id, command::DEVICE_SET_IRQS, TYPE_COMMAND, 0, [set.as_bytes(), bools])
}

/// `REGION_READ`.
#[must_use]
pub fn region_read(msg_id: u16, region: u32, offset: u64, count: u32) -> Vec<u8> {
    fixed(msg_id, command::REGION_READ, &RegionAccess { offset, region, count })
}

/// `REGION_WRITE`.
#[must_use]
pub fn region_write(msg_id: u16, region: u32, offset: u64, data: &[u8]) -> Vec<u8> {
    let count = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let access = RegionAccess { offset, region, count };
    message(msg_id, command::REGION_WRITE, TYPE_COMMAND, 0, [access.as_bytes(), data])
}

/// `REGION_WRITE_MULTI`: for each write its region, offset and data, of which 8 bytes are the most.
#[must_use]
pub fn region_write_multi(msg_id: u16, writes: &[(u32, u64, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for &(region, offset, data) in writes {
        let mut write =
            MultiWrite { offset, region, count: u32::try_from(data.len()).unwrap_or(u32::MAX), data: [0; 8] };
        for (to, from) in write.data.iter_mut().zip(data) {
            *to = *from;
        }
        body.extend_from_slice(write.as_bytes());
    }
    message(msg_id, command::REGION_WRITE_MULTI, TYPE_COMMAND, 0, [&(writes.len() as u64).to_le_bytes(), &body])
}

/// `DEVICE_RESET`.
#[must_use]
pub fn reset(msg_id: u16) -> Vec<u8> {
    command(msg_id, command::DEVICE_RESET, &[])
}

/// Returns the address and the count of a `DMA_READ` or `DMA_WRITE` of the server's, and the data of the latter.
#[must_use]
pub fn dma_access(received: &Received) -> Option<(u64, u64, &[u8])> {
    let (access, data) = DmaAccess::read_from_prefix(&received.payload).ok()?;
    Some((access.addr, access.count, data))
}

/// Returns the reply to a `DMA_READ` of the server's: what was read.
#[must_use]
pub fn dma_read_reply(msg_id: u16, addr: u64, data: &[u8]) -> Vec<u8> {
    let access = DmaAccess { addr, count: data.len() as u64 };
    message(msg_id, command::DMA_READ, TYPE_REPLY, 0, [access.as_bytes(), data])
}

/// Returns the reply to a `DMA_WRITE` of the server's.
#[must_use]
pub fn dma_write_reply(msg_id: u16, addr: u64, count: u64) -> Vec<u8> {
    message(msg_id, command::DMA_WRITE, TYPE_REPLY, 0, [DmaAccess { addr, count }.as_bytes(), &[]])
}

/// Returns the same as the written specification has it, with a count of 4 bytes.
#[must_use]
pub fn short_dma_write_reply(msg_id: u16, addr: u64, count: u32) -> Vec<u8> {
    let parts = [addr.as_bytes(), count.as_bytes()];
    message(msg_id, command::DMA_WRITE, TYPE_REPLY, 0, parts)
}

/// Returns a reply to any command of the server's that tells an error.
#[must_use]
pub fn error_reply(msg_id: u16, command: u16, errno: u32) -> Vec<u8> {
    message(msg_id, command, TYPE_REPLY | FLAG_ERROR, errno, [&[], &[]])
}

fn fixed<T: IntoBytes + zerocopy::Immutable>(msg_id: u16, command: u16, body: &T) -> Vec<u8> {
    message(msg_id, command, TYPE_COMMAND, 0, [body.as_bytes(), &[]])
}
