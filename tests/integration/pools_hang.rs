//! Pools that hang, are late, or are away, and what `courier_tgt` does meanwhile.

use std::fs;
use std::time::{Duration, Instant};

use nvme_spec::{IoOpcode, Sqe};
use pool_faults::{Arrival, Cut, Do, Namespace, On, Options, Relay, ScriptedTarget, Which};
use serde_json::{Value, json};
use serial_test::serial;

use crate::support::app::{App, Program, configuration};
use crate::support::controller::Front;
use crate::support::load::{Load, Work};
use crate::support::nvme::{BASE, DATA, Driver, block_io, was_aborted};
use crate::support::pool::{NQN, Pool, free_port};
use crate::support::process::RunClock;
use crate::support::{paths, secs, shared, wait_for};

/// How long deletions, and the end of a process, may take.
const LIMIT: Duration = Duration::from_secs(5);
/// The keep-alive time of pools here.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// How long after that a loss may be noticed.
const LATENESS: Duration = Duration::from_secs(1);

/// Returns a `courier_tgt` on a core of its own.
fn courier() -> App {
    shared::rest();
    App::start(Program::Courier, "0x2", &[])
}

/// Returns what `courier_pool_create` needs to connect to a port here.
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

/// A pool at a port here, with a bdev of its namespace 1.
fn connect(app: &App, port: u16) {
    app.rpc.ok("courier_pool_create", &params(port, &json!({})));
    app.rpc.ok("bdev_courier_create", &json!({ "name": "disk", "pool": "p", "nsid": 1 }));
}

fn state_of(app: &App, pool: &str) -> Value {
    app.rpc.ok("courier_pool_get", &json!({ "name": pool }))[0]["state"].clone()
}

#[test]
#[serial]
fn sigterm_ends_courier_tgt_whose_pool_hangs() {
    let (app, pool) = (courier(), Pool::malloc());
    connect(&app, pool.port);
    pool.app.process.suspend();
    let status = app.shut_down(LIMIT);
    pool.app.process.resume();
    assert_eq!(status.code(), Some(0), "it ended with {status}\n{}", app.process.tail());
}

#[test]
#[serial]
fn a_pool_that_hangs_is_noticed_and_used_again_when_it_answers() {
    let (app, pool) = (courier(), Pool::malloc());
    connect(&app, pool.port);
    let clock = RunClock::start(&app.process);
    pool.app.process.suspend();
    wait_for("the loss to be noticed", secs(20), || state_of(&app, "p") == "reconnecting");
    let noticed = clock.elapsed();
    pool.app.process.resume();
    assert!(noticed < KEEP_ALIVE + LATENESS, "it took {noticed:?}");
    wait_for("the pool to be connected again", secs(20), || state_of(&app, "p") == "connected");
    assert_eq!(app.shut_down(LIMIT).code(), Some(0), "{}", app.process.tail());
}

#[test]
#[serial]
fn a_bdev_and_a_pool_that_hangs_are_deleted_in_time() {
    let app = courier();
    for method in ["bdev_courier_delete", "courier_pool_delete"] {
        let target = ScriptedTarget::new();
        let relay = Relay::to(target.address());
        connect(&app, relay.port());
        relay.stall();
        let name = if method == "courier_pool_delete" { "p" } else { "disk" };
        let clock = RunClock::start(&app.process);
        app.rpc.ok(method, &json!({ "name": name }));
        assert!(clock.elapsed() < LIMIT, "{method} took {:?}", clock.elapsed());
        relay.release();
        if method != "courier_pool_delete" {
            app.rpc.ok("courier_pool_delete", &json!({ "name": "p" }));
        }
    }
    assert_eq!(app.shut_down(LIMIT).code(), Some(0), "{}", app.process.tail());
}

#[test]
#[serial]
fn a_pool_that_hangs_holds_its_io_and_leaves_that_of_another_alone() {
    const IO: Work<'_> = Work { kind: "verify", io_size: 4_096, depth: 16, seconds: 4 };
    let (hanging, good) = (ScriptedTarget::new(), shared::pool());
    let relay = Relay::to(hanging.address());
    let load = Load::start("0x2", &[]);
    load.connect("good", &good, &[1]);
    connect(&load, relay.port());
    let running = load.begin(IO);
    assert!(relay.wait(secs(10), |relay| relay.connections() > 1));
    relay.stall();
    wait_for("the loss to be noticed", secs(20), || state_of(&load, "p") == "reconnecting");
    assert_eq!(state_of(&load, "good"), "connected");
    relay.cut(Which::All, Cut::Reset);
    relay.release();
    // Both bdevs, without an error, and with every block as it was written.
    running.finish(IO);
}

#[test]
#[serial]
fn connect_timeout_ms_holds_whatever_step_of_a_connection_is_never_answered() {
    let app = courier();
    let short = json!({ "connect_timeout_ms": 250 });
    for step in 0..16 {
        let target = ScriptedTarget::new();
        target.on(On::any().connection(0).after(step), Do::Silence);
        let since = Instant::now();
        let made = app.rpc.call("courier_pool_create", &params(target.port(), &short));
        assert!(since.elapsed() < secs(4), "step {step}: it took {:?}", since.elapsed());
        let connections = target.open_connections();
        if made.is_ok() {
            app.rpc.ok("courier_pool_delete", &json!({ "name": "p" }));
        } else {
            let closed = |target: &ScriptedTarget| target.open_connections().is_empty();
            assert!(target.wait(secs(5), closed), "step {step}: {connections:?} stay open");
        }
    }
    let target = ScriptedTarget::new();
    let relay = Relay::to(target.address());
    for arrival in [Arrival::Silence, Arrival::Drop] {
        relay.arrivals(arrival);
        let since = Instant::now();
        app.rpc.fails("courier_pool_create", &params(relay.port(), &short), &[]);
        assert!(since.elapsed() < secs(4), "{arrival:?}: it took {:?}", since.elapsed());
    }
    relay.arrivals(Arrival::Pass);
    connect(&app, relay.port());
}

