//! A look at a pool's namespaces: which admin commands are sent, and what their answers prove. It sends nothing itself.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use nvme_spec::identify::Cns;
use nvme_spec::log::{AnaLogParameter, LogId};
use nvme_spec::{Sqe, Status, StatusCode};

use crate::identify::{self, AnaLog, Descriptors, Namespace, Page, UnusableNamespace, Uses};

/// How many commands of a scan are in flight at a time.
const DEPTH: usize = 8;
/// The most namespaces of a list that are believed; those beyond are looked for one by one where they are wanted.
const MAX_LISTED: usize = 65_536;
/// The most namespaces that nobody wants and that are described nevertheless.
const MAX_DESCRIBED: usize = 1_024;
/// The bytes of the log of changed namespaces.
const CHANGED_LEN: u32 = 4_096;

/// A command of a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ScanCommand {
    /// The log of changed namespaces, whose content does not matter: it is read so that the next event can come.
    Changed,
    /// The states of the ANA groups.
    Ana,
    /// A page of the list of active namespaces, from the one after this.
    List(u32),
    /// The size and format of a namespace.
    Namespace(u32),
    /// The names of a namespace.
    Descriptors(u32),
    /// The extended formats of a namespace.
    Formats(u32),
}

impl ScanCommand {
    /// Returns the command.
    pub(crate) fn sqe(self) -> Sqe {
        let groups_only = AnaLogParameter::new().with_rgo(true);
        match self {
            Self::Changed => Sqe::get_log_page(LogId::CHANGED_NAMESPACE_LIST, 0, CHANGED_LEN),
            Self::Ana => Sqe::get_log_page(LogId::ANA, groups_only.into_bits(), self.len()),
            Self::List(after) => Sqe::identify(Cns::ACTIVE_NAMESPACES, after),
            Self::Namespace(nsid) => Sqe::identify(Cns::NAMESPACE, nsid),
            Self::Descriptors(nsid) => Sqe::identify(Cns::NAMESPACE_DESCRIPTORS, nsid),
            // The command set is 0: the NVM command set.
            Self::Formats(nsid) => Sqe::identify(Cns::COMMAND_SET_NAMESPACE, nsid),
        }
    }

    /// Returns how many bytes it brings.
    pub(crate) fn len(self) -> u32 {
        let len = if self == Self::Ana { AnaLog::LEN } else { identify::LEN };
        u32::try_from(len).unwrap_or(CHANGED_LEN)
    }
}

impl fmt::Display for ScanCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changed => write!(f, "Get Log Page (changed namespaces)"),
            Self::Ana => write!(f, "Get Log Page (ANA)"),
            Self::List(after) => write!(f, "Identify (active namespaces after {after})"),
            Self::Namespace(nsid) => write!(f, "Identify (namespace {nsid})"),
            Self::Descriptors(nsid) => write!(f, "Identify (descriptors of namespace {nsid})"),
            Self::Formats(nsid) => write!(f, "Identify (formats of namespace {nsid})"),
        }
    }
}

/// What was found out about a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ScanResult {
    /// It is there.
    Found {
        /// Its size and format.
        namespace: Namespace,
        /// Its names, if the controller knows the list of them.
        descriptors: Option<Descriptors>,
    },
    /// It is there and cannot be served.
    Unusable(UnusableNamespace),
    /// A good list of active namespaces does not have it.
    Gone,
    /// Nothing is proved, for this reason.
    Unknown(String),
}

/// What a controller can tell.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ScanSupport {
    pub(crate) ana: bool,
    pub(crate) extended_formats: bool,
}

/// A scan in progress.
#[derive(Debug)]
pub(crate) struct NamespaceScan {
    support: ScanSupport,
    /// The namespaces about which something is to be found out.
    wanted: BTreeSet<u32>,
    asks: VecDeque<ScanCommand>,
    in_flight: usize,
    /// The namespaces that were listed, ascending.
    listed: Vec<u32>,
    /// Those about which more is asked: their names, then their extended formats.
    halves: BTreeMap<u32, (Namespace, Option<Descriptors>)>,
    results: Vec<(u32, ScanResult)>,
    /// Namespaces that nobody wants.
    others: Vec<Namespace>,
    ana: Option<AnaLog>,
    /// Why the list is not believed.
    list_error: Option<String>,
}

