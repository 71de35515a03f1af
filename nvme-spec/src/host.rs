//! Commands as a host makes them: each has its own fields, and no identifier and no data pointer yet.

use zerocopy::transmute;

use crate::admin::{
    AbortDw10, CreateCqDw11, CreateSqDw11, GetFeaturesDw10, GetLogPageDw10, GetLogPageDw11, IdentifyDw10, QueueDw10,
    SetFeaturesDw10, split_numd,
};
use crate::command::{CommandFlags, SglDescriptor, SglId, Sqe};
use crate::fabrics::{ConnectCommand, FabricsType, PropertyAttributes, PropertyCommand};
use crate::feature::FeatureId;
use crate::identify::Cns;
use crate::log::LogId;
use crate::nvm::{BlockDw12, DsmDw10, DsmDw11};
use crate::opcode::{AdminOpcode, IoOpcode};
use crate::register::Register;
use crate::{ALL_NAMESPACES, Cqe, Status};

/// I/O commands (base specification, section 7; NVM command set, section 3.2).
impl Sqe {
    /// Returns an I/O command for a namespace, whose command dwords are 0.
    #[must_use]
    #[inline]
    pub const fn io(opcode: IoOpcode, nsid: u32) -> Self {
        Self { opcode: opcode.0, nsid, ..Self::NONE }
    }

    /// Returns a command on blocks from `slba` on; how many, `dw12` tells.
    #[must_use]
    #[inline]
    pub const fn on_blocks(opcode: IoOpcode, nsid: u32, slba: u64, dw12: BlockDw12) -> Self {
        Self { cdw12: dw12.into_bits(), ..Self::io(opcode, nsid).with_slba(slba) }
    }

    /// Returns Read (NVM command set, section 3.2.4).
    #[must_use]
    #[inline]
    pub const fn read(nsid: u32, slba: u64, dw12: BlockDw12) -> Self {
        Self::on_blocks(IoOpcode::READ, nsid, slba, dw12)
    }

    /// Returns Write (NVM command set, section 3.2.6).
    #[must_use]
    #[inline]
    pub const fn write(nsid: u32, slba: u64, dw12: BlockDw12) -> Self {
        Self::on_blocks(IoOpcode::WRITE, nsid, slba, dw12)
    }

    /// Returns Compare (NVM command set, section 3.2.1).
    #[must_use]
    #[inline]
    pub const fn compare(nsid: u32, slba: u64, dw12: BlockDw12) -> Self {
        Self::on_blocks(IoOpcode::COMPARE, nsid, slba, dw12)
    }

    /// Returns Write Zeroes (NVM command set, section 3.2.8).
    #[must_use]
    #[inline]
    pub const fn write_zeroes(nsid: u32, slba: u64, dw12: BlockDw12) -> Self {
        Self::on_blocks(IoOpcode::WRITE_ZEROES, nsid, slba, dw12)
    }

    /// Returns Dataset Management (NVM command set, section 3.2.3), whose data are `DsmRange`s: `nr` and one more.
    #[must_use]
    #[inline]
    pub const fn dataset_management(nsid: u32, nr: u8, dw11: DsmDw11) -> Self {
        let cdw10 = DsmDw10::new().with_nr(nr).into_bits();
        Self { cdw10, cdw11: dw11.into_bits(), ..Self::io(IoOpcode::DATASET_MANAGEMENT, nsid) }
    }

    /// Returns Flush (base specification, section 7.1).
    #[must_use]
    #[inline]
    pub const fn flush(nsid: u32) -> Self {
        Self::io(IoOpcode::FLUSH, nsid)
    }
}

/// Admin commands (base specification, section 5).
impl Sqe {
    /// Returns an admin command for no namespace, whose command dwords are 0.
    #[must_use]
    pub const fn admin(opcode: AdminOpcode) -> Self {
        Self { opcode: opcode.0, ..Self::NONE }
    }

    /// Returns Abort (section 5.1) for the command `cid` of the submission queue `sqid`.
    #[must_use]
    pub const fn abort(sqid: u16, cid: u16) -> Self {
        let cdw10 = AbortDw10::new().with_sqid(sqid).with_cid(cid).into_bits();
        Self { cdw10, ..Self::admin(AdminOpcode::ABORT) }
    }

