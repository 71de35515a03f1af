//! A controller that is enabled where its admin queues cannot be, and one that is shut down.

use std::thread::sleep;
use std::time::{Duration, Instant};

use nvme_spec::Sqe;
use nvme_spec::feature::FeatureId;
use nvme_spec::identify::Cns;
use nvme_spec::register::{Cc, Csts, ShutdownNotification, ShutdownStatus};
use serde_json::json;
use serial_test::serial;

use crate::support::controller::{Controller, Front, FrontEnd};
use crate::support::nvme::{BASE, CC, CC_ENABLE, Driver, FATAL, PAGE, READY, SIZE};
use crate::support::vfio_user::{BAR0, DMA_MAP, Memory, dma_map};
use crate::support::{secs, wait_for};

/// CC.SHN: a normal shutdown.
const SHN_NORMAL: u32 = Cc::new().with_shn(ShutdownNotification::NORMAL).into_bits();
/// CSTS.SHST.
const SHST: u32 = Csts::new().with_shst(ShutdownStatus(0b11)).into_bits();
const OCCURRING: u32 = Csts::new().with_shst(ShutdownStatus::OCCURRING).into_bits();
const COMPLETE: u32 = Csts::new().with_shst(ShutdownStatus::COMPLETE).into_bits();

/// Where no memory is at first.
const OTHER: u64 = 1 << 34;
const LEN: u64 = 1 << 20;

#[test]
#[serial]
fn admin_queues_where_they_cannot_be_are_told_by_csts_and_the_log_until_a_reset() {
    if FrontEnd::chosen() == FrontEnd::Stock {
        return;
    }
    let front = Front::start();
    front.malloc("disk", 16, 512);
    let controller = front.controller("lost", &["disk"]);
    let mut driver = Driver::connect(controller.dir());
    driver.client.call(DMA_MAP, &dma_map(OTHER, LEN, 0), &[]).expect("memory without a file can be mapped");
    driver.client.serve(OTHER, Memory::new(LEN));
    for (sq, cq, bad) in [
        (OTHER, BASE + PAGE, OTHER),
        (BASE, OTHER + PAGE, OTHER + PAGE),
        (BASE + SIZE, BASE, BASE + SIZE),
        (BASE, PAGE, PAGE),
    ] {
        let csts = driver.enable_at(CC_ENABLE, sq, cq);
        assert_eq!(csts & (READY | FATAL), FATAL, "queues at {sq:#x} and {cq:#x}");
        let sentence = format!("its admin queue cannot be at {bad:#x}");
        assert!(front.process.output().contains(&sentence), "the log does not say: {sentence}");
        driver.enable();
        driver.identify(Cns::CONTROLLER, 0);
    }
    drop(driver);
    controller.delete();
}

/// A VMM that rearranges its memory takes it away for a moment.
#[test]
#[serial]
fn admin_queues_whose_memory_comes_a_moment_later_are_served() {
    if FrontEnd::chosen() == FrontEnd::Stock {
        return;
    }
    let front = Front::start();
    front.malloc("disk", 16, 512);
    let controller = front.controller("late", &["disk"]);
    let mut driver = Driver::start(controller.dir());
    driver.disable();
    driver.client.unmap(BASE, SIZE).expect("memory can be unmapped");
    driver.client.write(BAR0, CC, &CC_ENABLE.to_le_bytes()).expect("CC can be written");
    sleep(Duration::from_millis(200));
    assert_eq!(driver.csts() & (READY | FATAL), 0, "its memory is waited for");
    driver.memory.write(0, &vec![0; 1 << 16]);
    let file = driver.memory.file.try_clone().expect("a descriptor");
    driver.client.map(BASE, SIZE, &file, 0).expect("memory can be mapped");
    wait_for("CSTS.RDY", secs(2), || driver.csts() & READY != 0);
    driver.admin = Driver::queue(0, 32);
    driver.identify(Cns::CONTROLLER, 0);

    // A reset while it is waited for is over at once.
    driver.disable();
    driver.client.unmap(BASE, SIZE).expect("memory can be unmapped");
    driver.client.write(BAR0, CC, &CC_ENABLE.to_le_bytes()).expect("CC can be written");
    driver.disable();
    sleep(Duration::from_millis(1200));
    assert_eq!(driver.csts(), 0, "the life that has ended fails");
    drop(driver);
    controller.delete();
}

/// Tells the controller that the power is to go.
#[track_caller]
fn shut_down(driver: &mut Driver) {
    driver.client.write(BAR0, CC, &(CC_ENABLE | SHN_NORMAL).to_le_bytes()).expect("CC can be written");
}

/// A front end with a bdev whose flush can be held.
fn front_with_cache() -> Front {
    let front = Front::start();
    front.malloc("cache", 16, 512);
    front.rpc.ok("bdev_error_create", &json!({ "base_name": "cache" }));
    front
}

/// Returns a drive that is that bdev, and its host.
fn drive_with_cache(front: &Front) -> (Controller<'_>, Driver) {
    let controller = front.controller("flushed", &["EE_cache"]);
    let mut driver = Driver::start(controller.dir());
    driver.identify(Cns::CONTROLLER, 0);
    (controller, driver)
}

