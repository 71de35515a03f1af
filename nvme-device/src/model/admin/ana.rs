//! Asymmetric Namespace Access (section 8.1): all namespaces are in one group, whose state is always optimized.
//!
//! The state is that of the host's path to the namespace through this controller, and there is no better one. A backend
//! that is away, or has such states of its own, does not change it: its commands wait. A host that was told otherwise
//! would have no other path to take, and may give up after ANATT what would have had its end.

use zerocopy::{FromZeros, IntoBytes};

use super::Controller;
use nvme_spec::Sqe;
use nvme_spec::admin::GetLogPageDw10;
use nvme_spec::identify::{AnaCapabilities, Multipath};
use nvme_spec::log::{AnaGroup, AnaHeader, AnaLogParameter, AnaState};

/// The controller reports asymmetric access. Neither a second port nor a second controller is told of: a host looks for
/// more paths then, and Linux gives the drive another name (CMIC).
pub(super) const CMIC: Multipath = Multipath::new().with_anars(true);

/// The optimized state is reported, and the group of a namespace stays the same (ANACAP).
pub(super) const ANACAP: AnaCapabilities = AnaCapabilities::new().with_aosr(true).with_agidns(true);

/// How long a change of state takes at most, in seconds; it must not be 0, though there is none (ANATT).
pub(super) const ANATT: u8 = 10;

/// The identifier of the group, which is the largest that there can be (ANAGRPID, ANAGRPMAX).
pub(super) const GROUP: u32 = 1;

/// How many groups there are (NANAGRPID).
pub(super) const GROUPS: u32 = 1;

impl Controller {
    /// Returns the Asymmetric Namespace Access log page. A group without namespaces is not in it.
    pub(super) fn asymmetric_access(&self, sqe: &Sqe) -> Vec<u8> {
        let groups_only = AnaLogParameter::from_bits(GetLogPageDw10::from_bits(sqe.cdw10).lsp()).rgo();
        let change_count = self.namespaces.attachments();
        let nsids: Vec<u32> = self.namespaces.above(0).collect();
        let listed: &[u32] = if groups_only { &[] } else { &nsids };
        let header = AnaHeader { change_count, descriptors: u16::from(!nsids.is_empty()), ..AnaHeader::new_zeroed() };
        let mut data = header.as_bytes().to_vec();
        if !nsids.is_empty() {
            let namespaces = u32::try_from(listed.len()).unwrap_or(u32::MAX);
            let group = AnaGroup {
                group: GROUP,
                namespaces,
                change_count,
                state: AnaState::OPTIMIZED,
                ..AnaGroup::new_zeroed()
            };
            data.extend_from_slice(group.as_bytes());
        }
        data.extend(listed.iter().flat_map(|nsid| nsid.to_le_bytes()));
        data
    }
}
