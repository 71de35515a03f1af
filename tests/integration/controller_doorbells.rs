//! Shadow doorbells (Doorbell Buffer Config), as Linux uses them.

use std::time::Instant;

use nvme_spec::{AdminOpcode, IoOpcode, Sqe};
use serial_test::serial;

use crate::support::controller::{Front, FrontEnd};
use crate::support::nvme::{BASE, DATA, Driver, PAGE, Queue, block_io};
use crate::support::secs;

/// Where the shadows and their event indexes are in the driver's memory.
const SHADOWS: (u64, u64) = (DATA - 2 * PAGE, DATA - PAGE);

/// The driver enables the controller, makes queues, sets shadow doorbells and sends a command in each queue at once.
fn begin_as_linux(driver: &mut Driver, queues: u16) -> Vec<Queue> {
    driver.enable();
    // The completions of the admin queue so far.
    let slot = 2 * u64::from(queues);
    let mut queues: Vec<_> = (1..=queues).map(|qid| driver.create_queue(qid, 16, None)).collect();
    let (prp1, prp2) = (BASE + SHADOWS.0, BASE + SHADOWS.1);
    driver.submit_admin(Sqe::admin(AdminOpcode::DOORBELL_BUFFER_CONFIG).with_prps(prp1, prp2));
    // A driver that sleeps comes too late to meet a poll group that has not heard of it.
    let start = Instant::now();
    while !driver.phase_in(&driver.admin, slot) {
        assert!(start.elapsed() < secs(10), "there is no completion");
    }
    for queue in &mut queues {
        queue.use_shadows(SHADOWS);
        driver.submit(queue, &[block_io(IoOpcode::READ, 1, 0, 1, BASE + DATA)]);
    }
    queues
}

/// Linux sends it at every start of the drive.
#[test]
#[serial]
fn no_command_right_after_doorbell_buffer_config_is_lost() {
    if FrontEnd::chosen() == FrontEnd::Stock {
        return;
    }
    let front = Front::start_on("0x3");
    front.null("disk", 16);
    let controller = front.controller("shadow", &["disk"]);
    let mut driver = Driver::start(controller.dir());
    for life in 0..60 {
        let mut queues = begin_as_linux(&mut driver, 4);
        for queue in &mut queues {
            assert!(driver.complete(queue).status.is_success(), "life {life}");
        }
        for queue in &mut queues {
            for count in [3, 1, 7] {
                let done = driver.run_any(queue, block_io(IoOpcode::READ, 1, 0, 1, BASE + DATA), count);
                assert!(done.iter().all(|done| done.status.is_success()), "life {life}: {done:?}");
            }
        }
    }
    drop(driver);
    controller.delete();
    front.assert_alive();
}
