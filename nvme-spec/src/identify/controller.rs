//! Identify Controller (CNS 01h; base specification, section 5.17.2.1, figure 275).

use zerocopy::little_endian::U128;

use crate::feature::AsyncEventConfiguration;
use crate::register::Version;

bit_fields! {
    /// Controller Multi-Path I/O and Namespace Sharing Capabilities (CMIC).
    Multipath(u8) {
        /// The NVM subsystem may have several ports.
        pub mports: bool,
        /// The NVM subsystem may have several controllers.
        pub mctrs: bool,
        /// The controller is of an SR-IOV Virtual Function.
        pub ft: bool,
        /// Asymmetric Namespace Access Reporting.
        pub anars: bool,
        #[bits(4)]
        __: u8,
    }

    /// Controller Attributes (CTRATT).
    ControllerAttributes(u32) {
        /// 128-bit Host Identifier.
        pub hids: bool,
        /// Non-Operational Power State Permissive Mode.
        pub nopspm: bool,
        /// NVM Sets.
        pub nsets: bool,
        /// Read Recovery Levels.
        pub rrlvls: bool,
        /// Endurance Groups.
        pub egs: bool,
        /// Predictable Latency Mode.
        pub plm: bool,
        /// Traffic Based Keep Alive.
        pub tbkas: bool,
        /// Namespace Granularity.
        pub ng: bool,
        /// SQ Associations.
        pub sqa: bool,
        /// UUID List.
        pub ulist: bool,
        /// Multi-Domain Subsystem.
        pub mds: bool,
        /// Fixed Capacity Management.
        pub fcm: bool,
        /// Variable Capacity Management.
        pub vcm: bool,
        /// Delete Endurance Group.
        pub deg: bool,
        /// Delete NVM Set.
        pub dnvms: bool,
        /// Extended LBA Formats.
        pub elbas: bool,
        #[bits(16)]
        __: u16,
    }

    /// Optional Admin Command Support (OACS).
    OptionalAdminCommands(u16) {
        /// Security Send and Receive.
        pub ssrs: bool,
        /// Format NVM.
        pub fnvms: bool,
        /// Firmware Commit and Image Download.
        pub fwds: bool,
        /// Namespace Management and Attachment.
        pub nms: bool,
        /// Device Self-test.
        pub dsts: bool,
        /// Directives.
        pub dirs: bool,
        /// NVMe-MI Send and Receive.
        pub nsrs: bool,
        /// Virtualization Management.
        pub vms: bool,
        /// Doorbell Buffer Config.
        pub dbcs: bool,
        /// Get LBA Status.
        pub glss: bool,
        /// Command and Feature Lockdown.
        pub cfls: bool,
        #[bits(5)]
        __: u8,
    }

    /// Firmware Updates (FRMW).
    FirmwareUpdates(u8) {
        /// The first slot is read-only.
        pub ffsro: bool,
        /// Number of Firmware Slots: 1 to 7.
        #[bits(3)]
        pub nofs: u8,
        /// Firmware Activation Without Reset.
        pub fawr: bool,
        /// Support Multiple Update Detection.
        pub smud: bool,
        #[bits(2)]
        __: u8,
    }

    /// Log Page Attributes (LPA).
    LogPageAttributes(u8) {
        /// SMART / Health Information of each namespace.
        pub smarts: bool,
        /// Commands Supported and Effects.
        pub cses: bool,
        /// Log Page Extended Data: 32 bits of dwords, and offsets.
        pub lpeds: bool,
        /// Telemetry.
        pub ts: bool,
        /// Persistent Event Log.
        pub pes: bool,
        /// Supported Log Pages, and the effects of features and NVMe-MI commands.
        pub mlps: bool,
        /// Telemetry Data Area 4.
        pub da4s: bool,
        __: bool,
    }

    /// Asymmetric Namespace Access Capabilities (ANACAP).
    AnaCapabilities(u8) {
        /// The ANA Optimized state is reported.
        pub aosr: bool,
        /// The ANA Non-Optimized state is reported.
        pub anosr: bool,
        /// The ANA Inaccessible state is reported.
        pub aisr: bool,
        /// The ANA Persistent Loss state is reported.
        pub aplsr: bool,
        /// The ANA Change state is reported.
        pub acsr: bool,
        __: bool,
        /// The ANAGRPID of a namespace does not change while it is attached.
        pub agidns: bool,
        /// A nonzero ANAGRPID can be chosen by Namespace Management.
        pub nzagidns: bool,
    }

    /// Submission Queue Entry Size (SQES), as powers of two of bytes.
    SubmissionEntrySizes(u8) {
        /// The least, which is 6 for the NVM command set.
        #[bits(4)]
        pub min: u8,
        /// The most.
        #[bits(4)]
        pub max: u8,
    }

    /// Completion Queue Entry Size (CQES), as powers of two of bytes.
    CompletionEntrySizes(u8) {
        /// The least, which is 4 for the NVM command set.
        #[bits(4)]
        pub min: u8,
        /// The most.
        #[bits(4)]
        pub max: u8,
    }

    /// Optional NVM Command Support (ONCS).
    OptionalNvmCommands(u16) {
        /// Compare.
        pub nvmcmps: bool,
        /// Write Uncorrectable.
        pub nvmwusv: bool,
        /// Dataset Management.
        pub nvmdsmsv: bool,
        /// Write Zeroes.
        pub nvmwzsv: bool,
        /// Save of Set Features and Select of Get Features.
        pub ssfs: bool,
        /// Reservations.
        pub reservs: bool,
        /// Timestamp.
        pub tss: bool,
        /// Verify.
        pub nvmvfys: bool,
        /// Copy.
        pub nvmcpys: bool,
        #[bits(7)]
        __: u8,
    }

    /// Fused Operation Support (FUSES).
    FusedOperations(u16) {
        /// Fused Compare and Write.
        pub fcws: bool,
        #[bits(15)]
        __: u16,
    }

    /// Format NVM Attributes (FNA).
    FormatAttributes(u8) {
        /// A format is of all namespaces.
        pub fns: bool,
        /// A secure erase is of all namespaces.
        pub sens: bool,
        /// Cryptographic erase.
        pub cryes: bool,
        /// A format of all namespaces at once is not supported.
        pub fnvmbs: bool,
        #[bits(4)]
        __: u8,
    }

    /// Volatile Write Cache (VWC).
    WriteCacheAttributes(u8) {
        /// Volatile Write Cache Present.
        pub vwcp: bool,
        /// Flush Behavior for all namespaces at once: 2 not supported, 3 supported.
        #[bits(2)]
        pub fb: u8,
        #[bits(5)]
        __: u8,
    }

    /// SGL Support (SGLS).
    SglSupport(u32) {
        /// SGLs are supported: 1 without a requirement on alignment, 2 in dwords.
        #[bits(2)]
        pub sgls: u8,
        /// Keyed SGL Data Block descriptor.
        pub ksdbs: bool,
        #[bits(5)]
        __: u8,
        /// SGL Descriptor Threshold: the most descriptors that are recommended; 0 for no recommendation.
        pub sdt: u8,
        /// SGL Bit Bucket descriptor.
        pub sgl_bit_bucket: bool,
        /// A byte-aligned contiguous metadata buffer.
        pub mbabs: bool,
        /// SGLs that are longer than the data.
        pub ldl: bool,
        /// An SGL segment by the metadata pointer.
        pub mptr_sgl: bool,
        /// The address of a descriptor may be an offset.
        pub offset: bool,
        /// Transport SGL Data Block descriptor.
        pub tsdbd: bool,
        #[bits(10)]
        __: u16,
    }

    /// Fabrics Controller Attributes (FCATT).
    FabricsAttributes(u8) {
        /// Each connection may be to another controller: the controller model is static, not dynamic.
        pub cm: bool,
        #[bits(7)]
        __: u8,
    }
}

