//! Data goes both ways unharmed, through every kind of I/O.

use std::fs;

use serde_json::{Value, json};
use serial_test::serial;

use crate::support::bytes::{pattern, sha256};
use crate::support::load::{Load, Work};
use crate::support::pool::{Backing, Pool, SIZE, UUIDS};
use crate::support::process::{Libraries, Process};
use crate::support::{paths, secs, shared};

/// Verify workloads on one namespace of the shared pool.
fn verify(nsid: u32, block_size: u64) {
    let pool = shared::pool();
    let disk = format!("pn{nsid}");
    let load = Load::start("0x2", &["-T", &disk]);
    load.connect("p", &pool, &[nsid]);
    let work = |io_size, depth| Work { kind: "verify", io_size, depth, seconds: 1 };
    load.run(work(4_096, 32));
    load.run(work(1 << 20, 4));
    load.run(work(block_size, 128));
    load.run(work(block_size * 7, 16));
    load.run(work((1 << 20) - block_size, 3));
    load.run(work((128 << 10) + block_size, 8));
    load.run(work(4 << 20, 2));
    let told = load.rpc.ok("courier_pool_get", &json!({ "name": "p" }))[0].clone();
    assert_eq!(told["losses"], 0, "the connection was lost: {told}");
    assert_eq!(load.shut_down(secs(20)).code(), Some(0), "{}", load.process.tail());
}

#[test]
#[serial]
fn blocks_of_512_bytes_are_read_back_as_written_at_every_io_size() {
    verify(1, 512);
}

#[test]
#[serial]
fn blocks_of_4096_bytes_are_read_back_as_written_at_every_io_size() {
    verify(2, 4_096);
}

#[test]
#[serial]
fn two_reactors_share_a_pool_with_a_queue_pair_each() {
    let pool = shared::pool();
    let load = Load::start("0x3", &["-C"]);
    load.connect("p", &pool, &[1, 2]);
    let results = load.run(Work { kind: "verify", io_size: 8_192, depth: 16, seconds: 2 });
    assert_eq!(results.len(), 4, "two bdevs on two cores: {results:?}");
}

#[test]
#[serial]
fn every_kind_of_io_succeeds_and_is_counted() {
    let pool = shared::pool();
    let load = Load::start("0x2", &[]);
    load.connect("p", &pool, &[1, 2]);
    for kind in ["randrw", "unmap", "write_zeroes", "flush"] {
        load.run(Work { kind, io_size: 65_536, depth: 8, seconds: 1 });
    }
    let stats = load.rpc.ok("bdev_get_iostat", &Value::Null);
    let stats = stats["bdevs"].as_array().and_then(|all| all.iter().find(|one| one["name"] == "pn1")).cloned();
    let stats = stats.expect("it has statistics");
    for counter in ["num_read_ops", "num_write_ops", "num_unmap_ops", "bytes_read", "bytes_written", "bytes_unmapped"] {
        assert!(stats[counter].as_u64().is_some_and(|count| count > 0), "{counter} of {stats}");
    }
    assert!(stats["driver_specific"]["courier"].is_object(), "{stats}");
}

#[test]
#[serial]
fn a_bdev_is_described_as_the_pool_s_namespace_is() {
    let pool = shared::pool();
    let app = shared::courier();
    app.rpc.ok("courier_pool_create", &pool.params("p"));
    for (index, block_size) in [512, 4_096].into_iter().enumerate() {
        let (name, nsid) = (format!("disk{index}"), index + 1);
        app.rpc.ok("bdev_courier_create", &json!({ "name": name, "pool": "p", "nsid": nsid }));
        let bdev = app.bdev(&name);
        assert_eq!(bdev["block_size"], block_size, "{bdev}");
        assert_eq!(bdev["num_blocks"], SIZE / block_size, "{bdev}");
        assert_eq!(bdev["uuid"], UUIDS[index], "{bdev}");
        let ours = &bdev["driver_specific"]["courier"];
        assert_eq!(ours["pool"], "p", "{bdev}");
        assert_eq!(ours["nsid"], nsid, "{bdev}");
        for supported in ["read", "write", "unmap", "flush", "reset", "write_zeroes", "compare", "nvme_io", "abort"] {
            assert_eq!(bdev["supported_io_types"][supported], true, "{supported} of {bdev}");
        }
    }
    let told = app.rpc.ok("courier_pool_get", &json!({ "name": "p" }))[0].clone();
    assert_eq!(told["state"], "connected", "{told}");
    assert_eq!(told["namespaces"][1]["bdev"], "disk1", "{told}");
    assert_eq!(told["namespaces"][0]["num_blocks"], SIZE / 512, "{told}");
    app.rpc.ok("courier_pool_delete", &json!({ "name": "p" }));
    assert_eq!(app.bdevs(), Vec::<String>::new());
}

