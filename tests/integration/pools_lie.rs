//! Pools that say what is not so, and what becomes of `courier_tgt`.

use std::time::Instant;

use nvme_spec::fabrics::FabricsType;
use nvme_spec::identify::{Cns, IdentifyController};
use nvme_spec::log::{AnaGroup, AnaHeader, AnaState, LogId};
use nvme_spec::register::Version;
use nvme_spec::tcp::{C2hData, PduHeader, PduType};
use nvme_spec::{IoOpcode, Status};
use pool_faults::{Cut, Do, Namespace, On, Options, ScriptedTarget};
use serde_json::{Value, json};
use serial_test::serial;
use zerocopy::{FromZeros, IntoBytes};

use crate::support::app::{App, Program};
use crate::support::load::{Load, Work};
use crate::support::{secs, shared};

fn params(target: &ScriptedTarget, changes: &Value) -> Value {
    let mut params = json!({
        "name": "p", "trtype": "tcp", "traddr": "127.0.0.1", "trsvcid": target.port().to_string(),
        "subnqn": target.nqn(), "reconnect_delay_sec": 1, "connect_timeout_ms": 300, "keep_alive_timeout_ms": 1_000,
    });
    for (key, value) in changes.as_object().expect("an object") {
        params[key] = value.clone();
    }
    params
}

/// Connects to a target that lies. Whether that is possible does not matter; that it ends in time, and everything still
/// works with another, does.
fn survives(app: &App, lie: &str, target: &ScriptedTarget) {
    let since = Instant::now();
    if app.rpc.call("courier_pool_create", &params(target, &json!({}))).is_ok() {
        let disk = json!({ "name": "d", "pool": "p", "nsid": 1 });
        let _refused = app.rpc.call("bdev_courier_create", &disk);
        app.rpc.ok("bdev_get_bdevs", &Value::Null);
        app.rpc.ok("courier_pool_get", &Value::Null);
        app.rpc.ok("courier_pool_delete", &json!({ "name": "p" }));
    }
    assert!(since.elapsed() < secs(8), "{lie}: it took {:?}", since.elapsed());
    assert_eq!(app.process.status(), None, "{lie}: {}", app.process.tail());
}

fn works_with_another(app: &App) {
    let target = ScriptedTarget::new();
    app.rpc.ok("courier_pool_create", &params(&target, &json!({ "connect_timeout_ms": 10_000 })));
    app.rpc.ok("bdev_courier_create", &json!({ "name": "d", "pool": "p", "nsid": 1 }));
    app.rpc.ok("courier_pool_delete", &json!({ "name": "p" }));
    let status = app.shut_down(secs(10));
    assert_eq!(status.code(), Some(0), "it ended with {status}\n{}", app.process.tail());
}

fn courier() -> App {
    shared::rest();
    App::start(Program::Courier, "0x2", &[])
}

#[test]
#[serial]
fn strings_of_a_pool_that_are_not_utf_8_do_not_spoil_the_answers() {
    let app = courier();
    let strange = b"\xff\xfe\"\\\n\x01\xc3".to_vec();
    let options = Options { serial: strange.clone(), model: strange.clone(), firmware: strange, ..Options::default() };
    let target = ScriptedTarget::with(options, [(1, Namespace::new(512, 2048, 1))]);
    app.rpc.ok("courier_pool_create", &params(&target, &json!({ "connect_timeout_ms": 10_000 })));
    app.rpc.ok("bdev_courier_create", &json!({ "name": "d", "pool": "p", "nsid": 1 }));
    let told = app.rpc.ok("bdev_get_bdevs", &json!({ "name": "d" }));
    assert_eq!(told[0]["name"], "d");
    app.rpc.ok("courier_pool_get", &Value::Null);
    app.rpc.ok("courier_pool_delete", &json!({ "name": "p" }));
    works_with_another(&app);
}

