//! Watching a pool's namespaces: scans at events and while something is missing, and what follows from what they
//! find.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use nvme_spec::Status;
use nvme_spec::admin::{AsyncEvent, EventType, NoticeEvent};
use spdk::nvme::{Ctrlr, is_queue_lost};
use spdk::poller::{Poll, Poller};

use super::namespace_scan::{NamespaceScan, ScanCommand, ScanResult, ScanSupport};
use super::{BUSY_PERIOD, BdevError, Pool, State};
use crate::channel::{PoolChannel, Target};
use crate::disk::{Gate, Identity};
use crate::identify::{AnaLog, Namespace};
use crate::params::BdevParams;

/// The least time from the beginning of a scan to that of the next, and from an event to the request for the next
/// one.
const LEAST_PERIOD: Duration = Duration::from_millis(100);
/// How long it takes to the next scan while something is missing. After a command that failed it is longer each time.
const PERIOD: Duration = Duration::from_secs(1);
/// The longest such time.
const LONGEST_PERIOD: Duration = Duration::from_secs(8);
/// How long namespaces that were proved wait for others of the same scan.
const RELEASE_PERIOD: Duration = Duration::from_millis(20);

/// Tells what became of a bdev that was asked for.
pub(super) type Created = Box<dyn FnOnce(Result<(), BdevError>)>;

/// A namespace that is a bdev, or is to become one.
pub(super) struct WatchedNamespace {
    pub(super) params: BdevParams,
    /// What it was known by when it was made a bdev for the first time.
    pub(super) identity: Option<Identity>,
    /// Who waits for it to become one for the first time.
    pub(super) created: Option<Created>,
    /// When it was asked for.
    asked: Instant,
    /// Until when it has been waited for commands that another pool has lost.
    contested: Option<Instant>,
    /// Since when nothing is sent to it.
    held_since: Option<Instant>,
    /// Since when good lists lack it.
    gone_since: Option<Instant>,
    /// Its bdev was told to go.
    leaving: bool,
    /// What was said last of what is wrong with it.
    pub(super) said: String,
}

impl WatchedNamespace {
    pub(super) fn new(params: &BdevParams, created: Option<Created>) -> Self {
        Self {
            params: params.clone(),
            identity: None,
            created,
            asked: Instant::now(),
            contested: None,
            held_since: None,
            gone_since: None,
            leaving: false,
            said: String::new(),
        }
    }

    /// Says what is wrong with it, once.
    fn say(&mut self, pool: &str, text: String) {
        if self.said != text {
            log::warn!("bdev '{}', namespace {} of pool '{pool}': {text}", self.params.name, self.params.nsid);
            self.said = text;
        }
    }
}

/// What is known of a pool's namespaces.
#[derive(Default)]
pub(super) struct NamespaceWatch {
    pub(super) wanted: RefCell<BTreeMap<u32, WatchedNamespace>>,
    /// What the namespaces were like that were listed last and could be served.
    pub(super) known: RefCell<BTreeMap<u32, Namespace>>,
    pub(super) ana: RefCell<AnaLog>,
    pub(super) scan: RefCell<Option<NamespaceScan>>,
    /// Counts scans, so that an answer is not taken for that of a later one.
    generation: Cell<u64>,
    /// Commands of earlier scans that have no answer yet.
    unanswered: Cell<usize>,
    begun: Cell<Option<Instant>>,
    /// When the next scan is due.
    next: Cell<Option<Instant>>,
    /// How many scans in a row have found out nothing about something.
    failures: Cell<u32>,
    /// The scan that is in progress has found out nothing about something.
    failed: Cell<bool>,
    /// Since when there are namespaces that were proved and not released.
    released: Cell<Option<Instant>>,
    /// A walk that releases is in progress.
    releasing: Cell<bool>,
    /// An event is asked for.
    asked_for_event: Cell<bool>,
    /// Before this no event is asked for.
    next_event: Cell<Option<Instant>>,
    /// Calls the pool more often during a scan.
    poller: RefCell<Option<Poller>>,
    /// Who waits for the end of a scan.
    scanned: RefCell<Vec<Box<dyn FnOnce()>>>,
    /// A scan has ended since the pool was connected.
    is_scanned: Cell<bool>,
}

