//! Namespaces that come late, go, are replaced by others, or are lied about; statuses that pass.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nvme_spec::identify::{Cns, IdentifyNamespace};
use nvme_spec::log::{AnaGroup, AnaHeader, AnaState, LogId};
use nvme_spec::register::Version;
use nvme_spec::{AdminOpcode, IoOpcode, Status, StatusCode};
use pool_faults::{Cut, Do, Namespace, On, Options, ScriptedTarget};
use serde_json::{Value, json};
use serial_test::serial;
use spdk::bdev_client::Op;
use zerocopy::{FromZeros, IntoBytes};

use crate::common::disk::{Disk, Layout, Pending};
use crate::common::harness::{PATIENCE, wait_until};
use crate::common::target::NS_512;
use crate::common::{Bdev, POOL, Pool, Rig, rig};

const BLOCK: usize = 512;
const BLOCKS: u64 = 2048;
/// The UUID of the namespace that is there at first is all this.
const RIGHT: u8 = 7;
/// That of another.
const OTHER: u8 = 9;

fn namespace(id: u8) -> Namespace {
    Namespace::new(512, BLOCKS, id)
}

fn target_with(options: Options) -> ScriptedTarget {
    ScriptedTarget::with(options, [(1, namespace(RIGHT))])
}

/// A pool of a scripted target whose namespace 1 is an open bdev, through which I/O has gone.
struct Scene {
    rig: Rig,
    target: ScriptedTarget,
    disk: Option<Disk>,
    bdev: Option<Bdev>,
    pool: Option<Pool>,
}

impl Scene {
    fn new() -> Self {
        Self::with(Options::default(), json!({}))
    }

    fn with(options: Options, more: Value) -> Self {
        let (rig, target) = (rig(), target_with(options));
        let pool = rig.scripted_pool(&target, target.port(), more);
        let bdev = rig.bdev(&pool.name, 1);
        let disk = Disk::open(&bdev.name);
        assert!(disk.read(0, &Layout::whole(BLOCK)).is_ok());
        Self { rig, target, disk: Some(disk), bdev: Some(bdev), pool: Some(pool) }
    }

    fn disk(&self) -> &Disk {
        self.disk.as_ref().expect("it is open")
    }

    fn pool(&self) -> &Pool {
        self.pool.as_ref().expect("it is there")
    }

    fn start(&self, op: Op, byte: u8) -> Pending {
        self.disk().start(op, 8, 1, &Layout::whole(BLOCK), &[byte; BLOCK]).expect("it is taken")
    }

    fn bdev_is_there(&self) -> bool {
        let name = &self.bdev.as_ref().expect("it was made").name;
        self.rig.app.rpc("bdev_get_bdevs", json!({ "name": name })).is_ok()
    }

    /// The target is away from now on.
    fn go_away(&self) {
        self.target.stop_listening();
        self.target.cut_all(Cut::Close);
    }

    /// Waits until the target has answered `count` more lists of namespaces.
    fn wait_for_looks(&self, count: usize) {
        let lists = self.target.count(&On::identify(Cns::ACTIVE_NAMESPACES)) + count;
        assert!(self.target.wait_for(&On::identify(Cns::ACTIVE_NAMESPACES), lists, PATIENCE), "it looks again");
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // Whoever uses a thing goes before it.
        self.target.behave();
        self.target.set_ana(1, AnaState::OPTIMIZED);
        self.target.listen_again();
        drop((self.disk.take(), self.bdev.take()));
        drop(self.pool.take());
    }
}

#[test]
#[serial]
fn what_was_held_while_its_namespace_became_another_fails_and_is_never_sent_to_the_stranger() {
    let mut scene = Scene::new();
    scene.target.on(On::io(IoOpcode::WRITE), Do::Nothing);
    let sent = scene.start(Op::Write, 1);
    assert!(scene.target.wait_for(&On::io(IoOpcode::WRITE), 1, PATIENCE));
    scene.go_away();
    let (held, read) = (scene.start(Op::Write, 2), scene.start(Op::Read, 0));
    scene.target.set_namespace(1, namespace(OTHER));
    scene.target.behave();
    scene.target.forget_commands();
    scene.target.listen_again();
    for io in [sent, held, read] {
        assert!(io.wait().result.is_err());
    }
    assert!(scene.disk().read(0, &Layout::whole(BLOCK)).is_err(), "what comes later fails, too");
    assert_eq!(scene.target.count(&On::any_io().nsid(1)), 0, "{:?}", scene.target.commands());
    assert!(scene.target.read(1, 0, BLOCKS).iter().all(|&byte| byte == 0));
    scene.disk.take();
    wait_until("the bdev is gone", || !scene.bdev_is_there());
}