#[test]
#[serial]
fn a_controller_and_namespaces_that_cannot_be_are_survived() {
    let app = courier();
    // What is in Identify: NN, LBADS, sizes, MDTS, what capsules hold, lists.
    let lies: [(&str, On, Do); 18] = [
        ("NN is 2^32 - 1", On::identify(Cns::CONTROLLER), Do::edit_controller(|identity| identity.nn = u32::MAX)),
        ("NN is 0", On::identify(Cns::CONTROLLER), Do::edit_controller(|identity| identity.nn = 0)),
        ("MDTS is 255", On::identify(Cns::CONTROLLER), Do::edit_controller(|identity| identity.mdts = 255)),
        ("MDTS is 32", On::identify(Cns::CONTROLLER), Do::edit_controller(|identity| identity.mdts = 32)),
        (
            "MDTS is 20, which is 4 GiB",
            On::identify(Cns::CONTROLLER),
            Do::edit_controller(|identity| identity.mdts = 20),
        ),
        ("MDTS is 1", On::identify(Cns::CONTROLLER), Do::edit_controller(|identity| identity.mdts = 1)),
        (
            "IOCCSZ is 2^32 - 1",
            On::identify(Cns::CONTROLLER),
            Do::edit_controller(|identity| identity.ioccsz = u32::MAX),
        ),
        ("IOCCSZ is 0", On::identify(Cns::CONTROLLER), Do::edit_controller(|identity| identity.ioccsz = 0)),
        ("ICDOFF is 65535", On::identify(Cns::CONTROLLER), Do::edit_controller(|identity| identity.icdoff = u16::MAX)),
        ("all of Identify Controller is 0", On::identify(Cns::CONTROLLER), Do::Data(vec![0; 4096])),
        ("all of Identify Controller is FFh", On::identify(Cns::CONTROLLER), Do::Data(vec![0xff; 4096])),
        ("LBADS is 0", On::identify(Cns::NAMESPACE), Do::edit_namespace(|identity| identity.lbaf[0].set_lbads(0))),
        ("LBADS is 8", On::identify(Cns::NAMESPACE), Do::edit_namespace(|identity| identity.lbaf[0].set_lbads(8))),
        ("LBADS is 255", On::identify(Cns::NAMESPACE), Do::edit_namespace(|identity| identity.lbaf[0].set_lbads(255))),
        (
            "NSZE is 2^64 - 1",
            On::identify(Cns::NAMESPACE),
            Do::edit_namespace(|identity| {
                (identity.nsze, identity.ncap, identity.nuse) = (u64::MAX, u64::MAX, u64::MAX);
            }),
        ),
        (
            "the formatted LBA size is none of those",
            On::identify(Cns::NAMESPACE),
            Do::edit_namespace(|identity| identity.flbas.set_fidxl(15)),
        ),
        ("descriptors without an end", On::identify(Cns::NAMESPACE_DESCRIPTORS), Do::Data(vec![1; 4096])),
        ("descriptors of FFh", On::identify(Cns::NAMESPACE_DESCRIPTORS), Do::Data(vec![0xff; 4096])),
    ];
    for (lie, on, what) in lies {
        let target = ScriptedTarget::new();
        target.on(on, what);
        survives(&app, lie, &target);
    }
    works_with_another(&app);
}

#[test]
#[serial]
fn lists_of_namespaces_without_order_or_end_are_survived() {
    let app = courier();
    let list = |ids: &mut dyn Iterator<Item = u32>| {
        let mut list: Vec<u8> = ids.take(1024).flat_map(u32::to_le_bytes).collect();
        list.resize(4096, 0);
        list
    };
    let lies = [
        ("the same without an end", list(&mut std::iter::repeat(1))),
        ("downwards", list(&mut (1..=1024).rev())),
        ("none below 2^32 - 1024", list(&mut (u32::MAX - 1024..))),
        ("unordered", list(&mut [3, 1, 2, 1, 3].into_iter())),
    ];
    for (lie, ids) in lies {
        let target = ScriptedTarget::new();
        target.change(|options| options.version = Version::V1_4);
        target.on(On::identify(Cns::ACTIVE_NAMESPACES), Do::Data(ids));
        survives(&app, lie, &target);
    }
    works_with_another(&app);
}

