//! SPDK's dynamic scheduler, which moves threads from one reactor to another.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{scope, sleep};
use std::time::Duration;

use serde_json::{Value, json};
use serial_test::serial;

use crate::support::app::App;
use crate::support::controller::{Front, FrontEnd};
use crate::support::nvme::Driver;
use crate::support::{secs, wait_for};

/// Returns the core on which each poll group is, as SPDK tells it.
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

/// Asks for other cores for the poll groups, by `thread_set_cpumask`: each is to go where the other one is, and then
/// anywhere.
fn set_masks(app: &App) {
    let threads = app.rpc.ok("thread_get_stats", &Value::Null);
    for mask in ["0x2", "0x1", "0x3"] {
        for thread in threads["threads"].as_array().expect("a list") {
            if thread["name"].as_str().is_some_and(|name| name.starts_with("courier_")) {
                app.rpc.ok("thread_set_cpumask", &json!({ "id": thread["id"], "cpumask": mask }));
            }
        }
    }
}

fn set_dynamic(app: &App) {
    app.rpc.ok("framework_set_scheduler", &json!({ "name": "dynamic", "period": 2_000 }));
}

/// Has the poll groups' cores asked for and SPDK's dynamic scheduler set by `deeds` while I/O goes on: everything stays
/// where it is, and all of it can be ended.
#[track_caller]
fn all_goes_on(deeds: &[fn(&App)]) {
    let front = Front::start_on("0x3");
    front.malloc("disk", 16, 512);
    let controller = front.controller("one", &["disk"]);
    let mut driver = Driver::start(controller.dir());
    let mut queues = [driver.create_queue(1, 16, None), driver.create_queue(2, 16, None)];
    let at_first = poll_groups(&front);
    assert_eq!(at_first.len(), 2, "{at_first:?}");
    let (rounds, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
    scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let round = rounds.fetch_add(1, Ordering::Relaxed);
                for queue in &mut queues {
                    driver.check(queue, (round % 256).try_into().expect("a byte"));
                }
            }
        });
        for deed in deeds {
            deed(&front);
            // Some of the scheduler's periods.
            sleep(Duration::from_millis(30));
            let before = rounds.load(Ordering::Relaxed);
            wait_for("I/O to go on", secs(10), || {
                rounds.load(Ordering::Relaxed) > before + 10 || front.process.status().is_some()
            });
            front.assert_alive();
        }
        is_over.store(true, Ordering::Relaxed);
    });
    assert_eq!(poll_groups(&front), at_first);
    drop(driver);
    controller.delete();
    front.controller("two", &["disk"]);
    let status = front.shut_down(secs(8));
    assert_eq!(status.code(), Some(0), "it ended with {status}\n{}", front.process.tail());
    let said = front.process.output().matches("its cpumask cannot be changed").count();
    assert!(said >= 6, "each refusal is told, not {said} of them\n{}", front.process.tail());
}

#[test]
#[serial]
fn other_cores_asked_for_before_the_dynamic_scheduler_comes_leave_poll_groups_where_they_are() {
    if FrontEnd::chosen() == FrontEnd::Courier {
        all_goes_on(&[set_masks, set_dynamic]);
    }
}

#[test]
#[serial]
fn other_cores_asked_for_under_the_dynamic_scheduler_leave_poll_groups_where_they_are() {
    if FrontEnd::chosen() == FrontEnd::Courier {
        all_goes_on(&[set_dynamic, set_masks, set_masks]);
    }
}
