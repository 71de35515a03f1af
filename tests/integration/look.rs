//! What is told of queues and commands to who looks for a slow or a failing I/O.

use serde_json::{Value, json};
use serial_test::serial;

use crate::support::controller::{Front, FrontEnd};
use crate::support::nvme::{BASE, Command, DATA, Driver, IDENTIFY, READ};
use crate::support::pool::Pool;
use crate::support::{paths, secs, wait_for};

/// How long, in microseconds, the I/O of the slow disk takes.
const SLOW: u64 = 3_000_000;

/// What `courier_controller_get` tells of the only controller.
fn told(front: &Front) -> Value {
    front.rpc.ok("courier_controller_get", &json!({ "name": "c" }))[0].clone()
}

/// What is told of the queue of that identifier in one of the lists.
fn queue<'a>(told: &'a Value, list: &str, qid: u64) -> &'a Value {
    let queues = told[list].as_array().expect("a list");
    queues.iter().find(|queue| queue["qid"] == qid).unwrap_or(&Value::Null)
}

#[test]
#[serial]
fn a_queue_whose_commands_hang_is_seen_with_their_count_and_the_age_of_the_oldest() {
    if FrontEnd::chosen() == FrontEnd::Stock {
        return;
    }
    let front = Front::start();
    front.slow("slow", SLOW);
    let controller = front.controller("c", &["slow"]);
    let none = told(&front);
    for list in ["submission_queues", "completion_queues", "commands_left", "unanswered_cores"] {
        assert_eq!(none[list], json!([]), "{list}: {none}");
    }

    let mut driver = Driver::start(controller.dir());
    let mut queues = [driver.create_queue(1, 16, Some(1)), driver.create_queue(2, 32, None)];
    driver.submit(&mut queues[0], &[Command::io(READ, 1, 0, 8, BASE + DATA); 3]);
    wait_for("the age of the oldest command to be told", secs(5), || {
        let told = told(&front);
        queue(&told, "submission_queues", 1)["oldest_age_ms"].as_u64().is_some_and(|age| age >= 200)
    });
    let told = told(&front);
    let hanging = queue(&told, "submission_queues", 1);
    let age = hanging["oldest_age_ms"].as_u64().expect("it has an age");
    let expected = json!({
        "core": 1, "qid": 1, "cqid": 1, "size": 16, "head": 3, "tail": 3, "commands_in_flight": 3, "deferred": 0, "fenced": 0,
        "oldest_age_ms": age,
    });
    assert_eq!((hanging, age < 60_000), (&expected, true), "{told}");
    let expected = json!({
        "core": 1, "qid": 1, "size": 16, "head": 0, "tail": 0, "reserved": 3, "waiting": 0, "vector": 1, "interrupts": 0,
        "coalesced": 0,
    });
    assert_eq!(queue(&told, "completion_queues", 1), &expected);
    let idle = queue(&told, "submission_queues", 2);
    assert_eq!((&idle["commands_in_flight"], &idle["oldest_age_ms"]), (&json!(0), &Value::Null), "{told}");
    // The admin queue has made the others.
    let admin = queue(&told, "submission_queues", 0);
    assert_eq!((&admin["head"], &admin["commands_in_flight"]), (&json!(4), &json!(0)), "{told}");
    assert_eq!((&told["unanswered_cores"], &told["queues_left_out"]), (&json!([]), &json!(0)));
    for _ in 0..3 {
        assert!(driver.complete(&mut queues[0]).succeeded());
    }
    wait_for("the interrupts to be counted", secs(5), || {
        let over = self::told(&front);
        let done = queue(&over, "completion_queues", 1);
        let raised =
            done["interrupts"].as_u64().zip(done["coalesced"].as_u64()).map(|(raised, others)| raised + others);
        raised == Some(3) && done["tail"] == 3 && queue(&over, "submission_queues", 1)["oldest_age_ms"] == Value::Null
    });
}

