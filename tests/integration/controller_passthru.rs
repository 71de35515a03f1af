//! Commands that only the pool can carry out, and those that a stock target has not.

use nvme_spec::feature::FeatureId;
use nvme_spec::identify::{Cns, IdentifyController};
use nvme_spec::log::{AnaGroup, AnaHeader, AnaState, CommandEffects, CommandEffectsLog, LogId, TABLE_ENTRIES};
use nvme_spec::{Cqe, IoOpcode, Sqe, Status, StatusCode};
use pool_faults::{Namespace, On, Options, ScriptedTarget};
use serde_json::json;
use serial_test::serial;

use crate::support::controller::{Controller, Front};
use crate::support::nvme::{BASE, DATA, Driver, block_io};
use crate::support::{paths, secs, shared, wait_for};

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

fn command(opcode: IoOpcode, nsid: u32, cdw10: u32) -> Sqe {
    Sqe { cdw10, ..Sqe::io(opcode, nsid) }.with_prps(BASE + DATA, BASE + DATA + 4096)
}

/// Returns whether the status came from the pool. Our own refusals have Do Not Retry, which does not come with a status
/// through the bdev layer.
fn is_the_pools(done: Cqe) -> bool {
    done.status.code() == StatusCode::INVALID_OPCODE && !done.status.dnr()
}

/// Returns whether the command was refused as one that is not known, and not by the pool.
fn is_our_refusal(done: Cqe) -> bool {
    done.status == Status::INVALID_OPCODE.with_phase(done.status.phase())
}

/// Returns the effects of I/O commands 0 to 255, as the log tells them.
fn effects(driver: &mut Driver) -> [CommandEffects; TABLE_ENTRIES] {
    let log = Sqe::get_log_page(LogId::COMMAND_EFFECTS, 0, 4_096).with_prps(BASE + DATA, 0);
    assert!(driver.admin(Sqe { nsid: 0, ..log }).status.is_success());
    let log: CommandEffectsLog = driver.structure(DATA);
    log.iocs
}

#[test]
#[serial]
fn vendor_specific_commands_reach_the_pool_only_if_the_operator_lets_them() {
    let front = front();
    for allowed in [false, true] {
        let controller = controller(&front, if allowed { "open" } else { "shut" }, allowed);
        let mut driver = Driver::start(controller.dir());
        let mut queue = driver.create_queue(1, 16, None);
        let told = effects(&mut driver).map(|effects| effects.csupp());
        for (opcode, ndt) in [(0x80, 0), (0xc1, 1024), (0xc2, 1024), (0xfe, 1), (0xfd, 0)] {
            let opcode = IoOpcode(opcode);
            let done = driver.run(&mut queue, command(opcode, 1, ndt));
            assert_eq!(is_the_pools(done), allowed, "{opcode:?} ended with {done:?}");
            assert_eq!(told[usize::from(opcode.0)], allowed, "{opcode:?}");
            let done = driver.run(&mut queue, command(opcode, 2, ndt));
            assert!(is_our_refusal(done), "a disk in memory has none: {done:?}");
        }
        if allowed {
            let [without_data, from_host] = [0xc0, 0xc1].map(IoOpcode);
            let good = command(from_host, 1, 1);
            for refused in [command(from_host, 1, 1 << 16), command(without_data, 1, 1), Sqe { cdw11: 1, ..good }] {
                assert_eq!(driver.run(&mut queue, refused).status.code(), StatusCode::INVALID_FIELD, "{refused:?}");
            }
        }
        let both_ways = driver.run(&mut queue, command(IoOpcode(0xc3), 1, 1));
        assert!(is_our_refusal(both_ways), "{both_ways:?}");
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
    driver.identify(Cns::CONTROLLER, 0);
    let identity: IdentifyController = driver.structure(DATA);
    assert!(!identity.oncs.nvmwusv() && !identity.oncs.nvmvfys(), "{:?}", identity.oncs);
    let effects = effects(&mut driver);
    for opcode in [IoOpcode::WRITE_UNCORRECTABLE, IoOpcode::VERIFY] {
        assert!(!effects[usize::from(opcode.0)].csupp(), "{opcode:?}");
        for nsid in [1, 2] {
            let done = driver.run(&mut queue, block_io(opcode, nsid, 0, 8, 0));
            assert!(is_our_refusal(done), "{opcode:?}: {done:?}");
        }
    }
    drop(driver);
    front.assert_alive();
}

#[test]
#[serial]
fn a_write_cache_can_be_turned_off_while_writes_go_on() {
    let front = front();
    let controller = controller(&front, "c", false);
    let mut driver = Driver::start(controller.dir());
    let mut queue = driver.create_queue(1, 16, None);
    for on in [0, 1, 0] {
        let set = Sqe::set_features(FeatureId::VOLATILE_WRITE_CACHE, on);
        assert!(driver.admin(set).status.is_success());
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
        let log = Sqe::get_log_page(LogId::ANA, 0, 256).with_prps(BASE + DATA, 0);
        assert!(driver.admin(Sqe { nsid: 0, ..log }).status.is_success());
        let first_group = DATA + size_of::<AnaHeader>() as u64;
        let group: AnaGroup = driver.structure(first_group);
        group.state
    };
    assert_eq!(state(&mut driver), AnaState::OPTIMIZED);
    target.set_ana(1, AnaState::INACCESSIBLE);
    target.ana_changed();
    let told = || front.rpc.ok("courier_pool_get", &json!({ "name": "p" }))[0]["namespaces"][0]["ana_state"].clone();
    wait_for("the pool's state to be known", secs(10), || told() == json!("inaccessible"));
    driver.submit(&mut queue, &[block_io(IoOpcode::WRITE, 1, 0, 1, BASE + DATA)]);
    assert!(target.wait_for(&On::io(IoOpcode::WRITE), 3, secs(10)), "it is tried again");
    assert_eq!(state(&mut driver), AnaState::OPTIMIZED);
    assert!(driver.peek(&queue).is_none(), "the guest is told of a failure");
    target.set_ana(1, AnaState::OPTIMIZED);
    target.ana_changed();
    assert!(driver.complete(&mut queue).status.is_success());
    front.assert_alive();
}
