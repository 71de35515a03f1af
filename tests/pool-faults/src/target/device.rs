//! What a target has and how it describes it.

use std::collections::BTreeMap;

use nvme_spec::fabrics::CAPSULE_UNIT;
use nvme_spec::feature::AsyncEventConfiguration;
use nvme_spec::identify::{
    AnaCapabilities, CompletionEntrySizes, ControllerType, FusedOperations, IdentifyController, IdentifyNamespace,
    LogPageAttributes, Multipath, NamespaceDescriptor, NamespaceIdType, NamespaceSharing, OptionalNvmCommands,
    SglSupport, SubmissionEntrySizes, WriteCacheAttributes,
};
use nvme_spec::log::{AnaGroup, AnaHeader, AnaState};
use nvme_spec::register::{Cap, Version};
use nvme_spec::{Cqe, MAX_NQN, PAGE, Sqe};
use zerocopy::{FromZeros, IntoBytes};

use crate::pdu::Digests;

/// The most bytes of a namespace's memory.
const MAX_NAMESPACE: u64 = 64 << 20;

/// What a target is. All of it can be left as it is.
#[derive(Debug, Clone)]
pub struct Options {
    /// The name of its subsystem.
    pub nqn: String,
    /// Its serial number, at most 20 bytes; filled up with blanks.
    pub serial: Vec<u8>,
    /// Its model number, at most 40 bytes; filled up with blanks.
    pub model: Vec<u8>,
    /// Its firmware revision, at most 8 bytes; filled up with blanks.
    pub firmware: Vec<u8>,
    /// The digests that it agrees to.
    pub digests: Digests,
    /// The bytes of data that an I/O command's capsule can have.
    pub in_capsule: u32,
    /// The bytes that a `H2CData` PDU may have.
    pub max_h2c: u32,
    /// The most bytes of a `C2HData` PDU.
    pub max_c2h: usize,
    /// Success is told by the last `C2HData` PDU, without a response capsule.
    pub c2h_success: bool,
    /// The Maximum Data Transfer Size, as a power of two of pages of 4096 bytes.
    pub mdts: u8,
    /// I/O queues of a controller.
    pub io_queues: u16,
    /// Entries of a queue.
    pub queue_size: u16,
    /// CAP.TO: the time that it may take to become ready, in units of 500 ms.
    pub ready_timeout: u8,
    /// VS: its version of NVMe.
    pub version: Version,
    /// Whether it reports ANA.
    pub ana: bool,
    /// ANATT, in seconds.
    pub anatt: u8,
    /// CRDT 1 to 3, in units of 100 ms.
    pub crdt: [u16; 3],
    /// Whether the I/O queues of a host end when its admin queue's connection does.
    pub ends_associations: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            nqn: "nqn.2024-01.com.example:pool".to_owned(),
            serial: b"SCRIPTED".to_vec(),
            model: b"Scripted NVMe/TCP target".to_vec(),
            firmware: b"1".to_vec(),
            digests: Digests { header: true, data: true },
            in_capsule: 4096,
            max_h2c: 128 << 10,
            max_c2h: 64 << 10,
            c2h_success: false,
            mdts: 5,
            io_queues: 16,
            queue_size: 128,
            ready_timeout: 20,
            version: Version::V1_4,
            ana: false,
            anatt: 10,
            crdt: [0; 3],
            ends_associations: true,
        }
    }
}

/// A namespace, whose data is in memory.
#[derive(Debug, Clone)]
pub struct Namespace {
    /// Bytes of a block, a power of two.
    pub block_size: u32,
    /// Its UUID; none, if it is all zeroes.
    pub uuid: [u8; 16],
    /// Its NGUID; none, if it is all zeroes.
    pub nguid: [u8; 16],
    /// Its ANA group.
    pub ana_group: u32,
    /// Its data.
    pub data: Vec<u8>,
}

impl Namespace {
    /// Returns a namespace of zeroes, whose UUID is all `id`.
    #[must_use]
    pub fn new(block_size: u32, blocks: u64, id: u8) -> Self {
        let bytes = blocks.checked_mul(block_size.into()).filter(|&bytes| bytes <= MAX_NAMESPACE);
        let bytes = bytes.and_then(|bytes| usize::try_from(bytes).ok()).expect("a namespace of at most 64 MiB");
        assert!(block_size.is_power_of_two(), "a block of {block_size} bytes");
        Self { block_size, uuid: [id; 16], nguid: [0; 16], ana_group: 1, data: vec![0; bytes] }
    }

