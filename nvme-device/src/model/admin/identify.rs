//! Identify (section 5.17, and section 4.1.5 of the NVM Command Set Specification 1.0): what the host is told of the
//! controller and its namespaces. Nothing comes from anywhere but [`Identity`], [`Limits`] and [`Namespace`].

use zerocopy::{FromZeros, IntoBytes};

use super::ana;
use super::events::AERL;
use super::features::{KAS, NOTICES, WARNING_TEMPERATURE};
use super::logs::ELPE;
use super::namespaces::{MAX_NAMESPACES, Namespaces};
use super::queues::{CQES, SQES};
use super::{ACL, Controller, Identity, Limits, Namespace, Opcode, Outcome, page};
use crate::model::io::IoSupport;
use crate::model::regs::Version;
use guest_memory::dptr;
use nvme_spec::admin::{IdentifyDw10, IdentifyDw11};
use nvme_spec::identify::{
    Cns, CommandSet, CompletionEntrySizes, ControllerType, DeallocateFeatures, FirmwareUpdates, IdentifyController,
    IdentifyControllerNvm, IdentifyNamespace, IndependentFeatures, IndependentNamespace, LbaFormat, LogPageAttributes,
    NSID_LIST_ENTRIES, NamespaceAttributes, NamespaceDescriptor, NamespaceFeatures, NamespaceIdType, NamespaceStatus,
    OptionalAdminCommands, SubmissionEntrySizes, THIS_CONTROLLER, WriteCacheAttributes,
};
use nvme_spec::{MAX_NSID, PAGE, Sqe, Status};

/// One firmware slot, which is read-only.
const FRMW: FirmwareUpdates = FirmwareUpdates::new().with_ffsro(true).with_nofs(1);

/// Commands Supported and Effects; offsets and long transfers of logs.
const LPA: LogPageAttributes = LogPageAttributes::new().with_cses(true).with_lpeds(true);

/// The temperature at which the controller would shut down, in kelvins: 80 °C.
const CRITICAL_TEMPERATURE: u16 = 353;

/// A volatile write cache is present, and Flush does not take all namespaces at once (VWC).
///
/// It is told even where no namespace has one: a host reads this once, and would not flush a namespace with a cache
/// that is added later. Each namespace tells for itself that it has none (VWCNP).
const VWC: WriteCacheAttributes = WriteCacheAttributes::new().with_vwcp(true).with_fb(2);

impl Controller {
    /// Identify (section 5.17).
    pub(super) fn identify(&mut self, sqe: &Sqe) -> Result<Outcome, Status> {
        let cns = IdentifyDw10::from_bits(sqe.cdw10).cns();
        let answer = self.identify_as(cns, sqe);
        match cns {
            Cns::ACTIVE_NAMESPACES
            | Cns::COMMAND_SET_ACTIVE_NAMESPACES
            | Cns::ALLOCATED_NAMESPACES
            | Cns::COMMAND_SET_ALLOCATED_NAMESPACES
                if answer.is_ok() =>
            {
                self.namespaces.mark_seen_above(sqe.nsid);
            }
            // What is inactive is told by zeroes, by an error, or by Invalid Namespace.
            Cns::NAMESPACE | Cns::NAMESPACE_DESCRIPTORS | Cns::INDEPENDENT_NAMESPACE | Cns::ALLOCATED_NAMESPACE => {
                self.namespaces.mark_seen(sqe.nsid);
            }
            _ => {}
        }
        answer
    }

