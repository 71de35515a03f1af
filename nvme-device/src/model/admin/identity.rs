//! What a controller is called and how large it may get: the only things about it that an operator chooses.

use std::fmt;

use crate::model::regs::Version;

/// The most bytes of an NVMe qualified name (section 4.5).
const MAX_NQN: usize = 223;

/// The most I/O queue pairs of a controller.
pub const MAX_QUEUES: u16 = 128;

/// The most entries of an I/O queue.
pub const MAX_QUEUE_ENTRIES: u16 = 1024;

/// The largest MDTS: 1 MiB.
pub(crate) const MAX_MDTS: u8 = 8;

/// The most interrupt vectors: as many as MSI-X has (PCI Local Bus Specification 3.0, section 6.8.2.3).
pub(crate) const MAX_VECTORS: u16 = 2048;

/// Text that does not fit into the controller's identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// More bytes than the field has.
    #[error("the {field} must be at most {max} bytes long, got {len}")]
    TooLong {
        /// Which text it is.
        field: &'static str,
        /// Its length in bytes.
        len: usize,
        /// The most bytes that it may have.
        max: usize,
    },
    /// A character that the field cannot hold.
    #[error("the {field} must be printable ASCII, got {character:?} in {text:?}")]
    NotPrintable {
        /// Which text it is.
        field: &'static str,
        /// The text.
        text: String,
        /// The first character that is not allowed.
        character: char,
    },
    /// Not an NVMe qualified name.
    #[error("an NVMe qualified name must begin with \"nqn.\", got {text:?}")]
    NotQualified {
        /// The text.
        text: String,
    },
}

/// A limit out of its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{limit} must be {least} to {most}, got {value}")]
pub struct LimitsError {
    /// Which limit it is.
    pub limit: &'static str,
    /// Its value.
    pub value: u16,
    /// The least that it may be.
    pub least: u16,
    /// The most that it may be.
    pub most: u16,
}

/// Printable ASCII in a field of `N` bytes, padded with spaces (section 1.4.2).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Text<const N: usize>([u8; N]);

impl<const N: usize> Text<N> {
    /// `text` in such a field; `field` is what an error calls it.
    ///
    /// # Errors
    /// The text is too long, or not printable ASCII.
    pub fn new(field: &'static str, text: &str) -> Result<Self, IdentityError> {
        check(field, text, N)?;
        Ok(Self(padded(text, b' ')))
    }

    /// Returns the field as a host sees it.
    #[must_use]
    pub(crate) const fn as_bytes(&self) -> &[u8; N] {
        &self.0
    }
}

impl<const N: usize> fmt::Debug for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0).trim_end())
    }
}

/// An NVMe qualified name (section 4.5), in a field of 256 bytes that ends with zeroes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Nqn([u8; 256]);

impl Nqn {
    /// Returns the name `text`.
    ///
    /// # Errors
    /// The text is longer than 223 bytes, not printable ASCII, or does not begin with `nqn.`.
    pub fn new(text: &str) -> Result<Self, IdentityError> {
        check("subsystem NQN", text, MAX_NQN)?;
        if !text.starts_with("nqn.") {
            return Err(IdentityError::NotQualified { text: text.to_owned() });
        }
        Ok(Self(padded(text, 0)))
    }

    /// Returns the field as a host sees it.
    #[must_use]
    pub(crate) const fn as_bytes(&self) -> &[u8; 256] {
        &self.0
    }
}

impl fmt::Debug for Nqn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0).trim_end_matches('\0'))
    }
}

fn check(field: &'static str, text: &str, max: usize) -> Result<(), IdentityError> {
    if text.len() > max {
        return Err(IdentityError::TooLong { field, len: text.len(), max });
    }
    match text.chars().find(|character| !matches!(character, ' '..='~')) {
        Some(character) => Err(IdentityError::NotPrintable { field, text: text.to_owned(), character }),
        None => Ok(()),
    }
}

fn padded<const N: usize>(text: &str, with: u8) -> [u8; N] {
    let mut bytes = [with; N];
    for (to, from) in bytes.iter_mut().zip(text.bytes()) {
        *to = from;
    }
    bytes
}

