//! What changes single PDUs and bytes.

use nvme_spec::tcp::{CapsuleCmd, PduHeader, PduType};

use super::{Way, Which};
use crate::pdu;
use crate::socket::Cut;

/// A PDU that came.
#[derive(Debug, Clone, Copy)]
pub struct Pdu<'a> {
    /// The number of its connection.
    pub connection: u32,
    /// Where it goes.
    pub way: Way,
    /// What it is.
    pub kind: PduType,
    /// All of it.
    pub bytes: &'a [u8],
}

impl Pdu<'_> {
    /// Returns the opcode of a command capsule.
    #[must_use]
    pub fn opcode(&self) -> Option<u8> {
        let capsule = (self.kind == PduType::CAPSULE_CMD).then(|| pdu::read::<CapsuleCmd>(self.bytes)).flatten();
        capsule.map(|capsule| capsule.sqe.opcode)
    }
}

/// What is to be done with a PDU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Pass,
    /// Something else goes on: it, changed, or it and more.
    Replace(Vec<u8>),
    /// It is lost.
    Lose,
    /// It waits for [`super::Relay::release_held`], while others go on.
    Hold,
    /// The connection ends in its place.
    Cut(Cut),
    /// So much of it goes on, then the connection ends.
    CutInside(usize),
}

/// What is asked about each PDU.
pub(super) type Hook = Box<dyn FnMut(&Pdu<'_>) -> Verdict + Send>;

#[derive(Debug, Clone, Copy)]
enum Place {
    Stream(u64),
    Pdu(PduType, usize),
}

/// A byte that is to be changed, once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Change {
    which: Which,
    way: Way,
    place: Place,
}

impl Change {
    pub(super) fn at(which: Which, way: Way, offset: u64) -> Self {
        Self { which, way, place: Place::Stream(offset) }
    }

    pub(super) fn pdu(which: Which, way: Way, kind: PduType, offset: usize) -> Self {
        Self { which, way, place: Place::Pdu(kind, offset) }
    }

    /// Changes `bytes`, before which `before` came, if it is for these. Returns whether it was.
    pub(super) fn make(&self, number: u32, way: Way, before: u64, bytes: &mut [u8]) -> bool {
        if !self.which.has(number) || !self.way.has(way) {
            return false;
        }
        let index = match self.place {
            Place::Stream(offset) => offset.checked_sub(before).and_then(|index| usize::try_from(index).ok()),
            Place::Pdu(kind, offset) => {
                pdu::read::<PduHeader>(bytes).is_some_and(|header| header.kind == kind).then_some(offset)
            }
        };
        let Some(byte) = index.and_then(|index| bytes.get_mut(index)) else { return false };
        *byte = !*byte;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_of_the_stream_is_changed_where_it_is_and_nowhere_else() {
        let change = Change::at(Which::One(1), Way::ToHost, 10);
        let mut bytes = [0; 8];
        assert!(!change.make(0, Way::ToHost, 8, &mut bytes), "another connection");
        assert!(!change.make(1, Way::ToTarget, 8, &mut bytes), "another direction");
        assert!(!change.make(1, Way::ToHost, 0, &mut bytes), "too early");
        assert!(!change.make(1, Way::ToHost, 16, &mut bytes), "too late");
        assert_eq!(bytes, [0; 8]);
        assert!(change.make(1, Way::ToHost, 8, &mut bytes));
        assert_eq!(bytes, [0, 0, 0xff, 0, 0, 0, 0, 0]);
    }
}
