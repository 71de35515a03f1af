//! SPDK's RPC client with our Python plugin, and the configuration that it saves and loads.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};
use serial_test::serial;

use crate::support::app::{App, Program};
use crate::support::export::Export;
use crate::support::load::{Load, Work};
use crate::support::pool::NQN;
use crate::support::{paths, secs, shared, wait_for};

/// Runs `scripts/rpc.sh`: whether it succeeded, and what it printed.
fn rpc_sh(app: Option<&App>, args: &[&str]) -> (bool, String) {
    let mut command = Command::new(paths::checkout().join("scripts/rpc.sh"));
    if let Some(app) = app {
        command.arg("-s").arg(app.rpc.socket());
    }
    let output = command.args(args).output().expect("rpc.sh can be run");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text.into_owned())
}

#[track_caller]
fn rpc_sh_ok(app: &App, args: &[&str]) -> String {
    let (success, output) = rpc_sh(Some(app), args);
    assert!(success, "rpc.sh {args:?}: {output}");
    output
}

#[test]
#[serial]
fn every_command_of_the_python_plugin_has_a_help() {
    let commands = [
        ("courier_pool_create", "--subnqn"),
        ("courier_pool_get", "--name"),
        ("courier_pool_delete", "name"),
        ("bdev_courier_create", "--nsid"),
        ("bdev_courier_delete", "name"),
    ];
    for (command, option) in commands {
        let (success, help) = rpc_sh(None, &[command, "--help"]);
        assert!(success && help.contains(option), "{command} --help: {help}");
    }
}

#[test]
#[serial]
fn stock_spdk_tgt_with_the_plugin_is_driven_by_rpc_py_and_does_io() {
    let pool = shared::pool();
    let app = App::start(Program::StockWithPlugin, "0x2", &[]);
    let port = pool.port.to_string();
    rpc_sh_ok(&app, &["courier_pool_create", "-b", "p", "-t", "tcp", "-a", "127.0.0.1", "-s", &port, "-n", NQN]);
    let pools: Value = serde_json::from_str(&rpc_sh_ok(&app, &["courier_pool_get", "-b", "p"])).expect("JSON");
    assert_eq!(pools[0]["state"], "connected", "{pools}");
    rpc_sh_ok(&app, &["bdev_courier_create", "-b", "disk", "-p", "p", "-n", "2"]);
    assert_eq!(app.bdevs(), ["disk"]);
    let (success, said) = rpc_sh(Some(&app), &["bdev_courier_create", "-b", "disk2", "-p", "p", "-n", "9"]);
    assert!(!success && said.contains("no namespace 9"), "{said}");

    let export = Export::new(&app, &["disk"]);
    let load = Load::start("0x1", &[]);
    load.rpc.ok("bdev_nvme_attach_controller", &export.attach("n"));
    load.run(Work { kind: "verify", io_size: 4_096, depth: 16, seconds: 1 });
    load.run(Work { kind: "verify", io_size: 1 << 20, depth: 2, seconds: 1 });
    assert_eq!(load.shut_down(secs(20)).code(), Some(0), "{}", load.process.tail());

    rpc_sh_ok(&app, &["bdev_courier_delete", "disk"]);
    rpc_sh_ok(&app, &["courier_pool_delete", "p"]);
    assert_eq!(app.rpc.ok("courier_pool_get", &Value::Null), json!([]));
    assert_eq!(app.shut_down(secs(20)).code(), Some(0), "{}", app.process.tail());
}

#[test]
#[serial]
fn what_save_config_writes_load_config_restores() {
    let pool = shared::pool();
    let changes = json!({
        "hostnqn": "nqn.2024-01.com.example:host", "hdgst": true, "ddgst": true, "num_io_queues": 2,
        "io_queue_size": 64, "io_queue_requests": 256, "keep_alive_timeout_ms": 20_000, "connect_timeout_ms": 5_000,
        "reconnect_delay_sec": 3, "ctrlr_loss_timeout_sec": 60, "fast_io_fail_timeout_sec": 30,
    });
    let first = shared::courier();
    first.rpc.ok("courier_pool_create", &pool.params_with("p", &changes));
    first.rpc.ok("courier_pool_create", &pool.params("q"));
    first.rpc.ok("bdev_courier_create", &json!({ "name": "a", "pool": "p", "nsid": 1 }));
    first.rpc.ok("bdev_courier_create", &json!({ "name": "b", "pool": "q", "nsid": 2 }));
    let saved = rpc_sh_ok(&first, &["save_config"]);
    let pools = first.rpc.ok("courier_pool_get", &Value::Null);
    let bdevs = ["a", "b"].map(|name| first.bdev(name));
    for pool in ["p", "q"] {
        first.rpc.ok("courier_pool_delete", &json!({ "name": pool }));
    }

    let file = paths::new_dir("config").join("config.json");
    fs::write(&file, &saved).expect("a file can be written");
    let second = App::begin(Program::Courier, "0x2", &["--wait-for-rpc"]);
    let answers = || second.rpc.call("rpc_get_methods", &json!({ "current": true })).is_ok();
    wait_for("the RPC socket", secs(30), answers);
    rpc_sh_ok(&second, &["load_config", "-j", &file.display().to_string()]);
    wait_for("the pools to be connected", secs(30), || second.rpc.ok("courier_pool_get", &Value::Null) == pools);
    for bdev in bdevs {
        assert_eq!(second.bdev(bdev["name"].as_str().unwrap_or_default()), bdev);
    }
    assert_eq!(rpc_sh_ok(&second, &["save_config"]), saved);
}
