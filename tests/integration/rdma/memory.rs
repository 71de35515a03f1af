//! Memory of a client becomes known to RDMA devices and is forgotten again, whatever it is made of.

use nvme_spec::{IoOpcode, Sqe};
use serde_json::{Value, json};
use serial_test::serial;

use super::target::Network;
use super::{Fabric, Target, TargetKind};
use crate::support::controller::Front;
use crate::support::nvme::{BASE, DATA, Driver, PAGE, Queue, block_io};
use crate::support::vfio_user::{DMA_MAP, Memory, dma_map};
use crate::support::{secs, wait_for};

/// Where the regions of a test are in the guest, and where the same memory is once more.
const FIRST: u64 = 1 << 33;
const AGAIN: u64 = 1 << 34;
/// How many regions there are, of how many bytes each.
const REGIONS: u64 = 300;
const REGION: u64 = 64 << 10;

/// Makes a bdev of the target's namespace.
fn add_disk(front: &Front, target: &Target) {
    front.rpc.ok("courier_pool_create", &target.params("p", &json!({})));
    front.rpc.ok("bdev_courier_create", &json!({ "name": "disk", "pool": "p", "nsid": 1 }));
}

fn losses(front: &Front) -> u64 {
    let told = front.rpc.ok("courier_pool_get", &json!({ "name": "p" }));
    told[0]["losses"].as_u64().expect("a number")
}

/// Moves two pages from `from` to the disk and back to `to`.
#[track_caller]
fn move_pages(driver: &mut Driver, queue: &mut Queue, from: u64, to: u64) {
    for (opcode, at) in [(IoOpcode::WRITE, from), (IoOpcode::READ, to)] {
        let command = Sqe { prp2: at + PAGE, ..block_io(opcode, 1, 64, 2, at) };
        let done = driver.run(queue, command);
        assert!(done.status.is_success(), "{opcode:?} at {at:#x}: {done:?}");
    }
}

#[test]
#[serial]
#[ignore = "needs the machine of scripts/rdma-vm.sh"]
fn hundreds_of_regions_and_memory_mapped_twice_are_all_reached_and_forgotten_again() {
    let target = Target::start(TargetKind::Kernel, Fabric::Rdma, Network::First);
    let front = Front::start_with_pools();
    add_disk(&front, &target);
    let controller = front.controller("c", &["disk"]);
    let mut driver = Driver::start(controller.dir());
    let mut queue = driver.create_queue(1, 16, None);
    let memory = Memory::new(REGIONS * REGION);
    // Neighbours in the guest lie the other way round in the file.
    for index in 0..REGIONS {
        let offset = (REGIONS - 1 - index) * REGION;
        driver.client.map(FIRST + index * REGION, REGION, &memory.file, offset).expect("a region can be mapped");
    }
    driver.client.map(AGAIN, REGIONS * REGION, &memory.file, 0).expect("memory can be mapped twice");
    for index in (0..REGIONS - 1).step_by(23) {
        // The last page of a region, and the first of the next one.
        let (last, next) = ((REGIONS - index) * REGION - PAGE, (REGIONS - 2 - index) * REGION);
        let byte = u8::try_from(index % 200).expect("a small number");
        memory.write(last, &[byte; 4096]);
        memory.write(next, &[byte + 1; 4096]);
        let (from, to) = (FIRST + (index + 1) * REGION - PAGE, PAGE);
        move_pages(&mut driver, &mut queue, from, AGAIN + to);
        assert_eq!(memory.read::<4096>(to), [byte; 4096], "region {index}");
        assert_eq!(memory.read::<4096>(to + PAGE), [byte + 1; 4096], "region {}", index + 1);
    }
    driver.client.unmap(AGAIN, REGIONS * REGION).expect("it can be unmapped");
    for index in 0..REGIONS {
        driver.client.unmap(FIRST + index * REGION, REGION).expect("a region can be unmapped");
    }
    let gone = driver.run(&mut queue, block_io(IoOpcode::READ, 1, 0, 1, FIRST));
    assert!(!gone.status.is_success(), "memory that was unmapped is used");
    driver.client.map(AGAIN, REGIONS * REGION, &memory.file, 0).expect("it can be mapped again");
    move_pages(&mut driver, &mut queue, AGAIN, BASE + DATA);
    assert_eq!(driver.memory.read::<4096>(DATA), memory.read::<4096>(0));
    assert_eq!(losses(&front), 0, "the connection was lost\n{}", front.process.tail());
    front.assert_alive();
}

