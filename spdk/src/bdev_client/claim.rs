//! Claims: while a module has claimed a bdev, no other opens it for writing.

use std::collections::BTreeMap;
use std::ffi::CStr;

use spdk_sys as sys;
use spdk_sys::spdk_bdev_claim_type as claim_type;

use super::{BdevDesc, BdevEvent};
use crate::Errno;
use crate::bdev::ModuleHandle;
use crate::thread::AppCell;

/// Why a bdev was not opened and claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimError {
    /// It cannot be opened: `NODEV` when there is none, or when it is being removed.
    Open(Errno),
    /// Another module, of this name, has claimed it.
    Claimed(String),
    /// The claim was refused for another reason.
    Refused(Errno),
}

/// How many descriptors share the claim of a bdev, by its address. A bdev stays where it is while one is open.
///
/// SPDK's own shared claim is not used: it is refused while anybody has the bdev open for writing, which lvol has for
/// as long as the examination of a new bdev takes, and that may be as slow as its disk is.
static CLAIMS: AppCell<BTreeMap<usize, usize>> = AppCell::new(BTreeMap::new);

impl BdevDesc {
    /// Opens the bdev of that name for reading and writing, and claims it for `module`, until this is closed: others
    /// may only open it for reading, and `module` may claim it once more. `events` is called, and dropped, on this
    /// thread.
    ///
    /// # Errors
    /// Why that cannot be.
    pub fn open_claimed(
        name: &str,
        module: ModuleHandle,
        events: impl Fn(BdevEvent) + 'static,
    ) -> Result<Self, ClaimError> {
        // The claim makes a descriptor for reading one for writing, which cannot be opened when there is a claim.
        let mut desc = Self::open_to(name, false, events).map_err(ClaimError::Open)?;
        // The bdev layer has an ERROR logged by each attempt on a bdev that somebody else has claimed.
        if let Some(other) = desc.claimed_by_another(module) {
            return Err(ClaimError::Claimed(other));
        }
        let bdev = desc.bdev();
        CLAIMS.with(|claims| {
            let mut claims = claims.borrow_mut();
            let count = claims.get(&bdev.addr()).copied().unwrap_or(0);
            // SAFETY: the descriptor is open, and of that bdev; the module lives for ever. What is released is
            // `module`'s own claim, which is taken again for the new descriptor before anybody else has a turn.
            let rc = unsafe {
                if count > 0 {
                    sys::spdk_bdev_module_release_bdev(bdev);
                }
                sys::spdk_bdev_module_claim_bdev(bdev, desc.0.raw.as_ptr(), module.as_ptr())
            };
            if let Err(errno) = Errno::check(rc) {
                claims.remove(&bdev.addr());
                return Err(ClaimError::Refused(errno));
            }
            claims.insert(bdev.addr(), count + 1);
            Ok(())
        })?;
        desc.0.is_claimed = true;
        Ok(desc)
    }

    /// Returns the name of the module that has claimed the bdev, unless that is `module`.
    fn claimed_by_another(&self, module: ModuleHandle) -> Option<String> {
        let bdev = self.bdev();
        // SAFETY: an open bdev stays where it is. Its claims are read under its lock; the kind of claim says which of
        // the union's members there is. Modules live for ever.
        unsafe {
            let lock = &raw mut (*bdev).internal.spinlock;
            sys::spdk_spin_lock(lock);
            let claim = &raw const (*bdev).internal.claim;
            let other = match (*bdev).internal.claim_type {
                claim_type::SPDK_BDEV_CLAIM_NONE => None,
                claim_type::SPDK_BDEV_CLAIM_EXCL_WRITE => Some((*claim).v1.module),
                _ => (*claim).v2.claims.tqh_first.as_ref().map(|first| first.module),
            };
            sys::spdk_spin_unlock(lock);
            // A claim that ended while the bdev is examined has no module any more.
            other.filter(|other| *other != module.as_ptr()).map(|other| match other.as_ref() {
                Some(other) => CStr::from_ptr(other.name).to_string_lossy().into_owned(),
                None => "unknown".to_owned(),
            })
        }
    }
}

/// A descriptor that shares the claim of a bdev is about to be closed.
///
/// # Safety
/// The bdev must be open, and this be called once for the descriptor, on the application's thread.
pub(super) unsafe fn let_go(bdev: *mut sys::spdk_bdev) {
    CLAIMS.with(|claims| {
        let mut claims = claims.borrow_mut();
        let Some(count) = claims.get_mut(&bdev.addr()) else { return };
        *count -= 1;
        if *count == 0 {
            claims.remove(&bdev.addr());
            // SAFETY: the claim is there as long as somebody is counted.
            unsafe { sys::spdk_bdev_module_release_bdev(bdev) };
        }
    });
}
