//! The tools for tests of bad pools do what they say.

use std::time::Duration;

use nvme_spec::{IoOpcode, Status, StatusCode};
use pool_faults::{Do, Mode, Namespace, On, Options, Relay, ScriptedTarget, Way, Which};
use serde_json::{Value, json};
use serial_test::serial;
use spdk::bdev_client::Op;

use crate::common::disk::{Disk, Layout};
use crate::common::harness::PATIENCE;
use crate::common::rig;
use crate::common::rng::Rng;

const BLOCK: usize = 512;
const BLOCKS: u64 = 8192;

fn keeps_data(options: Options, block_size: u32, params: Value) {
    let rig = rig();
    let namespace = Namespace::new(block_size, BLOCKS * 512 / u64::from(block_size), 0x51);
    let target = ScriptedTarget::with(options, [(1, namespace)]);
    let pool = rig.scripted_pool(&target, target.port(), params);
    let bdev = rig.bdev(&pool.name, 1);
    let disk = Disk::open(&bdev.name);
    let mut rng = Rng::new(1);
    for bytes in [4096, 8192, 12 << 10, 100 << 10, 1 << 20] {
        let data = rng.bytes(bytes);
        let pieces = Layout::pieces(3, bytes, 1);
        assert_eq!(disk.write(16, &pieces, &data), Ok(()), "{bytes} bytes");
        let blocks = bytes as u64 / u64::from(block_size);
        assert!(target.read(1, 16, blocks) == data, "{bytes} bytes came as they were sent");
        assert!(disk.read(16, &Layout::whole(bytes)) == Ok(data), "{bytes} bytes are read as written");
    }
    let one = Layout::whole(block_size as usize);
    assert_eq!(disk.bare(Op::WriteZeroes, 17, 1), Ok(()));
    assert_eq!(disk.read(17, &one), Ok(vec![0; block_size as usize]));
    assert_eq!(disk.bare(Op::Flush, 0, 1), Ok(()));
    assert_eq!(disk.bare(Op::Unmap, 16, 1), Ok(()));
    assert_eq!(pool.losses(), 0);
}

#[test]
#[serial]
fn a_scripted_target_without_a_script_keeps_data_as_any_other() {
    keeps_data(Options::default(), 512, json!({}));
    let small = Options { in_capsule: 0, max_h2c: 4096, max_c2h: 4096, c2h_success: true, ..Options::default() };
    keeps_data(small, 4096, json!({}));
}

#[test]
#[serial]
fn a_scripted_target_keeps_data_with_digests() {
    let digests = json!({ "hdgst": true, "ddgst": true });
    keeps_data(Options::default(), 512, digests.clone());
    keeps_data(Options { in_capsule: 0, max_h2c: 8192, ..Options::default() }, 512, digests);
}

#[test]
#[serial]
fn what_a_script_says_is_done_as_often_as_it_says_and_to_nothing_else() {
    let rig = rig();
    let target = ScriptedTarget::new();
    let pool = rig.scripted_pool(&target, target.port(), json!({}));
    let bdev = rig.bdev(&pool.name, 1);
    let disk = Disk::open(&bdev.name);
    let block = Layout::whole(BLOCK);
    target
        .on(On::io(IoOpcode::READ).nsid(1).after(1).once(), Do::Status(Status::UNRECOVERED_READ_ERROR.with_dnr(true)));
    assert!(disk.read(0, &block).is_ok());
    let error = disk.read(0, &block).expect_err("it is told to fail");
    assert_eq!(error.code(), StatusCode::UNRECOVERED_READ_ERROR);
    assert!(disk.read(0, &block).is_ok());
    assert_eq!(target.count(&On::io(IoOpcode::READ)), 3);
}

#[test]
#[serial]
fn a_write_that_is_held_comes_to_the_medium_when_it_is_released() {
    let rig = rig();
    let target = ScriptedTarget::new();
    let pool = rig.scripted_pool(&target, target.port(), json!({}));
    let bdev = rig.bdev(&pool.name, 1);
    let disk = Disk::open(&bdev.name);
    target.on(On::io(IoOpcode::WRITE).once(), Do::Hold);
    let write = disk.start(Op::Write, 3, 1, &Layout::whole(BLOCK), &[7; BLOCK]).expect("the write is taken");
    assert!(target.wait(PATIENCE, |target| target.held() == 1));
    assert!(write.is_pending());
    assert_eq!(target.read(1, 3, 1), [0; BLOCK]);
    target.release();
    assert_eq!(write.wait().result, Ok(()));
    assert_eq!(target.read(1, 3, 1), [7; BLOCK]);
}

#[test]
#[serial]
fn a_stalled_relay_keeps_a_command_and_passes_it_on_when_it_is_released() {
    let rig = rig();
    let target = ScriptedTarget::new();
    let relay = Relay::to(target.address());
    let pool = rig.scripted_pool(&target, relay.port(), json!({}));
    let bdev = rig.bdev(&pool.name, 1);
    let disk = Disk::open(&bdev.name);
    let block = Layout::whole(BLOCK);
    assert!(disk.read(0, &block).is_ok());
    let before = target.count(&On::any_io());
    relay.set(Which::From(1), Way::ToTarget, Mode::Stall);
    let came = relay.counts(1, Way::ToTarget).bytes;
    let read = disk.start(Op::Read, 0, 1, &block, &[0; BLOCK]).expect("the read is taken");
    assert!(relay.wait(PATIENCE, |relay| relay.counts(1, Way::ToTarget).bytes > came));
    assert!(!target.wait_for(&On::any_io(), before + 1, Duration::from_millis(50)));
    relay.release();
    assert_eq!(read.wait().result, Ok(()));
}
