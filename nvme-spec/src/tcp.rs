//! PDUs of NVMe/TCP (TCP transport, section 3.6).

use crate::command::{Cqe, Sqe};

named_values! {
    /// PDU-Type.
    PduType(u8) {
        IC_REQ = 0x00, "ICReq";
        IC_RESP = 0x01, "ICResp";
        H2C_TERM_REQ = 0x02, "H2CTermReq";
        C2H_TERM_REQ = 0x03, "C2HTermReq";
        CAPSULE_CMD = 0x04, "CapsuleCmd";
        CAPSULE_RESP = 0x05, "CapsuleResp";
        H2C_DATA = 0x06, "H2CData";
        C2H_DATA = 0x07, "C2HData";
        R2T = 0x09, "R2T";
    }
}

named_values! {
    /// Fatal Error Status (FES) of a request to terminate the connection (section 3.6.2.4).
    FatalError(u16) {
        INVALID_PDU_HEADER_FIELD = 0x01, "Invalid PDU Header Field";
        PDU_SEQUENCE_ERROR = 0x02, "PDU Sequence Error";
        HEADER_DIGEST_ERROR = 0x03, "Header Digest Error";
        DATA_TRANSFER_OUT_OF_RANGE = 0x04, "Data Transfer Out of Range";
        LIMIT_EXCEEDED = 0x05, "Data Transfer Limit Exceeded, or R2T Limit Exceeded";
        UNSUPPORTED_PARAMETER = 0x06, "Unsupported Parameter";
    }
}

bit_fields! {
    /// FLAGS of the common header. Those that a type of PDU has not are reserved in it.
    PduFlags(u8) {
        /// The PDU carries a header digest.
        pub hdgstf: bool,
        /// The PDU carries a data digest.
        pub ddgstf: bool,
        /// The PDU is the last of its command's data.
        pub last_pdu: bool,
        /// The command succeeded, and no response capsule follows.
        pub success: bool,
        #[bits(4)]
        __: u8,
    }

    /// DGST of `ICReq` and `ICResp`: the digests that are wanted, and that are used.
    PduDigests(u8) {
        /// Header digests.
        pub hdgst: bool,
        /// Data digests.
        pub ddgst: bool,
        #[bits(6)]
        __: u8,
    }
}

/// Bytes of a digest, which is the CRC32C of the header or of the data.
pub const DIGEST: usize = 4;

/// The unit of `cpda` and `hpda`: the data of a PDU begins at a multiple of so many bytes times the value and one.
pub const DATA_ALIGNMENT_UNIT: usize = 4;

/// The greatest value of `cpda` and `hpda`.
pub const MAX_DATA_ALIGNMENT: u8 = 31;

/// The least MAXH2CDATA that a controller should have, in bytes.
pub const MIN_MAXH2CDATA: u32 = 4096;

/// The most bytes of data in a request to terminate the connection: the start of the PDU that was wrong.
pub const MAX_TERM_DATA: usize = 128;

/// The most bytes of data in the capsule of an admin command or of Connect, whatever Identify Controller tells.
pub const ADMIN_IN_CAPSULE_DATA: u32 = 8192;

