//! What a controller did that ends its connection.

use nvme_spec::tcp::{FatalError, MAX_DATA_ALIGNMENT, MIN_MAXH2CDATA, PduType};

/// What the controller did, after which nothing that it sends can be trusted: the connection must be closed.
///
/// What [`Wire::output`](super::Wire::output) has may be sent before: it tells the controller why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A PDU of a type that a controller does not send at all, or not now.
    #[error("a controller sends {expected} now, got {kind:?}")]
    Kind {
        /// Its type.
        kind: PduType,
        /// What may come.
        expected: &'static str,
    },
    /// A header of another length than that of its type.
    #[error("the HLEN of {kind:?} must be {expected}, got {hlen}")]
    HeaderLength {
        /// The PDU's type.
        kind: PduType,
        /// The length in the header.
        hlen: u8,
        /// The length of headers of that type.
        expected: u8,
    },
    /// A PDU that is longer or shorter than its parts.
    #[error("the PLEN of {kind:?} must be {min} to {max}, got {plen}")]
    Length {
        /// The PDU's type.
        kind: PduType,
        /// The length in the header.
        plen: u32,
        /// The least that it can be.
        min: u32,
        /// The most that it can be.
        max: u32,
    },
    /// Data that begins within the header, behind the PDU, or not at a multiple of a dword.
    #[error("the PDO of {kind:?} must be a multiple of 4 from {min} on, got {pdo}")]
    DataOffset {
        /// The PDU's type.
        kind: PduType,
        /// The offset in the header.
        pdo: u8,
        /// The least that it can be.
        min: u8,
    },
    /// A flag says that there is a digest where none was agreed on, or the other way round.
    #[error("{digest} of {kind:?} must be {expected}, as ICResp said, got {}", !expected)]
    DigestFlag {
        /// The PDU's type.
        kind: PduType,
        /// The flag's name.
        digest: &'static str,
        /// What it has to be.
        expected: bool,
    },
    /// A header that is not what the controller sent.
    #[error("the header digest of {kind:?} must be {expected:#010x}, got {digest:#010x}")]
    HeaderDigest {
        /// The PDU's type.
        kind: PduType,
        /// The digest that came.
        digest: u32,
        /// The digest of the header that came.
        expected: u32,
    },
    /// An answer to `ICReq` before that was sent.
    #[error("ICResp must come after ICReq, of which not all is sent")]
    EarlyIcResp,
    /// A format of PDUs that this host does not speak.
    #[error("the PFV of ICResp must be 0, got {pfv}")]
    Version {
        /// The version.
        pfv: u16,
    },
    /// An alignment that no data can have.
    #[error("the CPDA of ICResp must be 0 to {MAX_DATA_ALIGNMENT}, got {cpda}")]
    Alignment {
        /// The alignment, in dwords less one.
        cpda: u8,
    },
    /// A digest that this host did not ask for.
    #[error("ICResp turns on {digest}, which ICReq did not ask for")]
    DigestNotAsked {
        /// The digest's name.
        digest: &'static str,
    },
    /// A limit of data that would have this host send tiny pieces, or pieces of no whole dwords.
    #[error("the MAXH2CDATA of ICResp must be a multiple of 4 from {MIN_MAXH2CDATA} on, got {maxh2cdata}")]
    MaxH2cData {
        /// The limit.
        maxh2cdata: u32,
    },
    /// An answer to a command that is not in flight: it never was, or has been answered already.
    #[error("{kind:?} is for command {cid:#06x}, which is not in flight")]
    UnknownCommand {
        /// The PDU's type.
        kind: PduType,
        /// The identifier of the command.
        cid: u16,
    },
    /// An answer to a command that has not been sent whole, with the data that the controller asked for.
    #[error("{kind:?} is for command {cid:#06x}, of which not all is sent")]
    AnsweredEarly {
        /// The PDU's type.
        kind: PduType,
        /// The identifier of the command.
        cid: u16,
    },
    /// Data or a request for data, of a command whose data goes the other way or which has none.
    #[error("{kind:?} is for command {cid:#06x}, which has no data that goes this way")]
    Direction {
        /// The PDU's type.
        kind: PduType,
        /// The identifier of the command.
        cid: u16,
    },
    /// Data that is not the next of its command, or more than the command has room for.
    #[error(
        "{kind:?} for command {cid:#06x} must have whole dwords from byte {next} up to {len}, got {length} at {offset}"
    )]
    DataRange {
        /// The PDU's type.
        kind: PduType,
        /// The identifier of the command.
        cid: u16,
        /// Where it begins within the command's data.
        offset: u32,
        /// How many bytes it has.
        length: u32,
        /// Where the next data of the command begins.
        next: u32,
        /// How many bytes the command has.
        len: u32,
    },
    /// Data behind what was marked as the last of its command.
    #[error("C2HData for command {cid:#06x}, whose last data has come already")]
    DataAfterLast {
        /// The identifier of the command.
        cid: u16,
    },
    /// Success within data that is not the last.
    #[error("C2HData for command {cid:#06x} has the SUCCESS flag without LAST_PDU")]
    SuccessBeforeLast {
        /// The identifier of the command.
        cid: u16,
    },
    /// More requests for data of one command at a time than `ICReq` allowed.
    #[error("at most {max} R2Ts of a command may be outstanding, got one more for command {cid:#06x}")]
    R2tLimit {
        /// The identifier of the command.
        cid: u16,
        /// How many may be outstanding.
        max: u8,
    },
    /// A request for data that is no longer there, since the command was given up.
    #[error("R2T for command {cid:#06x}, which was given up: its data cannot be sent")]
    R2tDetached {
        /// The identifier of the command.
        cid: u16,
    },
    /// The controller ends the connection.
    #[error("the controller ends the connection: {fes:?}, information {fei:#010x}")]
    Terminated {
        /// Why.
        fes: FatalError,
        /// What about: an offset, or a digest.
        fei: u32,
    },
    /// The stream has ended.
    #[error("the controller has closed the connection{}", if *.within_pdu { ", within a PDU" } else { "" })]
    Closed {
        /// Whether a part of a PDU had come.
        within_pdu: bool,
    },
}

