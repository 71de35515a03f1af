//! What a host does to the PCI function: it takes bus mastering away, puts it to sleep, resets it, and takes interrupts
//! by its pin.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nvme_spec::Sqe;
use nvme_spec::nvm::BlockDw12;
use nvme_spec::register::Register;
use rustix::event::{EventfdFlags, eventfd};
use serial_test::serial;

use crate::support::controller::{Front, FrontEnd};
use crate::support::nvme::{BASE, DATA, Driver, Queue, READY};
use crate::support::vfio_user::{BAR0, CONFIG, DEVICE_SET_IRQS};
use crate::support::{secs, wait_for};

const READ_ONE: Sqe = Sqe::read(1, 0, BlockDw12::of(0)).with_prps(BASE + DATA, 0);

/// The command and the status register.
const COMMAND: u64 = 0x04;
const STATUS: u64 = 0x06;
const MEMORY: u16 = 0x0002;
const MASTER: u16 = 0x0004;
const PIN_DISABLED: u16 = 0x0400;
const INTERRUPT_STATUS: u8 = 0x08;
/// The power state, and the bit of Device Control that starts a function-level reset.
const PMCSR: u64 = 0x44;
const DEVICE_CONTROL: u64 = 0x68;
const FUNCTION_RESET: u16 = 1 << 15;

const CC: u64 = Register::CC.0 as u64;
const INTMS: u64 = Register::INTMS.0 as u64;
const INTMC: u64 = Register::INTMC.0 as u64;

/// The interrupt index of the pin, and the flags of `DEVICE_SET_IRQS`.
const PIN: u32 = 0;
const DATA_NONE: u32 = 1;
const DATA_EVENTFD: u32 = 4;
const UNMASK: u32 = 16;
const TRIGGER: u32 = 32;

/// Turns something on or off.
type Switch<'a> = &'a dyn Fn(&mut Driver, bool);

fn event() -> File {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("an eventfd can be had").into()
}

/// Returns the interrupts since the last call.
fn count(mut event: &File) -> u64 {
    let mut bytes = [0; 8];
    event.read_exact(&mut bytes).map_or(0, |()| u64::from_le_bytes(bytes))
}

#[track_caller]
fn wait_for_interrupt(event: &File) {
    wait_for("an interrupt", secs(5), || count(event) > 0);
}

/// Nothing comes for a while.
#[track_caller]
fn assert_quiet(driver: &Driver, queue: &Queue, event: &File) {
    sleep(Duration::from_millis(50));
    assert!(driver.peek(queue).is_none(), "there is a completion");
    assert_eq!(count(event), 0, "there is an interrupt");
}

fn set_command(driver: &mut Driver, value: u16) {
    driver.client.write(CONFIG, COMMAND, &value.to_le_bytes()).expect("the command register can be written");
}