#[test]
#[serial]
fn io_waits_for_a_namespace_that_comes_after_its_listener() {
    let scene = Scene::new();
    scene.go_away();
    scene.target.remove_namespace(1);
    let write = scene.start(Op::Write, 3);
    scene.target.listen_again();
    scene.wait_for_looks(2);
    assert!(write.is_pending() && scene.bdev_is_there());
    scene.target.set_namespace(1, namespace(RIGHT));
    // No event tells of it.
    assert_eq!(write.wait().result, Ok(()));
    assert_eq!(scene.target.read(1, 8, 1), [3; BLOCK]);
}

#[test]
#[serial]
fn io_waits_for_a_namespace_that_is_taken_away_and_brought_back_under_it() {
    let scene = Scene::new();
    let right = scene.target.namespace(1).expect("it is there");
    scene.target.remove_namespace(1);
    // Invalid Namespace or Format, with Do Not Retry.
    let write = scene.start(Op::Write, 4);
    scene.wait_for_looks(1);
    assert!(write.is_pending() && scene.bdev_is_there());
    scene.target.set_namespace(1, right);
    scene.target.namespaces_changed();
    assert_eq!(write.wait().result, Ok(()));
    assert_eq!(scene.target.read(1, 8, 1), [4; BLOCK]);
}

#[test]
#[serial]
fn a_bdev_whose_namespace_is_gone_for_the_time_set_goes_and_comes_back_with_the_same_one_only() {
    let mut scene = Scene::with(Options::default(), json!({ "ns_loss_timeout_sec": 1 }));
    scene.target.remove_namespace(1);
    scene.target.namespaces_changed();
    let write = scene.start(Op::Write, 5);
    assert!(write.wait().result.is_err(), "it fails when the time is over");
    scene.disk.take();
    wait_until("the bdev is gone", || !scene.bdev_is_there());
    scene.target.set_namespace(1, namespace(OTHER));
    scene.wait_for_looks(2);
    assert!(!scene.bdev_is_there(), "another is not taken for it");
    scene.target.set_namespace(1, namespace(RIGHT));
    scene.target.namespaces_changed();
    wait_until("the bdev is back", || scene.bdev_is_there());
    let disk = Disk::open(&scene.bdev.as_ref().expect("it is there").name);
    assert_eq!(disk.write(8, &Layout::whole(BLOCK), &[6; BLOCK]), Ok(()));
}

#[test]
#[serial]
fn a_namespace_that_was_resized_is_noticed_by_its_event() {
    let scene = Scene::new();
    scene.target.set_namespace(1, Namespace::new(512, BLOCKS * 2, RIGHT));
    scene.target.namespaces_changed();
    let name = &scene.bdev.as_ref().expect("it is there").name;
    let blocks =
        || scene.rig.app.rpc("bdev_get_bdevs", json!({ "name": name })).expect("it is there")[0]["num_blocks"].clone();
    wait_until("the bdev has grown", || blocks() == json!(BLOCKS * 2));
}

