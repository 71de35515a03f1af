//! Pools that are away when the application starts.

use std::fs;

use serde_json::{Value, json};
use serial_test::serial;

use crate::support::app::{App, Program};
use crate::support::pool::{NQN, Pool, free_port};
use crate::support::{paths, secs, shared, wait_for};

/// Returns what a saved configuration says of a pool, a bdev of it, and the namespace that a controller has of that.
fn drive(name: &str, pool: &Value, nsid: u32) -> [Value; 3] {
    [
        json!({ "method": "courier_pool_create", "params": pool }),
        json!({
            "method": "bdev_courier_create",
            "params": { "name": name, "pool": pool["name"], "nsid": 1, "wait": false },
        }),
        json!({
            "method": "courier_controller_add_ns",
            "params": { "name": "vm", "nsid": nsid, "bdev_name": name, "wait": false },
        }),
    ]
}

#[test]
#[serial]
fn a_pool_that_is_away_at_the_start_costs_only_its_own_drive_which_comes_with_it() {
    let there = shared::pool();
    shared::rest();
    let port = free_port();
    let away = json!({
        "name": "away", "trtype": "tcp", "traddr": "127.0.0.1", "trsvcid": port.to_string(), "subnqn": NQN,
        "reconnect_delay_sec": 1, "wait": false,
    });
    let [away_pool, away_bdev, away_ns] = drive("late", &away, 1);
    let [pool, mut bdev, ns] = drive("early", &there.params_with("there", &json!({ "wait": false })), 2);
    // Namespace 1 of both pools has the same UUID, which no two bdevs may have.
    bdev["params"]["nsid"] = json!(2);
    let dir = paths::new_dir("vm");
    let controller = json!({ "method": "courier_controller_create", "params": { "name": "vm", "traddr": dir } });
    let text = json!({ "subsystems": [
        { "subsystem": "bdev", "config": [away_pool, away_bdev, pool, bdev] },
        { "subsystem": "courier_controllers", "config": [controller, away_ns, ns] },
    ] });
    let config = paths::new_dir("config").join("config.json");
    fs::write(&config, text.to_string()).expect("a file can be written");
    let app = App::start(Program::Courier, "0x2", &["--json", &config.display().to_string()]);
    let told = |name: &str| app.rpc.ok("courier_pool_get", &json!({ "name": name }))[0]["state"].clone();
    assert_eq!(told("away"), "reconnecting");

    let client = App::start(Program::Stock, "0x1", &[]);
    wait_for("the pool that is there", secs(30), || app.bdevs() == ["early"]);
    client.rpc.ok("bdev_nvme_attach_controller", &json!({ "name": "n", "trtype": "VFIOUSER", "traddr": dir }));
    wait_for("the drive that is there", secs(30), || client.bdevs() == ["nn2"]);
    let pending = || app.rpc.ok("courier_controller_get", &json!({ "name": "vm" }))[0]["pending_namespaces"].clone();
    assert_eq!(pending(), json!([{ "nsid": 1, "bdev_name": "late", "reason": null }]));
    let saved = || ["bdev", "courier_controllers"].map(|of| app.rpc.ok("framework_get_config", &json!({ "name": of })));
    let before = saved();
    for method in ["courier_pool_create", "bdev_courier_create", "courier_controller_add_ns"] {
        let calls = before.iter().flat_map(|config| config.as_array().into_iter().flatten());
        assert_eq!(calls.filter(|call| call["method"] == method).count(), 2, "{method} in {before:?}");
    }

    let _pool = Pool::malloc_at(port);
    wait_for("the client to see the drive", secs(30), || client.bdevs() == ["nn2", "nn1"]);
    assert_eq!((told("away"), pending()), (json!("connected"), json!([])));
    assert_eq!(saved()[1], before[1]);
    app.assert_alive();
}

