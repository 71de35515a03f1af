//! What a client asks for, by the name of the case.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use guest_memory::{Access, Extent};
use rustix::fs::MemfdFlags;
use vfio_user::{IrqAction, IrqData, IrqKind};

use super::*;

const PAGE: u64 = 4096;
/// A region of this is made of one page.
const LOW: u64 = 0;
const HIGH: u64 = 16 * PAGE;
const ALL: UnmapRequest = UnmapRequest { addr: 0, size: 0, all: true };

const fn one(addr: u64) -> UnmapRequest {
    UnmapRequest { addr, size: PAGE, all: false }
}

fn with_file(gpa: u64) -> Result<Region, MapError> {
    let file = rustix::fs::memfd_create("courier-test", MemfdFlags::CLOEXEC).expect("a memfd");
    rustix::fs::ftruncate(&file, PAGE).expect("room");
    Region::map(file, Extent::new(0, gpa, PAGE, Access::ReadWrite)?, |_| {})
}

fn without_file(gpa: u64) -> Result<Region, MapError> {
    Region::without_file(gpa, PAGE, Access::ReadWrite, |_| {})
}

fn quiesced(_: u64) -> bool {
    true
}

/// Nobody else holds a region.
fn release_free(regions: Vec<Arc<Region>>) -> Vec<Arc<Region>> {
    regions.into_iter().filter(|region| Arc::strong_count(region) > 1).collect()
}

/// What is to be done, in a form that can be compared: memory as the addresses of its regions.
#[derive(Debug, PartialEq, Eq)]
enum Done {
    Register(u64),
    Publish(Vec<u64>),
    ChangeIrqs(char),
    Refresh,
    Ask(Request),
    AbortUnmapped,
    Warn(String),
    Reply(char, Result<(), i32>),
}

fn done(client: &mut Client<char>) -> Vec<Done> {
    let addresses = |memory: &GuestMemory| memory.regions().map(|region| region.gpa()).collect();
    std::iter::from_fn(|| client.next_output())
        .map(|output| match output {
            ClientOutput::Register(region) => Done::Register(region.gpa()),
            ClientOutput::Publish(memory) => Done::Publish(addresses(&memory)),
            ClientOutput::ChangeIrqs { token, .. } => Done::ChangeIrqs(token),
            ClientOutput::Refresh => Done::Refresh,
            ClientOutput::Ask(request) => Done::Ask(request),
            ClientOutput::AbortUnmapped => Done::AbortUnmapped,
            // Its first words tell which.
            ClientOutput::Warn(warning) => Done::Warn(warning.to_string().split_inclusive(' ').take(3).collect()),
            ClientOutput::Reply { token, result } => Done::Reply(token, result),
        })
        .collect()
}

/// A client that has mapped regions at these addresses.
fn client(regions: &[u64]) -> (Client<char>, Instant) {
    let mut client = Client::new(9);
    for gpa in regions {
        client.map('m', with_file(*gpa));
        client.registered(Ok::<(), io::Error>(()));
    }
    assert_eq!(done(&mut client).len(), 3 * regions.len());
    (client, Instant::now())
}

#[test]
fn a_mapping_is_published_and_answered_when_devices_were_told_of_it() {
    let (mut client, _) = client(&[LOW]);
    client.map('a', with_file(HIGH));
    assert_eq!(done(&mut client), [Done::Register(HIGH)]);
    assert!(client.is_mapping() && client.memory().len() == 1);
    client.registered(Ok::<(), io::Error>(()));
    assert_eq!(done(&mut client), [Done::Publish(vec![LOW, HIGH]), Done::Reply('a', Ok(()))]);
    assert!(!client.is_mapping() && client.memory().len() == 2);
}

#[test]
fn memory_that_devices_do_not_take_is_there_all_the_same_and_the_operator_is_told() {
    let (mut client, _) = client(&[]);
    client.map('a', with_file(LOW));
    client.registered(Err(io::Error::from_raw_os_error(libc::ENOMEM)));
    assert_eq!(
        done(&mut client),
        [Done::Register(LOW), Done::Warn("devices do not ".into()), Done::Publish(vec![LOW]), Done::Reply('a', Ok(()))]
    );
}

