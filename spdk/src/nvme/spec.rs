//! Submission and completion queue entries.

use spdk_sys as sys;

/// A submission queue entry (section 3.3.3.1): 64 bytes. Its command identifier and data pointer are the
/// initiator's to fill in.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Sqe(pub(crate) sys::spdk_nvme_cmd);

/// Whether a command is one of a fused pair (section 3.4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fused {
    /// It stands alone.
    No,
    /// The first of the pair.
    First,
    /// The second, which must be the very next command in the queue.
    Second,
}

/// Attribute of Dataset Management (NVM command set 3.2.3): the ranges need not be kept.
pub const DSM_DEALLOCATE: u32 = 1 << 2;

impl Sqe {
    fn new(opcode: u32, nsid: u32) -> Self {
        let mut cmd = sys::spdk_nvme_cmd::default();
        cmd.set_opc(u16::try_from(opcode & 0xff).unwrap_or_default());
        cmd.nsid = nsid;
        Self(cmd)
    }

    /// A command on `blocks` logical blocks from `slba`; `flags` go to the upper half of CDW12 (protection checks,
    /// FUA).
    #[inline]
    fn on_blocks(opcode: u32, nsid: u32, slba: u64, blocks: u16, flags: u32) -> Self {
        let mut sqe = Self::new(opcode, nsid);
        // The low and the high half of the 64-bit address.
        sqe.0.__bindgen_anon_1.cdw10 = (slba & 0xffff_ffff) as u32;
        sqe.0.__bindgen_anon_2.cdw11 = (slba >> 32) as u32;
        sqe.0.__bindgen_anon_3.cdw12 = u32::from(blocks.wrapping_sub(1)) | (flags & 0xffff_0000);
        sqe
    }

    /// Read (NVM command set 3.2.4). `blocks` of 0 stands for 65,536, as for all commands on blocks.
    #[must_use]
    #[inline]
    pub fn read(nsid: u32, slba: u64, blocks: u16, flags: u32) -> Self {
        Self::on_blocks(sys::spdk_nvme_nvm_opcode::SPDK_NVME_OPC_READ, nsid, slba, blocks, flags)
    }

    /// Write (NVM command set 3.2.6).
    #[must_use]
    #[inline]
    pub fn write(nsid: u32, slba: u64, blocks: u16, flags: u32) -> Self {
        Self::on_blocks(sys::spdk_nvme_nvm_opcode::SPDK_NVME_OPC_WRITE, nsid, slba, blocks, flags)
    }

    /// Compare (NVM command set 3.2.1).
    #[must_use]
    #[inline]
    pub fn compare(nsid: u32, slba: u64, blocks: u16, flags: u32) -> Self {
        Self::on_blocks(sys::spdk_nvme_nvm_opcode::SPDK_NVME_OPC_COMPARE, nsid, slba, blocks, flags)
    }

    /// Write Zeroes (NVM command set 3.2.8).
    #[must_use]
    pub fn write_zeroes(nsid: u32, slba: u64, blocks: u16, flags: u32) -> Self {
        Self::on_blocks(sys::spdk_nvme_nvm_opcode::SPDK_NVME_OPC_WRITE_ZEROES, nsid, slba, blocks, flags)
    }

    /// Flush (section 7.1).
    #[must_use]
    pub fn flush(nsid: u32) -> Self {
        Self::new(sys::spdk_nvme_nvm_opcode::SPDK_NVME_OPC_FLUSH, nsid)
    }

    /// Keep Alive (section 5.20).
    #[must_use]
    pub fn keep_alive() -> Self {
        Self::new(sys::spdk_nvme_admin_opcode::SPDK_NVME_OPC_KEEP_ALIVE, 0)
    }

    /// Property Get (section 6.5) of a property of four bytes, which is the completion's dword 0.
    #[must_use]
    pub fn property_get(offset: u32) -> Self {
        /// The command type of Property Get. A fabrics command has it in the byte where others have the namespace.
        const PROPERTY_GET: u32 = 0x04;
        let mut sqe = Self::new(sys::SPDK_NVME_OPC_FABRIC, PROPERTY_GET);
        // Dword 10 is the size, 0 for four bytes.
        sqe.0.__bindgen_anon_2.cdw11 = offset;
        sqe
    }

