//! Bad input to every RPC method of controllers: a clear error, and nothing half made. And what they save.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nvme_spec::identify::{Cns, IdentifyController};
use nvme_spec::register::Version;
use serde_json::{Value, json};
use serial_test::serial;

use crate::support::app::{App, Program};
use crate::support::controller::Front;
use crate::support::nvme::{DATA, Driver};
use crate::support::{paths, secs, wait_for};

/// The controller that is there.
const UUID: &str = "11111111-2222-4333-8444-555555555555";

/// A front end with bdevs `disk` and `other`, and a controller `c` in a folder, with `disk` as its namespace 1.
fn prepared(dir: &Path) -> Front {
    let front = Front::start();
    front.malloc("disk", 16, 512);
    front.malloc("other", 16, 4_096);
    front.rpc.ok("courier_controller_create", &json!({ "name": "c", "traddr": dir, "uuid": UUID }));
    front.rpc.ok("courier_controller_add_ns", &json!({ "name": "c", "bdev_name": "disk" }));
    front
}

/// What must be the same before and after a call that failed: controllers, bdevs with who has claimed them, files.
fn state(front: &Front, dir: &Path) -> (Value, Value, Vec<String>) {
    let mut files: Vec<String> = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("it is a folder").flatten() {
            files.push(entry.path().display().to_string());
            if entry.path().is_dir() {
                folders.push(entry.path());
            }
        }
    }
    files.sort();
    let rpc = &front.rpc;
    (rpc.ok("courier_controller_get", &Value::Null), rpc.ok("bdev_get_bdevs", &Value::Null), files)
}

/// Every call fails with its words in the message, and leaves everything as it was.
#[track_caller]
fn all_fail(front: &Front, dir: &Path, method: &str, cases: &[(Value, &[&str])]) {
    let before = state(front, dir);
    for (params, words) in cases {
        front.rpc.fails(method, params, words);
        assert_eq!(state(front, dir), before, "{method} {params} left something behind");
    }
}

/// Every call works, and what it made can be deleted.
#[track_caller]
fn all_work(front: &Front, cases: &[Value]) {
    for params in cases {
        let made = front.rpc.ok("courier_controller_create", params);
        assert_eq!(made["name"], params["name"], "{params}: {made}");
        front.rpc.ok("courier_controller_delete", &json!({ "name": params["name"] }));
    }
}

