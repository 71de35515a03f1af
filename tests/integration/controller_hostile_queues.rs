//! Clients with queues, doorbells, commands and interrupts that no driver makes.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixStream;
use std::thread::sleep;
use std::time::Duration;

use nvme_spec::admin::{CreateCqDw11, CreateSqDw11};
use nvme_spec::identify::Cns;
use nvme_spec::nvm::BlockDw12;
use nvme_spec::register::{Cc, Register};
use nvme_spec::{Cqe, Sqe};
use rustix::event::{EventfdFlags, eventfd};
use serial_test::serial;

use crate::support::arena::attack;
use crate::support::bytes::Numbers;
use crate::support::nvme::{BASE, DATA, Driver, FATAL, PAGE, READY, SIZE};
use crate::support::secs;
use crate::support::vfio_user::{BAR0, Failure, MSIX, REPLY_LIMIT};

const READ_ONE: Sqe = Sqe::read(1, 0, BlockDw12::of(0)).with_prps(BASE + DATA, 0);

#[test]
#[serial]
fn entry_sizes_that_cc_sets_wrongly_make_no_queue() {
    attack(|arena, dir| {
        let mut driver = Driver::connect(dir);
        let (sq, cq) = (Sqe::SIZE_LOG2, Cqe::SIZE_LOG2);
        let wrong =
            [(0, 0), (sq, 0), (0, cq), (15, 15), (sq, 15), (15, cq), (sq - 1, cq), (sq, cq - 1), (sq + 1, cq + 1)];
        for (iosqes, iocqes) in wrong {
            let cc = Cc::new().with_en(true).with_iosqes(iosqes).with_iocqes(iocqes);
            let csts = driver.enable_with(cc.into_bits());
            if csts & READY == 0 {
                assert_eq!(csts & FATAL, FATAL, "it is neither ready nor failed: CSTS is {csts:#x}");
                continue;
            }
            let queue = Driver::queue(1, 16);
            let made = driver.try_create(&queue, None);
            assert!(!made.status.is_success(), "sizes {iosqes} and {iocqes} make a queue");
            arena.front.assert_alive();
        }
        driver.enable();
        let mut queue = driver.create_queue(1, 16, None);
        driver.check(&mut queue, 1);
    });
}

/// Registers that are written to, CC most often.
const SCRIBBLED: [Register; 10] = [
    Register::CC,
    Register::CC,
    Register::AQA,
    Register::ASQ,
    Register::ACQ,
    Register::INTMS,
    Register::INTMC,
    Register::NSSR,
    Register::CAP,
    Register::CSTS,
];

/// Changing them while queues are there is not for queues that are there.
#[test]
#[serial]
fn a_cc_that_is_scribbled_on_while_queues_live_harms_nobody_else() {
    attack(|arena, dir| {
        let mut driver = Driver::start(dir);
        let mut queue = driver.create_queue(1, 16, None);
        driver.check(&mut queue, 1);
        let mut numbers = Numbers::new(3);
        for _ in 0..300 {
            let offset = u64::from(SCRIBBLED[draw(&mut numbers, 10)].0);
            let value = numbers.draw().to_le_bytes();
            let len = [1, 2, 4, 8][draw(&mut numbers, 4)];
            let written = driver.client.write(BAR0, offset, &value[..len]);
            assert!(!matches!(written, Err(Failure::Lost(_))), "{len} bytes at {offset:#x}: {written:?}");
            driver.doorbell(2, 3).expect("a doorbell can be rung");
        }
        arena.front.assert_alive();
        driver.enable();
        driver.identify(Cns::CONTROLLER, 0);
    });
}

fn draw(numbers: &mut Numbers, below: usize) -> usize {
    usize::try_from(numbers.draw() % below as u64).expect("small")
}

#[test]
#[serial]
fn doorbells_rung_at_random_harm_nobody_else() {
    attack(|arena, dir| {
        let mut driver = Driver::start(dir);
        let mut queue = driver.create_queue(1, 16, None);
        driver.check(&mut queue, 1);
        let mut numbers = Numbers::new(1);
        for _ in 0..500 {
            let value = u32::try_from(numbers.draw() >> 32).expect("half of it");
            let value = if value % 2 == 0 { value } else { value % 64 };
            let index = if value % 4 < 2 { numbers.draw() % 4 } else { numbers.draw() % 1_024 };
            let rung = driver.doorbell(index, value);
            assert!(!matches!(rung, Err(Failure::Lost(_))), "doorbell {index}: {rung:?}");
        }
        arena.front.assert_alive();
        driver.enable();
        let mut queue = driver.create_queue(1, 16, None);
        driver.check(&mut queue, 2);
    });
}

