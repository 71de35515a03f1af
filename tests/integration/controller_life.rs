//! Controllers come and go, and so do their clients, whatever is in flight.

use std::fs;
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use nvme_spec::IoOpcode;
use nvme_spec::identify::Cns;
use serde_json::{Value, json};
use serial_test::serial;

use crate::rounds::rounds;
use crate::support::app::{App, Program};
use crate::support::controller::{Controller, Front, FrontEnd};
use crate::support::load::Work;
use crate::support::nvme::{BASE, DATA, Driver, SIZE, block_io};
use crate::support::vfio_user::{self, BAR0, Client, DMA_UNMAP, REGION_READ, REPLY_LIMIT, dma_unmap, region_access};
use crate::support::{paths, secs, wait_for};

const RANDOM: Work<'_> = Work { kind: "randrw", io_size: 4_096, depth: 32, seconds: 30 };
const VERIFY: Work<'_> = Work { kind: "verify", io_size: 4_096, depth: 32, seconds: 1 };

fn front() -> Front {
    let front = Front::start();
    front.malloc("disk", 64, 512);
    front
}

/// A controller can be used by a stock client.
#[track_caller]
fn usable(controller: &Controller<'_>) {
    let load = controller.load(&[]);
    load.run(VERIFY);
    assert_eq!(load.shut_down(secs(20)).code(), Some(0), "{}", load.process.tail());
}

#[test]
#[serial]
fn the_folders_that_were_made_for_controllers_go_with_them() {
    if FrontEnd::chosen() == FrontEnd::Stock {
        return;
    }
    let front = front();
    let dir = paths::new_dir("folders");
    let controllers = ["one", "two"].map(|name| Controller::create(&front, name, &dir.join("made").join(name)));
    controllers[0].delete();
    assert!(!controllers[0].dir().exists() && controllers[1].dir().join("cntrl").exists());
    assert_eq!(front.shut_down(secs(8)).code(), Some(0), "{}", front.process.tail());
    assert!(dir.exists() && !dir.join("made").exists(), "what was there before stays, and nothing else");
}

#[test]
#[serial]
fn a_controller_deleted_under_load_goes_cleanly_and_can_be_made_again() {
    let front = front();
    let dir = paths::new_dir("again");
    let controller = Controller::create(&front, "c", &dir);
    controller.add("disk");
    let load = controller.load(&["-f"]);
    let _running = load.begin(RANDOM);
    sleep(secs(1));
    let start = Instant::now();
    controller.delete();
    assert!(start.elapsed() < secs(5), "deleting took {:?}", start.elapsed());
    assert!(!dir.join("cntrl").exists(), "the socket is still there");
    front.assert_alive();
    let controller = Controller::create(&front, "c", &dir);
    controller.add("disk");
    drop(load);
    usable(&controller);
    front.assert_alive();
}

#[test]
#[serial]
fn the_application_ends_when_it_is_told_to_with_a_client_s_io_in_flight() {
    let front = front();
    let controller = front.controller("c", &["disk"]);
    let load = controller.load(&["-f"]);
    let _running = load.begin(RANDOM);
    sleep(secs(1));
    let status = front.shut_down(secs(10));
    assert_eq!(status.code(), Some(0), "it ended with {status}\n{}", front.process.tail());
    assert!(!controller.dir().join("cntrl").exists(), "the socket is still there");
}

#[test]
#[serial]
fn a_client_killed_under_load_makes_way_for_another_at_once() {
    let front = front();
    let controller = front.controller("c", &["disk"]);
    for round in 0..3_u8 {
        let load = controller.load(&["-f"]);
        let _running = load.begin(RANDOM);
        sleep(Duration::from_millis(500));
        load.process.kill();
        let start = Instant::now();
        let mut driver = Driver::start(controller.dir());
        assert!(start.elapsed() < REPLY_LIMIT, "the next client had to wait for {:?}", start.elapsed());
        let mut queue = driver.create_queue(1, 16, None);
        driver.check(&mut queue, round);
    }
    usable(&controller);
    front.assert_alive();
}

