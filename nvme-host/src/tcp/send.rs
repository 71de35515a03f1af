//! The sending side: capsules and the data that was asked for.

use nvme_spec::command::{SglDescriptor, SglId};
use nvme_spec::tcp::{
    ADMIN_IN_CAPSULE_DATA, CapsuleCmd, DIGEST, H2cData, IcReq, MAX_TERM_DATA, PduDigests, PduFlags, PduHeader, PduType,
    TermReq,
};
use nvme_spec::{AdminOpcode, Psdt, Sqe};
use zerocopy::{Immutable, IntoBytes};

use super::command::Direction;
use super::{CAPSULE_BYTES, Chunk, ProtocolError, Slot, State, SubmitError, Wire, transfers_fill};

/// Bytes of a digest.
const DIGEST_LEN: u8 = 4;
const _: () = assert!(DIGEST_LEN as usize == DIGEST);

/// Zeroes, up to the greatest alignment.
const PADDING: [u8; 128] = [0; 128];

impl Wire {
    /// Takes a command without data. Its identifier and its data pointer are set here.
    ///
    /// # Errors
    /// There is no place for it.
    #[inline]
    pub fn submit(&mut self, sqe: Sqe) -> Result<Slot, SubmitError> {
        self.start(sqe, Direction::None, 0, false, || 0)
    }

    /// Takes a command whose data, `len` bytes, comes from the controller.
    ///
    /// # Errors
    /// There is no place for it, or the length is not of whole dwords.
    #[inline]
    pub fn submit_read(&mut self, sqe: Sqe, len: u32) -> Result<Slot, SubmitError> {
        check_len(len)?;
        self.start(sqe, Direction::ToHost, len, false, || 0)
    }

    /// Takes a command whose data, `len` bytes, goes to the controller: in the capsule, if it may, and otherwise when
    /// the controller asks for it. `crc32c` is called for the digest of all of it, if it goes in the capsule with one:
    /// the data must not change from then on.
    ///
    /// # Errors
    /// There is no place for it, or the length is not of whole dwords.
    #[inline]
    pub fn submit_write(&mut self, sqe: Sqe, len: u32, crc32c: impl FnOnce() -> u32) -> Result<Slot, SubmitError> {
        check_len(len)?;
        let is_fabrics = sqe.opcode == AdminOpcode::FABRICS.0;
        let max = if is_fabrics { ADMIN_IN_CAPSULE_DATA } else { self.options.in_capsule_data };
        self.start(sqe, Direction::FromHost, len, len <= max, crc32c)
    }

    #[inline]
    fn start(
        &mut self,
        mut sqe: Sqe,
        direction: Direction,
        len: u32,
        in_capsule: bool,
        crc32c: impl FnOnce() -> u32,
    ) -> Result<Slot, SubmitError> {
        if self.state != State::Ready {
            return Err(SubmitError::NotReady);
        }
        let Some((slot, command)) = self.table.take(direction, len) else {
            return Err(SubmitError::Full { depth: self.options.depth });
        };
        let id = if in_capsule { SglId::IN_CAPSULE } else { SglId::BY_TRANSPORT };
        [sqe.prp1, sqe.prp2] = SglDescriptor::of_bytes(id, len).into_dptr();
        sqe.flags = sqe.flags.with_psdt(Psdt::SGL_MPTR_BUFFER);
        sqe.cid = command.cid;
        if in_capsule {
            command.requested = len;
            command.done = len;
        }
        let capsule =
            CapsuleCmd { header: self.common(PduType::CAPSULE_CMD, 72, if in_capsule { len } else { 0 }), sqe };
        self.push_header(&capsule, capsule.header);
        if in_capsule {
            self.push_data(slot, 0, len, crc32c);
        }
        let end = self.output.built();
        if let Some(command) = self.table.get(slot) {
            command.end = end;
        }
        Ok(slot)
    }

    /// Puts the data that the controller has asked for into PDUs, as far as there is room; to be called before
    /// [`output`](Self::output). `crc32c` is called for the digest of each piece, if there are digests: with the
    /// command, and offset and length within its data, which must not change from then on.
    #[inline]
    pub fn build_transfers(&mut self, mut crc32c: impl FnMut(Slot, u32, u32) -> u32) {
        if self.state != State::Ready {
            return;
        }
        let most = transfers_fill(self.options.depth);
        while self.output.waiting_bytes() + CAPSULE_BYTES <= most
            && let Some((slot, piece, is_last)) = self.table.next_piece(self.parameters.maxh2cdata)
        {
            let Some(command) = self.table.get(slot) else { continue };
            let cid = command.cid;
            let mut header = self.common(PduType::H2C_DATA, 24, piece.left);
            header.flags.set_last_pdu(is_last);
            let (ttag, offset, len) = (piece.ttag, piece.offset, piece.left);
            let data = H2cData { header, cccid: cid, ttag, datao: offset, datal: len, reserved_20: [0; 4] };
            self.push_header(&data, header);
            self.push_data(slot, offset, len, || crc32c(slot, offset, len));
            let end = self.output.built();
            if let Some(command) = self.table.get(slot) {
                command.end = end;
            }
        }
    }

