//! `courier_get_stats` tells the counters of pools and controllers.

use nvme_spec::IoOpcode;
use serde_json::{Value, json};
use serial_test::serial;

use crate::support::controller::{Front, FrontEnd};
use crate::support::nvme::{Driver, block_io};
use crate::support::vfio_user::{DMA_MAP, Memory, dma_map};
use crate::support::{secs, shared, wait_for};

/// Where memory without a file is.
const REMOTE: u64 = 1 << 33;

#[test]
#[serial]
fn io_from_memory_with_a_file_is_counted_as_not_bounced_and_without_one_as_bounced() {
    if FrontEnd::chosen() == FrontEnd::Stock {
        return;
    }
    let pool = shared::pool();
    let front = Front::start_with_pools();
    assert_eq!(stats(&front), json!({ "pools": [], "controllers": [] }));
    front.rpc.ok("courier_pool_create", &pool.params("p"));
    front.rpc.ok("bdev_courier_create", &json!({ "name": "disk", "pool": "p", "nsid": 1 }));
    let controller = front.controller("c", &["disk"]);
    let mut driver = Driver::start(controller.dir());
    let mut queue = driver.create_queue(1, 16, None);
    driver.check(&mut queue, 1);
    let expected = json!({ "reads": 1, "writes": 1, "bytes_read": 512, "bytes_written": 512, "bytes_bounced": 0 });
    wait_for("the I/Os to be counted", secs(5), || stats(&front)["controllers"][0]["io"] == expected);
    // Queue 2 is there, but nobody used it.
    let mut others = [driver.create_queue(2, 16, None), driver.create_queue(3, 16, None)];
    driver.check(&mut others[1], 1);
    let expected =
        [1, 3].map(|qid| json!({ "qid": qid, "reads": 1, "writes": 1, "bytes_read": 512, "bytes_written": 512 }));
    wait_for("the queues' I/Os to be counted", secs(5), || {
        stats(&front)["controllers"][0]["queues"] == json!(expected)
    });

    driver.client.call(DMA_MAP, &dma_map(REMOTE, 4_096, 0), &[]).expect("memory without a file can be mapped");
    driver.client.serve(REMOTE, Memory::new(4_096));
    assert!(driver.run_by_messages(&mut queue, block_io(IoOpcode::WRITE, 1, 0, 2, REMOTE)).status.is_success());
    wait_for("the bytes to be counted", secs(5), || stats(&front)["controllers"][0]["io"]["bytes_bounced"] == 1_024);

    let told = stats(&front);
    assert_eq!(told["controllers"][0]["name"], "c", "{told}");
    assert_eq!(told["pools"][0]["name"], "p", "{told}");
    assert_eq!(told["pools"][0]["paths"][0]["state"], "connected", "{told}");
    for counter in ["losses", "resent_ios"] {
        assert_eq!(told["pools"][0][counter], 0, "{told}");
    }
    // The first ones may have come before the queue was connected.
    assert!(told["pools"][0]["held_ios"].is_u64(), "{told}");
}

fn stats(front: &Front) -> Value {
    front.rpc.ok("courier_get_stats", &Value::Null)
}
