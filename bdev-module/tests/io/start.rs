//! Pools that are away when they are made, and pools that there are already.

use std::time::{Duration, Instant};

use pool_faults::{Relay, ScriptedTarget};
use serde_json::json;
use serial_test::serial;

use crate::common::disk::{Disk, Layout};
use crate::common::harness::wait_until;
use crate::common::target::{NQN, NS_512, free_port};
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
    wait_until("its namespaces are known", || pool.told()["namespaces"][0]["nsid"] == json!(1));
    assert_eq!((pool.losses(), &pool.told()["state"]), (0, &json!("connected")));
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
fn bdevs_of_a_pool_that_is_away_are_saved_come_with_it_and_take_io() {
    let rig = rig();
    let port = free_port();
    let pool = rig.awaited_pool(port);
    let bdev = rig.bdev(&pool.name, NS_512);
    let is_there = || rig.app.rpc("bdev_get_bdevs", json!({ "name": bdev.name })).is_ok();
    assert!(!is_there());
    assert_eq!(pool.told()["pending_bdevs"], json!([{ "nsid": NS_512, "bdev": bdev.name }]));
    let saved = || {
        let config = rig.app.rpc("framework_get_config", json!({ "name": "bdev" })).expect("there is one");
        let calls = config.as_array().expect("a list").clone();
        let is_ours = |call: &serde_json::Value| call["params"]["pool"] == pool.name.as_str();
        calls.into_iter().filter(is_ours).collect::<Vec<_>>()
    };
    let call = json!({
        "method": "bdev_courier_create",
        "params": { "name": bdev.name, "pool": pool.name, "nsid": NS_512, "wait": false },
    });
    assert_eq!(saved(), std::slice::from_ref(&call));
    let _relay = Relay::at(port, rig.target.port());
    wait_until("the bdev is there", is_there);
    assert_eq!((&pool.told()["pending_bdevs"], saved()), (&json!([]), vec![call]));
    let disk = Disk::open(&bdev.name);
    assert_eq!(disk.write(3, &Layout::whole(512), &[3; 512]), Ok(()));
    assert_eq!(disk.read(3, &Layout::whole(512)), Ok(vec![3; 512]));
}

#[test]
#[serial]
fn a_bdev_that_is_pending_has_its_namespace_and_its_name_until_it_is_deleted() {
    let rig = rig();
    let pool = rig.awaited_pool(free_port());
    let make = |name: &str, pool: &str, nsid| {
        rig.app.rpc("bdev_courier_create", json!({ "name": name, "pool": pool, "nsid": nsid }))
    };
    assert_eq!(make("awaited", &pool.name, 1), Ok(json!("awaited")));
    for (name, pool, nsid) in
        [("other", pool.name.as_str(), 1), ("awaited", pool.name.as_str(), 2), ("awaited", POOL, 1)]
    {
        let error = make(name, pool, nsid).expect_err("it is taken");
        assert_eq!(error.code, EXISTS, "{}", error.message);
        assert!(error.message.contains("awaited"), "{}", error.message);
    }
    assert_eq!(rig.app.rpc("bdev_courier_delete", json!({ "name": "awaited" })), Ok(json!(true)));
    assert_eq!(pool.told()["pending_bdevs"], json!([]));
    assert_eq!(make("other", &pool.name, 1), Ok(json!("other")));
}

#[test]
#[serial]
fn a_namespace_that_comes_after_its_pool_becomes_the_bdev_that_waits_for_it() {
    let rig = rig();
    let nsid = 9;
    let params = |wait: bool| json!({ "name": "late", "pool": POOL, "nsid": nsid, "wait": wait });
    let error = rig.app.rpc("bdev_courier_create", params(true)).expect_err("it is not there");
    assert!(error.message.contains("no namespace 9"), "{}", error.message);
    assert_eq!(rig.app.rpc("bdev_courier_create", params(false)), Ok(json!("late")));
    let is_there = || rig.app.rpc("bdev_get_bdevs", json!({ "name": "late" })).is_ok();
    assert!(!is_there());
    let namespace = json!({ "nqn": NQN, "namespace": { "bdev_name": "Late", "nsid": nsid } });
    rig.target.call("nvmf_subsystem_add_ns", namespace);
    wait_until("the bdev is there", is_there);
    assert_eq!(rig.app.rpc("bdev_courier_delete", json!({ "name": "late" })), Ok(json!(true)));
    rig.target.call("nvmf_subsystem_remove_ns", json!({ "nqn": NQN, "nsid": nsid }));
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

/// SPDK would have one controller for both, which either could reset without the other's noticing.
#[test]
#[serial]
fn a_connection_of_another_module_to_a_pools_place_is_another_one_whose_reset_costs_the_pool_nothing() {
    let rig = rig();
    let host = "nqn.2024-01.com.example:shared-host";
    let controllers = || {
        let answer = rig.target.call("nvmf_subsystem_get_controllers", json!({ "nqn": NQN }));
        answer.as_array().map_or(0, Vec::len)
    };
    let attach = |name| {
        let attach = json!({
            "name": name, "trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1",
            "trsvcid": rig.target.port().to_string(), "subnqn": NQN, "hostnqn": host,
        });
        rig.app.rpc("bdev_nvme_attach_controller", attach).expect("stock attaches");
    };
    let detach =
        |name| assert_eq!(rig.app.rpc("bdev_nvme_detach_controller", json!({ "name": name })), Ok(json!(true)));
    let pool = || rig.named_pool("shared", json!({ "hostnqn": host }));
    let before = controllers();
    // The other is there first.
    attach("Stock");
    let first = pool();
    assert_eq!(controllers(), before + 2);
    detach("Stock");
    wait_until("its controller goes", || controllers() == before + 1);
    assert_eq!((first.losses(), &first.told()["state"]), (0, &json!("connected")));
    // The pool is there first.
    attach("Stock");
    assert_eq!(controllers(), before + 2);
    assert_eq!(rig.app.rpc("bdev_nvme_reset_controller", json!({ "name": "Stock" })), Ok(json!(true)));
    assert_eq!((first.losses(), &first.told()["state"]), (0, &json!("connected")));
    detach("Stock");
    let bdev = rig.bdev(&first.name, NS_512);
    let disk = Disk::open(&bdev.name);
    assert_eq!(disk.write(3, &Layout::whole(512), &[5; 512]), Ok(()));
    assert_eq!(first.losses(), 0);
}

/// Whatever bytes they are: JSON is UTF-8.
#[test]
#[serial]
fn what_a_pool_calls_itself_spoils_no_answer() {
    let rig = rig();
    let target = ScriptedTarget::new();
    target.change(|options| {
        options.serial = b"\xff\xfe\0\x1b\"\\".to_vec();
        options.model = vec![0xc3; 40];
        options.firmware = b"\x80\n\x7f".to_vec();
    });
    let pool = rig.scripted_pool(&target, target.port(), json!({}));
    let bdev = rig.bdev(&pool.name, 1);
    assert_eq!(pool.told()["state"], "connected");
    for (method, params) in [
        ("bdev_get_bdevs", json!({ "name": bdev.name })),
        ("bdev_get_bdevs", json!(null)),
        ("bdev_get_iostat", json!({ "name": bdev.name })),
        ("courier_pool_get", json!(null)),
        ("framework_get_config", json!({ "name": "bdev" })),
    ] {
        assert!(rig.app.rpc(method, params).is_ok(), "{method}");
    }
}
