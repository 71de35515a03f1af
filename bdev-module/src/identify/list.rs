//! The active namespace ID list (base specification, Identify CNS 02h).

use super::read;

/// The identifiers that a page has room for.
const ENTRIES: usize = nvme_spec::identify::NSID_LIST_ENTRIES;
/// The last identifier that a namespace may have.
const LAST: u32 = nvme_spec::MAX_NSID;

/// A page of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Page {
    /// Identifiers, ascending, each above the one that the page was asked for.
    pub(crate) nsids: Vec<u32>,
    /// The page is full: there may be more.
    pub(crate) is_full: bool,
}

/// Why a list is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ListError {
    /// Not in ascending order, or not above the identifier that was asked for.
    #[error("its namespace list has {found} after {before}; a list must ascend")]
    Order {
        /// The identifier before it, or the one that was asked for.
        before: u32,
        /// The one that is not above it.
        found: u32,
    },
    /// No identifier of a namespace.
    #[error("its namespace list has {0}; an identifier must be below 4294967294")]
    Range(u32),
}

impl Page {
    /// Takes apart a page of identifiers above `after`. It ends with the first zero.
    pub(crate) fn parse(data: &[u8], after: u32) -> Result<Self, ListError> {
        let mut nsids = Vec::new();
        let mut before = after;
        for index in 0..ENTRIES {
            let found: u32 = read(data, index * size_of::<u32>());
            if found == 0 {
                return Ok(Self { nsids, is_full: false });
            }
            if found <= before {
                return Err(ListError::Order { before, found });
            }
            if found > LAST {
                return Err(ListError::Range(found));
            }
            nsids.push(found);
            before = found;
        }
        Ok(Self { nsids, is_full: true })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn page(nsids: &[u32]) -> Vec<u8> {
        let mut data: Vec<u8> = nsids.iter().flat_map(|nsid| nsid.to_le_bytes()).collect();
        data.resize(4096, 0);
        data
    }

    #[test]
    fn a_list_ends_with_the_first_zero() {
        assert_eq!(Page::parse(&page(&[1, 5, 9]), 0), Ok(Page { nsids: vec![1, 5, 9], is_full: false }));
        assert_eq!(Page::parse(&page(&[]), 0), Ok(Page { nsids: Vec::new(), is_full: false }));
        assert_eq!(Page::parse(&page(&[1, 0, 9]), 0), Ok(Page { nsids: vec![1], is_full: false }));
    }

    #[test]
    fn a_full_page_may_be_followed_by_another() {
        let nsids: Vec<u32> = (1..=1024).collect();
        assert_eq!(Page::parse(&page(&nsids), 0), Ok(Page { nsids, is_full: true }));
    }

    #[test]
    fn a_list_that_does_not_ascend_is_refused() {
        assert_eq!(Page::parse(&page(&[3, 3]), 0), Err(ListError::Order { before: 3, found: 3 }));
        assert_eq!(Page::parse(&page(&[3, 2]), 0), Err(ListError::Order { before: 3, found: 2 }));
        let again: Vec<u32> = (1..=1024).collect();
        assert_eq!(Page::parse(&page(&again), 1024), Err(ListError::Order { before: 1024, found: 1 }));
    }

    #[test]
    fn the_broadcast_identifiers_are_no_namespaces() {
        assert_eq!(Page::parse(&page(&[u32::MAX]), 0), Err(ListError::Range(u32::MAX)));
        assert_eq!(Page::parse(&page(&[0xffff_fffe]), 0), Err(ListError::Range(0xffff_fffe)));
        assert!(Page::parse(&page(&[0xffff_fffd]), 0).is_ok());
    }

    proptest! {
        #[test]
        fn whatever_a_page_holds_what_is_believed_of_it_ascends(words in prop::collection::vec(any::<u32>(), 0..1100), after: u32) {
            let data: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            if let Ok(found) = Page::parse(&data, after) {
                prop_assert!(found.nsids.len() <= ENTRIES);
                prop_assert!(found.nsids.first().is_none_or(|&first| first > after));
                prop_assert!(found.nsids.is_sorted_by(|a, b| a < b));
            }
        }
    }
}