#[test]
#[serial]
fn bad_parameters_of_controller_create_are_refused_by_name_and_value() {
    let dir = paths::new_dir("bad");
    let taken = dir.join("c");
    let front = prepared(&taken);
    let (file, long) = (dir.join("file"), "n".repeat(256));
    fs::write(&file, "").expect("a file can be written");
    // With `/cntrl` a path of 108 bytes: one more than a socket's path may have.
    let root = dir.display().to_string();
    let folder = |bytes: usize| format!("{root}/{}", "d".repeat(bytes - root.len() - 1));
    let (too_long, longest) = (folder(102), folder(101));
    let with = |changes: Value| {
        let mut params = json!({ "name": "d", "traddr": dir.join("d") });
        for (key, value) in changes.as_object().expect("an object") {
            params[key] = value.clone();
        }
        params
    };
    let taken = taken.display().to_string();
    let of_c: &[&str] = &["traddr", &taken];
    let cases: Vec<(Value, &[&str])> = vec![
        (Value::Null, &["missing"]),
        (json!([1]), &["object"]),
        (json!({ "traddr": dir.join("d") }), &["name", "missing"]),
        (json!({ "name": "d" }), &["traddr", "missing"]),
        (with(json!({ "name": 7 })), &["name", "7"]),
        (with(json!({ "name": "" })), &["name"]),
        (with(json!({ "name": long })), &["name", "255"]),
        (with(json!({ "name": "a\nb" })), &["name"]),
        (with(json!({ "name": "c" })), &["'c'", "exists"]),
        (with(json!({ "traddr": 7 })), &["traddr", "7"]),
        (with(json!({ "traddr": "" })), &["traddr"]),
        (with(json!({ "traddr": too_long })), &["traddr", "107"]),
        (with(json!({ "traddr": "/tmp/".to_owned() + &long })), &["traddr", "107"]),
        (with(json!({ "traddr": "/tmp/a\u{0}b" })), &["traddr"]),
        (with(json!({ "traddr": file })), &["traddr", "bad", "directory"]),
        (with(json!({ "traddr": file.join("d") })), &["traddr", "file"]),
        (with(json!({ "traddr": "/proc/courier" })), &["traddr", "/proc/courier"]),
        (with(json!({ "traddr": taken })), of_c),
        (with(json!({ "uuid": "x" })), &["uuid", "x"]),
        (with(json!({ "uuid": 7 })), &["uuid", "7"]),
        (with(json!({ "uuid": UUID })), &["uuid", UUID]),
        (with(json!({ "serial_number": "s".repeat(21) })), &["serial_number", "20"]),
        (with(json!({ "serial_number": "sé" })), &["serial_number", "ASCII"]),
        (with(json!({ "serial_number": 5 })), &["serial_number", "5"]),
        (with(json!({ "model_number": "m".repeat(41) })), &["model_number", "40"]),
        (with(json!({ "model_number": "m\u{7}" })), &["model_number", "ASCII"]),
        (with(json!({ "max_queues": 0 })), &["max_queues", "0", "128"]),
        (with(json!({ "max_queues": 129 })), &["max_queues", "129", "128"]),
        (with(json!({ "max_queues": -1 })), &["max_queues", "-1"]),
        (with(json!({ "max_queues": "4" })), &["max_queues", "\"4\""]),
        (with(json!({ "max_queues": 65_537 })), &["max_queues", "65537"]),
        (with(json!({ "max_queues": 1e30 })), &["max_queues"]),
        (with(json!({ "max_queue_depth": 1 })), &["max_queue_depth", "1", "1024"]),
        (with(json!({ "max_queue_depth": 1_025 })), &["max_queue_depth", "1025", "1024"]),
        (with(json!({ "max_queue_depth": 4_294_967_298_u64 })), &["max_queue_depth", "4294967298"]),
        (with(json!({ "cpumask": "0x8" })), &["cpumask", "0x8"]),
        (with(json!({ "cpumask": "[7]" })), &["cpumask", "[7]"]),
        (with(json!({ "cpumask": "what" })), &["cpumask", "what"]),
        (with(json!({ "cpumask": "0x0" })), &["cpumask", "0x0"]),
        (with(json!({ "cpumask": "0x".to_owned() + &"f".repeat(5_000) })), &["cpumask"]),
        (with(json!({ "cpumask": 2 })), &["cpumask", "2"]),
        (with(json!({ "subnqn": "nqn.2024-01.com.example:x" })), &["subnqn", "unknown"]),
    ];
    all_fail(&front, &dir, "courier_controller_create", &cases);
    all_work(
        &front,
        &[
            with(json!({})),
            with(json!({ "traddr": longest })),
            with(json!({ "serial_number": "s".repeat(20), "model_number": "m".repeat(40) })),
            with(json!({ "max_queues": 1, "max_queue_depth": 2 })),
            with(json!({ "max_queues": 128, "max_queue_depth": 1_024, "cpumask": "0x2" })),
            with(json!({ "cpumask": "[1]" })),
        ],
    );
}

