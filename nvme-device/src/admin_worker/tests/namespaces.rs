//! Namespaces that come and go.

use super::*;

fn add(bench: &mut Bench, nsid: u32, uuid: u8) {
    bench.drive(Input::AddNamespace(namespace(nsid, uuid)));
}

/// Returns a controller whose host had a namespace 1, which is gone without its knowing.
fn robbed() -> Bench {
    let mut bench = Bench::enabled();
    add(&mut bench, 1, 0x11);
    bench.drive(Input::RemoveNamespace { nsid: 1 });
    assert_eq!(bench.namespaces, [(1, Some(0)), (1, None)]);
    bench.namespaces.clear();
    bench
}

#[test]
fn a_namespace_is_there_at_once_and_the_host_hears_of_it() {
    let mut bench = Bench::enabled();
    bench.command(want_namespace_notices());
    let request = bench.command(Sqe::async_event_request());
    add(&mut bench, 1, 0x11);
    bench.complete_events();
    assert_eq!(bench.namespaces, [(1, Some(0))]);
    assert_eq!(bench.completion(request), Some((0x0004_0002, Status::SUCCESS)), "Namespace Attribute Changed");
}

#[test]
fn a_namespace_that_would_be_taken_for_another_waits_until_the_host_knows_that_that_one_is_gone() {
    let mut bench = robbed();
    add(&mut bench, 1, 0x22);
    assert!(bench.namespaces.is_empty());
    // The list of active namespaces.
    bench.command(Sqe::identify(Cns::ACTIVE_NAMESPACES, 0));
    assert_eq!(bench.namespaces, [(1, Some(0))]);
}

#[test]
fn a_namespace_that_would_be_taken_for_another_waits_for_a_limited_time() {
    let mut bench = robbed();
    add(&mut bench, 1, 0x22);
    bench.now += LEARNING_TIME / 2;
    bench.drive(Input::Tick);
    assert!(bench.namespaces.is_empty());
    bench.now += LEARNING_TIME / 2;
    bench.drive(Input::Tick);
    assert_eq!(bench.namespaces, [(1, Some(0))]);
}

#[test]
fn a_namespace_that_waits_can_be_resized_and_removed() {
    let mut bench = robbed();
    add(&mut bench, 1, 0x22);
    bench.drive(Input::ResizeNamespace { nsid: 1, blocks: 4096 });
    bench.drive(Input::RemoveNamespace { nsid: 1 });
    bench.now += LEARNING_TIME;
    bench.drive(Input::Tick);
    assert_eq!(bench.namespaces, [(1, Some(4096)), (1, None)], "it does not come");
}

#[test]
fn the_next_client_has_the_namespaces_that_waited_for_the_one_before() {
    let mut bench = robbed();
    add(&mut bench, 1, 0x22);
    bench.attach_another();
    assert_eq!(bench.namespaces, [(1, Some(0))]);
}

#[test]
fn a_namespace_whose_identifier_is_in_use_is_refused() {
    let mut bench = Bench::attached();
    add(&mut bench, 1, 0x11);
    add(&mut bench, 1, 0x22);
    assert_eq!((bench.namespaces, bench.refused), (vec![(1, Some(0))], vec![1]));
}

#[test]
fn a_size_that_a_namespace_cannot_have_is_reported_and_not_taken() {
    let mut bench = Bench::attached();
    add(&mut bench, 1, 0x11);
    bench.drive(Input::ResizeNamespace { nsid: 1, blocks: 0 });
    assert!(matches!(bench.reports[..], [Report::SizeRefused(1, _)]));
    assert_eq!(bench.namespaces, [(1, Some(0))]);
}