#[test]
#[serial]
fn a_pool_that_cannot_be_restored_says_why_and_costs_only_its_own_drive() {
    const OLD: &str = "`keep_alive_timeout_ms` must be 1000 to 3600000, or left out for 10000";
    let there = shared::pool();
    shared::rest();
    let pool_of = |name: &str, more: Value| {
        let mut params = there.params_with(name, &json!({ "wait": false }));
        params.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        params
    };
    // What was possible once, and never was.
    let old = pool_of("old", json!({ "keep_alive_timeout_ms": 0, "hostnqn": "nqn.2024-01.com.example:old" }));
    let wrong = pool_of("wrong", json!({ "trsvcid": "+4420" }));
    let lines =
        [drive("d-old", &old, 1), drive("d-wrong", &wrong, 2), drive("d-right", &pool_of("right", json!({})), 3)];
    let dir = paths::new_dir("vm");
    let controller = json!({ "method": "courier_controller_create", "params": { "name": "vm", "traddr": dir } });
    let mut controllers = vec![controller];
    controllers.extend(lines.iter().map(|[.., namespace]| namespace.clone()));
    let bdevs: Vec<_> = lines.iter().flat_map(|[pool, bdev, _]| [pool, bdev]).collect();
    let text = json!({ "subsystems": [
        { "subsystem": "bdev", "config": bdevs }, { "subsystem": "courier_controllers", "config": controllers },
    ] });
    let config = paths::new_dir("config").join("config.json");
    fs::write(&config, text.to_string()).expect("a file can be written");
    let config = config.display().to_string();
    // SPDK ends at the first error, unless it is told not to.
    let ended = App::begin(Program::Courier, "0x2", &["--json", &config]);
    assert!(!ended.process.wait(secs(60)).success());
    assert!(ended.process.output().contains(OLD), "{}", ended.process.tail());
    let app = App::start(Program::Courier, "0x2", &["--json", &config, "--json-ignore-init-errors"]);
    wait_for("the right drive", secs(30), || app.bdevs() == ["d-right"]);
    let told = app.rpc.ok("courier_controller_get", &json!({ "name": "vm" }));
    assert_eq!(told[0]["namespaces"][0]["bdev_name"], "d-right", "{told}");
    let output = app.process.output();
    for said in [OLD, "in digits alone, got"] {
        assert!(output.contains(said), "{said} is not said:\n{output}");
    }
    app.assert_alive();
}

#[test]
#[serial]
fn a_namespace_that_is_pending_can_be_removed_and_its_number_used() {
    let app = shared::courier();
    let dir = paths::new_dir("vm");
    app.rpc.ok("courier_controller_create", &json!({ "name": "vm", "traddr": dir }));
    let add = |more: Value| {
        let mut params = json!({ "name": "vm", "bdev_name": "later" });
        params.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        params
    };
    app.rpc.fails("courier_controller_add_ns", &add(json!({})), &["'later'", "no such bdev"]);
    assert_eq!(app.rpc.ok("courier_controller_add_ns", &add(json!({ "wait": false }))), 1);
    app.rpc.fails("courier_controller_add_ns", &add(json!({ "wait": false, "nsid": 1 })), &["1", "'later' already"]);
    assert_eq!(app.rpc.ok("courier_controller_remove_ns", &json!({ "name": "vm", "nsid": 1 })), true);
    assert_eq!(app.rpc.ok("courier_controller_add_ns", &add(json!({ "wait": false }))), 1, "its number is free again");
    app.rpc.ok("bdev_null_create", &json!({ "name": "later", "block_size": 512, "num_blocks": 2_048 }));
    let told = || app.rpc.ok("courier_controller_get", &json!({ "name": "vm" }))[0].clone();
    wait_for("the namespace", secs(30), || told()["namespaces"][0]["bdev_name"] == "later");
    assert_eq!(told()["pending_namespaces"], json!([]));
    app.rpc.ok("courier_controller_delete", &json!({ "name": "vm" }));
    app.rpc.ok("bdev_null_delete", &json!({ "name": "later" }));
}