#[test]
#[serial]
fn bad_parameters_of_the_other_controller_methods_are_refused_by_name_and_value() {
    let dir = paths::new_dir("bad");
    let front = prepared(&dir);
    let add = |changes: Value| {
        let mut params = json!({ "name": "c", "bdev_name": "other" });
        for (key, value) in changes.as_object().expect("an object") {
            params[key] = value.clone();
        }
        params
    };
    let cases: Vec<(Value, &[&str])> = vec![
        (Value::Null, &["missing"]),
        (json!({ "bdev_name": "other" }), &["name", "missing"]),
        (json!({ "name": "c" }), &["bdev_name"]),
        (add(json!({ "name": "d" })), &["'d'"]),
        (add(json!({ "name": 1 })), &["name", "1"]),
        (add(json!({ "bdev_name": "nothing" })), &["'nothing'"]),
        (add(json!({ "bdev_name": "" })), &["bdev_name"]),
        (add(json!({ "bdev_name": "", "wait": false })), &["bdev_name", "got \"\"", "0 bytes"]),
        (add(json!({ "bdev_name": "b".repeat(300), "wait": false })), &["bdev_name", "1 to 255 bytes", "300 bytes"]),
        (add(json!({ "bdev_name": 5 })), &["bdev_name", "5"]),
        (add(json!({ "nsid": 0 })), &["nsid", "0"]),
        (add(json!({ "nsid": 1 })), &["nsid", "1", "'disk'"]),
        (add(json!({ "nsid": 257 })), &["nsid", "257", "256"]),
        (add(json!({ "nsid": -1 })), &["nsid", "-1"]),
        (add(json!({ "nsid": "2" })), &["nsid", "\"2\""]),
        (add(json!({ "nsid": 4_294_967_295_u64 })), &["nsid", "4294967295"]),
        (add(json!({ "nsid": 4_294_967_298_u64 })), &["nsid", "4294967298"]),
        (add(json!({ "colour": "red" })), &["colour", "unknown"]),
    ];
    all_fail(&front, &dir, "courier_controller_add_ns", &cases);
    let cases: Vec<(Value, &[&str])> = vec![
        (json!({ "name": "c" }), &["nsid", "missing"]),
        (json!({ "nsid": 1 }), &["name", "missing"]),
        (json!({ "name": "d", "nsid": 1 }), &["'d'"]),
        (json!({ "name": "c", "nsid": 2 }), &["2", "'c'"]),
        (json!({ "name": "c", "nsid": 0 }), &["nsid", "0"]),
        (json!({ "name": "c", "nsid": "1" }), &["nsid", "\"1\""]),
        (json!({ "name": "c", "nsid": 4_294_967_297_u64 }), &["nsid", "4294967297"]),
        (json!({ "name": "c", "nsid": 1, "force": true }), &["force", "unknown"]),
    ];
    all_fail(&front, &dir, "courier_controller_remove_ns", &cases);
    let name_only: Vec<(Value, &[&str])> = vec![
        (Value::Null, &["name", "missing"]),
        (json!({ "name": 1 }), &["name", "1"]),
        (json!({ "name": "d" }), &["'d'"]),
        (json!({ "name": "c", "force": true }), &["force", "unknown"]),
    ];
    all_fail(&front, &dir, "courier_controller_delete", &name_only);
    all_fail(&front, &dir, "courier_controller_get", &name_only[1..]);

    assert_eq!(front.rpc.ok("courier_controller_add_ns", &add(json!({ "nsid": 256 }))), 256);
    front.rpc.ok("courier_controller_remove_ns", &json!({ "name": "c", "nsid": 256 }));
    front.rpc.ok("courier_controller_delete", &json!({ "name": "c" }));
    assert_eq!(front.rpc.ok("courier_controller_get", &Value::Null), json!([]));
}

#[test]
#[serial]
fn a_folder_is_made_and_what_was_left_of_a_killed_process_is_no_hindrance() {
    let dir = paths::new_dir("left").join("a").join("b");
    let front = Front::start();
    front.rpc.ok("courier_controller_create", &json!({ "name": "c", "traddr": dir }));
    Driver::start(&dir).identify(Cns::CONTROLLER, 0);
    front.process.kill();
    assert!(dir.join("cntrl").exists(), "a killed process cannot have tidied up");
    let again = Front::start();
    again.rpc.ok("courier_controller_create", &json!({ "name": "c", "traddr": dir }));
    Driver::start(&dir).identify(Cns::CONTROLLER, 0);
    // But not what is somebody's.
    let other = App::start(Program::Courier, "0x2", &[]);
    let text = dir.display().to_string();
    other.rpc.fails("courier_controller_create", &json!({ "name": "c", "traddr": dir }), &["traddr", &text]);
    Driver::start_within(&dir, secs(5)).identify(Cns::CONTROLLER, 0);
    fs::write(dir.join("precious"), "data").expect("a file can be written");
    again.rpc.ok("courier_controller_delete", &json!({ "name": "c" }));
    assert_eq!(fs::read_to_string(dir.join("precious")).expect("it is there"), "data");
    fs::write(dir.join("cntrl"), "data").expect("a file can be written");
    let file = json!({ "name": "c", "traddr": dir });
    again.rpc.fails("courier_controller_create", &file, &["traddr", "cntrl"]);
    assert_eq!(fs::read_to_string(dir.join("cntrl")).expect("it is there"), "data");
}

