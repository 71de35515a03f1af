//! Commands that only the pool can carry out, and those that a stock target has not.

use nvme_spec::IoOpcode;
use nvme_spec::log::AnaState;
use pool_faults::{Namespace, On, Options, ScriptedTarget};
use serde_json::json;
use serial_test::serial;

use crate::support::controller::{Controller, Front};
use crate::support::nvme::{BASE, Command, Completion, DATA, Driver, WRITE};
use crate::support::{paths, secs, shared, wait_for};

const WRITE_UNCORRECTABLE: u8 = 0x04;
const VERIFY: u8 = 0x0c;
const GET_LOG_PAGE: u8 = 0x02;
const INVALID_OPCODE: u16 = 0x01;
const INVALID_FIELD: u16 = 0x02;
/// Do Not Retry, which our own refusals have; it does not come with a status through the bdev layer.
const DNR: u16 = 1 << 14;

/// Returns a controller with a namespace of a pool and one in memory.
fn controller<'a>(front: &'a Front, name: &str, vendor_specific_commands: bool) -> Controller<'a> {
    let dir = paths::new_dir(name);
    let params = json!({ "name": name, "traddr": dir, "vendor_specific_commands": vendor_specific_commands });
    let told = front.rpc.ok("courier_controller_create", &params);
    assert_eq!(told["vendor_specific_commands"], json!(vendor_specific_commands));
    let controller = Controller::existing(front, name, &dir);
    for bdev in ["disk", "memory"] {
        controller.add(bdev);
    }
    controller
}

fn front() -> Front {
    let front = Front::start_with_pools();
    front.rpc.ok("courier_pool_create", &shared::pool().params("p"));
    front.rpc.ok("bdev_courier_create", &json!({ "name": "disk", "pool": "p", "nsid": 1 }));
    front.malloc("memory", 16, 512);
    front
}

fn command(opcode: u8, nsid: u32, cdw10: u32) -> Command {
    Command { opcode, nsid, prp1: BASE + DATA, prp2: BASE + DATA + 4096, cdw10, ..Command::default() }
}

/// Returns the status came from the pool.
fn is_the_pools(done: Completion) -> bool {
    done.code() == INVALID_OPCODE && done.status & DNR == 0
}

/// Returns the effects of I/O commands 0 to 255, as the log tells them.
fn effects(driver: &mut Driver) -> Vec<u32> {
    let log = Command { opcode: GET_LOG_PAGE, nsid: 0, prp1: BASE + DATA, cdw10: 1023 << 16 | 5, ..Command::default() };
    assert!(driver.admin(log).succeeded());
    let dword = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("four bytes"));
    driver.memory.read_vec(DATA + 1024, 1024).chunks(4).map(dword).collect()
}

#[test]
#[serial]
fn vendor_specific_commands_reach_the_pool_only_if_the_operator_lets_them() {
    let front = front();
    for allowed in [false, true] {
        let controller = controller(&front, if allowed { "open" } else { "shut" }, allowed);
        let mut driver = Driver::start(controller.dir());
        let mut queue = driver.create_queue(1, 16, None);
        let told: Vec<bool> = effects(&mut driver)[0x80..].iter().map(|effects| *effects != 0).collect();
        for (opcode, ndt) in [(0x80, 0), (0xc1, 1024), (0xc2, 1024), (0xfe, 1), (0xfd, 0)] {
            let done = driver.run(&mut queue, command(opcode, 1, ndt));
            assert_eq!(is_the_pools(done), allowed, "{opcode:#x} ended with {done:?}");
            assert_eq!(told[usize::from(opcode) - 0x80], allowed, "{opcode:#x}");
            let done = driver.run(&mut queue, command(opcode, 2, ndt));
            assert_eq!((done.code(), is_the_pools(done)), (INVALID_OPCODE, false), "a disk in memory has none");
        }
        if allowed {
            for refused in [command(0xc1, 1, 1 << 16), command(0xc0, 1, 1), Command { cdw11: 1, ..command(0xc1, 1, 1) }]
            {
                assert_eq!(driver.run(&mut queue, refused).code(), INVALID_FIELD, "{refused:?}");
            }
        }
        let both_ways = driver.run(&mut queue, command(0xc3, 1, 1));
        assert_eq!((both_ways.code(), is_the_pools(both_ways)), (INVALID_OPCODE, false));
        driver.check(&mut queue, 3);
        drop(driver);
        controller.delete();
    }
    front.assert_alive();
}

