//! What a pool tells of its namespaces, taken apart. Every byte comes from the pool and may be anything: what is not as
//! the specification has it is refused with a sentence, and nothing is allocated by a count that the pool gives.

mod ana;
mod descriptors;
mod list;
mod namespace;

use zerocopy::{FromBytes, IntoBytes};

pub(crate) use ana::AnaLog;
pub(crate) use descriptors::Descriptors;
pub(crate) use list::Page;
pub(crate) use namespace::{Namespace, UnusableNamespace, Uses};

/// The bytes of every Identify data structure.
pub(crate) const LEN: usize = nvme_spec::PAGE;

/// Returns the structure or number at `at`. What is not there is zeroes.
fn read<T: FromBytes + IntoBytes>(data: &[u8], at: usize) -> T {
    let mut value = T::new_zeroed();
    for (to, from) in value.as_mut_bytes().iter_mut().zip(data.iter().skip(at)) {
        *to = *from;
    }
    value
}

/// Returns an identifier, of which all zeros says that there is none.
fn id<const N: usize>(bytes: [u8; N]) -> Option<[u8; N]> {
    (bytes != [0; N]).then_some(bytes)
}
