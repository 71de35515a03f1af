//! Data that is spoilt on its way, with digests that tell.

use nvme_spec::tcp::PduType;
use pool_faults::{Relay, ScriptedTarget, Way, Which};
use serde_json::json;
use serial_test::serial;

use crate::common::disk::{Disk, Layout};
use crate::common::rig;

const BLOCK: usize = 512;
/// A byte of the data of any PDU that has some.
const IN_DATA: usize = 24 + 100;

/// Writes and reads with a byte spoilt each time: what ends with success is right.
fn never_success(c2h_success: bool, lengths: &[usize]) {
    let rig = rig();
    let target = ScriptedTarget::new();
    target.change(|options| options.c2h_success = c2h_success);
    let relay = Relay::to(target.address());
    let pool = rig.scripted_pool(&target, relay.port(), json!({ "ddgst": true }));
    let bdev = rig.bdev(&pool.name, 1);
    let disk = Disk::open(&bdev.name);
    for (place, &len) in (0..).zip(lengths) {
        let layout = Layout::pieces(3, len, 64);
        let data: Vec<u8> = (0..len).map(|at| u8::try_from((at + place) % 251).expect("it is small")).collect();
        let block = u64::try_from(place * 64).expect("it is small");
        assert_eq!(disk.write(block, &layout, &data), Ok(()));
        assert_eq!(disk.read(block, &layout), Ok(data.clone()));
        relay.corrupt_pdu(Which::From(1), Way::ToHost, PduType::C2H_DATA, IN_DATA);
        let spoilt = disk.read(block, &layout);
        assert_eq!(relay.left_to_corrupt(), 0, "a byte was spoilt");
        assert!(spoilt.is_err() || spoilt.as_ref() == Ok(&data), "{len} bytes: spoilt data is a success");
        assert_eq!(disk.read(block, &layout), Ok(data), "the next read is right");
    }
}

#[test]
#[serial]
fn spoilt_data_is_no_success_where_a_capsule_completes_the_read() {
    never_success(false, &[BLOCK, 8 * BLOCK, 64 * BLOCK]);
}

#[test]
#[serial]
fn spoilt_data_is_no_success_where_the_data_itself_completes_the_read() {
    // More than the target has in one PDU, too.
    never_success(true, &[BLOCK, 8 * BLOCK, 192 * BLOCK]);
}