#[test]
#[serial]
fn what_save_config_writes_of_controllers_load_config_restores() {
    let dir = paths::new_dir("saved");
    let front = prepared(&dir.join("c"));
    let all = json!({
        "name": "all", "traddr": dir.join("all"), "uuid": "99999999-2222-4333-8444-555555555555",
        "serial_number": "SERIAL-1", "model_number": "A model of its own", "max_queues": 7, "max_queue_depth": 64,
        "cpumask": "0x2", "vendor_specific_commands": true, "prefault": true, "nvme_version": "1.4", "socket_owner": "root",
        "socket_group": "0", "socket_mode": "0640",
    });
    front.rpc.ok("courier_controller_create", &all);
    let add = json!({ "name": "all", "bdev_name": "other", "nsid": 17 });
    assert_eq!(front.rpc.ok("courier_controller_add_ns", &add), 17);
    front.rpc.ok("courier_controller_add_ns", &json!({ "name": "all", "bdev_name": "disk", "nsid": 3 }));
    let saved = front.rpc.ok("framework_get_config", &json!({ "name": "bdev" }));
    let told = front.rpc.ok("courier_controller_get", &Value::Null);
    let whole = save_config(&front);
    assert!(saved.is_array(), "{saved}");
    assert_eq!(front.shut_down(secs(20)).code(), Some(0), "{}", front.process.tail());

    let file = dir.join("config.json");
    fs::write(&file, &whole).expect("a file can be written");
    let second = App::start(Program::Courier, "0x2", &["-c", &file.display().to_string()]);
    assert_eq!(second.rpc.ok("courier_controller_get", &Value::Null), told);
    assert_eq!(save_config(&second), whole);
    let mut driver = Driver::start(&dir.join("all"));
    driver.identify(Cns::CONTROLLER, 0);
    let identity: IdentifyController = driver.structure(DATA);
    assert_eq!(identity.ver, Version::V1_4);
    let socket = fs::metadata(dir.join("all/cntrl")).expect("it is there");
    assert_eq!((socket.mode() & 0o7777, socket.uid(), socket.gid()), (0o640, 0, 0));
    assert_eq!(&identity.sn, b"SERIAL-1            ");
    assert_eq!(&identity.mn[..], format!("{:40}", "A model of its own").as_bytes());
    let list = driver.identify(Cns::ACTIVE_NAMESPACES, 0);
    assert_eq!(&list[..12], [3, 17, 0].map(u32::to_le_bytes).concat());
}

#[track_caller]
fn save_config(app: &App) -> String {
    let mut command = std::process::Command::new(paths::checkout().join("scripts/rpc.sh"));
    let output = command.arg("-s").arg(app.rpc.socket()).arg("save_config").output().expect("rpc.sh can be run");
    assert!(output.status.success(), "save_config: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A client is told of as it comes and goes.
#[test]
#[serial]
fn controller_get_tells_of_the_client_and_of_the_namespaces() {
    let dir = paths::new_dir("told");
    let front = prepared(&dir);
    let told = || front.rpc.ok("courier_controller_get", &json!({ "name": "c" }))[0].clone();
    let before = told();
    assert_eq!(before["connected"], false, "{before}");
    assert_eq!((&before["uuid"], &before["traddr"]), (&json!(UUID), &json!(dir)), "{before}");
    let namespaces = json!([{ "nsid": 1, "bdev_name": "disk", "blocks": 32_768, "block_size": 512 }]);
    for (key, value) in namespaces[0].as_object().expect("an object") {
        assert_eq!(&before["namespaces"][0][key], value, "{key} of {before}");
    }
    let driver = Driver::start(&dir);
    assert_eq!(told()["connected"], true, "{}", told());
    drop(driver);
    wait_for("the client to be gone", secs(5), || told()["connected"] == false);
}