#[test]
#[serial]
fn a_failed_or_lying_list_or_identify_removes_nothing_and_is_not_repeated_at_once() {
    let scene = Scene::with(Options::default(), json!({ "ns_loss_timeout_sec": 0 }));
    let unordered: Vec<u8> = [5_u32, 4].iter().flat_map(|nsid| nsid.to_le_bytes()).chain([0; 4088]).collect();
    for (on, lie) in [
        (On::identify(Cns::ACTIVE_NAMESPACES), Do::Status(Status::INTERNAL_ERROR)),
        (On::identify(Cns::ACTIVE_NAMESPACES), Do::Data(unordered)),
        (On::identify(Cns::ACTIVE_NAMESPACES), Do::Data(vec![0xff; 4096])),
        (On::identify(Cns::NAMESPACE), Do::Status(Status::INTERNAL_ERROR)),
        (On::identify(Cns::NAMESPACE), Do::Data(vec![0; 4096])),
        (On::identify(Cns::NAMESPACE_DESCRIPTORS), Do::Status(Status::INTERNAL_ERROR)),
        (On::identify(Cns::NAMESPACE_DESCRIPTORS), Do::Data(vec![0xff; 4096])),
    ] {
        scene.target.on(on.clone(), lie);
        let before = scene.target.count(&on);
        scene.target.namespaces_changed();
        assert!(scene.target.wait_for(&on, before + 1, PATIENCE), "{on:?}");
        thread::sleep(Duration::from_millis(150));
        assert!(scene.target.count(&on) <= before + 3, "{on:?}");
        assert!(scene.bdev_is_there());
        assert_eq!(scene.disk().write(8, &Layout::whole(BLOCK), &[7; BLOCK]), Ok(()), "{on:?}");
        scene.target.behave();
    }
}

#[test]
#[serial]
fn after_a_loss_io_waits_until_the_namespace_could_be_identified() {
    let scene = Scene::new();
    scene.target.on(On::identify(Cns::NAMESPACE_DESCRIPTORS), Do::Status(Status::INTERNAL_ERROR));
    scene.target.forget_commands();
    scene.target.cut_all(Cut::Close);
    let write = scene.start(Op::Write, 8);
    assert!(scene.target.wait_for(&On::identify(Cns::NAMESPACE_DESCRIPTORS), 2, PATIENCE));
    assert!(write.is_pending());
    assert_eq!(scene.target.count(&On::io(IoOpcode::WRITE)), 0);
    scene.target.behave();
    assert_eq!(write.wait().result, Ok(()));
}

#[test]
#[serial]
fn ana_inaccessible_for_a_while_is_ridden_through() {
    for state in [AnaState::INACCESSIBLE, AnaState::PERSISTENT_LOSS, AnaState::CHANGE] {
        let scene = Scene::with(Options { ana: true, ..Options::default() }, json!({}));
        scene.target.set_ana(1, state);
        scene.target.ana_changed();
        let ios = [scene.start(Op::Write, 9), scene.start(Op::Read, 0)];
        assert!(scene.target.wait_for(&On::io(IoOpcode::WRITE), 3, PATIENCE), "it is tried again");
        wait_until("the state is told", || scene.pool().told()["namespaces"][0]["ana_state"] != json!("optimized"));
        assert!(ios.iter().all(Pending::is_pending));
        scene.target.set_ana(1, AnaState::NON_OPTIMIZED);
        scene.target.ana_changed();
        for io in ios {
            assert_eq!(io.wait().result, Ok(()));
        }
        wait_until("the state is told", || scene.pool().told()["namespaces"][0]["ana_state"] == json!("non_optimized"));
    }
}

#[test]
#[serial]
fn a_stock_target_whose_listener_is_inaccessible_for_a_while_is_ridden_through() {
    const NQN: &str = "nqn.2024-01.com.example:ana";
    let rig = rig();
    let target = rig.target;
    let address = json!({
        "trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": target.port().to_string(),
    });
    let set_state = |state: &str| {
        let params = json!({ "nqn": NQN, "listen_address": address, "ana_state": state });
        target.call("nvmf_subsystem_listener_set_ana_state", params);
    };
    target.call("bdev_malloc_create", json!({ "name": "Ana", "block_size": 512, "num_blocks": BLOCKS }));
    let subsystem = json!({ "nqn": NQN, "allow_any_host": true, "serial_number": "ANA", "ana_reporting": true });
    target.call("nvmf_create_subsystem", subsystem);
    target.call("nvmf_subsystem_add_ns", json!({ "nqn": NQN, "namespace": { "bdev_name": "Ana" } }));
    target.call("nvmf_subsystem_add_listener", json!({ "nqn": NQN, "listen_address": address }));
    assert_eq!(rig.connect("ana", NQN, json!({})), Ok(()));
    let bdev = rig.bdev("ana", 1);
    let disk = Disk::open(&bdev.name);
    assert_eq!(disk.write(0, &Layout::whole(BLOCK), &[1; BLOCK]), Ok(()));
    set_state("inaccessible");
    let write = disk.start(Op::Write, 0, 1, &Layout::whole(BLOCK), &[2; BLOCK]).expect("it is taken");
    let told = || rig.app.rpc("courier_pool_get", json!({ "name": "ana" })).expect("it is there")[0].clone();
    wait_until("the state is told", || told()["namespaces"][0]["ana_state"] == json!("inaccessible"));
    assert!(write.is_pending());
    set_state("optimized");
    assert_eq!(write.wait().result, Ok(()));
    assert_eq!(disk.read(0, &Layout::whole(BLOCK)), Ok(vec![2; BLOCK]));
    assert_eq!(told()["losses"], json!(0));
    drop(disk);
    drop(bdev);
    assert_eq!(rig.app.rpc("courier_pool_delete", json!({ "name": "ana" })), Ok(json!(true)));
    target.call("nvmf_delete_subsystem", json!({ "nqn": NQN }));
    target.call("bdev_malloc_delete", json!({ "name": "Ana" }));
}