    /// Returns Asynchronous Event Request (section 5.2).
    #[must_use]
    pub const fn async_event_request() -> Self {
        Self::admin(AdminOpcode::ASYNC_EVENT_REQUEST)
    }

    /// Returns Create I/O Completion Queue (section 5.4) of `qsize` entries and one more, which are at `prp1`.
    #[must_use]
    pub const fn create_io_cq(qid: u16, qsize: u16, prp1: u64, dw11: CreateCqDw11) -> Self {
        let cdw10 = QueueDw10::new().with_qid(qid).with_qsize(qsize).into_bits();
        Self { prp1, cdw10, cdw11: dw11.into_bits(), ..Self::admin(AdminOpcode::CREATE_IO_CQ) }
    }

    /// Returns Create I/O Submission Queue (section 5.5) of `qsize` entries and one more, which are at `prp1`.
    #[must_use]
    pub const fn create_io_sq(qid: u16, qsize: u16, prp1: u64, dw11: CreateSqDw11) -> Self {
        let cdw10 = QueueDw10::new().with_qid(qid).with_qsize(qsize).into_bits();
        Self { prp1, cdw10, cdw11: dw11.into_bits(), ..Self::admin(AdminOpcode::CREATE_IO_SQ) }
    }

    /// Returns Delete I/O Completion Queue (section 5.6).
    #[must_use]
    pub const fn delete_io_cq(qid: u16) -> Self {
        Self { cdw10: QueueDw10::new().with_qid(qid).into_bits(), ..Self::admin(AdminOpcode::DELETE_IO_CQ) }
    }

    /// Returns Delete I/O Submission Queue (section 5.7).
    #[must_use]
    pub const fn delete_io_sq(qid: u16) -> Self {
        Self { cdw10: QueueDw10::new().with_qid(qid).into_bits(), ..Self::admin(AdminOpcode::DELETE_IO_SQ) }
    }

    /// Returns Get Features (section 5.15) for the current value of a feature of the controller.
    #[must_use]
    pub const fn get_features(fid: FeatureId) -> Self {
        let cdw10 = GetFeaturesDw10::new().with_fid(fid).into_bits();
        Self { cdw10, ..Self::admin(AdminOpcode::GET_FEATURES) }
    }

    /// Returns Get Log Page (section 5.16) for the first `len` bytes, a multiple of four, of a page of the controller,
    /// with the page's own parameter `lsp`. The event that is about the page can come again from then on.
    #[must_use]
    pub const fn get_log_page(lid: LogId, lsp: u8, len: u32) -> Self {
        let (lower, upper) = split_numd((len / 4).saturating_sub(1));
        let cdw10 = GetLogPageDw10::new().with_lid(lid).with_lsp(lsp & 0x7f).with_numdl(lower).into_bits();
        let cdw11 = GetLogPageDw11::new().with_numdu(upper).into_bits();
        Self { nsid: ALL_NAMESPACES, cdw10, cdw11, ..Self::admin(AdminOpcode::GET_LOG_PAGE) }
    }

    /// Returns Identify (section 5.17) for the structure `cns`, of the namespace `nsid` or of those after it.
    #[must_use]
    pub const fn identify(cns: Cns, nsid: u32) -> Self {
        let cdw10 = IdentifyDw10::new().with_cns(cns).into_bits();
        Self { nsid, cdw10, ..Self::admin(AdminOpcode::IDENTIFY) }
    }

    /// Returns Keep Alive (section 5.18).
    #[must_use]
    pub const fn keep_alive() -> Self {
        Self::admin(AdminOpcode::KEEP_ALIVE)
    }

    /// Returns Set Features (section 5.27) for a feature of the controller, whose value is `cdw11`.
    #[must_use]
    pub const fn set_features(fid: FeatureId, cdw11: u32) -> Self {
        let cdw10 = SetFeaturesDw10::new().with_fid(fid).into_bits();
        Self { cdw10, cdw11, ..Self::admin(AdminOpcode::SET_FEATURES) }
    }
}