    /// Returns what waits to be sent, in order. Capsules without data lie side by side and are one chunk.
    pub fn output(&self) -> impl Iterator<Item = Chunk<'_>> {
        self.output.chunks()
    }

    /// Returns whether nothing waits to be sent, as far as it was built.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.output.is_empty()
    }

    /// The first `count` bytes of the output were sent.
    #[inline]
    pub fn sent(&mut self, count: usize) {
        self.output.sent(count);
    }

    /// Returns the common header of a PDU with so many bytes of data.
    #[inline]
    fn common(&self, kind: PduType, hlen: u8, data: u32) -> PduHeader {
        let digests = self.parameters.digests;
        let mut flags = PduFlags::new().with_hdgstf(digests.header);
        // At most 76 bytes.
        let header_end = hlen + if digests.header { DIGEST_LEN } else { 0 };
        if data == 0 {
            return PduHeader { kind, flags, hlen, pdo: 0, plen: header_end.into() };
        }
        flags.set_ddgstf(digests.data);
        let pdo = u16::from(header_end).next_multiple_of(self.parameters.alignment);
        let digest = if digests.data { u32::from(DIGEST_LEN) } else { 0 };
        // At most 128, and data is bounded by what the caller has in memory.
        let plen = (u32::from(pdo) + digest).saturating_add(data);
        PduHeader { kind, flags, hlen, pdo: u8::try_from(pdo).unwrap_or(u8::MAX), plen }
    }

    /// Puts a header into the output, with its digest and the padding before data.
    #[inline]
    fn push_header<T: IntoBytes + Immutable>(&mut self, header: &T, common: PduHeader) {
        let bytes = header.as_bytes();
        self.output.push(bytes);
        let mut end = bytes.len();
        if common.flags.hdgstf() {
            self.output.push(&crc32c::crc32c(bytes).to_le_bytes());
            end += DIGEST;
        }
        let pad = usize::from(common.pdo).saturating_sub(end);
        if let Some(pad) = PADDING.get(..pad).filter(|pad| !pad.is_empty()) {
            self.output.push(pad);
        }
    }

    #[inline]
    fn push_data(&mut self, slot: Slot, offset: u32, len: u32, crc32c: impl FnOnce() -> u32) {
        self.output.push_data(slot, offset, len);
        if self.parameters.digests.data {
            self.output.push(&crc32c().to_le_bytes());
        }
    }

    pub(super) fn push_ic_req(&mut self) {
        let header = PduHeader { kind: PduType::IC_REQ, hlen: 128, plen: 128, ..PduHeader::default() };
        let digests = self.options.digests;
        let request = IcReq {
            header,
            pfv: 0,
            hpda: 0,
            dgst: PduDigests::new().with_hdgst(digests.header).with_ddgst(digests.data),
            maxr2t: u32::from(self.options.max_r2t) - 1,
            reserved_16: [0; 112],
        };
        self.output.push(request.as_bytes());
    }

    /// Ends the connection: nothing more is sent but why, and that only if no PDU has been sent in part.
    #[cold]
    pub(super) fn fail(&mut self, error: ProtocolError, header: &[u8]) -> ProtocolError {
        let is_between_pdus = self.output.is_empty();
        self.output.clear();
        self.table.clear_transfers();
        self.state = State::Failed(error);
        if let Some((fes, fei)) = error.fatal_error().filter(|_| is_between_pdus) {
            let data = header.get(..MAX_TERM_DATA).unwrap_or(header);
            // At most 152.
            let plen = u32::try_from(size_of::<TermReq>() + data.len()).unwrap_or_default();
            let header = PduHeader { kind: PduType::H2C_TERM_REQ, hlen: 24, plen, ..PduHeader::default() };
            let request = TermReq { header, fes, fei: fei.to_le_bytes(), reserved_14: [0; 10] };
            self.output.push(request.as_bytes());
            self.output.push(data);
        }
        error
    }
}

#[inline]
fn check_len(len: u32) -> Result<(), SubmitError> {
    if len == 0 || !len.is_multiple_of(4) {
        return Err(SubmitError::Length { len });
    }
    Ok(())
}