#[test]
#[serial]
fn a_change_of_ana_state_may_take_anatt_and_then_the_pools_limit_holds() {
    const ANATT: Duration = Duration::from_secs(2);
    const LIMIT: Duration = Duration::from_secs(1);
    let options = Options { ana: true, anatt: 2, ..Options::default() };
    let scene = Scene::with(options, json!({ "fast_io_fail_timeout_sec": LIMIT.as_secs() }));
    let failed_after = |state: AnaState| {
        scene.target.set_ana(1, state);
        scene.target.ana_changed();
        let since = Instant::now();
        assert!(scene.start(Op::Write, 9).wait().result.is_err());
        since.elapsed()
    };
    let inaccessible = failed_after(AnaState::INACCESSIBLE);
    assert!(inaccessible >= LIMIT, "after {inaccessible:?}");
    let change = failed_after(AnaState::CHANGE);
    assert!(change >= ANATT, "after {change:?}");
    let write = scene.start(Op::Write, 9);
    thread::sleep(LIMIT + LIMIT / 2);
    assert!(write.is_pending(), "the change may take longer");
    scene.target.set_ana(1, AnaState::OPTIMIZED);
    scene.target.ana_changed();
    assert_eq!(write.wait().result, Ok(()));
}

#[test]
#[serial]
fn an_io_that_is_tried_again_can_be_aborted() {
    let scene = Scene::new();
    scene.target.on(On::io(IoOpcode::READ), Do::Status(Status::NAMESPACE_NOT_READY));
    let read = scene.start(Op::Read, 0);
    assert!(scene.target.wait_for(&On::io(IoOpcode::READ), 5, PATIENCE), "it is tried again");
    while read.is_pending() {
        let _ = scene.disk().abort(&read);
    }
}

#[test]
#[serial]
fn statuses_that_pass_are_tried_again_and_those_that_do_not_are_told() {
    let scene = Scene::new();
    for answer in [
        Status::NAMESPACE_NOT_READY,
        Status::COMMAND_INTERRUPTED,
        Status::TRANSIENT_TRANSPORT_ERROR,
        Status::INTERNAL_PATH_ERROR,
        Status::CONTROLLER_PATHING_ERROR,
    ] {
        scene.target.on(On::io(IoOpcode::WRITE).times(2), Do::Status(answer));
        assert_eq!(scene.start(Op::Write, 1).wait().result, Ok(()), "{answer:?}");
        scene.target.behave();
        scene.target.on(On::io(IoOpcode::WRITE).once(), Do::Status(answer.with_dnr(true)));
        let told = scene.start(Op::Write, 1).wait().result.map_err(|status| status.code());
        assert_eq!(told, Err(answer.code()));
    }
    scene.target.on(On::io(IoOpcode::WRITE).once(), Do::Status(Status::LBA_OUT_OF_RANGE.with_dnr(false)));
    assert_eq!(
        scene.start(Op::Write, 1).wait().result.map_err(|status| status.code()),
        Err(StatusCode::LBA_OUT_OF_RANGE)
    );
}