named_values! {
    /// Controller Type (CNTRLTYPE).
    ControllerType(u8) {
        NOT_REPORTED = 0, "Not reported";
        IO = 1, "I/O controller";
        DISCOVERY = 2, "Discovery controller";
        ADMINISTRATIVE = 3, "Administrative controller";
    }
}

layouts! {
    /// Power State Descriptor (figure 276).
    #[derive(Default)]
    PowerState[32] {
        /// Maximum Power, in units of 10 mW, or as `flags` says.
        pub mp: u16,
        /// Reserved.
        pub reserved_2: u8,
        /// Bit 0: Max Power Scale, the unit is 0.1 mW. Bit 1: Non-Operational State.
        pub flags: u8,
        /// Entry Latency, in microseconds.
        pub enlat: u32,
        /// Exit Latency, in microseconds.
        pub exlat: u32,
        /// Relative Read Throughput: less is better.
        pub rrt: u8,
        /// Relative Read Latency.
        pub rrl: u8,
        /// Relative Write Throughput.
        pub rwt: u8,
        /// Relative Write Latency.
        pub rwl: u8,
        /// Idle Power.
        pub idlp: u16,
        /// Idle Power Scale, in bits 7:6.
        pub ips: u8,
        /// Reserved.
        pub reserved_19: u8,
        /// Active Power.
        pub actp: u16,
        /// Active Power Workload in bits 2:0, Active Power Scale in bits 7:6.
        pub apw: u8,
        /// Reserved.
        pub reserved_23: [u8; 9],
    }

    /// Identify Controller data structure.
    IdentifyController[4096] {
        /// PCI Vendor ID.
        pub vid: u16,
        /// PCI Subsystem Vendor ID.
        pub ssvid: u16,
        /// Serial Number, in ASCII, padded with spaces.
        pub sn: [u8; 20],
        /// Model Number, in ASCII, padded with spaces.
        pub mn: [u8; 40],
        /// Firmware Revision, in ASCII, padded with spaces.
        pub fr: [u8; 8],
        /// Recommended Arbitration Burst, as a power of two of commands.
        pub rab: u8,
        /// IEEE OUI Identifier.
        pub ieee: [u8; 3],
        /// Controller Multi-Path I/O and Namespace Sharing Capabilities.
        pub cmic: Multipath,
        /// Maximum Data Transfer Size, as a power of two in pages of CAP.MPSMIN; 0 for no limit.
        pub mdts: u8,
        /// Controller ID.
        pub cntlid: u16,
        /// Version.
        pub ver: Version,
        /// RTD3 Resume Latency, in microseconds.
        pub rtd3r: u32,
        /// RTD3 Entry Latency, in microseconds.
        pub rtd3e: u32,
        /// Optional Asynchronous Events Supported.
        pub oaes: AsyncEventConfiguration,
        /// Controller Attributes.
        pub ctratt: ControllerAttributes,
        /// Read Recovery Levels Supported: a bit for each.
        pub rrls: u16,
        /// Reserved.
        pub reserved_102: [u8; 9],
        /// Controller Type.
        pub cntrltype: ControllerType,
        /// FRU Globally Unique Identifier.
        pub fguid: [u8; 16],
        /// Command Retry Delay Times 1 to 3, in units of 100 ms.
        pub crdt: [u16; 3],
        /// Reserved.
        pub reserved_134: [u8; 119],
        /// NVM Subsystem Report.
        pub nvmsr: u8,
        /// VPD Write Cycle Information.
        pub vwci: u8,
        /// Management Endpoint Capabilities.
        pub mec: u8,
        /// Optional Admin Command Support.
        pub oacs: OptionalAdminCommands,
        /// Abort Command Limit, less one.
        pub acl: u8,
        /// Asynchronous Event Request Limit, less one.
        pub aerl: u8,
        /// Firmware Updates.
        pub frmw: FirmwareUpdates,
        /// Log Page Attributes.
        pub lpa: LogPageAttributes,
        /// Error Log Page Entries, less one.
        pub elpe: u8,
        /// Number of Power States Support, less one.
        pub npss: u8,
        /// Admin Vendor Specific Command Configuration: bit 0, all have the common format.
        pub avscc: u8,
        /// Autonomous Power State Transition Attributes.
        pub apsta: u8,
        /// Warning Composite Temperature Threshold, in kelvins.
        pub wctemp: u16,
        /// Critical Composite Temperature Threshold, in kelvins.
        pub cctemp: u16,
        /// Maximum Time for Firmware Activation, in units of 100 ms.
        pub mtfa: u16,
        /// Host Memory Buffer Preferred Size, in pages of 4 KiB.
        pub hmpre: u32,
        /// Host Memory Buffer Minimum Size, in pages of 4 KiB.
        pub hmmin: u32,
        /// Total NVM Capacity, in bytes.
        pub tnvmcap: U128,
        /// Unallocated NVM Capacity, in bytes.
        pub unvmcap: U128,
        /// Replay Protected Memory Block Support.
        pub rpmbs: u32,
        /// Extended Device Self-test Time, in minutes.
        pub edstt: u16,
        /// Device Self-test Options.
        pub dsto: u8,
        /// Firmware Update Granularity, in units of 4 KiB.
        pub fwug: u8,
        /// Keep Alive Support: granularity of the timer in units of 100 ms; 0 for none.
        pub kas: u16,
        /// Host Controlled Thermal Management Attributes.
        pub hctma: u16,
        /// Minimum Thermal Management Temperature, in kelvins.
        pub mntmt: u16,
        /// Maximum Thermal Management Temperature, in kelvins.
        pub mxtmt: u16,
        /// Sanitize Capabilities.
        pub sanicap: u32,
        /// Host Memory Buffer Minimum Descriptor Entry Size, in pages of 4 KiB.
        pub hmminds: u32,
        /// Host Memory Maximum Descriptors Entries.
        pub hmmaxd: u16,
        /// NVM Set Identifier Maximum.
        pub nsetidmax: u16,
        /// Endurance Group Identifier Maximum.
        pub endgidmax: u16,
        /// ANA Transition Time, in seconds.
        pub anatt: u8,
        /// Asymmetric Namespace Access Capabilities.
        pub anacap: AnaCapabilities,
        /// ANA Group Identifier Maximum.
        pub anagrpmax: u32,
        /// Number of ANA Group Identifiers.
        pub nanagrpid: u32,
        /// Persistent Event Log Size, in units of 64 KiB.
        pub pels: u32,
        /// Domain Identifier.
        pub domainid: u16,
        /// Reserved.
        pub reserved_358: [u8; 10],
        /// Max Endurance Group Capacity, in bytes.
        pub megcap: U128,
        /// Reserved.
        pub reserved_384: [u8; 128],
        /// Submission Queue Entry Size.
        pub sqes: SubmissionEntrySizes,
        /// Completion Queue Entry Size.
        pub cqes: CompletionEntrySizes,
        /// Maximum Outstanding Commands of a queue; 0 for as many as it has entries.
        pub maxcmd: u16,
        /// Number of Namespaces: the greatest valid identifier.
        pub nn: u32,
        /// Optional NVM Command Support.
        pub oncs: OptionalNvmCommands,
        /// Fused Operation Support.
        pub fuses: FusedOperations,
        /// Format NVM Attributes.
        pub fna: FormatAttributes,
        /// Volatile Write Cache.
        pub vwc: WriteCacheAttributes,
        /// Atomic Write Unit Normal, in logical blocks less one.
        pub awun: u16,
        /// Atomic Write Unit Power Fail, in logical blocks less one.
        pub awupf: u16,
        /// I/O Command Set Vendor Specific Command Configuration: bit 0, all have the common format.
        pub icsvscc: u8,
        /// Namespace Write Protection Capabilities.
        pub nwpc: u8,
        /// Atomic Compare & Write Unit, in logical blocks less one.
        pub acwu: u16,
        /// Copy Descriptor Formats Supported: a bit for each.
        pub cdfs: u16,
        /// SGL Support.
        pub sgls: SglSupport,
        /// Maximum Number of Allowed Namespaces; 0 for `nn`.
        pub mnan: u32,
        /// Maximum Domain Namespace Attachments.
        pub maxdna: U128,
        /// Maximum I/O Controller Namespace Attachments.
        pub maxcna: u32,
        /// Reserved.
        pub reserved_564: [u8; 204],
        /// NVM Subsystem NVMe Qualified Name, ended by a zero.
        pub subnqn: [u8; crate::NQN_FIELD],
        /// Reserved.
        pub reserved_1024: [u8; 768],
        /// Fabrics: I/O Queue Command Capsule Supported Size, in units of 16 bytes.
        pub ioccsz: u32,
        /// Fabrics: I/O Queue Response Capsule Supported Size, in units of 16 bytes.
        pub iorcsz: u32,
        /// Fabrics: In Capsule Data Offset, in units of 16 bytes from the end of the entry.
        pub icdoff: u16,
        /// Fabrics Controller Attributes.
        pub fcatt: FabricsAttributes,
        /// Fabrics: Maximum SGL Data Block Descriptors; 0 for no limit.
        pub msdbd: u8,
        /// Fabrics: Optional Fabric Commands Support: bit 0, Disconnect.
        pub ofcs: u16,
        /// Reserved.
        pub reserved_1806: [u8; 242],
        /// Power State Descriptors.
        pub psd: [PowerState; 32],
        /// Vendor Specific.
        pub vendor_specific: [u8; 1024],
    }
}

