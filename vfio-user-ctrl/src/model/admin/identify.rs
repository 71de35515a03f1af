//! Identify (section 5.17, and section 4.1.5 of the NVM Command Set Specification 1.0): what the host is told of the
//! controller and its namespaces. Nothing comes from anywhere but [`Identity`], [`Limits`] and [`Namespace`].

use zerocopy::{FromZeros, Immutable, IntoBytes};

use super::ana;
use super::events::AERL;
use super::features::{ANA_NOTICES, KAS, NAMESPACE_NOTICES, WARNING_TEMPERATURE};
use super::logs::ELPE;
use super::namespaces::{MAX_NAMESPACES, Namespaces};
use super::queues::{CQES, SQES};
use super::{ACL, Controller, Identity, Limits, Namespace, Outcome, high, low, page};
use crate::model::dptr;
use crate::model::regs::Version;
use nvme_spec::{Sqe, Status};

/// The size of everything that Identify answers.
const LEN: usize = 4096;

/// The controller that carries out the command, where a list is asked for from one on.
const THIS_CONTROLLER: u16 = 0xffff;

/// Doorbell Buffer Config; no other optional admin command (OACS).
const OACS: u16 = 1 << 8;

/// One firmware slot, which is read-only (FRMW).
const FRMW: u8 = 1 << 1 | 1;

/// Commands Supported and Effects; offsets and long transfers of logs; the logs that tell of logs, features and scopes
/// (LPA).
const LPA: u8 = 1 << 5 | 1 << 2 | 1 << 1;

/// The bits of these that came with 2.0.
const LPA_2_0: u8 = 1 << 5;

/// The temperature at which the controller would shut down, in kelvins: 80 °C.
const CRITICAL_TEMPERATURE: u16 = 353;

/// A volatile write cache is present, and Flush does not take all namespaces at once (VWC).
///
/// It is told even where no namespace has one: a host reads this once, and would not flush a namespace with a cache
/// that is added later. Each namespace tells for itself that it has none (VWCNP).
const VWC: u8 = 0b10 << 1 | 1;

/// Optional NVM commands (ONCS).
mod oncs {
    pub(super) const COMPARE: u16 = 1;
    pub(super) const WRITE_UNCORRECTABLE: u16 = 1 << 1;
    pub(super) const DATASET_MANAGEMENT: u16 = 1 << 2;
    pub(super) const WRITE_ZEROES: u16 = 1 << 3;
    pub(super) const SAVE_AND_SELECT: u16 = 1 << 4;
    pub(super) const TIMESTAMP: u16 = 1 << 6;
    pub(super) const VERIFY: u16 = 1 << 7;
}

/// Identify Controller (CNS 01h). The reserved bytes include fields of which the controller has nothing to tell.
#[derive(FromZeros, IntoBytes, Immutable)]
#[repr(C)]
struct IdentifyController {
    vid: u16,
    ssvid: u16,
    sn: [u8; 20],
    mn: [u8; 40],
    fr: [u8; 8],
    rab: u8,
    ieee: [u8; 3],
    cmic: u8,
    mdts: u8,
    cntlid: u16,
    ver: u32,
    rtd3r: u32,
    rtd3e: u32,
    oaes: u32,
    ctratt: u32,
    reserved_100: [u8; 11],
    cntrltype: u8,
    fguid: [u8; 16],
    reserved_128: [u8; 128],
    oacs: u16,
    acl: u8,
    aerl: u8,
    frmw: u8,
    lpa: u8,
    elpe: u8,
    npss: u8,
    avscc: u8,
    apsta: u8,
    wctemp: u16,
    cctemp: u16,
    reserved_270: [u8; 50],
    kas: u16,
    reserved_322: [u8; 20],
    anatt: u8,
    anacap: u8,
    anagrpmax: u32,
    nanagrpid: u32,
    reserved_352: [u8; 160],
    sqes: u8,
    cqes: u8,
    maxcmd: u16,
    nn: u32,
    oncs: u16,
    fuses: u16,
    fna: u8,
    vwc: u8,
    awun: u16,
    awupf: u16,
    icsvscc: u8,
    nwpc: u8,
    acwu: u16,
    ocfs: u16,
    sgls: u32,
    mnan: u32,
    reserved_544: [u8; 224],
    subnqn: [u8; 256],
    /// From byte 2048 on the power state descriptors: one state, of which nothing is known.
    reserved_1024: [u8; 3072],
}

