//! SPDK's own tools as clients of our controllers. (Its example `hotplug` looks for local PCIe drives only.)

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Barrier;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nvme_spec::{CommandFlags, IoOpcode, Sqe, Status, StatusCode};
use serde_json::json;
use serial_test::serial;

use crate::support::bytes::{pattern, sha256};
use crate::support::controller::{Front, FrontEnd};
use crate::support::load::{Load, Work};
use crate::support::nvme::{BASE, DATA, Driver, PAGE, block_io, was_aborted};
use crate::support::pool::Backing;
use crate::support::process::{Libraries, Process};
use crate::support::vfio_user::Memory;
use crate::support::{paths, secs};

/// Runs one of SPDK's tools without hugepages, on the core that the front end leaves free.
fn tool(name: &str, args: &[&str]) -> String {
    let args: Vec<String> = args.iter().map(ToString::to_string).collect();
    let (status, output) = Process::run(&paths::stock(name), &args, Libraries::Spdk, secs(60));
    assert!(status.success(), "{name} {args:?}: {status}\n{output}");
    output
}

/// A front end with bdevs `small` (blocks of 512 bytes) and `large` (4,096 bytes).
fn front() -> Front {
    let front = Front::start();
    front.malloc("small", 64, 512);
    front.malloc("large", 64, 4_096);
    front
}

#[test]
#[serial]
fn spdk_nvme_identify_describes_the_controller_and_its_namespaces() {
    let front = front();
    let controller = front.controller("c", &["small", "large"]);
    let told = tool("spdk_nvme_identify", &["-r", &controller.transport_id(), "--no-huge", "-d", "512"]);
    for words in ["131072 (0GiB)", "16384 (0GiB)", "Data Size:   512", "Data Size:  4096", "SMART"] {
        assert!(told.contains(words), "{words:?} is not in:\n{told}");
    }
    for bdev in ["small", "large"] {
        let bdev = front.bdev(bdev);
        let uuid = bdev["uuid"].as_str().unwrap_or_default();
        assert!(!uuid.is_empty() && told.contains(uuid), "the bdev's UUID {uuid:?} is not in:\n{told}");
    }
    if FrontEnd::chosen() == FrontEnd::Courier {
        assert!(told.contains("2.0"), "the version of NVMe is not in:\n{told}");
    }
    front.assert_alive();
}

#[test]
#[serial]
fn spdk_nvme_perf_reads_and_writes_at_every_depth_and_size() {
    let front = front();
    let controller = front.controller("c", &["small", "large"]);
    let address = controller.transport_id();
    for (io_size, depth) in [("4096", "1"), ("4096", "32"), ("4096", "128"), ("131072", "8"), ("65536", "64")] {
        let args = ["-r", &address, "--no-huge", "-s", "512", "-q", depth, "-o", io_size];
        let told = tool("spdk_nvme_perf", &[&args[..], &["-w", "randrw", "-M", "50", "-t", "1"]].concat());
        assert!(told.contains("Total") && !told.contains("completed with error"), "{told}");
    }
    front.assert_alive();
}

#[test]
#[serial]
fn bdevperf_verifies_what_it_wrote_at_every_depth_and_size() {
    let front = front();
    let controller = front.controller("c", &["small", "large"]);
    let load = controller.load(&[]);
    assert_eq!(load.bdevs(), ["nn1", "nn2"]);
    for (io_size, depth) in [(4_096, 1), (4_096, 32), (4_096, 128), (128 << 10, 1), (128 << 10, 32), (1 << 20, 4)] {
        let results = load.run(Work { kind: "verify", io_size, depth, seconds: 1 });
        assert_eq!(results.len(), 2, "both namespaces are used: {results:?}");
    }
    for kind in ["unmap", "write_zeroes", "flush"] {
        load.run(Work { kind, io_size: 64 << 10, depth: 8, seconds: 1 });
    }
    assert_eq!(load.shut_down(secs(20)).code(), Some(0), "{}", load.process.tail());
    front.assert_alive();
}

#[test]
#[serial]
fn io_of_one_block_and_of_odd_sizes_is_verified() {
    let front = front();
    let controller = front.controller("c", &["small"]);
    let load = controller.load(&[]);
    for (io_size, depth) in [(512, 128), (512 * 7, 16), ((128 << 10) - 512, 3), ((128 << 10) + 512, 8)] {
        load.run(Work { kind: "verify", io_size, depth, seconds: 1 });
    }
    assert_eq!(load.shut_down(secs(20)).code(), Some(0), "{}", load.process.tail());
}