#[test]
#[serial]
#[ignore = "needs the machine of scripts/rdma-vm.sh"]
fn data_in_memory_without_a_file_go_to_a_pool_over_rdma_and_are_counted() {
    let target = Target::start(TargetKind::Kernel, Fabric::Rdma, Network::First);
    let front = Front::start_with_pools();
    add_disk(&front, &target);
    let controller = front.controller("c", &["disk"]);
    let mut driver = Driver::start(controller.dir());
    let mut queue = driver.create_queue(1, 16, None);
    driver.client.call(DMA_MAP, &dma_map(FIRST, REGION, 0), &[]).expect("memory without a file can be mapped");
    driver.client.serve(FIRST, Memory::new(REGION));
    driver.client.served().write(0, &[0xa5; 8192]);
    for (opcode, at) in [(IoOpcode::WRITE, FIRST), (IoOpcode::READ, FIRST + 4 * PAGE)] {
        let command = Sqe { prp2: at + PAGE, ..block_io(opcode, 1, 8, 2, at) };
        let done = driver.run_by_messages(&mut queue, command);
        assert!(done.status.is_success(), "{opcode:?}: {done:?}");
    }
    assert_eq!(driver.client.served().read_vec(4 * PAGE, 8192), [0xa5; 8192]);
    wait_for("the bytes to be counted", secs(5), || {
        let stats = front.rpc.ok("courier_get_stats", &Value::Null);
        stats["controllers"][0]["io"]["bytes_bounced"] == 4 * PAGE
    });
    assert_eq!(losses(&front), 0, "the connection was lost\n{}", front.process.tail());
}

/// Maps memory that a device refuses, and uses it: I/O of a pool over RDMA fails there, and nothing else does.
fn memory_that_a_device_refuses(mapped_first: bool) {
    /// What `courier_tgt` may lock, in KiB: enough for its own memory, and too little for the client's.
    const LIMIT_KIB: u64 = 2 << 20;
    const TOO_MUCH: u64 = 3 << 30;
    let target = Target::start(TargetKind::Kernel, Fabric::Rdma, Network::First);
    let front = Front::start_with_little_memory(LIMIT_KIB);
    front.malloc("ram", 8, 512);
    let controller = front.controller("c", &["ram"]);
    if !mapped_first {
        add_disk(&front, &target);
    }
    let mut driver = Driver::start(controller.dir());
    // It is all holes: what a device would have to fill.
    let memory = Memory::new(TOO_MUCH);
    driver.client.map(FIRST, TOO_MUCH, &memory.file, 0).expect("memory can be mapped");
    if mapped_first {
        add_disk(&front, &target);
    }
    assert_eq!(controller.add("disk"), json!(2));

    let mut queue = driver.create_queue(1, 16, None);
    for opcode in [IoOpcode::WRITE, IoOpcode::READ] {
        let done = driver.run(&mut queue, block_io(opcode, 2, 0, 1, FIRST));
        assert!(!done.status.is_success(), "a device reached memory that it refused: {done:?}");
        let done = driver.run(&mut queue, block_io(opcode, 1, 0, 8, FIRST));
        assert!(done.status.is_success(), "who needs no device cannot use the memory: {done:?}");
    }
    let done = driver.run(&mut queue, block_io(IoOpcode::WRITE, 2, 0, 1, BASE + DATA));
    assert!(done.status.is_success(), "other memory cannot be used: {done:?}");
    assert_eq!(losses(&front), 0, "the connection was lost\n{}", front.process.tail());
    let log = front.process.output();
    assert!(log.contains("I/O there fails"), "nobody is told of it\n{log}");

    // A pool on another device meets the same memory.
    let other = Target::start(TargetKind::Kernel, Fabric::Rdma, Network::Second);
    front.rpc.ok("courier_pool_create", &other.params("q", &json!({})));
    front.assert_alive();
}

#[test]
#[serial]
#[ignore = "needs the machine of scripts/rdma-vm.sh"]
fn memory_that_a_device_refuses_is_not_reached_and_harms_no_pool() {
    memory_that_a_device_refuses(false);
}

#[test]
#[serial]
#[ignore = "needs the machine of scripts/rdma-vm.sh"]
fn memory_that_a_device_refuses_when_the_first_pool_comes_harms_no_pool() {
    memory_that_a_device_refuses(true);
}
