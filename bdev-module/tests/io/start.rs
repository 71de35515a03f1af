//! Pools that are away when they are made, and pools that there are already.

use std::time::{Duration, Instant};

use pool_faults::Relay;
use serde_json::json;
use serial_test::serial;

use crate::common::harness::wait_until;
use crate::common::target::{NQN, free_port};
use crate::common::{POOL, rig};

/// `-EEXIST`.
const EXISTS: i64 = -17;

#[test]
#[serial]
fn a_pool_that_is_away_is_made_at_once_and_connects_when_its_target_comes() {
    let rig = rig();
    let port = free_port();
    let since = Instant::now();
    let pool = rig.awaited_pool(port);
    assert!(since.elapsed() < Duration::from_secs(30), "it did not wait for the time limit of a connection");
    assert_eq!(pool.told()["state"], "reconnecting");
    let _relay = Relay::at(port, rig.target.port());
    wait_until("the pool is connected", || pool.told()["state"] == "connected");
    assert_eq!((pool.losses(), &pool.told()["namespaces"][0]["nsid"]), (0, &json!(1)));
}

#[test]
#[serial]
fn a_pool_that_never_answered_can_be_deleted_and_made_again() {
    let rig = rig();
    let port = free_port();
    for _ in 0..2 {
        let pool = rig.awaited_pool(port);
        assert_eq!(pool.delete(), Ok(json!(true)));
    }
}

#[test]
#[serial]
fn a_pool_that_is_there_is_connected_when_it_is_made_even_if_it_might_be_away() {
    let rig = rig();
    let relay = Relay::to_port(rig.target.port());
    let pool = rig.awaited_pool(relay.port());
    assert_eq!(pool.told()["state"], "connected");
}

#[test]
#[serial]
fn a_second_pool_of_one_subsystem_and_host_is_refused_and_told_the_name_of_the_first() {
    let rig = rig();
    for wait in [true, false] {
        let error = rig.connect("second", NQN, json!({ "wait": wait })).expect_err("it is refused");
        assert_eq!(error.code, EXISTS);
        assert!(error.message.contains(&format!("'{POOL}'")) && error.message.contains("hostnqn"), "{}", error.message);
    }
    let other = json!({ "hostnqn": "nqn.2024-01.com.example:other-host" });
    assert_eq!(rig.connect("second", NQN, other), Ok(()), "another host is another controller");
    assert_eq!(rig.app.rpc("courier_pool_delete", json!({ "name": "second" })), Ok(json!(true)));
}

#[test]
#[serial]
fn a_pool_that_another_module_is_connected_to_as_the_same_host_is_refused() {
    let rig = rig();
    let host = "nqn.2024-01.com.example:shared-host";
    let attach = json!({
        "name": "Stock", "trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1",
        "trsvcid": rig.target.port().to_string(), "subnqn": NQN, "hostnqn": host,
    });
    rig.app.rpc("bdev_nvme_attach_controller", attach).expect("stock attaches");
    let error = rig.connect("second", NQN, json!({ "hostnqn": host })).expect_err("it is refused");
    assert_eq!(error.code, EXISTS, "{}", error.message);
    assert!(error.message.contains("same host"), "{}", error.message);
    assert!(rig.app.rpc("bdev_get_bdevs", json!({ "name": "Stockn1" })).is_ok(), "the other's stays");
    assert_eq!(rig.app.rpc("bdev_nvme_detach_controller", json!({ "name": "Stock" })), Ok(json!(true)));
}