impl NamespaceScan {
    /// Returns a scan that finds something out about each of `wanted`.
    pub(crate) fn new(wanted: BTreeSet<u32>, support: ScanSupport) -> Self {
        // What changes after the log was read makes an event; the list is read after it, so that nothing is missed.
        let mut asks = VecDeque::from([ScanCommand::Changed]);
        if support.ana {
            asks.push_back(ScanCommand::Ana);
        }
        Self {
            support,
            wanted,
            asks,
            in_flight: 0,
            listed: Vec::new(),
            halves: BTreeMap::new(),
            results: Vec::new(),
            others: Vec::new(),
            ana: None,
            list_error: None,
        }
    }

    /// Returns the next command to send, each of which must be [answered](Self::answer).
    pub(crate) fn next(&mut self) -> Option<ScanCommand> {
        if self.in_flight >= DEPTH {
            return None;
        }
        let ask = self.asks.pop_front()?;
        self.in_flight += 1;
        Some(ask)
    }

    /// A command that was [given](Self::next) could not be sent now.
    pub(crate) fn put_back(&mut self, ask: ScanCommand) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.asks.push_front(ask);
    }

    /// Returns how many commands are in flight.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Returns whether everything was asked and answered.
    pub(crate) fn is_over(&self) -> bool {
        self.in_flight == 0 && self.asks.is_empty()
    }

    /// Returns what was found out since the last call about namespaces that are wanted.
    pub(crate) fn take_results(&mut self) -> Vec<(u32, ScanResult)> {
        std::mem::take(&mut self.results)
    }

    /// Returns the states of the ANA groups, once.
    pub(crate) fn take_ana(&mut self) -> Option<AnaLog> {
        self.ana.take()
    }

    /// Returns the namespaces that were listed so far, ascending.
    pub(crate) fn listed(&self) -> &[u32] {
        &self.listed
    }

    /// Returns the namespaces that were listed, and what is known of those that nobody wants.
    pub(crate) fn into_found(self) -> (Vec<u32>, Vec<Namespace>) {
        (self.listed, self.others)
    }

    /// Returns why the list of namespaces is not believed, if it is not.
    pub(crate) fn list_error(&self) -> Option<&str> {
        self.list_error.as_deref()
    }

    /// A command was answered.
    pub(crate) fn answer(&mut self, ask: ScanCommand, answer: Result<&[u8], Status>) {
        self.in_flight = self.in_flight.saturating_sub(1);
        match (ask, answer) {
            (ScanCommand::Changed, _) => self.asks.push_back(ScanCommand::List(0)),
            (ScanCommand::Ana, Ok(data)) => self.ana = Some(AnaLog::parse(data)),
            (ScanCommand::Ana, Err(_)) => {}
            (ScanCommand::List(after), Ok(data)) => self.take_page(after, data),
            (ScanCommand::List(_), Err(status)) => self.listed_badly(failed(ask, status)),
            (ScanCommand::Namespace(nsid), Ok(data)) => self.take_namespace(nsid, data),
            (ScanCommand::Descriptors(nsid), answer) => self.take_descriptors(nsid, answer),
            (ScanCommand::Formats(nsid), Ok(data)) => {
                if let Some((mut namespace, descriptors)) = self.halves.remove(&nsid) {
                    namespace.take_format(data);
                    self.results.push((nsid, ScanResult::Found { namespace, descriptors }));
                }
            }
            (ScanCommand::Namespace(nsid) | ScanCommand::Formats(nsid), Err(status)) => {
                self.unknown(nsid, failed(ask, status));
            }
        }
    }

    fn take_page(&mut self, after: u32, data: &[u8]) {
        match Page::parse(data, after) {
            Err(error) => self.listed_badly(error.to_string()),
            Ok(Page { nsids, is_full }) => {
                self.listed.extend(nsids);
                match self.listed.last() {
                    Some(&last) if is_full && self.listed.len() < MAX_LISTED => {
                        self.asks.push_back(ScanCommand::List(last));
                    }
                    last => {
                        let beyond = if is_full { last.copied() } else { None };
                        self.listed_well(beyond);
                    }
                }
            }
        }
    }

    /// The list is complete, or at least up to the namespace `beyond`.
    fn listed_well(&mut self, beyond: Option<u32>) {
        for &nsid in &self.wanted {
            let listed = self.listed.binary_search(&nsid).is_ok();
            if listed || beyond.is_some_and(|last| nsid > last) {
                self.asks.push_back(ScanCommand::Namespace(nsid));
            } else {
                self.results.push((nsid, ScanResult::Gone));
            }
        }
        let others = self.listed.iter().copied().filter(|nsid| !self.wanted.contains(nsid));
        self.asks.extend(others.take(MAX_DESCRIBED).map(ScanCommand::Namespace));
    }

    /// There is no list to be believed: nothing is gone, and what is wanted is looked for.
    fn listed_badly(&mut self, reason: String) {
        self.list_error = Some(reason);
        self.listed.clear();
        self.asks.extend(self.wanted.iter().copied().map(ScanCommand::Namespace));
    }

    fn take_namespace(&mut self, nsid: u32, data: &[u8]) {
        let is_wanted = self.wanted.contains(&nsid);
        match Namespace::parse(nsid, data) {
            Ok(Uses::Block(namespace)) if is_wanted => {
                self.halves.insert(nsid, (namespace, None));
                self.asks.push_front(ScanCommand::Descriptors(nsid));
            }
            Ok(Uses::Block(namespace)) => self.others.push(namespace),
            Ok(Uses::Inactive) => {
                self.unknown(nsid, format!("{} says that it is not active", ScanCommand::Namespace(nsid)));
            }
            Err(unfit) if is_wanted => self.results.push((nsid, ScanResult::Unusable(unfit))),
            Err(_) => {}
        }
    }

    fn take_descriptors(&mut self, nsid: u32, answer: Result<&[u8], Status>) {
        let descriptors = match answer.map(Descriptors::parse) {
            Ok(Ok(descriptors)) => Some(descriptors),
            Ok(Err(error)) => return self.unknown(nsid, error.to_string()),
            Err(status) if is_not_known(status) => None,
            Err(status) => return self.unknown(nsid, failed(ScanCommand::Descriptors(nsid), status)),
        };
        let Some((namespace, _)) = self.halves.remove(&nsid) else { return };
        if self.support.extended_formats && namespace.protection.0 != 0 {
            self.halves.insert(nsid, (namespace, descriptors));
            return self.asks.push_front(ScanCommand::Formats(nsid));
        }
        self.results.push((nsid, ScanResult::Found { namespace, descriptors }));
    }

    fn unknown(&mut self, nsid: u32, reason: String) {
        self.halves.remove(&nsid);
        if self.wanted.contains(&nsid) {
            self.results.push((nsid, ScanResult::Unknown(reason)));
        }
    }
}