/// Identify Namespace of the NVM command set (CNS 00h).
#[derive(FromZeros, IntoBytes, Immutable)]
#[repr(C)]
struct IdentifyNamespace {
    nsze: u64,
    ncap: u64,
    nuse: u64,
    nsfeat: u8,
    nlbaf: u8,
    flbas: u8,
    mc: u8,
    dpc: u8,
    dps: u8,
    nmic: u8,
    rescap: u8,
    fpi: u8,
    dlfeat: u8,
    reserved_34: [u8; 4],
    nacwu: u16,
    reserved_40: [u8; 6],
    noiob: u16,
    nvmcap: [u64; 2],
    npwg: u16,
    npwa: u16,
    npdg: u16,
    npda: u16,
    nows: u16,
    reserved_74: [u8; 18],
    anagrpid: u32,
    reserved_96: [u8; 3],
    nsattr: u8,
    reserved_100: [u8; 4],
    nguid: [u8; 16],
    eui64: [u8; 8],
    lbaf: [u32; 64],
    vendor_specific: [u8; 3712],
}

/// I/O Command Set Independent Identify Namespace (CNS 08h).
#[derive(FromZeros, IntoBytes, Immutable)]
#[repr(C)]
struct IdentifyIndependent {
    nsfeat: u8,
    nmic: u8,
    rescap: u8,
    fpi: u8,
    anagrpid: u32,
    nsattr: u8,
    reserved_9: [u8; 5],
    nstat: u8,
    reserved_15: [u8; 4081],
}

/// Identify Controller of the NVM command set (CNS 06h): the limits of commands, of which there is one.
#[derive(FromZeros, IntoBytes, Immutable)]
#[repr(C)]
struct IdentifyControllerNvm {
    vsl: u8,
    wzsl: u8,
    reserved_2: [u8; 4094],
}

const _: () = assert!(
    size_of::<IdentifyController>() == LEN
        && size_of::<IdentifyNamespace>() == LEN
        && size_of::<IdentifyIndependent>() == LEN
        && size_of::<IdentifyControllerNvm>() == LEN
);

impl Controller {
    /// Identify (section 5.17).
    pub(super) fn identify(&mut self, sqe: &Sqe) -> Result<Outcome, Status> {
        let cns = low(sqe.cdw10).to_le_bytes()[0];
        let answer = self.identify_as(cns, sqe);
        match cns {
            0x02 | 0x07 | 0x10 | 0x1a if answer.is_ok() => self.namespaces.were_seen_above(sqe.nsid),
            // What is inactive is told by zeroes, by an error, or by Invalid Namespace.
            0x00 | 0x03 | 0x08 | 0x11 => self.namespaces.was_seen(sqe.nsid),
            _ => {}
        }
        answer
    }

    fn identify_as(&self, cns: u8, sqe: &Sqe) -> Result<Outcome, Status> {
        // I/O command sets came with 2.0.
        if self.identity.version == Version::V1_4 && matches!(cns, 0x05..=0x08 | 0x1a..=0x1c) {
            return Err(Status::INVALID_FIELD);
        }
        // Those of a command set: the NVM command set is the only one.
        if matches!(cns, 0x05..=0x07 | 0x1a | 0x1b) && sqe.cdw11 >> 24 != 0 {
            return Err(Status::INVALID_FIELD);
        }
        let namespace = || self.namespaces.lookup(sqe.nsid);
        let cntid = high(sqe.cdw10);
        Ok(Outcome::data(match cns {
            // An allocated namespace is an active one here.
            0x00 | 0x11 => namespace()?.map_or_else(zeroes, |namespace| page(&identify_namespace(namespace))),
            0x01 => page(&identify_controller(&self.identity, self.limits, &self.namespaces)),
            0x02 | 0x07 | 0x10 | 0x1a => active(&self.namespaces, sqe.nsid)?,
            0x03 => descriptors(namespace()?.ok_or(Status::INVALID_NAMESPACE)?, self.identity.version),
            // Formats of protection information: a namespace has none.
            0x05 | 0x1b => namespace().map(|_| zeroes())?,
            0x06 => page(&IdentifyControllerNvm { wzsl: self.limits.wzsl, ..IdentifyControllerNvm::new_zeroed() }),
            0x08 => namespace()?.map_or_else(zeroes, |namespace| page(&identify_independent(namespace))),
            0x12 => {
                namespace()?.ok_or(Status::INVALID_FIELD)?;
                controllers(self.identity.cntlid, cntid)
            }
            0x13 => controllers(self.identity.cntlid, cntid),
            0x1c if cntid == THIS_CONTROLLER || cntid == self.identity.cntlid => command_sets(),
            _ => return Err(Status::INVALID_FIELD),
        }))
    }
}

