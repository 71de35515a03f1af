//! A place for clients with bad manners: a controller that they may do anything to, beside one with a client that must
//! not notice.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::controller::Front;
use super::load::{Load, Work};
use super::nvme::Driver;
use super::secs;

/// What the other client does meanwhile.
const WORK: Work<'_> = Work { kind: "verify", io_size: 4_096, depth: 8, seconds: 2 };

/// How long, in microseconds, I/O of namespace 2 takes.
pub(crate) const SLOW: u64 = 1_000_000;

/// A front end with a controller and a client at work.
pub(crate) struct Arena {
    pub(crate) front: Front,
    witness: Load,
}

static ARENA: Mutex<Option<Arena>> = Mutex::new(None);

fn take() -> Option<Arena> {
    ARENA.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Ends what attacks share, until it is wanted again: its processes take the cores.
pub(crate) fn rest() {
    drop(take());
}

impl Arena {
    fn start() -> Self {
        let front = Front::start();
        front.malloc("good", 32, 512);
        front.malloc("prey", 32, 512);
        front.slow("slow", SLOW);
        let witness = front.controller("good", &["good"]).load(&[]);
        Self { front, witness }
    }
}

/// Does something bad to a controller, whose folder it is given, with a memory disk as namespace 1 and a slow one as
/// namespace 2. Asserts that the application lives, that another client sees no error, that the controller serves the
/// next client, and that it can be deleted.
#[track_caller]
pub(crate) fn attack(bad: impl FnOnce(&Arena, &Path)) {
    // One that failed is not put back.
    let arena = take().unwrap_or_else(Arena::start);
    let controller = arena.front.controller("bad", &["prey", "slow"]);
    let start = Instant::now();
    let running = arena.witness.begin(WORK);
    bad(&arena, controller.dir());
    let took = start.elapsed();
    arena.front.assert_alive();
    running.finish(WORK);
    // The work may have ended before the attack did.
    if took > secs(1) {
        arena.witness.run(Work { seconds: 1, ..WORK });
    }

    let mut driver = Driver::start_within(controller.dir(), secs(10));
    let mut queue = driver.create_queue(1, 16, None);
    driver.check(&mut queue, 0xa5);
    drop(driver);
    controller.delete();
    arena.front.assert_alive();
    *ARENA.lock().unwrap_or_else(PoisonError::into_inner) = Some(arena);
}
