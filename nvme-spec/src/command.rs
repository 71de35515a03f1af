//! Submission and completion queue entries (base specification, section 3.3.3), and what a data pointer is.

use crate::status::Status;

named_values! {
    /// Fused Operation (FUSE): whether a command is one of a pair that is carried out as one.
    FusedOperation(u8) {
        NORMAL = 0, "Normal operation";
        FIRST = 1, "Fused operation, first command";
        SECOND = 2, "Fused operation, second command";
    }
}

named_values! {
    /// PRP or SGL for Data Transfer (PSDT): how a command names its data.
    Psdt(u8) {
        PRP = 0, "PRPs";
        SGL_MPTR_BUFFER = 1, "SGLs, metadata in a contiguous buffer";
        SGL_MPTR_SGL = 2, "SGLs, metadata by an SGL";
    }
}

bit_fields! {
    /// The second byte of Command Dword 0.
    CommandFlags(u8) {
        /// Fused Operation.
        #[bits(2)]
        pub fuse: FusedOperation,
        #[bits(4)]
        __: u8,
        /// PRP or SGL for Data Transfer.
        #[bits(2)]
        pub psdt: Psdt,
    }
}

impl CommandFlags {
    /// A command that is no part of a fused operation, whose data is named by an SGL.
    pub const SGL: Self = Self::new().with_psdt(Psdt::SGL_MPTR_BUFFER);
    /// The first command of a fused operation, whose data is named by PRPs.
    pub const FUSED_FIRST: Self = Self::new().with_fuse(FusedOperation::FIRST);
    /// The second command of a fused operation, whose data is named by PRPs.
    pub const FUSED_SECOND: Self = Self::new().with_fuse(FusedOperation::SECOND);
}

layouts! {
    /// A submission queue entry (section 3.3.3.1).
    #[derive(Default)]
    Sqe[64] {
        /// Opcode: an [`AdminOpcode`](crate::AdminOpcode) or an [`IoOpcode`](crate::IoOpcode).
        pub opcode: u8,
        /// Fused Operation, PRP or SGL for Data Transfer.
        pub flags: CommandFlags,
        /// Command Identifier.
        pub cid: u16,
        /// Namespace Identifier.
        pub nsid: u32,
        /// Command Dword 2.
        pub cdw2: u32,
        /// Command Dword 3.
        pub cdw3: u32,
        /// Metadata Pointer.
        pub mptr: u64,
        /// Data Pointer: PRP Entry 1, or the first half of an SGL descriptor.
        pub prp1: u64,
        /// Data Pointer: PRP Entry 2, or the second half of an SGL descriptor.
        pub prp2: u64,
        /// Command Dword 10.
        pub cdw10: u32,
        /// Command Dword 11.
        pub cdw11: u32,
        /// Command Dword 12.
        pub cdw12: u32,
        /// Command Dword 13.
        pub cdw13: u32,
        /// Command Dword 14.
        pub cdw14: u32,
        /// Command Dword 15.
        pub cdw15: u32,
    }

    /// A completion queue entry (section 3.3.3.2).
    #[derive(Default)]
    Cqe[16] {
        /// The result of the command, which is its own.
        pub dw0: u32,
        /// The second dword of the result.
        pub dw1: u32,
        /// SQ Head Pointer.
        pub sqhd: u16,
        /// SQ Identifier.
        pub sqid: u16,
        /// Command Identifier.
        pub cid: u16,
        /// Status and phase tag.
        pub status: Status,
    }

    /// An SGL descriptor (section 4.1.2).
    #[derive(Default)]
    SglDescriptor[16] {
        /// Where the data, or the next segment, is.
        pub address: u64,
        /// Its bytes.
        pub length: u32,
        /// Reserved; the upper byte of the length and the key in a keyed descriptor.
        pub reserved_12: [u8; 3],
        /// What the descriptor is.
        pub id: SglId,
    }
}

impl Sqe {
    /// Bytes of an entry, as the power of two that CC.IOSQES and SQES tell.
    pub const SIZE_LOG2: u8 = 6;

    /// Returns the Fused Operation.
    #[must_use]
    #[inline]
    pub const fn fuse(&self) -> FusedOperation {
        self.flags.fuse()
    }

    /// Returns how the command names its data.
    #[must_use]
    #[inline]
    pub const fn psdt(&self) -> Psdt {
        self.flags.psdt()
    }

    /// Returns the Starting LBA of a command on blocks (Command Dwords 10 and 11).
    #[must_use]
    #[inline]
    pub const fn slba(&self) -> u64 {
        (self.cdw11 as u64) << 32 | self.cdw10 as u64
    }

    /// Returns the command with another Starting LBA.
    #[must_use]
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "each half is put into its dword")]
    pub const fn with_slba(mut self, slba: u64) -> Self {
        (self.cdw10, self.cdw11) = (slba as u32, (slba >> 32) as u32);
        self
    }

    /// Returns the SGL descriptor of a command whose data pointer is one.
    #[must_use]
    pub const fn sgl(&self) -> SglDescriptor {
        SglDescriptor::from_dptr([self.prp1, self.prp2])
    }

    /// Returns Command Dwords 10 to 15.
    #[must_use]
    #[inline]
    pub const fn dwords(&self) -> [u32; 6] {
        [self.cdw10, self.cdw11, self.cdw12, self.cdw13, self.cdw14, self.cdw15]
    }
}

impl Cqe {
    /// Bytes of an entry, as the power of two that CC.IOCQES and CQES tell.
    pub const SIZE_LOG2: u8 = 4;
}

const _: () = assert!(size_of::<Sqe>() == 1 << Sqe::SIZE_LOG2 && size_of::<Cqe>() == 1 << Cqe::SIZE_LOG2);

