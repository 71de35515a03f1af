//! SPDK's own NVMe tools, as clients of our bdevs behind SPDK's own front end.

use serde_json::json;
use serial_test::serial;

use crate::support::app::{App, Program};
use crate::support::export::Export;
use crate::support::pool::UUIDS;
use crate::support::process::{Libraries, Process};
use crate::support::{paths, secs, shared};

fn tool(name: &str, args: &[&str]) -> String {
    let args: Vec<String> = args.iter().map(ToString::to_string).collect();
    let (status, output) = Process::run(&paths::stock(name), &args, Libraries::Spdk, secs(60));
    assert!(status.success(), "{name} {args:?}: {status}\n{output}");
    output
}

/// Returns a `courier_tgt` with bdevs `disk1` and `disk2` of the shared pool.
fn courier() -> App {
    let app = App::start(Program::Courier, "0x2", &[]);
    app.rpc.ok("courier_pool_create", &shared::pool().params("p"));
    for nsid in [1, 2] {
        app.rpc.ok("bdev_courier_create", &json!({ "name": format!("disk{nsid}"), "pool": "p", "nsid": nsid }));
    }
    app
}

/// SPDK's `spdk_nvme_identify` and `spdk_nvme_perf` find the two bdevs at `address`, as the pool describes them.
fn identify_and_use(address: &str) {
    let told = tool("spdk_nvme_identify", &["-r", address, "--no-huge", "-d", "512"]);
    for uuid in UUIDS {
        assert!(told.contains(uuid), "the namespace's UUID {uuid} is not in:\n{told}");
    }
    for words in ["131072 (0GiB)", "16384 (0GiB)", "Data Size:   512", "Data Size:  4096"] {
        assert!(told.contains(words), "{words:?} is not in:\n{told}");
    }
    for (io_size, depth) in [("4096", "32"), ("131072", "8")] {
        let args = ["-r", address, "--no-huge", "-s", "512", "-q", depth, "-o", io_size];
        let told = tool("spdk_nvme_perf", &[&args[..], &["-w", "randrw", "-M", "50", "-t", "1"]].concat());
        assert!(told.contains("Total") && !told.contains("completed with error"), "{told}");
    }
}

#[test]
#[serial]
fn spdk_s_nvme_tools_find_and_use_our_bdevs_behind_nvme_tcp() {
    let app = courier();
    let export = Export::new(&app, &["disk1", "disk2"]);
    identify_and_use(&export.transport_id());
    app.assert_alive();
}

#[test]
#[serial]
fn spdk_s_nvme_tools_find_and_use_our_bdevs_behind_vfio_user() {
    let app = courier();
    identify_and_use(&Export::vfio_user(&app, &["disk1", "disk2"]));
    app.assert_alive();
}