#[test]
fn memory_without_a_file_is_there_at_once_and_no_device_is_told_of_it() {
    let (mut client, _) = client(&[]);
    client.map('a', without_file(LOW));
    assert_eq!(
        done(&mut client),
        [Done::Warn("the client maps ".into()), Done::Publish(vec![LOW]), Done::Reply('a', Ok(()))]
    );
    assert!(!client.is_mapping());
}

#[test]
fn a_mapping_that_cannot_be_is_refused_and_the_memory_is_as_it_was() {
    let (mut client, _) = client(&[LOW]);
    let warning = || Done::Warn("a mapping of ".into());
    client.map('a', with_file(LOW));
    client.map('b', Err(MapError::NoAccess { gpa: HIGH }));
    client.map('c', without_file(PAGE / 2));
    let overlap = MapError::Overlap { gpa: LOW, end: PAGE, other_gpa: LOW, other_end: PAGE }.errno();
    assert_eq!(
        done(&mut client),
        [
            warning(),
            Done::Reply('a', Err(overlap)),
            warning(),
            Done::Reply('b', Err(libc::EINVAL)),
            warning(),
            Done::Reply('c', Err(libc::EINVAL))
        ]
    );
    assert!(!client.is_mapping() && client.memory().len() == 1);
}

#[test]
fn while_a_mapping_is_pending_no_other_mapping_or_unmapping_takes_its_place() {
    let (mut client, now) = client(&[LOW]);
    client.map('a', with_file(HIGH));
    client.map('b', with_file(2 * HIGH));
    client.unmap('c', ALL, now);
    let busy = Err(libc::EBUSY);
    assert_eq!(done(&mut client), [Done::Register(HIGH), Done::Reply('b', busy), Done::Reply('c', busy)]);
    client.registered(Ok::<(), io::Error>(()));
    assert_eq!(done(&mut client), [Done::Publish(vec![LOW, HIGH]), Done::Reply('a', Ok(()))]);
    client.registered(Ok::<(), io::Error>(()));
    assert_eq!(done(&mut client), [], "there is no mapping any more that devices could have been told of");
}

#[test]
fn an_unmapping_is_answered_when_nobody_holds_the_memory_any_more() {
    let (mut client, now) = client(&[LOW, HIGH]);
    let held = Arc::clone(client.memory().region_at(LOW).expect("mapped"));
    client.unmap('a', one(LOW), now);
    assert_eq!(done(&mut client), [Done::Publish(vec![HIGH]), Done::Refresh]);
    assert!(client.is_waiting());
    assert_eq!(client.look(quiesced, release_free, now), 0);
    assert_eq!(done(&mut client), []);
    drop(held);
    assert_eq!(client.look(quiesced, release_free, now), 1);
    assert_eq!(done(&mut client), [Done::Reply('a', Ok(()))]);
    assert!(!client.is_waiting());
}

#[test]
fn io_in_memory_that_is_unmapped_is_aborted_when_it_does_not_end() {
    let (mut client, now) = client(&[LOW]);
    let _held = Arc::clone(client.memory().region_at(LOW).expect("mapped"));
    client.unmap('a', ALL, now);
    assert_eq!(done(&mut client), [Done::Publish(vec![]), Done::Refresh]);
    client.look(quiesced, release_free, now + Duration::from_secs(1));
    assert_eq!(done(&mut client), [Done::Warn("I/O is aborted: ".into()), Done::AbortUnmapped]);
    assert!(client.is_waiting(), "it is answered when the I/O has ended");
}

#[test]
fn an_unmapping_of_nothing_is_answered_at_once_and_one_that_cuts_a_region_is_refused() {
    let (mut client, now) = client(&[LOW]);
    client.unmap('a', one(HIGH), now);
    assert_eq!(done(&mut client), [Done::Reply('a', Ok(()))]);
    client.unmap('b', UnmapRequest { addr: LOW, size: PAGE / 2, all: false }, now);
    let warning = Done::Warn("memory is not ".into());
    assert_eq!(done(&mut client), [warning, Done::Reply('b', Err(libc::EINVAL))]);
    assert_eq!(client.memory().len(), 1);
}