    /// Property Set (section 6.6) of a property of four bytes.
    #[must_use]
    pub fn property_set(offset: u32, value: u32) -> Self {
        /// The command type of Property Set.
        const PROPERTY_SET: u32 = 0x00;
        let mut sqe = Self::new(sys::SPDK_NVME_OPC_FABRIC, PROPERTY_SET);
        sqe.0.__bindgen_anon_2.cdw11 = offset;
        sqe.0.__bindgen_anon_3.cdw12 = value;
        sqe
    }

    /// Dataset Management (NVM command set 3.2.3) with `ranges` (1 to 256) [`DsmRange`]s as its data.
    #[must_use]
    pub fn dataset_management(nsid: u32, ranges: u16, attributes: u32) -> Self {
        let mut sqe = Self::new(sys::spdk_nvme_nvm_opcode::SPDK_NVME_OPC_DATASET_MANAGEMENT, nsid);
        sqe.0.__bindgen_anon_1.cdw10 = u32::from(ranges.wrapping_sub(1)) & 0xff;
        sqe.0.__bindgen_anon_2.cdw11 = attributes;
        sqe
    }

    /// An I/O command that this crate does not know, with its dwords 10 to 15. The bdev or queue pair that takes it puts in the namespace.
    #[must_use]
    pub fn passed(opcode: u8, [cdw10, cdw11, cdw12, cdw13, cdw14, cdw15]: [u32; 6]) -> Self {
        let mut sqe = Self::new(opcode.into(), 0);
        sqe.0.__bindgen_anon_1.cdw10 = cdw10;
        sqe.0.__bindgen_anon_2.cdw11 = cdw11;
        sqe.0.__bindgen_anon_3.cdw12 = cdw12;
        sqe.0.__bindgen_anon_4.cdw13 = cdw13;
        sqe.0.cdw14 = cdw14;
        sqe.0.cdw15 = cdw15;
        sqe
    }

    /// Identify (base specification 5.17): the structure `cns`, of namespace `nsid` or after it, for command set `csi`.
    #[must_use]
    pub fn identify(cns: u8, nsid: u32, csi: u8) -> Self {
        let mut sqe = Self::new(sys::spdk_nvme_admin_opcode::SPDK_NVME_OPC_IDENTIFY, nsid);
        sqe.0.__bindgen_anon_1.cdw10 = u32::from(cns);
        sqe.0.__bindgen_anon_2.cdw11 = u32::from(csi) << 24;
        sqe
    }

    /// Get Log Page (base specification 5.16): the first `len` bytes, a multiple of four, of a page of the whole subsystem,
    /// with the page's own parameter `lsp`. The event that is about the page can come again from then on.
    #[must_use]
    pub fn get_log_page(lid: u8, lsp: u8, len: u32) -> Self {
        let mut sqe = Self::new(sys::spdk_nvme_admin_opcode::SPDK_NVME_OPC_GET_LOG_PAGE, u32::MAX);
        let dwords = (len / 4).saturating_sub(1);
        sqe.0.__bindgen_anon_1.cdw10 = u32::from(lid) | (u32::from(lsp) & 0x7f) << 8 | (dwords & 0xffff) << 16;
        sqe.0.__bindgen_anon_2.cdw11 = dwords >> 16;
        sqe
    }

    /// Asynchronous Event Request (base specification 5.2).
    #[must_use]
    pub fn async_event_request() -> Self {
        Self::new(sys::spdk_nvme_admin_opcode::SPDK_NVME_OPC_ASYNC_EVENT_REQUEST, 0)
    }

    /// The same command with a CDW13 (dataset management hints, directives).
    #[must_use]
    #[inline]
    pub fn with_cdw13(mut self, cdw13: u32) -> Self {
        self.0.__bindgen_anon_4.cdw13 = cdw13;
        self
    }

    /// The same command as one of a fused pair.
    #[must_use]
    pub fn fused(mut self, fused: Fused) -> Self {
        self.0.set_fuse(match fused {
            Fused::No => 0,
            Fused::First => 1,
            Fused::Second => 2,
        });
        self
    }

    /// The same command for another namespace: an identifier that the sender knows is replaced by the pool's.
    #[must_use]
    pub fn for_namespace(mut self, nsid: u32) -> Self {
        self.0.nsid = nsid;
        self
    }

