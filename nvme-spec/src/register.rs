//! The registers of a controller (base specification, section 3.1.3), and its doorbells (PCIe transport, section
//! 3.1.2).

named_values! {
    /// Where a register is: bytes from the start of the registers, which over Fabrics is the offset of a property.
    Register(u32) {
        CAP = 0x00, "Controller Capabilities";
        VS = 0x08, "Version";
        INTMS = 0x0c, "Interrupt Mask Set";
        INTMC = 0x10, "Interrupt Mask Clear";
        CC = 0x14, "Controller Configuration";
        CSTS = 0x1c, "Controller Status";
        NSSR = 0x20, "NVM Subsystem Reset";
        AQA = 0x24, "Admin Queue Attributes";
        ASQ = 0x28, "Admin Submission Queue Base Address";
        ACQ = 0x30, "Admin Completion Queue Base Address";
        CMBLOC = 0x38, "Controller Memory Buffer Location";
        CMBSZ = 0x3c, "Controller Memory Buffer Size";
        BPINFO = 0x40, "Boot Partition Information";
        BPRSEL = 0x44, "Boot Partition Read Select";
        BPMBL = 0x48, "Boot Partition Memory Buffer Location";
        CMBMSC = 0x50, "Controller Memory Buffer Memory Space Control";
        CMBSTS = 0x58, "Controller Memory Buffer Status";
        CRTO = 0x68, "Controller Ready Timeouts";
        SQ0TDBL = 0x1000, "Submission Queue 0 Tail Doorbell";
    }
}

impl Register {
    /// Returns the register's place, in bytes from the start of the registers.
    #[must_use]
    pub const fn offset(self) -> usize {
        self.0 as usize
    }
}

/// Bytes from a doorbell to the next where CAP.DSTRD is 0.
pub const DOORBELL_STRIDE: u32 = 4;

/// Returns where the tail doorbell of a submission queue is, where CAP.DSTRD is 0.
#[must_use]
pub const fn sq_tail_doorbell(sqid: u16) -> Register {
    Register(Register::SQ0TDBL.0 + 2 * sqid as u32 * DOORBELL_STRIDE)
}

/// Returns where the head doorbell of a completion queue is, where CAP.DSTRD is 0.
#[must_use]
pub const fn cq_head_doorbell(cqid: u16) -> Register {
    Register(sq_tail_doorbell(cqid).0 + DOORBELL_STRIDE)
}

/// The fewest entries of a queue: one of them is never used.
pub const MIN_QUEUE_ENTRIES: u32 = 2;

/// The most entries of an admin queue.
pub const MAX_ADMIN_QUEUE_ENTRIES: u32 = 4096;

/// The value of CAP.MPSMIN, CAP.MPSMAX and CC.MPS counts powers of two from this one on: pages of 4 KiB.
pub const MPS_SHIFT: u32 = 12;

bit_fields! {
    /// Controller Capabilities (section 3.1.3.1).
    Cap(u64) {
        /// Maximum Queue Entries Supported, less one.
        pub mqes: u16,
        /// Contiguous Queues Required.
        pub cqr: bool,
        /// Arbitration Mechanism Supported, beside round robin: bit 0 weighted round robin, bit 1 vendor specific.
        #[bits(2)]
        pub ams: u8,
        #[bits(5)]
        __: u8,
        /// Timeout: how long CSTS.RDY takes at most to follow CC.EN, in units of 500 ms.
        pub to: u8,
        /// Doorbell Stride: doorbells are `2 ^ (2 + DSTRD)` bytes apart.
        #[bits(4)]
        pub dstrd: u8,
        /// NVM Subsystem Reset Supported.
        pub nssrs: bool,
        /// Command Sets Supported: the NVM command set.
        pub css_nvm: bool,
        #[bits(5)]
        __: u8,
        /// Command Sets Supported: one or more I/O command sets, which Identify tells.
        pub css_iocs: bool,
        /// Command Sets Supported: no I/O command set.
        pub css_noio: bool,
        /// Boot Partition Support.
        pub bps: bool,
        /// Controller Power Scope.
        #[bits(2)]
        pub cps: u8,
        /// Memory Page Size Minimum, as a power of two in pages of 4 KiB.
        #[bits(4)]
        pub mpsmin: u8,
        /// Memory Page Size Maximum, as a power of two in pages of 4 KiB.
        #[bits(4)]
        pub mpsmax: u8,
        /// Persistent Memory Region Supported.
        pub pmrs: bool,
        /// Controller Memory Buffer Supported.
        pub cmbs: bool,
        /// NVM Subsystem Shutdown Supported.
        pub nsss: bool,
        /// Controller Ready With Media Support.
        pub crwms: bool,
        /// Controller Ready Independent of Media Support.
        pub crims: bool,
        #[bits(3)]
        __: u8,
    }

    /// Version (section 3.1.3.2), and Specification Version (VER) of Identify Controller.
    Version(u32) {
        /// Tertiary Version Number.
        pub ter: u8,
        /// Minor Version Number.
        pub mnr: u8,
        /// Major Version Number.
        pub mjr: u16,
    }

    /// Controller Configuration (section 3.1.3.5).
    Cc(u32) {
        /// Enable.
        pub en: bool,
        #[bits(3)]
        __: u8,
        /// I/O Command Set Selected.
        #[bits(3)]
        pub css: CommandSetSelected,
        /// Memory Page Size, as a power of two in pages of 4 KiB.
        #[bits(4)]
        pub mps: u8,
        /// Arbitration Mechanism Selected: 0 is round robin.
        #[bits(3)]
        pub ams: u8,
        /// Shutdown Notification.
        #[bits(2)]
        pub shn: ShutdownNotification,
        /// I/O Submission Queue Entry Size, as a power of two of bytes.
        #[bits(4)]
        pub iosqes: u8,
        /// I/O Completion Queue Entry Size, as a power of two of bytes.
        #[bits(4)]
        pub iocqes: u8,
        /// Controller Ready Independent of Media Enable.
        pub crime: bool,
        #[bits(7)]
        __: u8,
    }

    /// Controller Status (section 3.1.3.6).
    Csts(u32) {
        /// Ready.
        pub rdy: bool,
        /// Controller Fatal Status.
        pub cfs: bool,
        /// Shutdown Status.
        #[bits(2)]
        pub shst: ShutdownStatus,
        /// NVM Subsystem Reset Occurred.
        pub nssro: bool,
        /// Processing Paused.
        pub pp: bool,
        /// Shutdown Type: the shutdown is that of the NVM subsystem.
        pub st: bool,
        #[bits(25)]
        __: u32,
    }

    /// Admin Queue Attributes (section 3.1.3.8).
    Aqa(u32) {
        /// Admin Submission Queue Size: entries less one.
        #[bits(12)]
        pub asqs: u16,
        #[bits(4)]
        __: u8,
        /// Admin Completion Queue Size: entries less one.
        #[bits(12)]
        pub acqs: u16,
        #[bits(4)]
        __: u8,
    }

    /// Controller Ready Timeouts (section 3.1.3.21), in units of 500 ms.
    Crto(u32) {
        /// Controller Ready With Media Timeout.
        pub crwmt: u16,
        /// Controller Ready Independent of Media Timeout.
        pub crimt: u16,
    }
}

