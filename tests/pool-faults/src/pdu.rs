//! PDUs of NVMe/TCP: how a stream is cut into them, and their digests. What they look like is in [`nvme_spec::tcp`].

use crc::{CRC_32_ISCSI, Crc};
use nvme_spec::tcp::{DIGEST, PduFlags, PduHeader};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// The bytes of the header that all PDUs share.
const COMMON_HEADER: usize = size_of::<PduHeader>();
/// The longest PDU that is taken for one.
const MAX_PDU: usize = 4 << 20;

/// Returns the structure at the beginning of `bytes`, or nothing if these are too few.
#[must_use]
pub fn read<T: FromBytes>(bytes: &[u8]) -> Option<T> {
    T::read_from_prefix(bytes).ok().map(|(value, _)| value)
}

/// Changes the structure at the beginning of `bytes`, if these are enough for one.
pub(crate) fn edit<T: FromBytes + IntoBytes + Immutable>(bytes: &mut [u8], edit: impl FnOnce(&mut T)) {
    if let Some(mut value) = read::<T>(bytes) {
        edit(&mut value);
        value.write_to_prefix(bytes).expect("it was read from there");
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
            let length = usize::try_from(read::<PduHeader>(&self.bytes)?.plen).unwrap_or(usize::MAX);
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

/// Returns a PDU of a header, in whose common part only the kind and the flags matter that are none of a digest, and of
/// data. The data begins at a multiple of `align` bytes.
///
/// # Panics
///
/// If it is longer than 4 MiB, or the header is longer than headers are.
#[must_use]
pub fn build<T: IntoBytes + Immutable>(header: &T, data: &[u8], digests: Digests, align: usize) -> Vec<u8> {
    let mut pdu = header.as_bytes().to_vec();
    let hlen = pdu.len();
    let header_end = hlen + usize::from(digests.header) * DIGEST;
    let has_data = !data.is_empty();
    let offset = if has_data { header_end.next_multiple_of(align.max(1)) } else { 0 };
    let end = if has_data { offset + data.len() } else { header_end };
    let length = end + usize::from(has_data && digests.data) * DIGEST;
    assert!(length <= MAX_PDU, "a PDU of {length} bytes is too long");
    edit(&mut pdu, |header: &mut PduHeader| {
        header.flags = header.flags.with_hdgstf(digests.header).with_ddgstf(has_data && digests.data);
        header.hlen = u8::try_from(hlen).expect("a header is short");
        header.pdo = u8::try_from(offset).expect("a header is short");
        header.plen = u32::try_from(length).expect("checked above");
    });
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

/// Marks a PDU of data as the last, which tells success, and makes its header digest right again.
pub(crate) fn mark_success(pdu: &mut [u8]) {
    edit(pdu, |header: &mut PduHeader| header.flags.set_success(true));
    let header: PduHeader = read(pdu).expect("a PDU has a header");
    if header.flags.hdgstf() {
        let (head, rest) = pdu.split_at_mut(header.hlen.into());
        rest[..DIGEST].copy_from_slice(&digest(head).to_le_bytes());
    }
}

/// Returns a common header of that kind, for [`build`].
#[must_use]
pub fn header(kind: nvme_spec::tcp::PduType) -> PduHeader {
    PduHeader { kind, flags: PduFlags::new(), ..PduHeader::default() }
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
    let header: PduHeader = read(pdu).ok_or(Wrong::Length)?;
    let hlen = usize::from(header.hlen);
    if digests.header {
        let value = pdu.get(hlen..hlen + DIGEST).ok_or(Wrong::Length)?;
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
    let (data, value) = data.split_last_chunk::<DIGEST>().ok_or(Wrong::Length)?;
    if digest(data).to_le_bytes() == *value { Ok(data) } else { Err(Wrong::DataDigest) }
}

#[cfg(test)]
mod tests {
    use nvme_spec::tcp::{C2hData, PduType};

    use super::*;

    fn data_header() -> C2hData {
        C2hData { header: header(PduType::C2H_DATA), cccid: 7, ..C2hData::default() }
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
            build(&data_header(), &[], Digests::default(), 4),
            build(&data_header(), &[1; 512], Digests { header: true, data: true }, 4),
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
            let pdu = build(&data_header(), &[9; 100], digests, align);
            let header: PduHeader = read(&pdu).expect("a header");
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