    /// The same admin command, for no namespace but `nsid`: one that names another, or all, must not reach them.
    /// Commands that only ask may still ask of all, or of the controller, where the controller answers so alone (SMART,
    /// features). What concerns the controller and everybody who uses it (its queues, events, firmware, namespaces,
    /// their sanitizing) is none: those commands have no namespace, or do not look at it.
    #[must_use]
    pub fn confined_to(self, nsid: u32) -> Option<Self> {
        use sys::spdk_nvme_admin_opcode as admin;
        const ALL: u32 = u32::MAX;
        /// The first vendor specific admin command (base specification 2.0, section 5).
        const VENDOR_SPECIFIC: u32 = 0xc0;
        let opcode = u32::from(self.opcode());
        match opcode {
            admin::SPDK_NVME_OPC_GET_LOG_PAGE | admin::SPDK_NVME_OPC_IDENTIFY | admin::SPDK_NVME_OPC_GET_FEATURES => {
                Some(if matches!(self.0.nsid, 0 | ALL) { self } else { self.for_namespace(nsid) })
            }
            _ if self.0.nsid == 0 => None,
            admin::SPDK_NVME_OPC_SET_FEATURES => self.sets_a_namespace().then(|| self.for_namespace(nsid)),
            admin::SPDK_NVME_OPC_FORMAT_NVM
            | admin::SPDK_NVME_OPC_DEVICE_SELF_TEST
            | admin::SPDK_NVME_OPC_DIRECTIVE_SEND
            | admin::SPDK_NVME_OPC_DIRECTIVE_RECEIVE
            | admin::SPDK_NVME_OPC_SECURITY_SEND
            | admin::SPDK_NVME_OPC_SECURITY_RECEIVE
            | VENDOR_SPECIFIC.. => Some(self.for_namespace(nsid)),
            _ => None,
        }
    }

    /// Whether the feature that it sets is one of a namespace (base specification 2.0, figure 317, column "Scope").
    fn sets_a_namespace(self) -> bool {
        use sys::spdk_nvme_feat as feature;
        // SAFETY: every variant of the union is 32 bits.
        let cdw10 = unsafe { self.0.__bindgen_anon_1.cdw10 };
        matches!(
            cdw10 & 0xff,
            feature::SPDK_NVME_FEAT_LBA_RANGE_TYPE
                | feature::SPDK_NVME_FEAT_ERROR_RECOVERY
                | feature::SPDK_NVME_FEAT_HOST_RESERVE_MASK
                | feature::SPDK_NVME_FEAT_HOST_RESERVE_PERSIST
        )
    }

    /// The opcode.
    #[must_use]
    pub fn opcode(&self) -> u8 {
        u8::try_from(self.0.opc()).unwrap_or_default()
    }
}

impl std::fmt::Debug for Sqe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sqe").field("opcode", &self.opcode()).field("nsid", &self.0.nsid).finish_non_exhaustive()
    }
}

/// A range of Dataset Management (NVM command set figure 39): 16 bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct DsmRange {
    /// Context attributes.
    pub attributes: u32,
    /// Logical blocks.
    pub blocks: u32,
    /// The first logical block.
    pub slba: u64,
}

/// The status of a completed command (section 3.3.3.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// Status code type.
    pub sct: u8,
    /// Status code.
    pub sc: u8,
    /// Do not retry.
    pub dnr: bool,
}

impl Status {
    /// Generic command status 0h.
    pub const SUCCESS: Self = Self { sct: 0, sc: 0, dnr: false };
    /// Generic command status 1h: there is no such command, here.
    pub const INVALID_OPCODE: Self = Self { sct: 0, sc: 1, dnr: true };
    /// Generic command status 6h: an internal error.
    pub const INTERNAL_ERROR: Self = Self { sct: 0, sc: 6, dnr: false };
    /// Generic command status 8h: the queue that the command was in is gone.
    pub const ABORTED_SQ_DELETION: Self = Self { sct: 0, sc: 8, dnr: false };

    /// Path related status 71h: given up with its connection, so that nobody knows whether it was carried out.
    pub const ABORTED_BY_HOST: Self = Self { sct: 3, sc: 0x71, dnr: false };

    /// Whether the command did what it was asked.
    #[must_use]
    pub fn is_success(self) -> bool {
        self.sct == 0 && self.sc == 0
    }