#[test]
#[serial]
fn a_guest_address_that_cannot_be_used_is_in_the_log_with_the_command_and_the_reason_and_not_too_often() {
    const NOWHERE: u64 = 1 << 40;
    if FrontEnd::chosen() == FrontEnd::Stock {
        return;
    }
    let front = Front::start();
    front.malloc("disk", 16, 512);
    let controller = front.controller("c", &["disk"]);
    let mut driver = Driver::start(controller.dir());
    let mut queue = driver.create_queue(1, 256, None);
    let cid = driver.submit(&mut queue, &[Command::io(READ, 1, 0, 8, NOWHERE)]);
    assert!(!driver.complete(&mut queue).succeeded());
    let identify = Command { opcode: IDENTIFY, prp1: NOWHERE, cdw10: 1, ..Command::default() };
    let refused = driver.admin(identify);
    assert!(!refused.succeeded());
    let line = |cid: u16, queue: u16, what: &str| {
        format!(
            "controller 'c': command {cid} of queue {queue} ({what}) cannot use guest address {NOWHERE:#x}: \
             no region has the address"
        )
    };
    let lines = [line(cid, 1, "opcode 02h, namespace 1"), line(refused.cid, 0, "opcode 06h, namespace 0")];
    wait_for("both lines", secs(5), || {
        let log = front.process.output();
        lines.iter().all(|line| log.matches(line.as_str()).count() == 1)
    });
    for _ in 0..20 {
        driver.submit(&mut queue, &[Command::io(READ, 1, 0, 8, NOWHERE); 200]);
        for _ in 0..200 {
            assert!(!driver.complete(&mut queue).succeeded());
        }
    }
    driver.check(&mut queue, 1);
    let told = front.process.output().matches("cannot use guest address").count();
    assert!((2..=150).contains(&told), "{told} lines of 4002 commands");
}

#[test]
#[serial]
fn a_pool_that_answers_nothing_is_seen_in_its_queue_pair_and_in_the_guests_queue() {
    // Its own, which nobody else finds stopped if this fails.
    let pool = Pool::malloc();
    let front = Front::start_with_pools();
    front.rpc.ok("courier_pool_create", &pool.params("p"));
    front.rpc.ok("bdev_courier_create", &json!({ "name": "disk", "pool": "p", "nsid": 1 }));
    let dir = paths::new_dir("c");
    front.rpc.ok("courier_controller_create", &json!({ "name": "c", "traddr": dir }));
    front.rpc.ok("courier_controller_add_ns", &json!({ "name": "c", "bdev_name": "disk" }));
    let mut driver = Driver::start(&dir);
    let mut queue = driver.create_queue(1, 16, None);
    driver.check(&mut queue, 1);
    let pair = || {
        let told = front.rpc.ok("courier_pool_get", &json!({ "name": "p" }));
        let pairs = told[0]["queue_pairs"].as_array().expect("a list").clone();
        assert_eq!(told[0]["unanswered_cores"], json!([]), "{told}");
        pairs.into_iter().find(|pair| pair["last_answer_age_ms"].is_u64()).unwrap_or(Value::Null)
    };
    wait_for("the queue pair to be told as idle", secs(5), || {
        let pair = pair();
        pair["state"] == "connected" && pair["commands_outstanding"] == 0 && pair["oldest_age_ms"] == Value::Null
    });

    pool.app.process.suspend();
    driver.submit(&mut queue, &[Command::io(READ, 1, 0, 8, BASE + DATA); 3]);
    wait_for("the age of its oldest command to be told", secs(5), || {
        let pair = pair();
        let age = |member: &str| pair[member].as_u64().unwrap_or(0);
        pair["commands_outstanding"] == 3 && age("oldest_age_ms") >= 300 && age("last_answer_age_ms") >= 300
    });
    let told = told(&front);
    let hanging = self::queue(&told, "submission_queues", 1);
    assert_eq!(hanging["commands_in_flight"], 3, "{told}");
    assert!(hanging["oldest_age_ms"].as_u64().is_some_and(|age| age >= 250), "{told}");
    pool.app.process.resume();
    for _ in 0..3 {
        assert!(driver.complete(&mut queue).succeeded());
    }
    wait_for("nothing to be outstanding", secs(5), || {
        let pair = pair();
        pair["commands_outstanding"] == 0 && pair["oldest_age_ms"] == Value::Null
    });
}
