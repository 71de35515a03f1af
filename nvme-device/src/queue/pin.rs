//! The interrupt pin (INTA#), for hosts that do not use MSI-X.
//!
//! A pin is raised for as long as a completion queue has entries that the host has not taken, but here it has no level:
//! the client is told by an eventfd when it rises, and has to look after it from then on. It is masked by that, until
//! the client unmasks it (as VFIO has it, "automasked"); then every poll group looks whether its queues still have a
//! reason to raise it.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use guest_memory::DoorbellPage;
use guest_memory::doorbells::head_index;

/// Who keeps the pin from being raised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum PinMask {
    /// The client, or that it was raised and the client has not unmasked it.
    Client = 1,
    /// The interrupt mask of the controller's registers (INTMS, INTMC), whose bit 0 is the pin's.
    Register = 2,
    /// Interrupt Disable of the PCI command register.
    Command = 4,
}

/// The pin of a session.
#[derive(Debug, Default)]
pub struct Pin {
    file: Mutex<Option<Arc<OwnedFd>>>,
    used: AtomicBool,
    masks: AtomicU32,
    /// The client wants it to be raised once.
    asked: AtomicBool,
    /// The completion queues that had a reason to raise it when that was last looked at, and their tails.
    reasons: Mutex<BTreeMap<u16, u16>>,
}

impl Pin {
    /// Sets the eventfd that tells the client, or takes it away. A new one is not masked by the client.
    pub fn set_file(&self, file: Option<OwnedFd>) {
        self.used.store(file.is_some(), Ordering::Release);
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = file.map(Arc::new);
        self.set_mask(PinMask::Client, false);
    }

    /// The client asks for it to be raised once, without a reason.
    pub(super) fn ask(&self) {
        self.asked.store(true, Ordering::Release);
    }

    /// Takes whether the client has asked for it.
    pub(super) fn take_asked(&self) -> bool {
        self.asked.swap(false, Ordering::AcqRel)
    }

    /// Returns whether there is an eventfd.
    #[must_use]
    pub(crate) fn is_used(&self) -> bool {
        self.used.load(Ordering::Acquire)
    }

    /// Returns whether the host takes its interrupts by the pin: there is an eventfd, and the PCI command register allows
    /// it.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        self.is_used() && self.masks.load(Ordering::Acquire) & PinMask::Command as u32 == 0
    }

    /// Masks the pin or unmasks it. Returns whether something is to be looked at again: nothing masks it now, and
    /// something did.
    pub fn set_mask(&self, mask: PinMask, masked: bool) -> bool {
        let bit = mask as u32;
        if masked {
            self.masks.fetch_or(bit, Ordering::AcqRel);
            return false;
        }
        self.masks.fetch_and(!bit, Ordering::AcqRel) == bit
    }

    /// Raises it unless it is masked; the eventfd that is to be written to.
    pub(super) fn raise(&self) -> Option<Arc<OwnedFd>> {
        let client = PinMask::Client as u32;
        self.masks.compare_exchange(0, client, Ordering::AcqRel, Ordering::Acquire).ok()?;
        self.file.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A completion queue has entries up to `tail` that the host has not taken, or none.
    pub(super) fn set_reason(&self, cqid: u16, tail: Option<u16>) {
        {
            let mut reasons = self.reasons.lock().unwrap_or_else(PoisonError::into_inner);
            match tail {
                Some(tail) => drop(reasons.insert(cqid, tail)),
                None => drop(reasons.remove(&cqid)),
            }
        }
    }

    /// Returns whether there is a reason to raise it, masked or not (Interrupt Status of the PCI status register).
    /// `doorbells` tell what the host has taken since; of queues with shadow doorbells it is seen a little later.
    #[must_use]
    pub fn has_reason(&self, doorbells: &DoorbellPage) -> bool {
        let taken = |(cqid, tail): (&u16, &u16)| doorbells.load(head_index(*cqid)) == u32::from(*tail);
        self.is_used() && !self.reasons.lock().unwrap_or_else(PoisonError::into_inner).iter().all(taken)
    }
}