    /// Whether the command was lost with its queue, not refused by the controller: it may be sent again.
    #[must_use]
    pub fn is_queue_lost(self) -> bool {
        self.sct == 0 && self.sc == Self::ABORTED_SQ_DELETION.sc && !self.dnr
    }
}

/// What is kept of a completion queue entry (section 3.3.3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    /// The command's result.
    pub cdw0: u32,
    raw_status: u16,
}

impl Completion {
    /// # Safety
    /// `raw` must point to a completion.
    #[inline]
    pub(crate) unsafe fn from_raw(raw: *const sys::spdk_nvme_cpl) -> Self {
        // SAFETY: the caller vouches for `raw`; the status is 16 bits in every variant of the union.
        unsafe { Self { cdw0: (*raw).cdw0, raw_status: (*raw).__bindgen_anon_1.status_raw } }
    }

    /// A completion of one's own making.
    #[must_use]
    pub fn of(cdw0: u32, status: Status) -> Self {
        let raw_status = u16::from_le_bytes([status.sc, status.sct & 0x07]) << 1 | u16::from(status.dnr) << 15;
        Self { cdw0, raw_status }
    }

    /// Whether the command did what it was asked.
    #[must_use]
    #[inline]
    pub fn is_success(&self) -> bool {
        // Bit 0 is the phase; status code and type are the eleven above it.
        self.raw_status & 0x0ffe == 0
    }

    /// Command Retry Delay: which of the controller's [delays](super::Limits::retry_delays) is to pass before the command
    /// is sent again, counted from 1; 0 for none.
    #[must_use]
    pub fn retry_delay(&self) -> u8 {
        let [_, high] = self.raw_status.to_le_bytes();
        (high >> 4) & 0x03
    }

