//! What a controller sends: the checks of a PDU's header that need nothing but the header and what was agreed on.

use nvme_spec::Cqe;
use nvme_spec::tcp::{
    C2hData, CapsuleResp, DATA_ALIGNMENT_UNIT, DIGEST, IcResp, MAX_DATA_ALIGNMENT, MAX_TERM_DATA, MIN_MAXH2CDATA,
    PduHeader, PduType, R2t, TermReq,
};
use zerocopy::FromBytes;

use super::{Digests, Parameters, ProtocolError};

/// The bytes of the header that all PDUs share.
pub(super) const COMMON_HEADER: usize = size_of::<PduHeader>();
/// The most bytes of a header with its digest.
pub(super) const MAX_HEADER: usize = size_of::<IcResp>() + DIGEST;

/// What a controller may send, in this state of the connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// `ICResp` has come.
    pub(super) is_ready: bool,
    pub(super) digests: Digests,
}

/// The checked common header of a PDU.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame {
    pub(super) common: PduHeader,
    /// Bytes of the header.
    header: usize,
    /// Bytes of the header's digest.
    digest: usize,
}

/// A PDU's header.
#[derive(Debug, Clone, Copy)]
pub(super) enum Pdu {
    IcResp(Parameters),
    Terminate(TermReq),
    Response(Cqe),
    Data(C2hData),
    Request(R2t),
}

impl Frame {
    /// Returns the bytes of the header, with its digest.
    #[inline]
    pub(super) const fn len(&self) -> usize {
        self.header + self.digest
    }

    /// Returns the bytes between the header and the data.
    #[inline]
    pub(super) const fn pad(&self) -> usize {
        (self.common.pdo as usize).saturating_sub(self.len())
    }
}

impl Rules {
    /// Checks what the first bytes of a PDU say.
    #[inline]
    pub(super) fn frame(self, common: PduHeader) -> Result<Frame, ProtocolError> {
        let kind = common.kind;
        let (header, has_digest) = match kind {
            PduType::CAPSULE_RESP | PduType::C2H_DATA | PduType::R2T if self.is_ready => (24, self.digests.header),
            PduType::IC_RESP if !self.is_ready => (128, false),
            PduType::C2H_TERM_REQ => (24, false),
            _ if self.is_ready => {
                return Err(ProtocolError::Kind { kind, expected: "CapsuleResp, C2HData, R2T or C2HTermReq" });
            }
            _ => return Err(ProtocolError::Kind { kind, expected: "ICResp or C2HTermReq" }),
        };
        if common.hlen != header {
            return Err(ProtocolError::HeaderLength { kind, hlen: common.hlen, expected: header });
        }
        if self.is_ready && kind != PduType::C2H_TERM_REQ && common.flags.hdgstf() != has_digest {
            return Err(ProtocolError::DigestFlag { kind, digest: "HDGSTF", expected: has_digest });
        }
        let digest = if has_digest { DIGEST } else { 0 };
        let frame = Frame { common, header: header.into(), digest };
        match kind {
            PduType::C2H_DATA => self.check_data(&frame)?,
            PduType::C2H_TERM_REQ => check_length(&frame, frame.len(), frame.len() + MAX_TERM_DATA)?,
            _ => check_length(&frame, frame.len(), frame.len())?,
        }
        Ok(frame)
    }

    #[inline]
    fn check_data(self, frame: &Frame) -> Result<(), ProtocolError> {
        let (kind, pdo) = (frame.common.kind, frame.common.pdo);
        if frame.common.flags.ddgstf() != self.digests.data {
            return Err(ProtocolError::DigestFlag { kind, digest: "DDGSTF", expected: self.digests.data });
        }
        if usize::from(pdo) < frame.len() || !usize::from(pdo).is_multiple_of(DATA_ALIGNMENT_UNIT) {
            // A header has at most 28 bytes with its digest.
            let min = u8::try_from(frame.len()).unwrap_or(u8::MAX);
            return Err(ProtocolError::DataOffset { kind, pdo, min });
        }
        Ok(())
    }

