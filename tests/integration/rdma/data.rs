//! Pools are found as they are, and data goes both ways unharmed.

use std::fs;

use serde_json::{Value, json};
use serial_test::serial;

use super::target::{Network, SIZE};
use super::{Fabric, Target, TargetKind, for_every_target, verify};
use crate::support::app::configuration;
use crate::support::bytes::{pattern, sha256};
use crate::support::load::Load;
use crate::support::process::{Libraries, Process};
use crate::support::{paths, secs};

for_every_target! { a_namespace_is_described_as_it_is_and_its_data_verified_at_every_io_size }

fn a_namespace_is_described_as_it_is_and_its_data_verified_at_every_io_size(kind: TargetKind, fabric: Fabric) {
    let target = Target::start(kind, fabric, Network::First);
    let load = Load::start("0x2", &[]);
    load.rpc.ok("courier_pool_create", &target.params("p", &json!({})));
    load.create_bdevs("p", &[1]);
    let bdev = load.bdev("pn1");
    assert_eq!(bdev["block_size"], target.block_size(), "{bdev}");
    assert_eq!(bdev["num_blocks"], SIZE / u64::from(target.block_size()), "{bdev}");
    assert_eq!(bdev["driver_specific"]["courier"]["nguid"], target.nguid(), "{bdev}");
    assert_eq!(bdev["uuid"], target.uuid(), "{bdev}");
    for (io_size, depth) in
        [(4_096, 32), (8_192, 16), (64 << 10, 8), (128 << 10, 4), ((128 << 10) + 4_096, 2), (1 << 20, 2)]
    {
        load.run(verify(io_size, depth));
    }
    let told = load.rpc.ok("courier_pool_get", &json!({ "name": "p" }))[0].clone();
    assert_eq!(told["losses"], 0, "the connection was lost: {told}");
    assert_eq!(load.shut_down(secs(30)).code(), Some(0), "{}", load.process.tail());
}

/// Copies with SPDK's `spdk_dd`, on the bdev `disk` of the target's namespace.
fn copy(target: &Target, args: &[&str]) {
    let calls = [
        json!({ "method": "courier_pool_create", "params": target.params("p", &json!({})) }),
        json!({ "method": "bdev_courier_create", "params": { "name": "disk", "pool": "p", "nsid": 1 } }),
    ];
    let config = paths::new_dir("dd").join("config.json");
    fs::write(&config, configuration(&calls)).expect("a file can be written");
    let config = config.display().to_string();
    let common = ["-c", &config, "-m", "0x2", "--disable-cpumask-locks"];
    let all: Vec<String> = common.iter().chain(args).map(ToString::to_string).collect();
    let (status, output) = Process::run(&paths::stock("spdk_dd"), &all, Libraries::Plugin, secs(90));
    assert!(status.success(), "spdk_dd {args:?}: {status}\n{output}");
}

/// The target's file, read past Courier, holds what was written through it, to the last block.
fn the_checksum_in_the_pool_is_that_of_the_source(kind: TargetKind, fabric: Fabric) {
    let target = Target::start(kind, fabric, Network::First);
    let dir = paths::new_dir("sums");
    let (written, read) = (dir.join("written"), dir.join("read"));
    let bytes = usize::try_from(SIZE).expect("a small number");
    fs::write(&written, pattern(bytes)).expect("a file can be written");
    copy(&target, &["--if", &written.display().to_string(), "--ob", "disk", "--bs", "262144", "--qd", "4"]);
    assert_eq!(sha256(target.file()), sha256(&written), "what lies in the pool is not what was written");
    copy(&target, &["--ib", "disk", "--of", &read.display().to_string(), "--bs", "1048576", "--qd", "4"]);
    assert_eq!(sha256(&read), sha256(&written), "what was read is not what was written");
}

#[test]
#[serial]
#[ignore = "needs the machine of scripts/rdma-vm.sh"]
fn the_checksum_in_spdk_s_pool_over_rdma_is_that_of_the_source() {
    the_checksum_in_the_pool_is_that_of_the_source(TargetKind::Spdk, Fabric::Rdma);
}

#[test]
#[serial]
#[ignore = "needs the machine of scripts/rdma-vm.sh"]
fn the_checksum_in_the_kernel_s_pool_over_rdma_is_that_of_the_source() {
    the_checksum_in_the_pool_is_that_of_the_source(TargetKind::Kernel, Fabric::Rdma);
}

#[test]
#[serial]
#[ignore = "needs the machine of scripts/rdma-vm.sh"]
fn three_pools_of_two_devices_and_two_fabrics_are_used_at_once_by_two_reactors() {
    let targets = [
        Target::start(TargetKind::Spdk, Fabric::Rdma, Network::First),
        Target::start(TargetKind::Kernel, Fabric::Rdma, Network::Second),
        Target::start(TargetKind::Kernel, Fabric::Tcp, Network::First),
    ];
    let load = Load::start("0x3", &["-C"]);
    for (index, target) in targets.iter().enumerate() {
        let name = format!("p{index}");
        load.rpc.ok("courier_pool_create", &target.params(&name, &json!({})));
        load.create_bdevs(&name, &[1]);
    }
    let results = load.run(verify(8_192, 8));
    assert_eq!(results.len(), 6, "three bdevs on two cores: {results:?}");
    load.rpc.ok("courier_pool_delete", &json!({ "name": "p0" }));
    load.run(verify(16_384, 4));
    let told = load.rpc.ok("courier_pool_get", &Value::Null);
    let losses: Vec<_> = told.as_array().into_iter().flatten().map(|pool| &pool["losses"]).collect();
    assert_eq!(losses, [0, 0], "a connection was lost: {told}");
    assert_eq!(load.shut_down(secs(30)).code(), Some(0), "{}", load.process.tail());
}