impl Pool {
    /// The pool is connected, for the first time or again: nothing is sent to a namespace before it was proved.
    pub(super) fn begin_watch(&self) {
        let watch = &self.watch;
        watch.scan.take();
        watch.generation.set(watch.generation.get() + 1);
        // What was asked through the connection before has ended with it.
        watch.unanswered.set(0);
        watch.asked_for_event.set(false);
        watch.next_event.set(None);
        watch.failures.set(0);
        watch.is_scanned.set(false);
        watch.begun.set(None);
        watch.next.set(Some(Instant::now()));
        for wanted in watch.wanted.borrow_mut().values_mut() {
            wanted.gone_since = None;
            self.hold(wanted);
        }
    }

    fn hold(&self, wanted: &mut WatchedNamespace) {
        wanted.held_since.get_or_insert_with(Instant::now);
        if let Some(disk) = self.disks.borrow().get(&wanted.params.nsid)
            && !disk.device().is_failing()
        {
            disk.device().set_gate(Gate::Held);
        }
    }

    /// Calls `done` once it is known which namespaces the pool has, or that this cannot be known now.
    pub(crate) fn when_scanned(&self, done: impl FnOnce() + 'static) {
        self.watch.scanned.borrow_mut().push(Box::new(done));
        self.look_soon();
    }

    /// A namespace is said not to be there by an answer to its I/O.
    pub(crate) fn doubt(&self, nsid: u32) {
        if let Some(wanted) = self.watch.wanted.borrow_mut().get_mut(&nsid) {
            self.hold(wanted);
        }
        self.look_soon();
    }

    /// The next scan comes as soon as it may.
    pub(super) fn look_soon(&self) {
        let now = Instant::now();
        let due = self.watch.begun.get().map_or(now, |begun| begun + LEAST_PERIOD);
        let due = self.watch.next.get().map_or(due, |next| next.min(due));
        self.watch.next.set(Some(due));
    }

    /// Goes on with what is to be done about namespaces. To be called often while the admin queue is connected.
    pub(super) fn go_on_watching(&self) {
        if self.is_deleting() {
            return;
        }
        self.ask_for_event();
        let now = Instant::now();
        let is_scanning = self.watch.scan.borrow().is_some();
        if is_scanning {
            self.continue_scan(now);
        } else if self.watch.next.get().is_some_and(|next| now >= next) && self.watch.unanswered.get() == 0 {
            self.begin_scan(now);
        }
        let is_late = |wanted: &WatchedNamespace| {
            wanted.created.is_some() && now >= wanted.contested.unwrap_or(wanted.asked) + self.scan_limit() * 2
        };
        if self.watch.wanted.borrow().values().any(is_late) {
            self.fail_created("the pool does not answer");
        }
        self.check_held(now);
        self.release(now);
    }

    fn ask_for_event(&self) {
        let watch = &self.watch;
        let early = watch.next_event.get().is_some_and(|next| Instant::now() < next);
        if early || watch.asked_for_event.replace(true) {
            return;
        }
        let me = self.me.clone();
        let told = move |event: Result<AsyncEvent, Status>| {
            if let Some(pool) = me.upgrade() {
                pool.take_event(event);
            }
        };
        if self.with_ctrlr(|ctrlr| ctrlr.ask_for_event(told)).is_none_or(|asked| asked.is_err()) {
            watch.asked_for_event.set(false);
            watch.next_event.set(Some(Instant::now() + PERIOD));
        }
    }

    fn take_event(&self, event: Result<AsyncEvent, Status>) {
        self.watch.asked_for_event.set(false);
        // A pool cannot make events faster than they are asked for. One that does not take the request is asked seldom.
        let pause = if event.is_ok() { LEAST_PERIOD } else { PERIOD };
        self.watch.next_event.set(Some(Instant::now() + pause));
        if event.is_ok_and(is_about_namespaces) {
            self.look_soon();
        }
    }

    fn begin_scan(&self, now: Instant) {
        let Some(limits) = self.with_ctrlr(Ctrlr::limits) else { return };
        let support = ScanSupport { ana: limits.ana, extended_formats: limits.extended_formats };
        let watch = &self.watch;
        self.shared().take_doubt();
        watch.next.set(None);
        watch.begun.set(Some(now));
        watch.generation.set(watch.generation.get() + 1);
        let wanted = watch.wanted.borrow().keys().copied().collect();
        watch.failed.set(false);
        watch.scan.replace(Some(NamespaceScan::new(wanted, support)));
        let me = self.me.clone();
        let tick = move || me.upgrade().map_or(Poll::Idle, |pool| pool.tick());
        // Without it the scan takes a little longer.
        watch.poller.replace(Poller::register("courier_scan", BUSY_PERIOD, tick).ok());
        self.send_asks();
    }