/// Commands of NVMe over Fabrics (base specification, section 6).
impl Sqe {
    /// Returns Connect (section 6.3) of the queue `qid`, of `sqsize` entries and one more, whose data is a
    /// [`ConnectData`](crate::fabrics::ConnectData). `kato`, in milliseconds, is of the admin queue only.
    #[must_use]
    pub const fn connect(qid: u16, sqsize: u16, kato: u32) -> Self {
        let command = ConnectCommand {
            opcode: AdminOpcode::FABRICS.0,
            flags: CommandFlags::new(),
            cid: 0,
            fctype: FabricsType::CONNECT,
            reserved_5: [0; 19],
            sgl: SglDescriptor::of_bytes(SglId::new(), 0),
            recfmt: 0,
            qid,
            sqsize,
            cattr: 0,
            reserved_47: 0,
            kato,
            reserved_52: [0; 12],
        };
        transmute!(command)
    }

    /// Returns Property Get (section 6.5) for a property of four bytes, which is dword 0 of the completion.
    #[must_use]
    pub const fn property_get(property: Register) -> Self {
        property_command(FabricsType::PROPERTY_GET, property, 0, PropertyAttributes::new())
    }

    /// Returns Property Get (section 6.5) for a property of eight bytes, which is dwords 0 and 1 of the completion.
    #[must_use]
    pub const fn property_get_quad(property: Register) -> Self {
        property_command(FabricsType::PROPERTY_GET, property, 0, PropertyAttributes::new().with_size(1))
    }

    /// Returns Property Set (section 6.6) for a property of four bytes.
    #[must_use]
    pub const fn property_set(property: Register, value: u32) -> Self {
        property_command(FabricsType::PROPERTY_SET, property, value, PropertyAttributes::new())
    }
}

const fn property_command(fctype: FabricsType, property: Register, value: u32, attrib: PropertyAttributes) -> Sqe {
    let command = PropertyCommand {
        opcode: AdminOpcode::FABRICS.0,
        reserved_1: 0,
        cid: 0,
        fctype,
        reserved_5: [0; 35],
        attrib,
        reserved_41: [0; 3],
        offset: property.0,
        value: value as u64,
        reserved_56: [0; 8],
    };
    transmute!(command)
}

impl Sqe {
    /// An entry whose bits are all 0: what the others begin with.
    const NONE: Self = Self {
        opcode: 0,
        flags: CommandFlags::new(),
        cid: 0,
        nsid: 0,
        cdw2: 0,
        cdw3: 0,
        mptr: 0,
        prp1: 0,
        prp2: 0,
        cdw10: 0,
        cdw11: 0,
        cdw12: 0,
        cdw13: 0,
        cdw14: 0,
        cdw15: 0,
    };

    /// Returns the command with other Command Dwords 10 to 15.
    #[must_use]
    #[inline]
    pub const fn with_dwords(self, [cdw10, cdw11, cdw12, cdw13, cdw14, cdw15]: [u32; 6]) -> Self {
        Self { cdw10, cdw11, cdw12, cdw13, cdw14, cdw15, ..self }
    }

    /// Returns the command as one of a fused operation, or with another kind of data pointer.
    #[must_use]
    #[inline]
    pub const fn with_flags(self, flags: CommandFlags) -> Self {
        Self { flags, ..self }
    }

    /// Returns the command with its data at these PRP entries.
    #[must_use]
    #[inline]
    pub const fn with_prps(self, prp1: u64, prp2: u64) -> Self {
        Self { prp1, prp2, ..self }
    }
}

