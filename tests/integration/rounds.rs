//! Creating and deleting, over and over, leaves nothing behind.

use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};
use serial_test::serial;

use crate::support::app::App;
use crate::support::shared;

/// How much the heap may grow, in KiB. It goes up and down by half of that without growing in the long run.
const HEAP: u64 = 768;
/// How much the memory for I/O may grow, in KiB. It is counted once a page of it is used; the warm-up uses most.
const DMA: u64 = 1_024;

/// What an application has of things that a round makes.
#[derive(Debug, PartialEq, Eq)]
struct Things {
    pollers: usize,
    channels: usize,
    threads: usize,
    descriptors: usize,
}

fn things(app: &App) -> Things {
    let sum = |method: &str, lists: &[&str]| {
        let told = app.rpc.ok(method, &Value::Null);
        let threads = told["threads"].as_array().cloned().unwrap_or_default();
        let len = |thread: &Value, list: &str| thread[list].as_array().map_or(0, Vec::len);
        threads.iter().map(|thread| lists.iter().map(|list| len(thread, list)).sum::<usize>()).sum()
    };
    let pollers = sum("thread_get_pollers", &["active_pollers", "timed_pollers", "paused_pollers"]);
    let channels = sum("thread_get_io_channels", &["io_channels"]);
    let threads = app.rpc.ok("thread_get_stats", &Value::Null)["threads"].as_array().map_or(0, Vec::len);
    // The connections of the calls above are closed when the target sees that.
    sleep(Duration::from_millis(300));
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", app.process.pid())).expect("it runs").count();
    Things { pollers, channels, threads, descriptors }
}

/// Does `warm_up` rounds, and then `count` more, which must leave nothing behind.
pub(crate) fn rounds(app: &App, warm_up: u32, count: u32, round: impl Fn()) {
    for _ in 0..warm_up {
        round();
    }
    let (memory, before) = (app.process.memory(), things(app));
    for _ in 0..count {
        round();
    }
    assert_eq!(things(app), before, "something was left behind");
    let now = app.process.memory();
    let (heap, dma) = (now.heap_kib.saturating_sub(memory.heap_kib), now.dma_kib.saturating_sub(memory.dma_kib));
    assert!(heap <= HEAP && dma <= DMA, "{count} rounds cost {heap} KiB of the heap, and {dma} KiB of memory for I/O");
}

#[test]
#[serial]
fn a_thousand_rounds_of_a_bdev_cost_no_memory() {
    let pool = shared::pool();
    let app = shared::courier();
    app.rpc.ok("courier_pool_create", &pool.params("p"));
    rounds(&app, 100, 1_000, || {
        app.rpc.ok("bdev_courier_create", &json!({ "name": "disk", "pool": "p", "nsid": 1 }));
        app.rpc.ok("bdev_courier_delete", &json!({ "name": "disk" }));
    });
    assert_eq!(app.bdevs(), Vec::<String>::new());
    app.rpc.ok("courier_pool_delete", &json!({ "name": "p" }));
}

#[test]
#[serial]
fn a_hundred_rounds_of_a_pool_cost_no_memory() {
    let pool = shared::pool();
    let app = shared::courier();
    rounds(&app, 50, 100, || {
        app.rpc.ok("courier_pool_create", &pool.params("p"));
        app.rpc.ok("bdev_courier_create", &json!({ "name": "disk", "pool": "p", "nsid": 1 }));
        app.rpc.ok("courier_pool_delete", &json!({ "name": "p" }));
    });
    assert_eq!(app.bdevs(), Vec::<String>::new());
}