    fn continue_scan(&self, now: Instant) {
        let (results, ana) = match self.watch.scan.borrow_mut().as_mut() {
            Some(scan) => (scan.take_results(), scan.take_ana()),
            None => return,
        };
        if let Some(ana) = ana {
            self.take_ana(ana);
        }
        for (nsid, result) in results {
            self.take_finding(nsid, result);
        }
        self.send_asks();
        let over = self.watch.scan.borrow_mut().take_if(|scan| scan.is_over());
        if let Some(scan) = over {
            self.end_scan(scan);
        } else if self.watch.begun.get().is_some_and(|begun| now >= begun + self.scan_limit()) {
            self.scan_is_late();
        }
    }

    /// Returns how long whoever waits for a bdev waits for commands that another pool has lost: once they can be ruled
    /// out in that time, but not for a pool that loses others again and again.
    fn contest_limit(&self) -> Duration {
        self.keep_alive() * 3 + self.scan_limit() * 2
    }

    fn scan_limit(&self) -> Duration {
        Duration::from_millis(u64::from(self.params.connect_timeout_ms))
    }

    fn send_asks(&self) {
        let generation = self.watch.generation.get();
        loop {
            let ask = self.watch.scan.borrow_mut().as_mut().and_then(NamespaceScan::next);
            let Some(ask) = ask else { return };
            let me = self.me.clone();
            let answered = move |answer: Result<&[u8], Status>| {
                if let Some(pool) = me.upgrade() {
                    pool.take_answer(generation, ask, answer);
                }
            };
            let sent = self.with_ctrlr(|ctrlr| ctrlr.ask(&ask.sqe(), ask.len(), answered));
            if sent.is_none_or(|sent| sent.is_err()) {
                // Later, when there is a request again; or the connection is being lost.
                if let Some(scan) = self.watch.scan.borrow_mut().as_mut() {
                    scan.put_back(ask);
                }
                return;
            }
        }
    }

    /// Called from within the poll of the admin queue: what follows from it waits for the next round.
    fn take_answer(&self, generation: u64, ask: ScanCommand, answer: Result<&[u8], Status>) {
        let watch = &self.watch;
        if generation != watch.generation.get() {
            return watch.unanswered.set(watch.unanswered.get().saturating_sub(1));
        }
        if answer.is_err_and(is_queue_lost) {
            // The connection is being lost; there will be another scan.
            watch.scan.take();
            watch.poller.take();
            self.tell_scanned();
        } else if let Some(scan) = watch.scan.borrow_mut().as_mut() {
            scan.answer(ask, answer);
        }
    }

    /// The pool does not answer. If I/O waits for that, the connection is of no use; otherwise it is asked again later.
    fn scan_is_late(&self) {
        let watch = &self.watch;
        let Some(scan) = watch.scan.take() else { return };
        watch.unanswered.set(watch.unanswered.get() + scan.in_flight());
        watch.generation.set(watch.generation.get() + 1);
        watch.poller.take();
        watch.failures.set(watch.failures.get().saturating_add(1));
        self.look_again(true);
        let reason = format!("no answer about its namespaces within {:?}", self.scan_limit());
        self.fail_created(&reason);
        self.tell_scanned();
        let held = watch.wanted.borrow().values().any(|wanted| wanted.held_since.is_some());
        if held && self.state.get() == State::Connected {
            self.connection_lost(&reason, false);
        } else {
            log::warn!("pool '{}': {reason}", self.name());
        }
    }

    fn end_scan(&self, scan: NamespaceScan) {
        let watch = &self.watch;
        watch.poller.take();
        let failures = watch.failures.get();
        if let Some(reason) = scan.list_error()
            && failures == 0
        {
            log::warn!("pool '{}': {reason}; no namespace counts as gone by it", self.name());
        }
        let believed = scan.list_error().is_none();
        let failed = watch.failed.take() || !believed;
        watch.failures.set(if failed { failures.saturating_add(1) } else { 0 });
        let (listed, others) = scan.into_found();
        if believed {
            let wanted = watch.wanted.borrow();
            let mut known = watch.known.borrow_mut();
            known.retain(|nsid, _| wanted.contains_key(nsid) && listed.binary_search(nsid).is_ok());
            known.extend(others.into_iter().map(|namespace| (namespace.nsid, namespace)));
        }
        self.look_again(failed);
        self.tell_scanned();
        self.release_soon();
    }