fn zeroes() -> Vec<u8> {
    vec![0; LEN]
}

fn identify_controller(identity: &Identity, limits: Limits, namespaces: &Namespaces) -> IdentifyController {
    let any = namespaces.supports();
    let when = |supported: bool, bit: u16| if supported { bit } else { 0 };
    IdentifyController {
        vid: identity.vid,
        ssvid: identity.ssvid,
        sn: *identity.serial_number.as_bytes(),
        mn: *identity.model_number.as_bytes(),
        fr: *identity.firmware.as_bytes(),
        // One port, one controller.
        cmic: ana::CMIC,
        mdts: limits.mdts,
        cntlid: identity.cntlid,
        ver: identity.version.bits(),
        rtd3r: 1_000_000,
        rtd3e: 5_000_000,
        oaes: NAMESPACE_NOTICES | ANA_NOTICES,
        cntrltype: 1,
        fguid: identity.uuid,
        oacs: OACS,
        acl: ACL,
        aerl: AERL,
        frmw: FRMW,
        lpa: if identity.version == Version::V1_4 { LPA & !LPA_2_0 } else { LPA },
        elpe: ELPE,
        avscc: 1,
        wctemp: WARNING_TEMPERATURE,
        cctemp: CRITICAL_TEMPERATURE,
        kas: KAS,
        anatt: ana::ANATT,
        anacap: ana::ANACAP,
        anagrpmax: ana::GROUP,
        nanagrpid: ana::GROUPS,
        sqes: SQES << 4 | SQES,
        cqes: CQES << 4 | CQES,
        nn: namespaces.nn(),
        oncs: oncs::SAVE_AND_SELECT
            | oncs::TIMESTAMP
            | when(any.compare, oncs::COMPARE)
            | when(any.write_uncorrectable, oncs::WRITE_UNCORRECTABLE)
            | when(any.verify, oncs::VERIFY)
            | when(any.unmap, oncs::DATASET_MANAGEMENT)
            | when(any.write_zeroes, oncs::WRITE_ZEROES),
        fuses: any.compare_and_write.into(),
        vwc: VWC,
        icsvscc: 1,
        sgls: dptr::SGLS.into_bits(),
        mnan: MAX_NAMESPACES,
        subnqn: *identity.subnqn.as_bytes(),
        ..IdentifyController::new_zeroed()
    }
}

fn identify_namespace(namespace: &Namespace) -> IdentifyNamespace {
    let supports = namespace.supports;
    let bytes = u128::from(namespace.blocks) << namespace.block_shift;
    let optimal = namespace.preferred_write_blocks != 0 || namespace.preferred_unmap_blocks != 0;
    // These count from 0: what is not known is one block.
    let write = namespace.preferred_write_blocks.saturating_sub(1);
    let unmap = namespace.preferred_unmap_blocks.saturating_sub(1);
    let deallocate_by_write_zeroes = supports.unmap_zeroes && supports.unmap && supports.write_zeroes;
    let nacwu = if supports.compare_and_write { namespace.compare_and_write_blocks.saturating_sub(1) } else { 0 };
    let mut lbaf = [0; 64];
    lbaf[0] = u32::from(namespace.block_shift) << 16;
    IdentifyNamespace {
        nsze: namespace.blocks,
        ncap: namespace.blocks,
        nuse: namespace.blocks,
        // OPTPERF: the five granularities below mean something. NSABP: NACWU does (NAWUN and NAWUPF are one block).
        nsfeat: u8::from(optimal) << 4 | u8::from(nacwu != 0) << 1,
        dlfeat: u8::from(supports.unmap_zeroes) | u8::from(deallocate_by_write_zeroes) << 3,
        nacwu,
        noiob: namespace.optimal_boundary_blocks,
        nvmcap: zerocopy::transmute!(bytes),
        npwg: write,
        npwa: write,
        npdg: unmap,
        npda: unmap,
        nows: write,
        anagrpid: ana::GROUP,
        nsattr: namespace.write_protected.into(),
        nguid: namespace.nguid,
        eui64: namespace.eui64,
        lbaf,
        ..IdentifyNamespace::new_zeroed()
    }
}

