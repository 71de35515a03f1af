//! The orders of access in shared memory, in every interleaving that the memory model allows: loom runs both sides of
//! `src/order.rs`, the very file, with atomics of its own.

/// What `order.rs` is made of here.
mod sync {
    pub(super) use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
    pub(super) use loom::sync::{Arc, Mutex};
}

#[path = "../src/order.rs"]
#[expect(unreachable_pub, reason = "what is public in the crate is not in this test")]
mod order;

use loom::thread;
use order::{PendingFlag, Published, Span};
use sync::{Arc, AtomicU32, AtomicU64, AtomicUsize, Mutex, Ordering};

/// Runs `both` in every order with at most three switches from a thread that could go on.
fn in_every_order(both: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(both);
}

fn words<const N: usize>() -> [AtomicU64; N] {
    std::array::from_fn(|_| AtomicU64::new(0))
}

#[test]
fn a_rung_doorbell_shows_the_whole_entry() {
    in_every_order(|| {
        let queue = Arc::new((words::<3>(), AtomicU32::new(0)));
        let guest = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || {
                for (value, word) in (1..).zip(&queue.0) {
                    word.store(value, Ordering::Relaxed);
                }
                order::store_doorbell(&queue.1, 1);
            })
        };
        if order::load_doorbell(&queue.1) == 1 {
            assert_eq!(order::read_entry(&queue.0), [1, 2, 3]);
        }
        guest.join().expect("the guest's side ends");
    });
}

/// Returns the guest's driver: it waits for the phase tag (the lowest bit of the last word) and reads the entry's other
/// word then.
fn reap([first, last]: &[AtomicU64; 2], phase: u64) -> Option<u64> {
    (last.load(Ordering::Acquire) & 1 == phase).then(|| first.load(Ordering::Relaxed))
}

#[test]
fn a_new_phase_shows_the_whole_entry_and_the_data_of_the_command() {
    in_every_order(|| {
        let shared = Arc::new((words::<2>(), AtomicU64::new(0)));
        let device = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                shared.1.store(7, Ordering::Relaxed);
                order::post_entry(&shared.0, [5, 1]);
            })
        };
        if let Some(result) = reap(&shared.0, 1) {
            assert_eq!((result, shared.1.load(Ordering::Relaxed)), (5, 7));
        }
        device.join().expect("the device's side ends");
    });
}

/// A queue with a single entry: it is posted again, with the other phase, only when the head doorbell says that it was
/// read.
#[test]
fn an_entry_is_written_again_only_after_the_guest_has_read_it() {
    in_every_order(|| {
        let shared = Arc::new((words::<2>(), AtomicU32::new(0)));
        let guest = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                if let Some(result) = reap(&shared.0, 1) {
                    assert_eq!(result, 5, "the guest saw an entry that was written over while it read");
                    order::store_doorbell(&shared.1, 1);
                }
            })
        };
        order::post_entry(&shared.0, [5, 1]);
        if order::load_doorbell(&shared.1) == 1 {
            order::post_entry(&shared.0, [6, 0]);
        }
        guest.join().expect("the guest's side ends");
    });
}

#[test]
fn a_span_is_seen_as_it_was_set_together_or_not_at_all() {
    in_every_order(|| {
        let span = Arc::new(Span {
            sequence: AtomicU32::new(0),
            start: AtomicUsize::new(1),
            len: AtomicUsize::new(1),
            page: AtomicUsize::new(1),
        });
        let owner = {
            let span = Arc::clone(&span);
            thread::spawn(move || {
                span.set(2, 2, 2);
                span.set(3, 3, 3);
            })
        };
        if let Some((start, len, page)) = span.get() {
            assert!(start == len && len == page, "torn: {start} {len} {page}");
        }
        owner.join().expect("the owner's side ends");
        assert_eq!(span.get(), Some((3, 3, 3)));
    });
}

#[test]
fn who_sees_the_new_epoch_finds_the_new_table_or_a_newer_one() {
    in_every_order(|| {
        let table = Arc::new(Published::<u64>::default());
        let control = {
            let table = Arc::clone(&table);
            thread::spawn(move || {
                table.publish(1);
                table.publish(2);
            })
        };
        let epoch = table.epoch();
        assert!(*table.newest() >= epoch);
        control.join().expect("the control thread's side ends");
        assert_eq!((table.epoch(), *table.newest()), (2, 2));
    });
}

/// The control thread changes something twice and tells the reactor, whose only cause to look is a message.
#[test]
fn what_was_changed_before_the_flag_was_set_is_looked_at_however_few_messages_are_sent() {
    in_every_order(|| {
        let shared = Arc::new((PendingFlag::default(), AtomicU32::new(0), Mutex::new(0)));
        let control = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                for value in [1, 2] {
                    shared.1.store(value, Ordering::Relaxed);
                    if shared.0.set() {
                        *shared.2.lock().expect("nobody panicked") += 1;
                    }
                }
            })
        };
        let mut seen = 0;
        let look = |seen: &mut u32| {
            let messages = std::mem::take(&mut *shared.2.lock().expect("nobody panicked"));
            for _ in 0..messages {
                shared.0.clear();
                *seen = shared.1.load(Ordering::Relaxed);
            }
        };
        look(&mut seen);
        control.join().expect("the control thread's side ends");
        look(&mut seen);
        assert_eq!(seen, 2);
    });
}