    /// The status in parts.
    #[must_use]
    pub fn status(&self) -> Status {
        let [low, high] = (self.raw_status >> 1).to_le_bytes();
        Status { sct: high & 0x07, sc: low, dnr: self.raw_status & 0x8000 != 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completion(raw_status: u16) -> Completion {
        Completion { cdw0: 0, raw_status }
    }

    #[test]
    fn status_fields_are_taken_from_their_bits() {
        // Type 2h, code 85h (compare failure), do not retry, phase 1.
        let status = completion(0x8000 | (0x2 << 9) | (0x85 << 1) | 1).status();
        assert_eq!(status, Status { sct: 2, sc: 0x85, dnr: true });
    }

    #[test]
    fn a_completion_of_ones_own_making_has_the_status_that_was_given() {
        let status = Status { sct: 3, sc: 0x71, dnr: true };
        assert_eq!(Completion::of(0, status).status(), status);
    }

    #[test]
    fn the_retry_delay_stands_above_the_status_code_type() {
        assert_eq!(completion(0x2000 | (0x3 << 9) | (0x02 << 1)).retry_delay(), 2);
        assert_eq!(completion(0x8e00 | 1).retry_delay(), 0);
    }

    #[test]
    fn a_log_pages_length_is_counted_in_dwords_from_zero() {
        let sqe = Sqe::get_log_page(0x0c, 1, 8192);
        // SAFETY: every variant of these unions is 32 bits.
        unsafe {
            assert_eq!(sqe.0.__bindgen_anon_1.cdw10, 0x07ff_010c);
            assert_eq!(sqe.0.__bindgen_anon_2.cdw11, 0);
        }
    }

    #[test]
    fn the_phase_bit_is_no_failure() {
        assert!(completion(1).is_success());
        assert!(completion(0).status().is_success());
        assert!(!completion(0x8 << 1).is_success());
    }

    #[test]
    fn a_lost_queue_is_told_from_a_refusal() {
        assert!(completion(0x8 << 1).status().is_queue_lost());
        assert!(!completion(0x8000 | (0x8 << 1)).status().is_queue_lost());
        assert!(!completion(0x2 << 1).status().is_queue_lost());
    }

    #[test]
    fn block_commands_hold_address_and_zero_based_count() {
        let sqe = Sqe::read(3, 0x1_2345_6789, 8, 0xffff_ffff);
        assert_eq!(sqe.opcode(), 2);
        assert_eq!(sqe.0.nsid, 3);
        // SAFETY: every variant of these unions is 32 bits.
        unsafe {
            assert_eq!(sqe.0.__bindgen_anon_1.cdw10, 0x2345_6789);
            assert_eq!(sqe.0.__bindgen_anon_2.cdw11, 1);
            assert_eq!(sqe.0.__bindgen_anon_3.cdw12, 0xffff_0007);
        }
    }

    #[test]
    fn admin_commands_reach_no_other_namespace() {
        use sys::spdk_nvme_admin_opcode as admin;
        let sent = |opcode, nsid| Sqe::new(opcode, nsid).confined_to(7).map(|sqe| sqe.0.nsid);
        for opcode in [admin::SPDK_NVME_OPC_FORMAT_NVM, 0xc0, 0xff] {
            assert_eq!(
                [0, 3, 7, u32::MAX].map(|nsid| sent(opcode, nsid)),
                [None, Some(7), Some(7), Some(7)],
                "{opcode:#x}"
            );
        }
        for opcode in [admin::SPDK_NVME_OPC_GET_LOG_PAGE, admin::SPDK_NVME_OPC_IDENTIFY] {
            assert_eq!(
                [0, 3, u32::MAX].map(|nsid| sent(opcode, nsid)),
                [Some(0), Some(7), Some(u32::MAX)],
                "{opcode:#x}"
            );
        }
    }

    #[test]
    fn admin_commands_that_concern_all_users_of_a_controller_are_not_sent() {
        use sys::spdk_nvme_admin_opcode as admin;
        let everybodys = [
            admin::SPDK_NVME_OPC_DELETE_IO_SQ,
            admin::SPDK_NVME_OPC_CREATE_IO_CQ,
            admin::SPDK_NVME_OPC_ABORT,
            admin::SPDK_NVME_OPC_ASYNC_EVENT_REQUEST,
            admin::SPDK_NVME_OPC_KEEP_ALIVE,
            admin::SPDK_NVME_OPC_NS_MANAGEMENT,
            admin::SPDK_NVME_OPC_NS_ATTACHMENT,
            admin::SPDK_NVME_OPC_FIRMWARE_COMMIT,
            admin::SPDK_NVME_OPC_SANITIZE,
            0x7f,
        ];
        for opcode in everybodys {
            for nsid in [0, 7, u32::MAX] {
                assert!(Sqe::new(opcode, nsid).confined_to(7).is_none(), "{opcode:#x} for namespace {nsid}");
            }
        }
        let set = |feature: u32| {
            let mut sqe = Sqe::new(admin::SPDK_NVME_OPC_SET_FEATURES, 7);
            sqe.0.__bindgen_anon_1.cdw10 = feature;
            sqe.confined_to(7).is_some()
        };
        // Error recovery is a namespace's; the number of queues and the keep-alive time-out are not.
        assert_eq!([0x05, 0x07, 0x0f].map(set), [true, false, false]);
    }

    #[test]
    fn property_commands_have_type_offset_and_value_where_the_fabric_looks_for_them() {
        // SAFETY: the entry is 64 bytes of plain data.
        let bytes = |sqe: Sqe| unsafe { std::mem::transmute::<sys::spdk_nvme_cmd, [u8; 64]>(sqe.0) };
        let get = bytes(Sqe::property_get(0x1c));
        assert_eq!((get[0], get[4], get[40], &get[44..52]), (0x7f, 4, 0, &[0x1c, 0, 0, 0, 0, 0, 0, 0][..]));
        let set = bytes(Sqe::property_set(0x14, 0x0046_0000));
        assert_eq!((set[0], set[4], set[40], &set[44..52]), (0x7f, 0, 0, &[0x14, 0, 0, 0, 0, 0, 0x46, 0][..]));
    }

    #[test]
    fn fused_commands_are_marked() {
        assert_eq!(Sqe::compare(1, 0, 1, 0).fused(Fused::First).0.fuse(), 1);
        assert_eq!(Sqe::write(1, 0, 1, 0).fused(Fused::Second).0.fuse(), 2);
    }

    #[test]
    fn a_dsm_range_has_the_layout_of_the_specification() {
        assert_eq!(size_of::<DsmRange>(), 16);
        assert_eq!(std::mem::offset_of!(DsmRange, slba), 8);
    }
}