#[test]
#[serial]
fn an_io_queue_whose_connection_is_never_answered_is_connected_anew_and_io_waits_for_that() {
    const IO: Work<'_> = Work { kind: "verify", io_size: 4_096, depth: 4, seconds: 1 };
    let target = ScriptedTarget::new();
    let load = Load::start("0x2", &[]);
    target.on(On::connect_io().once(), Do::Silence);
    target.on(On::ic_req().connection(2).once(), Do::Silence);
    connect(&load, target.port());
    load.run(IO);
    assert!(target.connections() >= 4, "it did not come back: {:?}", target.open_connections());
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

/// A front end with a bdev of a pool with a queue of 32 entries, whose reads are never answered.
fn front_whose_reads_are_held(target: &ScriptedTarget) -> Front {
    let front = Front::start_with_pools();
    let port = target.port().to_string();
    let pool = json!({
        "name": "p", "trtype": "tcp", "traddr": "127.0.0.1", "trsvcid": port, "subnqn": target.nqn(), "io_queue_size": 32,
    });
    front.rpc.ok("courier_pool_create", &pool);
    front.rpc.ok("bdev_courier_create", &json!({ "name": "disk", "pool": "p", "nsid": 1 }));
    target.on(On::io(IoOpcode::READ), Do::Hold);
    front
}

#[test]
#[serial]
fn aborts_are_answered_whatever_the_recovery_of_a_hung_pool_is_doing_when_they_come() {
    const READS: u16 = 255;
    /// Long enough for two recoveries, each of which begins 2 s after an abort.
    const TIME: Duration = Duration::from_millis(4_500);
    let target = ScriptedTarget::new();
    let front = front_whose_reads_are_held(&target);
    let controller = front.controller("c", &["disk"]);
    let mut driver = Driver::start(controller.dir());
    let mut queue = driver.create_queue(1, READS + 1, None);
    let last = driver.submit(&mut queue, &vec![block_io(IoOpcode::READ, 1, 0, 1, BASE + DATA); usize::from(READS)]);
    assert!(target.wait(secs(10), |target| target.held() > 0), "no read comes");
    let began = Instant::now();
    let mut aborts = 0;
    while aborts < READS && began.elapsed() < TIME {
        let asked = Instant::now();
        let answer = driver.admin(Sqe::abort(1, last.wrapping_sub(aborts)));
        assert!(answer.status.is_success() && asked.elapsed() < LIMIT, "{answer:?} after {:?}", asked.elapsed());
        aborts += 1;
    }
    assert!(aborts > 1, "one abort alone took {:?}", began.elapsed());
    front.assert_alive();
}

#[test]
#[serial]
fn an_abort_that_a_live_pool_does_not_carry_out_is_answered_and_the_command_stays() {
    let target = ScriptedTarget::new();
    let front = front_whose_reads_are_held(&target);
    let controller = front.controller("c", &["disk"]);
    let mut driver = Driver::start(controller.dir());
    let mut queue = driver.create_queue(1, 16, None);
    let cid = driver.submit(&mut queue, &[block_io(IoOpcode::READ, 1, 0, 1, BASE + DATA)]);
    assert!(target.wait(secs(10), |target| target.held() > 0), "no read comes");
    for _ in 0..2 {
        let asked = Instant::now();
        let answer = driver.admin(Sqe::abort(1, cid));
        assert!(answer.status.is_success() && asked.elapsed() < LIMIT, "{answer:?} after {:?}", asked.elapsed());
        assert!(!was_aborted(answer), "the command was not aborted");
    }
    driver.submit(&mut queue, &[block_io(IoOpcode::WRITE, 1, 8, 1, BASE + DATA)]);
    let done = driver.complete(&mut queue);
    assert!(done.status.is_success() && done.cid != cid, "{done:?}");
    front.assert_alive();
}

#[test]
#[serial]
fn a_disk_that_took_the_place_of_one_of_a_hung_pool_stays_when_that_is_deleted() {
    let target = ScriptedTarget::new();
    let front = front_whose_reads_are_held(&target);
    front.rpc.ok("bdev_null_create", &json!({ "name": "other", "num_blocks": 2048, "block_size": 512 }));
    let controller = front.controller("c", &["disk"]);
    let mut driver = Driver::start(controller.dir());
    let mut queue = driver.create_queue(1, 16, None);
    driver.submit(&mut queue, &[block_io(IoOpcode::READ, 1, 0, 1, BASE + DATA)]);
    assert!(target.wait(secs(10), |target| target.held() > 0), "no read comes");
    front.rpc.ok("courier_controller_remove_ns", &json!({ "name": "c", "nsid": 1 }));
    front.rpc.ok("courier_controller_add_ns", &json!({ "name": "c", "bdev_name": "other", "nsid": 1 }));
    front.rpc.ok("bdev_courier_delete", &json!({ "name": "disk" }));
    let told = front.rpc.ok("courier_controller_get", &json!({ "name": "c" }));
    assert_eq!(told[0]["namespaces"][0]["bdev_name"], "other", "{told}");
    front.assert_alive();
}
