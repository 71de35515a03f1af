//! A client's I/O on our vfio-user controller goes to a pool from the client's own memory.

use serde_json::{Value, json};
use serial_test::serial;

use super::target::Network;
use super::{Fabric, Target, TargetKind, verify};
use crate::support::controller::Front;
use crate::support::load::Load;
use crate::support::secs;

/// Puts the target's namespace behind a controller of `courier_tgt`.
fn front(target: &Target) -> Front {
    let front = Front::start_with_pools();
    front.rpc.ok("courier_pool_create", &target.params("p", &json!({})));
    front.rpc.ok("bdev_courier_create", &json!({ "name": "disk", "pool": "p", "nsid": 1 }));
    front
}

fn data_of_a_client_is_verified_at_every_io_size(kind: TargetKind, fabric: Fabric, memory: &[&str]) {
    let target = Target::start(kind, fabric, Network::First);
    let front = front(&target);
    let controller = front.controller("c", &["disk"]);
    let load = Load::start_stock("0x1", memory);
    controller.attach(&load);
    for (io_size, depth) in [(4_096, 32), (8_192, 8), (64 << 10, 4), (128 << 10, 2), (1 << 20, 1)] {
        load.run(verify(io_size, depth));
    }
    let told = front.rpc.ok("courier_pool_get", &json!({ "name": "p" }))[0].clone();
    assert_eq!(told["losses"], 0, "the connection was lost: {told}");
    let stats = front.rpc.ok("courier_get_stats", &Value::Null);
    let io = &stats["controllers"][0]["io"];
    assert!(io["bytes_written"].as_u64() > Some(0), "{stats}");
    assert_eq!(io["bytes_bounced"], 0, "data was not moved from where it was: {stats}");
    assert_eq!(load.shut_down(secs(30)).code(), Some(0), "{}", load.process.tail());
    front.assert_alive();
}

#[test]
#[serial]
#[ignore = "needs the machine of scripts/rdma-vm.sh"]
fn hugepages_of_a_client_are_reached_by_spdk_s_target_over_rdma() {
    data_of_a_client_is_verified_at_every_io_size(TargetKind::Spdk, Fabric::Rdma, &["-g"]);
}

#[test]
#[serial]
#[ignore = "needs the machine of scripts/rdma-vm.sh"]
fn ordinary_pages_of_a_client_are_reached_by_spdk_s_target_over_rdma() {
    data_of_a_client_is_verified_at_every_io_size(TargetKind::Spdk, Fabric::Rdma, &["--no-huge", "-s", "512"]);
}

#[test]
#[serial]
#[ignore = "needs the machine of scripts/rdma-vm.sh"]
fn hugepages_of_a_client_are_reached_by_the_kernel_s_target_over_rdma() {
    data_of_a_client_is_verified_at_every_io_size(TargetKind::Kernel, Fabric::Rdma, &["-g"]);
}

#[test]
#[serial]
#[ignore = "needs the machine of scripts/rdma-vm.sh"]
fn a_client_s_data_goes_to_the_kernel_s_target_over_tcp() {
    data_of_a_client_is_verified_at_every_io_size(TargetKind::Kernel, Fabric::Tcp, &["-g"]);
}