fn failed(ask: ScanCommand, status: Status) -> String {
    format!("{ask} failed with status {}", status.code())
}

/// Returns whether a controller says that it does not have what it was asked for.
fn is_not_known(status: Status) -> bool {
    matches!(status.code(), StatusCode::INVALID_OPCODE | StatusCode::INVALID_FIELD)
}

#[cfg(test)]
mod tests {
    use nvme_spec::identify::IdentifyNamespace;
    use proptest::prelude::*;
    use zerocopy::{FromZeros, IntoBytes};

    use super::*;

    fn page(nsids: impl IntoIterator<Item = u32>) -> Vec<u8> {
        let mut data: Vec<u8> = nsids.into_iter().flat_map(u32::to_le_bytes).collect();
        data.resize(identify::LEN, 0);
        data
    }

    fn namespace(blocks: u64) -> Vec<u8> {
        let mut identity = IdentifyNamespace { nsze: blocks, ..IdentifyNamespace::new_zeroed() };
        identity.lbaf[0].set_lbads(9);
        identity.as_bytes().to_vec()
    }

    /// Answers everything as `answer` says.
    fn run(
        scan: &mut NamespaceScan,
        answer: impl Fn(ScanCommand) -> Result<Vec<u8>, Status>,
    ) -> Vec<(u32, ScanResult)> {
        let mut asked = 0;
        while let Some(ask) = scan.next() {
            asked += 1;
            assert!(asked < 10_000, "it ends");
            let answer = answer(ask);
            scan.answer(ask, answer.as_deref().map_err(|&status| status));
        }
        assert!(scan.is_over());
        scan.take_results()
    }

    fn good(ask: ScanCommand) -> Vec<u8> {
        match ask {
            ScanCommand::List(_) => page([1, 3]),
            ScanCommand::Namespace(_) => namespace(100),
            _ => vec![0; identify::LEN],
        }
    }

    fn scan(wanted: impl IntoIterator<Item = u32>) -> NamespaceScan {
        NamespaceScan::new(wanted.into_iter().collect(), ScanSupport { ana: true, extended_formats: true })
    }