/// The doorbells as a guest writes them: in the page, of which the controller learns nothing.
#[test]
#[serial]
fn the_doorbell_page_scribbled_over_harms_nobody_else() {
    attack(|arena, dir| {
        let mut driver = Driver::start(dir);
        let mut queue = driver.create_queue(1, 16, None);
        driver.check(&mut queue, 1);
        let (info, fds) = driver.client.region_info(BAR0, 4_096).expect("BAR0 is described");
        assert!(info.len() > 32, "BAR0 has no capabilities");
        let page = File::from(fds.into_iter().next().expect("the doorbells can be mapped"));
        let len = page.metadata().expect("a file has a size").len();
        let mut numbers = Numbers::new(2);
        for _ in 0..200 {
            let bytes: Vec<u8> = (0..512).flat_map(|_| numbers.draw().to_le_bytes()).collect();
            page.write_at(&bytes, len - PAGE).expect("the page can be written");
            sleep(Duration::from_millis(1));
        }
        // Who shrinks it takes no more from the server than from itself; a sealed file refuses.
        let _ = page.set_len(0);
        sleep(Duration::from_millis(50));
        arena.front.assert_alive();
        driver.enable();
        driver.identify(Cns::CONTROLLER, 0);
    });
}

/// Returns descriptors that block who writes to them, or that cannot be written to.
fn awkward_descriptors() -> Vec<(&'static str, OwnedFd, Option<OwnedFd>)> {
    let full_eventfd = || {
        let fd = eventfd(0, EventfdFlags::CLOEXEC).expect("an eventfd can be had");
        let mut file = File::from(fd);
        file.write_all(&0xffff_ffff_ffff_fffe_u64.to_le_bytes()).expect("an eventfd can be filled");
        OwnedFd::from(file)
    };
    let full_pipe = || {
        let (reader, mut writer) = io::pipe().expect("a pipe can be had");
        writer.write_all(&vec![0; 64 << 10]).expect("a pipe can be filled");
        (OwnedFd::from(writer), OwnedFd::from(reader))
    };
    let (pipe, reader) = full_pipe();
    let (broken, gone) = full_pipe();
    drop(gone);
    let (socket, peer) = UnixStream::pair().expect("a pair of sockets can be had");
    socket.set_nonblocking(true).expect("it can be");
    while (&socket).write(&[0; 4096]).is_ok() {}
    socket.set_nonblocking(false).expect("it can be");
    vec![
        ("an eventfd that is full", full_eventfd(), None),
        ("a pipe that is full", pipe, Some(reader)),
        ("a pipe that nobody reads any more", broken, None),
        ("a socket that is full", socket.into(), Some(peer.into())),
        ("a file that is not for writing", File::open("/dev/null").expect("it is there").into(), None),
    ]
}

#[test]
#[serial]
fn an_interrupt_that_blocks_who_raises_it_harms_nobody() {
    attack(|arena, dir| {
        for (what, fd, _other) in awkward_descriptors() {
            let mut driver = Driver::start_within(dir, secs(10));
            let vectors = driver.client.irq_count(MSIX).expect("the interrupts are described");
            assert!(vectors > 1, "there are {vectors} vectors");
            // It may be refused; then the queue has no interrupt, and works.
            let taken = driver.client.set_eventfds(0, &[fd.as_fd(), fd.as_fd()]).is_ok();
            let mut queue = driver.create_queue(1, 64, Some(1));
            for _ in 0..4 {
                let done = driver.run_any(&mut queue, READ_ONE, 32);
                assert!(done.iter().all(|done| done.status.is_success()), "{what}: {done:?}");
            }
            driver.check(&mut queue, 9);
            arena.front.assert_alive();
            assert!(taken || driver.csts() & FATAL == 0, "{what}: the controller has failed");
        }
    });
}

#[test]
#[serial]
fn a_completion_queue_that_nobody_empties_holds_its_commands_back() {
    attack(|_, dir| {
        let mut driver = Driver::start(dir);
        let mut queue = driver.create_queue(1, 16, None);
        driver.submit(&mut queue, &[READ_ONE; 15]);
        sleep(Duration::from_millis(100));
        driver.submit(&mut queue, &[READ_ONE; 15]);
        sleep(Duration::from_millis(100));
        let slots: Vec<bool> = (0..16).map(|slot| driver.phase_in(&queue, slot)).collect();
        assert_eq!(slots, [&[true; 15][..], &[false]].concat(), "the phase tags of the queue");
        for index in 0..30 {
            assert!(driver.complete(&mut queue).status.is_success(), "command {index}");
        }
        driver.check(&mut queue, 3);
    });
}

#[test]
#[serial]
fn queues_that_cannot_be_are_refused_by_a_status() {
    attack(|_, dir| {
        let mut driver = Driver::start(dir);
        let queue = driver.create_queue(1, 16, None);
        let contiguous = CreateCqDw11::new().with_pc(true);
        let cq = |qid, entries: u32, prp1| {
            Sqe::create_io_cq(qid, u16::try_from(entries - 1).expect("they are few"), prp1, contiguous)
        };
        let with = |dw11: CreateCqDw11| Sqe::create_io_cq(2, 15, BASE + DATA, dw11);
        let sq = |qid, cqid| Sqe::create_io_sq(qid, 15, BASE + DATA, CreateSqDw11::new().with_pc(true).with_cqid(cqid));
        let at = BASE + DATA;
        let refused = [
            ("no number", cq(0, 16, at)),
            ("a number that is taken", cq(1, 16, at)),
            ("a number that is too large", cq(u16::MAX, 16, at)),
            ("one entry", cq(2, 1, at)),
            ("too many entries", cq(2, 0x1_0000, at)),
            ("an address within a page", cq(2, 16, at + 8)),
            ("pages that do not follow each other", with(CreateCqDw11::new())),
            ("a vector that there is not", with(contiguous.with_ien(true).with_iv(u16::MAX))),
            ("no completion queue of that number", sq(2, 2)),
            ("the admin completion queue", sq(2, 0)),
            ("a submission queue's number that is taken", sq(1, 1)),
            ("a completion queue in use", Sqe::delete_io_cq(1)),
            ("a submission queue that there is not", Sqe::delete_io_sq(9)),
            ("the admin submission queue", Sqe::delete_io_sq(0)),
        ];
        for (what, command) in refused {
            let done = driver.admin(command);
            assert!(!done.status.is_success(), "{what}: {command:?}");
        }
        let mut queue = queue;
        driver.check(&mut queue, 4);
    });
}

