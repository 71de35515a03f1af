//! PDUs of NVMe/TCP: their common header, how a stream is cut into them, and their digests.

use std::fmt;

use crc::{CRC_32_ISCSI, Crc};
use nvme_spec::tcp::{self, PduFlags, PduType};

/// The bytes of the header that all PDUs share.
pub const COMMON_HEADER: usize = size_of::<tcp::PduHeader>();
/// The longest PDU that is taken for one.
pub const MAX_PDU: usize = 4 << 20;
/// The bytes of an `ICReq` and of an `ICResp`.
pub const IC_LENGTH: usize = size_of::<tcp::IcReq>();
/// The bytes of a command capsule's header: the common header and the submission queue entry.
pub const CAPSULE_CMD: usize = size_of::<tcp::CapsuleCmd>();
/// The bytes of a response capsule, and of the headers of data and R2T PDUs.
pub const CAPSULE_RESP: usize = size_of::<tcp::CapsuleResp>();

/// The PDU carries a header digest.
pub const HAS_HEADER_DIGEST: u8 = PduFlags::new().with_hdgstf(true).into_bits();
/// The PDU carries a data digest.
pub const HAS_DATA_DIGEST: u8 = PduFlags::new().with_ddgstf(true).into_bits();
/// The PDU is the last of its command's data.
pub const LAST_DATA: u8 = PduFlags::new().with_last_pdu(true).into_bits();
/// The command succeeded, and no response capsule follows.
pub const DATA_SUCCESS: u8 = PduFlags::new().with_success(true).into_bits();

/// What a PDU is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kind(pub u8);

impl Kind {
    /// Initialize Connection Request.
    pub const IC_REQ: Self = Self(PduType::IC_REQ.0);
    /// Initialize Connection Response.
    pub const IC_RESP: Self = Self(PduType::IC_RESP.0);
    /// The host ends the connection for an error.
    pub const H2C_TERM_REQ: Self = Self(PduType::H2C_TERM_REQ.0);
    /// The controller ends the connection for an error.
    pub const C2H_TERM_REQ: Self = Self(PduType::C2H_TERM_REQ.0);
    /// A command.
    pub const CAPSULE_CMD: Self = Self(PduType::CAPSULE_CMD.0);
    /// A completion.
    pub const CAPSULE_RESP: Self = Self(PduType::CAPSULE_RESP.0);
    /// Data from the host.
    pub const H2C_DATA: Self = Self(PduType::H2C_DATA.0);
    /// Data from the controller.
    pub const C2H_DATA: Self = Self(PduType::C2H_DATA.0);
    /// Ready to Transfer: the controller asks for data.
    pub const R2T: Self = Self(PduType::R2T.0);
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match *self {
            Self::IC_REQ => "ICReq",
            Self::IC_RESP => "ICResp",
            Self::H2C_TERM_REQ => "H2CTermReq",
            Self::C2H_TERM_REQ => "C2HTermReq",
            Self::CAPSULE_CMD => "CapsuleCmd",
            Self::CAPSULE_RESP => "CapsuleResp",
            Self::H2C_DATA => "H2CData",
            Self::C2H_DATA => "C2HData",
            Self::R2T => "R2T",
            Self(other) => return write!(f, "PDU type {other:#04x}"),
        };
        f.write_str(name)
    }
}

/// The common header of a PDU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What it is.
    pub kind: Kind,
    /// Its flags, such as [`HAS_DATA_DIGEST`].
    pub flags: u8,
    /// The bytes of its header.
    pub hlen: u8,
    /// Where its data begins.
    pub pdo: u8,
    /// The bytes of the whole.
    pub plen: u32,
}

impl Header {
    /// Returns the header at the beginning of `bytes`, or nothing if these are too few.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let head = bytes.first_chunk::<COMMON_HEADER>()?;
        let [kind, flags, hlen, pdo, a, b, c, d] = *head;
        Some(Self { kind: Kind(kind), flags, hlen, pdo, plen: u32::from_le_bytes([a, b, c, d]) })
    }

    /// Returns the bytes of the header.
    #[must_use]
    pub fn bytes(&self) -> [u8; COMMON_HEADER] {
        let [a, b, c, d] = self.plen.to_le_bytes();
        [self.kind.0, self.flags, self.hlen, self.pdo, a, b, c, d]
    }
}

/// Cuts a stream into PDUs.
#[derive(Debug, Default)]
pub struct Splitter {
    bytes: Vec<u8>,
    raw: bool,
}

impl Splitter {
    /// Takes what has come.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Returns the next PDU. A stream that is none of NVMe/TCP is given on as it comes.
    pub fn next_pdu(&mut self) -> Option<Vec<u8>> {
        if !self.raw {
            let length = usize::try_from(Header::parse(&self.bytes)?.plen).unwrap_or(usize::MAX);
            self.raw = !(COMMON_HEADER..=MAX_PDU).contains(&length);
            if !self.raw {
                if self.bytes.len() < length {
                    return None;
                }
                let rest = self.bytes.split_off(length);
                return Some(std::mem::replace(&mut self.bytes, rest));
            }
        }
        self.rest()
    }

    /// Returns what has come of a PDU that is not whole.
    pub fn rest(&mut self) -> Option<Vec<u8>> {
        (!self.bytes.is_empty()).then(|| std::mem::take(&mut self.bytes))
    }

    /// Returns whether the stream is none of NVMe/TCP.
    #[must_use]
    pub fn is_raw(&self) -> bool {
        self.raw
    }
}

