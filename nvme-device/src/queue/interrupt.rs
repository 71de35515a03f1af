//! Interrupts: what the client gave us to raise them with, and when they are raised.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::pin::Pin;

/// The eventfds of a session's interrupt vectors. The control thread sets them; reactors look here only when the epoch
/// has moved.
#[derive(Debug, Default)]
pub struct Interrupts {
    vectors: Mutex<Vec<Option<Arc<OwnedFd>>>>,
    epoch: AtomicU64,
    /// Vectors that the client wants to hear.
    asked: Mutex<BTreeSet<u16>>,
    blocked: AtomicBool,
    pin: Pin,
    /// For how long the pin may not be raised after it was unmasked, in ticks of the queues' clock.
    settling: u64,
}

impl Interrupts {
    /// Returns interrupts whose pin, if it is unmasked before the host has taken all completions, is not raised again
    /// until the host takes some, or for so many ticks of the queues' clock.
    ///
    /// A client lowers and unmasks the pin at any access to the function's registers, such as the doorbell of a command
    /// that another of the host's processors submits while the handler runs, or is about to. If it were raised at once,
    /// the handler could take what it was raised for before the client has heard of it, and the pin would stay raised
    /// with nothing to take until the next access.
    #[must_use]
    pub fn settling(ticks: u64) -> Self {
        Self { settling: ticks, ..Self::default() }
    }

    /// Sets the eventfds of the vectors from `start` on. Vectors beyond `limit` are left out.
    pub fn set(&self, start: usize, files: Vec<Option<OwnedFd>>, limit: usize) {
        {
            let mut vectors = self.vectors.lock().unwrap_or_else(PoisonError::into_inner);
            for (offset, file) in files.into_iter().enumerate() {
                let Some(index) = start.checked_add(offset).filter(|index| *index < limit) else { break };
                if vectors.len() <= index {
                    vectors.resize(index + 1, None);
                }
                if let Some(vector) = vectors.get_mut(index) {
                    *vector = file.map(Arc::new);
                }
            }
        }
        self.epoch.fetch_add(1, Ordering::Release);
    }

    /// Takes all eventfds away.
    pub fn clear(&self) {
        self.vectors.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.epoch.fetch_add(1, Ordering::Release);
    }

    /// Returns the eventfd of a vector.
    #[must_use]
    pub fn get(&self, vector: u16) -> Option<Arc<OwnedFd>> {
        self.vectors.lock().unwrap_or_else(PoisonError::into_inner).get(usize::from(vector))?.clone()
    }