    /// Plans the next scan, if something is missing or an event has come meanwhile.
    fn look_again(&self, failed: bool) {
        let watch = &self.watch;
        let missing = failed || {
            let wanted = watch.wanted.borrow();
            let disks = self.disks.borrow();
            wanted.iter().any(|(nsid, wanted)| wanted.held_since.is_some() || !disks.contains_key(nsid))
        };
        if !missing {
            return;
        }
        let doublings = watch.failures.get().saturating_sub(1).min(3);
        let pause = PERIOD.saturating_mul(1 << doublings).min(LONGEST_PERIOD);
        let due = Instant::now() + pause;
        watch.next.set(Some(watch.next.get().map_or(due, |next| next.min(due))));
    }

    fn tell_scanned(&self) {
        self.watch.is_scanned.set(true);
        for done in self.watch.scanned.take() {
            done();
        }
    }

    fn take_ana(&self, ana: AnaLog) {
        let before = self.watch.ana.replace(ana);
        if before != *self.watch.ana.borrow() {
            // What the pool did not carry out for its state is tried again at once.
            self.release_soon();
        }
    }

    fn take_finding(&self, nsid: u32, result: ScanResult) {
        let mut all = self.watch.wanted.borrow_mut();
        let Some(wanted) = all.get_mut(&nsid) else { return };
        if !self.disks.borrow().contains_key(&nsid) && self.is_contested() {
            // It is looked for again as long as it is missing.
            let now = Instant::now();
            wanted.contested = Some(now);
            wanted.say(
                self.name(),
                "another pool of its subsystem has lost commands that may still be carried out; the bdev waits for these"
                    .to_owned(),
            );
            let age = now.saturating_duration_since(wanted.asked);
            // Who does not wait has the reason told.
            if wanted.created.is_some() && (!wanted.params.wait || age >= self.contest_limit()) {
                drop(all);
                self.created(nsid, Err(BdevError::Contested { pool: self.name().to_owned(), nsid, waited: age }));
            }
            return;
        }
        if wanted.created.is_some() {
            drop(all);
            return self.try_creating(nsid, result);
        }
        match result {
            ScanResult::Found { namespace, descriptors } => {
                let found = Identity::of(&namespace, descriptors.as_ref());
                match &wanted.identity {
                    Some(right) if !right.is_provable(descriptors.is_some()) => {
                        wanted.say(self.name(), "its names cannot be read; its I/O is held".to_owned());
                        self.hold(wanted);
                    }
                    Some(right) if found != *right => {
                        wanted.say(self.name(), "another namespace has come in its place; the bdev goes".to_owned());
                        self.fail_namespace(wanted);
                    }
                    _ => {
                        drop(all);
                        self.proved(&namespace, &found, descriptors.and_then(|names| names.csi));
                    }
                }
            }
            ScanResult::Gone => {
                wanted.gone_since.get_or_insert_with(Instant::now);
                wanted.say(self.name(), "it is not in the pool's list of namespaces; its I/O is held".to_owned());
                self.hold(wanted);
            }
            ScanResult::Unusable(unfit) => {
                wanted.say(self.name(), format!("{unfit}; its I/O is held"));
                self.hold(wanted);
            }
            ScanResult::Unknown(reason) => {
                wanted.say(self.name(), format!("{reason}, which proves nothing"));
                self.watch.failed.set(true);
                wanted.gone_since = None;
            }
        }
    }

    /// A namespace is the one that it should be.
    fn proved(&self, namespace: &Namespace, identity: &Identity, csi: Option<u8>) {
        let nsid = namespace.nsid;
        self.watch.known.borrow_mut().insert(nsid, namespace.clone());
        let disk = self.disks.borrow().get(&nsid).cloned();
        if let Some(disk) = disk {
            // One that is on its way out comes back once it is gone.
            if self.is_leaving(nsid) {
                return;
            }
            Self::resize(&disk, namespace.blocks);
            disk.device().set_gate(Gate::Open);
        } else if let Err(error) = self.register_bdev(namespace, identity, csi) {
            if let Some(wanted) = self.watch.wanted.borrow_mut().get_mut(&nsid) {
                wanted.say(self.name(), error.to_string());
            }
            return;
        }
        if let Some(wanted) = self.watch.wanted.borrow_mut().get_mut(&nsid) {
            if !wanted.said.is_empty() {
                log::info!("bdev '{}', namespace {nsid} of pool '{}': it is there", wanted.params.name, self.name());
            }
            (wanted.held_since, wanted.gone_since, wanted.said) = (None, None, String::new());
        }
        self.release_soon();
    }

