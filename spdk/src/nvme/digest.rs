//! Digests over TCP data, for which SPDK asks its user.
//!
//! Where it is given functions for them, SPDK compares the digest of what was read when the command is complete.
//! Without them it compares before, and lets the status of a response capsule replace what it found: a wrong digest is
//! then a success.

use std::cell::RefCell;
use std::ffi::{c_int, c_void};
use std::ptr::NonNull;

use libc::iovec;
use spdk_sys as sys;

/// A digest that is to be calculated: all of what SPDK calls a sequence.
struct Step {
    dst: *mut u32,
    iovs: *mut iovec,
    count: u32,
    seed: u32,
    done: sys::spdk_nvme_accel_step_cb,
    arg: *mut c_void,
    digests: NonNull<Digests>,
}

/// The digests that a thread calculates, and room for those to come, so that none is allocated for each I/O.
#[derive(Default)]
pub(super) struct Digests {
    #[expect(clippy::vec_box, reason = "a box that is kept is used again as it is")]
    free: RefCell<Vec<Box<Step>>>,
}

/// The context of a poll group.
pub(super) trait HasDigests {
    /// Returns the digests of its thread.
    fn digests(&self) -> &Digests;
}

impl Digests {
    /// SPDK's table of functions, for a poll group whose context is a `G` that stays where it is and outlives the
    /// group.
    pub(super) fn functions<G: HasDigests>() -> sys::spdk_nvme_accel_fn_table {
        sys::spdk_nvme_accel_fn_table {
            table_size: size_of::<sys::spdk_nvme_accel_fn_table>(),
            finish_sequence: Some(finish),
            reverse_sequence: Some(reverse),
            abort_sequence: Some(abort),
            append_crc32c: Some(append::<G>),
            ..Default::default()
        }
    }

    fn keep(&self, step: Box<Step>) {
        self.free.borrow_mut().push(step);
    }
}

/// # Safety
/// `seq` must come from `append`, and is taken back once.
unsafe fn take(seq: *mut c_void) -> Option<Box<Step>> {
    // SAFETY: `append` made the pointer of a box, and the caller takes it back once.
    NonNull::new(seq).map(|seq| unsafe { Box::from_raw(seq.cast::<Step>().as_ptr()) })
}

unsafe extern "C" fn append<G: HasDigests>(
    ctx: *mut c_void,
    seq: *mut *mut c_void,
    dst: *mut u32,
    iovs: *mut iovec,
    count: u32,
    domain: *mut sys::spdk_memory_domain,
    _: *mut c_void,
    seed: u32,
    done: sys::spdk_nvme_accel_step_cb,
    arg: *mut c_void,
) -> c_int {
    // SAFETY: the context of a group with these functions is a `G`, which outlives it.
    let Some(group) = (unsafe { ctx.cast::<G>().as_ref() }) else { return -libc::EINVAL };
    let digests = group.digests();
    // SAFETY: SPDK gives a place that holds a sequence of the same command, or null.
    let earlier = unsafe { *seq };
    if !earlier.is_null() || !domain.is_null() {
        // For this SPDK does it by itself.
        return -libc::ENOMEM;
    }
    let step = Step { dst, iovs, count, seed, done, arg, digests: NonNull::from(digests) };
    let place = digests.free.borrow_mut().pop();
    let step = match place {
        Some(mut place) => {
            *place = step;
            place
        }
        None => Box::new(step),
    };
    // SAFETY: as above.
    unsafe { *seq = Box::into_raw(step).cast() };
    0
}

unsafe extern "C" fn finish(seq: *mut c_void, done: sys::spdk_nvme_accel_completion_cb, arg: *mut c_void) {
    // SAFETY: SPDK finishes or aborts a sequence that was appended to, once.
    if let Some(step) = unsafe { take(seq) } {
        // SAFETY: list, data and place belong to the command, which is in flight; SPDK gave the callback for this
        // moment.
        unsafe {
            let count = c_int::try_from(step.count).unwrap_or(0);
            *step.dst = sys::spdk_crc32c_iov_update(step.iovs, count, !step.seed);
            if let Some(step_done) = step.done {
                step_done(step.arg);
            }
            step.digests.as_ref().keep(step);
        }
    }
    if let Some(done) = done {
        // SAFETY: SPDK gave both for this call. The command may be gone after it.
        unsafe { done(arg, 0) };
    }
}

/// The order of one step is the same either way.
unsafe extern "C" fn reverse(_: *mut c_void) {}

unsafe extern "C" fn abort(seq: *mut c_void) {
    // SAFETY: as for `finish`.
    if let Some(step) = unsafe { take(seq) } {
        // SAFETY: the group is live, so that its context is, too.
        unsafe { step.digests.as_ref() }.keep(step);
    }
}

#[cfg(test)]
mod tests {
    use std::ptr;

    use super::*;

    impl HasDigests for Digests {
        fn digests(&self) -> &Digests {
            self
        }
    }

    unsafe extern "C" fn count(arg: *mut c_void) {
        // SAFETY: the test gives a number.
        unsafe { *arg.cast::<u32>() += 1 };
    }

    unsafe extern "C" fn ended(arg: *mut c_void, status: c_int) {
        assert_eq!(status, 0);
        // SAFETY: as above.
        unsafe { count(arg) };
    }

    #[test]
    fn a_digest_is_calculated_when_its_command_ends_and_its_place_is_used_again() {
        let digests = Digests::default();
        let ctx = (&raw const digests).cast_mut().cast();
        let mut data = *b"123456789";
        let (first, second) = data.split_at_mut(4);
        let mut iovs = [first, second].map(|part| iovec { iov_base: part.as_mut_ptr().cast(), iov_len: part.len() });
        let (mut crc, mut steps, mut ends) = (0_u32, 0_u32, 0_u32);
        let mut seq = ptr::null_mut();
        let mut begin = |seq: &mut *mut c_void, crc: &mut u32, steps: &mut u32| {
            let arg = ptr::from_mut(steps).cast();
            // SAFETY: all that is given outlives the sequence.
            unsafe {
                append::<Digests>(
                    ctx,
                    seq,
                    crc,
                    iovs.as_mut_ptr(),
                    2,
                    ptr::null_mut(),
                    ptr::null_mut(),
                    0,
                    Some(count),
                    arg,
                )
            }
        };
        assert_eq!(begin(&mut seq, &mut crc, &mut steps), 0);
        assert_eq!((crc, steps), (0, 0));
        assert_eq!(begin(&mut seq, &mut crc, &mut steps), -libc::ENOMEM, "there is one already");
        // SAFETY: the sequence is ended once.
        unsafe { finish(seq, Some(ended), ptr::from_mut(&mut ends).cast()) };
        // The check value of CRC-32C, whose last step is the user's.
        assert_eq!((crc ^ u32::MAX, steps, ends), (0xe306_9283, 1, 1));

        let mut again = ptr::null_mut();
        assert_eq!(begin(&mut again, &mut crc, &mut steps), 0);
        assert_eq!(again, seq);
        // SAFETY: as above.
        unsafe { abort(again) };
        assert_eq!((steps, digests.free.borrow().len()), (1, 1));
    }
}