#[test]
#[serial]
fn queues_of_two_cores_of_a_client_are_served_by_two_reactors() {
    let front = Front::start_on("0x3");
    front.malloc("small", 64, 512);
    let controller = front.controller("c", &["small"]);
    let load = Load::start_stock("0x3", &["-C"]);
    controller.attach(&load);
    let results = load.run(Work { kind: "verify", io_size: 8_192, depth: 16, seconds: 2 });
    assert_eq!(results.len(), 2, "one bdev on two cores: {results:?}");
    assert_eq!(load.shut_down(secs(20)).code(), Some(0), "{}", load.process.tail());
    front.assert_alive();
}

/// The Abort command by hand: SPDK's example `abort` crashes over vfio-user, whatever the server, since SPDK's client
/// cannot list the commands of such a queue.
#[test]
#[serial]
fn a_command_that_takes_long_is_aborted_at_the_bdev() {
    const LATENCY: u64 = 3_000_000;
    let front = Front::start();
    front.slow("slow", LATENCY);
    let controller = front.controller("c", &["slow"]);
    let mut driver = Driver::start(controller.dir());
    let mut queue = driver.create_queue(1, 16, None);
    let start = Instant::now();
    let cid = driver.submit(&mut queue, &[block_io(IoOpcode::READ, 1, 0, 8, BASE + DATA)]);
    sleep(Duration::from_millis(100));
    let abort = |cid| Sqe::abort(1, cid);
    let aborted = driver.admin(abort(cid));
    assert!(was_aborted(aborted), "it was not aborted: {aborted:?}");
    let done = driver.complete(&mut queue);
    let took = start.elapsed();
    assert!(!done.status.is_success() && took < Duration::from_micros(LATENCY / 2), "{done:?} after {took:?}");
    for unknown in [cid, 999] {
        let aborted = driver.admin(abort(unknown));
        assert!(aborted.status.is_success() && !was_aborted(aborted), "what is not there was aborted: {aborted:?}");
    }
    front.assert_alive();
}

/// The bdev layer compares for a bdev that cannot, and does the pair with the blocks locked.
#[test]
#[serial]
fn compare_and_its_fused_pair_with_write_tell_a_difference_and_write_nothing_then() {
    let front = front();
    let controller = front.controller("c", &["small"]);
    let mut driver = Driver::start(controller.dir());
    let mut queue = driver.create_queue(1, 16, None);
    let [old, new, other, read] = [0, 1, 2, 3].map(|page| DATA + page * PAGE);
    for (place, byte) in [(old, 1), (new, 2), (other, 3)] {
        driver.memory.write(place, &[byte; 512]);
    }
    let io = |opcode, place| block_io(opcode, 1, 5, 1, BASE + place);
    assert!(driver.run(&mut queue, io(IoOpcode::WRITE, old)).status.is_success());
    assert!(driver.run(&mut queue, io(IoOpcode::COMPARE, old)).status.is_success());
    let unequal = driver.run(&mut queue, io(IoOpcode::COMPARE, other)).status;
    assert_eq!(unequal.with_phase(false), Status::COMPARE_FAILURE);
    let pair = |from, to| {
        [
            io(IoOpcode::COMPARE, from).with_flags(CommandFlags::FUSED_FIRST),
            io(IoOpcode::WRITE, to).with_flags(CommandFlags::FUSED_SECOND),
        ]
    };
    let failed = [StatusCode::COMPARE_FAILURE, StatusCode::ABORTED_FAILED_FUSED];
    for (from, codes, holds) in [(other, failed, 1), (old, [StatusCode::SUCCESS; 2], 2)] {
        let done = driver.run_all(&mut queue, &pair(from, new));
        assert_eq!([done[0].status.code(), done[1].status.code()], codes, "{done:?}");
        assert!(driver.run(&mut queue, io(IoOpcode::READ, read)).status.is_success());
        assert_eq!(driver.memory.read::<512>(read), [holds; 512], "after {codes:?}");
    }
    front.assert_alive();
}

#[test]
#[serial]
fn the_example_reconnect_does_io_without_an_error() {
    let front = front();
    let controller = front.controller("c", &["small"]);
    let address = controller.transport_id();
    let args =
        ["-r", &address, "--no-huge", "-s", "512", "-c", "0x1", "-q", "32", "-o", "4096", "-w", "randrw", "-M", "50"];
    let told = tool("reconnect", &[&args[..], &["-t", "3"]].concat());
    assert!(told.contains("Launching workers") && !told.contains("error") && !told.contains("failed"), "{told}");
    front.assert_alive();
}