#[test]
fn answers_come_in_the_order_in_which_what_was_asked_for_is_over() {
    let (mut client, now) = client(&[LOW]);
    client.reset('r');
    client.config_written('w', Some(4), now);
    client.unmap('u', ALL, now);
    client.unmap('n', one(HIGH), now);
    let asked = Done::Ask(Request::Reset { number: 0 });
    assert_eq!(
        done(&mut client),
        [asked, Done::Publish(vec![]), Done::Refresh, Done::Reply('n', Ok(()))],
        "what is over at once waits for nothing before it"
    );
    client.look(quiesced, release_free, now);
    assert_eq!(done(&mut client), [Done::Reply('w', Ok(())), Done::Reply('u', Ok(()))]);
    client.reset_done(0, quiesced, now);
    assert_eq!(done(&mut client), [Done::Reply('r', Ok(()))]);
    assert!(!client.is_waiting());
}

#[test]
fn a_function_reset_is_asked_for_before_the_write_that_began_it_is_answered() {
    let (mut client, now) = client(&[]);
    client.function_reset();
    client.config_written('w', None, now);
    assert_eq!(done(&mut client), [Done::Ask(Request::Reset { number: 0 })]);
    client.look(quiesced, release_free, now);
    assert_eq!(done(&mut client), []);
    client.reset_done(0, quiesced, now);
    assert_eq!(done(&mut client), [Done::Reply('w', Ok(()))]);
    assert!(client.is_ready());
}

#[test]
fn function_resets_beyond_the_bound_disable_the_controller_without_a_number() {
    let (mut client, _) = client(&[]);
    for _ in 0..17 {
        client.function_reset();
    }
    let done = done(&mut client);
    assert_eq!(done.last(), Some(&Done::Ask(Request::Disable)));
    assert_eq!(done[15], Done::Ask(Request::Reset { number: 15 }));
}

fn eventfds(files: Vec<Option<OwnedFd>>) -> IrqRequest {
    let count = u32::try_from(files.len()).expect("few");
    let data = IrqData::Eventfds(files);
    IrqRequest { kind: IrqKind::Msix, action: IrqAction::Trigger, start: 0, count, data }
}

#[test]
fn interrupts_are_changed_before_the_poll_groups_look_at_them() {
    let (mut client, _) = client(&[]);
    client.set_irqs('a', eventfds(vec![None]), false);
    assert_eq!(done(&mut client), [Done::ChangeIrqs('a'), Done::Refresh]);
}

#[test]
fn interrupts_that_cannot_be_are_refused_and_nothing_is_looked_at() {
    let (mut client, _) = client(&[]);
    client.set_irqs('a', eventfds(vec![Some(io::pipe().expect("a pipe").0.into())]), false);
    client.set_irqs('b', eventfds((0..10).map(|_| None).collect()), false);
    assert_eq!(
        done(&mut client),
        [
            Done::Warn("the client gave ".into()),
            Done::Reply('a', Err(libc::EINVAL)),
            Done::Warn("interrupt vectors must ".into()),
            Done::Reply('b', Err(libc::EINVAL))
        ]
    );
}

#[test]
fn no_interrupt_is_taken_from_a_client_whose_eventfd_has_blocked() {
    let (mut client, _) = client(&[]);
    client.set_irqs('a', eventfds(vec![None]), true);
    let refused = [Done::Warn("an eventfd of ".into()), Done::Reply('a', Err(libc::EINVAL))];
    assert_eq!(done(&mut client), refused);
}

#[test]
fn a_client_that_goes_leaves_what_it_had_mapped_and_what_it_unmapped_that_is_in_use() {
    let (mut client, now) = client(&[LOW, HIGH]);
    client.unmap('a', one(LOW), now);
    client.map('b', with_file(2 * HIGH));
    let mut left: Vec<u64> = client.into_regions().iter().map(|region| region.gpa()).collect();
    left.sort_unstable();
    assert_eq!(left, [LOW, HIGH, 2 * HIGH]);
}
