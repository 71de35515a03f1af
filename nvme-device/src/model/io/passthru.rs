//! Commands that only the backend can carry out: Verify and Write Uncorrectable (NVM Command Set specification 1.0,
//! sections 3.2.5 and 3.2.7) and vendor specific ones. They are checked here, and then given to the backend as they
//! are, without anything that is the guest's own: identifiers, pointers, flags, reserved bits.

use super::{IoCommand, IoKind, NsGeometry, blocks, fuse};
use nvme_spec::nvm::BlockDw12;
use nvme_spec::opcode::DataTransfer;
use nvme_spec::{IoOpcode, Sqe, Status};

/// What Verify and Write Uncorrectable have in Command Dword 12, beside protection information, which namespaces have
/// not.
const VERIFY: u32 = WRITE_UNCORRECTABLE | BlockDw12::new().with_fua(true).with_lr(true).into_bits();
const WRITE_UNCORRECTABLE: u32 = BlockDw12::new().with_nlb(u16::MAX).into_bits();

/// What a backend is told of a command that it carries out as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PassthruCommand {
    /// Its opcode.
    pub opcode: u8,
    /// Command dwords 10 to 15.
    pub dwords: [u32; 6],
}

impl PassthruCommand {
    /// Of a command that [`decode`](super::decode) has accepted as [`IoKind::Passthru`].
    #[must_use]
    pub(crate) const fn of(sqe: &Sqe) -> Self {
        let dwords = match IoOpcode(sqe.opcode) {
            // Namespaces have neither metadata nor protection information, which the other bits and dwords are about.
            IoOpcode::VERIFY => [sqe.cdw10, sqe.cdw11, sqe.cdw12 & VERIFY, 0, 0, 0],
            IoOpcode::WRITE_UNCORRECTABLE => [sqe.cdw10, sqe.cdw11, sqe.cdw12 & WRITE_UNCORRECTABLE, 0, 0, 0],
            _ => sqe.dwords(),
        };
        Self { opcode: sqe.opcode, dwords }
    }

    /// Returns whether its data, if there is any, goes to the guest.
    #[must_use]
    pub fn to_guest(&self) -> bool {
        DataTransfer::of(self.opcode) == DataTransfer::TO_HOST
    }
}

pub(super) fn decode(sqe: &Sqe, ns: &NsGeometry, mdts_bytes: u32) -> Result<IoCommand, Status> {
    match IoOpcode(sqe.opcode) {
        IoOpcode::VERIFY => on_blocks(sqe, ns),
        IoOpcode::WRITE_UNCORRECTABLE => {
            ns.check_writable()?;
            on_blocks(sqe, ns)
        }
        opcode if opcode.is_vendor_specific() => vendor_specific(sqe, ns, mdts_bytes),
        _ => Err(Status::INVALID_OPCODE),
    }
}

/// Returns a command on blocks that transfers nothing.
fn on_blocks(sqe: &Sqe, ns: &NsGeometry) -> Result<IoCommand, Status> {
    fuse(sqe, ns)?;
    let (slba, blocks) = (sqe.slba(), blocks(sqe));
    ns.check_range(slba, blocks)?;
    Ok(IoCommand { slba, blocks, ..IoCommand::without_blocks(IoKind::Passthru, 0) })
}

/// Returns a command in the common format of vendor specific commands (base specification 2.0, section 3.3.3.1): CDW10
/// counts the dwords of its data, CDW11 those of its metadata.
fn vendor_specific(sqe: &Sqe, ns: &NsGeometry, mdts_bytes: u32) -> Result<IoCommand, Status> {
    let direction = DataTransfer::of(sqe.opcode);
    // Data that goes both ways at once: no backend can do that.
    if direction == DataTransfer::BOTH {
        return Err(Status::INVALID_OPCODE);
    }
    // What it does to the data is not known.
    ns.check_writable()?;
    fuse(sqe, ns)?;
    let bytes = sqe.cdw10.checked_mul(4).filter(|bytes| *bytes <= mdts_bytes).ok_or(Status::INVALID_FIELD)?;
    if sqe.cdw11 != 0 || (bytes > 0 && direction == DataTransfer::NONE) {
        return Err(Status::INVALID_FIELD);
    }
    Ok(IoCommand::without_blocks(IoKind::Passthru, bytes))
}

#[cfg(test)]
mod tests {
    use nvme_spec::CommandFlags;

    use super::super::{IoSupport, decode};
    use super::*;

    const MDTS: u32 = 128 * 1024;

    fn ns() -> NsGeometry {
        let mut ns = NsGeometry::new(1000, 9).expect("a geometry");
        ns.supports = IoSupport::VERIFY | IoSupport::WRITE_UNCORRECTABLE | IoSupport::VENDOR_SPECIFIC;
        ns
    }

    fn vendor(opcode: u8, ndt: u32) -> Sqe {
        Sqe { opcode, cdw10: ndt, ..Sqe::default() }
    }