/// A stock target says of itself that it has neither.
#[test]
#[serial]
fn what_the_pool_does_not_have_is_told_by_nobody_and_refused_here() {
    let front = front();
    let controller = controller(&front, "c", true);
    let mut driver = Driver::start(controller.dir());
    let mut queue = driver.create_queue(1, 16, None);
    let oncs = driver.identify(1, 0)[520];
    assert_eq!(oncs & 0b1000_0010, 0, "ONCS is {oncs:#x}");
    let effects = effects(&mut driver);
    for opcode in [WRITE_UNCORRECTABLE, VERIFY] {
        assert_eq!(effects[usize::from(opcode)], 0, "{opcode:#x}");
        for nsid in [1, 2] {
            let done = driver.run(&mut queue, Command::io(opcode, nsid, 0, 8, 0));
            assert_eq!((done.code(), is_the_pools(done)), (INVALID_OPCODE, false), "{opcode:#x}");
        }
    }
    drop(driver);
    front.assert_alive();
}

#[test]
#[serial]
fn a_write_cache_can_be_turned_off_while_writes_go_on() {
    const SET_FEATURES: u8 = 0x09;
    const VOLATILE_WRITE_CACHE: u32 = 0x06;
    let front = front();
    let controller = controller(&front, "c", false);
    let mut driver = Driver::start(controller.dir());
    let mut queue = driver.create_queue(1, 16, None);
    for on in [0, 1, 0] {
        let set = Command { opcode: SET_FEATURES, cdw10: VOLATILE_WRITE_CACHE, cdw11: on, ..Command::default() };
        assert!(driver.admin(set).succeeded());
        for round in 0..20 {
            driver.check(&mut queue, round);
        }
    }
    drop(driver);
    front.assert_alive();
}

/// What is told of a namespace's access is that of the way to it, which is one: a host that were told that it is
/// inaccessible would have no other, and some give up after ANATT what comes to its end when the pool is back.
#[test]
#[serial]
fn while_a_pool_is_inaccessible_its_drive_stays_optimized_and_the_guests_io_waits() {
    const OPTIMIZED: u8 = 1;
    let target =
        ScriptedTarget::with(Options { ana: true, ..Options::default() }, [(1, Namespace::new(512, 2_048, 1))]);
    let front = Front::start_with_pools();
    let pool = json!({
        "name": "p", "trtype": "tcp", "traddr": "127.0.0.1", "trsvcid": target.port().to_string(), "subnqn": target.nqn(),
    });
    front.rpc.ok("courier_pool_create", &pool);
    front.rpc.ok("bdev_courier_create", &json!({ "name": "disk", "pool": "p", "nsid": 1 }));
    let controller = front.controller("c", &["disk"]);
    let mut driver = Driver::start(controller.dir());
    let mut queue = driver.create_queue(1, 16, None);
    let state = |driver: &mut Driver| {
        let log = Command { opcode: GET_LOG_PAGE, prp1: BASE + DATA, cdw10: 63 << 16 | 0x0c, ..Command::default() };
        assert!(driver.admin(log).succeeded());
        driver.memory.read_vec(DATA + 32, 1)[0]
    };
    assert_eq!(state(&mut driver), OPTIMIZED);
    target.set_ana(1, AnaState::INACCESSIBLE);
    target.ana_changed();
    let told = || front.rpc.ok("courier_pool_get", &json!({ "name": "p" }))[0]["namespaces"][0]["ana_state"].clone();
    wait_for("the pool's state to be known", secs(10), || told() == json!("inaccessible"));
    driver.submit(&mut queue, &[Command::io(WRITE, 1, 0, 1, BASE + DATA)]);
    assert!(target.wait_for(&On::io(IoOpcode::WRITE), 3, secs(10)), "it is tried again");
    assert_eq!(state(&mut driver), OPTIMIZED);
    assert!(driver.peek(&queue).is_none(), "the guest is told of a failure");
    target.set_ana(1, AnaState::OPTIMIZED);
    target.ana_changed();
    assert!(driver.complete(&mut queue).succeeded());
    front.assert_alive();
}
