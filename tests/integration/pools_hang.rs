//! Pools that hang, are late, or are away, and what `courier_tgt` does meanwhile.

use std::fs;
use std::time::Duration;

use pool_faults::{Namespace, Options, Relay, ScriptedTarget};
use serde_json::{Value, json};
use serial_test::serial;

use crate::support::app::{App, Program, configuration};
use crate::support::pool::{NQN, free_port};
use crate::support::{paths, secs, shared, wait_for};

/// How long deletions, and the end of a process, may take; twice as much on a machine that is busy.
const LIMIT: Duration = Duration::from_secs(10);

/// What `courier_pool_create` needs to connect to a port here.
fn params(port: u16, changes: &Value) -> Value {
    let mut params = json!({
        "name": "p", "trtype": "tcp", "traddr": "127.0.0.1", "trsvcid": port.to_string(), "subnqn": NQN,
        "reconnect_delay_sec": 1, "connect_timeout_ms": 2_000, "keep_alive_timeout_ms": 1_000,
    });
    for (key, value) in changes.as_object().expect("an object") {
        params[key] = value.clone();
    }
    params
}

fn state_of(app: &App, pool: &str) -> Value {
    app.rpc.ok("courier_pool_get", &json!({ "name": pool }))[0]["state"].clone()
}

#[test]
#[serial]
fn courier_tgt_starts_with_one_pool_away_and_has_its_disk_when_it_comes() {
    shared::rest();
    let good = ScriptedTarget::new();
    let late = ScriptedTarget::with(Options::default(), [(1, Namespace::new(512, 2048, 0x22))]);
    let port = free_port();
    let pool = |name: &str, port: u16| {
        let mut params = params(port, &json!({ "name": name, "wait": false, "connect_timeout_ms": 1_000 }));
        params["subnqn"] = json!(good.nqn());
        json!({ "method": "courier_pool_create", "params": params })
    };
    let disk = |name: &str, pool: &str| json!({ "method": "bdev_courier_create", "params": { "name": name, "pool": pool, "nsid": 1, "wait": false } });
    let calls = [pool("here", good.port()), pool("away", port), disk("d0", "here"), disk("d1", "away")];
    let config = paths::new_dir("away").join("config.json");
    fs::write(&config, configuration(&calls)).expect("a file can be written");
    let app = App::start(Program::Courier, "0x2", &["-c", &config.display().to_string()]);
    assert_eq!((state_of(&app, "here"), state_of(&app, "away")), (json!("connected"), json!("reconnecting")));
    assert!(app.rpc.call("bdev_get_bdevs", &json!({ "name": "d0" })).is_ok(), "the other pool's disk is there");
    let _relay = Relay::at(port, late.port());
    wait_for("the pool to be connected", secs(20), || state_of(&app, "away") == "connected");
    wait_for("its disk", secs(10), || app.rpc.call("bdev_get_bdevs", &json!({ "name": "d1" })).is_ok());
    assert_eq!(app.shut_down(LIMIT).code(), Some(0), "{}", app.process.tail());
}
