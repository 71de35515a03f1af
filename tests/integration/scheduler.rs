//! SPDK's dynamic scheduler, which moves threads from one reactor to another.

use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};
use serial_test::serial;

use crate::support::app::App;
use crate::support::controller::{Front, FrontEnd};
use crate::support::nvme::Driver;
use crate::support::secs;

/// The core on which each poll group is, as SPDK tells it.
fn poll_groups(app: &App) -> Vec<(String, Value)> {
    let reactors = app.rpc.ok("framework_get_reactors", &Value::Null);
    let reactors = reactors["reactors"].as_array().expect("a list").clone();
    let mut found = Vec::new();
    for reactor in reactors {
        for thread in reactor["lw_threads"].as_array().into_iter().flatten() {
            let name = thread["name"].as_str().unwrap_or_default();
            if name.starts_with("courier_") {
                found.push((name.to_owned(), reactor["lcore"].clone()));
            }
        }
    }
    found.sort_by(|one, other| one.0.cmp(&other.0));
    found
}

#[test]
#[serial]
fn poll_groups_stay_where_they_are_and_controllers_go_whatever_the_scheduler_does() {
    if FrontEnd::chosen() == FrontEnd::Stock {
        return;
    }
    let front = Front::start_on("0x3");
    front.rpc.ok("framework_set_scheduler", &json!({ "name": "dynamic", "period": 10_000 }));
    front.malloc("disk", 16, 512);
    let controllers = [front.controller("one", &["disk"]), front.controller("two", &[])];
    let mut driver = Driver::start(controllers[0].dir());
    let at_first = poll_groups(&front);
    assert_eq!(at_first.len(), 2, "{at_first:?}");
    let mut queues = [driver.create_queue(1, 16, None), driver.create_queue(2, 16, None)];
    for round in 0..5 {
        for queue in &mut queues {
            driver.check(queue, round);
        }
        // Some of the scheduler's periods, in which most threads are idle.
        sleep(Duration::from_millis(60));
    }
    assert_eq!(poll_groups(&front), at_first);
    for controller in &controllers {
        controller.delete();
    }
    front.controller("three", &["disk"]);
    let status = front.shut_down(secs(8));
    assert_eq!(status.code(), Some(0), "it ended with {status}\n{}", front.process.tail());
}
