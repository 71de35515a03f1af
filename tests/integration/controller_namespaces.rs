//! Namespaces that come, grow and go while a client is attached: it learns that without a rescan.

use std::thread::sleep;

use nvme_spec::identify::Cns;
use nvme_spec::{IoOpcode, StatusCode};
use serde_json::{Value, json};
use serial_test::serial;

use crate::support::app::{App, Program};
use crate::support::controller::{Front, FrontEnd};
use crate::support::load::Work;
use crate::support::nvme::{BASE, DATA, Driver, block_io};
use crate::support::{secs, wait_for};

fn front() -> Front {
    let front = Front::start();
    front.malloc("disk", 64, 512);
    front.null("null", 100);
    front
}

#[test]
#[serial]
fn a_namespace_that_is_added_or_removed_is_so_at_the_client() {
    let front = front();
    let controller = front.controller("c", &["disk"]);
    let client = App::start(Program::Stock, "0x1", &[]);
    controller.attach(&client);
    assert_eq!(client.bdevs(), ["nn1"]);
    for _ in 0..3 {
        assert_eq!(controller.add("null"), 2);
        wait_for("the client to see the new namespace", secs(10), || client.bdevs() == ["nn1", "nn2"]);
        assert_eq!(client.bdev("nn2")["num_blocks"], 100 << 11);
        controller.remove(2);
        wait_for("the client to see it go", secs(10), || client.bdevs() == ["nn1"]);
    }
    front.assert_alive();
}

#[test]
#[serial]
fn a_bdev_is_in_a_controller_once_and_may_be_in_several() {
    if FrontEnd::chosen() == FrontEnd::Stock {
        return;
    }
    let front = front();
    let controller = front.controller("c", &["disk"]);
    let again = |params: Value, words: &[&str]| front.rpc.fails("courier_controller_add_ns", &params, words);
    again(json!({ "name": "c", "bdev_name": "disk" }), &["'disk'", "namespace 1", "'c'", "once"]);
    let uuid = front.bdev("disk")["uuid"].clone();
    again(json!({ "name": "c", "bdev_name": uuid, "nsid": 7 }), &["'disk'", "namespace 1"]);
    front.rpc.ok("courier_controller_add_ns", &json!({ "name": "c", "bdev_name": "later", "wait": false }));
    again(json!({ "name": "c", "bdev_name": "later", "wait": false }), &["'later'", "namespace 2"]);
    front.controller("other", &["disk"]);
    // It can be had again when it was removed, and one that is waited for comes.
    controller.remove(1);
    assert_eq!(controller.add("disk"), 1);
    front.null("later", 1);
    wait_for("the bdev to be a namespace", secs(10), || {
        front.rpc.ok("courier_controller_get", &json!({ "name": "c" }))[0]["namespaces"][1]["bdev_name"] == "later"
    });
}

#[test]
#[serial]
fn a_namespace_that_takes_the_place_of_another_at_once_is_there_when_that_was_seen_to_go() {
    if FrontEnd::chosen() == FrontEnd::Stock {
        return;
    }
    let front = front();
    let controller = front.controller("c", &["disk"]);
    let mut driver = Driver::start(controller.dir());
    for (bdev, blocks) in [("null", 100_u64 << 11), ("disk", 64 << 11), ("null", 100 << 11)] {
        controller.remove(1);
        assert_eq!(controller.add(bdev), 1);
        wait_for("the list of namespaces to be empty", secs(4), || {
            driver.identify(Cns::ACTIVE_NAMESPACES, 0)[..4] == [0; 4]
        });
        wait_for("the new namespace", secs(4), || driver.identify(Cns::ACTIVE_NAMESPACES, 0)[..4] == [1, 0, 0, 0]);
        assert_eq!(driver.identify(Cns::NAMESPACE, 1)[..8], blocks.to_le_bytes());
    }
    drop(driver);
    // A host that does not ask sees it, too.
    let mut driver = Driver::start(controller.dir());
    controller.remove(1);
    assert_eq!(controller.add("disk"), 1);
    let mut queue = driver.create_queue(1, 16, None);
    let read = block_io(IoOpcode::READ, 1, 0, 1, BASE + DATA);
    wait_for("the new namespace", secs(8), || driver.run(&mut queue, read).status.is_success());
    drop(driver);
    controller.delete();
    front.assert_alive();
}

#[test]
#[serial]
fn a_client_of_a_controller_without_namespaces_sees_the_first_one_come() {
    let front = front();
    let controller = front.controller("c", &[]);
    let client = App::start(Program::Stock, "0x1", &[]);
    controller.attach(&client);
    assert_eq!(client.bdevs(), Vec::<String>::new());
    assert_eq!(controller.add("disk"), 1);
    wait_for("the client to see the new namespace", secs(10), || client.bdevs() == ["nn1"]);
    front.assert_alive();
}

