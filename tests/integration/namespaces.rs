//! Namespaces that come, grow and go while they are in use.

use serde_json::{Value, json};
use serial_test::serial;

use crate::support::load::{Load, Work};
use crate::support::pool::{Backing, Pool};
use crate::support::{secs, shared, wait_for};

/// Returns a pool whose namespace 3 is a null bdev of `mib` MiB.
fn pool_with_null(mib: u64) -> Pool {
    let pool = Pool::malloc();
    let params = json!({ "name": "null", "block_size": 512, "num_blocks": mib << 11 });
    pool.app.rpc.ok("bdev_null_create", &params);
    assert_eq!(pool.add_namespace("null"), 3);
    pool
}

#[test]
#[serial]
fn a_namespace_that_grows_makes_its_bdev_grow() {
    let pool = pool_with_null(100);
    let app = shared::courier();
    app.rpc.ok("courier_pool_create", &pool.params("p"));
    app.rpc.ok("bdev_courier_create", &json!({ "name": "disk", "pool": "p", "nsid": 3 }));
    assert_eq!(app.bdev("disk")["num_blocks"], 100 << 11);
    pool.app.rpc.ok("bdev_null_resize", &json!({ "name": "null", "new_size": 200 }));
    wait_for("the bdev's new size", secs(10), || app.bdev("disk")["num_blocks"] == 200 << 11);
    let told = app.rpc.ok("courier_pool_get", &json!({ "name": "p" }))[0].clone();
    assert_eq!(told["namespaces"][2]["num_blocks"], 200 << 11, "{told}");
    assert_eq!(told["losses"], 0, "the connection was lost: {told}");
    app.rpc.ok("courier_pool_delete", &json!({ "name": "p" }));
}

#[test]
#[serial]
fn a_namespace_that_is_removed_takes_its_bdev_with_it_and_brings_it_back() {
    let pool = pool_with_null(64);
    let app = shared::courier();
    app.rpc.ok("courier_pool_create", &pool.params_with("p", &json!({ "ns_loss_timeout_sec": 1 })));
    for nsid in [1, 3] {
        app.rpc.ok("bdev_courier_create", &json!({ "name": format!("disk{nsid}"), "pool": "p", "nsid": nsid }));
    }
    pool.remove_namespace(3);
    wait_for("the bdev to go", secs(10), || app.bdevs() == ["disk1"]);
    // The first reason is that it has gone, the next scan's is why it does not come.
    let reason = "it is not in the pool's list of namespaces";
    let right = json!([{ "nsid": 3, "bdev": "disk3", "reason": reason }]);
    let pending = || app.rpc.ok("courier_pool_get", &json!({ "name": "p" }))[0]["pending_bdevs"].clone();
    wait_for("the pending bdev to be told of, and its reason", secs(10), || pending() == right);
    assert_eq!(pool.add_namespace("null"), 3);
    wait_for("the bdev to come again", secs(10), || app.bdevs() == ["disk1", "disk3"]);
    app.rpc.ok("courier_pool_delete", &json!({ "name": "p" }));
}

#[test]
#[serial]
fn a_namespace_that_is_removed_under_load_ends_that_load_and_no_other() {
    let pool = pool_with_null(64);
    let load = Load::start("0x2", &["-f"]);
    load.connect("p", &pool, &[1, 3]);
    let running = load.begin(Work { kind: "randrw", io_size: 4_096, depth: 16, seconds: 4 });
    std::thread::sleep(secs(1));
    pool.remove_namespace(3);
    wait_for("the bdev to go", secs(10), || load.bdevs() == ["pn1"]);
    let result = running.result(30).unwrap_or_else(|error| panic!("{}\n{}", error.message, load.process.tail()));
    let other = result["results"].as_array().and_then(|all| all.iter().find(|one| is_of(one, "pn1"))).cloned();
    let other = other.unwrap_or_else(|| panic!("no result of pn1: {result}"));
    assert_eq!(other["io_failed"], 0, "{result}");
    load.assert_alive();
    assert_eq!(load.shut_down(secs(20)).code(), Some(0), "{}", load.process.tail());
}

#[test]
#[serial]
fn another_disk_in_the_place_of_a_namespace_takes_its_bdev_away() {
    let [mut first, second] = [512, 512].map(|block_size| Backing::new(16 << 20, block_size));
    let mut pool = Pool::files(&[first.clone(), second.clone()]);
    let app = shared::courier();
    app.rpc.ok("courier_pool_create", &pool.params("p"));
    for nsid in [1, 2] {
        app.rpc.ok("bdev_courier_create", &json!({ "name": format!("disk{nsid}"), "pool": "p", "nsid": nsid }));
    }
    pool.kill();
    first.uuid = Some("2d3a4a6e-7b1c-4e58-9f3d-5a2b6c7d8e92");
    pool.start_again(&[first, second]);
    wait_for("the bdev to go", secs(20), || app.bdevs() == ["disk2"]);
    app.rpc.ok("courier_pool_delete", &json!({ "name": "p" }));
}

fn is_of(result: &Value, bdev: &str) -> bool {
    result["job"].as_str().is_some_and(|job| job.contains(bdev))
}
