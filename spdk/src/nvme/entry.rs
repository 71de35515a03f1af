//! Queue entries at the border to SPDK, which has the same structures under its own names.

use nvme_spec::{Cqe, Sqe, Status, StatusCode};
use spdk_sys as sys;

// What SPDK is given and gives is used as what the specification says: of the same size, and no less aligned.
const _: () = {
    assert!(size_of::<Sqe>() == size_of::<sys::spdk_nvme_cmd>());
    assert!(align_of::<Sqe>() == align_of::<sys::spdk_nvme_cmd>());
    assert!(size_of::<Cqe>() == size_of::<sys::spdk_nvme_cpl>());
    assert!(align_of::<Cqe>() <= align_of::<sys::spdk_nvme_cpl>());
};

/// Returns the entry as SPDK's functions take it: by a pointer through which they read only, before they return.
#[inline]
pub(crate) fn as_cmd(sqe: &Sqe) -> *mut sys::spdk_nvme_cmd {
    std::ptr::from_ref(sqe).cast_mut().cast()
}

/// Returns the entry that SPDK has at `cmd`.
///
/// # Safety
/// `cmd` must point to a command.
#[inline]
pub(crate) unsafe fn sqe_at(cmd: *const sys::spdk_nvme_cmd) -> Sqe {
    // SAFETY: the caller vouches for the pointer; both are the same 64 bytes, any of which make an entry.
    unsafe { cmd.cast::<Sqe>().read() }
}

/// Returns the entry that SPDK has at `cpl`.
///
/// # Safety
/// `cpl` must point to a completion.
#[inline]
pub(crate) unsafe fn cqe_at(cpl: *const sys::spdk_nvme_cpl) -> Cqe {
    // SAFETY: the caller vouches for the pointer; both are the same 16 bytes, any of which make an entry.
    unsafe { cpl.cast::<Cqe>().read() }
}

/// Returns whether a command was lost with its queue, not refused by the controller: it may be sent again. SPDK ends
/// such commands with Command Aborted due to SQ Deletion.
#[must_use]
pub fn is_queue_lost(status: Status) -> bool {
    status.code() == StatusCode::ABORTED_SQ_DELETION && !status.dnr()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_queue_is_told_from_a_refusal() {
        assert!(is_queue_lost(Status::ABORTED_SQ_DELETION));
        assert!(is_queue_lost(Status::ABORTED_SQ_DELETION.with_phase(true)));
        assert!(!is_queue_lost(Status::ABORTED_SQ_DELETION.with_dnr(true)));
        assert!(!is_queue_lost(Status::INVALID_FIELD.with_dnr(false)));
    }

    #[test]
    fn spdk_sees_the_command_that_was_made_and_we_the_completion_that_it_gives() {
        let sqe = Sqe { cid: 7, ..Sqe::identify(nvme_spec::identify::Cns::ACTIVE_NAMESPACES, 3) };
        // SAFETY: the entry is a command.
        let (opcode, nsid, again) = unsafe {
            let cmd = as_cmd(&sqe);
            ((*cmd).opc(), (*cmd).nsid, sqe_at(cmd))
        };
        assert_eq!((opcode, nsid, again), (6, 3, sqe));
        let mut cpl = sys::spdk_nvme_cpl { cdw0: 5, cid: 9, ..Default::default() };
        cpl.__bindgen_anon_1.status_raw = Status::COMPARE_FAILURE.with_phase(true).into_bits();
        // SAFETY: it is a completion.
        let cqe = unsafe { cqe_at(&raw const cpl) };
        assert_eq!((cqe.dw0, cqe.cid, cqe.status.with_phase(false)), (5, 9, Status::COMPARE_FAILURE));
    }
}