impl ProtocolError {
    /// Returns what the controller is told of it: Fatal Error Status, and Fatal Error Information, which for a field
    /// of a header is the field's offset. Nothing, if the controller ended the connection itself.
    pub(super) const fn fatal_error(self) -> Option<(FatalError, u32)> {
        let (fes, fei) = match self {
            Self::HeaderLength { .. } => (FatalError::INVALID_PDU_HEADER_FIELD, 2),
            Self::DataOffset { .. } => (FatalError::INVALID_PDU_HEADER_FIELD, 3),
            Self::Length { .. } => (FatalError::INVALID_PDU_HEADER_FIELD, 4),
            Self::DigestFlag { .. } | Self::SuccessBeforeLast { .. } => (FatalError::INVALID_PDU_HEADER_FIELD, 1),
            Self::UnknownCommand { kind, .. } => {
                // CID of the completion, or CCCID.
                let offset = if kind.0 == PduType::CAPSULE_RESP.0 { 20 } else { 8 };
                (FatalError::INVALID_PDU_HEADER_FIELD, offset)
            }
            Self::Direction { .. } => (FatalError::INVALID_PDU_HEADER_FIELD, 8),
            Self::HeaderDigest { digest, .. } => (FatalError::HEADER_DIGEST_ERROR, digest),
            Self::Version { .. } => (FatalError::UNSUPPORTED_PARAMETER, 8),
            Self::Alignment { .. } => (FatalError::UNSUPPORTED_PARAMETER, 10),
            Self::DigestNotAsked { .. } => (FatalError::UNSUPPORTED_PARAMETER, 11),
            Self::MaxH2cData { .. } => (FatalError::UNSUPPORTED_PARAMETER, 12),
            Self::DataRange { .. } => (FatalError::DATA_TRANSFER_OUT_OF_RANGE, 0),
            Self::R2tLimit { .. } => (FatalError::LIMIT_EXCEEDED, 0),
            Self::Kind { .. }
            | Self::EarlyIcResp
            | Self::AnsweredEarly { .. }
            | Self::DataAfterLast { .. }
            | Self::R2tDetached { .. } => (FatalError::PDU_SEQUENCE_ERROR, 0),
            Self::Terminated { .. } | Self::Closed { .. } => return None,
        };
        Some((fes, fei))
    }
}