/// Copies with SPDK's `spdk_dd`, on the bdev `disk` of namespace 1 of a pool.
fn copy(pool: &Pool, args: &[&str]) {
    let calls = json!([
        { "method": "courier_pool_create", "params": pool.params("p") },
        { "method": "bdev_courier_create", "params": { "name": "disk", "pool": "p", "nsid": 1 } },
    ]);
    let config = paths::new_dir("dd").join("config.json");
    let text = json!({ "subsystems": [{ "subsystem": "bdev", "config": calls }] });
    fs::write(&config, text.to_string()).expect("a file can be written");
    let config = config.display().to_string();
    let common = ["-c", &config, "-m", "0x2", "--no-huge", "-s", "1024", "--disable-cpumask-locks"];
    let all: Vec<String> = common.iter().chain(args).map(ToString::to_string).collect();
    let (status, output) = Process::run(&paths::stock("spdk_dd"), &all, Libraries::Plugin, secs(60));
    assert!(status.success(), "spdk_dd {args:?}: {status}\n{output}");
}

/// What is written to our bdev is what lies in the pool's file, to the last block, and is read back so.
fn checksums(block_size: u32, io_size: &str) {
    let blocks = 16_usize * 256 + 3;
    let bytes = blocks * block_size as usize;
    let dir = paths::new_dir("sums");
    let (written, read) = (dir.join("written"), dir.join("read"));
    fs::write(&written, pattern(bytes)).expect("a file can be written");
    let backing = Backing::new(bytes as u64, block_size);
    let pool = Pool::files(std::slice::from_ref(&backing));

    copy(&pool, &["--if", &written.display().to_string(), "--ob", "disk", "--bs", io_size, "--qd", "8"]);
    assert_eq!(sha256(&backing.path), sha256(&written), "what lies in the pool is not what was written");
    copy(&pool, &["--ib", "disk", "--of", &read.display().to_string(), "--bs", io_size, "--qd", "8"]);
    assert_eq!(sha256(&read), sha256(&written), "what was read is not what was written");
}

#[test]
#[serial]
fn the_checksum_in_the_pool_is_that_of_the_source_with_512_byte_blocks() {
    checksums(512, "1048576");
}

#[test]
#[serial]
fn the_checksum_in_the_pool_is_that_of_the_source_with_4096_byte_blocks() {
    checksums(4_096, "20480");
}

#[test]
#[serial]
fn io_that_takes_too_long_is_aborted_at_the_pool() {
    let pool = Pool::malloc();
    let latency = 3_000_000;
    let slow = json!({
        "name": "slow", "base_bdev_name": "under", "avg_read_latency": latency, "p99_read_latency": latency,
        "avg_write_latency": latency, "p99_write_latency": latency,
    });
    pool.app.rpc.ok("bdev_null_create", &json!({ "name": "under", "block_size": 512, "num_blocks": 65_536 }));
    pool.app.rpc.ok("bdev_delay_create", &slow);
    assert_eq!(pool.add_namespace("slow"), 3);
    let load = Load::start("0x2", &["-f", "-k", "1", "-X"]);
    load.connect("p", &pool, &[3]);
    let work = Work { kind: "randrw", io_size: 4_096, depth: 4, seconds: 2 };
    let result = load.begin(work).result(30).unwrap_or_else(|error| panic!("{}", error.message));
    let count = |name: &str| result["results"][0][name].as_u64().unwrap_or_default();
    assert!(count("io_timeout") > 0 && count("io_failed") > 0, "nothing was aborted: {result}");
    load.assert_alive();
    let told: Value = load.rpc.ok("courier_pool_get", &Value::Null);
    assert_eq!(told[0]["losses"], 0, "an abort cost the connection: {told}");
}