#[test]
#[serial]
fn logs_of_ana_that_lie_are_survived() {
    let app = courier();
    let head = |descriptors| AnaHeader { descriptors, ..AnaHeader::new_zeroed() }.as_bytes().to_vec();
    let group =
        |namespaces, state| AnaGroup { group: 1, namespaces, state, ..AnaGroup::new_zeroed() }.as_bytes().to_vec();
    let lies = [
        ("65535 groups that are not there", head(u16::MAX)),
        ("a group of 2^32 - 1 namespaces", [head(1), group(u32::MAX, AnaState::OPTIMIZED)].concat()),
        ("a group in no state", [head(1), group(1, AnaState(u8::MAX)), vec![1, 0, 0, 0]].concat()),
        ("no group", head(0)),
        ("nothing", Vec::new()),
    ];
    for (lie, log) in lies {
        let target =
            ScriptedTarget::with(Options { ana: true, ..Options::default() }, [(1, Namespace::new(512, 2048, 1))]);
        target.on(
            On::log_page(LogId::ANA),
            Do::edit(move |data| {
                let length = data.len();
                data.clone_from(&log);
                data.resize(length, 0xff);
            }),
        );
        survives(&app, lie, &target);
    }
    let target = ScriptedTarget::with(Options { ana: true, ..Options::default() }, [(1, Namespace::new(512, 2048, 1))]);
    let billions = |identity: &mut IdentifyController| (identity.anagrpmax, identity.nanagrpid) = (u32::MAX, u32::MAX);
    target.on(On::identify(Cns::CONTROLLER), Do::edit_controller(billions));
    survives(&app, "2^32 - 1 groups", &target);
    works_with_another(&app);
}

/// The answers of a connection, and what can be wrong about their PDUs.
fn broken_pdus() -> Vec<(&'static str, Do)> {
    vec![
        ("another type", Do::wrong_kind(PduType::IC_RESP)),
        ("a type that is not there", Do::wrong_kind(PduType(0x42))),
        ("a type that only hosts send", Do::wrong_kind(PduType::CAPSULE_CMD)),
        ("the controller's error", Do::wrong_kind(PduType::C2H_TERM_REQ)),
        ("a length of 0", Do::wrong_length(0)),
        ("a length of 2^32 - 1", Do::wrong_length(u32::MAX)),
        ("a length that is one too many", Do::wrong_length(129)),
        ("a header of 0 bytes", Do::edit_pdu(|header: &mut PduHeader| header.hlen = 0)),
        ("a header of 255 bytes", Do::edit_pdu(|header: &mut PduHeader| header.hlen = 255)),
        ("data at offset 255", Do::edit_pdu(|header: &mut PduHeader| header.pdo = 255)),
        ("nothing but noise", Do::Raw((0..=255).cycle().take(5000).collect())),
        ("an answer to another command", Do::WrongCid(0x7fff)),
        ("two answers", Do::Twice),
        ("an end", Do::Close(Cut::Close)),
        ("a reset", Do::Close(Cut::Reset)),
        ("an error", Do::Status(Status::INTERNAL_ERROR.with_dnr(true))),
    ]
}

#[test]
#[serial]
fn broken_pdus_while_a_pool_is_connected_end_the_attempt_in_time() {
    let app = courier();
    let steps = [
        ("ICReq", On::ic_req()),
        ("Connect", On::connect(0)),
        ("Property Get", On::fabrics(FabricsType::PROPERTY_GET)),
        ("Identify Controller", On::identify(Cns::CONTROLLER)),
    ];
    for (step, on) in steps {
        for (what, lie) in broken_pdus() {
            let target = ScriptedTarget::new();
            target.on(on.clone(), lie);
            survives(&app, &format!("{step}: {what}"), &target);
        }
    }
    works_with_another(&app);
}

#[test]
#[serial]
fn io_goes_on_after_any_broken_pdu() {
    const IO: Work<'_> = Work { kind: "verify", io_size: 4_096, depth: 4, seconds: 1 };
    let lies = [
        ("a type that is not there", Do::wrong_kind(PduType(0x42))),
        ("a length of 2^32 - 1", Do::wrong_length(u32::MAX)),
        ("a header of 255 bytes", Do::edit_pdu(|header: &mut PduHeader| header.hlen = 255)),
        ("data at another offset", Do::edit_pdu(|header: &mut C2hData| header.datao = u32::MAX)),
        ("an answer to another command", Do::WrongCid(0x7fff)),
        ("a reset", Do::Close(Cut::Reset)),
        ("never", Do::Silence),
    ];
    let target = ScriptedTarget::new();
    let load = Load::start("0x2", &[]);
    load.rpc.ok("courier_pool_create", &params(&target, &json!({ "connect_timeout_ms": 5_000 })));
    load.create_bdevs("p", &[1]);
    for (what, lie) in lies {
        target.on(On::io(IoOpcode::READ).after(20).once(), lie);
        log::debug!("{what}");
        load.run(IO);
        target.behave();
    }
    assert_eq!(load.shut_down(secs(10)).code(), Some(0), "{}", load.process.tail());
}
