//! What goes wrong under load: bdevs and pools deleted, targets killed.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use serial_test::serial;

use crate::support::load::{Load, Work};
use crate::support::pool::{Backing, Pool};
use crate::support::{paths, secs, shared, wait_for};

const RANDOM: Work<'_> = Work { kind: "randrw", io_size: 4_096, depth: 32, seconds: 6 };

fn pool_of(load: &Load) -> Value {
    load.rpc.ok("courier_pool_get", &json!({ "name": "p" }))[0].clone()
}

#[test]
#[serial]
fn a_bdev_deleted_under_load_goes_cleanly_and_can_be_made_again() {
    let pool = shared::pool();
    let load = Load::start("0x2", &["-f"]);
    load.connect("p", &pool, &[1, 2]);
    let running = load.begin(RANDOM);
    sleep(secs(1));
    let start = Instant::now();
    load.rpc.ok("bdev_courier_delete", &json!({ "name": "pn1" }));
    assert!(start.elapsed() < secs(5), "deleting took {:?}", start.elapsed());
    assert_eq!(load.bdevs(), ["pn2"]);
    load.create_bdevs("p", &[1]);
    let result = running.result(30).unwrap_or_else(|error| panic!("{}\n{}", error.message, load.process.tail()));
    assert_eq!(result["results"][1]["io_failed"], 0, "the other bdev saw an error: {result}");
    load.run(Work { kind: "verify", seconds: 1, ..RANDOM });
    assert_eq!(load.shut_down(secs(20)).code(), Some(0), "{}", load.process.tail());
}

#[test]
#[serial]
fn a_pool_deleted_under_load_goes_cleanly_and_can_be_made_again() {
    let pool = shared::pool();
    let load = Load::start("0x3", &["-f", "-C"]);
    load.connect("p", &pool, &[1, 2]);
    let running = load.begin(RANDOM);
    sleep(secs(1));
    let start = Instant::now();
    load.rpc.ok("courier_pool_delete", &json!({ "name": "p" }));
    assert!(start.elapsed() < secs(5), "deleting took {:?}", start.elapsed());
    assert_eq!(load.bdevs(), Vec::<String>::new());
    running.result(30).unwrap_or_else(|error| panic!("{}\n{}", error.message, load.process.tail()));
    load.connect("p", &pool, &[1, 2]);
    load.run(Work { kind: "verify", seconds: 1, ..RANDOM });
    assert_eq!(load.shut_down(secs(20)).code(), Some(0), "{}", load.process.tail());
}

/// Returns a pool of files, and load on it from two cores.
fn on_files(args: &[&str], changes: &Value) -> (Pool, [Backing; 2], Load) {
    let files = [Backing::new(64 << 20, 512), Backing::new(64 << 20, 4_096)];
    let pool = Pool::files(&files);
    let load = Load::start("0x2", args);
    load.rpc.ok("courier_pool_create", &pool.params_with("p", changes));
    load.create_bdevs("p", &[1, 2]);
    (pool, files, load)
}

#[test]
#[serial]
fn io_is_held_while_the_target_is_away_and_goes_on_without_an_error() {
    let (mut pool, files, load) = on_files(&[], &json!({}));
    let work = Work { kind: "verify", io_size: 4_096, depth: 32, seconds: 8 };
    let running = load.begin(work);
    sleep(secs(1));
    pool.kill();
    wait_for("the loss to be noticed", secs(10), || pool_of(&load)["state"] == "reconnecting");
    load.rpc.fails("bdev_courier_create", &json!({ "name": "d", "pool": "p", "nsid": 1 }), &["'p'", "'pn1' already"]);
    sleep(secs(1));
    pool.start_again(&files);
    wait_for("the pool to be connected again", secs(15), || pool_of(&load)["state"] == "connected");
    running.finish(work);
    let told = pool_of(&load);
    assert!(told["losses"].as_u64().is_some_and(|losses| losses >= 1), "{told}");
    assert!(told["held_ios"].as_u64().is_some_and(|held| held >= 1), "{told}");
    assert_eq!(load.bdevs(), ["pn1", "pn2"]);
    assert_eq!(load.shut_down(secs(20)).code(), Some(0), "{}", load.process.tail());
}