#[cfg(test)]
mod tests {
    use core::mem::offset_of;

    use super::*;

    #[test]
    fn fields_of_the_controller_lie_where_the_specification_has_them() {
        assert_eq!(offset_of!(IdentifyController, cmic), 76);
        assert_eq!(offset_of!(IdentifyController, oaes), 92);
        assert_eq!(offset_of!(IdentifyController, cntrltype), 111);
        assert_eq!(offset_of!(IdentifyController, oacs), 256);
        assert_eq!(offset_of!(IdentifyController, tnvmcap), 280);
        assert_eq!(offset_of!(IdentifyController, kas), 320);
        assert_eq!(offset_of!(IdentifyController, anatt), 342);
        assert_eq!(offset_of!(IdentifyController, sqes), 512);
        assert_eq!(offset_of!(IdentifyController, sgls), 536);
        assert_eq!(offset_of!(IdentifyController, subnqn), 768);
        assert_eq!(offset_of!(IdentifyController, ioccsz), 1792);
        assert_eq!(offset_of!(IdentifyController, psd), 2048);
    }

    #[test]
    fn capabilities_have_their_bits_where_the_specification_has_them() {
        assert_eq!(Multipath::new().with_anars(true).into_bits(), 1 << 3);
        assert_eq!(AnaCapabilities::new().with_aosr(true).with_agidns(true).into_bits(), 0x41);
        assert_eq!(OptionalAdminCommands::new().with_dbcs(true).into_bits(), 1 << 8);
        assert_eq!(OptionalNvmCommands::new().with_tss(true).with_nvmvfys(true).into_bits(), 0b11 << 6);
        assert_eq!(FirmwareUpdates::new().with_ffsro(true).with_nofs(1).into_bits(), 0b11);
        assert_eq!(WriteCacheAttributes::new().with_vwcp(true).with_fb(2).into_bits(), 0b101);
        assert_eq!(SglSupport::new().with_sgls(1).with_ldl(true).into_bits(), 1 << 18 | 1);
        assert_eq!(SubmissionEntrySizes::new().with_min(6).with_max(6).into_bits(), 0x66);
    }
}