impl Version {
    /// NVM Express 1.4.0.
    pub const V1_4: Self = Self::new().with_mjr(1).with_mnr(4);
    /// NVM Express 2.0.0.
    pub const V2_0: Self = Self::new().with_mjr(2);
}

named_values! {
    /// I/O Command Set Selected (CC.CSS).
    CommandSetSelected(u8) {
        NVM = 0b000, "NVM Command Set";
        ALL = 0b110, "All supported I/O Command Sets";
        ADMIN_ONLY = 0b111, "Admin Command Set only";
    }
}

named_values! {
    /// Shutdown Notification (CC.SHN).
    ShutdownNotification(u8) {
        NONE = 0b00, "No notification";
        NORMAL = 0b01, "Normal shutdown notification";
        ABRUPT = 0b10, "Abrupt shutdown notification";
    }
}

named_values! {
    /// Shutdown Status (CSTS.SHST).
    ShutdownStatus(u8) {
        NORMAL = 0b00, "Normal operation";
        OCCURRING = 0b01, "Shutdown processing occurring";
        COMPLETE = 0b10, "Shutdown processing complete";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_have_their_bits_where_the_specification_has_them() {
        let cap = Cap::new().with_mqes(1023).with_cqr(true).with_to(20).with_css_nvm(true).with_crwms(true);
        assert_eq!(cap.into_bits(), 1023 | 1 << 16 | 20 << 24 | 1 << 37 | 1 << 59);
        assert_eq!(Cap::new().with_css_iocs(true).with_css_noio(true).into_bits(), 0b11 << 43);
        assert_eq!(Cap::new().with_mpsmin(1).with_mpsmax(1).with_crims(true).into_bits(), 1 << 48 | 1 << 52 | 1 << 60);
    }

    #[test]
    fn the_configuration_that_every_driver_writes_is_built_from_its_fields() {
        let cc = Cc::new().with_en(true).with_iosqes(6).with_iocqes(4);
        assert_eq!(cc.into_bits(), 0x0046_0001);
        assert_eq!(cc.with_shn(ShutdownNotification::ABRUPT).into_bits(), 0x0046_8001);
        assert_eq!(Csts::new().with_shst(ShutdownStatus::COMPLETE).with_cfs(true).into_bits(), 0b1010);
    }

    #[test]
    fn reserved_bits_are_kept() {
        assert_eq!(Cc::from_bits(u32::MAX).with_en(false).into_bits(), u32::MAX - 1);
        assert_eq!(Aqa::from_bits(u32::MAX).with_asqs(0).with_acqs(0).into_bits(), 0xf000_f000);
    }

    #[test]
    fn versions_are_numbers_that_can_be_compared() {
        assert_eq!((Version::V1_4.into_bits(), Version::V2_0.into_bits()), (0x0001_0400, 0x0002_0000));
    }

    #[test]
    fn doorbells_follow_each_other_in_pairs() {
        assert_eq!((sq_tail_doorbell(0).0, cq_head_doorbell(0).0), (0x1000, 0x1004));
        assert_eq!((sq_tail_doorbell(3).0, cq_head_doorbell(3).0), (0x1018, 0x101c));
        assert_eq!(cq_head_doorbell(u16::MAX).0, 0x1000 + 8 * 65535 + 4);
    }
}
