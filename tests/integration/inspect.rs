//! What is told of queues and commands to who looks for a slow or a failing I/O.

use nvme_spec::{AdminOpcode, IoOpcode, Sqe};
use serde_json::{Value, json};
use serial_test::serial;

use crate::support::controller::{Front, FrontEnd};
use crate::support::nvme::{BASE, DATA, Driver, block_io};
use crate::support::pool::Pool;
use crate::support::process::{Libraries, Process};
use crate::support::{paths, secs, shared, wait_for};

/// How long, in microseconds, the I/O of the slow disk takes.
const SLOW: u64 = 3_000_000;

/// A front end with a bdev of the pool's first namespace.
fn front_with_disk(pool: &Pool) -> Front {
    let front = Front::start_with_pools();
    front.rpc.ok("courier_pool_create", &pool.params("p"));
    front.rpc.ok("bdev_courier_create", &json!({ "name": "disk", "pool": "p", "nsid": 1 }));
    front
}

/// Returns what `courier_controller_get` tells of the only controller.
fn told(front: &Front) -> Value {
    front.rpc.ok("courier_controller_get", &json!({ "name": "c" }))[0].clone()
}

/// Returns what is told of the queue of that identifier in one of the lists.
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
    driver.submit(&mut queues[0], &[block_io(IoOpcode::READ, 1, 0, 8, BASE + DATA); 3]);
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
        assert!(driver.complete(&mut queues[0]).status.is_success());
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
    let cid = driver.submit(&mut queue, &[block_io(IoOpcode::READ, 1, 0, 8, NOWHERE)]);
    assert!(!driver.complete(&mut queue).status.is_success());
    let identify = Sqe { opcode: AdminOpcode::IDENTIFY.0, prp1: NOWHERE, cdw10: 1, ..Sqe::default() };
    let refused = driver.admin(identify);
    assert!(!refused.status.is_success());
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
        driver.submit(&mut queue, &[block_io(IoOpcode::READ, 1, 0, 8, NOWHERE); 200]);
        for _ in 0..200 {
            assert!(!driver.complete(&mut queue).status.is_success());
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
    let front = front_with_disk(&pool);
    let controller = front.controller("c", &["disk"]);
    let mut driver = Driver::start(controller.dir());
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
    driver.submit(&mut queue, &[block_io(IoOpcode::READ, 1, 0, 8, BASE + DATA); 3]);
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
        assert!(driver.complete(&mut queue).status.is_success());
    }
    wait_for("nothing to be outstanding", secs(5), || {
        let pair = pair();
        pair["commands_outstanding"] == 0 && pair["oldest_age_ms"] == Value::Null
    });
}

/// A record of SPDK's tracepoints.
struct Record {
    name: String,
    /// The object that it is about, and what `spdk_trace` calls that.
    object: (u64, Value),
    /// The object that one of its arguments names.
    related: Value,
    arguments: Vec<u64>,
}

/// Returns the records of an application, by time.
fn records(front: &Front) -> Vec<Record> {
    let pid = front.process.pid().to_string();
    let args = ["-j", "-s", "courier_tgt", "-p", &pid].map(str::to_owned);
    let (status, output) = Process::run(&paths::stock("spdk_trace"), &args, Libraries::Spdk, secs(20));
    assert!(status.success(), "spdk_trace ended with {status}: {output}");
    let json = output.find('{').and_then(|begin| output.get(begin..)).unwrap_or_default();
    let told: Value = serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {output}"));
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let points = list(&told["tpoints"]);
    let name = |id: &Value| {
        points.iter().find(|point| point["id"] == *id).map_or("", |point| point["name"].as_str().unwrap_or(""))
    };
    let record = |entry: &Value| Record {
        name: name(&entry["tpoint"]).to_owned(),
        object: (number(&entry["object"]["value"]), entry["object"]["id"].clone()),
        related: entry["related"].clone(),
        arguments: list(&entry["args"]).iter().map(number).collect(),
    };
    list(&told["entries"]).iter().map(record).collect()
}

