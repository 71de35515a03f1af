//! The MSI-X table and its pending bit array (PCI Express Base Specification, section 7.7.2).

use super::{MAX_VECTORS, MSIX_ENTRY_SIZE};

/// The byte of an entry that holds the mask bit: the lowest of Vector Control.
const VECTOR_CONTROL: usize = 12;
const MASK_BIT: u8 = 1;

/// The table and, behind it, the pending bit array.
///
/// Interrupts leave by a client's event files, and the client (QEMU's and cloud-hypervisor's PCI layer) keeps the table
/// that the guest sees. This one is storage with the specified reset values for a client that passes accesses on.
/// Nothing is held back here, so the pending bits are always 0.
#[derive(Debug)]
pub struct MsixTable {
    entries: Vec<u8>,
}

impl MsixTable {
    /// Returns a table of `vectors` entries, held to 1..=256, all masked.
    #[must_use]
    pub fn new(vectors: u16) -> Self {
        let mut table = Self { entries: vec![0; usize::from(vectors.clamp(1, MAX_VECTORS)) * MSIX_ENTRY_SIZE] };
        table.reset();
        table
    }

    /// Back to all entries masked, and the rest 0.
    pub fn reset(&mut self) {
        for (at, byte) in self.entries.iter_mut().enumerate() {
            *byte = if at % MSIX_ENTRY_SIZE == VECTOR_CONTROL { MASK_BIT } else { 0 };
        }
    }

    /// Reads at `offset` of the area, any length. What is no entry, the pending bit array too, reads as 0.
    pub fn read(&self, offset: usize, into: &mut [u8]) {
        into.fill(0);
        for (byte, entry) in into.iter_mut().zip(self.entries.get(offset..).unwrap_or_default()) {
            *byte = *entry;
        }
    }

    /// Writes at `offset` of the area, any length. Reserved bits and what is no entry stay as they are.
    pub fn write(&mut self, offset: usize, data: &[u8]) {
        for ((at, byte), new) in self.entries.iter_mut().enumerate().skip(offset).zip(data) {
            let mask = match at % MSIX_ENTRY_SIZE {
                // The address is one of a dword.
                0 => 0xfc,
                1..VECTOR_CONTROL => 0xff,
                VECTOR_CONTROL => MASK_BIT,
                _ => 0,
            };
            *byte = *byte & !mask | new & mask;
        }
    }

    /// Returns whether the vector's mask bit is set. A vector that the table does not have counts as masked.
    #[cfg(test)]
    pub(crate) fn masked(&self, vector: u16) -> bool {
        let control = self.entries.get(usize::from(vector) * MSIX_ENTRY_SIZE + VECTOR_CONTROL);
        control.is_none_or(|control| control & MASK_BIT != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(table: &MsixTable, vector: usize) -> [u8; MSIX_ENTRY_SIZE] {
        let mut entry = [0xaa; MSIX_ENTRY_SIZE];
        table.read(vector * MSIX_ENTRY_SIZE, &mut entry);
        entry
    }

    #[test]
    fn a_new_table_is_masked_and_zero() {
        let table = MsixTable::new(129);
        for vector in 0..129 {
            assert!(table.masked(vector));
        }
        assert_eq!(entry(&table, 128), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
    }

    #[test]
    fn reserved_bits_of_an_entry_cannot_be_set() {
        let mut table = MsixTable::new(2);
        table.write(16, &[0xff; 32]);
        let ones = [0xfc, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1, 0, 0, 0];
        assert_eq!(entry(&table, 1), ones);
        assert_eq!(entry(&table, 2), [0; 16], "there is no third entry");
    }

    #[test]
    fn a_vector_is_unmasked_by_its_control_dword() {
        let mut table = MsixTable::new(4);
        table.write(2 * 16 + 12, &0u32.to_le_bytes());
        assert!(!table.masked(2) && table.masked(1) && table.masked(3));
        table.reset();
        assert!(table.masked(2));
    }

    #[test]
    fn a_vector_that_is_not_there_is_masked() {
        assert!(MsixTable::new(4).masked(4) && MsixTable::new(4).masked(u16::MAX));
    }

    #[test]
    fn the_pending_bits_read_as_zero_and_take_no_write() {
        let mut table = MsixTable::new(MAX_VECTORS);
        table.write(0x1000, &[0xff; 32]);
        let mut pending = [0xaa; 32];
        table.read(0x1000, &mut pending);
        assert_eq!(pending, [0; 32]);
    }

    proptest! {
        #[test]
        fn any_access_is_answered(
            offset in prop_oneof![0usize..0x2100, Just(usize::MAX)],
            data in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let mut table = MsixTable::new(129);
            table.write(offset, &data);
            let mut back = vec![0xaa; data.len()];
            table.read(offset, &mut back);
            for (i, (back, data)) in back.iter().zip(&data).enumerate() {
                let in_table = offset < 129 * 16 && offset + i < 129 * 16;
                prop_assert!(back & !data == 0 || (in_table && (offset + i) % 16 == 12), "a bit out of nothing");
                prop_assert!(in_table || *back == 0);
            }
        }
    }
}