/// Returns the commands that make a pair of queues which both lie at `at`.
fn create_pair(qid: u16, entries: u16, at: u64) -> [Sqe; 2] {
    let (cq, sq) = (CreateCqDw11::new().with_pc(true), CreateSqDw11::new().with_pc(true).with_cqid(qid));
    [Sqe::create_io_cq(qid, entries - 1, at, cq), Sqe::create_io_sq(qid, entries - 1, at, sq)]
}

/// Memory may come later, so that such queues may be made: they wait for it.
#[test]
#[serial]
fn queues_where_there_is_no_memory_are_not_served_and_harm_no_other_queue() {
    attack(|arena, dir| {
        let mut driver = Driver::start(dir);
        let mut queue = driver.create_queue(1, 16, None);
        let places = [(BASE + SIZE, 16), (u64::MAX - 0xfff, 16), (u64::MAX - 0xfff, 256), (BASE + SIZE - PAGE, 256)];
        for (qid, (at, entries)) in (2..).zip(places) {
            // They may be refused as well.
            for create in create_pair(qid, entries, at) {
                driver.admin(create);
            }
            for value in [u32::from(entries) - 1, 3] {
                driver.doorbell(u64::from(qid) * 2, value).expect("a doorbell can be rung");
                driver.doorbell(u64::from(qid) * 2 + 1, value).expect("a doorbell can be rung");
            }
            driver.check(&mut queue, 6);
        }
        arena.front.assert_alive();
        driver.enable();
        let mut queue = driver.create_queue(1, 16, None);
        driver.check(&mut queue, 7);
    });
}

#[test]
#[serial]
fn queues_that_lie_upon_each_other_harm_nobody_else() {
    attack(|arena, dir| {
        let mut driver = Driver::start(dir);
        // Completions are written to where commands are read from, the admin queue's among them.
        for (qid, at) in [(1, BASE), (2, driver.admin.cq_addr()), (3, BASE + DATA), (4, BASE + DATA)] {
            for create in create_pair(qid, 64, at) {
                driver.submit_admin(create);
                sleep(Duration::from_millis(20));
            }
            for value in [63, 5, 62] {
                driver.doorbell(u64::from(qid) * 2, value).expect("a doorbell can be rung");
                driver.doorbell(u64::from(qid) * 2 + 1, value).expect("a doorbell can be rung");
                sleep(Duration::from_millis(20));
            }
        }
        arena.front.assert_alive();
        driver.enable();
        driver.identify(Cns::CONTROLLER, 0);
    });
}

#[test]
#[serial]
fn queues_deleted_with_io_in_flight_answer_it_and_can_be_made_again() {
    attack(|_, dir| {
        let mut driver = Driver::start(dir);
        for round in 0..3 {
            let mut queue = driver.create_queue(1, 64, None);
            driver.submit(&mut queue, &[Sqe { nsid: 2, ..READ_ONE }; 16]);
            sleep(Duration::from_millis(20));
            assert!(driver.admin(Sqe::delete_io_sq(1)).status.is_success(), "round {round}");
            for _ in 0..16 {
                driver.complete(&mut queue);
            }
            assert!(driver.admin(Sqe::delete_io_cq(1)).status.is_success(), "round {round}");
        }
    });
}

/// A client that asks for a device reset with I/O in flight (function level reset, for a guest).
#[test]
#[serial]
fn a_device_reset_with_io_in_flight_is_answered_in_time_and_the_controller_works() {
    attack(|_, dir| {
        let mut driver = Driver::start(dir);
        for round in 0..3 {
            let mut queue = driver.create_queue(1, 64, None);
            driver.submit(&mut queue, &[READ_ONE; 32]);
            driver.submit(&mut queue, &[Sqe { nsid: 2, ..READ_ONE }; 8]);
            let id = driver.client.send(crate::support::vfio_user::DEVICE_RESET, &[], &[]).expect("it can be sent");
            driver.client.reply(id, REPLY_LIMIT).unwrap_or_else(|failure| panic!("round {round}: {failure}"));
            assert_eq!(driver.csts() & READY, 0, "round {round}: it is ready after a reset");
            driver.bus_master();
            driver.enable();
        }
    });
}