/// Returns the names of the records of command `cid` of queue 1, in their order, and whether they name each other.
fn records_of(all: &[Record], cid: u16) -> (Vec<&str>, bool) {
    let is_taken = |record: &Record| record.name == "CTRL_TAKE" && record.arguments == [1, cid.into(), 1];
    let Some(first) = all.iter().rposition(is_taken) else { return (Vec::new(), false) };
    let (command, id) = &all[first].object;
    let argument = |record: &Record, at: usize| record.arguments.get(at).copied();
    let start =
        all[first..].iter().find(|record| record.name == "BDEV_IO_START" && argument(record, 1) == Some(*command));
    let io = start.map_or(0, |record| record.object.0);
    let is_of_it = |record: &&Record| match record.name.as_str() {
        "CTRL_TAKE" | "CTRL_WAIT" | "CTRL_GO_ON" | "CTRL_COMPLETE" => record.object.0 == *command,
        "BDEV_IO_START" | "BDEV_IO_DONE" | "POOL_SEND" | "POOL_HOLD" | "POOL_DONE" => record.object.0 == io,
        "NVME_TCP_SUBMIT" | "NVME_TCP_COMPLETE" => argument(record, 0) == Some(io),
        "CTRL_INTERRUPT" => argument(record, 0) == Some(1),
        _ => false,
    };
    let doorbell = all[..first].iter().rfind(|record| record.name == "CTRL_DOORBELL" && argument(record, 0) == Some(1));
    let names = doorbell.into_iter().chain(all[first..].iter().filter(is_of_it)).map(|record| record.name.as_str());
    (names.collect(), start.is_some_and(|record| record.related == *id))
}

#[test]
#[serial]
fn the_steps_of_an_io_are_recorded_in_their_order_while_that_is_asked_for() {
    const STEPS: [&str; 10] = [
        "CTRL_DOORBELL",
        "CTRL_TAKE",
        "BDEV_IO_START",
        "POOL_SEND",
        "NVME_TCP_SUBMIT",
        "NVME_TCP_COMPLETE",
        "POOL_DONE",
        "BDEV_IO_DONE",
        "CTRL_COMPLETE",
        "CTRL_INTERRUPT",
    ];
    let pool = shared::pool();
    let front = front_with_disk(&pool);
    let controller = front.controller("c", &["disk"]);
    let mut driver = Driver::start(controller.dir());
    let mut queue = driver.create_queue(1, 16, Some(1));
    driver.check(&mut queue, 1);
    let is_ours = |record: &&Record| record.name.starts_with("CTRL_") || record.name.starts_with("POOL_");
    assert_eq!(records(&front).iter().filter(is_ours).count(), 0, "nobody has asked for records");

    let groups = ["courier", "bdev", "nvme_tcp"];
    for group in groups {
        front.rpc.ok("trace_enable_tpoint_group", &json!({ "name": group }));
    }
    let mut read = || {
        let cid = driver.submit(&mut queue, &[block_io(IoOpcode::READ, 1, 0, 8, BASE + DATA)]);
        assert!(driver.complete(&mut queue).status.is_success());
        cid
    };
    let mut found = (Vec::new(), false);
    // The reactors learn of it within a moment, and the interrupt follows the completion.
    wait_for("a read with all of its records", secs(20), || {
        let (cid, all) = (read(), records(&front));
        let (names, related) = records_of(&all, cid);
        found = (names.into_iter().map(str::to_owned).collect(), related);
        found.0.len() >= STEPS.len()
    });
    assert_eq!(found, (STEPS.map(str::to_owned).to_vec(), true));

    for group in groups {
        front.rpc.ok("trace_disable_tpoint_group", &json!({ "name": group }));
    }
    wait_for("a read without records", secs(20), || {
        let cid = read();
        records_of(&records(&front), cid).0.is_empty()
    });
}