    #[test]
    fn a_namespace_that_a_good_list_lacks_is_gone_and_one_that_it_has_is_found() {
        let mut scan = scan([1, 2]);
        let results = run(&mut scan, |ask| Ok(good(ask)));
        assert!(results.contains(&(2, ScanResult::Gone)), "{results:?}");
        assert!(matches!(&results[..], [_, (1, ScanResult::Found { descriptors: Some(_), .. })]), "{results:?}");
        let (listed, others) = scan.into_found();
        assert_eq!((listed, others.len()), (vec![1, 3], 1));
    }

    #[test]
    fn nothing_is_gone_by_a_list_that_is_not_believed_or_not_given() {
        for list in
            [Ok(page([3, 2, 1])), Ok(page([u32::MAX])), Err(Status::NAMESPACE_NOT_READY), Err(Status::INVALID_FIELD)]
        {
            let mut scan = scan([1, 2]);
            let results =
                run(&mut scan, |ask| if matches!(ask, ScanCommand::List(_)) { list.clone() } else { Ok(good(ask)) });
            assert!(scan.list_error().is_some());
            assert_eq!(results.len(), 2);
            assert!(results.iter().all(|(_, found)| matches!(found, ScanResult::Found { .. })), "{results:?}");
        }
    }

    #[test]
    fn a_list_without_end_is_read_for_a_while_and_what_lies_beyond_is_looked_for() {
        let mut scan = scan([7, u32::MAX - 2]);
        let results = run(&mut scan, |ask| match ask {
            ScanCommand::List(after) => Ok(page((1..=1024).map(|n| after + n * 2))),
            ask => Ok(good(ask)),
        });
        assert_eq!(results[0], (7, ScanResult::Gone));
        assert!(matches!(results[1], (4_294_967_293, ScanResult::Found { .. })), "{results:?}");
        let (listed, others) = scan.into_found();
        assert_eq!((listed.len(), others.len()), (MAX_LISTED, MAX_DESCRIBED));
    }

    #[test]
    fn a_failed_identify_or_descriptor_list_proves_nothing() {
        for bad in [ScanCommand::Namespace(1), ScanCommand::Descriptors(1)] {
            let results =
                run(&mut scan([1]), |ask| if ask == bad { Err(Status::NAMESPACE_NOT_READY) } else { Ok(good(ask)) });
            assert!(matches!(&results[..], [(1, ScanResult::Unknown(_))]), "{bad}: {results:?}");
        }
        let results =
            run(&mut scan([1]), |ask| if ask == ScanCommand::Namespace(1) { Ok(vec![0; 4096]) } else { Ok(good(ask)) });
        assert!(matches!(&results[..], [(1, ScanResult::Unknown(_))]), "an inactive one: {results:?}");
    }

    #[test]
    fn a_controller_without_a_descriptor_list_is_believed_to_have_none() {
        let results = run(&mut scan([1]), |ask| {
            if ask == ScanCommand::Descriptors(1) { Err(Status::INVALID_FIELD) } else { Ok(good(ask)) }
        });
        assert!(matches!(&results[..], [(1, ScanResult::Found { descriptors: None, .. })]), "{results:?}");
    }

    #[test]
    fn few_commands_are_in_flight_at_a_time() {
        let mut scan = scan(1..=100);
        scan.next();
        scan.answer(ScanCommand::Changed, Ok(&[]));
        scan.next();
        let ask = scan.next().expect("the list is asked for");
        scan.answer(ask, Ok(&page(1..=100)));
        while scan.next().is_some() {}
        assert_eq!(scan.in_flight(), DEPTH);
    }

    proptest! {
        #[test]
        fn whatever_is_answered_a_scan_ends_and_finds_one_thing_of_each(
            answers in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..160)), 1..40),
            wanted in prop::collection::btree_set(1_u32..50, 0..5),
        ) {
            let mut scan = scan(wanted.clone());
            let mut answers = answers.iter().cycle();
            let mut results = Vec::new();
            for _ in 0..10_000 {
                let Some(ask) = scan.next() else { break };
                let (good, data) = answers.next().expect("endless");
                scan.answer(ask, if *good { Ok(data) } else { Err(Status::NAMESPACE_NOT_READY) });
                results.extend(scan.take_results());
            }
            prop_assert!(scan.is_over());
            let found: Vec<u32> = results.iter().map(|(nsid, _)| *nsid).collect();
            prop_assert_eq!(found.len(), wanted.len());
            prop_assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), wanted);
        }
    }
}
