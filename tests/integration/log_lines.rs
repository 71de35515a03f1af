//! How many lines the log takes of what happens again and again.

use nvme_spec::IoOpcode;
use pool_faults::{Do, On, ScriptedTarget};
use serde_json::json;
use serial_test::serial;

use crate::support::app::{App, Program};
use crate::support::controller::Front;
use crate::support::nvme::{BASE, DATA, Driver, block_io};
use crate::support::{secs, shared, wait_for};

/// Returns how many lines there are with those words.
fn lines_with(app: &App, words: &str) -> usize {
    app.process.output().lines().filter(|line| line.contains(words)).count()
}

#[test]
#[serial]
fn a_client_that_resets_with_hundreds_of_commands_on_a_pool_that_hangs_causes_few_lines() {
    /// Entries of the client's queue, and of the pool's: the rest waits in SPDK's initiator.
    const ENTRIES: u16 = 256;
    const POOL_ENTRIES: u16 = 32;
    const MOST: usize = 60;
    let (target, front) = (ScriptedTarget::new(), Front::start_with_pools());
    let pool = json!({
        "name": "p", "trtype": "tcp", "traddr": "127.0.0.1", "trsvcid": target.port().to_string(), "subnqn": target.nqn(),
        "io_queue_size": POOL_ENTRIES,
    });
    front.rpc.ok("courier_pool_create", &pool);
    front.rpc.ok("bdev_courier_create", &json!({ "name": "d", "pool": "p", "nsid": 1 }));
    let controller = front.controller("c", &["d"]);
    // It does not answer the flush that asks whether it lives either.
    for opcode in [IoOpcode::READ, IoOpcode::FLUSH] {
        target.on(On::io(opcode), Do::Hold);
    }
    let mut driver = Driver::start(controller.dir());
    let mut queue = driver.create_queue(1, ENTRIES, None);
    let before = front.process.output().lines().count();
    let commands = vec![block_io(IoOpcode::READ, 1, 0, 1, BASE + DATA); usize::from(ENTRIES) - 1];
    driver.submit(&mut queue, &commands);
    assert!(target.wait(secs(10), |target| target.held() > 0), "no read comes");
    // All of them are aborted, and then lost with the pool's queue.
    driver.disable();
    let lines = front.process.output().lines().count() - before;
    assert!(lines <= MOST, "{lines} lines for {} commands\n{}", commands.len(), front.process.tail());
    front.assert_alive();
}

#[test]
#[serial]
fn a_line_of_spdks_that_comes_again_and_again_is_left_out_and_counted_and_others_are_written() {
    const TIMES: usize = 250;
    const NAME: &str = "no-such-bdev";
    shared::rest();
    let app = App::start(Program::Courier, "0x2", &[]);
    for _ in 0..TIMES {
        app.rpc.fails("bdev_get_iostat", &json!({ "name": NAME }), &[]);
    }
    app.rpc.fails("bdev_set_qd_sampling_period", &json!({ "name": NAME, "period": 0 }), &[]);
    wait_for("the end of the flood to be told", secs(10), || lines_with(&app, "more lines like this") > 0);
    let output = app.process.output();
    let told: usize = output.lines().filter_map(left_out).sum();
    let written = lines_with(&app, "unable to find bdev");
    assert!((1..TIMES * 3 / 4).contains(&written), "{written} lines of {TIMES}\n{}", app.process.tail());
    assert!(told > 0 && written + told >= TIMES, "{written} lines of {TIMES}, and {told} are said to be left out");
    let other = format!("Failed to open bdev '{NAME}'");
    assert!(lines_with(&app, &other) > 0, "another line is hidden\n{}", app.process.tail());
}

/// Returns how many lines a line tells were left out.
fn left_out(line: &str) -> Option<usize> {
    let (before, _) = line.split_once(" more lines like this")?;
    before.rsplit(' ').next()?.parse().ok()
}