/// Returns the CRC32C of `bytes`, which is the digest of headers and data.
#[must_use]
pub fn digest(bytes: &[u8]) -> u32 {
    const CRC32C: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);
    CRC32C.checksum(bytes)
}

/// The digests of a connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Digests {
    /// Headers have one.
    pub header: bool,
    /// Data has one.
    pub data: bool,
}

/// Returns a PDU of a header, which is whole but for `pdo`, `plen` and the flags of digests, and of data. The data
/// begins at a multiple of `align` bytes.
///
/// # Panics
///
/// If it is longer than [`MAX_PDU`].
#[must_use]
pub fn build(header: &[u8], data: &[u8], digests: Digests, align: usize) -> Vec<u8> {
    let mut pdu = header.to_vec();
    let header_digest = usize::from(digests.header) * 4;
    let has_data = !data.is_empty();
    let offset = if has_data { (header.len() + header_digest).next_multiple_of(align.max(1)) } else { 0 };
    let end = if has_data { offset + data.len() } else { header.len() + header_digest };
    let length = end + usize::from(has_data && digests.data) * 4;
    assert!(length <= MAX_PDU, "a PDU of {length} bytes is too long");
    pdu[1] |= u8::from(digests.header) * HAS_HEADER_DIGEST + u8::from(has_data && digests.data) * HAS_DATA_DIGEST;
    pdu[3] = u8::try_from(offset).expect("a header is short");
    pdu[4..8].copy_from_slice(&u32::try_from(length).expect("checked above").to_le_bytes());
    if digests.header {
        let value = digest(&pdu);
        pdu.extend_from_slice(&value.to_le_bytes());
    }
    if has_data {
        pdu.resize(offset, 0);
        pdu.extend_from_slice(data);
        if digests.data {
            pdu.extend_from_slice(&digest(data).to_le_bytes());
        }
    }
    pdu
}

/// Why a PDU is not right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// Its lengths do not fit each other.
    Length,
    /// Its header digest is wrong.
    HeaderDigest,
    /// Its data digest is wrong.
    DataDigest,
}

/// Returns the data of a PDU, whose lengths and digests are checked.
///
/// # Errors
///
/// If they are wrong.
pub fn data_of(pdu: &[u8], digests: Digests) -> Result<&[u8], Wrong> {
    let header = Header::parse(pdu).ok_or(Wrong::Length)?;
    let hlen = usize::from(header.hlen);
    if digests.header {
        let value = pdu.get(hlen..hlen + 4).ok_or(Wrong::Length)?;
        if digest(&pdu[..hlen]).to_le_bytes() != value {
            return Err(Wrong::HeaderDigest);
        }
    }
    if header.pdo == 0 {
        return Ok(&[]);
    }
    let data = pdu.get(usize::from(header.pdo)..).ok_or(Wrong::Length)?;
    if !digests.data {
        return Ok(data);
    }
    let (data, value) = data.split_last_chunk::<4>().ok_or(Wrong::Length)?;
    if digest(data).to_le_bytes() == *value { Ok(data) } else { Err(Wrong::DataDigest) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(kind: Kind) -> Vec<u8> {
        let mut header = Header { kind, flags: 0, hlen: 24, pdo: 0, plen: 0 }.bytes().to_vec();
        header.resize(CAPSULE_RESP, 7);
        header
    }

    #[test]
    fn the_digest_is_crc32c() {
        // RFC 3720, B.4: 32 bytes of zeroes, and of ones.
        assert_eq!(digest(&[0; 32]), 0x8a91_36aa);
        assert_eq!(digest(&[0xff; 32]), 0x62a8_ab43);
    }

    #[test]
    fn a_stream_is_cut_into_pdus_wherever_it_is_torn() {
        let pdus = [
            build(&response(Kind::CAPSULE_RESP), &[], Digests::default(), 4),
            build(&response(Kind::C2H_DATA), &[1; 512], Digests { header: true, data: true }, 4),
        ];
        let stream = pdus.concat();
        for step in 1..stream.len() {
            let mut splitter = Splitter::default();
            let mut found = Vec::new();
            for piece in stream.chunks(step) {
                splitter.push(piece);
                found.extend(std::iter::from_fn(|| splitter.next_pdu()));
            }
            assert_eq!(found, pdus);
            assert_eq!(splitter.rest(), None);
        }
    }

    #[test]
    fn a_stream_with_an_impossible_length_is_given_on_as_it_comes() {
        let mut splitter = Splitter::default();
        splitter.push(b"GET / HTTP/1.1");
        assert_eq!(splitter.next_pdu().as_deref(), Some(b"GET / HTTP/1.1".as_slice()));
        assert!(splitter.is_raw());
    }

    #[test]
    fn data_is_found_where_it_was_put_and_a_changed_byte_is_noticed() {
        let digests = Digests { header: true, data: true };
        for align in [4, 16, 128] {
            let pdu = build(&response(Kind::C2H_DATA), &[9; 100], digests, align);
            let header = Header::parse(&pdu).expect("a header");
            assert_eq!(usize::from(header.pdo) % align, 0);
            assert_eq!(data_of(&pdu, digests), Ok([9; 100].as_slice()));
            for (at, wrong) in [(10, Wrong::HeaderDigest), (usize::from(header.pdo) + 5, Wrong::DataDigest)] {
                let mut spoilt = pdu.clone();
                spoilt[at] ^= 1;
                assert_eq!(data_of(&spoilt, digests), Err(wrong));
            }
        }
    }
}