/// The bdev never ends its I/O, so that the client would never have its memory back.
#[test]
#[serial]
fn a_client_that_goes_while_an_io_hangs_makes_way_for_another_at_once() {
    let front = front();
    front.null("null", 16);
    front.rpc.ok("bdev_error_create", &json!({ "base_name": "null" }));
    let hang = json!({ "name": "EE_null", "io_type": "all", "error_type": "pending", "num": 1 });
    front.rpc.ok("bdev_error_inject_error", &hang);
    let controller = front.controller("c", &["disk", "EE_null"]);
    let mut driver = Driver::start(controller.dir());
    let mut queue = driver.create_queue(1, 16, None);
    driver.submit(&mut queue, &[block_io(IoOpcode::READ, 2, 0, 8, BASE + DATA)]);
    // Nothing tells that a command was taken. One that was not when its queue's memory goes is no I/O.
    sleep(Duration::from_millis(200));
    let unmap = driver.client.send(DMA_UNMAP, &dma_unmap(BASE, SIZE), &[]).expect("bytes can be sent");
    // After half a second the I/O is aborted, so that the memory can be given back.
    driver.client.reply(unmap, Duration::from_millis(300)).expect_err("memory is given back that an I/O touches");
    let start = Instant::now();
    drop(driver);
    let mut driver = Driver::start(controller.dir());
    assert!(start.elapsed() < secs(2), "the next client had to wait for {:?}", start.elapsed());
    let mut queue = driver.create_queue(1, 16, None);
    driver.check(&mut queue, 1);
    front.assert_alive();
}

#[test]
#[serial]
fn a_thousand_commands_one_after_another_are_each_answered_at_once() {
    let front = front();
    let controller = front.controller("c", &["disk"]);
    let mut client = Client::negotiated(controller.dir()).expect("a client can connect");
    for number in 0..1_000 {
        let start = Instant::now();
        client.device_info().unwrap_or_else(|failure| panic!("command {number}: {failure}"));
        assert!(start.elapsed() < secs(1), "command {number} was answered after {:?}", start.elapsed());
    }
}

#[test]
#[serial]
fn a_client_that_says_nothing_keeps_nobody_from_connecting() {
    let front = front();
    let (controller, other) = (front.controller("c", &["disk"]), front.controller("other", &[]));
    let silent: Vec<UnixStream> =
        (0..4).map(|_| vfio_user::connect(controller.dir()).expect("the socket can be connected to")).collect();
    let start = Instant::now();
    Driver::start(other.dir());
    let mut driver = Driver::start(controller.dir());
    assert!(start.elapsed() < REPLY_LIMIT, "that took {:?}", start.elapsed());
    let mut queue = driver.create_queue(1, 16, None);
    driver.check(&mut queue, 1);
    drop(silent);
    driver.check(&mut queue, 2);
    front.assert_alive();
}

#[test]
#[serial]
fn a_message_that_comes_in_pieces_is_answered_and_half_of_one_holds_up_nobody() {
    let front = front();
    let (controller, other) = (front.controller("c", &["disk"]), front.controller("other", &[]));
    let mut client = Client::connect(controller.dir()).expect("the socket can be connected to");
    let version = vfio_user::message(7, vfio_user::VERSION, &vfio_user::version(0, 1, "{}"));
    let (half, rest) = version.split_at(10);
    client.stream.write_all(half).expect("bytes can be sent");
    let start = Instant::now();
    let mut driver = Driver::start(other.dir());
    driver.identify(Cns::CONTROLLER, 0);
    front.assert_alive();
    assert!(start.elapsed() < secs(2), "half a message held up others for {:?}", start.elapsed());
    for byte in rest {
        client.stream.write_all(&[*byte]).expect("bytes can be sent");
    }
    client.reply(7, REPLY_LIMIT).expect("the whole message is answered");
    client.device_info().expect("so is the next one");
    // Half a message, and gone.
    client.stream.write_all(half).expect("bytes can be sent");
    drop(client);
    Driver::start_within(controller.dir(), REPLY_LIMIT);
    front.assert_alive();
}

#[test]
#[serial]
fn a_client_that_reads_no_replies_costs_little_memory_and_gets_them_all_later() {
    /// What a server may hold for a client that does not read, and the allocator with it.
    const LIMIT_KIB: u64 = 16 << 10;
    let front = front();
    let (controller, other) = (front.controller("c", &["disk"]), front.controller("other", &[]));
    let mut client = Client::negotiated(controller.dir()).expect("a client can connect");
    let before = resident_kib(&front);
    client.stream.set_write_timeout(Some(Duration::from_millis(300))).expect("a limit can be set");
    let mut sent = 0_u32;
    let payload = region_access(BAR0, 0, 4_096);
    while sent < 200_000 && client.send(REGION_READ, &payload, &[]).is_ok() {
        sent += 1;
    }
    assert!(sent < 200_000, "the server takes {sent} commands and more whose replies nobody reads");
    let grown = resident_kib(&front).saturating_sub(before);
    assert!(grown < LIMIT_KIB, "replies that nobody reads cost {grown} KiB");
    let start = Instant::now();
    Driver::start(other.dir());
    front.assert_alive();
    assert!(start.elapsed() < secs(2), "others were held up for {:?}", start.elapsed());
    // The last command may have been sent in part.
    for number in 0..sent.saturating_sub(1) {
        let reply = client.receive(REPLY_LIMIT).unwrap_or_else(|error| panic!("reply {number} of {sent}: {error}"));
        assert_eq!(reply.payload.len(), 16 + 4_096, "reply {number}");
    }
    drop(client);
    Driver::start_within(controller.dir(), REPLY_LIMIT);
    front.assert_alive();
}

