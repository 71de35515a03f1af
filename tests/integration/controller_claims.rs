//! Who may write to a controller's disk: its controllers alone.

use std::time::Duration;

use nvme_spec::IoOpcode;
use pool_faults::{Do, On, ScriptedTarget};
use serde_json::{Value, json};
use serial_test::serial;

use crate::support::controller::{Front, FrontEnd};
use crate::support::nvme::{BASE, DATA, Driver, Queue, block_io};
use crate::support::{secs, wait_for};

/// How long the application may take to end.
const LIMIT: Duration = Duration::from_secs(5);
/// Blocks that are looked at: where an lvstore has its superblock, and its metadata.
const BLOCKS: u32 = 2_048;
/// Blocks of a page.
const STEP: u16 = 8;

/// Writes what tells each page from the others.
fn fill(driver: &mut Driver, queue: &mut Queue) {
    for block in (0..BLOCKS).step_by(usize::from(STEP)) {
        driver.memory.write(DATA, &block.to_le_bytes().repeat(1_024));
        let done = driver.run(queue, block_io(IoOpcode::WRITE, 1, block, STEP, BASE + DATA));
        assert!(done.status.is_success(), "{done:?}");
    }
}

/// Asserts that each page is as it was written.
#[track_caller]
fn assert_unchanged(driver: &mut Driver, queue: &mut Queue) {
    for block in (0..BLOCKS).step_by(usize::from(STEP)) {
        let done = driver.run(queue, block_io(IoOpcode::READ, 1, block, STEP, BASE + DATA));
        assert!(done.status.is_success(), "{done:?}");
        assert_eq!(driver.memory.read_vec(DATA, 4_096), block.to_le_bytes().repeat(1_024), "block {block}");
    }
}

#[test]
#[serial]
fn an_lvstore_cannot_be_made_on_a_controllers_disk_of_which_not_a_block_changes_and_all_ends_in_time() {
    if FrontEnd::chosen() == FrontEnd::Stock {
        return;
    }
    let front = Front::start();
    front.malloc("disk", 64, 512);
    front.malloc("other", 64, 512);
    let controller = front.controller("c", &["disk", "other"]);
    let mut driver = Driver::start(controller.dir());
    let mut queue = driver.create_queue(1, 16, None);
    fill(&mut driver, &mut queue);
    let lvstore = |bdev: &str| json!({ "bdev_name": bdev, "lvs_name": "lvs" });
    front.rpc.fails("bdev_lvol_create_lvstore", &lvstore("disk"), &[]);
    front.rpc.fails("bdev_lvol_create_lvstore", &lvstore("other"), &[]);
    assert_unchanged(&mut driver, &mut queue);
    // Nothing of lvol's keeps the disks: they can be deleted, removed, and used for something else then.
    front.rpc.ok("bdev_malloc_delete", &json!({ "name": "disk" }));
    controller.remove(2);
    wait_for("the claim to end", secs(10), || front.rpc.call("bdev_lvol_create_lvstore", &lvstore("other")).is_ok());
    let status = front.shut_down(LIMIT);
    assert_eq!(status.code(), Some(0), "it ended with {status}\n{}", front.process.tail());
}

fn delay(name: &str, base: &str) -> Value {
    json!({
        "name": name, "base_bdev_name": base, "avg_read_latency": 1, "p99_read_latency": 1,
        "avg_write_latency": 1, "p99_write_latency": 1,
    })
}

#[test]
#[serial]
fn controllers_share_a_bdev_which_others_may_claim_when_the_last_controller_has_gone() {
    if FrontEnd::chosen() == FrontEnd::Stock {
        return;
    }
    let front = Front::start();
    front.malloc("disk", 64, 512);
    let one = front.controller("one", &["disk"]);
    let two = front.controller("two", &["disk"]);
    for (controller, seed) in [(&one, 1), (&two, 2)] {
        let mut driver = Driver::start(controller.dir());
        let mut queue = driver.create_queue(1, 16, None);
        driver.check(&mut queue, seed);
    }
    assert_eq!(front.bdev("disk")["claim_type"], "exclusive_write");
    one.delete();
    let lvstore = json!({ "bdev_name": "disk", "lvs_name": "lvs" });
    front.rpc.fails("bdev_lvol_create_lvstore", &lvstore, &[]);
    two.delete();
    wait_for("the claim to end", secs(10), || front.bdev("disk")["claimed"] == false);
    front.rpc.ok("bdev_lvol_create_lvstore", &lvstore);
    front.assert_alive();
}

