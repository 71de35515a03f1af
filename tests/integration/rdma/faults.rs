//! Addresses and targets that go and come back, and addresses and names that are wrong.

use std::thread::sleep;
use std::time::Instant;

use serde_json::{Value, json};
use serial_test::serial;

use super::target::Network;
use super::{Fabric, Target, TargetKind, for_every_target, verify};
use crate::support::load::{Load, Work};
use crate::support::{secs, wait_for};

/// How long a wrong address may take, in seconds.
const CONNECT_TIMEOUT: u64 = 5;
/// Load during which something happens to the pool. What is in flight by then is held, however long that takes.
const LONG: Work<'_> = Work { kind: "verify", io_size: 4_096, depth: 8, seconds: 5 };
/// Notices a target that is gone without a word.
const KEEP_ALIVE: u32 = 2_000;

for_every_target! { a_wrong_name_is_told_and_io_outlives_the_loss_of_the_address_and_of_the_target }

/// In one test, since every process takes long to start in an emulated machine.
fn a_wrong_name_is_told_and_io_outlives_the_loss_of_the_address_and_of_the_target(kind: TargetKind, fabric: Fabric) {
    let mut target = Target::start(kind, fabric, Network::First);
    let load = Load::start("0x2", &[]);
    a_wrong_name_is_told_in_time(&load, &target);
    load.rpc.ok("courier_pool_create", &target.params("p", &json!({ "keep_alive_timeout_ms": KEEP_ALIVE })));
    load.create_bdevs("p", &[1]);
    io_goes_on_without_an_error_after_the_address_was_away(&load, fabric);
    io_goes_on_without_an_error_after_the_target_was_away(&load, &mut target, kind);
    assert_eq!(load.shut_down(secs(30)).code(), Some(0), "{}", load.process.tail());
}

fn pool_of(load: &Load) -> Value {
    load.rpc.ok("courier_pool_get", &json!({ "name": "p" }))[0].clone()
}

/// Returns how many I/Os were done on the pool's bdev so far.
fn done(load: &Load) -> u64 {
    let stats = load.rpc.ok("bdev_get_iostat", &json!({ "name": "pn1" }));
    stats["bdevs"][0]["num_read_ops"].as_u64().unwrap_or_default()
}

/// Does work that must not notice what happens meanwhile, and some more afterwards.
fn under_load(load: &Load, happens: impl FnOnce()) {
    let before = done(load);
    let running = load.begin(LONG);
    wait_for("I/O to be done", secs(10), || done(load) > before);
    happens();
    wait_for("the pool to be connected again", secs(30), || pool_of(load)["state"] == "connected");
    running.finish(LONG);
    load.run(verify(4_096, 8));
}

fn io_goes_on_without_an_error_after_the_address_was_away(load: &Load, fabric: Fabric) {
    under_load(load, || {
        Network::First.take_down();
        sleep(secs(4));
        Network::First.take_up();
    });
    let told = pool_of(load);
    // TCP repeats what was lost; whether the connection lasts is for its time-outs to say.
    assert!(fabric == Fabric::Tcp || told["losses"].as_u64() >= Some(1), "the address was not away: {told}");
}

fn io_goes_on_without_an_error_after_the_target_was_away(load: &Load, target: &mut Target, kind: TargetKind) {
    let count = |name: &str| pool_of(load)[name].as_u64().unwrap_or_default();
    // The kernel's target may answer what it has before it goes: then I/O finds it gone, and is held.
    let answers = kind == TargetKind::Kernel;
    let met = || count("resent_ios") + if answers { count("held_ios") } else { 0 };
    let (losses, before) = (count("losses"), met());
    under_load(load, || {
        target.kill();
        wait_for("the loss to be noticed", secs(10), || pool_of(load)["state"] == "reconnecting");
        target.start_again();
    });
    assert!(count("losses") > losses && met() > before, "{}", pool_of(load));
}

fn a_wrong_name_is_told_in_time(load: &Load, target: &Target) {
    let wrong = "nqn.2024-01.com.example:other";
    fails_in_time(load, target, &json!({ "subnqn": wrong }), &["'p'", wrong, "is subnqn right"]);
}

#[track_caller]
fn fails_in_time(load: &Load, target: &Target, changes: &Value, words: &[&str]) {
    let mut params = target.params("p", changes);
    params["connect_timeout_ms"] = json!(CONNECT_TIMEOUT * 1_000);
    let start = Instant::now();
    load.rpc.fails("courier_pool_create", &params, words);
    let took = start.elapsed();
    assert!(took < secs(CONNECT_TIMEOUT + 3), "{changes} was told only after {took:?}");
    assert_eq!(load.rpc.ok("courier_pool_get", &Value::Null), json!([]));
}

#[test]
#[serial]
#[ignore = "needs the machine of scripts/rdma-vm.sh"]
fn a_wrong_address_is_told_in_time_whatever_is_wrong_with_it() {
    let target = Target::start(TargetKind::Spdk, Fabric::Rdma, Network::First);
    let load = Load::start("0x2", &[]);
    // Nobody there, in a network of ours; a network that is not ours; a port that nobody listens on; an address without
    // a device.
    let nothing = "nothing answers there";
    for (field, value, why) in [
        ("traddr", "192.168.200.77", nothing),
        ("traddr", "203.0.113.1", nothing),
        ("trsvcid", "4", nothing),
        ("traddr", "127.0.0.1", "no RDMA device of this machine leads there"),
    ] {
        fails_in_time(&load, &target, &json!({ field: value }), &["'p'", "RDMA", value, why]);
    }
    load.rpc.ok("courier_pool_create", &target.params("p", &json!({})));
    assert_eq!(load.shut_down(secs(30)).code(), Some(0), "{}", load.process.tail());
}