named_values! {
    /// SGL Descriptor Type (section 4.1.2.1).
    SglType(u8) {
        DATA_BLOCK = 0x0, "SGL Data Block descriptor";
        BIT_BUCKET = 0x1, "SGL Bit Bucket descriptor";
        SEGMENT = 0x2, "SGL Segment descriptor";
        LAST_SEGMENT = 0x3, "SGL Last Segment descriptor";
        KEYED_DATA_BLOCK = 0x4, "Keyed SGL Data Block descriptor";
        TRANSPORT_DATA_BLOCK = 0x5, "Transport SGL Data Block descriptor";
        VENDOR_SPECIFIC = 0xf, "Vendor specific";
    }
}

named_values! {
    /// SGL Descriptor Sub Type (section 4.1.2.1).
    SglSubtype(u8) {
        ADDRESS = 0x0, "The address is one of memory";
        OFFSET = 0x1, "The address is an offset: into the capsule, for a data block";
        TRANSPORT = 0xa, "NVMe Transport specific";
    }
}

bit_fields! {
    /// SGL Identifier: the last byte of a descriptor.
    SglId(u8) {
        /// SGL Descriptor Sub Type.
        #[bits(4)]
        pub subtype: SglSubtype,
        /// SGL Descriptor Type.
        #[bits(4)]
        pub kind: SglType,
    }
}

impl SglId {
    /// A data block whose address is an offset into the capsule.
    pub const IN_CAPSULE: Self = Self::new().with_kind(SglType::DATA_BLOCK).with_subtype(SglSubtype::OFFSET);
    /// Data that the transport asks for and sends in its own way.
    pub const BY_TRANSPORT: Self =
        Self::new().with_kind(SglType::TRANSPORT_DATA_BLOCK).with_subtype(SglSubtype::TRANSPORT);
}

impl SglDescriptor {
    /// Returns the descriptor of so many bytes of data that begin at address or offset 0.
    #[must_use]
    #[inline]
    pub const fn of_bytes(id: SglId, length: u32) -> Self {
        Self { address: 0, length, reserved_12: [0; 3], id }
    }

    /// Returns the descriptor in the two halves of a command's data pointer.
    #[must_use]
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "each part of the second half has its own bits")]
    pub const fn from_dptr([address, rest]: [u64; 2]) -> Self {
        let [_, _, _, _, low, middle, high, id] = rest.to_le_bytes();
        Self { address, length: rest as u32, reserved_12: [low, middle, high], id: SglId::from_bits(id) }
    }

    /// Returns the descriptor as the two halves of a command's data pointer.
    #[must_use]
    pub const fn into_dptr(self) -> [u64; 2] {
        let ([a, b, c, d], [low, middle, high]) = (self.length.to_le_bytes(), self.reserved_12);
        [self.address, u64::from_le_bytes([a, b, c, d, low, middle, high, self.id.into_bits()])]
    }
}

#[cfg(test)]
mod tests {
    use core::mem::offset_of;

    use zerocopy::{FromBytes, IntoBytes};

    use super::*;

    #[test]
    fn entries_have_their_fields_at_the_places_of_the_specification() {
        assert_eq!((offset_of!(Sqe, flags), offset_of!(Sqe, cid), offset_of!(Sqe, nsid)), (1, 2, 4));
        assert_eq!((offset_of!(Sqe, mptr), offset_of!(Sqe, prp1), offset_of!(Sqe, prp2)), (16, 24, 32));
        assert_eq!((offset_of!(Sqe, cdw10), offset_of!(Sqe, cdw15)), (40, 60));
        assert_eq!((offset_of!(Cqe, sqhd), offset_of!(Cqe, cid), offset_of!(Cqe, status)), (8, 12, 14));
    }

    #[test]
    fn fused_operation_and_kind_of_data_pointer_lie_at_the_ends_of_their_byte() {
        let flags = CommandFlags::new().with_fuse(FusedOperation::SECOND).with_psdt(Psdt::SGL_MPTR_BUFFER);
        assert_eq!(flags.into_bits(), 0b0100_0010);
        let sqe = Sqe { flags: CommandFlags::from_bits(0b1111_1101), ..Sqe::default() };
        assert_eq!((sqe.fuse(), sqe.psdt(), sqe.psdt().name()), (FusedOperation::FIRST, Psdt(3), None));
    }

    #[test]
    fn a_starting_lba_is_put_into_two_dwords_and_read_back() {
        let sqe = Sqe::default().with_slba(0x1_2345_6789);
        assert_eq!((sqe.cdw10, sqe.cdw11, sqe.slba()), (0x2345_6789, 1, 0x1_2345_6789));
        assert_eq!(Sqe::default().with_slba(u64::MAX).slba(), u64::MAX);
    }

    #[test]
    fn a_descriptor_is_the_same_in_a_data_pointer_and_in_a_list() {
        let id = SglId::new().with_kind(SglType::LAST_SEGMENT).with_subtype(SglSubtype::OFFSET);
        let descriptor = SglDescriptor { address: 7 << 40, length: 4096, reserved_12: [1, 2, 3], id };
        assert_eq!(id.into_bits(), 0x31);
        assert_eq!((SglId::IN_CAPSULE.into_bits(), SglId::BY_TRANSPORT.into_bits()), (0x01, 0x5a));
        let [address, rest] = descriptor.into_dptr();
        assert_eq!(SglDescriptor::from_dptr([address, rest]), descriptor);
        let sqe = Sqe { prp1: address, prp2: rest, ..Sqe::default() };
        assert_eq!(SglDescriptor::read_from_bytes(&sqe.as_bytes()[24..40]), Ok(descriptor));
        assert_eq!(sqe.sgl(), descriptor);
    }
}