#[test]
#[serial]
fn a_bdev_that_another_module_has_claimed_is_pending_with_the_reason_and_comes_when_the_claim_has_gone() {
    if FrontEnd::chosen() == FrontEnd::Stock {
        return;
    }
    let front = Front::start();
    front.malloc("under", 64, 512);
    front.malloc("store", 64, 512);
    front.rpc.ok("bdev_delay_create", &delay("slow", "under"));
    front.rpc.ok("bdev_lvol_create_lvstore", &json!({ "bdev_name": "store", "lvs_name": "lvs" }));
    let controller = front.controller("c", &[]);
    let told = || front.rpc.ok("courier_controller_get", &json!({ "name": "c" }))[0].clone();
    let add = |bdev: &str, wait: bool| json!({ "name": "c", "bdev_name": bdev, "wait": wait });
    for (nsid, bdev, module) in [(1, "under", "delay"), (2, "store", "lvol")] {
        let words = ["parameter `bdev_name`", bdev, "claimed it", &format!("'{module}'")];
        front.rpc.fails("courier_controller_add_ns", &add(bdev, true), &words);
        assert_eq!(front.rpc.ok("courier_controller_add_ns", &add(bdev, false)), nsid);
    }
    let pending = told()["pending_namespaces"].clone();
    for (at, bdev, module) in [(0, "under", "delay"), (1, "store", "lvol")] {
        assert_eq!(pending[at]["bdev_name"], bdev, "{pending}");
        let reason = pending[at]["reason"].as_str().unwrap_or_default();
        assert!(reason.contains(&format!("module '{module}' has claimed it")), "{pending}");
    }
    let saved = front.rpc.ok("framework_get_config", &json!({ "name": "courier_controllers" }));
    let saved = saved
        .as_array()
        .map_or(0, |calls| calls.iter().filter(|call| call["method"] == "courier_controller_add_ns").count());
    assert_eq!(saved, 2);

    front.rpc.ok("bdev_delay_delete", &json!({ "name": "slow" }));
    front.rpc.ok("bdev_lvol_delete_lvstore", &json!({ "lvs_name": "lvs" }));
    wait_for("the namespaces", secs(10), || told()["pending_namespaces"] == json!([]));
    assert_eq!(told()["namespaces"].as_array().map(Vec::len), Some(2));
    front.rpc.fails("bdev_delay_create", &delay("again", "under"), &[]);
    let lines = |words: &str| front.process.output().lines().filter(|line| line.contains(words)).count();
    assert_eq!(lines("is waited for"), 2, "{}", front.process.tail());
    controller.delete();
    front.assert_alive();
}

/// lvol has a new bdev open for writing while it looks for an lvstore there, however long that takes.
#[test]
#[serial]
fn a_bdev_that_is_still_examined_becomes_a_namespace_at_once() {
    if FrontEnd::chosen() == FrontEnd::Stock {
        return;
    }
    let (target, front) = (ScriptedTarget::new(), Front::start_with_pools());
    let pool = json!({
        "name": "p", "trtype": "tcp", "traddr": "127.0.0.1", "trsvcid": target.port().to_string(), "subnqn": target.nqn(),
    });
    front.rpc.ok("courier_pool_create", &pool);
    target.on(On::io(IoOpcode::READ), Do::Hold);
    front.rpc.ok("bdev_courier_create", &json!({ "name": "disk", "pool": "p", "nsid": 1 }));
    assert!(target.wait(secs(10), |target| target.held() > 0), "it is examined");
    let controller = front.controller("c", &["disk"]);
    target.behave();
    target.release();
    let mut driver = Driver::start(controller.dir());
    let mut queue = driver.create_queue(1, 16, None);
    driver.check(&mut queue, 1);
    front.assert_alive();
}