fn set_pin(driver: &mut Driver, flags: u32, fds: &[BorrowedFd<'_>]) {
    let payload = [20, flags, PIN, 0, 1].map(u32::to_le_bytes).concat();
    driver.client.call(DEVICE_SET_IRQS, &payload, fds).expect("the pin is there");
}

/// As blktests does it (block/011), and as an operating system puts a drive to sleep.
#[test]
#[serial]
fn no_memory_is_accessed_without_bus_mastering_or_in_d3hot_and_no_interrupt_is_lost() {
    if FrontEnd::chosen() == FrontEnd::Stock {
        return;
    }
    let front = Front::start_on("0x3");
    front.slow("slow", 20_000);
    let controller = front.controller("master", &["slow"]);
    let mut driver = Driver::start(controller.dir());
    let interrupt = event();
    driver.client.set_eventfds(1, &[interrupt.as_fd()]).expect("the vector is there");
    let mut queue = driver.create_queue(1, 64, Some(1));
    let sleeping = |driver: &mut Driver, on: bool| {
        let state: u16 = if on { 3 } else { 0 };
        driver.client.write(CONFIG, PMCSR, &state.to_le_bytes()).expect("the power state can be written");
    };
    let forbidden = |driver: &mut Driver, on: bool| set_command(driver, if on { MEMORY } else { MEMORY | MASTER });
    let ways: [Switch<'_>; 2] = [&forbidden, &sleeping];
    for forbid in ways.into_iter().cycle().take(6) {
        driver.submit(&mut queue, &[READ_ONE; 8]);
        forbid(&mut driver, true);
        // What was completed until then.
        count(&interrupt);
        let taken = std::iter::from_fn(|| driver.poll(&mut queue)).count();
        driver.submit(&mut queue, &[READ_ONE; 4]);
        assert_quiet(&driver, &queue, &interrupt);
        let start = Instant::now();
        forbid(&mut driver, false);
        wait_for_interrupt(&interrupt);
        for _ in taken..12 {
            assert!(driver.complete(&mut queue).status.is_success());
        }
        assert!(start.elapsed() < secs(5), "it took {:?}", start.elapsed());
        count(&interrupt);
    }
    drop(driver);
    controller.delete();
}

#[test]
#[serial]
fn a_function_level_reset_is_answered_when_i_o_has_ended_and_the_state_is_reset() {
    if FrontEnd::chosen() == FrontEnd::Stock {
        return;
    }
    let front = Front::start_on("0x3");
    front.slow("slow", 300_000);
    let controller = front.controller("function", &["slow"]);
    let mut driver = Driver::start(controller.dir());
    for _ in 0..3 {
        let mut queue = driver.create_queue(1, 64, None);
        driver.submit(&mut queue, &[READ_ONE; 32]);
        let start = Instant::now();
        driver.client.write(CONFIG, DEVICE_CONTROL, &FUNCTION_RESET.to_le_bytes()).expect("it can be reset");
        assert!(start.elapsed() < secs(3), "it took {:?}", start.elapsed());
        let registers = [driver.csts(), driver.client.read_u32(BAR0, CC).expect("CC can be read")];
        let command = driver.client.read(CONFIG, COMMAND, 2).expect("it can be read");
        assert_eq!((registers, command), ([0, 0], vec![0, 0]));
        // Nothing of it touches memory any more.
        driver.memory.write(DATA, &[0xa5; 512]);
        sleep(Duration::from_millis(20));
        assert_eq!(driver.memory.read::<512>(DATA), [0xa5; 512]);
        driver.bus_master();
        driver.enable();
    }
    assert_eq!(driver.csts() & READY, READY);
    drop(driver);
    controller.delete();
}

/// As a guest with `pci=nomsi` does it, and QEMU for it.
#[test]
#[serial]
fn the_pin_is_raised_while_completions_are_not_taken_and_masked_by_whoever_may() {
    if FrontEnd::chosen() == FrontEnd::Stock {
        return;
    }
    let front = Front::start_on("0x3");
    front.malloc("disk", 16, 512);
    let controller = front.controller("pin", &["disk"]);
    let mut driver = Driver::connect(controller.dir());
    let (pin, unmask) = (event(), event());
    set_pin(&mut driver, DATA_EVENTFD | TRIGGER, &[pin.as_fd()]);
    set_command(&mut driver, MEMORY | MASTER);
    driver.enable();
    assert_eq!(driver.client.read(CONFIG, 0x3d, 1).expect("it can be read"), [1], "INTA#");
    let mut queue = driver.create_queue(1, 16, Some(0));
    // Of the admin queue's completions, which were taken.
    wait_for_interrupt(&pin);
    let status = |driver: &mut Driver| driver.client.read(CONFIG, STATUS, 1).expect("it can be read")[0];
    let wait_for_reason = |driver: &mut Driver, is: bool| {
        wait_for("Interrupt Status", secs(5), || (status(driver) & INTERRUPT_STATUS != 0) == is);
    };
    set_pin(&mut driver, DATA_NONE | UNMASK, &[]);
    wait_for_reason(&mut driver, false);
    sleep(Duration::from_millis(20));
    assert_eq!(count(&pin), 0, "there is no reason");

    // It is raised once, and again after the client has unmasked it, until all is taken.
    driver.submit(&mut queue, &[READ_ONE, READ_ONE]);
    wait_for_interrupt(&pin);
    wait_for_reason(&mut driver, true);
    driver.complete(&mut queue);
    set_pin(&mut driver, DATA_NONE | UNMASK, &[]);
    wait_for_interrupt(&pin);
    driver.complete(&mut queue);
    set_pin(&mut driver, DATA_EVENTFD | UNMASK, &[unmask.as_fd()]);
    (&unmask).write_all(&1_u64.to_ne_bytes()).expect("an eventfd can be written");
    wait_for_reason(&mut driver, false);

    // The controller's mask, and the function's.
    let by_register = |driver: &mut Driver, on: bool| {
        let register = if on { INTMS } else { INTMC };
        driver.client.write(BAR0, register, &1_u32.to_le_bytes()).expect("a register can be written");
    };
    let by_command = |driver: &mut Driver, on: bool| {
        set_command(driver, MEMORY | MASTER | if on { PIN_DISABLED } else { 0 });
    };
    let ways: [Switch<'_>; 2] = [&by_register, &by_command];
    for mask in ways {
        mask(&mut driver, true);
        driver.submit(&mut queue, &[READ_ONE]);
        wait_for("a completion", secs(5), || driver.peek(&queue).is_some());
        wait_for_reason(&mut driver, true);
        assert_eq!(count(&pin), 0, "it is masked");
        mask(&mut driver, false);
        wait_for_interrupt(&pin);
        driver.complete(&mut queue);
        (&unmask).write_all(&1_u64.to_ne_bytes()).expect("an eventfd can be written");
        wait_for_reason(&mut driver, false);
    }
    drop(driver);
    controller.delete();
    front.assert_alive();
}