layouts! {
    /// The header that all PDUs share (section 3.6.1).
    #[derive(Default)]
    PduHeader[8] {
        /// PDU-Type.
        pub kind: PduType,
        /// FLAGS.
        pub flags: PduFlags,
        /// Header Length, in bytes.
        pub hlen: u8,
        /// PDU Data Offset, in bytes from the start of the PDU; 0 for no data.
        pub pdo: u8,
        /// PDU Length, in bytes, with digests and data.
        pub plen: u32,
    }

    /// Initialize Connection Request (section 3.6.2.2).
    IcReq[128] {
        /// Common header.
        pub header: PduHeader,
        /// PDU Format Version: 0.
        pub pfv: u16,
        /// Host PDU Data Alignment, in dwords less one.
        pub hpda: u8,
        /// Digests that are wanted.
        pub dgst: PduDigests,
        /// Maximum Number of Outstanding R2T of a command, less one.
        pub maxr2t: u32,
        /// Reserved.
        pub reserved_16: [u8; 112],
    }

    /// Initialize Connection Response (section 3.6.2.3).
    IcResp[128] {
        /// Common header.
        pub header: PduHeader,
        /// PDU Format Version: 0.
        pub pfv: u16,
        /// Controller PDU Data Alignment, in dwords less one.
        pub cpda: u8,
        /// Digests that are used.
        pub dgst: PduDigests,
        /// Maximum Host to Controller Data length of a PDU, in bytes.
        pub maxh2cdata: u32,
        /// Reserved.
        pub reserved_16: [u8; 112],
    }

    /// The header of Host and Controller Terminate Connection Request (sections 3.6.2.4 and 3.6.2.5).
    TermReq[24] {
        /// Common header.
        pub header: PduHeader,
        /// Fatal Error Status.
        pub fes: FatalError,
        /// Fatal Error Information, of which the first byte is the lowest.
        pub fei: [u8; 4],
        /// Reserved.
        pub reserved_14: [u8; 10],
    }

    /// The header of Command Capsule (section 3.6.2.6).
    CapsuleCmd[72] {
        /// Common header.
        pub header: PduHeader,
        /// The command.
        pub sqe: Sqe,
    }

    /// Response Capsule (section 3.6.2.7).
    CapsuleResp[24] {
        /// Common header.
        pub header: PduHeader,
        /// The completion.
        pub cqe: Cqe,
    }

    /// The header of Host To Controller Data Transfer (section 3.6.2.8).
    #[derive(Default)]
    H2cData[24] {
        /// Common header.
        pub header: PduHeader,
        /// Command Capsule CID.
        pub cccid: u16,
        /// Transfer Tag: that of the R2T.
        pub ttag: u16,
        /// Data Offset within the command's data, in bytes.
        pub datao: u32,
        /// Data Length, in bytes.
        pub datal: u32,
        /// Reserved.
        pub reserved_20: [u8; 4],
    }

    /// The header of Controller To Host Data Transfer (section 3.6.2.9).
    #[derive(Default)]
    C2hData[24] {
        /// Common header.
        pub header: PduHeader,
        /// Command Capsule CID.
        pub cccid: u16,
        /// Reserved.
        pub reserved_10: [u8; 2],
        /// Data Offset within the command's data, in bytes.
        pub datao: u32,
        /// Data Length, in bytes.
        pub datal: u32,
        /// Reserved.
        pub reserved_20: [u8; 4],
    }

    /// Ready to Transfer (section 3.6.2.10).
    #[derive(Default)]
    R2t[24] {
        /// Common header.
        pub header: PduHeader,
        /// Command Capsule CID.
        pub cccid: u16,
        /// Transfer Tag, which the data has.
        pub ttag: u16,
        /// Requested Data Offset within the command's data, in bytes.
        pub r2to: u32,
        /// Requested Data Length, in bytes.
        pub r2tl: u32,
        /// Reserved.
        pub reserved_20: [u8; 4],
    }
}

#[cfg(test)]
mod tests {
    use core::mem::offset_of;

    use super::*;

    #[test]
    fn pdus_have_their_fields_where_the_specification_has_them() {
        assert_eq!((offset_of!(PduHeader, pdo), offset_of!(PduHeader, plen)), (3, 4));
        assert_eq!((offset_of!(IcReq, hpda), offset_of!(IcReq, maxr2t)), (10, 12));
        assert_eq!((offset_of!(IcResp, dgst), offset_of!(IcResp, maxh2cdata)), (11, 12));
        assert_eq!((offset_of!(CapsuleCmd, sqe), offset_of!(CapsuleResp, cqe)), (8, 8));
        assert_eq!((offset_of!(H2cData, ttag), offset_of!(C2hData, datal)), (10, 16));
        assert_eq!((offset_of!(R2t, r2to), offset_of!(TermReq, fei)), (12, 10));
    }

    #[test]
    fn flags_have_their_bits_where_the_specification_has_them() {
        let flags = PduFlags::new().with_ddgstf(true).with_last_pdu(true).with_success(true);
        assert_eq!(flags.into_bits(), 0b1110);
        assert_eq!(PduDigests::new().with_hdgst(true).with_ddgst(true).into_bits(), 0b11);
    }
}
