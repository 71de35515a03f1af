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

    use super::*;

    fn log(groups: &[(u32, u8, &[u32])]) -> Vec<u8> {
        let mut data = vec![0; 16];
        data[8] = u8::try_from(groups.len()).expect("few");
        for (number, state, nsids) in groups {
            data.extend_from_slice(&number.to_le_bytes());
            data.extend_from_slice(&u32::try_from(nsids.len()).expect("few").to_le_bytes());
            data.extend_from_slice(&[0; 8]);
            data.push(*state);
            data.extend_from_slice(&[0; 15]);
            nsids.iter().for_each(|nsid| data.extend_from_slice(&nsid.to_le_bytes()));
        }
        data
    }

    #[test]
    fn states_are_found_with_and_without_namespaces() {
        let found = AnaLog::parse(&log(&[(1, 1, &[]), (2, 3, &[5, 6]), (7, 0x0f, &[])]));
        assert_eq!(found.state(1), Some(AnaState::Optimized));
        assert_eq!(found.state(2), Some(AnaState::Inaccessible));
        assert_eq!(found.state(7), Some(AnaState::Change));
        assert_eq!(found.state(3), None);
    }

    #[test]
    fn a_log_that_lies_about_its_length_is_read_to_its_end() {
        let mut data = log(&[(1, 1, &[])]);
        data[8..10].copy_from_slice(&u16::MAX.to_le_bytes());
        assert_eq!(AnaLog::parse(&data).state(1), Some(AnaState::Optimized));
        data[20..24].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(AnaLog::parse(&data).state(1), Some(AnaState::Optimized));
    }

    proptest! {
        #[test]
        fn any_log_is_taken_apart_without_panic(data in prop::collection::vec(any::<u8>(), 0..9000)) {
            prop_assert!(AnaLog::parse(&data).0.len() <= data.len() / 32);
        }
    }
}