    /// The client asks for an interrupt.
    pub fn ask(&self, vector: u16) {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).insert(vector);
    }

    /// The client asks for the pin to be raised.
    pub fn ask_pin(&self) {
        self.pin.ask();
    }

    /// Takes the vectors that the client has asked for.
    pub(super) fn take_asked(&self) -> BTreeSet<u16> {
        std::mem::take(&mut *self.asked.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the pin (INTA#), which stands for the vectors that have no eventfd.
    #[must_use]
    pub fn pin(&self) -> &Pin {
        &self.pin
    }

    /// Returns whether an eventfd has made who wrote to it wait. Its flag was set so that it does not, but the client
    /// has the flag too.
    #[must_use]
    pub fn has_blocked(&self) -> bool {
        self.blocked.load(Ordering::Acquire)
    }

    #[cold]
    fn note_blocked(&self) {
        self.blocked.store(true, Ordering::Release);
        // None of the client's eventfds is written to any more.
        self.clear();
        self.pin.set_file(None);
    }

    /// Returns for how long the pin may not be raised after it was unmasked, in ticks of the queues' clock.
    pub(super) fn settling_time(&self) -> u64 {
        self.settling
    }

    /// Raises the pin unless it is masked.
    pub(super) fn raise_pin(&self) {
        if let Some(file) = self.pin.raise() {
            self.write(&file);
        }
    }

    /// Writes to an eventfd of the client's.
    ///
    /// It was made not to block: one whose count is full is raised already. But a client can undo that and fill the
    /// count. Who runs this has to be interrupted then; the write tells it by `EINTR`, which no write gives that does
    /// not wait.
    #[inline]
    fn write(&self, file: &OwnedFd) {
        if rustix::io::write(file, &1_u64.to_ne_bytes()) == Err(rustix::io::Errno::INTR) {
            self.note_blocked();
        }
    }

    fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }
}

/// A completion queue's interrupt vector.
#[derive(Debug)]
pub struct Vector {
    number: u16,
    interrupts: Arc<Interrupts>,
    seen: Cell<u64>,
    file: RefCell<Option<Arc<OwnedFd>>>,
    /// There was nothing to raise it with when it was to be raised.
    missed: Cell<bool>,
}

impl Vector {
    /// Returns the vector of that number.
    #[must_use]
    pub(crate) fn new(number: u16, interrupts: Arc<Interrupts>) -> Self {
        Self { number, interrupts, seen: Cell::new(u64::MAX), file: RefCell::new(None), missed: Cell::new(false) }
    }

    /// Returns its number.
    #[must_use]
    pub(crate) fn number(&self) -> u16 {
        self.number
    }

    /// Raises an interrupt that could not be raised before, unless it is the pin's now, of which the queue knows whether
    /// there still is a reason. The client may take the eventfd of a vector away and set it again while the guest waits
    /// for the vector.
    pub(crate) fn catch_up(&self) {
        if self.missed.take() {
            self.raise(|_| false);
        }
    }

    /// Raises the interrupt, if the client has given something to raise it with. If that is the pin, then only if
    /// `is_due` says that there still is a reason.
    #[inline]
    pub(crate) fn raise(&self, is_due: impl FnOnce(&Pin) -> bool) {
        self.look();
        match self.file.borrow().as_ref() {
            None => self.raise_pin(is_due),
            Some(file) => self.interrupts.write(file),
        }
    }

    #[cold]
    fn raise_pin(&self, is_due: impl FnOnce(&Pin) -> bool) {
        if !self.interrupts.pin.is_used() {
            self.missed.set(true);
        } else if is_due(&self.interrupts.pin) {
            self.interrupts.raise_pin();
        }
    }

    /// Returns the interrupts of which it is one.
    pub(super) fn interrupts(&self) -> &Interrupts {
        &self.interrupts
    }

    /// Returns the pin, if it stands for this vector.
    pub(super) fn pin(&self) -> Option<&Pin> {
        self.look();
        (self.file.borrow().is_none() && self.interrupts.pin.is_used()).then_some(&self.interrupts.pin)
    }

    #[inline]
    fn look(&self) {
        let epoch = self.interrupts.epoch();
        if self.seen.replace(epoch) != epoch {
            self.file.replace(self.interrupts.get(self.number));
        }
    }
}

/// Interrupt Coalescing (feature 08h) as the queues need it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Coalescing {
    /// Completions after which an interrupt is raised at once.
    pub entries: u16,
    /// For how long at most, in the clock's ticks; 0 for no coalescing.
    pub ticks: u64,
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

    use super::*;

    #[test]
    fn a_panic_under_a_lock_costs_the_guest_no_interrupt() {
        let (interrupts, (file, _other)) = (Interrupts::default(), std::io::pipe().expect("a descriptor"));
        interrupts.set(1, vec![Some(file.into())], 2);
        interrupts.ask(1);
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _locked = (interrupts.vectors.lock(), interrupts.asked.lock());
            resume_unwind(Box::new("under both locks"));
        }));
        assert!(panicked.is_err() && interrupts.vectors.is_poisoned() && interrupts.asked.is_poisoned());
        assert!(interrupts.get(1).is_some(), "the eventfd is there");
        assert_eq!(interrupts.take_asked(), BTreeSet::from([1]));
        interrupts.clear();
        assert!(interrupts.get(1).is_none(), "and can be taken away");
    }
}
