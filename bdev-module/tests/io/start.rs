//! Pools that are away when they are made, and pools that there are already.

use std::time::{Duration, Instant};

use nvme_spec::identify::Cns;
use pool_faults::{Do, On, Relay, ScriptedTarget};
use serde_json::json;
use serial_test::serial;

use crate::common::disk::{Disk, Layout};
use crate::common::harness::{PATIENCE, wait_until};
use crate::common::target::{NQN, NS_512, free_port};
use crate::common::{POOL, rig};

/// `-EEXIST`.
const EXISTS: i64 = -17;
/// `-ECANCELED`.
const CANCELED: i64 = -125;

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
    assert_eq!(pool.told()["pending_bdevs"], json!([{ "nsid": NS_512, "bdev": bdev.name, "reason": null }]));
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

#[test]
#[serial]
fn a_bdev_that_is_deleted_while_it_is_being_created_tells_whoever_waits_for_it() {
    let rig = rig();
    let target = ScriptedTarget::new();
    let pool = rig.scripted_pool(&target, target.port(), json!({}));
    target.on(On::identify(Cns::NAMESPACE), Do::Hold);
    std::thread::scope(|scope| {
        let params = json!({ "name": "slow", "pool": pool.name, "nsid": 1 });
        let creating = scope.spawn(move || rig.app.rpc("bdev_courier_create", params));
        wait_until("it is being created", || pool.told()["pending_bdevs"][0]["bdev"] == "slow");
        assert_eq!(rig.app.rpc("bdev_courier_delete", json!({ "name": "slow" })), Ok(json!(true)));
        let error = creating.join().expect("no panic").expect_err("it was called off");
        assert_eq!(error.code, CANCELED);
        assert!(error.message.contains("bdev 'slow' was deleted before"), "{}", error.message);
    });
    target.behave();
    target.release();
    assert_eq!(pool.told()["pending_bdevs"], json!([]));
    drop(rig.bdev(&pool.name, 1));
}

#[test]
#[serial]
fn a_pool_that_is_being_created_is_told_of_and_can_be_called_off() {
    let rig = rig();
    let target = ScriptedTarget::new();
    target.on(On::connect(0), Do::Nothing);
    let (port, nqn) = (target.port().to_string(), target.nqn());
    let create = || rig.connect("slow", &nqn, json!({ "trsvcid": port, "connect_timeout_ms": 600_000 }));
    std::thread::scope(|scope| {
        let creating = scope.spawn(create);
        let one = || rig.app.rpc("courier_pool_get", json!({ "name": "slow" }));
        wait_until("it is being created", || one().is_ok());
        assert!(target.wait_for(&On::connect(0), 1, PATIENCE));
        let told = one().expect("it is there")[0].clone();
        let all = rig.app.rpc("courier_pool_get", json!({})).expect("all are told");
        assert!(all.as_array().is_some_and(|all| all.contains(&told)), "{all}");
        assert_eq!((&told["state"], &told["io_queues"]), (&json!("connecting"), &json!(null)));
        let known: Vec<_> = all[0].as_object().expect("an object").keys().collect();
        assert_eq!(told.as_object().expect("an object").keys().collect::<Vec<_>>(), known, "it is told as any other");
        for (method, params) in [
            ("bdev_courier_create", json!({ "name": "early", "pool": "slow", "nsid": 1 })),
            ("courier_pool_reconnect", json!({ "name": "slow" })),
        ] {
            let error = rig.app.rpc(method, params).expect_err("it is not there yet");
            assert!(error.message.contains("is being created"), "{}", error.message);
        }
        let deleted = rig.app.rpc("courier_pool_delete", json!({ "name": "slow" }));
        assert_eq!(deleted, Ok(json!(true)));
        let error = creating.join().expect("no panic").expect_err("it was called off");
        assert_eq!(error.code, CANCELED);
        assert!(error.message.contains("deleted while it was being created"), "{}", error.message);
    });
    wait_until("the connection is closed", || target.open_connections().is_empty());
    target.behave();
    assert_eq!(create(), Ok(()), "its name is free");
    assert_eq!(rig.app.rpc("courier_pool_delete", json!({ "name": "slow" })), Ok(json!(true)));
}

#[test]
#[serial]
fn what_is_wrong_on_this_side_of_the_way_to_a_pool_is_told() {
    let rig = rig();
    let no_rdma = std::fs::read_dir("/sys/class/infiniband").map_or(true, |mut devices| devices.next().is_none());
    let foreign = (
        json!({ "hostaddr": "192.0.2.5", "hostnqn": "nqn.2024-01.com.example:other-host" }),
        "192.0.2.5 is no address of this machine",
        "192.0.2.5 is no address",
    );
    let rdma = (json!({ "trtype": "rdma" }), "no RDMA device of this machine leads there", "has this machine a device");
    for (params, at_once, later) in [foreign].into_iter().chain(no_rdma.then_some(rdma)) {
        let error = rig.connect("wrong", NQN, params.clone()).expect_err("it cannot be connected");
        assert!(error.message.contains(at_once), "{}", error.message);
        let mut params = params;
        params["wait"] = json!(false);
        let pool = rig.named_pool("wrong", params);
        let last_error = || pool.told()["last_error"].as_str().map(ToOwned::to_owned);
        wait_until("it has been tried", || last_error().is_some());
        assert!(last_error().is_some_and(|error| error.contains(later)), "{:?}", last_error());
    }
}

#[test]
#[serial]
fn a_pending_bdev_whose_name_another_has_got_meanwhile_tells_so_and_comes_when_the_name_is_free() {
    let rig = rig();
    let port = free_port();
    let pool = rig.awaited_pool(port);
    let bdev = rig.bdev(&pool.name, NS_512);
    let other = json!({ "name": bdev.name, "num_blocks": 64, "block_size": 512 });
    assert_eq!(rig.app.rpc("bdev_malloc_create", other), Ok(json!(bdev.name)));
    let reason = || pool.told()["pending_bdevs"][0]["reason"].as_str().unwrap_or_default().to_owned();
    assert!(reason().contains("there is another bdev"), "{}", reason());
    let _relay = Relay::at(port, rig.target.port());
    wait_until("its namespace is there", || reason().contains("could not be registered"));
    assert_eq!(rig.app.rpc("bdev_malloc_delete", json!({ "name": bdev.name })), Ok(json!(true)));
    wait_until("it is there", || pool.told()["pending_bdevs"] == json!([]));
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