#[test]
#[serial]
fn a_pool_deleted_while_away_goes_at_once_and_its_io_fails() {
    let (pool, _files, load) = on_files(&["-f"], &json!({}));
    let running = load.begin(RANDOM);
    sleep(secs(1));
    pool.kill();
    wait_for("the loss to be noticed", secs(10), || pool_of(&load)["state"] == "reconnecting");
    sleep(Duration::from_millis(1_500));
    let start = Instant::now();
    load.rpc.ok("courier_pool_delete", &json!({ "name": "p" }));
    assert!(start.elapsed() < secs(5), "deleting took {:?}", start.elapsed());
    running.result(30).unwrap_or_else(|error| panic!("{}\n{}", error.message, load.process.tail()));
    assert_eq!(load.rpc.ok("courier_pool_get", &Value::Null), json!([]));
    assert_eq!(load.shut_down(secs(20)).code(), Some(0), "{}", load.process.tail());
}

#[test]
#[serial]
fn io_fails_after_fast_io_fail_timeout_sec_and_goes_on_when_the_target_is_back() {
    let (mut pool, files, load) = on_files(&["-f"], &json!({ "fast_io_fail_timeout_sec": 2 }));
    let running = load.begin(RANDOM);
    sleep(secs(1));
    pool.kill();
    let result = running.result(30).unwrap_or_else(|error| panic!("{}\n{}", error.message, load.process.tail()));
    assert!(result["results"][0]["io_failed"].as_u64() > Some(0), "no I/O failed: {result}");
    assert_eq!(pool_of(&load)["state"], "reconnecting");
    pool.start_again(&files);
    wait_for("the pool to be connected again", secs(15), || pool_of(&load)["state"] == "connected");
    load.run(Work { kind: "verify", seconds: 1, ..RANDOM });
}

#[test]
#[serial]
fn a_pool_is_given_up_after_ctrlr_loss_timeout_sec_and_can_be_deleted() {
    let (pool, _files, load) = on_files(&["-f"], &json!({ "ctrlr_loss_timeout_sec": 2 }));
    let running = load.begin(RANDOM);
    sleep(secs(1));
    pool.kill();
    let start = Instant::now();
    wait_for("the pool to be given up", secs(15), || pool_of(&load)["state"] == "failed");
    assert!(start.elapsed() >= Duration::from_millis(1_500), "given up after {:?} already", start.elapsed());
    let result = running.result(30).unwrap_or_else(|error| panic!("{}\n{}", error.message, load.process.tail()));
    assert!(result["results"][0]["io_failed"].as_u64() > Some(0), "no I/O failed: {result}");
    load.rpc.ok("courier_pool_delete", &json!({ "name": "p" }));
    assert_eq!(load.bdevs(), Vec::<String>::new());
    assert_eq!(load.shut_down(secs(20)).code(), Some(0), "{}", load.process.tail());
}

/// The reset workload of `bdevperf` resets every ten seconds.
#[test]
#[serial]
fn a_bdev_is_reset_under_load_and_the_other_bdev_of_its_pool_sees_no_error() {
    let pool = shared::pool();
    let jobs = paths::new_dir("jobs").join("jobs.conf");
    let job = |name: &str, bdev: &str, rw: &str| format!("[{name}]\nfilename={bdev}\nrw={rw}\nbs=4096\niodepth=16\n");
    fs::write(&jobs, job("victim", "pn1", "reset") + &job("other", "pn2", "verify")).expect("a file can be written");
    let load = Load::start_jobs("0x2", &jobs, 12);
    load.connect("p", &pool, &[1, 2]);
    let running = load.begin_jobs();
    let result = running.result(40).unwrap_or_else(|error| panic!("{}\n{}", error.message, load.process.tail()));
    let told = pool_of(&load);
    assert_eq!(told["losses"], 1, "there was no reset: {told}");
    // A reset that goes well is none of an error, and the log says who speaks.
    let log = load.process.output();
    assert!(!log.contains("spdk_sock_flush() failed, rc -9") && !log.contains("(null)"), "{}", load.process.tail());
    let told_by = log.lines().find(|line| line.contains("*NOTICE*: pool 'p': connection reset"));
    assert!(told_by.is_some_and(|line| line.contains(":bdev_module::pool::")), "{}", load.process.tail());
    let other = &result["results"][1];
    assert_eq!((&other["status"], &other["io_failed"]), (&json!("finished"), &json!(0)), "{result}");
    assert_eq!(result["results"][0]["status"], "finished", "{result}");
    assert_eq!(told["state"], "connected", "{told}");
}