#[test]
#[serial]
fn the_retry_delay_that_a_pool_asks_for_is_kept() {
    let scene = Scene::with(Options { crdt: [1, 5, 0], ..Options::default() }, json!({}));
    let interrupted = Status::COMMAND_INTERRUPTED.with_crd(2);
    scene.target.on(On::io(IoOpcode::WRITE).once(), Do::Status(interrupted));
    let since = Instant::now();
    assert_eq!(scene.start(Op::Write, 1).wait().result, Ok(()));
    assert!(since.elapsed() >= Duration::from_millis(500));
}

#[test]
#[serial]
fn io_is_tried_again_no_longer_than_the_pools_limit() {
    let scene = Scene::with(Options::default(), json!({ "fast_io_fail_timeout_sec": 1 }));
    scene.target.on(On::io(IoOpcode::WRITE), Do::Status(Status::ANA_INACCESSIBLE));
    let since = Instant::now();
    let failed = scene.start(Op::Write, 1).wait().result;
    assert_eq!(failed.map_err(|status| status.code()), Err(StatusCode::ANA_INACCESSIBLE));
    assert!(since.elapsed() >= Duration::from_secs(1));
    let times = scene.target.count(&On::io(IoOpcode::WRITE));
    assert!((3..=12).contains(&times), "{times} times: each delay is longer than the one before");
}

/// What a pool says wrongly of a namespace.
type Lie = fn(&mut IdentifyNamespace);

#[test]
#[serial]
fn a_namespace_that_cannot_be_served_is_refused_with_a_sentence() {
    let (rig, target) = (rig(), target_with(Options::default()));
    let pool = rig.scripted_pool(&target, target.port(), json!({}));
    let lies: [(Lie, &str); 5] = [
        (|identity| identity.lbaf[0].set_lbads(3), "2^3 bytes"),
        (|identity| identity.lbaf[0].set_lbads(40), "2^40 bytes"),
        (|identity| identity.lbaf[0].set_ms(8), "8 bytes of metadata"),
        (|identity| identity.flbas.set_fidxl(7), "format 7"),
        (|identity| identity.nsze = u64::MAX, "18446744073709551615"),
    ];
    for (lie, said) in lies {
        target.on(On::identify(Cns::NAMESPACE), Do::edit_namespace(lie));
        let params = json!({ "name": "unfit", "pool": pool.name, "nsid": 1 });
        let refused = rig.app.rpc("bdev_courier_create", params).expect_err(said);
        assert!(refused.message.contains(said), "{refused:?}");
        target.behave();
    }
    let missing = rig.app.rpc("bdev_courier_create", json!({ "name": "none", "pool": pool.name, "nsid": 5 }));
    let message = missing.expect_err("there is no namespace 5").message;
    assert!(message.contains("no namespace 5; it has 1"), "{message}");
}

#[test]
#[serial]
fn a_pool_that_counts_its_namespaces_in_billions_or_lists_them_without_end_is_used_like_any_other() {
    let page = |first: u32| Do::Data((first..first + 1024).flat_map(u32::to_le_bytes).collect());
    let same = |target: &ScriptedTarget| target.on(On::identify(Cns::ACTIVE_NAMESPACES), page(1));
    let endless = |target: &ScriptedTarget| {
        for after in (0..100 * 1024).step_by(1024) {
            target.on(On::identify(Cns::ACTIVE_NAMESPACES).nsid(after), page(after + 1));
        }
    };
    let right = |_: &ScriptedTarget| {};
    let lists: [&dyn Fn(&ScriptedTarget); 3] = [&right, &same, &endless];
    let v1_0 = Version::new().with_mjr(1);
    for (version, lie) in [v1_0, Version::V1_4, Version::V1_4].into_iter().zip(lists) {
        let target = target_with(Options { version, ..Options::default() });
        target.on(On::identify(Cns::CONTROLLER), Do::edit_controller(|identity| identity.nn = u32::MAX));
        lie(&target);
        let rig = rig();
        let pool = rig.scripted_pool(&target, target.port(), json!({}));
        let bdev = rig.bdev(&pool.name, 1);
        let disk = Disk::open(&bdev.name);
        assert_eq!(disk.write(1, &Layout::whole(BLOCK), &[1; BLOCK]), Ok(()));
        drop(disk);
        target.cut_all(Cut::Close);
        let disk = Disk::open(&bdev.name);
        assert_eq!(disk.write(1, &Layout::whole(BLOCK), &[2; BLOCK]), Ok(()), "and so again after a loss");
        drop(disk);
        drop(bdev);
        drop(pool);
    }
}

