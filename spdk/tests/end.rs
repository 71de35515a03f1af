//! What other threads do while the application ends.

mod harness;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use harness::{PATIENCE, wait_until};
use spdk::Errno;
use spdk::thread::{OwnedThread, send_to_app};

/// Set once the application's thread has dropped its thread-local values.
static LET_GO: AtomicBool = AtomicBool::new(false);

/// Takes its time.
struct Slow;

impl Drop for Slow {
    fn drop(&mut self) {
        thread::sleep(Duration::from_millis(100));
        LET_GO.store(true, Ordering::Release);
    }
}

thread_local! {
    static SLOW: Slow = const { Slow };
}

#[test]
fn messages_that_come_while_the_application_ends_or_later_are_refused() {
    static ENDED: AtomicBool = AtomicBool::new(false);
    static TAKEN: AtomicU64 = AtomicU64::new(0);
    harness::start("0x1", || ());
    let thread = OwnedThread::on_core("other", 0).expect("a thread");
    let sends = move || {
        let mut refused = 0_u32;
        // SPDK ends the process if a message comes to a thread that has exited, and frees threads when all have.
        while refused < 1_000 {
            refused += u32::from(send_to_app(|| ()) == Err(Errno::NXIO) && thread.send(|| ()) == Err(Errno::NXIO));
            TAKEN.fetch_add(1, Ordering::Relaxed);
            thread::yield_now();
        }
        while !ENDED.load(Ordering::Acquire) {
            thread::yield_now();
        }
        (send_to_app(|| ()), thread.send(|| ()), OwnedThread::on_core("late", 0).err())
    };
    let senders = thread::spawn(sends);
    send_to_app(|| SLOW.with(|_| ())).expect("the application runs");
    wait_until("messages are sent", || TAKEN.load(Ordering::Relaxed) > 100);
    assert_eq!(harness::stop(), Some(true), "the application ends well, within {PATIENCE:?}");
    assert!(LET_GO.load(Ordering::Acquire), "the application's thread has ended, with what it frees then");
    ENDED.store(true, Ordering::Release);
    assert_eq!(senders.join().expect("no panic"), (Err(Errno::NXIO), Err(Errno::NXIO), Some(Errno::NXIO)));
}
