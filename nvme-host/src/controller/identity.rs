//! The checks of what Identify Controller tells.

use nvme_spec::fabrics::CAPSULE_UNIT;
use nvme_spec::identify::{ControllerType, IdentifyController};
use nvme_spec::register::{Cap, MPS_SHIFT};
use nvme_spec::{Cqe, MAX_NQN, Sqe};
use zerocopy::FromBytes;

use super::IdentityError;

/// Units of a capsule that are the entry.
const ENTRY_UNITS: u32 = (1 << Sqe::SIZE_LOG2) / CAPSULE_UNIT;
/// Units of a response that are the entry.
const RESPONSE_UNITS: u32 = (1 << Cqe::SIZE_LOG2) / CAPSULE_UNIT;

/// Returns what a controller is, if it is the one that was connected to and can be used.
pub(super) fn check(data: &[u8], cntlid: u16, subnqn: &str) -> Result<Box<IdentifyController>, IdentityError> {
    let length = IdentityError::Length { len: data.len() };
    let identity = Box::new(IdentifyController::read_from_bytes(data).map_err(|_| length)?);
    if identity.cntlid != cntlid {
        return Err(IdentityError::ControllerId { cntlid: identity.cntlid, expected: cntlid });
    }
    if !is_name(&identity.subnqn, subnqn) {
        return Err(IdentityError::Subsystem);
    }
    let kind = identity.cntrltype;
    if ![ControllerType::NOT_REPORTED, ControllerType::IO].contains(&kind) {
        return Err(IdentityError::Type { kind });
    }
    check_entry("SQES", identity.sqes.min(), identity.sqes.max(), Sqe::SIZE_LOG2)?;
    check_entry("CQES", identity.cqes.min(), identity.cqes.max(), Cqe::SIZE_LOG2)?;
    check_capsule("IOCCSZ", identity.ioccsz, ENTRY_UNITS)?;
    check_capsule("IORCSZ", identity.iorcsz, RESPONSE_UNITS)?;
    if identity.sgls.sgls() == 0 {
        return Err(IdentityError::NoSgls { sgls: identity.sgls.into_bits() });
    }
    Ok(identity)
}

/// Returns the most bytes of data in an I/O capsule: none, if the controller takes no offsets as addresses, or wants
/// data elsewhere than behind the entry.
pub(super) fn in_capsule_data(identity: &IdentifyController) -> u32 {
    if identity.icdoff != 0 || !identity.sgls.offset() {
        return 0;
    }
    identity.ioccsz.saturating_sub(ENTRY_UNITS).saturating_mul(CAPSULE_UNIT)
}

/// Returns the most bytes of a command's data, if there is such a limit below 4 GiB.
pub(super) fn max_transfer(identity: &IdentifyController, cap: Cap) -> Option<u32> {
    let shift = MPS_SHIFT + u32::from(cap.mpsmin()) + u32::from(identity.mdts);
    if identity.mdts == 0 { None } else { 1_u32.checked_shl(shift) }
}

fn check_entry(field: &'static str, min: u8, max: u8, expected: u8) -> Result<(), IdentityError> {
    if (min..=max).contains(&expected) {
        return Ok(());
    }
    Err(IdentityError::EntrySize { field, min, max, expected })
}

fn check_capsule(field: &'static str, value: u32, min: u32) -> Result<(), IdentityError> {
    if value >= min { Ok(()) } else { Err(IdentityError::CapsuleSize { field, value, min }) }
}

/// Returns whether a field holds this name, and zeroes behind it.
fn is_name(field: &[u8], name: &str) -> bool {
    let Some((held, rest)) = field.split_at_checked(name.len()) else { return false };
    name.len() <= MAX_NQN && held == name.as_bytes() && rest.first() == Some(&0)
}
