//! The guest learns nothing of the pool behind its drive: neither its address, nor its names, nor ours to it (S8, S9).

use nvme_spec::admin::GetFeaturesDw10;
use nvme_spec::feature::{FeatureId, FeatureSelect};
use nvme_spec::identify::Cns;
use nvme_spec::log::{LogId, Smart};
use nvme_spec::{IoOpcode, PAGE, Sqe};
use serde_json::{Value, json};
use serial_test::serial;
use zerocopy::IntoBytes;

use crate::support::app::{App, Program};
use crate::support::controller::Front;
use crate::support::nvme::{BASE, DATA, Driver, block_io};
use crate::support::pool::NQN;
use crate::support::shared;

/// The name that we give the pool.
const HOSTNQN: &str = "nqn.2024-01.com.example:our-secret-name";

/// Returns what must not be found, as text and as bytes.
fn secrets(port: u16) -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("the pool's NQN", NQN.as_bytes().to_vec()),
        ("a part of the pool's NQN", b"com.example".to_vec()),
        ("our NQN as a host", HOSTNQN.as_bytes().to_vec()),
        ("the pool's address", b"127.0.0.1".to_vec()),
        ("the pool's address and port", [&[127, 0, 0, 1], &port.to_be_bytes()[..]].concat()),
        ("the pool's port", port.to_string().into_bytes()),
        ("the pool's serial number", b"POOL".to_vec()),
        ("the pool's model", b"SPDK bdev Controller".to_vec()),
        ("the name of a pool or bdev of ours", b"internal".to_vec()),
    ]
}

#[track_caller]
fn assert_none_in(data: &[u8], what: &str, port: u16) {
    for (secret, bytes) in secrets(port) {
        assert!(!data.windows(bytes.len()).any(|window| window == bytes), "{secret} is in {what}");
    }
}

/// A front end with a namespace of a pool behind bdev `internal`.
fn front(port: &mut u16) -> Front {
    let front = Front::start_with_pools();
    let pool = shared::pool();
    *port = pool.port;
    front.rpc.ok("courier_pool_create", &pool.params_with("internal-pool", &json!({ "hostnqn": HOSTNQN })));
    front.rpc.ok("bdev_courier_create", &json!({ "name": "internal", "pool": "internal-pool", "nsid": 1 }));
    front
}

/// Returns every admin command that reads something, with every number that it takes.
fn commands() -> Vec<Sqe> {
    let at = |nsid, command: Sqe| Sqe { nsid, ..command }.with_prps(BASE + DATA, 0);
    let mut commands = Vec::new();
    for cns in (0..=u8::MAX).map(Cns) {
        for nsid in [0, 1, u32::MAX] {
            commands.push(at(nsid, Sqe::identify(cns, nsid)));
        }
    }
    // 4 KiB of every log, and of the first ones what follows, too.
    for lid in (0..=u8::MAX).map(LogId) {
        for nsid in [0, 1, u32::MAX] {
            commands.push(at(nsid, Sqe::get_log_page(lid, 0, 4_096)));
        }
    }
    for fid in (0..=u8::MAX).map(FeatureId) {
        for sel in FeatureSelect::NAMED {
            let dw10 = GetFeaturesDw10::new().with_fid(fid).with_sel(*sel);
            commands.push(at(1, Sqe { cdw10: dw10.into_bits(), ..Sqe::get_features(fid) }));
        }
    }
    commands
}

#[test]
#[serial]
fn no_admin_command_of_a_guest_tells_of_the_pool() {
    let mut port = 0;
    let front = front(&mut port);
    let controller = front.controller("c", &["internal"]);
    let mut driver = Driver::start(controller.dir());
    let mut queue = driver.create_queue(1, 16, None);
    // A failed command, for the error log.
    driver.run(&mut queue, block_io(IoOpcode::FABRICS, 1, 0, 1, BASE + DATA));
    let mut answered = 0;
    for command in commands() {
        driver.memory.write(DATA, &[0; 4_096]);
        let done = driver.admin(command);
        answered += u32::from(done.status.is_success());
        assert_none_in(&done.dw0.to_le_bytes(), &format!("the result of {command:?}"), port);
        assert_none_in(&driver.memory.read_vec(DATA, 4_096), &format!("the data of {command:?}"), port);
    }
    assert!(answered > 10, "only {answered} commands were answered");
    let identity = driver.identify(Cns::CONTROLLER, 0);
    assert!(identity.windows(4).any(|window| window == b"nqn."), "Identify tells no NQN of the subsystem");
    for (region, len) in [(crate::support::vfio_user::CONFIG, 4_096), (crate::support::vfio_user::BAR0, 4_096)] {
        let bytes = driver.client.read(region, 0, len).expect("a region can be read");
        assert_none_in(&bytes, &format!("region {region}"), port);
    }
}

/// What SPDK's own client keeps of the controller and passes on.
#[test]
#[serial]
fn a_stock_client_finds_nothing_of_the_pool_in_identify_and_logs() {
    let mut port = 0;
    let front = front(&mut port);
    let controller = front.controller("c", &["internal"]);
    let client = App::start(Program::Stock, "0x1", &[]);
    controller.attach(&client);
    let told = client.rpc.ok("bdev_nvme_get_controllers", &Value::Null).to_string() + &client.bdev("nn1").to_string();
    for secret in [NQN, HOSTNQN, "127.0.0.1", "internal"] {
        assert!(!told.contains(secret), "{secret} is in {told}");
    }
    let mut answers = 0;
    let cases = [
        (Sqe::identify(Cns::CONTROLLER, 0), PAGE),
        (Sqe::identify(Cns::NAMESPACE, 1), PAGE),
        (Sqe::identify(Cns::ACTIVE_NAMESPACES, 0), PAGE),
        (Sqe::identify(Cns::NAMESPACE_DESCRIPTORS, 1), PAGE),
        (Sqe::get_log_page(LogId::SMART, 0, 512), size_of::<Smart>()),
    ];
    for (command, len) in cases {
        let bytes = encode(command.as_bytes());
        let params = json!({
            "name": "n", "cmd_type": "admin", "data_direction": "c2h", "cmdbuf": bytes, "data_len": len,
        });
        let answer = client.rpc.ok("bdev_nvme_send_cmd", &params);
        let data = decode(answer["data"].as_str().unwrap_or_default());
        assert_eq!(data.len(), len, "{answer}");
        assert_none_in(&data, &format!("the data of {command:?}"), port);
        answers += u32::from(data.iter().any(|byte| *byte != 0));
    }
    assert_eq!(answers, 5, "an answer was empty");
}

/// The alphabet of base64 for URLs.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

fn encode(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0_usize, |word, byte| word << 8 | usize::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let letter = char::from(ALPHABET[word >> (18 - 6 * place) & 63]);
            text.push(if place <= chunk.len() { letter } else { '=' });
        }
    }
    text
}

fn decode(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (mut word, mut bits) = (0_u32, 0);
    for letter in text.bytes().take_while(|letter| *letter != b'=') {
        let value = ALPHABET.iter().position(|other| *other == letter).expect("base64 for URLs");
        word = word << 6 | u32::try_from(value).expect("small");
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from(word >> bits & 0xff).expect("a byte"));
        }
    }
    bytes
}

#[test]
fn base64_there_and_back_is_the_same() {
    let bytes: Vec<u8> = (0..=u8::MAX).collect();
    for len in [0, 1, 2, 3, 64, 256] {
        assert_eq!(decode(&encode(&bytes[..len])), bytes[..len], "{len} bytes");
    }
    assert_eq!(encode(b"\xfb\xff!"), "-_8h");
}