#[test]
#[serial]
fn an_ana_log_that_lies_ends_nothing() {
    let scene = Scene::with(Options { ana: true, ..Options::default() }, json!({}));
    let head = AnaHeader { descriptors: u16::MAX, ..AnaHeader::new_zeroed() };
    let group = AnaGroup { namespaces: u32::MAX, ..AnaGroup::new_zeroed() };
    let mut counts = [head.as_bytes(), group.as_bytes()].concat();
    counts.resize(8192, 0);
    for log in [counts, vec![0xff; 8192], Vec::new()] {
        let before = scene.target.count(&On::log_page(LogId::ANA));
        scene.target.on(On::log_page(LogId::ANA), Do::Data(log));
        scene.target.ana_changed();
        assert!(scene.target.wait_for(&On::log_page(LogId::ANA), before + 1, PATIENCE));
        scene.wait_for_looks(0);
        assert_eq!(scene.start(Op::Write, 1).wait().result, Ok(()));
        scene.target.behave();
    }
}

#[test]
#[serial]
fn a_pool_that_does_not_answer_about_its_namespaces_delays_no_io_of_its_own_or_of_others() {
    let scene = Scene::new();
    let other = scene.rig.bdev(POOL, NS_512);
    let other = Disk::open(&other.name);
    scene.target.on(On::admin(AdminOpcode::IDENTIFY), Do::Nothing);
    scene.target.on(On::admin(AdminOpcode::GET_LOG_PAGE), Do::Nothing);
    let before = scene.target.count(&On::log_page(LogId::CHANGED_NAMESPACE_LIST));
    scene.target.namespaces_changed();
    assert!(scene.target.wait_for(&On::log_page(LogId::CHANGED_NAMESPACE_LIST), before + 1, PATIENCE));
    let since = Instant::now();
    for _ in 0..50 {
        assert!(other.read(0, &Layout::whole(BLOCK)).is_ok());
        assert!(scene.disk().read(0, &Layout::whole(BLOCK)).is_ok());
    }
    assert!(since.elapsed() < Duration::from_secs(5), "100 reads took {:?}", since.elapsed());
    assert_eq!(scene.pool().losses(), 0);
    drop(other);
}

#[test]
#[serial]
fn a_storm_of_events_makes_a_few_looks_a_second() {
    let scene = Scene::new();
    scene.target.forget_commands();
    let stop = AtomicBool::new(false);
    let since = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                scene.target.namespaces_changed();
                thread::sleep(Duration::from_micros(200));
            }
        });
        while since.elapsed() < Duration::from_secs(1) {
            assert!(scene.disk().read(0, &Layout::whole(BLOCK)).is_ok());
        }
        stop.store(true, Ordering::Relaxed);
    });
    let tenths = usize::try_from(since.elapsed().as_millis() / 100).expect("few");
    for on in [On::admin(AdminOpcode::ASYNC_EVENT_REQUEST), On::identify(Cns::ACTIVE_NAMESPACES)] {
        let count = scene.target.count(&on);
        assert!(count >= 2 && count <= tenths + 2, "{count} in {tenths} tenths of a second: {on:?}");
    }
}

#[test]
#[serial]
fn an_event_while_queues_are_opened_is_not_lost() {
    let scene = Scene::new();
    scene.target.on(On::connect_io().once(), Do::Hold);
    scene.go_away();
    scene.target.listen_again();
    wait_until("a queue is being opened", || scene.target.held() > 0);
    scene.wait_for_looks(0);
    scene.target.set_namespace(1, Namespace::new(512, BLOCKS * 2, RIGHT));
    scene.target.namespaces_changed();
    scene.target.release();
    let name = &scene.bdev.as_ref().expect("it is there").name;
    let blocks =
        || scene.rig.app.rpc("bdev_get_bdevs", json!({ "name": name })).expect("it is there")[0]["num_blocks"].clone();
    wait_until("the bdev has grown", || blocks() == json!(BLOCKS * 2));
}