/// Copies with SPDK's `spdk_dd`, on namespace 1 of a controller.
fn copy(address: &str, args: &[&str]) {
    let attach = json!([{
        "method": "bdev_nvme_attach_controller",
        "params": { "name": "n", "trtype": "VFIOUSER", "traddr": address },
    }]);
    let config = paths::new_dir("dd").join("config.json");
    let text = json!({ "subsystems": [{ "subsystem": "bdev", "config": attach }] });
    fs::write(&config, text.to_string()).expect("a file can be written");
    let config = config.display().to_string();
    let common = ["-c", &config, "-m", "0x1", "--no-huge", "-s", "512", "--disable-cpumask-locks"];
    tool("spdk_dd", &[&common[..], args].concat());
}

/// What is written through a controller is what lies in the bdev's file, to the last block, and is read back so.
fn checksums(block_size: u32, io_size: &str) {
    let bytes = (16 * 256 + 3) * block_size as usize;
    let dir = paths::new_dir("sums");
    let (written, read) = (dir.join("written"), dir.join("read"));
    fs::write(&written, pattern(bytes)).expect("a file can be written");
    let backing = Backing::new(bytes as u64, block_size);
    let front = Front::start();
    let file = json!({ "name": "file", "filename": backing.path, "block_size": block_size });
    front.rpc.ok("bdev_aio_create", &file);
    let controller = front.controller("c", &["file"]);
    let address = controller.dir().display().to_string();

    copy(&address, &["--if", &written.display().to_string(), "--ob", "nn1", "--bs", io_size, "--qd", "8"]);
    assert_eq!(sha256(&backing.path), sha256(&written), "what lies in the file is not what was written");
    copy(&address, &["--ib", "nn1", "--of", &read.display().to_string(), "--bs", io_size, "--qd", "8"]);
    assert_eq!(sha256(&read), sha256(&written), "what was read is not what was written");
}

#[test]
#[serial]
fn the_checksum_behind_the_controller_is_that_of_the_source_with_512_byte_blocks() {
    checksums(512, "131072");
}

#[test]
#[serial]
fn the_checksum_behind_the_controller_is_that_of_the_source_with_4096_byte_blocks() {
    checksums(4_096, "1048576");
}

/// A rebooted host begins with what it finds: the second client sees the first one's data.
#[test]
#[serial]
fn a_client_that_goes_leaves_a_controller_for_the_next_one() {
    let front = front();
    let controller = front.controller("c", &["small", "large"]);
    for round in 0..3 {
        let load = controller.load(&[]);
        load.run(Work { kind: "verify", io_size: 4_096, depth: 16, seconds: 1 });
        assert_eq!(load.shut_down(secs(20)).code(), Some(0), "round {round}\n{}", load.process.tail());
        sleep(Duration::from_millis(50));
    }
    front.assert_alive();
}

#[test]
#[serial]
fn clients_that_map_at_the_same_time_have_each_their_own_memory_which_is_populated_when_that_is_answered() {
    const CLIENTS: u8 = 6;
    const REGIONS: u8 = 8;
    const SIZE: u64 = 4 << 20;
    if FrontEnd::chosen() == FrontEnd::Stock {
        return;
    }
    let front = Front::start();
    let dirs: Vec<_> = (0..CLIENTS).map(|number| paths::new_dir(&format!("c{number}"))).collect();
    for (number, dir) in dirs.iter().enumerate() {
        let (name, bdev) = (format!("c{number}"), format!("d{number}"));
        front.malloc(&bdev, 1, 512);
        front.rpc.ok("courier_controller_create", &json!({ "name": name, "traddr": dir, "prefault": true }));
        front.rpc.ok("courier_controller_add_ns", &json!({ "name": name, "bdev_name": bdev }));
    }
    let all = Barrier::new(dirs.len());
    std::thread::scope(|scope| {
        for (number, dir) in (0..CLIENTS).zip(&dirs) {
            let all = &all;
            scope.spawn(move || {
                let mut driver = Driver::start(dir);
                let mut queue = driver.create_queue(1, 16, None);
                all.wait();
                for region in 0..REGIONS {
                    let at = BASE + (1 << 30) + u64::from(region) * SIZE;
                    let memory = Memory::new(SIZE);
                    driver.client.map(at, SIZE, &memory.file, 0).expect("it can be mapped");
                    let populated = memory.file.metadata().expect("a file").blocks() * 512;
                    assert!(populated >= SIZE, "client {number}, region {region}: {populated} bytes");
                    let block = [number << 4 | region; 512];
                    memory.write(0, &block);
                    for (opcode, place) in [(IoOpcode::WRITE, 0), (IoOpcode::READ, PAGE)] {
                        let done = driver.run(&mut queue, block_io(opcode, 1, region.into(), 1, at + place));
                        assert!(done.status.is_success(), "client {number}, region {region}: {done:?}");
                    }
                    assert_eq!(memory.read_vec(PAGE, 512), block, "client {number}, region {region}");
                }
            });
        }
    });
    front.assert_alive();
}