#[test]
#[serial]
fn a_bdev_that_grows_grows_at_the_client() {
    let front = front();
    let controller = front.controller("c", &["null"]);
    let client = App::start(Program::Stock, "0x1", &[]);
    controller.attach(&client);
    for mib in [200_u64, 300, 400] {
        front.rpc.ok("bdev_null_resize", &json!({ "name": "null", "new_size": mib }));
        wait_for("the client to see the new size", secs(10), || client.bdev("nn1")["num_blocks"] == mib << 11);
    }
    front.assert_alive();
}

#[test]
#[serial]
fn a_namespace_comes_grows_and_goes_beside_one_under_load() {
    const WORK: Work<'_> = Work { kind: "verify", io_size: 4_096, depth: 32, seconds: 4 };
    let front = front();
    let controller = front.controller("c", &["disk"]);
    let load = controller.load(&[]);
    let running = load.begin(WORK);
    sleep(secs(1));
    assert_eq!(controller.add("null"), 2);
    wait_for("the client to see the new namespace", secs(10), || load.bdevs() == ["nn1", "nn2"]);
    front.rpc.ok("bdev_null_resize", &json!({ "name": "null", "new_size": 200 }));
    wait_for("the client to see its new size", secs(10), || load.bdev("nn2")["num_blocks"] == 200 << 11);
    controller.remove(2);
    wait_for("the client to see it go", secs(10), || load.bdevs() == ["nn1"]);
    running.finish(WORK);
    front.assert_alive();
}

/// Returns the result of one bdev among those of some work.
fn failed(result: &Value, bdev: &str) -> Option<u64> {
    let of = |one: &&Value| one["job"].as_str().is_some_and(|job| job.contains(bdev));
    result["results"].as_array()?.iter().find(of)?["io_failed"].as_u64()
}

#[test]
#[serial]
fn a_namespace_removed_under_load_ends_that_load_and_no_other() {
    let front = front();
    let controller = front.controller("c", &["disk", "null"]);
    let load = controller.load(&["-f"]);
    let running = load.begin(Work { kind: "randrw", io_size: 4_096, depth: 16, seconds: 4 });
    sleep(secs(1));
    controller.remove(2);
    wait_for("the client to see it go", secs(10), || load.bdevs() == ["nn1"]);
    let result = running.result(30).unwrap_or_else(|error| panic!("{}\n{}", error.message, load.process.tail()));
    assert_eq!(failed(&result, "nn1"), Some(0), "{result}");
    load.assert_alive();
    front.assert_alive();
}

#[test]
#[serial]
fn a_bdev_deleted_under_load_takes_its_namespace_and_no_other_with_it() {
    let front = front();
    front.malloc("victim", 64, 4_096);
    let controller = front.controller("c", &["disk", "victim"]);
    let load = controller.load(&["-f"]);
    let running = load.begin(Work { kind: "randrw", io_size: 4_096, depth: 16, seconds: 4 });
    sleep(secs(1));
    front.rpc.ok("bdev_malloc_delete", &json!({ "name": "victim" }));
    wait_for("the client to see it go", secs(10), || load.bdevs() == ["nn1"]);
    let result = running.result(30).unwrap_or_else(|error| panic!("{}\n{}", error.message, load.process.tail()));
    assert_eq!(failed(&result, "nn1"), Some(0), "{result}");
    assert_eq!(controller.add("null"), 2, "its number is free again");
    wait_for("the client to see the new one", secs(10), || load.bdevs() == ["nn1", "nn2"]);
    front.assert_alive();
}

/// By the specification (Base 2.0, 3.2.1.5) a command to a namespace that is not attached is refused.
#[test]
#[serial]
fn a_command_to_a_namespace_that_is_gone_is_refused_and_io_in_flight_is_answered() {
    let front = front();
    front.slow("slow", 1_000_000);
    let controller = front.controller("c", &["disk", "slow"]);
    let mut driver = Driver::start(controller.dir());
    let mut queue = driver.create_queue(1, 16, None);
    driver.submit(&mut queue, &[block_io(IoOpcode::READ, 2, 0, 8, BASE + DATA); 4]);
    sleep(std::time::Duration::from_millis(200));
    controller.remove(2);
    for _ in 0..4 {
        driver.complete(&mut queue);
    }
    let refused = driver.run(&mut queue, block_io(IoOpcode::READ, 2, 0, 8, BASE + DATA));
    assert_eq!(refused.status.code(), StatusCode::INVALID_NAMESPACE, "{refused:?}");
    driver.check(&mut queue, 5);
    front.assert_alive();
}
