//! The application ends when it is told to, whatever its pools are doing.

use std::thread::sleep;
use std::time::Duration;

use nvme_spec::IoOpcode;
use pool_faults::{Do, On, Relay, ScriptedTarget};
use serde_json::{Value, json};
use serial_test::serial;

use crate::support::app::{App, Program};
use crate::support::export::Export;
use crate::support::load::{Load, Work};
use crate::support::nvme::Driver;
use crate::support::pool::{Backing, Pool, free_port};
use crate::support::{paths, secs, shared, wait_for};

/// How long an application may take to end.
const LIMIT: Duration = Duration::from_secs(5);

const RANDOM: Work<'_> = Work { kind: "randrw", io_size: 4_096, depth: 32, seconds: 30 };

#[track_caller]
fn ends(app: &App) {
    let status = app.shut_down(LIMIT);
    assert_eq!(status.code(), Some(0), "it ended with {status}\n{}", app.process.tail());
}

/// Asserts that an application that has ended told of no error.
#[track_caller]
fn told_no_error(app: &App) {
    let output = app.process.output();
    let errors: Vec<&str> = output.lines().filter(|line| line.contains("*ERROR*")).collect();
    assert!(errors.is_empty(), "{}", errors.join("\n"));
}

fn courier_with(pool: &Pool) -> App {
    let app = App::start(Program::Courier, "0x2", &[]);
    app.rpc.ok("courier_pool_create", &pool.params("p"));
    for nsid in [1, 2] {
        app.rpc.ok("bdev_courier_create", &json!({ "name": format!("disk{nsid}"), "pool": "p", "nsid": nsid }));
    }
    app
}

#[test]
#[serial]
fn sigterm_ends_courier_tgt_with_its_pool_connected() {
    ends(&courier_with(&shared::pool()));
}

#[test]
#[serial]
fn sigterm_ends_two_reactors_with_a_controller_and_its_client_without_an_error_in_the_log() {
    for with_client in [false, true] {
        let app = App::start(Program::Courier, "0x3", &[]);
        app.rpc.ok("bdev_malloc_create", &json!({ "name": "disk", "block_size": 512, "num_blocks": 32_768 }));
        let dir = paths::new_dir("vm");
        app.rpc.ok("courier_controller_create", &json!({ "name": "vm", "traddr": dir }));
        app.rpc.ok("courier_controller_add_ns", &json!({ "name": "vm", "bdev_name": "disk" }));
        let client = with_client.then(|| {
            let mut driver = Driver::start(&dir);
            for qid in [1, 2] {
                let mut queue = driver.create_queue(qid, 16, None);
                driver.check(&mut queue, 1);
            }
            driver
        });
        ends(&app);
        told_no_error(&app);
        drop(client);
    }
}

#[test]
#[serial]
fn sigterm_ends_courier_tgt_with_its_pool_away() {
    let pool = Pool::malloc();
    let app = courier_with(&pool);
    pool.kill();
    let away = || app.rpc.ok("courier_pool_get", &Value::Null)[0]["state"] == "reconnecting";
    wait_for("the loss to be noticed", secs(15), away);
    ends(&app);
}

#[test]
#[serial]
fn sigterm_ends_courier_tgt_while_a_pool_is_being_connected_that_says_nothing() {
    let silent = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port can be had");
    let port = silent.local_addr().expect("a listener has an address").port().to_string();
    let app = App::start(Program::Courier, "0x2", &[]);
    let params = shared::pool().params_with("p", &json!({ "trsvcid": port, "connect_timeout_ms": 60_000 }));
    let answer = app.rpc.begin("courier_pool_create", params);
    let is_known = || app.rpc.call("courier_pool_get", &json!({ "name": "p" })).is_ok();
    wait_for("the pool to be in creation", secs(5), is_known);
    ends(&app);
    let told = answer.recv_timeout(LIMIT).expect("its client is answered").expect_err("it was not created");
    assert!(told.message.contains("the application is ending"), "{}", told.message);
}

/// SPDK waits until a new bdev was examined before it tells the bdev modules that it ends.
#[test]
#[serial]
fn sigterm_ends_an_application_while_a_new_bdev_is_examined_whose_pool_hangs_or_leaves_the_read_without_an_answer() {
    for program in [Program::StockWithPlugin, Program::Courier] {
        for hangs in [true, false] {
            let target = ScriptedTarget::new();
            let relay = Relay::to(target.address());
            target.on(On::io(IoOpcode::READ), Do::NoAnswer);
            let app = App::start(program, "0x2", &[]);
            let port = relay.port().to_string();
            let params =
                json!({ "trsvcid": port, "subnqn": target.nqn(), "name": "p", "trtype": "tcp", "traddr": "127.0.0.1" });
            app.rpc.ok("courier_pool_create", &params);
            app.rpc.ok("bdev_courier_create", &json!({ "name": "disk", "pool": "p", "nsid": 1 }));
            assert!(target.wait_for(&On::io(IoOpcode::READ), 1, secs(30)), "it is examined");
            if hangs {
                relay.stall();
            }
            ends(&app);
        }
    }
}

#[test]
#[serial]
fn sigterm_ends_courier_tgt_with_pools_that_never_answered_and_all_that_waits_for_them() {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port can be had");
    let silent = listener.local_addr().expect("a listener has an address").port();
    let app = App::start(Program::Courier, "0x2", &[]);
    app.rpc.ok("courier_controller_create", &json!({ "name": "vm", "traddr": paths::new_dir("vm") }));
    for (name, port) in [("silent", silent), ("refusing", free_port())] {
        let changes = json!({ "trsvcid": port.to_string(), "connect_timeout_ms": 60_000, "wait": false });
        app.rpc.ok("courier_pool_create", &shared::pool().params_with(name, &changes));
        app.rpc.ok("bdev_courier_create", &json!({ "name": name, "pool": name, "nsid": 1 }));
        app.rpc.ok("courier_controller_add_ns", &json!({ "name": "vm", "bdev_name": name, "wait": false }));
    }
    ends(&app);
}

#[test]
#[serial]
fn sigterm_ends_courier_tgt_while_a_client_of_its_subsystem_does_io() {
    let pool = shared::pool();
    let app = courier_with(&pool);
    let export = Export::new(&app, &["disk1", "disk2"]);
    let load = Load::start("0x1", &["-f"]);
    load.rpc.ok("bdev_nvme_attach_controller", &export.attach("n"));
    let _running = load.begin(RANDOM);
    sleep(secs(1));
    ends(&app);
}

#[test]
#[serial]
fn sigterm_ends_bdevperf_with_the_plugin_under_load() {
    let pool = shared::pool();
    let load = Load::start("0x2", &[]);
    load.connect("p", &pool, &[1, 2]);
    let _running = load.begin(RANDOM);
    sleep(secs(1));
    ends(&load);
}

#[test]
#[serial]
fn sigterm_ends_courier_tgt_while_io_is_held_because_its_pool_is_away() {
    let files = [Backing::new(64 << 20, 512), Backing::new(64 << 20, 4_096)];
    let pool = Pool::files(&files);
    let app = courier_with(&pool);
    let export = Export::new(&app, &["disk1", "disk2"]);
    let load = Load::start("0x1", &["-f"]);
    load.rpc.ok("bdev_nvme_attach_controller", &export.attach("n"));
    let _running = load.begin(RANDOM);
    sleep(secs(1));
    pool.kill();
    let held = || app.rpc.ok("courier_pool_get", &Value::Null)[0]["held_ios"].as_u64() > Some(0);
    wait_for("I/O to be held", secs(15), held);
    ends(&app);
}
