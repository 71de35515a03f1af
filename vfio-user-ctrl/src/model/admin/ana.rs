//! Asymmetric Namespace Access (section 8.1): all namespaces are in one group, whose state is always optimized.
//!
//! The state is that of the host's path to the namespace through this controller, and there is no better one. A backend that is away, or
//! has such states of its own, does not change it: its commands wait. A host that was told otherwise would have no other path to take,
//! and may give up after ANATT what would have had its end.

use zerocopy::{FromZeros, Immutable, IntoBytes};

use super::Controller;
use nvme_spec::Sqe;

/// The controller reports asymmetric access. Neither a second port nor a second controller is told of: a host looks for more paths then,
/// and Linux gives the drive another name (CMIC).
pub(super) const CMIC: u8 = 1 << 3;

/// The optimized state is reported, and the group of a namespace stays the same (ANACAP).
pub(super) const ANACAP: u8 = 1 << 6 | 1;

/// How long a change of state takes at most, in seconds; it must not be 0, though there is none (ANATT).
pub(super) const ANATT: u8 = 10;

/// The identifier of the group, which is the largest that there can be (ANAGRPID, ANAGRPMAX).
pub(super) const GROUP: u32 = 1;

/// How many groups there are (NANAGRPID).
pub(super) const GROUPS: u32 = 1;

/// The state: ANA Optimized.
const OPTIMIZED: u8 = 1;

/// Log Specific Field: Return Groups Only.
const RGO: u32 = 1 << 8;

/// The head of the log page (section 5.16.1.12).
#[derive(FromZeros, IntoBytes, Immutable)]
#[repr(C)]
struct Header {
    change_count: u64,
    descriptors: u16,
    reserved_10: [u8; 6],
}

const _: () = assert!(size_of::<Header>() == 16);

/// What it tells of a group, before the group's namespaces.
#[derive(FromZeros, IntoBytes, Immutable)]
#[repr(C)]
struct Descriptor {
    group: u32,
    namespaces: u32,
    change_count: u64,
    state: u8,
    reserved_17: [u8; 15],
}

const _: () = assert!(size_of::<Descriptor>() == 32);

impl Controller {
    /// The Asymmetric Namespace Access log page. A group without namespaces is not in it.
    pub(super) fn asymmetric_access(&self, sqe: &Sqe) -> Vec<u8> {
        let change_count = self.namespaces.attachments();
        let nsids: Vec<u32> = self.namespaces.above(0).collect();
        let listed: &[u32] = if sqe.cdw10 & RGO == 0 { &nsids } else { &[] };
        let header = Header { change_count, descriptors: u16::from(!nsids.is_empty()), ..Header::new_zeroed() };
        let mut data = header.as_bytes().to_vec();
        if !nsids.is_empty() {
            let namespaces = u32::try_from(listed.len()).unwrap_or(u32::MAX);
            let group =
                Descriptor { group: GROUP, namespaces, change_count, state: OPTIMIZED, ..Descriptor::new_zeroed() };
            data.extend_from_slice(group.as_bytes());
        }
        data.extend(listed.iter().flat_map(|nsid| nsid.to_le_bytes()));
        data
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn fields_lie_where_the_specification_has_them() {
        assert_eq!(offset_of!(Header, descriptors), 8);
        assert_eq!(offset_of!(Descriptor, change_count), 8);
        assert_eq!(offset_of!(Descriptor, state), 16);
    }
}