    /// Returns what a header says, which is all there with its digest.
    #[inline]
    pub(super) fn parse(self, frame: &Frame, bytes: &[u8]) -> Result<Pdu, ProtocolError> {
        let (kind, plen) = (frame.common.kind, frame.common.plen);
        let short = ProtocolError::Length { kind, plen, min: 0, max: 0 };
        let (header, digest) = bytes.split_at_checked(frame.header).ok_or(short)?;
        if frame.digest > 0 {
            let came = u32::read_from_bytes(digest).map_err(|_| short)?;
            let expected = crc32c::crc32c(header);
            if came != expected {
                return Err(ProtocolError::HeaderDigest { kind, digest: came, expected });
            }
        }
        let pdu = match kind {
            PduType::C2H_DATA => {
                let data = C2hData::read_from_bytes(header).map_err(|_| short)?;
                self.check_data_length(frame, data.datal)?;
                Pdu::Data(data)
            }
            PduType::CAPSULE_RESP => Pdu::Response(CapsuleResp::read_from_bytes(header).map_err(|_| short)?.cqe),
            PduType::R2T => Pdu::Request(R2t::read_from_bytes(header).map_err(|_| short)?),
            PduType::IC_RESP => {
                let response = IcResp::read_from_bytes(header).map_err(|_| short)?;
                Pdu::IcResp(self.parameters(&response)?)
            }
            _ => Pdu::Terminate(TermReq::read_from_bytes(header).map_err(|_| short)?),
        };
        Ok(pdu)
    }

    #[inline]
    fn check_data_length(self, frame: &Frame, datal: u32) -> Result<(), ProtocolError> {
        let digest = if self.digests.data { DIGEST as u64 } else { 0 };
        let whole = u64::from(frame.common.pdo) + u64::from(datal) + digest;
        if u64::from(frame.common.plen) == whole {
            return Ok(());
        }
        let (kind, plen, whole) = (frame.common.kind, frame.common.plen, u32::try_from(whole).unwrap_or(u32::MAX));
        Err(ProtocolError::Length { kind, plen, min: whole, max: whole })
    }

    /// Before `ICResp`, the digests of the rules are those that were asked for.
    fn parameters(self, response: &IcResp) -> Result<Parameters, ProtocolError> {
        let IcResp { pfv, cpda, dgst, maxh2cdata, .. } = *response;
        if pfv != 0 {
            return Err(ProtocolError::Version { pfv });
        }
        if cpda > MAX_DATA_ALIGNMENT {
            return Err(ProtocolError::Alignment { cpda });
        }
        if dgst.hdgst() && !self.digests.header {
            return Err(ProtocolError::DigestNotAsked { digest: "HDGST_ENABLE" });
        }
        if dgst.ddgst() && !self.digests.data {
            return Err(ProtocolError::DigestNotAsked { digest: "DDGST_ENABLE" });
        }
        if maxh2cdata < MIN_MAXH2CDATA || !maxh2cdata.is_multiple_of(4) {
            return Err(ProtocolError::MaxH2cData { maxh2cdata });
        }
        let digests = Digests { header: dgst.hdgst(), data: dgst.ddgst() };
        Ok(Parameters { digests, alignment: (u16::from(cpda) + 1) * 4, maxh2cdata })
    }
}

#[inline]
fn check_length(frame: &Frame, min: usize, max: usize) -> Result<(), ProtocolError> {
    let (kind, plen) = (frame.common.kind, frame.common.plen);
    if (min..=max).contains(&(plen as usize)) {
        return Ok(());
    }
    let [min, max] = [min, max].map(|bytes| u32::try_from(bytes).unwrap_or(u32::MAX));
    Err(ProtocolError::Length { kind, plen, min, max })
}