impl Cqe {
    /// Returns a completion with this status, which no queue has.
    #[must_use]
    #[inline]
    pub const fn of(status: Status) -> Self {
        Self { dw0: 0, dw1: 0, sqhd: 0, sqid: 0, cid: 0, status }
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes;

    use super::*;

    #[test]
    fn commands_on_blocks_hold_address_and_count() {
        let sqe = Sqe::read(3, 0x1_2345_6789, BlockDw12::new().with_nlb(7).with_fua(true));
        assert_eq!((sqe.opcode, sqe.nsid, sqe.flags), (2, 3, CommandFlags::new()));
        assert_eq!(sqe.dwords(), [0x2345_6789, 1, 1 << 30 | 7, 0, 0, 0]);
        assert_eq!(Sqe::io(IoOpcode::READ, 3).with_dwords(sqe.dwords()), sqe);
        let opcodes = [Sqe::write, Sqe::compare, Sqe::write_zeroes].map(|make| make(1, 0, BlockDw12::new()).opcode);
        assert_eq!(opcodes, [1, 5, 8]);
    }

    #[test]
    fn dataset_management_holds_the_number_of_its_ranges_and_what_is_done_with_them() {
        let sqe = Sqe::dataset_management(1, 255, DsmDw11::new().with_ad(true));
        assert_eq!((sqe.opcode, sqe.cdw10, sqe.cdw11), (9, 255, 1 << 2));
    }

    #[test]
    fn a_log_pages_length_is_counted_in_dwords_from_zero() {
        let sqe = Sqe::get_log_page(LogId::ANA, 1, 8192);
        assert_eq!((sqe.nsid, sqe.cdw10, sqe.cdw11), (u32::MAX, 0x07ff_010c, 0));
        let sqe = Sqe::get_log_page(LogId::ANA, 0, 0x0100_0000);
        assert_eq!((sqe.cdw10, sqe.cdw11), (0xffff_000c, 0x3f));
    }

    #[test]
    fn queues_are_named_by_their_identifier_and_size() {
        let create = Sqe::create_io_cq(3, 15, 0x1000, CreateCqDw11::new().with_pc(true).with_ien(true).with_iv(2));
        assert_eq!((create.opcode, create.prp1, create.cdw10, create.cdw11), (5, 0x1000, 15 << 16 | 3, 2 << 16 | 3));
        let create = Sqe::create_io_sq(3, 15, 0x2000, CreateSqDw11::new().with_pc(true).with_cqid(4));
        assert_eq!((create.opcode, create.prp1, create.cdw10, create.cdw11), (1, 0x2000, 15 << 16 | 3, 4 << 16 | 1));
        let delete = [Sqe::delete_io_sq(3), Sqe::delete_io_cq(3)].map(|sqe| (sqe.opcode, sqe.cdw10));
        assert_eq!(delete, [(0, 3), (4, 3)]);
        let abort = Sqe::abort(1, 7);
        assert_eq!((abort.opcode, abort.cdw10), (8, 7 << 16 | 1));
    }

    #[test]
    fn what_asks_names_what_it_asks_for() {
        let named = [
            Sqe::identify(Cns::NAMESPACE_DESCRIPTORS, 7),
            Sqe::get_features(FeatureId::TIMESTAMP),
            Sqe::set_features(FeatureId::NUMBER_OF_QUEUES, 9),
            Sqe::keep_alive(),
            Sqe::async_event_request(),
        ];
        let fields = named.map(|sqe| (sqe.opcode, sqe.nsid, sqe.cdw10, sqe.cdw11));
        assert_eq!(fields, [(6, 7, 3, 0), (10, 0, 0x0e, 0), (9, 0, 7, 9), (0x18, 0, 0, 0), (0x0c, 0, 0, 0)]);
    }

    #[test]
    fn connect_names_its_queue_and_how_long_the_controller_is_kept_alive() {
        let connect = Sqe::connect(3, 127, 10_000).as_connect();
        assert_eq!((connect.opcode, connect.fctype, connect.recfmt), (0x7f, FabricsType::CONNECT, 0));
        assert_eq!((connect.qid, connect.sqsize, connect.kato), (3, 127, 10_000));
    }

    #[test]
    fn property_commands_have_type_offset_and_value_where_the_fabric_looks_for_them() {
        let get = Sqe::property_get(Register::CSTS);
        let get = get.as_bytes();
        assert_eq!((get[0], get[4], get[40], &get[44..52]), (0x7f, 4, 0, &[0x1c, 0, 0, 0, 0, 0, 0, 0][..]));
        let quad = Sqe::property_get_quad(Register::CAP);
        assert_eq!((quad.as_bytes()[4], quad.as_bytes()[40]), (4, 1));
        let set = Sqe::property_set(Register::CC, 0x0046_0000);
        let set = set.as_bytes();
        assert_eq!((set[0], set[4], set[40], &set[44..52]), (0x7f, 0, 0, &[0x14, 0, 0, 0, 0, 0, 0x46, 0][..]));
    }
}
