//! Tables of guest memory that newer ones have taken the place of.

use std::sync::Arc;

use guest_memory::GuestMemory;

/// So many are held before it is looked whether they are free.
const LEAST: usize = 16;

/// Tables that poll groups may still have. Each is dropped here, not where it was used last: what this thread has
/// allocated is freed under a lock that it takes, too, and a reactor would wait for it, for as long as the system runs
/// somebody else in its place.
#[derive(Debug, Default)]
pub(super) struct OldTables {
    tables: Vec<Arc<GuestMemory>>,
    /// How many of them were left when that was last looked at.
    left: usize,
}

impl OldTables {
    /// A table that is not the newest one any more.
    pub(super) fn push(&mut self, table: Arc<GuestMemory>) {
        if self.tables.len() >= LEAST + 2 * self.left {
            self.drop_free();
        }
        self.tables.push(table);
    }

    /// Those of another one.
    pub(super) fn extend(&mut self, other: Self) {
        self.tables.extend(other.tables);
    }

    /// Drops those that nobody else has.
    pub(super) fn drop_free(&mut self) {
        self.tables.retain(|table| Arc::strong_count(table) > 1);
        self.left = self.tables.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_stays_as_long_as_somebody_has_it_and_no_longer() {
        let mut tables = OldTables::default();
        let used = Arc::new(GuestMemory::new());
        tables.push(Arc::clone(&used));
        for _ in 0..1000 {
            tables.push(Arc::new(GuestMemory::new()));
        }
        assert!(tables.tables.len() <= 2 * LEAST, "{}", tables.tables.len());
        tables.drop_free();
        assert_eq!((tables.tables.len(), Arc::strong_count(&used)), (1, 2));
        let weak = Arc::downgrade(&used);
        drop(used);
        assert_eq!(weak.strong_count(), 1, "it was dropped by who used it last");
        tables.drop_free();
        assert_eq!(weak.strong_count(), 0);
    }
}
