//! The asymmetric namespace access log (base specification, log page 0Ch), of which only the groups are asked for.

use std::collections::BTreeMap;

use nvme_spec::log;

use super::read;

/// How a namespace can be reached through the controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AnaState {
    /// As well as can be.
    Optimized,
    /// Worse than through another controller.
    NonOptimized,
    /// Not now.
    Inaccessible,
    /// Not any more.
    PersistentLoss,
    /// It is changing.
    Change,
}

impl AnaState {
    fn of(state: log::AnaState) -> Option<Self> {
        match log::AnaState::of_byte(state.0) {
            log::AnaState::OPTIMIZED => Some(Self::Optimized),
            log::AnaState::NON_OPTIMIZED => Some(Self::NonOptimized),
            log::AnaState::INACCESSIBLE => Some(Self::Inaccessible),
            log::AnaState::PERSISTENT_LOSS => Some(Self::PersistentLoss),
            log::AnaState::CHANGE => Some(Self::Change),
            _ => None,
        }
    }

    /// As SPDK's RPCs write it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Optimized => "optimized",
            Self::NonOptimized => "non_optimized",
            Self::Inaccessible => "inaccessible",
            Self::PersistentLoss => "persistent_loss",
            Self::Change => "change",
        }
    }
}

/// The states of the groups, as far as the log was read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct AnaLog(BTreeMap<u32, AnaState>);

impl AnaLog {
    /// The bytes that are read: the header and 255 groups. What is beyond them is not known.
    pub(crate) const LEN: usize = 8192;

    /// Takes apart as much of a log as there is. Groups with a state that is not known, or beyond the end, are left
    /// out.
    pub(crate) fn parse(data: &[u8]) -> Self {
        let mut groups = BTreeMap::new();
        let header: log::AnaHeader = read(data, 0);
        let mut at = size_of::<log::AnaHeader>();
        for _ in 0..header.descriptors {
            let end = at.saturating_add(size_of::<log::AnaGroup>());
            if data.len() < end {
                break;
            }
            let group: log::AnaGroup = read(data, at);
            if let (number @ 1.., Some(state)) = (group.group, AnaState::of(group.state)) {
                groups.insert(number, state);
            }
            // A target that gives the namespaces nevertheless is followed over them.
            let namespaces = usize::try_from(group.namespaces).unwrap_or(usize::MAX).saturating_mul(4);
            at = end.saturating_add(namespaces);
        }
        Self(groups)
    }

    /// Returns the state of a group.
    pub(crate) fn state(&self, group: u32) -> Option<AnaState> {
        self.0.get(&group).copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zerocopy::{FromZeros, IntoBytes};

    use super::*;

    fn log(descriptors: u16, groups: &[(u32, log::AnaState, u32, &[u32])]) -> Vec<u8> {
        let header = log::AnaHeader { descriptors, ..log::AnaHeader::new_zeroed() };
        let mut data = header.as_bytes().to_vec();
        for &(group, state, namespaces, nsids) in groups {
            let group = log::AnaGroup { group, namespaces, state, ..log::AnaGroup::new_zeroed() };
            data.extend_from_slice(group.as_bytes());
            data.extend_from_slice(nsids.as_bytes());
        }
        data
    }

    #[test]
    fn states_are_found_with_and_without_namespaces() {
        let found = AnaLog::parse(&log(
            3,
            &[
                (1, log::AnaState::OPTIMIZED, 0, &[]),
                (2, log::AnaState::INACCESSIBLE, 2, &[5, 6]),
                (7, log::AnaState::CHANGE, 0, &[]),
            ],
        ));
        assert_eq!(found.state(1), Some(AnaState::Optimized));
        assert_eq!(found.state(2), Some(AnaState::Inaccessible));
        assert_eq!(found.state(7), Some(AnaState::Change));
        assert_eq!(found.state(3), None);
    }

    #[test]
    fn a_log_that_lies_about_its_length_is_read_to_its_end() {
        for namespaces in [0, u32::MAX] {
            let data = log(u16::MAX, &[(1, log::AnaState::OPTIMIZED, namespaces, &[])]);
            assert_eq!(AnaLog::parse(&data).state(1), Some(AnaState::Optimized));
        }
    }

    proptest! {
        #[test]
        fn any_log_is_taken_apart_without_panic(data in prop::collection::vec(any::<u8>(), 0..9000)) {
            prop_assert!(AnaLog::parse(&data).0.len() <= data.len() / 32);
        }
    }
}