fn identify_independent(namespace: &Namespace) -> IdentifyIndependent {
    IdentifyIndependent {
        // VWCNP: it has no volatile write cache.
        nsfeat: u8::from(!namespace.supports.volatile_write_cache) << 5,
        anagrpid: ana::GROUP,
        nsattr: namespace.write_protected.into(),
        // NRDY: Linux does not use a namespace that is not ready.
        nstat: 1,
        ..IdentifyIndependent::new_zeroed()
    }
}

/// The active NSIDs above `nsid`.
fn active(namespaces: &Namespaces, nsid: u32) -> Result<Vec<u8>, Status> {
    if nsid >= 0xffff_fffe {
        return Err(Status::INVALID_NAMESPACE);
    }
    let mut data: Vec<u8> = namespaces.above(nsid).take(LEN / 4).flat_map(u32::to_le_bytes).collect();
    data.resize(LEN, 0);
    Ok(data)
}

/// Namespace Identification Descriptors (CNS 03h).
fn descriptors(namespace: &Namespace, version: Version) -> Vec<u8> {
    let identifiers: [(u8, &[u8]); 3] = [(1, &namespace.eui64), (2, &namespace.nguid), (3, &namespace.uuid)];
    let mut data = Vec::with_capacity(LEN);
    for (nidt, nid) in identifiers {
        if nid.iter().any(|byte| *byte != 0) {
            data.extend_from_slice(&[nidt, if nidt == 1 { 8 } else { 16 }, 0, 0]);
            data.extend_from_slice(nid);
        }
    }
    // The command set: NVM.
    if version != Version::V1_4 {
        data.extend_from_slice(&[4, 1, 0, 0, 0]);
    }
    data.resize(LEN, 0);
    data
}

/// The controllers from `from` on: this one, or none.
fn controllers(cntlid: u16, from: u16) -> Vec<u8> {
    let mut data = Vec::with_capacity(LEN);
    if from <= cntlid {
        data.extend_from_slice(&1_u16.to_le_bytes());
        data.extend_from_slice(&cntlid.to_le_bytes());
    }
    data.resize(LEN, 0);
    data
}

/// The combinations of I/O command sets (CNS 1Ch): the NVM command set alone.
fn command_sets() -> Vec<u8> {
    let mut data = vec![1];
    data.resize(LEN, 0);
    data
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn fields_of_the_controller_lie_where_the_specification_has_them() {
        assert_eq!(offset_of!(IdentifyController, cmic), 76);
        assert_eq!(offset_of!(IdentifyController, ver), 80);
        assert_eq!(offset_of!(IdentifyController, oaes), 92);
        assert_eq!(offset_of!(IdentifyController, cntrltype), 111);
        assert_eq!(offset_of!(IdentifyController, oacs), 256);
        assert_eq!(offset_of!(IdentifyController, npss), 263);
        assert_eq!(offset_of!(IdentifyController, cctemp), 268);
        assert_eq!(offset_of!(IdentifyController, kas), 320);
        assert_eq!(offset_of!(IdentifyController, anatt), 342);
        assert_eq!(offset_of!(IdentifyController, nanagrpid), 348);
        assert_eq!(offset_of!(IdentifyController, sqes), 512);
        assert_eq!(offset_of!(IdentifyController, oncs), 520);
        assert_eq!(offset_of!(IdentifyController, vwc), 525);
        assert_eq!(offset_of!(IdentifyController, sgls), 536);
        assert_eq!(offset_of!(IdentifyController, subnqn), 768);
    }

    #[test]
    fn fields_of_a_namespace_lie_where_the_specification_has_them() {
        assert_eq!(offset_of!(IdentifyNamespace, dlfeat), 33);
        assert_eq!(offset_of!(IdentifyNamespace, nacwu), 38);
        assert_eq!(offset_of!(IdentifyNamespace, noiob), 46);
        assert_eq!(offset_of!(IdentifyNamespace, npwg), 64);
        assert_eq!(offset_of!(IdentifyNamespace, nows), 72);
        assert_eq!(offset_of!(IdentifyNamespace, anagrpid), 92);
        assert_eq!(offset_of!(IdentifyNamespace, nsattr), 99);
        assert_eq!(offset_of!(IdentifyNamespace, nguid), 104);
        assert_eq!(offset_of!(IdentifyNamespace, lbaf), 128);
        assert_eq!(offset_of!(IdentifyIndependent, anagrpid), 4);
        assert_eq!(offset_of!(IdentifyIndependent, nsattr), 8);
        assert_eq!(offset_of!(IdentifyIndependent, nstat), 14);
    }
}
