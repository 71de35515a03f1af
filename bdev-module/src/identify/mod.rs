//! What a pool tells of its namespaces, taken apart. Every byte comes from the pool and may be anything: what is not as the
//! specification has it is refused with a sentence, and nothing is allocated by a count that the pool gives.

mod ana;
mod descriptors;
mod list;
mod namespace;

pub(crate) use ana::AnaLog;
pub(crate) use descriptors::Descriptors;
pub(crate) use list::Page;
pub(crate) use namespace::{Namespace, Unfit, Uses};

/// The bytes of every Identify data structure.
pub(crate) const LEN: usize = 4096;

/// The `N` bytes at `at`, or zeros where the data is shorter than the specification has it.
fn bytes<const N: usize>(data: &[u8], at: usize) -> [u8; N] {
    let end = at.saturating_add(N);
    data.get(at..end).and_then(|bytes| bytes.try_into().ok()).unwrap_or([0; N])
}

fn byte(data: &[u8], at: usize) -> u8 {
    data.get(at).copied().unwrap_or(0)
}

fn u16_at(data: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes(data, at))
}

fn u32_at(data: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes(data, at))
}

fn u64_at(data: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes(data, at))
}

/// An identifier, of which all zeros says that there is none.
fn id<const N: usize>(bytes: [u8; N]) -> Option<[u8; N]> {
    (bytes != [0; N]).then_some(bytes)
}