/// The bdev's I/O of a kind waits from now on; with `clear`, none does.
#[track_caller]
fn hold(front: &Front, io: &str) {
    let params = json!({ "name": "EE_cache", "io_type": io, "error_type": "nomem", "num": 1_000_000_000 });
    front.rpc.ok("bdev_error_inject_error", &params);
}

#[test]
#[serial]
fn a_shutdown_waits_for_the_caches_of_namespaces_but_not_for_ever() {
    if FrontEnd::chosen() == FrontEnd::Stock {
        return;
    }
    let front = front_with_cache();
    let (controller, mut driver) = drive_with_cache(&front);
    shut_down(&mut driver);
    wait_for("a shutdown", secs(1), || driver.csts() & SHST == COMPLETE);

    driver.enable();
    hold(&front, "flush");
    shut_down(&mut driver);
    sleep(Duration::from_millis(700));
    assert_eq!(driver.csts() & SHST, OCCURRING, "the cache is not written back yet");
    hold(&front, "clear");
    wait_for("a shutdown", secs(2), || driver.csts() & SHST == COMPLETE);

    driver.enable();
    hold(&front, "flush");
    let start = Instant::now();
    shut_down(&mut driver);
    wait_for("a shutdown", secs(8), || driver.csts() & SHST == COMPLETE);
    let took = start.elapsed();
    assert!(took > secs(3) && took < secs(5), "RTD3E is 5 s, and it took {took:?}");
    assert!(front.process.output().contains("the shutdown is over before all caches are written back"));
    // What is left of it holds up neither a reset, nor the next life, nor the end.
    let start = Instant::now();
    driver.enable();
    assert!(start.elapsed() < secs(3), "a reset took {:?}", start.elapsed());
    shut_down(&mut driver);
    sleep(Duration::from_millis(50));
    drop(driver);
    controller.delete();
    hold(&front, "clear");
    front.assert_alive();
}

#[test]
#[serial]
fn a_shutdown_in_the_write_that_resets_is_not_complete_before_the_caches_are_written_back() {
    if FrontEnd::chosen() == FrontEnd::Stock {
        return;
    }
    let front = front_with_cache();
    let (controller, mut driver) = drive_with_cache(&front);
    hold(&front, "flush");
    driver.client.write(BAR0, CC, &SHN_NORMAL.to_le_bytes()).expect("CC can be written");
    assert_eq!(driver.csts() & SHST, OCCURRING);
    wait_for("CSTS.RDY to be 0", secs(5), || driver.csts() & READY == 0);
    assert_eq!(driver.csts() & SHST, OCCURRING, "the cache is not written back yet");
    hold(&front, "clear");
    wait_for("a shutdown", secs(5), || driver.csts() & SHST == COMPLETE);
    driver.enable();
    assert_eq!(driver.csts() & SHST, 0, "the next life is not shut down");
    driver.identify(Cns::CONTROLLER, 0);
    drop(driver);
    controller.delete();
    front.assert_alive();
}

#[test]
#[serial]
fn aborts_of_commands_whose_queue_goes_leave_room_for_others() {
    let front = Front::start();
    front.malloc("disk", 16, 512);
    let controller = front.controller("aborted", &["disk"]);
    let mut driver = Driver::start(controller.dir());
    for round in 0..8 {
        driver.create_queue(1, 16, None);
        let abort = Sqe::abort(1, round);
        let delete = Sqe::delete_io_sq(1);
        let mut queue = std::mem::replace(&mut driver.admin, Driver::queue(0, 32));
        let commands = [abort, delete, abort, abort, abort, abort];
        for done in driver.run_all(&mut queue, &commands) {
            assert!(done.status.is_success(), "round {round}: {done:?}");
        }
        driver.admin = queue;
        assert!(driver.admin(Sqe::delete_io_cq(1)).status.is_success());
    }
    drop(driver);
    controller.delete();
}

/// Each of them is something that all reactors are to hear of.
#[test]
#[serial]
fn interrupt_coalescing_that_is_set_without_end_ends_with_what_was_set_last() {
    let front = Front::start_on("0x3");
    front.malloc("disk", 16, 512);
    let controller = front.controller("flood", &["disk"]);
    let mut driver = Driver::start(controller.dir());
    let set = |value| Sqe::set_features(FeatureId::INTERRUPT_COALESCING, value);
    let mut queue = std::mem::replace(&mut driver.admin, Driver::queue(0, 32));
    for round in 0..300_u32 {
        let commands: Vec<Sqe> = (0..30).map(|at| set((round * 30 + at) & 0xffff)).collect();
        for done in driver.run_all(&mut queue, &commands) {
            assert!(done.status.is_success(), "{done:?}");
        }
    }
    driver.admin = queue;
    let get = Sqe::get_features(FeatureId::INTERRUPT_COALESCING);
    assert_eq!(driver.admin(get).dw0, 300 * 30 - 1);
    assert!(driver.admin(set(0)).status.is_success());
    let mut queue = driver.create_queue(1, 16, None);
    driver.check(&mut queue, 1);
    drop(driver);
    controller.delete();
    front.assert_alive();
}