fn resident_kib(front: &Front) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", front.process.pid())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the kernel tells it");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
#[serial]
fn sixty_four_handshakes_at_once_are_each_done_in_time() {
    const COUNT: usize = 64;
    let front = Front::start();
    let names: Vec<String> = (0..COUNT).map(|index| format!("c{index}")).collect();
    let controllers: Vec<_> = names.iter().map(|name| front.controller(name, &[])).collect();
    let times: Vec<Duration> = thread::scope(|scope| {
        let clients: Vec<_> = controllers
            .iter()
            .map(|controller| {
                let dir = controller.dir();
                scope.spawn(move || {
                    let start = Instant::now();
                    let mut client = Client::connect(dir).expect("the socket can be connected to");
                    client.handshake().expect("the handshake is answered");
                    let shaken = start.elapsed();
                    let mut driver = Driver::over(client);
                    driver.enable();
                    driver.identify(Cns::CONTROLLER, 0);
                    shaken
                })
            })
            .collect();
        clients.into_iter().map(|client| client.join().expect("no client fails")).collect()
    });
    let longest = times.iter().max().expect("there are some");
    assert!(*longest < REPLY_LIMIT, "a handshake took {longest:?}");
    front.assert_alive();
}

/// Returns a configuration with which one application can have many threads: every one keeps buffers of its own.
fn small_caches() -> String {
    let file = paths::new_dir("caches").join("config.json");
    let bdev = json!({ "iobuf_small_cache_size": 8, "iobuf_large_cache_size": 2 });
    let config = json!({ "subsystems": [
        { "subsystem": "accel", "config": [
            { "method": "accel_set_options", "params": { "small_cache_size": 8, "large_cache_size": 2 } },
        ] },
        { "subsystem": "bdev", "config": [{ "method": "bdev_set_options", "params": bdev }] },
    ] });
    fs::write(&file, config.to_string()).expect("a file can be written");
    file.display().to_string()
}

#[test]
#[serial]
fn one_client_attaches_sixty_four_controllers_at_once_and_uses_them_all() {
    const COUNT: usize = 64;
    let front = Front::start();
    let mut controllers = Vec::new();
    for index in 0..COUNT {
        let name = format!("null{index}");
        front.null(&name, 16);
        controllers.push(front.controller(&format!("c{index}"), &[&name]));
    }
    let config = small_caches();
    let args = ["-z", "-q", "1", "-o", "4096", "-w", "randread", "-t", "1", "-c", &config];
    let client = App::start(Program::StockBdevperf, "0x1", &args);
    let attach = |(index, controller): (usize, &Controller<'_>)| {
        client.rpc.begin("bdev_nvme_attach_controller", controller.attach_params(&format!("n{index}")))
    };
    let answers: Vec<_> = controllers.iter().enumerate().map(attach).collect();
    for (index, answer) in answers.into_iter().enumerate() {
        let answer = answer.recv_timeout(secs(60)).expect("it is attached in time");
        answer.unwrap_or_else(|error| panic!("controller {index}: {}\n{}", error.message, client.process.tail()));
    }
    assert_eq!(client.bdevs().len(), COUNT);
    let work = json!({ "workload_type": "randread", "io_size": "4096", "queue_depth": 4, "time_in_sec": 2 });
    let result = client.rpc.ok("perform_tests", &work);
    let results = result["results"].as_array().cloned().unwrap_or_default();
    assert_eq!(results.len(), COUNT, "{result}");
    let idle: Vec<&Value> = results.iter().filter(|one| one["io_failed"] != 0 || one["iops"] == 0.0).collect();
    assert!(idle.is_empty(), "{idle:?}");
    front.assert_alive();
}

#[test]
#[serial]
fn two_hundred_rounds_of_a_controller_and_a_client_cost_no_memory() {
    let front = front();
    let dir = paths::new_dir("rounds");
    let count = std::cell::Cell::new(0_u32);
    rounds(&front, 50, 200, || {
        let controller = Controller::create(&front, "c", &dir);
        controller.add("disk");
        let mut driver = Driver::start(&dir);
        let mut queue = driver.create_queue(1, 16, None);
        driver.check(&mut queue, 3);
        count.set(count.get() + 1);
        // By turns, the client goes first, and the controller goes with the client attached.
        if count.get().is_multiple_of(2) {
            drop(driver);
            wait_for("the controller to go", secs(5), || controller.try_delete().is_ok());
        } else {
            controller.delete();
        }
    });
}