/// Who the controller says it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The name of its NVM subsystem.
    pub subnqn: Nqn,
    /// Serial number (SN).
    pub serial_number: Text<20>,
    /// Model number (MN).
    pub model_number: Text<40>,
    /// Firmware revision (FR).
    pub firmware: Text<8>,
    /// The identifier of the device (FGUID).
    pub uuid: [u8; 16],
    /// Controller identifier, unique within the subsystem.
    pub cntlid: u16,
    /// PCI vendor identifier.
    pub vid: u16,
    /// PCI subsystem vendor identifier.
    pub ssvid: u16,
    /// The version of the specification that it says it follows.
    pub version: Version,
}

/// How large the controller may get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// I/O queue pairs: 1 to [`MAX_QUEUES`].
    pub max_queues: u16,
    /// Entries of an I/O queue: 2 to [`MAX_QUEUE_ENTRIES`] (CAP.MQES and one).
    pub max_queue_entries: u16,
    /// The largest transfer of a command, as an exponent of two in pages of 4 KiB: 1 to 8.
    pub mdts: u8,
    /// Interrupt vectors: 1 to 2048.
    pub vectors: u16,
    /// The largest Write Zeroes command, in the unit of `mdts`; 0 for as many blocks as fit into the command.
    pub wzsl: u8,
}

impl Limits {
    pub(super) fn check(self) -> Result<(), LimitsError> {
        within("the number of I/O queues", self.max_queues, 1, MAX_QUEUES)?;
        within("the depth of the I/O queues", self.max_queue_entries, 2, MAX_QUEUE_ENTRIES)?;
        within("MDTS", self.mdts.into(), 1, MAX_MDTS.into())?;
        within("the number of interrupt vectors", self.vectors, 1, MAX_VECTORS)
    }

    /// Returns the largest transfer of a command in bytes.
    pub(super) const fn mdts_bytes(self) -> u64 {
        4096 << self.mdts
    }
}

fn within(limit: &'static str, value: u16, least: u16, most: u16) -> Result<(), LimitsError> {
    if (least..=most).contains(&value) { Ok(()) } else { Err(LimitsError { limit, value, least, most }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_padded_with_spaces_and_a_name_with_zeroes() {
        let serial = Text::<8>::new("serial number", "AB 1").expect("fits");
        assert_eq!(serial.as_bytes(), b"AB 1    ");
        let nqn = Nqn::new("nqn.x").expect("valid");
        assert!(nqn.as_bytes().starts_with(b"nqn.x\0") && nqn.as_bytes().ends_with(&[0; 33]));
    }

    #[test]
    fn text_that_is_too_long_or_not_printable_is_refused_and_the_error_tells_why() {
        let error = Text::<4>::new("serial number", "12345").expect_err("too long");
        assert_eq!(error.to_string(), "the serial number must be at most 4 bytes long, got 5");
        let error = Text::<8>::new("model number", "a\tb").expect_err("a tab");
        assert_eq!(error.to_string(), "the model number must be printable ASCII, got '\\t' in \"a\\tb\"");
        assert!(matches!(Text::<8>::new("model number", "é"), Err(IdentityError::NotPrintable { .. })));
    }

    #[test]
    fn a_name_of_223_bytes_fits_and_one_of_224_does_not() {
        let text = |len| format!("nqn.{:a<1$}", "", len - 4_usize);
        assert!(Nqn::new(&text(223)).is_ok());
        assert_eq!(
            Nqn::new(&text(224)),
            Err(IdentityError::TooLong { field: "subsystem NQN", len: 224, max: MAX_NQN })
        );
        assert!(matches!(Nqn::new("iqn.x"), Err(IdentityError::NotQualified { .. })));
    }

    #[test]
    fn limits_outside_their_range_are_refused_with_the_range() {
        let good = Limits { max_queues: 128, max_queue_entries: 1024, mdts: 5, vectors: 129, wzsl: 0 };
        assert_eq!(good.check(), Ok(()));
        let error = Limits { max_queues: 129, ..good }.check().expect_err("too many");
        assert_eq!(error.to_string(), "the number of I/O queues must be 1 to 128, got 129");
        for bad in [
            Limits { max_queues: 0, ..good },
            Limits { max_queue_entries: 1, ..good },
            Limits { max_queue_entries: 1025, ..good },
            Limits { mdts: 0, ..good },
            Limits { mdts: 9, ..good },
            Limits { vectors: 0, ..good },
            Limits { vectors: 2049, ..good },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }
}