    fn identify_as(&self, cns: Cns, sqe: &Sqe) -> Result<Outcome, Status> {
        // I/O command sets came with 2.0.
        if self.identity.version == Version::V1_4
            && (is_of_command_set(cns) || matches!(cns, Cns::INDEPENDENT_NAMESPACE | Cns::COMMAND_SETS))
        {
            return Err(Status::INVALID_FIELD);
        }
        // Those of a command set: the NVM command set is the only one.
        if is_of_command_set(cns) && IdentifyDw11::from_bits(sqe.cdw11).csi() != CommandSet::NVM {
            return Err(Status::INVALID_FIELD);
        }
        let namespace = || self.namespaces.lookup(sqe.nsid);
        let cntid = IdentifyDw10::from_bits(sqe.cdw10).cntid();
        Ok(Outcome::data(match cns {
            // An allocated namespace is an active one here.
            Cns::NAMESPACE | Cns::ALLOCATED_NAMESPACE => {
                namespace()?.map_or_else(zeroes, |namespace| page(&identify_namespace(namespace)))
            }
            Cns::CONTROLLER => page(&IdentifyController {
                oacs: OptionalAdminCommands::new().with_dbcs(self.opcode(Opcode::DoorbellBufferConfig as u8).is_some()),
                ..identify_controller(&self.identity, self.limits, &self.namespaces)
            }),
            Cns::ACTIVE_NAMESPACES
            | Cns::COMMAND_SET_ACTIVE_NAMESPACES
            | Cns::ALLOCATED_NAMESPACES
            | Cns::COMMAND_SET_ALLOCATED_NAMESPACES => active(&self.namespaces, sqe.nsid)?,
            Cns::NAMESPACE_DESCRIPTORS => {
                descriptors(namespace()?.ok_or(Status::INVALID_NAMESPACE)?, self.identity.version)
            }
            // Formats of protection information: a namespace has none.
            Cns::COMMAND_SET_NAMESPACE | Cns::COMMAND_SET_ALLOCATED_NAMESPACE => namespace().map(|_| zeroes())?,
            Cns::COMMAND_SET_CONTROLLER => {
                page(&IdentifyControllerNvm { wzsl: self.limits.wzsl, ..IdentifyControllerNvm::new_zeroed() })
            }
            Cns::INDEPENDENT_NAMESPACE => {
                namespace()?.map_or_else(zeroes, |namespace| page(&identify_independent(namespace)))
            }
            Cns::ATTACHED_CONTROLLERS => {
                namespace()?.ok_or(Status::INVALID_FIELD)?;
                controllers(self.identity.cntlid, cntid)
            }
            Cns::CONTROLLER_LIST => controllers(self.identity.cntlid, cntid),
            Cns::COMMAND_SETS if cntid == THIS_CONTROLLER || cntid == self.identity.cntlid => command_sets(),
            _ => return Err(Status::INVALID_FIELD),
        }))
    }
}

/// Returns whether what is asked for is of a command set, which Command Dword 11 names.
const fn is_of_command_set(cns: Cns) -> bool {
    matches!(
        cns,
        Cns::COMMAND_SET_NAMESPACE
            | Cns::COMMAND_SET_CONTROLLER
            | Cns::COMMAND_SET_ACTIVE_NAMESPACES
            | Cns::COMMAND_SET_ALLOCATED_NAMESPACES
            | Cns::COMMAND_SET_ALLOCATED_NAMESPACE
    )
}

fn zeroes() -> Vec<u8> {
    vec![0; PAGE]
}

fn identify_controller(identity: &Identity, limits: Limits, namespaces: &Namespaces) -> IdentifyController {
    let any = namespaces.supports();
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
        ver: identity.version.number(),
        rtd3r: 1_000_000,
        rtd3e: 5_000_000,
        oaes: NOTICES,
        cntrltype: ControllerType::IO,
        fguid: identity.uuid,
        acl: ACL,
        aerl: AERL,
        frmw: FRMW,
        // The logs that tell of logs, features and scopes came with 2.0.
        lpa: LPA.with_mlps(identity.version != Version::V1_4),
        elpe: ELPE,
        avscc: 1,
        wctemp: WARNING_TEMPERATURE,
        cctemp: CRITICAL_TEMPERATURE,
        kas: KAS,
        anatt: ana::ANATT,
        anacap: ana::ANACAP,
        anagrpmax: ana::GROUP,
        nanagrpid: ana::GROUPS,
        sqes: SubmissionEntrySizes::new().with_min(SQES).with_max(SQES),
        cqes: CompletionEntrySizes::new().with_min(CQES).with_max(CQES),
        nn: namespaces.nn(),
        oncs: any.oncs().with_ssfs(true).with_tss(true),
        fuses: any.fuses(),
        vwc: VWC,
        icsvscc: 1,
        sgls: dptr::SGLS,
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
    let reads_zeroes = supports.contains(IoSupport::DEALLOCATED_ARE_ZEROES);
    let deallocate_by_write_zeroes = reads_zeroes && supports.contains(IoSupport::DEALLOCATE | IoSupport::WRITE_ZEROES);
    let nacwu = if supports.contains(IoSupport::COMPARE_AND_WRITE) {
        namespace.compare_and_write_blocks.saturating_sub(1)
    } else {
        0
    };
    let mut lbaf = [LbaFormat::new(); IdentifyNamespace::MAX_LBA_FORMATS as usize];
    lbaf[0] = LbaFormat::new().with_lbads(namespace.block_shift);
    IdentifyNamespace {
        nsze: namespace.blocks,
        ncap: namespace.blocks,
        nuse: namespace.blocks,
        // OPTPERF: the five granularities below mean something. NSABP: NACWU does (NAWUN and NAWUPF are one block).
        nsfeat: NamespaceFeatures::new().with_optperf(optimal).with_nsabp(nacwu != 0),
        dlfeat: DeallocateFeatures::new().with_read(reads_zeroes.into()).with_write_zeroes(deallocate_by_write_zeroes),
        nacwu,
        noiob: namespace.optimal_boundary_blocks,
        nvmcap: bytes.into(),
        npwg: write,
        npwa: write,
        npdg: unmap,
        npda: unmap,
        nows: write,
        anagrpid: ana::GROUP,
        nsattr: NamespaceAttributes::new().with_cwp(namespace.write_protected),
        nguid: namespace.nguid,
        eui64: namespace.eui64,
        lbaf,
        ..IdentifyNamespace::new_zeroed()
    }
}

