//! What a target has and how it describes it.

use std::collections::BTreeMap;

use crate::pdu::Digests;

/// The bytes of an Identify structure.
pub const IDENTIFY_SIZE: usize = 4096;
/// The most bytes of a namespace's memory.
const MAX_NAMESPACE: u64 = 64 << 20;

/// ANA states.
pub mod ana {
    use nvme_spec::log::AnaState;

    /// Optimized.
    pub const OPTIMIZED: u8 = AnaState::OPTIMIZED.0;
    /// Non-optimized.
    pub const NON_OPTIMIZED: u8 = AnaState::NON_OPTIMIZED.0;
    /// Inaccessible.
    pub const INACCESSIBLE: u8 = AnaState::INACCESSIBLE.0;
    /// Persistent loss.
    pub const PERSISTENT_LOSS: u8 = AnaState::PERSISTENT_LOSS.0;
    /// Change.
    pub const CHANGE: u8 = AnaState::CHANGE.0;
}

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
    pub version: u32,
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
            version: 0x0001_0400,
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
    pub fn identify(&self) -> Vec<u8> {
        let mut page = vec![0; IDENTIFY_SIZE];
        for offset in [0, 8, 16] {
            put(&mut page, offset, &self.blocks().to_le_bytes());
        }
        // NMIC: more than one controller may have it.
        page[30] = 1;
        put(&mut page, 92, &self.ana_group.to_le_bytes());
        put(&mut page, 104, &self.nguid);
        page[130] = u8::try_from(self.block_size.trailing_zeros()).expect("a small number");
        page
    }

    /// Returns its Namespace Identification Descriptor list.
    #[must_use]
    pub fn descriptors(&self) -> Vec<u8> {
        let mut list = Vec::new();
        for (kind, id) in [(2, &self.nguid), (3, &self.uuid)] {
            if id.iter().any(|&byte| byte != 0) {
                list.extend_from_slice(&[kind, 16, 0, 0]);
                list.extend_from_slice(id);
            }
        }
        list.resize(IDENTIFY_SIZE, 0);
        list
    }
}

/// Puts bytes at an offset.
pub(super) fn put(page: &mut [u8], offset: usize, bytes: &[u8]) {
    page[offset..offset + bytes.len()].copy_from_slice(bytes);
}

/// Puts a string at an offset, filled up with blanks or cut off.
fn put_string(page: &mut [u8], offset: usize, length: usize, string: &[u8]) {
    let field = &mut page[offset..offset + length];
    field.fill(b' ');
    let length = length.min(string.len());
    field[..length].copy_from_slice(&string[..length]);
}

/// Returns the Identify Controller structure.
pub(super) fn identify_controller(options: &Options, cntlid: u16, nn: u32, groups: u32) -> Vec<u8> {
    let mut page = vec![0; IDENTIFY_SIZE];
    put_string(&mut page, 4, 20, &options.serial);
    put_string(&mut page, 24, 40, &options.model);
    put_string(&mut page, 64, 8, &options.firmware);
    // CMIC: several controllers, and whether ANA is reported.
    page[76] = 0b0010 | u8::from(options.ana) << 3;
    page[77] = options.mdts;
    put(&mut page, 78, &cntlid.to_le_bytes());
    put(&mut page, 80, &options.version.to_le_bytes());
    // OAES: namespace attribute notices and, with ANA, its changes.
    let events = 1_u32 << 8 | u32::from(options.ana) << 11;
    put(&mut page, 92, &events.to_le_bytes());
    // CNTRLTYPE: an I/O controller.
    page[111] = 1;
    for (offset, crdt) in [128, 130, 132].into_iter().zip(options.crdt) {
        put(&mut page, offset, &crdt.to_le_bytes());
    }
    // ACL, AERL: four each. LPA: commands supported, and offsets in logs. KAS: 100 ms.
    (page[258], page[259], page[261]) = (3, 3, 0b0110);
    put(&mut page, 320, &1_u16.to_le_bytes());
    if options.ana {
        // ANACAP: all states are reported, and a namespace's group does not change.
        (page[342], page[343]) = (options.anatt, 0b0101_1111);
        put(&mut page, 344, &groups.to_le_bytes());
        // MNAN, of which a host makes out how long the log may be.
        put(&mut page, 540, &nn.to_le_bytes());
        put(&mut page, 348, &groups.to_le_bytes());
    }
    (page[512], page[513]) = (0x66, 0x44);
    put(&mut page, 514, &options.queue_size.to_le_bytes());
    put(&mut page, 516, &nn.to_le_bytes());
    // ONCS: Compare, DSM, Write Zeroes. FUSES: Compare and Write. VWC: there is a cache; Flush takes all namespaces.
    put(&mut page, 520, &0b1101_u16.to_le_bytes());
    (page[522], page[525]) = (1, 0b111);
    // SGLS: SGLs, offsets in the capsule, and the transport's data block.
    put(&mut page, 536, &(1_u32 | 1 << 20).to_le_bytes());
    let nqn = options.nqn.as_bytes();
    put(&mut page, 768, &nqn[..nqn.len().min(255)]);
    put(&mut page, 1792, &((64 + options.in_capsule) / 16).to_le_bytes());
    put(&mut page, 1796, &1_u32.to_le_bytes());
    page[1803] = 1;
    page
}

/// Returns the CAP property.
pub(super) fn capabilities(options: &Options) -> u64 {
    let entries = u64::from(options.queue_size.saturating_sub(1));
    // CQR: queues are contiguous. CSS: the NVM command set.
    entries | 1 << 16 | u64::from(options.ready_timeout) << 24 | 1 << 37
}

/// Returns the Asymmetric Namespace Access log.
#[must_use]
pub fn ana_log(changes: u64, groups: &BTreeMap<u32, (u8, Vec<u32>)>) -> Vec<u8> {
    let mut log = changes.to_le_bytes().to_vec();
    log.extend_from_slice(&u16::try_from(groups.len()).unwrap_or(u16::MAX).to_le_bytes());
    log.resize(16, 0);
    for (group, (state, namespaces)) in groups {
        log.extend_from_slice(&group.to_le_bytes());
        log.extend_from_slice(&u32::try_from(namespaces.len()).unwrap_or(u32::MAX).to_le_bytes());
        log.extend_from_slice(&changes.to_le_bytes());
        log.push(*state);
        log.extend_from_slice(&[0; 15]);
        for nsid in namespaces {
            log.extend_from_slice(&nsid.to_le_bytes());
        }
    }
    log
}