    /// Returns its blocks.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.data.len() as u64 / u64::from(self.block_size)
    }

    /// Returns where blocks are in its data.
    pub(super) fn range(&self, slba: u64, blocks: u64) -> Option<std::ops::Range<usize>> {
        let end = slba.checked_add(blocks).filter(|&end| end <= self.blocks())?;
        let byte = |block: u64| usize::try_from(block * u64::from(self.block_size)).ok();
        Some(byte(slba)?..byte(end)?)
    }

    /// Returns its Identify Namespace structure.
    #[must_use]
    pub fn identify(&self) -> IdentifyNamespace {
        let blocks = self.blocks();
        let mut identity = IdentifyNamespace {
            nsze: blocks,
            ncap: blocks,
            nuse: blocks,
            nmic: NamespaceSharing::new().with_shrns(true),
            anagrpid: self.ana_group,
            nguid: self.nguid,
            ..IdentifyNamespace::new_zeroed()
        };
        identity.lbaf[0].set_lbads(u8::try_from(self.block_size.trailing_zeros()).expect("a small number"));
        identity
    }

    /// Returns its Namespace Identification Descriptor list.
    #[must_use]
    pub fn descriptors(&self) -> Vec<u8> {
        let mut list = Vec::new();
        for (nidt, id) in [(NamespaceIdType::NGUID, &self.nguid), (NamespaceIdType::UUID, &self.uuid)] {
            if id.iter().any(|&byte| byte != 0) {
                let nidl = nidt.id_len().expect("its length is known");
                list.extend_from_slice(NamespaceDescriptor { nidt, nidl, reserved_2: [0; 2] }.as_bytes());
                list.extend_from_slice(id);
            }
        }
        list.resize(PAGE, 0);
        list
    }
}

/// Returns a string as it stands in a field: filled up with `fill`, or cut off.
fn field<const N: usize>(string: &[u8], fill: u8) -> [u8; N] {
    let mut field = [fill; N];
    for (to, from) in field.iter_mut().zip(string) {
        *to = *from;
    }
    field
}

/// Returns the Identify Controller structure.
pub(super) fn identify_controller(options: &Options, cntlid: u16, nn: u32, groups: u32) -> IdentifyController {
    let identity = IdentifyController {
        sn: field(&options.serial, b' '),
        mn: field(&options.model, b' '),
        fr: field(&options.firmware, b' '),
        cmic: Multipath::new().with_mctrs(true).with_anars(options.ana),
        mdts: options.mdts,
        cntlid,
        ver: options.version,
        oaes: AsyncEventConfiguration::new().with_nan(true).with_anacn(options.ana),
        cntrltype: ControllerType::IO,
        crdt: options.crdt,
        // Four of each.
        acl: 3,
        aerl: 3,
        lpa: LogPageAttributes::new().with_cses(true).with_lpeds(true),
        kas: 1,
        sqes: SubmissionEntrySizes::new().with_min(Sqe::SIZE_LOG2).with_max(Sqe::SIZE_LOG2),
        cqes: CompletionEntrySizes::new().with_min(Cqe::SIZE_LOG2).with_max(Cqe::SIZE_LOG2),
        maxcmd: options.queue_size,
        nn,
        oncs: OptionalNvmCommands::new().with_nvmcmps(true).with_nvmdsmsv(true).with_nvmwzsv(true),
        fuses: FusedOperations::new().with_fcws(true),
        // There is a cache, and Flush takes all namespaces.
        vwc: WriteCacheAttributes::new().with_vwcp(true).with_fb(3),
        sgls: SglSupport::new().with_sgls(1).with_offset(true),
        subnqn: field(&options.nqn.as_bytes()[..options.nqn.len().min(MAX_NQN)], 0),
        ioccsz: ((1 << Sqe::SIZE_LOG2) + options.in_capsule) / CAPSULE_UNIT,
        iorcsz: (1 << Cqe::SIZE_LOG2) / CAPSULE_UNIT,
        msdbd: 1,
        ..IdentifyController::new_zeroed()
    };
    if !options.ana {
        return identity;
    }
    let all_states =
        AnaCapabilities::new().with_aosr(true).with_anosr(true).with_aisr(true).with_aplsr(true).with_acsr(true);
    IdentifyController {
        anatt: options.anatt,
        anacap: all_states.with_agidns(true),
        anagrpmax: groups,
        nanagrpid: groups,
        // A host makes out by it how long the log may be.
        mnan: nn,
        ..identity
    }
}

/// Returns the CAP property.
pub(super) fn capabilities(options: &Options) -> Cap {
    let mqes = options.queue_size.saturating_sub(1);
    Cap::new().with_mqes(mqes).with_cqr(true).with_to(options.ready_timeout).with_css_nvm(true)
}

/// Returns the Asymmetric Namespace Access log.
#[must_use]
pub fn ana_log(changes: u64, groups: &BTreeMap<u32, (AnaState, Vec<u32>)>) -> Vec<u8> {
    let descriptors = u16::try_from(groups.len()).unwrap_or(u16::MAX);
    let mut log = AnaHeader { change_count: changes, descriptors, reserved_10: [0; 6] }.as_bytes().to_vec();
    for (&group, (state, nsids)) in groups {
        let namespaces = u32::try_from(nsids.len()).unwrap_or(u32::MAX);
        let group = AnaGroup { group, namespaces, change_count: changes, state: *state, reserved_17: [0; 15] };
        log.extend_from_slice(group.as_bytes());
        log.extend_from_slice(nsids.as_bytes());
    }
    log
}