fn identify_independent(namespace: &Namespace) -> IndependentNamespace {
    IndependentNamespace {
        // VWCNP: it has no volatile write cache.
        nsfeat: IndependentFeatures::new().with_vwcnp(!namespace.supports.contains(IoSupport::VOLATILE_WRITE_CACHE)),
        anagrpid: ana::GROUP,
        nsattr: NamespaceAttributes::new().with_cwp(namespace.write_protected),
        // NRDY: Linux does not use a namespace that is not ready.
        nstat: NamespaceStatus::new().with_nrdy(true),
        ..IndependentNamespace::new_zeroed()
    }
}

/// Returns the active NSIDs above `nsid`.
fn active(namespaces: &Namespaces, nsid: u32) -> Result<Vec<u8>, Status> {
    if nsid > MAX_NSID {
        return Err(Status::INVALID_NAMESPACE);
    }
    let mut data: Vec<u8> = namespaces.above(nsid).take(NSID_LIST_ENTRIES).flat_map(u32::to_le_bytes).collect();
    data.resize(PAGE, 0);
    Ok(data)
}

/// Namespace Identification Descriptors (CNS 03h).
fn descriptors(namespace: &Namespace, version: Version) -> Vec<u8> {
    let identifiers: [(NamespaceIdType, &[u8]); 3] = [
        (NamespaceIdType::EUI64, &namespace.eui64),
        (NamespaceIdType::NGUID, &namespace.nguid),
        (NamespaceIdType::UUID, &namespace.uuid),
    ];
    let mut data = Vec::with_capacity(PAGE);
    for (nidt, nid) in identifiers {
        if nid.iter().any(|byte| *byte != 0) {
            descriptor(&mut data, nidt, nid);
        }
    }
    // The command set: NVM.
    if version != Version::V1_4 {
        descriptor(&mut data, NamespaceIdType::CSI, &[CommandSet::NVM.0]);
    }
    data.resize(PAGE, 0);
    data
}

/// Adds a Namespace Identification Descriptor.
fn descriptor(data: &mut Vec<u8>, kind: NamespaceIdType, identifier: &[u8]) {
    let nidl = u8::try_from(identifier.len()).unwrap_or(u8::MAX);
    data.extend_from_slice(NamespaceDescriptor { nidt: kind, nidl, ..NamespaceDescriptor::default() }.as_bytes());
    data.extend_from_slice(identifier);
}

/// Returns the controllers from `from` on: this one, or none.
fn controllers(cntlid: u16, from: u16) -> Vec<u8> {
    let mut data = Vec::with_capacity(PAGE);
    if from <= cntlid {
        data.extend_from_slice(&1_u16.to_le_bytes());
        data.extend_from_slice(&cntlid.to_le_bytes());
    }
    data.resize(PAGE, 0);
    data
}

/// Returns the combinations of I/O command sets (CNS 1Ch): the NVM command set alone.
fn command_sets() -> Vec<u8> {
    let mut data = vec![1];
    data.resize(PAGE, 0);
    data
}