    #[test]
    fn verify_and_write_uncorrectable_are_of_blocks_within_the_namespace() {
        for opcode in [IoOpcode::VERIFY.0, IoOpcode::WRITE_UNCORRECTABLE.0] {
            let sqe = |slba, nlb| Sqe { opcode, cdw10: slba, cdw12: nlb, ..Sqe::default() };
            let command = decode(&sqe(990, 9), &ns(), MDTS).expect("within the namespace");
            assert_eq!((command.kind, command.slba, command.blocks), (IoKind::Passthru, 990, 10));
            assert_eq!(
                (command.bytes, PassthruCommand::of(&sqe(990, 9)).to_guest(), command.durable),
                (0, false, false)
            );
            assert_eq!(decode(&sqe(990, 10), &ns(), MDTS), Err(Status::LBA_OUT_OF_RANGE));
            assert_eq!(decode(&Sqe { cdw11: 1, ..sqe(0, 0) }, &ns(), MDTS), Err(Status::LBA_OUT_OF_RANGE));
            assert_eq!(
                decode(&Sqe { flags: CommandFlags::FUSED_FIRST, ..sqe(0, 0) }, &ns(), MDTS),
                Err(Status::INVALID_FIELD),
                "fused"
            );
        }
    }

    #[test]
    fn what_the_backend_does_not_have_is_an_invalid_opcode() {
        let mut ns = ns();
        for (opcode, command) in [
            (IoOpcode::VERIFY.0, IoSupport::VERIFY),
            (IoOpcode::WRITE_UNCORRECTABLE.0, IoSupport::WRITE_UNCORRECTABLE),
            (0x81, IoSupport::VENDOR_SPECIFIC),
        ] {
            ns.supports = command;
            assert!(decode(&Sqe { opcode, ..Sqe::default() }, &ns, MDTS).is_ok(), "{opcode:#x}");
            ns.supports = IoSupport::NONE;
            assert_eq!(decode(&Sqe { opcode, ..Sqe::default() }, &ns, MDTS), Err(Status::INVALID_OPCODE));
        }
    }

    #[test]
    fn a_protected_namespace_is_verified_but_not_changed() {
        let mut ns = ns();
        ns.write_protected = true;
        let status = |opcode| decode(&Sqe { opcode, ..Sqe::default() }, &ns, MDTS).err();
        assert_eq!(status(IoOpcode::VERIFY.0), None);
        for opcode in [IoOpcode::WRITE_UNCORRECTABLE.0, 0x80, 0x82] {
            assert_eq!(status(opcode), Some(Status::NAMESPACE_WRITE_PROTECTED), "{opcode:#x}");
        }
    }

    #[test]
    fn data_of_a_vendor_specific_command_goes_the_way_that_its_opcode_says() {
        for (opcode, to_guest) in [(0x81, false), (0x82, true), (0xfd, false), (0xfe, true)] {
            let command = decode(&vendor(opcode, 3), &ns(), MDTS).expect("accepted");
            assert_eq!((command.kind, command.bytes), (IoKind::Passthru, 12), "{opcode:#x}");
            assert_eq!(PassthruCommand::of(&vendor(opcode, 3)).to_guest(), to_guest, "{opcode:#x}");
        }
        for opcode in [0x83, 0xff] {
            assert_eq!(decode(&vendor(opcode, 0), &ns(), MDTS), Err(Status::INVALID_OPCODE), "both ways");
        }
    }

    #[test]
    fn data_of_a_vendor_specific_command_is_bounded() {
        assert!(decode(&vendor(0x81, MDTS / 4), &ns(), MDTS).is_ok_and(|command| command.bytes == MDTS));
        for ndt in [MDTS / 4 + 1, 1 << 30, u32::MAX] {
            assert_eq!(decode(&vendor(0x81, ndt), &ns(), MDTS), Err(Status::INVALID_FIELD), "{ndt} dwords");
        }
        assert_eq!(decode(&vendor(0x80, 1), &ns(), MDTS), Err(Status::INVALID_FIELD), "data without a direction");
        let metadata = Sqe { cdw11: 1, ..vendor(0x81, 1) };
        assert_eq!(decode(&metadata, &ns(), MDTS), Err(Status::INVALID_FIELD));
        let fused = Sqe { flags: CommandFlags::FUSED_SECOND, ..vendor(0x81, 1) };
        assert_eq!(decode(&fused, &ns(), MDTS), Err(Status::INVALID_FIELD));
    }

    #[test]
    fn a_backend_is_told_nothing_that_is_the_guests_own() {
        let all =
            |opcode| Sqe { opcode, cdw10: 1, cdw11: 2, cdw12: !0, cdw13: !0, cdw14: !0, cdw15: !0, ..Sqe::default() };
        assert_eq!(PassthruCommand::of(&all(IoOpcode::VERIFY.0)).dwords, [1, 2, 0xc000_ffff, 0, 0, 0]);
        assert_eq!(PassthruCommand::of(&all(IoOpcode::WRITE_UNCORRECTABLE.0)).dwords, [1, 2, 0xffff, 0, 0, 0]);
        assert_eq!(PassthruCommand::of(&all(0xc1)), PassthruCommand { opcode: 0xc1, dwords: [1, 2, !0, !0, !0, !0] });
    }
}