    fn is_leaving(&self, nsid: u32) -> bool {
        self.watch.wanted.borrow().get(&nsid).is_some_and(|wanted| wanted.leaving)
    }

    /// Returns whether it was found out since the pool was connected which namespaces it has, as far as that can be.
    pub(super) fn is_scanned(&self) -> bool {
        self.watch.is_scanned.get()
    }

    /// The namespace is not the bdev's any more: the bdev goes, and what is held fails.
    fn fail_namespace(&self, wanted: &mut WatchedNamespace) {
        wanted.held_since.get_or_insert_with(Instant::now);
        let disk = self.disks.borrow().get(&wanted.params.nsid).cloned();
        let Some(disk) = disk.filter(|_| !wanted.leaving) else { return };
        disk.device().set_gate(Gate::Failing);
        self.release_soon();
        wanted.leaving = true;
        // Whoever deletes it otherwise comes to `forget_disk` as well.
        let _ = disk.unregister(|_| {});
    }

    /// The bdev of a namespace has gone.
    pub(super) fn namespace_left(&self, nsid: u32) {
        if let Some(wanted) = self.watch.wanted.borrow_mut().get_mut(&nsid) {
            wanted.leaving = false;
        }
        // The namespace may have come back meanwhile.
        self.look_soon();
    }

    /// What is held for too long fails; what is gone for too long goes.
    fn check_held(&self, now: Instant) {
        let loss = Duration::from_secs(u64::from(self.params.ns_loss_timeout_sec));
        let limit = self.params.io_limit();
        for wanted in self.watch.wanted.borrow_mut().values_mut() {
            let disk = self.disks.borrow().get(&wanted.params.nsid).cloned();
            let (Some(held), Some(disk)) = (wanted.held_since, disk) else { continue };
            if wanted.gone_since.is_some_and(|gone| now >= gone + loss) && !wanted.leaving {
                wanted.say(self.name(), format!("it is gone for {} s; so is the bdev", loss.as_secs()));
                self.fail_namespace(wanted);
            } else if limit.is_some_and(|limit| now >= held + limit) && !disk.device().is_failing() {
                wanted.say(self.name(), format!("I/O to it fails after {} s", limit.unwrap_or_default().as_secs()));
                disk.device().set_gate(Gate::Failing);
                self.release_soon();
            }
        }
    }

    fn release_soon(&self) {
        self.watch.released.set(self.watch.released.get().or(Some(Instant::now())));
    }

    /// Has the reactors send what they hold for namespaces that were proved, and fail what they hold for others.
    fn release(&self, now: Instant) {
        let watch = &self.watch;
        let due =
            watch.scan.borrow().is_none() || watch.released.get().is_some_and(|since| now >= since + RELEASE_PERIOD);
        if watch.released.get().is_none() || !due || watch.releasing.replace(true) {
            return;
        }
        watch.released.set(None);
        let me = self.me.clone();
        let done = move |_| {
            if let Some(pool) = me.upgrade() {
                pool.watch.releasing.set(false);
            }
        };
        if let Err(error) = self.device.for_each_channel(PoolChannel::release, done) {
            log::error!("pool '{}': what is held could not be released: {error}", self.name());
            watch.releasing.set(false);
        }
    }

    /// The pool is being deleted: nothing more is found out.
    pub(super) fn end_watch(&self) {
        self.watch.scan.take();
        self.watch.poller.take();
        self.fail_created("the pool is being deleted");
        self.tell_scanned();
    }
}

/// Returns whether an event tells that namespaces, or how they can be reached, have changed.
fn is_about_namespaces(event: AsyncEvent) -> bool {
    let notice = NoticeEvent(event.information());
    event.kind() == EventType::NOTICE
        && matches!(notice, NoticeEvent::NAMESPACE_ATTRIBUTE_CHANGED | NoticeEvent::ANA_CHANGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_about_namespaces_or_their_ana_state_is_a_reason_to_look_and_no_other_event_is() {
        let of =
            |kind, information| is_about_namespaces(AsyncEvent::new().with_kind(kind).with_information(information));
        for notice in NoticeEvent::NAMED {
            let expected = matches!(*notice, NoticeEvent::NAMESPACE_ATTRIBUTE_CHANGED | NoticeEvent::ANA_CHANGE);
            assert_eq!(of(EventType::NOTICE, notice.0), expected, "{notice:?}");
            assert!(!of(EventType::ERROR, notice.0) && !of(EventType::SMART, notice.0), "{notice:?}");
        }
    }
}
